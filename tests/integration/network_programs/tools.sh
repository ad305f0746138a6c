# ip, ping, traceroute, ss, nc, socat, tcpdump, dig between three namespaces in a row.
three_hosts
ip -n client -br address show dev to-router | awk '{ $1 = $2 = ""; print }' | sed 's/fe80[^ ]*//'
ip -n client route show
ip -n client -6 route show | grep -E '^(fd00|default)' | sed 's/ metric.*//'
for address in 10.2.0.2 fd00:2::2; do
    ip netns exec client ping -n -c 2 -i 0.2 -W 60 $address | sed -n 's/^\([0-9]* packets transmitted, [0-9]* received\).*/\1/p'
    ip netns exec client traceroute -n -q 1 -w 60 $address | awk 'NR > 1 { print $1, $2 }'
    ip netns exec client traceroute -n -q 1 -w 60 -I $address | awk 'NR > 1 { print $1, $2 }'
done
ip netns exec client ping -n -c 1 -W 60 10.9.9.9 | sed -n 's/^\(From [^ ]* icmp_seq=1 .*\)/\1/p' || true

echo "- what is too large is cut, or refused with the path's limit"
ip -n router link set to-server mtu 1300
ip -n server link set to-router mtu 1300
ip netns exec client ping -n -c 1 -W 60 -s 1400 -M dont 10.2.0.2 | grep -c ' 0% packet loss'
ip netns exec client ping -n -c 1 -W 60 -s 1400 -M do 10.2.0.2 | grep -o 'Frag needed and DF set (mtu = [0-9]*)' || true

echo "- nc and socat"
ip netns exec server nc -l -N 7001 </dev/null >got &
reader=$!
eventually ip netns exec server bash -c "ss -Htln | grep -q :7001"
ip netns exec server ss -Htln 'sport = :7001' | awk '{ print $1, $4, $5 }'
seq 100000 | ip netns exec client nc -N 10.2.0.2 7001
wait $reader
cksum <got
ip netns exec server socat TCP6-LISTEN:7002,fork,reuseaddr EXEC:rev &
ip netns exec server socat UDP6-RECVFROM:7003,fork EXEC:'tr a-z A-Z' &
eventually ip netns exec server bash -c "ss -Htln | grep -q :7002"
eventually ip netns exec server bash -c "ss -Huln | grep -q :7003"
echo desserts | ip netns exec client socat -t 60 - 'TCP6:[fd00:2::2]:7002'
ip netns exec client bash -c 'exec 3<>/dev/udp/10.2.0.2/7003; echo datagram >&3; head -n 1 <&3'

echo "- tcpdump sees what passes the router"
ip netns exec router tcpdump -n -U -i to-client -w packets.pcap 'icmp or tcp port 7002' 2>log &
capture=$!
eventually grep -q 'listening on' log
ip netns exec client ping -n -c 1 -W 60 -s 8 10.2.0.2 >/dev/null
echo seen | ip netns exec client socat -t 60 - TCP4:10.2.0.2:7002
# What it has captured it writes at once (-U), but it is asked for after the packets have passed.
eventually bash -c "tcpdump -n -r packets.pcap 2>/dev/null | grep -c 'Flags .F' | grep -q 2"
kill $capture
wait $capture || true
tcpdump -n -t -r packets.pcap icmp 2>/dev/null | sed 's/id [0-9]*/id N/'
tcpdump -n -t -r packets.pcap 'tcp[tcpflags] & tcp-syn != 0' 2>/dev/null | sed 's/seq [0-9]*/seq N/; s/ack [0-9]*/ack N/; s/\.[0-9]* > \(.*\)7002/.P > \17002/; s/7002 > \(.*\)\.[0-9]*: /7002 > \1.P: /; s/val [0-9]* ecr [0-9]*/val N/; s/win [0-9]*/win N/; s/wscale [0-9]*/wscale N/; s/mss [0-9]*/mss N/'
