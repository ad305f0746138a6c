#!/usr/bin/env bash
# Installs what is missing (apt), builds, and runs joey with the arguments given:
#   ./joey.sh do -- python3 -c 'print(6*7)'
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$top/tools/setup/prepare.sh"

install_packages build
build_in "$top/build" "" joey-run
exec "$top/build/tools/joey/joey" "$@"
