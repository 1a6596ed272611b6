"""--install-cron, --show-cron and --remove-cron: against a `crontab` that misbehaves, and Debian's."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import Tab
from test_cli import CRON_DAEMON, LIBFAKETIME, NO_CRONTABS, Place, place  # noqa: F401

import snapshots

SCRIPT = Path(snapshots.__file__).resolve()
UTC = timezone.utc
OTHERS = '# m h dom mon dow command\nMAILTO=""\n\n*/5 * * * *\tsleep 1 % x # y  \n@daily true\r\n'


# --- the block ---


@pytest.mark.proves("cron-4")
def test_the_block_is_put_behind_what_is_there(tab: Tab) -> None:
    tab.set(OTHERS)
    result = tab.run("--install-cron", "nightly")
    assert (result.code, result.err) == (0, "")
    assert tab.text == OTHERS + tab.block("15 3 * * *")
    for line in tab.block("15 3 * * *").splitlines():
        assert line in result.out.splitlines()
    (backup,) = tab.backups
    assert str(backup) in result.out
    assert re.fullmatch(r"crontab-\d{14}-\w+\.bak", backup.name)
    assert backup.read_bytes().decode() == OTHERS
    for path in (backup, tab.project.folder / "logs" / "cronjob.log"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.proves("cron-4")
def test_crontab_is_given_a_short_name_however_long_the_path_is(tab: Tab) -> None:
    """Of a name of more than 99 characters Debian's opens the first 99."""
    tab.project.folder /= "x" * 90
    tab.project.folder.mkdir()
    assert tab.run("--install-cron", "nightly").code == 0
    assert tab.text == tab.block("15 3 * * *")
    tab.mischief = {"write": {"1": ["lose 1"]}}
    result = tab.run("--install-cron", "@hourly")
    assert "it is as before again" in result.err
    assert tab.text == tab.block("15 3 * * *")


@pytest.mark.proves("cron-4")
def test_no_crontab_at_all_is_an_empty_one(tab: Tab) -> None:
    assert tab.run("--install-cron", "3:15").code == 0
    assert tab.text == tab.block("15 3 * * *")
    assert tab.run("--remove-cron").code == 0
    assert tab.text == ""


NONE = [
    "no crontab for root",
    "crontab: no crontab for backup",  # macOS
    "crontab: can't open 'backup': No such file or directory",  # BusyBox
]


@pytest.mark.proves("cron-4")
@pytest.mark.parametrize("said", NONE)
def test_each_cron_has_its_own_words_for_no_crontab(tab: Tab, said: str) -> None:
    first = [f"say {said}", "exit 1"]
    tab.mischief = {"-l": {"1": first, "2": first}}
    assert tab.run("--install-cron", "3:15").code == 0
    assert tab.text == tab.block("15 3 * * *")


@pytest.mark.proves("cron-4")
def test_a_second_install_replaces_the_block_and_the_same_one_changes_nothing(tab: Tab) -> None:
    tab.set(OTHERS)
    tab.run("--install-cron", "nightly")
    tab.set(tab.text + "9 9 * * * behind\n")
    result = tab.run("--install-cron", "@hourly")
    assert tab.text == OTHERS + tab.block("0 * * * *") + "9 9 * * * behind\n"
    before, backups = tab.text, tab.backups
    again = tab.run("--install-cron", "0 * * * *")
    assert (result.code, again.code) == (0, 0)
    assert "this entry is there already; nothing was changed" in again.out
    assert (tab.text, tab.backups, tab.calls) == (before, backups, ["-l"])
    assert tab.run("--remove-cron").code == 0
    assert tab.text == OTHERS + "9 9 * * * behind\n"


@pytest.mark.proves("cron-4")
def test_a_line_that_the_shell_runs_as_it_is_meant(tmp_path: Path) -> None:
    """Blanks, quotes, dollar signs and what is not ASCII, in every path."""
    odd = tmp_path / 'it\'s $HOME "so" `x` & ü'
    (odd / "logs").mkdir(parents=True)
    echo = ["/bin/echo", f"{odd}/snapshots.py", "--config", "é 1"]
    job = snapshots.CronJob(odd / "c.conf", odd / "logs", echo)
    line = job.line("* * * * *").split(" ", 5)[5]
    subprocess.run(["/bin/sh", "-c", line], check=True)
    assert (odd / "logs" / "cronjob.log").read_text() == f"{odd}/snapshots.py --config é 1\n"


@pytest.mark.proves("cron-4")
@pytest.mark.parametrize("edge", ["BEGIN", "END"])
def test_what_is_between_two_equal_edges_is_no_block(tab: Tab, edge: str) -> None:
    """The line between them may be somebody's own."""
    begin, _, end = tab.block("15 3 * * *").splitlines()
    line = begin if edge == "BEGIN" else end
    before = f"{line}\n@daily /opt/other/snapshots.py\n{line}\n"
    tab.set(before)
    for flags in (["--install-cron", "nightly"], ["--remove-cron"]):
        result = tab.run(*flags)
        assert (result.code, tab.text) == (1, before)
        assert "crontab, line 1: half a block" in result.err


@pytest.mark.parametrize("flag", ["--show-cron", "--status", "--remove-cron"])
def test_a_line_may_name_a_file_that_nobody_can_look_for(tab: Tab, flag: str) -> None:
    """A name too long for any; and for a user all that is root's, as in `sudo /root/...`."""
    tab.project.server("hetzner", 11, "web")
    long = f"/srv/{'x' * 300}/snapshots.config"
    moved = tab.block("1 1 * * *").replace(str(tab.config), long)
    tab.set(f"9 9 * * * /srv/snapshots.py --config {long}\n{moved}")
    result = tab.run(flag)
    assert "unexpected" not in result.out + result.err
    assert "line 1" in result.out + result.err


@pytest.mark.proves("cron-4")
def test_every_configuration_has_a_block_of_its_own(tab: Tab) -> None:
    other = tab.block("1 1 * * *").replace(str(tab.config), "/srv/other/snapshots.config")
    tab.set(other + OTHERS)
    assert tab.run("--install-cron", "nightly").code == 0
    assert tab.text == other + OTHERS + tab.block("15 3 * * *")
    assert tab.run("--remove-cron").code == 0
    assert tab.text == other + OTHERS


@pytest.mark.proves("cron-4")
def test_a_symlink_to_the_configuration_is_the_same_configuration(
    tab: Tab, tmp_path_factory: pytest.TempPathFactory
) -> None:
    link = tmp_path_factory.mktemp("link") / "here"
    link.symlink_to(tab.project.folder)
    tab.set(tab.block("1 1 * * *").replace(str(tab.project.folder), str(link)))
    assert tab.run("--install-cron", "nightly").code == 0
    assert tab.text == tab.block("15 3 * * *")


@pytest.mark.proves("cron-4")
def test_a_dry_run_shows_everything_and_writes_nothing(tab: Tab) -> None:
    tab.set(OTHERS)
    result = tab.run("-n", "--install-cron", "nightly")
    assert (result.code, result.err) == (0, "")
    for line in tab.block("15 3 * * *").splitlines():
        assert line in result.out
    assert result.out.count("next run: ") == 3
    assert "nothing was written" in result.out
    assert (tab.text, tab.calls) == (OTHERS, ["-l"])
    assert not (tab.project.folder / "logs").exists()
    tab.set(tab.block("1 1 * * *"))
    removal = tab.run("-n", "--remove-cron")
    assert removal.code == 0
    assert "would be taken out: 1 1 * * * cd " in removal.out
    assert tab.text == tab.block("1 1 * * *")


@pytest.mark.proves("cron-3")
@pytest.mark.parametrize(
    ("zone", "lines"),
    [
        (
            "Europe/Berlin",
            ["2026-03-02 03:15 CET, in 1 h 15 min", "2026-03-03 03:15 CET, in 1 d 1 h"],
        ),
        ("America/New_York", ["2026-03-02 03:15 EST, in 7 h 15 min"]),
        (None, ["2026-03-02 03:15 UTC, in 2 h 15 min"]),
    ],
)
def test_the_next_runs_are_reported_in_the_zone_of_the_machine(
    tab: Tab, monkeypatch: Any, tmp_path: Path, zone: str | None, lines: list[str]
) -> None:
    """Not in that of $TZ, of which cron knows nothing; without /etc/localtime it is UTC."""
    path = Path("/usr/share/zoneinfo") / (zone or "none")
    if zone and not path.exists():
        pytest.skip("no time zone data")
    monkeypatch.setattr(snapshots, "LOCALTIME", str(path))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    tab.project.clock.advance(
        (datetime(2026, 3, 2, 1, tzinfo=UTC) - tab.project.clock.now()).total_seconds()
    )
    result = tab.run("-n", "--install-cron", "nightly")
    assert result.out.splitlines()[0] == "at 03:15 every day"
    told = [line for line in result.out.splitlines() if line.startswith("next run: ")]
    assert len(told) == 3
    for line in lines:
        assert f"next run: {line}" in told


