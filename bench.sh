#!/usr/bin/env bash
# Installs what is missing, builds, and prints figures side by side with the host: ./bench.sh [net|pods] [--quick]
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$top/tools/setup/prepare.sh"

if [ "${1:-}" = net ]; then
    shift
    install_packages build bench
    build_in "$top/build" "" joey-run tests/bench/tcp_round
    exec python3 "$top/tests/bench/net_bench.py" --joey "$top/build/tools/joey/joey" --tcp-round "$top/build/tests/bench/tcp_round" "$@"
fi
if [ "${1:-}" = pods ]; then
    shift
    install_packages build test
    build_in "$top/build" "" joey-run tools/containerd-shim-joey-v2/containerd-shim-joey-v2
    exec python3 "$top/tests/bench/pod_bench.py" --joey "$top/build/tools/joey/joey" "$@"
fi
install_packages build
build_in "$top/build" "" joey-run tests/bench/primitives
exec python3 "$top/tests/bench/bench.py" --joey "$top/build/tools/joey/joey" \
    --primitives "$top/build/tests/bench/primitives" "$@"
