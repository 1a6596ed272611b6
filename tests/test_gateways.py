"""Real programs in between: nginx before the clouds, and Exim for the mails.

The fakes elsewhere misbehave as the tests tell them to; these behave as they do in the world.
Both run as ordinary processes in temporary directories, and tests that need one which is not
installed are skipped. nginx dates its own pages by the real time, so here the fake clock begins now.
"""

from __future__ import annotations

import contextlib
import datetime
import email
import email.message
import email.policy
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

import fakes as fake
import pytest
import trustme
from conftest import Project, Result, forms_of
from fakes import Server
from fakes.clock import FakeClock

import snapshots

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
NGINX = shutil.which("nginx", path=PATH) or ""
EXIM = shutil.which("exim4", path=PATH) or shutil.which("exim", path=PATH) or ""
needs_nginx = pytest.mark.skipif(
    not NGINX, reason="nginx is not installed (Debian, Ubuntu: apt-get install nginx-light)"
)
needs_exim = pytest.mark.skipif(
    not EXIM, reason="Exim is not installed (Debian, Ubuntu: apt-get install exim4-daemon-light)"
)

PROVIDERS = ["digitalocean", "hetzner", "contabo"]
CREATE = {
    "digitalocean": "POST /do/droplets/{id}/actions",
    "hetzner": "POST /hz/servers/{id}/actions/create_image",
    "contabo": "POST /cb/compute/instances/{id}/snapshots",
}
LIST = {
    "digitalocean": "GET /do/droplets/{id}/snapshots",
    "hetzner": "GET /hz/images",
    "contabo": "GET /cb/compute/instances/{id}/snapshots",
}
DELETE = {
    "digitalocean": "DELETE /do/snapshots/{id}",
    "hetzner": "DELETE /hz/images/{id}",
    "contabo": "DELETE /cb/compute/instances/{id}/snapshots/{sid}",
}
WHAT = {"digitalocean": "droplet 31", "hetzner": "server 32", "contabo": "instance 33"}


class RealTime(FakeClock):
    """The machine's own clock, where seconds must really pass."""

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.timezone.utc)

    def monotonic(self) -> float:
        return time.monotonic()

    def condition(self) -> threading.Condition:
        return threading.Condition()

    def start(self, target: Callable[[], Any], name: str) -> None:
        threading.Thread(target=target, name=name, daemon=True).start()


in_real_time = pytest.mark.parametrize("clock", [RealTime], indirect=True)


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> FakeClock:
    kind: type[FakeClock] = getattr(request, "param", FakeClock)
    return kind(datetime.datetime.now(datetime.timezone.utc).isoformat())


AUTHORITY = trustme.CA()


@pytest.fixture
def trusted(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine trusts AUTHORITY and nobody else."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(path))


def write_certificate(folder: Path, certificate: trustme.LeafCert, chain: bool = True) -> None:
    """cert.pem and key.pem. chain: with the certificates between it and the authority."""
    blobs = certificate.cert_chain_pems if chain else certificate.cert_chain_pems[:1]
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in blobs))
    (folder / "key.pem").write_bytes(certificate.private_key_pem.bytes())


def good_certificate() -> trustme.LeafCert:
    return AUTHORITY.issue_cert("127.0.0.1")


BAD_CERTIFICATES: Mapping[str, Callable[[], trustme.LeafCert]] = {
    "another CA": lambda: trustme.CA().issue_cert("127.0.0.1"),
    "another host": lambda: AUTHORITY.issue_cert("other.example.org"),
    "expired": lambda: AUTHORITY.issue_cert(
        "127.0.0.1", not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    ),
}


# --- nginx -----------------------------------------------------------------------------------------


@dataclass
class Entry:
    """A line of nginx's access log. nth: which request of its connection it was."""

    method: str
    path: str
    status: int
    nth: int
    gzip_ratio: str


