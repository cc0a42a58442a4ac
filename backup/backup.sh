#!/usr/bin/env bash
# Backs up Lingudesk's database: a dump, compressed, encrypted in production, read back and verified, copied off this
# machine; then forgets what is older than BACKUP_RETENTION_DAYS. Takes no arguments. Exit codes are in common.sh.
set -uo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ $# != 0 ]; then fail "$USAGE" "Usage: backup.sh (settings come from .env)"; fi
enter_service backup.sh
settings

STARTED=$SECONDS
NAME="$PREFIX$STAMP.sql.gz" ENCRYPT=''
WORK='' PARTIAL='' SCRATCH='' KEPT=''

# metric NAME VALUE HELP
metric() {
    printf '# HELP %s %s\n# TYPE %s gauge\n%s{database="%s"} %s\n' "$1" "$3" "$1" "$1" "$DATABASE" "$2"
}

# publish STATUS: what the alerts of config/monitoring go by, for node_exporter's textfile directory; replaced in one step.
publish() {
    local file="$METRICS_DIR/backup.prom" success size
    if [ -n "$KEPT" ]; then
        success="$(date +%s)"
        size="$(stat -c %s "$BACKUP_DIR/$NAME")"
    else
        success="$(published backup_last_success_timestamp_seconds "$file")"
        size="$(published backup_size_bytes "$file")"
    fi
    {
        metric backup_last_run_timestamp_seconds "$(date +%s)" "When the last backup ended, well or not."
        metric backup_last_success_timestamp_seconds "${success:-0}" "When the last good backup ended."
        metric backup_last_exit_status "$1" "How the last backup ended: 0 is good, the others are in backup/common.sh."
        metric backup_size_bytes "${size:-0}" "Size of the last good backup."
        metric backup_duration_seconds "$((SECONDS - STARTED))" "How long the last backup took."
    } 2>/dev/null >"$file.new" && chmod 644 "$file.new" && mv "$file.new" "$file" || {
        rm -f "$file.new"
        log "Monitoring is not told of this: $file cannot be written" >&2
    }
}

# shellcheck disable=SC2317,SC2329 # run by the trap
clean_up() {
    local status=$?
    if [ -n "$SCRATCH" ]; then sql postgres -c "DROP DATABASE IF EXISTS \"$SCRATCH\" WITH (FORCE)" 2>/dev/null; fi
    if [ -n "$PARTIAL" ]; then rm -f "$PARTIAL" "$PARTIAL.contents"; fi
    if [ -n "$WORK" ]; then rm -rf "$WORK"; fi
    publish "$status"
}

encryption() {
    local wanted="${BACKUP_ENCRYPTION:-auto}"
    if [ "$wanted" = auto ]; then
        wanted=off
        if [ "$(profile)" = production ]; then wanted=on; fi
    fi
    case "$wanted" in
        off) return ;;
        on) ;;
        *) log_fail "$USAGE" "BACKUP_ENCRYPTION is \"$wanted\": it must be on, off or auto" ;;
    esac
    [ -n "${BACKUP_AGE_RECIPIENT:-}" ] ||
        log_fail "$NO_KEY" "Backups are to be encrypted, but BACKUP_AGE_RECIPIENT is empty: ./setup.sh makes a key and writes it into .env"
    [[ "$BACKUP_AGE_RECIPIENT" =~ ^age1[0-9a-z]+$ ]] ||
        log_fail "$NO_KEY" "BACKUP_AGE_RECIPIENT is not a public key of age, which begins with age1"
    ENCRYPT=yes NAME="$NAME.age"
}

