"""The guided tour: the whole product in ten tests, in the order in which one would explain it.

Each is a whole run of the real `main` against the fake cloud, over HTTP; hours of waiting pass on
a fake clock. What a test says in one line here is proven in depth in the file named after it.
"""

from __future__ import annotations

import pytest
from conftest import CREATE, PROVIDERS, Project
from fakes import FakeCloud, hang_up, status

import snapshots


@pytest.mark.proves("C3")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_1_each_night_a_new_snapshot_is_verified_and_the_oldest_goes(
    project: Project, provider: str
) -> None:
    server = project.server(provider, 11, "web", retain=2, duration_seconds=90)
    old = project.history(server, 2)
    new = snapshots.snapshot_name("web", project.clock.now())
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert result.out == "SUMMARY: 1 succeeded, 0 failed out of 1 total\n"
    assert project.own(server) == [old[1], new]
    assert result.final[0][:5] == ["FINAL_STATUS", "snapshots.py", provider, "web", "SUCCESS"]
    assert result.final[0][7:] == [new, "2 snapshots exist"]


def test_2_what_this_tool_did_not_make_from_this_server_stays(project: Project) -> None:
    """Ours: made from this server, by the provider's own id, and named by us. Nothing else."""
    web = project.server("hetzner", 1, "web", retain=1)
    [old] = project.history(web, 1)
    other = project.cloud.add_server(web.account, 2, "web-2")
    by_hand = "before-the-upgrade"
    project.cloud.add_snapshot(web, by_hand, project.clock.now())
    project.cloud.add_snapshot(other, "web-20250101030000", project.clock.now())
    result = project.run()
    assert result.code == 0
    left = project.own(web)
    assert by_hand in left
    assert old not in left
    assert project.own(other) == ["web-20250101030000"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_3_where_no_new_one_is_made_nothing_is_deleted_and_the_others_go_on(
    project: Project, provider: str
) -> None:
    bad = project.server(provider, 11, "bad", retain=1, slots=5)
    good = project.server(provider, 12, "good", retain=1, slots=5)
    for server in (bad, good):
        project.history(server, 3)
    kept = project.own(bad)
    project.cloud.fault(CREATE[provider], status(400), when=lambda r: r.ids[0] == "11")
    result = project.run()
    assert result.code == snapshots.ExitStatus.PARTLY_FAILED
    assert project.own(bad) == kept
    assert len(project.own(good)) == 1
    assert "bad: " in result.err


@pytest.mark.parametrize("provider", PROVIDERS)
def test_4_a_create_whose_answer_is_lost_is_found_and_not_made_twice(
    project: Project, provider: str
) -> None:
    server = project.server(provider, 11, "web", duration_seconds=30)
    project.cloud.fault(CREATE[provider], hang_up(act=True))
    result = project.run()
    assert result.code == 0
    assert len(project.own(server)) == 1


def test_5_where_a_plan_is_full_the_oldest_goes_first_only_if_somebody_said_so(
    project: Project,
) -> None:
    full = project.server("contabo", 1, "full", retain=1, slots=1)
    allowed = {"replace_when_full": True}
    replaced = project.server("contabo", 2, "replaced", retain=1, slots=1, file=allowed)
    for server in (full, replaced):
        project.history(server, 1)
    before = project.own(full), project.own(replaced)
    result = project.run()
    assert result.code == snapshots.ExitStatus.PARTLY_FAILED
    assert "replace_when_full" in result.err
    assert project.own(full) == before[0]
    assert len(project.own(replaced)) == 1
    assert project.own(replaced) != before[1]


def test_6_a_dry_run_says_what_a_run_would_do_and_changes_nothing(project: Project) -> None:
    server = project.server("digitalocean", 11, "web", retain=2)
    old = project.history(server, 2)
    result = project.run("-n")
    assert result.code == 0
    assert f"web: would delete {old[0]}" in result.out
    assert project.own(server) == old
    assert {request.method for request in project.cloud.journal} == {"GET"}
    assert not (project.folder / "logs").exists()


def test_7_one_bad_file_costs_its_own_server_alone(project: Project) -> None:
    project.server("hetzner", 1, "web")
    project.write("broken.json", '{"hetzner_cloud_server": {"id": 2, "nmae": "db"}}')
    result = project.run()
    assert result.code == snapshots.ExitStatus.PARTLY_FAILED
    assert result.err.startswith("snapshots: broken: ")
    assert "did you mean 'name'?" in result.err
    assert [cells[3:5] for cells in result.final] == [["broken", "FAILURE"], ["web", "SUCCESS"]]


def test_8_what_failed_is_reported(project: Project, cloud: FakeCloud) -> None:
    server = project.server("digitalocean", 11, "web")
    token = project.token("bot")
    cloud.add_bot(token, ["-100123"])
    project.config["TELEGRAM"] = {"bot_token": token, "chat_id": "-100123"}
    project.config["WEBHOOK"] = {"enabled": "true", "url": f"{cloud.url}/hook/{project.token('h')}"}
    project.cloud.fault(CREATE["digitalocean"], status(400))
    result = project.run()
    assert result.code == snapshots.ExitStatus.FAILED
    assert [message.chat_id for message in cloud.telegram_messages] == ["-100123"]
    assert cloud.telegram_messages[0].text.startswith("Snapshot Failed\nServer: web")
    assert [hook.json["status"] for hook in cloud.hooks] == ["FAILURE"]
    assert "cannot create a snapshot of droplet 11" in cloud.hooks[0].json["error"]
    assert project.own(server) == []


def test_9_a_signal_ends_the_run_in_order(project: Project) -> None:
    """Nothing more is created or deleted; every server is reported; the exit status is not 0."""
    server = project.server("hetzner", 1, "web", retain=1, duration_seconds=600)
    old = project.history(server, 2)
    project.server("hetzner", 2, "db")
    project.config["TIMING"]["max_parallel"] = 1
    project.cloud.stop_at(3, project.interrupt)
    result = project.run()
    assert result.code == snapshots.ExitStatus.FAILED
    assert [cells[3:5] for cells in result.final] == [["web", "FAILURE"], ["db", "FAILURE"]]
    assert not project.cloud.deleted
    assert set(old) <= set(project.own(server))


def test_10_while_one_run_goes_on_another_ends_at_once_with_3(project: Project) -> None:
    project.server("hetzner", 1, "web")
    lock = project.folder / "logs" / "snapshots.lock"
    with snapshots.single_run(lock, project.clock):
        result = project.run()
    assert result.code == snapshots.ExitStatus.LOCKED
    assert "another run holds the lock" in result.err
    assert project.cloud.journal == []
