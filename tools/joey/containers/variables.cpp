#include "tools/joey/containers/variables.hpp"

#include <algorithm>
#include <cstdlib>
#include <fcntl.h>
#include <optional>

#include "agent/os/files.hpp"

namespace joey::containers {

namespace {

constexpr std::string_view blanks = " \t\n\v\f\r";
constexpr std::size_t most_bytes = 1U << 20;

// With the caller's value, if it has none of its own.
std::string with_value(std::string name) {
    if (name.find('=') == std::string::npos) {
        if (const char* value = std::getenv(name.c_str()))
            name += os::text("=", value);
    }
    return name;
}

os::Result<std::vector<std::string>> read_files(const std::vector<std::string>& paths,
                                                bool inherits) {
    std::vector<std::string> out;
    for (const std::string& path : paths) {
        TRY(const std::string text, os::read_file(AT_FDCWD, path.c_str(), most_bytes));
        TRY(const std::vector<std::string> lines, key_values(text, path, inherits));
        out.insert(out.end(), lines.begin(), lines.end());
    }
    return out;
}

// Of one line; nothing: it says nothing.
os::Result<std::optional<std::string>> key_value(std::string_view line, const std::string& what,
                                                 bool inherits) {
    line.remove_prefix(std::min(line.find_first_not_of(blanks), line.size()));
    if (line.empty() || line.front() == '#')
        return std::nullopt;
    const std::string_view name = line.substr(0, line.find('='));
    if (name.empty())
        return os::fail(os::Code::InvalidArgument, what, ": no variable name on line '",
                        line.substr(0, 200), "'");
    if (name.find_first_of(blanks) != std::string_view::npos)
        return os::fail(os::Code::InvalidArgument, what, ": variable '", name.substr(0, 200),
                        "' contains whitespaces");
    std::string out = inherits ? with_value(std::string(line)) : std::string(line);
    if (out.find('=') == std::string::npos)
        return std::nullopt;
    return std::optional<std::string>(std::move(out));
}

} // namespace

os::Result<std::vector<std::string>> key_values(std::string_view text, const std::string& what,
                                                bool inherits) {
    // Editors of other systems put it before the first line.
    constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";
    if (text.starts_with(byte_order_mark))
        text.remove_prefix(byte_order_mark.size());
    if (text.find('\0') != std::string_view::npos)
        return os::fail(os::Code::InvalidArgument, what, ": is no text");
    std::vector<std::string> out;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (line.ends_with('\r'))
            line.remove_suffix(1);
        TRY(std::optional<std::string> one, key_value(line, what, inherits));
        if (one)
            out.push_back(std::move(*one));
    }
    return out;
}

os::Result<std::vector<std::string>> read_variables(const Arguments& arguments) {
    TRY(std::vector<std::string> out, read_files(arguments.values("env-file"), true));
    for (const std::string& variable : arguments.values("env")) {
        if (variable.empty() || variable.front() == '=')
            return os::fail(os::Code::InvalidArgument, "--env ", variable.substr(0, 200),
                            ": give NAME[=VALUE]");
        out.push_back(with_value(variable));
    }
    return out;
}

os::Result<Labels> read_labels(const Arguments& arguments) {
    TRY(std::vector<std::string> all, read_files(arguments.values("label-file"), false));
    const std::vector<std::string> given = arguments.values("label");
    all.insert(all.end(), given.begin(), given.end());
    Labels out;
    for (const std::string& label : all) {
        const std::size_t equals = std::min(label.find('='), label.size());
        if (equals == 0)
            return os::fail(os::Code::InvalidArgument, "--label ", label.substr(0, 200),
                            ": give NAME[=VALUE]");
        out[label.substr(0, equals)] = label.substr(std::min(equals + 1, label.size()));
    }
    return out;
}

bool has_label(const Labels& labels, const std::string& wanted) {
    const std::size_t cut = wanted.find('=');
    const auto found = labels.find(wanted.substr(0, cut));
    return found != labels.end() &&
           (cut == std::string::npos || found->second == wanted.substr(cut + 1));
}

} // namespace joey::containers
