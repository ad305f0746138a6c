// devtmpfs: /dev, a tmpfs that is born with the device nodes. One instance, however often it is
// mounted.
#include <linux/errno.h>

#include "guestkernel/fs/devices.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/tmpfs.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/fs/virtiofs/fuse_connection.hpp"
#include "guestkernel/ipc/vsock/vsock_node.hpp"

namespace kernel {

namespace {

struct Node {
    const char* name;
    u32 mode, major, minor;
};
// Numbers from Linux's Documentation/admin-guide/devices.txt.
constexpr Node nodes[] = {
    {"null", mode_char | 0666, 1, 3},
    {"zero", mode_char | 0666, 1, 5},
    {"full", mode_char | 0666, 1, 7},
    {"random", mode_char | 0666, 1, 8},
    {"urandom", mode_char | 0666, 1, 9},
    {"kmsg", mode_char | 0644, 1, 11},
    {"vsock", mode_char | 0666, misc_major, vsock_minor},
    {"userfaultfd", mode_char | 0600, userfault_major, userfault_minor},
    {"fuse", mode_char | 0666, 10, 229},
    {"net", mode_directory | 0755, 0, 0},
    {"tty", mode_char | 0666, 5, 0},
    {"console", mode_char | 0600, 5, 1},
    {"ptmx", mode_char | 0666, 5, 2},
    {"pts", mode_directory | 0755, 0, 0},
    {"mqueue", mode_directory | mode_sticky | 0777, 0, 0},
    {"shm", mode_directory | mode_sticky | 0777, 0, 0},
};
struct Link {
    const char* name;
    const char* target;
};
// As udev and container runtimes make them.
constexpr Link links[] = {
    {"fd", "/proc/self/fd"},
    {"stdin", "/proc/self/fd/0"},
    {"stdout", "/proc/self/fd/1"},
    {"stderr", "/proc/self/fd/2"},
};

constinit Mutex creation;
constinit base::Atomic<TmpfsSuperblock*> instance{nullptr};

Result<void> populate(TmpfsSuperblock& superblock) {
    Ref<Inode> root = superblock.root();
    MutexGuard guard(root->mutex());
    for (const Node& node : nodes)
        TRY(root->create(node.name, node.mode, make_device(node.major, node.minor), 0, 0));
    for (const Link& link : links)
        TRY(root->symlink(link.name, link.target, 0, 0));
    TRY(const Ref<Inode> net, root->lookup("net"));
    MutexGuard inner(net->mutex());
    TRY(net->create("tun", mode_char | 0666, make_device(tun_major, tun_minor), 0, 0));
    return {};
}

} // namespace

Result<Ref<Superblock>> make_devtmpfs() {
    register_memory_devices();
    register_userfault_device();
    register_fuse_device();
    MutexGuard guard(creation);
    TmpfsSuperblock* made = instance.load(base::Order::Acquire);
    if (made == nullptr) {
        TRY(Ref<TmpfsSuperblock> fresh, make_tmpfs_superblock("mode=0755", "devtmpfs"));
        TRY(populate(*fresh));
        made = fresh.leak(); // lives as long as the kernel
        instance.store(made, base::Order::Release);
    }
    return Ref<Superblock>(Ref<TmpfsSuperblock>::share(made));
}

} // namespace kernel
