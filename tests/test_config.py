"""Configuration: good, bad, and every problem at once."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes as fake
import pytest
from conftest import Project
from hypothesis import given
from hypothesis import strategies as st

import snapshots

TOKEN = "SECRET-token/with+odd%chars"


def settings_of(tmp_path: Path, text: str) -> snapshots.Settings:
    path = tmp_path / "snapshots.config"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return snapshots.load_settings(path, required=True)


def problems_of(tmp_path: Path, text: str) -> list[str]:
    """The problems, without the path that each begins with."""
    settings = settings_of(tmp_path, text)
    prefix = f"{tmp_path / 'snapshots.config'}: "
    assert all(problem.startswith(prefix) for problem in settings.problems)
    return [problem[len(prefix) :] for problem in settings.problems]


def test_no_file_means_defaults(tmp_path: Path) -> None:
    settings = snapshots.load_settings(tmp_path / "snapshots.config", required=False)
    assert settings == snapshots.Settings(base=tmp_path)
    assert settings.timing.snapshot_creation_timeout == 14400
    assert settings.timing.delay_between_servers == 20


def test_a_file_asked_for_by_name_must_exist(tmp_path: Path) -> None:
    settings = snapshots.load_settings(tmp_path / "none.config", required=True)
    assert settings.problems == (
        f"{tmp_path / 'none.config'}: cannot be read: No such file or directory",
    )


def test_values_are_read_and_percent_signs_are_just_text(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        "[DEFAULT]\n[TIMING]\npoll_interval = 2.5\n[TELEGRAM]\nbot_token = 12:a%20b\n"
        "chat_id = -100\nmessage_success = ✅ für {server_name}\\nzweite Zeile\n"
        "[WEBHOOK]\nenabled = yes\nurl = https://h.example/x%20y\n"
        'payload_success = {"text":\n  "{server_name}: \\u2713",\n  "n": [1, {"a": "{status}"}]}\n',
    )
    assert settings.problems == ()
    assert settings.timing.poll_interval == 2.5
    assert settings.telegram.bot_token == "12:a%20b"
    assert settings.telegram.message_success == "✅ für {server_name}\nzweite Zeile"
    assert settings.webhook.url == "https://h.example/x%20y"
    assert settings.webhook.payload_success == {
        "text": "{server_name}: ✓",
        "n": [1, {"a": "{status}"}],
    }


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "snapshots.config"
    path.write_bytes(b"\xef\xbb\xbf[TIMING]\r\npoll_interval = 7\r\n")
    settings = snapshots.load_settings(path, required=True)
    assert (settings.problems, settings.timing.poll_interval) == ((), 7)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[DIRECTORIES]\nlogs_dir = logs\n  configs_dir = configs\n",
            "line 2: [DIRECTORIES] 'logs_dir': goes on in an indented line"
            " (begin that at the left edge)",
        ),
        (
            "[SMTP]\nserver = mail\n port = 465\n",
            "line 2: [SMTP] 'server': goes on in an indented line (begin that at the left edge)",
        ),
        (
            '[DIRECTORIES]\nlogs_dir = "logs"\n',
            "line 2: [DIRECTORIES] 'logs_dir': stands in quotes (write it without them)",
        ),
        (
            "[FILES]\nlock_file = a.lock ; the lock\n",
            "line 2: [FILES] 'lock_file': has a comment behind it (put that on a line of its own)",
        ),
        (
            "[TELEGRAM]\nchat_id = '-100'\n",
            "line 2: [TELEGRAM] 'chat_id': must be the chat's number, as in -1001234567890,"
            " or @channelname",
        ),
        (
            "[FILES]\nlock_file = snapshots.log\n",
            "line 2: [FILES] 'lock_file': log and lock must be two files",
        ),
        (
            "[FILES]\nlog_file = ./snapshots.lock\n",
            "line 2: [FILES] 'log_file': log and lock must be two files",
        ),
    ],
)
def test_what_would_become_part_of_a_value_unnoticed_is_a_problem(
    tmp_path: Path, text: str, problem: str
) -> None:
    """A lock file under another name would let two runs at once."""
    assert problems_of(tmp_path, text) == [problem]


def test_templates_payloads_and_addresses_may_go_on_in_the_next_line(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        "[SMTP]\nto_emails = a@example.org,\n  b@example.org\nmessage_success = one\n  two\n"
        "[TELEGRAM]\nmessage_success = 'quoted' # and more\nchat_id = @a_channel\n",
    )
    assert settings.problems == ()
    assert settings.smtp.to_emails == ("a@example.org", "b@example.org")
    assert settings.smtp.message_success == "one\ntwo"
    assert settings.telegram.message_success == "'quoted' # and more"


def test_every_problem_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    text = (
        "[TIMING]\n"
        "poll_intervall = 5\n"
        "http_timeout = soon\n"
        "http_timeout = 5\n"
        "\n"
        "[RETENTION]\n"
        "max_deletes_per_run = 0\n"
        "[TELEGRM]\n"
        "x = 1\n"
        "[WEBHOOK]\n"
        "url = ftp://example.org\n"
        "payload_success = [1]\n"
        "payload_failure = {oops}\n"
        "[API]\n"
        "hetzner_url = http://api.example.org\n"
        "[TIMING]\n"
        "run_timeout = -1\n"
        "[SMTP]\n"
        "enabled = perhaps\n"
        "to_emails = nobody\n"
    )
    assert problems_of(tmp_path, text) == [
        "line 2: [TIMING] 'poll_intervall': unknown key, did you mean 'poll_interval'?",
        "line 4: [TIMING] 'http_timeout': stands twice (first on line 3)",
        "line 7: [RETENTION] 'max_deletes_per_run': must be a whole number from 1 to 100000",
        "line 8: [TELEGRM]: unknown section, did you mean 'TELEGRAM'?",
        "line 11: [WEBHOOK] 'url': must be a URL that starts with https://",
        'line 12: [WEBHOOK] \'payload_success\': must be a JSON object, as in {"text": "{server_name}: {status}"}',
        "line 13: [WEBHOOK] 'payload_failure': not valid JSON: line 1, column 2:"
        " Expecting property name enclosed in double quotes",
        "line 15: [API] 'hetzner_url': must start with https:// (a token would travel in the clear)",
        "line 16: [TIMING]: stands twice (first on line 1)",
        "line 17: [TIMING] 'run_timeout': must be a number of seconds from 1 to 604800",
        "line 19: [SMTP] 'enabled': must be true or false",
        "line 20: [SMTP] 'to_emails': must hold mail addresses such as ops@example.org,"
        " with commas between",
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"[TELEGRAM]\nbot_token = {TOKEN} ; my comment\n",
        f"[TELEGRAM]\nbot_token = '{TOKEN}'\n",
        f"[TELEGRAM]\n{TOKEN}\n",
        f"[TELEGRAM]\n{TOKEN} = 5\n",
        f"{TOKEN}\n[TELEGRAM]\n",
        f"[TELEGRAM]\n= {TOKEN}\n",
        f"[{TOKEN}]\nx = 1\n",
        f"[WEBHOOK]\nurl = {TOKEN}\n",
        f"[TELEGRAM]\nbot_token = ü{TOKEN}\n",
        f"[API]\nhetzner_url = https://me:{TOKEN}@api.example.org\n",
        f"[TIMING]\npoll_interval = {TOKEN}\n",
    ],
)
def test_a_problem_never_shows_the_text_of_its_line(tmp_path: Path, text: str) -> None:
    problems = problems_of(tmp_path, text)
    assert problems
    assert not any(TOKEN in problem for problem in problems)
    assert all("line " in problem for problem in problems)


def make_sparse(path: Path, size: int) -> None:
    """A file of so many NULs that takes no room on the disk."""
    path.touch()
    os.truncate(path, size)


ODD_FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a directory": lambda path: path.mkdir(),
    "a FIFO": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nowhere": lambda path: path.symlink_to(path.parent / "nowhere"),
    "a byte too large": lambda path: path.write_bytes(b"#" * (snapshots.MAX_CONFIG_BYTES + 1)),
    "100 MB": lambda path: make_sparse(path, 100_000_000),
    "UTF-16": lambda path: path.write_text("[TIMING]\n", encoding="utf-16"),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "NUL": lambda path: path.write_bytes(b"\0\0\0"),
}


@pytest.mark.parametrize("make", sorted(set(ODD_FILES) - {"missing", "a link to nowhere"}))
def test_what_is_no_small_text_file_is_refused_without_hanging(tmp_path: Path, make: str) -> None:
    path = tmp_path / "snapshots.config"
    ODD_FILES[make](path)
    problems = snapshots.load_settings(path, required=False).problems
    assert len(problems) == 1
    assert str(path) in problems[0]


@pytest.mark.parametrize(
    ("url", "sound"),
    [
        ("https://api.example.org/v1/", True),
        ("http://127.0.0.1:8080/x", True),
        ("http://localhost:1/x", True),
        ("http://[::1]:8080", True),
        ("http://127.0.0.1.example.org/", False),
        ("http://api.example.org", False),
        ("https://user@api.example.org", False),
        ("https://api.example.org/?a=b", False),
        ("file:///etc/passwd", False),
        ("https://api.example.org:99999", False),
        ("api.example.org", False),
    ],
)
def test_an_api_is_reached_over_https_or_on_this_machine(
    tmp_path: Path, url: str, sound: bool
) -> None:
    assert (problems_of(tmp_path, f"[API]\nhetzner_url = {url}\n") == []) is sound


def test_credentials_come_from_environment_and_files_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOT", TOKEN)
    (tmp_path / "hook").write_text("https://hooks.example.org/abc\n")
    settings = settings_of(
        tmp_path, "[TELEGRAM]\nbot_token = env:BOT\n[WEBHOOK]\nenabled=true\nurl = file:hook\n"
    )
    assert settings.problems == ()
    assert settings.telegram.bot_token == TOKEN
    assert settings.webhook.url == "https://hooks.example.org/abc"
    problems = problems_of(
        tmp_path, "[TELEGRAM]\nbot_token = env:NOPE\n[WEBHOOK]\nurl = file:nope\n"
    )
    assert problems == [
        "line 2: [TELEGRAM] 'bot_token': the environment variable 'NOPE' is not set",
        f"line 4: [WEBHOOK] 'url': cannot read '{tmp_path / 'nope'}': No such file or directory",
    ]


def test_an_open_file_with_credentials_gets_a_warning_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "snapshots.config"
    path.write_text("[TELEGRAM]\nbot_token = 123456:abcdef\n")
    path.chmod(0o644)
    assert snapshots.load_settings(path, required=True).warnings == (
        f"{path}: holds credentials and can be read by others (chmod 600 {path})",
    )
    path.write_text("[TELEGRAM]\nbot_token = env:HOME\n")
    assert snapshots.load_settings(path, required=True).warnings == ()


def test_a_password_never_travels_in_the_clear(tmp_path: Path) -> None:
    text = "[SMTP]\nserver = mail.example.org\nsecurity = none\nuser = u\npassword = p\n"
    assert problems_of(tmp_path, text) == [
        "line 3: [SMTP] 'security': a password would travel in the clear (use starttls or tls)"
    ]
    assert problems_of(tmp_path, text.replace("mail.example.org", "127.0.0.1")) == []


def test_a_short_timeout_gets_a_hint(tmp_path: Path) -> None:
    (note,) = settings_of(tmp_path, "[TIMING]\nsnapshot_creation_timeout = 900\n").notes
    assert "900 s is short" in note


def test_a_webhook_in_the_clear_gets_a_note_unless_it_stays_on_this_machine(tmp_path: Path) -> None:
    text = "[WEBHOOK]\nenabled = true\nurl = http://n8n.example.org:5678/webhook/x\n"
    assert settings_of(tmp_path, text).notes == (f"[WEBHOOK] url: {snapshots.IN_THE_CLEAR}",)
    assert settings_of(tmp_path, text.replace("n8n.example.org", "127.0.0.1")).notes == ()


# --- server files ---

GOOD: dict[str, Any] = {
    "id": 123,
    "name": "web",
    "api_token": TOKEN,
    "retain_last_snapshots": 3,
}


def write(
    tmp_path: Path, content: Any, name: str = "web.json", top: str = "hetzner_cloud_server"
) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir(exist_ok=True)
    path = folder / name
    if isinstance(content, dict):
        content = json.dumps({top: content})
    if isinstance(content, str):
        content = content.encode()
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def load(tmp_path: Path, content: Any, top: str = "hetzner_cloud_server") -> snapshots.Server:
    settings = snapshots.Settings(base=tmp_path)
    return snapshots.load_server(write(tmp_path, content, top=top), settings)[0]


def refusals(tmp_path: Path, content: Any, top: str = "hetzner_cloud_server") -> list[str]:
    with pytest.raises(snapshots.ConfigError) as caught:
        load(tmp_path, content, top)
    assert TOKEN not in str(caught.value)
    return list(caught.value.problems)


def test_a_good_server_file_becomes_a_server(tmp_path: Path) -> None:
    server = load(tmp_path, {**GOOD, "provider": "hetzner"})
    assert (server.provider, server.id, server.name) == ("hetzner", "123", "web")
    assert server.policy == snapshots.Policy(3)
    assert server.credentials == (TOKEN,)
    assert TOKEN not in repr(server)


@pytest.mark.parametrize("text", [f" {TOKEN} ", f"{TOKEN}\n", f"\t{TOKEN}\r\n"])
def test_white_space_around_a_credential_is_no_part_of_it(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, {**GOOD, "api_token": text}).credentials == (TOKEN,)
    line = text.rstrip("\r\n")
    settings = settings_of(tmp_path, f"[TELEGRAM]\nbot_token ={line}\n")
    assert settings.telegram.bot_token == TOKEN


@pytest.mark.parametrize(
    ("value", "retain"),
    [(1, 1), ("3", 3), (" 12 ", 12), ("all", None), ("ALL", None), (100000, 100000)],
)
def test_retention_is_a_count_digits_or_all(tmp_path: Path, value: Any, retain: int | None) -> None:
    assert load(tmp_path, {**GOOD, "retain_last_snapshots": value}).policy.last == retain


@pytest.mark.parametrize(
    "value",
    ["0", 0, -1, "-1", True, False, 3.0, 3.5, "3.5", "three", [3], {}, 10**9, 10**30, "٣"],
)
def test_a_retention_that_is_none_is_refused(tmp_path: Path, value: Any) -> None:
    assert refusals(tmp_path, {**GOOD, "retain_last_snapshots": value}) == [
        'retain_last_snapshots: must be a whole number from 1 to 100000, or "all"'
    ]


@pytest.mark.parametrize("text", ["1e400", "NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path, text: str) -> None:
    content = json.dumps({"hetzner_cloud_server": GOOD}).replace(": 3}", f": {text}}}")
    assert refusals(tmp_path, content)


@pytest.mark.parametrize(
    "value",
    ["../droplets/1", "1?x", "1#", "", 0, -5, 1.0, True, None, "12a", "1" * 40, 10**30, "１２"],
)
def test_an_id_that_is_no_number_is_refused(tmp_path: Path, value: Any) -> None:
    (problem,) = refusals(tmp_path, {**GOOD, "id": value})
    assert problem.startswith("id: ")


@pytest.mark.parametrize(
    "value", ["", "  ", None, 5, [], "a\nb", "a\x1b[2Jb", "x" * 201, "a\u202eb"]
)
def test_a_name_is_one_line_of_text(tmp_path: Path, value: Any) -> None:
    (problem,) = refusals(tmp_path, {**GOOD, "name": value})
    assert problem.startswith("name: ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff\xfe", "not UTF-8 (byte 0)"),
        ("", "not valid JSON: line 1, column 1: Expecting value"),
        ('{"hetzner_cloud_server": {"id": 1,}}', "not valid JSON: line 1, column 3"),
        ("[]", "must be one object in braces"),
        ("null", "must be one object in braces"),
        (
            "{}",
            "must hold exactly one of digitalocean_droplet, hetzner_cloud_server, contabo_instance",
        ),
        ('{"hetzner_cloud_server": []}', "hetzner_cloud_server: must be an object in braces"),
        ('{"hetzner_cloud_server": {}, "digitalocean_droplet": {}}', "must hold exactly one of "),
        ('{"hetzner_cloud_servr": {}}', "must hold exactly one of "),
        ('{"hetzner_cloud_server": {"id": 1, "id": 2}}', "the key 'id' stands twice"),
        ("[" * 100_000, "not valid JSON: nested too deeply"),
        ('{"hetzner_cloud_server": {"id": 1e400}}', "not valid JSON: it holds a number beyond"),
    ],
)
def test_a_file_that_is_no_server_is_refused_with_the_place(
    tmp_path: Path, content: Any, problem: str
) -> None:
    assert refusals(tmp_path, content)[0].startswith(problem)


@pytest.mark.proves("W11.6")
@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity", "9" * 5000])
def test_a_payload_that_json_cannot_write_is_a_problem_of_its_line(
    tmp_path: Path, number: str
) -> None:
    text = f'[WEBHOOK]\npayload_success = {{"a": [{number}]}}\n'
    if number[0] == "9" and sys.version_info < (3, 11):  # there it is as good as any number
        assert problems_of(tmp_path, text) == []
        return
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith("line 2: [WEBHOOK] 'payload_success': ")
    assert len(problem) < 200


def test_every_problem_of_a_server_file_is_told_at_once(tmp_path: Path) -> None:
    content = {
        "provider": "digitalocean",
        "name": "web",
        "api_token": "your_hetzner_api_token_1",
        "retension": 3,
        "telegram": {"enabled": "true", "token": TOKEN},
        "webhook": [],
    }
    assert refusals(tmp_path, content) == [
        "provider: says 'digitalocean', but hetzner_cloud_server is for 'hetzner' (or leave it out)",
        "id: is missing",
        "retain_last_snapshots: is missing",
        "api_token: is missing, or still the sample's text",
        "telegram.enabled: must be true or false, without quotes",
        "telegram.token: unknown key, did you mean 'bot_token'?",
        "webhook: must be an object in braces",
        "retension: unknown key",
    ]


def test_contabo_needs_four_credentials(tmp_path: Path) -> None:
    content = {"id": "5", "name": "c", "retain_last_snapshots": 1, "client_id": "DE-1"}
    assert refusals(tmp_path, content, "contabo_instance") == [
        "client_secret: is missing",
        "api_user: is missing",
        "api_password: is missing",
    ]


def test_the_server_file_wins_over_the_global_settings_field_by_field(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        "[TELEGRAM]\nbot_token = 1:global\nchat_id = 5\nmessage_success = G\nmessage_failure = GF\n"
        "[WEBHOOK]\nenabled = true\nurl = https://global.example.org/h\n",
    )
    path = write(
        tmp_path,
        {
            **GOOD,
            "telegram": {"chat_id": -77, "message_success": "own", "message_failure": ""},
            "webhook": {"enabled": False},
        },
    )
    (section,) = snapshots.load_server(path, settings)[0].destinations
    assert isinstance(section, snapshots.TelegramSection)
    assert (section.bot_token, section.chat_id) == ("1:global", "-77")
    assert (section.message_success, section.message_failure) == ("own", "GF")


def test_a_channel_without_credentials_is_one_clear_line_and_no_failure(tmp_path: Path) -> None:
    path = write(tmp_path, {**GOOD, "telegram": {"enabled": True, "chat_id": "your_chat_id"}})
    server, warnings = snapshots.load_server(path, snapshots.Settings(base=tmp_path))
    assert (server.destinations, warnings) == ((), ())
    assert server.notes == ("no Telegram notification: bot_token and chat_id not set",)


@pytest.mark.parametrize(
    ("section", "missing"),
    [
        ("[TELEGRAM]\nbot_token = 1:abcdefghij\n", "Telegram notification: chat_id"),
        ("[WEBHOOK]\nenabled = true\n", "webhook notification: url"),
        (
            "[SMTP]\nenabled = true\nserver = mail.example.org\n",
            "e-mail notification: from_email and to_emails",
        ),
        (
            "[SMTP]\nenabled = true\nserver = mail.example.org\nfrom_email = a@example.org\n"
            "to_emails = b@example.org\nuser = me\npassword = your_password\n",
            "e-mail notification: password",
        ),
    ],
)
def test_a_channel_that_somebody_set_up_by_halves_is_told_on_stderr(
    project: Project, section: str, missing: str
) -> None:
    """Once, however many servers there are, and before anything is done; in a dry run as well."""
    project.server("hetzner", 11, "web")
    project.server("hetzner", 12, "db")
    named = re.findall(r"\[(\w+)\]\n(.*)", section, re.DOTALL)
    for name, keys in named:
        project.config[name] = dict(line.split(" = ") for line in keys.splitlines())
    for flags in ([], ["-n"]):
        result = project.run(*flags)
        assert result.code == 0
        assert f"snapshots: warning: no {missing} not set (for " in result.err
        assert result.err.count(missing) == 1


def test_a_bad_server_file_is_told_over_its_own_channels_where_they_can_be_read(
    project: Project,
) -> None:
    """As in the files of those who keep all their settings there."""
    token = project.token("bot").replace("/", "").replace("%", "").replace("+", "")
    project.cloud.add_bot(token, [7, 8])
    own = {"enabled": True, "bot_token": token, "chat_id": 7}
    project.server("hetzner", 11, "web", file={"retension": 3, "telegram": own})
    broken = {"retension": 3, "telegram": {**own, "chat_id": "a room"}}
    project.server("hetzner", 12, "db", file=broken)
    twin = {**own, "chat_id": 8}
    for number in (1, 2):
        content = {"id": 13, "name": f"twin{number}", "retain_last_snapshots": 1}
        content["api_token"] = project.account("hetzner").token
        top = {"hetzner_cloud_server": {**content, "telegram": twin}}
        project.write(f"twin{number}.json", top)
    assert project.run().code == 1
    told = [(m.chat_id, m.text) for m in project.cloud.telegram_messages]
    assert sorted(chat for chat, _ in told) == ["7", "8", "8"]
    assert all("Snapshot Failed" in text for _, text in told)


def test_only_what_the_samples_hold_is_a_placeholder(tmp_path: Path) -> None:
    assert load(tmp_path, {**GOOD, "name": "your-shop"}).name == "your-shop"
    assert refusals(tmp_path, {**GOOD, "name": "your-hetzner-cloud-server-name-1"}) == [
        "name: is missing, or still the sample's text"
    ]
    settings = settings_of(
        tmp_path, "[TELEGRAM]\nmessage_success = your server {server_name} is safe\n"
    )
    assert settings.telegram.message_success == "your server {server_name} is safe"


def test_an_empty_text_in_a_server_file_means_not_set(tmp_path: Path) -> None:
    content = {
        **GOOD,
        "telegram": {"bot_token": "", "chat_id": ""},
        "webhook": {"url": ""},
        "smtp": {"to_emails": ""},
    }
    assert load(tmp_path, content).destinations == ()


def test_any_credential_in_an_open_server_file_gets_the_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API", TOKEN)
    content = {
        **GOOD,
        "api_token": "env:API",
        "webhook": {"url": "https://h.example.org/secret-path"},
    }
    path = write(tmp_path, content)
    path.chmod(0o640)
    settings = snapshots.Settings(base=tmp_path)
    assert "chmod 600" in snapshots.load_server(path, settings)[1][0]
    path = write(tmp_path, {**GOOD, "api_token": "env:API"})
    path.chmod(0o640)
    assert snapshots.load_server(path, settings)[1] == ()


# --- which files ---


def names_of(entries: list[Any]) -> list[tuple[str, str]]:
    return [(type(entry).__name__, entry.name) for entry in entries]


def test_all_json_files_are_taken_in_order_and_mac_droppings_are_not(tmp_path: Path) -> None:
    for index, name in enumerate(["b.json", "a.json", "._a.json", "c.json.sample", "d.txt"]):
        token = f"token-of-{name}"
        write(tmp_path, {**GOOD, "id": index + 1, "name": name[0], "api_token": token}, name)
    entries, _ = snapshots.load_servers([], snapshots.Settings(base=tmp_path))
    assert names_of(entries) == [("Server", "a"), ("Server", "b")]


def test_a_named_file_is_a_path_or_a_name_in_configs_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    settings = snapshots.Settings(base=tmp_path)
    for names in (["web.json"], ["configs/web.json"], [str(path)], ["web.json", str(path)]):
        assert names_of(snapshots.load_servers(names, settings)[0]) == [("Server", "web")]


def test_a_missing_or_bad_file_costs_only_its_own_server_its_turn(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    write(tmp_path, "{", "bad.json")
    settings = snapshots.Settings(base=tmp_path)
    entries, _ = snapshots.load_servers(["web.json", "bad.json", "nope.json"], settings)
    assert names_of(entries) == [("Server", "web"), ("BadServer", "bad"), ("BadServer", "nope")]
    assert entries[2].error == f"{tmp_path / 'configs/nope.json'}: No such file or directory"  # type: ignore[union-attr]


def test_two_files_for_one_server_are_both_refused(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "a.json")
    write(tmp_path, {**GOOD, "id": "123", "retain_last_snapshots": 9}, "b.json")
    write(tmp_path, {**GOOD, "id": 124, "name": "web"}, "c.json")
    entries, _ = snapshots.load_servers([], snapshots.Settings(base=tmp_path))
    assert [type(entry).__name__ for entry in entries] == ["BadServer", "BadServer", "Server"]
    assert "are for the same server 123 (keep one of them)" in entries[0].error  # type: ignore[union-attr]


def test_no_server_at_all_says_what_to_copy_where(tmp_path: Path) -> None:
    settings = snapshots.Settings(base=tmp_path)
    with pytest.raises(snapshots.ConfigError, match=r"copy a configs/\*\.json\.sample"):
        snapshots.load_servers([], settings)
    (tmp_path / "configs").mkdir()
    with pytest.raises(snapshots.ConfigError, match="holds no server file"):
        snapshots.load_servers([], settings)


# --- whole runs: what one bad file may cost ---


@pytest.mark.parametrize("make", ODD_FILES)
def test_a_configuration_that_cannot_be_used_is_one_line_and_exit_1(
    tmp_path: Path, make: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "snapshots.config"
    ODD_FILES[make](path)
    assert snapshots.main(["--config", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"snapshots: {path}: ")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "logs").exists()


def test_an_empty_configuration_is_as_good_as_none(tmp_path: Path) -> None:
    assert settings_of(tmp_path, "") == snapshots.Settings(base=tmp_path)


BAD = {"id": 99, "name": "bad", "retain_last_snapshots": 1, "api_token": "your turn comes never"}
BAD_FILES: dict[str, Any] = {
    **{f"a file that is {make}": ODD_FILES[make] for make in ODD_FILES if make != "missing"},
    "trailing comma": '{"hetzner_cloud_server": {"id": 99,}}',
    "list": "[]",
    "null": "null",
    "empty": "",
    "key twice": '{"hetzner_cloud_server": {"id": 98, "id": 99}}',
    "deep": '{"hetzner_cloud_server": ' * 100_000,
    "no such provider": {"linode_instance": BAD},
    "another provider inside": {"hetzner_cloud_server": {**BAD, "provider": "contabo"}},
    "typo in a key": {"hetzner_cloud_server": {**BAD, "retension": 3}},
    **{
        f"retention {text}": json.dumps({"hetzner_cloud_server": BAD}).replace(
            '"retain_last_snapshots": 1', f'"retain_last_snapshots": {text}'
        )
        for text in ("0", "-1", "true", "3.5", "null", "1e400", "NaN", "1000000000", "[]")
    },
    "no retention": {
        "hetzner_cloud_server": {k: v for k, v in BAD.items() if k != "retain_last_snapshots"}
    },
    **{
        f"id {value}": {"hetzner_cloud_server": {**BAD, "id": value}}
        for value in ("../servers/99", "99?x", "99#", "", -99, 99.0, True, 10**30)
    },
    **{
        f"token {text!r}": {"hetzner_cloud_server": {**BAD, "api_token": text}}
        for text in (f"{TOKEN} ; mine", f"'{TOKEN}'", f"{TOKEN}\n{TOKEN}", f"ü{TOKEN}", "  ")
    },
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_server_file_costs_its_own_server_alone(project: Project, what: str) -> None:
    """Nothing is asked or done about its server; the others get all that they should."""
    others = [project.server("hetzner", 11, "good"), project.server("digitalocean", 12, "fine")]
    for server in others:
        project.history(server, 3)
    bad = project.cloud.add_server(project.account("hetzner"), 99, "bad")
    old = project.history(bad, 3)
    content = BAD_FILES[what]
    path = project.folder / "configs" / "bad.json"
    if callable(content):
        content(path)
    else:
        project.write("bad.json", content)
    result = project.run()
    assert result.code == 2
    assert result.out == "SUMMARY: 2 succeeded, 1 failed out of 3 total\n"
    assert result.err.startswith(f"snapshots: bad: {path}: ")
    assert result.err.count("\n") == 1
    assert TOKEN not in result.err + result.log
    assert {(line[3], line[4]) for line in result.final} == {
        ("bad", "FAILURE"),
        ("good", "SUCCESS"),
        ("fine", "SUCCESS"),
    }
    assert project.own(bad) == old
    assert all(len(project.own(server)) == 2 for server in others)
    assert not any("99" in request.path for request in project.cloud.journal)


def test_two_files_for_one_server_protect_nothing_and_break_nothing(project: Project) -> None:
    twice = project.server("hetzner", 11, "web", retain=1)
    old = project.history(twice, 3)
    copy = json.loads((project.folder / "configs" / "hetzner-11.json").read_text())
    copy["hetzner_cloud_server"]["retain_last_snapshots"] = 9
    project.write("copy.json", copy)
    namesake = project.server("digitalocean", 11, "web", retain=2)  # the same id elsewhere
    project.history(namesake, 3)
    result = project.run()
    assert result.code == 2
    assert result.out == "SUMMARY: 1 succeeded, 2 failed out of 3 total\n"
    assert result.err.count("are for the same server 11 (keep one of them)") == 2
    assert project.own(twice) == old
    assert len(project.own(namesake)) == 2


def test_servers_of_one_name_are_told_apart_by_id(project: Project) -> None:
    few = project.server("hetzner", 11, "web", retain=1)
    many = project.server("hetzner", 12, "web", retain=4)
    old = {server.id: project.history(server, 4) for server in (few, many)}
    assert project.run().code == 0
    assert len(project.own(few)) == 1
    assert project.own(many)[:3] == old["12"][1:]
    assert len(project.own(many)) == 4


def test_files_that_others_can_read_are_warned_about_and_used(project: Project) -> None:
    server = project.server("hetzner", 11, "web")
    path = project.folder / "configs" / "hetzner-11.json"
    path.chmod(0o644)
    result = project.run()
    assert result.code == 0
    told = f"warning: {path}: holds credentials and can be read by others (chmod 600 {path})"
    assert result.err == f"snapshots: {told}\n"
    assert told.partition(": ")[2] in result.lines
    assert len(project.own(server)) == 1


def test_a_run_goes_by_what_it_has_read_at_its_beginning(project: Project) -> None:
    """Files that change under way are for the next run."""
    servers = [
        project.server("hetzner", 11, "web", retain=3, duration_seconds=300),
        project.server("hetzner", 12, "db", retain=3, duration_seconds=300),
    ]
    for server in servers:
        project.history(server, 5)
    project.config["TIMING"]["max_parallel"] = 1

    def change(content: Any) -> Any:
        (project.folder / "snapshots.config").write_text("[API]\nhetzner_url = nowhere\n")
        for path in (project.folder / "configs").iterdir():
            path.unlink()
        project.write("hetzner-12.json", {"hetzner_cloud_server": {**BAD, "id": 12}})
        return content

    project.cloud.fault("POST /hz/servers/{id}/actions/create_image", fake.edit(change))
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert [len(project.own(server)) for server in servers] == [3, 3]


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.org/v1",
        "http://127.0.0.1.example.org/v1",
        "https://me:{token}@127.0.0.1/v1",
        "https://127.0.0.1/v1?key={token}",
        "ftp://127.0.0.1/v1",
        "127.0.0.1/v1",
        "https://",
    ],
)
def test_with_a_wrong_address_no_token_is_sent_anywhere(project: Project, url: str) -> None:
    project.server("hetzner", 11)
    project.server("digitalocean", 12)
    project.config["API"]["hetzner_url"] = url.replace("{token}", project.token("url"))
    result = project.run()
    assert (result.code, result.out) == (1, "")
    assert "[API] 'hetzner_url': " in result.err
    assert project.cloud.journal == []


def test_an_address_may_end_with_a_slash(project: Project) -> None:
    for number, provider in enumerate(snapshots.PROVIDERS):
        project.server(provider, 11 + number)
    for key, url in project.config["API"].items():
        project.config["API"][key] = url + "/"
    assert project.run().code == 0
    assert len(project.cloud.created) == 3


# --- fuzz ---

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["id", "name", "api_token", "retain_last_snapshots", "provider", "telegram", "webhook", "smtp"]
)


@given(st.dictionaries(KEYS | st.text(max_size=8), JSON_VALUES, max_size=8))
def test_no_server_file_can_raise_anything_but_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    try:
        load(folder, {**GOOD, **content})
    except snapshots.ConfigError as error:
        assert error.problems
        assert all(snapshots.one_line(p) == p for p in error.problems)


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_no_ini_file_can_raise_anything(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.config"
    path.write_bytes(
        content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    )
    settings = snapshots.load_settings(path, required=True)
    assert all(problem.startswith(str(path)) for problem in settings.problems)


def test_a_configuration_that_is_a_link_to_nowhere_is_not_taken_for_none(tmp_path: Path) -> None:
    """Whoever has made the link wants what it led to; the defaults would tell nobody."""
    path = tmp_path / "snapshots.config"
    path.symlink_to(tmp_path / "nowhere")
    assert snapshots.load_settings(path, required=False).problems


@pytest.mark.parametrize("text", ["[TIMING]\nx\n  = 0\n", "[TIMING]\nx\n\r= 0\n", "[API]\na\n b\n"])
def test_a_line_that_goes_on_after_nothing_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "snapshots.config"
    path.write_bytes(text.encode())
    (problem,) = snapshots.load_settings(path, required=True).problems
    assert str(path) in problem
    assert "3" in problem.replace(str(path), "")
