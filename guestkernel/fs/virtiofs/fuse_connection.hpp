// A FUSE server that is a program of the guest: requests wait in a queue until it reads them from
// /dev/fuse, and are answered by what it writes there. fuse(4).
//
// Locks: queue_lock_ (spin) guards the lists and states; answer_mutex_ (sleeping, innermost) is
// held while an answer is put where the caller wants it, and by callers that go before it came.
// Callers sleep with whatever locks they have; the server needs none of them to answer unless it
// works on its own file system, which is its mistake, and killing it ends all waiting.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/virtiofs/fuse_channel.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/sched/mutex.hpp"

struct fuse_out_header;

namespace kernel {

class VirtiofsSuperblock;

class FuseConnection final : public RefCounted, public FuseTransport {
public:
    static constexpr usize largest_payload = 60u << 10; // of file contents in a message

    Result<u32> call(const FuseCall& request) override;
    void forget(u64 node, u64 lookups) override;
    // Whether the server answered the first message yet is for the connection to know: requests
    // wait until it has.
    Result<void> start(VirtiofsSuperblock& fs, Ref<UserNamespace> ids);
    // No more answers: everybody who waits gets ENOTCONN. `unmounted`: the server reads ENODEV.
    void disconnect(bool unmounted);

    // The server's side.
    Result<usize> read(IoBuffer& out, bool non_blocking);
    Result<usize> write(IoBuffer& in);
    u32 poll(PollTable* table);
    bool started() const { return state_.load(base::Order::Acquire) != State::Fresh; }

private:
    enum class State : u32 { Fresh, Waiting, Ready, Closed, Unmounted };
    struct Request : RefCounted {
        base::ListNode node;
        Vector<u8> message;
        u64 unique = 0;
        u32 opcode = 0;
        const FuseCall* call = nullptr; // null once the caller is gone, and for those without one
        bool queued = false, sent = false, interrupted = false;
        base::Atomic<bool> done{false};
        int error = 0;
        u32 length = 0; // of the data
        WaitQueue waiters;
    };
    using List = base::IntrusiveList<Request, &Request::node>;

    Result<Ref<Request>> make_request(const FuseCall& call);
    Result<void> enqueue(Ref<Request> request, bool first);
    bool withdraw(Request& request); // before it was read
    void interrupt(Request& request);
    Ref<Request> take_sent(u64 unique);
    void finish(Request& request, int error, u32 length);
    Result<void> deliver(Request& request, const fuse_out_header& header, const u8* body,
                         u32 bytes);
    bool open() const;

    SpinLock queue_lock_{LockRank::Leaf};
    List waiting_, sent_; // each holds a reference
    base::Atomic<State> state_{State::Fresh};
    base::Atomic<u64> next_unique_{2};
    Mutex answer_mutex_;
    WaitQueue readers_;                // the server
    WaitQueue ready_;                  // callers who came before the server was
    VirtiofsSuperblock* fs_ = nullptr; // under answer_mutex_, while connected
    Ref<UserNamespace> ids_;           // what the server calls users and groups by
    u64 first_unique_ = 0;
};

// /dev/fuse, opened.
class FuseDeviceFile final : public File {
public:
    static constexpr char file_type[] = "fuse-device";
    FuseDeviceFile(Path path, Ref<Inode> inode, u32 flags, Ref<FuseConnection> connection)
        : File(std::move(path), std::move(inode), flags), connection_(std::move(connection)) {}
    ~FuseDeviceFile() override;
    const char* type_name() const override { return file_type; }
    bool is_stream() const override { return true; }
    bool signals_readiness() const override { return true; }
    Result<usize> read(IoBuffer& out, u64 offset) override;
    Result<usize> write(IoBuffer& in, u64 offset) override;
    u32 poll(PollTable* table) override;
    FuseConnection& connection() const { return *connection_; }

private:
    Ref<FuseConnection> connection_;
};

void register_fuse_device();
// mount -t fuse or fuse.SUBTYPE: the options name the descriptor of /dev/fuse.
Result<Ref<Superblock>> mount_fuse(std::string_view type, std::string_view options);

} // namespace kernel
