#!/usr/bin/env bash
# A throw-away PostgreSQL with Lingudesk's schemas and pgweir in front of it, until Ctrl-C.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

PORT=6432       # listen_port in config/lingudesk/pgweir.toml
HTTP_PORT=9930  # http_listen there
CONFIG=config/lingudesk/pgweir.toml

for port in $PORT $HTTP_PORT; do
    if is_open "$port"; then
        die "Port $port is taken: another pgweir or PgBouncer runs already. \`ss -ltnp 'sport = :$port'\` shows which."
    fi
done

need_postgres
need_pam
say "PostgreSQL: $("$PGBIN/postgres" --version) in $PGBIN"

say "Building pgweir in release mode (some minutes the first time)"
cargo build --release --locked --bin pgweir
PGWEIR="$TARGET/release/pgweir"

# Neither PostgreSQL nor pgweir runs as root: there, `postgres` is the user for both.
AS=()
RUN="$TARGET/run"
if [ "$(id -u)" = 0 ]; then
    id postgres >/dev/null 2>&1 || die "Started by root, this needs the user postgres, which PostgreSQL's package makes"
    AS=(setpriv --reuid=postgres --regid=postgres --init-groups)
    # A checkout below /root is closed to that user: then everything lies in /tmp.
    if ! "${AS[@]}" test -x "$TARGET"; then RUN=/tmp/pgweir-run; fi
fi

POSTGRES_PID='' PGWEIR_PID=''
ends() { [ -n "$1" ] && kill -"$2" "$1" 2>/dev/null && wait "$1" 2>/dev/null; }
clean_up() {
    trap '' INT TERM HUP
    ends "$PGWEIR_PID" QUIT || true
    ends "$POSTGRES_PID" INT || true
    rm -rf "$RUN"
}
trap clean_up EXIT
trap 'say; say "Stopping pgweir and PostgreSQL"; exit 0' INT TERM HUP

if [ -f "$RUN/data/postmaster.pid" ]; then
    # A run that was killed the hard way may have left its server.
    "${AS[@]}" "$PGBIN/pg_ctl" stop -D "$RUN/data" -m immediate -s || true
fi
rm -rf "$RUN"
mkdir -p "$RUN"
chmod 700 "$RUN"

random() { od -An -N12 -tx1 /dev/urandom | tr -d ' \n'; }
# What pgweir.toml asks the environment for.
export DB_PASSWORD="${DB_PASSWORD:-$(random)}" ADMIN_PASSWORD="${ADMIN_PASSWORD:-$(random)}"
export MONITOR_PASSWORD="${MONITOR_PASSWORD:-$(random)}" DB_USER="${DB_USER:-db_user}"
# The rest of pgweir.toml is as it says by itself.
unset POSTGRES_DB LISTEN_ADDR LISTEN_PORT HTTP_LISTEN CLIENT_TLS_SSLMODE CLIENT_TLS_CERT_FILE CLIENT_TLS_KEY_FILE \
    SERVER_TLS_SSLMODE LOG_CONNECTIONS
export PGHOST=127.0.0.1 PGPORT=5432
while is_open "$PGPORT"; do PGPORT=$((PGPORT + 1)); done
POSTGRES_PASSWORD="$(random)"

printf '%s' "$POSTGRES_PASSWORD" >"$RUN/password"
cp -r "$PGWEIR" "$CONFIG" config/lingudesk/postgresql.conf config/lingudesk/init "$RUN/"
if [ "$(id -u)" = 0 ]; then chown -R postgres: "$RUN"; fi

say "Making a PostgreSQL cluster under $RUN, on port $PGPORT"
"${AS[@]}" "$PGBIN/initdb" -D "$RUN/data" --username=postgres --pwfile="$RUN/password" --auth=scram-sha-256 \
    --encoding=UTF8 --no-locale --no-sync >"$RUN/initdb.log" 2>&1 || die "initdb failed: $(cat "$RUN/initdb.log")"
