#include "guestkernel/fs/internal_mount.hpp"

#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/mode.hpp"

namespace kernel {

namespace {

class NamelessSuperblock final : public Superblock {
public:
    NamelessSuperblock(const char* type, u64 magic) : type_(type), magic_(magic) {}
    Ref<Inode> root() override { return root_; }
    Result<FileSystemStats> stats() override {
        FileSystemStats out{};
        out.type = magic_;
        out.block_size = page_size;
        out.name_max = Dentry::name_limit;
        return out;
    }
    const char* type() const override { return type_; }
    Ref<Inode> root_;

private:
    const char* const type_;
    const u64 magic_;
};

} // namespace

Result<Ref<Superblock>> make_nameless_superblock(const char* type, u64 magic) {
    TRY(Ref<NamelessSuperblock> out, make_ref<NamelessSuperblock>(type, magic));
    TRY(out->root_, make_ref<Inode>(out.get(), u64{1}, u32{mode_directory | 0555}));
    return Ref<Superblock>(std::move(out));
}

Result<Ref<Mount>> InternalMount::get() {
    if (Mount* made = made_.load(base::Order::Acquire))
        return Ref<Mount>::share(made);
    MutexGuard guard(making_);
    if (Mount* made = made_.load(base::Order::Acquire))
        return Ref<Mount>::share(made);
    TRY(const Ref<Superblock> superblock, make_());
    TRY(Ref<Dentry> root, Dentry::make_root(*superblock, superblock->root()));
    TRY(Ref<Mount> mount, make_ref<Mount>(superblock, std::move(root), u32{flags_}));
    made_.store(Ref<Mount>(mount).leak(), base::Order::Release);
    return mount;
}

} // namespace kernel
