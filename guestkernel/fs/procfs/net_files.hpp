// /proc/net: what stands in it is the network namespace's of the process whose directory it is in.
#pragma once

#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/net/stack.hpp"

namespace kernel::procfs {

Result<Ref<net::Stack>> subject_stack(const TableContext& of);

Result<void> show_net_tcp(TextBuilder& out, const TableContext& of);
Result<void> show_net_tcp6(TextBuilder& out, const TableContext& of);
Result<void> show_net_udplite(TextBuilder& out, const TableContext& of);
Result<void> show_net_udp(TextBuilder& out, const TableContext& of);
Result<void> show_net_udplite6(TextBuilder& out, const TableContext& of);
Result<void> show_net_udp6(TextBuilder& out, const TableContext& of);
Result<void> show_net_raw(TextBuilder& out, const TableContext& of);
Result<void> show_net_raw6(TextBuilder& out, const TableContext& of);
Result<void> show_net_sockstat(TextBuilder& out, const TableContext& of);
Result<void> show_net_sockstat6(TextBuilder& out, const TableContext& of);

Result<void> show_net_dev_mcast(TextBuilder& out, const TableContext& of);
Result<void> show_net_fib_trie(TextBuilder& out, const TableContext& of);
Result<void> show_net_igmp(TextBuilder& out, const TableContext& of);
Result<void> show_net_igmp6(TextBuilder& out, const TableContext& of);
Result<void> show_net_netstat(TextBuilder& out, const TableContext& of);
Result<void> show_net_packet(TextBuilder& out, const TableContext& of);
Result<void> show_net_snmp6(TextBuilder& out, const TableContext& of);

extern const TableEntry net_entries[25];
extern const TableEntry net_sysctl_entries[3]; // /proc/sys/net

} // namespace kernel::procfs
