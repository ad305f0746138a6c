#include "virtio/device/fs/fs.hpp"

#include <algorithm>
#include <bit>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <pthread.h>
#include <vector>

#include <linux/virtio_fs.h>
#include <linux/virtio_ids.h>

namespace virtio {

namespace {

// Requests of 1 MiB have 256 pages and more in an indirect table; the ring itself holds requests.
constexpr std::uint16_t queue_size = 128;
constexpr std::uint32_t request_queues = 2; // hiprio is not counted (5.11.4)

DeviceInfo describe_device(std::string_view tag, bool has_workers) {
    struct virtio_fs_config config {};
    static_assert(sizeof config.tag == fs_max_tag);
    // Not NUL-terminated when it takes all the bytes.
    std::memcpy(config.tag, tag.data(), std::min(tag.size(), sizeof config.tag));
    config.num_request_queues = request_queues; // little-endian, as this host is
    const auto bytes = std::as_bytes(std::span(&config, 1));

    DeviceInfo info;
    info.id = VIRTIO_ID_FS;
    info.queues = {{queue_size, NotifyStyle::Eventfd},
                   {queue_size, NotifyStyle::Inline},
                   {queue_size, has_workers ? NotifyStyle::Eventfd : NotifyStyle::Inline}};
    info.config.assign(bytes.begin(), bytes.end());
    return info;
}

} // namespace

// The threads of the pooled queue, and how they are told that there is something in it. They also
// take what is left in another queue by whom its notification has kept long enough.
class Fs::Pool {
public:
    Pool(Fs& device, unsigned count, std::function<bool()> on_start)
        : device_(device), count_(count), on_start_(std::move(on_start)) {}
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;
    ~Pool() {
        {
            const std::lock_guard lock(mutex_);
            ending_ = true;
        }
        wake_.notify_all();
        for (const pthread_t thread : threads_)
            ::pthread_join(thread, nullptr);
    }

    base::Result<void, FsError> start() {
        // Ample for what they do, and too small for a huge page, which would cost each of them 2
        // MiB.
        constexpr std::size_t stack_size = 512u << 10;
        pthread_attr_t attributes;
        ::pthread_attr_init(&attributes);
        ::pthread_attr_setstacksize(&attributes, stack_size);
        int code = 0;
        for (unsigned i = 0; i < count_ && code == 0; ++i) {
            pthread_t thread{};
            code = ::pthread_create(&thread, &attributes, &Pool::entry, this);
            if (code == 0)
                threads_.push_back(thread);
        }
        ::pthread_attr_destroy(&attributes);
        if (code != 0)
            return base::Failure(FsError{code, "start a file system worker thread"});
        return {};
    }
    bool started() const { return !threads_.empty(); }

    // There are requests in the queue: as many workers as it takes come and see.
    void notify(std::uint32_t queue_index) {
        {
            const std::lock_guard lock(mutex_);
            waiting_ |= 1u << queue_index;
        }
        wake_.notify_one();
    }

private:
    static void* entry(void* self) noexcept {
        static_cast<Pool*>(self)->work();
        return nullptr;
    }

    void work() {
        if (on_start_ && !on_start_())
            return;
        for (;;) {
            std::uint32_t queue_index = 0;
            {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, [&] { return ending_ || waiting_ != 0; });
                if (ending_)
                    return;
                queue_index = static_cast<std::uint32_t>(std::countr_zero(waiting_));
                waiting_ &= waiting_ - 1;
            }
            serve(queue_index);
        }
    }

    void serve(std::uint32_t queue_index) {
        for (;;) {
            // Taken anew for each request: a reset waits for one at most.
            const Gate::Pass pass(device_.gate());
            Queue* const requests = pass ? device_.queue(queue_index) : nullptr;
            if (requests == nullptr)
                return;
            auto popped = requests->pop();
            if (!popped) {
                device_.report(popped.error());
                return;
            }
            if (!*popped)
                return;
            // There may be another: a colleague is to look while this one is being served.
            notify(queue_index);
            device_.serve_chain(*requests, std::move(*popped));
        }
    }

    Fs& device_;
    const unsigned count_;
    const std::function<bool()> on_start_;
    std::vector<pthread_t> threads_;
    // Guards the two below only; a condition variable needs its mutex bare.
    std::mutex mutex_;
    std::condition_variable wake_;
    std::uint32_t waiting_ = 0; // queues in which there may be something, a bit each
    bool ending_ = false;
};

Fs::Fs(std::string_view tag, std::unique_ptr<FsServer> server, FsOptions options)
    : Device(describe_device(tag, options.workers > 0)), server_(std::move(server)),
      pool_(std::make_unique<Pool>(*this, options.workers, std::move(options.on_worker_start))) {}

Fs::~Fs() = default;

base::Result<void, FsError> Fs::start_workers() {
    return pool_->start();
}

void Fs::serve_chain(Queue& requests, Chain chain) {
    // The hiprio queue is served by whoever runs the event loop, which is not to wait for files.
    const auto accept =
        requests.index() == fs_hiprio_queue ? FsServer::Accept::Notices : FsServer::Accept::All;
    const std::size_t length = server_->handle(chain.readable(), chain.writable(), accept);
    requests.complete(std::move(chain), static_cast<std::uint32_t>(length));
}

Checked<void> Fs::on_notify(std::uint32_t queue_index) {
    if (queue_index == fs_pooled_queue && pool_->started()) {
        pool_->notify(queue_index);
        return {};
    }
    Queue& requests = *queue(queue_index);
    for (unsigned served = 0;; ++served) {
        // One round of the ring: other vCPUs that go on adding must not keep this one here for
        // ever. Nor may it just leave: the queue has not asked for a notification, so that what
        // they add would wait for one that does not come.
        if (served == requests.size() && pool_->started()) {
            pool_->notify(queue_index);
            return {};
        }
        TRY(Chain chain, requests.pop());
        if (!chain)
            return {};
        // The lock of the queue is not held: vCPUs are served side by side.
        serve_chain(requests, std::move(chain));
    }
}

void Fs::on_reset() {
    server_->reset();
}

} // namespace virtio
