// Whether a sanitizer that watches memory is compiled in: GCC and Clang say so in different words.
#pragma once

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define JOEY_WATCHES_MEMORY 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define JOEY_WATCHES_MEMORY 1
#endif
#endif
#ifndef JOEY_WATCHES_MEMORY
#define JOEY_WATCHES_MEMORY 0
#endif
