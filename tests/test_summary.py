"""One message about a whole run, whom it goes to, and the test of who is reached."""

from __future__ import annotations

import json
import re
import time
from typing import Any, Optional

import fakes as fake
import pytest
from conftest import PostOffice, Project, Tab, a_server
from fakes.mail import MailServer
from test_notify import HOOK, SEND, bot_token, stop_at_a_poll, telegram, texts, webhook

import snapshots


def mode(project: Project, word: str) -> None:
    project.config["NOTIFICATIONS"] = {"mode": word}


def three(project: Project) -> None:
    """Two servers that are well, and one that is not."""
    project.history(project.server("hetzner", 11, "web"), 2)
    project.server("hetzner", 12, "broken", fails=True)
    project.server("digitalocean", 13, "shop")


# --- mode = summary ---


@pytest.mark.proves("telling-1")
def test_a_run_is_one_message_failures_first(project: Project, tab: Tab) -> None:
    three(project)
    telegram(project)
    mode(project, "summary")
    tab.set(tab.block("15 3 * * *"))
    result = tab.run()
    assert (result.code, result.out) == (2, "SUMMARY: 2 succeeded, 1 failed out of 3 total\n")
    (text,) = texts(project)
    head, broken, shop, web, counts, sizes, coming, end = text.split("\n")
    assert head == "Snapshot Failed: 3 servers (1 failed)"
    assert broken.startswith("broken: FAILURE: ")
    assert re.fullmatch(r"shop: SUCCESS: shop-[0-9]{14}, 1 snapshots exist", shop)
    assert re.fullmatch(r"web: SUCCESS: web-[0-9]{14}, 2 snapshots exist", web)
    assert counts == "SUMMARY: 2 succeeded, 1 failed out of 3 total"
    assert sizes == "freed 2.3 GB, stored 6.9 GB for 2 servers"
    assert re.fullmatch(r"next run: 2025-06-01 03:15 UTC, in 1\d min( \d+ s)?", coming)
    assert re.fullmatch(r"2025-06-01 05:\d\d:\d\d, on .+", end)
    assert len(result.final) == 3  # the log is as ever


def test_a_run_that_went_well_is_one_message_as_well(project: Project, post: PostOffice) -> None:
    """Mail wants failures only, unless told otherwise."""
    server = post.open()
    project.config["SMTP"].pop("notify_on_success")
    project.server("hetzner", 11, "web")
    telegram(project)
    mode(project, "summary")
    assert project.run().code == 0
    (text,) = texts(project)
    assert text.startswith("Snapshot Success: 1 server (0 failed)\nweb: SUCCESS: web-")
    assert server.mails == []
    project.config["SMTP"]["notify_on_success"] = "true"
    assert project.run().code == 0
    (mail,) = server.mails
    assert mail.message["Subject"] == "Snapshot SUCCESS: 1 server (0 failed)"
    assert mail.part("plain").split("\n")[1].startswith("web: SUCCESS: web-")


@pytest.mark.proves("telling-1", "telling-4")
def test_each_destination_is_notified_of_its_own_servers(project: Project) -> None:
    three(project)
    telegram(project)
    token = bot_token(project)
    project.cloud.add_bot(token, [7])
    own = {"telegram": {"bot_token": token, "chat_id": 7}}
    project.server("hetzner", 14, "own", file=own)
    project.server("hetzner", 15, "same_chat", file={"telegram": {"message_success": "mine"}})
    project.server("hetzner", 16, "silent", file={"telegram": {"enabled": False}})
    mode(project, "summary")
    assert project.run().code == 2
    messages = {m.chat_id: m.text.split("\n") for m in project.cloud.telegram_messages}
    assert len(project.cloud.telegram_messages) == len(messages) == 2
    assert [line.split(":")[0] for line in messages["7"][1:2]] == ["own"]
    told = [line.split(":")[0] for line in messages["123"][1:5]]
    assert told == ["broken", "same_chat", "shop", "web"]
    assert "own" not in "".join(messages["123"])