class Nginx:
    """nginx before a cloud, as one master and one worker in a directory of its own.

    http, server and location are more lines of these blocks; in them <cloud> is the cloud's
    address and <nobody> one where every connection is refused. to: the upstream of requests.
    pass_on: when it asks the upstream's next server, by itself.
    """

    CONFIG = """
        daemon off;
        worker_processes 1;
        pid nginx.pid;
        error_log error.log info;
        <user>
        events { worker_connections 256; }
        http {
            log_format row '$request_method $uri $status $connection_requests $gzip_ratio';
            access_log access.log row;
            client_body_temp_path body;
            proxy_temp_path proxy;
            fastcgi_temp_path fastcgi;
            uwsgi_temp_path uwsgi;
            scgi_temp_path scgi;
            upstream cloud { server <cloud>; keepalive 4; }
            <http>
            server {
                listen <here> <tls>;
                <server>
                location / {
                    proxy_pass http://<to>;
                    proxy_next_upstream <pass_on>;
                    proxy_pass_header Date;
                    # the cloud names itself in the links to its next pages
                    sub_filter_types application/json;
                    sub_filter_once off;
                    sub_filter http://<cloud> <scheme>://<here>;
                    <location>
                }
            }
        }
    """

    def __init__(
        self,
        folder: Path,
        cloud_port: int,
        *,
        http: str = "",
        server: str = "",
        location: str = "",
        to: str = "cloud",
        pass_on: str = "off",
        certificate: Optional[trustme.LeafCert] = None,
        chain: bool = True,
    ) -> None:
        self.folder = folder
        folder.mkdir()
        # nginx inherits its listening socket: so nobody can take the port before it, and who
        # comes early waits instead of being refused
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.nobody = socket.socket()
        self.nobody.bind(("127.0.0.1", 0))
        here, nobody = (s.getsockname()[1] for s in (self.listener, self.nobody))
        self.scheme = "https" if certificate else "http"
        self.url = f"{self.scheme}://127.0.0.1:{here}"
        if certificate is not None:
            write_certificate(folder, certificate, chain)
            server += "ssl_certificate cert.pem; ssl_certificate_key key.pem;"
        text = self.CONFIG
        for name, value in {
            "user": "user root;" if os.geteuid() == 0 else "",
            "http": http,
            "server": server,
            "location": location,
            "to": to,
            "pass_on": pass_on,
            "tls": "ssl" if certificate else "",
            "scheme": self.scheme,
            "here": f"127.0.0.1:{here}",
            "cloud": f"127.0.0.1:{cloud_port}",
            "nobody": f"127.0.0.1:{nobody}",
        }.items():
            text = text.replace(f"<{name}>", value)
        (folder / "nginx.conf").write_text(text, encoding="ascii")
        inherited = self.listener.fileno()
        with open(folder / "stderr.txt", "wb") as stderr:
            self.process = subprocess.Popen(
                [NGINX, "-p", str(folder), "-c", "nginx.conf"],
                env={**os.environ, "NGINX": f"{inherited};"},
                pass_fds=[inherited],
                stderr=stderr,
            )
        self.listener.close()

    def kill_worker(self) -> None:
        """The worker dies at once, with all its connections; nginx replaces it."""
        found: list[str] = []
        while not found:  # it may serve before its beginning is in the log
            text = (self.folder / "error.log").read_text()
            found = re.findall(r"start worker process (\d+)\n", text)
            time.sleep(0.01)
        os.kill(int(found[-1]), signal.SIGKILL)

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(10) == 0, (self.folder / "stderr.txt").read_text()
        self.nobody.close()

    def log(self, method: str = "") -> list[Entry]:
        """What was asked of it, and what it answered. Stops it, so that all is written."""
        self.stop()
        rows = [line.split() for line in (self.folder / "access.log").read_text().splitlines()]
        entries = [Entry(m, path, int(status), int(nth), g) for m, path, status, nth, g in rows]
        return [entry for entry in entries if method in ("", entry.method)]

    def statuses(self, method: str) -> list[int]:
        """What it answered to requests of that method, but for logins; sorted."""
        return sorted(e.status for e in self.log(method) if not e.path.startswith("/cb-auth"))


@pytest.fixture
def gateway(project: Project) -> Iterator[Callable[..., Nginx]]:
    """Puts nginx before all that the project talks to."""
    made: list[Nginx] = []

    def make(**more: Any) -> Nginx:
        made.append(Nginx(project.folder / "nginx", project.cloud.port, **more))
        endpoints = project.cloud.endpoints().items()
        project.config["API"] = {
            key: url.replace(project.cloud.url, made[-1].url) for key, url in endpoints
        }
        return made[-1]

    yield make
    for nginx in made:
        nginx.stop()


class Night:
    """A server at each provider, called like it, with three nights of history; two are to stay."""

    def __init__(self, project: Project, **more: Any) -> None:
        self.project = project
        fields = {"retain": 2, "duration_seconds": 40, "slots": 6, **more}
        self.servers = {
            provider: project.server(provider, 31 + n, provider, **fields)
            for n, provider in enumerate(PROVIDERS)
        }
        self.old = {p: project.history(server, 3) for p, server in self.servers.items()}

    def created(self, server: Server) -> list[str]:
        return [s.name for s in self.project.cloud.created if s.server is server]

    def kept(self) -> dict[str, list[str]]:
        return {p: self.project.own(server) for p, server in self.servers.items()}

    def assert_good(self, result: Result) -> None:
        """Each has its one new snapshot and the newest of the old ones, and no word is said."""
        assert (result.code, result.err) == (0, "")
        created = {p: self.created(server) for p, server in self.servers.items()}
        assert {p: len(names) for p, names in created.items()} == dict.fromkeys(PROVIDERS, 1)
        assert self.kept() == {p: [self.old[p][-1], created[p][0]] for p in PROVIDERS}

    def assert_untouched(self) -> None:
        assert self.project.cloud.created == []
        assert self.kept() == self.old


