// What the host reads of containers: configurations that somebody wrote, and records. Whatever
// comes out for the agent is an object with a root, and a record that was accepted is written and
// read again as the same.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "tools/pod/engine.hpp"
#include "tools/pod/guest_config.hpp"
#include "tools/pod/records.hpp"

namespace {

void require(bool holds) {
    if (!holds)
        std::abort();
}

pod::SourceKind kind_of(const std::string& path, const std::string& destination) {
    return static_cast<pod::SourceKind>((path.size() + destination.size()) % 4);
}

void try_config(const std::string& text) {
    const auto config = pod::parse_object(text, "config.json");
    if (!config)
        return;
    static_cast<void>(pod::pod_of(*config, "id"));
    auto guest = pod::make_guest_config(*config, "/bundle", kind_of);
    if (!guest)
        return;
    require(!guest->sources.empty() && guest->sources.front().is_root);
    for (const auto& source : guest->sources) {
        require(source.path.starts_with('/'));
        guest->place(source, "/share/name");
    }
    if (!guest->pod_namespaces.empty())
        guest->join(7);
    require(guest->spec["root"]["path"] == "/share/name");
    require(!pod::to_text(guest->spec).empty());
}

void try_record(const std::string& text) {
    const auto record = pod::ContainerRecord::parse(text, "record");
    if (!record)
        return;
    require(pod::check_id(record->id).has_value() && pod::check_id(record->pod).has_value());
    const std::string written = record->to_text();
    const auto again = pod::ContainerRecord::parse(written, "record");
    require(again.has_value() && again->to_text() == written);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(reinterpret_cast<const char*>(data), size);
    try_config(text);
    try_record(text);
    return 0;
}
