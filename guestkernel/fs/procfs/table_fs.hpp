// A file system made of tables: procfs and sysfs. A directory is an array of TableEntry; files are
// functions that write text; directories that have a number per object (processes, threads,
// descriptors, CPUs) name a TableNumbers.
//
// Nodes are made at each lookup and hold nothing but their entry and the numbers on the way to
// them: whether a process still exists is asked when something is done with the node.
#pragma once

#include <span>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/procfs/text.hpp"

namespace kernel {

class AddressSpace;
class PidNamespace;
namespace net {
class Stack;
}
namespace procfs {
struct CurrentOptions; // mount_options.hpp
}

// Which process, thread, descriptor (or network interface, by its index) or CPU a node is about;
// -1: none.
struct TableContext {
    i32 pid = -1, tid = -1, fd = -1, cpu = -1;
    const PidNamespace* pids = nullptr; // whose numbers the names are; null: the initial ones
    const procfs::CurrentOptions* options = nullptr; // of procfs; the superblock has them
    net::Stack* network = nullptr;  // of sysfs: whose interfaces; the superblock keeps it
    u64 start = 0, end = 0;         // of a range of addresses, which is a name as well
    AddressSpace* memory = nullptr; // what bind_memory() found; null: the process had ended
    friend bool operator==(const TableContext&, const TableContext&) = default;
};

struct TableEntry;

// The numbered children of a directory.
struct TableNumbers {
    std::string_view prefix; // of the name: "" or "cpu"
    // The least number greater than `after` (-1 at first), or -1.
    i32 (*next)(const TableContext& of, i32 after);
    bool (*exists)(const TableContext& child);
    TableContext (*child)(TableContext of, i32 number);
    const TableEntry* entry;
    // Where children are called by names: that of a child (0: it is gone), and the number that a
    // name stands for (-1: none).
    usize (*name)(const TableContext& child, std::span<char> out) = nullptr;
    i32 (*find)(const TableContext& of, std::string_view name) = nullptr;
};

// The children of a directory that are ranges of addresses, of whole pages: "7f00-9f00".
struct TableRanges {
    // The first that starts at `from` or later, into the context's range; false: there is none.
    Result<bool> (*next)(const TableContext& of, u64 from, TableContext& child);
    // ENOENT, or why it cannot be told.
    Result<void> (*find)(const TableContext& child);
    const TableEntry* entry;
};

struct TableEntry {
    std::string_view name;
    u32 mode; // with the type
    // Exactly one of these, by the type:
    std::string_view text = {}; // files that never change
    Result<void> (*show)(TextBuilder& out, const TableContext& of) = nullptr; // files
    std::span<const TableEntry> children = {};                                // directories
    const TableNumbers* numbers = nullptr; // ... also, or instead
    const TableRanges* ranges = nullptr;   // ... or these
    Result<void> (*link)(TextBuilder& out, const TableContext& of) = nullptr; // symlinks
    // ... and where following leads, if not to the text:
    Result<Path> (*magic)(const TableContext& of) = nullptr;
    // Files that can be written: one write, one call.
    Result<void> (*store)(std::string_view text, const TableContext& of) = nullptr;
    // Files that tell of changes: POLLERR and POLLPRI when `seen` is no longer the count of them,
    // which it then becomes. Zero: not asked before. `source` keeps alive
    // what is watched; it is null at the first call, at open(), only.
    u32 (*poll)(PollTable* table, const TableContext& of, u64& seen,
                Ref<RefCounted>& source) = nullptr;
    // Files with a behaviour of their own.
    Result<Ref<File>> (*open)(const Path& path, Ref<Inode> inode, u32 flags,
                              const TableContext& of) = nullptr;
    // Who owns it, if not root; and the mode of symlinks whose mode says something.
    void (*owner)(const TableContext& of, u32& uid, u32& gid) = nullptr;
    u32 (*link_mode)(const TableContext& of) = nullptr;
    // Directories that whoever they are about may always read.
    bool (*callers_own)(const TableContext& of) = nullptr;
    // Files that are another thing for every caller, whose owner therefore tells nothing of the
    // next one's rights: whether the caller may write. Asked at open(2) and at each write.
    bool (*admits)(const TableContext& of) = nullptr;
    // ... and what makes a descriptor of it, wherever that goes, be about what its opener saw, by
    // the opener's rights: it says in the context what that is, and the result, which keeps it,
    // stays with the descriptor. An error is open(2)'s.
    Result<Ref<RefCounted>> (*bind)(TableContext& of) = nullptr;
    // Of those that are not everywhere: whether it is here.
    bool (*present)(const TableContext& of) = nullptr;
    // Directories that not everybody may know of: ENOENT to stat(2); and whether the caller may
    // look for what is in them.
    Result<void> (*known)(const TableContext& of) = nullptr;
    Result<void> (*entered)(const TableContext& of) = nullptr;
    bool present_in(const TableContext& of) const { return present == nullptr || present(of); }
};

class TableSuperblock : public Superblock {
public:
    TableSuperblock(const char* type, u64 magic) : type_(type), magic_(magic) {}
    // `kept` lives as long as this: what the context points to.
    Result<void> init(const TableEntry& root, const TableContext& context = {},
                      Ref<RefCounted> kept = {});
    Ref<Inode> root() override { return root_; }
    Result<FileSystemStats> stats() override;
    const char* type() const override { return type_; }
    bool can_drop_dentries() const override { return true; }
    bool parallel_lookup() const override { return true; }
    bool dentry_valid(Inode& parent, std::string_view name, Inode* inode,
                      u64 cached_at_ns) override;
    Result<bool> admit(Inode& inode, const Credentials& who) override;

private:
    const char* type_;
    u64 magic_;
    Ref<RefCounted> kept_;
    Ref<Inode> root_;
};

class TableNode final : public Inode {
public:
    TableNode(TableSuperblock& fs, const TableEntry& entry, const TableContext& context);
    Result<Attributes> attributes() override;
    Result<void> set_attributes(const Attributes& wanted, u32 mask) override;
    Result<Ref<Inode>> lookup(std::string_view name) override;
    Result<String> readlink() override;
    bool is_magic_link() const override { return entry_.magic != nullptr; }
    bool is_callers_own() const override {
        return entry_.callers_own != nullptr && entry_.callers_own(context_);
    }
    Result<Path> follow_magic() override;
    Result<Ref<File>> open(const Path& path, u32 flags) override;

