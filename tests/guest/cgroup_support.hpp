// What the tests of control groups share: their files.
#pragma once

#include <fcntl.h>
#include <string>
#include <unistd.h>

#include "tests/guest/check.hpp"

// "?": it cannot be opened.
inline std::string slurp(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return "?";
    std::string text;
    char piece[4096];
    ssize_t got = 0;
    while ((got = read(fd, piece, sizeof piece)) > 0)
        text.append(piece, static_cast<size_t>(got));
    close(fd);
    return text;
}

// As a system call: 0, or -1 with errno.
inline int put(const std::string& path, const std::string& text) {
    const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    const ssize_t done = write(fd, text.data(), text.size());
    const int error = errno;
    close(fd);
    errno = error;
    return done == static_cast<ssize_t>(text.size()) ? 0 : -1;
}

// Of a file of lines "name number"; -1: it has none of this name.
inline long figure(const std::string& path, const std::string& name) {
    const std::string text = "\n" + slurp(path);
    const size_t at = text.find("\n" + name + " ");
    return at == std::string::npos ? -1 : atol(text.c_str() + at + name.size() + 2);
}
