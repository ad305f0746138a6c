# Redis over a Unix socket: values, a snapshot by fork, an append-only file, a restart.
# seconds: 300
start() {
    redis-server --port 0 --unixsocket "$PWD/socket" --dir "$PWD" --appendonly yes --daemonize yes --logfile "$PWD/log" --pidfile "$PWD/pid"
    until redis-cli -s socket ping 2>/dev/null | grep -q PONG; do sleep 0.1; done
}
start
redis-benchmark -s "$PWD/socket" -n "${REQUESTS:-5000}" -c 10 --csv -t set,get,incr,lpush
for i in $(seq 100); do echo "set key:$i $i"; done | redis-cli -s socket >/dev/null
redis-cli -s socket bgsave
until redis-cli -s socket info persistence | grep -q 'rdb_bgsave_in_progress:0'; do sleep 0.1; done
grep -q 'rdb_last_bgsave_status:ok' <<<"$(redis-cli -s socket info persistence)"
grep -q 'RDB looks OK' <<<"$(redis-check-rdb dump.rdb)"
redis-cli -s socket shutdown
while test -e pid; do sleep 0.1; done
start
test "$(redis-cli -s socket get key:77)" = 77
redis-cli -s socket shutdown nosave
