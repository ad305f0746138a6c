// An OCI configuration, a process and resources that somebody hostile wrote. What is accepted must
// hold what the builder relies on.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "agent/container/seccomp_filter.hpp"
#include "agent/spec/parts.hpp"

namespace {

void require(bool holds) {
    if (!holds)
        std::abort();
}

bool is_c_string(const std::string& text) {
    return text.find('\0') == std::string::npos;
}

void check(const spec::Process& process) {
    require(!process.args.empty() && process.cwd[0] == '/');
    for (const std::string& arg : process.args)
        require(is_c_string(arg));
    require((process.capabilities.effective & ~process.capabilities.permitted) == 0);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto parsed = spec::parse_spec(text, "/bundle");
    if (parsed) {
        require(parsed->linux_part.find(0x00020000) != nullptr); // CLONE_NEWNS
        require(parsed->rootfs[0] == '/' && is_c_string(parsed->rootfs));
        for (const spec::Mount& mount : parsed->mounts)
            require(mount.destination[0] == '/' && is_c_string(mount.source));
        for (const spec::CgroupSetting& setting : parsed->linux_part.resources.settings)
            require(setting.file.find('/') == std::string::npos);
        if (parsed->process)
            check(*parsed->process);
        if (parsed->linux_part.seccomp)
            static_cast<void>(container::compile_filter(*parsed->linux_part.seccomp));
    } else {
        require(!parsed.error().message.empty());
    }
    if (const auto process = spec::parse_process(text))
        check(*process);
    static_cast<void>(spec::parse_resources(text));
    return 0;
}
