"""Receivers of webhooks, and Telegram's chats, as they are: limits, refusals, moves, logins."""

from __future__ import annotations

import base64
import json
import re
from typing import Any, Optional
from urllib.parse import quote

import fakes as fake
import pytest
from conftest import PostOffice, Project
from test_notify import (
    HOOK,
    SEND,
    assert_delivered,
    assert_undelivered,
    bot_token,
    fleet,
    statuses,
    telegram,
    texts,
)

from snapshots import CUT, MASK

CREATE = "POST /hz/servers/{id}/actions/create_image"
FAILURE = "{server_name}: {error}"

# The README's recipes, and what else people post.
PAYLOADS: dict[str, dict[str, Any]] = {
    "discord": {"content": FAILURE},
    "discord/embeds": {
        "username": "{hostname} {server_name}",
        "embeds": [
            {
                "title": "{server_name}: {error}",
                "description": "{error}\n{warnings}",
                "footer": {"text": "{error}"},
                "author": {"name": "{error}"},
                "fields": [{"name": "{error}", "value": "{error}"}],
            }
        ],
    },
    "slack": {"text": "<!channel> {server_name}: {error}"},
    "slack/blocks": {
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": "{error} {error} {error}"}}
        ]
    },
    "ntfy": {"topic": "my-topic", "title": "{server_name} failed", "message": "{error}"},
    "teams": {"text": "{error}"},
    "googlechat": {"text": FAILURE},
    "n8n": {},
}
LONG_ERRORS = {
    "plain": "the reason is " + "x" * 280,
    "quotes": '"' * 290,
    "three bytes a character": "理由は" * 95,
    "surrogates": "😀" * 290,
}


NO_TEXT = "No text specified."
UNKNOWN_NAME = 'Invalid JSON payload received. Unknown name "event": Cannot find field.'


def webhook(project: Project, name: str, payload: Any = None, **more: Any) -> str:
    """Switch on a webhook of that receiver for all servers. Returns its path, a secret."""
    path = f"/hook/{name}/{project.token('hook')}"
    project.config["WEBHOOK"] = {"enabled": "true", "url": project.cloud.url + path, **more}
    if payload is not None:
        project.config["WEBHOOK"]["payload_failure"] = json.dumps(payload)
    return path


def fail_with(project: Project, message: str) -> None:
    """Hetzner refuses every create with these words."""
    body = {"error": {"code": "odd", "message": message}}
    project.cloud.fault(CREATE, fake.status(400, body), times=None)


def server_with_a_long_error(project: Project, words: str) -> str:
    """One whose turn ends with an error of 10,000 characters: sixty deletions that fail, each in
    such words of the API. Returns how they begin."""
    project.cloud.page_size = None
    project.config["RETENTION"] = {"max_deletes_per_run": 100}
    server = project.server("hetzner", 11, "my_server", retain=1)
    project.history(server, 60)
    body = {"error": {"code": "odd", "message": words}}
    project.cloud.fault("DELETE /hz/images/{id}", fake.status(400, body), times=None)
    return words[:50]


def all_texts(payload: Any) -> str:
    return json.dumps(payload, ensure_ascii=False)


# --- messages that fit -----------------------------------------------------------------------


@pytest.mark.proves("wild-3")
@pytest.mark.parametrize("receiver", PAYLOADS)
@pytest.mark.parametrize("kind", LONG_ERRORS)
def test_a_long_error_reaches_every_receiver_at_once(
    project: Project, receiver: str, kind: str
) -> None:
    """And the log has all of it that an error holds anywhere."""
    webhook(project, receiver, PAYLOADS[receiver] or None)
    begin = server_with_a_long_error(project, LONG_ERRORS[kind])
    result = project.run()
    assert_delivered(result, code=1)
    assert statuses(project, HOOK) == [204 if receiver.startswith("discord") else 200]
    (hook,) = project.cloud.hooks
    shown = all_texts(hook.json)
    assert json.dumps(begin, ensure_ascii=False)[1:-1] in shown
    assert CUT in shown
    assert "my_server" in shown or receiver in ("teams", "slack/blocks")
    whole = max(result.log.splitlines(), key=len)
    assert "my_server" in whole
    assert whole.count(begin) > 20


