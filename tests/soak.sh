#!/usr/bin/env bash
# The long run of the tests that try random things: other examples each time, and many of them.
# Takes hours; a failure is printed with what repeats it.
# usage: tests/soak.sh [NIGHTS [INPUTS]]     default: 2000 fleets of nights, 10000 inputs of a kind
set -euo pipefail
cd "$(dirname "$0")/.."

nights=${1:-2000} inputs=${2:-10000} failed=0
export SNAPSHOTS_PROFILE=soak
if [ ! -e .venv/installed-for-tests ]; then
  tests/run.sh --collect-only >/dev/null
fi
report=""
soak() { # kind, examples, what pytest runs
  local began=$SECONDS result=passed
  SNAPSHOTS_EXAMPLES=$2 .venv/bin/python -m pytest -q "$3" || { result=FAILED failed=1; }
  report+="| $1 | $2 | $result | $((SECONDS - began)) s |"$'\n'
}
soak "fleets over random nights" "$nights" tests/test_stateful.py
soak "configurations" "$inputs" tests/test_fuzz.py::test_any_configuration_is_used_or_refused
soak "server files" "$inputs" tests/test_fuzz.py::test_any_server_file_is_used_or_refused
soak "answers" "$inputs" tests/test_fuzz.py::test_any_answer_is_survived
soak "arguments" "$inputs" tests/test_fuzz.py::test_any_arguments_have_a_clear_answer
soak "environments" "$inputs" tests/test_fuzz.py::test_any_environment_serves
soak "environments of the interpreter, a hundredth of it" "$inputs" \
  tests/test_fuzz.py::test_any_environment_of_the_interpreter_serves
printf '| kind | examples | result | time |\n|---|---:|---|---:|\n%s' "$report"
exit "$failed"
