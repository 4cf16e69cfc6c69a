#!/bin/sh
# Prints the first Python that can hold this project: 3.11-3.13 with venv and pip.
# Candidates are run, not only looked up: a version manager's shim exists without its Python.
# Usage: find-python.sh [CANDIDATE ...]; exits 1 with what to do when none fits.
set -u

seen=""
[ "$#" -gt 0 ] || set -- python3.11 python3.12 python3.13 python3 python
for candidate in "$@"; do
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    case $version in
        3.11 | 3.12 | 3.13) ;;
        *) seen="$seen $candidate ($version, not supported)" && continue ;;
    esac
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "$candidate"
        exit 0
    fi
    seen="$seen $candidate ($version, without venv: apt-get install python$version-venv)"
done

{
    echo "isobench-ray needs Python 3.11, 3.12 or 3.13 with the venv module."
    echo "Found:${seen:- none of $*}."
    echo "Install one, or name it: make PYTHON=/path/to/python3.11 ..."
} >&2
exit 1
