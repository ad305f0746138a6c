// keyrings(7): add_key(2), request_key(2), keyctl(2), by their system calls.
#include <cstdint>
#include <cstdio>
#include <fcntl.h>
#include <sched.h>
#include <string>
#include <unistd.h>

#include <linux/keyctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

using serial = int;

serial add(const char* type, const char* description, const char* payload, size_t bytes,
           serial ring) {
    return static_cast<serial>(syscall(SYS_add_key, type, description, payload, bytes, ring));
}
serial request(const char* type, const char* description, serial ring) {
    return static_cast<serial>(syscall(SYS_request_key, type, description, nullptr, ring));
}
template <typename... A>
long control(int operation, A... arguments) {
    return syscall(SYS_keyctl, operation, arguments...);
}

constexpr serial thread = KEY_SPEC_THREAD_KEYRING, process = KEY_SPEC_PROCESS_KEYRING,
                 session = KEY_SPEC_SESSION_KEYRING, user = KEY_SPEC_USER_KEYRING;

std::string describe(serial key) {
    char text[256] = {};
    const long length = control(KEYCTL_DESCRIBE, key, text, sizeof text);
    CHECK(length > 0 && text[length - 1] == 0);
    return text;
}

void reap(pid_t child) {
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void payloads() {
    const serial key = add("user", "joey:one", "secret", 6, process);
    CHECK(key > 0);
    char text[16] = {};
    CHECK(control(KEYCTL_READ, key, text, sizeof text) == 6 && memcmp(text, "secret", 6) == 0);
    CHECK(control(KEYCTL_READ, key, nullptr, 0) == 6);
    char expected[128];
    std::snprintf(expected, sizeof expected, "user;%d;%d;3f010000;joey:one", getuid(), getgid());
    CHECK(describe(key) == expected);
    // Added again: updated, the same key.
    CHECK(add("user", "joey:one", "changed!", 8, process) == key);
    CHECK(control(KEYCTL_READ, key, text, sizeof text) == 8 && memcmp(text, "changed!", 8) == 0);
    CHECK(control(KEYCTL_UPDATE, key, "x", 1) == 0);
    CHECK(control(KEYCTL_READ, key, text, sizeof text) == 1);
    CHECK(request("user", "joey:one", 0) == key);
    CHECK_FAILS(request("user", "joey:other", 0), ENOKEY);
    CHECK(request("no-such-type", "joey:one", 0) == -1);

    CHECK_FAILS(add("user", "joey:two", "", 0, process), EINVAL);
    CHECK_FAILS(add("user", "", "x", 1, process), EINVAL);
    CHECK_FAILS(add("no-such-type", "joey:two", "x", 1, process), ENODEV);
    CHECK_FAILS(add(".user", "joey:two", "x", 1, process), EPERM);
    CHECK_FAILS(add("user", "joey:two", nullptr, 1, process), EFAULT);
    CHECK_FAILS(add("user", "joey:two", "x", 1, 0), EINVAL);
    CHECK_FAILS(add("user", "joey:two", "x", 1, key), ENOTDIR);
    std::string large(32768, 'l');
    CHECK_FAILS(add("user", "joey:two", large.data(), large.size(), process), EINVAL);

    const serial logon = add("logon", "joey:logon", "secret", 6, process);
    CHECK(logon > 0);
    CHECK_FAILS(control(KEYCTL_READ, logon, text, sizeof text), EOPNOTSUPP);
    CHECK_FAILS(add("logon", "no-prefix", "x", 1, process), EINVAL);
    CHECK(control(KEYCTL_UNLINK, key, process) == 0);
    CHECK(control(KEYCTL_UNLINK, logon, process) == 0);
    CHECK(control(KEYCTL_UNLINK, logon, process) == -1);
}

void rings() {
    const serial outer = add("keyring", "joey:outer", nullptr, 0, process);
    const serial inner = add("keyring", "joey:inner", nullptr, 0, outer);
    const serial key = add("user", "joey:deep", "d", 1, inner);
    CHECK(outer > 0 && inner > 0 && key > 0);
    CHECK_FAILS(add("keyring", "joey:bad", "x", 1, process), EINVAL);
    CHECK(control(KEYCTL_SEARCH, outer, "user", "joey:deep", 0) == key);
    CHECK(request("user", "joey:deep", 0) == key);
    CHECK_FAILS(control(KEYCTL_SEARCH, outer, "user", "joey:none", 0), ENOKEY);
    CHECK_FAILS(control(KEYCTL_SEARCH, key, "user", "joey:deep", 0), ENOTDIR);
    CHECK_FAILS(control(KEYCTL_LINK, outer, inner), EDEADLK);
    serial list[4] = {};
    CHECK(control(KEYCTL_READ, inner, list, sizeof list) == sizeof(serial) && list[0] == key);
    CHECK(control(KEYCTL_LINK, key, outer) == 0);
    CHECK(control(KEYCTL_READ, outer, list, sizeof list) == 2 * sizeof(serial));
    CHECK(control(KEYCTL_MOVE, key, inner, process, 0) == 0);
    CHECK(control(KEYCTL_READ, inner, list, sizeof list) == 0);
    CHECK_FAILS(control(KEYCTL_MOVE, key, inner, process, 0), ENOENT);
    CHECK(control(KEYCTL_CLEAR, outer) == 0);
    CHECK(control(KEYCTL_READ, outer, nullptr, 0) == 0);
    CHECK(control(KEYCTL_UNLINK, key, process) == 0);
    CHECK(control(KEYCTL_UNLINK, outer, process) == 0);
    CHECK_FAILS(control(KEYCTL_READ, 0x7ffffff0, nullptr, 0), ENOKEY);
    CHECK_FAILS(control(KEYCTL_CLEAR, -99), EINVAL);
}

// Six layers of rings, each of which holds all of the next layer: millions of ways lead through
// them, which a search does not have to go one by one.
void many_ways() {
    if (getuid() != 0)
        return; // others may not have as many keys
    constexpr int layers = 6, width = 30;
    static serial ring[layers][width];
    for (int layer = 0; layer < layers; layer++)
        for (int i = 0; i < width; i++) {
            const std::string name = std::to_string(layer) + '.' + std::to_string(i);
            ring[layer][i] = add("keyring", name.c_str(), nullptr, 0, process);
            CHECK(ring[layer][i] > 0);
        }
    for (int layer = 0; layer + 1 < layers; layer++)
        for (const serial upper : ring[layer])
            for (const serial lower : ring[layer + 1])
                CHECK(control(KEYCTL_LINK, lower, upper) == 0);
    const serial top = ring[0][0];
    CHECK_FAILS(control(KEYCTL_SEARCH, top, "user", "joey:none", 0), ENOKEY);
    const serial key = add("user", "joey:lowest", "l", 1, ring[layers - 1][width - 1]);
    CHECK(key > 0 && control(KEYCTL_SEARCH, top, "user", "joey:lowest", 0) == key);
    CHECK_FAILS(control(KEYCTL_LINK, top, ring[layers - 1][0]), EDEADLK);
    CHECK(control(KEYCTL_CLEAR, process) == 0);
}

void states() {
    serial key = add("user", "joey:state", "s", 1, process);
    CHECK(control(KEYCTL_SET_TIMEOUT, key, 1000) == 0);
    CHECK(control(KEYCTL_SET_TIMEOUT, key, 0) == 0);
    CHECK(control(KEYCTL_REVOKE, key) == 0);
    CHECK_FAILS(control(KEYCTL_READ, key, nullptr, 0), EKEYREVOKED);
    CHECK(control(KEYCTL_UNLINK, key, process) == 0);
    key = add("user", "joey:state", "s", 1, process);
    char label[8] = {'x'};
    CHECK(control(KEYCTL_GET_SECURITY, key, label, sizeof label) >= 1);
    CHECK(control(KEYCTL_SETPERM, key, 0x3f000000) == 0);
    CHECK(describe(key).find(";3f000000;") != std::string::npos);
    CHECK(control(KEYCTL_SETPERM, key, 0x3d000000) == 0);
    CHECK(control(KEYCTL_READ, key, nullptr, 0) == 1); // found by searching
    CHECK(control(KEYCTL_SETPERM, key, 0x35000000) == 0);
    CHECK_FAILS(control(KEYCTL_READ, key, nullptr, 0), EACCES);
    CHECK_FAILS(control(KEYCTL_SETPERM, key, 0x40000000), EINVAL);
    CHECK(control(KEYCTL_UNLINK, key, process) == 0);
    key = add("user", "joey:gone", "s", 1, process);
    CHECK(control(KEYCTL_INVALIDATE, key) == 0);
    CHECK_FAILS(request("user", "joey:gone", 0), ENOKEY);
    CHECK_FAILS(control(KEYCTL_ASSUME_AUTHORITY, 1), ENOKEY);
    CHECK_FAILS(control(9999), EOPNOTSUPP);
}

void sharing() {
    // A session is inherited, the process's and the thread's rings are not.
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        const long ring = control(KEYCTL_JOIN_SESSION_KEYRING, nullptr);
        CHECK(ring > 0);
        CHECK(control(KEYCTL_GET_KEYRING_ID, session, 0) == ring);
        const serial shared = add("user", "joey:session", "s", 1, session);
        const serial own = add("user", "joey:process", "p", 1, process);
        const serial mine = add("user", "joey:thread", "t", 1, thread);
        CHECK(shared > 0 && own > 0 && mine > 0);
        CHECK(request("user", "joey:process", 0) == own);
        const pid_t grandchild = fork();
        if (grandchild == 0) {
            CHECK(request("user", "joey:session", 0) == shared);
            CHECK_FAILS(request("user", "joey:process", 0), ENOKEY);
            CHECK_FAILS(request("user", "joey:thread", 0), ENOKEY);
            CHECK_FAILS(control(KEYCTL_GET_KEYRING_ID, thread, 0), ENOKEY);
            _exit(0);
        }
        reap(grandchild);
        const long named = control(KEYCTL_JOIN_SESSION_KEYRING, "joey-named-session");
        CHECK(named > 0 && named != ring);
        CHECK_FAILS(request("user", "joey:session", 0), ENOKEY);
        CHECK(describe(static_cast<serial>(named)).find("joey-named-session") != std::string::npos);
        const long users = control(KEYCTL_GET_KEYRING_ID, user, 1);
        CHECK(users > 0);
        char name[32];
        std::snprintf(name, sizeof name, "_uid.%d", getuid());
        CHECK(describe(static_cast<serial>(users)).find(name) != std::string::npos);
        _exit(0);
    }
    reap(child);
}

