// Fs: the file system device (virtio 1.2, 5.11). Queue 0 is hiprio, then two request queues:
//   1 inline: served on the vCPU's own thread at the MMIO exit. One round trip costs about 20 us,
//     against 56 us for waking another thread: for everything that is short.
//   2 pooled: served by worker threads: for what may take long (fsync, big writes, fallocate,
//     copy_file_range). The guest chooses. Until start_workers() it is served by who notifies.
// Queues 0 and 2 notify by eventfd: nobody waits for an answer to FORGET, the only thing that the
// hiprio queue takes.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "virtio/backend/fs/server.hpp"
#include "virtio/device/device.hpp"

namespace virtio {

inline constexpr std::uint32_t fs_hiprio_queue = 0;
inline constexpr std::uint32_t fs_inline_queue = 1;
inline constexpr std::uint32_t fs_pooled_queue = 2;
inline constexpr std::size_t fs_max_tag = 36; // bytes; 5.11.4

struct FsOptions {
    unsigned workers = 2; // 0: the pooled queue is inline too
    // First thing on each worker thread: name, signal mask, sandbox. False ends the thread; its
    // requests are then never answered, so this should end the VM.
    std::function<bool()> on_worker_start;
};

class Fs final : public Device {
public:
    // `tag` is cut at fs_max_tag bytes.
    // Starts no thread: see start_workers().
    Fs(std::string_view tag, std::unique_ptr<FsServer> server, FsOptions options = {});
    ~Fs() override;

    const FsServer& server() const { return *server_; }

    // Starts the worker threads of the pooled queue; at most once, and before a sandbox forbids it.
    base::Result<void, FsError> start_workers();

protected:
    Checked<void> on_notify(std::uint32_t queue_index) override;
    void on_reset() override;

private:
    class Pool;
    void serve_chain(Queue& requests, Chain chain);

    std::unique_ptr<FsServer> server_;
    std::unique_ptr<Pool> pool_;
};

} // namespace virtio
