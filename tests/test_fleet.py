"""Many servers at once: what they share, what they must not notice of one another, and the end."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import fakes as fake
import pytest
from conftest import Project, Result, a_server, outside
from fakes import (
    Account,
    FakeCloud,
    Request,
    Server,
    edit,
    garbage,
    hang_up,
    iso_seconds,
    status,
)
from fakes.clock import CountingClock, FakeClock
from test_faults import CREATE, DELETE

import snapshots

PROVIDERS = ["digitalocean", "hetzner", "contabo"]
LIMITS_URL = "https://console.hetzner.cloud/limits"
POLLS = ("GET /hz/actions", "GET /do/actions", "GET /do/droplets/{id}/actions/{aid}")
LISTINGS = (
    "GET /hz/images",
    "GET /do/snapshots",
    "GET /do/droplets/{id}/snapshots",
    "GET /cb/compute/instances/{id}/snapshots",
)


# === Helpers ===================================================================================


@pytest.fixture
def another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], Project]]:
    """Makes further projects, each with a cloud and a clock of its own."""
    with contextlib.ExitStack() as stack:
        made: list[Project] = []

        def make() -> Project:
            clock = FakeClock()
            folder = tmp_path / f"another{len(made)}"
            folder.mkdir()
            project = Project(folder, stack.enter_context(FakeCloud(clock)), clock, capsys)
            project.config = {
                "API": project.cloud.endpoints(),
                "TIMING": {"delay_between_servers": 0},
                "TELEGRAM": {"enabled": "false"},
            }
            made.append(project)
            return project

        yield make
        for project in made:
            assert project.cloud.problems == []
            assert project.leaks() == []


def add(
    project: Project,
    provider: str,
    count: int,
    first: int = 101,
    nights: int = 2,
    retain: int = 2,
    account: str = "",
    **more: Any,
) -> list[Server]:
    """So many servers of an account, each with a history; in the order of the configuration."""
    servers = []
    for number in range(first, first + count):
        server = project.server(
            provider, number, f"{provider[:2]}-{number}", retain, account, **more
        )
        project.history(server, nights)
        servers.append(server)
    return servers


def timing(project: Project, **values: float) -> None:
    project.config["TIMING"].update(values)


def roomy(project: Project) -> None:
    """Pages as long as documented, not the short ones that show whether all are read."""
    project.cloud.page_size = None


def polls(project: Project) -> list[Request]:
    return [r for r in project.cloud.journal if r.route in POLLS]


def listings(project: Project) -> list[Request]:
    """One for each listing, however many pages it has."""
    return [
        r for r in project.cloud.journal if r.route in LISTINGS and r.one("page") in ("1", None)
    ]


def creates(project: Project) -> list[Request]:
    return [r for r in project.cloud.journal if r.method == "POST" and "/cb-auth" not in r.route]


def of(project: Project, account: Account) -> list[Request]:
    return [r for r in project.cloud.journal if r.account is account]


def statuses(result: Result) -> dict[str, str]:
    """SUCCESS or FAILURE of each server."""
    found = {line[3]: line[4] for line in result.final}
    assert len(found) == len(result.final)
    return found


def errors(result: Result) -> list[str]:
    return [line for line in result.err.splitlines() if not line.startswith("snapshots: warning")]


Contents = dict[str, tuple[list[str], int]]


def contents(project: Project, before: set[str]) -> Contents:
    """Of each server: which old snapshots are left, and how many new ones there are."""
    found: Contents = {}
    for account in project.cloud.accounts:
        for server in account.servers.values():
            names = project.own(server)
            old = [name for name in names if name in before]
            found[f"{account.provider} {server.name}"] = (old, len(names) - len(old))
    return found


def all_names(project: Project) -> set[str]:
    return set(project.cloud.names())


# === Sharing ===================================================================================


@pytest.mark.parametrize("provider", ["hetzner", "digitalocean"])
def test_polls_do_not_grow_with_the_servers_up_to_one_batch(
    project: Project, another: Callable[[], Project], provider: str
) -> None:
    counts = {}
    for fleet, size in ((project, 1), (another(), 25)):
        roomy(fleet)
        add(fleet, provider, size, duration_seconds=300)
        timing(fleet, max_parallel=25)
        assert fleet.run().code == 0
        counts[size] = len(polls(fleet))
    assert counts[25] == counts[1] > 5


def test_hetzner_is_asked_about_25_actions_at_a_time(project: Project) -> None:
    roomy(project)
    add(project, "hetzner", 60, duration_seconds=4)
    timing(project, max_parallel=60)
    assert project.run().code == 0
    assert [len(r.query["id"]) for r in polls(project)] == [25, 25, 10]


def test_many_droplets_are_polled_with_the_accounts_newest_actions(project: Project) -> None:
    roomy(project)
    add(project, "digitalocean", 30, duration_seconds=100)
    timing(project, max_parallel=30)
    assert project.run().code == 0
    assert {r.route for r in polls(project)} == {"GET /do/actions"}
    assert all(r.one("page") in ("1", None) for r in polls(project))
    assert len(polls(project)) < 20


def test_droplets_whose_action_is_not_on_the_newest_page_are_asked_for_one_by_one(
    project: Project,
) -> None:
    """Here a page holds two of the five."""
    servers = add(project, "digitalocean", 5, duration_seconds=8)
    timing(project, max_parallel=5)
    assert project.run().code == 0
    assert len(project.cloud.created) == 5
    singles = project.cloud.requests("GET /do/droplets/{id}/actions/{aid}")
    lists = project.cloud.requests("GET /do/actions")
    assert lists
    assert len(singles) == 3 * len(lists)
    assert len({r.ids[0] for r in singles}) == 3 < len(servers)


def test_an_action_list_with_the_oldest_first_is_given_up(project: Project) -> None:
    roomy(project)
    project.cloud.action_order = "oldest"
    servers = add(project, "digitalocean", 6, duration_seconds=60)
    for _ in range(201):
        project.cloud.add_action(servers[0], "reboot")
    timing(project, max_parallel=6)
    result = project.run()
    assert result.code == 0
    assert project.cloud.count("GET /do/actions") == 1
    singles = project.cloud.requests("GET /do/droplets/{id}/actions/{aid}")
    assert {r.ids[0] for r in singles} == {s.id for s in servers}


def test_a_token_that_may_not_list_actions_is_not_tried_again(project: Project) -> None:
    """It has all it needs but `actions:read`."""
    roomy(project)
    scopes = "droplet:read droplet:update image:create image:delete snapshot:delete"
    scopes += " snapshot:read block_storage_snapshot:read"
    project.account("digitalocean", scopes=scopes.split())
    servers = add(project, "digitalocean", 6, duration_seconds=60)
    timing(project, max_parallel=6)
    result = project.run()
    assert result.code == 0
    assert [r.status for r in project.cloud.requests("GET /do/actions")] == [403]
    singles = project.cloud.requests("GET /do/droplets/{id}/actions/{aid}")
    assert {r.ids[0] for r in singles} == {s.id for s in servers}


@pytest.mark.parametrize("provider", ["hetzner", "digitalocean"])
def test_one_listing_serves_many(project: Project, provider: str) -> None:
    """One to verify, for all together; the deletions are confirmed by single reads."""
    roomy(project)
    add(project, provider, 25, duration_seconds=60)
    timing(project, max_parallel=25)
    assert project.run().code == 0
    assert len(listings(project)) == 1


@pytest.mark.parametrize("provider", ["hetzner", "digitalocean"])
def test_a_server_that_finishes_alone_waits_a_little_for_others(
    project: Project, provider: str
) -> None:
    roomy(project)
    add(project, provider, 1, 101, duration_seconds=20)
    add(project, provider, 1, 102, duration_seconds=40)
    assert project.run().code == 0
    assert len(listings(project)) == 1
    assert project.clock.elapsed <= 60


def test_nobody_waits_for_others_longer_than_30_seconds(project: Project) -> None:
    roomy(project)
    short = add(project, "hetzner", 1, 101, duration_seconds=20)[0]
    add(project, "hetzner", 1, 102, duration_seconds=2000)
    assert project.run().code == 0
    (done,) = (a.finished for a in short.actions)
    assert done is not None
    first = listings(project)[0].at
    assert 0 <= (first - done).total_seconds() <= 30 + 5 + 1


def test_nobody_waits_for_others_that_have_left(project: Project) -> None:
    """The account's other server has failed: there is nothing to wait for."""
    roomy(project)
    add(project, "hetzner", 1, 101, duration_seconds=30)
    add(project, "hetzner", 1, 102, duration_seconds=12, fails=True)
    assert project.run().code == 2
    assert project.clock.elapsed <= 40