@pytest.mark.proves("wild-3")
def test_mail_has_the_whole_text(project: Project, post: PostOffice) -> None:
    server = post.open()
    begin = server_with_a_long_error(project, LONG_ERRORS["plain"])
    assert_delivered(project.run(), code=1)
    assert server.mails[0].part("plain").count(begin) > 20
    assert CUT not in server.mails[0].part("plain")


@pytest.mark.proves("wild-3")
def test_a_joined_mail_names_every_failure(project: Project, post: PostOffice) -> None:
    server = post.open(answers={"data": ["451 later"]})
    project.config["SMTP"].update(base_delay_between_retries=300, timeout=60)
    project.config["TIMING"]["max_parallel"] = 61
    project.cloud.page_size = None
    fleet(project, 60)
    fail_with(project, "there is something wrong with this server, and it takes words to say it")
    assert_delivered(project.run(), code=1)
    told = "".join(mail.part("plain") for mail in server.mails)
    assert len(server.mails) < 30
    assert all(re.search(rf"s_{n}\b", told) for n in range(60))
    assert "more" not in told


@pytest.mark.proves("wild-3")
@pytest.mark.parametrize("receiver", PAYLOADS)
def test_sixty_failures_reach_every_receiver_and_are_counted(
    project: Project, receiver: str
) -> None:
    project.config["TIMING"]["max_parallel"] = 61
    project.cloud.page_size = None
    fleet(project, 60)
    webhook(project, receiver, PAYLOADS[receiver] or None)
    fail_with(project, "there is something wrong with this server, and it takes words to say it")
    project.cloud.fault(HOOK, fake.status(429, headers={"Retry-After": "300"}))
    assert_delivered(project.run(), code=1)
    joined = [
        shown
        for hook in project.cloud.hooks
        for shown in [all_texts(hook.json)]
        if re.search(r"\.\.\. and [0-9]+ more|\(cut\)", shown)
    ]
    assert joined
    assert any("s_" in shown and "something wrong" in shown for shown in joined)
    if receiver in ("discord", "slack", "googlechat", "n8n"):
        title = "SUMMARY: 0 succeeded, 5[0-9] failed" if receiver == "n8n" else "5[0-9] servers "
        assert re.search(title, joined[0])
        assert re.search(r"\.\.\. and [0-9]+ more", joined[0]) or receiver == "n8n"


@pytest.mark.proves("wild-3")
def test_sixty_failures_are_all_in_the_log_and_reported_to_discord(project: Project) -> None:
    """The README's recipe; every alert counts, and none is lost."""
    project.config["TIMING"]["max_parallel"] = 61
    project.cloud.page_size = None
    fleet(project, 60)
    webhook(project, "discord", PAYLOADS["discord"])
    fail_with(project, "there is something wrong with this server, and it takes words to say it")
    result = project.run()
    assert_delivered(result, code=1)
    counted = 0
    for hook in project.cloud.hooks:
        content = hook.json["content"]
        assert len(content) <= 2000
        several = re.match(r"([0-9]+) servers", content)
        counted += int(several[1]) if several else 1
    assert counted == 60
    assert all(f"s_{n}: FAILURE: " in result.log for n in range(60))


