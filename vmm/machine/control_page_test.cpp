#include <array>
#include <cstring>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "vmm/machine/control_page.hpp"

namespace {

using boot::Control;

class Recorder final : public vmm::ControlSink {
public:
    void on_log(boot::LogLevel level, std::string_view text) override {
        calls.push_back("log " + std::to_string(static_cast<unsigned>(level)) + " " +
                        std::string(text));
    }
    void on_exit(std::uint32_t status) override {
        calls.push_back("exit " + std::to_string(status));
    }
    void on_panic(const boot::PanicRecord& record) override {
        calls.push_back("panic " + std::string(record.message, record.message_length));
    }
    void on_mark(boot::Mark mark) override {
        calls.push_back("mark " + std::string(vmm::name_of(mark)));
    }
    base::Result<void, vmm::Violation> on_start_cpu(std::uint32_t cpu) override {
        calls.push_back("start " + std::to_string(cpu));
        return {};
    }
    void on_exec_failed(std::uint32_t error) override {
        calls.push_back("exec failed " + std::to_string(error));
    }
    std::vector<std::string> calls;
};

class Guest {
public:
    Guest() : bytes_(0x4000) {
        added_ = memory_.add_region({virtio::GuestAddr(0), bytes_.data(), bytes_.size()});
    }
    template <typename T>
    void put(std::uint64_t at, const T& value) {
        std::memcpy(bytes_.data() + at, &value, sizeof(value));
    }
    void put_log(std::uint64_t at, std::uint32_t level, std::uint32_t length) {
        put(at, level);
        put(at + 4, length);
    }
    template <typename T>
    base::Result<void, vmm::Violation> write(Control reg, T value) {
        return vmm::write_control(memory_, static_cast<std::uint64_t>(reg),
                                  std::as_bytes(std::span(&value, 1)), sink);
    }
    bool is_violation(Control reg, std::uint64_t value) {
        return !write(reg, value) && sink.calls.empty();
    }
    Recorder sink;
    bool added_ = false;

private:
    std::vector<std::byte> bytes_;
    virtio::GuestMemory memory_;
};

using Calls = std::vector<std::string>;

} // namespace

TEST_CASE("each register of the control page means what the contract says") {
    Guest guest;
    REQUIRE(guest.added_);
    guest.put_log(0x100, 2, 5);
    guest.put(0x108, std::array{'h', 'e', 'l', 'l', 'o'});
    CHECK(guest.write(Control::log, std::uint64_t{0x100}));
    CHECK(guest.write(Control::exit, std::uint32_t{256}));
    CHECK(guest.write(Control::mark, std::uint32_t{3}));
    CHECK(guest.write(Control::start_cpu, std::uint32_t{1}));
    CHECK(guest.write(Control::exec_failed, std::uint32_t{2}));
    CHECK(guest.sink.calls ==
          Calls{"log 2 hello", "exit 256", "mark devices ready", "start 1", "exec failed 2"});
}

TEST_CASE("log records are checked before they are believed") {
    Guest guest;
    guest.put_log(0x100, 2, boot::max_log_length + 1);
    CHECK(guest.is_violation(Control::log, 0x100)); // too long
    guest.put_log(0x100, 5, 1);
    CHECK(guest.is_violation(Control::log, 0x100)); // unknown level
    guest.put_log(0x3f00, 2, 0x100);
    CHECK(guest.is_violation(Control::log, 0x3f00)); // ends outside
    CHECK(guest.is_violation(Control::log, 0x3ffc)); // head ends outside
    CHECK(guest.is_violation(Control::log, 0x4000));
    CHECK(guest.is_violation(Control::log, ~0ull - 3)); // wraps
    guest.put_log(0x3ff8, 2, 0);
    CHECK(guest.write(Control::log, std::uint64_t{0x3ff8})); // empty, at the very end
}

TEST_CASE("a panic record's message is bounded") {
    Guest guest;
    boot::PanicRecord record{};
    record.message[0] = 'x';
    record.message_length = 0xffff'ffff;
    guest.put(0x1000, record);
    CHECK(guest.write(Control::panic, std::uint64_t{0x1000}));
    REQUIRE(guest.sink.calls.size() == 1);
    CHECK(guest.sink.calls[0].size() == std::string("panic ").size() + sizeof(record.message));
    guest.sink.calls.clear();
    CHECK(guest.is_violation(Control::panic, 0x3fff));
}

TEST_CASE("writes of another size and unknown registers are violations") {
    Guest guest;
    CHECK_FALSE(guest.write(Control::log, std::uint32_t{0}));
    CHECK_FALSE(guest.write(Control::exit, std::uint64_t{0}));
    CHECK_FALSE(guest.write(Control::mark, std::uint8_t{0}));
    CHECK_FALSE(guest.write(static_cast<Control>(0x4), std::uint32_t{0}));
    CHECK_FALSE(guest.write(static_cast<Control>(0xff8), std::uint64_t{0}));
    CHECK(guest.sink.calls.empty());
}
