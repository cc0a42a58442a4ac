#!/usr/bin/env bash
# Runs PgBouncer's own pytest suite (259 tests in 1.25.2, 279 in its successor) against another binary.
#
#   tests/conformance/run.sh TREE BINARY [pytest arguments…]
#     TREE     a checkout of PgBouncer's source (only test/, include/bouncer.h and etc/ are read)
#     BINARY   the program under test; it must take PgBouncer's command line and configuration
#   e.g.  tests/conformance/run.sh ~/pgbouncer target/release/pgweir -n 4
#         tests/conformance/run.sh ~/pgbouncer target/release/pgweir -k prepared -x
#
# Needs root (it makes private network and mount namespaces with their own loopback and /tmp, so that the firewall tests touch nothing else
# and two runs never collide), PostgreSQL 15+ server programs, and Debian's python3-venv, socat, iptables, openssl, slapd and ldap-utils for the
# tests that use them. Python packages go to a private virtual environment. Prints passed/failed/skipped per file, and the failed tests.
# README.md beside it has the figures, and which tests fail and why.
set -euo pipefail
tree=$(readlink -f "${1:?TREE}"); binary=$(readlink -f "${2:?BINARY}"); shift 2
work=${CONFORMANCE_DIR:-/var/tmp/pgweir-conformance}
pgbin=${PGBIN:-$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)}
here=$(dirname "$(readlink -f "$0")")

mkdir -p "$work/bin" "$work/home"
id conformance >/dev/null 2>&1 || useradd --system --home-dir "$work/home" conformance
[ -x "$work/venv/bin/pytest" ] || { /usr/bin/python3 -m venv "$work/venv"; "$work/venv/bin/pip" -q install -r "$here/requirements.txt"; }
rm -rf "$work/tree"; mkdir -p "$work/tree/build"
cp -r "$tree/test" "$tree/include" "$tree/etc" "$tree/pyproject.toml" "$work/tree/"
# What the suite asks of PgBouncer's build: newer versions read the first file, 1.25 the second.
printf '#define USUAL_LIBSSL_FOR_TLS 1\n#define HAVE_LDAP 1\n' > "$work/tree/build/test_config.h"
printf 'tls_support = yes\nldap_support = yes\n' > "$work/tree/config.mak"
install -m 755 "$binary" "$work/bin/under-test"
ln -s "$work/bin/under-test" "$work/tree/pgbouncer" # where PgBouncer 1.25 looks for it; newer versions ask BOUNCER_EXE
printf '#!/bin/sh\nexec "$@"\n' > "$work/bin/sudo"
printf '#!/bin/sh\ncase "$1" in qdisc) exit 0;; esac; exit 1\n' > "$work/bin/tc"
chmod 755 "$work/bin/sudo" "$work/bin/tc"
chown -R conformance "$work/home" "$work/tree"

status=0
unshare -n -m bash -c '
  set -e
  work=$1; pgbin=$2; shift 2
  ip link set lo up
  mount -t tmpfs -o mode=1777 tmpfs /tmp
  cd "$work/tree/test"
  ulimit -c 0
  exec setpriv --reuid=conformance --regid=conformance --clear-groups --inh-caps=+net_admin,+net_raw --ambient-caps=+net_admin,+net_raw \
    env HOME="$work/home" USER=conformance LOGNAME=conformance LANG=C PYTHONIOENCODING=utf8 USE_SUDO=1 HAVE_IPV6_LOCALHOST=1 \
      XTABLES_LOCKFILE="$work/home/xtables.lock" PATH="$work/bin:$work/venv/bin:$pgbin:$PATH:/usr/sbin:/sbin" BOUNCER_EXE="$work/bin/under-test" \
      pytest -o asyncio_default_fixture_loop_scope=function -q --junitxml="$work/home/junit.xml" "$@"
' bash "$work" "$pgbin" "$@" > "$work/home/log" 2>&1 || status=$?
tail -3 "$work/home/log"
python3 "$here/summary.py" "$work/home/junit.xml"
echo "full log: $work/home/log"
exit $status
