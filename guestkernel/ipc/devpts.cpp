// devpts: the slaves of pseudo terminals by name, pts(4). Each mount is an instance of its own.
#include <linux/errno.h>
#include <linux/magic.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/ipc/pty.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {
namespace {

constexpr u64 first_slave = 3;    // inode numbers: 1 the root, 2 ptmx, then the slaves, as in Linux
constexpr u32 most_of_all = 4096; // kernel.pty.max
constinit base::Atomic<u32> total{0};

class SlaveInode final : public Inode {
public:
    SlaveInode(Superblock* superblock, Pty& pty)
        : Inode(superblock, first_slave + pty.index, mode_char | pty.mode), index_(pty.index),
          serial_(pty.serial) {
        uid_ = pty.owner;
        gid_ = pty.group;
    }
    Ref<Pty> pty() {
        Ref<Pty> found = static_cast<Devpts&>(*superblock()).pty(index_);
        return found && found->serial == serial_ ? std::move(found) : Ref<Pty>();
    }
    Result<Attributes> attributes() override {
        Attributes out;
        out.inode = number();
        out.mode = mode_;
        out.uid = uid_;
        out.gid = gid_;
        out.device_number = make_device(pts_major, index_);
        out.block_size = 1024;
        if (Ref<Pty> pair = pty())
            out.access_time = out.modify_time = out.change_time = pair->created;
        return out;
    }
    Result<void> set_attributes(const Attributes& wanted, u32 mask) override {
        if ((mask & set_mode) != 0)
            mode_ = mode_char | (wanted.mode & mode_permissions);
        if ((mask & set_uid) != 0)
            uid_ = wanted.uid;
        if ((mask & set_gid) != 0)
            gid_ = wanted.gid;
        if (Ref<Pty> pair = pty()) {
            pair->mode = mode_ & mode_permissions;
            pair->owner = uid_;
            pair->group = gid_;
        }
        return {};
    }

private:
    const u32 index_;
    const u64 serial_;
};

class PtmxInode final : public Inode {
public:
    PtmxInode(Superblock* superblock, u32 mode) : Inode(superblock, 2, mode_char | mode) {}
    Result<Attributes> attributes() override {
        Attributes out;
        out.inode = number();
        out.mode = mode_;
        out.uid = uid_;
        out.gid = gid_;
        out.device_number = make_device(ptmx_major, ptmx_minor);
        out.block_size = 1024;
        return out;
    }
    Result<void> set_attributes(const Attributes& wanted, u32 mask) override {
        if ((mask & set_mode) != 0)
            mode_ = mode_char | (wanted.mode & mode_permissions);
        if ((mask & set_uid) != 0)
            uid_ = wanted.uid;
        if ((mask & set_gid) != 0)
            gid_ = wanted.gid;
        return {};
    }
};

class DirectoryFile final : public File {
public:
    using File::File;
    Result<u64> read_directory(DirectorySink& sink, u64 offset) override {
        auto& home = static_cast<Devpts&>(*inode()->superblock());
        if (!add_dot_entries(*this, sink, offset))
            return offset;
        if (offset == 2) {
            if (!sink.add("ptmx", 2, mode_char >> 12, first_slave))
                return offset;
            offset = first_slave;
        }
        for (u32 number = static_cast<u32>(offset - first_slave); home.next(number); number++) {
            char name[16];
            const usize length = log::format(name, sizeof name, "{}", number);
            if (!sink.add(std::string_view(name, length), first_slave + number, mode_char >> 12,
                          first_slave + number + 1))
                return first_slave + number;
            offset = first_slave + number + 1;
        }
        return offset;
    }
    Result<u64> seek(i64 offset, int whence) override {
        if (whence != 0 || offset < 0)
            return fail(EINVAL);
        set_position(static_cast<u64>(offset));
        return static_cast<u64>(offset);
    }
};

class RootInode final : public Inode {
public:
    explicit RootInode(Superblock* superblock) : Inode(superblock, 1, mode_directory | 0755) {}
    Result<Attributes> attributes() override {
        Attributes out;
        out.inode = 1;
        out.mode = mode_;
        out.uid = uid_;
        out.gid = gid_;
        out.links = 2;
        out.block_size = 1024;
        return out;
    }
    Result<void> set_attributes(const Attributes& wanted, u32 mask) override {
        if ((mask & set_mode) != 0)
            mode_ = mode_directory | (wanted.mode & mode_permissions);
        if ((mask & set_uid) != 0)
            uid_ = wanted.uid;
        if ((mask & set_gid) != 0)
            gid_ = wanted.gid;
        return {};
    }
    Result<Ref<Inode>> lookup(std::string_view name) override {
        auto& home = static_cast<Devpts&>(*superblock());
        if (name == "ptmx")
            return home.ptmx();
        u32 number = 0;
        if (name.empty() || name.size() > 7)
            return fail(ENOENT);
        for (const char c : name) {
            if (c < '0' || c > '9' || (name.size() > 1 && name[0] == '0'))
                return fail(ENOENT);
            number = number * 10 + static_cast<u32>(c - '0');
        }
        Ref<Pty> pty = home.pty(number);
        if (!pty)
            return fail(ENOENT);
        TRY(Ref<SlaveInode> inode, make_ref<SlaveInode>(superblock(), *pty));
        return Ref<Inode>(std::move(inode));
    }
    Result<Ref<File>> open(const Path& path, u32 flags) override {
        TRY(Ref<DirectoryFile> file, make_ref<DirectoryFile>(path, Ref<Inode>::share(this), flags));
        return Ref<File>(std::move(file));
    }
};

bool is_devpts(const Inode& inode) {
    return inode.superblock() != nullptr &&
           inode.superblock()->type() == static_cast<const char*>(Devpts::type_name);
}

bool parse_number(std::string_view text, unsigned radix, u32& out) {
    u64 value = 0;
    for (const char c : text) {
        if (c < '0' || c >= static_cast<char>('0' + radix))
            return false;
        value = value * radix + static_cast<u64>(c - '0');
        if (value > ~u32{0})
            return false;
    }
    out = static_cast<u32>(value);
    return !text.empty();
}

// Ids are those of who mounts it.
bool take_id(bool group, u32 id, bool& has, u32& out) {
    const Credentials* who = current_task().credentials.get();
    out = to_global_id(who == nullptr ? nullptr : who->user_ns.get(), group, id);
    has = true;
    return out != invalid_id;
}

bool parse_option(std::string_view option, Devpts::Options& out) {
    if (option.empty() || option == "newinstance")
        return true;
    const usize equals = option.find('=');
    if (equals == std::string_view::npos)
        return false;
    const std::string_view name = option.substr(0, equals);
    const std::string_view value = option.substr(equals + 1);
    const bool octal = name == "mode" || name == "ptmxmode";
    u32 number = 0;
    if (!parse_number(value, octal ? 8 : 10, number))
        return false;
    if (name == "uid")
        return take_id(false, number, out.has_uid, out.uid);
    if (name == "gid")
        return take_id(true, number, out.has_gid, out.gid);
    if (name == "mode")
        out.mode = number & mode_permissions;
    else if (name == "ptmxmode")
        out.ptmx_mode = number & mode_permissions;
    else if (name == "max" && number <= Devpts::most)
        out.max = number;
    else
        return false;
    return true;
}

Result<Devpts::Options> parse_options(std::string_view options) {
    Devpts::Options out;
    while (!options.empty()) {
        usize end = options.find(',');
        if (end == std::string_view::npos)
            end = options.size();
        if (!parse_option(options.substr(0, end), out))
            return fail(EINVAL);
        options = end < options.size() ? options.substr(end + 1) : std::string_view();
    }
    return out;
}

Result<void> append_octal(String& out, u32 value) {
    const char digits[] = {static_cast<char>('0' + (value >> 6 & 7)),
                           static_cast<char>('0' + (value >> 3 & 7)),
                           static_cast<char>('0' + (value & 7))};
    if (value > 0777)
        TRY(out.push_back(static_cast<char>('0' + (value >> 9 & 7))));
    return out.append({digits, sizeof digits});
}

} // namespace

