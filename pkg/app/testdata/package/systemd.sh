#!/bin/sh
# systemd.sh dir: installs the deb of dir in a copy of this machine and starts a real
# systemd there, which runs drive.sh of dir. To be run as the first process of new
# pid, mount, network and cgroup namespaces.
set -eu
dir=$1
. "$(dirname "$0")/machine.sh"
ip link set lo up

mount -t tmpfs none "$root/tmp"
mount --rbind /sys "$root/sys"
mount -t tmpfs none "$root/dev"
for d in null zero full random urandom tty; do
	touch "$root/dev/$d"
	mount --bind /dev/$d "$root/dev/$d"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/out"
mount --bind "$dir" "$root/out"
touch "$root/dev/console" "$dir/console"
mount --bind "$dir/console" "$root/dev/console"

chroot "$root" dpkg -i /packages/"$(cd "$dir" && echo llmproxy*.deb)" >"$dir/dpkg" 2>&1
cp "$dir/llmproxy.yaml" "$root/etc/llmproxy/"
units=$root/etc/systemd/system
mkdir -p "$units/llmproxy.service.d"
cat >"$units/llmproxy.service.d/log.conf" <<-X
	[Service]
	StandardOutput=append:/out/log
	StandardError=append:/out/log
X
cat >"$units/drive.service" <<-X
	[Unit]
	DefaultDependencies=no
	[Service]
	Type=oneshot
	ExecStart=/bin/sh /packages/drive.sh
	ExecStopPost=/bin/systemctl --no-block exit
X
cat >"$units/only.target" <<-X
	[Unit]
	DefaultDependencies=no
	Requires=drive.service
X
mkdir "$root/old"
cd "$root"
pivot_root . old
exec chroot . env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c \
	'umount -l /old && exec /lib/systemd/systemd --system --unit=only.target --log-target=console --show-status=0'
