// Memory that the kernel shares with a program: the rings of io_uring(7) and of io_setup(2). The
// frames stay where they are while the object lives; programs map its file.
//
// What is in them is hostile: read a value once into a local, check the local, use the local.
#pragma once

#include "guestkernel/fs/file.hpp"
#include "guestkernel/lib/vector.hpp"
#include "guestkernel/mm/frame.hpp"

namespace kernel {

class SharedPages : public RefCounted {
public:
    // Zeros.
    static Result<Ref<SharedPages>> make(std::string_view name, u64 bytes);

    u64 bytes() const { return frames_.size() << page_shift; }
    const Ref<File>& file() const { return file_; }
    // Requires: the object of T lies in one page.
    template <typename T>
    T* at(u64 offset) {
        return static_cast<T*>(address(offset, sizeof(T)));
    }

private:
    template <typename T, typename... A>
    friend Result<Ref<T>> make_ref(A&&...);
    SharedPages() = default;
    void* address(u64 offset, u64 size);

    Ref<File> file_;
    Vector<FrameRef> frames_;
};

// A word of shared memory: one load or store, ordered as the rings' protocols want it.
inline u32 load_shared(const u32* word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}
inline void store_shared(u32* word, u32 value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

} // namespace kernel
