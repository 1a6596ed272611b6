"""A server's turn, step by step: wait, verify, prune, make room."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import fakes as fake
import pytest
from conftest import POLL_AGAIN, Project, gaps, not_contabo, outside
from fakes import Request, Server
from test_faults import CREATE, DELETE, LIST, LOOK, each_provider
from test_fleet import roomy, timing
from test_notify import webhook

import snapshots
from snapshots import Snapshot

START = datetime(2025, 1, 1, 3, 0, tzinfo=timezone.utc)
NOW = datetime(2025, 6, 1, 12, 0, tzinfo=timezone.utc)


# === Verify and prune ==========================================================================


def change_new(project: Project, server: Any, **fields: Any) -> None:
    """In listings, the new image of this server has these fields."""
    old = {int(s.id) for s in project.cloud.snapshots(server)}

    def edit(content: Any) -> Any:
        images = [i if i["id"] in old else {**i, **fields} for i in content["images"]]
        return {**content, "images": images}

    project.cloud.fault(LIST["hetzner"], fake.edit(edit), times=None)


@pytest.mark.proves("P7")
@pytest.mark.parametrize("state", ["unavailable", "broken", "aaa", "zzz"])
def test_a_new_one_that_cannot_be_used_is_a_failure_at_once(project: Project, state: str) -> None:
    server = project.server("hetzner", 31, "web", duration_seconds=40)
    old = project.history(server, 2)
    change_new(project, server, status=state)
    result = project.run()
    assert result.code == 1
    assert f"cannot be used: it is {state}; nothing was pruned" in result.err
    assert project.clock.elapsed < 60
    assert set(old) <= set(project.own(server))


def test_a_new_one_that_stays_in_the_making_is_reported_as_that(project: Project) -> None:
    server = project.server("hetzner", 31, "web", duration_seconds=40)
    old = project.history(server, 2)
    change_new(project, server, status="creating")
    result = project.run()
    assert result.code == 1
    assert "was reported done, but is still being created after 2 min" in result.err
    assert 40 + 120 <= project.clock.elapsed <= 40 + 120 + 30
    assert set(old) <= set(project.own(server))


@pytest.mark.parametrize("name", ["aaa", "zzz", "web-20250101000000", None])
def test_a_new_one_under_another_name_is_a_failure(project: Project, name: str | None) -> None:
    server = project.server("hetzner", 31, "web", duration_seconds=40)
    old = project.history(server, 2)
    change_new(project, server, description=name)
    result = project.run()
    assert result.code == 1
    assert "is listed under another name than web-2025" in result.err
    assert set(old) <= set(project.own(server))


@pytest.mark.proves("X4")
def test_one_that_turns_out_to_be_protected_is_left_alone_with_a_warning(project: Project) -> None:
    server = project.server("hetzner", 31, "web", retain=1, duration_seconds=40)
    old = project.history(server, 2)
    oldest = project.cloud.snapshots(server)[0]
    refused = fake.status(423, json={"error": {"code": "protected", "message": "no"}})
    project.cloud.fault(DELETE["hetzner"], refused, when=lambda r: oldest.id in r.ids)
    result = project.run()
    assert result.code == 0
    assert f"snapshot {oldest.id} ({old[0]}) is protected: left alone" in result.log
    assert project.own(server)[0] == old[0]
    assert len(project.own(server)) == 2
    assert result.final[0][8] == "2 snapshots exist"


@each_provider
def test_deletions_that_cannot_be_confirmed_are_a_failure(project: Project, provider: str) -> None:
    server = project.server(provider, 31, "web", retain=1, duration_seconds=40)
    project.history(server, 2)
    for route in (LIST[provider], DELETE[provider].replace("DELETE", "GET")):
        project.cloud.fault(
            route, fake.status(403), times=None, when=lambda r: bool(project.cloud.deleted)
        )
    result = project.run()
    assert result.code == 1
    assert "the deletions could not be confirmed: cannot list" in result.err
    assert len(project.own(server)) == 1


@pytest.mark.proves("G9")
def test_a_deletion_that_shows_late_is_waited_for(project: Project) -> None:
    """The listing shows it for a minute; nothing is left of it in the end, and nothing is told."""
    server = project.server("hetzner", 31, "web", retain=1, duration_seconds=40)
    old = project.history(server, 1)
    gone = project.cloud.snapshots(server)[0]
    until: list[float] = []

    def lags(_request: Request) -> bool:
        if project.cloud.deleted and not until:
            until.append(project.clock.elapsed + 60)
        return bool(until) and project.clock.elapsed < until[0]

    def edit(content: Any) -> Any:
        image = {**content["images"][0], "id": int(gone.id), "description": old[0]}
        return {
            "images": [*content["images"], image],
            "meta": {"pagination": {"next_page": None, "total_entries": None}},
        }

    roomy(project)
    project.cloud.fault(LIST["hetzner"], fake.edit(edit), times=None, when=lags)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert result.final[0][8] == "1 snapshots exist"


@each_provider
def test_a_single_snapshot_is_there_or_gone_or_it_is_not_known(
    project: Project, provider: str
) -> None:
    server = project.server(provider, 31, "web")
    kept, gone = (project.cloud.add_snapshot(server, name) for name in ("kept", "gone"))
    settings = snapshots.load_settings(project.write_config(), required=True)
    owner = server.account
    credentials = (
        (owner.client_id, owner.client_secret, owner.api_user, owner.api_password)
        if provider == "contabo"
        else (owner.token,)
    )
    account = snapshots.Account(outside(project.clock), provider, credentials, settings)
    one, other = (Snapshot(s.id, s.name, START, "31") for s in (kept, gone))
    assert account.delete(other)
    assert not account.delete(other)
    project.cloud.fault("DELETE", fake.status(404))
    assert not account.delete(one)
    assert (account.is_there(one), account.is_there(other)) == (True, False)
    project.cloud.fault("GET", fake.status(403), times=None)
    with pytest.raises(snapshots.ApiError, match="HTTP 403"):
        account.is_there(one)


@pytest.mark.proves("G12")
@pytest.mark.parametrize("id", [2, 999_999_999])
@pytest.mark.parametrize(
    ("seconds", "warned"), [(-86400, False), (0, False), (3600, True), (86400, True)]
)
def test_a_snapshot_from_the_future_is_worth_a_warning(
    project: Project, seconds: int, warned: bool, id: int
) -> None:
    server = project.server("hetzner", 31, "web", retain=3, duration_seconds=40)
    at = project.clock.now() + timedelta(seconds=seconds)
    project.cloud.add_snapshot(server, "by hand", at, id=1)
    project.cloud.add_snapshot(server, "web-20300101000000", at, id=id)
    result = project.run()
    assert result.code == 0
    assert ("is dated later than the new one" in result.log) is warned


@pytest.mark.proves("wild-13.3")
@each_provider
def test_a_new_one_dated_in_the_future_shortens_no_history(project: Project, provider: str) -> None:
    """A provider whose clock is wrong for a moment must not cost what `keep_within_days` keeps."""
    server = project.server(
        provider, 31, "web", 1, duration_seconds=40, slots=9, file={"keep_within_days": 7}
    )
    old = project.history(server, 5)

    def years_ahead(answer: Any) -> Any:
        for item in answer.get("snapshots") or answer.get("images") or answer.get("data") or ():
            if project.cloud.created[0].name in (item.get("name"), item.get("description")):
                key = {"digitalocean": "created_at", "hetzner": "created"}.get(provider)
                item[key or "createdDate"] = "2099-01-01T00:00:00Z"
        return answer

    project.cloud.fault(LIST[provider], fake.edit(years_ahead), times=None)
    assert project.run().code == 0
    assert project.own(server) == [*old, project.cloud.created[0].name]


@pytest.mark.proves("wild-13.3")
def test_what_goes_first_on_a_full_plan_goes_by_the_providers_clock(project: Project) -> None:
    """This machine's clock may be days ahead; then less would seem to be within the last days."""
    server = project.server(
        "contabo", 31, "web", 1, duration_seconds=20, slots=3,
        file={"keep_within_days": 4, "replace_when_full": True},
    )  # fmt: skip
    project.history(server, 3)
    project.cloud.date_offset_seconds = -3 * 86400.0
    for snapshot in project.cloud.snapshots(server):
        snapshot.created -= timedelta(days=3)
    result = project.run()
    assert result.code == 1
    assert "the keep_ rules keep all of 3 snapshots beside the new one" in result.err
    assert project.cloud.deleted == []


