#include "tools/joey/runtime/flags.hpp"

#include <algorithm>

namespace joey::runtime {

os::Result<Flags> Flags::parse(std::span<const std::string> words, std::span<const Flag> known) {
    Flags out;
    std::size_t at = 0;
    for (; at < words.size(); ++at) {
        const std::string& word = words[at];
        if (word.size() < 2 || word[0] != '-')
            break;
        if (word == "--") {
            ++at;
            break;
        }
        const std::size_t dashes = word[1] == '-' ? 2 : 1;
        const std::size_t equals = word.find('=');
        const std::string name =
            word.substr(dashes, equals == std::string::npos ? std::string::npos : equals - dashes);
        const auto flag = std::find_if(known.begin(), known.end(), [&](const Flag& one) {
            return name == one.name || (!name.empty() && name == one.short_name);
        });
        if (flag == known.end())
            return os::fail(os::Code::InvalidArgument, "flag provided but not defined: -", name);
        std::vector<std::string>& values = out.values_[flag->name];
        if (equals != std::string::npos) {
            values.push_back(word.substr(equals + 1));
        } else if (!flag->takes_value) {
            values.emplace_back("true");
        } else if (at + 1 < words.size()) {
            values.push_back(words[++at]);
        } else {
            return os::fail(os::Code::InvalidArgument, "flag needs an argument: -", name);
        }
        if (!flag->takes_value && values.back() == "false")
            out.values_.erase(flag->name);
    }
    for (; at < words.size(); ++at)
        out.rest_.push_back(words[at]);
    return out;
}

std::string Flags::value(const std::string& name, const std::string& otherwise) const {
    const auto found = values_.find(name);
    return found == values_.end() ? otherwise : found->second.back();
}

std::vector<std::string> Flags::values(const std::string& name) const {
    const auto found = values_.find(name);
    return found == values_.end() ? std::vector<std::string>() : found->second;
}

} // namespace joey::runtime
