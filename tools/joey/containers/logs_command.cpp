// logs, events: what containers said, and what happened to them.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <deque>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <sys/stat.h>

#include <fmt/format.h>

#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/format_functions.hpp"
#include "tools/joey/containers/format_template.hpp"
#include "tools/joey/containers/log_file.hpp"
#include "tools/joey/containers/variables.hpp"
#include "tools/joey/control_characters.hpp"

namespace joey::containers {

namespace {

using pod::Json;

// On a terminal, a log that is looked at later does not get to drive it: of what controls a
// terminal, line ends, tabs and colours pass.
std::string tamed(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const char c = text.front();
        if (text.starts_with("\x1b[")) {
            const std::size_t end = text.find_first_not_of("0123456789;", 2);
            if (end != std::string_view::npos && text[end] == 'm') {
                out += text.substr(0, end + 1);
                text.remove_prefix(end + 1);
                continue;
            }
        }
        const std::size_t control = control_length(text);
        if (control == 0 || c == '\n' || c == '\t' || c == '\r')
            out += c;
        else if (control == 1)
            out += fmt::format("^{}", static_cast<char>(static_cast<unsigned char>(c) ^ 0x40));
        else // as vis(1) and less(1) show them
            out += fmt::format("M-^{}", static_cast<char>((text[1] & 0x7f) ^ 0x40));
        text.remove_prefix(std::max<std::size_t>(control, 1));
    }
    return out;
}

class LogPrinter {
public:
    LogPrinter(Span span, bool timestamps)
        : span_(span), timestamps_(timestamps), tame_{::isatty(STDOUT_FILENO) == 1,
                                                      ::isatty(STDERR_FILENO) == 1} {}
    void print(const LogLine& line) const {
        if (!span_.has(nanoseconds_of(line.time)))
            return;
        const bool error = line.stream == Stream::Error;
        std::string text = timestamps_ ? printable(line.time) + " " : std::string();
        text += tame_[error ? 1 : 0] ? tamed(line.text) : line.text;
        std::FILE* to = error ? stderr : stdout;
        static_cast<void>(std::fwrite(text.data(), 1, text.size(), to));
        std::fflush(to);
    }

private:
    const Span span_;
    const bool timestamps_;
    const bool tame_[2];
};

} // namespace

