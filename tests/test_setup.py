"""--setup: asks, and writes what the README would have people write."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import pty
import re
import select
import shlex
import stat
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PROVIDERS, TOP_KEYS, PostOffice, Result, Tab, outside
from fakes import Account, Request, stall, status
from hypothesis import given
from hypothesis import strategies as st
from test_docs import blocks

import snapshots

SCRIPT = Path(snapshots.__file__).resolve()
ROOT = SCRIPT.parent

WEBHOOK_409 = "can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first"


class Guide:
    """Answers the questions of --setup, in a project with a crontab."""

    def __init__(self, tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tab, self.project, self.monkeypatch = tab, tab.project, monkeypatch
        self.cloud = self.project.cloud
        self.terminals: list[subprocess.Popen[Any]] = []
        (tab.folder / "mischief.json").write_text("{}")
        (tab.folder / "calls").write_text("")
        del self.project.config["TELEGRAM"]

    @property
    def config(self) -> Path:
        return self.project.folder / "snapshots.config"

    @property
    def configs(self) -> Path:
        return self.project.folder / "configs"

    def account(self, provider: str = "hetzner", **servers: int) -> Account:
        account = self.project.account(provider)
        for name, number in servers.items():
            self.cloud.add_server(account, number, name)
        return account

    def credentials(self, provider: str = "hetzner") -> list[str]:
        account = self.project.account(provider)
        if provider != "contabo":
            return [account.token]
        return [account.client_id, account.client_secret, account.api_user, account.api_password]

    def bot(self, *updates: dict[str, Any], chats: tuple[object, ...] = (4711,)) -> str:
        token = self.project.token("bot")
        self.cloud.add_bot(token, chats).updates.extend(updates)
        return token

    def run(self, *answers: str, args: tuple[str, ...] = ()) -> Result:
        if not self.config.exists():
            self.project.write_config()
        self.monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{a}\n" for a in answers)))
        self.project.capsys.readouterr()
        command = ["--config", str(self.config), "--setup", *args]
        code = snapshots.main(command, self.project.clock)
        out, err = self.project.capsys.readouterr()
        assert not self.project.clock.stuck
        assert "Traceback" not in out + err
        assert "unexpected" not in err
        return Result(int(code), out, err, "")

    def made(self) -> dict[str, Any]:
        """The server files and what is in them; each of them whole."""
        found = sorted(self.configs.iterdir()) if self.configs.exists() else []
        for path in found:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        return {path.name: json.loads(path.read_text("utf-8")) for path in found}


@pytest.fixture
def guide(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guide]:
    made = Guide(tab, monkeypatch)
    yield made
    for process in made.terminals:
        if process.poll() is None:  # of a test that has failed
            process.kill()
            process.wait()


def written(chat_id: int, **more: Any) -> dict[str, Any]:
    """An update: somebody wrote to the bot."""
    chat = {"id": chat_id, "type": "private", "first_name": "Ada", **more}
    return {"message": {"message_id": 1, "date": 1, "chat": chat, "text": "hello"}}


# --- from nothing to a schedule ---


@pytest.mark.proves("setup-1")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_few_answers_set_everything_up(guide: Guide, provider: str) -> None:
    guide.account(provider, web=11, db=12)
    token = guide.bot(written(4711))
    keep = ["1", "no"] if provider == "contabo" else ["2"]
    result = guide.run(
        *(provider, *guide.credentials(provider), "all", *keep),
        *("telegram", token, "1", "yes", "nothing", "nightly", "yes"),
    )
    assert (result.code, result.err) == (0, "")
    assert guide.made() == {
        f"{name}.json": {
            TOP_KEYS[provider]: {
                "id": number,
                "name": name,
                **dict(zip(snapshots.CREDENTIAL_KEYS[provider], guide.credentials(provider))),
                "retain_last_snapshots": int(keep[0]),
                **({"replace_when_full": False} if provider == "contabo" else {}),
            }
        }
        for name, number in (("web", 11), ("db", 12))
    }
    assert f"bot_token = {token}\nchat_id = 4711\n" in guide.config.read_text()
    assert stat.S_IMODE(guide.config.stat().st_mode) == 0o600
    assert [m.chat_id for m in guide.cloud.telegram_messages] == ["4711"]
    assert "TEST" in guide.cloud.telegram_messages[0].text
    assert guide.tab.text == guide.tab.block("15 3 * * *")
    assert "web: would create web-20250601050000" in result.out
    for word in ("-v", "--check", "--status"):
        assert f" {word}\n" in result.out
    writes = [r for r in guide.cloud.journal if r.path[:4] in ("/do/", "/hz/", "/cb/")]
    assert {request.method for request in writes} == {"GET"}
    status = snapshots.main(["--config", str(guide.config)], guide.project.clock)
    assert (status, len(guide.cloud.created)) == (0, 2)


ANSWERS = {
    "digitalocean": ["all", "2"],
    "hetzner": ["all", "2"],
    "contabo": ["all", "1", "yes"],
}


@pytest.mark.proves("setup-8")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_answers_that_end_too_early_leave_whole_files_and_one_line(
    guide: Guide, provider: str
) -> None:
    """After each answer, from none at all to all but one."""
    guide.account(provider, web=11, db=12)
    answers = [provider, *guide.credentials(provider), *ANSWERS[provider]]
    answers += ["telegram", guide.bot(written(4711)), "1", "yes", "nothing", "04:30"]
    seen = set()
    for count in range(len(answers) + 1):
        for path in (guide.config, *guide.configs.glob("*")):
            path.unlink(missing_ok=True)
        result = guide.run(*answers[:count])
        assert result.code == 1
        (line,) = result.err.splitlines()
        assert line.startswith("snapshots: setup: the answers ended too early; ")
        made = list(guide.made())
        for name in made:
            assert str(guide.configs / name) in line
        assert ("nothing was made" in line) == (not made)
        assert (f"{guide.config} (" in line) == ("bot_token" in guide.config.read_text())
        assert not guide.tab.table.exists()
        seen.add((len(made), "bot_token" in guide.config.read_text()))
    assert seen == {(0, False), (2, False), (2, True)}


@pytest.mark.proves("setup-2")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_from_a_pipe_a_refused_credential_ends_it(guide: Guide, provider: str) -> None:
    guide.account(provider, web=11)
    credentials = guide.credentials(provider)
    credentials[-1] = "CANARY-not-the-right-one"
    result = guide.run(provider, *credentials, "all", *guide.credentials(provider))
    assert (result.code, guide.made()) == (1, {})
    (line,) = result.err.splitlines()
    assert "HTTP 401" in line
    assert line.endswith("; nothing was made (write --setup again to go on)")
    assert "CANARY" not in result.out + result.err
    assert guide.cloud.count("POST /cb-auth/token") == (provider == "contabo")


# --- which servers ---


@pytest.mark.proves("setup-3")
@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("all", [1, 2, 3, 4, 5]),
        ("ALL", [1, 2, 3, 4, 5]),
        ("none", []),
        ("1,3-5", [1, 3, 4, 5]),
        ("5 1 1", [1, 5]),
        (" 2-3 , 3-4,", [2, 3, 4]),
        ("1-5", [1, 2, 3, 4, 5]),
    ],
)
def test_rows_are_chosen_by_number(text: str, rows: list[int]) -> None:
    assert snapshots.read_rows(text, 5) == rows


@pytest.mark.proves("setup-3")
@pytest.mark.parametrize(
    "text",
    ["0", "6", "1-9", "6-", "4-2", "-3", "web", "1;2", "٣", "²", "1--2", "9" * 5000, ","],
)
def test_what_names_no_rows_is_explained(text: str) -> None:
    with pytest.raises(ValueError, match="must be all, none, or numbers from 1 to 5 as in 1,3-5"):
        snapshots.read_rows(text, 5)


@pytest.mark.proves("setup-3")
def test_wrong_answers_are_explained_and_asked_for_again(guide: Guide) -> None:
    guide.account("hetzner", a=1, b=2, c=3)
    result = guide.run(
        *("linode", "", "h", *guide.credentials(), "9", "3-1", "2-3", "none at all", "0", "ALL"),
        *("sms", "n", "nigthly", "25:00", "0 3 31 2 *", '"15 3 * * *"', "maybe", "n", "none"),
    )
    assert result.code == 0
    assert sorted(guide.made()) == ["b.json", "c.json"]
    assert guide.made()["b.json"]["hetzner_cloud_server"]["retain_last_snapshots"] == "all"
    said = [line for line in result.out.splitlines() if line.startswith("That cannot be used: ")]
    assert said == [
        "That cannot be used: must be one of digitalocean, hetzner, contabo.",
        "That cannot be used: must not be empty.",
        "That cannot be used: must be all, none, or numbers from 1 to 3 as in 1,3-5.",
        "That cannot be used: must be all, none, or numbers from 1 to 3 as in 1,3-5.",
        'That cannot be used: must be a whole number from 1 to 100000, or "all".',
        'That cannot be used: must be a whole number from 1 to 100000, or "all".',
        "That cannot be used: must be one of telegram, webhook, mail, nothing.",
        *said[7:10],
        "That cannot be used: must be one of yes, no.",
    ]
    assert said[7].endswith("did you mean 'nightly'?")
    assert "hour '25'" in said[8]
    assert "has no day 31" in said[9]
    assert not guide.tab.table.exists()


@pytest.mark.proves("setup-3")
def test_endless_wrong_answers_come_to_an_end(guide: Guide) -> None:
    guide.account("hetzner", a=1)
    result = guide.run(*["what?"] * 1000)
    assert result.code == 1
    assert "no usable answer in 20 tries to: Which provider" in result.err


# --- the files ---

ODD_NAMES = {
    "../../etc/passwd": "etc-passwd",
    "..": "server-1",
    ".hidden": "hidden",
    "web.json": "web.json",
    "a/b\\c:d*e?f": "a-b-c-d-e-f",
    "Büro Köln": "Buro-Koln",
    "日本": "server-1",
    "x" * 150: "x" * 100,
    "-rf": "rf",
    "y" * 300: "y" * 100,
    "web\n[x]\x1b[2J": "web-x-u001b-2J",
    "$(touch x) `id`": "touch-x-id",
    " ": "server-1",
}


@pytest.mark.proves("setup-4")
@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_server_may_be_called_anything(guide: Guide, name: str) -> None:
    server = guide.cloud.add_server(guide.account(), 1, name)
    result = guide.run("hetzner", *guide.credentials(), "1", "2", "nothing", "none")
    assert (result.code, list(guide.made())) == (0, [f"{ODD_NAMES[name]}.json"])
    assert all(len(line) < 81 for line in result.out.splitlines() if " 1  " in line[:6])
    assert snapshots.main(["--config", str(guide.config)], guide.project.clock) == 0
    (loaded,) = snapshots.load_servers([], snapshots.load_settings(guide.config, True))[0]
    assert isinstance(loaded, snapshots.Server)
    shown = {" ": "server-1", "y" * 300: "y" * 170 + "...", "web\n[x]\x1b[2J": "web [x]\\u001b[2J"}
    assert loaded.name == shown.get(name, name)
    assert guide.cloud.snapshots(server)


@pytest.mark.proves("setup-4")
def test_servers_of_one_name_and_files_that_are_there_get_files_of_their_own(guide: Guide) -> None:
    for number, name in enumerate(["web", "WEB", "web", "Web", "db"], 1):
        guide.cloud.add_server(guide.account(), number, name)
    guide.configs.mkdir()
    theirs = guide.configs / "db.json"
    theirs.write_text('{"hetzner_cloud_server": {"id": 77}}')
    theirs.chmod(0o600)
    before = theirs.read_bytes()
    (guide.configs / "web-3.json").symlink_to("nowhere")
    guide.run("hetzner", *guide.credentials(), "all", "2", "nothing", "none")
    assert theirs.read_bytes() == before
    (guide.configs / "web-3.json").unlink()
    files = {name: content["hetzner_cloud_server"]["id"] for name, content in guide.made().items()}
    assert sorted(files.values()) == [1, 2, 3, 4, 5, 77]
    assert (files["db.json"], files["db-5.json"]) == (77, 5)
    assert {name for name, number in files.items() if number == 3} == {"web-3-3.json"}


@pytest.mark.proves("setup-4")
def test_servers_of_one_name_are_distinguished_in_every_message(guide: Guide) -> None:
    """Two of one project's, and one of another project's, in a second --setup."""
    guide.account(web=11)
    guide.cloud.add_server(guide.account(), 12, "web")
    guide.cloud.add_server(guide.account(), 14, "x" * 200)
    guide.run("hetzner", *guide.credentials(), "all", "2", "nothing", "none")
    other = guide.project.account("hetzner", "other")
    guide.cloud.add_server(other, 13, "web")
    guide.cloud.add_server(other, 15, "x" * 200)
    guide.run("hetzner", "no", other.token, "all", "2", "nothing")
    servers = [content["hetzner_cloud_server"] for content in guide.made().values()]
    names = {server["id"]: server["name"] for server in servers}
    assert (names[11], names[12], names[13]) == ("web", "web-12", "web-13")
    assert len(set(names.values())) == 5
    out = guide.project.run("--check").out
    assert re.search(r"^ok +web-13 +is called web at Hetzner$", out, re.MULTILINE)
    assert not re.search("^warning +web", out, re.MULTILINE)
    assert guide.project.run().code == 0


@pytest.mark.proves("setup-4")
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_file_that_turns_up_at_the_last_moment_stays(
    guide: Guide, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look into the directory and the writing; on a file system without links too."""
    guide.account("hetzner", web=1)
    theirs = guide.configs / "web.json"
    link = os.link

    def late(source: str, target: Path) -> None:
        if not theirs.exists():
            theirs.write_text("theirs")
        if not links:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    result = guide.run("hetzner", *guide.credentials(), "all", "2", "nothing", "none")
    assert theirs.read_text() == "theirs"
    theirs.unlink()
    assert list(guide.made()) == ["web-1.json"]
    assert result.code == 2  # what turned up is no server file


