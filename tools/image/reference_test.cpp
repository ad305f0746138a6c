#include <catch2/catch.hpp>

#include "tools/image/reference.hpp"

using image::Digest;
using image::Hasher;
using image::Reference;

namespace {

std::string full(std::string_view text) {
    auto reference = Reference::parse(text);
    return reference ? reference->full() : "refused: " + reference.error().message;
}

std::string familiar(std::string_view text) {
    auto reference = Reference::parse(text);
    return reference ? reference->familiar() : "refused: " + reference.error().message;
}

bool refuses(std::string_view text) {
    const auto reference = Reference::parse(text);
    return !reference && !reference.error().message.empty();
}

const std::string sha = "sha256:" + std::string(64, 'a');

} // namespace

TEST_CASE("a reference gets the parts that Docker leaves out") {
    CHECK(full("debian") == "docker.io/library/debian:latest");
    CHECK(full("debian:12-slim") == "docker.io/library/debian:12-slim");
    CHECK(full("someone/thing") == "docker.io/someone/thing:latest");
    CHECK(full("docker.io/debian") == "docker.io/library/debian:latest");
    CHECK(full("index.docker.io/library/debian") == "docker.io/library/debian:latest");
    CHECK(full("quay.io/a/b/c:x") == "quay.io/a/b/c:x");
    CHECK(full("localhost/a") == "localhost/a:latest");
    CHECK(full("localhost:5000/a") == "localhost:5000/a:latest");
    CHECK(full("[::1]:5000/a:b") == "[::1]:5000/a:b");
    CHECK(full("Registry/a") == "Registry/a:latest");
    CHECK(full("a@" + sha) == "docker.io/library/a@" + sha);
    CHECK(full("a:1@" + sha) == "docker.io/library/a:1@" + sha);
}

TEST_CASE("a reference is shown as people type it") {
    CHECK(familiar("docker.io/library/debian:12") == "debian:12");
    CHECK(familiar("docker.io/someone/thing") == "someone/thing:latest");
    CHECK(familiar("docker.io/library/a/b") == "library/a/b:latest");
    CHECK(familiar("quay.io/a") == "quay.io/a:latest");
    // What is shown means the same when it is typed.
    for (const char* text : {"debian", "library/a/b", "localhost:5000/a/b:c", "x__y--z.w"})
        CHECK(full(familiar(text)) == full(text));
}

TEST_CASE("names that no registry takes are refused") {
    for (const char* text : {"",        ":",           "@",           "/",      "a/",    "/a",
                             "a//b",    "-a",          "a-",          "a..b",   "a___b", "a._b",
                             "Debian",  "a:",          "a:-x",        "a:x/y",  "a b",   "a\tb",
                             "a@",      "a@sha256:12", "a@md5:0123",  "..",     "../a",  "a/../b",
                             "a:b:c",   "quay.io/",    "quay.io:x/a", "[::1/a", "[]/a",  "-x.y/a",
                             "\xc3\xa9"})
        CHECK(refuses(text));
    CHECK(refuses(std::string(256, 'a')));
    CHECK_FALSE(refuses(std::string(255, 'a')));
    CHECK(refuses("a:" + std::string(129, 'b')));
    CHECK_FALSE(refuses("a:" + std::string(128, 'b')));
    CHECK(refuses(std::string(64, 'a'))); // an ID
    CHECK(refuses("a@sha256:" + std::string(64, 'A')));
    CHECK(refuses(std::string("a\0b", 3)));
}

TEST_CASE("a repository and a tag make a reference") {
    CHECK(Reference::parse_repository("alpine", "3.18")->familiar() == "alpine:3.18");
    CHECK_FALSE(Reference::parse_repository("alpine:1", "3.18"));
    CHECK_FALSE(Reference::parse_repository("alpine", "a b"));
}

TEST_CASE("digests are those of the standard") {
    CHECK(Hasher::of("abc").text() ==
          "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(Hasher::of("", Digest::Algorithm::Sha512).hex().substr(0, 16) == "cf83e1357eefb8bd");
    CHECK(Digest::parse(Hasher::of("x", Digest::Algorithm::Sha512).text())->algorithm() ==
          Digest::Algorithm::Sha512);
    CHECK_FALSE(Digest::parse("sha256"));
    CHECK_FALSE(Digest::parse("sha256:../../etc/passwd"));
    CHECK_FALSE(Digest::parse("blake3:" + std::string(64, 'a')));
}
