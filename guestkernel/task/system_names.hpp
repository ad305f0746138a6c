// What uname(2) says.
#pragma once

#include <string_view>

#include "guestkernel/core/types.hpp"

namespace kernel {

// struct new_utsname.
struct SystemNames {
    char system[65], node[65], release[65], version[65], machine[65], domain[65];
};

SystemNames system_names();
void set_host_name(std::string_view name);
void set_domain_name(std::string_view name);

} // namespace kernel
