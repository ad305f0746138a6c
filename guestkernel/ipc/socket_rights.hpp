// Descriptors on their way through a socket (SCM_RIGHTS, unix(7)).
#pragma once

#include "guestkernel/core/ref.hpp"
#include "guestkernel/fs/file.hpp"
#include "guestkernel/lib/vector.hpp"

namespace kernel {

class UserAccount;

// The files of one message. While it sits in a queue it is in flight: counted, and known to the
// collector of cycles.
class FileRights {
public:
    static constexpr usize limit = 253; // SCM_MAX_FD
    FileRights();
    FileRights(const FileRights&) = delete;
    FileRights& operator=(const FileRights&) = delete;
    ~FileRights();

    Result<void> add(Ref<File> file) { return files_.push_back(std::move(file)); }
    // For MSG_PEEK. Requires: no lock is held; a file of the queue's socket is.
    Result<Owned<FileRights>> clone() const;
    std::span<Ref<File>> files() { return files_.span(); }

    // Around its stay in a queue. ETOOMANYREFS: too much is in flight, in all or of the caller's
    // user. Requires: no lock is held; files of closed cycles may be closed.
    Result<void> depart();
    void arrive();

private:
    friend struct RightsDrain;
    Result<void> depart_locked();
    Vector<Ref<File>> files_;
    Ref<UserAccount> account_;   // whose they are while they are in flight
    FileRights* next_ = nullptr; // of those that wait to be closed
    bool in_flight_ = false;
};

// Closes the files without recursion: a file that dies may itself hold queued messages with files.
void discard_rights(Owned<FileRights> rights);

} // namespace kernel
