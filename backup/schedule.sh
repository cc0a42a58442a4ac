#!/usr/bin/env bash
# What the service `backup` runs: waits for the times of BACKUP_SCHEDULE, then makes a backup, and after a good one cares
# for the audit logs.
#
#   schedule.sh             until it is told to end
#   schedule.sh -n [TIME]   prints the next time after TIME (default: now), in the local zone
#
# BACKUP_SCHEDULE is a line of cron: minute, hour, day of the month, month, day of the week (0 or 7 is Sunday), each a
# `*`, a number, a range or a list of those, with `/step`. Names of months and days are not known here.
set -uo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

load_env "${STACK_ENV:-$STACK/.env}"
SCHEDULE="${BACKUP_SCHEDULE:-0 3 * * *}"

bad_schedule() { fail "$USAGE" "BACKUP_SCHEDULE \"$SCHEDULE\": $1. An example: 0 3 * * *"; }

# expand FIELD LOW HIGH: the numbers that a field stands for, between spaces.
expand() {
    local part first last step out=' ' n
    local IFS=,
    for part in $1; do
        step=1
        if [[ "$part" == */* ]]; then
            step="${part#*/}" part="${part%%/*}"
            [[ "$step" =~ ^[1-9][0-9]?$ ]] || return 1
            # `5/15` counts from 5 to the end.
            if [[ "$part" =~ ^[0-9]+$ ]]; then part="$part-$3"; fi
        fi
        case "$part" in
            '*') first="$2" last="$3" ;;
            *-*) first="${part%-*}" last="${part#*-}" ;;
            *) first="$part" last="$part" ;;
        esac
        [[ "$first" =~ ^[0-9]{1,2}$ && "$last" =~ ^[0-9]{1,2}$ ]] || return 1
        first=$((10#$first)) last=$((10#$last))
        if [ "$first" -lt "$2" ] || [ "$last" -gt "$3" ] || [ "$first" -gt "$last" ]; then return 1; fi
        for ((n = first; n <= last; n += step)); do out+="$n "; done
    done
    [ "$out" != ' ' ] && printf '%s' "$out"
}

read_schedule() {
    local fields
    set -f
    # shellcheck disable=SC2206 # split at blanks, and nothing else
    fields=($SCHEDULE)
    set +f
    [ "${#fields[@]}" = 5 ] || bad_schedule "it has ${#fields[@]} fields, not five"
    MINUTES="$(set -f; expand "${fields[0]}" 0 59)" || bad_schedule "not minutes: ${fields[0]}"
    HOURS="$(set -f; expand "${fields[1]}" 0 23)" || bad_schedule "not hours: ${fields[1]}"
    DAYS="$(set -f; expand "${fields[2]}" 1 31)" || bad_schedule "not days: ${fields[2]}"
    MONTHS="$(set -f; expand "${fields[3]}" 1 12)" || bad_schedule "not months: ${fields[3]}"
    WEEKDAYS="$(set -f; expand "${fields[4]}" 0 7)" || bad_schedule "not days of the week: ${fields[4]}"
    WEEKDAYS="${WEEKDAYS/ 7 / 0 }"
    # As in cron: where both kinds of days are restricted, either will do.
    EITHER=''
    if [ "${fields[2]}" != '*' ] && [ "${fields[4]}" != '*' ]; then EITHER=yes; fi
}

day_fits() {
    local day=no weekday=no
    [[ "$MONTHS" == *" $2 "* ]] || return 1
    if [[ "$DAYS" == *" $1 "* ]]; then day=yes; fi
    if [[ "$WEEKDAYS" == *" $3 "* ]]; then weekday=yes; fi
    if [ -n "$EITHER" ]; then [ "$day$weekday" != nono ]; else [ "$day$weekday" = yesyes ]; fi
}

# next AFTER: the first time of the schedule after this one, both in seconds since 1970.
next() {
    local noon days at date hour minute
    noon="$(date -d "$(date -d "@$1" +%Y-%m-%d) 12:00" +%s)"
    # Eight years hold every day there is, also the 29th of February; noon is noon in winter and in summer.
    for ((days = 0; days < 2923; days++)); do
        printf -v date '%(%Y-%m-%d %-d %-m %w)T' $((noon + 86400 * days))
        # shellcheck disable=SC2086 # the three numbers of the day
        day_fits ${date#* } || continue
        for hour in $HOURS; do
            for minute in $MINUTES; do
                # A time that summer time skips does not exist: `date` fails, and the next one counts.
                at="$(date -d "${date%% *} $hour:$minute" +%s 2>/dev/null)" || continue
                if [ "$at" -gt "$1" ]; then
                    say "$at"
                    return 0
                fi
            done
        done
    done
    bad_schedule "no day is ever like that"
}

read_schedule
case "${1:-}" in
    '') ;;
    -n)
        after="$(date -d "${2:-now}" +%s 2>/dev/null)" || fail "$USAGE" "\"$2\" is not a time"
        at="$(next "$after")" || exit "$USAGE"
        date -d "@$at" '+%Y-%m-%d %H:%M'
        exit 0
        ;;
    *) fail "$USAGE" "Usage: schedule.sh [-n [TIME]]" ;;
esac

HERE="$(dirname "${BASH_SOURCE[0]}")"
trap 'exit 0' INT TERM HUP
while true; do
    at="$(next "$(date +%s)")" || exit "$USAGE"
    say "The next backup begins at $(date -d "@$at" '+%Y-%m-%d %H:%M')"
    # In short steps: the clock may be set, and a machine may sleep.
    while [ "$(date +%s)" -lt "$at" ]; do
        sleep 20 &
        wait $!
    done
    if "$HERE/backup.sh"; then "$HERE/maintenance.sh"; fi
done
