// The whole way from the guest's virtqueue driver and FUSE client to the host's device and server,
// over one memory.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <sys/stat.h>
#include <sys/xattr.h>

#include <catch2/catch.hpp>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/arch/interrupts.hpp"
#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/clock.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/virtiofs/virtiofs.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/task/task.hpp"
#include "virtio/device/fs/fs.hpp"
#include "virtio/transport/mmio_transport.hpp"

namespace kernel {

// What the machine's parts of the kernel would say.
static BootConfig test_config;
const BootConfig& boot_config() {
    return test_config;
}
void arch::register_device_interrupt(u8, void (*)(void*), void*) {}

namespace log {
// Weak: the hosted machine may come to have a log of its own.
[[gnu::weak]] void write_line(boot::LogLevel, std::string_view line) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
}
} // namespace log

} // namespace kernel

using namespace kernel;

namespace {

constexpr u64 ram_bytes = u64{128} << 20;
constexpr u64 register_page = 0x10000;

struct NoInterrupt final : virtio::InterruptSink {
    void signal() override {}
};

virtio::MmioTransport* device_behind = nullptr;
u64 notifications = 0;

struct Share {
    explicit Share(bool read_only = false, virtio::Cache cache = virtio::Cache::Auto) {
        char name[] = "/tmp/joey-virtiofs-test-XXXXXX";
        directory = ::mkdtemp(name);
        is_read_only = read_only;
        caching = cache;
    }
    ~Share() {
        fs = nullptr;
        root = nullptr;
        superblock = nullptr;
        channel.reset(); // in the kernel it lives as long as the machine
        transport.reset();
        device_behind = nullptr;
        std::filesystem::remove_all(directory);
    }
    // After the directory has been filled.
    void mount() {
        hosted::reset(ram_bytes);
        hosted::set_current(&task);
        init_clock(2'000'000, arch::read_tsc(), 1'000'000'000, arch::read_tsc());
        auto* ram = static_cast<std::byte*>(arch::phys_to_virt(PhysAddr(0)));
        memory = std::make_unique<virtio::GuestMemory>();
        REQUIRE(memory->add_region({virtio::GuestAddr(0), ram, ram_bytes}));
        auto server = virtio::FsServer::create(
            {.path = directory, .read_only = is_read_only, .cache = caching});
        REQUIRE(server);
        device = std::make_unique<virtio::Fs>("test", std::move(*server));
        transport = std::make_unique<virtio::MmioTransport>(
            *device, *memory,
            std::span<std::byte, virtio::register_page_size>(ram + register_page,
                                                             virtio::register_page_size),
            sink);
        device_behind = transport.get();
        hosted_mmio_write = [](volatile u8*, u32 offset, u32 value) {
            if (offset != virtio::queue_notify_offset) {
                device_behind->write(offset, 4, value);
                return;
            }
            notifications++;
            if (device_behind->notify_style(value) == virtio::NotifyStyle::Inline)
                device_behind->write(offset, 4, value);
            else
                device_behind->notify(value);
        };
        test_config.devices[0] = {register_page, 0xe4};
        test_config.device_count = 1;
        auto opened = FuseChannel::open("test");
        REQUIRE(opened);
        channel.reset(*opened);
        auto made = VirtiofsSuperblock::create(*channel, is_read_only);
        REQUIRE(made);
        fs = made->get();
        superblock = Ref<Superblock>(*made);
        root = superblock->root();
    }
    std::string path(const std::string& name) const { return directory + "/" + name; }
    void put(const std::string& name, const std::string& text) const {
        std::ofstream(path(name), std::ios::binary) << text;
    }
    std::string get(const std::string& name) const {
        std::ifstream in(path(name), std::ios::binary);
        return {std::istreambuf_iterator<char>(in), {}};
    }

    std::unique_ptr<FuseChannel> channel;
    std::string directory;
    bool is_read_only;
    virtio::Cache caching;
    Task task;
    NoInterrupt sink;
    std::unique_ptr<virtio::GuestMemory> memory;
    std::unique_ptr<virtio::Fs> device;
    std::unique_ptr<virtio::MmioTransport> transport;
    Ref<Superblock> superblock;
    VirtiofsSuperblock* fs = nullptr;
    Ref<Inode> root;
};

std::string random_text(usize bytes) {
    std::mt19937 random(17);
    std::string out(bytes, '\0');
    for (char& c : out)
        c = static_cast<char>(random());
    return out;
}

std::string read_all(File& file) {
    std::string out;
    std::string piece(100'000, '\0');
    for (;;) {
        IoBuffer buffer(piece.data(), piece.size());
        auto got = file.read(buffer, out.size());
        REQUIRE(got);
        if (*got == 0)
            return out;
        out.append(piece, 0, *got);
    }
}

void write_at(File& file, std::string text, u64 offset) {
    IoBuffer buffer(text.data(), text.size());
    auto done = file.write(buffer, offset);
    REQUIRE(done);
    REQUIRE(*done == text.size());
}

struct Names final : DirectorySink {
    explicit Names(usize limit) : room(limit) {}
    bool add(std::string_view name, u64 inode, u32, u64) override {
        if (room == 0)
            return false;
        room--;
        REQUIRE(found.emplace(std::string(name), inode).second);
        return true;
    }
    std::map<std::string, u64> found;
    usize room;
};

int error_of(const auto& result) {
    return result ? 0 : result.error().code;
}

} // namespace

TEST_CASE("a program without capabilities is asked for them once", "[virtiofs]") {
    Share share(false, virtio::Cache::Always);
    share.put("program", "text");
    share.mount();
    auto found = share.root->lookup("program");
    REQUIRE(found);
    const auto asked = [&] {
        const u64 before = notifications;
        CHECK_FALSE((*found)->get_xattr("security.capability"));
        return notifications - before;
    };
    CHECK(asked() == 1);
    CHECK(asked() == 0);
    // Who changes an attribute here may have given it some.
    static_cast<void>((*found)->remove_xattr("user.none"));
    REQUIRE((*found)->attributes());
    CHECK(asked() == 1);
    CHECK(asked() == 0);
}

TEST_CASE("virtio-fs shows attributes, contents and links of the host") {
    Share share;
    const std::string text = random_text(3'000'123);
    share.put("big", text);
    share.put("empty", "");
    ::symlink("some/where", share.path("link").c_str());
    ::link(share.path("big").c_str(), share.path("twin").c_str());
    ::chmod(share.path("big").c_str(), 0640);
    share.mount();

    auto big = share.root->lookup("big");
    REQUIRE(big);
    auto attributes = (*big)->attributes();
    REQUIRE(attributes);
    struct stat host {};
    REQUIRE(::stat(share.path("big").c_str(), &host) == 0);
    CHECK(attributes->inode == host.st_ino);
    CHECK(attributes->mode == host.st_mode);
    CHECK(attributes->links == 2);
    CHECK(attributes->size == text.size());
    CHECK(attributes->blocks == static_cast<u64>(host.st_blocks));
    CHECK(attributes->block_size == static_cast<u32>(host.st_blksize));
    CHECK(attributes->modify_time.seconds == host.st_mtim.tv_sec);
    CHECK(attributes->modify_time.nanoseconds == static_cast<u32>(host.st_mtim.tv_nsec));

    auto file = (*big)->open(Path(), O_RDONLY);
    REQUIRE(file);
    CHECK(read_all(**file) == text);
    auto empty = share.root->lookup("empty");
    REQUIRE(empty);
    auto empty_file = (*empty)->open(Path(), O_RDONLY);
    REQUIRE(empty_file);
    CHECK(read_all(**empty_file).empty());
    auto twin = share.root->lookup("twin");
    REQUIRE(twin);
    CHECK(twin->get() == big->get());
    auto link = share.root->lookup("link");
    REQUIRE(link);
    auto target = (*link)->readlink();
    REQUIRE(target);
    CHECK(target->view() == "some/where");
    CHECK(error_of(share.root->lookup("missing")) == ENOENT);
    CHECK(error_of(share.root->lookup("missing")) == ENOENT);
}

TEST_CASE("virtio-fs lists directories once, with what a lookup needs afterwards") {
    Share share(true, virtio::Cache::Always);
    std::map<std::string, u64> expected;
    for (int i = 0; i < 1000; i++)
        share.put("file-with-a-longer-name-" + std::to_string(i), "x");
    for (const auto& entry : std::filesystem::directory_iterator(share.directory)) {
        struct stat host {};
        ::lstat(entry.path().c_str(), &host);
        expected[entry.path().filename().string()] = host.st_ino;
    }
    share.mount();
    auto directory = share.root->open(Path(), O_RDONLY | O_DIRECTORY);
    REQUIRE(directory);
    std::map<std::string, u64> found;
    for (u64 at = 0;;) {
        Names names(77); // as small buffers of getdents(2) would
        auto next = (*directory)->read_directory(names, at);
        REQUIRE(next);
        if (*next == at)
            break;
        at = *next;
        for (const auto& [name, inode] : names.found)
            REQUIRE(found.emplace(name, inode).second);
    }
    CHECK(found.erase(".") == 1);
    CHECK(found.erase("..") == 1);
    CHECK(found == expected);

    const u64 before = notifications;
    for (const auto& [name, inode] : expected) {
        auto node = share.root->lookup(name);
        REQUIRE(node);
        auto attributes = (*node)->attributes();
        REQUIRE(attributes);
        CHECK(attributes->inode == inode);
    }
    // Inodes dropped by this loop are forgotten in batches.
    CHECK(notifications - before < 20);
}

TEST_CASE("virtio-fs writes are the host's after close, in whatever way they were made") {
    Share share;
    share.put("old", random_text(10'000));
    share.mount();
    auto made = share.root->create("new", 0100644, 0, ::getuid(), ::getgid());
    REQUIRE(made);
    {
        auto file = (*made)->open(Path(), O_RDWR);
        REQUIRE(file);
        const std::string text = random_text(5'000'000);
        write_at(**file, text, 0);
        write_at(**file, "middle", 1'234'567);
        auto attributes = (*made)->attributes();
        REQUIRE(attributes);
        CHECK(attributes->size == text.size());
        REQUIRE((*file)->flush());
        std::string expected = text;
        expected.replace(1'234'567, 6, "middle");
        CHECK(share.get("new") == expected);
        CHECK(read_all(**file) == expected);
        REQUIRE((*file)->sync(false));
    }
    auto old = share.root->lookup("old");
    REQUIRE(old);
    {
        auto file = (*old)->open(Path(), O_WRONLY);
        REQUIRE(file);
        write_at(**file, "tail", 20'000); // leaves a hole
        // Times set after a write stay: the data goes first.
        Attributes wanted;
        wanted.modify_time = {1'000'000'000, 5};
        REQUIRE((*old)->set_attributes(wanted, set_modify_time));
    }
    struct stat host {};
    REQUIRE(::stat(share.path("old").c_str(), &host) == 0);
    CHECK(host.st_size == 20'004);
    CHECK(host.st_mtim.tv_sec == 1'000'000'000);
    Attributes wanted;
    wanted.size = 5;
    REQUIRE((*old)->set_attributes(wanted, set_size));
    CHECK(share.get("old").size() == 5);
    auto file = (*old)->open(Path(), O_RDONLY);
    REQUIRE(file);
    CHECK(read_all(**file) == share.get("old"));
}

TEST_CASE("virtio-fs changes the tree of the host") {
    Share share;
    share.put("a", "a");
    share.mount();
    const u32 uid = ::getuid(), gid = ::getgid();
    auto directory = share.root->create("d", 040755, 0, uid, gid);
    REQUIRE(directory);
    auto a = share.root->lookup("a");
    REQUIRE(a);
    REQUIRE(share.root->rename("a", **a, **directory, "b", nullptr, 0));
    CHECK(share.get("d/b") == "a");
    REQUIRE((*directory)->link("c", **a));
    CHECK((*a)->attributes()->links == 2);
    auto link = (*directory)->symlink("s", "target", uid, gid);
    REQUIRE(link);
    CHECK(std::filesystem::read_symlink(share.path("d/s")) == "target");
    CHECK(error_of(share.root->rmdir("d", **directory)) == ENOTEMPTY);
    CHECK(error_of(share.root->create("d", 0100644, 0, uid, gid)) == EEXIST);
    REQUIRE((*directory)->unlink("b", **a));
    CHECK((*a)->attributes()->links == 1);
    REQUIRE((*directory)->unlink("c", **a));
    REQUIRE((*directory)->unlink("s", **link));
    REQUIRE(share.root->rmdir("d", **directory));
    CHECK(error_of(share.root->lookup("d")) == ENOENT);
    CHECK(std::filesystem::is_empty(share.directory));
    auto stats = share.superblock->stats();
    REQUIRE(stats);
    CHECK(stats->blocks > 0);
}

TEST_CASE("virtio-fs believes no listing about what was changed since it was asked for") {
    Share share;
    for (const char* name : {"kept", "dropped", "removed", "renamed"})
        share.put(name, "old");
    share.mount();
    auto directory = share.root->open(Path(), O_RDONLY | O_DIRECTORY);
    REQUIRE(directory);
    Names first(1); // the others wait in the buffer, with their attributes
    auto next = (*directory)->read_directory(first, 0);
    REQUIRE(next);

    const auto append = [&](const char* name) {
        auto node = share.root->lookup(name);
        REQUIRE(node);
        auto file = (*node)->open(Path(), O_WRONLY | O_APPEND);
        REQUIRE(file);
        write_at(**file, " and new", 0);
        REQUIRE((*file)->flush());
        return std::move(*node);
    };
    const Ref<Inode> kept = append("kept");
    append("dropped"); // nobody holds it any more
    auto removed = share.root->lookup("removed");
    REQUIRE(removed);
    REQUIRE(share.root->unlink("removed", **removed));
    auto renamed = share.root->lookup("renamed");
    REQUIRE(renamed);
    REQUIRE(share.root->rename("renamed", **renamed, *share.root, "other", nullptr, 0));

    Names rest(100);
    REQUIRE((*directory)->read_directory(rest, *next));
    CHECK(kept->attributes()->size == 11);
    CHECK(append("kept")->attributes()->size == 19);
    CHECK(append("dropped")->attributes()->size == 19);
    CHECK(share.get("kept") == "old and new and new");
    CHECK(share.get("dropped") == "old and new and new");
    CHECK(error_of(share.root->lookup("removed")) == ENOENT);
    CHECK(error_of(share.root->lookup("renamed")) == ENOENT);
    CHECK(share.root->lookup("other"));
}

TEST_CASE("virtio-fs keeps many changes in one file apart while pages come and go") {
    Share share;
    std::string model = random_text(600'000);
    share.put("f", model);
    share.mount();
    auto node = share.root->lookup("f");
    REQUIRE(node);
    std::mt19937 random(5);
    for (int round = 0; round < 40; round++) {
        auto file = (*node)->open(Path(), O_RDWR);
        REQUIRE(file);
        for (int i = 0; i < 10; i++) {
            const u64 at = random() % 700'000;
            const std::string piece(1 + random() % 20'000, static_cast<char>('a' + random() % 26));
            write_at(**file, piece, at);
            if (model.size() < at + piece.size())
                model.resize(at + piece.size(), '\0');
            model.replace(at, piece.size(), piece);
        }
        if (round % 4 == 1) {
            Attributes wanted;
            wanted.size = random() % 700'000;
            REQUIRE((*node)->set_attributes(wanted, set_size));
            model.resize(wanted.size, '\0');
        }
        if (round % 3 == 0) {
            REQUIRE((*file)->flush());
            REQUIRE(share.get("f") == model);
            (*node)->page_cache()->invalidate();
        }
        REQUIRE(read_all(**file) == model);
    }
}

TEST_CASE("virtio-fs reads into pages no two of which are neighbours") {
    Share share;
    const std::string text = random_text(3'000'000);
    share.put("f", text);
    share.mount();
    auto node = share.root->lookup("f");
    REQUIRE(node);
    auto file = (*node)->open(Path(), O_RDONLY);
    REQUIRE(file);
    kfree(kmalloc(256 * sizeof(Frame*))); // for the list of a large read's pages
    std::vector<Frame*> all;
    while (Frame* frame = alloc_frame(false))
        all.push_back(frame);
    std::sort(all.begin(), all.end());
    for (usize i = 0; i < all.size(); i += 2)
        put_frame(*std::exchange(all[i], nullptr));
    const std::string seen = read_all(**file);
    CHECK(seen.size() == text.size());
    CHECK(seen == text);
    for (Frame* frame : all)
        if (frame != nullptr)
            put_frame(*frame);
}
