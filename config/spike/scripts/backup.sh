#!/usr/bin/env bash
# A compressed dump with its metadata beside it, verified; dumps older than RETENTION_DAYS (30) go. For cron at two:
#   0 2 * * * /path/to/spike/packages/database/scripts/backup.sh
set -euo pipefail

directory="${BACKUP_DIR:-/var/backups/spike}"
days="${RETENTION_DAYS:-30}"
export PGHOST="${PGHOST:-localhost}" PGPORT="${PGPORT:-5432}" PGUSER="${PGUSER:-postgres}" PGDATABASE="${PGDATABASE:-spike_dev}"
[[ "$days" =~ ^[0-9]+$ ]] || { echo "RETENTION_DAYS is not a number: $days" >&2; exit 2; }

umask 077
mkdir -p "$directory"
file="$directory/${PGDATABASE}_$(date +%Y%m%d_%H%M%S).sql.gz"
trap 'rm -f "$file.part"' EXIT
pg_dump --clean --if-exists --no-owner | gzip >"$file.part" || { echo "pg_dump of $PGDATABASE failed" >&2; exit 1; }
gzip -t "$file.part"
mv "$file.part" "$file"
cat >"${file%.sql.gz}.json" <<JSON
{"database": "$PGDATABASE", "file": "$(basename "$file")", "bytes": $(stat -c %s "$file"), "sha256": "$(sha256sum "$file" | cut -d' ' -f1)", "server": "$(psql -XAtc 'SHOW server_version')", "finished": "$(date -u +%FT%TZ)"}
JSON
# Only once there is a new one.
find "$directory" -maxdepth 1 -name "${PGDATABASE}_*" -mtime "+$days" -delete
echo "$file"