@pytest.mark.parametrize(("days", "warned"), [(24, False), (25, True), (26, True)])
def test_contabo_a_gap_of_25_days_is_worth_a_warning(
    project: Project, days: int, warned: bool
) -> None:
    server = project.server("contabo", 31, "web", retain=2, duration_seconds=20)
    at = project.clock.now() - timedelta(days=days)
    project.cloud.add_snapshot(server, snapshots.snapshot_name("web", at), at)
    result = project.run()
    assert result.code == 0
    assert (f"the newest previous snapshot was {days} days old" in result.log) is warned
    assert ("deletes snapshots after 30 days by itself" in result.log) is warned


# === Room under a plan's limit =================================================================


def plan(project: Project, retain: int, slots: int, held: int, switch: bool = True) -> Any:
    """A Contabo instance with so many slots, of which so many hold snapshots of ours."""
    file = {"replace_when_full": switch}
    server = project.server(
        "contabo", 31, "web", retain, slots=slots, duration_seconds=20, file=file
    )
    return server, project.history(server, held)


@pytest.mark.parametrize(
    ("retain", "slots", "advice"),
    [
        (5, 3, "the plan has 3 slots (set it to 2);"),
        (3, 2, "the plan has 2 slots (set it to 1);"),
        (2, 1, "the plan has 1 slot (set it to 1, with replace_when_full);"),
    ],
)
def test_contabo_a_retention_above_the_plan_is_reported_with_what_to_set(
    project: Project, retain: int, slots: int, advice: str
) -> None:
    server, old = plan(project, retain, slots, slots)
    result = project.run()
    assert result.code == 1
    assert f"retain_last_snapshots is {retain}, but {advice}" in result.err
    assert project.own(server) == old


