// Names, manifests, indices and configurations of images that somebody hostile wrote. What is
// accepted must hold what the store and the runtime rely on.
#include <cstdint>
#include <cstdlib>
#include <fcntl.h>
#include <string_view>

#include "tools/image/documents.hpp"
#include "tools/image/process.hpp"
#include "tools/image/reference.hpp"
#include "tools/image/testing/archive_maker.hpp"

namespace {

void require(bool holds) {
    if (!holds)
        std::abort();
}

bool is_c_string(const std::string& text) {
    return text.find('\0') == std::string::npos;
}

void check_reference(std::string_view text) {
    const auto reference = image::Reference::parse(text);
    if (!reference) {
        require(!reference.error().message.empty());
        return;
    }
    // Written out and shown, it means the same, and it is no path to anywhere.
    const auto again = image::Reference::parse(reference->full());
    const auto shown = image::Reference::parse(reference->familiar());
    require(again.has_value() && again->full() == reference->full());
    require(shown.has_value() && shown->full() == reference->full());
    require(reference->full().find("..") == std::string::npos && is_c_string(reference->full()) &&
            reference->path().front() != '/');
}

void check_descriptor(const image::Descriptor& descriptor) {
    const auto again = image::Digest::parse(descriptor.digest.text());
    require(again.has_value() && *again == descriptor.digest);
    require(descriptor.digest.hex().find_first_not_of("0123456789abcdef") == std::string::npos);
}

void check_process(const image::ImageConfig& config) {
    // A root without files: users by number only.
    static const image::testing::ScratchFolder folder;
    static const os::UniqueFd root(::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY));
    const auto process = image::describe_process(config, {}, root.get());
    if (!process)
        return;
    require(!process->args.empty() && !process->args.front().empty());
    require(process->working_directory.front() == '/');
    require(process->stop_signal >= 1 && process->stop_signal <= 64);
    for (const std::string& variable : process->env)
        require(variable.find('=') != std::string::npos && variable.front() != '=');
    for (const std::string& volume : process->volumes)
        require(volume.front() == '/' && is_c_string(volume));
    require(!image::oci_process(*process, false).empty());
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0)
        return 0;
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    const image::Limits limits;
    switch (data[0] % 6) {
    case 0:
        check_reference(text);
        break;
    case 1:
        if (const auto manifest = image::parse_manifest(text, "manifest", limits)) {
            check_descriptor(manifest->config);
            for (const image::Descriptor& layer : manifest->layers)
                check_descriptor(layer);
            require(image::parse_manifest(image::to_json(*manifest), "again", limits).has_value());
        }
        break;
    case 2:
        if (const auto index = image::parse_index(text, "index")) {
            for (const image::Descriptor& descriptor : index->manifests)
                check_descriptor(descriptor);
            static_cast<void>(image::choose(*index, {}));
            static_cast<void>(image::platforms_of(*index));
            require(image::parse_index(image::to_json(*index), "again").has_value());
        }
        break;
    case 3:
        static_cast<void>(image::parse_docker_list(text, limits));
        break;
    case 4:
        if (const auto config = image::parse_config(text, limits))
            check_process(*config);
        break;
    default: {
        const std::size_t cut = text.size() / 3;
        const auto account =
            image::find_account(text.substr(0, cut), text.substr(cut, cut), text.substr(2 * cut));
        require(!account || (account->uid <= INT32_MAX && account->gid <= INT32_MAX));
    }
    }
    return 0;
}
