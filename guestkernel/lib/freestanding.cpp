// What the compiler and libfdt expect of a C library. Freestanding builds only.
#include "guestkernel/core/panic.hpp"
#include "guestkernel/core/types.hpp"

using kernel::u8;
using kernel::usize;

extern "C" {

void* memcpy(void* __restrict to, const void* __restrict from, usize bytes) {
    void* start = to;
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
    return start;
}

void* memmove(void* to, const void* from, usize bytes) {
    auto* target = static_cast<u8*>(to);
    const auto* source = static_cast<const u8*>(from);
    if (target <= source || target >= source + bytes)
        return memcpy(to, from, bytes);
    while (bytes-- > 0) {
        target[bytes] = source[bytes];
        asm volatile("" : : : "memory"); // or the loop becomes a call of memmove
    }
    return to;
}

void* memset(void* to, int value, usize bytes) {
    void* start = to;
    asm volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(value) : "memory");
    return start;
}

int memcmp(const void* a, const void* b, usize bytes) {
    const auto* x = static_cast<const u8*>(a);
    const auto* y = static_cast<const u8*>(b);
    for (usize i = 0; i < bytes; i++)
        if (x[i] != y[i])
            return x[i] - y[i];
    return 0;
}

void* memchr(const void* text, int value, usize bytes) {
    const auto* at = static_cast<const u8*>(text);
    for (usize i = 0; i < bytes; i++)
        if (at[i] == static_cast<u8>(value))
            return const_cast<u8*>(at + i);
    return nullptr;
}

usize strlen(const char* text) {
    usize length = 0;
    while (text[length] != '\0') {
        length++;
        asm volatile("" : : : "memory");
    }
    return length;
}

usize strnlen(const char* text, usize limit) {
    usize length = 0;
    while (length < limit && text[length] != '\0')
        length++;
    return length;
}

char* strchr(const char* text, int c) {
    for (;; text++) {
        if (*text == static_cast<char>(c))
            return const_cast<char*>(text);
        if (*text == '\0')
            return nullptr;
    }
}

char* strrchr(const char* text, int c) {
    const char* found = nullptr;
    for (;; text++) {
        if (*text == static_cast<char>(c))
            found = text;
        if (*text == '\0')
            return const_cast<char*>(found);
    }
}

// libfdt calls it for paths with an address range, which ours do not have.
unsigned long strtoul(const char* text, char** end, int base) {
    unsigned long value = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        value = value * static_cast<unsigned long>(base == 0 ? 10 : base) +
                static_cast<unsigned long>(*text - '0');
    if (end != nullptr)
        *end = const_cast<char*>(text);
    return value;
}

[[noreturn]] void __stack_chk_fail() {
    PANIC("stack smashed");
}
[[noreturn]] void __cxa_pure_virtual() {
    PANIC("pure virtual call");
}
void* __dso_handle = nullptr;
int __cxa_atexit(void (*)(void*), void*, void*) {
    return 0;
}
}

// string_view::substr() past the end: our own mistake.
namespace std {
[[noreturn]] void __throw_out_of_range_fmt(const char*, ...);
void __throw_out_of_range_fmt(const char*, ...) {
    PANIC("string_view: position out of range");
}
} // namespace std
