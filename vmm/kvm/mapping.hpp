// Mapping: the owner of a memory mapping of this process.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "vmm/error.hpp"

namespace vmm {

class Mapping {
public:
    // mmap(2) with no address wished for; `action` names it in errors.
    static Result<Mapping> create(std::size_t size, int protection, int flags, int fd,
                                  const char* action);

    Mapping() = default;
    Mapping(Mapping&& other) noexcept
        : base_(std::exchange(other.base_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    Mapping& operator=(Mapping&& other) noexcept {
        if (this != &other) {
            reset();
            base_ = std::exchange(other.base_, nullptr);
            size_ = std::exchange(other.size_, 0);
        }
        return *this;
    }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping() { reset(); }

    std::byte* data() const { return base_; }
    std::size_t size() const { return size_; }
    std::span<std::byte> bytes() const { return {base_, size_}; }
    void reset();

private:
    Mapping(std::byte* base, std::size_t size) : base_(base), size_(size) {}

    std::byte* base_ = nullptr;
    std::size_t size_ = 0;
};

} // namespace vmm
