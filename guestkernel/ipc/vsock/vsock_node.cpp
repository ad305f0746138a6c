// The family as the system sees it: registered at boot, and /dev/vsock, which knows the guest's
// CID.
#include "guestkernel/ipc/vsock/vsock_node.hpp"

#include <linux/errno.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/ipc/vsock/vsock_socket.hpp"
#include "guestkernel/mm/user_copy.hpp"

namespace kernel {

namespace {

class VsockDeviceFile final : public File {
public:
    using File::File;
    Result<long> ioctl(u32 command, u64 argument) override {
        constexpr u32 get_local_cid = 0x7b9; // IOCTL_VM_SOCKETS_GET_LOCAL_CID
        if (command != get_local_cid)
            return fail(ENOTTY);
        const u32 cid = vsock_device_present() ? vsock_guest_cid() : vsock_cid_local;
        TRY(UserPtr<u32>(argument).copy_out(cid));
        return 0;
    }
};

Result<Ref<File>> open_vsock_node(const Path& path, Ref<Inode> inode, u32 flags, u64) {
    TRY(Ref<VsockDeviceFile> file, make_ref<VsockDeviceFile>(path, std::move(inode), flags));
    return Ref<File>(std::move(file));
}

} // namespace

void init_vsock() {
    register_socket_family(vsock_family);
    register_char_device(misc_major, vsock_minor, 1, open_vsock_node);
}

} // namespace kernel
