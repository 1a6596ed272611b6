"""The command line as cron and people meet it: the real script, real processes, real files."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import fake_cloud as fake
import pytest
from conftest import TOP_KEYS, Project
from fake_cloud import FakeCloud, Server

import snapshots

SCRIPT = Path(snapshots.__file__).resolve()
CREATE = "POST /hz/servers/{id}/actions/create_image"


class Place:
    """A directory with a configuration for the real script, and a cloud with the real clock."""

    def __init__(self, folder: Path, cloud: FakeCloud) -> None:
        self.folder, self.cloud = folder, cloud
        self.token = "CANARY-hetzner-token-0123456789"
        self.account = cloud.add_account("hetzner", token=self.token)
        self.timing: dict[str, Any] = {"delay_between_servers": 0, "poll_interval": 0.2}
        self.extra = ""

    def server(self, id: int = 1, name: str = "web", **more: Any) -> Server:
        server = self.cloud.add_server(self.account, id, name, **more)
        content = {"id": id, "name": name, "retain_last_snapshots": 2, "api_token": self.token}
        path = self.folder / "configs" / f"{id}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({TOP_KEYS["hetzner"]: content}))
        path.chmod(0o600)
        return server

    def config(self) -> Path:
        path = self.folder / "snapshots.config"
        timing = "".join(f"{key} = {value}\n" for key, value in self.timing.items())
        api = "".join(f"{key} = {value}\n" for key, value in self.cloud.endpoints().items())
        path.write_text(f"[TIMING]\n{timing}[API]\n{api}[TELEGRAM]\nenabled = false\n{self.extra}")
        path.chmod(0o600)
        return path

    def start(self, *args: str, **more: Any) -> subprocess.Popen[str]:
        command = [sys.executable, str(SCRIPT), "--config", str(self.config()), *args]
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen(command, text=True, **more)

    def run(self, *args: str, **more: Any) -> tuple[int, str, str]:
        process = self.start(*args, **more)
        out, err = process.communicate(timeout=60)
        assert self.token not in (out or "") + (err or "")
        assert "Traceback" not in (out or "") + (err or "")
        return process.returncode, out, err

    def wait_for(self, route: str, count: int = 1) -> None:
        """Until the cloud has had so many of these requests."""
        for _ in range(2000):
            if self.cloud.count(route) >= count:
                return
            time.sleep(0.01)
        raise AssertionError(f"no {route}")

    @property
    def log(self) -> str:
        return (self.folder / "logs" / "snapshots.log").read_text(encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with FakeCloud() as cloud:
        yield Place(tmp_path, cloud)
        assert cloud.problems == []


# --- usage and help ---


def script(*args: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *args],
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
        **more,
    )


def test_help_shows_examples_and_exit_statuses() -> None:
    result = script("--help")
    assert (result.returncode, result.stderr) == (0, "")
    for status in snapshots.ExitStatus:
        assert f"\n  {status.value}  " in result.stdout
    assert "python snapshots.py -v" in result.stdout


def test_version() -> None:
    assert script("--version").stdout == f"snapshots {snapshots.__version__}\n"


@pytest.mark.parametrize("args", [["--nope"], ["-v", "-q"], ["--config"], ["--dry"]])
def test_wrong_usage_is_one_line_and_exit_1(args: list[str]) -> None:
    result = script(*args)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("snapshots: ")
    assert result.stderr.endswith("(see --help)\n")
    assert result.stderr.count("\n") == 1


def test_help_into_a_closed_pipe_and_a_full_disk_is_no_failure() -> None:
    command = f"{sys.executable} {SCRIPT} --help"
    run = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true"], check=False, capture_output=True
    )
    assert run.returncode in (0, 141)
    assert b"Traceback" not in run.stderr


def test_no_server_at_all_says_what_to_copy_where(place: Place) -> None:
    code, out, err = place.run()
    assert (code, out) == (1, "")
    assert "copy a configs/*.json.sample to configs/NAME.json and fill it in" in err
    assert err.count("\n") == 1


def test_a_configuration_problem_stops_the_run_before_anything(place: Place) -> None:
    place.server()
    place.timing["poll_intervall"] = 3
    code, out, err = place.run()
    assert (code, out) == (1, "")
    assert "unknown key, did you mean 'poll_interval'?" in err
    assert place.cloud.journal == []
    assert not (place.folder / "logs").exists()


# --- a run ---


def test_a_good_run_prints_one_line_and_with_q_none(place: Place) -> None:
    place.server()
    assert place.run() == (0, "SUMMARY: 1 succeeded, 0 failed out of 1 total\n", "")
    assert place.run("-q") == (0, "", "")
    assert place.log.count("SUMMARY: ") == 2


def test_with_v_the_log_is_shown_as_well(place: Place) -> None:
    place.server()
    code, out, err = place.run("-v")
    assert (code, err) == (0, "")
    assert out == place.log
    line = out.splitlines()[0]
    assert line[4] == line[7] == "-"
    assert line[19:33] == " | INFO     | "


def test_cron_has_no_environment_and_another_directory(place: Place) -> None:
    server = place.server(name="wéb-ü")
    code, _out, err = place.run("-v", env={"PATH": "/usr/bin:/bin", "HOME": "/"}, cwd="/")
    assert (code, err) == (0, "")
    assert place.cloud.names(server)[0].startswith("wéb-ü-")
    assert "wéb-ü" in place.log


def test_output_that_cannot_be_written_does_not_change_the_exit_code(place: Place) -> None:
    place.server()
    with open("/dev/full", "w") as full:
        process = place.start("-v", stdout=full, stderr=full)
        assert process.wait(60) == 0
    command = [sys.executable, str(SCRIPT), "--config", str(place.config()), "-v"]
    quoted = " ".join(command)
    run = subprocess.run(["bash", "-c", f"{quoted} >&- 2>&-"], check=False, timeout=60)
    assert run.returncode == 0
    run = subprocess.run(
        ["bash", "-c", f"{quoted} | true; exit ${{PIPESTATUS[0]}}"], check=False, timeout=60
    )
    assert run.returncode == 0
    assert len(place.cloud.created) == 3


def test_one_of_two_failing_is_2_and_all_failing_is_1(place: Place) -> None:
    place.server(1, "web", fails=True)
    place.server(2, "db")
    code, out, err = place.run()
    assert (code, out) == (2, "SUMMARY: 1 succeeded, 1 failed out of 2 total\n")
    assert err.startswith("snapshots: web: ")
    assert err.count("\n") == 1
    code, out, _ = place.run("1.json")
    assert (code, out) == (1, "SUMMARY: 0 succeeded, 1 failed out of 1 total\n")


def test_files_are_paths_or_names_in_configs_dir(place: Place) -> None:
    place.server(1, "web")
    place.server(2, "db")
    path = str(place.folder / "configs" / "2.json")
    assert place.run(path)[0] == 0
    assert place.run("2.json", path)[0] == 0
    assert place.run("configs/2.json", cwd=place.folder)[0] == 0
    code, _out, err = place.run("2.json", "nope.json")
    assert code == 2
    assert "nope.json: No such file or directory" in err
    assert {s.name.partition("-")[0] for s in place.cloud.created} == {"db"}


def test_the_log_is_made_for_its_owner_only_and_rotates(place: Place) -> None:
    place.server()
    place.extra = "[LOGGING]\nmax_bytes = 1000\nbackup_count = 2\n"
    for _ in range(3):
        assert place.run(preexec_fn=lambda: os.umask(0))[0] == 0
    logs = sorted(path.name for path in (place.folder / "logs").iterdir())
    assert logs[:3] == ["snapshots.lock", "snapshots.log", "snapshots.log.1"]
    for path in (place.folder / "logs").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("what", ["directory", "symlink", "fifo"])
def test_a_log_that_cannot_be_written_is_a_warning(place: Place, what: str) -> None:
    place.server()
    path = place.folder / "logs" / "snapshots.log"
    path.parent.mkdir()
    target = place.folder / "target"
    target.write_text("untouched")
    if what == "directory":
        path.mkdir()
    elif what == "symlink":
        path.symlink_to(target)
    else:
        os.mkfifo(path)
    code, _, err = place.run()
    assert code == 0
    assert err.startswith(f"snapshots: warning: {path}: cannot be written: ")
    assert target.read_text() == "untouched"
    assert len(place.cloud.created) == 1


def test_a_full_log_disk_is_one_warning(place: Place) -> None:
    place.server()
    place.extra = "[FILES]\nlog_file = /dev/full\n"
    code, _, err = place.run()
    assert code == 0
    assert err.count("warning") == 1


def test_levels_keep_out_details_but_never_the_lines_that_other_tools_read(place: Place) -> None:
    place.server()
    place.extra = "[LOGGING]\nlevel = ERROR\n"
    code, out, _ = place.run("-v")
    assert code == 0
    assert [line.split(" | ")[2].split(":")[0] for line in out.splitlines()] == [
        "FINAL_STATUS",
        "SUMMARY",
    ]


# --- the lock ---


def test_a_second_run_leaves_at_once_with_3_and_touches_nothing(place: Place) -> None:
    place.server(duration_seconds=3)
    first = place.start()
    place.wait_for(CREATE)
    requests = len(place.cloud.journal)
    began = time.monotonic()
    code, out, err = place.run("--quiet")
    assert time.monotonic() - began < 2.5
    assert (code, out) == (3, "")
    assert f"another run holds the lock: process {first.pid} since 20" in err
    assert not [r for r in place.cloud.journal[requests:] if r.method != "GET"]
    assert first.communicate(timeout=60)[0].startswith("SUMMARY: 1 succeeded")
    assert first.returncode == 0
    assert len(place.cloud.created) == 1


@pytest.mark.parametrize("content", [b"", b"999999 since 2020", b"\xff" * 4096, b"1\n"])
def test_a_stale_lock_file_is_no_lock(place: Place, content: bytes) -> None:
    place.server()
    path = place.folder / "logs" / "snapshots.lock"
    path.parent.mkdir()
    path.write_bytes(content)
    inode = path.stat().st_ino
    assert place.run()[0] == 0
    assert path.stat().st_ino == inode  # never removed: a third run could lock a new file


@pytest.mark.parametrize("what", ["directory", "symlink", "fifo", "missing directory", "device"])
def test_a_lock_that_is_no_regular_file_is_exit_1(place: Place, what: str) -> None:
    place.server()
    path = place.folder / "logs" / "snapshots.lock"
    path.parent.mkdir()
    target = place.folder / "target"
    target.write_text("untouched")
    if what == "directory":
        path.mkdir()
    elif what == "symlink":
        path.symlink_to(target)
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "device":
        place.extra = "[FILES]\nlock_file = /dev/null\n"
    else:
        path.parent.rmdir()
        path.parent.write_text("a file")
    code, _, err = place.run()
    assert code == 1
    assert "lock file" in err
    assert target.read_text() == "untouched"
    assert place.cloud.journal == []


def test_a_killed_run_leaves_no_lock_behind(place: Place) -> None:
    server = place.server(duration_seconds=1)
    first = place.start()
    place.wait_for(CREATE)
    first.kill()
    first.communicate()
    code, _, _ = place.run()
    assert code == 0
    assert len(place.cloud.names(server)) == 2  # the orphan is ours, and counts


def test_many_at_the_same_instant_are_one_run(place: Place) -> None:
    place.server(duration_seconds=2)
    runs = [place.start("-q") for _ in range(8)]
    codes = sorted(run.wait(60) for run in runs)
    for run in runs:
        run.communicate()
    assert codes == [0] + [3] * 7
    assert len(place.cloud.created) == 1


# --- signals ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_run_in_an_orderly_way(place: Place, number: signal.Signals) -> None:
    place.server(1, "web", duration_seconds=60)
    place.server(2, "db", duration_seconds=60)
    place.timing["max_parallel"] = 1
    place.extra = f"[WEBHOOK]\nenabled = true\nurl = {place.cloud.url}/hook/x\n"
    process = place.start()
    place.wait_for("GET /hz/actions")
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert process.returncode == 1
    assert f"web: interrupted by {number.name}; Hetzner may still finish it" in err
    assert f"db: interrupted by {number.name} before its turn" in err
    assert out == "SUMMARY: 0 succeeded, 2 failed out of 2 total\n"
    assert sorted(hook.json["server"] for hook in place.cloud.hooks) == ["db", "web"]
    assert place.cloud.deleted == []
    assert place.log.count("FINAL_STATUS") == 2


def test_a_second_signal_changes_nothing_for_the_worse(place: Place) -> None:
    place.server(1, "web", duration_seconds=60)
    process = place.start()
    place.wait_for("GET /hz/actions")
    for _ in range(5):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert place.log.count("FINAL_STATUS") == 1


def test_a_signal_inherited_as_ignored_stays_ignored(place: Place) -> None:
    place.server(duration_seconds=2)
    process = place.start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    place.wait_for(CREATE)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_signal_while_a_request_hangs_ends_soon_all_the_same(place: Place) -> None:
    place.server()
    place.cloud.fault(CREATE, fake.stall(25))
    process = place.start()
    time.sleep(0.8)
    place_began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - place_began < 12
    assert process.returncode == 1
    assert "interrupted by SIGTERM" in err


# --- dry run ---


def test_a_dry_run_reads_only_and_tells_each_reason(project: Project) -> None:
    for n, provider in enumerate(["digitalocean", "hetzner", "contabo"]):
        server = project.server(provider, 70 + n, f"s{n}", retain=2)
        project.history(server, 3)
        project.cloud.add_snapshot(server, "by hand", project.clock.now())
    result = project.run("--dry-run")
    assert result.code == 0
    assert not [
        r for r in project.cloud.journal if r.method != "GET" and r.route != "POST /cb-auth/token"
    ]
    assert not (project.folder / "logs").exists()
    for n in range(3):
        mine = [line for line in result.out.splitlines() if line.startswith(f"s{n}: ")]
        assert [line.split(" ")[2] for line in mine] == [
            "create",
            "keep",
            "delete",
            "delete",
            "leave",
        ]
        assert "among the newest 2" in mine[1]
        assert "beyond the newest 2" in mine[2]
        assert "not named as this tool names them" in mine[4]
    assert "(dry run: nothing was changed)" in result.out


def test_a_dry_run_foretells_what_the_run_then_does(project: Project) -> None:
    server = project.server("hetzner", 71, "web", retain=3, duration_seconds=30)
    project.history(server, 6)
    told = project.run("-n").out.splitlines()
    doomed = [line.split(" ")[3] for line in told if " would delete " in line]
    before = project.own(server)
    assert project.run().code == 0
    assert [name for name in before if name not in project.own(server)] == doomed


def test_a_dry_run_finds_a_wrong_server_and_exits_as_a_run(project: Project) -> None:
    project.server("hetzner", 71, "web")
    project.server("hetzner", 72, "db", file={"id": 99})
    result = project.run("-n")
    assert result.code == 2
    assert "db: cannot read server 99: HTTP 404 not_found" in result.err


# --- secrets ---


def test_an_unexpected_error_is_one_line_and_its_traceback_is_in_the_log(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock breaks in the middle of a turn: nothing that the program foresees."""
    server = project.server("hetzner", 71, "web", duration_seconds=30)
    project.server("hetzner", 72, "db", duration_seconds=30)
    old = project.history(server, 2)

    def explode(self: Any, name: str) -> str:
        raise ZeroDivisionError(f"with {project.account('hetzner').token}")

    project.cloud.fault("GET /hz/actions", fake.edit(lambda c: c))
    monkeypatch.setattr(snapshots.Hetzner, "_progress", explode)
    result = project.run()
    assert result.code == 1
    assert "unexpected ZeroDivisionError: with [hidden] (a bug: see the log)" in result.err
    assert "Traceback" in result.log
    assert project.own(server)[:2] == old


