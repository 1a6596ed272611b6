"""The command line as cron and people meet it: the real script, real processes, real files."""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import glob
import html
import json
import logging
import os
import pty
import re
import resource
import shutil
import signal
import ssl
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Optional
from urllib.parse import quote, quote_plus
from xml.sax import saxutils

import fakes as fake
import pyte
import pytest
import requests
import trustme
from conftest import CREATE as CREATES
from conftest import TOP_KEYS, Project
from fakes import FakeCloud, Server
from fakes.clock import Shifted
from fakes.mail import HttpsServer
from test_crash import fleet, start
from test_faults import CREATE as ANY_CREATE

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

    def server(self, id: int = 1, name: str = "web", retain: int = 2, **more: Any) -> Server:
        server = self.cloud.add_server(self.account, id, name, **more)
        content = {"id": id, "name": name, "retain_last_snapshots": retain}
        content["api_token"] = self.token
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

    def command(self, *args: str) -> list[str]:
        return [sys.executable, str(SCRIPT), "--config", str(self.config()), *args]

    def start(self, *args: str, before: Sequence[str] = (), **more: Any) -> subprocess.Popen[str]:
        """before: a command that runs the script, as `env` would."""
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen([*before, *self.command(*args)], text=True, **more)

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

    def hold(self) -> threading.Event:
        """The next request is not answered before this is set: so long its run goes on."""
        event = threading.Event()

        def wait() -> None:
            event.wait(25)

        self.cloud.stop_at(len(self.cloud.journal) + 1, wait)
        return event

    @property
    def log(self) -> str:
        return (self.folder / "logs" / "snapshots.log").read_text(encoding="utf-8")

    def logs(self) -> Path:
        """The directory of log and lock, made as the first run would make it."""
        path = self.folder / "logs"
        path.mkdir(mode=0o700, exist_ok=True)
        return path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with FakeCloud() as cloud:
        yield Place(tmp_path, cloud)
        assert cloud.problems == []


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system of its own at a directory, with tmpfs's options."""
    mounted: list[Path] = []

    def do(folder: Path, options: str) -> Path:
        if os.geteuid() != 0 or shutil.which("mount") is None:
            pytest.skip("only root may mount a file system")
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield do
    for number, folder in enumerate(mounted):
        shutil.copytree(folder, tmp_path / f"was-mounted-{number}")  # for the scan for leaks
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def powerless(tmp_path: Path) -> list[str]:
    """Begins a command for which permissions count though root gives it."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed, and for root permissions do not count")
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]
    closed = tmp_path / "closed"
    closed.touch(mode=0)
    done = subprocess.run([*command, "cat", str(closed)], capture_output=True, check=False)
    if done.returncode == 0:
        pytest.skip("root cannot be made to heed permissions here")
    return command


def give_away(path: Path) -> None:
    """Make it somebody else's, or as good as that."""
    path.chmod(0)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
        path.chmod(0o700 if path.is_dir() else 0o600)


def make_full(folder: Path) -> None:
    """Fill a file system to its last byte."""
    with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"#" * 512)


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


@pytest.mark.proves("D-12", "C12")
@pytest.mark.parametrize("args", [["--nope"], ["-v", "-q"], ["--config"], ["--dry"]])
def test_wrong_usage_is_one_line_and_exit_1(args: list[str]) -> None:
    result = script(*args)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("snapshots: ")
    assert result.stderr.endswith("see --help)\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.proves("C12")
@pytest.mark.parametrize(
    ("slip", "flag"),
    [
        ("--chek", "--check"),
        ("--instal-cron", "--install-cron"),
        ("list", "--list"),
        ("help", "--help"),
        ("test-notifications", "--test-notifications"),
    ],
)
def test_a_slip_is_no_run_of_a_file_and_says_what_was_meant(slip: str, flag: str) -> None:
    result = script(slip)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.endswith(f", did you mean '{flag}'? (see --help)\n")


@pytest.mark.proves("D-11", "C12")
@pytest.mark.parametrize("where", ["| true", "> /dev/full", ">&-", ">&- 2>&-"])
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_that_cannot_be_shown_is_no_failure(flag: str, where: str) -> None:
    command = f"{sys.executable} {SCRIPT} {flag} {where}; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", command], check=False, capture_output=True, timeout=60)
    assert run.returncode == 0
    assert b"Traceback" not in run.stderr


@pytest.mark.proves("D-2")
def test_no_server_at_all_says_what_to_copy_where(place: Place) -> None:
    code, out, err = place.run()
    assert (code, out) == (1, "")
    assert (
        "(write --setup, or copy a configs/*.json.sample to configs/NAME.json and fill it in)"
        in err
    )
    assert err.count("\n") == 1


@pytest.mark.proves("C2")
def test_a_configuration_problem_stops_the_run_before_anything(place: Place) -> None:
    place.server()
    place.timing["poll_intervall"] = 3
    code, out, err = place.run()
    assert (code, out) == (1, "")
    assert "unknown key, did you mean 'poll_interval'?" in err
    assert place.cloud.journal == []
    assert not (place.folder / "logs").exists()


# --- a run ---


@pytest.mark.proves("Q6")
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


CRON = {"PATH": "/usr/bin:/bin", "HOME": "/"}


