"""Configuration: good, bad, and every problem at once."""

from __future__ import annotations

import configparser
import grp
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fakes as fake
import pytest
from conftest import Project, examples
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


@pytest.mark.proves("C3")
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


@pytest.mark.proves("C2")
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
            "line 2: [DIRECTORIES] 'logs_dir': continues in an indented line"
            " (a key must start in column 1)",
        ),
        (
            "[SMTP]\nserver = mail\n port = 465\n",
            "line 2: [SMTP] 'server': continues in an indented line (a key must start in column 1)",
        ),
        (
            '[DIRECTORIES]\nlogs_dir = "logs"\n',
            "line 2: [DIRECTORIES] 'logs_dir': is in quotes (write it without them)",
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
            "line 2: [FILES] 'lock_file': log, lock and history must be three files",
        ),
        (
            "[FILES]\nlog_file = ./snapshots.lock\n",
            "line 2: [FILES] 'log_file': log, lock and history must be three files",
        ),
        (
            "[FILES]\nlock_file = history.db\n",
            "line 2: [FILES] 'lock_file': log, lock and history must be three files",
        ),
        (
            "[FILES]\nlog_file = snapshots.log\nlock_file = history.db\n",
            "line 3: [FILES] 'lock_file': log, lock and history must be three files",
        ),
        (
            "[FILES]\nlog_file = a\nlock_file = b\n[HISTORY]\nfile = ./b\n",
            "line 5: [HISTORY] 'file': log, lock and history must be three files",
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


@pytest.mark.proves("C2")
def test_every_problem_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
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
        "line 3: [TIMING] 'http_timeout': must be a number of seconds from 1 to 600",
        "line 4: [TIMING] 'http_timeout': duplicate key (first on line 3)",
        "line 7: [RETENTION] 'max_deletes_per_run': must be a whole number from 1 to 100000",
        "line 8: [TELEGRM]: unknown section, did you mean 'TELEGRAM'?",
        "line 11: [WEBHOOK] 'url': must be a URL that starts with https://",
        "line 12: [WEBHOOK] 'payload_success': must be an object in braces",
        "line 13: [WEBHOOK] 'payload_failure': not valid JSON: line 1, column 2:"
        " Expecting property name enclosed in double quotes"
        " (often a comma too many or too few, a comment, or single quotes)",
        "line 15: [API] 'hetzner_url': must start with https:// (a token would travel in the clear)",
        "line 16: [TIMING]: duplicate section (first on line 1)",
        "line 17: [TIMING] 'run_timeout': must be a number of seconds from 1 to 604800",
        "line 19: [SMTP] 'enabled': must be true or false, without quotes",
        "line 20: [SMTP] 'to_emails': must hold mail addresses such as ops@example.org,"
        " with commas between",
    ]


@pytest.mark.proves("C2", "C4")
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


@pytest.mark.proves("C1")
@pytest.mark.parametrize("make", sorted(set(ODD_FILES) - {"missing", "a link to nowhere"}))
def test_what_is_no_small_text_file_is_refused_without_hanging(tmp_path: Path, make: str) -> None:
    path = tmp_path / "snapshots.config"
    ODD_FILES[make](path)
    problems = snapshots.load_settings(path, required=False).problems
    assert len(problems) == 1
    assert str(path) in problems[0]


@pytest.mark.proves("C11")
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


@pytest.mark.proves("C9")
def test_an_open_file_with_credentials_gets_a_warning_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "snapshots.config"
    path.write_text("[TELEGRAM]\nbot_token = 123456:abcdef\n")
    path.chmod(0o644)
    assert remarks_of(snapshots.load_settings(path, required=True).remarks) == [
        f"{path}: holds credentials and can be read by others (chmod 600 {path})"
    ]
    path.write_text("[TELEGRAM]\nbot_token = env:HOME\n")
    assert snapshots.load_settings(path, required=True).remarks == ()


def test_a_password_never_travels_in_the_clear(tmp_path: Path) -> None:
    text = "[SMTP]\nserver = mail.example.org\nsecurity = none\nuser = u\npassword = p\n"
    assert problems_of(tmp_path, text) == [
        "line 3: [SMTP] 'security': a password would travel in the clear (use starttls or tls)"
    ]
    assert problems_of(tmp_path, text.replace("mail.example.org", "127.0.0.1")) == []