# --- never lose a line ---


@pytest.mark.proves("cron-5")
@pytest.mark.parametrize(
    "text",
    [
        OTHERS,
        "no line break at the end",
        "\n\n\n",
        "\r\n1 1 * * * x\r\n",
        "# \udcff\udcfe is no UTF-8\n1 1 * * * caf\udce9\n",
        "1 1 * * * a\x0b\x0c\x1c\u2028\x85b\n",
        "# DO NOT EDIT THIS FILE, says somebody\n1 1 * * * x\n",
        "# a # BEGIN snapshots.py that is none\n",
        "1 1 * * * " + "x" * 5000 + "\n",
    ],
)
def test_every_other_line_stays_byte_for_byte(tab: Tab, text: str) -> None:
    tab.set(text)
    whole = text if text.endswith("\n") else text + "\n"
    assert tab.run("--install-cron", "nightly").code == 0
    assert tab.text == whole + tab.block("15 3 * * *")
    assert tab.run("--install-cron", "12:00").code == 0
    assert tab.text == whole + tab.block("0 12 * * *")
    assert tab.run("--remove-cron").code == 0
    assert tab.text == whole


@pytest.mark.proves("cron-5")
def test_the_header_that_crontab_shows_is_not_written_back(tab: Tab) -> None:
    """Exactly those three lines, at the very beginning; what piled up before stays."""
    mine = "# DO NOT EDIT THIS FILE - edit the master and reinstall.\n# my own\n1 1 * * * x\n"
    tab.mischief = {"-l": {"*": ["header"]}}
    tab.set(mine)
    assert tab.run("--install-cron", "nightly").code == 0
    assert tab.text == mine + tab.block("15 3 * * *")
    assert tab.backups[0].read_text() == mine
    assert tab.run("--remove-cron").code == 0
    assert tab.text == mine


UNREADABLE = [
    ["say crontab: can't open spool: Permission denied", "exit 1"],
    ["say no crontab for root\nbut wait", "exit 1"],
    ["say You (root) are not allowed to use this program (crontab)", "exit 1"],
    ["say crontab: can't open '/etc/x': No such file or directory", "exit 1"],
    ["say crontab: can't open 'root': Permission denied", "exit 1"],
    ["say crontabs: no crontab for root yet", "exit 1"],
    ["exit 1"],
    ["say input/output error", "exit 0"],
    ["say a warning"],
    ["half"],
    ["die"],
    ["hang"],
]


@pytest.mark.proves("cron-5")
@pytest.mark.parametrize("what", UNREADABLE, ids=" ".join)
@pytest.mark.parametrize("args", [("--install-cron", "nightly"), ("--remove-cron",)])
def test_a_crontab_that_cannot_be_read_is_not_written(
    tab: Tab, monkeypatch: Any, what: list[str], args: tuple[str, ...]
) -> None:
    monkeypatch.setattr(snapshots, "CRONTAB_SECONDS", 0.5 if what == ["hang"] else 60)
    before = OTHERS + (tab.block("1 1 * * *") if args == ("--remove-cron",) else "")
    tab.set(before)
    tab.mischief = {"-l": {"*": what}}
    result = tab.run(*args)
    assert result.code == 1
    assert (tab.text, tab.calls) == (before, ["-l"])
    assert result.err.startswith("snapshots: crontab -l: ")
    assert "; nothing was written (" in result.err
    if args == ("--remove-cron",):
        begin, _, end = tab.block("1 1 * * *").splitlines()
        assert result.out.splitlines() == [begin, end]
        assert "(take these two lines, and what is between them, out with" in result.err
    else:  # before what systemd would be given
        shown = [text for text in result.out.splitlines() if "snapshots.py" in text]
        assert shown[:3] == tab.block("15 3 * * *").splitlines()
    assert result.err.count("\n") == 1


@pytest.mark.proves("cron-11")
def test_who_may_have_no_crontab_is_not_sent_to_crontab(tab: Tab) -> None:
    said = "You (backup) are not allowed to use this program (crontab)\nSee crontab(1)"
    tab.mischief = {"-l": {"*": [f"say {said}", "exit 1"]}}
    result = tab.run("--install-cron", "nightly")
    assert result.code == 1
    assert "You (backup) are not allowed to use this program (crontab)" in result.err
    assert result.err.endswith(", or use the systemd timer above)\n")
    assert "OnCalendar=*-*-* 3:15:00" in result.out


@pytest.mark.proves("cron-5")
def test_no_crontab_with_something_in_it_is_no_known_answer(tab: Tab) -> None:
    tab.set(OTHERS)
    tab.mischief = {"-l": {"*": ["header", "say no crontab for root", "exit 1"]}}
    assert tab.run("--install-cron", "nightly").code == 1
    assert tab.text == OTHERS


@pytest.mark.proves("cron-6")
def test_no_backup_no_change(tab: Tab) -> None:
    tab.set(OTHERS)
    (tab.project.folder / "logs").write_text("in the way")
    result = tab.run("--install-cron", "nightly")
    assert result.code == 1
    assert "the crontab cannot be saved here first: File exists (nothing was changed)" in result.err
    assert (tab.text, "write" in tab.calls) == (OTHERS, False)


@pytest.mark.proves("cron-6")
def test_a_disk_that_is_full_changes_nothing(tab: Tab, monkeypatch: Any) -> None:
    tab.set(OTHERS)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = tab.run("--install-cron", "nightly")
    assert result.code == 1
    assert "No space left on device (nothing was changed)" in result.err
    assert (tab.text, "write" in tab.calls) == (OTHERS, False)
    assert tab.backups == []


@pytest.mark.proves("cron-6")
def test_logs_of_another_user_are_no_place_to_write(tab: Tab) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    logs = tab.project.folder / "logs"
    logs.mkdir()
    os.chown(logs, 65534, 65534)
    tab.set(OTHERS)
    result = tab.run("--install-cron", "nightly")
    assert result.code == 1
    assert "it belongs to another user (run this as that user)" in result.err
    assert tab.text == OTHERS


@pytest.mark.proves("cron-6")
def test_a_crontab_that_changes_under_our_hands_is_read_anew(tab: Tab) -> None:
    """Once between reading and writing: both changes are there in the end."""
    tab.set(OTHERS)
    tab.mischief = {"-l": {"2": ["edit 6 6 * * * new"]}}
    assert tab.run("--install-cron", "nightly").code == 0
    assert tab.text == OTHERS + "6 6 * * * new\n" + tab.block("15 3 * * *")
    assert tab.calls == ["-l", "-l", "-l", "write", "-l"]
    (backup,) = tab.backups
    assert backup.read_bytes().decode() == OTHERS + "6 6 * * * new\n"


@pytest.mark.proves("cron-6")
def test_a_crontab_that_cannot_be_read_again_is_not_written(tab: Tab) -> None:
    tab.set(OTHERS)
    tab.mischief = {"-l": {"2": ["half"]}}
    result = tab.run("--install-cron", "nightly")
    assert (result.code, tab.text, tab.calls) == (1, OTHERS, ["-l", "-l"])
    assert "read error: Input/output error; nothing was written" in result.err


@pytest.mark.proves("cron-6")
def test_a_crontab_that_changes_all_the_time_is_left_alone(tab: Tab) -> None:
    tab.set(OTHERS)
    tab.mischief = {"-l": {"*": ["edit # again"]}}
    result = tab.run("--install-cron", "nightly")
    assert result.code == 1
    assert "the crontab keeps changing while it is being written; nothing was changed" in result.err
    assert "write" not in tab.calls
    assert tab.backups == []


