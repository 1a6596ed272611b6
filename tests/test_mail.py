"""Mail as servers and people have it: logins, addresses, letters, ports, names."""

from __future__ import annotations

import email
import hashlib
import hmac
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import PostOffice, Project
from fakes import network
from test_notify import assert_delivered, assert_undelivered, telegram, texts

import snapshots

# --- logging in ------------------------------------------------------------------------------


@pytest.mark.proves("wild-7")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("backup@example.org", "a-plain-password"),
        ("bäckup@example.org", "a-plain-password"),
        ("backup@example.org", "pässwörd-€-密码"),
        ("резерв", "пароль-пароль"),
    ],
)
def test_every_mechanism_takes_every_letter(
    project: Project,
    post: PostOffice,
    mechanism: str,
    user: str,
    password: str,
) -> None:
    server = post.open(users={user: password}, mechanisms=[mechanism])
    project.config["SMTP"].update(user=user, password=password)
    project.server("hetzner", 11)
    assert_delivered(project.run())
    assert (server.logins, server.asked) == ([user], [mechanism])


@pytest.mark.proves("wild-7")
def test_the_next_mechanism_is_tried(project: Project, post: PostOffice) -> None:
    """Of what a server offers, not all has to work."""
    server = post.open(mechanisms=["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2"])
    login = server._login

    def refuse_plain(*args: Any) -> Any:
        result = login(*args)
        return result if args[3] != "PLAIN" else type(result)(success=False, handled=False)

    server._login = refuse_plain  # type: ignore
    project.server("hetzner", 11)
    assert_delivered(project.run())
    assert server.asked == ["PLAIN", "LOGIN"]


@pytest.mark.proves("wild-7")
def test_a_refusal_is_reported_though_the_server_hangs_up_after_it(
    project: Project, post: PostOffice
) -> None:
    """As many do; another mechanism cannot be tried, and another try would be refused as well."""
    server = post.open(users={}, hangs_up=True)
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    assert "535" in result.err
    assert (server.asked, server.connections) == (["PLAIN"], 1)


@pytest.mark.proves("wild-7")
def test_a_server_that_takes_no_password_says_so(
    project: Project,
    post: PostOffice,
) -> None:
    server = post.open(mechanisms=["XOAUTH2"])
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    assert "the server does not log in by a password, but by XOAUTH2" in result.err
    assert (server.asked, server.connections) == ([], 1)


