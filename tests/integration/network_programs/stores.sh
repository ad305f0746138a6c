# Redis by TCP with its benchmark, publish and subscribe; memcached by both protocols.
redis-server --port 6379 --bind 127.0.0.1 ::1 --dir "$PWD" --save '' --daemonize no --logfile "$PWD/log" &
eventually redis-cli ping
redis-cli set greeting hello
redis-cli -h ::1 get greeting
redis-benchmark -n "${REQUESTS:-5000}" -c 10 -t set,get,incr,lpush --csv | tr -d '"' | awk -F, 'NR > 1 { print $1, ($2 > 0) }'
redis-benchmark -n "${REQUESTS:-5000}" -c 50 -P 16 -t get --csv | tr -d '"' | awk -F, 'NR > 1 { print $1, ($2 > 0) }'
redis-cli subscribe news >heard &
eventually bash -c "redis-cli pubsub numsub news | grep -q 1"
redis-cli publish news today
eventually grep -q today heard
redis-cli info clients | grep -c '^connected_clients'
redis-cli shutdown nosave
memcached -u root -l 127.0.0.1 -p 11211 -U 11211 &
eventually listening 11211
printf 'set key 0 0 5\r\nvalue\r\nget key\r\nincr nothing 1\r\nquit\r\n' | nc -N 127.0.0.1 11211 | tr -d '\r'
python3 - <<'P'
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(100)
    client.sendto(b"\0\1\0\0\0\1\0\0get key\r\n", ("127.0.0.1", 11211))
    print(client.recv(1400))
P
