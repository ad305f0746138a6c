// Files of the root that depend on this machine rather than on the root: /etc/resolv.conf and
// /etc/hosts, as the boot parameters have them.
#pragma once

namespace kernel {

// After the root was mounted. What cannot be made is told of in the log.
void make_boot_files();

} // namespace kernel
