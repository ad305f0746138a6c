// Copies as tar archives.
#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <fcntl.h>
#include <map>
#include <memory>
#include <optional>
#include <unistd.h>
#include <utility>
#include <vector>

#include <sys/stat.h>
#include <sys/xattr.h>

#include "tools/image/archive_library.hpp"
#include "tools/image/beneath.hpp"
#include "tools/image/tar.hpp"
#include "tools/joey/containers/changes.hpp"
#include "tools/joey/containers/copy_steps.hpp"

namespace joey::containers {

namespace {

using namespace copying;
using os::UniqueFd;

struct ArchiveCloser {
    void operator()(archive* one) const { image::libarchive().archive_write_free(one); }
};
struct EntryCloser {
    void operator()(archive_entry* one) const { image::libarchive().archive_entry_free(one); }
};

class Archiver {
public:
    explicit Archiver(archive* to) : to_(to) {}

    // `place`: in what is copied.
    os::Result<void> add(int node, const std::string& name, const Below& below, int depth = 0,
                         const std::string& place = {}) {
        TRY(const struct stat status, about(node, name));
        TRY(add_node(node, status, name, node));
        return S_ISDIR(status.st_mode) ? add_content(node, name, below, depth, place)
                                       : os::Result<void>();
    }

    // A directory without its content; a file with that of `data`.
    os::Result<void> add_alone(int node, const std::string& name, int data) {
        TRY(const struct stat status, about(node, name));
        return add_node(node, status, name, data);
    }

    // An empty file that only its name says something by.
    os::Result<void> add_mark(const std::string& name) {
        struct stat status {};
        status.st_mode = S_IFREG | 0600;
        const std::unique_ptr<archive_entry, EntryCloser> entry(
            image::libarchive().archive_entry_new());
        image::libarchive().archive_entry_set_pathname(entry.get(), name.c_str());
        image::libarchive().archive_entry_copy_stat(entry.get(), &status);
        return image::libarchive().archive_write_header(to_, entry.get()) < ARCHIVE_WARN
                   ? problem(name)
                   : os::Result<void>();
    }

private:
    os::Result<void> add_node(int node, const struct stat& status, const std::string& name,
                              int data) {
        if (S_ISSOCK(status.st_mode))
            return {}; // tar has none
        const std::unique_ptr<archive_entry, EntryCloser> entry(
            image::libarchive().archive_entry_new());
        image::libarchive().archive_entry_set_pathname(entry.get(), name.c_str());
        image::libarchive().archive_entry_copy_stat(entry.get(), &status);
        if (S_ISLNK(status.st_mode)) {
            TRY(const std::string link, read_link(node, name));
            image::libarchive().archive_entry_set_symlink(entry.get(), link.c_str());
        }
        if (!S_ISREG(status.st_mode))
            image::libarchive().archive_entry_set_size(entry.get(), 0);
        else
            add_capabilities(node, entry.get());
        const std::string* first = first_name(status, name);
        if (first != nullptr) {
            image::libarchive().archive_entry_set_hardlink(entry.get(), first->c_str());
            image::libarchive().archive_entry_set_size(entry.get(), 0);
        }
        if (image::libarchive().archive_write_header(to_, entry.get()) < ARCHIVE_WARN)
            return problem(name);
        return S_ISREG(status.st_mode) && first == nullptr ? add_data(data, name)
                                                           : os::Result<void>();
    }

    // Of a file that is in the archive under another name already.
    const std::string* first_name(const struct stat& status, const std::string& name) {
        if (!S_ISREG(status.st_mode) || status.st_nlink < 2)
            return nullptr;
        const std::pair<dev_t, ino_t> key(status.st_dev, status.st_ino);
        const auto known = names_.find(key);
        if (known != names_.end())
            return &known->second;
        // A hostile tree has any number; those that are not remembered are written once more.
        if (remembered_ < most_remembered) {
            remembered_ += name.size();
            names_.emplace(key, name);
        }
        return nullptr;
    }