@pytest.mark.proves("wild-3")
@pytest.mark.parametrize(
    ("receiver", "payload"),
    [
        ("discord", {"content": "words " * 400 + FAILURE}),
        ("discord", {"content": "words " * 400}),
        ("discord", {"content": "words " * 320 + "{error}" + "words " * 320}),
        ("discord", {"embeds": [{"title": "words " * 60 + "{server_name} {error}"}]}),
        ("discord", {"embeds": [{"title": "words " * 60, "description": "{error}" * 9}]}),
        ("discord", {"embeds": [{"description": "{error}" * 3} for _ in range(6)]}),
        ("slack", {"blocks": [{"type": "header", "text": {"text": "{server_name}: {error}"}}]}),
        ("ntfy", {"topic": "t", "title": "{error}", "message": "words " * 900 + "{error}"}),
        ("ntfy", {"topic": "t", "title": "{error}", "message": "{error}", "click": "x" * 6000}),
        ("teams", {"text": "{error}", "attachments": ["words " * 5000]}),
        ("googlechat", {"text": "words " * 900 + "{error}"}),
    ],
)
def test_own_templates_with_much_text_arrive_in_the_second_try_at_the_latest(
    project: Project, receiver: str, payload: Any
) -> None:
    webhook(project, receiver, payload, retries=1)
    server_with_a_long_error(project, LONG_ERRORS["plain"])
    result = project.run()
    assert result.code == 1
    assert "not delivered" not in result.err
    assert 1 <= project.cloud.count(HOOK) <= 2
    (hook,) = project.cloud.hooks
    if "error" in json.dumps(payload):
        assert "the new snapshot my_server" in all_texts(hook.json)


@pytest.mark.proves("wild-3")
@pytest.mark.parametrize("code", [400, 413])
def test_what_is_refused_twice_is_given_up(project: Project, code: int) -> None:
    webhook(project, "n8n")
    server_with_a_long_error(project, LONG_ERRORS["plain"])
    project.cloud.fault(HOOK, fake.status(code), times=None)
    assert_undelivered(project.run(), 1, code=1)
    first, second = project.cloud.requests(HOOK)
    assert len(second.body) < len(first.body) / 2
    keys = [request.headers["idempotency-key"] for request in (first, second)]
    assert keys[0] != keys[1]


@pytest.mark.proves("wild-3")
@pytest.mark.parametrize("parse_mode", ["Markdown", "MarkdownV2", "HTML", "none"])
@pytest.mark.parametrize("code", [400, 413])
def test_what_telegram_finds_too_long_is_sent_short(
    project: Project, parse_mode: str, code: int
) -> None:
    telegram(project, parse_mode=parse_mode)
    server_with_a_long_error(project, LONG_ERRORS["plain"])
    refusal = fake.status(code, {"ok": False, "description": "Bad Request: message is too long"})
    project.cloud.fault(SEND, refusal, times=None, when=lambda r: len(r.body) > 1000)
    result = project.run()
    assert result.code == 1
    assert "not delivered" not in result.err
    (text,) = texts(project)
    assert "the reason is" in text


# --- a receiver's words ------------------------------------------------------------------------


@pytest.mark.proves("wild-5")
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (fake.status(400, body=b"invalid_payload"), "HTTP 400: invalid_payload"),
        (fake.status(404, body=b"no_service"), "HTTP 404: no_service"),
        (fake.status(403, body=b"action_prohibited\nmore"), "HTTP 403: action_prohibited"),
        (fake.status(410, {"error": "channel_is_archived"}), "HTTP 410: channel_is_archived"),
        (
            fake.status(403, {"code": 40301, "http": 403, "error": "forbidden", "link": "l"}),
            "HTTP 403: forbidden",
        ),
        (
            fake.status(
                400,
                {
                    "message": "Invalid Form Body",
                    "code": 50035,
                    "errors": {"content": {"_errors": [{"code": "X", "message": "Must be 2000"}]}},
                },
            ),
            "HTTP 400: Invalid Form Body; Must be 2000",
        ),
        (fake.status(400, {"content": ["Must be 2000 or fewer"]}), "HTTP 400: Must be 2000"),
        (fake.status(401, {"error": {"code": 7, "message": "bad key"}}), "HTTP 401: bad key"),
        (fake.status(400, {"errors": ["one", "two"]}), "HTTP 400: one; two"),
        (fake.status(404, {"detail": "Not here"}), "HTTP 404: Not here"),
        (fake.status(400, body=b'"just a text"'), "HTTP 400: just a text"),
        (
            fake.garbage(b"<html><head><title>405 Not\nAllowed</title>", status=405),
            "HTTP 405: 405 Not",
        ),
        (
            fake.garbage(b"\n <h1>Forbidden &amp; gone</h1>", status=403),
            "HTTP 403: Forbidden & gone",
        ),
        (fake.status(400, body=b"\xff\xfe\x1b[31m"), "HTTP 400: "),
        (fake.status(400, body=b'\xef\xbb\xbf{"message": "too odd"}'), "HTTP 400: too odd"),
        (fake.status(400, body=b"\xef\xbb\xbftoo odd"), "HTTP 400: too odd"),
        (fake.status(400, body=b"[" * 100_000), "HTTP 400: [["),
        (fake.status(400, body=b"words " * 100_000), "HTTP 400: words words"),
        (fake.status(400, body=b""), "HTTP 400\n"),
        (fake.status(400, 5), "HTTP 400: 5"),
    ],
)
def test_what_a_receiver_says_stands_in_the_warning(
    project: Project, answer: fake.Fault, words: str
) -> None:
    project.server("hetzner", 11)
    webhook(project, "other")
    project.cloud.fault(HOOK, answer, times=None)
    result = project.run()
    assert_undelivered(result, 1)
    assert f"cannot post to the webhook: {words}" in result.err
    assert "n8n" not in result.err
    (line,) = result.err.splitlines()
    assert len(line) < 600
    assert "\x1b" not in line