@pytest.mark.proves("cron-6")
@pytest.mark.parametrize("args", [("--install-cron", "nightly"), ("--remove-cron",)])
@pytest.mark.parametrize(
    ("mischief", "told", "restored"),
    [
        ({"write": {"*": ["refuse"]}}, "errors in crontab file, can't install.; nothing was", True),
        ({"write": {"*": ["ignore"]}}, "text: no reason given; nothing was changed", True),
        ({"write": {"1": ["lose 1"]}}, "it is as before again", True),
        ({"write": {"1": ["lose 99"]}}, "it is as before again", True),
        ({"write": {"1": ["lose 2", "complain"]}}, "it is as before again", True),
        ({"write": {"1": ["twice"]}}, "it is as before again", True),
        ({"write": {"1": ["lose 2"], "2": ["refuse"]}}, "can't install.", False),
        ({"write": {"1": ["lose 2"], "2": ["ignore"]}}, "lost; they could not be put", False),
        ({"write": {"1": ["foreign"]}}, "somebody else has changed the crontab just now", None),
        ({"write": {"1": ["lose 1", "foreign"]}}, "it was left as it is", None),
        ({"-l": {"3": ["exit 1"]}}, "crontab -l: exit status 1: no reason given", None),
        ({"-l": {"3": ["say oh"]}}, "oh; what is in the crontab now is not known: ask", None),
        ({"-l": {"3": ["edit 7 7 * * * x"]}}, "somebody else has changed the crontab", None),
    ],
    ids=str,
)
def test_what_is_read_back_is_compared_and_what_was_lost_put_back(
    tab: Tab,
    args: tuple[str, ...],
    mischief: dict[str, Any],
    told: str,
    restored: bool | None,
) -> None:
    """restored: the old text is there again; None: it stays as it was found."""
    before = OTHERS + (tab.block("1 1 * * *") if args == ("--remove-cron",) else "")
    tab.set(before)
    tab.mischief = mischief
    result = tab.run(*args)
    assert result.code == 1
    assert told in result.err
    assert result.err.count("\n") == 1
    (backup,) = tab.backups
    assert f"(as it was before: {backup})" in result.err
    assert backup.read_bytes().decode() == before
    if restored is not None:
        assert (tab.text == before) is restored
    if restored is None:
        assert tab.calls.count("write") == 1
        assert "nothing was written" not in result.err
    assert set(tab.calls) <= {"-l", "write"}


@pytest.mark.proves("cron-6")
def test_what_was_lost_is_put_back_with_the_line_break_that_crontab_asks_for(tab: Tab) -> None:
    tab.set("1 1 * * * first\n2 2 * * * last")
    tab.mischief = {"write": {"1": ["lose 4"]}}
    result = tab.run("--install-cron", "nightly")
    assert (result.code, tab.text) == (1, "1 1 * * * first\n2 2 * * * last\n")
    assert "it is as before again" in result.err


@pytest.mark.proves("cron-6")
def test_a_crontab_that_takes_away_what_it_is_given_is_compared_all_the_same(tab: Tab) -> None:
    program = tab.folder / "crontab"
    called = program.read_text().replace("exec ", "")
    program.write_text(f'{called}case "$1" in -*) ;; *) rm "$1" ;; esac\n')
    tab.set(OTHERS)
    result = tab.run("--install-cron", "nightly")
    assert (result.code, result.err) == (0, "")
    assert tab.text == OTHERS + tab.block("15 3 * * *")


@pytest.mark.proves("cron-6")
def test_what_cannot_be_read_after_it_was_put_back_is_not_known(tab: Tab) -> None:
    tab.set(OTHERS)
    tab.mischief = {"write": {"1": ["lose 2"]}, "-l": {"4": ["exit 1"]}}
    result = tab.run("--install-cron", "nightly")
    assert (result.code, tab.text) == (1, OTHERS)
    assert "what is in the crontab now is not known" in result.err
    assert "nothing was written" not in result.err


@pytest.mark.proves("cron-6")
def test_a_crontab_that_does_not_end_is_given_up(tab: Tab, monkeypatch: Any) -> None:
    monkeypatch.setattr(snapshots, "CRONTAB_SECONDS", 8)
    tab.set(OTHERS)
    tab.mischief = {"write": {"*": ["hang"]}}
    result = tab.run("--install-cron", "nightly")
    assert result.code == 1
    assert "text: no answer within 8 s; nothing was changed (as it was before: " in result.err
    assert tab.text == OTHERS


@pytest.mark.proves("cron-6")
def test_a_complaint_about_something_that_is_done_is_no_failure(tab: Tab) -> None:
    tab.set(OTHERS)
    tab.mischief = {"write": {"*": ["complain"]}}
    assert tab.run("--install-cron", "nightly").code == 0
    assert tab.text == OTHERS + tab.block("15 3 * * *")


# --- what is there already ---


@pytest.mark.proves("cron-7")
@pytest.mark.parametrize("args", [("--install-cron", "nightly"), ("--remove-cron",)])
@pytest.mark.parametrize(
    ("take", "number"),
    [
        ("{begin}\n{line}\n", 2),
        ("{line}\n{end}\n", 3),
        ("{end}\n{line}\n{begin}\n", 2),
        ("{begin}\n{begin}\n{line}\n{end}\n", 2),
        ("{begin}\n{line}\n{end}\n{end}\n", 5),
        ("{begin}\n{line}\n# END snapshots.py /srv/x.config\n", 2),
        ("# BEGIN snapshots.py /srv/x.config\n{begin}\n{line}\n{end}\n", 2),
        (
            "# BEGIN snapshots.py /srv/x.config\n{begin}\n# END snapshots.py /srv/x.config\n{end}\n",
            2,
        ),
        ("{begin}\n{line}\n{end}\n{begin}\n{line}\n{end}\n", 2),
        ("{begin}\nMAILTO=x\n{line}\n{end}\n", 2),
        ("{begin}\n0 0 * * * /somebody/elses\n{end}\n", 2),
        ("{begin}\r\n{line}\r\n", 2),
    ],
)
def test_half_a_block_is_refused_with_its_line(
    tab: Tab, args: tuple[str, ...], take: str, number: int
) -> None:
    begin, line, end = tab.block("1 1 * * *").splitlines()
    tab.set("# first\n" + take.format(begin=begin, line=line, end=end))
    before = tab.text
    result = tab.run(*args)
    assert result.code == 1
    assert result.err.startswith(f"snapshots: crontab, line {number}: ")
    assert (tab.text, "write" in tab.calls) == (before, False)


@pytest.mark.proves("cron-4")
@pytest.mark.parametrize(
    "change", [("1 1", "2 2"), ("1 1", "# 1 1"), ("&& ", "&& nice "), ("\n", "\r\n")]
)
def test_an_entry_that_somebody_changed_in_the_block_is_replaced(
    tab: Tab, change: tuple[str, str]
) -> None:
    tab.set(OTHERS + tab.block("1 1 * * *").replace(*change))
    assert tab.run("--install-cron", "nightly").code == 0
    assert tab.text == OTHERS + tab.block("15 3 * * *")


RIVALS = [
    "15 3 * * * {python} {script}",
    "15 3 * * * {script}",
    "@daily {script} -q",
    "@reboot {script}",
    "15 3 * * * cd {folder} && python3 snapshots.py",
    "15 3 * * * cd {folder} && .venv/bin/python ./snapshots.py -v >> cron.log 2>&1",
    "15 3 * * * cd {folder}; python3 snapshots.py>/dev/null",
    "15 3 * * * (cd {folder} && python3 snapshots.py)",
    "15 3 * * * cd '{folder}' && python3 'snapshots.py' web.json",
    "15 3 * * * sh -c 'cd {folder} && python3 snapshots.py'",
    '15 3 * * * /bin/bash -lc "cd {folder} && exec python3 snapshots.py"',
    "15 3 * * * nice -n 19 timeout 6h {python} -u {script} --prune-only",
    "  15 3 * * *\tcd {folder}&&python3 snapshots.py",
    "15 3 * * * PATH=/usr/bin:/bin && cd {folder} && python3 snapshots.py > logs/cronjob.log 2>&1",
    "15 3 * * * cd $SNAPSHOTS_DIR && python3 snapshots.py",
    "15 3 * * * cd /gone/away && python3 snapshots.py",
    "15 3 * * * cd ~/away && python3 snapshots.py",
    "15 3 * * * python3 snapshots.py",
    "*/70 3 * * fri-mon {script}",
    "15 3 * * * {script} --config {config}",
    "15 3 * * * {script} --config={config}",
    "15 3 * * * {script} --config /gone.config",
    "15 3 * * * cd {folder} && echo 50\\% && python3 snapshots.py",
    "15 3 * * * {script} # nightly",
    "15 3 * * * {script}\r",
    "15 3 * * * cd {folder} && python3 snapshots.py -q; python3 snapshots.py --report page.html",
    "15 3 * * * {script} && {script} --status --nagios",
    "15 3 * * * {script} | tee log & {script} -n",
    "15 3 * * * {script} 2>&1 || echo --status",
    "15 3 * * * {script} --config /; {script} --config {config}",
]


