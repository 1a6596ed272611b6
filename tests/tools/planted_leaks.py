"""Leaks, planted one by one: test_leak_scan.py runs this file, and every test in it that is called
test_leak... must end with an error of the scan, while those called test_home... must not."""

from __future__ import annotations

import base64
import email.message
import json
import os
import smtplib
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable
from urllib.parse import quote, quote_plus

import pytest
import requests
from conftest import Project
from fakes.mail import MailServer

AWKWARD = 'S3cr%t/"pa+ss\\w0rd ü'
RAW = AWKWARD.encode()


def base64_behind(before: bytes) -> str:
    return base64.b64encode(before + RAW + b"...").decode()


FORMS = {
    "raw": AWKWARD,
    "within other text": f"x{AWKWARD}y",
    "URL-quoted": quote(AWKWARD),
    "URL-quoted, slashes too": quote(AWKWARD, safe=""),
    "form-quoted": quote_plus(AWKWARD),
    "JSON": json.dumps(AWKWARD),
    "JSON with its umlauts": json.dumps(AWKWARD, ensure_ascii=False),
    "repr": repr(AWKWARD),
    "ascii": ascii(AWKWARD),
    "base64": base64_behind(b""),
    "base64, one byte before": base64_behind(b"1"),
    "base64, two bytes before": base64_behind(b"12"),
    "base64 of a login": base64.b64encode(b"\0user\0" + RAW).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(b"a" + RAW).decode(),
    "hex": RAW.hex(),
    "HEX": RAW.hex().upper(),
}


@pytest.mark.parametrize("form", FORMS)
def test_leak_in_a_form(project: Project, form: str) -> None:
    project.canaries.add(AWKWARD)
    print(FORMS[form])


# --- where a credential is known from --------------------------------------------------------------


def known_to_a_cloud(field: str) -> Callable[[Project], str]:
    """A field of a Contabo account."""
    return lambda project: str(getattr(project.account("contabo"), field))


def access_token(project: Project) -> str:
    account = project.account("contabo")
    body = {
        "grant_type": "password",
        "client_id": account.client_id,
        "client_secret": account.client_secret,
        "username": account.api_user,
        "password": account.api_password,
    }
    answer = requests.post(project.cloud.endpoints()["contabo_auth_url"], data=body, timeout=10)
    return str(answer.json()["access_token"])


def bot(project: Project) -> str:
    return project.cloud.add_bot("123456:only-the-cloud-knows-this").token


def mail_password(_project: Project) -> str:
    MailServer(users={"somebody": "only-the-mail-server-knows-this"})
    return "only-the-mail-server-knows-this"


def in_a_server_file(project: Project) -> str:
    project.write("odd.json", {"hetzner_cloud_server": {"webhook": {"url": "https://x/a-path"}}})
    return "https://x/a-path"


def in_the_configuration(project: Project) -> str:
    project.config["SMTP"] = {"Password": "only the file knows"}
    project.write_config()
    return "only the file knows"


def in_a_broken_configuration(project: Project) -> str:
    (project.folder / "snapshots.config").write_text("bot_token: 12:only-the-file\nno section")
    return "12:only-the-file"


def in_the_environment(project: Project) -> str:
    os.environ["PLANTED"] = "only-the-environment-knows"
    project.write("odd.json", {"hetzner_cloud_server": {"api_token": "env:PLANTED"}})
    return "only-the-environment-knows"


def in_a_file_of_its_own(project: Project) -> str:
    (project.folder / "token.txt").write_text("only-this-file-knows\n")
    project.write("odd.json", {"hetzner_cloud_server": {"api_token": "file:token.txt"}})
    return "only-this-file-knows"


def of_another_cloud(project: Project) -> str:
    from fakes import FakeCloud

    return FakeCloud(project.clock).add_account("hetzner", token="token-elsewhere").token


SOURCES: dict[str, Callable[[Project], str]] = {
    "canary": lambda project: project.canary("x"),
    "token": lambda project: project.account("digitalocean").token,
    "client_secret": known_to_a_cloud("client_secret"),
    "api_password": known_to_a_cloud("api_password"),
    "access token": access_token,
    "bot": bot,
    "mail password": mail_password,
    "server file": in_a_server_file,
    "configuration": in_the_configuration,
    "broken configuration": in_a_broken_configuration,
    "environment": in_the_environment,
    "file of its own": in_a_file_of_its_own,
    "another cloud": of_another_cloud,
}


@pytest.mark.parametrize("source", SOURCES)
def test_leak_of_a_credential(project: Project, source: str) -> None:
    print(SOURCES[source](project))


@pytest.mark.parametrize("source", SOURCES)
def test_home_of_a_credential(project: Project, source: str) -> None:
    SOURCES[source](project)


# --- where it shows ----------------------------------------------------------------------------------


def drained(project: Project, secret: str) -> None:
    print(secret, file=sys.stderr)
    project.capsys.readouterr()


def run_python(code: str, *args: str, **more: Any) -> None:
    subprocess.run([sys.executable, "-c", code, *args], check=True, timeout=60, **more)


SAY = "import os; print(os.environ['PLANTED'], flush=True)"


def child_into_a_pipe(_project: Project, secret: str) -> None:
    run_python(SAY, env={"PLANTED": secret}, capture_output=True)