# --- nginx: a cloud that acts and answers late -------------------------------------------------------

IMPATIENT = "proxy_read_timeout 500ms;"
LATE: dict[str, dict[str, str]] = {
    "POST": CREATE,
    "DELETE": DELETE,
    "GET": LIST,
}


@pytest.mark.proves("K1", "X1")
@needs_nginx
@pytest.mark.parametrize("method", LATE)
def test_a_504_about_something_that_was_done_changes_nothing(
    project: Project, gateway: Callable[..., Nginx], method: str
) -> None:
    night = Night(project)
    nginx = gateway(location=IMPATIENT)
    for route in LATE[method].values():
        project.cloud.fault(route, fake.stall(30, act=True))
    night.assert_good(project.run())
    assert nginx.statuses(method).count(504) >= 3
    assert sum(project.cloud.count(route) for route in CREATE.values()) == 3


@pytest.mark.proves("T1")
@needs_nginx
def test_a_504_to_a_login_is_tried_again(project: Project, gateway: Callable[..., Nginx]) -> None:
    night = Night(project)
    nginx = gateway(location=IMPATIENT)
    project.cloud.fault("POST /cb-auth/token", fake.stall(30, act=True))
    night.assert_good(project.run())
    assert [e.status for e in nginx.log("POST") if e.path.startswith("/cb-auth")] == [504, 200]


@needs_nginx
def test_a_delete_that_the_gateway_itself_repeats_is_one_delete(
    project: Project, gateway: Callable[..., Nginx]
) -> None:
    """nginx sends what is idempotent on to the next backend: 404 for what the first has done.
    (Not at this Contabo, which takes a request's id only once.)"""
    night = Night(project)
    nginx = gateway(
        http="upstream two { server <cloud> max_fails=0; server <cloud> max_fails=0; }",
        to="two",
        pass_on="error timeout",  # its default
        location=IMPATIENT,
    )
    for provider in ("digitalocean", "hetzner"):
        project.cloud.fault(DELETE[provider], fake.stall(30, act=True))
    night.assert_good(project.run())
    assert nginx.statuses("DELETE") == [204] * 4 + [404] * 2
    assert project.cloud.count("DELETE") == 8


# --- nginx: a cloud that is not there ----------------------------------------------------------------

CREATES = "POST /(do|hz|cb)/"  # but not Contabo's login
DROP = "error_page 502 = @drop;"  # closes the connection without a word
DROPPED = "location @drop { return 444; }"


def nobody_there(requests: int, which: str = CREATES) -> dict[str, str]:
    """So many such requests at each provider find nobody behind nginx; then the cloud is back."""
    upstreams = "".join(
        f"upstream {name} {{ server <nobody> max_fails={requests} fail_timeout=1h;"
        " server <cloud> backup; }"
        for name in ("do", "hz", "cb")
    )
    which = which.replace("(do|hz|cb)", "(?<name>do|hz|cb)")
    choose = f'map "$request_method $uri" $to {{ default cloud; "~^{which}" $name; }}'
    return {"http": upstreams + choose, "to": "$to"}


@pytest.mark.proves("K2")
@needs_nginx
@pytest.mark.parametrize("status", [502, 444])
def test_a_create_that_met_nobody_is_looked_for_and_sent_once_more(
    project: Project, gateway: Callable[..., Nginx], status: int
) -> None:
    night = Night(project)
    dropped = {"location": DROP, "server": DROPPED} if status == 444 else {}
    nginx = gateway(**nobody_there(1), **dropped)
    night.assert_good(project.run())
    assert nginx.statuses("POST") == sorted([201] * 3 + [status] * 3)
    sent = [r.monotonic for route in CREATE.values() for r in project.cloud.requests(route)]
    assert len(sent) == 3
    assert all(30 <= at - 1000 < 60 for at in sent)  # the clock began at 1000


@needs_nginx
def test_a_create_that_met_nobody_twice_is_a_failure(
    project: Project, gateway: Callable[..., Nginx]
) -> None:
    night = Night(project)
    nginx = gateway(**nobody_there(2))
    result = project.run()
    assert result.code == 1
    assert sorted(result.err.splitlines()) == [
        f"snapshots: {provider}: cannot create a snapshot of {what}:"
        " HTTP 502; both times it was not carried out; nothing was pruned"
        for provider, what in sorted(WHAT.items())
    ]
    night.assert_untouched()
    assert nginx.statuses("POST") == [502] * 6


@pytest.mark.proves("T1")
@needs_nginx
@pytest.mark.parametrize("which", ["[A-Z]+ /(do|hz|cb)", "DELETE /(do|hz|cb)"])
def test_a_cloud_that_is_away_for_a_while_is_waited_for(
    project: Project, gateway: Callable[..., Nginx], which: str
) -> None:
    night = Night(project)
    nginx = gateway(**nobody_there(4, which))
    night.assert_good(project.run())
    assert [entry.status for entry in nginx.log()].count(502) == 12


