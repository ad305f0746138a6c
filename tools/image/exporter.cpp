#include "tools/image/exporter.hpp"

#include <cerrno>
#include <nlohmann/json.hpp>
#include <set>
#include <unistd.h>

#include <sys/stat.h>

#include "tools/image/archive_library.hpp"

namespace image {
namespace {

// A tar writer of files whose time and owner are of no interest.
class TarWriter {
public:
    explicit TarWriter(int to) : writer_(libarchive().archive_write_new()) {
        if (writer_ == nullptr)
            std::abort();
        libarchive().archive_write_set_format_pax_restricted(writer_);
        // No padding at the end, which would differ between files and pipes.
        libarchive().archive_write_set_bytes_in_last_block(writer_, 1);
        open_ = libarchive().archive_write_open_fd(writer_, to) == ARCHIVE_OK;
    }
    TarWriter(const TarWriter&) = delete;
    TarWriter& operator=(const TarWriter&) = delete;
    ~TarWriter() { libarchive().archive_write_free(writer_); }

    os::Result<void> begin_file(const std::string& path, std::uint64_t size) {
        return header(path, AE_IFREG, 0644, size);
    }
    os::Result<void> directory(const std::string& path) { return header(path, AE_IFDIR, 0755, 0); }
    os::Result<void> write(std::span<const std::byte> bytes) {
        while (!bytes.empty()) {
            const la_ssize_t written =
                libarchive().archive_write_data(writer_, bytes.data(), bytes.size());
            if (written <= 0)
                return failure();
            bytes = bytes.subspan(static_cast<std::size_t>(written));
        }
        return {};
    }
    os::Result<void> file(const std::string& path, std::string_view text) {
        TRY(begin_file(path, text.size()));
        return write(std::as_bytes(std::span(text)));
    }
    os::Result<void> finish() {
        if (libarchive().archive_write_close(writer_) != ARCHIVE_OK)
            return failure();
        return {};
    }

private:
    os::Result<void> header(const std::string& path, unsigned type, unsigned mode,
                            std::uint64_t size) {
        archive_entry* entry = libarchive().archive_entry_new();
        if (entry == nullptr || !open_)
            std::abort();
        libarchive().archive_entry_set_pathname(entry, path.c_str());
        libarchive().archive_entry_set_filetype(entry, type);
        libarchive().archive_entry_set_perm(entry, static_cast<__LA_MODE_T>(mode));
        libarchive().archive_entry_set_size(entry, static_cast<la_int64_t>(size));
        libarchive().archive_entry_set_mtime(entry, 0, 0);
        const int status = libarchive().archive_write_header(writer_, entry);
        libarchive().archive_entry_free(entry);
        if (status != ARCHIVE_OK)
            return failure();
        return {};
    }
    base::Failure<os::Error> failure() const {
        const char* reason = libarchive().archive_error_string(writer_);
        return os::fail(os::Code::Unavailable, "cannot write the archive: ",
                        reason != nullptr ? reason : "the disk or the pipe took no more");
    }

    archive* writer_;
    bool open_ = false;
};

class Export {
public:
    Export(const Store& store, int to, Progress* progress)
        : store_(store), tar_(to), progress_(progress) {}

    os::Result<void> run(const std::vector<Image>& images) {
        if (progress_ != nullptr)
            progress_->begin("writing", total(images));
        for (const char* name : {"blobs", "blobs/sha256", "blobs/sha512"})
            TRY(tar_.directory(name));
        for (const Image& image : images)
            TRY(add(image));
        TRY(tar_.file("index.json", to_json(index_)));
        TRY(tar_.file("manifest.json", docker_list_.dump()));
        TRY(tar_.file("oci-layout", R"({"imageLayoutVersion":"1.0.0"})"));
        return tar_.finish();
    }

private:
    static std::uint64_t total(const std::vector<Image>& images) {
        std::uint64_t bytes = 0;
        for (const Image& image : images) {
            for (const Descriptor& layer : image.manifest.layers)
                bytes += layer.size;
        }
        return bytes;
    }

    os::Result<void> add(const Image& image) {
        TRY(blob(image.manifest_descriptor.digest));
        TRY(blob(image.manifest.config.digest));
        nlohmann::json entry = {{"Config", blob_path(image.manifest.config.digest)},
                                {"RepoTags", nlohmann::json::array()},
                                {"Layers", nlohmann::json::array()}};
        for (const Descriptor& layer : image.manifest.layers) {
            TRY(blob(layer.digest));
            entry["Layers"].push_back(blob_path(layer.digest));
        }
        for (const Reference& name : image.names) {
            Descriptor descriptor = image.manifest_descriptor;
            descriptor.annotations = {{std::string(annotation::reference_name), name.full()},
                                      {std::string(annotation::containerd_name), name.full()}};
            index_.manifests.push_back(std::move(descriptor));
            entry["RepoTags"].push_back(name.familiar());
        }
        if (image.names.empty()) {
            index_.manifests.push_back(image.manifest_descriptor);
            index_.manifests.back().annotations.clear();
        }
        docker_list_.push_back(std::move(entry));
        return {};
    }

    os::Result<void> blob(const Digest& digest) {
        if (!done_.insert(digest).second)
            return {};
        TRY(os::UniqueFd fd, store_.open_blob(digest));
        struct stat status {};
        if (::fstat(fd.get(), &status) != 0)
            return os::fail_errno(errno, "blob ", digest.text());
        TRY(tar_.begin_file(blob_path(digest), static_cast<std::uint64_t>(status.st_size)));
        FileSource file(std::move(fd), "blob " + digest.text(), progress_);
        HashingSource hashing(file, digest.algorithm());
        std::vector<std::byte> buffer(256 << 10);
        for (;;) {
            TRY(const std::size_t got, hashing.read(buffer));
            if (got == 0)
                break;
            TRY(tar_.write(std::span(buffer).first(got)));
        }
        TRY(const Digest found, hashing.finish());
        if (found != digest)
            return os::fail(os::Code::InvalidArgument, "the store's blob ", digest.text(),
                            " is damaged; import the image again");
        return {};
    }

    const Store& store_;
    TarWriter tar_;
    Progress* progress_;
    std::set<Digest> done_;
    Index index_;
    nlohmann::json docker_list_ = nlohmann::json::array();
};

} // namespace

os::Result<void> export_images(const Store& store, const std::vector<Image>& images, int to,
                               Progress* progress) {
    TRY(load_libarchive());
    return Export(store, to, progress).run(images);
}

} // namespace image
