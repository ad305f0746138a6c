// io_uring(7). A ring is memory shared with the program, from which requests are taken and into
// which results are put; a request that would wait is watched (poll), timed, or given to a worker
// task.
//
// How a request runs: submission reads the entry once, and tries it with Task::refuses_sleep, so
// that what would wait says so. Then either its file is watched and a processor tries again when it
// is ready, or a worker does it waiting. Processors are whoever waits in io_uring_enter(2) in the
// ring's own process, else a task of the ring's that runs in the process's address space.
//
// Locks, outermost first: submit_mutex (one submission at a time); mutex (requests, links, tables;
// held for short, but for reads of user memory); the spin lock of the completion ring; the spin
// lock of the ready list, which wake functions and timers take.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/event_files.hpp"
#include "guestkernel/ipc/poll_hook.hpp"
#include "guestkernel/mm/shared_pages.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

class IoRing;
struct IoWorker;

// struct io_uring_sqe, as far as requests use it; read once.
struct IoEntry {
    u8 opcode, flags;
    u16 priority;
    i32 fd;
    u64 offset; // also: address 2
    u64 address;
    u32 length, op_flags;
    u64 user_data;
    u16 buffer; // index of a registered buffer, or a buffer group
    u16 personality;
    u32 file_index; // also: splice_fd_in, address length
    u64 address3;
    u64 padding;
};
static_assert(sizeof(IoEntry) == 64);

// What an attempt at a request led to.
struct IoOutcome {
    enum class Kind : u8 { Done, Again, Armed } kind = Kind::Done; // Armed: its end comes by itself
    i32 result = 0;
    u32 flags = 0; // IORING_CQE_F_*
    static IoOutcome done(i64 value) { return {Kind::Done, static_cast<i32>(value), 0}; }
    static IoOutcome again() { return {Kind::Again, 0, 0}; }
    static IoOutcome armed() { return {Kind::Armed, 0, 0}; }
};

struct IoRequest : RefCounted {
    enum class State : u8 { Queued, Running, Watching, Timing, Waiting, Done };
    IoRequest() : hook(&IoRequest::woken, this), timer(&IoRequest::expired, this) {}
    Ref<IoRing> ring;
    IoEntry entry{};
    Ref<File> file;
    // What it may, whoever runs it: as a personality, else as its submitter when it submitted it.
    Ref<const Credentials> credentials;
    Ref<RefCounted> landlock;
    const Process* submitter = nullptr; // compared, never followed
    State state = State::Queued;        // this and the next: under the ring's mutex
    bool cancelled = false;
    bool counted = false; // among those that a drained request waits for
    IoWorker* worker = nullptr;
    Ref<IoRequest> next;       // linked: begun when this one is done
    Ref<IoRequest> link_timer; // IORING_OP_LINK_TIMEOUT on this one
    IoRequest* timed = nullptr;
    u32 tries = 0;
    u32 watched = 0; // POLL*
    u32 target = 0;  // a timeout's count of completions
    bool has_target = false;
    bool expired_now = false;
    // A provided buffer that was chosen, and has neither been told of nor gone back.
    bool holds_buffer = false;
    u16 buffer_id = 0;
    u16 buffer_position = 0; // in its group's ring
    u32 chosen_length = 0;
    u64 buffer_address = 0;
    base::ListNode all_node, queue_node;
    base::ListNode ready_node; // under ready_lock; the list holds a reference
    bool ready = false;
    PollHook hook;
    Timer timer;

    static bool woken(Waiter& waiter, u32 events);
    static void expired(Timer& timer, void* self);
};

// What a completion says of the buffer that was chosen: IORING_CQE_F_BUFFER and its number.
u32 told_buffer(const IoRequest& request);

// While it lives, the running task may what a request's submitter might.
class IoRights {
public:
    explicit IoRights(const IoRequest& request)
        : credentials_(request.credentials), landlock_(request.landlock) {
        swap();
    }
    IoRights(const IoRights&) = delete;
    IoRights& operator=(const IoRights&) = delete;
    ~IoRights() { swap(); }

private:
    void swap();
    Ref<const Credentials> credentials_;
    Ref<RefCounted> landlock_;
};

struct IoProvided {
    u64 address;
    u32 length;
    u16 id;
};

struct IoBufferGroup {
    u16 id = 0;
    Vector<IoProvided> buffers; // taken from the end
    u64 ring_address = 0;       // IORING_REGISTER_PBUF_RING
    u32 ring_entries = 0;
    u16 ring_head = 0;
    IoBufferGroup* next = nullptr;
};

// A task that works for a ring.
struct IoWorker {
    Ref<IoRing> ring;
    Ref<AddressSpace> space;
    Ref<Task> task;
    enum class Kind : u8 { Processor, Blocking, Submitter } kind = Kind::Blocking;
    base::ListNode node;
};

