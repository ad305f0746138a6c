#include "tools/joey/image_options.hpp"

#include <algorithm>
#include <array>
#include <sstream>

#include <boost/program_options.hpp>
#include <fmt/format.h>

#include "tools/joey/containers/format_functions.hpp"
#include "tools/joey/containers/format_template.hpp"
#include "tools/joey/sizes.hpp"

namespace joey {
namespace {

namespace po = boost::program_options;
using Verb = ImageOptions::Verb;

constexpr std::string_view see_help = "see 'joey image help'";

constexpr std::string_view usage_text =
    "usage: joey image import [--name NAME]... [--only NAME] [--platform OS/ARCH]\n"
    "                         [--change INSTRUCTION]... [--message TEXT] FILE|DIRECTORY|- [NAME]\n"
    "       joey image load [--input FILE]\n"
    "       joey image ls [--filter NAME=VALUE]... [--format FORMAT] [--quiet] [--digests]\n"
    "                     [--no-trunc] [NAME]\n"
    "       joey image inspect NAME...\n"
    "       joey image history [--format FORMAT] [--quiet] [--no-trunc] [--human=false] NAME\n"
    "       joey image tag NAME NEW-NAME\n"
    "       joey image export [--output FILE] NAME...\n"
    "       joey image rm [--force] NAME...\n"
    "       joey image prune [--all] [--force]\n"
    "\n"
    "Images on this machine. An import takes an OCI image layout, what 'docker save' or 'podman\n"
    "save' wrote, or the tar of a root directory, plain or compressed by gzip, zstd, xz or bzip2.\n"
    "NAME is a name such as debian:12, an ID, or the beginning of one.\n"
    "\n";

struct KnownVerb {
    std::string_view name;
    Verb verb;
    std::size_t least_words;
    std::size_t most_words;
};
constexpr std::size_t any_number = SIZE_MAX;
constexpr std::array known_verbs = {
    KnownVerb{"import", Verb::Import, 1, 2},
    KnownVerb{"load", Verb::Load, 0, 1},
    KnownVerb{"ls", Verb::List, 0, 1},
    KnownVerb{"list", Verb::List, 0, 1},
    KnownVerb{"rm", Verb::Remove, 1, any_number},
    KnownVerb{"remove", Verb::Remove, 1, any_number},
    KnownVerb{"inspect", Verb::Inspect, 1, any_number},
    KnownVerb{"history", Verb::History, 1, 1},
    KnownVerb{"tag", Verb::Tag, 2, 2},
    KnownVerb{"prune", Verb::Prune, 0, 0},
    KnownVerb{"export", Verb::Export, 1, any_number},
    KnownVerb{"save", Verb::Export, 1, any_number},
};

// Strings that get their meaning afterwards.
struct RawOptions {
    std::string format = "table";
    std::string only;
    std::string platform;
    std::string max_size;
    std::string message;
    bool ignored = false;
};

// clang-format off
po::options_description describe(Verb verb, ImageOptions& options, RawOptions& raw) {
    po::options_description all("Options", 100, 60);
    auto add = all.add_options();
    const bool every = verb == Verb::Help;
    if (every || verb == Verb::Load)
        add("input,i", po::value(&options.input)->value_name("FILE"), "load: from this file (default: stdin)");
    if (every || verb == Verb::Import || verb == Verb::Load) {
        add("name", po::value(&options.names)->value_name("NAME"),
            "what to call the image (may be repeated; default: as the archive says, or after the file)");
        add("only", po::value(&raw.only)->value_name("NAME"), "of an archive with several images, this one");
        add("platform", po::value(&raw.platform)->value_name("OS/ARCH[/VARIANT]"),
            "of an image for several platforms, this one (default: linux/amd64)");
        add("max-size", po::value(&raw.max_size)->value_name("SIZE"), "what an image may unpack to (default: 64G)");
    }
    if (every || verb == Verb::Import) {
        add("change,c", po::value(&options.changes)->value_name("INSTRUCTION"),
            "import, of a root directory's archive: an instruction of a Dockerfile, done to the image, such as CMD or ENV (may be repeated)");
        add("message,m", po::value(&raw.message)->value_name("TEXT"), "import, of the same: what its history says of it");
    }
    if (every || verb == Verb::History || verb == Verb::List)
        add("no-trunc", po::bool_switch(&options.whole), "history: whole lines; ls: whole IDs");
    if (verb == Verb::History)
        add("format", po::value(&raw.format)->value_name("FORMAT"), "table, json (one object per line), or a template such as {{.ID}}: {{.CreatedBy}}");
    if (every || verb == Verb::History) {
        add("human", po::value(&options.human)->default_value(true, "")->value_name("true|false"),
            "history: sizes and times for people; false: bytes and dates");
        add(",H", po::bool_switch(&raw.ignored), "history: the same as --human=true");
    }
    if (every || verb == Verb::List) {
        add("filter,f", po::value(&options.filters)->value_name("NAME=VALUE"),
            "ls: only what fits: reference=PATTERN, label=NAME[=VALUE], dangling=true, before=IMAGE, since=IMAGE (may be repeated)");
        add("format", po::value(&raw.format)->value_name("FORMAT"), "table, json (one object per line), or a template such as {{.Repository}}:{{.Tag}}");
        add("digests", po::bool_switch(&options.digests), "also the digests of the manifests");
    }
    if (every || verb == Verb::List || verb == Verb::Import || verb == Verb::Load || verb == Verb::History)
        add("quiet,q", po::bool_switch(&options.quiet), "IDs only; load: without a bar");
    if (every || verb == Verb::Export)
        add("output,o", po::value(&options.output)->value_name("FILE"), "write there (default: stdout)");
    if (verb == Verb::Prune)
        add("force,f", po::bool_switch(&options.force), "accepted: nothing is asked");
    if (verb == Verb::Remove)
        add("force,f", po::bool_switch(&options.force), "also an image with several names, or in use");
    if (every) // the letter is that of two
        add("force", po::bool_switch(&options.force), "rm, also -f: an image with several names, or in use; prune: accepted");
    if (every || verb == Verb::Remove)
        add("no-prune", po::bool_switch(&raw.ignored), "rm: accepted: there are no parents");
    if (every || verb == Verb::Prune || verb == Verb::List)
        add("all,a", po::bool_switch(&options.all), "prune: every image that nothing runs in, not only those without a name; ls: accepted");
    add("store", po::value(&options.store)->value_name("DIR"),
        "where images are (default: /var/lib/joey/images, or $XDG_DATA_HOME/joey/images for ordinary users)");
    add("help,h", "print this text");
    return all;
}
// clang-format on

std::string help_text() {
    ImageOptions options;
    RawOptions raw;
    std::ostringstream text;
    text << usage_text << describe(Verb::Help, options, raw);
    return text.str();
}

Outcome<void> interpret(const po::variables_map& given, const RawOptions& raw,
                        ImageOptions& options) {
    options.json = containers::is_json_format(raw.format);
    const bool is_template = containers::FormatTemplate::is_template(raw.format);
    if (!options.json && is_template)
        options.format = raw.format;
    else if (!options.json && raw.format != "table")
        return fail(fmt::format("--format {}: give table, json or a template such as {{{{.ID}}}}",
                                raw.format));
    if (options.verb == Verb::Import && options.words.size() == 2) {
        // Docker's way to say what it is to be called.
        options.names.push_back(std::move(options.words.back()));
        options.words.pop_back();
    }
    if (options.verb == Verb::Load) {
        if (options.words.size() == 1 && !options.input.empty())
            return fail("image load: --input and a file say the same");
        if (options.words.empty())
            options.words.push_back(options.input.empty() ? "-" : options.input);
    }
    if (given.count("only") != 0)
        options.only = raw.only;
    if (given.count("message") != 0)
        options.message = raw.message;
    if (given.count("platform") != 0)
        options.platform = raw.platform;
    if (given.count("max-size") != 0) {
        options.max_size = parse_size(raw.max_size);
        if (!options.max_size || *options.max_size == 0)
            return fail(
                fmt::format("--max-size {}: give a size such as 500M or 100G", raw.max_size));
    }
    return {};
}

} // namespace

Outcome<ImageOptions> parse_image_options(std::span<const std::string> words) {
    ImageOptions options;
    const std::string_view first = words.empty() ? std::string_view("help") : words.front();
    if (first == "help" || first == "--help" || first == "-h") {
        options.help = help_text();
        return options;
    }
    const auto known = std::find_if(known_verbs.begin(), known_verbs.end(),
                                    [&](const KnownVerb& verb) { return verb.name == first; });
    if (known == known_verbs.end())
        return fail(fmt::format("unknown command 'image {}'; {}", first, see_help));
    options.verb = known->verb;
    RawOptions raw;
    po::options_description all = describe(options.verb, options, raw);
    po::options_description hidden;
    hidden.add_options()("words", po::value(&options.words));
    po::positional_options_description positions;
    positions.add("words", -1);
    po::options_description together;
    together.add(all).add(hidden);
    po::variables_map given;
    std::vector<std::string> rest(words.begin() + 1, words.end());
    // Alone it changes nothing, and the parser would take the next word for its value.
    std::erase(rest, "--human");
    try {
        using po::command_line_style::style_t;
        const auto style = style_t::allow_long | style_t::allow_short | style_t::long_allow_next |
                           style_t::long_allow_adjacent | style_t::short_allow_next |
                           style_t::short_allow_adjacent | style_t::allow_dash_for_short |
                           style_t::allow_sticky;
        po::store(po::command_line_parser(rest)
                      .options(together)
                      .positional(positions)
                      .style(style)
                      .run(),
                  given);
        po::notify(given);
    } catch (const po::error& error) {
        return fail(fmt::format("{}; {}", error.what(), see_help));
    }
    if (given.count("help") != 0) {
        options.verb = Verb::Help;
        options.help = help_text();
        return options;
    }
    if (options.words.size() < known->least_words)
        return fail(fmt::format("image {}: say which; {}", first, see_help));
    if (options.words.size() > known->most_words)
        return fail(fmt::format("image {}: '{}' is too much; {}", first,
                                options.words[known->most_words], see_help));
    TRY(interpret(given, raw, options));
    return options;
}

} // namespace joey