def test_contabo_all_stay_is_above_any_plan(project: Project) -> None:
    server = project.server("contabo", 31, "web", "all", slots=2, file={"replace_when_full": True})
    old = project.history(server, 2)
    result = project.run()
    assert result.code == 1
    assert "retain_last_snapshots is all, but the plan has 2 slots (set it to 1);" in result.err
    assert project.own(server) == old


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_contabo_the_risk_is_reported_with_what_would_remain(project: Project, slots: int) -> None:
    _, old = plan(project, slots, slots, slots, switch=False)
    result = project.run()
    assert result.code == 1
    remain = ["0 older ones", "1 older one", "2 older ones"][slots - 1]
    assert f"the oldest, {old[0]}, deleted first" in result.err
    assert f"if the new snapshot then fails, that leaves {remain})" in result.err


def test_contabo_a_slot_that_lower_retention_would_free_is_not_freed_before_the_new_one(
    project: Project,
) -> None:
    """Nothing says that an earlier turn did not get to its end: people have to say it."""
    server, old = plan(project, 1, 2, 2, switch=False)
    for _ in range(2):
        result = project.run()
        assert result.code == 1
        assert f"all slots are full, and {old[0]} is due for deletion already" in result.err
        assert "(write --prune-only, then run it again)" in result.err
        assert project.own(server) == old
    assert project.run("--prune-only").code == 0
    assert project.own(server) == old[1:]
    assert project.run().code == 0


def left_full(project: Project, *, retain: int = 1, held: int = 1) -> tuple[Server, list[str]]:
    """A plan that the last turn has left full, since it could delete nothing."""
    server, old = plan(project, retain, held + 1, held, switch=False)
    project.cloud.fault(DELETE["contabo"], fake.status(403), times=None)
    assert project.run().code == 1
    project.cloud.clear_faults()
    project.clock.advance(86400)
    left = project.own(server)
    assert left[:-1] == old
    return server, left


def test_contabo_what_a_failed_turn_has_left_goes_before_the_next_snapshot(
    project: Project,
) -> None:
    server, left = left_full(project)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert "pruning first what the last turn has left" in result.log
    new = project.cloud.created[-1].name
    assert project.own(server) == [new]
    assert len(project.cloud.deleted) == len(left)
    assert result.final[0][7:] == [new, "1 snapshots exist"]