@pytest.mark.proves("C13", "C14")
@pytest.mark.parametrize(
    "environment",
    [
        CRON,
        {**CRON, "LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {**CRON, "PYTHONIOENCODING": "ascii"},
        {**CRON, "TZ": "Foo/Bar"},
        {**CRON, "TZ": ":/etc/passwd"},
        {**CRON, "TZ": ""},
        {},
    ],
    ids=["cron", "C locale", "ASCII", "no such zone", "zone that is no zone", "no zone", "nothing"],
)
def test_cron_has_another_environment_and_directory(
    place: Place, environment: dict[str, str]
) -> None:
    server = place.server(name="wéb-ü", retain=1)
    for _ in range(2):
        code, out, err = place.run(
            "-v", env=environment, cwd="/", stdin=subprocess.DEVNULL, start_new_session=True
        )
        assert (code, err) == (0, "")
        assert "FINAL_STATUS" in out  # the line has the name in it
    (name,) = place.cloud.names(server)  # the first has been known again as ours
    assert name.startswith("wéb-ü-")
    assert "wéb-ü" in place.log


@pytest.mark.proves("C13")
def test_stray_descriptors_and_none_for_input_are_no_obstacle(place: Place) -> None:
    place.server()
    stray = [os.open(os.devnull, os.O_RDWR) for _ in range(20)]
    code, out, err = place.run(pass_fds=stray, preexec_fn=lambda: os.close(0))
    for descriptor in stray:
        os.close(descriptor)
    assert (code, out, err) == (0, "SUMMARY: 1 succeeded, 0 failed out of 1 total\n", "")


def help_among_packages(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """--help, where a directory's packages come before those installed, or with -S instead."""
    return subprocess.run(
        [sys.executable, *flags, str(SCRIPT), "--help"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.mark.proves("C15")
@pytest.mark.parametrize("missing", ["requests", "urllib3", "dateutil"])
def test_a_missing_package_is_one_line_that_names_it(tmp_path: Path, missing: str) -> None:
    for path in Path(requests.__file__).parent.parent.iterdir():  # all that is installed but one
        if path.name != missing:
            (tmp_path / path.name).symlink_to(path)
    result = help_among_packages(tmp_path, "-S")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"snapshots: the Python package '{missing}' is missing for {sys.executable}"
        f" (run it with .venv/bin/python, or: {sys.executable} -m pip install -r requirements.txt)\n"
    )


def test_what_packages_say_of_each_others_versions_is_not_printed_in_each_run(
    place: Place, tmp_path: Path
) -> None:
    """It is of no consequence here, and cron would send a mail of it every night."""
    place.server()
    (tmp_path / "chardet.py").write_text("__version__ = '99.0.0'")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert place.run(env=env) == (0, "SUMMARY: 1 succeeded, 0 failed out of 1 total\n", "")


BROKEN = {
    "urllib3": "ImportError('urllib3 v2 only supports OpenSSL 1.1.1+,\\ncurrently ...')",
    "requests": "ImportError(\"cannot import name 'X' from 'urllib3.util.ssl_'\", name=\"urllib3.util\")",
    "dateutil": "AttributeError('module has no attribute X')",
    "ssl": "ImportError('libssl.so.1.1: cannot open shared object file')",
    "idna": "ModuleNotFoundError(\"No module named '_ssl'\", name='_ssl')",
}


@pytest.mark.proves("C15", "wild-12.3")
@pytest.mark.parametrize("package", BROKEN)
def test_a_package_that_does_not_work_is_one_line_that_says_why(
    tmp_path: Path, package: str
) -> None:
    """It is there, but does not fit this Python, this OpenSSL, or another package."""
    (tmp_path / f"{package}.py").write_text(f"raise {BROKEN[package]}")
    result = help_among_packages(tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    begin = f"snapshots: a package does not work with {sys.executable}: {BROKEN[package].split('(')[0]}: "
    end = " (python -m pip install --upgrade -r requirements.txt, or use another Python)\n"
    assert result.stderr.startswith(begin)
    assert result.stderr.endswith(end)
    assert "\n" not in result.stderr[len(begin) : -len(end)].strip()


PYENV = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
OLD_PYTHONS = [
    *glob.glob(f"{PYENV}/versions/3.[78].*/bin/python"),
    *glob.glob("/usr/bin/python3.[78]"),
]


@pytest.mark.proves("C15")
@pytest.mark.skipif(not OLD_PYTHONS, reason="no Python 3.7 or 3.8 is installed")
@pytest.mark.parametrize("python", OLD_PYTHONS)
def test_a_python_that_is_too_old_says_so_in_one_line(python: str) -> None:
    result = subprocess.run([python, str(SCRIPT)], text=True, capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("snapshots: Python 3.9 or newer is needed, this is 3.")
    assert result.stderr.count("\n") == 1


@pytest.mark.proves("D-11", "W8")
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


@pytest.mark.parametrize("look", [["--list"], ["--status"], ["--check"], ["--list", "--json"]])
def test_a_look_that_cannot_be_shown_is_exit_1(place: Place, look: list[str]) -> None:
    """Its output may be all that a script keeps of it, in a file on a disk that is full."""
    server = place.server()
    place.cloud.add_snapshot(server, "web-20260101000000", datetime.now(timezone.utc))
    with open("/dev/full", "w") as full:
        process = place.start(*look, stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == "snapshots: stdout: cannot be written: No space left on device\n"


def test_one_of_two_failing_is_2_and_all_failing_is_1(place: Place) -> None:
    place.server(1, "web", fails=True)
    place.server(2, "db")
    code, out, err = place.run()
    assert (code, out) == (2, "SUMMARY: 1 succeeded, 1 failed out of 2 total\n")
    assert err.startswith("snapshots: web: ")
    assert err.count("\n") == 1
    code, out, _ = place.run("1.json")
    assert (code, out) == (1, "SUMMARY: 0 succeeded, 1 failed out of 1 total\n")


@pytest.mark.proves("D-3", "C7")
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


def test_a_closed_log_stays_closed_though_a_late_thread_writes(tmp_path: Path) -> None:
    """One that hangs when the run ends, and wakes up before the process is gone."""
    path = tmp_path / "snapshots.log"
    screen = snapshots.Screen(snapshots.Redactor())
    handler = snapshots.LogFile(path, snapshots.Logging(), screen)
    handler.handle(logging.makeLogRecord({"msg": "in time"}))
    handler.close()
    handler.handle(logging.makeLogRecord({"msg": "late"}))
    assert handler.stream is None
    assert path.read_text() == "in time\n"


@pytest.mark.proves("W9")
def test_the_log_is_made_for_its_owner_only_and_rotates(place: Place) -> None:
    place.server()
    place.extra = "[LOGGING]\nmax_bytes = 1000\nbackup_count = 9\n"
    for _ in range(3):
        assert place.run(preexec_fn=lambda: os.umask(0))[0] == 0
    written = "".join(path.read_text() for path in (place.folder / "logs").glob("*.log*"))
    assert written.count(" | SUMMARY: 1 succeeded") == written.count(" begins: 1 server\n") == 3
    logs = sorted(path.name for path in (place.folder / "logs").iterdir())
    assert logs[:4] == ["history.db", "snapshots.lock", "snapshots.log", "snapshots.log.1"]
    for path in (place.folder / "logs").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert (place.folder / "logs").stat().st_mode & 0o777 == 0o700


@pytest.mark.proves("W4")
@pytest.mark.parametrize("what", ["directory", "symlink", "symlink to nowhere", "fifo"])
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
    elif what == "symlink to nowhere":
        path.symlink_to(place.folder / "nowhere")
    else:
        os.mkfifo(path)
    code, _, err = place.run()
    assert code == 0
    assert err.startswith(f"snapshots: warning: {path}: cannot be written: ")
    assert target.read_text() == "untouched"
    assert not (place.folder / "nowhere").exists()
    assert len(place.cloud.created) == 1


@pytest.mark.proves("W4")
def test_a_log_that_is_a_device_is_one_warning(place: Place) -> None:
    place.server()
    place.extra = "[FILES]\nlog_file = /dev/full\n"
    code, _, err = place.run()
    assert code == 0
    assert (
        err == "snapshots: warning: /dev/full: cannot be written: not a regular file of its own\n"
    )


@pytest.mark.proves("wild-13.5")
def test_no_number_of_accounts_uses_up_the_descriptors(place: Place) -> None:
    """Who is done with an account needs its connections no more."""
    (place.folder / "configs").mkdir()
    for number in range(1, 41):
        token = f"{place.token}-{number}"
        hetzner = place.cloud.add_account("hetzner", token=token)
        contabo = place.cloud.add_account("contabo", api_user=f"user-{number}@example.org")
        keys = ("client_id", "client_secret", "api_user", "api_password")
        for account, credentials in (
            (hetzner, {"api_token": token}),
            (contabo, {key: getattr(contabo, key) for key in keys}),
        ):
            place.cloud.add_server(account, number)
            content = {"id": number, "name": "web", "retain_last_snapshots": 2, **credentials}
            path = place.folder / "configs" / f"{account.provider}-{number}.json"
            path.write_text(json.dumps({TOP_KEYS[account.provider]: content}))
            path.chmod(0o600)
    limits = (40, 40)
    few = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits)}
    code, _, err = place.run("-n", **few)
    assert (code, err) == (0, "")


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


NO_MORE_ROOM = {
    "full disk": (errno.ENOSPC, {}),
    "file size limit": (errno.EFBIG, {"preexec_fn": lambda: limit_files(300)}),
}


@pytest.mark.proves("D-6", "W1", "W2", "W5", "S2")
@pytest.mark.parametrize("why", NO_MORE_ROOM)
@pytest.mark.parametrize("fails", [False, True])
def test_a_log_that_takes_no_more_is_one_warning_and_the_cloud_decides(
    place: Place, mount: Callable[..., Path], why: str, fails: bool
) -> None:
    """What a line that could not be written held is nowhere to be seen either: the API's error
    quotes the token."""
    number, more = NO_MORE_ROOM[why]
    server = place.server()
    if number == errno.ENOSPC:
        make_full(mount(place.folder / "logs", "size=16k"))
    if fails:
        body = {"error": {"code": "odd", "message": f"no {place.token}"}}
        place.cloud.fault(CREATE, fake.status(400, body), times=None)
    code, out, err = place.run("-v", **more)
    assert code == fails
    path = place.folder / "logs" / "snapshots.log"
    warning = f"snapshots: warning: {path}: cannot be written: {os.strerror(number)}\n"
    assert warning in err
    assert f"{path.with_name('history.db')}: cannot be written: " in err
    assert err.count("warning") == 2
    assert ("no [hidden]" in err) is fails
    assert out.splitlines()[-1].endswith(
        f"SUMMARY: {1 - fails} succeeded, {fails:d} failed out of 1 total"
    )
    assert len(place.cloud.names(server)) == 1 - fails
    assert path.stat().st_size <= 300


@pytest.mark.proves("W1")
def test_a_rotation_that_fails_is_one_warning_and_costs_one_line(place: Place) -> None:
    place.server()
    place.extra = "[LOGGING]\nmax_bytes = 1000\nbackup_count = 1\n"
    logs = place.logs()
    (logs / "snapshots.log").write_text("old\n" * 300)
    (logs / "snapshots.log.1" / "in the way").mkdir(parents=True)
    code, _, err = place.run()
    assert code == 0
    assert err.startswith(f"snapshots: warning: {logs / 'snapshots.log'}: cannot be written: ")
    assert err.count("\n") == 1


@pytest.mark.proves("D-6", "W3")
@pytest.mark.parametrize("how", ["read-only disk", "immutable", "somebody else's"])
def test_a_directory_that_takes_no_log_costs_the_log_alone(
    place: Place, mount: Callable[..., Path], powerless: list[str], how: str
) -> None:
    server = place.server()
    logs = place.logs()
    place.extra = f"[FILES]\nlock_file = {place.folder / 'lock'}\n"
    prefix: list[str] = []
    if how == "read-only disk":
        mount(logs, "ro")
    elif how == "immutable":
        if os.geteuid() != 0 or shutil.which("chattr") is None:
            pytest.skip("only root may make a directory immutable, and with chattr")
        done = subprocess.run(["chattr", "+i", str(logs)], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip("this file system knows no immutable directories")
    else:
        give_away(logs)
        prefix = powerless
    try:
        code, out, err = place.run(before=prefix)
    finally:
        if how == "immutable":
            subprocess.run(["chattr", "-i", str(logs)], check=True)
        elif how != "read-only disk":
            logs.chmod(0o700)
    assert (code, out) == (0, "SUMMARY: 1 succeeded, 0 failed out of 1 total\n")
    of_log, of_history = err.splitlines()
    assert of_log.startswith(f"snapshots: warning: {logs / 'snapshots.log'}: cannot be written: ")
    assert of_history.startswith(f"snapshots: warning: {logs / 'history.db'}: cannot be written: ")
    assert len(place.cloud.names(server)) == 1


@pytest.mark.proves("C1")
@pytest.mark.parametrize("what", ["snapshots.config", "configs/1.json"])
def test_a_file_that_may_not_be_read_is_reported_as_that(
    place: Place, powerless: list[str], what: str
) -> None:
    place.server()
    place.server(2, "db")
    config = place.config()
    give_away(place.folder / what)
    command = [*powerless, sys.executable, str(SCRIPT), "--config", str(config)]
    run = subprocess.run(command, text=True, capture_output=True, check=False, timeout=60)
    (place.folder / what).chmod(0o600)
    assert run.returncode == (2 if what.endswith(".json") else 1)
    assert f"{place.folder / what}: " in run.stderr
    assert run.stderr.endswith("Permission denied\n")
    assert run.stderr.count("\n") == 1


LOG_LINE = re.compile(r"[0-9-]{10} [0-9:]{8} \| (DEBUG   |INFO    |WARNING |ERROR   ) \| .+")


@pytest.mark.proves("I15", "W7")
@pytest.mark.parametrize("how", ["renamed", "deleted"])
def test_a_log_that_is_taken_away_in_a_run_is_no_trouble(place: Place, how: str) -> None:
    """As logrotate does it."""
    place.server(duration_seconds=1)
    process = place.start()
    place.wait_for(CREATE)
    log = place.folder / "logs" / "snapshots.log"
    if how == "renamed":
        log.rename(log.with_suffix(".1"))
    else:
        log.unlink()
    assert process.communicate(timeout=60) == (
        "SUMMARY: 1 succeeded, 0 failed out of 1 total\n",
        "",
    )
    assert process.returncode == 0
    if how == "renamed":
        lines = log.with_suffix(".1").read_text().splitlines()
        assert all(LOG_LINE.fullmatch(line) for line in lines)
        assert "SUMMARY" in lines[-1]
    assert place.run()[0] == 0
    assert place.log.count("SUMMARY") == 1


@pytest.mark.proves("W7")
def test_two_runs_that_share_a_log_write_whole_lines(place: Place) -> None:
    for number in range(1, 9):
        place.server(number, f"s{number}", duration_seconds=0.5)
    shared = place.folder / "shared.log"
    runs = []
    for half in ("1234", "5678"):
        place.extra = f"[FILES]\nlog_file = {shared}\nlock_file = lock-{half}\n"
        config = place.config().rename(place.folder / f"{half}.config")
        runs.append(place.start("--config", str(config), *(f"{number}.json" for number in half)))
    for run in runs:
        assert run.communicate(timeout=60)[1] == ""
        assert run.returncode == 0
    lines = shared.read_text().splitlines()
    assert all(LOG_LINE.fullmatch(line) for line in lines)
    assert sum("FINAL_STATUS" in line for line in lines) == 8
    assert sum("SUMMARY" in line for line in lines) == 2


NASTY = "a\nFINAL_STATUS | b\r\x1b[2Jc\x00d\u2028e\u202ef %s %d {0} {server_name}"


@pytest.mark.proves("I24", "W6")
@pytest.mark.parametrize("provider", snapshots.PROVIDERS)
def test_what_an_api_says_is_one_line_wherever_it_is_reported(
    project: Project, provider: str
) -> None:
    project.server(provider, 11)
    body = {"error": {"code": "odd", "message": NASTY}, "message": NASTY, "id": "odd"}
    project.cloud.fault(ANY_CREATE[provider], fake.status(400, body), times=None)
    result = project.run("-v")
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert len(result.final) == 1
    text = result.out + result.err + result.log
    assert "a FINAL_STATUS" in text
    assert "%s %d {0} {server_name}" in text
    assert not any(sign in text for sign in "\r\x1b\x00\u2028\u202e")
    assert all(LOG_LINE.fullmatch(line) for line in result.log.split("\n")[:-1])


@pytest.mark.proves("W6")
@pytest.mark.parametrize("provider", snapshots.PROVIDERS)
def test_a_name_is_one_line_wherever_it_is_reported(project: Project, provider: str) -> None:
    server = project.server(provider, 11, "100 %s {0} %(name)s")
    project.history(server, 1)
    project.cloud.add_snapshot(server, NASTY, project.clock.now())
    plan = project.run("-n")
    assert plan.code == 0
    assert sum(NASTY.partition("\n")[0] in line for line in plan.out.split("\n")) >= 1
    assert len(plan.out.split("\n")) == 5  # create, keep, leave, summary and the end
    assert not any(sign in plan.out for sign in "\r\x1b\x00\u2028\u202e")
    result = project.run("-v")
    assert result.code == 0
    assert result.final[0][3] == "100 %s {0} %(name)s"
    assert all(LOG_LINE.fullmatch(line) for line in result.log.split("\n")[:-1])


def test_levels_keep_out_details_but_never_the_lines_that_other_tools_read(place: Place) -> None:
    place.server()
    place.extra = "[LOGGING]\nlevel = ERROR\n"
    code, out, _ = place.run("-v")
    assert code == 0
    assert [line.split(" | ")[2].split(":")[0] for line in out.splitlines()] == [
        "FINAL_STATUS",
        "SUMMARY",
    ]


# --- on a terminal ---


def on_a_terminal(process: subprocess.Popen[str], master: int) -> str:
    """All that a process writes to its terminal."""
    written = b""
    with contextlib.suppress(OSError):  # EIO: its end
        while data := os.read(master, 65536):
            written += data
    os.close(master)
    assert process.wait(60) == 0
    return written.decode("utf-8")


@pytest.mark.parametrize("columns", [40, 160])
def test_on_a_terminal_one_live_line_is_redrawn_below_the_log(place: Place, columns: int) -> None:
    for number, name in ((1, "web"), (2, "db")):
        place.server(number, name, duration_seconds=3)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    process = place.start("-v", stdout=slave, stderr=slave)
    os.close(slave)
    written = on_a_terminal(process, master)
    live = re.findall(r"\r\x1b\[K([^\r\n\x1b]+)(?=\r\x1b\[K)", written)
    assert all(len(line) < columns for line in live)  # in the last column it would wrap
    whole = re.compile(
        r"(\d done, \d running, \d waiting, 0 failed, \d+ s)"
        r"(; longest: (web|db) \((creating|verifying|pruning)( \d+ %)?\))?"
    )
    assert all(whole.fullmatch(line) for line in live if columns == 160)
    assert any(line.startswith("0 done, 2 running, 0 waiting, 0 failed") for line in live)
    assert any(" %)" in line for line in live) == (columns == 160)

    screen = pyte.Screen(columns, 200)
    pyte.Stream(screen).feed(written)
    rows = "".join(row.rstrip().ljust(columns) for row in screen.display).rstrip()
    shown = [line.rstrip() for line in re.split(r"(?=\d{4}-\d\d-\d\d \S{8} \| [A-Z])", rows)]
    assert shown[0] == ""  # before the first line of the log
    assert sorted(shown[1:]) == sorted(place.log.splitlines())  # and nothing of the live line


# --- clocks and time zones ---


@pytest.mark.proves("C14", "P8")
@pytest.mark.parametrize("provider", snapshots.PROVIDERS)
@pytest.mark.parametrize("year", [1970, 2099])
def test_a_clock_that_is_decades_off_changes_nothing_in_the_cloud(
    project: Project, provider: str, year: int
) -> None:
    """What is new and what is old goes by the provider's clock."""
    server = project.server(provider, 11, retain=2, duration_seconds=40)
    old = project.history(server, 2)
    offset = datetime(year, 1, 2, tzinfo=timezone.utc) - project.clock.begin
    project.clock.begin += offset
    project.cloud.clock = Shifted(project.clock, -offset.total_seconds())
    result = project.run()
    assert result.code == 0
    (new,) = project.cloud.created
    assert project.own(server) == [old[1], new.name]
    project.clock.begin -= offset  # somebody sets it right
    project.cloud.clock = project.clock
    project.clock.advance(86_400)
    assert project.run().code == 0
    assert project.own(server) == [new.name, project.cloud.created[1].name]


@pytest.mark.proves("P8")
@pytest.mark.parametrize("provider", snapshots.PROVIDERS)
@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.parametrize("request_number", [1, 3])
def test_a_clock_that_jumps_while_a_snapshot_is_made_changes_nothing(
    project: Project, provider: str, hours: int, request_number: int
) -> None:
    """A virtual machine is resumed, or somebody sets the clock; the provider's clock goes on."""
    server = project.server(provider, 11, retain=2, duration_seconds=600)
    old = project.history(server, 2)
    jump = timedelta(hours=hours)
    shifted = Shifted(project.clock, 0)
    project.cloud.clock = shifted

    def strike() -> None:
        project.clock.begin += jump
        shifted.seconds -= jump.total_seconds()

    project.cloud.stop_at(request_number, strike)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    (new,) = project.cloud.created
    assert project.own(server) == [old[1], new.name]
    assert 600 <= project.clock.elapsed < 700


@pytest.mark.proves("P8", "wild-12.4")
@pytest.mark.parametrize("provider", snapshots.PROVIDERS)
@pytest.mark.parametrize(
    ("request_number", "lost", "interval_hours"),
    [(2, False, 0), (4, False, 0), (6, False, 0), (2, True, 0), (3, True, 20), (5, True, 20)],
)
def test_a_machine_that_is_paused_finds_its_snapshot_all_the_same(
    project: Project, provider: str, request_number: int, lost: bool, interval_hours: int
) -> None:
    """It may be the very server that is being snapshotted: none of its clocks goes on meanwhile.
    With an interval a listing tells the provider's time before the create."""
    interval = {"min_interval_hours": interval_hours}
    server = project.server(provider, 11, retain=2, duration_seconds=600, file=interval)
    old = project.history(server, 2)
    others = Shifted(project.clock, 0)
    project.cloud.clock = others

    def pause() -> None:
        others.seconds += 300

    project.cloud.stop_at(request_number, pause)
    if lost:
        project.cloud.fault(CREATES[provider], fake.hang_up(act=True))
    result = project.run()
    assert (result.code, result.err) == (0, "")
    (new,) = project.cloud.created
    assert project.own(server) == [old[1], new.name]


@pytest.mark.proves("C14", "Q2")
@pytest.mark.parametrize("provider", snapshots.PROVIDERS)
def test_a_time_zone_that_changes_between_runs_changes_nothing_in_the_cloud(
    project: Project, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are in local time and so out of order; retention goes by instants."""
    server = project.server(provider, 11, retain=2, duration_seconds=40)
    for zone in ("Pacific/Kiritimati", "Pacific/Niue", "Europe/Berlin", "Foo/Bar"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert project.run().code == 0
        assert project.own(server) == [s.name for s in project.cloud.created[-2:]]
        project.clock.advance(6 * 3600)
    names = [snapshot.name for snapshot in project.cloud.created]
    assert names != sorted(names)


@pytest.mark.proves("K11", "Q2")
@pytest.mark.parametrize("provider", snapshots.PROVIDERS)
def test_the_hour_that_comes_twice_makes_two_snapshots_of_one_name(
    project: Project, provider: str
) -> None:
    """The night in which summer time ends, and a job that runs in each of its two hours."""
    project.clock.begin = datetime(2025, 10, 26, 0, 30, tzinfo=timezone.utc)
    server = project.server(provider, 11, retain=2)
    project.history(server, 2)
    assert project.run().code == 0
    project.clock.elapsed = 3600
    assert project.run().code == 0
    assert [snapshot.name for snapshot in project.cloud.created] == ["web-20251026023000"] * 2
    assert project.cloud.snapshots(server) == project.cloud.created
    project.clock.advance(86_400)
    assert project.run().code == 0
    assert project.cloud.snapshots(server) == project.cloud.created[1:]


@pytest.mark.proves("C14")
def test_a_certificate_that_is_not_valid_yet_is_reported_as_that(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every certificate is where the clock has fallen back to 1970."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    authority.issue_cert(
        "127.0.0.1", not_before=tomorrow, not_after=tomorrow + timedelta(days=1)
    ).configure_cert(context)
    server = HttpsServer(context).start()
    project.server("hetzner", 11)
    project.config["API"]["hetzner_url"] = f"https://127.0.0.1:{server.port}"
    result = project.run()
    server.stop()
    assert result.code == 1
    assert "its certificate is not valid: certificate is not yet valid" in result.err
    assert server.paths == []


LIBFAKETIME = next(iter(glob.glob("/usr/lib*/*/faketime/libfaketime.so.1")), None)


@pytest.mark.proves("C14")
@pytest.mark.skipif(LIBFAKETIME is None, reason="libfaketime is not installed")
@pytest.mark.parametrize("at", ["1970-01-02 03:00:00", "2037-12-31 23:59:00"])
def test_the_script_itself_runs_with_a_clock_that_is_decades_off(place: Place, at: str) -> None:
    server = place.server(retain=1)
    old = place.cloud.add_snapshot(server, "web-20260101000000", "2026-01-01T00:00:00Z")
    fake_time = {
        "LD_PRELOAD": str(LIBFAKETIME),
        "FAKETIME": f"@{at}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    code, _out, _err = place.run(env={**os.environ, **fake_time})
    assert code == 0
    assert [snapshot.name[:8] for snapshot in place.cloud.created] == [f"web-{at[:4]}"]
    assert place.cloud.snapshots(server) == place.cloud.created
    assert old.id in place.cloud.deleted


# --- the lock ---


@pytest.mark.proves("L1")
def test_a_second_run_leaves_at_once_with_3_and_touches_nothing(place: Place) -> None:
    place.server()
    hold = place.hold()
    first = place.start()
    place.wait_for(CREATE)
    code, out, err = place.run("--quiet")
    assert (code, out) == (3, "")
    assert f"another run holds the lock: process {first.pid} since 20" in err
    assert len(place.cloud.journal) == 1
    hold.set()
    assert first.communicate(timeout=60)[0].startswith("SUMMARY: 1 succeeded")
    assert first.returncode == 0
    assert len(place.cloud.created) == 1


@pytest.mark.proves("I15", "L2", "L7")
@pytest.mark.parametrize(
    "content",
    [b"", b"999999 since 2020", b"1 since 2026-01-01 00:00:00\n", b"\xff" * 4096, b"1\n", None],
    ids=["empty", "dead", "of another program", "garbage", "short", "a gigabyte"],
)
def test_a_stale_lock_file_is_no_lock(place: Place, content: Optional[bytes]) -> None:
    place.server()
    path = place.logs() / "snapshots.lock"
    path.write_bytes(content or b"")
    if content is None:
        os.truncate(path, 10**9)
    inode = path.stat().st_ino
    assert place.run()[0] == 0
    assert path.stat().st_size < 50
    assert path.stat().st_ino == inode  # never removed: a third run could lock a new file


@pytest.mark.proves("L5")
@pytest.mark.parametrize(
    "what",
    ["directory", "symlink", "symlink to nowhere", "fifo", "missing directory", "device"],
)
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
    elif what == "symlink to nowhere":
        path.symlink_to(place.folder / "nowhere")
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "device":
        place.extra = "[FILES]\nlock_file = /dev/null\n"
    else:
        path.parent.rmdir()
        path.parent.write_text("a file")
    code, _, err = place.run()
    assert code == 1
    assert ("is not a directory" if what == "missing directory" else "lock file") in err
    assert target.read_text() == "untouched"
    assert not (place.folder / "nowhere").exists()
    assert place.cloud.journal == []


@pytest.mark.proves("L3")
def test_a_killed_run_leaves_no_lock_behind(place: Place) -> None:
    server = place.server(duration_seconds=1)
    first = place.start()
    place.wait_for(CREATE)
    first.kill()
    first.communicate()
    place.cloud.come_to_rest()
    code, _, _ = place.run()
    assert code == 0
    assert len(place.cloud.names(server)) == 2  # the orphan is ours, and counts


@pytest.mark.proves("I14", "L4", "Q7")
def test_many_at_the_same_instant_are_one_run(place: Place) -> None:
    place.server()
    hold = place.hold()
    runs = [place.start("-q") for _ in range(8)]
    while sum(run.poll() is None for run in runs) > 1:
        time.sleep(0.05)
    hold.set()
    for run in runs:
        run.communicate(timeout=60)
    assert sorted(run.returncode for run in runs) == [0] + [3] * 7
    assert len(place.cloud.created) == 1


@pytest.mark.proves("L1")
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("4711 since 2026-01-01 03:00:00\n", "process 4711 since 2026-01-01 03:00:00 ("),
        ("", "another run holds the lock ("),
        ("\x1b[2J since long\n", "another run holds the lock ("),
        ("1 since 2026\n" * 1000, "another run holds the lock ("),
    ],
    ids=["holder", "nothing", "garbage", "too much"],
)
def test_while_the_lock_is_held_nobody_is_asked_or_notified(
    place: Place, content: str, told: str
) -> None:
    place.server()
    place.extra = f"[WEBHOOK]\nenabled = true\nurl = {place.cloud.url}/hook/x\n"
    path = place.logs() / "snapshots.lock"
    path.write_text(content)
    with open(path) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, out, err = place.run()
    assert (code, out) == (3, "")
    assert told in err
    assert err.count("\n") == 1
    assert place.cloud.journal == []
    assert path.read_text() == content
    assert place.run()[0] == 0


@pytest.mark.proves("L8", "L9")
@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="no /proc/locks")
def test_the_lock_is_one_that_only_the_end_of_its_process_can_drop(place: Place) -> None:
    """An flock, which no close of another descriptor drops, and one that no child inherits."""
    place.server()
    hold = place.hold()
    process = place.start()
    place.wait_for(CREATE)
    path = place.folder / "logs" / "snapshots.lock"
    inode = str(path.stat().st_ino)
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    held = [words for words in lines if f":{inode}" in " ".join(words)]
    assert [words[1:5] for words in held] == [["FLOCK", "ADVISORY", "WRITE", str(process.pid)]]
    (descriptor,) = [
        link.name
        for link in Path(f"/proc/{process.pid}/fd").iterdir()
        if link.resolve() == path.resolve()
    ]
    info = Path(f"/proc/{process.pid}/fdinfo/{descriptor}").read_text()
    flags = next(line.split()[1] for line in info.splitlines() if line.startswith("flags:"))
    assert int(flags, 8) & os.O_CLOEXEC
    assert path.read_text().startswith(f"{process.pid} since ")
    with open(path):  # and close it: this would drop a lock of the other kind
        pass
    assert place.run()[0] == 3
    hold.set()
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.proves("L7")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_lock_file_that_goes_before_it_is_locked_is_no_lock(
    tmp_path: Path, replaced: bool
) -> None:
    path = tmp_path / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    path.unlink()
    if replaced:
        path.touch()
    with pytest.raises(snapshots.LockError, match="was replaced" if replaced else "has gone"):
        snapshots.take_lock(descriptor, path)
    os.close(descriptor)


def never_two_at_once(server: Server) -> bool:
    """Did each of its snapshots begin after the end of the one before? To the second, which is
    as exact as their beginnings are; so they should take two."""
    made = sorted(server.actions, key=lambda action: action.started)
    return all(
        one.finished is not None and one.finished.replace(microsecond=0) <= two.started
        for one, two in zip(made, made[1:])
    )


@pytest.mark.proves("L7")
def test_a_lock_file_that_somebody_deletes_lets_two_run_but_not_make_two_at_once(
    place: Place,
) -> None:
    server = place.server(duration_seconds=2)
    first = place.start()
    place.wait_for(CREATE)
    (place.folder / "logs" / "snapshots.lock").unlink()
    code, _, err = place.run()
    assert (code, err) == (0, "")
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert place.cloud.snapshots(server) == place.cloud.created
    assert len(place.cloud.created) == 2
    assert never_two_at_once(server)


@pytest.mark.proves("I13", "L10", "hosts-4")
def test_two_machines_with_the_same_servers_never_make_two_snapshots_at_once(
    tmp_path: Path,
) -> None:
    """No lock keeps them apart, and their cron jobs begin in the same second."""
    with FakeCloud() as cloud:
        here, there = tmp_path / "here", tmp_path / "there"
        here.mkdir()
        config, servers = fleet(here, cloud)
        by_hand = [s for s in cloud.snapshots() if s.name == "by hand"]
        for server in servers:
            server.duration_seconds = 2
            server.slots = 6  # one more for the other machine's
        shutil.copytree(here, there)
        runs = [start(folder / config.name) for folder in (here, there)]
        said = [run.communicate(timeout=60)[1] for run in runs]
        assert ([run.returncode for run in runs], said) == ([0, 0], ["", ""])
        for server in servers:
            made = [s for s in cloud.created if s.server is server]
            assert len(made) == 2
            assert never_two_at_once(server)
            assert [s for s in cloud.snapshots(server) if s not in by_hand] == made
        assert set(by_hand) <= set(cloud.snapshots())
        assert cloud.problems == []


DISKS = {
    "read-only": ("ro", 1),
    "without room for one more file": ("nr_inodes=1", 1),
    "that runs no programs": ("noexec", 0),
}


@pytest.mark.proves("D-6", "L6")
@pytest.mark.parametrize("disk", DISKS)
def test_a_lock_that_cannot_be_made_is_exit_1(
    place: Place, mount: Callable[..., Path], disk: str
) -> None:
    place.server()
    options, expected = DISKS[disk]
    mount(place.folder / "logs", options)
    code, _, err = place.run()
    assert code == expected
    assert ("the lock file cannot be opened" in err) is (expected == 1)
    assert len(place.cloud.created) == 1 - expected
    assert bool(place.cloud.journal) is (expected == 0)


def test_a_file_where_the_logs_should_be_is_exit_1(place: Place) -> None:
    place.server()
    logs = place.folder / "logs"
    logs.write_text("")
    way_out = "remove it, or set [DIRECTORIES] logs_dir"
    assert place.run() == (1, "", f"snapshots: {logs}: is not a directory ({way_out})\n")
    assert place.cloud.journal == []


@pytest.mark.proves("looking-7")
def test_a_disk_that_is_full_is_seen_before_the_night(
    place: Place, mount: Callable[..., Path]
) -> None:
    place.server()
    logs = mount(place.folder / "logs", "size=64m")
    words = f"{logs}: its disk has room for "
    assert words not in place.run("--check")[1]
    with open(logs / "big", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 63 << 20)
    (line,) = [line for line in place.run("--check")[1].splitlines() if words in line]
    assert re.search(r"^warning +logs_dir .* for [01]\.[0-9] MB more \(make room\)$", line)


@pytest.mark.proves("L6", "W1")
def test_a_disk_that_is_full_costs_the_log_and_not_the_run(
    place: Place, mount: Callable[..., Path]
) -> None:
    """The lock file can still be made, and holds though nothing can be written into it."""
    server = place.server()
    logs = mount(place.folder / "logs", "size=16k")
    make_full(logs)
    hold = place.hold()
    first = place.start()
    place.wait_for(CREATE)
    assert (logs / "snapshots.lock").read_bytes() == b""
    assert place.run()[0] == 3
    hold.set()
    out, err = first.communicate(timeout=60)
    assert (first.returncode, out) == (0, "SUMMARY: 1 succeeded, 0 failed out of 1 total\n")
    log = logs / "snapshots.log"
    of_log, of_history = err.splitlines()
    assert of_log == f"snapshots: warning: {log}: cannot be written: No space left on device"
    assert of_history.startswith(f"snapshots: warning: {logs / 'history.db'}: cannot be written: ")
    assert len(place.cloud.names(server)) == 1


@pytest.mark.proves("L11")
def test_a_lock_of_another_user_is_exit_1(place: Place, powerless: list[str]) -> None:
    place.server()
    path = place.logs() / "snapshots.lock"
    path.write_text("4711 since 2026-01-01 03:00:00\n")
    give_away(path)
    with open(path) if os.geteuid() == 0 else contextlib.nullcontext() as held:
        if held is not None:
            fcntl.flock(held, fcntl.LOCK_EX)  # be it held or not
        code, out, err = place.run(before=powerless)
    assert (code, out) == (1, "")
    assert f"{path}: the lock file cannot be opened: Permission denied" in err
    assert err.count("\n") == 1
    assert place.cloud.journal == []
    path.chmod(0o600)


@pytest.mark.proves("L11")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("there", [False, True], ids=["no logs yet", "logs of root"])
def test_what_root_makes_in_a_users_directory_is_that_users(place: Place, there: bool) -> None:
    """One run with sudo, and cron's runs of that user could neither lock nor write."""
    place.server()
    place.extra = "[REPORT]\nfile = page.html\n"
    os.chown(place.folder, 1234, 5678)
    if there:
        logs = place.logs()
        for name in ("snapshots.log", "snapshots.lock"):
            (logs / name).touch()
        os.chown(logs, 1234, 5678)
    code, _, err = place.run()
    assert (code, err) == (0, "")
    logs = place.folder / "logs"
    made = [logs, place.folder / "page.html", *logs.iterdir()]
    assert len(made) == 5
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in made}
    assert owners == dict.fromkeys(owners, (1234, 5678))


@pytest.mark.proves("L11")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_of_nested_directories_that_root_makes_each_is_the_users(place: Place) -> None:
    """One of root's in between would keep all that is in it root's."""
    place.server()
    place.extra = "[DIRECTORIES]\nlogs_dir = var/log/snapshots\n"
    os.chown(place.folder, 1234, 5678)
    code, _, err = place.run()
    assert (code, err) == (0, "")
    logs = place.folder / "var" / "log" / "snapshots"
    made = [logs, logs.parent, logs.parent.parent, *logs.iterdir()]
    assert len(made) == 6
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in made}
    assert owners == dict.fromkeys(owners, (1234, 5678))
    assert {stat.S_IMODE(path.stat().st_mode) for path in made[:3]} == {0o700}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_is_given_to_a_user_is_not_what_a_link_leads_to(tmp_path: Path) -> None:
    """Who owns the directory may put a link in the place of what root has just made there."""
    folder, roots = tmp_path / "users", tmp_path / "roots"
    folder.mkdir()
    roots.mkdir()
    os.chown(folder, 1234, 5678)
    link = folder / "logs"
    link.symlink_to(roots)
    snapshots.hand_over(link, folder)
    assert roots.stat().st_uid == 0
    assert link.lstat().st_uid == 1234


def test_logs_dir_may_be_where_nobody_can_look(project: Project) -> None:
    """A name too long for any; and for a user what is below a directory of root's."""
    project.server("hetzner", 31, "web")
    project.config["DIRECTORIES"] = {"logs_dir": "x" * 300}
    result = project.run()
    assert (result.code, result.out) == (1, "")
    assert "snapshots.lock: the lock file cannot be opened: File name too long" in result.err
    assert "unexpected" not in result.err
    assert project.cloud.journal == []


@pytest.mark.parametrize("arguments", [["--config", ""], ["--config="], [""], ["web.json", ""]])
def test_an_empty_argument_is_no_other_configuration(
    project: Project, arguments: list[str]
) -> None:
    """As an unset variable in a crontab makes it."""
    project.server("hetzner", 11)
    result = project.run(*arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.count("\n") == 1
    assert "is empty (an unset variable?)" in result.err
    assert project.cloud.journal == []


def test_a_log_of_which_no_old_ones_are_kept_begins_anew(project: Project) -> None:
    project.server("hetzner", 11)
    project.config["LOGGING"] = {"max_bytes": 1000, "backup_count": 0}
    for _ in range(3):
        result = project.run()
        assert (result.code, result.err) == (0, "")
    log = project.folder / "logs" / "snapshots.log"
    assert log.stat().st_size <= 1000
    lines = log.read_text(encoding="utf-8").splitlines()
    assert all(LOG_LINE.fullmatch(line) for line in lines)
    assert lines[-1].endswith("SUMMARY: 1 succeeded, 0 failed out of 1 total")
    assert [path.name for path in sorted(log.parent.iterdir())] == [
        "history.db",
        "snapshots.lock",
        "snapshots.log",
    ]


# --- signals ---


@pytest.mark.proves("D-5", "S3")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_run_in_an_orderly_way(place: Place, number: signal.Signals) -> None:
    place.server(1, "web", duration_seconds=60)
    place.server(2, "db", duration_seconds=60)
    place.timing["max_parallel"] = 1
    place.extra = f"[WEBHOOK]\nenabled = true\nurl = {place.cloud.url}/hook/x\n"
    process = place.start()
    place.wait_for("GET /hz/actions")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"web: interrupted by {number.name}; Hetzner may still finish it" in err
    assert f"db: interrupted by {number.name} before its turn" in err
    assert out == "SUMMARY: 0 succeeded, 2 failed out of 2 total\n"
    assert sorted(hook.json["server"] for hook in place.cloud.hooks) == ["db", "web"]
    assert place.cloud.deleted == []
    assert place.log.count("FINAL_STATUS") == 2
    assert place.log.count(f"interrupted by {number.name}: nothing more is created or deleted") == 1


@pytest.mark.proves("D-5")
def test_a_signal_that_comes_while_the_handlers_are_installed_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    redact = snapshots.Redactor()
    world = snapshots.Runtime(snapshots.SystemClock(), redact, snapshots.Screen(redact))
    install, before = signal.signal, signal.getsignal(signal.SIGTERM)
    sent: list[int] = []

    def install_and_send(number: int, handler: Any) -> Any:
        previous = install(number, handler)
        if number == signal.SIGTERM and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
        return previous

    monkeypatch.setattr(signal, "signal", install_and_send)
    try:
        with snapshots.stop_on_signals(world, restore=True):
            until = time.monotonic() + 10
            while not world.stopping and time.monotonic() < until:
                time.sleep(0.01)
    finally:
        install(signal.SIGTERM, before)
    assert world.stopping == "interrupted by SIGTERM"


@pytest.mark.proves("S3")
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


@pytest.mark.proves("D-5")
def test_a_signal_inherited_as_ignored_stays_ignored(place: Place) -> None:
    place.server(duration_seconds=2)
    process = place.start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    place.wait_for(CREATE)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.proves("S3")
def test_a_signal_while_a_request_hangs_ends_soon_all_the_same(place: Place) -> None:
    place.server()
    place.timing["http_timeout"] = 100
    place.cloud.fault(CREATE, fake.stall(100))
    process = place.start()
    place.wait_for(CREATE)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=50)
    assert process.returncode == 1
    assert "interrupted by SIGTERM" in err


@pytest.mark.proves("S3")
def test_a_deletion_that_hangs_when_a_signal_comes_is_not_called_none(place: Place) -> None:
    """Nobody knows whether it has been carried out: here it has."""
    server = place.server(retain=1, duration_seconds=0)
    old = place.cloud.add_snapshot(server, "web-20260101000000", "2026-01-01T00:00:00Z")
    place.timing["http_timeout"] = 100
    place.cloud.fault("DELETE /hz/images/{id}", fake.stall(100, act=True))
    process = place.start()
    place.wait_for("DELETE /hz/images/{id}")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=50)
    assert process.returncode == 1
    assert "Hetzner may still finish it; what was being deleted may be gone" in err
    assert old.name not in place.cloud.names(server)


@pytest.mark.proves("D-5", "N9")
def test_a_receiver_that_hangs_does_not_hold_up_a_run_that_was_asked_to_stop(place: Place) -> None:
    """It has ten seconds, whatever timeout and retries are configured."""
    place.server(duration_seconds=60)
    place.extra = f"[WEBHOOK]\nenabled = true\nurl = {place.cloud.url}/hook/x\ntimeout = 100\n"
    place.cloud.fault("POST /hook", fake.stall(100), times=None)
    process = place.start()
    place.wait_for("GET /hz/actions")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)  # ten seconds, and some for a slow machine
    assert process.returncode == 1
    assert err.count("not sent in time") + err.count("notification not delivered") == 1
    assert place.cloud.count("POST /hook") == 1


def final_statuses(folder: Path) -> list[str]:
    """The statuses in the log, in its order."""
    lines = (folder / "logs" / "snapshots.log").read_text(encoding="utf-8").splitlines()
    return [line.split(" | ")[6] for line in lines if "FINAL_STATUS" in line]


def assert_put_right(config: Path, cloud: FakeCloud, servers: Sequence[Server], runs: int) -> None:
    """One clean run later each server has its two newest, at most one made in each run, and what
    was made by hand."""
    clean = start(config)
    assert clean.communicate(timeout=60)[1] == ""
    assert clean.returncode == 0
    for server in servers:
        made = [s for s in cloud.created if s.server is server]
        assert 1 <= len(made) <= runs + 1
        left = cloud.snapshots(server)
        assert left[0].name == "by hand"
        assert len(left) == 3
        assert left[-1] is made[-1]
    assert cloud.problems == []


@pytest.mark.proves("I19", "D-5", "S3")
@pytest.mark.parametrize(
    ("number", "request_number", "twice"),
    [
        (signal.SIGTERM, 1, False),
        (signal.SIGINT, 4, True),
        (signal.SIGHUP, 8, False),
        (signal.SIGTERM, 12, True),
        (signal.SIGINT, 16, False),
        (signal.SIGHUP, 20, True),
    ],
)
def test_a_signal_at_any_request_ends_the_run_in_order(
    tmp_path: Path, number: signal.Signals, request_number: int, twice: bool
) -> None:
    with FakeCloud() as cloud:
        config, servers = fleet(tmp_path, cloud)
        struck: list[float] = []
        victim: list[subprocess.Popen[str]] = []

        def strike() -> None:
            for _ in range(1 + twice):
                victim[0].send_signal(number)
            log = tmp_path / "logs" / "snapshots.log"
            while f"interrupted by {number.name}: nothing more" not in log.read_text("utf-8"):
                time.sleep(0.01)  # this request is answered when it has heard
            struck.append(time.monotonic())

        cloud.stop_at(request_number, strike, before=not twice)
        victim.append(start(config))
        _, err = victim[0].communicate(timeout=60)
        assert struck
        late = [r for r in cloud.journal if r.monotonic > struck[0] and r.method != "GET"]
        # what the two other turns had sent by then may arrive after it, but nothing follows that
        assert len({r.path.split("/")[1] for r in late}) == len(late) <= 2
        statuses = final_statuses(tmp_path)
        assert len(statuses) == len(servers)
        failed = statuses.count("FAILURE")
        assert victim[0].returncode == {0: 0, len(servers): 1}.get(failed, 2)
        assert err.count(f"interrupted by {number.name}") == failed
        assert failed or request_number >= 20
        assert_put_right(config, cloud, servers, runs=1)


@pytest.mark.proves("I10", "X7", "S6")
@pytest.mark.parametrize(("first", "second"), [(3, 3), (6, 2), (10, 14), (14, 9), (18, 18)])
def test_two_runs_killed_one_after_the_other_are_put_right_by_the_next(
    tmp_path: Path, first: int, second: int
) -> None:
    with FakeCloud() as cloud:
        config, servers = fleet(tmp_path, cloud)
        for request_number in (first, second):
            victim: list[subprocess.Popen[str]] = []
            cloud.stop_at(len(cloud.journal) + request_number, lambda v=victim: v[0].kill())  # type: ignore[misc]
            victim.append(start(config))
            victim[0].communicate(timeout=60)
            assert victim[0].returncode == -signal.SIGKILL
            cloud.come_to_rest()
        assert_put_right(config, cloud, servers, runs=2)


@pytest.mark.proves("S4")
@pytest.mark.parametrize("while_away", ["nothing", "connections are cut"])
def test_a_machine_that_sleeps_in_a_request_goes_on_where_it_was(
    place: Place, while_away: str
) -> None:
    """Longer than any timeout; the answer to its create has come meanwhile, or has been lost."""
    server = place.server(duration_seconds=1)
    old = place.cloud.add_snapshot(server, "web-20260101000000", "2026-01-01T00:00:00Z")
    place.timing["http_timeout"] = 1
    process = place.start()

    def sleep() -> None:
        process.send_signal(signal.SIGSTOP)
        threading.Timer(2.5, process.send_signal, [signal.SIGCONT]).start()

    act = fake.edit(lambda content: sleep() or content)  # type: ignore[func-returns-value]
    place.cloud.fault(CREATE, act)
    if while_away == "connections are cut":
        place.wait_for(CREATE)
        time.sleep(0.5)
        place.cloud.stop()
        place.cloud.start()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (
        0,
        "SUMMARY: 1 succeeded, 0 failed out of 1 total\n",
        "",
    )
    assert place.cloud.snapshots(server) == [old, *place.cloud.created]
    assert len(place.cloud.created) == 1


@pytest.mark.proves("W8", "S5")
def test_a_reader_that_goes_away_is_no_reason_to_stop(place: Place) -> None:
    server = place.server(duration_seconds=1)
    process = place.start("-v")
    place.wait_for(CREATE)
    process.send_signal(signal.SIGPIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) == 0
    assert place.cloud.snapshots(server) == place.cloud.created
    assert "SUMMARY: 1 succeeded" in place.log


@pytest.mark.proves("S5")
def test_a_run_outlives_the_shell_that_cron_began_it_with(place: Place) -> None:
    server = place.server()
    hold = place.hold()
    command = " ".join([*place.command(), "; true"])  # lest the shell become the script
    shell = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    place.wait_for(CREATE)
    shell.kill()
    shell.wait(10)
    code, _, err = place.run()
    assert code == 3
    hold.set()
    holder = int(err.partition("process ")[2].split()[0])
    while Path(f"/proc/{holder}").exists():
        time.sleep(0.05)
    assert shell.communicate(timeout=10) == (
        b"SUMMARY: 1 succeeded, 0 failed out of 1 total\n",
        b"",
    )
    assert place.cloud.snapshots(server) == place.cloud.created
    assert len(place.cloud.created) == 1
    assert place.run()[0] == 0


# --- schedules ---


@pytest.mark.proves("Q7")
@pytest.mark.parametrize("provider", snapshots.PROVIDERS)
@pytest.mark.parametrize("takes", [0, 40])
def test_a_schedule_that_fires_twice_or_not_at_all_is_no_trouble(
    project: Project, provider: str, takes: float
) -> None:
    """Twice in a row, perhaps within one second, so that both snapshots have one name."""
    server = project.server(provider, 11, retain=2, duration_seconds=takes)
    project.history(server, 2)
    for _ in range(2):
        assert project.run().code == 0
    assert project.cloud.snapshots(server) == project.cloud.created
    project.clock.advance(3 * 86_400)
    assert project.run().code == 0
    assert len(project.cloud.created) == 3
    assert project.cloud.snapshots(server) == project.cloud.created[1:]


CRON_DAEMON = shutil.which("cron", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
NO_CRONTABS = """
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /etc/cron.d
mount -t tmpfs tmpfs /var/spool/cron
[ ! -e /etc/crontab ] || mount --bind /dev/null /etc/crontab
mkdir -m 1730 /var/spool/cron/crontabs
"""
ALONE = f"""
{NO_CRONTABS}
install -m 600 "$1" /var/spool/cron/crontabs/root
shift
exec "$@"
"""


@pytest.mark.proves("C13", "Q1")
@pytest.mark.skipif(
    CRON_DAEMON is None or LIBFAKETIME is None, reason="cron and libfaketime are not installed"
)
def test_a_real_cron_that_fires_in_a_run_changes_nothing(place: Place) -> None:
    """Once a minute, which is a second here, while a run takes three; cron sees this job alone."""
    if os.geteuid() != 0:
        pytest.skip("only root can give cron a file system of its own")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("there are no mount namespaces here")
    server = place.server(duration_seconds=2.5)
    codes, said = place.folder / "codes.txt", place.folder / "said.txt"
    crontab = place.folder / "crontab"
    command = " ".join(place.command())
    crontab.write_text(f'MAILTO=""\n* * * * * {command} > {said}; echo $? >> {codes}\n')
    environment = {"LD_PRELOAD": str(LIBFAKETIME), "FAKETIME": "@2026-03-28 23:58:00 x60"}
    shell = ["unshare", "--mount", "sh", "-ec", ALONE, "sh", str(crontab)]
    assigned = [f"{name}={value}" for name, value in environment.items()]
    cron = subprocess.Popen(
        [*shell, "env", *assigned, str(CRON_DAEMON), "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )

    def exits() -> list[str]:
        return codes.read_text().split() if codes.exists() else []

    for _ in range(600):
        if exits().count("0") >= 2 or cron.poll() is not None:
            break
        time.sleep(0.1)
    cron.kill()
    assert cron.communicate(timeout=10)[0] == ""
    time.sleep(1.5)  # one may just have begun
    with open(place.folder / "logs" / "snapshots.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    time.sleep(0.5)
    assert set(exits()) == {"0", "3"}
    assert exits().count("3") >= 2
    assert exits().count("0") == len(place.cloud.created) >= 2
    assert never_two_at_once(server)
    assert place.cloud.snapshots(server) == place.cloud.created[-2:]


# --- dry run ---


def test_a_dry_run_reads_only_and_gives_each_reason(project: Project) -> None:
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
        assert mine[1].endswith(": newest, last")
        assert mine[2].endswith(": no rule keeps it")
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


def test_a_dry_run_gives_up_soon_for_somebody_waits(project: Project) -> None:
    project.server("hetzner", 11)
    project.cloud.fault("GET /hz", fake.hang_up(), times=None)
    began = project.clock.monotonic()
    result = project.run("-n")
    assert result.code == 1
    assert "(tried " in result.err
    assert project.clock.monotonic() - began <= 30


def test_a_dry_run_finds_a_wrong_server_and_exits_as_a_run(project: Project) -> None:
    project.server("hetzner", 71, "web")
    project.server("hetzner", 72, "db", file={"id": 99})
    result = project.run("-n")
    assert result.code == 2
    assert "db: cannot read server 99: HTTP 404 not_found" in result.err


# --- screens and logs that hang ---


def fill_pipe() -> tuple[int, int]:
    """A pipe in which there is room for nothing."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"#" * 4096)
    os.set_blocking(writer, True)
    return reader, writer


@pytest.mark.proves("wild-11.3")
@pytest.mark.parametrize("hanging", [("stdout",), ("stderr",), ("stdout", "stderr")])
@pytest.mark.parametrize("flag", ["-v", "-q"])
def test_a_run_ends_with_its_exit_code_though_nobody_reads(
    place: Place, hanging: tuple[str, ...], flag: str
) -> None:
    """Every turn has something to say on stderr as well."""
    for number in range(1, 9):
        place.server(number, f"s{number}", fails=number > 4)
    reader, writer = fill_pipe()
    streams: dict[str, Any] = dict.fromkeys(hanging, writer)
    process = place.start(flag, **streams)
    os.close(writer)
    out, err = process.communicate(timeout=60)
    os.close(reader)
    assert process.returncode == 2
    assert place.log.count("FINAL_STATUS") == 8
    if "stderr" not in hanging:
        assert err.count("\n") == 4
    if "stdout" not in hanging and flag == "-v":
        assert sorted(out.splitlines()) == sorted(place.log.splitlines())
    assert place.run()[0] == 2  # the lock is free


@pytest.mark.proves("wild-11.3")
@pytest.mark.parametrize("hanging", ["stdout", "stderr"])
def test_sigterm_ends_a_run_whose_output_hangs(place: Place, hanging: str) -> None:
    for number in range(1, 30):
        place.server(number, f"s{number}", duration_seconds=100)
    place.timing["max_parallel"] = 30
    reader, writer = fill_pipe()
    streams: dict[str, Any] = {hanging: writer}
    process = place.start("-v", **streams)
    os.close(writer)
    place.wait_for(CREATE, 29)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=40)
    os.close(reader)
    assert process.returncode == 1
    assert time.monotonic() - began < 30
    assert place.log.count("FINAL_STATUS") == 29
    assert place.run("1.json", "-n")[0] == 0


@pytest.mark.proves("wild-11.3")
def test_a_reader_that_stalls_for_a_while_gets_every_line(place: Place) -> None:
    for number in range(1, 9):
        place.server(number, f"s{number}", duration_seconds=3)
    reader, writer = fill_pipe()
    process = place.start("-v", stdout=writer)
    os.close(writer)
    place.wait_for(CREATE, 8)
    time.sleep(1.2)  # longer than any thread waits for it
    with open(reader, "rb") as stream:
        text = stream.read().lstrip(b"#").decode()
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0
    assert sorted(text.splitlines()) == sorted(place.log.splitlines())


@pytest.mark.proves("wild-11.3")
def test_a_terminal_that_is_stopped_holds_nothing_up(place: Place) -> None:
    """Ctrl-S, and nobody there to press Ctrl-Q."""
    place.server(duration_seconds=1)
    master, slave = pty.openpty()
    termios.tcflow(slave, termios.TCOOFF)
    process = place.start("-v", stdout=slave, stderr=slave)
    os.close(slave)
    assert process.wait(60) == 0
    os.close(master)
    assert "SUMMARY: 1 succeeded" in place.log
    assert place.run()[0] == 0


@pytest.mark.proves("wild-11.3")
@pytest.mark.parametrize("flag", ["-n", "--list"])
def test_what_is_only_looked_at_waits_for_its_reader(place: Place, flag: str) -> None:
    """As a pager is one, in which somebody reads slowly."""
    place.server()
    reader, writer = fill_pipe()
    process = place.start(flag, stdout=writer)
    os.close(writer)
    time.sleep(6)
    assert process.poll() is None
    with open(reader, "rb") as stream:
        text = stream.read().lstrip(b"#").decode()
    assert process.communicate(timeout=60)[1] == ""
    assert text.count("\n") >= 2
    assert ("(dry run: nothing was changed)" in text) is (flag == "-n")


@pytest.mark.proves("wild-11.3")
def test_sigterm_ends_a_dry_run_whose_output_hangs(place: Place) -> None:
    place.server()
    reader, writer = fill_pipe()
    process = place.start("-n", stdout=writer)
    os.close(writer)
    place.wait_for("GET /hz/images")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    os.close(reader)


STRACE = shutil.which("strace")


@pytest.mark.proves("wild-11.3")
@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_a_disk_that_hangs_under_the_log_holds_nothing_up(place: Place) -> None:
    """As a network mount does whose server has gone: the run is over before its first line is
    written (which strace sees to the end)."""
    server = place.server()
    log = place.folder / "disk" / "snapshots.log"
    log.parent.mkdir()
    log.touch(mode=0o600)
    place.extra = f"[FILES]\nlog_file = {log}\n"
    place.logs()
    trace = place.folder / "trace.txt"
    hang = [str(STRACE), "-f", "-o", str(trace), "-P", str(log)]
    hang += ["-e", "inject=write:delay_enter=15000000:when=1"]
    code, out, err = place.run(before=hang)
    if "strace: " in err and code == 1:
        pytest.skip("no process may be traced here")
    assert (code, out) == (0, "SUMMARY: 1 succeeded, 0 failed out of 1 total\n")
    lines = [line for line in trace.read_text().splitlines() if "write" in line]
    assert lines
    assert not any(re.search(r"= \d+$", line) for line in lines)  # it never returned
    assert len(place.cloud.names(server)) == 1


# --- errors of the program itself ---


@pytest.mark.proves("wild-11.7")
@pytest.mark.parametrize("flags", [[], ["-n"], ["-v"]])
@pytest.mark.parametrize(
    "breaks", ["load_settings", "load_servers", "collect_secrets", "open_plain", "Fleet"]
)
def test_the_traceback_of_a_bug_is_in_the_log_whenever_it_happens(
    project: Project, monkeypatch: pytest.MonkeyPatch, flags: list[str], breaks: str
) -> None:
    """In the configuration and in a dry run as well, where no log is open otherwise."""
    project.server("hetzner", 71)
    whole = getattr(snapshots, breaks)

    def explode(*args: Any, **more: Any) -> Any:
        if breaks == "open_plain" and args[0].suffix == ".log":
            return whole(*args, **more)
        raise ZeroDivisionError(f"with {project.account('hetzner').token}")

    monkeypatch.setattr(snapshots, breaks, explode)
    result = project.run(*flags)
    assert result.code == 1
    text = ": with [hidden]" if breaks == "Fleet" else ""  # before that it is not masked yet
    assert f"unexpected ZeroDivisionError{text} (a bug: see the log)" in result.err
    assert "Traceback" in result.log
    assert "in explode" in result.log
    for path in (project.folder / "logs").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.proves("wild-11.7")
def test_a_dry_run_without_a_bug_makes_no_log(project: Project) -> None:
    project.server("hetzner", 71)
    assert project.run("-n").code == 0
    assert project.run("-n", "nope.json").code == 1
    project.config["TIMING"]["nope"] = 1
    assert project.run().code == 1
    assert not (project.folder / "logs").exists()


# --- a system that forbids what others allow ---

FORBIDDEN = {
    "locks": """
import fcntl
def flock(*_):
    raise PermissionError(13, "Permission denied")
fcntl.flock = flock
""",
    "threads": """
import threading
def start(self):
    raise RuntimeError("can't start new thread")
threading.Thread.start = start
""",
    "timers": """
import threading
def start(self):
    raise RuntimeError("can't start new thread")
threading.Timer.start = start
""",
    "socketpair": """
import socket
def socketpair(*_):
    raise OSError(24, "Too many open files")
socket.socketpair = socketpair
""",
    "devnull": """
import os
os.devnull = "/nowhere/null"
""",
}


def start_where_forbidden(place: Place, what: str, *args: str) -> subprocess.Popen[str]:
    command = place.command(*args)
    script = "import runpy, sys\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    command[1:1] = ["-c", FORBIDDEN[what] + script]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def where_forbidden(place: Place, what: str, *args: str) -> tuple[int, str, str]:
    process = start_where_forbidden(place, what, *args)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, out, err


@pytest.mark.proves("wild-12.5")
@pytest.mark.parametrize("args", [[], ["--status"]])
def test_a_lock_that_is_forbidden_is_not_taken_for_one_that_is_held(
    place: Place, args: list[str]
) -> None:
    """By AppArmor, say. As exit status 3 it would be nobody's failure, night by night."""
    place.server()
    place.run()
    code, out, err = where_forbidden(place, "locks", *args)
    assert code == (2 if args else 1)
    doing = "checked" if args else "locked"
    assert f"{place.folder}/logs/snapshots.lock: cannot be {doing}: Permission denied" in out + err


@pytest.mark.proves("wild-12.6")
def test_where_there_are_no_threads_at_all_the_run_says_so_to_the_end(place: Place) -> None:
    """An old Docker under a new system forbids them all."""
    place.server()
    code, out, err = where_forbidden(place, "threads")
    assert (code, out) == (1, "SUMMARY: 0 succeeded, 1 failed out of 1 total\n")
    assert "web: could not be started: can't start new thread (lower [TIMING]" in err
    assert place.cloud.journal == []


@pytest.mark.proves("wild-12.6")
def test_a_signal_is_heard_though_no_further_thread_can_be_started(place: Place) -> None:
    """They are all in use: by the turns of this very run, say."""
    place.server(duration_seconds=60)
    process = start_where_forbidden(place, "timers")
    place.wait_for("GET /hz/actions")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "web: interrupted by SIGTERM; Hetzner may still finish it" in err


@pytest.mark.proves("wild-12.7")
@pytest.mark.parametrize("what", ["devnull", "socketpair"])
def test_a_system_without_dev_null_or_socket_pairs_is_no_obstacle(place: Place, what: str) -> None:
    place.server()
    code, out, err = where_forbidden(place, what)
    assert (code, out, err) == (0, "SUMMARY: 1 succeeded, 0 failed out of 1 total\n", "")


# --- a system without what Unix has ---

WITHOUT_UNIX = """
import fcntl, os, signal, subprocess, sys, tempfile, types

def locking(descriptor, mode, size):
    at = os.lseek(descriptor, 0, os.SEEK_CUR)
    assert at > 1000 and mode == 2, (at, mode)  # what is locked nobody can read
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, size, at)
    except OSError:
        raise PermissionError(13, "Permission denied") from None

msvcrt = types.ModuleType("msvcrt")
msvcrt.locking, msvcrt.LK_NBLCK = locking, 2
sys.modules["msvcrt"] = msvcrt
locks, sys.modules["fcntl"] = fcntl, None
for module in ("grp", "pwd", "resource", "termios"):
    sys.modules[module] = None
for name in ("pread", "pwrite", "getuid", "geteuid", "getgid", "getegid", "getgroups", "fork",
             "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "set_blocking", "fchmod", "chown", "statvfs"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGALRM", "pthread_sigmask", "pthread_kill", "sigwait",
             "sigtimedwait", "setitimer", "alarm", "pause"):
    delattr(signal, name)
sys.argv = sys.argv[1:]
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def without_unix(place: Place, *args: str) -> subprocess.Popen[str]:
    command = place.command(*args)
    command[1:1] = ["-c", WITHOUT_UNIX]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.proves("wild-11.4")
def test_it_runs_locks_and_stops_where_there_is_no_unix(place: Place) -> None:
    server = place.server(retain=1, duration_seconds=1)
    for number in range(2):
        hold = place.hold()
        first = without_unix(place, "-v")
        place.wait_for(CREATE, number + 1)
        second = without_unix(place)
        out, err = second.communicate(timeout=60)
        assert (second.returncode, out) == (3, "")
        assert f"another run holds the lock: process {first.pid} since 20" in err
        hold.set()
        out, err = first.communicate(timeout=60)
        assert (first.returncode, err) == (0, "")
    assert place.cloud.snapshots(server) == place.cloud.created[-1:]
    server.duration_seconds = 100
    third = without_unix(place)
    place.wait_for(CREATE, 3)
    place.wait_for("GET /hz/actions", 1)
    third.send_signal(signal.SIGTERM)
    _, err = third.communicate(timeout=60)
    assert third.returncode == 1
    assert "web: interrupted by SIGTERM; Hetzner may still finish it" in err


def test_without_unix_a_schedule_is_a_text_for_powershell(place: Place) -> None:
    process = without_unix(place, "--install-cron", "03:15")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.startswith("at 03:15 every day\nnext run: ")
    assert "$action = New-ScheduledTaskAction -Execute '" in out
    assert "\n  New-ScheduledTaskTrigger -Daily -At '03:15'\n" in out
    for option, command in (("--show-cron", "Get-"), ("--remove-cron", "Unregister-")):
        process = without_unix(place, option)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err, out.count("\n")) == (0, "", 1)
        assert out.startswith(f"{command}ScheduledTask -TaskName 'snapshots.py ")


@pytest.mark.parametrize("look", ["--status", "--check", "--list", "--report"])
def test_without_unix_looks_see_what_they_see_elsewhere(place: Place, look: str) -> None:
    place.server(retain=1, duration_seconds=0)
    assert without_unix(place).communicate(timeout=60)[1] == ""
    page = [str(place.folder / "page.html")] if look == "--report" else []
    process = without_unix(place, look, *page)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "web" in (Path(page[0]).read_text() if page else out)
    assert ("Task Scheduler" in out) is (look in ("--status", "--check"))


# --- started through a link ---


@pytest.mark.proves("wild-10")
@pytest.mark.parametrize(
    ("beside_link", "beside_file", "chosen"),
    [
        ((), ("snapshots.config",), "file"),
        ((), (), "file"),
        (("snapshots.config",), ("snapshots.config", "configs/1.json"), "link"),
        (("configs/1.json",), ("snapshots.config", "configs/1.json"), "link"),
        (("configs/.1.json", "configs/1.json.sample", "logs/x"), ("configs/1.json",), "file"),
    ],
)
@pytest.mark.parametrize("hops", [1, 2])
def test_through_a_link_everything_comes_from_one_directory(
    place: Place,
    beside_link: tuple[str, ...],
    beside_file: tuple[str, ...],
    chosen: str,
    hops: int,
) -> None:
    folders = {name: place.folder / name for name in ("file", "link", "between")}
    for folder in folders.values():
        folder.mkdir()
    target = folders["file"] / "snapshots.py"
    shutil.copy(SCRIPT, target)
    for number in range(hops):
        link = folders["between"] / "snap" if number < hops - 1 else folders["link"] / "snapshots"
        link.symlink_to(target)
        target = link
    names = {"link": beside_link, "file": beside_file}
    for where, files in names.items():
        for name in files:
            path = folders[where] / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("{}" if "json" in name else "[TELEGRAM]\nenabled = false\n")
            path.chmod(0o600)
    result = subprocess.run(
        [sys.executable, str(link), "-v"], text=True, capture_output=True, timeout=60, check=False
    )
    assert result.returncode == 1
    home, other = folders[chosen], folders[{"link": "file", "file": "link"}[chosen]]
    if "configs/1.json" in names[chosen]:
        assert f"configuration: {home / 'snapshots.config'}\n" in result.stdout
        assert result.stderr.startswith(f"snapshots: 1: {home / 'configs/1.json'}: must hold ")
        assert (home / "logs" / "snapshots.log").exists()
        assert (home / "logs" / "snapshots.lock").exists()
    else:
        assert result.stderr.startswith(f"snapshots: {home / 'configs'}: ")
    assert not (other / "logs" / "snapshots.log").exists()
    assert not (other / "logs" / "snapshots.lock").exists()


# --- the environment is input ---


@pytest.mark.proves("wild-10")
@pytest.mark.parametrize(
    "environment",
    [
        {b"HTTPS_PROXY": b"http://me:pass\xff\xfeword@127.0.0.1:9", b"NO_PROXY": b"127.0.0.1"},
        {b"https_proxy": b"\xff\xfe", b"no_proxy": b"127.0.0.1"},
        {b"FTP_PROXY": b"ftp://\xc3(:\xa0\xa1secret-word\xff@h", b"x_proxy": b"@"},
        {b"NO_PROXY": b"\xff,127.0.0.1,\xfe@"},
        {b"TZ": b"\xff\xfe/x"},
        {b"LANG": b"\xff", b"LC_ALL": b"de_DE.\xff", b"LC_CTYPE": b"\xfe"},
        {b"HOME": b"/home/m\xfcller"},
        {b"\xff": b"\xfe", b"A": b""},
        {b"TERM": b"\xff", b"COLUMNS": b"\xff", b"LINES": b"-1", b"TMPDIR": b"/\xff"},
    ],
)
def test_an_environment_that_is_no_utf_8_is_no_obstacle(
    place: Place, environment: dict[bytes, bytes]
) -> None:
    place.server()
    kept = {k: v for k, v in os.environb.items() if k in (b"PATH", b"LD_LIBRARY_PATH")}
    code, out, err = place.run("-v", env={**kept, **environment})
    assert (code, err) == (0, "")
    assert "SUMMARY: 1 succeeded" in out


@pytest.mark.proves("wild-10")
def test_bytes_that_are_no_utf_8_in_names_of_files_are_shown_escaped(place: Place) -> None:
    place.server()
    odd = os.fsencode(place.folder / "configs") + b"/b\xffd.json"
    with open(odd, "wb") as file:
        file.write(b"{")
    code, _, err = place.run()
    assert code == 2
    assert r"b\udcffd.json: not valid JSON" in err
    home = os.fsencode(place.folder) + b"/m\xfcller"
    place.extra = "[DIRECTORIES]\nlogs_dir = ~/logs\n"
    code, _, err = place.run("1.json", env={**os.environ, "HOME": os.fsdecode(home)})
    assert (code, err) == (0, "")
    assert os.path.exists(home + b"/logs/snapshots.log")
    shutil.rmtree(home)


# --- secrets ---


@pytest.mark.proves("W6")
def test_an_unexpected_error_is_one_line_and_its_traceback_is_in_the_log(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock breaks in the middle of a turn: nothing that the program foresees."""
    server = project.server("hetzner", 71, "web", duration_seconds=30)
    project.server("hetzner", 72, "db", duration_seconds=30)
    old = project.history(server, 2)

    def explode(self: Any, name: str) -> str:
        raise ZeroDivisionError(f"with {project.account('hetzner').token}\x1b[2J")

    project.cloud.fault("GET /hz/actions", fake.edit(lambda c: c))
    monkeypatch.setattr(snapshots.Hetzner, "_progress", explode)
    result = project.run()
    assert result.code == 1
    assert r"unexpected ZeroDivisionError: with [hidden]\u001b[2J (a bug: see" in result.err
    assert "Traceback" in result.log
    assert "\x1b" not in result.log
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


@pytest.mark.proves("wild-11.10")
@pytest.mark.parametrize(
    "text",
    [
        "Bearer token missing",
        "Unable to authenticate you: Basic authentication is off",
        "see https://example.org/a:b@c and 12345678:AAF-abcdefghijklmnopqrstuv",
        "100%25 &quot;sure&quot; \\u2713 a+b \\/ %zz &nothing; \\",
        "",
    ],
)
def test_what_is_no_credential_stays_as_it_is(text: str) -> None:
    redact = snapshots.Redactor()
    redact.add("sekret-Word/1234", "100%25 of it")
    assert redact(text) == text


SECRETS = [
    'pa"ss/wo%rd+ü{}long',
    "plain-Token_0123456789",
    "back\\slash\\u0041\\n1",
    "amp&amp;&quot;entity;",
    "😀emoji and 日本語",
    "%2F%252F%%41+ +",
    "'single' <tag>",
    "ÄÖÜäöüß¼é",
]


def html_numbers(text: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else f"&#{ord(c)};" for c in text)


def html_hex(text: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else f"&#X{ord(c):X};" for c in text)


def every_character(form: str) -> Callable[[str], str]:
    return lambda text: "".join(form.format(ord(c)) for c in text)


ESCAPES: dict[str, Callable[[str], str]] = {
    "not at all": str,
    "URL": quote,
    "URL, all of it": lambda text: quote(text, safe=""),
    "URL in small letters": lambda text: re.sub(
        "%..", lambda m: m[0].lower(), quote(text, safe="")
    ),
    "form": quote_plus,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON, not only ASCII": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON, as PHP has it": lambda text: json.dumps(text)[1:-1].replace("/", r"\/"),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)[1:-1])[1:-1],
    "HTML": html.escape,
    "HTML numbers": html_numbers,
    "HTML numbers in hex": html_hex,
    "XML": lambda text: saxutils.quoteattr(text)[1:-1].replace("'", "&apos;"),
    "repr": lambda text: repr(text)[1:-1],
    "ascii": lambda text: ascii(text)[1:-1],
    "bytes": lambda text: repr(text.encode())[2:-1],
    "every character in a URL": lambda text: "".join(f"%{b:02x}" for b in text.encode()),
    "every character in HTML": every_character("&#{};"),
    "every character in careless HTML": every_character("&#{}"),
    "every character in JavaScript": every_character("\\u{{{:x}}}"),
    "capitals": lambda text: "".join(c.upper() if c.isascii() else c for c in text),
}


def is_masked(secret: str, text: str, redact: snapshots.Redactor) -> bool:
    """Nothing of it is left, and nothing but it is gone."""
    return redact(f"<x y={text}> z") == "<x y=[hidden]> z"


@pytest.mark.proves("wild-11.10")
@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("first", ESCAPES)
def test_a_credential_is_masked_however_it_is_escaped(secret: str, first: str) -> None:
    """And escaped once more, in whatever way."""
    redact = snapshots.Redactor()
    redact.add("another-secret-0815", secret)
    once = ESCAPES[first](secret)
    assert is_masked(secret, once, redact), once
    for second in ESCAPES:
        if (first, second) == ("XML", "capitals"):  # &APOS; is no entity
            continue
        twice = ESCAPES[second](once)
        assert is_masked(secret, twice, redact), (second, twice)


@pytest.mark.proves("wild-11.10")
@pytest.mark.parametrize("secret", [*SECRETS, "non-UTF-8 \udcff\udcfe"])
@pytest.mark.parametrize("encode", ["hex", "HEX", "base64", "base64 for URLs"])
@pytest.mark.parametrize("before", [b"", b"1", b"12", b"\0user\0"])
def test_a_credential_is_masked_in_hex_and_base64(secret: str, encode: str, before: bytes) -> None:
    redact = snapshots.Redactor()
    redact.add(secret)
    raw = secret.encode("utf-8", "surrogateescape")
    for after in (b"", b"1", b"12"):
        whole = before + raw + after
        text = {
            "hex": whole.hex(),
            "HEX": whole.hex().upper(),
            "base64": base64.b64encode(whole).decode(),
            "base64 for URLs": base64.urlsafe_b64encode(whole).decode(),
        }[encode]
        # but for a character that holds bits of its neighbour as well
        for form in (text, text.replace("/", r"\/"), quote(text, safe="")):
            masked = redact(f"x {form} y")
            assert "[hidden]" in masked
            left = len(whole.hex()) - len(raw.hex()) if "x" in encode.lower() else 20
            assert len(masked) <= len("x [hidden] y") + left


@pytest.mark.proves("wild-11.10")
def test_a_credential_beside_an_escape_is_masked(project: Project) -> None:
    """Whatever is before it, and whatever its own first characters would mean there."""
    redact = snapshots.Redactor()
    redact.add("41deadbeef00", "u0041-abcdef", "#34;abcdefgh")
    for secret in ("41deadbeef00", "u0041-abcdef", "#34;abcdefgh"):
        for before in ("%", "\\", "&", "&amp;", "\\\\", "%25", "\\u", r"\u0000", "+"):
            assert "[hidden]" in redact(f"{before}{secret}"), before + secret
            assert secret not in redact(f"{before}{secret}")


@pytest.mark.proves("W4")
@pytest.mark.parametrize("name", ["snapshots.log", "snapshots.lock"])
def test_a_second_name_of_another_file_is_not_written_to(place: Place, name: str) -> None:
    """A hard link, which neither O_NOFOLLOW nor the type of the file tells."""
    place.server()
    target = place.folder / "target"
    target.write_text("untouched")
    os.link(target, place.logs() / name)
    code, _, err = place.run()
    assert target.read_text() == "untouched"
    assert code == (0 if name == "snapshots.log" else 1)
    assert str(place.logs() / name) in err
