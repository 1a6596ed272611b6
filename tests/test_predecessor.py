"""A directory as the users of drhdev/snapshots 0.3 have it, unchanged but for the address of the
cloud, under this script."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from fakes import Account, FakeCloud, Server, Snapshot, status

import snapshots

SCRIPT = Path(snapshots.__file__).resolve()
BOT, OWN_BOT = "111111111:CANARY-global-AAEhBP0av28Jki9", "222222222:CANARY-own-AAF3cD0av28Jki9mQ"
HOOK = "/hook/CANARY-path-of-the-webhook"

# What its users write into snapshots.config: every key it had, the bare [DEFAULT] of its sample.
CONFIG = """\
[DEFAULT]
# Settings of the snapshots
[DIRECTORIES]
configs_dir = configs
logs_dir = logs

[FILES]
log_file = snapshots.log
lock_file = snapshots.lock

[TIMING]
delay_between_servers = 5
snapshot_creation_timeout = 7200

[LOGGING]
max_bytes = 5242880
backup_count = 5
level = DEBUG

[TELEGRAM]
enabled = true
bot_token = {bot}
chat_id = 123
timeout = 10
retries = 3
base_delay_between_retries = 2
message_success = *Done*\\nServer: `{{server_name}}`\\nSnapshot: `{{snapshot_name}}`\\n{{snapshot_info}}
message_failure = *Failed*\\nServer: `{{server_name}}` ({{droplet_id}})

