#include "guestkernel/net/tun/tun_file.hpp"

#include <linux/errno.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>

#include "guestkernel/fs/devices.hpp"
#include "guestkernel/fs/fdinfo.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/offload_header.hpp"
#include "guestkernel/syscalls/syscall.hpp"

namespace kernel::net {

namespace {

constexpr i32 unlimited = 0x7fff'ffff;

bool has_info(u16 framing) {
    return (framing & IFF_NO_PI) == 0;
}
bool has_offloads(u16 framing) {
    return (framing & IFF_VNET_HDR) != 0;
}

// The protocol of a packet without link header, by its version; 0: neither.
u16 protocol_of(const Packet& packet) {
    u8 first = 0;
    if (!packet.read(0, first))
        return 0;
    return first >> 4 == 4 ? ETH_P_IP : first >> 4 == 6 ? ETH_P_IPV6 : 0;
}

// Reads `bytes` of which nobody wants to know.
bool skip(IoBuffer& in, usize bytes) {
    u8 unused[64];
    while (bytes > 0) {
        const usize part = bytes < sizeof unused ? bytes : sizeof unused;
        if (in.copy_in(unused, part) != part)
            return false;
        bytes -= part;
    }
    return true;
}

} // namespace

TunFile::TunFile(const Path& path, Ref<Inode> inode, u32 flags, Ref<NetNamespace> space,
                 Ref<Stack> stack)
    : File(path, std::move(inode), flags), space_(std::move(space)), stack_(std::move(stack)),
      header_bytes_(sizeof(OffloadHeader)), send_buffer_(unlimited) {}

TunFile::~TunFile() {
    if (!device_)
        return;
    if (!device_->remove(queue_) || device_->persistent.load())
        return;
    if (const Ref<Stack> at = device_->stack())
        at->detach(*device_);
}

Result<Ref<TunInterface>> TunFile::device() {
    SpinGuard guard(lock_);
    if (!device_ || device_->is_gone())
        return fail(EBADFD);
    return device_;
}

Result<usize> TunFile::read(IoBuffer& out, u64) {
    TRY(const Ref<TunInterface> from, device());
    if (out.remaining() == 0)
        return usize{0};
    for (;;) {
        if (const PacketPtr packet = from->take(queue_))
            return put(*packet, *from, out);
        if (from->is_gone())
            return fail(EBADFD);
        if (non_blocking())
            return fail(EAGAIN);
        const auto ready = [&] { return from->has_packets(queue_) || from->is_gone(); };
        if (wait_until(queue_.waiters, ready) == WaitOutcome::Interrupted)
            return fail(restart_syscall);
    }
}

// What does not fit is lost.
Result<usize> TunFile::put(const Packet& packet, const TunInterface& from, IoBuffer& out) const {
    const u16 framing = from.framing.load();
    const usize room = out.remaining();
    const usize info_bytes = has_info(framing) ? sizeof(tun_pi) : 0;
    const usize offload_bytes = has_offloads(framing) ? header_bytes_.load() : 0;
    const usize total = info_bytes + offload_bytes + packet.length();
    if (room < info_bytes || room - info_bytes < offload_bytes)
        return fail(EINVAL);
    if (info_bytes != 0) {
        tun_pi info{};
        if (room < total)
            info.flags = TUN_PKT_STRIP;
        const u16 protocol = from.has_link_addresses() ? packet.link_protocol : protocol_of(packet);
        info.proto = __builtin_bswap16(protocol);
        if (out.copy_out(&info, sizeof info) != sizeof info)
            return fail(EFAULT);
    }
    if (offload_bytes != 0) {
        const OffloadHeader header = describe_offloads(packet);
        if (out.copy_out(&header, sizeof header) != sizeof header ||
            out.zero_out(offload_bytes - sizeof header) != offload_bytes - sizeof header)
            return fail(EFAULT);
    }
    const usize left = out.remaining();
    const u32 bytes = left < packet.length() ? static_cast<u32>(left) : packet.length();
    TRY(const u32 copied, packet.copy_to(out, 0, bytes));
    if (copied != bytes)
        return fail(EFAULT);
    return total < room ? total : room;
}

Result<PacketPtr> TunFile::get(TunInterface& to, IoBuffer& in) const {
    const u16 framing = to.framing.load();
    if (has_info(framing)) { // the packet's own first byte says the same
        if (in.remaining() < sizeof(tun_pi))
            return fail(EINVAL);
        if (!skip(in, sizeof(tun_pi)))
            return fail(EFAULT);
    }
    OffloadHeader header{};
    if (has_offloads(framing)) {
        const usize expected = header_bytes_.load();
        if (in.remaining() < expected)
            return fail(EINVAL);
        if (in.copy_in(&header, sizeof header) != sizeof header ||
            !skip(in, expected - sizeof header))
            return fail(EFAULT);
    }
    if (in.remaining() > Packet::max_bytes || header.header_length > in.remaining() ||
        (to.has_link_addresses() && in.remaining() < ETH_HLEN))
        return fail(EINVAL);
    const u32 bytes = static_cast<u32>(in.remaining());
    const u32 most = Packet::max_linear() - Packet::default_headroom;
    PacketPtr packet = Packet::allocate(bytes < most ? bytes : most);
    if (!packet)
        return fail(ENOMEM);
    TRY(packet->append(in, bytes));
    // Segments whose checksums nobody has to make would go on with wrong ones.
    if (!apply_offloads(header, *packet) || (packet->segmentation != Segmentation::None &&
                                             packet->checksum_state != ChecksumState::Partial)) {
        count(to.counters.rx_errors);
        return fail(EINVAL);
    }
    if (!to.has_link_addresses() && !has_info(framing) && protocol_of(*packet) == 0) {
        count(to.counters.rx_dropped);
        return fail(EINVAL);
    }
    return packet;
}

Result<usize> TunFile::write(IoBuffer& in, u64) {
    TRY(const Ref<TunInterface> to, device());
    const usize total = in.remaining();
    TRY(PacketPtr packet, get(*to, in));
    if (!to->is_up())
        return fail(EIO);
    to->learn(queue_, *packet);
    to->receive(std::move(packet));
    run_backlog(); // what was answered at once
    return total;
}

u32 TunFile::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(queue_.waiters);
    const auto own = device();
    if (!own)
        return poll_err;
    return ((*own)->has_packets(queue_) ? poll_in | poll_rdnorm : 0) |
           ((*own)->is_up() ? poll_out | poll_wrnorm : 0);
}

Result<void> TunFile::describe_state(String& out) {
    const auto own = device();
    return own ? append_line(out, "iff:\t{}\n", (*own)->name()) : Result<void>();
}

void register_tun_device() {
    constexpr auto open = [](const Path& path, Ref<Inode> inode, u32 flags,
                             u64) -> Result<Ref<File>> {
        Ref<NetNamespace> space = Ref<NetNamespace>::share(current_net_namespace());
        Ref<Stack> stack = Ref<Stack>::share(&stack_of(space.get()));
        TRY(Ref<TunFile> file,
            make_ref<TunFile>(path, std::move(inode), flags, std::move(space), std::move(stack)));
        return Ref<File>(std::move(file));
    };
    register_char_device(tun_major, tun_minor, 1, open);
}

} // namespace kernel::net
