// From a tag to a file system.
#include <linux/errno.h>

#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/fs/virtiofs/virtiofs.hpp"

namespace kernel {
namespace {

// A device can be driven once, so all mounts of a tag are one file system.
struct Shared {
    char tag[40];
    usize length;
    VirtiofsSuperblock* fs; // a reference for ever: the VM's devices do not go away
};
constinit Shared shares[64] = {};
constinit usize share_count = 0;

} // namespace

Result<Ref<Superblock>> make_virtiofs(std::string_view tag, bool read_only) {
    static constinit Mutex mutex;
    MutexGuard guard(mutex);
    for (usize i = 0; i < share_count; i++)
        if (std::string_view(shares[i].tag, shares[i].length) == tag)
            return Ref<Superblock>(Ref<VirtiofsSuperblock>::share(shares[i].fs));
    if (tag.empty() || tag.size() > sizeof shares[0].tag || share_count == std::size(shares))
        return fail(ENODEV);
    TRY(FuseChannel * channel, FuseChannel::open(tag));
    auto fs = VirtiofsSuperblock::create(*channel, read_only);
    if (!fs)
        return fail(fs.error().code); // the channel stays: its device may still write to its memory
    Shared& shared = shares[share_count++];
    __builtin_memcpy(shared.tag, tag.data(), tag.size());
    shared.length = tag.size();
    shared.fs = Ref<VirtiofsSuperblock>(*fs).leak();
    return Ref<Superblock>(std::move(*fs));
}

} // namespace kernel
