"""The tests that matter most, on every Python that the script claims and this machine has.

Each Python runs them twice: with the oldest requests and python-dateutil that requirements.txt
allows and the oldest urllib3 that works with them, and with the newest there are for it. On the
oldest Python it is seen besides that nothing older than these bounds would do. Pythons are looked
for on the PATH, in /usr and in pyenv's directory; what they need is installed into .venv/pythons,
and stays there.

usage: .venv/bin/python tests/tools/pythons.py [--only 3.9] [arguments for pytest]
"""

from __future__ import annotations

import argparse
import datetime
import glob
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PROVES = ["parties-5"]  # of the tables in tests/README.md
ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".venv" / "pythons"
TESTS = ["test_run", "test_config", "test_retention", "test_http", "test_transport"]
# The same work on every Python, and much of it; or a comparison with what comes with Python.
LEFT_OUT = ["as_configparser", "year_of_nights", "restic", "too_large", "no_time_from_the_answer"]
TOOLS = ["aiosmtpd", "hypothesis", "pytest", "pytest-xdist", "trustme"]
# Of each package, the last version before the oldest that will do.
TOO_OLD = {"requests": "2.25.1", "python-dateutil": "2.7.5", "urllib3": "1.26.7"}
# What old packages leave open until the interpreter ends, and call what is old by now.
FORGIVEN = ["ResourceWarning", "DeprecationWarning", "pytest.PytestUnraisableExceptionWarning"]


def lowest_python() -> tuple[int, int]:
    head = (ROOT / "snapshots.py").read_text(encoding="utf-8")
    found = re.search(r'^# requires-python = ">=(\d+)\.(\d+)"$', head, re.MULTILINE)
    assert found
    return int(found[1]), int(found[2])


def bounds() -> dict[str, str]:
    """The lower bounds in requirements.txt, which the head of the script repeats, and the oldest
    urllib3 (it comes with requests) that works with them."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    return {**dict(line.split(">=") for line in lines), "urllib3": "1.26.8"}


def candidates() -> Iterator[Path]:
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin", "/usr/local/bin"]
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    for folder in [*folders, *glob.glob(f"{pyenv}/versions/*/bin")]:
        yield from sorted(Path(folder).glob("python3*"))


def pythons() -> dict[tuple[int, int], Path]:
    """Of each version from the lowest on, the newest interpreter that can make environments."""
    probe = "import sys, venv, ensurepip; print(*sys.version_info[:3])"
    found: dict[tuple[int, int], tuple[int, Path]] = {}
    seen = set()
    for path in candidates():
        real = path.resolve()
        if not re.fullmatch(r"python3(\.\d+)?", path.name) or real in seen:
            continue
        seen.add(real)
        answer = subprocess.run(
            [real, "-I", "-c", probe], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0:
            major, minor, patch = map(int, answer.stdout.split())
            if (major, minor) >= lowest_python():
                found[major, minor] = max(found.get((major, minor), (-1, real)), (patch, real))
    return {version: path for version, (_, path) in sorted(found.items())}


def pip(python: Path, *args: str) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *args]
    subprocess.run(command, check=True)


def environment(version: tuple[int, int], python: Path) -> Path:
    """An interpreter of its own, with what runs the tests."""
    folder = CACHE / ".".join(map(str, version))
    own = folder / "bin" / "python"
    note = folder / "installed"
    if not note.exists() or note.read_text(encoding="utf-8") != " ".join(TOOLS):
        subprocess.run([str(python), "-I", "-m", "venv", "--clear", str(folder)], check=True)
        pip(own, *TOOLS)
        note.write_text(" ".join(TOOLS), encoding="utf-8")
    return own


def packages(python: Path, name: str, wanted: Sequence[str]) -> Path:
    """A directory with these packages; the newest are those of today."""
    folder = CACHE / f"{python.parent.parent.name}-{name}"
    text = " ".join(wanted)
    if "==" not in text:
        text += f" on {datetime.date.today()}"  # noqa: DTZ011
    note = folder / "installed"
    if not note.exists() or note.read_text(encoding="utf-8") != text:
        shutil.rmtree(folder, ignore_errors=True)
        pip(python, "--target", str(folder), *wanted)
        note.write_text(text, encoding="utf-8")
    return folder


def passes(python: Path, folder: Path, chosen: str, *args: str, old: bool) -> tuple[bool, str]:
    """(whether the chosen tests pass there, what pytest says)"""
    forgiven = [f"-Wignore::{name}" for name in FORGIVEN] if old else []
    tests = [f"tests/{name}.py" for name in TESTS]
    result = subprocess.run(
        [python, "-m", "pytest", "-q", "-x", "-k", chosen, *forgiven, *tests, *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder), "SNAPSHOTS_EXAMPLES": "15"},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", metavar="3.N", help="this Python alone")
    args, more = parser.parse_known_args()
    allowed = bounds()
    sets = {"oldest": [f"{n}=={v}" for n, v in allowed.items()], "newest": list(allowed)}
    found = pythons()
    good = True
    for version, path in found.items():
        shown = ".".join(map(str, version))
        if args.only not in (None, shown):
            continue
        python = environment(version, path)
        for name, wanted in sets.items():
            began = time.monotonic()
            folder = packages(python, name, wanted)
            chosen = " and ".join(f"not {word}" for word in LEFT_OUT)
            passed, said = passes(python, folder, chosen, "-n", "4", *more, old=name == "oldest")
            if not passed:
                print(said)
            good &= passed
            names = re.findall(
                r"(requests|python_dateutil|urllib3)-([\d.]+\d)", str(os.listdir(folder))
            )
            with_these = ", ".join(f"{n.replace('_', '-')} {v}" for n, v in sorted(set(names)))
            seconds = time.monotonic() - began
            verdict = "passed" if passed else "FAILED"
            print(f"{verdict}: Python {shown} with {with_these}, {seconds:.0f} s", flush=True)
        if version == min(found):
            for package, old in TOO_OLD.items():
                wanted = [f"{n}=={old if n == package else v}" for n, v in allowed.items()]
                folder = packages(python, f"too-old-{package}", wanted)
                if passes(python, folder, "one_run or speaks_no_tls or same_instant", old=True)[0]:
                    print(f"FAILED: {package} {old} does as well, the bound is not the lowest")
                    good = False
    print(f"{len(found)} Pythons: {', '.join('.'.join(map(str, v)) for v in found)}")
    return 0 if good and found else 1


if __name__ == "__main__":
    sys.exit(main())
