// TCP as a protocol above IP: registered once at boot, before the first stack.
#pragma once

namespace kernel::tcp {

void register_tcp();

} // namespace kernel::tcp
