#!/usr/bin/env bash
# Installs what is missing, builds, and prints figures side by side with the host: ./bench.sh [--quick]
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$top/tools/setup/prepare.sh"

install_packages build
build_in "$top/build" "" joey-run tests/bench/primitives
exec python3 "$top/tests/bench/bench.py" --joey "$top/build/tools/joey/joey" \
    --primitives "$top/build/tests/bench/primitives" "$@"
