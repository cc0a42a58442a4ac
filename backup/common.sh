# What backup.sh, restore.sh and maintenance.sh share; sourced by bash, never run.
# shellcheck shell=bash

# Exit codes, the same for all of them.
# shellcheck disable=SC2034 # used by those that source this
{
    FAILED=1        # for a reason that the message says
    USAGE=2
    NO_DATABASE=3   # PostgreSQL does not answer, or refuses the login
    NO_BACKUP=4     # there is none of that date or name
    DAMAGED=5       # a backup is not whole
    NO_KEY=6        # an encrypted backup, and not its key
    DISK_FULL=7
    BUSY=8          # another of them is at work
    NO_OFFSITE=9    # the backup is good and lies here, but its copy does not
}

# shellcheck source=../scripts/stack.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/stack.sh"

# enter_service NAME ARGUMENTS…: on the host of a running stack, becomes the same script inside the service `backup`,
# where PostgreSQL's programs are. STACK_INSIDE is set there, and by whoever has them himself.
enter_service() {
    local name="$1" running
    shift
    if [ -n "${STACK_INSIDE:-}" ] || ! command -v docker >/dev/null; then return 0; fi
    cd "$STACK" || exit "$FAILED"
    running="$(docker compose ps --services --status running 2>/dev/null || true)"
    grep -qx backup <<<"$running" ||
        fail "$FAILED" "The service backup does not run: docker compose up -d backup"
    exec docker compose exec -T backup "/opt/lingudesk/backup/$name" "$@"
}

settings() {
    load_env "${STACK_ENV:-$STACK/.env}"
    export PGHOST="${PGHOST:-127.0.0.1}" PGPORT="${PGPORT:-${POSTGRES_PORT:-5432}}"
    export PGUSER="${POSTGRES_USER:-postgres}" PGPASSWORD="${POSTGRES_PASSWORD:-}" PGCONNECT_TIMEOUT=10
    export PGDATABASE=postgres PGAPPNAME="lingudesk_${0##*/}"
    DATABASE="${POSTGRES_DB:-lingudesk}"
    [[ "$DATABASE" =~ ^[a-z_][a-z0-9_]{0,40}$ ]] ||
        fail "$USAGE" "POSTGRES_DB is \"$DATABASE\": small letters, digits and _ only, 41 of them at most"
    BACKUP_DIR="${BACKUP_DIR:-/backup}"
    RETENTION_DAYS="${BACKUP_RETENTION_DAYS:-7}"
    [[ "$RETENTION_DAYS" =~ ^[1-9][0-9]{0,3}$ ]] ||
        fail "$USAGE" "BACKUP_RETENTION_DAYS is \"$RETENTION_DAYS\": it must be a number of days, 1 at least"
    [ -d "$BACKUP_DIR" ] && [ -w "$BACKUP_DIR" ] ||
        fail "$FAILED" "BACKUP_DIR $BACKUP_DIR is not a directory that $(id -un 2>/dev/null || id -u) may write"
    METRICS_DIR="${METRICS_DIR:-$BACKUP_DIR}"
    # Names of backups: lingudesk_backup_20250120_030000.sql.gz, and .age behind it for an encrypted one.
    PREFIX="${DATABASE}_backup_"
    STAMP="$(date +%Y%m%d_%H%M%S)"
}

# log TEXT…: to the terminal and to backup.log.
log() {
    printf '%s\n' "$*"
    printf '%s %s: %s\n' "$(date '+%Y-%m-%d %H:%M:%S')" "${0##*/}" "$*" >>"$BACKUP_DIR/backup.log" 2>/dev/null || true
}

# log_fail CODE TEXT…: the same for the end of a script that cannot go on.
log_fail() {
    local code="$1"
    shift
    log "FAILED: $*" >/dev/null
    fail "$code" "$*"
}

# One of these scripts at a time: a restore must not swap a database that is being dumped.
lock() {
    exec 9>"$BACKUP_DIR/.lock" || fail "$FAILED" "Cannot write $BACKUP_DIR/.lock"
    flock -n 9 || fail "$BUSY" "Another backup, restore or maintenance is at work in $BACKUP_DIR"
}

# A place for small files that ends with the script.
work_directory() {
    ERRORS=''
    WORK="$(mktemp -d "${TMPDIR:-/tmp}/lingudesk.XXXXXX")" || fail "$DISK_FULL" "No room in ${TMPDIR:-/tmp}"
}

# sql DATABASE ARGUMENTS…
sql() {
    local database="$1"
    shift
    psql --no-psqlrc --quiet --no-align --tuples-only -v ON_ERROR_STOP=1 --dbname "$database" "$@"
}

need_database() {
    local told
    told="$(sql postgres -c "SELECT 1" 2>&1 >/dev/null)" && return 0
    log_fail "$NO_DATABASE" "PostgreSQL at $PGHOST:$PGPORT does not let $PGUSER in: ${told#psql: error: }"
}

# attempt COMMAND…: runs it without its output; what it complains of goes to ERRORS, and not to a file, for which there
# may be no room. In a pipe, every part must succeed.
attempt() { ERRORS="$({ set -o pipefail; "$@"; } 2>&1 >/dev/null)"; }