def test_contabo_a_snapshot_that_is_finished_after_its_turn_fills_no_plan_for_good(
    project: Project,
) -> None:
    """Its turn had ended before it could prune, by a timeout here, else by a signal."""
    server, _ = plan(project, 1, 2, 1, switch=False)
    project.config["TIMING"]["snapshot_creation_timeout"] = 300
    server.duration_seconds = 1000
    assert project.run().code == 1
    project.clock.advance(86400)
    server.duration_seconds = 1
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert project.own(server) == [project.cloud.created[-1].name]


def test_contabo_what_goes_before_the_next_snapshot_counts_for_the_brake(project: Project) -> None:
    server, left = left_full(project, held=3)
    project.config["RETENTION"] = {"max_deletes_per_run": 2}
    result = project.run()
    assert result.code == 0
    assert "2 more snapshots due for deletion; at most 2 go per run" in result.err
    assert len(project.cloud.deleted) == 2
    assert project.own(server) == [*left[2:], project.cloud.created[-1].name]


def test_contabo_what_the_brake_leaves_on_a_full_plan_goes_in_the_next_runs(
    project: Project,
) -> None:
    """And the notification has one number of what is left, not one from before as well."""
    server, _ = left_full(project, held=3)
    project.config["RETENTION"] = {"max_deletes_per_run": 1}
    webhook(project)
    for more in (3, 3, 3):
        result = project.run()
        assert result.code == 0
        (warning,) = project.cloud.hooks[-1].json["warnings"]
        assert warning.startswith(f"{more} more snapshots due for deletion; at most 1 go per run")
        project.clock.advance(86400)
    assert len(project.own(server)) == 4
    assert len(project.cloud.deleted) == 3
    project.config["RETENTION"] = {"max_deletes_per_run": 9}
    assert project.run().code == 0
    assert project.own(server) == [project.cloud.created[-1].name]


def test_contabo_another_failure_does_not_make_forget_what_an_earlier_one_has_left(
    project: Project,
) -> None:
    server, _ = left_full(project)
    project.cloud.fault(CREATE["contabo"], fake.status(403), times=1)
    assert project.run().code == 1
    project.clock.advance(86400)
    assert project.run().code == 0
    assert project.own(server) == [project.cloud.created[-1].name]


@pytest.mark.parametrize("how", ["stopped", "too slow", "lost"])
def test_contabo_one_that_is_finished_after_its_turn_has_failed_blocks_no_later_one(
    project: Project, how: str
) -> None:
    """It takes the last slot, and nobody has pruned after it."""
    server, old = plan(project, 2, 3, 2, switch=False)
    server.duration_seconds = 90
    polls: list[str] = []

    def stop(_request: fake.Request) -> bool:
        if project.cloud.created and not polls:
            polls.append("")
            project.interrupt()
        return bool(polls)

    if how == "too slow":
        project.config["TIMING"]["snapshot_creation_timeout"] = 30
    elif how == "lost":
        project.cloud.fault(CREATE["contabo"], fake.hang_up(act=True), times=None)
        project.cloud.fault(LIST["contabo"], fake.status(500), times=None)
    else:
        project.cloud.fault(LIST["contabo"], fake.status(500), times=1, when=stop)
    assert project.run().code == 1
    project.cloud.clear_faults()
    project.config["TIMING"].pop("snapshot_creation_timeout", None)
    project.clock.advance(86400)
    (late,) = project.cloud.created
    assert project.own(server) == [*old, late.name]
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert project.own(server) == [late.name, project.cloud.created[-1].name]


def test_contabo_nothing_goes_first_where_the_newest_cannot_be_seen_twice(
    project: Project,
) -> None:
    server, left = left_full(project)
    newest = project.cloud.created[-1]

    def second_listing_lacks_it(answer: Any) -> Any:
        answer["data"] = [s for s in answer["data"] if s["snapshotId"] != newest.id]
        answer["_pagination"]["totalElements"] = len(answer["data"])
        return answer

    refused = project.cloud.count(LIST["contabo"])
    project.cloud.fault(
        LIST["contabo"],
        fake.edit(second_listing_lacks_it),
        when=lambda r: project.cloud.count(LIST["contabo"]) > refused + 1,
    )
    result = project.run()
    assert result.code == 1
    assert f"snapshot {newest.name} (id {newest.id}) no longer exists, or has changed" in result.err
    assert project.own(server) == left
    assert project.cloud.deleted == []