Ref<Pty> pty_of(Inode& inode) {
    if (!is_devpts(inode) || inode.number() < first_slave)
        return {};
    return static_cast<SlaveInode&>(inode).pty();
}

Result<Ref<Devpts>> Devpts::create(std::string_view options) {
    TRY(const Options parsed, parse_options(options));
    TRY(Ref<Devpts> made, make_ref<Devpts>());
    made->options_ = parsed;
    TRY(made->root_, make_ref<RootInode>(made.get()));
    TRY(made->ptmx_, make_ref<PtmxInode>(made.get(), parsed.ptmx_mode));
    const Credentials* who = current_task().credentials.get();
    if (who != nullptr) { // root of the mounter's user namespace
        const u32 user = to_global_id(who->user_ns.get(), false, 0);
        const u32 group = to_global_id(who->user_ns.get(), true, 0);
        made->root_->uid_ = made->ptmx_->uid_ = user == invalid_id ? 0 : user;
        made->root_->gid_ = made->ptmx_->gid_ = group == invalid_id ? 0 : group;
    }
    return made;
}

Result<Path> Devpts::find(const Path& ptmx) {
    if (!ptmx.dentry())
        return fail(ENODEV);
    if (is_devpts(*ptmx.dentry()->inode()))
        return Path(Ref<Mount>::share(ptmx.mount()), Ref<Dentry>::share(&ptmx.mount()->root()));
    Ref<Mount> mount = Ref<Mount>::share(ptmx.mount());
    Ref<Dentry> directory = ptmx.dentry()->parent_ref();
    if (!directory)
        return fail(ENODEV);
    TRY(Ref<Dentry> place, DentryCache::lookup(*directory, "pts"));
    if (place->is_negative())
        return fail(ENOENT);
    MountTree::cross_down(mount, place);
    if (!is_devpts(*place->inode()) || place.get() != &mount->root())
        return fail(ENODEV);
    return Path(std::move(mount), std::move(place));
}

