// What the shim reads that others wrote: annotations, mount options, where streams go, settings,
// runtime options, containerd's messages.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "tools/containerd-shim-joey-v2/engine_work.hpp"
#include "tools/containerd-shim-joey-v2/grouping.hpp"
#include "tools/containerd-shim-joey-v2/metrics.hpp"
#include "tools/containerd-shim-joey-v2/options.hpp"
#include "tools/containerd-shim-joey-v2/rootfs.hpp"
#include "tools/containerd-shim-joey-v2/stdio.hpp"

namespace {

void require(bool holds) {
    if (!holds)
        std::abort();
}

void check_annotations(const std::string& text) {
    const std::size_t middle = std::min(text.find('='), text.size());
    const std::map<std::string, std::string> annotations = {
        {text.substr(0, middle), text.substr(std::min(middle + 1, text.size()))},
        {"io.kubernetes.cri.sandbox-id", text},
        {"io.joey.memory", text}};
    const auto group = shim::group_of(annotations, "own");
    require(!group || (!group->empty() && group->find('/') == std::string::npos));
    static_cast<void>(shim::Settings().check(annotations).has_value());
}

void check_mounts(const std::string& text) {
    const auto options = shim::parse_options({text, text.substr(text.size() / 2)});
    const auto shorter = shim::shorten_layers(options.data);
    require(shorter.data.size() <= options.data.size() + 1);
    require(shorter.directory.empty() || shorter.directory.front() == '/');
}

void check_settings(std::string_view text) {
    const auto settings = shim::Settings::parse(text, "file");
    if (!settings)
        require(!settings.error().message.empty());
    else
        require(!settings->vcpus || (*settings->vcpus >= 1 && *settings->vcpus <= 64));
}

template <typename Message>
void check_message(const std::string& text) {
    Message message;
    static_cast<void>(message.ParseFromString(text));
}

void check_messages(const std::string& text) {
    check_message<shim::api::CreateTaskRequest>(text);
    check_message<shim::api::ExecProcessRequest>(text);
    check_message<shim::api::UpdateTaskRequest>(text);
    check_message<shim::api::KillRequest>(text);
    joey::agent::v1::StatsResponse stats;
    if (stats.ParseFromString(text))
        require(!shim::metrics_of(stats).type_url().empty());
    wellknown::Any any;
    any.set_type_url("containerd.runc.v1.Options");
    any.set_value(text);
    static_cast<void>(shim::cgroup_of(any).has_value());
    static_cast<void>(shim::Created::parse(text).has_value());
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0)
        return 0;
    const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
    switch (data[0] % 5) {
    case 0:
        check_annotations(text);
        break;
    case 1:
        check_mounts(text);
        break;
    case 2:
        check_settings(text);
        break;
    case 3:
        check_messages(text);
        break;
    default:
        if (const auto target = shim::StreamTarget::parse(text))
            require(target->kind == shim::StreamTarget::Kind::None || !target->path.empty());
    }
    return 0;
}
