// Handshakes: from the SYN to a connection that waits for accept(2).
#include "guestkernel/net/tcp/listener.hpp"

#include <linux/errno.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/neighbour.hpp"

namespace kernel::tcp {

namespace {

constexpr u64 cookie_memory = 2 * 64 * nanoseconds_per_second; // how long an answer may come
constexpr u32 cookie_bits = 6;
constexpr u32 cookie_sack = 1u << 4, cookie_scale = 15;
constexpr u32 acceptable_events = poll_in | poll_rdnorm;

u64 retry_delay(u8 retries) {
    const u64 delay = initial_timeout << (retries < 7 ? retries : 7);
    return delay < most_timeout ? delay : most_timeout;
}

} // namespace

Listener::Listener(net::Stack& of, Ref<Connection> owner)
    : Entry(EntryKind::Listener), stack_ref_(Ref<net::Stack>::share(&of)), owner_(std::move(owner)),
      tcp_(TcpStack::of(of)), timer_(of.clock, timer_expired, this) {
    stack = &of;
}

Listener::~Listener() = default;

void Listener::last_reference() {
    (void)timer_.cancel();
    Ref<net::Stack> keep = stack_ref_;
    delete this;
}

// --- the accept queue

Ref<Connection> Listener::take() {
    SpinGuard guard(lock);
    Connection* first = first_pending_;
    if (first == nullptr)
        return nullptr;
    first_pending_ = first->accept_next;
    if (first_pending_ == nullptr)
        last_pending_ = nullptr;
    first->accept_next = nullptr;
    pending_count_ = pending_count_ - 1;
    SpinGuard inner(first->lock);
    first->accepted = true;
    if (first->fast_open_used && first->state() == State::SynReceived)
        (void)fast_open_count_.fetch_sub(1);
    first->listener = nullptr;
    return Ref<Connection>::adopt(first);
}

void Listener::enqueue(Ref<Connection> connection) {
    Connection* added = connection.leak();
    (first_pending_ == nullptr ? first_pending_ : last_pending_->accept_next) = added;
    last_pending_ = added;
    pending_count_ = pending_count_ + 1;
}

void Listener::lost(Connection& connection) {
    if (connection.fast_open_used)
        (void)fast_open_count_.fetch_sub(1);
}

void Listener::close() {
    Connection* waiting = nullptr;
    {
        SpinGuard guard(lock);
        closed_ = true;
        while (Request* request = requests_.front()) {
            Ref<Request> keep = Ref<Request>::share(request);
            drop_request(*request);
        }
        waiting = first_pending_;
        first_pending_ = last_pending_ = nullptr;
        pending_count_ = 0;
    }
    while (waiting != nullptr) {
        Ref<Connection> connection = Ref<Connection>::adopt(waiting);
        waiting = connection->accept_next;
        connection->accept_next = nullptr;
        SpinGuard guard(connection->lock);
        connection->accepted = true;
        connection->listener = nullptr;
        connection->orphan(true);
    }
}

// --- what a SYN asks for

u8 Listener::receive_scale() const {
    const u32 most =
        options.receive_buffer_fixed ? options.receive_buffer : tcp_.settings.receive_most;
    u32 space = most;
    if (options.window_clamp != 0 && space > options.window_clamp)
        space = options.window_clamp;
    u8 scale = 0;
    while (space > 65535 && scale < largest_scale) {
        space >>= 1;
        scale++;
    }
    return scale;
}

u32 Listener::initial_window(u32 mss) const {
    const u32 limit =
        options.receive_buffer_fixed ? options.receive_buffer : tcp_.settings.receive_default;
    u32 window = limit / 2;
    if (options.window_clamp != 0 && window > options.window_clamp)
        window = options.window_clamp;
    window = window < 65535 ? window : 65535;
    return window > mss ? window - window % mss : window;
}

Negotiated Listener::negotiate(const Options& told) const {
    Negotiated out;
    out.peer_mss = told.mss != 0 ? told.mss : 536;
    out.timestamps = tcp_.settings.timestamps && told.has_timestamp;
    out.sack = tcp_.settings.sack && told.sack_permitted;
    out.scaling = tcp_.settings.window_scaling && told.has_scale;
    out.send_scale = out.scaling ? told.scale : 0;
    out.receive_scale = out.scaling ? receive_scale() : 0;
    return out;
}

net::Flow Listener::flow_to(const Pair& peers) const {
    net::Flow flow = model_;
    flow.source = peers.local.address;
    flow.destination = peers.remote.address;
    flow.source_port = peers.local.port;
    flow.destination_port = peers.remote.port;
    if (peers.remote.scope != 0)
        flow.interface = peers.remote.scope;
    flow.protocol = 6;
    flow.dont_fragment = true;
    flow.path = {};
    return flow;
}

void Listener::input(net::PacketPtr packet, const Header& header, const net::IpInfo& info,
                     u32 first_sequence) {
    if (owner_->too_few_hops(info)) {
        Counters::count(tcp_.counters.hop_limit_drops);
        return;
    }
    if (header.has(flag_rst))
        return;
    if (header.has(flag_ack)) {
        if (header.has(flag_syn) || !input_cookie(packet, header, info))
            refuse(*stack, header, info);
        return;
    }
    if (!header.has(flag_syn) || header.has(flag_fin) || info.broadcast || info.multicast)
        return;
    input_syn(std::move(packet), header, info, first_sequence);
}

// TCP_SAVE_SYN: from the network header on, or from the link's, to the end of TCP's. Without memory
// there is none to be told of.
void Listener::save_syn(net::Packet& packet, const Header& header, Request& request) const {
    if (options.save_syn == 0 || !packet.has_network())
        return;
    if (options.save_syn == 2 && packet.has_link())
        packet.restore_link();
    else
        packet.restore_network();
    const u32 bytes = static_cast<u32>(packet.transport_offset()) + header.length();
    if (request.saved_syn.resize(bytes))
        (void)packet.copy_out(0, request.saved_syn.data(), bytes);
    (void)packet.pull(bytes);
}

void Listener::input_syn(net::PacketPtr packet, const Header& header, const net::IpInfo& info,
                         u32 first_sequence) {
    SpinGuard guard(lock);
    if (closed_)
        return;
    if (accept_queue_full()) {
        Counters::count(tcp_.counters.listen_overflows);
        Counters::count(tcp_.counters.listen_drops);
        return;
    }
    const u32 limit = backlog < tcp_.settings.syn_backlog ? backlog : tcp_.settings.syn_backlog;
    const bool full = request_count_ > limit;
    if (full || tcp_.settings.syn_cookies == 2)
        Counters::count(tcp_.settings.syn_cookies != 0 ? tcp_.counters.request_queue_cookies
                                                       : tcp_.counters.request_queue_drops);
    if (full && tcp_.settings.syn_cookies == 0) {
        Counters::count(tcp_.counters.listen_drops);
        return;
    }
    const bool as_cookie = (full || tcp_.settings.syn_cookies == 2) && first_sequence == 0;
    Request* made = new (std::nothrow) Request();
    if (made == nullptr) {
        Counters::count(tcp_.counters.listen_drops);
        return;
    }
    Ref<Request> request = Ref<Request>::adopt(made);
    const u64 time = tcp_.now();
    const Secrets& secrets = Secrets::get();
    request->stack = stack;
    request->pair = pair_of(header, info);
    request->negotiated = negotiate(header.options());
    request->receive_initial = header.sequence();
    request->window = header.window();
    request->recent_timestamp = header.options().timestamp;
    request->timestamp_offset = secrets.timestamp_offset(request->pair);
    if (as_cookie) {
        request->send_initial = secrets.syn_cookie(request->pair, header.sequence(),
                                                   request->negotiated.peer_mss, time);
        if (!request->negotiated.timestamps) // nowhere to keep them
            request->negotiated.sack = request->negotiated.scaling = false;
        cookies_sent_at_ = time;
        Counters::count(tcp_.counters.syn_cookies_sent);
        (void)send_syn_ack(*request, nullptr, true);
        return;
    }
    request->send_initial = first_sequence != 0 ? Sequence(first_sequence)
                                                : secrets.initial_sequence(request->pair, time);
    save_syn(*packet, header, *request);
    const bool offered = header.options().has_cookie && (tcp_.settings.fast_open & 2) != 0 &&
                         options.fast_open_backlog != 0;
    if (offered && try_fast_open(packet, header, *request))
        return;
    request->listener = Ref<Listener>::share(this);
    if (!Table::get().insert(*request))
        return; // somebody was faster
    requests_.push_back(*request);
    request->add_ref();
    request_count_ = request_count_ + 1;
    request->deadline = time + retry_delay(0);
    set_timer(request->deadline);
    FastOpenCookie cookie;
    if (offered)
        cookie = secrets.fast_open_cookie(request->pair);
    (void)send_syn_ack(*request, offered ? &cookie : nullptr, false);
}

// Sends the second segment of the handshake.
bool Listener::send_syn_ack(Request& request, const FastOpenCookie* cookie, bool as_cookie) {
    net::Flow flow = flow_to(request.pair);
    if (!net::resolve(*stack, flow))
        return false;
    const u64 time = tcp_.now();
    Options out;
    const u16 mss = mss_to_announce(flow, options);
    request.announced_mss = out.mss = mss;
    request.receive_window = initial_window(mss);
    const Negotiated& agreed = request.negotiated;
    out.has_scale = agreed.scaling;
    out.scale = agreed.receive_scale;
    out.sack_permitted = agreed.sack;
    out.has_timestamp = agreed.timestamps;
    out.echo = request.recent_timestamp;
    u32 stamp = static_cast<u32>(time / millisecond);
    if (as_cookie) {
        // The options that the sequence number has no room for (as Linux keeps them).
        const u32 bits =
            (agreed.scaling ? agreed.send_scale : cookie_scale) | (agreed.sack ? cookie_sack : 0);
        u32 coded = (stamp & ~((1u << cookie_bits) - 1)) | bits;
        if (coded > stamp)
            coded -= 1u << cookie_bits;
        stamp = coded;
    }
    out.timestamp = stamp + request.timestamp_offset;
    if (cookie != nullptr) {
        out.has_cookie = true;
        out.cookie = *cookie;
    }
    net::PacketPtr packet = net::Packet::allocate(0);
    if (!packet)
        return false;
    HeaderFields fields;
    fields.source_port = request.pair.local.port;
    fields.destination_port = request.pair.remote.port;
    fields.sequence = request.send_initial;
    fields.acknowledgement = request.receive_initial + 1;
    fields.flags = flag_syn | flag_ack;
    fields.window = static_cast<u16>(request.receive_window);
    fields.options = &out;
    const u32 length = static_cast<u32>(header_length(out));
    build_header(fields, {packet->push(length), length});
    packet->mark_transport();
    packet->start_checksum(net::flow_pseudo_header(flow, length), 0, checksum_offset);
    request.sent_at = time;
    Counters::count(tcp_.counters.out_segments);
    return net::ip_output(*stack, flow, std::move(packet)).has_value();
}

// --- requests

void Listener::drop_request(Request& request) {
    if (!request.queue_node.linked())
        return;
    requests_.remove(request);
    request_count_ = request_count_ - 1;
    (void)Table::get().remove(request);
    request.release();
}

void Listener::set_timer(u64 when) {
    if (!timer_.pending() || timer_.deadline() > when)
        timer_.arm(when);
}

void Listener::timer_expired(net::NetTimer&, void* self) {
    auto& listener = *static_cast<Listener*>(self);
    if (!listener.try_add_ref())
        return;
    {
        SpinGuard guard(listener.lock);
        listener.run_requests(listener.tcp_.now());
    }
    net::run_backlog();
    if (!listener.release_unless_last())
        listener.tcp_.release_later(listener);
}

void Listener::run_requests(u64 time) {
    u64 next = no_deadline;
    Request* request = requests_.front();
    while (request != nullptr) {
        Request* const following = requests_.next(*request);
        if (request->deadline <= time) {
            // With TCP_DEFER_ACCEPT the peer may keep us waiting for its data that long.
            const u8 limit = options.defer_accept_retries > tcp_.settings.syn_ack_retries
                                 ? options.defer_accept_retries
                                 : tcp_.settings.syn_ack_retries;
            if (request->retries >= limit) {
                Ref<Request> keep = Ref<Request>::share(request);
                drop_request(*request);
                request = following;
                continue;
            }
            request->retries++;
            request->deadline = time + retry_delay(request->retries);
            if (!request->acked || request->retries >= options.defer_accept_retries) {
                Counters::count(tcp_.counters.retransmitted);
                Counters::count(tcp_.counters.syn_retransmits);
                (void)send_syn_ack(*request, nullptr, false);
            }
        }
        next = request->deadline < next ? request->deadline : next;
        request = following;
    }
    if (next != no_deadline)
        set_timer(next);
}

void Listener::request_error(Request& request, Sequence sequence) {
    SpinGuard guard(lock);
    if (request.in_table() && sequence == request.send_initial)
        drop_request(request);
}

// At most one answer per half second to what is wrong about a request.
void Listener::answer(Request& request, u64 time) {
    if (request.last_answer != 0 &&
        time - request.last_answer < tcp_.settings.invalid_rate_ms * millisecond) {
        Counters::count(tcp_.counters.answers_skipped_request);
        return;
    }
    request.last_answer = time;
    (void)send_syn_ack(request, nullptr, false);
}

void Listener::input_request(Request& request, net::PacketPtr packet, const Header& header,
                             const net::IpInfo& info) {
    Ref<Connection> child;
    bool wrong_ack = false;
    {
        SpinGuard guard(lock);
        if (!request.in_table() || closed_)
            return;
        const u64 time = tcp_.now();
        const Sequence expected = request.receive_initial + 1;
        const Options& told = header.options();
        const bool old = request.negotiated.timestamps && told.has_timestamp &&
                         static_cast<i32>(told.timestamp - request.recent_timestamp) < 0;
        if (header.has(flag_syn) && !header.has(flag_ack)) {
            // Ours was lost; or the client begins anew, and finds that this is not what it asked
            // for: its reset makes room for what it asks now (RFC 9293, 3.5.1).
            answer(request, time);
            return;
        }
        const bool inside =
            header.end() >= expected && header.sequence() <= expected + request.receive_window;
        if (!inside || old) {
            if (!header.has(flag_rst))
                answer(request, time);
            return;
        }
        if (header.has(flag_rst)) {
            if (header.sequence() == expected) {
                Counters::count(tcp_.counters.embryonic_resets);
                Counters::count(tcp_.counters.attempt_fails);
                drop_request(request);
            }
            return;
        }
        if (header.has(flag_syn) || !header.has(flag_ack))
            return;
        wrong_ack = header.acknowledgement() != request.send_initial + 1;
        if (!wrong_ack) {
            if (request.negotiated.timestamps && told.has_timestamp &&
                header.sequence() <= expected)
                request.recent_timestamp = told.timestamp;
            // TCP_DEFER_ACCEPT: only data make it a connection, until the patience is over.
            if (request.retries < options.defer_accept_retries && header.data_length() == 0) {
                request.acked = true;
                Counters::count(tcp_.counters.defer_accept_drops);
                return;
            }
            if (!complete(request, child))
                return;
        }
    }
    if (wrong_ack) {
        refuse(*stack, header, info);
        return;
    }
    child->input(std::move(packet), header, info);
    owner_->readers.wake_one(acceptable_events);
}

// The request becomes a connection. False: there is no room; the peer will ask again.
bool Listener::complete(Request& request, Ref<Connection>& child) {
    if (accept_queue_full()) {
        Counters::count(tcp_.counters.listen_overflows);
        Counters::count(tcp_.counters.listen_drops);
        request.acked = true;
        if (tcp_.settings.abort_on_overflow)
            drop_request(request);
        return false;
    }
    child = make_child(request, true);
    if (!child)
        return false;
    if (!Table::get().replace(request, *child))
        return false;
    if (request.queue_node.linked()) {
        requests_.remove(request);
        request_count_ = request_count_ - 1;
        request.release();
    }
    enqueue(child);
    return true;
}

Ref<Connection> Listener::make_child(Request& request, bool established) {
    auto* made = new (std::nothrow) Connection(*stack);
    if (made == nullptr) {
        Counters::count(tcp_.counters.listen_drops);
        return nullptr;
    }
    Ref<Connection> child = Ref<Connection>::adopt(made);
    child->options = options;
    child->set_flow(flow_to(request.pair));
    if (!net::resolve(*stack, child->flow)) {
        Counters::count(tcp_.counters.listen_drops);
        return nullptr;
    }
    child->accepted = false;
    child->saved_syn = std::move(request.saved_syn);
    child->local = request.pair.local.address;
    child->connected = true;
    child->peer = request.pair.remote.address;
    child->peer_port = request.pair.remote.port;
    child->uid = owner_->uid;
    child->interface = owner_->interface;
    child->v6 = owner_->v6;
    child->v6_only = owner_->v6_only;
    child->least_hop_limit4 = owner_->least_hop_limit4;
    child->least_hop_limit6 = owner_->least_hop_limit6;
    child->reuse_address = owner_->reuse_address;
    child->reuse_port = owner_->reuse_port;
    Connection::Birth birth;
    birth.pair = request.pair;
    birth.negotiated = request.negotiated;
    birth.send_initial = request.send_initial;
    birth.receive_initial = request.receive_initial;
    birth.window = request.window;
    birth.recent_timestamp = request.recent_timestamp;
    birth.timestamp_offset = request.timestamp_offset;
    birth.sent_at = request.retries == 0 ? request.sent_at : 0;
    birth.timed_out = request.retries > 1;
    birth.receive_window = request.receive_window;
    birth.announced_mss = request.announced_mss;
    birth.established = established;
    SpinGuard guard(child->lock);
    child->start(birth);
    stack->tcp_ports.join(*child, *owner_);
    Counters::count(tcp_.counters.passive_opens);
    return child;
}

// --- fast open (RFC 7413, 4.2): data of a SYN whose cookie is right are served at once

bool Listener::try_fast_open(net::PacketPtr& packet, const Header& header, Request& request) {
    const Options& told = header.options();
    const FastOpenCookie valid = Secrets::get().fast_open_cookie(request.pair);
    if (fast_open_count_.load() >= options.fast_open_backlog) {
        Counters::count(tcp_.counters.fast_open_overflows);
        return false;
    }
    if (!(told.cookie == valid)) {
        Counters::count(told.cookie.length != 0 ? tcp_.counters.fast_open_passive_failed
                                                : tcp_.counters.fast_open_cookies_asked);
        return false;
    }
    // What send_syn_ack() would have found out.
    net::Flow flow = flow_to(request.pair);
    if (!net::resolve(*stack, flow))
        return false;
    request.announced_mss = mss_to_announce(flow, options);
    request.receive_window = initial_window(request.announced_mss);
    Ref<Connection> child = make_child(request, false);
    if (!child)
        return false;
    child->fast_open_used = true;
    child->listener = Ref<Listener>::share(this);
    if (!Table::get().insert(*child))
        return false;
    (void)fast_open_count_.fetch_add(1);
    Counters::count(tcp_.counters.fast_open_passive);
    {
        SpinGuard guard(child->lock);
        child->accept_fast_open(std::move(packet), header);
    }
    enqueue(std::move(child));
    owner_->readers.wake_one(acceptable_events);
    return true;
}

// --- SYN cookies

// An acknowledgement of a SYN-ACK that left no trace here. False: it is none.
bool Listener::input_cookie(net::PacketPtr& packet, const Header& header, const net::IpInfo& info) {
    Ref<Connection> child;
    {
        SpinGuard guard(lock);
        const u64 time = tcp_.now();
        if (tcp_.settings.syn_cookies == 0 || cookies_sent_at_ == 0 || closed_ ||
            time - cookies_sent_at_ > cookie_memory)
            return false;
        Ref<Request> request;
        if (Request* made = new (std::nothrow) Request())
            request = Ref<Request>::adopt(made);
        else
            return false;
        request->stack = stack;
        request->pair = pair_of(header, info);
        request->send_initial = header.acknowledgement() - 1;
        request->receive_initial = header.sequence() - 1;
        const auto mss = Secrets::get().check_syn_cookie(request->pair, request->receive_initial,
                                                         request->send_initial, time);
        if (!mss) {
            Counters::count(tcp_.counters.syn_cookies_failed);
            return false;
        }
        Counters::count(tcp_.counters.syn_cookies_received);
        request->timestamp_offset = Secrets::get().timestamp_offset(request->pair);
        Negotiated& agreed = request->negotiated;
        agreed.peer_mss = *mss;
        const Options& told = header.options();
        if (told.has_timestamp && tcp_.settings.timestamps) {
            const u32 bits = (told.echo - request->timestamp_offset) & ((1u << cookie_bits) - 1);
            agreed.timestamps = true;
            agreed.sack = (bits & cookie_sack) != 0;
            agreed.scaling = (bits & cookie_scale) != cookie_scale;
            agreed.send_scale = agreed.scaling ? bits & cookie_scale : 0;
            agreed.receive_scale = agreed.scaling ? receive_scale() : 0;
            request->recent_timestamp = told.timestamp;
        }
        request->window = u32{header.window()} << agreed.send_scale;
        request->announced_mss = *mss;
        request->receive_window = initial_window(*mss);
        request->retries = 1; // nobody knows when it was sent
        if (accept_queue_full()) {
            Counters::count(tcp_.counters.listen_overflows);
            return true; // it may come again with its data
        }
        child = make_child(*request, true);
        if (!child || !Table::get().insert(*child))
            return true;
        enqueue(child);
    }
    child->input(std::move(packet), header, info);
    owner_->readers.wake_one(acceptable_events);
    return true;
}

} // namespace kernel::tcp
