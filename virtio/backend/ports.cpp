#include "virtio/backend/ports.hpp"

#include <algorithm>

namespace virtio {

FdPort::FdPort(std::unique_ptr<FdStream> input, std::unique_ptr<FdStream> output)
    : input_(std::move(input)), output_(std::move(output)) {}

void FdPort::attach(PortEvents& events) {
    if (input_ != nullptr)
        input_->on_ready([&events] { events.input_ready(); });
    if (output_ != nullptr)
        output_->on_ready([&events] { events.output_ready(); });
}

Transfer FdPort::read(std::span<const struct iovec> into) {
    Transfer transfer{Transfer::Outcome::Ended, 0};
    if (!input_ended_ && input_ != nullptr)
        transfer = input_->read(into);
    if (transfer.outcome == Transfer::Outcome::Blocked)
        input_->watch();
    if (transfer.outcome == Transfer::Outcome::Ended && !input_ended_) {
        input_ended_ = true;
        if (end_of_input_)
            end_of_input_();
    }
    return transfer;
}

Transfer FdPort::write(std::span<const struct iovec> from) {
    if (output_ == nullptr) {
        std::size_t bytes = 0;
        for (const struct iovec& piece : from)
            bytes += piece.iov_len;
        return {Transfer::Outcome::Done, bytes};
    }
    Transfer transfer{Transfer::Outcome::Ended, 0};
    if (!output_ended_)
        transfer = output_->write(from);
    if (transfer.outcome == Transfer::Outcome::Blocked)
        output_->watch();
    if (transfer.outcome == Transfer::Outcome::Ended && !output_ended_) {
        output_ended_ = true;
        if (output_closed_)
            output_closed_(output_->end_reason());
    }
    return transfer;
}

bool MessagePort::send(std::span<const std::byte> record) {
    if (record.size() > max_pending - pending_.size())
        return false;
    pending_.insert(pending_.end(), record.begin(), record.end());
    if (events_ != nullptr)
        events_->input_ready();
    return true;
}

Transfer MessagePort::read(std::span<const struct iovec> into) {
    std::size_t bytes = 0;
    for (const struct iovec& piece : into) {
        const std::size_t here = std::min(piece.iov_len, pending_.size());
        const auto end = pending_.begin() + static_cast<std::ptrdiff_t>(here);
        std::copy(pending_.begin(), end, static_cast<std::byte*>(piece.iov_base));
        pending_.erase(pending_.begin(), end);
        bytes += here;
    }
    if (bytes == 0)
        return {}; // send() will say so
    return {Transfer::Outcome::Done, bytes};
}

Transfer MessagePort::write(std::span<const struct iovec> from) {
    std::size_t bytes = 0;
    for (const struct iovec& piece : from) {
        if (output_)
            output_({static_cast<const std::byte*>(piece.iov_base), piece.iov_len});
        bytes += piece.iov_len;
    }
    return {Transfer::Outcome::Done, bytes};
}

} // namespace virtio
