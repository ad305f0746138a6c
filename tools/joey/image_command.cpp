#include "tools/joey/image_command.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <unistd.h>
#include <vector>

#include <sys/stat.h>

#include <fmt/format.h>

#include "tools/image/exporter.hpp"
#include "tools/image/importer.hpp"
#include "tools/image/store.hpp"
#include "tools/joey/containers/changes.hpp"
#include "tools/joey/image_options.hpp"
#include "tools/joey/image_report.hpp"
#include "tools/joey/progress_bar.hpp"
#include "tools/joey/reporter.hpp"
#include "tools/pod/json.hpp"
#include "tools/pod/records.hpp"

namespace joey {
namespace {

constexpr int exit_some_failed = 1;

// Errors of the library become the line that people read.
template <typename T>
Outcome<T> told(os::Result<T> result) {
    if (!result)
        return fail(std::move(result.error().message));
    if constexpr (std::is_void_v<T>)
        return {};
    else
        return std::move(*result);
}

Outcome<int> print(std::string_view text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
        return fail("cannot write to stdout");
    return 0;
}

std::string title(const image::Imported& imported) {
    std::string names;
    for (const image::Reference& name : imported.names)
        names += (names.empty() ? "" : ", ") + name.familiar();
    return names.empty() ? "an image without a name" : names;
}

// As Docker says it, since scripts read that.
std::string describe_loaded(const image::Imported& imported) {
    std::string out;
    for (const image::Reference& name : imported.names)
        out += "Loaded image: " + name.familiar() + "\n";
    return out.empty() ? "Loaded image ID: " + imported.id.text() + "\n" : out;
}

// What `docker import` does by --change and --message.
os::Result<std::string> configure(const ImageOptions& options, const std::string& text) {
    TRY(pod::Json document, pod::parse_object(text, "the image's configuration"));
    TRY(containers::apply_instructions(options.changes, document["config"]));
    const std::string now = pod::timestamp();
    document["created"] = now;
    document["history"] = pod::Json::array({pod::Json{
        {"created", now},
        {"comment", options.message.value_or("Imported from " + options.words.front())}}});
    return pod::to_text(document);
}

Outcome<int> run_import(const image::Store& store, const ImageOptions& options) {
    ProgressBar bar(STDERR_FILENO);
    image::ImportOptions import;
    import.input = options.words.front();
    import.names = options.names;
    import.only = options.only;
    if (!options.changes.empty() || options.message) {
        // Before the work: a mistake in it is told at once.
        pod::Json nothing = pod::Json::object();
        if (const auto right = containers::apply_instructions(options.changes, nothing); !right)
            return fail(right.error().message);
        import.configure = [&options](const std::string& text) { return configure(options, text);
    };
}
import.progress = options.quiet ? nullptr : &bar;
if (options.platform) {
    TRY(import.platform, told(image::Platform::parse(*options.platform)));
}
if (options.max_size) {
    import.limits.unpacked_bytes = *options.max_size;
    import.limits.input_bytes = *options.max_size;
}
auto imported = image::import(store, import);
bar.clear();
if (!imported)
    return fail(std::move(imported.error().message));
const bool loads = options.verb == ImageOptions::Verb::Load;
std::string out;
for (const image::Imported& image : *imported) {
    if (loads)
        out += describe_loaded(image);
    else if (options.quiet)
        out += image.id.text() + "\n";
    else
        out +=
            fmt::format("{} {} ({})\n", image.is_new ? "Imported" : "Already there:", title(image),
                        image.id.short_id());
    if (!image.runs_here)
        Reporter().print("joey: ", fmt::format("{} is for another kind of machine, and does "
                                               "not run on this one",
                                               title(image)));
}
return print(out);
} // namespace

Outcome<int> run_list(const image::Store& store, const ImageOptions& options) {
    TRY(const image::ImageList list, told(store.list()));
    for (const image::DamagedImage& damaged : list.damaged)
        Reporter().print("joey: ",
                         fmt::format("image {}: {}", damaged.names.front(), damaged.problem));
    ListStyle style{.json = options.json,
                    .quiet = options.quiet,
                    .digests = options.digests,
                    .format = options.format,
                    .whole = options.whole,
                    .only = "",
                    .filters = options.filters};
    if (!options.words.empty())
        style.only = options.words.front();
    TRY(const std::string text,
        told(describe_list(list, style, static_cast<std::int64_t>(::time(nullptr)))));
    return print(text);
}

// One after the other; what fails is told, and the rest is done all the same.
template <typename Each>
Outcome<int> for_each_word(const ImageOptions& options, Each each) {
    int status = 0;
    for (const std::string& word : options.words) {
        Outcome<void> done = each(word);
        if (!done) {
            Reporter().print("joey: ", done.error().line);
            status = exit_some_failed;
        }
    }
    return status;
}

std::string describe_removed(const image::Collected& removed) {
    std::string out;
    for (const std::string& name : removed.removed_names)
        out += "Untagged: " + name + "\n";
    for (const image::Digest& id : removed.removed_images)
        out += "Deleted: " + id.text() + "\n";
    return out;
}

Outcome<int> run_remove(const image::Store& store, const ImageOptions& options) {
    return for_each_word(options, [&](const std::string& word) -> Outcome<void> {
        TRY(const image::Collected removed, told(store.remove(word, options.force)));
        TRY(print(describe_removed(removed)));
        return {};
    });
}

Outcome<int> run_prune(const image::Store& store, const ImageOptions& options) {
    TRY(const image::Collected removed, told(store.prune(options.all)));
    std::string out = describe_removed(removed);
    out += fmt::format("Freed: {}\n", image::human_size(removed.freed_bytes));
    if (removed.kept_in_use != 0)
        Reporter().print(
            "joey: ",
            fmt::format("{} root {} in use, and stay until the next prune", removed.kept_in_use,
                        removed.kept_in_use == 1 ? "directory is" : "directories are"));
    return print(out);
}

Outcome<int> run_inspect(const image::Store& store, const ImageOptions& options) {
    std::string out;
    TRY(const int status, for_each_word(options, [&](const std::string& word) -> Outcome<void> {
            TRY(const image::Image image, told(store.find(word)));
            TRY(const std::string text, told(describe_image(store, image)));
            out += (out.empty() ? "" : ",\n") + text;
            return {};
        }));
    TRY(print("[" + out + "]\n"));
    return status;
}

Outcome<int> run_history(const image::Store& store, const ImageOptions& options) {
    TRY(const image::Image image, told(store.find(options.words.front())));
    TRY(const std::string config, told(store.read_document(image.id)));
    const HistoryStyle style{.json = options.json,
                             .quiet = options.quiet,
                             .whole = options.whole,
                             .human = options.human,
                             .format = options.format};
    TRY(const std::string text,
        told(describe_history(config, image, style, static_cast<std::int64_t>(::time(nullptr)))));
    return print(text);
}

Outcome<int> run_tag(const image::Store& store, const ImageOptions& options) {
    TRY(const image::Reference name, told(image::Reference::parse(options.words[1])));
    TRY(told(store.tag(options.words[0], name)));
    return 0;
}

Outcome<int> run_export(const image::Store& store, const ImageOptions& options) {
    std::vector<image::Image> images;
    for (const std::string& word : options.words) {
        TRY(image::Image image, told(store.find(word)));
        images.push_back(std::move(image));
    }
    ProgressBar bar(STDERR_FILENO);
    if (options.output.empty() || options.output == "-") {
        if (::isatty(STDOUT_FILENO) == 1)
            return fail("image export: stdout is a terminal; name a file with --output");
        TRY(told(image::export_images(store, images, STDOUT_FILENO, &bar)));
        return 0;
    }
    // Another name until it is whole: what was there before stays if this fails.
    const std::string fresh = options.output + ".new";
    os::UniqueFd file(
        ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666));
    if (!file)
        return fail(fmt::format("--output {}: {}", options.output, std::strerror(errno)));
    auto written = image::export_images(store, images, file.get(), &bar);
    if (written && ::fsync(file.get()) == 0 &&
        std::rename(fresh.c_str(), options.output.c_str()) == 0)
        return 0;
    const int error = errno;
    static_cast<void>(std::remove(fresh.c_str()));
    if (!written)
        return fail(std::move(written.error().message));
    return fail(fmt::format("--output {}: {}", options.output, std::strerror(error)));
}

Outcome<int> run(const ImageOptions& options) {
    using Verb = ImageOptions::Verb;
    if (options.verb == Verb::Help)
        return print(options.help);
    std::string path = options.store;
    if (path.empty()) {
        TRY(path, told(image::Store::default_path()));
    }
    TRY(const image::Store store, told(image::Store::open(path)));
    switch (options.verb) {
    case Verb::Import:
    case Verb::Load:
        return run_import(store, options);
    case Verb::List:
        return run_list(store, options);
    case Verb::Remove:
        return run_remove(store, options);
    case Verb::Inspect:
        return run_inspect(store, options);
    case Verb::History:
        return run_history(store, options);
    case Verb::Tag:
        return run_tag(store, options);
    case Verb::Prune:
        return run_prune(store, options);
    case Verb::Export:
        return run_export(store, options);
    case Verb::Help:
        break;
    }
    return 0;
}

} // namespace joey

Outcome<int> run_image_command(std::span<char* const> arguments) {
    const std::vector<std::string> words(arguments.begin(), arguments.end());
    TRY(const ImageOptions options, parse_image_options(words));
    return run(options);
}

Outcome<int> run_images_command(std::span<char* const> arguments) {
    std::vector<std::string> words = {"ls"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    TRY(const ImageOptions options, parse_image_options(words));
    return run(options);
}

std::optional<Outcome<int>> run_image_alias(std::span<char* const> arguments) {
    constexpr std::array<std::pair<std::string_view, const char*>, 6> names = {
        std::pair{"load", "load"},
        {"import", "import"},
        {"save", "save"},
        {"tag", "tag"},
        {"rmi", "rm"},
        {"history", "history"}};
    const std::string_view word = arguments.empty() ? std::string_view() : arguments.front();
    const auto* known = std::find_if(names.begin(), names.end(),
                                     [&](const auto& name) { return name.first == word; });
    if (known == names.end())
        return std::nullopt;
    std::vector<std::string> words(arguments.begin(), arguments.end());
    words.front() = known->second;
    auto options = parse_image_options(words);
    if (!options)
        return base::Failure(options.error());
    return run(*options);
}

} // namespace joey
