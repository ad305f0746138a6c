// The TCP header on the wire (RFC 9293, 3.1) and its options. What comes from the network is
// hostile: a Header exists only after parse() has checked every length in it once.
#pragma once

#include <optional>
#include <span>

#include "guestkernel/net/tcp/sequence.hpp"

namespace kernel::tcp {

inline constexpr u8 flag_fin = 0x01, flag_syn = 0x02, flag_rst = 0x04, flag_psh = 0x08,
                    flag_ack = 0x10, flag_urg = 0x20;
inline constexpr usize least_header = 20, most_header = 60, most_options = 40;
inline constexpr usize checksum_offset = 16;               // in the header
inline constexpr unsigned most_sacks = 4;                  // that fit into the options
inline constexpr u8 largest_scale = 14;                    // RFC 7323, 2.3
inline constexpr usize least_cookie = 4, most_cookie = 16; // RFC 7413, 4.1.1

struct FastOpenCookie {
    u8 length = 0; // 0: a request for one
    u8 bytes[most_cookie] = {};
    friend bool operator==(const FastOpenCookie&, const FastOpenCookie&) = default;
};

struct Options {
    u16 mss = 0; // 0: not given
    bool has_scale = false;
    u8 scale = 0;
    bool sack_permitted = false;
    bool has_timestamp = false;
    bool has_cookie = false;
    u8 sack_count = 0;
    u32 timestamp = 0, echo = 0;
    SequenceRange sacks[most_sacks];
    FastOpenCookie cookie;
};

class Header {
public:
    // `bytes` begin at the header and hold at least all of it; `total` is the length of header and
    // data together. Nothing when any length contradicts another.
    static std::optional<Header> parse(std::span<const u8> bytes, usize total);

    u16 source_port() const { return source_port_; }
    u16 destination_port() const { return destination_port_; }
    Sequence sequence() const { return sequence_; }
    Sequence acknowledgement() const { return acknowledgement_; }
    u16 window() const { return window_; } // as sent, not scaled
    u16 urgent() const { return urgent_; }
    u8 flags() const { return flags_; }
    bool has(u8 flag) const { return (flags_ & flag) != 0; }
    u32 length() const { return length_; } // of the header
    u32 data_length() const { return data_length_; }
    // In sequence space: SYN and FIN count.
    u32 sequence_length() const {
        return data_length_ + (has(flag_syn) ? 1 : 0) + (has(flag_fin) ? 1 : 0);
    }
    Sequence end() const { return sequence_ + sequence_length(); }
    const Options& options() const { return options_; }

private:
    Header() = default;
    void parse_options(std::span<const u8> bytes);
    void parse_option(u8 kind, std::span<const u8> value);
    Sequence sequence_, acknowledgement_;
    u32 length_ = 0, data_length_ = 0;
    u16 source_port_ = 0, destination_port_ = 0, window_ = 0, urgent_ = 0;
    u8 flags_ = 0;
    Options options_;
};

// What build() writes.
struct HeaderFields {
    u16 source_port = 0, destination_port = 0, window = 0, urgent = 0;
    Sequence sequence, acknowledgement;
    u8 flags = 0;
    const Options* options = nullptr;
};
// How many bytes the header will take, with as many of the SACK blocks as fit.
usize header_length(const Options& options);
// Fills in a header; the checksum field stays zero. Requires: `out` has header_length() bytes.
// Returns how many it took.
usize build_header(const HeaderFields& fields, std::span<u8> out);

} // namespace kernel::tcp
