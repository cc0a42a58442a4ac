#!/usr/bin/env bash
# Dumps each database into a directory, compressed, and writes into backup_log how it went. Exits 1 where one failed. For
# cron, on the host:
#   30 3 * * * /path/to/homelab/backup.sh /srv/backups
#
# A dump makes its database anew, with its owner and who may connect. Back with all of that, in place of what is there:
#   gunzip -c FILE | docker exec -i postgresql psql -q -v ON_ERROR_STOP=1 -U homelab -d postgres
set -uo pipefail

directory="${1:-}"
if [ $# != 1 ] || [ ! -d "$directory" ] || [ ! -w "$directory" ]; then
    echo "Usage: backup.sh DIRECTORY (one that is there and may be written)" >&2
    exit 2
fi
# PostgreSQL's programs are those of its container; IN_CONTAINER= takes this machine's, with libpq's variables.
read -ra within <<<"${IN_CONTAINER-docker exec -i postgresql}"
postgres() { "${within[@]}" "$@"; }

dump() {
    postgres pg_dump --username homelab --create --clean --if-exists "$1" | gzip >"$2.part" &&
        gzip -t "$2.part" && mv "$2.part" "$2"
}

umask 077
failed=0
for database in homelab vikunja hedgedoc linkding navidrome; do
    file="$directory/${database}_$(date +%Y%m%d_%H%M%S).sql.gz" success=true
    if dump "$database" "$file"; then
        echo "$file"
    else
        rm -f "$file.part"
        echo "The dump of $database failed" >&2
        success=false failed=1
    fi
    postgres psql --no-psqlrc --quiet --username homelab --dbname homelab -v ON_ERROR_STOP=1 -v service="$database" \
        -v path="$file" -v success="$success" <<<"INSERT INTO backup_log (service_name, backup_type, backup_path, success)
            VALUES (:'service', 'pg_dump', :'path', :'success')" || failed=1
done
exit "$failed"
