#!/bin/sh
# Sentinel rewrites its file and wants the master's password in it: a copy in its volume has both. Arguments are Sentinel's
# own.
set -eu

: "${REDIS_PASSWORD:?is not set}"
copy="${SENTINEL_DIR:-/data}/sentinel.conf"
if [ ! -s "$copy" ]; then
    umask 077
    { cat "${SENTINEL_CONF:-/etc/redis/sentinel.conf}"; echo "sentinel auth-pass spike $REDIS_PASSWORD"; } >"$copy"
fi
exec redis-sentinel "$copy" "$@"
