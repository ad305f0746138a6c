# Sourced by joey.sh, test.sh and bench.sh: installs what is missing and builds. Every line it says
# goes to stderr and begins with the script's name; it says nothing when there is nothing to do.
# Requires: `top` is the repository's root.

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
die() { say "$*"; exit 125; }

# The packages of the given kinds (build, test) that dpkg does not have.
missing_packages() {
    local name kind rest wanted=()
    while read -r name kind rest; do
        case " $* " in *" $kind "*) wanted+=("$name") ;; esac
    done < <(grep -v '^#' "$top/tools/setup/packages")
    # A command that another package brought along (NodeSource's nodejs, a hand-installed JDK) counts.
    local have
    # It fails, having printed the others, when there are some it has never heard of.
    have=$({ dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null || true; } |
        sed -n 's/^installed //p')
    for name in "${wanted[@]}"; do
        case $'\n'"$have"$'\n' in *$'\n'"$name"$'\n'*) continue ;; esac
        case $name in
            default-jdk-headless) command -v javac >/dev/null && continue ;;
            nodejs) command -v node >/dev/null && continue ;;
        esac
        printf '%s\n' "$name"
    done
}

install_packages() {
    local names missing=() sudo=()
    names=$(missing_packages "$@") || die "cannot find out which packages are installed"
    [ -n "$names" ] || return 0
    mapfile -t missing <<<"$names"
    command -v apt-get >/dev/null || die "apt-get not found; install these yourself: ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            die "not root and no sudo; as root, run: apt-get install ${missing[*]}"
        sudo=(sudo)
    fi
    say "installing ${missing[*]}"
    local log
    log=$(mktemp)
    if ! { "${sudo[@]}" apt-get update -q &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -q -y --no-install-recommends "${missing[@]}"; } </dev/null >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "apt-get failed (above); mend it and run this again"
    fi
    rm -f "$log"
}

# build_in DIR "OPTIONS" TARGET...: configures DIR once and builds the targets (none = all). Quiet
# when up to date. A lock keeps two of these from building in one folder at the same time.
build_in() {
    local dir=$1 options=$2
    shift 2
    mkdir -p "$dir"
    local status=0
    exec 9>"$dir/.lock"
    flock 9
    if [ ! -f "$dir/build.ninja" ]; then
        say "configuring ${dir##*/}/"
        # shellcheck disable=SC2086  # the options are words
        if ! meson setup $options "$dir" "$top" >"$dir/setup.log" 2>&1 9>&-; then
            tail -n 20 "$dir/setup.log" >&2
            die "configuring failed (above)"
        fi
    fi
    if ! ninja -C "$dir" -n "$@" 2>/dev/null 9>&- | grep -q 'no work to do'; then
        say "building ${dir##*/}/"
        local began=$SECONDS
        if ! ninja -C "$dir" --quiet "$@" >"$dir/build.log" 2>&1 9>&-; then
            tail -n 60 "$dir/build.log" >&2
            status=1
        fi
        say "built ${dir##*/}/ in $((SECONDS - began)) s"
    fi
    exec 9>&-
    [ $status -eq 0 ] || die "the build failed (above)"
}
