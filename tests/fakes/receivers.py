"""Receivers of webhooks."""

from __future__ import annotations

from typing import Any, Optional

from fakes.base import Answer, Api, Hook, Request, Route


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
