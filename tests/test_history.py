"""The history of runs: an SQLite file that is advice, and never in the way of a run."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import fakes as fake
import pytest
from conftest import Project
from fakes.clock import KilledError

import snapshots


def rows(project: Project, query: str, *values: Any) -> list[dict[str, Any]]:
    path = project.folder / "logs" / "history.db"
    with closing(sqlite3.connect(path)) as file:
        file.row_factory = sqlite3.Row
        return [dict(row) for row in file.execute(query, values)]


@pytest.mark.proves("history-1")
def test_a_run_and_its_turns_are_written_down(project: Project) -> None:
    """UTC, sizes, what was kept and deleted, and for a failure its text."""
    good = project.server("hetzner", 31, "web", retain=2, duration_seconds=40)
    old = project.history(good, 3)
    project.server("digitalocean", 32, "bad", fails=True)
    project.write("worse.json", "{")
    result = project.run()
    assert result.code == 2
    (run,) = rows(project, "SELECT * FROM run")
    assert run["started_at"] == "2025-06-01T03:00:00Z"
    assert run["ended_at"] > run["started_at"]
    assert (run["exit_status"], run["total"], run["progress"]) == (2, 3, None)
    turns = {turn["name"]: turn for turn in rows(project, "SELECT * FROM turn")}
    assert set(turns) == {"web", "bad", "worse"}
    assert {turn["run"] for turn in turns.values()} == {run["id"]}
    web = turns["web"]
    new = project.own(good)[-1]
    assert (web["success"], web["error"], web["snapshot"], web["size_gb"]) == (1, "", new, 2.3)
    assert (web["provider"], web["server_id"], web["stored_gb"]) == ("hetzner", "31", 4.6)
    assert json.loads(web["kept"]) == [new, old[2]]
    assert json.loads(web["deleted"]) == old[:2]
    assert web["seconds"] >= 40
    assert turns["bad"]["success"] == 0
    assert "ended the action as errored" in turns["bad"]["error"]
    assert "not valid JSON" in turns["worse"]["error"]
    path = project.folder / "logs" / "history.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert rows(project, "PRAGMA user_version") == [{"user_version": 1}]
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "history.db", "snapshots.lock", "snapshots.log"
    ]  # fmt: skip


@pytest.mark.proves("history-2")
@pytest.mark.parametrize("provider", ["digitalocean", "hetzner", "contabo"])
def test_the_newest_usable_snapshot_of_every_server_listed_is_known(
    project: Project, provider: str
) -> None:
    """Of a server whose turn failed as well, and of one that has none."""
    server = project.server(provider, 31, "web", fails=True, slots=9)
    project.history(server, 2)
    project.cloud.add_snapshot(server, "by hand", project.clock.now())
    project.server(provider, 32, "new", fails=True)
    assert project.run().code == 1
    web, new = rows(project, "SELECT * FROM server ORDER BY server_id")
    assert web["newest_at"] == "2025-05-31T03:00:00Z"
    assert (web["failed"], web["success_at"]) == (1, None)
    assert web["failure_at"]
    assert web["error"]
    assert new["newest_at"] is None
    assert new["looked_at"]
    server.fails = False
    project.clock.advance(86400)
    assert project.run(f"{provider}-31.json").code == 0
    (web, _) = rows(project, "SELECT * FROM server ORDER BY server_id")
    assert web["newest_at"] > "2025-06-02T03:00:00Z"
    assert web["failed"] == 0
    assert web["failure_at"] < web["success_at"]  # both stay known


@pytest.mark.proves("history-2")
def test_one_dated_in_the_future_is_not_the_newest(project: Project) -> None:
    server = project.server("hetzner", 31, "web", retain=9)
    future = project.clock.now() + timedelta(days=900)
    project.cloud.add_snapshot(server, "web-20991231235959", future)
    assert project.run().code == 0
    (web,) = rows(project, "SELECT * FROM server")
    assert web["newest_at"].startswith("2025-06-01T03:00")


@pytest.mark.proves("history-3")
def test_a_run_that_was_killed_has_begun_and_never_ended(project: Project) -> None:
    project.server("hetzner", 31, "web", duration_seconds=300)

    def kill(request: fake.Request) -> bool:
        project.clock.kill()
        return True

    project.cloud.fault("GET /hz/actions", fake.hang_up(), when=kill)
    with pytest.raises(KilledError):
        project.run()
    project.clock.bury()
    (run,) = rows(project, "SELECT * FROM run")
    assert (run["ended_at"], run["exit_status"]) == (None, None)
    project.cloud.clear_faults()
    project.clock.advance(600)
    assert project.run().code == 0
    assert [r["exit_status"] for r in rows(project, "SELECT * FROM run ORDER BY started_at")] == [
        None, 0
    ]  # fmt: skip


@pytest.mark.proves("history-4")
def test_how_far_a_run_is_can_be_read_while_it_goes_on(project: Project) -> None:
    project.server("hetzner", 31, "web", duration_seconds=300)
    project.server("hetzner", 32, "db", duration_seconds=100)
    project.server("digitalocean", 33, "mail", fails=True)
    project.config["TIMING"]["delay_between_servers"] = 1
    seen: list[dict[str, Any]] = []

    def look(request: fake.Request) -> bool:
        seen.extend(json.loads(r["progress"]) for r in rows(project, "SELECT progress FROM run")
                    if r["progress"])  # fmt: skip
        return False

    project.cloud.fault("GET /hz/actions", fake.hang_up(), when=look)
    project.run()
    assert (seen[0]["done"], seen[0]["total"]) == (0, 3)
    late = seen[-1]
    assert (late["done"], late["failed"], late["total"]) == (1, 1, 3)
    assert late["progress_percent"] > 66
    (web,) = late["servers"]
    assert (web["name"], web["doing"]) == ("web", "creating")
    assert web["progress_percent"] > 50


def damage_header(path: Path) -> None:
    path.write_bytes(b"x" * 5000)


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(bytes(content))


def damage_schema(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * 2000 + content[2100:])


@pytest.mark.proves("history-5")
@pytest.mark.parametrize("hurt", [damage_header, damage_pages, damage_schema])
def test_a_damaged_file_is_put_aside_and_begun_anew(
    project: Project, hurt: Callable[[Path], None]
) -> None:
    """With what belongs to it: an old journal must not be played into the new file."""
    project.server("hetzner", 31, "web")
    assert project.run().code == 0
    path = project.folder / "logs" / "history.db"
    hurt(path)
    broken = path.read_bytes()
    project.clock.advance(86400)
    result = project.run()
    assert result.code == 0
    (line,) = result.err.splitlines()
    assert "history.db: was damaged; renamed to " in line
    (aside,) = path.parent.glob("history.db.damaged-*")
    assert aside.read_bytes()[:4096] == broken[:4096]
    assert len(rows(project, "SELECT * FROM run WHERE exit_status = 0")) == 1
    assert len(rows(project, "SELECT * FROM turn")) == 1
    project.clock.advance(86400)
    assert project.run().err == ""


def locked(path: Path) -> Any:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    return other


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def two_names(path: Path) -> None:
    os.link(path, path.with_name("other"))


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")


def without_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("DROP TABLE run")


def of_another_program(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE dashboard (id)")


@pytest.mark.proves("history-6")
@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (locked, "database is locked"),
        (a_directory, "Is a directory"),
        (a_link, "Too many levels of symbolic links"),
        (two_names, "not a regular file of its own"),
        (a_fifo, "not a regular file of its own"),
        (
            newer,
            "a newer version of this tool has written it, in format 99 (use that version, or rename the file)",
        ),
        (without_a_table, "no such table: run"),
        (of_another_program, "is another program's (set [HISTORY] file to another name)"),
    ],
)
def test_a_file_that_cannot_be_written_costs_one_warning(
    project: Project, trouble: Callable[[Path], Any], reason: str
) -> None:
    """Neither a snapshot nor the exit status, and not a second of the run."""
    server = project.server("hetzner", 31, "web")
    project.server("digitalocean", 32, "db")
    assert project.run().code == 0
    began = project.clock.elapsed
    project.run()
    took = project.clock.elapsed - began
    path = project.folder / "logs" / "history.db"
    holder = trouble(path)
    before, began = len(project.own(server)), project.clock.elapsed
    result = project.run()
    assert (result.code, len(result.err.splitlines())) == (0, 1)
    assert f"history.db: cannot be written: {reason}" in result.err
    assert len(project.own(server)) == before  # one made, one deleted
    assert project.clock.elapsed - began <= took + 1
    if trouble is of_another_program:
        assert rows(project, "SELECT name FROM sqlite_master") == [{"name": "dashboard"}]
    if holder is not None:
        holder.close()


@pytest.mark.proves("history-6")
def test_a_full_disk_costs_one_warning(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SQLite says it: a file that may not grow any more."""
    connect = sqlite3.connect

    def full(*args: Any, **more: Any) -> sqlite3.Connection:
        file: sqlite3.Connection = connect(*args, **more)
        file.execute("PRAGMA max_page_count = 1")
        return file

    project.server("hetzner", 31, "web")
    monkeypatch.setattr(sqlite3, "connect", full)
    result = project.run()
    assert (result.code, len(result.err.splitlines())) == (0, 1)
    assert "history.db: cannot be written: database or disk is full" in result.err


