"""What the fake cloud is made of: its state, its faults, and what the vendors' APIs share."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import math
import re
import time
import zlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Callable, Optional, Protocol, TypeVar

if TYPE_CHECKING:
    from fakes.cloud import FakeCloud

Json = dict[str, Any]
T = TypeVar("T")

BEGINNING = datetime.min.replace(tzinfo=timezone.utc)
NEVER = datetime.max.replace(tzinfo=timezone.utc)
PROVIDERS = ("digitalocean", "hetzner", "contabo")
RUNNING_WORDS = {"in-progress": "running", "completed": "success", "errored": "error"}
CONTABO_DAYS = 30


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
    may_delete: float = 3600.0
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
    target: str = ""  # path and query as they came
    answer: Optional[Response] = None  # unless a fault made it up

    def one(self, name: str) -> Optional[str]:
        """A query parameter's (last) value."""
        values = self.query.get(name)
        return values[-1] if values else None


@dataclass
class Response:
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

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass
class Bot:
    """A Telegram bot and the chats it may write to."""

    token: str
    chats: frozenset[str]
    blocked: frozenset[str] = frozenset()
    migrated: dict[str, int] = field(default_factory=dict)  # groups that became supergroups
    topics: dict[str, dict[int, str]] = field(default_factory=dict)  # of a chat: "open", "closed"
    refusals: dict[str, str] = field(default_factory=dict)  # what a chat answers instead
    updates: list[Json] = field(default_factory=list)  # what people have written, oldest first
    conflict: str = ""  # why it has no updates for us
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


def slow(seconds: float) -> Fault:
    """Do what is asked, and answer so many real seconds later."""
    return Fault("slow", True, seconds=seconds)


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
    handler: Callable[..., Response]
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
        handler: Callable[..., Response],
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
        return RefusedError(Response(code, self.error_body(code, message, word), names))

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


def basic(user: str, password: str) -> str:
    """The Authorization header of a user with a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def scrambled(number: int) -> int:
    return zlib.crc32(str(number).encode())


def created_text(snapshot: Snapshot, write: Callable[[datetime], str]) -> Any:
    return snapshot.raw_created if snapshot.has_raw_created else write(snapshot.created)


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def touch(account: Account) -> None:
    account.version += 1


def free_slot(server: Server) -> None:
    server.lingering -= 1


def swallow(answer: Response) -> None:
    """Nobody waits for this answer any more."""


def account_name(account: Optional[Account]) -> Optional[str]:
    return f"{account.provider}/{account.customer}" if account else None
