#!/usr/bin/env python3
"""What a run leaves behind when it is hit at any of its system calls, and what the next one makes
of it.

strace kills the real script at its nth call to the network or to its own files, for every n until
a run comes through; it also lets calls on these files fail, sends signals, and stops the script
for longer than a request may take. After each of these the cloud is looked at; then one run
without faults must end with exactly the snapshots that retention asks for.

strace counts calls per thread, so with several servers the one that comes first is hit. It must
trace every call: with --seccomp-bpf, strace 6.1 takes injections and does nothing.

    python tests/tools/sweep.py                                        everything, some minutes
    python tests/tools/sweep.py --fleet hetzner --call sendto --at 3   one point; its files are kept

Exit status 1 if anything does not hold; each failure is shown with what repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any, Optional

HERE = Path(__file__).resolve().parent.parent  # tests/
sys.path[:0] = [str(HERE), str(HERE.parent)]

from fakes import FakeCloud, RealClock, Server, Snapshot  # noqa: E402

import snapshots  # noqa: E402

SCRIPT = HERE.parent / "snapshots.py"
FLEETS = {
    "digitalocean": ("digitalocean",),
    "hetzner": ("hetzner",),
    "contabo": ("contabo",),
    "one of each": ("digitalocean", "hetzner", "contabo"),
    "one project": ("hetzner", "hetzner", "hetzner"),
    "one account": ("digitalocean", "digitalocean", "digitalocean"),
}
RETAIN = 2
NIGHTS = 3  # of history: a run has two snapshots to delete, and can die between them
HTTP_SECONDS = 1.0  # the least that http_timeout may be
LIMIT_SECONDS = 90.0  # of one run; a lost answer may cost it half a minute


# === A night ===================================================================================


class CloudClock(RealClock):
    """The cloud's time. It can stand still between two runs, so that what the first one has begun
    is under way when the next one comes, however long that takes to start."""

    def __init__(self) -> None:
        self.behind = timedelta()
        self.paused: Optional[datetime] = None

    def now(self) -> datetime:
        return self.paused or super().now() - self.behind

    def pause(self) -> None:
        self.paused = self.now()

    def go_on(self) -> None:
        if self.paused is not None:
            self.behind, self.paused = super().now() - self.paused, None


class StrictCloud(FakeCloud):
    """Frowns upon a deletion for a server that has no new snapshot of this run to show; at Contabo,
    where what a killed run has left on a full plan goes first, that run's does as well."""

    made_before = 0  # this run: how many of `created`

    def __init__(self) -> None:
        self.stoppable = CloudClock()
        super().__init__(self.stoppable)

    def delete(self, snapshot: Snapshot) -> None:
        contabo = snapshot.account.provider == "contabo"
        made = self.created[0 if contabo else self.made_before :]
        if not any(s.server is snapshot.server and s.status == "available" for s in made):
            self.problem(f"{snapshot.name} is deleted before a new one is there")
        super().delete(snapshot)


