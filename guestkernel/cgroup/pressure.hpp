// Pressure stall information: how long tasks waited for memory, I/O or a CPU
// (Linux: Documentation/accounting/psi.rst). "some": at least one task waited; "full": nobody could
// work meanwhile. Averages are brought up to date when somebody reads them.
#pragma once

#include <string_view>

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/fs/procfs/text.hpp"

namespace kernel {

class Cgroup;
class PollTable;

enum class PressureKind : u8 { Io, Memory, Cpu };
inline constexpr unsigned pressure_kinds = 3;

struct PressureGroup; // a group's figures; the machine's are in pressure.cpp
struct PressureTrigger;

// Around a wait of the running task. Sleepable contexts only.
class PressureStall {
public:
    explicit PressureStall(PressureKind kind);
    ~PressureStall();
    PressureStall(const PressureStall&) = delete;
    PressureStall& operator=(const PressureStall&) = delete;

private:
    Ref<Cgroup> group_;
    PressureKind kind_;
};

Result<PressureGroup*> make_pressure_group(Cgroup& of);
void free_pressure_group(PressureGroup* group);

// The two lines. `group` null: of the machine.
void show_pressure(TextBuilder& out, Cgroup* group, PressureKind kind);
// "some 150000 1000000". EINVAL. `group` null: of the machine.
Result<PressureTrigger*> make_pressure_trigger(Cgroup* group, PressureKind kind,
                                               std::string_view text);
void free_pressure_trigger(PressureTrigger* trigger);
// POLLPRI when it has fired since it was last asked, POLLERR without one.
u32 poll_pressure_trigger(PressureTrigger* trigger, PollTable* table);

} // namespace kernel
