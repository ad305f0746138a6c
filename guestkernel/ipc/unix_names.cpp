// Where Unix sockets are bound: nodes of file systems, and the abstract names.
#include <linux/errno.h>
#include <linux/un.h>

#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/ipc/socket_binding.hpp"
#include "guestkernel/ipc/unix_socket.hpp"
#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/namespaces/namespaces.hpp"

namespace kernel {

namespace {

constexpr usize family_size = sizeof(u16); // of sun_family: what an unnamed address has
constexpr usize path_size = sizeof(sockaddr_un{}.sun_path);

using AbstractTable = HashTable<UnixEndpoint, &UnixEndpoint::abstract_next, 256>;
constinit AbstractTable abstract_names; // under unix_lock()
constinit u32 next_autobind = 0;        // under unix_lock()

// Names of different types do not meet, as in Linux, nor those of different network namespaces.
u64 abstract_hash(std::string_view name, int type) {
    return hash_bytes(name, static_cast<u64>(type));
}

UnixEndpoint* find_abstract_locked(std::string_view name, int type, const NetNamespace* space) {
    return abstract_names.find(abstract_hash(name, type), [&](UnixEndpoint& endpoint) {
        return endpoint.type == type && endpoint.net.get() == space &&
               endpoint.name->view() == name;
    });
}

std::string_view raw_name(const SocketAddress& address) {
    const auto* bytes = static_cast<const char*>(static_cast<const void*>(address.bytes));
    return {bytes + family_size, address.length - family_size};
}
bool is_abstract(const SocketAddress& address) {
    return address.bytes[family_size] == 0;
}
// A path ends at its NUL, or at the end of the address.
std::string_view path_of_address(const SocketAddress& address) {
    std::string_view name = raw_name(address);
    return name.substr(0, name.find('\0'));
}

Result<Ref<UnixName>> make_name(std::string_view text, bool with_nul) {
    TRY(Ref<UnixName> name, make_ref<UnixName>());
    name->length = static_cast<u32>(text.size() + (with_nul ? 1 : 0));
    const usize kept = text.size() < path_size ? text.size() : path_size;
    __builtin_memcpy(name->bytes, text.data(), kept);
    return name;
}

Result<void> bind_abstract(UnixEndpoint& endpoint, std::string_view text) {
    TRY(Ref<UnixName> name, make_name(text, false));
    SpinGuard guard(unix_lock());
    if (find_abstract_locked(text, endpoint.type, endpoint.net.get()) != nullptr)
        return fail(EADDRINUSE);
    {
        SpinGuard inner(endpoint.lock);
        endpoint.name = std::move(name);
    }
    abstract_names.insert(abstract_hash(text, endpoint.type), endpoint);
    return {};
}

Result<void> bind_path(UnixEndpoint& endpoint, std::string_view text) {
    TRY(Ref<UnixName> name, make_name(text, true));
    TRY(Owned<SocketBinding> binding, make_owned<SocketBinding>());
    // The place as it was made, not looked up once more: the name may be another's by now. It pins
    // the inode object where dentries come and go (virtio-fs, overlays), and the file system.
    TRY(Path place, create_socket_node(text, 0777));
    Ref<Inode> inode = Ref<Inode>::share(place.dentry()->inode());
    {
        SpinGuard guard(inode->attributes_lock());
        binding->endpoint = &endpoint;
        inode->socket = binding.leak();
    }
    SpinGuard guard(unix_lock());
    SpinGuard inner(endpoint.lock);
    endpoint.bound_inode = std::move(inode);
    endpoint.bound_place = std::move(place);
    endpoint.name = std::move(name);
    return {};
}

} // namespace

std::string_view UnixName::view() const {
    return {static_cast<const char*>(static_cast<const void*>(bytes)),
            length < path_size ? length : path_size};
}

Result<void> check_unix_address(const SocketAddress& address, bool may_be_empty) {
    const usize least = may_be_empty ? family_size : family_size + 1;
    if (address.length < least || address.length > sizeof(sockaddr_un) ||
        address.family() != family_unix)
        return fail(EINVAL);
    return {};
}

Result<void> bind_unix(UnixEndpoint& endpoint, const SocketAddress& address) {
    TRY(check_unix_address(address, true));
    if (address.length == family_size)
        return autobind_unix(endpoint);
    MutexGuard guard(endpoint.bind_mutex);
    if (endpoint.name_ref())
        return fail(EINVAL);
    if (is_abstract(address))
        return bind_abstract(endpoint, raw_name(address));
    return bind_path(endpoint, path_of_address(address));
}

// A free abstract name of five hexadecimal digits (unix(7)).
Result<void> autobind_unix(UnixEndpoint& endpoint) {
    constexpr u32 names = 1u << 20;
    MutexGuard guard(endpoint.bind_mutex);
    if (endpoint.name_ref())
        return {};
    for (u32 tries = 0; tries < names; tries++) {
        u32 number = 0;
        {
            SpinGuard lock(unix_lock());
            number = next_autobind++ % names;
        }
        char text[6] = {};
        for (usize digit = 5; digit > 0; digit--, number /= 16)
            text[digit] = "0123456789abcdef"[number % 16];
        auto done = bind_abstract(endpoint, std::string_view(text, sizeof text));
        if (done || done.error().code != EADDRINUSE)
            return done;
    }
    return fail(ENOSPC);
}

void unbind_unix(UnixEndpoint& endpoint) {
    Path place; // goes last: its mount may be all that keeps the inode's file system
    Ref<Inode> inode;
    {
        SpinGuard guard(unix_lock());
        if (!endpoint.name)
            return;
        if (endpoint.name->abstract()) // an accepted socket has its listener's name only to show
            abstract_names.remove(abstract_hash(endpoint.name->view(), endpoint.type), endpoint);
        inode = std::move(endpoint.bound_inode);
        place = std::move(endpoint.bound_place);
    }
    if (!inode)
        return;
    SpinGuard guard(inode->attributes_lock());
    if (inode->socket->endpoint == &endpoint)
        inode->socket->endpoint = nullptr;
}

Result<Ref<UnixEndpoint>> find_unix(const SocketAddress& address, int type) {
    if (is_abstract(address)) {
        SpinGuard guard(unix_lock());
        UnixEndpoint* found =
            find_abstract_locked(raw_name(address), type, current_net_namespace());
        if (found == nullptr || !found->try_add_ref())
            return fail(ECONNREFUSED);
        return Ref<UnixEndpoint>::adopt(found);
    }
    TRY(const Path place, find_socket_node(path_of_address(address)));
    Inode& inode = *place.dentry()->inode();
    Ref<UnixEndpoint> found;
    {
        SpinGuard guard(inode.attributes_lock());
        UnixEndpoint* bound = inode.socket != nullptr ? inode.socket->endpoint : nullptr;
        if (bound == nullptr || !bound->try_add_ref())
            return fail(ECONNREFUSED);
        found = Ref<UnixEndpoint>::adopt(bound);
    }
    if (found->type != type)
        return fail(EPROTOTYPE);
    return found;
}

void unix_address(const UnixName* name, SocketAddress& out) {
    out = {};
    out.set_family(family_unix);
    out.length = family_size;
    if (name == nullptr)
        return;
    __builtin_memcpy(out.bytes + family_size, name->bytes, path_size);
    // A path of the full 108 bytes has its NUL behind them (unix(7), BUGS).
    out.length = static_cast<u32>(family_size) + name->length;
}

} // namespace kernel