def test_contabo_a_create_that_fails_after_that_leaves_what_retention_keeps(
    project: Project,
) -> None:
    server, left = left_full(project, retain=2, held=2)
    project.cloud.fault(
        CREATE["contabo"], fake.status(403), when=lambda r: bool(project.cloud.deleted)
    )
    result = project.run()
    assert result.code == 1
    assert "HTTP 403" in result.err
    assert "nothing was pruned" not in result.err
    assert project.own(server) == left[1:]
    assert result.final[0][8] == "2 snapshots exist"
    assert project.run().code == 0
    assert project.own(server) == [left[2], project.cloud.created[-1].name]


@pytest.mark.parametrize("held", [1, 2])
def test_contabo_slots_held_by_others_are_counted_without_ours(project: Project, held: int) -> None:
    server, old = plan(project, held + 1, held + 2, held)
    for name in ("by hand", "by hand too"):
        project.cloud.add_snapshot(server, name, project.clock.now() - timedelta(days=3))
    result = project.run()
    assert result.code == 1
    assert f"2 slots of {held + 2} held by snapshots that this tool did not make" in result.err
    assert old[0] in project.own(server)


def test_contabo_a_limit_without_a_number_frees_no_slot(project: Project) -> None:
    """Were it not the plan's, or still counted what has gone, each night would cost a snapshot."""
    server = project.server("contabo", 31, "web", 1, slots=9, file={"replace_when_full": True})
    old = project.history(server, 2)
    refusal = {"statusCode": 402, "message": "Snapshot limit reached"}
    project.cloud.fault(CREATE["contabo"], fake.status(402, json=refusal), times=None)
    result = project.run()
    assert result.code == 1
    assert "HTTP 402: Snapshot limit reached" in result.err
    assert (project.own(server), project.cloud.deleted) == (old, [])


def test_contabo_slots_that_are_used_but_not_listed_are_counted(project: Project) -> None:
    server, old = plan(project, 2, 4, 1)
    server.lingering = 3
    result = project.run()
    assert result.code == 1
    assert "3 slots of 4 counted as used, but not listed" in result.err
    assert project.own(server) == old


def test_contabo_a_freed_slot_is_not_waited_for_for_ever_if_a_request_is_held_up(
    project: Project,
) -> None:
    plan(project, 1, 1, 1)
    project.cloud.slot_lingers_seconds = 1e6
    slow = fake.status(429, headers={"Retry-After": "35"})
    project.cloud.fault(CREATE["contabo"], slow, when=lambda r: project.clock.elapsed > 15)
    result = project.run()
    assert result.code == 1
    assert "the slot freed for it is still counted after 2 min" in result.err
    assert 100 <= project.clock.elapsed <= 130


def test_contabo_a_slot_freed_for_the_new_one_counts_for_the_brake(project: Project) -> None:
    server, old = plan(project, 1, 5, 5)
    project.config["RETENTION"] = {"max_deletes_per_run": 3}
    result = project.run()
    assert result.code == 0
    assert project.own(server)[:-1] == old[3:]
    assert "2 more snapshots due for deletion; at most 3 go per run" in result.log


@pytest.mark.parametrize("readable", [True, False])
def test_contabo_after_a_slot_was_freed_in_vain_what_is_left_is_reported(
    project: Project, readable: bool
) -> None:
    server, old = plan(project, 2, 2, 2)
    project.cloud.slot_lingers_seconds = 1e6
    if not readable:
        project.cloud.fault(
            LIST["contabo"],
            fake.status(403),
            times=None,
            when=lambda r: bool(project.cloud.deleted),
        )
    result = project.run()
    assert result.code == 1
    left = "1 snapshot" if readable else "an unknown number of snapshots"
    assert f"after the oldest was deleted to make room, the server has {left}" in result.err
    assert "the slot freed for it is still counted after 2 min" in result.err
    assert project.own(server) == old[1:]
    assert 110 <= project.clock.elapsed <= 125


