"""What people are told, and how it reaches them: Telegram, webhook and e-mail."""

from __future__ import annotations

import collections
import contextlib
import email
import email.policy
import email.utils
import fcntl
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Optional

import fakes as fake
import pytest
import trustme
from conftest import PostOffice, Project, Result, a_server, certified
from fakes import network
from fakes.mail import HttpsServer
from hypothesis import example, given
from hypothesis import strategies as st

import snapshots
from snapshots import CUT, SecretText, TelegramSection, WebhookSection

SEND = "POST /tg/sendMessage"
HOOK = "POST /hook"
CREATE = "POST /hz/servers/{id}/actions/create_image"

# --- rendering: templates -------------------------------------------------------------------------

VALUES = {"server_name": "my_server", "error": "{server_name} <b>", "status": "SUCCESS"}


@pytest.mark.proves("N10")
@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ("{server_name}", "my_server"),
        ("{server_name}{server_name}: {status}", "my_servermy_server: SUCCESS"),
        ("{nobody} {server_name}", "{nobody} my_server"),
        ("{error}", "{server_name} <b>"),
        ("{server_{status}}", "{server_SUCCESS}"),
        ("{{server_name}}", "{my_server}"),
        ("{server_name.__class__}", "{server_name.__class__}"),
        ("{server_name!r} {server_name:>50000000}", "{server_name!r} {server_name:>50000000}"),
        ("{ server_name }", "{ server_name }"),
        ("{} {0} { }} {", "{} {0} { }} {"),
        ("%s %(status)s ${status}", "%s %(status)s $SUCCESS"),
        ("\\1 \\g<0> {status}", "\\1 \\g<0> SUCCESS"),
    ],
)
def test_a_template_is_filled_by_plain_replacement(template: str, text: str) -> None:
    assert snapshots.fill(template, VALUES) == text


ANY_TEXT = st.one_of(
    st.text(max_size=12),
    st.text(alphabet="_*`[](){}<>&\\~|#+-=.!'\" \nab😀é", max_size=12),
    st.sampled_from(
        ["{server_name}", "{error}", "\\", "```", "&lt;", "</b>", "](", "<oops>", "😀"]
    ),
)
NAMES = ["server_name", "error", "hostname"]
GIVEN_VALUES = st.fixed_dictionaries(dict.fromkeys(NAMES, ANY_TEXT))
SOME_VALUES = st.fixed_dictionaries({name: ANY_TEXT.filter(bool) for name in NAMES})


@pytest.mark.proves("N10")
@given(
    st.lists(st.one_of(st.text("ab{}_*é 😀"), st.sampled_from(NAMES).map("{{{}}}".format))),
    GIVEN_VALUES,
)
def test_filling_is_one_pass(parts: list[str], values: dict[str, str]) -> None:
    """Whatever the values hold, each place is filled once and the rest of the template stays."""
    template = "".join(parts)
    pieces = re.split(r"(\{(?:server_name|error|hostname)\})", template)
    assert snapshots.fill(template, values) == "".join(
        values[piece[1:-1]] if index % 2 else piece for index, piece in enumerate(pieces)
    )


def test_a_payload_is_filled_in_its_texts_at_any_depth() -> None:
    payload = {
        "a": "{server_name}",
        "{server_name}": ["{status}", {"b": ["{error}", "{nobody}"]}, 1, 2.5, None, True],
        "c": {},
    }
    assert snapshots.change_texts(payload, lambda text, _: snapshots.fill(text, VALUES)) == {
        "a": "my_server",
        "{server_name}": ["SUCCESS", {"b": ["{server_name} <b>", "{nobody}"]}, 1, 2.5, None, True],
        "c": {},
    }
    assert payload["a"] == "{server_name}"


# --- rendering: Telegram ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """A kind of markup: what stands before and after it in a template."""

    kind: str
    before: str
    after: str


LINK = "https://example.org/"
MARKDOWN = [
    Style("", "", ""),
    Style("bold", "*", "*"),
    Style("italic", "_", "_"),
    Style("code", "`", "`"),
    Style("pre", "```", "```"),
    Style("text_link", "[", f"]({LINK})"),
]
MARKDOWN_V2 = [
    Style("", "", ""),
    Style("bold", "*", "*"),
    Style("italic", "_", "_"),
    Style("underline", "__", "__"),
    Style("strikethrough", "~", "~"),
    Style("spoiler", "||", "||"),
    Style("code", "`", "`"),
    Style("pre", "```\n", "```"),
    Style("text_link", "[", f"]({LINK})"),
]
HTML = [
    Style("", "", ""),
    Style("bold", "<b>", "</b>"),
    Style("italic", "<i>", "</i>"),
    Style("code", "<code>", "</code>"),
    Style("pre", "<pre>", "</pre>"),
    Style("blockquote", "<blockquote>", "</blockquote>"),
    Style("text_link", f'<a href="{LINK}">', "</a>"),
]


def parts(styles: list[Style]) -> st.SearchStrategy[list[tuple[Style, list[str]]]]:
    """Stretches of a template, each with its markup, of literal words and of {names}."""
    words = st.one_of(
        st.sampled_from([f"{{{name}}}" for name in NAMES]), st.text("ab é😀:", min_size=1)
    )
    inner = st.lists(words, min_size=1, max_size=3)
    return st.lists(st.tuples(st.sampled_from(styles), inner), max_size=6)


def composed(
    stretches: list[tuple[Style, list[str]]], values: dict[str, str]
) -> tuple[str, str, list[dict[str, Any]]]:
    """(template, the text that people should see, its entities)"""
    template = text = ""
    entities = []
    for style, words in stretches:
        template += f" {style.before}{''.join(words)}{style.after}"
        text += " "
        shown = "".join(values[w[1:-1]] if w[:1] == "{" else w for w in words)
        if style.kind and shown:
            more = {"url": LINK} if style.kind == "text_link" else {}
            place = {"offset": fake.utf16_units(text), "length": fake.utf16_units(shown)}
            entities.append({"type": style.kind, **place, **more})
        text += shown
    return template, text, entities


def markdown(template: str, values: dict[str, str]) -> tuple[str, list[dict[str, Any]]]:
    """What Telegram shows of a template in legacy Markdown, and how."""
    return fake.parse_html(snapshots.fill_html(snapshots.html_from_markdown(template), values))


@given(parts(MARKDOWN), GIVEN_VALUES)
def test_markdown_values_arrive_as_they_are_in_every_place(
    stretches: list[tuple[Style, list[str]]], values: dict[str, str]
) -> None:
    template, text, entities = composed(stretches, values)
    assert markdown(template, values) == (text, entities)


@given(parts(MARKDOWN_V2), SOME_VALUES)
def test_markdown_v2_values_arrive_as_they_are_in_every_place(
    stretches: list[tuple[Style, list[str]]], values: dict[str, str]
) -> None:
    template, text, entities = composed(stretches, values)
    assert fake.parse_markdown_v2(snapshots.fill_markdown_v2(template, values)) == (text, entities)


@given(parts(HTML), GIVEN_VALUES)
def test_html_values_arrive_as_they_are_in_every_place(
    stretches: list[tuple[Style, list[str]]], values: dict[str, str]
) -> None:
    template, text, entities = composed(stretches, values)
    assert fake.parse_html(snapshots.fill_html(template, values)) == (text, entities)


@given(ANY_TEXT)
@example(")\\")
@example('"><b>')
def test_a_value_in_the_address_of_a_link_stays_in_it(value: str) -> None:
    values = {"error": value}
    legacy = markdown("[log](https://x.example/{error})", values)
    v2 = fake.parse_markdown_v2(
        snapshots.fill_markdown_v2("[log](https://x.example/{error})", values)
    )
    page = fake.parse_html(
        snapshots.fill_html('<a href="https://x.example/{error}">log</a>', values)
    )
    place = {"type": "text_link", "offset": 0, "length": 3, "url": f"https://x.example/{value}"}
    assert v2 == ("log", [place])
    if not value.endswith(("'", '"')):  # where the fake strips quotes
        assert legacy == page == ("log", [place])


@pytest.mark.parametrize("value", ["2 snapshots exist", "line\nnext", "web"])
def test_a_value_right_behind_three_backticks_is_no_language(value: str) -> None:
    """Telegram takes a first word behind ``` as the name of a language and does not show it."""
    text = snapshots.fill_markdown_v2("```{error}```", {"error": value})
    assert fake.parse_markdown_v2(text)[0] == value
    assert re.match(r"```\S+\s", text) is None
    text = snapshots.fill_markdown_v2("```Error:{error}```", {"error": value})
    assert fake.parse_markdown_v2(text)[0] == f"Error:{value}"


@pytest.mark.parametrize(
    ("template", "text", "kinds"),
    [
        ("a lone * stays", "a lone * stays", []),
        ("a lone _ stays", "a lone _ stays", []),
        ("a lone ` stays", "a lone ` stays", []),
        ("a lone [ stays, ] too", "a lone [ stays, ] too", []),
        ("`code and a lone *`", "code and a lone *", ["code"]),
        ("*bold* and a lone *", "bold and a lone *", ["bold"]),
        ("\\*{server_name}\\*", "*my_server*", []),
        ("a \\ stays", "a \\ stays", []),
        ("{unknown_name} stays", "{unknown_name} stays", []),
        ("*{unknown_name}*", "{unknown_name}", ["bold"]),
        ("_{server_name}_", "my_server", ["italic"]),
        ("*{server_name}", "*my_server", []),
        ("```\\*_```", "\\*_", ["pre"]),
        ("[{server_name}](https://a.example/{error})", "my_server", ["text_link"]),
        ("", "", []),
        ("**", "**", []),
        ("<b>{server_name}</b> & co", "<b>my_server</b> & co", []),
    ],
)
def test_marks_without_a_partner_stay(template: str, text: str, kinds: list[str]) -> None:
    shown, entities = markdown(template, VALUES)
    assert (shown, [entity["type"] for entity in entities]) == (text, kinds)