[WEBHOOK]
enabled = false
url =
timeout = 10
retries = 3
base_delay_between_retries = 2
payload_success =
payload_failure =
"""

TEMPLATE = {
    "what": "{script} on {hostname}",
    "server": {"name": "{droplet_name}", "id": "{server_id}", "at": ["{provider}"]},
    "text": "{status} {snapshot_name} {total_snapshots} {unknown}",
}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content, indent=2)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)


@pytest.fixture
def old(project: Project) -> Project:
    """Two droplets and two servers at Hetzner, each with nights of the predecessor behind it."""
    cloud, folder = project.cloud, project.folder
    cloud.add_bot(BOT, ["123"])
    cloud.add_bot(OWN_BOT, ["-100456"])
    droplets, servers = project.account("digitalocean"), project.account("hetzner")
    for number, (owner, id) in enumerate(
        [(droplets, 101), (droplets, 102), (servers, 201), (servers, 202)]
    ):
        server = cloud.add_server(owner, id, f"name-{number}", duration_seconds=200)
        # One a night; a run of the predecessor left one more than it was told to keep.
        for night in (4, 3, 2, 1):
            add_old(cloud, server, project.clock.now() - timedelta(days=night))
    web = {
        "provider": "digitalocean",
        "id": "101",
        "name": "name-0",
        "api_token": droplets.token,
        "retain_last_snapshots": 3,
    }
    write(folder / "configs" / "digitalocean_droplet1.json", {"digitalocean_droplet": web})
    own = {
        **web,
        "id": 102,
        "name": "name-1",
        "retain_last_snapshots": "3",
        "telegram": {
            "enabled": True,
            "bot_token": OWN_BOT,
            "chat_id": "-100456",
            "message_success": "{server_name}: {status}\n_{snapshot_info}_",
            "message_failure": "{server_name}: {status}",
        },
        "webhook": {
            "enabled": True,
            "url": f"{cloud.url}{HOOK}",
            "payload_success": TEMPLATE,
            "payload_failure": TEMPLATE,
        },
    }
    write(folder / "configs" / "digitalocean_droplet2.json", {"digitalocean_droplet": own})
    # The rest of the sample as it was: placeholders, which count as nothing.
    third = {
        "provider": "hetzner",
        "id": "201",
        "name": "name-2",
        "api_token": servers.token,
        "retain_last_snapshots": 3,
        "telegram": {
            "enabled": True,
            "bot_token": "your_telegram_bot_token_here",
            "chat_id": "your_telegram_chat_id_here",
        },
        "webhook": {"enabled": True, "url": "https://your-webhook-url.com/notify"},
    }
    write(folder / "configs" / "hetzner_cloud_server1.json", {"hetzner_cloud_server": third})
    silent = {**third, "id": 202, "name": "name-3", "telegram": {"enabled": False}}
    del silent["provider"], silent["webhook"]
    write(folder / "configs" / "hetzner_cloud_server2.json", {"hetzner_cloud_server": silent})
    write(folder / "configs" / "._hetzner_cloud_server2.json", "\0\5\26\7 left by a Mac")
    write(folder / "configs" / "hetzner_cloud_server3.json.sample", {"hetzner_cloud_server": {}})
    write(folder / "snapshots.config", CONFIG.format(bot=BOT) + api(cloud))
    return project


def api(cloud: FakeCloud) -> str:
    return "\n[API]\n" + "".join(f"{key} = {url}\n" for key, url in cloud.endpoints().items())


def add_old(cloud: FakeCloud, server: Server, at: datetime) -> Snapshot:
    """As the predecessor left one: named by the local time, with no label."""
    local = at.astimezone().replace(tzinfo=None)
    return cloud.add_snapshot(server, f"{server.name}-{local:%Y%m%d%H%M%S}", at)


def run(old: Project, *args: str) -> tuple[int, str, str, list[str]]:
    """(exit status, stdout, stderr, what the log has more than before)"""
    log = old.folder / "logs" / "snapshots.log"
    before = log.read_text(encoding="utf-8") if log.exists() else ""
    old.capsys.readouterr()
    code = snapshots.main(["--config", str(old.folder / "snapshots.config"), *args], old.clock)
    captured = old.capsys.readouterr()
    lines = log.read_text(encoding="utf-8")[len(before) :].splitlines() if log.exists() else []
    return int(code), captured.out, captured.err, lines


def final_statuses(lines: list[str]) -> dict[str, list[str]]:
    """Read as other tools read the log: by server, the nine fields."""
    found = {}
    for line in lines:
        match = re.fullmatch(
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| [A-Z]+ *\| (FINAL_STATUS \| .*)", line
        )
        if match:
            fields = match[1].split(" | ")
            assert len(fields) == 9
            found[fields[3]] = fields
    return found


def servers(old: Project) -> list[Server]:
    return [server for owner in old.cloud.accounts for server in owner.servers.values()]


@pytest.mark.proves("parties-4")
def test_the_directory_runs_unchanged(old: Project) -> None:
    code, out, err, lines = run(old)
    # It said nothing of a channel that is enabled and has no address.
    assert (code, err) == (
        0,
        "snapshots: warning: no webhook notification: url not set (for name-2)\n",
    )
    assert out == "SUMMARY: 4 succeeded, 0 failed out of 4 total\n"
    assert any(line.endswith("SUMMARY: 4 succeeded, 0 failed out of 4 total") for line in lines)
    assert all(re.match(r"[-0-9]{10} [:0-9]{8} \| [A-Z]+ *\| \S", line) for line in lines)
    found = final_statuses(lines)
    for server in servers(old):
        fields = found[server.name]
        provider = server.account.provider
        assert fields[:6] == [
            *("FINAL_STATUS", "snapshots.py", provider, server.name, "SUCCESS"),
            socket.gethostname(),
        ]
        assert re.fullmatch(r"2025-06-01 05:\d\d:\d\d", fields[6])  # 3 o'clock UTC is 5 in Berlin
        assert re.fullmatch(rf"{server.name}-20250601050\d{{3}}", fields[7])
        assert fields[8] == "3 snapshots exist"
    assert (old.folder / "logs" / "snapshots.lock").exists()


@pytest.mark.proves("parties-4")
def test_its_snapshots_are_taken_over_and_those_made_by_hand_stay(old: Project) -> None:
    cloud = old.cloud
    expected = {server.id: cloud.names(server)[-2:] for server in servers(old)}
    by_hand = []
    for server in servers(old):
        stranger = cloud.add_server(server.account, int(server.id) + 7000, f"{server.name}2")
        long_ago = old.clock.now() - timedelta(days=100)
        for name in (
            f"my-{server.name}-golden-image-DO-NOT-DELETE",
            f"{server.name}-before-upgrade",
            f"{server.name}-2025",
            server.name,
            "by hand",
        ):
            by_hand.append(cloud.add_snapshot(server, name, long_ago))
        by_hand.append(add_old(cloud, stranger, long_ago))
        by_hand.append(cloud.add_snapshot(stranger, f"{server.name}-20250101030000", long_ago))
    assert run(old)[0] == 0
    left = cloud.snapshots()
    assert all(snapshot in left for snapshot in by_hand)
    for id, names in expected.items():
        ours = [s.name for s in left if s.server and s.server.id == id and s not in by_hand]
        assert ours[:2] == names
        assert len(ours) == 3
    # and so it stays, night after night
    for _ in range(3):
        old.clock.advance(86400)
        assert run(old)[0] == 0
    left = cloud.snapshots()
    assert all(snapshot in left for snapshot in by_hand)
    assert len(left) == len(by_hand) + 3 * 4


@pytest.mark.proves("parties-4")
def test_names_of_the_hour_that_comes_twice_are_taken_over(old: Project) -> None:
    """It named them in local time, so their names are not in the order of their times."""
    (server, *_) = servers(old)
    for snapshot in old.cloud.snapshots(server):
        old.cloud.forget(snapshot)
    for utc in ("2024-10-27T00:50:00", "2024-10-27T01:10:00"):
        at = datetime.fromisoformat(utc).replace(tzinfo=timezone.utc)
        add_old(old.cloud, server, at)
    assert old.cloud.names(server) == ["name-0-20241027025000", "name-0-20241027021000"]
    for _ in range(2):
        assert run(old)[0] == 0
        old.clock.advance(86400)
    assert old.cloud.names(server)[0] == "name-0-20241027021000"
    assert len(old.cloud.names(server)) == 3


@pytest.mark.proves("parties-4")
def test_everybody_is_notified_as_before(old: Project) -> None:
    assert run(old)[0] == 0
    messages = {(m.token, m.chat_id): [] for m in old.cloud.telegram_messages}  # type: ignore[var-annotated]
    for message in old.cloud.telegram_messages:
        messages[message.token, message.chat_id].append(message)
    names = {server.name: old.cloud.names(server)[-1] for server in servers(old)}
    mine, everybodys = messages[OWN_BOT, "-100456"], messages[BOT, "123"]
    assert [m.text for m in mine] == ["name-1: SUCCESS\n3 snapshots exist"]
    assert [e["type"] for e in mine[0].entities] == ["italic"]
    assert sorted(m.text for m in everybodys) == [
        f"Done\nServer: {name}\nSnapshot: {names[name]}\n3 snapshots exist"
        for name in ("name-0", "name-2")
    ]
    assert all([e["type"] for e in m.entities] == ["bold", "code", "code"] for m in everybodys)
    (hook,) = old.cloud.hooks
    assert hook.path == HOOK
    assert hook.headers["content-type"].startswith("application/json")
    assert hook.json == {
        "what": f"snapshots.py on {socket.gethostname()}",
        "server": {"name": "name-1", "id": "102", "at": ["digitalocean"]},
        "text": f"SUCCESS {names['name-1']} 3 {{unknown}}",
    }


@pytest.mark.proves("parties-4")
def test_a_failure_is_reported_as_before_and_says_why(old: Project) -> None:
    for server in servers(old):
        server.fails = True
    code, _, _, lines = run(old)
    assert code == 1
    found = final_statuses(lines)
    assert {fields[4] for fields in found.values()} == {"FAILURE"}
    assert {fields[7] for fields in found.values()} == {"none"}
    assert {fields[8] for fields in found.values()} == {"4 snapshots exist"}
    texts = [m.text for m in old.cloud.telegram_messages]
    assert sorted(text.split("\nError: ")[0] for text in texts) == [
        "Failed\nServer: name-0 (101)",
        "Failed\nServer: name-2 (201)",
        "name-1: FAILURE",
    ]
    assert all("\nError: " in text for text in texts)
    (hook,) = old.cloud.hooks
    assert hook.json["text"] == "FAILURE none 4 {unknown}"
    assert all(len(old.cloud.names(server)) >= 4 for server in servers(old))


@pytest.mark.proves("parties-4")
def test_the_built_in_payload_has_the_same_keys(old: Project) -> None:
    config = old.folder / "snapshots.config"
    text = config.read_text(encoding="utf-8")
    head, tail = text.split("[WEBHOOK]")
    tail = tail.replace("enabled = false\nurl =", f"enabled = true\nurl = {old.cloud.url}{HOOK}")
    write(config, f"{head}[WEBHOOK]{tail}")
    assert run(old)[0] == 0
    payloads = {hook.json["server"]: hook.json for hook in old.cloud.hooks if "script" in hook.json}
    payload = payloads["name-0"]
    assert re.fullmatch(r"2025-06-01 05:\d\d:\d\d", payload.pop("timestamp"))
    assert payload == {
        "script": "snapshots.py",
        "provider": "digitalocean",
        "server": "name-0",
        "server_id": "101",
        "status": "SUCCESS",
        "hostname": socket.gethostname(),
        "snapshot_name": old.cloud.names(servers(old)[0])[-1],
        "total_snapshots": 3,
        "snapshot_info": "3 snapshots exist",
    }


@pytest.mark.proves("parties-4")
def test_emptied_templates_mean_the_built_in_ones(old: Project) -> None:
    config = old.folder / "snapshots.config"
    text = re.sub(r"(message_\w+) = .*", r"\1 =", config.read_text(encoding="utf-8"))
    write(config, text)
    assert run(old)[0] == 0
    texts = [m.text for m in old.cloud.telegram_messages if m.chat_id == "123"]
    assert len(texts) == 2
    assert all("name-" in text and "3 snapshots exist" in text for text in texts)


@pytest.mark.proves("parties-4")
def test_the_exit_numbers_are_the_documented_ones(old: Project) -> None:
    assert run(old)[0] == 0
    old.cloud.fault("POST /do/droplets/{id}/actions", status(422))
    assert run(old)[0] == 2
    for owner in old.cloud.accounts:
        owner.revoked = True
    assert run(old)[0] == 1
    with open(old.folder / "logs" / "snapshots.lock", "r+", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asked = len(old.cloud.journal)
        assert run(old)[0] == 3
        assert len(old.cloud.journal) == asked
    (old.folder / "configs").rename(old.folder / "elsewhere")
    assert run(old)[0] == 1


@pytest.mark.proves("parties-4")
def test_the_arguments_are_the_same(old: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    code, out, _, lines = run(old, "hetzner_cloud_server1.json", "-v")
    assert code == 0
    assert set(final_statuses(lines)) == {"name-2"}
    assert set(final_statuses(out.splitlines())) == {"name-2"}  # the log on stdout
    path = old.folder / "configs" / "digitalocean_droplet1.json"
    code, _, _, lines = run(old, str(path), "hetzner_cloud_server2.json")
    assert (code, set(final_statuses(lines))) == (0, {"name-0", "name-3"})


@pytest.mark.proves("parties-4")
def test_absolute_directories_are_taken_as_they_are(old: Project, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("var")
    config = old.folder / "snapshots.config"
    text = config.read_text(encoding="utf-8")
    text = text.replace("configs_dir = configs", f"configs_dir = {elsewhere}/servers")
    text = text.replace("logs_dir = logs", f"logs_dir = {elsewhere}/log")
    text = text.replace("log_file = snapshots.log", "log_file = night.log")
    write(config, text.replace("lock_file = snapshots.lock", "lock_file = night.lock"))
    (old.folder / "configs").rename(elsewhere / "servers")
    assert run(old)[0] == 0
    assert {path.name for path in (elsewhere / "log").iterdir()} >= {"night.log", "night.lock"}
    assert len(final_statuses((elsewhere / "log" / "night.log").read_text().splitlines())) == 4
    assert not (old.folder / "logs").exists()


@pytest.fixture
def real_cloud() -> Iterator[FakeCloud]:
    with FakeCloud() as fake:
        yield fake
        assert fake.problems == []


@pytest.mark.proves("parties-4")
@pytest.mark.parametrize("how", ["copied", "linked"])
def test_it_finds_its_files_beside_the_script_wherever_it_is_started(
    tmp_path: Path, real_cloud: FakeCloud, how: str
) -> None:
    """Where the script is a link, beside the link."""
    owner: Account = real_cloud.add_account("hetzner", token="CANARY-of-hetzner-0123456789")
    server = real_cloud.add_server(owner, 201, "name-2")
    add_old(real_cloud, server, datetime.now(timezone.utc) - timedelta(days=1))
    home = tmp_path / "snapshots"
    home.mkdir()
    if how == "copied":
        (home / "snapshots.py").write_bytes(SCRIPT.read_bytes())
    else:
        (home / "snapshots.py").symlink_to(SCRIPT)
    content = {
        "provider": "hetzner",
        "id": "201",
        "name": "name-2",
        "api_token": owner.token,
        "retain_last_snapshots": 1,
    }
    write(home / "configs" / "hetzner_cloud_server1.json", {"hetzner_cloud_server": content})
    text = re.sub(r"bot_token = .*", "bot_token =", CONFIG.format(bot=""))
    write(home / "snapshots.config", text + api(real_cloud))
    result = subprocess.run(
        [sys.executable, str(home / "snapshots.py")],
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = (home / "logs" / "snapshots.log").read_text(encoding="utf-8").splitlines()
    (new,) = real_cloud.names(server)
    assert final_statuses(lines)["name-2"][7] == new
