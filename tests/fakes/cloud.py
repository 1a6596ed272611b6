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

By hand: python tests/fakes --scenario FILE.json
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import email.utils
import heapq
import http.client
import itertools
import json
import math
import os
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
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, ClassVar, Optional
from urllib.parse import parse_qs

from fakes.base import (
    CONTABO_DAYS,
    NEVER,
    PROVIDERS,
    RUNNING_WORDS,
    Account,
    Action,
    Api,
    Bot,
    Clock,
    Fault,
    FaultRule,
    Hook,
    Json,
    RealClock,
    RefusedError,
    Request,
    Response,
    Route,
    Server,
    Snapshot,
    TelegramMessage,
    account_name,
    after,
    bomb,
    free_slot,
    iso_milliseconds,
    matches,
    read_moment,
    swallow,
    touch,
)
from fakes.contabo import Contabo, ContaboLogin
from fakes.digitalocean import DigitalOcean
from fakes.hetzner import Hetzner
from fakes.monitors import Check, Healthchecks, Push
from fakes.receivers import Webhook
from fakes.telegram import Telegram

# === The cloud =================================================================================


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
        self.tells_date = True  # in a header, as a gateway may not let through
        self.action_order = "newest"  # of DigitalOcean's actions; or "oldest"
        self.ignore_filters = False
        self.slot_lingers_seconds = 0.0
        self.telegram_pace = False
        self.idle_seconds = math.inf  # a connection idle for longer (real time) is reset when used
        self.interim_codes: tuple[int, ...] = ()  # of answers that go before each one, such as 103
        self.odd_lines: tuple[str, ...] = ()  # in the head of each answer, as gateways spoil it
        self.hook_logins: dict[str, tuple[str, str]] = {}  # path of a webhook: user, password
        self.apps_script_key = "a-key-of-google"  # in the address that Apps Script redirects to
        # What happened.
        self.journal: list[Request] = []
        self.problems: list[str] = []
        self.created: list[Snapshot] = []
        self.deleted: list[str] = []
        self.expired: list[str] = []
        self.telegram_messages: list[TelegramMessage] = []
        self.hooks: list[Hook] = []
        self.checks: dict[str, Check] = {}  # of Healthchecks: by UUID, or by ping key/slug
        self.pushes: list[str] = []  # what another monitor was called with
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
            Healthchecks(self),
            Push(self),
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

    def note_action(self, server: Server, type: str, snapshot: Snapshot) -> Action:
        """Something that was done to a snapshot at once."""
        now, account = self.time, server.account
        action = Action(
            next(self._action_ids), type, server, now, "success", now, snapshot=snapshot
        )
        account.actions.append(action)
        account.actions_by_id[action.id] = action
        return action

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
    ) -> tuple[Request, Optional[Route], Optional[Response], list[tuple[Callable[[], None], bool]]]:
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
                target=target,
            )
            if body and "json" in headers.get("content-type", ""):
                with contextlib.suppress(ValueError, RecursionError):
                    request.json = json.loads(body)
            self.journal.append(request)
            refusal: Optional[Response] = None
            if api is None or route is None:
                self.problem(f"{method} {path}: not modelled")
                refusal = Response(501, {"message": f"{method} {path} is not modelled"})
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

    def act(
        self, request: Request, route: Optional[Route], refusal: Optional[Response]
    ) -> Response:
        """Do what is asked, unless it is refused."""
        with self._lock:
            if refusal is not None or route is None:
                answer = refusal or Response(501)
            else:
                try:
                    answer = route.handler(request, *request.ids)
                except RefusedError as refused:
                    answer = refused.answer
                except Exception:
                    self.problem(f"the fake itself failed:\n{traceback.format_exc()}")
                    answer = Response(500, {"message": "the fake itself failed"})
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
            answer = answer or Response(500)
            request.status, request.answer = answer.status, answer
            return wire.answer(self, answer)
        return self._misbehave(wire, request, fault, answer)

    def _misbehave(
        self, wire: Wire, request: Request, fault: Fault, answer: Optional[Response]
    ) -> bool:
        kind, json_type = fault.kind, {"Content-Type": "application/json"}
        if kind == "edit" and answer is not None:
            if answer.json is not None and fault.change is not None:
                answer = Response(
                    answer.status, fault.change(copy.deepcopy(answer.json)), answer.headers
                )
            request.status = answer.status
            return wire.answer(self, answer)
        if kind in ("status", "late"):
            code = 504 if kind == "late" else fault.code
            reply = Response(code, fault.json, dict(fault.headers), fault.body)
            if kind == "late":
                reply.headers["Content-Type"] = "text/html"
                reply.body = b"<html><h1>504 Gateway Time-out</h1></html>"
            elif fault.json is None and fault.body is None and code >= 400:
                reply.json = self._error_body(request, code)
                request.answer = reply
            request.status = code
            return wire.answer(self, reply)
        answer = answer or Response(200, {})
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
        if kind == "slow":
            self._stopping.wait(fault.seconds)
            request.status = answer.status
            return wire.answer(self, answer)
        if kind == "stall":
            self._stopping.wait(fault.seconds)
            return wire.end()
        request.status = 200
        if kind == "gzip_bomb":
            packed = Response(200, None, {**json_type, "Content-Encoding": "gzip"}, bomb())
            return wire.answer(self, packed)
        head, _ = wire.render(self, Response(200, None, json_type, b""))
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

    def _control(self, target: str) -> Response:
        """For those who run the cloud as a program."""
        with self._lock:
            if target == "/control/state":
                return Response(200, [self._server_state(s) for s in self._servers()])
            if target == "/control/journal":
                rows = [
                    {"route": r.route, "status": r.status, "account": account_name(r.account)}
                    for r in self.journal
                ]
                return Response(200, rows)
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
                return Response(200, summary)
        return Response(404, {"message": "no such control route"})

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
        idle_since = time.monotonic()
        words = self.rfile.readline(65537).decode("latin-1").split()
        if time.monotonic() - idle_since > self.server.cloud.idle_seconds:
            return self.reset()
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

    def render(self, cloud: FakeCloud, answer: Response) -> tuple[bytes, bytes]:
        """(head, body)"""
        body = answer.payload()
        date = after(cloud.clock.now(), cloud.date_offset_seconds)
        names = {name.lower() for name in answer.headers}
        reason = http.client.responses.get(answer.status, "Unknown")
        lines = [f"HTTP/1.1 {answer.status} {reason}"]
        if "date" not in names and cloud.tells_date:
            lines.append(f"Date: {email.utils.format_datetime(date, usegmt=True)}")
        if body and "content-type" not in names:
            lines.append("Content-Type: application/json")
        lines += [*cloud.odd_lines, *(f"{n}: {value}" for n, value in answer.headers.items())]
        if answer.status in (204, 304):
            body = b""
        elif "content-length" not in names:
            lines.append(f"Content-Length: {len(body)}")
        if self.closing:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace"), body

    def answer(self, cloud: FakeCloud, answer: Response) -> bool:
        for code in cloud.interim_codes:
            self.send(b"HTTP/1.1 %d Interim\r\nLink: </style.css>; rel=preload\r\n\r\n" % code)
            time.sleep(0.02)  # so that the answer itself is not there yet when this one is read
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
        made = cloud.add_bot(
            bot["token"], bot.get("chats", ["123"]), blocked=bot.get("blocked", [])
        )
        made.updates += bot.get("updates", [])


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