@pytest.mark.parametrize("provider", ["hetzner", "digitalocean"])
def test_the_interval_of_polls_grows_gently_up_to_30_seconds(
    project: Project, provider: str
) -> None:
    add(project, provider, 1, duration_seconds=3600)
    assert project.run().code == 0
    at = [creates(project)[0].monotonic, *(r.monotonic for r in polls(project))]
    gaps = [b - a for a, b in zip(at, at[1:])]
    assert gaps[0] == pytest.approx(5)
    assert max(gaps) == pytest.approx(30)
    assert all(a - 0.01 <= b <= 1.3 * a for a, b in zip(gaps, gaps[1:]))


def test_a_server_that_began_last_does_not_keep_the_others_from_being_polled(
    project: Project,
) -> None:
    """A start every four seconds, a poll every five: the first are finished long before."""
    roomy(project)
    servers = add(project, "hetzner", 30, duration_seconds=10)
    timing(project, max_parallel=30, delay_between_servers=4, snapshot_creation_timeout=60)
    result = project.run()
    assert errors(result) == []
    assert result.code == 0
    asked: dict[int, float] = {}
    for r in polls(project):
        for action_id in r.query["id"]:
            asked.setdefault(int(action_id), r.monotonic)
    begun = {
        action.id: r.monotonic
        for r, server in zip(creates(project), servers)
        for action in server.actions
    }
    assert max(asked[number] - begun[number] for number in begun) <= 30


def test_a_poll_is_not_put_off_beyond_the_deadline(project: Project) -> None:
    """Finished a second before its time is up, which is earlier than the next regular poll."""
    add(project, "hetzner", 1, duration_seconds=59)
    timing(project, poll_interval=25, snapshot_creation_timeout=60)
    result = project.run()
    assert (result.code, result.err) == (0, "")


# === Listings are never too old ================================================================


@pytest.mark.parametrize("page_size", [2, None])
def test_a_listing_begins_after_the_end_of_each_server_that_it_serves(
    project: Project, page_size: Optional[int]
) -> None:
    """Whatever is deleted was decided with a listing begun after the poll that told the end."""
    project.cloud.page_size = page_size
    servers = [
        add(project, "hetzner", 1, 101 + n, duration_seconds=10 + 3.7 * (n * 7 % 20))[0]
        for n in range(20)
    ]
    doomed = {project.cloud.snapshots(server)[0].id: server for server in servers}
    timing(project, max_parallel=20)
    assert project.run().code == 0
    deletes = {r.ids[0]: r for r in project.cloud.requests("DELETE /hz/images/{id}")}
    assert deletes.keys() == doomed.keys()
    for snapshot_id, server in doomed.items():
        (action,) = server.actions
        assert action.finished is not None
        told = next(
            r.number
            for r in polls(project)
            if str(action.id) in r.query["id"] and r.at >= action.finished
        )
        assert any(told < r.number < deletes[snapshot_id].number for r in listings(project))


@pytest.mark.parametrize("provider", ["hetzner"])  # one droplet is listed by itself
def test_a_question_during_a_listing_is_answered_by_the_next_one(
    project: Project, provider: str
) -> None:
    """The listing under way lacks what has come into being since; all who wait share the next."""
    roomy(project)
    server = add(project, provider, 1)[0]
    settings = snapshots.load_settings(project.write_config(), required=True)
    clock = CountingClock()
    world = snapshots.Runtime(clock, snapshots.Redactor(), snapshots.Screen(snapshots.Redactor()))
    account = snapshots.Account(world, provider, [server.account.token], settings)
    seen: list[list[Optional[str]]] = []

    def ask() -> None:
        seen.append([s.name for s in account.list_snapshots(server.id)])

    threads = [threading.Thread(target=ask) for _ in range(4)]

    def meanwhile() -> None:
        """The answer to the first one is made, but has not been sent."""
        project.cloud.add_snapshot(server, "new")
        for thread in threads[1:]:
            thread.start()
        clock.until_waiting(3)

    project.cloud.stop_at(1, meanwhile, before=False)
    threads[0].start()
    threads[0].join(20)
    for thread in threads[1:]:
        thread.join(20)
    assert ["new" in names for names in seen] == [False, True, True, True]
    assert len(listings(project)) == 2


def test_nothing_is_deleted_while_the_pages_of_a_listing_are_read(project: Project) -> None:
    """What goes meanwhile would shift the pages."""
    for n in range(12):
        add(project, "hetzner", 1, 101 + n, duration_seconds=10 + 4.1 * (n * 5 % 12))
    timing(project, max_parallel=12)
    assert project.run().code == 0
    page, deletes = 0, 0
    for r in project.cloud.journal:
        if r.route == "GET /hz/images":
            previous, page = page, int(r.one("page") or 1)
            assert page == 1 or (page == previous + 1 and deletes == 0)
            deletes = 0
        elif r.method == "DELETE":
            deletes += 1
    assert len(project.cloud.deleted) == 12


# === One account's trouble is its own ==========================================================


@pytest.mark.proves("X6")
@pytest.mark.parametrize("provider", ["hetzner", "digitalocean"])
def test_a_429_pauses_the_whole_account_and_no_other(project: Project, provider: str) -> None:
    roomy(project)
    for n in range(4):
        add(project, provider, 1, 101 + 2 * n, account="a", duration_seconds=30)
        add(project, provider, 1, 102 + 2 * n, account="b", duration_seconds=30)
    a, b = (project.account(provider, key) for key in "ab")
    timing(project, delay_between_servers=2)
    project.cloud.fault(
        "POST", status(429, headers={"Retry-After": "55"}), when=lambda r: r.ids == ("103",)
    )
    result = project.run()
    assert (result.code, result.err) == (0, "")
    hit = next(r for r in project.cloud.journal if r.status == 429)
    assert hit.account is a
    meanwhile = [r for r in project.cloud.journal if 0 < r.monotonic - hit.monotonic < 54.9]
    assert [r for r in meanwhile if r.account is a] == []
    assert len([r for r in meanwhile if r.account is b]) > 10
    assert min(r.monotonic for r in of(project, a) if r.number > hit.number) == pytest.approx(
        hit.monotonic + 55, abs=0.2
    )


def test_an_account_without_room_does_not_slow_another(project: Project) -> None:
    """A hundred and fifty droplets wait for their minute; the servers at Hetzner do not."""
    roomy(project)
    project.cloud.enforce_rate_limits = True
    add(project, "digitalocean", 150, 1001, duration_seconds=10)
    add(project, "hetzner", 10, 101, duration_seconds=10)
    timing(project, max_parallel=160)
    result = project.run()
    assert result.code == 0
    last = max(r.monotonic for r in of(project, project.account("hetzner")))
    assert last - project.cloud.journal[0].monotonic <= 25