@pytest.mark.parametrize("provider", ["digitalocean", "contabo"])
def test_hetzners_limit_is_hetzners_alone(project: Project, provider: str) -> None:
    server = project.server(provider, 31, "web")
    old = project.history(server, 2)
    project.cloud.fault(CREATE[provider], fake.status(402), times=None)
    result = project.run()
    assert result.code == 1
    assert "HTTP 402" in result.err
    assert "this project holds" not in result.err
    assert "console.hetzner.cloud" not in result.err
    assert project.own(server) == old


def test_hetzner_at_its_limit_without_a_readable_listing(project: Project) -> None:
    project.account("hetzner", limit=2)
    server = project.server("hetzner", 31, "web", retain=3)
    project.history(server, 2)
    project.cloud.fault(LIST["hetzner"], fake.status(403), times=None)
    result = project.run()
    assert result.code == 1
    assert "this project holds an unknown number of snapshots" in result.err


# === How long, how often, and what is told of it ===============================================


@pytest.mark.proves("K7")
@each_provider
def test_a_busy_server_is_asked_again_ever_less_often(project: Project, provider: str) -> None:
    """Each time a second later, up to every half minute, for as long as a creation may take."""
    server = project.server(provider, 31, "web", duration_seconds=40)
    project.history(server, 2)
    busy = {
        "digitalocean": fake.status(422, json={"message": "Droplet has a pending event."}),
        "hetzner": fake.status(423, json={"error": {"code": "locked", "message": "busy"}}),
        "contabo": fake.status(409),
    }
    project.cloud.fault(CREATE[provider], busy[provider], times=None)
    timing(project, snapshot_creation_timeout=600)
    result = project.run()
    assert result.code == 1
    waits = gaps(project, CREATE[provider])
    assert waits[:26] == pytest.approx([*range(6, 30), 30, 30])
    assert sum(waits) <= 600 < sum(waits) + 30
    assert sum("waiting until it is free" in line for line in result.lines) == 1


@pytest.mark.parametrize(("timeout", "code"), [(64, 1), (65, 0), (66, 0)])
def test_a_busy_server_is_waited_for_up_to_the_last_second(
    project: Project, timeout: int, code: int
) -> None:
    """Asked at 0, 6, 13, 21, 30, 40, 51 and 63 seconds, or as long as there is time."""
    server = project.server("hetzner", 31, "web", duration_seconds=5)
    project.cloud.add_action(server, "reboot", status="running", seconds=52)
    timing(project, snapshot_creation_timeout=timeout - 2)
    assert project.run().code == code


def test_a_server_that_is_busy_once_is_reported(project: Project) -> None:
    server = project.server("hetzner", 31, "web", duration_seconds=5)
    busy = fake.status(423, json={"error": {"code": "locked", "message": "busy"}})
    project.cloud.fault(CREATE["hetzner"], busy)
    result = project.run()
    assert result.code == 0
    assert len(project.own(server)) == 1
    assert "waiting until it is free" in result.log


@pytest.mark.proves("D-9")
@each_provider
def test_a_lost_create_is_looked_for_seven_times_in_half_a_minute(
    project: Project, provider: str
) -> None:
    server = project.server(provider, 31, "web", duration_seconds=40)
    project.history(server, 2)
    project.cloud.page_size = None
    project.cloud.fault(CREATE[provider], fake.status(504))
    assert project.run().code == 0
    first, second = project.cloud.requests(CREATE[provider])
    looks = [
        r.monotonic - first.monotonic
        for r in project.cloud.requests(LOOK[provider])
        if first.number < r.number < second.number
    ]
    assert looks == pytest.approx([0, 5, 10, 15, 20, 25, 30])
    assert second.monotonic - first.monotonic == pytest.approx(30)


