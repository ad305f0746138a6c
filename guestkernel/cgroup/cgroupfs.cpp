// The file system "cgroup2". All mounts show one hierarchy; a namespace's mount starts at its root.
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/inotify.h>
#include <linux/magic.h>
#include <linux/poll.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/cgroup/cgroup_file.hpp"
#include "guestkernel/cgroup/controllers.hpp"
#include "guestkernel/cgroup/pressure.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr usize largest_write = page_size;
constexpr u32 ready_always = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;

class CgroupSuperblock final : public Superblock {
public:
    explicit CgroupSuperblock(Ref<Inode> root) : root_(std::move(root)) {}
    Ref<Inode> root() override { return root_; }
    const char* type() const override { return "cgroup2"; }
    bool can_drop_dentries() const override { return true; }
    bool dentry_valid(Inode& parent, std::string_view name, Inode* inode, u64) override;
    Result<FileSystemStats> stats() override {
        FileSystemStats stats{};
        stats.type = CGROUP2_SUPER_MAGIC;
        stats.block_size = page_size;
        stats.name_max = Dentry::name_limit;
        return stats;
    }

private:
    const Ref<Inode> root_;
};

// The superblock of the whole hierarchy: also that of all inodes.
constinit CgroupSuperblock* the_superblock = nullptr; // hierarchy_mutex()

class CgroupInode : public Inode {
public:
    CgroupInode(Ref<Cgroup> group, u64 number, u32 mode)
        : Inode(the_superblock, number, mode), group_(std::move(group)), changed_(current_time()) {}
    Result<Attributes> attributes() override {
        Attributes out;
        SpinGuard guard(attributes_lock_);
        out.inode = number_;
        out.mode = mode_;
        out.uid = uid_;
        out.gid = gid_;
        out.links = is_directory() ? 2 : 1;
        out.access_time = out.modify_time = out.change_time = out.birth_time = changed_;
        return out;
    }
    Result<void> set_attributes(const Attributes& wanted, u32 mask) override {
        SpinGuard guard(attributes_lock_);
        if ((mask & set_mode) != 0)
            mode_ = (mode_ & mode_type) | (wanted.mode & mode_permissions);
        if ((mask & set_uid) != 0)
            uid_ = wanted.uid;
        if ((mask & set_gid) != 0)
            gid_ = wanted.gid;
        return {};
    }
    Cgroup& group() const { return *group_; }
    void adopt(Superblock& fs) { superblock_ = &fs; }

protected:
    const Ref<Cgroup> group_;
    TimeSpec changed_;
};

class CgroupDirectory final : public CgroupInode {
public:
    using CgroupInode::CgroupInode;
    Result<Ref<Inode>> lookup(std::string_view name) override;
    Result<Ref<Inode>> create(std::string_view name, u32 mode, u64 device, u32 uid,
                              u32 gid) override;
    Result<void> rmdir(std::string_view name, Inode& child) override;
    Result<Ref<File>> open(const Path& path, u32 flags) override;
};

class CgroupDirectoryFile final : public File {
public:
    using File::File;
    Result<u64> read_directory(DirectorySink& sink, u64 offset) override;
    Result<void> sync(bool) override { return {}; }
};

} // namespace

// An open file that was written to for a figure to start anew.
struct Restarted {
    base::ListNode node;
    u64 highest = 0; // before the last time that another file did so
};

class CgroupFileNode final : public CgroupInode {
public:
    CgroupFileNode(Ref<Cgroup> group, const CgroupFileType& of)
        : CgroupInode(std::move(group), next_cgroup_number(), mode_regular | of.mode), type(of) {}
    Result<Ref<File>> open(const Path& path, u32 flags) override;

    const CgroupFileType& type;
    base::Atomic<u64> events{1};
    WaitQueue changed;
    base::IntrusiveList<Restarted, &Restarted::node> restarted; // hierarchy_mutex()
};

