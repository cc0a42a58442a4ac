#!/bin/bash
# A compressed dump of $PGDATABASE in $BACKUPS (/backups). It gets its name only when it is whole.
set -euo pipefail

directory="${BACKUPS:-/backups}"
file="$directory/backup-$(date +%Y%m%d-%H%M%S).sql.gz"
trap 'rm -f "$file.part"' EXIT
pg_dump | gzip >"$file.part"
gzip -t "$file.part"
mv "$file.part" "$file"
echo "Backup completed: $file"
