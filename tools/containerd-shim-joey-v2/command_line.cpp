#include "tools/containerd-shim-joey-v2/command_line.hpp"

#include <array>
#include <vector>

#include "tools/joey/runtime/flags.hpp"
#include "tools/pod/state_files.hpp"

namespace shim {

namespace {

using joey::runtime::Flag;

constexpr std::array known = {
    Flag{"namespace", "", true},      Flag{"id", "", true},      Flag{"address", "", true},
    Flag{"publish-binary", "", true}, Flag{"bundle", "", true},  Flag{"socket", "", true},
    Flag{"debug", "", false},         Flag{"v", "", false},      Flag{"info", "", false},
    Flag{"help", "h", false},         Flag{"version", "", false}};

// It becomes part of paths.
os::Result<void> check_name(const std::string& name, const char* what) {
    if (name.empty())
        return os::fail(os::Code::InvalidArgument, what, " is missing");
    if (name == "." || name == ".." || !pod::check_id(name))
        return os::fail(os::Code::InvalidArgument, what, " ", name, " is no valid name");
    return {};
}

} // namespace

const char* const usage =
    R"(containerd-shim-joey-v2: containers of containerd in Joey's micro-VMs, one VM per pod.

containerd starts it, for the runtime io.containerd.joey.v2:
    ctr run --rm --runtime io.containerd.joey.v2 IMAGE ID COMMAND...

  containerd-shim-joey-v2 -namespace NAME -address SOCKET -publish-binary PROGRAM -id ID [-debug] start
  containerd-shim-joey-v2 -namespace NAME -address SOCKET -publish-binary PROGRAM -id ID [-bundle DIR] delete
  containerd-shim-joey-v2 -v | -info | -help

start   in the bundle's directory: starts the pod's shim, unless it runs, and prints its address
delete  ends and cleans up what a shim that was killed left of a container

See containerd-shim-joey-v2(8).
)";

os::Result<CommandLine> CommandLine::parse(std::span<char* const> arguments) {
    const std::vector<std::string> words(arguments.begin(), arguments.end());
    TRY(const auto flags, joey::runtime::Flags::parse(words, known));
    CommandLine out;
    out.name_space = flags.value("namespace");
    out.id = flags.value("id");
    out.address = flags.value("address");
    out.publish_binary = flags.value("publish-binary", "containerd");
    out.socket = flags.value("socket");
    out.bundle = flags.value("bundle");
    out.debug = flags.has("debug");
    out.version = flags.has("v") || flags.has("version");
    out.info = flags.has("info");
    out.help = flags.has("help");
    if (out.version || out.info || out.help)
        return out;
    if (flags.rest().size() > 1)
        return os::fail(os::Code::InvalidArgument, "more than one command: ", flags.rest()[1]);
    if (!flags.rest().empty())
        out.action = flags.rest().front();
    if (!out.action.empty() && out.action != "start" && out.action != "delete")
        return os::fail(os::Code::InvalidArgument, "unknown command ", out.action, "; see -help");
    TRY(check_name(out.name_space, "-namespace"));
    TRY(check_name(out.id, "-id"));
    return out;
}

} // namespace shim