def test_a_hundred_and_twenty_droplets_at_once_see_no_429(project: Project) -> None:
    roomy(project)
    project.cloud.enforce_rate_limits = True
    add(project, "digitalocean", 120, duration_seconds=30)
    timing(project, max_parallel=120)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert [r for r in project.cloud.journal if r.status == 429] == []
    assert project.cloud.count() / 120 <= 3.6


def test_more_droplets_than_a_minute_allows_are_spread_over_minutes(project: Project) -> None:
    roomy(project)
    project.cloud.enforce_rate_limits = True
    add(project, "digitalocean", 300, 1001, duration_seconds=30)
    timing(project, max_parallel=300)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert [r for r in project.cloud.journal if r.status == 429] == []
    at = [r.monotonic for r in project.cloud.journal]
    assert all(later - earlier >= 60 for earlier, later in zip(at, at[250:]))
    assert project.clock.elapsed <= 60 * (len(at) / 245 + 1)


@pytest.mark.proves("T6")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_refused_credentials_fail_their_own_servers_fast(project: Project, provider: str) -> None:
    bad = add(project, provider, 6, 101, account="bad")
    good = add(project, provider, 6, 201, account="good", duration_seconds=30, slots=5)
    project.account(provider, "bad").revoked = True
    timing(project, max_parallel=1)
    result = project.run()
    assert result.code == 2
    assert statuses(result) == {
        **{server.name: "FAILURE" for server in bad},
        **{server.name: "SUCCESS" for server in good},
    }
    refused = [r.monotonic for r in project.cloud.journal if r.status == 401]
    assert len(refused) == (1 if provider == "contabo" else 2)  # a login is not tried on
    assert len(errors(result)) == 6
    assert all("401" in line for line in errors(result))
    first_good = creates(project)[-6]
    assert first_good.monotonic == refused[-1]  # no time was lost


@pytest.mark.proves("T6")
def test_refused_credentials_cost_no_more_requests_than_were_under_way(project: Project) -> None:
    add(project, "hetzner", 30, 101, account="bad")
    good = add(project, "hetzner", 5, 201, account="good", duration_seconds=30)
    project.account("hetzner", "bad").revoked = True
    timing(project, max_parallel=8)
    result = project.run()
    assert result.code == 2
    assert all(statuses(result)[server.name] == "SUCCESS" for server in good)
    assert 2 <= len([r for r in project.cloud.journal if r.status == 401]) <= 9


STRANGE: dict[str, Callable[[Any], Any]] = {
    "null": lambda content: None,
    "a list": lambda content: [content],
    "a number": lambda content: 17,
    "nothing": lambda content: {},
    "null everywhere": lambda content: dict.fromkeys(content),
    "text everywhere": lambda content: dict.fromkeys(content, "text"),
    "lists of null": lambda content: {
        key: [None] if isinstance(value, list) else value for key, value in content.items()
    },
    "endless numbers": lambda content: endless(content),
}


def endless(content: Any) -> Any:
    """Every number is beyond all bounds."""
    if isinstance(content, dict):
        return {key: endless(value) for key, value in content.items()}
    if isinstance(content, list):
        return list(map(endless, content))
    return float("inf") if type(content) in (int, float) else content


@pytest.mark.proves("I17")
@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_account_that_answers_strange_things_costs_its_own_server_alone(
    project: Project, provider: str, strange: str
) -> None:
    victim = add(project, provider, 1, 101, account="strange", duration_seconds=30, slots=5)[0]
    others = [
        add(project, p, 1, 201 + n, account="sound", duration_seconds=30, slots=5)[0]
        for n, p in enumerate([*PROVIDERS, *PROVIDERS])
    ]
    before = project.own(victim)
    project.cloud.fault(
        "GET", edit(STRANGE[strange]), times=None, when=lambda r: r.account is victim.account
    )
    timing(project, snapshot_creation_timeout=600)
    result = project.run()
    assert result.code == 2
    assert statuses(result) == {
        victim.name: "FAILURE",
        **{server.name: "SUCCESS" for server in others},
    }
    assert set(before) <= set(project.own(victim))


def test_a_machine_out_of_threads_costs_the_servers_that_got_none_alone(project: Project) -> None:
    servers = [project.server("hetzner", number, f"s{number}") for number in (1, 2, 3)]
    project.clock.refused_threads = {"turn-1"}
    result = project.run()
    assert result.code == 2
    assert [f[4] for f in sorted(result.final, key=lambda f: f[3])] == [
        "SUCCESS",
        "FAILURE",
        "SUCCESS",
    ]
    assert "s2: could not be started: can't start new thread (lower [TIMING]" in result.err
    assert [len(project.own(server)) for server in servers] == [1, 0, 1]


def test_a_channel_that_gets_no_thread_loses_its_messages_and_says_so(project: Project) -> None:
    project.server("hetzner", 1)
    path = f"/hook/{project.token('hook')}"
    project.config["WEBHOOK"] = {"enabled": "true", "url": project.cloud.url + path}
    project.clock.refused_threads = {"notify-webhook"}
    began = project.clock.monotonic()
    result = project.run()
    assert result.code == 0
    assert "webhook notification not delivered: can't start new thread" in result.err
    assert "1 notification not delivered" in result.lines[-1]
    assert project.clock.monotonic() - began < 60


def test_an_exception_in_one_turn_costs_that_server_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the tool itself, in the one place that is about one server's name."""
    servers = add(project, "hetzner", 8, duration_seconds=30)
    real = snapshots.find_new

    def find_new(turn: Any, *more: Any) -> Any:
        if turn.server.id == "104":
            raise ZeroDivisionError("no such thing")
        return real(turn, *more)

    monkeypatch.setattr(snapshots, "find_new", find_new)
    result = project.run()
    assert result.code == 2
    assert statuses(result) == {
        server.name: "FAILURE" if server.id == "104" else "SUCCESS" for server in servers
    }
    assert len(errors(result)) == 1
    assert "ZeroDivisionError" in result.err
    (failed,) = (line for line in result.final if line[4] == "FAILURE")
    assert failed[8] == "3 snapshots exist"  # counted all the same, the new one too


# === The limit on snapshots ====================================================================


def limited(
    project: Project, shape: str, free: int, parallel: int, seconds: float = 30
) -> tuple[Result, Contents]:
    """A Hetzner project whose limit leaves so many free; shape: s has two snapshots and keeps
    two, n has none so far, r has one of the two it keeps."""
    for n, kind in enumerate(shape):
        nights = {"s": 2, "n": 0, "r": 1}[kind]
        add(project, "hetzner", 1, 101 + n, nights=nights, duration_seconds=seconds)
    before = all_names(project)
    project.account("hetzner").limit = len(before) + free
    timing(project, max_parallel=parallel)
    result = project.run()
    return result, contents(project, before)


@pytest.mark.parametrize(
    ("shape", "free", "code"),
    [
        ("ssssssss", 1, 0),
        ("ssssssss", 3, 0),
        ("ssssssss", 8, 0),
        ("ssssssss", 0, 1),
        ("sssssn", 1, 0),
        ("sssssr", 1, 0),
        ("sssnnn", 3, 0),
        ("nnn", 3, 0),
        ("nnn", 0, 1),
        ("s", 1, 0),
        ("s", 0, 1),
    ],
)
def test_a_project_at_its_limit_ends_the_same_with_one_and_with_ten_at_once(
    project: Project, another: Callable[[], Project], shape: str, free: int, code: int
) -> None:
    one, left_by_one = limited(project, shape, free, 1)
    ten, left_by_ten = limited(another(), shape, free, 10)
    assert one.code == ten.code == code
    assert statuses(one) == statuses(ten)
    assert left_by_one == left_by_ten
    for result in (one, ten):
        failed = [line[3] for line in result.final if line[4] == "FAILURE"]
        assert len(errors(result)) == len(failed)
        assert all(LIMITS_URL in line for line in errors(result))


