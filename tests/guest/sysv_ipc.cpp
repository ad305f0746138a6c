// System V semaphores, message queues and shared memory. sysvipc(7).
#include <csignal>
#include <cstdint>
#include <ctime>
#include <fcntl.h>
#include <functional>
#include <initializer_list>
#include <thread>
#include <unistd.h>

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

void reap(pid_t child) {
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void semaphores() {
    const int id = semget(IPC_PRIVATE, 3, IPC_CREAT | 0600);
    CHECK(id >= 0);
    unsigned short values[3] = {1, 0, 5};
    CHECK(semctl(id, 0, SETALL, values) == 0);
    CHECK(semctl(id, 2, GETVAL) == 5);
    CHECK_FAILS(semctl(id, 3, GETVAL), EINVAL);
    CHECK_FAILS(semctl(id, 0, SETVAL, 40000), ERANGE);
    // All or nothing.
    sembuf two[2] = {{2, -5, 0}, {1, -1, IPC_NOWAIT}};
    CHECK_FAILS(semop(id, two, 2), EAGAIN);
    CHECK(semctl(id, 2, GETVAL) == 5);
    sembuf beyond{9, 1, 0};
    CHECK_FAILS(semop(id, &beyond, 1), EFBIG);
    sembuf zero{1, 0, 0};
    CHECK(semop(id, &zero, 1) == 0);
    sembuf take{1, -1, 0};
    const timespec moment{0, 10'000'000};
    CHECK_FAILS(semtimedop(id, &take, 1, &moment), EAGAIN);
    // One waits for another; the end of a process is undone.
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        sembuf undone{0, -1, SEM_UNDO};
        sembuf give{1, 1, 0};
        _exit(semop(id, &undone, 1) == 0 && semop(id, &give, 1) == 0 ? 0 : 1);
    }
    CHECK(semop(id, &take, 1) == 0);
    reap(child);
    CHECK(semctl(id, 0, GETVAL) == 1);
    semid_ds status{};
    CHECK(semctl(id, 0, IPC_STAT, &status) == 0);
    CHECK(status.sem_nsems == 3 && (status.sem_perm.mode & 0777) == 0600);
    // Removal ends waits.
    child = fork();
    if (child == 0)
        _exit(semop(id, &take, 1) == -1 && errno == EIDRM ? 0 : 1);
    while (semctl(id, 1, GETNCNT) == 0)
        usleep(1000);
    CHECK(semctl(id, 0, IPC_RMID) == 0);
    reap(child);
    CHECK_FAILS(semop(id, &take, 1), EINVAL);
}

// A process may not do more with SEM_UNDO than its end can take back.
void too_much_to_undo() {
    const int id = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
    CHECK(id >= 0);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        const auto change = [&](short by, short flags) {
            sembuf one{0, by, flags};
            return semop(id, &one, 1);
        };
        CHECK(change(32767, SEM_UNDO) == 0 && change(-32767, 0) == 0);
        CHECK(change(1, SEM_UNDO) == 0 && change(-1, 0) == 0);
        CHECK_FAILS(change(1, SEM_UNDO), ERANGE);
        CHECK(semctl(id, 0, GETVAL) == 0);
        // Neither does a part of what fails.
        sembuf both[2] = {{0, 2, 0}, {0, 1, SEM_UNDO}};
        CHECK_FAILS(semop(id, both, 2), ERANGE);
        sembuf back[2] = {{0, 5, 0}, {0, -3, SEM_UNDO}};
        CHECK(semop(id, back, 2) == 0 && semctl(id, 0, GETVAL) == 2);
        CHECK(change(3, SEM_UNDO) == 0);
        CHECK_FAILS(change(1, SEM_UNDO), ERANGE);
        _exit(0);
    }
    reap(child);
    CHECK(semctl(id, 0, GETVAL) == 0);
    CHECK(semctl(id, 0, IPC_RMID) == 0);
}

struct Text {
    long type;
    char text[64];
};

