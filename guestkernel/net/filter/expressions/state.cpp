// Expressions that remember: counter, quota, limit, numgen.
#include <linux/errno.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/net/filter/expressions/makers.hpp"
#include "guestkernel/net/filter/transaction.hpp"

namespace kernel::net::filter {

namespace {

class Counter final : public Expression {
public:
    CounterValues values;
    std::string_view name() const override { return "counter"; }
    void evaluate(Evaluation& at) override { values.add(at.packet->length()); }
    void dump(MessageWriter& out) const override {
        put_be64(out, NFTA_COUNTER_BYTES, values.bytes.load());
        put_be64(out, NFTA_COUNTER_PACKETS, values.packets.load());
    }
    bool stateful() const override { return true; }
    Owned<Expression> clone() const override {
        return Owned<Expression>(new (std::nothrow) Counter);
    }
    void reset() override {
        values.packets.store(0);
        values.bytes.store(0);
    }
};

class Quota final : public Expression {
public:
    u64 bytes = 0;
    bool invert = false;
    base::Atomic<u64> consumed{0};
    std::string_view name() const override { return "quota"; }
    void evaluate(Evaluation& at) override {
        const u64 after = consumed.fetch_add(at.packet->length()) + at.packet->length();
        if ((after > bytes) != invert)
            at.leave();
    }
    void dump(MessageWriter& out) const override {
        u64 used = consumed.load();
        u32 flags = invert ? NFT_QUOTA_F_INV : 0;
        if (used >= bytes) {
            used = bytes;
            flags |= NFT_QUOTA_F_DEPLETED;
        }
        put_be64(out, NFTA_QUOTA_BYTES, bytes);
        put_be64(out, NFTA_QUOTA_CONSUMED, used);
        put_be32(out, NFTA_QUOTA_FLAGS, flags);
    }
    bool stateful() const override { return true; }
    Owned<Expression> clone() const override {
        auto* copy = new (std::nothrow) Quota;
        if (copy != nullptr) {
            copy->bytes = bytes;
            copy->invert = invert;
        }
        return Owned<Expression>(copy);
    }
    void reset() override { consumed.store(0); }
};

// value * up / down in as many bits as it takes, at most 64 bits of it.
u64 scaled(u64 value, u64 up, u64 down) {
    u64 product = 0;
    if (!__builtin_mul_overflow(value, up, &product))
        return product / down;
    return value / down > ~u64{0} / up ? ~u64{0} : value / down * up;
}

// A bucket of time: each packet (or byte) costs some of it.
class Limit final : public Expression {
public:
    u64 rate = 0, period = 0; // so much per so many nanoseconds
    u32 burst = 0, type = 0;
    bool invert = false;
    void start(u64 now) {
        most_ = type == NFT_LIMIT_PKTS ? period / rate * burst : scaled(period, rate + burst, rate);
        tokens_ = most_;
        last_ = now;
    }
    std::string_view name() const override { return "limit"; }
    void evaluate(Evaluation& at) override {
        const u64 cost =
            type == NFT_LIMIT_PKTS ? period / rate : scaled(period, at.packet->length(), rate);
        bool over = true;
        {
            SpinGuard guard(lock_);
            // Not before the lock: whoever waited for it would come with a time before the last
            // packet's, and a bucket that is empty be filled by what is less than nothing.
            const u64 now = at.stack.now();
            u64 tokens = tokens_ + (now - last_);
            if (tokens > most_)
                tokens = most_;
            last_ = now;
            over = tokens < cost;
            tokens_ = over ? tokens : tokens - cost;
        }
        if (over != invert)
            at.leave();
    }
    void dump(MessageWriter& out) const override {
        put_be64(out, NFTA_LIMIT_RATE, rate);
        put_be64(out, NFTA_LIMIT_UNIT, period / nanoseconds_per_second);
        put_be32(out, NFTA_LIMIT_BURST, burst);
        put_be32(out, NFTA_LIMIT_TYPE, type);
        put_be32(out, NFTA_LIMIT_FLAGS, invert ? NFT_LIMIT_F_INV : 0);
    }
    bool stateful() const override { return true; }
    Owned<Expression> clone() const override {
        auto* copy = new (std::nothrow) Limit;
        if (copy != nullptr) {
            copy->rate = rate;
            copy->period = period;
            copy->burst = burst;
            copy->type = type;
            copy->invert = invert;
            copy->start(last_);
        }
        return Owned<Expression>(copy);
    }

private:
    SpinLock lock_{LockRank::NetQueue}; // inside of a set's
    u64 tokens_ = 0, most_ = 0, last_ = 0;
};

class NumberGenerator final : public Expression {
public:
    u32 type = 0, modulus = 1, offset = 0;
    u8 target_word = 0;
    base::Atomic<u32> last{0};
    std::string_view name() const override { return "numgen"; }
    void evaluate(Evaluation& at) override {
        // Random ones are scaled, as the high bits are as good as the low ones.
        const u32 value = type == NFT_NG_RANDOM
                              ? static_cast<u32>((random_u64() >> 32) * modulus >> 32)
                              : last.fetch_add(1, base::Order::Relaxed) % modulus;
        at.words[target_word] = value + offset;
    }
    void dump(MessageWriter& out) const override {
        put_register(out, NFTA_NG_DREG, target_word);
        put_be32(out, NFTA_NG_MODULUS, modulus);
        put_be32(out, NFTA_NG_TYPE, type);
        put_be32(out, NFTA_NG_OFFSET, offset);
    }
};

} // namespace

u64 current_time(const ParseContext& context) {
    return context.transaction.filter.stack.now();
}

MadeExpression make_counter(ParseContext& context, RawAttributes attributes) {
    (void)context;
    Attributes<NFTA_COUNTER_MAX + 1> parts;
    TRY(parts.parse(attributes));
    TRY(Owned<Counter> out, make_owned<Counter>());
    out->values.packets.store(parts.number64(NFTA_COUNTER_PACKETS));
    out->values.bytes.store(parts.number64(NFTA_COUNTER_BYTES));
    return made<Counter>(std::move(out));
}

MadeExpression make_quota(ParseContext& context, RawAttributes attributes) {
    (void)context;
    Attributes<NFTA_QUOTA_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_QUOTA_BYTES] == nullptr)
        return fail(EINVAL);
    TRY(Owned<Quota> out, make_owned<Quota>());
    out->bytes = parts.number64(NFTA_QUOTA_BYTES);
    if (out->bytes > ~u64{0} >> 1)
        return fail(EOVERFLOW);
    out->consumed.store(parts.number64(NFTA_QUOTA_CONSUMED));
    const u32 flags = parts.number(NFTA_QUOTA_FLAGS);
    if ((flags & ~u32{NFT_QUOTA_F_INV}) != 0)
        return fail(flags == NFT_QUOTA_F_DEPLETED ? EOPNOTSUPP : EINVAL);
    out->invert = (flags & NFT_QUOTA_F_INV) != 0;
    return made<Quota>(std::move(out));
}

