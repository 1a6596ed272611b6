"""Fills in what the tables of tests/README.md say is proven by which test, from the marks there.

A test says `@pytest.mark.proves("I1", "X3")`; a file of tests may say so as a whole (pytestmark),
and a tool by a list of the same name in capitals.

usage: python tests/tools/proofs.py       write the third column of the tables anew
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
README = TESTS / "README.md"
ROW = re.compile(r"\| (?P<row>[A-Za-z][A-Za-z-]*[0-9][0-9.]*) \| (?P<what>.+?) \| (?P<proof>.*) \|")
UNPROVEN = "cannot be tested"  # how a cell begins that no test fills


def rows_named(node: ast.expr) -> Iterator[str]:
    """The rows in `pytest.mark.proves("I1", ...)`; none in any other mark."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr == "proves":
            yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))
    elif isinstance(node, (ast.List, ast.Tuple)):
        for element in node.elts:
            yield from rows_named(element)


def marks() -> dict[str, list[str]]:
    """Row -> the tests that prove it, as `file::test`, in the order of files and lines."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                for decorator in node.decorator_list:
                    for row in rows_named(decorator):
                        found.setdefault(row, []).append(f"`{path.name}::{node.name}`")
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
                for row in rows_named(node.value):
                    found.setdefault(row, []).append(f"`{path.name}`")
    for path in sorted(TESTS.glob("tools/*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PROVES":
                for row in ast.literal_eval(node.value):
                    found.setdefault(row, []).append(f"`tools/{path.name}`")
    return found


def rows(text: str) -> dict[str, tuple[str, str]]:
    """Row -> (what must hold, by what that is proven), of all tables."""
    matches = [match for match in map(ROW.fullmatch, text.splitlines()) if match]
    return {match["row"]: (match["what"], match["proof"]) for match in matches}


def filled(text: str) -> str:
    """The text with the third column of its tables made anew."""
    proven = marks()

    def line_of(line: str) -> str:
        match = ROW.fullmatch(line)
        if not match or match["proof"].startswith(UNPROVEN):
            return line
        proof = ", ".join(proven.get(match["row"], ["nothing"]))
        return f"| {match['row']} | {match['what']} | {proof} |"

    return "\n".join(map(line_of, text.splitlines())) + "\n"


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
