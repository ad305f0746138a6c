// /sys/class/net and /sys/devices/virtual/net: the interfaces of the network namespace that sysfs
// was mounted in.
#pragma once

#include "guestkernel/fs/procfs/table_fs.hpp"

namespace kernel::sysfs {

extern const TableNumbers net_class_links, net_device_directories;

} // namespace kernel::sysfs
