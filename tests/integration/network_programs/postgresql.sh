# PostgreSQL by TCP, with and without TLS, and pgbench.
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1) || true
[ -n "$bin" ] || bin=$(dirname "$(command -v postgres)")
chmod 755 .
mkdir data
chown postgres data
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=localhost 2>/dev/null
chown postgres key.pem
as() { setpriv --reuid postgres --regid postgres --init-groups env HOME="$PWD" "$@"; }
as "$bin/initdb" -D "$PWD/data" -A trust --no-instructions >/dev/null
as "$bin/pg_ctl" -D "$PWD/data" -l "$PWD/data/log" -w -o "-c listen_addresses=127.0.0.1,::1 -c unix_socket_directories= -c ssl=on -c ssl_cert_file=$PWD/cert.pem -c ssl_key_file=$PWD/key.pem" start >/dev/null
as "$bin/createdb" -h 127.0.0.1 bench
as "$bin/pgbench" -h ::1 -i -q bench 2>/dev/null
as "$bin/pgbench" -h 127.0.0.1 -c 4 -j 2 -t "${TRANSACTIONS:-50}" bench 2>/dev/null | grep -E 'actually processed|failed'
as "$bin/psql" "host=127.0.0.1 sslmode=require dbname=bench" -Atc 'select ssl, version from pg_stat_ssl where pid = pg_backend_pid()'
as "$bin/psql" "host=::1 sslmode=disable dbname=bench" -Atc 'select count(*) from pgbench_history'
# It waits in dots.
as "$bin/pg_ctl" -D "$PWD/data" -m fast -w stop | sed 's/\.\.*/.../'