class IoRing : public RefCounted {
public:
    struct Limits {
        u32 entries, completions, flags;
    };
    static Result<Ref<IoRing>> make(const Limits& limits);
    ~IoRing() override;

    // --- the layout of the shared memory
    u64 array_offset() const { return array_offset_; }
    u64 entries_offset() const { return entries_offset_; }
    u64 ring_bytes() const { return entries_offset_; }
    static constexpr u64 completions_offset = 64;
    enum Field : u64 { // u32 words of the first page
        sq_head = 0,
        sq_tail = 4,
        cq_head = 8,
        cq_tail = 12,
        sq_mask = 16,
        cq_mask = 20,
        sq_entries = 24,
        cq_entries = 28,
        sq_dropped = 32,
        sq_flags = 36,
        cq_flags = 40,
        cq_overflow = 44,
    };
    u32* word(Field field) { return pages->at<u32>(field); }
    bool has(u32 setup_flag) const { return (limits.flags & setup_flag) != 0; }
    // Whether it is another task's alone (EEXIST).
    bool belongs_to_other(const Task& task) const { return issuer != nullptr && issuer != &task; }

    // --- io_ring.cpp: submission and completion
    // Takes up to `count` entries; how many were.
    Result<u32> submit(u32 count);
    u32 unsubmitted();
    void post(u64 user_data, i32 result, u32 flags);
    void complete(Ref<IoRequest> request, IoOutcome outcome);
    u32 completions();     // in the ring, not taken yet
    void flush_overflow(); // as far as there is room
    bool overflowed() const { return overflow_first_ != nullptr; }
    bool signals(const File& file);     // of each completion (IORING_REGISTER_EVENTFD)
    void start(Ref<IoRequest> request); // a request and what follows from it
    void begin_chain(Ref<IoRequest> head);

    // --- io_ring_wait.cpp: what waits. io_ring_workers.cpp: who works for it
    void process_ready();
    bool has_ready() const { return ready_waits_; }
    void push_ready(IoRequest& request);
    IoOutcome arm_timeout(IoRequest& request);
    void arm_link_timeout(IoRequest& request);
    // Watches its file; Done if that failed; Again if it is of no use.
    IoOutcome watch(IoRequest& request, u32 events);
    // The same for a request that tells of each wake-up (IORING_POLL_ADD_MULTI), and of what is
    // there already.
    IoOutcome watch_edges(IoRequest& request, u32 events);
    // ECANCELED, EAGAIN.
    Result<void> give_to_worker(Ref<IoRequest> request);
    // 0, EALREADY; ends a request that is not done.
    int cancel(IoRequest& request);
    i32 cancel_by_entry(const IoEntry& entry);
    IoRequest* find_request(u64 user_data, u8 opcode); // Requires: mutex
    void cancel_everything();
    void cancel_ready();
    void shut_down(); // the last file of it is gone, or its process
    void check_counts();
    Result<void> need_processor();
    Result<void> start_submitter(u32 idle_ms, i64 cpu);
    void wake_submitter();

    // --- io_ring_execute.cpp
    IoOutcome execute(Task& task, IoRequest& request);

    // --- io_ring_register.cpp
    Result<long> register_resource(Task& task, u32 operation, u64 argument, u32 count);
    Ref<File> fixed_file(u32 index); // null: none
    Result<i32> install_fixed(Ref<File> file, u32 index_plus_one);
    Result<void> remove_fixed(u32 index);
    Result<i32> update_files(Task& task, u32 offset, u64 descriptors, u32 count);
    bool fixed_buffer(u16 index, u64 address, u64 length);
    // Chooses a buffer of the request's group, unless it holds one; false: there is none (ENOBUFS).
    bool choose_buffer(IoRequest& request);
    // What cannot go back stays with the request, for its next try or for its completion to tell.
    void put_back_buffer(IoRequest& request);
    i32 provide_buffers(const IoEntry& entry);
    i32 remove_buffers(const IoEntry& entry);
    bool allowed(const IoEntry& entry) const;

