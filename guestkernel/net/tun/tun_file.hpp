// TunFile: an open /dev/net/tun. Has no interface until TUNSETIFF; until then, and after its
// interface was deleted, calls fail with EBADFD.
#pragma once

#include "guestkernel/fs/file.hpp"
#include "guestkernel/namespaces/namespace.hpp"
#include "guestkernel/net/stack.hpp"
#include "guestkernel/net/tun/tun_interface.hpp"

namespace kernel::net {

class TunFile final : public File {
public:
    static constexpr char file_type[] = "tun";
    TunFile(const Path& path, Ref<Inode> inode, u32 flags, Ref<NetNamespace> space,
            Ref<Stack> stack);
    ~TunFile() override;

    // One packet each, with the headers that TUNSETIFF asked for.
    Result<usize> read(IoBuffer& out, u64 offset) override;
    Result<usize> write(IoBuffer& in, u64 offset) override;
    Result<long> ioctl(u32 command, u64 argument) override;
    u32 poll(PollTable* table) override;
    Result<void> describe_state(String& out) override;
    bool is_stream() const override { return true; }
    bool signals_readiness() const override { return true; }
    const char* type_name() const override { return file_type; }

private:
    Result<Ref<TunInterface>> device(); // EBADFD
    Result<usize> put(const Packet& packet, const TunInterface& from, IoBuffer& out) const;
    Result<PacketPtr> get(TunInterface& to, IoBuffer& in) const;

    // --- tun_ioctl.cpp
    Result<void> set_interface(u64 argument);
    Result<Ref<TunInterface>> attach(std::string_view name, u16 flags);
    Result<Ref<TunInterface>> make_interface(std::string_view name, u16 flags);
    Result<void> set_queue(u64 argument);
    Result<void> get_interface(TunInterface& device, u64 argument);
    Result<void> change_number(u32 command, u64 argument);

    const Ref<NetNamespace> space_; // that it was opened in: lives as long
    const Ref<Stack> stack_;
    TunQueue queue_;
    Mutex changes_; // of what follows
    SpinLock lock_{LockRank::Leaf};
    Ref<TunInterface> device_; // set once; under lock_, too
    u32 wanted_index_ = 0;
    base::Atomic<u32> header_bytes_;
    base::Atomic<i32> send_buffer_;
};

void register_tun_device(); // /dev/net/tun, at boot

} // namespace kernel::net