@needs_nginx
def test_a_create_on_a_connection_that_is_just_being_closed_is_sent_once_more(
    project: Project, gateway: Callable[..., Nginx]
) -> None:
    """The second server's create goes over the connection that the first one's turn left open,
    and nginx closes it without an answer, as it does with one that was idle for too long."""
    night = Night(project)
    seconds = {p: project.server(p, 61, f"{p}-two", slots=6) for p in PROVIDERS}
    nginx = gateway(**nobody_there(1, "POST /(do|hz|cb)/.*/61/"), location=DROP, server=DROPPED)
    project.config["TIMING"]["max_parallel"] = 1
    result = project.run()
    night.assert_good(result)
    assert all(len(night.created(server)) == 1 for server in seconds.values())
    dropped = [entry for entry in nginx.log("POST") if entry.status == 444]
    assert len(dropped) == 3
    assert all(entry.nth > 1 for entry in dropped)


@pytest.mark.proves("K4")
@needs_nginx
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_gateway_that_dies_once_the_create_is_done_is_no_obstacle(
    project: Project, gateway: Callable[..., Nginx], provider: str
) -> None:
    server = project.server(provider, 31, "web", duration_seconds=40)
    old = project.history(server, 2)
    nginx = gateway()
    creates_at = 2 if provider == "contabo" else 1  # after the login
    project.cloud.stop_at(creates_at, nginx.kill_worker, before=False)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    (created,) = project.cloud.created
    assert project.own(server) == [old[1], created.name]
    assert project.cloud.count(CREATE[provider]) == 1
    assert "found it; going on with it" in result.log


# --- nginx: what it refuses by itself ----------------------------------------------------------------

LOGIN_STAYS = "location /cb-auth/ { proxy_pass http://cloud; }"
GIF = "if ($request_method = POST) { rewrite ^/(do|hz|cb)/ /gif; }"
TWICE = "; both times it was not carried out; nothing was pruned"
REFUSALS: dict[str, tuple[dict[str, str], str]] = {
    "a body too large": (
        {"server": "location ~ ^/(do|hz|cb)/ { client_max_body_size 1; proxy_pass http://cloud; }"},
        f"HTTP 413 ({snapshots.NOT_OWN}){TWICE}",
    ),
    "nothing to POST to": (
        {"location": GIF, "server": "location = /gif { empty_gif; }"},
        f"HTTP 405 ({snapshots.NOT_OWN}){TWICE}",
    ),
    "reading only": (
        {"location": "limit_except GET { deny all; }", "server": LOGIN_STAYS},
        f"HTTP 403 ({snapshots.NOT_OWN}){TWICE}",
    ),
    "a password of its own": (
        {"location": "auth_basic x; auth_basic_user_file none;", "server": LOGIN_STAYS},
        f"HTTP 401 ({snapshots.NOT_OWN})",
    ),
}


@needs_nginx
@pytest.mark.parametrize("how", REFUSALS)
def test_what_the_gateway_refuses_is_reported_in_one_line_and_not_repeated_blindly(
    project: Project, gateway: Callable[..., Nginx], how: str
) -> None:
    lines, reason = REFUSALS[how]
    night = Night(project)
    nginx = gateway(**lines)
    result = project.run("-v")
    assert result.code == 1
    for line, (provider, what) in zip(sorted(result.err.splitlines()), sorted(WHAT.items())):
        told = f"snapshots: {provider}: cannot create a snapshot of {what}: {reason}"
        # where nothing can be read, nobody knows
        assert line == told or ("401" in reason and line.startswith(f"{told}; outcome unknown"))
    assert len(result.err.splitlines()) == 3
    assert "<" not in result.out + result.err + result.log
    night.assert_untouched()
    assert len(nginx.statuses("POST")) == (3 if "401" in reason else 6)
    assert not [r for route in CREATE.values() for r in project.cloud.requests(route)]


# --- nginx: TLS --------------------------------------------------------------------------------------


def through_an_intermediate() -> trustme.LeafCert:
    return AUTHORITY.create_child_ca().issue_cert("127.0.0.1")


@needs_nginx
@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("certificate", [good_certificate, through_an_intermediate])
def test_a_good_certificate_is_talked_to(
    project: Project,
    gateway: Callable[..., Nginx],
    certificate: Callable[[], trustme.LeafCert],
) -> None:
    night = Night(project)
    gateway(certificate=certificate())
    night.assert_good(project.run())


