"""--list, --status and --check: one document, read only, and each of its outputs."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import fakes as fake
import pytest
from conftest import Project, Result, Tab
from fakes.clock import KilledError

import snapshots

SERVER = {
    "provider", "server_id", "name", "state", "last_success_at", "last_failure_at", "last_error",
    "next_due_at",
}  # fmt: skip
LISTED = {"snapshots", "kept", "foreign", "stored_gb", "monthly_cost", "currency"}
SNAPSHOT = {"id", "name", "created_at", "size_gb", "ours", "fate", "reasons"}
ENVELOPE = {
    "schema", "kind", "version", "host", "generated_at", "result", "problems", "servers",
}  # fmt: skip
MORE = {"list": set(), "status": {"running", "last_run", "schedule"},
        "check": {"findings", "uncovered_servers"}}  # fmt: skip


def fleet(project: Project) -> None:
    """Three accounts and a bad one: a good server, a stale one, one that never had a snapshot, one
    whose token has no rights, and one that no server file covers."""
    web = project.server("hetzner", 11, "web", retain=2, file={"keep_daily": 3})
    project.history(web, 5)
    project.cloud.add_snapshot(web, "before-upgrade", project.clock.now() - timedelta(days=40))
    mail = project.server("contabo", 12, "mail", slots=9)
    at = project.clock.now() - timedelta(days=4)
    project.cloud.add_snapshot(mail, snapshots.snapshot_name("mail", at), at)
    project.server("digitalocean", 13, "shop")
    project.server("digitalocean", 14, "blog", account="2")
    project.accounts["digitalocean2"].scopes = frozenset()
    project.cloud.add_server(project.accounts["hetzner"], 15, "forgotten")


def document(result: Result) -> Any:
    """The one object that is alone on stdout, its schema checked."""
    found = json.loads(result.out)
    assert set(found) == ENVELOPE | MORE[found["kind"]]
    assert (found["schema"], found["version"]) == (1, snapshots.__version__)
    for server in found["servers"]:
        assert set(server) == SERVER | (LISTED if found["kind"] == "list" else set())
        assert server["state"] in ("never", "stale", "failed", "ok", "unknown")
        assert isinstance(server["server_id"], (str, type(None)))
        for snapshot in server.get("snapshots") or ():
            assert set(snapshot) == SNAPSHOT
            assert snapshot["fate"] in ("stays", "next to go", "left alone")
    for key, value in every_item(found):
        if key.endswith("_at") and value is not None:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", value)
    return found


def every_item(value: Any) -> Any:
    if isinstance(value, dict):
        yield from value.items()
        for inner in value.values():
            yield from every_item(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from every_item(inner)


def states(found: Any) -> dict[str, str]:
    return {server["name"]: server["state"] for server in found["servers"]}


def files(project: Project) -> dict[str, float]:
    return {str(p): p.stat().st_mtime_ns for p in project.folder.rglob("*") if p.is_file()}


# --- --list ---


@pytest.mark.proves("looking-1")
def test_list_shows_what_there_is_and_what_becomes_of_it(project: Project) -> None:
    fleet(project)
    result = project.run("--list")
    assert result.code == 2
    lines = result.out.splitlines()
    assert (
        "web (hetzner 11)  OK: newest 24 h old, 5 kept, 11.5 GB, 1 left alone, 0.14 EUR a month net"
        in lines
    )
    assert "mail (contabo 12)  STALE: newest 4 d old (limit 36 h), 1 kept, unknown GB" in lines
    assert any(
        line.startswith("shop (digitalocean 13)  NEVER: no snapshot of this tool's")
        for line in lines
    )
    assert any(re.match(r"blog \(digitalocean 14\)  UNKNOWN: .*HTTP 403", line) for line in lines)
    start = lines.index(next(line for line in lines if line.startswith("web (")))
    table = [re.split(r"  +", line.strip()) for line in lines[start + 1 : start + 8]]
    servers = json.loads(project.run("--list", "--json").out)["servers"]
    shown = {
        s["id"] for server in servers for s in server["snapshots"] or () if server["name"] == "web"
    }
    assert {row[1] for row in table} == {"ID", *shown}
    assert [row[2:] for row in table] == [
        ["AGE", "GB", "FATE"],
        ["24 h", "2.3", "stays: newest, last, daily"],
        ["2 d", "2.3", "stays: daily"],
        ["3 d", "2.3", "next to go"],
        ["4 d", "2.3", "next to go"],
        ["5 d", "2.3", "next to go"],
        ["40 d", "2.3", "left alone: not named as this tool names them"],
    ]
    assert len({line.index("2.3") for line in lines[start + 2 : start + 8]}) == 1  # aligned
    assert lines[-2].startswith("TOTAL: 4 servers, 6 snapshots of this tool's, at least 11.5 GB, ")
    assert lines[-1] == "RESULT: 1 never: shop; 1 stale: mail; 1 unknown: blog"
    assert result.out.isascii()
    assert "\x1b" not in result.out


@pytest.mark.proves("looking-1", "looking-5")
def test_list_as_json(project: Project) -> None:
    fleet(project)
    result = project.run("--list", "--json")
    assert (result.code, result.err) == (2, "")
    found = document(result)
    assert (found["kind"], found["result"]) == ("list", "problem")
    assert states(found) == {"web": "ok", "mail": "stale", "shop": "never", "blog": "unknown"}
    web = next(s for s in found["servers"] if s["name"] == "web")
    assert (web["kept"], web["foreign"], web["stored_gb"], web["currency"]) == (5, 1, 11.5, "EUR")
    assert web["monthly_cost"] == pytest.approx(11.5 * 0.0119, abs=1e-4)
    assert web["last_success_at"] == web["snapshots"][0]["created_at"] == "2025-05-31T03:00:00Z"
    assert [s["fate"] for s in web["snapshots"]] == ["stays"] * 2 + ["next to go"] * 3 + [
        "left alone"
    ]
    assert web["snapshots"][-1]["reasons"] == ["not named as this tool names them"]
    assert [s["ours"] for s in web["snapshots"]] == [True] * 5 + [False]
    mail, shop, blog = (
        next(s for s in found["servers"] if s["name"] == n) for n in ("mail", "shop", "blog")
    )
    assert (mail["stored_gb"], mail["monthly_cost"], mail["currency"]) == (None, None, None)
    assert (shop["snapshots"], shop["kept"], shop["monthly_cost"]) == ([], 0, 0)
    assert {blog[key] for key in LISTED} == {None}
    assert len(found["problems"]) == 3


@pytest.mark.proves("looking-1")
@pytest.mark.parametrize("limit", [10, 1])
def test_what_list_shows_is_what_the_next_run_does(project: Project, limit: int) -> None:
    """Also what the brake postpones, which says so."""
    server = project.server(
        "hetzner", 11, "web", retain=1,
        file={"keep_daily": 3, "keep_weekly": 2, "keep_yearly": 2, "keep_within_days": 2},
    )  # fmt: skip
    project.history(server, 25)
    project.config["RETENTION"] = {"max_deletes_per_run": limit}
    (web,) = document(project.run("--list", "--json"))["servers"]
    to_go = [s for s in web["snapshots"] if s["fate"] == "next to go"]
    now = {s["name"] for s in to_go if not s["reasons"]}
    assert len(now) == limit
    assert {tuple(s["reasons"]) for s in to_go if s["name"] not in now} == {
        ("in a later run: max_deletes_per_run",)
    }
    before = project.own(server)
    assert project.run().code == 0
    assert set(before) - set(project.own(server)) == now
    # the night after, seen in the morning: the new one is not to go, though it is today's
    project.clock.advance(5 * 3600)
    (web,) = document(project.run("--list", "--json"))["servers"]
    soon = {s["name"] for s in web["snapshots"] if (s["fate"], s["reasons"]) == ("next to go", [])}
    project.clock.advance(19 * 3600 - 60)
    before = project.own(server)
    assert project.run().code == 0
    assert set(before) - set(project.own(server)) == soon


@pytest.mark.proves("looking-2")
def test_a_cloud_that_is_down_costs_its_own_servers_alone(project: Project) -> None:
    fleet(project)
    project.cloud.fault("GET /hz", fake.hang_up(), times=None)
    began = project.clock.elapsed
    result = project.run("--list", "--json")
    assert result.code == 2
    assert states(document(result)) == {
        "web": "unknown", "mail": "stale", "shop": "never", "blog": "unknown"
    }  # fmt: skip
    assert project.clock.elapsed - began < 60
    project.cloud.fault("GET /do", fake.status(503), times=None)
    project.cloud.fault("POST /cb-auth", fake.status(401), times=None)
    result = project.run("--list")
    assert result.code == 1  # nothing at all could be looked at
    assert result.out.count("UNKNOWN: ") == 4


@pytest.mark.proves("looking-2")
def test_a_price_that_cannot_be_read_costs_the_costs(project: Project) -> None:
    server = project.server("hetzner", 11, "web")
    project.history(server, 2)
    odd: dict[str, Any] = {"currency": "EUR", "image": {"price_per_gb_month": {"net": "NaN"}}}
    for answer in ({}, odd):
        project.cloud.fault("GET /hz/pricing", fake.status(200, {"pricing": answer}), times=2)
        result = project.run("--list", "--json")
        assert result.code == 0
        (web,) = document(result)["servers"]
        assert (web["stored_gb"], web["monthly_cost"], web["currency"]) == (4.6, None, None)
        assert "read the price of snapshots" in result.err
        project.cloud.clear_faults()


@pytest.mark.proves("looking-2")
def test_a_size_that_is_unknown_makes_totals_at_least(project: Project) -> None:
    server = project.server("hetzner", 11, "web")
    project.history(server, 1)
    at = project.clock.now() - timedelta(days=2)
    name = snapshots.snapshot_name("web", at)
    project.cloud.add_snapshot(server, name, at, extra={"image_size": None})
    assert ", at least 2.3 GB" in project.run("--list").out
    (web,) = document(project.run("--list", "--json"))["servers"]
    assert (web["stored_gb"], web["monthly_cost"]) == (None, None)


@pytest.mark.proves("looking-3")
def test_list_costs_one_listing_for_each_account(project: Project) -> None:
    """And a price request for each Hetzner account, and a login for each Contabo API user."""
    project.cloud.page_size = None
    for n in range(100):
        project.server("hetzner", 100 + n, f"h{n}", account=str(n % 2))
        project.server("digitalocean", 300 + n, f"d{n}")
    for n in range(20):
        project.server("contabo", 500 + n, f"c{n}")
    for n in range(5):
        project.history(project.server("hetzner", 600 + n, f"x{n}"), 30)
    assert project.run("--list").code == 2
    counts: dict[str, int] = {}
    for request in project.cloud.journal:
        counts[request.route] = counts.get(request.route, 0) + 1
    assert counts == {
        "GET /hz/images": 2 + 3, "GET /hz/pricing": 3, "GET /do/snapshots": 1,
        "GET /cb/compute/instances/{id}/snapshots": 20, "POST /cb-auth/token": 1,
    }  # fmt: skip


# --- --status ---


@pytest.mark.proves("looking-4")
def test_status_asks_nobody(project: Project) -> None:
    """Each state, and the first that holds."""
    fleet(project)
    result = project.run("--status")
    assert result.code == 2
    assert "last run: none is recorded" in result.out
    assert result.out.count("no run recorded yet") == 4
    assert project.run().code == 2
    asked = len(project.cloud.journal)
    result = project.run("--status")
    assert result.code == 2
    assert "last run: 2025-06-01 05:00:00 to 2025-06-01 05:00:" in result.out
    assert "exit status 2" in result.out
    assert re.search(r"^web +OK +2025-06-01 05:00:\d\d +- +newest 0 min old$", result.out, re.M)
    assert re.search(
        r"^blog +FAILED +- +2025-06-01 05:00:00 +the last turn failed: .*403", result.out, re.M
    )
    assert result.out.splitlines()[-1] == "RESULT: 1 failed: blog"
    project.clock.advance(37 * 3600)
    found = document(project.run("--status", "--json"))
    assert states(found) == {"web": "stale", "mail": "stale", "shop": "stale", "blog": "failed"}
    assert found["last_run"] == {
        "started_at": "2025-06-01T03:00:00Z", "ended_at": found["last_run"]["ended_at"], "exit_status": 2
    }  # fmt: skip
    assert (found["running"], found["schedule"]) == (None, None)
    blog = next(s for s in found["servers"] if s["name"] == "blog")
    assert (blog["last_success_at"], blog["last_failure_at"]) == (None, "2025-06-01T03:00:00Z")
    assert "HTTP 403" in blog["last_error"]
    assert len(project.cloud.journal) == asked


@pytest.mark.proves("looking-4")
def test_status_knows_a_server_without_any_snapshot(project: Project) -> None:
    server = project.server("hetzner", 11, "web", fails=True)
    assert project.run().code == 1
    found = document(project.run("--status", "--json"))
    assert states(found) == {"web": "never"}
    assert found["problems"] == ["web: never: no snapshot of this tool's"]
    server.fails = False
    assert project.run().code == 0
    result = project.run("--status")
    assert result.code == 0
    assert result.out.splitlines()[-1] == "RESULT: all well"
    assert "newest 0 min old; last failure: " in result.out  # what was wrong stays known


@pytest.mark.proves("looking-4")
def test_a_date_in_the_future_is_not_fresh(project: Project) -> None:
    server = project.server("hetzner", 11, "web")
    at = project.clock.now() + timedelta(days=30)
    project.cloud.add_snapshot(server, "web-20991231235959", at)
    assert states(document(project.run("--list", "--json"))) == {"web": "stale"}


@pytest.mark.proves("looking-4")
@pytest.mark.parametrize(
    ("config", "own", "hours", "state"),
    [
        (None, None, 35, "ok"), (None, None, 37, "stale"), (50, None, 49, "ok"),
        (50, None, 51, "stale"), (50, 10, 11, "stale"), (None, "2", 3, "stale"),
        (None, 200, 190, "ok"),
    ],
)  # fmt: skip
def test_how_old_is_too_old_can_be_set(
    project: Project, config: Any, own: Any, hours: float, state: str
) -> None:
    server = project.server(
        "hetzner", 11, "web", file={} if own is None else {"stale_after_hours": own}
    )
    if config is not None:
        project.config["STATUS"] = {"stale_after_hours": config}
    at = project.clock.now() - timedelta(hours=hours)
    project.cloud.add_snapshot(server, snapshots.snapshot_name("web", at), at)
    assert states(document(project.run("--list", "--json"))) == {"web": state}


@pytest.mark.proves("looking-6")
def test_a_killed_run_is_begun_and_never_ended(project: Project) -> None:
    project.server("hetzner", 11, "web", duration_seconds=300)
    assert project.run().code == 0

    def kill(request: fake.Request) -> bool:
        project.clock.kill()
        return True

    project.cloud.fault("GET /hz/actions", fake.hang_up(), when=kill)
    with pytest.raises(KilledError):
        project.run()
    project.clock.bury()
    result = project.run("--status", "--json")
    assert result.code == 2
    found = document(result)
    assert found["result"] == "problem"
    assert found["running"] is None
    assert (found["last_run"]["ended_at"], found["last_run"]["exit_status"]) == (None, None)
    assert found["last_run"]["started_at"]
    assert any("never ended" in problem for problem in found["problems"])
    assert "never ended (killed?)" in project.run("--status").out
    assert project.run("--status", "--nagios").code == 3


@pytest.mark.proves("looking-6")
def test_looks_work_while_a_run_of_200_servers_is_under_way(
    project: Project, tmp_path: Path
) -> None:
    project.cloud.page_size = None
    for n in range(200):
        project.server("hetzner", 1000 + n, f"s{n}", duration_seconds=60)
    path = project.write_config()
    project.config["TIMING"]["max_parallel"] = 50
    seen: list[Any] = []

    def look() -> None:
        if len(project.cloud.created) > 110 and not seen:
            for flags in (["--status", "--json"], ["--list", "--json"], ["--check", "--json"]):
                command = [sys.executable, snapshots.__file__, "--config", str(path), *flags]
                done = subprocess.run(command, capture_output=True, text=True, timeout=60)
                seen.append((done.returncode, json.loads(done.stdout)))

    for number in range(100, 500):
        project.cloud.stop_at(number, look)
    assert project.run().code == 0
    (code, status), (_, listed), (_, checked) = seen
    assert code == 2  # servers whose turn has not come are unknown
    running = status["running"]
    assert running["total"] == 200
    assert running["done"] + running["failed"] >= 1
    assert 0 < running["progress_percent"] < 100
    assert {"doing", "name", "progress_percent"} == set(running["servers"][0])
    assert status["last_run"] is None
    assert len(listed["servers"]) == len(checked["servers"]) == 200


@pytest.mark.proves("looking-6")
def test_a_run_that_the_history_does_not_know_is_under_way_all_the_same(project: Project) -> None:
    project.server("hetzner", 11, "web")
    assert project.run().code == 0
    with snapshots.single_run(project.folder / "logs" / "snapshots.lock", project.clock):
        found = document(project.run("--status", "--json"))
        assert found["running"] == {
            "started_at": None, "done": None, "failed": None, "total": None,
            "progress_percent": None, "servers": [],
        }  # fmt: skip
        assert found["last_run"]["exit_status"] == 0
        assert "under way" in project.run("--status").out


@pytest.mark.proves("looking-6")
@pytest.mark.parametrize("kind", ["damaged", "locked", "newer"])
def test_a_history_that_cannot_be_read_is_no_good_news(project: Project, kind: str) -> None:
    server = project.server("hetzner", 11, "web")
    project.history(server, 1)
    assert project.run().code == 0
    path = project.folder / "logs" / "history.db"
    other = sqlite3.connect(path, isolation_level=None)
    if kind == "damaged":
        path.write_bytes(b"x" * 4096)
    elif kind == "locked":
        other.execute("BEGIN EXCLUSIVE")
    else:
        other.execute("PRAGMA user_version = 7")
    result = project.run("--status", "--json")
    assert result.code == 1
    found = document(result)
    assert (found["result"], states(found)) == ("unknown", {"web": "unknown"})
    assert "history.db: cannot be read: " in found["problems"][0]
    assert project.run("--status", "--nagios").code == 3
    found = document(project.run("--list", "--json"))  # the cloud can be asked
    assert (found["result"], states(found)) == ("unknown", {"web": "ok"})
    result = project.run("--check", "--json")  # a run goes on without it, with a warning
    warnings = {f["subject"]: f["finding"] for f in document(result)["findings"]
                if f["level"] == "warning"}  # fmt: skip
    assert result.code == 0
    assert "history.db: cannot be read: " in warnings["history.db"]
    other.close()


@pytest.mark.proves("looking-6")
@pytest.mark.parametrize("moment", ["PRAGMA user_version", "SELECT 1 FROM sqlite_master"])
def test_a_history_that_is_begun_during_a_look_is_this_tools(
    project: Project, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """What tells it from another program's is read in two steps; a first run may try to be between
    them."""
    project.history(project.server("hetzner", 11, "web"), 1)
    assert project.run().code == 0
    path, whole = (project.folder / "logs" / name for name in ("history.db", "whole.db"))
    path.rename(whole)
    path.touch()
    connect = sqlite3.connect
    with closing(connect(whole)) as file:
        script = "\n".join(file.iterdump()).replace("COMMIT;", "PRAGMA user_version = 1; COMMIT;")

    class Slow(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql == moment:
                with closing(connect(path, timeout=0)) as begun:
                    began.append(begin_in(begun, script))
            return super().execute(sql, *values)

    began: list[bool] = []
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **more: connect(*a, factory=Slow, **more))
    found = document(project.run("--status", "--json"))
    assert began == [moment == "PRAGMA user_version"]
    assert (states(found), found["problems"]) == (
        ({"web": "ok"}, [])
        if began[0]
        else ({"web": "unknown"}, ["web: unknown: no run recorded yet"])
    )


def begin_in(file: sqlite3.Connection, script: str) -> bool:
    """A run begins its history; false where another reads just now."""
    try:
        file.executescript(script)
    except sqlite3.OperationalError as error:
        assert "locked" in str(error)
        return False
    return True


# --- --check ---


@pytest.mark.proves("looking-7")
def test_check_shows_what_is_well_and_what_is_not(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet(project)
    renamed = project.cloud.add_server(project.accounts["hetzner"], 16, "new name")
    project.write("old.json", {"hetzner_cloud_server": {
        "id": 16, "name": "old name", "retain_last_snapshots": 1, "api_token": "env:TOKEN_OF_OLD",
    }})  # fmt: skip
    monkeypatch.setenv("TOKEN_OF_OLD", renamed.account.token)
    project.write("gone.json", {"hetzner_cloud_server": {
        "id": 99, "name": "gone", "retain_last_snapshots": 1, "api_token": renamed.account.token,
    }})  # fmt: skip
    project.write("unset.json", {"hetzner_cloud_server": {
        "id": 98, "name": "unset", "retain_last_snapshots": 1, "api_token": "env:NOT_SET_AT_ALL",
    }})  # fmt: skip
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ssl/our-own.pem")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    project.config["SMTP"] = {"enabled": "true"}
    (project.folder / "configs" / "hetzner-11.json").chmod(0o644)
    project.cloud.date_offset_seconds = 300
    result = project.run("--check", "--json")
    assert result.code == 2
    found = document(result)
    assert found["result"] == "problem"
    assert found["uncovered_servers"] == [
        {"provider": "hetzner", "server_id": "15", "name": "forgotten"}
    ]
    told = [(f["level"], f["subject"], f["finding"]) for f in found["findings"]]
    for level, subject, words in [
        ("ok", "web", "exists under this name"),
        ("ok", "web", "has 1 snapshot not made"),
        ("ok", "Contabo account of mail", "may read; whether they may write"),
        ("error", "DigitalOcean account of blog", "HTTP 403"),
        ("error", "gone", "there is no server 99"),
        ("error", "unset", "the environment variable 'NOT_SET_AT_ALL' is not set"),
        ("warning", "old name", "is called new name at Hetzner"),
        ("warning", "configuration", "can be read by others"),
        ("warning", "configuration", "no e-mail notification: server and from_email"),
        ("warning", "environment", "env:TOKEN_OF_OLD is set in this shell"),
        ("warning", "environment", "HTTPS_PROXY is set in this shell"),
        ("warning", "environment", "SSL_CERT_FILE is set in this shell"),
        ("warning", "forgotten", "covered by no server file"),
        ("warning", "Contabo account of mail", "clock is 5 min behind"),
    ]:
        assert any((lv, su) == (level, subject) and words in te for lv, su, te in told), (
            level,
            words,
        )
    assert not any(level == "unknown" for level, _, _ in told)
    assert len(found["problems"]) == sum(level == "error" for level, _, _ in told)
    text = project.run("--check").out.splitlines()
    assert len(text) == len(told) + 1
    errors, warnings = (sum(lv == level for lv, _, _ in told) for level in ("error", "warning"))
    assert text[-1] == f"RESULT: {errors} errors, {warnings} warnings"


@pytest.mark.proves("looking-7")
def test_check_of_one_file_knows_what_the_others_cover(project: Project) -> None:
    fleet(project)
    found = document(project.run("--check", "--json", "hetzner-11.json"))
    assert [u["name"] for u in found["uncovered_servers"]] == ["forgotten"]
    assert states(found) == {"web": "unknown"}
    assert found["result"] == "ok"  # neither how fresh it is nor an uncovered server counts


@pytest.mark.proves("looking-7")
@pytest.mark.parametrize("number", [16, "16"])
@pytest.mark.parametrize("names", [[], ["hetzner-11.json"]])
def test_check_calls_no_server_forgotten_whose_file_cannot_be_used(
    project: Project, number: object, names: list[str]
) -> None:
    fleet(project)
    project.cloud.add_server(project.accounts["hetzner"], 16, "db")
    project.write("db.json", {"hetzner_cloud_server": {"id": number, "name": "db"}})
    project.write("broken.json", "{")
    found = document(project.run("--check", "--json", *names))
    assert [u["name"] for u in found["uncovered_servers"]] == ["forgotten"]


@pytest.mark.proves("looking-7")
def test_check_names_servers_whose_failures_nobody_would_hear_of(project: Project) -> None:
    url = f"{project.cloud.url}/hook/{project.token('hook')}"
    project.config["WEBHOOK"] = {"enabled": "true", "url": url}
    project.server("hetzner", 11, "heard")
    project.server("hetzner", 12, "off", file={"webhook": {"enabled": False}})
    project.server("hetzner", 13, "mute", file={"webhook": {"notify_on_failure": False}})
    result = project.run("--check")
    assert result.code == 0
    (line,) = [line for line in result.out.splitlines() if "nobody is notified" in line]
    assert line.startswith("warning  notifications ")
    assert "nobody is notified of a failure of off, mute (set enabled and notify_on" in line
    project.config["PING"] = {"success_url": url}
    assert "nobody is notified" not in project.run("--check").out


@pytest.mark.proves("looking-7")
def test_one_servers_own_check_is_none_of_the_others(project: Project) -> None:
    project.server("hetzner", 11, "heard", file={"ping_url": f"{project.cloud.url}/hook/ping"})
    project.server("hetzner", 12, "mute")
    assert "nobody is notified of a failure of mute (set" in project.run("--check").out


@pytest.mark.proves("looking-7")
@pytest.mark.parametrize("watched", ["no", "by a check", "by its own check"])
def test_check_warns_where_nobody_would_know_of_a_failure(project: Project, watched: str) -> None:
    url = f"{project.cloud.url}/hook/ping"
    project.server("hetzner", 11, file={"ping_url": url} if watched == "by its own check" else {})
    if watched == "by a check":
        project.config["PING"] = {"url": url}
    found = document(project.run("--check", "--json"))
    (finding,) = [f for f in found["findings"] if f["subject"] == "notifications"]
    assert (finding["level"] == "warning") == (watched == "no")
    assert ("nobody is notified" in finding["finding"]) == (watched == "no")


@pytest.mark.proves("looking-7")
@pytest.mark.parametrize("section", ["PING", "WEBHOOK"])
def test_check_knows_who_hears_of_it_where_no_server_file_can_be_used(
    project: Project, section: str
) -> None:
    project.write("web.json", "{")
    project.config[section] = {"url": f"{project.cloud.url}/hook/ping"}
    project.config["WEBHOOK"] = {**project.config.get("WEBHOOK", {}), "enabled": "true"}
    found = document(project.run("--check", "--json"))
    assert "nobody is notified" not in json.dumps(found)


@pytest.mark.proves("looking-7")
@pytest.mark.parametrize("broken", [False, True])
def test_check_calls_no_configuration_usable_that_holds_an_error(
    project: Project, broken: bool
) -> None:
    project.server("hetzner", 11, file={"nmae": "web"} if broken else {})
    result = project.run("--check")
    assert (result.code, "unknown key, did you mean 'name'?" in result.out) == (
        (2, True) if broken else (0, False)
    )
    assert ("can be used as it is" in result.out) is not broken


@pytest.mark.proves("looking-7")
def test_check_says_unknown_where_it_could_not_ask(project: Project) -> None:
    project.server("hetzner", 11, "web")
    project.server("digitalocean", 12, "db")
    project.config["WEBHOOK"] = {"enabled": "true", "url": f"{project.cloud.url}/hook/x"}
    project.cloud.fault("GET /hz", fake.hang_up(), times=None)
    result = project.run("--check")
    assert result.code == 2
    assert re.search(
        r"^unknown  Hetzner account of web +cannot list the account's servers", result.out, re.M
    )
    assert result.out.splitlines()[-1] == "RESULT: 1 could not be checked"
    project.cloud.clear_faults()
    result = project.run("--check")
    assert (result.code, result.out.splitlines()[-1]) == (0, "RESULT: all well")


@pytest.mark.proves("looking-7")
def test_check_of_a_configuration_that_cannot_be_used(project: Project) -> None:
    project.config["TIMING"]["max_parallel"] = "x"
    result = project.run("--check", "--json")
    assert result.code == 2
    (problem,) = document(result)["problems"]
    assert "max_parallel" in problem
    project.config["TIMING"]["max_parallel"] = 1
    result = project.run("--check")
    assert result.code == 2
    assert "does not exist" in result.out


@pytest.mark.proves("looking-7")
@pytest.mark.parametrize(
    ("trouble", "level"),
    [("logs is a file", "error"), ("lock is a link", "error"), ("log is a directory", "warning"),
     ("history has two names", "warning"), ("nothing yet", "ok")],
)  # fmt: skip
def test_check_sees_files_that_a_run_could_not_write(
    project: Project, trouble: str, level: str
) -> None:
    project.server("hetzner", 11, "web")
    logs = project.folder / "logs"
    if trouble == "logs is a file":
        logs.write_text("")
    elif trouble != "nothing yet":
        logs.mkdir()
    if trouble == "lock is a link":
        (logs / "snapshots.lock").symlink_to("elsewhere")
    elif trouble == "log is a directory":
        (logs / "snapshots.log").mkdir()
    elif trouble == "history has two names":
        (logs / "history.db").write_text("")
        os.link(logs / "history.db", logs / "other")
    path, before = project.write_config(), files(project)
    code = snapshots.main(["--config", str(path), "--check", "--json"], project.clock)
    found = json.loads(project.capsys.readouterr().out)
    assert code == (2 if level == "error" else 0)
    levels = {f["level"] for f in found["findings"] if f["subject"] != "notifications"}
    assert level in levels
    assert levels <= {"ok", level}
    assert {k: v for k, v in files(project).items() if "snapshots.config" not in k} == {
        k: v for k, v in before.items() if "snapshots.config" not in k
    }


# --- what holds for all ---


@pytest.mark.proves("looking-8")
@pytest.mark.parametrize("flags", [["--list"], ["--status"], ["--check"], ["--list", "--json"]])
def test_looks_read_only(project: Project, flags: list[str]) -> None:
    """No file made or changed, nothing but reads sent, no lock held."""
    fleet(project)
    path = project.write_config()
    before = files(project)
    snapshots.main(["--config", str(path), *flags], project.clock)
    assert files(project) == before
    snapshots.main(["--config", str(path)], project.clock)
    project.capsys.readouterr()
    before, sent = files(project), len(project.cloud.journal)
    snapshots.main(["--config", str(path), *flags], project.clock)
    assert files(project) == before
    methods = {(r.method, r.route) for r in project.cloud.journal[sent:]}
    assert {m for m, route in methods if route != "POST /cb-auth/token"} <= {"GET"}


@pytest.mark.proves("looking-9")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "--list --status",
            "argument --status: not allowed with argument --list (write one of them; see --help)",
        ),
        ("--status --check", "argument --check: not allowed with argument --status"),
        (
            "--json",
            "--json does not go with a run (write --list or --status or --check; see --help)",
        ),
        ("--nagios", "--nagios does not go with a run (write --list or --status; see --help)"),
        ("--check --nagios", "--nagios does not go with --check"),
        ("--list --json --nagios", "argument --nagios: not allowed with argument --json"),
        ("-n --json", "--json does not go with a run"),
        ("-n --list", "--dry-run does not go with --list"),
        ("--setup web.json", "FILE does not go with --setup"),
        ("--setup -q", "--quiet does not go with --setup"),
        ("--setup --now", "--now does not go with --setup"),
        ("--report page.html --json", "--json does not go with --report"),
        ("--lst", "--lst"),
    ],
)
def test_a_wrong_combination_is_one_line_and_touches_nothing(
    project: Project, arguments: str, words: str
) -> None:
    project.server("hetzner", 11, "web")
    result = project.run(*arguments.split())
    nagios = "--nagios" in arguments
    assert result.code == (3 if nagios else 1)
    assert len(result.err.splitlines()) == 1
    assert words in result.err
    assert result.out.startswith("SNAPSHOTS UNKNOWN - ") if nagios else result.out == ""
    assert project.cloud.journal == []
    assert not (project.folder / "logs").exists()


@pytest.mark.proves("looking-10")
def test_nagios_has_its_own_statuses(project: Project) -> None:
    server = project.server("hetzner", 11, "a|b")
    result = project.run("--status", "--nagios")
    assert (result.code, result.out.split(" | ")[0]) == (3, "SNAPSHOTS UNKNOWN - 1 unknown: a/b")
    result = project.run("--list", "--nagios")
    assert (result.code, result.out.split(" | ")[0]) == (2, "SNAPSHOTS CRITICAL - 1 never: a/b")
    assert project.run().code == 0
    project.clock.advance(60)
    for flag in ("--status", "--list"):
        result = project.run(flag, "--nagios")
        assert (result.code, result.err) == (0, "")
        assert re.fullmatch(
            r"SNAPSHOTS OK - all well \| never=0;;;0;1 stale=0;;;0;1 failed=0;;;0;1 unknown=0;;;0;1"
            r" oldest=6[0-9]s;;;0\n",
            result.out,
        )
    server.fails = True
    assert project.run().code == 1
    result = project.run("--status", "--nagios")
    assert (result.code, result.out.split(" | ")[0]) == (1, "SNAPSHOTS WARNING - 1 failed: a/b")
    assert project.run("--list", "--nagios").code == 1
    project.clock.advance(86400 * 2)
    result = project.run("--status", "--nagios", "-q")
    assert (result.code, result.out.split(" | ")[0]) == (2, "SNAPSHOTS CRITICAL - 1 stale: a/b")
    project.config["TIMING"]["max_parallel"] = "x"
    result = project.run("--status", "--nagios")
    assert result.code == 3
    assert result.out.startswith("SNAPSHOTS UNKNOWN - ")
    assert "|" not in result.out  # where nothing was looked at, a graph has a gap and no zeros


@pytest.mark.proves("looking-10")
def test_a_plugin_names_so_many_servers_as_fit_into_its_line(project: Project) -> None:
    for number in range(40):
        project.server("hetzner", 100 + number, f"{number:02}-{'x' * 40}")
    line = project.run("--status", "--nagios").out
    assert re.match(
        r"SNAPSHOTS UNKNOWN - 40 unknown: 00-x+, (\d\d-x+, )+\.\.\. and 3\d more \|", line
    )
    assert len(line) < 400


@pytest.mark.proves("looking-10")
def test_a_plugin_that_meets_a_bug_says_so_where_it_is_read(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.server("hetzner", 31, "web")
    monkeypatch.setattr(snapshots, "load_settings", lambda path, required: 1 / 0)
    result = project.run("--status", "--nagios", "-q")
    assert result.code == 3
    assert result.out == "SNAPSHOTS UNKNOWN - unexpected ZeroDivisionError (a bug: see the log)\n"


def test_check_that_meets_a_bug_is_not_all_well(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.server("hetzner", 31, "web")
    monkeypatch.setattr("os.access", lambda path, mode: 1 / 0)
    result = project.run("--check")
    assert result.code == 1
    assert "unexpected ZeroDivisionError" in result.out.splitlines()[-2]
    assert result.out.splitlines()[-1] == "RESULT: 1 error"


@pytest.mark.proves("looking-10")
def test_nagios_turns_a_bug_into_unknown(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.server("hetzner", 11, "web")
    monkeypatch.setattr(snapshots, "view_status", lambda *_: 1 / 0)
    result = project.run("--status", "--nagios")
    assert result.code == 3
    assert "ZeroDivisionError" in result.out
    assert project.run("--status").code == 1


@pytest.mark.proves("looking-11")
@pytest.mark.parametrize("flag", ["--list", "--status"])
def test_a_configuration_that_cannot_be_used_is_in_the_document_too(
    project: Project, flag: str
) -> None:
    project.config["TIMING"]["max_parallel"] = "x"
    result = project.run(flag, "--json")
    assert result.code == 1
    found = document(result)
    assert (found["servers"], len(found["problems"])) == ([], 1)
    result = project.run(flag)
    assert (result.code, result.out) == (1, "")
    assert "max_parallel" in result.err


@pytest.mark.proves("looking-11")
def test_quiet_shows_problems_only(project: Project) -> None:
    fleet(project)
    result = project.run("--list", "-q")
    assert result.out == ""
    assert [line.split(": ")[1] for line in result.err.splitlines()] == ["mail", "shop", "blog"]


@pytest.mark.proves("looking-11")
def test_names_are_cut_only_on_a_terminal_that_is_too_narrow() -> None:
    rows = [("NAME", "STATE", "WHY"), ("x" * 60, "OK", "newest 9 h old")]
    assert snapshots.aligned(rows, None)[1] == f"{'x' * 60}  OK     newest 9 h old"
    assert snapshots.aligned(rows, 200)[1] == f"{'x' * 60}  OK     newest 9 h old"
    assert snapshots.aligned(rows, 60)[1] == f"{'x' * 21}..{'x' * 14}  OK     newest 9 h old"
    assert all(len(line) <= 60 for line in snapshots.aligned(rows, 60))


@pytest.mark.proves("looking-11")
@pytest.mark.parametrize("width", [40, 60, 80, 132])
@pytest.mark.parametrize(
    "names",
    [
        ["web-20261125031500", "web-20261124031500", "before-upgrade"],
        [f"node-07.fra1.example.org-202611250315{second:02}" for second in range(3)],
        [f"frontend-of-the-shop-{number:02}" for number in range(3)],
        [f"node-{number:02}.fra1.example.org" for number in range(3)],
    ],
    ids=["snapshots", "long snapshots", "numbered servers", "hosts"],
)
def test_names_that_are_cut_still_distinguish_one_from_the_other(
    names: list[str], width: int
) -> None:
    why = "left alone: not named as this tool names them"
    rows = [(f"  {name}", "33 h", "2.3", why) for name in names]
    cells = [line.split("  33 h")[0].strip() for line in snapshots.aligned(rows, width)]
    assert len(set(cells)) == len(names)
    for cell, name in zip(cells, names):
        assert cell == name or (".." in cell and (cell[:6], cell[-6:]) == (name[:6], name[-6:]))


@pytest.mark.proves("looking-12")
def test_status_of_a_thousand_servers_and_a_year_is_quick(project: Project) -> None:
    """CPU time beyond that of `import requests`, of a real process."""
    token = project.token("hetzner")
    for n in range(1000):
        project.write(f"{n}.json", {"hetzner_cloud_server": {
            "id": 1000 + n, "name": f"server{n}", "retain_last_snapshots": 7, "api_token": token,
        }})  # fmt: skip
    world = replace_world(project)
    path = project.folder / "logs" / "history.db"
    path.parent.mkdir()
    history = snapshots.History(path, 365, world)
    assert history.entry_is_new() == ""
    with closing(sqlite3.connect(path)) as file:
        for night in range(365):
            run = f"run{night}"
            at = f"2025-{1 + night % 12:02d}-{1 + night // 13:02d}T03:00:00Z"
            file.execute("INSERT INTO run VALUES (?, 1, '1', ?, ?, 0, 1000, NULL)", (run, at, at))
            row = (run, "hetzner", "1", "server", at, 60, 1, "x-20250101030000", 2.3,
                   json.dumps(["x-20250101030000"] * 7), 16.1, "[]", "", "[]")  # fmt: skip
            file.executemany(f"INSERT INTO turn VALUES ({','.join('?' * 14)})", [row] * 1000)
        for n in range(1000):
            file.execute("INSERT INTO server VALUES ('hetzner', ?, ?, ?, ?, ?, NULL, 0, NULL, 0)",
                         (str(1000 + n), f"server{n}", at, at, at))  # fmt: skip
        file.commit()

    def cpu(*command: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, *command], capture_output=True, timeout=120, check=False)
        after = os.times()
        return (after.children_user + after.children_system) - (
            before.children_user + before.children_system
        )

    status = [snapshots.__file__, "--config", str(project.write_config()), "--status"]
    bare = min(cpu("-c", "import requests") for _ in range(3))
    assert min(cpu(*status) for _ in range(3)) - bare < 0.5


def replace_world(project: Project) -> snapshots.Runtime:
    redact = snapshots.Redactor()
    return snapshots.Runtime(project.clock, redact, snapshots.Screen(redact))


# --- the README ---

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCK = re.compile(r"<!-- looking (.*?) -->\n```text\n(.*?)```\n", re.DOTALL)


@pytest.mark.proves("looking-13")
def test_readme_shows_what_looks_print(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pasted by this test where SNAPSHOTS_PASTE is set."""
    monkeypatch.setattr("socket.gethostname", lambda: "backup1")
    tiers = {"keep_daily": 3, "keep_yearly": 2}
    web = project.server(
        "hetzner", 12345678, "web", 2, file=tiers, duration_seconds=90.0, size_gb=8.1
    )
    project.history(web, 6)
    at = project.clock.now() - timedelta(days=40)
    project.cloud.add_snapshot(web, "before-upgrade", at)
    shop = project.server("digitalocean", 386734086, "shop", 7, duration_seconds=120.0)
    project.history(shop, 2)
    mail = project.server("contabo", 201234567, "mail", 1, slots=5)
    project.history(mail, 4)
    refusal = fake.status(400, {"statusCode": 400, "message": "The instance is suspended"})
    project.cloud.fault("POST /cb/compute/instances", refusal)
    project.run()
    project.clock.advance(9 * 3600)
    project.cloud.add_server(project.accounts["hetzner"], 22345678, "staging")
    text = README.read_text(encoding="utf-8")
    found = BLOCK.findall(text)
    assert [flags for flags, _ in found] == [
        "--list", "--status", "--check", "--status --nagios"
    ]  # fmt: skip
    for flags, shown in found:
        out = project.run(*flags.split()).out.replace(str(project.folder), "/opt/snapshots")
        if "SNAPSHOTS_PASTE" in os.environ:
            text = text.replace(
                f"<!-- looking {flags} -->\n```text\n{shown}```\n",
                f"<!-- looking {flags} -->\n```text\n{out}```\n",
            )
        else:  # which of three servers gets the first id is a matter of luck
            assert re.sub(r"1500000\d\d", "...", out) == re.sub(r"1500000\d\d", "...", shown)
    if "SNAPSHOTS_PASTE" in os.environ:
        README.write_text(text, encoding="utf-8")


@pytest.mark.proves("looking-13")
def test_readme_names_every_key_of_the_document(project: Project, tab: Tab) -> None:
    text = README.read_text(encoding="utf-8")
    part = text[text.index("**For programs:**") :].partition("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("| `")]
    named = {word for row in rows for word in re.findall(r"`([a-z_]+)`", row)}
    fleet(project)
    project.run()
    assert tab.run("--install-cron", "nightly").code == 0
    known: set[str] = set()
    with snapshots.single_run(project.folder / "logs" / "snapshots.lock", project.clock):
        for flag in ("--list", "--status", "--check"):
            known |= {key for key, _ in every_item(json.loads(project.run(flag, "--json").out))}
    assert named == known | {"doing"}  # of a turn that is not there
