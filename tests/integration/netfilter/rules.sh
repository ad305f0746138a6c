#!/bin/sh
# Rules of every kind that Debian's nft and iptables load, told back, and the errors of wrong ones. What this prints on Linux
# is what it prints inside (cases_netfilter.py). To be run in a network namespace without rules.
exec 2>&1
nft -f - <<RULES
table ip t {
  counter c1 { packets 0 bytes 0 }
  set s1 { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.1.1-192.168.1.5 } }
  set s2 { type inet_service; elements = { 22, 80 } }
  map m1 { type inet_service : ipv4_addr . inet_service; elements = { 80 : 10.0.0.1 . 8080 } }
  map v1 { type ipv4_addr : verdict; elements = { 1.2.3.4 : jump other } }
  set dyn { type ipv4_addr; size 100; flags dynamic,timeout; timeout 1m; }
  chain other { counter return; }
  chain in {
    type filter hook input priority 0; policy drop;
    ct state established,related accept
    icmp type echo-request counter limit rate 5/second accept
    tcp dport { 80, 443, 8000-8010 } counter accept
    ip saddr @s1 tcp dport @s2 counter name c1 log prefix "hello " level warn
    ip saddr vmap @v1
    ip saddr vmap { 10.0.0.1 : accept, 10.0.0.2 : drop }
    meta mark set mark and 0xff
    iifname "eth*" ip daddr != 10.1.0.0/16 reject with icmp type host-prohibited
    tcp flags syn reject with tcp reset
    add @dyn { ip saddr limit rate 10/second } accept
    ip saddr . tcp dport { 1.1.1.1 . 80, 2.2.2.2 . 90-100 } accept
    fib daddr type local accept
  }
}
table inet n {
  chain pre { type nat hook prerouting priority dstnat;
    tcp dport 8080 dnat ip to 10.0.0.2:80
    tcp dport 81 redirect to :8081
    udp dport 1000-2000 dnat ip to 10.0.0.2-10.0.0.9
    dnat ip to tcp dport map { 80 : 10.0.0.1, 443 : 10.0.0.2 }
    dnat ip to numgen random mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }
  }
  chain post { type nat hook postrouting priority srcnat; oifname "eth0" masquerade random
    ip saddr 10.0.0.0/24 ip protocol tcp snat ip to 1.2.3.4:1000-2000 persistent
    ip6 saddr fd00::/8 masquerade
  }
  chain o { type route hook output priority mangle;
    meta mark set 1; ip dscp set af11
    meta skuid 1000 ct mark set 7
    ct mark set meta mark
  }
  chain f { type filter hook forward priority filter; policy accept;
    tcp flags & (syn | rst) == syn counter packets 3 bytes 4
    ct status dnat accept
    ct state vmap { established : accept, related : accept, invalid : drop }
    ip6 nexthdr icmpv6 icmpv6 type { nd-neighbor-solicit, echo-request } accept
    meta pkttype broadcast drop
    ip ttl 1 drop
    meta iif lo accept
    quota over 100 mbytes drop
    limit rate over 10 mbytes/second burst 5 mbytes drop
    ct original ip saddr 1.2.3.4 ct direction reply accept
    jump {
      ip saddr 9.9.9.9 drop
      return
    }
    reject
    ip saddr != { 1.1.1.1, 2.2.2.2 } log group 5 prefix "g"
  }
}
RULES
echo "loaded: $?"
# Tables are numbered across all network namespaces.
nft -a list ruleset | sed 's/^\(table .*{\) # handle .*/\1/'
echo "== what is refused, and changes"
nft add rule ip t nope accept
nft delete chain ip t other
nft delete table ip nope
nft add element ip t s2 '{ 22, 8080 }'
nft delete element ip t s2 '{ 80 }'
nft list set ip t s2
nft get element ip t s1 '{ 10.1.2.3 }'
nft add chain ip t a
nft add chain ip t b
nft add rule ip t a jump b
nft add rule ip t b jump a
nft add rule ip t in masquerade
nft insert rule ip t in position 999 accept
nft rename chain inet n o oo
nft list chains
nft add chain inet n x '{ type nat hook forward priority 0; }'
nft add map inet n mm '{ type ipv4_addr : verdict; }'
nft add element inet n mm '{ 1.1.1.1 : jump oo }'
nft add chain inet n q
nft add element inet n mm '{ 1.1.1.1 : jump q }'
nft delete chain inet n q
nft list map inet n mm
nft add set inet n big '{ type ipv4_addr; flags interval; auto-merge; }'
nft add element inet n big '{ 10.0.0.0-10.0.0.5, 10.0.0.6-10.0.0.9, 11.0.0.0/8 }'
nft list set inet n big
# All or nothing: the second line is wrong, so the first one leaves no trace.
nft -f - <<RULES
add table ip half
add rule ip half nope accept
RULES
nft list tables
nft flush ruleset
nft list ruleset
echo "== iptables"
iptables -t nat -A OUTPUT -p tcp -m tcp --dport 80 -m comment --comment hi -j DNAT --to-destination 127.0.0.1:8080
iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A INPUT -m addrtype --dst-type LOCAL -p tcp -m multiport --dports 80,443 -j DROP
iptables -A INPUT -p udp --dport 53 -j REJECT --reject-with icmp-port-unreachable
iptables -A INPUT -m mark --mark 0x4000/0x4000 -j MARK --set-xmark 0x1/0xff
iptables -t nat -N DOCKER
iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE --random-fully
iptables -A INPUT -m limit --limit 5/min -j LOG --log-prefix "x "
iptables -A INPUT -i eth+ -s 10.0.0.1 -j ACCEPT
iptables -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
iptables -P FORWARD DROP
iptables -I INPUT 2 -p icmp --icmp-type 8 -j ACCEPT
iptables -D INPUT 3
iptables -t nat -X DOCKER
iptables-save | grep -v "^#"
ip6tables -A INPUT -p icmpv6 -j ACCEPT
ip6tables -A FORWARD -j REJECT
ip6tables-save | grep -v "^#"
before=$(iptables-save | grep -v "^#")
iptables-save | iptables-restore
[ "$before" = "$(iptables-save | grep -v '^#')" ] && echo "restored as it was"
