// Owners of file descriptors and memory mappings.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

namespace vmm {

class UniqueFd {
public:
    UniqueFd() = default;
    explicit UniqueFd(int fd) : fd_(fd) {}
    UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    UniqueFd& operator=(UniqueFd&& other) noexcept {
        if (this != &other) {
            reset();
            fd_ = std::exchange(other.fd_, -1);
        }
        return *this;
    }
    ~UniqueFd() { reset(); }

    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }
    void reset();

private:
    int fd_ = -1;
};

class Mapping {
public:
    Mapping() = default;
    // Takes over what mmap() returned.
    Mapping(void* base, std::size_t size) : base_(static_cast<std::byte*>(base)), size_(size) {}
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
    ~Mapping() { reset(); }

    std::byte* data() const { return base_; }
    std::size_t size() const { return size_; }
    std::span<std::byte> bytes() const { return {base_, size_}; }
    void reset();

private:
    std::byte* base_ = nullptr;
    std::size_t size_ = 0;
};

} // namespace vmm