    Ref<SharedPages> pages;
    Limits limits{};
    Process* owner = nullptr; // whose address space workers run in; compared, never followed
    // IORING_SETUP_SINGLE_ISSUER: who made the ring, or enabled it; compared, never followed.
    const Task* volatile issuer = nullptr;
    Ref<AddressSpace> space;
    Ref<const Credentials> creator;
    Ref<UserAccount> account;
    volatile bool dead = false;
    volatile bool disabled = false;
    Mutex submit_mutex;
    Mutex mutex;
    WaitQueue waiters{LockRank::Nested};      // completions: poll, also of this ring by itself
    WaitQueue entrants{LockRank::Nested};     // completions and readiness: enter, nobody else
    WaitQueue work_waiters{LockRank::Nested}; // workers
    base::Atomic<u32> entered{0};             // waiters in enter that process
    IoRing* next_ring = nullptr;              // of all rings

private:
    template <typename T, typename... A>
    friend Result<Ref<T>> make_ref(A&&...);
    IoRing() = default;
    IoBufferGroup* find_group(u16 id);
    enum class Choice : u8 { Made, None, Again };
    Choice choose_of_ring(IoRequest& request, const IoBufferGroup& seen);
    bool read_entry(u32 position, IoEntry& out);
    Result<Ref<IoRequest>> prepare(const IoEntry& entry);
    void issue(Ref<IoRequest> request);
    void finish_links(IoRequest& request, bool failed, Ref<IoRequest>& following);
    void run_deferred();
    bool put_completion(u64 user_data, i32 result, u32 flags);
    static void worker_loop(void* raw);
    void work(IoWorker& self);
    void serve(IoWorker& self);
    void end_workers(); // Requires: mutex, dead
    void poll_submissions(IoWorker& self);
    Result<void> spawn(IoWorker::Kind kind);
    Result<void> start_worker(IoWorker::Kind kind);
    Result<void> set_files(Task& task, u64 descriptors, u32 count, bool sparse);
    Result<void> set_buffers(u64 vectors, u32 count, bool sparse);
    Result<void> check_buffer(const UserVector& buffer) const;
    Result<long> update_buffers(u64 argument);
    Result<void> set_event_file(Task& task, u64 argument);
    Result<void> drop_event_file();
    Result<void> set_restrictions(u64 argument, u32 count);
    static Result<long> probe(u64 argument, u32 count);
    Result<long> change_personality(Task& task, u32 operation, u32 id);
    Result<long> change_buffer_ring(u64 argument, bool add);
    Result<long> set_worker_limits(u64 argument);
    Result<long> sync_cancel(u64 argument);

    u64 array_offset_ = 0, entries_offset_ = 0;
    u64 charged_ = 0;
    bool listed_ = false;
    u32 sq_position_ = 0; // ours
    // --- under cq_lock_
    SpinLock cq_lock_{LockRank::Leaf};
    u32 cq_position_ = 0;
    u32 posted_ = 0; // completions but those of timeouts, for their counts
    struct Overflow {
        Overflow* next;
        u64 user_data;
        i32 result;
        u32 flags;
    };
    Overflow* volatile overflow_first_ = nullptr;
    Overflow* overflow_last_ = nullptr;
    u32 overflow_count_ = 0;
    Ref<File> event_file_;
    // --- under mutex
    base::IntrusiveList<IoRequest, &IoRequest::all_node> requests_;   // each holds a reference
    base::IntrusiveList<IoRequest, &IoRequest::queue_node> deferred_; // behind a drained one
    base::IntrusiveList<IoRequest, &IoRequest::queue_node> blocking_queue_; // for workers
    base::IntrusiveList<IoWorker, &IoWorker::node> workers_;                // at work
    u32 request_count_ = 0, outstanding_ = 0;
    u32 timeouts_ = 0; // with a count
    u32 idle_workers_ = 0, blocking_workers_ = 0;
    u32 blocking_waits_ = 0; // requests in blocking_queue_
    u32 most_workers_[2] = {64, 64};
    bool has_processor_ = false;
    volatile u32 submitter_idle_ms_ = 0;
    volatile bool submitter_asleep_ = false;
    i64 submitter_cpu_ = -1;
    Vector<Ref<File>> files_;
    u32 alloc_first_ = 0, alloc_end_ = 0;
    Vector<UserVector> buffers_;
    IoBufferGroup* groups_ = nullptr;
    struct Personality {
        u32 id;
        Ref<const Credentials> credentials;
    };
    Vector<Personality> personalities_;
    u32 next_personality_ = 1;
    bool restricted_ = false, has_restrictions_ = false;
    u64 allowed_operations_ = 0, allowed_registers_ = 0;
    u8 allowed_flags_ = 0, required_flags_ = 0;
    // --- under ready_lock_
    SpinLock ready_lock_{LockRank::Nested};
    base::IntrusiveList<IoRequest, &IoRequest::ready_node> ready_;
    volatile bool ready_waits_ = false;
};

class IoRingFile final : public AnonymousFile {
public:
    IoRingFile(Ref<Inode> inode, u32 flags, Ref<IoRing> ring)
        : AnonymousFile(std::move(inode), flags), ring_(std::move(ring)) {}
    ~IoRingFile() override;
    static constexpr char file_type[] = "io_uring";
    const char* type_name() const override { return file_type; }
    Result<u64> seek(i64 offset, int whence) override { return File::seek(offset, whence); }
    bool describe(String& out) override;
    u32 poll(PollTable* table) override;
    Result<Ref<File>> mapped_file(u64& offset, u64 length) override;
    const Ref<IoRing>& ring() const { return ring_; }

private:
    Ref<IoRing> ring_;
};

// The rings of a process end with it, and when it executes another program.
void end_io_rings(Process& process);

} // namespace kernel
