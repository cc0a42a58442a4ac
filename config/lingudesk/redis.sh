#!/bin/sh
# Starts Redis with redis.conf beside this, REDIS_PASSWORD and REDIS_MAXMEMORY. They go in by standard input: on a
# command line, everyone on the machine would read the password. Further arguments are Redis's own.
set -eu
if [ -z "${REDIS_PASSWORD:-}" ]; then
    echo "REDIS_PASSWORD is empty: ./setup.sh writes it into .env" >&2
    exit 1
fi
# Within double quotes Redis's configuration knows \" and \\.
password=$(printf '%s' "$REDIS_PASSWORD" | sed 's/[\\"]/\\&/g')
exec redis-server - "$@" <<CONF
include $(cd "$(dirname "$0")" && pwd)/redis.conf
requirepass "$password"
maxmemory ${REDIS_MAXMEMORY:-2gb}
CONF
