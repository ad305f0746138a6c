#include "tools/joey/containers/watcher.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <poll.h>

#include <sys/socket.h>

#include "tools/joey/containers/session.hpp"
#include "tools/joey/outcome.hpp"
#include "tools/joey/signals.hpp"
#include "tools/joey/terminal.hpp"

namespace joey::containers {

os::Result<std::string> parse_keys(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const std::size_t comma = std::min(text.find(','), text.size());
        const std::string_view key = text.substr(0, comma);
        text.remove_prefix(std::min(comma + 1, text.size()));
        constexpr std::string_view control = "ctrl-";
        if (key.size() == 1) {
            out += key.front();
            continue;
        }
        const char letter = key.size() == control.size() + 1 ? key.back() : '\0';
        const bool is_key = (letter >= 'a' && letter <= 'z') || (letter >= '@' && letter <= '_');
        if (!key.starts_with(control) || !is_key)
            return os::fail(os::Code::InvalidArgument, "--detach-keys: '", key,
                            "' is no key; give one such as a or ctrl-p");
        out += static_cast<char>(letter & 0x1f);
    }
    return out;
}

std::string KeyFinder::pass(std::string_view typed) {
    std::string out;
    if (keys_.empty())
        return std::string(typed);
    for (const char c : typed) {
        if (found_)
            break;
        if (c != keys_[matched_] && matched_ > 0) {
            // It was not the sequence after all: what was held back goes on.
            out.append(keys_, 0, matched_);
            matched_ = 0;
        }
        if (c == keys_[matched_])
            found_ = ++matched_ == keys_.size();
        else
            out += c;
    }
    return out;
}

Size own_size() {
    if (::isatty(STDIN_FILENO) != 1)
        return {};
    const TerminalSize size = terminal_size(STDIN_FILENO);
    return {size.columns, size.rows};
}

namespace {

std::optional<int> number_in(const std::string& text) {
    return text.empty() ? std::nullopt : std::optional(std::atoi(text.c_str()));
}

// As much as a pipe that is writable takes without waiting (pipe(7)).
constexpr std::size_t pipe_piece = 4096;

class Watcher {
public:
    Watcher(Registry& registry, const Container& container, int socket, const WatchOptions& options,
            KeyFinder keys, SignalQueue signals)
        : registry_(registry), container_(container), socket_(socket), options_(options),
          keys_(std::move(keys)), signals_(std::move(signals)), reads_(options.input) {}

    os::Result<int> run() {
        // Only a terminal on both sides is one for the program.
        if (options_.terminal && options_.input && ::isatty(STDIN_FILENO) == 1) {
            auto raw = RawTerminal::prepare(STDIN_FILENO);
            if (!raw)
                return os::fail(os::Code::Internal, raw.error().line);
            raw_ = std::move(*raw);
            raw_->resume();
            send_size();
        }
        while (!status_) {
            std::array<pollfd, 3> wanted = {pollfd{socket_, POLLIN, 0},
                                            pollfd{signals_.fd(), POLLIN, 0},
                                            pollfd{reads_ ? STDIN_FILENO : -1, POLLIN, 0}};
            if (::poll(wanted.data(), wanted.size(), -1) < 0)
                continue;
            if (wanted[1].revents != 0)
                take_signals();
            if (wanted[0].revents != 0)
                take_output();
            if (wanted[2].revents != 0 && !status_)
                take_input();
        }
        return *status_;
    }

private:
    void send_size() {
        const Size size = own_size();
        if (size.columns != 0)
            tell(socket_, Word::Size, size_text(size.columns, size.rows), true);
    }

    void take_signals() {
        signals_.take([this](int number) { take_signal(number); });
    }

    // Whoever does not read makes the program wait, and not him who wants it to end.
    void write_out(int fd, std::string_view data) {
        while (!data.empty() && !status_) {
            std::array<pollfd, 2> wanted = {pollfd{fd, POLLOUT, 0},
                                            pollfd{signals_.fd(), POLLIN, 0}};
            if (::poll(wanted.data(), wanted.size(), -1) < 0)
                continue;
            if (wanted[1].revents != 0)
                take_signals();
            if (wanted[0].revents == 0)
                continue;
            const ssize_t written = ::write(fd, data.data(), std::min(pipe_piece, data.size()));
            if (written < 0 && (errno == EINTR || errno == EAGAIN))
                continue;
            if (written <= 0)
                return; // nobody reads; the container goes on
            data.remove_prefix(static_cast<std::size_t>(written));
        }
    }

