#include "vmm/kvm/statistics.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <unistd.h>

#include <linux/kvm.h>
#include <sys/ioctl.h>

namespace vmm::kvm {
namespace {

// struct kvm_stats_desc without its name, whose length the header says; in C++ the flexible array
// of Linux's own has a size (flexible.hpp).
struct Descriptor {
    std::uint32_t flags;
    std::int16_t exponent;
    std::uint16_t size; // values
    std::uint32_t offset;
    std::uint32_t bucket_size;
};
static_assert(sizeof(Descriptor) == 16 &&
              offsetof(Descriptor, offset) == offsetof(kvm_stats_desc, offset));

// Far more than there are.
constexpr std::uint32_t most_fields = 1000;
constexpr std::uint32_t longest_name = 256;

Result<std::string> read_at(int fd, std::uint64_t offset, std::uint64_t size) {
    std::string out(size, '\0');
    const ssize_t got = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 || static_cast<std::uint64_t>(got) != size)
        return fail(got < 0 ? errno : EIO, "read KVM's statistics");
    return out;
}

Result<kvm_stats_header> parse_head(std::string_view text) {
    kvm_stats_header head{};
    if (text.size() != sizeof head)
        return fail(EIO, "read KVM's statistics");
    std::memcpy(&head, text.data(), sizeof head);
    if (head.num_desc > most_fields || head.name_size == 0 || head.name_size > longest_name)
        return fail(EIO, "understand KVM's statistics");
    return head;
}

std::uint64_t descriptor_bytes(const kvm_stats_header& head) {
    return std::uint64_t{head.num_desc} * (sizeof(Descriptor) + head.name_size);
}

} // namespace

Result<Statistics::Layout> Statistics::parse(std::string_view text, std::string_view descriptors) {
    TRY(const kvm_stats_header head, parse_head(text));
    if (descriptors.size() != descriptor_bytes(head))
        return fail(EIO, "understand KVM's statistics");
    Layout out;
    out.values_at = head.data_offset;
    while (!descriptors.empty()) {
        Descriptor one{};
        std::memcpy(&one, descriptors.data(), sizeof one);
        const std::string_view name = descriptors.substr(sizeof one, head.name_size);
        descriptors.remove_prefix(sizeof one + head.name_size);
        const std::uint32_t kind = one.flags & KVM_STATS_TYPE_MASK;
        if (one.size != 1 || kind > KVM_STATS_TYPE_PEAK)
            continue;
        out.fields.push_back({std::string(name.substr(0, name.find('\0'))), one.offset,
                              kind == KVM_STATS_TYPE_CUMULATIVE});
        constexpr std::uint32_t largest = 1u << 16;
        if (one.offset > largest)
            return fail(EIO, "understand KVM's statistics");
        out.values_size =
            std::max<std::uint64_t>(out.values_size, one.offset + sizeof(std::uint64_t));
    }
    return out;
}

Result<Statistics> Statistics::open(int vcpu) {
    virtio::UniqueFd fd(::ioctl(vcpu, KVM_GET_STATS_FD, nullptr));
    if (!fd)
        return fail(errno, "KVM_GET_STATS_FD");
    TRY(const std::string text, read_at(fd.get(), 0, sizeof(kvm_stats_header)));
    TRY(const kvm_stats_header head, parse_head(text));
    TRY(const std::string descriptors, read_at(fd.get(), head.desc_offset, descriptor_bytes(head)));
    TRY(Layout layout, parse(text, descriptors));
    return Statistics(std::move(fd), std::move(layout));
}

std::vector<Statistic> Statistics::read() const {
    std::vector<Statistic> out;
    const auto values = read_at(fd_.get(), layout_.values_at, layout_.values_size);
    if (!values)
        return out;
    for (const Field& field : layout_.fields) {
        std::uint64_t value = 0;
        std::memcpy(&value, values->data() + field.offset, sizeof value);
        out.push_back({field.name, value, field.cumulative});
    }
    return out;
}

} // namespace vmm::kvm
