// Open files and directories.
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fs.h>

#include "guestkernel/fs/attributes.hpp"
#include "guestkernel/fs/layered/layered.hpp"
#include "guestkernel/fs/mode.hpp"

namespace kernel {

Result<Ref<File>> LayeredInode::open(const Path& path, u32 flags) {
    if (is_directory()) {
        TRY(auto directory, make_ref<LayeredDirectory>(path, Ref<Inode>::share(this), flags));
        return Ref<File>(std::move(directory));
    }
    if (!is_regular())
        return fail(ENXIO);
    if ((flags & O_ACCMODE) != O_RDONLY)
        TRY(copy_up());
    TRY(Ref<File> real_file, real().open(path, flags));
    TRY(auto file,
        make_ref<LayeredFile>(path, Ref<Inode>::share(this), flags, std::move(real_file)));
    return Ref<File>(std::move(file));
}

// The layer's file as it is now: one that was opened before the copy-up goes over to the copy.
Result<File*> LayeredFile::current() {
    if (File* later = later_pointer_.load(base::Order::Acquire))
        return later;
    Inode& shown = node().real();
    if (real_->inode() == &shown)
        return real_.get();
    MutexGuard guard(later_mutex_);
    if (!later_) {
        TRY(later_, shown.open(path_, flags_));
        later_pointer_.store(later_.get(), base::Order::Release);
    }
    return later_.get();
}

Result<usize> LayeredFile::read(IoBuffer& out, u64 offset) {
    TRY(File * real, current());
    return real->read(out, offset);
}

Result<usize> LayeredFile::write(IoBuffer& in, u64 offset) {
    if (has_suid(*inode_)) {
        MutexGuard guard(inode_->mutex());
        TRY(drop_privileges(*inode_));
    }
    TRY(const usize done, real_->write(in, offset));
    append_end = real_->append_end;
    return done;
}

Result<u64> LayeredFile::seek(i64 offset, int whence) {
    TRY(File * real, current());
    if (whence == SEEK_CUR)
        real->set_position(position_);
    TRY(position_, real->seek(offset, whence));
    return position_;
}

Result<long> LayeredFile::ioctl(u32 command, u64 argument) {
    TRY(File * real, current());
    return real->ioctl(command, argument);
}

Result<void> LayeredFile::sync(bool data_only) {
    TRY(File * real, current());
    return real->sync(data_only);
}

Result<void> LayeredFile::allocate(int mode, u64 offset, u64 length) {
    return real_->allocate(mode, offset, length);
}

Result<Ref<PageCache>> LayeredFile::mapping(u32 protection, u32 map_flags) {
    TRY(File * real, current());
    return real->mapping(protection, map_flags);
}

Result<void> LayeredFile::set_status_flags(u32 flags) {
    TRY(File * real, current());
    TRY(real->set_status_flags(flags));
    return RegularFile::set_status_flags(flags);
}

// --- directories ---------------------------------------------------------------------------------

Result<u64> LayeredDirectory::read_directory(DirectorySink& sink, u64 offset) {
    constexpr u64 first = 2; // after "." and ".."
    MutexGuard guard(mutex_);
    if (offset == 0 || !started_) {
        list_.clear();
        names_.clear();
        SharedGuard names(node().mutex());
        TRY(node().list(list_, names_));
        started_ = true;
    }
    if (!add_dot_entries(*this, sink, offset))
        return offset;
    while (offset - first < list_.size()) {
        const LayeredInode::Name& entry = list_[offset - first];
        if (!sink.add({names_.data() + entry.at, entry.length}, entry.inode, entry.type,
                      offset + 1))
            break;
        offset++;
    }
    return offset;
}

Result<u64> LayeredDirectory::seek(i64 offset, int whence) {
    if (whence == SEEK_CUR && offset == 0)
        return position_;
    if (whence != SEEK_SET || offset < 0)
        return fail(EINVAL);
    MutexGuard guard(mutex_);
    if (offset == 0)
        started_ = false; // a rewind shows the directory as it is then
    position_ = static_cast<u64>(offset);
    return position_;
}

Result<void> LayeredDirectory::sync(bool data_only) {
    Dentry* above = node().upper();
    if (above == nullptr)
        return {};
    TRY(Ref<File> real, above->inode()->open(path_, O_RDONLY | O_DIRECTORY));
    return real->sync(data_only);
}

} // namespace kernel
