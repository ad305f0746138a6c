# ssh to an sshd of its own, with a terminal and without, a forwarded port, scp and rsync.
mkdir -p /run/sshd home
chmod 755 .
ssh-keygen -q -t ed25519 -N '' -f host_key
ssh-keygen -q -t ed25519 -N '' -f user_key
cp user_key.pub authorized_keys
cat >sshd_config <<C
Port 2222
ListenAddress 127.0.0.1
ListenAddress ::1
HostKey $PWD/host_key
AuthorizedKeysFile $PWD/authorized_keys
PidFile $PWD/sshd.pid
StrictModes no
UsePAM no
PermitRootLogin yes
Subsystem sftp internal-sftp
C
/usr/sbin/sshd -D -f sshd_config -E log &
eventually listening 2222
cat >ssh_config <<C
Host *
    Port 2222
    IdentityFile $PWD/user_key
    UserKnownHostsFile $PWD/known_hosts
    StrictHostKeyChecking accept-new
    LogLevel ERROR
C
remote() { ssh -F ssh_config root@localhost "$@"; }
remote 'echo over $SSH_CONNECTION' | awk '{ print $1, $NF }'
remote 'exit 7' || echo "status $?"
seq 200000 | remote 'cat' | cksum
ssh -F ssh_config -tt root@127.0.0.1 'tty >/dev/null && echo terminal' </dev/null | tr -d '\r'
ssh -F ssh_config -N -L 7010:localhost:7011 root@localhost &
nc -l -N 7011 <sshd_config >/dev/null &
eventually listening 7010
eventually listening 7011
nc -d localhost 7010 | cksum | awk -v size="$(stat -c %s sshd_config)" '{ print $2 == size }'
mkdir -p tree/deep
seq 50000 >tree/numbers
ln tree/numbers tree/deep/linked
ln -s numbers tree/symbolic
scp -q -F ssh_config -r tree root@localhost:"$PWD/copied"
cmp tree/numbers copied/numbers
rsync -aH -e "ssh -F $PWD/ssh_config" tree/ root@localhost:"$PWD/synced/"
diff -r --no-dereference tree synced && stat -c %h synced/numbers
echo more >>tree/numbers
rsync -aH --stats -e "ssh -F $PWD/ssh_config" tree/ root@localhost:"$PWD/synced/" | grep 'files transferred'
printf 'use chroot = no\nuid = 0\ngid = 0\nport = 8730\npid file = %s/rsyncd.pid\n[tree]\npath = %s/tree\n' "$PWD" "$PWD" >rsyncd.conf
rsync --daemon --no-detach --config=rsyncd.conf --log-file=rsync.log &
eventually listening 8730
rsync -aH rsync://localhost:8730/tree/ fetched/
diff -r --no-dereference tree fetched && echo fetched
