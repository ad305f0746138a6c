// The notes of a core file: elf(5), and what gdb reads of them.
#pragma once

#include <type_traits>

#include "guestkernel/core/result.hpp"
#include "guestkernel/lib/vector.hpp"
#include "guestkernel/task/signal.hpp"

namespace kernel {

struct MappingInfo;
class Process;

// NT_FILE: which files were mapped where.
class FileNote {
public:
    Result<void> add(const MappingInfo& mapping);
    usize size() const;
    Vector<u64> ranges; // start, end, offset in pages
    Vector<char> names;
};

// All notes, in the order of Linux: the thread that died first. Requires: the other threads are
// parked, the running one's FPU state is saved.
class CoreNotes {
public:
    CoreNotes(Process& process, const SignalInfo& info, const FileNote& files)
        : process_(process), info_(info), files_(files) {}
    usize size() const;
    template <typename Sink> // bool(const void*, usize)
    bool write(Sink&& sink) const {
        using Pure = std::remove_reference_t<Sink>;
        return write_to([](void* context, const void* data,
                           usize bytes) { return (*static_cast<Pure*>(context))(data, bytes); },
                        const_cast<std::remove_const_t<Pure>*>(&sink));
    }

private:
    using Put = bool (*)(void* context, const void* data, usize bytes);
    bool write_to(Put put, void* context) const;
    Process& process_;
    const SignalInfo& info_;
    const FileNote& files_;
};

} // namespace kernel
