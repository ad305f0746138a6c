#include "tools/joey/containers/base.hpp"

#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>

#include "tools/image/importer.hpp"
#include "tools/joey/progress_bar.hpp"

namespace joey::containers {

namespace {

// The path that `word` means, or nothing if it is a name.
std::optional<std::string> path_in(const std::string& word) {
    constexpr std::array<std::string_view, 3> transports = {
        "oci:", "oci-archive:", "docker-archive:"};
    for (const std::string_view transport : transports) {
        if (word.starts_with(transport))
            return word.substr(transport.size());
    }
    if (word.starts_with('/') || word.starts_with("./") || word.starts_with("../"))
        return word;
    return std::nullopt;
}

os::Result<std::string> import_from(const image::Store& store, const std::string& path) {
    ProgressBar bar(STDERR_FILENO);
    image::ImportOptions options;
    options.input = path;
    options.progress = &bar;
    TRY(const auto imported, image::import(store, options));
    if (imported.size() == 1)
        return imported.front().id.text();
    std::string names;
    for (const image::Imported& one : imported) {
        for (const image::Reference& name : one.names)
            names += " " + name.familiar();
    }
    return os::fail(os::Code::InvalidArgument, path, " has ", imported.size(),
                    " images, which are imported now; say which to run:", names);
}

} // namespace

os::Result<Base> find_image(const std::string& store_path, const std::string& word) {
    TRY(const image::Store store, image::Store::open(store_path));
    std::string wanted = word;
    if (const auto path = path_in(word)) {
        TRY(wanted, import_from(store, *path));
    }
    TRY(image::Image image, store.find(wanted));
    TRY(image::Rootfs root, store.use(image));
    Base out;
    out.config = std::move(image.config);
    out.name = word;
    out.id = image.id.text();
    out.root = std::move(root.path);
    out.directory = std::move(root.directory);
    out.lock = std::move(root.lock);
    return out;
}

os::Result<Base> use_directory(const std::string& path) {
    char resolved[PATH_MAX];
    if (::realpath(path.c_str(), resolved) == nullptr)
        return os::fail(os::Code::NotFound, "--rootfs ", path, ": ", std::strerror(errno),
                        "; give a directory that holds a root file system");
    Base out;
    out.root = resolved;
    out.directory = os::UniqueFd(::open(resolved, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!out.directory)
        return os::fail_errno(errno, "--rootfs ", path);
    constexpr const char* usual_path =
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    out.config.env = {usual_path};
    return out;
}

} // namespace joey::containers
