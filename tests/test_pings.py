"""The dead man's switch: which calls a monitor gets, when, and what becomes of those that fail."""

from __future__ import annotations

import fcntl
import json
import time
import uuid
from pathlib import Path
from typing import Any, Optional
from urllib.parse import quote

import fakes as fake
import pytest
import trustme
from conftest import Project, Result, certified
from fakes.mail import HttpsServer
from fakes.monitors import BODY_LIMIT, Check, Healthchecks
from test_notify import assert_undelivered, stop_at_a_poll, telegram

import snapshots

PING = "POST /ping"
CREATE = "POST /hz/servers/{id}/actions/create_image"
BEGIN_AND_END = ["start", "success"]


def check(project: Project, code: str = "") -> tuple[str, Check]:
    """A new check of Healthchecks: its URL, which is a secret, and the check."""
    code = code or str(uuid.uuid4())
    project.canaries.add(code)
    project.cloud.checks[code] = made = Check()
    return f"{project.cloud.url}/ping/{code}", made


def watched(project: Project, **more: Any) -> Check:
    """Every run is watched by a check."""
    url, made = check(project)
    project.config["PING"] = {"url": url, **more}
    return made


# --- a run and its monitor ---


@pytest.mark.proves("telling-6")
def test_a_good_run_calls_at_its_begin_and_its_end(project: Project) -> None:
    seen = watched(project)
    project.server("hetzner", 11, "web")
    project.server("digitalocean", 12, "shop")
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert seen.events == [
        ("start", ""),
        ("success", "SUMMARY: 2 succeeded, 0 failed out of 2 total"),
    ]
    assert (seen.status, seen.started) == ("up", False)
    assert "the whole run: ping sent" in result.lines


@pytest.mark.proves("telling-6")
@pytest.mark.parametrize("all_fail", [False, True])
def test_a_failure_is_called_with_what_failed(project: Project, all_fail: bool) -> None:
    """What an API says of a credential is masked there as everywhere."""
    seen = watched(project)
    token = project.account("hetzner").token
    project.server("hetzner", 11, "web")
    if not all_fail:
        project.server("digitalocean", 12, "shop")
    body = {"error": {"code": "odd", "message": f"no {token}"}}
    project.cloud.fault(CREATE, fake.status(400, body), times=None)
    assert project.run().code == (1 if all_fail else 2)
    assert seen.words == ["start", "fail"]
    summary, web = seen.events[1][1].split("\n")
    assert summary.startswith("SUMMARY: ")
    assert web.startswith("web: FAILURE: ")
    assert "no [hidden]" in web
    assert seen.status == "down"


def test_a_file_that_cannot_be_used_is_a_failure_for_the_monitor(project: Project) -> None:
    seen = watched(project)
    project.server("hetzner", 11, "web")
    url, own = check(project)
    project.write("broken.json", json.dumps({"hetzner_cloud_server": {"id": 7, "ping_url": url}}))
    assert project.run().code == 2
    assert seen.words == ["start", "fail"]
    assert own.events == []  # there was no turn


def test_a_body_has_at_most_ten_thousand_bytes_and_counts_the_rest(project: Project) -> None:
    seen = watched(project)
    for number in range(200):
        project.write(f"s_{number} 理由 😀 {'ß' * 40}.json", "{")
    assert project.run().code == 1
    summary, *failed, more = seen.events[1][1].split("\n")
    assert summary == "SUMMARY: 0 succeeded, 200 failed out of 200 total"
    assert len(failed) > 30
    assert more == f"... and {200 - len(failed)} more"
    assert len(seen.events[1][1].encode()) > BODY_LIMIT * 0.7