@dataclass
class Night:
    """A fleet with some nights of history, and what must never be touched."""

    folder: Path
    cloud: StrictCloud
    servers: list[Server] = field(default_factory=list)
    history: dict[str, list[str]] = field(default_factory=dict)  # ids of each server's own
    foreign: set[str] = field(default_factory=set)

    @property
    def lock(self) -> Path:
        return self.folder / "logs" / "snapshots.lock"

    @property
    def log(self) -> Path:
        return self.folder / "logs" / "snapshots.log"

    @property
    def rotated(self) -> list[Path]:
        return [self.log.with_name(f"{self.log.name}.{number}") for number in range(1, 10)]

    def command(self) -> list[str]:
        return [sys.executable, str(SCRIPT), "--config", str(self.folder / "snapshots.config")]

    def log_text(self) -> str:
        files = [path for path in [self.log, *self.rotated] if path.exists()]
        return "".join(path.read_text(encoding="utf-8") for path in files)

    def made(self, server: Server) -> list[str]:
        """Ids of the snapshots that runs have made, oldest first."""
        return [s.id for s in self.cloud.created if s.server is server]

    def own(self, server: Server) -> list[str]:
        """Ids of the usable snapshots there are that are not foreign, oldest first."""
        usable = [s for s in self.cloud.snapshots(server) if s.status == "available"]
        return [s.id for s in usable if s.id not in self.foreign]

    def kept(self, server: Server) -> list[str]:
        """What own() must be when a run has done its work."""
        return [*self.history[server.id], *self.made(server)][-RETAIN:]

    def is_done(self, server: Server) -> bool:
        """Has the first run done its work for this server?"""
        return len(self.made(server)) == 1 and self.own(server) == self.kept(server)

    def after_fault(self) -> list[str]:
        """What does not hold right after a fault in the first run, whatever it was."""
        self.cloud.stoppable.pause()
        problems = []
        if self.lock.exists():
            with self.lock.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    problems.append("the lock is still held")
        self.cloud.come_to_rest()
        problems += self.cloud.problems
        if not self.foreign <= {s.id for s in self.cloud.snapshots()}:
            problems.append("a foreign snapshot is gone")
        for server in self.servers:
            made, own = self.made(server), self.own(server)
            if len(made) > 1:
                problems.append(f"{server.name}: {len(made)} snapshots made in one run")
            ever = [*self.history[server.id], *(id for id in made if id in own)]
            if len(own) < RETAIN or own != ever[-len(own) :]:
                problems.append(f"{server.name}: of {ever}, {own} are left")
        return problems

    def after_clean_run(self) -> list[str]:
        """Run once without faults: what does not hold then."""
        before = {server.id: len(self.made(server)) for server in self.servers}
        self.cloud.made_before = len(self.cloud.created)
        self.cloud.stop_at(len(self.cloud.journal) + 1, self.cloud.stoppable.go_on)
        try:
            clean = subprocess.run(
                self.command(), capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return ["the clean run does not end"]
        self.cloud.come_to_rest()
        self.cloud.stoppable.go_on()
        problems = list(self.cloud.problems)
        if (clean.returncode, clean.stderr) != (0, ""):
            problems.append(f"the clean run ends with {clean.returncode}: {clean.stderr!r}")
        for server in self.servers:
            if len(self.made(server)) != before[server.id] + 1:
                problems.append(f"{server.name}: not one snapshot made in the clean run")
            if self.own(server) != self.kept(server):
                problems.append(f"{server.name}: {self.own(server)}, not {self.kept(server)}")
        if not self.foreign <= {s.id for s in self.cloud.snapshots()}:
            problems.append("a foreign snapshot is gone after the clean run")
        return problems


def credentials(provider: str) -> dict[str, Any]:
    if provider != "contabo":
        return {"api_token": f"sweep-token-{provider}"}
    return {
        "client_id": "sweep-client",
        "client_secret": "sweep-client-secret",
        "api_user": "sweep-user",
        "api_password": "sweep-password",
    }


@contextlib.contextmanager
def night(fleet: str, folder: Path, config: str = "") -> Iterator[Night]:
    """A cloud, and a project directory in this folder. config: more of [TIMING], and sections."""
    cloud = StrictCloud()
    with cloud:
        made = Night(folder, cloud)
        (folder / "configs").mkdir()
        accounts = {}
        slots = 2 + NIGHTS + 1  # at Contabo: one more, for the new snapshot
        for provider in dict.fromkeys(FLEETS[fleet]):
            given = credentials(provider)
            token = given.pop("api_token", None)
            accounts[provider] = cloud.add_account(provider, token, **given)
        for number, provider in enumerate(FLEETS[fleet], 1):
            name = f"s{number}"
            server = cloud.add_server(
                accounts[provider], number, name, duration_seconds=0.2, slots=slots
            )
            made.servers.append(server)
            now = datetime.now(timezone.utc)
            for days, foreign in ((9, "by hand"), (8, f"{name}-20260101")):
                made.foreign.add(cloud.add_snapshot(server, foreign, now - timedelta(days)).id)
            made.history[server.id] = [
                cloud.add_snapshot(server, snapshots.snapshot_name(name, at), at).id
                for at in (now - timedelta(days) for days in range(NIGHTS, 0, -1))
            ]
            top = next(key for key, value in snapshots.TOP_KEYS.items() if value == provider)
            content = {"id": number, "name": name, "retain_last_snapshots": RETAIN}
            path = folder / "configs" / f"{number}.json"
            path.write_text(json.dumps({top: {**content, **credentials(provider)}}), "utf-8")
            path.chmod(0o600)
        api = "".join(f"{key} = {value}\n" for key, value in cloud.endpoints().items())
        (folder / "snapshots.config").write_text(
            f"[API]\n{api}[TELEGRAM]\nenabled = false\n"
            f"[TIMING]\ndelay_between_servers = 0\npoll_interval = 0.1\n{config}",
            encoding="utf-8",
        )
        yield made


# === One point =================================================================================

KILL, STOP, SIGNAL, SAME_TWICE, TWO = "KILL", "STOP", "signal", "same signal twice", "two signals"
ERRORS = ("ENOSPC", "EIO", "EROFS")
POLITE = ("TERM", "INT", "HUP")  # they take turns


@dataclass(frozen=True)
class Sweep:
    """Something that happens at a call. where: on which of our files, or "" for the network."""

    fleet: str
    what: str
    call: str
    where: str = ""

    def __str__(self) -> str:
        place = f" of the {self.where}" if self.where else ""
        return f"{self.fleet}: {self.what} at {self.call}{place}"

    def again(self, n: int) -> str:
        options = {
            "--fleet": self.fleet,
            "--what": self.what,
            "--call": self.call,
            "--where": self.where,
            "--at": str(n),
        }
        words = [word for pair in options.items() if pair[1] for word in pair]
        return shlex.join(["tests/sweep.sh", *words])

    def injections(self, n: int) -> list[str]:
        """strace's words for it, for the nth call."""
        first, second = POLITE[n % 3], POLITE[(n + 1) % 3]
        words = {
            KILL: [f"{self.call}:signal=KILL:when={n}"],
            STOP: [f"{self.call}:signal=STOP:when={n}"],
            SIGNAL: [f"{self.call}:signal={first}:when={n}"],
            SAME_TWICE: [f"{self.call}:signal={first}:when={n}..{n + 1}"],
            TWO: [f"sendto:signal={first}:when={n}", f"recvfrom:signal={second}:when={n}"],
        }
        # an error stays, as a full disk does
        return words.get(self.what, [f"{self.call}:error={self.what}:when={n}+"])

    @property
    def is_error(self) -> bool:
        return self.what in ERRORS

    @property
    def only_first(self) -> bool:
        """One error is tried at every call, for the others the first will do."""
        return self.is_error and self.what != ERRORS[0]

    def night(self, folder: Path) -> contextlib.AbstractContextManager[Night]:
        config = f"http_timeout = {HTTP_SECONDS:g}\n" if self.what == STOP else ""
        if self.where == "old logs":
            config += "[LOGGING]\nmax_bytes = 1000\nbackup_count = 9\n"
        return night(self.fleet, folder, config)


@dataclass
class Traced:
    """A run under strace."""

    code: int
    err: str
    text: str  # of strace
    command: str

    @property
    def hit(self) -> bool:
        """Did anything happen to it?"""
        return self.code == -signal.SIGKILL or "(INJECTED)" in self.text or "--- SIG" in self.text


def trace(made: Night, sweep: Sweep, n: int) -> Traced:
    """Run the script with this fault at its nth call; n 0: without."""
    files = {"lock": [made.lock], "log": [made.log], "own files": [made.lock, made.log]}
    files["old logs"] = [made.log, *made.rotated]
    output = made.folder / "strace.out"
    command = ["strace", "-f", "-qq", "-o", str(output)]
    for path in files.get(sweep.where, []):
        command += ["-P", str(path)]
        path.parent.mkdir(exist_ok=True)  # as on every night but the first, it is there
        path.touch()
    if n:
        injections = sweep.injections(n)
        calls = ",".join(word.partition(":")[0] for word in injections)
        command += ["-e", f"trace={calls}"]
        command += [word for text in injections for word in ("-e", f"inject={text}")]
    command += made.command()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    resumer = threading.Thread(target=resume, args=(process, output))
    if sweep.what == STOP:
        resumer.start()
    try:
        _, err = process.communicate(timeout=LIMIT_SECONDS)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        code, err = -signal.SIGALRM, "it does not end"
    if sweep.what == STOP:
        resumer.join()
    text = output.read_text(encoding="utf-8", errors="replace")
    return Traced(code, err, text, shlex.join(command))


def resume(process: subprocess.Popen[str], output: Path) -> None:
    """Whenever the script stops, let it go on after a request's time is over."""
    stops = 0
    while process.poll() is None:
        time.sleep(0.02)
        text = output.read_text(encoding="utf-8") if output.exists() else ""
        if text.count("--- SIGSTOP ") > stops:
            time.sleep(HTTP_SECONDS + 0.3)
            stops = output.read_text(encoding="utf-8").count("--- SIGSTOP ")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)


