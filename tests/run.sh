#!/usr/bin/env bash
# Checks and tests everything, on a machine that has Python 3.9 or newer and nothing else.
# Makes .venv beside snapshots.py and installs nothing outside it.
# usage: tests/run.sh [arguments for pytest]
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE # each of pytest's processes would compile everything for itself

if [ ! -x .venv/bin/python ]; then
  "${PYTHON:-python3}" -m venv .venv
fi
stamp=.venv/installed-for-tests
if [ ! -e "$stamp" ] || [ requirements.txt -nt "$stamp" ] || [ tests/requirements.txt -nt "$stamp" ]; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
  touch "$stamp"
fi

.venv/bin/mypy --config-file tests/pyproject.toml --no-error-summary snapshots.py tests &
types=$!
.venv/bin/ruff check --quiet --config tests/pyproject.toml snapshots.py tests
.venv/bin/ruff format --quiet --check --config tests/pyproject.toml snapshots.py tests
.venv/bin/vermin --quiet --no-tips --violations --eval-annotations --backport argparse --target=3.9- snapshots.py
.venv/bin/python -m pytest tests --collect-only "$@" >/dev/null || true # compiles them once
wait "$types"
.venv/bin/python -m pytest tests -n 6 --dist worksteal "$@" # most of them wait most of the time