@pytest.mark.proves("telling-6")
@pytest.mark.parametrize("what", ["configuration", "no files", "lock"])
def test_a_run_that_cannot_start_calls_fail_alone(project: Project, what: str) -> None:
    seen = watched(project)
    project.server("hetzner", 11)
    if what == "configuration":
        project.config["TIMING"]["poll_interval"] = "never"
    elif what == "no files":
        (project.folder / "configs" / "hetzner-11.json").unlink()
    else:
        (project.folder / "logs" / "snapshots.lock").mkdir(parents=True)
    assert project.run().code == 1
    assert seen.words == ["fail"]
    word = {"configuration": "poll_interval", "no files": "no server file"}.get(what, "lock")
    assert word in seen.events[0][1]


def test_a_crash_of_our_own_is_a_failure(project: Project) -> None:
    seen = watched(project)
    project.server("hetzner", 11)
    start = project.clock.start

    def refuse(target: Any, name: str) -> None:
        if name.startswith("turn"):
            raise MemoryError
        start(target, name)

    project.clock.start = refuse  # type: ignore[method-assign]
    assert project.run().code == 1
    assert seen.words == ["start", "fail"]


@pytest.mark.proves("D-5")
def test_a_run_that_is_stopped_is_a_failure(project: Project) -> None:
    seen = watched(project)
    project.server("digitalocean", 12, "second", duration_seconds=3000)
    stop_at_a_poll(project, lambda: project.clock.elapsed > 15)
    assert project.run().code == 1
    assert seen.words == ["start", "fail"]
    assert "interrupted by SIGTERM" in seen.events[1][1]


@pytest.mark.proves("telling-6")
@pytest.mark.parametrize("args", [("-n",), ("--prune-only",), ("hetzner-11.json",), ("--check",)])
@pytest.mark.parametrize("problem", [False, True])
def test_what_is_not_the_whole_job_calls_nobody(
    project: Project, args: tuple[str, ...], problem: bool
) -> None:
    seen = watched(project)
    project.history(project.server("hetzner", 11, "web"), 1)
    if problem:
        project.config["TIMING"]["poll_interval"] = "never"
    project.run(*args)
    assert seen.events == []


