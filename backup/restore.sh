#!/usr/bin/env bash
# Restores Lingudesk's database from a backup.
#
#   restore.sh -l          lists the backups here and off this machine
#   restore.sh -d DATE     restores the last one of a day, such as 20250120
#   restore.sh -f FILE     restores this file
#
# The backup is read to its end first, and restored into a new database, which takes the old one's place only when it is
# whole. The old one stays under another name. Exit codes are in common.sh.
set -uo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() { fail "$USAGE" "Usage: restore.sh -l | -d DATE (such as 20250120) | -f FILE"; }

ACTION='' CHOSEN=''
while getopts ':ld:f:' option; do
    case "$option" in
        l) [ -z "$ACTION" ] || usage; ACTION=list ;;
        d) [ -z "$ACTION" ] || usage; ACTION=date CHOSEN="$OPTARG" ;;
        f) [ -z "$ACTION" ] || usage; ACTION=file CHOSEN="$OPTARG" ;;
        *) usage ;;
    esac
done
[ -n "$ACTION" ] && [ "$OPTIND" -gt $# ] || usage
if [ "$ACTION" = date ]; then
    [[ "$CHOSEN" =~ ^[0-9]{8}$ ]] && [ "$(date -d "$CHOSEN" +%Y%m%d 2>/dev/null)" = "$CHOSEN" ] ||
        fail "$USAGE" "\"$CHOSEN\" is not a date: write it as $(date +%Y%m%d)"
fi
enter_service restore.sh "$@"
settings

FILE='' FETCHED='' WORK='' NEW='' CLOSED='' PAUSED=''

# shellcheck disable=SC2317,SC2329 # run by the trap
clean_up() {
    if [ -n "$NEW" ]; then sql postgres -c "DROP DATABASE IF EXISTS \"$NEW\" WITH (FORCE)" 2>/dev/null; fi
    if [ -n "$CLOSED" ]; then sql postgres -c "ALTER DATABASE \"$DATABASE\" ALLOW_CONNECTIONS true" 2>/dev/null; fi
    if [ -n "$PAUSED" ]; then console RESUME; fi
    if [ -n "$FETCHED" ]; then rm -rf "$FETCHED"; fi
    if [ -n "$WORK" ]; then rm -rf "$WORK"; fi
}

# describe SIZE NAME PLACE
describe() {
    local stamp="${2#"$PREFIX"}"
    stamp="${stamp%%.*}"
    printf '%s-%s-%s %s:%s:%s  %12s bytes  %-10s  %s\n' "${stamp:0:4}" "${stamp:4:2}" "${stamp:6:2}" \
        "${stamp:9:2}" "${stamp:11:2}" "${stamp:13:2}" "$1" "$3" "$2"
}

list() {
    local name size count=0
    while IFS= read -r name; do
        describe "$(stat -c %s "$BACKUP_DIR/$name")" "$name" here
        count=$((count + 1))
    done < <(local_backups)
    if has_offsite; then
        if list_offsite; then
            while read -r size name; do
                grep -qx "$name" < <(names_of_backups <<<"$name") || continue
                describe "$size" "$name" off-site
                count=$((count + 1))
            done <"$WORK/offsite"
        else
            say "What lies in $OFFSITE at $S3_ENDPOINT cannot be listed: $(complaints)" >&2
        fi
    fi
    if [ "$count" = 0 ]; then say "There are no backups in $BACKUP_DIR"; fi
}

# Sets FILE to the last backup of the day, from here or from off this machine.
find_date() {
    local name
    name="$(local_backups | grep "^$PREFIX$CHOSEN" | tail -n 1)"
    if [ -n "$name" ]; then
        FILE="$BACKUP_DIR/$name"
        return
    fi
    if has_offsite && list_offsite; then
        name="$(cut -d' ' -f2 "$WORK/offsite" | names_of_backups | grep "^$PREFIX$CHOSEN" | tail -n 1)"
        if [ -n "$name" ]; then
            fetch "$name"
            return
        fi
    elif has_offsite; then
        log "What lies in $OFFSITE at $S3_ENDPOINT cannot be listed: $(complaints)"
    fi
    log_fail "$NO_BACKUP" "There is no backup of $CHOSEN. restore.sh -l lists those there are"
}

# Where backups lie there is room for one more; in the place for small files there may be none.
fetch() {
    FETCHED="$BACKUP_DIR/.partial_fetched" FILE="$BACKUP_DIR/.partial_fetched/$1"
    attempt s3 s3 cp --only-show-errors --recursive "s3://$OFFSITE" "$FETCHED" --exclude '*' --include "$1" --include "$1.contents" ||
        log_fail "$(why)" "Fetching $1 from $OFFSITE failed: $(complaints)"
    log "Fetched $1 from $OFFSITE at $S3_ENDPOINT"
}

find_file() {
    FILE="$CHOSEN"
    # A name alone is looked for where backups lie.
    if [ ! -e "$FILE" ] && [[ "$FILE" != */* ]]; then FILE="$BACKUP_DIR/$FILE"; fi
    [ -f "$FILE" ] && [ -r "$FILE" ] || log_fail "$NO_BACKUP" "There is no backup $CHOSEN. restore.sh -l lists those there are"
}

# What the backup's own list of contents says, before any of it is believed.
check_contents() {
    local contents="$FILE.contents" sum
    need_key "$FILE"
    if [ -f "$contents" ]; then
        sum="$(sed -n 's/^sha256 //p' "$contents")"
        [ "$(sha256sum <"$FILE" | cut -d' ' -f1)" = "$sum" ] ||
            log_fail "$DAMAGED" "$FILE is damaged: its checksum is not the one in $contents"
    else
        log "$FILE has no list of contents beside it; it is judged by itself"
    fi
    examine "$FILE"
    if [ -f "$contents" ] && ! cmp -s <(sed -n 's/^rows //p' "$contents") "$WORK/counts"; then
        log_fail "$DAMAGED" "$FILE does not hold the rows that $contents names"
    fi
}

restore() {
    NEW="${DATABASE}_restore_$STAMP"
    attempt sql postgres -c "CREATE DATABASE \"$NEW\" TEMPLATE template0 ENCODING 'UTF8'" ||
        log_fail "$(why)" "A new database cannot be made: $(complaints)"
    attempt load || log_fail "$(why)" "The restore failed, $DATABASE is as it was: $(complaints)"
    count_rows
    cmp -s "$WORK/counts" "$WORK/restored" ||
        log_fail "$FAILED" "The restored database does not hold the rows of the backup; $DATABASE is as it was"
}

# What breaks off is never committed: the end of the transaction is sent after the end of the file alone.
load() {
    { open_backup "$FILE" && say "COMMIT;"; } | sql "$NEW" -c "BEGIN" -f - && sql "$NEW" -f "$GRANTS" -c "ANALYZE"
}

count_rows() {
    awk -F '\t' '{ gsub(/\047/, "\047\047", $1); t = $1
        printf "SELECT \047%s\047 || E\047\\t\047 || count(*) FROM ONLY %s;\n", t, $1 }' "$WORK/counts" >"$WORK/count.sql"
    sql "$NEW" -f "$WORK/count.sql" | LC_ALL=C sort >"$WORK/restored"
}

# console COMMAND: on pgweir's console, where there is one.
console() {
    PGUSER=admin PGPASSWORD="${ADMIN_PASSWORD:-}" timeout 15 psql --no-psqlrc --quiet \
        --host "$PGWEIR_HOST" --port "${PGWEIR_PORT:-6432}" --dbname pgweir -c "$1" >/dev/null 2>&1
}

rename() {
    sql postgres <<SQL
ALTER DATABASE "$DATABASE" ALLOW_CONNECTIONS false;
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname IN ('$DATABASE', '$NEW');
BEGIN;
ALTER DATABASE "$DATABASE" RENAME TO "$1";
ALTER DATABASE "$NEW" RENAME TO "$DATABASE";
COMMIT;
SQL
}

# The new database takes the old one's name, in one transaction. Clients of pgweir wait meanwhile; others are cut off.
swap() {
    local old="${DATABASE}_before_$STAMP" exists
    exists="$(sql postgres -c "SELECT 1 FROM pg_database WHERE datname = '$DATABASE'")"
    if [ -n "${PGWEIR_HOST:-}" ]; then
        PAUSED=yes
        console PAUSE || log "pgweir at $PGWEIR_HOST was not paused: clients may see an error"
    fi
    if [ -n "$exists" ]; then
        CLOSED=yes
        attempt rename "$old" ||
            log_fail "$(why)" "$DATABASE cannot be put aside, it is as it was: $(complaints)"
        CLOSED='' NEW=''
        sql postgres -c "ALTER DATABASE \"$old\" ALLOW_CONNECTIONS true"
    else
        attempt sql postgres -c "ALTER DATABASE \"$NEW\" RENAME TO \"$DATABASE\"" ||
            log_fail "$(why)" "The restored database cannot get its name: $(complaints)"
        NEW='' old=''
    fi
    log "Restored $DATABASE from $FILE: $(awk -F '\t' '{ rows += $2 } END { print rows + 0 }' "$WORK/counts") rows of $(wc -l <"$WORK/counts") tables"
    if [ -n "$old" ]; then
        log "What was there before is the database $old. When nothing of it is missed: DROP DATABASE \"$old\";"
    fi
}

GRANTS="${RESTORE_GRANTS:-$STACK/config/lingudesk/init/sql/database.sql}"
if [ "$ACTION" != list ]; then lock; fi
work_directory
trap clean_up EXIT
trap 'exit 1' INT TERM HUP
case "$ACTION" in
    list)
        list
        exit 0
        ;;
    date) find_date ;;
    file) find_file ;;
esac
check_contents
need_database
restore
swap
