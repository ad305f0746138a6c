// Speculation as programs see and control it: prctl(2)'s PR_GET_SPECULATION_CTRL and
// PR_SET_SPECULATION_CTRL, the lines of /proc/self/status, sysfs's vulnerabilities. What a machine
// offers differs, so each answer is held against the others. And PR_MCE_KILL, which is about memory
// that fails.
#include <fstream>
#include <map>
#include <string>
#include <unistd.h>

#include <linux/prctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

int get(unsigned long which) {
    return prctl(PR_GET_SPECULATION_CTRL, which, 0, 0, 0);
}
int set(unsigned long which, unsigned long wanted) {
    return prctl(PR_SET_SPECULATION_CTRL, which, wanted, 0, 0);
}

std::string status_line(const std::string& name) {
    std::ifstream status("/proc/thread-self/status");
    for (std::string line; std::getline(status, line);)
        if (line.starts_with(name + ":\t"))
            return line.substr(name.size() + 2);
    CHECK(!"the line is there");
    return {};
}

// In a child, since force-disabling is for good.
template <typename F>
void in_child(F&& function) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        function();
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

void bad_arguments() {
    CHECK_FAILS(get(3), ENODEV);
    CHECK_FAILS(set(3, PR_SPEC_ENABLE), ENODEV);
    CHECK_FAILS(prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 1, 0, 0), EINVAL);
    CHECK_FAILS(prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_ENABLE, 1, 0), EINVAL);
    CHECK_FAILS(prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_ENABLE, 0, 1), EINVAL);
    CHECK_FAILS(set(PR_SPEC_INDIRECT_BRANCH, 1), ERANGE);
    CHECK_FAILS(set(PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE_NOEXEC), ERANGE);
    if ((get(PR_SPEC_L1D_FLUSH) & PR_SPEC_PRCTL) == 0)
        CHECK_FAILS(set(PR_SPEC_L1D_FLUSH, PR_SPEC_ENABLE), EPERM);
}

// A weakness that no program can control stays as it is, whatever is asked for.
void without_control(unsigned long which) {
    const int before = get(which);
    CHECK(before == PR_SPEC_NOT_AFFECTED || before == PR_SPEC_ENABLE || before == PR_SPEC_DISABLE);
    if (which == PR_SPEC_STORE_BYPASS) {
        for (const unsigned long wanted :
             {PR_SPEC_ENABLE, PR_SPEC_DISABLE, PR_SPEC_FORCE_DISABLE, 1ul})
            CHECK_FAILS(set(which, wanted), ENXIO);
    } else if (before == PR_SPEC_ENABLE) {
        CHECK(set(which, PR_SPEC_ENABLE) == 0);
        CHECK_FAILS(set(which, PR_SPEC_DISABLE), EPERM);
        CHECK_FAILS(set(which, PR_SPEC_FORCE_DISABLE), EPERM);
    }
    CHECK(get(which) == before);
}

struct Words {
    std::string line, enabled, disabled, forced;
};

void with_control(unsigned long which, const Words& words) {
    const auto is = [&](unsigned long wish, const std::string& text) {
        CHECK(get(which) == static_cast<int>(PR_SPEC_PRCTL | wish));
        CHECK(status_line(words.line) == text);
    };
    CHECK(set(which, PR_SPEC_ENABLE) == 0);
    is(PR_SPEC_ENABLE, words.enabled);
    CHECK(set(which, PR_SPEC_DISABLE) == 0);
    is(PR_SPEC_DISABLE, words.disabled);
    in_child([&] {
        is(PR_SPEC_DISABLE, words.disabled); // inherited
        CHECK(set(which, PR_SPEC_FORCE_DISABLE) == 0);
        is(PR_SPEC_FORCE_DISABLE, words.forced);
        CHECK_FAILS(set(which, PR_SPEC_ENABLE), EPERM);
        CHECK(set(which, PR_SPEC_DISABLE) == 0);
        is(PR_SPEC_FORCE_DISABLE, words.forced);
    });
    is(PR_SPEC_DISABLE, words.disabled);
    CHECK(set(which, PR_SPEC_ENABLE) == 0);
    is(PR_SPEC_ENABLE, words.enabled);
}

