// Digest: the name of a blob by its content, "sha256:<64 hexadecimal digits>" (OCI image
// specification, descriptor.md), and the hash that computes one.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "agent/os/error.hpp"

namespace image {

class Digest {
public:
    enum class Algorithm : std::uint8_t { Sha256, Sha512 };

    // Algorithms that are registered and whose digests a store can check: sha256 and sha512.
    static os::Result<Digest> parse(std::string_view text);
    // Requires: `hex` is what `algorithm` makes, in lower case.
    Digest(Algorithm algorithm, std::string hex) : algorithm_(algorithm), hex_(std::move(hex)) {}

    Algorithm algorithm() const { return algorithm_; }
    std::string_view algorithm_name() const;
    const std::string& hex() const { return hex_; }
    std::string text() const;
    // What people are shown: the first twelve digits.
    std::string short_id() const { return hex_.substr(0, 12); }

    friend auto operator<=>(const Digest&, const Digest&) = default;

private:
    Algorithm algorithm_;
    std::string hex_; // lower case
};

class Hasher {
public:
    explicit Hasher(Digest::Algorithm algorithm = Digest::Algorithm::Sha256);
    Hasher(Hasher&&) noexcept;
    Hasher& operator=(Hasher&&) noexcept;
    ~Hasher();

    void update(std::span<const std::byte> bytes);
    void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
    // Ends the computation.
    Digest finish();

    static Digest of(std::string_view text,
                     Digest::Algorithm algorithm = Digest::Algorithm::Sha256);

private:
    struct Context;
    Digest::Algorithm algorithm_;
    std::unique_ptr<Context> context_;
};

} // namespace image
