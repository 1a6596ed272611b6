"""How often: which servers are due, what is done for those that are not, and turns that only prune."""

from __future__ import annotations

import fcntl
import json
import random
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Any

import fakes as fake
import pytest
from conftest import Project
from fakes import Server
from fakes.clock import KilledError
from test_faults import CREATE, DELETE, LIST, each_provider
from test_fleet import add, roomy, statuses, timing
from test_notify import telegram, texts

import snapshots
from snapshots import next_due, too_young

NIGHT = datetime(2027, 1, 1, 3, 0, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


# === When a server is due (pure) ===============================================================


def made(at: datetime, id: str = "1") -> snapshots.Snapshot:
    return snapshots.Snapshot(id, "web-20270101030000", at, "11")


@pytest.mark.proves("rhythm-1")
@pytest.mark.parametrize(
    ("hours", "minutes"),
    [(24, 23.5 * 60), (168, 167.5 * 60), (1, 54), (2, 108), (5, 270), (0.5, 27)],
)
def test_a_server_is_due_a_little_before_its_interval_is_over(hours: float, minutes: float) -> None:
    assert next_due(NIGHT, hours) == NIGHT + timedelta(minutes=minutes)
    due = NIGHT + timedelta(minutes=minutes)
    assert too_young([made(NIGHT)], due - timedelta(seconds=1), hours)
    assert not too_young([made(NIGHT)], due, hours)


@pytest.mark.proves("rhythm-1")
def test_what_is_dated_in_the_future_does_not_make_a_server_fresh() -> None:
    later = made(NIGHT + 5 * HOUR, "2")
    assert too_young([later], NIGHT, 24) is None
    assert too_young([later, made(NIGHT - 30 * HOUR)], NIGHT, 24) is None
    young = made(NIGHT - HOUR, "3")
    assert too_young([later, young], NIGHT, 24) == young
    soon = made(NIGHT + timedelta(minutes=5), "4")  # two clocks that do not quite agree
    assert too_young([soon], NIGHT, 24) == soon


def days_taken(hours: float, days: int, every: timedelta, lag: float) -> list[datetime]:
    """When snapshots are made if a run takes place so often, each so many seconds late at most."""
    chance = random.Random(hours)
    taken: list[datetime] = []
    tick = NIGHT
    while tick < NIGHT + timedelta(days=days):
        begins = tick + timedelta(seconds=chance.uniform(0, lag))
        if not taken or not too_young([made(taken[-1])], begins, hours):
            taken.append(begins + timedelta(seconds=chance.uniform(0, lag)))
        tick += every
    return taken


@pytest.mark.proves("rhythm-1")
@pytest.mark.parametrize("lag", [0, 20, 600])
def test_a_year_of_hourly_runs_takes_one_a_day_at_one_hour_of_the_day(lag: float) -> None:
    taken = days_taken(24, 365, HOUR, lag)
    assert len(taken) == pytest.approx(365, abs=1)
    assert {at.hour for at in taken} == {3}
    weekly = days_taken(168, 365, HOUR, lag)
    assert len(weekly) == pytest.approx(365 / 7, abs=1)
    assert {(at.weekday(), at.hour) for at in weekly} == {(NIGHT.weekday(), 3)}


@pytest.mark.proves("rhythm-1")
@pytest.mark.parametrize("lag", [0, 20, 600])
def test_a_year_of_one_nightly_entry_serves_two_hundred_servers_each_night(lag: float) -> None:
    """They start one after the other at the default delay, the last one more than an hour late."""
    chance = random.Random(1)
    taken: list[list[datetime]] = [[] for _ in range(200)]
    for night in range(365):
        start = NIGHT + timedelta(days=night, seconds=chance.uniform(0, lag))
        for nights in taken:
            if not nights or not too_young([made(nights[-1])], start, 24):
                nights.append(start + timedelta(seconds=chance.uniform(0, 5)))
                start += timedelta(seconds=snapshots.Timing().delay_between_servers)
    assert min(map(len, taken)) >= 364


# === A run =====================================================================================


def aged(project: Project, provider: str, number: int, hours: float, **more: Any) -> Server:
    """A server with two snapshots of ours, the newest one so many hours old; it keeps two."""
    server = project.server(provider, number, f"{provider[:2]}-{number}", retain=2, **more)
    for age in (hours + 24, hours):
        at = project.clock.now() - timedelta(hours=age)
        project.cloud.add_snapshot(server, snapshots.snapshot_name(server.name, at), at)
    return server


def made_elsewhere(project: Project, server: Server, name: str, at: datetime) -> None:
    project.cloud.add_snapshot(server, name, at)


def writes(project: Project) -> list[str]:
    return [
        r.route for r in project.cloud.journal if r.method != "GET" and "/cb-auth" not in r.route
    ]


@pytest.mark.proves("rhythm-2")
@each_provider
def test_for_a_server_that_is_not_due_nothing_happens(project: Project, provider: str) -> None:
    telegram(project)
    server = aged(project, provider, 11, 5)
    project.cloud.add_snapshot(
        server,
        snapshots.snapshot_name(server.name, project.clock.now() - timedelta(days=9)),
        project.clock.now() - timedelta(days=9),
    )
    timing(project, min_interval_hours=24)
    before = project.own(server)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert result.out == "SUMMARY: 0 succeeded, 0 failed out of 0 total; 1 not due\n"
    assert result.lines[-1] == result.out.strip()
    assert (project.own(server), writes(project), result.final) == (before, [], [])
    assert texts(project) == []
    assert "is 5 h 0 min old (min_interval_hours = 24)" in result.log


@pytest.mark.proves("rhythm-2")
@each_provider
def test_servers_of_every_rhythm_are_served_by_one_run(project: Project, provider: str) -> None:
    """The key of a server file goes before the one for all; 0 means: in every run."""
    timing(project, min_interval_hours=24)
    due = [
        aged(project, provider, 11, 23.6),
        aged(project, provider, 12, 1, file={"min_interval_hours": 0}),
        aged(project, provider, 13, 1, file={"min_interval_hours": "1"}),
        aged(project, provider, 14, 11.6, file={"min_interval_hours": 12.0}),
        project.server(provider, 15, f"{provider[:2]}-15"),
    ]
    aged(project, provider, 16, 23.4)
    aged(project, provider, 17, 100, file={"min_interval_hours": 168})
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert result.out == "SUMMARY: 5 succeeded, 0 failed out of 5 total; 2 not due\n"
    assert set(statuses(result)) == {server.name for server in due}
    assert {s.name for s in project.cloud.created} == {line[7] for line in result.final}


@pytest.mark.proves("rhythm-2")
@pytest.mark.parametrize(("failing", "code"), [((11,), 2), ((11, 12), 1), ((), 0)])
def test_the_exit_status_is_about_those_that_were_due(
    project: Project, failing: tuple[int, ...], code: int
) -> None:
    timing(project, min_interval_hours=24)
    for number, hours in ((11, 30), (12, 30), (13, 3)):
        aged(project, "hetzner", number, hours, fails=number in failing)
    result = project.run()
    assert result.code == code
    shown = (
        f"SUMMARY: {2 - len(failing)} succeeded, {len(failing)} failed out of 2 total; 1 not due"
    )
    assert result.out == shown + "\n"


@pytest.mark.proves("rhythm-2")
def test_a_broken_server_file_is_a_failure_in_a_run_in_which_none_is_due(project: Project) -> None:
    timing(project, min_interval_hours=24)
    aged(project, "hetzner", 11, 3)
    project.write("broken.json", "{")
    result = project.run()
    assert result.code == 1
    assert "0 succeeded, 1 failed out of 1 total; 1 not due" in result.out


@pytest.mark.proves("rhythm-2")
@each_provider
def test_what_is_not_a_good_snapshot_of_ours_makes_no_server_fresh(
    project: Project, provider: str
) -> None:
    timing(project, min_interval_hours=24)
    server = aged(project, provider, 11, 30, slots=9)
    now = project.clock.now()
    other = project.server(provider, 12, "other", file={"min_interval_hours": 0})
    project.cloud.add_snapshot(server, "by hand", now)
    project.cloud.add_snapshot(server, snapshots.snapshot_name("other", now), now)
    project.cloud.add_snapshot(other, snapshots.snapshot_name(server.name, now), now)
    ahead = now + timedelta(hours=3)
    project.cloud.add_snapshot(server, snapshots.snapshot_name(server.name, ahead), ahead)
    if provider == "hetzner":
        name = snapshots.snapshot_name(server.name, now - HOUR)
        project.cloud.add_snapshot(server, name, now - HOUR, status="unavailable")
    assert project.run(f"{provider}-11.json").code == 0
    assert [s.server for s in project.cloud.created] == [server]


@pytest.mark.proves("rhythm-2")
def test_an_hourly_run_in_which_none_is_due_costs_one_listing_and_no_delay(
    project: Project,
) -> None:
    roomy(project)
    for number in range(101, 221):
        aged(project, "hetzner", number, 5)
    timing(project, min_interval_hours=24, delay_between_servers=20)
    result = project.run()
    assert result.out == "SUMMARY: 0 succeeded, 0 failed out of 0 total; 120 not due\n"
    assert project.cloud.count() == 5  # pages of fifty
    assert project.clock.elapsed < 10


@pytest.mark.proves("rhythm-2")
def test_only_servers_that_are_due_keep_their_distance(project: Project) -> None:
    roomy(project)
    for number in range(101, 121):
        aged(project, "hetzner", number, 30 if number % 5 == 0 else 5, duration_seconds=1)
    timing(project, min_interval_hours=24, delay_between_servers=50)
    assert project.run().code == 0
    at = [r.monotonic for r in project.cloud.requests(CREATE["hetzner"])]
    assert [round(b - a) for a, b in zip(at, at[1:])] == [50, 50, 50]


@pytest.mark.proves("rhythm-2")
def test_each_of_many_servers_gets_one_each_night_whatever_the_delay_between_them(
    project: Project,
) -> None:
    roomy(project)
    servers = add(project, "hetzner", 10, nights=0, retain=9)
    timing(project, min_interval_hours=24, delay_between_servers=1000)
    for night, late in enumerate((0, 90, 5, 60)):
        project.clock.elapsed = max(project.clock.elapsed, night * 86400.0 + late)
        assert "10 succeeded, 0 failed out of 10 total" in project.run().out
    assert [len(project.own(server)) for server in servers] == [4] * 10


@pytest.mark.proves("rhythm-2")
def test_a_second_run_by_mistake_takes_nothing_and_now_takes_one_all_the_same(
    project: Project,
) -> None:
    server = aged(project, "hetzner", 11, 30)
    timing(project, min_interval_hours=24)
    assert "1 succeeded" in project.run().out
    project.clock.advance(600)
    left = project.own(server)
    assert project.run().out == "SUMMARY: 0 succeeded, 0 failed out of 0 total; 1 not due\n"
    assert project.own(server) == left
    result = project.run("--now")
    assert result.out == "SUMMARY: 1 succeeded, 0 failed out of 1 total\n"
    assert project.own(server) != left
    assert len(project.cloud.created) == 2


@pytest.mark.proves("rhythm-2")
def test_a_dry_run_says_who_is_not_due(project: Project) -> None:
    timing(project, min_interval_hours=24)
    aged(project, "hetzner", 11, 3)
    aged(project, "hetzner", 12, 30)
    result = project.run("-n")
    first, second, *_ = result.out.splitlines()
    assert first.startswith("he-11: not due: he-11-20250601020000 is 3 h 0 min old")
    assert second.startswith("he-12: would create he-12-")
    tail = "SUMMARY: 1 succeeded, 0 failed out of 1 total; 1 not due (dry run: nothing was changed)"
    assert result.out.splitlines()[-1] == tail
    assert "he-11: would create" in project.run("-n", "--now").out
    assert writes(project) == []


@pytest.mark.proves("rhythm-2")
@pytest.mark.parametrize("value", [-1, "-1", True, "daily", 1e9, [24], "1e3", "nan"])
def test_an_interval_is_a_number_of_hours(project: Project, value: Any) -> None:
    project.server("hetzner", 11, "web", file={"min_interval_hours": value})
    result = project.run()
    assert result.code == 1
    assert "min_interval_hours: must be a number of hours from 0 to 87600" in result.err


@pytest.mark.proves("rhythm-2")
@each_provider
def test_a_server_whose_age_cannot_be_read_fails_and_gets_no_snapshot(
    project: Project, provider: str
) -> None:
    aged(project, provider, 11, 3)
    timing(project, min_interval_hours=24)
    project.cloud.fault(LIST[provider], fake.status(403), times=None)
    result = project.run()
    assert result.code == 1
    assert "cannot list" in result.err
    assert project.cloud.created == []


@pytest.mark.proves("rhythm-2")
@pytest.mark.parametrize("hours", [3, -3])
def test_age_goes_by_the_providers_clock(project: Project, hours: int) -> None:
    """Ours is hours ahead, or behind."""
    server = aged(project, "hetzner", 11, 22)
    aged(project, "hetzner", 12, 25)
    project.cloud.clock = fake_clock_of(project, hours)
    timing(project, min_interval_hours=24)
    for snapshot in project.cloud.snapshots():
        snapshot.created += timedelta(hours=hours)
    result = project.run()
    assert result.out == "SUMMARY: 1 succeeded, 0 failed out of 1 total; 1 not due\n"
    assert server not in [s.server for s in project.cloud.created]


def fake_clock_of(project: Project, hours: int) -> Any:
    from fakes.clock import Shifted

    return Shifted(project.clock, hours * 3600)


# === What has come into being meanwhile ========================================================


BUSY = {
    "digitalocean": fake.status(
        422, json={"id": "unprocessable_entity", "message": "Droplet already has a pending event."}
    ),
    "hetzner": fake.status(423, json={"error": {"code": "locked", "message": "server is locked"}}),
    "contabo": fake.status(
        409, json={"statusCode": 409, "message": "Another operation is running"}
    ),
}


@pytest.mark.proves("rhythm-3")
@each_provider
@pytest.mark.parametrize("wait", ["rate limit", "rate limits", "busy", "lost"])
def test_after_every_wait_before_the_create_the_age_is_taken_again(
    project: Project, provider: str, wait: str
) -> None:
    """Somebody else makes one while this run waits."""
    server = aged(project, provider, 11, 30)
    timing(project, min_interval_hours=24)
    trouble = {
        "rate limit": fake.status(429, headers={"Retry-After": "300"}),
        "busy": BUSY[provider],
        "lost": fake.status(504),
        "rate limits": fake.status(429),
    }[wait]
    name = snapshots.snapshot_name(server.name, project.clock.now() + timedelta(seconds=2))

    def appears(request: Any) -> bool:
        at = project.clock.now() + timedelta(seconds=2)
        project.cloud.at(at, lambda: made_elsewhere(project, server, name, at))
        return True

    times = 8 if wait == "rate limits" else 1
    project.cloud.fault(CREATE[provider], trouble, times=times, when=appears)
    result = project.run()
    assert result.code == 0
    assert project.cloud.created == []
    assert name in project.own(server)
    if wait in ("busy", "lost"):  # it is the one that made the server busy, or that came late
        assert "1 succeeded, 0 failed out of 1 total" in result.out
        assert result.final[0][7] == name
        assert len(project.own(server)) == 2
    else:
        assert result.out == "SUMMARY: 0 succeeded, 0 failed out of 0 total; 1 not due\n"
        assert len(writes(project)) <= 5  # those of the first ten seconds, and one more


@pytest.mark.proves("rhythm-3")
def test_after_a_wait_for_room_the_age_is_taken_again(project: Project) -> None:
    """The second server waits until the first has pruned; meanwhile it gets one elsewhere."""
    servers = [
        aged(project, "hetzner", number, 30, duration_seconds=100, account=key)
        for number, key in ((11, "a"), (12, "b"))
    ]
    for key in "ab":
        project.account("hetzner", key).customer = "same"
        project.account("hetzner", key).limit = 5
    timing(project, min_interval_hours=24)
    at = project.clock.now() + timedelta(seconds=50)
    name = snapshots.snapshot_name(servers[1].name, at)

    def appears() -> None:
        project.account("hetzner", "b").limit = project.account("hetzner", "a").limit = 6
        project.cloud.add_snapshot(servers[1], name, at)

    project.cloud.at(at, appears)
    result = project.run()
    assert result.out == "SUMMARY: 1 succeeded, 0 failed out of 1 total; 1 not due\n"
    assert [s.server for s in project.cloud.created] == servers[:1]


@pytest.mark.proves("rhythm-4")
@each_provider
def test_a_run_killed_while_a_snapshot_takes_long_then_hourly_runs_make_one(
    project: Project, provider: str
) -> None:
    server = aged(project, provider, 11, 30, duration_seconds=5400, slots=4)
    timing(project, min_interval_hours=24)
    before = project.own(server)
    project.cloud.fault(CREATE[provider], fake.edit(lambda answer: project.clock.kill() or answer))  # type: ignore[func-returns-value]
    with pytest.raises(KilledError):
        project.run()
    project.clock.bury()
    codes = []
    outs = []
    for hour in range(1, 26):
        project.clock.elapsed = max(project.clock.elapsed, hour * 3600.0)
        result = project.run()
        codes.append(result.code)
        outs.append(result.out)
    assert codes == [0] * 25
    assert outs[0] == "SUMMARY: 1 succeeded, 0 failed out of 1 total\n"
    assert all(out.endswith("0 total; 1 not due\n") for out in outs[1:23])
    assert outs[23] == "SUMMARY: 1 succeeded, 0 failed out of 1 total\n"
    first, second = project.cloud.created
    assert project.own(server) == [first.name, second.name]
    assert set(before).isdisjoint(project.own(server))


@pytest.mark.proves("rhythm-4")
def test_one_that_is_listed_as_being_made_is_waited_for_though_the_server_is_free(
    project: Project,
) -> None:
    server = aged(project, "hetzner", 11, 30)
    at = project.clock.now() - timedelta(minutes=50)
    name = snapshots.snapshot_name(server.name, at)
    making = project.cloud.add_snapshot(server, name, at, status="creating")

    def is_done() -> None:
        making.status = "available"

    project.cloud.at(project.clock.now() + timedelta(minutes=30), is_done)
    timing(project, min_interval_hours=24)
    assert f"would wait for {name} (hetzner 11)" in project.run("-n").out
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert project.cloud.created == []
    assert result.final[0][7] == name
    assert len(project.own(server)) == 2


@pytest.mark.proves("rhythm-4")
def test_one_that_has_been_in_the_making_for_ever_keeps_no_server_from_its_snapshots(
    project: Project,
) -> None:
    server = aged(project, "hetzner", 11, 50)
    at = project.clock.now() - timedelta(hours=30)
    project.cloud.add_snapshot(
        server, snapshots.snapshot_name(server.name, at), at, status="creating"
    )
    timing(project, min_interval_hours=24)
    assert project.run().code == 0
    assert len(project.cloud.created) == 1


# === Turns that only prune =====================================================================


@pytest.mark.proves("rhythm-5")
@each_provider
def test_a_server_that_failed_after_its_snapshot_was_good_is_pruned_again(
    project: Project, provider: str
) -> None:
    telegram(project)
    server = aged(project, provider, 11, 30, slots=4)
    timing(project, min_interval_hours=24)
    refusal = project.cloud.fault(DELETE[provider], fake.status(403), times=None)
    first = project.run()
    assert (first.code, len(project.own(server))) == (1, 3)
    project.clock.advance(3600)
    second = project.run()  # still refused
    assert second.code == 1
    assert "the newest snapshot" in second.err
    assert refusal.used > 1
    project.cloud.clear_faults()
    project.clock.advance(3600)
    messages = len(texts(project))
    third = project.run()
    assert third.out == "SUMMARY: 1 succeeded, 0 failed out of 1 total\n"
    assert [line[4:9:3] for line in third.final] == [["SUCCESS", "none"]]
    assert len(project.own(server)) == 2
    assert len(texts(project)) == messages + 1
    assert [s.name for s in project.cloud.created] == project.own(server)[1:]
    fourth = project.run()
    assert fourth.out == "SUMMARY: 0 succeeded, 0 failed out of 0 total; 1 not due\n"


@pytest.mark.proves("rhythm-5")
def test_without_a_history_what_was_left_is_pruned_when_the_server_is_due(project: Project) -> None:
    server = aged(project, "hetzner", 11, 30)
    timing(project, min_interval_hours=24)
    project.cloud.fault(DELETE["hetzner"], fake.status(403), times=None)
    assert project.run().code == 1
    project.cloud.clear_faults()
    for path in (project.folder / "logs").glob("history.db*"):
        path.unlink()
    assert "1 not due" in project.run().out
    assert len(project.own(server)) == 3
    project.clock.advance(86400)
    assert project.run().code == 0
    assert len(project.own(server)) == 2


@pytest.mark.proves("rhythm-5")
def test_a_run_under_way_has_not_been_killed_as_far_as_a_dry_run_goes(project: Project) -> None:
    aged(project, "hetzner", 11, 3)
    timing(project, min_interval_hours=24)
    assert "1 not due" in project.run().out
    begun(project, project.clock.now())
    with open(project.folder / "logs" / "snapshots.lock", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert "1 not due" in project.run("-n").out
    assert "would create nothing" in project.run("-n").out


def begun(project: Project, at: datetime) -> None:
    """A run has begun, and nothing says that it has ended."""
    path = project.folder / "logs" / "history.db"
    with closing(sqlite3.connect(path)) as file, file:
        values = ("x", snapshots.utc_text(at))
        file.execute("INSERT INTO run (id, started_at) VALUES (?, ?)", values)


@pytest.mark.proves("rhythm-5")
def test_a_run_that_was_killed_tomorrow_as_the_clock_had_it_makes_no_turns_today(
    project: Project,
) -> None:
    aged(project, "hetzner", 11, 3)
    timing(project, min_interval_hours=24)
    assert "1 not due" in project.run().out
    begun(project, project.clock.now() + timedelta(days=1))
    for _ in range(3):
        assert "1 not due" in project.run().out


@pytest.mark.proves("rhythm-6")
@each_provider
def test_prune_only_applies_the_rules_without_a_new_snapshot(
    project: Project, provider: str
) -> None:
    """Due or not; the newest usable one takes the new one's place."""
    telegram(project)
    server = project.server(provider, 11, "web", retain=2, slots=9)
    names = project.history(server, 5)
    project.cloud.add_snapshot(server, "by hand")
    timing(project, min_interval_hours=24)
    result = project.run("--prune-only")
    assert (result.code, result.err) == (0, "")
    assert result.out == "SUMMARY: 1 succeeded, 0 failed out of 1 total\n"
    assert project.own(server) == [*names[-2:], "by hand"]
    assert project.cloud.created == []
    assert result.final[0][4:] == [
        "SUCCESS",
        result.final[0][5],
        result.final[0][6],
        "none",
        "2 snapshots exist",
    ]
    assert len(texts(project)) == 1


@pytest.mark.proves("rhythm-6")
@each_provider
@pytest.mark.parametrize("trouble", ["none of ours", "listing", "half a listing"])
def test_prune_only_deletes_nothing_where_no_snapshot_is_verified(
    project: Project, provider: str, trouble: str
) -> None:
    server = project.server(provider, 11, "web", retain=1, slots=9)
    if trouble == "none of ours":
        project.cloud.add_snapshot(server, "by hand")
        project.cloud.add_snapshot(server, "web-1")
    else:
        project.history(server, 3)
        fault = fake.status(500) if trouble == "listing" else fake.garbage()
        project.cloud.fault(LIST[provider], fault, times=None)
    before = project.own(server)
    result = project.run("--prune-only")
    assert result.code == 1
    assert project.own(server) == before
    assert project.cloud.count("DELETE") == 0
    if trouble == "none of ours":
        assert "no usable snapshot" in result.err
        assert "nothing was pruned" in result.err


@pytest.mark.proves("rhythm-6")
def test_prune_only_holds_to_a_newest_that_is_gone_a_moment_later(project: Project) -> None:
    """A listing may lag behind: what it shows first and then no more is no successor."""
    server = project.server("hetzner", 11, "web", retain=1)
    names = project.history(server, 3)
    newest = project.cloud.snapshots(server)[-1]
    roomy(project)

    def vanish() -> None:
        project.cloud.forget(newest)

    project.cloud.stop_at(1, vanish, before=False)
    result = project.run("--prune-only")
    assert result.code == 1
    assert project.own(server) == names[:2]


@pytest.mark.proves("rhythm-6")
def test_prune_only_heeds_the_brake_and_leaves_the_broken_alone(project: Project) -> None:
    server = project.server("hetzner", 11, "web", retain=1)
    names = project.history(server, 6)
    at = project.clock.now()
    broken = snapshots.snapshot_name("web", at)
    project.cloud.add_snapshot(server, broken, at, status="unavailable")
    project.config["RETENTION"] = {"max_deletes_per_run": 2}
    dry = project.run("-n", "--prune-only")
    assert "web: would create nothing (hetzner 11)" in dry.out
    assert f"web: would keep {names[-1]}" in dry.out
    result = project.run("--prune-only")
    assert result.code == 0
    assert project.own(server) == [*names[2:], broken]
    assert "3 more snapshots due for deletion" in result.err


@pytest.mark.proves("rhythm-7")
@pytest.mark.parametrize("more", [[], ["-n"], ["-v"]])
def test_now_and_prune_only_exclude_each_other(project: Project, more: list[str]) -> None:
    project.server("hetzner", 11, "web")
    result = project.run("--now", "--prune-only", *more)
    assert result.code == 1
    assert result.err == (
        "snapshots: argument --prune-only: not allowed with argument --now (write one of them; see --help)\n"
    )
    assert project.cloud.journal == []
    assert not (project.folder / "logs").exists()


@pytest.mark.proves("rhythm-7")
@pytest.mark.parametrize("flag", ["--now", "--prune-only"])
@pytest.mark.parametrize(
    "instead", [["--show-cron"], ["--remove-cron"], ["--install-cron", "03:15"]]
)
def test_now_and_prune_only_go_with_a_run_only(
    project: Project, flag: str, instead: list[str]
) -> None:
    result = project.run(flag, *instead)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"snapshots: {flag} does not go with {instead[0]} (leave it out; see --help)\n"
    )


@pytest.mark.proves("rhythm-2")
def test_the_sample_rhythm_is_read_from_both_places(project: Project) -> None:
    timing(project, min_interval_hours=24)
    project.server("hetzner", 11, "all")
    project.server("hetzner", 12, "own", file={"min_interval_hours": 0})
    settings = snapshots.load_settings(project.write_config(), required=True)
    servers, _ = snapshots.load_servers([], settings)
    hours = [s.min_interval_hours for s in servers if isinstance(s, snapshots.Server)]
    assert json.dumps(hours) == "[24, 0]"


@pytest.mark.proves("rhythm-2")
@pytest.mark.parametrize("look", ["--list", "--status"])
def test_looks_show_when_a_server_is_due(project: Project, look: str) -> None:
    timing(project, min_interval_hours=24)
    aged(project, "hetzner", 11, 5)
    aged(project, "hetzner", 12, 5, file={"min_interval_hours": 0})
    assert project.run("hetzner-11.json").code == 0  # not due, but seen
    document = json.loads(project.run(look, "--json").out)
    at = project.clock.now() + timedelta(hours=18, minutes=30)
    due = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert [server["next_due_at"] for server in document["servers"]] == [due, None]