void messages() {
    const key_t key = 0x4a6f0000 + getpid();
    CHECK_FAILS(msgget(key, 0600), ENOENT);
    const int id = msgget(key, IPC_CREAT | IPC_EXCL | 0600);
    CHECK(id >= 0);
    CHECK_FAILS(msgget(key, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
    CHECK(msgget(key, 0) == id);
    for (const long type : {3L, 1L, 2L}) {
        Text message{type, "message"};
        message.text[7] = static_cast<char>('0' + type);
        CHECK(msgsnd(id, &message, 8, 0) == 0);
    }
    Text bad{0, ""};
    CHECK_FAILS(msgsnd(id, &bad, 0, 0), EINVAL);
    Text got{};
    CHECK_FAILS(msgrcv(id, &got, 4, 0, 0), E2BIG);
    CHECK(msgrcv(id, &got, 64, 2, 0) == 8 && got.type == 2 && got.text[7] == '2');
    CHECK(msgrcv(id, &got, 64, -2, 0) == 8 && got.type == 1);
    CHECK_FAILS(msgrcv(id, &got, 64, 9, IPC_NOWAIT), ENOMSG);
    CHECK(msgrcv(id, &got, 4, 0, MSG_NOERROR) == 4 && got.type == 3);
    msqid_ds status{};
    CHECK(msgctl(id, IPC_STAT, &status) == 0);
    CHECK(status.msg_qnum == 0 && status.msg_lspid == getpid());
    const pid_t child = fork();
    if (child == 0)
        _exit(msgrcv(id, &got, 64, 7, 0) == 2 && msgrcv(id, &got, 64, 7, 0) == -1 && errno == EIDRM
                  ? 0
                  : 1);
    Text seven{7, "7"};
    CHECK(msgsnd(id, &seven, 2, 0) == 0);
    do {
        usleep(1000);
        CHECK(msgctl(id, IPC_STAT, &status) == 0);
    } while (status.msg_qnum != 0);
    CHECK(msgctl(id, IPC_RMID, nullptr) == 0);
    reap(child);
}

void memory() {
    const int id = shmget(IPC_PRIVATE, 10'000, IPC_CREAT | 0600);
    CHECK(id >= 0);
    auto* shared = static_cast<volatile char*>(shmat(id, nullptr, 0));
    CHECK(shared != reinterpret_cast<char*>(-1));
    CHECK(shared[9'999] == 0);
    shared[0] = 'a';
    auto* again = static_cast<volatile char*>(shmat(id, nullptr, SHM_RDONLY));
    CHECK(again != shared && again[0] == 'a');
    CHECK_FAILS(mprotect(const_cast<char*>(again), 4096, PROT_READ | PROT_WRITE), EACCES);
    shmid_ds status{};
    CHECK(shmctl(id, IPC_STAT, &status) == 0);
    CHECK(status.shm_segsz == 10'000 && status.shm_nattch == 2 && status.shm_cpid == getpid());
    CHECK(shmdt(const_cast<char*>(again)) == 0);
    CHECK_FAILS(shmdt(const_cast<char*>(again)), EINVAL);
    const pid_t child = fork();
    if (child == 0) {
        shared[5'000] = 'c';
        _exit(0);
    }
    reap(child);
    CHECK(shared[5'000] == 'c');
    CHECK(shmctl(id, IPC_STAT, &status) == 0 && status.shm_nattch == 1);
    CHECK(shmctl(id, IPC_RMID, nullptr) == 0);
    CHECK(shared[0] == 'a'); // until it is detached
    CHECK(shmctl(id, IPC_STAT, &status) == 0 && (status.shm_perm.mode & SHM_DEST) != 0);
    CHECK(status.shm_nattch == 1 && status.shm_perm.__key == IPC_PRIVATE);
    again = static_cast<volatile char*>(shmat(id, nullptr, 0)); // by its number it is still found
    CHECK(again != reinterpret_cast<char*>(-1) && again[0] == 'a');
    CHECK(shmdt(const_cast<char*>(again)) == 0);
    CHECK(shmdt(const_cast<char*>(shared)) == 0);
    CHECK_FAILS(shmctl(id, IPC_STAT, &status), EINVAL);
}

// What ipcs(1) asks: limits, use, and objects by their place in the table.
void tables() {
    shminfo limits{};
    CHECK(shmctl(0, IPC_INFO, reinterpret_cast<shmid_ds*>(&limits)) >= 0);
    CHECK(limits.shmmin == 1 && limits.shmmni >= 4096 && limits.shmmax > 1ul << 40);
    msginfo message_limits{};
    CHECK(msgctl(0, IPC_INFO, reinterpret_cast<msqid_ds*>(&message_limits)) >= 0);
    CHECK(message_limits.msgmax == 8192 && message_limits.msgmnb == 16384);
    seminfo semaphore_limits{};
    CHECK(semctl(0, 0, IPC_INFO, &semaphore_limits) >= 0);
    CHECK(semaphore_limits.semvmx == 32767 && semaphore_limits.semopm == 500);

    const int segment = shmget(IPC_PRIVATE, 3 * 4096, 0600), queue = msgget(IPC_PRIVATE, 0600),
              set = semget(IPC_PRIVATE, 4, 0600);
    CHECK(segment >= 0 && queue >= 0 && set >= 0);
    Text message{1, "12345678"};
    CHECK(msgsnd(queue, &message, 8, 0) == 0);
    message.type = 2;
    CHECK(msgsnd(queue, &message, 5, 0) == 0);
    shm_info used{};
    const int last_segment = shmctl(0, SHM_INFO, reinterpret_cast<shmid_ds*>(&used));
    CHECK(last_segment >= 0 && used.used_ids >= 1 && used.shm_tot >= 3);
    msginfo messages_used{};
    const int last_queue = msgctl(0, MSG_INFO, reinterpret_cast<msqid_ds*>(&messages_used));
    CHECK(last_queue >= 0 && messages_used.msgpool >= 1 && messages_used.msgmap >= 2 &&
          messages_used.msgtql >= 13);
    seminfo semaphores_used{};
    const int last_set = semctl(0, 0, SEM_INFO, &semaphores_used);
    CHECK(last_set >= 0 && semaphores_used.semusz >= 1 && semaphores_used.semaem >= 4);
    bool seen[3] = {};
    shmid_ds segment_status;
    for (int i = 0; i <= last_segment; i++)
        if (shmctl(i, SHM_STAT, &segment_status) == segment)
            seen[0] = segment_status.shm_segsz == 3 * 4096;
    msqid_ds queue_status;
    for (int i = 0; i <= last_queue; i++)
        if (msgctl(i, MSG_STAT, &queue_status) == queue)
            seen[1] = queue_status.msg_qnum == 2;
    semid_ds set_status;
    for (int i = 0; i <= last_set; i++)
        if (semctl(i, 0, SEM_STAT, &set_status) == set)
            seen[2] = set_status.sem_nsems == 4;
    CHECK(seen[0] && seen[1] && seen[2]);
    CHECK_FAILS(shmctl(-1, SHM_STAT, &segment_status), EINVAL);
    CHECK_FAILS(msgctl(31'000, MSG_STAT, &queue_status), EINVAL);
    // Without the right to read, *_STAT is refused and *_STAT_ANY is not.
    if (getuid() == 0) {
        const pid_t child = fork();
        if (child == 0) {
            CHECK(setuid(65534) == 0);
            bool found = false;
            for (int i = 0; i <= last_segment && !found; i++)
                if (shmctl(i, 15 /* SHM_STAT_ANY */, &segment_status) == segment) {
                    found = true;
                    CHECK_FAILS(shmctl(i, SHM_STAT, &segment_status), EACCES);
                }
            _exit(found ? 0 : 1);
        }
        reap(child);
    }
    CHECK(shmctl(segment, IPC_RMID, nullptr) == 0 && semctl(set, 0, IPC_RMID) == 0);
    // Copies of messages, by place.
    Text copy{};
    if (msgrcv(queue, &copy, 64, 1, MSG_COPY | IPC_NOWAIT) != -1 || errno != ENOSYS) {
        CHECK(copy.type == 2 && std::memcmp(copy.text, "12345", 5) == 0);
        CHECK(msgrcv(queue, &copy, 64, 0, MSG_COPY | IPC_NOWAIT) == 8 && copy.type == 1);
        CHECK_FAILS(msgrcv(queue, &copy, 64, 2, MSG_COPY | IPC_NOWAIT), ENOMSG);
        CHECK_FAILS(msgrcv(queue, &copy, 3, 0, MSG_COPY | IPC_NOWAIT), E2BIG);
        CHECK_FAILS(msgrcv(queue, &copy, 3, 0, MSG_COPY | IPC_NOWAIT | MSG_NOERROR), EINVAL);
        CHECK_FAILS(msgrcv(queue, &copy, 64, 0, MSG_COPY), EINVAL);
        CHECK_FAILS(msgrcv(queue, &copy, 64, 0, MSG_COPY | MSG_EXCEPT | IPC_NOWAIT), EINVAL);
        CHECK(msgctl(queue, IPC_STAT, &queue_status) == 0 && queue_status.msg_qnum == 2);
    }
    CHECK(msgctl(queue, IPC_RMID, nullptr) == 0);
}

// A page that is asked of another program and not yet given holds up who asked for it, nobody else.
void page_of_another() {
    const int fault = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));
    if (fault < 0)
        return; // not allowed here
    constexpr size_t page = 4096;
    auto* at = static_cast<unsigned char*>(
        mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(at != MAP_FAILED);
    uffdio_api api = {UFFD_API, 0, 0};
    const auto start = reinterpret_cast<uintptr_t>(at);
    uffdio_register range = {{start, page}, UFFDIO_REGISTER_MODE_MISSING, 0};
    CHECK(ioctl(fault, UFFDIO_API, &api) == 0 && ioctl(fault, UFFDIO_REGISTER, &range) == 0);
    const int set = semget(IPC_PRIVATE, 2, IPC_CREAT | 0600);
    const int queue = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
    const int segment = shmget(IPC_PRIVATE, page, IPC_CREAT | 0600);
    CHECK(set >= 0 && queue >= 0 && segment >= 0);
    const std::function<int()> calls[] = {
        [&] { return semctl(set, 0, GETALL, at); },
        [&] { return semctl(set, 0, SETALL, at); },
        [&] { return semctl(set, 0, IPC_STAT, at); },
        [&] { return msgctl(queue, IPC_STAT, reinterpret_cast<msqid_ds*>(at)); },
        [&] { return shmctl(segment, IPC_STAT, reinterpret_cast<shmid_ds*>(at)); },
    };
    for (const auto& call : calls) {
        CHECK(madvise(at, page, MADV_DONTNEED) == 0);
        std::thread waiting([&] { CHECK(call() == 0); });
        uffd_msg message{};
        CHECK(read(fault, &message, sizeof message) == sizeof message);
        CHECK(message.event == UFFD_EVENT_PAGEFAULT);
        alarm(10);
        semid_ds status{};
        msqid_ds queue_status{};
        shmid_ds segment_status{};
        CHECK(semctl(set, 0, IPC_STAT, &status) == 0);
        CHECK(msgctl(queue, IPC_STAT, &queue_status) == 0);
        CHECK(shmctl(segment, IPC_STAT, &segment_status) == 0);
        alarm(0);
        uffdio_zeropage zero = {{start, page}, 0, 0};
        CHECK(ioctl(fault, UFFDIO_ZEROPAGE, &zero) == 0);
        waiting.join();
    }
    CHECK(semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, nullptr) == 0);
    CHECK(shmctl(segment, IPC_RMID, nullptr) == 0);
    CHECK(munmap(at, page) == 0 && close(fault) == 0);
}

} // namespace

int main() {
    semaphores();
    too_much_to_undo();
    messages();
    memory();
    tables();
    page_of_another();
}
