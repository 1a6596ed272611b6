"""The words that people read: all of them in one file, read as a whole, and each with a way out."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from test_docs import bare, part, table
from tools import words

# Words that a sysadmin would not use, or that mean something in this project alone.
PRIVATE = (
    *("anew", "beyond all bounds", "company", "heard", "heed", "heeds", "lacking", "mend", "moved"),
    *("not through", "patience", "settle", "settled", "shall", "stands twice", "tell of", "told"),
    *("twice over", "unsound", "whoever", "yonder"),
)
PLAIN = ("moved? write --remove-cron",)  # a directory that has been moved

# What parentheses in a message begin with, if they say what to do; "see" leads to --help.
ACTIONS = {
    *(
        "chmod",
        "choose",
        "copy",
        "correct",
        "delete",
        "give",
        "keep",
        "leave",
        "lower",
        "make",
        "name",
        "put",
    ),
    *("python", "remove", "rename", "run", "set", "take", "use", "write"),
}
# The rest begins otherwise: facts, examples, guesses at the cause.
FACTS = {
    *("3600", "587", "a", "all", "an", "as", "by", "byte", "configuration", "cron", "default"),
    *(
        "docker",
        "does",
        "dry",
        "first",
        "for",
        "found",
        "format",
        "id",
        "in",
        "it",
        "keep_",
        "limit",
    ),
    *(
        "made",
        "many",
        "min_interval_hours",
        "not",
        "nothing",
        "often",
        "or",
        "see",
        "the",
        "through",
    ),
    *("Cron", "is", "tried", "what", "Enter", "README", "September", "SSL_CERT_FILE"),
}


def lines() -> list[str]:
    """Every text of words.txt."""
    text = words.WORDS.read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("===")]


def in_parentheses(text: str) -> Iterator[str]:
    """The first word of each pair of parentheses that holds words."""
    for inner in re.findall(r"\(([^()]*)\)", text):
        found = re.match(r"\w+", inner)
        if found and " " in inner:
            yield found[0]


def pieces(message: str) -> list[str]:
    """What a row of Trouble quotes, between its …"""
    return [piece for piece in (p.strip(" :;,()") for p in message.split("…")) if piece]


def is_quoted(text: str, message: str) -> bool:
    """Does a row quote this text?"""
    shown, at = re.sub(r"\{[^{}]*\}", "…", text), 0
    for piece in pieces(message):
        found = shown.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return True


ROWS = [bare(row[0]) for row in table(part("## Trouble"))]


@pytest.mark.proves("parties-8")
def test_the_words_are_those_that_were_read() -> None:
    """Where this fails: run tests/tools/words.py, and read what has changed as somebody does who is
    woken by it: where, what, why, what to do?"""
    source = words.SOURCE.read_text(encoding="utf-8")
    assert words.WORDS.read_text(encoding="utf-8") == words.collected(source)
    assert len(lines()) > 500


@pytest.mark.proves("parties-8")
def test_no_way_to_write_a_text_escapes() -> None:
    source = '''
"""Not this docstring."""
HINT = "look at it"
raise ConfigError(f"{path}: cannot be used: {error.reason} ({HINT})")
log.warning("%s: nothing is there", name)
words = "a text " "in two parts" if x else f"{one(two.three)} or another{' in an f-string' if y else ''}"
SQL = "SELECT a, b FROM c"
'''
    assert words.collected(source).splitlines() == [
        "look at it",
        "{path}: cannot be used: {reason} (look at it)",
        "%s: nothing is there",
        "a text in two parts",
        "in an f-string",
        "{three} or another{y}",
    ]


@pytest.mark.proves("parties-8")
def test_no_stiff_or_private_word_is_among_them() -> None:
    private = re.compile(rf"\b({'|'.join(PRIVATE)})\b", re.IGNORECASE)
    found = [
        line
        for line in lines()
        if private.search(re.sub(r"\{[^{}]*\}", "", line)) and not line.startswith(PLAIN)
    ]
    assert found == []
    assert private.search("nothing was told")


@pytest.mark.proves("parties-8")
def test_what_stands_in_parentheses_is_an_action_or_a_fact() -> None:
    """A word that is in neither list is to be put into one: see ACTIONS."""
    known = {word for line in lines() for word in in_parentheses(line)}
    assert known - FACTS - ACTIONS == set()


@pytest.mark.proves("parties-8")
def test_each_message_that_asks_for_an_action_has_its_row_in_trouble() -> None:
    asking = [line for line in lines() if ACTIONS & set(in_parentheses(line))]
    assert len(asking) > 40
    missing = [line for line in asking if not any(is_quoted(line, row) for row in ROWS)]
    assert missing == []
    assert not any(is_quoted("the snapshot went to lunch (wait for it)", row) for row in ROWS)


# What a text begins with that is nothing but an order.
ORDERS = re.compile(
    "(add|check|copy|correct|let|open|remove|run|set|synchronise|unblock|use|write) "
)


@pytest.mark.proves("parties-8")
def test_each_order_stands_in_a_row_of_trouble() -> None:
    text = words.WORDS.read_text(encoding="utf-8")
    text = text[: text.index("=== Setup ===")]  # then come questions and options
    orders = [line for line in text.splitlines() if ORDERS.match(line)]
    assert len(orders) > 20
    rows = [" ".join(row).replace("`", "") for row in table(part("## Trouble"))]
    missing = [o for o in orders if not any(is_quoted(row, re.sub("{.*}", "…", o)) for row in rows)]
    assert missing == []
