# strace and gdb on a program with threads.
# seconds: 300
cat >threads.c <<'SCRIPT'
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
int shared;
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
int doubled(int n) { return 2 * n; }
void *work(void *argument) {
    pthread_mutex_lock(&lock);
    shared += doubled(*(int *)argument);
    pthread_mutex_unlock(&lock);
    return 0;
}
int main(void) {
    pthread_t threads[4];
    int numbers[4] = {1, 2, 3, 4};
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, work, &numbers[i]);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
    printf("%d\n", shared);
    return 0;
}
SCRIPT
gcc -g -o threads threads.c -pthread
strace -f -o trace ./threads
test "$(grep -cE 'clone3?\(' trace)" -ge 4
grep -q 'write(1, "20\\n", 3)' trace
strace -c -f -o counts ./threads
grep -q futex counts
gdb -batch -nx -ex 'break doubled' -ex run -ex 'info threads' -ex backtrace -ex 'finish' -ex delete -ex continue ./threads >session 2>&1
grep -q 'Value returned is' session
grep -q 'exited normally' session
