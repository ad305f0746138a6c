// The io controller: bytes and requests by device, counted and limited where file systems that
// fetch their data from a device do so. A device is known by its st_dev.
#pragma once

#include "guestkernel/cgroup/cgroup.hpp"

namespace kernel {

struct IoGroup;

Result<IoGroup*> make_io_group();
void free_io_group(IoGroup* group);
void reset_io_group(IoGroup& group); // forgets limits, keeps counts

// The running task is about to move data: counts it, and sleeps while a group of it has moved more
// than io.max allows. No spin lock held.
void charge_io(u64 device, bool write, u64 bytes);

} // namespace kernel
