// The names under which containerd's clients hear of events.
#pragma once

namespace shim::topic {

inline constexpr const char* create = "/tasks/create";
inline constexpr const char* start = "/tasks/start";
inline constexpr const char* oom = "/tasks/oom";
inline constexpr const char* exit = "/tasks/exit";
inline constexpr const char* remove = "/tasks/delete";
inline constexpr const char* exec_added = "/tasks/exec-added";
inline constexpr const char* exec_started = "/tasks/exec-started";
inline constexpr const char* paused = "/tasks/paused";
inline constexpr const char* resumed = "/tasks/resumed";

} // namespace shim::topic
