#!/usr/bin/env bash
# Installs what the tests need and is not there yet: a C compiler for the race
# detector, uvicorn and FastAPI with what vLLM runs them on, Node 18 or later
# with npm, and the packages of the Node tests.
set -euo pipefail
cd "$(dirname "$0")/.."
sdk=pkg/app/testdata/sdk-node

missing=()
need() { # package, then a command that succeeds when it is not needed
	"${@:2}" >/dev/null 2>&1 || missing+=("$1")
}
node18() { [ "$(node -p 'parseInt(process.versions.node)')" -ge 18 ]; }

need gcc sh -c 'command -v cc'
need libc6-dev sh -c 'echo "#include <stdlib.h>" | cc -E -'
# Debian's packages, which its own python3 sees; another first in PATH may not.
need python3-uvicorn /usr/bin/python3 -c 'import uvicorn'
need python3-fastapi /usr/bin/python3 -c 'import fastapi'
need python3-httptools /usr/bin/python3 -c 'import httptools'
need python3-uvloop /usr/bin/python3 -c 'import uvloop'
need nodejs node18
need npm sh -c 'command -v npm'

[ ${#missing[@]} = 0 ] || scripts/apt.sh "${missing[@]}"

# npm ci starts from nothing each time: only when the lock file has changed.
if [ -f $sdk/package-lock.json ] && ! cmp -s $sdk/package-lock.json $sdk/node_modules/.installed; then
	echo "installing the packages of $sdk"
	(cd $sdk && npm ci --silent --no-audit --no-fund </dev/null && cp package-lock.json node_modules/.installed)
fi
