// Reading directories: whole buffers of entries, with attributes where somebody will ask for them.
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/fuse.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/virtiofs/virtiofs.hpp"
#include "guestkernel/mm/heap.hpp"

namespace kernel {
namespace {

// A page-sized ext4 directory holds about a hundred names, which with attributes take some 20 KiB.
constexpr u32 small_buffer = 32u << 10;
constexpr u32 large_buffer = 128u << 10;
constexpr u64 small_directory = 4096;
constexpr usize longest_name = 255;
// The host's server fills a reply until the next entry does not fit: one with more room than this
// left was the last one (virtio/backend/fs/README.md), and the empty reply after it need not be
// asked for.
constexpr usize longest_record = FUSE_REC_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + longest_name);
// What a program answers has to fit into a message of its connection.
static_assert(small_buffer <= FuseConnection::largest_payload);

} // namespace

struct VirtiofsDirectory::Record {
    std::string_view name;
    u64 inode = 0;
    u64 next_offset = 0;
    u32 type = 0;
    bool has_entry = false;
    fuse_entry_out entry;
};

VirtiofsDirectory::~VirtiofsDirectory() {
    if (inode_)
        discard_rest();
    if (handle_.open)
        node().send_release(handle_, FUSE_RELEASEDIR, false);
    kfree(buffer_);
}

Result<void> VirtiofsDirectory::open_handle() {
    VirtiofsSuperblock& fs = node().fs_;
    if (handle_.open || fs.lacks(VirtiofsSuperblock::missing_opendir))
        return {};
    fuse_open_in in{};
    in.flags = O_RDONLY | O_DIRECTORY;
    fuse_open_out out{};
    FuseCall call;
    call.opcode = FUSE_OPENDIR;
    call.node = node().node();
    call.in = &in;
    call.in_bytes = sizeof in;
    call.out = &out;
    call.out_bytes = call.out_minimum = sizeof out;
    auto answer = node().transport().call(call);
    if (answer) {
        handle_ = FuseHandle{out.fh, 1, true, true};
        return {};
    }
    if (answer.error().code != ENOSYS)
        return fail(answer.error().code);
    fs.note_missing(VirtiofsSuperblock::missing_opendir);
    return {};
}

Result<void> VirtiofsDirectory::fill(u64 offset) {
    VirtiofsSuperblock& fs = node().fs_;
    TRY(open_handle());
    if (buffer_ == nullptr) {
        TRY(const Attributes attributes, node().attributes());
        const bool small = fs.writes_through() || attributes.size <= small_directory;
        capacity_ = small ? small_buffer : large_buffer;
        buffer_ = static_cast<u8*>(kmalloc(capacity_));
        if (buffer_ == nullptr)
            return fail(ENOMEM);
    }
    discard_rest();
    next_offset_ = offset;
    for (;;) {
        with_attributes_ = fs.wants_attributes();
        fuse_read_in in{};
        in.fh = handle_.id;
        in.offset = offset;
        in.size = capacity_;
        FuseCall call;
        call.opcode = with_attributes_ ? FUSE_READDIRPLUS : FUSE_READDIR;
        call.node = node().node();
        call.in = &in;
        call.in_bytes = sizeof in;
        call.out_data = {buffer_, capacity_};
        asked_ = fs.moment();
        auto length = node().transport().call(call);
        if (!length && length.error().code == ENOSYS && with_attributes_) {
            fs.note_missing(VirtiofsSuperblock::missing_readdirplus);
            continue;
        }
        if (!length)
            return fail(length.error().code);
        filled_ = *length;
        // A program may answer with as few entries as it likes: only an empty reply is the end.
        ends_here_ = !fs.writes_through() && capacity_ - filled_ >= longest_record;
        if (filled_ == 0)
            end_offset_ = offset;
        return {};
    }
}

