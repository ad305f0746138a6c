// poll(2), ppoll(2), select(2), pselect(2).
#include <linux/errno.h>

#include "guestkernel/ipc/poll.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/syscalls/ipc_calls.hpp"
#include "guestkernel/syscalls/wait_helpers.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr u32 rlimit_nofile = 7;
// What is left of the time, as Linux writes back: zero once it has passed.
WaitTime remaining(u64 deadline) {
    const u64 now = monotonic_ns();
    const u64 left = deadline > now ? deadline - now : 0;
    return {static_cast<i64>(left / nanoseconds_per_second),
            static_cast<i64>(left % nanoseconds_per_second)};
}

Result<long> do_poll(Task& task, u64 address, u32 count, u64 deadline) {
    if (count > current_limit(rlimit_nofile))
        return fail(EINVAL);
    Vector<PollRequest> requests;
    Vector<PollItem> items;
    TRY(requests.resize(count));
    TRY(items.resize(count));
    TRY(copy_in_bytes(requests.data(), address, count * sizeof(PollRequest)));
    usize invalid = 0;
    for (u32 i = 0; i < count; i++) {
        requests[i].ready = 0;
        if (requests[i].fd < 0)
            continue;
        auto file = task.files->get(requests[i].fd);
        if (!file) {
            requests[i].ready = static_cast<i16>(poll_nval);
            invalid++;
            continue;
        }
        items[i].file = std::move(*file);
        items[i].wanted = static_cast<u16>(requests[i].events);
    }
    TRY(const usize ready, poll_files(items.span(), invalid > 0 ? 0 : deadline));
    for (u32 i = 0; i < count; i++) {
        if (items[i].file)
            requests[i].ready = static_cast<i16>(items[i].ready);
        TRY(copy_out_bytes(address + i * sizeof(PollRequest) + offsetof(PollRequest, ready),
                           &requests[i].ready, sizeof requests[i].ready));
    }
    return static_cast<long>(ready + invalid);
}

constexpr u32 select_read = poll_in | poll_rdnorm | poll_rdband | poll_hup | poll_err;
constexpr u32 select_write = poll_out | poll_wrnorm | poll_wrband | poll_err;
constexpr u32 select_except = poll_pri;

// The three bit sets of select(2).
struct SelectSets {
    u64 addresses[3];
    Vector<u64> bits[3];
    usize words = 0;

    Result<void> load(int count) {
        words = (static_cast<usize>(count) + 63) / 64;
        for (int set = 0; set < 3; set++) {
            TRY(bits[set].resize(words));
            for (u64& word : bits[set])
                word = 0;
            if (addresses[set] != 0 && words > 0)
                TRY(copy_in_bytes(bits[set].data(), addresses[set], words * sizeof(u64)));
        }
        return {};
    }
    bool has(int set, usize fd) const { return (bits[set][fd / 64] >> (fd % 64) & 1) != 0; }
    Result<void> store() {
        for (int set = 0; set < 3; set++)
            if (addresses[set] != 0 && words > 0)
                TRY(copy_out_bytes(addresses[set], bits[set].data(), words * sizeof(u64)));
        return {};
    }
};

