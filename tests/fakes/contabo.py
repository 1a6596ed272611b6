"""Contabo and its login, as https://api.contabo.com/ describes them."""

from __future__ import annotations

import re
import zlib
from typing import Any, Callable, Optional
from urllib.parse import parse_qs, urlencode

from fakes.base import (
    BEGINNING,
    CONTABO_DAYS,
    NEVER,
    Account,
    Api,
    Json,
    Request,
    Response,
    Route,
    Server,
    Snapshot,
    after,
    created_text,
    iso_milliseconds,
)


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

    def token(self, request: Request) -> Response:
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

    def _issue(self, account: Account) -> Response:
        number = len(account.access_tokens) + 1
        own = zlib.crc32(f"{account.customer} {account.api_user} {number}".encode())
        token = f"eyJhbGciOiJSUzI1NiJ9.{own:08x}{number:08d}.{own * 2654435761 % 2**64:016x}"
        lifetime = account.token_lifetime_seconds
        account.access_tokens[token] = after(self.cloud.time, lifetime)
        self.cloud.by_token[token] = account
        return Response(
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
            route(
                "GET /cb/compute/instances", self.instances, pages + " name displayName instanceId"
            ),
            route(f"GET {instance}", self.instance),
            route(f"GET {instance}/snapshots", self.snapshots, pages + " name"),
            route(f"POST {instance}/snapshots", self.create),
            route(f"GET {snapshot}", self.snapshot),
            route(f"PATCH {snapshot}", self.update),
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
    ) -> Response:
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
        return Response(
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

    def instances(self, request: Request) -> Response:
        name, shown, id = map(request.one, ("name", "displayName", "instanceId"))
        free = self.cloud.ignore_filters
        found = [
            self._instance_json(server)
            for server in self.account(request).servers.values()
            if free
            or (
                (not name or name in f"vmi{server.id}")
                and (not shown or shown in server.name)
                and id in (None, server.id)
            )
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

    def instance(self, request: Request, id: str) -> Response:
        server = self.server(request, id)
        return Response(
            200, {"data": [self._instance_json(server)], "_links": {"self": self._own(request)}}
        )

    def snapshots(self, request: Request, id: str) -> Response:
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

    def _check_texts(self, request: Request, body: Any) -> None:
        """A snapshot's name and description, as far as they are given."""
        if not isinstance(body, dict):
            raise self.fail(request, 400, ["the body must be an object"])
        name, description = body.get("name", "-"), body.get("description", "-")
        faults = [f"property {key} should not exist" for key in set(body) - {"name", "description"}]
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9 -]{1,30}", name):
            faults.append("name must be 1 to 30 letters, numbers, spaces, dashes")
        if not isinstance(description, str) or not 1 <= len(description) <= 255:
            faults.append("description must be 1 to 255 characters")
        if faults:
            raise self.fail(request, 400, faults)

    def create(self, request: Request, id: str) -> Response:
        server, body = self.server(request, id), request.json
        self._check_texts(request, {"name": None, **body} if isinstance(body, dict) else body)
        if server.busy:
            raise self.refuse(409, "Another operation is running on the instance")
        if len(server.snapshots) + server.lingering >= server.slots:
            raise self.refuse(
                402,
                f"Total snapshots exceed the total max limit of {server.slots} snapshots",
            )
        snapshot, _ = self.cloud.start_snapshot(
            server, body["name"], description=body.get("description", "")
        )
        self.cloud.created.append(snapshot)
        self._audit(request, "CREATED", snapshot)
        own = self._own(request, snapshot.id)
        return Response(201, {"data": [self._snapshot_json(snapshot)], "_links": {"self": own}})

    def _find(self, request: Request, id: str, sid: str) -> Snapshot:
        snapshot = self.server(request, id).snapshots.get(sid)
        if snapshot is None or snapshot.status != "available":
            raise self.refuse(404, "Entry Snapshot not found by snapshotId")
        return snapshot

    def snapshot(self, request: Request, id: str, sid: str) -> Response:
        found = self._snapshot_json(self._find(request, id, sid))
        return Response(200, {"data": [found], "_links": {"self": self._own(request)}})

    def update(self, request: Request, id: str, sid: str) -> Response:
        snapshot, body = self._find(request, id, sid), request.json
        self._check_texts(request, body)
        snapshot.name = body.get("name", snapshot.name)
        snapshot.description = body.get("description", snapshot.description)
        self._audit(request, "UPDATED", snapshot)
        return Response(
            200, {"data": [self._snapshot_json(snapshot)], "_links": {"self": self._own(request)}}
        )

    def delete(self, request: Request, id: str, sid: str) -> Response:
        snapshot = self._find(request, id, sid)
        self.cloud.delete(snapshot)
        self._audit(request, "DELETED", snapshot)
        return Response(204)

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

    def audits(self, request: Request) -> Response:
        found = list(self.account(request).audits)
        if not self.cloud.ignore_filters:
            for name in ("requestId", "instanceId", "snapshotId"):
                value = request.one(name)
                if value is not None:
                    found = [e for e in found if str(e[name]).lower() == value.lower()]
        return self._page(request, self._arranged(request, found, "id"))
