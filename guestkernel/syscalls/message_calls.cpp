// Sockets: messages in and out, and what travels beside their data. unix(7), cmsg(3).
#include <asm/socket.h>
#include <linux/errno.h>
#include <linux/fcntl.h>

#include "guestkernel/ipc/io_ring.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/syscalls/message_helpers.hpp"
#include "guestkernel/syscalls/socket_calls.hpp"
#include "guestkernel/syscalls/socket_helpers.hpp"
#include "guestkernel/syscalls/time_values.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constexpr int scm_rights = 1, scm_credentials = 2;
constexpr u64 most_control = 128 * 1024; // net.core.optmem_max
constexpr u64 most_vectors = 1024;       // UIO_MAXIOV
constexpr u32 most_messages = 1024;
constexpr unsigned cap_setgid = 6, cap_setuid = 7, cap_sys_admin = 21;

constexpr u64 aligned(u64 bytes) {
    return control_aligned(bytes);
}

// One's own ids, unless privileged (unix(7)).
// `claimed` has the ids of the caller's namespaces at first, those of the kernel afterwards.
Result<void> check_credentials(Task& task, SocketCredentials& claimed) {
    const Credentials& own = *task.credentials;
    const UserNamespace* space = own.user_ns.get();
    claimed.pid = global_pid(claimed.pid);
    claimed.uid = to_global_id(space, false, claimed.uid);
    claimed.gid = to_global_id(space, true, claimed.gid);
    if (claimed.uid == invalid_id || claimed.gid == invalid_id)
        return fail(EINVAL);
    // Whoever makes a user namespace has all capabilities in it, but other processes' numbers are
    // those of a pid namespace, which may be another user namespace's.
    const PidNamespace* numbers = current_pid_namespace();
    const bool pid_ok =
        claimed.pid == task.process->pid ||
        capable_over(numbers == nullptr ? nullptr : numbers->owner(), cap_sys_admin);
    const bool uid_ok = claimed.uid == own.uid || claimed.uid == own.euid ||
                        claimed.uid == own.suid || own.capable_here(cap_setuid);
    const bool gid_ok = claimed.gid == own.gid || claimed.gid == own.egid ||
                        claimed.gid == own.sgid || own.capable_here(cap_setgid);
    if (!pid_ok || !uid_ok || !gid_ok)
        return fail(EPERM);
    if (claimed.pid != task.process->pid && !find_process(claimed.pid))
        return fail(ESRCH);
    return {};
}

Result<void> take_files(Task& task, const u8* data, u64 bytes, SendRequest& request) {
    const u64 count = bytes / sizeof(int);
    if (!request.rights) {
        TRY(request.rights, make_owned<FileRights>());
    }
    if (request.rights->files().size() + count > FileRights::limit)
        return fail(EINVAL);
    for (u64 i = 0; i < count; i++) {
        int fd = -1;
        __builtin_memcpy(&fd, data + i * sizeof fd, sizeof fd);
        // Also what is only a place (O_PATH): unlike other calls, this one does nothing with it.
        TRY(Ref<File> file, task.files->get(fd));
        // A ring keeps files of its own, which the collector of cycles does not see: with the
        // socket that it lies in the queue of among them, neither would ever go.
        if (file_as<IoRingFile>(*file) != nullptr)
            return fail(EINVAL);
        TRY(request.rights->add(std::move(file)));
    }
    return {};
}

// What else may stand beside a message is the family's own affair, but where Linux's __scm_send()
// reads it.
bool knows_no_more(const SocketFile& socket) {
    constexpr int family_netlink = 16;
    return socket.family() == family_unix || socket.family() == family_netlink;
}

Result<void> parse_control(Task& task, const SocketFile& socket, std::span<const u8> control,
                           SendRequest& request) {
    u64 at = 0;
    while (at + sizeof(ControlHeader) <= control.size()) {
        ControlHeader header;
        __builtin_memcpy(&header, control.data() + at, sizeof header);
        if (header.length < sizeof header || header.length > control.size() - at)
            return fail(EINVAL);
        const u8* data = control.data() + at + sizeof header;
        const u64 bytes = header.length - sizeof header;
        at += aligned(header.length);
        if (header.level != SOL_SOCKET)
            continue;
        if (header.type == scm_rights) {
            TRY(take_files(task, data, bytes, request));
        } else if (header.type == scm_credentials) {
            if (bytes != sizeof(SocketCredentials))
                return fail(EINVAL);
            __builtin_memcpy(&request.credentials, data, sizeof request.credentials);
            TRY(check_credentials(task, request.credentials));
            request.has_credentials = true;
        } else if (knows_no_more(socket)) {
            return fail(EINVAL);
        }
    }
    if (request.rights && request.rights->files().empty())
        request.rights = {};
    return {};
}

