#include "guestkernel/fs/path.hpp"

#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/mount.hpp"

namespace kernel {

Path::Path() = default;

Path::Path(Ref<Mount> mount, Ref<Dentry> dentry) : mount_(mount.leak()), dentry_(dentry.leak()) {}

Path::Path(const Path& other) : mount_(other.mount_), dentry_(other.dentry_) {
    if (mount_ != nullptr)
        mount_->add_ref();
    if (dentry_ != nullptr)
        dentry_->add_ref();
}

Path::Path(Path&& other) noexcept
    : mount_(std::exchange(other.mount_, nullptr)), dentry_(std::exchange(other.dentry_, nullptr)) {
}

Path& Path::operator=(Path other) noexcept {
    std::swap(mount_, other.mount_);
    std::swap(dentry_, other.dentry_);
    return *this;
}

Path::~Path() {
    // The dentry first: the mount keeps its file system alive.
    if (dentry_ != nullptr)
        dentry_->release();
    if (mount_ != nullptr)
        mount_->release();
}

} // namespace kernel
