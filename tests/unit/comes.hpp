// For unit tests of what another process does.
#pragma once

#include <unistd.h>

// Whether `test()` comes to hold; half a minute is waited for it.
template <typename Test>
bool comes(Test test) {
    for (int i = 0; i < 3000; ++i) {
        if (test())
            return true;
        ::usleep(10'000);
    }
    return false;
}