def test_a_short_timeout_gets_a_hint(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "[TIMING]\nsnapshot_creation_timeout = 900\n")
    (note,) = remarks_of(settings.remarks, snapshots.Level.NOTE)
    assert ": line 2: [TIMING] 'snapshot_creation_timeout': 900 s is short: " in note


def test_a_webhook_in_the_clear_gets_a_note_unless_it_stays_on_this_machine(tmp_path: Path) -> None:
    text = "[WEBHOOK]\nenabled = true\nurl = http://n8n.example.org:5678/webhook/x\n"
    for url in (text, text.replace("http://", "HTTP://")):
        assert remarks_of(settings_of(tmp_path, url).remarks, snapshots.Level.NOTE) == [
            "[WEBHOOK] url: is http://: what is sent there can be read on the way"
        ]
    assert settings_of(tmp_path, text.replace("n8n.example.org", "127.0.0.1")).remarks == ()


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
    server = load_any(tmp_path, content, top)
    assert isinstance(server, snapshots.Server), server.error
    return server


def load_any(
    tmp_path: Path, content: Any, top: str = "hetzner_cloud_server"
) -> snapshots.Server | snapshots.BadServer:
    settings = snapshots.Settings(base=tmp_path)
    return snapshots.load_server(write(tmp_path, content, top=top), settings)[0]


def refusals(tmp_path: Path, content: Any, top: str = "hetzner_cloud_server") -> list[str]:
    server = load_any(tmp_path, content, top)
    assert isinstance(server, snapshots.BadServer)
    assert TOKEN not in server.error
    prefix = f"{tmp_path / 'configs' / 'web.json'}: "
    assert server.error.startswith(prefix)
    return server.error[len(prefix) :].split("; ")


def remarks_of(
    remarks: Iterable[snapshots.Remark], level: snapshots.Level = snapshots.Level.WARNING
) -> list[str]:
    return snapshots.remark_lines(remarks, level)


def test_a_good_server_file_becomes_a_server(tmp_path: Path) -> None:
    server = load(tmp_path, {**GOOD, "provider": "hetzner"})
    assert (server.provider, server.id, server.name) == ("hetzner", "123", "web")
    assert server.policy == snapshots.Policy(3)
    assert server.credentials == (TOKEN,)
    assert TOKEN not in repr(server)


@pytest.mark.proves("C4")
@pytest.mark.parametrize("text", [f" {TOKEN} ", f"{TOKEN}\n", f"\t{TOKEN}\r\n"])
def test_white_space_around_a_credential_is_no_part_of_it(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, {**GOOD, "api_token": text}).credentials == (TOKEN,)
    line = text.rstrip("\r\n")
    settings = settings_of(tmp_path, f"[TELEGRAM]\nbot_token ={line}\n")
    assert settings.telegram.bot_token == TOKEN


@pytest.mark.proves("C5")
@pytest.mark.parametrize(
    ("value", "retain"),
    [(1, 1), ("3", 3), (" 12 ", 12), ("all", None), ("ALL", None), (100000, 100000)],
)
def test_retention_is_a_count_digits_or_all(tmp_path: Path, value: Any, retain: int | None) -> None:
    assert load(tmp_path, {**GOOD, "retain_last_snapshots": value}).policy.last == retain


@pytest.mark.proves("I7", "C5")
@pytest.mark.parametrize(
    "value",
    ["0", 0, -1, "-1", True, False, 3.0, 3.5, "3.5", "three", [3], {}, 10**9, 10**30, "٣"],
)
def test_a_retention_that_is_none_is_refused(tmp_path: Path, value: Any) -> None:
    assert refusals(tmp_path, {**GOOD, "retain_last_snapshots": value}) == [
        'retain_last_snapshots: must be a whole number from 1 to 100000, or "all"'
    ]


