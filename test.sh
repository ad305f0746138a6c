#!/usr/bin/env bash
# Installs what is missing (apt), builds, and runs the tests: all suites, or those that are named.
#   ./test.sh [lint|unit|agent|guest|integration|qemu|asan|fuzz|long|fuzz-long|conformance|NAME...]
# Without names: lint unit agent guest integration qemu asan fuzz. long, fuzz-long and conformance take hours.
# Without a /dev/kvm, what needs one runs in an emulated machine (tools/emulate).
# The last line is "N passed, N failed"; each test case of each program counts as one. With JOEY_TEST_MINUTES=N in the environment it
# comes after N minutes at the latest: what was not done by then has failed. JOEY_BUILD_OPTIONS is given to Meson when build/ is configured.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$top/tools/setup/prepare.sh"
JOEY_TEST_BEGAN=$(date +%s)
export JOEY_TEST_BEGAN

suites=("$@")
[ ${#suites[@]} -gt 0 ] || suites=(lint unit agent guest integration qemu asan fuzz)

wants() { case " ${suites[*]} " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

install_packages build test
! wants long || install_packages long bench
! wants conformance || install_packages conformance
build_in "$top/build" "${JOEY_BUILD_OPTIONS-}"
if wants asan || wants fuzz || wants fuzz-long; then
    # The second build: the same objects for unit tests under sanitizers and for fuzzers, hence by Clang with the marks that lead
    # libFuzzer. The kernel has no runtime for sanitizers; its portable parts are built for the host. Line numbers are all that a
    # finding needs: a quarter of the compiler's time goes into the rest.
    mapfile -t programs < <(python3 "$top/tools/test/run_suites.py" --top "$top" --programs unit)
    for fuzzer in "$top"/tests/fuzz/*_fuzz.cpp; do
        fuzzer=${fuzzer#"$top/"}
        programs+=("${fuzzer%.cpp}")
    done
    CXX=clang++ build_in "$top/build-asan" "-Db_sanitize=address,undefined -Doptimization=1 -Dkernel=false -Db_lundef=false \
        -Dfuzzers=true -Dcpp_args=['-fsanitize=fuzzer-no-link','-g1']" "${programs[@]}"
fi
exec python3 "$top/tools/test/run_suites.py" --top "$top" "${suites[@]}"
