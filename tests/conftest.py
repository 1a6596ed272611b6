"""A project directory, a cloud and a clock for each test, sealed off from the machine.

Every credential that a test gives the tool is a canary, and after every test all that was
printed, logged, written or sent is searched for it, in every form it could take: see leak_scan.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme
from fakes import Account, FakeCloud, Server
from fakes.clock import FakeClock
from fakes.mail import MailServer
from hypothesis import HealthCheck, settings
from tools import leak_scan, specs
from tools.leak_scan import forms_of as forms_of

import snapshots

SOAK = os.environ.get("SNAPSHOTS_PROFILE") == "soak"
EXAMPLES = int(os.environ.get("SNAPSHOTS_EXAMPLES", "0"))  # of each random thing; 0: as written

settings.register_profile(
    "default",
    max_examples=EXAMPLES or 100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile(
    "soak", settings.get_profile("default"), derandomize=False, print_blob=True
)
settings.load_profile("soak" if SOAK else "default")


def examples(count: int) -> settings:
    """So many examples of a random thing, if SNAPSHOTS_EXAMPLES does not say otherwise."""
    return settings(max_examples=EXAMPLES or count)


def pairwise(**values: Iterable[Any]) -> pytest.MarkDecorator:
    """Parameters of which any two values meet in some case; tools/soak.sh tries every case.

    For tests whose parameters each lead into a branch of its own: what three of them do together
    is what two of them do.
    """
    lists = list(map(list, values.values()))
    cases = list(itertools.product(*(range(len(found)) for found in lists)))
    pairs = {case: set(itertools.combinations(enumerate(case), 2)) for case in cases}
    missing = set().union(*pairs.values())
    chosen = cases if SOAK else []
    while missing and not SOAK:
        chosen.append(max(cases, key=lambda case: len(pairs[case] & missing)))
        missing -= pairs[chosen[-1]]
    shown = [tuple(found[at] for found, at in zip(lists, case)) for case in sorted(chosen)]
    return pytest.mark.parametrize(list(values), shown)


def pytest_make_parametrize_id(val: object) -> str | None:
    """What a long value is called in the name of a test: its beginning."""
    if isinstance(val, int) and val.bit_length() > 100:
        return "vast" if val > 0 else "vast, below 0"
    text = val.decode("latin-1") if isinstance(val, bytes) else val
    shown = text.encode("unicode_escape").decode() if isinstance(text, str) else ""
    return f"{shown[:30]}..." if len(shown) > 40 else None


for number in (signal.SIGHUP, signal.SIGINT):  # nohup, or a shell's background job, ignores them
    if signal.getsignal(number) is signal.SIG_IGN:  # and what we start would inherit that
        signal.signal(number, signal.SIG_DFL)

TOP_KEYS = {
    "digitalocean": "digitalocean_droplet",
    "hetzner": "hetzner_cloud_server",
    "contabo": "contabo_instance",
}


@pytest.fixture(autouse=True)
def sealed(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """No proxy, no netrc, no home of anybody's; a time zone that is not UTC and has DST; and no
    history that a busy machine keeps from being written."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in (
            "NETRC",
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("TZ", "Europe/Berlin")
    monkeypatch.setattr(snapshots, "HISTORY_WAIT_SECONDS", 60.0)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def nothing_leaks(
    sealed: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """After every test: no credential shows anywhere but at home."""
    printed: list[str] = []
    read = pytest.CaptureFixture.readouterr

    def read_and_note(capture: pytest.CaptureFixture[Any]) -> Any:
        captured = read(capture)
        printed.extend(map(str, captured))
        return captured

    monkeypatch.setattr(pytest.CaptureFixture, "readouterr", read_and_note)
    monkeypatch.setattr(subprocess, "Popen", leak_scan.Child)
    monkeypatch.setattr(FakeCloud, "onlookers", [leak_scan.Child.look])
    home = Path(os.environ["HOME"])
    Project.made.clear()
    leak_scan.forget()
    yield
    printed.extend(output_of(request))
    secrets = leak_scan.secrets_of_fakes().union(*(made.canaries for made in Project.made))
    texts = [("output", text) for text in printed]
    for folder in (home, request.node.funcargs.get("tmp_path")):
        if folder is not None:
            named, files = leak_scan.read_folder(folder)
            secrets |= named
            texts += files
    found = leak_scan.find(
        secrets, [*texts, *leak_scan.sent_to_fakes(), *leak_scan.told_by_children()]
    )
    Project.made.clear()
    leak_scan.forget()
    if found:
        pytest.fail("credentials leaked:\n" + "\n".join(found), pytrace=False)


requests_looked_at: set[str] = set()  # by their shapes


@pytest.fixture(autouse=True)
def as_the_vendors_have_it(nothing_leaks: None) -> Iterator[None]:
    """After every test: each request that a fake cloud got is one that its vendor knows."""
    yield
    if specs.can_check:
        journal = (request for cloud in FakeCloud.made for request in cloud.journal)
        new = specs.of_different_shape(journal, specs.shape_of_request, requests_looked_at)
        found = [fault for request in new for fault in specs.faults_of_request(request)]
        if found:
            pytest.fail("not as the vendor has it:\n" + "\n".join(found), pytrace=False)


def output_of(request: pytest.FixtureRequest) -> Iterator[str]:
    """What pytest has caught of this test's output, that of its child processes included."""
    for _when, _stream, text in request.node._report_sections:
        yield text
    now = request.config.pluginmanager.getplugin("capturemanager").read_global_capture()
    for stream, text in zip((sys.stdout, sys.stderr), now):
        stream.write(text)  # for the report, as if nobody had read it
        yield text


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    made = FakeClock()
    yield made
    made.kill()  # no thread of a run that was given up outlives its test


@pytest.fixture
def cloud(clock: FakeClock) -> Iterator[FakeCloud]:
    with FakeCloud(clock) as fake:
        yield fake
        assert fake.problems == []


@dataclass
class Result:
    """What one run left behind."""

    code: int
    out: str
    err: str
    log: str

    @property
    def lines(self) -> list[str]:
        """The messages of the log, without time and level."""
        return [line.split(" | ", 2)[2] for line in self.log.splitlines()]

    @property
    def final(self) -> list[list[str]]:
        """The fields of the FINAL_STATUS lines."""
        return [line.split(" | ") for line in self.lines if line.startswith("FINAL_STATUS")]


@dataclass
class Project:
    """A directory with snapshots.config and server files, as a user has it."""

    made: ClassVar[list[Project]] = []  # every one, until somebody clears it

    folder: Path
    cloud: FakeCloud
    clock: FakeClock
    capsys: pytest.CaptureFixture[str]
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    canaries: set[str] = field(default_factory=set)
    printed: list[str] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.made.append(self)

    def canary(self, what: str) -> str:
        """A credential that must never be seen again; awkward on purpose."""
        number = len(self.canaries)
        value = f'CANARY-{what}-%2F/+"{number:04d}-zq7Rk2Wp'
        self.canaries.add(value)
        return value

    def token(self, what: str) -> str:
        """A canary that may stand in a header."""
        value = f"CANARY-{what}-%2F/+{len(self.canaries):04d}-zq7Rk2Wp"
        self.canaries.add(value)
        return value

    def account(self, provider: str, key: str = "", **more: Any) -> Account:
        """The account of that provider and key, made at the first call."""
        name = f"{provider}{key}"
        if name not in self.accounts:
            if provider == "contabo":
                self.accounts[name] = self.cloud.add_account(
                    provider,
                    client_id=f"DE-{name}-client",
                    client_secret=self.canary("secret"),
                    api_user=f"{name}@example.org",
                    api_password=self.canary("password"),
                    **more,
                )
            else:
                self.accounts[name] = self.cloud.add_account(
                    provider, token=self.token(provider), **more
                )
        return self.accounts[name]

    def server(
        self,
        provider: str,
        id: int,
        name: str = "web",
        retain: Any = 2,
        account: str = "",
        file: dict[str, Any] | None = None,
        **more: Any,
    ) -> Server:
        """A server in the cloud, and its file in configs/."""
        owner = self.account(provider, account)
        server = self.cloud.add_server(owner, id, name, **more)
        credentials = (
            {
                "client_id": owner.client_id,
                "client_secret": owner.client_secret,
                "api_user": owner.api_user,
                "api_password": owner.api_password,
            }
            if provider == "contabo"
            else {"api_token": owner.token}
        )
        content = {
            "id": id,
            "name": name,
            "retain_last_snapshots": retain,
            **credentials,
            **(file or {}),
        }
        self.write(f"{provider}-{id}.json", {TOP_KEYS[provider]: content})
        return server

    def history(self, server: Server, nights: int, label: str | None = None) -> list[str]:
        """Snapshots of our own making, one a night, the last one last night; oldest first."""
        from datetime import timedelta

        names = []
        for night in range(nights, 0, -1):
            at = self.clock.now() - timedelta(days=night)
            name = snapshots.snapshot_name(label or server.name, at)
            self.cloud.add_snapshot(server, name, at)
            names.append(name)
        return names

    def write(self, name: str, content: Any) -> Path:
        path = self.folder / "configs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )
        path.chmod(0o600)
        return path

    def write_config(self) -> Path:
        path = self.folder / "snapshots.config"
        text = ""
        for section, values in self.config.items():
            text += f"[{section}]\n" + "".join(
                f"{key} = {value}\n" for key, value in values.items()
            )
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        return path

    def run(self, *args: str) -> Result:
        """The real main on this project, in this process, with the fake clock."""
        path = self.write_config()
        log = self.folder / "logs" / "snapshots.log"
        before = log.stat().st_size if log.exists() else 0
        self.capsys.readouterr()
        code = snapshots.main(["--config", str(path), *args], self.clock)
        captured = self.capsys.readouterr()
        self.printed += [captured.out, captured.err]
        assert not self.clock.stuck, self.clock.stuck
        assert "Traceback" not in captured.out + captured.err
        text = log.read_text(encoding="utf-8")[before:] if log.exists() else ""
        return Result(int(code), captured.out, captured.err, text)

    def interrupt(self) -> None:
        """A signal arrives. Called by the cloud in a request; returns when the run has heard it."""
        os.kill(os.getpid(), signal.SIGTERM)
        log = self.folder / "logs" / "snapshots.log"
        while "interrupted by SIGTERM: nothing more" not in log.read_text(encoding="utf-8"):
            time.sleep(0.005)

    def own(self, server: Server) -> list[str]:
        """Names of the server's finished snapshots, as the cloud holds them now."""
        return self.cloud.names(server)

    def leaks(self) -> list[str]:
        """Every place of this project where a credential shows that is not its own home.

        The fixture below looks at every project when its test is over; this is for tests that
        make one after the other. What has been looked at here is not kept for the fixture.
        """
        secrets, files = leak_scan.read_folder(self.folder)
        secrets |= self.canaries | set(self.cloud.secrets())
        printed = [("output", text) for text in self.printed]
        found = leak_scan.find(secrets, [*printed, *files, *leak_scan.sent_to_cloud(self.cloud)])
        Project.made[:] = [made for made in Project.made if made is not self]
        FakeCloud.made[:] = [made for made in FakeCloud.made if made is not self.cloud]
        return found


@pytest.fixture
def project(
    tmp_path: Path, cloud: FakeCloud, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> Project:
    made = Project(tmp_path, cloud, clock, capsys)
    made.config = {
        "API": cloud.endpoints(),
        "TIMING": {"delay_between_servers": 0},
        "TELEGRAM": {"enabled": "false"},
    }
    return made


# === Mail servers and certificates ===============================================================


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def other_ca() -> trustme.CA:
    return trustme.CA()


def certified(ca: trustme.CA, *names: str, **more: Any) -> ssl.SSLContext:
    """The TLS context of a server with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*(names or ("127.0.0.1", "localhost")), **more).configure_cert(context)
    return context


@pytest.fixture
def trusted(
    ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine trusts `ca` and nobody else."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(path))


class PostOffice:
    """Starts mail servers and has the project send its mails there."""

    def __init__(self, project: Project, context: ssl.SSLContext) -> None:
        self.project, self.context = project, context
        self.password = project.canary("mail")
        self.servers: list[MailServer] = []

    def open(self, *, offers_tls: bool = True, **more: Any) -> MailServer:
        """A server with STARTTLS and one user, unless said otherwise."""
        fields: dict[str, Any] = {"users": {"backup@example.org": self.password}, **more}
        context = fields.pop("context", self.context) if offers_tls else None
        server = MailServer(context, **fields).start()
        self.servers.append(server)
        self.project.config["SMTP"] = {
            "enabled": "true",
            "server": "127.0.0.1",
            "port": server.port,
            "security": "tls" if fields.get("tls") else "starttls",
            "user": "backup@example.org",
            "password": self.password,
            "from_email": "Sicherung für alle <snapshots@example.org>",
            "to_emails": "ops@example.org",
            "notify_on_success": "true",
        }
        return server


@pytest.fixture
def post(project: Project, ca: trustme.CA, trusted: None) -> Iterator[PostOffice]:
    office = PostOffice(project, certified(ca))
    yield office
    for server in office.servers:
        server.stop()
        for mail in server.mails:
            text = f"{mail.message['Subject']}{mail.part('plain')}{mail.part('html')}"
            for canary in project.canaries:
                assert not any(form in text for form in forms_of(canary))


class Tab:
    """A project, and the crontab of whoever runs it."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project, self.folder = project, folder
        self.mischief: dict[str, Any] = {}

    @property
    def table(self) -> Path:
        return self.folder / "table"

    @property
    def text(self) -> str:
        return self.table.read_bytes().decode("utf-8", "surrogateescape")

    def set(self, text: str) -> None:
        self.table.write_bytes(text.encode("utf-8", "surrogateescape"))

    def run(self, *args: str) -> Result:
        (self.folder / "mischief.json").write_text(json.dumps(self.mischief))
        (self.folder / "calls").write_text("")
        return self.project.run(*args)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().split()

    @property
    def backups(self) -> list[Path]:
        return sorted((self.project.folder / "logs").glob("crontab-*"))

    @property
    def config(self) -> Path:
        return self.project.folder / "snapshots.config"

    def block(self, fields: str) -> str:
        folder = self.project.folder
        return (
            f"# BEGIN snapshots.py {self.config} (by --install-cron; --remove-cron takes it out)\n"
            f"{fields} cd {folder} && {sys.executable} {Path(snapshots.__file__).resolve()} --config {self.config}"
            f" >> {folder}/logs/cronjob.log 2>&1\n"
            f"# END snapshots.py {self.config}\n"
        )


@pytest.fixture
def tab(project: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> Tab:
    folder = tmp_path_factory.mktemp("spool")
    program = folder / "crontab"
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -S -E {Path(__file__).parent / "fakes" / "crontab.py"} {folder} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return Tab(project, folder)


# === What several files of tests use ==============================================================

PROVIDERS = ["digitalocean", "hetzner", "contabo"]
CREATE = {
    "digitalocean": "POST /do/droplets/{id}/actions",
    "hetzner": "POST /hz/servers/{id}/actions/create_image",
    "contabo": "POST /cb/compute/instances/{id}/snapshots",
}

POLL_AGAIN = {"digitalocean": "GET /do/droplets/{id}/actions/{aid}", "hetzner": "GET /hz/actions"}
TOKEN = "POST /cb-auth/token"
not_contabo = pytest.mark.parametrize("provider", ["digitalocean", "hetzner"])


def outside(clock: snapshots.Clock) -> snapshots.Runtime:
    redact = snapshots.Redactor()
    return snapshots.Runtime(clock, redact, snapshots.Screen(redact))


def a_server(name: str, id: str = "1", provider: str = "hetzner") -> snapshots.Server:
    """A server as its file tells of it, for what needs no more than its name."""
    return snapshots.Server(provider, id, name, policy=snapshots.Policy(2), credentials=())


def real_account(project: Project, owner: Account) -> snapshots.Account:
    """What the turns of an account share, with the real clock."""
    settings = snapshots.load_settings(project.write_config(), required=True)
    world = outside(snapshots.SystemClock())
    return snapshots.Account(world, owner.provider, [owner.token], settings)


def gaps(project: Project, route: str) -> list[float]:
    """The times between the requests of a route."""
    at = [r.monotonic for r in project.cloud.requests(route)]
    return [later - earlier for earlier, later in zip(at, at[1:])]
