#!/bin/sh
# Installs bubblewrap through apt where it is missing and we may, then tries whether it works here.
# Usage: ensure-bubblewrap.sh [NOTE]   NOTE is a file that remembers a failed installation, so that it
#                                      is tried once and not on every run.
# Prints one line for people, then, last, `sandbox=bubblewrap` or `sandbox=none`. Always exits 0:
# not being able to is an answer. Why not is said; what it means is the caller's business.
set -u

note=${1:-}

install_bubblewrap() {
    command -v apt-get >/dev/null 2>&1 || { why="no apt-get here" && return 1; }
    as_root=""
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true >/dev/null 2>&1 || { why="neither root nor sudo without a password" && return 1; }
        as_root="sudo -n"
    fi
    # A dead mirror must not hold up the demo.
    apt="timeout 120 apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o DPkg::Lock::Timeout=60"
    # The package lists may be there already; an update that fails decides nothing.
    $as_root env DEBIAN_FRONTEND=noninteractive $apt update >/dev/null 2>&1
    $as_root env DEBIAN_FRONTEND=noninteractive $apt install -y --no-install-recommends bubblewrap >/dev/null 2>&1 ||
        { why="apt-get could not install it" && return 1; }
}

answer() {
    echo "sandbox: $1"
    echo "sandbox=$2"
    exit 0
}

if ! command -v bwrap >/dev/null 2>&1; then
    if [ -n "$note" ] && [ -f "$note" ]; then
        answer "bubblewrap is missing ($(cat "$note"); not tried again, 'make clean' forgets)" none
    fi
    why=""
    if ! install_bubblewrap; then
        if [ -n "$note" ]; then
            mkdir -p "$(dirname "$note")" && echo "$why" >"$note"
        fi
        answer "bubblewrap is missing and was not installed: $why" none
    fi
fi

# What a trial needs: every namespace, a user namespace of its own (--unshare-all only tries to), a
# dropped uid, its own /proc and /dev. Containers often refuse one of them.
refusal=$(bwrap --unshare-all --unshare-user --uid 65534 --gid 65534 --ro-bind / / \
    --proc /proc --dev /dev --die-with-parent true 2>&1) ||
    answer "$(bwrap --version) is here, but namespaces are refused: $(echo "$refusal" | tail -n 1)" none
answer "$(bwrap --version) works here" bubblewrap