def test_a_destination_is_notified_of_all_if_it_wants_one(project: Project) -> None:
    telegram(project, notify_on_success="false")
    webhook(project, notify_on_failure="false")
    mode(project, "summary")
    web = project.server("hetzner", 11, "web")
    assert project.run().code == 0
    assert (len(texts(project)), len(project.cloud.hooks)) == (0, 1)
    project.server("hetzner", 12, "broken", fails=True)
    assert project.run().code == 2
    (text,) = texts(project)
    assert text.index("broken: FAILURE") < text.index("web: SUCCESS")
    assert [hook.json["failed"] for hook in project.cloud.hooks] == [0, 1]
    web.fails = True
    assert project.run().code == 1
    assert (len(texts(project)), len(project.cloud.hooks)) == (2, 2)


@pytest.mark.proves("telling-1")
def test_the_built_in_payload_is_one_object_with_all_servers(project: Project) -> None:
    three(project)
    webhook(project)
    mode(project, "summary")
    assert project.run().code == 2
    (hook,) = project.cloud.hooks
    servers = hook.json.pop("servers")
    assert [(s["server"], s["status"]) for s in servers] == [
        ("broken", "FAILURE"),
        ("shop", "SUCCESS"),
        ("web", "SUCCESS"),
    ]
    assert servers[0]["error"]
    assert servers[2]["total_snapshots"] == 2
    assert hook.json.pop("summary").startswith("broken: FAILURE: ")
    numbers = {key: hook.json[key] for key in ("succeeded", "failed", "not_due", "freed_gb")}
    assert numbers == {"succeeded": 2, "failed": 1, "not_due": 0, "freed_gb": 2.3}
    assert hook.json["stored_gb"] == 6.9
    assert hook.json["status"] == "FAILURE"


def test_own_templates_count_where_they_know_of_summaries(project: Project) -> None:
    project.server("hetzner", 11, "web")
    telegram(project, message_success="*{status}*\\n{summary}\\n{snapshot_name}")
    webhook(project, payload_success=json.dumps({"content": "{summary}"}))
    mode(project, "summary")
    assert project.run().code == 0
    project.config["TELEGRAM"]["message_success"] = "{server_name}: {snapshot_name}"
    project.config["WEBHOOK"]["payload_success"] = json.dumps({"text": "{server_name} {status}"})
    assert project.run().code == 0
    own, built_in = texts(project)
    assert re.match(r"SUCCESS\nweb: SUCCESS: web-.*\nSUMMARY: 1 succeeded", own)
    assert own.endswith("\nseveral")
    assert built_in.startswith("Snapshot Success: 1 server (0 failed)\nweb: SUCCESS: web-")
    first, second = (hook.json for hook in project.cloud.hooks)
    assert list(first) == ["content"]
    assert first["content"].startswith("web: SUCCESS: web-")
    assert second == {"text": "1 server (0 failed) SUCCESS"}


def test_a_failure_payload_with_the_summary_gets_no_second_error(project: Project) -> None:
    """Google Chat refuses keys that it does not know."""
    project.server("hetzner", 11, "web", fails=True)
    token = project.token("hook")
    project.config["WEBHOOK"] = {
        "enabled": "true",
        "url": f"{project.cloud.url}/hook/googlechat/{token}",
        "payload_failure": json.dumps({"text": "{summary}"}),
    }
    for word in ("summary", "per_server"):
        mode(project, word)
        assert project.run().code == 1
    assert len(project.cloud.hooks) == 2
    assert all("web: FAILURE: " in hook.json["text"] for hook in project.cloud.hooks)


@pytest.fixture
def many(project: Project) -> Project:
    """Two hundred servers, all failing, with much to say."""
    for number in range(200):
        project.write(f"s_{number} 理由 & <b> *there* _are_ `many`.json", "{" + " " * 300)
    mode(project, "summary")
    return project


def counted(text: str) -> tuple[int, int]:
    """How many servers a text names, and how many more it says there are."""
    name = re.escape(" 理由 & <b> *there* _are_ `many`")
    named = len(re.findall(rf"^s_[0-9]+{name}: FAILURE: ", text, re.M))
    more = re.search(r"^\.\.\. and ([0-9]+) more$", text, re.M)
    return named, int(more[1]) if more else 0