@pytest.mark.parametrize(
    "template",
    [
        "*bold* _italic_ `code`",
        "*one*two*three*",
        "a_b_c",
        "[a link](https://example.org/)",
        "*x* [one](https://one.example/) [two](https://two.example/)",
        "😀 *bold* 😀 `x`",
        "\\_not italic\\_ _italic_",
        "_*_ *_*",
    ],
)
def test_markup_of_a_template_means_what_telegram_takes_it_for(template: str) -> None:
    assert markdown(template, {}) == fake.parse_markdown(template)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("```\n{error}```", "\nvalue"),  # the newline of the template goes, the value's stays
        ("```sh\nls -l```", "ls -l"),
        ("```{error}```", "\nvalue"),
        ("```ls```", "ls"),
    ],
)
def test_the_first_line_of_a_block_of_code_is_not_shown(template: str, text: str) -> None:
    place: dict[str, Any] = {"type": "pre", "offset": 0, "length": len(text)}
    assert markdown(template, {"error": "\nvalue"}) == (text, [place])


def test_a_bracketed_word_before_a_link_is_no_part_of_the_link() -> None:
    text, (link,) = markdown("[db] see [the log](https://example.org/)", {})
    units = slice(link["offset"], link["offset"] + link["length"])
    assert (text[units], link["url"]) == ("the log", "https://example.org/")


@given(st.text(max_size=30))
def test_length_is_counted_in_utf16_units(text: str) -> None:
    assert snapshots.utf16_length(text) == len(text.encode("utf-16-le")) // 2


@given(st.text(alphabet="ab é😀", max_size=60), st.integers(len(CUT), 40))
def test_a_cut_text_is_a_beginning_and_says_that_it_was_cut(text: str, limit: int) -> None:
    short = snapshots.utf16_cut(text, limit)
    assert snapshots.utf16_length(short) <= limit
    if snapshots.utf16_length(text) <= limit:
        assert short == text
    else:
        assert short.endswith(CUT)
        kept = short[: -len(CUT)]
        assert text.startswith(kept)
        assert snapshots.utf16_length(short) >= limit - 1  # only half an emoji may be missing


@pytest.mark.proves("N3")
@pytest.mark.parametrize("parse_mode", ["Markdown", "MarkdownV2", "HTML", "none"])
@pytest.mark.parametrize(
    ("error", "is_cut"),
    [
        ("a" * 4096, False),
        ("a" * 4097, True),
        ("😀" * 2048, False),
        ("😀" * 2049, True),
        ("a" + "😀" * 2048, True),
        ("a" * 4089 + "😀" * 4, True),
        ("a" * 4088 + "😀" * 5, True),
    ],
)
def test_a_telegram_message_has_at_most_4096_units(
    parse_mode: str, error: str, is_cut: bool
) -> None:
    section = telegram_section(parse_mode=parse_mode, message_failure="{error}")
    body = snapshots.telegram_bodies(section, a_report(False, error=error), "host")[0]
    assert (displayed(body) != error) == is_cut == displayed(body).endswith(CUT)


@pytest.mark.parametrize("parse_mode", ["Markdown", "MarkdownV2", "HTML", "none"])
def test_a_long_value_is_cut_and_the_rest_of_the_message_arrives_as_it_is(parse_mode: str) -> None:
    """The formatting and what stands behind the value, too."""
    bold = {"HTML": "<b>{server_name}</b>", "none": "{server_name}"}.get(
        parse_mode, "*{server_name}*"
    )
    section = telegram_section(
        parse_mode=parse_mode, message_failure=f"{bold}\n{{error}}\non {{hostname}}"
    )
    body = snapshots.telegram_bodies(section, a_report(False, error="x" * 10_000), "host")[0]
    text = displayed(body)
    assert text.startswith("my_server\nxxx")
    assert text.endswith(f"{CUT}\non host")
    assert ("parse_mode" in body) == (parse_mode != "none")


# --- rendering: whole messages -----------------------------------------------------------------------


def gone(name: str) -> snapshots.Snapshot:
    """A snapshot that was deleted."""
    return snapshots.Snapshot("1", name, None, "1", size_gb=1.5)


def a_report(success: bool = True, **more: Any) -> snapshots.Report:
    fields: dict[str, Any] = {
        "snapshot_name": "my_server-20250601050000",
        "snapshot_id": "150000001",
        "total_snapshots": 2,
        "error": "" if success else "it broke",
        "seconds": 95.0,
        "ended": datetime(2025, 6, 1, 3, 1, 35, tzinfo=timezone.utc),
        **more,
    }
    name = fields.pop("server_name", "my_server")
    return snapshots.Report(a_server(name, "11"), success=success, **fields)


def telegram_section(**more: Any) -> TelegramSection:
    return TelegramSection(bot_token=SecretText("1:x"), chat_id="123", **more)


def displayed(body: dict[str, Any]) -> str:
    """The text that Telegram would show, after every check that Telegram makes."""
    text, mode = body["text"], body.get("parse_mode")
    assert text.strip()
    assert len(text.encode("utf-8")) <= 32768
    assert "\0" not in text
    if mode:
        assert "entities" not in body
        text, _ = fake.Telegram.PARSERS[mode.lower()](text)
    else:
        assert fake.fault_in_entities(text, body.get("entities", [])) == ""
    assert fake.utf16_units(text) <= 4096
    return str(text)


def test_every_variable_has_its_value() -> None:
    report = a_report(False, deleted=(gone("a"), gone("b")), warnings=("the brake", "open file"))
    assert snapshots.values_of(report, "host") == {
        "script": "snapshots.py",
        "provider": "hetzner",
        "server_name": "my_server",
        "server_id": "11",
        "droplet_name": "my_server",
        "droplet_id": "11",
        "snapshot_name": "my_server-20250601050000",
        "snapshot_id": "150000001",
        "total_snapshots": "2",
        "snapshot_info": "2 snapshots exist",
        "status": "FAILURE",
        "hostname": "host",
        "timestamp": "2025-06-01 05:01:35",
        "error": "it broke",
        "duration": "1 min 35 s",
        "deleted_snapshots": "a, b",
        "freed_gb": "3.0",
        "kept_reasons": "none",
        "warnings": "the brake; open file",
        "summary": "my_server: FAILURE: it broke",
    }
    unknown = snapshots.values_of(a_report(total_snapshots=None), "host")
    assert (unknown["total_snapshots"], unknown["snapshot_info"]) == (
        "unknown",
        "unknown snapshots exist",
    )
    assert (unknown["deleted_snapshots"], unknown["warnings"]) == ("none", "none")


@pytest.mark.parametrize(
    ("template", "success", "filled"),
    [
        ("x", True, "x"),
        ("x {error}", True, "x {error}"),
        ("x", False, "x\nError: {error}"),
        ("x {error} y", False, "x {error} y"),
        ("x {summary} y", False, "x {summary} y"),
        ("{error_text}", False, "{error_text}\nError: {error}"),
    ],
)
def test_a_failure_template_gets_a_line_with_the_error(
    template: str, success: bool, filled: str
) -> None:
    section = TelegramSection(message_success=template, message_failure=template)
    assert snapshots.own_template(section, a_report(success)) == filled


VISIBLE_TEXT = ANY_TEXT.filter(lambda text: snapshots.clean(text) != "")
TEMPLATES = {
    "Markdown": "*{status}* _{server_name}_ `{server_name}` ```{error}``` {server_name} {no_such}",
    "MarkdownV2": "*{status}* _{server_name}_ `{server_name}` ```\n{error}``` {server_name} {no_such}",
    "HTML": "<b>{status}</b> <i>{server_name}</i> <code>{server_name}</code> <pre>{error}</pre>"
    " {server_name} {no_such}",
    "none": "{status} {server_name} {server_name} {error} {server_name} {no_such}",
}


@pytest.mark.proves("I24", "N4")
@pytest.mark.parametrize("parse_mode", sorted(TEMPLATES))
@given(name=VISIBLE_TEXT, error=VISIBLE_TEXT)
@example(name="my_server", error="<oops> & a lone *")
@example(name="a\0b", error="\0")
@example(name="half a sign: \ud83d", error="\udfff")
@example(name="x", error="'\"" * 2100)
@example(name="x", error="&" * 4060)
@example(name="x" * 1500, error="😀" * 100)
def test_every_parse_mode_shows_values_as_they_are(parse_mode: str, name: str, error: str) -> None:
    section = telegram_section(parse_mode=parse_mode, message_failure=TEMPLATES[parse_mode])
    report = a_report(False, server_name=name, error=error)
    bodies = snapshots.telegram_bodies(section, report, "host")
    name, error = snapshots.clean(name), snapshots.clean(error)
    text = f"FAILURE {name} {name} {error} {name} {{no_such}}"
    first, *others = map(displayed, bodies)
    if fake.utf16_units(text) <= 4000:
        assert first == text
    else:
        assert first == text or CUT in first
    for other in others:  # what goes out where Telegram cannot parse the first
        assert error in other or CUT in other
    assert all("parse_mode" not in body for body in bodies[1:])
    assert all(body["chat_id"] == "123" for body in bodies)
    assert all("entities" not in body for body in bodies[1:])


@pytest.mark.parametrize("success", [True, False])
@given(name=ANY_TEXT, error=st.text(max_size=30), warning=st.text(max_size=30))
def test_the_built_in_text_arrives_whatever_it_holds(
    success: bool, name: str, error: str, warning: str
) -> None:
    report = a_report(
        success,
        server_name=name,
        error=error,
        warnings=(warning,),
        deleted=(gone("old_1"), gone("old_2")),
    )
    body = snapshots.telegram_bodies(telegram_section(), report, "my_host")[0]
    text = displayed(body)
    headline = "Snapshot Success" if success else "Snapshot Failed"
    assert text.startswith(f"{headline}\nServer: {snapshots.clean(name)} (hetzner 11)\n")
    for part in ("my_server-20250601050000", "old_1, old_2", "my_host", snapshots.clean(warning)):
        assert part in text
    assert success or f"Error: {snapshots.clean(error)}" in text


@pytest.mark.proves("N3")
def test_a_thousand_failures_in_one_message_are_cut_but_counted() -> None:
    reports = [a_report(False, server_name=f"s_{n}", error="x" * 50) for n in range(1000)]
    summary = snapshots.summary_of(reports)
    (body, *_) = snapshots.telegram_bodies(telegram_section(), summary, "host")
    text = displayed(body)
    assert "1000 servers (1000 failed)" in text
    assert "s_0: FAILURE: xxx" in text
    assert re.search(r"\n\.\.\. and 9[0-9]{2} more\nSUMMARY: 0 succeeded, 1000 failed", text)


# --- rendering: webhook and e-mail -------------------------------------------------------------------

