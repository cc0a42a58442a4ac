#!/usr/bin/env bash
# Sets up Lingudesk's database server with Docker: checks what it needs, writes .env with generated secrets (an existing
# one is never touched), starts the services, waits until they are healthy, and says what to do next.
#
#   ./setup.sh [--profile development|production] [--no-start]
set -euo pipefail
# shellcheck source=scripts/stack.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/stack.sh"

# What Lingudesk's documentation asks for.
DOCKER_NEEDED=24.0 COMPOSE_NEEDED=2.20 MEMORY_NEEDED_GB=4 DISK_NEEDED_GB=50
WAIT_SECONDS="${SETUP_WAIT_SECONDS:-300}"
SERVICES="postgres pgweir minio redis backup"

usage() { fail 2 "Usage: ./setup.sh [--profile development|production] [--no-start]"; }

PROFILE='' START=yes
while [ $# != 0 ]; do
    case "$1" in
        --profile)
            [ $# -ge 2 ] || usage
            PROFILE="$2"
            shift
            ;;
        --no-start) START='' ;;
        *) usage ;;
    esac
    shift
done
case "$PROFILE" in '' | development | production) ;; *) usage ;; esac
cd "$STACK"
ENV_FILE="$STACK/.env"

at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# Everything that is missing at once, not one thing at a time.
check_programs() {
    local missing='' version
    if ! command -v docker >/dev/null; then
        missing+=$'\n'"  Docker is not installed: https://docs.docker.com/engine/install/"
    elif ! version="$(docker version --format '{{.Server.Version}}' 2>/dev/null)"; then
        missing+=$'\n'"  Docker does not answer: it is not running, or $(id -un) is not in the group docker"
    else
        at_least "$version" "$DOCKER_NEEDED" || missing+=$'\n'"  Docker is $version, $DOCKER_NEEDED is needed"
        if ! version="$(docker compose version --short 2>/dev/null)"; then
            missing+=$'\n'"  Docker's Compose plugin is not installed: https://docs.docker.com/compose/install/"
        else
            at_least "${version#v}" "$COMPOSE_NEEDED" || missing+=$'\n'"  Compose is $version, $COMPOSE_NEEDED is needed"
        fi
    fi
    [ -z "$missing" ] || fail 1 "This machine is not ready:$missing"
}

check_machine() {
    local memory_kb disk_kb setting
    memory_kb="$(sed -nE 's/^MemTotal: +([0-9]+) kB/\1/p' /proc/meminfo)"
    # A machine sold as 4 GB shows some less.
    if [ "$memory_kb" -lt $((MEMORY_NEEDED_GB * 1000000 * 95 / 100)) ]; then
        say "Note: $((memory_kb / 1000000)) GB of memory; $MEMORY_NEEDED_GB GB are the least, 8 are better"
    fi
    disk_kb="$(df -kP . | awk 'NR == 2 { print $4 }')"
    if [ "$disk_kb" -lt $((DISK_NEEDED_GB * 1000000)) ]; then
        say "Note: $((disk_kb / 1000000)) GB of disk are free; $DISK_NEEDED_GB GB are the least"
    fi
    for setting in vm.max_map_count=262144 vm.overcommit_memory=1; do
        if [ "$(cat "/proc/sys/$(tr . / <<<"${setting%=*}")" 2>/dev/null || echo 0)" -lt "${setting#*=}" ]; then
            say "Note: for best performance: sudo sysctl -w $setting"
        fi
    done
}

random() { od -An -N18 -tx1 /dev/urandom | tr -d ' \n'; }

# The public key of secrets/backup.key, which is made where it is missing: by age-keygen of this machine or of the image.
backup_recipient() {
    local key=secrets/backup.key
    mkdir -p secrets
    chmod 700 secrets
    if [ ! -f "$key" ]; then
        if command -v age-keygen >/dev/null; then
            (umask 077 && age-keygen >"$key.new" 2>/dev/null)
        else
            docker compose build --quiet backup >&2
            (umask 077 && docker compose run --rm --no-deps -T backup age-keygen >"$key.new" 2>/dev/null)
        fi || fail 1 "Making the key of the backups failed: age-keygen"
        mv "$key.new" "$key"
        say "Made $key, which opens the backups. Keep a copy elsewhere: without it no backup can be read" >&2
    fi
    sed -nE 's/^# public key: (age1[0-9a-z]+)$/\1/p' "$key"
}

# write NAME VALUE: sets a line of the new .env.
write() {
    # Values are made of letters, digits and :/._-, and need no quoting here.
    sed -i -E "s|^$1=.*|$1=$2|" "$ENV_FILE.new"
}

