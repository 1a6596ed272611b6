"""--report and [REPORT] file: one page that needs nothing else, opened in a real browser."""

from __future__ import annotations

import html.parser
import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
from collections import Counter
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import fakes as fake
import pytest
from conftest import Project, Tab
from PIL import Image
from test_faults import CREATE

import snapshots

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
needs_chromium = pytest.mark.skipif(
    not CHROMIUM, reason="Chromium is not installed (Debian, Ubuntu: apt-get install chromium)"
)
VOID = {"meta", "link", "br"}
HOSTILE = "a\"><script>alert(1)</script>&amp;'{error}"


class Page(html.parser.HTMLParser):
    """A page as a browser understands it; every element has to end where it should."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: set[tuple[str, str]] = set()
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {(name, value or "") for name, value in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {(name, value or "") for name, value in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def nights(project: Project, count: int = 4) -> None:
    """A fleet with a good server, one that fails every other night, and one with a hostile name."""
    project.server("hetzner", 11, "web", duration_seconds=90)
    project.server("contabo", 12, "mail", slots=5)
    project.server("digitalocean", 13, HOSTILE)
    for night in range(count):
        if night % 2:
            refusal = fake.status(400, json={"statusCode": 400, "message": "suspended <b>"})
            project.cloud.fault(CREATE["contabo"], refusal)
        project.run()
        project.clock.advance(timedelta(days=1).total_seconds())


def written(project: Project, *args: str) -> Page:
    path = project.folder / "page.html"
    result = project.run("--report", str(path), *args)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{path}: written\n"
    return Page(path.read_text(encoding="utf-8"))


@pytest.mark.proves("report-1")
def test_a_page_shows_states_runs_and_failures_in_words(project: Project) -> None:
    nights(project)
    page = written(project)
    assert "FAILED" not in page.text  # it is written small, and shown large by style
    assert "1 stale, 2 ok" in page.text
    assert "oldest first: 2 all well, 2 some failed" in page.text
    assert "duration of a run: last " in page.text
    assert "last failure " in page.text
    assert "suspended <b>" in page.text
    assert page.tags["rect"] == 4 + 3 * 4 + 2 * 4  # runs, turns, how long and how many GB


@pytest.mark.proves("report-2")
def test_a_page_asks_for_nothing_and_runs_nothing(project: Project) -> None:
    nights(project)
    path = project.folder / "page.html"
    page = written(project)
    assert HOSTILE in page.text
    assert not {"script", "link", "img", "iframe", "a", "form"} & set(page.tags)
    assert not {name for name, _ in page.attributes if name.startswith("on") or name == "style"}
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert ("content", policy) in page.attributes
    text = path.read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text


@pytest.mark.proves("report-3")
def test_a_page_is_written_whole_and_keeps_its_mode(project: Project) -> None:
    nights(project, 1)
    path = project.folder / "page.html"
    written(project)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    written(project)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in project.folder.iterdir() if "page" in p.name] == ["page.html"]


@pytest.mark.proves("report-3")
def test_a_link_to_a_page_stays_a_link(project: Project, tmp_path: Path) -> None:
    nights(project, 1)
    target = tmp_path / "elsewhere.html"
    (project.folder / "page.html").symlink_to(target)
    written(project)
    assert (project.folder / "page.html").is_symlink()
    assert "Snapshots of" in target.read_text(encoding="utf-8")


@pytest.mark.proves("report-4")
def test_every_run_writes_the_page_that_the_configuration_names(project: Project) -> None:
    project.config["REPORT"] = {"file": "public.html"}
    nights(project, 2)
    (only,) = project.folder.glob("configs/hetzner-*.json")
    result = project.run(str(only))
    assert result.code == 0
    page = Page((project.folder / "public.html").read_text(encoding="utf-8"))
    assert "3 servers: 1 stale, 2 ok" in page.text  # all of them, whichever the run was for
    assert "The last 3 runs" in page.text


@pytest.mark.proves("report-4")
def test_a_page_that_a_run_writes_says_until_when_it_is_true(project: Project, tab: Tab) -> None:
    """And a server is as fresh on it as the entry in the crontab allows."""
    project.config["REPORT"] = {"file": "page.html"}
    project.server("hetzner", 11, "web")
    tab.run("--install-cron", "weekly")
    assert tab.run().code == 0
    text = Page((project.folder / "page.html").read_text(encoding="utf-8")).text
    assert re.search(r"The next run is due 2025-06-01 05:15 CEST: if that has passed", text)
    assert "No problems." in text


@pytest.mark.proves("report-4")
@pytest.mark.parametrize("place", ["gone/page.html", "configs"])
def test_a_page_that_cannot_be_written_is_a_warning_of_a_run_and_an_error_of_a_look(
    project: Project, place: str
) -> None:
    project.server("hetzner", 11, "web")
    project.config["REPORT"] = {"file": place}
    result = project.run()
    assert result.code == 0
    assert "the report cannot be written" in result.err
    project.config = {**project.config, "REPORT": {}}
    path = project.folder / place
    result = project.run("--report", str(path))
    assert result.code == snapshots.ExitStatus.FAILED
    assert result.err.startswith(f"snapshots: {path}: the report cannot be written: ")
    assert result.out == ""


@pytest.mark.proves("report-3")
@pytest.mark.parametrize(
    "what", ["configuration", "server file", "log", "lock", "pipe", "link", "/"]
)
def test_a_page_takes_no_other_files_place(project: Project, what: str) -> None:
    """A device or a configuration would be lost for good: a run by root may replace anything."""
    project.server("hetzner", 11, "web")
    project.run()
    (server_file,) = project.folder.glob("configs/*.json")
    pipe, link = project.folder / "pipe", project.folder / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    path = {
        "configuration": project.folder / "snapshots.config",
        "server file": server_file,
        "log": project.folder / "logs" / "snapshots.log",
        "lock": project.folder / "logs" / "snapshots.lock",
        "pipe": pipe,
        "link": link,
        "/": Path("/"),
    }[what]
    before = path.stat()
    result = project.run("--report", str(path))
    assert result.code == snapshots.ExitStatus.FAILED
    assert result.err.startswith(f"snapshots: {path}: the report cannot be written: ")
    project.config["REPORT"] = {"file": str(path)}
    result = project.run()
    assert result.code == 0
    assert "the report cannot be written: " in result.err
    assert path.stat().st_ino == before.st_ino


@pytest.mark.proves("report-3")
def test_an_empty_file_may_wait_for_its_page(project: Project) -> None:
    project.server("hetzner", 11, "web")
    project.run()
    path = project.folder / "page.html"
    path.touch(mode=0o644)
    project.run("--report", str(path))
    assert path.read_bytes().startswith(snapshots.PAGE_BEGINS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.proves("report-5")
def test_a_page_before_the_first_run_and_without_a_history(project: Project) -> None:
    project.server("hetzner", 11, "web")
    page = written(project)
    assert "1 server: 1 unknown" in page.text
    assert "no run recorded so far" in page.text
    assert not (project.folder / "logs").exists()
    (project.folder / "logs").mkdir()
    (project.folder / "logs" / "history.db").write_bytes(b"no database at all" * 100)
    assert "cannot be read" in written(project).text


@pytest.mark.proves("report-5")
def test_a_page_waits_only_once_for_a_history_that_is_held(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that writes the page has waited for it itself."""
    nights(project, 1)
    path = project.folder / "logs" / "history.db"
    connect, asked = sqlite3.connect, []

    def count(*args: Any, **more: Any) -> sqlite3.Connection:
        asked.append(args)
        file: sqlite3.Connection = connect(*args, **more)
        return file

    with closing(connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(sqlite3, "connect", count)
        assert "database is locked" in written(project).text
    assert len(asked) == 1


@pytest.mark.proves("report-5")
def test_a_killed_run_is_shown_as_one_that_never_ended(project: Project) -> None:
    nights(project, 1)
    history = snapshots.History(
        project.folder / "logs" / "history.db", 365, snapshots.Runtime(
            project.clock, snapshots.Redactor(), snapshots.Screen(snapshots.Redactor())
        )
    )  # fmt: skip
    history.begin(3)
    history.progress({"done": 1})
    history._sink.finish(lambda: None)  # all has been written
    page = written(project)
    assert "oldest first: 1 all well, 1 never ended" in page.text
    assert "never ended" in page.text


@pytest.mark.proves("report-5")
def test_the_worst_comes_first_and_the_page_says_until_when_it_is_true() -> None:
    view = {
        "host": "ops", "version": "1", "generated_at": "2026-01-01T00:00:00Z", "problems": [],
        "schedule": {"next_run_at": "2026-01-02T03:15:00Z"},
        "servers": [
            {
                "provider": "hetzner", "server_id": str(n), "name": f"s{n}", "last_error": None,
                "state": "stale" if n == 7 else "ok",
                "last_success_at": None, "last_failure_at": None,
            }
            for n in range(9)
        ],
    }  # fmt: skip
    page = Page(snapshots.report_page(view, [], []))
    assert page.text.index("s7 ") < page.text.index("s0 ")
    assert "The next run is due 2026-01-02 04:15 CET: if that has passed" in page.text


@pytest.mark.proves("report-5")
def test_a_page_bears_a_clock_that_was_wrong_and_a_status_that_it_does_not_know(
    project: Project,
) -> None:
    nights(project)
    with closing(sqlite3.connect(project.folder / "logs" / "history.db")) as file:
        file.execute("UPDATE run SET started_at = '2040-01-01T00:00:00Z' WHERE rowid = 1")
        first = "(SELECT id FROM run WHERE rowid = 1)"
        file.execute(f"UPDATE turn SET ended_at = '2040-01-01T00:01:00Z' WHERE run = {first}")
        file.execute("UPDATE run SET exit_status = 3 WHERE rowid = 2")
        file.commit()
    page = written(project)
    assert page.tags["rect"] == 4 + 3 * 4 + 2 * 4
    assert "oldest first: 2 all well, 1 failed, 1 some failed" in page.text
    assert not {pair for pair in page.attributes if pair[0] == "height" and pair[1] < "0"}


@needs_chromium
@pytest.mark.proves("report-6")
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_an_error_or_a_request(
    project: Project, tmp_path: Path, width: int, scheme: str
) -> None:
    nights(project)
    written(project)
    picture, net = tmp_path / "page.png", tmp_path / "net.json"
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--disable-features=NetworkTimeServiceQuerying", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
        f"--window-size={width},1400", f"--log-net-log={net}", "--virtual-time-budget=1000",
        f"--blink-settings=preferredColorScheme={'0' if scheme == 'dark' else '1'}",
        f"--screenshot={picture}", (project.folder / "page.html").as_uri(),
    ]  # fmt: skip
    home = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(
        command, env=home, capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr
    asked = {
        event["params"]["url"]
        for event in json.loads(net.read_text(encoding="utf-8"))["events"]
        if "url" in event.get("params", {}) and "page.html" not in event["params"]["url"]
    }
    own = re.compile(r"https?://[\w.-]+\.google(apis)?\.com/")  # what Chromium asks for itself
    assert not {url for url in asked if url.startswith(("http", "file")) and not own.match(url)}
    with Image.open(picture) as image:
        colours: list[Any] = image.convert("RGB").getcolors(1_000_000) or []
    background = max(colours)[1]
    assert (sum(background) < 200) == (scheme == "dark")
    assert len(colours) > 20
    assert max(colours)[0] < 0.99 * sum(count for count, _ in colours)