DEFAULT_KEYS = [
    "script",
    "provider",
    "server",
    "server_id",
    "status",
    "hostname",
    "timestamp",
    "snapshot_name",
    "total_snapshots",
    "snapshot_info",
]


def webhook_payload(
    section: WebhookSection, report: snapshots.Report, hostname: str
) -> dict[str, Any]:
    """The version that is tried first."""
    return snapshots.webhook_payloads(section, report, hostname)[0]


def test_the_built_in_payload_has_the_fields_that_receivers_know() -> None:
    payload = webhook_payload(WebhookSection(), a_report(), "host")
    assert list(payload) == DEFAULT_KEYS
    assert payload["total_snapshots"] == 2
    assert payload["server"] == "my_server"
    failed = webhook_payload(
        WebhookSection(), a_report(False, total_snapshots=None, warnings=("careful",)), "host"
    )
    assert list(failed) == [*DEFAULT_KEYS, "error", "warnings"]
    assert (failed["total_snapshots"], failed["error"]) == ("unknown", "it broke")
    assert failed["warnings"] == ["careful"]


@pytest.mark.parametrize(
    ("template", "payload"),
    [
        ({"text": "{status}"}, {"text": "FAILURE", "error": "it broke"}),
        ({"text": "{status}: {error}"}, {"text": "FAILURE: it broke"}),
        ({"a": [{"b": "{error}"}]}, {"a": [{"b": "it broke"}]}),
        ({"error": "mine"}, {"error": "mine"}),
        ({"{error}": "x"}, {"{error}": "x", "error": "it broke"}),
    ],
)
def test_a_failure_payload_gets_the_error(
    template: dict[str, Any], payload: dict[str, Any]
) -> None:
    section = WebhookSection(payload_failure=template, payload_success={"text": "{status}"})
    assert webhook_payload(section, a_report(False), "host") == payload
    assert webhook_payload(section, a_report(), "host") == {"text": "SUCCESS"}


@pytest.mark.proves("N4")
@given(name=st.text(max_size=20), error=st.text(max_size=20))
@example(name="\ud83d", error='\0"\\')
def test_a_payload_is_always_sound_json(name: str, error: str) -> None:
    section = WebhookSection(payload_failure={"t": ["{server_name}", {"e": "{error}"}]})
    payload = webhook_payload(section, a_report(False, server_name=name, error=error), "h")
    assert payload == {"t": [snapshots.clean(name), {"e": snapshots.clean(error)}]}
    assert json.loads(json.dumps(payload).encode("utf-8")) == payload


HEADERS = [
    "Subject",
    "From",
    "To",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
]


@pytest.mark.proves("I24", "N7")
@given(name=ANY_TEXT, error=st.text(max_size=40))
@example(name="x\r\nBcc: evil@example.org", error="\r\n\r\nbody")
@example(name="x\n.\nMAIL FROM:<x@y.example>", error="\u2028\x85\x0b\x1c")
@example(name="\ud83d", error="\0")
def test_no_value_can_add_a_header_to_a_mail(name: str, error: str) -> None:
    section = snapshots.SmtpSection(
        from_email="Backup <b@example.org>",
        to_emails=("ops@example.org", "Ümit <u@example.org>"),
        subject_failure="{server_name}: {error}",
        message_failure="{server_name}\n<{error}>",
    )
    now = datetime(2025, 6, 1, 3, tzinfo=timezone.utc)
    report = a_report(False, server_name=name, error=error)
    content = bytes(snapshots.mail_of(section, report, "host", now))
    parsed = email.message_from_bytes(content, policy=email.policy.default)
    assert list(parsed.keys()) == HEADERS
    assert [a.addr_spec for a in parsed["To"].addresses] == ["ops@example.org", "u@example.org"]
    assert parsed["Date"].datetime == now
    assert parsed["Message-ID"].endswith("@example.org>")
    assert re.search(rb"(?<!\r)\n", content) is None


# --- sending -----------------------------------------------------------------------------------------


def bot_token(project: Project) -> str:
    """A Telegram token that must never be seen again."""
    token = f"{100000 + len(project.canaries)}:{project.token('bot')}"
    project.canaries.add(token)
    return token


def telegram(project: Project, chats: tuple[object, ...] = ("123",), **more: Any) -> fake.Bot:
    """Switch on Telegram for all servers."""
    token = bot_token(project)
    project.config["TELEGRAM"] = {"bot_token": token, "chat_id": chats[0], **more}
    return project.cloud.add_bot(token, chats)


def webhook(project: Project, **more: Any) -> str:
    """Switch on the webhook for all servers. Returns its path, which is a secret."""
    path = f"/hook/{project.token('hook')}"
    project.config["WEBHOOK"] = {"enabled": "true", "url": project.cloud.url + path, **more}
    return path


def fleet(project: Project, count: int, **more: Any) -> list[fake.Server]:
    return [project.server("hetzner", 11 + n, f"s_{n}", **more) for n in range(count)]


def texts(project: Project) -> list[str]:
    return [message.text for message in project.cloud.telegram_messages]


def statuses(project: Project, route: str = SEND) -> list[Optional[int]]:
    return [request.status for request in project.cloud.requests(route)]


def gaps(project: Project, route: str) -> list[float]:
    """Seconds of the fake clock between the requests."""
    times = [request.monotonic for request in project.cloud.requests(route)]
    return [later - earlier for earlier, later in zip(times, times[1:])]


def assert_undelivered(result: Result, count: int, code: int = 0) -> None:
    """So many notifications were lost, people know it, and the exit code is not changed by it."""
    noun = "notification" if count == 1 else "notifications"
    assert result.code == code
    assert result.out.endswith(f" total; {count} {noun} not delivered\n")
    assert "warning: " in result.err
    assert "not delivered" in result.err


def assert_delivered(result: Result, code: int = 0) -> None:
    assert result.code == code
    assert result.out.endswith(" total\n")
    assert "warning" not in result.err


# --- sending: the predecessor's templates -----------------------------------------------------------

SAMPLE_SUCCESS = (
    "*Snapshot Success*\\nServer: `{server_name}`\\nSnapshot: `{snapshot_name}`"
    "\\nTotal: `{total_snapshots}` snapshots"
)
SAMPLE_FAILURE = (
    "*Snapshot Failed*\\nServer: `{server_name}`\\nError occurred during snapshot creation"
)
SAMPLE_PAYLOAD = {
    "script": "{script}",
    "provider": "{provider}",
    "server": "{server_name}",
    "server_id": "{server_id}",
    "status": "{status}",
    "hostname": "{hostname}",
    "timestamp": "{timestamp}",
    "snapshot_name": "{snapshot_name}",
    "total_snapshots": "{total_snapshots}",
    "snapshot_info": "{snapshot_info}",
}


def test_the_sample_templates_speak_of_a_success(project: Project) -> None:
    project.server("hetzner", 11, "my_server")
    name = snapshots.snapshot_name("my_server", project.clock.now())
    telegram(project, message_success=SAMPLE_SUCCESS, message_failure=SAMPLE_FAILURE)
    webhook(project, payload_success=json.dumps(SAMPLE_PAYLOAD))
    assert_delivered(project.run())
    (message,) = project.cloud.telegram_messages
    assert message.text == (
        f"Snapshot Success\nServer: my_server\nSnapshot: {name}\nTotal: 1 snapshots"
    )
    marked = [
        (entity["type"], message.text[entity["offset"] : entity["offset"] + entity["length"]])
        for entity in message.entities
    ]
    assert marked == [
        ("bold", "Snapshot Success"),
        ("code", "my_server"),
        ("code", name),
        ("code", "1"),
    ]
    (hook,) = project.cloud.hooks
    assert hook.headers["content-type"].startswith("application/json")
    timestamp = hook.json.pop("timestamp")
    assert re.fullmatch(r"2025-06-01 05:\d\d:\d\d", timestamp)
    assert hook.json == {
        "script": "snapshots.py",
        "provider": "hetzner",
        "server": "my_server",
        "server_id": "11",
        "status": "SUCCESS",
        "hostname": socket.gethostname(),
        "snapshot_name": name,
        "total_snapshots": "1",
        "snapshot_info": "1 snapshots exist",
    }


def test_the_sample_templates_speak_of_a_failure_and_say_why(project: Project) -> None:
    server = project.server("hetzner", 11, "my_server", fails=True)
    project.history(server, 2)
    telegram(project, message_success=SAMPLE_SUCCESS, message_failure=SAMPLE_FAILURE)
    webhook(project, payload_failure=json.dumps(SAMPLE_PAYLOAD))
    assert_delivered(project.run(), code=1)
    (text,) = texts(project)
    head, error = text.rsplit("\nError: ", 1)
    assert head == "Snapshot Failed\nServer: my_server\nError occurred during snapshot creation"
    (hook,) = project.cloud.hooks
    assert list(hook.json) == [*SAMPLE_PAYLOAD, "error"]
    assert hook.json["error"] == error != ""
    assert hook.json["status"] == "FAILURE"
    assert hook.json["total_snapshots"] == "2"
    assert all(isinstance(value, str) for value in hook.json.values())


def test_without_templates_the_built_in_forms_are_sent(project: Project) -> None:
    project.server("hetzner", 11, "my_server")
    telegram(project, message_success="", message_failure="")
    webhook(project, payload_success="", payload_failure="")
    assert_delivered(project.run())
    (hook,) = project.cloud.hooks
    assert list(hook.json) == DEFAULT_KEYS
    assert hook.json["total_snapshots"] == 1
    (text,) = texts(project)
    assert text.startswith("Snapshot Success\nServer: my_server (hetzner 11)\n")


def test_a_servers_own_templates_go_before_the_global_ones(project: Project) -> None:
    telegram(project, message_success="global {server_name}")
    webhook(project, payload_success='{"text": "global {server_name}"}')
    own = {
        "telegram": {"message_success": "own {server_name}\n2"},
        "webhook": {"payload_success": {"text": ["own {server_name}", 7]}},
    }
    project.server("hetzner", 11, "a_b", file=own)
    project.server("hetzner", 12, "c_d")
    assert_delivered(project.run())
    assert sorted(texts(project)) == ["global c_d", "own a_b\n2"]
    payloads = [hook.json["text"] for hook in project.cloud.hooks]
    assert sorted(payloads, key=str) == [["own a_b", 7], "global c_d"]


