// Linux AIO: io_setup(2) and its kind. A context is a ring of events in the program's memory, which
// it may read without a call, named by its address.
//
// Reading, writing and syncing happen in io_submit(2) itself, as on Linux for everything but direct
// I/O; only IOCB_CMD_POLL goes on after it.
#pragma once

#include "guestkernel/core/ref.hpp"
#include "guestkernel/mm/address_space.hpp"

namespace kernel {

class AioContext;

// The contexts of an address space; they end with it.
class AioTable : public RefCounted {
public:
    ~AioTable() override;
    Result<void> add(Ref<AioContext> context);
    Ref<AioContext> find(u64 id);   // null: none
    Ref<AioContext> remove(u64 id); // the same, and it is no longer there
    void clear();

private:
    Mutex mutex_;
    AioContext* first_ = nullptr; // each holds a reference
};

u64 aio_event_total(); // /proc/sys/fs/aio-nr
inline constexpr u64 aio_event_limit = 65536;

} // namespace kernel
