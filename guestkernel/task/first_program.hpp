// The first program: process 2, for whose end the VM waits.
#pragma once

namespace kernel {

class Process;

bool is_first_program(const Process& process);

} // namespace kernel
