#include "tests/shim/host.hpp"

#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <dirent.h>
#include <fcntl.h>
#include <fstream>
#include <sched.h>
#include <sstream>
#include <thread>
#include <unistd.h>

#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace shim_test {

namespace {

// Who is not root here is root in a namespace.
void become_root() {
    const uid_t user = ::getuid();
    const gid_t group = ::getgid();
    REQUIRE(::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0);
    write_text("/proc/self/setgroups", "deny");
    write_text("/proc/self/uid_map", os::text("0 ", user, " 1"));
    write_text("/proc/self/gid_map", os::text("0 ", group, " 1"));
}

std::string name_of(pid_t pid) {
    std::string name = content_of(os::text("/proc/", pid, "/comm"));
    return name.substr(0, name.find('\n'));
}

// Zombies too.
std::vector<pid_t> children() {
    std::vector<pid_t> out;
    std::istringstream list(content_of(os::text("/proc/self/task/", ::gettid(), "/children")));
    for (pid_t pid = 0; list >> pid;)
        out.push_back(pid);
    return out;
}

} // namespace

void write_text(const std::string& path, const std::string& text) {
    const os::UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    REQUIRE(::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
}

std::string content_of(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream out;
    out << file.rdbuf();
    return out.str();
}

std::vector<std::string> names_in(const std::string& directory) {
    std::vector<std::string> out;
    DIR* open = ::opendir(directory.c_str());
    if (open == nullptr)
        return out;
    while (const dirent* entry = ::readdir(open)) {
        if (const std::string name = entry->d_name; name != "." && name != "..")
            out.push_back(name);
    }
    ::closedir(open);
    return out;
}

void adopt_orphans() {
    REQUIRE(::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
}

void enter_private_host() {
    static bool entered = false;
    if (std::exchange(entered, true))
        return;
    if (::unshare(CLONE_NEWNS) != 0)
        become_root();
    REQUIRE(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    REQUIRE(::mount("tmpfs", "/run", "tmpfs", 0, nullptr) == 0);
    REQUIRE(::mkdir("/run/containerd", 0700) == 0);
    REQUIRE(::mkdir(notes_folder, 0700) == 0);
    adopt_orphans();
}

std::string program_beside(const char* name) {
    char path[PATH_MAX];
    const ssize_t length = ::readlink("/proc/self/exe", path, sizeof path);
    REQUIRE(length > 0);
    const std::string own(path, static_cast<std::size_t>(length));
    return own.substr(0, own.rfind('/') + 1) + name;
}

pid_t begin_shim(const Call& call, int output) {
    const std::string program = program_beside("containerd-shim-joey-v2");
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child > 0)
        return child;
    const int null = ::open("/dev/null", O_RDWR);
    ::dup2(null, STDIN_FILENO);
    ::dup2(output >= 0 ? output : null, STDOUT_FILENO);
    ::setenv("JOEY_TEST_HURRY", std::to_string(call.hurry).c_str(), 1);
    ::setenv("TTRPC_ADDRESS", call.events.c_str(), 1);
    std::vector<char*> words{const_cast<char*>(program.c_str())};
    for (const std::string& word : call.words)
        words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    if (::chdir(call.bundle.c_str()) == 0)
        ::execv(program.c_str(), words.data());
    ::_exit(127);
}

int run_shim(const Call& call, std::string& output) {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    const os::UniqueFd near(ends[0]);
    os::UniqueFd far(ends[1]);
    const pid_t child = begin_shim(call, far.get());
    far.reset();
    char piece[4096];
    for (ssize_t got = 0; (got = ::read(near.get(), piece, sizeof piece)) > 0;)
        output.append(piece, static_cast<std::size_t>(got));
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::vector<std::string> end_children() {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(8);
    std::vector<std::string> out;
    for (;;) {
        const pid_t ended = ::waitpid(-1, nullptr, WNOHANG);
        if (ended < 0)
            return out;
        if (ended > 0)
            continue;
        if (std::chrono::steady_clock::now() > end) {
            for (const pid_t pid : children()) {
                out.push_back(name_of(pid));
                ::kill(pid, SIGKILL);
            }
            while (::waitpid(-1, nullptr, 0) > 0) {
            }
            return out;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
}

bool is_mounted_below(const std::string& path) {
    std::istringstream table(content_of("/proc/self/mountinfo"));
    for (std::string line; std::getline(table, line);) {
        if (line.find(" " + path) != std::string::npos)
            return true;
    }
    return false;
}

} // namespace shim_test
