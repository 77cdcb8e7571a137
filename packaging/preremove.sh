#!/bin/sh
# deb: remove, or upgrade; rpm: how many versions stay.
set -e
case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac
command -v systemctl >/dev/null || exit 0
# The socket first, or the next client starts the service again.
if [ -d /run/systemd/system ]; then
	systemctl stop llmproxy.socket llmproxy.service
fi
systemctl disable llmproxy.socket llmproxy.service >/dev/null 2>&1 || true
