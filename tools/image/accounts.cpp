#include "tools/image/accounts.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "tools/image/beneath.hpp"

namespace image {
namespace {

constexpr std::size_t longest_file = 8 << 20;
constexpr std::uint32_t highest_id = 0x7fffffff; // runc's bound
constexpr std::size_t most_groups = 65536;       // NGROUPS_MAX

std::optional<std::uint32_t> parse_id(std::string_view text) {
    std::uint32_t id = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
    if (text.empty() || error != std::errc() || end != text.data() + text.size() || id > highest_id)
        return std::nullopt;
    return id;
}

bool is_number(std::string_view text) {
    return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// Calls `take` with the fields of each line; those that are missing are empty. `take` returns
// whether it wants more.
template <std::size_t Fields, typename Take>
void for_each_line(std::string_view text, Take take) {
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (line.empty() || line.front() == '#')
            continue;
        std::array<std::string_view, Fields> fields;
        for (std::string_view& field : fields) {
            const std::size_t colon = std::min(line.find(':'), line.size());
            field = line.substr(0, colon);
            line.remove_prefix(std::min(colon + 1, line.size()));
        }
        if (!take(fields))
            return;
    }
}

struct Found {
    std::string name;
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::string home;
};

// Numbers are looked up as numbers, even if a user has such a name.
std::optional<Found> find_user(std::string_view passwd, std::string_view wanted,
                               std::optional<std::uint32_t> wanted_uid) {
    std::optional<Found> found;
    for_each_line<7>(passwd, [&](const auto& fields) {
        const auto uid = parse_id(fields[2]);
        const auto gid = parse_id(fields[3]);
        if (!uid || !gid || fields[0].empty())
            return true;
        if (wanted_uid ? *uid != *wanted_uid : fields[0] != wanted)
            return true;
        found = Found{std::string(fields[0]), *uid, *gid, std::string(fields[5])};
        return false;
    });
    return found;
}

os::Result<std::uint32_t> find_group(std::string_view group, std::string_view wanted) {
    if (is_number(wanted)) {
        if (const auto gid = parse_id(wanted))
            return *gid;
        return os::fail(os::Code::InvalidArgument, "group ", wanted.substr(0, 40),
                        ": group numbers end at ", highest_id);
    }
    std::optional<std::uint32_t> found;
    for_each_line<4>(group, [&](const auto& fields) {
        if (fields[0] == wanted)
            found = parse_id(fields[2]);
        return !found;
    });
    if (!found)
        return os::fail(os::Code::NotFound, "the image has no group '", wanted.substr(0, 80),
                        "'; give a number, or one of its /etc/group");
    return *found;
}

bool lists(std::string_view members, std::string_view name) {
    while (!members.empty()) {
        const std::size_t comma = std::min(members.find(','), members.size());
        if (members.substr(0, comma) == name)
            return true;
        members.remove_prefix(std::min(comma + 1, members.size()));
    }
    return false;
}

std::vector<std::uint32_t> groups_of(std::string_view group, std::string_view name) {
    std::vector<std::uint32_t> out;
    for_each_line<4>(group, [&](const auto& fields) {
        const auto gid = parse_id(fields[2]);
        if (gid && lists(fields[3], name))
            out.push_back(*gid);
        return out.size() < most_groups;
    });
    return out;
}

} // namespace

os::Result<Account> find_account(std::string_view user, std::string_view passwd,
                                 std::string_view group) {
    const std::size_t colon = user.find(':');
    const std::string_view user_part = user.substr(0, colon);
    const std::string_view group_part =
        colon == std::string_view::npos ? std::string_view() : user.substr(colon + 1);
    Account account;
    std::optional<std::uint32_t> wanted_uid;
    if (user_part.empty()) {
        wanted_uid = 0;
    } else if (is_number(user_part)) {
        wanted_uid = parse_id(user_part);
        if (!wanted_uid)
            return os::fail(os::Code::InvalidArgument, "user ", user_part.substr(0, 40),
                            ": user numbers end at ", highest_id);
    }
    const std::optional<Found> found = find_user(passwd, user_part, wanted_uid);
    if (!found && !wanted_uid)
        return os::fail(os::Code::NotFound, "the image has no user '", user_part.substr(0, 80),
                        "'; give a number, or one of its /etc/passwd");
    if (found) {
        account.uid = found->uid;
        account.gid = found->gid;
        if (!found->home.empty())
            account.home = found->home;
    } else {
        account.uid = *wanted_uid;
    }
    if (!group_part.empty()) {
        TRY(account.gid, find_group(group, group_part));
    } else if (found) {
        account.groups = groups_of(group, found->name);
    }
    return account;
}

os::Result<Account> find_account_in(std::string_view user, int root) {
    TRY(const std::optional<std::string> passwd, read_in_root(root, "etc/passwd", longest_file));
    TRY(const std::optional<std::string> group, read_in_root(root, "etc/group", longest_file));
    return find_account(user, passwd.value_or(""), group.value_or(""));
}

} // namespace image
