#include <atomic>
#include <chrono>
#include <cstring>
#include <elf.h>
#include <memory>
#include <signal.h>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/sched/scheduler.hpp"
#include "guestkernel/task/elf.hpp"
#include "guestkernel/task/exec_strings.hpp"
#include "guestkernel/task/futex_queue.hpp"
#include "guestkernel/task/process.hpp"

using namespace kernel;

namespace {

constexpr u64 ram_bytes = u64{32} << 20;

struct Machine {
    Machine() {
        hosted::reset(ram_bytes);
        hosted::set_cpu(0);
        hosted::set_current(&idle);
        init_scheduler();
    }
    ~Machine() { hosted::set_current(nullptr); }
    Task idle;
};

using Freed = base::IntrusiveList<QueuedSignal, &QueuedSignal::node>;

QueuedSignal* queued(int signal, u64 value) {
    auto* entry = new QueuedSignal();
    entry->info.signo = signal;
    entry->info.code = SI_QUEUE;
    entry->info.sender = {1, 0, value};
    return entry;
}

} // namespace

TEST_CASE("a task's memory does not go while another CPU looks for it") {
    Machine machine;
    machine.idle.address_space = *AddressSpace::create();
    machine.idle.address_space->add_user();
    const AddressSpace* const own = machine.idle.address_space.get();
    std::atomic<bool> looks{false};
    const AddressSpace* seen = nullptr;
    std::thread other([&] {
        hosted::set_cpu(1);
        SpinGuard tree(process_tree_lock());
        looks = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        seen = machine.idle.address_space.get();
    });
    while (!looks)
        std::this_thread::yield();
    leave_address_space();
    other.join();
    CHECK(seen == own);
    CHECK(!machine.idle.address_space);
}

// --- signals -------------------------------------------------------------------------------------

TEST_CASE("pending signals: faults first, then the lowest number, real-time ones in order") {
    Machine machine;
    PendingSignals pending;
    pending.add(SIGTERM, nullptr);
    pending.add(SIGHUP, nullptr);
    pending.add(SIGSEGV, nullptr);
    const int rt = 40;
    pending.add(rt, queued(rt, 1));
    pending.add(rt, queued(rt, 2));
    std::vector<int> order;
    std::vector<u64> values;
    for (;;) {
        SignalInfo info;
        QueuedSignal* entry = nullptr;
        const int signal = pending.take(~u64{0}, info, entry);
        if (signal == 0)
            break;
        order.push_back(signal);
        if (entry != nullptr)
            values.push_back(info.sender.value);
        delete entry;
    }
    CHECK(order == std::vector<int>{SIGSEGV, SIGHUP, SIGTERM, rt, rt});
    CHECK(values == std::vector<u64>{1, 2});
    CHECK(pending.set() == 0);
}

TEST_CASE("pending signals outside of the allowed set stay; discarded ones are handed back") {
    Machine machine;
    PendingSignals pending;
    pending.add(SIGUSR1, queued(SIGUSR1, 7));
    SignalInfo info;
    QueuedSignal* entry = nullptr;
    CHECK(pending.take(~signal_bit(SIGUSR1), info, entry) == 0);
    CHECK(pending.has(SIGUSR1));
    Freed freed;
    pending.discard(signal_bit(SIGUSR1), freed);
    CHECK_FALSE(pending.has(SIGUSR1));
    CHECK_FALSE(freed.empty());
    while (QueuedSignal* one = freed.pop_front())
        delete one;
}

TEST_CASE("default actions are those of signal(7)") {
    CHECK(default_action(SIGTERM) == DefaultAction::Terminate);
    CHECK(default_action(SIGKILL) == DefaultAction::Terminate);
    CHECK(default_action(SIGSEGV) == DefaultAction::Core);
    CHECK(default_action(SIGCHLD) == DefaultAction::Ignore);
    CHECK(default_action(SIGWINCH) == DefaultAction::Ignore);
    CHECK(default_action(SIGTTOU) == DefaultAction::Stop);
    CHECK(default_action(SIGCONT) == DefaultAction::Continue);
    CHECK(default_action(64) == DefaultAction::Terminate);
}

TEST_CASE("exec keeps ignored signals ignored and forgets handlers") {
    Machine machine;
    SignalHandlers handlers;
    handlers.exchange(SIGUSR1, {.handler = 0x1000, .flags = 1, .restorer = 2, .mask = 3});
    handlers.exchange(SIGUSR2, {.handler = 1});
    u64 ignored = 0;
    u64 caught = 0;
    handlers.masks(ignored, caught);
    CHECK(ignored == signal_bit(SIGUSR2));
    CHECK(caught == signal_bit(SIGUSR1));
    handlers.reset_for_exec();
    CHECK(handlers.get(SIGUSR1).handler == 0);
    CHECK(handlers.get(SIGUSR1).mask == 0);
    CHECK(handlers.ignored(SIGUSR2));
    CHECK(handlers.ignored(SIGCHLD));
}

