#!/bin/sh
# deb: configure [the version there was]; rpm: how many versions there are now.
set -e
case "$1" in
configure) old=$2 ;;
1) old= ;;
*[!0-9]*) exit 0 ;; # dpkg goes back to the state before
*) old=$1 ;;
esac

if ! getent passwd llmproxy >/dev/null; then
	if command -v systemd-sysusers >/dev/null; then
		systemd-sysusers llmproxy.conf
	else
		useradd --system --user-group --no-create-home --home-dir /var/lib/llmproxy --shell /usr/sbin/nologin llmproxy
	fi
fi
chgrp llmproxy /etc/llmproxy /etc/llmproxy/llmproxy.yaml

command -v systemctl >/dev/null || exit 0
# An upgrade restarts nothing: streams are open. The next restart has the new version.
[ -n "$old" ] || systemctl preset llmproxy.service llmproxy.socket >/dev/null
[ ! -d /run/systemd/system ] || systemctl daemon-reload