namespace {

class CgroupOpenFile final : public File {
public:
    CgroupOpenFile(Path path, Ref<Inode> inode, u32 flags)
        : File(std::move(path), std::move(inode), flags), seen_(node().events.load()),
          opener_(current_task().credentials) {}
    ~CgroupOpenFile() override {
        if (trigger_ != nullptr)
            free_pressure_trigger(trigger_);
        if (node().type.restart == nullptr)
            return;
        MutexGuard hierarchy(hierarchy_mutex());
        if (restarted_.node.linked())
            restarted_.node.unlink();
    }
    const char* type_name() const override { return "cgroup"; }
    Result<usize> read(IoBuffer& out, u64 offset) override;
    Result<usize> write(IoBuffer& in, u64 offset) override;
    Result<void> truncate(u64) override { return {}; }
    u32 poll(PollTable* table) override;
    bool can_wait() const override { return true; }

private:
    CgroupFileNode& node() const { return static_cast<CgroupFileNode&>(*inode_); }
    Mutex mutex_;
    bool made_ = false;
    TextBuilder text_;
    base::Atomic<u64> seen_;
    const Ref<const Credentials> opener_;
    PressureTrigger* trigger_ = nullptr; // set once
    Restarted restarted_;                // hierarchy_mutex()
    void restart();
};

// The group's own directory inode is made with it and stays as long as it is in the tree.
Result<void> make_directory_inode(Cgroup& group, u32 mode, u32 uid, u32 gid) {
    TRY(auto directory, make_ref<CgroupDirectory>(Ref<Cgroup>::share(&group), group.id,
                                                  mode_directory | (mode & mode_permissions)));
    directory->uid_ = uid;
    directory->gid_ = gid;
    group.directory = std::move(directory);
    return {};
}

} // namespace

usize cgroup_file_count() {
    usize count = 0;
    for (const auto& part : {control_files(), cpuset_files(), cpu_files(), io_files(),
                             memory_files(), pids_files(), pressure_files()})
        count += part.size();
    return count;
}

const CgroupFileType& cgroup_file_type(usize index) {
    for (const auto& part : {control_files(), cpuset_files(), cpu_files(), io_files(),
                             memory_files(), pids_files(), pressure_files()}) {
        if (index < part.size())
            return part[index];
        index -= part.size();
    }
    __builtin_unreachable();
}

i32 find_cgroup_file(std::string_view name) {
    for (usize i = 0; i < cgroup_file_count(); i++)
        if (cgroup_file_type(i).name == name)
            return static_cast<i32>(i);
    return -1;
}

bool cgroup_file_present(Cgroup& group, const CgroupFileType& type) {
    if (type.where == (group.is_root() ? CgroupFileType::NotInRoot : CgroupFileType::RootOnly))
        return false;
    if (type.pressure != 0 && !pressure_shown(group))
        return false;
    return type.controller == 0 || (group.controllers() & type.controller) != 0;
}

namespace {

// Requires: hierarchy_mutex().
Result<Ref<CgroupFileNode>> file_node(Cgroup& group, usize index) {
    const CgroupFileType& type = cgroup_file_type(index);
    if (group.dead || !cgroup_file_present(group, type))
        return fail(ENOENT);
    if (group.files[index])
        return Ref<CgroupFileNode>::share(static_cast<CgroupFileNode*>(group.files[index].get()));
    TRY(auto node, make_ref<CgroupFileNode>(Ref<Cgroup>::share(&group), type));
    // Whoever delegates gives directory and files away one by one (cgroups(7)).
    node->uid_ = group.maker_uid;
    node->gid_ = group.maker_gid;
    SpinGuard guard(group.files_lock);
    group.files[index] = node;
    return node;
}

} // namespace

Result<Ref<Inode>> cgroup_file_inode(Cgroup& group, std::string_view name) {
    const i32 index = find_cgroup_file(name);
    if (index < 0)
        return fail(ENOENT);
    TRY(auto node, file_node(group, static_cast<usize>(index)));
    return Ref<Inode>(std::move(node));
}

namespace {

template <typename Chosen>
void drop_files(Cgroup& group, Chosen&& chosen) {
    for (usize i = 0; i < group.files.size(); i++) {
        if (!group.files[i] || !chosen(cgroup_file_type(i)))
            continue;
        Ref<Inode> gone;
        {
            SpinGuard guard(group.files_lock);
            gone = std::move(group.files[i]);
        }
        auto& node = static_cast<CgroupFileNode&>(*gone);
        node.events.fetch_add(1);
        node.changed.wake_all(POLLERR | POLLPRI);
    }
}

} // namespace

void drop_cgroup_files(Cgroup& group, u32 controllers) {
    drop_files(group, [&](const CgroupFileType& type) {
        return controllers == ~0u || (type.controller & controllers) != 0;
    });
}

void drop_pressure_files(Cgroup& group) {
    drop_files(group, [](const CgroupFileType& type) { return type.pressure != 0; });
}

void tell_cgroup_file(Cgroup& group, CgroupEvent event) {
    for (usize i = 0; i < cgroup_file_count(); i++) {
        if (cgroup_file_type(i).event != event)
            continue;
        Ref<CgroupFileNode> node;
        {
            SpinGuard guard(group.files_lock);
            if (i < group.files.size())
                node =
                    Ref<CgroupFileNode>::share(static_cast<CgroupFileNode*>(group.files[i].get()));
        }
        if (!node)
            return; // nobody ever looked
        node->events.fetch_add(1);
        node->changed.wake_all(POLLERR | POLLPRI);
        Ref<Inode> directory;
        {
            MutexGuard guard(hierarchy_mutex());
            directory = group.directory;
        }
        if (directory)
            notify_event(*directory, IN_MODIFY, cgroup_file_type(i).name);
        notify_event(*node, IN_MODIFY, {});
        return;
    }
}

