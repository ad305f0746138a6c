#include "tools/containerd-shim-joey-v2/settings.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <fcntl.h>
#include <unistd.h>

#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
// The parser asserts what a file may well violate ("[" at the end of a line), and then checks it
// and says what is wrong: only the latter is wanted.
#define TOML_ASSERT(expr) static_cast<void>(0)
#include <toml++/toml.h>

#include "agent/os/files.hpp"
#include "vmm/machine/limits.hpp"

namespace shim {

namespace {

constexpr unsigned most_cpus_of_a_vm = 64;
constexpr std::array<std::string_view, 3> privileges = {"auto", "ring0", "ring3"};
constexpr std::string_view cpus_annotation = "io.joey.vcpus";
constexpr std::string_view memory_annotation = "io.joey.memory";
constexpr std::string_view privilege_annotation = "io.joey.privilege";
constexpr std::string_view prefix = "io.joey.";

os::Result<unsigned> cpus_of(std::string_view text, const std::string& what) {
    unsigned number = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || number < 1 ||
        number > most_cpus_of_a_vm)
        return os::fail(os::Code::InvalidArgument, what, ": ", text, " is no number of CPUs (1 to ",
                        most_cpus_of_a_vm, ")");
    return number;
}

os::Result<void> check_privilege(std::string_view text, const std::string& what) {
    for (const std::string_view one : privileges) {
        if (text == one)
            return {};
    }
    return os::fail(os::Code::InvalidArgument, what, ": ", text, " is not auto, ring0 or ring3");
}

// One table of the file, with the names that it may have.
class Table {
public:
    Table(const toml::table* table, std::string what) : table_(table), what_(std::move(what)) {}

    os::Result<void> check_names(std::initializer_list<std::string_view> names) const {
        if (table_ == nullptr)
            return {};
        for (const auto& [key, value] : *table_) {
            bool known = false;
            std::string all;
            for (const std::string_view name : names) {
                known = known || key.str() == name;
                all += os::text(all.empty() ? "" : ", ", name);
            }
            if (!known)
                return os::fail(os::Code::InvalidArgument, what_, ", line ",
                                value.source().begin.line, ": ", key.str(),
                                " is no known setting; there are ", all);
        }
        return {};
    }
    template <typename T>
    os::Result<std::optional<T>> value(std::string_view name, const char* kind) const {
        const toml::node* node = table_ == nullptr ? nullptr : table_->get(name);
        if (node == nullptr)
            return std::optional<T>();
        const std::optional<T> found = node->value_exact<T>();
        if (!found)
            return os::fail(os::Code::InvalidArgument, where(*node, name), " is no ", kind);
        return found;
    }
    std::string where(std::string_view name) const { return where(*table_->get(name), name); }

private:
    std::string where(const toml::node& node, std::string_view name) const {
        return os::text(what_, ", line ", node.source().begin.line, ": ", name);
    }
    const toml::table* table_;
    std::string what_;
};

os::Result<std::optional<unsigned>> read_cpus(const Table& table) {
    TRY(const auto number, table.value<std::int64_t>("vcpus", "number"));
    if (!number)
        return std::optional<unsigned>();
    TRY(const unsigned checked, cpus_of(std::to_string(*number), table.where("vcpus")));
    return std::optional<unsigned>(checked);
}

os::Result<void> read_vm(const Table& table, Settings& out) {
    TRY(table.check_names({"vcpus", "memory", "privilege"}));
    TRY(out.vcpus, read_cpus(table));
    TRY(const auto memory, table.value<std::string>("memory", "text, as \"512M\""));
    if (memory) {
        TRY(bytes_of(*memory, table.where("memory")));
        out.memory = *memory;
    }
    TRY(const auto privilege, table.value<std::string>("privilege", "text"));
    if (privilege) {
        TRY(check_privilege(*privilege, table.where("privilege")));
        out.privilege = *privilege;
    }
    return {};
}

os::Result<void> read_limits(const Table& table, Settings& out) {
    TRY(table.check_names({"vcpus", "memory", "annotations"}));
    TRY(out.most_vcpus, read_cpus(table));
    TRY(const auto memory, table.value<std::string>("memory", "text, as \"4G\""));
    if (memory) {
        TRY(out.most_memory, bytes_of(*memory, table.where("memory")));
    }
    TRY(const auto allowed, table.value<bool>("annotations", "true or false"));
    out.annotations = allowed.value_or(true);
    return {};
}

} // namespace