MadeExpression make_limit(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_LIMIT_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_LIMIT_RATE] == nullptr || parts[NFTA_LIMIT_UNIT] == nullptr)
        return fail(EINVAL);
    TRY(Owned<Limit> out, make_owned<Limit>());
    out->rate = parts.number64(NFTA_LIMIT_RATE);
    const u64 unit = parts.number64(NFTA_LIMIT_UNIT);
    if (out->rate == 0)
        return fail(EINVAL);
    if (unit > ~u64{0} / nanoseconds_per_second)
        return fail(EOVERFLOW);
    out->period = unit * nanoseconds_per_second;
    out->burst = parts.number(NFTA_LIMIT_BURST);
    out->type = parts.number(NFTA_LIMIT_TYPE);
    if (out->type > NFT_LIMIT_PKT_BYTES)
        return fail(EOPNOTSUPP);
    if (out->type == NFT_LIMIT_PKTS && out->burst == 0)
        out->burst = 5;
    if (out->rate + out->burst < out->rate)
        return fail(EOVERFLOW);
    const u32 flags = parts.number(NFTA_LIMIT_FLAGS);
    if ((flags & ~u32{NFT_LIMIT_F_INV}) != 0)
        return fail(EOPNOTSUPP);
    out->invert = (flags & NFT_LIMIT_F_INV) != 0;
    out->start(current_time(context));
    return made<Limit>(std::move(out));
}

MadeExpression make_numgen(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_NG_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_NG_DREG] == nullptr || parts[NFTA_NG_MODULUS] == nullptr ||
        parts[NFTA_NG_TYPE] == nullptr)
        return fail(EINVAL);
    TRY(Owned<NumberGenerator> out, make_owned<NumberGenerator>());
    out->modulus = parts.number(NFTA_NG_MODULUS);
    out->type = parts.number(NFTA_NG_TYPE);
    out->offset = parts.number(NFTA_NG_OFFSET);
    if (out->modulus == 0)
        return fail(ERANGE);
    if (out->offset + out->modulus - 1 < out->offset)
        return fail(EOVERFLOW);
    if (out->type > NFT_NG_RANDOM)
        return fail(EOPNOTSUPP);
    TRY(out->target_word, target_register(context, parts[NFTA_NG_DREG], 4));
    return made<NumberGenerator>(std::move(out));
}

} // namespace kernel::net::filter
