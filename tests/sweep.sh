#!/usr/bin/env bash
# Kills the tool at every call it makes to the network and to its own files, and sees the next run
# put things right. Needs strace besides what tests/run.sh needs; takes some minutes.
# usage: tests/sweep.sh [arguments for sweep.py, see --help]
set -euo pipefail
cd "$(dirname "$0")/.."

if ! strace -f -o /dev/null true 2>/dev/null; then
  echo "tests/sweep.sh: strace is missing, or may not trace here (apt-get install strace; in a" \
    "container: --cap-add SYS_PTRACE)" >&2
  exit 1
fi
if [ ! -x .venv/bin/python ]; then
  "${PYTHON:-python3}" -m venv .venv
fi
if ! .venv/bin/python -c 'import requests, dateutil' 2>/dev/null; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
fi
exec .venv/bin/python tests/tools/sweep.py "$@"
