#!/bin/bash
# The read-only role for reports. The application's tables are made by its own migrations.
set -euo pipefail
password="$(cat "${SECRETS:-/run/secrets/cloudtolocalllm}/readonly-password")" \
    psql -v ON_ERROR_STOP=1 --no-psqlrc -q -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'SQL'
\getenv password password
CREATE ROLE readonly_user LOGIN PASSWORD :'password';
GRANT CONNECT ON DATABASE cloudtolocalllm TO readonly_user;
GRANT USAGE ON SCHEMA public TO readonly_user;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO readonly_user;
-- And on what migrations will add.
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO readonly_user;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
SQL