@pytest.mark.proves("setup-2")
def test_credentials_may_stay_in_the_environment_or_in_a_file(
    guide: Guide, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide.account("hetzner", web=1)
    secret = guide.project.folder / "token.config"
    secret.write_text(guide.credentials()[0] + "\n")
    monkeypatch.setenv("HZ_TOKEN", guide.credentials()[0])
    rest = ["all", "2", "nothing", "none"]
    result = guide.run("hetzner", "env:NO_SUCH", "your_api_token", "env:HZ_TOKEN", *rest)
    assert result.code == 0
    assert "That cannot be used: the environment variable 'NO_SUCH' is not set." in result.out
    assert "That cannot be used: is still the sample's text." in result.out
    assert guide.made()["web.json"]["hetzner_cloud_server"]["api_token"] == "env:HZ_TOKEN"
    (guide.configs / "web.json").unlink()
    assert guide.run("hetzner", f"file:{secret}", *rest).code == 0
    assert guide.made()["web.json"]["hetzner_cloud_server"]["api_token"] == f"file:{secret}"


@pytest.mark.proves("setup-3")
@pytest.mark.parametrize(
    ("keep", "made"),
    [(["", "yes"], (1, True)), (["0", "2", ""], (2, False)), (["ALL", "n"], ("all", False))],
)
def test_at_contabo_what_the_plans_allow_is_explained(
    guide: Guide, keep: list[str], made: tuple[Any, bool]
) -> None:
    guide.account("contabo", web=1)
    result = guide.run("contabo", *guide.credentials("contabo"), "1", *keep, "nothing", "none")
    assert result.code == 0
    assert " web   Cloud VPS 4, 75 GB " in result.out
    assert "1 with Cloud\nVPS 4, 2 with Cloud VPS 6, " in result.out
    file = guide.made()["web.json"]["contabo_instance"]
    assert (file["retain_last_snapshots"], file["replace_when_full"]) == made


@pytest.mark.proves("setup-3")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_table_counts_each_servers_snapshots(guide: Guide, provider: str) -> None:
    guide.account(provider, web=1, db=2, new=3)
    web, db, _ = guide.project.account(provider).servers.values()
    for server, count in ((web, 3), (db, 1)):
        for number in range(count):
            guide.cloud.add_snapshot(server, f"any {number}", guide.project.clock.now())
    result = guide.run(provider, *guide.credentials(provider), "none", "nothing", "none")
    rows = re.findall(r"^ ([1-3]) +([1-3])  (\w+) .* (\d+)  no$", result.out, re.MULTILINE)
    assert rows == [("1", "2", "db", "1"), ("2", "3", "new", "0"), ("3", "1", "web", "3")]
    assert result.code == 1
    assert f"{guide.configs}: does not exist (write --setup, or copy" in result.err


@pytest.mark.proves("setup-3")
def test_an_instance_that_cannot_be_listed_does_not_hide_the_others(guide: Guide) -> None:
    guide.account("contabo", web=1, db=2)
    guide.cloud.fault(
        "GET /cb/compute/instances/{id}/snapshots",
        status(404),
        when=lambda request: request.ids[0] == "2",
    )
    result = guide.run("contabo", *guide.credentials("contabo"), "web")
    assert re.findall(r"(\S)  no$", result.out, re.MULTILINE) == ["?", "0"]


@pytest.mark.proves("setup-3")
def test_an_account_without_servers_is_no_dead_end(guide: Guide) -> None:
    guide.account("hetzner")
    result = guide.run("hetzner", *guide.credentials(), "nothing", "none")
    assert "It has no servers." in result.out
    assert result.code == 1
    assert f"{guide.configs}: does not exist (write --setup, or copy" in result.err


# --- channels ---


def start(guide: Guide) -> list[str]:
    """The answers up to the channels."""
    if not guide.project.accounts:
        guide.account("hetzner", web=1)
    return ["hetzner", *guide.credentials(), "all", "2"]


def update(kind: str, chat: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {kind: {"chat": chat, "date": 1, **more}}


GROUP = {"id": -5, "type": "group", "title": "Ops"}
SUPER = {
    "id": -1001234567890,
    "type": "supergroup",
    "title": "Night\x1b[2J watch",
    "is_forum": True,
}
CHANNEL = {"id": -1009999999999, "type": "channel", "title": "News", "username": "news"}
ADA = {"id": 42, "type": "private", "first_name": "Ada", "last_name": "L", "username": "ada"}


@pytest.mark.proves("setup-5")
@pytest.mark.parametrize(
    ("updates", "chats"),
    [
        ([], []),
        ([update("message", ADA)], [("private", "Ada L @ada", "42")]),
        (
            [update("message", ADA), update("channel_post", CHANNEL), update("message", SUPER)],
            [
                ("supergroup", SUPER["title"], "-1001234567890"),
                ("channel", "News @news", "-1009999999999"),
                ("private", "Ada L @ada", "42"),
            ],
        ),
        (
            [update("message", ADA), update("edited_message", GROUP), update("message", ADA)],
            [("private", "Ada L @ada", "42"), ("group", "Ops", "-5")],
        ),
        (
            [update("my_chat_member", GROUP, new_chat_member={"status": "member"})],
            [("group", "Ops", "-5")],
        ),
        (
            [
                update("message", GROUP),
                update("my_chat_member", GROUP, new_chat_member={"status": "kicked"}),
            ],
            [],
        ),
        (
            [
                update("message", GROUP, migrate_to_chat_id=SUPER["id"]),
                update("message", SUPER, migrate_from_chat_id=GROUP["id"]),
            ],
            [("supergroup", SUPER["title"], "-1001234567890")],
        ),
        (
            [
                update("message", ADA),
                update("business_message", ADA),
                {"inline_query": {"id": "1"}},
            ],
            [("private", "Ada L @ada", "42")],
        ),
        ([update("business_message", ADA), {"poll": None}], []),
        (["no update", {"message": {"chat": {"id": "42"}}}, {"message": {"chat": 7}}, None], []),
        ([update("message", {"id": 7})], [("unknown", "", "7")]),
    ],
)
def test_the_chats_of_a_bot(updates: list[Any], chats: list[tuple[str, str, str]]) -> None:
    numbered = [{"update_id": 1, **u} if isinstance(u, dict) else u for u in updates]
    assert snapshots.chats_of(numbered) == chats


@pytest.mark.proves("setup-5")
def test_a_chat_is_chosen_before_anything_is_sent(guide: Guide) -> None:
    answers = start(guide)
    updates = [update("message", ADA), update("message", SUPER), update("channel_post", CHANNEL)]
    token = guide.bot(*updates, chats=(-1001234567890,))
    result = guide.run(*answers, "telegram", token, "4x", "2", "yes", "", "none")
    assert result.code == 0
    assert "\x1b" not in result.out
    assert " 1  channel     News @news" in result.out
    assert "chat_id = -1001234567890\n" in guide.config.read_text()
    assert [m.chat_id for m in guide.cloud.telegram_messages] == ["-1001234567890"]
    (line,) = [line for line in result.out.splitlines() if "That cannot be" in line]
    assert "must be the chat's number" in line


@pytest.mark.proves("setup-5")
def test_a_bot_to_which_nobody_has_written_is_looked_at_again(guide: Guide) -> None:
    answers = start(guide)
    token = guide.bot(chats=(42,))
    bot = guide.cloud.bots[token]
    guide.cloud.stop_at(guide.cloud.count() + 99, lambda: None)
    looks = "POST /tg/getUpdates"

    def then(request: Request) -> bool:
        if guide.cloud.count(looks) == 3:
            bot.updates.append(update("message", ADA))
        return False

    guide.cloud.fault(looks, status(500), when=then)
    result = guide.run(*answers, "telegram", token, "", "", "1", "yes", "", "none")
    assert result.code == 0
    assert result.out.count("Nobody has written to this bot") == guide.cloud.count(looks) - 1 == 2
    assert result.out.count("Which chat (a chat_id, or Enter to look again)") == 2
    assert "chat_id = 42\n" in guide.config.read_text()


@pytest.mark.proves("setup-5")
def test_looking_again_comes_to_an_end(guide: Guide) -> None:
    result = guide.run(*start(guide), "telegram", guide.bot(), *[""] * 1000)
    assert result.code == 1
    assert "nobody has written to it; made so far: " in result.err
    assert guide.cloud.count("POST /tg/getUpdates") == 20


@pytest.mark.proves("setup-5")
@pytest.mark.parametrize(
    "conflict",
    [
        WEBHOOK_409,
        "terminated by other getUpdates request; make sure that only one bot instance is running",
    ],
)
def test_a_bot_that_another_program_reads_is_explained(guide: Guide, conflict: str) -> None:
    answers = start(guide)
    token = guide.bot(written(4711))
    guide.cloud.bots[token].conflict = conflict
    result = guide.run(*answers, "telegram", token, "4711", "yes", "", "none")
    assert result.code == 0
    assert (
        f"Another program reads what is written to this bot: HTTP 409: Conflict: {conflict}"
        in result.out
    )
    assert "give the chat's number yourself" in result.out
    assert "Nobody has written" not in result.out  # which nobody knows
    assert "chat_id = 4711\n" in guide.config.read_text()


@pytest.mark.proves("setup-5")
@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (
            ["telegram", "4711:CANARY-of-no-bot"],
            "telegram cannot be used: HTTP 401: Unauthorized",
        ),
        (
            ["telegram", "BOT", "66666"],
            "telegram cannot be used: cannot send a Telegram message: HTTP 400: Bad Request: chat not found",
        ),
        (["webhook", "HOOK/inactive"], "is the workflow active"),
        (
            ["webhook", "http://127.0.0.1:9/CANARY-hook-of-nobody"],
            "webhook cannot be used: cannot post to the webhook",
        ),
        (
            ["mail", "127.0.0.1", "9", "", "a@example.org", "b@example.org"],
            "mail cannot be used: cannot send mail through 127.0.0.1",
        ),
    ],
)
def test_a_channel_that_does_not_work_is_not_kept(
    guide: Guide, answers: list[str], words: str
) -> None:
    before = start(guide)
    token = guide.bot(written(4711))
    answers = [
        a.replace("BOT", token) if a == "BOT" else a.replace("HOOK", f"{guide.cloud.url}/hook")
        for a in answers
    ]
    result = guide.run(*before, *answers, "yes", "nothing", "none")
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert words in line
    assert str(guide.configs / "web.json") in line
    assert guide.config.read_text().count("enabled") == 0
    assert "CANARY" not in result.out + result.err


