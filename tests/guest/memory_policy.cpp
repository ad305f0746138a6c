// Where memory comes from: set_mempolicy(2), get_mempolicy(2), mbind(2),
// set_mempolicy_home_node(2), migrate_pages(2), move_pages(2), on a machine with (at least) node 0.
// A kernel that is built without NUMA refuses them all alike.
#include <csignal>
#include <cstdint>
#include <initializer_list>
#include <unistd.h>

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

constexpr size_t page = 4096;
constexpr unsigned long most_nodes = 1024;
constexpr unsigned long node_zero[most_nodes / 64] = {1};
constexpr unsigned long node_absurd[most_nodes / 64] = {0, 0, 0, 0, 0, 0, 0, 0,
                                                        0, 0, 0, 0, 0, 0, 0, 1ul << 63};

long set_policy(int mode, const unsigned long* nodes) {
    return syscall(SYS_set_mempolicy, mode, nodes, nodes != nullptr ? most_nodes : 0);
}

long bind(void* at, size_t bytes, int mode, const unsigned long* nodes, unsigned flags = 0) {
    return syscall(SYS_mbind, at, bytes, mode, nodes, nodes != nullptr ? most_nodes : 0, flags);
}

// The policy of the caller, or of the memory at `at`.
int policy(unsigned long* nodes, const void* at = nullptr) {
    int mode = -1;
    CHECK(syscall(SYS_get_mempolicy, &mode, nodes, most_nodes, at,
                  at != nullptr ? MPOL_F_ADDR : 0) == 0);
    return mode;
}

void of_task() {
    unsigned long nodes[most_nodes / 64] = {~0ul};
    CHECK(policy(nodes) == MPOL_DEFAULT && nodes[0] == 0);
    CHECK(set_policy(MPOL_BIND, node_zero) == 0);
    CHECK(policy(nodes) == MPOL_BIND && nodes[0] == 1);
    CHECK(set_policy(MPOL_INTERLEAVE | MPOL_F_STATIC_NODES, node_zero) == 0);
    CHECK(policy(nodes) == (MPOL_INTERLEAVE | MPOL_F_STATIC_NODES) && nodes[0] == 1);
    int node = -1;
    CHECK(syscall(SYS_get_mempolicy, &node, nullptr, 0, nullptr, MPOL_F_NODE) == 0 && node == 0);
    // A child has it too.
    const pid_t child = fork();
    if (child == 0)
        _exit(policy(nodes) == (MPOL_INTERLEAVE | MPOL_F_STATIC_NODES) ? 0 : 1);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(set_policy(MPOL_PREFERRED, nullptr) == 0); // none preferred: the local one
    CHECK(policy(nodes) == MPOL_LOCAL && nodes[0] == 0);
    CHECK_FAILS(syscall(SYS_get_mempolicy, &node, nullptr, 0, nullptr, MPOL_F_NODE), EINVAL);
    CHECK(set_policy(MPOL_DEFAULT, nullptr) == 0);
    CHECK_FAILS(set_policy(MPOL_BIND, nullptr), EINVAL);
    CHECK_FAILS(set_policy(MPOL_BIND, node_absurd), EINVAL);
    CHECK_FAILS(set_policy(MPOL_DEFAULT, node_zero), EINVAL);
    CHECK_FAILS(set_policy(99, node_zero), EINVAL);
    CHECK_FAILS(syscall(SYS_set_mempolicy, MPOL_BIND, 8, most_nodes), EFAULT);
    // Which nodes there are.
    CHECK(syscall(SYS_get_mempolicy, nullptr, nodes, most_nodes, nullptr, MPOL_F_MEMS_ALLOWED) ==
          0);
    CHECK((nodes[0] & 1) != 0);
    CHECK_FAILS(syscall(SYS_get_mempolicy, nullptr, nodes, most_nodes, nullptr, 1 << 10), EINVAL);
    CHECK_FAILS(syscall(SYS_get_mempolicy, nullptr, nodes, most_nodes, &nodes, 0), EINVAL);
}