Result<FileSystemStats> Devpts::stats() {
    FileSystemStats out{};
    out.type = DEVPTS_SUPER_MAGIC;
    out.block_size = 4096;
    out.name_max = Dentry::name_limit;
    return out;
}

bool Devpts::dentry_valid(Inode&, std::string_view, Inode* inode, u64) {
    return inode != nullptr && (inode->number() < first_slave || pty_of(*inode));
}

Result<void> Devpts::describe_options(String& out) {
    char text[32];
    const Credentials* who = current_task().credentials.get();
    const UserNamespace* space = who == nullptr ? nullptr : who->user_ns.get();
    const auto number = [&](std::string_view name, u32 value) -> Result<void> {
        TRY(out.append(name));
        return out.append({text, log::format(text, sizeof text, "{}", value)});
    };
    if (options_.has_uid)
        TRY(number(",uid=", from_global_id(space, false, options_.uid)));
    if (options_.has_gid)
        TRY(number(",gid=", from_global_id(space, true, options_.gid)));
    TRY(out.append(",mode="));
    TRY(append_octal(out, options_.mode));
    TRY(out.append(",ptmxmode="));
    TRY(append_octal(out, options_.ptmx_mode));
    return options_.max < most ? number(",max=", options_.max) : Result<void>();
}

// What is not named goes back to what it is by default.
Result<void> Devpts::reconfigure(std::string_view options) {
    TRY(options_, parse_options(options));
    ptmx_->mode_ = mode_char | options_.ptmx_mode;
    return {};
}

u32 pty_count() {
    return total.load(base::Order::Relaxed);
}

Ref<Pty> Devpts::pty(u32 number) {
    SpinGuard guard(lock_);
    if (number >= ptys_.size() || ptys_[number] == nullptr)
        return {};
    return Ref<Pty>::share(ptys_[number]);
}

bool Devpts::next(u32& number) {
    SpinGuard guard(lock_);
    while (number < ptys_.size() && ptys_[number] == nullptr)
        number++;
    return number < ptys_.size();
}

Result<Ref<Pty>> Devpts::add() {
    const Task& task = current_task();
    for (;;) {
        u32 number = 0; // the lowest that is free
        usize size = 0;
        {
            SpinGuard guard(lock_);
            size = ptys_.size();
            for (number = 0; number < size && ptys_[number] != nullptr;)
                number++;
        }
        if (number >= options_.max || total.load(base::Order::Relaxed) >= most_of_all)
            return fail(ENOSPC);
        if (number == size) {
            // Memory is found without the lock held.
            Vector<Pty*> larger;
            TRY(larger.resize(2 * size + 4));
            SpinGuard guard(lock_);
            if (ptys_.size() == size) {
                for (usize i = 0; i < size; i++)
                    larger[i] = ptys_[i];
                std::swap(ptys_, larger);
            }
        }
        TRY(Ref<Pty> pty, make_ref<Pty>(Ref<Devpts>::share(this), number,
                                        options_.has_uid ? options_.uid : task.credentials->fsuid,
                                        options_.has_gid ? options_.gid : task.credentials->fsgid,
                                        options_.mode));
        SpinGuard guard(lock_);
        if (ptys_[number] != nullptr)
            continue;              // taken meanwhile
        ptys_[number] = pty.get(); // weak: the master removes it
        total.fetch_add(1);
        return pty;
    }
}

void Devpts::remove(Pty& pty) {
    SpinGuard guard(lock_);
    ptys_[pty.index] = nullptr;
    total.fetch_sub(1);
}

Result<Ref<Superblock>> make_devpts(std::string_view options) {
    TRY(Ref<Devpts> made, Devpts::create(options));
    return Ref<Superblock>(std::move(made));
}

} // namespace kernel
