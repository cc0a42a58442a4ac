#!/usr/bin/env bash
# pgweir laid out by what runs often (profile-guided optimization): target/pgo/pgweir.
#
# Built with the profile `shipped` three times over: once with counters, which a load of all kinds over both drivers
# runs through, and once more by what they say.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SECONDS_EACH="${PGO_SECONDS:-2}" # of each kind of load
HOST="$(rustc -vV | sed -n 's/^host: //p')"
LLVM="$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')"

# The tool must be of the compiler's own LLVM: profiles have another format in each.
MERGE=''
for tool in "$(rustc --print sysroot)/lib/rustlib/$HOST/bin/llvm-profdata" "llvm-profdata-$LLVM"; do
    if command -v "$tool" >/dev/null; then MERGE="$tool" && break; fi
done
[ -n "$MERGE" ] || die "llvm-profdata $LLVM is missing: rustup component add llvm-tools, or apt-get install llvm-$LLVM"

command -v openssl >/dev/null || die "openssl is missing, which makes the certificate for the load: apt-get install openssl"
need_postgres
need_pam
# Neither PostgreSQL nor pgweir runs as root.
AS=()
if [ "$(id -u)" = 0 ]; then AS=(setpriv --reuid=postgres --regid=postgres --init-groups); fi

RUN="$(mktemp -d /tmp/pgweir-pgo.XXXXXX)"
POSTGRES_PID='' PGWEIR_PID=''
ends() { [ -n "$1" ] && kill -"$2" "$1" 2>/dev/null && wait "$1" 2>/dev/null; }
clean_up() {
    ends "$PGWEIR_PID" QUIT || true
    ends "$POSTGRES_PID" INT || true
    rm -rf "$RUN"
}
trap clean_up EXIT
mkdir "$RUN/profiles"
if [ "$(id -u)" = 0 ]; then chown -R postgres "$RUN"; fi

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
# until_answers PORT
until_answers() {
    local _
    for _ in $(seq 100); do
        if "$PGBIN/pg_isready" -q -h 127.0.0.1 -p "$1"; then return; fi
        sleep 0.1
    done
    die "nobody answers on port $1; the end of $RUN/log: $(tail -n 5 "$RUN/log")"
}

# build FLAGS PROGRAM: the program built with these.
build() {
    # Cargo does not know what a profile says: nothing of an earlier build is to be taken for up to date.
    rm -rf "${TARGET:?}/pgo/$HOST"
    RUSTFLAGS="$1" CARGO_TARGET_DIR="$TARGET/pgo" cargo build --locked --profile shipped --target "$HOST" --bin pgweir
    cp "$TARGET/pgo/$HOST/shipped/pgweir" "$2"
    chmod 755 "$2"
}

# load_disable PORT: what clients of all kinds do, without TLS.
load_disable() {
    local mode clients at=(-h 127.0.0.1 -p "$1" -U pgo)
    for mode in simple extended prepared; do
        for clients in 1 8 64; do
            "$PGBIN/pgbench" "${at[@]}" -n -S -M "$mode" -c "$clients" -j 2 -T "$SECONDS_EACH" postgres
        done
    done
    "$PGBIN/pgbench" "${at[@]}" -n -M prepared -c 8 -j 2 -T "$SECONDS_EACH" postgres
    "$PGBIN/pgbench" "${at[@]}" -n -S -C -c 8 -j 2 -T "$SECONDS_EACH" postgres
    PGPASSWORD=secret "$PGBIN/pgbench" "${at[@]}" -U scram -n -S -C -c 8 -j 2 -T "$SECONDS_EACH" postgres
    "$PGBIN/psql" "${at[@]}" -Xq -v ON_ERROR_STOP=1 postgres <<'SQL'
CREATE TABLE rows AS SELECT repeat('x', 1000) AS text FROM generate_series(1, 100000);
\copy rows TO rows
\copy rows FROM rows
SELECT repeat('x', 10000000) \g /dev/null
SELECT text FROM rows LIMIT 10000 \g /dev/null
DROP TABLE rows;
SQL
}

