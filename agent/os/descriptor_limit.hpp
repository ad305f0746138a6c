// The agent has some ten descriptors per container: more of them than the usual limit allows, which
// its containers are to have nevertheless.
#pragma once

namespace os {

// To what is allowed at most.
void raise_descriptor_limit();
// What it was before; in a child that becomes somebody else's program.
void restore_descriptor_limit();

} // namespace os
