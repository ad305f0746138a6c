// Source: where an import comes from: a directory or an archive that holds an image in the form of
// an OCI layout, of `docker save`, or both. Its members are found by their paths.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"
#include "tools/image/bytes.hpp"
#include "tools/image/digest.hpp"
#include "tools/image/limits.hpp"
#include "tools/image/store.hpp"

namespace image {

struct Blob {
    Digest digest;
    std::uint64_t size = 0;
};

// Copies all of `from` to the file `to`, at most `limit` bytes; `name` is for messages.
os::Result<Blob> copy_to(ByteSource& from, int to, std::uint64_t limit, const std::string& name,
                         Digest::Algorithm algorithm = Digest::Algorithm::Sha256);

class Source {
public:
    virtual ~Source() = default;

    virtual bool has(const std::string& path) const = 0;
    // A whole document; more than `limit` bytes are an error.
    virtual os::Result<std::string> read(const std::string& path, std::uint64_t limit) const = 0;
    // Makes the member a blob of `staging`. With `expected` that is checked to be what it is;
    // otherwise it gets its name by sha256.
    virtual os::Result<Blob> take(const std::string& path, const Digest* expected,
                                  Staging& staging) = 0;
};

class DirectorySource final : public Source {
public:
    DirectorySource(os::UniqueFd directory, const Limits& limits, Progress* progress)
        : directory_(std::move(directory)), limits_(limits), progress_(progress) {}
    bool has(const std::string& path) const override;
    os::Result<std::string> read(const std::string& path, std::uint64_t limit) const override;
    os::Result<Blob> take(const std::string& path, const Digest* expected,
                          Staging& staging) override;

private:
    os::UniqueFd directory_;
    const Limits limits_;
    Progress* progress_;
};

class ArchiveSource final : public Source {
public:
    // Reads the archive through. Its members wait in `staging`. Null: what is in it is no image but
    // a root directory, as its first members show; `from` has been read in part.
    static os::Result<std::unique_ptr<ArchiveSource>>
    open(ByteSource& from, const std::string& name, const Limits& limits, Staging& staging);
    bool has(const std::string& path) const override;
    os::Result<std::string> read(const std::string& path, std::uint64_t limit) const override;
    os::Result<Blob> take(const std::string& path, const Digest* expected,
                          Staging& staging) override;

private:
    struct Member {
        std::string file; // in the staging folder
        Digest digest;    // sha256
        std::uint64_t size = 0;
        std::string link; // of a symbolic link: the path that it leads to
        bool taken = false;
    };
    explicit ArchiveSource(Staging& staging) : staging_(staging) {}
    os::Result<void> add(class TarReader& tar, const struct TarEntry& entry);
    const Member* find(const std::string& path) const;
    Member* find(const std::string& path);

    Staging& staging_;
    std::map<std::string, Member> members_;
    std::uint64_t files_ = 0; // made in the staging folder so far
};

} // namespace image