@not_contabo
def test_a_snapshot_that_does_not_show_is_looked_for_for_two_minutes(
    project: Project, provider: str
) -> None:
    """Ever less often, and once more at the very end."""
    project.cloud.page_size = None
    server = project.server(provider, 31, "web", duration_seconds=40, lists_late_seconds=1e9)
    project.history(server, 2)
    assert project.run().code == 1
    assert gaps(project, LIST[provider])[:6] == pytest.approx([5, 10, 15, 20, 25, 30])
    assert sum(gaps(project, LIST[provider])) == pytest.approx(120)


@not_contabo
def test_a_listing_that_was_held_up_is_not_asked_for_beyond_the_two_minutes(
    project: Project, provider: str
) -> None:
    server = project.server(provider, 31, "web", duration_seconds=40, lists_late_seconds=1e9)
    old = project.history(server, 2)
    slow = fake.status(429, headers={"Retry-After": "200"})
    project.cloud.fault(LIST[provider], slow, when=lambda r: project.clock.elapsed > 60)
    result = project.run()
    assert result.code == 1
    assert "is not yet in the listing after 2 min" in result.err
    assert 240 < project.clock.elapsed < 300
    assert set(old) <= set(project.own(server))


@pytest.mark.parametrize(("late", "code"), [(119, 0), (120, 0), (121, 1)])
def test_a_listing_may_lag_for_exactly_two_minutes(project: Project, late: int, code: int) -> None:
    project.server("hetzner", 31, "web", duration_seconds=5, lists_late_seconds=late)
    assert project.run().code == code


def test_contabo_a_listing_is_the_only_way_to_see_that_it_is_done(project: Project) -> None:
    """Not at once: nothing is that quick; and for as long as a creation may take."""
    server = project.server("contabo", 31, "web", slots=5, duration_seconds=1000)
    project.history(server, 2)
    timing(project, snapshot_creation_timeout=1100)
    assert project.run().code == 0
    created = project.cloud.requests(CREATE["contabo"])[0]
    at = [r.monotonic - created.monotonic for r in project.cloud.requests(LIST["contabo"])]
    at = list(dict.fromkeys(at))
    assert at[:7] == pytest.approx([5, 15, 30, 50, 75, 105, 135])


@not_contabo
@pytest.mark.parametrize(("seconds", "code"), [(900, 0), (1000, 1)])
def test_an_action_that_nobody_knows_has_the_time_of_a_creation(
    project: Project, provider: str, seconds: int, code: int
) -> None:
    server = project.server(provider, 31, "web", duration_seconds=seconds)
    project.history(server, 2)
    project.cloud.fault(POLL_AGAIN[provider], fake.status(404), times=None)
    timing(project, snapshot_creation_timeout=930)
    result = project.run()
    assert result.code == code
    if code:
        assert "still not finished after 15 min 30 s" in result.err


def test_a_deletion_that_does_not_show_is_waited_for_for_two_minutes(project: Project) -> None:
    server = project.server("hetzner", 31, "web", retain=1, duration_seconds=40)
    project.history(server, 1)
    roomy(project)
    project.cloud.fault(DELETE["hetzner"], fake.status(204), times=None)
    result = project.run()
    assert result.code == 1
    deletes = project.cloud.requests(DELETE["hetzner"])
    assert deletes[-1].monotonic - deletes[0].monotonic == pytest.approx(120)
    assert gaps(project, DELETE["hetzner"])[1:] == pytest.approx([5] * 24)


def test_a_deletion_is_not_waited_for_for_ever_if_a_request_is_held_up(project: Project) -> None:
    server = project.server("hetzner", 31, "web", retain=1, duration_seconds=40)
    project.history(server, 1)
    roomy(project)
    project.cloud.fault(DELETE["hetzner"], fake.status(204), times=None)
    slow = fake.status(429, headers={"Retry-After": "202"})
    project.cloud.fault(LIST["hetzner"], slow, when=lambda r: project.clock.elapsed > 60)
    result = project.run()
    assert result.code == 1
    assert "as deleted, but still lists it" in result.err
    assert 240 < project.clock.elapsed < 300


def test_a_dry_run_shows_nothing_of_the_snapshots_of_other_servers(project: Project) -> None:
    for number in (41, 42, 43):
        project.history(project.server("hetzner", number, "web"), 2)
    project.cloud.add_snapshot(project.cloud.snapshots()[0].server, "by hand")  # type: ignore[arg-type]
    result = project.run("-n", "hetzner-42.json")
    assert result.code == 0
    assert "would leave" not in result.out
    assert result.out.count("would keep") + result.out.count("would delete") == 2


