"""Whatever stands in a file, an answer, an argument or the environment: a clear end, and no harm.

Good input is taken and spoilt in a few places, for pure noise is refused at the first gate. How
many examples are tried is in SNAPSHOTS_EXAMPLES; tests/tools/soak.sh tries many thousands.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import fakes as fake
import pytest
from conftest import EXAMPLES, Project, examples
from fakes import FakeCloud, Server
from fakes.clock import FakeClock
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_stateful import Output

import snapshots

many = examples(30)

PROVIDERS = ("digitalocean", "hetzner", "contabo")
RETAIN, NIGHTS = 2, 3
# None of them is an id, a name or a date that the clouds below know: a server that lies within
# its own rules, as one that gives a stranger's snapshot our name and our server, cannot be seen
# through by any client.
STRANGE_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.5, 10**30, -(10**30), float("nan"), float("inf")),
    *("", " ", "x", "10", "../droplets/1", "1?x", "1#", "%s%n{0}{x.__class__}", "a\r\nb: c"),
    *("\x1b[31m\x07", "\0", "\ud800", "\u202eabc", "٣", "A" * 20_000, "true", "null"),
    *("2019-02-03", "2019-02-03T03:00:00", "9999-12-31T23:59:59+14:00", "1970-01-01T00:00:00Z"),
    *([], {}, [[]], [None], {"": None}, [{"id": 1}], {"code": None, "message": {}}),
]
ENDPOINTS = [  # all but the single read of a droplet's snapshot, which takes a fleet: test_fleet.py
    "POST /do/droplets/{id}/actions",
    "GET /do/actions",
    "GET /do/droplets/{id}/actions/{aid}",
    "GET /do/droplets/{id}/actions",
    "GET /do/droplets/{id}/snapshots",
    "GET /do/snapshots",
    "GET /do/droplets/{id}",
    "DELETE /do/snapshots/{id}",
    "POST /hz/servers/{id}/actions/create_image",
    "GET /hz/actions",
    "GET /hz/servers/{id}/actions",
    "GET /hz/images",
    "GET /hz/images/{id}",
    "GET /hz/servers/{id}",
    "DELETE /hz/images/{id}",
    "POST /cb-auth/token",
    "POST /cb/compute/instances/{id}/snapshots",
    "GET /cb/compute/instances/{id}/snapshots",
    "GET /cb/compute/snapshots/audits",
    "GET /cb/compute/instances/{id}",
    "DELETE /cb/compute/instances/{id}/snapshots/{sid}",
    "POST /tg/sendMessage",
    "POST /hook",
]
STRANGE_TEXTS = [value for value in STRANGE_VALUES if isinstance(value, str)] + [
    *("1e400", "nan", "inf", "-1", "99999999999999999999", "0x10", "env:NO_SUCH", "file:none"),
]


# === Spoiling ==================================================================================


@st.composite
def spoilers(draw: st.DrawFn) -> Callable[[Any], Any]:
    """A function that spoils a JSON value in one place; its choices shrink towards the root."""
    steps = draw(st.lists(st.integers(0, 30), max_size=6))
    how = draw(st.sampled_from(["replace", "remove", "double", "rename"]))
    value = draw(st.sampled_from(STRANGE_VALUES))

    def spoil(content: Any) -> Any:
        content = copy.deepcopy(content)
        parent: Any = None
        key: Any = None
        place = content
        for step in steps:
            if not isinstance(place, (dict, list)) or not place:
                break
            parent = place
            key = (sorted(place) if isinstance(place, dict) else range(len(place)))[
                step % len(place)
            ]
            place = place[key]
        if parent is None:
            return value
        if how == "replace":
            parent[key] = value
        elif how == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.insert(key, copy.deepcopy(place))
        else:
            parent[str(value)[:50]] = parent.pop(key) if how == "rename" else place
        return content

    spoil.__name__ = f"{how} at {steps} {value!r:.40}"
    return spoil


@st.composite
def spoilt_text(draw: st.DrawFn, good: str) -> bytes:
    """A text with some of its lines and bytes changed."""
    lines = good.splitlines()
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        how = draw(st.sampled_from(["value", "remove", "double", "key", "insert"]))
        text = draw(st.sampled_from(STRANGE_TEXTS) | st.text(max_size=12))
        name, sign, _ = lines[at].partition("=")
        if how == "value" and sign:
            lines[at] = f"{name}= {text}"
        elif how == "remove" and len(lines) > 1:
            del lines[at]
        elif how == "double":
            lines.insert(at, lines[at])
        elif how == "key" and sign:
            lines[at] = text + lines[at][len(name) :]
        elif how == "insert":
            lines.insert(at, text)
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    raw = "\n".join(lines).encode(encoding, "replace")
    if draw(st.booleans()):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=3)) + raw[at + draw(st.integers(0, 3)) :]
    return raw


def answer(code: int, act: bool, **more: Any) -> fake.Fault:
    """With any status; those that say by themselves that nothing was done are believed."""
    return fake.status(code, act=act and code not in (401, 402, 425, 429), **more)


HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "RateLimit-Remaining", "Location", "Content-Type", "Date"]),
    st.sampled_from(
        [
            *("0", "1", "-1", "7.5", "99999999999999999999", "soon", "1_0", ""),
            *("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 32 Foo 9999 99:99:99", "http://127.0.0.1:9/"),
        ]
    ),
    max_size=2,
)
BODIES = st.sampled_from([b"", b"<html>", b"null", b"[]", b"{}", b'"x"', b"{", b"\xff", b"NaN"])
FAULTS = st.one_of(
    spoilers().map(fake.edit),
    spoilers().map(fake.edit),
    st.builds(
        answer,
        st.integers(200, 599),
        headers=HEADERS,
        body=BODIES | st.binary(max_size=30),
        act=st.booleans(),
    ),
    st.builds(fake.hang_up, act=st.booleans(), when=st.sampled_from(["before", "headers", "body"])),
    st.just(fake.truncated()),
)


# === A night ===================================================================================


class Night:
    """One server at each provider, all channels, and snapshots that are nobody's business.

    more: two servers at each provider but Contabo. full: at Contabo all slots are, and the oldest
    may go first.
    """

    file_is_spoilt = False

    def __init__(
        self,
        folder: Path,
        cloud: FakeCloud,
        clock: FakeClock,
        *,
        more: bool,
        full: bool,
        parallel: int,
    ) -> None:
        self.cloud, self.clock, self.output = cloud, clock, Output()
        self.project = Project(folder, cloud, clock, self.output)  # type: ignore[arg-type]
        self.servers: list[Server] = []
        providers = [*PROVIDERS, *(("digitalocean", "hetzner") if more else ())]
        for number, provider in enumerate(providers, 4711):
            server = self.project.server(
                provider,
                number,
                f"s{number}",
                RETAIN,
                duration_seconds=20,
                slots=NIGHTS + 2 if full else 9,
                file={"replace_when_full": True} if full and provider == "contabo" else {},
            )
            self.project.history(server, NIGHTS)
            self.servers.append(server)
        self.own_before = {s.id for s in cloud.snapshots()}
        for server in self.servers:
            for name in ("by hand", f"{server.name}-20250101"):
                cloud.add_snapshot(server, name, clock.now())
        self.foreign = {s.id for s in cloud.snapshots()} - self.own_before
        token = self.project.token("bot").replace("%2F/+", "")
        self.project.canaries.add(token)
        hook = f"{cloud.url}/hook/{self.project.token('hook')}"
        cloud.add_bot(token, ("123",))
        self.project.config = {
            "API": cloud.endpoints(),
            "TIMING": {"delay_between_servers": 0, "http_timeout": 1, "max_parallel": parallel},
            "TELEGRAM": {"bot_token": token, "chat_id": "123", "timeout": 1},
            "WEBHOOK": {"enabled": "true", "url": hook, "timeout": 1},
            "SMTP": {"enabled": "false", "server": "127.0.0.1", "to_emails": "ops@example.org"},
        }
        self.project.write_config()

    @property
    def config(self) -> Path:
        return self.project.folder / "snapshots.config"

    def run(self, *arguments: str) -> int:
        """The real main; whatever it is given, these hold."""
        began = self.clock.monotonic()
        with (
            contextlib.redirect_stdout(self.output.out),
            contextlib.redirect_stderr(self.output.err),
        ):
            code = int(snapshots.main(list(arguments), self.clock))
        captured = self.output.readouterr()
        self.project.printed += [captured.out, captured.err]
        check_text(code, captured.out, captured.err)
        assert not self.clock.stuck
        assert self.clock.monotonic() - began < 200_000  # all limits of a run, summed up
        leaks = self.project.leaks()
        if self.file_is_spoilt:
            leaks = [leak for leak in leaks if not self.is_where_the_file_says(leak)]
        assert leaks == []
        self.check_cloud()
        return code

    def is_where_the_file_says(self, leak: str) -> bool:
        """A hook's path is a credential, and goes to whatever address the file has now; and one
        text may stand there as the bot's token and as the chat's number, which is told."""
        text = self.config.read_bytes().decode("utf-8", "replace")
        chats = re.findall(r"^\s*chat_id\s*[=:]\s*(\S.*?)\s*$", text, re.MULTILINE)
        of_a_chat = any(leak.startswith(f"{chat[:12]}...") for chat in chats)
        return leak.endswith("in a request's path") or (
            of_a_chat and leak.endswith("in the body of POST tg")
        )

    @property
    def lied_to(self) -> bool:
        """Were answers to reads spoilt in what they say?"""
        return any(r.fault and r.fault.kind == "edit" for r in self.cloud.requests("GET *"))

    def check_cloud(self) -> None:
        present = {s.id for s in self.cloud.snapshots()}
        assert self.foreign <= present
        for server in self.servers:
            made = [s for s in self.cloud.created if s.server is server]
            # a look that is lied to may show that a lost create was not carried out
            assert len(made) <= (2 if self.lied_to else 1)
            own = [s for s in self.cloud.snapshots(server) if s.id not in self.foreign]
            usable = [s for s in own if s.status == "available"]
            assert len(usable) >= RETAIN

    def all_done(self) -> bool:
        """Has each server one new snapshot, and as many as it keeps?"""
        own = [
            [s for s in self.cloud.snapshots(server) if s.id not in self.foreign]
            for server in self.servers
        ]
        return len(self.cloud.created) == len(self.servers) and all(
            len(snaps) == RETAIN and snaps[-1] in self.cloud.created for snaps in own
        )


def check_text(code: int, out: str, err: str) -> None:
    """What holds for whatever is printed."""
    assert code in (0, 1, 2, 3)
    assert "Traceback" not in out + err
    assert "(a bug" not in out + err
    for line in err.splitlines():
        assert line.startswith("snapshots: "), line
    for character in set(out + err) - {"\n"}:
        assert unicodedata.category(character) not in ("Cc", "Cf", "Cs"), repr(character)
    assert code == 0 or err


@contextlib.contextmanager
def night(
    *, more: bool = False, full: bool = False, parallel: int = 10, per_page: int = 200
) -> Iterator[Night]:
    """Far from everything: deep in a directory of its own, and with no way to the network.

    per_page: where listings have many pages, single reads take their place.
    """
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary) / "a" / "b"
        folder.mkdir(parents=True)
        clock = FakeClock()
        cloud = stack.enter_context(FakeCloud(clock))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for provider in (snapshots.DigitalOcean, snapshots.Hetzner):
            patch.setattr(provider, "PER_PAGE", min(per_page, provider.PER_PAGE))
        stack.enter_context(environment(https_proxy="http://127.0.0.1:9", no_proxy="127.0.0.1"))
        yield Night(folder, cloud, clock, more=more, full=full, parallel=parallel)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """os.environ with these; as it was afterwards."""
    before = dict(os.environ)
    os.environ.update(values)
    time.tzset()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        time.tzset()


# === What is tried =============================================================================


@many
@given(st.data())
def test_any_configuration_is_used_or_refused(data: st.DataObject) -> None:
    with night() as made:
        good, rest = made.config.read_text(encoding="utf-8").split("[TIMING]")
        good, api = "[TIMING]" + rest, good  # a credential is at home at the addresses as they are
        sample = (Path(snapshots.__file__).parent / "snapshots.config.sample").read_text("utf-8")
        text = good + sample.replace("[", "#[") if data.draw(st.booleans()) else good
        made.file_is_spoilt = True
        made.config.write_bytes(data.draw(spoilt_text(text)) + b"\n" + api.encode())
        if made.run("--config", str(made.config)) == 0:
            assert len(made.cloud.created) == len(made.servers)


@many
@given(st.sampled_from(PROVIDERS), st.lists(spoilers(), max_size=3), st.data())
def test_any_server_file_is_used_or_refused(
    provider: str, spoil: list[Callable[[Any], Any]], data: st.DataObject
) -> None:
    with night() as made:
        path = next((made.project.folder / "configs").glob(f"{provider}*.json"))
        content = json.loads(path.read_text(encoding="utf-8"))
        inner = next(iter(content.values()))
        inner.update(
            telegram={"chat_id": "123", "message_failure": "{error}"},
            webhook={"payload_success": {"text": ["{server_name}"]}},
            smtp={"enabled": False, "to_emails": ["ops@example.org"]},
        )
        for change in spoil:
            content = change(content)
        text = json.dumps(content, indent=1)
        raw = data.draw(spoilt_text(text)) if data.draw(st.booleans()) else text.encode()
        path.write_bytes(raw)
        code = made.run("--config", str(made.config))
        assert code in (0, 2)  # the others never suffer
        assert len(made.cloud.created) >= len(made.servers) - 1


@pytest.mark.proves("I1", "I11", "I18")
@many
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["*", "GET", "POST", "DELETE", *ENDPOINTS]),
            FAULTS,
            st.integers(1, 4),
            st.integers(0, 9),
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
    st.sampled_from([1, 2, 10]),
    st.sampled_from([2, 200]),
    st.booleans(),
)
def test_any_answer_is_survived(
    faults: list[tuple[str, fake.Fault, int, int]],
    full: bool,
    parallel: int,
    per_page: int,
    dry: bool,
) -> None:
    with night(more=True, full=full, parallel=parallel, per_page=per_page) as made:
        for method, fault, times, skip in faults:
            waiting = [skip]

            def due(_: object, waiting: list[int] = waiting) -> bool:
                waiting[0] -= 1
                return waiting[0] < 0

            made.cloud.fault(method, fault, times=times, when=due)
        code = made.run("--config", str(made.config), *(["-n"] if dry else []))
        if dry:
            assert (made.cloud.created, made.cloud.deleted) == ([], [])
        elif code == 0 and not made.lied_to:
            assert made.all_done()


def test_every_endpoint_is_reached_by_some_of_these_nights() -> None:
    """Else spoiling its answers would prove nothing."""
    reached: set[str] = set()
    for full, parallel, per_page in itertools.product([False, True], [1, 2, 10], [2, 200]):
        for arguments in ([], ["-n"]):
            with night(more=True, full=full, parallel=parallel, per_page=per_page) as made:
                for route in ("POST /do*", "POST /hz*", "POST /cb/*") if per_page > 2 else ():
                    made.cloud.fault(route, fake.hang_up(act=full))
                made.run("--config", str(made.config), *arguments)
                reached |= {request.route for request in made.cloud.journal}
    assert sorted(set(ENDPOINTS) - reached) == []


WORDS = st.sampled_from(
    [
        *("-v", "-q", "-n", "--dry-run", "--verbose", "--quiet", "--help", "-h", "--version"),
        *("--verb", "--conf", "--config=", "-x", "--", "", "-", "web.json", "hetzner-4712.json"),
        *(
            "contabo-4713.json",
            "configs",
            ".",
            "..",
            "nothing.json",
            "snapshots.config",
            "ä\u202e",
            "\udcff.json",
        ),
    ]
)


@pytest.mark.proves("I25")
@many
@given(
    st.lists(
        WORDS
        | st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), max_size=8),
        max_size=5,
    )
)
def test_any_arguments_have_a_clear_answer(arguments: list[str]) -> None:
    with night() as made:
        if "--" not in arguments:
            arguments = [*arguments, "--config", str(made.config)]
        else:
            arguments = ["--config", str(made.config), *arguments]
        flags = set(itertools.takewhile(lambda word: word != "--", arguments))  # then: files
        told_only = {"-h", "--help", "--version"} & flags
        code = made.run(*arguments)
        if {"-n", "--dry-run"} & flags:
            assert (made.cloud.created, made.cloud.deleted) == ([], [])
        assert not told_only or code in (0, 1)


VARIABLES = st.dictionaries(
    st.sampled_from(
        [
            *("TZ", "COLUMNS", "LINES", "TERM", "NO_COLOR", "NETRC", "HOME", "TMPDIR", "USER"),
            *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "all_proxy", "ftp_proxy"),
        ]
    ),
    st.sampled_from(
        ["", "0", "-5", "/nowhere", "x", "Europe/Berlin", "UTC+99", ":", "ä", "A" * 99]
    ),
    max_size=4,
)


@many
@given(VARIABLES)
def test_any_environment_serves(variables: dict[str, str]) -> None:
    with night() as made, environment(**variables):
        code = made.run("--config", str(made.config))
        if "all_proxy" not in variables:  # it may be one that takes everything
            assert code == 0
            assert made.all_done()


@settings(max_examples=max(3, EXAMPLES // 100))
@given(
    VARIABLES,
    st.dictionaries(
        st.sampled_from(["LANG", "LC_ALL", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONWARNINGS"]),
        st.sampled_from(["", "0", "1", "C", "POSIX", "de_DE.ISO-8859-1", "ascii:strict", "utf-16"]),
        max_size=3,
    ),
)
def test_any_environment_of_the_interpreter_serves(
    variables: dict[str, str], interpreter: dict[str, str]
) -> None:
    """These are read before the script begins; the interpreter itself refuses some of them."""
    with tempfile.TemporaryDirectory() as folder, FakeCloud() as cloud:
        project = Project(Path(folder), cloud, None, None)  # type: ignore[arg-type]
        project.config = {
            "API": cloud.endpoints(),
            "TIMING": {"poll_interval": 0.1},
            "TELEGRAM": {"enabled": "false"},
        }
        project.server("hetzner", 4711, "wéb")
        environ = {
            "PATH": os.environ["PATH"],
            "no_proxy": "127.0.0.1",  # an unusable proxy costs two minutes, not the run
            **variables,
            **interpreter,
        }

        def python(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, *arguments],
                env=environ,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=60,
                check=False,
            )

        bare = python("-c", "")
        assume(bare.returncode == 0 and not bare.stderr)  # else no Python starts with these
        run = python(snapshots.__file__, "--config", str(project.write_config()))
        assert (run.returncode, run.stderr) == (0, "")
        assert "Traceback" not in run.stdout
        assert len(cloud.created) == 1
