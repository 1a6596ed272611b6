"""Telegram's bots, and what becomes of markup there: https://core.telegram.org/bots/api"""

from __future__ import annotations

import contextlib
import html
import json
import math
import re
from collections import deque
from typing import Any, Callable, Optional
from urllib.parse import parse_qs, unquote

from fakes.base import (
    Api,
    Bot,
    Json,
    RefusedError,
    Request,
    Response,
    Route,
    TelegramMessage,
    words,
)

# === Telegram's markup =========================================================================
# As the Bot API server parses it: https://core.telegram.org/bots/api#formatting-options


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


def is_url(text: str) -> bool:
    """What may be the address of a link, roughly."""
    return re.match(r"(?:\w+://)?[^\s/:?#]+\.[^\s/:?#.]", text) is not None


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
            if text[i : i + 1] == "(":
                close = text.find(")", i) % (len(text) + 1)  # without one all the rest is address
                more = {"url": text[i + 1 : close]} if is_url(text[i + 1 : close]) else {}
                i = close + 1
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
    i, quote_from, quoted_at = 0, -1, -1
    while i < len(text):
        sign, inside = text[i], stack[-1][0] if stack else ""
        line_start = shown.text[-1:] in ("", "\n") and shown.units != quoted_at and not stack
        if sign == "\\" and i + 1 < len(text) and 0 < ord(text[i + 1]) <= 126:
            shown.add(text[i + 1])
            i += 2
            continue
        in_code = inside in ("`", "```")
        if line_start and sign == ">" and not in_code:
            quote_from = shown.units if quote_from < 0 else quote_from
            i, quoted_at = i + len(text[i:]) - len(text[i:].lstrip(">")), shown.units
            continue
        if (
            quote_from >= 0
            and inside != "||"
            and re.match(r"\|\|(?:\n|$)", text[i:])
            and not in_code
        ):
            shown.mark("expandable_blockquote", quote_from)
            i, quote_from = i + 2, -1
            continue
        if line_start and quote_from >= 0 and not in_code:
            shown.mark("blockquote", quote_from)
            quote_from = -1
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
        if inside and mark == ("]" if inside == "[" else inside):
            _, offset, _, more = stack.pop()
            i += len(mark)
            if inside == "[":
                more = {"url": shown.text.encode("utf-16-le")[2 * offset :].decode("utf-16-le")}
                if text[i : i + 1] == "(":
                    close = re.compile(r"(?:\\.|[^\\)])*\)", re.S).match(text, i + 1)
                    if close is None:
                        raise MarkupError(
                            f"Can't find end of a URL at byte offset {byte_offset(text, i)}"
                        )
                    more = {"url": re.sub(r"\\(.)", r"\1", close[0][:-1], flags=re.S)}
                    i = close.end()
            if inside != "[" or is_url(more["url"]):
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
        if opened != "a" or is_url(more.get("url", "")):
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


# === Messages ==================================================================================


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
        return [
            self.route("POST /tg/sendMessage", self.send, path="/bot{token}/sendMessage"),
            self.route("POST /tg/getUpdates", self.updates, path="/bot{token}/getUpdates"),
        ]

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

    def updates(self, request: Request, token: str) -> Response:
        """The oldest hundred. An offset would take them from other readers, and allowed_updates
        stay in force: https://core.telegram.org/bots/api#getupdates"""
        bot = self.cloud.bots.get(unquote(token))
        if bot is None:
            raise self.refuse(401, "Unauthorized")
        if request.json:
            raise self.fail(request, 400, f"Bad Request: fields with effects: {request.json}")
        if bot.conflict:
            raise self.refuse(409, f"Conflict: {bot.conflict}")
        numbered = [{"update_id": n, **update} for n, update in enumerate(bot.updates, 70001)]
        return Response(200, {"ok": True, "result": numbered[:100]})

    def send(self, request: Request, token: str) -> Response:
        bot = self.cloud.bots.get(unquote(token))
        if bot is None:
            raise self.refuse(401, "Unauthorized")
        fields = self._fields(request)
        text, mode, entities = (fields.get(n) for n in ("text", "parse_mode", "entities"))
        chat_id = fields.get("chat_id")
        if isinstance(chat_id, bool) or not isinstance(chat_id, (int, str)) or chat_id == "":
            raise self.fail(request, 400, "Bad Request: chat_id is empty")
        chat = str(chat_id)
        if chat in bot.migrated:
            body = self.error_body(400, "Bad Request: group chat was upgraded to a supergroup chat")
            body["parameters"] = {"migrate_to_chat_id": bot.migrated[chat]}
            raise RefusedError(Response(400, body))
        if chat in bot.refusals:
            words = bot.refusals[chat]
            raise self.refuse(403 if words.startswith("Forbidden") else 400, words)
        if chat not in bot.chats | bot.blocked:
            raise self.refuse(400, "Bad Request: chat not found")
        if chat in bot.blocked:
            raise self.refuse(403, "Forbidden: bot was blocked by the user")
        self._topic(request, bot.topics.get(chat), fields)
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
        return Response(200, {"ok": True, "result": result})

    def _topic(self, request: Request, topics: Optional[dict[int, str]], fields: Json) -> None:
        """A forum's messages go to a topic; without one to General, which is number 1, but is not
        found by it: https://github.com/tdlib/telegram-bot-api/issues/798."""
        number = fields.get("message_thread_id")
        if "message_thread_id" in fields and (type(number) is not int or number < 1):
            raise self.fail(
                request, 400, "Bad Request: invalid message thread identifier specified"
            )
        state = (topics or {}).get(number or 1, "open" if number is None else "")
        state = "" if number == 1 else state
        if not state:
            raise self.refuse(400, "Bad Request: message thread not found")
        if state == "closed":
            raise self.refuse(400, "Bad Request: TOPIC_CLOSED")

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
            raise RefusedError(Response(429, body, {"Retry-After": str(seconds)}))
        sent.append(now)
