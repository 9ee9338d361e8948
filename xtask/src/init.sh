#!/bin/busybox sh
# Process 1 of the VM: mounts what a machine has, runs /runs, ends the machine. Any failure of its own is a panic.
# The kernel's console is the first serial port; what the programs print goes to the second, $output.
set -eu
export PATH=/bin:/sbin HOME=/root TERM=dumb

if [ "${1:-}" != inside ]; then
    # pivot_root(2) refuses the rootfs that the kernel starts from, so a bind mount of it becomes the root.
    mount --bind / /root
    cd /root
    mount --move . /
    exec chroot . /init inside
fi

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid devtmpfs /dev
mkdir /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
mount -t mqueue -o nosuid,nodev,noexec mqueue /dev/mqueue
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
# A checkout under /tmp has its test data there.
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /mnt
cp -a /tmp/. /mnt
mount --move /mnt /tmp
chmod 1777 /tmp
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup

hostname vm
ip link set lo up
ulimit -Hn 524288
ulimit -Sn 1024
# The others are loaded by the kernel when they are asked for; a filesystem is listed only once it is there.
modprobe overlay

exec </dev/null >"$output" 2>&1
# Waits for what was printed before, so that nothing is lost at the end.
drain() { stty raw -echo <"$output"; }
drain
printf 'vm: Linux %s, %s s after power on\n' "$(uname -r)" "$(cut -d ' ' -f 1 /proc/uptime)"

# run NAME DIRECTORY PROGRAM ARGS...
run() {
    name=$1 directory=$2
    shift 2
    printf '\nvm: run %s\n' "$name"
    status=0
    # Process 1 was born into session 0 and group 0, which are none.
    (cd "$directory" && exec setsid "$@") || status=$?
    printf '\nvm: exit %s %s\n' "$status" "$name"
}
. /runs
printf 'vm: done\n'
drain
reboot -f
