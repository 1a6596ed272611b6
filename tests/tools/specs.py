"""The vendors' API specifications, where a copy of them lies beside the project."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Callable

import pytest

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "specs"

needed = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the vendors' specifications are not beside the project"
)


@functools.cache
def text_of(name: str) -> str:
    return (FOLDER / f"{name}.json").read_text(encoding="utf-8")


def document(name: str) -> dict[str, Any]:
    """An OpenAPI document, for the caller alone. name: "hetzner", "strict/hetzner" and so on."""
    found: dict[str, Any] = json.loads(text_of(name))
    return found


def drop(node: Any, key: str, when: Callable[[dict[str, Any]], bool]) -> None:
    """Take a key out of every schema of which `when` is true."""
    if isinstance(node, dict):
        if key in node and when(node):
            del node[key]
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            drop(inner, key, when)