@pytest.mark.parametrize(
    ("shape", "free"), [("nsssss", 1), ("ssnss", 1), ("snsrss", 2), ("nnnsss", 2), ("srsrsr", 2)]
)
def test_at_the_limit_the_first_in_the_configuration_get_what_room_there_is(
    project: Project, another: Callable[[], Project], shape: str, free: int
) -> None:
    """Some must fail; the same ones, whether they run one by one or at once."""
    one, left_by_one = limited(project, shape, free, 1)
    ten, left_by_ten = limited(another(), shape, free, 10)
    assert one.code == ten.code == 2
    assert statuses(one) == statuses(ten)
    assert left_by_one == left_by_ten


@pytest.mark.parametrize(("shape", "free"), [("sn", 1), ("sssn", 1), ("nsssss", 1), ("ssnss", 1)])
def test_at_the_limit_a_slow_first_request_changes_nothing(
    project: Project, another: Callable[[], Project], shape: str, free: int
) -> None:
    """The request of the first server arrives last; its turn still comes first."""
    one, left_by_one = limited(project, shape, free, 1)
    late = another()

    def delay() -> None:
        if late.cloud.journal[0].ids == ("101",):
            time.sleep(0.3)

    late.cloud.stop_at(1, delay)
    ten, left_by_ten = limited(late, shape, free, 10)
    assert one.code == ten.code
    assert statuses(one) == statuses(ten)
    assert left_by_one == left_by_ten


@pytest.mark.parametrize(("shape", "free"), [("sssn", 1), ("nsssn", 2), ("ssrsn", 2)])
def test_at_the_limit_slow_snapshots_change_nothing(
    project: Project, another: Callable[[], Project], shape: str, free: int
) -> None:
    """Who waits for room, or for its place, for longer than a create may take does not hang."""
    seconds = 2 * snapshots.ORDER_SECONDS
    one, left_by_one = limited(project, shape, free, 1, seconds)
    ten, left_by_ten = limited(another(), shape, free, 10, seconds)
    assert one.code == ten.code
    assert statuses(one) == statuses(ten)
    assert left_by_one == left_by_ten


def test_without_a_free_slot_all_fail_and_say_where_to_raise_the_limit(
    project: Project,
) -> None:
    result, left = limited(project, "ssssss", 0, 10)
    assert result.code == 1
    assert len(errors(result)) == 6
    for line in errors(result):
        assert LIMITS_URL in line
        assert "this project holds 12 snapshots" in line
        assert "nothing was pruned" in line
    assert all((len(old), new) == (2, 0) for old, new in left.values())
    assert project.clock.elapsed < 60


def test_the_limit_is_one_for_all_projects_of_a_customer(project: Project) -> None:
    """There is one free slot; the servers of both projects go through it one after the other."""
    for key in "ab":
        project.account("hetzner", key, customer="same", limit=17)
    add(project, "hetzner", 4, 101, account="a", duration_seconds=30)
    add(project, "hetzner", 4, 201, account="b", duration_seconds=30)
    result = project.run()
    assert (result.code, errors(result)) == (0, [])
    assert len(project.cloud.snapshots()) == 16


def test_a_server_that_can_prune_nothing_fails_when_all_others_have(project: Project) -> None:
    """It is told so as soon as the last other turn has ended, not at the end of a time limit."""
    result, left = limited(project, "ssnn", 1, 10)
    assert result.code == 2
    assert list(statuses(result).values()).count("FAILURE") == 1
    assert sum(new for _, new in left.values()) == 3
    assert project.clock.elapsed < 300


def test_waiting_for_room_ends_when_the_one_that_could_make_it_fails(project: Project) -> None:
    servers = add(project, "hetzner", 4, duration_seconds=30)
    project.account("hetzner").limit = 9
    servers[0].fails = True
    result = project.run()
    ones = statuses(result)
    assert ones[servers[0].name] == "FAILURE"
    assert result.code in (1, 2)
    assert project.clock.elapsed < 300


@pytest.mark.parametrize("victim", [1, 2, 3])
def test_what_a_turn_has_left_does_not_keep_a_project_at_its_limit_for_good(
    project: Project, victim: int
) -> None:
    """There is room for one more than the servers keep, which the victim has not given back. Those
    before it in the order cannot know that it will."""
    servers = [project.server("hetzner", 11 + n, f"s{n}", retain=1) for n in range(3)]
    for server in servers:
        project.history(server, 1)
    project.account("hetzner").limit = 4
    refused: list[str] = []

    def is_the_victims(_request: fake.Request) -> bool:
        if len(project.cloud.created) >= victim:
            refused.append("")
        return bool(refused)

    project.cloud.fault(DELETE["hetzner"], fake.status(403), times=None, when=is_the_victims)
    assert project.run().code != 0
    assert refused
    project.cloud.clear_faults()
    project.clock.advance(86400)
    assert project.run().code == (0 if victim == 1 else 2)
    project.clock.advance(86400)
    assert project.run().code == 0
    assert [len(project.own(server)) for server in servers] == [1, 1, 1]


@pytest.mark.proves("limit-1")
def test_creates_under_one_limit_go_one_after_the_other_in_the_order_of_the_files(
    project: Project,
) -> None:
    """Those of all projects of the customer; whether they make a project grow or not."""
    for n in range(30):
        add(project, "hetzner", 1, 101 + n, nights=n % 3, account="ab"[n % 2], duration_seconds=30)
    timing(project, max_parallel=30)
    under_way: list[int] = []
    at_once: list[int] = []

    def note(content: Any) -> Any:
        under_way.append(1)
        at_once.append(len(under_way))
        time.sleep(0.01)
        under_way.pop()
        return content

    project.cloud.fault(CREATE["hetzner"], edit(note), times=None)
    assert project.run().code == 0
    asked = project.cloud.requests(CREATE["hetzner"])
    assert [r.ids[0] for r in asked] == [str(101 + n) for n in range(30)]
    assert at_once == [1] * 30
    assert asked[-1].monotonic - asked[0].monotonic < 1  # no longer than until each is accepted


@pytest.mark.proves("limit-2")
@pytest.mark.parametrize(
    ("lost", "size"),
    [(hang_up(act=True), 100), (hang_up(), 40), (status(504), 40)],
    ids=["carried out", "never arrived", "504"],
)
def test_lost_answers_to_many_creates_take_no_longer_than_one(
    project: Project, another: Callable[[], Project], lost: fake.Fault, size: int
) -> None:
    took = {}
    for fleet, every in ((project, size), (another(), 10)):
        roomy(fleet)
        servers = add(fleet, "hetzner", size, duration_seconds=30)
        # so often that it is no matter by which poll an end is noticed
        timing(fleet, max_parallel=size, poll_interval=0.5)
        unlucky = {server.id for server in servers[::every]}

        def is_first(request: Request, unlucky: set[str] = unlucky) -> bool:
            hit = request.ids[0] in unlucky
            unlucky.discard(request.ids[0])
            return hit

        fleet.cloud.fault(CREATE["hetzner"], lost, times=None, when=is_first)
        began = fleet.clock.elapsed
        result = fleet.run()
        assert (result.code, errors(result), unlucky) == (0, [], set())
        assert [len(fleet.own(server)) for server in servers] == [2] * size
        took[every] = fleet.clock.elapsed - began
    assert took[10] <= took[size] + 1


