#include "tools/containerd-shim-joey-v2/commands.hpp"

namespace shim {

namespace {

// A field of protobuf's that has a length (wire type 2). Requires: fewer than 128 bytes.
std::string field(unsigned number, const std::string& value) {
    std::string out;
    out += static_cast<char>(number << 3 | 2);
    out += static_cast<char>(value.size());
    return out + value;
}

} // namespace

// RuntimeInfo {name = 1, version = 2 {version = 1}}: containerd 1.6, whose messages this is built
// with, does not have it yet.
std::string runtime_info() {
    return field(1, "io.containerd.joey.v2") + field(2, field(1, JOEY_VERSION));
}

} // namespace shim
