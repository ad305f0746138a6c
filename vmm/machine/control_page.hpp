// The control page (boot/protocol/control.hpp), host side: checks what the guest wrote and says
// what it means. Nothing of KVM in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.hpp"
#include "boot/protocol/control.hpp"
#include "virtio/memory/guest_memory.hpp"

namespace vmm {

// What the guest did wrong, one clause, a string literal.
struct Violation {
    const char* what = "";
};

// Called on the thread of the vCPU that wrote.
class ControlSink {
public:
    virtual ~ControlSink() = default;
    virtual void on_log(boot::LogLevel level, std::string_view text) = 0;
    virtual void on_exit(std::uint32_t wait_status) = 0;
    virtual void on_panic(const boot::PanicRecord& record) = 0;
    virtual void on_mark(boot::Mark mark) = 0;
    virtual base::Result<void, Violation> on_start_cpu(std::uint32_t cpu) = 0;
    virtual void on_exec_failed(std::uint32_t error_number) = 0;
};

// Handles a write of `data` at `offset` of the page.
base::Result<void, Violation> write_control(const virtio::GuestMemory& memory, std::uint64_t offset,
                                            std::span<const std::byte> data, ControlSink& sink);

// The name of a mark in --timing.
std::string_view name_of(boot::Mark mark);

} // namespace vmm
