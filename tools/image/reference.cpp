#include "tools/image/reference.hpp"

#include <algorithm>

namespace image {
namespace {

constexpr std::string_view default_domain = "docker.io";
constexpr std::string_view legacy_domain = "index.docker.io";
constexpr std::string_view official_prefix = "library/";
constexpr std::string_view default_tag = "latest";
constexpr std::size_t longest_name = 255;
constexpr std::size_t longest_tag = 128;

bool is_lower_or_digit(char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}
bool is_alphanumeric(char c) {
    return is_lower_or_digit(c) || (c >= 'A' && c <= 'Z');
}

// Letters and digits with separators between them: one dot, one or two underscores, dashes.
bool is_path_component(std::string_view text) {
    std::size_t at = 0;
    while (at < text.size() && is_lower_or_digit(text[at])) {
        while (at < text.size() && is_lower_or_digit(text[at]))
            ++at;
        if (at == text.size())
            return true;
        const std::size_t begin = at;
        while (at < text.size() && text[at] == text[begin] && !is_lower_or_digit(text[at]))
            ++at;
        const std::size_t length = at - begin;
        const char separator = text[begin];
        if (!(separator == '-' || (separator == '.' && length == 1) ||
              (separator == '_' && length <= 2)))
            return false;
    }
    return false;
}

bool is_path(std::string_view text) {
    for (;;) {
        const std::size_t slash = text.find('/');
        if (!is_path_component(text.substr(0, slash)))
            return false;
        if (slash == std::string_view::npos)
            return true;
        text.remove_prefix(slash + 1);
    }
}

bool is_host_label(std::string_view text) {
    return !text.empty() && is_alphanumeric(text.front()) && is_alphanumeric(text.back()) &&
           std::all_of(text.begin(), text.end(),
                       [](char c) { return is_alphanumeric(c) || c == '-'; });
}

bool is_port(std::string_view text) {
    return !text.empty() && text.size() <= 5 &&
           text.find_first_not_of("0123456789") == std::string_view::npos;
}

// A host name or an IPv6 address in brackets, and perhaps a port.
bool is_domain(std::string_view text) {
    if (text.starts_with('[')) {
        const std::size_t end = text.find(']');
        if (end == std::string_view::npos || end == 1 ||
            text.substr(1, end - 1).find_first_not_of("0123456789abcdefABCDEF:") !=
                std::string_view::npos)
            return false;
        const std::string_view rest = text.substr(end + 1);
        return rest.empty() || (rest.front() == ':' && is_port(rest.substr(1)));
    }
    const std::size_t colon = text.find(':');
    if (colon != std::string_view::npos && !is_port(text.substr(colon + 1)))
        return false;
    std::string_view host = text.substr(0, colon);
    for (;;) {
        const std::size_t dot = host.find('.');
        if (!is_host_label(host.substr(0, dot)))
            return false;
        if (dot == std::string_view::npos)
            return true;
        host.remove_prefix(dot + 1);
    }
}

// What stands before the first slash is a registry if it cannot be a part of a path.
bool looks_like_domain(std::string_view text) {
    return text == "localhost" || text.find_first_of(".:[") != std::string_view::npos ||
           std::any_of(text.begin(), text.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
}

template <typename... Parts>
base::Failure<os::Error> wrong(std::string_view text, const Parts&... parts) {
    return os::fail(os::Code::InvalidArgument, "'", text.substr(0, 100),
                    text.size() > 100 ? "..." : "", "' is no name of an image: ", parts...);
}

} // namespace

bool Reference::is_tag(std::string_view text) {
    const auto may_stand = [](char c) { return is_alphanumeric(c) || c == '_'; };
    return !text.empty() && text.size() <= longest_tag && may_stand(text.front()) &&
           std::all_of(text.begin(), text.end(),
                       [&](char c) { return may_stand(c) || c == '.' || c == '-'; });
}

os::Result<Reference> Reference::parse(std::string_view text) {
    Reference reference;
    std::string_view name = text;
    if (const std::size_t at = name.find('@'); at != std::string_view::npos) {
        auto digest = Digest::parse(name.substr(at + 1));
        if (!digest)
            return wrong(text, digest.error().message);
        reference.digest_ = std::move(*digest);
        name = name.substr(0, at);
    }
    const std::size_t colon = name.rfind(':');
    const std::size_t last_slash = name.rfind('/');
    if (colon != std::string_view::npos &&
        (last_slash == std::string_view::npos || colon > last_slash)) {
        const std::string_view tag = name.substr(colon + 1);
        if (!is_tag(tag))
            return wrong(text, "after the colon comes a tag of at most ", longest_tag,
                         " letters, digits, dots, dashes and underscores");
        reference.tag_ = tag;
        name = name.substr(0, colon);
    }
    if (name.empty())
        return wrong(text, "it is empty; one looks like debian:12");
    if (name.size() > longest_name)
        return wrong(text, "it is longer than ", longest_name, " characters");

    std::string_view path = name;
    reference.domain_ = default_domain;
    const std::size_t slash = name.find('/');
    if (slash != std::string_view::npos && looks_like_domain(name.substr(0, slash))) {
        reference.domain_ = name.substr(0, slash);
        path = name.substr(slash + 1);
        if (!is_domain(reference.domain_))
            return wrong(text, "'", reference.domain_, "' is no registry");
    }
    if (reference.domain_ == legacy_domain)
        reference.domain_ = default_domain;
    if (std::any_of(path.begin(), path.end(), [](char c) { return c >= 'A' && c <= 'Z'; }))
        return wrong(text, "names are in lower case");
    if (!is_path(path))
        return wrong(text, "it is made of lower-case letters and digits, with single dots, "
                           "underscores and dashes between them, and slashes");
    if (reference.domain_ == default_domain && path.find('/') == std::string_view::npos)
        reference.path_ = official_prefix;
    reference.path_ += path;
    // A name that is all digits of an ID would be found as one.
    if (slash == std::string_view::npos && path.size() == 64 &&
        path.find_first_not_of("0123456789abcdef") == std::string_view::npos)
        return wrong(text, "64 hexadecimal digits are an ID");
    if (reference.tag_.empty() && !reference.digest_)
        reference.tag_ = default_tag;
    return reference;
}

os::Result<Reference> Reference::parse_repository(std::string_view text, std::string_view tag) {
    TRY(Reference reference, parse(text));
    const std::string_view last = text.substr(text.rfind('/') + 1); // npos + 1 is 0
    if (last.find_first_of(":@") != std::string_view::npos)
        return wrong(text, "a tag is given elsewhere; leave it out here");
    if (!is_tag(tag))
        return wrong(tag, "it is no tag");
    reference.tag_ = tag;
    return reference;
}

std::string Reference::full() const {
    return os::text(domain_, "/", path_, tag_.empty() ? "" : ":", tag_, digest_ ? "@" : "",
                    digest_ ? digest_->text() : "");
}

std::string Reference::familiar_repository() const {
    if (domain_ != default_domain)
        return os::text(domain_, "/", path_);
    std::string_view path = path_;
    if (path.starts_with(official_prefix) &&
        path.find('/', official_prefix.size()) == std::string_view::npos)
        path.remove_prefix(official_prefix.size());
    return std::string(path);
}

std::string Reference::familiar() const {
    return os::text(familiar_repository(), tag_.empty() ? "" : ":", tag_, digest_ ? "@" : "",
                    digest_ ? digest_->text() : "");
}

} // namespace image
