"""DigitalOcean, as https://docs.digitalocean.com/reference/api/ describes it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Callable
from urllib.parse import urlencode

from fakes.base import (
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
    iso_seconds,
)


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
        look_at_one = look + " block_storage_snapshot:read"  # it may be either kind's
        make, erase = "droplet:update image:create", "image:delete snapshot:delete"
        droplet = "/do/droplets/{id}"
        return [
            route("GET /do/account", self.whoami, "", "account:read"),
            route("GET /do/droplets", self.droplets, pages + " tag_name name type", read),
            route(f"GET {droplet}", self.droplet, "", read),
            route(f"GET {droplet}/snapshots", self.droplet_snapshots, pages, read),
            route(f"GET {droplet}/actions", self.droplet_actions, pages, read),
            route(f"GET {droplet}/actions/{{aid}}", self.droplet_action, "", read),
            route(f"POST {droplet}/actions", self.create, "", make),
            route("GET /do/actions", self.actions, pages, "actions:read"),
            route("GET /do/actions/{id}", self.action, "", "actions:read"),
            route("GET /do/snapshots", self.snapshots, pages + " resource_type", look),
            route("GET /do/snapshots/{id}", self.snapshot, "", look_at_one),
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
    ) -> Response:
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
        return Response(200, {key: shown, "links": links, "meta": {"total": len(items)}})

    # --- the routes ---

    def whoami(self, request: Request) -> Response:
        account = {
            "droplet_limit": 25,
            "floating_ip_limit": 5,
            "email": "sammy@example.com",
            "uuid": "b6fr89dbf6d9156cace5f3c78dc9851d957381ef",
            "email_verified": True,
            "status": "active",
            "status_message": "",
        }
        return Response(200, {"account": account})

    def droplet(self, request: Request, id: str) -> Response:
        return Response(200, {"droplet": self._droplet(self.server(request, id))})

    def droplets(self, request: Request) -> Response:
        tag, name, kind = map(request.one, ("tag_name", "name", "type"))
        if kind not in (None, "droplets", "gpus"):
            raise self.fail(request, 422, f"type={kind} is unknown")
        if tag is not None and (name is not None or kind is not None):
            raise self.fail(request, 422, "tag_name goes with neither name nor type")
        found = [
            s
            for s in self.account(request).servers.values()
            if tag is None and kind != "gpus" and (name is None or name.lower() == s.name.lower())
        ]
        return self._page(request, "droplets", found, self._droplet)

    def _droplet(self, server: Server) -> Json:
        of_kind = {
            kind: [int(s.id) for s in server.snapshots.values() if s.kind == kind and self.seen(s)]
            for kind in ("snapshot", "backup")
        }
        return {
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

    def droplet_snapshots(self, request: Request, id: str) -> Response:
        server = self.server(request, id)
        shown = self.listing(
            request,
            lambda: sorted(filter(self.seen, server.snapshots.values()), key=lambda s: s.scramble),
        )
        return self._page(request, "snapshots", shown, self._droplet_item)

    def _actions(self, request: Request, actions: list[Action]) -> Response:
        newest_first = self.cloud.action_order == "newest"
        return self._page(
            request, "actions", actions[::-1] if newest_first else actions, self._action
        )

    def droplet_actions(self, request: Request, id: str) -> Response:
        return self._actions(request, self.server(request, id).actions)

    def actions(self, request: Request) -> Response:
        return self._actions(request, self.account(request).actions)

    def droplet_action(self, request: Request, id: str, aid: str) -> Response:
        server = self.server(request, id)
        action = server.account.actions_by_id.get(int(self.number(request, aid)))
        if action is None or action.server is not server:
            raise self.refuse(404, "The resource you were accessing could not be found.")
        return Response(200, {"action": self._action(action)})

    def action(self, request: Request, id: str) -> Response:
        action = self.account(request).actions_by_id.get(int(self.number(request, id)))
        if action is None:
            raise self.refuse(404, "The resource you were accessing could not be found.")
        return Response(200, {"action": self._action(action)})

    def create(self, request: Request, id: str) -> Response:
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
        return Response(201, {"action": self._action(action)})

    def snapshots(self, request: Request) -> Response:
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

    def snapshot(self, request: Request, id: str) -> Response:
        return Response(200, {"snapshot": self._item(self._snapshot(request, id))})

    def delete(self, request: Request, id: str) -> Response:
        self.cloud.delete(self._snapshot(request, id))
        return Response(204)
