// struct rusage from a process's usage. For .cpp files only: UAPI headers.
#pragma once

#include <linux/resource.h>

#include "guestkernel/syscalls/time_values.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

inline rusage usage_value(const Process::Usage& usage) {
    rusage out = {};
    out.ru_utime.tv_sec = static_cast<__kernel_old_time_t>(usage.user_ns / nanoseconds_per_second);
    out.ru_utime.tv_usec =
        static_cast<__kernel_suseconds_t>(usage.user_ns % nanoseconds_per_second / 1000);
    out.ru_stime.tv_sec =
        static_cast<__kernel_old_time_t>(usage.system_ns / nanoseconds_per_second);
    out.ru_stime.tv_usec =
        static_cast<__kernel_suseconds_t>(usage.system_ns % nanoseconds_per_second / 1000);
    out.ru_maxrss = static_cast<__kernel_long_t>(usage.peak_pages * (page_size / 1024));
    out.ru_minflt = static_cast<__kernel_long_t>(usage.minor_faults);
    out.ru_majflt = static_cast<__kernel_long_t>(usage.major_faults);
    out.ru_nvcsw = static_cast<__kernel_long_t>(usage.voluntary_switches);
    out.ru_nivcsw = static_cast<__kernel_long_t>(usage.involuntary_switches);
    return out;
}

} // namespace kernel
