// POSIX access control lists: acl(5), by the extended attributes that libacl uses. As root.
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "tests/guest/file_support.hpp"

namespace {

constexpr const char* access_name = "system.posix_acl_access";
constexpr const char* default_name = "system.posix_acl_default";

struct Entry {
    int tag, bits;
    unsigned id = static_cast<unsigned>(ACL_UNDEFINED_ID);
    bool operator==(const Entry& other) const {
        return tag == other.tag && bits == other.bits && id == other.id;
    }
};
using List = std::vector<Entry>;

std::string encode(const List& list) {
    std::string out;
    const auto put = [&](unsigned value, int bytes) {
        for (int i = 0; i < bytes; i++)
            out.push_back(static_cast<char>(value >> 8 * i));
    };
    put(POSIX_ACL_XATTR_VERSION, 4);
    for (const Entry& entry : list) {
        put(static_cast<unsigned>(entry.tag), 2);
        put(static_cast<unsigned>(entry.bits), 2);
        put(entry.id, 4);
    }
    return out;
}

int set(const std::string& name, const char* which, const List& list, int flags = 0) {
    const std::string value = encode(list);
    return setxattr(name.c_str(), which, value.data(), value.size(), flags);
}

List get(const std::string& name, const char* which) {
    unsigned char value[1024];
    const ssize_t got = getxattr(name.c_str(), which, value, sizeof value);
    CHECK(got >= 4 && got % 8 == 4);
    const auto number = [&](ssize_t at, int bytes) {
        unsigned out = 0;
        for (int i = 0; i < bytes; i++)
            out |= static_cast<unsigned>(value[at + i]) << 8 * i;
        return out;
    };
    CHECK(number(0, 4) == POSIX_ACL_XATTR_VERSION);
    List out;
    for (ssize_t at = 4; at < got; at += 8)
        out.push_back({static_cast<int>(number(at, 2)), static_cast<int>(number(at + 2, 2)),
                       number(at + 4, 4)});
    return out;
}

mode_t mode_of(const std::string& name) {
    return stat_of(name).st_mode & 07777;
}

// rw- for the owner, `user` for user 1000, `group` for the group, `named` for group 2000, a mask.
List sample(int user, int group, int named, int mask, int other) {
    return {{ACL_USER_OBJ, 6},        {ACL_USER, user, 1000}, {ACL_GROUP_OBJ, group},
            {ACL_GROUP, named, 2000}, {ACL_MASK, mask},       {ACL_OTHER, other}};
}

void as(uid_t uid, gid_t gid, const std::vector<gid_t>& groups, const std::function<void()>& work) {
    in_child([&] {
        CHECK(setgroups(groups.size(), groups.data()) == 0);
        CHECK(setresgid(gid, gid, gid) == 0 && setresuid(uid, uid, uid) == 0);
        work();
    });
}

void lists(const std::string& base) {
    const std::string file = base + "/file", directory = base + "/directory";
    make_file(file, "text", 0640);
    CHECK(mkdir(directory.c_str(), 0755) == 0);
    CHECK_FAILS(getxattr(file.c_str(), access_name, nullptr, 0), ENODATA);
    CHECK_FAILS(getxattr(directory.c_str(), default_name, nullptr, 0), ENODATA);

    CHECK(set(file, access_name, sample(6, 4, 6, 7, 0)) == 0);
    CHECK(get(file, access_name) == sample(6, 4, 6, 7, 0));
    CHECK(mode_of(file) == 0670); // the mask stands for the group
    char names[256] = {};
    CHECK(listxattr(file.c_str(), names, sizeof names) > 0);
    CHECK(std::string(names, sizeof names).find(access_name) != std::string::npos);
    // What the mode can say is the mode's.
    CHECK(set(file, access_name, {{ACL_USER_OBJ, 6}, {ACL_GROUP_OBJ, 4}, {ACL_OTHER, 4}}) == 0);
    CHECK(mode_of(file) == 0644);
    CHECK_FAILS(getxattr(file.c_str(), access_name, nullptr, 0), ENODATA);

    // chmod and the list follow each other.
    CHECK(set(file, access_name, sample(7, 7, 0, 7, 0)) == 0);
    CHECK(chmod(file.c_str(), 0641) == 0);
    CHECK(get(file, access_name) == (List{{ACL_USER_OBJ, 6},
                                          {ACL_USER, 7, 1000},
                                          {ACL_GROUP_OBJ, 7},
                                          {ACL_GROUP, 0, 2000},
                                          {ACL_MASK, 4},
                                          {ACL_OTHER, 1}}));
    CHECK(removexattr(file.c_str(), access_name) == 0);
    CHECK(mode_of(file) == 0641);
    CHECK(removexattr(file.c_str(), access_name) == 0);

    // Lists that are none.
    const List wrong[] = {
        {{ACL_USER_OBJ, 6}},
        {{ACL_USER_OBJ, 6}, {ACL_USER, 6, 1}, {ACL_GROUP_OBJ, 4}, {ACL_OTHER, 4}}, // no mask
        {{ACL_GROUP_OBJ, 6}, {ACL_USER_OBJ, 4}, {ACL_OTHER, 4}},
        {{ACL_USER_OBJ, 9}, {ACL_GROUP_OBJ, 4}, {ACL_OTHER, 4}},
        {{ACL_USER_OBJ, 6}, {ACL_USER_OBJ, 6}, {ACL_GROUP_OBJ, 4}, {ACL_OTHER, 4}},
        {{3, 6}},
    };
    for (const List& list : wrong)
        CHECK_FAILS(set(file, access_name, list), EINVAL);
    CHECK_FAILS(setxattr(file.c_str(), access_name, "\1\0\0\0", 4, 0), EOPNOTSUPP);
    CHECK_FAILS(setxattr(file.c_str(), access_name, "\2\0\0\0xx", 6, 0), EINVAL);
    CHECK_FAILS(set(file, default_name, sample(6, 6, 6, 6, 6)), EACCES);
    as(1000, 1000, {}, [&] { CHECK_FAILS(set(file, access_name, sample(6, 6, 6, 6, 6)), EPERM); });
}

void permissions(const std::string& base) {
    const std::string file = base + "/checked";
    make_file(file, "text", 0600);
    const auto reads = [&] { return access(file.c_str(), R_OK) == 0; };
    const auto writes = [&] { return access(file.c_str(), W_OK) == 0; };
    CHECK(chown(file.c_str(), 500, 500) == 0);
    CHECK(set(file, access_name, sample(6, 4, 2, 7, 0)) == 0);
    as(500, 1, {}, [&] { CHECK(reads() && writes()); });
    as(1000, 1, {}, [&] { CHECK(reads() && writes()); });
    as(1, 500, {}, [&] { CHECK(reads() && !writes()); });
    as(1, 1, {500, 2000}, [&] { CHECK(reads() && writes()); });
    // Each group's bits count on their own.
    as(1, 1, {500, 2000}, [&] { CHECK_FAILS(open(file.c_str(), O_RDWR), EACCES); });
    as(1, 1, {2000}, [&] { CHECK(!reads() && writes()); });
    as(1, 1, {}, [&] { CHECK(!reads() && !writes()); });
    // The mask takes from all but the owner and others.
    CHECK(chmod(file.c_str(), 0644) == 0);
    as(500, 1, {}, [&] { CHECK(reads() && writes()); });
    as(1000, 1, {}, [&] { CHECK(reads() && !writes()); });
    as(1, 1, {2000}, [&] { CHECK(!reads() && !writes()); });
    as(1, 1, {}, [&] { CHECK(reads() && !writes()); });
    // A user that the list names to have nothing.
    CHECK(set(file, access_name, sample(0, 4, 4, 7, 4)) == 0);
    as(1000, 1, {500}, [&] { CHECK(!reads()); });
    as(1, 1, {}, [&] { CHECK(reads()); });
    CHECK(chmod(file.c_str(), 0604) == 0);
    as(1000, 1, {}, [&] { CHECK(!reads() || mode_of(file) == 0604); });
}

void inheritance(const std::string& base) {
    const std::string top = base + "/top";
    CHECK(mkdir(top.c_str(), 0777) == 0);
    CHECK(set(top, default_name, sample(7, 5, 7, 7, 5)) == 0);
    CHECK_FAILS(getxattr(top.c_str(), access_name, nullptr, 0), ENODATA);
    CHECK(mode_of(top) == 0755);
    umask(077);
    // The umask does not count, what open(2) asks for does.
    make_file(top + "/file", "", 0664);
    CHECK(mode_of(top + "/file") == 0664);
    CHECK(get(top + "/file", access_name) == sample(7, 5, 7, 6, 4));
    CHECK_FAILS(getxattr((top + "/file").c_str(), default_name, nullptr, 0), ENODATA);
    CHECK(mkdir((top + "/sub").c_str(), 0777) == 0);
    CHECK(mode_of(top + "/sub") == 0675);
    CHECK(get(top + "/sub", default_name) == sample(7, 5, 7, 7, 5));
    CHECK(get(top + "/sub", access_name) == sample(7, 5, 7, 7, 5));
    CHECK(mkfifo((top + "/sub/fifo").c_str(), 0600) == 0);
    CHECK(get(top + "/sub/fifo", access_name) == sample(7, 5, 7, 0, 0));
    const int fd = open(top.c_str(), O_TMPFILE | O_RDWR, 0660);
    if (fd >= 0) {
        CHECK(linkat(fd, "", AT_FDCWD, (top + "/named").c_str(), AT_EMPTY_PATH) == 0);
        CHECK(get(top + "/named", access_name) == sample(7, 5, 7, 6, 0));
        close(fd);
    }
    CHECK(removexattr(top.c_str(), default_name) == 0);
    make_file(top + "/after", "", 0666);
    CHECK(mode_of(top + "/after") == 0600);
    CHECK_FAILS(getxattr((top + "/after").c_str(), access_name, nullptr, 0), ENODATA);
    // A default list of the three classes alone: only the umask is left out.
    CHECK(set(top, default_name, {{ACL_USER_OBJ, 7}, {ACL_GROUP_OBJ, 7}, {ACL_OTHER, 5}}) == 0);
    make_file(top + "/plain", "", 0666);
    CHECK(mode_of(top + "/plain") == 0664);
    CHECK_FAILS(getxattr((top + "/plain").c_str(), access_name, nullptr, 0), ENODATA);
    umask(022);
}

void test(const std::string& base) {
    CHECK(chmod(base.c_str(), 0755) == 0);
    umask(022);
    lists(base);
    permissions(base);
    inheritance(base);
}

// An overlay copies lists up with what has them.
void overlay() {
    CHECK(unshare(CLONE_NEWNS) == 0);
    CHECK(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    CHECK(mount("base", "/tmp", "tmpfs", 0, "mode=0755") == 0);
    CHECK(chdir("/tmp") == 0);
    for (const char* name : {"l", "u", "w", "m", "l/d"})
        CHECK(mkdir(name, 0755) == 0);
    make_file("l/file", "text");
    CHECK(set("l/file", access_name, sample(0, 4, 4, 7, 4)) == 0);
    CHECK(set("l/d", default_name, sample(7, 5, 7, 7, 5)) == 0);
    CHECK(mount("o", "m", "overlay", 0, "lowerdir=l,upperdir=u,workdir=w") == 0);
    as(1000, 1, {}, [] { CHECK_FAILS(open("m/file", O_RDONLY), EACCES); });
    as(1001, 1, {}, [] { CHECK(open("m/file", O_RDONLY) >= 0); });
    CHECK(chmod("m/file", 0640) == 0);
    CHECK(get("u/file", access_name) == sample(0, 4, 4, 4, 0));
    as(1000, 1, {}, [] { CHECK_FAILS(open("m/file", O_RDONLY), EACCES); });
    make_file("m/d/new", "", 0664);
    CHECK(get("m/d/new", access_name) == sample(7, 5, 7, 6, 4));
    CHECK(get("u/d", default_name) == sample(7, 5, 7, 7, 5));
    CHECK(mkdir("m/new", 0755) == 0);
    test("/tmp/m/new");
}

} // namespace

int main() {
    if (!is_root()) {
        std::fprintf(stderr, "this test needs root\n");
        return 1;
    }
    on_each_file_system([](const ScratchDirectory& scratch) { test(scratch.name()); });
    in_child(overlay);
    return 0;
}
