# Shared by the scripts beside it; sourced by bash, never run.
# shellcheck shell=bash

say() { printf '%s\n' "$*"; }
die() {
    printf '%s\n' "$*" >&2
    exit 1
}

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
TARGET="${CARGO_TARGET_DIR:-$PWD/target}"
mkdir -p "$TARGET"
TARGET="$(cd "$TARGET" && pwd)"
# rustup puts cargo here, but only new shells find it.
command -v cargo >/dev/null || PATH="$PATH:$HOME/.cargo/bin"
command -v cargo >/dev/null || die "cargo is not installed: pgweir is built with Rust, see https://rustup.rs"

# The directory with PostgreSQL's server programs, or nothing.
find_postgres() {
    local directory
    if [ -n "${PGBIN:-}" ] && [ -x "$PGBIN/postgres" ]; then
        say "$PGBIN"
        return
    fi
    for directory in $(ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql* 2>/dev/null | sort -rV); do
        if [ -x "$directory/postgres" ] && [ -x "$directory/initdb" ]; then
            say "$directory"
            return
        fi
    done
    directory="$(command -v postgres || true)"
    if [ -n "$directory" ]; then dirname "$(readlink -f "$directory")"; fi
}

# as_root COMMAND…: runs it as root where that is possible.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        return 1
    fi
}

# Units that systemd starts by itself, where there is systemd; it need not run.
enabled_units() { systemctl --root=/ list-unit-files --state=enabled --no-legend 2>/dev/null | cut -d' ' -f1 | sort || true; }

# apt_install PACKAGE…: without the services that packages start, now and at the next boot. A machine that runs tests is
# not asked for another PostgreSQL, Redis or Prometheus on the ports of its own.
apt_install() (
    policy=/usr/sbin/policy-rc.d before="$(enabled_units)"
    if [ ! -e "$policy" ]; then
        trap 'as_root rm -f "$policy"' EXIT
        # What Debian's scripts ask whether a service may be started: 101 is "no".
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod 755 "$policy" || exit
    fi
    as_root apt-get update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" || exit
    mapfile -t new < <(comm -13 <(printf '%s\n' "$before") <(enabled_units))
    if [ "${#new[@]}" != 0 ]; then as_root systemctl --root=/ disable "${new[@]}"; fi
)

# install_packages WHAT-FOR DEBIAN-PACKAGES [FEDORA-PACKAGES [ALPINE-PACKAGES]]
install_packages() {
    local purpose="$1" debian="$2" fedora="${3:-$2}" alpine="${4:-$2}" log="$TARGET/install.log"
    local manual="Please install it yourself (on Debian: apt-get install $debian) and run this again."
    say "Installing $purpose from the distribution, without starting any service; the log is $log"
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        die "$purpose is missing, and installing it takes root or sudo. $manual"
    fi
    # shellcheck disable=SC2086 # the lists are meant to be split
    if command -v apt-get >/dev/null; then
        apt_install $debian >"$log" 2>&1
    elif command -v dnf >/dev/null; then
        as_root dnf install -y $fedora >"$log" 2>&1
    elif command -v apk >/dev/null; then
        as_root apk add $alpine >"$log" 2>&1
    else
        die "$purpose is missing, and there is no apt-get, dnf or apk to install it with. $manual"
    fi || die "Installing $purpose failed; the end of $log: $(printf '\n'; tail -n 5 "$log"; printf '\n%s' "$manual")"
}

need_postgres() {
    if [ -z "$(find_postgres)" ]; then
        install_packages PostgreSQL "postgresql postgresql-client" "postgresql-server postgresql postgresql-contrib" \
            "postgresql postgresql-client postgresql-contrib"
    fi
    PGBIN="$(find_postgres)"
    [ -n "$PGBIN" ] || die "PostgreSQL's programs were not found: set PGBIN to the directory that holds initdb"
}

# libpam, to link with: the feature `pam` is on by default.
need_pam() {
    if ! cc -x c -shared -o /dev/null /dev/null -lpam 2>/dev/null; then
        install_packages libpam libpam0g-dev pam-devel linux-pam-dev
    fi
}

# OpenLDAP's server, for the tests.
need_slapd() {
    local program
    for program in /usr/sbin/slapd /usr/libexec/slapd /usr/lib/openldap/slapd; do
        if [ -x "$program" ]; then return; fi
    done
    install_packages "OpenLDAP's server" slapd openldap-servers "openldap openldap-back-ldif"
}

# Where distributions put programs: what lies elsewhere in PATH may be closed to the user that servers run as.
SYSTEM_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# need_commands WHAT-FOR COMMAND=PACKAGE…: installs at once the packages of all commands that are missing.
need_commands() {
    local purpose="$1" pair missing=""
    shift
    for pair in "$@"; do
        if ! PATH=$SYSTEM_PATH command -v "${pair%%=*}" >/dev/null; then missing="$missing ${pair#*=}"; fi
    done
    if [ -n "$missing" ]; then install_packages "$purpose" "${missing# }"; fi
}

# What tests/stack runs beside PostgreSQL: servers, the programs that the stack's scripts call, and their examiners.
need_stack() {
    need_commands "what the tests of the stack need" redis-server=redis-server redis-cli=redis-tools aws=awscli age=age \
        openssl=openssl curl=curl docker-compose=docker-compose shellcheck=shellcheck redis-sentinel=redis-sentinel \
        promtool=prometheus prometheus-node-exporter=prometheus-node-exporter \
        prometheus-postgres-exporter=prometheus-postgres-exporter prometheus-redis-exporter=prometheus-redis-exporter
}

# is_open PORT: whether somebody listens on 127.0.0.1:PORT.
is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Whether io_uring may be used here. io_uring_setup is call 425 on every architecture; without arguments it fails with
# EFAULT (14) where it is allowed.
has_io_uring() {
    python3 -c 'import ctypes, sys
call = ctypes.CDLL(None, use_errno=True).syscall
sys.exit(0 if call(425, 1, None) == -1 and ctypes.get_errno() == 14 else 1)'
}
