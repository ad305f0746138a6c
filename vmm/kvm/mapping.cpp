#include "vmm/kvm/mapping.hpp"

#include <cerrno>

#include <sys/mman.h>

namespace vmm {

Result<Mapping> Mapping::create(std::size_t size, int protection, int flags, int fd,
                                const char* action) {
    void* base = mmap(nullptr, size, protection, flags, fd, 0);
    if (base == MAP_FAILED)
        return fail(errno, action);
    return Mapping(static_cast<std::byte*>(base), size);
}

void Mapping::reset() {
    if (base_ != nullptr)
        munmap(base_, size_);
    base_ = nullptr;
    size_ = 0;
}

} // namespace vmm
