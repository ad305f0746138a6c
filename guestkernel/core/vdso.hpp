// The vDSO: clock_gettime, gettimeofday, time and getcpu in user mode, from the TSC.
#pragma once

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"
#include "guestkernel/fs/file.hpp"

namespace kernel {

// Built once at boot, after the file systems can make shared memory files. execve maps `file`
// privately, readable and executable, `size` bytes from offset 0, named "[vdso]"; AT_SYSINFO_EHDR =
// mapping start + `elf_offset` (the data page comes first).
struct VdsoImage {
    Ref<File> file;
    u64 size = 0;
    u64 elf_offset = 0;
    u64 sigreturn_offset = 0; // unused by glibc (it brings its restorer); 0 if absent
};
Result<void> init_vdso();
const VdsoImage& vdso_image();
// After the wall clock was set.
void update_vdso_clock();

} // namespace kernel