# The rows of all tables as one snapshot has them, in $WORK/expected. The snapshot stays open for the dump, in a session
# of its own that lasts as long as descriptor 7.
open_snapshot() {
    local line
    mkfifo "$WORK/ask" "$WORK/answer"
    sql "$DATABASE" <"$WORK/ask" >"$WORK/answer" 2>"$WORK/errors" &
    exec 7>"$WORK/ask" 8<"$WORK/answer"
    cat >&7 <<'SQL'
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT pg_export_snapshot();
SELECT format('SELECT %L, count(*) FROM ONLY %I.%I', format('%I.%I', n.nspname, c.relname), n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1 \gexec
\echo complete
SQL
    : >"$WORK/expected"
    SNAPSHOT=''
    while IFS= read -r -u 8 line; do
        if [ "$line" = complete ]; then
            LC_ALL=C sort -o "$WORK/expected" "$WORK/expected"
            return 0
        elif [ -z "$SNAPSHOT" ]; then
            SNAPSHOT="$line"
        else
            printf '%s\t%s\n' "${line%|*}" "${line##*|}" >>"$WORK/expected"
        fi
    done
    ERRORS="$(cat "$WORK/errors")"
    log_fail "$(why)" "The tables of $DATABASE cannot be read: $(complaints)"
}

dump() {
    attempt write_dump || log_fail "$(why)" "The dump failed: $(complaints)"
}
write_dump() {
    local seal=(cat)
    if [ -n "$ENCRYPT" ]; then seal=(age --encrypt --recipient "$BACKUP_AGE_RECIPIENT"); fi
    umask 077
    pg_dump --dbname "$DATABASE" --snapshot "$SNAPSHOT" --format plain --encoding UTF8 |
        gzip -6 | "${seal[@]}" >"$PARTIAL" && sync -d "$PARTIAL"
}

# Reads the finished file as a restore would: counts its rows, and makes all it defines in a database of its own.
verify() {
    need_key "$PARTIAL"
    examine "$PARTIAL"
    if ! cmp -s "$WORK/expected" "$WORK/counts"; then
        log_fail "$DAMAGED" "The backup does not hold the rows of the database: $(diff "$WORK/expected" "$WORK/counts" | head -n 5 | tr '\n\t' '  ')"
    fi
    SCRATCH="${DATABASE}_verify_$STAMP"
    attempt make_definitions || log_fail "$(why)" "What the backup defines cannot be restored: $(complaints)"
    SCRATCH=''
}

make_definitions() {
    sql postgres -c "CREATE DATABASE \"$SCRATCH\" TEMPLATE template0 ENCODING 'UTF8'" &&
        sql "$SCRATCH" --single-transaction -f "$WORK/definitions.sql" &&
        sql postgres -c "DROP DATABASE \"$SCRATCH\" WITH (FORCE)"
}

# Beside the backup: its checksum and how many rows it has of each table.
keep() {
    {
        say "sha256 $(sha256sum <"$PARTIAL" | cut -d' ' -f1)"
        sed 's/^/rows /' "$WORK/counts"
    } >"$PARTIAL.contents" && sync -d "$PARTIAL.contents" &&
        mv "$PARTIAL.contents" "$BACKUP_DIR/$NAME.contents" && mv "$PARTIAL" "$BACKUP_DIR/$NAME" ||
        log_fail "$DISK_FULL" "No room for $NAME.contents in $BACKUP_DIR"
    PARTIAL=''
}

copy_offsite() {
    local there
    attempt s3 s3 cp --only-show-errors --recursive "$BACKUP_DIR" "s3://$OFFSITE" \
        --exclude '*' --include "$NAME" --include "$NAME.contents" || return 1
    list_offsite || return 1
    there="$(awk -v name="$NAME" '$2 == name { print $1 }' "$WORK/offsite")"
    if [ "$there" = "$(stat -c %s "$BACKUP_DIR/$NAME")" ]; then return 0; fi
    ERRORS="the copy has ${there:-no} bytes"
    return 1
}

# Of names, oldest first, those that are too old by the date they bear. The newest is never among them.
outdated() {
    local limit
    limit="$(date -d "$RETENTION_DAYS days ago" +%Y%m%d_%H%M%S)"
    head -n -1 | awk -v prefix="$PREFIX" -v limit="$limit" 'substr($0, length(prefix) + 1, 15) < limit'
}

forget() {
    local name
    while IFS= read -r name; do
        rm -f "$BACKUP_DIR/$name" "$BACKUP_DIR/$name.contents" && log "Forgot $name, older than $RETENTION_DAYS days"
    done < <(local_backups | outdated)
    # What a run that was killed left behind.
    find "$BACKUP_DIR" -maxdepth 1 -name '.partial_*' -exec rm -rf '{}' +
    has_offsite || return 0
    local names=() chosen=()
    mapfile -t names < <(cut -d' ' -f2 "$WORK/offsite" | names_of_backups | outdated)
    [ "${#names[@]}" != 0 ] || return 0
    for name in "${names[@]}"; do chosen+=(--include "$name" --include "$name.contents"); done
    if attempt s3 s3 rm --only-show-errors --recursive "s3://$OFFSITE" --exclude '*' "${chosen[@]}"; then
        log "Forgot the copies of ${names[*]}"
    else
        log "Could not forget the copies of ${names[*]}: $(complaints)"
    fi
}

lock
work_directory
trap clean_up EXIT
trap 'exit 1' INT TERM HUP
encryption
need_database
open_snapshot
PARTIAL="$BACKUP_DIR/.partial_$NAME"
dump
exec 7>&- 8<&-
verify
keep
KEPT=yes
log "Backed up $DATABASE: $BACKUP_DIR/$NAME, $(stat -c %s "$BACKUP_DIR/$NAME") bytes, $(awk -F '\t' '{ rows += $2 } END { print rows + 0 }' "$WORK/counts") rows of $(wc -l <"$WORK/counts") tables, verified"
if has_offsite; then
    # Nothing is forgotten while there is only one place.
    copy_offsite ||
        log_fail "$NO_OFFSITE" "The backup is good, but could not be copied to $OFFSITE at $S3_ENDPOINT: $(complaints)"
    log "Copied to $OFFSITE at $S3_ENDPOINT"
fi
forget