@pytest.mark.proves("C5")
@pytest.mark.parametrize("text", ["1e400", "NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path, text: str) -> None:
    content = json.dumps({"hetzner_cloud_server": GOOD}).replace(": 3}", f": {text}}}")
    assert refusals(tmp_path, content)


@pytest.mark.proves("C8")
@pytest.mark.parametrize(
    "value",
    ["../droplets/1", "1?x", "1#", "", 0, -5, 1.0, True, None, "12a", "1" * 40, 10**30, "１２"],
)
def test_an_id_that_is_no_number_is_refused(tmp_path: Path, value: Any) -> None:
    (problem,) = refusals(tmp_path, {**GOOD, "id": value})
    assert problem.startswith("id: ")


@pytest.mark.proves("W6")
@pytest.mark.parametrize(
    "value", ["", "  ", None, 5, [], "a\nb", "a\x1b[2Jb", "x" * 201, "a\u202eb"]
)
def test_a_name_is_one_line_of_text(tmp_path: Path, value: Any) -> None:
    (problem,) = refusals(tmp_path, {**GOOD, "name": value})
    assert problem.startswith("name: ")


@pytest.mark.proves("C6")
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff\xfe", "not UTF-8 (byte 0)"),
        ("", "not valid JSON: line 1, column 1: Expecting value (often a comma too many"),
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
        ('{"hetzner_cloud_server": {"id": 1, "id": 2}}', "duplicate key 'id'"),
        ("[" * 100_000, "not valid JSON: nested too deeply"),
        ('{"hetzner_cloud_server": {"id": 1e400}}', "not valid JSON: holds NaN, Infinity or a "),
        ('{"hetzner_cloud_server": {"id": NaN}}', "not valid JSON: holds NaN, Infinity or a "),
    ],
)
def test_a_file_that_is_no_server_is_refused_with_the_place(
    tmp_path: Path, content: Any, problem: str
) -> None:
    assert refusals(tmp_path, content)[0].startswith(problem)


@pytest.mark.proves("wild-11.6")
@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity", "9" * 5000])
def test_a_payload_that_json_cannot_write_is_a_problem_of_its_line(
    tmp_path: Path, number: str
) -> None:
    text = f'[WEBHOOK]\npayload_success = {{"a": [{number}]}}\n'
    if number[0] == "9" and not hasattr(sys, "set_int_max_str_digits"):  # as good as any number
        assert problems_of(tmp_path, text) == []
        return
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith("line 2: [WEBHOOK] 'payload_success': ")
    assert len(problem) < 200


