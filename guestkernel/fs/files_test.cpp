// File table, locks, I/O buffers, positions.
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <string>

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <catch2/catch.hpp>

#include "guestkernel/fs/devices.hpp"
#include "guestkernel/fs/locks.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/test_support.hpp"

using namespace kernel;
using kernel::test::code_of;
using kernel::test::FsFixture;

TEST_CASE("the file types are those of the C library", "[fs]") {
    CHECK(mode_type == S_IFMT);
    CHECK(mode_regular == S_IFREG);
    CHECK(mode_directory == S_IFDIR);
    CHECK(mode_symlink == S_IFLNK);
    CHECK(mode_socket == S_IFSOCK);
    CHECK(mode_fifo == S_IFIFO);
    CHECK(mode_char == S_IFCHR);
    CHECK(mode_block == S_IFBLK);
    CHECK(mode_suid == S_ISUID);
    CHECK(mode_sgid == S_ISGID);
    CHECK(mode_sticky == S_ISVTX);
    CHECK(make_device(136, 70000) == makedev(136, 70000));
    CHECK(device_major(makedev(5000, 300)) == 5000);
    CHECK(device_minor(makedev(5000, 300)) == 300);
}

TEST_CASE("descriptors get the lowest free number", "[fs][fd]") {
    FsFixture fs;
    REQUIRE(fs.put("/f", "x") == 0);
    FileTable& table = *fs.task.files;
    auto file = *open_file(at_fdcwd, "/f", O_RDONLY, 0);
    for (int i = 0; i < 100; i++)
        CHECK(*table.install(file, i % 2 != 0) == i);
    REQUIRE(table.close(5).has_value());
    REQUIRE(table.close(3).has_value());
    CHECK(code_of(table.close(3)) == EBADF);
    CHECK(*table.reserve() == 3);
    CHECK(code_of(table.get(3)) == EBADF);
    CHECK(code_of(table.replace(3, file, false)) == EBUSY);
    CHECK(*table.install(file, false) == 5);
    table.unreserve(3);
    CHECK(*table.install(file, false, 50) == 100);
    CHECK(*table.install(file, false) == 3);
    CHECK(code_of(table.get(-1)) == EBADF);
    CHECK(code_of(table.get(1 << 30)) == EBADF);

    auto copy = *table.clone();
    table.close_for_exec();
    CHECK(table.next_open(1) == 2);
    CHECK(code_of(table.get(7)) == EBADF);
    CHECK(copy->get(7).has_value());
    REQUIRE(copy->close_range(10, ~u32{0}, false).has_value());
    CHECK(copy->next_open(10) == -1);
    REQUIRE(copy->close_range(0, 4, true).has_value());
    CHECK(*copy->close_on_exec(2));
    CHECK(*table.install(file, false, 1000) == 1000);
    REQUIRE(table.replace(3000, file, true).has_value());
    CHECK(*table.close_on_exec(3000));
}

TEST_CASE("buffers walk over vectors, and stop where memory ends", "[fs][io]") {
    FsFixture fs;
    alignas(4096) static std::array<char, 16384>
        memory; // ends at a page's end, as user memory does
    hosted::register_user_range(memory.data(), memory.size());
    const u64 base = reinterpret_cast<u64>(memory.data());
    const UserVector vectors[] = {{base, 3}, {base + 100, 0}, {base + 10, 5}, {base + 16380, 10}};
    IoBuffer out(vectors);
    CHECK(out.remaining() == 18);
    CHECK(out.copy_out("abcdefgh", 8) == 8);
    CHECK(std::string(memory.data(), 3) == "abc");
    CHECK(std::string(memory.data() + 10, 5) == "defgh");
    CHECK(out.fault_in(10) <= 4);
    CHECK(out.copy_out("0123456789", 10) < 10);

    const UserVector two[] = {{base, 3}, {base + 10, 5}};
    IoBuffer in(two);
    in.truncate(6);
    char text[8] = {};
    CHECK(in.fault_in(6) == 6);
    CHECK(in.copy_in(text, 8) == 6);
    CHECK(std::string(text) == "abcdef");
    CHECK(in.remaining() == 0);

    // A write from memory that ends counts what was copied.
    REQUIRE(fs.put("/f", "") == 0);
    auto file = *open_file(at_fdcwd, "/f", O_RDWR, 0);
    std::memset(memory.data(), 'm', memory.size());
    const UserVector past[] = {{base + 8192, 8192}, {base + 16384, 100}};
    IoBuffer from(past);
    CHECK(*file->write(from, 0) == 8192);
    CHECK(fs.stat("/f").size == 8192);
    const UserVector nowhere[] = {{base + 16384, 100}};
    IoBuffer bad(nowhere);
    CHECK(code_of(file->write(bad, 0)) == EFAULT);
    IoBuffer bad_read(nowhere);
    CHECK(code_of(file->read(bad_read, 0)) == EFAULT);
}