@pytest.mark.proves("cron-7")
@pytest.mark.parametrize("line", RIVALS)
def test_our_script_in_a_line_of_its_own_is_refused_with_that_line(tab: Tab, line: str) -> None:
    line = line.format(
        python=sys.executable, script=SCRIPT, folder=SCRIPT.parent, config=tab.config
    )
    tab.set(f"# first\n{line}\n{OTHERS}")
    before = tab.text
    result = tab.run("--install-cron", "nightly")
    assert result.code == 1
    assert ", line 2, by hand: starts snapshots.py as well, which would make two runs" in result.err
    assert result.err.rstrip("\n").endswith(snapshots.one_line(line.strip()))
    assert (tab.text, "write" in tab.calls) == (before, False)
    assert tab.run("-n", "--install-cron", "nightly").code == 1
    shown = tab.run("--show-cron")
    assert shown.code == 0
    assert ", line 2, by hand: " in shown.out
    for dry in ((), ("-n",)):
        removed = tab.run("--remove-cron", *dry)
        assert removed.code == 0
        assert ", line 2, by hand: still starts snapshots.py (take that line out" in removed.err
        assert tab.text == before


NO_RIVALS = [
    "#15 3 * * * {script}",
    "  # 15 3 * * * cd {folder} && python3 snapshots.py",
    "SCRIPT={script}",
    "SCRIPT = {script}",
    "15 3 * * * /usr/bin/other-snapshots.py",
    "15 3 * * * python3 snapshots.py.old",
    "15 3 * * * cd {other} && python3 snapshots.py",
    "15 3 * * * python3 {other}/snapshots.py",
    "*/5 * * * * {script} --status --nagios",
    "0 * * * * cd {folder} && python3 snapshots.py --report page.html",
    "0 * * * * {script} --list > list.txt",
    "0 4 * * 0 {script} --config {other}/snapshots.config",
    "0 4 * * 0 {script} --config $HOME/snapshots.config",
    "0 4 * * 0 {script} --check && {script} -q --status > state",
    "0 4 * * 0 cd {folder} && python3 snapshots.py --config {other}/snapshots.config",
]


@pytest.mark.proves("cron-7")
@pytest.mark.parametrize("line", NO_RIVALS)
def test_what_is_no_run_of_ours_is_left_alone(
    tab: Tab, line: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "snapshots.py").write_text("")
    (other / "snapshots.config").write_text("")
    monkeypatch.setenv("HOME", str(other))
    line = line.format(script=SCRIPT, folder=SCRIPT.parent, other=other)
    tab.set(f"{line}\n")
    assert tab.run("--install-cron", "nightly").code == 0
    assert tab.text == f"{line}\n" + tab.block("15 3 * * *")


# --- what is refused before the crontab is looked at ---


@pytest.mark.proves("cron-8")
@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("15 3 * * *", "15 3 * * *"),
        ("15 3 LICENSE README.md LICENSE README.md LICENSE README.md", "15 3 * * *"),
        ("0 3 a.json b.json a.json b.json 1", "0 3 * * 1"),
        ("0 3 a.json a.json mon-fri", "0 3 * * mon-fri"),
        ("*/15 a b a b a b a b", "*/15 * * * *"),
        ("0 3 1,15 a.json a.json", "0 3 1,15 * *"),
        ("15 3", "15 3 * * *"),
        ("0 0 1 1 0 a", "0 0 1 1 0"),
        ("0 3 a b c 6 a b c", "0 3 * 6 *"),
    ],
)
def test_five_fields_without_quotes_are_refused_and_shown_with_them(
    tab: Tab, words: str, meant: str
) -> None:
    result = tab.run("--install-cron", *words.split())
    assert result.code == 1
    assert result.err == (
        f'snapshots: --install-cron: put the five fields in quotes: --install-cron "{meant}"\n'
    )
    assert tab.calls == []
    assert not (tab.project.folder / "logs").exists()


@pytest.mark.proves("cron-8")
@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--install-cron", "nightly", "web.json"], "takes no FILE: one entry is for all servers"),
        (["--show-cron", "web.json"], "FILE does not go with --show-cron"),
        (["--remove-cron", "web.json"], "FILE does not go with --remove-cron"),
        (["--install-cron"], "expected one argument"),
        (["--install-cron", ""], "is empty"),
        (["--install-cron", "@reboot"], "after each reboot only"),
        (["--install-cron", "0 3 31 2 *"], "February has no day 31"),
        (["--install-cron", "nightly", "--show-cron"], "not allowed with"),
        (["--remove-cron", "--show-cron"], "not allowed with"),
    ],
)
def test_what_makes_no_sense_touches_nothing(tab: Tab, args: list[str], told: str) -> None:
    result = tab.run(*args)
    assert (result.code, result.out) == (1, "")
    assert told in result.err
    assert result.err.count("\n") == 1
    assert tab.calls == []


@pytest.mark.proves("cron-8")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("50%", "a % or a line break in a path ends a crontab's command"),
        ("a\nb", "a % or a line break in a path"),
        ("a\x07b", "a % or a line break in a path"),
        ("x" * 200, "longer than 900 bytes"),
        ("ü" * 120, "longer than 900 bytes"),
    ],
)
def test_a_path_that_cron_could_not_take_is_refused(tab: Tab, name: str, told: str) -> None:
    folder = tab.project.folder / name
    folder.mkdir()
    tab.project.folder = folder
    result = tab.run("--install-cron", "nightly")
    assert result.code == 1
    assert told in result.err
    assert result.err.count("\n") == 1
    assert tab.calls == []


@pytest.mark.proves("cron-8")
def test_a_configuration_with_a_problem_is_not_installed(tab: Tab) -> None:
    tab.project.config["TIMING"]["poll_intervall"] = 3
    result = tab.run("--install-cron", "nightly")
    assert result.code == 1
    assert "did you mean 'poll_interval'?" in result.err
    assert tab.calls == []
    tab.set(OTHERS + tab.block("1 1 * * *"))
    assert tab.run("--show-cron").code == 0
    assert tab.run("--remove-cron").code == 0
    assert tab.text == OTHERS


# --- showing and removing ---


@pytest.mark.proves("cron-9")
def test_no_entry_is_no_trouble(tab: Tab) -> None:
    for text in (None, OTHERS, "no line break"):
        if text is not None:
            tab.set(text)
        for option in ("--show-cron", "--remove-cron"):
            result = tab.run(option)
            assert (result.code, result.err) == (0, "")
            assert f"no entry for {tab.config}" in result.out
            assert tab.calls == ["-l"]
        assert tab.backups == []
        assert text is None or tab.text == text


@pytest.mark.proves("cron-9")
def test_the_entry_is_shown(tab: Tab) -> None:
    tab.set(OTHERS)
    tab.run("--install-cron", "0 3 * * 1-5")
    result = tab.run("--show-cron")
    assert (result.code, result.err) == (0, "")
    first, words, *runs = result.out.splitlines()
    line = tab.block("0 3 * * 1-5").splitlines()[1]
    assert re.fullmatch(rf"crontab of \S+, line 7: {re.escape(line)}", first)
    assert words == "at 03:00 on Monday to Friday"
    assert len(runs) == 3


@pytest.mark.proves("cron-9")
def test_a_crontab_that_cannot_be_read_cannot_be_shown(tab: Tab) -> None:
    tab.mischief = {"-l": {"*": ["half"]}}
    result = tab.run("--show-cron")
    assert (result.code, result.out) == (1, "")
    assert "crontab -l: exit status 1: crontab: read error" in result.err


