# Sourced: a copy of this machine at $root, with the packages of $dir in /packages. It
# lives in the mount namespace of the script, and ends with it. Exit code 77: it may
# not be made here.
top=$dir/.machine
mkdir "$top"
mount -t tmpfs none "$top" || exit 77
mkdir "$top/upper" "$top/work" "$top/root"
root=$top/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$root" || exit 77
mount -t proc proc "$root/proc"
mount -t tmpfs none "$root/run"
mkdir "$root/packages"
cp "$dir"/* "$root/packages/"
