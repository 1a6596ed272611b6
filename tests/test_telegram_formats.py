"""What Telegram itself makes of the messages that the script sends.

TDLib is Telegram's own library: the server that bots talk to reads MarkdownV2, HTML and the old
Markdown with this very code. The package tdjson from PyPI holds it, and parsing needs no network.
"""

from __future__ import annotations

import json
import re
from typing import Any, Optional

import fakes as fake
import pytest
import tdjson
from conftest import a_server, examples
from hypothesis import assume, given
from hypothesis import strategies as st
from test_notify import HTML, MARKDOWN, MARKDOWN_V2, SOME_VALUES, Style, composed, parts

import snapshots

MODES: dict[str, dict[str, Any]] = {
    "HTML": {"@type": "textParseModeHTML"},
    "MarkdownV2": {"@type": "textParseModeMarkdown", "version": 2},
    "Markdown": {"@type": "textParseModeMarkdown", "version": 1},
}
KINDS = {
    "textEntityTypePreCode": "pre",
    "textEntityTypeTextUrl": "text_link",
    "textEntityTypeBlockQuote": "blockquote",
    "textEntityTypeExpandableBlockQuote": "expandable_blockquote",
}
many = examples(500)
Entities = list[dict[str, Any]]


def execute(request: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(tdjson.td_execute(json.dumps(request).encode()) or b"{}")
    return answer


execute({"@type": "setLogVerbosityLevel", "new_verbosity_level": 0})


def as_telegram_reads_it(text: str, mode: str) -> Optional[tuple[str, Entities]]:
    """(the text that is shown, its entities); None if Telegram refuses it."""
    answer = execute({"@type": "parseTextEntities", "text": text, "parse_mode": MODES[mode]})
    if answer["@type"] == "error":
        return None
    entities = []
    for found in answer["entities"]:
        kind = found["type"]
        name = KINDS.get(kind["@type"], kind["@type"].removeprefix("textEntityType").lower())
        entity = {"type": name, "offset": found["offset"], "length": found["length"]}
        if name == "text_link":
            entity["url"] = kind["url"].removeprefix("http://").removesuffix("/")  # as it adds them
        entities.append(entity)
    return answer["text"], entities


def looks(shown: tuple[str, Entities]) -> list[tuple[str, frozenset[tuple[str, str]]]]:
    """How each unit of a text looks: its styles. White space looks the same in any."""
    text, entities = shown
    units = text.encode("utf-16-le")
    found = []
    for index in range(len(units) // 2):
        unit = units[2 * index : 2 * index + 2].decode("utf-16-le", "surrogatepass")
        styles = frozenset(
            (entity["type"], entity.get("url", "").removesuffix("/"))
            for entity in entities
            if entity["offset"] <= index < entity["offset"] + entity["length"]
        )
        found.append((unit, frozenset() if unit.isspace() else styles))
    return found


def sent(template: str, mode: str, values: dict[str, str]) -> tuple[str, str]:
    """(the text, its parse_mode) of the message that is sent for a template."""
    if mode == "Markdown":
        return snapshots.fill_html(snapshots.html_from_markdown(template), values), "HTML"
    filler = snapshots.fill_html if mode == "HTML" else snapshots.fill_markdown_v2
    return filler(template, values), mode


def assert_shown(
    mode: str, stretches: list[tuple[Style, list[str]]], values: dict[str, str]
) -> None:
    template, text, entities = composed(stretches, values)
    message, parse_mode = sent(template, mode, values)
    shown = as_telegram_reads_it(message, parse_mode)
    assert shown is not None, message
    assert looks(shown) == looks((text, entities))


@pytest.mark.proves("parties-3")
@many
@given(parts(HTML), SOME_VALUES)
def test_html_arrives_as_it_was_meant(
    stretches: list[tuple[Style, list[str]]], values: dict[str, str]
) -> None:
    assert_shown("HTML", stretches, values)


@pytest.mark.proves("parties-3")
@many
@given(parts(MARKDOWN_V2), SOME_VALUES)
def test_markdown_v2_arrives_as_it_was_meant(
    stretches: list[tuple[Style, list[str]]], values: dict[str, str]
) -> None:
    assert_shown("MarkdownV2", stretches, values)


@pytest.mark.proves("parties-3")
@many
@given(parts(MARKDOWN), SOME_VALUES)
def test_markdown_arrives_as_it_was_meant(
    stretches: list[tuple[Style, list[str]]], values: dict[str, str]
) -> None:
    assert_shown("Markdown", stretches, values)


# Telegram shows nothing of an empty pair of marks, and takes the first word of a block of code for
# a language though more follows it in its line; here these stay as they were written.
EMPTY = re.compile(r"\*\*|__|``")
WORDS = ["a", "b", "é", "😀", " ", "\n", "&", "<", ">", ".", "!", "#"]
LINKS = ["[a](b.example)", "[a *b*](http://b.example/_)"]
BLOCKS = ["```a```", "```\na b\n```", "```sh\na *b*_```", "``` a```"]
old_markdown = st.one_of(
    st.lists(st.sampled_from([*WORDS, *LINKS, *"*_`\\", "\\_"]))
    .map("".join)
    .filter(lambda text: not EMPTY.search(text)),
    st.lists(st.sampled_from([*WORDS, *BLOCKS]))
    .map("".join)
    .filter(lambda text: "````" not in text),
)


@pytest.mark.proves("parties-3")
@many
@given(old_markdown)
def test_old_markdown_is_shown_as_telegram_would_have_shown_it(template: str) -> None:
    """It is sent as HTML. What Telegram itself refuses, a mark without its partner, is not asked."""
    meant = as_telegram_reads_it(template, "Markdown")
    assume(meant is not None)
    assert meant
    message, mode = sent(template, "Markdown", {})
    shown = as_telegram_reads_it(message, mode)
    assert shown is not None
    assert looks(shown) == looks(meant)


markup = st.text(alphabet="_*`[]()~|>#+-=.!\\ \nab😀é{}<&;/", max_size=20)
tags = st.lists(
    st.sampled_from(
        [*WORDS[:7], ">", '"', "&lt;", "&amp;", "&quot;", "&#65;", "&copy;", "<x>", "</x>"]
        + [f"<{end}{tag}>" for tag in ("b", "i", "u", "s", "code", "pre") for end in ("", "/")]
        + ["<blockquote>", "</blockquote>", '<a href="b.example">', "</a>"]
    ),
    max_size=8,
).map("".join)


@pytest.mark.proves("parties-3")
@many
@given(
    st.one_of(
        st.tuples(tags, st.just("HTML")),
        st.tuples(markup, st.sampled_from(["Markdown", "MarkdownV2"])),
    )
)
def test_the_fake_reads_markup_as_telegram_does(case: tuple[str, str]) -> None:
    text, mode = case
    assume(not re.search(r"\[\]|\]\([^)]*$", text))  # links of nothing or without an end
    parsers = {
        "HTML": fake.parse_html,
        "Markdown": fake.parse_markdown,
        "MarkdownV2": fake.parse_markdown_v2,
    }
    read = as_telegram_reads_it(text, mode)
    try:
        own = parsers[mode](text)
    except ValueError:
        assert read is None
        return
    assert read is not None
    assert looks(own) == looks(read)


@pytest.mark.proves("parties-3")
@many
@given(st.text("ab_*[]()<>&`~|.!\\😀é", max_size=60), st.booleans(), st.sampled_from(["", *MODES]))
def test_the_built_in_message_arrives_with_any_error(error: str, success: bool, mode: str) -> None:
    section = snapshots.TelegramSection(parse_mode=mode or "HTML")
    report = snapshots.Report(a_server("my_*[server]`"), success, error="" if success else error)
    (body, *_) = snapshots.telegram_bodies(section, report, "my_host")
    shown = as_telegram_reads_it(body["text"], body["parse_mode"])
    assert shown is not None
    assert "Server: my_*[server]` (hetzner 1)\n" in shown[0]
    assert success or f"\nError: {error}\n" in shown[0]