@pytest.mark.proves("telling-2")
def test_two_hundred_failures_fit_everywhere_and_are_counted(
    many: Project, post: PostOffice
) -> None:
    server = post.open()
    telegram(many)
    payload = json.dumps({"content": "{summary}"})
    webhook(many, payload_failure=payload)
    many.config["WEBHOOK"]["url"] = f"{many.cloud.url}/hook/discord/{many.token('hook')}"
    result = many.run()
    assert (result.code, result.out) == (1, "SUMMARY: 0 succeeded, 200 failed out of 200 total\n")
    (text,) = texts(many)
    assert fake.utf16_units(text) <= 4096
    named, more = counted(text)
    assert named >= 15
    assert named + more == 200
    assert "SUMMARY: 0 succeeded, 200 failed out of 200 total" in text
    (hook,) = many.cloud.hooks
    assert len(hook.json["content"]) <= 1300
    named, more = counted(hook.json["content"])
    assert named >= 5
    assert named + more == 200
    (mail,) = server.mails
    assert counted(mail.part("plain")) == (200, 0)


def test_one_long_failure_is_cut_and_named(project: Project) -> None:
    project.write("s.json", json.dumps({f"key_{n}": 1 for n in range(3)}))
    project.write("long.json", json.dumps({"hetzner_cloud_server": dict.fromkeys(KEYS, 1)}))
    telegram(project)
    mode(project, "summary")
    assert project.run().code == 1
    (text,) = texts(project)
    assert fake.utf16_units(text) <= 4096
    long, short, *_ = text.split("\n")[1:]
    assert long.startswith("long: FAILURE: ")
    assert long.endswith(snapshots.CUT)
    assert len(long) > 1500
    assert short.startswith("s: FAILURE: ")


KEYS = [f"no_such_key_{a}{b}" for a in "abcdefgh" for b in "abcdefghijklmnop"]


@pytest.mark.proves("telling-2")
def test_the_list_of_servers_is_whole_unless_it_is_refused(many: Project) -> None:
    webhook(many)
    many.cloud.fault(HOOK, fake.status(413), times=1)
    assert many.run().code == 1
    refused, taken = many.cloud.requests(HOOK)
    assert (len(refused.json["servers"]), refused.json["servers_left_out"]) == (200, 0)
    assert (len(taken.json["servers"]), taken.json["servers_left_out"]) == (10, 190)
    assert taken.json["failed"] == 200
    assert len(taken.body) < 20_000


def test_a_file_that_cannot_be_used_is_a_failure_of_the_summary(project: Project) -> None:
    project.server("hetzner", 11, "web")
    project.write("broken.json", "{")
    telegram(project)
    mode(project, "summary")
    assert project.run().code == 2
    (text,) = texts(project)
    assert text.split("\n")[1].startswith("broken: FAILURE: ")
    assert "2 servers (1 failed)" in text


@pytest.mark.proves("telling-1")
def test_servers_that_are_not_due_are_counted(project: Project) -> None:
    three(project)
    project.server("contabo", 14, "db", file={"min_interval_hours": 24, "telegram": {}})
    telegram(project)
    mode(project, "summary")
    assert project.run().code == 2
    assert project.run().code == 2
    assert ", 1 failed out of 4 total\n" in texts(project)[0]
    assert ", 1 failed out of 3 total; 1 not due\n" in texts(project)[1]


def test_a_run_in_which_nothing_was_due_sends_nothing(project: Project, tab: Tab) -> None:
    project.server("hetzner", 11, "web", file={"min_interval_hours": 24})
    telegram(project)
    mode(project, "summary")
    assert tab.run().code == 0
    assert tab.run().code == 0
    assert len(texts(project)) == 1
    assert tab.calls == []


@pytest.mark.proves("D-5", "telling-3")
def test_a_run_that_is_stopped_sends_its_summary(project: Project) -> None:
    telegram(project)
    webhook(project)
    mode(project, "summary")
    project.server("hetzner", 11, "first", duration_seconds=1)
    project.server("digitalocean", 12, "second", duration_seconds=3000)
    project.server("contabo", 13, "third", duration_seconds=3000)
    stopped = stop_at_a_poll(project, lambda: project.clock.elapsed > 15)
    assert project.run().code == 2
    assert project.clock.elapsed - stopped[0] <= 20
    (text,) = texts(project)
    assert re.findall(r"^(\w+): ([A-Z]+): ", text, re.M)[:3] == [
        ("second", "FAILURE"),
        ("third", "FAILURE"),
        ("first", "SUCCESS"),
    ]
    assert "interrupted by SIGTERM" in text
    assert [hook.json["failed"] for hook in project.cloud.hooks] == [2]