@pytest.mark.proves("wild-5")
@pytest.mark.parametrize("path", ["slack/revoked", "slack/archived"])
def test_slacks_words_are_reported_and_n8n_is_not_blamed(project: Project, path: str) -> None:
    project.server("hetzner", 11)
    webhook(project, "slack")
    project.config["WEBHOOK"]["url"] = f"{project.cloud.url}/hook/{path}"
    result = project.run()
    assert_undelivered(result, 1)
    assert ("no_service" in result.err) == ("revoked" in path)
    assert ("channel_is_archived" in result.err) == ("archived" in path)
    assert "n8n" not in result.err


@pytest.mark.proves("wild-5")
@pytest.mark.parametrize(
    "message",
    [
        'The requested webhook "POST x" is not registered.',
        "This webhook is not registered for POST requests. Did you mean to make a GET request?",
    ],
)
def test_the_hint_for_n8n_stands_where_n8n_says_so(project: Project, message: str) -> None:
    project.server("hetzner", 11)
    webhook(project, "other")
    body = {"code": 404, "message": message, "hint": "activate it"}
    project.cloud.fault(HOOK, fake.status(404, body))
    assert "(n8n: is the workflow active" in project.run().err


@pytest.mark.proves("wild-5")
@pytest.mark.parametrize(
    "answer",
    [
        None,
        fake.status(400, {"message": "Cannot send an empty message", "code": 50006}),
        fake.status(400, {"id": "web.incoming_webhook.text.app_error", "message": NO_TEXT}),
        fake.status(400, {"errorCode": 400, "errorDescription": "Field 'message' is required"}),
        fake.status(400, {"error": {"code": 400, "message": UNKNOWN_NAME}}),
        fake.status(400, {"code": 40009, "http": 400, "error": "invalid request: topic invalid"}),
    ],
    ids=["Slack", "Discord", "Mattermost", "Gotify", "Google Chat", "ntfy"],
)
def test_who_takes_only_a_payload_of_its_own_is_told_apart(
    project: Project, answer: Optional[fake.Fault]
) -> None:
    project.server("hetzner", 11)
    webhook(project, "slack")
    if answer:
        project.cloud.fault(HOOK, answer)
    result = project.run()
    assert_undelivered(result, 1)
    assert "(set payload_success and payload_failure as this receiver wants them)" in result.err


@pytest.mark.proves("wild-5")
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            fake.status(200, body=b"Webhook message delivery failed with error: it broke"),
            "delivery failed with error: it broke",
        ),
        (fake.status(200, {"errcode": 93000, "errmsg": "invalid webhook url"}), "invalid webhook"),
        (fake.status(200, {"errcode": -1, "errmsg": "system busy"}), "system busy"),
        (fake.status(200, body=b'\xef\xbb\xbf{"ok": false, "error": "with a BOM"}'), "with a BOM"),
        (fake.status(200, {"code": 19001, "msg": "param invalid", "data": {}}), "param invalid"),
        (fake.status(200, {"ok": False, "error": "invalid_auth"}), "invalid_auth"),
    ],
)
def test_a_200_that_is_known_to_be_a_refusal_is_no_delivery(
    project: Project, answer: fake.Fault, words: str
) -> None:
    project.server("hetzner", 11)
    webhook(project, "other")
    project.cloud.fault(HOOK, answer, times=None)
    result = project.run()
    assert_undelivered(result, 1)
    assert "HTTP 200" in result.err
    assert words in result.err


