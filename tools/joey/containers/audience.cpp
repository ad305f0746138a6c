#include "tools/joey/containers/audience.hpp"

#include <algorithm>

#include <sys/epoll.h>
#include <sys/socket.h>

namespace joey::containers {

namespace {

constexpr std::size_t most_waiting = 1U << 20; // bytes for one member, before the program waits
constexpr std::size_t most_members = 64;

unsigned want_of(Word word) {
    return word == Word::Output ? wants_output : word == Word::ErrorOutput ? wants_errors : 0U;
}

} // namespace

Audience::Audience(os::EventLoop& loop, Handlers handlers)
    : loop_(loop), handlers_(std::move(handlers)) {}

Audience::~Audience() {
    if (listener_)
        loop_.forget(listener_.get());
    for (const auto& [fd, member] : members_)
        loop_.forget(fd);
}

void Audience::listen(os::UniqueFd socket) {
    listener_ = std::move(socket);
    static_cast<void>(
        loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { admit(); }).has_value());
}

void Audience::admit() {
    while (listener_) {
        os::UniqueFd one(
            ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!one)
            return;
        if (members_.size() < most_members)
            add(std::move(one));
    }
}

void Audience::add(os::UniqueFd socket) {
    const int fd = socket.get();
    auto member = std::make_unique<Member>();
    member->socket = std::move(socket);
    members_[fd] = std::move(member);
    const auto watched = loop_.watch(fd, EPOLLIN, [this, fd](std::uint32_t events) {
        const auto found = members_.find(fd);
        if (found == members_.end())
            return;
        if ((events & EPOLLOUT) != 0)
            flush(*found->second);
        // Of one who has gone nothing can wait.
        if (holds_input_ && (events & (EPOLLHUP | EPOLLERR)) != 0)
            remove(fd);
        else if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0)
            take(fd);
    });
    if (!watched)
        members_.erase(fd);
    else
        take(fd);
}

void Audience::take(int fd) {
    const auto found = members_.find(fd);
    if (found != members_.end())
        hear_from(*found->second);
}

void Audience::hear_from(Member& member) {
    while (!holds_input_) {
        auto heard = hear(member.socket.get(), false);
        if (!heard && heard.error().code == os::Code::Unavailable)
            return;
        if (!heard || !*heard)
            return remove(member.socket.get());
        Telling& telling = **heard;
        switch (telling.word) {
        case Word::Hello:
            member.wants = telling.data.empty() ? 0U : static_cast<unsigned char>(telling.data[0]);
            break;
        case Word::Input:
            if ((member.wants & wants_input) != 0)
                handlers_.input(telling.data);
            break;
        case Word::EndOfInput:
            if ((member.wants & wants_input) != 0)
                handlers_.end_of_input();
            break;
        case Word::Size:
            handlers_.resize(size_of(telling.data));
            break;
        default:
            return remove(member.socket.get());
        }
    }
}

void Audience::tell_all(Word word, std::string_view data) {
    const unsigned want = want_of(word);
    // Who has come while nobody looked hears of the end, too.
    if (want == 0)
        admit();
    std::vector<int> gone;
    for (const auto& [fd, member] : members_) {
        if (want != 0 && (member->wants & want) == 0)
            continue;
        for (std::string_view rest = data;;) {
            const std::string_view piece = rest.substr(0, largest_piece);
            member->waiting.push_back({word, std::string(piece)});
            member->bytes += piece.size();
            rest.remove_prefix(piece.size());
            if (rest.empty())
                break;
        }
        const bool was_idle = member->waiting.size() == 1;
        if (!was_idle)
            continue;
        const Told told = tell(fd, word, member->waiting.front().data, false);
        if (told == Told::Yes) {
            member->bytes -= member->waiting.front().data.size();
            member->waiting.pop_front();
        } else if (told == Told::Gone) {
            gone.push_back(fd);
        }
    }
    for (const int fd : gone)
        remove(fd);
    for (const auto& [fd, member] : members_)
        update(*member);
}

void Audience::flush(Member& member) {
    const bool was_full = is_full();
    while (!member.waiting.empty()) {
        const Telling& next = member.waiting.front();
        const Told told = tell(member.socket.get(), next.word, next.data, false);
        if (told == Told::Full)
            break;
        if (told == Told::Gone) {
            remove(member.socket.get());
            break;
        }
        member.bytes -= next.data.size();
        member.waiting.pop_front();
    }
    for (const auto& [fd, one] : members_)
        update(*one);
    if (was_full && !is_full())
        handlers_.drained();
}

void Audience::update(const Member& member) {
    loop_.change(member.socket.get(), (holds_input_ ? 0U : unsigned{EPOLLIN}) |
                                          (member.waiting.empty() ? 0U : unsigned{EPOLLOUT}));
}

bool Audience::is_full() const {
    return std::any_of(members_.begin(), members_.end(),
                       [](const auto& entry) { return entry.second->bytes > most_waiting; });
}

void Audience::hold_input(bool hold) {
    if (hold == holds_input_)
        return;
    holds_input_ = hold;
    for (const auto& [fd, member] : members_)
        update(*member);
}

void Audience::remove(int fd) {
    const auto found = members_.find(fd);
    if (found == members_.end())
        return;
    const bool was_full = is_full();
    loop_.forget(fd);
    // Whoever called may still hold it.
    std::shared_ptr<Member> member = std::move(found->second);
    members_.erase(found);
    loop_.defer([member] {});
    if (was_full && !is_full())
        handlers_.drained();
}

void Audience::finish(std::chrono::seconds patience) {
    bool late = false;
    loop_.after(patience, [&late] { late = true; });
    const auto waits = [this] {
        return std::any_of(members_.begin(), members_.end(),
                           [](const auto& entry) { return !entry.second->waiting.empty(); });
    };
    while (waits() && !late)
        loop_.run_once(std::chrono::milliseconds(-1));
}

} // namespace joey::containers
