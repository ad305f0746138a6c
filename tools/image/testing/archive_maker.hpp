// Archives made in memory, entry by entry, good and bad; and folders that vanish.
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "tools/image/beneath.hpp"
#include "tools/image/bytes.hpp"

namespace image::testing {

enum class Filter { None, Gzip, Zstd, Xz, Bzip2 };

inline std::string compress(std::string_view data, Filter filter) {
    archive* writer = archive_write_new();
    archive_write_set_format_raw(writer);
    switch (filter) {
    case Filter::None:
        break;
    case Filter::Gzip:
        archive_write_add_filter_gzip(writer);
        break;
    case Filter::Zstd:
        archive_write_add_filter_zstd(writer);
        break;
    case Filter::Xz:
        archive_write_add_filter_xz(writer);
        break;
    case Filter::Bzip2:
        archive_write_add_filter_bzip2(writer);
        break;
    }
    std::string out(data.size() * 2 + 100000, '\0');
    std::size_t used = 0;
    archive_write_set_bytes_in_last_block(writer, 1);
    archive_write_open_memory(writer, out.data(), out.size(), &used);
    archive_entry* entry = archive_entry_new();
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_pathname(entry, "data");
    archive_write_header(writer, entry);
    archive_write_data(writer, data.data(), data.size());
    archive_entry_free(entry);
    archive_write_close(writer);
    archive_write_free(writer);
    out.resize(used);
    return out;
}

// What an entry has besides its kind and path.
struct Facts {
    unsigned mode = 0644;
    long uid = 0;
    long gid = 0;
    long mtime = 1'000'000'000;
    std::vector<std::pair<std::string, std::string>> xattrs;
};

class ArchiveMaker {
public:
    ArchiveMaker() : writer_(archive_write_new()), buffer_(16 << 20, '\0') {
        archive_write_set_format_pax_restricted(writer_);
        archive_write_set_bytes_per_block(writer_, 512);
        archive_write_open_memory(writer_, buffer_.data(), buffer_.size(), &used_);
    }
    ArchiveMaker(const ArchiveMaker&) = delete;
    ArchiveMaker& operator=(const ArchiveMaker&) = delete;
    ~ArchiveMaker() { archive_write_free(writer_); }

    ArchiveMaker& file(const std::string& path, std::string_view data, Facts facts = {}) {
        archive_entry* entry = make(path, AE_IFREG, facts);
        archive_entry_set_size(entry, static_cast<la_int64_t>(data.size()));
        put(entry, data);
        return *this;
    }
    // A file of `size` bytes, of which only `data` at `offset` is stored.
    ArchiveMaker& sparse(const std::string& path, long size, long offset, std::string_view data) {
        archive_entry* entry = make(path, AE_IFREG, {});
        archive_entry_set_size(entry, size);
        archive_entry_sparse_add_entry(entry, offset, static_cast<la_int64_t>(data.size()));
        archive_write_header(writer_, entry);
        std::string padding(static_cast<std::size_t>(offset), '\0');
        archive_write_data(writer_, padding.data(), padding.size());
        archive_write_data(writer_, data.data(), data.size());
        archive_entry_free(entry);
        return *this;
    }
    ArchiveMaker& directory(const std::string& path, Facts facts = {.mode = 0755}) {
        put(make(path, AE_IFDIR, facts), {});
        return *this;
    }
    ArchiveMaker& link(const std::string& path, const std::string& target) {
        archive_entry* entry = make(path, AE_IFLNK, {.mode = 0777});
        archive_entry_set_symlink(entry, target.c_str());
        put(entry, {});
        return *this;
    }
    ArchiveMaker& hard_link(const std::string& path, const std::string& target) {
        archive_entry* entry = make(path, AE_IFREG, {});
        archive_entry_set_hardlink(entry, target.c_str());
        put(entry, {});
        return *this;
    }
    ArchiveMaker& node(const std::string& path, unsigned type, unsigned major = 0,
                       unsigned minor = 0) {
        archive_entry* entry = make(path, type, {.mode = 0640});
        archive_entry_set_rdevmajor(entry, major);
        archive_entry_set_rdevminor(entry, minor);
        put(entry, {});
        return *this;
    }
    ArchiveMaker& hide(const std::string& folder, const std::string& name) {
        return file(folder + (folder.empty() ? "" : "/") + ".wh." + name, "");
    }

    std::string finish() {
        archive_write_close(writer_);
        return buffer_.substr(0, used_);
    }

private:
    static archive_entry* make(const std::string& path, unsigned type, const Facts& facts) {
        archive_entry* entry = archive_entry_new();
        archive_entry_set_pathname(entry, path.c_str());
        archive_entry_set_filetype(entry, type);
        archive_entry_set_perm(entry, static_cast<__LA_MODE_T>(facts.mode));
        archive_entry_set_uid(entry, facts.uid);
        archive_entry_set_gid(entry, facts.gid);
        archive_entry_set_mtime(entry, facts.mtime, 0);
        for (const auto& [name, value] : facts.xattrs)
            archive_entry_xattr_add_entry(entry, name.c_str(), value.data(), value.size());
        return entry;
    }
    void put(archive_entry* entry, std::string_view data) {
        archive_write_header(writer_, entry);
        if (!data.empty())
            archive_write_data(writer_, data.data(), data.size());
        archive_entry_free(entry);
    }

    archive* writer_;
    std::string buffer_;
    std::size_t used_ = 0;
};

class MemorySource final : public ByteSource {
public:
    explicit MemorySource(std::string_view data) : left_(data) {}
    os::Result<std::size_t> read(std::span<std::byte> out) override {
        const std::size_t count = std::min(out.size(), left_.size());
        std::memcpy(out.data(), left_.data(), count);
        left_.remove_prefix(count);
        return count;
    }

private:
    std::string_view left_;
};

class ScratchFolder {
public:
    ScratchFolder() {
        char name[] = "/tmp/joey-image-test-XXXXXX";
        path_ = ::mkdtemp(name);
    }
    ScratchFolder(const ScratchFolder&) = delete;
    ScratchFolder& operator=(const ScratchFolder&) = delete;
    ~ScratchFolder() {
        static_cast<void>(remove_tree(root_, path_.substr(1)));
        ::close(root_);
    }

    const std::string& path() const { return path_; }
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }
    void write(const std::string& name, std::string_view text) const {
        std::ofstream(*this / name, std::ios::binary) << text;
    }
    std::string read(const std::string& name) const {
        std::ifstream file(*this / name, std::ios::binary);
        std::ostringstream out;
        out << file.rdbuf();
        return out.str();
    }

private:
    int root_ = ::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    std::string path_;
};

} // namespace image::testing
