// System V semaphores, message queues and shared memory. sysvipc(7).
#include <csignal>
#include <ctime>
#include <initializer_list>
#include <unistd.h>

#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
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
    CHECK(shmdt(const_cast<char*>(shared)) == 0);
    CHECK_FAILS(shmctl(id, IPC_STAT, &status), EINVAL);
}

} // namespace

int main() {
    semaphores();
    messages();
    memory();
}