def test_a_held_lock_calls_nobody(project: Project) -> None:
    seen = watched(project)
    url, own = check(project)
    project.server("hetzner", 11, file={"ping_url": url})
    path = project.folder / "logs" / "snapshots.lock"
    path.parent.mkdir()
    with open(path, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert project.run().code == 3
    assert seen.events == own.events == []


@pytest.mark.proves("telling-7")
def test_nothing_due_is_a_success_only_after_successes(project: Project) -> None:
    seen = watched(project)
    project.server("hetzner", 11, "web", file={"min_interval_hours": 24})
    project.server("digitalocean", 12, "shop", file={"min_interval_hours": 24})
    assert project.run().code == 0
    assert project.run().out == "SUMMARY: 0 succeeded, 0 failed out of 0 total; 2 not due\n"
    assert seen.words == BEGIN_AND_END * 2
    project.cloud.fault(CREATE, fake.status(400, {"error": {"code": "odd", "message": "no"}}))
    assert project.run("--now").code == 2
    seen.events.clear()
    assert project.run().code == 0  # again not due; the alarm stays
    assert seen.words == ["start"]
    assert seen.status == "down"
    assert project.run("--now").code == 0
    assert project.run().code == 0
    assert seen.words == ["start", *BEGIN_AND_END * 2]


@pytest.mark.proves("telling-7")
@pytest.mark.parametrize("history", ["none", "damaged", "of others"])
def test_nothing_due_and_no_history_is_no_success(project: Project, history: str) -> None:
    seen = watched(project)
    for number in (11, 12):
        server = project.server("hetzner", number, file={"min_interval_hours": 48})
        project.history(server, 1)
    path = project.folder / "logs" / "history.db"
    if history == "damaged":
        path.parent.mkdir()
        path.write_bytes(b"no database" * 100)
    elif history == "of others":
        assert project.run("--now", "hetzner-11.json").code == 0
    assert project.run().code == 0
    assert seen.words == ["start"]


def test_some_due_and_well_is_a_success(project: Project) -> None:
    seen = watched(project)
    project.server("hetzner", 11, "web", file={"min_interval_hours": 24})
    assert project.run().code == 0
    project.server("digitalocean", 12, "shop")
    assert project.run().code == 0
    assert seen.events[3] == ("success", "SUMMARY: 1 succeeded, 0 failed out of 1 total; 1 not due")


# --- URLs ---


@pytest.mark.proves("telling-10")
def test_a_slug_that_is_made_by_the_first_call(project: Project) -> None:
    """The suffix goes into the path, before the query."""
    project.cloud.checks["fqOOd6-F4MMNuCEnzTU01w/other"] = Check()
    slug = "fqOOd6-F4MMNuCEnzTU01w/snapshots"
    project.config["PING"] = {"url": f"{project.cloud.url}/ping/{slug}/?create=1"}
    project.server("hetzner", 11, "web")
    assert project.run().err == ""
    assert project.cloud.checks[slug].words == BEGIN_AND_END
    assert [r.status for r in project.cloud.requests(PING)] == [201, 200]
    targets = [r.target.rpartition("/")[2] for r in project.cloud.requests(PING)]
    assert targets == ["start?create=1", "snapshots?create=1"]


def test_a_login_in_the_url_goes_into_the_head(project: Project) -> None:
    code = str(uuid.uuid4())
    password = project.token("monitor")
    url = project.cloud.url.replace("http://", f"http://me:{quote(password, safe='')}@")
    project.config["PING"] = {"url": f"{url}/ping/{code}"}
    project.cloud.hook_logins.update(
        dict.fromkeys((f"/ping/{code}", f"/ping/{code}/start"), ("me", password))
    )
    project.cloud.checks[code] = made = Check()
    project.server("hetzner", 11, "web")
    assert project.run().err == ""
    assert made.words == BEGIN_AND_END


@pytest.mark.proves("telling-10")
@pytest.mark.parametrize(
    ("good", "keys"),
    [
        (True, ("start", "success", "failure")),
        (False, ("start", "success", "failure")),
        (True, ("success",)),
        (False, ("success",)),
    ],
)
def test_other_monitors_get_their_urls_as_they_are(
    project: Project, good: bool, keys: tuple[str, ...]
) -> None:
    token = project.token("push")
    base = f"{project.cloud.url}/push/{quote(token, safe='')}"
    urls = {
        "start": f"{base}?status=up&msg=begin",
        "success": f"{base}?status=up&msg=OK",
        "failure": f"{base}?status=down&msg=%7Berror%7D",
    }
    project.config["PING"] = {f"{key}_url": urls[key] for key in keys}
    project.server("hetzner", 11, "web", fails=not good)
    result = project.run()
    assert result.code == (0 if good else 1)
    assert "ping" not in result.err
    events = [key for key in ("start", "success" if good else "failure") if key in keys]
    assert project.cloud.pushes == [urls[key][len(project.cloud.url) :] for key in events]
    assert all(r.method == "GET" and not r.body for r in project.cloud.requests("GET /push"))


def test_a_monitor_that_takes_no_post_is_named_and_no_token_shows(project: Project) -> None:
    """The URL of an Uptime Kuma, in the key for Healthchecks."""
    token = project.token("push")
    project.config["PING"] = {"url": f"{project.cloud.url}/push/{quote(token, safe='')}?status=up"}
    project.server("hetzner", 11, "web")
    result = project.run()
    assert_undelivered(result, 2)
    assert "the whole run: ping not delivered: cannot ping: HTTP 404: Cannot POST" in result.err


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"url": "hc-ping.com/x"}, "'url': must be a URL that starts with https://"),
        ({"url": "https://hc-ping.com/{uuid}/start"}, "'url': must be the ping URL itself"),
        ({"url": "https://hc-ping.com/{uuid}/fail/"}, "'url': must be the ping URL itself"),
        ({"url": "https://hc-ping.com/{uuid}/1?rid=2"}, "'url': must be the ping URL itself"),
        ({"url": "https://hc-ping.com/{uuid}#top"}, "'url': must be the ping URL itself"),
        ({"success_url": "ftp://x.example"}, "'success_url': must be a URL that starts"),
        (
            {"url": "https://hc-ping.com/{uuid}", "failure_url": "https://x.example/y"},
            "'url': takes the place of the other three",
        ),
        ({"uri": "https://hc-ping.com/{uuid}"}, "'uri': unknown key, did you mean 'url'?"),
    ],
)
def test_what_cannot_be_a_ping_url_is_a_problem(
    project: Project, values: dict[str, str], problem: str
) -> None:
    code = str(uuid.uuid4())
    project.canaries.add(code)
    project.config["PING"] = {key: url.replace("{uuid}", code) for key, url in values.items()}
    project.server("hetzner", 11)
    result = project.run()
    assert result.code == 1
    assert f"[PING] {problem}" in result.err