@pytest.mark.proves("I26")
@needs_nginx
@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("how", [*BAD_CERTIFICATES, "the intermediate is not sent"])
def test_a_bad_certificate_gets_no_request_and_no_credential(
    project: Project, gateway: Callable[..., Nginx], how: str
) -> None:
    night = Night(project)
    certificate = BAD_CERTIFICATES.get(how, through_an_intermediate)()
    nginx = gateway(certificate=certificate, chain=how in BAD_CERTIFICATES)
    result = project.run()
    assert result.code == 1
    lines = result.err.splitlines()
    assert sorted(line.split(": ")[1] for line in lines) == sorted(PROVIDERS)
    assert all("its certificate is not valid: " in line for line in lines)
    assert nginx.log() == []
    assert project.cloud.journal == []
    night.assert_untouched()


@needs_nginx
@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("how", ["http to the port for https", "it wants a certificate of ours"])
def test_a_gateway_that_wants_other_tls_is_reported_in_one_line(
    project: Project, gateway: Callable[..., Nginx], how: str
) -> None:
    """nginx answers both with its own page for 400."""
    night = Night(project)
    wants = "ssl_verify_client on; ssl_client_certificate cert.pem;"
    plain = how.startswith("http ")
    nginx = gateway(certificate=good_certificate(), server="" if plain else wants)
    if plain:
        urls = project.config["API"].items()
        project.config["API"] = {key: url.replace("https:", "http:") for key, url in urls}
    result = project.run()
    assert result.code == 1
    lines = sorted(result.err.splitlines())
    assert [line.split(": ")[1] for line in lines] == sorted(PROVIDERS)
    assert all(": HTTP 400 (" in line and snapshots.NOT_OWN in line for line in lines)
    assert {entry.status for entry in nginx.log("POST")} == {400}
    night.assert_untouched()


# --- nginx: the way of the bytes ---------------------------------------------------------------------

PACKED = (
    "gzip on; gzip_types application/json; gzip_min_length 1; gzip_proxied any;"
    "proxy_http_version 1.1; proxy_set_header Connection '';"
)
HABITS = {
    "keeps connections": "keepalive_requests 1000;",
    "answers in small pieces": "ssl_buffer_size 64;",
    "ends each connection": "keepalive_requests 1;",
    "drops idle connections": "keepalive_timeout 20ms;",
}


@needs_nginx
@pytest.mark.usefixtures("trusted")
@in_real_time
@pytest.mark.parametrize("habit", HABITS)
def test_packed_answers_over_connections_that_come_and_go_are_a_normal_night(
    project: Project, gateway: Callable[..., Nginx], habit: str
) -> None:
    """Each create is told once that the server is busy, and so is sent again after a pause: over
    the connection that is there, or over a new one where nginx has closed that meanwhile."""
    project.config["TIMING"]["poll_interval"] = 0.3
    night = Night(project, duration_seconds=0.3)
    for provider, status in {"digitalocean": 409, "hetzner": 423, "contabo": 409}.items():
        project.cloud.fault(CREATE[provider], fake.status(status))
    nginx = gateway(server=HABITS[habit], location=PACKED, certificate=good_certificate())
    night.assert_good(project.run())
    entries = nginx.log()
    assert all(e.gzip_ratio != "-" for e in entries if e.method == "GET")
    created = [e for e in entries if e.method == "POST" and e.status == 201]
    stays = habit in ("keeps connections", "answers in small pieces")
    assert [e.nth > 1 for e in created] == [stays] * 3


@needs_nginx
@in_real_time
def test_a_gateway_that_takes_few_creates_a_second_gets_few(
    project: Project, gateway: Callable[..., Nginx]
) -> None:
    """Its 429 does not say how long to wait."""
    project.config["TIMING"]["poll_interval"] = 0.3
    night = Night(project, duration_seconds=0.3)
    nginx = gateway(
        http="""map $request_method $limited { POST all; }
                limit_req_zone $limited zone=few:64k rate=5r/s;""",
        location="limit_req zone=few; limit_req_status 429;",
    )
    night.assert_good(project.run())
    assert 429 in [entry.status for entry in nginx.log("POST")]


# --- Exim --------------------------------------------------------------------------------------------

USER = "backup@example.org"
SENDER = "Sicherung für alle <snapshots@example.org>"


