// The options of mount -t overlay.
#include "guestkernel/fs/mount.hpp"

#include <linux/errno.h>

#include "guestkernel/fs/layered/layered.hpp"
#include "guestkernel/fs/vfs.hpp"

namespace kernel {
namespace {

class OptionReader {
public:
    explicit OptionReader(LayeredSuperblock::Layers& out) : out_(out) {}
    Result<void> read(std::string_view options);
    Result<void> finish();

private:
    Result<void> take(std::string_view item);
    Result<void> take_lower(std::string_view value, bool list);
    Result<void> take_switch(std::string_view name, std::string_view value);
    Result<Path> find(std::string_view name);

    LayeredSuperblock::Layers& out_;
    bool appended_ = false; // lowerdir+= has been used
};

// The length up to a separator, which a backslash may hide.
usize until(std::string_view text, char separator) {
    usize end = 0;
    while (end < text.size() && text[end] != separator)
        end += text[end] == '\\' && end + 1 < text.size() ? 2 : 1;
    return end;
}

Result<Path> OptionReader::find(std::string_view name) {
    String plain;
    for (usize i = 0; i < name.size(); i++) {
        if (name[i] == '\\' && i + 1 < name.size())
            i++;
        TRY(plain.push_back(name[i]));
    }
    if (plain.empty())
        return fail(EINVAL);
    return lookup_path(at_fdcwd, plain.view(), lookup_follow | lookup_directory);
}

Result<void> OptionReader::read(std::string_view options) {
    while (!options.empty()) {
        const usize end = until(options, ',');
        const std::string_view item = options.substr(0, end);
        if (!item.empty())
            TRY(take(item));
        options = end < options.size() ? options.substr(end + 1) : std::string_view();
    }
    return {};
}

Result<void> OptionReader::take_lower(std::string_view value, bool list) {
    // One way or the other.
    if (list ? appended_ : (!appended_ && !out_.lower.empty()))
        return fail(EINVAL);
    appended_ = !list;
    if (list)
        out_.lower.clear();
    do {
        const usize end = list ? until(value, ':') : value.size();
        TRY(Path layer, find(value.substr(0, end)));
        TRY(out_.lower.push_back(std::move(layer)));
        value = end < value.size() ? value.substr(end + 1) : std::string_view();
    } while (!value.empty());
    return {};
}

// What Linux can do besides and makes no difference to what is seen: directories that layers below
// have a part in are not renamed (redirect_dir), contents are always copied (metacopy), there is no
// index of hard links.
Result<void> OptionReader::take_switch(std::string_view name, std::string_view value) {
    struct Switch {
        std::string_view name;
        std::string_view values;
    };
    static constexpr Switch known[] = {
        {"redirect_dir", "|off|nofollow|follow|"},
        {"index", "|off|"},
        {"metacopy", "|on|off|"},
        {"nfs_export", "|off|"},
        {"xino", "|on|off|auto|"},
        {"uuid", "|null|off|on|auto|"},
        {"verity", "|off|on|"},
    };
    for (const Switch& each : known) {
        if (each.name != name)
            continue;
        const usize at = each.values.find(value);
        if (value.empty() || at == std::string_view::npos || each.values[at - 1] != '|' ||
            each.values[at + value.size()] != '|')
            return fail(EINVAL);
        return {};
    }
    return fail(EINVAL);
}

Result<void> OptionReader::take(std::string_view item) {
    const usize equals = until(item, '=');
    const std::string_view name = item.substr(0, equals);
    const std::string_view value =
        equals < item.size() ? item.substr(equals + 1) : std::string_view();
    // Permissions are always the overlay's own.
    if (item == "default_permissions")
        return {};
    if (name == "lowerdir") {
        TRY(take_lower(value, true));
    } else if (name == "lowerdir+") {
        TRY(take_lower(value, false));
    } else if (name == "upperdir") {
        TRY(out_.upper, find(value));
    } else if (name == "workdir") {
        TRY(out_.work, find(value));
    } else if (item == "userxattr") {
        out_.user_xattrs = true;
    } else if (item != "volatile") { // nothing is synced when it is unmounted, so nothing changes
        TRY(take_switch(name, value));
    }
    TRY(out_.options.push_back(','));
    return out_.options.append(item);
}

Result<void> OptionReader::finish() {
    if (!out_.upper) {
        out_.work = Path(); // of no use then
        return {};
    }
    return out_.work ? Result<void>() : Result<void>(fail(EINVAL));
}

} // namespace

Result<Ref<Superblock>> mount_overlay(std::string_view options) {
    LayeredSuperblock::Layers layers;
    OptionReader reader(layers);
    TRY(reader.read(options));
    TRY(reader.finish());
    TRY(auto fs, LayeredSuperblock::create(std::move(layers)));
    return Ref<Superblock>(std::move(fs));
}

} // namespace kernel
