// libarchive, loaded when the first archive is read or written. Together with what it needs itself
// (libxml2, ICU, ...) it would cost as many page faults at each start as the rest of joey; VMs and
// most commands touch no archive.
#pragma once

#include <archive.h>
#include <archive_entry.h>

#include "agent/os/error.hpp"

namespace image {

// Its functions, by their own names.
struct ArchiveLibrary {
#define X(name) decltype(&::name) name = nullptr;
#include "tools/image/archive_functions.def"
#undef X
};

// Loads it, if that has not been done. Fails in words where it is not installed. From any thread.
os::Result<void> load_libarchive();
// Requires: load_libarchive() has succeeded.
const ArchiveLibrary& libarchive();

} // namespace image
