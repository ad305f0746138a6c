#include "tools/image/importer.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>

#include "tools/image/import_job.hpp"
#include "tools/image/source.hpp"
#include "tools/image/store_lock.hpp"

namespace image {
namespace {

std::string describe_input(const std::string& input) {
    return input == "-" ? "stdin" : input;
}

// A pipe cannot be read twice, and what it brings is told apart only after a look.
os::Result<os::UniqueFd> spool(int from, const ImportOptions& options, Staging& staging) {
    TRY(os::UniqueFd to, staging.create("input"));
    FileSource source(os::UniqueFd(::fcntl(from, F_DUPFD_CLOEXEC, 3)), "stdin", options.progress);
    if (options.progress != nullptr)
        options.progress->begin("reading", std::nullopt);
    std::vector<std::byte> buffer(256 << 10);
    std::uint64_t bytes = 0;
    for (;;) {
        TRY(const std::size_t got, source.read(buffer));
        if (got == 0)
            break;
        bytes += got;
        if (bytes > options.limits.input_bytes)
            return os::fail(os::Code::ResourceExhausted, "stdin: more than ",
                            human_size(options.limits.input_bytes), "; --max-size allows more");
        const std::string_view text(reinterpret_cast<const char*>(buffer.data()), // NOLINT: bytes
                                    got);
        if (auto written = write_all(to.get(), text); !written)
            return os::fail_errno(written.error(), "cannot write to the image store ",
                                  staging.store().path());
    }
    if (bytes == 0)
        return os::fail(os::Code::InvalidArgument,
                        "stdin: nothing came; give an archive, as in 'docker save IMAGE | joey "
                        "image import -'");
    return to;
}

os::Result<std::vector<Imported>> import_directory(ImportJob& job, os::UniqueFd directory,
                                                   const ImportOptions& options) {
    DirectorySource source(std::move(directory), options.limits, options.progress);
    if (!source.has("oci-layout") && !source.has("manifest.json"))
        return os::fail(os::Code::InvalidArgument, options.input,
                        ": a directory without an image in it (no oci-layout); for a root "
                        "directory: tar -C ",
                        options.input, " -c . | joey image import --name NAME -");
    return job.import_images(source);
}

os::Result<std::vector<Imported>> import_file(ImportJob& job, Staging& staging, os::UniqueFd file,
                                              const ImportOptions& options) {
    const std::string name = describe_input(options.input);
    struct stat status {};
    if (::fstat(file.get(), &status) != 0)
        return os::fail_errno(errno, name);
    if (::lseek(file.get(), 0, SEEK_SET) != 0)
        return os::fail_errno(errno, name);
    if (options.progress != nullptr)
        options.progress->begin("reading", static_cast<std::uint64_t>(status.st_size));
    FileSource bytes(os::UniqueFd(::fcntl(file.get(), F_DUPFD_CLOEXEC, 3)), name, options.progress);
    TRY(const std::unique_ptr<ArchiveSource> source,
        ArchiveSource::open(bytes, name, options.limits, staging));
    if (source)
        return job.import_images(*source);
    if (::lseek(file.get(), 0, SEEK_SET) != 0)
        return os::fail_errno(errno, name);
    FileSource again(std::move(file), name, options.progress);
    if (options.progress != nullptr)
        options.progress->begin("reading", static_cast<std::uint64_t>(status.st_size));
    return job.import_rootfs(again);
}

} // namespace

os::Result<std::vector<Imported>> import(const Store& store, const ImportOptions& options) {
    os::UniqueFd input;
    if (options.input == "-")
        input = os::UniqueFd(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
    else
        input = os::UniqueFd(::open(options.input.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
    if (!input)
        return os::fail_errno(errno, options.input,
                              errno == ENOENT ? " (give a file, a directory, or - for stdin)" : "");
    struct stat status {};
    if (::fstat(input.get(), &status) != 0)
        return os::fail_errno(errno, options.input);
    if (::isatty(input.get()) == 1)
        return os::fail(os::Code::InvalidArgument, describe_input(options.input),
                        " is a terminal; give an archive, as in 'docker save IMAGE | joey image "
                        "import -'");
    TRY(const std::unique_ptr<Staging> staging, store.begin());
    ImportJob job(*staging, options);
    if (S_ISDIR(status.st_mode))
        return import_directory(job, std::move(input), options);
    // A file that stdin was led from begins where its reader stands, as a pipe does.
    const bool from_start = S_ISREG(status.st_mode) && ::lseek(input.get(), 0, SEEK_CUR) == 0;
    if (!from_start) {
        TRY(input, spool(input.get(), options, *staging));
    }
    return import_file(job, *staging, std::move(input), options);
}

os::Result<Imported> add_layer(const Store& store, const Image& base, os::UniqueFd layer,
                               const std::string& config, std::vector<std::string> names) {
    ImportOptions options;
    options.input = "the new layer";
    options.names = std::move(names);
    TRY(const std::unique_ptr<Staging> staging, store.begin());
    ImportJob job(*staging, options);
    FileSource bytes(std::move(layer), options.input);
    TRY(std::vector<Imported> made, job.import_layer(bytes, base, config));
    return std::move(made.front());
}

} // namespace image
