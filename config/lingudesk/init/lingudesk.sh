#!/usr/bin/env bash
# Lingudesk's roles and schemas, in the empty database of a new cluster: run once, by the entry point of PostgreSQL's
# image or by `make run`. POSTGRES_USER, POSTGRES_DB and the passwords of the roles come from the environment.
set -euo pipefail

SQL="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/sql"
export DB_USER="${DB_USER:-db_user}"
for name in DB_PASSWORD ADMIN_PASSWORD MONITOR_PASSWORD; do
    if [ -z "${!name:-}" ]; then
        echo "$name is empty: ./setup.sh writes it into .env" >&2
        exit 1
    fi
done

files=(-f "$SQL/roles.sql" -f "$SQL/database.sql" -f "$SQL/schema.sql")
# Rows to look at belong to development alone.
if [ "${LINGUDESK_PROFILE:-development}" = development ]; then files+=(-f "$SQL/sample.sql"); fi

# In one transaction: a mistake leaves nothing half made behind.
psql --no-psqlrc --quiet --single-transaction -v ON_ERROR_STOP=1 \
    --username "$POSTGRES_USER" --dbname "${POSTGRES_DB:-$POSTGRES_USER}" "${files[@]}" >/dev/null

# Times of single queries, for whoever looks for slow ones. It counts for all databases, so it lives in none of them.
psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    -c "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"