def test_servers_that_never_had_their_turn_are_in_the_summary(project: Project) -> None:
    project.config["TIMING"].update(max_parallel=1, run_timeout=100)
    project.server("hetzner", 11, "first", duration_seconds=200)
    project.server("hetzner", 12, "second")
    telegram(project)
    mode(project, "summary")
    assert project.run().code == 2
    (text,) = texts(project)
    assert text.split("\n")[1].startswith("second: FAILURE: was not started within ")


@pytest.mark.proves("telling-3")
def test_a_crash_of_our_own_loses_no_summary(project: Project) -> None:
    telegram(project)
    mode(project, "summary")
    project.write("broken.json", "{")
    project.server("hetzner", 11)
    start = project.clock.start

    def refuse(target: Any, name: str) -> None:
        if name.startswith("turn"):
            raise MemoryError
        start(target, name)

    project.clock.start = refuse  # type: ignore[method-assign]
    assert project.run().code == 1
    summary, whole = texts(project)
    assert "broken: FAILURE: " in summary
    assert "unexpected MemoryError" in whole


def test_a_run_that_cannot_start_says_so_at_once(project: Project) -> None:
    telegram(project)
    mode(project, "summary")
    project.config["TIMING"]["poll_interval"] = "never"
    project.server("hetzner", 11)
    assert project.run().code == 1
    (text,) = texts(project)
    assert text.startswith("Snapshot Failed\nServer: the whole run")