// The bytes stay in `control` for as long as the request is used.
Result<void> load_control(Task& task, const SocketFile& socket, const MessageHeader& header,
                          SendRequest& request, Vector<u8>& control) {
    if (header.control_length == 0)
        return {};
    if (header.control_length > most_control)
        return fail(ENOBUFS);
    TRY(control.resize(header.control_length));
    TRY(copy_in_bytes(control.data(), header.control, control.size()));
    request.control = control.span();
    return parse_control(task, socket, control.span(), request);
}

Result<void> check_vector_count(u64 count) {
    if (count > most_vectors)
        return fail(EMSGSIZE);
    return {};
}

Result<long> send_message(Task& task, const Ref<File>& file, const MessageHeader& header,
                          u32 flags) {
    SendRequest request;
    request.flags = flags;
    SocketAddress to;
    if (header.name != 0 && header.name_length != 0) {
        const int length = header.name_length > static_cast<int>(SocketAddress::capacity)
                               ? static_cast<int>(SocketAddress::capacity)
                               : header.name_length;
        TRY(copy_address_in(header.name, length, to));
        request.to = &to;
    }
    TRY(check_vector_count(header.vector_count));
    UserVectors vectors;
    TRY(vectors.load(header.vectors, header.vector_count));
    Vector<u8> control;
    TRY(load_control(task, as_socket(file), header, request, control));
    IoBuffer data(vectors.span());
    TRY(const usize sent, as_socket(file).send(data, request));
    return static_cast<long>(sent);
}

// Writes control messages to the caller's buffer, as far as it reaches.
class ControlWriter {
public:
    ControlWriter(u64 address, u64 room) : address_(address), room_(room) {}

    Result<void> credentials(const SocketCredentials& value) {
        const u64 bytes = sizeof(ControlHeader) + sizeof value;
        if (room_ < sizeof(ControlHeader)) {
            truncated_ = true;
            return {};
        }
        const u64 fits = bytes <= room_ ? bytes : room_;
        truncated_ = truncated_ || fits < bytes;
        TRY(copy_out_bytes(address_ + sizeof(ControlHeader), &value, fits - sizeof(ControlHeader)));
        return finish(fits, scm_credentials);
    }

    // What the family has to say, each message cut where the caller's room ends.
    Result<void> messages(std::span<const u8> all) {
        return for_control_messages(all, [&](int level, int type, std::span<const u8> data) {
            return one(level, type, data);
        });
    }

    // The files become descriptors, as many as fit; the others are closed.
    Result<void> rights(Task& task, FileRights& rights, bool close_on_exec) {
        const auto files = rights.files();
        const u64 slots =
            room_ > sizeof(ControlHeader) ? (room_ - sizeof(ControlHeader)) / sizeof(int) : 0;
        usize made = 0;
        for (; made < files.size() && made < slots; made++) {
            const auto fd = task.files->reserve();
            if (!fd)
                break;
            const u64 place = address_ + sizeof(ControlHeader) + made * sizeof(int);
            if (!copy_out_bytes(place, &*fd, sizeof(int))) {
                task.files->unreserve(*fd);
                break;
            }
            task.files->fill(*fd, files[made], close_on_exec);
        }
        truncated_ = truncated_ || made < files.size();
        if (made == 0)
            return {};
        return finish(sizeof(ControlHeader) + made * sizeof(int), scm_rights);
    }
    // All of it or nothing: a descriptor that is not told of would stay open.
    Result<void> pidfd(Task& task, Ref<File> file) {
        if (room_ < sizeof(ControlHeader) + sizeof(int)) {
            truncated_ = true;
            return {};
        }
        if (!file)
            return {};
        const auto fd = task.files->reserve();
        // As Linux does: what went wrong takes the number's place.
        const int shown = fd ? *fd : -fd.error().code;
        auto told = copy_out_bytes(address_ + sizeof(ControlHeader), &shown, sizeof shown);
        if (told)
            told = finish(sizeof(ControlHeader) + sizeof shown, scm_pidfd);
        if (!fd)
            return told;
        if (told)
            task.files->fill(*fd, std::move(file), true);
        else
            task.files->unreserve(*fd);
        return told;
    }
    u64 written() const { return written_; }
    bool truncated() const { return truncated_; }

private:
    Result<void> one(int level, int type, std::span<const u8> data) {
        const u64 bytes = sizeof(ControlHeader) + data.size();
        if (room_ < sizeof(ControlHeader)) {
            truncated_ = true;
            return {};
        }
        const u64 fits = bytes <= room_ ? bytes : room_;
        truncated_ = truncated_ || fits < bytes;
        TRY(copy_out_bytes(address_ + sizeof(ControlHeader), data.data(),
                           fits - sizeof(ControlHeader)));
        return finish(fits, type, level);
    }

