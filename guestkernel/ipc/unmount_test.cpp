// What outlives the mounts of a file system: places that are kept without their mount, watches.
#include <linux/inotify.h>

#include <catch2/catch.hpp>

#include "guestkernel/fs/test_support.hpp"
#include "guestkernel/ipc/inotify.hpp"

using namespace kernel;
using kernel::test::FsFixture;

namespace {

int detach(std::string_view where) {
    auto place = lookup_path(at_fdcwd, where, lookup_follow);
    return place ? test::code_of(MountTree::unmount(*place, true, false)) : place.error().code;
}

Ref<Dentry> place_of(std::string_view name) {
    return Ref<Dentry>::share(lookup_path(at_fdcwd, name, 0)->dentry());
}

} // namespace

// The inode of a tmpfs gives its number back to the file system when it goes.
TEST_CASE("a place that is kept keeps its file system when that is unmounted", "[fs][mount]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/m") == 0);
    REQUIRE(fs.mount_tmpfs("/m") == 0);
    REQUIRE(fs.put("/m/f", "text") == 0);
    Ref<Dentry> place = place_of("/m/f");
    REQUIRE(detach("/m") == 0);
    REQUIRE(place->inode() != nullptr);
    CHECK(place->inode()->attributes()->size == 4);
    CHECK(place->superblock().stats()->block_size == page_size);
    place = nullptr;
}

TEST_CASE("watches end with the last mount, and say so", "[ipc][inotify]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/m") == 0);
    REQUIRE(fs.mount_tmpfs("/m") == 0);
    REQUIRE(fs.put("/m/f", "") == 0);
    const Ref<File> file = *make_inotify_file(O_NONBLOCK);
    auto& queue = static_cast<InotifyFile&>(*file);
    const i32 inner = *queue.add_watch(*lookup_path(at_fdcwd, "/m/f", 0), IN_ALL_EVENTS);
    const i32 outer = *queue.add_watch(*lookup_path(at_fdcwd, "/", 0), IN_CREATE);
    REQUIRE(detach("/m") == 0);
    struct Event { // inotify_event of a watched file: without a name
        i32 wd;
        u32 mask, cookie, length;
    };
    Event events[4] = {};
    IoBuffer out(events, sizeof events);
    const auto got = queue.read(out, 0);
    REQUIRE(got);
    CHECK(*got == 2 * sizeof(Event));
    CHECK((events[0].wd == inner && events[0].mask == IN_UNMOUNT));
    CHECK((events[1].wd == inner && events[1].mask == IN_IGNORED));
    CHECK(test::code_of(queue.remove_watch(inner)) == EINVAL);
    CHECK(test::code_of(queue.remove_watch(outer)) == 0);
}
