#include "tools/image/archive_library.hpp"

#include <cassert>
#include <dlfcn.h>

namespace image {
namespace {

// The name of the binary interface that all of its versions 3 have.
constexpr const char* library_name = "libarchive.so.13";
static_assert(ARCHIVE_VERSION_NUMBER / 1'000'000 == 3);

template <typename Function>
bool find(void* handle, const char* name, Function& function) {
    // SAFETY: POSIX has dlsym() give functions as object pointers; the types are the headers'.
    function = reinterpret_cast<Function>(::dlsym(handle, name));
    return function != nullptr;
}

os::Result<ArchiveLibrary> load() {
    void* const handle = ::dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr)
        return os::fail(os::Code::Unavailable, "cannot load ", library_name,
                        ", which reads and writes archives; install libarchive13: ", ::dlerror());
    ArchiveLibrary library;
    const char* missing = nullptr;
#define X(name) missing = find(handle, #name, library.name) ? missing : #name;
#include "tools/image/archive_functions.def"
#undef X
    if (missing != nullptr)
        return os::fail(os::Code::Unavailable, library_name, " has no ", missing,
                        "; update libarchive13");
    return library;
}

const os::Result<ArchiveLibrary>& loaded() {
    static const os::Result<ArchiveLibrary> library = load();
    return library;
}

} // namespace

os::Result<void> load_libarchive() {
    if (!loaded())
        return base::Failure(loaded().error());
    return {};
}

const ArchiveLibrary& libarchive() {
    assert(loaded());
    return *loaded();
}

} // namespace image
