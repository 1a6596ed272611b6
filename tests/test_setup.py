"""--setup: asks, and writes what the README would have people write."""

from __future__ import annotations

import io
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PROVIDERS, TOP_KEYS, Result, Tab
from fakes import Account

import snapshots

WEBHOOK_409 = "can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first"


class Guide:
    """Answers the questions of --setup, in a project with a crontab."""

    def __init__(self, tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tab, self.project, self.monkeypatch = tab, tab.project, monkeypatch
        self.cloud = self.project.cloud
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
def guide(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> Guide:
    return Guide(tab, monkeypatch)


def written(chat_id: int, **more: Any) -> dict[str, Any]:
    """An update: somebody wrote to the bot."""
    chat = {"id": chat_id, "type": "private", "first_name": "Ada", **more}
    return {"message": {"message_id": 1, "date": 1, "chat": chat, "text": "hello"}}


# --- from nothing to a schedule ---


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_few_answers_set_everything_up(guide: Guide, provider: str) -> None:
    guide.account(provider, web=11, db=12)
    token = guide.bot(written(4711))
    keep = ["1", "no"] if provider == "contabo" else ["2"]
    result = guide.run(
        *(provider, *guide.credentials(provider), "all", *keep),
        *("telegram", token, "1", "yes", "nothing", "nightly", "yes"),
    )
    print(result.out, result.err)
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


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("all", [1, 2, 3, 4, 5]),
        ("ALL", [1, 2, 3, 4, 5]),
        ("none", []),
        ("1,3-5", [1, 3, 4, 5]),
        ("2-", [2, 3, 4, 5]),
        ("5 1 1", [1, 5]),
        (" 2 - 3 , 3-4,", [2, 3, 4]),
        ("1-5", [1, 2, 3, 4, 5]),
    ],
)
def test_rows_are_chosen_by_number(text: str, rows: list[int]) -> None:
    assert snapshots.read_rows(text, 5) == rows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0", "1 to 5"),
        ("6", "1 to 5"),
        ("1-9", "1 to 5"),
        ("6-", "1 to 5"),
        ("4-2", "write 2-4"),
        ("-3", "numbers as in"),
        ("web", "numbers as in"),
        ("1;2", "numbers as in"),
        ("٣", "numbers as in"),
        ("²", "numbers as in"),
        ("1--2", "numbers as in"),
        ("9" * 5000, "numbers as in"),
        (",", "numbers as in"),
    ],
)
def test_what_names_no_rows_is_explained(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        snapshots.read_rows(text, 5)


def test_wrong_answers_are_explained_and_asked_for_again(guide: Guide) -> None:
    guide.account("hetzner", a=1, b=2, c=3)
    result = guide.run(
        *("linode", "", "h", *guide.credentials(), "9", "3-1", "2-", "none at all", "0", "ALL"),
        *("sms", "n", "25:00", "0 3 31 2 *", '"15 3 * * *"', "maybe", "n", "none"),
    )
    assert result.code == 0
    assert sorted(guide.made()) == ["b.json", "c.json"]
    assert guide.made()["b.json"]["hetzner_cloud_server"]["retain_last_snapshots"] == "all"
    said = [line for line in result.out.splitlines() if line.startswith("The answer ")]
    assert said == [
        "The answer must be one of digitalocean, hetzner, contabo.",
        "The answer must not be empty.",
        "The answer must be numbers from the table, 1 to 3.",
        "The answer must begin with the smaller number (write 1-3).",
        'The answer must be a whole number from 1 to 100000, or "all".',
        'The answer must be a whole number from 1 to 100000, or "all".',
        "The answer must be one of telegram, webhook, mail, nothing.",
        said[7],
        said[8],
        "The answer must be one of yes, no.",
    ]
    assert "cannot be used: hour '25'" in said[7]
    assert "cannot be used: " in said[8]
    assert not guide.tab.table.exists()


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
    "con": "server-con",
    "LPT1.old": "server-LPT1.old",
    "x" * 150: "x" * 100,
    "-rf": "rf",
    "y" * 300: "server-1",
    "web\n[x]\x1b[2J": "server-1",
    "$(touch x) `id`": "touch-x-id",
    "your-server-name": "server-1",
}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_server_may_be_called_anything(guide: Guide, name: str) -> None:
    server = guide.cloud.add_server(guide.account(), 1, name)
    result = guide.run("hetzner", *guide.credentials(), "1", "2", "nothing", "none")
    assert (result.code, list(guide.made())) == (0, [f"{ODD_NAMES[name]}.json"])
    assert all(len(line) < 81 for line in result.out.splitlines() if " 1  " in line[:6])
    assert snapshots.main(["--config", str(guide.config)], guide.project.clock) == 0
    (loaded,) = snapshots.load_servers([], snapshots.load_settings(guide.config, True))[0]
    assert isinstance(loaded, snapshots.Server)
    assert loaded.name == ("server-1" if name.startswith(("y", "web\n")) else name)
    assert guide.cloud.snapshots(server)


def test_servers_of_one_name_and_files_that_are_there_get_files_of_their_own(guide: Guide) -> None:
    for number, name in enumerate(["web", "WEB", "web", "Web", "db"], 1):
        guide.cloud.add_server(guide.account(), number, name)
    guide.configs.mkdir()
    theirs = guide.configs / "DB.json"
    theirs.write_text('{"hetzner_cloud_server": {"id": 77}}')
    theirs.chmod(0o600)
    before = theirs.read_bytes()
    (guide.configs / "web-3.json").symlink_to("nowhere")
    guide.run("hetzner", *guide.credentials(), "all", "2", "nothing", "none")
    assert theirs.read_bytes() == before
    (guide.configs / "web-3.json").unlink()
    files = {name: content["hetzner_cloud_server"]["id"] for name, content in guide.made().items()}
    assert sorted(files.values()) == [1, 2, 3, 4, 5, 77]
    assert len({name.casefold() for name in files}) == 6
    assert files["DB.json"] == 77
    assert files["db-5.json"] == 5
    assert {name for name, number in files.items() if number == 3} <= {"web.json", "web-3-2.json"}