@pytest.mark.parametrize("url", ["https://hc-ping.com/{uuid}", "https://x.example/key-of-mine/log"])
def test_what_can_be_a_ping_url_is_none(project: Project, url: str) -> None:
    project.config["PING"] = {"url": url.replace("{uuid}", str(uuid.uuid4()).upper())}
    assert snapshots.load_settings(project.write_config(), required=True).problems == ()


def test_a_problem_of_the_section_itself_calls_what_is_good_of_it(project: Project) -> None:
    seen = watched(project, start_url="no url")
    project.server("hetzner", 11)
    assert project.run().code == 1
    assert seen.words == ["fail"]


# --- a server's own check ---


@pytest.mark.proves("telling-8")
def test_a_server_calls_after_each_turn(project: Project) -> None:
    seen = watched(project)
    (web_url, web), (bad_url, bad) = check(project), check(project)
    project.server("hetzner", 11, "web", file={"ping_url": web_url})
    project.server("hetzner", 12, "bad", fails=True, file={"ping_url": bad_url})
    project.server("hetzner", 13, "none", file={"ping_url": ""})
    assert project.run().code == 2
    assert (web.words, bad.words, seen.words) == (["success"], ["fail"], ["start", "fail"])
    assert web.events[0][1].startswith("web: SUCCESS: web-")
    assert bad.events[0][1].startswith("bad: FAILURE: ")
    assert project.run("hetzner-11.json", "hetzner-12.json").code == 2
    assert (web.words, bad.words, seen.words) == (["success"] * 2, ["fail"] * 2, ["start", "fail"])


def test_only_a_turn_that_was_taken_calls(project: Project) -> None:
    url, web = check(project)
    file = {"ping_url": url, "min_interval_hours": 24}
    project.history(project.server("hetzner", 11, "web", file=file), 2)
    assert project.run("-n").code == 0
    assert project.run("--prune-only").code == 0
    assert web.events == []
    assert project.run("--now").code == 0
    assert project.run().code == 0
    assert web.words == ["success"]


@pytest.mark.proves("telling-8")
@pytest.mark.parametrize(("first", "second"), [("", ""), ("", "/"), ("?create=1", ""), ("", "UP")])
def test_one_check_for_two_servers_is_an_error_of_both(
    project: Project, first: str, second: str
) -> None:
    url, seen = check(project)
    second = url.replace("http", "HTTP", 1) if second == "UP" else url + second
    for number, ping_url in ((11, url + first), (12, second)):
        project.server("hetzner", number, f"s_{number}", file={"ping_url": ping_url})
    project.server("hetzner", 13, "other")
    result = project.run()
    assert result.code == 2
    files = [str(project.folder / "configs" / f"hetzner-{number}.json") for number in (11, 12)]
    text = f"{' and '.join(files)}: have the same ping URL (give each a check of its own)"
    assert [line[-len(text) :] for line in result.err.splitlines()] == [text] * 2
    assert len(project.cloud.created) == 1
    assert seen.events == []


