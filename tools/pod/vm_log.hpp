// What a pod's VM says (the VMM's messages, the guest's console), kept in a file that does not grow
// without bound: what runs in the pod decides how much it is.
#pragma once

#include <string>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace pod {

class VmLog {
public:
    static constexpr off_t largest = 1 << 20;

    // DIRECTORY/log; once it is full it is DIRECTORY/log.1, in place of an older one.
    static os::Result<VmLog> open(const std::string& directory);
    // Until the other side of the pipe is closed. What cannot be written is dropped: the VM does
    // not wait for its log.
    void keep(int pipe);

private:
    explicit VmLog(os::UniqueFd directory) : directory_(std::move(directory)) {}
    bool begin();
    void write(const char* data, std::size_t size);

    os::UniqueFd directory_;
    os::UniqueFd file_;
    off_t size_ = 0;
};

} // namespace pod
