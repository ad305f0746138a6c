// joey: runs programs in micro-VMs.
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <x86intrin.h>

#include "tools/joey/containers/people.hpp"
#include "tools/joey/image_command.hpp"
#include "tools/joey/options.hpp"
#include "tools/joey/outcome.hpp"
#include "tools/joey/reporter.hpp"
#include "tools/joey/runtime/runtime.hpp"
#include "tools/joey/session.hpp"

namespace {

int report(const joey::UserError& error, const joey::Reporter& reporter = joey::Reporter()) {
    reporter.print("joey: ", error.line);
    return joey::exit_joey_failed;
}

} // namespace

int main(int argc, char** argv) {
    const std::uint64_t start_tsc = __rdtsc();
    const std::span<char* const> arguments(argv + 1, static_cast<std::size_t>(argc - 1));
    // Some of their names are the runtime's too.
    if (joey::containers::is_command(arguments))
        return joey::containers::run_command(arguments);
    if (joey::runtime::is_runtime_command(arguments))
        return joey::runtime::run_command(arguments);
    if (const auto why = joey::containers::why_refused(arguments))
        return report({*why});
    if (!arguments.empty() && std::string_view(arguments.front()) == "image") {
        auto status = joey::run_image_command(arguments.subspan(1));
        return status ? *status : report(status.error());
    }
    if (!arguments.empty() && std::string_view(arguments.front()) == "images") {
        auto status = joey::run_images_command(arguments.subspan(1));
        return status ? *status : report(status.error());
    }
    if (auto status = joey::run_image_alias(arguments))
        return *status ? **status : report(status->error());
    auto command = joey::parse_command_line(arguments);
    if (!command)
        return report(command.error());
    if (const auto* show = std::get_if<joey::ShowText>(&*command)) {
        std::fputs(show->text.c_str(), stdout);
        return std::fflush(stdout) == 0 ? 0 : report({"cannot write to stdout"});
    }
    joey::Session session(std::move(std::get<joey::DoOptions>(*command)), start_tsc);
    auto status = session.run();
    // The host's kernel takes back memory, descriptors and the VM faster than destructors would;
    // whoever waits for the command waits for this too.
    std::_Exit(status ? *status : report(status.error(), session.reporter()));
}
