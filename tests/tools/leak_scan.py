"""Where a credential may show that must not: in what is printed, logged, written, sent or run.

The clouds and mail servers know their credentials, and files name theirs; so no test has to tell.
What is searched is all that leaves the program, but for a credential's own home: the request or
login that it is for, and the files that a user keeps it in.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import html
import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, quote_plus, urlsplit

from fakes import FakeCloud
from fakes.mail import HttpsServer, Mail, MailServer

import snapshots

Texts = Iterator[tuple[str, str]]  # where it was found, and what

CREDENTIAL_KEYS = (
    {key for keys in snapshots.CREDENTIAL_KEYS.values() for key in keys}
    | {
        field.name
        for section in snapshots.SECTIONS.values()
        for field in dataclasses.fields(section)
        if isinstance(field.default, snapshots.SecretText)
    }
    | {"ping_url"}
)
NAMES_OF_USERS = {"client_id", "api_user"}  # as public as a mail address


# --- the forms of a credential -----------------------------------------------------------------


def forms_of(secret: str) -> set[str]:
    """A credential in every form a text may carry it; those too short to mean anything left out."""
    raw = secret.encode("utf-8", "surrogatepass")
    forms = {secret, quote(raw), quote(raw, safe=""), quote_plus(raw), html.escape(secret)}
    forms |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    forms |= {repr(secret)[1:-1], ascii(secret)[1:-1], raw.hex(), raw.hex().upper()}
    for shift in range(3):  # base64 of whatever holds it, be it \0user\0password
        first, last = -(-8 * shift // 6), 8 * (shift + len(raw)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            forms.add(encode(b"\0" * shift + raw).decode()[first:last])
    whole = {form for form in forms if len(form) >= snapshots.SHORT_SECRET}
    # what the tests make up begins as nothing else does: not even that may show
    return whole | {secret[:6]} if secret.startswith("CANARY") else whole


def find(secrets: Iterable[str], texts: Iterable[tuple[str, str]]) -> list[str]:
    """Every place where one of the credentials shows."""
    places = list(texts)
    everything = "\n".join(text for _, text in places)
    return [
        f"{secret[:12]}... in {place}"
        for secret in sorted(set(secrets))
        if any(form in everything for form in forms_of(secret))
        for place, text in places
        if any(form in text for form in forms_of(secret))
    ]


# --- files --------------------------------------------------------------------------------------


def is_home(path: Path) -> bool:
    """Is it one of the files that a user keeps credentials in?"""
    return path.suffix in (".json", ".config") and path.parent.name != "logs"


def values_of_json(content: Any) -> Iterator[str]:
    """The values of credential keys, at any depth."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key in CREDENTIAL_KEYS and isinstance(value, str):
                if key not in NAMES_OF_USERS:
                    yield value
            else:
                yield from values_of_json(value)


def values_in(path: Path) -> Iterator[str]:
    """The values of the credential keys of a configuration or server file, be it sound or not."""
    with path.open("rb") as file:  # of a larger one nothing is ever used
        text = file.read(snapshots.MAX_CONFIG_BYTES).decode("utf-8", "replace")
    if path.suffix == ".json":
        with contextlib.suppress(ValueError, RecursionError):
            yield from values_of_json(json.loads(text))
        return
    for key, value in re.findall(r"^\s*(\w+)\s*[=:][ \t]*(\S.*?)\s*$", text, re.MULTILINE):
        if key.lower() in CREDENTIAL_KEYS - NAMES_OF_USERS:
            yield value


