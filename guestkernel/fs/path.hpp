// A place in the tree: a dentry seen through a mount.
#pragma once

#include "guestkernel/core/ref.hpp"

namespace kernel {

class Mount;
class Dentry;

// Out of line copies keep the users of Path free of the full dentry and mount headers.
class Path {
public:
    Path();
    Path(Ref<Mount> mount, Ref<Dentry> dentry);
    Path(const Path& other);
    Path(Path&& other) noexcept;
    Path& operator=(Path other) noexcept;
    ~Path();
    Mount* mount() const { return mount_; }
    Dentry* dentry() const { return dentry_; }
    explicit operator bool() const { return dentry_ != nullptr; }
    friend bool operator==(const Path& a, const Path& b) {
        return a.mount_ == b.mount_ && a.dentry_ == b.dentry_;
    }

private:
    Mount* mount_ = nullptr; // each holds a reference
    Dentry* dentry_ = nullptr;
};

} // namespace kernel