os::Result<std::uint64_t> bytes_of(std::string_view text, const std::string& what) {
    std::uint64_t number = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
    const std::string_view unit(parsed.ptr,
                                static_cast<std::size_t>(text.data() + text.size() - parsed.ptr));
    unsigned shift = 0;
    if (unit == "K" || unit == "k")
        shift = 10;
    else if (unit == "M" || unit == "m")
        shift = 20;
    else if (unit == "G" || unit == "g")
        shift = 30;
    constexpr std::uint64_t most = std::uint64_t{1} << 46;
    if (parsed.ec != std::errc() || (!unit.empty() && shift == 0) || number == 0 ||
        number > (most >> shift))
        return os::fail(os::Code::InvalidArgument, what, ": ", text,
                        " is no amount of memory, as 512M or 2G");
    if (number << shift < vmm::min_memory_bytes)
        return os::fail(os::Code::InvalidArgument, what, ": ", text,
                        " is too little for a VM, which needs ", vmm::min_memory_bytes >> 20, "M");
    return number << shift;
}

os::Result<Settings> Settings::parse(std::string_view text, const std::string& what) {
    // Nothing that is known has other letters, and the parser's table of these has holes that it
    // takes for unreachable: here they may be in comments, and are wrong anywhere else.
    std::string plain(text);
    std::replace_if(
        plain.begin(), plain.end(), [](unsigned char c) { return c >= 0x80; }, '?');
    const toml::parse_result parsed = toml::parse(plain);
    if (!parsed)
        return os::fail(os::Code::InvalidArgument, what, ", line ",
                        parsed.error().source().begin.line, ": ", parsed.error().description());
    const toml::table& file = parsed.table();
    TRY(Table(&file, what).check_names({"vm", "limits"}));
    for (const char* name : {"vm", "limits"}) {
        if (file.contains(name) && !file.get(name)->is_table())
            return os::fail(os::Code::InvalidArgument, what, ": ", name, " is no table");
    }
    Settings out;
    TRY(read_vm(Table(file["vm"].as_table(), what), out));
    TRY(read_limits(Table(file["limits"].as_table(), what), out));
    return out;
}

os::Result<Settings> Settings::load(const std::string& path) {
    const std::string place = path.empty() ? usual_config : path;
    if (path.empty() && ::access(usual_config, F_OK) != 0 && errno == ENOENT)
        return Settings();
    TRY(const std::string text, os::read_file(AT_FDCWD, place.c_str()));
    return parse(text, place);
}

os::Result<void> Settings::check(const std::map<std::string, std::string>& asked) const {
    for (const auto& [name, value] : asked) {
        if (!name.starts_with(prefix))
            continue;
        const std::string what = os::text("annotation ", name);
        if (!annotations)
            return os::fail(os::Code::PermissionDenied, what,
                            ": the configuration of joey lets no pod ask for itself");
        if (name == cpus_annotation) {
            TRY(const unsigned number, cpus_of(value, what));
            if (most_vcpus && number > *most_vcpus)
                return os::fail(os::Code::PermissionDenied, what, ": ", value, " is more than the ",
                                *most_vcpus, " that are allowed");
        } else if (name == memory_annotation) {
            TRY(const std::uint64_t number, bytes_of(value, what));
            if (most_memory && number > *most_memory)
                return os::fail(os::Code::PermissionDenied, what, ": ", value, " is more than the ",
                                *most_memory, " bytes that are allowed");
        } else if (name == privilege_annotation) {
            TRY(check_privilege(value, what));
        }
    }
    return {};
}

} // namespace shim
