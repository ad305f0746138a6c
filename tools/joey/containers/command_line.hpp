// Command lines of the commands for people: tables of options, from which parsing, help and shell
// completion are all made; and their reading, as Docker's users know it: long and short options,
// short ones together (-it), values with '=', a blank or nothing between.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "agent/os/error.hpp"

namespace joey::containers {

enum class Takes : std::uint8_t { Nothing, Value, Values }; // Values: may be repeated

// What a shell offers for a value or an argument.
enum class Offer : std::uint8_t { Nothing, Containers, Images, Files, Words };

struct Option {
    const char* name;
    char letter = '\0';
    Takes takes = Takes::Nothing;
    const char* value = ""; // how help calls it
    const char* help = "";
    Offer offer = Offer::Nothing;
    const char* words = ""; // for Offer::Words, with blanks between
    const char* also = "";  // another name of Docker's for it, which help does not show
};

class Arguments;
struct Session;
// The exit status.
using Run = os::Result<int> (*)(Session&, const Arguments&);

struct Command {
    const char* name;
    const char* arguments; // how usage shows them
    const char* summary;
    std::span<const Option> options;
    unsigned least = 0; // arguments
    unsigned most = ~0U;
    bool leading_options = false; // none after the first argument: the rest is a command line
    Offer offer = Offer::Nothing;
    Run run = nullptr;
};

class Arguments {
public:
    // `words`: after the command's name. InvalidArgument says what is wrong, and where help is.
    static os::Result<Arguments> parse(const Command& command, std::span<const std::string> words);

    bool has(std::string_view name) const { return values_.contains(name); }
    // The last one given, or `otherwise`.
    std::string value(std::string_view name, std::string_view otherwise = {}) const;
    std::vector<std::string> values(std::string_view name) const;
    const std::vector<std::string>& words() const { return words_; }
    bool wants_help() const { return help_; }

private:
    class Reader;
    std::map<std::string, std::vector<std::string>, std::less<>> values_;
    std::vector<std::string> words_;
    bool help_ = false;
};

// Usage, summary and options.
std::string help_of(const Command& command);

} // namespace joey::containers