# --- sending: Telegram ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parse_mode", "template", "text"),
    [
        ("Markdown", "*✅ für* `{server_name}` lone * _", "✅ für my_server lone * _"),
        ("MarkdownV2", "*✅ für* `{server_name}` {hostname} \\- {status}\\!", None),
        ("HTML", "<b>✅ für</b> <code>{server_name}</code> &lt;3 {status}", None),
        ("none", "*✅ für* {server_name}", "*✅ für* my_server"),
    ],
)
def test_each_parse_mode_arrives(
    project: Project, parse_mode: str, template: str, text: Optional[str]
) -> None:
    project.server("hetzner", 11, "my_server")
    telegram(project, parse_mode=parse_mode, message_success=template)
    assert_delivered(project.run())
    host = socket.gethostname()
    expected = {
        "MarkdownV2": f"✅ für my_server {host} - SUCCESS!",
        "HTML": "✅ für my_server <3 SUCCESS",
    }
    assert texts(project) == [text or expected[parse_mode]]
    assert statuses(project) == [200]


@pytest.mark.proves("N2")
@pytest.mark.parametrize(
    ("parse_mode", "template"),
    [("MarkdownV2", "Done! {server_name} - *{status}"), ("HTML", "<b>{server_name} {status}")],
)
def test_what_telegram_cannot_parse_is_sent_once_more_unformatted(
    project: Project, parse_mode: str, template: str
) -> None:
    project.server("hetzner", 11, "my_server")
    telegram(project, parse_mode=parse_mode, message_success=template)
    assert_delivered(project.run())
    assert statuses(project) == [400, 200]
    (message,) = project.cloud.telegram_messages
    assert (message.parse_mode, message.entities) == (None, [])
    assert "my_server" in message.text
    assert "SUCCESS" in message.text


def test_a_message_that_cannot_be_parsed_twice_is_lost_after_two_requests(project: Project) -> None:
    project.server("hetzner", 11)
    telegram(project)
    body = {"ok": False, "error_code": 400, "description": "Bad Request: can't parse entities: x"}
    project.cloud.fault(SEND, fake.status(400, body), times=None)
    result = project.run()
    assert_undelivered(result, 1)
    assert project.cloud.count(SEND) == 2
    assert "can't parse entities" in result.err


def too_many(seconds: int, in_header: bool = True) -> fake.Fault:
    body = {
        "ok": False,
        "error_code": 429,
        "description": f"Too Many Requests: retry after {seconds}",
        "parameters": {"retry_after": seconds},
    }
    return fake.status(429, body, {"Retry-After": str(seconds)} if in_header else None)


@pytest.mark.proves("N2")
@pytest.mark.parametrize("in_header", [True, False])
def test_telegram_is_given_the_time_it_asks_for(project: Project, in_header: bool) -> None:
    project.server("hetzner", 11)
    telegram(project)
    project.cloud.fault(SEND, too_many(47, in_header))
    assert_delivered(project.run())
    assert statuses(project) == [429, 200]
    assert gaps(project, SEND)[0] >= 47


@pytest.mark.proves("N2")
def test_an_hour_is_more_than_a_message_is_waited_for(project: Project) -> None:
    project.server("hetzner", 11)
    telegram(project)
    project.cloud.fault(SEND, too_many(3600), times=None)
    result = project.run()
    assert_undelivered(result, 1)
    assert project.cloud.count(SEND) == 1
    assert "it asks to wait" in result.err
    assert project.clock.elapsed < 600


def test_what_comes_during_a_pause_that_was_asked_for_is_sent_after_it(project: Project) -> None:
    """Also to a receiver that takes its time then."""
    project.server("hetzner", 11, "first", duration_seconds=1)
    project.server("hetzner", 12, "second", duration_seconds=60)
    telegram(project, message_success="{server_name}")
    project.cloud.fault(SEND, too_many(500))
    project.cloud.fault(SEND, fake.slow(2))
    assert_delivered(project.run())
    assert texts(project) == ["first", "second"]
    assert gaps(project, SEND)[0] >= 500


def test_a_refusal_that_no_pause_mends_holds_up_nothing(project: Project) -> None:
    """Gateways put Retry-After on any answer."""
    fleet(project, 2, duration_seconds=1)
    webhook(project)
    project.cloud.fault(
        HOOK, fake.status(403, {"message": "no"}, {"Retry-After": "300"}), times=None
    )
    result = project.run()
    assert_undelivered(result, 2)
    assert "asks to wait" not in result.err
    assert project.clock.elapsed < 60


def test_a_run_does_not_wait_for_a_pause_that_is_longer_than_it_may_wait(project: Project) -> None:
    """The receiver asks for one each time; what is left is given up with the reason."""
    fleet(project, 4, duration_seconds=1)
    telegram(project)
    project.cloud.fault(SEND, too_many(400), times=None)
    result = project.run()
    assert_undelivered(result, 4)
    assert result.err.count("the receiver has asked for a longer pause") == 3
    assert project.clock.elapsed < 450


def test_a_test_does_not_wait_for_every_message_of_a_receiver_that_asks_for_pauses(
    project: Project,
) -> None:
    project.server("hetzner", 11, file={"telegram": {"chat_id": "7"}})
    telegram(project, ("123", "7"))
    project.cloud.fault(SEND, too_many(400), times=None)
    result = project.run("--test-notifications")
    assert result.code == 1
    assert result.err.count("the receiver has asked for a longer pause") == 3
    assert project.clock.elapsed < 450


@pytest.mark.proves("N2")
@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("wrong token", "Unauthorized"),
        ("blocked", "bot was blocked by the user"),
        ("wrong chat", "chat not found"),
    ],
)
def test_a_refusal_of_telegram_is_reported_and_not_repeated(
    project: Project, case: str, reason: str
) -> None:
    project.server("hetzner", 11)
    bot = telegram(project)
    if case == "wrong token":
        del project.cloud.bots[bot.token]
    elif case == "blocked":
        project.cloud.bots[bot.token] = fake.Bot(bot.token, frozenset(), frozenset({"123"}))
    else:
        project.config["TELEGRAM"]["chat_id"] = "999"
    result = project.run()
    assert_undelivered(result, 1)
    assert reason in result.err
    assert project.cloud.count(SEND) == 1


@pytest.mark.proves("N2")
@pytest.mark.parametrize(
    "answer",
    [
        fake.status(200, {"ok": False, "description": "not today"}),
        fake.garbage(b"<html>hotel login</html>", act=False),
        fake.garbage(b"", act=False),
        fake.status(200, [1]),
        fake.status(200, {"ok": "yes"}),
    ],
)
def test_an_answer_that_is_not_ok_is_no_delivery(project: Project, answer: fake.Fault) -> None:
    project.server("hetzner", 11)
    telegram(project)
    project.cloud.fault(SEND, answer)
    assert_undelivered(project.run(), 1)
    assert project.cloud.count(SEND) == 1


def test_telegram_gets_one_message_a_second(project: Project) -> None:
    project.cloud.telegram_pace = True
    fleet(project, 5)
    telegram(project)
    assert_delivered(project.run())
    assert statuses(project) == [200] * 5
    assert all(gap > 0.999 for gap in gaps(project, SEND))
    assert len(set(texts(project))) == 5


def test_after_a_wait_the_pace_is_kept_from_when_the_message_went(project: Project) -> None:
    """Only the 429 that was there to begin with: our own hurry must not earn another."""
    project.cloud.telegram_pace = True
    fleet(project, 5)
    telegram(project)
    project.cloud.fault(SEND, too_many(9))
    assert_delivered(project.run())
    assert statuses(project) == [429, 200, 200, 200, 200, 200]


def test_a_message_that_was_long_on_its_way_is_counted_from_when_it_came(project: Project) -> None:
    """The first one has a connection to make; those behind it come quicker than it did."""
    project.cloud.telegram_pace = True
    fleet(project, 3)
    telegram(project)
    delays = [0.8]

    def come_late(_request: fake.Request) -> bool:
        project.clock.advance(delays.pop() if delays else 0)
        return False

    project.cloud.fault(SEND, fake.status(500), when=come_late, times=None)
    assert_delivered(project.run())
    assert statuses(project) == [200] * 3


def test_a_group_gets_twenty_messages_a_minute(project: Project) -> None:
    project.config["TIMING"]["delay_between_servers"] = 1
    fleet(project, 25)
    telegram(project, chats=(-1001234567,))
    assert_delivered(project.run())
    times = [request.monotonic for request in project.cloud.requests(SEND)]
    assert all(b - a > 59.999 for a, b in zip(times, times[20:]))


@pytest.mark.parametrize("chat", [123, -100123456789, "@a_channel", "-42"])
def test_a_chat_may_be_a_number_in_a_server_file(project: Project, chat: object) -> None:
    token = bot_token(project)
    project.cloud.add_bot(token, [chat])
    project.config["TELEGRAM"] = {"enabled": "true", "bot_token": token, "chat_id": "your_chat_id"}
    project.server("hetzner", 11, file={"telegram": {"chat_id": chat}})
    assert_delivered(project.run())
    assert [message.chat_id for message in project.cloud.telegram_messages] == [str(chat)]


def test_a_long_error_is_cut_and_arrives(project: Project) -> None:
    project.server("hetzner", 11, "my_server")
    telegram(project, parse_mode="HTML", message_success="{server_name} " * 600)
    assert_delivered(project.run())
    (text,) = texts(project)
    assert text.startswith("my_server my_server ")
    assert text.endswith(CUT)
    assert fake.utf16_units(text) <= 4096


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (fake.status(401, {"ok": False, "description": "Unauthorized"}), "(check bot_token)"),
        (fake.status(404, {"ok": False, "description": "Not Found"}), "(check bot_token)"),
        (
            fake.status(400, {"ok": False, "description": "Bad Request: chat not found"}),
            "(check chat_id; somebody must write to the bot first)",
        ),
        (
            fake.status(403, {"ok": False, "description": "Forbidden: blocked"}),
            "Forbidden: blocked",
        ),
    ],
)
def test_a_refusal_of_telegram_says_what_to_look_at(
    project: Project, answer: fake.Fault, told: str
) -> None:
    project.server("hetzner", 11)
    telegram(project)
    project.cloud.fault(SEND, answer)
    result = project.run()
    assert result.code == 0
    assert result.err.rstrip().endswith(told)


