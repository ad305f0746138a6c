"""The machine's own programs: byte for byte what the host gives. Short forms, and the long ones of the
project's goals behind --long."""

import os

from harness import Failed, case, equal, holds, joey, joey_sh, run, same, scratch


def compare(name, command, long=False, timeout=120, **extra):
    @case(f"same as the host: {name}", long=long)
    def check():
        same(command, timeout=timeout, **extra)


compare("python3 prints", ["python3", "-c", "print(6*7)"])
compare("sha256sum over programs (short)", "LC_ALL=C; sha256sum /usr/bin/[a-c]*")
compare("sha256sum over every file of /usr/bin", "LC_ALL=C; sha256sum $(find /usr/bin -type f | sort)", long=True, timeout=600)
compare("find | sort (short)", "LC_ALL=C; find /usr/lib/python3* -xdev | sort")
compare("find /usr | sort", "LC_ALL=C; find /usr -xdev | sort | sha256sum", timeout=300)
# Files in /etc are compared, and a network brings two of its own.
no_network = ["--net", "none"]
compare("tar of /etc, stable order", "tar c --sort=name --format=gnu /etc 2>/dev/null | sha256sum", options=no_network)
compare("ls -laR (short)", "ls -laR /etc /usr/share/doc/g* 2>/dev/null", options=no_network)
compare("ls -laR /usr/share/doc", "ls -laR /usr/share/doc | sha256sum", timeout=300)
compare("du, stat, readlink", "cd /usr/lib; du -a --apparent-size . | sort -k2 | sha256sum; stat -c '%n %a %u %g %s %h %Y' /bin /etc/* | sha256sum", options=no_network)

TEXT = "seq 1 {count} | awk '{{print $1*7919%1000003, \"line\", $1, \"of a file\"}}'"
compare("sort, awk, sed, perl over text through pipes (5 MB)",
        TEXT.format(count=200000) + " | sort -n | sed 's/line/row/; s/of a //' | perl -ne 'print scalar reverse, \"\\n\"' | "
        "awk '{n+=length($0)} END {print NR, n}'")
compare("sort, awk, sed, perl over a 100 MB file through pipes",
        TEXT.format(count=4000000) + " > /tmp/joey-big; ls -l /tmp/joey-big | cut -d' ' -f5; sort -n /tmp/joey-big | "
        "sed 's/line/row/' | perl -pe 's/row/ROW/' | awk '{n+=length($0)} END {print NR, n}'; sha256sum < /tmp/joey-big; rm /tmp/joey-big",
        long=True, timeout=900)
compare("bash: arrays, here-documents, process substitution, arithmetic",
        "a=(x y z); cat <<< \"${a[@]}\"; diff <(seq 3) <(seq 4); echo $((2**40)); printf '%s\\n' {a..e} | tac; "
        "while read -r l; do echo \"[$l]\"; done < <(echo one; echo two)")
compare("xargs -P, find -exec, parallel children", "seq 50 | xargs -P4 -I{} sh -c 'echo {}' | sort -n | sha256sum; find /etc -name '*.conf' -exec md5sum {} + | sort | sha256sum", options=no_network)
compare("gzip, xz and cat of a pipe", "seq 100000 | gzip -n | tee >(sha256sum >&2) | gunzip | md5sum", stderr=True)
compare("signals and traps in bash", "trap 'echo term' TERM; kill -TERM $$; (exit 3); echo $?; sleep 5 & kill $!; wait $!; echo $?")
compare("timeout", "timeout 0.3 sleep 5; echo $?; timeout -s KILL 0.3 sleep 5 2>/dev/null; echo $?", stderr=False)

