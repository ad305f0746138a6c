# nginx with HTTP/1.1, HTTP/2 and TLS; curl, wget and wrk ask it.
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null
mkdir www
head -c 20000000 /dev/zero | openssl enc -aes-128-ctr -K 0 -iv 0 2>/dev/null >www/large
seq 100 >www/small
chmod 755 . www
cat >nginx.conf <<C
user root;
daemon off;
pid $PWD/nginx.pid;
error_log $PWD/error.log;
worker_processes 2;
events { worker_connections 1024; }
http {
    access_log $PWD/access.log;
    client_body_temp_path $PWD/body; proxy_temp_path $PWD/proxy; fastcgi_temp_path $PWD/fcgi; uwsgi_temp_path $PWD/uwsgi; scgi_temp_path $PWD/scgi;
    sendfile on; tcp_nopush on;
    server {
        listen 8080; listen [::]:8080;
        listen 8443 ssl http2; listen [::]:8443 ssl http2;
        ssl_certificate $PWD/cert.pem; ssl_certificate_key $PWD/key.pem;
        root $PWD/www;
        location /proxied/ { proxy_pass http://[::1]:8080/; }
    }
}
C
/usr/sbin/nginx -c "$PWD/nginx.conf" &
server=$!
eventually listening 8443
cksum <www/large
for host in 127.0.0.1 '[::1]' localhost; do
    curl -sS -g "http://$host:8080/large" | cksum
done
for version in --http1.1 --http2; do
    curl -sS $version --cacert cert.pem https://localhost:8443/large -o got -w '%{http_version} %{http_code} %{size_download} %{ssl_verify_result}\n'
    cksum <got
done
curl -sS -r 100-199 http://localhost:8080/large | cksum
curl -sS http://localhost:8080/proxied/large | cksum
curl -sS -o /dev/null -w '%{http_code}\n' http://localhost:8080/nothing
curl -sS --no-progress-meter --http2 --cacert cert.pem -Z https://localhost:8443/small https://localhost:8443/small https://localhost:8443/small | cksum
curl -sS http://localhost:8081/ 2>&1 | sed 's/ after [0-9]* ms//' || true
wget -q --ca-certificate=cert.pem https://localhost:8443/large -O got
cksum <got
wget -q -c --limit-rate=50m http://127.0.0.1:8080/small -O small
cmp small www/small
wrk -t 2 -c 20 -d "${SECONDS_OF_LOAD:-2}" http://127.0.0.1:8080/small >report
! grep -E 'Socket errors|Non-2xx' report
test "$(awk '/requests in/ { print $1 }' report)" -gt 100
kill -QUIT "$(cat nginx.pid)"
wait $server
grep -c 'No such file' error.log; ! grep -v 'No such file' error.log
