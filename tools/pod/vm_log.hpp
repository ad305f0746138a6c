// What a pod's VM says, kept as lines of JSON in a file that does not grow without bound: what runs
// in the pod decides how much it is. A line is {"time", "level", "source", "message"}; its source
// is
//
//   vmm      joey's own messages            (--log-fd)
//   kernel   the guest's kernel, through it (--log-fd)
//   agent    the guest's console, where nobody but the agent writes: stdout and stderr of the VM's
//            process
//
// The two ways in are apart, so that no guest can speak for the VMM.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace pod {

// One line, with its newline. The time is now, in UTC. Bytes that are no UTF-8 are replaced.
std::string log_line(std::string_view level, std::string_view source, std::string_view message);

class VmLog {
public:
    static constexpr off_t largest = 1 << 20;
    static constexpr std::size_t longest_line = 8192; // of the console; more becomes several

    static constexpr std::size_t longest_message = std::size_t{256} << 10; // of the VMM's
    // DIRECTORY/log; once it is full it is DIRECTORY/log.1, in place of an older one.
    static os::Result<VmLog> open(const std::string& directory);
    // Until the other sides of both pipes are closed. What cannot be written is dropped: the VM
    // does not wait for its log.
    void keep(int console, int messages);

private:
    // One of the ways in.
    struct Source {
        int fd;
        bool is_console;
        std::string rest; // of a line that has not ended
    };
    explicit VmLog(os::UniqueFd directory) : directory_(std::move(directory)) {}
    bool begin();
    void write(std::string_view lines);
    bool take(Source& source);

    os::UniqueFd directory_;
    os::UniqueFd file_;
    off_t size_ = 0;
};

struct VmLogLine {
    std::string time;
    std::string level;
    std::string source;
    std::string message;
};
// Lines in what was kept; what is no such line is left out.
void read_vm_log(std::string_view text, const std::function<void(const VmLogLine&)>& each);

} // namespace pod
