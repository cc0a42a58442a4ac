#!/usr/bin/env bash
# The drivers and tools that the tests use, from PyPI, npm and Debian, in the build directory. Does nothing where they
# are there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

DRIVERS="$TARGET/drivers"
mkdir -p "$DRIVERS"
# Tests that run at once may all call this.
exec 9>"$DRIVERS/lock"
flock 9

current() { cmp -s "$1" "$2"; }

# python_packages WHAT LIST ENVIRONMENT [OPTION…]: a virtual environment with the packages of a list.
python_packages() {
    local what="$1" list="$2" environment="$DRIVERS/$3"
    shift 3
    if current "tests/drivers/$list" "$DRIVERS/$list"; then return; fi
    if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
        install_packages "Python" "python3 python3-venv" "python3 python3-pip" "python3 py3-pip"
    fi
    say "Installing $what into $environment"
    rm -rf "$environment"
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check "$@" -r "tests/drivers/$list"
    cp "tests/drivers/$list" "$DRIVERS/$list"
}
python_packages "the Python drivers" requirements.txt venv
python_packages "operators' tools" tools.txt tools --no-deps
python_packages "examiners of images and manifests" examiners.txt examiners

# Debian's package of PgBouncer, what it needs and its fixture for Python programs: fetched and unpacked, not installed.
debian_packages() {
    local debian="$DRIVERS/debian"
    rm -rf "$debian"
    mkdir -p "$debian/packages/partial" "$debian/fixture"
    say "Fetching Debian's packages of PgBouncer into $debian"
    # Lets apt's own user write there, where there is one.
    if [ "$(id -u)" = 0 ] && id _apt >/dev/null 2>&1; then chown _apt "$debian" "$debian/packages/partial" "$debian/fixture"; fi
    as_root apt-get install -q -y --no-install-recommends --download-only -o Dir::Cache::archives="$debian/packages" \
        pgbouncer
    (cd "$debian/fixture" && apt-get download -q python3-pgbouncer)
    dpkg-deb -x "$debian"/fixture/*.deb "$debian/fixture"
    touch "$debian/fetched"
}
if command -v apt-get >/dev/null && [ ! -f "$DRIVERS/debian/fetched" ]; then
    if ! debian_packages >"$DRIVERS/debian.log" 2>&1; then
        # The lists of a fresh machine may be missing or old.
        { as_root apt-get update && debian_packages; } >>"$DRIVERS/debian.log" 2>&1 ||
            say "Debian's packages of PgBouncer were not to be had (see $DRIVERS/debian.log): tests of them will be skipped"
    fi
fi

if ! current tests/drivers/package.json "$DRIVERS/node/package.json" || [ ! -f "$DRIVERS/node/installed" ]; then
    if ! command -v npm >/dev/null; then install_packages "Node.js" "nodejs npm"; fi
    say "Installing the Node.js drivers into $DRIVERS/node"
    rm -rf "$DRIVERS/node"
    mkdir -p "$DRIVERS/node"
    cp tests/drivers/package.json tests/drivers/package-lock.json "$DRIVERS/node/"
    (cd "$DRIVERS/node" && npm ci --silent --no-audit --no-fund --no-update-notifier)
    touch "$DRIVERS/node/installed"
fi
