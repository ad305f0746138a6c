# PostgreSQL: initdb, a server on a Unix socket, pgbench, a crash and its recovery.
# seconds: 600
transactions=${TRANSACTIONS:-200}
chmod 755 .
mkdir data socket
chown postgres data socket
bin=$(ls -d /usr/lib/postgresql/*/bin)
as() { setpriv --reuid postgres --regid postgres --init-groups env HOME="$PWD" "$@"; }
as "$bin/initdb" -D "$PWD/data" -A trust --no-instructions >/dev/null
options="-k $PWD/socket -c listen_addresses="
as "$bin/pg_ctl" -D "$PWD/data" -o "$options" -l "$PWD/data/log" -w start
as createdb -h "$PWD/socket" bench
as "$bin/pgbench" -h "$PWD/socket" -i -q bench
as "$bin/pgbench" -h "$PWD/socket" -c 4 -j 2 -t "$transactions" bench | tee report
grep -q "number of transactions actually processed: $((4 * transactions))/$((4 * transactions))" report
as "$bin/pg_ctl" -D "$PWD/data" -m immediate stop
as "$bin/pg_ctl" -D "$PWD/data" -o "$options" -l "$PWD/data/log" -w start
test "$(as psql -h "$PWD/socket" -Atc 'select count(*) from pgbench_history' bench)" = "$((4 * transactions))"
test "$(as psql -h "$PWD/socket" -Atc 'select sum(abalance) = (select sum(bbalance) from pgbench_branches) from pgbench_accounts' bench)" = t
as "$bin/pg_ctl" -D "$PWD/data" -m fast -w stop