class Exim:
    """Exim as a mail server, in a directory of its own, with one user and one mailbox for all.

    port is for STARTTLS, port_tls for TLS from the first byte on. options are more lines of its
    main configuration; each in place of its standing line, if there is one. It refuses mail to
    gone@..., takes mail to later@... never, and mail to once@... at the second try.
    """

    OPTIONS: Mapping[str, str] = {
        "primary_hostname": "mail.test",
        "spool_directory": "<here>/spool",
        "log_file_path": "<here>/log/%slog",
        "log_selector": "+smtp_no_mail",  # of a session without a mail: its commands
        "pid_file_path": "<here>/exim.pid",
        "local_interfaces": "127.0.0.1",
        "disable_ipv6": "true",
        "exim_user": "<user>",
        "exim_group": "<group>",
        "deliver_drop_privilege": "true",
        "keep_environment": "",
        "host_lookup": "",
        "rfc1413_query_timeout": "0s",
        "tls_certificate": "<here>/cert.pem",
        "tls_privatekey": "<here>/key.pem",
        "tls_advertise_hosts": "*",
        "auth_advertise_hosts": "${if def:tls_in_cipher {*}}",
        "acl_smtp_rcpt": "recipient",
    }
    REST = """
begin acl
recipient:
  deny  message = no such user here
        local_parts = gone
  defer message = greylisted, come back later
        local_parts = later
  defer message = greylisted, come back soon
        local_parts = once
        !condition = ${if exists{<here>/seen}}
        set acl_m0 = ${run{/bin/touch <here>/seen}}
  accept authenticated = *
  deny  message = relay not permitted

begin routers
all:
  driver = accept
  transport = box

begin transports
box:
  driver = appendfile
  directory = <here>/box
  maildir_format
  envelope_to_add
  return_path_add

begin authenticators
"""
    AUTHENTICATORS: Mapping[str, str] = {
        "PLAIN": """
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and{{eq{$auth2}{<login>}}{eq{$auth3}{${readfile{<here>/password}}}}}}
  server_set_id = $auth2
""",
        "LOGIN": """
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${if and{{eq{$auth1}{<login>}}{eq{$auth2}{${readfile{<here>/password}}}}}}
  server_set_id = $auth1
""",
    }

    def __init__(
        self, folder: Path, password: str, certificate: trustme.LeafCert, logins: str, **more: str
    ) -> None:
        self.folder = folder
        for name in ("spool", "log", "box", "box/new", "box/cur", "box/tmp"):
            (folder / name).mkdir()
        write_certificate(folder, certificate)
        (folder / "password").write_text(password, encoding="ascii")
        # as root Exim would deliver as somebody else all the same; so it is nobody from the start
        self.user, self.group = os.geteuid(), os.getegid()
        identity: dict[str, Any] = {}
        if self.user == 0:
            self.user = self.group = 65534
            identity = {"user": self.user, "group": self.group, "extra_groups": []}
        # held so that nobody else gets these ports; Exim may still take them, as nobody listens
        self.held = [socket.socket(), socket.socket()]
        for held in self.held:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))
        self.port, self.port_tls = (held.getsockname()[1] for held in self.held)
        options = {
            **self.OPTIONS,
            "daemon_smtp_ports": f"{self.port} : {self.port_tls}",
            "tls_on_connect_ports": str(self.port_tls),
            **more,
        }
        text = "".join(f"{name} = {value}\n" for name, value in options.items()) + self.REST
        text += "".join(self.AUTHENTICATORS[name] for name in logins.split())
        for name, value in {
            "here": str(folder),
            "user": str(self.user),
            "group": str(self.group),
            "login": USER,
        }.items():
            text = text.replace(f"<{name}>", value)
        (folder / "exim.conf").write_text(text, encoding="ascii")
        if identity:
            for path in [folder, *folder.rglob("*")]:
                os.chown(path, self.user, self.group)
        with open(folder / "stderr.txt", "wb") as stderr:
            self.process = subprocess.Popen(
                [EXIM, "-C", str(folder / "exim.conf"), "-bdf"],
                cwd=folder,
                stderr=stderr,
                start_new_session=True,
                **identity,
            )
        self.await_log("listening for SMTP")

    def _await(self, holds: Callable[[], bool], otherwise: str) -> None:
        for _ in range(1500):
            if holds():
                return
            assert self.process.poll() is None, self.said()
            time.sleep(0.01)
        raise AssertionError(f"{otherwise}\n{self.said()}")

    def await_log(self, text: str, times: int = 1) -> None:
        """Until it has written this: it logs what became of a session when that is over."""
        self._await(lambda: self.log().count(text) >= times, f"no {text!r}")

    def said(self) -> str:
        return (self.folder / "stderr.txt").read_text() + self.log()

    def log(self) -> str:
        path = self.folder / "log" / "mainlog"
        return path.read_text() if path.exists() else ""

    def taken(self) -> int:
        """How many mails it has taken; it says so in its log before it says so to the client."""
        return self.log().count(" <= ")

    def mails(self, count: int) -> list[email.message.EmailMessage]:
        """The mails that it has delivered, one for each recipient, ordered by these."""
        new = self.folder / "box" / "new"
        self._await(lambda: len(list(new.iterdir())) >= count, f"less than {count} mails")
        found = []
        for path in new.iterdir():
            mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            assert isinstance(mail, email.message.EmailMessage)
            found.append(mail)
        return sorted(found, key=lambda mail: str(mail["Envelope-To"]))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        with contextlib.suppress(ProcessLookupError):  # deliveries that are about to end
            os.killpg(self.process.pid, signal.SIGKILL)
        for held in self.held:
            held.close()

    def written(self) -> Iterator[str]:
        """All that it has written down, but for the password's own file."""
        for path in self.folder.rglob("*"):
            if path.is_file() and path.name != "password":
                yield path.read_bytes().decode("utf-8", "replace")
        for mail in self.mails(0):
            yield repr(mail.items())
            for part in mail.walk():
                if not part.is_multipart():
                    yield str(part.get_content())


