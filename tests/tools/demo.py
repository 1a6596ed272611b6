"""What demo.sh runs: before, the run itself, after. Exit status 0 if all is as it should be."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fakes import FakeCloud, Server

SCRIPT = Path(__file__).resolve().parent.parent.parent / "snapshots.py"


def build(cloud: FakeCloud) -> list[tuple[Server, str, dict[str, Any]]]:
    """A few servers at three providers, with a history; and their server files."""
    digitalocean = cloud.add_account("digitalocean", token="demo-token-digitalocean")
    hetzner = cloud.add_account("hetzner", token="demo-token-hetzner")
    contabo = cloud.add_account(
        "contabo",
        client_id="demo-client",
        client_secret="demo-client-secret",
        api_user="demo@example.org",
        api_password="demo-api-password",
    )
    oauth = {
        "client_id": "demo-client",
        "client_secret": "demo-client-secret",
        "api_user": "demo@example.org",
        "api_password": "demo-api-password",
    }
    made: list[tuple[Server, str, dict[str, Any]]] = []
    for account, top, number, name, seconds, extra in (
        (
            digitalocean,
            "digitalocean_droplet",
            3001,
            "web",
            4.0,
            {"api_token": "demo-token-digitalocean"},
        ),
        (hetzner, "hetzner_cloud_server", 4001, "db", 3.0, {"api_token": "demo-token-hetzner"}),
        (
            hetzner,
            "hetzner_cloud_server",
            4002,
            "db-staging",
            5.0,
            {"api_token": "demo-token-hetzner"},
        ),
        (contabo, "contabo_instance", 5001, "mail_server.example", 2.0, oauth),
    ):
        server = cloud.add_server(account, number, name, duration_seconds=seconds)
        content = {"id": number, "name": name, "retain_last_snapshots": 2, **extra}
        made.append((server, top, content))
    return made


def add_history(cloud: FakeCloud, servers: list[Server]) -> None:
    """Two nights of snapshots of our own for each server, and one made by hand."""
    labels = {"mail_server.example": "mail-server-exa"}
    for server in servers:
        for days in (2, 1):
            at = datetime.now(timezone.utc) - timedelta(days=days)
            stamp = at.astimezone().strftime("%Y%m%d%H%M%S")
            cloud.add_snapshot(server, f"{labels.get(server.name, server.name)}-{stamp}", at)
    by_hand = datetime.now(timezone.utc) - timedelta(days=400)
    cloud.add_snapshot(servers[0], "before-the-upgrade", by_hand)


def show(cloud: FakeCloud, servers: list[Server], title: str) -> None:
    print(f"\n{title}")
    for server in servers:
        print(f"  {server.account.provider} {server.id} {server.name}")
        for name in cloud.names(server):
            print(f"    {name}")


def main() -> int:
    with FakeCloud() as cloud, tempfile.TemporaryDirectory() as temporary:
        made = build(cloud)
        servers = [server for server, _, _ in made]
        add_history(cloud, servers)
        before = {server.id: cloud.names(server) for server in servers}
        folder = Path(temporary)
        (folder / "configs").mkdir()
        for server, top, content in made:
            path = folder / "configs" / f"{server.name}.json"
            path.write_text(json.dumps({top: content}, indent=2))
            path.chmod(0o600)
        endpoints = "".join(f"{key} = {value}\n" for key, value in cloud.endpoints().items())
        config = folder / "snapshots.config"
        config.write_text(
            "[TIMING]\ndelay_between_servers = 1\npoll_interval = 1\n"
            f"[TELEGRAM]\nenabled = false\n[WEBHOOK]\nenabled = true\nurl = {cloud.url}/hook/demo\n"
            f"[API]\n{endpoints}"
        )
        config.chmod(0o600)

        show(cloud, servers, "Before: what the (fake) clouds hold")
        print("\n$ python snapshots.py -v", flush=True)
        run = subprocess.run(
            [sys.executable, str(SCRIPT), "--config", str(config), "-v"], check=False, timeout=120
        )
        show(cloud, servers, "After: one new snapshot each, the oldest of ours gone")
        print(f"\nexit status {run.returncode}; {len(cloud.hooks)} notifications received")

        expected = all(
            len(cloud.names(server)) == len(before[server.id])
            and len(set(cloud.names(server)) - set(before[server.id])) == 1
            for server in servers
        )
        by_hand_is_there = "before-the-upgrade" in cloud.names(servers[0])
        for problem in cloud.problems:
            print(f"the cloud complains: {problem}")
        print("\n$ python snapshots.py --list", flush=True)
        look = subprocess.run(
            [sys.executable, str(SCRIPT), "--config", str(config), "--list"],
            check=False,
            timeout=120,
        )
        page = Path(tempfile.gettempdir()) / "snapshots-demo.html"
        print(f"\n$ python snapshots.py --report {page}", flush=True)
        report = subprocess.run(
            [sys.executable, str(SCRIPT), "--config", str(config), "--report", str(page)],
            check=False,
            timeout=120,
        )
        good = run.returncode == 0 and expected and by_hand_is_there and not cloud.problems
        good = good and look.returncode == 0 and report.returncode == 0
        print("All as it should be." if good else "NOT as it should be.")
        return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
