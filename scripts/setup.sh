#!/bin/sh
# Finds a Python that is new enough and lets it do the rest (scripts/setup.py). Usage: sh scripts/setup.sh run|dev|fuzz
set -u
cd "$(dirname "$0")/.." || exit 1
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'
if [ -n "${PYTHON:-}" ]; then
    if command -v "$PYTHON" >/dev/null 2>&1 && "$PYTHON" -c "$new_enough" >/dev/null 2>&1; then
        exec "$PYTHON" -m scripts.setup "$@"
    fi
    echo "PYTHON=$PYTHON is no Python 3.11 or newer: name another, or leave it out to have one found." >&2
    exit 69
fi
for python in python3 python3.13 python3.12 python3.11 python3.14; do
    command -v "$python" >/dev/null 2>&1 || continue
    if "$python" -c "$new_enough" >/dev/null 2>&1; then
        exec "$python" -m scripts.setup "$@"
    fi
done
echo "Taube needs Python 3.11 or newer, and none was found: install it and run make again, or name it: make PYTHON=/path/to/python3 setup" >&2
exit 69
