#!/usr/bin/env bash
# Installs what the load tests and the instruction counts need and is not there
# yet: nginx, to run beside, valgrind, and Redis, for the deployment that has one.
# The peers install their own.
set -euo pipefail
cd "$(dirname "$0")/.."
missing=()
[ -x /usr/sbin/nginx ] || command -v nginx >/dev/null || missing+=(nginx-light)
command -v valgrind >/dev/null || missing+=(valgrind)
command -v redis-server >/dev/null || missing+=(redis-server)
[ ${#missing[@]} = 0 ] || scripts/apt.sh "${missing[@]}"