    // The attribute of a program that it needs; others are this file system's.
    static void add_capabilities(int node, archive_entry* entry) {
        constexpr const char* attribute = "security.capability";
        std::array<char, 64> value{};
        const ssize_t size = ::getxattr(os::text("/proc/self/fd/", node).c_str(), attribute,
                                        value.data(), value.size());
        if (size > 0)
            image::libarchive().archive_entry_xattr_add_entry(entry, attribute, value.data(),
                                                              static_cast<std::size_t>(size));
    }

    base::Failure<os::Error> problem(const std::string& name) const {
        const char* text = image::libarchive().archive_error_string(to_);
        return os::fail(os::Code::Internal, name, ": ",
                        text != nullptr ? text : "write the archive");
    }

    // No more than the header says; libarchive fills up what is missing.
    os::Result<void> add_data(int node, const std::string& name) const {
        TRY(const UniqueFd from, reopen(node, O_RDONLY | O_NONBLOCK, name));
        const std::unique_ptr<char[]> buffer(new char[piece]);
        for (;;) {
            const ssize_t got = ::read(from.get(), buffer.get(), piece);
            if (got < 0)
                return failed(name);
            if (got == 0)
                return {};
            const la_ssize_t written = image::libarchive().archive_write_data(
                to_, buffer.get(), static_cast<std::size_t>(got));
            if (written < 0)
                return problem(name);
            if (written < got)
                return {};
        }
    }

    os::Result<void> add_content(int node, const std::string& name, const Below& below, int depth,
                                 const std::string& place) {
        if (depth == deepest)
            return os::fail(os::Code::ResourceExhausted, "more than ", deepest,
                            " directories in each other");
        TRY(const UniqueFd from, reopen(node, O_RDONLY | O_DIRECTORY, name));
        return for_each_in(from.get(), place, below, [&](const std::string& one, int next) {
            return add(next, os::text(name, "/", one), below, depth + 1, place_in(place, one));
        });
    }

    static constexpr std::size_t most_remembered = 16U << 20; // bytes of names