@pytest.mark.proves("C6")
def test_every_problem_of_a_server_file_is_reported_at_once(tmp_path: Path) -> None:
    content = {
        "provider": "digitalocean",
        "name": "web",
        "api_token": "your_hetzner_api_token_1",
        "retension": 3,
        "telegram": {"enabled": "true", "token": TOKEN},
        "webhook": [],
    }
    assert refusals(tmp_path, content) == [
        "provider: must be hetzner",
        "id: is missing",
        "retain_last_snapshots: is missing",
        "api_token: is missing, or still the sample's text",
        "webhook: must be an object in braces",
        "retension: unknown key",
        "telegram.enabled: must be true or false, without quotes",
        "telegram.token: unknown key, did you mean 'bot_token'?",
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
    server, remarks = snapshots.load_server(path, snapshots.Settings(base=tmp_path))
    assert server.destinations == ()
    assert remarks_of(remarks) == []
    assert remarks_of(remarks, snapshots.Level.NOTE) == [
        "no Telegram notification: bot_token and chat_id not set (for web)"
    ]


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
def test_a_channel_that_somebody_set_up_by_halves_is_reported_on_stderr(
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


def test_a_bad_server_file_is_reported_over_its_own_channels_where_they_can_be_read(
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


@pytest.mark.proves("C9")
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
    path.chmod(0o644)
    settings = snapshots.Settings(base=tmp_path)
    assert "chmod 600" in remarks_of(snapshots.load_server(path, settings)[1])[0]
    path = write(tmp_path, {**GOOD, "api_token": "env:API"})
    path.chmod(0o644)
    assert remarks_of(snapshots.load_server(path, settings)[1]) == []


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


@pytest.mark.parametrize("name", ["web", "wbe.json", "web.jsn", "webb"])
def test_a_name_that_is_nearly_a_files_gets_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    ((entry,), _) = snapshots.load_servers([name], snapshots.Settings(base=tmp_path))
    assert isinstance(entry, snapshots.BadServer)
    assert entry.error.endswith(": No such file or directory, did you mean 'web.json'?")


def test_a_link_that_leads_nowhere_is_not_suggested_for_itself(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    path.unlink()
    path.symlink_to("nowhere.json")
    ((entry,), _) = snapshots.load_servers([], snapshots.Settings(base=tmp_path))
    assert isinstance(entry, snapshots.BadServer)
    assert entry.error == f"{path}: No such file or directory"


@pytest.mark.proves("C7")
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


def test_servers_that_cannot_be_looked_for_are_not_to_be_made_anew(tmp_path: Path) -> None:
    """The directory is there: a network disk has gone, say, or it is another user's."""
    (tmp_path / "configs").symlink_to("configs")
    with pytest.raises(snapshots.ConfigError) as caught:
        snapshots.load_servers([], snapshots.Settings(base=tmp_path))
    problem = f"{tmp_path / 'configs'}: cannot be listed: Too many levels of symbolic links"
    assert caught.value.problems == (problem,)


# --- whole runs: what one bad file may cost ---


@pytest.mark.proves("C1")
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


@pytest.mark.proves("C1")
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


@pytest.mark.proves("D-3", "C4", "C5", "C6", "C8")
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


@pytest.mark.proves("D-3", "C7")
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


@pytest.mark.proves("C7")
def test_servers_of_one_name_are_distinguished_by_id(project: Project) -> None:
    few = project.server("hetzner", 11, "web", retain=1)
    many = project.server("hetzner", 12, "web", retain=4)
    old = {server.id: project.history(server, 4) for server in (few, many)}
    assert project.run().code == 0
    assert len(project.own(few)) == 1
    assert project.own(many)[:3] == old["12"][1:]
    assert len(project.own(many)) == 4


@pytest.mark.proves("D-4", "C9")
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


@pytest.mark.proves("C10", "X8")
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


@pytest.mark.proves("I22", "C11")
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


@pytest.mark.proves("C11")
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
    server = load_any(folder, {**GOOD, **content})
    if isinstance(server, snapshots.BadServer):
        assert server.error
        assert snapshots.one_line(server.error) == server.error


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


@pytest.mark.parametrize(
    "text", ["[TIMING]\nx\n  = 0\n", "[TIMING]\nx\n\r= 0\n", "[API]\na\n b\n", "[API]\na\nb\n"]
)
def test_a_line_that_goes_on_after_nothing_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "snapshots.config"
    path.write_bytes(text.encode())
    first, second = snapshots.load_settings(path, required=True).problems
    section = text[: text.index("]") + 1]
    assert first == f"{path}: line 2: {section}: is not `key = value`"
    assert second == f"{path}: line 3: {section}: is not `key = value`"


@pytest.mark.proves("C4")
def test_a_line_that_is_no_key_is_not_shown_for_it_may_be_a_credential(tmp_path: Path) -> None:
    text = "[SMTP]\npassword\n    correcthorsebattery\nuser\n[TIMING]\nhttp_timeot\n"
    no_value = "has no value (give it one, or leave the key out)"
    assert problems_of(tmp_path, text) == [
        f"line 2: [SMTP] 'password': {no_value}",
        "line 3: [SMTP]: is not `key = value`",
        f"line 4: [SMTP] 'user': {no_value}",
        "line 6: [TIMING]: is not `key = value`, did you mean 'http_timeout'?",
    ]


# --- what is a line, a key and a value: as configparser has it ---

INI_PIECES = st.sampled_from(["[A]", "[a b]", "[]", "]", "k", "Key", "= v", "=", ":"]) | (
    st.sampled_from(["k = v", "k : v = w", "# c", "; c", "v # c", "ü", "İ", "%(x)s", "'q'", "  "])
    | st.sampled_from(" \t\r\x0b\x0c\x1c\x85\xa0\u2028")
)
INI_LINES = st.lists(INI_PIECES, max_size=5).map("".join)
INI_TEXTS = st.lists(INI_LINES, max_size=12).map("\n".join) | st.text(
    "[]=:#; \n\tkV\u2028", max_size=60
)


@pytest.mark.skipif(sys.version_info < (3, 10), reason="its names of sections held no bracket")
@pytest.mark.proves("wild-11.2")
@examples(800)
@given(INI_TEXTS)
def test_an_ini_text_is_read_as_configparser_reads_it(text: str) -> None:
    """Wherever both find it sound; that is, but for what configparser knows nothing of: lines. What
    stands behind a [SECTION] it leaves out without a word, which is a problem here."""
    parser = configparser.ConfigParser(interpolation=None, strict=True, default_section="\0")
    entries = snapshots.parse_ini(text)
    problems = [e for e in entries if e.problem and not e.problem.startswith("has text behind")]
    try:
        parser.read_string(text)
    except configparser.Error:
        assert any(entry.problem for entry in entries)
        return
    assert not problems
    found: dict[str, dict[str, str]] = {}
    for entry in entries:
        section = found.setdefault(entry.section, {})
        if entry.key:
            section[entry.key] = entry.value
    if sys.version_info >= (3, 10) or "]" not in "".join(re.findall(r"\[.*\]", text)):
        assert found == {name: dict(parser[name]) for name in parser.sections()}
    lines = text.split("\n")
    for entry in entries:
        assert (entry.key or f"[{entry.section}]") in lines[entry.line - 1].lower() or not entry.key


@pytest.mark.proves("wild-11.2")
@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            "[RETENTION]\n  max_deletes_per_run = 5\n  max_deletes_per_run = 500\n",
            ["line 3: [RETENTION] 'max_deletes_per_run': duplicate key (first on line 2)"],
        ),
        (
            "  [RETENTION]\n  max_deletes_per_run = 5\n[TIMING]\n\tMax_Parallel = 2\n\n\tmax_parallel: 3\n",
            ["line 6: [TIMING] 'max_parallel': duplicate key (first on line 4)"],
        ),
        (
            "    [TIMING]\n    max_parallel = 2\n  [RETENTION]\n  [TIMING]\n",
            ["line 4: [TIMING]: duplicate section (first on line 1)"],
        ),
        (
            "x = 1\ny\n[TIMING]\nmax_parallel = 0\n",
            [
                "line 1: is before the first [SECTION]",
                "line 4: [TIMING] 'max_parallel': must be a whole number from 1 to 1000",
            ],
        ),
    ],
)
def test_indented_keys_are_keys_where_configparser_takes_them_for_that(
    tmp_path: Path, text: str, problems: list[str]
) -> None:
    assert problems_of(tmp_path, text) == problems


@pytest.mark.proves("wild-12.2")
@pytest.mark.parametrize(
    "behind", [" max_deletes_per_run = 5", "max_deletes_per_run = 5", "]", " x"]
)
def test_what_stands_behind_a_section_is_not_left_out_without_a_word(
    tmp_path: Path, behind: str
) -> None:
    """Other programs, git among them, read a key there."""
    problem = "[RETENTION]: has text behind the ] (put that on a line of its own)"
    found = problems_of(tmp_path, f"[TIMING]\n[RETENTION]{behind}\nkeep_daily = 3\n")
    assert found == (["line 2: " + problem] if behind != "]" else found)
    assert found
    for comment in (" # so many", "; x = y", "  "):
        assert problems_of(tmp_path, f"[RETENTION]{comment}\nkeep_daily = 3\n") == []


@pytest.mark.proves("wild-10")
@pytest.mark.parametrize(
    "sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r"]
)
def test_what_unicode_takes_for_a_line_end_is_a_character_of_the_value(
    tmp_path: Path, sign: str
) -> None:
    path = tmp_path / "snapshots.config"
    text = f"[SMTP]\nmessage_success = one{sign}message_success = two{sign}[SMTP]{sign}x\n"
    path.write_bytes(text.encode())
    settings = snapshots.load_settings(path, required=True)
    assert settings.problems == ()
    assert settings.smtp.message_success == f"one{sign}message_success = two{sign}[SMTP]{sign}x"