@pytest.mark.proves("limit-2")
@pytest.mark.parametrize(
    "trouble",
    [
        status(423, json={"error": {"code": "locked", "message": "server is locked"}}),
        status(429, headers={"Retry-After": "55"}),
        status(429),
        hang_up(),
    ],
    ids=["busy", "rate limit", "rate limit without a time", "lost"],
)
@pytest.mark.parametrize("at", [0, 3])
def test_a_create_that_cannot_go_on_gives_way(
    project: Project, trouble: fake.Fault, at: int
) -> None:
    """The servers of another project of the same customer do not wait for it."""
    servers = [add(project, "hetzner", 1, 101 + n, account="ab"[n != at])[0] for n in range(8)]
    held_up = servers[at].id
    timing(project, max_parallel=8)
    project.cloud.fault(CREATE["hetzner"], trouble, times=1, when=lambda r: r.ids[0] == held_up)
    result = project.run()
    assert (result.code, errors(result)) == (0, [])
    asked = project.cloud.requests(CREATE["hetzner"])
    first = asked[0].monotonic
    others = [r for r in asked if r.ids[0] != held_up]
    assert [r.monotonic - first < 0.1 for r in others] == [True] * 7
    assert [r.ids[0] for r in others] == [s.id for s in servers if s.id != held_up]
    assert asked[-1].ids[0] == held_up


@pytest.mark.proves("limit-2")
def test_servers_that_hang_hold_up_the_order_once_and_not_each(project: Project) -> None:
    servers = add(project, "hetzner", 12)
    timing(project, run_timeout=600, max_parallel=12)
    for_ever = project.clock.condition()

    def act(turn: snapshots.Turn) -> Optional[snapshots.Report]:
        if str(turn) in (servers[0].name, servers[5].name, servers[9].name):
            with for_ever:
                for_ever.wait(3000)
        return snapshots.take_turn(turn)

    run_fleet(project, act)
    at = [r.monotonic for r in project.cloud.requests(CREATE["hetzner"])][:9]
    assert max(at) - 1000 <= snapshots.ORDER_SECONDS + 0.1


@pytest.mark.proves("limit-3")
@pytest.mark.parametrize("kinds", ["ss", "ns", "sss"])
@pytest.mark.parametrize(
    "trouble",
    [
        hang_up(act=True),
        hang_up(),
        status(423, json={"error": {"code": "locked", "message": "server is locked"}}),
    ],
    ids=["carried out without an answer", "lost", "busy"],
)
def test_until_it_is_cleared_up_a_create_counts_as_having_taken_its_room(
    project: Project, kinds: str, trouble: fake.Fault
) -> None:
    """There is room for one at a time: whoever is refused meanwhile waits, and does not fail."""
    project.cloud.fault(CREATE["hetzner"], trouble, when=lambda r: r.ids[0] == "101")
    result, left = limited(project, kinds, kinds.count("n") + 1, 10)
    assert (result.code, errors(result)) == (0, [])
    assert [new for _, new in left.values()] == [1] * len(kinds)


# === A hundred at once are a hundred one by one ================================================

TROUBLES = (
    "",
    "",
    "fails",
    "never finishes",
    "busy",
    "protected",
    "listed late",
    "lost create",
    "hung up create",
    "504 delete",
    "garbage listing",
    "many to prune",
    "nothing to prune",
)


SIZE = 4 * len(TROUBLES)  # each trouble at each provider, and more


def build_mixed(project: Project, count: int) -> None:
    """Servers of all providers and several accounts; most of them with a trouble of their own."""
    timing(project, snapshot_creation_timeout=1200, max_parallel=count)
    for n in range(count):
        provider, trouble = PROVIDERS[n % 3], TROUBLES[n % len(TROUBLES)]
        number = 1001 + n
        nights = {"many to prune": 5, "nothing to prune": 1}.get(trouble, 2)
        server = add(
            project,
            provider,
            1,
            number,
            nights=nights,
            account=f"-{n % 7}",
            duration_seconds=20 + n * 13 % 97,
            slots=9,
        )[0]
        mine = {str(number)}
        doomed = project.cloud.snapshots(server)[0]
        if trouble == "fails":
            server.fails = True
        elif trouble == "never finishes":
            server.never_finishes = True
        elif trouble == "busy":
            project.cloud.add_action(server, "reboot", status="running", seconds=44)
        elif trouble == "protected":
            doomed.protected = True
        elif trouble == "listed late":
            server.lists_late_seconds = 33
        elif trouble == "lost create":
            project.cloud.fault("POST", status(504, act=True), when=about(mine))
        elif trouble == "hung up create":
            project.cloud.fault("POST", hang_up(), when=about(mine))
        elif trouble == "504 delete":
            project.cloud.fault("DELETE", status(504), when=about({doomed.id}))
        elif trouble == "garbage listing" and provider == "contabo":
            project.cloud.fault(LISTINGS[3], garbage(), when=about(mine))


def about(ids: set[str]) -> Callable[[Request], bool]:
    return lambda request: bool(ids & set(request.ids))


@pytest.mark.proves("I2")
def test_interleaved_turns_end_as_single_runs(
    project: Project, another: Callable[[], Project]
) -> None:
    """The same in the cloud, the same for each server, and the exit status that follows."""
    together, apart = project, another()
    ends: dict[str, tuple[list[str], int]] = {}
    for world in (together, apart):
        build_mixed(world, SIZE)
    before = all_names(together)
    assert before == all_names(apart)
    result = together.run()
    told = statuses(result)
    single: dict[str, str] = {}
    codes = []
    for path in sorted((apart.folder / "configs").glob("*.json")):
        alone = apart.run(path.name)
        single.update(statuses(alone))
        codes.append(alone.code)
    assert told == single
    ends = contents(together, before)
    assert ends == contents(apart, before)
    assert 0 in codes
    assert 1 in codes
    assert result.code == 2
    assert len(told) == SIZE
    assert f"{codes.count(0)} succeeded, {codes.count(1)} failed out of {SIZE} total" in result.out


def test_a_hundred_at_once_take_as_long_as_the_slowest(project: Project) -> None:
    roomy(project)
    for n, provider in enumerate(["hetzner", "digitalocean", "contabo", "hetzner"]):
        add(project, provider, 25, 101 + 100 * n, account=str(n), duration_seconds=600, slots=4)
    timing(project, max_parallel=100)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert project.clock.elapsed <= 1.15 * 600
    assert project.cloud.connections() <= 100 + 1  # and one to log in at Contabo


# === Starts, slots and the end =================================================================


def test_the_delay_lies_between_starts_and_not_after_the_last(
    project: Project, another: Callable[[], Project]
) -> None:
    lone = another()
    took = {}
    for fleet, size in ((lone, 1), (project, 4)):
        add(fleet, "hetzner", size, duration_seconds=7)
        timing(fleet, delay_between_servers=50)
        assert fleet.run().code == 0
        took[size] = fleet.clock.elapsed
    began = creates(project)[0].monotonic
    assert [r.monotonic - began for r in creates(project)] == pytest.approx([0, 50, 100, 150])
    assert took[1] < 20
    assert took[4] == pytest.approx(150 + took[1])


def test_the_delay_counts_from_start_to_start_even_where_turns_take_longer(
    project: Project,
) -> None:
    add(project, "hetzner", 3, duration_seconds=100)
    timing(project, delay_between_servers=50, max_parallel=1)
    assert project.run().code == 0
    at = [r.monotonic for r in creates(project)]
    gaps = [b - a for a, b in zip(at, at[1:])]
    assert all(100 <= gap <= 120 for gap in gaps)  # not 150: the turn was longer than the delay


@pytest.mark.parametrize("provider", PROVIDERS)
def test_one_at_a_time_is_one_after_the_other(project: Project, provider: str) -> None:
    servers = add(project, provider, 5, duration_seconds=30, slots=5)
    timing(project, max_parallel=1)
    result = project.run()
    assert result.code == 0
    marks = [
        r.method for r in project.cloud.journal if r in creates(project) or r.method == "DELETE"
    ]
    assert marks == ["POST", "DELETE"] * 5
    assert [line[3] for line in result.final] == [server.name for server in servers]