def judge(made: Night, sweep: Sweep, traced: Traced) -> list[str]:
    """What is wrong with how the run ended, and with what it said about that."""
    code, err, log = traced.code, traced.err, made.log_text()
    problems = []
    if any(word in err + log for word in ("Traceback", "(a bug", "unexpected ")):
        problems.append(f"an error that was not thought of: {err!r}")
    if sweep.what == KILL:
        if code != -signal.SIGKILL:
            problems.append(f"exit status {code}")
        return problems
    if sweep.where == "lock" and sweep.call not in ADVICE_CALLS:
        if (code, err.count("\n"), made.cloud.journal) != (1, 1, []):
            problems.append(f"exit status {code}, or not one line, or things done: {err!r}")
        return problems

    told = re.findall(r" \| FINAL_STATUS \|(?: [^|]+ \|){2} ([^|]+) \| (\w+) \|", log)
    successes = {name for name, status in told if status == "SUCCESS"}
    for server in made.servers:
        if server.name in successes and not made.is_done(server):
            problems.append(f"{server.name}: a success that is none")
    if code == 0 and not all(map(made.is_done, made.servers)):
        problems.append("exit status 0, and the cloud does not show it")
    summaries = log.count(" | SUMMARY: ")
    log_is_whole = (len(told), summaries) == (len(made.servers), 1)
    if sweep.is_error:
        if code != 0:
            problems.append(f"exit status {code}, though only a file failed: {err!r}")
        warned = err.startswith("snapshots: warning: ") and err.count("\n") == 1
        if not (warned if err else log_is_whole):
            problems.append(f"neither one warning nor a whole log: {err!r}")
    else:
        wanted = 1 if not successes else 0 if len(successes) == len(made.servers) else 2
        if code != wanted:
            problems.append(f"exit status {code}, not {wanted}: {err!r}")
        if not log_is_whole:
            problems.append(f"the log has {len(told)} FINAL_STATUS and {summaries} SUMMARY lines")
    if sweep.what == STOP and code != 0:
        problems.append("a late answer is no reason to fail")
    return problems