# --- hidden files, and names that are nearly right ---


@pytest.mark.proves("wild-10")
@pytest.mark.parametrize(
    "name", [".#web.json", ".old.json", "._web.json", ".json", ".web.json.swp"]
)
def test_hidden_files_are_no_server_files(project: Project, name: str) -> None:
    project.server("hetzner", 11)
    (project.folder / "configs" / name).symlink_to("somebody@a-host.1234:567")
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert name not in result.log


@pytest.mark.proves("wild-10")
def test_a_hidden_file_that_is_named_is_used(project: Project) -> None:
    project.server("hetzner", 11)
    path = project.folder / "configs" / "hetzner-11.json"
    path.rename(path.with_name(".new.json"))
    assert project.run(".new.json").code == 0


@pytest.mark.proves("wild-10")
@pytest.mark.parametrize("name", ["WEB.JSON", "web.Json", "web.json.txt", "web.JSON.TXT"])
@pytest.mark.parametrize("flags", [[], ["-n"]])
def test_a_name_that_is_nearly_that_of_a_server_file_is_a_warning(
    project: Project, name: str, flags: list[str]
) -> None:
    project.server("hetzner", 11)
    path = project.write(name, "{}")
    result = project.run(*flags)
    assert result.code == 0
    assert result.err == (
        f"snapshots: warning: {path}: not used (the name of a server file ends in .json)\n"
    )


