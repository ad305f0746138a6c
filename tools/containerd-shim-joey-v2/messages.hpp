// containerd's messages, under short names, and what Go makes of a message in an Any.
#pragma once

#include <string>

#include "tools/containerd-shim-joey-v2/protocol/any.pb.h"
#include "tools/containerd-shim-joey-v2/protocol/empty.pb.h"
#include "tools/containerd-shim-joey-v2/protocol/shim.pb.h"
#include "tools/containerd-shim-joey-v2/protocol/task_events.pb.h"

namespace shim {

namespace api = ::containerd::task::v2;
namespace events = ::containerd::events;
using TaskStatus = ::containerd::v1::types::Status;
using Mount = ::containerd::types::Mount;

// containerd's typeurl has the bare name where protobuf would have a host in front.
template <typename Message>
wellknown::Any any_of(const Message& message) {
    wellknown::Any out;
    out.set_type_url(message.GetTypeName());
    out.set_value(message.SerializeAsString());
    return out;
}

// Nanoseconds since 1970.
std::int64_t now();
void set_time(wellknown::Timestamp& out, std::int64_t nanoseconds);

} // namespace shim
