#include <csignal>
#include <fcntl.h>

#include <catch2/catch.hpp>

#include "tools/image/process.hpp"
#include "tools/image/testing/archive_maker.hpp"

using namespace image;
using image::testing::ScratchFolder;

namespace {

constexpr const char* passwd = "root:x:0:0:root:/root:/bin/sh\n"
                               "# a comment\n"
                               "broken line\n"
                               "web:x:33:33:www:/var/www:/usr/sbin/nologin\n"
                               "huge:x:99999999999:1::/:\n"
                               "nohome:x:50:51:::\n"
                               "42:x:77:78::/seventyseven:\n";
constexpr const char* group =
    "root:x:0:\nadm:x:4:web,other\nwww:x:33:\nssl:x:105:web\nwebish:x:9:webx\n";

ImageConfig config_of(const std::string& inner) {
    auto config = parse_config(R"({"os":"linux","architecture":"amd64","config":)" + inner +
                                   R"(,"rootfs":{"type":"layers","diff_ids":[]}})",
                               Limits{});
    if (!config)
        FAIL(config.error().message);
    return std::move(*config);
}

struct Root {
    ScratchFolder folder;
    int fd = -1;
    Root() {
        ::mkdir((folder / "etc").c_str(), 0755);
        folder.write("etc/passwd", passwd);
        folder.write("etc/group", group);
        fd = ::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY);
    }
    ~Root() { ::close(fd); }
};

ProcessDescription described(const ImageConfig& config, const Overrides& overrides = {}) {
    const Root root;
    auto process = describe_process(config, overrides, root.fd);
    if (!process)
        FAIL(process.error().message);
    return std::move(*process);
}

std::string refused(const ImageConfig& config, const Overrides& overrides = {}) {
    const Root root;
    auto process = describe_process(config, overrides, root.fd);
    return process ? "" : process.error().message;
}

using Words = std::vector<std::string>;

} // namespace

TEST_CASE("entrypoint and command go together as with Docker") {
    const ImageConfig both = config_of(R"({"Entrypoint":["/e","x"],"Cmd":["c","d"]})");
    CHECK(described(both).args == Words{"/e", "x", "c", "d"});
    CHECK(described(both, {.args = {"mine"}}).args == Words{"/e", "x", "mine"});
    CHECK(described(both, {.entrypoint = Words{"/f"}}).args == Words{"/f"});
    CHECK(described(both, {.entrypoint = Words{"/f"}, .args = {"a"}}).args == Words{"/f", "a"});
    CHECK(described(both, {.entrypoint = Words{""}, .args = {"a", "b"}}).args == Words{"a", "b"});
    CHECK(refused(both, {.entrypoint = Words{""}}).find("no command") != std::string::npos);

    CHECK(described(config_of(R"({"Cmd":["sh"]})")).args == Words{"sh"});
    CHECK(described(config_of(R"({"Cmd":["sh"]})"), {.args = {"ls", "-l"}}).args ==
          Words{"ls", "-l"});
    CHECK_FALSE(refused(config_of("{}")).empty());
    CHECK_FALSE(refused(config_of("null")).empty());
}

TEST_CASE("the environment is the image's with Docker's defaults below and the caller's on top") {
    const ImageConfig config = config_of(R"({"Cmd":["x"],"Env":["PATH=/bin","A=1","B=2","A=3"]})");
    const Words env =
        described(config, {.env = {"B=two", "C=", "A", "D=x=y"}, .hostname = "h", .terminal = true})
            .env;
    CHECK(env ==
          Words{"PATH=/bin", "HOSTNAME=h", "TERM=xterm", "B=two", "C=", "D=x=y", "HOME=/root"});
    const Words plain = described(config_of(R"({"Cmd":["x"]})")).env;
    CHECK(plain.front().starts_with("PATH=/usr/local/sbin:"));
    CHECK(described(config_of(R"({"Cmd":["x"],"Env":["HOME=/h"]})")).env.back() == "HOME=/h");
    CHECK_FALSE(refused(config, {.env = {"=x"}}).empty());
}

TEST_CASE("users and groups are the image's own") {
    const auto account = [](std::string_view user) { return find_account(user, passwd, group); };
    CHECK(account("")->uid == 0);
    CHECK(account("")->home == "/root");
    const Account web = *account("web");
    CHECK(web.uid == 33);
    CHECK(web.gid == 33);
    CHECK(web.groups == std::vector<std::uint32_t>{4, 105});
    CHECK(web.home == "/var/www");
    // A number with an entry is that user; without, it has no group but 0.
    CHECK(account("33")->groups.size() == 2);
    CHECK(account("1234")->uid == 1234);
    CHECK(account("1234")->gid == 0);
    CHECK(account("1234")->home == "/");
    // A group that is given is the only one.
    CHECK(account("web:adm")->gid == 4);
    CHECK(account("web:adm")->groups.empty());
    CHECK(account("33:9999")->gid == 9999);
    CHECK(account(":adm")->uid == 0);
    CHECK(account(":adm")->gid == 4);
    CHECK(account("nohome")->home == "/");
    // Digits are a number even if a user has them as a name.
    CHECK(account("42")->uid == 42);

    CHECK_FALSE(account("nobody"));
    CHECK_FALSE(account("huge"));
    CHECK_FALSE(account("web:nogroup"));
    CHECK_FALSE(account("2147483648"));
    CHECK_FALSE(account("99999999999999999999"));
    CHECK_FALSE(account("web:99999999999"));
    CHECK_FALSE(account("broken line"));
}