    Result<void> finish(u64 bytes, int type, int level = SOL_SOCKET) {
        const ControlHeader header{bytes, level, type};
        TRY(copy_out_bytes(address_, &header, sizeof header));
        const u64 step = aligned(bytes) < room_ ? aligned(bytes) : room_;
        address_ += step;
        room_ -= step;
        written_ += step;
        return {};
    }

    u64 address_, room_;
    u64 written_ = 0;
    bool truncated_ = false;
};

// Receives, and fills in the header's answers.
Result<long> receive_message(Task& task, const Ref<File>& file, MessageHeader& header, u32 flags) {
    if (header.name_length < 0 && header.name != 0)
        return fail(EINVAL);
    TRY(check_vector_count(header.vector_count));
    UserVectors vectors;
    TRY(vectors.load(header.vectors, header.vector_count));
    IoBuffer data(vectors.span());
    ReceiveRequest request;
    request.flags = flags;
    request.wants_address = header.name != 0;
    request.wants_control = true;
    TRY(const usize received, as_socket(file).receive(data, request));
    if (header.name != 0) {
        const u32 room = static_cast<u32>(header.name_length);
        const u32 bytes = request.from.length < room ? request.from.length : room;
        TRY(copy_out_bytes(header.name, request.from.bytes, bytes));
        header.name_length = static_cast<i32>(request.from.length);
    }
    ControlWriter control(header.control, header.control != 0 ? header.control_length : 0);
    if (request.has_credentials)
        TRY(control.credentials(visible_credentials(request.credentials)));
    if (request.control_length > 0)
        TRY(control.messages(std::span<const u8>(request.control, request.control_length)));
    if (request.rights)
        TRY(control.rights(task, *request.rights, (flags & msg_cmsg_cloexec) != 0));
    if (request.has_pidfd)
        TRY(control.pidfd(task, std::move(request.pidfd)));
    header.control_length = control.written();
    header.flags =
        request.result_flags | (control.truncated() ? msg_ctrunc : 0) | (flags & msg_cmsg_cloexec);
    return static_cast<long>(received);
}

Result<void> copy_answers(UserPtr<MessageHeader> to, const MessageHeader& header, bool named) {
    // Only these: the rest of the caller's structure is its own.
    const u64 base = to.raw();
    if (named)
        TRY(UserPtr<i32>(base + offsetof(MessageHeader, name_length)).copy_out(header.name_length));
    TRY(UserPtr<u64>(base + offsetof(MessageHeader, control_length))
            .copy_out(header.control_length));
    return UserPtr<u32>(base + offsetof(MessageHeader, flags)).copy_out(header.flags);
}

Result<UserVector> one_vector(u64 buffer, u64 bytes) {
    if (!user_range_ok(buffer, bytes < largest_transfer ? bytes : largest_transfer))
        return fail(EFAULT);
    return UserVector{buffer, bytes < largest_transfer ? bytes : largest_transfer};
}

} // namespace

