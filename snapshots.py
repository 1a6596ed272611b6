#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["requests>=2.26", "python-dateutil>=2.8"]
# ///
"""Take, watch, verify and prune server snapshots at DigitalOcean, Hetzner Cloud and Contabo.

One run: configuration -> lock -> for each server: create, verify, prune -> notify -> exit status.
A snapshot is deleted only if this tool made it from this very server, a newer one has been
verified in this run, and retention drops it. (Two exceptions: `replace_when_full` at Contabo,
which the user switches on, see `make_room_on_the_plan`; and pruning without a new snapshot, by
`--prune-only` or because the last turn did not get to its end, see `prune_without_a_new_one`.)

In this file, in order (each part uses only the parts above it):
    Errors and exit statuses | Text | Model | Names and retention | Configuration |
    Runtime | HTTP | Providers | Accounts | Notifications | History | Shared limit | Turn |
    Fleet | Schedule | Crontab | Looking | Report page | Setup |
    Command line
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 9):  # noqa: UP036  (a clear line instead of a traceback)
    sys.exit("snapshots: Python 3.9 or newer is needed, this is " + sys.version.split()[0])

import argparse
import base64
import binascii
import bisect
import calendar
import collections
import configparser
import contextlib
import dataclasses
import difflib
import email.message
import email.policy
import email.utils
import enum
import errno
import functools
import getpass
import hmac
import html
import http.client
import http.cookiejar
import importlib.util
import io
import ipaddress
import itertools
import json
import logging
import logging.handlers
import math
import os
import queue
import random
import re
import selectors
import shlex
import shutil
import signal
import smtplib
import socket
import stat
import string
import subprocess
import tempfile
import threading
import time
import traceback
import unicodedata
import uuid
import warnings
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, NoReturn, Optional, Protocol, TextIO, TypeVar, Union
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

try:
    import ssl  # some Pythons have been built without it, or lose its library

    with warnings.catch_warnings():  # about versions, mostly of what detects character sets, which
        warnings.simplefilter("ignore")  # is not used here: cron would send a mail for each run
        import idna
        import requests
        import urllib3
        from dateutil.parser import isoparse
except Exception as broken:  # noqa: BLE001  (cron runs another python, packages do not fit it, ...)
    if isinstance(broken, ModuleNotFoundError) and broken.name != "_ssl":
        sys.exit(
            f"snapshots: the Python package {broken.name!r} is missing for {sys.executable}"
            f" (run it with .venv/bin/python, or: {sys.executable} -m pip install -r"
            " requirements.txt)"
        )
    sys.exit(
        f"snapshots: a package does not work with {sys.executable}:"
        f" {type(broken).__name__}: {' '.join(str(broken).split())}"
        " (python -m pip install --upgrade -r requirements.txt, or use another Python)"
    )

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

try:
    import sqlite3
except ImportError:  # some small Pythons come without it; then there is no history
    sqlite3 = None  # type: ignore[assignment]

__version__ = "1.0.0"

SCRIPT = "snapshots.py"
T = TypeVar("T")

# === Errors and exit statuses =================================================================


class ExitStatus(enum.IntEnum):
    """What the caller of this script learns; README and --help show the same table."""

    OK = 0  # every server has its new, verified snapshot and its retention
    FAILED = 1  # every server failed, or the run could not start
    PARTLY_FAILED = 2  # some servers failed
    LOCKED = 3  # another run holds the lock


class SnapshotsError(Exception):
    """A problem the user can act on: str() is one line and holds no secret."""


class ConfigError(SnapshotsError):
    """A configuration file cannot be used; one line for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class LockError(SnapshotsError):
    """The lock file cannot be used."""


class LockHeldError(LockError):
    """Another run holds the lock."""


class TurnError(SnapshotsError):
    """A server's turn has failed, and this is why."""


class NotDueError(SnapshotsError):
    """A server's newest snapshot is too young for another one, or still being made."""

    def __init__(self, text: str, snapshot: Snapshot) -> None:
        super().__init__(text)
        self.snapshot = snapshot


class InterruptedRunError(SnapshotsError):
    """A signal asked this run to stop."""


# === Text (pure) ==============================================================================


LINE_LIMIT = 2000  # characters of a line on the screen
ERROR_LIMIT = 10_000  # characters of what log and notifications say went wrong


def one_line(text: str, limit: int = LINE_LIMIT) -> str:
    """The text as one printable line: control characters and lone surrogates escaped, cut to limit.

    Names and API texts come from outside: they must never start a log line of their own, move
    the cursor, or end a mail header.
    """
    if len(text) > limit:
        text = text[:limit] + "..."
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        or character in "\u200c\u200d"  # which letters and emoji need
        else f"\\u{ord(character):04x}"
        if character not in "\n\r\t"
        else " "
        for character in text
    )


def shortened(text: str, size: int) -> str:
    """At most size characters: its beginning and its end, where its number or its date is."""
    end = min(14, size // 2)
    return text if len(text) <= size else f"{text[: size - 2 - end]}..{text[-end:]}"


def counted(number: int, noun: str) -> str:
    """'1 snapshot', '2 snapshots'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def span(seconds: float) -> str:
    """A length of time as people say it: '42 s', '12 min 5 s', '3 h 20 min', '2 d 9 h'."""
    whole = max(0, round(seconds))
    if whole >= 86_400:
        return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def local_time(moment: datetime) -> datetime:
    """A moment in local time (honours TZ); in UTC where TZ says what no zone can be."""
    try:
        return moment.astimezone()
    except (ValueError, OverflowError):
        return moment.astimezone(timezone.utc)


def clock_time(moment: datetime) -> str:
    """A moment in local time, as the log and the notifications write it."""
    return local_time(moment).strftime("%Y-%m-%d %H:%M:%S")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """', did you mean 'retries'?', or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


def shown_key(key: str) -> str:
    """A key from a file, if it looks like one: a slip may have made a token into a 'key'."""
    return key if re.fullmatch(r"[A-Za-z_]{1,40}", key) else "(not shown)"


TEMPLATE_FIELD = re.compile(r"\{([a-z_]+)\}")


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values in place of {name}, in one pass; an unknown {name} stays as it is.

    Never `str.format`: a template may come from anywhere, and {x.__class__} or {x:>50000000}
    must stay the harmless text that they are.
    """
    return TEMPLATE_FIELD.sub(lambda match: values.get(match[1], match[0]), template)


def change_texts(payload: Any, change: Callable[[str, str], str], key: str = "") -> Any:
    """The JSON value with every text in it changed, at any depth; keys stay.

    change: (text, the key that it stands under, in a list too) -> text.
    """
    if isinstance(payload, str):
        return change(payload, key)
    if isinstance(payload, list):
        return [change_texts(item, change, key) for item in payload]
    if isinstance(payload, dict):
        return {name: change_texts(item, change, name) for name, item in payload.items()}
    return payload


# === Model ====================================================================================


@dataclass(frozen=True)
class Snapshot:
    """A snapshot, in the terms that all providers share."""

    id: str  # as text: DigitalOcean sends 6372321 or "6372321", Contabo "snap1628603855"
    name: Optional[str]  # None: the provider sent something that is no name
    created: Optional[datetime]  # aware, UTC; None: the provider sent something unreadable
    server_id: Optional[str]  # what it was made from, as the provider says; None: it does not say
    state: str = "available"  # "available", "creating", or the provider's word for broken
    protected: bool = False
    expires: Optional[datetime] = None  # when the provider deletes it by itself
    size_gb: Optional[float] = None  # as billed; None: the provider does not say

    @property
    def usable(self) -> bool:
        """Can a server be restored from it?"""
        return self.state == "available"

    @property
    def being_made(self) -> bool:
        """Will it be usable or broken some day?"""
        return self.state == "creating"


@dataclass(frozen=True)
class Ticket:
    """What a create answered: how to ask for progress, and how to know the snapshot again.

    DigitalOcean names only the action, Contabo only the snapshot, Hetzner both.
    """

    server_id: str
    action_id: Optional[str] = None
    snapshot_id: Optional[str] = None


class State(enum.Enum):
    """How far a snapshot is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN_ACTION = "no longer to be asked for"  # only a listing shows it


@dataclass(frozen=True)
class Progress:
    """One answer to: how far is it?"""

    state: State
    percent: Optional[int] = None
    reason: str = ""


@dataclass(frozen=True)
class Policy:
    """What stays of a server's snapshots. A snapshot that any of these keeps stays."""

    last: Optional[int]  # so many of the newest, at least 1; None: all
    daily: int = 0  # the newest one of each of the last so many days that hold one, in UTC
    weekly: int = 0  # the same of ISO weeks
    monthly: int = 0
    yearly: int = 0
    within_days: int = 0  # all that are less than so many days older than the newest


@dataclass(frozen=True)
class Server:
    """One server file, checked."""

    provider: str  # a key of PROVIDERS
    id: str  # digits
    name: str
    policy: Policy
    credentials: tuple[str, ...] = field(repr=False)  # in the order of the provider's keys
    source: str = ""  # the file it stands in
    replace_when_full: bool = False
    former_names: tuple[str, ...] = ()  # its snapshots under these names are its own as well
    stale_after_hours: int = 0  # how old its newest snapshot may be; 0: by its rhythm
    min_interval_hours: float = 0  # no new snapshot before; 0: whenever a run takes place
    destinations: tuple[Destination, ...] = field(default=(), repr=False)
    ping_url: str = field(default="", repr=False)  # of a monitor; see `Ping`
    secrets: tuple[SecretText, ...] = field(default=(), repr=False)  # that the file brings


@dataclass(frozen=True)
class BadServer:
    """A server file that cannot be used: a failure that is reported like any other."""

    name: str
    source: str
    error: str
    destinations: tuple[Destination, ...] = field(default=(), repr=False)
    provider: str = "unknown"
    id: str = "unknown"
    secrets: tuple[SecretText, ...] = field(default=(), repr=False)


Entry = Union[Server, BadServer]  # what a server file gives
LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class Report:
    """How one server's turn ended: what the log, the summary and the notifications say."""

    server: Entry
    success: bool
    snapshot_name: str = "none"
    snapshot_id: str = "none"
    total_snapshots: Optional[int] = None  # ours, after the prune; None: unknown
    kept: tuple[tuple[Snapshot, tuple[str, ...]], ...] = ()  # newest first, with the reasons
    deleted: tuple[Snapshot, ...] = ()
    warnings: tuple[str, ...] = ()
    error: str = ""
    unpruned: bool = False  # it may have left something that retention drops
    seconds: float = 0.0
    ended: datetime = LONG_AGO

    @property
    def status(self) -> str:
        """SUCCESS or FAILURE, the predecessor's words."""
        return "SUCCESS" if self.success else "FAILURE"

    @property
    def snapshot_info(self) -> str:
        """'3 snapshots exist', the predecessor's words."""
        total = "unknown" if self.total_snapshots is None else str(self.total_snapshots)
        return f"{total} snapshots exist"


# === Names and retention (pure) ===============================================================

STAMP_LENGTH = 14  # YYYYmmddHHMMSS
CONTABO_NAME_MAX = 30


def plain_label(name: str) -> str:
    """The server part of a snapshot name where the provider takes any text."""
    return name


def contabo_label(name: str) -> str:
    """The server part of a snapshot name at Contabo, where it has to be shortened.

    Source: "may contain letters, numbers, spaces, dashes. There is a limit of 30 characters",
    https://api.contabo.com/ (CreateSnapshotRequest, read 2026-11).
    """
    decomposed = unicodedata.normalize("NFKD", name)
    without_accents = "".join(c for c in decomposed if not unicodedata.combining(c))
    mapped = re.sub(r"[^A-Za-z0-9 -]", "-", without_accents)
    return mapped[: CONTABO_NAME_MAX - STAMP_LENGTH - 1].strip() or "server"


def snapshot_name(label: str, moment: datetime) -> str:
    """`{label}-{YYYYmmddHHMMSS}` in local time: a label for people; retention goes by instants."""
    return f"{label}-{local_time(moment).strftime('%Y%m%d%H%M%S')}"


def is_named_like_ours(name: str, label: str) -> bool:
    """Is it fully `{label}-` and fourteen digits? `web` must not own `web-1`'s."""
    return re.fullmatch(re.escape(label) + r"-[0-9]{14}", name) is not None


def why_not_ours(snapshot: Snapshot, server_id: str, *labels: str) -> str:
    """Why a snapshot is neither counted nor ever deleted; '' if it is ours. labels: what the
    server's snapshots are named after, now and formerly."""
    if snapshot.server_id != server_id:
        return "not made from this server"
    if snapshot.name is None:
        return "its name is unreadable"
    if not any(is_named_like_ours(snapshot.name, label) for label in labels):
        return "not named as this tool names them"
    if snapshot.protected:
        return "delete-protected"
    if not snapshot.usable:
        return f"not usable: {snapshot.state}"
    if snapshot.created is None:
        return "its date is unreadable"
    return ""


def owned(snapshots: Iterable[Snapshot], server_id: str, *labels: str) -> list[Snapshot]:
    """Exactly the snapshots that this tool made from this server and may count and delete."""
    return [s for s in snapshots if not why_not_ours(s, server_id, *labels)]


def age_key(snapshot: Snapshot) -> tuple[datetime, int, str]:
    """Order by creation, then by id (numbers by value); the name's digits are never looked at."""
    assert snapshot.created is not None  # noqa: S101  (only snapshots that `owned` let through)
    return (snapshot.created, len(snapshot.id), snapshot.id)


def total_gb(sizes: Iterable[Optional[float]]) -> str:
    """'31.2', 'at least 31.2' where a size is not known, 'unknown' where none is."""
    every = list(sizes)
    known = [size for size in every if size is not None]
    if every and not known:
        return "unknown"
    return f"{'' if len(known) == len(every) else 'at least '}{sum(known):.1f}"


def total_or_none(sizes: Iterable[Optional[float]]) -> Optional[float]:
    """The sum in GB, or None if one of them is unknown."""
    every = list(sizes)
    known = [size for size in every if size is not None]
    return round(sum(known, 0.0), 3) if len(known) == len(every) else None


SLOT_OF: Mapping[str, Callable[[datetime], tuple[int, ...]]] = MappingProxyType(
    {
        "daily": lambda at: (at.year, at.month, at.day),
        "weekly": lambda at: tuple(at.isocalendar()[:2]),  # 2024-12-30 is in week 1 of 2025
        "monthly": lambda at: (at.year, at.month),
        "yearly": lambda at: (at.year,),
    }
)


def reasons_to_stay(moments: Sequence[datetime], policy: Policy) -> list[tuple[str, ...]]:
    """The words for why each snapshot stays, () for one that does not; given when they were
    created, the newest first, UTC.

    As `restic forget` since 0.16: a slot (day, week, ...) counts only if it holds a snapshot, and
    while a tier has places left the oldest snapshot stays, so that a history can grow long.
    https://restic.readthedocs.io/en/stable/060_forget.html
    """
    found: list[list[str]] = [[] for _ in moments]
    oldest: list[str] = []
    for index, why in enumerate(found):
        if policy.last is None or index < policy.last:
            why.append("last")
    for tier, slot_of in SLOT_OF.items():
        left, taken = getattr(policy, tier), set()
        for index, moment in enumerate(moments):
            if not left:
                break
            if slot_of(moment) not in taken:
                taken.add(slot_of(moment))
                found[index].append(tier)
                left -= 1
            elif index == len(moments) - 1:
                oldest.append(f"oldest (keep_{tier} has {counted(left, 'place')} left)")
    for why, moment in zip(found, moments):
        if policy.within_days and moments[0] - moment < timedelta(days=policy.within_days):
            why.append("within")
    if oldest:
        found[-1] += oldest
    return [tuple(why) for why in found]


DUE_TOLERANCE = timedelta(minutes=30)
CLOCK_MAY_DIFFER = timedelta(minutes=10)  # between this machine and a provider


def next_due(newest: datetime, min_interval_hours: float) -> datetime:
    """When a server is due whose newest snapshot was made then. It is so a little before the
    interval is over, lest each night's delay moves the next night on."""
    interval = timedelta(hours=min_interval_hours)
    return newest + interval - min(interval / 10, DUE_TOLERANCE)


def too_young(
    listing: Iterable[Snapshot], now: datetime, min_interval_hours: float
) -> Optional[Snapshot]:
    """The newest of these snapshots, if it is too young for another one to be due. What is dated
    in the future says nothing about that."""
    dated = (s for s in listing if s.created is not None and s.created <= now + CLOCK_MAY_DIFFER)
    newest = max(dated, key=age_key, default=None)
    if newest is None or newest.created is None:
        return None
    return newest if next_due(newest.created, min_interval_hours) > now else None


@dataclass(frozen=True)
class Plan:
    """What retention decides, with the reasons for each; the three parts are all of the input."""

    keep: tuple[tuple[Snapshot, tuple[str, ...]], ...]  # newest first
    delete: tuple[Snapshot, ...]  # oldest first, so that any part of it is safe
    postponed: tuple[Snapshot, ...]  # due as well, but over max_deletes_per_run


def plan_retention(
    ours: Iterable[Snapshot],
    policy: Policy,
    max_deletes: int,
    new_id: Optional[str] = None,
    pending: Optional[datetime] = None,
    now: Optional[datetime] = None,
) -> Plan:
    """Decide what stays and what goes.

    ours: snapshots with a date. max_deletes: at most so many go at once, oldest first; the rest
    is postponed.
    new_id: the snapshot just verified; it stays whatever its date says (provider clocks err).
    pending: when one more is about to be made, which takes its places among those that stay.
    now: a newest one that is dated later is taken for one of now, lest all others seem old.
    Raises ValueError if the policy would keep nothing.
    """
    if policy.last is not None and policy.last < 1:
        raise ValueError("retention would delete every snapshot")
    newest_first = sorted(ours, key=age_key, reverse=True)
    newest_first.sort(key=lambda s: s.id != new_id)  # stable: the new one first
    moments = [s.created for s in newest_first if s.created is not None]
    if moments and now is not None:
        moments[0] = min(moments[0], now)
    coming = [] if pending is None else [pending]
    reasons = reasons_to_stay([*coming, *moments], policy)[len(coming) :]
    if reasons and reasons[0]:
        reasons[0] = ("newest", *reasons[0])
    keep = tuple((s, why) for s, why in zip(newest_first, reasons) if why)
    due = tuple(s for s, why in reversed(list(zip(newest_first, reasons))) if not why)
    max_per_run = max(max_deletes, 0)
    return Plan(keep, due[:max_per_run], due[max_per_run:])


def plan_in_words(plan: Plan) -> Iterator[tuple[Snapshot, str, tuple[str, ...]]]:
    """Each snapshot's fate and the reasons for it, for people and programs alike."""
    for snapshot, why in plan.keep:
        yield snapshot, "stays", why
    for snapshot in plan.delete:
        yield snapshot, "next to go", ()
    for snapshot in plan.postponed:
        yield snapshot, "next to go", ("in a later run: max_deletes_per_run",)


# === Configuration ============================================================================
# The dataclasses are the schema: their fields are the keys, their defaults the defaults. To add
# a key, add a field; the sample and the README are checked against them.

MAX_CONFIG_BYTES = 1_000_000
BUILT_IN = ""  # an empty template selects the built-in text
SHORT_SECRET = 8  # characters; a shorter one cannot be masked everywhere without harm


class Level(enum.Enum):
    """What becomes of a remark."""

    PROBLEM = "the file cannot be used"
    WARNING = "for screen and log: somebody should fix it"
    NOTE = "for the log: allowed, but worth a line"


@dataclass(frozen=True)
class Remark:
    """One thing that is to be said about the configuration."""

    level: Level
    text: str
    where: str = ""  # the section (of a problem) or the server that it is about


def remark_lines(remarks: Iterable[Remark], level: Level) -> list[str]:
    """The remarks of a level; the same one about many servers is one line."""
    names: dict[str, list[str]] = {}
    for remark in remarks:
        if remark.level is level:
            names.setdefault(remark.text, []).append(remark.where)
    return [
        f"{text} (for {', '.join(where)})" if any(where) else text for text, where in names.items()
    ]


# --- files and paths ---


def reason_of(error: BaseException) -> str:
    """An exception in a few words, without paths, URLs or values."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start})"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return one_line(str(error), 200) or type(error).__name__


def open_plain(path: Path, flags: int, own: bool) -> int:
    """A descriptor of a regular file, without waiting for a FIFO. Raises OSError or ValueError.

    own: a file of this tool's, made 0600: never through a link, for what is written must not
    arrive in another's file.
    """
    for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY", *(("O_NOFOLLOW",) if own else ())):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags, 0o600)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and (not own or status.st_nlink <= 1):
        if own and flags & os.O_CREAT:
            hand_over(descriptor, path.parent)
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise OSError(0, "is a directory (docker makes one where a file to mount is missing)")
    raise OSError(0, "not a regular file" + (" of its own" if own else ""))


def hand_over(made: Union[int, Path], folder: Path) -> None:
    """Give what root has made to the owner of the folder, whose own runs could not use it. made: a
    descriptor or a path, never through a link: the owner may have put one there meanwhile."""
    with contextlib.suppress(OSError, AttributeError):  # Windows knows no owners
        owner, is_open = os.stat(folder), isinstance(made, int)
        is_roots = os.stat(made, follow_symlinks=is_open).st_uid == 0
        if os.geteuid() == 0 and owner.st_uid != 0 and is_roots:
            os.chown(made, owner.st_uid, owner.st_gid, follow_symlinks=is_open)


def make_folder(folder: Path) -> None:
    """Make it for its owner alone, and those that it is in, unless they are there. Raises
    OSError."""
    if not os.path.isdir(folder):
        if folder.parent != folder:
            make_folder(folder.parent)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        hand_over(folder, folder.parent)


def read_text_file(path: Path) -> str:
    """A small regular file as text, UTF-8 with or without BOM. Raises OSError or ValueError."""
    with open(open_plain(path, os.O_RDONLY, own=False), "rb") as file:
        content = file.read(MAX_CONFIG_BYTES + 1)
    if len(content) > MAX_CONFIG_BYTES:
        raise ValueError(f"larger than {MAX_CONFIG_BYTES} bytes")
    return content.decode("utf-8-sig")


UNFINISHED = ".snapshots-tmp"  # how a file's name ends until it is whole


def write_whole(path: Path, content: bytes, is_new: bool = False, mode: int = 0o600) -> None:
    """Write a file: as a whole or not at all; one that it replaces keeps its owner. Raises OSError;
    FileExistsError where is_new and there is one."""
    descriptor, name = tempfile.mkstemp(UNFINISHED, f".{path.name[:100]}-", path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
            os.chmod(descriptor if os.chmod in os.supports_fd else name, mode)
            hand_over(descriptor, path.parent)
            with contextlib.suppress(OSError, AttributeError):  # of a user, whom root stands in for
                os.fchown(descriptor, os.stat(path).st_uid, os.stat(path).st_gid)
        if is_new:
            with contextlib.suppress(OSError):  # it is there, or the file system knows no links
                os.link(name, path)  # which, unlike a move, never takes another's place
                return
            if os.path.lexists(path):
                raise FileExistsError
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def expand(path: str) -> str:
    """A path with ~, ~user, $NAME and ${NAME} replaced, and $$ by $. Raises ValueError."""
    variables = {name: value for name, value in os.environ.items() if value}
    try:
        expanded = os.path.expanduser(string.Template(path).substitute(variables))
    except KeyError as error:
        raise ValueError(f"the environment variable {error} is not set") from None
    except ValueError:
        raise ValueError("holds a $ without a name (write $$ for a dollar sign)") from None
    if path.startswith("~") and not os.path.isabs(expanded):
        raise ValueError("begins with ~, but that home directory is not known")
    return expanded


def is_own_group(group: int) -> bool:
    """Is it a group of this process's, and not one that people share?"""
    import grp

    try:
        name = grp.getgrgid(group).gr_name
    except KeyError:
        name = ""
    is_shared = group == 100 or name in ("users", "staff")
    return group in (os.getegid(), *os.getgroups()) and not is_shared


def open_to_others(path: Path) -> Iterator[Remark]:
    """A remark if a file that holds secrets can be read by a group or by others."""
    with contextlib.suppress(OSError):
        status = path.stat()
        if os.name != "posix" or not status.st_mode & 0o077:
            return
        if not status.st_mode & 0o027 and is_own_group(status.st_gid):
            text = f"{path}: holds credentials and can be read by group {status.st_gid}"
            yield Remark(Level.NOTE, text)
        else:
            text = f"{path}: holds credentials and can be read by others (chmod 600 {path})"
            yield Remark(Level.WARNING, text)


# --- JSON ---


def finite_number(word: str) -> float:
    """For json, whose parser takes NaN and Infinity, and makes the latter of 1e400: none of them
    can be said in JSON."""
    number = float(word)
    if not math.isfinite(number):
        raise ValueError("not valid JSON: holds NaN, Infinity or a number that is too large")
    return number


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without duplicate keys; of two equal ones nobody knows which is meant."""
    for key, count in collections.Counter(key for key, _ in pairs).items():
        if count > 1:
            raise ValueError(f"duplicate key {shown_key(key)!r}")
    return dict(pairs)


def parse_json(text: str) -> Any:
    """Strict JSON. Raises ValueError with line and column where the parser knows them."""
    try:
        return json.loads(
            text,
            parse_float=finite_number,
            parse_constant=finite_number,
            object_pairs_hook=unique_keys,
        )
    except json.JSONDecodeError as error:
        raise ValueError(
            f"not valid JSON: line {error.lineno}, column {error.colno}: {error.msg} (often a"
            " comma too many or too few, a comment, or single quotes)"
        ) from None
    except RecursionError:
        raise ValueError("not valid JSON: nested too deeply") from None


# --- values ---
# A reader makes a value of what a file holds, or raises ValueError with a reason that does not
# quote it. Those of credentials are given what `credential` has found.

Reader = Callable[[Any], Any]


class IniText(str):
    """A value of snapshots.config, where flags, lists and objects are text as well."""


def read_text(value: Any) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return value


def read_template(value: Any) -> str:
    r"""A message template; in snapshots.config \n is a newline, everything else is as it is."""
    text = read_text(value)
    return text.replace("\\n", "\n") if isinstance(value, IniText) else text


def read_line(value: Any) -> str:
    """One line of printable text; spaces around it are no part of it."""
    text = read_text(value).strip()
    if one_line(text, len(text)) != text:
        raise ValueError("holds a control character or a line break")
    return text


def without_quotes(text: str) -> str:
    """The text as it is. Raises ValueError where it is in quotes: they would be part of it."""
    if len(text) > 1 and text[0] in "'\"" and text[0] == text[-1]:
        raise ValueError("is in quotes (write it without them)")
    return text


def read_word(value: Any) -> str:
    """A name or an address: neither quotes nor a comment belong to it."""
    text = read_line(value)
    if re.search(r"\s[#;]", text):
        raise ValueError("has a comment behind it (put that on a line of its own)")
    return without_quotes(text)


def read_path(value: Any) -> str:
    """A path, relative to something else or not."""
    return expand(read_word(value))


def read_name(value: Any) -> str:
    """A server's name."""
    name = read_line(value)
    if not 1 <= len(name) <= 200:
        raise ValueError("must have 1 to 200 characters")
    return name


def read_names(value: Any) -> tuple[str, ...]:
    """A list of names."""
    if not isinstance(value, list):
        raise ValueError('must be a list of names, as in ["old-name"]')
    return tuple(map(read_name, value))


def read_flag(value: Any) -> bool:
    """true or false; in snapshots.config also in the other words that INI files use."""
    if isinstance(value, IniText):
        value = configparser.ConfigParser.BOOLEAN_STATES.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError("must be true or false, without quotes")
    return value


def read_object(value: Any) -> dict[str, Any]:
    """A JSON object, exactly as it is; in snapshots.config it is text."""
    content = parse_json(value) if isinstance(value, IniText) else value
    if not isinstance(content, dict):
        raise ValueError("must be an object in braces")
    return content


def read_choice(*words: str) -> Reader:
    """One of the words; spelled in any case."""

    def read(value: Any) -> str:
        for word in words:
            if word.lower() == read_text(value).strip().lower():
                return word
        raise ValueError(f"must be {'one of ' if len(words) > 1 else ''}{', '.join(words)}")

    return read


def number_text(value: Any) -> str:
    """A number, which JSON may hold as it is or in quotes, as text; empty for anything else."""
    if type(value) in (int, float):
        return str(value)
    return value.strip() if isinstance(value, str) else ""


def read_number(low: float, high: float, unit: str = "seconds") -> Reader:
    """A number between low and high."""

    def read(value: Any) -> float:
        text = number_text(value)
        number = float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else math.nan
        if not low <= number <= high:
            raise ValueError(f"must be a number of {unit} from {low:g} to {high:g}")
        return int(number) if number == int(number) else number

    return read


def read_count(low: int, high: int, or_all: bool = False) -> Reader:
    """A whole number between low and high; or_all: or the word "all", which is None."""

    def read(value: Any) -> Optional[int]:
        text = number_text(value)
        if or_all and text.lower() == "all":
            return None
        if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
            other = ', or "all"' if or_all else ""
            raise ValueError(f"must be a whole number from {low} to {high}{other}")
        return int(text)

    return read


MAX_RETAIN = 100_000
read_keep = read_count(0, MAX_RETAIN)
read_retain = read_count(1, MAX_RETAIN, or_all=True)


def read_match(pattern: str, meaning: str) -> Reader:
    """A text or a number that the pattern describes."""

    def read(value: Any) -> str:
        text = number_text(value)
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"must be {meaning}")
        return text

    return read


read_id = read_match(  # digits only, for it becomes part of a path
    "[1-9][0-9]{0,17}", "the provider's number of the server, as in 12345678"
)
read_chat_id = read_match(  # groups are negative
    r"-?[0-9]{1,20}|@\w{1,64}", "the chat's number, as in -1001234567890, or @channelname"
)
read_helo_name = read_match(  # or an address in brackets
    r"[A-Za-z0-9._:\[\]-]+", "a host name such as backup.example.org"
)


def read_address(value: Any) -> str:
    """One mail address; a domain with an umlaut as xn--..., as it travels."""
    text = read_line(value)
    _, address = email.utils.parseaddr(text)
    is_one = re.fullmatch(r"[^@\s<>,;]+@[^@\s<>,;]+", address) is not None
    if is_one:  # as the header is read, which gives the envelope its addresses
        header = email.policy.default.header_factory("To", text)
        is_one = [item.addr_spec for item in header.addresses] == [address]
    if not is_one:
        raise ValueError("must hold mail addresses such as ops@example.org, with commas between")
    domain = address.rpartition("@")[2]
    if domain.isascii():
        return text
    try:
        return text.replace(f"@{domain}", f"@{idna.encode(domain, uts46=True).decode()}")
    except idna.IDNAError:
        raise ValueError("holds a mail address whose domain is not valid") from None


def read_addresses(value: Any) -> tuple[str, ...]:
    """Mail addresses: a list, or one text with commas (those in a quoted name are the name's)."""
    parts = value
    if not isinstance(value, list):
        parts = re.findall(r'(?:"(?:\\.|[^"\\])*"|[^,])+', read_text(value))
    return tuple(read_address(p) for p in parts if not isinstance(p, str) or p.strip())


def is_loopback(host: str) -> bool:
    """Is this host name or address this very machine?"""
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(text: str) -> SplitResult:
    """The parts of an http or https URL. Raises ValueError."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL that starts with https://")
    if re.search(r"[\s\x00-\x1f\x7f\\]", text):
        raise ValueError("holds a space or a control character")
    return parts


def is_in_the_clear(url: SplitResult) -> bool:
    """Can what is sent there be read on the way?"""
    return url.scheme == "http" and not is_loopback(url.hostname or "")


def host_of(url: str) -> str:
    """Where a URL leads, without what may be secret."""
    return urlsplit(url).netloc.rpartition("@")[2]


def read_endpoint(value: Any) -> str:
    """The base URL of an API: https, unless the host is this machine."""
    text = read_text(value)
    parts = check_url(text)
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or password")
    if parts.query or parts.fragment:
        raise ValueError("must not hold a query or fragment")
    if is_in_the_clear(parts):
        raise ValueError("must start with https:// (a token would travel in the clear)")
    return text.rstrip("/")


# --- credentials ---


class SecretText(str):
    """A credential that has been resolved; `literal`: the file itself holds it."""

    literal: bool = True
    variable: str = ""  # the environment variable that it was taken from
    is_url: bool = False

    def __repr__(self) -> str:
        return "'[hidden]'"


def credential(value: Any, base: Path) -> SecretText:
    """A credential that is given as it is, as env:NAME or as file:PATH (relative to base). Raises
    ValueError."""
    text = read_text(value).strip()
    secret = SecretText(text)
    if text.startswith("env:"):
        name = text[4:].strip()
        secret = SecretText(os.environ.get(name, ""))
        secret.variable = name
        if not secret:
            raise ValueError(f"the environment variable {one_line(name, 80)!r} is not set")
    elif text.startswith("file:"):
        path = base / expand(text[5:].strip())
        try:
            secret = SecretText(read_text_file(path).strip("\r\n"))
        except (OSError, ValueError) as error:
            shown = one_line(str(path), 200)
            raise ValueError(f"cannot read {shown!r}: {reason_of(error)}") from None
        if not secret:
            raise ValueError(f"{one_line(str(path), 200)!r} is empty")
    secret.literal = not text.startswith(("env:", "file:"))
    return secret


def read_password(secret: SecretText) -> SecretText:
    """A credential that travels as text."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in secret):
        raise ValueError("holds a control character, a line break or what is not UTF-8")
    return secret


def read_token(secret: SecretText) -> SecretText:
    """A token: it travels in a header or a path, so printable ASCII without spaces or quotes."""
    if not re.fullmatch(r"[\x21-\x7e]*", read_password(secret)):
        raise ValueError("holds a space or a non-ASCII character (a comment behind it?)")
    without_quotes(secret)
    return secret


def read_hook_url(secret: SecretText) -> SecretText:
    """The URL of a webhook, which is a secret as a whole; http is allowed (self-hosted n8n)."""
    check_url(read_password(secret))
    secret.is_url = True
    return secret


def read_ping_url(secret: SecretText) -> SecretText:
    """A URL in the form of Healthchecks: /start and /fail can be put behind its path."""
    read_hook_url(secret)
    if "#" in secret or re.search(r"(?i)/[0-9a-f-]{36}/\w+/*(\?|$)", secret):
        raise ValueError("must be the ping URL itself, without /start, /fail or #")
    return secret


CREDENTIAL_READERS: tuple[Reader, ...] = (read_password, read_token, read_hook_url, read_ping_url)


# --- the keys of a file ---

# In snapshots.config only these may go on in indented lines; elsewhere such a line is a slip.
LONG_READERS: tuple[Reader, ...] = (read_template, read_object, read_addresses)
# The text of the samples, by what reads it; in names "your-shop" may be meant.
PLACEHOLDER = re.compile(r"(?:https?://)?your[-_][a-z0-9._/-]*", re.IGNORECASE)
PLACEHOLDERS: Mapping[Reader, re.Pattern[str]] = {
    **dict.fromkeys((*CREDENTIAL_READERS, read_id, read_chat_id), PLACEHOLDER),
    read_name: re.compile(r"your[-_](?:[a-z]+[-_])*name(?:[-_][0-9]+)?", re.IGNORECASE),
}


def is_placeholder(read: Reader, text: str) -> bool:
    """Is this still the text that a sample holds? Then the key counts as missing."""
    return read in PLACEHOLDERS and PLACEHOLDERS[read].fullmatch(text.strip()) is not None


def read_value(read: Reader, value: Any, base: Path) -> Any:
    """What a reader makes of a value. base: what the file: of a credential is relative to. Raises
    ValueError."""
    if value is None:
        raise ValueError("has no value (give it one, or leave the key out)")
    if isinstance(value, IniText) and "\n" in value and read not in LONG_READERS:
        raise ValueError("continues in an indented line (a key must start in column 1)")
    return read(credential(value, base) if read in CREDENTIAL_READERS else value)


def read_values(
    values: Mapping[str, Any],
    readers: Mapping[str, Reader],
    base: Path,
    required: Sequence[str] = (),
) -> tuple[dict[str, Any], dict[str, str]]:
    """(the values of the keys that are set, why others cannot be used). A sample's text and an
    empty one are not set. A key in the second may be anything: see `shown_key`."""
    result: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for key, read in readers.items():
        value = values.get(key, "")
        if isinstance(value, str) and (not value.strip() or is_placeholder(read, value)):
            if key in required:
                sample = ", or still the sample's text" if key in values else ""
                problems[key] = f"is missing{sample}"
            continue
        try:
            result[key] = read_value(read, value, base)
        except ValueError as error:
            problems[key] = str(error)
    for key in values:
        if key not in readers:
            problems[key] = f"unknown key{did_you_mean(key, readers)}"
    return result, problems


# --- the sections of snapshots.config ---

UNSET = SecretText("")


def option(default: Any, read: Reader, override: bool = False) -> Any:
    """A key of a section: its default, and how its text becomes a value; a credential is never
    shown. override: may a server file bring another value?"""
    metadata = {"read": read, "override": override}
    return field(default=default, repr=read not in CREDENTIAL_READERS, metadata=metadata)


@dataclass(frozen=True)
class Directories:
    """[DIRECTORIES] - relative to the script's directory, or to that of --config's file."""

    configs_dir: str = option("configs", read_path)
    logs_dir: str = option("logs", read_path)


@dataclass(frozen=True)
class Files:
    """[FILES] - relative to logs_dir."""

    log_file: str = option("snapshots.log", read_path)
    lock_file: str = option("snapshots.lock", read_path)


@dataclass(frozen=True)
class Timing:
    """[TIMING] - in seconds, where the name says nothing else."""

    delay_between_servers: float = option(20, read_number(0, 86400))
    max_parallel: int = option(10, read_count(1, 1000))
    snapshot_creation_timeout: float = option(14400, read_number(1, 604800))
    poll_interval: float = option(5, read_number(0.1, 30))
    http_timeout: float = option(30, read_number(1, 600))
    run_timeout: float = option(21600, read_number(1, 604800))
    min_interval_hours: float = option(0, read_number(0, 87600, "hours"), override=True)


@dataclass(frozen=True)
class Retention:
    """[RETENTION]"""

    max_deletes_per_run: int = option(10, read_count(1, 100000))
    keep_daily: int = option(0, read_keep, override=True)
    keep_weekly: int = option(0, read_keep, override=True)
    keep_monthly: int = option(0, read_keep, override=True)
    keep_yearly: int = option(0, read_keep, override=True)
    keep_within_days: int = option(0, read_keep, override=True)


@dataclass(frozen=True)
class Logging:
    """[LOGGING]"""

    max_bytes: int = option(5242880, read_count(1000, 10**12))
    backup_count: int = option(5, read_count(0, 1000))
    level: str = option("DEBUG", read_choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))


@dataclass(frozen=True)
class HistorySection:
    """[HISTORY] - the file is in logs_dir."""

    file: str = option("history.db", read_path)
    keep_days: int = option(365, read_count(1, 36500))


@dataclass(frozen=True)
class ReportSection:
    """[REPORT] - relative to the configuration's directory."""

    file: str = option("", read_path)


@dataclass(frozen=True)
class StatusSection:
    """[STATUS] - how old a server's newest snapshot may be; 0: by its rhythm."""

    stale_after_hours: int = option(0, read_count(0, 100_000), override=True)


@dataclass(frozen=True)
class NotificationsSection:
    """[NOTIFICATIONS]"""

    mode: str = option("per_server", read_choice("per_server", "summary", "failures"))


@dataclass(frozen=True)
class PingSection:
    """[PING] - `url` as Healthchecks has it, or the others as they are."""

    url: SecretText = option(UNSET, read_ping_url)
    start_url: SecretText = option(UNSET, read_hook_url)
    success_url: SecretText = option(UNSET, read_hook_url)
    failure_url: SecretText = option(UNSET, read_hook_url)


@dataclass(frozen=True)
class Channel:
    """What [TELEGRAM], [WEBHOOK] and [SMTP] have in common."""

    enabled: bool = option(False, read_flag, override=True)
    notify_on_success: bool = option(True, read_flag, override=True)
    notify_on_failure: bool = option(True, read_flag, override=True)
    timeout: float = option(10, read_number(1, 300))
    retries: int = option(3, read_count(0, 20))
    base_delay_between_retries: float = option(2, read_number(0, 300))
    channel: ClassVar[str]  # what the log calls it
    address_keys: ClassVar[tuple[str, ...]]  # the receiver, and what says where it brings it

    @property
    def address(self) -> tuple[str, ...]:
        """Where messages end up; the same for all servers that share it."""
        return (self.channel, *(str(getattr(self, key)) for key in self.address_keys))


@dataclass(frozen=True)
class TelegramSection(Channel):
    """[TELEGRAM]"""

    channel: ClassVar[str] = "Telegram"
    address_keys: ClassVar[tuple[str, ...]] = ("bot_token", "chat_id", "message_thread_id")
    needs: ClassVar[tuple[str, ...]] = ("bot_token", "chat_id")
    enabled: bool = option(True, read_flag, override=True)
    bot_token: SecretText = option(UNSET, read_token, override=True)
    chat_id: str = option("", read_chat_id, override=True)
    message_thread_id: int = option(0, read_count(0, 10**15), override=True)
    parse_mode: str = option("Markdown", read_choice("Markdown", "MarkdownV2", "HTML", "none"))
    message_success: str = option(BUILT_IN, read_template, override=True)
    message_failure: str = option(BUILT_IN, read_template, override=True)


@dataclass(frozen=True)
class WebhookSection(Channel):
    """[WEBHOOK]"""

    channel: ClassVar[str] = "webhook"
    address_keys: ClassVar[tuple[str, ...]] = ("url",)
    needs: ClassVar[tuple[str, ...]] = ("url",)
    url: SecretText = option(UNSET, read_hook_url, override=True)
    payload_success: Optional[dict[str, Any]] = option(None, read_object, override=True)
    payload_failure: Optional[dict[str, Any]] = option(None, read_object, override=True)


@dataclass(frozen=True)
class SmtpSection(Channel):
    """[SMTP]"""

    channel: ClassVar[str] = "e-mail"
    address_keys: ClassVar[tuple[str, ...]] = ("server", "to_emails")
    server: str = option("", read_word)
    port: int = option(587, read_count(1, 65535))
    security: str = option("starttls", read_choice("starttls", "tls", "none"))
    helo_name: str = option("", read_helo_name)
    user: str = option("", read_word)
    password: SecretText = option(UNSET, read_password)
    from_email: str = option("", read_address)
    to_emails: tuple[str, ...] = option((), read_addresses, override=True)
    notify_on_success: bool = option(False, read_flag, override=True)
    subject_success: str = option(BUILT_IN, read_text, override=True)
    subject_failure: str = option(BUILT_IN, read_text, override=True)
    message_success: str = option(BUILT_IN, read_template, override=True)
    message_failure: str = option(BUILT_IN, read_template, override=True)

    @property
    def needs(self) -> tuple[str, ...]:
        """The keys without which it cannot work."""
        return ("server", "from_email", "to_emails", *(("password",) if self.user else ()))

    @property
    def exposes_password(self) -> bool:
        """Would its password travel in the clear?"""
        return bool(self.user) and self.security == "none" and not is_loopback(self.server)


PING_SECONDS = 10
PING_SUFFIXES = {"start": "/start", "success": "", "failure": "/fail", "log": "/log"}


@dataclass(frozen=True)
class Ping(Channel):
    """A call of a monitor that raises an alarm where calls do not come: a dead man's switch.

    Source: https://healthchecks.io/docs/http_api/ (read 2026-11).
    """

    channel: ClassVar[str] = "ping"
    address_keys: ClassVar[tuple[str, ...]] = ("url",)
    needs: ClassVar[tuple[str, ...]] = ("url",)
    url: str = field(default="", repr=False)
    method: str = "POST"
    body: str = ""


def ping_address(url: str, event: str) -> str:
    """The URL for an event: its suffix goes before a query, such as ?create=1."""
    path, mark, query = url.partition("?")
    return path.rstrip("/") + PING_SUFFIXES[event] + mark + query


def ping_of(section: PingSection, event: str, body: str = "") -> Optional[Ping]:
    """What to call for "start", "success", "failure" or "log"; None: nothing. A start gets one
    try, for its run does not wait."""
    if section.url:
        ping = Ping(url=ping_address(section.url, event), body=body)
    else:
        ping = Ping(url=getattr(section, f"{event}_url", ""), method="GET")
    tries = 1 if event == "start" else 3
    return dataclasses.replace(ping, timeout=PING_SECONDS, retries=tries) if ping.url else None


def monitor_of(entry: Entry) -> PingSection:
    """A server's own monitor, if it has one."""
    return PingSection(url=SecretText(getattr(entry, "ping_url", "")))


Destination = Union[TelegramSection, WebhookSection, SmtpSection, Ping]  # and all that it needs


def place_of(destination: Destination) -> str:
    """Where messages end up, for people: without what is secret."""
    if isinstance(destination, TelegramSection):
        topic = destination.message_thread_id
        return f"Telegram chat {destination.chat_id}" + (f", topic {topic}" if topic else "")
    if isinstance(destination, SmtpSection):
        return f"e-mail to {', '.join(destination.to_emails)}"
    return f"{destination.channel} at {host_of(destination.url)}"


@dataclass(frozen=True)
class Endpoints:
    """[API]"""

    digitalocean_url: str = option("https://api.digitalocean.com/v2", read_endpoint)
    hetzner_url: str = option("https://api.hetzner.cloud/v1", read_endpoint)
    contabo_url: str = option("https://api.contabo.com/v1", read_endpoint)
    contabo_auth_url: str = option(
        "https://auth.contabo.com/auth/realms/contabo/protocol/openid-connect/token", read_endpoint
    )
    telegram_url: str = option("https://api.telegram.org", read_endpoint)


# --- reading snapshots.config ---


@dataclass(frozen=True)
class Settings:
    """snapshots.config, checked."""

    base: Path  # what relative paths are relative to
    directories: Directories = Directories()
    files: Files = Files()
    timing: Timing = Timing()
    retention: Retention = Retention()
    logging: Logging = Logging()
    history: HistorySection = HistorySection()
    status: StatusSection = StatusSection()
    report: ReportSection = ReportSection()
    notifications: NotificationsSection = NotificationsSection()
    ping: PingSection = PingSection()
    telegram: TelegramSection = TelegramSection()
    webhook: WebhookSection = WebhookSection()
    smtp: SmtpSection = SmtpSection()
    api: Endpoints = Endpoints()
    remarks: tuple[Remark, ...] = ()

    @property
    def configs_dir(self) -> Path:
        """Where server files are looked for."""
        return self.base / self.directories.configs_dir

    @property
    def logs_dir(self) -> Path:
        """Where log, lock and history are."""
        return self.base / self.directories.logs_dir

    @property
    def log_path(self) -> Path:
        return self.logs_dir / self.files.log_file

    @property
    def lock_path(self) -> Path:
        return self.logs_dir / self.files.lock_file

    @property
    def history_path(self) -> Path:
        return self.logs_dir / self.history.file

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it cannot be used."""
        return tuple(r.text for r in self.remarks if r.level is Level.PROBLEM)

    @property
    def secrets(self) -> dict[str, SecretText]:
        """The credentials that are set, by "[SECTION] key"."""
        return {
            f"[{section}] {key}": value
            for section in SECTIONS
            for key, value in vars(getattr(self, section.lower())).items()
            if isinstance(value, SecretText) and value
        }


SECTIONS: Mapping[str, Any] = {
    key.name.upper(): type(key.default)
    for key in dataclasses.fields(Settings)
    if key.name not in ("base", "remarks")
}


@dataclass
class IniEntry:
    """A key of an INI text, or a [SECTION] line (its key is empty), or a line that is neither."""

    line: int  # from 1
    section: str
    key: str = ""
    lines: list[str] = field(default_factory=list)  # of the value
    problem: str = ""

    @property
    def value(self) -> IniText:
        """All lines of the value, without the empty ones behind it."""
        return IniText("\n".join(self.lines).rstrip())

    def remark(self, path: Path, reason: str, level: Level) -> Remark:
        """What is to be said of it, and where it is; never its text: that may be a credential."""
        place = f" [{shown_key(self.section)}]:" if self.section else ""
        if self.section and self.key:
            place = f" [{shown_key(self.section)}] {shown_key(self.key)!r}:"
        where = self.section if level is Level.PROBLEM else ""
        return Remark(level, f"{path}: line {self.line}:{place} {reason}", where)


def parse_ini(text: str) -> list[IniEntry]:
    """What an INI text holds, as configparser reads it (which gives no lines, and stops at the
    first problem): a line that is indented more than its key goes on with the key's value."""
    entries: list[IniEntry] = []
    first_lines: dict[tuple[str, str], int] = {}
    section, indent = "", 0
    last: Optional[IniEntry] = None  # the key whose value a line that is indented more goes on with
    for number, line in enumerate(text.split("\n"), 1):
        content = line.strip()
        depth = len(line) - len(line.lstrip())
        if content.startswith(("#", ";")):
            continue
        if not content or (last and depth > indent):
            if last:
                last.lines.append(content)
            continue
        indent, last = depth, None
        header = re.match(r"\[(.+)\]", content)
        if header:
            section = header[1]
            entry = IniEntry(number, section)
            behind = content[header.end() :].lstrip()
            if behind and behind[0] not in "#;":  # git reads a key there, configparser nothing
                entry.problem = "has text behind the ] (put that on a line of its own)"
        elif not section:
            entry = IniEntry(number, "", problem="is before the first [SECTION]")
        else:
            key, sign, value = re.split(r"([=:]|$)", content, maxsplit=1)
            entry = IniEntry(number, section, key.strip().lower(), [value.strip()])
            known = readers_of(SECTIONS[section]) if section in SECTIONS else {}
            if not entry.key or not (sign or entry.key in known):  # not shown: part of a value?
                hint = did_you_mean(entry.key, known)
                entry = IniEntry(number, section, problem=f"is not `key = value`{hint}")
            elif not sign:
                entry.problem = "has no value (give it one, or leave the key out)"
            else:
                last = entry
        first = first_lines.setdefault((section, entry.key), number)
        if first != number and not entry.problem:
            kind = "key" if entry.key else "section"
            entry.problem = f"duplicate {kind} (first on line {first})"
        if section or not entries:
            entries.append(entry)
    return entries


def readers_of(section: Any, override: bool = False) -> dict[str, Reader]:
    """{key: reader} of a section's dataclass; or only those that a server file may override."""
    return {
        key.name: key.metadata["read"]
        for key in dataclasses.fields(section)
        if key.metadata["override"] or not override
    }


def load_settings(path: Path, required: bool) -> Settings:
    """Read snapshots.config. Its problems, all of them, are in the result's remarks.

    A missing file is fine unless it was asked for by name.
    """
    settings = Settings(base=path.parent)
    try:
        entries = parse_ini(read_text_file(path))
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and not required and not path.is_symlink():
            return settings
        problem = Remark(Level.PROBLEM, f"{path}: cannot be read: {reason_of(error)}")
        return dataclasses.replace(settings, remarks=(problem,))
    first = {(entry.section, entry.key): entry for entry in reversed(entries)}
    found = [(entry, entry.problem, Level.PROBLEM) for entry in entries if entry.problem]
    sections: dict[str, dict[str, IniText]] = {}
    for entry in entries:
        texts = sections.setdefault(entry.section, {})
        if entry.key and not entry.problem:
            texts[entry.key] = entry.value
    for section, texts in sections.items():
        if section in SECTIONS:
            chosen, wrong = read_values(texts, readers_of(SECTIONS[section]), path.parent)
            found += [(first[section, key], wrong[key], Level.PROBLEM) for key in wrong]
            read = SECTIONS[section](**chosen)
            settings = dataclasses.replace(settings, **{section.lower(): read})
        elif section and (section, texts) != ("DEFAULT", {}):  # which the predecessor's sample has
            reason = f"unknown section{did_you_mean(section.upper(), SECTIONS)}"
            found.append((first[section, ""], reason, Level.PROBLEM))
    for places, reason, level in conflicts(settings):
        found.append((next(first[place] for place in places if place in first), reason, level))
    found.sort(key=lambda item: item[0].line)
    remarks = [entry.remark(path, reason, level) for entry, reason, level in found]
    remarks += secrets_notes(path, settings.secrets)
    return dataclasses.replace(settings, remarks=tuple(remarks))


def conflicts(settings: Settings) -> Iterator[tuple[list[tuple[str, str]], str, Level]]:
    """Keys of snapshots.config that do not go together, or are not wise: where to say it, the first
    of these places that is set, and what."""
    ping, seconds = settings.ping, settings.timing.snapshot_creation_timeout
    if ping.url and (ping.start_url or ping.success_url or ping.failure_url):
        reason = "takes the place of the other three (leave it or them out)"
        yield [("PING", "url")], reason, Level.PROBLEM
    if (ping.start_url or ping.failure_url) and not ping.success_url:
        reason = "success_url is not set: nobody is alarmed where runs do not come"
        yield [("PING", "failure_url"), ("PING", "start_url")], reason, Level.WARNING
    if settings.smtp.exposes_password:
        reason = "a password would travel in the clear (use starttls or tls)"
        yield [("SMTP", "security"), ("SMTP", "user")], reason, Level.PROBLEM
    files: dict[str, list[tuple[str, str]]] = {}  # by their paths: what is to be there
    for place, path in (
        (("HISTORY", "file"), settings.history_path),
        (("FILES", "lock_file"), settings.lock_path),
        (("FILES", "log_file"), settings.log_path),
    ):
        files.setdefault(os.path.normpath(path), []).append(place)
    for places in files.values():
        if len(places) > 1:
            yield places, "log, lock and history must be three files", Level.PROBLEM
    if seconds < 3600:
        reason = (
            f"{seconds:g} s is short: a snapshot may take 1 to 3 minutes per GB of used disk (3600"
            " or more is sensible)"
        )
        yield [("TIMING", "snapshot_creation_timeout")], reason, Level.NOTE


def secrets_notes(
    path: Path, secrets: Mapping[str, SecretText], where: str = ""
) -> Iterator[Remark]:
    """What is allowed of the credentials that a file brings, by their keys, but not wise."""
    for key, value in secrets.items():
        if value.is_url and is_in_the_clear(urlsplit(value)):
            text = f"{key}: is http://: what is sent there can be read on the way"
            yield Remark(Level.NOTE, text, where)
    if any(value.literal for value in secrets.values()):
        yield from open_to_others(path)


# --- server files ---


# The keys of server files: in the order of the provider's login, and what they may be read as.
CREDENTIAL_KEYS: Mapping[str, Mapping[str, Reader]] = {
    "digitalocean": {"api_token": read_token},
    "hetzner": {"api_token": read_token},
    "contabo": {
        "client_id": read_token,
        "client_secret": read_password,
        "api_user": read_password,
        "api_password": read_password,
    },
}
USER_NAMES = ("client_id", "api_user")  # of the credentials; they are no secrets
TOP_KEYS: Mapping[str, str] = {
    "digitalocean_droplet": "digitalocean",
    "hetzner_cloud_server": "hetzner",
    "contabo_instance": "contabo",
}
REQUIRED_KEYS = ("id", "name", "retain_last_snapshots")  # and the credentials
CHANNELS = ("telegram", "webhook", "smtp")  # blocks of a server file, fields of Settings


@functools.cache  # for a thousand files
def server_readers(provider: str) -> Mapping[str, Reader]:
    """{key: reader} of a provider's server files."""
    return {
        "provider": read_choice(provider),
        "id": read_id,
        "name": read_name,
        "retain_last_snapshots": read_retain,
        **readers_of(Retention, override=True),
        **readers_of(StatusSection, override=True),
        **readers_of(Timing, override=True),
        "former_names": read_names,
        "ping_url": read_ping_url,
        **CREDENTIAL_KEYS[provider],
        **({"replace_when_full": read_flag} if provider == "contabo" else {}),
        **dict.fromkeys(CHANNELS, read_object),
    }


def top_key_and_content(path: Path) -> tuple[str, Mapping[str, Any]]:
    """A server file's one top key, and what is under it. Raises ConfigError."""
    try:
        whole = parse_json(read_text_file(path))
    except (OSError, ValueError) as error:
        hint = ""
        if isinstance(error, FileNotFoundError):
            others = sorted(other.stem for other in path.parent.glob("*.json") if other != path)
            hint = did_you_mean(path.stem, others).replace("'?", ".json'?")
        raise ConfigError([reason_of(error) + hint]) from None
    if not isinstance(whole, dict):
        raise ConfigError(["must be one object in braces"])
    top = next(iter(whole), "")
    if len(whole) != 1 or top not in TOP_KEYS:
        other = next((key for key in whole if key not in TOP_KEYS), "")
        found = f" (found {shown_key(other)!r}{did_you_mean(other, TOP_KEYS)})" if other else ""
        raise ConfigError([f"must hold exactly one of {', '.join(TOP_KEYS)}{found}"])
    if not isinstance(whole[top], dict):
        raise ConfigError([f"{top}: must be an object in braces"])
    return top, whole[top]


def server_of(entry: Entry) -> tuple[str, str]:
    """The provider and id of the server that a file is for, even if it cannot be used."""
    with contextlib.suppress(ConfigError):
        top, content = top_key_and_content(Path(entry.source))
        return TOP_KEYS[top], number_text(content.get("id"))
    return entry.provider, entry.id


CONTABO_KEEPS_DAYS = 30
DAYS_OF = MappingProxyType({"daily": 1, "weekly": 7, "monthly": 31, "yearly": 366})


def ineffective_rules(policy: Policy, provider: str) -> Iterator[str]:
    """Rules that cannot do what they say, and why."""
    for tier in (*SLOT_OF, "within_days"):
        number = getattr(policy, tier)
        reach = number if tier == "within_days" else (number - 1) * DAYS_OF[tier] + 1
        if number and policy.last is None:
            yield (
                f'keep_{tier} has no effect: retain_last_snapshots is "all", so that everything'
                f" stays (set keep_{tier} to 0 here, or retain_last_snapshots to a number)"
            )
        elif provider == "contabo" and reach > CONTABO_KEEPS_DAYS:
            yield (
                f"keep_{tier} = {number} has no effect beyond {CONTABO_KEEPS_DAYS} days: Contabo"
                " deletes each snapshot at that age by itself (lower it)"
            )


def channels_of(
    sections: Iterable[Destination], where: str = ""
) -> tuple[tuple[Destination, ...], list[Remark]]:
    """The channels that are switched on and can work, and a remark about each that cannot."""
    working: list[Destination] = []
    remarks: list[Remark] = []
    for section in sections:
        missing = [key for key in section.needs if not getattr(section, key)]
        if section.enabled and missing:
            # Telegram is on by itself: where nothing at all is set, nobody counts on it
            nothing = isinstance(section, TelegramSection) and len(missing) == len(section.needs)
            text = f"no {section.channel} notification: {' and '.join(missing)} not set"
            remarks.append(Remark(Level.NOTE if nothing else Level.WARNING, text, where))
        elif section.enabled:
            working.append(section)
    return tuple(working), remarks


def default_channels(settings: Settings) -> tuple[Destination, ...]:
    """The channels of snapshots.config."""
    return channels_of([settings.telegram, settings.webhook, settings.smtp])[0]


def override(section: Any, chosen: dict[str, Any]) -> Any:
    """A channel's settings, with those over them that a server file holds; an empty object there
    changes nothing."""
    if chosen.get("chat_id", "") not in ("", vars(section).get("chat_id")):
        chosen.setdefault("message_thread_id", 0)  # a topic belongs to its chat
    return dataclasses.replace(section, **{k: v for k, v in chosen.items() if v != {}})


def load_server(path: Path, settings: Settings) -> tuple[Entry, list[Remark]]:
    """One server file, and remarks about it. One that cannot be used holds every problem, and is
    reported over its own channels, where these at least can be read."""
    shown = one_line(str(path), 500)
    name = one_line(path.stem, 200) or shown
    bad = BadServer(name, shown, "", default_channels(settings))
    try:
        top, content = top_key_and_content(path)
    except ConfigError as error:
        return dataclasses.replace(bad, error=f"{shown}: {error}"), []
    provider, base = TOP_KEYS[top], settings.base
    required = (*REQUIRED_KEYS, *CREDENTIAL_KEYS[provider])
    values, wrong = read_values(content, server_readers(provider), base, required)
    problems = [f"{shown_key(key)}: {reason}" for key, reason in wrong.items()]
    channels: list[Any] = []
    brought = dict(values)  # by the file, in all of its blocks
    for block in CHANNELS:
        channel = getattr(settings, block)
        readers = readers_of(channel, override=True)
        chosen, wrong = read_values(values.get(block, {}), readers, base)
        problems += [f"{block}.{shown_key(key)}: {reason}" for key, reason in wrong.items()]
        brought.update({f"{block}.{key}": value for key, value in chosen.items()})
        channels.append(channel if wrong else override(channel, chosen))
    secrets = {
        key: value
        for key, value in brought.items()
        if isinstance(value, SecretText) and key not in USER_NAMES
    }
    destinations, remarks = channels_of(channels, values.get("name", name))
    if problems:
        text = f"{shown}: {'; '.join(problems)}"
        own = tuple(secrets.values())
        return dataclasses.replace(bad, error=text, destinations=destinations, secrets=own), []
    for section in (settings.retention, settings.status, settings.timing):
        for key in readers_of(section, override=True):
            values.setdefault(key, getattr(section, key))
    tiers = {tier: values[f"keep_{tier}"] for tier in (*SLOT_OF, "within_days")}
    policy = Policy(values["retain_last_snapshots"], **tiers)
    values["provider"] = provider
    server = Server(
        **{key.name: values[key.name] for key in dataclasses.fields(Server) if key.name in values},
        policy=policy,
        credentials=tuple(values[key] for key in CREDENTIAL_KEYS[provider]),
        source=str(path),
        destinations=destinations,
        secrets=tuple(secrets.values()),
    )
    remarks += [
        Remark(Level.WARNING, f"{path}: {text}") for text in ineffective_rules(policy, provider)
    ]
    return server, [*remarks, *secrets_notes(path, secrets, server.name)]


def server_files(names: Sequence[str], settings: Settings) -> tuple[list[Path], list[Remark]]:
    """The files to load: those named, or every *.json in configs_dir that is not hidden.

    A name is taken as a path if that exists, else looked up in configs_dir. One file named
    twice is one. Raises ConfigError if there is nothing at all.
    """
    if not names:
        return files_in(settings.configs_dir)
    files: dict[str, Path] = {}
    for name in names:
        path = Path(name)
        try:
            os.lstat(name)
        except (FileNotFoundError, NotADirectoryError):
            path = settings.configs_dir / name
        except (OSError, ValueError):
            pass  # reading it will say why
        files.setdefault(str(path) if "\0" in name else os.path.realpath(path), path)
    return list(files.values()), []


HOW_TO_BEGIN = "write --setup, or copy a configs/*.json.sample to configs/NAME.json and fill it in"


def files_in(folder: Path) -> tuple[list[Path], list[Remark]]:
    """The server files of a directory, and remarks about what may be meant as one. Raises
    ConfigError if there is none."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        raise ConfigError([f"{folder}: does not exist ({HOW_TO_BEGIN})"]) from None
    except OSError as error:
        raise ConfigError([f"{folder}: cannot be listed: {reason_of(error)}"]) from None
    files: list[Path] = []
    others: list[str] = []
    remarks: list[Remark] = []
    for name in names:
        if name.endswith(".json"):
            files.append(folder / name)
        elif name.lower().endswith((".json", ".json.txt")):
            text = f"{folder / name}: not used (the name of a server file ends in .json)"
            remarks.append(Remark(Level.WARNING, text))
        elif not name.endswith(".json.sample"):
            others.append(name)
    if not files:
        problems = [f"{folder}: holds no server file ({HOW_TO_BEGIN})"]
        raise ConfigError([*problems, *(remark.text for remark in remarks)])
    if others:
        more = f" and {len(others) - 10} more" if len(others) > 10 else ""
        text = f"{folder}: no server files: {', '.join(others[:10])}{more}"
        remarks.append(Remark(Level.NOTE, text))
    return files, remarks


def check_of(ping_url: str) -> str:
    """A monitor's check, whichever of its forms its URL has."""
    return ping_address(ping_url.replace("?create=1", ""), "success").lower()


def unique_keys_of(entry: Entry) -> Iterator[tuple[tuple[str, str], str]]:
    """What a server file must not share with another one, and what is wrong where it does."""
    if isinstance(entry, Server):
        yield (entry.provider, entry.id), f"are for the same server {entry.id} (keep one of them)"
        if entry.ping_url:
            reason = "have the same ping URL (give each a check of its own)"
            yield ("ping", check_of(entry.ping_url)), reason


def load_servers(names: Sequence[str], settings: Settings) -> tuple[list[Entry], list[Remark]]:
    """Every server of this run in order, bad ones included, and the remarks about them.

    Two files for the same server are both refused: nobody knows whose retention would hold. So
    are two with the same ping_url: a success of one would hide that the other fails.
    Raises ConfigError if there is no file at all.
    """
    files, remarks = server_files(names, settings)
    loaded: list[Entry] = []
    sources = {("ping", check_of(settings.ping.url)): ["[PING]"]}
    for path in files:
        entry, about = load_server(path, settings)
        loaded.append(entry)
        remarks += about
        for key, _ in unique_keys_of(entry):
            sources.setdefault(key, []).append(entry.source)
    for index, entry in enumerate(loaded):
        shared = [
            f"{' and '.join(sources[key])}: {reason}"
            for key, reason in unique_keys_of(entry)
            if len(sources[key]) > 1
        ]
        if shared:
            error = "; ".join(shared)
            known = [key.name for key in dataclasses.fields(BadServer) if key.name != "error"]
            loaded[index] = BadServer(error=error, **{key: getattr(entry, key) for key in known})
    return loaded, remarks


def home_directory() -> Path:
    """Where snapshots.config, configs/ and logs/ are: beside the script; beside the link that it
    was started through, if a configuration or server files are there."""
    beside_link = Path(__file__).absolute().parent
    try:
        if not os.path.lexists(beside_link / "snapshots.config"):
            files_in(beside_link / "configs")
    except ConfigError:  # nothing is there
        return Path(os.path.realpath(__file__)).parent
    return beside_link


# === Runtime ==================================================================================
# The clock, secrets, the screen, the log, the lock, signals: all that is outside and not a network.

log = logging.getLogger("snapshots")
log.propagate = False
log.addHandler(logging.NullHandler())  # without any, logging would print to stderr by itself

MASK = "[hidden]"
ESCAPED = re.compile(
    r"%[c-f][0-9a-f](?:%[89ab][0-9a-f])+|%[0-9a-f]{2}"  # URLs; one character of UTF-8, or a byte
    r"|&#?[0-9a-z]{1,31};|&#(?:[0-9]{2,7}|x[0-9a-f]{2,6})"  # HTML
    r"|\\+u(d[89ab][0-9a-f]{2})\\+u(d[c-f][0-9a-f]{2})"  # JSON: a pair of surrogates
    r"|\\+(?:(?-i:U)[0-9a-f]{8}|u[0-9a-f]{4}|u\{[0-9a-f]{1,6}\}|x[0-9a-f]{2})"  # Python, JavaScript
    r"|\\+|\+",  # before a quote or a slash; a form's space
    re.IGNORECASE,
)
UNESCAPE_TIMES = 4  # JSON in JSON in a URL in HTML
ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def unescape(escaped: re.Match[str]) -> str:
    """The character that an escape sequence stands for."""
    text = escaped[0]
    if text == "+":
        return " "
    if text[0] == "&":
        return html.unescape(text)
    if text[0] == "%":
        raw = bytes.fromhex(text.replace("%", ""))
        with contextlib.suppress(UnicodeDecodeError):
            return raw.decode("utf-8")
        return raw.decode("latin-1")
    if escaped[1]:
        pair = bytes.fromhex(escaped[1] + escaped[2])
        return pair.decode("utf-16-be")
    digits = text.lstrip("\\")[1:].strip("{}")
    return chr(int(digits, 16)) if digits and int(digits, 16) <= sys.maxunicode else ""


class Redactor:
    """Masks every known credential, in whatever form a URL, JSON, HTML, a form, Python, base64
    or hex may hold it: escapes are undone step by step, and each step is searched."""

    def __init__(self) -> None:
        self._forms: dict[str, tuple[str, ...]] = {}  # first SHORT_SECRET characters: whole forms
        self._known: set[str] = set()

    def add(self, *secrets: str) -> None:
        """From now on mask these; one shorter than 8 characters would mask half the language."""
        new = {secret for secret in secrets if len(secret) >= SHORT_SECRET} - self._known
        self._known |= new
        for secret in new:
            for form in self.forms_of(secret):
                start = form[:SHORT_SECRET]
                known = self._forms.get(start, ())
                if len(form) >= SHORT_SECRET and form not in known:
                    self._forms[start] = tuple(sorted((*known, form), key=len, reverse=True))

    @staticmethod
    def forms_of(secret: str) -> set[str]:
        """How a credential may look between two steps of unescaping, in lower case."""
        raw = secret.encode("utf-8", "surrogateescape")
        forms = {secret, raw.decode("latin-1"), raw.hex()}
        for shift in range(3):  # base64 of anything that holds the secret, at each alignment
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                first, last = -(-8 * shift // 6), 8 * (shift + len(raw)) // 6
                forms.add(encode(b"\0" * shift + raw).decode("ascii")[first:last])
        new = forms
        for _ in range(UNESCAPE_TIMES):
            new = {ESCAPED.sub(unescape, form) for form in new} - forms
            forms |= new
        return {form.translate(ASCII_LOWER) for form in forms}

    def __call__(self, text: str) -> str:
        """The text with every credential masked."""
        places: list[tuple[int, int]] = []  # in the text: begin, end
        step: str = text
        origin: Sequence[int] = range(len(text) + 1)  # where in the text each character begins
        for _ in range(UNESCAPE_TIMES + 1):
            places += [(origin[first], origin[last]) for first, last in self._find(step)]
            before = step
            step, origin = self._unescaped(step, origin)
            if step == before:
                break
        result, end = [], 0
        for first, last in sorted(places):
            if first >= end:
                result += [text[end:first], MASK]
            end = max(end, last)
        return "".join([*result, text[end:]])

    def _find(self, text: str) -> Iterator[tuple[int, int]]:
        """Where in a text credentials are, as they are known."""
        text = text.translate(ASCII_LOWER)
        for first in range(len(text) - SHORT_SECRET + 1):
            for form in self._forms.get(text[first : first + SHORT_SECRET], ()):
                if text.startswith(form, first):
                    yield first, first + len(form)
                    break

    @staticmethod
    def _unescaped(text: str, origin: Sequence[int]) -> tuple[str, Sequence[int]]:
        """The text with its escapes undone once, and where each of its characters begins."""
        parts: list[str] = []
        starts: list[int] = []
        end = 0
        for escaped in ESCAPED.finditer(text):
            begin, character = escaped.start(), unescape(escaped)
            if character != escaped[0]:  # not just an & and a word
                parts += [text[end:begin], character]
                starts += [*origin[end:begin], *[origin[begin]] * len(character)]
                end = escaped.end()
        return "".join([*parts, text[end:]]), [*starts, *origin[end:]]

    def line(self, text: str, limit: int = LINE_LIMIT, own: Iterable[str] = ()) -> str:
        """One printable line of it. Masked before it is cut: a cut credential is not known again,
        and its beginning would stay. own: credentials of the connection that it is about; there
        the short ones are masked as well."""
        for secret in own:
            if 0 < len(secret) < SHORT_SECRET:
                text = text.replace(secret, MASK)
        return one_line(self(text), limit)


class Clock(Protocol):
    """Time, and the two things that wait for it: conditions and threads. Tests bring their own."""

    def now(self) -> datetime:
        """The wall clock: aware, UTC."""

    def monotonic(self) -> float:
        """Seconds that never jump."""

    def condition(self) -> threading.Condition:
        """Something to wait for, up to a timeout of this clock."""

    def start(self, target: Callable[[], None], name: str) -> None:
        """Run target in a thread of its own."""


class SystemClock:
    """The real one."""

    def now(self) -> datetime:
        return datetime.now(timezone.utc)

    def monotonic(self) -> float:
        return time.monotonic()

    def condition(self) -> threading.Condition:
        return threading.Condition()

    def start(self, target: Callable[[], None], name: str) -> None:
        # daemon: a thread that hangs in a system call must not keep a finished run alive
        threading.Thread(target=target, name=name, daemon=True).start()


class Sink:
    """Writes in a thread of its own, in order, to what may hang: a screen, a disk.

    Who writes waits until that is done. A run, and whatever is being stopped, waits only for an
    instant, and not at all while something hangs: not for a pipe that nobody reads,
    nor for a disk that has gone.
    """

    WAIT_SECONDS = 1.0
    LEAVE_SECONDS = 3.0
    MAX_WAITING = 10_000  # writes; further ones are lost

    def __init__(self, waits_for_reader: bool = False) -> None:
        self.waits_for_reader = waits_for_reader
        self._writes: queue.SimpleQueue[Optional[tuple[Callable[[], object], threading.Event]]]
        self._writes = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self.hangs = False

    def do(self, write: Callable[[], object], wait_seconds: float = WAIT_SECONDS) -> None:
        """Have something written."""
        done = threading.Event()
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="sink", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the machine allows no more threads
                    write()
                    return
                self._thread = thread
        if not self.hangs or self._writes.qsize() < self.MAX_WAITING:
            self._writes.put((write, done))
        while not self.hangs and not done.wait(wait_seconds):
            self.hangs = not self.waits_for_reader

    def finish(self, write: Callable[[], object], wait_seconds: float = LEAVE_SECONDS) -> None:
        """The last write; returns when everything has been written, or hangs too long."""
        self.hangs = False
        self.do(write, wait_seconds)
        self._writes.put(None)
        self._thread = None

    def _work(self) -> None:
        while True:
            job = self._writes.get()
            if job is None:
                return
            with contextlib.suppress(OSError, ValueError):
                job[0]()
            job[1].set()
            self.hangs = self.hangs and not self._writes.empty()


class Screen:
    """stdout and stderr: masked, line by line, and never the reason for another exit code."""

    def __init__(self, redact: Redactor, quiet: bool = False) -> None:
        self.redact, self.quiet = redact, quiet
        self.lost = ""  # why stdout does not take what is written; a reader that left is no reason
        self._sinks = {name: Sink(waits_for_reader=True) for name in ("stdout", "stderr")}
        self._live = ""

    def wait_for_nobody(self) -> None:
        """From now on a reader that stalls is not waited for."""
        for sink in self._sinks.values():
            sink.waits_for_reader = False

    def out(self, *lines: str) -> None:
        """Lines on stdout, unless quiet."""
        for line in () if self.quiet else lines:
            self._write("stdout", self.redact.line(line))

    def document(self, text: str) -> None:
        """Text for programs, which has been masked, as it is."""
        self._write("stdout", text)

    def problem(self, *lines: str) -> None:
        """Lines on stderr."""
        for line in lines:
            self._write("stderr", self.redact.line(f"snapshots: {line}"))

    def prompt(self, text: str) -> None:
        """A question on stdout; the answer will stand in the same line."""
        self._write("stdout", self.redact.line(text), end="")

    def live(self, text: str) -> None:
        """Redraw the live line at the foot of a terminal; '' takes it away."""
        text = self.redact.line(text)[: terminal_width() - 1]

        def draw() -> None:
            sys.stdout.write("\r\x1b[K" + text)
            sys.stdout.flush()
            self._live = text

        if not self._sinks["stdout"].hangs:
            self._sinks["stdout"].do(draw)

    def _write(self, name: str, line: str, end: str = "\n") -> None:
        stream: Optional[TextIO] = getattr(sys, name)  # None: it was closed when we began
        # where both are terminals they are the same one, on which only one thread may draw
        on_terminal = is_terminal(stream) and is_terminal(sys.stdout)

        def write() -> None:
            live = self._live if on_terminal else ""
            if live:
                sys.stdout.write("\r\x1b[K")
                sys.stdout.flush()
            if stream is not None:
                encoding = stream.encoding or "utf-8"
                try:
                    stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + end)
                    stream.flush()
                except OSError as error:
                    if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                        self.lost = reason_of(error)
                    raise
            if live:
                sys.stdout.write(live)
                sys.stdout.flush()

        self._sinks["stdout" if on_terminal else name].do(write)

    def leave(self) -> None:
        """Flush what is left; a closed or full stdout must not change the exit code at exit."""
        for name, sink in self._sinks.items():
            sink.finish(functools.partial(flush_or_drop, getattr(sys, name)))


def flush_or_drop(stream: Optional[TextIO]) -> None:
    """Flush a stream; where that fails, let what is in it go nowhere."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]


def is_terminal(stream: Optional[TextIO]) -> bool:
    """Does somebody look at this stream?"""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return stream is not None and stream.isatty()
    return False


def terminal_width() -> int:
    """Columns of the terminal on stdout; 80 where nobody knows."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    return 80


class Runtime:
    """What every part needs of the outside, and the flag that ends all waiting."""

    def __init__(self, clock: Clock, redact: Redactor, screen: Screen) -> None:
        self.clock, self.redact, self.screen = clock, redact, screen
        self.hostname = one_line(socket.gethostname(), 200)
        self.stopping = ""  # why, once a signal has come
        self.max_retry_seconds = math.inf  # for which a request is tried again at the most
        self._conditions: list[threading.Condition] = []
        self._pausing = self.condition()
        self._thread = threading.local()

    def condition(self) -> threading.Condition:
        """A condition that a stop signal wakes."""
        condition = self.clock.condition()
        self._conditions.append(condition)
        return condition

    def stop(self, reason: str) -> None:
        """Wake every waiting thread; from now on nothing is created or deleted."""
        first, self.stopping = not self.stopping, self.stopping or reason
        self.screen.wait_for_nobody()
        for condition in self._conditions:
            with condition:
                condition.notify_all()
        if first:  # last of all: a log that hangs must not hold up the stop
            log.warning("%s: nothing more is created or deleted", reason)

    def check(self) -> None:
        """Raise InterruptedRunError if a signal has come."""
        if self.stopping:
            raise InterruptedRunError(self.stopping)

    @contextlib.contextmanager
    def around_pauses(
        self, before: Callable[[], object], after: Callable[[], object]
    ) -> Iterator[None]:
        """In here, whatever makes this thread pause, these are called before and after that."""
        self._thread.around = before, after
        try:
            yield
        finally:
            self._thread.around = None

    def pause(self, seconds: float) -> None:
        """Wait; a signal ends it at once with InterruptedRunError."""
        around = getattr(self._thread, "around", None)
        if around is not None:
            around[0]()
        until = self.clock.monotonic() + seconds
        with self._pausing:
            while not self.stopping and self.clock.monotonic() < until:
                self._pausing.wait(until - self.clock.monotonic())
        self.check()
        if around is not None:
            self._thread.around = None  # what it does may pause as well
            around[1]()
            self._thread.around = around

    def tries(self, seconds: float, pause: Callable[[int], float]) -> Iterator[None]:
        """At once, and after each pause, and one last time after so many seconds.
        pause: how long the first, second, ... one is. Raises InterruptedRunError."""
        until = self.clock.monotonic() + seconds
        for number in itertools.count(1):
            left = until - self.clock.monotonic()
            yield
            if left <= 0:
                return
            self.pause(min(pause(number), left))

    def warn(self, text: str) -> None:
        """A warning: in the log and on stderr."""
        log.warning("%s", text)
        self.screen.problem(f"warning: {text}")


ALWAYS = MappingProxyType({"always": True})  # extra= of a record that no level keeps out


def at_least(level: int) -> Callable[[logging.LogRecord], bool]:
    """A filter: what is at least of a level, and what other tools rely on (see ALWAYS)."""
    return lambda record: record.levelno >= level or getattr(record, "always", False)


def make_one_line(record: logging.LogRecord, redact: Redactor) -> bool:
    """A filter that rewrites a record before any handler sees it: masked, one line, no arguments.

    `logging` prints raw arguments when a handler fails, so none may be left in the record.
    """
    try:
        message = record.getMessage()
    except (TypeError, ValueError):
        message = str(record.msg)
    record.msg = redact.line(message, LINE_LIMIT + ERROR_LIMIT)
    record.args = ()
    record.exc_info = record.exc_text = record.stack_info = None
    return True


class LogFile(logging.handlers.RotatingFileHandler):
    """The rotating log: made when the first line comes, 0600, never through a symlink, in a
    thread of its own; trouble is reported once, for a log is advice."""

    def __init__(self, path: Path, section: Logging, screen: Screen) -> None:
        self.screen, self.warned, self.over, self.sink = screen, False, False, Sink()
        super().__init__(
            path,
            maxBytes=section.max_bytes,
            backupCount=section.backup_count,
            encoding="utf-8",
            errors="backslashreplace",
            delay=True,
        )

    def _open(self) -> Any:
        path = Path(self.baseFilename)
        make_folder(path.parent)
        descriptor = open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, own=True)
        return open(descriptor, "a", encoding=self.encoding, errors=self.errors)

    def handle(self, record: logging.LogRecord) -> bool:
        if self.filter(record):
            self.sink.do(lambda: logging.Handler.handle(self, record))
        return True

    def emit(self, record: logging.LogRecord) -> None:
        if not self.over:  # else logging would open the file again
            super().emit(record)

    def close(self) -> None:
        def last() -> None:
            self.over = True
            logging.handlers.RotatingFileHandler.close(self)

        self.sink.finish(last)

    def doRollover(self) -> None:  # noqa: N802  (logging's name)
        if self.backupCount == 0 and self.stream:
            self.stream.truncate(0)  # logging would leave it as it is, since it is opened to append
        super().doRollover()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """Instead of a traceback: one warning; the run goes on, the cloud is what counts."""
        if not self.warned:
            self.warned = True
            error = sys.exc_info()[1]
            reason = reason_of(error) if error else "unknown"
            self.screen.problem(f"warning: {self.baseFilename}: cannot be written: {reason}")


class ToScreen(logging.Handler):
    """With -v: the log on stdout as well."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self.screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "log_only", False):
            self.screen.out(self.format(record))


def open_log(settings: Settings, world: Runtime, verbose: bool, to_file: bool) -> None:
    """Give the log its handlers. Without to_file its file is only made for a traceback."""
    logging.raiseExceptions = False
    close_log()
    log.setLevel(logging.DEBUG)
    log.addFilter(functools.partial(make_one_line, redact=world.redact))
    level: int = logging.getLevelName(settings.logging.level)
    file = LogFile(settings.log_path, settings.logging, world.screen)
    file.addFilter(at_least(level if to_file else logging.CRITICAL + 1))
    handlers: list[logging.Handler] = [file]
    if verbose:
        handlers.append(ToScreen(world.screen))
        handlers[-1].addFilter(at_least(level))
    for handler in handlers:
        handler.setFormatter(
            logging.Formatter("%(asctime)s | %(levelname)-8s | %(message)s", "%Y-%m-%d %H:%M:%S")
        )
        log.addHandler(handler)


def close_log() -> None:
    """Take all handlers and filters off the log, but for the one that writes nowhere."""
    for handler in [h for h in log.handlers if not isinstance(h, logging.NullHandler)]:
        log.removeHandler(handler)
        with contextlib.suppress(OSError, ValueError):
            handler.close()
    for old in list(log.filters):
        log.removeFilter(old)


def message_of(error: BaseException, redact: Optional[Redactor]) -> str:
    """An error in one line. One that nobody thought of is in the log as well, with its traceback.
    redact is None as long as not every credential is known: then the error's own text, which may
    hold one, is left out of both."""
    if isinstance(error, SnapshotsError):
        return str(error)
    text = f": {redact.line(str(error), 200)}" if redact else ""
    message = f"unexpected {type(error).__name__}{text} (a bug: see the log)"
    log.error("%s", message, extra=ALWAYS)
    chunks = ["Traceback:", *traceback.format_tb(error.__traceback__), type(error).__name__]
    if redact:
        chunks = traceback.format_exception(type(error), error, error.__traceback__)
    for chunk in chunks:
        for line in chunk.rstrip("\n").splitlines():
            log.error("  %s", line, extra={**ALWAYS, "log_only": True})
    return message


@contextlib.contextmanager
def single_run(path: Path, clock: Clock) -> Iterator[None]:
    """Hold the lock while the block runs. Raises LockHeldError or LockError.

    The kernel drops the lock however the process ends, so the file stays: deleting it would let
    a third run lock a new file while the second holds the old one. The pid inside is advice.
    """
    try:
        make_folder(path.parent)
        descriptor = open_plain(path, os.O_RDWR | os.O_CREAT, own=True)
    except (OSError, ValueError) as error:
        if os.path.exists(path.parent) and not os.path.isdir(path.parent):
            raise LockError(
                f"{path.parent}: is not a directory (remove it, or set [DIRECTORIES] logs_dir)"
            ) from None
        raise LockError(
            f"{path}: the lock file cannot be opened: {reason_of(error)}"
            " (it must be a regular file that this user may write)"
        ) from None
    try:
        take_lock(descriptor, path)
        holder = f"{os.getpid()} since {clock_time(clock.now())}\n"
        with contextlib.suppress(OSError):  # a full disk: the lock is what counts
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, holder.encode("ascii"))
        yield
    finally:
        with contextlib.suppress(OSError):  # the run is over, and the process's end lets go as well
            os.close(descriptor)


LOCK_TRIES = 10  # a look holds a shared lock for an instant (see `run_holds_lock`)
LOCK_PAUSE_SECONDS = 0.02
LOCKED_BYTE = 1_000_000  # on Windows nobody can read what is locked: so nothing that is written


def lock_file(descriptor: int, shared: bool) -> None:
    """Lock it at once, or raise BlockingIOError where another holds it. On Windows msvcrt stands in
    for flock, and knows no shared lock."""
    if fcntl is not None:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    else:
        import msvcrt

        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:  # elsewhere it means that locks are forbidden
            raise BlockingIOError(*error.args) from None


def lock_holder(descriptor: int) -> str:
    """What a lock file says, "4711 since 2026-01-01 03:00:00"; '' if it says nothing like that."""
    text = ""
    with contextlib.suppress(OSError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        text = os.read(descriptor, 80).decode("ascii", "replace").strip()
    return text if re.fullmatch(r"[0-9]{1,9} since [0-9: -]+", text) else ""


def run_holds_lock(path: Path) -> Optional[int]:
    """Is a run under way? The process that says it is, 0 where that cannot be read; None: no run.

    The kernel is asked, not the file: a run that was killed holds nothing. Raises LockError.
    """
    try:
        descriptor = open_plain(path, os.O_RDONLY, own=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LockError(f"{path}: cannot be read: {reason_of(error)}") from None
    try:
        lock_file(descriptor, shared=True)
    except BlockingIOError:
        return int(lock_holder(descriptor).partition(" ")[0] or 0)
    except OSError as error:
        raise LockError(f"{path}: cannot be checked: {reason_of(error)}") from None
    finally:
        os.close(descriptor)
    return None


def take_lock(descriptor: int, path: Path) -> None:
    """Lock an open lock file or raise."""
    for _ in range(LOCK_TRIES):
        try:
            lock_file(descriptor, shared=False)
            break
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_SECONDS)
        except OSError as error:
            raise LockError(
                f"{path}: cannot be locked: {reason_of(error)}"
                " (set [DIRECTORIES] logs_dir to a disk of this machine, or allow locks there)"
            ) from None
    else:
        holder = lock_holder(descriptor)
        if holder:
            raise LockHeldError(f"another run holds the lock: process {holder} ({path})")
        raise LockHeldError(f"another run holds the lock ({path})")
    try:
        current, ours = os.stat(path, follow_symlinks=False), os.fstat(descriptor)
    except OSError as error:
        raise LockError(f"{path}: the lock file has gone: {reason_of(error)} (run again)") from None
    if (current.st_dev, current.st_ino) != (ours.st_dev, ours.st_ino):
        raise LockError(f"{path}: the lock file was replaced while it was locked (run again)")


STOP_LIMIT_SECONDS = 60.0  # several times what the end of a run takes after a stop signal


@contextlib.contextmanager
def stop_on_signals(world: Runtime, restore: bool) -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP stop the run in an orderly way; one inherited as ignored stays so.

    The C-level handler writes the signal's number into a socket, a thread reads it: nothing of
    ours ever runs inside a signal handler, where it could meet a lock that is held.
    restore: put the handlers back at the end; a process that ends then must not, lest one more
    signal changes the exit code that has been decided.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Any] = {}

    # what hangs in the system must not keep a process alive that was asked to end
    limit = threading.Timer(STOP_LIMIT_SECONDS, os._exit, [ExitStatus.FAILED])
    limit.daemon = True

    def watch() -> None:
        with contextlib.suppress(OSError):
            while True:
                data = reader.recv(1)
                if not data:
                    return
                if data[0] in handlers:
                    if not (restore or world.stopping):
                        with contextlib.suppress(RuntimeError):  # no more threads
                            limit.start()
                    world.stop(f"interrupted by {signal.Signals(data[0]).name}")

    try:
        reader, writer = socket.socketpair()
    except OSError:  # no more descriptors: a signal ends the process
        yield
        return
    writer.setblocking(False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)

    def put_back() -> None:
        signal.set_wakeup_fd(previous)
        for number, handler in handlers.items():
            signal.signal(number, handler)

    # first the socket, then the handlers, then who reads: no signal may fall between them
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            handlers[number] = signal.signal(number, lambda *_: None)
    try:
        watcher.start()
    except RuntimeError:  # no more threads: a signal ends the process
        put_back()
        yield
        return
    try:
        yield
    finally:
        if restore:
            put_back()
        else:
            signal.set_wakeup_fd(previous)
        writer.close()
        watcher.join(1)
        limit.cancel()
        reader.close()


# === HTTP =====================================================================================
# One table says what an answer means; nobody else looks at a status.

MAX_ANSWER_BYTES = 16 * 1024 * 1024  # a page of 200 snapshots is under 100 kB
RETRY_SECONDS = 120.0  # how long one call is tried again
RATE_SECONDS = 900.0  # how long it waits for a rate limit, which is no failure
MAX_RETRY_AFTER_SECONDS = 600.0  # a longer wait is refused at once
SECOND_LOOK_SECONDS = 5.0  # after a 401, before the credentials are given up
EMPTY_SECONDS = 2.0  # how long nothing is sent after an answer that says that nothing is left


class Act(enum.Enum):
    """What a request is for; decides what may be done about its failure."""

    READ = "read"
    CREATE = "create"
    DELETE = "delete"
    TOKEN = "token"  # noqa: S105  (the act, not a token)


METHODS: Mapping[Act, str] = MappingProxyType(
    {Act.READ: "GET", Act.CREATE: "POST", Act.DELETE: "DELETE", Act.TOKEN: "POST"}
)


class Outcome(enum.Enum):
    """What came back."""

    NOT_SENT = enum.auto()  # no connection; it cannot have had an effect
    UNUSABLE = enum.auto()  # it cannot be sent as it is configured, now or later
    UNTRUSTED = enum.auto()  # the certificate is not to be trusted
    LOST = enum.auto()  # no complete answer, none of the API's own, or 5xx; may have had an effect
    GOOD = enum.auto()  # 2xx as promised
    GARBLED = enum.auto()  # 2xx, but not as promised
    REDIRECT = enum.auto()  # 3xx
    REJECTED = enum.auto()  # 400, 405, 409 uniqueness_error, 412, 415, 422 and other 4xx
    UNAUTHORIZED = enum.auto()  # 401
    READ_ONLY = enum.auto()  # 401 token_readonly
    LIMIT = enum.auto()  # 402 of too many snapshots, or 403 resource_limit_exceeded
    FORBIDDEN = enum.auto()  # 403
    GONE = enum.auto()  # 404 not_found, in the API's own words
    BUSY = enum.auto()  # 409 conflict, 423 locked, 422 pending event, 403 maintenance
    PROTECTED = enum.auto()  # 423 protected
    RATE_LIMITED = enum.auto()  # 429


class Next(enum.Enum):
    """What to do about it."""

    DONE = enum.auto()  # go on
    RETRY = enum.auto()  # send it again, after a pause
    RETRY_ONCE = enum.auto()  # send it again one time
    RENEW = enum.auto()  # send it again one time, with a new token and after a pause
    WAIT = enum.auto()  # the server is busy: the caller waits until it is free
    VERIFY = enum.auto()  # it may have been carried out: look before anything else
    FREE_SPACE = enum.auto()  # a limit is reached: the caller may make room
    SKIP = enum.auto()  # leave it alone
    FAIL = enum.auto()  # give up


NEXT: Mapping[Outcome, Mapping[Act, Next]] = MappingProxyType(
    {
        outcome: dict(zip((Act.READ, Act.CREATE, Act.DELETE, Act.TOKEN), row))
        for outcome, row in {
            Outcome.NOT_SENT: (Next.RETRY,) * 4,
            Outcome.UNUSABLE: (Next.FAIL,) * 4,
            Outcome.UNTRUSTED: (Next.FAIL,) * 4,
            Outcome.LOST: (Next.RETRY, Next.VERIFY, Next.RETRY, Next.RETRY),
            Outcome.GOOD: (Next.DONE,) * 4,
            Outcome.GARBLED: (Next.RETRY_ONCE, Next.VERIFY, Next.RETRY_ONCE, Next.FAIL),
            Outcome.REDIRECT: (Next.FAIL, Next.VERIFY, Next.FAIL, Next.FAIL),
            Outcome.REJECTED: (Next.FAIL,) * 4,
            Outcome.UNAUTHORIZED: (Next.RENEW,) * 4,
            Outcome.READ_ONLY: (Next.FAIL,) * 4,
            Outcome.LIMIT: (Next.FAIL, Next.FREE_SPACE, Next.FAIL, Next.FAIL),
            Outcome.FORBIDDEN: (Next.FAIL,) * 4,
            Outcome.GONE: (Next.FAIL, Next.FAIL, Next.DONE, Next.FAIL),
            Outcome.BUSY: (Next.RETRY, Next.WAIT, Next.RETRY, Next.RETRY),
            Outcome.PROTECTED: (Next.FAIL, Next.FAIL, Next.SKIP, Next.FAIL),
            Outcome.RATE_LIMITED: (Next.RETRY,) * 4,
        }.items()
    }
)

HINTS: Mapping[Outcome, str] = MappingProxyType(
    {
        Outcome.UNTRUSTED: "intercepted, or wrong CA certificates, or a wrong clock",
        Outcome.UNAUTHORIZED: "check the credentials; they must be valid and allow writing",
        Outcome.READ_ONLY: "the token must be valid and allow writing",
        Outcome.FORBIDDEN: "the credentials lack a right; the README lists those needed",
        Outcome.REDIRECT: "redirects are never followed; check the URL",
        Outcome.GONE: "is the id right, still there, and in the project of these credentials?",
    }
)
NOT_OWN = "not the API's own words: a proxy or gateway in between, or a wrong URL in [API]"


class GarbledError(SnapshotsError):
    """A 2xx answer that is not the documented JSON."""


class UnclearError(SnapshotsError):
    """It is not known whether a create without an answer was carried out."""


@dataclass
class Attempt:
    """How one try of a call came out."""

    outcome: Outcome
    reason: str  # in words, masked
    message: str = ""  # the provider's own, masked
    hint: str = ""
    asked_seconds: Optional[float] = None  # how long it asks us to wait
    result: Any = None
    status: int = 0  # 0: there was no answer
    authorization: str = field(default="", repr=False)  # the header that it was sent with
    request_id: str = ""


class ApiError(SnapshotsError):
    """A request that did not work out: what was tried, why, and what may be done about it."""

    def __init__(
        self,
        doing: str,
        last: Attempt,
        next_step: Next = Next.FAIL,
        may_have_acted: bool = False,  # one of its tries had no answer that excludes it
    ) -> None:
        hint = f" ({last.hint})" if last.hint else ""
        super().__init__(f"cannot {doing}: {last.reason}{hint}")
        self.outcome, self.next_step = last.outcome, next_step
        self.message, self.request_id = last.message, last.request_id
        self.may_have_acted = may_have_acted


@dataclass(frozen=True)
class Response:
    """A complete HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    authorization: str = field(default="", repr=False)  # the request's

    def json(self) -> Any:
        """The body as JSON. Raises GarbledError."""
        try:
            return json.loads(self.body.decode("utf-8-sig"), parse_constant=finite_number)
        except (ValueError, RecursionError):
            raise GarbledError("the answer is not JSON") from None


def value_at(content: Any, *path: str) -> Any:
    """What stands at a path of keys that may be missing; None where nothing does."""
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def count_at(content: Any, *path: str) -> Optional[int]:
    """A whole number at a path of keys; None where there is none."""
    value = value_at(content, *path)
    return value if type(value) is int else None


PENDING = re.compile(r"pending event|blocking events?", re.IGNORECASE)
FULL = re.compile(r"(?=[ -~]{0,200}\bsnapshot)[ -~]{0,200}\blimit of ([0-9]{1,6})\b", re.IGNORECASE)


def explain(answer: Response) -> tuple[str, str]:
    """(code, message) of an error body, as they came, in any of the shapes that these APIs use.

    DigitalOcean {"id","message"}, Hetzner {"error":{"code","message","details"}}, Contabo
    {"statusCode","message"}, Keycloak {"error","error_description"}, Telegram {"description"}.
    """
    try:
        body = answer.json()
    except GarbledError:
        return "", ""
    inner = value_at(body, "error")
    source = inner if isinstance(inner, dict) else body
    code = value_at(source, "code") or value_at(source, "id") or inner
    keys = ("message", "error_description", "description")
    message = next(filter(None, (value_at(source, key) for key in keys)), "")
    if isinstance(message, list):
        message = "; ".join(str(part) for part in message)
    fields = value_at(source, "details", "fields")  # of Hetzner's invalid_input: why each is so
    whys = [value_at(item, "messages") for item in fields] if isinstance(fields, list) else []
    why = "; ".join(str(part) for parts in whys if isinstance(parts, list) for part in parts)
    if why and isinstance(message, str):
        message = f"{message} ({why})"
    return code if isinstance(code, str) else "", message if isinstance(message, str) else ""


BY_CODE: Mapping[tuple[int, str], Outcome] = MappingProxyType(
    {
        (401, "token_readonly"): Outcome.READ_ONLY,
        (403, "maintenance"): Outcome.BUSY,
        (403, "resource_limit_exceeded"): Outcome.LIMIT,
        (404, "not_found"): Outcome.GONE,
        (409, "uniqueness_error"): Outcome.REJECTED,
        (423, "protected"): Outcome.PROTECTED,
    }
)
BY_STATUS: Mapping[int, Outcome] = MappingProxyType(
    {
        401: Outcome.UNAUTHORIZED,
        403: Outcome.FORBIDDEN,
        404: Outcome.LOST,  # of whatever: a path, a route, an API that was withdrawn
        408: Outcome.LOST,
        409: Outcome.BUSY,
        410: Outcome.LOST,
        423: Outcome.BUSY,
        425: Outcome.RATE_LIMITED,
        429: Outcome.RATE_LIMITED,
    }
)
GATEWAYS_SAY_TOO = frozenset({401, 402, 403, 404, 410})


def outcome_of(status: int, code: Optional[str] = None, message: str = "") -> Outcome:
    """Which row of the table an answer is: by status and the API's own code, not status alone.

    code: None where the answer is not in the API's own words; "" where these have no code.
    """
    if 200 <= status < 300:
        return Outcome.GOOD
    if 300 <= status < 400:
        return Outcome.REDIRECT
    if code is None and status in GATEWAYS_SAY_TOO:
        return Outcome.LOST  # whoever says it knows nothing, and may have done anything
    if status in (402, 409, 423) and not (code or message):
        return Outcome.LOST
    if status == 402 and FULL.match(message):  # nothing else that is to be paid
        return Outcome.LIMIT
    if status == 422 and PENDING.search(message):
        return Outcome.BUSY
    found = BY_CODE.get((status, code or "")) or BY_STATUS.get(status)
    if found is not None:
        return found
    if 400 <= status < 500 and (code is not None or message):
        return Outcome.REJECTED
    return Outcome.LOST  # 5xx, a gateway's page, 101, 600: whoever says it may have done anything


def http_date(text: str) -> Optional[datetime]:
    """The instant that a header names, in UTC; None if it names none."""
    try:
        moment = email.utils.parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(
            timezone.utc
        )
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def retry_after_seconds(answer: Response, now: datetime) -> Optional[float]:
    """How long the other side asks us to wait: seconds or an HTTP date; None if it does not say.

    now: what to measure a date by where the answer has no Date of its own, whose clock it is.
    Digits only: int() would also take '٣' and '1_0'. Telegram and Discord say it in the body as
    well, Discord in fractions of a second.
    """
    text = answer.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+", text, re.ASCII):
        return float(text[:18])
    if text:
        moment = http_date(text)
        own_now = http_date(answer.headers.get("date", "")) or now
        left = (moment - own_now).total_seconds() if moment else 0.0
        return left if left > 0 else None
    if answer.status == 429:
        with contextlib.suppress(GarbledError):
            body = answer.json()
            for path in (("parameters", "retry_after"), ("retry_after",)):
                value = value_at(body, *path)
                if type(value) in (int, float) and value > 0:
                    return float(min(value, 10**9))
    return None


def effort(tries: int, seconds: float, asked_seconds: Optional[float]) -> str:
    """What a failure has cost: ' (tried 3 times in 7 s) (it asks to wait 20 s)', or ''."""
    text = f" (tried {tries} times in {span(seconds)})" if tries > 1 and seconds >= 1 else ""
    return text + (f" (it asks to wait {span(asked_seconds)})" if asked_seconds is not None else "")


def pause_before(attempt: int, base: float = 1.0) -> float:
    """Seconds to wait before attempt 1, 2, 3, ...: doubling up to 30 (or the base, where that is
    more), with jitter: half to all of it."""
    longest = min(max(30.0, base), base * 2.0 ** min(attempt - 1, 30))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311


def take(content: Any, *path: Union[str, int], kind: Union[type, tuple[type, ...]] = dict) -> Any:
    """What stands at a path in an answer, of the promised kind. Raises GarbledError.

    Never .get(..., {}): damage must not turn into "none".
    """
    for step in path:
        try:
            content = content[step]
        except (KeyError, IndexError, TypeError):
            raise GarbledError(f"the answer lacks {'.'.join(map(str, path))}") from None
    if not isinstance(content, kind) or (isinstance(content, bool) and kind is not bool):
        raise GarbledError(f"{'.'.join(map(str, path)) or 'the answer'} is of the wrong type")
    return content


def take_id(content: Any, *path: Union[str, int], pattern: str = "[A-Za-z0-9-]{1,64}") -> str:
    """An id, as text. It becomes part of a path, so nothing else will do."""
    value = take(content, *path, kind=(int, str))
    if not re.fullmatch(pattern, str(value)):
        raise GarbledError(f"{'.'.join(map(str, path))} is not usable as an id")
    return str(value)


def take_number(content: Any, *path: Union[str, int]) -> str:
    """An id of DigitalOcean or Hetzner, as text: a positive number of at most 19 digits."""
    return take_id(content, *path, pattern="[1-9][0-9]{0,18}")


ISO_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


def moment_of(value: Any) -> Optional[datetime]:
    """A timestamp as the APIs promise it, in UTC; None for anything else, however close."""
    if not isinstance(value, str) or not ISO_MOMENT.fullmatch(value):
        return None
    try:
        return isoparse(value).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


# --- one request, bounded in time and size ---

_sending = threading.local()  # what is known of this thread's request; see `send`


class TimedReader(io.RawIOBase):
    """Reads an answer, all of it before one deadline: a trickle must not last for ever."""

    def __init__(self, raw: io.RawIOBase, sock: Any) -> None:
        self._raw, self._sock = raw, sock
        timeout = sock.gettimeout()
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise socket.timeout("the answer took too long")
            self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class HeadReader(io.BufferedReader):
    """Leaves out of a head what is no header. At such a line http.client would stop, miss the
    length of the answer that stands behind it, and wait for the connection to end."""

    HEADER_LINE = re.compile(rb"[!-9;-~]*:|[ \t]|\r?\n|\Z")
    in_headers = False

    def readline(self, size: Optional[int] = -1) -> bytes:
        line = super().readline(size)
        while self.in_headers and not self.HEADER_LINE.match(line):
            line = super().readline(size)
        return line


class TimedResponse(http.client.HTTPResponse):
    """An answer whose head and body together must arrive within the socket's timeout."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()
        self.fp: Any = HeadReader(TimedReader(raw, sock))

    def begin(self) -> None:
        """Read the head of the answer. http.client skips 100 alone of the interim answers, and the
        answer behind another one would be taken for that to the connection's next request."""
        super().begin()
        while 100 <= self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self.headers = None  # type: ignore[assignment]
            super().begin()
        self.fp.in_headers = False

    def _read_status(self) -> Any:
        self.fp.in_headers = False
        found = super()._read_status()  # type: ignore[misc]
        self.fp.in_headers = True
        return found


HEAD_START_SECONDS = 0.25  # RFC 8305's "connection attempt delay"
IDLE_SECONDS = 1.0  # a connection that has been idle for longer may be dead without our knowing


def addresses_of(host: str, port: int) -> list[Any]:
    """What getaddrinfo says of a host, in the order of preference. Raises OSError, UnicodeError."""
    return socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)


def connect_first(
    addresses: Iterable[Any],
    timeout_seconds: float,
    avoid: Mapping[Any, float] = MappingProxyType({}),
    options: Iterable[Any] = (),
) -> socket.socket:
    """A connection to the first of these addresses that takes one, all within the timeout.

    As RFC 8305 has it: who has not answered after a moment gets the next one as a competitor,
    so that an address that leads nowhere costs no more than that moment, and a slow one is still
    waited for. avoid: addresses that get their chance in the last half of the time, with when
    they failed; the one that failed first comes first.
    The socket's timeout is the one given. Raises OSError with the reasons of all.
    """
    waiting = collections.deque(sorted(addresses, key=lambda item: avoid.get(item[4], 0.0)))
    deadline = time.monotonic() + timeout_seconds
    next_at = -math.inf
    reasons: dict[str, OSError] = {}

    def begin(family: int, kind: int, protocol: int, _name: str, address: Any) -> None:
        sock = socket.socket(family, kind, protocol)
        try:
            for option in options:
                sock.setsockopt(*option)
            sock.setblocking(False)
            number = sock.connect_ex(address)
            if number not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
                raise OSError(number, os.strerror(number))
            attempts.register(sock, selectors.EVENT_WRITE)
        except BaseException:
            sock.close()
            raise

    with selectors.DefaultSelector() as attempts:
        try:
            while waiting or attempts.get_map():
                now = time.monotonic()
                if now >= deadline:
                    reasons["timed out"] = socket.timeout(errno.ETIMEDOUT, "timed out")
                    break
                if waiting and (now >= next_at or not attempts.get_map()):
                    try:
                        begin(*waiting.popleft())
                    except OSError as error:
                        reasons[str(error.strerror)] = error
                    else:
                        is_last_resort = waiting and waiting[0][4] in avoid
                        next_at = now + (
                            (deadline - now) / 2 if is_last_resort else HEAD_START_SECONDS
                        )
                    continue
                until = min(deadline, next_at) if waiting else deadline
                for key, _ in attempts.select(until - now):
                    sock: Any = key.fileobj
                    attempts.unregister(sock)
                    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if number == 0:
                        sock.settimeout(timeout_seconds)
                        return sock  # type: ignore[no-any-return]
                    sock.close()
                    reasons[os.strerror(number)] = OSError(number, os.strerror(number))
        finally:
            for key in list(attempts.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
    if len(reasons) == 1:
        raise next(iter(reasons.values()))
    raise OSError(errno.EHOSTUNREACH, "; ".join(reasons) or "the host has no address")


def timed(pool: Any) -> Any:
    """A class of urllib3's connection pools, made to keep to our times and to note what it does.

    An answer has to be complete in time; an address that leads nowhere costs little of it; what
    must not be sent twice does not go out on a connection that has been idle; and whether the
    first byte of a request has left tells "not sent" from "lost" for sure.
    """
    failed: dict[Any, float] = {}  # addresses that took a connection that no request could follow

    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        response_class = TimedResponse

        def _new_conn(self) -> Any:
            if hasattr(self, "_socks_options"):  # PySocks does that itself
                return super()._new_conn()
            try:
                addresses = addresses_of(self._dns_host, self.port)
                deadline = time.monotonic() + self.timeout
                options = self.socket_options or ()
                sock = connect_first(addresses, self.timeout, failed, options)
            except OSError as error:
                raise urllib3.exceptions.NewConnectionError(self, "not connected") from error
            self.address = sock.getpeername()
            self.has_others = any(item[4] not in {self.address, *failed} for item in addresses)
            left = (deadline - time.monotonic()) / (2 if self.has_others else 1)
            sock.settimeout(max(left, 0.1))  # for a proxy's answer and the TLS handshake
            return sock

        def connect(self) -> None:
            self.address, self.has_others = None, False
            try:
                super().connect()
            except BaseException:
                failed[self.address] = time.monotonic()
                _sending.has_another_address = self.has_others
                raise
            finally:  # what was sent to a proxy here is not the request
                _sending.request_started = False

        def send(self, data: Any) -> None:
            if self.sock is None:
                self.connect()
            _sending.request_started = True
            super().send(data)

    class Pool(pool):  # type: ignore[misc]
        ConnectionCls = Connection
        is_timed = True

        def _get_conn(self, timeout: Optional[float] = None) -> Any:
            connection = super()._get_conn(timeout)
            idle_since = getattr(connection, "idle_since", math.inf)
            if _sending.only_once and time.monotonic() - idle_since > IDLE_SECONDS:
                connection.close()
                return self._new_conn()
            return connection

        def _put_conn(self, connection: Any) -> None:
            if connection is not None:
                connection.idle_since = time.monotonic()
            super()._put_conn(connection)

    return Pool


class TimedAdapter(requests.adapters.HTTPAdapter):
    """Gives a requests session timed connections, with a proxy or without."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        parent: Any = super()  # typed in some versions of the stubs only
        parent.init_poolmanager(*args, **kwargs)
        self._make_timed(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        parent: Any = super()
        manager = parent.proxy_manager_for(*args, **kwargs)
        self._make_timed(manager)
        return manager

    @staticmethod
    def _make_timed(manager: Any) -> None:
        pools = manager.pool_classes_by_scheme
        if not all(hasattr(pool, "is_timed") for pool in pools.values()):
            manager.pool_classes_by_scheme = {scheme: timed(pools[scheme]) for scheme in pools}


class NoAuth(requests.auth.AuthBase):
    """No credentials in the head; given as auth= so that a ~/.netrc cannot add any."""

    def __call__(self, request: Any) -> Any:
        return request

    def renew(self, refused: str) -> bool:
        """This header was refused: will there be another next time?"""
        return False


class BearerAuth(NoAuth):
    """A token in the head; given as auth= so that a ~/.netrc cannot replace it."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def fixed_token(_world: Runtime, _settings: Settings, credentials: Sequence[str]) -> NoAuth:
    """What a server file that holds nothing else than a token logs in with."""
    return BearerAuth(credentials[0])


def split_login(url: str) -> tuple[str, str, str]:
    """(the URL without its login, user, password), as in https://user:password@host/path."""
    login, at, host = urlsplit(url).netloc.rpartition("@")
    user, _, password = login.partition(":")
    return url.replace(f"{login}{at}{host}", host, 1), unquote(user), unquote(password)


def new_session(connections: int) -> requests.Session:
    """A session with timed connections, so many to a host, and no cookies, for many threads."""
    session = requests.Session()
    # else requests reads a redirect's body without a limit, and fails where it leads nowhere
    session.get_redirect_target = lambda _: None  # type: ignore[assignment,method-assign]
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    adapter = TimedAdapter(pool_connections=100, pool_maxsize=connections, max_retries=0)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    session.headers["User-Agent"] = f"snapshots/{__version__}"
    return session


@dataclass(frozen=True)
class NoResponse:
    """No answer: how it went wrong, and in words without host, path or value."""

    outcome: Outcome
    reason: str


# What cannot be sent as it stands, by the exception that says so; another try would not help.
UNUSABLE: tuple[tuple[Union[type, tuple[type, ...]], str], ...] = (
    (requests.exceptions.InvalidJSONError, "its payload holds a number that JSON cannot hold"),
    (RecursionError, "its payload is nested too deeply"),
    (requests.exceptions.InvalidHeader, "a header holds a character that is not allowed there"),
    (
        (
            requests.exceptions.InvalidURL,
            requests.exceptions.MissingSchema,
            requests.exceptions.InvalidSchema,
            urllib3.exceptions.LocationValueError,
            UnicodeError,
        ),
        "its URL has no valid host or port",
    ),
)
BAD_CERTIFICATE = (  # the other: for another host, with urllib3 1
    ssl.SSLCertVerificationError,
    urllib3.connection.CertificateError,  # type: ignore[attr-defined]
)
BROKEN = (
    ConnectionError,
    EOFError,
    http.client.HTTPException,
    smtplib.SMTPServerDisconnected,
    urllib3.exceptions.ProtocolError,
)
CUT_OFF = (ConnectionError, http.client.IncompleteRead)  # the connection's fault, not the answer's


def causes_of(error: BaseException) -> list[BaseException]:
    """An exception and all that it was made of, the outermost first."""
    seen: list[BaseException] = []
    queue: list[Any] = [error]
    while queue and len(seen) < 20:
        item = queue.pop(0)
        if isinstance(item, BaseException) and item not in seen:
            seen.append(item)
            queue += [*item.args, getattr(item, "reason", None), item.__cause__, item.__context__]
    return seen


def own_words(error: BaseException) -> str:
    """An exception's type and text, without the words that could be part of a URL."""
    words = [word for word in str(error).split() if not re.search(r"[/?@=&]", word)]
    return one_line(": ".join(filter(None, (type(error).__name__, " ".join(words)))), 200)


def network_reason(error: BaseException, has_begun: bool) -> str:
    """Why a connection failed, in a few words, without host, path or value. has_begun: it had been
    made, and something was said."""
    seen = causes_of(error)
    for item in seen:
        if isinstance(item, BAD_CERTIFICATE):
            words = getattr(item, "verify_message", "") or str(item)
            return f"its certificate is not valid: {one_line(words, 120)}"
        if isinstance(item, socket.gaierror):
            return "its host name cannot be resolved"
        if isinstance(item, ssl.SSLError):
            words = (getattr(item, "reason", "") or "handshake failed").lower().replace("_", " ")
            return f"TLS failed: {words}"
        is_plain = not isinstance(item, requests.exceptions.RequestException)
        if is_plain and isinstance(item, OSError) and item.strerror:
            return item.strerror.lower()
    if any(isinstance(i, (socket.timeout, urllib3.exceptions.TimeoutError)) for i in seen):
        return "timed out"
    for item in seen:
        if isinstance(item, http.client.HTTPException) and not isinstance(item, CUT_OFF):
            return f"its answer is not HTTP as we know it: {own_words(item)}"
    if any(isinstance(item, BROKEN) for item in seen):
        return "the connection broke" if has_begun else "no connection"
    return own_words(seen[-1])


def proxy_of(url: str) -> tuple[str, str]:
    """(the environment variable that names the proxy for a URL, its value); ("", "") if none."""
    proxies = requests.utils.get_environ_proxies(url, no_proxy=None)
    proxy = requests.utils.select_proxy(url, proxies) or ""
    names = [f"{urlsplit(url).scheme.lower()}_proxy", "all_proxy"]
    for name in [*names, *map(str.upper, names)]:
        if proxy and os.environ.get(name) == proxy:
            return name, proxy
    return "the system's proxy" if proxy else "", proxy


def proxy_problem(name: str, proxy: str) -> str:
    """Why a proxy variable is of no use; '' if it seems to be."""
    scheme = proxy.partition("://")[0].lower() if "://" in proxy else "http"
    if scheme in ("socks4", "socks4a", "socks5", "socks5h"):
        if importlib.util.find_spec("socks") is None:
            return f"{name} names a SOCKS proxy, and the Python package PySocks is missing"
    elif scheme not in ("http", "https") or (
        "://" not in proxy and re.search(r"[/@]", proxy.rstrip("/"))
    ):
        return f"{name} must begin with http:// (or https://, socks5h://)"
    try:
        parsed = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
        if not parsed.host:
            return f"{name} names no host"
        parsed.host.encode("idna")
        proxy.encode()
        is_valid = not (parsed.query or parsed.fragment or "@" in (parsed.path or ""))
    except ValueError:
        is_valid = False
    if is_valid:
        return ""
    return f"{name} is not a valid URL (in its password, # is written %23, / is %2F and ? is %3F)"


def ca_variable() -> str:
    """The variable that says whose certificates are trusted; '' if the usual ones are."""
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    return next((name for name in names if os.environ.get(name)), "")


def certificates_problem(name: str) -> str:
    """Why the certificates that a variable names are of no use, or certifi's where there is no
    variable; '' if they seem to be."""
    path = os.environ.get(name, "") if name else requests.utils.DEFAULT_CA_BUNDLE_PATH
    name = name or "the Python package certifi"
    if not path or os.path.isdir(path):
        return ""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        problem = "names a file without certificates, or with a damaged one"
        return f"{name} {problem}: {one_line(path, 200)}"
    except (OSError, ValueError) as error:
        return f"{name}: cannot read {one_line(path, 200)}: {reason_of(error)}"
    return ""


def trouble_of(error: Exception, url: str) -> NoResponse:
    """What came of a request that ended with this exception.

    All is judged by one fact: had a byte of the request left us? If none had, what cannot pass
    by itself (something wrong with the environment, the URL or the payload) is not tried again.
    """
    if _sending.request_started:
        return NoResponse(Outcome.LOST, network_reason(error, has_begun=True))
    seen = causes_of(error)
    variable, proxy = proxy_of(url)
    problem = proxy_problem(variable, proxy) if proxy else ""
    if not problem and url.lower().startswith("https:"):
        problem = certificates_problem(ca_variable())
    for item in seen:
        if not problem and isinstance(item, OSError) and item.filename:  # such as SSLKEYLOGFILE's
            problem = f"cannot use {one_line(str(item.filename), 200)}: {reason_of(item)}"
    for kinds, words in UNUSABLE:
        if not problem and any(isinstance(item, kinds) for item in seen):
            problem = words
    if problem:
        return NoResponse(Outcome.UNUSABLE, problem)
    reason = network_reason(error, has_begun=False)
    refusals = [re.match(r"Tunnel connection failed: ([0-9]{3})\b", str(item)) for item in seen]
    for refusal in filter(None, refusals):
        status = int(refusal[1])
        is_final = 400 <= status < 500 and status not in (408, 425, 429)
        wants = ": it wants another user or password" if status == 407 else ""
        return NoResponse(
            Outcome.UNUSABLE if is_final else Outcome.NOT_SENT,
            f"the proxy answers {status}{wants} ({variable})",
        )
    is_socks = proxy.lower().startswith("socks")
    if is_socks or any(isinstance(item, urllib3.exceptions.ProxyError) for item in seen):
        reason = f"at the proxy ({variable}): {reason}"
        if proxy.lower().startswith("https:"):
            reason += " (does it speak TLS? if not, the variable has to begin with http://)"
        if "wrong version number" in reason:
            return NoResponse(Outcome.UNUSABLE, reason)
    elif proxy:
        reason += f" (through the proxy of {variable})"
    if any(isinstance(item, BAD_CERTIFICATE) for item in seen):
        if ca_variable():
            reason += f" by the certificates of {ca_variable()}"
        elif os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
            reason += " (SSL_CERT_FILE counts for mail only; for all else set REQUESTS_CA_BUNDLE)"
        return NoResponse(Outcome.UNTRUSTED, reason)
    return NoResponse(Outcome.NOT_SENT, reason)


SENDING_ERRORS = (
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,  # a header that is no header, an answer that is no number
    OverflowError,
    RecursionError,
    TypeError,  # what requests makes of a proxy with a user and no host
)


def send(
    session: requests.Session, method: str, url: str, timeout: float, **options: Any
) -> Union[Response, NoResponse]:
    """One request and its answer, or how it went wrong.

    timeout: seconds to get connected (to whichever address of the host), and as many again for
    the whole answer.
    """
    try:
        request = session.prepare_request(requests.Request(method, url, **options))
    except SENDING_ERRORS as error:
        _sending.request_started = False
        return trouble_of(error, url)
    deadline = time.monotonic() + timeout  # only now: an auth may have had to log in
    _sending.only_once = method == "POST"
    while True:
        _sending.request_started = _sending.has_another_address = False
        to_connect = max(deadline - time.monotonic(), 0.1)
        try:
            with session.send(
                request,
                timeout=urllib3.Timeout(connect=to_connect, read=timeout),  # type: ignore[arg-type]
                allow_redirects=False,
                **session.merge_environment_settings(request.url, {}, True, None, None),
            ) as response:
                return read_answer(response)
        except SENDING_ERRORS as error:
            if _sending.has_another_address and time.monotonic() < deadline:
                continue
            return trouble_of(error, url)


def read_answer(response: requests.Response) -> Union[Response, NoResponse]:
    """The whole answer, unless it is too large."""
    body = io.BytesIO()
    while body.tell() <= MAX_ANSWER_BYTES:
        chunk = response.raw.read(65536, decode_content=True)
        if not chunk:
            headers = {name.lower(): value for name, value in response.headers.items()}
            authorization = response.request.headers.get("Authorization", "")
            return Response(response.status_code, headers, body.getvalue(), authorization)
        body.write(chunk)
    return NoResponse(Outcome.LOST, f"its answer is larger than {MAX_ANSWER_BYTES} bytes")


# --- one request for all that ask ---


@dataclass(eq=False)
class Question:
    """What one thread asks of a Shared."""

    key: Any
    due: float  # monotonic; when it is sent at the latest
    is_answered: bool = False
    answer: Any = None
    error: Optional[SnapshotsError] = None


class Shared:
    """One request for all that ask: of the threads that wait, the first whose time comes sends it.

    fetch: the keys that were asked for -> the answer to each; what it leaves out is None.
    could_ask: how many threads that is now; who waits for others waits for no more than these.
    answers_late: may a request answer what was asked after it had begun?
    """

    def __init__(
        self,
        world: Runtime,
        fetch: Callable[[Sequence[Any]], Mapping[Any, Any]],
        *,
        could_ask: float = math.inf,
        answers_late: bool = False,
    ) -> None:
        self.world, self._fetch, self._answers_late = world, fetch, answers_late
        self._changed = world.condition()
        self._open: list[Question] = []
        self._is_sending = False
        self._holds = 0
        self._could_ask = could_ask

    def ask(self, key: Any = None, batch_wait: float = 0.0) -> Any:
        """The answer for a key. batch_wait: seconds to wait for others, unless all that could ask
        have asked. Raises what the request has raised, or InterruptedRunError."""
        clock = self.world.clock
        question = Question(key, clock.monotonic() + batch_wait)
        with self._changed:
            self._open.append(question)  # wakes nobody: if it is due now, this thread sends it
            while not question.is_answered:
                if self.world.stopping and question in self._open:
                    self._open.remove(question)
                    self.world.check()
                wait = self._wait_seconds()
                if wait is None or wait > 0:
                    self._changed.wait(wait)
                else:
                    self._send()
        if question.error is not None:
            raise question.error
        return question.answer

    def _wait_seconds(self) -> Optional[float]:
        """How long until the next request may begin; None: until something changes."""
        if self._is_sending or not self._open:
            return None
        first = min(question.due for question in self._open) - self.world.clock.monotonic()
        wait = first if len(self._open) < self._could_ask else 0.0
        return None if wait <= 0 and self._holds else wait

    def _send(self) -> None:
        batch, self._open = self._open, []
        self._is_sending = True
        answers: Mapping[Any, Any] = {}
        error: Optional[SnapshotsError] = None
        self._changed.release()  # others may ask while the request is under way
        try:
            answers = self._fetch(list(dict.fromkeys(question.key for question in batch)))
        except SnapshotsError as failure:
            error = failure
        except BaseException as failure:
            error = TurnError(f"an unexpected error in a shared request: {type(failure).__name__}")
            raise
        finally:
            self._changed.acquire()
            self._is_sending = False
            if self._answers_late:
                batch, self._open = batch + self._open, []
            for question in batch:
                question.answer, question.error = answers.get(question.key), error
                question.is_answered = True
            self._changed.notify_all()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No request begins in here, and none is under way."""
        with self._changed:
            while self._is_sending:
                self.world.check()
                self._changed.wait(60)
            self._holds += 1
        try:
            yield
        finally:
            with self._changed:
                self._holds -= 1
                if self._open and not self._holds:
                    self._changed.notify_all()

    def join(self, count: int) -> None:
        """So many more, or fewer, could ask."""
        with self._changed:
            self._could_ask += count
            if len(self._open) >= self._could_ask:
                self._changed.notify_all()


# --- an account's pace ---


class RateLimit:
    """So many requests at once. Each one's place is free again so many seconds later; or, where
    places are refilled one by one, that long after the one before it."""

    def __init__(self, count: int, seconds: float, one_by_one: bool = False) -> None:
        self.count, self.seconds, self.one_by_one = count, seconds, one_by_one
        self._free_at: list[float] = []  # when each place that is taken will be free; ascending

    def wait_seconds(self, now: float) -> float:
        """How long until one more may go."""
        del self._free_at[: bisect.bisect_right(self._free_at, now)]
        taken = len(self._free_at)
        return 0.0 if taken < self.count else self._free_at[taken - self.count] - now

    def spend(self, now: float) -> None:
        """One has gone."""
        begin = max([now, *self._free_at[-1:]]) if self.one_by_one else now
        bisect.insort(self._free_at, begin + self.seconds)

    def believe(self, left: int, now: float) -> None:
        """The provider says that no more are left. Where it does not say of which limit, nor
        until when, as with windows, that is believed for a moment only."""
        self.wait_seconds(now)
        for _ in range(self.count - left - len(self._free_at)):
            if self.one_by_one:
                self.spend(now)
            else:
                bisect.insort(self._free_at, now + EMPTY_SECONDS)


class Pace:
    """When an account's next request may go out; a 429 pauses all of the account's threads."""

    def __init__(self, world: Runtime, *limits: RateLimit) -> None:
        self.world, self.limits = world, limits
        self.paused_until = -math.inf
        self._lock = threading.Lock()

    def wait(self, deadline: float) -> bool:
        """Wait for a place; False if there is none before the deadline."""
        while True:
            with self._lock:
                now = self.world.clock.monotonic()
                delay = max(
                    [self.paused_until - now, *(limit.wait_seconds(now) for limit in self.limits)]
                )
                if delay < 0.001:  # rounding: waiting for less than that would never end
                    for limit in self.limits:
                        limit.spend(now)
                    return True
            if now + delay > deadline:
                return False
            self.world.pause(delay)

    def pause(self, seconds: float) -> None:
        """Nothing goes out for so long."""
        with self._lock:
            until = self.world.clock.monotonic() + seconds
            self.paused_until = max(self.paused_until, until)

    def learn(self, answer: Response) -> None:
        """Believe the provider where it says that less is left than we think."""
        text = answer.headers.get("ratelimit-remaining", "")
        if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
            return
        with self._lock:
            for limit in self.limits:
                limit.believe(int(text), self.world.clock.monotonic())


class Api:
    """One base URL with its credentials, connections and pace, for any number of threads."""

    def __init__(
        self,
        world: Runtime,
        base_url: str,
        auth: NoAuth,
        *,
        own_code: Callable[[int, Mapping[str, Any]], Optional[str]] = lambda status, body: "",
        timeout: float,
        connections: int = 10,
        limits: Sequence[RateLimit] = (),
        secrets: Sequence[str] = (),
    ) -> None:
        self.world, self.base_url, self.auth, self.timeout = world, base_url, auth, timeout
        self.own_code = own_code
        self.host = urlsplit(base_url).hostname or ""
        self.session = new_session(connections)
        self.pace = Pace(world, *limits)
        self.secrets = secrets
        self.refused = ""  # why, once the credentials are known to be no good: the rest fails fast
        self._second_looks = Shared(world, self._look_again, answers_late=True)
        self._worked = False
        self._dates: list[tuple[float, datetime]] = []  # when each answer came, and its Date

    def server_time(self, at: float) -> Optional[datetime]:
        """What the provider's clock said at the monotonic time `at`; None if it never said.

        By the last answer before that, or else the first one: monotonic time stands still while the
        machine is paused, for a snapshot of it say, and by a later answer it would be too late.
        """
        if not self._dates:
            return None
        when, date = self._dates[max(bisect.bisect_left(self._dates, (at,)) - 1, 0)]
        return date + timedelta(seconds=at - when)

    def has_told_time(self, before: float) -> bool:
        """Had an answer come by then (monotonic)?"""
        return bool(self._dates) and self._dates[0][0] < before

    def shown(self, text: str, limit: int = 300) -> str:
        """One line of what this connection is told, without credentials."""
        return self.world.redact.line(text, limit, self.secrets)

    def get(self, path: str, doing: str, parse: Callable[[Any], T], **more: Any) -> T:
        """Read something: see `call`."""
        return self.call(Act.READ, path, doing, parse, **more)

    def find(self, path: str, doing: str, parse: Callable[[Any], T], **more: Any) -> Optional[T]:
        """The same of what may have gone: None where the API itself says that it is not there."""
        try:
            return self.get(path, doing, parse, **more)
        except ApiError as error:
            if error.outcome is Outcome.GONE:
                return None
            raise

    def call(
        self,
        act: Act,
        path: str,
        doing: str,
        parse: Callable[[Any], T],
        *,
        params: Optional[Mapping[str, Any]] = None,
        json_body: Any = None,
        form: Optional[Mapping[str, str]] = None,
        within: float = RETRY_SECONDS,
    ) -> T:
        """Send a request, as often as the table allows, and parse the JSON of its answer.

        doing: the act in words, quoted in errors: "list snapshots of droplet 1".
        parse: JSON -> result, or GarbledError; for a delete: Response -> was it there?
        within: seconds, waiting for a rate limit not counted.
        Raises ApiError, or InterruptedRunError before anything is sent.
        """
        clock = self.world.clock
        began = clock.monotonic()
        deadline = began + min(within, self.world.max_retry_seconds)
        rate_deadline = began + min(RATE_SECONDS, self.world.max_retry_seconds)
        deadlines = {Outcome.RATE_LIMITED: rate_deadline}  # of what is no failure
        if within >= RETRY_SECONDS:
            deadlines[Outcome.BUSY] = rate_deadline
        tries = 0

        def once(second_look: bool = False) -> Attempt:
            nonlocal tries
            self._admit(doing, rate_deadline, second_look)
            tries += 1
            request_id = str(uuid.uuid4())  # which Contabo wants, and its audit can be asked about
            answer = send(
                self.session,
                METHODS[act],
                self.base_url + path,
                self.timeout,
                params=params,
                json=json_body,
                data=form,
                headers={"x-request-id": request_id},
                auth=self.auth,
            )
            reply = self._judge(act, answer, parse)
            reply.request_id = request_id
            return reply

        renewed = garbled = may_have_acted = False
        while True:
            reply = once()
            if reply.status == 401 and not renewed and self.auth.renew(reply.authorization):
                renewed = True
                if NEXT[reply.outcome][act] is Next.RENEW:
                    reply = once()
            if NEXT[reply.outcome][act] is Next.RENEW and (self._worked or act is not Act.TOKEN):
                reply = self._second_look(once, reply)
            step = NEXT[reply.outcome][act]
            may_have_acted = may_have_acted or NEXT[reply.outcome][Act.CREATE] is Next.VERIFY
            if step is Next.DONE:
                self._worked = True
                if act is Act.DELETE:  # what has gone may have gone by an earlier try of this call
                    reply.result = reply.result or may_have_acted
                return reply.result  # type: ignore[no-any-return]
            if step is Next.RENEW:
                step = Next.FAIL
            elif step is Next.RETRY_ONCE:
                step = Next.FAIL if garbled else Next.RETRY
                garbled = True
            if step is Next.RETRY:
                step = Next.FAIL
                pause = max(reply.asked_seconds or 0, pause_before(tries))
                until = deadlines.get(reply.outcome, deadline)
                is_short = pause <= MAX_RETRY_AFTER_SECONDS
                if reply.outcome is Outcome.RATE_LIMITED and is_short:
                    self.pace.pause(pause)  # the others as well, whether this one goes on or not
                if clock.monotonic() + pause <= until and is_short:
                    log.debug("%s: %s; again in %s", doing, reply.reason, span(pause))
                    self.world.pause(pause)
                    continue
            reply.reason += effort(tries, clock.monotonic() - began, reply.asked_seconds)
            raise ApiError(doing, reply, step, may_have_acted)

    def _admit(self, doing: str, deadline: float, second_look: bool) -> None:
        """Wait for the account's pace. Raises where nothing must be sent, or not in time."""
        self.world.check()
        if not second_look:
            with self._second_looks.held():
                pass  # nothing is sent while one thread finds out whether the credentials are good
        if self.refused:
            outcome = Outcome.UNAUTHORIZED
            raise ApiError(doing, Attempt(outcome, self.refused, hint=HINTS[outcome]))
        if not self.pace.wait(deadline):
            reason = "the rate limit leaves no room in time"
            raise ApiError(doing, Attempt(Outcome.RATE_LIMITED, reason))

    def _second_look(self, once: Callable[..., Attempt], refusal: Attempt) -> Attempt:
        """A 401 may be a mistake. Of all the account's threads the first that gets one sends its
        request again, after a pause; if that is refused too, the credentials are given up. The
        others send nothing until it is known, and then theirs again."""
        reply: Optional[Attempt] = self._second_looks.ask((once, refusal.reason))
        if reply is None:  # another thread's was sent
            reply = refusal if self.refused else once()
        return reply

    def _look_again(
        self, tries: Sequence[tuple[Callable[..., Attempt], str]]
    ) -> dict[Any, Attempt]:
        once, reason = tries[0]
        log.warning("%s: %s; asking once more", self.host, reason)
        self.world.pause(SECOND_LOOK_SECONDS)
        reply = once(second_look=True)
        if reply.outcome is Outcome.UNAUTHORIZED:
            self.refused = reply.reason
        return {tries[0]: reply}

    def _judge(
        self, act: Act, answer: Union[Response, NoResponse], parse: Callable[[Any], Any]
    ) -> Attempt:
        """What an answer is, by the table's rows, and what it holds if it is good."""
        if isinstance(answer, NoResponse):
            hint = HINTS.get(answer.outcome, "")
            reason = self.shown(f"{self.host}: {answer.reason}")
            return Attempt(answer.outcome, reason, hint=hint)
        self._note_time(answer)
        self.pace.learn(answer)
        code = message = ""
        own_code: Optional[str] = None
        if answer.status >= 300:
            code, message = explain(answer)
            with contextlib.suppress(GarbledError):
                own_code = self.own_code(answer.status, take(answer.json()))
        outcome = outcome_of(answer.status, own_code, message)
        code, message = self.shown(code, 60), self.shown(message)
        reason = " ".join(filter(None, (f"HTTP {answer.status}", code)))
        if message and message != code:
            reason += f": {message}"
        hint = HINTS.get(outcome, "")
        if own_code is None and outcome is Outcome.LOST and answer.status < 500:
            hint = NOT_OWN
        elif act is Act.TOKEN and outcome is Outcome.GONE:
            hint = "check [API] contabo_auth_url"
        reply = Attempt(outcome, reason, message, hint, status=answer.status)
        reply.authorization = answer.authorization
        if outcome is Outcome.RATE_LIMITED or answer.status == 503:
            clock = self.world.clock
            now = self.server_time(clock.monotonic()) or clock.now()
            reply.asked_seconds = retry_after_seconds(answer, now)
        if NEXT[outcome][act] is Next.DONE:
            try:
                reply.result = parse(answer if act is Act.DELETE else answer.json())
            except GarbledError as error:
                said = ": ".join(filter(None, explain(answer)))  # some refuse with a 200
                reason = f"HTTP {answer.status}: {error}" + (f"; it says: {said}" if said else "")
                return Attempt(Outcome.GARBLED, self.shown(reason))
        return reply

    def _note_time(self, answer: Response) -> None:
        date = http_date(answer.headers.get("date", ""))
        if date is not None and date.year < 9000:  # so that sums with it stay in the calendar
            bisect.insort(self._dates, (self.world.clock.monotonic(), date))


# --- credentials that must be masked ---


MIN_URL_PART = 16  # characters; shorter parts of a path are words such as "webhook"


def secrets_of_url(url: str) -> Iterator[str]:
    """A webhook's URL and those parts of it that a receiver may echo: all of them are secret."""
    _, user, password = split_login(url)
    if user or password:
        yield from (f"{user}:{password}", user, password)
    rest = url.partition("://")[2].partition("/")[2]
    path, _, query = rest.partition("?")
    yield from (url, rest)
    parts = path.split("/")
    tails = ("/".join(parts[index:]) for index in range(len(parts)))
    yield from (part for part in (*parts, *tails) if len(part) >= MIN_URL_PART)
    yield from (value for pair in query.split("&") for value in (pair, pair.partition("=")[2]))


def collect_secrets(settings: Settings, entries: Sequence[Entry], world: Runtime) -> list[Remark]:
    """Have every known credential masked; returns warnings about those too short for that."""
    remarks: dict[Remark, None] = {}

    def add(where: str, *secrets: str) -> None:
        if any(0 < len(value) < SHORT_SECRET for value in secrets):
            text = (
                f"{where}: a credential is shorter than {SHORT_SECRET} characters: it can be"
                " masked only in texts about its own connection"
            )
            remarks[Remark(Level.WARNING, text)] = None
        world.redact.add(*secrets, *map(unquote, secrets))

    files = [("snapshots.config", tuple(settings.secrets.values()))]
    files += [(entry.source, entry.secrets) for entry in entries]
    for where, secrets in files:
        add(where, *secrets)
        for url in (value for value in secrets if value.is_url):
            _, user, password = split_login(url)
            add(where, password or user)
            world.redact.add(*secrets_of_url(url))
    for name, value in os.environ.items():
        if name.lower().endswith("_proxy") and "@" in value:
            user_info = value.rpartition("@")[0].rpartition("://")[2]
            world.redact.add(user_info, unquote(user_info))
            add(name, user_info.partition(":")[2])
    return list(remarks)


def load_entries(
    names: Sequence[str], settings: Settings, world: Runtime
) -> tuple[list[Entry], list[Remark]]:
    """The servers as `load_servers` has them, and all that is to be said about the configuration;
    from now on their credentials are masked. Raises ConfigError."""
    entries, remarks = load_servers(names, settings)
    return entries, [*settings.remarks, *remarks, *collect_secrets(settings, entries, world)]


# === Providers ================================================================================
# Three plain classes that only translate: no retry, no sleep, no policy. A difference that is a
# value is a class constant, one in steps is inside a method. A fourth cloud is one class more.


class Provider(Protocol):
    """What a run needs of a cloud."""

    key: ClassVar[str]  # as in configuration and log
    title: ClassVar[str]  # as people write it
    credentials_place: ClassVar[str]  # where people get them
    duration_rule: ClassVar[str]  # how long a snapshot takes, in the provider's words
    limit_is_shared: ClassVar[bool]  # is the limit on snapshots one for many servers?
    has_slots: ClassVar[bool]  # does each server have so many slots for snapshots?
    lists_account: ClassVar[bool]  # can one listing serve several servers at all?
    account_pages: int  # how many such a listing has, as known so far; 0: there is no other
    id_place: ClassVar[tuple[Union[str, int], ...]]  # of the id of a snapshot that is read alone
    limits: ClassVar[Callable[[], list[RateLimit]]]  # documented rate limits

    @staticmethod
    def auth(world: Runtime, settings: Settings, credentials: Sequence[str]) -> NoAuth:
        """What the server file's credentials, in the order of CREDENTIAL_KEYS, log in with."""

    @staticmethod
    def own_code(status: int, body: Mapping[str, Any]) -> Optional[str]:
        """The code of an error in the API's own words, "" where these have none; None where the
        words are somebody else's: a gateway's, a proxy's, another API's."""

    @staticmethod
    def label(name: str) -> str:
        """The server part of a snapshot name, as this provider takes it."""

    @staticmethod
    def path_of(snapshot: Snapshot) -> str:
        """Where it is read and deleted by itself."""

    def check_server(self, server_id: str) -> None:
        """Raise ApiError unless the server exists and may be read."""

    def create(self, server: Server, name: str) -> Ticket:
        """Ask for a snapshot."""

    def poll(self, tickets: Sequence[Ticket]) -> dict[Ticket, Progress]:
        """How far they are; in as few requests as the API allows. Not where a create answers
        without an action (Contabo)."""

    def list_snapshots(self, server_ids: Sequence[str]) -> tuple[Snapshot, ...]:
        """Every snapshot of these servers (and maybe more), complete or ApiError."""

    def list_servers(self) -> dict[str, Listed]:
        """All servers of the account by their ids."""

    def price_per_gb(self) -> Optional[tuple[float, str]]:
        """What a GB costs a month, and the currency; None: snapshots are not billed by size."""

    def look_for(
        self, server_id: str, name: str, since: datetime, lost: ApiError
    ) -> Optional[Ticket]:
        """After a create without an answer: the snapshot that came of it; None if there is none.

        since: by the provider's clock, when the create went out, less a tolerance.
        Raises UnclearError where that cannot be known.
        """


SAME_NAME = "there is another one of that name, or one with an unreadable date"
POLL_RETRY_SECONDS = 10.0  # a poll is asked again soon anyway, and others wait for its answer
MAX_PAGES = 1000
MAX_READS = 5  # of a listing that changes while it is read


@dataclass(frozen=True)
class Listed:
    """A server, as its provider lists it."""

    names: tuple[str, ...]  # at least one
    size: str  # "cpx22, 80 GB"; the plan and its disk, as far as they are known


@dataclass(frozen=True)
class Page:
    """One page of a listing."""

    items: tuple[Any, ...]
    more: bool
    total: Optional[int]  # of all pages, where the API says


class IncompleteError(GarbledError):
    """The pages do not add up to one complete listing."""


Item = tuple[str, Mapping[str, Any]]  # an entry of a listing with its id


def every_page(fetch: Callable[[int], Page], doing: str, id_of: Callable[[Any], str]) -> list[Item]:
    """All entries of a paged listing with their ids: complete, or ApiError.

    Complete: every id usable and none twice, an end, and as many entries as the provider says
    there are. A listing that changed while it was read is read again: in a fleet, others' new
    snapshots turn up all the time, and where there is no order they turn up anywhere.
    """
    for attempt in range(1, MAX_READS + 1):
        found: dict[str, Mapping[str, Any]] = {}
        try:
            for number in range(1, MAX_PAGES + 1):
                page = fetch(number)
                for item in page.items:
                    item_id = id_of(item)
                    if item_id in found:
                        raise IncompleteError("the listing has a duplicate entry")
                    found[item_id] = item
                if not page.more:
                    if page.total is not None and page.total != len(found):
                        raise IncompleteError(
                            f"the listing has {len(found)} of {page.total} entries"
                        )
                    return list(found.items())
                if not page.items:
                    raise IncompleteError("an empty page in the middle of the listing")
            raise IncompleteError(f"the listing has more than {MAX_PAGES} pages")
        except GarbledError as error:
            if attempt == MAX_READS or not isinstance(error, IncompleteError):
                raise ApiError(doing, Attempt(Outcome.GARBLED, str(error))) from None
            log.debug("%s: %s; reading it again", doing, error)
    raise AssertionError("not reached")


def by_number(item: Any) -> str:
    """The id of an entry at DigitalOcean and Hetzner."""
    return take_number(item, "id")


def every_entry(
    page: Callable[..., Page],
    path: str,
    doing: str,
    key: str,
    params: Mapping[str, str] = MappingProxyType({}),
    id_of: Callable[[Any], str] = by_number,
) -> list[Item]:
    """All entries under a key of a listing at DigitalOcean or Hetzner; see `every_page`."""
    return every_page(
        lambda number: page(path, doing, key, {**params, "page": number}), doing, id_of
    )


def listed_servers(
    page: Callable[..., Page], key: str, disk_key: str, *plan_path: str
) -> dict[str, Listed]:
    """A listing of servers, as DigitalOcean and Hetzner have it."""
    found: dict[str, Listed] = {}
    for item_id, item in every_entry(page, f"/{key}", f"list the account's {key}", key):
        size = size_text(value_at(item, *plan_path), item.get(disk_key))
        found[item_id] = Listed((name_of(item, "name") or item_id,), size)
    return found


def size_text(plan: Any, disk_gb: Any) -> str:
    """A server's plan and its disk, as far as the provider tells them."""
    size = size_of(disk_gb)
    words = (plan if isinstance(plan, str) else "", f"{size:.0f} GB" if size else "")
    return ", ".join(filter(None, words))


def by_number_or_volume(item: Any) -> str:
    """The same where volumes' snapshots, whose ids are UUIDs, come along though not asked for."""
    return take_id(item, "id") if take(item).get("resource_type") == "volume" else by_number(item)


def same_id(value: Any, server_id: str) -> bool:
    """Is this the server's id, as a number or as text, or none at all?"""
    return value is None or (type(value) in (int, str) and str(value) == server_id)


def name_of(item: Mapping[str, Any], key: str) -> Optional[str]:
    """A snapshot's name, or None where the provider sent something else or a monster."""
    value = item.get(key)
    return value if isinstance(value, str) and len(value) <= 10_000 else None


def size_of(value: Any) -> Optional[float]:
    """A size in GB, or None where the provider sent null or something else."""
    return float(value) if type(value) in (int, float) and 0 <= value < 1e9 else None


class DigitalOcean:
    """Droplets. https://docs.digitalocean.com/reference/api/ (read 2026-11)."""

    key = "digitalocean"
    title = "DigitalOcean"
    credentials_place = "control panel, API (README.md names the scopes)"
    duration_rule = "DigitalOcean speaks of 1 to 3 minutes per GB of used disk"
    limit_is_shared = False
    has_slots = False
    lists_account = True
    id_place = ("snapshot", "id")
    label = staticmethod(plain_label)
    auth = staticmethod(fixed_token)
    PER_PAGE = 200  # the documented maximum

    def __init__(self, api: Api) -> None:
        self.api = api
        # given up where a narrow token lacks actions:read, or where the newest do not come first
        self._lists_actions = True
        self.account_pages = 1

    @staticmethod
    def own_code(status: int, body: Mapping[str, Any]) -> Optional[str]:
        """Shape: {"id": "not_found", "message": "..."}, often with a request_id."""
        code, message = body.get("id"), body.get("message")
        return code if isinstance(code, str) and isinstance(message, str) else None

    @staticmethod
    def limits() -> list[RateLimit]:
        """5,000 an hour and 250 a minute for each token."""
        return [RateLimit(245, 60.5), RateLimit(4950, 3600.5)]

    def _page(self, path: str, doing: str, key: str, params: Mapping[str, Any]) -> Page:
        """Shape: {key: [...], "links": {"pages": {"next": url}}, "meta": {"total": n}}.

        The next page's URL is made here, never taken from the answer: the token travels with it.
        """

        def parse(content: Any) -> Page:
            items = take(content, key, kind=list)
            following = value_at(content, "links", "pages", "next")
            return Page(tuple(items), following is not None, count_at(content, "meta", "total"))

        return self.api.get(path, doing, parse, params={"per_page": self.PER_PAGE, **params})

    def check_server(self, server_id: str) -> None:
        self.api.get(
            f"/droplets/{server_id}",
            f"read droplet {server_id}",
            lambda content: take_number(content, "droplet", "id"),
        )

    def create(self, server: Server, name: str) -> Ticket:
        """Answer: the action; its resource_id is the droplet's. No snapshot id, ever."""

        def parse(content: Any) -> Ticket:
            action_id = take_number(content, "action", "id")
            if not same_id(content["action"].get("resource_id"), server.id):
                raise GarbledError("the answer is about another droplet")
            return Ticket(server.id, action_id=action_id)

        return self.api.call(
            Act.CREATE,
            f"/droplets/{server.id}/actions",
            f"create a snapshot of droplet {server.id}",
            parse,
            json_body={"type": "snapshot", "name": name},
        )

    STATES: ClassVar[Mapping[str, State]] = MappingProxyType(
        {"in-progress": State.RUNNING, "completed": State.DONE, "errored": State.FAILED}
    )

    def _progress(self, action: Any) -> Progress:
        """An unknown word counts as running; an action has no error text."""
        state = self.STATES.get(str(action.get("status")), State.RUNNING)
        return Progress(state, reason="DigitalOcean ended the action as errored")

    def poll(self, tickets: Sequence[Ticket]) -> dict[Ticket, Progress]:
        """The account's newest actions for many; the single action for one, or as a fallback."""
        found: dict[Ticket, Progress] = {}
        if len(tickets) > 1 and self._lists_actions:
            found.update(self._poll_many(tickets))
        troubles: list[ApiError] = []
        for ticket in tickets:
            if ticket not in found:
                try:
                    found[ticket] = self._poll_one(ticket)
                except ApiError as error:  # one droplet's trouble must not be the others'
                    log.warning("%s: %s; asking again", self.title, error)
                    troubles.append(error)
        if troubles and not found:  # what may pass by itself rather than what is hopeless
            raise min(troubles, key=lambda error: error.outcome is Outcome.FORBIDDEN)
        return found

    def _poll_many(self, tickets: Sequence[Ticket]) -> dict[Ticket, Progress]:
        """Those among the account's newest actions; none where these cannot be had."""

        def parse(content: Any) -> dict[str, Progress]:
            actions = take(content, "actions", kind=list)
            return {take_number(action, "id"): self._progress(action) for action in actions}

        doing, params = "list the account's newest actions", {"per_page": self.PER_PAGE, "page": 1}
        try:
            newest = self.api.get(
                "/actions", doing, parse, params=params, within=POLL_RETRY_SECONDS
            )
        except ApiError as error:
            if error.outcome in (Outcome.NOT_SENT, Outcome.UNAUTHORIZED, Outcome.RATE_LIMITED):
                raise  # asking for each by itself would come to the same
            self._lists_actions = error.outcome is not Outcome.FORBIDDEN
            log.debug("%s: %s; asking for each action by itself", self.title, error)
            return {}
        found = {t: newest[t.action_id] for t in tickets if t.action_id in newest}
        self._lists_actions = bool(found)
        return found

    def _poll_one(self, ticket: Ticket) -> Progress:
        def parse(content: Any) -> Progress:
            if take_number(content, "action", "id") != ticket.action_id:
                raise GarbledError("the answer is about another action")
            return self._progress(content["action"])

        progress = self.api.find(
            f"/droplets/{ticket.server_id}/actions/{ticket.action_id}",
            f"read action {ticket.action_id} of droplet {ticket.server_id}",
            parse,
            within=POLL_RETRY_SECONDS,
        )
        return progress or Progress(State.UNKNOWN_ACTION)

    def list_snapshots(self, server_ids: Sequence[str]) -> tuple[Snapshot, ...]:
        """One droplet by itself: items have integer ids, a `type` of snapshot or backup, and no
        owner but the URL. Several from the whole account: text ids, resource_id, resource_type."""
        if len(server_ids) == 1:
            path = f"/droplets/{server_ids[0]}/snapshots"
            doing = f"list snapshots of droplet {server_ids[0]}"
            items = every_entry(self._page, path, doing, "snapshots")
        else:
            doing, more = "list the account's snapshots", {"resource_type": "droplet"}
            items = every_entry(
                self._page, "/snapshots", doing, "snapshots", more, by_number_or_volume
            )
            self.account_pages = max(1, math.ceil(len(items) / self.PER_PAGE))

        def owner_of(item: Mapping[str, Any]) -> Optional[str]:
            if len(server_ids) == 1:
                return server_ids[0] if item.get("type") == "snapshot" else None
            return str(item.get("resource_id")) if item.get("resource_type") == "droplet" else None

        return tuple(
            Snapshot(
                item_id,
                name_of(item, "name"),
                moment_of(item.get("created_at")),
                owner_of(item),
                size_gb=size_of(item.get("size_gigabytes")),
            )
            for item_id, item in items
        )

    @staticmethod
    def path_of(snapshot: Snapshot) -> str:
        return f"/snapshots/{snapshot.id}"

    def list_servers(self) -> dict[str, Listed]:
        return listed_servers(self._page, "droplets", "disk", "size_slug")

    def price_per_gb(self) -> Optional[tuple[float, str]]:
        """No API gives it. https://docs.digitalocean.com/products/snapshots/details/pricing/
        (read 2026-11)."""
        return 0.06, "USD"

    def look_for(
        self, server_id: str, name: str, since: datetime, lost: ApiError
    ) -> Optional[Ticket]:
        """A snapshot action of this droplet since then; its name shows only when it is done."""
        path, doing = f"/droplets/{server_id}/actions", f"list actions of droplet {server_id}"
        undated = False
        for action_id, action in every_entry(self._page, path, doing, "actions"):
            if action.get("type") != "snapshot":
                continue
            started = moment_of(action.get("started_at"))
            undated = undated or started is None
            if started is not None and started >= since:
                return Ticket(server_id, action_id=action_id)
        if undated:
            raise UnclearError("a snapshot action has an unreadable date")
        return None


class Hetzner:
    """Hetzner Cloud servers. https://docs.hetzner.cloud/ (read 2026-11)."""

    key = "hetzner"
    title = "Hetzner"
    credentials_place = "console, the project, Security, API tokens: Read & Write"
    duration_rule = "Hetzner's own tools allow up to 90 minutes"
    limit_is_shared = True
    has_slots = False
    lists_account = True
    account_pages = 0
    id_place = ("image", "id")
    label = staticmethod(plain_label)
    auth = staticmethod(fixed_token)
    PER_PAGE = 50  # the documented maximum
    IDS_PER_POLL = 25  # as Hetzner's own Go client asks

    def __init__(self, api: Api) -> None:
        self.api = api

    @staticmethod
    def own_code(status: int, body: Mapping[str, Any]) -> Optional[str]:
        """Shape: {"error": {"code": "not_found", "message": "...", "details": {...}}}."""
        code = value_at(body, "error", "code")
        return code if isinstance(code, str) else None

    @staticmethod
    def limits() -> list[RateLimit]:
        """3,600 an hour for each project, refilled one a second; bursts are allowed."""
        return [RateLimit(3500, 1.0, one_by_one=True)]

    def _page(self, path: str, doing: str, key: str, params: Mapping[str, Any]) -> Page:
        """Shape: {key: [...], "meta": {"pagination": {"page", "next_page", "total_entries"}}}."""

        def parse(content: Any) -> Page:
            items = take(content, key, kind=list)
            pagination = take(content, "meta", "pagination")
            following = pagination.get("next_page")
            if following is not None and following != params["page"] + 1:
                raise GarbledError("the pages are out of order")
            return Page(tuple(items), following is not None, count_at(pagination, "total_entries"))

        return self.api.get(path, doing, parse, params={"per_page": self.PER_PAGE, **params})

    def check_server(self, server_id: str) -> None:
        self.api.get(
            f"/servers/{server_id}",
            f"read server {server_id}",
            lambda content: take_number(content, "server", "id"),
        )

    def create(self, server: Server, name: str) -> Ticket:
        """Answer: the image (status creating) and the action. Unknown keys would be refused."""

        def parse(content: Any) -> Ticket:
            made_from = take(content, "image").get("created_from")
            if not same_id(made_from and take_number(made_from, "id"), server.id):
                raise GarbledError("the answer is about another server")
            return Ticket(
                server.id, take_number(content, "action", "id"), take_number(content, "image", "id")
            )

        return self.api.call(
            Act.CREATE,
            f"/servers/{server.id}/actions/create_image",
            f"create a snapshot of server {server.id}",
            parse,
            json_body={"type": "snapshot", "description": name},
        )

    STATES: ClassVar[Mapping[str, State]] = MappingProxyType(
        {"running": State.RUNNING, "success": State.DONE, "error": State.FAILED}
    )

    def _progress(self, action: Any) -> Progress:
        percent = action.get("progress")
        error = action.get("error")
        reason = "Hetzner ended the action with an error"
        if isinstance(error, dict):
            reason = self.api.shown(f"{reason}: {error.get('code')}: {error.get('message')}")
        return Progress(
            self.STATES.get(str(action.get("status")), State.RUNNING),
            percent if type(percent) is int and 0 <= percent <= 100 else None,
            reason,
        )

    def poll(self, tickets: Sequence[Ticket]) -> dict[Ticket, Progress]:
        """GET /actions?id=..&id=..: an action that does not come back is no longer known."""

        def parse(content: Any) -> dict[str, Progress]:
            actions = take(content, "actions", kind=list)
            return {take_number(action, "id"): self._progress(action) for action in actions}

        found: dict[Any, Progress] = {}
        for start in range(0, len(tickets), self.IDS_PER_POLL):
            ids = [ticket.action_id for ticket in tickets[start : start + self.IDS_PER_POLL]]
            doing, params = f"read {counted(len(ids), 'action')}", {"id": ids}
            some = self.api.find("/actions", doing, parse, params=params, within=POLL_RETRY_SECONDS)
            found.update(some or {})
        unknown = Progress(State.UNKNOWN_ACTION)
        return {ticket: found.get(ticket.action_id, unknown) for ticket in tickets}

    def list_snapshots(self, server_ids: Sequence[str]) -> tuple[Snapshot, ...]:
        """The whole project, for there is no filter by server; oldest id first, so that a
        snapshot made meanwhile comes at the end and shifts nothing. One whose `deleted` says when
        it was deleted is not there."""
        doing, more = "list the project's snapshots", {"type": "snapshot", "sort": "id:asc"}
        items = every_entry(self._page, "/images", doing, "images", more)
        there = (item for item in items if item[1].get("deleted") is None)
        return tuple(self._snapshot(i, item) for i, item in there if item.get("type") == "snapshot")

    @staticmethod
    def _snapshot(item_id: str, item: Mapping[str, Any]) -> Snapshot:
        """created_from may be null: then nobody knows what it was made from, and it is not ours."""
        server_id = count_at(item, "created_from", "id")
        is_protected = value_at(item, "protection", "delete")  # only a clear False counts as no
        return Snapshot(
            item_id,
            name_of(item, "description"),
            moment_of(item.get("created")),
            None if server_id is None else str(server_id),
            state=str(item.get("status")),
            protected=is_protected is not False and is_protected is not None,
            size_gb=size_of(item.get("image_size")),
        )

    @staticmethod
    def path_of(snapshot: Snapshot) -> str:
        return f"/images/{snapshot.id}"

    def list_servers(self) -> dict[str, Listed]:
        return listed_servers(self._page, "servers", "primary_disk_size", "server_type", "name")

    def price_per_gb(self) -> Optional[tuple[float, str]]:
        """Net, a decimal number as text."""

        def parse(content: Any) -> tuple[float, str]:
            price = take(content, "pricing", "image", "price_per_gb_month", "net", kind=str)
            currency = take(content, "pricing", "currency", kind=str)
            if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,20})?", price):
                raise GarbledError("the price is no number")
            return float(price), currency

        return self.api.get("/pricing", "read the price of snapshots", parse)

    def look_for(
        self, server_id: str, name: str, since: datetime, lost: ApiError
    ) -> Optional[Ticket]:
        """An image of that name and server, `creating` included; else a running create_image."""
        same_name = False
        for snapshot in self.list_snapshots([server_id]):
            if snapshot.name == name and snapshot.server_id in (server_id, None):
                if snapshot.server_id and snapshot.created and snapshot.created >= since:
                    return Ticket(server_id, snapshot_id=snapshot.id)
                same_name = True
        path, doing = f"/servers/{server_id}/actions", f"list running actions of server {server_id}"
        actions = every_entry(self._page, path, doing, "actions", {"status": "running"})
        if any(
            a.get("command") == "create_image" and a.get("status") == "running" for _, a in actions
        ):
            raise UnclearError("an image is being made that may be this one")
        if same_name:
            raise UnclearError(SAME_NAME)
        return None


class ContaboLogin(NoAuth):
    """Contabo's token: fetched on demand, kept as long as it says, renewed once on a 401.

    Source: cntb's own use of https://auth.contabo.com/... (password grant, read 2026-11).
    """

    def __init__(self, world: Runtime, settings: Settings, credentials: Sequence[str]) -> None:
        self.world, self.credentials = world, credentials
        self.api = Api(
            world,
            settings.api.contabo_auth_url,
            NoAuth(),
            own_code=self.own_code,
            timeout=settings.timing.http_timeout,
            connections=1,
            secrets=(credentials[1], credentials[3]),
        )
        self.api.session.headers["Connection"] = "close"  # nobody logs in again soon
        self._logins = Shared(world, self._log_in, answers_late=True)
        self._token = ""
        self._good_until = 0.0
        self._failure: Optional[ApiError] = None  # trying on after it would lock the account

    @staticmethod
    def own_code(status: int, body: Mapping[str, Any]) -> Optional[str]:
        """Shape: {"error": "invalid_grant", "error_description": "..."} (Keycloak's)."""
        code = body.get("error")
        if not isinstance(code, str):
            return None
        return "not_found" if status == 404 else code  # its words for that: "Realm does not exist"

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self.token()}"
        self.world.check()  # a login takes its time
        return request

    def renew(self, refused: str) -> bool:
        """Drop the token, unless there is another one by now."""
        if refused == f"Bearer {self._token}":
            self._token = ""
        return True

    def token(self) -> str:
        """The current token; one thread fetches it, all the others wait for that."""
        return str(self._logins.ask())

    def _log_in(self, keys: Sequence[None]) -> Mapping[None, str]:
        if self._failure is not None:
            raise self._failure
        token = self._token  # once: another thread may drop it at any time
        if not token or self.world.clock.monotonic() >= self._good_until:
            try:
                token, good_until = self._fetch()
            except ApiError as error:
                if error.outcome in (Outcome.REJECTED, Outcome.UNAUTHORIZED, Outcome.FORBIDDEN):
                    self._failure = error
                raise
            self.world.redact.add(token)
            self._token, self._good_until = token, good_until
        return {None: token}

    def _fetch(self) -> tuple[str, float]:
        """(token, good until, monotonic). expires_in is believed within reason."""
        client_id, client_secret, user, password = self.credentials
        began = self.world.clock.monotonic()

        def parse(content: Any) -> tuple[str, float]:
            token = take(content, "access_token", kind=str)
            if not re.fullmatch(r"[\x21-\x7e]+", token):
                raise GarbledError("access_token is not usable")
            seconds = content.get("expires_in")
            usable = type(seconds) in (int, float) and 0 < seconds < math.inf
            lifetime = float(min(seconds, 86400)) if usable else 60.0
            return token, began + max(lifetime * 0.9 - 5, lifetime * 0.5)

        return self.api.call(
            Act.TOKEN,
            "",
            f"log in at Contabo as API user {one_line(user, 80)}",
            parse,
            form={
                "grant_type": "password",
                "client_id": client_id,
                "client_secret": client_secret,
                "username": user,
                "password": password,
            },
            within=60.0,
        )


class Contabo:
    """Contabo instances. https://api.contabo.com/ (read 2026-11)."""

    key = "contabo"
    title = "Contabo"
    credentials_place = "https://my.contabo.com/api/details"
    duration_rule = "Contabo publishes no usual duration"
    limit_is_shared = False
    has_slots = True
    lists_account = False
    account_pages = 0
    id_place = ("data", 0, "snapshotId")
    label = staticmethod(contabo_label)
    auth = ContaboLogin
    PER_PAGE = 100  # no maximum is documented

    def __init__(self, api: Api) -> None:
        self.api = api

    @staticmethod
    def own_code(status: int, body: Mapping[str, Any]) -> Optional[str]:
        """Shape: {"statusCode": 404, "message": "..."}, the message sometimes a list; no code.

        "Cannot DELETE /v1/..." is what its framework (NestJS) says of a path that leads nowhere.
        """
        message = body.get("message")
        if body.get("statusCode") != status or not isinstance(message, (str, list)):
            return None
        is_route = isinstance(message, str) and re.match(r"Cannot [A-Z]+ /", message)
        return "not_found" if status == 404 and not is_route else ""

    @staticmethod
    def limits() -> list[RateLimit]:
        """None is documented; ten at once and five a second hurt nobody."""
        return [RateLimit(20, 0.2, one_by_one=True)]

    def _pages(self, path: str, doing: str, params: Mapping[str, Any], key: str) -> list[Item]:
        """Shape: {"data": [...], "_pagination": {"page", "totalPages", "totalElements"}}."""

        def page(number: int) -> Page:
            def parse(content: Any) -> Page:
                items = take(content, "data", kind=list)
                pages = take(content, "_pagination", "totalPages", kind=(int, float))
                total = take(content, "_pagination", "totalElements", kind=(int, float))
                if isinstance(total, float) and not total.is_integer():
                    raise GarbledError("_pagination.totalElements is no whole number")
                return Page(tuple(items), number < pages, int(total))

            asked = {**params, "page": number, "size": self.PER_PAGE}
            return self.api.get(path, doing, parse, params=asked)

        return every_page(page, doing, lambda item: take_id(item, key))

    def check_server(self, server_id: str) -> None:
        def parse(content: Any) -> None:
            if take_id(content, "data", 0, "instanceId") != server_id:
                raise GarbledError("the answer is about another instance")

        self.api.get(f"/compute/instances/{server_id}", f"read instance {server_id}", parse)

    def create(self, server: Server, name: str) -> Ticket:
        """Answer: the snapshot's id. There is no status: it is done when it is listed."""

        def parse(content: Any) -> Ticket:
            if not same_id(take(content, "data", 0).get("instanceId"), server.id):
                raise GarbledError("the answer is about another instance")
            made = take_id(content, "data", 0, "snapshotId")
            return Ticket(server.id, snapshot_id=made)

        description = one_line(f"{server.name} (made by {SCRIPT})")[:255]
        return self.api.call(
            Act.CREATE,
            f"/compute/instances/{server.id}/snapshots",
            f"create a snapshot of instance {server.id}",
            parse,
            json_body={"name": name, "description": description},
        )

    def list_snapshots(self, server_ids: Sequence[str]) -> tuple[Snapshot, ...]:
        """Instance by instance, for there is no other way."""
        return tuple(
            Snapshot(
                item_id,
                name_of(item, "name"),
                moment_of(item.get("createdDate")),
                server_id if same_id(item.get("instanceId"), server_id) else None,
                expires=moment_of(item.get("autoDeleteDate")),
            )
            for server_id in server_ids
            for item_id, item in self._pages(
                f"/compute/instances/{server_id}/snapshots",
                f"list snapshots of instance {server_id}",
                {},
                "snapshotId",
            )
        )

    @staticmethod
    def path_of(snapshot: Snapshot) -> str:
        return f"/compute/instances/{snapshot.server_id}/snapshots/{snapshot.id}"

    def list_servers(self) -> dict[str, Listed]:
        """Each has a name that it was born with, and may have one that people gave it."""
        found: dict[str, Listed] = {}
        for i, item in self._pages("/compute/instances", "list the instances", {}, "instanceId"):
            names = tuple(filter(None, (name_of(item, key) for key in ("displayName", "name"))))
            disk_mb = size_of(item.get("diskMb"))
            size = size_text(item.get("productName"), disk_mb and disk_mb / 1024)
            found[i] = Listed(names or (i,), size)
        return found

    def price_per_gb(self) -> Optional[tuple[float, str]]:
        return None  # a plan has so many slots

    def look_for(
        self, server_id: str, name: str, since: datetime, lost: ApiError
    ) -> Optional[Ticket]:
        """In the instance's listing, or in the audit, which knows what our request has made;
        absent only if the audit answers and is empty."""
        same_name = False
        for snapshot in self.list_snapshots([server_id]):
            if snapshot.name == name:
                if snapshot.created and snapshot.created >= since:
                    return Ticket(server_id, snapshot_id=snapshot.id)
                same_name = True
        audits = self._pages(
            "/compute/snapshots/audits",
            f"ask Contabo's audit about the request for instance {server_id}",
            {"requestId": lost.request_id},
            "id",
        )
        for _, entry in audits:
            if entry.get("action") == "CREATED" and same_id(entry.get("instanceId"), server_id):
                with contextlib.suppress(GarbledError):
                    return Ticket(server_id, snapshot_id=take_id(entry, "snapshotId"))
        if audits:
            raise UnclearError("the audit knows the request, but names no snapshot")
        if same_name:
            raise UnclearError(SAME_NAME)
        return None


PROVIDERS: Mapping[str, Any] = MappingProxyType(
    {"digitalocean": DigitalOcean, "hetzner": Hetzner, "contabo": Contabo}
)


def labels_of(server: Server) -> tuple[str, ...]:
    """What the server's snapshots are named after: its name, then its former names."""
    label = PROVIDERS[server.provider].label
    return tuple(label(name) for name in (server.name, *server.former_names))


# === Accounts =================================================================================
# What the servers of one account (same provider, same credentials) share.

MAX_POLL_SECONDS = 30.0
BATCH_SECONDS = 30.0  # how long a listing may wait for others that will need one as well


class Account:
    """Connections, pace, one poll for many, one listing for all that ask.

    No thread of its own: of the turns that wait, the first whose time has come does the work
    for all, then wakes them.
    """

    def __init__(
        self, world: Runtime, provider_key: str, credentials: Sequence[str], settings: Settings
    ) -> None:
        kind = PROVIDERS[provider_key]
        api = Api(
            world,
            getattr(settings.api, f"{provider_key}_url"),
            kind.auth(world, settings, credentials),
            own_code=kind.own_code,
            timeout=settings.timing.http_timeout,
            connections=settings.timing.max_parallel,
            limits=kind.limits(),
            secrets=credentials,
        )
        self.world, self.api = world, api
        self.provider: Provider = kind(api)
        self.turns_left = 0  # of a run, those to come included
        self.poll_interval = settings.timing.poll_interval
        self.polls = Shared(world, self._poll)
        self.listings = Shared(world, self._list_together, could_ask=0)
        self._first_read = Shared(world, self._read_first)
        self._running: dict[Ticket, float] = {}  # since when; monotonic
        self.poll_trouble = ""  # why the last poll failed
        # the last listing of the whole account, and when it began (monotonic): for ages only,
        # nothing is deleted by it
        self.latest_listing: tuple[tuple[Snapshot, ...], float] = ((), -math.inf)
        self._reads_find: Optional[bool] = None  # what is there? None: not known yet

    # --- one poll for many ---

    def _poll_seconds(self) -> float:
        """How long until the next poll: a tenth of the youngest action's age, from poll_interval
        to 30 s, so that no end is noticed much later than it took; half of it while starts, and so
        ends, lie further apart than that age and that interval."""
        since = list(self._running.values())  # a copy: others come and go
        age = self.world.clock.monotonic() - max(since)
        interval = min(max(self.poll_interval, age / 10), max(MAX_POLL_SECONDS, self.poll_interval))
        return interval / 2 if max(since) - min(since) > max(age, interval) else interval

    def wait_until_done(
        self, ticket: Ticket, deadline: float, on_progress: Callable[[Progress], None]
    ) -> Progress:
        """Wait for an action to end, or until the deadline (monotonic): then its last progress.

        It is asked for once more at the deadline. A poll that fails is tried again until then.
        Raises ApiError where that is hopeless, InterruptedRunError on a stop.
        """
        clock = self.world.clock
        progress, is_last = Progress(State.RUNNING), False
        self._running[ticket] = clock.monotonic()
        try:
            while progress.state is State.RUNNING:
                self.world.check()
                on_progress(progress)
                left = max(deadline - clock.monotonic(), 0.0)
                if is_last and left < 0.001:  # so little may be lost in sums
                    break
                wait = min(self._poll_seconds(), left)
                is_last = wait == left
                progress = self.polls.ask(ticket, wait) or progress
            on_progress(progress)
            return progress
        finally:
            del self._running[ticket]

    def _poll(self, tickets: Sequence[Ticket]) -> Mapping[Ticket, Progress]:
        try:
            found = self.provider.poll(tickets)
        except ApiError as error:
            is_hopeless = error.outcome in (Outcome.UNAUTHORIZED, Outcome.FORBIDDEN)
            again = "" if is_hopeless else "; asking again"
            log.warning("%s: %s%s", self.provider.title, error, again)
            if is_hopeless:
                raise
            self.poll_trouble = str(error)
            return {}
        self.poll_trouble = ""
        return found

    # --- one listing for all that ask ---

    def list_snapshots(self, server_id: str, batch_wait: float = 0.0) -> tuple[Snapshot, ...]:
        """A complete listing that began after this call did, maybe shared with others.

        batch_wait: seconds to wait for others, while other turns of the account are under way.
        Raises ApiError or InterruptedRunError.
        """
        found: Optional[tuple[Snapshot, ...]] = None
        if self.provider.lists_account:
            found = self.listings.ask(server_id, min(batch_wait, BATCH_SECONDS))
        return self.provider.list_snapshots([server_id]) if found is None else found

    def _list_together(self, server_ids: Sequence[str]) -> Mapping[str, tuple[Snapshot, ...]]:
        """Nothing where each does better for itself: one's trouble must not be the others'."""
        if len(server_ids) <= self.provider.account_pages:
            return {}
        began = self.world.clock.monotonic()
        listing = self.provider.list_snapshots(sorted(server_ids))
        self.latest_listing = listing, began
        return dict.fromkeys(server_ids, listing)

    def delete(self, snapshot: Snapshot) -> bool:
        """Delete a snapshot; False if it had gone already. Raises ApiError.

        Not while a listing is being read: what goes meanwhile shifts the pages. Without a body
        and a Content-Type: Contabo refuses the one without the other.
        """
        path = self.provider.path_of(snapshot)
        doing = f"delete snapshot {snapshot.id} ({snapshot.name})"
        with self.listings.held():
            return self.api.call(Act.DELETE, path, doing, lambda answer: bool(answer.status != 404))

    def is_there(self, snapshot: Snapshot) -> bool:
        """What one read shows; False is the provider's own not-found. Raises ApiError."""

        def parse(content: Any) -> bool:
            if take_id(content, *self.provider.id_place) != snapshot.id:
                raise GarbledError("the answer is about another snapshot")
            return True

        path, doing = self.provider.path_of(snapshot), f"read snapshot {snapshot.id}"
        return self.api.find(path, doing, parse, within=POLL_RETRY_SECONDS) is not None

    def reads_find(self, snapshot: Snapshot) -> bool:
        """Do reads find what is there, as this one is? Found out once, by the first that asks:
        without that, a not-found would prove nothing."""
        return bool(self._first_read.ask(snapshot))

    def _read_first(self, snapshots: Sequence[Snapshot]) -> Mapping[Snapshot, bool]:
        if self._reads_find is None:
            try:
                self._reads_find = self.is_there(snapshots[0])
            except ApiError as error:
                self._reads_find = False
                log.debug("%s: %s; deletions are seen in listings", self.provider.title, error)
        return dict.fromkeys(snapshots, self._reads_find)


# === Notifications ============================================================================
# Rendering is pure; sending has a thread for each channel, so that a slow mail server delays
# neither a snapshot nor the other channels.

TELEGRAM_LIMIT = 4096  # UTF-16 code units after parsing
TELEGRAM_SHORT = 500  # units of a message to try where the long one was refused
# The same for each text of a webhook's payload. Discord takes 2,000 characters in `content`, 256
# in a title and 1,024 in a field's value; ntfy 4,096 bytes, which is 1,300 characters of any
# script; Google Chat 4,096 characters, Mattermost 16,383, Teams 28 kB in all.
TEXT_LIMIT = 1300
TEXT_LIMITS: Mapping[str, int] = MappingProxyType(
    {"title": 250, "name": 250, "value": 1000, "username": 80}
)
TEXT_SHORT = 120
SUMMARY_SHORT = 10  # servers in a summary's payload that is tried where the whole was refused
CUT = "… (cut)"
MIN_ITEM = 150  # characters that each of many texts has at the least
GIVE_UP_AFTER = 3  # messages lost in a row; each further one gets one try
JOIN_OVER = 20  # waiting messages for one channel
PING_BODY_BYTES = 10_000  # what a Healthchecks of one's own keeps of a ping's body
RUN = "the whole run"  # the server's name in messages that are about no server
DRAIN_SECONDS = 600.0  # how long the queue has after the last turn
DRAIN_STOPPED_SECONDS = 10.0  # the same after a stop signal


def result_line(report: Report) -> str:
    """How a turn ended, for people."""
    if report.success:
        return f"{report.server.name}: SUCCESS: {report.snapshot_name}, {report.snapshot_info}"
    return f"{report.server.name}: FAILURE: {report.error}"


def summary_line(reports: Sequence[Report], undelivered: int, not_due: int = 0) -> str:
    """The last line of a run."""
    failed = sum(not report.success for report in reports)
    line = (
        f"SUMMARY: {len(reports) - failed} succeeded, {failed} failed out of {len(reports)} total"
    )
    if not_due:
        line += f"; {not_due} not due"
    if undelivered:
        line += f"; {counted(undelivered, 'notification')} not delivered"
    return line


@dataclass(frozen=True)
class Summary(Report):
    """The reports of many servers as one."""

    reports: tuple[Report, ...] = ()  # failures first
    not_due: int = 0
    next_run: str = ""  # in words; empty where nobody knows


def summary_of(reports: Sequence[Report], not_due: int = 0, next_run: str = "") -> Summary:
    """Sum up: for a run, or where so many messages wait that one by one they would never arrive."""
    ordered = sorted(reports, key=lambda report: (report.success, report.server.name))
    failed = [report for report in ordered if not report.success]
    totals = [report.total_snapshots for report in ordered]
    title = f"{counted(len(ordered), 'server')} ({len(failed)} failed)"
    return Summary(
        BadServer(title, ordered[-1].server.source, "", provider="several", id="several"),
        success=not failed,
        snapshot_name="several",
        snapshot_id="several",
        total_snapshots=None if None in totals else sum(filter(None, totals)),
        kept=tuple(kept for report in ordered for kept in report.kept),
        deleted=tuple(snapshot for report in ordered for snapshot in report.deleted),
        warnings=tuple(f"{r.server.name}: {text}" for r in ordered for text in r.warnings),
        error=Items([f"{report.server.name}: {report.error}" for report in failed], "; "),
        seconds=max(report.seconds for report in ordered),
        ended=max(report.ended for report in ordered),
        reports=tuple(ordered),
        not_due=not_due,
        next_run=next_run,
    )


def summary_text(summary: Summary) -> Items:
    """A line for each server, and what they come to."""
    reports = summary.reports
    listed = sum(bool(report.kept) for report in reports)
    stored = f"stored {total_gb(s.size_gb for s, _ in summary.kept)} GB"
    stored += f" for {counted(listed, 'server')}" if listed < len(reports) else ""
    end = [
        summary_line(reports, 0, summary.not_due),
        f"freed {total_gb(s.size_gb for s in summary.deleted)} GB, {stored}",
        *([f"next run: {summary.next_run}"] if summary.next_run else []),
    ]
    lines = ["; warning: ".join([result_line(report), *report.warnings]) for report in reports]
    return Items(lines, "\n", "\n" + "\n".join(end))


def values_of(report: Report, hostname: str) -> dict[str, str]:
    """What the template variables stand for."""
    total = "unknown" if report.total_snapshots is None else str(report.total_snapshots)
    kept = [f"{snapshot.name}: {', '.join(reasons)}" for snapshot, reasons in report.kept]
    values = {
        "script": SCRIPT,
        "provider": report.server.provider,
        "server_name": report.server.name,
        "server_id": report.server.id,
        "droplet_name": report.server.name,
        "droplet_id": report.server.id,
        "snapshot_name": report.snapshot_name,
        "snapshot_id": report.snapshot_id,
        "total_snapshots": total,
        "snapshot_info": report.snapshot_info,
        "status": report.status,
        "hostname": hostname,
        "timestamp": clock_time(report.ended),
        "error": report.error,
        "duration": span(report.seconds),
        "deleted_snapshots": Items([s.name or s.id for s in report.deleted] or ["none"], ", "),
        "freed_gb": total_gb(s.size_gb for s in report.deleted),
        "kept_reasons": Items(kept or ["none"], "; "),
        "warnings": Items(report.warnings or ["none"], "; "),
        "summary": summary_text(report) if isinstance(report, Summary) else result_line(report),
    }
    return {name: v if isinstance(v, Items) else clean(v) for name, v in values.items()}


def built_in_text(report: Report) -> str:
    """The message where no template is set; HTML."""
    title = "Snapshot Success" if report.success else "Snapshot Failed"
    if isinstance(report, Summary):
        return f"<b>{title}: {{server_name}}</b>\n{{summary}}\n{{timestamp}}, on {{hostname}}"
    lines = [f"<b>{title}</b>", "Server: <code>{server_name}</code> ({provider} {server_id})"]
    lines += ["Snapshot: <code>{snapshot_name}</code>", "Total: {snapshot_info}"]
    lines += ["Deleted: {deleted_snapshots}"] if report.deleted else []
    lines += [] if report.success else ["Error: {error}"]
    lines += ["Warnings: {warnings}"] if report.warnings else []
    return "\n".join([*lines, "{timestamp}, took {duration}, on {hostname}"])


SAYS_WHY = re.compile(r"\{(error|summary)\}")


def own_template(section: Union[TelegramSection, SmtpSection], report: Report) -> str:
    """The user's template for this report, or ''. One for failures that does not say why gets a
    last line that does; one that knows nothing of summaries is none for a summary."""
    template = section.message_success if report.success else section.message_failure
    if isinstance(report, Summary) and "{summary}" not in template:
        return ""
    if not template or report.success or SAYS_WHY.search(template):
        return template
    return template + "\nError: {error}"


def clean(text: str) -> str:
    """Text that every channel can carry: no NUL, no lone surrogate."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


# --- a message that fits ---


def utf16_length(text: str) -> int:
    """Length in UTF-16 code units, as Telegram counts."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def utf16_cut(text: str, limit: int) -> str:
    """At most limit units of the text, never half a character; marked where it was cut."""
    if utf16_length(text) <= limit:
        return text
    room = max(0, limit - utf16_length(CUT))
    units = text.encode("utf-16-le", "surrogatepass")
    return units[: 2 * room].decode("utf-16-le", "ignore") + CUT


class Items(str):
    """Texts in a row, and perhaps an end. Cut, it holds the first ones and says how many more there
    are."""

    items: Sequence[str]
    separator: str
    end: str

    def __new__(cls, items: Sequence[str], separator: str, end: str = "") -> Items:
        texts = [clean(item) for item in items]
        made = super().__new__(cls, separator.join(texts) + end)
        made.items, made.separator, made.end = texts, separator, end
        return made

    def first(self, limit: int) -> list[str]:
        """As many of them as fit into so many units with the end, and how many more there are."""
        if utf16_length(self) <= limit or not self.items:
            return list(self.items)
        room = limit - utf16_length(f"{self.separator}... and {len(self.items)} more{self.end}")
        longest = min(room, max(MIN_ITEM, room // len(self.items))) - len(self.separator)
        items = [utf16_cut(item, longest) for item in self.items]
        ends = itertools.accumulate(utf16_length(item + self.separator) for item in items)
        items = items[: sum(end <= room for end in ends)]
        left = len(self.items) - len(items)
        more = [f"... and {left} more"] if left else []
        return [*items, *more]

    def cut(self, limit: int) -> str:
        """At most limit units of it, if at least the end and the words about the rest fit."""
        return self.separator.join(self.first(limit)) + self.end


def cut(value: str, limit: int) -> str:
    """A value, cut in its own way."""
    return value.cut(limit) if isinstance(value, Items) else utf16_cut(value, limit)


def fitted(values: Mapping[str, str], limit: int, render: Callable[..., str]) -> Mapping[str, str]:
    """The values, long ones cut so far that the text rendered from them fits; if it can fit."""
    share, result = limit, values
    while share > 40 and utf16_length(render(result)) > limit:
        share = share * 7 // 8
        result = {name: cut(value, share) for name, value in values.items()}
    return result


def text_within(limit: int, values: Mapping[str, str], render: Callable[..., str]) -> str:
    """The rendered text, within the limit: values are cut first. Where a template is too long by
    itself, what matters of a failure comes before it."""
    text = render(fitted(values, limit, render))
    if utf16_length(text) > limit and values["status"] != "SUCCESS":
        text = fill("{server_name}: {status}: {error}\n", values) + text
    return utf16_cut(text, limit)


# --- Telegram: values arrive exactly as they are, wherever they stand ---

LEGACY_MARKDOWN: Mapping[str, str] = MappingProxyType(  # and what it is in HTML
    {
        r"\\([_*`\[])": r"\1",
        r"```(?:[\w+#.-]*\n)?(.+?)```": r"<pre>\1</pre>",  # the name of a language is not shown
        r"`(.+?)`": r"<code>\1</code>",
        r"\*(.+?)\*": r"<b>\1</b>",
        r"_(.+?)_": r"<i>\1</i>",
        r"\[([^\]]+)\]\(([^)]+)\)": r'<a href="\2">\1</a>',
    }
)
CODE_BLOCK = re.compile(r"(\\.)|```(.*?)(?<!\\)```", re.DOTALL)


def html_from_markdown(template: str) -> str:
    """A template in legacy Markdown as one in HTML. A mark without its partner stays as it is.

    Source: https://core.telegram.org/bots/api#markdown-style (read 2026-11).
    """
    names = TEMPLATE_FIELD.findall(template)  # which may hold underscores that are no markup
    numbers = itertools.count()
    text = TEMPLATE_FIELD.sub(lambda _: f"\0{next(numbers)}\0", clean(template))

    def tagged(match: re.Match[str]) -> str:
        found = (re.fullmatch(mark, match[0], re.DOTALL) for mark in LEGACY_MARKDOWN)
        return next(m.expand(tag) for m, tag in zip(found, LEGACY_MARKDOWN.values()) if m)

    text = re.sub("|".join(LEGACY_MARKDOWN), tagged, html.escape(text), flags=re.DOTALL)
    return re.sub("\0([0-9]+)\0", lambda match: f"{{{names[int(match[1])]}}}", text)


def fill_markdown_v2(template: str, values: Mapping[str, str]) -> str:
    """A MarkdownV2 template, filled. A backslash before any character from 1 to 126 takes its
    meaning away wherever it stands, in code and addresses too.

    Source: https://core.telegram.org/bots/api#markdownv2-style (read 2026-11).
    """

    def with_newline(block: re.Match[str]) -> str:  # else its first word would name a language
        has_value = block[2] and re.match(rf"[^\s`]*?{TEMPLATE_FIELD.pattern}", block[2])
        return f"```\n{block[2]}```" if has_value else block[0]

    def escaped(match: re.Match[str]) -> str:
        return re.sub(r"([\x01-\x7e])", r"\\\1", values.get(match[1], match[0]))

    return TEMPLATE_FIELD.sub(escaped, CODE_BLOCK.sub(with_newline, template))


def fill_html(template: str, values: Mapping[str, str]) -> str:
    """An HTML template with every value escaped."""
    return fill(template, {name: html.escape(value) for name, value in values.items()})


def unformatted(template: str, parse_mode: str, values: Mapping[str, str]) -> str:
    """The message as plain text, with as little of the markup left as can be taken off safely."""
    if parse_mode == "HTML":
        template = html.unescape(re.sub(r"</?[a-zA-Z][^>]*>", "", template))
    elif parse_mode == "MarkdownV2":
        template = re.sub(r"\\([_*\[\]()~`>#+\-=|{}.!])", r"\1", template)
    return fill(template, values)


FILLERS: Mapping[str, Callable[[str, Mapping[str, str]], str]] = MappingProxyType(
    {"HTML": fill_html, "MarkdownV2": fill_markdown_v2}
)


def telegram_bodies(
    section: TelegramSection, report: Report, hostname: str
) -> list[dict[str, Any]]:
    """What to send: the message, then simpler versions for where Telegram refuses the one before:
    without formatting, and short."""
    values, template = values_of(report, hostname), own_template(section, report)
    mode = section.parse_mode if template else "HTML"
    template = template or built_in_text(report)
    if mode == "Markdown":
        template, mode = html_from_markdown(template), "HTML"
    plain = functools.partial(unformatted, template, mode)
    texts = [text_within(limit, values, plain) for limit in (TELEGRAM_LIMIT, TELEGRAM_SHORT)]
    bodies: list[dict[str, Any]] = [{"text": text} for text in dict.fromkeys(texts)]
    that_fit = fitted(values, TELEGRAM_LIMIT, plain)
    if mode in FILLERS and plain(that_fit) == texts[0]:
        bodies.insert(0, {"text": FILLERS[mode](template, that_fit), "parse_mode": mode})
    place: dict[str, Any] = {"chat_id": section.chat_id}
    if section.message_thread_id > 1:  # 1 is General, which Telegram does not know by its number
        place["message_thread_id"] = section.message_thread_id
    return [{**place, **body} for body in bodies]


# --- webhook and e-mail ---

# The variables in the payload where none is set: each under its name, and the server's as `server`.
TURN_VARIABLES = (
    *("script", "provider", "server_name", "server_id", "status", "hostname", "timestamp"),
    *("snapshot_name", "total_snapshots", "snapshot_info"),
)
SUMMARY_VARIABLES = ("script", "status", "hostname", "timestamp", "summary")


def webhook_payloads(
    section: WebhookSection, report: Report, hostname: str
) -> list[dict[str, Any]]:
    """The JSON to post, and a much shorter version for where that is refused."""
    payload = webhook_payload(section, report, hostname, is_short=False)
    shorter = webhook_payload(section, report, hostname, is_short=True)
    return [payload] if payload == shorter else [payload, shorter]


def webhook_payload(
    section: WebhookSection, report: Report, hostname: str, is_short: bool
) -> dict[str, Any]:
    """The JSON to post. A template for failures that does not say why gets a key that does."""
    values = values_of(report, hostname)
    own = section.payload_success if report.success else section.payload_failure
    names = SUMMARY_VARIABLES if isinstance(report, Summary) else TURN_VARIABLES
    built_in = {name.replace("server_name", "server"): f"{{{name}}}" for name in names}
    template = dict(own or built_in)
    without_why = change_texts(template, lambda text, _: SAYS_WHY.sub("", text))
    if not report.success and without_why == template:
        template.setdefault("error", "{error}")

    def filled(text: str, key: str) -> str:
        usual = TEXT_LIMITS.get(key, TEXT_LIMIT)
        if not TEMPLATE_FIELD.search(text):  # an address, say: not to be touched without need
            is_too_long = is_short and utf16_length(text) > usual
            return utf16_cut(text, TEXT_SHORT) if is_too_long else text
        limit = TEXT_SHORT if is_short else usual
        return text_within(limit, values, functools.partial(fill, text))

    payload: dict[str, Any] = change_texts(template, filled)
    if own:
        return payload
    if isinstance(report, Summary):
        return {**payload, **summary_numbers(report, hostname, is_short)}
    if report.total_snapshots is not None:
        payload["total_snapshots"] = report.total_snapshots
    if report.warnings:
        limit = TEXT_SHORT if is_short else TEXT_LIMIT
        payload["warnings"] = Items(report.warnings, "; ").first(limit)
    return payload


def summary_numbers(summary: Summary, hostname: str, is_short: bool) -> dict[str, Any]:
    """What the built-in payload of a summary holds beside its texts."""
    reports = summary.reports[:SUMMARY_SHORT] if is_short else summary.reports
    succeeded = sum(report.success for report in summary.reports)
    return {
        "succeeded": succeeded,
        "failed": len(summary.reports) - succeeded,
        "not_due": summary.not_due,
        "freed_gb": total_or_none(snapshot.size_gb for snapshot in summary.deleted),
        "stored_gb": total_or_none(snapshot.size_gb for snapshot, _ in summary.kept),
        "next_run": summary.next_run or None,
        "servers": [webhook_payload(WebhookSection(), r, hostname, is_short) for r in reports],
        "servers_left_out": len(summary.reports) - len(reports),
    }


def mail_of(
    section: SmtpSection, report: Report, hostname: str, now: datetime
) -> email.message.EmailMessage:
    """The mail: plain text and the same as HTML."""
    values, template = values_of(report, hostname), own_template(section, report)
    subject = section.subject_success if report.success else section.subject_failure
    built_in = unformatted(built_in_text(report), "HTML", values)
    text = clean(fill(template, values)) if template else built_in
    # nothing but ASCII travels, whatever the server can take
    message = email.message.EmailMessage(policy=email.policy.SMTP.clone(cte_type="7bit"))
    message["Subject"] = one_line(fill(subject or "Snapshot {status}: {server_name}", values), 200)
    message["From"] = section.from_email
    message["To"] = ", ".join(section.to_emails)
    message["Date"] = email.utils.format_datetime(local_time(now))
    address = email.utils.parseaddr(section.from_email)[1]
    message["Message-ID"] = email.utils.make_msgid(domain=address.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text + "\n")
    paragraphs = html.escape(text).replace("\n", "<br>\n")
    page = f"<!DOCTYPE html>\n<html><body><p>{paragraphs}</p></body></html>\n"
    message.add_alternative(page, subtype="html")
    return message


# --- what receivers answer ---


class DeliveryError(SnapshotsError):
    """One try to deliver a notification has failed.

    again: another one may succeed. simpler: a shorter or plainer version of the message may.
    answer: what the receiver said, if it did.
    """

    def __init__(
        self,
        reason: str,
        again: bool = False,
        *,
        simpler: bool = False,
        answer: Optional[Response] = None,
    ) -> None:
        super().__init__(reason)
        self.again, self.simpler, self.answer = again, simpler, answer


# Where receivers put the reason of a refusal; the keys of Discord, n8n, ntfy, Telegram, Slack,
# Gotify, DingTalk, Feishu, problem+json and many others.
REASON_KEYS = (
    *("message", "error", "errors", "error_description", "errorDescription", "description"),
    *("errmsg", "msg", "detail", "title", "reason"),
)


def words_of(answer: Response) -> str:
    """What a receiver says about a refusal, unmasked: from JSON of any shape, else the first line
    of its text or the title of its page."""

    def texts_in(value: Any, depth: int) -> list[str]:
        if isinstance(value, str):
            return [value[:20_000].strip()]
        if isinstance(value, dict):
            reasons = [value[key] for key in REASON_KEYS if value.get(key)]
            value = reasons or list(value.values())
        if not isinstance(value, list) or depth == 0:
            return []
        return [text for item in value[:5] for text in texts_in(item, depth - 1)]

    with contextlib.suppress(GarbledError):
        content = answer.json()
        if isinstance(content, (str, list, dict)):
            return "; ".join(dict.fromkeys(filter(None, texts_in(content, 6))))
    text = answer.body[:20_000].decode("utf-8-sig", "replace")
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    text = title[1] if title else re.sub(r"<[^>]*>", " ", text)
    return next((line.strip() for line in html.unescape(text).splitlines() if line.strip()), "")


# Texts of 200 that are known to be refusals: how they begin, and the status that they stand for,
# where they do not name it. Sources (read 2026-11): https://github.com/bdd/runitor/issues/66,
# https://github.com/MicrosoftDocs/msteams-docs/issues/1810
REFUSALS_IN_200: Mapping[str, int] = MappingProxyType(
    {
        r"OK \(not found\)\s*$": 404,  # hc-ping.com, to a check that it does not know
        r"OK \(rate limited\)\s*$": 429,  # to more than five calls a minute
        r'"?Webhook message delivery failed with error(.*?HTTP error (?P<status>[45]\d\d))?': 400,
    }
)


def real_status(answer: Response) -> int:
    """The status of an answer; of a 2xx that is known to hide a refusal, what it stands for.

    DingTalk and WeCom say so with an `errcode` other than 0, Feishu and Lark with a `code` such as
    19024 and `msg`, Slack's Web API with `ok`:
    https://open.dingtalk.com/document/robots/custom-robot-access,
    https://developer.work.weixin.qq.com/document/path/91770,
    https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot,
    https://docs.slack.dev/apis/web-api/#responses (all read 2026-11).
    """
    if not 200 <= answer.status < 300:
        return answer.status
    text = answer.body[:2000].decode("utf-8-sig", "replace").lstrip()
    for begin, status in REFUSALS_IN_200.items():
        found = re.match(begin, text, re.DOTALL | re.ASCII)
        if found:
            return int(found.groupdict().get("status") or status)
    content = None
    with contextlib.suppress(GarbledError):
        content = answer.json()
    is_feishu = (count_at(content, "code") or 0) >= 9000 and value_at(content, "msg") is not None
    is_refused = value_at(content, "ok") is False or count_at(content, "errcode") or is_feishu
    return 403 if is_refused else answer.status


def where_to(answer: Response, url: str) -> str:
    """Where a redirect leads, without the path and the query, which may hold secrets."""
    try:
        target = urljoin(url, answer.headers["location"])
        host = host_of(target)
    except (KeyError, ValueError):
        host = ""
    if not host:
        return "an address that is not valid"
    if urljoin(target, "/") == urljoin(url, "/"):
        return "another path of the same host"
    return f"{urlsplit(target).scheme}://{host}"


def migrated_to(error: DeliveryError) -> str:
    """The new number of a Telegram group that became a supergroup; '' if it did not.

    Source: https://core.telegram.org/bots/api#responseparameters (read 2026-11).
    """
    with contextlib.suppress(GarbledError):
        content = error.answer.json() if error.answer else None
        return str(take(content, "parameters", "migrate_to_chat_id", kind=int))
    return ""


# What to do about a refusal, by channel and a pattern of its status and words.
REFUSAL_HINTS: Mapping[str, Mapping[str, str]] = {
    "Telegram": {
        "^40[14] ": "check bot_token",
        "upgraded to a supergroup": "set chat_id to the group's new number",
        "chat not found|can't initiate": "check chat_id; somebody must write to the bot first",
        "bot was blocked": "unblock the bot in Telegram, or set another chat_id",
        "user is deactivated|chat was deleted": "set another chat_id",
        "can't send messages to": "chat_id is that of a bot: set that of a person or a group",
        "bot was kicked|bot is not a member": "add the bot to the chat",
        "(not enough|have no|need administrator) rights|chat_write_forbidden": (
            "let the bot write in this chat: make it an administrator"
        ),
        "topic_closed": "open the topic again, or set message_thread_id to another one",
        "topic_deleted|message thread not found": (
            "set message_thread_id to a topic of this chat, or to nothing"
        ),
    },
    "webhook": {
        "webhook.* is not registered": "n8n: is the workflow active, and not its test URL used?",
        "no_text|empty message|no text spec|'message' is required|unknown name|topic invalid": (
            "set payload_success and payload_failure as this receiver wants them"
        ),
    },
    "ping": {"^404 ": "there is no such check: copy its ping URL once more"},
}


# --- mail servers ---


def smtp_reason(code: int, text: Union[bytes, str]) -> str:
    """An SMTP server's refusal, as it came."""
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return f"{code} {words}"


SILENT_SECONDS = 3.0  # who greets later than that may be waiting for our TLS
WRONG_PORT = "(does [SMTP] security fit the port?)"


class MailClient(smtplib.SMTP):
    """A connection to a mail server, on which each reply is complete in time: a trickle must not
    last for ever."""

    sock: Any

    def getreply(self) -> tuple[int, bytes]:
        timeout = self.sock.gettimeout()
        self.file = TimedReader(self.sock.makefile("rb", buffering=0), self.sock)
        reply = super().getreply()
        self.sock.settimeout(timeout)
        return reply


def greet(client: MailClient, section: SmtpSection, timeout: float) -> None:
    """Connect, with TLS as configured, up to the server's last EHLO answer.

    Of several addresses one that takes the connection and then says nothing gets half the time.
    """
    context, until = ssl.create_default_context(), time.monotonic() + timeout
    known = addresses_of(section.server, section.port)
    trouble: Optional[Exception] = None  # with the first address that took the connection, or all
    while trouble is None or (known and time.monotonic() <= until):
        try:
            others, known = known, []  # where none of them takes it
            sock = client.sock = connect_first(others, timeout)
            known = [item for item in others if item[4] != sock.getpeername()]
            share = timeout / 2 if known else timeout
            sock.settimeout(share)
            patience = min(SILENT_SECONDS, share / 3)
            if section.security == "tls":
                client.sock = context.wrap_socket(sock, server_hostname=section.server)
            elif is_silent(sock, patience) and begins_with_tls(section, context, patience):
                client.close()
                raise DeliveryError(f"the port begins with TLS {WRONG_PORT}")
            code, words = client.getreply()
            break
        except (OSError, smtplib.SMTPServerDisconnected) as error:
            client.close()
            trouble = trouble or error
    else:
        raise trouble
    client.sock.settimeout(timeout)
    if code != 220:
        raise DeliveryError(f"the server greets with {smtp_reason(code, words)}", again=True)
    client.ehlo_or_helo_if_needed()
    if section.security == "starttls":
        client._host = section.server  # type: ignore[attr-defined]  # starttls checks this name
        client.starttls(context=context)
        client.ehlo_or_helo_if_needed()


def is_silent(sock: socket.socket, patience: float) -> bool:
    """Does the other side say nothing for so many seconds, as one does that waits for our TLS?"""
    timeout = sock.gettimeout()
    sock.settimeout(patience)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except socket.timeout:
        return True
    finally:
        sock.settimeout(timeout)
    return False


def begins_with_tls(section: SmtpSection, context: ssl.SSLContext, timeout: float) -> bool:
    """Does a new connection to that port get an answer to TLS, be it a bad certificate?"""
    try:
        with connect_first(addresses_of(section.server, section.port), timeout) as sock:
            context.wrap_socket(sock, server_hostname=section.server).close()
    except OSError as error:
        return isinstance(error, ssl.SSLCertVerificationError)
    return True


def log_in(client: smtplib.SMTP, user: str, password: str) -> None:
    """Log in by the first mechanism that works; smtplib's own knows ASCII only, and ends where
    the machine forbids MD5. Sources: RFC 4954, RFC 4616 (PLAIN is UTF-8), RFC 2195 (CRAM-MD5)."""

    def cram_md5(challenge: bytes) -> str:  # ValueError where MD5 is forbidden
        digest = hmac.new(password.encode(), base64.b64decode(challenge), "md5")
        return f"{user} {digest.hexdigest()}"

    answers: dict[str, list[Callable[[bytes], str]]] = {
        "PLAIN": [lambda _: f"\0{user}\0{password}"],
        "LOGIN": [lambda _: user, lambda _: password],
        "CRAM-MD5": [cram_md5],
    }
    offered = client.esmtp_features.get("auth", "").upper().split()
    if not offered:
        raise DeliveryError("the server does not offer a way to log in")
    refusal, again = "", False
    for mechanism in [name for name in answers if name in offered]:
        try:
            code, words = client.docmd("AUTH", mechanism)
            for answer in answers[mechanism]:
                if code == 334:
                    code, words = client.docmd(base64.b64encode(answer(words).encode()).decode())
        except smtplib.SMTPServerDisconnected:  # as some do after a refusal, which is the reason
            if not refusal:
                raise
            break
        except binascii.Error:  # what came is no challenge, and the reason
            pass
        except ValueError:
            refusal = refusal or f"this machine forbids the MD5 that {mechanism} needs"
            break
        if code in (235, 503):
            return
        refusal, again = smtp_reason(code, words), 400 <= code < 500
        if code == 535:  # Gmail and others say it to the right password, too
            refusal += " (many providers want a password made for apps)"
        if code == 334:
            client.docmd("*")  # ends the exchange: RFC 4954, section 4
    by_others = (
        f"the server does not log in by a password, but by {', '.join(offered)} (make a password"
        " for apps, or use a relay)"
    )
    raise DeliveryError(refusal or by_others, again)


def send_mail(section: SmtpSection, message: email.message.EmailMessage, timeout: float) -> None:
    """One try to hand a mail over. Raises DeliveryError.

    Certificates are verified for STARTTLS too, which smtplib by itself does not do. Never sent
    again once the text may have arrived.
    """
    domain = email.utils.parseaddr(section.from_email)[1].rpartition("@")[2]
    client = MailClient(timeout=timeout, local_hostname=section.helo_name or domain)
    missing, begun = "STARTTLS", False
    try:
        greet(client, section, timeout)
        if section.user:
            log_in(client, section.user, section.password)
        missing, begun = "SMTPUTF8, which letters like these before an @ need", True
        refused = client.send_message(message)
        begun = False  # accepted
        if refused:
            names = ", ".join(sorted(refused))
            raise DeliveryError(f"refused for {names}; the others have it")
    except smtplib.SMTPNotSupportedError:
        raise DeliveryError(f"the server does not offer {missing}") from None
    except smtplib.SMTPRecipientsRefused as error:
        again = all(400 <= code < 500 for code, _ in error.recipients.values())
        reasons = sorted({smtp_reason(*refusal) for refusal in error.recipients.values()})
        raise DeliveryError(f"all recipients refused ({'; '.join(reasons)})", again) from None
    except smtplib.SMTPResponseException as error:
        again = 400 <= error.smtp_code < 500
        raise DeliveryError(smtp_reason(error.smtp_code, error.smtp_error), again) from None
    except ssl.SSLCertVerificationError as error:
        problem = certificates_problem("SSL_CERT_FILE")
        text = problem or f"its certificate is not valid: {error.verify_message}"
        raise DeliveryError(text) from None
    except (smtplib.SMTPException, OSError, ValueError) as error:
        # all of smtplib's own are of a talk
        reason = network_reason(error, has_begun=isinstance(error, smtplib.SMTPException))
        if isinstance(error, ssl.SSLError):
            reason += f" {WRONG_PORT}"
        raise DeliveryError(reason, again=not begun) from None
    finally:
        if client.sock is not None:
            with contextlib.suppress(smtplib.SMTPException, OSError):
                client.quit()
            with contextlib.suppress(OSError):
                client.close()


# --- sending ---


class Version(NamedTuple):
    """A message, or a simpler version of it."""

    text: str  # as people see it
    send: Callable[[float], object]  # tries it once, within so many seconds


class Sender:
    """Sends one report to one destination, with its retries. Knows the three channels."""

    def __init__(self, world: Runtime, settings: Settings) -> None:
        self.world, self.settings = world, settings
        self._session = new_session(2)
        self._held_until: dict[tuple[str, ...], float] = {}  # monotonic, as receivers asked
        self._moved_chats: dict[str, str] = {}  # groups that became supergroups: old id, new id
        self._next_at: dict[str, float] = {}  # monotonic, by Telegram chat
        self._lost_in_a_row = collections.Counter[tuple[str, ...]]()  # messages, by address

    def deliver(self, destination: Destination, report: Report, within: float) -> None:
        """Try as often as configured, for at most so many seconds. Raises DeliveryError.

        A stop signal ends every pause; what has not been delivered then gets one short try.
        """
        clock, address = self.world.clock, destination.address
        receiver = address[:2]  # a pause that Telegram asks for may be one of the whole bot
        doing, versions = self._versions(destination, report)
        gives_up = self._lost_in_a_row[address] >= GIVE_UP_AFTER
        tries = 1 if gives_up else max(1, destination.retries)
        began = clock.monotonic()
        deadline = began + within
        held_until = self._held_until.get(receiver, began)
        if held_until > deadline and not self.world.stopping:
            raise DeliveryError(f"cannot {doing}: the receiver has asked for a longer pause")
        self._pause(held_until - began)
        for attempt in itertools.count(1):
            if self.world.stopping:
                deadline = min(deadline, clock.monotonic() + DRAIN_STOPPED_SECONDS)
                tries = attempt
            try:
                left = max(0.5, deadline - clock.monotonic())
                versions[0].send(min(destination.timeout, left))
                self._lost_in_a_row[address] = 0
                return
            except DeliveryError as error:
                if error.simpler and len(versions) > 1:
                    name = report.server.name
                    log.warning("%s: cannot %s: %s; sending a simpler version", name, doing, error)
                    versions, tries = versions[1:], max(tries, attempt + 1)
                    continue
                now = clock.monotonic()
                pause = pause_before(attempt, destination.base_delay_between_retries)
                asked: Optional[float] = None  # by a receiver that another try may reach
                if error.again and error.answer:
                    asked = retry_after_seconds(error.answer, clock.now())
                if asked is not None:  # which may be 0, time after time
                    pause = max(asked, pause)
                    if pause <= MAX_RETRY_AFTER_SECONDS:
                        self._held_until[receiver] = now + pause
                is_late = now + pause > deadline or pause > MAX_RETRY_AFTER_SECONDS
                if not error.again or attempt >= tries or is_late:
                    self._lost_in_a_row[address] += 1
                    cost = effort(attempt, now - began, asked)
                    raise DeliveryError(f"cannot {doing}: {error}{cost}") from None
                log.debug("%s: %s; again in %s", doing, error, span(pause))
            self._pause(pause)

    def _pause(self, seconds: float) -> None:
        with contextlib.suppress(InterruptedRunError):
            self.world.pause(seconds)

    def shown(self, destination: Destination, report: Report) -> str:
        """The message as it would be sent, for people."""
        return self._versions(destination, report)[1][0].text

    def _versions(self, destination: Destination, report: Report) -> tuple[str, Sequence[Version]]:
        """What is done, in words; and the message: the best version of it first, then simpler
        ones for where that is refused."""
        partial = functools.partial
        send: Callable[[float], object]
        if isinstance(destination, TelegramSection):
            return "send a Telegram message", [
                Version(body["text"], partial(self._telegram, destination, report, body))
                for body in telegram_bodies(destination, report, self.world.hostname)
            ]
        if isinstance(destination, SmtpSection):
            mail = mail_of(destination, report, self.world.hostname, self.world.clock.now())
            body = mail.get_body(("plain",))
            text = f"Subject: {mail['Subject']}\n{body.get_content() if body else ''}"
            send = partial(self._mail, destination, mail)
            return f"send mail through {destination.server}", [Version(text, send)]
        post = partial(self._post, destination, destination.url)
        if isinstance(destination, Ping):
            return "ping", [Version(destination.body, partial(post, destination.body))]
        versions = []
        for payload in webhook_payloads(destination, report, self.world.hostname):
            # an id for each version: a receiver can know a second try from a second message
            send = partial(post, payload, message_id=str(uuid.uuid4()))
            text = json.dumps(payload, ensure_ascii=False, indent=2)
            versions.append(Version(text, send))
        return "post to the webhook", versions

    def _shown(self, text: str, *own: str) -> str:
        """One line of what a receiver says, without credentials."""
        return self.world.redact.line(text, 300, own)

    def _post(
        self, destination: Destination, url: str, body: Any, timeout: float, message_id: str = ""
    ) -> Response:
        """The answer to one POST (or GET), if it is good. Raises DeliveryError. body: JSON; or the
        text of a ping, which may arrive twice."""
        bare_url, user, password = split_login(url)
        login = requests.auth.HTTPBasicAuth(user.encode(), password.encode())
        method, kind, may_repeat = "POST", "application/json", [Outcome.NOT_SENT]
        if isinstance(destination, Ping):
            method, kind = destination.method, "text/plain; charset=utf-8"
            may_repeat.append(Outcome.LOST)
        text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
        headers = {"Content-Type": kind} if text else {}
        answer = send(
            self._session,
            method,
            bare_url,
            timeout,
            data=text.encode("utf-8", "replace"),
            headers={**headers, "Idempotency-Key": message_id} if message_id else headers,
            auth=login if user or password else NoAuth(),
        )
        if isinstance(answer, NoResponse):  # not repeated where nobody knows whether it arrived
            raise DeliveryError(answer.reason, answer.outcome in may_repeat)
        status = real_status(answer)
        if 200 <= status < 300:
            return answer
        in_url = urlsplit(url).netloc.rpartition("@")[0].rpartition(":")[2]
        words = self._shown(words_of(answer), password or user, in_url)
        hints = [
            hint
            for pattern, hint in REFUSAL_HINTS[destination.channel].items()
            if re.search(pattern, f"{status} {words}", re.IGNORECASE)
        ]
        if 300 <= status < 400:
            place = self._shown(where_to(answer, bare_url))
            hints.append(f"redirects are not followed; it points to {place}")
        reason = f"HTTP {answer.status}" + (f": {words}" if words else "")
        raise DeliveryError(
            reason + "".join(f" ({hint})" for hint in hints),
            again=status in (408, 425, 429) or 500 <= status < 600,
            simpler=status in (400, 413, 422) and not hints,  # where no other version can help
            answer=answer,
        )

    def _ask_bot(
        self, section: TelegramSection, method: str, body: dict[str, Any], timeout: float
    ) -> Response:
        token = quote(section.bot_token, safe=":")
        url = f"{self.settings.api.telegram_url}/bot{token}/{method}"
        return self._post(section, url, body, timeout)

    def updates(self, section: TelegramSection) -> Sequence[Any]:
        """What people have written to a bot of late. Raises DeliveryError.

        Source: https://core.telegram.org/bots/api#getupdates (Bot API 10.1, read 2026-11). Without
        `offset`, which would take it from other readers, and without `allowed_updates`, which the
        bot would keep.
        """
        answer = self._ask_bot(section, "getUpdates", {}, section.timeout)
        try:
            return take(answer.json(), "result", kind=list)  # type: ignore[no-any-return]
        except GarbledError as error:
            raise DeliveryError(f"Telegram's answer cannot be read: {error}") from None

    def _telegram(
        self, section: TelegramSection, report: Report, body: dict[str, Any], timeout: float
    ) -> None:
        """Source: https://core.telegram.org/bots/api#sendmessage (Bot API 10.1, read 2026-11)."""
        chat_id = self._moved_chats.get(section.chat_id, section.chat_id)
        clock = self.world.clock
        self._pause(self._next_at.get(chat_id, -math.inf) - clock.monotonic())
        try:
            to_chat = {**body, "chat_id": chat_id}
            answer = self._ask_bot(section, "sendMessage", to_chat, timeout)
        except DeliveryError as error:
            moved_to = migrated_to(error)
            if not moved_to or section.chat_id in self._moved_chats:
                raise
            self._moved_chats[section.chat_id] = moved_to
            is_global = section.chat_id == self.settings.telegram.chat_id
            where = "[TELEGRAM] of snapshots.config" if is_global else report.server.source
            self.world.warn(
                f"{report.server.name}: the Telegram group {chat_id} is a supergroup now, with"
                f" another number: set chat_id to {moved_to} in {where}"
            )
            self._telegram(section, report, body, timeout)
            return
        finally:
            # one message a second for each chat, and 20 a minute for a group, as they arrive there
            pace = 3.0 if chat_id.startswith(("-", "@")) else 1.0
            self._next_at[chat_id] = clock.monotonic() + pace
        with contextlib.suppress(GarbledError):
            if take(answer.json(), "ok", kind=bool):
                return
        words = self._shown(words_of(answer))
        raise DeliveryError(f"Telegram answers {answer.status}, but not ok: {words}")

    def _mail(
        self, section: SmtpSection, message: email.message.EmailMessage, timeout: float
    ) -> None:
        try:
            send_mail(section, message, timeout)
        except DeliveryError as error:
            raise DeliveryError(self._shown(str(error), section.password), error.again) from None


def wants(destination: Destination, report: Report, mode: str) -> bool:
    """Is this destination to be notified of this outcome?"""
    if report.success:
        return destination.notify_on_success and mode != "failures"
    return destination.notify_on_failure


class Queue:
    """The queue of one channel and the thread that empties it."""

    def __init__(self, name: str, world: Runtime, sender: Sender) -> None:
        self.name, self.world, self.sender = name, world, sender
        self.what = "ping" if name == "ping" else f"{name} notification"
        self.lost = 0  # messages not delivered
        self._changed = world.condition()
        self._queue: list[tuple[Destination, Report]] = []  # what is being sent just now, too
        self._closing_at: Optional[float] = None  # monotonic: what is left then is lost
        self._running = False

    def put(self, destination: Destination, report: Report) -> None:
        """Queue a message; returns at once."""
        with self._changed:
            if not self._running:
                try:
                    self.world.clock.start(self._run, f"notify-{self.name}")
                except RuntimeError as error:  # the machine allows no more threads
                    self.lost += 1
                    self._note_result(report, str(error))
                    return
                self._running = True
            self._queue.append((destination, report))
            self._changed.notify_all()

    def close(self, deadline: float) -> float:
        """No more messages come; wait until all are sent, at most until the deadline (monotonic).
        Returns the deadline, which a stop signal brings nearer."""
        clock = self.world.clock
        with self._changed:
            self._closing_at = deadline
            self._changed.notify_all()
            while self._running and clock.monotonic() < self._closing_at:
                if self.world.stopping:
                    soon = clock.monotonic() + DRAIN_STOPPED_SECONDS
                    self._closing_at = min(self._closing_at, soon)
                self._changed.wait(self._closing_at - clock.monotonic())
            if self._queue:
                self.lost += len(self._queue)
                left = counted(len(self._queue), "message")
                self.world.warn(f"{self.name}: {left} not sent in time")
                self._queue.clear()
            return self._closing_at

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and self._closing_at is None:
                    self._changed.wait()
                if not self._queue:
                    self._running = False
                    self._changed.notify_all()
                    return
                address = self._queue[0][0].address
                waiting = [item for item in self._queue if item[0].address == address]
            self._send(waiting if len(waiting) > JOIN_OVER else waiting[:1])

    def _send(self, items: Sequence[tuple[Destination, Report]]) -> None:
        """Send what waits for one destination, as one message."""
        destination, report = items[0]
        within = 10 * destination.timeout + MAX_RETRY_AFTER_SECONDS
        if self._closing_at is not None:
            within = min(within, self._closing_at - self.world.clock.monotonic())
        problem = ""
        try:
            if len(items) > 1:
                report = summary_of([report for _, report in items])
            self.sender.deliver(destination, report, within)
        except Exception as error:  # noqa: BLE001  (a bug here must not stop the channel)
            problem = message_of(error, self.world.redact)
        with self._changed:
            if not self._queue:
                return  # given up meanwhile, and counted
            for item in items:
                self._queue.remove(item)
            self.lost += len(items) if problem else 0
        self._note_result(report, problem)

    def _note_result(self, report: Report, problem: str) -> None:
        """How it went with a message; `problem` is why it was not delivered."""
        if problem:
            self.world.warn(f"{report.server.name}: {self.what} not delivered: {problem}")
        else:
            log.info("%s: %s sent", report.server.name, self.what)


class Notifier:
    """Takes reports as turns end and gets them to their destinations, as [NOTIFICATIONS] mode has
    it."""

    def __init__(self, world: Runtime, settings: Settings) -> None:
        self.world, self.mode = world, settings.notifications.mode
        sender = Sender(world, settings)
        self.channels = {
            name: Queue(name.split()[-1], world, sender)
            for name in ("Telegram", "webhook", "e-mail", "ping", "server's ping")
        }
        self._globals = {channel.address: channel for channel in default_channels(settings)}
        self._to_sum_up: dict[tuple[str, ...], list[tuple[Destination, Report]]] = {}

    def put(self, report: Report) -> None:
        """Queue a report on all its channels, or keep it for the summary; returns at once."""
        for destination in report.server.destinations:
            if self.mode == "summary":
                kept = self._to_sum_up.setdefault(destination.address, [])
                kept.append((destination, report))
            elif wants(destination, report, self.mode):
                self.channels[destination.channel].put(destination, report)

    def ping(self, section: PingSection, event: str, name: str, lines: Sequence[str] = ()) -> None:
        """Queue a ping, if there is one for this event (see `ping_of`), with as many of the lines
        as a monitor takes; returns at once. name: of a server, or RUN."""
        text = Items(lines, "\n")
        body, limit = str(text), PING_BODY_BYTES
        while len(body.encode()) > PING_BODY_BYTES:
            limit = limit * 7 // 8
            body = text.cut(limit)
        ping = ping_of(section, event, self.world.redact(body))
        if ping is not None:
            report = Report(BadServer(name, "", ""), success=event != "failure")
            self.channels["ping" if name == RUN else "server's ping"].put(ping, report)

    def finish(self, not_due: Iterable[Entry] = (), next_run: Callable[[], str] = str) -> int:
        """Send the summaries, if there are any, and wait for the queues, within limits; returns
        how many messages were not delivered. Who is to be notified of any of it gets a summary."""
        waiting = [d.address for server in not_due for d in server.destinations]
        coming = next_run() if self._to_sum_up and not self.world.stopping else ""
        for address, items in list(self._to_sum_up.items()):
            if any(wants(destination, report, self.mode) for destination, report in items):
                destination = self._globals.get(address, items[0][0])
                summary = summary_of([r for _, r in items], waiting.count(address), coming)
                self.channels[destination.channel].put(destination, summary)
        deadline = self.world.clock.monotonic() + DRAIN_SECONDS
        for channel in self.channels.values():
            deadline = channel.close(deadline)
        return sum(channel.lost for channel in self.channels.values())


# --- test messages ---

NO_CHANNEL = "no channel is set up: nobody is notified of anything"


def send_test_messages(
    settings: Settings, entries: Sequence[Entry], world: Runtime, dry_run: bool
) -> bool:
    """Send what a run would send, marked TEST, once to each destination of snapshots.config and of
    the server files; a line for each tells what came of it. dry_run: show the messages instead.
    Returns whether there is a destination, and all went well."""
    out, mode, clock = world.screen.out, settings.notifications.mode, world.clock
    sender = Sender(world, settings)
    messages: dict[tuple[str, ...], tuple[str, Destination, Report]] = {}

    first = entries[0] if entries else None
    places = [("snapshots.config", first, default_channels(settings), settings.ping)]
    places += [(e.source, e, e.destinations, monitor_of(e)) for e in entries]
    for source, entry, channels, monitor in places:
        good, bad = reports_for_test(entry, clock.now(), mode)
        tests: list[tuple[str, Destination, Report]] = []
        for channel in channels:
            tests.append(("failure message", channel, bad))
            if wants(channel, good, mode):
                tests.append(("success message", channel, good))
        ping = ping_of(monitor, "log", "TEST: this is a test")
        tests += [("log event", ping, good)] if ping else []
        for what, channel, report in tests:
            line = f"{place_of(channel)} ({source}): {what}"
            messages.setdefault((*channel.address, what), (line, channel, report))
    _, remarks = channels_of([settings.telegram, settings.webhook, settings.smtp])
    problems = remark_lines(remarks, Level.WARNING)  # and files whose own channels nobody knows:
    problems += [entry.error for entry in entries if isinstance(entry, BadServer)]
    deadline = clock.monotonic() + DRAIN_SECONDS
    for line, channel, report in messages.values():
        marked = marked_as_test(channel, report, sender)
        text = sender.shown(marked, report)
        for name in TEMPLATE_FIELD.findall(text):
            meant = did_you_mean(name, values_of(report, ""))
            problems += [f"{line}: {{{name}}} is no variable{meant}"] if meant else []
        if dry_run:
            out(f"{line} would be:", *text.splitlines())
            continue
        try:
            world.check()
            sender.deliver(marked, report, deadline - clock.monotonic())
            out(f"{line} delivered")
        except SnapshotsError as error:
            problems.append(f"{line} not delivered: {error}")
    literal = [k for k in readers_of(PingSection) if k != "url" and getattr(settings.ping, k)]
    for key in literal:
        out(f"[PING] {key}: not tested: a call would count")
    if not (messages or literal):
        problems.append(f"{NO_CHANNEL} (write --setup)")
    elif messages and not dry_run:
        out("sent with the environment of this shell; cron's may differ (see --check)")
    world.screen.problem(*problems)
    return not problems


TEXT_KEYS = ("text", "content", "message", "body")  # of payloads: what people read


def marked_as_test(channel: Destination, report: Report, sender: Sender) -> Destination:
    """The channel as it is; where its template shows nothing of the report, with TEST before it."""
    if "TEST" in sender.shown(channel, report):
        return channel

    def mark(text: str, key: str) -> str:
        return f"TEST: {text}" if key in TEXT_KEYS else text

    word = "success" if report.success else "failure"
    keys = [key for key in (f"message_{word}", f"payload_{word}") if getattr(channel, key, None)]
    changed = {key: change_texts(getattr(channel, key), mark, "text") for key in keys}
    return dataclasses.replace(channel, **changed)


def reports_for_test(entry: Optional[Entry], now: datetime, mode: str) -> tuple[Report, Report]:
    """A success and a failure that nobody can take for real ones, as the mode has them."""

    def marked(report: Report) -> Report:
        server = dataclasses.replace(report.server, name=f"TEST {report.server.name}")
        return dataclasses.replace(report, server=server)

    server = entry or BadServer("server", "", "", provider="none", id="none")
    name = snapshot_name("TEST", now)
    good = marked(Report(server, True, name, "TEST", total_snapshots=1, ended=now))
    error = "TEST: this is a test, nothing has failed"
    bad = marked(Report(server, False, error=error, ended=now))
    if mode == "summary":
        return marked(summary_of([good])), marked(summary_of([good, bad]))
    return good, bad


# === History ==================================================================================
# What runs did, in an SQLite file. It is advice for those who look, never a condition for a run.

HISTORY_VERSION = 1
HISTORY_SCHEMA = """
CREATE TABLE run (id TEXT PRIMARY KEY, pid INTEGER, version TEXT, started_at TEXT, ended_at TEXT,
    exit_status INTEGER, total INTEGER, progress TEXT);
CREATE TABLE turn (run TEXT, provider TEXT, server_id TEXT, name TEXT, ended_at TEXT, seconds REAL,
    success INTEGER, snapshot TEXT, size_gb REAL, kept TEXT, stored_gb REAL, deleted TEXT,
    error TEXT, warnings TEXT);
CREATE INDEX turn_ended ON turn (ended_at);
CREATE TABLE server (provider TEXT, server_id TEXT, name TEXT, looked_at TEXT, newest_at TEXT,
    success_at TEXT, failure_at TEXT, failed INTEGER, error TEXT, unpruned INTEGER,
    PRIMARY KEY (provider, server_id));
CREATE TABLE entry (installed_at TEXT)
"""  # times as in utc_text; lists as JSON; progress: see `progress_of`, null once a run has ended;
# unpruned: may a turn since the last success have left something that retention drops?
LAST_RUNS = """
SELECT *, max(0, strftime('%s', ended_at) - strftime('%s', started_at)) AS seconds FROM run
WHERE ended_at IS NULL OR rowid > (SELECT max(rowid) FROM run) - ?
ORDER BY rowid DESC"""  # by when they were written down, whatever the clock said then
PAGE_RUNS = 30  # of so many runs a report shows what they did
BUSY_SECONDS = 0.4  # how long one write waits for others that hold the file
HISTORY_WAIT_SECONDS = 0.5  # how long a run waits for it: in all before its end, and then again
HISTORY_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError)
if sqlite3 is not None:
    HISTORY_ERRORS += (sqlite3.Error,)
Statement = tuple[str, Sequence[Any]]
Rows = Sequence[Mapping[str, Any]]  # by the names of the columns


def utc_text(moment: Optional[datetime]) -> Optional[str]:
    """2026-11-25T12:27:03Z."""
    if moment is None:
        return None
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def newest_of(ours: Iterable[Snapshot], now: datetime) -> Optional[datetime]:
    """When the newest of them was made; one dated in the future only if there is no other."""
    moments = [s.created for s in ours if s.created is not None]
    past = [moment for moment in moments if moment <= now + CLOCK_MAY_DIFFER]
    return max(past or moments, default=None)


class History:
    """The file as a run writes to it. Neither a slow disk nor another program that holds the file
    keeps a turn waiting."""

    def __init__(self, path: Path, keep_days: int, world: Runtime) -> None:
        self.path, self.keep_days, self.world = path, keep_days, world
        self.id = uuid.uuid4().hex
        self.past = Past()  # what it holds of earlier runs
        self._sink = Sink()
        self._patience_seconds = HISTORY_WAIT_SECONDS
        self._statements: list[Statement] = []  # all, in case the file has to be begun anew
        self._saved = 0  # how many of them are in the file
        self._progress: Optional[str] = None  # None: the run has ended, or not begun
        self._tried: Optional[tuple[int, Optional[str]]] = None  # how much the last write was about
        self._problem = ""  # why the last one failed

    def begin(self, total: int) -> None:
        """A run begins, of so many servers."""
        now = utc_text(self.world.clock.now())
        run = {"id": self.id, "pid": os.getpid(), "version": __version__, "started_at": now}
        self._insert("run", {**run, "total": total})
        self._do(self._write)
        self._do(self._look_back)

    def saw(self, server: Server, ours: Sequence[Snapshot]) -> None:
        """A complete listing has shown these snapshots of ours."""
        now = self.world.clock.now()
        newest = newest_of(ours, now)
        self._put_server(server, looked_at=utc_text(now), newest_at=utc_text(newest))

    def progress(self, how_far: Mapping[str, Any]) -> None:
        """How far the run is, in the words of `progress_of`; all that is new is written."""
        self._progress = json.dumps(how_far)
        self._do(self._write)

    def turn(self, report: Report) -> None:
        """A turn has ended."""
        server, ended = report.server, utc_text(report.ended)
        sizes = {s.id: s.size_gb for s, _ in report.kept}
        values = {
            "run": self.id,
            "provider": server.provider,
            "server_id": server.id,
            "name": server.name,
            "ended_at": ended,
            "seconds": round(report.seconds, 1),
            "success": report.success,
            "snapshot": report.snapshot_name,
            "size_gb": sizes.get(report.snapshot_id),
            "kept": json.dumps([s.name for s, _ in report.kept]),
            "stored_gb": total_or_none(sizes.values()) if report.kept else None,
            "deleted": json.dumps([s.name for s in report.deleted]),
            "error": report.error,
            "warnings": json.dumps(report.warnings),
        }
        self._insert("turn", values)
        if isinstance(server, BadServer):
            return
        if report.success:
            self._put_server(server, success_at=ended, failed=0, unpruned=report.unpruned)
        else:
            left = {"unpruned": 1} if report.unpruned else {}  # what an earlier turn has left stays
            self._put_server(server, failure_at=ended, failed=1, error=report.error, **left)

    def end(self, status: ExitStatus) -> None:
        """The run has ended; what is too old goes."""
        now = self.world.clock.now()
        ended = "UPDATE run SET ended_at = ?, exit_status = ? WHERE id = ?"
        self._put(ended, utc_text(now), status, self.id)
        horizon = utc_text(now - timedelta(days=self.keep_days))
        self._put("DELETE FROM turn WHERE ended_at < ?", horizon)
        self._put("DELETE FROM run WHERE started_at < ?", horizon)
        latest = "max(coalesce(looked_at, ''), coalesce(success_at, ''), coalesce(failure_at, ''))"
        self._put(f"DELETE FROM server WHERE {latest} < ?", horizon)  # noqa: S608
        self._progress = None
        self._sink.finish(self._write, HISTORY_WAIT_SECONDS)
        if self._saved < len(self._statements):
            reason = self._problem or "it takes too long"
            self.world.warn(
                f"{self.path}: cannot be written: {reason} (what this run did is missing there)"
            )

    def entry_is_new(self) -> str:
        """Cron's entry was changed just now; returns why that could not be written, or ''."""
        now = utc_text(self.world.clock.now())
        self._put("DELETE FROM entry")
        self._put("INSERT INTO entry VALUES (?)", now)
        self._write()
        return self._problem

    def _put_server(self, server: Server, **columns: Any) -> None:
        changes = ", ".join(f"{name} = excluded.{name}" for name in ("name", *columns))
        key = {"provider": server.provider, "server_id": server.id, "name": server.name}
        on_conflict = f" ON CONFLICT (provider, server_id) DO UPDATE SET {changes}"
        self._insert("server", {**key, **columns}, on_conflict)

    def _insert(self, table: str, values: Mapping[str, Any], on_conflict: str = "") -> None:
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        sql = f"INSERT INTO {table} ({names}) VALUES ({marks}){on_conflict}"  # noqa: S608
        self._put(sql, *values.values())

    def _put(self, sql: str, *values: Any) -> None:
        """Have this written next time."""
        self._statements.append((sql, values))

    def _do(self, act: Callable[[], object]) -> None:
        """Have something done with the file, and wait for it if there is patience left."""
        began = time.monotonic()
        self._sink.do(act, self._patience_seconds)
        self._patience_seconds = max(self._patience_seconds + began - time.monotonic(), 0.0)

    def _look_back(self) -> None:
        self.past = read_history(self.path, os.getpid())

    def _write(self) -> None:
        """Write all that is new, or nothing."""
        count, progress = len(self._statements), self._progress
        if self._tried == (count, progress):  # where many wait for their turn
            return
        self._tried = (count, progress)
        how_far = ("UPDATE run SET progress = ? WHERE id = ?", (progress, self.id))
        try:
            try:
                self._commit([*self._statements[self._saved : count], how_far])
            except HISTORY_ERRORS as error:
                if type(error).__name__ != "DatabaseError":  # locked, full, ...: not damaged
                    raise
                aside = f"{self.path}.damaged-{self.world.clock.now():%Y%m%d%H%M%S}"
                for suffix in ("", "-journal", "-wal", "-shm"):  # they belong together
                    with contextlib.suppress(FileNotFoundError):
                        os.replace(f"{self.path}{suffix}", aside + suffix)
                self._commit([*self._statements[:count], how_far])
                self.world.warn(
                    f"{self.path}: was damaged; renamed to {aside}, and a new one begun"
                )
            self._saved, self._problem = count, ""
        except HISTORY_ERRORS as error:
            self._problem = reason_of(error)

    def _commit(self, batch: Sequence[Statement]) -> None:
        """Write it all or nothing, as masked as the log. Raises one of HISTORY_ERRORS."""
        redact = self.world.redact
        if sqlite3 is not None:
            os.close(open_plain(self.path, os.O_RDWR | os.O_CREAT, own=True))
        with history_transaction(self.path, "IMMEDIATE") as file:
            if history_version(file) == 0:
                for statement in HISTORY_SCHEMA.split(";"):
                    file.execute(statement)
                file.execute(f"PRAGMA user_version = {HISTORY_VERSION}")
            for sql, values in batch:
                file.execute(sql, [redact(v) if isinstance(v, str) else v for v in values])


@contextlib.contextmanager
def history_transaction(path: Path, kind: str) -> Iterator[sqlite3.Connection]:
    """The file, which must be there, as it is at one moment; rows have the names of their columns.
    kind: DEFERRED to read, IMMEDIATE to write. Raises one of HISTORY_ERRORS."""
    if sqlite3 is None:
        raise OSError(0, "this Python has no sqlite3")
    uri = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, timeout=BUSY_SECONDS, isolation_level=None, uri=True)
    with contextlib.closing(connection) as file:
        file.row_factory = sqlite3.Row
        file.execute("PRAGMA synchronous = OFF")  # a power cut may cost it; a kill does not
        file.execute(f"BEGIN {kind}")
        yield file
        file.execute("COMMIT")


def history_version(file: sqlite3.Connection) -> int:
    """What wrote it; 0: nothing so far. Raises ValueError if that is newer than this tool, or
    another program."""
    version = int(file.execute("PRAGMA user_version").fetchone()[0])
    if version > HISTORY_VERSION:
        raise ValueError(
            f"a newer version of this tool has written it, in format {version}"
            " (use that version, or rename the file)"
        )
    if version == 0 and file.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise ValueError("is another program's (set [HISTORY] file to another name)")
    return version


@dataclass(frozen=True)
class Past:
    """What the history knows."""

    servers: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    running: Optional[Mapping[str, Any]] = None  # the run under way
    runs: Rows = ()  # the last others, and all that never ended; newest first
    entry_since: Optional[str] = None  # when cron's entry was put in place
    problem: str = ""  # why nothing can be read

    def has_unpruned(self, server: Server, now: datetime) -> bool:
        """May its last turns have left something to prune? They say so themselves, or their run was
        killed. Where nobody knows, they have not: what is left goes when the server is due."""
        begun = [run["started_at"] for run in self.runs if run["ended_at"] is None]
        killed = max((at for at in begun if at <= utc_text(now)), default="")
        row = self.servers.get((server.provider, server.id))
        if row is None:
            return killed != ""
        return bool(row["unpruned"]) or killed >= (row["success_at"] or "-")


def read_history(path: Path, holder: Optional[int] = None) -> Past:
    """The history; empty where there is none so far. holder: as `run_holds_lock` says."""
    if not os.path.lexists(path):
        return Past()
    try:
        with history_transaction(path, "DEFERRED") as file:
            if history_version(file) == 0:
                return Past()
            rows = file.execute("SELECT * FROM server")
            servers = {(row["provider"], row["server_id"]): dict(row) for row in rows}
            runs = file.execute(LAST_RUNS, (PAGE_RUNS + 1,)).fetchall()
            since = file.execute("SELECT max(installed_at) FROM entry").fetchone()[0]
    except HISTORY_ERRORS as error:
        return Past(problem=f"{path}: cannot be read: {reason_of(error)}")
    running = None
    if holder is not None and runs and runs[0]["ended_at"] is None:
        running = runs.pop(0) if holder in (0, runs[0]["pid"]) else None
    return Past(servers, running, runs, since)


def read_turns(path: Path, since: str) -> Rows:
    """All turns since then, oldest first; none where the history cannot be read any more."""
    query = "SELECT * FROM turn WHERE ended_at >= ? ORDER BY ended_at"
    with contextlib.suppress(*HISTORY_ERRORS), history_transaction(path, "DEFERRED") as file:
        return file.execute(query, (since,)).fetchall()
    return ()


# === Shared limit =============================================================================
# The order and the room of turns whose servers share a limit on snapshots.

ORDER_SECONDS = 10.0  # a create is answered sooner; one that is not keeps nobody waiting for long


class Stage(enum.Enum):
    """Where a turn stands on its way to its create."""

    QUEUED = enum.auto()  # it has not sent it
    ASKING = enum.auto()  # it has sent it, and no answer has come
    BLOCKED = enum.auto()  # it was refused at the limit, and waits for room
    PASSED = enum.auto()  # it was accepted or has failed, or the turn has given way


class SharedLimit:
    """One limit on the snapshots of many servers: who creates when, and the room that turns leave.

    Nobody can know beforehand whether there is room for all. So creates go one after the other in
    the order of the configuration, as if the turns did: where room is short, the same servers get
    it, however many run at once. A turn that has to pause (its server is busy, a request is tried
    again) or looks for a create without an answer gives way; until that is cleared up it counts as
    having taken its room, which it may leave again.
    """

    def __init__(self, world: Runtime, deadline: float) -> None:
        """deadline: monotonic; nobody waits for room any longer."""
        self.world, self.deadline = world, deadline
        self._changed = world.condition()
        # of each turn under way, by its server's place in the configuration: the stage, and since
        # when others wait for it (monotonic; infinite where it waits for others itself)
        self._turns: dict[int, tuple[Stage, float]] = {}
        self._room_made = 0  # grows with each snapshot deleted and each turn ended
        self._room_seen: dict[int, int] = {}  # _room_made when a turn last asked
        self._full_at = -1  # the _room_made at which the limit was last seen reached

    def enter(self, place: int) -> None:
        """A turn begins."""
        with self._changed:
            self._move(place, Stage.QUEUED, self.world.clock.monotonic())

    def leave(self, place: int) -> None:
        """A turn has ended, and may have left room."""
        with self._changed:
            self._turns.pop(place, None)
        self.make_room()

    def make_room(self) -> None:
        """A snapshot has been deleted: somebody who waits for room may try again."""
        with self._changed:
            self._room_made += 1
            self._changed.notify_all()

    def give_way(self, place: int) -> None:
        """No other turn has to wait for this one's create any more."""
        with self._changed:
            if self._turns[place][0] is not Stage.PASSED:
                self._move(place, Stage.PASSED)

    def wait_for_order(self, place: int) -> None:
        """Wait until no create of an earlier server is to come. While one of those has been silent
        for ORDER_SECONDS, the order is given up; one that is blocked is waited for."""
        with self._changed:
            self._move(place, Stage.QUEUED)
            while True:
                self.world.check()
                earlier = [
                    turn
                    for other, turn in self._turns.items()
                    if other < place and turn[0] is not Stage.PASSED
                ]
                if not earlier:
                    break
                left = min(since for _, since in earlier)
                left += ORDER_SECONDS - self.world.clock.monotonic()
                if any(stage is Stage.BLOCKED for stage, _ in earlier):
                    left = math.inf
                if left <= 0:
                    break
                self._changed.wait(None if left == math.inf else left)
            self._ask(place)

    def wait_for_room(self, place: int) -> bool:
        """After a refusal: True once it is worth trying again, False if nobody can make room.

        Those that wait go in the order of the configuration, one at a time.
        """
        with self._changed:
            self._full_at = max(self._full_at, self._room_seen[place])
            self._move(place, Stage.BLOCKED)
            while True:
                self.world.check()
                stages = {other: stage for other, (stage, _) in self._turns.items()}
                first = place == min(o for o, stage in stages.items() if stage is Stage.BLOCKED)
                if first and self._room_made > self._full_at:
                    self._ask(place)
                    return True
                nobody = not {Stage.ASKING, Stage.PASSED} & set(stages.values())
                left = self.deadline - self.world.clock.monotonic()
                if (first and nobody) or left <= 0:
                    self._move(place, Stage.PASSED)
                    return False
                self._changed.wait(left)

    def _ask(self, place: int) -> None:
        self._room_seen[place] = self._room_made
        self._move(place, Stage.ASKING, self.world.clock.monotonic())

    def _move(self, place: int, stage: Stage, since: float = math.inf) -> None:
        self._turns[place] = stage, since
        self._changed.notify_all()


# === Turn =====================================================================================
# One server's turn, in the order of its effects. Everything that may be deleted is decided here.

LAG_SECONDS = 120.0  # how long a listing may lag behind, and a freed slot may stay counted
LOST_SECONDS = 30.0  # how long a create without an answer is looked for
LOST_INTERVAL_SECONDS = 5.0
CLOCK_TOLERANCE_SECONDS = 5.0  # between the provider's Date header and its timestamps
CONTABO_OLD_DAYS = 25


@dataclass(eq=False, repr=False)
class Turn:
    """What one server's turn knows and has done so far. Its times are monotonic."""

    server: Server
    account: Account
    settings: Settings
    world: Runtime
    limit: Optional[SharedLimit] = None  # what this server shares with others
    place: int = 0  # the server's in the configuration
    others_wait: Callable[[], bool] = lambda: False  # do servers wait for this one's slot?
    history: Optional[History] = None

    doing: str = "creating"
    percent: Optional[int] = None
    age_taken: float = -math.inf  # when it was last read that the server is due
    times_busy: int = 0  # how often the create was refused because the server was busy
    busy_until: float = math.inf  # how long that is waited for
    lost: Optional[ApiError] = None  # a create that got no answer
    replaced: Optional[Snapshot] = None  # what was to go to free a slot for the new one
    freed_at: Optional[float] = None  # when slots were freed for the new one
    prunes_only: bool = False  # there is no new snapshot: the newest one takes its place
    verified: Optional[Snapshot] = None
    delete_sent: bool = False  # from then on nobody can say that nothing was pruned
    unpruned: bool = False  # if it ended now, it might leave something that retention drops

    kept: tuple[tuple[Snapshot, tuple[str, ...]], ...] = ()
    deleted: list[Snapshot] = field(default_factory=list)
    total: Optional[int] = None
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.provider = self.account.provider
        self.labels = labels_of(self.server)
        self.name = snapshot_name(self.labels[0], self.world.clock.now())
        self.began = self.world.clock.monotonic()
        self.asked = self.began  # when the create went out that was not refused
        self.asked_here = self.world.clock.now()  # the same by this machine's clock

    def __str__(self) -> str:
        return self.server.name

    def info(self, text: str, *values: object) -> None:
        """A line of the log that names the server."""
        log.info("%s: " + text, self, *values)

    def warn(self, text: str, expected: bool = False) -> None:
        """A warning: in log and notification, and on stderr unless the user has wished it so."""
        self.warnings.append(text)
        if expected:
            log.warning("%s: %s", self, text)
        else:
            self.world.warn(f"{self}: {text}")

    def create_sent_at_provider_time(self) -> datetime:
        """When the create went out, by the provider's clock if it ever tells the time, less a
        tolerance. What is older is not this turn's, whatever its name."""
        api = self.account.api
        moment = api.server_time(self.asked)
        if moment is None:
            return self.asked_here - CLOCK_MAY_DIFFER
        if not api.has_told_time(self.asked):
            moment = min(moment, self.asked_here)  # the machine may have been paused since then
        return moment - timedelta(seconds=CLOCK_TOLERANCE_SECONDS)

    def now_there(self) -> datetime:
        """The time, by the provider's clock if it has said it."""
        clock = self.world.clock
        return self.account.api.server_time(clock.monotonic()) or clock.now()

    def listing(self, batch_wait: float = 0.0) -> tuple[Snapshot, ...]:
        """A complete listing that begins now or later."""
        listing = self.account.list_snapshots(self.server.id, batch_wait)
        if self.history is not None:
            self.history.saw(self.server, self.owned(listing))
        return listing

    def was_left_unpruned(self) -> bool:
        """May an earlier turn of this server have left something that retention drops?"""
        past, now = self.history.past if self.history else Past(), self.world.clock.now()
        return past.has_unpruned(self.server, now)

    def batch_wait(self) -> float:
        """How long to wait for others before a listing; where servers wait for this one's slot,
        at most a tenth of the time it has taken."""
        age = self.world.clock.monotonic() - self.began
        return min(age / 10, BATCH_SECONDS) if self.others_wait() else BATCH_SECONDS

    def give_way(self) -> None:
        """No other server has to wait for this one's create any more."""
        if self.limit is not None:
            self.limit.give_way(self.place)

    def owned(self, listing: Iterable[Snapshot]) -> list[Snapshot]:
        """This server's own snapshots in a listing."""
        return owned(listing, self.server.id, *self.labels)

    def plan(
        self, listing: Iterable[Snapshot], max_deletes: int, new_id: Optional[str] = None
    ) -> Plan:
        """What retention decides of a listing. new_id: the verified snapshot."""
        ours, now = self.owned(listing), self.now_there()
        return plan_retention(ours, self.server.policy, max_deletes, new_id, now=now)

    def plan_before(self, listing: Iterable[Snapshot], max_deletes: int) -> Plan:
        """What retention will decide once this turn's snapshot is there, if that is soon."""
        ours, now = self.owned(listing), self.now_there()
        return plan_retention(ours, self.server.policy, max_deletes, pending=now)


def rotate(turn: Turn) -> None:
    """Create, verify, prune. Nothing is deleted unless the new snapshot is there. Raises
    NotDueError, before anything was done."""
    try:
        ticket = create(turn)
    except NotDueError as error:
        if not turn.was_left_unpruned():
            raise
        turn.info("%s, but its last turn may have left something to prune", error)
        prune_only(turn)
        return
    turn.unpruned = True  # made by this run or by another, which this one has taken over from
    ticket = wait_until_done(turn, ticket)
    listing = verify(turn, ticket)
    prune(turn, listing)


def prune_only(turn: Turn) -> None:
    """A turn without a new snapshot."""
    turn.info("turn begins (%s %s), without a new snapshot", turn.server.provider, turn.server.id)
    turn.give_way()
    prune_without_a_new_one(turn, turn.listing())


def prune_without_a_new_one(turn: Turn, listing: Iterable[Snapshot]) -> None:
    """Prune while the newest usable snapshot of ours takes the new one's place, and stays.

    The second place where something is deleted though no successor has just been made.
    """
    turn.prunes_only = turn.unpruned = True
    turn.doing = "verifying"
    newest = newest_usable(turn, listing)
    listing = turn.listing(turn.batch_wait())
    if newest not in listing:
        raise TurnError(f"snapshot {newest.name} (id {newest.id}) no longer exists, or has changed")
    turn.verified = newest
    turn.info("verified snapshot %s (id %s), the newest one", newest.name, newest.id)
    prune(turn, listing)


def newest_usable(turn: Turn, listing: Iterable[Snapshot]) -> Snapshot:
    """The newest usable snapshot of ours. Raises TurnError if there is none."""
    newest = max(turn.owned(listing), key=age_key, default=None)
    if newest is None:
        raise TurnError("there is no usable snapshot of this server that could stay")
    return newest


def create(turn: Turn) -> Ticket:
    """Have the provider take on a new snapshot, exactly one; or take one over that is being made.

    A busy server is waited for; at a limit room may be made; a create whose answer was lost is
    repeated, once, only if it certainly was not carried out. Raises NotDueError.
    """
    try:
        take_age(turn)
        turn.info("turn begins (%s %s)", turn.server.provider, turn.server.id)
        with turn.world.around_pauses(turn.give_way, lambda: take_age_again(turn)):
            if turn.limit is not None:
                turn.limit.wait_for_order(turn.place)
            return request_snapshot(turn)
    except NotDueError as error:
        made_meanwhile = turn.times_busy or turn.lost is not None
        if error.snapshot.usable and not made_meanwhile:
            raise
        turn.name = error.snapshot.name or ""
        turn.info("%s; going on with that", error)
        return Ticket(turn.server.id, snapshot_id=error.snapshot.id)
    finally:
        turn.give_way()


AGE_SECONDS = 10.0  # how old a listing may be that shows how old the newest snapshot is


def take_age(turn: Turn, within: float = AGE_SECONDS) -> None:
    """Raise NotDueError if the newest snapshot is too young for another one, or if one that is
    young enough is still being made. within: how many seconds old a listing may be that shows
    that there is none; one that shows a young snapshot may be of any age."""
    hours = turn.server.min_interval_hours
    if not hours:
        return
    clock = turn.world.clock
    listing, began = turn.account.latest_listing
    if listing and turn.history is not None:
        turn.history.saw(turn.server, turn.owned(listing))
    raise_if_too_young(turn, listing)
    if clock.monotonic() - began > within:
        began = clock.monotonic()
        listing = turn.listing()
        raise_if_too_young(turn, listing)
    turn.age_taken = began
    as_if_made = [dataclasses.replace(s, state="available") for s in listing if s.being_made]
    newest = too_young(turn.owned(as_if_made), turn.now_there(), hours)
    if newest is not None:
        text = f"snapshot {newest.name} (id {newest.id}) is still being made"
        raise NotDueError(text, dataclasses.replace(newest, state="creating"))


def raise_if_too_young(turn: Turn, listing: Iterable[Snapshot]) -> None:
    """Raise NotDueError if the newest snapshot of ours is too young for another one."""
    hours, now = turn.server.min_interval_hours, turn.now_there()
    newest = too_young(turn.owned(listing), now, hours)
    if newest is not None and newest.created is not None:
        age = span(max(0.0, (now - newest.created).total_seconds()))
        text = f"not due: {newest.name} is {age} old (min_interval_hours = {hours:g})"
        raise NotDueError(text, newest)


def take_age_again(turn: Turn) -> None:
    """After a wait: somebody else may have made a snapshot meanwhile. Raises NotDueError."""
    if turn.world.clock.monotonic() - turn.age_taken > AGE_SECONDS:
        take_age(turn)


def request_snapshot(turn: Turn) -> Ticket:
    """Send the create request until it is accepted; what a refusal or silence allows is done."""
    clock = turn.world.clock
    turn.busy_until = clock.monotonic() + turn.settings.timing.snapshot_creation_timeout
    while True:
        take_age_again(turn)
        turn.world.check()
        if turn.lost is None:
            turn.asked, turn.asked_here = clock.monotonic(), clock.now()
        turn.unpruned = True
        try:
            ticket = turn.provider.create(turn.server, turn.name)
        except ApiError as error:
            if error.next_step is Next.VERIFY:
                found = answer_lost(turn, error)
            else:
                turn.unpruned = turn.lost is not None
                found = find_late_create(turn, turn.lost, error) if turn.lost is not None else None
                if found is None:
                    answer_refusal(turn, error)
            if found is not None:
                return found
        else:
            turn.info("creating snapshot %s", turn.name)
            return ticket


def answer_lost(turn: Turn, error: ApiError) -> Optional[Ticket]:
    """A create without an answer: the ticket if it was carried out; None if it certainly was not,
    and may be sent once more."""
    turn.give_way()
    again, turn.lost = turn.lost is not None, error
    turn.info("%s; looking whether it was carried out", error)
    found = find_lost_create(turn, error)
    if found is None and again:
        raise TurnError(f"{error}; both times it was not carried out") from None
    if found is None:
        turn.info("it was not carried out; asking once more")
    return found


def answer_refusal(turn: Turn, error: ApiError) -> None:
    """A create that was refused: wait until it is worth sending again, or raise."""
    if error.next_step is Next.WAIT:
        wait_while_busy(turn, error)
    elif error.next_step is Next.FREE_SPACE and turn.limit is not None:
        turn.doing = "waiting for room"
        wait_for_room(turn, turn.limit, error)
    elif error.next_step is Next.FREE_SPACE and turn.provider.has_slots:
        turn.doing = "making room"
        make_room_on_the_plan(turn, error)
    else:
        raise error


def wait_while_busy(turn: Turn, error: ApiError) -> None:
    """The server has something else to do: wait, longer each time, but not beyond the time that
    a creation has."""
    timing = turn.settings.timing
    turn.times_busy += 1
    pause = min(timing.poll_interval * (1 + turn.times_busy / 5), MAX_POLL_SECONDS)
    if turn.world.clock.monotonic() + pause > turn.busy_until:
        raise TurnError(
            f"{error}; the server was busy for all of {span(timing.snapshot_creation_timeout)}"
            " ([TIMING] snapshot_creation_timeout)"
        )
    if turn.times_busy == 1:
        turn.info("the server is busy (%s); waiting until it is free", error)
    turn.doing = "waiting for the server"
    turn.world.pause(pause)
    take_age(turn, within=0)  # it may have been busy making a snapshot of ours


def look_once(turn: Turn, lost: ApiError) -> Optional[Ticket]:
    """One look for a create that got no answer. Raises UnclearError, where it shows nothing."""
    try:
        if not turn.account.api.has_told_time(math.inf):
            turn.listing()  # not one answer so far: the first read brings the provider's time
        since = turn.create_sent_at_provider_time()
        return turn.provider.look_for(turn.server.id, turn.name, since, lost)
    except (ApiError, UnclearError) as error:
        log.warning("%s: looking for the snapshot: %s", turn, error)
        raise UnclearError(str(error)) from error


def find_lost_create(turn: Turn, lost: ApiError) -> Optional[Ticket]:
    """Look for at least 30 s. The ticket if found; None if certainly absent; else TurnError.

    "Certainly" takes every look in that time: the request may still be on its way.
    """
    unclear = False
    for _ in turn.world.tries(LOST_SECONDS, lambda number: LOST_INTERVAL_SECONDS):
        try:
            found = look_once(turn, lost)
        except UnclearError:
            found, unclear = None, True
        if found is not None:
            turn.info("found it; going on with it")
            return found
    if unclear:
        raise outcome_unknown(turn, lost)
    return None


def find_late_create(turn: Turn, lost: ApiError, refusal: ApiError) -> Optional[Ticket]:
    """One more look for a create without an answer, after its repetition was refused: because the
    first one came through after all? Where a limit refused it and the look is unclear, nothing may
    be deleted to make room: TurnError."""
    if refusal.next_step not in (Next.WAIT, Next.FREE_SPACE):
        return None
    try:
        found = look_once(turn, lost)
    except UnclearError:
        if refusal.next_step is Next.FREE_SPACE:
            raise outcome_unknown(turn, lost) from None
        return None
    if found is not None:
        turn.info("the first request came through after all; going on with it")
    return found


def outcome_unknown(turn: Turn, lost: ApiError) -> TurnError:
    """A create may have been carried out or not, and no look has shown which."""
    return TurnError(
        f"{lost}; outcome unknown: the snapshot {turn.name} may or may not appear"
        " (the next run puts it right)"
    )


def wait_until_done(turn: Turn, ticket: Ticket) -> Ticket:
    """Wait until the provider says it is done. Without an action, or with one that the provider
    no longer knows, only a listing shows it: the ticket is then one without an action."""
    turn.doing = "creating"
    if ticket.action_id is None:
        return ticket
    clock = turn.world.clock
    timeout = turn.settings.timing.snapshot_creation_timeout

    def on_progress(progress: Progress) -> None:
        turn.percent = progress.percent

    progress = turn.account.wait_until_done(ticket, clock.monotonic() + timeout, on_progress)
    if progress.state is State.FAILED:
        raise TurnError(f"creating snapshot {turn.name} failed: {progress.reason}")
    if progress.state is State.RUNNING:
        raise creation_timed_out(turn, turn.account.poll_trouble)
    return (
        dataclasses.replace(ticket, action_id=None)
        if progress.state is State.UNKNOWN_ACTION
        else ticket
    )


def creation_timed_out(turn: Turn, trouble: str = "") -> TurnError:
    """The snapshot takes longer than it is given, or seems to: trouble is what the polls had."""
    timeout = turn.settings.timing.snapshot_creation_timeout
    return TurnError(
        f"snapshot {turn.name} is still not finished after {span(timeout)}"
        f" ([TIMING] snapshot_creation_timeout = {timeout:g}; {turn.provider.duration_rule});"
        f" {turn.provider.title} may still finish it"
        + (f"; the last poll failed: {trouble}" if trouble else "")
    )


def verify(turn: Turn, ticket: Ticket) -> tuple[Snapshot, ...]:
    """See the new snapshot, usable and under its name, in a complete listing; return that.

    Listings lag: asked again for up to two minutes. Where there was no action to wait for, the
    listing is what shows that it is done, so it gets the whole time of a creation.
    """
    turn.doing, turn.percent = "verifying", None
    timing = turn.settings.timing
    allowed = timing.snapshot_creation_timeout if ticket.action_id is None else LAG_SECONDS
    interval = timing.poll_interval
    tries = turn.world.tries(allowed, lambda number: min(interval * number, MAX_POLL_SECONDS))
    if ticket.action_id is None:
        next(tries)  # nothing is that quick
    for _ in tries:
        listing = turn.listing(turn.batch_wait())
        new = find_new(turn, ticket, listing)
        if new is not None and new.usable:
            turn.verified = new
            turn.info("verified snapshot %s (id %s)", turn.name, new.id)
            if new.expires is not None:
                turn.info(
                    "%s deletes it by itself on %s", turn.provider.title, clock_time(new.expires)
                )
            return listing
        if new is not None and new.state != "creating":
            raise TurnError(f"snapshot {turn.name} (id {new.id}) cannot be used: it is {new.state}")
    if ticket.action_id is None:
        raise creation_timed_out(turn)
    what = "is still being created" if new is not None else "is not yet in the listing"
    raise TurnError(f"snapshot {turn.name} was reported done, but {what} after {span(LAG_SECONDS)}")


def find_new(turn: Turn, ticket: Ticket, listing: Iterable[Snapshot]) -> Optional[Snapshot]:
    """The snapshot of this turn: by the id that the create answered, else by name and time.

    Of several that fit (another machine's run may have begun in the same second) the newest.
    """
    found: list[Snapshot] = []
    since = turn.create_sent_at_provider_time()
    for snapshot in listing:
        if snapshot.server_id != turn.server.id:
            continue
        if ticket.snapshot_id is not None:
            if snapshot.id == ticket.snapshot_id:
                if snapshot.name != turn.name:
                    raise TurnError(
                        f"snapshot {snapshot.id} is listed under another name than {turn.name}"
                    )
                return snapshot
        elif snapshot.name == turn.name and snapshot.created and snapshot.created >= since:
            found.append(snapshot)
    return max(found, key=age_key, default=None)


@dataclass
class Asked:
    """A snapshot that a DELETE has been sent for."""

    snapshot: Snapshot
    was_there: bool = True
    unclear: str = ""  # why what was answered proves nothing


def prune(turn: Turn, listing: Iterable[Snapshot]) -> None:
    """Delete what retention drops, oldest first, and see it gone. Raises TurnError at the end
    if anything is left that was due; one that fails does not stop the others."""
    turn.doing = "pruning"
    assert turn.verified is not None  # noqa: S101  (`verify` has returned)
    warn_of_oddities(turn, listing)
    max_per_run = turn.settings.retention.max_deletes_per_run
    to_make_room = len(turn.deleted) + (turn.replaced is not None)
    note_replaced(turn, listing)
    ours = turn.owned(listing)
    plan = turn.plan(listing, max_per_run - to_make_room, turn.verified.id)
    turn.total, turn.kept = len(ours), plan.keep
    for snapshot, why in plan.keep:
        turn.info("%s stays: %s", snapshot.name, ", ".join(why))
    asked, failures = delete_each(turn, plan.delete)
    left, unread = wait_until_gone(turn, asked)
    turn.total = None if unread else len(ours) - len(asked) + len(left)
    turn.deleted += [one.snapshot for one in asked if one.was_there and one not in left]
    failures += [one.unclear for one in left if one.unclear]
    names = ", ".join(f"{o.snapshot.name} (id {o.snapshot.id})" for o in left if not o.unclear)
    if names and unread:
        failures.append(f"the deletions could not be confirmed: {unread}")
    elif names:
        failures.append(f"{turn.provider.title} reports {names} as deleted, but still lists it")
    if plan.postponed:
        turn.warn(
            f"{counted(len(plan.postponed), 'more snapshot')} due for deletion; at most"
            f" {max_per_run} go per run ([RETENTION] max_deletes_per_run), the rest in the next"
            " runs"
        )
    if failures:
        which = "newest" if turn.prunes_only else "new"
        name = turn.verified.name
        raise TurnError(f"the {which} snapshot {name} is good, but " + "; ".join(failures))
    # what the brake leaves waits for the next snapshot, except where it may fill the plan
    turn.unpruned = bool(to_make_room and plan.postponed)


def delete_each(turn: Turn, snapshots: Iterable[Snapshot]) -> tuple[list[Asked], list[str]]:
    """(those that may have gone, what the others have failed of); the protected are in neither."""
    failures: list[str] = []
    asked: list[Asked] = []
    for snapshot in snapshots:
        turn.world.check()
        turn.delete_sent = True
        turn.total = None  # until it has been seen what is gone
        try:
            was_there = turn.account.delete(snapshot)
        except ApiError as error:
            if error.next_step is Next.SKIP:
                turn.warn(f"snapshot {snapshot.id} ({snapshot.name}) is protected: left alone")
                continue
            log.error("%s: %s", turn, error)
            if error.may_have_acted:
                asked.append(Asked(snapshot, unclear=str(error)))
            else:
                failures.append(str(error))
        else:
            asked.append(Asked(snapshot, was_there or snapshot == turn.replaced))
            if turn.limit is not None:
                turn.limit.make_room()
            did = "deleted" if was_there else "already gone:"
            turn.info("%s snapshot %s (id %s)", did, snapshot.name, snapshot.id)
    return asked, failures


def wait_until_gone(turn: Turn, asked: Sequence[Asked]) -> tuple[Sequence[Asked], str]:
    """(which of them are not, why that cannot be seen). Whatever was answered, what is listed is
    not deleted; but a listing may lag. What is said to be gone is deleted once more meanwhile."""
    left, unread = asked, ""
    interval = turn.settings.timing.poll_interval
    for _ in turn.world.tries(LAG_SECONDS, lambda number: interval) if asked else ():
        try:
            there = still_there(turn, [one.snapshot for one in left])
        except ApiError as error:
            unread = str(error)
            log.error("%s: %s", turn, error)
            if error.outcome is not Outcome.GARBLED:
                break
        else:
            unread = ""
            left = [one for one in left if one.snapshot.id in there]
        for one in left:
            if not one.unclear:
                try:
                    turn.account.delete(one.snapshot)
                except ApiError as error:
                    one.unclear = str(error)
        if not left:
            break
    return left, unread


def note_replaced(turn: Turn, listing: Iterable[Snapshot]) -> None:
    """What had to go for the new one has been deleted if a listing does not show it any more."""
    if turn.replaced and all(snapshot.id != turn.replaced.id for snapshot in listing):
        turn.deleted.append(turn.replaced)


def still_there(turn: Turn, snapshots: Sequence[Snapshot]) -> set[str]:
    """The ids of those that have not gone: by one read of each, where such reads are known to find
    what is there; a complete listing decides on all others, if it shows what must be there.
    Raises ApiError."""
    assert turn.verified is not None  # noqa: S101
    left = {snapshot.id for snapshot in snapshots}
    if turn.account.reads_find(turn.verified):
        for snapshot in snapshots:
            try:
                if not turn.account.is_there(snapshot):
                    left.discard(snapshot.id)
            except ApiError as error:
                log.debug("%s: %s; a listing decides", turn, error)
    if not left:
        return left
    listed = {snapshot.id for snapshot in turn.listing(turn.batch_wait())}
    if turn.verified.id not in listed:
        reason = f"the listing does not show snapshot {turn.verified.name}, which stays"
        raise ApiError("see what is deleted", Attempt(Outcome.GARBLED, reason))
    return left & listed


def warn_of_oddities(turn: Turn, listing: Iterable[Snapshot]) -> None:
    """What people should know about their own snapshots."""
    assert turn.verified is not None  # noqa: S101
    replaced = turn.replaced.created if turn.replaced else None
    previous = [replaced] if replaced else []
    for snapshot in listing:
        if snapshot.server_id != turn.server.id or snapshot.id == turn.verified.id:
            continue
        shown = f"snapshot {snapshot.id} ({snapshot.name})"
        if snapshot.name is None:
            turn.warn(f"snapshot {snapshot.id} has an unreadable name: left alone")
        elif not any(is_named_like_ours(snapshot.name, label) for label in turn.labels):
            continue
        elif not snapshot.usable:
            if snapshot.state != "creating":
                turn.warn(f"{shown} cannot be used, it is {snapshot.state}: left alone")
        elif snapshot.created is None:
            turn.warn(f"{shown} has an unreadable date: left alone")
        elif turn.verified.created and snapshot.created > turn.verified.created:
            turn.warn(f"{shown} is dated later than the new one")
        else:
            previous.append(snapshot.created)
    if turn.verified.expires and turn.verified.created and previous:
        days = (turn.verified.created - max(previous)).days
        if days >= CONTABO_OLD_DAYS:
            turn.warn(
                f"the newest previous snapshot was {days} days old; {turn.provider.title} deletes"
                f" snapshots after {CONTABO_KEEPS_DAYS} days by itself (run more often)"
            )


# --- limits on the number of snapshots ---


def wait_for_room(turn: Turn, limit: SharedLimit, error: ApiError) -> None:
    """A limit that many servers share: wait while other turns may still prune, then try again.

    Raises TurnError where nobody is left who could make room.
    """
    if turn.was_left_unpruned() and turn.freed_at is None:
        listing = turn.listing()
        if turn.plan(listing, 1).delete:
            prune_what_was_left(turn, listing)
            return
    turn.info("%s; waiting for other servers' turns to make room", error)
    if limit.wait_for_room(turn.place):
        return
    try:
        held = counted(len(turn.listing()), "snapshot")
    except ApiError as unread:
        log.warning("%s: %s", turn, unread)
        held = "an unknown number of snapshots"
    raise TurnError(
        f"{error}; this project holds {held}; the limit counts all projects of the customer"
        " (delete snapshots, lower retain_last_snapshots, or ask for a higher limit at"
        " https://console.hetzner.cloud/limits)"
    )


def make_room_on_the_plan(turn: Turn, error: ApiError) -> None:
    """A plan's slots are full: with `replace_when_full`, free one; else say what can be done.

    The one place where a snapshot goes before its successor is there. The user switched it on,
    only the one that a success would delete anyway goes, and everything that can be checked
    beforehand has been.
    """
    clock = turn.world.clock
    if turn.freed_at is not None:  # a freed slot may stay counted for a while
        if clock.monotonic() + 10 > turn.freed_at + LAG_SECONDS:
            raise TurnError(
                f"{error}; the slot freed for it is still counted after {span(LAG_SECONDS)}"
            )
        turn.world.pause(10)
        return
    turn.provider.check_server(turn.server.id)
    listing = turn.listing()
    ours, plan = turn.owned(listing), turn.plan_before(listing, 1)
    found = FULL.match(error.message)
    assert found is not None  # noqa: S101  (that is what has made it a limit)
    why = why_no_slot(turn.server.policy, plan, ours, listing, int(found[1]))
    if why:
        raise TurnError(f"{error}; {why}")
    oldest = plan.delete[0]
    is_due_already = bool(turn.plan(listing, 1).delete)
    if turn.server.replace_when_full:
        replace(turn, oldest)
    elif is_due_already and turn.was_left_unpruned():
        prune_what_was_left(turn, listing)
    elif is_due_already:
        raise TurnError(
            f"{error}; all slots are full, and {oldest.name} is due for deletion already (write"
            " --prune-only, then run it again)"
        )
    else:
        raise TurnError(
            f"{error}; all slots are full (set replace_when_full to true in {turn.server.source}"
            f" to have the oldest, {oldest.name}, deleted first; the risk: if the new snapshot then"
            f" fails, that leaves {counted(len(ours) - 1, 'older one')})"
        )


def why_no_slot(
    policy: Policy,
    plan: Plan,
    ours: Sequence[Snapshot],
    listing: Sequence[Snapshot],
    slots: int,
) -> str:
    """Why no snapshot can go to free a slot for the new one, and what to do; '' if one can.

    plan: what is decided once the new one is there. slots: how many there are.
    """
    retain = policy.last
    if slots == 0:
        return (
            "this plan has no snapshots at all (choose another product, or take this server out of"
            " configs_dir)"
        )
    if retain is None or retain > slots:
        wanted = "all" if retain is None else str(retain)
        return (
            f"retain_last_snapshots is {wanted}, but the plan has {counted(slots, 'slot')}"
            f" (set it to {max(slots - 1, 1)}{', with replace_when_full' if slots == 1 else ''})"
        )
    if len(listing) < slots:
        return (
            f"{counted(slots - len(listing), 'slot')} of {slots} counted as used, but not listed:"
            " a deletion or another snapshot has not completed (run again later)"
        )
    if plan.delete:
        return ""
    if len(plan.keep) >= retain:
        return (
            f"the keep_ rules keep all of {counted(len(ours), 'snapshot')} beside the new one, and"
            " there is no slot for that (lower them)"
        )
    return (
        f"{counted(len(listing) - len(ours), 'slot')} of {slots} held by snapshots"
        " that this tool did not make or may not delete (delete one by hand)"
    )


def replace(turn: Turn, oldest: Snapshot) -> None:
    """Delete the one whose place the new snapshot will take. Raises ApiError if it stays."""
    turn.world.check()
    text = f"all slots are full: deleting {oldest.name} (id {oldest.id}) before the new one"
    turn.warn(text, expected=True)
    turn.delete_sent, turn.replaced = True, oldest
    try:
        turn.account.delete(oldest)
    except ApiError as error:
        if not error.may_have_acted:
            turn.replaced = None
            raise
        if is_listed(turn, oldest):
            raise
    turn.freed_at = turn.world.clock.monotonic()


def is_listed(turn: Turn, snapshot: Snapshot) -> bool:
    """Is it still there? Where that cannot be read, it has to be taken to be."""
    try:
        return any(one.id == snapshot.id for one in turn.listing())
    except ApiError as error:
        log.error("%s: %s", turn, error)
        return True


def prune_what_was_left(turn: Turn, listing: Iterable[Snapshot]) -> None:
    """A turn that did not get to its end (its run was killed, say) has left what retention drops,
    and no room for the new snapshot: that goes first. Raises TurnError."""
    turn.info("there is no room; pruning first what the last turn has left")
    warned = len(turn.warnings)
    prune_without_a_new_one(turn, listing)
    del turn.warnings[warned:]  # the prune after the new one knows better
    turn.prunes_only, turn.verified = False, None
    turn.freed_at = turn.world.clock.monotonic()


# --- the turn's end ---


def take_turn(turn: Turn, steps: Callable[[Turn], None] = rotate) -> Optional[Report]:
    """One server's turn, whatever happens in it, as a report; None if it is not due. Raises
    nothing."""
    error_text, reachable = "", True
    try:
        steps(turn)
    except NotDueError as error:
        turn.info("%s", error)
        return None
    except InterruptedRunError as error:
        may = f"; {turn.provider.title} may still finish it" if turn.verified is None else ""
        error_text = f"{error}{may}; nothing more was deleted"
    except SnapshotsError as error:
        error_text = str(error)
        if isinstance(error, TurnError) and not turn.delete_sent:
            error_text += "; nothing was pruned"
        not_reached = (Outcome.NOT_SENT, Outcome.UNUSABLE, Outcome.RATE_LIMITED)
        reachable = not (isinstance(error, ApiError) and error.outcome in not_reached)
    except Exception as error:  # noqa: BLE001  (a bug costs one server its turn, not the run)
        error_text = message_of(error, turn.world.redact)
    if error_text:
        error_text = count_what_is_left(turn, error_text, reachable)
    new = None if turn.prunes_only else turn.verified
    return Report(
        turn.server,
        success=not error_text,
        snapshot_name=new.name or "none" if new else "none",
        snapshot_id=new.id if new else "none",
        total_snapshots=turn.total,
        kept=turn.kept,
        deleted=tuple(turn.deleted),
        warnings=tuple(map(turn.world.redact.line, turn.warnings)),
        error=turn.world.redact.line(error_text, ERROR_LIMIT),
        unpruned=turn.unpruned,
        seconds=turn.world.clock.monotonic() - turn.began,
        ended=turn.world.clock.now(),
    )


def count_what_is_left(turn: Turn, error_text: str, reachable: bool) -> str:
    """After a failure: one more listing for the count, unless that would fail as the request
    before did; in capitals where a slot had been freed and nothing is left."""
    if turn.verified is not None:
        return error_text
    turn.total = None
    if reachable or turn.replaced:
        with contextlib.suppress(Exception):  # a count is not worth a report
            listing = turn.listing()
            turn.total = len(turn.owned(listing))
            note_replaced(turn, listing)
    if turn.replaced is None:
        return error_text
    if turn.total is not None and not turn.deleted:
        return f"{error_text}; {turn.replaced.name} has not gone, it is still listed"
    if turn.total == 0:
        return f"{error_text}; ATTENTION: THIS SERVER NOW HAS NO SNAPSHOT AT ALL"
    left = (
        "an unknown number of snapshots" if turn.total is None else counted(turn.total, "snapshot")
    )
    did = "may have been" if turn.freed_at is None and not turn.deleted else "was"
    return f"{error_text}; after the oldest {did} deleted to make room, the server has {left}"


def describe_plan(turn: Turn, prunes_only: bool, unpruned: bool) -> list[str]:
    """--dry-run: what a run would do, from reads alone, with the reason for each. Raises
    NotDueError. unpruned: is the server pruned even if it is not due?"""
    turn.provider.check_server(turn.server.id)
    begins = f"would create {turn.name}"
    try:
        if not prunes_only:
            take_age(turn)
    except NotDueError as error:
        if error.snapshot.usable and not unpruned:
            raise
        prunes_only, begins = error.snapshot.usable, f"would wait for {error.snapshot.name}"
    listing = turn.listing()
    max_deletes = turn.settings.retention.max_deletes_per_run
    if prunes_only:
        begins, newest = "would create nothing", newest_usable(turn, listing)
        plan = turn.plan(listing, max_deletes, newest.id)
    else:
        plan = turn.plan_before(listing, max_deletes)
    lines = [f"{turn}: {begins} ({turn.server.provider} {turn.server.id})"]
    for snapshot, fate, reasons in plan_in_words(plan):
        would = "keep" if fate == "stays" else "delete"
        said = ", ".join(reasons) or "no rule keeps it"
        lines.append(f"{turn}: would {would} {snapshot.name} (id {snapshot.id}): {said}")
    for snapshot in listing:
        why = why_not_ours(snapshot, turn.server.id, *turn.labels)
        if why and snapshot.server_id == turn.server.id:
            lines.append(f"{turn}: would leave {snapshot.name} (id {snapshot.id}): {why}")
    return lines


# === Fleet ====================================================================================
# Who runs when: starts, slots, deadlines, stop.

STOP_GRACE_SECONDS = 5.0  # how long turns have to end by themselves after a stop signal
HANG_SECONDS = 7200.0  # how much longer than its waits a turn may take before it is given up
LIVE_SECONDS = 1.0
PROGRESS_SECONDS = 60.0
HISTORY_SECONDS = 15.0  # how old the history's picture of a run under way may be


class Fleet:
    """All turns of one run."""

    def __init__(
        self,
        world: Runtime,
        settings: Settings,
        on_report: Callable[[Report], None],
        on_progress: Optional[Callable[[Fleet], None]] = None,
        progress_seconds: float = PROGRESS_SECONDS,
    ) -> None:
        self.world, self.settings, self.on_report = world, settings, on_report
        self.on_progress, self.progress_seconds = on_progress, progress_seconds
        self.history: Optional[History] = None
        self.began = world.clock.monotonic()
        self.deadline = self.began + settings.timing.run_timeout
        self.reports: dict[int, Report] = {}
        self.not_due: set[int] = set()
        self._starts: dict[int, float] = {}  # monotonic: of the turns that are, or may be, due
        self.running: dict[int, Turn] = {}
        self.waiting = 0  # servers whose turn has not begun
        self._limits = {
            key: SharedLimit(world, self.deadline)
            for key, provider in PROVIDERS.items()
            if provider.limit_is_shared
        }
        self._accounts: dict[tuple[str, ...], Account] = {}
        self._changed = world.condition()

    def account_of(self, server: Server) -> Account:
        """The one object that all servers of an account share."""
        key = (server.provider, *server.credentials)
        if key not in self._accounts:
            self._accounts[key] = Account(
                self.world, server.provider, server.credentials, self.settings
            )
        return self._accounts[key]

    def run(
        self, entries: Sequence[Entry], act: Callable[[Turn], Optional[Report]] = take_turn
    ) -> list[Report]:
        """Give each server its turn; reports in the order of entries, of those that were due.

        Returns at the latest after run_timeout plus one turn's own limits, soon after a stop
        signal. A turn waits for a busy server, an action and a listing; one that takes much longer
        hangs in the machine, not in us, and must not keep the others from being reported."""
        clock = self.world.clock
        good = [index for index, entry in enumerate(entries) if isinstance(entry, Server)]
        for index, entry in enumerate(entries):
            if isinstance(entry, BadServer):
                self._finish(index, self._failed(entry, entry.error))
            else:
                self.account_of(entry).turns_left += 1
        delay = self.settings.timing.delay_between_servers
        with self._changed:
            self.waiting = len(good)
            for index in good:
                while not self.world.stopping and clock.monotonic() < self.deadline:
                    free = len(self.running) < self.settings.timing.max_parallel
                    last_start = max(self._starts.values(), default=-math.inf)
                    left = last_start + delay - clock.monotonic()
                    if free and left <= 0:
                        break
                    until_end = self.deadline - clock.monotonic()
                    self._wait(min(left, until_end) if free else until_end)
                else:
                    break
                server = entries[index]
                assert isinstance(server, Server)  # noqa: S101
                self._start(index, server, act)
            allowed = 3 * self.settings.timing.snapshot_creation_timeout + HANG_SECONDS
            end = self.deadline + allowed
            while self.running and not self.world.stopping and clock.monotonic() < end:
                self._wait(end - clock.monotonic())
            until = clock.monotonic() + STOP_GRACE_SECONDS
            while self.running and clock.monotonic() < until:
                self._changed.wait(until - clock.monotonic())
        for index in good:
            if index not in self.reports and index not in self.not_due:
                turn = self.running.get(index)
                report = self._failed(entries[index], self._why_unfinished(index))
                if turn is not None:
                    warnings = tuple(map(self.world.redact.line, turn.warnings))
                    report = dataclasses.replace(report, unpruned=turn.unpruned, warnings=warnings)
                self._finish(index, report)
        return [self.reports[index] for index in sorted(self.reports)]

    @property
    def turns(self) -> list[Turn]:
        """Those under way; one that has its report is only about to end."""
        return [turn for i, turn in list(self.running.items()) if i not in self.reports]

    def _wait(self, seconds: Optional[float]) -> None:
        """Wait for a change; wake for the progress line, where one is wanted."""
        if self.on_progress is not None:
            self.on_progress(self)
            seconds = min(self.progress_seconds, math.inf if seconds is None else seconds)
        self._changed.wait(seconds)

    def _start(self, index: int, server: Server, act: Callable[[Turn], Optional[Report]]) -> None:
        account = self.account_of(server)
        limit = self._limits.get(server.provider)
        turn = Turn(server, account, self.settings, self.world, limit, index)
        turn.others_wait, turn.history = (lambda: self.waiting > 0), self.history
        account.listings.join(1)
        if limit is not None:
            limit.enter(index)
        self.running[index] = turn
        self._starts[index] = self.world.clock.monotonic()
        self.waiting -= 1

        def go(act: Callable[[Turn], Optional[Report]]) -> None:
            try:
                self._finish(index, act(turn))
            except Exception as error:  # noqa: BLE001  (a bug, but a thread has no caller)
                text = message_of(error, self.world.redact)
                self.world.warn(f"{turn}: {text}")
                self._finish(index, self._failed(server, text))
            finally:
                account.listings.join(-1)
                if limit is not None:
                    limit.leave(index)
                with self._changed:
                    account.turns_left -= 1
                    if not account.turns_left:  # many accounts' connections would be too many
                        account.api.session.close()
                    self.running.pop(index, None)
                    self._changed.notify_all()

        try:
            self.world.clock.start(lambda: go(act), f"turn-{index}")
        except RuntimeError as error:  # the machine allows no more threads
            reason = f"{error} (lower [TIMING] max_parallel, or allow this user more processes)"
            report = self._failed(server, f"could not be started: {reason}")
            go(lambda turn: report)

    def _finish(self, index: int, report: Optional[Report]) -> None:
        """Take a report, once; late ones after a stop do not count any more. None: not due."""
        with self._changed:
            if index in self.reports:
                return
            if report is None:  # nor does the next one have to keep its distance
                self.not_due.add(index)
                del self._starts[index]
                return
            self.reports[index] = report
        self.on_report(report)

    def _failed(self, entry: Entry, error: str) -> Report:
        text = self.world.redact.line(error, ERROR_LIMIT)
        return Report(entry, success=False, error=text, ended=self.world.clock.now())

    def _why_unfinished(self, index: int) -> str:
        turn = self.running.get(index)  # which may end just now
        if turn is not None:
            why = self.world.stopping or "its turn hangs, and was given up"
            title = turn.provider.title
            gone = "what was being deleted may be gone"
            deleted = gone if turn.delete_sent else "nothing was deleted"
            return f"{why}; {title} may still finish it; {deleted}"
        if self.world.stopping:
            return f"{self.world.stopping} before its turn"
        limit = self.settings.timing.run_timeout
        return f"was not started within {span(limit)} ([TIMING] run_timeout = {limit:g})"


def exit_status(reports: Sequence[Report]) -> ExitStatus:
    """All well, all failed, or some."""
    failed = sum(not report.success for report in reports)
    if failed == 0:
        return ExitStatus.OK
    return ExitStatus.FAILED if failed == len(reports) else ExitStatus.PARTLY_FAILED


def final_status_line(report: Report, hostname: str) -> str:
    """The machine-readable line of a turn: nine fields, as other tools parse it."""
    cells = [
        "FINAL_STATUS",
        SCRIPT,
        report.server.provider,
        report.server.name,
        report.status,
        hostname,
        clock_time(report.ended),
        report.snapshot_name,
        report.snapshot_info,
    ]
    return " | ".join(cell.replace("|", "/") for cell in cells)


def progress_line(fleet: Fleet) -> str:
    """done / running / waiting / failed, the slowest server, elapsed time."""
    turns = fleet.turns
    failed = sum(not report.success for report in fleet.reports.values())
    line = (
        f"{len(fleet.reports) - failed} done, {len(turns)} running, {fleet.waiting} waiting,"
        f" {failed} failed, {span(fleet.world.clock.monotonic() - fleet.began)}"
    )
    if turns:
        slowest = min(turns, key=lambda turn: turn.began)
        percent = f" {slowest.percent} %" if slowest.percent is not None else ""
        line += f"; longest: {slowest} ({slowest.doing}{percent})"
    return line


def progress_of(fleet: Fleet) -> dict[str, Any]:
    """How far a run is, as `--status --json` shows it."""
    turns = fleet.turns
    failed = sum(not report.success for report in fleet.reports.values())
    total = len(fleet.reports) + len(turns) + fleet.waiting
    parts = len(fleet.reports) + sum((turn.percent or 0) / 100 for turn in turns)
    return {
        "done": len(fleet.reports) - failed,
        "failed": failed,
        "total": total,
        "progress_percent": int(100 * parts / total) if total else 100,
        "servers": [
            {"name": turn.server.name, "doing": turn.doing, "progress_percent": turn.percent}
            for turn in turns
        ],
    }


LOOK_RETRY_SECONDS = 20.0  # somebody waits for the answer
LOOKS_AT_ONCE = 200  # threads


def read_at_once(
    world: Runtime, settings: Settings, entries: Sequence[Entry], read: Callable[[Turn], object]
) -> Fleet:
    """All servers' turns, in which only read is called; a failure costs no other server its own."""
    world.max_retry_seconds = LOOK_RETRY_SECONDS
    timing = dataclasses.replace(
        settings.timing, delay_between_servers=0, max_parallel=LOOKS_AT_ONCE
    )
    fleet = Fleet(world, dataclasses.replace(settings, timing=timing), lambda report: None)

    def act(turn: Turn) -> Optional[Report]:
        error_text = ""
        try:
            read(turn)
        except NotDueError:
            return None
        except Exception as error:  # noqa: BLE001  (as in take_turn)
            error_text = message_of(error, world.redact)
        return Report(turn.server, success=not error_text, error=error_text)

    fleet.run(entries, act)
    return fleet


def dry_run(
    settings: Settings, entries: Sequence[Entry], world: Runtime, prunes_only: bool
) -> ExitStatus:
    """Show what a run would do: reads only; no lock, no notification, no log file."""
    lines: dict[str, list[str]] = {}
    holder = None
    with contextlib.suppress(LockError):
        holder = run_holds_lock(settings.lock_path)
    past = read_history(settings.history_path, holder)

    def describe(turn: Turn) -> None:
        unpruned = past.has_unpruned(turn.server, world.clock.now())
        try:
            lines[turn.server.source] = describe_plan(turn, prunes_only, unpruned)
        except NotDueError as error:
            lines[turn.server.source] = [f"{turn}: {error}"]
            raise

    fleet = read_at_once(world, settings, entries, describe)
    for index, entry in enumerate(entries):
        world.screen.out(*lines.get(entry.source, ()))
        if index in fleet.reports and not fleet.reports[index].success:
            world.screen.problem(f"{entry.name}: {fleet.reports[index].error}")
    reports = list(fleet.reports.values())
    line = summary_line(reports, 0, len(fleet.not_due))
    world.screen.out(f"{line} (dry run: nothing was changed)")
    return exit_status(reports)


# === Schedule (pure) ==========================================================================
# When cron starts a run: expressions as Debian's cron reads and times them.

WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MONTHS = tuple(calendar.month_name[1:])
PRESETS: Mapping[str, str] = MappingProxyType(
    {
        "nightly": "15 3 * * *",
        "twice-a-day": "15 3,15 * * *",
        "every-6-hours": "15 3,9,15,21 * * *",
        "weekly": "15 3 * * 0",
        "@hourly": "0 * * * *",
        "@daily": "0 0 * * *",
        "@weekly": "0 0 * * 0",
        "@monthly": "0 0 1 * *",
    }
)
CRON_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (  # name, range, words for values
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, tuple(month[:3].lower() for month in MONTHS)),
    ("day of the week", 0, 7, tuple(day[:3].lower() for day in WEEKDAYS)),
)
SEARCH_DAYS = 41 * 366  # 29 February is a given weekday once in 40 years at the latest


@dataclass(frozen=True)
class Schedule:
    """When cron starts something. `text` is always five fields; the weekday 0 is Sunday."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    @property
    def times(self) -> list[tuple[int, int]]:
        """Hour and minute of each start of a day, in order."""
        return sorted(itertools.product(self.hours, self.minutes))

    @property
    def follows_clock(self) -> bool:
        """Does cron go by the new time as soon as the clock is changed? See `moments_of`."""
        return any(field.startswith("*") for field in self.text.split()[:2])

    @property
    def either_day(self) -> bool:
        """Is one of the two day fields enough? Only if neither begins with `*`, as in `*/2`."""
        _, _, day, _, weekday = self.text.split()
        return not day.startswith("*") and not weekday.startswith("*")

    @property
    def every_day(self) -> bool:
        """Do the day fields leave no day out?"""
        full = (len(self.days) == 31, len(self.weekdays) == 7)
        return any(full) if self.either_day else all(full)

    def days_from(self, first: date) -> Iterator[date]:
        """The days on which it starts, as far as it makes sense to look."""
        for day in (first + timedelta(days=n) for n in range(SEARCH_DAYS)):
            fits = (day.day in self.days, day.isoweekday() % 7 in self.weekdays)
            if day.month in self.months and (any(fits) if self.either_day else all(fits)):
                yield day


def cron_values(text: str, title: str, low: int, high: int, words: Sequence[str]) -> frozenset[int]:
    """What a field allows. Raises ValueError for what cron refuses, or takes and never starts."""

    def number(word: str) -> int:
        if word.lower() in words:
            return words.index(word.lower()) + low
        if re.fullmatch(r"[0-9]{1,4}", word) and low <= int(word) <= high:
            return int(word)
        known = f", or {words[0]} to {words[-1]}" if words else ""
        hint = did_you_mean(word[:3].lower(), words)
        if re.search(r"[?LW#~]", word):
            hint = " (cron knows no ?, L, W, # and ~: write * or numbers)"
        raise ValueError(f"{title} {word!r}: must be {low} to {high}{known}{hint}")

    values: set[int] = set()
    for part in text.split(","):
        extent, slash, pace = part.partition("/")
        first, dash, last = (f"{low}-{high}" if extent == "*" else extent).partition("-")
        begin = number(first)
        end = number(last) if dash else begin
        step = int(pace) if re.fullmatch(r"[0-9]{1,4}", pace) else 0 if slash else 1
        problem = ""
        if begin > end:
            halves = [(begin, 6 if high == 7 else high), (low, end)]  # 7 is Sunday, as 0 is
            meant = ",".join(f"{a}-{b}" if a < b else f"{a}" for a, b in halves)
            problem = f"cron would never start it (write {meant})"
        elif step == 0:
            problem = "the step must be a number from 1"
        elif slash and begin == end:
            problem = f"cron wants a range before a step (write {begin}-{high}/{step})"
        elif slash and step > end - begin:
            problem = f"the step is larger than the range (write {begin}, if only that is meant)"
        if problem:
            raise ValueError(f"{title} {part!r}: {problem}")
        values.update(range(begin, end + 1, step))
    return frozenset(value % 7 for value in values) if high == 7 else frozenset(values)


def parse_schedule(text: str) -> Schedule:
    """WHEN as people write it: five fields, HH:MM, or a word of PRESETS.

    Raises ValueError with what is wrong and what was probably meant.
    """
    fields = PRESETS.get(text.strip(), text).split()
    clock = re.fullmatch(r"([0-9]{1,2}):([0-9]{2})", text.strip())
    if clock:
        fields = [str(int(clock[2])), str(int(clock[1])), "*", "*", "*"]
    if len(fields) != 5:
        hint = did_you_mean(text.strip().lower(), PRESETS)
        if fields == ["@reboot"]:
            hint = " (@reboot would start a run after each reboot only: write 03:15)"
        elif len(fields) == 6:  # of another program's crontab, or of /etc/crontab
            hint = " (cron knows no field for seconds or a user here: leave it out)"
        known = ", ".join(PRESETS)
        raise ValueError(
            f'must be five fields such as "15 3 * * *", HH:MM, or one of {known}{hint}'
        )
    sets = [cron_values(word, *field) for word, field in zip(fields, CRON_FIELDS)]
    schedule = Schedule(" ".join(fields), *sets)
    if next(schedule.days_from(date(2000, 1, 1)), None) is None:
        longest = max(calendar.monthrange(2001, month)[1] for month in schedule.months)
        raise ValueError(
            f"{in_ranges(schedule.months, ('', *MONTHS))} has no day {min(schedule.days)}: cron"
            f" would never start it (write day {longest}, which always comes)"
        )
    return schedule


def starts_after(schedule: Schedule, after: datetime, zone: tzinfo) -> Iterator[datetime]:
    """When cron starts it after a moment, in order and in `zone`, both changes of DST included."""
    times = schedule.times
    for day in schedule.days_from(after.astimezone(zone).date()):
        moments: set[datetime] = set()
        for hour, minute in times:
            local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
            moments |= moments_of(local, schedule.follows_clock)
        for moment in sorted(moments):
            if moment > after:
                after = moment
                yield moment.astimezone(zone)


def moments_of(local: datetime, follows_clock: bool) -> set[datetime]:
    """When cron starts what is due at a local time, in UTC.

    A time that comes twice counts once, and one that is skipped counts right after the change;
    but an entry with `*` for minute or hour goes by the clock as it is.
    https://manpages.debian.org/bookworm/cron/cron.8.en.html (read 2026-11-25)
    """

    def in_utc(fold: int) -> datetime:
        return local.replace(fold=fold).astimezone(timezone.utc)

    while in_utc(fold=0) > in_utc(fold=1):  # skipped
        if follows_clock:
            return set()
        local += timedelta(minutes=1)
    return {in_utc(fold=0), in_utc(fold=1)} if follows_clock else {in_utc(fold=0)}


def longest_gap(schedule: Schedule, today: date) -> timedelta:
    """The longest time between one start and the next, changes of the clock aside."""
    times = [timedelta(hours=hour, minutes=minute) for hour, minute in schedule.times]
    within = [later - earlier for earlier, later in zip(times, times[1:])]
    days = list(schedule.days_from(today))
    nights = max(later - earlier for earlier, later in zip(days, days[1:]))
    return max([nights + times[0] - times[-1], *within])


def in_ranges(values: Iterable[int], words: Sequence[str] = ()) -> str:
    """Numbers or the words for them, as in '1 to 5 and 7' or 'Monday and Friday'."""
    parts: list[str] = []
    for _, group in itertools.groupby(enumerate(sorted(values)), lambda pair: pair[1] - pair[0]):
        row = [words[value] if words else str(value) for _, value in group]
        parts += [f"{row[0]} to {row[-1]}"] if len(row) > 2 else row
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def in_words(schedule: Schedule) -> str:
    """'at 03:15 every day', 'at 03:15 on day 13, or on any Friday'."""
    every_hour = len(schedule.hours) == 24
    words = "at " + ", ".join(f"{hour:02}:{minute:02}" for hour, minute in schedule.times)
    if len(schedule.times) > 6:
        of_hours = "every hour" if every_hour else f"hour {in_ranges(schedule.hours)}"
        of_minutes = f"at minute {in_ranges(schedule.minutes)}"
        words = f"{'every minute' if len(schedule.minutes) == 60 else of_minutes} of {of_hours}"
    day, weekday = f"on day {in_ranges(schedule.days)}", in_ranges(schedule.weekdays, WEEKDAYS)
    if schedule.every_day:
        words += "" if every_hour else " every day"
    elif schedule.either_day:
        words += f" {day}, or on any {weekday}"
    elif len(schedule.weekdays) == 7:
        words += f" {day}"
    else:
        words += f" {day}, if that is a {weekday}" if len(schedule.days) < 31 else f" on {weekday}"
    if len(schedule.months) < 12:
        words += f", in {in_ranges(schedule.months, ('', *MONTHS))}"
    return words


# === Crontab ==================================================================================
# One marked block for each configuration; every other line is somebody else's and stays.

ON_WINDOWS = fcntl is None  # there is no crontab, but the Task Scheduler
CRONTAB_SECONDS = 10  # how long `crontab` may take
CRON_LINE_BYTES = 900  # Debian's cron refuses a command of 999 characters
CRON_LOG = "cronjob.log"  # in logs_dir: what a run prints
LOCALTIME = "/etc/localtime"
BLOCK_NOTE = " (by --install-cron; --remove-cron takes it out)"
BLOCK_EDGE = re.compile(rf"# (BEGIN|END) {re.escape(SCRIPT)} (.+?)({re.escape(BLOCK_NOTE)})?\s*")
CRONTAB_HEADER = re.compile(  # what some versions of `crontab -l` show and `crontab` writes itself
    r"\A# DO NOT EDIT THIS FILE.*\n# \(.* installed on .*\)\n# \(Cron version.*\)\n"
)
NO_CRONTAB = re.compile(
    r"exit status [0-9]+: (?:(?:crontab: )?no crontab for \S+"
    r"|crontab: can't open '[^/']+': No such file or directory)"
)
CRON_LINE = re.compile(r"\s*(@\w+|[-~*0-9]\S*(?:\s+\S+){4})\s+(.+)", re.DOTALL)
ONLY_LOOKS = {
    *("-n", "--dry-run", "--list", "--status", "--check", "--report", "--show-cron"),
    "--test-notifications",
}


class CrontabError(SnapshotsError):
    """The crontab is not as it should be, or was not changed."""


@dataclass(frozen=True)
class CronJob:
    """What cron is to start; all paths are absolute."""

    config: Path
    logs_dir: Path
    command: Sequence[str]  # program and arguments

    def line(self, expression: str) -> str:
        """The crontab's line. Raises CrontabError where cron would not take it."""
        paths = (self.config.parent, self.logs_dir / CRON_LOG)
        folder, log = (shlex.quote(str(path)) for path in paths)
        line = f"{expression} cd {folder} && {shlex.join(self.command)} >> {log} 2>&1"
        if "%" in line or any(unicodedata.category(character) == "Cc" for character in line):
            raise CrontabError(
                f"{line}: a % or a line break in a path ends a crontab's command (rename it)"
            )
        if len(os.fsencode(line)) > CRON_LINE_BYTES:
            raise CrontabError(
                f"{line}: longer than {CRON_LINE_BYTES} bytes, cron may refuse it (use a shorter"
                " path)"
            )
        return line

    def block(self, schedule: Optional[Schedule]) -> list[str]:
        """All lines for the crontab; without a schedule those around its entry."""
        name = f"{SCRIPT} {self.config}"
        lines = [self.line(schedule.text)] if schedule else []
        return [f"# BEGIN {name}{BLOCK_NOTE}", *lines, f"# END {name}"]


CronRemark = tuple[str, str]  # "ok", "warning", "error" or "unknown", and a text


@dataclass(frozen=True)
class CronEntry:
    """A line of a crontab that starts runs of a configuration."""

    where: str  # "crontab of root, line 5", and ", by hand"
    line: str
    config: str  # of its block, or what its command names
    by_hand: bool  # outside of any block
    schedule: Optional[Schedule]  # None: nothing that --install-cron would write, as "@reboot"
    problem: str = ""  # why there is none


def cron_job(named: Optional[str], settings: Settings) -> CronJob:
    """What cron is to start for a configuration; named: the one of --config, if that is given.

    UV: the path of the uv that has started this, whose environment for a script is in a cache that
    `uv cache prune` empties (uv 0.13, tried in 2026-11; source:
    https://docs.rs/uv-static/latest/uv_static/struct.EnvVars.html).
    """
    config = Path(os.path.abspath(named or home_directory() / "snapshots.config"))
    program, uv = [os.path.abspath(sys.executable)], os.environ.get("UV")
    if uv and f"{os.sep}environments-v" in program[0]:
        program = [os.path.abspath(uv), "run", "--script"]
    options = ["--config", str(config)] if named else []
    command = [*program, os.path.abspath(__file__), *options]
    return CronJob(config, Path(os.path.abspath(settings.logs_dir)), command)


def machine_zone() -> tzinfo:
    """The time zone that cron goes by: the machine's, not the TZ of whoever asks."""
    try:
        with open(LOCALTIME, "rb") as file:
            return zoneinfo.ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return timezone.utc


def whose_crontab() -> str:
    """'crontab of root'; a user without a name has none."""
    import pwd

    return f"crontab of {pwd.getpwuid(os.geteuid()).pw_name}"


def run_crontab(file: Optional[Path] = None) -> tuple[bytes, str]:
    """What `crontab` gives out, and what went wrong, or ''; file: what it is to take, instead."""
    try:
        done = subprocess.run(  # noqa: S603
            ["crontab", file.name if file else "-l"],  # noqa: S607  (where it is differs)
            cwd=file.parent if file else None,  # Debian's cuts what it is given to 99 characters
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C"},
            timeout=CRONTAB_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return b"", f"no answer within {CRONTAB_SECONDS:g} s"
    except OSError as error:
        return b"", f"cannot be run: {reason_of(error)}"
    said = one_line(done.stderr.decode("utf-8", "backslashreplace").strip(), 300)
    if done.returncode:
        said = f"exit status {done.returncode}: {said or 'no reason given'}"
    return done.stdout, said


def read_crontab() -> str:
    """The user's crontab without cron's own header, every byte kept ("surrogateescape"); a last
    line break is added, without which crontab takes no text, not even what it had itself.

    Only the known "no crontab for" counts as empty: to take another failure for that has cost
    people all their entries (https://github.com/acmesh-official/acme.sh/issues/3079). BusyBox says
    it by the name of the file, from within the directory of all crontabs: `crontab_main` in
    https://github.com/mirror/busybox/blob/03b4c14b/miscutils/crontab.c (read 2026-11).
    """
    content, problem = run_crontab()
    if problem and (content or not NO_CRONTAB.fullmatch(problem)):
        raise CrontabError(f"crontab -l: {problem}")
    text = CRONTAB_HEADER.sub("", content.decode("utf-8", "surrogateescape"))
    return f"{text}\n" if text and not text.endswith("\n") else text


def save_crontab(text: str, path: Path) -> None:
    """A new file, 0600 and on the disk. Raises CrontabError if that cannot be."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent.stat().st_uid != os.geteuid():
            raise OSError(0, "it belongs to another user (run this as that user)")
        # cron's shell starts nothing if it cannot write there
        os.close(os.open(path.with_name(CRON_LOG), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        write_whole(path, text.encode("utf-8", "surrogateescape"), is_new=True)
    except OSError as error:
        raise CrontabError(
            f"{path.parent}: the crontab cannot be saved here first: {reason_of(error)}"
            " (nothing was changed)"
        ) from None


def change_crontab(
    old: str, job: CronJob, schedule: Optional[Schedule], clock: Clock
) -> tuple[str, Path]:
    """Put the block into the crontab, which holds the old text, or take it out; returns the new
    text, and where the one before was saved.

    Raises CrontabError if the crontab is not exactly as it should be afterwards.
    """
    stamp = f"{local_time(clock.now()):%Y%m%d%H%M%S}-{uuid.uuid4().hex[:8]}"
    backup, draft = (job.logs_dir / f"crontab-{stamp}.{ending}" for ending in ("bak", "new"))
    for _ in range(10):
        new = changed_text(old, job, schedule)
        save_crontab(old, backup)
        try:
            now = read_crontab()
        except CrontabError as error:
            raise CrontabError(f"{error}; nothing was written") from None
        if now == old:
            break
        backup.unlink()
        old = now
    else:
        raise CrontabError(
            "the crontab keeps changing while it is being written; nothing was changed"
        )
    save_crontab(new, draft)
    _, refusal = run_crontab(draft)
    with contextlib.suppress(OSError):  # whatever becomes of it, what is there now is compared
        draft.unlink()
    try:
        now = read_crontab()
        if now == new:
            return new, backup
        if set(now.split("\n")) - set(old.split("\n")) - set(new.split("\n")):
            problem = "somebody else has changed the crontab just now: it was left as it is"
        elif now == old:
            why = refusal or "no reason given"
            problem = f"crontab refuses the new text: {why}; nothing was changed"
        else:
            _, refusal = run_crontab(backup)
            outcome = "it is as before again"
            if read_crontab() != old:
                outcome = f"they could not be put back: {refusal or 'no reason given'}"
            problem = f"lines of the crontab were lost; {outcome}"
    except CrontabError as error:  # after something was written
        problem = f"{error}; what is in the crontab now is not known: ask crontab -l again"
    raise CrontabError(f"{problem} (as it was before: {backup})")


def blocks_of(lines: Sequence[str]) -> dict[int, str]:
    """The index of each line that is in a block, and the block's configuration.

    Raises CrontabError if a BEGIN or an END stands alone.
    """
    edges = [(n, edge) for n, edge in enumerate(map(BLOCK_EDGE.fullmatch, lines)) if edge]
    block_of: dict[int, str] = {}
    for (begin, first), (end, last) in zip(edges[::2], [*edges[1::2], (0, None)]):
        if last is None or (first[1], last[1], first[2]) != ("BEGIN", "END", last[2]):
            raise CrontabError(
                f"crontab, line {begin + 1}: half a block for {first[2]}: its BEGIN or its END is"
                f" missing (correct it with crontab -e): {lines[begin]}"
            )
        block_of.update(dict.fromkeys(range(begin, end + 1), first[2]))
    return block_of


def changed_text(text: str, job: CronJob, schedule: Optional[Schedule]) -> str:
    """The crontab's text with the configuration's block for a schedule, or without a block.

    Raises CrontabError if that could cost somebody a line, or make two runs.
    """
    for entry in entries_in(text, job):
        if entry.by_hand and schedule:
            raise CrontabError(
                f"{entry.where}: starts {SCRIPT} as well, which would make two runs (take that"
                f" line out first): {entry.line}"
            )
    lines = text.removesuffix("\n").split("\n") if text else []
    config = os.path.realpath(job.config)
    own = [n for n, named in blocks_of(lines).items() if os.path.realpath(named) == config]
    if not own and not schedule:
        return text
    if len(own) > 3 or any(SCRIPT not in lines[n] for n in own):
        raise CrontabError(
            f"crontab, line {own[0] + 1}: a second block for {job.config}, or one that holds more"
            " than its entry (correct it with crontab -e)"
        )
    first = own[0] if own else len(lines)
    lines[first : first + len(own)] = job.block(schedule) if schedule else []
    return "".join(f"{line}\n" for line in lines)


def configs_of(command: str) -> Iterator[str]:
    """The configurations for which a command that people wrote starts runs of this script.

    Where it is not clear which script it is, it counts as this one.
    """
    folder = os.path.expanduser("~")
    for part in re.split("[;&|]", command.replace("$HOME", "~")):
        words = re.findall(r"[^\s'\"()<>=]+", part)
        after = dict(zip(words, words[1:]))
        folder = os.path.join(folder, os.path.expanduser(after.get("cd", "")))
        for index, word in enumerate(words):
            if os.path.basename(word) != SCRIPT or ONLY_LOOKS & set(words[index:]):
                continue  # without a look for it: the disks of other people's commands may hang
            path = os.path.join(folder, os.path.expanduser(word))
            if not os.path.exists(path) or os.path.samefile(path, __file__):
                config = os.path.expanduser(after.get("--config", "snapshots.config"))
                yield os.path.join(os.path.dirname(path), config)


def entries_in(text: str, job: CronJob) -> list[CronEntry]:
    """The active lines of a crontab that start runs of this configuration, or may do so.

    A line whose configuration is not clear is among them, and so is another block whose
    directory has gone: it may have been moved to where this one is.
    """
    lines = text.split("\n")
    block_of = blocks_of(lines)
    entries: list[CronEntry] = []
    for index, line in enumerate(lines):
        match = CRON_LINE.fullmatch(line)
        if not match:
            continue
        by_hand = index not in block_of
        ours = [
            config
            for config in (configs_of(match[2]) if by_hand else [block_of[index]])
            if os.path.realpath(config) == os.path.realpath(job.config)
            or not os.path.exists(config if by_hand else os.path.dirname(config))
        ]
        if ours:
            schedule, problem = None, ""
            try:
                schedule = parse_schedule(match[1])
            except ValueError as error:
                problem = str(error)
            where = f"{whose_crontab()}, line {index + 1}{', by hand' if by_hand else ''}"
            entries.append(CronEntry(where, line.strip(), ours[0], by_hand, schedule, problem))
    return entries


def wrong_in(entry: CronEntry, job: CronJob) -> Iterator[CronRemark]:
    """What is wrong with an entry. An "error": it cannot start anything."""
    if entry.problem:
        yield "warning", entry.problem
    to_run = entry.line.partition(">")[0]
    words = to_run.split()
    with contextlib.suppress(ValueError):  # quotes that are not closed
        words = shlex.split(to_run)
    missing = [word for word in words if word.startswith("/") and not os.path.exists(word)]
    folder = dict(zip(words, words[1:])).get("cd", "")
    if missing:
        way_out = "write --install-cron again"
        if entry.by_hand:
            way_out = "correct the line with crontab -e"
        elif not os.path.exists(os.path.dirname(entry.config)):
            old = shlex.quote(entry.config)
            way_out = f"moved? write --remove-cron --config {old}, then --install-cron"
        yield "error", f"{missing[0]} is not there ({way_out})"
    elif job.command[0] not in [os.path.join(folder, word) for word in words]:
        yield "warning", f"it is run by another Python than this, {job.command[0]}"
    if re.search(r"(?<!\\)%", entry.line):
        yield "warning", "a % ends the command there (write \\% with crontab -e)"


def crowding(
    entries: Sequence[CronEntry], run_seconds: Optional[float], now: datetime, zone: tzinfo
) -> Iterator[CronRemark]:
    """A warning where two starts come too soon after each other for a run to end in between.

    entries: of one configuration. run_seconds: how long a run usually takes; None: nobody knows.
    """

    def soon(schedule: Schedule) -> Iterator[datetime]:
        within = itertools.takewhile(
            lambda start: start - now < timedelta(days=32), starts_after(schedule, now, zone)
        )
        return itertools.islice(within, 1500)

    starts = sorted(
        (start, entry.where)
        for entry in entries
        if entry.schedule
        for start in soon(entry.schedule)
    )
    for (first, where), (second, there) in zip(starts, starts[1:]):
        wanted = max(run_seconds or 0, 0 if where == there else 600)
        if (second - first).total_seconds() < wanted:
            yield (
                "warning",
                f"the starts of {second:%Y-%m-%d} at {first:%H:%M} ({where}) and {second:%H:%M}"
                f" ({there}) are too close together: while one run goes on, another ends with"
                " exit status 3",
            )
            return


def next_start(entries: Sequence[CronEntry], after: datetime, zone: tzinfo) -> Optional[datetime]:
    """When cron first starts one of them after a moment; None: never, as far as is known."""
    schedules = [entry.schedule for entry in entries if entry.schedule]
    return min((next(starts_after(s, after, zone)) for s in schedules), default=None)


@dataclass(frozen=True)
class CronState:
    """What cron will do for a configuration, and whether it did what it should."""

    entries: Sequence[CronEntry] = ()
    next_run_at: Optional[datetime] = None  # None: no entry, or none with a schedule
    longest_gap_hours: float = 0  # between two starts; 0: nobody knows
    overdue: Optional[bool] = None  # None: nobody knows
    remarks: Sequence[CronRemark] = ()


def cron_state(job: CronJob, past: Past, now: datetime, running: bool) -> CronState:
    """Read the crontab, and see whether the history shows the runs. Raises SnapshotsError."""
    zone, text = machine_zone(), read_crontab()
    entries = entries_in(text, job)
    gaps = [longest_gap(entry.schedule, now.date()) for entry in entries if entry.schedule]
    remarks = [
        (level, f"{entry.where}: {text}")
        for entry in entries
        for level, text in wrong_in(entry, job)
    ]
    if entries and re.search(r"^\s*CRON_TZ\s*=", text, re.MULTILINE):
        remarks.append(("warning", "CRON_TZ is set in the crontab: some crons start by that zone"))
    ends = [(moment_of(run["started_at"]), moment_of(run["ended_at"])) for run in past.runs]
    moments = [moment_of(past.entry_since), *itertools.chain(*ends[:1])]
    limit = now + CLOCK_MAY_DIFFER  # what is later was written while the clock was wrong
    known = [moment for moment in moments if moment and moment <= limit]
    due = next_start(entries, max(known), zone) if known and not running else None
    overdue = due is not None and due <= now - timedelta(hours=1)
    if due and overdue:
        remarks.append(("error", f"OVERDUE: due {due:%Y-%m-%d %H:%M %Z}, no run has begun"))
    took = [(ended - began).total_seconds() for began, ended in ends if began and ended]
    remarks += crowding(entries, took[0] if took else None, now, zone)
    return CronState(
        entries,
        next_start(entries, now, zone),
        min(gaps, default=timedelta()).total_seconds() / 3600,
        overdue if known and gaps else None,
        remarks,
    )


def next_run_in_words(job: CronJob, clock: Clock) -> str:
    """When cron starts the next run, or '' where that is not known at once; it is advice."""
    with contextlib.suppress(Exception):  # not even a bug in here may cost a run
        entries, now = entries_in(read_crontab(), job), clock.now()
        start = next_start(entries, now, machine_zone())
        return moment_ahead(start, now) if start else ""
    return ""


def moment_ahead(moment: datetime, now: datetime) -> str:
    """'2026-11-26 03:15 CET, in 9 h 42 min'."""
    return f"{moment:%Y-%m-%d %H:%M %Z}, in {span((moment - now).total_seconds())}"


def systemd_units(job: CronJob, schedule: Schedule) -> str:
    """A service and a timer that do what the crontab's entry would."""

    def numbers(values: frozenset[int], all_of_them: int) -> str:
        return "*" if len(values) == all_of_them else ",".join(map(str, sorted(values)))

    weekdays = ",".join(WEEKDAYS[day][:3] for day in sorted(schedule.weekdays)) + " "
    weekdays = "" if len(schedule.weekdays) == 7 else weekdays
    days, months = numbers(schedule.days, 31), numbers(schedule.months, 12)
    dates = [f"{weekdays}*-{months}-{days}"]
    if schedule.either_day:
        dates = [f"{weekdays}*-{months}-*", f"*-{months}-{days}"]
    clock = f"{numbers(schedule.hours, 24)}:{numbers(schedule.minutes, 60)}:00"
    quoted = (json.dumps(word, ensure_ascii=False).replace("$", "$$") for word in job.command)
    command = " ".join(quoted)
    times = "\n".join(f"OnCalendar={day} {clock}" for day in dates)
    return f"""\
# /etc/systemd/system/snapshots.service
[Unit]
Description=Take and prune server snapshots
Wants=network-online.target
After=network-online.target
[Service]
Type=oneshot
User={os.geteuid()}
WorkingDirectory={job.config.parent}
ExecStart={command}
SuccessExitStatus=3
# /etc/systemd/system/snapshots.timer, then: systemctl enable --now snapshots.timer
[Unit]
Description=Start snapshots.service
[Timer]
{times}
Persistent=true
[Install]
WantedBy=timers.target"""


def in_powershell(text: str) -> str:
    """A text literal of PowerShell, for which the typographic quotes are single quotes as well."""
    return "'" + re.sub("['\u2018-\u201b]", lambda sign: sign[0] * 2, text) + "'"


def scheduled_task(job: CronJob, schedule: Optional[Schedule], looks: bool) -> str:
    """PowerShell that does what --install-cron, --show-cron (looks) or --remove-cron would.

    Raises CrontabError if the Task Scheduler cannot start it like that.
    """
    name = in_powershell(re.sub(r'[\\/:*?"<>|]', "-", f"{SCRIPT} {job.config}"))
    if looks:
        return f"Get-ScheduledTask -TaskName {name} | Get-ScheduledTaskInfo"
    if schedule is None:
        return f"Unregister-ScheduledTask -TaskName {name} -Confirm:$false"
    times = [f"{hour:02}:{minute:02}" for hour, minute in schedule.times]
    weekly = not schedule.every_day and len(schedule.days) == 31 and not schedule.either_day
    if not (schedule.every_day or weekly) or len(schedule.months) < 12 or len(times) > 48:
        raise CrontabError(
            f"{schedule.text}: the Task Scheduler knows up to 48 times of day, and days of the week"
            " (use @hourly, and min_interval_hours)"
        )
    days = ",".join(WEEKDAYS[day] for day in sorted(schedule.weekdays))
    kind = f"-Weekly -DaysOfWeek {days}" if weekly else "-Daily"
    triggers = "\n".join(f"  New-ScheduledTaskTrigger {kind} -At '{time}'" for time in times)
    program, folder = in_powershell(job.command[0]), in_powershell(str(job.config.parent))
    options = in_powershell(subprocess.list2cmdline(job.command[1:]))
    return f"""\
$action = New-ScheduledTaskAction -Execute {program} -WorkingDirectory {folder} `
  -Argument {options}
$triggers = @(
{triggers}
)
$settings = New-ScheduledTaskSettingsSet -StartWhenAvailable -MultipleInstances IgnoreNew `
  -ExecutionTimeLimit ([TimeSpan]::Zero) -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries
Register-ScheduledTask -TaskName {name} -Force -Action $action -Trigger $triggers `
  -Settings $settings"""


def show_schedule(schedule: Schedule, world: Runtime) -> None:
    """The schedule in words, and its next three starts."""
    now = world.clock.now()
    starts = itertools.islice(starts_after(schedule, now, machine_zone()), 3)
    coming = (f"next run: {moment_ahead(start, now)}" for start in starts)
    world.screen.out(in_words(schedule), *coming)


def change_cron(
    job: CronJob, schedule: Optional[Schedule], history: History, dry_run: bool = False
) -> None:
    """Put the block into the crontab, or take it out, and have the history remember when; dry_run:
    show it only. Raises CrontabError."""
    screen = history.world.screen
    if schedule:
        screen.out(*job.block(schedule))
    try:
        old = read_crontab()
    except CrontabError as error:
        if schedule:
            screen.out(*systemd_units(job, schedule).split("\n"))
            way_out = "put the block above in with crontab -e, or use the systemd timer above"
        else:
            screen.out(*job.block(None))
            way_out = "take these two lines, and what is between them, out with crontab -e"
        raise CrontabError(f"{error}; nothing was written ({way_out})") from None
    new = changed_text(old, job, schedule)
    if dry_run:
        gone = [line for line in old.split("\n") if line not in new.split("\n")]
        screen.out(*(f"would be taken out: {line}" for line in gone))
        screen.out("dry run: nothing was written")
    elif new == old:
        found = "this entry is there already" if schedule else f"no entry for {job.config}"
        screen.out(f"{whose_crontab()}: {found}; nothing was changed")
    else:
        new, backup = change_crontab(old, job, schedule, history.world.clock)
        done = "the entry is in place" if schedule else "the entry was taken out"
        screen.out(f"{whose_crontab()}: {done} (as it was before: {backup})")
        problem = history.entry_is_new()
        if problem:
            history.world.warn(f"{history.path}: cannot be written: {problem}")
    for entry in entries_in(new, job):
        if entry.by_hand:
            screen.problem(
                f"{entry.where}: still starts {SCRIPT} (take that line out with crontab -e):"
                f" {entry.line}"
            )


# === Looking ==================================================================================
# Reads only, without the lock. One document, a plain dict of the whole picture, is made; each
# output renders it. Its keys stand in the README; those that begin with _ are for people alone.

LOOKS = ("list", "status", "check", "report")
STATES = ("never", "stale", "failed", "unknown", "ok")  # of a server, the worst first
Document = dict[str, Any]
Learned = tuple[Sequence[Snapshot], Optional[tuple[float, str]]]  # an account's listing and price
Finding = tuple[str, ...]  # level, as a CronRemark has it; subject; what was found; perhaps a fix


def age_text(seconds: float) -> str:
    """'42 min', '9 h', '3 d'."""
    if seconds < 3600:
        return f"{max(seconds, 0) // 60:.0f} min"
    return f"{seconds // 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds // 86400:.0f} d"


class View:
    """What a document is made from."""

    def __init__(self, kind: str, world: Runtime, settings: Settings) -> None:
        self.kind, self.world, self.settings = kind, world, settings
        self.now = world.clock.now()
        self.servers: list[Document] = []
        self.more: Document = {}  # what only this kind of document has
        if kind == "status":
            self.more = {"running": None, "last_run": None, "schedule": None, "_cron": []}
        elif kind == "check":
            self.more = {"findings": [], "uncovered_servers": []}
        self.findings: list[Finding] = []  # about all but how fresh servers are
        self.saw_nothing = False  # there was nothing that could be looked at
        self.holder: Optional[int] = None  # of the lock
        try:
            self.holder = run_holds_lock(settings.lock_path)
        except LockError as error:
            if kind == "status":
                self.findings.append(("unknown", "", str(error)))
        self.past = read_history(settings.history_path, self.holder)
        if self.past.problem and kind != "check":
            self.findings.append(("unknown", "", self.past.problem))
            self.saw_nothing = kind == "status"
        self.cron = CronState()

    def finish(self) -> Document:
        """The document, now that all is known that is wrong ("problem") or could not be asked."""
        wrong = [finding for finding in self.findings if finding[0] in ("error", "unknown")]
        others = [": ".join(filter(None, finding[1:3])) for finding in wrong]
        bad = [server for server in self.servers if server["state"] != "ok"]
        if self.kind == "check":  # how fresh they are is not its business
            bad, keys = [], ("level", "subject", "finding", "fix")
            filled = (itertools.zip_longest(keys, each, fillvalue="") for each in self.findings)
            self.more["findings"] = [dict(finding) for finding in filled]
        levels = {finding[0] for finding in wrong} | {server["state"] for server in bad}
        result = "unknown" if levels == {"unknown"} else "problem"
        return {
            "schema": 1,
            "kind": self.kind,
            "version": __version__,
            "host": self.world.hostname,
            "generated_at": utc_text(self.now),
            "result": result if levels else "ok",
            "problems": others + [f"{s['name']}: {s['state']}: {s['_why']}" for s in bad],
            "servers": self.servers,
            "_others": others,
            **self.more,
        }

    def add_server(
        self, entry: Entry, newest: Optional[datetime], looked: bool, error: str
    ) -> Document:
        """A server's part. newest: its newest usable snapshot of ours, if a look (`looked`) has
        found one. error: why nobody could look."""
        row = self.past.servers.get((entry.provider, entry.id), {})
        state, why, due = "unknown", error or "no run recorded yet", None
        age = (self.now - newest).total_seconds() if newest else 0.0
        if isinstance(entry, BadServer):
            why = entry.error
        elif not error:
            if newest and entry.min_interval_hours:
                due = next_due(newest, entry.min_interval_hours)
            gaps = (entry.min_interval_hours, self.cron.longest_gap_hours)
            limit = entry.stale_after_hours or max(36.0, 1.5 * max(gaps))
            if looked and newest is None:
                state, why = "never", "no snapshot of this tool's"
            elif age < -CLOCK_MAY_DIFFER.total_seconds():
                state, why = "stale", "its newest snapshot is dated in the future"
            elif age > limit * 3600:
                state, why = "stale", f"newest {age_text(age)} old (limit {limit:g} h)"
            elif row.get("failed"):
                state, why = "failed", f"the last turn failed: {row['error']}"
            elif newest is not None:
                state, why = "ok", f"newest {age_text(age)} old"
        server: Document = {
            "provider": None if entry.provider == "unknown" else entry.provider,
            "server_id": None if entry.id == "unknown" else entry.id,
            "name": entry.name,
            "state": state,
            "last_success_at": row.get("success_at"),
            "last_failure_at": row.get("failure_at"),
            "last_error": row.get("error"),
            "next_due_at": utc_text(due),
            "_why": why,
            "_newest_age": max(age, 0.0) if newest else None,
        }
        self.servers.append(server)
        return server


# --- --status: from the history, asking nobody ---


def view_status(view: View, entries: Sequence[Entry]) -> None:
    """Fill in what the history knows."""
    for entry in entries:
        row = view.past.servers.get((entry.provider, entry.id), {})
        newest, looked = moment_of(row.get("newest_at")), row.get("looked_at") is not None
        view.add_server(entry, newest, looked, view.past.problem)


def ask_machine(view: View, job: CronJob) -> None:
    """Fill in the run under way, the last one, and what cron will do."""
    running: Optional[Document] = None
    if view.holder is not None:
        nothing = dict.fromkeys(("started_at", "done", "failed", "total", "progress_percent"))
        running = {**nothing, "servers": []}
        run = view.past.running
        if run is not None:
            running["started_at"], running["total"] = run["started_at"], run["total"]
            running.update(json.loads(run["progress"] or "{}"))
    keys = ("started_at", "ended_at", "exit_status")
    last = {key: view.past.runs[0][key] for key in keys} if view.past.runs else None
    if shutil.which("crontab"):
        try:
            view.cron = cron_state(job, view.past, view.now, running is not None)
        except CrontabError as error:
            view.cron = CronState(remarks=[("unknown", str(error))])
    if view.kind == "status":
        view.more = {"running": running, "last_run": last, "schedule": schedule_of(view)}
        view.more["_cron"] = list(cron_findings(view))
        view.findings += [(level, "", text) for level, text in view.cron.remarks]
        if last and last["ended_at"] is None:
            text = f"the run that began {shown_time(last['started_at'])} never ended"
            view.findings.append(("error", "", text))


def cron_findings(view: View) -> Iterator[CronRemark]:
    """Each entry, the next run, and what is wrong."""
    cron = view.cron
    for entry in cron.entries:
        words = in_words(entry.schedule) if entry.schedule else entry.line
        yield "ok", f"{entry.where}: {words}"
    if cron.next_run_at:
        yield "ok", f"next run: {moment_ahead(cron.next_run_at, view.now)}"
    yield from cron.remarks
    if ON_WINDOWS:
        yield "ok", "the Task Scheduler starts runs (--show-cron prints how to ask it)"
    elif not (cron.entries or cron.remarks):
        way_out = "write --install-cron nightly, unless something else starts runs"
        yield "ok", f"no entry for this configuration ({way_out})"


def schedule_of(view: View) -> Optional[Document]:
    """Cron's entry, as the document has it."""
    cron = view.cron
    if not cron.entries:
        return None
    wait = (cron.next_run_at - view.now).total_seconds() if cron.next_run_at else None
    return {
        "entry": "\n".join(entry.line for entry in cron.entries),
        "words": "; ".join(in_words(e.schedule) for e in cron.entries if e.schedule) or None,
        "next_run_at": utc_text(cron.next_run_at),
        "minutes_until_next_run": None if wait is None else int(wait // 60),
        "overdue": cron.overdue,
    }


def show_cron(job: CronJob, settings: Settings, world: Runtime) -> CronState:
    """Show the entries of this configuration, and what is wrong with them. Raises CrontabError."""
    past = read_history(settings.history_path)
    running = True  # or not: whether one is overdue, --status says
    cron = cron_state(job, past, world.clock.now(), running)
    if not cron.entries:
        world.screen.out(f"{whose_crontab()}: no entry for {job.config}")
    for entry in cron.entries:
        world.screen.out(f"{entry.where}: {entry.line}")
        if entry.schedule:
            show_schedule(entry.schedule, world)
    world.screen.problem(*(f"{level}: {text}" for level, text in cron.remarks))
    return cron


def shown_time(text: Optional[str]) -> str:
    """A moment of the document in local time; '-' for none."""
    moment = moment_of(text)
    return clock_time(moment) if moment else "-"


def status_lines(document: Document, width: Optional[int]) -> Iterator[str]:
    """--status for people."""
    running, last = document["running"], document["last_run"]
    if running is None:
        yield "no run is under way"
    else:
        how_far = "its progress is not known"
        if running["done"] is not None:
            shown = "{done} done, {failed} failed of {total} ({progress_percent} %)"
            how_far = shown.format_map(running)
        yield f"a run is under way since {shown_time(running['started_at'])}: {how_far}"
        for turn in running["servers"]:
            percent = turn["progress_percent"]
            yield f"  {turn['name']}: {turn['doing']}" + (f" {percent} %" if percent else "")
    if last is not None and last["ended_at"] is None:
        yield f"last run: begun {shown_time(last['started_at'])}, never ended (killed?)"
    elif last is not None:
        yield (
            f"last run: {shown_time(last['started_at'])} to {shown_time(last['ended_at'])},"
            f" exit status {last['exit_status']}"
        )
    else:
        yield "last run: none is recorded"
    for level, text in document["_cron"]:
        yield "cron: " + ("" if level == "ok" else f"{level}: ") + text
    rows = [("SERVER", "STATE", "LAST SUCCESS", "LAST FAILURE", "WHY")]
    for server in document["servers"]:
        why = server["_why"]
        if server["last_error"] and server["state"] != "failed":
            why += f"; last failure: {server['last_error']}"
        times = (shown_time(server["last_success_at"]), shown_time(server["last_failure_at"]))
        rows.append((server["name"], server["state"].upper(), *times, why))
    yield from aligned(rows, width)
    yield f"RESULT: {verdict_line(document)}"


def aligned(rows: Sequence[Sequence[str]], width: Optional[int], right: str = "") -> list[str]:
    """Rows in columns; the numbers in `right` name those with numbers. width: of a terminal; the
    first column is cut where the rows would not fit, but not so far that names are all alike."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    fixed = sum(widths[1:-1]) + 2 * (len(widths) - 1)
    if width is not None:
        widths[0] = min(widths[0], max(24, width - fixed - min(widths[-1], 30)))
    lines = []
    for row in rows:
        cells = [
            cell.rjust(size) if str(index) in right else shortened(cell, size).ljust(size)
            for index, (cell, size) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


# --- asking the clouds: a listing for each account, all at once ---


def ask_accounts(
    view: View, servers: Sequence[Server], ask: Callable[[Turn, list[Server]], T], whole: bool
) -> Iterator[tuple[list[Server], Optional[T], str]]:
    """For each account its servers, what ask has learned of them, and why it failed; all accounts
    are asked at once. whole: also where each server has a listing of its own; else each of those is
    an account of its own."""
    accounts: dict[tuple[str, ...], list[Server]] = {}
    for server in servers:
        alone = () if whole or PROVIDERS[server.provider].lists_account else (server.source,)
        accounts.setdefault((server.provider, *server.credentials, *alone), []).append(server)
    units, answers = list(accounts.values()), dict[int, T]()

    def read(turn: Turn) -> None:
        answers[turn.place] = ask(turn, units[turn.place])

    fleet = read_at_once(view.world, view.settings, [unit[0] for unit in units], read)
    for index, unit in enumerate(units):
        yield unit, answers.get(index), fleet.reports[index].error


# --- --list ---


def expected_next(ours: Sequence[Snapshot], now: datetime, cron: CronState) -> datetime:
    """When the next snapshot will probably be made: as long after the newest as is usual (the
    median of the last gaps), else when cron starts the next run, else now."""
    moments = sorted(s.created for s in ours if s.created is not None and s.created <= now)[-6:]
    gaps = sorted(later - earlier for earlier, later in zip(moments, moments[1:]))
    if not gaps:
        return cron.next_run_at or now
    return max(now, moments[-1] + gaps[len(gaps) // 2])


def view_list(view: View, entries: Sequence[Entry]) -> None:
    """Fill in what the clouds hold, with the fate of each snapshot."""

    def ask(turn: Turn, servers: list[Server]) -> Learned:
        listing = turn.provider.list_snapshots([server.id for server in servers])
        try:
            return listing, turn.provider.price_per_gb()
        except SnapshotsError as error:
            view.world.screen.problem(f"warning: {error}")
            return listing, None

    good = [entry for entry in entries if isinstance(entry, Server)]
    asked = list(ask_accounts(view, good, ask, whole=False))
    learned = {s.source: (answer, error) for unit, answer, error in asked for s in unit}
    view.saw_nothing = not any(answer for answer, _ in learned.values())
    facts = ("snapshots", "kept", "foreign", "stored_gb", "monthly_cost", "currency")
    for entry in entries:
        answer, error = learned.get(entry.source, (None, ""))
        if isinstance(entry, BadServer) or answer is None:
            server = view.add_server(entry, None, False, error)
            server.update(dict.fromkeys(("last_success_at", *facts)))
            continue
        listing, price = answer
        mine = [s for s in listing if s.server_id == entry.id]
        ours = owned(mine, entry.id, *labels_of(entry))
        newest = newest_of(ours, view.now)
        server = view.add_server(entry, newest, True, "")
        stored = total_or_none(s.size_gb for s in ours)
        due = moment_of(server["next_due_at"]) or view.now
        pending = max(expected_next(ours, view.now, view.cron), due)
        most = view.settings.retention.max_deletes_per_run
        plan = plan_retention(ours, entry.policy, most, pending=pending)
        server.update(
            last_success_at=utc_text(newest),
            snapshots=list(fates(entry, mine, plan)),
            kept=len(ours),
            foreign=len(mine) - len(ours),
            stored_gb=stored,
            monthly_cost=None if stored is None or price is None else round(stored * price[0], 4),
            currency=price[1] if price else None,
        )


def fates(server: Server, mine: Sequence[Snapshot], plan: Plan) -> Iterator[Document]:
    """All of a server's snapshots, newest first, with what the next run would do to them."""
    known = {snapshot.id: (fate, why) for snapshot, fate, why in plan_in_words(plan)}
    for snapshot in sorted(mine, key=lambda s: s.created or LONG_AGO, reverse=True):
        left_alone = ("left alone", (why_not_ours(snapshot, server.id, *labels_of(server)),))
        fate, why = known.get(snapshot.id, left_alone)
        yield {
            "id": snapshot.id,
            "name": snapshot.name,
            "created_at": utc_text(snapshot.created),
            "size_gb": snapshot.size_gb,
            "ours": snapshot.id in known,
            "fate": fate,
            "reasons": list(why),
        }


def list_lines(document: Document, width: Optional[int]) -> Iterator[str]:
    """--list for people: for each server a line and its snapshots, at the end the totals."""
    now, costs = moment_of(document["generated_at"]), collections.Counter[str]()
    sizes: list[Optional[float]] = []
    rows = [("  SNAPSHOT", "ID", "AGE", "GB", "FATE")]
    for server in document["servers"]:
        for snapshot in server["snapshots"] or ():
            made, size = moment_of(snapshot["created_at"]), snapshot["size_gb"]
            age = age_text((now - made).total_seconds()) if now and made else "-"
            fate = ": ".join(filter(None, (snapshot["fate"], ", ".join(snapshot["reasons"]))))
            shown = "-" if size is None else f"{size:.1f}"
            rows.append((f"  {snapshot['name'] or '-'}", snapshot["id"], age, shown, fate))
            if snapshot["ours"]:
                sizes.append(size)
    lines = aligned(rows, width, right="123")
    header, rest = lines[0], iter(lines[1:])
    for server in document["servers"]:
        where = f"{server['provider'] or '-'} {server['server_id'] or '-'}"
        facts = [f"{server['state'].upper()}: {server['_why']}"]
        if server["kept"] is not None:
            ours = total_gb(s["size_gb"] for s in server["snapshots"] if s["ours"])
            facts += [f"{server['kept']} kept", f"{ours} GB"]
            facts += [f"{server['foreign']} left alone"] if server["foreign"] else []
        if server["monthly_cost"] is not None:
            net = " net" if server["provider"] == "hetzner" else ""
            words = f"{server['currency']} a month{net}"  # amounts in these words may be added
            facts.append(f"{server['monthly_cost']:.2f} {words}")
            costs[words] += server["monthly_cost"]
        yield one_line(f"{server['name']} ({where})  {', '.join(facts)}")
        if server["snapshots"]:
            yield header
            yield from itertools.islice(rest, len(server["snapshots"]))
    cost = "".join(f", {amount:.2f} {words}" for words, amount in costs.items())
    counts = counted(len(document["servers"]), "server")
    counts += f", {counted(len(sizes), 'snapshot')} of this tool's"
    yield f"TOTAL: {counts}, {total_gb(sizes)} GB{cost}"
    yield f"RESULT: {verdict_line(document)}"


# --- --check: the doctor before the first night ---

CRON_LACKS = (
    *("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
ROOM_MB = 10  # for the log, the history and the report of some nights
PAM_OF_CRON, ENVIRONMENT_OF_PAM = Path("/etc/pam.d/cron"), Path("/etc/environment")
REFUSALS = (Outcome.UNAUTHORIZED, Outcome.FORBIDDEN, Outcome.REJECTED)  # of credentials
HOPELESS = (*REFUSALS, Outcome.GONE, Outcome.UNUSABLE)


def view_check(view: View, names: Sequence[str]) -> Iterator[Finding]:
    """Everything that tonight's run needs, well or not, from the nearest to the farthest."""
    settings = view.settings
    for problem in settings.problems:
        yield "error", "configuration", problem
    yield from check_files(settings, view.past.problem)
    for level, text in cron_findings(view):
        yield level, "crontab", text
    if settings.problems:
        return
    try:
        entries, remarks = load_entries(names, settings, view.world)
        everyone = load_servers([], settings)[0] if names else entries
    except ConfigError as error:
        yield "error", "configuration", str(error)
        return
    warnings = remark_lines(remarks, Level.WARNING)
    for warning in warnings:
        yield "warning", "configuration", warning
    good = [entry for entry in entries if isinstance(entry, Server)]
    if not warnings and len(good) == len(entries):
        yield "ok", "configuration", "can be used as it is"
    view_status(view, entries)
    for bad in entries:
        if isinstance(bad, BadServer):
            yield "error", bad.name, bad.error
    channels = sorted({d.channel for entry in entries for d in entry.destinations})
    monitors = {host_of(getattr(settings.ping, key)) for key in readers_of(PingSection)} - {""}
    mute = [s for s in good if not any(d.notify_on_failure for d in s.destinations)]
    unheard = [server.name for server in mute if not (server.ping_url or monitors)]
    if len(unheard) == len(good) and not (channels or monitors):
        yield "warning", "notifications", NO_CHANNEL, "write --setup, unless something else watches"
    else:
        yield "ok", "notifications", f"go over {', '.join(channels) or 'no channel'}"
        if unheard:
            text = f"nobody is notified of a failure of {Items(unheard, ', ').cut(200)}"
            way_out = "set enabled and notify_on_failure to true for a channel of theirs"
            yield "warning", "notifications", text, way_out
    if monitors:
        yield "ok", "ping", f"every run without FILE calls {', '.join(sorted(monitors))}"
    yield from check_environment(settings, good)
    theirs: dict[tuple[str, str], str] = {}

    def ask(turn: Turn, servers: list[Server]) -> list[Finding]:
        try:
            listed = turn.provider.list_servers()
            provider = servers[0].provider
            theirs.update({(provider, key): it.names[0] for key, it in listed.items()})
            return list(check_account(turn, servers, listed))
        except ApiError as error:
            level = "error" if error.outcome in HOPELESS else "unknown"
            return [(level, account_name(servers), str(error))]

    for servers, findings, why in ask_accounts(view, good, ask, whole=True):
        yield from findings or [("unknown", account_name(servers), why)]
    covered = set(map(server_of, everyone))
    for (provider, server_id), name in sorted(theirs.items()):
        if (provider, server_id) not in covered:
            uncovered = {"provider": provider, "server_id": server_id, "name": name}
            view.more["uncovered_servers"].append(uncovered)
            where = f"{PROVIDERS[provider].title} server {server_id}"
            fix = "write --setup, if it needs snapshots"
            yield "warning", name, f"{where} is covered by no server file", fix


def account_name(servers: Sequence[Server]) -> str:
    """An account, by one of its servers."""
    more = f" and {len(servers) - 1} more" if len(servers) > 1 else ""
    return f"{PROVIDERS[servers[0].provider].title} account of {servers[0].name}{more}"


def check_account(
    turn: Turn, servers: Sequence[Server], listed: Mapping[str, Listed]
) -> Iterator[Finding]:
    """An account's credentials, clock, servers and snapshots. listed: all servers of the account.
    Raises ApiError."""
    provider, clock = turn.provider, turn.world.clock
    account = account_name(servers)
    yield "ok", account, "the credentials may read; whether they may write, only a run shows"
    there = turn.account.api.server_time(clock.monotonic())
    off = (clock.now() - there).total_seconds() if there else 0.0
    if abs(off) > 60:
        words = f"this machine's clock is {span(abs(off))} {'ahead' if off > 0 else 'behind'}"
        yield "warning", account, words, "synchronise it, with NTP for example"
    present = [server.id for server in servers if server.id in listed]
    listing = provider.list_snapshots(present) if present else ()
    for server in servers:
        if server.id not in listed:
            words = f"there is no server {server.id} for these credentials"
            fix = "correct id, take its project's token, or remove the file if it was deleted"
            yield "error", server.name, words, fix
            continue
        names = listed[server.id].names
        by_setup = f"{names[0]}-{server.id}"  # where there is another one of that name
        fix = f"right if {server.id} is the server you mean"
        fix = "" if server.name in (*names, by_setup) else fix
        words = "exists under this name" if server.name in names else f"is called {names[0]}"
        yield "warning" if fix else "ok", server.name, f"{words} at {provider.title}", fix
        mine = [s for s in listing if s.server_id == server.id]
        foreign = len(mine) - len(owned(mine, server.id, *labels_of(server)))
        if foreign:
            words = f"has {counted(foreign, 'snapshot')} not made by this tool: left alone"
            yield "ok", server.name, words


def check_files(settings: Settings, unreadable: str) -> Iterator[Finding]:
    """Can the run write its files, and are they this user's? unreadable: why the history cannot be
    read, or ''."""
    logs = settings.logs_dir
    place = next(place for place in (logs, *logs.parents) if os.path.lexists(place))
    if not os.path.isdir(place):
        yield "error", "logs_dir", f"{place} is not a directory", "remove it, or choose another"
    elif not os.access(place, os.W_OK | os.X_OK):
        yield "error", "logs_dir", f"{place} cannot be written to", "run it as its owner"
    else:
        yield "ok", "logs_dir", f"{logs} can be written to"
    with contextlib.suppress(OSError, AttributeError):  # not every system can tell
        free = shutil.disk_usage(place).free / 1e6
        if free < ROOM_MB:
            words = f"{logs}: its disk has room for {free:.1f} MB more"
            yield "warning", "logs_dir", words, "make room"
    for path in (settings.lock_path, settings.log_path, settings.history_path):
        level = "error" if path == settings.lock_path else "warning"  # without it there is no run
        if not os.path.lexists(path):
            continue
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            yield level, path.name, f"{path} is not a regular file of its own", "remove it"
        elif not os.access(path, os.W_OK):
            yield level, path.name, f"{path} cannot be written", "run it as its owner"
        elif not ON_WINDOWS and status.st_uid != os.geteuid():
            yield "warning", path.name, f"{path} belongs to another user", "run it as one user only"
        elif path == settings.history_path and unreadable:
            yield level, path.name, unreadable


def variables_of_cron() -> set[str]:
    """What this user's crontab sets; and /etc/environment, where cron has PAM read that, as
    Debian's has (pam_env(8), read 2026-11)."""
    texts: list[str] = []
    with contextlib.suppress(CrontabError):
        texts.append(read_crontab())
    with contextlib.suppress(OSError, ValueError):
        if re.search(
            r"^session\s.*\bpam_env\.so\s*$", PAM_OF_CRON.read_text("utf-8"), re.MULTILINE
        ):
            texts.append(ENVIRONMENT_OF_PAM.read_text("utf-8"))
    lines = re.compile(r"""^\s*(?:export\s+)?["']?(\w+)["']?\s*=\s*\S""", re.MULTILINE)
    return {name for text in texts for name in lines.findall(text)}


def check_environment(settings: Settings, servers: Sequence[Server]) -> Iterator[Finding]:
    """What this shell has and cron will not."""
    secrets: list[str] = [*settings.secrets.values()]
    secrets += [s for server in servers for s in (*server.secrets, *server.credentials)]
    names = {s.variable for s in secrets if isinstance(s, SecretText)} - {""}
    given = variables_of_cron()
    found = [f"env:{name}" for name in sorted(names - given)]
    found += [n for n in CRON_LACKS for n in (n, n.lower()) if os.environ.get(n) and n not in given]
    for name in found:
        words = f"{name} is set in this shell; cron does not have it by itself"
        fix = "use file:" if name.startswith("env:") else "set it in the crontab"
        yield "warning", "environment", words, fix


def check_lines(document: Document, width: Optional[int]) -> Iterator[str]:
    """--check for people: a line for each finding, then the verdict."""
    rows = [
        (f["level"], f["subject"], f["finding"] + (f" ({f['fix']})" if f["fix"] else ""))
        for f in document["findings"]
    ]
    yield from aligned(rows, None)
    levels = collections.Counter(row[0] for row in rows)
    parts = [counted(levels[level], level) for level in ("error", "warning") if levels[level]]
    parts += [f"{levels['unknown']} could not be checked"] if levels["unknown"] else []
    yield f"RESULT: {', '.join(parts) or 'all well'}"


# --- outputs ---


def without_private(value: Any, redact: Redactor) -> Any:
    """The document for programs: masked, and without what is for people alone."""
    if isinstance(value, dict):
        return {k: without_private(v, redact) for k, v in value.items() if not k.startswith("_")}
    if isinstance(value, list):
        return [without_private(item, redact) for item in value]
    return redact(clean(value)) if isinstance(value, str) else value


def verdict_line(document: Document) -> str:
    """'1 stale: mail; 2 never: db, web', or 'all well'."""
    parts = []
    for state in STATES[:-1]:
        names = sorted(s["name"] for s in document["servers"] if s["state"] == state)
        if names:
            parts.append(f"{len(names)} {state}: {Items(names, ', ').cut(200)}")
    return "; ".join([*parts, *document["_others"]]) or "all well"


def nagios_of(document: Document) -> tuple[int, str]:
    """The exit status of a plugin and its line: the verdict with perfdata.
    https://www.monitoring-plugins.org/doc/guidelines.html"""
    servers = document["servers"]
    count = collections.Counter(server["state"] for server in servers)
    if count["never"] or count["stale"] or (document.get("schedule") or {}).get("overdue"):
        status = 2
    elif count["failed"]:
        status = 1
    else:
        status = 0 if document["result"] == "ok" and servers else 3
    word = ("OK", "WARNING", "CRITICAL", "UNKNOWN")[status]
    ages = [s["_newest_age"] for s in servers if s["_newest_age"] is not None]
    data = [f"{s}={count[s]};;;0;{len(servers)}" for s in STATES[:-1]]
    data += [f"oldest={max(ages):.0f}s;;;0"] if ages else []
    line = f"SNAPSHOTS {word} - " + verdict_line(document).replace("|", "/")
    return status, f"{line} | {' '.join(data)}" if servers else line  # no zeros in place of unknown


def look(args: argparse.Namespace, settings: Settings, world: Runtime) -> int:
    """Look instead of a run. Returns 0 where all is well, 2 where something is not, 1 where nothing
    could be looked at; with --nagios what plugins return."""
    kind: str = args.command
    view = View(kind, world, settings)
    try:
        ask_machine(view, cron_job(args.config, settings))
        if kind == "check":
            view.findings.extend(view_check(view, args.files))
        elif settings.problems:
            raise ConfigError(settings.problems)
        else:
            entries, _ = load_entries(args.files, settings, world)
            (view_list if kind == "list" else view_status)(view, entries)
    except Exception as error:  # noqa: BLE001  (as in run_command)
        view.saw_nothing = True
        problems: Sequence[str] = [message_of(error, world.redact)]
        problems = error.problems if isinstance(error, ConfigError) else problems
        subject = "check" if kind == "check" else ""
        view.findings += [("error", subject, problem) for problem in problems]
    document, screen = view.finish(), world.screen
    if args.nagios:
        status, line = nagios_of(document)
        screen.quiet = False
        screen.out(line)
        return status
    if args.json:
        screen.document(json.dumps(without_private(document, world.redact), indent=2))
    elif args.quiet or not (document["servers"] or kind == "check"):
        screen.problem(*document["problems"])
    else:
        width = terminal_width() if is_terminal(sys.stdout) else None
        lines_of = {"list": list_lines, "status": status_lines, "check": check_lines}
        screen.out(*lines_of[kind](document, width))
    if screen.lost:  # what a look shows is all that it is for
        screen.problem(f"stdout: cannot be written: {screen.lost}")
    if view.saw_nothing or screen.lost:
        return ExitStatus.FAILED
    return ExitStatus.OK if document["result"] == "ok" else ExitStatus.PARTLY_FAILED


# === Report page ==============================================================================
# One HTML file that needs nothing else: no script, no request, and a policy that says so. It shows
# what --status shows, and the history in pictures. Every state is a word as well as a colour.

RUN_ENDS = {  # by exit status: a class, and words
    0: ("ok", "all well"),
    1: ("failed", "failed"),
    2: ("partly", "some failed"),
    None: ("unended", "never ended"),
}
PAGE_HEAD = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --back: #fff;
  --ok: #1a7f37; --failed: #cf222e; --warn: #9a6700; --gone: #8b949e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d;
  --back: #0d1117; --ok: #3fb950; --failed: #f85149; --warn: #d29922; --gone: #6e7681; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  margin: 0 auto; max-width: 62rem; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; } .until { font-size: 1.15rem; } .soft { color: var(--soft); }
article { border-top: 1px solid var(--line); padding: .6rem 0; display: grid;
  grid-template-columns: 6.5rem minmax(16rem, 1fr) minmax(12rem, 1fr); gap: 0 1rem; }
article .wide { grid-column: 2 / -1; } b.state { text-transform: uppercase; }
.ok { color: var(--ok); fill: var(--ok); }
.failed, .never { color: var(--failed); fill: var(--failed); }
.stale, .partly { color: var(--warn); fill: var(--warn); }
.unknown, .unended { color: var(--gone); fill: var(--gone); }
svg { display: block; width: 100%; max-width: 30rem; border-bottom: 1px solid var(--line); }
svg.strip { height: 1.4rem; } svg.chart { height: 5rem; }
@media (max-width: 40rem) { article { grid-template-columns: 5.5rem 1fr; } article > * + * + * {
  grid-column: 2; } }
</style>
"""
PAGE_BODY = """\
<title>Snapshots of {host}</title></head>
<body>
<h1>Snapshots of {host}</h1>
<p class="until">As of {at}. {until}</p>
<p>{states}</p>
{problems}
<h2>The last {last_runs}</h2>
{runs}
<p>{run_ends}</p>
{seconds}
{stored_gb}
<h2>Servers</h2>
{servers}
<p class="soft">made by snapshots {version}</p>
</body></html>
"""
PAGE_SERVER = """\
<article><b class="state {state}">{state}</b>
<div><b>{name}</b> <span class="soft">{provider} {server_id}</span>
<p>last success: {success}</p></div>
<div>{turns}</div>{failure}</article>"""
PAGE_BEGINS = PAGE_HEAD[: PAGE_HEAD.index("<meta")].encode("ascii")
Mark = tuple[str, str]  # of a run or a turn: its state, and what to say of it


class Html(str):
    """A part of the page: what has to be escaped in it has been."""

    __slots__ = ()


def page_part(template: str, **values: object) -> Html:
    """A template with each value escaped, but for those that are parts of the page themselves."""
    shown = {
        name: value
        if isinstance(value, Html)
        else html.escape("-" if value is None else str(value))
        for name, value in values.items()
    }
    return Html(fill(template, shown))


def moment_text(text: Optional[str]) -> str:
    """A time of a document (UTC with Z) in local time, with its zone; '' for None."""
    return local_time(isoparse(text)).strftime("%Y-%m-%d %H:%M %Z") if text else ""


def bars(kind: str, label: str, marks: Sequence[Mark], heights: Sequence[float] = ()) -> Html:
    """A picture of the last runs or turns, oldest first, with a place for each of PAGE_RUNS.
    heights: from 0 to 1; where there are none, they say as the colours do whether all was well."""
    heights = heights or [1.0 if state == "ok" else 0.8 for state, _ in marks]
    shown = ""
    for place, ((state, words), share) in enumerate(zip(marks, heights), PAGE_RUNS - len(marks)):
        height = round(20 * share, 1)
        shown += f'<rect class="{state}" x="{10 * place}" y="{20 - height:g}" width="8"'
        shown += f' height="{height:g}"><title>{html.escape(words)}</title></rect>'
    box = f'viewBox="0 0 {10 * PAGE_RUNS} 20" preserveAspectRatio="none"'
    label = html.escape(label)
    return Html(f'<svg class="{kind}" role="img" aria-label="{label}" {box}>{shown}</svg>')


def chart(
    label: str,
    show: Callable[[float], str],
    runs: Sequence[Mark],
    values: Sequence[Optional[float]],
) -> Html:
    """A value of each run as a bar, and in words the last, the lowest and the highest one."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return page_part('<p class="soft">{label}: not enough runs so far</p>', label=label)
    words = f"{label}: last {show(known[-1])}, lowest {show(min(known))}"
    words += f", highest {show(max(known))}"
    shown = ["unknown" if value is None else show(value) for value in values]
    marks = [(state, f"{run}, {text}") for (state, run), text in zip(runs, shown)]
    heights = [(value or 0.0) / (max(known) or 1.0) for value in values]
    picture = bars("chart", words, marks, heights)
    return page_part("<p>{words}</p>{picture}", words=words, picture=picture)


def server_article(server: Mapping[str, Any], turns: Rows) -> Html:
    """One server of the page: its state, when it last succeeded, its turns, its last failure."""
    marks = []
    for turn in turns[-PAGE_RUNS:]:
        state, said = ("ok", turn["snapshot"]) if turn["success"] else ("failed", turn["error"])
        marks.append((state, f"{moment_text(turn['ended_at'])}: {state}: {said}"))
    success, failure = (moment_text(server[f"last_{word}_at"]) for word in ("success", "failure"))
    if failure:
        template = '<p class="wide">last failure {at}: {last_error}</p>'
        failure = page_part(template, at=failure, last_error=server["last_error"])
    return page_part(
        PAGE_SERVER,
        **server,
        success=success or "never",
        turns=bars("strip", f"the last {len(marks)} turns of {server['name']}", marks),
        failure=Html(failure),
    )


def report_page(document: Mapping[str, Any], runs: Rows, turns: Rows) -> str:
    """The page, from the document of --status, the last runs and their turns, oldest first."""
    until = "This page does not renew itself: what came later is not on it."
    if document["schedule"] and document["schedule"]["next_run_at"]:
        due = moment_text(document["schedule"]["next_run_at"])
        until = f"The next run is due {due}: if that has passed, this page is out of date."
    problems = [page_part("<li>{problem}</li>", problem=text) for text in document["problems"]]
    no_problem, some = "<p>No problems.</p>", f"<h2>Problems</h2><ul>{''.join(problems)}</ul>"
    turns_of = collections.defaultdict[tuple[str, str], list[Mapping[str, Any]]](list)
    stored = collections.defaultdict[str, list[float]](list)
    for turn in turns:
        turns_of[turn["provider"], turn["server_id"]].append(turn)
        if turn["stored_gb"] is not None:
            stored[turn["run"]].append(turn["stored_gb"])
    totals = [sum(stored[run["id"]]) if run["id"] in stored else None for run in runs]
    ends = [RUN_ENDS.get(run["exit_status"], RUN_ENDS[1]) for run in runs]
    run_ends = [f"{ends.count(end)} {end[1]}" for end in RUN_ENDS.values() if end in ends]
    marks = [(s, f"{moment_text(r['started_at'])}: {text}") for (s, text), r in zip(ends, runs)]
    servers = sorted(document["servers"], key=lambda s: STATES.index(s["state"]))
    counts = collections.Counter(server["state"] for server in servers)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    articles = [server_article(s, turns_of[s["provider"], s["server_id"]]) for s in servers]
    gigabytes = "stored, where the provider gives sizes"
    return PAGE_HEAD + page_part(
        PAGE_BODY,
        host=document["host"],
        version=document["version"],
        at=moment_text(document["generated_at"]),
        until=until,
        states=f"{counted(len(servers), 'server')}: {states or 'none'}",
        problems=Html(some if problems else no_problem),
        last_runs=counted(len(runs), "run") if runs else "runs",
        runs=bars("strip", "the last runs", marks),
        run_ends=f"oldest first: {', '.join(run_ends)}" if runs else "no run recorded so far",
        seconds=chart("duration of a run", span, marks, [run["seconds"] for run in runs]),
        stored_gb=chart(gigabytes, "{:.1f} GB".format, marks, totals),
        servers=Html("\n".join(articles)),
    )


def write_report(
    path: Path, entries: Sequence[Entry], settings: Settings, job: CronJob, world: Runtime
) -> None:
    """Write the page as a whole or not at all, in place of nothing but another page, which keeps
    its mode: somebody may have opened it to a web server. Raises SnapshotsError."""
    view = View("status", world, settings)
    ask_machine(view, job)
    view_status(view, entries)
    runs = view.past.runs[:PAGE_RUNS][::-1]
    begun = [run["started_at"] for run in runs]  # in any order, where the clock was wrong
    turns = read_turns(settings.history_path, min(begun)) if begun else ()
    page = report_page(view.finish(), runs, turns)
    target = Path(os.path.realpath(path))
    try:
        mode = 0o600
        if os.path.lexists(target):  # a device, a log or a configuration, say, is not to be lost
            mode = stat.S_IMODE(os.stat(target).st_mode)
            with open(open_plain(target, os.O_RDONLY, own=False), "rb") as old:
                if old.read(len(PAGE_BEGINS)) not in (b"", PAGE_BEGINS):
                    raise OSError(0, "is there already, and is no page of --report")
        write_whole(target, page.encode("utf-8", "backslashreplace"), mode=mode)
    except OSError as error:
        raise SnapshotsError(
            f"{path}: the report cannot be written: {reason_of(error)} (name a file that this"
            " user may write, on a disk with room for it)"
        ) from None


# === Setup ====================================================================================
# --setup asks, looks, and writes what people would write by hand after the README. Each file is
# whole or not there, and what is there already stays.

MAX_REFUSALS = 3  # more wrong credentials could lock an account
ANSWER_TRIES = 20
CONTABO_PLANS = """\
A Contabo plan has so many slots for snapshots (September 2026): 1 with Cloud
VPS 4, 2 with Cloud VPS 6, 3 with Cloud VPS 8 to 18, 5 with Cloud VPS Plus and
GPU VPS, none with Storage VPS and VDS. Keep one less than the slots, for the
new one is made before the oldest goes. With one slot the oldest must go first.
Contabo itself deletes a snapshot after 30 days."""
NO_CHATS = (  # bots are told of few things in a group: https://core.telegram.org/bots/features
    "Nobody has written to this bot. Write anything to it now, or anything in its",
    "channel, or /start@ and its name in its group, where it sees no other lines.",
    "Then look again.",
)


@contextlib.contextmanager
def signals_end_waiting(is_hidden: bool = False) -> Iterator[None]:
    """In here a stop signal raises InterruptedRunError at once: nothing else would end a read from
    the terminal. Only where nothing is being changed. is_hidden: the echo is off, so Ctrl-Z does
    nothing, for it leads to a shell that switches the echo on, and may leave it on."""

    def end(number: int, _frame: object) -> NoReturn:
        raise InterruptedRunError(f"interrupted by {signal.Signals(number).name}")

    handlers: dict[str, Any] = dict.fromkeys(("SIGTERM", "SIGINT", "SIGHUP"), end)
    if is_hidden:
        handlers["SIGTSTP"] = signal.SIG_IGN
    before: dict[int, Any] = {}
    try:
        for name, handler in handlers.items():
            number = getattr(signal, name, None)  # Windows does not know all of them
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Dialogue:
    """Questions, and answers from a terminal or a pipe."""

    def __init__(self, world: Runtime) -> None:
        self.world, self.say = world, world.screen.out
        self.on_terminal = is_terminal(sys.stdin)
        self.refusals = 0

    def line(self, question: str, hidden: bool = False) -> str:
        """One answer. hidden: it does not show. Raises SnapshotsError where none comes."""
        self.world.check()
        line, is_hidden = "", hidden and self.on_terminal
        try:
            with signals_end_waiting(is_hidden), contextlib.suppress(EOFError):
                if is_hidden:
                    line = getpass.getpass(f"{question} ") + "\n"
                else:
                    self.world.screen.prompt(f"{question} ")
                    line = sys.stdin.readline() if sys.stdin else ""
        except (OSError, ValueError) as error:
            raise SnapshotsError(f"an answer cannot be read: {reason_of(error)}") from None
        finally:
            if not (self.on_terminal and line):  # the next line must not go on with this one
                self.say("")
        if not line:
            raise SnapshotsError("the answers ended too early")
        return line.strip()

    def ask(
        self,
        question: str,
        read: Callable[[str], T],
        default: Optional[str] = None,
        hidden: bool = False,
    ) -> T:
        """An answer as read(text) takes it, which raises ValueError with what is wrong; then it is
        asked for again. default: what an empty one stands for, if it may be empty."""
        shown = f"{question} [{default}]:" if default else f"{question}:"
        for _ in range(ANSWER_TRIES):
            text = self.line(shown, hidden) or default
            try:
                if text is None:
                    raise ValueError("must not be empty")
                return read(text)
            except ValueError as error:
                self.say(f"That cannot be used: {error}" + "." * (not str(error).endswith("?")))
        raise SnapshotsError(f"no usable answer in {ANSWER_TRIES} tries to: {question}")

    def choose(self, question: str, words: Sequence[str], default: Optional[str] = None) -> str:
        """One of the words, of which a beginning is enough."""

        def read(text: str) -> str:
            found = [word for word in words if word.startswith(text.lower())]
            if len(found) != 1:
                raise ValueError(f"must be one of {', '.join(words)}")
            return found[0]

        return self.ask(f"{question} ({', '.join(words)})", read, default)

    def agrees(self, question: str, default: str = "yes") -> bool:
        """Yes or no."""
        return self.choose(question, ("yes", "no"), default) == "yes"

    def refused(self, reason: str) -> None:
        """An account or a channel refuses what was given: say so, for it is asked for again.
        Raises SnapshotsError where nobody is there, or too often."""
        self.refusals += 1
        if not self.on_terminal or self.refusals >= MAX_REFUSALS:
            raise SnapshotsError(reason)
        self.say(f"{reason}. Try again.")


def read_rows(text: str, count: int) -> list[int]:
    """The rows of a table that "all", "none" or "1,3-5" names, from 1. Raises ValueError."""
    if text.lower() in ("all", "none"):
        return list(range(1, count + 1)) if text.lower() == "all" else []
    rows: set[int] = set()
    for part in re.split(r"[,\s]+", text.strip(", ")):
        extent = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part)
        first, last = (int(extent[1]), int(extent[2] or extent[1])) if extent else (0, 0)
        if not 1 <= first <= last <= count:
            raise ValueError(f"must be all, none, or numbers from 1 to {count} as in 1,3-5")
        rows.update(range(first, last + 1))
    return sorted(rows)


def file_stem(name: str, server_id: str) -> str:
    """A server's name as that of a file, which every system takes."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)[:100].strip("-._")
    return stem or f"server-{server_id}"


def with_values(text: str, section: str, values: Mapping[str, str]) -> str:
    """The text of a snapshots.config with these values in a section, every other line as it is."""
    end = "\r\n" if "\r\n" in text else "\n"
    text += end if text and not text.endswith("\n") else ""
    if section not in [entry.section for entry in parse_ini(text)]:
        text += f"{end if text else ''}[{section}]{end}"
    lines = [f"{line}\n" for line in text.split("\n")[:-1]]
    first = {entry.key: entry for entry in reversed(parse_ini(text)) if entry.section == section}
    for key, value in values.items():
        entry, line = first.get(key), f"{key} = {value}".rstrip() + end
        if entry is None:
            lines[first[""].line - 1] += line  # below its [SECTION]
            continue
        lines[entry.line - 1] = line
        behind = range(entry.line, len(lines))  # where further lines of the old value may be
        further = [i for i in behind if not lines[i].lstrip().startswith(("#", ";"))]
        for index in further[: entry.value.count("\n")]:
            lines[index] = ""
    return "".join(lines)


def chats_of(updates: Sequence[Any]) -> list[tuple[str, str, str]]:
    """(kind, name, chat_id) of the chats in a bot's updates that it can write to, newest first.

    Source: https://core.telegram.org/bots/api#update (Bot API 10.1, read 2026-11). A business_...
    is somebody else's chat, which the bot only reads. What a group's chat_id has become when it
    grew is in an update of the new chat.
    """
    found: dict[int, tuple[str, str, str]] = {}
    for update in updates:
        for kind, part in update.items() if isinstance(update, dict) else ():
            if "business" in kind:
                continue
            with contextlib.suppress(GarbledError):  # it is about no chat
                chat = take(part, "chat")
                number = take(chat, "id", kind=int)
                found.pop(number, None)  # the newest one counts
                if "migrate_to_chat_id" in part:
                    continue
                if kind == "my_chat_member":
                    status = take(part, "new_chat_member", "status", kind=str)
                    if status in ("left", "kicked"):
                        continue
                words = [name_of(chat, key) for key in ("title", "first_name", "last_name")]
                words += [f"@{user}" for user in [name_of(chat, "username")] if user]
                name = " ".join(filter(None, words))
                found[number] = (name_of(chat, "type") or "unknown", name, str(number))
    return list(found.values())[::-1]


def count_snapshots(provider: Provider, server_ids: Sequence[str]) -> dict[str, str]:
    """How many each server has, whoever made them; "?" where one's cannot be listed."""
    if provider.lists_account:
        listing = provider.list_snapshots(server_ids) if server_ids else ()
        found = collections.Counter(snapshot.server_id for snapshot in listing)
        return {server_id: str(found[server_id]) for server_id in server_ids}
    counts = dict.fromkeys(server_ids, "?")
    for server_id in server_ids:
        with contextlib.suppress(ApiError):
            counts[server_id] = str(len(provider.list_snapshots([server_id])))
    return counts


class Setup:
    """One --setup: what it knows, and what it has made so far."""

    def __init__(
        self, settings: Settings, path: Path, named: Optional[str], world: Runtime
    ) -> None:
        """path: of snapshots.config, there or not; named: as --config has it, if it is given."""
        self.settings, self.path, self.world = settings, path, world
        self.job = cron_job(named, settings)
        self.dialogue = Dialogue(world)
        self.say, self.ask = self.dialogue.say, self.dialogue.ask
        self.made: list[str] = []
        self.covered: set[tuple[str, str]] = set()  # by server files: providers and ids
        self.names: set[str] = set()  # of the servers in them
        self.known: dict[str, tuple[str, dict[str, str]]] = {}  # a file with credentials, and these

    def run(self) -> int:
        """All steps. Raises SnapshotsError with what was made so far."""
        self.world.max_retry_seconds = LOOK_RETRY_SECONDS
        self.say("An empty answer takes what stands in [brackets]; Ctrl-C ends it all.")
        try:
            self.look_around()
            self.cover_servers()
            self.connect_channels()
            scheduled = self.have_it_run()
            status = self.try_out()
        except SnapshotsError as error:
            made = f"made so far: {', '.join(self.made)}" if self.made else "nothing was made"
            raise SnapshotsError(f"setup: {error}; {made} (write --setup again to go on)") from None
        return status or (ExitStatus.OK if scheduled else ExitStatus.FAILED)

    def look_around(self) -> None:
        """What there is already, and whether files can be written."""
        for folder in {self.path.parent, self.settings.configs_dir}:
            place = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
            if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
                raise SnapshotsError(f"{place}: cannot be written to (run it as its owner)")
            for unfinished in folder.glob(f".*{UNFINISHED}"):  # of one that was killed
                unfinished.unlink()
        entries: Sequence[Entry] = ()
        with contextlib.suppress(ConfigError):  # there is none so far
            entries = load_entries([], self.settings, self.world)[0]
        for entry in entries:
            self.covered.add(server_of(entry))
            with contextlib.suppress(ConfigError):  # no JSON, which the dry run reports
                top, content = top_key_and_content(Path(entry.source))
                provider = TOP_KEYS[top]
                self.names.add(str(content.get("name")))
                if isinstance(entry, Server):
                    raw = {key: content[key] for key in CREDENTIAL_KEYS[provider]}
                    self.known.setdefault(provider, (Path(entry.source).name, raw))

    def value(
        self,
        readers: Mapping[str, Reader],
        key: str,
        words: str = "",
        default: Optional[str] = None,
    ) -> str:
        """A key's value as it is to be written, once it can be read. words: what it is asked for
        by, if not by its name. A credential does not show."""
        read = readers[key]
        hidden = read in CREDENTIAL_READERS and key not in USER_NAMES

        def check(text: str) -> str:
            value = read_value(read, IniText(text), self.settings.base)
            if is_placeholder(read, text):
                raise ValueError("is still the sample's text")
            if hidden:
                parts = secrets_of_url(value) if value.is_url else ()
                self.world.redact.add(value, unquote(value), *parts)
            return text

        question = words or key + (" (is not shown)" if hidden else "")
        return self.ask(question, check, default, hidden)

    def write(self, path: Path, text: str, is_new: bool) -> None:
        """Make or change a file. Raises SnapshotsError; FileExistsError as `write_whole`."""
        try:
            make_folder(path.parent)
            write_whole(path, text.encode("utf-8", "backslashreplace"), is_new=is_new)
        except FileExistsError:
            raise
        except OSError as error:
            raise SnapshotsError(f"{path}: cannot be written: {reason_of(error)}") from None
        if str(path) not in self.made:
            self.made.append(str(path))
        self.say(f"written: {path}")

    # --- an account, its servers, and a file for each ---

    def cover_servers(self) -> None:
        """Steps 1 to 3: an account, which of its servers, and a file for each of them."""
        default = next(iter(self.known)) if len(self.known) == 1 else None
        provider = self.dialogue.choose("Which provider", tuple(PROVIDERS), default)
        raw, listed, counts = self.log_in(provider)
        rows = sorted(listed.items(), key=lambda item: (item[1].names[0].casefold(), int(item[0])))
        table = [("NO", "SERVER ID", "NAME", "SIZE", "SNAPSHOTS", "COVERED")]
        for number, (server_id, server) in enumerate(rows, 1):
            name, size = shortened(one_line(server.names[0]), 20), one_line(server.size)[:23]
            covered = "yes" if (provider, server_id) in self.covered else "no"
            table.append((str(number), server_id, name, size, counts[server_id], covered))
        self.say(*aligned(table, None, right="014"))
        left = [row for row in rows if (provider, row[0]) not in self.covered]
        if not left:
            self.say("All servers of this account are covered." if rows else "It has no servers.")
            return
        answer = self.ask(
            "Which of them (all, none, or numbers as in 1,3-5)",
            lambda text: read_rows(text, len(rows)),
            "all" if left == rows else "none",
        )
        chosen = [row for row in (rows[number - 1] for number in answer) if row in left]
        keys = {**raw, **self.how_many(provider)} if chosen else {}
        for server_id, server in chosen:
            self.write_server(provider, server_id, server.names[0], keys)

    def log_in(self, provider: str) -> tuple[dict[str, str], dict[str, Listed], dict[str, str]]:
        """Credentials that may read, as they are to be written; the account's servers by their
        ids, and how many snapshots each has."""
        readers = CREDENTIAL_KEYS[provider]
        file, raw = self.known.get(provider, ("", {}))
        if raw and not self.dialogue.agrees(f"With the credentials in {file}"):
            raw = {}
        while True:
            if not raw:
                place = PROVIDERS[provider].credentials_place
                self.say(f"Its credentials are here: {place}.")
                self.say(
                    "They are checked at once. Each may also be given as env:NAME or file:PATH."
                )
                raw = {key: self.value(readers, key) for key in readers}
            credentials = [
                read_value(readers[key], raw[key], self.settings.base) for key in readers
            ]
            account = Account(self.world, provider, credentials, self.settings)
            self.say("reading the account ...")
            try:
                with signals_end_waiting():
                    listed = account.provider.list_servers()
                    self.dialogue.refusals = 0
                    return raw, listed, count_snapshots(account.provider, list(listed))
            except ApiError as error:
                if error.outcome not in REFUSALS:
                    raise
                self.dialogue.refused(str(error))
                raw = {}

    def how_many(self, provider: str) -> dict[str, Any]:
        """How many snapshots stay; at Contabo after what plans allow, for its API does not tell."""
        slots = PROVIDERS[provider].has_slots
        self.say(*CONTABO_PLANS.splitlines() if slots else ())
        few = "1" if slots else "3"
        keep = self.ask("How many snapshots of each are to stay", read_retain, few)
        policy: dict[str, Any] = {"retain_last_snapshots": keep or "all"}
        if slots:
            question = "All slots full: may the oldest go before the new one is made"
            policy["replace_when_full"] = self.dialogue.agrees(question, "no")
        return policy

    def write_server(
        self, provider: str, server_id: str, name: str, keys: Mapping[str, Any]
    ) -> None:
        """A file named after the server; never in the place of another."""
        name = one_line(name, 170).strip() or f"server-{server_id}"
        if name in self.names:  # of two with one name, messages would not say which
            name += f"-{server_id}"
        self.names.add(name)
        top = next(top for top, key in TOP_KEYS.items() if key == provider)
        content = {top: {"id": int(server_id), "name": name, **keys}}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        stem = file_stem(name, server_id)
        for file in (f"{stem}.json", f"{stem}-{server_id}.json"):
            path = self.settings.configs_dir / file
            with contextlib.suppress(FileExistsError):
                self.write(path, text, is_new=True)
                return
        raise SnapshotsError(f"{path}: exists already, as does the other name that it could have")

    # --- channels ---

    def connect_channels(self) -> None:
        """Step 4: one channel after the other, each kept once its test message has arrived."""
        ways = {"telegram": self.telegram, "webhook": self.webhook, "mail": self.mail}
        while True:
            channels = [destination.channel for destination in default_channels(self.settings)]
            question, default = "How to notify you of failures", None
            if channels:
                self.say(f"Notifications go over {', '.join(channels)}.")
                question, default = "Another channel", "nothing"
            kind = self.dialogue.choose(question, (*ways, "nothing"), default)
            if kind == "nothing":
                break
            try:
                section, values = ways[kind]()
                self.send_test(section, values)
            except DeliveryError as error:
                self.dialogue.refused(f"{kind} cannot be used: {error}")
                continue
            if self.dialogue.agrees("A test message went out. Did it arrive"):
                self.change_config(section, values)
            else:
                self.say("Then nothing is written; look at what you have given, and try again.")

    def telegram(self) -> tuple[str, dict[str, str]]:
        """A bot, and one of the chats that have written to it. Raises DeliveryError."""
        section = self.settings.telegram
        self.say("Make a bot: write /newbot to @BotFather in Telegram, and take its token.")
        values = {"enabled": "true", "bot_token": self.value(readers_of(section), "bot_token")}
        token = read_value(read_token, values["bot_token"], self.settings.base)
        values["chat_id"] = self.chat_of(dataclasses.replace(section, bot_token=token))
        if section.message_thread_id:  # which belongs to another chat
            values["message_thread_id"] = "0"
        return "TELEGRAM", values

    def chat_of(self, section: TelegramSection) -> str:
        """The chat_id of one of a bot's chats. Raises DeliveryError."""
        sender = Sender(self.world, self.settings)
        chats: list[tuple[str, str, str]] = []

        def read(text: str) -> str:
            if text in [str(number) for number in range(1, len(chats) + 1)]:
                return chats[int(text) - 1][2]
            return text and read_chat_id(text)

        for _ in range(ANSWER_TRIES):
            try:
                with signals_end_waiting():
                    chats = chats_of(sender.updates(section))
                rows = [("NO", "KIND", "NAME", "CHAT_ID")]
                rows += [(str(n), k, name[:40], i) for n, (k, name, i) in enumerate(chats, 1)]
                self.say(*aligned(rows, None, right="03") if chats else NO_CHATS)
            except DeliveryError as error:
                if error.answer is None or error.answer.status != 409:
                    raise
                self.say(f"Another program reads what is written to this bot: {error}.")
                self.say("Take another bot, or give the chat's number yourself.")
            above = "a number above, " if chats else ""
            found = self.ask(f"Which chat ({above}a chat_id, or Enter to look again)", read, "")
            if found:
                return found
        raise DeliveryError("nobody has written to it")

    def webhook(self) -> tuple[str, dict[str, str]]:
        """A URL."""
        url = self.value(readers_of(WebhookSection), "url")
        return "WEBHOOK", {"enabled": "true", "url": url}

    def mail(self) -> tuple[str, dict[str, str]]:
        """A mail server, and who writes to whom."""
        ask = functools.partial(self.value, readers_of(SmtpSection))
        values = {"enabled": "true", "server": ask("server", "The mail server's name")}
        values["port"] = port = ask("port", "Its port (587 for starttls, 465 for tls)", "587")
        values["user"] = user = ask("user", "User (Enter: none)", "")
        is_relay = is_loopback(values["server"]) and not user and port not in ("465", "587")
        values["security"] = "none" if is_relay else "tls" if port == "465" else "starttls"
        if user:
            values["password"] = ask("password")
        sender = user if "@" in user else None
        values["from_email"] = ask("from_email", "The sender's address", sender)
        values["to_emails"] = ask("to_emails", "Addresses to write to, with commas between")
        return "SMTP", values

    def send_test(self, section: str, values: Mapping[str, str]) -> None:
        """Send a test message over a channel that has these values. Raises DeliveryError."""
        texts = {key: IniText(text) for key, text in values.items()}
        chosen, _ = read_values(texts, readers_of(SECTIONS[section]), self.settings.base)
        configured = getattr(self.settings, section.lower())
        destination = dataclasses.replace(configured, **chosen, retries=1)
        _, report = reports_for_test(None, self.world.clock.now(), "per_server")
        with signals_end_waiting():
            Sender(self.world, self.settings).deliver(destination, report, 60)

    def change_config(self, section: str, values: Mapping[str, str]) -> None:
        """Put values into snapshots.config, made after the sample where there is none."""
        sample = Path(os.path.realpath(__file__)).parent / "snapshots.config.sample"
        source = self.path if os.path.lexists(self.path) else sample
        try:
            text = read_text_file(source) if os.path.lexists(source) else ""
        except (OSError, ValueError) as error:
            raise SnapshotsError(f"{source}: cannot be read: {reason_of(error)}") from None
        path = Path(os.path.realpath(self.path))  # a link stays one
        self.write(path, with_values(text, section, values), is_new=False)
        self.settings = load_settings(self.path, required=True)
        collect_secrets(self.settings, [], self.world)

    # --- when, and what then ---

    def have_it_run(self) -> bool:
        """Step 5: an entry in the crontab, unless there is one. Is all as it should be?"""
        cron = CronState()
        if not ON_WINDOWS:
            with contextlib.suppress(CrontabError):  # which is reported when it is to be changed
                cron = show_cron(self.job, self.settings, self.world)
        if cron.entries:
            return not any(level == "error" for level, _ in cron.remarks)

        def read(text: str) -> Optional[Schedule]:
            return None if text == "none" else parse_schedule(text.strip("'\""))

        words = ", ".join(word for word in PRESETS if not word.startswith("@"))
        self.say(f"When is it to run? {words},")
        self.say("a time such as 04:30, cron's five fields as in 15 3 * * 1-5, or none.")
        while True:
            schedule = self.ask("When", read, "nightly")
            if schedule is None:
                return True
            show_schedule(schedule, self.world)
            if self.dialogue.agrees("Is that right"):
                break
        if ON_WINDOWS:
            self.say(*scheduled_task(self.job, schedule, looks=False).split("\n"))
            return True
        try:
            change_cron(self.job, schedule, History(self.settings.history_path, 0, self.world))
            self.made.append("the crontab's entry")
        except CrontabError as error:
            self.world.screen.problem(str(error))
            return False
        return True

    def try_out(self) -> ExitStatus:
        """Step 6: a dry run, and what comes next."""
        entries, remarks = load_entries([], self.settings, self.world)
        for warning in remark_lines(remarks, Level.WARNING):
            self.world.screen.problem(f"warning: {warning}")
        good = [entry for entry in entries if isinstance(entry, Server)]
        for level, _, words, fix in check_environment(self.settings, good):
            self.world.screen.problem(f"{level}: {words} ({fix})")
        self.say("What a run would do now:")
        status = dry_run(self.settings, entries, self.world, prunes_only=False)
        command = shlex.join(self.job.command)
        self.say(f"The first snapshots, now:  {command} -v")
        self.say(f"Is all ready for a night?  {command} --check")
        self.say(f"How did the nights go?     {command} --status")
        return status


# === Command line =============================================================================

EXAMPLES = """\
examples:
  python snapshots.py --setup          asks for what it needs, from the first token to the crontab
  python snapshots.py -v               every server in configs/, with the log on the screen
  python snapshots.py web.json -n      what would be done for configs/web.json
  python snapshots.py --config /etc/snapshots/snapshots.config -q

exit status:
  0  every server that was due has its new, verified snapshot and its retention
  1  every server that was due failed, or the run could not start (configuration, usage)
  2  some servers failed
  3  another run holds the lock
with --list, --status or --check: 0 all is well, 2 something is not, 1 nothing could be looked at
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and leaves with 1: 2 means that some servers failed."""

    @property
    def flags(self) -> Iterable[str]:
        """ "--list" and all the others."""
        return self._option_string_actions

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        hint = did_you_mean(unknown[1], self.flags) if unknown else ""
        way_out = "write one of them; " if "not allowed with" in message else ""
        raise SnapshotsError(f"{message}{hint} ({way_out}see --help)")


def not_empty(text: str) -> str:
    """An argument that says something: an unset variable must not choose another configuration."""
    if not text:
        raise argparse.ArgumentTypeError("is empty (an unset variable?)")
    return text


def parser() -> Parser:
    """The command line."""
    result = Parser(
        prog="snapshots.py",
        description="Take a snapshot of each server, verify it, prune old ones, notify.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    def switch(group: Any, *names: str, does: str) -> None:
        group.add_argument(*names, action="store_true", help=does)

    def value(group: Any, name: str, metavar: str, means: str, **more: Any) -> None:
        group.add_argument(name, type=not_empty, metavar=metavar, help=means, **more)

    files = "server files, as paths or as names in configs_dir (default: all *.json there)"
    value(result, "files", "FILE", files, nargs="*")
    verbosity = result.add_mutually_exclusive_group()
    switch(verbosity, "-v", "--verbose", does="show the log on stdout")
    switch(verbosity, "-q", "--quiet", does="show problems only")
    switch(result, "-n", "--dry-run", does="show what would be done; change nothing")
    when = result.add_mutually_exclusive_group()
    switch(when, "--now", does="take snapshots whatever min_interval_hours says")
    switch(when, "--prune-only", does="take no snapshots; only delete what is due")
    config = "the configuration file (default: snapshots.config beside the script)"
    value(result, "--config", "PATH", config)
    group = result.add_argument_group("instead of a run")
    command = group.add_mutually_exclusive_group()
    switch(command, "--list", does="reads only: what the clouds hold")
    switch(command, "--status", does="reads only: what the last runs did")
    switch(command, "--check", does="reads only: is all ready for a run?")
    value(command, "--report", "PAGE", "--status and the last runs as an HTML file")
    presets = "; ".join(f"{word} ({in_words(parse_schedule(word))})" for word in PRESETS)
    start = 'have cron start a run; WHEN is 03:15, or "15 3 * * *" (in quotes), or a word: '
    value(command, "--install-cron", "WHEN", start + presets)
    switch(command, "--show-cron", does="show the crontab's entry and its next runs")
    switch(command, "--remove-cron", does="take that entry out")
    switch(command, "--setup", does="ask what is needed, and set everything up")
    test = "send a message marked TEST over every channel; with -n only show it"
    switch(command, "--test-notifications", does=test)
    form = group.add_mutually_exclusive_group()
    switch(form, "--json", does="--list, --status or --check as JSON")
    switch(form, "--nagios", does="--list or --status for monitoring")
    result.add_argument("--version", action="version", version=f"snapshots {__version__}")
    return result


CRON_COMMANDS = ("install_cron", "show_cron", "remove_cron")
COMMANDS = (*LOOKS, *CRON_COMMANDS, "setup", "test_notifications")  # instead of a run
# The flags that do not go with everything, and what they go with; a FILE may be one of five fields
# without quotes.
GOES_WITH: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "files": ("run", *LOOKS, "install_cron", "test_notifications"),
        "quiet": ("run", *LOOKS, *CRON_COMMANDS, "test_notifications"),
        "dry_run": ("run", *CRON_COMMANDS, "test_notifications"),
        "now": ("run",),
        "prune_only": ("run",),
        "json": ("list", "status", "check"),
        "nagios": ("list", "status"),
    }
)


def flag_of(name: str) -> str:
    """A name of GOES_WITH, as people write it."""
    other = {"run": "a run", "files": "FILE"}
    return other.get(name, "--" + name.replace("_", "-"))


def arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """What the command line says; its `command` is "run" or one of COMMANDS. Raises
    SnapshotsError."""
    known = parser()
    try:
        args = known.parse_args(argv)
    except (OSError, AttributeError):  # --help cannot be printed, which old versions mind
        raise SystemExit from None
    for name in args.files:
        if f"--{name}" in known.flags and not os.path.lexists(name):
            raise SnapshotsError(f"{name}: no such file, did you mean '--{name}'? (see --help)")
    args.command = next((name for name in COMMANDS if getattr(args, name)), "run")
    for name, commands in GOES_WITH.items():
        if getattr(args, name) and args.command not in commands:
            fits = " or ".join(map(flag_of, commands))
            way_out = f"write {fits}" if args.command == "run" else "leave it out"
            flag, command = flag_of(name), flag_of(args.command)
            raise SnapshotsError(f"{flag} does not go with {command} ({way_out}; see --help)")
    return args


def notify_run_failure(error: str, settings: Settings, world: Runtime) -> None:
    """A run that cannot start is reported at once over every global channel that can work, even
    where not all of its section can be used; but no credential goes to another place than the
    configuration names, or in the clear."""
    text = world.redact.line(error, ERROR_LIMIT)
    invalid = {remark.where for remark in settings.remarks if remark.level is Level.PROBLEM}
    if "API" in invalid:  # the place of Telegram's own may be the default, not what is meant
        settings = dataclasses.replace(settings, telegram=TelegramSection())
    if settings.smtp.exposes_password:
        settings = dataclasses.replace(settings, smtp=SmtpSection())
    whole = BadServer(RUN, "", text, default_channels(settings), provider="none", id="none")
    at_once = dataclasses.replace(settings, notifications=NotificationsSection())
    notifier = Notifier(world, at_once)
    notifier.ping(settings.ping, "failure", RUN, [text])
    notifier.put(Report(whole, success=False, error=text, ended=world.clock.now()))
    notifier.finish()


def run(
    args: argparse.Namespace, settings: Settings, entries: Sequence[Entry], world: Runtime
) -> ExitStatus:
    """Give every server its turn and report; the lock is held."""
    notifier = Notifier(world, settings)
    notifier.ping(settings.ping, "start", RUN)
    history = History(settings.history_path, settings.history.keep_days, world)

    def on_report(report: Report) -> None:
        if not report.success:
            log.error("%s: %s", report.server.name, report.error)
            world.screen.problem(f"{report.server.name}: {report.error}")
        log.info("%s", final_status_line(report, world.hostname), extra=ALWAYS)
        history.turn(report)
        notifier.put(report)
        if isinstance(report.server, Server) and not args.prune_only:
            lines, event = [result_line(report), *report.warnings], event_of([report])
            notifier.ping(monitor_of(report.server), event, report.server.name, lines)

    is_live = args.verbose and is_terminal(sys.stdout)
    every = LIVE_SECONDS if is_live else HISTORY_SECONDS
    shown_at = world.clock.monotonic()

    def on_progress(fleet: Fleet) -> None:
        nonlocal shown_at
        history.progress(progress_of(fleet))
        if is_live:
            world.screen.live(progress_line(fleet))
        elif args.verbose and world.clock.monotonic() - shown_at >= PROGRESS_SECONDS:
            shown_at = world.clock.monotonic()
            world.screen.out(f"progress: {progress_line(fleet)}")

    fleet = Fleet(world, settings, on_report, on_progress, every)
    fleet.history = history
    history.begin(len(entries))
    steps = prune_only if args.prune_only else rotate
    job = cron_job(args.config, settings)
    next_run = functools.partial(next_run_in_words, job, world.clock)
    try:
        reports = fleet.run(entries, lambda turn: take_turn(turn, steps))
        lines = [summary_line(reports, 0, len(fleet.not_due))]
        lines += [result_line(report) for report in reports if not report.success]
        if reports or all_well(entries, settings.history_path):
            notifier.ping(settings.ping, event_of(reports), RUN, lines)
    finally:  # what was kept for a summary is sent, whatever happened
        if is_live:
            world.screen.live("")
        not_due = [e for i, e in enumerate(entries) if i in fleet.not_due]
        undelivered = notifier.finish(not_due, next_run)
    history.end(exit_status(reports))
    if settings.report.file:
        report_after_run(settings, entries, job, world)
    for report in reports:  # in the order of the configuration, however they ended
        log.info("%s", result_line(report))
    line = summary_line(reports, undelivered, len(fleet.not_due))
    log.info("%s", line, extra=ALWAYS)
    if not args.verbose:
        world.screen.out(line)
    return exit_status(reports)


def event_of(reports: Sequence[Report]) -> str:
    """Which event for a monitor they are."""
    return "failure" if exit_status(reports) else "success"


def all_well(entries: Sequence[Entry], history: Path) -> bool:
    """Was the last turn of each a success, as the history has it? If nobody knows, no."""
    rows = read_history(history).servers
    last = [rows.get((entry.provider, entry.id)) for entry in entries]
    return all(row is not None and row["failed"] == 0 for row in last)


def report_after_run(
    settings: Settings, entries: Sequence[Entry], job: CronJob, world: Runtime
) -> None:
    """Write the page that [REPORT] names, about all servers, whichever this run was for. It is
    advice, as the history is: trouble is a warning."""
    with contextlib.suppress(ConfigError):  # there are FILEs, but none in configs_dir
        entries = load_servers([], settings)[0]
    try:
        write_report(settings.base / settings.report.file, entries, settings, job, world)
    except Exception as error:  # noqa: BLE001  (a bug in a page is no run's failure)
        world.warn(f"[REPORT] {message_of(error, world.redact)}")


CRON_FIELD = re.compile(r"[0-9*][0-9*,/-]*|(?i:sun|mon|tue|wed|thu|fri|sat)[a-zA-Z,-]*")


def quotes_missing(when: str, files: Sequence[str]) -> str:
    """What to write instead of WHEN without quotes, where the shell has put files for each `*`."""
    if not CRON_FIELD.fullmatch(when):
        return "takes no FILE: one entry is for all servers of a configuration"
    first = next((word for word in files if not CRON_FIELD.fullmatch(word)), "*")
    words = [word for word in (when, *files) if word == first or CRON_FIELD.fullmatch(word)]
    fields = ["*" if word == first else word for word in words]  # of each `*` the first file's name
    fields = [*fields, "*", "*", "*"][:5]
    return f'put the five fields in quotes: --install-cron "{" ".join(fields)}"'


def cron_command(
    args: argparse.Namespace, settings: Settings, config: Path, world: Runtime
) -> None:
    """--install-cron, --show-cron and --remove-cron. Raises SnapshotsError."""
    schedule = None
    if args.install_cron:
        if args.files:
            raise SnapshotsError(f"--install-cron: {quotes_missing(args.install_cron, args.files)}")
        try:
            schedule = parse_schedule(args.install_cron)
        except ValueError as error:
            raise SnapshotsError(f"--install-cron {args.install_cron!r}: {error}") from None
    if args.remove_cron and not os.path.exists(config):  # the backup has to go somewhere
        settings = load_settings(home_directory() / "snapshots.config", False)
    if settings.problems and schedule:  # runs would fail; to take them out is always possible
        raise ConfigError(settings.problems)
    job = cron_job(args.config, settings)
    if schedule:
        show_schedule(schedule, world)
    if ON_WINDOWS:
        world.screen.out(*scheduled_task(job, schedule, looks=args.show_cron).split("\n"))
    elif args.show_cron:
        show_cron(job, settings, world)
    else:
        change_cron(job, schedule, History(settings.history_path, 0, world), args.dry_run)


def main(argv: Optional[Sequence[str]] = None, clock: Optional[Clock] = None) -> int:
    """Run the command line; turn every outcome into an exit status and clear lines on stderr."""
    redact = Redactor()
    screen = Screen(redact)
    world = Runtime(clock or SystemClock(), redact, screen)
    failed: int = ExitStatus.FAILED
    if "--nagios" in (sys.argv[1:] if argv is None else argv):
        failed = 3  # a plugin's UNKNOWN
    try:
        try:
            args = arguments(argv)
            screen.quiet = args.quiet
            with stop_on_signals(world, restore=clock is not None):
                return run_command(args, world)
        except SystemExit:  # --help and --version have been printed
            return ExitStatus.OK
        except KeyboardInterrupt:
            problem = "interrupted before the run began"
        except Exception as error:  # noqa: BLE001  (never a traceback, never 0)
            problem = message_of(error, None)
        screen.problem(problem)
        if failed == 3:  # what is shown of a plugin is its stdout
            screen.quiet = False
            screen.out(f"SNAPSHOTS UNKNOWN - {problem}")
        return failed
    finally:
        close_log()
        screen.leave()


def run_command(args: argparse.Namespace, world: Runtime) -> int:
    """Load, lock, run; report why a run could not start."""
    screen = world.screen
    path = Path(os.path.expanduser(args.config or home_directory() / "snapshots.config")).absolute()
    is_look, is_run = args.command in LOOKS, args.command == "run" and not args.dry_run
    if is_run:
        screen.wait_for_nobody()
    open_log(Settings(base=path.parent), world, verbose=False, to_file=False)
    settings = load_settings(path, required=bool(args.config) and not args.setup)
    collect_secrets(settings, [], world)  # before anything can be said
    on_screen = (args.dry_run or is_look) and not (args.json or args.nagios)
    open_log(settings, world, args.verbose and on_screen, to_file=False)
    if is_look and not args.report:
        return look(args, settings, world)
    if (args.files or args.prune_only) and not args.test_notifications:  # not the whole job
        settings = dataclasses.replace(settings, ping=PingSection())
    error_text = ""
    redact: Optional[Redactor] = None  # until it knows every credential
    try:
        if args.command in CRON_COMMANDS:
            cron_command(args, settings, path, world)
            return ExitStatus.OK
        if settings.problems:
            raise ConfigError(settings.problems)
        if args.setup:
            return Setup(settings, path, args.config, world).run()
        try:
            entries, remarks = load_entries(args.files, settings, world)
        except ConfigError:  # no server file so far: channels can be tested all the same
            if args.files or not args.test_notifications:
                raise
            entries, remarks = [], [*settings.remarks]
        redact = world.redact
        warnings = remark_lines(remarks, Level.WARNING)
        if args.dry_run or args.test_notifications:
            screen.problem(*(f"warning: {warning}" for warning in warnings))
        if args.test_notifications:
            good = send_test_messages(settings, entries, world, args.dry_run)
            return ExitStatus.OK if good else ExitStatus.FAILED
        if args.report:
            job = cron_job(args.config, settings)
            write_report(Path(args.report), entries, settings, job, world)
            screen.out(f"{args.report}: written")
            return ExitStatus.OK
        if args.now:
            entries = [
                dataclasses.replace(e, min_interval_hours=0) if isinstance(e, Server) else e
                for e in entries
            ]
        if args.dry_run:
            return dry_run(settings, entries, world, args.prune_only)
        with single_run(settings.lock_path, world.clock):
            open_log(settings, world, args.verbose, to_file=True)
            log.info("snapshots %s begins: %s", __version__, counted(len(entries), "server"))
            log.info("configuration: %s", path)
            for warning in warnings:
                world.warn(warning)
            for note in remark_lines(remarks, Level.NOTE):
                log.warning("%s", note)
            return run(args, settings, entries, world)
    except LockHeldError as error:
        screen.problem(str(error))
        return ExitStatus.LOCKED
    except ConfigError as error:
        screen.problem(*error.problems)
        error_text = f"cannot start: {error}"
    except Exception as error:  # noqa: BLE001  (the user gets a line, the log the traceback)
        error_text = message_of(error, redact)
        screen.problem(error_text)
    if is_run:
        notify_run_failure(error_text, settings, world)
    return ExitStatus.FAILED


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # there is none, or it is forbidden
        while os.open(os.devnull, os.O_RDWR) < 3:  # a closed stdout must not become our lock file
            pass
    # no clean-up by the interpreter: neither a thread that hangs in a system call nor a late
    # signal may change the exit code any more, and all that is written has been flushed
    os._exit(main())