@pytest.mark.proves("telling-3")
@pytest.mark.parametrize(
    "what", ["die", "exit 1", "say you (root) are not allowed", "half", "hang"]
)
def test_a_crontab_that_cannot_be_read_costs_nothing(
    project: Project, tab: Tab, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(snapshots, "CRONTAB_SECONDS", 0.5)
    project.server("hetzner", 11, "web")
    telegram(project)
    mode(project, "summary")
    tab.set(tab.block("15 3 * * *"))
    tab.mischief = {"-l": {"*": [what]}}
    began = time.monotonic()
    result = tab.run()
    assert (result.code, result.err) == (0, "")
    assert time.monotonic() - began < 10
    (text,) = texts(project)
    assert "next run" not in text


def test_a_summary_that_is_lost_is_one_message(project: Project) -> None:
    three(project)
    webhook(project)
    mode(project, "summary")
    project.cloud.fault(HOOK, fake.status(404), times=None)
    result = project.run()
    assert result.code == 2
    assert result.out.endswith("; 1 notification not delivered\n")
    assert "warning: 3 servers (1 failed): webhook notification not delivered: " in result.err


@pytest.mark.proves("telling-2")
def test_items_are_cut_to_any_length_and_counted() -> None:
    """Whatever the room: the first ones, each recognisable, and how many more there are."""
    for size in (10, 100, 400):
        for count in (1, 2, 3, 50):
            items = snapshots.Items([f"{n}: {'x' * size}" for n in range(count)], "\n", "\nend")
            for limit in (60, 100, 200, 500, 5000):
                text = items.cut(limit)
                assert len(text) <= limit
                assert text.endswith("\nend")
                named = len(re.findall(r"^[0-9]+: ", text, re.M))
                more = re.search(r"\.\.\. and ([0-9]+) more\n", text)
                assert named + (int(more[1]) if more else 0) == count
                assert named or limit < 100
    assert snapshots.Items([], "; ").cut(5) == ""


# --- mode = failures, and notify_on_... ---


@pytest.mark.proves("telling-4")
def test_failures_is_a_message_for_each_failure_alone(project: Project, post: PostOffice) -> None:
    """Whatever a channel wants to hear of."""
    server = post.open()
    three(project)
    telegram(project, notify_on_success="true")
    webhook(project)
    mode(project, "failures")
    assert project.run().code == 2
    (text,) = texts(project)
    assert text.startswith("Snapshot Failed\nServer: broken")
    assert [hook.json["server"] for hook in project.cloud.hooks] == ["broken"]
    assert [mail.message["Subject"] for mail in server.mails] == ["Snapshot FAILURE: broken"]


def test_each_channel_says_what_it_wants(project: Project) -> None:
    three(project)
    telegram(project, notify_on_success="false")
    webhook(project, notify_on_failure="no")
    own: dict[str, Any] = {"telegram": {"notify_on_success": True}}
    own["webhook"] = {"notify_on_success": False, "notify_on_failure": True}
    project.server("hetzner", 14, "own", file=own)
    project.server("hetzner", 15, "own_broken", file=own, fails=True)
    project.server(
        "hetzner", 16, "never", fails=True, file={"telegram": {"notify_on_failure": False}}
    )
    assert project.run().code == 2
    named = sorted(re.findall(r"Server: (\w+)", "\n".join(texts(project))))
    assert named == ["broken", "own", "own_broken"]
    assert sorted(hook.json["server"] for hook in project.cloud.hooks) == [
        "own_broken",
        "shop",
        "web",
    ]


@pytest.mark.parametrize("word", ["", "Summary", "PER_SERVER"])
def test_a_mode_is_read_in_any_case(project: Project, word: str) -> None:
    mode(project, word)
    settings = snapshots.load_settings(project.write_config(), required=True)
    assert settings.notifications.mode == (word.lower() or "per_server")


def test_an_unknown_mode_stops_the_run_and_is_reported(project: Project) -> None:
    telegram(project)
    mode(project, "daily")
    project.server("hetzner", 11)
    result = project.run()
    assert result.code == 1
    assert "[NOTIFICATIONS] 'mode': must be one of per_server, summary, failures" in result.err
    assert len(texts(project)) == 1


# --- --test-notifications ---


def send_test(project: Project, *args: str, status: int = 0) -> list[str]:
    result = project.run("--test-notifications", *args)
    assert result.code == status, result.err
    assert project.cloud.created == []
    assert all(r.path.startswith(("/tg", "/hook")) for r in project.cloud.journal)
    assert not (project.folder / "logs").exists()
    return result.out.splitlines() + result.err.splitlines()


ENVIRONMENT = "sent with the environment of this shell; cron's may differ (see --check)"


@pytest.mark.proves("telling-5")
def test_each_destination_gets_what_it_would_get(project: Project, post: PostOffice) -> None:
    server = post.open()
    project.config["SMTP"].pop("notify_on_success")
    telegram(project, message_success="*{server_name}* fine: {snapshot_name}", message_thread_id=0)
    webhook(project)
    project.server("hetzner", 11, "web")
    project.server("hetzner", 12, "same")
    token = bot_token(project)
    project.cloud.add_bot(token, [7])
    own = {"bot_token": token, "chat_id": 7, "notify_on_success": False}
    project.server("hetzner", 13, "own", file={"telegram": own})
    lines = send_test(project)
    host = project.cloud.url.partition("//")[2]
    source = project.folder / "configs" / "hetzner-13.json"
    assert lines == [
        "Telegram chat 123 (snapshots.config): failure message delivered",
        "Telegram chat 123 (snapshots.config): success message delivered",
        f"webhook at {host} (snapshots.config): failure message delivered",
        f"webhook at {host} (snapshots.config): success message delivered",
        "e-mail to ops@example.org (snapshots.config): failure message delivered",
        f"Telegram chat 7 ({source}): failure message delivered",
        ENVIRONMENT,
    ]
    told = {
        chat: [m.text for m in project.cloud.telegram_messages if m.chat_id == chat]
        for chat in ("7", "123")
    }
    assert told["123"][0].startswith("Snapshot Failed\nServer: TEST web (hetzner 11)\n")
    assert re.fullmatch("TEST web fine: TEST-[0-9]{14}", told["123"][1])
    assert [text.split("\n")[1] for text in told["7"]] == ["Server: TEST own (hetzner 13)"]
    assert [hook.json["status"] for hook in project.cloud.hooks] == ["FAILURE", "SUCCESS"]
    assert all(hook.json["server"] == "TEST web" for hook in project.cloud.hooks)
    (mail,) = server.mails
    assert mail.message["Subject"] == "Snapshot FAILURE: TEST web"
    assert "this is a test" in mail.part("plain")


def test_what_is_not_delivered_is_said_and_fails(project: Project, post: PostOffice) -> None:
    post.open(users={})
    telegram(project)
    webhook(project)
    project.cloud.fault(HOOK, fake.status(403, {"message": "nobody"}), times=None)
    project.server("hetzner", 11, "web")
    lines = send_test(project, status=1)
    assert "Telegram chat 123 (snapshots.config): success message delivered" in lines
    lost = [line for line in lines if "not delivered" in line]
    assert len(lost) == 4
    assert "failure message not delivered: cannot post to the webhook: HTTP 403: nobody" in lost[0]
    assert "e-mail to ops@example.org (snapshots.config): failure message" in lost[2]


@pytest.mark.proves("telling-5")
def test_nobody_to_be_notified_is_a_failure(project: Project) -> None:
    project.server("hetzner", 11, "web")
    (line,) = send_test(project, status=1)
    assert line == "snapshots: no channel is set up: nobody is notified of anything (write --setup)"


def test_a_channel_that_lacks_something_fails_the_test(project: Project) -> None:
    telegram(project)
    project.config["WEBHOOK"] = {"enabled": "true"}
    lines = send_test(project, status=1)
    assert "snapshots: no webhook notification: url not set" in lines
    assert "Telegram chat 123 (snapshots.config): failure message delivered" in lines


@pytest.mark.parametrize("args", [(), ("-n",)])
def test_a_slip_in_a_variable_fails_the_test(project: Project, args: tuple[str, ...]) -> None:
    """It arrives as it is written; what is not nearly a variable may be meant so."""
    payload = {"text": "{servername}: {eror} {and_more}"}
    webhook(project, payload_failure=json.dumps(payload))
    lines = send_test(project, *args, status=1)
    host = project.cloud.url.partition("//")[2]
    begin = f"snapshots: webhook at {host} (snapshots.config): failure message: "
    assert lines[-2:] == [
        begin + "{servername} is no variable, did you mean 'server_name'?",
        begin + "{eror} is no variable, did you mean 'error'?",
    ]


def test_a_test_needs_no_server_and_no_lock(project: Project) -> None:
    telegram(project)
    lines = send_test(project)
    assert lines[:2] == [
        "Telegram chat 123 (snapshots.config): failure message delivered",
        "Telegram chat 123 (snapshots.config): success message delivered",
    ]
    assert "TEST server" in texts(project)[0]
    (project.folder / "configs").mkdir()
    send_test(project)


def test_a_file_chooses_whose_channels_are_tested(project: Project) -> None:
    for number, name in enumerate(("one", "two")):
        own = {
            "webhook": {"enabled": True, "url": f"{project.cloud.url}/hook/{project.token(name)}"}
        }
        project.server("hetzner", 11 + number, name, file=own)
    send_test(project, "hetzner-12.json")
    assert [hook.json["server"] for hook in project.cloud.hooks] == ["TEST two"] * 2
    assert project.run("--test-notifications", "no.json").code == 1


@pytest.mark.proves("telling-5")
@pytest.mark.parametrize(("word", "count"), [("per_server", 2), ("failures", 1), ("summary", 2)])
def test_the_test_is_of_the_mode(project: Project, word: str, count: int) -> None:
    telegram(project)
    mode(project, word)
    project.server("hetzner", 11, "web")
    send_test(project)
    assert len(texts(project)) == count
    first = texts(project)[0]
    assert ("SUMMARY: 1 succeeded, 1 failed" in first) == (word == "summary")
    assert all("TEST" in text.split("\n")[0] for text in texts(project) if word == "summary")


def test_a_dry_test_shows_the_messages_and_sends_none(project: Project, post: PostOffice) -> None:
    server: MailServer = post.open()
    telegram(project)
    webhook(project, payload_success='{"text": "{server_name}"}')
    project.server("hetzner", 11, "web")
    lines = send_test(project, "-n")
    assert (texts(project), project.cloud.hooks, server.mails) == ([], [], [])
    text = "\n".join(lines)
    assert (
        "Telegram chat 123 (snapshots.config): failure message would be:\n<b>Snapshot Failed</b>"
        in text
    )
    assert '  "text": "TEST web"\n' in text
    assert "Subject: Snapshot FAILURE: TEST web\n" in text
    assert ENVIRONMENT not in lines


def test_a_problem_of_the_configuration_stops_the_test_and_notifies_nobody(
    project: Project,
) -> None:
    telegram(project)
    project.config["TIMING"]["poll_interval"] = "never"
    (line,) = send_test(project, status=1)
    assert "'poll_interval'" in line


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ('"oops": 1', "oops: unknown key"),
        (
            '"webhook": {"enabled": true, "url": "env:NOBODY_SET_IT"}',
            "webhook.url: the environment",
        ),
        ('"ping_url": "env:NOBODY_SET_IT"', "ping_url: the environment variable"),
        (None, "no.json: No such file or directory"),
    ],
    ids=str,
)
@pytest.mark.parametrize("args", [(), ("-n",), ("-q",)])
def test_a_broken_server_file_is_tested_over_what_can_be_read_and_fails(
    project: Project, keys: Optional[str], told: str, args: tuple[str, ...]
) -> None:
    """Nobody knows whom it would tell, or who watches it."""
    telegram(project)
    file = ["no.json"]
    if keys is not None:
        content = f'{{"hetzner_cloud_server": {{"id": 7, "name": "x", {keys}}}}}'
        file = [project.write("broken.json", content).name]
    lines = send_test(project, *args, *file, status=1)
    assert any(told in line for line in lines)
    assert len(texts(project)) == (0 if args == ("-n",) else 2)


