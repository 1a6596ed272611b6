"""Hetzner Cloud, as https://docs.hetzner.cloud/ describes it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Callable

from fakes.base import (
    NEVER,
    Account,
    Action,
    Api,
    Json,
    Request,
    Response,
    Route,
    Server,
    Snapshot,
    T,
    created_text,
    iso_offset,
    iso_seconds,
    scrambled,
)

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
            route("PUT /hz/images/{id}", self.update),
            route("DELETE /hz/images/{id}", self.delete),
            route("GET /hz/images/{id}/actions", self.image_actions, pages),
            route("POST /hz/images/{id}/actions/change_protection", self.change_protection),
            route("GET /hz/actions", self.actions, "id*"),
            route("GET /hz/actions/{id}", self.action),
            route("GET /hz/servers", self.servers, pages + " name label_selector"),
            route("GET /hz/pricing", self.pricing),
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
            account.may_delete -= 1
        if account.read_only and request.method != "GET":
            raise self.refuse(401, "Token is only allowed to GET", "token_readonly")
        self.check_body(request)

    # --- the limit: 3,600, refilled one a second ---

    def _budget(self, account: Account) -> float:
        now = self.cloud.clock.monotonic()
        account.may_delete = min(
            self.BUDGET, account.may_delete + max(0.0, now - account.budget_at)
        )
        account.budget_at = now
        return account.may_delete

    def standing_headers(self, request: Request) -> dict[str, str]:
        headers = {"X-Correlation-Id": f"{request.number:016x}"}
        if request.account is not None:
            may_delete = self._budget(request.account) if self.cloud.enforce_rate_limits else 3599.0
            reset = self.cloud.time.timestamp() + self.BUDGET - may_delete
            headers["RateLimit-Limit"] = "3600"
            headers["RateLimit-Remaining"] = str(int(may_delete))
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
        resources: list[Json] = []
        if action.type != "change_protection":
            resources.append({"id": int(action.server.id), "type": "server"})
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
    ) -> Response:
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
        return Response(200, {key: shown, "meta": {"pagination": pagination}})

    # --- the routes ---

    def images(self, request: Request) -> Response:
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

    def image(self, request: Request, id: str) -> Response:
        return Response(200, {"image": self._image(self._find(request, id))})

    def update(self, request: Request, id: str) -> Response:
        snapshot, body = self._find(request, id), request.json
        if not isinstance(body, dict) or set(body) - {"description", "labels", "type"}:
            raise self.fail(request, 422, f"a description, labels or a type: {body!r}")
        if snapshot.kind == "system":
            raise self.refuse(403, "a system image cannot be changed")
        if body.get("type", "snapshot") != "snapshot":
            raise self.fail(request, 422, f"an image cannot become a {body['type']!r}")
        name, labels = self._named(request, body, snapshot.name, snapshot.labels)
        snapshot.name, snapshot.labels, snapshot.kind = (
            name,
            labels,
            body.get("type", snapshot.kind),
        )
        return Response(200, {"image": self._image(snapshot)})

    def change_protection(self, request: Request, id: str) -> Response:
        snapshot, body = self._find(request, id), request.json
        if not isinstance(body, dict) or set(body) - {"delete"}:
            raise self.fail(request, 422, f"only delete is expected: {body!r}")
        if snapshot.kind != "snapshot" or snapshot.server is None:
            raise self.refuse(422, "only snapshots can be protected")
        snapshot.protected = bool(body.get("delete", snapshot.protected))
        action = self.cloud.note_action(snapshot.server, "change_protection", snapshot)
        return Response(201, {"action": self._action(action)})

    def delete(self, request: Request, id: str) -> Response:
        snapshot = self._find(request, id)
        if snapshot.kind == "system":
            raise self.fail(request, 403, "a system image cannot be deleted")
        if snapshot.protected:
            raise self.refuse(423, "image is protected", "protected")
        if snapshot.status == "creating":
            raise self.refuse(423, "image is locked")
        self.cloud.delete(snapshot)
        return Response(204)

    def actions(self, request: Request) -> Response:
        ids = request.query.get("id", [])
        if not ids:
            raise self.fail(request, 422, "id is required")
        if len(ids) > 50:
            raise self.fail(request, 422, f"{len(ids)} ids at once")
        known = self.account(request).actions_by_id
        wanted = {int(self.number(request, id)) for id in ids}
        found = [known[number] for number in wanted if number in known]
        return Response(
            200,
            {"actions": [self._action(a) for a in sorted(found, key=lambda a: scrambled(a.id))]},
        )

    def action(self, request: Request, id: str) -> Response:
        action = self.account(request).actions_by_id.get(int(self.number(request, id)))
        if action is None:
            raise self.refuse(404, "action not found")
        return Response(200, {"action": self._action(action)})

    def server_actions(self, request: Request, id: str) -> Response:
        return self._actions(request, self.server(request, id).actions)

    def image_actions(self, request: Request, id: str) -> Response:
        snapshot = self._find(request, id)
        own = [a for a in self.account(request).actions if a.snapshot is snapshot]
        return self._actions(request, own)

    def _actions(self, request: Request, actions: Sequence[Action]) -> Response:
        states = set(request.query.get("status", ()))
        if states - {"running", "success", "error"}:
            raise self.fail(request, 422, f"status={states} is unknown")
        shown = self.ordered(
            request,
            (a for a in actions if not states or self.cloud.ignore_filters or a.status in states),
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

    def deprecated(self, request: Request, id: str, aid: str) -> Response:
        raise self.fail(request, 410, "this endpoint is deprecated")

    def get_server(self, request: Request, id: str) -> Response:
        return Response(200, {"server": self._server(self.server(request, id))})

    def servers(self, request: Request) -> Response:
        name, selector = request.one("name"), request.one("label_selector")
        states = set(request.query.get("status", ()))
        shown = self.ordered(
            request,
            (
                s
                for s in self.account(request).servers.values()
                if self.cloud.ignore_filters
                or (
                    name in (None, s.name)
                    and (selector is None or selects(selector, {}))
                    and (not states or "running" in states)
                )
            ),
            lambda s: scrambled(int(s.id)),
            "sort",
            {"id": lambda s: int(s.id), "name": lambda s: s.name},
        )
        return self._page(request, "servers", shown, self._server)

    def _server(self, server: Server) -> Json:
        size = {"id": 1, "name": "cpx22", "description": "CPX22", "cores": 2, "memory": 4}
        size.update({"disk": 80, "deprecated": False, "prices": [], "storage_type": "local"})
        size.update({"cpu_type": "shared", "architecture": "x86", "locations": []})
        return {
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

    def _named(self, request: Request, body: Json, name: str, labels: Json) -> tuple[str, Json]:
        """The description and the labels that a body asks for, or these."""
        name, labels = body.get("description", name), body.get("labels", labels)
        if not isinstance(name, str) or not isinstance(labels, dict):
            raise self.fail(request, 422, "invalid input in description or labels")
        for key, value in labels.items():
            well = isinstance(value, str) and LABEL_VALUE.fullmatch(value)
            if not well or not LABEL_KEY.fullmatch(key) or key.startswith("hetzner.cloud/"):
                raise self.fail(request, 422, f"invalid label {key!r}: {value!r}")
        return name, labels

    def pricing(self, request: Request) -> Response:
        """Prices are decimal numbers, sent as text."""
        price = {"net": "0.0119000000", "gross": "0.0141610000000000"}
        shown: Json = {"currency": "EUR", "vat_rate": "19.000000"}
        shown.update({key: {"price_per_gb_month": price} for key in ("image", "volume")})
        shown.update(
            server_backup={"percentage": "20.000000"}, floating_ip={"price_monthly": price}
        )
        for others in ("primary_ips", "floating_ips", "server_types", "load_balancer_types"):
            shown[others] = []
        return Response(200, {"pricing": shown})

    def create(self, request: Request, id: str) -> Response:
        server = self.server(request, id)
        body = {} if not request.body else request.json
        if not isinstance(body, dict):
            raise self.fail(request, 400, "the body is no object")
        for key in set(body) - {"type", "description", "labels"}:
            raise self.fail(request, 422, f"invalid input: unknown field name '{key}'")
        if body.get("type", "snapshot") != "snapshot":
            raise self.fail(request, 422, f"type {body['type']!r} is not modelled")
        name, labels = self._named(request, body, f"snapshot of {server.name}", {})
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
        return Response(201, {"image": self._image(snapshot), "action": self._action(action)})
