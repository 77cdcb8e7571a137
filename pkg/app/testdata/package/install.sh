#!/bin/sh
# install.sh dir: installs, upgrades and removes the packages in dir, in a copy of
# this machine that only lives as long as this script, in a mount namespace. In the
# copy systemd seems to run, and what it is told is written down.
set -eu
dir=$1
fail() { echo "install.sh: $*" >&2; exit 1; }

. "$(dirname "$0")/machine.sh"
mkdir -p "$root/run/systemd/system"
rm -f "$root/usr/bin/systemctl"
printf '#!/bin/sh\necho "$@" >>/run/told\n' >"$root/usr/bin/systemctl"
chmod +x "$root/usr/bin/systemctl"

told() { # what systemd should have been told, and nothing else
	touch "$root/run/told"
	[ "$1" = "$(uniq "$root/run/told")" ] || { cat "$root/run/told" >&2; fail "$2: systemd was told this"; }
	rm "$root/run/told"
}
present() { for f in "$@"; do chroot "$root" test -e "$f" || fail "$f is not there"; done; }
absent() { for f in "$@"; do ! chroot "$root" test -e "$f" || fail "$f is still there"; done; }
files="/usr/bin/llmproxy /usr/lib/systemd/system/llmproxy.service /usr/lib/systemd/system/llmproxy.socket"
config=/etc/llmproxy/llmproxy.yaml
all="llmproxy.socket llmproxy.service"

cycle() { # name, then the commands that install, upgrade and remove
	chroot "$root" $2 >/dev/null || fail "$1: cannot install"
	told "preset llmproxy.service llmproxy.socket
daemon-reload" "$1: a first installation"
	present $files $config /etc/llmproxy/llmproxy.schema.json
	[ "$(chroot "$root" stat -c '%U:%G %a' $config)" = "root:llmproxy 640" ] || fail "$1: $config is not for its user alone"
	chroot "$root" setpriv --reuid llmproxy --regid llmproxy --clear-groups /usr/bin/llmproxy check -config $config >"$root/run/check" 2>&1 ||
		{ cat "$root/run/check" >&2; fail "$1: its user cannot use $config"; }

	echo "# an operator's" >>"$root$config"
	chroot "$root" $3 >/dev/null || fail "$1: cannot upgrade"
	told "daemon-reload" "$1: an upgrade"
	grep -q "an operator's" "$root$config" || fail "$1: an upgrade has changed $config"

	chroot "$root" $4 >/dev/null 2>&1 || fail "$1: cannot remove"
	told "stop $all
disable $all
daemon-reload" "$1: a removal"
	absent $files /usr/share/llmproxy /usr/share/doc/llmproxy
}

deb=/packages/$(cd "$dir" && echo llmproxy*.deb)
cycle deb "dpkg -i $deb" "dpkg -i $deb" "dpkg -r llmproxy"
present $config
chroot "$root" dpkg -P llmproxy >/dev/null
absent /etc/llmproxy

if command -v rpm >/dev/null; then
	rm -f "$root/run/told"
	rpm=/packages/$(cd "$dir" && echo llmproxy*.rpm)
	# Debian's rpm knows no package of the system.
	cycle rpm "rpm -i --nodeps $rpm" "rpm -U --force --nodeps $rpm" "rpm -e llmproxy"
fi
