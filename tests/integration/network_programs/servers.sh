# HTTP servers of Node, Java, Python and Perl, each asked by curl and, all at once, by wrk.
mkdir www
echo 'a small answer' >www/file
cat >server.js <<'J'
require('http').createServer((request, response) => response.end(`node ${request.method} ${request.url}\n`)).listen(8001);
J
cat >Server.java <<'J'
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;
public class Server {
    public static void main(String[] arguments) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress(8002), 0);
        server.createContext("/", exchange -> {
            byte[] answer = ("java " + exchange.getRequestMethod() + " " + exchange.getRequestURI() + "\n").getBytes();
            exchange.sendResponseHeaders(200, answer.length);
            exchange.getResponseBody().write(answer);
            exchange.close();
        });
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.start();
    }
}
J
javac Server.java
node server.js &
java -Xmx128m Server &
python3 -m http.server --directory www 8003 >/dev/null 2>&1 &
perl -MIO::Socket::INET -e '$SIG{PIPE} = "IGNORE"; $SIG{CHLD} = "IGNORE"; my $l = IO::Socket::INET->new(Listen => 128, LocalPort => 8004, ReuseAddr => 1) or die;
    while (my $c = $l->accept) { if (!fork) { my $line = <$c>; while (<$c> =~ /\S/) {} $line =~ s/ HTTP.*//s; print $c "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nperl $line\n"; close $c; exit } close $c }' &
for port in 8001 8002 8003 8004; do eventually listening $port; done
curl -sS -d x=1 http://localhost:8001/path
curl -sS -d x=1 http://localhost:8002/path
curl -sS http://localhost:8003/file
curl -sS http://127.0.0.1:8004/path
for port in 8001 8002 8003; do
    wrk -t 1 -c 8 -d "${SECONDS_OF_LOAD:-2}" "http://127.0.0.1:$port/file" >report
    awk -v port=$port '/requests in/ { print port, ($1 > 10) }' report
    grep 'Non-2xx' report || true
done
if command -v go >/dev/null; then
    cat >server.go <<'G'
package main

import (
	"fmt"
	"net/http"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "go", r.Method, r.URL) })
	http.ListenAndServe(":8005", nil)
}
G
    GOCACHE=$PWD/cache GOPATH=$PWD/go go build -o server server.go
    ./server &
    eventually listening 8005
    curl -sS -d x=1 http://localhost:8005/path
fi