def test_the_pause_between_tries_is_as_long_as_configured(project: Project) -> None:
    project.server("hetzner", 11)
    webhook(project, base_delay_between_retries=200, retries=3)
    project.cloud.fault(HOOK, fake.status(500), times=None)
    project.run()
    at = [request.monotonic for request in project.cloud.requests(HOOK)]
    assert [100 <= later - earlier <= 200 for earlier, later in zip(at, at[1:])] == [True] * 2


def test_a_channel_without_credentials_is_one_line_of_the_log(project: Project) -> None:
    project.server("hetzner", 11)
    project.config["TELEGRAM"] = {"enabled": "true", "bot_token": "your_bot_token"}
    result = project.run()
    assert (result.code, result.err) == (0, "")
    lines = [line for line in result.lines if "Telegram" in line]
    assert len(lines) == 1
    assert "bot_token and chat_id not set" in lines[0]


# --- sending: webhook ----------------------------------------------------------------------------------


@pytest.mark.proves("N5")
@pytest.mark.parametrize(
    "answer",
    [
        fake.status(200, {"message": "Workflow was started"}, act=True),
        fake.status(200, body=b"", act=True),
        fake.garbage(b"ok"),
        fake.garbage(b"<html>"),
        fake.status(201, {"error": "whatever"}, act=True),
        fake.status(202, body=b"Accepted", act=True),
        fake.status(204, act=True),
        fake.garbage(b"\xff\xfe\x00"),
    ],
)
def test_every_2xx_of_a_webhook_is_a_delivery(project: Project, answer: fake.Fault) -> None:
    project.server("hetzner", 11)
    webhook(project)
    project.cloud.fault(HOOK, answer)
    assert_delivered(project.run())
    assert project.cloud.count(HOOK) == 1


@pytest.mark.parametrize(
    "code",
    [400, 401, 402, 403, 404, 405, 406, 409, 410, 411, 413, 414, 415, 418, 422, 423, 451, 499],
)
def test_a_4xx_of_a_webhook_is_not_retried(project: Project, code: int) -> None:
    project.server("hetzner", 11)
    webhook(project)
    project.cloud.fault(HOOK, fake.status(code), times=None)
    result = project.run()
    assert_undelivered(result, 1)
    assert str(code) in result.err
    assert project.cloud.count(HOOK) == 1


def test_a_receiver_that_speaks_like_a_cloud_is_no_cloud(project: Project) -> None:
    project.server("hetzner", 11)
    webhook(project)
    body = {"code": "locked", "message": "there is a pending event"}
    project.cloud.fault(HOOK, fake.status(422, body), times=None)
    assert_undelivered(project.run(), 1)
    assert project.cloud.count(HOOK) == 1


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504, 520])
@pytest.mark.parametrize("retries", [1, 3])
def test_what_may_pass_is_retried_as_often_as_configured(
    project: Project, code: int, retries: int
) -> None:
    project.server("hetzner", 11)
    webhook(project, retries=retries)
    project.cloud.fault(HOOK, fake.status(code), times=None)
    assert_undelivered(project.run(), 1)
    assert project.cloud.count(HOOK) == retries


def test_no_retries_means_one_try(project: Project) -> None:
    project.server("hetzner", 11)
    webhook(project, retries=0)
    assert_delivered(project.run())
    assert project.cloud.count(HOOK) == 1


def test_pauses_between_tries_grow_from_the_configured_one(project: Project) -> None:
    project.server("hetzner", 11)
    webhook(project, retries=4, base_delay_between_retries=4)
    project.cloud.fault(HOOK, fake.status(500), times=3)
    assert_delivered(project.run())
    first, second, third = gaps(project, HOOK)
    assert 2 <= first <= 4 <= second <= 8 <= third <= 16


def test_a_receiver_can_know_a_second_try_from_a_second_message(project: Project) -> None:
    fleet(project, 2)
    webhook(project)
    project.cloud.fault(HOOK, fake.status(503, act=True), times=2)
    assert_delivered(project.run())
    keys = [request.headers["idempotency-key"] for request in project.cloud.requests(HOOK)]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert all(len(key) == 36 for key in keys)


@pytest.mark.proves("N5")
def test_an_unregistered_webhook_gets_the_hint_for_n8n(project: Project) -> None:
    project.server("hetzner", 11)
    webhook(project)
    project.config["WEBHOOK"]["url"] = f"{project.cloud.url}/hook/inactive"
    result = project.run()
    assert_undelivered(result, 1)
    assert "is not registered" in result.err
    assert "n8n" in result.err
    assert "active" in result.err


@pytest.mark.proves("N11")
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_webhook_is_never_redirected(project: Project, code: int) -> None:
    project.server("hetzner", 11)
    webhook(project)
    project.cloud.fault(
        HOOK, fake.redirect(f"{project.cloud.url}/hook/elsewhere", code), times=None
    )
    result = project.run()
    assert_undelivered(result, 1)
    assert project.cloud.count(HOOK) == 1
    assert str(code) in result.err


@pytest.mark.parametrize(
    "fault",
    [
        fake.hang_up(act=True),
        fake.hang_up(act=True, when="headers"),
        fake.hang_up(act=True, when="body"),
        fake.truncated(),
        fake.gzip_bomb(),
        fake.huge(20_000_000),
    ],
)
@pytest.mark.parametrize("route", [SEND, HOOK])
def test_a_message_that_may_have_arrived_is_not_repeated(
    project: Project, route: str, fault: fake.Fault
) -> None:
    project.server("hetzner", 11)
    telegram(project) if route == SEND else webhook(project)
    project.cloud.fault(route, fault)
    assert_undelivered(project.run(), 1)
    assert project.cloud.count(route) == 1


@pytest.mark.proves("I20", "N1")
def test_a_receiver_that_hangs_or_trickles_costs_the_timeout_and_no_more(project: Project) -> None:
    project.server("hetzner", 11)
    telegram(project, timeout=1)
    webhook(project, timeout=1)
    project.cloud.fault(SEND, fake.stall(20))
    project.cloud.fault(HOOK, fake.trickle(0.05))
    result = project.run()
    assert_undelivered(result, 2)
    assert result.err.count("timed out") == 2