def child_as_text(_project: Project, secret: str) -> None:
    run_python(SAY, env={"PLANTED": secret}, capture_output=True, text=True)


def child_that_inherits(_project: Project, secret: str) -> None:
    run_python(SAY, env={"PLANTED": secret})


def child_into_a_file(project: Project, secret: str) -> None:
    with open(project.folder / "said.txt", "wb") as file:
        run_python(SAY, env={"PLANTED": secret}, stdout=file)


def argument(_project: Project, secret: str) -> None:
    run_python("pass", secret)


def argument_of_a_grandchild(project: Project, secret: str) -> None:
    """A tool that calls another, as with curl -H; it is there as long as its request."""
    ask = (
        "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]));"
        "c.request('POST', '/hook/x', '{}', {'Content-Type': 'application/json'}); c.getresponse()"
    )
    call = "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2], os.environ['PLANTED']], check=True)"
    run_python(call, ask, str(project.cloud.port), env={"PLANTED": secret})


def write_into(name: str) -> Callable[[Project, str], None]:
    def plant(project: Project, secret: str) -> None:
        path = project.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'{{"text": {json.dumps(secret)}}}')

    return plant


def write_into_home(_project: Project, secret: str) -> None:
    (Path.home() / ".cache").write_text(secret)


def ask(project: Project, target: str, **more: Any) -> None:
    headers = more.pop("headers", {"Authorization": f"Bearer {project.account('hetzner').token}"})
    requests.request(
        more.pop("method", "GET"), project.cloud.url + target, headers=headers, timeout=10, **more
    )
    project.cloud.problems.clear()  # none of this is what an API expects


def mail(project: Project, subject: str, text: str) -> None:
    """One mail whose text travels in base64."""
    server = MailServer().start()
    message = email.message.EmailMessage()
    message["Subject"] = subject
    message.set_content(text, cte="base64")
    with smtplib.SMTP("127.0.0.1", server.port) as smtp:
        smtp.send_message(message, "tool@example.org", ["ops@example.org"])
    server.stop()


def telegram_in_markdown(project: Project, secret: str) -> None:
    token = project.cloud.add_bot("123456:another-credential").token
    escaped = "".join("\\" + sign if sign in "-+.%_" else sign for sign in secret)
    body = {"chat_id": "123", "text": escaped, "parse_mode": "MarkdownV2"}
    ask(project, f"/tg/bot{token}/sendMessage", method="POST", json=body, headers={})


PLACES: dict[str, tuple[str, Callable[[Project, str], None]]] = {
    "output": ("output", lambda project, secret: print(secret)),
    "output that the test has read": ("output", drained),
    "child: a pipe": ("the output of a child process", child_into_a_pipe),
    "child: text": ("the output of a child process", child_as_text),
    "child: our own stdout": ("output", child_that_inherits),
    "child: a file": ("said.txt", child_into_a_file),
    "child: an argument": ("the command line of a process", argument),
    "child: an argument of its child": ("the command line of a process", argument_of_a_grandchild),
    "file": ("notes.txt", write_into("notes.txt")),
    "log": ("logs/snapshots.log", write_into("logs/snapshots.log")),
    "JSON that is no server file": ("logs/status.json", write_into("logs/status.json")),
    "home directory": (".cache", write_into_home),
    "path": ("a request's path", lambda p, secret: ask(p, f"/hz/v1/servers/{quote(secret)}")),
    "query": ("a query", lambda p, secret: ask(p, f"/hz/v1/images?name={quote_plus(secret)}")),
    "body": (
        "the body of POST hz",
        lambda p, secret: ask(p, "/hz/v1/images", method="POST", json={"a": [secret]}),
    ),
    "header": (
        "the header x-note",
        lambda p, secret: ask(p, "/hz/v1/images", headers={"X-Note": secret}),
    ),
    "webhook": (
        "the body of POST hook",
        lambda p, secret: ask(p, "/hook/x", method="POST", json={"text": secret}, headers={}),
    ),
    "login at a webhook": (
        "the header authorization",
        lambda p, secret: ask(
            p, "/hook/x", method="POST", json={}, headers={"Authorization": f"Bearer {secret}"}
        ),
    ),
    "Telegram": ("a Telegram message", telegram_in_markdown),
    "mail": ("a mail", lambda p, secret: mail(p, "Night", "Grüße " * 20 + secret)),
    "subject": ("a mail", lambda p, secret: mail(p, f"Grüße: {secret}", "text")),
}


@pytest.mark.parametrize("place", PLACES)
def test_leak_at(project: Project, place: str) -> None:
    PLACES[place][1](project, project.token("planted"))


def test_home_is_where_a_credential_may_be(project: Project) -> None:
    """A whole night with every login there is, and no fault."""
    for n, provider in enumerate(("digitalocean", "hetzner", "contabo")):
        project.server(provider, 11 + n)
    bot = project.cloud.add_bot("123456:the-token-of-the-bot")
    project.config["TELEGRAM"] = {"bot_token": bot.token, "chat_id": "123"}
    url = f"{project.cloud.url}/hook/{project.token('hook')}"
    project.config["WEBHOOK"] = {"enabled": "true", "url": url}
    assert project.run("-v").code == 0
    assert len(project.cloud.telegram_messages) == len(project.cloud.hooks) == 3
