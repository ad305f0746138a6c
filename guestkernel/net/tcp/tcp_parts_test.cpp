// The parts of TCP that need no network: headers, times, windows, scoreboards, queues, secrets.
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "guestkernel/net/tcp/congestion.hpp"
#include "guestkernel/net/tcp/header.hpp"
#include "guestkernel/net/tcp/rack.hpp"
#include "guestkernel/net/tcp/receive_queue.hpp"
#include "guestkernel/net/tcp/secrets.hpp"
#include "guestkernel/net/tcp/send_buffer.hpp"
#include "guestkernel/net/tcp/test_memory.hpp"

using namespace kernel;
using namespace kernel::tcp;

namespace {
constexpr u64 ms = millisecond, second = nanoseconds_per_second;
// Numbers that are the same each time.
class Dice {
public:
    explicit Dice(u32 seed) : generator_(seed) {}
    u32 operator()() { return static_cast<u32>(generator_()); }

private:
    std::mt19937 generator_;
};
SequenceRange range(u32 start, u32 end) {
    return {Sequence(start), Sequence(end)};
}
} // namespace

TEST_CASE("sequence numbers compare by their distance across the wrap") {
    const Sequence low(0xffff'fff0), high(16);
    CHECK(low < high);
    CHECK(high > low);
    CHECK(high - low == 32);
    CHECK((low + 32) == high);
    CHECK(earlier(low, high) == low);
    CHECK(later(low, high) == high);
}

TEST_CASE("a header that is built is parsed to the same") {
    Options options;
    options.mss = 1460;
    options.has_scale = true;
    options.scale = 7;
    options.sack_permitted = true;
    options.has_timestamp = true;
    options.timestamp = 0x11223344;
    options.echo = 0x55667788;
    options.has_cookie = true;
    options.cookie.length = 8;
    for (u8 i = 0; i < 8; i++)
        options.cookie.bytes[i] = i;
    HeaderFields fields{1234, 80, 4321, 0, Sequence(100), Sequence(200), flag_syn, &options};
    u8 bytes[most_header];
    const usize length = build_header(fields, bytes);
    CHECK(length % 4 == 0);
    CHECK(length == header_length(options));
    const auto header = Header::parse({bytes, length}, length + 5);
    REQUIRE(header);
    CHECK(header->source_port() == 1234);
    CHECK(header->destination_port() == 80);
    CHECK(header->window() == 4321);
    CHECK(header->sequence() == Sequence(100));
    CHECK(header->acknowledgement() == Sequence(200));
    CHECK(header->data_length() == 5);
    CHECK(header->sequence_length() == 6);
    CHECK(header->options().mss == 1460);
    CHECK(header->options().scale == 7);
    CHECK(header->options().sack_permitted);
    CHECK(header->options().timestamp == 0x11223344);
    CHECK(header->options().echo == 0x55667788);
    CHECK(header->options().cookie == options.cookie);
}

TEST_CASE("SACK blocks fit beside timestamps three at a time") {
    Options options;
    options.has_timestamp = true;
    options.sack_count = 4;
    for (u32 i = 0; i < 4; i++)
        options.sacks[i] = range(100 * i, 100 * i + 50);
    HeaderFields fields;
    fields.flags = flag_ack;
    fields.options = &options;
    u8 bytes[most_header];
    const usize length = build_header(fields, bytes);
    CHECK(length == 20 + 12 + 4 + 24);
    const auto header = Header::parse({bytes, length}, length);
    REQUIRE(header);
    REQUIRE(header->options().sack_count == 3);
    CHECK(header->options().sacks[2] == options.sacks[2]);
}

TEST_CASE("no header of random bytes is read past its end, and lying lengths are refused") {
    Dice random(1);
    for (int round = 0; round < 20000; round++) {
        std::vector<u8> bytes(random() % 80);
        for (u8& byte : bytes)
            byte = static_cast<u8>(random());
        const usize total = random() % 100;
        const auto header = Header::parse(bytes, total);
        if (!header)
            continue;
        CHECK(header->length() <= bytes.size());
        CHECK(header->length() + header->data_length() == total);
        CHECK(header->options().sack_count <= most_sacks);
        CHECK(header->options().cookie.length <= most_cookie);
        CHECK(header->options().scale <= largest_scale);
    }
    const u8 lying[20] = {0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0xf0};
    CHECK(!Header::parse(lying, 20));
    CHECK(!Header::parse({lying, 19}, 19));
}

TEST_CASE("options of a SYN count in a SYN only") {
    Options options;
    options.mss = 99;
    HeaderFields fields;
    fields.flags = flag_ack;
    fields.options = &options;
    u8 bytes[most_header];
    const usize length = build_header(fields, bytes);
    const auto header = Header::parse({bytes, length}, length);
    REQUIRE(header);
    CHECK(header->options().mss == 0);
}

TEST_CASE("the retransmission timeout follows RFC 6298 and never falls below 200 ms of slack") {
    RoundTrip rtt;
    CHECK(rtt.timeout() == second);
    rtt.sample(100 * ms, second);
    CHECK(rtt.smoothed() == 100 * ms);
    CHECK(rtt.timeout() == 100 * ms + 200 * ms); // 4 * 50 ms
    for (int i = 0; i < 100; i++)
        rtt.sample(ms, 2 * second);
    CHECK(rtt.timeout() < 205 * ms);
    CHECK(rtt.timeout() > 200 * ms);
    rtt.back_off();
    CHECK(rtt.timeout() > 400 * ms);
    for (int i = 0; i < 40; i++)
        rtt.back_off();
    CHECK(rtt.timeout() == most_timeout);
    rtt.sample(ms, 3 * second);
    CHECK(rtt.timeout() < 205 * ms);
    CHECK(rtt.least() == ms);
    rtt.sample(50 * ms, 3 * second + 400 * second);
    CHECK(rtt.least() == 50 * ms); // the old least is forgotten
}

TEST_CASE("slow start doubles, Reno adds a segment a round") {
    Congestion window;
    window.start(Algorithm::Reno, 1000);
    CHECK(window.window() == 10'000);
    window.acked({10'000, 10'000, second, 10 * ms, 10 * ms});
    CHECK(window.window() == 20'000);
    window.acked({1000, 1000, second, 10 * ms, 10 * ms}); // not used up: no growth
    CHECK(window.window() == 20'000);
    window.loss(second);
    CHECK(window.threshold() == 10'000);
    window.set_window(window.threshold());
    for (int i = 0; i < 10; i++)
        window.acked({1000, 10'000, second, 10 * ms, 10 * ms});
    CHECK(window.window() > 10'900);
    CHECK(window.window() <= 11'000);
    window.timeout(second, 10'000);
    CHECK(window.window() == 1000);
    window.undo();
    CHECK(window.window() > 10'900);
}

TEST_CASE("CUBIC comes back to where it lost, slows down there, and goes on") {
    Congestion window;
    window.start(Algorithm::Cubic, 1000);
    window.set_window(1'000'000);
    u64 now = 10 * second;
    window.loss(now);
    CHECK(window.threshold() == 700'000);
    window.set_window(window.threshold());
    // K = cbrt(300 / 0.4) = 9.09 s
    const u64 rtt = 100 * ms;
    u32 at_half = 0, at_k = 0;
    for (u64 start = now; now < start + 14 * second; now += rtt) {
        if (now - start >= 4500 * ms && at_half == 0)
            at_half = window.window();
        if (now - start >= 9100 * ms && at_k == 0)
            at_k = window.window();
        const u32 flight = window.window();
        for (u32 acked = 0; acked + 10'000 <= flight; acked += 10'000)
            window.acked({10'000, window.window(), now, rtt, rtt});
    }
    CHECK(at_half > 930'000);
    CHECK(at_half < 990'000);
    CHECK(at_k > 980'000);
    CHECK(at_k < 1'020'000);
    CHECK(window.window() > 1'030'000);
    CHECK(window.window() < 1'100'000);
}

TEST_CASE("the scoreboard counts what is sacked, lost and sent again") {
    SentQueue queue;
    for (u32 i = 0; i < 10; i++)
        REQUIRE(queue.push(range(1000 * i, 1000 * i + 1000), second + i));
    CHECK(queue.in_flight() == 10'000);
    Delivery delivery;
    REQUIRE(queue.sack(range(3000, 5000), 1000, delivery));
    CHECK(delivery.bytes == 2000);
    CHECK(queue.sacked() == 2000);
    CHECK(queue.count() == 9); // the two became one
    REQUIRE(queue.sack(range(2000, 3000), 1000, delivery));
    REQUIRE(queue.sack(range(5000, 6000), 1000, delivery));
    CHECK(queue.count() == 7);
    CHECK(queue.sacked() == 4000);
    CHECK(queue.in_flight() == 6000);
    queue.mark_lost(*queue.first());
    CHECK(queue.in_flight() == 5000);
    SentRange* lost = queue.next_lost();
    REQUIRE(lost == queue.first());
    REQUIRE(queue.retransmit(*lost, 1000, 2 * second));
    CHECK(queue.in_flight() == 6000);
    CHECK(queue.next_lost() == nullptr);
    Delivery second_delivery;
    queue.acknowledge(Sequence(6500), second_delivery);
    CHECK(second_delivery.cumulative == 6500);
    CHECK(second_delivery.bytes == 2500);
    CHECK(second_delivery.was_retransmitted);
    CHECK(queue.total() == 3500);
    CHECK(queue.sacked() == 0);
    CHECK(queue.in_flight() == 3500);
}

TEST_CASE("a block that covers a part counts whole segments, so crumbs cannot be made") {
    SentQueue queue;
    REQUIRE(queue.push(range(0, 10'000), second));
    Delivery delivery;
    REQUIRE(queue.sack(range(1500, 3500), 1000, delivery));
    CHECK(queue.sacked() == 1000); // 2000 to 3000
    CHECK(queue.count() == 3);
    for (u32 i = 0; i < 9999; i += 7)
        REQUIRE(queue.sack(range(i, i + 3), 1000, delivery));
    CHECK(queue.count() == 3);
}

TEST_CASE("the scoreboard agrees with a byte-by-byte model under random events") {
    Dice random(3);
    for (int round = 0; round < 30; round++) {
        constexpr u32 mss = 100;
        SentQueue queue;
        std::map<u32, int> bytes; // 1 sacked
        u32 una = 0xffff'f000, next = una;
        for (int step = 0; step < 400; step++) {
            const unsigned what = random() % 6;
            if (what <= 1 && next - una < 20'000) {
                const u32 size = mss * (1 + random() % 10);
                REQUIRE(queue.push(range(next, next + size), second + u64(step)));
                next += size;
            } else if (what == 2 && next != una) {
                const u32 start = una + random() % (next - una);
                const u32 end = start + 1 + random() % (next - start);
                Delivery delivery;
                const u32 before = queue.sacked();
                REQUIRE(queue.sack(range(start, end), mss, delivery));
                CHECK(queue.sacked() - before == delivery.bytes);
            } else if (what == 3 && next != una) {
                const u32 to = una + random() % (next - una + 1);
                Delivery delivery;
                const u32 total = queue.total();
                queue.acknowledge(Sequence(to), delivery);
                CHECK(delivery.cumulative == to - una);
                CHECK(queue.total() == total - (to - una));
                una = to;
            } else if (what == 4 && !queue.empty()) {
                SentRange* at = queue.first();
                for (u32 i = random() % queue.count(); i > 0; i--)
                    at = queue.next(*at);
                queue.mark_lost(*at);
            } else if (SentRange* lost = queue.next_lost()) {
                REQUIRE(queue.retransmit(*lost, mss, second + u64(step)));
            }
            u32 sacked = 0, lost = 0, again = 0, expected = una;
            for (SentRange* at = queue.first(); at != nullptr; at = queue.next(*at)) {
                CHECK(at->start.raw() == expected);
                expected = at->end.raw();
                CHECK(!(at->sacked && at->lost));
                sacked += at->sacked ? at->size() : 0;
                lost += at->lost ? at->size() : 0;
                again += at->retransmitted ? at->size() : 0;
            }
            CHECK(expected == next);
            CHECK(sacked == queue.sacked());
            CHECK(lost == queue.lost());
            CHECK(again == queue.retransmitted());
            CHECK(queue.total() == next - una);
        }
    }
}

TEST_CASE("RACK calls lost what was sent well before something that has arrived") {
    SentQueue queue;
    RoundTrip rtt;
    Rack rack;
    rtt.sample(100 * ms, second);
    for (u32 i = 0; i < 5; i++)
        REQUIRE(queue.push(range(1000 * i, 1000 * i + 1000), second + i * ms));
    Delivery delivery;
    REQUIRE(queue.sack(range(1000, 2000), 1000, delivery));
    u64 now = second + 101 * ms;
    rack.delivered(delivery, now, no_deadline, rtt);
    // One sacked: reordering of a quarter of the round trip is allowed for.
    const u64 wait = rack.detect(queue, now, rtt, false);
    CHECK(queue.lost() == 0);
    CHECK(wait == 24 * ms);
    now += wait;
    CHECK(rack.detect(queue, now, rtt, false) == 0);
    CHECK(queue.lost() == 1000);
    CHECK(queue.first()->lost);
    CHECK(!queue.last()->lost); // sent later than what arrived
}

TEST_CASE("RACK does not wait once three segments are sacked and no reordering was seen") {
    SentQueue queue;
    RoundTrip rtt;
    Rack rack;
    rtt.sample(100 * ms, second);
    for (u32 i = 0; i < 5; i++)
        REQUIRE(queue.push(range(1000 * i, 1000 * i + 1000), second));
    Delivery delivery;
    REQUIRE(queue.sack(range(1000, 4000), 1000, delivery));
    rack.delivered(delivery, second + 100 * ms, no_deadline, rtt);
    CHECK(rack.detect(queue, second + 100 * ms, rtt, true) == 0);
    CHECK(queue.lost() == 1000);
    rack.duplicate_reported(Sequence(0), Sequence(5000));
    CHECK(rack.reordering_seen());
}

namespace {

net::PacketPtr payload(u32 start, u32 end) {
    net::PacketPtr packet = net::Packet::allocate(end - start);
    for (u32 i = start; i != end; i++)
        *packet->put(1) = static_cast<u8>(i * 7);
    return packet;
}

} // namespace

TEST_CASE("segments out of order come back in order and byte for byte") {
    test::memory();
    Dice random(5);
    for (int round = 0; round < 50; round++) {
        OutOfOrderQueue queue;
        const u32 base = 0xffff'f800;
        Sequence next(base);
        std::string got;
        constexpr u32 total = 5000;
        u32 sent = 0;
        while (next.since(Sequence(base)) < total && sent++ < 100'000) {
            const u32 at = next.since(Sequence(base));
            const u32 start = at + random() % 1500;
            if (start >= total)
                continue;
            const u32 end = std::min(total, start + 1 + u32(random() % 300));
            SequenceRange duplicate;
            (void)queue.insert(payload(base + start, base + end), range(base + start, base + end),
                               duplicate);
            SequenceRange blocks[most_sacks];
            const unsigned count = queue.sack_blocks(blocks, 4);
            for (unsigned i = 0; i < count; i++)
                for (unsigned j = i + 1; j < count; j++)
                    CHECK((blocks[i].end < blocks[j].start || blocks[j].end < blocks[i].start));
            net::PacketList ready;
            queue.take_ready(next, ready);
            while (net::PacketPtr packet = ready.pop_front()) {
                const usize before = got.size();
                got.resize(before + packet->length());
                REQUIRE(packet->copy_out(0, got.data() + before, packet->length()));
            }
        }
        REQUIRE(got.size() == total);
        for (u32 i = 0; i < total; i++)
            REQUIRE(static_cast<u8>(got[i]) == static_cast<u8>((base + i) * 7));
        CHECK(queue.empty());
        CHECK(queue.memory() == 0);
    }
}

TEST_CASE("the latest block is reported first, and holes beyond the bound are not kept") {
    test::memory();
    OutOfOrderQueue queue;
    SequenceRange duplicate;
    for (u32 i = 1; i <= 3; i++)
        CHECK(queue.insert(payload(i * 100, i * 100 + 10), range(i * 100, i * 100 + 10),
                           duplicate) == OutOfOrderQueue::Outcome::Kept);
    SequenceRange blocks[most_sacks];
    REQUIRE(queue.sack_blocks(blocks, 3) == 3);
    CHECK(blocks[0] == range(300, 310));
    CHECK(queue.insert(payload(110, 120), range(110, 120), duplicate) ==
          OutOfOrderQueue::Outcome::Kept);
    REQUIRE(queue.sack_blocks(blocks, 3) == 3);
    CHECK(blocks[0] == range(100, 120));
    CHECK(queue.insert(payload(102, 108), range(102, 108), duplicate) ==
          OutOfOrderQueue::Outcome::Duplicate);
    CHECK(duplicate == range(102, 108));
    for (u32 i = 10; queue.run_count() < OutOfOrderQueue::most_runs; i++)
        (void)queue.insert(payload(i * 100, i * 100 + 10), range(i * 100, i * 100 + 10), duplicate);
    CHECK(queue.insert(payload(900'000, 900'010), range(900'000, 900'010), duplicate) ==
          OutOfOrderQueue::Outcome::Refused);
    CHECK(queue.drop_last());
    queue.clear();
    CHECK(queue.memory() == 0);
}

TEST_CASE("the send buffer keeps bytes, shares frames with packets and gives them back") {
    test::memory();
    Dice random(9);
    const u64 free_before = memory_stats().free;
    {
        SendBuffer buffer;
        std::string model;
        for (int step = 0; step < 3000; step++) {
            if (random() % 2 == 0 && buffer.bytes() < 200'000) {
                const SendBuffer::Room room = buffer.room(1 + random() % 40'000);
                REQUIRE(room.data != nullptr);
                const u32 used = 1 + random() % room.bytes;
                for (u32 i = 0; i < used; i++) {
                    room.data[i] = static_cast<u8>(random());
                    model.push_back(static_cast<char>(room.data[i]));
                }
                REQUIRE(buffer.commit(used));
            } else if (buffer.bytes() > 0 && random() % 2 == 0) {
                const u32 offset = random() % buffer.bytes();
                const u32 wanted = 1 + random() % std::min(60'000u, buffer.bytes() - offset);
                net::PacketPtr packet = net::Packet::allocate(wanted <= 512 ? wanted : 0);
                const u32 filled = buffer.fill(*packet, offset, wanted);
                REQUIRE(filled > 0);
                std::string seen(filled, '\0');
                REQUIRE(packet->copy_out(0, seen.data(), filled));
                REQUIRE(seen == model.substr(offset, filled));
            } else if (buffer.bytes() > 0) {
                const u32 gone = 1 + random() % buffer.bytes();
                buffer.release(gone);
                model.erase(0, gone);
            }
            REQUIRE(buffer.bytes() == model.size());
        }
        buffer.close_block();
    }
    CHECK(memory_stats().free + 64 >= free_before); // slabs may keep a few
}

TEST_CASE("SYN cookies tell the segment size to whoever was asked, for two minutes") {
    const Secrets& secrets = Secrets::get();
    Pair pair{{net::IpAddress::v4(1), 80, 0}, {net::IpAddress::v4(2), 4000, 0}};
    const Sequence peer(12345);
    const u64 now = 1000 * second;
    const Sequence cookie = secrets.syn_cookie(pair, peer, 1460, now);
    CHECK(secrets.check_syn_cookie(pair, peer, cookie, now) == 1460);
    CHECK(secrets.check_syn_cookie(pair, peer, cookie, now + 60 * second) == 1460);
    CHECK(!secrets.check_syn_cookie(pair, peer, cookie, now + 200 * second));
    CHECK(!secrets.check_syn_cookie(pair, peer + 1, cookie, now));
    Pair other = pair;
    other.remote.port = 4001;
    CHECK(!secrets.check_syn_cookie(other, peer, cookie, now));
    const Sequence small = secrets.syn_cookie(pair, peer, 1000, now);
    CHECK(secrets.check_syn_cookie(pair, peer, small, now) == 536);
}

TEST_CASE("initial sequence numbers differ by pair and grow with time") {
    const Secrets& secrets = Secrets::get();
    Pair pair{{net::IpAddress::v4(1), 80, 0}, {net::IpAddress::v4(2), 4000, 0}};
    Pair other = pair;
    other.remote.port = 4001;
    const Sequence first = secrets.initial_sequence(pair, second);
    CHECK(secrets.initial_sequence(pair, second) == first);
    CHECK(secrets.initial_sequence(pair, second + 6400) - first == 100);
    CHECK(!(secrets.initial_sequence(other, second) == first));
    CHECK(secrets.fast_open_cookie(pair) == secrets.fast_open_cookie(other));
}

TEST_CASE("SipHash-2-4 gives the value of its paper") {
    HashKey key;
    u8 bytes[16];
    for (u8 i = 0; i < 16; i++)
        bytes[i] = i;
    std::memcpy(&key.low, bytes, 8);
    std::memcpy(&key.high, bytes + 8, 8);
    // The reference vectors for 0 and 8 bytes 00 01 02 ...
    CHECK(KeyedHash(key).finish() == 0x726f'db47'dd0e'0e31);
    u64 word = 0;
    std::memcpy(&word, bytes, 8);
    CHECK(KeyedHash(key).add(word).finish() == 0x93f5'f579'9a93'2462);
}