def test_the_check_of_all_runs_is_no_servers(project: Project) -> None:
    seen = watched(project)
    project.server("hetzner", 11, file={"ping_url": project.config["PING"]["url"]})
    result = project.run()
    assert result.code == 1
    assert "[PING] and " in result.err
    assert seen.words == ["start", "fail"]


@pytest.mark.parametrize("word", ["not-a-url", "https://h.example/{uuid}/fail", 7])
def test_a_wrong_ping_url_fails_its_server(project: Project, word: object) -> None:
    if isinstance(word, str):
        word = word.replace("{uuid}", str(uuid.uuid4()))
    project.server("hetzner", 11, "web", file={"ping_url": word})
    result = project.run()
    assert result.code == 1
    assert "hetzner-11.json: ping_url: must be " in result.err


# --- calls that fail ---


def calls(project: Project, path: str = "") -> list[Optional[int]]:
    return [r.status for r in project.cloud.requests(PING) if r.path.endswith(path)]


@pytest.mark.proves("telling-9")
@pytest.mark.parametrize(
    ("fault", "count", "reason"),
    [
        (fake.status(500), 3, "HTTP 500"),
        (fake.status(503, headers={"Retry-After": "1"}), 3, "HTTP 503"),
        (fake.status(429, body=b"Too many"), 3, "HTTP 429: Too many"),
        (fake.status(200, body=b"OK (rate limited)"), 3, "HTTP 200: OK (rate limited)"),
        (fake.hang_up(), 3, "connection reset by peer"),
        (fake.truncated(), 3, "the connection broke"),
        (fake.status(400, body=b"invalid url format"), 1, "HTTP 400: invalid url format"),
        (fake.status(409, body=b"ambiguous slug"), 1, "HTTP 409: ambiguous slug"),
        (
            fake.status(404, body=b"not found"),
            1,
            "HTTP 404: not found (there is no such check: copy its ping URL once more)",
        ),
        (
            fake.status(200, body=b"OK (not found)\n"),
            1,
            "HTTP 200: OK (not found) (there is no such check: copy its ping URL once more)",
        ),
        (
            fake.redirect("https://elsewhere.example/ping/x"),
            1,
            "HTTP 302 (redirects are not followed; it points to https://elsewhere.example)",
        ),
    ],
)
def test_a_call_that_fails_is_a_warning_and_no_more(
    project: Project, fault: fake.Fault, count: int, reason: str
) -> None:
    """A start gets one try, an end three where that can help."""
    watched(project)
    project.server("hetzner", 11, "web")
    project.cloud.fault(PING, fault, times=None)
    result = project.run()
    assert_undelivered(result, 2)
    assert (len(calls(project, "/start")), len(calls(project))) == (1, 1 + count)
    warnings = result.err.splitlines()
    assert all(
        f"warning: the whole run: ping not delivered: cannot ping: {reason}" in line
        for line in warnings
    )
    assert project.clock.elapsed < 60


def test_what_passes_is_tried_again_and_arrives(project: Project) -> None:
    seen = watched(project)
    project.server("hetzner", 11, "web")
    end = {"when": lambda request: not request.path.endswith("/start")}
    project.cloud.fault(PING, fake.status(502), fake.hang_up(act=True), **end)  # type: ignore[arg-type]
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert seen.words == ["start", "success", "success"]  # the second time for nothing


@pytest.mark.proves("telling-9")
def test_an_unknown_check_is_explained_by_both_kinds(project: Project) -> None:
    project.config["PING"] = {"url": f"{project.cloud.url}/ping/{uuid.uuid4()}"}
    project.server("hetzner", 11, "web")
    (service,) = [api for api in project.cloud.apis if isinstance(api, Healthchecks)]
    for service.hosted in (False, True):
        result = project.run()
        assert_undelivered(result, 2)
        assert result.err.count("(there is no such check: copy its ping URL once more)") == 2


