#!/bin/sh
# Writes requirements/*.txt from requirements/*.in: one lock for every platform and Python that Taube runs on.
# Usage: sh scripts/lock.sh [--upgrade]
set -eu
cd "$(dirname "$0")/../requirements"
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    echo "make lock needs uv: install it with pipx install uv, then run it again." >&2
    exit 69
fi
for name in run dev node fuzz; do
    echo "Locking $name …"
    "$uv" pip compile --quiet --universal --generate-hashes --python-version 3.11 --only-binary :all: \
        --no-header --no-annotate "$@" -o "$name.txt" "$name.in"
done
