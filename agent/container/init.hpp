// The first process of a container, from its birth in new namespaces to its program.
#pragma once

#include "agent/container/plan.hpp"
#include "agent/container/rootfs.hpp"

namespace container {

struct InitInputs {
    const ContainerPlan& plan;
    Trees& trees;
    const SeccompFilter& filter;
    const OpenNamespace* mount_namespace = nullptr; // to be joined; usually there is a new one
    bool in_user_namespace = false;
    int sync = -1; // the builder
};

[[noreturn]] void run_init(const InitInputs& inputs);

} // namespace container
