"""Whole runs against the fake cloud, over real HTTP, with the real main."""

from __future__ import annotations

import pytest
from conftest import Project

import snapshots

PROVIDERS = ["digitalocean", "hetzner", "contabo"]
CREATE = {
    "digitalocean": "POST /do/droplets/{id}/actions",
    "hetzner": "POST /hz/servers/{id}/actions/create_image",
    "contabo": "POST /cb/compute/instances/{id}/snapshots",
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_snapshot_is_made_verified_and_old_ones_pruned(project: Project, provider: str) -> None:
    server = project.server(provider, 11, "web", retain=2, duration_seconds=90)
    old = project.history(server, 2)
    new = snapshots.snapshot_name("web", project.clock.now())
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert result.out == "SUMMARY: 1 succeeded, 0 failed out of 1 total\n"
    assert project.own(server) == [old[1], new]
    assert result.final[0][:5] == ["FINAL_STATUS", "snapshots.py", provider, "web", "SUCCESS"]
    assert result.final[0][7:] == [new, "2 snapshots exist"]


def test_all_three_providers_in_one_run(project: Project) -> None:
    servers = [
        project.server(p, 20 + n, f"s{n}", duration_seconds=60) for n, p in enumerate(PROVIDERS)
    ]
    for server in servers:
        project.history(server, 2)
    result = project.run("-v")
    assert result.code == 0
    assert "SUMMARY: 3 succeeded, 0 failed out of 3 total" in result.out
    assert all(len(project.own(server)) == 2 for server in servers)
    assert len(project.cloud.created) == 3