    void take_output() {
        auto heard = hear(socket_, false);
        if (!heard && heard.error().code == os::Code::Unavailable)
            return;
        if (!heard || !*heard) {
            // The monitor was killed, and what it looked after is lost with it.
            complain("the container's monitor has ended; 'joey ps -a' tells how the container is");
            status_ = exit_joey_failed;
            return;
        }
        const Telling& telling = **heard;
        if (telling.word == Word::Output)
            write_out(STDOUT_FILENO, telling.data);
        else if (telling.word == Word::ErrorOutput)
            write_out(STDERR_FILENO, telling.data);
        else if (telling.word == Word::Ended)
            status_ = number_in(telling.data).value_or(exit_joey_failed);
    }

    void take_input() {
        std::array<char, largest_piece> data{};
        const ssize_t got = ::read(STDIN_FILENO, data.data(), data.size());
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            return;
        if (got <= 0) {
            reads_ = false;
            tell(socket_, Word::EndOfInput, {}, true);
            return;
        }
        std::string typed(data.data(), static_cast<std::size_t>(got));
        if (raw_) {
            typed = keys_.pass(typed);
            if (keys_.found()) {
                raw_.reset();
                write_out(STDERR_FILENO, "read escape sequence\r\n");
                status_ = 0;
                return;
            }
        }
        // While the program does not take it, it waits here.
        if (!typed.empty())
            send_input(typed);
    }

    // Output comes meanwhile: a program may wait for that to be taken.
    void send_input(std::string_view typed) {
        while (tell(socket_, Word::Input, typed, false) == Told::Full && !status_) {
            std::array<pollfd, 2> wanted = {pollfd{socket_, POLLIN | POLLOUT, 0},
                                            pollfd{signals_.fd(), POLLIN, 0}};
            if (::poll(wanted.data(), wanted.size(), -1) < 0)
                continue;
            if (wanted[1].revents != 0)
                take_signals();
            if ((wanted[0].revents & POLLIN) != 0)
                take_output();
        }
    }

    void take_signal(int number) {
        if (number == SIGWINCH)
            return send_size();
        // That nobody reads is this process's affair (as Docker has it).
        if (number == SIGPIPE && options_.proxy_signals)
            return;
        if (!options_.proxy_signals || raw_) {
            status_ = exit_signal_base + number;
            return;
        }
        if (number == SIGINT || number == SIGTERM) {
            constexpr int enough = 3;
            if (++insistence_ >= enough) {
                complain("told three times to end; the container goes on");
                status_ = exit_signal_base + number;
                return;
            }
        }
        // If it has just ended, that is told next.
        static_cast<void>(
            registry_.engine()
                .kill(container_.id, number, false, pod::patience(std::chrono::seconds(10)))
                .has_value());
    }

    Registry& registry_;
    const Container& container_;
    const int socket_;
    const WatchOptions& options_;
    KeyFinder keys_;
    SignalQueue signals_;
    bool reads_;
    std::unique_ptr<RawTerminal> raw_;
    std::optional<int> status_;
    int insistence_ = 0;
};

} // namespace

os::Result<std::optional<int>> await_start(int socket) {
    for (;;) {
        TRY(const auto heard, hear(socket, true));
        if (!heard)
            return os::fail(os::Code::Internal, "the container's monitor has died");
        if (heard->word == Word::Started)
            return std::optional<int>();
        if (heard->word != Word::Failed)
            continue;
        const std::size_t blank = heard->data.find(' ');
        complain(printable(heard->data.substr(std::min(blank, heard->data.size() - 1) + 1)));
        return std::optional(number_in(heard->data).value_or(exit_joey_failed));
    }
}

os::Result<int> watch(Registry& registry, const Container& container, os::UniqueFd socket,
                      const WatchOptions& options) {
    TRY(std::string keys, parse_keys(options.detach_keys));
    auto signals = SignalQueue::block(
        {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGUSR1, SIGUSR2, SIGALRM, SIGCONT, SIGPIPE});
    if (!signals)
        return os::fail(os::Code::Internal, signals.error().line);
    return Watcher(registry, container, socket.get(), options, KeyFinder(std::move(keys)),
                   std::move(*signals))
        .run();
}

} // namespace joey::containers
