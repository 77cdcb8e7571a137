#!/usr/bin/env bash
# Installs Debian packages, quietly unless it fails. Elsewhere it says what is
# missing. A daemon that comes with one is not started.
set -euo pipefail
if ! command -v apt-get >/dev/null; then
	echo "this needs $*: install them with your package manager" >&2
	exit 1
fi
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
echo "installing $*"
log=$(mktemp)
policy=/usr/sbin/policy-rc.d # what a package asks before it starts a daemon
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null
	$sudo chmod 755 $policy
	trap '$sudo rm -f $policy' EXIT
fi
install() {
	$sudo apt-get update -qq &&
		$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}
install "$@" >"$log" 2>&1 </dev/null || { cat "$log" >&2; exit 1; }
rm -f "$log"
