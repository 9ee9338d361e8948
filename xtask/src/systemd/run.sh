#!/bin/sh
# The one service of the VM: runs what /vm/runs says, ends the machine.
set -u
output=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^output=//p')
exec </dev/null >"$output" 2>&1
# Waits for what was printed before, so that nothing is lost at the end.
drain() { stty raw -echo <"$output"; }
drain
printf 'vm: Linux %s, %s, %s s after power on\n' \
    "$(uname -r)" "$(systemctl --version | head -n 1)" "$(cut -d ' ' -f 1 /proc/uptime)"
[ "$(systemctl --failed --quiet | wc -l)" = 0 ] || systemctl --failed --no-pager

# as USER COMMAND...: with what a login of this user has in its environment.
as() {
    user=$1 uid=$(id -u "$1") home=$(getent passwd "$1" | cut -d : -f 6)
    shift
    set -- env USER="$user" HOME="$home" "$@"
    if [ "$uid" = 0 ]; then
        exec "$@"
    fi
    exec setpriv --reuid="$uid" --regid="$uid" --clear-groups env XDG_RUNTIME_DIR="/run/user/$uid" \
        DBUS_SESSION_BUS_ADDRESS="unix:path=/run/user/$uid/bus" "$@"
}

# run NAME DIRECTORY COMMAND...
run() {
    name=$1 directory=$2
    shift 2
    printf '\nvm: run %s\n' "$name"
    status=0
    (cd "$directory" && "$@") || status=$?
    printf '\nvm: exit %s %s\n' "$status" "$name"
}
. /vm/runs
printf 'vm: done\n'
drain
busybox reboot -f