def read_folder(folder: Path) -> tuple[set[str], list[tuple[str, str]]]:
    """The credentials that the files of a directory name, and what stands in the other files."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    secrets: set[str] = set()
    homes: set[Path] = set()
    for path in filter(is_home, files):
        homes.add(path)
        for value in values_in(path):
            if value.startswith("env:"):
                secrets.add(os.environ.get(value[4:].strip(), ""))
            elif value.startswith("file:"):
                # relative to snapshots.config, which lies beside a server file or above it
                for base in (path.parent, path.parent.parent):
                    home = base / value[5:].strip()
                    if home in files:
                        homes.add(home)
                        secrets.add(home.read_text("utf-8", "replace").strip())
            elif not snapshots.PLACEHOLDER.fullmatch(value):
                secrets.add(value)
    texts = [
        (str(path.relative_to(folder)), path.read_bytes().decode("utf-8", "replace"))
        for path in files
        if path not in homes
    ]
    return secrets - {""}, texts


# --- what was sent -------------------------------------------------------------------------------

LOGINS = "/cb-auth/"  # where a body holds credentials
KNOCKS = ("/tg/", "/hook", "/ping/", "/push/")  # where the path is a credential
CLOUDS = ("/do/", "/hz/", "/cb/")  # where a header is one


def sent_to_cloud(cloud: FakeCloud) -> Texts:
    """All that a cloud was sent, but for what is there to log in with."""
    sent: dict[tuple[str, str], None] = {}  # headers are the same in each request
    for request in list(cloud.journal):
        path = urlsplit(request.path).path  # through a proxy it comes with scheme and host
        if not path.startswith(KNOCKS):
            sent["a request's path", request.path] = None
            if request.query:
                sent["a query", repr(request.query)] = None
        if request.body and not path.startswith(LOGINS):
            body = request.body.decode("utf-8", "replace")
            sent[f"the body of {request.method} {request.route.split('/')[1]}", body] = None
        for name, value in request.headers.items():
            logs_in_there = path.startswith(CLOUDS) or path in cloud.hook_logins
            at_home = name == "authorization" and logs_in_there
            if not at_home and name != "proxy-authorization":
                sent[f"the header {name}", value] = None
    yield from sent
    for message in list(cloud.telegram_messages):
        yield "a Telegram message", f"{message.text}\n{message.payload}\n{message.entities}"


def sent_in_mail(mail: Mail) -> Texts:
    """A mail: as it came, and as it is shown."""
    shown = [mail.content.decode("utf-8", "replace"), f"{mail.sender} {mail.recipients}"]
    shown += [f"{name}: {value}" for name, value in mail.message.items()]
    for part in mail.message.walk():
        content = part.get_payload(decode=True)
        if isinstance(content, bytes):
            shown.append(content.decode("utf-8", "replace"))
    yield "a mail", "\n".join(shown)


# --- child processes -----------------------------------------------------------------------------


def command_lines(pid: int) -> Iterator[str]:
    """The command lines of a process and of all below it, as anybody on the machine sees them."""
    with contextlib.suppress(OSError):  # it has ended
        yield (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode("utf-8", "replace")
        )
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from command_lines(int(child))


class Child(subprocess.Popen[Any]):
    """Popen, but what the process says is kept, and how it was called; and what it called itself,
    as seen at each request that a cloud gets and whenever the test turns to the process."""

    started: ClassVar[list[Child]] = []
    said: ClassVar[list[str]] = []
    called: ClassVar[set[str]] = set()

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.started.append(self)
        self.called.add(repr(self.args))

    @classmethod
    def look(cls) -> None:
        """Note the command lines of those that are alive now."""
        for child in list(cls.started):
            if child.returncode is None:
                cls.called.update(command_lines(child.pid))

    def communicate(self, *args: Any, **more: Any) -> tuple[Any, Any]:
        self.look()
        streams = super().communicate(*args, **more)
        for text in streams:
            if text:
                self.said.append(text if isinstance(text, str) else text.decode("utf-8", "replace"))
        return streams

    def wait(self, *args: Any, **more: Any) -> int:
        self.look()
        return super().wait(*args, **more)

    def send_signal(self, *args: Any) -> None:
        self.look()
        super().send_signal(*args)


# --- all of it -----------------------------------------------------------------------------------


def forget() -> None:
    """A test begins or ends: what others did is no concern of it."""
    for made in (FakeCloud.made, MailServer.made, HttpsServer.made, Child.started, Child.said):
        made.clear()
    Child.called.clear()


def secrets_of_fakes() -> set[str]:
    """Every credential that a cloud or a mail server takes."""
    secrets = {secret for cloud in FakeCloud.made for secret in cloud.secrets()}
    return secrets.union(*((server.users or {}).values() for server in MailServer.made))


def sent_to_fakes() -> Texts:
    """All that came in anywhere."""
    for cloud in FakeCloud.made:
        yield from sent_to_cloud(cloud)
    for server in MailServer.made:
        for mail in server.mails:
            yield from sent_in_mail(mail)
    for https in HttpsServer.made:
        for body in https.bodies:
            yield "a body sent over https", body.decode("utf-8", "replace")


def told_by_children() -> Texts:
    """What child processes printed, and how they were called."""
    for text in Child.said:
        yield "the output of a child process", text
    for text in Child.called:
        yield "the command line of a process", text
