// A growing array that reports exhaustion instead of throwing.
#pragma once

#include <new>
#include <span>
#include <utility>

#include "guestkernel/core/panic.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

template <typename T>
class Vector {
public:
    Vector() = default;
    Vector(const Vector&) = delete;
    Vector& operator=(const Vector&) = delete;
    Vector(Vector&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)),
          capacity_(std::exchange(other.capacity_, 0)) {}
    Vector& operator=(Vector&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(capacity_, other.capacity_);
        return *this;
    }
    ~Vector() {
        clear();
        ::operator delete(static_cast<void*>(data_));
    }

    usize size() const { return size_; }
    bool empty() const { return size_ == 0; }
    T* data() { return data_; }
    const T* data() const { return data_; }
    T& operator[](usize i) {
        ASSERT(i < size_);
        return data_[i];
    }
    const T& operator[](usize i) const {
        ASSERT(i < size_);
        return data_[i];
    }
    T& back() { return (*this)[size_ - 1]; }
    T* begin() { return data_; }
    T* end() { return data_ + size_; }
    const T* begin() const { return data_; }
    const T* end() const { return data_ + size_; }
    std::span<T> span() { return {data_, size_}; }
    std::span<const T> span() const { return {data_, size_}; }

    Result<void> reserve(usize capacity) {
        if (capacity <= capacity_)
            return {};
        const usize wanted = capacity < 2 * capacity_ ? 2 * capacity_ : capacity;
        T* fresh = static_cast<T*>(::operator new(wanted * sizeof(T), std::nothrow));
        if (fresh == nullptr)
            return fail(enomem);
        for (usize i = 0; i < size_; i++) {
            ::new (static_cast<void*>(fresh + i)) T(std::move(data_[i]));
            data_[i].~T();
        }
        ::operator delete(static_cast<void*>(data_));
        data_ = fresh;
        capacity_ = wanted;
        return {};
    }
    template <typename... A>
    Result<void> emplace_back(A&&... arguments) {
        if (size_ == capacity_)
            TRY(reserve(size_ == 0 ? 4 : 2 * size_));
        ::new (static_cast<void*>(data_ + size_)) T(std::forward<A>(arguments)...);
        size_++;
        return {};
    }
    Result<void> push_back(T value) { return emplace_back(std::move(value)); }
    Result<void> resize(usize size) {
        TRY(reserve(size));
        while (size_ > size)
            data_[--size_].~T();
        while (size_ < size)
            ::new (static_cast<void*>(data_ + size_++)) T();
        return {};
    }
    Result<void> append(std::span<const T> items) {
        TRY(reserve(size_ + items.size()));
        for (const T& item : items)
            ::new (static_cast<void*>(data_ + size_++)) T(item);
        return {};
    }
    void pop_back() {
        ASSERT(size_ > 0);
        data_[--size_].~T();
    }
    void erase(usize index) {
        ASSERT(index < size_);
        for (usize i = index; i + 1 < size_; i++)
            data_[i] = std::move(data_[i + 1]);
        pop_back();
    }
    Result<void> insert(usize index, T value) {
        ASSERT(index <= size_);
        TRY(push_back(std::move(value)));
        for (usize i = size_ - 1; i > index; i--)
            std::swap(data_[i], data_[i - 1]);
        return {};
    }
    void clear() {
        while (size_ > 0)
            data_[--size_].~T();
    }

private:
    T* data_ = nullptr;
    usize size_ = 0;
    usize capacity_ = 0;
};

} // namespace kernel
