// Namespaces as files: where the links in /proc/PID/ns lead (namespaces(7), ioctl_ns(2)).
#pragma once

#include "guestkernel/fs/file.hpp"
#include "guestkernel/namespaces/namespace.hpp"

namespace kernel {

// The namespace that an open file stands for, or null.
Namespace* namespace_of_file(File& file);
Result<Path> path_of_namespace(Ref<Namespace> space);
// The namespace of a task; `for_children`: of those it will make (pid, time). Null when it is gone.
Ref<Namespace> namespace_of_task(Task& task, NamespaceKind kind, bool for_children);

} // namespace kernel
