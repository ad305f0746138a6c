# Redis over a Unix socket: values, a snapshot by fork, an append-only file, a restart.
# seconds: 300
start() {
    redis-server --port 0 --unixsocket "$PWD/socket" --dir "$PWD" --appendonly yes --daemonize yes --logfile "$PWD/log" --pidfile "$PWD/pid"
    until redis-cli -s socket ping 2>/dev/null | grep -q PONG; do test "$SECONDS" -lt 240; done
}
start
redis-benchmark -s "$PWD/socket" -n 5000 -c 10 -q -t set,get,incr,lpush
for i in $(seq 100); do echo "set key:$i $i"; done | redis-cli -s socket >/dev/null
redis-cli -s socket bgsave
until redis-cli -s socket info persistence | grep -q 'rdb_bgsave_in_progress:0'; do test "$SECONDS" -lt 240; done
redis-cli -s socket info persistence | grep -q 'rdb_last_bgsave_status:ok'
redis-check-rdb dump.rdb | grep -q 'RDB looks OK'
redis-cli -s socket shutdown && while test -e pid; do test "$SECONDS" -lt 240; done
start
test "$(redis-cli -s socket get key:77)" = 77
redis-cli -s socket shutdown nosave
