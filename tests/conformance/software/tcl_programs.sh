# Tcl: events, channels, subprocesses, files, threads where built in.
cat >program.tcl <<'SCRIPT'
proc must {what expected found} { if {$expected ne $found} { puts stderr "$what: $found instead of $expected"; exit 1 } }
must arithmetic 1267650600228229401496703205376 [expr {2**100}]
set pipe [open "|seq 1000" r]; fconfigure $pipe -blocking 0
set total 0
proc readable {} { global pipe total done
    while {[gets $pipe line] >= 0} { incr total $line }
    if {[eof $pipe]} { set done 1 } }
fileevent $pipe readable readable
after 60000 { puts stderr "no end of file"; exit 1 }
vwait done
must events 500500 $total
file mkdir deep/er; set f [open deep/er/file w]; puts $f "text"; close $f
must size 5 [file size deep/er/file]
must glob deep/er/file [lindex [glob deep/*/*] 0]
must exec "5\n4\n3" [exec seq 3 5 | tac]
must failure {CHILDSTATUS 7} [lreplace [catch {exec sh -c {exit 7}} text options; dict get $options -errorcode] 1 1]
set order {}; after 30 {lappend order b}; after 1 {lappend order a}; after 60 {set ready 1}; vwait ready
must timers {a b} $order
must clock 2001-09-09 [clock format 1000000000 -format %Y-%m-%d -gmt 1]
file delete -force deep; must gone 0 [file exists deep]
puts fine
SCRIPT
test "$(tclsh program.tcl)" = fine
