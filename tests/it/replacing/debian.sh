#!/usr/bin/env bash
# A machine with Debian's PgBouncer in use, then pgweir in its place, then PgBouncer again: by the README's own lines.
#
#   debian.sh PACKAGES SOCKETS PORT THERE BACK
#     PACKAGES   directory with Debian's package and what it needs
#     SOCKETS    directory of PostgreSQL's unix socket, PORT its port
#     THERE      file with the lines that put pgweir in PgBouncer's place, BACK with those that undo it
#
# Runs as root in mount, network and process namespaces of its own: what it installs and writes is in memory and gone
# with it. Prints `ok …` for every step.
set -euo pipefail
packages=$1 sockets=$2 port=$3 there=$4 back=$5
step() { echo "ok $*"; }
die() { echo "failed: $*"; cat /var/log/postgresql/pgbouncer.log; exit 1; }

ip link set lo up
mount -t tmpfs -o mode=755 tmpfs /mnt
for place in etc usr var; do
    mkdir -p "/mnt/$place/upper" "/mnt/$place/work"
    mount -t overlay -o "lowerdir=/$place,upperdir=/mnt/$place/upper,workdir=/mnt/$place/work" overlay "/$place"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
# Images of containers forbid that services start.
rm -f /usr/sbin/policy-rc.d
command -v sudo >/dev/null || install -m 755 /dev/stdin /usr/local/bin/sudo <<<'#!/bin/sh
if [ "$1" = -u ]; then
    user=$2
    shift 2
    exec setpriv --reuid="$user" --regid="$user" --init-groups "$@"
fi
exec "$@"'

dpkg --no-triggers --force-confmiss --force-confold -i "$packages"/*.deb >/mnt/dpkg.log 2>&1 || { cat /mnt/dpkg.log; exit 1; }
step "Debian's package is installed"

# What an administrator writes into its files.
cd /etc/pgbouncer
sed -i "s|^\[databases\]|&\napp = host=$sockets port=$port|; s|^\[pgbouncer\]|&\nadmin_users = admin|" pgbouncer.ini
printf '"app" "app-secret"\n"admin" "admin-secret"\n' >>userlist.txt
sha256sum pgbouncer.ini userlist.txt >/mnt/files
stat -c '%U:%G %a %n' . pgbouncer.ini userlist.txt >/mnt/owners
cd - >/dev/null

ask() { psql -XAt -v ON_ERROR_STOP=1 "host=$1 port=6432 user=$2 password=$2-secret dbname=$3 connect_timeout=10" -c "$4"; }
pid() { cat /var/run/postgresql/pgbouncer.pid; }

# in_service VERSION: all that people and their scripts see of the service.
# Debian's init script returns before PgBouncer has written its pid file, and before it has ended.
soon() {
    local _
    for _ in $(seq 100); do
        if "$@"; then return 0; fi
        sleep 0.1
    done
    return 1
}
is_up() { service pgbouncer status >/dev/null; }
is_gone() { ! pgrep --exact pgbouncer; }

in_service() {
    soon is_up || die "the service is down"
    [ "$(ask localhost app app 'SELECT current_user')" = app ] || die "no answer over TCP"
    [ "$(ask /var/run/postgresql app app 'SELECT 40 + 2')" = 42 ] || die "no answer over the unix socket"
    ! ask localhost nobody app 'SELECT 1' 2>/dev/null || die "a stranger came in"
    [[ "$(ask localhost admin pgbouncer 'SHOW VERSION')" == "PgBouncer $1"* ]] || die "not version $1"
    [[ "$(/usr/sbin/pgbouncer --version)" == "PgBouncer $1"* ]] || die "not version $1"
    [ "$(stat -c %U "/proc/$(pid)")" = postgres ] || die "not the service's user"
    [ "$(pgrep --exact pgbouncer)" = "$(pid)" ] || die "not the service's name: $(cat "/proc/$(pid)/comm")"
    grep -q "process up: PgBouncer $1" /var/log/postgresql/pgbouncer.log || die "nothing in the log"
    step "$1 is in service"
}

# reloads: the service takes a changed file, and is as before when the change is undone.
reloads() {
    local before
    before=$(pid)
    ! ask localhost app added 'SELECT 1' 2>/dev/null || die "the database is there before it was added"
    cp -p /etc/pgbouncer/pgbouncer.ini /mnt/pgbouncer.ini
    sed -i "s|^\[databases\]|&\nadded = host=$sockets port=$port dbname=app|" /etc/pgbouncer/pgbouncer.ini
    service pgbouncer reload >/dev/null || die "no reload"
    until ask localhost app added 'SELECT 1' >/dev/null 2>&1; do sleep 0.1; done
    cp -p /mnt/pgbouncer.ini /etc/pgbouncer/pgbouncer.ini
    service pgbouncer reload >/dev/null
    [ "$(pid)" = "$before" ] || die "a reload made a new process"
    step "reloaded"
}

# unchanged: the administrator's files are as they were.
unchanged() {
    (cd /etc/pgbouncer && sha256sum --quiet -c /mnt/files && stat -c '%U:%G %a %n' . pgbouncer.ini userlist.txt | cmp - /mnt/owners) ||
        die "the files have changed"
    step "the files are as they were"
}

service pgbouncer restart >/dev/null || service pgbouncer start >/dev/null
theirs=$(/usr/sbin/pgbouncer --version | awk 'NR == 1 { print $2 }')
[ "$theirs" != 1.25.2 ] || die "this is not the distribution's PgBouncer"
in_service "$theirs"
reloads

bash -euo pipefail "$there" || die "the README's lines"
step "the README's lines were run"
in_service 1.25.2
reloads
service pgbouncer stop >/dev/null
service pgbouncer start >/dev/null
in_service 1.25.2
unchanged

bash -euo pipefail "$back" || die "the README's lines back"
step "and those back"
in_service "$theirs"
reloads
unchanged
! dpkg --verify pgbouncer | grep -v /etc/ || die "the package is not whole: $(dpkg --verify pgbouncer)"
step "the package is whole"
service pgbouncer stop >/dev/null
soon is_gone || die "it still runs"
step "stopped"