@pytest.mark.proves("wild-5")
@pytest.mark.parametrize("receiver", ["teams", "dingtalk", "feishu"])
def test_receivers_that_refuse_with_200_are_understood(project: Project, receiver: str) -> None:
    project.server("hetzner", 11)
    webhook(project, receiver)
    assert_undelivered(project.run(), 1)
    assert project.cloud.hooks == []


@pytest.mark.proves("wild-5")
@pytest.mark.parametrize(
    "answer",
    [
        fake.status(200, {"errcode": 0, "errmsg": "ok"}, act=True),
        fake.status(200, {"code": 0, "msg": "success"}, act=True),
        fake.status(200, {"code": 200, "msg": "ok"}, act=True),
        fake.status(200, {"ok": True}, act=True),
        fake.status(200, {"error": "none", "errcode": True}, act=True),
        fake.status(200, body=b"1", act=True),
        fake.status(200, body=b"The webhook message delivery failed with error handler", act=True),
    ],
)
def test_other_200s_stay_deliveries(project: Project, answer: fake.Fault) -> None:
    project.server("hetzner", 11)
    webhook(project, "other")
    project.cloud.fault(HOOK, answer)
    assert_delivered(project.run())


@pytest.mark.proves("wild-5")
def test_a_429_that_teams_hides_in_a_200_is_waited_for(project: Project) -> None:
    project.server("hetzner", 11)
    webhook(project, "other")
    said = b"Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429"
    project.cloud.fault(HOOK, fake.status(200, body=said))
    assert_delivered(project.run())
    assert project.cloud.count(HOOK) == 2


@pytest.mark.proves("wild-5")
def test_a_redirect_of_apps_script_says_where_it_leads_and_no_secret(project: Project) -> None:
    project.server("hetzner", 11)
    project.cloud.apps_script_key = project.token("key")
    webhook(project, "appsscript")
    result = project.run()
    assert_undelivered(result, 1)
    assert (
        "HTTP 302: Moved Temporarily (redirects are not followed; it points to"
        " https://script.googleusercontent.com)"
    ) in result.err


@pytest.mark.proves("wild-5")
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "place"),
    [
        ("https://new.example.org:8443/x?token=abcdefgh", "https://new.example.org:8443)"),
        ("//robot:secret-word@other.example/x", "http://other.example)"),
        ("/elsewhere", "another path of the same host)"),
        ("http://[broken", "an address that is not valid)"),
        ("mailto:ops@example.org", "an address that is not valid)"),
        (None, "an address that is not valid)"),
        ("", "another path of the same host)"),
    ],
)
def test_a_redirect_says_where_it_leads(
    project: Project, code: int, location: str | None, place: str
) -> None:
    project.server("hetzner", 11)
    webhook(project, "other")
    fault = fake.status(code) if location is None else fake.redirect(location, code)
    project.cloud.fault(HOOK, fault, times=None)
    result = project.run()
    assert_undelivered(result, 1)
    assert f"HTTP {code} (redirects are not followed; it points to {place}" in result.err
    assert "secret-word" not in result.log


@pytest.mark.proves("wild-5")
def test_discords_limit_is_waited_for_as_long_as_it_says(project: Project) -> None:
    project.config["TIMING"]["max_parallel"] = 20
    project.cloud.page_size = None
    fleet(project, 15)
    webhook(project, "discord")
    project.config["WEBHOOK"]["payload_success"] = '{"content": "{server_name}"}'
    assert_delivered(project.run())
    assert len(project.cloud.hooks) == 15


