"""The whole way of a new user, on an account that has nothing: --setup, and then cron alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FakeCloud
from fakes.mail import MailServer
from fakes.monitors import Check
from test_cli import CRON_DAEMON, LIBFAKETIME, NO_CRONTABS

import snapshots

SCRIPT = Path(snapshots.__file__).resolve()

# Root's home may be closed to others; what the interpreter needs of it is not.
OPEN = """
mkdir -p /mnt/closed
mount -t tmpfs tmpfs /mnt
mkdir /mnt/closed
mount --bind "$CLOSED" /mnt/closed
mount -t tmpfs -o mode=755 tmpfs "$CLOSED"
mkdir "$CLOSED/$NEEDED"
mount --bind "/mnt/closed/$NEEDED" "$CLOSED/$NEEDED"
"""
NIGHT = """
mount -t tmpfs -o mode=755 tmpfs /home
cp -a /etc /home/.etc
mount --bind /home/.etc /etc
chgrp crontab /var/spool/cron/crontabs
useradd --create-home --shell /bin/sh newuser
as_user() { setpriv --reuid newuser --regid newuser --init-groups env -i HOME=/home/newuser PATH=/usr/bin:/bin "$@"; }
as_user mkdir /home/newuser/snapshots
cd /home/newuser/snapshots
for name in snapshots.py snapshots.config.sample snapshots.config; do
  install -o newuser -g newuser -m 600 "$FOLDER/$name" .
done
as_user "$PYTHON" snapshots.py --setup > "$FOLDER/setup.out" 2> "$FOLDER/setup.err" || echo "exit $?"
LD_PRELOAD="$LIBFAKETIME" FAKETIME='@2026-11-26 03:14:30 x60' "$CRON" -f < /dev/null &
for _ in $(seq 600); do
  grep -qs SUMMARY logs/cronjob.log && [ -e report.html ] && break
  sleep 0.1
done
kill $!
for _ in $(seq 100); do as_user flock -n logs/snapshots.lock true && break; sleep 0.1; done
as_user "$PYTHON" snapshots.py --status > "$FOLDER/status.out" || echo "exit $?"
as_user "$PYTHON" snapshots.py --check > "$FOLDER/check.out" || echo "exit $?"
as_user crontab -l > "$FOLDER/crontab.out"
find . -user newuser -printf '%P %m\\n' > "$FOLDER/files.out"
cp -a . "$FOLDER/home"
"""


def closed_parent() -> dict[str, str]:
    """The directory above the interpreter that other users cannot enter, and what is needed in it."""
    for path in (Path(sys.base_prefix), SCRIPT):
        for parent in reversed(path.parents):
            if not parent.stat().st_mode & stat.S_IXOTH:
                return {"CLOSED": str(parent), "NEEDED": path.relative_to(parent).parts[0]}
    return {}


@pytest.mark.proves("setup-1")
@pytest.mark.skipif(
    CRON_DAEMON is None or LIBFAKETIME is None, reason="cron and libfaketime are not installed"
)
def test_answers_and_then_cron_alone_bring_snapshots_messages_and_a_report(tmp_path: Path) -> None:
    """A bare account of this machine's, where that can be made; test_night.py has a whole machine.

    cron's day passes in 24 minutes: the entry of 03:15 begins half a second after it starts.
    """
    if os.geteuid() != 0 or not shutil.which("useradd") or not shutil.which("setpriv"):
        pytest.skip("only root can make an account and give cron a file system of its own")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("there are no mount namespaces here")
    mails = MailServer(None, users=None).start()
    with FakeCloud() as cloud:
        token, bot = "CANARY-token-of-a-new-user-0001", "4711:CANARY-bot-of-a-new-user"
        hook = f"{cloud.url}/hook/CANARY-hook-of-a-new-user"
        account = cloud.add_account("hetzner", token=token)
        servers = [cloud.add_server(account, 11, "web"), cloud.add_server(account, 12, "db")]
        code = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
        cloud.checks[code] = monitor = Check()
        chat = {"id": 4711, "type": "private", "first_name": "Ada"}
        cloud.add_bot(bot, [4711]).updates.append({"message": {"chat": chat}})
        api = "".join(f"{key} = {value}\n" for key, value in cloud.endpoints().items())
        for name in ("snapshots.py", "snapshots.config.sample"):
            shutil.copy(SCRIPT.parent / name, tmp_path)
        (tmp_path / "snapshots.config").write_text(
            "[TIMING]\ndelay_between_servers = 0\npoll_interval = 0.1\n"
            f"[NOTIFICATIONS]\nmode = summary\n[REPORT]\nfile = report.html\n[API]\n{api}"
            f"[SMTP]\nnotify_on_success = true\n[PING]\nurl = {cloud.url}/ping/{code}\n"
        )
        answers = ["hetzner", token, "all", "2", "telegram", bot, "1", "yes"]
        answers += ["webhook", hook, "yes", "mail", "127.0.0.1", str(mails.port), ""]
        answers += ["snapshots@example.org", "ops@example.org", "yes", "nothing", "nightly", "yes"]
        closed = closed_parent()
        environment = {
            "FOLDER": str(tmp_path),
            "PYTHON": sys.executable,
            "CRON": str(CRON_DAEMON),
            "LIBFAKETIME": str(LIBFAKETIME),
            **closed,
        }
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", NO_CRONTABS + (OPEN if closed else "") + NIGHT],
            input="".join(f"{answer}\n" for answer in answers),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, **environment},
        )
    mails.stop()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    told = {path.stem: path.read_text("utf-8") for path in tmp_path.glob("*.out")}
    assert (tmp_path / "setup.err").read_text() == ""
    assert "web: would create web-" in told["setup"]

    folder = "/home/newuser/snapshots"
    assert told["crontab"] == (
        f"# BEGIN snapshots.py {folder}/snapshots.config (by --install-cron;"
        f" --remove-cron takes it out)\n15 3 * * * cd {folder} && {sys.executable}"
        f" {folder}/snapshots.py >> {folder}/logs/cronjob.log 2>&1\n"
        f"# END snapshots.py {folder}/snapshots.config\n"
    )
    modes = dict(line.rsplit(" ", 1) for line in told["files"].splitlines())
    assert {mode for name, mode in modes.items() if name not in ("", "logs", "configs")} == {"600"}
    assert (modes["logs"], modes["configs"]) == ("700", "700")

    said = (tmp_path / "home" / "logs" / "cronjob.log").read_text("utf-8")
    assert said == "SUMMARY: 2 succeeded, 0 failed out of 2 total\n"
    assert sorted(cloud.names()) == sorted(snapshot.name for snapshot in cloud.created)
    assert [len(cloud.snapshots(server)) for server in servers] == [1, 1]
    for texts in (
        [message.text for message in cloud.telegram_messages],
        [json.dumps(hook.json) for hook in cloud.hooks],
        [mail.part("plain") for mail in mails.mails],
    ):
        test, summary = texts  # a message of --setup, and one for the whole night
        assert "TEST" in test
        assert "web" in summary
        assert "db" in summary
        assert "2 succeeded" in summary
    assert monitor.events == [("start", ""), ("success", said.rstrip("\n"))]
    page = (tmp_path / "home" / "report.html").read_text("utf-8")
    assert re.search(r"\bweb\b.*\bdb\b|\bdb\b.*\bweb\b", page, re.DOTALL)
    assert "RESULT: all well" in told["status"]
    assert "next run: " in told["status"]
    assert "RESULT: all well" in told["check"]