@pytest.mark.parametrize("provider", ["hetzner", "digitalocean"])
def test_what_a_server_left_is_nobodys_once_another_has_its_name(
    project: Project, provider: str
) -> None:
    """As after a restoration beside it, where the file names the new server: README, Afterwards."""
    left = project.history(old := project.server(provider, 41, "web"), 3)
    project.cloud.remove_server(old)
    (project.folder / "configs" / f"{provider}-41.json").unlink()
    project.server(provider, 42, "web", retain=1)
    assert project.run().code == 0
    assert {s.name for s in project.cloud.snapshots()} > set(left)
    listed = project.run("--list").out
    assert "1 kept" in listed
    assert not [name for name in left if name in listed]


TOLD = {
    "deleted": "{deleted_snapshots}",
    "total": "{total_snapshots}",
    "duration": "{duration}",
    "new": "{snapshot_name}",
    "warnings": "{warnings}",
}


def told(project: Project) -> dict[str, str]:
    """Switch on the webhook, run, and return what it was told of the one server."""
    payload = json.dumps(TOLD)
    project.config["WEBHOOK"] = {
        "enabled": "true",
        "url": f"{project.cloud.url}/hook/x",
        "payload_success": payload,
        "payload_failure": payload,
    }
    project.run()
    (hook,) = project.cloud.hooks
    return dict(hook.json)


def test_what_was_deleted_and_how_long_it_took_is_reported(project: Project) -> None:
    server = project.server("hetzner", 31, "web", retain=2, duration_seconds=40)
    old = project.history(server, 3)
    new = snapshots.snapshot_name("web", project.clock.now())
    assert told(project) == {
        "deleted": f"{old[0]}, {old[1]}",
        "total": "2",
        "duration": "40 s",
        "new": new,
        "warnings": "none",
    }


@pytest.mark.proves("X3")
def test_what_had_gone_already_is_not_reported_as_deleted(project: Project) -> None:
    """Somebody else deletes it just before."""
    server = project.server("hetzner", 31, "web", retain=1, duration_seconds=93)
    old = project.history(server, 2)
    first, _ = project.cloud.snapshots(server)

    def is_first(request: Request) -> bool:
        if first.id not in request.ids:
            return False
        project.cloud.forget(first)
        return True

    project.cloud.fault(DELETE["hetzner"], fake.status(404), when=is_first)
    assert told(project)["deleted"] == old[1]
    assert len(project.own(server)) == 1
    log = (project.folder / "logs" / "snapshots.log").read_text()
    assert f"already gone: snapshot {old[0]}" in log
    assert f": deleted snapshot {old[1]}" in log


def test_what_only_pretends_to_be_deleted_is_not_reported_as_deleted(project: Project) -> None:
    server = project.server("hetzner", 31, "web", retain=1, duration_seconds=93)
    old = project.history(server, 3)
    stay = {snapshot.id for snapshot in project.cloud.snapshots(server)[:2]}
    project.cloud.fault(
        DELETE["hetzner"], fake.status(204), times=None, when=lambda r: r.ids[0] in stay
    )
    said = told(project)
    assert (said["deleted"], said["total"]) == (old[2], "3")


def test_contabo_what_was_deleted_to_make_room_is_reported(project: Project) -> None:
    _, old = plan(project, 2, 2, 2)
    said = told(project)
    assert (said["deleted"], said["total"]) == (old[0], "2")
    assert f"all slots are full: deleting {old[0]}" in said["warnings"]


def test_after_a_failure_the_snapshots_that_are_left_are_counted(project: Project) -> None:
    server = project.server("hetzner", 31, "web", fails=True)
    project.history(server, 3)
    said = told(project)
    assert (said["deleted"], said["total"], said["new"]) == ("none", "3", "none")
    log = (project.folder / "logs" / "snapshots.log").read_text()
    assert "to make room" not in log
    assert "NO SNAPSHOT AT ALL" not in log
