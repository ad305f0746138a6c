#include "tools/image/tree_writer.hpp"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>

namespace image {
namespace {

constexpr std::string_view whiteout_prefix = ".wh.";
constexpr std::string_view whiteout_opaque = ".wh..wh..opq";
// What AUFS keeps for itself; of no meaning here.
constexpr std::string_view whiteout_meta_prefix = ".wh..wh.";

constexpr mode_t implied_directory_mode = 0755;

} // namespace

template <typename... Parts>
base::Failure<os::Error> TreeWriter::wrong(const TarEntry& entry, const Parts&... parts) const {
    return os::fail(os::Code::InvalidArgument, layer_, ": '", entry.path.text(), "': ", parts...);
}

base::Failure<os::Error> TreeWriter::failed(const TarEntry& entry, int error) const {
    if (error == ENOSPC || error == EDQUOT)
        return os::fail(os::Code::ResourceExhausted, "no space left after ", human_size(bytes_),
                        " of ", layer_, "; make room, or choose another place with --store");
    return os::fail_errno(error, layer_, ": '", entry.path.text(), "'");
}

std::string TreeWriter::key(std::uint64_t directory, const std::string& name) {
    return os::text(directory, "/", name);
}

os::Result<void> TreeWriter::apply(ByteSource& tar, const std::string& name) {
    layer_ = name;
    touched_.clear();
    parent_ = {};
    TRY(const std::unique_ptr<TarReader> reader, TarReader::open(tar, name, limits_));
    for (;;) {
        TRY(const std::optional<TarEntry> entry, reader->next());
        if (!entry)
            return {};
        TRY(count_entry());
        TRY(apply_entry(*reader, *entry));
    }
}

os::Result<void> TreeWriter::count_entry() {
    if (++entries_ > limits_.entries)
        return os::fail(os::Code::ResourceExhausted, layer_, ": the image has more than ",
                        limits_.entries, " entries");
    return {};
}

// Until the end, since what is put into the directory changes it.
os::Result<void> TreeWriter::remember_time(const std::string& path, const timespec& modified) {
    if (directory_times_.insert_or_assign(path, modified).second)
        remembered_ += path.size();
    if (remembered_ > limits_.remembered_bytes)
        return os::fail(os::Code::ResourceExhausted, layer_,
                        ": the paths of the image's directories are more than ",
                        human_size(limits_.remembered_bytes));
    return {};
}

os::Result<void> TreeWriter::apply_entry(TarReader& tar, const TarEntry& entry) {
    if (!entry.path.is_root() && entry.path.name().starts_with(whiteout_prefix))
        return white_out(entry);
    switch (entry.kind) {
    case TarEntry::Kind::File:
        return write_file(tar, entry);
    case TarEntry::Kind::Directory:
        return entry.path.is_root() ? write_root(entry) : write_directory(entry);
    case TarEntry::Kind::SymbolicLink:
        return write_link(entry);
    case TarEntry::Kind::HardLink:
        return write_hard_link(entry);
    case TarEntry::Kind::Pipe:
    case TarEntry::Kind::CharacterDevice:
    case TarEntry::Kind::BlockDevice:
        return write_node(entry);
    }
    return {};
}

// ---- directories on the way ---------------------------------------------------------------------

os::Result<const TreeWriter::Parent*> TreeWriter::parent_of(const PathBeneath& path) {
    std::string text = path.text_of(path.depth() - 1);
    if (parent_.fd && parent_.path == text)
        return &std::as_const(parent_);
    auto fd = open_in_root(root_.get(), text, O_RDONLY | O_DIRECTORY);
    if (!fd && fd.error() == ENOENT) {
        TRY(make_directories(path));
        fd = open_in_root(root_.get(), text, O_RDONLY | O_DIRECTORY);
    }
    if (!fd)
        return os::fail_errno(fd.error(), layer_, ": '", path.text(), "': ", text);
    struct stat status {};
    if (::fstat(fd->get(), &status) != 0)
        return os::fail_errno(errno, layer_, ": '", text, "'");
    parent_ = {std::move(*fd), static_cast<std::uint64_t>(status.st_ino), std::move(text)};
    return &std::as_const(parent_);
}

// Layers need not name each directory before its content.
os::Result<void> TreeWriter::make_directories(const PathBeneath& path) {
    for (std::size_t depth = 1; depth < path.depth(); ++depth) {
        const std::string outer = path.text_of(depth - 1);
        const std::string& name = path.part(depth - 1);
        auto fd = open_in_root(root_.get(), outer, O_RDONLY | O_DIRECTORY);
        if (!fd)
            return os::fail_errno(fd.error(), layer_, ": '", path.text(), "': ", outer);
        if (::mkdirat(fd->get(), name.c_str(), implied_directory_mode) == 0) {
            // One entry may have thousands of them on its way.
            TRY(count_entry());
            struct stat status {};
            if (::fstat(fd->get(), &status) != 0)
                return os::fail_errno(errno, layer_, ": '", outer, "'");
            touched_.insert(key(static_cast<std::uint64_t>(status.st_ino), name));
            // The mode is what it says, whatever the umask.
            auto made = open_in_root(fd->get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
            if (!made || ::fchmod(made->get(), implied_directory_mode) != 0)
                return os::fail_errno(made ? errno : made.error(), layer_, ": '", outer, "'");
        } else if (errno != EEXIST) {
            return os::fail_errno(errno, layer_, ": '", path.text(), "'");
        }
    }
    return {};
}

os::Result<void> TreeWriter::clear(const Parent& parent, const TarEntry& entry) {
    const std::string& name = entry.path.name();
    if (::unlinkat(parent.fd.get(), name.c_str(), 0) == 0 || errno == ENOENT)
        return {};
    if (errno != EISDIR && errno != EPERM)
        return failed(entry, errno);
    if (auto removed = remove_tree(parent.fd.get(), name); !removed)
        return failed(entry, removed.error());
    return {};
}

// ---- what layers hide ---------------------------------------------------------------------------

os::Result<void> TreeWriter::white_out(const TarEntry& entry) {
    const std::string& name = entry.path.name();
    if (name == whiteout_opaque)
        return white_out_below(entry.path.parent());
    if (name.starts_with(whiteout_meta_prefix))
        return {};
    const std::string hidden = name.substr(whiteout_prefix.size());
    if (hidden.empty() || hidden == "." || hidden == "..")
        return wrong(entry, "hides nothing that can be hidden");
    auto directory = open_in_root(root_.get(), entry.path.text_of(entry.path.depth() - 1),
                                  O_RDONLY | O_DIRECTORY);
    if (!directory)
        return {}; // nothing there to hide
    parent_ = {};
    if (auto removed = remove_lower(directory->get(), hidden); !removed)
        return failed(entry, removed.error());
    return {};
}

os::Result<void> TreeWriter::white_out_below(const PathBeneath& directory) {
    auto fd = open_in_root(root_.get(), directory.text(), O_RDONLY | O_DIRECTORY);
    if (!fd)
        return {};
    parent_ = {};
    auto names = list_names(fd->get());
    if (!names)
        return os::fail_errno(names.error(), layer_, ": '", directory.text(), "'");
    for (const std::string& name : *names) {
        if (auto removed = remove_lower(fd->get(), name); !removed)
            return os::fail_errno(removed.error(), layer_, ": '", directory.text(), "'");
    }
    return {};
}

// What this layer made stays, wherever in it the whiteout stands.
base::Result<void, int> TreeWriter::remove_lower(int directory, const std::string& name) {
    auto result =
        walk_beneath(directory, name, [this](const WalkEntry& entry) -> base::Result<void, int> {
            if (touched_.contains(key(entry.directory_ino, entry.name)))
                return {};
            if (::unlinkat(entry.directory, entry.name.c_str(),
                           entry.is_directory ? AT_REMOVEDIR : 0) == 0)
                return {};
            // A lower directory that has got something from this layer.
            if (entry.is_directory && (errno == ENOTEMPTY || errno == EEXIST))
                return {};
            return base::Failure(errno);
        });
    if (!result && result.error() == ENOENT)
        return {};
    return result;
}

// ---- the kinds of entries -----------------------------------------------------------------------

os::Result<void> TreeWriter::write_root(const TarEntry& entry) {
    if (auto applied = attributes_.apply(root_.get(), entry); !applied)
        return failed(entry, applied.error());
    return remember_time(".", entry.modified);
}

os::Result<void> TreeWriter::write_directory(const TarEntry& entry) {
    TRY(const Parent* parent, parent_of(entry.path));
    const std::string& name = entry.path.name();
    const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
    auto fd = open_in_root(parent->fd.get(), name, flags);
    if (!fd) {
        // Something else is there, or nothing.
        TRY(clear(*parent, entry));
        if (::mkdirat(parent->fd.get(), name.c_str(), 0700) != 0)
            return failed(entry, errno);
        fd = open_in_root(parent->fd.get(), name, flags);
    }
    if (!fd)
        return failed(entry, fd.error());
    touch(*parent, name);
    if (auto applied = attributes_.apply(fd->get(), entry); !applied)
        return failed(entry, applied.error());
    return remember_time(entry.path.text(), entry.modified);
}

os::Result<void> TreeWriter::copy_data(TarReader& tar, const TarEntry& entry, int fd) {
    for (;;) {
        TRY(const std::optional<DataBlock> block, tar.read_block());
        if (!block)
            break;
        bytes_ += block->bytes.size();
        if (bytes_ > limits_.unpacked_bytes)
            return os::fail(os::Code::ResourceExhausted, layer_,
                            ": the image unpacks to more than ", human_size(limits_.unpacked_bytes),
                            "; --max-size allows more");
        std::span<const std::byte> rest = block->bytes;
        std::uint64_t at = block->offset;
        while (!rest.empty()) {
            const ssize_t written = ::pwrite(fd, rest.data(), rest.size(), static_cast<off_t>(at));
            if (written < 0 && errno != EINTR)
                return failed(entry, errno);
            if (written > 0) {
                rest = rest.subspan(static_cast<std::size_t>(written));
                at += static_cast<std::uint64_t>(written);
            }
        }
    }
    // A hole at the end has no block.
    if (::ftruncate(fd, static_cast<off_t>(entry.size)) != 0)
        return failed(entry, errno);
    return {};
}

os::Result<void> TreeWriter::write_file(TarReader& tar, const TarEntry& entry) {
    TRY(const Parent* parent, parent_of(entry.path));
    const std::string& name = entry.path.name();
    // A new file in any case: what has another name, in this tree or in one that shares it, must
    // not change.
    TRY(clear(*parent, entry));
    const os::UniqueFd fd(::openat(parent->fd.get(), name.c_str(),
                                   O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd)
        return failed(entry, errno);
    touch(*parent, name);
    TRY(copy_data(tar, entry, fd.get()));
    if (auto applied = attributes_.apply(fd.get(), entry); !applied)
        return failed(entry, applied.error());
    return {};
}

os::Result<void> TreeWriter::write_link(const TarEntry& entry) {
    TRY(const Parent* parent, parent_of(entry.path));
    const std::string& name = entry.path.name();
    TRY(clear(*parent, entry));
    if (::symlinkat(entry.target.c_str(), parent->fd.get(), name.c_str()) != 0)
        return failed(entry, errno);
    touch(*parent, name);
    if (auto applied = attributes_.apply_at(parent->fd.get(), name.c_str(), entry); !applied)
        return failed(entry, applied.error());
    return {};
}

os::Result<void> TreeWriter::write_hard_link(const TarEntry& entry) {
    const PathBeneath& target = entry.link_target;
    if (target.is_root())
        return wrong(entry, "a hard link to the root");
    const auto from =
        open_in_root(root_.get(), target.text_of(target.depth() - 1), O_RDONLY | O_DIRECTORY);
    struct stat status {};
    if (!from || ::fstatat(from->get(), target.name().c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0)
        return wrong(entry, "a hard link to '", target.text(), "', which is not there");
    if (S_ISDIR(status.st_mode))
        return wrong(entry, "a hard link to the directory '", target.text(), "'");
    TRY(const Parent* parent, parent_of(entry.path));
    const std::string& name = entry.path.name();
    touch(*parent, name);
    struct stat from_status {};
    if (::fstat(from->get(), &from_status) != 0)
        return failed(entry, errno);
    if (static_cast<std::uint64_t>(from_status.st_ino) == parent->ino && target.name() == name)
        return {}; // to itself
    TRY(clear(*parent, entry));
    if (::linkat(from->get(), target.name().c_str(), parent->fd.get(), name.c_str(), 0) != 0)
        return failed(entry, errno);
    return {};
}

os::Result<void> TreeWriter::write_node(const TarEntry& entry) {
    TRY(const Parent* parent, parent_of(entry.path));
    const std::string& name = entry.path.name();
    TRY(clear(*parent, entry));
    touch(*parent, name);
    mode_t type = S_IFIFO;
    if (entry.kind == TarEntry::Kind::CharacterDevice)
        type = S_IFCHR;
    else if (entry.kind == TarEntry::Kind::BlockDevice)
        type = S_IFBLK;
    // Without privileges a device is not even tried: a user namespace's mknod would make some.
    const bool is_device = type != S_IFIFO;
    if ((!is_device || privileged_) &&
        ::mknodat(parent->fd.get(), name.c_str(), type | 0600, is_device ? entry.device : 0) == 0) {
        if (auto applied = attributes_.apply_at(parent->fd.get(), name.c_str(), entry); !applied)
            return failed(entry, applied.error());
        return {};
    }
    if (!is_device || (privileged_ && errno != EPERM))
        return failed(entry, errno);
    const os::UniqueFd fd(::openat(parent->fd.get(), name.c_str(),
                                   O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd)
        return failed(entry, errno);
    if (auto recorded = attributes_.record_device(fd.get(), entry); !recorded)
        return failed(entry, recorded.error());
    return {};
}

os::Result<void> TreeWriter::finish() {
    for (const auto& [path, modified] : directory_times_) {
        // It may have become something else in a later layer.
        auto fd = open_in_root(root_.get(), path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        const std::array<timespec, 2> times = {timespec{0, UTIME_OMIT}, modified};
        if (fd && ::futimens(fd->get(), times.data()) != 0)
            return os::fail_errno(errno, "cannot set the time of '", path, "'");
    }
    return {};
}

} // namespace image