@pytest.mark.proves("history-6")
def test_a_disk_that_hangs_is_not_waited_for(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for an instant in all, and for another one at the end."""
    connect, freed, asked = sqlite3.connect, threading.Event(), []

    def hang(*args: Any, **more: Any) -> sqlite3.Connection:
        asked.append(args)
        freed.wait()
        file: sqlite3.Connection = connect(*args, **more)
        return file

    server = project.server("hetzner", 31, "web")
    monkeypatch.setattr(snapshots, "HISTORY_WAIT_SECONDS", 0.2)
    monkeypatch.setattr(sqlite3, "connect", hang)
    began = time.monotonic()
    result = project.run()
    assert time.monotonic() - began < 30
    freed.set()
    assert (result.code, len(asked), len(project.own(server))) == (0, 1, 1)
    (line,) = result.err.splitlines()
    assert "cannot be written: it takes too long (what this run did is missing there)" in line


@pytest.mark.proves("history-6")
def test_what_was_held_up_for_a_while_is_written_later(project: Project) -> None:
    project.server("hetzner", 31, "web", retain=1, duration_seconds=100)
    assert project.run().code == 0
    held: list[Any] = []

    def hold(request: fake.Request) -> bool:
        if not held:
            held.append(locked(project.folder / "logs" / "history.db"))
        return False

    def let_go(request: fake.Request) -> bool:
        held[0].close()
        return False

    project.cloud.fault("POST /hz/servers/{id}/actions/create_image", fake.hang_up(), when=hold)
    project.cloud.fault("DELETE /hz", fake.hang_up(), when=let_go)
    assert project.run().err == ""
    assert held
    assert len(rows(project, "SELECT * FROM turn WHERE success = 1")) == 2


@pytest.mark.proves("history-6")
def test_without_sqlite_a_run_goes_on(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.server("hetzner", 31, "web")
    monkeypatch.setattr(snapshots, "sqlite3", None)
    result = project.run()
    assert (result.code, len(result.err.splitlines())) == (0, 1)
    assert "cannot be written: this Python has no sqlite3" in result.err


@pytest.mark.proves("history-7")
def test_what_is_older_than_keep_days_goes(project: Project) -> None:
    project.config["HISTORY"] = {"keep_days": 3, "file": "runs.db"}
    project.server("hetzner", 31, "web")
    project.server("hetzner", 32, "gone")
    for night in range(5):
        assert project.run(*(["hetzner-31.json"] if night else [])).code == 0
        project.clock.advance(86400)
    path = project.folder / "logs" / "runs.db"
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM run").fetchone() == (3,)
        assert file.execute("SELECT count(*) FROM turn").fetchone() == (3,)
        assert file.execute("SELECT name FROM server").fetchall() == [("web",)]


@pytest.mark.proves("history-7")
@pytest.mark.parametrize("name", ["snapshots.log", "snapshots.lock", "./snapshots.lock"])
def test_the_history_is_a_file_of_its_own(project: Project, name: str) -> None:
    project.config["HISTORY"] = {"file": name}
    project.server("hetzner", 31, "web")
    result = project.run()
    assert result.code == 1
    assert "[HISTORY] 'file': log, lock and history must be three files" in result.err


@pytest.mark.proves("history-8")
def test_a_look_at_the_lock_never_turns_a_starting_run_away(tmp_path: Path) -> None:
    path, stop = tmp_path / "logs" / "x.lock", threading.Event()
    clock = snapshots.SystemClock()
    assert snapshots.run_holds_lock(path) is None
    assert not path.parent.exists()
    with snapshots.single_run(path, clock):
        assert snapshots.run_holds_lock(path) == os.getpid()
        path.write_text("")
        assert snapshots.run_holds_lock(path) == 0
        with pytest.raises(snapshots.LockHeldError), snapshots.single_run(path, clock):
            pass
    assert snapshots.run_holds_lock(path) is None

    def hammer() -> None:
        while not stop.is_set():
            snapshots.run_holds_lock(path)

    thread = threading.Thread(target=hammer, daemon=True)
    thread.start()
    try:
        for _ in range(300):
            with snapshots.single_run(path, clock):
                pass
    finally:
        stop.set()
        thread.join()
