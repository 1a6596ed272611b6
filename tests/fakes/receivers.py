"""Receivers of webhooks, each with its own limits and words: `/hook/<name>/...`, else n8n.

Sources (read 2026-11): https://docs.discord.com/developers/resources/webhook and /topics/rate-limits,
https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks,
https://docs.ntfy.sh/publish/ and errors.go of binwiederhier/ntfy,
https://github.com/MicrosoftDocs/msteams-docs/issues/1810 (Teams answers 200 to what it refuses),
https://developers.google.com/workspace/chat/quickstart/webhooks, /apps-script/guides/web,
https://open.dingtalk.com/document/robots/custom-robot-access, https://open.feishu.cn/document,
https://docs.n8n.io/integrations/builtin/core-nodes/n8n-nodes-base.webhook/
"""

from __future__ import annotations

import math
import re
from collections import deque
from typing import Any, Callable, Optional

from fakes.base import Api, Hook, Json, RefusedError, Request, Response, Route, basic


def plain(code: int, text: str, **headers: str) -> Response:
    return Response(code, headers={"Content-Type": "text/plain", **headers}, body=text.encode())


class Webhook(Api):
    """All of them. `logins` of the cloud: paths that want a user and a password."""

    prefix = "/hook"

    def make_routes(self) -> list[Route]:
        self.sent: dict[str, deque[float]] = {}  # when, to each Discord webhook
        return [self.route("POST /hook", self.post, path="(/.*)?")]

    def error_body(self, code: int, message: Any, word: str = "") -> Any:
        return {"code": code, "message": str(message)}

    def check(self, request: Request, route: Route) -> None:
        super().check(request, route)
        login = self.cloud.hook_logins.get(request.path)
        if login is None:
            self.check_leaks(request)
            return
        if request.headers.get("authorization", "") != basic(*login):
            raise RefusedError(plain(401, "Authorization data is wrong!"))

    def post(self, request: Request, rest: Optional[str]) -> Response:
        kind = request.headers.get("content-type", "")
        if kind.split(";")[0].strip().lower() != "application/json" or not isinstance(
            request.json, dict
        ):
            self.wrong(request, f"no JSON object (Content-Type {kind!r})")
        name = (rest or "").strip("/")
        receivers: dict[str, Callable[[Request, Json], Response]] = {
            "discord": self.discord,
            "slack": self.slack,
            "ntfy": self.ntfy,
            "teams": self.teams,
            "googlechat": self.google_chat,
            "appsscript": self.apps_script,
            "dingtalk": self.dingtalk,
            "feishu": self.feishu,
        }
        answer = receivers.get(name.split("/")[0], self.n8n)(request, request.json)
        self.cloud.hooks.append(Hook(request.path, request.json, request.headers, request.body))
        return answer

    def n8n(self, request: Request, payload: Json) -> Response:
        if request.path == "/hook/inactive":
            raise self.refuse(404, 'The requested webhook "POST inactive" is not registered.')
        return Response(200, {"message": "Workflow was started"})

    # --- Discord ---

    def discord(self, request: Request, payload: Json) -> Response:
        """Its texts have limits; five messages in two seconds."""
        sent = self.sent.setdefault(request.path, deque(maxlen=5))
        now = self.cloud.clock.monotonic()
        wait = sent[0] + 2 - now if len(sent) == 5 else 0.0
        if wait > 0:
            body = {"message": "You are being rate limited.", "retry_after": wait, "global": False}
            headers = {"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "0"}
            headers.update({"X-RateLimit-Reset-After": f"{wait:.3f}", "Via": "1.1 google"})
            raise RefusedError(
                Response(429, body, {"Retry-After": str(math.ceil(wait)), **headers})
            )
        errors: Json = {}
        self.too_long(errors, "content", payload.get("content"), 2000)
        self.too_long(errors, "username", payload.get("username"), 80)
        total = 0
        for index, embed in enumerate(payload.get("embeds", [])):
            own: Json = {}
            texts = [("title", embed, 256), ("description", embed, 4096)]
            texts += [
                ("name", embed.get("author", {}), 256),
                ("text", embed.get("footer", {}), 2048),
            ]
            for part in embed.get("fields", []):
                texts += [("name", part, 256), ("value", part, 1024)]
            for key, part, limit in texts:
                self.too_long(own, key, part.get(key), limit)
                total += len(part.get(key, ""))
            if own:
                errors.setdefault("embeds", {})[str(index)] = own
        if total > 6000:
            self.too_long(errors, "embeds", "x" * total, 6000)
        if errors:
            body = {"message": "Invalid Form Body", "code": 50035, "errors": errors}
            raise RefusedError(Response(400, body))
        if not payload.get("content") and not payload.get("embeds"):
            body = {"message": "Cannot send an empty message", "code": 50006}
            raise RefusedError(Response(400, body))
        sent.append(now)
        return Response(204)

    def too_long(self, errors: Json, key: str, text: Any, limit: int) -> None:
        if isinstance(text, str) and len(text) > limit:
            message = f"Must be {limit} or fewer in length."
            errors[key] = {"_errors": [{"code": "BASE_TYPE_MAX_LENGTH", "message": message}]}

    # --- Slack ---

    def slack(self, request: Request, payload: Json) -> Response:
        if request.path.endswith("/revoked"):
            raise RefusedError(plain(404, "no_service"))
        if request.path.endswith("/archived"):
            raise RefusedError(plain(410, "channel_is_archived"))
        for block in payload.get("blocks", []):
            text = block.get("text", {}).get("text", "")
            if len(text) > (150 if block.get("type") == "header" else 3000):
                raise RefusedError(plain(400, "invalid_blocks"))
        if not isinstance(payload.get("text", ""), str):
            raise RefusedError(plain(400, "invalid_payload"))
        if not any(payload.get(key) for key in ("text", "blocks", "attachments")):
            raise RefusedError(plain(400, "no_text"))
        return plain(200, "ok")

    # --- ntfy ---

    def ntfy(self, request: Request, payload: Json) -> Response:
        def refuse(code: int, error: str) -> RefusedError:
            return RefusedError(
                Response(code // 100, {"code": code, "http": code // 100, "error": error})
            )

        if len(request.body) > 8192:
            raise refuse(41303, "JSON body too large")
        if not re.fullmatch(r"[-_A-Za-z0-9]{1,64}", str(payload.get("topic"))):
            raise refuse(40009, "topic invalid")
        if payload.get("priority") not in (None, 1, 2, 3, 4, 5):
            raise refuse(40007, "invalid priority parameter")
        if len(payload.get("message", "").encode()) > 4096:  # it would become an attachment
            raise refuse(41301, "attachment too large, or bandwidth limit reached")
        return Response(200, {"id": "hwQ2YpKdmg", "time": 1635528757, "event": "message"})

    # --- others ---

    def teams(self, request: Request, payload: Json) -> Response:
        status = 413 if len(request.body) > 28 * 1024 else 0
        status = status or (0 if payload.get("text") or payload.get("attachments") else 400)
        if status:
            said = "Webhook message delivery failed with error: Microsoft Teams endpoint returned"
            said += f" HTTP error {status} with ContextId tcid=6228,server=DB5PEPF00003FC8.."
            raise RefusedError(plain(200, said))
        return plain(200, "1")

    def google_chat(self, request: Request, payload: Json) -> Response:
        if len(payload.get("text", "")) > 4096 or set(payload) - {"text", "cardsV2", "thread"}:
            body = {"code": 400, "message": "Invalid JSON payload received.", "status": "INVALID"}
            raise RefusedError(Response(400, {"error": body}))
        return Response(200, {"name": "spaces/AAAA/messages/1"})

    def apps_script(self, request: Request, payload: Json) -> Response:
        key = self.cloud.apps_script_key
        where = f"https://script.googleusercontent.com/macros/echo?user_content_key={key}"
        raise RefusedError(plain(302, "<HTML>Moved Temporarily</HTML>", Location=where))

    def dingtalk(self, request: Request, payload: Json) -> Response:
        if payload.get("msgtype") != "text":
            body = {"errcode": 310000, "errmsg": "keywords not in content"}
            raise RefusedError(Response(200, body))
        return Response(200, {"errcode": 0, "errmsg": "ok"})

    def feishu(self, request: Request, payload: Json) -> Response:
        if payload.get("msg_type") != "text":
            body = {"code": 19024, "msg": "Key Words Not Found", "data": {}}
            raise RefusedError(Response(200, body))
        body = {"code": 0, "msg": "success", "data": {}, "StatusCode": 0}
        return Response(200, {**body, "StatusMessage": "success"})