PYTHON = {
    "threads": "import threading,queue\nq=queue.Queue()\nts=[threading.Thread(target=lambda i=i:q.put(sum(range(i*1000)))) for i in range(20)]\n"
               "[t.start() for t in ts];[t.join() for t in ts]\nprint(sorted(q.get() for _ in ts))",
    "subprocess": "import subprocess\nprint(subprocess.run(['sort'],input=b'b\\na\\n',capture_output=True))\n"
                  "print([subprocess.Popen(['sh','-c','exit %d'%i]).wait() for i in range(5)])",
    "multiprocessing": "import multiprocessing as m\ndef f(x): return x*x\nif __name__=='__main__':\n"
                       " with m.Pool(3) as p: print(p.map(f,range(50)))\n q=m.Queue(); r=m.Process(target=q.put,args=('x',)); r.start(); print(q.get()); r.join(); print(r.exitcode)",
    "sqlite3": "import sqlite3\nc=sqlite3.connect('/tmp/joey-test.db')\nc.execute('drop table if exists t');c.execute('create table t(a,b)')\n"
               "c.executemany('insert into t values(?,?)',[(i,str(i)*3) for i in range(2000)]);c.commit()\n"
               "print(c.execute('select count(*),sum(a),max(b) from t').fetchall());c.close()\nimport os;os.unlink('/tmp/joey-test.db')",
    "asyncio over Unix sockets": "import asyncio,os\nP='/tmp/joey-test.sock'\nasync def h(r,w):\n while d:=await r.readline():\n  w.write(d.upper()); await w.drain()\n w.close()\n"
                                 "async def c(i):\n r,w=await asyncio.open_unix_connection(P)\n w.write(b'hello %d\\n'%i); await w.drain()\n d=await r.readline(); w.close(); return d\n"
                                 "async def main():\n s=await asyncio.start_unix_server(h,P)\n print(sorted(await asyncio.gather(*[c(i) for i in range(20)])))\n s.close(); os.unlink(P)\n"
                                 "asyncio.run(main())",
    "mmap, select, signals, timers": "import mmap,select,os,signal,time\nm=mmap.mmap(-1,1<<20);m[5:8]=b'abc';print(m[0:10])\nr,w=os.pipe();print(select.select([r],[w],[],0.1)[1]==[w])\n"
                                     "signal.signal(signal.SIGALRM,lambda *a:print('alarm'));signal.setitimer(signal.ITIMER_REAL,0.05);time.sleep(0.2)\n"
                                     "p=select.epoll();p.register(r,select.EPOLLIN);os.write(w,b'x');print(p.poll(1)==[(r,1)])",
}
for each, source in PYTHON.items():
    compare(f"python3 {each}", ["python3", "-c", source])

