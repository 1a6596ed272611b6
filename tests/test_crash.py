"""A run that is killed at any request leaves nothing that the next run does not put right."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import TOP_KEYS
from fakes import FakeCloud, Server

import snapshots

SCRIPT = Path(snapshots.__file__).resolve()
REQUESTS = 32  # of a whole run over three servers, more or less; sweep.sh tries each of them
SAMPLE = [(n, "before" if n % 2 else "after") for n in range(1, REQUESTS + 1, 3)]


def fleet(folder: Path, cloud: FakeCloud) -> tuple[Path, list[Server]]:
    """A server at each provider with two nights of history and one snapshot made by hand; at
    Contabo there is one slot more, for the new one."""
    servers = []
    (folder / "configs").mkdir()
    for number, provider in enumerate(("digitalocean", "hetzner", "contabo"), 1):
        credentials: dict[str, Any] = {"api_token": f"token-of-{provider}"}
        if provider == "contabo":
            credentials = {
                "client_id": "crash-client",
                "client_secret": "crash-client-secret",
                "api_user": "crash-user",
                "api_password": "crash-password",
            }
            account = cloud.add_account(provider, **credentials)
        else:
            account = cloud.add_account(provider, token=credentials["api_token"])
        server = cloud.add_server(account, number, f"s{number}", duration_seconds=0.3, slots=4)
        for days in (2, 1):
            at = datetime.now(timezone.utc) - timedelta(days=days)
            cloud.add_snapshot(server, snapshots.snapshot_name(server.name, at), at)
        cloud.add_snapshot(server, "by hand", datetime.now(timezone.utc) - timedelta(days=9))
        content = {"id": number, "name": server.name, "retain_last_snapshots": 2, **credentials}
        path = folder / "configs" / f"{number}.json"
        path.write_text(json.dumps({TOP_KEYS[provider]: content}))
        path.chmod(0o600)
        servers.append(server)
    config = folder / "snapshots.config"
    api = "".join(f"{key} = {value}\n" for key, value in cloud.endpoints().items())
    timing = "delay_between_servers = 0\npoll_interval = 0.1\n"
    config.write_text(f"[TIMING]\n{timing}[API]\n{api}[TELEGRAM]\nenabled = false\n")
    return config, servers


def start(config: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.proves("I10", "K12", "S1", "S5")
@pytest.mark.parametrize(("request_number", "when"), SAMPLE)
def test_a_run_killed_at_a_request_is_put_right_by_the_next(
    tmp_path: Path, request_number: int, when: str
) -> None:
    with FakeCloud() as cloud:
        config, servers = fleet(tmp_path, cloud)
        by_hand = {s.id for s in cloud.snapshots() if s.name == "by hand"}
        victim: list[subprocess.Popen[str]] = []
        cloud.stop_at(request_number, lambda: victim[0].kill(), before=when == "before")
        victim.append(start(config))
        victim[0].communicate(timeout=60)
        assert victim[0].returncode in (-9, 0)  # 0: it had fewer requests than that
        cloud.come_to_rest()
        after_crash = {server.id: len(cloud.snapshots(server)) for server in servers}
        assert all(count >= 3 for count in after_crash.values())

        clean = start(config)
        _, err = clean.communicate(timeout=60)
        assert (clean.returncode, err) == (0, "")
        left = {s.id for s in cloud.snapshots()}
        assert by_hand <= left
        for server in servers:
            made = [s for s in cloud.created if s.server is server]
            assert 1 <= len(made) <= 2  # at most one in each run
            ours = [s for s in cloud.snapshots(server) if s.id not in by_hand]
            newest = sorted(ours, key=lambda s: s.created)
            assert len(ours) == 2
            assert newest[-1] is made[-1]
        assert cloud.problems == []


def test_the_cloud_is_at_rest_when_what_a_dead_client_sent_is_dealt_with() -> None:
    """A create may lie in a connection that the cloud has not even accepted when a run is killed.
    What is counted before that is dealt with would blame it on the next run."""
    with FakeCloud() as cloud:
        account = cloud.add_account("hetzner", token="token-of-hetzner")
        servers = [cloud.add_server(account, number, f"s{number}") for number in range(1, 101)]
        for number, server in enumerate(servers, 1):
            body = json.dumps({"type": "snapshot", "description": f"{server.name}-20260101000000"})
            request = (
                f"POST /hz/v1/servers/{server.id}/actions/create_image HTTP/1.1\r\nHost: fake\r\n"
                f"Authorization: Bearer token-of-hetzner\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}"
            )
            with socket.create_connection(("127.0.0.1", cloud.port), timeout=10) as client:
                client.sendall(request.encode())
            cloud.come_to_rest()
            assert len(cloud.created) == number
        assert cloud.problems == []
