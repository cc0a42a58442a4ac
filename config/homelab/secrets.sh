#!/usr/bin/env bash
# Makes a password file for each user that has none yet. Run it before the first start; existing files stay as they are.
set -euo pipefail

directory="${1:-$(dirname "${BASH_SOURCE[0]}")/secrets}"
umask 077
mkdir -p "$directory"
# The files are mounted into containers that run as other users: the directory keeps others on this machine out.
for name in postgres vikunja hedgedoc linkding navidrome; do
    file="$directory/${name}_password"
    if [ -s "$file" ]; then
        echo "$file: kept"
    else
        od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$file"
        chmod 644 "$file"
        echo "$file: made"
    fi
done
