#!/bin/sh
# Writes constraints.txt anew: the newest versions that pyproject.toml allows, resolved by a fresh
# install on the oldest supported Python, so that the newer ones find wheels of the same versions.
# Keeps the comment at the head of the file. PYTHON names an interpreter; python3.11 otherwise.
set -eu

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python=$(sh "$(dirname "$0")/find-python.sh" "${PYTHON:-python3.11}")
"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check -e '.[dev]'
{
    sed -n '/^#/p' constraints.txt
    "$scratch/venv/bin/python" -m pip freeze --exclude-editable
} >"$scratch/constraints.txt"
# A version installed from an address would be no version: refuse rather than publish a path.
if grep -n ' @ ' "$scratch/constraints.txt"; then
    echo "renew-constraints: the lines above name an address; constraints.txt is unchanged." >&2
    exit 1
fi
cp "$scratch/constraints.txt" constraints.txt
echo "constraints.txt: $(grep -c == constraints.txt) versions"
