#!/usr/bin/busybox sh
# What the kernel starts: gives systemd a root that pivot_root(2) takes, as it makes roots for services, and cgroup v2.
set -eu
export PATH=/usr/bin:/usr/sbin
busybox mount --bind / /mnt
cd /mnt
busybox mount --move . /
chmod 1777 tmp
exec busybox chroot . /usr/lib/systemd/systemd
