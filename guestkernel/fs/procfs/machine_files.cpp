// The machine's parts: memory zones, interrupts, sockets; proc(5). There is one node with one zone,
// no block device, and no module.
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/ipc/unix_socket.hpp"
#include "guestkernel/mm/frame.hpp"
#include "guestkernel/mm/heap.hpp"

namespace kernel::procfs {

Result<void> show_zoneinfo(TextBuilder& out, const TableContext&) {
    const MemoryStats m = memory_stats();
    out.append("Node 0, zone   Normal\n  per-node stats\n");
    const auto line = [&](std::string_view name, u64 value) {
        out.append("      ");
        out.append(name);
        out.print(" {}\n", value);
    };
    line("nr_inactive_anon", 0);
    line("nr_active_anon", m.anonymous);
    line("nr_inactive_file", 0);
    line("nr_active_file", m.cached);
    line("nr_anon_pages", m.anonymous);
    line("nr_file_pages", m.cached + m.shared);
    line("nr_dirty", m.dirty);
    line("nr_shmem", m.shared);
    out.print(
        "  pages free     {}\n        spanned  {}\n        present  {}\n        managed  {}\n",
        m.free, m.total, m.total, m.total);
    return {};
}

Result<void> show_buddyinfo(TextBuilder& out, const TableContext&) {
    u64 blocks[buddy_orders];
    free_blocks(blocks);
    out.append("Node 0, zone   Normal ");
    for (const u64 count : blocks) {
        out.number(count, 6);
        out.append(" ");
    }
    out.append("\n");
    return {};
}

// slabinfo(5): the kernel's small objects, by size.
Result<void> show_slabinfo(TextBuilder& out, const TableContext&) {
    out.append("slabinfo - version: 2.1\n# name            <active_objs> <num_objs> <objsize> "
               "<objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : "
               "slabdata <active_slabs> <num_slabs> <sharedavail>\n");
    SlabUsage usage = {};
    for (unsigned i = 0; slab_usage(i, usage); i++) {
        out.print("kmalloc-{} ", usage.object_bytes);
        out.number(usage.objects, 10);
        for (const u64 number : {usage.slabs * usage.objects_per_slab, u64{usage.object_bytes},
                                 u64{usage.objects_per_slab}, u64{usage.pages_per_slab}}) {
            out.append(" ");
            out.number(number, 6);
        }
        out.print(" : tunables    0    0    0 : slabdata {} {} 0\n", usage.slabs, usage.slabs);
    }
    return {};
}

// Soft interrupts are not counted by kind.
Result<void> show_softirqs(TextBuilder& out, const TableContext&) {
    static constexpr std::string_view kinds[] = {"HI",      "TIMER",    "NET_TX",  "NET_RX",
                                                 "BLOCK",   "IRQ_POLL", "TASKLET", "SCHED",
                                                 "HRTIMER", "RCU"};
    out.append("                    ");
    for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++)
        out.print("CPU{}       ", cpu);
    out.append("\n");
    for (const std::string_view kind : kinds) {
        out.pad_to(kind.size(), 12);
        out.append(kind);
        out.append(":");
        for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++)
            out.append("          0");
        out.append("\n");
    }
    return {};
}

Result<void> show_net_unix(TextBuilder& out, const TableContext&) {
    out.append("Num       RefCount Protocol Flags    Type St Inode Path\n");
    for_each_unix_endpoint(
        [](const UnixEndpoint& endpoint, void* context) {
            auto& to = *static_cast<TextBuilder*>(context);
            constexpr u32 accepts = 1u << 16; // __SO_ACCEPTCON
            const bool listens = endpoint.state == UnixState::Listening;
            const bool connected = endpoint.state == UnixState::Connected;
            to.append("0000000000000000: ");
            to.hex(endpoint.ref_count(), 8);
            to.append(" 00000000 ");
            to.hex(listens ? accepts : 0, 8);
            to.append(" ");
            to.hex(static_cast<u64>(endpoint.type), 4);
            to.append(connected ? " 03 " : " 01 "); // SS_CONNECTED, SS_UNCONNECTED
            to.number(endpoint.inode_number, 5);
            if (endpoint.name) {
                to.append(endpoint.name->abstract() ? " @" : " ");
                std::string_view name(reinterpret_cast<const char*>(endpoint.name->bytes),
                                      endpoint.name->length);
                if (endpoint.name->abstract())
                    name.remove_prefix(1);
                while (!name.empty() && name.back() == '\0')
                    name.remove_suffix(1);
                for (const char& c : name)
                    to.append(c == '\0' ? std::string_view("@") : std::string_view(&c, 1));
            }
            to.append("\n");
        },
        &out);
    return {};
}

} // namespace kernel::procfs