# load_require PORT: the same in short, over TLS on both sides.
load_require() {
    local mode at=(-h 127.0.0.1 -p "$1" -U pgo)
    for mode in simple prepared; do
        "$PGBIN/pgbench" "${at[@]}" -n -S -M "$mode" -c 8 -j 2 -T "$SECONDS_EACH" postgres
    done
    "$PGBIN/pgbench" "${at[@]}" -n -S -C -c 8 -j 2 -T "$SECONDS_EACH" postgres
    "$PGBIN/psql" "${at[@]}" -Xqc "SELECT repeat('x', 1000) FROM generate_series(1, 10000)" -o /dev/null postgres
}

say "Building with counters"
build "-Cprofile-generate=$RUN/profiles" "$RUN/counting"

say "PostgreSQL: $("$PGBIN/postgres" --version) in $PGBIN"
cd "$RUN"
"${AS[@]}" "$PGBIN/initdb" -D "$RUN/data" -U pgo -A trust -N >"$RUN/log" 2>&1
POSTGRES_PORT="$(free_port)"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 2 \
    -keyout "$RUN/key.pem" -out "$RUN/certificate.pem" >>"$RUN/log" 2>&1
printf '"pgo" ""\n"scram" "secret"\n' >"$RUN/users"
printf 'host all pgo 127.0.0.1/32 trust\nhost all scram 127.0.0.1/32 scram-sha-256\n' >"$RUN/hba"
if [ "$(id -u)" = 0 ]; then chown postgres "$RUN"/*.pem "$RUN/users" "$RUN/hba"; fi
chmod 600 "$RUN/key.pem"
"${AS[@]}" "$PGBIN/postgres" -D "$RUN/data" -p "$POSTGRES_PORT" -k "$RUN" -c fsync=off \
    -c ssl=on -c ssl_cert_file="$RUN/certificate.pem" -c ssl_key_file="$RUN/key.pem" >>"$RUN/log" 2>&1 &
POSTGRES_PID=$!
until_answers "$POSTGRES_PORT"
"$PGBIN/pgbench" -h 127.0.0.1 -p "$POSTGRES_PORT" -U pgo -i -q postgres >>"$RUN/log" 2>&1

DRIVERS=(tokio)
if has_io_uring; then
    DRIVERS+=(io_uring)
else
    say "No load over io_uring, the kernel has none or forbids it: that will be slower than without a profile"
fi
for run in "${DRIVERS[@]/%/:disable}" "${DRIVERS[@]/%/:require}"; do
    driver="${run%:*}" sslmode="${run#*:}"
    say "Running a load over $driver, sslmode=$sslmode"
    PORT="$(free_port)"
    cat >"$RUN/pgweir.ini" <<INI
[databases]
postgres = host=127.0.0.1 port=$POSTGRES_PORT user=pgo
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $PORT
unix_socket_dir =
auth_type = hba
auth_hba_file = $RUN/hba
auth_file = $RUN/users
client_tls_sslmode = allow
client_tls_cert_file = $RUN/certificate.pem
client_tls_key_file = $RUN/key.pem
server_tls_sslmode = $sslmode
pool_mode = transaction
relay_driver = $driver
INI
    "${AS[@]}" "$RUN/counting" "$RUN/pgweir.ini" >>"$RUN/log" 2>&1 &
    PGWEIR_PID=$!
    until_answers "$PORT"
    # libpq asks for TLS by itself.
    PGSSLMODE="$sslmode" "load_$sslmode" "$PORT" >>"$RUN/log" 2>&1 || die "the load failed; the end of its log: $(tail -n 5 "$RUN/log")"
    # It writes what it counted when it ends.
    ends "$PGWEIR_PID" QUIT || true
    PGWEIR_PID=''
done
cd "$OLDPWD"

"$MERGE" merge -o "$TARGET/pgo/profile" "$RUN/profiles"
say "Building by what was counted"
build "-Cprofile-use=$TARGET/pgo/profile" "$TARGET/pgo/pgweir"
say "$TARGET/pgo/pgweir"