def test_a_message_whose_template_shows_nothing_of_the_report_is_marked_as_well(
    project: Project,
) -> None:
    telegram(project, message_success="all *fine*", message_failure="bad: {error}")
    payload = {"blocks": [{"type": "section", "text": {"type": "plain", "text": "ok"}}], "n": 1}
    webhook(project, payload_success=json.dumps(payload))
    project.server("hetzner", 11, "web")
    send_test(project)
    assert texts(project) == ["bad: TEST: this is a test, nothing has failed", "TEST: all fine"]
    payload["blocks"] = [{"type": "section", "text": {"type": "plain", "text": "TEST: ok"}}]
    assert project.cloud.hooks[-1].json == payload


def test_a_success_is_tested_if_one_server_alone_wants_to_be_notified_of_it(
    project: Project, post: PostOffice
) -> None:
    post.open()
    project.config["SMTP"].pop("notify_on_success")
    project.server("hetzner", 11, "web")
    project.server("hetzner", 12, "shop", file={"smtp": {"notify_on_success": True}})
    lines = send_test(project)
    source = project.folder / "configs" / "hetzner-12.json"
    assert lines[:2] == [
        "e-mail to ops@example.org (snapshots.config): failure message delivered",
        f"e-mail to ops@example.org ({source}): success message delivered",
    ]


