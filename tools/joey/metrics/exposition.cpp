#include "tools/joey/metrics/exposition.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace joey {

namespace {

// Of others, so that no VM's process makes its reader large.
constexpr std::size_t longest_line = 4096;
constexpr std::size_t most_families = 1000;
constexpr std::size_t most_bytes = 64u << 20;

bool is_name(std::string_view text) {
    const auto fits = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '_' || c == ':';
    };
    return !text.empty() && !(text[0] >= '0' && text[0] <= '9') &&
           std::all_of(text.begin(), text.end(), fits);
}

std::string escaped(std::string_view text) {
    std::string out;
    for (const char c : text) {
        if (c == '\\' || c == '"')
            out += '\\';
        if (c == '\n')
            out += "\\n";
        else
            out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    }
    return out;
}

bool is_printable(std::string_view text) {
    return std::all_of(text.begin(), text.end(),
                       [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f; });
}

// Of a line of samples: the end of {label="value",...}, or npos.
std::size_t end_of_labels(std::string_view text) {
    bool quoted = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (quoted && text[i] == '\\')
            ++i;
        else if (text[i] == '"')
            quoted = !quoted;
        else if (text[i] == '}' && !quoted)
            return i;
    }
    return std::string_view::npos;
}

bool is_number(std::string_view text) {
    return !text.empty() &&
           text.find_first_not_of("0123456789+-.eEinfNa") == std::string_view::npos;
}

} // namespace

Exposition::Family& Exposition::named(std::string_view name) {
    const auto found = places_.find(name);
    current_ = found != places_.end() ? found->second : families_.size();
    if (found == places_.end()) {
        places_.emplace(name, current_);
        families_.push_back({std::string(name), "untyped", {}, {}});
    }
    return families_[current_];
}

void Exposition::family(std::string_view name, MetricKind kind, std::string_view help) {
    Family& one = named(name);
    one.kind = kind == MetricKind::Counter ? "counter" : "gauge";
    one.help = help;
}

void Exposition::sample(Labels labels, std::uint64_t value) {
    std::string words;
    for (const auto& [name, text] : labels)
        words += fmt::format("{}{}=\"{}\"", words.empty() ? "" : ",", name, escaped(text));
    Family& one = families_[current_];
    one.samples += words.empty() ? fmt::format("{} {}\n", one.name, value)
                                 : fmt::format("{}{{{}}} {}\n", one.name, words, value);
}

void Exposition::sample(Labels labels, double value) {
    std::string words;
    for (const auto& [name, text] : labels)
        words += fmt::format("{}{}=\"{}\"", words.empty() ? "" : ",", name, escaped(text));
    Family& one = families_[current_];
    one.samples += words.empty() ? fmt::format("{} {:.9g}\n", one.name, value)
                                 : fmt::format("{}{{{}}} {:.9g}\n", one.name, words, value);
}

void Exposition::add_sample(std::string_view line, const std::string& label) {
    const std::size_t name_end = std::min(line.find_first_of("{ "), line.size());
    const std::string_view name = line.substr(0, name_end);
    const auto place = places_.find(name);
    if (place == places_.end())
        return;
    std::string_view rest = line.substr(name_end);
    std::string_view labels;
    if (rest.starts_with('{')) {
        const std::size_t end = end_of_labels(rest);
        if (end == std::string_view::npos)
            return;
        labels = rest.substr(1, end - 1);
        rest.remove_prefix(end + 1);
    }
    if (!rest.starts_with(' ') || !is_number(rest.substr(1)))
        return;
    Family& one = families_[place->second];
    one.samples +=
        fmt::format("{}{{{}{}{}}}{}\n", name, label, labels.empty() ? "" : ",", labels, rest);
}

void Exposition::add(std::string_view text, std::string_view label, std::string_view value) {
    const std::string own = fmt::format("{}=\"{}\"", label, escaped(value));
    added_ += text.size();
    if (added_ > most_bytes)
        return;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (line.empty() || line.size() > longest_line || !is_printable(line))
            continue;
        const bool is_help = line.starts_with("# HELP ");
        if (!is_help && !line.starts_with("# TYPE ")) {
            if (line[0] != '#')
                add_sample(line, own);
            continue;
        }
        const std::string_view about = line.substr(7);
        const std::size_t blank = std::min(about.find(' '), about.size());
        const std::string_view name = about.substr(0, blank);
        const std::string_view said = about.substr(std::min(blank + 1, about.size()));
        if (!is_name(name) || (families_.size() >= most_families && !places_.contains(name)))
            continue;
        Family& one = named(name);
        if (is_help && one.help.empty())
            one.help = said;
        else if (!is_help && one.kind == "untyped" && (said == "counter" || said == "gauge"))
            one.kind = said;
    }
}

std::string Exposition::text() const {
    std::string out;
    for (const Family& one : families_) {
        if (one.samples.empty())
            continue;
        out += fmt::format("# HELP {} {}\n# TYPE {} {}\n{}", one.name, one.help, one.name, one.kind,
                           one.samples);
    }
    return out;
}

} // namespace joey
