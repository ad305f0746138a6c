// Options as Go's flag packages take them: one dash or two, a value after '=' or as the next word,
// and none after the first word that is no option.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "agent/os/error.hpp"

namespace joey::runtime {

struct Flag {
    const char* name;
    const char* short_name; // may be empty
    bool takes_value;
};

class Flags {
public:
    // `words` begin with the options. What is left over is in rest().
    static os::Result<Flags> parse(std::span<const std::string> words, std::span<const Flag> known);

    bool has(const std::string& name) const { return values_.contains(name); }
    // The last one given, or `otherwise`.
    std::string value(const std::string& name, const std::string& otherwise = {}) const;
    std::vector<std::string> values(const std::string& name) const;
    const std::vector<std::string>& rest() const { return rest_; }

private:
    std::map<std::string, std::vector<std::string>> values_;
    std::vector<std::string> rest_;
};

} // namespace joey::runtime