@pytest.mark.parametrize("parallel", [2, 7])
def test_no_more_turns_at_once_than_allowed_and_no_more_connections(
    project: Project, parallel: int
) -> None:
    roomy(project)
    for n in range(30):
        add(project, "hetzner", 1, 101 + n, duration_seconds=5 + n * 7 % 30)
    timing(project, max_parallel=parallel)
    assert project.run().code == 0
    open_turns = most = 0
    for r in project.cloud.journal:
        open_turns += (r.method == "POST") - (r.method == "DELETE")
        most = max(most, open_turns)
    assert most == parallel
    assert project.cloud.connections() <= parallel


def test_a_free_slot_is_taken_at_once(project: Project) -> None:
    """Two slots, and one server that takes long: the others go through the second slot."""
    roomy(project)
    add(project, "contabo", 1, 101, duration_seconds=1000, slots=4)
    add(project, "contabo", 9, 102, duration_seconds=50, slots=4)
    timing(project, max_parallel=2)
    result = project.run()
    assert result.code == 0
    assert result.final[-1][3] == "co-101"
    assert project.clock.elapsed <= 1040


@pytest.mark.proves("D-10", "P9")
def test_servers_that_cannot_begin_within_run_timeout_fail_and_name_it(project: Project) -> None:
    servers = add(project, "hetzner", 5, duration_seconds=60)
    timing(project, max_parallel=1, run_timeout=100)
    result = project.run()
    assert result.code == 2
    assert list(statuses(result).values()) == ["SUCCESS"] * 2 + ["FAILURE"] * 3
    assert len(errors(result)) == 3
    for line, server in zip(errors(result), servers[2:]):
        assert server.name in line
        assert "[TIMING] run_timeout = 100" in line
    assert len(project.cloud.created) == 2
    assert project.clock.elapsed < 200


def run_fleet(
    project: Project, act: Callable[[snapshots.Turn], Optional[snapshots.Report]]
) -> list[snapshots.Report]:
    """A run in which each server's turn is something else."""
    settings = snapshots.load_settings(project.write_config(), required=True)
    entries, _ = snapshots.load_servers([], settings)
    redact = snapshots.Redactor()
    world = snapshots.Runtime(project.clock, redact, snapshots.Screen(redact))
    return snapshots.Fleet(world, settings, lambda report: None).run(entries, act)


@pytest.mark.parametrize("nights", [0, 2])
def test_where_a_slot_was_freed_what_is_left_is_counted_though_nothing_answered(
    project: Project, nights: int
) -> None:
    """Without that, a create that finds no connection is not worth another request."""
    add(project, "contabo", 1, nights=nights)

    def act(turn: snapshots.Turn) -> snapshots.Report:
        assert snapshots.count_what_is_left(turn, "nobody there", reachable=False) == "nobody there"
        assert turn.total is None
        turn.replaced = snapshots.Snapshot("snap9", "web-20260101000000", None, turn.server.id)
        text = snapshots.count_what_is_left(turn, "nobody there", reachable=False)
        return snapshots.Report(turn.server, success=False, error=text)

    (report,) = run_fleet(project, act)
    left = "the server has 2 snapshots" if nights else "THIS SERVER NOW HAS NO SNAPSHOT AT ALL"
    assert report.error.endswith(left)
    assert len(listings(project)) == 1


@pytest.mark.proves("I16")
def test_a_turn_that_hangs_in_the_machine_does_not_keep_the_run_from_its_end(
    project: Project,
) -> None:
    """As in a name service that never answers: no timeout of ours reaches there."""
    names = ("web", "hangs", "shop")
    servers = [project.server("hetzner", number, name) for number, name in enumerate(names, 11)]
    timing(project, run_timeout=600, snapshot_creation_timeout=3600)
    for_ever = project.clock.condition()

    def act(turn: snapshots.Turn) -> Optional[snapshots.Report]:
        if str(turn) == "hangs":
            with for_ever:
                for_ever.wait()
        return snapshots.take_turn(turn)

    reports = run_fleet(project, act)
    assert [report.success for report in reports] == [True, False, True]
    assert reports[1].error.startswith("its turn hangs, and was given up; Hetzner may still")
    limits = 600 + 3 * 3600 + snapshots.HANG_SECONDS
    assert project.clock.elapsed == pytest.approx(limits + snapshots.STOP_GRACE_SECONDS)
    first, second = (request.monotonic for request in creates(project))
    assert second - first == pytest.approx(snapshots.ORDER_SECONDS)
    assert [len(project.own(server)) for server in servers] == [1, 0, 1]


def test_a_turn_that_hangs_after_its_create_is_known_to_have_left_something(
    project: Project,
) -> None:
    """So is one that only prunes."""
    for number, name in enumerate(("before", "after", "prunes"), 11):
        project.server("hetzner", number, name)
    timing(project, run_timeout=600)
    for_ever = project.clock.condition()

    def act(turn: snapshots.Turn) -> Optional[snapshots.Report]:
        if str(turn) == "after":
            snapshots.create(turn)
        elif str(turn) == "prunes":
            with pytest.raises(snapshots.TurnError, match="no usable snapshot"):
                snapshots.prune_only(turn)
        with for_ever:
            for_ever.wait()
        return None

    assert [report.unpruned for report in run_fleet(project, act)] == [False, True, True]


@pytest.mark.proves("I19")
def test_each_server_has_its_final_status_and_the_summary_counts_them(project: Project) -> None:
    good = add(project, "hetzner", 7, 101, duration_seconds=30)
    bad = add(project, "digitalocean", 4, 201, duration_seconds=20, fails=True)
    project.write("zz-broken.json", {"hetzner_cloud_server": {"name": "broken"}})
    result = project.run()
    assert result.code == 2
    assert result.out == "SUMMARY: 7 succeeded, 5 failed out of 12 total\n"
    assert result.lines[-1] == "SUMMARY: 7 succeeded, 5 failed out of 12 total"
    assert statuses(result) == {
        **{server.name: "SUCCESS" for server in good},
        **{server.name: "FAILURE" for server in bad},
        "zz-broken": "FAILURE",
    }
    assert all(len(line) == 9 for line in result.final)


def test_a_dry_run_lists_servers_in_the_order_of_the_configuration(project: Project) -> None:
    names = [server.name for p in sorted(PROVIDERS) for server in add(project, p, 8)]
    result = project.run("-n")
    assert result.code == 0
    shown = [line.split(":")[0] for line in result.out.splitlines() if "would create" in line]
    assert shown == names
    assert all(r.method == "GET" or "auth" in r.route for r in project.cloud.journal)


def test_log_lines_of_concurrent_servers_name_their_server(project: Project) -> None:
    names = [
        server.name
        for n, p in enumerate(PROVIDERS)
        for server in add(project, p, 5, 101 + 100 * n, duration_seconds=30, slots=4)
    ]
    result = project.run()
    assert result.code == 0
    turns = result.lines[2:-1]
    assert len(turns) >= 5 * len(names)
    for line in turns:
        assert len(set(re.findall(r"\b(?:di|he|co)-\d{3}\b", line)) & set(names)) == 1, line


@pytest.mark.proves("I16", "D-10")
@pytest.mark.parametrize("delay", [50, 86400])
def test_the_pause_between_two_starts_does_not_outlast_the_run(
    project: Project, delay: int
) -> None:
    add(project, "hetzner", 3, duration_seconds=5)
    timing(project, delay_between_servers=delay, run_timeout=60)
    result = project.run()
    assert result.code == 2
    assert errors(result)
    assert project.clock.elapsed < 100


@pytest.mark.proves("I17")
def test_what_one_droplet_may_not_read_ends_no_other_droplets_turn(project: Project) -> None:
    """The one's polls fail for a while, the other's are forbidden; there is no list of actions."""
    add(project, "digitalocean", 2, duration_seconds=50)
    timing(project, delay_between_servers=1)
    project.cloud.fault("GET /do/actions", status(403), times=None)
    single = "GET /do/droplets/{id}/actions/{aid}"
    project.cloud.fault(single, status(500), times=12, when=lambda r: r.ids[0] == "101")
    project.cloud.fault(single, status(403), times=None, when=lambda r: r.ids[0] == "102")
    result = project.run()
    assert statuses(result)["di-101"] == "SUCCESS"


