// A file for unit tests: bytes in a vector behind a page cache, with every transfer counted.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/mm/page_cache.hpp"

namespace kernel::hosted {

class FakeSource : public PageSource {
public:
    explicit FakeSource(u64 bytes) : content(bytes) {
        for (u64 i = 0; i < bytes; i++)
            content[i] = static_cast<u8>(i / page_size * 7 + i % 251);
    }
    Result<void> read_pages(u64 first, std::span<Frame* const> frames) override {
        reads++;
        pages_read += frames.size();
        if (while_reading)
            while_reading();
        if (fail_with != 0)
            return fail(fail_with);
        for (usize i = 0; i < frames.size(); i++) {
            u8* to = static_cast<u8*>(frame_data(*frames[i]));
            std::memset(to, 0, page_size);
            const u64 from = (first + i) * page_size;
            if (from < content.size())
                std::memcpy(to, content.data() + from,
                            std::min<u64>(page_size, content.size() - from));
        }
        return {};
    }
    Result<void> write_pages(u64 first, std::span<Frame* const> frames, u64 file_size) override {
        writes++;
        if (fail_writes_with != 0)
            return fail(fail_writes_with);
        pages_written += frames.size();
        content.resize(file_size);
        for (usize i = 0; i < frames.size(); i++) {
            const u64 to = (first + i) * page_size;
            if (to < content.size())
                std::memcpy(content.data() + to, frame_data(*frames[i]),
                            std::min<u64>(page_size, content.size() - to));
        }
        return {};
    }
    u64 size() const override { return content.size(); }

    std::vector<u8> content;
    std::function<void()> while_reading; // what others do meanwhile
    int fail_with = 0, fail_writes_with = 0;
    u64 reads = 0, pages_read = 0, writes = 0, pages_written = 0;
};

class FakeFile : public File {
public:
    FakeFile(u64 bytes, u32 flags) : File(Path(), nullptr, flags), source(bytes) {
        cache = *make_ref<PageCache>(&source);
    }
    ~FakeFile() override { cache->detach(); }
    Result<Ref<PageCache>> mapping(u32, u32) override { return cache; }
    Result<void> sync(bool) override { return {}; }

    FakeSource source;
    Ref<PageCache> cache;
};

} // namespace kernel::hosted