@pytest.mark.proves("wild-10")
def test_where_every_name_is_only_nearly_right_that_is_reported(project: Project) -> None:
    path = project.write("WEB.JSON", "{}")
    result = project.run()
    assert result.code == 1
    assert "holds no server file" in result.err
    assert f"{path}: not used" in result.err


@pytest.mark.proves("wild-10")
def test_a_directory_called_like_a_server_file_fails_alone_and_is_named(project: Project) -> None:
    """As docker makes one where the file to mount is missing."""
    project.server("hetzner", 11)
    path = project.folder / "configs" / "web.json"
    path.mkdir()
    result = project.run()
    assert result.code == 2
    assert result.err == (
        f"snapshots: web: {path}: is a directory"
        " (docker makes one where a file to mount is missing)\n"
    )
    assert len(project.cloud.created) == 1


@pytest.mark.proves("wild-10")
def test_whatever_else_is_there_is_one_line_of_the_log(project: Project) -> None:
    project.server("hetzner", 11)
    names = [
        "web.json~",
        "web.json.off",
        "web.json.bak",
        "notes.txt",
        "hetzner.json.sample",
        "Ü\nx",
    ]
    for name in names:
        project.write(name, "{}")
    (project.folder / "configs" / "old").mkdir()
    for number in range(20):
        project.write(f"{number}.txt", "")
    result = project.run()
    assert (result.code, result.err) == (0, "")
    (line,) = [line for line in result.lines if "no server files" in line]
    assert "0.txt" in line
    assert "and 16 more" in line
    assert "sample" not in line


# --- paths ---


@pytest.mark.proves("wild-10")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~", "{home}"),
        ("~/logs", "{home}/logs"),
        ("~root/x", "/root/x"),
        ("$HOME/logs", "{home}/logs"),
        ("${HOME}/logs", "{home}/logs"),
        ("a/$NAME/${NAME}x$NAME", "a/n/nxn"),
        ("$$NAME/$$", "$NAME/$"),
        ("a~b/~", "a~b/~"),
        ("/x/%NAME%", "/x/%NAME%"),
        ("$ODD", "$HOME"),  # a value is not looked at again
        ("$BYTES/x", "\udcff/x"),
    ],
)
def test_a_path_is_expanded_as_in_the_shell(
    monkeypatch: pytest.MonkeyPatch, path: str, expected: str
) -> None:
    monkeypatch.setenv("NAME", "n")
    monkeypatch.setenv("ODD", "$HOME")
    monkeypatch.setenv("BYTES", "\udcff")
    assert snapshots.expand(path) == expected.replace("{home}", os.environ["HOME"])


