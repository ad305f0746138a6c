// tmpfs: the superblock, its options, and what all kinds of objects share.
#include "guestkernel/fs/tmpfs.hpp"

#include <linux/errno.h>
#include <linux/magic.h>
#include <linux/xattr.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/mm/frame.hpp"

namespace kernel {

namespace {

constexpr u32 option_error = EINVAL;

bool parse_number(std::string_view text, unsigned radix, u64& out, std::string_view& rest) {
    usize used = 0;
    u64 value = 0;
    while (used < text.size() && text[used] >= '0' && text[used] < static_cast<char>('0' + radix)) {
        if (__builtin_mul_overflow(value, u64{radix}, &value) ||
            __builtin_add_overflow(value, static_cast<u64>(text[used] - '0'), &value))
            return false;
        used++;
    }
    out = value;
    rest = text.substr(used);
    return used > 0;
}

// "64m", "50%", "4096".
bool parse_size(std::string_view text, u64& bytes) {
    std::string_view rest;
    if (!parse_number(text, 10, bytes, rest))
        return false;
    if (rest == "%") {
        bytes = memory_stats().total * page_size / 100 * bytes;
        return true;
    }
    unsigned shift = 0;
    if (rest == "k" || rest == "K")
        shift = 10;
    else if (rest == "m" || rest == "M")
        shift = 20;
    else if (rest == "g" || rest == "G")
        shift = 30;
    else if (!rest.empty())
        return false;
    if (bytes > ~u64{0} >> (shift + 1))
        return false;
    bytes <<= shift;
    return true;
}

enum class OptionFault : u8 { None, Unknown, Value };

constexpr OptionFault unless(bool right) {
    return right ? OptionFault::None : OptionFault::Value;
}

std::string_view option_name(std::string_view option) {
    return option.substr(0, option.find('='));
}

OptionFault parse_option(std::string_view option, TmpfsSuperblock::Options& out) {
    const std::string_view name = option_name(option);
    const std::string_view value =
        name.size() < option.size() ? option.substr(name.size() + 1) : std::string_view();
    u64 number = 0;
    std::string_view rest;
    if (name == "size") {
        if (!parse_size(value, number))
            return OptionFault::Value;
        out.max_pages = page_up(number) >> page_shift;
        return OptionFault::None;
    }
    if (name == "nr_blocks" || name == "nr_inodes") {
        if (!parse_size(value, number))
            return OptionFault::Value;
        (name == "nr_blocks" ? out.max_pages : out.max_inodes) = number;
        return OptionFault::None;
    }
    if (name == "mode" || name == "uid" || name == "gid") {
        if (!parse_number(value, name == "mode" ? 8 : 10, number, rest) || !rest.empty())
            return OptionFault::Value;
        if (number > ~u32{0})
            return OptionFault::Value;
        if (name == "mode") {
            out.mode = static_cast<u32>(number) & mode_permissions;
            return OptionFault::None;
        }
        // Numbers of who mounts it.
        const Credentials* who = current_credentials();
        const u32 id = to_global_id(who == nullptr ? nullptr : who->user_ns.get(), name == "gid",
                                    static_cast<u32>(number));
        (name == "uid" ? out.uid : out.gid) = id;
        return unless(id != ~u32{0});
    }
    // Without effect: there are no huge pages, no swap and no NUMA here, and numbers have 64 bits.
    if (name == "huge")
        return unless(value == "never" || value == "always" || value == "within_size" ||
                      value == "advise");
    if (name == "mpol")
        return unless(!value.empty());
    const bool known =
        option.empty() || option == "inode64" || option == "inode32" || option == "noswap";
    return known ? OptionFault::None : OptionFault::Unknown;
}

Result<void> complain(OptionFault fault, std::string_view option, String& complaint) {
    TRY(complaint.append(fault == OptionFault::Unknown ? "tmpfs: Unknown parameter '"
                                                       : "tmpfs: Bad value for '"));
    TRY(complaint.append(option_name(option)));
    TRY(complaint.append("'"));
    return fail(option_error);
}

Result<void> parse_options(std::string_view options, TmpfsSuperblock::Options& out) {
    while (!options.empty()) {
        usize end = 0;
        while (end < options.size() && options[end] != ',')
            end++;
        const std::string_view option = options.substr(0, end);
        if (const OptionFault fault = parse_option(option, out); fault != OptionFault::None) {
            String complaint;
            auto failed = complain(fault, option, complaint);
            log::info("{}", complaint.view());
            return failed;
        }
        options = end < options.size() ? options.substr(end + 1) : std::string_view();
    }
    return {};
}

} // namespace

namespace {

Result<Ref<TmpfsSuperblock>> make_superblock(TmpfsSuperblock::Options parsed,
                                             std::string_view options, const char* type) {
    parsed.max_pages = parsed.max_inodes = memory_stats().total / 2; // tmpfs(5)
    TRY(parse_options(options, parsed));
    TRY(Ref<TmpfsSuperblock> made, make_ref<TmpfsSuperblock>(parsed, type));
    TRY(made->make_root());
    return made;
}

} // namespace

Result<void> check_tmpfs_option(std::string_view option, String& complaint) {
    TmpfsSuperblock::Options ignored;
    const OptionFault fault = parse_option(option, ignored);
    return fault == OptionFault::None ? Result<void>() : complain(fault, option, complaint);
}

Result<Ref<TmpfsSuperblock>> make_tmpfs_superblock(std::string_view options, const char* type) {
    return make_superblock({}, options, type);
}

Result<Ref<Superblock>> make_owned_tmpfs(std::string_view options, u32 uid, u32 gid) {
    TmpfsSuperblock::Options owned;
    owned.uid = uid;
    owned.gid = gid;
    TRY(Ref<TmpfsSuperblock> made, make_superblock(owned, options, "tmpfs"));
    return Ref<Superblock>(std::move(made));
}

Result<Ref<Superblock>> make_tmpfs(std::string_view options) {
    TRY(Ref<TmpfsSuperblock> made, make_tmpfs_superblock(options, "tmpfs"));
    return Ref<Superblock>(std::move(made));
}

Result<void> TmpfsSuperblock::make_root() {
    TRY(const u64 number, take_inode());
    TRY(Ref<TmpfsDirectory> made,
        make_ref<TmpfsDirectory>(*this, number, mode_directory | (options_.mode & 07777),
                                 options_.uid, options_.gid));
    root_ = std::move(made);
    return {};
}

// In a loop, because a recursion over a deep tree would not fit on the kernel stack.
TmpfsSuperblock::~TmpfsSuperblock() {
    Vector<Ref<Inode>> doomed;
    if (!root_ || !doomed.push_back(std::move(root_)))
        return;
    while (!doomed.empty()) {
        Ref<Inode> next = std::move(doomed.back());
        doomed.pop_back();
        if (next->is_directory() && !static_cast<TmpfsDirectory&>(*next).take_children(doomed))
            return; // out of memory: the rest goes by recursion
    }
}

// Mode and owner are those of the first mount; limits may not go below what is used.
Result<void> TmpfsSuperblock::reconfigure(std::string_view options) {
    Options wanted = options_;
    TRY(parse_options(options, wanted));
    if ((wanted.max_pages != 0 && wanted.max_pages < pages_.load()) ||
        (wanted.max_inodes != 0 && wanted.max_inodes < inodes_.load()))
        return fail(EINVAL);
    options_.max_pages = wanted.max_pages;
    options_.max_inodes = wanted.max_inodes;
    return {};
}

u64 TmpfsSuperblock::free_pages() const {
    if (options_.max_pages == 0)
        return ~u64{0};
    const u64 used = pages_.load(base::Order::Relaxed);
    return used < options_.max_pages ? options_.max_pages - used : 0;
}

bool TmpfsSuperblock::within_inodes(u64 inodes, u64 attribute_bytes) const {
    return options_.max_inodes == 0 ||
           inodes + (attribute_bytes + inode_bytes - 1) / inode_bytes <= options_.max_inodes;
}

// Counted first, so that nobody gets past the limit.
Result<u64> TmpfsSuperblock::take_inode() {
    if (!within_inodes(inodes_.fetch_add(1) + 1, attribute_bytes_.load())) {
        give_back_inode();
        return fail(ENOSPC);
    }
    return next_number_.fetch_add(1, base::Order::Relaxed);
}

Result<void> TmpfsSuperblock::take_attribute_bytes(u64 bytes) {
    if (!within_inodes(inodes_.load(), attribute_bytes_.fetch_add(bytes) + bytes)) {
        give_back_attribute_bytes(bytes);
        return fail(ENOSPC);
    }
    return {};
}

Result<FileSystemStats> TmpfsSuperblock::stats() {
    FileSystemStats out{};
    out.type = TMPFS_MAGIC;
    out.block_size = page_size;
    const u64 used = pages_.load(base::Order::Relaxed);
    out.blocks = options_.max_pages;
    out.free_blocks = out.available_blocks = used < out.blocks ? out.blocks - used : 0;
    out.files = options_.max_inodes != 0 ? options_.max_inodes : memory_stats().total / 2;
    const u64 inodes = inodes_.load(base::Order::Relaxed);
    out.free_files = inodes < out.files ? out.files - inodes : 0;
    out.name_max = Dentry::name_limit;
    out.fsid = device_number;
    return out;
}

Result<void> TmpfsSuperblock::describe_options(String& out) {
    char text[96];
    usize length =
        log::format(text, sizeof text, ",size={}k", options_.max_pages * (page_size / 1024));
    TRY(out.append({text, length}));
    if (options_.mode != 01777) {
        char octal[16];
        usize digits = 0;
        for (u32 rest = options_.mode; rest != 0; rest >>= 3)
            octal[digits++] = static_cast<char>('0' + (rest & 7));
        TRY(out.append(",mode="));
        while (digits > 0)
            TRY(out.push_back(octal[--digits]));
    }
    if (options_.uid != 0 || options_.gid != 0) {
        length = log::format(text, sizeof text, ",uid={},gid={}", options_.uid, options_.gid);
        TRY(out.append({text, length}));
    }
    return {};
}

TmpfsInode::TmpfsInode(TmpfsSuperblock& home, u64 number, u32 mode, u64 device_number, u32 uid,
                       u32 gid)
    : Inode(&home, number, mode), device_number_(device_number), access_time_(current_time()),
      modify_time_(access_time_), change_time_(access_time_), birth_time_(access_time_) {
    uid_ = uid;
    gid_ = gid;
}

TmpfsInode::~TmpfsInode() {
    for (const Xattr& attribute : xattrs_)
        home().give_back_attribute_bytes(attribute.charge());
    home().give_back_inode();
}

Result<Attributes> TmpfsInode::attributes() {
    Attributes out;
    out.inode = number();
    out.device_number = device_number_;
    out.size = visible_size();
    out.blocks = visible_pages() * (page_size / 512);
    SpinGuard guard(attributes_lock());
    out.mode = mode_;
    out.links = links_;
    out.uid = uid_;
    out.gid = gid_;
    out.access_time = access_time_;
    out.modify_time = modify_time_;
    out.change_time = change_time_;
    out.birth_time = birth_time_;
    return out;
}

Result<void> TmpfsInode::set_attributes(const Attributes& wanted, u32 mask) {
    if ((mask & set_size) != 0)
        TRY(resize(wanted.size));
    const TimeSpec now = current_time();
    SpinGuard guard(attributes_lock());
    if ((mask & set_mode) != 0)
        mode_ = type() | (wanted.mode & mode_permissions);
    if ((mask & set_uid) != 0)
        uid_ = wanted.uid;
    if ((mask & set_gid) != 0)
        gid_ = wanted.gid;
    if ((mask & set_access_time) != 0)
        access_time_ = wanted.access_time;
    if ((mask & set_access_time_now) != 0)
        access_time_ = now;
    if ((mask & set_modify_time) != 0)
        modify_time_ = wanted.modify_time;
    if ((mask & (set_modify_time_now | set_size)) != 0)
        modify_time_ = now;
    change_time_ = now;
    return {};
}

void TmpfsInode::note_modified() {
    const TimeSpec now = current_time();
    SpinGuard guard(attributes_lock());
    modify_time_ = change_time_ = now;
}

void TmpfsInode::note_accessed(bool strict) {
    if ((file_flags.load(base::Order::Relaxed) & no_atime_flag) != 0)
        return;
    constexpr i64 day = 24 * 60 * 60;
    const TimeSpec now = current_time();
    auto later = [](const TimeSpec& a, const TimeSpec& b) {
        return a.seconds != b.seconds ? a.seconds > b.seconds : a.nanoseconds > b.nanoseconds;
    };
    SpinGuard guard(attributes_lock());
    // relatime: once after each change, and once a day (mount(8)).
    if (strict || !later(access_time_, modify_time_) || !later(access_time_, change_time_) ||
        now.seconds - access_time_.seconds >= day)
        access_time_ = now;
}

void TmpfsInode::change_links(i32 by) {
    const TimeSpec now = current_time();
    SpinGuard guard(attributes_lock());
    links_ = static_cast<u32>(static_cast<i32>(links_) + by);
    change_time_ = now;
}

TmpfsInode::Xattr* TmpfsInode::find_xattr(std::string_view name) {
    for (Xattr& attribute : xattrs_)
        if (attribute.name == name)
            return &attribute;
    return nullptr;
}

Result<String> TmpfsInode::get_xattr(std::string_view name) {
    if (name.starts_with(XATTR_SYSTEM_PREFIX))
        return fail(EOPNOTSUPP);
    MutexGuard guard(xattr_mutex_);
    Xattr* found = find_xattr(name);
    if (found == nullptr)
        return fail(ENODATA);
    return found->value.clone();
}

Result<void> TmpfsInode::set_xattr(std::string_view name, std::string_view value, u32 flags) {
    if (!name.starts_with(XATTR_USER_PREFIX) && !name.starts_with(XATTR_TRUSTED_PREFIX) &&
        !name.starts_with(XATTR_SECURITY_PREFIX))
        return fail(EOPNOTSUPP);
    Xattr fresh;
    TRY(fresh.name, String::from(name));
    TRY(fresh.value, String::from(value));
    {
        MutexGuard guard(xattr_mutex_);
        Xattr* found = find_xattr(name);
        if (found != nullptr && (flags & XATTR_CREATE) != 0)
            return fail(EEXIST);
        if (found == nullptr && (flags & XATTR_REPLACE) != 0)
            return fail(ENODATA);
        const u64 charge = fresh.charge();
        TRY(home().take_attribute_bytes(charge));
        if (found != nullptr) {
            home().give_back_attribute_bytes(found->charge());
            std::swap(*found, fresh);
        } else if (auto added = xattrs_.push_back(std::move(fresh)); !added) {
            home().give_back_attribute_bytes(charge);
            return added;
        }
    }
    change_links(0);
    return {};
}

Result<void> TmpfsInode::remove_xattr(std::string_view name) {
    {
        MutexGuard guard(xattr_mutex_);
        Xattr* found = find_xattr(name);
        if (found == nullptr)
            return fail(ENODATA);
        home().give_back_attribute_bytes(found->charge());
        xattrs_.erase(static_cast<usize>(found - xattrs_.begin()));
    }
    change_links(0);
    return {};
}

Result<void> TmpfsInode::list_xattrs(String& out) {
    MutexGuard guard(xattr_mutex_);
    for (const Xattr& attribute : xattrs_) {
        TRY(out.append(attribute.name.view()));
        TRY(out.push_back('\0'));
    }
    return {};
}

Result<Ref<const Acl>> TmpfsInode::get_acl(AclKind kind) {
    SpinGuard guard(attributes_lock());
    return Ref<const Acl>(kind == AclKind::Access ? access_acl_ : default_acl_);
}

Result<void> TmpfsInode::set_acl(AclKind kind, Ref<const Acl> acl) {
    const TimeSpec now = current_time();
    SpinGuard guard(attributes_lock());
    if (kind == AclKind::Access)
        has_acl_ = static_cast<bool>(acl);
    std::swap(kind == AclKind::Access ? access_acl_ : default_acl_, acl);
    change_time_ = now;
    guard.unlock(); // and the old one goes without it held
    return {};
}

TmpfsSymlink::TmpfsSymlink(TmpfsSuperblock& home, u64 number, u32 uid, u32 gid, String target)
    : TmpfsInode(home, number, mode_symlink | 0777, 0, uid, gid), target_(std::move(target)) {}

} // namespace kernel
