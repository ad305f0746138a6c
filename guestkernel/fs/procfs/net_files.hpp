// /proc/net: what stands in it is the network namespace's of the process whose directory it is in.
#pragma once

#include "guestkernel/fs/mode.hpp"
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
Result<void> show_net_snmp(TextBuilder& out, const TableContext& of);
Result<void> show_net_softnet_stat(TextBuilder& out, const TableContext& of);
Result<void> show_net_snmp6(TextBuilder& out, const TableContext& of);

Result<void> show_net_conntrack(TextBuilder& out, const TableContext& of);

extern const TableEntry net_entries[28];
extern const TableEntry net_stat_entries[1];   // /proc/net/stat
extern const TableEntry net_sysctl_entries[5]; // /proc/sys/net
extern const TableEntry netfilter_entries[23]; // /proc/sys/net/netfilter

// Whose settings are seen below /proc/sys/net: the caller's, or of a descriptor the ones that
// whoever opened it saw. Who may write them: root of the user namespace that owns the network
// namespace.
net::Stack& own_stack(const TableContext& of);
Result<Ref<RefCounted>> bind_network(TableContext& of);
void net_owner(const TableContext& of, u32& uid, u32& gid);
bool may_set_network(const TableContext& of);

// nf_conntrack_max: in two places.
Result<void> show_most_connections(TextBuilder& out, const TableContext& of);
Result<void> store_most_connections(std::string_view text, const TableContext& of);
Result<Ref<File>> open_most_connections(const Path& path, Ref<Inode> inode, u32 flags,
                                        const TableContext& of);
inline constexpr TableEntry most_connections_entry = {.name = "nf_conntrack_max",
                                                      .mode = mode_regular | 0644,
                                                      .show = show_most_connections,
                                                      .store = store_most_connections,
                                                      .open = open_most_connections,
                                                      .owner = net_owner,
                                                      .admits = may_set_network,
                                                      .bind = bind_network};

} // namespace kernel::procfs
