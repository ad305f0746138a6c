// /proc/PID/{uid_map,gid_map,setgroups,timens_offsets}; user_namespaces(7), time_namespaces(7).
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/time.h>

#include "guestkernel/core/time.hpp"
#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"

namespace kernel::procfs {
namespace {

Result<Ref<UserNamespace>> user_namespace_of(const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    const Ref<const Credentials> who = credentials_of(*task);
    if (!who)
        return fail(ESRCH);
    return Ref<UserNamespace>::share(who->user_space());
}

// user_namespaces(7): from inside, ids of the parent; else as the reader's own namespace knows
// them.
Result<void> show_map(TextBuilder& out, const TableContext& of, bool group) {
    TRY(const Ref<UserNamespace> space, user_namespace_of(of));
    const auto line = [&](u32 inside, u32 outside, u32 count) {
        out.number(inside, 10);
        out.append(" ");
        out.number(outside, 10);
        out.append(" ");
        out.number(count, 10);
        out.append("\n");
    };
    if (is_initial(space.get())) {
        line(0, 0, ~u32{0});
        return {};
    }
    const IdMap* map = space->map(group);
    if (map == nullptr)
        return {};
    const UserNamespace* reader = current_task().credentials->user_space();
    if (reader == space.get())
        reader = space->parent();
    for (const IdExtent& extent : map->extents)
        line(extent.inside,
             is_initial(reader) ? extent.global : reader->to_inside(group, extent.global),
             extent.count);
    return {};
}

// The opener's rights count, not only those of who happens to write.
class IdMapFile final : public File {
public:
    IdMapFile(Path path, Ref<Inode> inode, u32 flags, bool group, TableContext of,
              Ref<const Credentials> opener)
        : File(std::move(path), std::move(inode), flags), group_(group), of_(of),
          opener_(std::move(opener)) {}
    const char* type_name() const override { return "idmap"; }
    Result<usize> read(IoBuffer& out, u64 offset) override {
        TextBuilder text;
        TRY(show_map(text, of_, group_));
        if (text.failed())
            return fail(ENOMEM);
        return text.read(out, offset);
    }
    Result<usize> write(IoBuffer& in, u64 offset) override {
        const usize length = in.remaining();
        if (offset != 0 || length >= page_size)
            return fail(EINVAL);
        Vector<char> text;
        TRY(text.resize(length));
        if (in.copy_in(text.data(), length) != length)
            return fail(EFAULT);
        TRY(const Ref<UserNamespace> space, user_namespace_of(of_));
        TRY(write_id_map(*space, group_, {text.data(), length}, *opener_));
        return length;
    }
    Result<void> truncate(u64) override { return {}; }

private:
    const bool group_;
    const TableContext of_;
    const Ref<const Credentials> opener_;
};

} // namespace

Result<void> show_uid_map(TextBuilder& out, const TableContext& of) {
    return show_map(out, of, false);
}
Result<void> show_gid_map(TextBuilder& out, const TableContext& of) {
    return show_map(out, of, true);
}

Result<Ref<File>> open_id_map(const Path& path, Ref<Inode> inode, u32 flags,
                              const TableContext& of) {
    const bool group = static_cast<TableNode&>(*inode).entry().name == "gid_map";
    TRY(Ref<IdMapFile> file,
        make_ref<IdMapFile>(path, std::move(inode), flags, group, of, current_task().credentials));
    return Ref<File>(std::move(file));
}

Result<void> show_setgroups(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<UserNamespace> space, user_namespace_of(of));
    out.append(space->setgroups_allowed() ? "allow\n" : "deny\n");
    return {};
}

Result<void> store_setgroups(std::string_view text, const TableContext& of) {
    TRY(const Ref<UserNamespace> space, user_namespace_of(of));
    if (!capable_over(space.get(), CAP_SYS_ADMIN))
        return fail(EPERM);
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ' || text.back() == '\0'))
        text.remove_suffix(1);
    if (text == "allow")
        return space->allow_setgroups();
    if (text != "deny")
        return fail(EINVAL);
    return space->forbid_setgroups();
}

namespace {

Result<Ref<TimeNamespace>> time_namespace_of(const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    const Ref<Namespaces> all = namespaces_of(*task);
    if (!all)
        return fail(ESRCH);
    return all->time_for_children;
}

std::string_view next_word(std::string_view& line) {
    while (!line.empty() && (line.front() == ' ' || line.front() == '\t'))
        line.remove_prefix(1);
    usize length = 0;
    while (length < line.size() && line[length] != ' ' && line[length] != '\t')
        length++;
    const std::string_view word = line.substr(0, length);
    line.remove_prefix(length);
    return word;
}

Result<void> parse_offset(std::string_view line, i64& monotonic, i64& boottime) {
    const std::string_view clock = next_word(line);
    TRY(const i64 seconds, parse_number(next_word(line)));
    TRY(const i64 nanoseconds, parse_number(next_word(line)));
    if (!next_word(line).empty() || nanoseconds < 0 ||
        nanoseconds >= static_cast<i64>(nanoseconds_per_second))
        return fail(EINVAL);
    // The clock may neither be negative nor reach half of its range.
    constexpr i64 most_seconds = 0x7fff'ffff'ffff'ffff / 1'000'000'000 / 2;
    if (seconds > most_seconds || seconds < -most_seconds)
        return fail(ERANGE);
    const i64 offset = seconds * static_cast<i64>(nanoseconds_per_second) + nanoseconds;
    if (static_cast<i64>(monotonic_ns()) + offset < 0)
        return fail(ERANGE);
    if (clock == "monotonic" || clock == "1")
        monotonic = offset;
    else if (clock == "boottime" || clock == "7")
        boottime = offset;
    else
        return fail(EINVAL);
    return {};
}

} // namespace

Result<void> show_timens_offsets(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<TimeNamespace> space, time_namespace_of(of));
    const auto line = [&](std::string_view clock, i64 offset) {
        constexpr auto second = static_cast<i64>(nanoseconds_per_second);
        i64 seconds = offset / second;
        if (offset % second < 0)
            seconds--;
        char number[24];
        const usize length = log::format(number, sizeof number, "{}", seconds);
        out.text(clock, 10);
        out.pad_to(length, 11);
        out.append({number, length});
        out.append(" ");
        out.number(static_cast<u64>(offset - seconds * second), 9);
        out.append("\n");
    };
    line("monotonic", space->monotonic_offset_ns);
    line("boottime", space->boottime_offset_ns);
    return {};
}

Result<void> store_timens_offsets(std::string_view text, const TableContext& of) {
    TRY(const Ref<TimeNamespace> space, time_namespace_of(of));
    if (!capable_over(space->owner(), CAP_SYS_TIME))
        return fail(EPERM);
    i64 monotonic = space->monotonic_offset_ns, boottime = space->boottime_offset_ns;
    while (!text.empty()) {
        usize end = 0;
        while (end < text.size() && text[end] != '\n')
            end++;
        TRY(parse_offset(text.substr(0, end), monotonic, boottime));
        text.remove_prefix(end < text.size() ? end + 1 : end);
    }
    if (space->frozen.load())
        return fail(EACCES); // somebody lives in it
    space->monotonic_offset_ns = monotonic;
    space->boottime_offset_ns = boottime;
    return {};
}

} // namespace kernel::procfs