@pytest.mark.proves("I16", "N1")
@pytest.mark.parametrize("at", ["the greeting", "QUIT"])
def test_a_mail_server_that_trickles_is_cut_off(project: Project, at: str) -> None:
    """Each byte comes in time, and there would be hundreds; after QUIT the mail counts as sent."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def trickle(connection: socket.socket) -> None:
        for _ in range(400):
            connection.sendall(b"2")
            if over.wait(0.3):
                return

    def serve() -> None:
        connection, _ = listener.accept()
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            if at == "the greeting":
                trickle(connection)
                return
            connection.sendall(b"220 mail\r\n")
            in_text = False
            for line in lines:
                if in_text:
                    in_text = line != b".\r\n"
                    if not in_text:
                        connection.sendall(b"250 taken\r\n")
                elif line.upper().startswith(b"QUIT"):
                    trickle(connection)
                else:
                    in_text = line.upper().startswith(b"DATA")
                    connection.sendall(b"354 go on\r\n" if in_text else b"250 well\r\n")

    threading.Thread(target=serve, daemon=True).start()
    project.server("hetzner", 11)
    project.config["SMTP"] = {
        "enabled": "true",
        "server": "127.0.0.1",
        "port": listener.getsockname()[1],
        "security": "none",
        "from_email": "snapshots@example.org",
        "to_emails": "ops@example.org",
        "notify_on_success": "true",
        "timeout": 1,
        "retries": 1,
    }
    began = time.monotonic()
    result = project.run()
    over.set()
    listener.close()
    assert time.monotonic() - began < 40  # and not two minutes
    if at == "QUIT":
        assert_delivered(result)
    else:
        assert_undelivered(result, 1)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.proves("N1")
def test_nobody_there_is_reported_without_the_address(project: Project) -> None:
    project.server("hetzner", 11)
    telegram(project)
    path = webhook(project)
    nowhere = f"http://127.0.0.1:{free_port()}"
    project.config["WEBHOOK"]["url"] = nowhere + path
    project.config["API"]["telegram_url"] = nowhere
    result = project.run()
    assert_undelivered(result, 2)
    assert result.err.count("connection refused") == 2


# --- sending: certificates -------------------------------------------------------------------------------


def bad_context(case: str, ca: trustme.CA, other_ca: trustme.CA) -> ssl.SSLContext:
    if case == "another CA":
        return certified(other_ca)
    if case == "another host":
        return certified(ca, "mail.example.org")
    return certified(ca, not_after=datetime(2020, 1, 1, tzinfo=timezone.utc))


BAD_CERTIFICATES = ["another CA", "another host", "expired"]


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("case", ["good", *BAD_CERTIFICATES])
def test_telegram_and_webhook_trust_good_certificates_only(
    project: Project, ca: trustme.CA, other_ca: trustme.CA, case: str
) -> None:
    good = case == "good"
    server = HttpsServer(certified(ca) if good else bad_context(case, ca, other_ca)).start()
    try:
        project.server("hetzner", 11)
        telegram(project)
        path = webhook(project)
        project.config["WEBHOOK"]["url"] = f"https://127.0.0.1:{server.port}{path}"
        project.config["API"]["telegram_url"] = f"https://127.0.0.1:{server.port}"
        result = project.run()
    finally:
        server.stop()
    if good:
        assert_delivered(result)
        assert len(server.paths) == 2
    else:
        assert_undelivered(result, 2)
        assert result.err.count("its certificate is not valid") == 2
        assert server.paths == []


# --- sending: e-mail ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_mail_arrives_encrypted_and_logged_in(
    project: Project, post: PostOffice, tls: bool, host: str
) -> None:
    server = post.open(tls=tls)
    project.config["SMTP"].update(
        server=host,
        to_emails="ops@example.org, Übermut <boss@example.org>",
        subject_success="✅ {server_name}: {status}",
        message_success="Für {server_name} <b>&\\n.\\nGrüße von {hostname} – {snapshot_info}",
    )
    project.server("hetzner", 11, "jürgens_server")
    begun = project.clock.now()
    assert_delivered(project.run())
    (mail,) = server.mails
    assert server.auths == [True]
    assert server.logins == ["backup@example.org"]
    assert mail.encrypted
    assert mail.sender == "snapshots@example.org"
    assert mail.recipients == ["ops@example.org", "boss@example.org"]
    message = mail.message
    assert message["Subject"] == "✅ jürgens_server: SUCCESS"
    assert str(message["From"]) == "Sicherung für alle <snapshots@example.org>"
    assert [a.addr_spec for a in message["To"].addresses] == mail.recipients
    assert message["To"].addresses[1].display_name == "Übermut"
    date = message["Date"].datetime
    assert begun <= date <= project.clock.now() + timedelta(seconds=1)
    assert date.utcoffset() == timedelta(hours=2)
    assert re.fullmatch(r"<[^<>@\s]+@example\.org>", message["Message-ID"])
    assert message.get_content_type() == "multipart/alternative"
    text = f"Für jürgens_server <b>&\n.\nGrüße von {socket.gethostname()} – 1 snapshots exist"
    assert mail.part("plain") == text + "\n"
    page = mail.part("html")
    assert "jürgens_server &lt;b&gt;&amp;<br>" in page
    assert "<html>" in page


def test_each_mail_has_an_id_of_its_own(project: Project, post: PostOffice) -> None:
    server = post.open()
    fleet(project, 3)
    assert_delivered(project.run())
    assert len({mail.message["Message-ID"] for mail in server.mails}) == 3


def test_mail_is_for_failures_unless_wished_otherwise(project: Project, post: PostOffice) -> None:
    server = post.open()
    del project.config["SMTP"]["notify_on_success"]
    project.server("hetzner", 11, "good")
    project.server("hetzner", 12, "bad", fails=True)
    project.server("hetzner", 13, "quiet", fails=True, file={"smtp": {"notify_on_failure": False}})
    project.server("hetzner", 14, "loud", file={"smtp": {"notify_on_success": True}})
    assert_delivered(project.run(), code=2)
    subjects = sorted(mail.message["Subject"] for mail in server.mails)
    assert subjects == ["Snapshot FAILURE: bad", "Snapshot SUCCESS: loud"]
    plain = {mail.message["Subject"]: mail.part("plain") for mail in server.mails}
    assert "Error: " in plain["Snapshot FAILURE: bad"]
    assert "*" not in plain["Snapshot FAILURE: bad"]


def test_a_servers_own_recipients_and_texts_go_before_the_global_ones(
    project: Project, post: PostOffice
) -> None:
    server = post.open()
    smtp = {
        "to_emails": ["a@example.org", "b@example.org"],
        "subject_success": "own {server_name}",
        "message_success": "text",
    }
    project.server("hetzner", 11, "one", file={"smtp": smtp})
    project.server("hetzner", 12, "two", file={"smtp": {"enabled": False}})
    assert_delivered(project.run())
    (mail,) = server.mails
    assert mail.recipients == ["a@example.org", "b@example.org"]
    assert mail.message["Subject"] == "own one"
    assert mail.part("plain") == "text\n"


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("case", BAD_CERTIFICATES)
def test_a_mail_server_with_a_bad_certificate_learns_nothing(
    project: Project, post: PostOffice, ca: trustme.CA, other_ca: trustme.CA, case: str, tls: bool
) -> None:
    server = post.open(context=bad_context(case, ca, other_ca), tls=tls)
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    assert "its certificate is not valid" in result.err
    assert (server.auths, server.mails) == ([], [])
    assert server.connections <= 1


@pytest.mark.proves("wild-9")
@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_of_certificates_that_is_of_no_use_to_mail_is_named(
    project: Project,
    post: PostOffice,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    content: Optional[str],
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    server = post.open()
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    reason = "cannot read" if content is None else "names a file without certificates"
    assert re.search(f"SSL_CERT_FILE:? {reason}", result.err)
    assert server.mails == []


@pytest.mark.proves("N6")
@pytest.mark.parametrize("users", [None, {}])
def test_without_starttls_no_password_is_sent(
    project: Project, post: PostOffice, users: Optional[dict[str, str]]
) -> None:
    server = post.open(offers_tls=False, users=users)
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    assert "STARTTLS" in result.err
    assert (server.auths, server.mails, server.connections) == ([], [], 1)


def test_a_server_that_offers_no_login_is_reported_as_that(
    project: Project, post: PostOffice
) -> None:
    server = post.open(users=None)
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    assert "STARTTLS" not in result.err
    assert "log in" in result.err
    assert (server.auths, server.mails) == ([], [])


def test_without_a_user_nobody_logs_in(project: Project, post: PostOffice) -> None:
    server = post.open(users=None)
    project.config["SMTP"].update(user="", password="")
    project.server("hetzner", 11)
    assert_delivered(project.run())
    assert (server.auths, len(server.mails)) == ([], 1)


@pytest.mark.parametrize("user", ["", "backup@example.org"])
def test_a_mail_server_on_this_host_may_do_without_encryption(
    project: Project, post: PostOffice, user: str
) -> None:
    server = post.open(offers_tls=False)
    project.config["SMTP"].update(security="none", user=user)
    project.server("hetzner", 11)
    assert_delivered(project.run())
    assert len(server.mails) == 1
    assert server.auths == ([False] if user else [])


def test_a_wrong_password_is_reported_and_not_tried_again(
    project: Project, post: PostOffice
) -> None:
    server = post.open(users={"backup@example.org": "another"})
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    assert "535" in result.err
    assert result.err.rstrip().endswith("(many providers want a password made for apps)")
    assert server.mails == []
    assert server.connections <= 2  # before and after STARTTLS


@pytest.mark.parametrize("retries", [1, 3])
@pytest.mark.parametrize(
    ("code", "is_final"), [("550 no such user", True), ("450 greylisted", False)]
)
def test_refused_recipients_are_reported_and_the_others_get_it_once(
    project: Project, post: PostOffice, code: str, is_final: bool, retries: int
) -> None:
    server = post.open(answers={"gone@example.org": [code] * 9})
    project.config["SMTP"].update(to_emails="ops@example.org, gone@example.org", retries=retries)
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    assert "gone@example.org" in result.err
    assert [mail.recipients for mail in server.mails] == [["ops@example.org"]]


@pytest.mark.parametrize(
    ("answers", "delivered", "left"),
    [
        ({"rcpt": ["550 no such user"] * 9}, False, 8),
        ({"rcpt": ["450 greylisted"] * 9}, False, 6),
        ({"rcpt": ["451 greylisted"] * 2}, True, 0),
        ({"data": ["451 local error"] * 2}, True, 0),
        ({"data": ["554 looks like spam"] * 9}, False, 8),
        ({"data": ["421 too busy"] * 1}, True, 0),
    ],
)
def test_what_may_pass_is_tried_again_and_what_is_final_is_not(
    project: Project, post: PostOffice, answers: dict[str, list[str]], delivered: bool, left: int
) -> None:
    server = post.open(answers=answers)
    project.server("hetzner", 11)
    result = project.run()
    if delivered:
        assert_delivered(result)
    else:
        assert_undelivered(result, 1)
    assert len(server.mails) == delivered
    (kind,) = answers
    assert len(server.answers[kind]) == left


def test_a_mail_that_may_have_been_taken_is_not_sent_again(
    project: Project, post: PostOffice
) -> None:
    server = post.open(answers={"data": ["hang up"]})
    project.server("hetzner", 11)
    assert_undelivered(project.run(), 1)
    assert len(server.mails) == 1


def test_nobody_at_the_mail_servers_port_is_tried_again_and_reported(
    project: Project, post: PostOffice
) -> None:
    post.open()
    project.config["SMTP"].update(port=free_port())
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    assert "connection refused" in result.err
    assert project.clock.elapsed > 1


@pytest.mark.proves("N6")
def test_a_mail_server_that_says_nothing_costs_the_timeout(
    project: Project, post: PostOffice
) -> None:
    post.open()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        project.config["SMTP"].update(port=silent.getsockname()[1], timeout=1, retries=1)
        project.server("hetzner", 11)
        result = project.run()
    assert_undelivered(result, 1)
    assert "timed out" in result.err


@pytest.mark.proves("N7")
def test_what_an_api_says_cannot_add_a_header(project: Project, post: PostOffice) -> None:
    server = post.open()
    project.config["SMTP"]["subject_failure"] = "{server_name}: {error}"
    project.server("hetzner", 11)
    body = {"error": {"code": "odd", "message": "no\r\nBcc: evil@example.org\r\n\r\nhello"}}
    project.cloud.fault(CREATE, fake.status(400, body), times=None)
    assert_delivered(project.run(), code=1)
    (mail,) = server.mails
    assert mail.recipients == ["ops@example.org"]
    assert list(mail.message.keys()) == HEADERS
    assert "Bcc: evil@example.org" in mail.message["Subject"]


# --- independence ------------------------------------------------------------------------------------------


def down(project: Project, post: PostOffice, channel: str) -> None:
    """Take one channel down for good."""
    if channel == "Telegram":
        project.cloud.fault(SEND, fake.status(500), times=None)
    elif channel == "webhook":
        project.cloud.fault(HOOK, fake.hang_up(), times=None)
    else:
        project.config["SMTP"]["port"] = free_port()


@pytest.mark.proves("I20", "N1")
@pytest.mark.parametrize("channel", ["Telegram", "webhook", "e-mail"])
def test_a_channel_that_is_down_does_not_stop_the_others(
    project: Project, post: PostOffice, channel: str
) -> None:
    server = post.open()
    telegram(project)
    webhook(project)
    fleet(project, 2)
    down(project, post, channel)
    result = project.run()
    assert_undelivered(result, 2)
    got = {
        "Telegram": len(project.cloud.telegram_messages),
        "webhook": len(project.cloud.hooks),
        "e-mail": len(server.mails),
    }
    assert got == {name: 0 if name == channel else 2 for name in got}
    assert f"{channel} notification not delivered" in result.err


@pytest.mark.proves("I20", "D-1", "N8")
def test_a_success_that_nobody_can_be_notified_of_is_a_success(
    project: Project, post: PostOffice
) -> None:
    post.open()
    telegram(project)
    webhook(project)
    server = project.server("hetzner", 11, retain=2)
    project.history(server, 3)
    for channel in ("Telegram", "webhook", "e-mail"):
        down(project, post, channel)
    result = project.run()
    assert_undelivered(result, 3)
    assert len(project.own(server)) == 2
    assert result.final[0][4] == "SUCCESS"
    assert len(result.err.splitlines()) == 3


@pytest.mark.proves("D-1")
def test_a_failure_that_nobody_can_be_notified_of_stays_a_failure(
    project: Project, post: PostOffice
) -> None:
    post.open()
    project.server("hetzner", 11, fails=True)
    project.server("hetzner", 12)
    down(project, post, "e-mail")
    assert_undelivered(project.run(), 2, code=2)


@pytest.mark.parametrize(("route", "channel"), [(SEND, "Telegram"), (HOOK, "webhook")])
def test_after_three_lost_messages_each_further_one_gets_one_try(
    project: Project, route: str, channel: str
) -> None:
    telegram(project) if channel == "Telegram" else webhook(project)
    fleet(project, 6)
    project.cloud.fault(route, fake.status(500), times=None)
    assert_undelivered(project.run(), 6)
    assert project.cloud.count(route) == 3 * 3 + 3


def test_a_message_that_gets_through_ends_the_row_of_lost_ones(project: Project) -> None:
    webhook(project)
    fleet(project, 7)
    project.cloud.fault(HOOK, fake.status(500), times=9)  # three messages lost
    project.cloud.fault(HOOK, fake.status(200, act=True))  # the fourth: one try, good
    project.cloud.fault(HOOK, fake.status(500), times=None)
    assert_undelivered(project.run(), 6)
    assert project.cloud.count(HOOK) == 9 + 1 + 3 * 3


def test_one_lost_address_does_not_slow_another(project: Project) -> None:
    webhook(project)
    fleet(project, 4)
    own = f"{project.cloud.url}/hook/{project.token('own')}"
    for n in range(4):
        project.server("hetzner", 30 + n, f"own_{n}", file={"webhook": {"url": own}})
    lost = project.config["WEBHOOK"]["url"][len(project.cloud.url) :]
    project.cloud.fault(
        HOOK, fake.status(500), times=None, when=lambda request: request.path == lost
    )
    assert_undelivered(project.run(), 4)
    assert sorted(hook.json["server"] for hook in project.cloud.hooks) == [
        f"own_{n}" for n in range(4)
    ]


def pile_up(project: Project, count: int, **more: Any) -> Result:
    """So many servers end while Telegram makes the first message wait for five minutes."""
    project.cloud.page_size = None
    project.config["TIMING"]["max_parallel"] = count + 1
    fleet(project, count, **more)
    telegram(project, message_success="{server_name} {status}: {summary}")
    project.cloud.fault(SEND, too_many(300))
    return project.run()


def told(project: Project) -> list[int]:
    """How many servers each message tells of."""
    joined = [re.match(r"([0-9]+) servers \(0 failed\) SUCCESS", text) for text in texts(project)]
    return [int(found[1]) if found else 1 for found in joined]


@pytest.mark.parametrize(("waiting", "messages"), [(20, [1] * 20), (21, [21])])
def test_more_than_twenty_that_wait_are_joined(
    project: Project, waiting: int, messages: list[int]
) -> None:
    """The first server is done long before the others, and its message holds theirs up."""
    project.server("hetzner", 10, "first", duration_seconds=1)
    assert_delivered(pile_up(project, waiting, duration_seconds=100))
    assert told(project) == [1, *messages]


def test_messages_that_pile_up_are_joined(project: Project) -> None:
    assert_delivered(pile_up(project, 60))
    counts = told(project)
    assert sum(counts) == 60
    assert max(counts) > 20
    assert len(counts) <= 22


def test_a_few_messages_that_wait_stay_as_they_are(project: Project) -> None:
    assert_delivered(pile_up(project, 15))
    assert told(project) == [1] * 15


def test_a_joined_message_that_is_lost_counts_as_all_of_them(project: Project) -> None:
    body = {"ok": False, "description": "Bad Request: chat not found"}
    project.cloud.fault(
        SEND,
        fake.status(400, body),
        times=None,
        when=lambda request: " servers (" in request.json["text"],
    )
    result = pile_up(project, 60)
    assert_undelivered(result, 60 - len(project.cloud.telegram_messages))
    assert len(project.cloud.telegram_messages) <= 21


@pytest.mark.proves("I16")
def test_the_queue_has_ten_minutes_after_the_last_turn(project: Project) -> None:
    webhook(project, base_delay_between_retries=300, retries=20, timeout=60)
    fleet(project, 5)
    project.cloud.fault(HOOK, fake.status(500), times=None)
    result = project.run()
    assert result.out.endswith(" total; 5 notifications not delivered\n")
    last = max(r.monotonic for r in project.cloud.journal if r.path.startswith("/hz/"))
    assert project.clock.monotonic() - last <= 601


def stop_at_a_poll(project: Project, is_due: Callable[[], object]) -> list[float]:
    """A signal arrives at the first poll of a droplet at which this holds; returns when, in a list
    that is filled then."""
    stopped: list[float] = []

    def look(_request: fake.Request) -> bool:
        if not stopped and is_due():
            stopped.append(project.clock.elapsed)
            project.interrupt()
        return False

    project.cloud.fault("GET /do/*", fake.status(500), times=None, when=look)  # which never comes
    return stopped


@pytest.mark.proves("D-5")
def test_after_a_stop_each_message_gets_one_try(project: Project) -> None:
    """The one that is being tried again, and those that were not even begun."""
    webhook(project, base_delay_between_retries=200, retries=5)
    project.server("hetzner", 11, "first", duration_seconds=1)
    project.server("digitalocean", 12, "second", duration_seconds=3000)
    project.server("digitalocean", 13, "third", duration_seconds=3000)
    stopped = stop_at_a_poll(project, lambda: project.clock.elapsed > 15)
    project.cloud.fault(HOOK, fake.status(500), times=None)
    result = project.run()
    assert result.code == 2
    assert stopped
    tried = [
        r.json["server"] for r in project.cloud.requests(HOOK) if r.monotonic >= 1000 + stopped[0]
    ]
    assert sorted(tried) == ["first", "second", "third"]
    assert project.clock.elapsed - stopped[0] <= 15


@pytest.mark.proves("D-5")
def test_a_message_that_a_429_holds_back_gets_its_try_at_a_stop(project: Project) -> None:
    telegram(project)
    project.server("hetzner", 11, "first", duration_seconds=1)
    project.server("digitalocean", 12, "second", duration_seconds=3000)
    stopped = stop_at_a_poll(project, lambda: project.clock.elapsed > 15)
    project.cloud.fault(SEND, too_many(30))
    assert project.run().code == 2
    assert stopped
    assert project.cloud.count(SEND) == 3
    assert len(texts(project)) == 2


def test_a_message_that_waits_for_anothers_429_gets_its_try_at_a_stop(project: Project) -> None:
    """The first is lost with it; the bot's pause holds the second one back."""
    telegram(project, retries=1)
    fleet(project, 2, duration_seconds=1)
    project.server("digitalocean", 30, "long", duration_seconds=3000)
    stopped = stop_at_a_poll(project, lambda: project.clock.elapsed > 20)
    project.cloud.fault(SEND, too_many(200))
    assert project.run().code == 2
    assert stopped
    assert len(texts(project)) == project.cloud.count(SEND) - 1 == 2  # the first was refused


