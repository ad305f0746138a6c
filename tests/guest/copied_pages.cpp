// Two threads write to pages that a child shares with them, at the same time: each takes copies,
// and each tells the other's CPU to forget the old page while the other does the same.
#include <cstring>
#include <pthread.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

constexpr int rounds = 4, pages = 48;
constexpr std::size_t page = 4096;
char* area;
pthread_barrier_t begin, end;

char& byte_of(int round_page, int thread) {
    return area[(static_cast<std::size_t>(round_page) * 2 + static_cast<std::size_t>(thread)) *
                page];
}

void* write_pages(void* argument) {
    const int thread = argument == nullptr ? 0 : 1;
    for (int round = 0; round < rounds; ++round) {
        pthread_barrier_wait(&begin);
        for (int index = 0; index < pages; ++index)
            ++byte_of(index, thread);
        pthread_barrier_wait(&end);
    }
    return nullptr;
}

// What the child sees is what was there when it was made.
void child(int round, int gate) {
    char none = 0;
    if (read(gate, &none, 1) != 0)
        _exit(2);
    for (int index = 0; index < pages; ++index) {
        for (int thread = 0; thread < 2; ++thread) {
            if (byte_of(index, thread) != round)
                _exit(1);
        }
    }
    _exit(0);
}

} // namespace

int main() {
    void* mapped =
        mmap(nullptr, page * pages * 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mapped != MAP_FAILED);
    area = static_cast<char*>(mapped);
    std::memset(area, 0, page * pages * 2);
    CHECK(pthread_barrier_init(&begin, nullptr, 3) == 0 &&
          pthread_barrier_init(&end, nullptr, 3) == 0);
    pthread_t threads[2];
    for (int index = 0; index < 2; ++index)
        CHECK(pthread_create(&threads[index], nullptr, write_pages, index == 0 ? nullptr : area) ==
              0);
    for (int round = 0; round < rounds; ++round) {
        int gate[2];
        CHECK(pipe(gate) == 0);
        const pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            close(gate[1]);
            child(round, gate[0]);
        }
        pthread_barrier_wait(&begin);
        pthread_barrier_wait(&end);
        close(gate[0]);
        close(gate[1]);
        int status = -1;
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    }
    for (pthread_t& thread : threads)
        CHECK(pthread_join(thread, nullptr) == 0);
    return 0;
}