def test_a_turn_that_ends_while_it_is_given_up_is_no_bug(project: Project) -> None:
    redact = snapshots.Redactor()
    world = snapshots.Runtime(project.clock, redact, snapshots.Screen(redact))
    fleet = snapshots.Fleet(world, snapshots.Settings(base=project.folder), lambda report: None)

    class Fleeting(dict[int, Any]):
        def __contains__(self, key: object) -> bool:
            found = super().__contains__(key)
            self.pop(key, None)  # type: ignore[call-overload]
            return found

    fleet.running = Fleeting()
    fleet.running[0] = type(
        "Ending", (), {"provider": snapshots.DigitalOcean, "delete_sent": False}
    )()
    assert "DigitalOcean may still finish it" in fleet._why_unfinished(0)


@pytest.mark.proves("D-5")
def test_a_stop_signal_ends_all_waiting_at_once(project: Project) -> None:
    """Some wait for their snapshot, some for room, some for their slot."""
    add(project, "hetzner", 10, 101, duration_seconds=3000)
    add(project, "digitalocean", 10, 201, duration_seconds=3000)
    add(project, "contabo", 10, 301, duration_seconds=3000)
    project.account("hetzner").limit = 22
    timing(project, max_parallel=25)
    stopped: list[float] = []

    def stop() -> None:
        stopped.append(project.clock.elapsed)
        project.interrupt()

    project.cloud.fault(
        "GET",
        edit(lambda content: stop() or content),  # type: ignore[func-returns-value]
        when=lambda r: project.clock.elapsed > 500,
    )
    result = project.run()
    assert result.code == 1
    assert len(result.final) == 30
    assert project.clock.elapsed - stopped[0] <= 5.1
    assert project.cloud.deleted == []
    assert all("SIGTERM" in line or "interrupted" in line for line in errors(result))


# === Progress on the screen ====================================================================


def test_off_a_terminal_progress_is_a_line_a_minute(project: Project) -> None:
    roomy(project)
    add(project, "hetzner", 6, duration_seconds=630)
    add(project, "digitalocean", 1, 201, duration_seconds=30, fails=True)
    timing(project, max_parallel=4)
    result = project.run("-v")
    assert result.code == 2
    told = [line for line in result.out.splitlines() if "progress: " in line]
    minutes = project.clock.elapsed // 60
    assert minutes > 20
    assert minutes - 2 <= len(told) <= minutes
    first = told[1].partition("progress: ")[2]
    assert "0 done, 4 running, 2 waiting, 1 failed" in first
    assert re.search(r"longest: he-101 \(creating \d+ %\)", first)
    assert "\r" not in result.out
    assert "\x1b" not in result.out


def test_progress_says_what_a_turn_does_after_it_has_waited(project: Project) -> None:
    add(project, "hetzner", 1, duration_seconds=630)
    locked = status(423, json={"error": {"code": "locked", "message": "server is locked"}})
    project.cloud.fault("POST /hz/servers/{id}/actions/create_image", locked, times=40)
    told = [line for line in project.run("-v").out.splitlines() if "progress: " in line]
    doings = re.findall(r"\((waiting for the server|creating|verifying)( \d+ %)?\)", "".join(told))
    assert [doing for doing, _ in itertools.groupby(d for d, _ in doings)] == [
        "waiting for the server",
        "creating",
    ]


def test_without_v_there_is_no_progress(project: Project) -> None:
    add(project, "hetzner", 2, duration_seconds=630)
    result = project.run()
    assert result.out == "SUMMARY: 2 succeeded, 0 failed out of 2 total\n"
    assert not any("progress" in line for line in result.lines)


def test_the_moments_of_the_journal_are_of_the_fake_clock(project: Project) -> None:
    """What the tests above rest on."""
    add(project, "hetzner", 1, duration_seconds=60)
    assert project.run().code == 0
    assert iso_seconds(project.cloud.journal[0].at) == "2025-06-01T03:00:00Z"
    assert project.cloud.journal[-1].monotonic - project.cloud.journal[0].monotonic >= 60


