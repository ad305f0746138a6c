# go build of a small program with goroutines, channels and a module of its own; go vet; go test.
# seconds: 600
export GOCACHE=$PWD/cache GOPATH=$PWD/path GOFLAGS=-mod=mod GOPROXY=off
mkdir -p sum && cat >go.mod <<'SCRIPT'
module example.org/small
go 1.19
SCRIPT
cat >sum/sum.go <<'SCRIPT'
package sum

import "sync"

func Squares(n int) (total int) {
	results := make(chan int)
	var group sync.WaitGroup
	for i := 1; i <= n; i++ {
		group.Add(1)
		go func(i int) { defer group.Done(); results <- i * i }(i)
	}
	go func() { group.Wait(); close(results) }()
	for value := range results {
		total += value
	}
	return
}
SCRIPT
cat >sum/sum_test.go <<'SCRIPT'
package sum

import "testing"

func TestSquares(t *testing.T) {
	if got := Squares(1000); got != 333833500 {
		t.Fatal(got)
	}
}
SCRIPT
cat >main.go <<'SCRIPT'
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"example.org/small/sum"
)

func main() {
	out, err := exec.Command("echo", "child").Output()
	if err != nil {
		panic(err)
	}
	runtime.GC()
	fmt.Fprintf(os.Stdout, "%d %s", sum.Squares(100), out)
}
SCRIPT
go build -o small .
test "$(./small)" = "338350 child"
go test ./...
go vet ./...