@pytest.mark.proves("cron-9")
def test_the_entry_of_a_configuration_that_has_gone_can_be_taken_out(
    tab: Tab, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    gone = "/gone/snapshots/snapshots.config"
    entry = tab.block("1 1 * * *").replace(str(tab.project.folder), "/gone/snapshots")
    tab.set(OTHERS + entry)
    shown = tab.run("--show-cron")
    way_out = f"write --remove-cron --config {gone}, then --install-cron"
    assert shown.err.startswith("snapshots: error: ")
    assert f"/gone/snapshots is not there (moved? {way_out})" in shown.err
    script = tmp_path / "installed" / "snapshots.py"
    script.parent.mkdir()
    script.symlink_to(SCRIPT)
    (script.parent / "snapshots.config").touch()  # so that the link's directory counts
    monkeypatch.setattr(snapshots, "__file__", str(script))
    assert snapshots.main(["--remove-cron", "--config", gone], tab.project.clock) == 0
    assert tab.text == OTHERS
    assert len(list(script.parent.glob("logs/crontab-*.bak"))) == 1


@pytest.mark.proves("cron-13")
def test_what_is_wrong_with_an_entry_is_shown(tab: Tab) -> None:
    block = tab.block("1 1 * * *")
    for old, new, told in [
        (sys.executable, "/usr/bin/env", "it is run by another Python than this"),
        (sys.executable, "/gone/python", "/gone/python is not there (write --install-cron again)"),
        (str(SCRIPT), "/gone/snapshots.py", "/gone/snapshots.py is not there"),
        ("1 1 * * *", "*/70 1 * * *", "the step is larger than the range"),
        ("1 1 * * *", "@reboot", "after each reboot only"),
    ]:
        tab.set(block.replace(old, new))
        result = tab.run("--show-cron")
        assert result.code == 0
        assert told in result.err, told
        assert ", line 2: " in result.err
    tab.set(f"1 1 * * * /gone/python {SCRIPT} --config {tab.config}\n")
    way_out = "/gone/python is not there (correct the line with crontab -e)"
    assert way_out in tab.run("--show-cron").err
    tab.set("CRON_TZ=Asia/Tokyo\n" + block)
    assert "CRON_TZ is set in the crontab" in tab.run("--show-cron").err
    tab.set("# CRON_TZ=Asia/Tokyo\n" + block)
    assert tab.run("--show-cron").err == ""


@pytest.mark.proves("cron-13")
def test_what_uv_runs_is_started_by_uv_for_its_cache_may_be_emptied(
    tab: Tab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uv = tmp_path / "uv"
    uv.touch()
    monkeypatch.setenv("UV", str(uv))
    assert tab.run("--install-cron", "nightly").code == 0
    assert tab.text == tab.block("15 3 * * *")  # the project's own .venv, which stays
    block = tab.block("15 3 * * *").replace(sys.executable, f"{uv} run --script")
    cached = (
        tmp_path / "cache" / "environments-v2" / "snapshots-5958075fe8cb9820" / "bin" / "python"
    )
    monkeypatch.setattr(sys, "executable", str(cached))
    assert tab.run("--install-cron", "nightly").code == 0
    assert tab.text == block
    assert tab.run("--show-cron").err == ""


@pytest.mark.proves("cron-13")
def test_in_a_line_by_hand_paths_are_seen_from_its_directory_and_a_percent_sign_ends_it(
    tab: Tab,
) -> None:
    folder, python = Path(sys.executable).parent.parent, Path(sys.executable).name
    line = f"15 3 * * * cd {folder} && bin/{python} {SCRIPT} --config {tab.config}"
    for end in ("", " >> /tmp/$(date +\\%Y\\%m).log 2>&1"):
        tab.set(f"{line}{end}\n")
        assert tab.run("--show-cron").err == ""
    for end in (" >> /tmp/$(date +%Y%m).log 2>&1", " >> /tmp/$(date +\\%Y%m).log", " %"):
        tab.set(f"{line}{end}\n")
        err = tab.run("--show-cron").err
        assert err.endswith(
            ", line 1, by hand: a % ends the command there (write \\% with crontab -e)\n"
        )
    tab.set(f"{line.replace(python, 'env')}\n")
    assert "run by another Python than this" in tab.run("--show-cron").err


# --- entries that get into each other's way, and starts that did not come ---

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def entry(expression: str, where: str) -> snapshots.CronEntry:
    try:
        schedule = snapshots.parse_schedule(expression)
    except ValueError as error:
        return snapshots.CronEntry(where, expression, "", True, None, str(error))
    return snapshots.CronEntry(where, expression, "", True, schedule)


@pytest.mark.proves("cron-13")
@pytest.mark.parametrize(
    ("expressions", "run_seconds", "warned"),
    [
        (["15 3 * * *"], None, False),
        (["15 3 * * *"], 3600, False),
        (["15 3 * * *"], 90_000, True),
        (["0 * * * *"], 5400, True),
        (["0 * * * *"], 3000, False),
        (["0 3 * * *", "5 3 * * *"], None, True),
        (["0 3 * * *", "0 3 * * *"], None, True),
        (["0 3 * * *", "0 15 * * *"], 3600, False),
        (["0 3 * * *", "5 3 1 * *"], None, True),
        (["58 23 * * *", "2 0 * * 1"], None, True),
        (["0 3 * * *", "30 3 * * *"], 3600, True),
        (["*/5 * * * *"], None, False),
        (["@reboot", "0 3 * * *"], None, False),
        ([], 10, False),
    ],
)
def test_entries_in_each_others_way_are_warned_about(
    expressions: list[str], run_seconds: float | None, warned: bool
) -> None:
    entries = [entry(text, f"line {n}") for n, text in enumerate(expressions, 1)]
    told = list(snapshots.crowding(entries, run_seconds, NOW, UTC))
    assert len(told) == warned
    for level, text in told:
        assert level == "warning"
        assert all(f"({entry.where})" in text for entry in entries)


@pytest.mark.proves("cron-13")
def test_starts_that_come_sooner_than_a_run_ends_are_warned_about(tab: Tab) -> None:
    tab.project.server("contabo", 1, "web", duration_seconds=7200)
    assert tab.run().code == 0
    tab.run("--install-cron", "@hourly")
    assert "are too close together" in tab.run("--show-cron").err
    tab.run("--install-cron", "nightly")
    assert tab.run("--show-cron").err == ""


@pytest.mark.proves("cron-13")
def test_two_entries_for_one_configuration_are_warned_about(tab: Tab) -> None:
    tab.run("--install-cron", "nightly")
    tab.set(tab.text + f"20 3 * * * {sys.executable} {SCRIPT} --config {tab.config}\n")
    result = tab.run("--show-cron")
    assert result.code == 0
    assert "are too close together" in result.err
    assert "line 2" in result.err
    assert "line 4" in result.err


@pytest.mark.proves("cron-13")
@pytest.mark.parametrize(
    ("expressions", "known_from", "now", "overdue"),
    [
        (["15 3 * * *"], "01 04:00", "02 04:14", None),
        (["15 3 * * *"], "01 04:00", "02 04:15", "02 03:15"),
        (["15 3 * * *"], "02 03:15", "03 04:14", None),  # the run began at its start
        (["15 3 * * *"], "01 04:00", "05 12:00", "02 03:15"),  # the first of many
        (["0 * * * *"], "02 03:00", "02 04:30", None),
        (["0 * * * *"], "02 03:00", "02 05:00", "02 04:00"),
        (["15 3 * * *", "15 15 * * *"], "02 04:00", "02 16:20", "02 15:15"),
        (["@reboot"], "01 04:00", "05 12:00", None),
        ([], "01 04:00", "05 12:00", None),
        (["15 3 * * *"], "09 04:00", "05 12:00", None),  # a clock that was put back
    ],
)
def test_a_start_that_did_not_come_is_overdue_after_an_hour(
    tab: Tab,
    monkeypatch: Any,
    expressions: list[str],
    known_from: str,
    now: str,
    overdue: str | None,
) -> None:
    def at(text: str) -> datetime:
        return datetime.strptime(f"2026-03-{text} +0000", "%Y-%m-%d %H:%M %z")

    monkeypatch.setattr(snapshots, "LOCALTIME", "/gone")
    tab.set("".join(f"{text} {SCRIPT} --config {tab.config}\n" for text in expressions))
    tab.run("--show-cron")
    found = state(tab, installed_at=at(known_from), now=at(now))
    late = [text for level, text in found.remarks if level == "error"]
    assert late == ([f"OVERDUE: due 2026-03-{overdue} UTC, no run has begun"] if overdue else [])


@pytest.mark.proves("cron-13")
def test_a_skipped_start_is_overdue_an_hour_after_the_clock_was_changed(
    tab: Tab, monkeypatch: Any
) -> None:
    """02:30 on the night of the change counts at 03:00 CEST, which is 01:00 UTC."""
    berlin = Path("/usr/share/zoneinfo/Europe/Berlin")
    if not berlin.exists():
        pytest.skip("no time zone data")
    monkeypatch.setattr(snapshots, "LOCALTIME", str(berlin))
    tab.set(tab.block("30 2 * * *"))
    tab.run("--show-cron")
    known = datetime(2026, 3, 28, 12, tzinfo=UTC)
    for minutes, late in ((119, False), (120, True)):
        now = datetime(2026, 3, 29, tzinfo=UTC) + timedelta(minutes=minutes)
        assert state(tab, installed_at=known, now=now).overdue is late


@pytest.mark.proves("cron-13")
def test_the_history_remembers_since_when_there_is_an_entry(tab: Tab) -> None:
    """An entry that is changed counts anew, one that stays as it is does not."""

    def since() -> str | None:
        path = tab.project.folder / "logs" / "history.db"
        if not path.exists():
            return None
        with contextlib.closing(sqlite3.connect(path)) as file:
            ((moment,),) = file.execute("SELECT installed_at FROM entry")
        return str(moment)

    first = snapshots.utc_text(tab.project.clock.now())
    assert tab.run("-n", "--install-cron", "nightly").code == 0
    assert since() is None
    assert tab.run("--install-cron", "nightly").code == 0
    assert since() == first
    tab.project.clock.advance(3600)
    assert tab.run("--install-cron", "nightly").code == 0
    assert since() == first
    assert tab.run("--install-cron", "4:00").code == 0
    assert since() == snapshots.utc_text(tab.project.clock.now())


@pytest.mark.proves("cron-13")
def test_a_history_that_cannot_be_written_is_a_warning(tab: Tab) -> None:
    (tab.project.folder / "logs").mkdir()
    (tab.project.folder / "logs" / "history.db").mkdir()
    result = tab.run("--install-cron", "nightly")
    assert result.code == 0
    assert tab.text == tab.block("15 3 * * *")
    assert result.err.startswith("snapshots: warning: ")
    assert "history.db: cannot be written: " in result.err
    assert result.err.count("\n") == 1


def state(
    tab: Tab,
    last_run: Any = None,
    installed_at: Any = None,
    running: bool = False,
    now: datetime = NOW,
) -> snapshots.CronState:
    settings = snapshots.load_settings(tab.project.write_config(), required=True)
    job = snapshots.cron_job(str(tab.config), settings)
    began, ended = map(snapshots.utc_text, last_run or (None, None))
    runs = [{"started_at": began, "ended_at": ended}] if began else []
    past = snapshots.Past(runs=runs, entry_since=snapshots.utc_text(installed_at))
    return snapshots.cron_state(job, past, now, running)


@pytest.mark.proves("cron-13")
def test_the_state_of_cron_is_what_status_and_check_need(tab: Tab, monkeypatch: Any) -> None:
    monkeypatch.setattr(snapshots, "LOCALTIME", "/gone")
    tab.run("--show-cron")
    assert state(tab) == snapshots.CronState([], remarks=[])
    tab.run("--install-cron", "0 3 * * 1-5")
    days_ago = {days: NOW - timedelta(days=days) for days in range(8)}
    found = state(tab)
    assert [entry.by_hand for entry in found.entries] == [False]
    assert found.next_run_at == datetime(2026, 3, 3, 3, tzinfo=UTC)
    assert found.longest_gap_hours == 72
    assert found.remarks == []
    for last_run, installed_at, running, overdue in [
        (None, None, False, None),  # the history cannot be read, or knows nothing
        (None, NOW, False, False),
        (None, days_ago[3], False, True),
        ((days_ago[3], None), None, False, True),  # it was killed
        ((days_ago[3], days_ago[0]), None, False, False),
        ((days_ago[7], days_ago[7]), NOW, False, False),
        ((days_ago[7], days_ago[7]), days_ago[3], True, False),
    ]:
        found = state(tab, last_run, installed_at, running)
        assert found.overdue is overdue
        late = ("error", "OVERDUE: due 2026-03-02 03:00 UTC, no run has begun")
        errors = [remark for remark in found.remarks if remark[0] == "error"]
        assert errors == ([late] if overdue else [])


@pytest.mark.proves("cron-13")
def test_a_moved_directory_is_a_problem_and_another_python_a_warning(tab: Tab) -> None:
    tab.run("--install-cron", "nightly")
    good = tab.text
    for old, new, level in [
        (sys.executable, "/gone/python", "error"),
        (sys.executable, "/usr/bin/env", "warning"),
        (str(tab.project.folder), "/gone/away", "error"),
        ("15 3 *", "@reboot #", "warning"),
    ]:
        tab.set(good.replace(old, new))
        assert [remark[0] for remark in state(tab).remarks] == [level], new


@pytest.mark.proves("cron-13")
def test_a_machine_without_crontab_has_no_entry_and_no_trouble(
    tab: Tab, monkeypatch: Any, tmp_path: Path
) -> None:
    tab.project.server("hetzner", 11, "web")
    assert tab.run().code == 0
    monkeypatch.setenv("PATH", str(tmp_path))
    result = tab.run("--status", "--json")
    assert (result.code, json.loads(result.out)["schedule"]) == (0, None)
    assert re.search("^ok +crontab +no entry for this configuration", tab.run("--check").out, re.M)


@pytest.mark.proves("cron-13", "looking-4", "looking-7", "looking-10")
def test_looks_show_the_entry_the_next_run_and_one_that_did_not_come(
    tab: Tab, monkeypatch: Any
) -> None:
    monkeypatch.setattr(snapshots, "LOCALTIME", "/gone")
    tab.project.server("hetzner", 11, "web")
    assert json.loads(tab.run("--status", "--json").out)["schedule"] is None
    assert "no entry for this configuration" in tab.run("--check").out
    tab.run("--install-cron", "0 3 * * 1-5")  # it is Sunday, 3:00 UTC
    assert tab.run().code == 0
    result = tab.run("--status", "--json")
    assert result.code == 0
    found = json.loads(result.out)
    assert found["schedule"] == {
        "entry": tab.block("0 3 * * 1-5").splitlines()[1],
        "words": snapshots.in_words(snapshots.parse_schedule("0 3 * * 1-5")),
        "next_run_at": "2025-06-02T03:00:00Z",
        "minutes_until_next_run": 24 * 60 - 1,
        "overdue": False,
    }
    line = r"^cron: next run: 2025-06-02 03:00 UTC, in 23 h 59 min$"
    assert re.search(line, tab.run("--status").out, re.M)
    assert re.search(r"^ok +crontab +next run: ", tab.run("--check").out, re.M)
    tab.project.clock.advance(86400 + 2 * 3600)
    result = tab.run("--status", "--json")  # 26 hours old is fresh where 72 may lie between runs
    found = json.loads(result.out)
    assert (result.code, found["result"], found["schedule"]["overdue"]) == (2, "problem", True)
    assert [s["state"] for s in found["servers"]] == ["ok"]
    assert "OVERDUE: due 2025-06-02 03:00 UTC, no run has begun" in found["problems"]
    result = tab.run("--status", "--nagios")
    assert result.code == 2
    assert result.out.startswith("SNAPSHOTS CRITICAL - OVERDUE: due 2025-06-02 03:00 UTC")
    assert re.search(r"^error +crontab +OVERDUE: ", tab.run("--check").out, re.M)
    for hours, state in [(0, "ok"), (80, "ok"), (4, "stale")]:
        tab.project.clock.advance(hours * 3600)
        (web,) = json.loads(tab.run("--list", "--json").out)["servers"]
        assert web["state"] == state


@pytest.mark.proves("cron-13", "looking-4", "looking-7")
def test_a_crontab_that_cannot_be_read_is_unknown_to_looks(tab: Tab) -> None:
    tab.project.server("hetzner", 11, "web")
    assert tab.project.run().code == 0
    tab.mischief = {"-l": {"*": ["say crontab: read error", "exit 1"]}}
    result = tab.run("--status", "--json")
    found = json.loads(result.out)
    assert (result.code, found["result"], found["schedule"]) == (2, "unknown", None)
    assert "read error" in found["problems"][0]
    assert tab.run("--list").code == 0
    result = tab.run("--check")
    assert result.code == 2
    assert re.search(r"^unknown +crontab +.*read error", result.out, re.M)
    assert "no entry" not in result.out


# --- what --status and --check tell of it ---


@pytest.fixture
def scheduled(tab: Tab, monkeypatch: Any) -> Tab:
    """A server with a good snapshot of 03:00 UTC, and an entry for 03:15 each day."""
    monkeypatch.setattr(snapshots, "LOCALTIME", "/gone")
    tab.project.server("hetzner", 1, "web", retain=3)
    assert f"{tab.project.clock.now():%H:%M}" == "03:00"
    assert tab.run().code == 0
    assert tab.run("--install-cron", "nightly").code == 0
    return tab


def document(tab: Tab, *args: str) -> Any:
    return json.loads(tab.run(*args, "--json").out)


@pytest.mark.proves("cron-14")
def test_status_shows_the_entry_and_the_next_run(scheduled: Tab) -> None:
    result = scheduled.run("--status")
    assert (result.code, result.err) == (0, "")
    told = [line for line in result.out.splitlines() if line.startswith("cron: ")]
    assert len(told) == 2
    assert re.fullmatch(r"cron: crontab of \S+, line 2: at 03:15 every day", told[0])
    assert re.fullmatch(r"cron: next run: 2025-06-01 03:15 UTC, in 1\d min.*", told[1])
    schedule = document(scheduled, "--status")["schedule"]
    assert 10 < schedule.pop("minutes_until_next_run") < 15
    assert schedule == {
        "entry": scheduled.block("15 3 * * *").splitlines()[1],
        "words": "at 03:15 every day",
        "next_run_at": "2025-06-01T03:15:00Z",
        "overdue": False,
    }


def test_an_entry_that_is_no_utf8_is_json_that_every_parser_reads(scheduled: Tab) -> None:
    """No lone half of a character, which many refuse."""
    scheduled.set(scheduled.text.replace("2>&1", "2>&1 # caf\udce9"))
    assert document(scheduled, "--status")["schedule"]["entry"].endswith("2>&1 # caf?")


@pytest.mark.proves("cron-14")
def test_a_run_that_does_not_come_is_overdue(scheduled: Tab) -> None:
    """An hour after its start, and until one comes; never while one is under way."""
    clock = scheduled.project.clock
    clock.advance(70 * 60)
    assert scheduled.run("--status").code == 0
    clock.advance(10 * 60)
    result = scheduled.run("--status")
    told = "OVERDUE: due 2025-06-01 03:15 UTC, no run has begun"
    assert result.code == 2
    assert f"cron: error: {told}" in result.out.splitlines()
    assert told in result.out.splitlines()[-1]
    found = document(scheduled, "--status")
    assert found["schedule"]["overdue"] is True
    assert (found["result"], found["problems"]) == ("problem", [told])
    plugin = scheduled.run("--status", "--nagios")
    assert plugin.code == 2
    assert plugin.out.startswith(f"SNAPSHOTS CRITICAL - {told} | ")
    checked = document(scheduled, "--check")
    assert {"level": "error", "subject": "crontab", "finding": told, "fix": ""} in checked[
        "findings"
    ]
    with snapshots.single_run(scheduled.project.folder / "logs" / "snapshots.lock", clock):
        assert document(scheduled, "--status")["schedule"]["overdue"] is False
    assert (
        scheduled.run("--install-cron", "4:00").code == 0
    )  # 04:00 is over; that of 03:15 has gone
    assert document(scheduled, "--status")["schedule"]["overdue"] is False
    assert scheduled.run("--install-cron", "nightly").code == 0
    assert scheduled.run().code == 0
    assert document(scheduled, "--status")["schedule"]["overdue"] is False


@pytest.mark.proves("cron-14")
def test_a_run_while_the_clock_was_ahead_hides_no_start_that_does_not_come(scheduled: Tab) -> None:
    clock = scheduled.project.clock
    clock.begin += timedelta(days=300)
    assert scheduled.run().code == 0
    clock.begin -= timedelta(days=300)
    assert document(scheduled, "--status")["schedule"]["overdue"] is False
    assert scheduled.run().code == 0
    clock.advance(80 * 60)
    found = document(scheduled, "--status")
    assert found["last_run"]["started_at"].startswith("2025-06-01T03:00")
    assert found["schedule"]["overdue"] is True


@pytest.mark.proves("cron-14")
@pytest.mark.parametrize("what", ["gone", "damaged"])
def test_without_a_history_nobody_knows_what_is_overdue(scheduled: Tab, what: str) -> None:
    path = scheduled.project.folder / "logs" / "history.db"
    scheduled.project.clock.advance(10 * 3600)
    path.unlink() if what == "gone" else path.write_bytes(b"nothing" * 1000)
    schedule = document(scheduled, "--status")["schedule"]
    assert schedule["words"] == "at 03:15 every day"
    assert schedule["overdue"] is None


@pytest.mark.proves("cron-14")
def test_an_entry_once_a_week_makes_no_server_stale_for_six_days(scheduled: Tab) -> None:
    scheduled.project.clock.advance(3 * 86_400)
    scheduled.run("--install-cron", "nightly")
    assert document(scheduled, "--status")["servers"][0]["state"] == "stale"
    scheduled.run("--install-cron", "weekly")
    for flag in ("--status", "--list"):
        found = document(scheduled, flag)
        assert (found["servers"][0]["state"], found["problems"]) == ("ok", [])


@pytest.mark.proves("cron-14")
def test_check_shows_what_is_wrong_with_an_entry(scheduled: Tab) -> None:
    good = scheduled.text

    def findings(text: str) -> list[tuple[str, str]]:
        scheduled.set(text)
        found = document(scheduled, "--check")["findings"]
        return [(f["level"], f["finding"]) for f in found if f["subject"] == "crontab"]

    assert [level for level, _ in findings(good)] == ["ok", "ok"]
    assert [level for level, _ in findings(OTHERS)] == ["ok"]
    for old, new, level, told in [
        (str(scheduled.project.folder), "/gone", "error", "/gone is not there (moved?"),
        (sys.executable, "/usr/bin/env", "warning", "run by another Python than this"),
        ("# BEGIN", "# begin", "unknown", "half a block"),
    ]:
        last = findings(good.replace(old, new))[-1]
        assert last[0] == level
        assert told in last[1]
        assert scheduled.run("--check").code == (0 if level == "warning" else 2)
    by_hand = findings(good + f"17 3 * * * cd {SCRIPT.parent} && {sys.executable} snapshots.py\n")
    assert ", line 4, by hand: at 03:17 every day" in by_hand[1][1]
    assert by_hand[-1][0] == "warning"
    assert "are too close together" in by_hand[-1][1]


@pytest.mark.proves("cron-14")
def test_what_cron_is_given_is_not_missing_there(
    scheduled: Tab, monkeypatch: Any, tmp_path: Path
) -> None:
    """By the crontab, or by PAM from /etc/environment."""
    pam, environment = tmp_path / "cron", tmp_path / "environment"
    monkeypatch.setattr(snapshots, "PAM_OF_CRON", pam)
    monkeypatch.setattr(snapshots, "ENVIRONMENT_OF_PAM", environment)
    for name in ("HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "/x")

    def warned() -> set[str]:
        found = document(scheduled, "--check")["findings"]
        return {f["finding"].split()[0] for f in found if f["subject"] == "environment"}

    assert warned() == {"HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE"}
    scheduled.set(f"HTTPS_PROXY = http://127.0.0.1:9\n#https_proxy=/x\n{scheduled.text}")
    environment.write_text('export SSL_CERT_FILE="/x"\nhttps_proxy=\n')
    assert warned() == {"https_proxy", "SSL_CERT_FILE"}
    pam.write_text("session required pam_env.so envfile=/etc/default/locale\n")
    assert warned() == {"https_proxy", "SSL_CERT_FILE"}
    pam.write_text("session       required   pam_env.so\n")
    assert warned() == {"https_proxy"}


@pytest.mark.proves("cron-14")
def test_a_crontab_that_cannot_be_read_is_unknown(scheduled: Tab) -> None:
    scheduled.mischief = {"-l": {"*": ["half"]}}
    result = scheduled.run("--status")
    assert result.code == 2
    assert "cron: unknown: crontab -l: exit status 1: crontab: read error" in result.out
    found = document(scheduled, "--status")
    assert (found["schedule"], found["result"]) == (None, "unknown")
    assert scheduled.run("--status", "--nagios").code == 3


# --- where there is no crontab ---


@pytest.mark.proves("cron-11")
def test_without_crontab_a_timer_is_shown_too(tab: Tab, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    result = tab.run("--install-cron", "nightly")
    assert result.code == 1
    assert result.err == (
        "snapshots: crontab -l: cannot be run: No such file or directory; nothing was written"
        " (put the block above in with crontab -e, or use the systemd timer above)\n"
    )
    lines = result.out.splitlines()
    for line in [*tab.block("15 3 * * *").splitlines(), "OnCalendar=*-*-* 3:15:00"]:
        assert line in lines
    for option in ("--show-cron", "--remove-cron"):
        result = tab.run(option)
        assert result.code == 1
        assert "cannot be run: No such file or directory" in result.err


def units(job: snapshots.CronJob, schedule: snapshots.Schedule, folder: Path) -> list[Path]:
    """The files of what is printed, each named as its first line says."""
    paths: list[Path] = []
    for line in snapshots.systemd_units(job, schedule).split("\n"):
        named = re.match(r"# /etc/systemd/system/([a-z.]+)", line)
        if named:
            paths.append(folder / named[1])
            paths[-1].write_text("")
        with open(paths[-1], "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    return paths


@pytest.mark.proves("cron-11")
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("name", ["plain", 'it\'s $a "b" c'])
def test_systemd_takes_the_units(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    command = [sys.executable, str(SCRIPT), "--config", f"{folder}/c.conf"]
    job = snapshots.CronJob(folder / "c.conf", folder, command)
    for number, text in enumerate(["nightly", "0 3 13 * 5", "*/20 1-5 */2 1,7 mon"]):
        there = tmp_path / str(number)
        there.mkdir()
        paths = units(job, snapshots.parse_schedule(text), there)
        assert [path.name for path in paths] == ["snapshots.service", "snapshots.timer"]
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *map(str, paths)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.proves("cron-11")
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_would_start_when_cron_would(tmp_path: Path) -> None:
    from test_schedule import expressions, parsed

    job = snapshots.CronJob(tmp_path / "c", tmp_path, [sys.executable, str(SCRIPT)])
    compared = 0
    for text in ["nightly", "every-6-hours", "weekly", "0 3 13 * 5", *expressions(7, 60)]:
        schedule = parsed(text)
        if schedule is None:
            continue
        lines = snapshots.systemd_units(job, schedule).split("\n")
        calendars = [line.partition("=")[2] for line in lines if line.startswith("OnCalendar=")]
        done = subprocess.run(
            ["systemd-analyze", "calendar", "--iterations=3", "--base-time=2026-03-02 12:00 UTC",
             *calendars],
            capture_output=True, text=True, check=True, env={**os.environ, "TZ": "UTC"},
        )  # fmt: skip
        found = re.findall(r"(?:elapse|Iter\w*\.? #\d+): \w+ ([0-9: -]+) UTC", done.stdout)
        assert found, done.stdout
        theirs = sorted({datetime.strptime(f"{t} +0000", "%Y-%m-%d %H:%M:%S %z") for t in found})
        mine = snapshots.starts_after(schedule, NOW, UTC)
        assert theirs[:3] == list(itertools.islice(mine, len(theirs[:3]))), text
        compared += 1
    assert compared > 40


# --- Windows ---


def powershell_words(text: str) -> list[str]:
    """A command of PowerShell as its words; the literals with what they stand for.

    By about_Quoting_Rules: within single quotes everything is itself but the quote, which is
    doubled; U+2018 to U+201B are such quotes as well. A backtick ends a line that goes on.
    """
    words: list[str] = []
    quotes = "'\u2018\u2019\u201a\u201b"
    position = 0
    text = text.replace("`\n", " ")
    while position < len(text):
        character = text[position]
        if character in quotes:
            literal = ""
            position += 1
            while True:
                assert position < len(text), "a literal without an end"
                if text[position] in quotes:
                    if text[position + 1 : position + 2] not in list(quotes):
                        break
                    position += 1
                literal += text[position]
                position += 1
            words.append(literal)
            position += 1
        elif character.isspace():
            position += 1
        else:
            end = position
            while end < len(text) and not text[end].isspace() and text[end] not in quotes:
                end += 1
            words.append(text[position:end])
            position = end
    return words


def windows_arguments(line: str) -> list[str]:
    """A command line as the C runtime of Windows takes it apart (no quotes doubled in it)."""
    words, word, quoted, begun, slashes = [], "", False, False, 0
    for character in line + " ":
        if character == "\\":
            slashes += 1
            continue
        if character == '"':
            word += "\\" * (slashes // 2)
            if slashes % 2:
                word += '"'
            else:
                quoted = not quoted
            begun, slashes = True, 0
            continue
        word, begun, slashes = word + "\\" * slashes, begun or slashes > 0, 0
        if character in " \t" and not quoted:
            if begun:
                words.append(word)
            word, begun = "", False
        else:
            word, begun = word + character, True
    return words


WINDOWS_PATHS = [
    r"C:\snapshots",
    r"C:\Program Files\snapshots",
    "D:\\it's \u2018so\u2019 $x `y` \u201clow\u201d; rm &",
]


@pytest.mark.proves("cron-12")
@pytest.mark.parametrize("folder", WINDOWS_PATHS)
def test_powershell_registers_what_cron_would_start(folder: str) -> None:
    config = f"{folder}\\snapshots.config"
    program = [f"{folder}\\.venv\\Scripts\\python.exe", f"{folder}\\snapshots.py"]
    job = snapshots.CronJob(Path(config), Path("logs"), [*program, "--config", config])
    text = snapshots.scheduled_task(job, snapshots.parse_schedule("twice-a-day"), looks=False)
    words = powershell_words(text)
    assert words[words.index("-Execute") + 1] == f"{folder}\\.venv\\Scripts\\python.exe"
    arguments = words[words.index("-Argument") + 1]
    assert windows_arguments(arguments) == [
        f"{folder}\\snapshots.py",
        "--config",
        f"{folder}\\snapshots.config",
    ]
    assert [words[n + 1] for n, w in enumerate(words) if w == "-At"] == ["03:15", "15:15"]
    assert words.count("-Daily") == 2
    name = words[words.index("-TaskName") + 1]
    assert not set(name) & set('\\/:*?"<>|')
    for looks in (True, False):
        other = powershell_words(snapshots.scheduled_task(job, None, looks))
        assert other[other.index("-TaskName") + 1] == name


@pytest.mark.proves("cron-12")
@pytest.mark.parametrize(
    ("when", "triggers"),
    [
        ("nightly", ["-Daily -At '03:15'"]),
        (
            "0 3 * * 1-5",
            ["-Weekly -DaysOfWeek Monday,Tuesday,Wednesday,Thursday,Friday -At '03:00'"],
        ),
        (
            "0 3,9 * * 7",
            ["-Weekly -DaysOfWeek Sunday -At '03:00'", "-Weekly -DaysOfWeek Sunday -At '09:00'"],
        ),
        ("@hourly", [f"-Daily -At '{hour:02}:00'" for hour in range(24)]),
        ("0 3 1-31 * 5", ["-Daily -At '03:00'"]),
    ],
)
def test_powershell_has_a_trigger_for_each_time_of_day(when: str, triggers: list[str]) -> None:
    job = snapshots.CronJob(Path("/x/c"), Path("/x"), ["/x/python", "/x/snapshots.py"])
    text = snapshots.scheduled_task(job, snapshots.parse_schedule(when), looks=False)
    assert re.findall(r"^  New-ScheduledTaskTrigger (.+)$", text, re.MULTILINE) == triggers


@pytest.mark.proves("cron-12")
@pytest.mark.parametrize(
    "when", ["@monthly", "0 3 13 * 5", "* * * * *", "0 3 * 1 *", "0 3 */2 * 1"]
)
def test_what_the_task_scheduler_cannot_start_is_refused(when: str) -> None:
    job = snapshots.CronJob(Path("/x/c"), Path("/x"), ["/x/python", "/x/snapshots.py"])
    with pytest.raises(snapshots.CrontabError, match="min_interval_hours"):
        snapshots.scheduled_task(job, snapshots.parse_schedule(when), looks=False)


# --- Debian's own ---

IN_CRON = """
crontab "$FOLDER/before"
crontab -l > "$FOLDER/first"
"$@" --install-cron '* * * * *'
crontab -l > "$FOLDER/installed"
LD_PRELOAD="$LIBFAKETIME" FAKETIME='@2026-03-28 23:58:00 x60' "$CRON" -f &
for _ in $(seq 600); do
  grep -qs SUMMARY "$FOLDER/logs/cronjob.log" && break
  sleep 0.1
done
kill $!
"$@" --remove-cron
crontab -l > "$FOLDER/last"
"""


@pytest.mark.proves("cron-10")
@pytest.mark.skipif(
    CRON_DAEMON is None or LIBFAKETIME is None, reason="cron and libfaketime are not installed"
)
def test_a_real_cron_starts_what_was_installed(place: Place) -> None:  # noqa: F811
    """A minute is a second here; cron sees a crontab of its own, and our entry behind others'."""
    if os.geteuid() != 0:
        pytest.skip("only root can give cron a file system of its own")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("there are no mount namespaces here")
    server = place.server(duration_seconds=0.5)
    folder = place.folder
    (folder / "before").write_text('MAILTO=""\n# others\n0 0 1 1 * true % x\n')
    environment = {"FOLDER": folder, "CRON": CRON_DAEMON, "LIBFAKETIME": LIBFAKETIME}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", NO_CRONTABS + IN_CRON, "sh", *place.command()],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "last").read_bytes() == (folder / "first").read_bytes()
    assert (folder / "installed").read_text().startswith((folder / "first").read_text() + "# BEGIN")
    said = (folder / "logs" / "cronjob.log").read_text()
    assert "SUMMARY: 1 succeeded, 0 failed out of 1 total" in said
    assert " | web | SUCCESS | " in place.log
    with contextlib.closing(sqlite3.connect(folder / "logs" / "history.db")) as history:
        runs = [row for (row,) in history.execute("SELECT exit_status FROM run")]
        turns = list(history.execute("SELECT name, success FROM turn"))
    assert runs[0] == 0
    assert turns[0] == ("web", 1)
    assert place.cloud.snapshots(server)
    with open(folder / "logs" / "snapshots.lock") as lock:  # one more may just have begun
        fcntl.flock(lock, fcntl.LOCK_EX)
