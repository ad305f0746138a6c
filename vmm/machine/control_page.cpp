#include "vmm/machine/control_page.hpp"

#include <array>
#include <cstddef>
#include <cstring>

namespace vmm {
namespace {

using boot::Control;

base::Failure<Violation> violation(const char* what) {
    return base::Failure(Violation{what});
}

template <typename T>
bool take(std::span<const std::byte> data, T& value) {
    if (data.size() != sizeof(T))
        return false;
    std::memcpy(&value, data.data(), sizeof(T));
    return true;
}

base::Result<void, Violation> write_log(const virtio::GuestMemory& memory, std::uint64_t address,
                                        ControlSink& sink) {
    struct Head {
        std::uint32_t level;
        std::uint32_t length;
    };
    static_assert(sizeof(Head) == offsetof(boot::LogRecord, text));
    const virtio::GuestAddr at(address);
    const auto head = memory.read_object<Head>(at);
    if (!head)
        return violation("a log record outside of guest memory");
    if (head->length > boot::max_log_length)
        return violation("a log record that is too long");
    if (head->level > static_cast<std::uint32_t>(boot::LogLevel::Strace))
        return violation("a log record of an unknown level");
    std::array<char, boot::max_log_length> copy;
    const std::span<char> bytes(copy.data(), head->length);
    // An empty text may end where memory does.
    if (!bytes.empty()) {
        const auto text = memory.slice(at + sizeof(Head), head->length, virtio::Access::Read);
        if (!text)
            return violation("a log record that ends outside of guest memory");
        text->copy_to(0, std::as_writable_bytes(bytes));
    }
    sink.on_log(static_cast<boot::LogLevel>(head->level), {bytes.data(), bytes.size()});
    return {};
}

base::Result<void, Violation> write_panic(const virtio::GuestMemory& memory, std::uint64_t address,
                                          ControlSink& sink) {
    auto record = memory.read_object<boot::PanicRecord>(virtio::GuestAddr(address));
    if (!record)
        return violation("a panic record outside of guest memory");
    if (record->message_length > sizeof(record->message))
        record->message_length = sizeof(record->message);
    sink.on_panic(*record);
    return {};
}

} // namespace

base::Result<void, Violation> write_control(const virtio::GuestMemory& memory, std::uint64_t offset,
                                            std::span<const std::byte> data, ControlSink& sink) {
    std::uint32_t word = 0;
    std::uint64_t address = 0;
    const auto what = static_cast<Control>(offset);
    switch (what) {
    case Control::log:
    case Control::panic:
        if (!take(data, address))
            return violation("a write to the control page that is not 8 bytes");
        return what == Control::log ? write_log(memory, address, sink)
                                    : write_panic(memory, address, sink);
    case Control::exit:
    case Control::mark:
    case Control::start_cpu:
    case Control::exec_failed:
        break;
    default:
        return violation("a write to an unknown register of the control page");
    }
    if (!take(data, word))
        return violation("a write to the control page that is not 4 bytes");
    if (what == Control::exit)
        sink.on_exit(word);
    else if (what == Control::mark)
        sink.on_mark(static_cast<boot::Mark>(word));
    else if (what == Control::exec_failed)
        sink.on_exec_failed(word);
    else
        return sink.on_start_cpu(word);
    return {};
}

std::string_view name_of(boot::Mark mark) {
    switch (mark) {
    case boot::Mark::kernel_entered:
        return "kernel entered";
    case boot::Mark::memory_ready:
        return "memory ready";
    case boot::Mark::devices_ready:
        return "devices ready";
    case boot::Mark::root_mounted:
        return "root mounted";
    case boot::Mark::exec_started:
        return "exec started";
    case boot::Mark::first_user_instruction:
        return "first user instruction";
    case boot::Mark::program_exited:
        return "program exited";
    }
    return "unknown mark";
}

} // namespace vmm
