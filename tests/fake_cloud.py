#!/usr/bin/env python3
"""Three clouds, Telegram and a webhook in one local server, for the tests.

A cloud with state, not canned answers: servers have snapshots, snapshots take time, slots fill
up, tokens run out. It is stricter than the real ones (what they might only frown upon is written
down in `problems`) and stranger (listings are shuffled, pages short, time stamps vary in form).

Written after the vendors' own pages (read 2026-11):
  https://docs.digitalocean.com/reference/api/        https://docs.hetzner.cloud/
  https://api.contabo.com/                            https://core.telegram.org/bots/api

    with FakeCloud() as cloud:
        account = cloud.add_account("hetzner", token="...")
        server = cloud.add_server(account, 42, "web", duration_seconds=60)
        cloud.add_snapshot(server, "web-20260101000000", datetime(2026, 1, 1, tzinfo=timezone.utc))
        cloud.fault("GET /hz/images", status(500), hang_up(), times=2)
        ... run the tool against cloud.endpoints() ...
        assert cloud.names(server) == [...] and not cloud.problems

By hand: python fake_cloud.py --scenario FILE.json
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import email.utils
import functools
import gzip
import heapq
import html
import http.client
import itertools
import json
import math
import os
import re
import signal
import socket
import socketserver
import stat
import struct
import sys
import threading
import time
import traceback
import uuid
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, ClassVar, Optional, Protocol, TypeVar
from urllib.parse import parse_qs, unquote, urlencode

Json = dict[str, Any]
T = TypeVar("T")

BEGINNING = datetime.min.replace(tzinfo=timezone.utc)
NEVER = datetime.max.replace(tzinfo=timezone.utc)


# === Time ======================================================================================


class Clock(Protocol):
    """What the cloud asks of a clock."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...


class RealClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(timezone.utc)

    def monotonic(self) -> float:
        return time.monotonic()


def after(moment: datetime, seconds: float) -> datetime:
    """So many seconds later; NEVER where that is beyond the calendar."""
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        return NEVER


def iso_seconds(moment: datetime) -> str:
    """2020-07-28T16:47:44Z, as DigitalOcean writes it."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_offset(moment: datetime) -> str:
    """2016-01-30T23:55:00+00:00, as Hetzner also writes it."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S+00:00")


