#!/usr/bin/env bash
# Lays secrets where their users, and nobody else, may read them: in production the certificate that an operator put
# into `secrets` (server.crt and server.key, as `tailscale cert` writes them) for pgweir and for PostgreSQL, each with
# a key of its own, and the key that opens backups (backup.key). Without a certificate it makes a self-signed one for
# TLS_NAME, so that connections are encrypted from the first start.
set -euo pipefail

SECRETS="${SECRETS:-/secrets}" TLS="${TLS:-/tls}" KEYS="${KEYS:-/keys}" NAME="${TLS_NAME:-localhost}"

# lay FILE TARGET MODE OWNER: replaces the target in one step.
lay() {
    cp "$1" "$2.new"
    chmod "$3" "$2.new"
    if [ "$(id -u)" = 0 ]; then chown "$4" "$2.new"; fi
    mv "$2.new" "$2"
}

if [ -f "$SECRETS/backup.key" ]; then lay "$SECRETS/backup.key" "$KEYS/backup.key" 600 "${POSTGRES_OWNER:-999:999}"; fi

if [ "${CLIENT_TLS_SSLMODE:-disable}" = disable ] && [ "${POSTGRES_SSL:-off}" = off ]; then
    echo "TLS is off"
    exit 0
fi

if [ -f "$SECRETS/server.crt" ] && [ -f "$SECRETS/server.key" ]; then
    certificate="$SECRETS/server.crt" key="$SECRETS/server.key"
    if [ "$(openssl x509 -in "$certificate" -noout -pubkey)" != "$(openssl pkey -in "$key" -pubout)" ]; then
        echo "server.key is not the key of server.crt" >&2
        exit 1
    fi
    echo "Certificate: $(openssl x509 -in "$certificate" -noout -subject -enddate | tr '\n' ' ')"
else
    certificate="$TLS/self-signed.crt" key="$TLS/self-signed.key"
    # Kept as long as it lasts another month: whoever trusts it need not be told again.
    if ! openssl x509 -in "$certificate" -noout -checkend 2592000 >/dev/null 2>&1; then
        (umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=$NAME" \
            -addext "subjectAltName=DNS:$NAME,DNS:pgweir,DNS:postgres,DNS:localhost,IP:127.0.0.1" \
            -keyout "$key" -out "$certificate" 2>/dev/null)
    fi
    echo "There is no server.crt in secrets: a self-signed certificate for $NAME is used, which clients cannot verify"
fi
lay "$certificate" "$TLS/pgweir.crt" 644 "${PGWEIR_OWNER:-998:996}"
lay "$key" "$TLS/pgweir.key" 600 "${PGWEIR_OWNER:-998:996}"
lay "$certificate" "$TLS/postgres.crt" 644 "${POSTGRES_OWNER:-999:999}"
lay "$key" "$TLS/postgres.key" 600 "${POSTGRES_OWNER:-999:999}"