Cgroup* cgroup_of_inode(Inode& inode) {
    if (!inode.is_directory() || inode.superblock() == nullptr ||
        std::string_view(inode.superblock()->type()) != "cgroup2")
        return nullptr;
    return &static_cast<CgroupDirectory&>(inode).group();
}

Result<Ref<Cgroup>> cgroup_of_file(File& file) {
    Cgroup* group = file.inode() == nullptr ? nullptr : cgroup_of_inode(*file.inode());
    if (group == nullptr)
        return fail(EBADF);
    return Ref<Cgroup>::share(group);
}

// --- directories ---------------------------------------------------------------------------------

namespace {

// Other mounts of the hierarchy have dentries of their own, which do not hear of changes.
bool CgroupSuperblock::dentry_valid(Inode& parent, std::string_view name, Inode* inode, u64) {
    if (inode == nullptr)
        return false;
    auto& directory = static_cast<CgroupDirectory&>(parent);
    if (inode->is_directory())
        return !static_cast<CgroupDirectory&>(*inode).group().dead;
    const i32 index = find_cgroup_file(name);
    if (index < 0 || directory.group().dead)
        return false;
    SpinGuard guard(directory.group().files_lock);
    return directory.group().files[static_cast<usize>(index)].get() == inode;
}

Result<Ref<Inode>> CgroupDirectory::lookup(std::string_view name) {
    MutexGuard guard(hierarchy_mutex());
    if (group_->dead)
        return fail(ENOENT);
    if (Cgroup* child = find_child(*group_, name))
        return child->directory;
    return cgroup_file_inode(*group_, name);
}

Result<Ref<Inode>> CgroupDirectory::create(std::string_view name, u32 mode, u64, u32 uid, u32 gid) {
    if ((mode & mode_type) != mode_directory)
        return fail((mode & mode_type) == mode_regular ? EACCES : EPERM);
    MutexGuard guard(hierarchy_mutex());
    TRY(Ref<Cgroup> group, make_cgroup(*group_, name));
    group->maker_uid = uid;
    group->maker_gid = gid;
    if (auto made = make_directory_inode(*group, mode, uid, gid); !made) {
        (void)remove_cgroup(*group);
        return fail(made.error().code);
    }
    return group->directory;
}

Result<void> CgroupDirectory::rmdir(std::string_view, Inode& child) {
    if (!child.is_directory())
        return fail(ENOTDIR);
    const Ref<Cgroup> group = Ref<Cgroup>::share(&static_cast<CgroupDirectory&>(child).group());
    MutexGuard guard(hierarchy_mutex());
    return remove_cgroup(*group);
}

Result<Ref<File>> CgroupDirectory::open(const Path& path, u32 flags) {
    TRY(auto file, make_ref<CgroupDirectoryFile>(path, Ref<Inode>::share(this), flags));
    return Ref<File>(std::move(file));
}

// Positions: the dots, the table's files, then the children by their numbers.
Result<u64> CgroupDirectoryFile::read_directory(DirectorySink& sink, u64 offset) {
    if (!add_dot_entries(*this, sink, offset))
        return offset;
    Cgroup& group = static_cast<CgroupDirectory&>(*inode()).group();
    MutexGuard guard(hierarchy_mutex());
    if (group.dead)
        return offset;
    const u64 base = 2 + cgroup_file_count();
    for (; offset < base; offset++) {
        const CgroupFileType& type = cgroup_file_type(offset - 2);
        if (!cgroup_file_present(group, type))
            continue;
        TRY(auto node, file_node(group, offset - 2));
        if (!sink.add(type.name, node->number(), directory_type(mode_regular), offset + 1))
            return offset;
    }
    for (Cgroup& child : group.children) { // by rising numbers: new ones go to the end
        if (child.id < offset - base)
            continue;
        if (!sink.add(child.name.view(), child.id, directory_type(mode_directory),
                      base + child.id + 1))
            return offset;
        offset = base + child.id + 1;
    }
    return offset;
}

} // namespace

// --- files ---------------------------------------------------------------------------------------

Result<Ref<File>> CgroupFileNode::open(const Path& path, u32 flags) {
    TRY(auto file, make_ref<CgroupOpenFile>(path, Ref<Inode>::share(this), flags));
    return Ref<File>(std::move(file));
}

