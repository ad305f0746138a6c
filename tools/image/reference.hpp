// Reference: the name of an image as people type it ("debian:12", "quay.io/a/b@sha256:...") and as
// it is stored, with the parts that Docker leaves out written out: "docker.io/library/debian:12".
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "agent/os/error.hpp"
#include "tools/image/digest.hpp"

namespace image {

class Reference {
public:
    // The grammar and limits of distribution's references: a registry with a dot, a port or the
    // name localhost; lower-case path components; at most 255 characters before the tag and 128 in
    // it. A name with neither tag nor digest means the tag "latest".
    static os::Result<Reference> parse(std::string_view text);
    // The same without a default: `text` must have neither tag nor digest.
    static os::Result<Reference> parse_repository(std::string_view text, std::string_view tag);
    static bool is_tag(std::string_view text);

    const std::string& domain() const { return domain_; }
    const std::string& path() const { return path_; }
    const std::string& tag() const { return tag_; } // empty: there is a digest
    const std::optional<Digest>& digest() const { return digest_; }

    // "docker.io/library/debian:12".
    std::string full() const;
    // "debian:12": what a person may type.
    std::string familiar() const;
    std::string familiar_repository() const;

private:
    Reference() = default;

    std::string domain_;
    std::string path_;
    std::string tag_;
    std::optional<Digest> digest_;
};

} // namespace image
