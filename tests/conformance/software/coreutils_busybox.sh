# coreutils and busybox agree with each other on the same input.
# seconds: 300
seq 3000 | awk '{ print ($1 * 7919) % 1000, $1, "line" $1 % 13 }' >data
head -c 300000 /dev/urandom >bytes
mkdir tree && for i in 1 2 3; do mkdir -p tree/d$i/e; echo "$i" >tree/d$i/e/f; ln -s e/f tree/d$i/link; done
agree() { local real="$1" small="busybox $1"; cmp <(set +x; eval "$real" 2>&1; echo $?) <(set +x; eval "$small" 2>&1; echo $?) || { echo "differ: $1"; exit 1; }; }
for command in 'sort data' 'sort -n -k1,1 -k2,2r data' 'sort -u -k3,3 data | cut -d" " -f3' 'uniq -c data' 'cut -d" " -f2,3 data' 'tr a-z A-Z <data' 'wc data | tr -s " " | sed "s,^ ,,"' 'head -n 7 data' 'tail -n 7 data' \
    'tail -c 100 data' 'nl data' 'fold -w 9 data' 'expand data' 'md5sum bytes' 'sha1sum bytes' 'sha256sum bytes' 'sha512sum bytes' 'base64 bytes' 'od -An -tx1 bytes' \
    'cmp -s data bytes' 'paste data data' 'seq 1 3 20' 'expr 6 \* 7' 'printf "%05d|%s|%x\n" 42 text 255' 'dirname /a/b/c' 'basename /a/b.c .c' 'tac data' \
    'realpath tree/d1/link' 'readlink tree/d1/link' 'cat data bytes' 'test -d tree' 'date -u -d @1000000000' \
    'env -i A=b env' 'nproc' 'id -u' 'id -g' 'stat -c "%F %s %a %u %g %h" data tree tree/d1/link' 'ls -1R tree' 'truncate -s 5 data' 'shuf -n 0 data' 'timeout 5 true' 'false' 'true'; do
    agree "$command"
done
cp -a tree copy
diff -r tree copy
busybox cp -a tree copy2
busybox diff -r copy copy2
tar -cf real.tar tree
busybox tar -xf real.tar -C copy2
diff -r tree copy2/tree
busybox find tree -type l | sort | cmp - <(find tree -type l | sort)
busybox gzip -c bytes | gunzip | cmp - bytes
gzip -c bytes | busybox gunzip | cmp - bytes
dd if=bytes of=part bs=1000 skip=10 count=50 status=none
busybox dd if=bytes of=part2 bs=1000 skip=10 count=50 2>/dev/null
cmp part part2
install -m 640 -D bytes made/deep/file
test "$(stat -c %a made/deep/file)" = 640
mkfifo fifo
(cat fifo >through &)
cat bytes >fifo
until cmp -s bytes through; do sleep 0.1; done