def point(sweep: Sweep, n: int, folder: Path) -> tuple[bool, list[str]]:
    """Whether the nth call was hit, and what does not hold: lines to show."""
    with sweep.night(folder) as made:
        traced = trace(made, sweep, n)
        if not traced.hit:
            return False, []
        found = [*judge(made, sweep, traced), *made.after_fault(), *made.after_clean_run()]
        if found:
            found = [f"call {n}:", *found, f"again: {sweep.again(n)}", traced.command]
        return True, found


def points(sweep: Sweep, at: Optional[int] = None) -> tuple[Sweep, int, float, list[str]]:
    """Every point of a sweep, or one: how many were hit, seconds, and a text for each failure."""
    began, failures, hits = time.monotonic(), [], 0
    for n in itertools.count(1) if at is None else [at]:
        folder = Path(tempfile.mkdtemp(prefix="sweep-"))
        try:
            hit, found = point(sweep, n, folder)
        finally:
            if at is None:
                shutil.rmtree(folder)
        if found:
            failures.append("\n    ".join(found))
        hits += hit
        if not hit or sweep.only_first:
            break
        if n >= MAX_POINTS:
            failures.append(f"no end after {n} points")
            break
    if not hits:
        failures.append("nothing was hit")
    if at is not None:
        failures = [f"{failure}\n    files: {folder}" for failure in failures]
    return sweep, hits, time.monotonic() - began, failures


