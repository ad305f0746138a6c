#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include <catch2/catch.hpp>

#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/mm/radix_tree.hpp"
#include "guestkernel/mm/vma.hpp"

using namespace kernel;

namespace {

// The highest hole, found the slow way.
u64 slow_gap(const std::map<u64, u64>& ranges, u64 length, u64 limit) {
    u64 best = 0;
    u64 bottom = user_min;
    const auto consider = [&](u64 top) {
        top = std::min(top, limit);
        if (top >= bottom && top - bottom >= length)
            best = top - length;
    };
    for (const auto& [start, end] : ranges) {
        consider(start);
        bottom = end;
    }
    consider(limit);
    return best;
}

} // namespace

TEST_CASE("the tree of mappings finds mappings and holes as a sorted list does") {
    std::mt19937_64 random(3);
    VmaTree tree;
    std::map<u64, u64> model;
    std::map<u64, std::unique_ptr<Vma>> owners;
    constexpr u64 top = user_min + 4000 * page_size;
    for (int step = 0; step < 20000; step++) {
        const u64 start = user_min + random() % 4000 * page_size;
        const u64 end = start + (1 + random() % 20) * page_size;
        if (random() % 2 == 0) {
            const bool is_free = tree.range_free(start, end);
            const auto after = model.lower_bound(start);
            const bool model_free = (after == model.end() || after->first >= end) &&
                                    (after == model.begin() || std::prev(after)->second <= start);
            REQUIRE(is_free == model_free);
            if (is_free) {
                auto vma = std::make_unique<Vma>();
                vma->start = start;
                vma->end = end;
                tree.insert(*vma);
                model[start] = end;
                owners[start] = std::move(vma);
            }
        } else if (Vma* vma = tree.find_from(start)) {
            const auto found = std::find_if(model.begin(), model.end(),
                                            [&](auto& range) { return range.second > start; });
            REQUIRE(vma->start == found->first);
            REQUIRE(vma->end == found->second);
            if (random() % 4 == 0 && vma->pages() > 1) {
                tree.set_bounds(*vma, vma->start, vma->end - page_size, 0);
                found->second -= page_size;
            } else {
                tree.erase(*vma);
                owners.erase(found->first);
                model.erase(found);
            }
        } else {
            REQUIRE(std::none_of(model.begin(), model.end(),
                                 [&](auto& range) { return range.second > start; }));
        }
        const u64 length = (1 + random() % 60) * page_size;
        const u64 limit = random() % 2 == 0 ? top : user_min + random() % 4000 * page_size;
        REQUIRE(tree.find_gap(length, limit) == slow_gap(model, length, limit));
        REQUIRE(tree.count() == model.size());
    }
}

TEST_CASE("the radix tree keeps entries, marks and holes as a map does") {
    hosted::reset(u64{64} << 20);
    std::mt19937_64 random(4);
    RadixTree tree;
    std::map<u64, bool> model; // marked
    static char entry;
    const auto pick = [&] {
        const u64 small = random() % 300;
        return random() % 8 == 0 ? small << (random() % 50) : small;
    };
    for (int step = 0; step < 30000; step++) {
        const u64 index = pick();
        const auto found = model.find(index);
        REQUIRE((tree.get(index) != nullptr) == (found != model.end()));
        if (found == model.end()) {
            REQUIRE(tree.insert(index, &entry));
            model[index] = false;
        } else if (random() % 2 == 0) {
            tree.remove(index);
            model.erase(found);
        } else {
            found->second = !found->second;
            found->second ? tree.set_mark(index) : tree.clear_mark(index);
        }
        const u64 from = pick();
        const u64 limit = from + 1 + random() % 1000;
        const auto next = model.lower_bound(from);
        REQUIRE(tree.next(from, limit) ==
                (next == model.end() ? limit : std::min(next->first, limit)));
        const auto marked = std::find_if(next, model.end(), [](auto& item) { return item.second; });
        REQUIRE(tree.next_marked(from, limit) ==
                (marked == model.end() ? limit : std::min(marked->first, limit)));
        u64 absent = from;
        while (absent < limit && model.count(absent) != 0)
            absent++;
        REQUIRE(tree.next_absent(from, limit) == absent);
    }
}
