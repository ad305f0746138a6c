// What KVM itself counts for a vCPU (KVM api.rst, 4.133: KVM_GET_STATS_FD, Linux 5.14): exits by
// reason, page-table work, interrupts. The guest's way in and out pays nothing for it that KVM does
// not pay anyway.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "virtio/backend/unique_fd.hpp"
#include "vmm/error.hpp"

namespace vmm::kvm {

struct Statistic {
    std::string name;
    std::uint64_t value = 0;
    bool cumulative = false; // or what it is just now
};

class Statistics {
public:
    // Of the vCPU's descriptor. A KVM that has none: an error, which is no reason to give up.
    static Result<Statistics> open(int vcpu);

    // As they are now; nothing if KVM does not say. One system call. From any thread.
    std::vector<Statistic> read() const;

    // What stands before the values: names, and where the values are. Those that are not one number
    // (histograms) are left out.
    struct Field {
        std::string name;
        std::uint64_t offset; // among the values
        bool cumulative;
    };
    struct Layout {
        std::uint64_t values_at = 0;
        std::uint64_t values_size = 0;
        std::vector<Field> fields;
    };
    static Result<Layout> parse(std::string_view head, std::string_view descriptors);

private:
    Statistics(virtio::UniqueFd fd, Layout layout)
        : fd_(std::move(fd)), layout_(std::move(layout)) {}
    virtio::UniqueFd fd_;
    Layout layout_;
};

} // namespace vmm::kvm