@pytest.mark.proves("setup-5")
def test_a_message_that_did_not_arrive_is_not_kept_either(guide: Guide) -> None:
    answers = start(guide)
    url = f"{guide.cloud.url}/hook/CANARY-{len(answers)}-secret-place"
    result = guide.run(*answers, "webhook", url, "no", "webhook", url, "yes", "", "none")
    assert (result.code, len(guide.cloud.hooks)) == (0, 2)
    assert "Then nothing is written" in result.out
    assert guide.config.read_text().count(url) == 1


@pytest.mark.proves("setup-5")
def test_mail_goes_out_and_is_kept(guide: Guide, post: PostOffice) -> None:
    server = post.open()
    del guide.project.config["SMTP"]
    answers = [*start(guide), "mail", "127.0.0.1", str(server.port), "backup@example.org"]
    answers += [post.password, "", "not an address", "ops@example.org, boss@example.org", "yes"]
    result = guide.run(*answers, "", "none")
    assert result.code == 0
    (mail,) = server.mails
    assert "TEST" in str(mail.message["Subject"])
    settings = snapshots.load_settings(guide.config, True)
    assert settings.problems == ()
    smtp = settings.smtp
    assert smtp.enabled
    assert (smtp.user, smtp.password, smtp.security) == (
        "backup@example.org",
        post.password,
        "starttls",
    )
    assert (smtp.from_email, smtp.to_emails) == (
        "backup@example.org",
        ("ops@example.org", "boss@example.org"),
    )


