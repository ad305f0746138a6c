#include "guestkernel/fs/procfs/table_fs.hpp"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fs.h>

#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/lib/hash_map.hpp"

namespace kernel {
namespace {

constexpr usize largest_write = page_size;

// Stable for the same thing, and hardly ever the same for two.
u64 node_number(const TableEntry& entry, const TableContext& of) {
    u64 hash = hash_mix(reinterpret_cast<u64>(&entry));
    for (const i32 part : {of.pid, of.tid, of.fd, of.cpu})
        hash = hash_mix(hash ^ static_cast<u32>(part));
    if (of.end != 0)
        hash = hash_mix(hash_mix(hash ^ of.start) ^ of.end);
    return (hash & 0x7fff'ffff) | 0x8000'0000;
}

// The number that a name stands for, or -1: no signs, no leading zeros.
i32 number_of(std::string_view name, std::string_view prefix) {
    if (name.size() <= prefix.size() || name.substr(0, prefix.size()) != prefix)
        return -1;
    name.remove_prefix(prefix.size());
    if (name.size() > 9 || (name[0] == '0' && name.size() > 1))
        return -1;
    i32 value = 0;
    for (const char c : name) {
        if (c < '0' || c > '9')
            return -1;
        value = value * 10 + (c - '0');
    }
    return value;
}

// Takes a hexadecimal number off the front: no leading zeros.
bool take_address(std::string_view& text, u64& out) {
    usize digits = 0;
    for (out = 0; digits < text.size() && digits <= 16; digits++) {
        const char c = text[digits];
        const u32 lower = static_cast<u8>(c) | 0x20u;
        if (c >= '0' && c <= '9')
            out = out << 4 | static_cast<u64>(c - '0');
        else if (lower >= 'a' && lower <= 'f')
            out = out << 4 | (lower - 'a' + 10);
        else
            break;
    }
    if (digits == 0 || digits > 16 || (text[0] == '0' && digits > 1))
        return false;
    text.remove_prefix(digits);
    return true;
}

bool take_range(std::string_view name, TableContext& out) {
    if (!take_address(name, out.start) || name.empty() || name.front() != '-')
        return false;
    name.remove_prefix(1);
    return take_address(name, out.end) && name.empty() && out.start < out.end;
}

std::string_view without_blanks(std::string_view text) {
    const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\0'; };
    while (!text.empty() && blank(text.front()))
        text.remove_prefix(1);
    while (!text.empty() && blank(text.back()))
        text.remove_suffix(1);
    return text;
}

} // namespace

Result<i64> parse_number(std::string_view text) {
    text = without_blanks(text);
    const bool negative = !text.empty() && text.front() == '-';
    if (negative)
        text.remove_prefix(1);
    if (text.empty() || text.size() > 18)
        return fail(EINVAL);
    i64 value = 0;
    for (const char c : text) {
        if (c < '0' || c > '9')
            return fail(EINVAL);
        value = value * 10 + (c - '0');
    }
    return negative ? -value : value;
}

Result<u64> parse_list(std::string_view text) {
    u64 mask = 0;
    while (!(text = without_blanks(text)).empty()) {
        usize end = text.find(',');
        end = end == std::string_view::npos ? text.size() : end;
        std::string_view range = text.substr(0, end);
        text.remove_prefix(end < text.size() ? end + 1 : end);
        const usize dash = range.find('-');
        TRY(const i64 first, parse_number(range.substr(0, dash)));
        i64 last = first;
        if (dash != std::string_view::npos) {
            TRY(last, parse_number(range.substr(dash + 1)));
        }
        if (first < 0 || last < first || last >= 64)
            return fail(EINVAL);
        for (i64 number = first; number <= last; number++)
            mask |= u64{1} << number;
    }
    return mask;
}

Result<void> TableSuperblock::init(const TableEntry& root, const TableContext& context,
                                   Ref<RefCounted> kept) {
    kept_ = std::move(kept);
    TRY(auto node, make_ref<TableNode>(*this, root, context));
    root_ = std::move(node);
    return {};
}

Result<FileSystemStats> TableSuperblock::stats() {
    FileSystemStats stats{};
    stats.type = magic_;
    stats.block_size = page_size;
    stats.name_max = Dentry::name_limit;
    return stats;
}

// What stands in the tables stays, unless it is another's for this caller; what has a number comes
// and goes.
bool TableSuperblock::dentry_valid(Inode& parent, std::string_view name, Inode* inode, u64) {
    const auto& node = static_cast<TableNode&>(parent);
    const TableNumbers* numbers = node.entry().numbers;
    const bool stays =
        node.entry().ranges == nullptr &&
        (numbers == nullptr || (numbers->find == nullptr && number_of(name, numbers->prefix) < 0));
    if (!stays || inode == nullptr)
        return stays;
    // Last: to ask a process for its owner takes the lock of all processes, and what is looked up
    // anew asks by itself.
    auto& child = static_cast<TableNode&>(*inode);
    if (!child.owned_for_caller() || !child.entry().present_in(child.context()))
        return false;
    child.refresh_owner();
    return true;
}

Result<bool> TableSuperblock::admit(Inode& inode, const Credentials&) {
    const auto& node = static_cast<const TableNode&>(inode);
    if (node.entry().entered != nullptr)
        TRY(node.entry().entered(node.context()));
    return false;
}

TableNode::TableNode(TableSuperblock& fs, const TableEntry& entry, const TableContext& context)
    : Inode(&fs, node_number(entry, context), entry.mode), entry_(entry), context_(context),
      made_(current_time()) {
    if (entry.owner != nullptr)
        entry.owner(context, uid_, gid_);
    if (entry.link_mode != nullptr)
        mode_ = (mode_ & mode_type) | entry.link_mode(context);
}

bool TableNode::owned_for_caller() const {
    if (entry_.admits == nullptr || entry_.owner == nullptr)
        return true;
    u32 uid = 0, gid = 0;
    entry_.owner(context_, uid, gid);
    return uid == uid_ && gid == gid_;
}

Result<Attributes> TableNode::attributes() {
    if (entry_.known != nullptr)
        TRY(entry_.known(context_));
    refresh_owner();
    Attributes out;
    out.inode = number_;
    out.mode = mode_;
    out.uid = uid_;
    out.gid = gid_;
    out.links = 1;
    if (is_directory()) {
        out.links = 2;
        for (const TableEntry& child : entry_.children)
            if ((child.mode & mode_type) == mode_directory)
                out.links++;
    }
    if (entry_.link_mode != nullptr)
        out.size = 64; // as Linux shows descriptors
    out.block_size = 1024;
    out.access_time = out.modify_time = out.change_time = out.birth_time = made_;
    return out;
}

Result<void> TableNode::set_attributes(const Attributes&, u32 mask) {
    // O_TRUNC comes with every redirection of a shell.
    return mask == set_size ? Result<void>() : Result<void>(fail(EPERM));
}

Result<Ref<Inode>> TableNode::lookup(std::string_view name) {
    auto& fs = static_cast<TableSuperblock&>(*superblock_);
    for (const TableEntry& child : entry_.children)
        if (child.name == name && child.present_in(context_)) {
            TRY(auto node, make_ref<TableNode>(fs, child, context_));
            return Ref<Inode>(std::move(node));
        }
    if (const TableNumbers* numbers = entry_.numbers; numbers != nullptr) {
        const i32 number = numbers->find != nullptr ? numbers->find(context_, name)
                                                    : number_of(name, numbers->prefix);
        if (number >= 0) {
            const TableContext child = numbers->child(context_, number);
            if (numbers->exists(child)) {
                TRY(auto node, make_ref<TableNode>(fs, *numbers->entry, child));
                return Ref<Inode>(std::move(node));
            }
        }
    }
    if (entry_.ranges != nullptr) {
        TableContext child = context_;
        if (!take_range(name, child))
            return fail(ENOENT);
        TRY(entry_.ranges->find(child));
        TRY(auto node, make_ref<TableNode>(fs, *entry_.ranges->entry, child));
        return Ref<Inode>(std::move(node));
    }
    return fail(ENOENT);
}

Result<String> TableNode::readlink() {
    if (entry_.link == nullptr)
        return fail(EINVAL);
    TextBuilder text;
    TRY(entry_.link(text, context_));
    if (text.failed())
        return fail(ENOMEM);
    return String::from(text.view());
}

Result<Path> TableNode::follow_magic() {
    if (entry_.magic == nullptr)
        return fail(ENOENT);
    return entry_.magic(context_);
}

Result<Ref<File>> TableNode::open(const Path& path, u32 flags) {
    if ((flags & O_ACCMODE) != O_RDONLY && entry_.admits != nullptr && !entry_.admits(context_))
        return fail(EACCES);
    auto self = Ref<Inode>::share(this);
    if (entry_.open != nullptr)
        return entry_.open(path, std::move(self), flags, context_);
    if (is_directory()) {
        TRY(auto directory, make_ref<TableDirectory>(path, std::move(self), flags));
        return Ref<File>(std::move(directory));
    }
    if (!is_regular())
        return fail(ENXIO);
    TRY(auto file, make_ref<TableFile>(path, std::move(self), flags));
    TRY(file->begin());
    return Ref<File>(std::move(file));
}

TableFile::TableFile(const Path& path, Ref<Inode> inode, u32 flags)
    : File(path, std::move(inode), flags), context_(node().context()) {}

Result<usize> TableFile::read(IoBuffer& out, u64 offset) {
    MutexGuard guard(mutex_);
    const TableEntry& entry = node().entry();
    if (offset == 0 || !made_) {
        text_.clear();
        made_ = false;
        if (entry.show == nullptr && entry.text.data() == nullptr)
            return fail(EINVAL);
        if (entry.show != nullptr)
            TRY(entry.show(text_, context_));
        else
            text_.append(entry.text);
        if (text_.failed())
            return fail(ENOMEM);
        made_ = true;
    }
    return text_.read(out, offset);
}

Result<usize> TableFile::write(IoBuffer& in, u64) {
    const TableEntry& entry = node().entry();
    if (entry.store == nullptr)
        return fail(EINVAL);
    // Again: the descriptor may have come from somebody with more rights.
    if (entry.admits != nullptr && !entry.admits(context_))
        return fail(EACCES);
    const usize length = in.remaining();
    if (length > largest_write)
        return fail(EINVAL);
    Vector<char> text;
    TRY(text.resize(length));
    if (in.copy_in(text.data(), length) != length)
        return fail(EFAULT);
    TRY(entry.store({text.data(), length}, context_));
    return length;
}

Result<void> TableFile::begin() {
    const TableEntry& entry = node().entry();
    if (entry.bind != nullptr) {
        TRY(bound_, entry.bind(context_));
    }
    if (entry.poll != nullptr)
        (void)entry.poll(nullptr, context_, seen_, source_); // watched from now on
    return {};
}

u32 TableFile::poll(PollTable* table) {
    const TableEntry& entry = node().entry();
    return entry.poll == nullptr ? File::poll(table) : entry.poll(table, context_, seen_, source_);
}

Result<u64> TableFile::seek(i64 offset, int whence) {
    if (whence == SEEK_END || whence == SEEK_DATA || whence == SEEK_HOLE)
        return fail(EINVAL); // the length is not known before it is made
    return File::seek(offset, whence);
}

namespace {

// Each range at base + the number of its first page.
Result<u64> read_ranges(const TableRanges& ranges, const TableContext& of, DirectorySink& sink,
                        u64 base, u64 offset) {
    for (;;) {
        TableContext child = of;
        TRY(const bool found, ranges.next(of, (offset - base) * page_size, child));
        if (!found)
            return offset;
        char name[40];
        const usize length = log::format(name, sizeof name, "{x}-{x}", child.start, child.end);
        const u64 next = base + child.start / page_size + 1;
        if (!sink.add({name, length}, node_number(*ranges.entry, child),
                      directory_type(ranges.entry->mode), next))
            return offset;
        offset = next;
    }
}

} // namespace

// Positions: 0 and 1 are the dots, then the static children in order, then each number n at base +
// n.
Result<u64> TableDirectory::read_directory(DirectorySink& sink, u64 offset) {
    if (!add_dot_entries(*this, sink, offset))
        return offset;
    const TableEntry& entry = node().entry();
    const u64 base = 2 + entry.children.size();
    while (offset < base) {
        const TableEntry& child = entry.children[offset - 2];
        if (child.present_in(node().context()) &&
            !sink.add(child.name, node_number(child, node().context()), directory_type(child.mode),
                      offset + 1))
            return offset;
        offset++;
    }
    if (entry.ranges != nullptr)
        return read_ranges(*entry.ranges, node().context(), sink, base, offset);
    const TableNumbers* numbers = entry.numbers;
    if (numbers == nullptr)
        return offset;
    for (;;) {
        const i32 number = numbers->next(node().context(), static_cast<i32>(offset - base) - 1);
        if (number < 0)
            return offset;
        char name[32];
        const TableContext child = numbers->child(node().context(), number);
        const usize length =
            numbers->name != nullptr
                ? numbers->name(child, std::span<char>(name))
                : log::format(name, sizeof name, "{}{}", numbers->prefix, static_cast<u32>(number));
        const u64 next = base + static_cast<u64>(number) + 1;
        if (length == 0) {
            offset = next;
            continue;
        }
        if (!sink.add({name, length}, node_number(*numbers->entry, child),
                      directory_type(numbers->entry->mode), next))
            return offset;
        offset = next;
    }
}

} // namespace kernel
