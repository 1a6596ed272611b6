"""The scan that looks at every test finds what is planted, and only that."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from tools import planted_leaks
from tools.planted_leaks import FORMS, PLACES, SOURCES

LEAKS = [
    *(f"test_leak_in_a_form[{form}]" for form in FORMS),
    *(f"test_leak_of_a_credential[{source}]" for source in SOURCES),
]


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each planted test ended with; "" where it was well."""
    report = tmp_path_factory.mktemp("planted") / "report.xml"
    file = Path(planted_leaks.__file__)
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", str(file)]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False)
    cases = list(ElementTree.parse(report).iter("testcase"))
    assert cases, done.stdout
    assert not [case.get("name") for case in cases if case.find("failure") is not None], done.stdout
    return {
        str(case.get("name")): "".join(error.text or "" for error in case.iter("error"))
        for case in cases
    }


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_found_in_every_form_and_wherever_its_credential_comes_from(
    errors: dict[str, str], name: str
) -> None:
    assert errors[name].startswith("credentials leaked:\n")
    assert "... in output" in errors[name]


@pytest.mark.proves("I21", "W10")
@pytest.mark.parametrize("place", PLACES)
def test_a_leak_is_found_wherever_it_is_and_its_place_is_reported(
    errors: dict[str, str], place: str
) -> None:
    told = errors[f"test_leak_at[{place}]"].splitlines()
    assert any(line.endswith(f"... in {PLACES[place][0]}") for line in told)


def test_a_credential_at_home_is_no_leak(errors: dict[str, str]) -> None:
    at_home = {name: error for name, error in errors.items() if name.startswith("test_home")}
    assert len(at_home) == len(SOURCES) + 1
    assert set(at_home.values()) == {""}


def test_nothing_else_is_planted(errors: dict[str, str]) -> None:
    expected = len(FORMS) + len(SOURCES) + len(PLACES)
    assert sum(error != "" for error in errors.values()) == expected