@pytest.mark.proves("wild-10")
@pytest.mark.parametrize("home", [None, "elsewhere", "/a/$NAME"])
def test_a_home_directory_is_known_or_asked_for(
    monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    import pwd

    monkeypatch.delenv("HOME")
    if home is not None:
        monkeypatch.setenv("HOME", home)
    if home == "elsewhere":
        with pytest.raises(ValueError, match="begins with ~, but that home directory is not known"):
            snapshots.expand("~/x")
    else:
        assert snapshots.expand("~/x") == f"{home or pwd.getpwuid(os.getuid()).pw_dir}/x"


PATH_KEYS = [
    ("DIRECTORIES", "configs_dir"),
    ("DIRECTORIES", "logs_dir"),
    ("FILES", "log_file"),
    ("FILES", "lock_file"),
]


@pytest.mark.proves("wild-10")
@pytest.mark.parametrize(("section", "key"), [*PATH_KEYS, ("SMTP", "password"), ("WEBHOOK", "url")])
@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("$NO_SUCH_NAME/x", "the environment variable 'NO_SUCH_NAME' is not set"),
        ("${NO_SUCH_NAME}", "the environment variable 'NO_SUCH_NAME' is not set"),
        ("$EMPTY/x", "the environment variable 'EMPTY' is not set"),
        ("a$", "holds a $ without a name (write $$ for a dollar sign)"),
        ("${x-y}/a", "holds a $ without a name (write $$ for a dollar sign)"),
        ("~nobody-of-that-name/x", "begins with ~, but that home directory is not known"),
    ],
)
def test_a_path_that_cannot_be_expanded_is_a_problem(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    section: str,
    key: str,
    path: str,
    problem: str,
) -> None:
    monkeypatch.setenv("EMPTY", "")
    text = (
        f"[{section}]\n{key} = {path if section in ('FILES', 'DIRECTORIES') else 'file:' + path}\n"
    )
    assert problems_of(tmp_path, text) == [f"line 2: [{section}] '{key}': {problem}"]


@pytest.mark.proves("wild-10", "wild-11.8")
@pytest.mark.parametrize(("section", "key"), PATH_KEYS)
@pytest.mark.parametrize("sign", ["\0", "\x1b", "\x7f", "\u2028"])
def test_a_path_with_a_control_character_is_a_problem(
    tmp_path: Path, section: str, key: str, sign: str
) -> None:
    assert problems_of(tmp_path, f"[{section}]\n{key} = a{sign}b\n") == [
        f"line 2: [{section}] '{key}': holds a control character or a line break"
    ]


@pytest.mark.proves("wild-10")
def test_every_path_may_begin_at_home(project: Project) -> None:
    home = Path(os.environ["HOME"])
    project.server("hetzner", 11)
    (project.folder / "configs").rename(home / "servers")
    path = home / "servers" / "hetzner-11.json"
    content = json.loads(path.read_text())
    (home / "token").write_text(content["hetzner_cloud_server"]["api_token"])
    content["hetzner_cloud_server"]["api_token"] = "file:~/token"
    path.write_text(json.dumps(content))
    project.config["DIRECTORIES"] = {"configs_dir": "~/servers", "logs_dir": "$HOME/logs"}
    assert project.run().code == 0
    assert "SUMMARY: 1 succeeded" in (home / "logs" / "snapshots.log").read_text()
    assert (home / "logs" / "snapshots.lock").exists()
    assert not (project.folder / "~").exists()
    for made in home.rglob("*"):  # the scan for leaks knows files of secrets by the project alone
        if made.name in ("token", "hetzner-11.json"):
            made.unlink()


# --- who may read a file ---