@pytest.mark.proves("wild-5")
def test_a_pause_that_stands_in_the_body_alone_is_seen(project: Project) -> None:
    project.server("hetzner", 11)
    webhook(project, "other")
    body = {"message": "You are being rate limited.", "retry_after": 64.57, "global": False}
    project.cloud.fault(HOOK, fake.status(429, body))
    assert_delivered(project.run())
    first, second = project.cloud.requests(HOOK)
    assert 64.569 <= second.monotonic - first.monotonic < 66


# --- a login in the address ----------------------------------------------------------------------


@pytest.mark.proves("wild-5")
@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("robot", "a-long-password"),
        ("robot", "pw7Rk2"),
        ("röbot@home", "pässwörd: 100 % / ?#"),
        ("a-long-user-name", ""),
        ("", "tk_AgQdq7mVBoFD37zQVN29RhuMzNIz2"),
    ],
)
def test_a_login_in_the_url_is_sent_as_basic_and_masked(
    project: Project, user: str, password: str, in_file: bool
) -> None:
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    path = f"/hook/{project.token('hook')}"
    url = f"http://{login}@{project.cloud.url.partition('://')[2]}{path}"
    project.cloud.hook_logins[path] = (user, password)
    own = {"webhook": {"enabled": True, "url": url}} if in_file else {}
    if not in_file:
        project.config["WEBHOOK"] = {"enabled": "true", "url": url}
    project.server("hetzner", 11, file=own)
    result = project.run()
    assert result.code == 0
    assert len(project.cloud.hooks) == 1
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    said = f"no {user} {password} {login} {basic} {url} here"
    project.cloud.fault(HOOK, fake.status(401, {"message": said}))
    result = project.run("-v")
    assert "HTTP 401" in result.err
    secret = password or user
    for text in (result.out, result.err, result.log):
        for form in (secret, quote(secret, safe=""), basic, login):
            assert form not in text
    assert MASK in result.err


@pytest.mark.proves("wild-5")
def test_a_wrong_login_is_reported_in_the_receivers_words(project: Project) -> None:
    path = f"/hook/{project.token('hook')}"
    project.cloud.hook_logins[path] = ("robot", "right-password")
    host = project.cloud.url.partition("://")[2]
    project.config["WEBHOOK"] = {
        "enabled": "true",
        "url": f"http://robot:wrong-password@{host}{path}",
    }
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    assert "HTTP 401: Authorization data is wrong!" in result.err


# --- Telegram's chats ------------------------------------------------------------------------------


@pytest.mark.proves("wild-6")
@pytest.mark.parametrize("in_file", [False, True])
def test_a_group_that_became_a_supergroup_is_written_to_under_its_new_number(
    project: Project, in_file: bool
) -> None:
    bot = telegram(project, chats=(-4242, -1001234567890))
    bot.migrated["-4242"] = -1001234567890
    own = {"telegram": {"chat_id": -4242}} if in_file else {}
    if in_file:
        project.config["TELEGRAM"]["chat_id"] = "123"
    servers = [project.server("hetzner", 11 + n, f"s_{n}", file=own) for n in range(3)]
    result = project.run()
    assert result.code == 0
    assert result.out.endswith(" total\n")  # all delivered
    assert [m.chat_id for m in project.cloud.telegram_messages] == ["-1001234567890"] * 3
    assert statuses(project) == [400, 200, 200, 200]
    (warning,) = result.err.splitlines()
    assert "set chat_id to -1001234567890 in " in warning
    if in_file:
        assert any(f"hetzner-{server.id}.json" in warning for server in servers)
    else:
        assert "[TELEGRAM] of snapshots.config" in warning


@pytest.mark.proves("wild-6")
def test_a_group_that_moves_in_a_circle_ends(project: Project) -> None:
    bot = telegram(project, chats=(-1, -2))
    bot.migrated.update({"-1": -2, "-2": -1})
    project.server("hetzner", 11)
    assert_undelivered(project.run(), 1)
    assert project.cloud.count(SEND) == 2