# The exit code for what ERRORS says.
why() {
    if grep -qi "no space left on device\|disk quota exceeded\|could not extend file" <<<"$ERRORS"; then
        say "$DISK_FULL"
    elif grep -qi "connection to server\|server closed the connection\|terminating connection\|the database system is" <<<"$ERRORS"; then
        say "$NO_DATABASE"
    elif grep -qi "no identity matched\|incorrect passphrase" <<<"$ERRORS"; then
        say "$NO_KEY"
    elif grep -qi "failed to decrypt\|malformed\|not in gzip format\|crc error\|unexpected end of file\|invalid compressed data\|parsing age header\|bad magic" <<<"$ERRORS"; then
        say "$DAMAGED"
    else
        say "$FAILED"
    fi
}

# In one line, the beginning of ERRORS.
complaints() { head -n 3 <<<"$ERRORS" | tr '\n' ' ' | cut -c1-400; }

is_encrypted() { [[ "$1" == *.age ]]; }

# open_backup FILE: its SQL.
open_backup() {
    if is_encrypted "$1"; then
        age --decrypt --identity "$BACKUP_AGE_IDENTITY" <"$1" | gzip -dc
    else
        gzip -dc <"$1"
    fi
}

need_key() {
    is_encrypted "$1" || return 0
    [ -n "${BACKUP_AGE_IDENTITY:-}" ] && [ -r "$BACKUP_AGE_IDENTITY" ] ||
        log_fail "$NO_KEY" "$1 is encrypted, and its key is not there: BACKUP_AGE_IDENTITY (\"${BACKUP_AGE_IDENTITY:-}\") must name the file with it"
}

# Reads a dump and gives its definitions alone, without the rows of its tables; how many rows of each there were goes to
# the file `counts`, with a last line `complete` where the dump has its end.
# shellcheck disable=SC2016 # awk's own $
readonly DEFINITIONS='
    in_rows { if ($0 == "\\.") { print name "\t" rows >counts; in_rows = 0 } else rows++; next }
    /^COPY .* FROM stdin;$/ {
        name = $0; sub(/^COPY /, "", name)
        # Up to the list of columns; within a quoted name, a quote is doubled.
        match(name, /^("([^"]|"")*"|[^". ]+)\.("([^"]|"")*"|[^" ]+)/)
        name = substr(name, 1, RLENGTH); rows = 0; in_rows = 1; next
    }
    /^-- PostgreSQL database dump complete$/ { complete = 1 }
    { print }
    END { if (complete && !in_rows) print "complete" >counts }
'

read_through() { open_backup "$1" | LC_ALL=C awk -v counts="$WORK/counts" "$DEFINITIONS" >"$WORK/definitions.sql"; }

# examine FILE: reads a backup to its end. Leaves its definitions in $WORK/definitions.sql and what it counted in
# $WORK/counts; fails where it is not whole.
examine() {
    local file="$1" code
    : >"$WORK/counts"
    if ! attempt read_through "$file"; then
        code="$(why)"
        if [ "$code" = "$FAILED" ]; then code="$DAMAGED"; fi
        if [ "$code" = "$NO_KEY" ]; then
            log_fail "$NO_KEY" "$file was encrypted for another key than the one in $BACKUP_AGE_IDENTITY"
        fi
        log_fail "$code" "$file cannot be read to its end: $(complaints)"
    fi
    if [ "$(tail -n 1 "$WORK/counts")" != complete ]; then
        log_fail "$DAMAGED" "$file is not whole: a dump's last line is missing"
    fi
    sed -i '$d' "$WORK/counts"
    LC_ALL=C sort -o "$WORK/counts" "$WORK/counts"
}

# The store off this machine: any that speaks S3. `off` where S3_ENDPOINT is empty.
has_offsite() { [ -n "${S3_ENDPOINT:-}" ]; }
OFFSITE="${BACKUP_BUCKET:-backups}"
s3() {
    AWS_ACCESS_KEY_ID="${S3_ACCESS_KEY:-${MINIO_ROOT_USER:-admin}}" AWS_SECRET_ACCESS_KEY="${S3_SECRET_KEY:-${MINIO_ROOT_PASSWORD:-}}" \
        AWS_DEFAULT_REGION="${S3_REGION:-us-east-1}" AWS_EC2_METADATA_DISABLED=true AWS_PAGER='' AWS_MAX_ATTEMPTS=2 \
        aws --endpoint-url "$S3_ENDPOINT" --cli-connect-timeout 10 "$@"
}
# What lies there, in $WORK/offsite: "SIZE NAME" lines.
list_offsite() { attempt list_offsite_now; }
list_offsite_now() { s3 s3 ls "s3://$OFFSITE/" | awk '{ print $3, $4 }' >"$WORK/offsite"; }

# names_of_backups: of what comes in, a name a line, only names of backups, oldest first.
names_of_backups() { grep -E "^${PREFIX}[0-9]{8}_[0-9]{6}\.sql\.gz(\.age)?$" | LC_ALL=C sort; }
local_backups() { find "$BACKUP_DIR" -maxdepth 1 -type f -printf '%f\n' | names_of_backups || true; }