write_env() {
    local name recipient
    (umask 077 && cp .env.example "$ENV_FILE.new" && chmod 600 "$ENV_FILE.new")
    for name in POSTGRES_PASSWORD DB_PASSWORD ADMIN_PASSWORD MONITOR_PASSWORD MINIO_ROOT_PASSWORD REDIS_PASSWORD \
        REDIS_COMMANDER_PASSWORD GRAFANA_PASSWORD; do
        write "$name" "$(random)"
    done
    write COMPOSE_PROFILES "$PROFILE"
    if [ "$PROFILE" = production ]; then
        recipient="$(backup_recipient)"
        [ -n "$recipient" ] || fail 1 "secrets/backup.key has no line \"# public key:\", as age-keygen writes it"
        write BACKUP_AGE_RECIPIENT "$recipient"
        write CLIENT_TLS_SSLMODE require
        write CLIENT_TLS_CERT_FILE /tls/pgweir.crt
        write CLIENT_TLS_KEY_FILE /tls/pgweir.key
        write POSTGRES_SSL on
        write SERVER_TLS_SSLMODE require
        write POSTGRES_EXPORTER_SSLMODE require
        write TLS_NAME "$(hostname -f 2>/dev/null || hostname)"
        write POSTGRES_LOG_SLOWER_THAN 1s
        write POSTGRES_LOG_CONNECTIONS off
        write PGWEIR_LOG_CONNECTIONS 0
    fi
    # A name that is taken meanwhile is left alone.
    ln "$ENV_FILE.new" "$ENV_FILE" || fail 1 "$ENV_FILE appeared meanwhile; it was left as it is"
    rm -f "$ENV_FILE.new"
    say "Wrote .env for $PROFILE, with generated secrets, readable by $(id -un) alone"
}

is_open() { (exec 3<>"/dev/tcp/${BIND_ADDRESS:-127.0.0.1}/$1") 2>/dev/null; }

check_ports() {
    local port taken=''
    if [ -n "$(docker compose ps --quiet 2>/dev/null)" ]; then return; fi
    for port in "${POSTGRES_PORT:-5432}" "${PGWEIR_PORT:-6432}" "${PGWEIR_HTTP_PORT:-9930}" "${MINIO_PORT:-9000}" \
        "${MINIO_CONSOLE_PORT:-9001}" "${REDIS_PORT:-6379}"; do
        if is_open "$port"; then taken+=" $port"; fi
    done
    [ -z "$taken" ] || fail 1 "Taken by other programs:$taken. Stop them, or set other ports in .env (POSTGRES_PORT and so on)"
}

state_of() { docker inspect --format '{{.State.Health.Status}}' "lingudesk_$1" 2>/dev/null || say missing; }

wait_until_healthy() {
    local deadline=$((SECONDS + WAIT_SECONDS)) service waiting
    say "Waiting until all services are healthy (at most $WAIT_SECONDS s)"
    while true; do
        waiting=''
        for service in $SERVICES; do
            if [ "$(state_of "$service")" != healthy ]; then waiting+=" $service"; fi
        done
        [ -n "$waiting" ] || return 0
        if [ "$SECONDS" -ge "$deadline" ]; then
            for service in $waiting; do
                say "--- $service: $(state_of "$service")" >&2
                docker compose logs --tail 10 "$service" >&2 || true
            done
            fail 1 "Not healthy after $WAIT_SECONDS s:$waiting. More: docker compose logs"
        fi
        sleep 2
    done
}

next_steps() {
    local port="${PGWEIR_PORT:-6432}" address="${BIND_ADDRESS:-127.0.0.1}"
    cat <<TEXT

Lingudesk's database server runs. The passwords are in .env.

  through pgweir   psql "host=$address port=$port dbname=lingudesk_auth user=${DB_USER:-db_user}"
                   also lingudesk_credit, lingudesk_ai, lingudesk_content, lingudesk_audit
  migrations       psql "host=$address port=$port dbname=lingudesk_admin user=admin"
  pgweir's console psql "host=$address port=$port dbname=pgweir user=admin" -c "SHOW POOLS"
  MinIO            http://$address:${MINIO_CONSOLE_PORT:-9001} as ${MINIO_ROOT_USER:-admin}
  Redis            redis-cli -h $address -p ${REDIS_PORT:-6379}

Next:
  ./monitoring/health-check.sh     how everything is
  ./backup/backup.sh               a backup now; else BACKUP_SCHEDULE ("${BACKUP_SCHEDULE:-0 3 * * *}")
  ./backup/restore.sh -l           the backups there are
TEXT
    if [ "$(profile)" = production ]; then
        cat <<TEXT
  Keep a copy of secrets/backup.key elsewhere: without it no backup can be read.
  Put server.crt and server.key into secrets/ (tailscale cert), then: docker compose up keys && docker compose kill -s HUP pgweir postgres
TEXT
    else
        say "  Redis Commander: http://127.0.0.1:${REDIS_COMMANDER_PORT:-8081} as ${REDIS_COMMANDER_USER:-admin}"
    fi
    if [[ ",${COMPOSE_PROFILES:-}," == *,monitoring,* ]]; then
        say "  Prometheus: http://$address:${PROMETHEUS_PORT:-9090}, Grafana: http://$address:${GRAFANA_PORT:-3001} as admin"
    else
        say "  Prometheus and Grafana: COMPOSE_PROFILES=$(profile),monitoring in .env, then ./setup.sh again"
    fi
}

if [ -n "$START" ]; then
    check_programs
    check_machine
fi
if [ -e "$ENV_FILE" ]; then
    say ".env is there and stays as it is"
    load_env "$ENV_FILE"
    if [ -n "$PROFILE" ] && [ "$PROFILE" != "$(profile)" ]; then
        fail 1 "But it is for $(profile), not $PROFILE: set COMPOSE_PROFILES and what belongs to it by hand (.env.example)"
    fi
else
    PROFILE="${PROFILE:-development}"
    trap 'rm -f "$ENV_FILE.new"' EXIT
    write_env
    load_env "$ENV_FILE"
fi
if [ -z "$START" ]; then exit 0; fi
check_ports
docker compose up --detach --build
wait_until_healthy
if [ "$(profile)" = production ]; then
    docker compose logs --no-log-prefix production-check
fi
next_steps
