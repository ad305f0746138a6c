#include "tools/joey/containers/command_line.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace joey::containers {

class Arguments::Reader {
public:
    Reader(const Command& command, std::span<const std::string> words, Arguments& out)
        : command_(command), words_(words), out_(out) {}

    os::Result<void> read() {
        bool ended = false;
        for (; at_ < words_.size(); ++at_) {
            const std::string& word = words_[at_];
            if (ended || word.size() < 2 || word.front() != '-') {
                out_.words_.push_back(word);
                ended |= command_.leading_options;
            } else if (word == "--") {
                ended = true;
            } else if (word.starts_with("--")) {
                TRY(read_long(word));
            } else {
                TRY(read_letters(word));
            }
        }
        return {};
    }

private:
    template <typename... Parts>
    base::Failure<os::Error> wrong(const Parts&... parts) const {
        return os::fail(os::Code::InvalidArgument, command_.name, ": ", parts..., "; see 'joey ",
                        command_.name, " --help'");
    }

    os::Result<void> read_long(const std::string& word) {
        const std::size_t equals = word.find('=');
        const std::string name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
        if (name == "help") {
            out_.help_ = true;
            return {};
        }
        const auto option = std::find_if(
            command_.options.begin(), command_.options.end(), [&](const Option& candidate) {
                return name == candidate.name || (!name.empty() && name == candidate.also);
            });
        if (option == command_.options.end())
            return wrong("unknown option --", name);
        if (option->takes == Takes::Nothing)
            return set_flag(*option,
                            equals == std::string::npos ? "true" : word.substr(equals + 1));
        if (equals != std::string::npos)
            return set(*option, word.substr(equals + 1));
        return set_from_next(*option);
    }

    // "-it", "-p8080:80", "-e A=b".
    os::Result<void> read_letters(const std::string& word) {
        for (std::size_t i = 1; i < word.size(); ++i) {
            const auto option =
                std::find_if(command_.options.begin(), command_.options.end(),
                             [&](const Option& candidate) { return candidate.letter == word[i]; });
            if (option == command_.options.end() && word == "-h") {
                out_.help_ = true;
                return {};
            }
            if (option == command_.options.end())
                return wrong("unknown option -", std::string_view(word).substr(i, 1));
            if (option->takes == Takes::Nothing) {
                TRY(set_flag(*option, "true"));
                continue;
            }
            std::string rest = word.substr(i + 1);
            if (rest.empty())
                return set_from_next(*option);
            if (rest.front() == '=')
                rest.erase(0, 1);
            return set(*option, std::move(rest));
        }
        return {};
    }

    os::Result<void> set_flag(const Option& option, std::string_view value) {
        if (value == "true" || value == "1")
            out_.values_[option.name] = {"true"};
        else if (value == "false" || value == "0")
            out_.values_[option.name] = {"false"};
        else
            return wrong("--", option.name, "=", value, ": give true or false");
        return {};
    }

    os::Result<void> set_from_next(const Option& option) {
        if (at_ + 1 == words_.size())
            return wrong("--", option.name, " needs a value");
        return set(option, words_[++at_]);
    }

    os::Result<void> set(const Option& option, std::string value) {
        std::vector<std::string>& values = out_.values_[option.name];
        if (option.takes == Takes::Value)
            values.clear();
        values.push_back(std::move(value));
        return {};
    }

    const Command& command_;
    std::span<const std::string> words_;
    Arguments& out_;
    std::size_t at_ = 0;
};

os::Result<Arguments> Arguments::parse(const Command& command, std::span<const std::string> words) {
    Arguments out;
    TRY(Reader(command, words, out).read());
    // A flag that was switched off again was not given, unless it is on by default.
    for (const Option& option : command.options) {
        const auto found = out.values_.find(option.name);
        if (option.takes == Takes::Nothing && found != out.values_.end() &&
            found->second.back() == "false" && std::string_view(option.value) != "on")
            out.values_.erase(found);
    }
    if (out.help_)
        return out;
    if (out.words_.size() < command.least)
        return os::fail(os::Code::InvalidArgument, command.name, ": needs ", command.arguments,
                        "; see 'joey ", command.name, " --help'");
    if (out.words_.size() > command.most)
        return os::fail(os::Code::InvalidArgument, command.name, ": '", out.words_[command.most],
                        "' is too much; see 'joey ", command.name, " --help'");
    return out;
}

std::string Arguments::value(std::string_view name, std::string_view otherwise) const {
    const auto found = values_.find(name);
    return found == values_.end() ? std::string(otherwise) : found->second.back();
}

std::vector<std::string> Arguments::values(std::string_view name) const {
    const auto found = values_.find(name);
    return found == values_.end() ? std::vector<std::string>() : found->second;
}

std::string help_of(const Command& command) {
    std::string out = fmt::format("Usage: joey {}{} {}\n\n{}\n", command.name,
                                  command.options.empty() ? "" : " [OPTIONS]", command.arguments,
                                  command.summary);
    if (command.options.empty())
        return out;
    out += "\nOptions:\n";
    std::vector<std::string> names;
    std::size_t width = 0;
    for (const Option& option : command.options) {
        std::string name = option.letter != '\0' ? fmt::format("-{}, ", option.letter) : "    ";
        name += fmt::format("--{}", option.name);
        if (option.takes != Takes::Nothing)
            name += fmt::format(" {}", option.value);
        width = std::max(width, name.size());
        names.push_back(std::move(name));
    }
    for (std::size_t i = 0; i < names.size(); ++i)
        out += fmt::format("  {:<{}}  {}\n", names[i], width, command.options[i].help);
    return out;
}

} // namespace joey::containers
