// The instructions of `commit --change`, as a Dockerfile has them.
#include <algorithm>
#include <cctype>

#include "tools/image/process.hpp"
#include "tools/joey/containers/changes.hpp"

namespace joey::containers {

namespace {

using pod::Json;

constexpr std::string_view blanks = " \t";

std::string_view trimmed(std::string_view text) {
    text.remove_prefix(std::min(text.find_first_not_of(blanks), text.size()));
    return text.substr(0, text.find_last_not_of(blanks) + 1);
}

// Of a variable that the image has; empty: it has none.
std::string value_of(std::string_view name, const Json& config) {
    const std::string start = os::text(name, "=");
    const Json* env = pod::find(config, "Env");
    for (const Json& one : env != nullptr && env->is_array() ? *env : Json::array()) {
        if (one.is_string() && one.get_ref<const std::string&>().starts_with(start))
            return one.get_ref<const std::string&>().substr(start.size());
    }
    return {};
}

// What "$NAME", "${NAME}", "${NAME:-otherwise}" and "${NAME:+instead}" stand for. `at`: of the
// dollar sign, then of the last character that belongs to it. What is none of them is itself.
std::string take_variable(std::string_view text, std::size_t& at, const Json& config) {
    const bool is_braced = text.substr(at + 1).starts_with('{');
    const std::size_t begin = at + (is_braced ? 2 : 1);
    std::size_t end = begin;
    while (end < text.size() &&
           (std::isalnum(static_cast<unsigned char>(text[end])) != 0 || text[end] == '_'))
        ++end;
    const std::size_t close = is_braced ? text.find('}', end) : end - 1;
    if (end == begin || close == std::string_view::npos)
        return "$";
    const std::string value = value_of(text.substr(begin, end - begin), config);
    const std::string_view rest = is_braced ? text.substr(end, close - end) : std::string_view();
    if (!rest.empty() && !rest.starts_with(":-") && !rest.starts_with(":+"))
        return "$";
    at = close;
    if (rest.empty() || rest.starts_with(":-") != value.empty())
        return rest.starts_with(":+") ? std::string() : value;
    return std::string(rest.substr(2));
}

// With the values of variables; parted by blanks, but for those in quotation marks, behind
// backslashes and in values. `parted`: else it is one word.
std::vector<std::string> words_of(std::string_view text, const Json& config, bool parted = true) {
    std::vector<std::string> out;
    std::string word;
    bool is_word = false;
    char quote = '\0';
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '\\' && quote != '\'' && i + 1 < text.size()) {
            word += text[++i];
            is_word = true;
        } else if (c == '$' && quote != '\'') {
            word += take_variable(text, i, config);
            is_word = true;
        } else if (c == quote) {
            quote = '\0';
        } else if (quote == '\0' && (c == '"' || c == '\'')) {
            quote = c;
            is_word = true;
        } else if (parted && quote == '\0' && blanks.find(c) != std::string_view::npos) {
            if (is_word)
                out.push_back(std::move(word));
            word.clear();
            is_word = false;
        } else {
            word += c;
            is_word = true;
        }
    }
    if (is_word)
        out.push_back(std::move(word));
    return out;
}

std::string word_of(std::string_view text, const Json& config) {
    const std::vector<std::string> words = words_of(text, config, false);
    return words.empty() ? std::string() : words.front();
}

// '["a", "b"]'; nothing: it is no such list, and a line for the shell.
std::optional<std::vector<std::string>> list_in(std::string_view text) {
    const Json value = Json::parse(text, nullptr, false);
    if (!value.is_array())
        return std::nullopt;
    std::vector<std::string> out;
    for (const Json& one : value) {
        if (!one.is_string())
            return std::nullopt;
        out.push_back(one.get<std::string>());
    }
    return out;
}

std::vector<std::string> command_in(std::string_view text) {
    if (auto list = list_in(text))
        return std::move(*list);
    return {"/bin/sh", "-c", std::string(text)};
}

