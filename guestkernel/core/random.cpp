// ChaCha20 (RFC 8439, 2.3) as a generator with fast key erasure: each call replaces the key by
// output nobody sees.
#include "guestkernel/core/random.hpp"

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/cpuid.hpp"
#include "guestkernel/core/lock.hpp"

namespace kernel {

namespace {

struct Generator {
    u32 key[8] = {};
    u64 nonce = 0;
};
constinit Guarded<Generator, LockRank::Log> generator;

u32 rotate(u32 value, int bits) {
    return value << bits | value >> (32 - bits);
}

void quarter(u32& a, u32& b, u32& c, u32& d) {
    a += b, d = rotate(d ^ a, 16);
    c += d, b = rotate(b ^ c, 12);
    a += b, d = rotate(d ^ a, 8);
    c += d, b = rotate(b ^ c, 7);
}

void chacha_block(const Generator& state, u64 counter, u32 (&out)[16]) {
    u32 input[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    for (int i = 0; i < 8; i++)
        input[4 + i] = state.key[i];
    input[12] = static_cast<u32>(counter), input[13] = static_cast<u32>(counter >> 32);
    input[14] = static_cast<u32>(state.nonce), input[15] = static_cast<u32>(state.nonce >> 32);
    for (int i = 0; i < 16; i++)
        out[i] = input[i];
    for (int round = 0; round < 10; round++) {
        quarter(out[0], out[4], out[8], out[12]);
        quarter(out[1], out[5], out[9], out[13]);
        quarter(out[2], out[6], out[10], out[14]);
        quarter(out[3], out[7], out[11], out[15]);
        quarter(out[0], out[5], out[10], out[15]);
        quarter(out[1], out[6], out[11], out[12]);
        quarter(out[2], out[7], out[8], out[13]);
        quarter(out[3], out[4], out[9], out[14]);
    }
    for (int i = 0; i < 16; i++)
        out[i] += input[i];
}

bool hardware_random(u64& out) {
    u8 ok = 0;
    for (int attempt = 0; attempt < 10 && ok == 0; attempt++)
        asm volatile("rdrand %0; setc %1" : "=r"(out), "=qm"(ok) : : "cc");
    return ok != 0;
}

bool has_rdrand() {
    return (arch::cpuid(1).ecx >> 30 & 1) != 0;
}

} // namespace

void init_random() {
    u64 seed[5] = {};
    const bool hardware = has_rdrand();
    for (u64& word : seed)
        if (!hardware || !hardware_random(word))
            word = arch::read_tsc();
    seed[4] ^= arch::read_tsc();
    add_entropy(seed, sizeof seed);
}

void add_entropy(const void* data, usize bytes) {
    auto state = generator.lock();
    const auto* input = static_cast<const u8*>(data);
    for (usize at = 0; at < bytes; at += 32) {
        for (usize i = 0; i < 32 && at + i < bytes; i++)
            state->key[i / 4] ^= u32{input[at + i]} << (i % 4 * 8);
        u32 block[16];
        chacha_block(*state, ~u64{0}, block);
        for (int i = 0; i < 8; i++)
            state->key[i] = block[i];
    }
}

void random_bytes(void* out, usize bytes) {
    auto* output = static_cast<u8*>(out);
    while (bytes > 0) {
        // In pieces, so that the lock is never held for long.
        const usize piece = bytes < 4096 ? bytes : 4096;
        auto state = generator.lock();
        state->nonce++;
        u32 block[16];
        chacha_block(*state, 0, block);
        u32 next_key[8];
        for (int i = 0; i < 8; i++)
            next_key[i] = block[i];
        for (usize done = 0; done < piece;) {
            chacha_block(*state, 1 + done / 64, block);
            for (usize i = 0; i < 64 && done < piece; i++, done++)
                output[done] = static_cast<u8>(block[i / 4] >> (i % 4 * 8));
        }
        for (int i = 0; i < 8; i++)
            state->key[i] = next_key[i];
        output += piece;
        bytes -= piece;
    }
}

} // namespace kernel
