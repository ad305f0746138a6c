// Users and groups of an image, by its own /etc/passwd and /etc/group, with runc's rules: what a
// container engine finds for "User" of a configuration.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "agent/os/error.hpp"

namespace image {

struct Account {
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::vector<std::uint32_t> groups; // supplementary
    std::string home = "/";
};

// `user`: empty (root), "name", "uid", each perhaps with ":group" or ":gid". Numbers need no entry;
// names do. A user without a group is in the groups that /etc/group lists it in. Lines that make no
// sense are skipped.
os::Result<Account> find_account(std::string_view user, std::string_view passwd,
                                 std::string_view group);

// The same, with the files of the root directory `root`, which may be missing.
os::Result<Account> find_account_in(std::string_view user, int root);

} // namespace image