# === All of them ===============================================================================

NETWORK = ("sendto", "recvfrom", "connect")
# On the lock, these may fail: who holds it is only advice, and when it is let go all is done.
ADVICE_CALLS = ("ftruncate", "write", "lseek", "close")
LOOKING_CALLS = ("lseek", "newfstatat", "fstat", "stat", "statx", "ioctl", "pread64")
RENAMING_CALLS = ("rename", "renameat", "renameat2", "unlink", "unlinkat")
MAX_POINTS = 200  # a run has far fewer calls


def calls_on(where: str) -> list[str]:
    """The names of the calls that a run makes on these files."""
    sweep = Sweep("one of each", "", "", where)
    with tempfile.TemporaryDirectory() as folder, sweep.night(Path(folder)) as made:
        found = re.findall(r"^\d+ +(\w+)\(", trace(made, sweep, 0).text, re.MULTILINE)
    return sorted(set(found))


def all_sweeps() -> list[Sweep]:
    """The long ones first."""
    lock, log = calls_on("lock"), calls_on("log")
    renaming = [call for call in calls_on("old logs") if call in RENAMING_CALLS]
    if "flock" not in lock or "write" not in log or not renaming:
        raise SystemExit(f"the files are not what they were: {lock}, {log}, {renaming}")
    each, project = "one of each", "one project"
    sweeps = [Sweep(each, STOP, call) for call in ("sendto", "recvfrom")]
    sweeps += [Sweep(fleet, KILL, call) for call in NETWORK for fleet in FLEETS]
    for what, call in ((SIGNAL, "sendto"), (SIGNAL, "recvfrom"), (SAME_TWICE, "recvfrom")):
        sweeps += [Sweep(fleet, what, call) for fleet in (each, project)]
    sweeps += [Sweep(fleet, TWO, "sendto") for fleet in (each, project)]
    for call in sorted({*lock, *log}):
        fleets = (each,) if call in LOOKING_CALLS else tuple(FLEETS)
        sweeps += [Sweep(fleet, KILL, call, "own files") for fleet in fleets]
    sweeps += [Sweep(each, KILL, call, "old logs") for call in renaming]
    for where, calls in (("lock", lock), ("log", log), ("old logs", renaming)):
        sweeps += [
            Sweep(each, error, call, where)
            for call in calls
            if call not in ("lseek", "ioctl")  # these are asked about a file that is open
            for error in ERRORS
        ]
    return sweeps


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Hit runs of snapshots.py at their system calls")
    parser.add_argument("--fleet", choices=FLEETS)
    parser.add_argument("--what", help="KILL, STOP, signal, ENOSPC, ... (see --list)")
    parser.add_argument("--call", help="sendto, write, ...")
    parser.add_argument("--where", help="lock, log, own files, old logs")
    parser.add_argument("--at", type=int, metavar="N", help="the Nth call alone; files are kept")
    parser.add_argument(
        "--jobs", type=int, default=2 * (os.cpu_count() or 1)
    )  # half of it is waiting
    parser.add_argument("--list", action="store_true", help="name the sweeps and do nothing")
    args = parser.parse_args(argv)
    sweeps = [
        sweep
        for sweep in all_sweeps()
        if all(
            getattr(args, name) in (None, getattr(sweep, name))
            for name in ("fleet", "what", "call", "where")
        )
    ]
    if args.list:
        print(*sweeps, sep="\n")
        return 0
    began, total, failed = time.monotonic(), 0, 0
    with ProcessPoolExecutor(args.jobs) as pool:
        for sweep, count, seconds, failures in pool.map(partial(points, at=args.at), sweeps):
            total, failed = total + count, failed + len(failures)
            print(f"{sweep}: {count} points, {seconds:.0f} s", flush=True)
            for failure in failures:
                print(f"  FAILED: {failure}", flush=True)
    print(f"{total} points in {len(sweeps)} sweeps, {failed} failures,", end=" ")
    print(f"{time.monotonic() - began:.0f} s")
    return int(failed > 0 or total == 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