def iso_milliseconds(moment: datetime) -> str:
    """2021-06-02T12:32:03.363Z, as Contabo writes it."""
    moment = moment.astimezone(timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def read_moment(value: Any) -> Optional[datetime]:
    """The instant a strange time stamp means, if it means one."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=timezone.utc)
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", value))
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(
            timezone.utc
        )
    except (ValueError, OverflowError):
        return None


# === State =====================================================================================


@dataclass(eq=False)
class Account:
    """An account (a project at Hetzner) with its credentials. revoked: refuse them from now on."""

    provider: str
    token: str
    read_only: bool = False
    scopes: Optional[frozenset[str]] = None
    limit: Optional[int] = None
    customer: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    api_user: str = ""
    api_password: str = field(default="", repr=False)
    token_lifetime_seconds: float = 300
    revoked: bool = False
    servers: dict[str, Server] = field(default_factory=dict, repr=False)
    snapshots: dict[str, Snapshot] = field(default_factory=dict, repr=False)
    actions: list[Action] = field(default_factory=list, repr=False)
    actions_by_id: dict[int, Action] = field(default_factory=dict, repr=False)
    audits: list[Json] = field(default_factory=list, repr=False)
    access_tokens: dict[str, datetime] = field(default_factory=dict, repr=False)
    version: int = 0  # grows with each change of what a listing shows
    cache: dict[Any, tuple[int, list[Any]]] = field(default_factory=dict, repr=False)
    hits: deque[float] = field(default_factory=deque, repr=False)
    budget: float = 3600.0
    budget_at: float = -math.inf


@dataclass(eq=False)
class Server:
    """A droplet, server or instance, and how its snapshots go."""

    account: Account
    id: str
    name: str = "web"
    duration_seconds: float = 0.0
    size_gb: float = 2.3
    slots: int = 3
    fails: bool = False
    never_finishes: bool = False
    lists_late_seconds: float = 0.0
    snapshots: dict[str, Snapshot] = field(default_factory=dict, repr=False)
    actions: list[Action] = field(default_factory=list, repr=False)
    busy: list[Action] = field(default_factory=list, repr=False)
    lingering: int = 0  # slots of deleted snapshots that still count


@dataclass(eq=False)
class Snapshot:
    """A snapshot, backup, system image (kind "system") or volume snapshot (kind "volume").

    status: "available", "creating" or "unavailable". raw_created: shown instead of `created`.
    """

    account: Account
    id: str
    name: str
    created: datetime
    server: Optional[Server] = None
    kind: str = "snapshot"
    protected: bool = False
    status: str = "available"
    created_from: Optional[str] = "server"
    extra: Json = field(default_factory=dict)
    labels: Json = field(default_factory=dict)
    description: str = ""
    size_gb: float = 2.3
    auto_delete: Optional[datetime] = None
    raw_created: Any = None
    has_raw_created: bool = False
    listed_from: datetime = BEGINNING
    number: int = 0
    scramble: int = 0

    def __setattr__(self, name: str, value: Any) -> None:
        """Tests may change a snapshot under way: then no listing made before holds."""
        object.__setattr__(self, name, value)
        if name in ("status", "kind", "listed_from", "name", "labels", "created"):
            self.account.version += 1


@dataclass(eq=False)
class Action:
    """Something that goes on, or went on, with a server. status: running, success or error."""

    id: int
    type: str
    server: Server
    started: datetime
    status: str = "running"
    finished: Optional[datetime] = None
    due: datetime = NEVER
    snapshot: Optional[Snapshot] = None


@dataclass(eq=False)
class Request:
    """One request as it came, and what became of it. status None: no answer was given."""

    number: int
    method: str
    path: str
    route: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    json: Any
    at: datetime
    monotonic: float
    peer: int
    ids: tuple[str, ...] = ()
    status: Optional[int] = None
    account: Optional[Account] = None
    fault: Optional[Fault] = None

    def one(self, name: str) -> Optional[str]:
        """A query parameter's (last) value."""
        values = self.query.get(name)
        return values[-1] if values else None


@dataclass
class Answer:
    """What to send back. json None and body None: nothing."""

    status: int
    json: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    body: Optional[bytes] = None

    def payload(self) -> bytes:
        if self.body is not None:
            return self.body
        return b"" if self.json is None else json.dumps(self.json).encode()


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass
class Bot:
    """A Telegram bot and the chats it may write to."""

    token: str
    chats: frozenset[str]
    blocked: frozenset[str] = frozenset()
    sent: dict[str, deque[float]] = field(default_factory=dict)  # when, to each chat


@dataclass
class TelegramMessage:
    """A message as it is shown: the text without markup."""

    chat_id: str
    text: str
    entities: list[Json]
    parse_mode: Optional[str]
    payload: Json
    token: str = field(repr=False, default="")


@dataclass
class Hook:
    """A call of the webhook."""

    path: str
    json: Any
    headers: dict[str, str]
    body: bytes = b""


# === Faults ====================================================================================


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong with a request. act: its effect takes place all the same."""

    kind: str
    act: bool = False
    code: int = 200
    json: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    body: Optional[bytes] = None
    seconds: float = 0.0
    size: int = 0
    when: str = ""
    change: Optional[Callable[[Any], Any]] = None


def status(
    code: int,
    json: Any = None,
    headers: Optional[dict[str, str]] = None,
    body: Optional[bytes] = None,
    act: bool = False,
) -> Fault:
    """Answer this. Without json and body an error gets the vendor's own error body."""
    return Fault("status", act, code, json=json, headers=tuple((headers or {}).items()), body=body)


def hang_up(act: bool = False, when: str = "before") -> Fault:
    """Reset the connection: "before" the answer, within its "headers" or within its "body"."""
    if when not in ("before", "headers", "body"):
        raise ValueError(when)
    return Fault("hang_up", act, when=when)


def truncated(act: bool = True) -> Fault:
    """Announce the whole answer, send half of it and close."""
    return Fault("truncated", act)


def garbage(body: bytes = b"<html>", act: bool = True, status: int = 200) -> Fault:
    """Answer something that is no JSON."""
    headers = (("Content-Type", "text/html"),)
    return Fault("status", act, status, headers=headers, body=body)


def trickle(seconds_per_byte: float = 0.2, total_bytes: int = 1_000_000, act: bool = True) -> Fault:
    """Answer byte by byte."""
    return Fault("trickle", act, seconds=seconds_per_byte, size=total_bytes)


def stall(seconds: float, act: bool = False) -> Fault:
    """Say nothing for so many real seconds, then close."""
    return Fault("stall", act, seconds=seconds)


def huge(bytes_total: int, act: bool = False) -> Fault:
    """Answer this many bytes of JSON."""
    return Fault("huge", act, size=bytes_total)


def gzip_bomb(act: bool = False) -> Fault:
    """Answer a few kilobytes that unpack to 50 MB."""
    return Fault("gzip_bomb", act)


def redirect(to: str, code: int = 302, act: bool = False) -> Fault:
    """Send the client elsewhere."""
    return Fault("status", act, code, headers=(("Location", to),), body=b"")


def edit(fn: Callable[[Any], Any], act: bool = True) -> Fault:
    """Change the good JSON answer before it is sent: fn(json) -> json."""
    return Fault("edit", act, change=fn)


def late(seconds: float) -> Fault:
    """Answer 504 at once; the effect comes so many seconds later, by the cloud's clock."""
    return Fault("late", seconds=seconds)


@dataclass(eq=False)
class FaultRule:
    """Which requests meet which faults. used: how many have."""

    route: str
    faults: deque[Fault]
    times: Optional[int]
    when: Optional[Callable[[Request], bool]]
    used: int = 0
    left: int = 0

    def take(self, request: Request) -> Optional[Fault]:
        if not self.faults or not matches(self.route, request.route):
            return None
        if self.when is not None and not self.when(request):
            return None
        fault = self.faults[0]
        self.used += 1
        if self.times is not None:
            self.left -= 1
            if self.left <= 0:
                self.faults.popleft()
                self.left = self.times
        elif len(self.faults) > 1:
            self.faults.rotate(-1)
        return fault


@functools.lru_cache(maxsize=1)
def bomb() -> bytes:
    return gzip.compress(b'{"a":"' + b" " * 50_000_000 + b'"}', 9)


# === Telegram's markup =========================================================================
# As the Bot API server parses it: https://core.telegram.org/bots/api#formatting-options


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ENTITY_TYPES = words(
    "mention hashtag cashtag bot_command url email phone_number bold italic underline"
    " strikethrough spoiler blockquote expandable_blockquote code pre text_link text_mention"
    " custom_emoji"
)


class MarkupError(ValueError):
    """Text that Telegram refuses to parse."""


def utf16_units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def byte_offset(text: str, index: int) -> int:
    return len(text[:index].encode("utf-8", "surrogatepass"))


class Shown:
    """A text that is put together with its entities."""

    def __init__(self) -> None:
        self.text = ""
        self.units = 0
        self.entities: list[Json] = []

    def add(self, text: str) -> None:
        self.text += text
        self.units += utf16_units(text)

    def mark(self, kind: str, offset: int, **more: str) -> None:
        if self.units > offset:
            entity = {"type": kind, "offset": offset, "length": self.units - offset}
            self.entities.append({**entity, **more})

    def result(self) -> tuple[str, list[Json]]:
        return self.text, sorted(self.entities, key=lambda e: (e["offset"], -e["length"]))


def parse_markdown(text: str) -> tuple[str, list[Json]]:
    """The legacy Markdown: no nesting, and escapes only outside entities."""
    shown, i = Shown(), 0
    while i < len(text):
        sign = text[i]
        if sign == "\\" and text[i + 1 : i + 2] in ("_", "*", "`", "["):
            shown.add(text[i + 1])
            i += 2
            continue
        if sign not in "_*`[":
            shown.add(sign)
            i += 1
            continue
        kind = {"_": "italic", "*": "bold", "`": "code", "[": "text_link"}[sign]
        end = "]" if sign == "[" else sign
        if text.startswith("```", i):
            kind, end = "pre", "```"
        stop = text.find(end, i + len(end))
        if stop < 0:
            at = byte_offset(text, i)
            raise MarkupError(f"Can't find end of the entity starting at byte offset {at}")
        inner, more = text[i + len(end) : stop], {}
        i, offset = stop + len(end), shown.units
        if kind == "text_link":
            close = text.find(")", i) if text[i : i + 1] == "(" else -1
            more = {"url": text[i + 1 : close]} if close > i + 1 else {}
            i = max(i, close + 1)
        elif kind == "pre":
            language = re.match(r"([^\s`]+)\n", inner)
            if language:
                more, inner = {"language": language[1]}, inner[language.end() :]
        shown.add(inner)
        if kind != "text_link" or more:
            shown.mark(kind, offset, **more)
    return shown.result()


def parse_markdown_v2(text: str) -> tuple[str, list[Json]]:
    """MarkdownV2: nests; every reserved character outside code needs a backslash."""
    names = {"*": "bold", "_": "italic", "__": "underline", "~": "strikethrough"}
    names.update({"||": "spoiler", "`": "code", "```": "pre", "[": "text_link"})
    shown = Shown()
    stack: list[tuple[str, int, int, Json]] = []  # sign, offset in units, index, more fields
    i, quote_from, line_start = 0, -1, True
    while i < len(text):
        sign, inside = text[i], stack[-1][0] if stack else ""
        if sign == "\\" and i + 1 < len(text) and 0 < ord(text[i + 1]) <= 126:
            shown.add(text[i + 1])
            i, line_start = i + 2, False
            continue
        in_code = inside in ("`", "```")
        if line_start and sign == ">" and not in_code:
            quote_from = shown.units if quote_from < 0 else quote_from
            i, line_start = i + 1, False
            continue
        if line_start and quote_from >= 0 and not in_code:
            shown.mark("blockquote", quote_from)
            quote_from = -1
        line_start = sign == "\n"
        if sign not in ("`" if in_code else "_*[]()~`>#+-=|{}.!"):
            shown.add(sign)
            i += 1
            continue
        for mark in ("```", "__", "||", sign):
            if text.startswith(mark, i):
                break
        if in_code and mark != inside:
            if inside == "```":
                shown.add(sign)
                i += 1
                continue
            mark = inside
        if inside and (mark == inside or (inside == "[" and mark == "]")):
            _, offset, _, more = stack.pop()
            i += len(mark)
            if inside == "[":
                more = {"url": shown.text}
                if text[i : i + 1] == "(":
                    close = re.compile(r"(?:\\.|[^\\)])*\)", re.S).match(text, i + 1)
                    if close is None:
                        raise MarkupError(
                            f"Can't find end of a URL at byte offset {byte_offset(text, i)}"
                        )
                    more = {"url": re.sub(r"\\(.)", r"\1", close[0][:-1], flags=re.S)}
                    i = close.end()
            shown.mark(names[inside], offset, **more)
            continue
        if mark not in names:
            raise MarkupError(
                f"Character '{mark[0]}' is reserved and must be escaped with the preceding '\\'"
            )
        more = {}
        start, i = i, i + len(mark)
        if mark == "```":
            language = re.compile(r"([^\s`]*)\n").match(text, i)
            if language:
                more = {"language": language[1]} if language[1] else {}
                i = language.end()
        stack.append((mark, shown.units, start, more))
    if stack:
        kind, at = names[stack[-1][0]].title(), byte_offset(text, stack[-1][2])
        raise MarkupError(f"Can't find end of {kind} entity at byte offset {at}")
    if quote_from >= 0:
        shown.mark("blockquote", quote_from)
    return shown.result()


HTML_TAGS = {
    **dict.fromkeys(("b", "strong"), "bold"),
    **dict.fromkeys(("i", "em"), "italic"),
    **dict.fromkeys(("s", "strike", "del"), "strikethrough"),
    **dict.fromkeys(("u", "ins"), "underline"),
    **dict.fromkeys(("tg-spoiler", "span"), "spoiler"),
    "a": "text_link",
    "code": "code",
    "pre": "pre",
    "blockquote": "blockquote",
    "tg-emoji": "custom_emoji",
}


def parse_html(text: str) -> tuple[str, list[Json]]:
    """Telegram's few tags, balanced; of named entities only &lt; &gt; &amp; &quot;."""
    shown = Shown()
    stack: list[tuple[str, int, Json]] = []
    i = 0
    while i < len(text):
        if text[i] == "&":
            entity = re.compile(r"&(?:lt|gt|amp|quot|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});?").match(
                text, i
            )
            shown.add(html.unescape(entity[0]) if entity else "&")
            i = entity.end() if entity else i + 1
            continue
        if text[i] != "<":
            shown.add(text[i])
            i += 1
            continue
        at = byte_offset(text, i)
        tag = re.compile(r"<(/?)([^\s>/]*)((?:\"[^\"]*\"|'[^']*'|[^>\"'])*)>").match(text, i)
        name = tag[2].lower() if tag else re.split(r"[\s>/]", text[i + 1 :], maxsplit=1)[0].lower()
        closing = tag[1] == "/" if tag else text.startswith("</", i)
        if not closing and name not in HTML_TAGS:
            raise MarkupError(f'Unsupported start tag "{name}" at byte offset {at}')
        if tag is None:
            which = "end" if closing else "start"
            raise MarkupError(f"Unclosed {which} tag at byte offset {at}")
        i = tag.end()
        if not closing:
            attributes = re.findall(r"([\w-]+)\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s>]+)", tag[3])
            more = {key.lower(): html.unescape(value.strip("\"'")) for key, value in attributes}
            if name == "span" and more.get("class") != "tg-spoiler":
                raise MarkupError(f'Tag "span" must have class "tg-spoiler" at byte offset {at}')
            stack.append((name, shown.units, {"url": more["href"]} if "href" in more else {}))
            continue
        if not stack:
            raise MarkupError(f"Unexpected end tag at byte offset {at}")
        opened, offset, more = stack.pop()
        if name not in ("", opened):
            raise MarkupError(
                f'Unmatched end tag at byte offset {at}, expected "</{opened}>", found "</{name}>"'
            )
        if opened != "a" or more:
            shown.mark(HTML_TAGS[opened], offset, **more)
    if stack:
        raise MarkupError(f'Can\'t find end tag corresponding to start tag "{stack[-1][0]}"')
    return shown.result()


def fault_in_entities(text: str, entities: Any) -> str:
    """What is wrong with a list of entities; "" if nothing is."""
    if not isinstance(entities, list):
        return "expected an Array of MessageEntity"
    total, borders, position = utf16_units(text), {0}, 0
    for sign in text:
        position += 2 if ord(sign) > 0xFFFF else 1
        borders.add(position)
    for entity in entities:
        if not isinstance(entity, dict) or entity.get("type") not in ENTITY_TYPES:
            return f"unsupported entity: {entity!r}"
        offset, length = entity.get("offset"), entity.get("length")
        if type(offset) is not int or type(length) is not int or offset < 0 or length <= 0:
            return f"entity has a wrong offset or length: {entity!r}"
        if offset + length > total:
            return f"entity beginning at UTF-16 offset {offset} ends after the end of the text"
        if offset not in borders or offset + length not in borders:
            return f"entity beginning at UTF-16 offset {offset} cuts a UTF-16 symbol in two"
        if entity["type"] == "text_link" and not isinstance(entity.get("url"), str):
            return "entity text_link without a url"
    return ""


# === The cloud =================================================================================

PROVIDERS = ("digitalocean", "hetzner", "contabo")
RUNNING_WORDS = {"in-progress": "running", "completed": "success", "errored": "error"}
CONTABO_DAYS = 30


class FakeCloud:
    """All accounts, their state, a journal of every request, and the faults to come.

    page_size: no page is longer, whatever is asked for (None: as asked, up to the documented
    maximum). latency_seconds: real time before each request is acted upon.
    """

    made: ClassVar[list[FakeCloud]] = []  # every one of this process, until somebody clears it
    onlookers: ClassVar[list[Callable[[], None]]] = []  # called at every request of any of them

    def __init__(
        self,
        clock: Optional[Clock] = None,
        *,
        latency_seconds: float = 0.0,
        page_size: Optional[int] = 2,
        enforce_rate_limits: bool = False,
        port: int = 0,
    ) -> None:
        self.clock: Clock = clock or RealClock()
        self.latency_seconds = latency_seconds
        self.page_size = page_size
        self.enforce_rate_limits = enforce_rate_limits
        self.port = port
        # Knobs for tests.
        self.date_offset_seconds = 0.0
        self.action_order = "newest"  # of DigitalOcean's actions; or "oldest"
        self.ignore_filters = False
        self.slot_lingers_seconds = 0.0
        self.telegram_pace = False
        # What happened.
        self.journal: list[Request] = []
        self.problems: list[str] = []
        self.created: list[Snapshot] = []
        self.deleted: list[str] = []
        self.expired: list[str] = []
        self.telegram_messages: list[TelegramMessage] = []
        self.hooks: list[Hook] = []
        # The rest is the cloud's own.
        self.made.append(self)
        self.accounts: list[Account] = []
        self.bots: dict[str, Bot] = {}
        self.by_token: dict[str, Account] = {}
        self.time = self.clock.now()
        self.request_ids: set[str] = set()
        self._lock = threading.RLock()
        self._events: list[tuple[datetime, int, Callable[[], None]]] = []
        self._serial = itertools.count(1)
        self._action_ids = itertools.count(1_700_000_001)
        self._snapshot_ids = itertools.count(150_000_001)
        self._rules: list[FaultRule] = []
        self._stops: dict[int, list[tuple[Callable[[], None], bool]]] = {}
        self._connections = 0
        self._stopping = threading.Event()
        self._server: Optional[HttpServer] = None
        self.apis: tuple[Api, ...] = (
            DigitalOcean(self),
            Hetzner(self),
            ContaboLogin(self),
            Contabo(self),
            Telegram(self),
            Webhook(self),
        )

    # --- start and stop ---

    def start(self) -> FakeCloud:
        self._stopping.clear()
        self._server = HttpServer(self, self.port)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse connections from now on and cut those there are. start() opens it again."""
        self._stopping.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._server = None

    def come_to_rest(self) -> None:
        """Wait until all that a client sent before it went away has been dealt with."""
        # Connections are accepted in their order: when this one has been, all before it have been.
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as last:
            last.shutdown(socket.SHUT_WR)
            last.recv(1)
        until = time.monotonic() + 10
        while self._server is not None and self._server.live:
            if time.monotonic() > until:
                raise TimeoutError("the cloud does not come to rest")
            time.sleep(0.002)

    def __enter__(self) -> FakeCloud:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def endpoints(self) -> dict[str, str]:
        """For the tool's [API] section."""
        return {
            "digitalocean_url": f"{self.url}/do/v2",
            "hetzner_url": f"{self.url}/hz/v1",
            "contabo_url": f"{self.url}/cb/v1",
            "contabo_auth_url": (
                f"{self.url}/cb-auth/realms/contabo/protocol/openid-connect/token"
            ),
            "telegram_url": f"{self.url}/tg",
        }

    # --- set up ---

    def add_account(
        self,
        provider: str,
        token: Optional[str] = None,
        *,
        read_only: bool = False,
        scopes: Optional[Iterable[str]] = None,
        limit: Optional[int] = None,
        customer: Optional[str] = None,
        client_id: str = "client",
        client_secret: str = "client-secret",
        api_user: str = "api-user",
        api_password: str = "api-password",
        token_lifetime_seconds: float = 300,
    ) -> Account:
        """scopes: of a DigitalOcean token (None: all). limit: of Hetzner's snapshots, counted
        over all accounts of one customer. The client_id and what follows are Contabo's."""
        if provider not in PROVIDERS:
            raise ValueError(provider)
        with self._lock:
            number = len(self.accounts) + 1
            account = Account(
                provider,
                token if token is not None else f"{provider}-token-{number}",
                read_only=read_only,
                scopes=None if scopes is None else frozenset(scopes),
                limit=limit,
                customer=customer or f"customer-{number}",
                client_id=client_id,
                client_secret=client_secret,
                api_user=api_user,
                api_password=api_password,
                token_lifetime_seconds=token_lifetime_seconds,
            )
            self.accounts.append(account)
            if provider != "contabo":
                self.by_token[account.token] = account
            return account

    def add_server(
        self,
        account: Account,
        id: object,
        name: str = "web",
        *,
        duration_seconds: float = 0.0,
        size_gb: float = 2.3,
        slots: int = 3,
        fails: bool = False,
        never_finishes: bool = False,
        lists_late_seconds: float = 0.0,
    ) -> Server:
        """duration_seconds: how long its snapshots take. fails: they end in an error.
        lists_late_seconds: a finished one shows in listings only so much later."""
        with self._lock:
            server = Server(
                account,
                str(id),
                name,
                duration_seconds=duration_seconds,
                size_gb=size_gb,
                slots=slots,
                fails=fails,
                never_finishes=never_finishes,
                lists_late_seconds=lists_late_seconds,
            )
            account.servers[server.id] = server
            return server

    def remove_server(self, server: Server) -> None:
        """The server is gone; its snapshots stay, but for Contabo's."""
        with self._lock:
            server.account.servers.pop(server.id, None)
            if server.account.provider == "contabo":
                for snapshot in list(server.snapshots.values()):
                    self.forget(snapshot)

    def add_snapshot(
        self,
        server: Server,
        name: str,
        created: Any = None,
        *,
        id: Optional[object] = None,
        kind: str = "snapshot",
        protected: bool = False,
        status: str = "available",
        created_from: Optional[str] = "server",
        extra: Optional[Json] = None,
        auto_delete: Optional[datetime] = None,
        labels: Optional[Json] = None,
    ) -> Snapshot:
        """A snapshot that was there before. created: a datetime, or anything at all, which is
        then shown as it is. Contabo's are gone after 30 days unless auto_delete says otherwise."""
        with self._lock:
            return self._store(
                server.account,
                server,
                name,
                created,
                id=id,
                kind=kind,
                protected=protected,
                status=status,
                created_from=created_from,
                extra=extra,
                auto_delete=auto_delete,
                labels=labels,
            )

    def add_image(
        self, account: Account, name: str = "ubuntu-24.04", created: Any = None, **more: Any
    ) -> Snapshot:
        """A system image of Hetzner's."""
        with self._lock:
            return self._store(account, None, name, created, **{"kind": "system", **more})

    def add_volume_snapshot(
        self, account: Account, name: str = "volume-snapshot", created: Any = None, **more: Any
    ) -> Snapshot:
        """A snapshot of a DigitalOcean volume: its id is a UUID. resource_id: the volume's."""
        with self._lock:
            number = next(self._snapshot_ids)
            made_up = str(uuid.UUID(int=number * 0x1234567891234567 % 2**128))
            fields = {"id": made_up, "kind": "volume", **more}
            return self._store(account, None, name, created, **fields)

    def add_action(
        self,
        server: Server,
        type: str = "reboot",
        *,
        started: Optional[datetime] = None,
        status: str = "completed",
        seconds: Optional[float] = None,
    ) -> Action:
        """Something else that went on with a server. While it runs (for ever, or for the seconds
        given) the server is busy. status: in DigitalOcean's words or Hetzner's."""
        with self._lock:
            self.settle()
            started = started or self.time
            action = Action(
                next(self._action_ids), type, server, started, RUNNING_WORDS.get(status, status)
            )
            self._begin(action)
            if action.status == "running":
                if seconds is not None:
                    self.at(after(self.time, seconds), lambda: self._finish(action))
            else:
                server.busy.remove(action)
                action.finished = started
            server.actions.sort(key=lambda a: (a.started, a.id))
            server.account.actions.sort(key=lambda a: (a.started, a.id))
            return action

    def add_running_snapshot(self, server: Server, name: str, seconds: float) -> Snapshot:
        """A snapshot under way that another tool, or a run that crashed, began."""
        with self._lock:
            self.settle()
            return self.start_snapshot(server, name, seconds=seconds)[0]

    def add_bot(
        self, token: str, chats: Sequence[object] = ("123",), *, blocked: Sequence[object] = ()
    ) -> Bot:
        bot = Bot(token, frozenset(map(str, chats)), frozenset(map(str, blocked)))
        self.bots[token] = bot
        return bot

    # --- faults ---

    def fault(
        self,
        route: str,
        *faults: Fault,
        times: Optional[int] = 1,
        when: Optional[Callable[[Request], bool]] = None,
    ) -> FaultRule:
        """Each fault hits `times` matching requests, in this order. times None: for ever (many
        faults then take turns). Of several rules that match, the first added is used up first.
        route: as matches() reads it."""
        if not faults:
            raise ValueError("no fault given")
        rule = FaultRule(route, deque(faults), times, when, left=times or 0)
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear_faults(self) -> None:
        with self._lock:
            self._rules.clear()

    def stop_at(self, n: int, callback: Callable[[], None], before: bool = True) -> None:
        """At the nth request (from 1) call this before it is acted upon, or after that and before
        the answer is sent."""
        with self._lock:
            self._stops.setdefault(n, []).append((callback, before))

    def problem(self, text: str) -> None:
        self.problems.append(text)

    # --- what there is and what happened ---

    def snapshots(self, server: Optional[Server] = None) -> list[Snapshot]:
        """All there are now, those under way as well, in the order of their creation."""
        with self._lock:
            self.settle()
            found: list[Snapshot] = []
            for account in self.accounts:
                if server is None or account is server.account:
                    found += account.snapshots.values()
            if server is not None:
                found = [s for s in found if s.server is server]
            return sorted(found, key=lambda s: (s.created, s.number))

    def names(self, server: Optional[Server] = None) -> list[str]:
        return [s.name for s in self.snapshots(server)]

    def requests(self, route: str = "") -> list[Request]:
        """The requests of a route, as matches() reads it; "" is all."""
        return [r for r in list(self.journal) if matches(route, r.route)]

    def count(self, route: str = "") -> int:
        return len(self.requests(route))

    def connections(self) -> int:
        """How many TCP connections carried a request."""
        return self._connections

    def secrets(self) -> list[str]:
        """Every credential there is, the access tokens given out as well."""
        found = list(self.bots)
        for a in self.accounts:
            own = [a.client_secret, a.api_password] if a.provider == "contabo" else [a.token]
            found += [*own, *a.access_tokens]
        return found

    # --- state and its changes; for the APIs, which hold the lock ---

    def at(self, moment: datetime, happens: Callable[[], None]) -> None:
        """Let something happen then."""
        heapq.heappush(self._events, (moment, next(self._serial), happens))

    def settle(self) -> None:
        """Let everything happen that is due."""
        now = self.clock.now()
        while self._events and self._events[0][0] <= now:
            moment, _, happens = heapq.heappop(self._events)
            self.time = moment
            happens()
        self.time = now

    def _store(
        self,
        account: Account,
        server: Optional[Server],
        name: str,
        created: Any,
        *,
        id: Optional[object] = None,
        auto_delete: Optional[datetime] = None,
        extra: Optional[Json] = None,
        labels: Optional[Json] = None,
        **fields: Any,
    ) -> Snapshot:
        moment = read_moment(created) or self.time
        moment = moment.astimezone(timezone.utc)
        at_contabo = account.provider == "contabo"
        grain = moment.microsecond % 1000 if at_contabo else moment.microsecond
        number = next(self._snapshot_ids)
        snapshot = Snapshot(
            account,
            str(id) if id is not None else f"snap{number}" if at_contabo else str(number),
            name,
            moment - timedelta(microseconds=grain),
            server,
            extra=dict(extra or {}),
            labels=dict(labels or {}),
            size_gb=server.size_gb if server else 2.3,
            raw_created=created,
            has_raw_created=created is not None and not isinstance(created, datetime),
            number=number,
            **fields,
        )
        snapshot.scramble = zlib.crc32(snapshot.id.encode())
        if snapshot.id in account.snapshots:
            raise ValueError(f"there is a snapshot {snapshot.id} already")
        account.snapshots[snapshot.id] = snapshot
        if server is not None:
            server.snapshots[snapshot.id] = snapshot
        if at_contabo:
            ends = auto_delete or after(snapshot.created, CONTABO_DAYS * 86400)
            snapshot.auto_delete = ends
            self.at(ends, lambda: self._expire(snapshot))
        account.version += 1
        return snapshot

    def _begin(self, action: Action) -> None:
        account = action.server.account
        action.server.actions.append(action)
        action.server.busy.append(action)
        account.actions.append(action)
        account.actions_by_id[action.id] = action
        account.version += 1

    def start_snapshot(
        self,
        server: Server,
        name: str,
        *,
        seconds: Optional[float] = None,
        labels: Optional[Json] = None,
        description: str = "",
    ) -> tuple[Snapshot, Action]:
        """Begin a snapshot. seconds: instead of what the server's snapshots take."""
        snapshot = self._store(
            server.account,
            server,
            name,
            self.time,
            status="creating",
            labels=labels,
            description=description,
        )
        if server.lists_late_seconds:
            snapshot.listed_from = NEVER
        kind = "snapshot" if server.account.provider == "digitalocean" else "create_image"
        action = Action(next(self._action_ids), kind, server, snapshot.created, snapshot=snapshot)
        self._begin(action)
        if not server.never_finishes:
            takes = server.duration_seconds if seconds is None else seconds
            action.due = after(self.time, takes)
            self.at(action.due, lambda: self._finish(action))
        return snapshot, action

    def _finish(self, action: Action) -> None:
        server, snapshot = action.server, action.snapshot
        server.busy.remove(action)
        server.account.version += 1
        action.finished = self.time
        action.status = "success"
        if snapshot is None:
            return
        if not server.fails:
            snapshot.status = "available"
            if server.lists_late_seconds:
                snapshot.listed_from = after(self.time, server.lists_late_seconds)
                self.at(snapshot.listed_from, lambda: touch(server.account))
            return
        action.status = "error"
        snapshot.status = "unavailable"
        if server.account.provider != "hetzner":
            self.forget(snapshot)

    def _expire(self, snapshot: Snapshot) -> None:
        if self.forget(snapshot):
            self.expired.append(snapshot.id)

    def forget(self, snapshot: Snapshot) -> bool:
        """Take a snapshot away. False: it was gone already."""
        if snapshot.account.snapshots.pop(snapshot.id, None) is None:
            return False
        if snapshot.server is not None:
            snapshot.server.snapshots.pop(snapshot.id, None)
        snapshot.account.version += 1
        return True

    def delete(self, snapshot: Snapshot) -> None:
        """Delete a snapshot for a client."""
        self.forget(snapshot)
        self.deleted.append(snapshot.id)
        server = snapshot.server
        if server is not None and self.slot_lingers_seconds > 0:
            server.lingering += 1
            self.at(after(self.time, self.slot_lingers_seconds), lambda: free_slot(server))

    # --- serving ---

    def admit(
        self, method: str, target: str, headers: dict[str, str], body: bytes, peer: int
    ) -> tuple[Request, Optional[Route], Optional[Answer], list[tuple[Callable[[], None], bool]]]:
        """Write a request down, check it and choose its fault. Answer: a refusal, if it is one."""
        path, _, query = target.partition("?")
        with self._lock:
            self.settle()
            api, route, ids = self._route(method, path)
            request = Request(
                number=len(self.journal) + 1,
                method=method,
                path=path,
                route=route.key if route else f"{method} {path}",
                query=parse_qs(query, keep_blank_values=True) if query else {},
                headers=headers,
                body=body,
                json=None,
                at=self.time,
                monotonic=self.clock.monotonic(),
                peer=peer,
                ids=ids,
            )
            if body and "json" in headers.get("content-type", ""):
                with contextlib.suppress(ValueError, RecursionError):
                    request.json = json.loads(body)
            self.journal.append(request)
            refusal: Optional[Answer] = None
            if api is None or route is None:
                self.problem(f"{method} {path}: not modelled")
                refusal = Answer(501, {"message": f"{method} {path} is not modelled"})
            else:
                try:
                    api.check(request, route)
                except RefusedError as refused:
                    refusal = refused.answer
            for rule in self._rules:
                request.fault = rule.take(request)
                if request.fault is not None:
                    break
            return request, route, refusal, self._stops.get(request.number, [])

    def _route(
        self, method: str, path: str
    ) -> tuple[Optional[Api], Optional[Route], tuple[str, ...]]:
        for api in self.apis:
            if path.startswith(api.prefix):
                for route in api.routes:
                    if route.method == method:
                        found = route.pattern.fullmatch(path)
                        if found:
                            return api, route, found.groups()
                return api, None, ()
        return None, None, ()

    def act(self, request: Request, route: Optional[Route], refusal: Optional[Answer]) -> Answer:
        """Do what is asked, unless it is refused."""
        with self._lock:
            if refusal is not None or route is None:
                answer = refusal or Answer(501)
            else:
                try:
                    answer = route.handler(request, *request.ids)
                except RefusedError as refused:
                    answer = refused.answer
                except Exception:
                    self.problem(f"the fake itself failed:\n{traceback.format_exc()}")
                    answer = Answer(500, {"message": "the fake itself failed"})
            for api in self.apis:
                if request.path.startswith(api.prefix):
                    answer.headers.update(api.standing_headers(request))
                    break
            return answer

    def serve(
        self, wire: Wire, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> bool:
        """Answer one request. False: the connection is at its end."""
        if target.startswith("/control/"):
            return wire.answer(self, self._control(target))
        with self._lock:
            if not wire.counted:
                wire.counted = True
                self._connections += 1
        request, route, refusal, stops = self.admit(method, target, headers, body, wire.peer)
        for look in self.onlookers:
            look()
        if self.latency_seconds:
            self._stopping.wait(self.latency_seconds)
        for callback, before in stops:
            if before:
                callback()
        fault, answer = request.fault, None
        if fault is None or fault.act:
            with self._lock:
                self.settle()
                answer = self.act(request, route, refusal)
        elif fault.kind == "late":
            with self._lock:
                self.at(
                    after(self.clock.now(), fault.seconds),
                    lambda: swallow(self.act(request, route, refusal)),
                )
        for callback, before in stops:
            if not before:
                callback()
        if fault is None:
            answer = answer or Answer(500)
            request.status = answer.status
            return wire.answer(self, answer)
        return self._misbehave(wire, request, fault, answer)

    def _misbehave(
        self, wire: Wire, request: Request, fault: Fault, answer: Optional[Answer]
    ) -> bool:
        kind, json_type = fault.kind, {"Content-Type": "application/json"}
        if kind == "edit" and answer is not None:
            if answer.json is not None and fault.change is not None:
                answer = Answer(
                    answer.status, fault.change(copy.deepcopy(answer.json)), answer.headers
                )
            request.status = answer.status
            return wire.answer(self, answer)
        if kind in ("status", "late"):
            code = 504 if kind == "late" else fault.code
            reply = Answer(code, fault.json, dict(fault.headers), fault.body)
            if kind == "late":
                reply.headers["Content-Type"] = "text/html"
                reply.body = b"<html><h1>504 Gateway Time-out</h1></html>"
            elif fault.json is None and fault.body is None and code >= 400:
                reply.json = self._error_body(request, code)
            request.status = code
            return wire.answer(self, reply)
        answer = answer or Answer(200, {})
        if kind == "truncated":
            request.status = answer.status
            head, body = wire.render(self, answer)
            return wire.end(head + body[: len(body) // 2])
        if kind == "hang_up":
            head, body = wire.render(self, answer)
            if fault.when == "headers":
                wire.send(head[: len(head) // 2])
            elif fault.when == "body":
                wire.send(head + body[: len(body) // 2])
            return wire.reset()
        if kind == "stall":
            self._stopping.wait(fault.seconds)
            return wire.end()
        request.status = 200
        if kind == "gzip_bomb":
            packed = Answer(200, None, {**json_type, "Content-Encoding": "gzip"}, bomb())
            return wire.answer(self, packed)
        head, _ = wire.render(self, Answer(200, None, json_type, b""))
        head = head.replace(b"Content-Length: 0", b"Content-Length: %d" % fault.size)
        if not wire.send(head):
            return wire.end()
        step = 1 if kind == "trickle" else 65536
        for start in range(0, fault.size, step):
            chunk = b"x" * min(step, fault.size - start)
            if start == 0:
                chunk = (b'{"a":"' + chunk)[: len(chunk)]
            if start + step >= fault.size:
                chunk = (chunk + b'"}')[-len(chunk) :]
            if kind == "trickle" and self._stopping.wait(fault.seconds):
                return wire.end()
            if not wire.send(chunk):
                return wire.end()
        return not wire.closing

    def _error_body(self, request: Request, code: int) -> Any:
        for api in self.apis:
            if request.path.startswith(api.prefix):
                return api.error_body(code, http.client.responses.get(code, "Error"))
        return {"message": http.client.responses.get(code, "Error")}

    def _control(self, target: str) -> Answer:
        """For those who run the cloud as a program."""
        with self._lock:
            if target == "/control/state":
                return Answer(200, [self._server_state(s) for s in self._servers()])
            if target == "/control/journal":
                rows = [
                    {"route": r.route, "status": r.status, "account": account_name(r.account)}
                    for r in self.journal
                ]
                return Answer(200, rows)
            if target == "/control/summary":
                summary = {
                    "requests": dict(Counter(r.route for r in self.journal)),
                    "connections": self._connections,
                    "created": len(self.created),
                    "deleted": len(self.deleted),
                    "problems": self.problems,
                    "telegram": [m.text for m in self.telegram_messages],
                    "hooks": [{"path": h.path, "json": h.json} for h in self.hooks],
                }
                return Answer(200, summary)
        return Answer(404, {"message": "no such control route"})

    def _servers(self) -> list[Server]:
        self.settle()
        return [server for account in self.accounts for server in account.servers.values()]

    def _server_state(self, server: Server) -> Json:
        snapshots = [
            {
                "id": s.id,
                "name": s.name,
                "created": iso_milliseconds(s.created),
                "status": s.status,
                "protected": s.protected,
                "kind": s.kind,
            }
            for s in sorted(server.snapshots.values(), key=lambda s: (s.created, s.number))
        ]
        return {
            "provider": server.account.provider,
            "id": server.id,
            "name": server.name,
            "snapshots": snapshots,
        }


def touch(account: Account) -> None:
    account.version += 1


def free_slot(server: Server) -> None:
    server.lingering -= 1


def swallow(answer: Answer) -> None:
    """Nobody waits for this answer any more."""


def account_name(account: Optional[Account]) -> Optional[str]:
    return f"{account.provider}/{account.customer}" if account else None


# === What the APIs have in common ==============================================================

KNOWN_ROUTES: set[str] = set()  # every key there is


def matches(pattern: str, route: str) -> bool:
    """A full route key means that route alone; anything else is the beginning of one.

    "GET /hz/images" is not "GET /hz/images/{id}"; "GET /hz/images*", "GET /hz" and "*" are both.
    """
    if pattern.endswith("*"):
        return route.startswith(pattern[:-1])
    return route == pattern if pattern in KNOWN_ROUTES else route.startswith(pattern)


@dataclass(frozen=True)
class Route:
    """query: parameters it may have. many: those that may come more than once."""

    key: str
    method: str
    pattern: re.Pattern[str]
    handler: Callable[..., Answer]
    query: frozenset[str] = frozenset()
    many: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()


class Api:
    """One vendor's translation of requests into changes of state, and of state into JSON."""

    provider = ""
    prefix = ""
    codes: dict[int, str] = {}  # noqa: RUF012  (never changed)

    def __init__(self, cloud: FakeCloud) -> None:
        self.cloud = cloud
        self.routes = self.make_routes()

    def make_routes(self) -> list[Route]:
        raise NotImplementedError

    def route(
        self,
        key: str,
        handler: Callable[..., Answer],
        query: str = "",
        scopes: str = "",
        *,
        path: Optional[str] = None,
    ) -> Route:
        """query: names, with a * after those that may be repeated. path: after the prefix, a
        regex with {} for gaps; if not as in the key."""
        KNOWN_ROUTES.add(key)
        names = query.split()
        method, _, shown = key.partition(" ")
        path = "/" + shown.split("/", 2)[2] if path is None else path
        return Route(
            key,
            method,
            re.compile(re.sub(r"\{\w+\}", "([^/]+)", self.prefix + path)),
            handler,
            frozenset(name.rstrip("*") for name in names),
            frozenset(name[:-1] for name in names if name.endswith("*")),
            frozenset(scopes.split()),
        )

    # --- refusals ---

    def error_body(self, code: int, message: Any, word: str = "") -> Any:
        return {"message": message}

    def refuse(self, code: int, message: Any, word: str = "", **headers: str) -> RefusedError:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return RefusedError(Answer(code, self.error_body(code, message, word), names))

    def wrong(self, request: Request, text: str) -> None:
        """Note what no careful client does."""
        self.cloud.problem(f"{request.route}: {text}")

    def fail(self, request: Request, code: int, message: Any, word: str = "") -> RefusedError:
        """Refuse, and note it as a problem."""
        self.wrong(request, str(message))
        return self.refuse(code, message, word)

    # --- checks before anything is done ---

    def check(self, request: Request, route: Route) -> None:
        for name, values in request.query.items():
            if name not in route.query:
                self.wrong(request, f"unknown query parameter {name!r}")
            elif len(values) > 1 and name not in route.many:
                self.wrong(request, f"query parameter {name!r} given {len(values)} times")

    def check_body(self, request: Request) -> None:
        if request.method in ("GET", "DELETE"):
            if request.body:
                raise self.fail(request, 400, f"a body on a {request.method}")
        elif request.body:
            kind = request.headers.get("content-type", "")
            if kind.split(";")[0].strip().lower() != "application/json":
                raise self.fail(request, 415, f"Content-Type {kind!r} for a JSON body")
            if request.json is None:
                raise self.fail(request, 400, "the body is no JSON")

    def log_in(self, request: Request) -> Account:
        """The account of the bearer token."""
        header = request.headers.get("authorization", "")
        found = re.fullmatch(r"Bearer (\S+)", header)
        if header and not found:
            self.wrong(request, "an Authorization header that is no bearer token")
        account = self.cloud.by_token.get(found[1]) if found else None
        if account is not None and account.provider != self.provider:
            self.wrong(request, f"a credential of {account.provider} was sent to {self.provider}")
            account = None
        if account is None or account.revoked or not found or not self.holds(account, found[1]):
            raise self.refuse(401, "Unable to authenticate you")
        request.account = account
        return account

    def holds(self, account: Account, token: str) -> bool:
        """Is the token still good?"""
        return True

    def account(self, request: Request) -> Account:
        assert request.account is not None
        return request.account

    def standing_headers(self, request: Request) -> dict[str, str]:
        """Headers of every answer."""
        return {}

    def check_leaks(self, request: Request, *allowed: str) -> None:
        """No credential of the clouds may come here."""
        if "authorization" in request.headers:
            self.wrong(request, "an Authorization header")
        text = request.body.decode("utf-8", "replace") + repr(request.headers) + request.path
        for secret in self.cloud.secrets():
            if len(secret) >= 8 and secret not in allowed and secret in text:
                self.wrong(request, "a credential was sent here")

    # --- reading ---

    def number(self, request: Request, text: str) -> str:
        """An id in a path."""
        if not re.fullmatch(r"[1-9][0-9]{0,18}", text):
            raise self.fail(request, 404, f"{text!r} is no id")
        return text

    def server(self, request: Request, text: str) -> Server:
        server = self.account(request).servers.get(self.number(request, text))
        if server is None:
            raise self.refuse(404, "The resource you were accessing could not be found.")
        return server

    def whole(self, request: Request, name: str, default: int, highest: int) -> int:
        text = request.one(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= highest:
            raise self.fail(request, 422, f"{name}={text} is not within 1 to {highest}")
        return int(text)

    def paging(self, request: Request, name: str, default: int, highest: int) -> tuple[int, int]:
        """(page, entries on a page)"""
        size = self.whole(request, name, default, highest)
        return self.whole(request, "page", 1, 10**9), min(size, self.cloud.page_size or size)

    def listing(self, request: Request, build: Callable[[], list[Any]]) -> list[Any]:
        """A listing without its pages, made once as long as nothing changes."""
        account = self.account(request)
        query = tuple((k, *v) for k, v in request.query.items() if k not in self.PAGE_NAMES)
        key = (request.path, query, self.cloud.ignore_filters)
        found = account.cache.get(key)
        if found is None or found[0] != account.version:
            if len(account.cache) > 5000:
                account.cache.clear()
            found = account.cache[key] = (account.version, build())
        return found[1]

    PAGE_NAMES = ("page", "per_page", "size")

    def ordered(
        self,
        request: Request,
        items: Iterable[T],
        scramble: Callable[[T], Any],
        name: str = "sort",
        fields: Optional[dict[str, Callable[[T], Any]]] = None,
    ) -> list[T]:
        """Shuffled, the same way each time, unless an order was asked for."""
        found = sorted(items, key=scramble)
        for text in reversed(request.query.get(name, [])):
            key, _, direction = text.partition(":")
            if key not in (fields or {}) or direction.lower() not in ("", "asc", "desc"):
                raise self.fail(request, 422, f"{name}={text} is unknown")
            found.sort(key=(fields or {})[key], reverse=direction.lower() == "desc")
        return found

    def seen(self, snapshot: Snapshot) -> bool:
        """Is it finished and in the listings?"""
        return snapshot.status == "available" and snapshot.listed_from <= self.cloud.time


def scrambled(number: int) -> int:
    return zlib.crc32(str(number).encode())


def created_text(snapshot: Snapshot, write: Callable[[datetime], str]) -> Any:
    return snapshot.raw_created if snapshot.has_raw_created else write(snapshot.created)


# === DigitalOcean ==============================================================================
# https://docs.digitalocean.com/reference/api/


class DigitalOcean(Api):
    """Droplets. An unfinished snapshot is not to be seen, and no action names its snapshot."""

    provider = "digitalocean"
    prefix = "/do/v2"
    codes = {  # noqa: RUF012
        400: "bad_request",
        401: "unauthorized",
        403: "forbidden",
        404: "not_found",
        409: "conflict",
        422: "unprocessable_entity",
        429: "too_many_requests",
    }
    REGION: Json = {  # noqa: RUF012
        "name": "New York 3",
        "slug": "nyc3",
        "features": ["backups", "metadata"],
        "available": True,
        "sizes": ["s-1vcpu-1gb"],
    }

    def make_routes(self) -> list[Route]:
        route, pages, read, look = self.route, "page per_page", "droplet:read", "snapshot:read"
        make, erase = "droplet:update image:create", "image:delete snapshot:delete"
        droplet = "/do/droplets/{id}"
        return [
            route("GET /do/account", self.whoami, "", "account:read"),
            route(f"GET {droplet}", self.droplet, "", read),
            route(f"GET {droplet}/snapshots", self.droplet_snapshots, pages, read),
            route(f"GET {droplet}/actions", self.droplet_actions, pages, read),
            route(f"GET {droplet}/actions/{{aid}}", self.droplet_action, "", read),
            route(f"POST {droplet}/actions", self.create, "", make),
            route("GET /do/actions", self.actions, pages, "actions:read"),
            route("GET /do/actions/{id}", self.action, "", "actions:read"),
            route("GET /do/snapshots", self.snapshots, pages + " resource_type", look),
            route("GET /do/snapshots/{id}", self.snapshot, "", look),
            route("DELETE /do/snapshots/{id}", self.delete, "", erase),
        ]

    def error_body(self, code: int, message: Any, word: str = "") -> Any:
        return {
            "id": word or self.codes.get(code, "server_error"),
            "message": str(message),
            "request_id": "4d9d8375-3c56-4925-a3e7-eb137fed17e9",
        }

    def check(self, request: Request, route: Route) -> None:
        super().check(request, route)
        account = self.log_in(request)
        self._spend(account)
        scopes = account.scopes
        if (scopes is not None and not route.scopes <= scopes) or (
            account.read_only and request.method != "GET"
        ):
            raise self.refuse(403, "You are not authorized to perform this operation")
        self.check_body(request)

    # --- the limits: 5,000 an hour and 250 a minute ---

    def _crowded(self, account: Account, now: float) -> bool:
        return len(account.hits) >= 250 and account.hits[-250] > now - 60

    def _spend(self, account: Account) -> None:
        if not self.cloud.enforce_rate_limits:
            return
        now, hits = self.cloud.clock.monotonic(), account.hits
        while hits and hits[0] <= now - 3600:
            hits.popleft()
        if self._crowded(account, now):
            wait = str(max(1, math.ceil(hits[-250] + 60 - now)))
            raise self.refuse(429, "API rate limit exceeded.", retry_after=wait)
        if len(hits) >= 5000:
            raise self.refuse(429, "API rate limit exceeded.")
        hits.append(now)

    def standing_headers(self, request: Request) -> dict[str, str]:
        if request.account is None:
            return {}
        hits, now = request.account.hits, self.cloud.clock.monotonic()
        left = 0 if self._crowded(request.account, now) else 5000 - max(1, len(hits))
        reset = self.cloud.time.timestamp() + (hits[0] + 3600 - now if hits else 3600)
        return {
            "ratelimit-limit": "5000",
            "ratelimit-remaining": str(left),
            "ratelimit-reset": str(int(reset)),
        }

    # --- JSON ---

    def _action(self, action: Action) -> Json:
        words = {"running": "in-progress", "success": "completed", "error": "errored"}
        return {
            "id": action.id,
            "status": words.get(action.status, action.status),
            "type": action.type,
            "started_at": iso_seconds(action.started),
            "completed_at": iso_seconds(action.finished) if action.finished else None,
            "resource_id": int(action.server.id),
            "resource_type": "droplet",
            "region": self.REGION,
            "region_slug": "nyc3",
        }

    def _common(self, snapshot: Snapshot) -> Json:
        return {
            "name": snapshot.name,
            "created_at": created_text(snapshot, iso_seconds),
            "regions": ["nyc3"],
            "min_disk_size": 25,
            "size_gigabytes": snapshot.size_gb,
        }

    def _droplet_item(self, snapshot: Snapshot) -> Json:
        """As /droplets/{id}/snapshots shows it: an integer id, and a type."""
        head = {"id": int(snapshot.id), "type": snapshot.kind}
        return {**head, **self._common(snapshot), **snapshot.extra}

    def _item(self, snapshot: Snapshot) -> Json:
        """As /snapshots shows it: a text id, and an owner."""
        volume = snapshot.kind == "volume"
        return {
            "id": snapshot.id,
            **self._common(snapshot),
            "resource_id": snapshot.server.id if snapshot.server else snapshot.id,
            "resource_type": "volume" if volume else "droplet",
            "tags": None if snapshot.number % 2 else [],
            **snapshot.extra,
        }

    def _page(
        self, request: Request, key: str, items: Sequence[T], show: Callable[[T], Json]
    ) -> Answer:
        page, size = self.paging(request, "per_page", 20, 200)
        last = max(1, -(-len(items) // size))
        query = {k: v[-1] for k, v in request.query.items()}

        def link(number: int) -> str:
            return f"{self.cloud.url}{request.path}?{urlencode({**query, 'page': number})}"

        pages: dict[str, str] = {}
        if page > 1:
            pages.update(first=link(1), prev=link(page - 1))
        if page < last:
            pages.update(next=link(page + 1), last=link(last))
        shown = [show(item) for item in items[(page - 1) * size : page * size]]
        links = {"pages": pages} if pages else {}
        return Answer(200, {key: shown, "links": links, "meta": {"total": len(items)}})

    # --- the routes ---

    def whoami(self, request: Request) -> Answer:
        account = {
            "droplet_limit": 25,
            "floating_ip_limit": 5,
            "email": "sammy@example.com",
            "uuid": "b6fr89dbf6d9156cace5f3c78dc9851d957381ef",
            "email_verified": True,
            "status": "active",
            "status_message": "",
        }
        return Answer(200, {"account": account})

    def droplet(self, request: Request, id: str) -> Answer:
        server = self.server(request, id)
        of_kind = {
            kind: [int(s.id) for s in server.snapshots.values() if s.kind == kind and self.seen(s)]
            for kind in ("snapshot", "backup")
        }
        droplet = {
            "id": int(server.id),
            "name": server.name,
            "memory": 1024,
            "vcpus": 1,
            "disk": 25,
            "locked": bool(server.busy),
            "status": "active",
            "created_at": "2020-07-21T18:37:44Z",
            "features": [],
            "backup_ids": of_kind["backup"],
            "next_backup_window": None,
            "snapshot_ids": of_kind["snapshot"],
            "image": {"id": 7555620, "name": "24.04 x64", "type": "base", "distribution": "Ubuntu"},
            "volume_ids": [],
            "size": {
                "slug": "s-1vcpu-1gb",
                "memory": 1024,
                "vcpus": 1,
                "disk": 25,
                "transfer": 1,
                "price_monthly": 6,
                "price_hourly": 0.00893,
                "regions": [self.REGION["slug"]],
                "available": True,
                "description": "Basic",
            },
            "size_slug": "s-1vcpu-1gb",
            "networks": {"v4": [], "v6": []},
            "region": self.REGION,
            "tags": [],
        }
        return Answer(200, {"droplet": droplet})

    def droplet_snapshots(self, request: Request, id: str) -> Answer:
        server = self.server(request, id)
        shown = self.listing(
            request,
            lambda: sorted(filter(self.seen, server.snapshots.values()), key=lambda s: s.scramble),
        )
        return self._page(request, "snapshots", shown, self._droplet_item)

    def _actions(self, request: Request, actions: list[Action]) -> Answer:
        newest_first = self.cloud.action_order == "newest"
        return self._page(
            request, "actions", actions[::-1] if newest_first else actions, self._action
        )

    def droplet_actions(self, request: Request, id: str) -> Answer:
        return self._actions(request, self.server(request, id).actions)

    def actions(self, request: Request) -> Answer:
        return self._actions(request, self.account(request).actions)

    def droplet_action(self, request: Request, id: str, aid: str) -> Answer:
        server = self.server(request, id)
        action = server.account.actions_by_id.get(int(self.number(request, aid)))
        if action is None or action.server is not server:
            raise self.refuse(404, "The resource you were accessing could not be found.")
        return Answer(200, {"action": self._action(action)})

    def action(self, request: Request, id: str) -> Answer:
        action = self.account(request).actions_by_id.get(int(self.number(request, id)))
        if action is None:
            raise self.refuse(404, "The resource you were accessing could not be found.")
        return Answer(200, {"action": self._action(action)})

    def create(self, request: Request, id: str) -> Answer:
        server, body = self.server(request, id), request.json
        if not isinstance(body, dict) or body.get("type") != "snapshot":
            raise self.fail(request, 422, f"an action that is not modelled: {body!r}")
        if set(body) - {"type", "name"} or not isinstance(body.get("name"), str):
            raise self.fail(request, 422, f"only a type and a name are expected: {body!r}")
        if not body["name"]:
            raise self.fail(request, 422, "Name can't be blank")
        if server.busy:
            raise self.refuse(422, "Droplet already has a pending event.")
        snapshot, action = self.cloud.start_snapshot(server, body["name"])
        self.cloud.created.append(snapshot)
        return Answer(201, {"action": self._action(action)})

    def snapshots(self, request: Request) -> Answer:
        kind = request.one("resource_type")
        if kind not in (None, "droplet", "volume"):
            raise self.fail(request, 422, f"resource_type={kind} is unknown")
        wanted = {None: ("snapshot", "volume"), "droplet": ("snapshot",), "volume": ("volume",)}
        kinds = wanted[None if self.cloud.ignore_filters else kind]
        shown = self.listing(
            request,
            lambda: sorted(
                (
                    s
                    for s in self.account(request).snapshots.values()
                    if s.kind in kinds and self.seen(s)
                ),
                key=lambda s: s.scramble,
            ),
        )
        return self._page(request, "snapshots", shown, self._item)

    def _snapshot(self, request: Request, id: str) -> Snapshot:
        if not re.fullmatch(r"[1-9][0-9]{0,18}|[0-9a-f-]{36}", id):
            raise self.fail(request, 404, f"{id!r} is no id")
        snapshot = self.account(request).snapshots.get(id)
        if snapshot is None or snapshot.status != "available":
            raise self.refuse(404, "The resource you were accessing could not be found.")
        if snapshot.kind == "backup":
            raise self.refuse(400, "the resource is not a snapshot")
        return snapshot

    def snapshot(self, request: Request, id: str) -> Answer:
        return Answer(200, {"snapshot": self._item(self._snapshot(request, id))})

    def delete(self, request: Request, id: str) -> Answer:
        self.cloud.delete(self._snapshot(request, id))
        return Answer(204)


# === Hetzner ===================================================================================
# https://docs.hetzner.cloud/

LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
LABEL_KEY = re.compile(r"(?:[a-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def selects(selector: str, labels: Json) -> bool:
    """k==v, k=v, k!=v, k, !k, k in (a,b), k notin (a,b); a comma means and."""
    for term in re.findall(r"[^,(]+(?:\([^)]*\))?", selector):
        group = re.fullmatch(r"\s*(\S+)\s+(in|notin)\s*\(([^)]*)\)\s*", term)
        if group:
            values = [value.strip() for value in group[3].split(",")]
            holds = (labels.get(group[1]) in values) == (group[2] == "in")
        elif "!=" in term:
            key, value = term.split("!=", 1)
            holds = labels.get(key.strip()) != value.strip()
        elif "=" in term:
            key, value = re.split("==?", term, maxsplit=1)
            holds = labels.get(key.strip()) == value.strip()
        elif term.strip().startswith("!"):
            holds = term.strip()[1:] not in labels
        else:
            holds = term.strip() in labels
        if not holds:
            return False
    return True


class Hetzner(Api):
    """Servers. An image is there from the start, as `creating`, with a running action."""

    provider = "hetzner"
    prefix = "/hz/v1"
    codes = {  # noqa: RUF012
        400: "json_error",
        401: "unauthorized",
        403: "forbidden",
        404: "not_found",
        405: "method_not_allowed",
        409: "conflict",
        410: "deprecated_api_endpoint",
        412: "resource_unavailable",
        422: "invalid_input",
        423: "locked",
        429: "rate_limit_exceeded",
        502: "bad_gateway",
        503: "unavailable",
        504: "timeout",
    }
    LOCATION: Json = {  # noqa: RUF012
        "id": 1,
        "name": "fsn1",
        "description": "Falkenstein DC Park 1",
        "country": "DE",
        "city": "Falkenstein",
        "latitude": 50.47612,
        "longitude": 12.370071,
        "network_zone": "eu-central",
    }
    BUDGET = 3600.0

    def make_routes(self) -> list[Route]:
        route, pages, server = self.route, "page per_page status* sort*", "/hz/servers/{id}"
        filters = " type* bound_to* name label_selector architecture include_deprecated"
        return [
            route("GET /hz/images", self.images, pages + filters),
            route("GET /hz/images/{id}", self.image),
            route("DELETE /hz/images/{id}", self.delete),
            route("GET /hz/actions", self.actions, "id*"),
            route("GET /hz/actions/{id}", self.action),
            route(f"GET {server}", self.get_server),
            route(f"GET {server}/actions", self.server_actions, pages),
            route(f"GET {server}/actions/{{aid}}", self.deprecated),
            route(f"POST {server}/actions/create_image", self.create),
        ]

    def error_body(self, code: int, message: Any, word: str = "") -> Any:
        word = word or self.codes.get(code, "server_error")
        details = {}
        if word == "invalid_input":
            details = {"fields": [{"name": "", "messages": [str(message)]}]}
        return {"error": {"code": word, "message": str(message), "details": details}}

    def check(self, request: Request, route: Route) -> None:
        super().check(request, route)
        account = self.log_in(request)
        if self.cloud.enforce_rate_limits:
            if self._budget(account) < 1:
                raise self.refuse(429, "limit of 3600 requests per hour reached")
            account.budget -= 1
        if account.read_only and request.method != "GET":
            raise self.refuse(401, "Token is only allowed to GET", "token_readonly")
        self.check_body(request)

    # --- the limit: 3,600, refilled one a second ---

    def _budget(self, account: Account) -> float:
        now = self.cloud.clock.monotonic()
        account.budget = min(self.BUDGET, account.budget + max(0.0, now - account.budget_at))
        account.budget_at = now
        return account.budget

    def standing_headers(self, request: Request) -> dict[str, str]:
        headers = {"X-Correlation-Id": f"{request.number:016x}"}
        if request.account is not None:
            budget = self._budget(request.account) if self.cloud.enforce_rate_limits else 3599.0
            reset = self.cloud.time.timestamp() + self.BUDGET - budget
            headers["RateLimit-Limit"] = "3600"
            headers["RateLimit-Remaining"] = str(int(budget))
            headers["RateLimit-Reset"] = str(math.ceil(reset))
        return headers

    # --- JSON ---

    def _image(self, snapshot: Snapshot) -> Json:
        server, system = snapshot.server, snapshot.kind == "system"
        write = iso_offset if snapshot.number % 2 else iso_seconds
        origin = None
        if server is not None and snapshot.created_from == "server":
            origin = {"id": int(server.id), "name": server.name}
        bound = server is not None and snapshot.kind == "backup"
        return {
            "id": int(snapshot.id),
            "type": snapshot.kind,
            "status": snapshot.status,
            "name": snapshot.name if system else None,
            "description": snapshot.name,
            "image_size": None if system or snapshot.status == "creating" else snapshot.size_gb,
            "disk_size": 40,
            "created": created_text(snapshot, write),
            "created_from": origin,
            "bound_to": int(server.id) if bound and server else None,
            "os_flavor": "ubuntu",
            "os_version": "24.04",
            "rapid_deploy": system,
            "protection": {"delete": snapshot.protected},
            "deprecated": None,
            "deleted": None,
            "labels": snapshot.labels,
            "architecture": "x86",
            **snapshot.extra,
        }

    def _action(self, action: Action) -> Json:
        progress = 100
        if action.status == "running":
            spent = (self.cloud.time - action.started).total_seconds()
            known = action.due != NEVER
            total = (action.due - action.started).total_seconds() if known else 86400.0
            progress = max(0, min(99, int(100 * spent / total))) if total > 0 else 0
        resources: list[Json] = [{"id": int(action.server.id), "type": "server"}]
        if action.snapshot is not None:
            resources.append({"id": int(action.snapshot.id), "type": "image"})
        failure = {"code": "action_failed", "message": "Action failed"}
        return {
            "id": action.id,
            "command": action.type,
            "status": action.status,
            "started": iso_seconds(action.started),
            "finished": iso_seconds(action.finished) if action.finished else None,
            "progress": progress,
            "resources": resources,
            "error": failure if action.status == "error" else None,
        }

    def _page(
        self, request: Request, key: str, items: Sequence[T], show: Callable[[T], Json]
    ) -> Answer:
        page, size = self.paging(request, "per_page", 25, 50)
        last = max(1, -(-len(items) // size))
        shown = [show(item) for item in items[(page - 1) * size : page * size]]
        pagination = {
            "page": page,
            "per_page": size,
            "previous_page": page - 1 if page > 1 else None,
            "next_page": page + 1 if page < last else None,
            "last_page": last,
            "total_entries": len(items),
        }
        return Answer(200, {key: shown, "meta": {"pagination": pagination}})

    # --- the routes ---

    def images(self, request: Request) -> Answer:
        return self._page(
            request, "images", self.listing(request, lambda: self._images(request)), self._image
        )

    def _images(self, request: Request) -> list[Snapshot]:
        query = request.query
        for field_name, known in (
            ("type", ("system", "app", "snapshot", "backup")),
            ("status", ("available", "creating", "unavailable")),
        ):
            for word in query.get(field_name, []):
                if word not in known:
                    raise self.fail(request, 422, f"{field_name}={word} is unknown")
        found = [
            s for s in self.account(request).snapshots.values() if s.listed_from <= self.cloud.time
        ]
        if not self.cloud.ignore_filters:
            types, states, bound = (set(query.get(n, ())) for n in ("type", "status", "bound_to"))
            name, selector = request.one("name"), request.one("label_selector")
            found = [
                s
                for s in found
                if (not types or s.kind in types)
                and (not states or s.status in states)
                and (name is None or (s.kind == "system" and s.name == name))
                and (selector is None or selects(selector, s.labels))
                and (not bound or (s.kind == "backup" and s.server and s.server.id in bound))
            ]
        return self.ordered(
            request,
            found,
            lambda s: s.scramble,
            "sort",
            {
                "id": lambda s: int(s.id),
                "name": lambda s: s.name if s.kind == "system" else "",
                "created": lambda s: s.created,
            },
        )

    def _find(self, request: Request, id: str) -> Snapshot:
        snapshot = self.account(request).snapshots.get(self.number(request, id))
        if snapshot is None:
            raise self.refuse(404, "image not found")
        return snapshot

    def image(self, request: Request, id: str) -> Answer:
        return Answer(200, {"image": self._image(self._find(request, id))})

    def delete(self, request: Request, id: str) -> Answer:
        snapshot = self._find(request, id)
        if snapshot.kind == "system":
            raise self.fail(request, 403, "a system image cannot be deleted")
        if snapshot.protected:
            raise self.refuse(423, "image is protected", "protected")
        if snapshot.status == "creating":
            raise self.refuse(423, "image is locked")
        self.cloud.delete(snapshot)
        return Answer(204)

    def actions(self, request: Request) -> Answer:
        ids = request.query.get("id", [])
        if not ids:
            raise self.fail(request, 422, "id is required")
        if len(ids) > 50:
            raise self.fail(request, 422, f"{len(ids)} ids at once")
        known = self.account(request).actions_by_id
        wanted = {int(self.number(request, id)) for id in ids}
        found = [known[number] for number in wanted if number in known]
        return Answer(
            200,
            {"actions": [self._action(a) for a in sorted(found, key=lambda a: scrambled(a.id))]},
        )

    def action(self, request: Request, id: str) -> Answer:
        action = self.account(request).actions_by_id.get(int(self.number(request, id)))
        if action is None:
            raise self.refuse(404, "action not found")
        return Answer(200, {"action": self._action(action)})

    def server_actions(self, request: Request, id: str) -> Answer:
        server, states = self.server(request, id), set(request.query.get("status", ()))
        if states - {"running", "success", "error"}:
            raise self.fail(request, 422, f"status={states} is unknown")
        shown = self.ordered(
            request,
            (
                a
                for a in server.actions
                if not states or self.cloud.ignore_filters or a.status in states
            ),
            lambda a: scrambled(a.id),
            "sort",
            {
                "id": lambda a: a.id,
                "command": lambda a: a.type,
                "status": lambda a: a.status,
                "started": lambda a: a.started,
                "finished": lambda a: a.finished or NEVER,
            },
        )
        return self._page(request, "actions", shown, self._action)

    def deprecated(self, request: Request, id: str, aid: str) -> Answer:
        raise self.fail(request, 410, "this endpoint is deprecated")

    def get_server(self, request: Request, id: str) -> Answer:
        server = self.server(request, id)
        size = {"id": 1, "name": "cpx22", "description": "CPX22", "cores": 2, "memory": 4}
        size.update({"disk": 80, "deprecated": False, "prices": [], "storage_type": "local"})
        size.update({"cpu_type": "shared", "architecture": "x86", "locations": []})
        shown = {
            "id": int(server.id),
            "name": server.name,
            "status": "running",
            "created": "2016-01-30T23:55:00Z",
            "public_net": {"ipv4": None, "ipv6": None, "floating_ips": []},
            "private_net": [],
            "server_type": size,
            "location": self.LOCATION,
            "image": None,
            "iso": None,
            "rescue_enabled": False,
            "locked": bool(server.busy),
            "backup_window": None,
            "outgoing_traffic": 123456,
            "ingoing_traffic": 123456,
            "included_traffic": 654321,
            "protection": {"delete": False, "rebuild": False},
            "labels": {},
            "volumes": [],
            "primary_disk_size": 50,
        }
        return Answer(200, {"server": shown})

    def create(self, request: Request, id: str) -> Answer:
        server = self.server(request, id)
        body = {} if not request.body else request.json
        if not isinstance(body, dict):
            raise self.fail(request, 400, "the body is no object")
        for key in set(body) - {"type", "description", "labels"}:
            raise self.fail(request, 422, f"invalid input: unknown field name '{key}'")
        if body.get("type", "snapshot") != "snapshot":
            raise self.fail(request, 422, f"type {body['type']!r} is not modelled")
        name, labels = body.get("description", f"snapshot of {server.name}"), body.get("labels", {})
        if not isinstance(name, str) or not isinstance(labels, dict):
            raise self.fail(request, 422, "invalid input in description or labels")
        for key, value in labels.items():
            well = isinstance(value, str) and LABEL_VALUE.fullmatch(value)
            if not well or not LABEL_KEY.fullmatch(key) or key.startswith("hetzner.cloud/"):
                raise self.fail(request, 422, f"invalid label {key!r}: {value!r}")
        if server.busy:
            raise self.refuse(423, "server is locked: an action is running")
        account = server.account
        if account.limit is not None:
            held = sum(
                s.kind == "snapshot"
                for a in self.cloud.accounts
                if a.provider == "hetzner" and a.customer == account.customer
                for s in a.snapshots.values()
            )
            if held >= account.limit:
                raise self.refuse(403, "snapshot limit exceeded", "resource_limit_exceeded")
        snapshot, action = self.cloud.start_snapshot(server, name, labels=labels)
        self.cloud.created.append(snapshot)
        return Answer(201, {"image": self._image(snapshot), "action": self._action(action)})


# === Contabo ===================================================================================
# https://api.contabo.com/


class ContaboLogin(Api):
    """The password grant of Contabo's Keycloak."""

    provider = "contabo"
    prefix = "/cb-auth"
    FIELDS = frozenset(("grant_type", "client_id", "client_secret", "username", "password"))

    def make_routes(self) -> list[Route]:
        path = "/realms/contabo/protocol/openid-connect/token"
        return [self.route("POST /cb-auth/token", self.token, path=path)]

    def error_body(self, code: int, message: Any, word: str = "") -> Any:
        return {"error": word or "server_error", "error_description": str(message)}

    def check(self, request: Request, route: Route) -> None:
        super().check(request, route)
        if "authorization" in request.headers:
            self.wrong(request, "an Authorization header")

    def token(self, request: Request) -> Answer:
        kind = request.headers.get("content-type", "")
        if kind.split(";")[0].strip().lower() != "application/x-www-form-urlencoded":
            raise self.fail(request, 415, f"Content-Type {kind!r} for a form")
        form = parse_qs(request.body.decode("utf-8", "replace"), keep_blank_values=True)
        if set(form) != self.FIELDS or any(len(values) != 1 for values in form.values()):
            raise self.fail(request, 400, f"unexpected fields: {sorted(form)}", "invalid_request")
        one = {name: values[0] for name, values in form.items()}
        if one["grant_type"] != "password":
            raise self.fail(request, 400, "Unsupported grant_type", "unsupported_grant_type")
        user, client = (one["username"], one["password"]), (one["client_id"], one["client_secret"])
        for account in self.cloud.accounts:
            if account.provider != "contabo" or account.revoked:
                continue
            if user != (account.api_user, account.api_password):
                continue
            if client != (account.client_id, account.client_secret):
                raise self.refuse(401, "Invalid client credentials", "invalid_client")
            request.account = account
            return self._issue(account)
        raise self.refuse(401, "Invalid user credentials", "invalid_grant")

    def _issue(self, account: Account) -> Answer:
        number = len(account.access_tokens) + 1
        own = zlib.crc32(f"{account.customer} {account.api_user} {number}".encode())
        token = f"eyJhbGciOiJSUzI1NiJ9.{own:08x}{number:08d}.{own * 2654435761 % 2**64:016x}"
        lifetime = account.token_lifetime_seconds
        account.access_tokens[token] = after(self.cloud.time, lifetime)
        self.cloud.by_token[token] = account
        return Answer(
            200,
            {
                "access_token": token,
                "expires_in": int(lifetime) if lifetime == int(lifetime) else lifetime,
                "refresh_expires_in": 1800,
                "refresh_token": f"refresh-{own:08x}",
                "token_type": "Bearer",
                "not-before-policy": 0,
                "session_state": "2f5a4d4e-62cb-4a8b-8c2e-6b8c7a1f0f5d",
                "scope": "email profile",
            },
        )


class Contabo(Api):
    """Instances with a few slots for snapshots, each of them gone after 30 days."""

    provider = "contabo"
    prefix = "/cb/v1"
    REQUEST_ID = re.compile(
        r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-5][0-9A-Fa-f]{3}-[089abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}"
    )

    def make_routes(self) -> list[Route]:
        route, pages, instance = self.route, "page size orderBy*", "/cb/compute/instances/{id}"
        audits, snapshot = " requestId instanceId snapshotId", instance + "/snapshots/{sid}"
        return [
            route("GET /cb/compute/instances", self.instances, pages + " name instanceId"),
            route(f"GET {instance}", self.instance),
            route(f"GET {instance}/snapshots", self.snapshots, pages + " name"),
            route(f"POST {instance}/snapshots", self.create),
            route(f"GET {snapshot}", self.snapshot),
            route(f"DELETE {snapshot}", self.delete),
            route("GET /cb/compute/snapshots/audits", self.audits, pages + audits),
        ]

    def error_body(self, code: int, message: Any, word: str = "") -> Any:
        return {"statusCode": code, "message": message}

    def check(self, request: Request, route: Route) -> None:
        super().check(request, route)
        own = request.headers.get("x-request-id", "")
        if not self.REQUEST_ID.fullmatch(own):
            raise self.fail(request, 400, "x-request-id must be a UUID")
        if own.lower() in self.cloud.request_ids:
            raise self.fail(request, 400, "x-request-id was used before")
        self.cloud.request_ids.add(own.lower())
        account = self.log_in(request)
        if not request.body and "content-type" in request.headers:
            raise self.fail(
                request, 400, "Body cannot be empty when content-type is set to 'application/json'"
            )
        if account.read_only and request.method != "GET":
            raise self.refuse(403, "Forbidden resource")
        self.check_body(request)

    def holds(self, account: Account, token: str) -> bool:
        return account.access_tokens.get(token, BEGINNING) > self.cloud.time

    # --- JSON ---

    def _snapshot_json(self, snapshot: Snapshot) -> Json:
        ends = snapshot.auto_delete or after(snapshot.created, CONTABO_DAYS * 86400)
        return {
            "tenantId": "DE",
            "customerId": snapshot.account.customer,
            "snapshotId": snapshot.id,
            "name": snapshot.name,
            "description": snapshot.description or snapshot.name,
            "instanceId": int(snapshot.server.id) if snapshot.server else 0,
            "createdDate": created_text(snapshot, iso_milliseconds),
            "autoDeleteDate": iso_milliseconds(ends),
            "imageId": "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d",
            "imageName": "ubuntu-24.04",
            **snapshot.extra,
        }

    def _instance_json(self, server: Server) -> Json:
        return {
            "tenantId": "DE",
            "customerId": server.account.customer,
            "additionalIps": [],
            "name": f"vmi{server.id}",
            "displayName": server.name,
            "instanceId": int(server.id),
            "dataCenter": "European Union 1",
            "region": "EU",
            "regionName": "European Union",
            "productId": "V92",
            "imageId": "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d",
            "ipConfig": {
                "v4": {"ip": "192.0.2.1", "netmaskCidr": 24, "gateway": "192.0.2.254"},
                "v6": {"ip": "2001:db8::1", "netmaskCidr": 64, "gateway": "fe80::1"},
            },
            "macAddress": "00:50:56:00:00:01",
            "ramMb": 8192,
            "cpuCores": 4,
            "osType": "Linux",
            "diskMb": 76800,
            "sshKeys": [],
            "createdDate": "2021-06-03T06:27:12.000Z",
            "cancelDate": "2031-06-03",  # the specification knows none without
            "status": "running",
            "vHostId": 73395,
            "vHostNumber": 1001,
            "vHostName": "m1000",
            "addOns": [],
            "productType": "nvme",
            "productName": "Cloud VPS 4",
            "defaultUser": "root",
            "applicationId": "",
        }

    def _own(self, request: Request, *more: str) -> str:
        return "/".join([request.path[len("/cb") :], *more])

    def _page(
        self, request: Request, items: list[Json], show: Optional[Callable[[Any], Json]] = None
    ) -> Answer:
        page, size = self.paging(request, "size", 10, 10**6)
        last = max(1, -(-len(items) // size))
        query = {k: v for k, v in request.query.items() if k != "page"}

        def link(number: int) -> str:
            return f"{self._own(request)}?{urlencode({'page': number, **query}, doseq=True)}"

        links = {"self": link(page), "first": link(1), "last": link(last)}
        if page > 1:
            links["previous"] = link(page - 1)
        if page < last:
            links["next"] = link(page + 1)
        shown = items[(page - 1) * size : page * size]
        return Answer(
            200,
            {
                "data": [show(item) for item in shown] if show else shown,
                "_pagination": {
                    "size": size,
                    "totalElements": len(items),
                    "totalPages": last if items else 0,
                    "page": page,
                },
                "_links": links,
            },
        )

    # --- the routes ---

    def server(self, request: Request, text: str) -> Server:
        server = self.account(request).servers.get(self.number(request, text))
        if server is None:
            raise self.refuse(404, "Entry VpsInstance not found by instanceId")
        return server

    def instances(self, request: Request) -> Answer:
        name, id = request.one("name"), request.one("instanceId")
        free = self.cloud.ignore_filters
        found = [
            self._instance_json(server)
            for server in self.account(request).servers.values()
            if free or ((not name or name in f"vmi{server.id}") and id in (None, server.id))
        ]
        return self._page(request, self._arranged(request, found, "instanceId"))

    def _arranged(self, request: Request, items: list[Json], key: str) -> list[Json]:
        fields: dict[str, Callable[[Json], Any]] = {
            name: lambda item, name=name: (item[name] is None, item[name])  # type: ignore[misc]
            for name in (items[0] if items else ())
        }
        if not items:
            return []
        return self.ordered(
            request, items, lambda item: zlib.crc32(str(item[key]).encode()), "orderBy", fields
        )

    def instance(self, request: Request, id: str) -> Answer:
        server = self.server(request, id)
        return Answer(
            200, {"data": [self._instance_json(server)], "_links": {"self": self._own(request)}}
        )

    def snapshots(self, request: Request, id: str) -> Answer:
        server, name = self.server(request, id), request.one("name")
        found = [
            s
            for s in server.snapshots.values()
            if self.seen(s) and (not name or self.cloud.ignore_filters or name in s.name)
        ]
        shown = self.ordered(
            request,
            found,
            lambda s: s.scramble,
            "orderBy",
            {
                "name": lambda s: s.name,
                "snapshotId": lambda s: s.id,
                "createdDate": lambda s: s.created,
                "autoDeleteDate": lambda s: s.auto_delete or NEVER,
            },
        )
        return self._page(request, list(map(self._snapshot_json, shown)))

    def create(self, request: Request, id: str) -> Answer:
        server, body = self.server(request, id), request.json
        if not isinstance(body, dict):
            raise self.fail(request, 400, ["the body must be an object"])
        name, description = body.get("name"), body.get("description", "-")
        faults = [f"property {key} should not exist" for key in set(body) - {"name", "description"}]
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9 -]{1,30}", name):
            faults.append("name must be 1 to 30 letters, numbers, spaces, dashes")
        if not isinstance(description, str) or not 1 <= len(description) <= 255:
            faults.append("description must be 1 to 255 characters")
        if faults:
            raise self.fail(request, 400, faults)
        if server.busy:
            raise self.refuse(409, "Another operation is running on the instance")
        if len(server.snapshots) + server.lingering >= server.slots:
            raise self.refuse(
                402,
                f"Total snapshots exceed the total max limit of {server.slots} snapshots",
            )
        snapshot, _ = self.cloud.start_snapshot(
            server, str(name), description=body.get("description", "")
        )
        self.cloud.created.append(snapshot)
        self._audit(request, "CREATED", snapshot)
        own = self._own(request, snapshot.id)
        return Answer(201, {"data": [self._snapshot_json(snapshot)], "_links": {"self": own}})

    def _find(self, request: Request, id: str, sid: str) -> Snapshot:
        snapshot = self.server(request, id).snapshots.get(sid)
        if snapshot is None or snapshot.status != "available":
            raise self.refuse(404, "Entry Snapshot not found by snapshotId")
        return snapshot

    def snapshot(self, request: Request, id: str, sid: str) -> Answer:
        found = self._snapshot_json(self._find(request, id, sid))
        return Answer(200, {"data": [found], "_links": {"self": self._own(request)}})

    def delete(self, request: Request, id: str, sid: str) -> Answer:
        snapshot = self._find(request, id, sid)
        self.cloud.delete(snapshot)
        self._audit(request, "DELETED", snapshot)
        return Answer(204)

    def _audit(self, request: Request, action: str, snapshot: Snapshot) -> None:
        account = snapshot.account
        entry = {
            "id": len(account.audits) + 1,
            "action": action,
            "timestamp": iso_milliseconds(self.cloud.time),
            "tenantId": "DE",
            "customerId": account.customer,
            "changedBy": "c4c800ff-e524-47dd-9543-71dfc8b91113",
            "username": account.api_user,
            "requestId": request.headers.get("x-request-id", ""),
            "traceId": request.headers.get("x-trace-id", ""),
            "instanceId": int(snapshot.server.id) if snapshot.server else 0,
            "snapshotId": snapshot.id,
            "changes": {"prev": {}, "new": {"name": snapshot.name}},
        }
        account.audits.append(entry)

    def audits(self, request: Request) -> Answer:
        found = list(self.account(request).audits)
        if not self.cloud.ignore_filters:
            for name in ("requestId", "instanceId", "snapshotId"):
                value = request.one(name)
                if value is not None:
                    found = [e for e in found if str(e[name]).lower() == value.lower()]
        return self._page(request, self._arranged(request, found, "id"))


# === Telegram and the webhook ==================================================================


class Telegram(Api):
    """sendMessage. https://core.telegram.org/bots/api#sendmessage"""

    prefix = "/tg"
    PARSERS: dict[str, Callable[[str], tuple[str, list[Json]]]] = {  # noqa: RUF012
        "markdown": parse_markdown,
        "markdownv2": parse_markdown_v2,
        "html": parse_html,
    }
    FIELDS = words(
        "business_connection_id chat_id message_thread_id direct_messages_topic_id text parse_mode"
        " entities link_preview_options disable_notification protect_content allow_paid_broadcast"
        " message_effect_id suggested_post_parameters reply_parameters reply_markup"
    )

    def make_routes(self) -> list[Route]:
        return [self.route("POST /tg/sendMessage", self.send, path="/bot{token}/sendMessage")]

    def error_body(self, code: int, message: Any, word: str = "") -> Any:
        return {"ok": False, "error_code": code, "description": str(message)}

    def check(self, request: Request, route: Route) -> None:
        super().check(request, route)
        self.check_leaks(request, unquote(request.ids[0]))

    def _fields(self, request: Request) -> Json:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind == "application/json":
            fields = request.json
            if not isinstance(fields, dict):
                raise self.fail(request, 400, "Bad Request: can't parse JSON")
        elif kind == "application/x-www-form-urlencoded":
            form = parse_qs(request.body.decode("utf-8", "replace"), keep_blank_values=True)
            fields = {name: values[-1] for name, values in form.items()}
            if "entities" in fields:
                with contextlib.suppress(ValueError):
                    fields["entities"] = json.loads(fields["entities"])
        else:
            raise self.fail(request, 400, f"Content-Type {kind!r}")
        for name in set(fields) - self.FIELDS:
            self.wrong(request, f"unknown field {name!r}")
        return fields

    def send(self, request: Request, token: str) -> Answer:
        bot = self.cloud.bots.get(unquote(token))
        if bot is None:
            raise self.refuse(401, "Unauthorized")
        fields = self._fields(request)
        text, mode, entities = (fields.get(n) for n in ("text", "parse_mode", "entities"))
        chat_id = fields.get("chat_id")
        if isinstance(chat_id, bool) or not isinstance(chat_id, (int, str)) or chat_id == "":
            raise self.fail(request, 400, "Bad Request: chat_id is empty")
        chat = str(chat_id)
        if chat not in bot.chats | bot.blocked:
            raise self.refuse(400, "Bad Request: chat not found")
        if chat in bot.blocked:
            raise self.refuse(403, "Forbidden: bot was blocked by the user")
        if not isinstance(text, str) or not text.strip():
            raise self.refuse(400, "Bad Request: message text is empty")
        if "\0" in text or any(0xD800 <= ord(sign) <= 0xDFFF for sign in text):
            raise self.fail(request, 400, "Bad Request: strings must be encoded in UTF-8")
        if len(text.encode()) > 32768:
            raise self.refuse(400, "Bad Request: text is too long")
        text, shown = self._parsed(request, text, mode, entities)
        if not text.strip():
            raise self.refuse(400, "Bad Request: message text is empty")
        if utf16_units(text) > 4096:
            raise self.refuse(400, "Bad Request: message is too long")
        self._pace(bot, chat)
        self.cloud.telegram_messages.append(
            TelegramMessage(chat, text, shown, mode if mode else None, fields, bot.token)
        )
        result = {
            "message_id": len(self.cloud.telegram_messages),
            "from": {"id": 1, "is_bot": True, "first_name": "bot", "username": "test_bot"},
            "chat": {"id": chat_id, "type": "private"},
            "date": int(self.cloud.time.timestamp()),
            "text": text,
            "entities": shown,
        }
        return Answer(200, {"ok": True, "result": result})

    def _parsed(
        self, request: Request, text: str, mode: Any, entities: Any
    ) -> tuple[str, list[Json]]:
        """The text as it is shown, and its entities."""
        if mode and entities is not None:
            self.wrong(request, "both parse_mode and entities")
        if mode:
            parser = self.PARSERS.get(str(mode).lower())
            if parser is None:
                raise self.fail(request, 400, "Bad Request: unsupported parse_mode")
            try:
                return parser(text)
            except MarkupError as error:
                raise self.refuse(400, f"Bad Request: can't parse entities: {error}") from None
        if entities is None:
            return text, []
        reason = fault_in_entities(text, entities)
        if reason:
            raise self.fail(request, 400, f"Bad Request: {reason}")
        return text, list(entities)

    def _pace(self, bot: Bot, chat: str) -> None:
        """One message a second to each chat, and twenty a minute to a group.

        Source: https://core.telegram.org/bots/faq (My bot is hitting limits).
        """
        now = self.cloud.clock.monotonic()
        sent = bot.sent.setdefault(chat, deque(maxlen=20))
        wait = sent[-1] + 1 - now if sent else 0.0
        if chat.startswith(("-", "@")) and len(sent) == 20:
            wait = max(wait, sent[0] + 60 - now)
        if self.cloud.telegram_pace and wait > 0:
            seconds = math.ceil(wait)
            body = self.error_body(429, f"Too Many Requests: retry after {seconds}")
            body["parameters"] = {"retry_after": seconds}
            raise RefusedError(Answer(429, body, {"Retry-After": str(seconds)}))
        sent.append(now)


class Webhook(Api):
    """A receiver like n8n: https://docs.n8n.io/integrations/builtin/core-nodes/n8n-nodes-base.webhook/"""

    prefix = "/hook"

    def make_routes(self) -> list[Route]:
        return [self.route("POST /hook", self.post, path="(/.*)?")]

    def error_body(self, code: int, message: Any, word: str = "") -> Any:
        return {"code": code, "message": str(message)}

    def check(self, request: Request, route: Route) -> None:
        super().check(request, route)
        self.check_leaks(request)

    def post(self, request: Request, rest: Optional[str]) -> Answer:
        name = (rest or "").strip("/")
        if name == "inactive":
            raise self.refuse(404, f'The requested webhook "POST {name}" is not registered.')
        kind = request.headers.get("content-type", "")
        if kind.split(";")[0].strip().lower() != "application/json" or request.json is None:
            self.wrong(request, f"no JSON (Content-Type {kind!r})")
        self.cloud.hooks.append(Hook(request.path, request.json, request.headers, request.body))
        return Answer(200, {"message": "Workflow was started"})


# === HTTP ======================================================================================
# Parsed by hand: faster than http.server, and the path stays as it came.


class Wire(socketserver.StreamRequestHandler):
    """A connection. The methods that send return False at its end, as serve() does."""

    disable_nagle_algorithm = True
    server: HttpServer

    def setup(self) -> None:
        super().setup()
        self.peer = int(self.client_address[1])
        self.counted = False
        self.closing = False

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while self._one():
                pass

    def _one(self) -> bool:
        words = self.rfile.readline(65537).decode("latin-1").split()
        if len(words) != 3:
            return False
        headers: dict[str, str] = {}
        while True:
            line = self.rfile.readline(65537)
            if not line:
                return False
            text = line.decode("latin-1").strip()
            if not text:
                break
            name, _, value = text.partition(":")
            key, value = name.strip().lower(), value.strip()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        size = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not size.isdigit():
            self.server.cloud.problem(f"{words[0]} {words[1]}: a body without a Content-Length")
            return False
        body = self.rfile.read(int(size)) if size != "0" else b""
        if len(body) < int(size):
            return False
        self.closing = words[2] != "HTTP/1.1" or headers.get("connection", "").lower() == "close"
        return self.server.cloud.serve(self, words[0], words[1], headers, body)

    def render(self, cloud: FakeCloud, answer: Answer) -> tuple[bytes, bytes]:
        """(head, body)"""
        body = answer.payload()
        date = after(cloud.clock.now(), cloud.date_offset_seconds)
        names = {name.lower() for name in answer.headers}
        reason = http.client.responses.get(answer.status, "Unknown")
        lines = [f"HTTP/1.1 {answer.status} {reason}"]
        if "date" not in names:
            lines.append(f"Date: {email.utils.format_datetime(date, usegmt=True)}")
        if body and "content-type" not in names:
            lines.append("Content-Type: application/json")
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        if answer.status in (204, 304):
            body = b""
        elif "content-length" not in names:
            lines.append(f"Content-Length: {len(body)}")
        if self.closing:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace"), body

    def answer(self, cloud: FakeCloud, answer: Answer) -> bool:
        head, body = self.render(cloud, answer)
        return self.send(head + body) and not self.closing

    def send(self, data: bytes) -> bool:
        try:
            self.connection.sendall(data)
        except OSError:
            return False
        return True

    def end(self, data: bytes = b"") -> bool:
        """Close, after these last bytes."""
        self.send(data)
        return False

    def reset(self) -> bool:
        """Close with a reset instead of a farewell."""
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
        return False


class HttpServer(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, cloud: FakeCloud, port: int) -> None:
        self.cloud = cloud
        self.live: set[socket.socket] = set()  # from the moment each was accepted
        super().__init__(("127.0.0.1", port), Wire)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.live.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.live.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            self.cloud.problem(f"the fake itself failed:\n{traceback.format_exc()}")

    def cut(self) -> None:
        """Cut all connections."""
        for connection in list(self.live):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


# === As a program ==============================================================================


def load_scenario(cloud: FakeCloud, scenario: Json) -> None:
    """Accounts with servers and snapshots, and bots, as a JSON file describes them."""
    for account_fields in scenario.get("accounts", []):
        fields = dict(account_fields)
        servers = fields.pop("servers", [])
        account = cloud.add_account(fields.pop("provider"), fields.pop("token", None), **fields)
        for server_fields in servers:
            fields = dict(server_fields)
            snapshots = fields.pop("snapshots", [])
            server = cloud.add_server(account, fields.pop("id"), **fields)
            for snapshot_fields in snapshots:
                fields = dict(snapshot_fields)
                created = fields.pop("created", None)
                if "age_days" in fields:
                    created = cloud.clock.now() - timedelta(days=fields.pop("age_days"))
                moment = read_moment(created) or cloud.clock.now()
                stamp = moment.astimezone().strftime("%Y%m%d%H%M%S")
                name = fields.pop("name").replace("{stamp}", stamp)
                cloud.add_snapshot(server, name, created, **fields)
    for bot in scenario.get("bots", []):
        cloud.add_bot(bot["token"], bot.get("chats", ["123"]), blocked=bot.get("blocked", []))


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Serve three clouds until SIGTERM or end of input")
    parser.add_argument("--scenario", metavar="FILE", help="JSON: accounts and bots")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--page-size", type=int, metavar="N", help="the longest page")
    parser.add_argument("--rate-limits", action="store_true", help="enforce the rate limits")
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args(argv)
    cloud = FakeCloud(
        latency_seconds=args.latency,
        page_size=args.page_size,
        enforce_rate_limits=args.rate_limits,
        port=args.port,
    )
    if args.scenario:
        with open(args.scenario, encoding="utf-8") as file:
            load_scenario(cloud, json.load(file))
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())

    def await_end_of_input() -> None:
        while os.read(0, 65536):
            pass
        over.set()

    kind = os.fstat(0).st_mode
    if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or os.isatty(0):  # /dev/null is no master
        threading.Thread(target=await_end_of_input, daemon=True).start()
    with cloud:
        print(json.dumps({"url": cloud.url, "endpoints": cloud.endpoints()}), flush=True)
        while not over.wait(3600):
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
