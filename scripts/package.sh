#!/usr/bin/env bash
# The Debian package, under target/debian: the program, its manual page and completions, the systemd units, a
# configuration. Needs cargo-deb (cargo install --locked cargo-deb) and what scripts/pgo.sh needs. Arguments are
# cargo-deb's own, such as --fast.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cargo deb --version >/dev/null 2>&1 || die "cargo-deb is not installed: cargo install --locked cargo-deb"
need_pam
# As fast as can be; PROFILE=shipped costs some 10 % more CPU and is built without PostgreSQL and a load, PROFILE=release
# is there in a minute.
PROFILE="${PROFILE:-pgo}"
if [ "$PROFILE" = pgo ]; then scripts/pgo.sh; else cargo build --locked --profile "$PROFILE" --bin pgweir; fi
directory="$PROFILE"
if [ "$PROFILE" = dev ]; then directory=debug; fi
PGWEIR="$TARGET/$directory/pgweir"

# cargo-deb takes files from the checkout: what is generated lies where its table of assets has it.
GENERATED=target/package
rm -rf "$GENERATED"
mkdir -p "$GENERATED"
"$PGWEIR" man >"$GENERATED/pgweir.1"
for shell in bash zsh fish; do "$PGWEIR" completions "$shell" >"$GENERATED/pgweir.$shell"; done
version="$(sed -nE 's/^version = "(.*)"$/\1/p' Cargo.toml | head -n 1)"
cat >"$GENERATED/changelog" <<TEXT
pgweir ($version-1) unstable; urgency=medium

  * What has changed is in CHANGELOG.md, as /usr/share/doc/pgweir has it.

 -- pgweir's maintainers <pgweir@localhost>  $(date -R -u -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}")
TEXT
cargo deb --locked --no-build --profile "$PROFILE" --output "${OUTPUT:-$TARGET/debian}/" "$@"
