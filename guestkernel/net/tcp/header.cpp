#include "guestkernel/net/tcp/header.hpp"

namespace kernel::tcp {

namespace {

// Option kinds (IANA, "TCP Option Kind Numbers").
constexpr u8 kind_end = 0, kind_nothing = 1, kind_mss = 2, kind_scale = 3, kind_sack_permitted = 4,
             kind_sack = 5, kind_timestamp = 8, kind_cookie = 34;
constexpr u8 timestamp_length = 10, sack_block = 8;

u16 read16(const u8* at) {
    return static_cast<u16>(at[0] << 8 | at[1]);
}
u32 read32(const u8* at) {
    return u32{at[0]} << 24 | u32{at[1]} << 16 | u32{at[2]} << 8 | at[3];
}
void write16(u8* at, u16 value) {
    at[0] = static_cast<u8>(value >> 8);
    at[1] = static_cast<u8>(value);
}
void write32(u8* at, u32 value) {
    write16(at, static_cast<u16>(value >> 16));
    write16(at + 2, static_cast<u16>(value));
}

} // namespace

std::optional<Header> Header::parse(std::span<const u8> bytes, usize total) {
    if (bytes.size() < least_header || total < least_header)
        return std::nullopt;
    const u8* at = bytes.data();
    const usize length = usize{at[12]} >> 4 << 2;
    if (length < least_header || length > total || length > bytes.size() || total > 0xff'ffff)
        return std::nullopt;
    Header out;
    out.source_port_ = read16(at);
    out.destination_port_ = read16(at + 2);
    out.sequence_ = Sequence(read32(at + 4));
    out.acknowledgement_ = Sequence(read32(at + 8));
    out.flags_ = at[13] & (flag_fin | flag_syn | flag_rst | flag_psh | flag_ack | flag_urg);
    out.window_ = read16(at + 14);
    out.urgent_ = read16(at + 18);
    out.length_ = static_cast<u32>(length);
    out.data_length_ = static_cast<u32>(total - length);
    if (length != least_header)
        out.parse_options(bytes.subspan(least_header, length - least_header));
    return out;
}

void Header::parse_options(std::span<const u8> bytes) {
    // What nearly every segment carries: two bytes of nothing and the timestamps (RFC 7323, A).
    constexpr u32 usual = u32{kind_nothing} << 24 | u32{kind_nothing} << 16 |
                          u32{kind_timestamp} << 8 | timestamp_length;
    if (bytes.size() == 12 && read32(bytes.data()) == usual) {
        options_.has_timestamp = true;
        options_.timestamp = read32(bytes.data() + 4);
        options_.echo = read32(bytes.data() + 8);
        return;
    }
    while (!bytes.empty()) {
        const u8 kind = bytes[0];
        if (kind == kind_end)
            return;
        if (kind == kind_nothing) {
            bytes = bytes.subspan(1);
            continue;
        }
        // A length that lies ends the options; those before it count.
        if (bytes.size() < 2 || bytes[1] < 2 || bytes[1] > bytes.size())
            return;
        const u8 length = bytes[1];
        parse_option(kind, bytes.subspan(2, length - 2u));
        bytes = bytes.subspan(length);
    }
}

void Header::parse_option(u8 kind, std::span<const u8> value) {
    const bool syn = has(flag_syn);
    switch (kind) {
    case kind_mss:
        if (syn && value.size() == 2)
            options_.mss = read16(value.data());
        break;
    case kind_scale:
        if (syn && value.size() == 1) {
            options_.has_scale = true;
            options_.scale = value[0] > largest_scale ? largest_scale : value[0];
        }
        break;
    case kind_sack_permitted:
        if (syn && value.empty())
            options_.sack_permitted = true;
        break;
    case kind_sack:
        if (syn || value.empty() || value.size() % sack_block != 0 ||
            value.size() / sack_block > most_sacks)
            break;
        options_.sack_count = static_cast<u8>(value.size() / sack_block);
        for (unsigned i = 0; i < options_.sack_count; i++)
            options_.sacks[i] = {Sequence(read32(value.data() + sack_block * i)),
                                 Sequence(read32(value.data() + sack_block * i + 4))};
        break;
    case kind_timestamp:
        if (value.size() == timestamp_length - 2u) {
            options_.has_timestamp = true;
            options_.timestamp = read32(value.data());
            options_.echo = read32(value.data() + 4);
        }
        break;
    case kind_cookie:
        if (!syn || (!value.empty() && (value.size() < least_cookie || value.size() > most_cookie)))
            break;
        options_.has_cookie = true;
        options_.cookie.length = static_cast<u8>(value.size());
        for (usize i = 0; i < value.size(); i++)
            options_.cookie.bytes[i] = value[i];
        break;
    default:
        break;
    }
}

namespace {

// The SACK blocks that go beside the other options, and the bytes of all of them together.
struct Layout {
    usize bytes = 0;
    unsigned sacks = 0;
};

Layout lay_out(const Options& options) {
    Layout out;
    if (options.mss != 0)
        out.bytes += 4;
    if (options.has_timestamp)
        out.bytes += 2 + timestamp_length;
    else if (options.sack_permitted)
        out.bytes += 4;
    // With timestamps, "SACK permitted" takes the place of their two bytes of nothing.
    if (options.has_scale)
        out.bytes += 4;
    if (options.has_cookie && out.bytes + 2 + options.cookie.length + 3 <= most_options)
        out.bytes += (2u + options.cookie.length + 3) & ~usize{3};
    if (options.sack_count != 0 && out.bytes + 4 + sack_block <= most_options) {
        const usize room = (most_options - out.bytes - 4) / sack_block;
        out.sacks = options.sack_count < room ? options.sack_count : static_cast<unsigned>(room);
        out.bytes += 4 + sack_block * out.sacks;
    }
    return out;
}

u8* put_option(u8* at, u8 kind, u8 length) {
    at[0] = kind;
    at[1] = length;
    return at + 2;
}

u8* build_cookie(const FastOpenCookie& cookie, u8* at, const u8* end) {
    const usize length = 2u + cookie.length;
    if (at + ((length + 3) & ~usize{3}) > end)
        return at;
    at = put_option(at, kind_cookie, static_cast<u8>(length));
    for (usize i = 0; i < cookie.length; i++)
        *at++ = cookie.bytes[i];
    for (usize i = length; i % 4 != 0; i++)
        *at++ = kind_nothing;
    return at;
}

void build_options(const Options& options, u8* at, const Layout& layout) {
    const u8* const end = at + layout.bytes;
    if (options.mss != 0) {
        at = put_option(at, kind_mss, 4);
        write16(at, options.mss);
        at += 2;
    }
    if (options.has_timestamp || options.sack_permitted) {
        if (options.sack_permitted)
            at = put_option(at, kind_sack_permitted, 2);
        else
            at = put_option(at, kind_nothing, kind_nothing);
        if (options.has_timestamp)
            at = put_option(at, kind_timestamp, timestamp_length);
        else
            at = put_option(at, kind_nothing, kind_nothing);
    }
    if (options.has_timestamp) {
        write32(at, options.timestamp);
        write32(at + 4, options.echo);
        at += 8;
    }
    if (options.has_scale) {
        *at++ = kind_nothing;
        at = put_option(at, kind_scale, 3);
        *at++ = options.scale;
    }
    if (options.has_cookie)
        at = build_cookie(options.cookie, at, end);
    if (layout.sacks != 0) {
        at = put_option(at, kind_nothing, kind_nothing);
        at = put_option(at, kind_sack, static_cast<u8>(2 + sack_block * layout.sacks));
        for (unsigned i = 0; i < layout.sacks; i++) {
            write32(at, options.sacks[i].start.raw());
            write32(at + 4, options.sacks[i].end.raw());
            at += sack_block;
        }
    }
}

} // namespace

usize header_length(const Options& options) {
    return least_header + lay_out(options).bytes;
}

usize build_header(const HeaderFields& fields, std::span<u8> out) {
    const Layout layout = fields.options != nullptr ? lay_out(*fields.options) : Layout{};
    const usize length = least_header + layout.bytes;
    u8* at = out.data();
    write16(at, fields.source_port);
    write16(at + 2, fields.destination_port);
    write32(at + 4, fields.sequence.raw());
    write32(at + 8, fields.acknowledgement.raw());
    at[12] = static_cast<u8>(length / 4 << 4);
    at[13] = fields.flags;
    write16(at + 14, fields.window);
    write16(at + 16, 0);
    write16(at + 18, fields.urgent);
    if (layout.bytes != 0)
        build_options(*fields.options, at + least_header, layout);
    return length;
}

} // namespace kernel::tcp