    const TableEntry& entry() const { return entry_; }
    const TableContext& context() const { return context_; }
    // Who owns it may have changed since it was made.
    void refresh_owner() {
        if (entry_.owner != nullptr)
            entry_.owner(context_, uid_, gid_);
    }
    // Whether it belongs to whom it would if the caller looked it up now.
    bool owned_for_caller() const;

private:
    const TableEntry& entry_;
    const TableContext context_;
    const TimeSpec made_;
};

// A file whose text is made when it is read from the start, and kept for the reads that go on.
class TableFile final : public File {
public:
    TableFile(const Path& path, Ref<Inode> inode, u32 flags);
    const char* type_name() const override { return "generated"; }
    Result<usize> read(IoBuffer& out, u64 offset) override;
    Result<usize> write(IoBuffer& in, u64 offset) override;
    Result<u64> seek(i64 offset, int whence) override;
    Result<void> begin(); // called once, before others know of the file
    u32 poll(PollTable* table) override;
    // As on Linux: also what is not about a process and never tells of anything.
    bool can_wait() const override { return node().entry().poll != nullptr || context_.pid < 0; }
    Result<void> truncate(u64) override { return {}; }

private:
    const TableNode& node() const { return static_cast<const TableNode&>(*inode_); }
    TableContext context_;
    Ref<RefCounted> bound_;
    Mutex mutex_;
    bool made_ = false;
    u64 seen_ = 0;
    Ref<RefCounted> source_;
    TextBuilder text_;
};

class TableDirectory final : public File {
public:
    using File::File;
    const char* type_name() const override { return "table-directory"; }
    Result<u64> read_directory(DirectorySink& sink, u64 offset) override;
    Result<void> sync(bool) override { return {}; }

private:
    const TableNode& node() const { return static_cast<const TableNode&>(*inode_); }
};

// A number in decimal, as programs write it to sysctls: blanks around it are fine. EINVAL.
Result<i64> parse_number(std::string_view text);
// "0-2,5" as bits; empty is none. EINVAL.
Result<u64> parse_list(std::string_view text);

} // namespace kernel