@pytest.fixture
def post_office(project: Project, trusted: None) -> Iterator[Callable[..., Exim]]:
    """Starts Exim and has the project send its mails there; afterwards all that Exim has got and
    written down is searched for credentials."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)  # Exim may be another user
    made: list[Exim] = []

    def start(
        certificate: Optional[trustme.LeafCert] = None,
        security: str = "starttls",
        logins: str = "PLAIN LOGIN",
        password: str = "",
        **options: str,
    ) -> Exim:
        known = project.canary("mail")
        exim = Exim(folder, password or known, certificate or good_certificate(), logins, **options)
        made.append(exim)
        project.config["SMTP"] = {
            "enabled": "true",
            "server": "127.0.0.1",
            "port": exim.port_tls if security == "tls" else exim.port,
            "security": security,
            "user": USER,
            "password": known,
            "from_email": SENDER,
            "to_emails": "ops@example.org",
            "timeout": 5,
        }
        return exim

    yield start
    for exim in made:
        exim.stop()
        forms = [form for canary in project.canaries for form in forms_of(canary)]
        for text in exim.written():
            assert not [form for form in forms if form in text]
    shutil.rmtree(folder)


NOT_DELIVERED = "snapshots: warning: jürgens: e-mail notification not delivered"


def night_with_a_failure(project: Project) -> Result:
    """Two servers, one of which fails, so that there is one mail; no mail server changes the exit
    code, and none holds the run up."""
    project.server("hetzner", 11, "good")
    project.server("hetzner", 12, "jürgens", fails=True)
    began = time.monotonic()
    result = project.run()
    assert time.monotonic() - began < 60
    assert result.code == 2
    return result


@needs_exim
@pytest.mark.parametrize(("security", "login"), [("starttls", "PLAIN"), ("tls", "LOGIN")])
def test_a_mail_gets_through_a_real_server_encrypted_and_logged_in(
    project: Project, post_office: Callable[..., Exim], security: str, login: str
) -> None:
    exim = post_office(security=security, logins=login)
    project.config["SMTP"]["to_emails"] = "ops@example.org, Übermut <boss@example.org>"
    result = night_with_a_failure(project)
    assert result.out.endswith(" total\n")
    assert "warning" not in result.err
    mails = exim.mails(2)
    assert exim.taken() == 1
    assert f"A={login.lower()}:{USER} " in exim.log()
    assert [mail["Envelope-To"] for mail in mails] == ["boss@example.org", "ops@example.org"]
    for mail in mails:
        assert mail["Return-Path"] == "<snapshots@example.org>"
        assert "with esmtpsa " in mail["Received"]
        assert mail["From"] == SENDER
        assert mail["To"] == "ops@example.org, Übermut <boss@example.org>"
        assert mail["Subject"] == "Snapshot FAILURE: jürgens"
        assert mail["Auto-Submitted"] == "auto-generated"
        assert mail["Message-ID"] == mails[0]["Message-ID"]
        assert not mail.defects
        for kind in ("plain", "html"):
            part = mail.get_body((kind,))
            assert part is not None
            assert "jürgens" in part.get_content()
            assert "nothing was pruned" in part.get_content()


@needs_exim
def test_a_greylisted_mail_is_sent_again_and_arrives_once(
    project: Project, post_office: Callable[..., Exim]
) -> None:
    exim = post_office()
    project.config["SMTP"]["to_emails"] = "once@example.org"
    result = night_with_a_failure(project)
    assert "warning" not in result.err
    assert exim.log().count("temporarily rejected RCPT <once@example.org>") == 1
    assert len(exim.mails(1)) == exim.taken() == 1


@dataclass
class Refusal:
    """options: Exim's. settings: the tool's. heard: how Exim's log tells of it, and how often."""

    reason: str
    heard: str
    times: int = 1
    options: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    taken: int = 0


