// Containers that are made of an image, running or not: as long as they are there, it stays.
#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include <sys/file.h>
#include <sys/stat.h>

#include "tools/image/beneath.hpp"
#include "tools/image/store.hpp"
#include "tools/image/store_lock.hpp"

namespace image {

namespace {

constexpr const char* folder = "claims";
constexpr std::size_t longest = 8192;

// "<image ID>\n<a file that is there as long as the owner is>\n"
struct Written {
    std::string image;
    std::string witness;
};

std::optional<Written> parse(std::string_view text) {
    const std::size_t first = text.find('\n');
    const std::size_t second = text.find('\n', first == std::string_view::npos ? first : first + 1);
    if (first == std::string_view::npos || second == std::string_view::npos)
        return std::nullopt;
    return Written{std::string(text.substr(0, first)),
                   std::string(text.substr(first + 1, second - first - 1))};
}

bool is_plain(const std::string& name) {
    return !name.empty() && name[0] != '.' && name.find('/') == std::string::npos;
}

} // namespace

os::Result<void> Store::claim(const std::string& image, const std::string& owner,
                              const std::string& witness) const {
    if (!is_plain(owner) || witness.find('\n') != std::string::npos)
        return os::fail(os::Code::InvalidArgument, "an owner of images cannot be called ", owner);
    TRY(const Lock held, lock(LOCK_EX));
    if (::mkdirat(directory_.get(), folder, 0755) != 0 && errno != EEXIST)
        return os::fail_errno(errno, "cannot make the image store's ", folder);
    // Not synced: after a crash of the machine its owner is checked all the same, and an image can
    // be imported again.
    const std::string path = os::text(folder, "/", owner);
    const os::UniqueFd file(::openat(directory_.get(), path.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file)
        return os::fail_errno(errno, "cannot write ", path_, "/", path);
    if (auto written = write_all(file.get(), os::text(image, "\n", witness, "\n")); !written)
        return os::fail_errno(written.error(), "cannot write ", path_, "/", path);
    return {};
}

void Store::release(const std::string& owner) const {
    if (is_plain(owner))
        ::unlinkat(directory_.get(), os::text(folder, "/", owner).c_str(), 0);
}

// Requires: the lock. What its owner left behind goes.
std::vector<std::string> Store::owners_of(const Image& image) const {
    std::vector<std::string> out;
    const os::UniqueFd place(
        ::openat(directory_.get(), folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    const auto names = place ? list_names(place.get()) : base::Failure(ENOENT);
    if (!names)
        return out;
    for (const std::string& name : *names) {
        const auto text = read_in_root(place.get(), name, longest);
        const auto written = text && *text ? parse(**text) : std::nullopt;
        struct stat about {};
        if (!written || (::stat(written->witness.c_str(), &about) != 0 && errno == ENOENT))
            ::unlinkat(place.get(), name.c_str(), 0);
        else if (written->image == image.id.text())
            out.push_back(name);
    }
    std::sort(out.begin(), out.end());
    return out;
}

} // namespace image
