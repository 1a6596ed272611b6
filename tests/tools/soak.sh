#!/usr/bin/env bash
# The long run of the tests that try random things: other examples each time, and many of them.
# One kind on each core; takes about an hour on two. A failure is printed with what repeats it.
# usage: tests/tools/soak.sh [NIGHTS [INPUTS]]     default: 2000 fleets of nights, 10000 inputs of a kind
set -euo pipefail
cd "$(dirname "$0")/../.."

nights=${1:-2000} inputs=${2:-10000}
export SNAPSHOTS_PROFILE=soak
if [ ! -e .venv/installed-for-tests ]; then
  tests/run.sh --collect-only >/dev/null
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
soak() { # kind, examples (0: as many as in run.sh), what pytest runs
  local began=$SECONDS result=passed printed
  printed=$(SNAPSHOTS_EXAMPLES=$2 .venv/bin/python -m pytest "${@:3}" 2>&1) || result=FAILED
  [[ $printed != *skipped* ]] || result=FAILED # what tries nothing proves nothing
  [ "$result" = passed ] || printf '%s\n' "$printed" >&2
  printf '| %s | %s | %s | %s s |\n' "$1" "$2" "$result" $((SECONDS - began)) >"$folder/$1"
}
start() { # the same, in the background, as soon as a core is free
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc 2>/dev/null || echo 2)" ]; do wait -n 2>/dev/null || sleep 1; done
  soak "$@" &
}
start "fleets over random nights" "$nights" tests/test_stateful.py
start "configurations" "$inputs" tests/test_fuzz.py::test_any_configuration_is_used_or_refused
start "server files" "$inputs" tests/test_fuzz.py::test_any_server_file_is_used_or_refused
start "answers" "$inputs" tests/test_fuzz.py::test_any_answer_is_survived
start "arguments" "$inputs" tests/test_fuzz.py::test_any_arguments_have_a_clear_answer
start "environments" "$inputs" tests/test_fuzz.py::test_any_environment_serves
start "INI texts" "$inputs" tests/test_config.py::test_an_ini_text_is_read_as_configparser_reads_it
start "formats of Telegram" "$inputs" tests/test_telegram_formats.py
start "all cases, not only all pairs" 0 tests/test_refusals.py tests/test_faults.py tests/test_http.py
start "environments of the interpreter, a hundredth of it" "$inputs" \
  tests/test_fuzz.py::test_any_environment_of_the_interpreter_serves
wait
printf '| kind | examples | result | time |\n|---|---:|---|---:|\n'
cat "$folder"/*
! grep -q FAILED "$folder"/*