Result<long> do_select(Task& task, int count, SelectSets& sets, u64 deadline) {
    if (count < 0)
        return fail(EINVAL);
    // As Linux, whose tables start with 64: what cannot be open is not looked at.
    constexpr usize least = 64;
    const usize capacity = task.files->capacity() > least ? task.files->capacity() : least;
    if (static_cast<usize>(count) > capacity)
        count = static_cast<int>(capacity);
    TRY(sets.load(count));
    Vector<PollItem> items;
    Vector<int> descriptors;
    for (usize fd = 0; fd < static_cast<usize>(count); fd++) {
        const u32 wanted = (sets.has(0, fd) ? select_read : 0) |
                           (sets.has(1, fd) ? select_write : 0) |
                           (sets.has(2, fd) ? select_except : 0);
        if (wanted == 0)
            continue;
        TRY(Ref<File> file, task.files->get(static_cast<int>(fd)));
        TRY(items.push_back(PollItem{std::move(file), wanted, 0, 0}));
        TRY(descriptors.push_back(static_cast<int>(fd)));
    }
    TRY(const usize woken, poll_files(items.span(), deadline));
    (void)woken;
    for (auto& set : sets.bits)
        for (u64& word : set)
            word = 0;
    long ready = 0;
    constexpr u32 kinds[3] = {select_read, select_write, select_except};
    for (usize i = 0; i < items.size(); i++)
        for (int set = 0; set < 3; set++)
            if ((items[i].wanted & kinds[set]) == kinds[set] &&
                (items[i].ready & kinds[set]) != 0) {
                const auto fd = static_cast<usize>(descriptors[i]);
                sets.bits[set][fd / 64] |= u64{1} << (fd % 64);
                ready++;
            }
    TRY(sets.store());
    return ready;
}

struct PselectMask {
    u64 mask, size;
};

} // namespace

Result<long> sys_poll(Task& task, u64 requests, u32 count, int timeout_ms) {
    const u64 deadline = deadline_after_ms(timeout_ms);
    auto result = do_poll(task, requests, count, deadline);
    // A restart would wait the whole time again: poll(2) with a timeout is not restarted here but
    // ends with EINTR.
    if (!result && result.error().code == restart_no_handler && deadline != no_deadline)
        return fail(EINTR);
    return result;
}

Result<long> sys_ppoll(Task& task, u64 requests, u32 count, UserPtr<WaitTime> timeout,
                       UserPtr<const u64> mask, u64 mask_size) {
    u64 deadline = no_deadline;
    if (timeout) {
        TRY(const WaitTime time, timeout.copy_in());
        TRY(deadline, deadline_after(time.seconds, time.nanoseconds));
    }
    auto result =
        with_signal_mask(mask, mask_size, [&] { return do_poll(task, requests, count, deadline); });
    if (timeout)
        (void)timeout.copy_out(remaining(deadline)); // read-only memory is no error (Linux)
    return result;
}

Result<long> sys_select(Task& task, int count, u64 readers, u64 writers, u64 exceptions,
                        UserPtr<WaitTimeMicro> timeout) {
    u64 deadline = no_deadline;
    if (timeout) {
        TRY(const WaitTimeMicro time, timeout.copy_in());
        if (time.seconds < 0 || time.microseconds < 0)
            return fail(EINVAL);
        TRY(deadline, deadline_after(time.seconds + time.microseconds / 1'000'000,
                                     time.microseconds % 1'000'000 * 1000));
    }
    SelectSets sets{{readers, writers, exceptions}, {}, 0};
    auto result = do_select(task, count, sets, deadline);
    if (timeout) {
        const WaitTime left = remaining(deadline);
        (void)timeout.copy_out({left.seconds, left.nanoseconds / 1000});
    }
    return result;
}

Result<long> sys_pselect6(Task& task, int count, u64 readers, u64 writers, u64 exceptions,
                          UserPtr<WaitTime> timeout, u64 mask) {
    u64 deadline = no_deadline;
    if (timeout) {
        TRY(const WaitTime time, timeout.copy_in());
        TRY(deadline, deadline_after(time.seconds, time.nanoseconds));
    }
    PselectMask pair{0, 0};
    if (mask != 0) {
        TRY(pair, UserPtr<const PselectMask>(mask).copy_in());
    }
    SelectSets sets{{readers, writers, exceptions}, {}, 0};
    auto result = with_signal_mask(UserPtr<const u64>(pair.mask), pair.size,
                                   [&] { return do_select(task, count, sets, deadline); });
    if (timeout)
        (void)timeout.copy_out(remaining(deadline));
    return result;
}

} // namespace kernel