TEST_CASE("whole-file locks belong to the open file", "[fs][locks]") {
    FsFixture fs;
    REQUIRE(fs.put("/f", "") == 0);
    auto one = *open_file(at_fdcwd, "/f", O_RDWR, 0);
    auto two = *open_file(at_fdcwd, "/f", O_RDWR, 0);
    CHECK(code_of(lock_whole_file(*one, LockType::Shared, false)) == 0);
    CHECK(code_of(lock_whole_file(*two, LockType::Shared, false)) == 0);
    CHECK(code_of(lock_whole_file(*two, LockType::Exclusive, false)) == EWOULDBLOCK);
    // The failed conversion cost `two` its shared lock (flock(2)).
    CHECK(code_of(lock_whole_file(*one, LockType::Exclusive, false)) == 0);
    CHECK(code_of(lock_whole_file(*two, LockType::Shared, false)) == EWOULDBLOCK);
    one = nullptr;
    CHECK(code_of(lock_whole_file(*two, LockType::Exclusive, false)) == 0);
}

TEST_CASE("record locks split, merge and conflict by range", "[fs][locks]") {
    FsFixture fs;
    REQUIRE(fs.put("/f", "") == 0);
    auto file = *open_file(at_fdcwd, "/f", O_RDWR, 0);
    auto other_table = *make_ref<FileTable>();
    const void* mine = fs.task.files.get();
    const void* other = other_table.get();
    auto set = [&](const void* owner, LockType type, u64 start, u64 end) {
        RecordLock lock;
        lock.type = type;
        lock.start = start;
        lock.end = end;
        lock.pid = owner == mine ? 1 : 2;
        return code_of(lock_records(*file, owner, lock, false, false));
    };
    auto test = [&](const void* owner, u64 start, u64 end) {
        RecordLock lock;
        lock.type = LockType::Exclusive;
        lock.start = start;
        lock.end = end;
        return *test_records(*file, owner, lock);
    };
    CHECK(set(mine, LockType::Exclusive, 0, 99) == 0);
    CHECK(set(other, LockType::Shared, 50, 60) == EAGAIN);
    CHECK(set(mine, LockType::None, 40, 59) == 0);
    CHECK(set(other, LockType::Exclusive, 45, 55) == 0);
    CHECK(set(other, LockType::Exclusive, 55, 60) == EAGAIN);
    CHECK(test(other, 0, lock_to_end).start == 0);
    CHECK(test(other, 41, lock_to_end).start == 60);
    CHECK(test(other, 41, lock_to_end).end == 99);
    CHECK(test(mine, 0, lock_to_end).start == 45);
    CHECK(test(mine, 0, lock_to_end).pid == 2);
    CHECK(set(other, LockType::None, 0, lock_to_end) == 0);
    CHECK(set(mine, LockType::Exclusive, 40, 59) == 0); // joins its neighbours
    CHECK(test(other, 30, 31).start == 0);
    CHECK(test(other, 30, 31).end == 99);
    CHECK(set(mine, LockType::Shared, 10, 19) == 0);
    CHECK(set(other, LockType::Shared, 10, 19) == 0);
    CHECK(set(mine, LockType::Exclusive, 10, 10) == EAGAIN);
    release_posix_locks(*file->inode(), fs.task.files.get());
    CHECK(test(other, 0, lock_to_end).type == LockType::None);
    CHECK(test(mine, 0, lock_to_end).type == LockType::Shared);
    release_posix_locks(*file->inode(), other_table.get());
}

TEST_CASE("memory devices answer as mem(4) says", "[fs][devices]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/dev") == 0);
    const Path place = *lookup_path(at_fdcwd, "/dev", 0);
    REQUIRE(mount_at(place, *make_devtmpfs(), 0, "dev").has_value());
    char text[16] = "0123456789";
    auto zero = *open_file(at_fdcwd, "/dev/zero", O_RDWR, 0);
    CHECK(*read_file(*zero, text, 5, 0) == 5);
    CHECK(std::memcmp(text, "\0\0\0\0\00056789", 10) == 0);
    auto null = *open_file(at_fdcwd, "/dev/null", O_RDWR, 0);
    CHECK(*read_file(*null, text, 5, 0) == 0);
    IoBuffer buffer(text, 10);
    CHECK(*null->write(buffer, 0) == 10);
    auto full = *open_file(at_fdcwd, "/dev/full", O_RDWR, 0);
    IoBuffer again(text, 10);
    CHECK(code_of(full->write(again, 0)) == ENOSPC);
    CHECK(fs.stat("/dev/null").device_number == makedev(1, 3));
    CHECK(fs.stat("/dev/fd", 0).mode == (S_IFLNK | 0777));
    CHECK(fs.stat("/dev/shm").mode == (S_IFDIR | 01777));
    REQUIRE(
        MountTree::remount(*lookup_path(at_fdcwd, "/dev", 0), 4 /* MS_NODEV */, true).has_value());
    CHECK(fs.open("/dev/null", O_RDONLY) == EACCES);
    REQUIRE(MountTree::remount(*lookup_path(at_fdcwd, "/dev", 0), 0, true).has_value());
}