// --- numbers
// -----------------------------------------------------------------------------------------

TEST_CASE("numbers are found, walked in order, and not given out while they are in use") {
    Machine machine;
    SpinLock& lock = process_tree_lock();
    lock.lock();
    const i32 a = allocate_pid_locked();
    const i32 b = allocate_pid_locked();
    lock.unlock();
    CHECK(b == a + 1);
    auto first = make_ref<Process>(a);
    auto second = make_ref<Process>(b);
    REQUIRE((first && second));
    lock.lock();
    insert_process_locked(**first);
    insert_process_locked(**second);
    CHECK(find_process_locked(b) == second->get());
    CHECK(find_process_locked(b + 1) == nullptr);
    lock.unlock();
    CHECK(next_pid(a - 1) == a);
    CHECK(next_pid(a) == b);
    CHECK(next_pid(b) == 0);
    lock.lock();
    remove_process_locked(**first);
    remove_process_locked(**second);
    lock.unlock();
    CHECK(next_pid(0) == 0);
}

// --- ELF
// -----------------------------------------------------------------------------------------------

namespace {

struct TestImage {
    Elf64_Ehdr header{};
    std::vector<Elf64_Phdr> entries;
    std::vector<u8> bytes() {
        header.e_phoff = sizeof header;
        header.e_phnum = static_cast<Elf64_Half>(entries.size());
        std::vector<u8> out(sizeof header + entries.size() * sizeof(Elf64_Phdr));
        std::memcpy(out.data(), &header, sizeof header);
        std::memcpy(out.data() + sizeof header, entries.data(),
                    entries.size() * sizeof(Elf64_Phdr));
        return out;
    }
};

TestImage good_image() {
    TestImage image;
    std::memcpy(image.header.e_ident, ELFMAG, SELFMAG);
    image.header.e_ident[EI_CLASS] = ELFCLASS64;
    image.header.e_ident[EI_DATA] = ELFDATA2LSB;
    image.header.e_type = ET_DYN;
    image.header.e_machine = EM_X86_64;
    image.header.e_phentsize = sizeof(Elf64_Phdr);
    image.header.e_entry = 0x1010;
    image.entries.push_back({PT_LOAD, PF_R | PF_X, 0, 0, 0, 0x1800, 0x1800, 0x1000});
    image.entries.push_back({PT_LOAD, PF_R | PF_W, 0x1e00, 0x2e00, 0x2e00, 0x300, 0x900, 0x1000});
    image.entries.push_back({PT_INTERP, PF_R, 0x300, 0x300, 0x300, 28, 28, 1});
    return image;
}

int parse(TestImage& image, ElfImage& out) {
    const std::vector<u8> bytes = image.bytes();
    u64 offset = 0;
    usize length = 0;
    if (auto done = check_elf_header(bytes, offset, length); !done)
        return done.error().code;
    auto done = read_elf_segments(bytes, std::span<const u8>(bytes).subspan(offset, length), out);
    return done ? 0 : done.error().code;
}

} // namespace

TEST_CASE("an ELF image's segments, interpreter and program headers are found") {
    TestImage image = good_image();
    auto out = std::make_unique<ElfImage>();
    REQUIRE(parse(image, *out) == 0);
    CHECK(out->position_independent);
    CHECK(out->segment_count == 2);
    CHECK(out->low() == 0);
    CHECK(out->high() == 0x4000);
    CHECK(out->interpreter_offset == 0x300);
    CHECK(out->interpreter_size == 28);
    CHECK(out->header_address == sizeof(Elf64_Ehdr));
    CHECK(out->segments[1].memory_size == 0x900);
}

TEST_CASE("damaged ELF images are refused") {
    auto out = std::make_unique<ElfImage>();
    const int bad = ENOEXEC;
    SECTION("another machine") {
        TestImage image = good_image();
        image.header.e_machine = EM_AARCH64;
        CHECK(parse(image, *out) == bad);
    }
    SECTION("more bytes in the file than in memory") {
        TestImage image = good_image();
        image.entries[1].p_filesz = 0x1000;
        CHECK(parse(image, *out) == bad);
    }
    SECTION("an address that wraps") {
        TestImage image = good_image();
        image.entries[1].p_vaddr = ~u64{0} - 0x1ff;
        image.entries[1].p_offset = 0xe00;
        CHECK(parse(image, *out) == bad);
    }
    SECTION("an address outside of user space") {
        TestImage image = good_image();
        image.entries[1].p_vaddr = user_max - 0x200;
        CHECK(parse(image, *out) == bad);
    }
    SECTION("offset and address that do not agree") {
        TestImage image = good_image();
        image.entries[1].p_offset += 8;
        CHECK(parse(image, *out) == bad);
    }
    SECTION("segments out of order") {
        TestImage image = good_image();
        std::swap(image.entries[0], image.entries[1]);
        CHECK(parse(image, *out) == bad);
    }
    SECTION("nothing to load") {
        TestImage image = good_image();
        image.entries.erase(image.entries.begin(), image.entries.begin() + 2);
        CHECK(parse(image, *out) == bad);
    }
    SECTION("an interpreter's path that is too long") {
        TestImage image = good_image();
        image.entries[2].p_filesz = 5000;
        CHECK(parse(image, *out) == bad);
    }
    SECTION("a header that is cut off") {
        const std::vector<u8> bytes(40, 0x7f);
        u64 offset = 0;
        usize length = 0;
        CHECK(check_elf_header(bytes, offset, length).error().code == bad);
    }
}

