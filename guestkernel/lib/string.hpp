// An owned, NUL-terminated string.
#pragma once

#include <string_view>

#include "guestkernel/lib/vector.hpp"

namespace kernel {

class String {
public:
    String() = default;
    static Result<String> from(std::string_view text) {
        String out;
        TRY(out.append(text));
        return out;
    }
    Result<String> clone() const { return from(view()); }
    // Never of a null pointer: it may be copied from.
    std::string_view view() const { return {c_str(), size()}; }
    const char* c_str() const { return data_.empty() ? "" : data_.data(); }
    usize size() const { return data_.empty() ? 0 : data_.size() - 1; }
    bool empty() const { return size() == 0; }
    Result<void> append(std::string_view text) {
        TRY(data_.reserve(size() + text.size() + 1));
        if (!data_.empty())
            data_.pop_back();
        TRY(data_.append(std::span<const char>(text.data(), text.size())));
        return data_.push_back('\0');
    }
    Result<void> push_back(char c) { return append(std::string_view(&c, 1)); }
    void clear() { data_.clear(); }
    friend bool operator==(const String& a, std::string_view b) { return a.view() == b; }

private:
    Vector<char> data_; // with the terminator, or empty
};

} // namespace kernel
