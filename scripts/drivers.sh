#!/usr/bin/env bash
# The drivers that the tests use, from PyPI and npm, in the build directory. Does nothing where they are there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

DRIVERS="$TARGET/drivers"
mkdir -p "$DRIVERS"
# Tests that run at once may all call this.
exec 9>"$DRIVERS/lock"
flock 9

current() { cmp -s "$1" "$2"; }

if ! current tests/drivers/requirements.txt "$DRIVERS/requirements.txt"; then
    if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
        install_packages "Python" "python3 python3-venv" "python3 python3-pip" "python3 py3-pip"
    fi
    say "Installing the Python drivers into $DRIVERS/venv"
    rm -rf "$DRIVERS/venv"
    python3 -m venv "$DRIVERS/venv"
    "$DRIVERS/venv/bin/pip" install --quiet --disable-pip-version-check -r tests/drivers/requirements.txt
    cp tests/drivers/requirements.txt "$DRIVERS/requirements.txt"
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