@pytest.mark.proves("setup-5")
@pytest.mark.parametrize(
    ("host", "port", "security"),
    [
        ("mail.example.org", "465", "tls"),
        ("mail.example.org", "25", "starttls"),
        ("localhost", "25", "none"),
    ],
)
def test_the_port_shows_how_mail_is_secured(
    guide: Guide, host: str, port: str, security: str
) -> None:
    settings = snapshots.load_settings(guide.project.write_config(), True)
    world = outside(guide.project.clock)
    guide.monkeypatch.setattr(
        sys, "stdin", io.StringIO(f"{host}\n{port}\n\na@b.example\nc@d.example\n")
    )
    section, values = snapshots.Setup(settings, guide.config, None, world).mail()
    assert (section, values["security"], values["user"]) == ("SMTP", security, "")
    assert "password" not in values


# --- snapshots.config ---


@pytest.mark.proves("setup-6")
def test_every_other_line_of_the_configuration_stays(guide: Guide) -> None:
    """Only a last line break is added where none was."""
    answers = start(guide)
    api = "".join(f"{key} = {value}\r\n" for key, value in guide.cloud.endpoints().items())
    before = (
        "# mine\r\n[TELEGRAM]\r\n# the bot\r\nbot_token =\r\n; and where to\r\nretries = 5\r\n\r\n"
        f"[API]\r\n{api}  # indented\r\n[SMTP]\r\nto_emails = a@example.org,\r\n  # ours\r\n"
        "  b@example.org\r\n# the end"
    )
    guide.config.write_bytes(before.encode())
    guide.config.chmod(0o644)
    token = guide.bot(written(4711))
    assert guide.run(*answers, "telegram", token, "1", "yes", "", "none").code == 0
    after = guide.config.read_bytes().decode()
    assert after == f"{before}\r\n".replace("bot_token =\r\n", f"bot_token = {token}\r\n").replace(
        "[TELEGRAM]\r\n", "[TELEGRAM]\r\nenabled = true\r\nchat_id = 4711\r\n"
    )
    assert stat.S_IMODE(guide.config.stat().st_mode) == 0o600


@pytest.mark.proves("setup-6")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "[SMTP]\nport = 465\nto_emails = x@y.example\n"),
        ("[A]", "[A]\n\n[SMTP]\nport = 465\nto_emails = x@y.example\n"),
        ("[SMTP]", "[SMTP]\nport = 465\nto_emails = x@y.example\n"),
        ("[SMTP]\nport=1", "[SMTP]\nto_emails = x@y.example\nport = 465\n"),
        (
            "[SMTP]\nport : 25\nto_emails = a,\n  b,\n# c\n\n  d\n\nuser = e\n",
            "[SMTP]\nport = 465\nto_emails = x@y.example\n# c\n\nuser = e\n",
        ),
        ("[smtp]\nport = 1\n", "[smtp]\nport = 1\n\n[SMTP]\nport = 465\nto_emails = x@y.example\n"),
    ],
)
def test_values_are_put_into_a_section(before: str, after: str) -> None:
    values = {"port": "465", "to_emails": "x@y.example"}
    assert snapshots.with_values(before, "SMTP", values) == after


