#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <functional>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>

#include "tools/image/importer.hpp"
#include "tools/image/testing/archive_maker.hpp"

using namespace image;
using namespace image::testing;
using nlohmann::json;

namespace {

struct TestStore {
    ScratchFolder folder;
    Store store;
    TestStore() : store(open()) {}
    Store open() const {
        auto opened = Store::open(folder / "store");
        if (!opened)
            FAIL(opened.error().message);
        return std::move(*opened);
    }
    // Writes the archive to a file and imports it.
    os::Result<std::vector<Imported>> import(const std::string& name, const std::string& data,
                                             ImportOptions options = {}) const {
        folder.write(name, data);
        options.input = folder / name;
        return image::import(store, options);
    }
    Imported one(const std::string& name, const std::string& data,
                 ImportOptions options = {}) const {
        auto imported = import(name, data, std::move(options));
        if (!imported)
            FAIL(imported.error().message);
        REQUIRE(imported->size() == 1);
        return std::move(imported->front());
    }
    std::string problem(const std::string& name, const std::string& data,
                        ImportOptions options = {}) const {
        auto imported = import(name, data, std::move(options));
        if (imported)
            FAIL("it was taken");
        CHECK(folder_count("tmp") == 0);
        return imported.error().message;
    }
    std::string file(const std::string& image, const std::string& path) const {
        auto found = store.find(image);
        if (!found)
            FAIL(found.error().message);
        auto rootfs = store.use(*found);
        if (!rootfs)
            FAIL(rootfs.error().message);
        auto text = read_in_root(rootfs->directory.get(), path, 1 << 20);
        return text && *text ? **text : "missing";
    }
    std::size_t folder_count(const std::string& name) const {
        const os::UniqueFd fd(
            ::open((folder / ("store/" + name)).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        return list_names(fd.get())->size();
    }
};

std::string simple_layer(const std::string& path, const std::string& text) {
    ArchiveMaker layer;
    layer.file(path, text);
    return layer.finish();
}

std::string config_text(const std::vector<std::string>& layers,
                        const std::string& architecture = "amd64",
                        const std::string& command = "sh") {
    json diff_ids = json::array();
    for (const std::string& layer : layers)
        diff_ids.push_back(Hasher::of(layer).text());
    return json{{"architecture", architecture},
                {"os", "linux"},
                {"created", "2024-01-02T03:04:05Z"},
                {"config", {{"Cmd", {command}}, {"Env", {"A=b"}}}},
                {"rootfs", {{"type", "layers"}, {"diff_ids", diff_ids}}}}
        .dump();
}

// As Docker before 25 saved it: a folder per layer, manifest.json last, a layer that occurs twice
// as a link.
std::string old_docker_save(const std::vector<std::string>& layers,
                            const std::vector<std::string>& tags) {
    ArchiveMaker out;
    json paths = json::array();
    std::vector<std::string> seen;
    for (std::size_t i = 0; i < layers.size(); ++i) {
        const std::string id = Hasher::of(os::text("id", i)).hex();
        out.directory(id + "/").file(id + "/VERSION", "1.0").file(id + "/json", "{}");
        const auto first = std::find(layers.begin(), layers.end(), layers[i]) - layers.begin();
        if (static_cast<std::size_t>(first) < i)
            out.link(id + "/layer.tar",
                     "../" + Hasher::of(os::text("id", first)).hex() + "/layer.tar");
        else
            out.file(id + "/layer.tar", layers[i]);
        paths.push_back(id + "/layer.tar");
    }
    const std::string config = config_text(layers);
    const std::string name = Hasher::of(config).hex() + ".json";
    out.file(name, config);
    out.file("manifest.json",
             json::array({{{"Config", name}, {"RepoTags", tags}, {"Layers", paths}}}).dump());
    out.file("repositories", "{}");
    return out.finish();
}

// A layout, as members of an archive or files of a directory.
class Layout {
public:
    std::string blob(const std::string& text,
                     Digest::Algorithm algorithm = Digest::Algorithm::Sha256) {
        const Digest digest = Hasher::of(text, algorithm);
        files_.emplace_back(blob_path(digest), text);
        return digest.text();
    }
    json descriptor(const std::string& type, const std::string& text,
                    Digest::Algorithm algorithm = Digest::Algorithm::Sha256) {
        return {{"mediaType", type}, {"digest", blob(text, algorithm)}, {"size", text.size()}};
    }
    json manifest(const std::vector<std::string>& layers, Filter filter = Filter::None,
                  const std::string& architecture = "amd64") {
        json list = json::array();
        const std::string suffix = filter == Filter::Gzip   ? "+gzip"
                                   : filter == Filter::Zstd ? "+zstd"
                                                            : "";
        for (const std::string& layer : layers)
            list.push_back(
                descriptor(std::string(media_type::oci_layer) + suffix, compress(layer, filter)));
        const json document = {{"schemaVersion", 2},
                               {"mediaType", media_type::oci_manifest},
                               {"config", descriptor(std::string(media_type::oci_config),
                                                     config_text(layers, architecture))},
                               {"layers", list}};
        json out = descriptor(std::string(media_type::oci_manifest), document.dump());
        out["platform"] = {{"os", "linux"}, {"architecture", architecture}};
        return out;
    }
    json index(const std::vector<json>& manifests) {
        return descriptor(std::string(media_type::oci_index),
                          json{{"schemaVersion", 2},
                               {"mediaType", media_type::oci_index},
                               {"manifests", manifests}}
                              .dump());
    }
    static json named(json descriptor, const std::string& name) {
        descriptor["annotations"] = {{"org.opencontainers.image.ref.name", name}};
        return descriptor;
    }
    void finish(const std::vector<json>& manifests) {
        files_.emplace_back("oci-layout", R"({"imageLayoutVersion":"1.0.0"})");
        files_.emplace_back("index.json",
                            json{{"schemaVersion", 2}, {"manifests", manifests}}.dump());
    }
    std::string tar() const {
        ArchiveMaker out;
        out.directory("blobs").directory("blobs/sha256");
        for (const auto& [path, text] : files_)
            out.file(path, text);
        return out.finish();
    }
    void write(const ScratchFolder& folder, const std::string& name) const {
        for (const char* part : {"", "/blobs", "/blobs/sha256", "/blobs/sha512"})
            ::mkdir((folder / (name + part)).c_str(), 0755);
        for (const auto& [path, text] : files_)
            folder.write(name + "/" + path, text);
    }
    std::vector<std::pair<std::string, std::string>>& files() { return files_; }

private:
    std::vector<std::pair<std::string, std::string>> files_;
};

bool mentions(const std::string& text, std::string_view word) {
    INFO(text);
    const bool found = text.find(word) != std::string::npos;
    CHECK(found);
    return found;
}

} // namespace

TEST_CASE("what docker save wrote comes in, layer upon layer") {
    const TestStore test;
    ArchiveMaker second;
    second.file("etc/new", "2").hide("etc", "old");
    const std::string lower = simple_layer("etc/old", "1");
    const Imported imported = test.one(
        "save.tar", old_docker_save({lower, second.finish(), lower, simple_layer("x", "3")},
                                    {"thing:1", "quay.io/other/thing:2"}));
    CHECK(imported.is_new);
    CHECK(imported.id.hex() ==
          Hasher::of(config_text({lower, second.finish(), lower, simple_layer("x", "3")})).hex());
    CHECK(test.file("thing:1", "etc/new") == "2");
    CHECK(test.file("quay.io/other/thing:2", "etc/old") == "1");
    CHECK(test.file(imported.id.short_id(), "x") == "3");
    const Image image = *test.store.find("thing:1");
    CHECK(image.config.command == std::vector<std::string>{"sh"});
    CHECK(image.names.size() == 2);
    CHECK(image.manifest.layers.size() == 4);
    CHECK(image.unpacked_bytes == 4);
    CHECK(test.folder_count("tmp") == 0);
    // The same once more is the same.
    CHECK_FALSE(test.one("again.tar",
                         old_docker_save({lower, second.finish(), lower, simple_layer("x", "3")},
                                         {"thing:1"}))
                    .is_new);
    CHECK(test.store.list()->images.size() == 1);
}

TEST_CASE("an OCI layout comes in from a directory and from an archive, however compressed") {
    const Filter layer_filter = GENERATE(Filter::None, Filter::Gzip, Filter::Zstd);
    const Filter outer_filter = GENERATE(Filter::None, Filter::Gzip, Filter::Zstd, Filter::Xz);
    const TestStore test;
    Layout layout;
    layout.finish({Layout::named(layout.manifest({simple_layer("f", "hello")}, layer_filter),
                                 "some/name:1")});
    const Imported imported = test.one("oci.tar", compress(layout.tar(), outer_filter));
    CHECK(test.file("some/name:1", "f") == "hello");
    layout.write(test.folder, "dir");
    ImportOptions options;
    options.input = test.folder / "dir";
    auto from_directory = image::import(test.store, options);
    REQUIRE(from_directory);
    CHECK(from_directory->front().id == imported.id);
    CHECK_FALSE(from_directory->front().is_new);
}

TEST_CASE("of several platforms this machine's is taken") {
    const TestStore test;
    Layout layout;
    const json arm = layout.manifest({simple_layer("f", "arm")}, Filter::Gzip, "arm64");
    const json amd = layout.manifest({simple_layer("f", "amd")}, Filter::Gzip, "amd64");
    json attestation = amd;
    attestation["platform"] = {{"os", "unknown"}, {"architecture", "unknown"}};
    layout.finish({Layout::named(layout.index({arm, attestation, amd}), "multi:1")});
    CHECK(test.one("m.tar", layout.tar()).runs_here);
    CHECK(test.file("multi:1", "f") == "amd");
    ImportOptions options;
    options.platform = *Platform::parse("linux/arm64");
    CHECK_FALSE(test.one("m.tar", layout.tar(), options).runs_here);
    CHECK(test.file("multi:1", "f") == "arm");
    options.platform = *Platform::parse("linux/s390x");
    CHECK(mentions(test.problem("m.tar", layout.tar(), options), "linux/arm64, linux/amd64"));

    Layout only_arm;
    only_arm.finish({Layout::named(
        only_arm.manifest({simple_layer("f", "arm")}, Filter::None, "arm64"), "a:1")});
    CHECK(mentions(test.problem("a.tar", only_arm.tar()), "--platform"));
}

TEST_CASE("names: given, found, or after the file") {
    const TestStore test;
    Layout layout;
    layout.finish({Layout::named(layout.manifest({simple_layer("f", "1")}), "3.18")});
    CHECK(test.one("alpine.tar", layout.tar()).names.front().familiar() == "alpine:3.18");
    ImportOptions options;
    options.names = {"mine", "quay.io/x/y:z"};
    CHECK(test.one("alpine.tar", layout.tar(), options).names.size() == 2);
    CHECK(test.file("mine", "f") == "1");
    CHECK(test.store.find("mine")->names.size() == 3);
    options.names = {"NOT A NAME"};
    CHECK_FALSE(test.problem("alpine.tar", layout.tar(), options).empty());

    Layout two;
    two.finish({Layout::named(two.manifest({simple_layer("f", "one")}), "two/a:1"),
                Layout::named(two.manifest({simple_layer("f", "two")}), "two/b:1")});
    CHECK(test.import("two.tar", two.tar())->size() == 2);
    options.names = {"x"};
    CHECK(mentions(test.problem("two.tar", two.tar(), options), "--only"));
    options.only = "two/b:1";
    CHECK(test.one("two.tar", two.tar(), options).names.front().familiar() == "x:latest");
    CHECK(test.file("x", "f") == "two");
    options.only = "two/c:1";
    CHECK(mentions(test.problem("two.tar", two.tar(), options), "two/a:1, two/b:1"));
}

TEST_CASE("a root directory's archive becomes an image, however compressed") {
    const Filter filter =
        GENERATE(Filter::None, Filter::Gzip, Filter::Zstd, Filter::Xz, Filter::Bzip2);
    const TestStore test;
    ArchiveMaker root;
    root.directory("./", {.mode = 0755})
        .directory("./etc")
        .file("./etc/hostname", "box")
        .link("./bin", "usr/bin");
    const std::string tar = root.finish();
    const Imported imported = test.one("my-root.tar.xz", compress(tar, filter));
    CHECK(imported.names.front().familiar() == "my-root:latest");
    CHECK(test.file("my-root", "etc/hostname") == "box");
    CHECK(test.store.find("my-root")->config.diff_ids.front() == Hasher::of(tar));
    CHECK(test.folder_count("tmp") == 0);
}

TEST_CASE("an archive of a root directory with a folder blobs is one of a root directory") {
    const TestStore test;
    ArchiveMaker root;
    root.file("blobs/x", "1").file("etc/y", "2");
    CHECK(test.one("r.tar", root.finish()).names.size() == 1);
    CHECK(test.file("r", "blobs/x") == "1");
    ArchiveMaker only;
    only.file("blobs/x", "3");
    CHECK(test.one("s.tar", only.finish()).names.size() == 1);
    CHECK(test.file("s", "blobs/x") == "3");
}

TEST_CASE("every blob is what its digest says, or the image is refused") {
    const TestStore test;
    int tries = 0;
    const auto damaged =
        [&](const std::function<void(std::pair<std::string, std::string>&)>& damage,
            std::size_t which) {
            Layout layout;
            layout.finish(
                {Layout::named(layout.manifest({simple_layer("f", "1")}, Filter::Gzip), "d:1")});
            damage(layout.files()[which]);
            const std::string name = os::text("damaged", ++tries);
            layout.write(test.folder, name);
            ImportOptions options;
            options.input = test.folder / name;
            const auto from_directory = image::import(test.store, options);
            CHECK_FALSE(from_directory);
            return test.problem("d.tar", layout.tar());
        };
    const auto flip = [](auto& file) { file.second[file.second.size() / 2] ^= 1; };
    CHECK(mentions(damaged(flip, 0), "damaged")); // the layer
    CHECK(mentions(damaged(flip, 1), "damaged")); // the configuration
    CHECK(mentions(damaged(flip, 2), "damaged")); // the manifest
    CHECK(mentions(damaged([](auto& file) { file.first = "blobs/sha256/x"; }, 0), "missing"));
    CHECK_FALSE(damaged(flip, 4).empty()); // index.json
    CHECK(
        mentions(damaged([](auto& file) { file.second = R"({"imageLayoutVersion":"2.0.0"})"; }, 3),
                 "version"));
    CHECK(test.store.list()->images.empty());
    CHECK(test.folder_count("rootfs") == 0);
}

TEST_CASE("a layer that the configuration does not mean is refused") {
    const TestStore test;
    const std::string lower = simple_layer("f", "1");
    std::string save = old_docker_save({lower}, {"a:1"});
    // The same length, another text, in a correct archive.
    const std::size_t at = save.find(std::string("1") + std::string(511, '\0'));
    REQUIRE(at != std::string::npos);
    save[at] = '2';
    CHECK(mentions(test.problem("a.tar", save), "damaged"));
}

TEST_CASE("sha512 digests are checked too") {
    const TestStore test;
    Layout layout;
    const std::string layer = simple_layer("f", "1");
    const json document = {
        {"schemaVersion", 2},
        {"config", layout.descriptor(std::string(media_type::oci_config), config_text({layer}),
                                     Digest::Algorithm::Sha512)},
        {"layers", json::array({layout.descriptor(std::string(media_type::oci_layer), layer,
                                                  Digest::Algorithm::Sha512)})}};
    const json manifest = layout.descriptor(std::string(media_type::oci_manifest), document.dump(),
                                            Digest::Algorithm::Sha512);
    layout.finish({Layout::named(manifest, "long:1")});
    CHECK(test.one("l.tar", layout.tar()).is_new);
    CHECK(test.file("long:1", "f") == "1");
    layout.files()[1].second[600] = 'x';
    const TestStore other;
    CHECK(mentions(other.problem("l.tar", layout.tar()), "damaged"));
}

TEST_CASE("documents of the wrong kind are refused with a reason") {
    const TestStore test;
    const auto refused = [&](const std::function<json(Layout&)>& make) {
        Layout layout;
        layout.finish({make(layout)});
        return test.problem("x.tar", layout.tar());
    };
    const auto manifest = [](const std::string& config_type, const std::string& layer_type,
                             json extra = {}) {
        return [=](Layout& layout) {
            const std::string layer = simple_layer("f", "1");
            json document = {{"schemaVersion", 2},
                             {"config", layout.descriptor(config_type, config_text({layer}))},
                             {"layers", json::array({layout.descriptor(layer_type, layer)})}};
            if (extra.is_object())
                document.update(extra);
            return layout.descriptor(std::string(media_type::oci_manifest), document.dump());
        };
    };
    const std::string config(media_type::oci_config);
    const std::string layer(media_type::oci_layer);
    CHECK(mentions(refused(manifest("application/vnd.cncf.helm.config.v1+json", layer)),
                   "artifacts"));
    CHECK(mentions(refused(manifest(config, layer + "+encrypted")), "encrypted"));
    CHECK(mentions(refused(manifest(config, layer, {{"schemaVersion", 1}})), "schema 1"));
    CHECK(mentions(refused(manifest(config, layer, {{"layers", json::array()}})), "0 layers"));
    CHECK(mentions(refused([](Layout& layout) {
                       json inner = layout.manifest({simple_layer("f", "1")});
                       for (int i = 0; i < 8; ++i)
                           inner = layout.index({inner});
                       return inner;
                   }),
                   "deep"));
    CHECK(mentions(refused([](Layout& layout) {
                       json out = layout.manifest({simple_layer("f", "1")});
                       out["digest"] = "sha256:../../../../etc/passwd";
                       return out;
                   }),
                   "digest"));
    CHECK(mentions(refused([](Layout& layout) {
                       json out = layout.manifest({simple_layer("f", "1")});
                       out["size"] = -1;
                       return out;
                   }),
                   "size"));
}

TEST_CASE("docker archives whose members lead astray are refused") {
    const TestStore test;
    const auto save = [&](const std::function<void(ArchiveMaker&)>& add, const json& entry) {
        ArchiveMaker out;
        add(out);
        out.file("manifest.json", json::array({entry}).dump());
        return test.problem("evil.tar", out.finish());
    };
    const std::string hex(64, 'a');
    const json usual = {{"Config", hex + ".json"}, {"Layers", {hex + "/layer.tar"}}};
    const std::string config = config_text({simple_layer("f", "1")});
    CHECK(mentions(save(
                       [&](auto& out) {
                           out.file(hex + ".json", config).link(hex + "/layer.tar", "/etc/passwd");
                       },
                       usual),
                   "missing"));
    CHECK(mentions(
        save(
            [&](auto& out) { out.file(hex + ".json", config).link(hex + "/layer.tar", "../../x"); },
            usual),
        "leads out"));
    CHECK(mentions(save(
                       [&](auto& out) {
                           out.file(hex + ".json", config).link(hex + "/layer.tar", "layer.tar");
                       },
                       usual),
                   "missing"));
    CHECK(mentions(
        save([&](auto& out) { out.file(hex + ".json", config).node(hex + "/layer.tar", AE_IFIFO); },
             usual),
        "neither"));
    CHECK(mentions(save([&](auto& out) { out.link(hex + ".json", "/etc/passwd"); }, usual),
                   "missing"));
    CHECK(mentions(
        save([&](auto& out) { out.file(hex + ".json", config); }, {{"Config", "../../etc/passwd"}}),
        "missing"));
    CHECK(mentions(save([&](auto& out) { out.file(hex + ".json", config); },
                        {{"Config", hex + ".json"}, {"Layers", {hex + ".json"}}}),
                   "damaged"));
}

TEST_CASE("an archive that has a path twice has what came last there, and the rest as it was") {
    const TestStore test;
    const std::string layer = simple_layer("f", "1");
    const std::string config = config_text({layer});
    const std::string name = Hasher::of(config).hex() + ".json";
    const std::string path = std::string(64, 'a') + "/layer.tar";
    // As tar --append and --update leave it.
    ArchiveMaker out;
    out.file("repositories", "{}").file("repositories", R"({"thing": {}})");
    out.file(path, simple_layer("f", "of before")).file(path, layer);
    out.file("manifest.json", "[]");
    out.file(
        "manifest.json",
        json::array({{{"Config", name}, {"RepoTags", {"thing:1"}}, {"Layers", {path}}}}).dump());
    out.file(name, config);
    static_cast<void>(test.one("twice.tar", out.finish()));
    CHECK(test.file("thing:1", "f") == "1");
    const Image image = *test.store.find("thing:1");
    CHECK(test.store.read_document(image.manifest.layers.front().digest).has_value());
}

TEST_CASE("what is no archive, or an empty one, is told apart from one") {
    const TestStore test;
    CHECK(mentions(test.problem("noise", std::string(5000, 'n')), "no archive"));
    CHECK(mentions(test.problem("empty", ""), "nothing in it"));
    CHECK(mentions(test.problem("bomb.gz", compress(std::string(1000, 'x'), Filter::Gzip)),
                   "no archive"));
    ImportOptions options;
    options.limits.input_bytes = 100000;
    CHECK(mentions(
        test.problem("z.tar.gz",
                     compress(simple_layer("big", std::string(1 << 20, '\0')), Filter::Gzip),
                     options),
        "--max-size"));
    options.input = test.folder / "missing";
    CHECK(mentions(image::import(test.store, options).error().message, "No such file"));
    options.input = test.folder.path();
    CHECK(mentions(image::import(test.store, options).error().message, "oci-layout"));
}

TEST_CASE("names move, images without any remain until prune") {
    const TestStore test;
    ImportOptions options;
    options.names = {"app"};
    const Imported first = test.one("1.tar", simple_layer("f", "1"), options);
    const Imported second = test.one("2.tar", simple_layer("f", "2"), options);
    CHECK(test.file("app", "f") == "2");
    CHECK(test.store.find(first.id.hex())->names.empty());
    REQUIRE(test.store.tag("app", *Reference::parse("app:stable")));
    REQUIRE(test.store.tag(first.id.short_id(), *Reference::parse("app")));
    CHECK(test.file("app", "f") == "1");
    CHECK(test.file("app:stable", "f") == "2");
    REQUIRE(test.store.tag("app", *Reference::parse("app")));
    CHECK(test.store.find("app")->names.size() == 1);

    CHECK(test.store.remove("app:stable", false)->removed_images.front() == second.id);
    CHECK_FALSE(test.store.find("app:stable"));
    CHECK_FALSE(test.store.find(second.id.hex()));
    CHECK(test.folder_count("rootfs") == 1);
    CHECK(test.folder_count("blobs/sha256") == 3);
    const auto missing = test.store.remove("nothing", false);
    CHECK(mentions(missing.error().message, "no image"));

    test.one("3.tar", simple_layer("f", "3"), options);
    CHECK(test.store.prune(false)->removed_images.size() == 1);
    CHECK(test.file("app", "f") == "3");
    CHECK(test.store.prune(true)->removed_names.size() == 1);
    CHECK(test.folder_count("rootfs") == 0);
    CHECK(test.folder_count("blobs/sha256") == 0);
}

TEST_CASE("images with the same layers share them, and their root directory") {
    const TestStore test;
    const std::string layer = simple_layer("f", "1");
    Layout one;
    one.finish({Layout::named(one.manifest({layer}), "one:1")});
    test.one("one.tar", one.tar());
    test.one("two.tar", old_docker_save({layer}, {"two:1"}));
    ArchiveMaker other;
    const std::string config = config_text({layer}, "amd64", "other");
    const std::string hex = Hasher::of(config).hex();
    other.file(hex + ".json", config).file(hex + ".tar", layer);
    other.file("manifest.json", json::array({{{"Config", hex + ".json"},
                                              {"RepoTags", {"three:1"}},
                                              {"Layers", {hex + ".tar"}}}})
                                    .dump());
    test.one("three.tar", other.finish());
    // The first two are one image: the same configuration.
    CHECK(test.store.list()->images.size() == 2);
    CHECK(test.folder_count("rootfs") == 1);
    CHECK(test.folder_count("blobs/sha256") == 5); // one layer, two configurations and manifests
    REQUIRE(test.store.remove("three:1", false));
    CHECK(test.file("one:1", "f") == "1");
    CHECK(test.folder_count("rootfs") == 1);
}

TEST_CASE("a root directory in use stays") {
    const TestStore test;
    ImportOptions options;
    options.names = {"used"};
    test.one("u.tar", simple_layer("f", "1"), options);
    auto rootfs = test.store.use(*test.store.find("used"));
    REQUIRE(rootfs);
    CHECK(mentions(test.store.remove("used", false).error().message, "in use"));
    CHECK(test.store.prune(true)->removed_images.empty());
    const auto forced = test.store.remove("used", true);
    REQUIRE(forced);
    CHECK(forced->kept_in_use == 1);
    CHECK(::access((rootfs->path + "/f").c_str(), F_OK) == 0);
    rootfs->lock.reset();
    CHECK(test.store.prune(false)->kept_in_use == 0);
    CHECK_FALSE(::access((rootfs->path + "/f").c_str(), F_OK) == 0);
}

TEST_CASE("who looks whether a root directory is in use keeps nobody from using it") {
    const TestStore test;
    ImportOptions options;
    options.names = {"used"};
    test.one("u.tar", simple_layer("f", "1"), options);
    const Image image = *test.store.find("used");
    const std::string place =
        test.store.path() + "/" + rootfs_path(chain_id(image.config.diff_ids));
    os::UniqueFd lock(::open((test.store.path() + "/lock").c_str(), O_RDWR | O_CLOEXEC));
    os::UniqueFd root(::open(place.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    REQUIRE(::flock(lock.get(), LOCK_EX) == 0);
    REQUIRE(::flock(root.get(), LOCK_EX) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);
        lock.reset();
        root.reset();
        ::_exit(test.store.use(image) ? 0 : 1);
    }
    // It has tried by then; had it given up, it would have ended.
    ::usleep(200'000);
    root.reset();
    lock.reset();
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

TEST_CASE("removing by ID: several names need force") {
    const TestStore test;
    ImportOptions options;
    options.names = {"a", "b"};
    const Imported imported = test.one("x.tar", simple_layer("f", "1"), options);
    CHECK(mentions(test.store.remove(imported.id.short_id(), false).error().message, "--force"));
    CHECK(test.store.remove("a", false)->removed_images.empty());
    CHECK(test.file("b", "f") == "1");
    CHECK(test.store.remove(imported.id.short_id(), false)->removed_images.size() == 1);
}

TEST_CASE("importers at once do not disturb each other, nor does prune") {
    const TestStore test;
    std::vector<pid_t> children;
    for (int i = 0; i < 6; ++i) {
        const pid_t child = ::fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            const Store own = test.open();
            bool good = true;
            for (int round = 0; round < 5; ++round) {
                const std::string name = os::text("p", i, "-", round);
                ImportOptions options;
                options.names = {name};
                options.input = test.folder / (name + ".tar");
                std::ofstream(options.input, std::ios::binary)
                    << simple_layer("shared", os::text(round));
                good = good && image::import(own, options).has_value();
                if (i == 0)
                    good = good && own.prune(false).has_value();
            }
            ::_exit(good ? 0 : 1);
        }
        children.push_back(child);
    }
    for (const pid_t child : children) {
        int status = 0;
        REQUIRE(::waitpid(child, &status, 0) == child);
        CHECK(status == 0);
    }
    const ImageList list = *test.store.list();
    CHECK(list.damaged.empty());
    CHECK(list.images.size() == 5);
    std::size_t names = 0;
    for (const Image& image : list.images)
        names += image.names.size();
    CHECK(names == 30);
    CHECK(test.file("p3-4", "shared") == "4");
    CHECK(test.folder_count("tmp") == 0);
}

TEST_CASE("an import that is killed at any moment leaves a store that works") {
    const TestStore test;
    ImportOptions options;
    options.names = {"base"};
    test.one("base.tar", simple_layer("f", "base"), options);
    ArchiveMaker big;
    for (int i = 0; i < 300; ++i)
        big.file(os::text("d", i % 17, "/f", i), std::string(2000, 'x'));
    test.folder.write("big.tar", big.finish());
    options.names = {"big"};
    options.input = test.folder / "big.tar";
    for (int i = 0; i < 25; ++i) {
        const pid_t child = ::fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            const Store own = test.open();
            for (;;) {
                static_cast<void>(image::import(own, options));
                static_cast<void>(own.remove("big", false));
            }
        }
        ::usleep(static_cast<useconds_t>(1000 + i * 1700));
        ::kill(child, SIGKILL);
        int status = 0;
        REQUIRE(::waitpid(child, &status, 0) == child);
        const ImageList list = *test.store.list();
        CHECK(list.damaged.empty());
        CHECK(test.file("base", "f") == "base");
        if (test.store.find("big"))
            CHECK(test.file("big", "d3/f3") == std::string(2000, 'x'));
    }
    REQUIRE(test.store.prune(false));
    CHECK(test.folder_count("tmp") == 0);
    REQUIRE(test.store.prune(true));
    CHECK(test.folder_count("blobs/sha256") == 0);
    CHECK(test.folder_count("rootfs") == 0);
}

TEST_CASE("a damaged store says what is damaged and goes on with the rest") {
    const TestStore test;
    ImportOptions options;
    options.names = {"good"};
    test.one("g.tar", simple_layer("f", "1"), options);
    options.names = {"bad"};
    const Imported bad = test.one("b.tar", simple_layer("f", "2"), options);
    test.folder.write("store/" + blob_path(bad.id), "{}");
    const ImageList list = *test.store.list();
    CHECK(list.images.size() == 1);
    REQUIRE(list.damaged.size() == 1);
    CHECK(mentions(list.damaged.front().problem, "damaged"));
    CHECK(mentions(test.store.find("bad").error().message, "import"));
    CHECK(test.file("good", "f") == "1");
    REQUIRE(test.store.prune(false));
    CHECK(test.store.list()->damaged.empty());
    CHECK(test.file("good", "f") == "1");
}

TEST_CASE("what is damaged in the store is whole again when the image is imported again") {
    const TestStore test;
    ImportOptions options;
    options.names = {"bad"};
    const Imported bad = test.one("b.tar", simple_layer("f", "2"), options);
    const Digest layer = test.store.find("bad")->manifest.layers.front().digest;
    for (const Digest& digest : {bad.id, layer}) {
        test.folder.write("store/" + blob_path(digest), "{}");
        CHECK(test.one("b.tar", simple_layer("f", "2"), options).id == bad.id);
        CHECK(test.store.list()->damaged.empty());
        REQUIRE(test.store.find("bad"));
        CHECK(Hasher::of(test.folder.read("store/" + blob_path(digest))) == digest);
        CHECK(test.file("bad", "f") == "2");
    }
}

TEST_CASE("a store is for one user, and takes no folder that holds other things") {
    const ScratchFolder folder;
    folder.write("precious", "x");
    CHECK(mentions(Store::open(folder.path()).error().message, "not empty"));
    ::mkdir((folder / "open").c_str(), 0755);
    CHECK(mentions(Store::open(folder / "open").error().message, "chmod 700"));
    CHECK(Store::open(folder / "a/b/c"));
    struct stat status {};
    REQUIRE(::stat((folder / "a/b/c").c_str(), &status) == 0);
    CHECK((status.st_mode & 07777) == 0700);
}
