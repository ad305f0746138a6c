#include "virtio/device/console/port.hpp"

#include <algorithm>
#include <array>
#include <limits>

namespace virtio {

namespace {
// Per call, so that one port that never runs dry does not starve the others on the loop's thread.
constexpr std::uint64_t fair_share = std::uint64_t{1} << 20;
constexpr unsigned fair_chains = 256;
constexpr std::size_t pieces_at_once = 64;
} // namespace

Checked<ConsolePort::Pumped> ConsolePort::pump_input(Queue& receive) {
    std::uint64_t moved = 0;
    unsigned chains = 0;
    // Each chain is returned as soon as it holds anything: a reader must not wait for a full
    // buffer.
    while (!input_ended_) {
        if (moved >= fair_share || chains >= fair_chains) {
            receive.interrupt_driver();
            return Pumped::Unfinished;
        }
        if (!input_) {
            TRY(input_, receive.pop());
            if (!input_)
                break;
            ++chains;
        }
        if (input_.writable_bytes() == 0) {
            receive.push_used(std::move(input_), 0);
            continue;
        }
        // One list for readv; the length that goes to the driver has 32 bits.
        std::array<struct iovec, pieces_at_once> pieces;
        const ChainCursor cursor(input_.writable());
        const Transfer transfer = backend_.read(
            cursor.peek(pieces, std::min<std::uint64_t>(input_.writable_bytes(), fair_share)));
        if (transfer.outcome == Transfer::Outcome::Blocked)
            break;
        if (transfer.outcome == Transfer::Outcome::Ended) {
            input_ended_ = true;
            break;
        }
        moved += transfer.bytes;
        receive.push_used(std::move(input_), static_cast<std::uint32_t>(transfer.bytes));
    }
    receive.interrupt_driver();
    return Pumped::Idle;
}

Checked<ConsolePort::Pumped> ConsolePort::pump_output(Queue& transmit) {
    std::uint64_t moved = 0;
    unsigned chains = 0;
    for (;;) {
        if (moved >= fair_share || chains >= fair_chains) {
            transmit.interrupt_driver();
            return Pumped::Unfinished;
        }
        if (!output_) {
            TRY(output_, transmit.pop());
            if (!output_)
                break;
            ++chains;
            output_cursor_.emplace(output_);
        }
        ChainReader& cursor = *output_cursor_;
        if (cursor.remaining() == 0 || output_closed_) {
            output_cursor_.reset();
            transmit.push_used(std::move(output_), 0);
            continue;
        }
        std::array<struct iovec, pieces_at_once> pieces;
        const Transfer transfer = backend_.write(cursor.peek(pieces, fair_share));
        if (transfer.outcome == Transfer::Outcome::Blocked)
            break;
        if (transfer.outcome == Transfer::Outcome::Ended) {
            output_closed_ = true;
            continue;
        }
        moved += transfer.bytes;
        if (!cursor.skip(transfer.bytes))
            output_closed_ = true; // a backend that claims more than it was given
    }
    transmit.interrupt_driver();
    return Pumped::Idle;
}

void ConsolePort::reset() {
    output_cursor_.reset();
    input_ = Chain();
    output_ = Chain();
}

} // namespace virtio