@pytest.fixture
def no_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where MD5 is forbidden, as in FIPS mode."""
    new = hmac.new

    def refuse(key: bytes, msg: Any = None, digestmod: Any = "") -> Any:
        if digestmod in ("md5", hashlib.md5):
            raise ValueError("[digital envelope routines] unsupported")
        return new(key, msg, digestmod)

    monkeypatch.setattr(hmac, "new", refuse)


@pytest.mark.proves("wild-7")
@pytest.mark.usefixtures("no_md5")
@pytest.mark.parametrize("other", ["PLAIN", "LOGIN"])
def test_where_md5_is_forbidden_another_mechanism_is_taken(
    project: Project,
    post: PostOffice,
    other: str,
) -> None:
    server = post.open(mechanisms=["CRAM-MD5", other])
    project.server("hetzner", 11)
    assert_delivered(project.run())
    assert server.asked == [other]


@pytest.mark.proves("wild-7")
@pytest.mark.usefixtures("no_md5")
def test_where_only_forbidden_md5_is_offered_the_line_says_so(
    project: Project,
    post: PostOffice,
) -> None:
    post.open(mechanisms=["CRAM-MD5"])
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    assert "this machine forbids the MD5 that CRAM-MD5 needs" in result.err


@pytest.mark.usefixtures("no_md5")
def test_a_refusal_is_reported_rather_than_what_could_not_be_tried(
    project: Project,
    post: PostOffice,
) -> None:
    post.open(mechanisms=["CRAM-MD5", "PLAIN"], users={})
    project.server("hetzner", 11)
    result = project.run()
    assert "535" in result.err
    assert "MD5" not in result.err


def test_a_challenge_that_is_none_is_reported_as_it_came(
    project: Project, post: PostOffice
) -> None:
    post.open(mechanisms=["CRAM-MD5"], answers={"challenge": ["hello"]})
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    assert "cannot send mail through 127.0.0.1: 334 hello" in result.err


# --- addresses and letters -------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ['"Müller, Jürgen"', '"Jürgen \\"J, K\\" Müller"', 'Jürgen "der" Müller', "O'Neil Bob"]
)
def test_a_comma_in_a_quoted_name_is_the_names(
    project: Project, post: PostOffice, name: str
) -> None:
    server = post.open(users=None)
    project.config["SMTP"]["to_emails"] = f"{name} <ops@example.org>, boss@example.org,"
    del project.config["SMTP"]["user"]
    project.server("hetzner", 11)
    assert_delivered(project.run())
    assert server.mails[0].recipients == ["ops@example.org", "boss@example.org"]


@pytest.mark.parametrize("key", ["to_emails", "from_email"])
@pytest.mark.parametrize(
    "address",
    ["ops@example.org.", "ops@example..org", "ops@ex(am)ple.org", "ops@example.org b@x.y"],
)
def test_an_address_that_would_go_out_as_another_is_a_problem(
    project: Project, post: PostOffice, key: str, address: str
) -> None:
    """A header that cannot be read has an address that is empty."""
    server = post.open(users=None)
    project.config["SMTP"][key] = address
    project.server("hetzner", 11)
    result = project.run()
    assert result.code == 1
    assert f"[SMTP] {key!r}: must hold mail addresses such as ops@example.org" in result.err
    assert server.mails == []


def test_a_template_that_holds_what_no_mail_can_carry_arrives_without_it(
    project: Project, post: PostOffice
) -> None:
    server = post.open()
    text = "half a character \ud800, a \0, a \r, a line of its own:\n.\n{status} " + "x" * 2000
    templates = {"message_success": text, "subject_success": text}
    project.server("hetzner", 11, file={"smtp": templates})
    assert_delivered(project.run())
    (mail,) = server.mails
    assert "half a character ?, a , a \n, a line of its own:\n.\nSUCCESS xxx" in mail.part("plain")
    assert mail.content.isascii()
    assert b"\0" not in mail.content
    assert max(map(len, mail.content.split(b"\r\n"))) <= 998


@pytest.mark.proves("wild-7")
@pytest.mark.parametrize("in_file", [False, True])
def test_a_domain_with_an_umlaut_goes_out_as_ascii(
    project: Project,
    post: PostOffice,
    in_file: bool,
) -> None:
    server = post.open(users=None)
    to = ["Jürgen <ops@bücher.example>", "boss@straße.example"]
    project.config["SMTP"].update(
        user="", password="", from_email="Wächter <snap@müller.example>", to_emails=", ".join(to)
    )
    project.server("hetzner", 11, file={"smtp": {"to_emails": to}} if in_file else {})
    assert_delivered(project.run())
    (mail,) = server.mails
    assert mail.sender == "snap@xn--mller-kva.example"
    assert mail.recipients == ["ops@xn--bcher-kva.example", "boss@xn--strae-oqa.example"]
    assert mail.message["To"].addresses[0].display_name == "Jürgen"
    assert mail.message["From"].addresses[0].display_name == "Wächter"
    assert mail.content.isascii()


@pytest.mark.proves("wild-7")
@pytest.mark.parametrize("utf8", [True, False])
@pytest.mark.parametrize("key", ["to_emails", "from_email"])
def test_letters_before_the_at_need_smtputf8(
    project: Project,
    post: PostOffice,
    key: str,
    utf8: bool,
) -> None:
    server = post.open(users=None, utf8=utf8)
    project.config["SMTP"].update({"user": "", "password": "", key: "jürgen@bücher.example"})
    project.server("hetzner", 11)
    result = project.run()
    if utf8:
        assert_delivered(result)
        (mail,) = server.mails
        assert "jürgen@xn--bcher-kva.example" in [mail.sender, *mail.recipients]
    else:
        assert_undelivered(result, 1)
        assert "the server does not offer SMTPUTF8" in result.err
        assert "log in" not in result.err


@pytest.mark.parametrize(
    "address", ["ops@bü..cher.example", "ops@\u0378.example", "ops@ü" + "x" * 64]
)
def test_a_domain_that_cannot_be_is_a_problem_of_the_configuration(
    project: Project,
    post: PostOffice,
    address: str,
) -> None:
    post.open()
    project.config["SMTP"]["to_emails"] = address
    project.server("hetzner", 11)
    result = project.run()
    assert result.code == 1
    assert "to_emails" in result.err


@pytest.mark.proves("wild-7")
@pytest.mark.parametrize(
    "text", ["Grüße an alle", "备份失败 " * 300, "x" * 3000, ".\n.\nÄ", "می‌خواهم 👩‍👧"]
)
def test_nothing_but_ascii_travels(
    project: Project,
    post: PostOffice,
    text: str,
) -> None:
    """The fake refuses 8-bit text that has not been announced."""
    server = post.open()
    project.config["SMTP"].update(
        message_success=text.replace("\n", "\\n"),
        subject_success=text.replace("\n", " ")[:20],
        to_emails="Jürgen Müller <ops@example.org>",
    )
    project.server("hetzner", 11)
    assert_delivered(project.run())
    (mail,) = server.mails
    assert mail.content.isascii()
    assert max(map(len, mail.content.split(b"\r\n"))) <= 998
    parsed = email.message_from_bytes(mail.content)
    encodings = {part["Content-Transfer-Encoding"] for part in parsed.walk()} - {None}
    assert encodings <= {"7bit", "base64", "quoted-printable"}
    assert mail.part("plain").strip() == text.strip()
    assert mail.message["Subject"] == text.replace("\n", " ")[:20].strip()


@pytest.mark.proves("wild-7")
def test_joiners_stay_in_names_and_subjects(
    project: Project,
    post: PostOffice,
) -> None:
    name = "سرور‌ها 👩‍👧"
    server = post.open()
    telegram(project, message_success="{server_name}", chats=("123",))
    project.server("hetzner", 11, name)
    result = project.run("-v")
    assert result.code == 0
    assert server.mails[0].message["Subject"] == f"Snapshot SUCCESS: {name}"
    assert texts(project) == [name]
    assert f"{name}: SUCCESS" in result.log
    assert name in result.out


@pytest.mark.parametrize("sign", ["\u200b", "\u202e", "\u2066", "\ufeff", "\u00ad"])
def test_other_invisible_signs_are_shown(sign: str) -> None:
    assert snapshots.one_line(f"a{sign}b") == f"a\\u{ord(sign):04x}b"


# --- ports and names -------------------------------------------------------------------------


@pytest.mark.proves("wild-7")
@pytest.mark.parametrize("security", ["starttls", "none"])
def test_a_port_that_begins_with_tls_is_reported_at_once(
    project: Project,
    post: PostOffice,
    security: str,
) -> None:
    post.open(tls=True)
    project.config["SMTP"].update(security=security, timeout=60, retries=1)
    project.server("hetzner", 11)
    began = time.monotonic()
    result = project.run()
    assert time.monotonic() - began < 30  # and not a minute
    assert_undelivered(result, 1)
    assert "the port begins with TLS (does [SMTP] security fit the port?)" in result.err


@pytest.mark.proves("wild-7")
def test_a_port_that_begins_without_tls_is_reported_at_once(
    project: Project,
    post: PostOffice,
) -> None:
    post.open()
    project.config["SMTP"].update(security="tls", retries=1)
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    assert "(does [SMTP] security fit the port?)" in result.err


@pytest.mark.proves("wild-7")
def test_a_server_that_greets_late_is_waited_for(
    project: Project,
    post: PostOffice,
) -> None:
    server = post.open(greets_after=1.0)
    project.config["SMTP"]["timeout"] = 2.4  # silence counts after a third of it
    project.server("hetzner", 11)
    assert_delivered(project.run())
    assert len(server.mails) == 1


@pytest.mark.proves("wild-7")
@pytest.mark.parametrize(
    ("helo_name", "name"),
    [("", "müller.example"), ("backup.example.org", ""), ("[192.0.2.7]", ""), ("host", "")],
)
def test_the_name_in_ehlo_is_the_configured_one_or_the_senders_domain(
    project: Project,
    post: PostOffice,
    helo_name: str,
    name: str,
) -> None:
    server = post.open()
    project.config["SMTP"].update(helo_name=helo_name, from_email="snap@müller.example")
    project.server("hetzner", 11)
    assert_delivered(project.run())
    assert set(server.names) == {helo_name or "xn--mller-kva.example"}


@pytest.mark.parametrize("helo_name", ["two words", "bücher.example", "a\tb"])
def test_a_name_that_no_ehlo_can_hold_is_a_problem_of_the_configuration(
    project: Project,
    post: PostOffice,
    helo_name: str,
) -> None:
    post.open()
    project.config["SMTP"]["helo_name"] = helo_name
    project.server("hetzner", 11)
    result = project.run()
    assert result.code == 1
    assert "'helo_name': must be a host name" in result.err


@pytest.mark.proves("wild-2")
def test_an_address_of_the_mail_server_that_leads_nowhere_costs_little(
    project: Project,
    post: PostOffice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = post.open()
    full = socket.create_server(("127.0.0.2", 0), backlog=0)
    crowd = [socket.socket() for _ in range(4)]  # they fill its queue: who comes now waits
    for one in crowd:
        one.setblocking(False)
        one.connect_ex(full.getsockname())
    ask: Callable[..., Any] = socket.getaddrinfo

    def two_addresses(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host != "mail.example":
            return ask(host, port, *args, **more)
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, full.getsockname()), (*kind, ("127.0.0.1", server.port))]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    project.config["SMTP"].update(
        server="mail.example", security="none", user="", password="", timeout=5
    )
    project.server("hetzner", 11)
    result = project.run()
    for one in (*crowd, full):
        one.close()
    assert_delivered(result)
    assert len(server.mails) == 1


@pytest.mark.proves("wild-2")
@pytest.mark.parametrize("security", ["tls", "starttls"])
def test_an_address_of_the_mail_server_that_says_nothing_is_left_for_the_next(
    project: Project, post: PostOffice, monkeypatch: pytest.MonkeyPatch, security: str
) -> None:
    server = post.open(tls=security == "tls")
    silent = network.Silence("127.0.0.2", server.port)
    network.resolve(monkeypatch, "localhost", "127.0.0.2", "127.0.0.1")
    project.config["SMTP"].update(server="localhost", timeout=2, retries=1)
    project.server("hetzner", 11)
    result = project.run()
    assert (result.code, result.err, len(server.mails)) == (0, "", 1)
    assert silent.taken() > 0
    silent.close()


@pytest.mark.proves("wild-2")
def test_an_address_that_refuses_is_not_the_reason_where_another_says_nothing(
    project: Project, post: PostOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a name leads to ::1 and 127.0.0.1, and the mail server is at one of them."""
    server = post.open()
    silent = network.Silence("127.0.0.2", server.port)
    network.resolve(monkeypatch, "localhost", "127.0.0.3", "127.0.0.2")
    project.config["SMTP"].update(server="localhost", timeout=1, retries=1)
    project.server("hetzner", 11)
    result = project.run()
    silent.close()
    assert_undelivered(result, 1)
    assert "cannot send mail through localhost: timed out" in result.err


@pytest.mark.proves("wild-7")
def test_a_server_that_takes_one_connection_and_greets_late_is_waited_for(
    project: Project, post: PostOffice
) -> None:
    """Another connection cannot show then whether it waits for our TLS."""
    post.open()
    listener = socket.create_server(("127.0.0.1", 0))

    def greet_late() -> None:
        connection, _ = listener.accept()
        listener.close()
        time.sleep(1.2)
        connection.sendall(b"421 too many connections\r\n")
        connection.close()

    threading.Thread(target=greet_late, daemon=True).start()
    project.config["SMTP"].update(port=listener.getsockname()[1], timeout=3, retries=1)
    project.server("hetzner", 11)
    result = project.run()
    assert_undelivered(result, 1)
    assert "the server greets with 421 too many connections" in result.err