    archive* to_;
    std::map<std::pair<dev_t, ino_t>, std::string> names_; // of files that have several
    std::size_t remembered_ = 0;
};

} // namespace

namespace {

// Opens an archive on `to`, lets `fill` add to it, and ends it.
template <typename Fill>
os::Result<void> make_archive(int to, Fill fill) {
    TRY(image::load_libarchive());
    const std::unique_ptr<archive, ArchiveCloser> tar(image::libarchive().archive_write_new());
    if (tar == nullptr ||
        image::libarchive().archive_write_set_format_pax_restricted(tar.get()) != ARCHIVE_OK ||
        image::libarchive().archive_write_open_fd(tar.get(), to) != ARCHIVE_OK)
        return os::fail(os::Code::Internal, "begin the archive");
    Archiver archiver(tar.get());
    TRY(fill(archiver));
    if (image::libarchive().archive_write_close(tar.get()) != ARCHIVE_OK)
        return os::fail(os::Code::Internal,
                        "write the archive: ", image::libarchive().archive_error_string(tar.get()));
    return {};
}

bool is_of_joey(const std::string& path) {
    return path == "/etc/hosts" || path == "/etc/resolv.conf" || path == "/etc/hostname";
}

bool has_attribute(int node, const char* attribute) {
    return ::getxattr(os::text("/proc/self/fd/", node).c_str(), attribute, nullptr, 0) >= 0;
}

// Nothing: the node has its own. Under an option of overlayfs (which a machine may have on for all)
// a file of which only owner, mode or times were changed is a hole, and its data are the image's.
os::Result<UniqueFd> data_of(int node, const Changes& changes, const std::string& name) {
    const bool is_hole = !is_directory(node) && has_attribute(node, "trusted.overlay.metacopy");
    if ((is_hole || is_directory(node)) && has_attribute(node, "trusted.overlay.redirect"))
        return os::fail(os::Code::FailedPrecondition, "/", name,
                        ": this machine's overlayfs has written down where it was renamed from, "
                        "which a layer cannot say");
    if (!is_hole)
        return UniqueFd();
    auto data = image::open_in_root(changes.before.get(), name, O_PATH | O_NOFOLLOW);
    if (!data)
        return os::fail_errno(data.error(), "/", name, " of the image");
    TRY(const struct stat status, about(data->get(), name));
    if (!S_ISREG(status.st_mode))
        return os::fail(os::Code::Internal, "/", name, " of the image is no file");
    return std::move(*data);
}

os::Result<void> add_change(Archiver& archiver, const Changes& changes, const Change& change) {
    const std::string name = change.path.substr(1);
    // What the image has as a mark of its own cannot be said in a layer.
    const std::size_t slash = name.rfind('/') + 1; // 0 without one
    if (std::string_view(name).substr(slash).starts_with(".wh."))
        return {};
    if (change.kind == 'D')
        return archiver.add_mark(name.substr(0, slash) + ".wh." + name.substr(slash));
    const auto node = image::open_in_root(changes.tree.get(), name, O_PATH | O_NOFOLLOW);
    if (!node && (node.error() == ENOENT || node.error() == ENOTDIR))
        return {}; // gone meanwhile
    if (!node)
        return os::fail_errno(node.error(), change.path);
    TRY(const UniqueFd data, data_of(node->get(), changes, name));
    return archiver.add_alone(node->get(), name, data ? data.get() : node->get());
}

} // namespace

os::Result<void> write_layer(const Changes& changes, int to) {
    return make_archive(to, [&](Archiver& archiver) -> os::Result<void> {
        // First, so that the archive begins as one, whatever files are called.
        TRY(archiver.add_alone(changes.tree.get(), "./", -1));
        for (const Change& change : changes.all) {
            if (!is_of_joey(change.path))
                TRY(add_change(archiver, changes, change));
        }
        return {};
    });
}

os::Result<void> write_archive(const Copied& from, int to) {
    if (::isatty(to) == 1)
        return os::fail(os::Code::InvalidArgument,
                        "cp: stdout is a terminal; let a tar archive go to a file or a pipe");
    TRY(const UniqueFd node, open_node(from.root, from.path));
    return make_archive(to, [&](Archiver& archiver) {
        return archiver.add(node.get(), from.name.empty() ? "." : from.name, from.below);
    });
}

namespace {

// Puts the entries of an archive into a directory, which is their root: no name and no link in it
// or in the archive leads out.
class Unpacker {
public:
    Unpacker(image::TarReader& tar, int root, const Below& below)
        : tar_(tar), root_(root), below_(below) {}

    os::Result<void> put(const image::TarEntry& entry) {
        using Kind = image::TarEntry::Kind;
        if (entry.path.is_root())
            return {};
        TRY(const Spot spot, spot_of(entry.path));
        if (spot.mounted != nullptr && spot.path.is_root())
            return put_mounted(entry, *spot.mounted);
        if (spot.mounted != nullptr && spot.mounted->read_only)
            return os::fail(os::Code::FailedPrecondition, entry.path.text(),
                            " is mounted read-only");
        auto parent =
            image::open_in_root(spot.root, spot.path.parent().text(), O_RDONLY | O_DIRECTORY);
        if (!parent)
            return os::fail_errno(parent.error(), entry.path.parent().text());
        const Target target{parent->get(), spot.path.name(), {}};
        if (entry.kind == Kind::Directory)
            return put_directory(entry, target);
        TRY(clear(target));
        switch (entry.kind) {
        case Kind::File:
            return put_file(entry, target);
        case Kind::SymbolicLink:
            if (::symlinkat(entry.target.c_str(), target.directory, target.name.c_str()) != 0)
                return failed(target.name);
            return {};
        case Kind::HardLink:
            return put_link(entry, target);
        default:
            return os::fail(os::Code::InvalidArgument, entry.path.text(),
                            ": devices and pipes are not copied");
        }
    }

private:
    // Where a path of the archive is: in the directory, or in what is mounted below it.
    struct Spot {
        int root = -1;
        image::PathBeneath path;
        const Mount* mounted = nullptr;
    };
    os::Result<Spot> spot_of(const image::PathBeneath& path) const {
        for (std::size_t depth = path.depth(); depth > 0; --depth) {
            const std::string place = path.text_of(depth);
            const auto found = below_.find(place);
            if (found == below_.end())
                continue;
            TRY(image::PathBeneath rest,
                image::PathBeneath::parse("/" + path.text().substr(place.size())));
            return Spot{found->second.node.get(), std::move(rest), &found->second};
        }
        return Spot{root_, path, nullptr};
    }