@pytest.mark.proves("wild-6")
def test_messages_go_to_their_topic(project: Project) -> None:
    bot = telegram(project, chats=(-1001,), message_thread_id=7)
    bot.topics["-1001"] = {1: "closed", 7: "open", 9: "open"}
    project.server("hetzner", 11, "as_all")
    project.server("hetzner", 12, "own", file={"telegram": {"message_thread_id": 9}})
    project.server("hetzner", 13, "text", file={"telegram": {"message_thread_id": "9"}})
    assert_delivered(project.run())
    sent = {
        m.text.split()[3]: m.payload["message_thread_id"] for m in project.cloud.telegram_messages
    }
    assert sent == {"as_all": 7, "own": 9, "text": 9}


@pytest.mark.proves("wild-6")
@pytest.mark.parametrize("value", [None, "", "0", "1"])
def test_no_topic_is_never_sent(project: Project, value: str | None) -> None:
    """Nor General, by its number."""
    telegram(project).topics["123"] = {1: "open"}
    if value is not None:
        project.config["TELEGRAM"]["message_thread_id"] = value
    project.server("hetzner", 11)
    assert_delivered(project.run())
    assert "message_thread_id" not in project.cloud.telegram_messages[0].payload


@pytest.mark.proves("wild-6")
@pytest.mark.parametrize("value", [0, "0", None])
def test_a_chat_of_its_own_has_no_topic_of_another(project: Project, value: object) -> None:
    """The topic of snapshots.config belongs to the chat there."""
    bot = telegram(project, chats=(-1001, 55), message_thread_id=7)
    bot.topics["-1001"] = {1: "open", 7: "open"}
    own = {"chat_id": 55} if value is None else {"message_thread_id": value}
    project.server("hetzner", 11, file={"telegram": own})
    assert_delivered(project.run())
    (message,) = project.cloud.telegram_messages
    assert message.chat_id == ("55" if value is None else "-1001")
    assert "message_thread_id" not in message.payload


@pytest.mark.parametrize("value", ["seven", -1, 1.5, True, [7], "7 8"])
def test_a_topic_that_is_no_number_is_a_problem_of_its_server(
    project: Project, value: object
) -> None:
    telegram(project)
    project.server("hetzner", 11, file={"telegram": {"message_thread_id": value}})
    result = project.run()
    assert result.code == 1
    assert "telegram.message_thread_id: must be a whole number" in result.err


@pytest.mark.proves("wild-6")
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("Forbidden: bot was blocked by the user", "unblock the bot"),
        ("Bad Request: TOPIC_CLOSED", "open the topic again"),
        ("Bad Request: message thread not found", "message_thread_id"),
        ("Bad Request: not enough rights to send text messages to the chat", "administrator"),
        ("Bad Request: chat not found", "check chat_id"),
        ("Forbidden: bot was kicked from the supergroup chat", "add the bot"),
        ("Forbidden: bot is not a member of the channel chat", "add the bot"),
        ("Forbidden: bot can't initiate conversation with a user", "write to the bot first"),
        ("Forbidden: user is deactivated", "another chat_id"),
        ("Forbidden: the bot can't send messages to the bot", "of a bot"),
        ("Forbidden: bots can't send messages to bots", "of a bot"),
        ("Forbidden: the group chat was deleted", "another chat_id"),
        ("Bad Request: have no rights to send a message", "administrator"),
        ("Bad Request: need administrator rights in the channel chat", "administrator"),
        ("Bad Request: CHAT_WRITE_FORBIDDEN", "administrator"),
    ],
)
def test_each_refusal_of_telegram_says_what_to_do(project: Project, words: str, hint: str) -> None:
    bot = telegram(project)
    bot.refusals["123"] = words
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    assert project.cloud.count(SEND) == 1
    line = result.err.strip()
    assert words in line
    assert hint in line.rpartition("(")[2]


def test_a_wrong_token_says_so(project: Project) -> None:
    telegram(project)
    project.config["TELEGRAM"]["bot_token"] = bot_token(project)
    project.server("hetzner", 11)
    assert project.run().err.strip().endswith("HTTP 401: Unauthorized (check bot_token)")