void of_memory() {
    auto* at = static_cast<char*>(
        mmap(nullptr, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(at != MAP_FAILED);
    CHECK(bind(at, 2 * page, MPOL_PREFERRED, node_zero, MPOL_MF_STRICT) == 0);
    CHECK_FAILS(bind(at + 1, page, MPOL_BIND, node_zero), EINVAL);
    CHECK_FAILS(bind(at, page, MPOL_BIND, node_zero, 1 << 20), EINVAL);
    CHECK_FAILS(bind(at, page, MPOL_BIND, node_absurd), EINVAL);
    CHECK_FAILS(bind(at, page, MPOL_BIND, nullptr), EINVAL);
    unsigned long nodes[most_nodes / 64] = {};
    CHECK(policy(nodes, at + page) == MPOL_PREFERRED && nodes[0] == 1);
    CHECK(policy(nodes, at + 2 * page) == MPOL_DEFAULT && nodes[0] == 0);
    CHECK(bind(at + 3 * page, page, MPOL_BIND, node_zero) == 0);
    CHECK(syscall(SYS_set_mempolicy_home_node, at + 3 * page, page, 0, 0) == 0);
    CHECK_FAILS(syscall(SYS_set_mempolicy_home_node, at, page, 0, 0), EOPNOTSUPP);
    CHECK_FAILS(syscall(SYS_set_mempolicy_home_node, at + 2 * page, page, 0, 0), ENOENT);
    CHECK(bind(at, 4 * page, MPOL_DEFAULT, nullptr) == 0);
    CHECK(policy(nodes, at + page) == MPOL_DEFAULT);
    munmap(at + 2 * page, page);
    CHECK_FAILS(bind(at, 4 * page, MPOL_BIND, node_zero), EFAULT);
    CHECK_FAILS(bind(at, page, MPOL_LOCAL, node_zero), EINVAL);
    // The node a page lies on.
    at[0] = 1;
    int node = -1;
    CHECK(syscall(SYS_get_mempolicy, &node, nullptr, 0, at, MPOL_F_NODE | MPOL_F_ADDR) == 0);
    CHECK(node >= 0 && node < 1024);
    CHECK_FAILS(syscall(SYS_set_mempolicy_home_node, at, page, 0, 1), EINVAL);
    CHECK_FAILS(syscall(SYS_set_mempolicy_home_node, at, page, 5000, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_set_mempolicy_home_node, at + 1, page, 0, 0), EINVAL);
    munmap(at, 4 * page);
}

void of_pages() {
    auto* at = static_cast<char*>(
        mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(at != MAP_FAILED);
    at[0] = 1;
    // Never touched, nor filled together with its neighbours.
    void* untouched = mmap(nullptr, page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(untouched != MAP_FAILED);
    void* pages[] = {at, untouched, reinterpret_cast<void*>(uintptr_t{page})};
    int status[] = {-1, -1, -1};
    CHECK(syscall(SYS_move_pages, 0, 3, pages, nullptr, status, 0) == 0);
    CHECK(status[0] >= 0 && status[1] == -ENOENT && status[2] == -EFAULT);
    const int here = status[0];
    const int targets[] = {here, here, here};
    CHECK(syscall(SYS_move_pages, 0, 1, pages, targets, status, MPOL_MF_MOVE) == 0 &&
          status[0] == here);
    CHECK_FAILS(syscall(SYS_move_pages, 0, 1, pages, targets, status, 1), EINVAL);
    CHECK_FAILS(syscall(SYS_move_pages, 0x3fff'ffff, 1, pages, nullptr, status, 0), ESRCH);
    CHECK_FAILS(syscall(SYS_move_pages, 0, 1, nullptr, nullptr, status, 0), EFAULT);
    CHECK(at[0] == 1);
    CHECK(syscall(SYS_migrate_pages, 0, most_nodes, node_zero, node_zero) == 0);
    CHECK_FAILS(syscall(SYS_migrate_pages, 0x3fff'ffff, most_nodes, node_zero, node_zero), ESRCH);
    CHECK_FAILS(syscall(SYS_migrate_pages, 0, most_nodes, 8, node_zero), EFAULT);
    munmap(untouched, page);
    munmap(at, 2 * page);
}

} // namespace

int main() {
    if (syscall(SYS_get_mempolicy, nullptr, nullptr, 0, nullptr, 0) != 0 && errno == ENOSYS) {
        for (const long number : {SYS_set_mempolicy, SYS_mbind, SYS_set_mempolicy_home_node,
                                  SYS_migrate_pages, SYS_move_pages})
            CHECK_FAILS(syscall(number, 0, 0, 0, 0, 0, 0), ENOSYS);
        return 0;
    }
    of_task();
    of_memory();
    of_pages();
    return 0;
}
