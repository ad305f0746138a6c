// Result<T, E>: a value or the reason why there is none, with the names of std::expected. It lives
// in host code and in the freestanding kernel alike, so it needs no heap and no exceptions.
#pragma once

#include <new>
#include <type_traits>
#include <utility>

namespace base {

// Wraps an error on its way into a Result of any value type, as std::unexpected does.
template <typename E>
class Failure {
public:
    constexpr explicit Failure(E error) : error_(std::move(error)) {}
    constexpr E& error() { return error_; }
    constexpr const E& error() const { return error_; }

private:
    E error_;
};

// NOLINTBEGIN(google-explicit-constructor): conversions are the point, as in the standard library's
// types
template <typename T, typename E>
class [[nodiscard]] Result {
    static_assert(!std::is_reference_v<T>, "hold a pointer instead");

public:
    using value_type = T;
    using error_type = E;

    template <typename U = T>
    requires(std::is_constructible_v<T, U&&> &&
             !std::is_same_v<std::remove_cvref_t<U>, Result>) constexpr Result(U&& value)
        : has_value_(true) {
        ::new (static_cast<void*>(&value_)) T(std::forward<U>(value));
    }
    template <typename F>
    requires(std::is_constructible_v<E, F>) constexpr Result(Failure<F> failure)
        : has_value_(false) {
        ::new (static_cast<void*>(&error_)) E(std::move(failure.error()));
    }
    Result(const Result&) = delete;
    Result& operator=(const Result&) = delete;
    constexpr Result(Result&& other) noexcept : has_value_(other.has_value_) {
        if (has_value_)
            ::new (static_cast<void*>(&value_)) T(std::move(other.value_));
        else
            ::new (static_cast<void*>(&error_)) E(std::move(other.error_));
    }
    constexpr Result& operator=(Result&& other) noexcept {
        if (this != &other) {
            this->~Result();
            ::new (static_cast<void*>(this)) Result(std::move(other));
        }
        return *this;
    }
    constexpr ~Result() {
        if (has_value_)
            value_.~T();
        else
            error_.~E();
    }

    constexpr bool has_value() const { return has_value_; }
    constexpr explicit operator bool() const { return has_value_; }
    // Requires: has_value().
    constexpr T& value() & { return value_; }
    constexpr const T& value() const& { return value_; }
    constexpr T&& value() && { return std::move(value_); }
    constexpr T& operator*() & { return value_; }
    constexpr const T& operator*() const& { return value_; }
    constexpr T&& operator*() && { return std::move(value_); }
    constexpr T* operator->() { return &value_; }
    constexpr const T* operator->() const { return &value_; }
    template <typename U>
    constexpr T value_or(U&& fallback) && {
        return has_value_ ? std::move(value_) : static_cast<T>(std::forward<U>(fallback));
    }
    // Requires: !has_value().
    constexpr E& error() { return error_; }
    constexpr const E& error() const { return error_; }

private:
    union {
        T value_;
        E error_;
    };
    bool has_value_;
};

template <typename E>
class [[nodiscard]] Result<void, E> {
public:
    using value_type = void;
    using error_type = E;

    constexpr Result() : has_value_(true) {}
    template <typename F>
    requires(std::is_constructible_v<E, F>) constexpr Result(Failure<F> failure)
        : error_(std::move(failure.error())), has_value_(false) {}

    constexpr bool has_value() const { return has_value_; }
    constexpr explicit operator bool() const { return has_value_; }
    constexpr void value() const {}
    constexpr void operator*() const {}
    constexpr E& error() { return error_; }
    constexpr const E& error() const { return error_; }

private:
    E error_{};
    bool has_value_;
};

// NOLINTEND(google-explicit-constructor)
} // namespace base

// TRY(declaration, expression): binds the value or returns the error from the enclosing function.
// TRY(expression): the same with nothing to bind. The declaration is an argument, because a
// statement expression leaks inside braced initialisers and blinds the analyser.
#define JOEY_TRY_CONCAT2(a, b) a##b
#define JOEY_TRY_CONCAT(a, b) JOEY_TRY_CONCAT2(a, b)
#define JOEY_TRY_BIND(name, declaration, ...)                                                      \
    auto&& name = (__VA_ARGS__);                                                                   \
    if (!name)                                                                                     \
        return ::base::Failure(std::move(name.error()));                                           \
    declaration = std::move(*name)
#define JOEY_TRY_VOID(name, ...)                                                                   \
    do {                                                                                           \
        auto&& name = (__VA_ARGS__);                                                               \
        if (!name)                                                                                 \
            return ::base::Failure(std::move(name.error()));                                       \
    } while (false)
#define JOEY_TRY_PICK(_1, _2, _3, _4, _5, _6, _7, _8, NAME, ...) NAME
#define JOEY_TRY_MANY(...) JOEY_TRY_BIND(JOEY_TRY_CONCAT(try_result_, __COUNTER__), __VA_ARGS__)
#define JOEY_TRY_ONE(...) JOEY_TRY_VOID(JOEY_TRY_CONCAT(try_result_, __COUNTER__), __VA_ARGS__)
#define TRY(...)                                                                                   \
    JOEY_TRY_PICK(__VA_ARGS__, JOEY_TRY_MANY, JOEY_TRY_MANY, JOEY_TRY_MANY, JOEY_TRY_MANY,         \
                  JOEY_TRY_MANY, JOEY_TRY_MANY, JOEY_TRY_MANY, JOEY_TRY_ONE)                       \
    (__VA_ARGS__)
