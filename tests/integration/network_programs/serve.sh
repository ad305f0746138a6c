# Servers for clients on the other machine. Says "ready", and ends with its input.
ssh-keygen -q -t ed25519 -N '' -f host_key
mkdir -p /run/sshd www
echo "$PUBLIC_KEY" >authorized_keys
chmod 755 . www
seq 300000 >www/large
seq 10 >www/small
printf 'Port 2222\nHostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n' "$PWD/host_key" "$PWD/authorized_keys" >sshd_config
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=guest 2>/dev/null
cat >nginx.conf <<C
user root; daemon off; pid $PWD/nginx.pid; error_log $PWD/error.log; worker_rlimit_nofile 30000;
events { worker_connections 4096; }
http {
    access_log off; sendfile on;
    client_body_temp_path $PWD/body; proxy_temp_path $PWD/proxy; fastcgi_temp_path $PWD/fcgi; uwsgi_temp_path $PWD/uwsgi; scgi_temp_path $PWD/scgi;
    server { listen 80; listen [::]:80; listen 443 ssl http2; ssl_certificate $PWD/cert.pem; ssl_certificate_key $PWD/key.pem; root $PWD/www; }
}
C
/usr/sbin/sshd -D -f sshd_config -E sshd.log &
/usr/sbin/nginx -c "$PWD/nginx.conf" &
redis-server --port 6379 --protected-mode no --dir "$PWD" --save '' --logfile "$PWD/redis.log" &
memcached -u root -p 11211 &
iperf3 -s >iperf3.log &
for port in 2222 443 6379 11211 5201; do eventually listening $port; done
echo ready
cat >/dev/null
