# unshare and nsenter: new namespaces of every kind, entered from outside.
unshare --user --map-root-user --mount --pid --fork --uts --ipc --net --cgroup --mount-proc bash -c '
    hostname inside; test "$(hostname)" = inside; test "$$" = 1; test "$(id -u)" = 0
    mount -t tmpfs none /mnt; touch /mnt/file; test "$(ls /proc | grep -c "^[0-9]")" -le 4'
test ! -e /mnt/file
unshare --uts --pid --fork --mount-proc --kill-child bash -c 'hostname other; echo up >ready; exec sleep 1000' &
until test -s ready; do sleep 0.1; done
child=$(pgrep -P $!)
test "$(nsenter --target "$child" --uts --pid --mount bash -c 'hostname; pgrep -x sleep' | tr '\n' ' ')" = 'other 1 '
test "$(hostname)" != other
lsns -n -o TYPE -p "$child" | sort | tr '\n' ' ' | grep -q 'cgroup ipc mnt net pid .*user uts'
kill %1
