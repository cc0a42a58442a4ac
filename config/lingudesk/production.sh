#!/usr/bin/env bash
# Whether the environment keeps what the profile `production` promises; tells everything that is missing, and exits 1.
set -uo pipefail

MISSING=0
must() {
    local what="$1"
    shift
    if ! "$@"; then
        printf '%s\n' "$what" >&2
        MISSING=1
    fi
}
must "COMPOSE_PROFILES must be production, or production,monitoring: development adds tools that show data" \
    grep -qxE 'production(,monitoring)?|monitoring,production' <<<"${COMPOSE_PROFILES:-}"
must "CLIENT_TLS_SSLMODE must be require: pgweir would take logins in the clear" [ "${CLIENT_TLS_SSLMODE:-}" = require ]
must "POSTGRES_SSL must be on" [ "${POSTGRES_SSL:-}" = on ]
must "SERVER_TLS_SSLMODE must be require, verify-ca or verify-full: pgweir would talk to PostgreSQL in the clear" \
    grep -qxE 'require|verify-ca|verify-full' <<<"${SERVER_TLS_SSLMODE:-}"
if [[ "${COMPOSE_PROFILES:-}" == *monitoring* ]]; then
    must "POSTGRES_EXPORTER_SSLMODE must be require, verify-ca or verify-full: postgres-exporter would log in in the clear" \
        grep -qxE 'require|verify-ca|verify-full' <<<"${POSTGRES_EXPORTER_SSLMODE:-}"
    must "GRAFANA_PASSWORD must not be empty: \"admin\" would let anyone in" [ -n "${GRAFANA_PASSWORD:-}" ]
fi
must "BACKUP_ENCRYPTION must not be off" [ "${BACKUP_ENCRYPTION:-auto}" != off ]
must "BACKUP_AGE_RECIPIENT must be the public key that backups are encrypted for" \
    grep -qE '^age1[0-9a-z]+$' <<<"${BACKUP_AGE_RECIPIENT:-}"
if [ "$MISSING" != 0 ]; then
    echo "./setup.sh --profile production writes a .env with all of it; change the existing one by hand" >&2
    exit 1
fi
echo "The settings are those of production"
