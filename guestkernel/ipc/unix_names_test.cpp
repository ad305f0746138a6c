// Names of Unix sockets in file systems that go away.
#include <string_view>

#include <linux/errno.h>

#include <catch2/catch.hpp>

#include "guestkernel/fs/test_support.hpp"
#include "guestkernel/ipc/unix_socket.hpp"

using namespace kernel;
using kernel::test::FsFixture;

namespace {

SocketAddress at_path(std::string_view path) {
    SocketAddress address;
    address.set_family(family_unix);
    __builtin_memcpy(address.bytes + sizeof(u16), path.data(), path.size());
    address.length = static_cast<u32>(sizeof(u16) + path.size() + 1);
    return address;
}

int detach(std::string_view where) {
    auto place = lookup_path(at_fdcwd, where, lookup_follow);
    return place ? test::code_of(MountTree::unmount(*place, true, false)) : place.error().code;
}

} // namespace

// The inode of a tmpfs gives its number back to the file system when it goes.
TEST_CASE("a bound socket is the last user of a detached file system", "[ipc][unix]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/m") == 0);
    REQUIRE(fs.mount_tmpfs("/m") == 0);
    const Ref<UnixEndpoint> endpoint = *make_ref<UnixEndpoint>(socket_stream);
    REQUIRE(bind_unix(*endpoint, at_path("/m/socket")));
    CHECK(find_unix(at_path("/m/socket"), socket_stream));
    REQUIRE(detach("/m") == 0);
    CHECK(fs.lookup("/m/socket") == ENOENT);
    endpoint->close(false);
    CHECK(!endpoint->bound_inode);
}
