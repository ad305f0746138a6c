#include "tools/image/digest.hpp"

#include <array>
#include <cstdlib>
#include <openssl/evp.h>

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

// Out of memory, or a libcrypto without SHA-2: nothing that a caller could do anything about.
void require(bool works) {
    if (!works)
        std::abort();
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
    EVP_MD_CTX* state = EVP_MD_CTX_new();
    Context() = default;
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;
    ~Context() { EVP_MD_CTX_free(state); }
};

Hasher::Hasher(Digest::Algorithm algorithm)
    : algorithm_(algorithm), context_(std::make_unique<Context>()) {
    const EVP_MD* kind = algorithm == Digest::Algorithm::Sha256 ? EVP_sha256() : EVP_sha512();
    require(context_->state != nullptr && EVP_DigestInit_ex(context_->state, kind, nullptr) == 1);
}
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;
Hasher::~Hasher() = default;

void Hasher::update(std::span<const std::byte> bytes) {
    require(EVP_DigestUpdate(context_->state, bytes.data(), bytes.size()) == 1);
}

Digest Hasher::finish() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> raw{};
    unsigned size = 0;
    require(EVP_DigestFinal_ex(context_->state, raw.data(), &size) == 1);
    constexpr std::string_view digits = "0123456789abcdef";
    std::string hex;
    hex.reserve(2 * std::size_t{size});
    for (const unsigned char byte : std::span(raw).first(size)) {
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