os::Result<std::size_t> tail_of(const Arguments& arguments) {
    const std::string text = arguments.value("tail", "all");
    if (text == "all")
        return ~std::size_t{0};
    char* end = nullptr;
    const long long value = std::strtoll(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0')
        return os::fail(os::Code::InvalidArgument, "--tail ", text, ": give a number or all");
    return value < 0 ? ~std::size_t{0} : static_cast<std::size_t>(value);
}

os::Result<void> read_moment(const Arguments& arguments, const char* option, std::int64_t& out) {
    if (!arguments.has(option))
        return {};
    const std::string text = arguments.value(option);
    const auto moment = parse_time(text);
    if (!moment)
        return os::fail(moment.error().code, "--", option, " ", text,
                        ": give a date such as 2024-05-01T10:00, or how long ago, such as 10m");
    out = *moment;
    return {};
}

os::Result<Span> span_of(const Arguments& arguments) {
    Span out;
    TRY(read_moment(arguments, "since", out.since));
    TRY(read_moment(arguments, "until", out.until));
    return out;
}

os::Result<int> logs(Session& session, const Arguments& arguments) {
    if (wants_vm_log(arguments))
        return vm_log(session, arguments);
    if (arguments.has("level") || arguments.has("format"))
        return os::fail(os::Code::InvalidArgument,
                        "logs: --level and --format go with --vm, --kernel or --agent");
    TRY(const Container container, session.registry.find(arguments.words().front()));
    TRY(const Span span, span_of(arguments));
    TRY(const std::size_t tail, tail_of(arguments));
    if (container.log.none)
        return os::fail(os::Code::FailedPrecondition, "container ", container.name,
                        " was started with --log-driver none");
    const LogPrinter printer(span, arguments.has("timestamps"));
    LogReader reader(session.registry.directory(container) + "/log");
    std::deque<LogLine> last;
    reader.read([&](const LogLine& line) {
        if (tail == ~std::size_t{0})
            return printer.print(line);
        last.push_back(line);
        if (last.size() > tail)
            last.pop_front();
    });
    for (const LogLine& line : last)
        printer.print(line);
    const auto print_line = [&](const LogLine& line) { printer.print(line); };
    while (arguments.has("follow") && span.until > now_nanoseconds()) {
        // First whether it runs: what it said before its end is there then.
        const bool live = session.registry.condition(container).is_live();
        reader.read(print_line);
        if (!live)
            break;
        reader.wait();
    }
    return 0;
}

namespace {

// Whom the event is about; a line that somebody has changed may not say.
const Json& actor_of(const Json& event) {
    static const Json nobody = Json::object();
    const Json* actor = pod::find(event, "Actor");
    return actor != nullptr ? *actor : nobody;
}

// Those that nothing could fit would leave whoever waits without a word.
os::Result<void> check_event_filters(const std::vector<std::string>& filters) {
    constexpr std::array<std::string_view, 5> names = {"event", "container", "image", "type",
                                                       "label"};
    for (const std::string& filter : filters) {
        const std::size_t equals = std::min(filter.find('='), filter.size());
        const std::string_view name = std::string_view(filter).substr(0, equals);
        if (equals == filter.size() || std::find(names.begin(), names.end(), name) == names.end())
            return os::fail(os::Code::InvalidArgument, "events: --filter ", filter,
                            ": give event, container, image, type or label, with '=' and a value");
    }
    return {};
}

bool fits_event(const Json& event, const std::vector<std::string>& filters) {
    const Json& actor = actor_of(event);
    const auto attributes = pod::string_map_of(actor, "Attributes");
    const auto attribute = [&](const std::string& name) {
        const auto found = attributes.find(name);
        return found == attributes.end() ? std::string() : found->second;
    };
    for (const std::string& filter : filters) {
        const std::size_t equals = std::min(filter.find('='), filter.size());
        const std::string name = filter.substr(0, equals);
        const std::string value = filter.substr(std::min(equals + 1, filter.size()));
        const std::string action = pod::string_of(event, "Action");
        const bool fits = name == "event"       ? action.substr(0, action.find(':')) == value
                          : name == "container" ? attribute("name") == value ||
                                                      pod::string_of(actor, "ID").starts_with(value)
                          : name == "image" ? attribute("image") == value
                          : name == "type"  ? pod::string_of(event, "Type") == value
                          : name == "label" ? has_label(attributes, value)
                                            : false;
        if (!fits)
            return false;
    }
    return true;
}

std::string event_line(const Json& event) {
    const Json& actor = actor_of(event);
    std::string attributes;
    for (const auto& [name, value] : pod::string_map_of(actor, "Attributes"))
        attributes += os::text(attributes.empty() ? "" : ", ", name, "=", value);
    const std::time_t seconds = pod::int_of(event, "time");
    tm parts{};
    ::gmtime_r(&seconds, &parts);
    char date[32];
    std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &parts);
    return printable(fmt::format("{}.{:09}Z container {} {} ({})", date,
                                 pod::int_of(event, "timeNano") % 1'000'000'000,
                                 pod::string_of(event, "Action"), pod::string_of(actor, "ID"),
                                 attributes)) +
           "\n";
}

// Docker's templates call the fields by other names than its JSON does, and some by two.
Json event_for_template(const Json& event) {
    Json out = event;
    const Json& actor = actor_of(event);
    out["Status"] = pod::string_of(event, "Action");
    out["ID"] = pod::string_of(actor, "ID");
    out["From"] = std::string();
    if (const auto attributes = pod::string_map_of(actor, "Attributes");
        attributes.contains("image"))
        out["From"] = attributes.at("image");
    out["Scope"] = "local";
    out["Time"] = pod::int_of(event, "time");
    out["TimeNano"] = pod::int_of(event, "timeNano");
    return out;
}

os::Result<std::string> event_text(const Json& event, const std::string& format) {
    if (is_json_format(format))
        return pod::to_text(event) + "\n";
    return format.empty() ? event_line(event)
                          : format_all(format, {event_for_template(event)}, Json::object());
}

os::Result<void> check_event_format(const std::string& format) {
    if (format.empty() || is_json_format(format))
        return {};
    if (!FormatTemplate::is_template(format) || format.starts_with("table "))
        return os::fail(os::Code::InvalidArgument, "events: --format ", format,
                        ": give json or a template such as {{.Action}} {{.Actor.ID}}");
    TRY(FormatTemplate::parse(format));
    return {};
}

// The lines of the events' file, as they come, across a change of files.
class EventReader {
public:
    explicit EventReader(std::string path) : path_(std::move(path)) {}
    template <typename Each>
    void read(Each each) {
        if (!file_ && !open(began_ ? path_ : path_ + ".1") && !open(path_))
            return;
        began_ = true;
        for (;;) {
            read_file(each);
            struct stat mine {};
            struct stat named {};
            if (::fstat(file_.get(), &mine) != 0 || ::stat(path_.c_str(), &named) != 0 ||
                mine.st_ino == named.st_ino || !open(path_))
                return;
        }
    }

private:
    bool open(const std::string& path) {
        file_ = os::UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
        return static_cast<bool>(file_);
    }
    template <typename Each>
    void read_file(Each each) {
        std::string piece(64U << 10, '\0');
        for (ssize_t got = 1; got > 0;) {
            got = ::read(file_.get(), piece.data(), piece.size());
            rest_.append(piece, 0, got > 0 ? static_cast<std::size_t>(got) : 0);
            for (std::size_t end = rest_.find('\n'); end != std::string::npos;
                 end = rest_.find('\n')) {
                const auto event = pod::parse_object(rest_.substr(0, end), "event");
                rest_.erase(0, end + 1);
                const Json* actor = event ? pod::find(*event, "Actor") : nullptr;
                if (actor != nullptr && actor->is_object())
                    each(*event);
            }
        }
    }
    const std::string path_;
    os::UniqueFd file_;
    std::string rest_;
    bool began_ = false;
};

} // namespace

os::Result<int> events(Session& session, const Arguments& arguments) {
    TRY(Span span, span_of(arguments));
    // Without --since: what happens from now on.
    if (!arguments.has("since") && !arguments.has("until"))
        span.since = now_nanoseconds();
    const std::string format = arguments.value("format");
    TRY(check_event_format(format));
    const std::vector<std::string> filters = arguments.values("filter");
    TRY(check_event_filters(filters));
    EventReader reader(session.registry.path() + "/events.jsonl");
    os::Result<void> told;
    for (;;) {
        const bool over = now_nanoseconds() > span.until;
        reader.read([&](const Json& event) {
            if (!told || !span.has(pod::int_of(event, "timeNano")) || !fits_event(event, filters))
                return;
            const auto line = event_text(event, format);
            if (line)
                static_cast<void>(std::fwrite(line->data(), 1, line->size(), stdout));
            else
                told = base::Failure(line.error());
        });
        TRY(told);
        if (std::fflush(stdout) != 0 || over)
            return 0;
        constexpr int interval = 100; // milliseconds
        ::poll(nullptr, 0, interval);
    }
}

} // namespace joey::containers
