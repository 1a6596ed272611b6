"""Collects the words of snapshots.py that people read, for tests/words.txt.

Every text of two words or more that stands in the source, but for docstrings and what is for
machines (SQL, style sheets, regular expressions): so no message can be left out by the way it is
shown. {name} stands for a value. The texts are in the order of the source, part by part.

usage: python tests/tools/words.py       write tests/words.txt anew; then read what has changed
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
SOURCE = TESTS.parent / "snapshots.py"
WORDS = TESTS / "words.txt"
FOR_MACHINES = re.compile(  # SQL, style sheets, regular expressions, the page's tags
    r"\s*(:root|SELECT|INSERT|UPDATE|DELETE|CREATE|PRAGMA|ALTER|DROP|ON CONFLICT)\b"
    r"|.*(\(\?:|\[\^|\\[bdswS.]|\{[a-z-]+:|<(rect|svg|meta|path)\b|\(\[0-9)",
    re.DOTALL,
)
TWO_WORDS = re.compile(r"[^\W\d_]{2,}[^\w\s]{0,2} +[^\w\s]{0,2}[^\W\d_]{2,}")


def name_of(node: ast.AST) -> str:
    """What stands for a value: the name of what it is made from; … if that has none."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call):
        return name_of(node.args[0] if node.args else node.func)
    return next((name for name in map(name_of, ast.iter_child_nodes(node)) if name != "…"), "…")


def template_of(node: ast.JoinedStr, constants: Mapping[str, str]) -> str:
    """An f-string as people write one down; the file's own constants are filled in."""
    shown = ""
    for value in node.values:
        if isinstance(value, ast.Constant):
            shown += str(value.value)
        elif isinstance(value, ast.FormattedValue):
            name = name_of(value.value)
            shown += constants.get(name, "{" + name + "}")
    return shown


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every text literal that is no docstring."""
    skipped: set[int] = set()
    constants = {
        ast.unparse(node.targets[0]): str(node.value.value)
        for node in ast.iter_child_nodes(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            skipped.update(id(part) for part in node.values)
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            yield node.lineno, template_of(node, constants)


def collected(source: str) -> str:
    """The content of words.txt."""
    banners = [
        (number, name)
        for number, line in enumerate(source.splitlines(), 1)
        for name in re.findall(r"^# === (.+?) =+$", line)
    ]
    found = sorted(
        (line, " ".join(text.split()))
        for line, text in texts(ast.parse(source))
        if TWO_WORDS.search(text) and not FOR_MACHINES.match(text)
    )
    lines: list[str] = []
    seen: set[str] = set()
    for number, text in found:
        while banners and banners[0][0] < number:
            lines += ["", f"=== {banners.pop(0)[1]} ==="]
        if text not in seen:
            seen.add(text)
            lines.append(text)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    WORDS.write_text(collected(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