cat >>"$RUN/data/postgresql.conf" <<CONF
include '$RUN/postgresql.conf'
listen_addresses = '127.0.0.1'
port = $PGPORT
unix_socket_directories = ''
logging_collector = off
# The data is thrown away: speed over safety.
fsync = off
synchronous_commit = off
full_page_writes = off
CONF
# In sessions of their own, Ctrl-C does not reach them but this script, which ends them in their order.
setsid "${AS[@]}" "$PGBIN/postgres" -D "$RUN/data" >"$RUN/postgres.log" 2>&1 </dev/null &
POSTGRES_PID=$!
export PGPASSWORD="$POSTGRES_PASSWORD" PGUSER=postgres
for _ in $(seq 300); do
    if "$PGBIN/pg_isready" -q; then break; fi
    kill -0 "$POSTGRES_PID" 2>/dev/null || die "PostgreSQL did not start: $(cat "$RUN/postgres.log")"
    sleep 0.1
done

"$PGBIN/psql" -X -q -d postgres -c "CREATE DATABASE lingudesk"
PATH="$PGBIN:$PATH" POSTGRES_USER=postgres POSTGRES_DB=lingudesk LINGUDESK_PROFILE=development \
    config/lingudesk/init/lingudesk.sh
unset PGPASSWORD PGUSER

setsid "${AS[@]}" "$RUN/pgweir" "$RUN/pgweir.toml" >"$RUN/pgweir.log" 2>&1 </dev/null &
PGWEIR_PID=$!

# ready: whether GET /ready answers 200.
ready() {
    local status
    exec 3<>"/dev/tcp/127.0.0.1/$HTTP_PORT" || return 1
    printf 'GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
    read -r -t 5 status <&3 || status=
    exec 3>&-
    [[ "$status" == *" 200 "* ]]
}
for _ in $(seq 300); do
    if ready 2>/dev/null; then break; fi
    kill -0 "$PGWEIR_PID" 2>/dev/null || die "pgweir did not start: $(cat "$RUN/pgweir.log")"
    sleep 0.1
done
ready 2>/dev/null || die "pgweir did not become ready in 30 s: $(cat "$RUN/pgweir.log")"

cat <<TEXT

pgweir is ready. Paste one of these into another terminal:

  psql "postgresql://$DB_USER:$DB_PASSWORD@127.0.0.1:$PORT/lingudesk_auth"      schema auth, 20 servers
  psql "postgresql://$DB_USER:$DB_PASSWORD@127.0.0.1:$PORT/lingudesk_credit"    schema credit, 15
  psql "postgresql://$DB_USER:$DB_PASSWORD@127.0.0.1:$PORT/lingudesk_ai"        schema ai, 25
  psql "postgresql://$DB_USER:$DB_PASSWORD@127.0.0.1:$PORT/lingudesk_content"   schema content, 30
  psql "postgresql://$DB_USER:$DB_PASSWORD@127.0.0.1:$PORT/lingudesk_audit"     schema audit, 10
  psql "postgresql://admin:$ADMIN_PASSWORD@127.0.0.1:$PORT/lingudesk_admin"      session mode, 5

  console   psql "postgresql://admin:$ADMIN_PASSWORD@127.0.0.1:$PORT/pgweir" -c "SHOW POOLS"
  metrics   curl http://127.0.0.1:$HTTP_PORT/metrics
  logs      tail -f $RUN/pgweir.log $RUN/postgres.log

PostgreSQL itself listens on port $PGPORT. Ctrl-C stops both and removes everything.
TEXT

set +e
wait -n "$PGWEIR_PID" "$POSTGRES_PID"
status=$?
set -e
if kill -0 "$PGWEIR_PID" 2>/dev/null; then
    die "PostgreSQL ended by itself (status $status): $(tail -n 20 "$RUN/postgres.log")"
fi
die "pgweir ended by itself (status $status): $(tail -n 20 "$RUN/pgweir.log")"
