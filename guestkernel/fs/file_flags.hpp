// The flags of files (FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR: chattr(1)) of file systems that keep
// them.
#pragma once

#include "guestkernel/fs/file.hpp"

namespace kernel {

// ioctl(2) with one of the commands for flags. ENOTTY: the file has none.
Result<long> file_flags_ioctl(File& file, u32 command, u64 argument);

} // namespace kernel