def test_more_calls_than_a_service_takes_are_held_back(project: Project) -> None:
    seen = watched(project)
    project.server("hetzner", 11, "web")
    (service,) = [api for api in project.cloud.apis if isinstance(api, Healthchecks)]
    service.hosted = True
    for _ in range(5):
        seen.calls.append(project.clock.monotonic())
    result = project.run()
    assert result.code == 0
    assert "OK (rate limited)" in result.err


@pytest.mark.proves("telling-9")
def test_a_monitor_that_says_nothing_costs_its_timeouts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "PING_SECONDS", 0.2)
    watched(project)
    project.server("hetzner", 11, "web")
    project.cloud.fault(PING, fake.stall(30), times=None)
    began = time.monotonic()
    result = project.run()
    assert_undelivered(result, 2)
    assert "cannot ping: timed out" in result.err
    assert len(calls(project)) == 4
    assert time.monotonic() - began < 10


def test_a_monitor_that_is_down_stops_neither_messages_nor_the_servers_pings(
    project: Project,
) -> None:
    """And the run's own ping does not wait behind those of all servers."""
    project.config["PING"] = {"url": f"http://127.0.0.1:9/ping/{uuid.uuid4()}"}
    url, web = check(project)
    project.server("hetzner", 11, "web", file={"ping_url": url})
    telegram(project)
    result = project.run()
    assert_undelivered(result, 2)
    assert "no connection" in result.err or "refused" in result.err
    assert len(project.cloud.telegram_messages) == 1
    assert web.words == ["success"]


@pytest.mark.parametrize("is_trusted", [False, True])
def test_a_monitor_needs_a_good_certificate(
    project: Project, ca: trustme.CA, other_ca: trustme.CA, trusted: None, is_trusted: bool
) -> None:
    context = certified(ca if is_trusted else other_ca)
    server = HttpsServer(context).start()
    try:
        code = str(uuid.uuid4())
        project.config["PING"] = {"url": f"https://127.0.0.1:{server.port}/ping/{code}"}
        project.server("hetzner", 11, "web")
        result = project.run()
    finally:
        server.stop()
    if is_trusted:
        assert result.err == ""
        assert server.paths == [f"/ping/{code}/start", f"/ping/{code}"]
    else:
        assert_undelivered(result, 2)
        assert "its certificate is not valid" in result.err
        assert server.paths == []


# --- credentials ---