TEST_CASE("an image's passwd that leads out of it is not followed") {
    const Root root;
    ::unlink((root.folder / "etc/passwd").c_str());
    REQUIRE(::symlink("/../../../../etc/passwd", (root.folder / "etc/passwd").c_str()) == 0);
    // It leads to itself inside the image.
    const auto account = find_account_in("1000", root.fd);
    REQUIRE(account);
    CHECK(account->uid == 1000);
    ::unlink((root.folder / "etc/passwd").c_str());
    REQUIRE(::mkfifo((root.folder / "etc/passwd").c_str(), 0644) == 0);
    CHECK_FALSE(find_account_in("0", root.fd)); // and does not wait for a writer
}

TEST_CASE("working directory, volumes, ports, signals") {
    const ImageConfig config = config_of(
        R"({"Cmd":["x"],"WorkingDir":"srv/../data/","Volumes":{"/v/":{},"/a":{},"/v":{}},)"
        R"("ExposedPorts":{"80/tcp":{},"53/udp":{},"8000-8010":{}},"StopSignal":"SIGQUIT","User":"web"})");
    const ProcessDescription process = described(config);
    CHECK(process.working_directory == "/data");
    CHECK(process.volumes == Words{"/a", "/v"});
    CHECK(process.exposed_ports.size() == 3);
    CHECK(process.stop_signal == SIGQUIT);
    CHECK(process.account.uid == 33);
    CHECK(described(config, {.user = "5:6"}).account.gid == 6);
    CHECK(described(config, {.working_directory = "/x//y/."}).working_directory == "/x/y");
    CHECK_FALSE(refused(config, {.working_directory = "x"}).empty());
    CHECK(described(config, {.stop_signal = "rtmin+3"}).stop_signal == 37);
    CHECK(described(config_of(R"({"Cmd":["x"]})")).stop_signal == SIGTERM);
    CHECK(described(config_of(R"({"Cmd":["x"]})")).working_directory == "/");

    CHECK(*parse_signal("9") == SIGKILL);
    CHECK(*parse_signal("SIGRTMAX-1") == 63);
    for (const char* text :
         {"", "0", "65", "-1", "SIGNOPE", "RTMIN-1", "RTMIN+99", "RTMAX+1", "SIG"})
        CHECK_FALSE(parse_signal(text));
}

TEST_CASE("health checks are the image's, with Docker's defaults") {
    const auto check = [](const std::string& json) {
        return described(config_of(R"({"Cmd":["x"],"Healthcheck":)" + json + "}")).healthcheck;
    };
    const auto shell =
        check(R"({"Test":["CMD-SHELL","curl -f x || exit 1"],"Interval":5000000000})");
    REQUIRE(shell);
    CHECK(shell->args == Words{"/bin/sh", "-c", "curl -f x || exit 1"});
    CHECK(shell->interval_ns == 5'000'000'000);
    CHECK(shell->timeout_ns == 30'000'000'000);
    CHECK(shell->retries == 3);
    CHECK(check(R"({"Test":["CMD","a","b"]})")->args == Words{"a", "b"});
    CHECK_FALSE(check(R"({"Test":["NONE"]})"));
    CHECK_FALSE(check(R"({"Test":[]})"));
    CHECK_FALSE(check("null"));
}

TEST_CASE("configurations that make no sense are refused with the place") {
    const auto problem = [](const std::string& text) {
        auto config = parse_config(text, Limits{});
        return config ? std::string() : config.error().message;
    };
    const auto inner = [&](const std::string& text) {
        return problem(R"({"config":)" + text + R"(,"rootfs":{"type":"layers"}})");
    };
    CHECK(problem("{}").find("rootfs") != std::string::npos);
    CHECK(problem(R"({"rootfs":{"type":"x"}})").find("type") != std::string::npos);
    CHECK_FALSE(problem(R"({"rootfs":{"type":"layers","diff_ids":["sha256:1"]}})").empty());
    CHECK(inner(R"({"Env":["NOVALUE"]})").find("Env") != std::string::npos);
    CHECK(inner(R"({"Cmd":"sh"})").find("Cmd") != std::string::npos);
    CHECK(inner(R"({"Cmd":["a\u0000b"]})").find("NUL") != std::string::npos);
    CHECK(inner(R"({"ExposedPorts":{"x":{}}})").find("ExposedPorts") != std::string::npos);
    CHECK(inner(R"({"ExposedPorts":{"0-65535":{},"0-65535/udp":{},"0-65535/sctp":{}}})").empty());
    CHECK_FALSE(
        inner(R"({"ExposedPorts":{"0-65535":{},"1-65535":{},"2-65535":{},"3-65535":{}}})").empty());
    CHECK(inner(R"({"Healthcheck":{"Test":["WHAT"]}})").find("Healthcheck") != std::string::npos);
    CHECK(inner(R"({"Healthcheck":{"Test":["CMD"]}})").find("Healthcheck") != std::string::npos);
    CHECK(problem(std::string(100000, '[')).find("deep") != std::string::npos);
    CHECK_FALSE(problem("").empty());
}

TEST_CASE("the process becomes an OCI process object") {
    const ProcessDescription process = described(config_of(R"({"Cmd":["sh"],"User":"web"})"));
    const std::string json = oci_process(process, true);
    CHECK(json.find(R"("additionalGids":[4,105])") != std::string::npos);
    CHECK(json.find(R"("args":["sh"])") != std::string::npos);
    CHECK(json.find(R"("terminal":true)") != std::string::npos);
}