@pytest.mark.parametrize("flag", ["--list", "--now", "--prune-only", "--show-cron", "--json"])
def test_a_test_goes_with_no_other_job(project: Project, flag: str) -> None:
    telegram(project)
    assert project.run("--test-notifications", flag).code == 1
    assert texts(project) == []


def test_quiet_shows_problems_alone(project: Project) -> None:
    telegram(project)
    assert send_test(project, "-q") == []
    project.cloud.fault(
        SEND, fake.status(403, {"ok": False, "description": "Forbidden"}), times=None
    )
    lines = send_test(project, "-q", status=1)
    assert len(lines) == 2


def test_a_line_in_the_crontab_that_only_tests_starts_no_runs(project: Project) -> None:
    job = snapshots.cron_job(None, snapshots.Settings(base=project.folder))
    line = job.line("15 3 * * *")
    assert snapshots.entries_in(line + "\n", job)
    assert not snapshots.entries_in(line.replace(" >>", " --test-notifications >>") + "\n", job)


def test_a_test_of_summaries_of_one_name_is_marked() -> None:
    entry = a_server("web")
    now = snapshots.SystemClock().now()
    for mode_word in ("per_server", "summary"):
        for report in snapshots.reports_for_test(entry, now, mode_word):
            assert report.server.name.startswith("TEST ")
