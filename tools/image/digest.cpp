#include "tools/image/digest.hpp"

#include <array>
#include <nettle/sha2.h>
#include <variant>

namespace image {
namespace {

struct Known {
    std::string_view name;
    std::size_t digits;
    Digest::Algorithm algorithm;
};
constexpr std::array<Known, 2> known_algorithms = {{
    {"sha256", 64, Digest::Algorithm::Sha256},
    {"sha512", 128, Digest::Algorithm::Sha512},
}};

const Known& facts_of(Digest::Algorithm algorithm) {
    return known_algorithms[static_cast<std::size_t>(algorithm)];
}

} // namespace

os::Result<Digest> Digest::parse(std::string_view text) {
    const std::size_t colon = text.find(':');
    if (colon == std::string_view::npos)
        return os::fail(os::Code::InvalidArgument, "'", text.substr(0, 80),
                        "' is no digest; one looks like sha256:<64 hexadecimal digits>");
    const std::string_view name = text.substr(0, colon);
    const std::string_view hex = text.substr(colon + 1);
    for (const Known& known : known_algorithms) {
        if (name != known.name)
            continue;
        if (hex.size() != known.digits ||
            hex.find_first_not_of("0123456789abcdef") != std::string_view::npos)
            return os::fail(os::Code::InvalidArgument, "'", text.substr(0, 140),
                            "' is no digest: after ", name, ": come ", known.digits,
                            " digits of 0-9 and a-f");
        return Digest(known.algorithm, std::string(hex));
    }
    return os::fail(os::Code::InvalidArgument, "digests by '", name.substr(0, 40),
                    "' cannot be checked here; sha256 and sha512 can");
}

std::string_view Digest::algorithm_name() const {
    return facts_of(algorithm_).name;
}

std::string Digest::text() const {
    return os::text(algorithm_name(), ":", hex_);
}

struct Hasher::Context {
    std::variant<sha256_ctx, sha512_ctx> state;
};

Hasher::Hasher(Digest::Algorithm algorithm)
    : algorithm_(algorithm), context_(std::make_unique<Context>()) {
    if (algorithm == Digest::Algorithm::Sha256)
        ::sha256_init(&context_->state.emplace<sha256_ctx>());
    else
        ::sha512_init(&context_->state.emplace<sha512_ctx>());
}
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;
Hasher::~Hasher() = default;

void Hasher::update(std::span<const std::byte> bytes) {
    // SAFETY: unsigned char may alias any object.
    const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
    if (auto* short_one = std::get_if<sha256_ctx>(&context_->state))
        ::sha256_update(short_one, bytes.size(), data);
    else
        ::sha512_update(std::get_if<sha512_ctx>(&context_->state), bytes.size(), data);
}

Digest Hasher::finish() {
    std::array<std::uint8_t, SHA512_DIGEST_SIZE> raw{};
    std::size_t size = SHA512_DIGEST_SIZE;
    if (auto* short_one = std::get_if<sha256_ctx>(&context_->state)) {
        size = SHA256_DIGEST_SIZE;
        ::sha256_digest(short_one, size, raw.data());
    } else {
        ::sha512_digest(std::get_if<sha512_ctx>(&context_->state), size, raw.data());
    }
    constexpr std::string_view digits = "0123456789abcdef";
    std::string hex;
    hex.reserve(2 * size);
    for (const std::uint8_t byte : std::span(raw).first(size)) {
        hex += digits[byte >> 4];
        hex += digits[byte & 15];
    }
    return {algorithm_, std::move(hex)};
}

Digest Hasher::of(std::string_view text, Digest::Algorithm algorithm) {
    Hasher hasher(algorithm);
    hasher.update(text);
    return hasher.finish();
}

} // namespace image