@pytest.mark.proves("wild-10")
@pytest.mark.parametrize("mode", [0o440, 0o640, 0o040])
@pytest.mark.parametrize(
    ("group", "own", "name", "level"),
    [
        (4711, [4711], "snapshots", snapshots.Level.NOTE),
        (4711, [5, 4711], None, snapshots.Level.NOTE),
        (4711, [5], "snapshots", snapshots.Level.WARNING),
        (100, [100], "users", snapshots.Level.WARNING),
        (100, [100], None, snapshots.Level.WARNING),
        (1000, [1000], "users", snapshots.Level.WARNING),
        (50, [50], "staff", snapshots.Level.WARNING),
    ],
)
def test_a_file_that_a_group_of_ones_own_can_read_is_a_line_of_the_log(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    group: int,
    own: list[int],
    name: str | None,
    level: snapshots.Level,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give a file to any group")

    def entry(gid: int) -> Any:
        if name is None:
            raise KeyError(gid)
        return grp.struct_group((name, "x", gid, []))

    monkeypatch.setattr(os, "getgroups", lambda: own[:-1])
    monkeypatch.setattr(os, "getegid", lambda: own[-1])
    monkeypatch.setattr(grp, "getgrgid", entry)
    path = write(tmp_path, GOOD)
    os.chown(path, 0, group)
    path.chmod(mode)
    settings = snapshots.Settings(base=tmp_path)
    remarks = [r for r in snapshots.load_server(path, settings)[1] if str(path) in r.text]
    assert [remark.level for remark in remarks] == [level]


@pytest.mark.proves("wild-10")
@pytest.mark.parametrize(
    ("mode", "level"),
    [
        (0o600, None),
        (0o400, None),
        (0o644, snapshots.Level.WARNING),
        (0o444, snapshots.Level.WARNING),
        (0o604, snapshots.Level.WARNING),
        (0o660, snapshots.Level.WARNING),
        (0o640, snapshots.Level.NOTE),
    ],
)
def test_who_may_read_or_change_the_configuration(
    project: Project, monkeypatch: pytest.MonkeyPatch, mode: int, level: snapshots.Level | None
) -> None:
    monkeypatch.setattr(os, "getgroups", lambda: [os.stat(project.folder).st_gid])
    path = project.folder / "snapshots.config"
    path.write_text("[TELEGRAM]\nbot_token = 123456:abcdef\n")
    path.chmod(mode)
    remarks = snapshots.load_settings(path, required=True).remarks
    assert [remark.level for remark in remarks] == ([level] if level else [])


# --- FILE ---


@pytest.mark.proves("wild-11.1")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 300 + ".json", "File name too long"),
        ("y/" * 3000, "File name too long"),
        ("a\0b.json", "embedded null"),
        ("configs", "is a directory"),
        ("/", "is a directory"),
        ("..", "is a directory"),
        ("loop.json", "Too many levels of symbolic links"),
        ("loop.json/web.json", " loop.json/web.json: Too many levels of symbolic links"),
        ("b\udcffd.json", "No such file or directory"),
        ("configs/hetzner-11.json/x", "No such file or directory"),
        ("pipe.json", "not a regular file"),
    ],
)
def test_a_file_that_cannot_even_be_looked_for_fails_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.chdir(project.folder)
    (project.folder / "loop.json").symlink_to("loop.json")
    os.mkfifo(project.folder / "pipe.json")
    project.server("hetzner", 11)
    result = project.run("hetzner-11.json", name)
    assert result.code == 2
    assert reason in result.err
    assert result.err.count("\n") == 1
    assert len(project.cloud.created) == 1
    assert len(result.final) == 2


@pytest.mark.proves("wild-11.8")
@pytest.mark.parametrize("sign", ["\n", "\r\n", "\0", "\x1b", "\u2028"])
def test_a_line_break_in_a_mail_address_is_a_problem(tmp_path: Path, sign: str) -> None:
    address = f'"x{sign}Bcc: y" <b@example.org>'
    for value in (address, [address], ["a@example.org", address]):
        assert refusals(tmp_path, {**GOOD, "smtp": {"to_emails": value}}) == [
            "smtp.to_emails: holds a control character or a line break"
        ]


@pytest.mark.proves("wild-11.8")
@pytest.mark.parametrize("key", ["server", "user", "from_email", "to_emails"])
@pytest.mark.parametrize("sign", ["\0", "\x1b", "\x85"])
def test_a_control_character_in_what_becomes_a_header_or_a_command_is_a_problem(
    tmp_path: Path, key: str, sign: str
) -> None:
    assert problems_of(tmp_path, f"[SMTP]\n{key} = a{sign}b@example.org\n") == [
        f"line 2: [SMTP] '{key}': holds a control character or a line break"
    ]


@pytest.mark.proves("wild-11.8")
@pytest.mark.parametrize("value", ["file:a\0b", "file:\ud800", "env:A\0B", "env:A=B"])
def test_a_name_that_the_system_cannot_take_is_a_problem_of_its_own_server(
    tmp_path: Path, value: str
) -> None:
    (problem,) = refusals(tmp_path, {**GOOD, "api_token": value})
    assert problem.startswith("api_token: ")
    with pytest.raises(ValueError, match="surrogates not allowed"):
        snapshots.credential("env:\ud800", tmp_path)


@pytest.mark.proves("wild-10")
def test_a_credential_in_the_environment_that_is_no_utf_8_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD", "secret-\udcff-word")
    assert refusals(tmp_path, {**GOOD, "api_token": "env:ODD"}) == [
        "api_token: holds a control character, a line break or what is not UTF-8"
    ]
