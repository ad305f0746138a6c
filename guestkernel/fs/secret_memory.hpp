// memfd_secret(2): memory that only who has it mapped can get at. It is no file's to read or write,
// stays locked, and neither the kernel's copies for others (ptrace(2), process_vm_readv(2), core
// files) nor I/O by pages reach it.
#pragma once

#include "guestkernel/fs/file.hpp"

namespace kernel {

class SecretFile final : public File {
public:
    using File::File;
    static constexpr char file_type[] = "secretmem";
    const char* type_name() const override { return file_type; }
    bool is_stream() const override { return true; } // pread(2), lseek(2): ESPIPE
    Result<void> truncate(u64 size) override;
    Result<void> allocate(int mode, u64 offset, u64 length) override;
    Result<Ref<PageCache>> mapping(u32 protection, u32 map_flags) override;
};

Result<Ref<File>> make_secret_file();

} // namespace kernel
