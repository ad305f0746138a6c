// Metrics in Prometheus's text format, version 0.0.4: written, and read again where several VMs'
// become one page.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace joey {

enum class MetricKind : std::uint8_t { Counter, Gauge };

class Exposition {
public:
    using Labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;

    // What the samples after it belong to. A name that was there before goes on.
    void family(std::string_view name, MetricKind kind, std::string_view help);
    // Requires: family() was called.
    void sample(Labels labels, std::uint64_t value);
    void sample(Labels labels, double value);
    // Both, for a family of one sample.
    template <typename Value>
    void only(std::string_view name, MetricKind kind, std::string_view help, Value value) {
        family(name, kind, help);
        sample({}, value);
    }

    // Adds what somebody else wrote, each sample with one more label. What is not in the format, or
    // more than a bound, is left out: the writer need not be trusted.
    void add(std::string_view text, std::string_view label, std::string_view value);

    std::string text() const;

private:
    struct Family {
        std::string name;
        std::string kind;
        std::string help;
        std::string samples; // lines
    };
    Family& named(std::string_view name);
    void add_sample(std::string_view line, const std::string& label);

    std::vector<Family> families_; // in the order of their first mention
    std::map<std::string, std::size_t, std::less<>> places_;
    std::size_t current_ = 0;
    std::size_t added_ = 0; // bytes of others
};

} // namespace joey
