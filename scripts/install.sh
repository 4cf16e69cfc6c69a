#!/bin/sh
# Installs this checkout, editable and pinned by constraints.txt, into a virtual environment.
# Usage: install.sh VENV core|dev   (PYTHON names an interpreter; found otherwise)
# Leaves VENV/.installed-<kind> with the seconds it took and when it ended; make reads its time stamp.
set -eu

venv=$1
kind=$2
case $kind in
    core) target="." ;;
    dev) target=".[dev]" ;;
    *) echo "install.sh: core or dev, not '$kind'" >&2 && exit 2 ;;
esac
started=$(date +%s)
here=$(dirname "$0")

# An environment whose interpreter is gone, too old or too new is made anew.
if ! sh "$here/find-python.sh" "$venv/bin/python" >/dev/null 2>&1; then
    # shellcheck disable=SC2086 # an empty PYTHON is no argument
    python=$(sh "$here/find-python.sh" ${PYTHON:+"$PYTHON"})
    echo "install: new environment in $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi

echo "install: $target (pinned by constraints.txt); about a minute, once"
"$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --progress-bar off \
    -c constraints.txt -e "$target" || {
    status=$?
    echo "install: pip failed (exit $status); nothing is half-installed for good: the same command repeats it." >&2
    echo "install: it needs a reachable package index; pip's own settings (pip config list) say which." >&2
    exit "$status"
}

ended=$(date +%s)
echo "$((ended - started)) $ended" >"$venv/.installed-$kind"
# dev contains core.
[ "$kind" = core ] || cp "$venv/.installed-$kind" "$venv/.installed-core"
echo "install: done in $((ended - started)) s"