// "a=b c=d", or "a b" for one.
std::vector<std::pair<std::string, std::string>> pairs_in(std::string_view text,
                                                          const Json& config) {
    std::vector<std::pair<std::string, std::string>> out;
    const std::vector<std::string> words = words_of(text, config);
    if (words.empty())
        return out;
    if (words.front().find('=') == std::string::npos) {
        const std::size_t end = std::min(text.find_first_of(blanks), text.size());
        if (end < text.size())
            out.emplace_back(text.substr(0, end), word_of(trimmed(text.substr(end)), config));
        return out;
    }
    for (const std::string& word : words) {
        const std::size_t equals = word.find('=');
        if (equals == std::string::npos || equals == 0)
            return {};
        out.emplace_back(word.substr(0, equals), word.substr(equals + 1));
    }
    return out;
}

void set_variable(const std::string& name, const std::string& value, Json& config) {
    Json& env = config["Env"];
    if (!env.is_array())
        env = Json::array();
    const std::string start = name + "=";
    for (Json& one : env) {
        if (one.is_string() && one.get_ref<const std::string&>().starts_with(start)) {
            one = start + value;
            return;
        }
    }
    env.push_back(start + value);
}

// Docker's sets are objects; null: there is none yet.
void add_to_set(const std::vector<std::string>& names, Json& set) {
    if (!set.is_object())
        set = Json::object();
    for (const std::string& name : names)
        set[name] = Json::object();
}

std::vector<std::string> ports_in(std::string_view text, const Json& config) {
    std::vector<std::string> out = words_of(text, config);
    for (std::string& port : out) {
        if (port.find('/') == std::string::npos)
            port += "/tcp";
    }
    return out;
}

// `has_command`: CMD has been said before it.
os::Result<void> apply_instruction(const std::string& line, Json& config, bool& has_command) {
    const std::string_view whole = trimmed(line);
    const std::size_t end = std::min(whole.find_first_of(blanks), whole.size());
    std::string name(whole.substr(0, end));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    const std::string_view rest = trimmed(whole.substr(end));
    const auto wrong = [&](const char* why) {
        return os::fail(os::Code::InvalidArgument, "--change ", line.substr(0, 200), ": ", why);
    };
    if (rest.empty())
        return wrong("give an instruction and what it says");
    if (name == "CMD") {
        config["Cmd"] = command_in(rest);
        has_command = true;
    } else if (name == "ENTRYPOINT") {
        config["Entrypoint"] = command_in(rest);
        // As with Docker, a new entrypoint does not have the arguments of the last one.
        if (!has_command && !config["Entrypoint"].empty())
            config.erase("Cmd");
    } else if (name == "ENV" || name == "LABEL") {
        const auto pairs = pairs_in(rest, config);
        if (pairs.empty())
            return wrong("give NAME=VALUE");
        for (const auto& [key, value] : pairs) {
            if (name == "ENV")
                set_variable(key, value, config);
            else
                config["Labels"][key] = value;
        }
    } else if (name == "EXPOSE") {
        add_to_set(ports_in(rest, config), config["ExposedPorts"]);
    } else if (name == "VOLUME") {
        add_to_set(list_in(rest).value_or(words_of(rest, config)), config["Volumes"]);
    } else if (name == "USER") {
        config["User"] = word_of(rest, config);
    } else if (name == "WORKDIR") {
        const std::string before = pod::string_of(config, "WorkingDir");
        const std::string place = word_of(rest, config);
        config["WorkingDir"] =
            place.starts_with('/') ? place : os::text(before.empty() ? "/" : before + "/", place);
    } else if (name == "STOPSIGNAL") {
        const std::string signal = word_of(rest, config);
        if (!image::parse_signal(signal))
            return wrong("give a signal, such as SIGTERM");
        config["StopSignal"] = signal;
    } else {
        return wrong("give CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or "
                     "WORKDIR");
    }
    return {};
}

} // namespace

os::Result<void> apply_instructions(const std::vector<std::string>& lines, Json& config) {
    bool has_command = false;
    for (const std::string& line : lines) {
        TRY(apply_instruction(line, config, has_command));
    }
    return {};
}

} // namespace joey::containers