@pytest.mark.proves("telling-10")
@pytest.mark.parametrize("where", ["env", "file"])
def test_a_url_may_be_kept_elsewhere(
    project: Project, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    url, seen = check(project)
    own_url, own = check(project)
    if where == "env":
        monkeypatch.setenv("MONITOR", url)
        monkeypatch.setenv("OWN_MONITOR", own_url)
        value, own_value = "env:MONITOR", "env:OWN_MONITOR"
    else:
        for name, text in (("monitor", url), ("own", own_url)):
            (project.folder / name).write_text(f"{text}\n")
        value, own_value = "file:monitor", "file:own"
    project.config["PING"] = {"url": value}
    project.server("hetzner", 11, "web", file={"ping_url": own_value})
    assert project.run().err == ""
    assert (seen.words, own.words) == (BEGIN_AND_END, ["success"])
    found = project.run("--check").out
    if where == "env":
        for name in ("MONITOR", "OWN_MONITOR"):
            assert f"env:{name} is set in this shell; cron does not have it by itself" in found


def test_a_url_that_an_api_echoes_is_masked(project: Project) -> None:
    """In the log, on the screen, in the history and in messages: see the project's fixture."""
    watched(project)
    url, _ = check(project)
    project.server("hetzner", 11, "web", file={"ping_url": url})
    telegram(project)
    echo = f"{project.config['PING']['url']} {url} {url.rpartition('/')[2]}/fail"
    body = {"error": {"code": "odd", "message": echo}}
    project.cloud.fault(CREATE, fake.status(400, body), times=None)
    result = project.run()
    assert result.code == 1
    assert "[hidden]" in result.err


def test_a_file_with_a_ping_url_is_for_its_owner_alone(project: Project) -> None:
    watched(project)
    project.write_config().chmod(0o644)
    path = project.folder / "snapshots.config"
    remarks = snapshots.load_settings(path, required=True).remarks
    assert [r.level for r in remarks] == [snapshots.Level.WARNING]


# --- --check ---


def found(result: Result, subject: str) -> list[str]:
    return [line for line in result.out.splitlines() if line.split()[1:2] == [subject]]


def test_check_names_the_monitor_and_no_secret(project: Project) -> None:
    watched(project)
    project.server("hetzner", 11, "web")
    host = project.cloud.url.partition("//")[2]
    (line,) = found(project.run("--check"), "ping")
    assert line.split(None, 2) == ["ok", "ping", f"every run without FILE calls {host}"]


def test_check_warns_of_a_switch_that_nobody_holds(project: Project) -> None:
    project.config["PING"] = {"failure_url": f"{project.cloud.url}/push/{project.token('push')}"}
    project.server("hetzner", 11, "web")
    text = "[PING] 'failure_url': success_url is not set: nobody is alarmed where runs do not come"
    result = project.run("--check")
    assert any(line.startswith("warning") and text in line for line in result.out.splitlines())
    assert f"warning: {project.folder / 'snapshots.config'}: line " in project.run().err


def test_an_http_url_is_worth_a_line(tmp_path: Path, project: Project) -> None:
    project.config["PING"] = {"url": f"http://monitor.example/{uuid.uuid4()}"}
    settings = snapshots.load_settings(project.write_config(), required=True)
    text = "is http://: what is sent there can be read on the way"
    assert [r.text for r in settings.remarks] == [f"[PING] url: {text}"]
    file = {"ping_url": f"http://monitor.example/{uuid.uuid4()}"}
    project.server("hetzner", 11, "web", file=file)
    _, remarks = snapshots.load_servers([], settings)
    assert [(r.text, r.where) for r in remarks] == [(f"ping_url: {text}", "web")]


# --- --test-notifications ---


@pytest.mark.proves("telling-5")
def test_the_test_logs_and_changes_no_state(project: Project) -> None:
    seen = watched(project)
    url, own = check(project)
    project.server("hetzner", 11, "web", file={"ping_url": url})
    host = project.cloud.url.partition("//")[2]
    result = project.run("--test-notifications")
    assert (result.code, result.err) == (0, "")
    source = project.folder / "configs" / "hetzner-11.json"
    assert result.out.splitlines()[:2] == [
        f"ping at {host} (snapshots.config): log event delivered",
        f"ping at {host} ({source}): log event delivered",
    ]
    assert seen.events == own.events == [("log", "TEST: this is a test")]
    assert (seen.status, seen.started) == ("new", False)
    shown = project.run("--test-notifications", "-n").out
    assert "log event would be:\nTEST: this is a test\n" in shown
    assert len(seen.events) == 1


def test_literal_urls_are_not_tested(project: Project) -> None:
    base = f"{project.cloud.url}/push/{project.token('push')}"
    project.config["PING"] = {"success_url": f"{base}?status=up", "start_url": base}
    result = project.run("--test-notifications")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[:2] == [
        "[PING] start_url: not tested: a call would count",
        "[PING] success_url: not tested: a call would count",
    ]
    assert project.cloud.pushes == []


def test_a_check_that_is_not_there_fails_the_test(project: Project) -> None:
    seen = watched(project)
    project.cloud.checks.clear()
    result = project.run("--test-notifications", "-q")
    assert result.code == 1
    assert "log event not delivered: cannot ping: HTTP 404: not found (there is no" in result.err
    assert seen.events == []
