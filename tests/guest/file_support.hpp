// What the tests of file system calls share: directories on each file system, names, children.
#pragma once

#include <fcntl.h>
#include <functional>
#include <string>
#include <unistd.h>

#include <sys/stat.h>

#include "tests/guest/process_support.hpp"

// Arguments that can never be right are what these tests are about.
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wstringop-overflow"
#pragma GCC diagnostic ignored "-Wstringop-overread"
#pragma GCC diagnostic ignored "-Wnonnull"

// A fresh directory under `base`, removed with all that it has at the end.
class ScratchDirectory {
public:
    explicit ScratchDirectory(const char* base) : name_(std::string(base) + "/joey-test-XXXXXX") {
        CHECK(mkdtemp(name_.data()) != nullptr);
        CHECK(chmod(name_.c_str(), 0755) == 0);
        fd_ = open(name_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        CHECK(fd_ >= 0);
    }
    ScratchDirectory(const ScratchDirectory&) = delete;
    ScratchDirectory& operator=(const ScratchDirectory&) = delete;
    ~ScratchDirectory() {
        close(fd_);
        if (std::system(("rm -rf " + name_).c_str()) != 0)
            std::fprintf(stderr, "%s: cannot be removed\n", name_.c_str());
    }
    int fd() const { return fd_; }
    std::string path(const std::string& name) const { return name_ + "/" + name; }
    const std::string& name() const { return name_; }

private:
    std::string name_;
    int fd_ = -1;
};

// The file systems that a machine has: what is under the root, and memory.
inline void on_each_file_system(const std::function<void(const ScratchDirectory&)>& test) {
    for (const char* base : {"/var/tmp", "/dev/shm"}) {
        const ScratchDirectory scratch(base);
        test(scratch);
    }
}

inline void make_file(const std::string& name, const std::string& contents = "",
                      mode_t mode = 0644) {
    const int fd = open(name.c_str(), O_WRONLY | O_CREAT | O_TRUNC, mode);
    CHECK(fd >= 0);
    CHECK(write(fd, contents.data(), contents.size()) == static_cast<ssize_t>(contents.size()));
    CHECK(close(fd) == 0);
}

inline std::string contents_of(const std::string& name) {
    const int fd = open(name.c_str(), O_RDONLY);
    CHECK(fd >= 0);
    std::string all;
    char buffer[4096];
    for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) != 0;) {
        CHECK(got > 0);
        all.append(buffer, static_cast<size_t>(got));
    }
    close(fd);
    return all;
}

inline struct stat stat_of(const std::string& name) {
    struct stat out {};
    CHECK(lstat(name.c_str(), &out) == 0);
    return out;
}

inline bool is_root() {
    return geteuid() == 0;
}
