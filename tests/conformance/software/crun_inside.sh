# crun runs a container here: a spec, a busybox root, limits, exec, kill, delete.
# seconds: 300
mkdir -p bundle/rootfs/bin bundle/rootfs/proc bundle/rootfs/tmp state
cd bundle
cp "$(command -v busybox)" rootfs/bin/busybox
for name in sh id cat sleep hostname ls mount; do ln -s busybox "rootfs/bin/$name"; done
crun spec
run() { crun --root ../state "$@"; }
sed -i 's/"terminal": true/"terminal": false/; s#"sh"#"sh", "-c", "id -u; hostname; echo $$; ls /; cat /proc/self/status | grep CapEff"#' config.json
run run one >../out
grep -qx 0 ../out
grep -qx crun ../out
grep -qx 1 ../out
grep -qx proc ../out
sed -i 's#"sh", "-c", ".*"#"sleep", "1000"#' config.json
run run --detach two </dev/null >/dev/null 2>&1
grep -q '"status": "running"' <<<"$(run state two)"
test "$(run exec two hostname)" = crun
test "$(run exec two sh -c 'exit 7' >/dev/null 2>&1; echo $?)" = 7
grep -q 'two .*running' <<<"$(run list)"
run kill two KILL
until run state two | grep -q '"status": "stopped"'; do sleep 0.1; done
run delete two
test -z "$(run list -q)"
