#!/usr/bin/env bash
# One database and one user of the same name for each service, with the password of its secret file. Full rights there
# and none elsewhere.
set -euo pipefail

secrets="${SECRETS:-/run/secrets}"
for service in vikunja hedgedoc linkding navidrome; do
    file="$secrets/${service}_password"
    [ -s "$file" ] || { echo "$file is missing or empty" >&2; exit 1; }
    # The password reaches psql in a variable of the environment: not on a command line, which others can read.
    password="$(cat "$file")" psql -v ON_ERROR_STOP=1 --no-psqlrc -q -U "$POSTGRES_USER" -d postgres -v service="$service" <<'SQL'
\getenv password password
CREATE ROLE :"service" LOGIN PASSWORD :'password';
CREATE DATABASE :"service" OWNER :"service";
REVOKE ALL ON DATABASE :"service" FROM PUBLIC;
GRANT ALL PRIVILEGES ON DATABASE :"service" TO :"service";
\connect :"service"
ALTER SCHEMA public OWNER TO :"service";
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT ALL ON SCHEMA public TO :"service";
SQL
done
psql -v ON_ERROR_STOP=1 --no-psqlrc -q -U "$POSTGRES_USER" -d "$POSTGRES_DB" \
    -c "REVOKE ALL ON DATABASE $POSTGRES_DB FROM PUBLIC"