C_PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static void* square(void* n) { return (void*)((long)n * (long)n); }
int main(int argc, char** argv) {
    pthread_t t[8]; long sum = 0;
    for (long i = 0; i < 8; i++) pthread_create(&t[i], 0, square, (void*)i);
    for (int i = 0; i < 8; i++) { void* r; pthread_join(t[i], &r); sum += (long)r; }
    printf("%d %s %ld\n", argc, argv[1], sum);
    return 17;
}
"""


@case("same as the host: gcc compiles and runs a program")
def gcc():
    # The compiler's output goes to /tmp: the guest's own, or the host's.
    same("d=$(mktemp -d); cd $d; cat > a.c; gcc -O1 -pthread a.c -o a && ./a word; s=$?; sha256sum < a; cd /; rm -r $d; exit $s",
         stdin=C_PROGRAM.encode())


def make_project(count):
    return (f"d=$(mktemp -d); cd $d; for i in $(seq {count}); do echo \"int f$i(int x) {{ return x * $i + 1; }}\" > f$i.c; done; "
            f"{{ for i in $(seq {count}); do echo \"int f$i(int);\"; done; echo '#include <stdio.h>'; echo 'int main(void) {{ long s = 0;'; "
            f"for i in $(seq {count}); do echo \"s += f$i($i);\"; done; echo 'printf(\"%ld\\n\", s); return 0; }}'; }} > main.c; "
            "printf 'O := $(patsubst %%.c,%%.o,$(sort $(wildcard *.c)))\\nprog: $(O)\\n\\tgcc -o $@ $^\\n' > Makefile; "
            "make -j2 > log 2>&1; s=$?; sort log | sha256sum; ./prog; sha256sum < prog; cd /; rm -r $d; exit $s")


compare("make -j2 of 8 files", make_project(8), timeout=180)
compare("make -j2 of 50 files", make_project(50), long=True, timeout=600)

GIT = ("export HOME=/nonexistent GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' GIT_CONFIG_NOSYSTEM=1; "
       "d=$(mktemp -d); cd $d; git init -q -b main .; git config user.name n; git config user.email e@x; "
       "for i in $(seq {count}); do mkdir -p d$((i % 20)); echo \"file $i\" > d$((i % 20))/f$i; done; "
       "git add . && git commit -q -m first && echo more >> d1/f1 && git commit -q -a -m second; git log --format='%H %s'; git status --short; "
       "git ls-files | sha256sum; git fsck 2>&1; cd /; rm -rf $d")
compare("git init, add, commit, log on 200 files", GIT.format(count=200))
compare("git init, add, commit, log on 2,000 files", GIT.format(count=2000), long=True, timeout=300)

for engine in "io_uring", "libaio", "sync":
    compare(f"fio verifies what it wrote by {engine}",
            f"fio --name=verified --ioengine={engine} --rw=randwrite --bs=4k --size=2m --iodepth=8 --verify=crc32c "
            f"--filename=/tmp/joey-fio-{engine} --output=/dev/null; echo $?; rm -f /tmp/joey-fio-{engine}")

NODE = ("const {Worker,isMainThread,parentPort,workerData}=require('worker_threads');"
        "const src=`const {parentPort,workerData}=require('worker_threads');let s=0;for(let i=0;i<1e6;i++)s+=i%workerData;parentPort.postMessage(s)`;"
        "Promise.all([1,2,3].map(n=>new Promise(r=>new Worker(src,{eval:true,workerData:n+1}).on('message',r)))).then(a=>console.log(a))")
compare("node with worker threads", ["node", "-e", NODE], timeout=120)
compare("node reads and writes files", ["node", "-e", "const fs=require('fs');fs.writeFileSync('/tmp/joey-node','x'.repeat(1e6));console.log(fs.statSync('/tmp/joey-node').size);fs.unlinkSync('/tmp/joey-node')"])

JAVA = """
import java.util.concurrent.*;
public class Main {
    public static void main(String[] args) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        long sum = 0;
        java.util.List<Future<Long>> all = new java.util.ArrayList<>();
        for (int i = 0; i < 16; i++) { final long n = i; all.add(pool.submit(() -> n * n)); }
        for (Future<Long> f : all) sum += f.get();
        pool.shutdown();
        System.out.println(sum);
    }
}
"""
compare("java -version", "java -version", timeout=120)

@case("same as the host: a compiled Java class with threads")
def java_class():
    with scratch() as folder:
        with open(os.path.join(folder, "Main.java"), "w") as file:
            file.write(JAVA)
        equal("javac on the host", 0, run(["javac", "Main.java"], cwd=folder).status)
        same(["java", "-cp", folder, "Main"], timeout=120)


@case("ps, top, free are content with /proc")
def proc_tools():
    result = joey_sh("ps aux | head -3 && ps -ef | grep -c bash && top -bn1 | head -5 && free | head -2 && uptime", timeout=60)
    equal("status", 0, result.status)
    equal("stderr", b"", result.err)
    holds("ps lists the program", b"bash" in result.out or b"ps" in result.out, result.out)


@case("the machine's language tools run from a script file with #!")
def shebang():
    with scratch() as folder:
        for name, text in (("a.sh", "#!/bin/sh\necho sh $0 $1\n"), ("b.py", "#!/usr/bin/env python3\nimport sys\nprint(sys.argv)\n"),
                           ("c.pl", "#!/usr/bin/perl -w\nprint \"@ARGV\\n\";\n"), ("d.awk", "#!/usr/bin/awk -f\nBEGIN { print ARGV[1] }\n")):
            path = os.path.join(folder, name)
            with open(path, "w") as file:
                file.write(text)
            os.chmod(path, 0o755)
            same([path, "argument"])