    static os::Result<void> put_mounted(const image::TarEntry& entry, const Mount& mounted) {
        if (entry.kind != image::TarEntry::Kind::Directory)
            return os::fail(os::Code::FailedPrecondition, entry.path.text(),
                            ": something is mounted where a file should be put");
        TRY(const UniqueFd place, open_mounted(mounted, entry.path.text()));
        return finish(place, entry);
    }

    static os::Result<void> finish(const UniqueFd& fd, const image::TarEntry& entry) {
        const std::array<timespec, 2> times = {entry.modified, entry.modified};
        if (::fchown(fd.get(), entry.uid, entry.gid) != 0 || ::fchmod(fd.get(), entry.mode) != 0 ||
            ::futimens(fd.get(), times.data()) != 0)
            return failed(entry.path.text());
        return {};
    }

    static os::Result<void> put_directory(const image::TarEntry& entry, const Target& target) {
        if (::mkdirat(target.directory, target.name.c_str(), 0755) != 0 && errno != EEXIST)
            return failed(target.name);
        const UniqueFd made(::openat(target.directory, target.name.c_str(),
                                     O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!made)
            return failed(target.name);
        return finish(made, entry);
    }

    os::Result<void> put_link(const image::TarEntry& entry, const Target& target) const {
        TRY(const Spot from, spot_of(entry.link_target));
        // It has neither a parent nor a name.
        if (from.path.is_root())
            return os::fail(os::Code::InvalidArgument, entry.path.text(),
                            ": a hard link to the directory itself");
        auto parent =
            image::open_in_root(from.root, from.path.parent().text(), O_RDONLY | O_DIRECTORY);
        if (!parent)
            return os::fail_errno(parent.error(), entry.link_target.text());
        if (::linkat(parent->get(), from.path.name().c_str(), target.directory, target.name.c_str(),
                     0) != 0)
            return failed(entry.link_target.text());
        return {};
    }

    os::Result<void> put_file(const image::TarEntry& entry, const Target& target) {
        const UniqueFd to(::openat(target.directory, target.name.c_str(),
                                   O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
        if (!to)
            return failed(target.name);
        for (;;) {
            TRY(const auto block, tar_.read_block());
            if (!block)
                break;
            std::size_t done = 0;
            while (done < block->bytes.size()) {
                const ssize_t written =
                    ::pwrite(to.get(), block->bytes.data() + done, block->bytes.size() - done,
                             static_cast<off_t>(block->offset + done));
                if (written < 0 && errno == EINTR)
                    continue;
                if (written < 0)
                    return failed(target.name);
                done += static_cast<std::size_t>(written);
            }
        }
        if (::ftruncate(to.get(), static_cast<off_t>(entry.size)) != 0)
            return failed(target.name);
        return finish(to, entry);
    }

    image::TarReader& tar_;
    const int root_;
    const Below& below_;
};

} // namespace

os::Result<void> read_archive(int from, const Destination& to) {
    auto place = image::open_in_root(to.root, to.path, O_RDONLY | O_DIRECTORY);
    if (!place)
        return os::fail_errno(place.error(), to.path);
    const image::Limits limits;
    image::FileSource source(UniqueFd(::fcntl(from, F_DUPFD_CLOEXEC, 3)), "stdin");
    TRY(const auto tar, image::TarReader::open(source, "stdin", limits));
    Unpacker unpacker(*tar, place->get(), to.below);
    for (;;) {
        TRY(const auto entry, tar->next());
        if (!entry)
            return {};
        TRY(unpacker.put(*entry));
    }
}

} // namespace joey::containers
