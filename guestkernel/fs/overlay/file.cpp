// Open files and directories.
#include <linux/errno.h>
#include <linux/falloc.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/mman.h>

#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/overlay/overlay.hpp"

namespace kernel {

Result<Ref<File>> OverlayInode::open(const Path& path, u32 flags) {
    if (is_directory()) {
        TRY(auto directory, make_ref<OverlayDirectory>(path, Ref<Inode>::share(this), flags));
        return Ref<File>(std::move(directory));
    }
    if (!is_regular())
        return fail(ENXIO);
    Ref<File> below;
    if (!has_own_data()) {
        TRY(below, lower_->open(path, O_RDONLY | O_LARGEFILE));
    }
    TRY(auto file, make_ref<OverlayFile>(path, Ref<Inode>::share(this), flags, std::move(below)));
    return Ref<File>(std::move(file));
}

Result<u64> OverlayFile::seek(i64 offset, int whence) {
    if (whence != SEEK_DATA && whence != SEEK_HOLE)
        return RegularFile::seek(offset, whence);
    if (!node().has_own_data()) {
        TRY(position_, lower_->seek(offset, whence));
        return position_;
    }
    const u64 size = node().file_size();
    if (offset < 0 || static_cast<u64>(offset) >= size)
        return fail(ENXIO);
    const auto at = static_cast<u64>(offset);
    const u64 pages = (size + page_size - 1) / page_size;
    PageCache& cache = *node().page_cache();
    const u64 page = whence == SEEK_DATA ? cache.next_present(at >> page_shift, pages)
                                         : cache.next_hole(at >> page_shift, pages);
    if (whence == SEEK_DATA && page >= pages)
        return fail(ENXIO);
    u64 found = page * page_size;
    if (found < at)
        found = at;
    position_ = found < size ? found : size;
    return position_;
}

Result<usize> OverlayFile::before_write(u64, usize bytes) {
    TRY(node().own_data(~u64{0}));
    return bytes;
}

Result<void> OverlayFile::allocate(int mode, u64 offset, u64 length) {
    OverlayInode& inode = node();
    const auto flags = static_cast<u32>(mode);
    constexpr u32 known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
    if ((flags & ~known) != 0)
        return fail(EOPNOTSUPP);
    MutexGuard guard(inode.mutex());
    TRY(inode.own_data(~u64{0}));
    // Memory is not set aside: a write finds it or fails then, as on any file system that
    // compresses.
    if ((flags & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0)
        inode.page_cache()->punch(offset, offset + length);
    if ((flags & FALLOC_FL_KEEP_SIZE) == 0 && offset + length > inode.file_size())
        TRY(inode.extend(offset + length));
    inode.note_modified();
    return {};
}

Result<Ref<PageCache>> OverlayFile::mapping(u32 protection, u32 map_flags) {
    // A shared mapping of a file open for writing may be made writable later on.
    if ((map_flags & MAP_SHARED) != 0 && writable())
        TRY(node().own_data(~u64{0}));
    return RegularFile::mapping(protection, map_flags);
}

// --- directories ---------------------------------------------------------------------------------

namespace {

// Lets through what has not been removed since.
class FilterSink final : public DirectorySink {
public:
    FilterSink(DirectorySink& out, const OverlayEntries* own) : out_(out), own_(own) {}
    bool add(std::string_view name, u64 inode, u32 type, u64 next_offset) override {
        if (own_ != nullptr)
            if (const OverlayEntry* entry = own_->find(name); entry != nullptr && !entry->inode)
                return true;
        return out_.add(name, inode, type, next_offset);
    }

private:
    DirectorySink& out_;
    const OverlayEntries* own_;
};

template <typename F>
class CallbackSink final : public DirectorySink {
public:
    explicit CallbackSink(F function) : function_(function) {}
    bool add(std::string_view name, u64 inode, u32 type, u64) override {
        return function_(name, inode, type);
    }

private:
    F function_;
};

} // namespace

Result<void> OverlayDirectory::start() {
    started_ = true;
    lower_ = nullptr;
    list_.clear();
    names_.clear();
    OverlayInode& directory = node();
    SharedGuard guard(directory.mutex());
    const OverlayEntries* own = directory.entries_pointer_.load(base::Order::Acquire);
    if (directory.layer_count() == 1 && (own == nullptr || own->empty())) {
        TRY(lower_, directory.layer(0).open(path_, O_RDONLY | O_DIRECTORY));
        return {};
    }
    return build_list();
}

// Names of the layers first, in their order, then those made here.
Result<void> OverlayDirectory::build_list() {
    OverlayInode& directory = node();
    OverlayEntries* own = directory.entries_pointer_.load(base::Order::Acquire);
    bool out_of_memory = false;
    const auto add = [&](std::string_view name, u64 inode, u32 type) {
        const Name entry{static_cast<u32>(names_.size()), static_cast<u16>(name.size()),
                         static_cast<u8>(type), inode};
        out_of_memory = !names_.append(std::span<const char>(name.data(), name.size())) ||
                        !list_.push_back(entry);
        return !out_of_memory;
    };
    usize first_of_layer = 0;
    const auto add_lower = [&](std::string_view name, u64 inode, u32 type) {
        if (name == "." || name == ".." || (own != nullptr && own->find(name) != nullptr))
            return true;
        // In several layers a name shows once. Rare and short: image layers, not big directories.
        for (usize i = 0; i < first_of_layer; i++)
            if (std::string_view(names_.data() + list_[i].at, list_[i].length) == name)
                return true;
        return add(name, inode, type);
    };
    for (usize i = 0; i < directory.layer_count(); i++) {
        first_of_layer = list_.size();
        TRY(Ref<File> listing, directory.layer(i).open(path_, O_RDONLY | O_DIRECTORY));
        CallbackSink sink(add_lower);
        for (u64 at = 0; !out_of_memory;) {
            TRY(const u64 next, listing->read_directory(sink, at));
            if (next == at)
                break;
            at = next;
        }
    }
    if (own != nullptr)
        for (const OverlayEntry& entry : own->in_order())
            if (entry.inode && !out_of_memory)
                add(entry.view(), entry.inode->number(), directory_type(entry.inode->mode_));
    return out_of_memory ? Result<void>(fail(ENOMEM)) : Result<void>();
}

Result<u64> OverlayDirectory::emit_list(DirectorySink& sink, u64 offset) {
    constexpr u64 first = 2; // after "." and ".."
    if (!add_dot_entries(*this, sink, offset))
        return offset;
    while (offset - first < list_.size()) {
        const Name& entry = list_[offset - first];
        if (!sink.add({names_.data() + entry.at, entry.length}, entry.inode, entry.type,
                      offset + 1))
            break;
        offset++;
    }
    return offset;
}

Result<u64> OverlayDirectory::read_directory(DirectorySink& sink, u64 offset) {
    MutexGuard guard(mutex_);
    if (offset == 0 || !started_)
        TRY(start());
    if (!lower_)
        return emit_list(sink, offset);
    SharedGuard names(node().mutex());
    FilterSink filter(sink, node().entries_pointer_.load(base::Order::Acquire));
    return lower_->read_directory(filter, offset);
}

Result<u64> OverlayDirectory::seek(i64 offset, int whence) {
    if (whence == SEEK_CUR && offset == 0)
        return position_;
    if (whence != SEEK_SET || offset < 0)
        return fail(EINVAL);
    MutexGuard guard(mutex_);
    if (offset == 0)
        started_ = false; // a rewind shows the directory as it is then
    else if (lower_)
        TRY(lower_->seek(offset, SEEK_SET));
    position_ = static_cast<u64>(offset);
    return position_;
}

} // namespace kernel
