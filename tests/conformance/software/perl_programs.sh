# Perl: regular expressions, sorting, sockets in pairs, fork, pipes, threads of ithreads, sprintf, pack, locale, its own modules.
perl -Mthreads -MTest::More -MFile::Temp=tempdir -MSocket -MIO::Select -MPOSIX -MStorable -MTime::HiRes -MDigest::SHA=sha256_hex -MThread::Queue -e '
    is(join(",", sort { $a <=> $b } 10, 9, 2, 33), "2,9,10,33");
    is("a1b22" =~ s/(\d+)/<$1>/gr, "a<1>b<22>");
    socketpair(my $left, my $right, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die;
    my $child = fork // die;
    if (!$child) { close $left; syswrite $right, "from child\n"; POSIX::_exit(3); }
    close $right;
    is(scalar(<$left>), "from child\n"); waitpid $child, 0; is($? >> 8, 3);
    open(my $pipe, "-|", "seq 5 | tac") or die; is(join("", <$pipe>), "5\n4\n3\n2\n1\n"); ok(close $pipe);
    my $queue = Thread::Queue->new; my @workers = map { my $n = $_; threads->create(sub { $queue->enqueue($n * $n) }) } 1 .. 8; $_->join for @workers;
    my $sum = 0; $sum += $queue->dequeue for 1 .. 8; is($sum, 204);
    my $folder = tempdir(CLEANUP => 1); Storable::store({ deep => [1, { two => 2 }] }, "$folder/s"); is(Storable::retrieve("$folder/s")->{deep}[1]{two}, 2);
    is(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    local $SIG{ALRM} = sub { die "late\n" }; alarm 1; eval { select undef, undef, undef, 30 }; is($@, "late\n");
    is(unpack("H*", pack("nNvV", 1, 2, 3, 4)), "0001000000020300040000" . "00");
    done_testing;'