REFUSED_MAILS = {
    "wrong password": Refusal(
        "535 Incorrect authentication data",
        "C=EHLO,STARTTLS,EHLO,AUTH,AUTH,QUIT",
        options={"password": "another"},
    ),
    "no such recipient": Refusal(
        "all recipients refused (550 ",
        "A=plain:backup@example.org rejected RCPT <gone@example.org>",
        settings={"to_emails": "gone@example.org"},
    ),
    "greylisted for ever": Refusal(
        "all recipients refused (451 ",
        "temporarily rejected RCPT <later@example.org>",
        times=3,
        settings={"to_emails": "later@example.org"},
    ),
    "one of two recipients unknown": Refusal(
        "refused for gone@example.org; the others have it",
        "rejected RCPT <gone@example.org>",
        settings={"to_emails": "gone@example.org, ops@example.org"},
        taken=1,
    ),
    "one of two recipients greylisted": Refusal(
        "refused for later@example.org; the others have it",
        "temporarily rejected RCPT <later@example.org>",
        settings={"to_emails": "ops@example.org, later@example.org"},
        taken=1,
    ),
    "no STARTTLS": Refusal(
        "the server does not offer STARTTLS",
        "C=EHLO,QUIT",
        options={"tls_advertise_hosts": "", "auth_advertise_hosts": "*"},
    ),
    "no login": Refusal(
        "the server does not offer a way to log in",
        "C=EHLO,STARTTLS,EHLO,QUIT",
        options={"logins": ""},
    ),
    "no user set": Refusal(
        "all recipients refused (550 relay not permitted)",
        "rejected RCPT <ops@example.org>: relay not permitted",
        settings={"user": "", "password": ""},
    ),
    "too large": Refusal(
        "552 Message size exceeds maximum permitted",
        "message too big",
        options={"message_size_limit": "300"},
    ),
    "unwanted content": Refusal(
        "550 Administrative prohibition",
        "rejected after DATA",
        options={"acl_smtp_data": "deny"},
    ),
    "too busy": Refusal(
        "the server greets with 451",
        "temporarily rejected connection",
        times=3,
        options={"acl_smtp_connect": "defer"},
    ),
    "TLS to the port for STARTTLS": Refusal(
        "TLS failed: wrong version number (does [SMTP] security fit the port?)",
        "no MAIL in SMTP connection",
        times=3,
        settings={"security": "tls"},
    ),
    "no TLS to the port for TLS": Refusal(
        "the port begins with TLS (does [SMTP] security fit the port?)",
        "TLS error on connection",
        options={"security": "tls"},
        settings={"security": "starttls", "timeout": 1, "retries": 1},
    ),
}


@pytest.mark.proves("N6")
@needs_exim
@pytest.mark.parametrize("case", REFUSED_MAILS)
def test_a_mail_that_a_real_server_refuses_is_reported_in_one_line(
    project: Project, post_office: Callable[..., Exim], case: str
) -> None:
    refusal = REFUSED_MAILS[case]
    exim = post_office(**refusal.options)
    project.config["SMTP"].update(refusal.settings)
    result = night_with_a_failure(project)
    assert result.out.endswith(" total; 1 notification not delivered\n")
    (line,) = (line for line in result.err.splitlines() if "warning" in line)
    assert line.startswith(f"{NOT_DELIVERED}: cannot send mail through 127.0.0.1: {refusal.reason}")
    exim.await_log(refusal.heard, refusal.times)
    assert exim.log().count(refusal.heard) == refusal.times
    assert exim.taken() == refusal.taken
    mails = exim.mails(refusal.taken)
    assert [mail["Envelope-To"] for mail in mails] == ["ops@example.org"] * refusal.taken


@pytest.mark.proves("I26")
@needs_exim
@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize("how", BAD_CERTIFICATES)
def test_a_real_mail_server_with_a_bad_certificate_learns_nothing(
    project: Project, post_office: Callable[..., Exim], how: str, security: str
) -> None:
    exim = post_office(certificate=BAD_CERTIFICATES[how](), security=security)
    result = night_with_a_failure(project)
    assert f"{NOT_DELIVERED}: cannot send mail through 127.0.0.1: its certificate" in result.err
    # all that was said, and the end of it
    exim.await_log("C=EHLO,STARTTLS\n" if security == "starttls" else "TLS error on connection")
    assert "authenticator" not in exim.log()
    assert exim.taken() == 0


# --- both ----------------------------------------------------------------------------------------------


@needs_nginx
@needs_exim
@in_real_time
def test_the_script_itself_between_both(
    project: Project, gateway: Callable[..., Nginx], post_office: Callable[..., Exim]
) -> None:
    """The file as cron runs it, which learns from its environment whom to trust."""
    project.config["TIMING"]["poll_interval"] = 0.2
    night = Night(project, duration_seconds=0.3)
    gateway(location=PACKED, certificate=good_certificate())
    exim = post_office()
    project.config["SMTP"]["notify_on_success"] = "true"
    command = [sys.executable, snapshots.__file__, "--config", str(project.write_config())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    project.printed += [done.stdout, done.stderr]
    night.assert_good(Result(done.returncode, done.stdout, done.stderr, ""))
    assert done.stdout == "SUMMARY: 3 succeeded, 0 failed out of 3 total\n"
    subjects = sorted(mail["Subject"] for mail in exim.mails(3))
    assert subjects == [f"Snapshot SUCCESS: {provider}" for provider in sorted(PROVIDERS)]
