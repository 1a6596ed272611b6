#!/usr/bin/env bash
# The main job without an account: a fake cloud on this machine, a few servers with a history, and
# snapshots.py run on them for real over HTTP. Needs Python 3.9 or newer; makes .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -x .venv/bin/python ]; then
  "${PYTHON:-python3}" -m venv .venv
fi
if ! .venv/bin/python -c 'import requests, dateutil' 2>/dev/null; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
fi
exec .venv/bin/python tests/tools/demo.py
