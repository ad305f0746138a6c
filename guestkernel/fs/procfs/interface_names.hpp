// Directories that have an entry per network interface, by its name: /proc/sys/net/*/conf and
// /sys/class/net. The interface's index stands where descriptors have their number.
#pragma once

#include "guestkernel/fs/procfs/table_fs.hpp"
#include "guestkernel/net/stack.hpp"

namespace kernel {

// `Of` says whose interfaces.
template <net::Stack& (*Of)(const TableContext&)>
struct InterfaceNames {
    static i32 next(const TableContext& of, i32 after) {
        const Ref<net::Interface> found =
            Of(of).next_interface(after < 0 ? 0 : static_cast<u32>(after));
        return found ? static_cast<i32>(found->index()) : -1;
    }
    static bool exists(const TableContext& child) {
        return static_cast<bool>(Of(child).interface(static_cast<u32>(child.fd)));
    }
    static TableContext child(TableContext of, i32 number) {
        of.fd = number;
        return of;
    }
    static usize name(const TableContext& child, std::span<char> out) {
        const Ref<net::Interface> found = Of(child).interface(static_cast<u32>(child.fd));
        if (!found)
            return 0;
        SpinGuard guard(Of(child).lock); // against a rename
        const std::string_view called = found->name();
        const usize length = called.size() < out.size() ? called.size() : out.size();
        __builtin_memcpy(out.data(), called.data(), length);
        return length;
    }
    static i32 find(const TableContext& of, std::string_view wanted) {
        const Ref<net::Interface> found = Of(of).interface(wanted);
        return found ? static_cast<i32>(found->index()) : -1;
    }
    static constexpr TableNumbers numbers(const TableEntry* entry) {
        return {"", next, exists, child, entry, name, find};
    }
};

} // namespace kernel