// PR_SPEC_DISABLE_NOEXEC ends with the program.
void until_execve(const char* self) {
    CHECK_FAILS(set(PR_SPEC_STORE_BYPASS, 1), ERANGE);
    in_child([&] {
        CHECK(set(PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE_NOEXEC) == 0);
        CHECK(get(PR_SPEC_STORE_BYPASS) == (PR_SPEC_PRCTL | PR_SPEC_DISABLE_NOEXEC));
        execl(self, self, "enabled", nullptr);
    });
}

void status_agrees() {
    const int bypass = get(PR_SPEC_STORE_BYPASS);
    const std::map<int, std::string> bypass_words = {
        {PR_SPEC_NOT_AFFECTED, "not vulnerable"},
        {PR_SPEC_ENABLE, "vulnerable"},
        {PR_SPEC_DISABLE, "globally mitigated"},
        {PR_SPEC_PRCTL | PR_SPEC_ENABLE, "thread vulnerable"},
    };
    CHECK(status_line("Speculation_Store_Bypass") == bypass_words.at(bypass));
    const std::map<int, std::string> branch_words = {
        {PR_SPEC_NOT_AFFECTED, "not affected"},
        {PR_SPEC_ENABLE, "always enabled"},
        {PR_SPEC_DISABLE, "always disabled"},
        {PR_SPEC_PRCTL | PR_SPEC_ENABLE, "conditional enabled"},
    };
    CHECK(status_line("SpeculationIndirectBranch") ==
          branch_words.at(get(PR_SPEC_INDIRECT_BRANCH)));
}

void vulnerabilities_are_told() {
    for (const char* name : {"l1tf", "mds", "meltdown", "spec_store_bypass", "spectre_v1",
                             "spectre_v2", "tsx_async_abort"}) {
        std::ifstream file(std::string("/sys/devices/system/cpu/vulnerabilities/") + name);
        std::string line;
        CHECK(std::getline(file, line));
        CHECK(line == "Not affected" || line.starts_with("Mitigation: ") ||
              line.starts_with("Vulnerable") || line.starts_with("Unknown"));
        const int bypass = get(PR_SPEC_STORE_BYPASS);
        if (std::string(name) == "spec_store_bypass") {
            CHECK((line == "Not affected") == (bypass == PR_SPEC_NOT_AFFECTED));
            CHECK((line == "Vulnerable") == (bypass == PR_SPEC_ENABLE));
        }
    }
}

void failing_memory() {
    CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_DEFAULT);
    CHECK(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0);
    CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_EARLY);
    in_child([] { CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_EARLY); });
    CHECK(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0) == 0);
    CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_LATE);
    CHECK_FAILS(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, 3, 0, 0), EINVAL);
    CHECK_FAILS(prctl(PR_MCE_KILL, 2, 0, 0, 0), EINVAL);
    CHECK_FAILS(prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 1, 0, 0), EINVAL);
    CHECK_FAILS(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, 0, 1, 0), EINVAL);
    CHECK_FAILS(prctl(PR_MCE_KILL_GET, 1, 0, 0, 0), EINVAL);
    CHECK(prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 0, 0, 0) == 0);
    CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_DEFAULT);
}

} // namespace

int main(int argc, char** argv) {
    if (argc > 1)
        return get(PR_SPEC_STORE_BYPASS) == (PR_SPEC_PRCTL | PR_SPEC_ENABLE) ? 0 : 1;
    status_agrees();
    vulnerabilities_are_told();
    bad_arguments();
    if ((get(PR_SPEC_STORE_BYPASS) & PR_SPEC_PRCTL) != 0) {
        with_control(PR_SPEC_STORE_BYPASS, {"Speculation_Store_Bypass", "thread vulnerable",
                                            "thread mitigated", "thread force mitigated"});
        until_execve(argv[0]);
    } else {
        without_control(PR_SPEC_STORE_BYPASS);
    }
    if ((get(PR_SPEC_INDIRECT_BRANCH) & PR_SPEC_PRCTL) != 0)
        with_control(PR_SPEC_INDIRECT_BRANCH,
                     {"SpeculationIndirectBranch", "conditional enabled", "conditional disabled",
                      "conditional force disabled"});
    else
        without_control(PR_SPEC_INDIRECT_BRANCH);
    failing_memory();
    return 0;
}
