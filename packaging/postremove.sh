#!/bin/sh
# The user stays: its number must not come to mean somebody else.
set -e
if [ "$1" = purge ]; then
	rm -rf /var/lib/llmproxy
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