// --- arguments
// -----------------------------------------------------------------------------------------------

namespace {

std::string flatten(const ExecStrings& strings) {
    std::string out;
    strings.for_each_piece([&](u64, const char* data, usize bytes) {
        out.append(data, bytes);
        return true;
    });
    return out;
}

} // namespace

TEST_CASE("argument strings span pages and can be copied without their first") {
    Machine machine;
    ExecStrings strings;
    const std::string large(6000, 'x');
    REQUIRE(strings.add("zero"));
    REQUIRE(strings.add(large));
    strings.begin_environment();
    REQUIRE(strings.add("A=1"));
    CHECK(strings.argument_count() == 2);
    CHECK(strings.environment_count() == 1);
    CHECK(flatten(strings) == std::string("zero\0", 5) + large + std::string("\0A=1\0", 5));
    ExecStrings copy;
    REQUIRE(copy.add("first"));
    REQUIRE(strings.copy_to(copy, 1));
    CHECK(copy.argument_count() == 2);
    CHECK(flatten(copy) == std::string("first\0", 6) + large + std::string("\0A=1\0", 5));
}

TEST_CASE("too many argument bytes are E2BIG") {
    Machine machine;
    ExecStrings strings;
    strings.set_limit(64);
    REQUIRE(strings.add("0123456789"));
    REQUIRE(strings.add("0123456789"));
    CHECK(strings.add(std::string(40, 'y')).error().code == E2BIG);
    ExecStrings other;
    CHECK(other.add(std::string(ExecStrings::max_string, 'z')).error().code == E2BIG);
}

// --- futexes
// ---------------------------------------------------------------------------------------------------

TEST_CASE("futex wake-ups go to confirmed waiters whose bits match, in order") {
    Machine machine;
    auto table = std::make_unique<FutexTable>();
    Task task;
    const AddressSpace::FutexKey key{&task, 0x1000};
    FutexWaiter waiters[4];
    for (FutexWaiter& waiter : waiters) {
        waiter.task = &task;
        table->add(waiter, key);
    }
    waiters[1].bitset = 2;
    CHECK(table->confirm(waiters[0]));
    CHECK(table->confirm(waiters[1]));
    CHECK(table->confirm(waiters[2]));
    CHECK(table->wake(key, 10, 2 | 4) == 3);
    CHECK(waiters[0].woken);
    CHECK(waiters[1].woken);
    CHECK(waiters[2].woken);
    // The last one was passed over: it has to read the word again before it may sleep.
    CHECK_FALSE(waiters[3].woken);
    CHECK_FALSE(table->confirm(waiters[3]));
    CHECK(table->confirm(waiters[3]));
    CHECK_FALSE(table->remove(waiters[3]));
    CHECK(table->remove(waiters[0]));
}

TEST_CASE("futex requeue wakes some and moves others, also within one bucket") {
    Machine machine;
    auto table = std::make_unique<FutexTable>();
    Task task;
    for (const u64 to_address : {u64{0x2000}, u64{0x3004}, u64{0x1008}}) {
        const AddressSpace::FutexKey from{&task, 0x1000};
        const AddressSpace::FutexKey to{&task, to_address};
        FutexWaiter waiters[5];
        for (FutexWaiter& waiter : waiters) {
            waiter.task = &task;
            table->add(waiter, from);
            CHECK(table->confirm(waiter));
        }
        FutexTable::Requeue refused{from, to, 1, 2, [](void*) { return false; }, nullptr};
        CHECK_FALSE(table->requeue(refused));
        CHECK(table->count(from) == 5);
        FutexTable::Requeue request{from, to, 1, 2, nullptr, nullptr};
        CHECK(table->requeue(request));
        CHECK(request.woken == 1);
        CHECK(request.requeued == 2);
        CHECK(table->count(from) == 2);
        CHECK(table->count(to) == 2);
        CHECK(table->wake(to, 9, ~0u) == 2);
        CHECK(waiters[1].woken);
        CHECK(waiters[2].woken);
        CHECK_FALSE(waiters[3].woken);
        CHECK_FALSE(table->remove(waiters[3]));
        CHECK_FALSE(table->remove(waiters[4]));
    }
}