namespace {

Result<usize> CgroupOpenFile::read(IoBuffer& out, u64 offset) {
    MutexGuard guard(mutex_);
    if (offset == 0 || !made_) {
        const CgroupFileType& type = node().type;
        if (type.show == nullptr)
            return fail(EINVAL);
        text_.clear();
        made_ = false;
        seen_.store(node().events.load());
        MutexGuard hierarchy(hierarchy_mutex());
        if (node().group().dead || !cgroup_file_present(node().group(), type))
            return fail(ENODEV);
        if (restarted_.node.linked()) {
            const u64 late = type.since_restart(node().group());
            text_.print("{}\n",
                        page_size * (late > restarted_.highest ? late : restarted_.highest));
        } else {
            TRY(type.show(text_, node().group()));
        }
        if (text_.failed())
            return fail(ENOMEM);
        made_ = true;
    }
    return text_.read(out, offset);
}

// The others keep what they have seen so far.
void CgroupOpenFile::restart() {
    const CgroupFileType& type = node().type;
    Cgroup& group = node().group();
    const u64 late = type.since_restart(group);
    for (Restarted& other : node().restarted)
        if (late > other.highest)
            other.highest = late;
    restarted_.highest = type.restart(group);
    if (!restarted_.node.linked())
        node().restarted.push_back(restarted_);
}

Result<usize> CgroupOpenFile::write(IoBuffer& in, u64) {
    const CgroupFileType& type = node().type;
    if (type.store == nullptr && type.move == nullptr && type.pressure == 0 &&
        type.restart == nullptr)
        return fail(EINVAL);
    const usize length = in.remaining();
    if (length > largest_write)
        return fail(E2BIG);
    Vector<char> text;
    TRY(text.resize(length));
    if (in.copy_in(text.data(), length) != length)
        return fail(EFAULT);
    const std::string_view view(text.data(), length);
    MutexGuard guard(mutex_);
    MutexGuard hierarchy(hierarchy_mutex());
    Cgroup& group = node().group();
    if (group.dead || !cgroup_file_present(group, type))
        return fail(ENODEV);
    if (type.pressure != 0) {
        if (trigger_ != nullptr)
            return fail(EBUSY);
        TRY(trigger_, make_pressure_trigger(&group, static_cast<PressureKind>(type.pressure - 1),
                                            strip(view)));
        return length;
    }
    if (type.restart != nullptr)
        restart();
    else if (type.move != nullptr)
        TRY(type.move(group, strip(view), opener_.get()));
    else
        TRY(type.store(group, strip(view)));
    return length;
}

u32 CgroupOpenFile::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(node().changed);
    if (node().type.pressure != 0)
        return ready_always | poll_pressure_trigger(trigger_, table);
    const bool news = node().events.load() != seen_.load();
    return ready_always | (news ? u32{POLLERR | POLLPRI} : 0u);
}

Result<Ref<Superblock>> whole_hierarchy() {
    TRY(init_root_cgroup());
    MutexGuard guard(hierarchy_mutex());
    if (the_superblock != nullptr)
        return Ref<Superblock>::share(the_superblock);
    TRY(make_directory_inode(root_cgroup(), 0555, 0, 0));
    auto fs = make_ref<CgroupSuperblock>(root_cgroup().directory);
    if (!fs) {
        root_cgroup().directory = nullptr;
        return fail(ENOMEM);
    }
    // The inode was made before its superblock.
    static_cast<CgroupDirectory&>(*root_cgroup().directory).adopt(**fs);
    the_superblock = Ref<CgroupSuperblock>(*fs).leak(); // for good
    return Ref<Superblock>(std::move(*fs));
}

} // namespace

Result<Ref<Superblock>> make_cgroupfs() {
    TRY(Ref<Superblock> whole, whole_hierarchy());
    const Namespaces* own = current_namespaces();
    const Ref<Cgroup> root = own == nullptr ? Ref<Cgroup>() : own->cgroup->root;
    if (!root)
        return whole;
    MutexGuard guard(hierarchy_mutex());
    if (root->dead)
        return fail(ENODEV);
    TRY(auto fs, make_ref<CgroupSuperblock>(root->directory));
    fs->device_number = whole->device_number;
    return Ref<Superblock>(std::move(fs));
}

Result<void> append_shown_group(String& out, Inode& directory) {
    if (const Cgroup* group = cgroup_of_inode(directory))
        return append_visible_path(out, *group);
    // One file of a group, bound to somewhere.
    const auto& file = static_cast<CgroupFileNode&>(directory);
    TRY(append_visible_path(out, file.group()));
    if (!out.view().ends_with('/'))
        TRY(out.append("/"));
    return out.append(file.type.name);
}

} // namespace kernel
