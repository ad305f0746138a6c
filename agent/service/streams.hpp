// The agent's ends of a process's standard streams. Nothing is read before somebody asks: a process
// that nobody listens to fills its pipe and waits.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/os/event_loop.hpp"
#include "agent/os/unique_fd.hpp"

namespace service {

// One direction out of a process. At most one reader at a time.
class OutputStream {
public:
    // Empty data: the stream has ended.
    using Done = std::function<void(os::Result<std::string> data)>;

    explicit OutputStream(os::EventLoop& loop) : loop_(loop) {}
    ~OutputStream() { close(); }
    OutputStream(const OutputStream&) = delete;
    OutputStream& operator=(const OutputStream&) = delete;

    // A non-blocking descriptor, shared with the input when it is a terminal. `reopens`: that
    // nobody has it open on the other side is no end of it, until writer_ended().
    void open(std::shared_ptr<os::UniqueFd> fd, bool reopens) {
        fd_ = std::move(fd);
        reopens_ = reopens;
    }
    void writer_ended();
    // `offset`: what the reader has received so far; the last piece is kept until that says so.
    void read(std::uint64_t offset, std::size_t most, Done done);
    // The reader is gone.
    void cancel();
    // A waiting reader is told that the process is no more.
    void close();
    // Whether a reader who has come for it may come for more.
    bool is_owed() const { return was_read_ && !ended_; }

private:
    bool read_now();
    void wait();
    void stop_watching();

    os::EventLoop& loop_;
    std::shared_ptr<os::UniqueFd> fd_;
    os::UniqueFd watched_; // a duplicate: epoll watches a terminal for both directions apart
    os::EventLoop::TimerId timer_ = 0; // instead of watching, while it hangs up
    bool reopens_ = false;
    bool hung_up_ = false;
    std::size_t most_ = 0;
    std::string last_;              // the last piece handed out
    std::uint64_t before_last_ = 0; // bytes handed out before it, all of which have arrived
    Done done_;
    bool was_read_ = false;
    bool ended_ = false; // and the reader has been told
};

// The direction into it. At most one writer at a time; done when all bytes are in the pipe.
class InputStream {
public:
    using Done = std::function<void(os::Result<void>)>;

    explicit InputStream(os::EventLoop& loop) : loop_(loop) {}
    ~InputStream() { close(); }
    InputStream(const InputStream&) = delete;
    InputStream& operator=(const InputStream&) = delete;

    void open(std::shared_ptr<os::UniqueFd> fd, bool terminal) {
        fd_ = std::move(fd);
        terminal_ = terminal;
    }
    void write(std::string data, Done done);
    // After what is being written. A terminal stays open: hanging it up would end its programs.
    void close_when_written();
    void close();

private:
    bool write_now();
    void finish(os::Result<void> result);
    void stop_watching();
    void let_go();

    os::EventLoop& loop_;
    std::shared_ptr<os::UniqueFd> fd_;
    os::UniqueFd watched_;
    bool terminal_ = false;
    bool close_later_ = false;
    bool closed_ = false;
    std::string data_;
    std::size_t written_ = 0;
    Done done_;
};

// One descriptor beside the standard streams; what goes one way only leaves the other unconnected.
struct PreservedStream {
    explicit PreservedStream(os::EventLoop& loop) : input(loop), output(loop) {}
    InputStream input;
    OutputStream output;
};

struct Streams {
    explicit Streams(os::EventLoop& on) : loop(on), input(on), output(on), error(on) {}
    os::EventLoop& loop;
    InputStream input;
    OutputStream output;
    OutputStream error;
    std::vector<std::unique_ptr<PreservedStream>> preserved; // of descriptor 3 and up
    std::shared_ptr<os::UniqueFd> terminal;

    // The direction of a descriptor that a client names; null: there is none of this number.
    InputStream* input_of(std::uint32_t descriptor);
    OutputStream* output_of(std::uint32_t descriptor);
    void close_inputs();
    bool is_output_owed() const;
};

// Which streams a client serves; the process's ends of the pipes for them, or of /dev/null.
struct WantedStreams {
    bool input = false;
    bool output = false;
    bool error = false;
    enum class Preserved : std::uint8_t { Null, Into, OutOf, Both };
    std::vector<Preserved> preserved;
};
struct ProcessEnds {
    std::array<os::UniqueFd, 3> stdio;
    // Above the numbers that they will have, so that these can be taken one after the other.
    std::vector<os::UniqueFd> preserved;
};
os::Result<ProcessEnds> make_pipes(Streams& streams, const WantedStreams& wanted);

// Each costs the guest two descriptors, and the host's relay one.
constexpr std::size_t most_preserved = 64;
constexpr int first_preserved = 3;

} // namespace service
