#!/usr/bin/env bash
# Installs what the tests need and is not there yet: a C compiler for the race
# detector, uvicorn and FastAPI with what vLLM runs them on, Node 18 or later
# with npm, and the packages of the Node tests. Debian and its children only; elsewhere it says
# what is missing.
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

if [ ${#missing[@]} -gt 0 ]; then
	if ! command -v apt-get >/dev/null; then
		echo "the tests need ${missing[*]}: install them with your package manager" >&2
		exit 1
	fi
	sudo=
	[ "$(id -u)" = 0 ] || sudo=sudo
	echo "installing ${missing[*]}"
	log=$(mktemp)
	install() {
		$sudo apt-get update -qq
		$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
	}
	install >"$log" 2>&1 </dev/null || { cat "$log" >&2; exit 1; }
	rm -f "$log"
fi

# npm ci starts from nothing each time: only when the lock file has changed.
if [ -f $sdk/package-lock.json ] && ! cmp -s $sdk/package-lock.json $sdk/node_modules/.installed; then
	echo "installing the packages of $sdk"
	(cd $sdk && npm ci --silent --no-audit --no-fund </dev/null && cp package-lock.json node_modules/.installed)
fi