void somebody_else() {
    if (getuid() != 0)
        return;
    const serial key = add("user", "joey:root", "r", 1, process);
    CHECK(key > 0);
    const pid_t child = fork();
    if (child == 0) {
        CHECK(setgid(54321) == 0 && setuid(54321) == 0);
        CHECK_FAILS(control(KEYCTL_READ, key, nullptr, 0), EACCES);
        CHECK_FAILS(control(KEYCTL_SETPERM, key, 0x3f3f3f3f), EACCES);
        // The quota of ordinary users: 200 keys, 20000 bytes.
        const std::string large(15000, 'l');
        CHECK(add("user", "joey:a", large.data(), large.size(), process) > 0);
        CHECK_FAILS(add("user", "joey:b", large.data(), large.size(), process), EDQUOT);
        _exit(0);
    }
    reap(child);
    CHECK(control(KEYCTL_UNLINK, key, process) == 0);
}

void write_file(const char* path, const char* text) {
    const int fd = open(path, O_WRONLY);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == static_cast<ssize_t>(strlen(text)));
    close(fd);
}

// A user namespace has its own ids: those that are shown and those that are given.
void in_user_namespace() {
    if (getuid() != 0)
        return;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(setgid(54322) == 0 && setuid(54322) == 0);
        CHECK(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
        if (unshare(CLONE_NEWUSER) != 0)
            _exit(0); // not allowed everywhere
        write_file("/proc/self/uid_map", "0 54322 1");
        write_file("/proc/self/setgroups", "deny");
        write_file("/proc/self/gid_map", "0 54322 1");
        const serial key = add("user", "joey:mapped", "m", 1, process);
        CHECK(key > 0 && describe(key) == "user;0;0;3f010000;joey:mapped");
        CHECK(control(KEYCTL_CHOWN, key, 0, -1) == 0 && control(KEYCTL_CHOWN, key, -1, 0) == 0);
        CHECK_FAILS(control(KEYCTL_CHOWN, key, 54322, -1), EINVAL);
        const long persistent = control(KEYCTL_GET_PERSISTENT, 0, process);
        CHECK(persistent > 0 || errno == EOPNOTSUPP);
        CHECK(control(KEYCTL_GET_PERSISTENT, -1, process) == persistent);
        CHECK_FAILS(control(KEYCTL_GET_PERSISTENT, 54322, process),
                    persistent > 0 ? EINVAL : EOPNOTSUPP);
        const long users = control(KEYCTL_GET_KEYRING_ID, user, 1);
        CHECK(users > 0);
        // It has no group.
        CHECK(describe(static_cast<serial>(users)).find(";0;65534;") != std::string::npos);
        _exit(0);
    }
    reap(child);
}

} // namespace

int main() {
    if (control(KEYCTL_GET_KEYRING_ID, process, 1) == -1 && (errno == ENOSYS || errno == EPERM))
        return 0; // a kernel without, or a container's filter
    payloads();
    rings();
    many_ways();
    states();
    sharing();
    somebody_else();
    in_user_namespace();
    return 0;
}
