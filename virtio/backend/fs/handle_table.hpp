// HandleTable: what the client has open, by the number it was given. A number is an index and a
// generation, so that one from an earlier life finds nothing; it is never 0.
#pragma once

#include <cerrno>
#include <cstdint>
#include <memory>
#include <vector>

#include "virtio/backend/fs/host.hpp"
#include "virtio/guarded.hpp"

namespace virtio::fs {

template <typename T>
class HandleTable {
public:
    using Ref = std::shared_ptr<T>;

    // `kind` (0 or 1) keeps the numbers of two tables apart.
    HandleTable(std::uint32_t kind, std::size_t limit) : kind_(kind << 31), limit_(limit) {}

    Result<std::uint64_t> insert(Ref open) {
        return table_.with([&](Table& table) -> Result<std::uint64_t> {
            std::uint32_t index = 0;
            if (!table.free.empty()) {
                index = table.free.back();
                table.free.pop_back();
            } else {
                if (table.slots.size() >= limit_)
                    return fail(ENFILE);
                index = static_cast<std::uint32_t>(table.slots.size());
                table.slots.emplace_back();
            }
            Slot& slot = table.slots[index];
            slot.open = std::move(open);
            return (std::uint64_t{slot.generation} << 32) | kind_ | (index + 1);
        });
    }

    // Null if there is none.
    Ref find(std::uint64_t number) {
        return table_.with([&](Table& table) {
            Slot* slot = locate(table, number);
            return slot == nullptr ? Ref() : slot->open;
        });
    }

    // Takes it out of the table; it is closed when the last request that uses it has ended.
    Ref remove(std::uint64_t number) {
        return table_.with([&](Table& table) {
            Slot* slot = locate(table, number);
            if (slot == nullptr)
                return Ref();
            ++slot->generation;
            table.free.push_back(static_cast<std::uint32_t>(slot - table.slots.data()));
            return std::move(slot->open);
        });
    }

    void clear() {
        std::vector<Ref> closed; // after the lock
        table_.with([&](Table& table) {
            table.free.clear();
            for (Slot& slot : table.slots) {
                if (slot.open) {
                    closed.push_back(std::move(slot.open));
                    ++slot.generation;
                }
                table.free.push_back(static_cast<std::uint32_t>(&slot - table.slots.data()));
            }
        });
    }

private:
    struct Slot {
        Ref open;
        std::uint32_t generation = 0;
    };
    struct Table {
        std::vector<Slot> slots;
        std::vector<std::uint32_t> free;
    };

    Slot* locate(Table& table, std::uint64_t number) const {
        const auto low = static_cast<std::uint32_t>(number);
        const std::uint32_t index = (low & 0x7fff'ffff) - 1; // 0 wraps to what no table has
        if ((low & 0x8000'0000) != kind_ || index >= table.slots.size())
            return nullptr;
        Slot& slot = table.slots[index];
        return slot.open && slot.generation == number >> 32 ? &slot : nullptr;
    }

    const std::uint32_t kind_;
    const std::size_t limit_;
    Guarded<Table> table_;
};

} // namespace virtio::fs
