# What setup.sh, health-check.sh and the scripts of backup/ share; sourced by bash, never run.
# shellcheck shell=bash

# shellcheck disable=SC2034 # the checkout, for those that source this
STACK="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

say() { printf '%s\n' "$*"; }

# fail CODE TEXT…: the end of a script that cannot go on.
fail() {
    local code="$1"
    shift
    printf '%s\n' "$*" >&2
    exit "$code"
}

# load_env FILE: takes NAME=value lines as they are, without running them. What the environment has already wins.
load_env() {
    local line name value
    [ -f "$1" ] || return 0
    while IFS= read -r line || [ -n "$line" ]; do
        [[ "$line" =~ ^[[:space:]]*([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]] || continue
        name="${BASH_REMATCH[1]}" value="${BASH_REMATCH[2]%$'\r'}"
        if [[ "$value" =~ ^\"(.*)\"$ || "$value" =~ ^\'(.*)\'$ ]]; then value="${BASH_REMATCH[1]}"; fi
        if [ -z "${!name+set}" ]; then export "$name=$value"; fi
    done <"$1"
}

# published METRIC FILE: the value of a metric in a file of Prometheus' text format, or nothing.
published() { sed -n "s/^$1{.*} //p" "$2" 2>/dev/null; }

# The profile that .env names: what is not production is development.
profile() {
    case ",${COMPOSE_PROFILES:-}," in
        *,production,*) say production ;;
        *) say development ;;
    esac
}