// Decodes the record at at_ and moves behind it; false at the end of the buffer, or where it makes
// no sense.
bool VirtiofsDirectory::next_record(Record& out) {
    const usize prefix = with_attributes_ ? sizeof(fuse_entry_out) : 0;
    fuse_dirent entry;
    const usize fixed = prefix + FUSE_NAME_OFFSET;
    if (filled_ - at_ < fixed)
        return false;
    const u8* record = buffer_ + at_;
    if (with_attributes_)
        __builtin_memcpy(&out.entry, record, sizeof out.entry);
    __builtin_memcpy(&entry, record + prefix, FUSE_NAME_OFFSET);
    if (entry.namelen == 0 || entry.namelen > longest_name || filled_ - at_ - fixed < entry.namelen)
        return false;
    out.name = {reinterpret_cast<const char*>(record + fixed), entry.namelen};
    out.inode = entry.ino;
    out.next_offset = entry.off;
    out.type = entry.type;
    out.has_entry = with_attributes_ && out.entry.nodeid != 0;
    const usize length = FUSE_REC_ALIGN(fixed + entry.namelen);
    at_ = static_cast<u32>(at_ + length < filled_ ? at_ + length : filled_);
    return true;
}

// Entries that nobody read: the server counted a lookup for each.
void VirtiofsDirectory::discard_rest() {
    Record record;
    while (next_record(record))
        if (record.has_entry)
            node().fs_.transport_.forget(record.entry.nodeid, 1);
    filled_ = at_ = 0;
}

Result<u64> VirtiofsDirectory::read_directory(DirectorySink& sink, u64 offset) {
    MutexGuard guard(mutex_);
    VirtiofsSuperblock& fs = node().fs_;
    for (;;) {
        if (offset == end_offset_)
            return offset;
        if (at_ >= filled_ || next_offset_ != offset) {
            TRY(fill(offset));
            if (filled_ == 0)
                return offset;
        }
        const u32 start = at_;
        Record record;
        if (!next_record(record)) {
            const bool nothing = at_ == 0;
            filled_ = at_ = 0;
            if (nothing)
                return fail(EIO);
            continue;
        }
        const bool special = record.name == "." || record.name == "..";
        for (const char c : record.name)
            if (c == '/' || c == '\0')
                return fail(EIO);
        if (!sink.add(record.name, record.inode, record.type, record.next_offset)) {
            at_ = start; // the same again next time; its lookup count is settled then
            return offset;
        }
        offset = next_offset_ = record.next_offset;
        if (ends_here_ && at_ >= filled_)
            end_offset_ = offset;
        if (!record.has_entry)
            continue;
        if (special) {
            fs.transport_.forget(record.entry.nodeid, 1);
            continue;
        }
        auto inode = fs.adopt_entry(record.entry, asked_);
        if (!inode)
            continue;
        const u64 until = fuse_deadline(record.entry.entry_valid, record.entry.entry_valid_nsec);
        const usize unused =
            node().remember(record.name, Ref<Inode>(std::move(*inode)), until, asked_);
        if (unused > 0)
            fs.useless_attributes_.fetch_add(1, base::Order::Relaxed);
    }
}

Result<u64> VirtiofsDirectory::seek(i64 offset, int whence) {
    // Positions are the server's cookies: only going back to one that was given makes sense. A
    // rewind reads anew.
    if (whence == SEEK_SET && offset >= 0) {
        MutexGuard guard(mutex_);
        discard_rest();
        end_offset_ = ~u64{0};
        position_ = static_cast<u64>(offset);
        return position_;
    }
    if (whence == SEEK_CUR && offset == 0)
        return position_;
    return fail(EINVAL);
}

Result<void> VirtiofsDirectory::sync(bool data_only) {
    VirtiofsSuperblock& fs = node().fs_;
    if (fs.lacks(VirtiofsSuperblock::missing_fsyncdir))
        return {};
    TRY(open_handle());
    fuse_fsync_in in{};
    in.fh = handle_.id;
    in.fsync_flags = data_only ? FUSE_FSYNC_FDATASYNC : 0;
    FuseCall call;
    call.opcode = FUSE_FSYNCDIR;
    call.node = node().node();
    call.route = FuseRoute::Worker;
    call.in = &in;
    call.in_bytes = sizeof in;
    if (auto answer = node().transport().call(call); !answer) {
        if (answer.error().code != ENOSYS)
            return fail(answer.error().code);
        fs.note_missing(VirtiofsSuperblock::missing_fsyncdir);
    }
    return {};
}

} // namespace kernel
