# SQLite in WAL mode, written by 8 processes at once.
# seconds: 300
sqlite3 db 'pragma journal_mode=wal; create table t(writer int, n int, primary key(writer, n));' | grep -qx wal
for writer in $(seq 8); do
    (for n in $(seq 50); do sqlite3 -cmd '.timeout 60000' db "insert into t values($writer, $n);" >/dev/null || exit 1; done) &
    writers+=($!)
done
for one in "${writers[@]}"; do wait "$one"; done
test "$(sqlite3 db 'select count(*), sum(n) from t;')" = '400|10200'
test "$(sqlite3 db 'pragma integrity_check;')" = ok
sqlite3 db 'pragma wal_checkpoint(truncate);' | grep -q '^0|'
sqlite3 db .dump | sqlite3 copy
cmp <(sqlite3 db .dump) <(sqlite3 copy .dump)
