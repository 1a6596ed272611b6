"""Monitors that raise an alarm where calls do not come: `/ping/...` is Healthchecks, `/push` another.

Healthchecks as its source has it (hc/api/views.py, urls.py, models.py, tests/test_ping.py and
test_ping_by_slug.py of healthchecks/healthchecks, read 2026-11; https://healthchecks.io/docs/http_api/)
and, where `hosted`, as hc-ping.com answers in front of it: 200 with "OK (not found)" and "OK (rate
limited)" to a UUID (https://github.com/bdd/runitor/issues/66). The other is Uptime Kuma's push
monitor, which knows GET alone (https://github.com/louislam/uptime-kuma/issues/987).
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field

from fakes.base import Api, RefusedError, Request, Response, Route, basic

UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
BODY_LIMIT = 10_000  # PING_BODY_LIMIT of one's own; hc-ping.com keeps 100 kB


def plain(code: int, text: str) -> Response:
    headers = {"Content-Type": "text/plain; charset=utf-8", "Access-Control-Allow-Origin": "*"}
    headers["Ping-Body-Limit"] = str(BODY_LIMIT)
    return Response(code, headers=headers, body=text.encode())


@dataclass
class Check:
    """One check: "new", "up" or "down". events: (what, the body that is kept)."""

    status: str = "new"
    started: bool = False
    needs_post: bool = False
    is_ambiguous: bool = False  # two checks have this slug
    events: list[tuple[str, str]] = field(default_factory=list)
    calls: deque[float] = field(default_factory=lambda: deque(maxlen=5))

    @property
    def words(self) -> list[str]:
        """The events without their bodies."""
        return [what for what, _ in self.events]


class Healthchecks(Api):
    """The ping endpoints, by UUID or by a project's ping key and a slug."""

    prefix = "/ping"
    hosted = False

    def make_routes(self) -> list[Route]:
        return [
            self.route(f"{method} /ping", self.ping, query="create rid", path="/(.+)")
            for method in ("GET", "HEAD", "POST")
        ]

    def error_body(self, code: int, message: str, word: str = "") -> str:
        return message

    def check(self, request: Request, route: Route) -> None:
        super().check(request, route)
        login = self.cloud.hook_logins.get(request.path)
        if login is None:
            self.check_leaks(request)
        elif request.headers.get("authorization", "") != basic(*login):
            raise RefusedError(plain(401, "Unauthorized"))  # what is in front of it
        kind = request.headers.get("content-type", "text/plain")
        if request.body and (request.method != "POST" or not kind.startswith("text/plain")):
            self.wrong(request, f"a body on a {request.method} ({kind})")
        if len(request.body) > BODY_LIMIT:
            self.wrong(request, f"{len(request.body)} bytes, of which only {BODY_LIMIT} are kept")
        request.body.decode("utf-8")  # or the fake fails: nobody could read it

    def ping(self, request: Request, rest: str) -> Response:
        by_uuid = re.fullmatch(rf"({UUID})(?:/(start|fail|log|[0-9]+)?)?", rest)
        by_slug = re.fullmatch(r"([\w-]+/[a-z0-9_-]+)(?:/(start|fail|log|[0-9]+)?)?", rest)
        found = by_uuid or by_slug
        if not found:
            raise RefusedError(plain(404, "<h1>Not Found</h1>"))
        code, action = found[1], found[2] or "success"
        check = self.cloud.checks.get(code)
        if check is None and not by_uuid and request.one("create") == "1":
            key = code.partition("/")[0]
            if any(other.startswith(f"{key}/") for other in self.cloud.checks):
                check = self.cloud.checks[code] = Check()
                self.note(check, request, action)
                return plain(201, "Created")
        if check is None:
            if by_uuid and self.hosted:
                raise RefusedError(plain(200, "OK (not found)"))
            raise RefusedError(plain(404, "not found"))
        if check.is_ambiguous:
            raise RefusedError(plain(409, "ambiguous slug"))
        now = self.cloud.clock.monotonic()
        if self.hosted and len(check.calls) == 5 and now - check.calls[0] < 60:
            raise RefusedError(plain(200, "OK (rate limited)") if by_uuid else plain(429, ""))
        check.calls.append(now)
        if action.isdigit() and int(action) > 255:
            raise RefusedError(plain(400, "invalid url format"))
        rid = request.one("rid")
        if rid is not None and not re.fullmatch(UUID, rid):
            raise RefusedError(plain(400, "invalid uuid format"))
        self.note(check, request, action)
        return plain(200, "OK")

    def note(self, check: Check, request: Request, action: str) -> None:
        if check.needs_post and request.method != "POST":
            check.events.append(("ign", ""))
            return
        if action.isdigit():
            action = "fail" if int(action) else "success"
        body = request.body[:BODY_LIMIT].decode("utf-8")
        check.events.append((action, body))
        if action == "start":
            check.started = True
        elif action != "log":
            check.started = False
            check.status = "up" if action == "success" else "down"


class Push(Api):
    """A monitor with URLs of its own, which it takes by GET alone."""

    prefix = "/push"

    def make_routes(self) -> list[Route]:
        return [
            self.route("GET /push", self.push, query="status msg", path="/(.+)"),
            self.route("POST /push", self.refuse_post, query="status msg", path="/(.+)"),
        ]

    def check(self, request: Request, route: Route) -> None:
        super().check(request, route)
        self.check_leaks(request)
        self.check_body(request) if request.method == "GET" else None

    def push(self, request: Request, rest: str) -> Response:
        self.cloud.pushes.append(request.target)
        return Response(200, {"ok": True})

    def refuse_post(self, request: Request, rest: str) -> Response:
        page = f"<!DOCTYPE html><html><body><pre>Cannot POST {request.path}</pre></body></html>"
        raise RefusedError(Response(404, headers={"Content-Type": "text/html"}, body=page.encode()))