Result<long> sys_sendto(Task& task, int fd, u64 buffer, u64 bytes, u32 flags, u64 address,
                        int length) {
    TRY(Ref<File> file, socket_file(task, fd));
    TRY(const UserVector vector, one_vector(buffer, bytes));
    SendRequest request;
    request.flags = flags;
    SocketAddress to;
    if (address != 0) {
        TRY(copy_address_in(address, length, to));
        if (length != 0)
            request.to = &to;
    }
    IoBuffer data(std::span<const UserVector>(&vector, 1));
    TRY(const usize sent, as_socket(file).send(data, request));
    return static_cast<long>(sent);
}

Result<long> sys_recvfrom(Task& task, int fd, u64 buffer, u64 bytes, u32 flags, u64 address,
                          UserPtr<int> length) {
    TRY(Ref<File> file, socket_file(task, fd));
    TRY(const UserVector vector, one_vector(buffer, bytes));
    ReceiveRequest request;
    request.flags = flags;
    request.wants_address = address != 0;
    IoBuffer data(std::span<const UserVector>(&vector, 1));
    TRY(const usize received, as_socket(file).receive(data, request));
    if (address != 0)
        TRY(copy_address_out(request.from, address, length));
    return static_cast<long>(received);
}

Result<long> send_message_from(Task& task, const Ref<File>& file, u64 address, u32 flags) {
    TRY(const MessageHeader header, UserPtr<const MessageHeader>(address).copy_in());
    return send_message(task, file, header, flags);
}

Result<long> receive_message_into(Task& task, const Ref<File>& file, u64 address, u32 flags) {
    const UserPtr<MessageHeader> message(address);
    TRY(MessageHeader header, message.copy_in());
    TRY(const long received, receive_message(task, file, header, flags));
    TRY(copy_answers(message, header, header.name != 0));
    return received;
}

Result<long> sys_sendmsg(Task& task, int fd, UserPtr<const MessageHeader> message, u32 flags) {
    TRY(Ref<File> file, socket_file(task, fd));
    return send_message_from(task, file, message.raw(), flags);
}

Result<long> sys_recvmsg(Task& task, int fd, UserPtr<MessageHeader> message, u32 flags) {
    TRY(Ref<File> file, socket_file(task, fd));
    return receive_message_into(task, file, message.raw(), flags);
}

Result<long> sys_sendmmsg(Task& task, int fd, UserPtr<MultiMessage> messages, u32 count,
                          u32 flags) {
    TRY(Ref<File> file, socket_file(task, fd));
    if (count > most_messages)
        count = most_messages;
    long done = 0;
    for (; done < static_cast<long>(count); done++) {
        const auto at = messages + static_cast<usize>(done);
        const auto one = [&]() -> Result<void> {
            TRY(const MultiMessage message, at.copy_in());
            TRY(const long sent, send_message(task, file, message.header, flags));
            return UserPtr<u32>(at.raw() + offsetof(MultiMessage, length))
                .copy_out(static_cast<u32>(sent));
        }();
        if (!one && done == 0)
            return fail(one.error().code);
        if (!one)
            break;
    }
    return done;
}

Result<long> sys_recvmmsg(Task& task, int fd, UserPtr<MultiMessage> messages, u32 count, u32 flags,
                          u64 timeout) {
    TRY(Ref<File> file, socket_file(task, fd));
    // Looked at between messages only, as in Linux (recvmmsg(2), BUGS).
    TRY(const u64 deadline, copy_in_timeout(timeout));
    if (count > most_messages)
        count = most_messages;
    long done = 0;
    while (done < static_cast<long>(count)) {
        const auto at = messages + static_cast<usize>(done);
        const auto one = [&]() -> Result<void> {
            TRY(MultiMessage message, at.copy_in());
            TRY(const long received,
                receive_message(task, file, message.header, flags & ~msg_waitforone));
            TRY(copy_answers(UserPtr<MessageHeader>(at.raw()), message.header,
                             message.header.name != 0));
            return UserPtr<u32>(at.raw() + offsetof(MultiMessage, length))
                .copy_out(static_cast<u32>(received));
        }();
        if (!one && done == 0)
            return fail(one.error().code);
        if (!one)
            break;
        done++;
        if ((flags & msg_waitforone) != 0)
            flags |= msg_dontwait;
        if (deadline != no_deadline && monotonic_ns() >= deadline)
            break;
    }
    return done;
}

} // namespace kernel