def test_a_droplet_that_is_gone_does_not_spoil_the_listing_of_another(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ask at the same time, and droplet by droplet is the cheaper way to list."""
    monkeypatch.setattr(snapshots.DigitalOcean, "PER_PAGE", 2)
    for number, seconds in ((101, 10), (102, 10), (103, 40), (104, 400), (105, 10)):
        add(project, "digitalocean", 1, number, duration_seconds=seconds)
    pending = {"id": "unprocessable_entity", "message": "Droplet already has a pending event."}

    def is_gone(request: Request) -> bool:
        return request.ids[:1] == ("105",)

    create = "POST /do/droplets/{id}/actions"
    project.cloud.fault(create, status(422, json=pending), times=6, when=is_gone)
    project.cloud.fault(create, status(404), times=None, when=is_gone)
    project.cloud.fault("GET /do/droplets/{id}/snapshots", status(404), times=None, when=is_gone)
    result = project.run()
    assert result.code == 2
    assert [fields[4] for fields in sorted(result.final, key=lambda f: f[3])] == [
        *["SUCCESS"] * 4,
        "FAILURE",
    ]
    assert project.cloud.count("GET /do/droplets/{id}/snapshots") >= 2


def test_a_droplet_whose_action_cannot_be_read_does_not_hold_up_the_others(
    project: Project,
) -> None:
    add(project, "digitalocean", 3, duration_seconds=30)
    timing(project, snapshot_creation_timeout=3600)
    project.cloud.action_order = "oldest"
    project.cloud.fault(
        "GET /do/droplets/{id}/actions/{aid}",
        status(500),
        times=None,
        when=lambda r: r.ids[0] == "101",
    )
    project.cloud.fault("GET /do/actions", status(403), times=None)
    result = project.run()
    assert result.code == 2
    ended = {line[3]: line[6] for line in result.final}
    failed = next(line[3] for line in result.final if line[4] == "FAILURE")
    assert len(errors(result)) == 1
    others = [at for name, at in ended.items() if name != failed]
    assert max(others) < ended[failed]
    assert max(others) < "2025-06-01 05:03:00"


# === The fleet =================================================================================


@pytest.mark.parametrize(
    ("waiting", "age", "batch_wait"),
    [(0, 0, 30), (0, 1000, 30), (1, 0, 0), (1, 100, 10), (9, 299, 29.9), (9, 1000, 30)],
)
def test_a_turn_waits_for_others_but_not_at_the_cost_of_those_that_wait_for_its_slot(
    project: Project, waiting: int, age: float, batch_wait: float
) -> None:
    project.server("hetzner", 31, "web")
    settings = snapshots.load_settings(project.write_config(), required=True)
    (server,), _ = snapshots.load_servers([], settings)
    assert isinstance(server, snapshots.Server)
    world = outside(project.clock)
    account = snapshots.Account(world, server.provider, server.credentials, settings)
    turn = snapshots.Turn(server, account, settings, world, others_wait=lambda: waiting > 0)
    project.clock.advance(age)
    assert turn.batch_wait() == pytest.approx(batch_wait)


@pytest.mark.proves("I18")
@pytest.mark.parametrize(
    ("successes", "failures", "code"),
    [(0, 0, 0), (1, 0, 0), (2, 1, 2), (1, 1, 2), (0, 1, 1), (0, 3, 1)],
)
def test_the_exit_status_says_how_many_have_failed(
    successes: int, failures: int, code: int
) -> None:
    reports = [
        snapshots.Report(a_server("web"), success=well)
        for well in [True] * successes + [False] * failures
    ]
    assert snapshots.exit_status(reports) == code
    line = snapshots.summary_line(reports, 0)
    total = successes + failures
    assert line == f"SUMMARY: {successes} succeeded, {failures} failed out of {total} total"
    assert snapshots.summary_line(reports, 1) == line + "; 1 notification not delivered"


@pytest.mark.parametrize(("delay", "begun"), [(99, 2), (100, 1), (150, 1)])
def test_no_turn_begins_at_the_end_of_the_run_or_later(
    project: Project, delay: int, begun: int
) -> None:
    """Though its slot is free, and only the delay between starts has kept it waiting."""
    add(project, "hetzner", 2, duration_seconds=5)
    timing(project, delay_between_servers=delay, run_timeout=100)
    result = project.run()
    assert len(project.cloud.created) == begun
    assert result.code == (0 if begun == 2 else 2)
    assert ("was not started within 1 min 40 s" in result.err) is (begun == 1)


def test_the_line_of_progress_counts_all_and_names_the_one_that_takes_longest(
    project: Project,
) -> None:
    for number in range(31, 40):
        project.server("hetzner", number, f"s{number}")
    settings = snapshots.load_settings(project.write_config(), required=True)
    servers, _ = snapshots.load_servers([], settings)
    world = outside(project.clock)
    fleet = snapshots.Fleet(world, settings, lambda report: None)
    assert snapshots.progress_line(fleet) == "0 done, 0 running, 0 waiting, 0 failed, 0 s"
    for index, success in enumerate([True, False, False, True, False]):
        fleet.reports[index] = snapshots.Report(a_server("x"), success=success)
    project.clock.advance(100)
    for index in (7, 8):
        server = servers[index]
        assert isinstance(server, snapshots.Server)
        account = fleet.account_of(server)
        fleet.running[index] = snapshots.Turn(server, account, settings, world)
        project.clock.advance(50)
    fleet.waiting = 5
    line = "2 done, 2 running, 5 waiting, 3 failed, 3 min 20 s; longest: s38 (creating)"
    assert snapshots.progress_line(fleet) == line
    fleet.running[7].doing, fleet.running[7].percent = "verifying", 0
    assert snapshots.progress_line(fleet).endswith("; longest: s38 (verifying 0 %)")


def test_a_server_that_is_reported_is_not_counted_as_running_too(project: Project) -> None:
    for number in (31, 32, 33):
        project.server("hetzner", number, f"s{number}")
    settings = snapshots.load_settings(project.write_config(), required=True)
    servers, _ = snapshots.load_servers([], settings)
    seen: list[tuple[int, str]] = []

    def listen(report: snapshots.Report) -> None:  # while its turn is not over
        progress = snapshots.progress_of(fleet)
        seen.append((progress["total"], snapshots.progress_line(fleet).partition(",")[0]))
        assert report.server.name not in [server["name"] for server in progress["servers"]]

    fleet = snapshots.Fleet(outside(project.clock), settings, listen)
    fleet.run(servers, lambda turn: snapshots.Report(turn.server, success=True))
    assert seen == [(3, "1 done"), (3, "2 done"), (3, "3 done")]


def test_a_turn_that_does_not_heed_a_stop_is_reported_without_it(project: Project) -> None:
    """Five seconds are given to end; what comes later is not heard any more."""
    for number, name in ((31, "stops"), (32, "hangs"), (33, "waits")):
        project.server("hetzner", number, name)
    project.config["TIMING"]["max_parallel"] = 2
    settings = snapshots.load_settings(project.write_config(), required=True)
    servers, _ = snapshots.load_servers([], settings)
    clock = project.clock
    heard: list[tuple[str, bool, float]] = []
    world = outside(clock)
    deaf = clock.condition()  # not one of the world's: a stop does not wake it

    def act(turn: snapshots.Turn) -> snapshots.Report:
        if turn.server.name == "stops":
            world.pause(10)
            world.stop("interrupted by SIGTERM")
        else:
            with deaf:
                deaf.wait(1000)
        return snapshots.Report(turn.server, success=True)

    def listen(report: snapshots.Report) -> None:
        heard.append((report.server.name, report.success, clock.elapsed))

    reports = snapshots.Fleet(world, settings, listen).run(servers, act)
    assert clock.elapsed == pytest.approx(15)
    assert [report.error for report in reports] == [
        "",
        "interrupted by SIGTERM; Hetzner may still finish it; nothing was deleted",
        "interrupted by SIGTERM before its turn",
    ]
    later = clock.condition()
    with later:
        later.wait(2000)  # the turn that hung has ended meanwhile
    assert clock.elapsed == pytest.approx(2015)
    assert [(name, success, round(at)) for name, success, at in heard] == [
        ("stops", True, 10),
        ("hangs", False, 15),
        ("waits", False, 15),
    ]


@pytest.mark.parametrize(
    ("success", "line"),
    [(True, "web: SUCCESS: web-1, 3 snapshots exist"), (False, "web: FAILURE: it broke")],
)
def test_the_line_of_a_turn_says_how_it_ended(success: bool, line: str) -> None:
    report = snapshots.Report(
        a_server("web"),
        success=success,
        snapshot_name="web-1",
        total_snapshots=3,
        error="" if success else "it broke",
    )
    assert snapshots.result_line(report) == line


def test_a_bar_in_a_name_does_not_make_a_field_of_its_own() -> None:
    report = snapshots.Report(a_server("a|b | c"), success=True, snapshot_name="a|b-x")
    fields = snapshots.final_status_line(report, "host|name").split(" | ")
    assert len(fields) == 9
    assert (fields[3], fields[5], fields[7]) == ("a/b / c", "host/name", "a/b-x")


def test_two_turns_that_cannot_prune_both_say_that_there_is_no_room(
    project: Project,
) -> None:
    """One after the other, in the order of the configuration, and none waits for the other."""
    servers = [
        *add(project, "hetzner", 2, 101, nights=0, retain=5, duration_seconds=30),
        *add(project, "hetzner", 1, 103, nights=2, retain=5, duration_seconds=30),
    ]
    project.account("hetzner").limit = 3
    result = project.run()
    assert result.code == 2
    assert [len(project.own(server)) for server in servers] == [1, 0, 2]
    assert project.clock.elapsed < 100


def test_a_turn_waits_for_those_before_it_only_until_their_create_is_taken_on(
    project: Project,
) -> None:
    """Each of them makes the project grow, so they go in order; but none waits for an end."""
    add(project, "hetzner", 4, nights=0, duration_seconds=300)
    assert project.run().code == 0
    asked = project.cloud.requests(CREATE["hetzner"])
    assert [r.ids[0] for r in asked] == ["101", "102", "103", "104"]
    assert asked[-1].monotonic - asked[0].monotonic < 1


def test_room_is_not_waited_for_where_the_end_of_the_run_has_passed(project: Project) -> None:
    """Another turn is under way that may make room; there is no time left to see it."""
    limit = snapshots.SharedLimit(outside(project.clock), project.clock.monotonic() + 100)
    for place in (0, 1):
        limit.enter(place)
        limit.wait_for_order(place)
        limit.give_way(place)
    project.clock.advance(105)
    began = project.clock.elapsed
    assert not limit.wait_for_room(1)
    assert project.clock.elapsed == began


def test_room_is_not_waited_for_beyond_the_end_of_the_run(project: Project) -> None:
    add(project, "hetzner", 1, 101, never_finishes=True)
    add(project, "hetzner", 1, 102)
    project.account("hetzner").limit = 5
    timing(project, run_timeout=500, snapshot_creation_timeout=2000, delay_between_servers=1)
    result = project.run()
    assert result.code == 1
    ended = {line[3]: line[6] for line in result.final}
    assert ended["he-102"] == "2025-06-01 05:08:20"  # 500 seconds after the beginning
    assert "this project holds 5 snapshots" in result.err
