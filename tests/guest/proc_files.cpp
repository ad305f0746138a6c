// Files of /proc that tell of IPC objects, keys and descriptors, and sysctls that are obeyed.
#include <csignal>
#include <cstdint>
#include <dirent.h>
#include <grp.h>
#include <sched.h>
#include <sstream>
#include <vector>

#include <linux/keyctl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include "tests/guest/file_support.hpp"

namespace {

std::vector<std::string> words(const std::string& line) {
    std::istringstream in(line);
    std::vector<std::string> out;
    for (std::string word; in >> word;)
        out.push_back(word);
    return out;
}

std::vector<std::string> lines(const std::string& text) {
    std::istringstream in(text);
    std::vector<std::string> out;
    for (std::string line; std::getline(in, line);)
        out.push_back(line);
    return out;
}

bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

std::string info_of(int fd) {
    return contents_of("/proc/self/fdinfo/" + std::to_string(fd));
}

// The row of a table under whose header the column `id_column` has that number.
std::vector<std::string> row_of(const std::string& file, int id) {
    for (const std::string& line : lines(contents_of(file))) {
        const std::vector<std::string> row = words(line);
        if (row.size() > 1 && row[1] == std::to_string(id))
            return row;
    }
    return {};
}

// In a namespace of their own: where others make and remove objects meanwhile, a table that is read
// in pieces may lack a row.
void ipc_tables() {
    in_child([] {
        CHECK(unshare(CLONE_NEWIPC) == 0);
        const int queue = msgget(IPC_PRIVATE, 0600 | IPC_CREAT);
        const int set = semget(IPC_PRIVATE, 3, 0640 | IPC_CREAT);
        const int segment = shmget(0x1234abc, 5000, 0644 | IPC_CREAT);
        CHECK(queue >= 0 && set >= 0 && segment >= 0);
        struct {
            long type;
            char text[5];
        } message{1, "four"};
        CHECK(msgsnd(queue, &message, 5, 0) == 0);
        const std::string pid = std::to_string(getpid());
        std::vector<std::string> row = row_of("/proc/sysvipc/msg", queue);
        CHECK(row.size() == 14 && row[0] == "0" && row[2] == "600" && row[3] == "5" &&
              row[4] == "1");
        CHECK(row[5] == pid && row[6] == "0" && row[7] == std::to_string(getuid()));
        row = row_of("/proc/sysvipc/sem", set);
        CHECK(row.size() == 10 && row[2] == "640" && row[3] == "3" && row[9] != "0");
        void* at = shmat(segment, nullptr, 0);
        *static_cast<char*>(at) = 1;
        row = row_of("/proc/sysvipc/shm", segment);
        CHECK(row.size() == 16 && row[0] == std::to_string(0x1234abc) && row[2] == "644");
        CHECK(row[3] == "5000" && row[4] == pid && row[5] == pid && row[6] == "1");
        CHECK(row[14] == "4096" && row[15] == "0");
        CHECK(shmdt(at) == 0);
        CHECK(shmctl(segment, IPC_RMID, nullptr) == 0 && semctl(set, 0, IPC_RMID) == 0);
        CHECK(msgctl(queue, IPC_RMID, nullptr) == 0);
        CHECK(row_of("/proc/sysvipc/shm", segment).empty());
        const auto header = lines(contents_of("/proc/sysvipc/shm")).front();
        CHECK(header ==
              "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  "
              "cuid  cgid      atime      dtime      ctime                   rss             "
              "     swap");
    });
}

// In a namespace of their own, so that nobody else is limited.
void ipc_limits() {
    in_child([] {
        CHECK(unshare(CLONE_NEWIPC) == 0);
        const std::string directory = "/proc/sys/kernel/";
        CHECK(contents_of(directory + "msgmax") == "8192\n");
        CHECK(contents_of(directory + "shmmni") == "4096\n");
        CHECK(contents_of(directory + "shmmax") == "18446744073692774399\n");
        CHECK(contents_of(directory + "sem") == "32000\t1024000000\t500\t32000\n");
        make_file(directory + "shmmax", "8192\n");
        CHECK(contents_of(directory + "shmmax") == "8192\n");
        CHECK_FAILS(shmget(IPC_PRIVATE, 8193, 0600), EINVAL);
        CHECK(shmget(IPC_PRIVATE, 8192, 0600) >= 0);
        make_file(directory + "shmall", "2\n");
        CHECK_FAILS(shmget(IPC_PRIVATE, 4096, 0600), ENOSPC);
        make_file(directory + "shmall", "100\n");
        make_file(directory + "shmmni", "2\n");
        CHECK(shmget(IPC_PRIVATE, 4096, 0600) >= 0);
        CHECK_FAILS(shmget(IPC_PRIVATE, 4096, 0600), ENOSPC);
        make_file(directory + "msgmax", "10\n");
        make_file(directory + "msgmnb", "20\n");
        make_file(directory + "msgmni", "1\n");
        const int queue = msgget(IPC_PRIVATE, 0600);
        CHECK(queue >= 0);
        CHECK_FAILS(msgget(IPC_PRIVATE, 0600), ENOSPC);
        struct {
            long type;
            char text[30];
        } message{1, ""};
        CHECK_FAILS(msgsnd(queue, &message, 11, 0), EINVAL);
        CHECK(msgsnd(queue, &message, 10, IPC_NOWAIT) == 0);
        CHECK(msgsnd(queue, &message, 10, IPC_NOWAIT) == 0);
        CHECK_FAILS(msgsnd(queue, &message, 10, IPC_NOWAIT), EAGAIN);
        make_file(directory + "sem", "4 6 2 2\n");
        CHECK(contents_of(directory + "sem") == "4\t6\t2\t2\n");
        CHECK_FAILS(semget(IPC_PRIVATE, 5, 0600), EINVAL);
        const int set = semget(IPC_PRIVATE, 4, 0600);
        CHECK(set >= 0);
        CHECK_FAILS(semget(IPC_PRIVATE, 3, 0600), ENOSPC); // seven semaphores
        sembuf three[3] = {{0, 1, 0}, {1, 1, 0}, {2, 1, 0}};
        CHECK_FAILS(semop(set, three, 3), E2BIG);
        CHECK(semop(set, three, 2) == 0);
        const int bad = open((directory + "shmmax").c_str(), O_WRONLY);
        CHECK_FAILS(write(bad, "words", 5), EINVAL);
        for (const char* count : {"shmmni", "msgmni"}) {
            make_file(directory + count, "32768\n");
            CHECK(contents_of(directory + count) == "32768\n");
            const int most = open((directory + count).c_str(), O_WRONLY);
            CHECK_FAILS(write(most, "32769", 5), EINVAL);
            CHECK(close(most) == 0);
        }
        make_file(directory + "sem", "250 32000 32 32768\n");
        CHECK(contents_of(directory + "sem") == "250\t32000\t32\t32768\n");
    });
    CHECK(contents_of("/proc/sys/kernel/msgmax") != "10\n");
}

// The next object of a kind gets the number that was asked for, or the next free place. Kernels
// that restore nothing lack it.
void chosen_ipc_numbers() {
    if (access("/proc/sys/kernel/shm_next_id", F_OK) != 0)
        return;
    in_child([] {
        CHECK(unshare(CLONE_NEWIPC) == 0);
        const std::string directory = "/proc/sys/kernel/";
        const std::string segments = directory + "shm_next_id";
        const auto next = [] { return shmget(IPC_PRIVATE, 4096, 0600); };
        CHECK(contents_of(segments) == "-1\n");
        make_file(segments, "65541\n");
        CHECK(contents_of(segments) == "65541\n");
        CHECK_FAILS(shmget(IPC_PRIVATE, 0, 0600), EINVAL); // does not use it up
        CHECK(next() == 65541 && contents_of(segments) == "-1\n");
        CHECK(next() == 0);
        make_file(segments, "65541");
        CHECK(next() == 65542);
        make_file(segments, "2147483647");
        CHECK(next() == 2147483647);
        shmid_ds status = {};
        CHECK(shmctl(2147483647, IPC_STAT, &status) == 0);
        CHECK(shmctl(65541, IPC_RMID, nullptr) == 0);
        CHECK_FAILS(shmctl(65541, IPC_STAT, &status), EINVAL);
        make_file(directory + "msg_next_id", "100000");
        CHECK(msgget(IPC_PRIVATE, 0600) == 100000);
        make_file(directory + "sem_next_id", "100000");
        CHECK(semget(IPC_PRIVATE, 1, 0600) == 100000);
        const int fd = open(segments.c_str(), O_WRONLY);
        for (const char* bad : {"-1", "2147483648", "x"})
            CHECK_FAILS(pwrite(fd, bad, std::strlen(bad), 0), EINVAL);
        CHECK(setresuid(1000, 1000, 1000) == 0);
        CHECK_FAILS(open(segments.c_str(), O_WRONLY), EACCES);
    });
}

// slabtop(1) and vmstat -m read it.
void slabs() {
    const auto all = lines(contents_of("/proc/slabinfo"));
    CHECK(all.size() > 4 && all[0] == "slabinfo - version: 2.1" && all[1].substr(0, 6) == "# name");
    unsigned long used = 0;
    for (size_t i = 2; i < all.size(); i++) {
        char name[64];
        unsigned long active, objects, size, per_slab, pages, active_slabs, slab_count;
        CHECK(sscanf(all[i].c_str(),
                     "%63s %lu %lu %lu %lu %lu : tunables %*u %*u %*u : slabdata %lu %lu %*u", name,
                     &active, &objects, &size, &per_slab, &pages, &active_slabs, &slab_count) == 8);
        CHECK(active <= objects && size > 0 && per_slab > 0 && pages > 0);
        CHECK(active_slabs <= slab_count);
        used += active;
    }
    CHECK(used > 0);
    in_child([] {
        CHECK(setresuid(1000, 1000, 1000) == 0);
        CHECK_FAILS(open("/proc/slabinfo", O_RDONLY), EACCES);
    });
}

void keys() {
    const long key =
        syscall(SYS_add_key, "user", "joey-proc-test", "payload", 7, KEY_SPEC_PROCESS_KEYRING);
    if (key < 0) { // a kernel without keys has no files about them either
        CHECK(errno == ENOSYS && access("/proc/keys", F_OK) != 0);
        return;
    }
    char number[24];
    std::snprintf(number, sizeof number, "%08lx", static_cast<unsigned long>(key));
    std::vector<std::string> found;
    for (const std::string& line : lines(contents_of("/proc/keys")))
        if (line.rfind(number, 0) == 0)
            found = words(line);
    CHECK(found.size() == 10);
    CHECK(found[1] == "I--Q---" && found[3] == "perm" && found[4] == "3f010000");
    CHECK(found[5] == std::to_string(getuid()) && found[7] == "user");
    CHECK(found[8] == "joey-proc-test:" && found[9] == "7");
    bool own = false;
    for (const std::string& line : lines(contents_of("/proc/key-users")))
        own = own || words(line)[0] == std::to_string(getuid()) + ":";
    CHECK(own);
}

void descriptors(const ScratchDirectory& dir) {
    const int counter = eventfd(0x2a, EFD_SEMAPHORE);
    std::string info = info_of(counter);
    CHECK(has(info, "pos:\t0\nflags:\t02\n") && has(info, "eventfd-count:               2a\n"));
    const int watcher = epoll_create1(0);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = 0xabcdef;
    CHECK(epoll_ctl(watcher, EPOLL_CTL_ADD, counter, &event) == 0);
    info = info_of(watcher);
    char line[100];
    std::snprintf(line, sizeof line,
                  "tfd: %8d events:       19 data:           abcdef  pos:0 ino:", counter);
    CHECK(has(info, line));
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    const int signals = signalfd(-1, &set, 0);
    CHECK(has(info_of(signals), "sigmask:\t0000000000000200\n"));
    const int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    const itimerspec setting{{3, 5}, {1000, 0}};
    CHECK(timerfd_settime(timer, 0, &setting, nullptr) == 0);
    info = info_of(timer);
    CHECK(has(info, "clockid: 1\nticks: 0\nsettime flags: 0"));
    CHECK(has(info, "it_value: (999, ") && has(info, "it_interval: (3, 5)\n"));
    const int watches = inotify_init1(0);
    const int watch = inotify_add_watch(watches, dir.name().c_str(), IN_CREATE);
    std::snprintf(line, sizeof line, "inotify wd:%x ino:%lx sdev:", watch,
                  static_cast<unsigned long>(stat_of(dir.name()).st_ino));
    info = info_of(watches);
    CHECK(has(info, line) && has(info, " mask:100 ignored_mask:0 fhandle-bytes:"));
    const int process = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
    CHECK(has(info_of(process), "Pid:\t" + std::to_string(getpid()) + "\nNSpid:\t"));
    for (const int fd : {counter, watcher, signals, timer, watches, process})
        close(fd);
}

void machine_files() {
    const std::vector<std::string> open_now = words(contents_of("/proc/sys/fs/file-nr"));
    CHECK(open_now.size() == 3 && std::stoul(open_now[0]) > 0 && open_now[1] == "0");
    CHECK(words(contents_of("/proc/sys/fs/inode-nr")).size() == 2);
    CHECK(words(contents_of("/proc/sys/fs/inode-state")).size() == 7);
    CHECK(words(contents_of("/proc/sys/fs/dentry-state")).size() == 6);
    for (const char* name :
         {"fs/aio-max-nr", "fs/epoll/max_user_watches", "fs/pipe-user-pages-soft",
          "kernel/numa_balancing", "kernel/sched_rt_period_us", "user/max_inotify_watches",
          "user/max_fanotify_marks", "vm/zone_reclaim_mode", "vm/vfs_cache_pressure",
          "vm/laptop_mode", "vm/stat_interval", "vm/page-cluster"}) {
        const std::string value = contents_of(std::string("/proc/sys/") + name);
        CHECK(std::stoll(value) >= 0 && value.back() == '\n');
    }
    // No security module: nothing to read and nothing to set.
    const int label = open("/proc/self/attr/current", O_RDWR);
    CHECK(label >= 0);
    char text[100];
    CHECK(read(label, text, sizeof text) > 0 || errno == EINVAL);
    close(label);
}

// The timers of a process, the newest first.
void posix_timers() {
    const std::string self = std::to_string(getpid());
    CHECK(contents_of("/proc/self/timers").empty());
    int usual = -1, thread = -1, quiet = -1;
    CHECK(syscall(SYS_timer_create, CLOCK_MONOTONIC, nullptr, &usual) == 0);
    struct sigevent event {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGUSR1;
    event.sigev_value.sival_ptr = reinterpret_cast<void*>(uintptr_t{0x1234});
    event._sigev_un._tid = getpid();
    CHECK(syscall(SYS_timer_create, CLOCK_PROCESS_CPUTIME_ID, &event, &thread) == 0);
    event.sigev_notify = SIGEV_NONE;
    CHECK(syscall(SYS_timer_create, CLOCK_REALTIME, &event, &quiet) == 0);
    const auto described = [](int id, const std::string& signal, const std::string& notify,
                              int clock) {
        return "ID: " + std::to_string(id) + "\nsignal: " + signal + "\nnotify: " + notify +
               "\nClockID: " + std::to_string(clock) + "\n";
    };
    char value[17];
    std::snprintf(value, sizeof value, "%016x", static_cast<unsigned>(usual));
    const std::string text = contents_of("/proc/" + self + "/timers");
    const std::string first = described(usual, std::string("14/") + value, "signal/pid." + self, 1);
    const std::string second = described(thread, "10/0000000000001234", "signal/tid." + self, -6);
    CHECK(has(text, first) && has(text, second) && text.find(second) < text.find(first));
    CHECK(has(text, "notify: none/pid." + self + "\nClockID: 0\n"));
    CHECK(syscall(SYS_timer_delete, thread) == 0 && syscall(SYS_timer_delete, quiet) == 0);
    CHECK(contents_of("/proc/self/timers") == first);
    CHECK(syscall(SYS_timer_delete, usual) == 0);
    CHECK(contents_of("/proc/self/timers").empty());
    CHECK(access("/proc/thread-self/timers", F_OK) != 0); // of the process only
}

// A process may take back what it gave up of its chances in a want of memory, and no more.
void memory_badness() {
    const std::string name = "/proc/self/oom_score_adj";
    const std::string before = contents_of(name);
    const auto store = [&](const std::string& text) {
        const int fd = open(name.c_str(), O_WRONLY);
        CHECK(fd >= 0);
        const bool done = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
        close(fd);
        return done ? 0 : -1;
    };
    if (is_root())
        CHECK(store(before) == 0); // from here on the least, by whoever has CAP_SYS_RESOURCE
    in_child([&] {
        if (is_root()) {
            CHECK(setresuid(1000, 1000, 1000) == 0);
            CHECK(prctl(PR_SET_DUMPABLE, 1) == 0); // or its files are root's
        }
        CHECK(store("1000") == 0 && contents_of(name) == "1000\n");
        in_child([&] { CHECK(store(before) == 0 && contents_of(name) == before); });
        CHECK(store(before) == 0 && contents_of(name) == before);
        if (std::stoi(before) > -1000)
            CHECK_FAILS(store("-1000"), EACCES);
    });
}

std::string options_of(const std::string& place) {
    for (const std::string& line : lines(contents_of("/proc/self/mounts")))
        if (const auto row = words(line); row.size() > 3 && row[1] == place)
            return row[3];
    return {};
}

bool listed(const std::string& directory, const std::string& name) {
    DIR* const dir = opendir(directory.c_str());
    CHECK(dir != nullptr);
    bool found = false;
    while (const dirent* const entry = readdir(dir))
        found = found || name == entry->d_name;
    closedir(dir);
    return found;
}

// What somebody without rights sees of another's process: bits of seen_*.
constexpr int seen_listed = 1, seen_stat = 2, seen_file = 4;
int seen_by_others(const std::string& place, gid_t group) {
    const std::string process = std::to_string(getpid());
    std::fflush(nullptr);
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(setgroups(1, &group) == 0);
        CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
        struct stat status = {};
        const std::string directory = place + "/" + process;
        int seen = listed(place, process) ? seen_listed : 0;
        seen |= stat(directory.c_str(), &status) == 0 ? seen_stat : 0;
        const int fd = open((directory + "/stat").c_str(), O_RDONLY);
        const bool told_of = (seen & seen_stat) != 0;
        CHECK(fd >= 0 || errno == (told_of ? EPERM : ENOENT));
        seen |= fd >= 0 ? seen_file : 0;
        CHECK(access((place + "/self/stat").c_str(), R_OK) == 0);
        CHECK(listed(place, std::to_string(getpid())));
        _exit(seen);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    return WEXITSTATUS(status);
}

// mount(2)'s hidepid=, gid= and subset= of proc.
void mount_options(const ScratchDirectory& dir) {
    if (!is_root())
        return;
    const std::string place = dir.path("proc");
    CHECK(mkdir(place.c_str(), 0755) == 0);
    CHECK(unshare(CLONE_NEWNS) == 0);
    CHECK(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    const auto mount_with = [&](const char* options, unsigned long flags = 0) {
        return mount("proc", place.c_str(), "proc", flags, options);
    };
    for (const char* const wrong :
         {"hidepid=3", "hidepid=foo", "hidepid", "hidepid=", "hidepid=-1", "hidepid=1 ", "gid=abc",
          "gid=-1", "gid", "subset=foo", "subset", "unknown", "unknown=1", "hidepid=2,unknown"})
        CHECK_FAILS(mount_with(wrong), EINVAL);
    constexpr int all = seen_listed | seen_stat | seen_file;
    constexpr gid_t group = 4711;
    CHECK(mount_with("gid=0x1267,,hidepid=02") == 0);
    CHECK(has(options_of(place), ",gid=4711,hidepid=invisible"));
    CHECK(seen_by_others(place, 1) == 0 && seen_by_others(place, group) == all);
    CHECK_FAILS(mount_with("hidepid=0,unknown", MS_REMOUNT), EINVAL);
    CHECK(mount_with("hidepid=0,unknown", MS_REMOUNT | MS_BIND) == 0);
    CHECK(has(options_of(place), ",gid=4711,hidepid=invisible"));
    CHECK(mount_with("hidepid=noaccess", MS_REMOUNT) == 0);
    CHECK(has(options_of(place), ",gid=4711,hidepid=noaccess"));
    CHECK(seen_by_others(place, 1) == (seen_listed | seen_stat));
    CHECK(seen_by_others(place, group) == all);
    CHECK(mount_with("hidepid=4", MS_REMOUNT) == 0);
    CHECK(seen_by_others(place, 1) == 0 && seen_by_others(place, group) == 0);
    CHECK(access((place + "/uptime").c_str(), R_OK) == 0);
    CHECK(mount_with("hidepid=off,gid=0,subset=pid", MS_REMOUNT) == 0);
    CHECK(has(options_of(place), ",subset=pid") && !has(options_of(place), "hidepid"));
    CHECK(seen_by_others(place, 1) == all);
    CHECK(!listed(place, "uptime") && listed(place, "thread-self"));
    CHECK(access((place + "/self/net/dev").c_str(), R_OK) == 0);
    CHECK(access((place + "/meminfo").c_str(), R_OK) != 0 && errno == ENOENT);
    CHECK(access((place + "/sys").c_str(), R_OK) != 0 && errno == ENOENT);
    CHECK(umount(place.c_str()) == 0);
    // In steps.
    const int fs = static_cast<int>(syscall(SYS_fsopen, "proc", 0));
    const auto set = [&](unsigned kind, const char* name, const void* value, int more = 0) {
        return syscall(SYS_fsconfig, fs, kind, name, value, more);
    };
    CHECK(fs >= 0 && set(FSCONFIG_SET_STRING, "hidepid", "1") == 0);
    for (const char* const wrong : {"0,subset=pid", "3", "other"})
        CHECK_FAILS(set(FSCONFIG_SET_STRING, "hidepid", wrong), EINVAL);
    CHECK_FAILS(set(FSCONFIG_SET_FLAG, "hidepid", nullptr), EINVAL);
    CHECK_FAILS(set(FSCONFIG_SET_STRING, "unknown", "1"), EINVAL);
    CHECK_FAILS(set(FSCONFIG_SET_BINARY, "hidepid", "1", 1), EINVAL);
    CHECK_FAILS(set(FSCONFIG_SET_BINARY, "hidepid", nullptr, 1), EINVAL);
    CHECK_FAILS(set(FSCONFIG_SET_BINARY, "hidepid", "1", 0), EINVAL);
    CHECK_FAILS(set(FSCONFIG_SET_BINARY, "hidepid", "1", 1024 * 1024 + 1), EINVAL);
    CHECK_FAILS(set(FSCONFIG_SET_PATH, "hidepid", "/tmp", AT_FDCWD), EINVAL);
    CHECK_FAILS(set(FSCONFIG_SET_PATH_EMPTY, "hidepid", "", AT_FDCWD), EINVAL);
    CHECK_FAILS(set(99, "hidepid", nullptr), EOPNOTSUPP);
    CHECK(set(FSCONFIG_CMD_CREATE, nullptr, nullptr) == 0);
    const int made = static_cast<int>(syscall(SYS_fsmount, fs, 0, 0));
    CHECK(made >= 0 &&
          syscall(SYS_move_mount, made, "", AT_FDCWD, place.c_str(), MOVE_MOUNT_F_EMPTY_PATH) == 0);
    CHECK(has(options_of(place), ",hidepid=noaccess"));
    CHECK(close(made) == 0 && close(fs) == 0 && umount(place.c_str()) == 0);
    CHECK(rmdir(place.c_str()) == 0);
}

// Where its arguments are is for a program to say; whoever reads them need not read them all.
void far_arguments() {
    constexpr size_t size = size_t{1} << 40;
    void* const far =
        mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (far == MAP_FAILED)
        return; // so much address space is not to be had
    const auto start = reinterpret_cast<unsigned long>(far);
    in_child([=] {
        if (prctl(PR_SET_MM, PR_SET_MM_ARG_START, start, 0, 0) != 0 ||
            prctl(PR_SET_MM, PR_SET_MM_ARG_END, start + size, 0, 0) != 0)
            return; // needs CAP_SYS_RESOURCE
        const int file = open("/proc/self/cmdline", O_RDONLY);
        char text[4096];
        CHECK(read(file, text, sizeof text) == sizeof text);
        close(file);
    });
    CHECK(munmap(far, size) == 0);
}

} // namespace

int main() {
    umask(022);
    const ScratchDirectory dir("/dev/shm");
    ipc_tables();
    ipc_limits();
    chosen_ipc_numbers();
    slabs();
    keys();
    descriptors(dir);
    machine_files();
    posix_timers();
    memory_badness();
    far_arguments();
    mount_options(dir);
}
