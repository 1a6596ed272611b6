"""Connections: certificates, proxies, answers that come too slowly or are too big."""

from __future__ import annotations

import contextlib
import datetime
import errno
import http.client
import os
import re
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import fakes as fake
import pytest
import requests
import trustme
import urllib3
from conftest import TOKEN, Project
from fakes import network
from fakes.monitors import Check

import snapshots


class Front:
    """A TLS server on the loopback that hands every byte on to a port behind it."""

    def __init__(self, port: int, certificate: Optional[trustme.LeafCert]) -> None:
        self.port_behind = port
        self.context: Optional[ssl.SSLContext] = None
        if certificate is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(self.context)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.first_lines: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
            with connection, socket.create_connection(("127.0.0.1", self.port_behind)) as behind:
                back = threading.Thread(target=self._copy, args=(behind, connection), daemon=True)
                back.start()
                self._copy(connection, behind, self.first_lines)
                back.join()

    @staticmethod
    def _copy(
        source: socket.socket, target: socket.socket, lines: Optional[list[bytes]] = None
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                if not data:
                    break
                if lines is not None:
                    lines.append(data.split(b"\r\n", 1)[0])
                target.sendall(data)
        for side in (source, target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.listener.close()


@pytest.fixture
def front(project: Project) -> Iterator[Callable[[Optional[trustme.LeafCert]], Front]]:
    made: list[Front] = []

    def make(certificate: Optional[trustme.LeafCert]) -> Front:
        made.append(Front(project.cloud.port, certificate))
        return made[-1]

    yield make
    for one in made:
        one.close()


AUTHORITY = trustme.CA()
CERTIFICATES = {
    "good": AUTHORITY.issue_cert("127.0.0.1"),
    "another host": AUTHORITY.issue_cert("other.example.org"),
    "expired": AUTHORITY.issue_cert(
        "127.0.0.1", not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    ),
    "another CA": trustme.CA().issue_cert("127.0.0.1"),
}


def trust_authority(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From now on its certificates are valid, and no others."""
    bundle = folder / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))


@pytest.mark.proves("I26")
@pytest.mark.parametrize("which", CERTIFICATES)
def test_only_a_certificate_that_holds_is_talked_to(
    project: Project,
    front: Callable[[Optional[trustme.LeafCert]], Front],
    which: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    trust_authority(monkeypatch, tmp_path)
    server = project.server("hetzner", 31, "web", duration_seconds=20)
    old = project.history(server, 2)
    port = front(CERTIFICATES[which]).port
    project.config["API"] = {
        **project.config["API"],
        "hetzner_url": f"https://127.0.0.1:{port}/hz/v1",
    }
    result = project.run()
    if which == "good":
        assert (result.code, len(project.own(server))) == (0, 2)
        return
    assert result.code == 1
    assert "its certificate is not valid" in result.err
    assert project.own(server) == old
    assert project.cloud.journal == []


class Proxy(Front):
    """A proxy that can CONNECT, but says something else so many times before.

    refusal: what it says then; b"" is a hang-up after it has said that all is well.
    """

    def __init__(self, refusal: bytes = b"", times: int = 0) -> None:
        self.refusal, self.times = refusal, times
        self.heads: list[bytes] = []
        super().__init__(0, None)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(65536)
            self.heads.append(head)
            if len(self.heads) <= self.times:
                connection.sendall(self.refusal or b"HTTP/1.1 200 OK\r\n\r\n")
                return
            host, _, port = head.split()[1].decode().rpartition(":")
            with socket.create_connection((host, int(port))) as behind:
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=self._copy, args=(behind, connection), daemon=True)
                back.start()
                self._copy(connection, behind)
                back.join()


@pytest.fixture
def behind_proxy(
    project: Project,
    front: Callable[[Optional[trustme.LeafCert]], Front],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Callable[..., Proxy]]:
    """Makes a proxy that all requests to Hetzner, which are encrypted, have to go through."""
    trust_authority(monkeypatch, tmp_path)
    port = front(CERTIFICATES["good"]).port
    url = f"https://127.0.0.1:{port}/hz/v1"
    project.config["API"] = {**project.config["API"], "hetzner_url": url}
    monkeypatch.setenv("NO_PROXY", "")
    made: list[Proxy] = []

    def make(user_info: str = "", **more: Any) -> Proxy:
        made.append(Proxy(**more))
        monkeypatch.setenv("HTTPS_PROXY", f"http://{user_info}127.0.0.1:{made[-1].port}")
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


def test_a_proxy_of_the_environment_is_used_and_its_password_masked(
    project: Project, behind_proxy: Callable[..., Proxy]
) -> None:
    server = project.server("hetzner", 31, "web", duration_seconds=20)
    password = project.token("proxy").replace("/", "x").replace("%", "x")
    project.canaries.add(password)
    proxy = behind_proxy(f"me:{password}@")
    result = project.run("-v")
    assert (result.code, len(project.own(server))) == (0, 1)
    assert all(head.startswith(b"CONNECT 127.0.0.1:") for head in proxy.heads)
    assert all(b"\r\nProxy-Authorization: Basic " in head for head in proxy.heads)


def test_pings_go_through_the_proxy_as_well(
    project: Project, behind_proxy: Callable[..., Proxy]
) -> None:
    project.server("digitalocean", 31, "web")
    proxy = behind_proxy()
    code = str(uuid.uuid4())
    project.cloud.checks[code] = check = Check()
    project.config["PING"] = {
        "url": project.config["API"]["hetzner_url"].replace("/hz/v1", f"/ping/{code}")
    }
    result = project.run()
    assert (result.code, result.err, check.words) == (0, "", ["start", "success"])
    assert proxy.heads


@pytest.mark.proves("I11")
def test_behind_a_proxy_too_a_create_without_an_answer_is_not_sent_again(
    project: Project, behind_proxy: Callable[..., Proxy]
) -> None:
    server = project.server("hetzner", 31, "web", duration_seconds=20)
    project.cloud.fault("POST /hz*", fake.hang_up(act=True))
    proxy = behind_proxy()
    result = project.run()
    assert (result.code, len(project.cloud.created)) == (0, 1)
    assert "looking whether it was carried out" in result.log
    assert proxy.heads
    assert server


REFUSALS = {
    b"HTTP/1.1 503 Service Unavailable\r\n\r\n": "the proxy answers 503",
    b"HTTP/1.1 502 Bad Gateway\r\n\r\n": "the proxy answers 502",
    b"": "(TLS failed|connection reset by peer|broken pipe)",  # as the machine has it
}


@pytest.mark.proves("I12", "K5")
@pytest.mark.proves("wild-11.11")
@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("times", [3, 1000])
def test_what_gets_no_further_than_a_proxy_has_not_been_sent(
    project: Project, behind_proxy: Callable[..., Proxy], refusal: bytes, times: int
) -> None:
    """So it is tried again, and nobody looks for a snapshot that cannot be there."""
    project.server("hetzner", 31, "web", duration_seconds=20)
    proxy = behind_proxy(refusal=refusal, times=times)
    result = project.run()
    assert result.code == (0 if times == 3 else 1)
    assert len(project.cloud.created) == (1 if times == 3 else 0)
    assert len(proxy.heads) > 3
    assert "looking whether" not in result.log
    assert re.search(REFUSALS[refusal], result.log if times == 3 else result.err)


@pytest.mark.proves("T2", "K8")
@pytest.mark.parametrize("provider", snapshots.PROVIDERS)
@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_of_nothing_is_no_leave_to_hammer(
    project: Project, provider: str, status: int
) -> None:
    """The pauses grow all the same, at the login above all: it might lock the user out."""
    for number in range(5):
        project.server(provider, 31 + number, f"s{number}", duration_seconds=20)
    now = fake.status(status, headers={"Retry-After": "0"})
    project.cloud.fault("*", now, times=None)
    assert project.run().code == 1
    assert project.cloud.count() < 500


@pytest.mark.parametrize("again", [False, True])
def test_an_error_says_how_often_and_how_long_it_was_tried(project: Project, again: bool) -> None:
    project.server("hetzner", 31, "web", duration_seconds=20)
    answers = [fake.status(503, headers={"Retry-After": "5"})] if again else []
    project.cloud.fault("GET /hz/images", *answers, fake.status(403), times=1)
    result = project.run()
    assert result.code == 1
    assert (" (tried 2 times in 5 s)" in result.err) is again
    assert ("tried" in result.err) is again


@pytest.mark.proves("I16", "G15")
@pytest.mark.parametrize("what", ["body", "head"])
def test_a_trickling_answer_ends_with_the_deadline(project: Project, what: str) -> None:
    server = project.server("hetzner", 31, "web", duration_seconds=20)
    project.history(server, 2)
    project.config["TIMING"]["http_timeout"] = 1
    fault = fake.trickle(0.3, 500) if what == "body" else fake.stall(100)
    project.cloud.fault("GET /hz/images", fault)
    began = time.monotonic()
    result = project.run()
    assert (result.code, len(project.own(server))) == (0, 2)
    assert time.monotonic() - began < 30  # and not a hundred


@pytest.mark.proves("I16")
def test_a_trickling_head_ends_with_the_deadline() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                for byte in b"HTTP/1.1 200 OK\r\nX-Filler: " + b"x" * 1000:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.1)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    session = snapshots.new_session(1)
    began = time.monotonic()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    result = snapshots.send(session, "GET", url, 1.0)
    assert isinstance(result, snapshots.NoResponse)
    assert (result.outcome, result.reason) == (snapshots.Outcome.LOST, "timed out")
    assert time.monotonic() - began < 30  # and not a hundred
    session.close()
    server.join(10)
    listener.close()


@pytest.mark.proves("K5")
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/", "connection refused"),
        ("http://no-such-host.invalid/", "its host name cannot be resolved"),
    ],
)
def test_what_was_not_sent_is_distinguished_from_what_was_lost(url: str, reason: str) -> None:
    session = snapshots.new_session(1)
    result = snapshots.send(session, "POST", url, 5.0, json={})
    assert result == snapshots.NoResponse(snapshots.Outcome.NOT_SENT, reason)
    session.close()


@pytest.mark.proves("K5")
def test_a_provider_that_cannot_be_reached_is_a_failure_in_time(project: Project) -> None:
    server = project.server("hetzner", 31, "web")
    old = project.history(server, 2)
    project.config["API"] = {**project.config["API"], "hetzner_url": "http://127.0.0.1:1/v1"}
    began = project.clock.monotonic()
    result = project.run()
    assert result.code == 1
    assert re.search(
        r"cannot create a snapshot of server 31: 127\.0\.0\.1: connection refused"
        r" \(tried \d+ times in (1 min \d+ s|2 min)\)\n",
        result.err,
    )
    assert project.own(server) == old
    # nothing is waited for but the create: not even a count is worth it
    assert project.clock.monotonic() - began <= snapshots.RETRY_SECONDS + 1


@pytest.mark.proves("I22", "T8")
@pytest.mark.parametrize("provider", ["digitalocean", "hetzner", "contabo"])
@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirect_is_never_followed(project: Project, code: int, provider: str) -> None:
    with fake.FakeCloud(project.clock) as elsewhere:
        server = project.server(provider, 31, "web", duration_seconds=20)
        old = project.history(server, 2)
        project.cloud.fault("*", fake.redirect(elsewhere.url + "/hz/v1/images", code), times=None)
        result = project.run()
        assert result.code == 1
        assert project.own(server) == old
        assert elsewhere.journal == []


@pytest.mark.proves("K8")
def test_429_is_waited_out_as_asked(project: Project) -> None:
    server = project.server("hetzner", 31, "web", duration_seconds=20)
    project.history(server, 2)
    create = "POST /hz/servers/{id}/actions/create_image"
    project.cloud.fault(create, fake.status(429, headers={"Retry-After": "400"}))
    result = project.run()
    assert result.code == 0
    first, second = (r.monotonic for r in project.cloud.requests(create))
    assert 400 <= second - first < 402
    assert len(project.cloud.created) == 1


@pytest.mark.proves("K8")
def test_429_that_asks_for_too_long_is_given_up_at_once_and_says_so(project: Project) -> None:
    server = project.server("hetzner", 31, "web")
    old = project.history(server, 2)
    project.cloud.fault("*", fake.status(429, headers={"Retry-After": "86400"}), times=None)
    result = project.run()
    assert result.code == 1
    assert "HTTP 429 rate_limit_exceeded" in result.err
    assert "(it asks to wait 1 d 0 h)" in result.err
    assert project.own(server) == old
    assert project.cloud.count("POST /hz") == 1


# === Addresses that lead nowhere ==================================================================


@pytest.fixture
def hole(project: Project) -> Iterator[str]:
    """An address that leads nowhere, at the cloud's port."""
    made = network.BlackHole("127.0.0.2", project.cloud.port)
    yield "127.0.0.2"
    made.close()


@pytest.fixture
def by_name(project: Project) -> Project:
    """All that the tool talks to is to be found by name."""
    project.config["API"] = {
        key: url.replace("127.0.0.1", "localhost") for key, url in project.cloud.endpoints().items()
    }
    return project


ORDERS = {
    "nowhere first": ["127.0.0.2", "127.0.0.1"],
    "many that lead nowhere": ["127.0.0.2"] * 5 + ["127.0.0.1"],
    "nowhere, refused, good": ["127.0.0.2", "127.0.0.3", "127.0.0.1"],
    "refused first": ["127.0.0.3", "127.0.0.1", "127.0.0.2"],
    "no way to it first": ["2001:db8::1", "127.0.0.1"],
    "good first": ["127.0.0.1", "127.0.0.2"],
}


@pytest.mark.proves("wild-2")
@pytest.mark.parametrize("order", ORDERS)
def test_an_address_that_leads_nowhere_takes_no_time_from_the_answer(
    by_name: Project, hole: str, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    project = by_name
    network.resolve(monkeypatch, "localhost", *ORDERS[order])
    project.config["TIMING"]["http_timeout"] = 3
    server = project.server("hetzner", 31, "web", duration_seconds=20)
    project.history(server, 2)
    project.cloud.fault("POST /hz*", fake.slow(2.5))
    project.cloud.fault("GET /hz/images", fake.slow(2.5))
    result = project.run()
    assert (result.code, len(project.own(server)), len(project.cloud.created)) == (0, 2, 1)
    assert "WARNING" not in result.log


@pytest.mark.proves("wild-2")
@pytest.mark.parametrize("provider", snapshots.PROVIDERS)
def test_each_providers_connections_find_the_address_that_answers(
    by_name: Project, hole: str, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    """And so do those of the messages and of Contabo's login."""
    project = by_name
    network.resolve(monkeypatch, "localhost", hole, "127.0.0.1")
    project.config["TIMING"]["http_timeout"] = 3
    server = project.server(provider, 31, "web", duration_seconds=20)
    token = "123456:" + project.token("bot")
    project.canaries.add(token)
    project.cloud.add_bot(token, ["123"])
    project.config["TELEGRAM"] = {"bot_token": token, "chat_id": "123", "timeout": 3}
    url = f"http://localhost:{project.cloud.port}/hook/{project.token('hook')}"
    project.config["WEBHOOK"] = {"enabled": "true", "url": url, "timeout": 3}
    for route in (TOKEN, "POST /hook", "POST /tg*"):
        project.cloud.fault(route, fake.slow(2))
    result = project.run()
    assert (result.code, len(project.own(server))) == (0, 1)
    assert (len(project.cloud.hooks), len(project.cloud.telegram_messages)) == (1, 1)
    assert "WARNING" not in result.log


@pytest.mark.proves("wild-2")
@pytest.mark.parametrize("times", [1, 3])
def test_an_address_that_never_says_a_word_of_tls_is_left_for_the_next(
    project: Project,
    front: Callable[[Optional[trustme.LeafCert]], Front],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    times: int,
) -> None:
    trust_authority(monkeypatch, tmp_path)
    port = front(AUTHORITY.issue_cert("localhost")).port
    hosts = [f"127.0.0.{number + 2}" for number in range(times)]
    silent = [network.Silence(host, port) for host in hosts]
    network.resolve(monkeypatch, "localhost", *hosts, "127.0.0.1")
    url = f"https://localhost:{port}/hz/v1"
    project.config["API"] = {**project.config["API"], "hetzner_url": url}
    project.config["TIMING"]["http_timeout"] = 3
    server = project.server("hetzner", 31, "web", duration_seconds=20)
    result = project.run()
    assert (result.code, len(project.own(server))) == (0, 1)
    assert "WARNING" not in result.log
    assert [one.taken() for one in silent] == [1] * times  # and not for each request again
    for one in silent:
        one.close()


class Hiccup(Front):
    """It hangs up on whoever comes first."""

    def _serve(self, connection: socket.socket) -> None:
        if self.context is not None:
            super()._serve(connection)
        connection.close()
        self.context = CONTEXT


CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
AUTHORITY.issue_cert("localhost").configure_cert(CONTEXT)


@pytest.mark.proves("wild-2")
def test_an_address_that_has_failed_once_is_tried_again_where_the_other_always_fails(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trust_authority(monkeypatch, tmp_path)
    good = Hiccup(project.cloud.port, None)
    silent = network.Silence("127.0.0.2", good.port)
    network.resolve(monkeypatch, "localhost", "127.0.0.2", "127.0.0.1")
    url = f"https://localhost:{good.port}/hz/v1"
    project.config["API"] = {**project.config["API"], "hetzner_url": url}
    project.config["TIMING"]["http_timeout"] = 2
    server = project.server("hetzner", 31, "web", duration_seconds=20)
    result = project.run()
    assert (result.code, len(project.own(server))) == (0, 1)
    assert silent.taken() <= 2
    silent.close()
    good.close()


@pytest.mark.proves("wild-2")
@pytest.mark.parametrize("kind", [network.BlackHole, network.Silence])
def test_a_proxys_address_that_leads_nowhere_is_left_for_the_next(
    project: Project,
    behind_proxy: Callable[..., Proxy],
    monkeypatch: pytest.MonkeyPatch,
    kind: Callable[[str, int], Any],
) -> None:
    proxy = behind_proxy()
    nowhere = kind("127.0.0.2", proxy.port)
    network.resolve(monkeypatch, "proxy.test", "127.0.0.2", "127.0.0.1")
    monkeypatch.setenv("HTTPS_PROXY", f"http://proxy.test:{proxy.port}")
    project.config["TIMING"]["http_timeout"] = 3
    project.cloud.fault("POST /hz*", fake.slow(2.5))
    server = project.server("hetzner", 31, "web", duration_seconds=20)
    result = project.run()
    assert (result.code, len(project.own(server))) == (0, 1)
    assert "WARNING" not in result.log
    nowhere.close()


@pytest.mark.proves("wild-2")
@pytest.mark.parametrize(
    ("hosts", "reason"),
    [
        (["127.0.0.2"], "timed out"),
        (["127.0.0.2"] * 4, "timed out"),
        (["127.0.0.3", "127.0.0.4"], "connection refused"),
        (["127.0.0.2", "127.0.0.3"], "connection refused; timed out"),
    ],
)
def test_where_no_address_answers_the_reasons_of_all_are_given_in_time(
    project: Project, hole: str, monkeypatch: pytest.MonkeyPatch, hosts: list[str], reason: str
) -> None:
    network.resolve(monkeypatch, "api.test", *hosts)
    session = snapshots.new_session(1)
    began = time.monotonic()
    result = snapshots.send(session, "GET", f"http://api.test:{project.cloud.port}/", 1.0)
    assert result == snapshots.NoResponse(snapshots.Outcome.NOT_SENT, reason)
    assert time.monotonic() - began < 20
    session.close()


@pytest.mark.proves("wild-2")
def test_a_plain_connection_finds_the_address_that_answers(
    project: Project, hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.resolve(monkeypatch, "mail.test", hole, "127.0.0.1")
    addresses = snapshots.addresses_of("mail.test", project.cloud.port)
    with snapshots.connect_first(addresses, 5.0) as sock:
        assert sock.getpeername() == ("127.0.0.1", project.cloud.port)
        assert sock.gettimeout() == 5.0


# === Connections that carry more than the answer ==================================================


@pytest.mark.proves("wild-12.1")
@pytest.mark.parametrize("provider", snapshots.PROVIDERS)
@pytest.mark.parametrize("codes", [(100,), (102,), (103,), (103, 102, 103)])
def test_an_interim_answer_is_skipped_and_mixes_up_no_answers(
    project: Project, provider: str, codes: tuple[int, ...]
) -> None:
    """Taken for the answer, it would leave the real one to the connection's next request."""
    server = project.server(provider, 31, "web", duration_seconds=20)
    old = project.history(server, 2)
    project.cloud.interim_codes = codes
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert project.own(server) == [old[1], project.cloud.created[0].name]
    assert not re.search("tried|again|looking", result.log)


@pytest.mark.proves("wild-13.1")
@pytest.mark.parametrize("provider", snapshots.PROVIDERS)
@pytest.mark.parametrize("line", ["preload", "Strict Transport: 1", "X-\xfc: 1", "From nginx: 1"])
def test_what_is_no_header_hides_none_that_stands_behind_it(
    project: Project, provider: str, line: str
) -> None:
    """Such as a part of a header that its gateway has broken into two lines. Without the length
    behind it, each answer would last until its time is up, and a create be one without an answer."""
    server = project.server(provider, 31, "web", duration_seconds=20)
    old = project.history(server, 2)
    project.cloud.odd_lines = (f"X-First: 1\r\n\tsecond line\r\n{line}",)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert project.own(server) == [old[1], project.cloud.created[0].name]
    assert not re.search("tried|again|looking", result.log)


@pytest.mark.proves("wild-12.8")
def test_an_answer_that_cannot_be_read_is_not_called_a_broken_connection(project: Project) -> None:
    """A gateway adds more headers than Python takes; looking at the network would not help."""
    project.server("hetzner", 31, "web")
    headers = {f"X-Trace-{number}": "1" for number in range(120)}
    project.cloud.fault("GET /hz/servers/{id}", fake.status(200, headers=headers), times=None)
    result = project.run("-n")
    assert result.code == 1
    words = "its answer is not HTTP as we know it: HTTPException: got more than 100 headers (tried "
    assert words in result.err


# === Connections that have been idle ==============================================================


@pytest.mark.proves("wild-4")
@pytest.mark.parametrize("channel", ["webhook", "telegram"])
def test_a_message_does_not_go_out_on_a_connection_that_has_been_idle(
    project: Project, channel: str
) -> None:
    """Whoever keeps the connection has dropped it meanwhile, without a word."""
    project.cloud.idle_seconds = 1.1
    if channel == "webhook":
        url = f"{project.cloud.url}/hook/{project.token('hook')}"
        project.config["WEBHOOK"] = {"enabled": "true", "url": url}
    else:
        token = "123456:" + project.token("bot")
        project.canaries.add(token)
        project.cloud.add_bot(token, ["123"])
        project.config["TELEGRAM"] = {"bot_token": token, "chat_id": "123"}
    project.config["TIMING"]["max_parallel"] = 1
    for number in range(3):
        project.server("hetzner", 31 + number, f"s{number}", duration_seconds=20)
    project.cloud.fault("POST /hz*", fake.slow(1.3), times=3)
    result = project.run()
    assert (result.code, len(project.cloud.created)) == (0, 3)
    assert len(project.cloud.hooks) + len(project.cloud.telegram_messages) == 3
    assert "WARNING" not in result.log


@pytest.mark.proves("wild-4")
@pytest.mark.parametrize("provider", snapshots.PROVIDERS)
def test_a_create_does_not_go_out_on_a_connection_that_has_been_idle(
    project: Project, provider: str
) -> None:
    other = "hetzner" if provider != "hetzner" else "digitalocean"
    project.cloud.idle_seconds = 1.1
    project.config["TIMING"]["max_parallel"] = 1
    for number, kind in enumerate([provider, other, provider]):
        server = project.server(kind, 31 + number, f"s{number}", duration_seconds=20)
    project.cloud.fault("POST /do/droplets*", fake.slow(1.3), when=lambda _: other[0] == "d")
    project.cloud.fault("POST /hz*", fake.slow(1.3), when=lambda _: other[0] == "h")
    result = project.run(
        *(f"{kind}-{31 + n}.json" for n, kind in enumerate([provider, other, provider]))
    )
    assert (result.code, len(project.own(server)), len(project.cloud.created)) == (0, 1, 3)
    assert "looking whether" not in result.log


@pytest.mark.proves("wild-4")
@pytest.mark.parametrize(
    ("method", "seconds", "again"), [("POST", 0, 1), ("POST", 1.2, 2), ("GET", 1.2, 1)]
)
def test_a_connection_is_kept_where_that_does_no_harm(
    project: Project, method: str, seconds: float, again: int
) -> None:
    session = snapshots.new_session(1)
    for _ in range(2):
        snapshots.send(session, method, project.cloud.url + "/hook", 5.0, json={})
        time.sleep(seconds)
    assert len({request.peer for request in project.cloud.journal}) == again
    session.close()
    project.cloud.problems.clear()


# === What cannot work, and what says so ===========================================================


def from_https(project: Project, port: int = 1) -> None:
    """All of Hetzner's requests are encrypted."""
    url = f"https://127.0.0.1:{port}/hz/v1"
    project.config["API"] = {**project.config["API"], "hetzner_url": url}


@pytest.mark.proves("wild-9")
def test_a_proxy_that_says_nothing_is_named(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.server("hetzner", 31, "web")
    from_https(project)
    silent = network.Silence("127.0.0.2", project.cloud.port)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.2:{project.cloud.port}")
    monkeypatch.setenv("NO_PROXY", "")
    project.config["TIMING"]["http_timeout"] = 1
    result = project.run()
    assert result.code == 1
    # "at the proxy", where urllib3 is old
    assert re.search(r"127\.0\.0\.1: .*\(.*HTTPS_PROXY\)", result.err)
    assert "timed out" in result.err
    silent.close()


PROXIES = {
    "socks5h://{}127.0.0.1:9": "HTTPS_PROXY names a SOCKS proxy, and the Python package PySocks",
    "socks4://{}127.0.0.1:9": "HTTPS_PROXY names a SOCKS proxy, and the Python package PySocks",
    "ftp://{}127.0.0.1:9": "HTTPS_PROXY must begin with http://",
    "http://u:#{}127.0.0.1:9": "HTTPS_PROXY is not a valid URL",
    "http://u:1#{}127.0.0.1:9": "HTTPS_PROXY is not a valid URL",
    "http://u:1/{}127.0.0.1:9": "HTTPS_PROXY is not a valid URL",
    "http://u:1?{}127.0.0.1:9": "HTTPS_PROXY is not a valid URL",
    "http://{}127.0.0.1:port": "HTTPS_PROXY is not a valid URL",
    "http://{}127.0.0.1:99999": "HTTPS_PROXY is not a valid URL",
    "http://{}" + "a" * 64 + ".example.org": "HTTPS_PROXY is not a valid URL",
    "http://": "HTTPS_PROXY names no host",
    "http://{}": "HTTPS_PROXY names no host",
    "{}127.0.0.1:9": "HTTPS_PROXY must begin with http://",
    "http:/{}127.0.0.1:9": "HTTPS_PROXY must begin with http://",
    "http//127.0.0.1:9": "HTTPS_PROXY must begin with http://",
    "http://\udcff{}127.0.0.1:9": "HTTPS_PROXY is not a valid URL",
}


def at_once(project: Project) -> str:
    """What is said on the screen, in one line for one server, and nothing is tried again."""
    began = project.clock.monotonic()
    result = project.run()
    assert result.code == 1
    assert project.clock.monotonic() - began < 1
    assert "no connection" not in result.err
    assert "tried" not in result.err
    assert "a bug" not in result.err
    return result.err


@pytest.mark.proves("wild-9")
@pytest.mark.parametrize("value", PROXIES)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "all_proxy"])
def test_a_proxy_variable_that_is_of_no_use_is_named(
    project: Project, monkeypatch: pytest.MonkeyPatch, value: str, variable: str
) -> None:
    password = project.token("proxy").replace("/", "x").replace("%", "x")
    project.canaries.add(password)
    monkeypatch.setenv(
        variable, value.format(f"me:{password}@" if "u:" not in value else f"{password}@")
    )
    monkeypatch.setenv("NO_PROXY", "")
    from_https(project)
    project.server("hetzner", 31, "web")
    assert PROXIES[value].replace("HTTPS_PROXY", variable) in at_once(project)


@pytest.mark.proves("wild-9")
@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 Forbidden"])
def test_what_a_proxy_refuses_for_good_is_not_tried_again(
    project: Project, behind_proxy: Callable[..., Proxy], status: str
) -> None:
    project.server("hetzner", 31, "web")
    proxy = behind_proxy(refusal=f"HTTP/1.1 {status}\r\n\r\n".encode(), times=1000)
    assert f"the proxy answers {status[:3]}" in at_once(project)
    assert len(proxy.heads) == 1


class Plain(Front):
    """It answers whatever comes with an error in plain HTTP."""

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.proves("wild-9")
def test_a_proxy_that_speaks_no_tls_is_distinguished_from_a_provider_that_does_not(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.server("hetzner", 31, "web")
    plain = Plain(0, None)
    from_https(project, plain.port)
    result = project.run()
    assert re.search(r" 127\.0\.0\.1: TLS failed: (wrong version number|.*record)", result.err)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTPS_PROXY", f"https://127.0.0.1:{plain.port}")
    said = at_once(project)
    assert "at the proxy (HTTPS_PROXY): TLS failed" in said
    assert "the variable has to begin with http://" in said
    plain.close()


@pytest.mark.proves("wild-9")
@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1:1", "at the proxy (HTTPS_PROXY): connection refused"),
        ("no-such-host.invalid:1", "at the proxy (HTTPS_PROXY): its host name cannot be resolved"),
    ],
)
def test_a_proxy_that_cannot_be_reached_may_be_back_soon(
    project: Project, monkeypatch: pytest.MonkeyPatch, host: str, reason: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{host}")
    monkeypatch.setenv("NO_PROXY", "")
    from_https(project)
    project.server("hetzner", 31, "web")
    result = project.run()
    assert result.code == 1
    assert re.search(re.escape(reason) + r" \(tried \d+ times in ", result.err)


BUNDLES = {
    "missing": "{}: cannot read {}: No such file or directory",
    "garbage": "{} names a file without certificates, or with a damaged one: {}",
    "empty": "{} names a file without certificates, or with a damaged one: {}",
    "half": "{} names a file without certificates, or with a damaged one: {}",
}


@pytest.mark.proves("wild-9")
@pytest.mark.parametrize("kind", BUNDLES)
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_file_of_certificates_that_is_of_no_use_is_named(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, variable: str
) -> None:
    path = tmp_path / "ca.pem"
    pem = AUTHORITY.cert_pem.bytes()
    if kind != "missing":
        path.write_bytes(
            {"garbage": b"\0\xff" * 99, "empty": b"", "half": pem[: len(pem) // 2]}[kind]
        )
    monkeypatch.setenv(variable, str(path))
    from_https(project)
    project.server("hetzner", 31, "web")
    assert BUNDLES[kind].format(variable, path) in at_once(project)


@pytest.mark.proves("wild-9")
@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_where_no_variable_names_certificates_those_that_are_used_are_named(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """A half installed certifi, or a container without ca-certificates."""
    path = tmp_path / "cacert.pem"
    if kind == "empty":
        path.write_bytes(b"")
    for module in (requests.adapters, requests.utils):
        monkeypatch.setattr(module, "DEFAULT_CA_BUNDLE_PATH", str(path))
    if hasattr(requests.adapters, "_preloaded_ssl_context"):  # of some versions, made of that file
        monkeypatch.setattr(requests.adapters, "_preloaded_ssl_context", None)
    from_https(project)
    project.server("hetzner", 31, "web")
    assert BUNDLES[kind].format("the Python package certifi", path) in at_once(project)


@pytest.mark.proves("wild-9")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_certificates_that_may_not_be_read_is_named(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    path.touch(0)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    from_https(project)
    project.server("hetzner", 31, "web")
    assert f"REQUESTS_CA_BUNDLE: cannot read {path}: Permission denied" in at_once(project)


@pytest.mark.proves("wild-9")
def test_a_file_of_this_machine_that_is_in_the_way_is_named(
    project: Project,
    front: Callable[[Optional[trustme.LeafCert]], Front],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What is wrong with it sounds as if the provider had said it."""
    trust_authority(monkeypatch, tmp_path)
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path))
    from_https(project, front(CERTIFICATES["good"]).port)
    project.server("hetzner", 31, "web")
    assert f"cannot use {tmp_path}: Is a directory" in at_once(project)


@pytest.mark.proves("wild-9")
def test_a_directory_without_certificates_trusts_nobody(
    project: Project,
    front: Callable[[Optional[trustme.LeafCert]], Front],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    from_https(project, front(CERTIFICATES["good"]).port)
    project.server("hetzner", 31, "web")
    said = at_once(project)
    assert "its certificate is not valid" in said
    assert "by the certificates of REQUESTS_CA_BUNDLE" in said


@pytest.mark.proves("wild-9")
@pytest.mark.parametrize(
    "host",
    [
        "*.example.org",
        "a" * 64 + ".example.org",
        "a..example.org",
        ".example.org",
        "ex\u2603\u200b.org",
    ],
)
def test_a_host_that_cannot_be_is_said_and_not_tried_again(project: Project, host: str) -> None:
    """Here a webhook's; the snapshot is taken all the same."""
    url = f"https://{host}/hook/{project.token('hook')}"
    project.config["WEBHOOK"] = {"enabled": "true", "url": url}
    project.server("hetzner", 31, "web", duration_seconds=20)
    result = project.run()
    assert result.code == 0
    assert "its URL has no valid host or port" in result.err
    assert "tried" not in result.err


@pytest.mark.proves("wild-9")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"json": {"a": float("inf")}}, "its payload holds a number that JSON cannot hold"),
        ({"headers": {"X": "a\nb"}}, "a header holds a character that is not allowed there"),
    ],
)
def test_what_cannot_be_written_is_said(
    project: Project, options: dict[str, Any], reason: str
) -> None:
    session = snapshots.new_session(1)
    result = snapshots.send(session, "POST", project.cloud.url + "/hook", 5.0, **options)
    assert result == snapshots.NoResponse(snapshots.Outcome.UNUSABLE, reason)
    session.close()


@pytest.mark.proves("wild-9")
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "network is unreachable"),
        (ssl.SSLError(1, "[SSL: UNSUPPORTED_PROTOCOL] unsupported protocol"), "TLS failed: "),
        (
            LookupError("no codec at https://x/bot1:SECRET?key=SECRET is SECRET@known"),
            "LookupError: no codec at is",
        ),
        (RuntimeError(), "RuntimeError"),
        (http.client.RemoteDisconnected("closed"), "no connection"),
        (
            http.client.BadStatusLine("SSH-2.0 SECRET@known"),
            "its answer is not HTTP as we know it: BadStatusLine: SSH-2.0",
        ),
    ],
)
def test_an_exception_becomes_words_without_a_url(error: Exception, reason: str) -> None:
    """Deep within others, as requests and urllib3 wrap them; what nobody knows, in its own words."""
    wrapped = requests.exceptions.ConnectionError(urllib3.exceptions.HTTPError("url: /SECRET"))
    wrapped.__cause__ = error
    words = snapshots.network_reason(wrapped, has_begun=False)
    assert words.startswith(reason)
    assert "SECRET" not in words