SECTIONS = ["TELEGRAM", "SMTP", "WEBHOOK", "other"]
LINES = ["", "# c", "  ; c", "key = 1", "key: a", "  more", "\tmore", "url =", "url = %x", "port=1"]


@pytest.mark.proves("setup-6")
@given(
    st.lists(st.sampled_from([*LINES, *(f"[{name}]" for name in SECTIONS)]), max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from(SECTIONS),
)
def test_whatever_the_file_only_the_values_change(
    lines: list[str], end: str, ended: bool, section: str
) -> None:
    text = end.join(lines) + (end if ended and lines else "")
    end = end if end in text else "\n"
    values = {"port": "465", "url": "https://x.example"}

    def told(text: str) -> dict[tuple[str, str], Any]:
        entries = snapshots.parse_ini(text)
        first: dict[tuple[str, str], Any] = {}
        for entry in entries:
            first.setdefault((entry.section, entry.key), entry.value)
        return first

    if any(entry.problem for entry in snapshots.parse_ini(text)):
        return
    expected = {(section, ""): "", **told(text), **{(section, k): v for k, v in values.items()}}
    changed = snapshots.with_values(text, section, values)
    assert told(changed) == expected
    comments = [line for line in text.split(end) if line.strip().startswith(("#", ";"))]
    assert [line for line in changed.split(end) if line.strip().startswith(("#", ";"))] == comments
    assert snapshots.with_values(changed, section, values) == changed


@pytest.mark.proves("setup-6")
def test_a_configuration_is_made_after_the_sample(guide: Guide) -> None:
    """The sample's lines, comments and order; only what was answered is filled in."""
    sample = ROOT / "snapshots.config.sample"
    settings = snapshots.load_settings(guide.config, False)
    setup = snapshots.Setup(settings, guide.config, None, outside(guide.project.clock))
    setup.change_config("WEBHOOK", {"enabled": "true", "url": "https://x.example/y"})
    before, after = sample.read_text("utf-8"), guide.config.read_text("utf-8")
    changed = [(a, b) for a, b in zip(before.split("\n"), after.split("\n"), strict=True) if a != b]
    assert changed == [
        ("enabled = false", "enabled = true"),
        ("url =", "url = https://x.example/y"),
    ]
    assert setup.settings.webhook.enabled
    assert not setup.settings.smtp.enabled
    assert stat.S_IMODE(guide.config.stat().st_mode) == 0o600


@pytest.mark.proves("setup-8")
def test_a_configuration_that_nobody_can_read_any_more_is_left_alone(guide: Guide) -> None:
    """Somebody saves it in another encoding while the questions are answered."""
    answers = start(guide)

    def save(request: Request) -> bool:
        guide.config.write_bytes(b"# B\xfcro\n")
        return False

    guide.cloud.fault("POST /hook", status(500), when=save)
    result = guide.run(*answers, "webhook", f"{guide.cloud.url}/hook/CANARY-x", "yes", "", "none")
    assert (result.code, guide.config.read_bytes()) == (1, b"# B\xfcro\n")
    (line,) = result.err.splitlines()
    assert line.startswith(f"snapshots: setup: {guide.config}: cannot be read: ")
    assert f"; made so far: {guide.configs / 'web.json'} (" in line


@pytest.mark.proves("setup-6")
def test_a_linked_configuration_stays_a_link(guide: Guide, tmp_path: Path) -> None:
    answers = start(guide)
    real = tmp_path / "real.config"
    guide.project.write_config().rename(real)
    guide.config.symlink_to(real)
    url = f"{guide.cloud.url}/hook/CANARY-secret-place"
    assert guide.run(*answers, "webhook", url, "yes", "", "none").code == 0
    assert guide.config.is_symlink()
    assert f"[WEBHOOK]\nenabled = true\nurl = {url}\n" in real.read_text()


@pytest.mark.proves("setup-6")
def test_a_configuration_with_a_mistake_is_not_touched(guide: Guide) -> None:
    before = start(guide)
    guide.project.config["TIMING"]["http_timout"] = 3
    result = guide.run(*before, "nothing", "none")
    assert (result.code, result.out, guide.made()) == (1, "", {})
    assert "unknown key, did you mean 'http_timeout'?" in result.err
    assert not guide.cloud.journal


# --- again ---


@pytest.mark.proves("setup-7")
def test_a_second_time_it_adds_what_is_missing(guide: Guide) -> None:
    token = guide.bot(written(4711))
    first = guide.run(*start(guide), "telegram", token, "1", "yes", "", "04:30", "yes")
    assert first.code == 0
    files = {path: path.read_bytes() for path in guide.configs.iterdir()}
    config, table = guide.config.read_text(), guide.tab.text
    same = guide.run("", "", "", "")
    assert (same.code, same.err) == (0, "")
    assert "Which provider (digitalocean, hetzner, contabo) [hetzner]: " in same.out
    assert "With the credentials in web.json (yes, no) [yes]: " in same.out
    assert "All servers of this account are covered." in same.out
    assert "Notifications go over Telegram." in same.out
    assert ": 30 4 * * * cd " in same.out
    assert "written: " not in same.out
    assert {path: path.read_bytes() for path in guide.configs.iterdir()} == files
    assert (guide.config.read_text(), guide.tab.text) == (config, table)

    guide.account("hetzner", db=2)
    url = f"{guide.cloud.url}/hook/CANARY-secret-place"
    more = guide.run("", "", "all", "3", "webhook", url, "yes", "")
    assert more.code == 0
    assert re.findall(r"^ \d +\d  (\w+) .*  (yes|no)$", more.out, re.MULTILINE) == [
        ("db", "no"),
        ("web", "yes"),
    ]
    assert {p: p.read_bytes() for p in files} == files
    assert list(guide.made()) == ["db.json", "web.json"]
    assert "Notifications go over Telegram, webhook." in more.out
    assert guide.tab.text == table

    guide.account("contabo", mail=3)
    other = guide.run("contabo", *guide.credentials("contabo"), "all", "1", "yes", "")
    assert (other.code, len(guide.made())) == (0, 3)
    last = guide.run("contabo", "", "")
    assert last.code == 0
    assert "With the credentials in mail.json (yes, no) [yes]: " in last.out


@pytest.mark.proves("setup-7")
def test_a_second_account_of_a_provider_has_its_own_credentials(guide: Guide) -> None:
    guide.run(*start(guide), "nothing", "none")
    other = guide.project.account("hetzner", "other")
    guide.cloud.add_server(other, 77, "web")
    assert guide.run("", "no", other.token, "all", "5", "nothing", "none").code == 0
    files = {name: file["hetzner_cloud_server"] for name, file in guide.made().items()}
    tokens = {name: file["api_token"] for name, file in files.items()}
    assert tokens == {"web.json": guide.credentials()[0], "web-77.json": other.token}


@pytest.mark.proves("setup-7")
def test_a_server_file_that_cannot_be_used_is_named_and_its_server_not_covered_twice(
    guide: Guide,
) -> None:
    guide.account("hetzner", web=1, db=2)
    wrong = {"id": "1", "name": "web", "api_token": "", "retain_last_snapshots": 0}
    guide.project.write("old.json", {"hetzner_cloud_server": wrong})
    guide.project.write("broken.json", "{")
    result = guide.run("hetzner", *guide.credentials(), "all", "2", "nothing", "none")
    assert f"broken: {guide.configs / 'broken.json'}: not valid JSON: line 1" in result.err
    assert sorted(path.name for path in guide.configs.iterdir()) == [
        "broken.json",
        "db.json",
        "old.json",
    ]
    assert result.code == 2
    assert "retain_last_snapshots: must be" in result.err


# --- when ---


@pytest.mark.proves("setup-7")
def test_an_entry_by_hand_stays_too(guide: Guide) -> None:
    line = (
        f"1 1 * * * {sys.executable} {Path(snapshots.__file__).resolve()} --config {guide.config}"
    )
    guide.tab.set(line + "\n")
    result = guide.run(*start(guide), "nothing")
    assert (result.code, guide.tab.text) == (0, line + "\n")
    assert "crontab of root, line 1, by hand: 1 1 * * * " in result.out


@pytest.mark.proves("setup-9")
@pytest.mark.parametrize(
    ("mischief", "words"),
    [
        (
            {"write": {"*": ["refuse"]}},
            "errors in crontab file",
        ),
        ({"-l": {"*": ["half"]}}, "crontab -l: exit status 1: crontab: read error"),
    ],
)
def test_a_crontab_that_refuses_does_not_end_it_but_is_no_success(
    guide: Guide, mischief: dict[str, Any], words: str
) -> None:
    (guide.tab.folder / "mischief.json").write_text(json.dumps(mischief))
    result = guide.run(*start(guide), "nothing", "nightly", "yes")
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert words in line
    assert "web: would create " in result.out
    assert not guide.tab.table.exists()


@pytest.mark.proves("setup-9")
def test_without_a_crontab_the_timer_is_shown_and_the_rest_done(guide: Guide) -> None:
    guide.monkeypatch.setenv("PATH", str(guide.project.folder))
    result = guide.run(*start(guide), "nothing", "nightly", "yes")
    assert result.code == 1
    assert "OnCalendar=" in result.out
    assert "use the systemd timer above" in result.err
    assert "web: would create " in result.out


@pytest.mark.proves("setup-9")
def test_on_windows_powershell_is_shown(guide: Guide) -> None:
    settings = snapshots.load_settings(guide.project.write_config(), True)
    setup = snapshots.Setup(settings, guide.config, None, outside(guide.project.clock))
    guide.monkeypatch.setattr(sys, "stdin", io.StringIO("nightly\nyes\n"))
    guide.monkeypatch.setattr(snapshots, "ON_WINDOWS", True)
    assert setup.have_it_run()
    guide.monkeypatch.undo()
    assert "Register-ScheduledTask" in guide.project.capsys.readouterr().out


# --- a bad day ---


@pytest.mark.proves("setup-8")
def test_a_full_disk_and_a_directory_that_is_none_are_reported(
    guide: Guide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one clear line, and no half file is left."""
    answers = [*start(guide), "nothing", "none"]

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        result = guide.run(*answers)
    assert result.code == 1
    assert result.err == (
        f"snapshots: setup: {guide.configs / 'web.json'}: cannot be written: No space left on"
        " device; nothing was made (write --setup again to go on)\n"
    )
    assert list(guide.configs.iterdir()) == []
    guide.configs.rmdir()
    guide.configs.write_text("")
    result = guide.run(*answers)
    assert (result.code, result.err) == (
        1,
        f"snapshots: setup: {guide.configs}: cannot be written to (run it as its owner);"
        " nothing was made (write --setup again to go on)\n",
    )
    assert "api_token" not in result.out


@pytest.mark.proves("setup-8")
def test_a_full_disk_under_the_configuration_leaves_the_old_one(guide: Guide) -> None:
    url = f"{guide.cloud.url}/hook/CANARY-secret-place"
    answers = [*start(guide), "webhook", url, "yes", "", "none"]
    before = guide.project.write_config().read_bytes()
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    guide.monkeypatch.setattr(os, "fsync", full)
    result = guide.run(*answers)
    assert result.code == 1
    assert (
        f"{guide.config}: cannot be written: No space left on device; made so far: " in result.err
    )
    assert guide.config.read_bytes() == before
    assert sorted(os.listdir(guide.project.folder)) == ["configs", "snapshots.config"]


def test_what_a_killed_setup_has_left_goes(guide: Guide) -> None:
    """It holds credentials, and nobody would look for it."""
    project = guide.project
    folders = [project.folder, project.folder / "configs"]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / f".web.json-ab_12cd3{snapshots.UNFINISHED}").write_text("{")
        (folder / ".web.json.tmp").write_text("somebody else's")
    guide.run()
    for folder in folders:
        assert not list(folder.glob(f".*{snapshots.UNFINISHED}"))
        assert (folder / ".web.json.tmp").exists()


@pytest.mark.proves("setup-9")
def test_what_this_shell_has_and_cron_will_not_is_said_at_once(
    guide: Guide, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide.account(web=11)
    monkeypatch.setenv("TOKEN_OF_MINE", guide.credentials()[0])
    answers = ("hetzner", "env:TOKEN_OF_MINE", "all", "2", "nothing", "nightly", "yes")
    result = guide.run(*answers)
    assert result.code == 0
    assert result.err == (
        "snapshots: warning: env:TOKEN_OF_MINE is set in this shell; cron does not have it by"
        " itself (use file:)\n"
    )
    guide.tab.set(f"TOKEN_OF_MINE = x\n{guide.tab.text}")
    assert guide.run("hetzner", "", "nothing").err == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_file_that_root_replaces_stays_its_users(tmp_path: Path) -> None:
    path = tmp_path / "snapshots.config"
    path.write_text("old")
    os.chown(path, 1234, 5678)
    snapshots.write_whole(path, b"new")
    assert (path.read_text(), path.stat().st_uid, path.stat().st_gid) == ("new", 1234, 5678)


@pytest.mark.proves("setup-2")
def test_no_network_is_no_refusal_of_the_credentials(guide: Guide) -> None:
    answers = start(guide)
    guide.project.config["API"]["hetzner_url"] = "http://127.0.0.1:9/hz/v1"
    result = guide.run(*answers)
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert "connection refused" in line.lower()
    assert "nothing was made" in line


def test_flags_that_do_not_go_with_it(guide: Guide) -> None:
    for args in (["-q"], ["web.json"], ["-n"], ["--now"], ["--list"], ["--show-cron"], ["--json"]):
        result = guide.run("hetzner", args=tuple(args))
        assert (result.code, result.out) == (1, "")
        assert len(result.err.splitlines()) == 1


@pytest.mark.proves("setup-3")
def test_it_is_understood_on_a_terminal_of_80_columns_that_knows_ascii_only(guide: Guide) -> None:
    for number, name in enumerate(["web", "日本" * 30, "x" * 90], 1234567):
        guide.cloud.add_server(guide.account("contabo"), number, name)
    token = guide.bot(written(-1001234567890, title="Ω" * 200, type="supergroup"))
    result = guide.run(
        *("contabo", *guide.credentials("contabo"), "what?", "all", "1", "yes", "telegram"),
        *(token, "-5", "-1001234567890", "yes", "webhook"),
    )
    for line in result.out.splitlines():
        assert len(line) <= 80 or str(guide.project.folder) in line, line
        assert line.isascii() or "日本" in line or "Ω" in line


# --- the script itself ---


class Terminal:
    """The script on a terminal of its own."""

    def __init__(self, guide: Guide, *shell: str) -> None:
        """shell: what to start instead."""
        if not guide.config.exists():
            guide.project.write_config()
        self.command = [sys.executable, str(SCRIPT), "--config", str(guide.config), "--setup"]
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.master, self.shown = master, ""
        self.process = subprocess.Popen(
            shell or self.command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        guide.terminals.append(self.process)
        os.close(slave)

    def see(self, words: str, times: int = 1) -> None:
        """Until the terminal shows this, so many times in all."""
        while self.shown.count(words) < times:
            ready, _, _ = select.select([self.master], [], [], 20)
            assert ready, f"no {words!r} in: {self.shown}"
            try:
                self.shown += os.read(self.master, 65536).decode()
            except OSError:  # nobody is there any more
                raise AssertionError(f"no {words!r} in: {self.shown}") from None

    def say(self, question: str, answer: str, times: int = 1) -> None:
        self.see(question, times)
        os.write(self.master, answer.encode() + b"\n")

    def end(self) -> int:
        """The exit status; all that was shown is known then."""
        with contextlib.suppress(OSError):
            while True:
                ready, _, _ = select.select([self.master], [], [], 20)
                assert ready, f"it has not ended: {self.shown}"
                data = os.read(self.master, 65536)
                if not data:
                    break
                self.shown += data.decode()
        assert termios.tcgetattr(self.master)[3] & termios.ECHO  # it is left as it was
        os.close(self.master)
        return self.process.wait(20)


@pytest.mark.proves("setup-2")
def test_on_a_terminal_credentials_do_not_show(guide: Guide) -> None:
    token, account = guide.bot(written(4711)), guide.account("contabo", web=1)
    terminal = Terminal(guide)
    terminal.say("Which provider (digitalocean, hetzner, contabo): ", "contabo")
    terminal.say("client_id: ", account.client_id)
    terminal.say("client_secret (is not shown): ", account.client_secret)
    terminal.say("api_user: ", account.api_user)
    terminal.say("api_password (is not shown): ", "CANARY-wrong")
    terminal.see("Try again.")
    terminal.say("client_id: ", account.client_id, 2)
    terminal.say("client_secret (is not shown): ", account.client_secret, 2)
    terminal.say("api_user: ", account.api_user, 2)
    terminal.say("api_password (is not shown): ", account.api_password, 2)
    terminal.say("[all]: ", "1")
    terminal.say("are to stay [1]: ", "")
    terminal.say("[no]: ", "y")
    terminal.say("(telegram, webhook, mail, nothing): ", "telegram")
    terminal.say("bot_token (is not shown): ", token)
    terminal.say("look again): ", "1")
    terminal.say("Did it arrive (yes, no) [yes]: ", "")
    terminal.say("[nothing]: ", "webhook")
    terminal.say("url (is not shown): ", f"{guide.cloud.url}/hook/CANARY-secret-place")
    terminal.say("Did it arrive (yes, no) [yes]: ", "", 2)
    terminal.say("[nothing]: ", "", 2)
    terminal.say("When [nightly]: ", "none")
    assert terminal.end() == 0
    assert "CANARY" not in terminal.shown
    assert account.api_user in terminal.shown
    assert "HTTP 401" in terminal.shown
    assert guide.made()["web.json"]["contabo_instance"]["api_password"] == account.api_password
    assert "\r\n\r\n" not in terminal.shown.replace(": \r\n", "")
    assert guide.cloud.count("POST /cb-auth/token") == 3  # the wrong one, the right one, a dry run


@pytest.mark.proves("setup-2")
def test_ctrl_z_does_not_lead_from_a_credential_to_a_shell(guide: Guide) -> None:
    """Which would switch the echo on, and bash leaves it on. Elsewhere it does, and fg goes on."""
    guide.account("hetzner", web=1)
    terminal = Terminal(guide, "bash", "--norc", "--noprofile", "-i")
    terminal.say("bash-", shlex.join(terminal.command))
    terminal.see("Which provider")
    os.write(terminal.master, b"\x1a")
    terminal.say("Stopped", "fg")
    terminal.say("--setup", "hetzner", 3)
    terminal.say("api_token (is not shown): ", f"\x1a{guide.credentials()[0]}")
    terminal.see("[all]: ")
    os.write(terminal.master, b"\x03")
    terminal.say("nothing was made", "exit")
    terminal.end()
    assert "CANARY" not in terminal.shown


@pytest.mark.proves("setup-2")
def test_an_account_is_not_locked_by_wrong_credentials(guide: Guide) -> None:
    """Three tries at most, each one login."""
    account = guide.account("contabo", web=1)
    terminal = Terminal(guide)
    terminal.say("Which provider", "contabo")
    for attempt, password in enumerate(["CANARY-1", "CANARY-2", "CANARY-3"], 1):
        terminal.say("client_id: ", account.client_id, attempt)
        terminal.say("client_secret (is not shown): ", account.client_secret, attempt)
        terminal.say("api_user: ", account.api_user, attempt)
        terminal.say("api_password (is not shown): ", password, attempt)
    assert terminal.end() == 1
    assert guide.cloud.count("POST /cb-auth/token") == 3
    assert "; nothing was made (write --setup again to go on)" in terminal.shown


@pytest.mark.proves("setup-5")
def test_what_a_channel_lacks_leads_back_to_the_choice_of_channels_three_times(
    guide: Guide,
) -> None:
    """A bot that is none, a chat that is not there, a webhook that is not active."""
    guide.account("hetzner", web=1)
    token, choice = guide.bot(written(4711)), "How to notify you of failures"
    terminal = Terminal(guide)
    for question, answer in (
        ("Which provider", "hetzner"),
        ("api_token", guide.credentials()[0]),
        ("[all]: ", ""),
        ("[3]: ", ""),
    ):
        terminal.say(question, answer)
    terminal.say(choice, "telegram")
    terminal.say("bot_token (is not shown): ", "4711:CANARY-of-no-bot")
    terminal.see("telegram cannot be used: HTTP 401: Unauthorized")
    terminal.say(choice, "telegram", 2)
    terminal.say("bot_token (is not shown): ", token, 2)
    terminal.say("look again): ", "66666")
    terminal.see("chat not found")
    terminal.say(choice, "webhook", 3)
    terminal.say("url (is not shown): ", f"{guide.cloud.url}/hook/inactive")
    assert terminal.end() == 1
    assert terminal.shown.count("Try again.") == 2
    last = terminal.shown.splitlines()[-1]
    assert last.startswith("snapshots: setup: webhook cannot be used: ")
    assert last.endswith(
        f"; made so far: {guide.configs / 'web.json'} (write --setup again to go on)"
    )
    assert "enabled" not in guide.config.read_text()


@pytest.mark.proves("setup-3")
def test_answers_may_have_the_ends_of_lines_of_windows(guide: Guide) -> None:
    guide.account("hetzner", web=1)
    token = guide.credentials()[0]
    result = guide.run("hetzner\r", f"{token} \r", "all\r", "3\r", "nothing\r", "none\r")
    assert result.code == 0
    assert guide.made()["web.json"]["hetzner_cloud_server"]["api_token"] == token


@pytest.mark.proves("setup-8")
@pytest.mark.parametrize("hidden", [False, True], ids=["question", "credential"])
@pytest.mark.parametrize("key", ["\x03", "\x04", "TERM"])
def test_ctrl_c_ctrl_d_and_a_signal_end_it_at_any_question(
    guide: Guide, key: str, hidden: bool
) -> None:
    guide.account("hetzner", web=1)
    terminal = Terminal(guide)
    terminal.say("Which provider", "hetzner")
    terminal.see("api_token (is not shown): ")
    if not hidden:
        terminal.say("", guide.credentials()[0])
        terminal.say("[all]: ", "1")
        terminal.say("[3]: ", "2")
        terminal.see("mail, nothing): ")
    if key == "TERM":
        terminal.process.terminate()
    else:
        os.write(terminal.master, key.encode())
    assert terminal.end() == 1
    why = {"\x03": "interrupted by SIGINT", "\x04": "the answers ended too early"}
    made = "nothing was made" if hidden else f"made so far: {guide.configs / 'web.json'}"
    last = terminal.shown.replace("\r\n", "\n").rstrip("\n").split("\n")[-1]
    assert last == (
        f"snapshots: setup: {why.get(key, 'interrupted by SIGTERM')}; {made}"
        " (write --setup again to go on)"
    )
    assert list(guide.made()) == ([] if hidden else ["web.json"])


@pytest.mark.proves("setup-8")
def test_ctrl_c_does_not_wait_for_a_cloud_that_is_silent(guide: Guide) -> None:
    guide.account("hetzner", web=1)
    guide.cloud.fault("GET /hz/servers", stall(20))
    terminal = Terminal(guide)
    terminal.say("Which provider", "hetzner")
    terminal.say("api_token (is not shown): ", guide.credentials()[0])
    terminal.see("reading the account ...")
    for _ in range(2000):
        if guide.cloud.count("GET /hz/servers"):
            break
        time.sleep(0.005)
    began = time.monotonic()
    os.write(terminal.master, b"\x03")
    assert terminal.end() == 1
    assert time.monotonic() - began < 5
    assert "setup: interrupted by SIGINT; nothing was made" in terminal.shown


@pytest.mark.proves("setup-8")
@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, "closed"])
def test_without_anybody_to_answer_it_says_so_at_once(guide: Guide, stdin: Any) -> None:
    guide.project.write_config()
    command = [sys.executable, str(SCRIPT), "--config", str(guide.config), "--setup"]
    if stdin == "closed":
        command = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
        stdin = subprocess.DEVNULL
    done = subprocess.run(
        command, stdin=stdin, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr == (
        "snapshots: setup: the answers ended too early; nothing was made"
        " (write --setup again to go on)\n"
    )


# --- the README ---


@pytest.mark.proves("setup-1")
def test_the_readme_shows_what_is_asked_and_answered(guide: Guide) -> None:
    """The block in the README is this conversation: with what is typed, but for credentials."""
    zone = Path("/usr/share/zoneinfo/Europe/Berlin")
    if not zone.exists():
        pytest.skip("no time zone data")
    guide.monkeypatch.setattr(snapshots, "LOCALTIME", str(zone))
    guide.account("hetzner", web=12345678, shop=12345679)
    (web,) = [s for s in guide.project.account("hetzner").servers.values() if s.name == "web"]
    guide.cloud.add_snapshot(web, "before-upgrade", guide.project.clock.now())
    team = {"id": -1001234567890, "type": "supergroup", "title": "Ops"}
    token = guide.bot(*[update("message", chat) for chat in (ADA, team)], chats=(team["id"],))
    answers = ["hetzner", *guide.credentials(), "all", "3", "telegram", token, "1", "yes"]
    answers += ["nothing", "nightly", "yes"]
    result = guide.run(*answers)
    assert (result.code, result.err) == (0, "")
    typed = iter(answers)
    lines = []
    for line in result.out.splitlines():
        answer = next(typed) if line.endswith(": ") else ""
        lines.append(line + ("" if "CANARY" in answer else answer))
    shown = "\n".join(line.rstrip() for line in lines)
    for there, here in (
        (f" --config {guide.config}", ""),
        (str(guide.project.folder), "/opt/snapshots"),
        (sys.executable, "/opt/snapshots/.venv/bin/python"),
        (str(SCRIPT), "/opt/snapshots/snapshots.py"),
        (snapshots.whose_crontab(), "crontab of backup"),
    ):
        shown = shown.replace(there, here)
    shown = re.sub(r"(crontab-\d+)-\w+\.bak", r"\1-k3v0x_2a.bak", shown)
    (block,) = [b.text for b in blocks() if b.text.startswith("An empty answer ")]
    assert block == f"{shown}\n"


# --- the days after ---


@pytest.mark.proves("setup-9")
def test_a_server_that_was_deleted_at_the_provider_is_one_clear_line(guide: Guide) -> None:
    guide.account("hetzner", web=1, db=2)
    token = guide.bot(written(4711))
    rest = ["all", "2", "telegram", token, "1", "yes", "", "none"]
    assert guide.run("hetzner", *guide.credentials(), *rest).code == 0
    guide.cloud.remove_server(guide.project.account("hetzner").servers["2"])
    assert snapshots.main(["--config", str(guide.config)], guide.project.clock) == 2
    (line,) = guide.project.capsys.readouterr().err.splitlines()
    assert line.startswith("snapshots: db: cannot create a snapshot of server 2: HTTP 404")
    assert line.endswith("(is the id right, still there, and in the project of these credentials?)")
    words = line.removeprefix("snapshots: db: ")
    assert any(words in message.text for message in guide.cloud.telegram_messages)


@pytest.mark.proves("setup-9")
def test_a_directory_that_was_moved_is_one_clear_line(guide: Guide) -> None:
    """Its old entry can start nothing: that is no success, and is not passed over."""
    assert guide.run(*start(guide), "nothing", "nightly", "yes").code == 0
    table, old = guide.tab.text, guide.config
    guide.project.folder = guide.project.folder.rename(guide.project.folder.parent / "new")
    again = guide.run("", "", "nothing")
    assert again.code == 1
    (line,) = again.err.splitlines()
    assert f"(moved? write --remove-cron --config {old}, then --install-cron)" in line
    assert guide.tab.text == table
    for args in (["--remove-cron", "--config", str(old)], ["--install-cron", "nightly"]):
        config = [] if "--config" in args else ["--config", str(guide.config)]
        assert snapshots.main([*args, *config], guide.project.clock) == 0
    assert guide.tab.text == guide.tab.block("15 3 * * *")
    assert guide.run("", "", "nothing").code == 0