@pytest.mark.proves("wild-11.9")
@pytest.mark.parametrize("route", [SEND, HOOK])
def test_after_a_stop_no_receiver_gets_the_long_timeout_of_before(
    project: Project, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    """The first message goes out in time, with the timeout that is configured; then, after a
    signal, the receiver says nothing any more."""
    monkeypatch.setattr(snapshots, "DRAIN_STOPPED_SECONDS", 1.0)
    switch_on = telegram if route == SEND else webhook
    switch_on(project, timeout=60)
    project.server("hetzner", 11, "first", duration_seconds=1)
    project.server("digitalocean", 12, "second", duration_seconds=3000)
    stopped = stop_at_a_poll(project, lambda: project.clock.elapsed > 15)
    project.cloud.fault(route, fake.stall(50), times=None, when=lambda _request: bool(stopped))
    began = time.monotonic()
    result = project.run()
    assert_undelivered(result, 1, code=2)
    assert "timed out" in result.err
    assert time.monotonic() - began < 30  # and not fifty seconds
    assert statuses(project, route) == [200, None]


def test_a_server_decides_for_itself_whether_it_is_notified(project: Project) -> None:
    bot = telegram(project)
    path = webhook(project)
    project.config["WEBHOOK"]["enabled"] = "false"
    project.server("hetzner", 11, "telegram_only")
    project.server("hetzner", 12, "nothing", file={"telegram": {"enabled": False}})
    project.server("hetzner", 13, "both", file={"webhook": {"enabled": True}})
    own_token = bot_token(project)
    project.cloud.add_bot(own_token, [7])
    own = {"enabled": True, "bot_token": own_token, "chat_id": 7, "message_success": "own"}
    project.server("hetzner", 14, "own_bot", file={"telegram": own})
    assert_delivered(project.run())
    messages = project.cloud.telegram_messages
    assert sorted((m.token == bot.token, m.chat_id) for m in messages) == [
        (False, "7"),
        (True, "123"),
        (True, "123"),
    ]
    assert [(hook.path, hook.json["server"]) for hook in project.cloud.hooks] == [(path, "both")]


def test_a_broken_server_file_is_reported_over_the_global_channels(
    project: Project, post: PostOffice
) -> None:
    server = post.open()
    del project.config["SMTP"]["notify_on_success"]
    telegram(project)
    webhook(project)
    project.server("hetzner", 11, "good")
    project.write("broken.json", '{"hetzner_cloud_server": {"id": 1,,}}')
    assert_delivered(project.run(), code=2)
    (text,) = [text for text in texts(project) if text.startswith("Snapshot Failed")]
    assert "broken" in text
    assert "line 1, column" in text
    (hook,) = [hook for hook in project.cloud.hooks if hook.json["status"] == "FAILURE"]
    assert hook.json["server"] == "broken"
    assert "line 1, column" in hook.json["error"]
    assert [mail.message["Subject"] for mail in server.mails] == ["Snapshot FAILURE: broken"]


@pytest.mark.proves("I25")
def test_a_dry_run_notifies_nobody(project: Project) -> None:
    telegram(project)
    webhook(project)
    project.server("hetzner", 11)
    project.write("broken.json", "{")
    assert project.run("--dry-run").code == 2
    assert project.cloud.count(SEND) == project.cloud.count(HOOK) == 0


# --- a run that cannot do its job ------------------------------------------------------------------------


def assert_told_of_the_run(project: Project, result: Result, reason: str, *channels: str) -> None:
    """The run failed, and exactly these channels were told why, once."""
    assert result.code == 1
    assert reason in result.err
    assert len(project.cloud.telegram_messages) == ("Telegram" in channels)
    assert len(project.cloud.hooks) == ("webhook" in channels)
    for text in texts(project):
        assert text.startswith("Snapshot Failed\n")
        assert reason in text
    for hook in project.cloud.hooks:
        assert hook.json["status"] == "FAILURE"
        assert reason in hook.json["error"]
    assert project.cloud.created == []


@pytest.mark.parametrize(
    ("section", "key", "channels"),
    [
        ("TIMING", "poll_interval", ["Telegram", "webhook"]),
        ("RETENTION", "max_delets", ["Telegram", "webhook"]),
        ("TELEGRAM", "timeout", ["Telegram", "webhook"]),
        ("TELEGRAM", "chat_id", ["webhook"]),
        ("WEBHOOK", "retreis", ["Telegram", "webhook"]),
        ("WEBHOOK", "url", ["Telegram"]),
        ("SMTP", "port", ["Telegram", "webhook"]),
        ("API", "telegram_url", ["webhook"]),
    ],
)
def test_a_configuration_problem_is_reported_over_every_channel_that_can_work(
    project: Project, section: str, key: str, channels: list[str]
) -> None:
    """One in a channel's own section too, if it is none of where messages go."""
    project.server("hetzner", 11)
    telegram(project)
    webhook(project)
    project.config.setdefault(section, {})[key] = "never"
    result = project.run()
    assert_told_of_the_run(project, result, f"[{section}] {key!r}", *channels)
    assert "not delivered" not in result.err


def test_the_run_level_failure_is_mailed_as_well(project: Project, post: PostOffice) -> None:
    server = post.open()
    project.config["TIMING"]["poll_interval"] = "never"
    assert project.run().code == 1
    (mail,) = server.mails
    assert "FAILURE" in mail.message["Subject"]
    assert "poll_interval" in mail.part("plain")
    project.config["SMTP"]["notify_on_failure"] = "false"
    assert project.run().code == 1
    assert len(server.mails) == 1


@pytest.mark.proves("I22")
def test_no_password_goes_out_in_the_clear_to_say_that_it_would(
    project: Project, post: PostOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one problem is that of the mail server; the others are notified of it."""
    server = post.open(offers_tls=False)
    network.resolve(monkeypatch, "mail.example", "127.0.0.1")
    project.config["SMTP"].update(server="mail.example", security="none")
    telegram(project)
    project.server("hetzner", 11)
    assert_told_of_the_run(project, project.run(), "in the clear", "Telegram")
    assert (server.connections, server.asked) == (0, [])


@pytest.mark.proves("D-2")
def test_no_server_at_all_is_reported(project: Project) -> None:
    telegram(project, message_failure=SAMPLE_FAILURE)
    webhook(project)
    (project.folder / "configs").mkdir()
    result = project.run()
    assert_told_of_the_run(project, result, "holds no server file", "Telegram", "webhook")


def test_an_unusable_lock_is_reported(project: Project) -> None:
    telegram(project)
    webhook(project)
    project.server("hetzner", 11)
    (project.folder / "logs" / "snapshots.lock").mkdir(parents=True)
    result = project.run()
    assert_told_of_the_run(project, result, "the lock file cannot be", "Telegram", "webhook")


def test_a_crash_of_our_own_is_reported(project: Project) -> None:
    telegram(project)
    webhook(project)
    project.server("hetzner", 11)
    start = project.clock.start

    def refuse(target: Callable[[], Any], name: str) -> None:
        if name.startswith("turn"):
            raise MemoryError
        start(target, name)

    project.clock.start = refuse  # type: ignore[method-assign]
    result = project.run()
    assert_told_of_the_run(project, result, "unexpected MemoryError", "Telegram", "webhook")
    assert "Traceback" in result.log


def test_a_held_lock_is_nobodys_business(project: Project) -> None:
    telegram(project)
    webhook(project)
    project.server("hetzner", 11)
    path = project.folder / "logs" / "snapshots.lock"
    path.parent.mkdir()
    with open(path, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert project.run().code == 3
    assert project.cloud.journal == []


def test_a_run_level_failure_that_cannot_be_delivered_is_a_warning(project: Project) -> None:
    webhook(project)
    project.config["TIMING"]["poll_interval"] = "never"
    project.cloud.fault(HOOK, fake.status(400), times=None)
    result = project.run()
    assert result.code == 1
    assert "warning: " in result.err
    assert "not delivered" in result.err


# --- secrets -----------------------------------------------------------------------------------------------
# The project's fixture searches all that was written for every credential after each test.


def echo(project: Project, *secrets: str) -> bytes:
    """What a careless server answers: all that it was sent."""
    return json.dumps(
        {
            "ok": False,
            "description": f"cannot do {' '.join(secrets)}",
            "message": f"no {' '.join(secrets)} here",
        }
    ).encode()


@pytest.mark.proves("I21", "N1", "W10")
@pytest.mark.parametrize(
    "case",
    ["echo 400", "echo 500", "echo 200", "redirect", "hang-up", "html", "refused", "odd head"],
)
def test_no_fault_shows_the_token_or_the_url(project: Project, case: str) -> None:
    bot = telegram(project)
    path = webhook(project)
    url = project.cloud.url + path
    project.server("hetzner", 11)
    says = echo(project, bot.token, url, path)
    kinds = {
        "echo 400": fake.status(400, body=says),
        "echo 500": fake.status(500, body=says),
        "echo 200": fake.status(200, body=says),
        "redirect": fake.redirect(f"{url}/{bot.token}"),
        "hang-up": fake.hang_up(),
        "html": fake.garbage(says, act=False, status=403),
        "odd head": fake.status(401, headers={"Retry-After": bot.token, "Date": url}),
    }
    if case == "refused":
        nowhere = f"http://127.0.0.1:{free_port()}"
        project.config["API"]["telegram_url"] = nowhere
        project.config["WEBHOOK"]["url"] = nowhere + path
    else:
        project.cloud.fault(SEND, kinds[case], times=None)
        project.cloud.fault(HOOK, kinds[case], times=None)
    result = project.run("-v")
    assert result.code == 0
    assert "Telegram notification not delivered" in result.err


def test_a_receiver_that_names_the_last_part_of_the_url_does_not_give_it_away(
    project: Project,
) -> None:
    """As n8n does, which leaves out the /webhook/ before it."""
    webhook(project)
    secret_part = project.token("last")
    project.config["WEBHOOK"]["url"] = f"{project.cloud.url}/hook/webhook/{secret_part}"
    project.server("hetzner", 11)
    body = {
        "code": 404,
        "message": f'The requested webhook "POST {secret_part}" is not registered.',
    }
    project.cloud.fault(HOOK, fake.status(404, body), times=None)
    result = project.run("-v")
    assert result.code == 0
    assert "1 notification not delivered" in result.log
    assert "is not registered" in result.err


@pytest.mark.proves("W10")
def test_a_password_that_the_mail_server_quotes_is_masked(
    project: Project, post: PostOffice
) -> None:
    post.open(users={})
    project.server("hetzner", 11)
    result = project.run("-v")
    assert result.code == 0
    assert "1 notification not delivered" in result.log
    assert "535" in result.err


@pytest.mark.proves("I21")
def test_a_short_password_is_masked_in_what_its_own_server_says(
    project: Project, post: PostOffice
) -> None:
    post.open(users={})
    project.config["SMTP"]["password"] = "Zq7Rk2W"
    project.server("hetzner", 11)
    result = project.run("-v")
    assert result.code == 0
    assert "535" in result.err
    assert "Zq7Rk2W" not in result.out + result.err + result.log


def test_a_credential_in_an_apis_error_is_masked_in_every_message(
    project: Project, post: PostOffice
) -> None:
    server = post.open()
    telegram(project)
    webhook(project)
    project.server("hetzner", 11)
    token = project.account("hetzner").token
    body = {"error": {"code": "odd", "message": f"the token {token} is odd"}}
    project.cloud.fault(CREATE, fake.status(400, body), times=None)
    assert project.run().code == 1
    told_texts = [
        texts(project)[0],
        project.cloud.hooks[0].json["error"],
        server.mails[0].part("plain"),
    ]
    assert all("is odd" in text and snapshots.MASK in text for text in told_texts)


@pytest.mark.proves("I21")
@pytest.mark.parametrize("length", [*range(120, 300, 20), 288, 292, 294, 296])
def test_no_text_is_cut_within_a_credential(
    project: Project, post: PostOffice, length: int
) -> None:
    """The beginning that is left would be known to nobody any more, and stay."""
    filler = "x" * length
    bot, path, office = telegram(project), webhook(project), post.open()
    greylist = f"451 {filler}{post.password}"
    office.answers["data"] = collections.deque([greylist] * 9)
    for number, (provider, create) in enumerate(
        {
            "hetzner": CREATE,
            "digitalocean": "POST /do/droplets/{id}/actions",
            "contabo": "POST /cb/compute/instances/{id}/snapshots",
        }.items()
    ):
        server = project.server(provider, 11 + number)
        account = server.account
        secret = account.client_secret if provider == "contabo" else account.token
        body = {"message": filler + secret}
        project.cloud.fault(create, fake.status(400, body), times=None)
    project.cloud.fault(SEND, fake.status(400, {"description": filler + bot.token}), times=1)
    project.cloud.fault(HOOK, fake.status(400, {"message": filler + path}), times=None)
    result = project.run("-v")
    assert result.code == 1
    assert "not delivered" in result.err


def test_what_an_action_ends_with_is_not_cut_within_a_credential(project: Project) -> None:
    servers = [project.server("hetzner", number, f"web{number}") for number in range(11, 23)]
    token = servers[0].account.token

    def spoil(content: Any) -> Any:
        for number, action in enumerate(content["actions"]):
            message = "x" * (240 + 5 * number) + token
            action.update(status="error", error={"code": "odd", "message": message})
        return content

    project.cloud.fault("GET /hz/actions", fake.edit(spoil), times=None)
    result = project.run("-v")
    assert result.code == 1
    assert result.err.count("Hetzner ended the action with an error: odd: xxx") == 12


def test_a_run_level_failure_shows_no_credential(project: Project) -> None:
    bot = telegram(project)
    webhook(project)
    project.config["TIMING"] = {bot.token: "x", "poll_interval": project.token("slip")}
    result = project.run()
    assert result.code == 1
    assert len(project.cloud.telegram_messages) == len(project.cloud.hooks) == 1