def test_short_secrets_are_masked_where_they_are_used_and_warned_about(project: Project) -> None:
    account = project.cloud.add_account("hetzner", token="abc1")
    project.cloud.add_server(account, 71, "web")
    content = {"id": 71, "name": "web", "retain_last_snapshots": 1, "api_token": "abc1"}
    project.write("x.json", {"hetzner_cloud_server": content})
    project.cloud.fault(
        CREATE,
        fake.status(400, json={"error": {"code": "json_error", "message": "bad abc1 thing"}}),
        times=None,
    )
    result = project.run()
    assert "a credential is shorter than 8 characters" in result.err
    assert "bad [hidden] thing" in result.err


@pytest.mark.parametrize(
    "text",
    [
        "dop_v1_0123456789abcdef0123",
        "https://api.telegram.org/bot123456:AAF-abcdefghijklmnopqrstuv/sendMessage",
        "Authorization: Bearer abcdef",
        "token eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl",
        "proxy http://me:secretword@proxy:3128",
    ],
)
def test_what_looks_like_a_credential_is_masked_though_nobody_named_it(text: str) -> None:
    masked = snapshots.Redactor()(text)
    assert snapshots.MASK in masked
    for word in ("0123456789abcdef", "AAF-", "abcdef\n", "c2lnbmF0", "secretword"):
        assert word not in masked + "\n"


def test_a_credential_is_masked_in_every_form() -> None:
    from conftest import forms_of

    secret = 'pa"ss/wo%rd+ü{}long'
    redact = snapshots.Redactor()
    redact.add(secret)
    forms = forms_of(secret)
    texts = [
        secret,
        quote(secret),
        quote_plus(secret),
        json.dumps(secret),
        repr(secret),
        secret.encode().hex(),
    ]
    for before in (b"", b"1", b"12", b"\0user\0"):
        for after in (b"", b"1", b"12"):
            texts.append(base64.b64encode(before + secret.encode() + after).decode())
    for text in texts:
        assert any(form in text for form in forms)
        assert not any(form in redact(f"x{text}y") for form in forms), text
