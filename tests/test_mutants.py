"""Edges that are easy to get wrong by one character: found by mutating the tool, see mutants.md."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from pathlib import Path
from typing import Any, Optional

import fake_cloud as fake
import pytest
from conftest import Project
from fake_clock import CountingClock, FakeClock
from fake_cloud import FakeCloud, Request
from test_faults import CREATE, DELETE, LIST, LOOK, each_provider
from test_fleet import add, errors, roomy, timing

import snapshots
from snapshots import Act, Answer, Next, Outcome, Snapshot

START = datetime(2025, 1, 1, 3, 0, tzinfo=timezone.utc)
NOW = datetime(2025, 6, 1, 12, 0, tzinfo=timezone.utc)
not_contabo = pytest.mark.parametrize("provider", ["digitalocean", "hetzner"])


# === What is ours, and what stays ==============================================================


@pytest.mark.parametrize("server_id", ["6", "8", "70", "07", "", None])
def test_a_snapshot_of_any_other_server_is_not_ours(server_id: str | None) -> None:
    snapshot = Snapshot("1", "web-20250101030000", START, server_id)
    assert snapshots.why_not_ours(snapshot, "7", "web") == "not made from this server"


@pytest.mark.parametrize(("brake", "deleted"), [(-1, 0), (0, 0), (1, 1), (5, 2)])
def test_the_brake_may_forbid_every_deletion(brake: int, deleted: int) -> None:
    history = [Snapshot(str(n), "web-x", START + timedelta(days=n), "1") for n in range(4)]
    plan = snapshots.plan_retention(history, 2, brake)
    assert [s.id for s in plan.delete] == ["0", "1"][:deleted]
    assert [s.id for s in plan.postponed] == ["0", "1"][deleted:]
    assert len(plan.keep) == 2


@pytest.mark.parametrize(
    ("retain", "pending", "stay"), [(1, 1, 0), (2, 1, 1), (3, 2, 1), (1, 2, 0)]
)
def test_those_about_to_be_made_take_places_among_those_that_stay(
    retain: int, pending: int, stay: int
) -> None:
    history = [Snapshot(str(n), "web-x", START + timedelta(days=n), "1") for n in range(5)]
    plan = snapshots.plan_retention(history, retain, 99, pending=pending)
    assert len(plan.keep) == stay
    assert len(plan.delete) == 5 - stay


@not_contabo
@pytest.mark.parametrize("late", ["41", "42", "43"])
def test_a_twin_of_the_same_name_is_never_taken_for_the_new_one(
    project: Project, provider: str, late: str
) -> None:
    """Three servers of one name are snapshotted in the same second; one's never shows."""
    servers = [
        project.server(
            provider,
            number,
            "web",
            duration_seconds=40,
            lists_late_seconds=1e9 if str(number) == late else 0,
        )
        for number in (41, 42, 43)
    ]
    old = {server.id: project.history(server, 2) for server in servers}
    project.cloud.fault(POLL_AGAIN[provider], fake.status(404), times=None)
    timing(project, snapshot_creation_timeout=600)
    result = project.run()
    assert result.code == 2
    for server in servers:
        if server.id == late:
            assert set(old[server.id]) <= set(project.own(server))
        else:
            assert old[server.id][1:] == project.own(server)[:1]
            assert len(project.own(server)) == 2


@pytest.mark.parametrize(("name", "hours"), [("by hand", 0.001), ("", -1)])
def test_nothing_else_on_the_server_is_taken_for_the_new_one(
    project: Project, name: str, hours: float
) -> None:
    """Neither one made by hand meanwhile nor an old one of the same name, if ours never shows."""
    server = project.server(
        "digitalocean", 31, "web", retain=1, duration_seconds=40, lists_late_seconds=1e9
    )
    old = project.history(server, 2)
    own = snapshots.snapshot_name("web", project.clock.now())
    at = project.clock.now() + timedelta(hours=hours)
    project.cloud.add_snapshot(server, name or own, at)
    result = project.run()
    assert result.code == 1
    assert "was reported done, but is not yet in the listing" in result.err
    assert set(old) <= set(project.own(server))


def test_contabo_what_is_made_by_hand_meanwhile_is_not_taken_for_the_new_one(
    project: Project,
) -> None:
    """Whatever ids they have, and in whatever order they are listed."""
    server = project.server("contabo", 31, "web", retain=1, slots=20, duration_seconds=40)
    for number in range(12):
        project.cloud.add_snapshot(server, f"by hand {number}", id=f"snap{number * 10**8}")
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert len(project.own(server)) == 13


POLL_AGAIN = {"digitalocean": "GET /do/droplets/{id}/actions/{aid}", "hetzner": "GET /hz/actions"}


# === What an answer means ======================================================================

NAMED = {
    204: Outcome.EMPTY,
    401: Outcome.UNAUTHORIZED,
    402: Outcome.LOST,
    403: Outcome.FORBIDDEN,
    404: Outcome.GONE,
    408: Outcome.SERVER_ERROR,
    409: Outcome.LOST,
    410: Outcome.GONE,
    423: Outcome.LOST,
    425: Outcome.RATE_LIMITED,
    429: Outcome.RATE_LIMITED,
    503: Outcome.UNAVAILABLE,
}
CLASSES = {
    2: Outcome.GOOD,
    3: Outcome.REDIRECT,
    4: Outcome.REJECTED,
    5: Outcome.SERVER_ERROR,
}


def test_every_status_has_its_outcome() -> None:
    for status in range(100, 700):
        expected = NAMED.get(status, CLASSES.get(status // 100, Outcome.LOST))
        assert snapshots.outcome_of(status) is expected, status


@pytest.mark.parametrize(
    ("own", "code", "message", "outcome"),
    [
        (403, "resource_limit_exceeded", "", Outcome.LIMIT),
        (409, "uniqueness_error", "", Outcome.NOT_UNIQUE),
        (423, "protected", "", Outcome.PROTECTED),
        (422, "", "Droplet already has a pending event.", Outcome.BUSY),
    ],
)
def test_a_code_counts_with_its_own_status_only(
    own: int, code: str, message: str, outcome: Outcome
) -> None:
    code = str(json.loads(json.dumps(code)))  # a text of its own, as out of an answer
    for status in (s.value for s in HTTPStatus if s >= 200):
        found = snapshots.outcome_of(status, code, message)
        assert found is (outcome if status == own else snapshots.outcome_of(status, "x")), status


@pytest.mark.parametrize("status", [403, 409, 422, 423])
@pytest.mark.parametrize("code", ["aaa", "zzz"])
def test_a_code_that_nobody_knows_changes_nothing(status: int, code: str) -> None:
    assert snapshots.outcome_of(status, code, "x") is snapshots.outcome_of(status, "x")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error": 5, "message": "x"}', ""),
        (b'{"error": ["locked"], "message": "x"}', ""),
        (b'{"error": "locked", "message": "x"}', "locked"),
    ],
)
def test_a_code_is_a_text_or_it_is_none(body: bytes, code: str) -> None:
    assert snapshots.explain(Answer(409, {}, body)) == (code, "x")


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Sun, 01 Jun 2025 12:00:01 GMT", 1.0),
        ("Sun, 01 Jun 2025 12:00:00 GMT", None),
        ("Sun, 01 Jun 2025 11:59:59 GMT", None),
    ],
)
def test_a_moment_to_wait_for_lies_ahead(date: str, seconds: float | None) -> None:
    assert snapshots.retry_after_seconds(Answer(429, {"retry-after": date}, b""), NOW) == seconds


@pytest.mark.parametrize(
    ("status", "value", "seconds"),
    [
        (429, 2, 2.0),
        (429, 1, 1.0),
        (429, 0, None),
        (429, -1, None),
        (428, 2, None),
        (430, 2, None),
        (503, 2, None),
    ],
)
def test_only_a_429_says_in_its_body_how_long_to_wait(
    status: int, value: int, seconds: float | None
) -> None:
    body = b'{"parameters": {"retry_after": %d}}' % value
    assert snapshots.retry_after_seconds(Answer(status, {}, body), NOW) == seconds


@pytest.mark.parametrize(
    ("attempt", "base", "longest"),
    [(1, 1.0, 1.0), (2, 1.0, 2.0), (5, 1.0, 16.0), (6, 1.0, 30.0), (99, 1.0, 30.0), (2, 5.0, 10.0)],
)
def test_a_pause_is_between_half_and_all_of_its_length(
    attempt: int, base: float, longest: float
) -> None:
    pauses = [snapshots.pause_before(attempt, base) for _ in range(200)]
    assert longest / 2 <= min(pauses) < 0.6 * longest
    assert 0.9 * longest < max(pauses) <= longest


def test_the_pause_before_a_first_retry_is_a_second_at_most() -> None:
    assert 0.5 <= snapshots.pause_before(1) <= 1.0


@pytest.mark.parametrize(
    ("content", "path", "kind", "trouble"),
    [
        ({"a": {"b": 1}}, ("a", "b"), int, ""),
        ({"a": [{"b": {}}]}, ("a", 0, "b"), dict, ""),
        ({"a": True}, ("a",), bool, ""),
        ({"a": True}, ("a",), int, "a is of the wrong type"),
        ({"a": 5}, ("a",), dict, "a is of the wrong type"),
        ({"a": 5}, ("a",), (list, str), "a is of the wrong type"),
        ({"a": {"b": "x"}}, ("a", "b"), list, "a.b is of the wrong type"),
        (5, (), dict, "the answer is of the wrong type"),
        ({"a": []}, ("a", 0), dict, "the answer lacks a.0"),
        ({}, ("a", "b"), dict, "the answer lacks a.b"),
        (None, ("a",), dict, "the answer lacks a"),
    ],
)
def test_what_is_taken_from_an_answer_is_of_the_promised_kind(
    content: Any, path: tuple[Any, ...], kind: Any, trouble: str
) -> None:
    if trouble:
        with pytest.raises(snapshots.GarbledError) as caught:
            snapshots.take(content, *path, kind=kind)
        assert str(caught.value) == trouble
    else:
        snapshots.take(content, *path, kind=kind)


def test_an_answer_whose_time_is_up_is_not_read_any_further() -> None:
    """Though there is something to read: else each byte would buy another wait."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x" * 100)
        ours.settimeout(0.5)
        with ours.makefile("rb", buffering=0) as raw:
            reader = snapshots.TimedReader(raw, ours)
            assert reader.readinto(bytearray(10)) == 10
            time.sleep(0.5)
            with pytest.raises(socket.timeout):
                reader.readinto(bytearray(10))


@pytest.mark.parametrize("fault", [fake.huge(17 * 1024 * 1024), fake.gzip_bomb()])
@each_provider
def test_an_answer_beyond_all_bounds_is_cut_off(
    project: Project, provider: str, fault: fake.Fault
) -> None:
    """It is sound JSON, and only its size is wrong, be it as it comes or unpacked."""
    server = project.server(provider, 31, "web", duration_seconds=20)
    old = project.history(server, 2)
    project.cloud.fault(LIST[provider], fault, times=None)
    result = project.run()
    assert result.code == 1
    assert "its answer is larger than 16777216 bytes" in result.err
    assert set(old) <= set(project.own(server))


# === An account's pace =========================================================================


def outside(clock: snapshots.Clock) -> snapshots.World:
    redact = snapshots.Redactor()
    return snapshots.World(clock, redact, snapshots.Screen(redact))


def ask(api: snapshots.Api, act: Act = Act.READ) -> Any:
    return api.call(act, "GET", "/images", "look", lambda content: content)


def test_where_the_rate_limit_leaves_no_room_in_time_nothing_is_sent(
    cloud: FakeCloud, clock: FakeClock
) -> None:
    world = outside(clock)
    api = snapshots.Api(
        world,
        f"{cloud.url}/hz/v1",
        snapshots.FixedToken(cloud.add_account("hetzner").token),
        timeout=5,
        limits=[snapshots.Window(2, 3600)],
    )
    for _ in range(2):
        ask(api)
    with pytest.raises(snapshots.ApiError, match="the rate limit leaves no room in time") as caught:
        ask(api)
    assert (caught.value.outcome, caught.value.next_step) == (Outcome.RATE_LIMITED, Next.FAIL)
    assert cloud.count() == 2
    assert clock.elapsed == 0  # it is not waited for either
    clock.advance(3600 - snapshots.RATE_SECONDS)
    ask(api)
    assert cloud.count() == 3
    assert clock.elapsed == pytest.approx(3600)


def test_a_pause_of_an_account_is_not_shortened_by_a_later_one(clock: FakeClock) -> None:
    pace = snapshots.Pace(outside(clock))
    pace.pause(60)
    pace.pause(10)
    assert not pace.wait(clock.monotonic() + 59)
    assert clock.elapsed == 0
    assert pace.wait(clock.monotonic() + 61)
    assert clock.elapsed == pytest.approx(60)


def test_even_a_short_pause_of_an_account_is_kept(clock: FakeClock) -> None:
    pace = snapshots.Pace(outside(clock))
    pace.pause(0.5)
    assert pace.wait(clock.monotonic() + 60)
    assert clock.elapsed == pytest.approx(0.5)


@pytest.mark.parametrize("length", range(1, 12))
def test_a_short_credential_is_masked_in_texts_about_its_own_connection(
    clock: FakeClock, length: int
) -> None:
    """A longer one is masked everywhere, once it has been made known."""
    world = outside(clock)
    source = snapshots.FixedToken("x")
    secret = "%#!?$&*+~^=@"[:length]
    api = snapshots.Api(world, "http://127.0.0.1", source, timeout=5, secrets=["", secret])
    text = f"bad {secret} thing"
    assert api.shown(text) == ("bad [hidden] thing" if length < 8 else text)
    world.redact.add(secret)
    assert api.shown(text) == "bad [hidden] thing"


@each_provider
def test_a_read_is_tried_again_after_pauses_that_double(project: Project, provider: str) -> None:
    project.server(provider, 31, "web")
    project.cloud.fault(LIST[provider], fake.status(500), times=5)
    assert project.run("-n").code == 0
    for number, gap in enumerate(gaps(project, LIST[provider])[:5]):
        assert 2**number / 2 <= gap <= 2**number


@each_provider
@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 1)])
def test_a_read_that_is_damaged_is_tried_again_once(
    project: Project, provider: str, times: int, code: int
) -> None:
    project.server(provider, 31, "web")
    project.cloud.fault(LIST[provider], fake.garbage(), times=times)
    assert project.run("-n").code == code
    assert project.cloud.count(LIST[provider]) == 2


def test_contabos_token_is_not_renewed_again_and_again(project: Project) -> None:
    server = project.server("contabo", 31, "web")
    old = project.history(server, 2)
    project.cloud.fault(CREATE["contabo"], fake.status(401), times=None)
    result = project.run()
    assert result.code == 1
    assert "HTTP 401" in result.err
    assert project.cloud.count(CREATE["contabo"]) == 2
    assert project.cloud.count("POST /cb-auth/token") == 2
    assert project.own(server) == old


def test_a_bucket_refills_steadily_and_not_beyond_its_size() -> None:
    bucket = snapshots.Bucket(3, 0.5)
    for _ in range(3):
        assert bucket.wait_seconds(100.0) == 0
        bucket.spend(100.0)
    assert bucket.wait_seconds(100.0) == 2.0
    assert bucket.wait_seconds(100.5) == 1.5
    assert bucket.wait_seconds(101.0) == 1.0
    assert bucket.wait_seconds(102.0) == 0
    bucket.spend(102.0)
    for _ in range(3):
        assert bucket.wait_seconds(9000.0) == 0
        bucket.spend(9000.0)
    assert bucket.wait_seconds(9000.0) == 2.0


def test_a_large_window_holds_its_limit_as_well() -> None:
    window = snapshots.Window(5000, 3600)
    for number in range(5000):
        assert window.wait_seconds(number / 10) == 0
        window.spend(number / 10)
    assert window.wait_seconds(600.0) == 3000.0
    assert window.wait_seconds(3600.0) == 0


@pytest.mark.parametrize(
    ("told", "left"),
    [("1", 1.0), ("0", 0.0), ("99", 10), ("-1", 10), ("x", 10), ("1.5", 10), ("9" * 10, 10)],
)
def test_a_provider_that_says_what_is_left_is_believed_downwards(
    clock: FakeClock, told: str, left: float
) -> None:
    bucket = snapshots.Bucket(10, 1.0)
    pace = snapshots.Pace(outside(clock), snapshots.Window(100, 60), bucket)
    pace.learn(Answer(200, {"ratelimit-remaining": told}, b""))
    assert bucket.tokens == left


@pytest.mark.parametrize(
    ("provider", "windows"), [("digitalocean", [(250, 60), (5000, 3600)]), ("hetzner", [])]
)
def test_the_pace_keeps_the_documented_limits(
    clock: FakeClock, provider: str, windows: list[tuple[int, float]]
) -> None:
    """So many in any stretch of time; Hetzner's 3,600 are refilled one a second."""
    pace = snapshots.Pace(outside(clock), *snapshots.PROVIDERS[provider].limits())
    at: list[float] = []
    for _ in range(6000):
        assert pace.wait(1e9)
        at.append(clock.monotonic())
    for count, seconds in windows:
        assert min(later - earlier for earlier, later in zip(at, at[count:])) > seconds
    if provider == "hetzner":
        left, before = 3600.0, at[0]
        for moment in at:
            left, before = min(3600.0, left + moment - before) - 1, moment
            assert left >= 0
        assert at[3000] == at[0]  # a burst is allowed
    assert at[-1] - at[0] < 7300


@pytest.mark.parametrize(("left", "seconds"), [("0", 2), ("1", 0), ("4000", 0)])
def test_after_an_answer_that_nothing_is_left_nothing_is_sent_for_a_moment(
    clock: FakeClock, left: str, seconds: float
) -> None:
    """DigitalOcean's header: it does not say of which limit, nor until when."""
    pace = snapshots.Pace(outside(clock), *snapshots.DigitalOcean.limits())
    pace.learn(Answer(200, {"ratelimit-remaining": left}, b""))
    assert pace.wait(1e9)
    assert clock.elapsed == pytest.approx(seconds)


def stop_now(project: Project) -> Callable[[Request], bool]:
    """For `when`: a signal arrives while the request is being answered."""

    def when(_request: Request) -> bool:
        project.interrupt()
        return True

    return when


@each_provider
def test_a_stop_during_the_pause_before_a_retry_ends_the_turn(
    project: Project, provider: str
) -> None:
    server = project.server(provider, 31, "web", duration_seconds=20)
    old = project.history(server, 2)
    again = fake.status(429, headers={"Retry-After": "400"})
    project.cloud.fault(CREATE[provider], again, when=stop_now(project))
    result = project.run()
    assert result.code == 1
    assert "interrupted by SIGTERM" in result.err
    assert "may still finish it; nothing more was deleted" in result.err
    assert project.cloud.count(CREATE[provider]) == 1
    assert project.clock.elapsed < 10
    assert project.own(server) == old


def test_a_stop_while_a_token_is_fetched_keeps_the_create_from_being_sent(project: Project) -> None:
    server = project.server("contabo", 31, "web", duration_seconds=20)
    old = project.history(server, 2)
    token = fake.edit(lambda content: project.interrupt() or content)  # type: ignore[func-returns-value]
    project.cloud.fault(TOKEN, token)
    result = project.run()
    assert result.code == 1
    assert "interrupted by SIGTERM" in result.err
    assert project.cloud.count(TOKEN) == project.cloud.count() == 1
    assert project.own(server) == old


def test_a_notification_under_way_is_tried_again_though_a_stop_arrives(project: Project) -> None:
    """At once, and not after the pause that it would take otherwise."""
    project.server("hetzner", 31, "web")
    project.server("hetzner", 32, "db", duration_seconds=3000)
    url = f"{project.cloud.url}/hook/x"
    project.config["WEBHOOK"] = {"enabled": "true", "url": url, "base_delay_between_retries": 60}
    project.cloud.fault(CREATE["hetzner"], fake.status(400), when=lambda r: r.ids[0] == "31")
    project.cloud.fault("POST /hook", fake.status(500), when=stop_now(project))
    result = project.run()
    assert result.code == 1
    assert [hook.json["server"] for hook in project.cloud.hooks] == ["web", "db"]
    assert "not delivered" not in result.out + result.err
    assert project.clock.elapsed < 20


# === Listings ==================================================================================


def pages(*shown: snapshots.Page) -> Callable[[int], snapshots.Page]:
    """Answers, page by page, over and over; the pages asked for are noted in `asked`."""

    def fetch(number: int) -> snapshots.Page:
        fetch.asked.append(number)  # type: ignore[attr-defined]
        return shown[number - 1]

    fetch.asked = []  # type: ignore[attr-defined]
    return fetch


def page(*ids: Any, more: bool = False, total: int | None = None) -> snapshots.Page:
    return snapshots.Page(tuple({"id": i} for i in ids), more, total)


@pytest.mark.parametrize(
    ("shown", "trouble", "reads"),
    [
        ([page(1, 2)], "", 1),
        ([page()], "", 1),
        ([page(1, 2, more=True), page(3)], "", 1),
        ([page(1, 2, more=True), page()], "", 1),
        ([page(1, 2, more=True, total=3), page(3, total=3)], "", 1),
        ([page(1, 2, total=3)], "the listing has 2 of 3 entries", 5),
        ([page(1, 2, total=1)], "the listing has 2 of 1 entries", 5),
        ([page(1, 1)], "an entry stands twice", 5),
        ([page(1, 2, more=True), page(2)], "an entry stands twice", 5),
        ([page(1, more=True), page(more=True)], "an empty page in the middle", 5),
        ([page(1, "../x")], "id is not usable as an id", 1),
    ],
)
def test_a_listing_is_complete_or_an_error(
    shown: list[snapshots.Page], trouble: str, reads: int
) -> None:
    """What does not add up is read five times; what is damaged does not get better by that."""
    fetch = pages(*shown)
    if trouble:
        with pytest.raises(snapshots.ApiError, match=trouble) as caught:
            snapshots.every_page(fetch, "list", snapshots.by_number)
        assert (caught.value.outcome, caught.value.next_step) == (Outcome.GARBLED, Next.FAIL)
    else:
        items = snapshots.every_page(fetch, "list", snapshots.by_number)
        assert [i for i, _ in items] == [str(item["id"]) for p in shown for item in p.items]
    assert fetch.asked == [*range(1, len(shown) + 1)] * reads  # type: ignore[attr-defined]


def test_a_listing_that_has_settled_is_read_to_its_end() -> None:
    answers = iter([page(1, 1), page(1, more=True), page(1), page(1, 2)])
    items = snapshots.every_page(lambda number: next(answers), "list", snapshots.by_number)
    assert [i for i, _ in items] == ["1", "2"]


def test_a_listing_without_an_end_is_given_up() -> None:
    asked: list[int] = []

    def fetch(number: int) -> snapshots.Page:
        asked.append(number)
        return page(number, more=True)

    with pytest.raises(snapshots.ApiError, match="more than 1000 pages"):
        snapshots.every_page(fetch, "list", snapshots.by_number)
    assert len(asked) == 5 * 1000


def real_account(project: Project, owner: fake.Account) -> snapshots.Account:
    """What the turns of an account share, with the real clock."""
    settings = snapshots.load_settings(project.write_config(), required=True)
    world = outside(snapshots.SystemClock())
    return snapshots.Account(world, owner.provider, [owner.token], settings)


def test_a_delete_waits_until_the_listing_under_way_has_been_read(project: Project) -> None:
    """What goes meanwhile would shift the pages."""
    server = add(project, "hetzner", 1, nights=6)[0]
    account = real_account(project, server.account)
    doomed = Snapshot(project.cloud.snapshots(server)[0].id, "x", START, server.id)
    deleting = threading.Thread(target=account.delete, args=[doomed])

    def meanwhile() -> None:
        deleting.start()
        time.sleep(0.2)

    project.cloud.stop_at(2, meanwhile)
    assert len(account.list_snapshots(server.id)) == 6
    deleting.join(20)
    assert [r.method for r in project.cloud.journal] == ["GET"] * 3 + ["DELETE"]


def test_a_listing_waits_until_the_delete_under_way_is_through(project: Project) -> None:
    server = add(project, "hetzner", 1, nights=6)[0]
    account = real_account(project, server.account)
    doomed = Snapshot(project.cloud.snapshots(server)[0].id, "x", START, server.id)
    listed: list[int] = []
    listing = threading.Thread(target=lambda: listed.append(len(account.list_snapshots(server.id))))
    begun: list[int] = []

    def meanwhile() -> None:
        listing.start()
        time.sleep(0.2)
        begun.append(project.cloud.count("GET"))

    project.cloud.stop_at(1, meanwhile)
    assert account.delete(doomed)
    listing.join(20)
    assert (begun, listed) == ([0], [5])


@pytest.mark.parametrize(("sharers", "dear"), [(1, 8), (2, 4)])
def test_single_reads_are_weighed_against_a_servers_share_of_a_listing(
    project: Project, sharers: int, dear: int
) -> None:
    """The last listing had eight pages; of two that share it, each has paid four."""
    roomy(project)
    servers = add(project, "hetzner", 2, nights=200, retain=500)
    account = real_account(project, servers[0].account)
    assert not account.single_reads_cost_less(1)  # nothing is known of listings yet
    threads = [
        threading.Thread(target=account.list_snapshots, args=[server.id, 30])
        for server in servers[:sharers]
    ]
    for _ in threads:
        account.enter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert project.cloud.count("GET /hz/images") == 8
    cheaper = [count for count in range(1, 20) if account.single_reads_cost_less(count)]
    assert cheaper == list(range(1, dear))


@pytest.mark.parametrize(("held", "needed"), [(0, 16), (400, 16), (401, 18), (450, 18), (451, 20)])
def test_company_is_near_where_a_listings_pages_are_shared_by_many(
    project: Project, held: int, needed: int
) -> None:
    """At least two for each page of 50, and at least sixteen."""
    roomy(project)
    server = add(project, "hetzner", 1, nights=held, retain=500)[0]
    account = real_account(project, server.account)
    account.list_snapshots(server.id)
    coming, going = [], []
    for _ in range(24):
        account.enter()
        coming.append(account.company_is_near())
    for _ in range(24):
        going.append(account.company_is_near())
        account.leave()
    assert coming == [count >= needed for count in range(1, 25)]
    assert going == coming[::-1]


def test_one_listing_is_read_at_a_time(project: Project) -> None:
    servers = add(project, "hetzner", 2, nights=3)
    account = real_account(project, servers[0].account)
    second = threading.Thread(target=account.list_snapshots, args=[servers[1].id])
    asked: list[int] = []

    def meanwhile() -> None:
        second.start()
        time.sleep(0.2)
        asked.append(project.cloud.count())

    project.cloud.stop_at(2, meanwhile)
    account.list_snapshots(servers[0].id)
    second.join(20)
    assert asked == [2]
    assert [r.one("page") for r in project.cloud.journal] == ["1", "2", "3"] * 2


def test_a_listing_to_guess_by_is_fetched_once_and_any_will_do(project: Project) -> None:
    servers = add(project, "hetzner", 2)
    account = real_account(project, servers[0].account)
    roomy(project)
    for server in servers:
        listing = account.some_listing(server.id)
        assert listing is not None
        assert len(listing) == 4
    assert project.cloud.count() == 1


def test_where_there_is_no_listing_to_guess_by_it_is_not_asked_for_again(project: Project) -> None:
    servers = add(project, "hetzner", 2)
    account = real_account(project, servers[0].account)
    project.cloud.fault("GET", fake.status(403))
    assert [account.some_listing(server.id) for server in servers] == [None, None]
    assert project.cloud.count() == 1


@pytest.mark.parametrize(
    ("kind", "id", "usable"),
    [
        ("droplet", 17, True),
        ("droplet", "17", True),
        ("droplet", "4f60fc64-85d1-11e6-a004-000f53315871", False),
        (None, "4f60fc64-85d1-11e6-a004-000f53315871", False),
        ("aaa", "4f60fc64-85d1-11e6-a004-000f53315871", False),
        ("zzz", "4f60fc64-85d1-11e6-a004-000f53315871", False),
        ("volume", "4f60fc64-85d1-11e6-a004-000f53315871", True),
        ("volume", "../x", False),
    ],
)
def test_only_a_volumes_snapshot_may_have_an_id_that_is_no_number(
    kind: str | None, id: Any, usable: bool
) -> None:
    item = {"id": id, "resource_type": kind}
    if usable:
        assert snapshots.by_number_or_volume(item) == str(id)
    else:
        with pytest.raises(snapshots.GarbledError):
            snapshots.by_number_or_volume(item)


@pytest.mark.parametrize(
    ("item", "is_set"),
    [
        ({"protection": {"delete": True}}, True),
        ({"protection": {"delete": False}}, False),
        ({"protection": {"delete": None}}, False),
        ({"protection": {"delete": 0}}, True),
        ({"protection": {"delete": "no"}}, True),
        ({"protection": {}}, False),
        ({"protection": None}, False),
        ({}, False),
    ],
)
def test_what_may_be_protected_is_taken_for_protected(item: Any, is_set: bool) -> None:
    assert snapshots.flag_of(item, "protection", "delete") is is_set


@pytest.mark.parametrize(
    ("value", "name"),
    [("web", "web"), ("", ""), ("x" * 10_000, "x" * 10_000), ("x" * 10_001, None), (5, None)],
)
def test_a_name_is_a_text_of_bearable_length(value: Any, name: str | None) -> None:
    assert snapshots.name_of({"name": value}, "name") == name


# === What providers say ========================================================================

ABOUT: dict[str, Callable[[Any, int], Any]] = {
    "digitalocean": lambda c, id: {"action": {**c["action"], "resource_id": id}},
    "hetzner": lambda c, id: {**c, "image": {**c["image"], "created_from": {"id": id}}},
    "contabo": lambda c, id: {**c, "data": [{**c["data"][0], "instanceId": id}]},
}


@each_provider
@pytest.mark.parametrize("other", [1, 99])
def test_an_answer_about_another_server_is_not_believed(
    project: Project, provider: str, other: int
) -> None:
    """What became of the create is then looked for, as if there had been no answer."""
    server = project.server(provider, 31, "web", duration_seconds=40)
    old = project.history(server, 2)

    project.cloud.fault(CREATE[provider], fake.edit(lambda c: ABOUT[provider](c, other)))
    result = project.run()
    assert result.code == 0
    assert "the answer is about another" in result.log
    assert "looking whether it was carried out" in result.log
    assert len(project.cloud.created) == 1
    assert project.own(server)[0] == old[1]
    assert len(project.own(server)) == 2


@each_provider
@pytest.mark.parametrize(
    "fault", [fake.status(504, act=True), fake.hang_up(act=True), fake.garbage(act=True)]
)
def test_a_create_that_was_done_at_once_but_got_no_answer_is_adopted(
    project: Project, provider: str, fault: fake.Fault
) -> None:
    """The server is free again already: only a look tells that it must not be asked again."""
    server = project.server(provider, 31, "web", duration_seconds=0)
    old = project.history(server, 2)
    project.cloud.fault(CREATE[provider], fault)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert len(project.cloud.created) == 1
    assert project.cloud.count(CREATE[provider]) == 1
    assert project.own(server)[0] == old[1]


def test_a_lost_create_is_found_among_other_actions_of_the_droplet(project: Project) -> None:
    """There are older ones, and a newer one as well."""
    server = project.server("digitalocean", 31, "web", duration_seconds=40)
    project.history(server, 2)
    for _ in range(3):
        project.cloud.add_action(server, "rename")

    def newer(_request: Request) -> bool:
        if not [action for action in server.actions if action.type == "resize"]:
            project.cloud.add_action(server, "resize")
        return False

    project.cloud.fault(CREATE["digitalocean"], fake.status(504, act=True))
    project.cloud.fault(LOOK["digitalocean"], fake.status(500), when=newer)
    assert project.run().code == 0
    assert len(project.cloud.created) == 1
    assert project.cloud.count(CREATE["digitalocean"]) == 1


def test_other_actions_of_a_droplet_are_no_snapshots(project: Project) -> None:
    server = project.server("digitalocean", 31, "web", duration_seconds=40)
    project.history(server, 2)
    project.cloud.fault(
        CREATE["digitalocean"],
        fake.status(504),
        when=lambda r: bool(project.cloud.add_action(server, "rename", status="completed")),
    )
    result = project.run()
    assert result.code == 0
    assert "asking once more" in result.log
    assert len(project.cloud.created) == 1


@pytest.mark.parametrize("started", [None, "yesterday", "2025-06-01"])
def test_an_action_that_began_nobody_knows_when_leaves_it_unknown(
    project: Project, started: Any
) -> None:
    server = project.server("digitalocean", 31, "web", duration_seconds=40)
    old = project.history(server, 2)
    project.cloud.add_action(server, "snapshot", started=project.clock.now() - timedelta(days=1))

    def edit(content: Any) -> Any:
        actions = [{**action, "started_at": started} for action in content["actions"]]
        return {**content, "actions": actions}

    project.cloud.fault(CREATE["digitalocean"], fake.status(504))
    project.cloud.fault(LOOK["digitalocean"], fake.edit(edit), times=None)
    result = project.run()
    assert result.code == 1
    assert "outcome unknown" in result.err
    assert project.own(server) == old


@pytest.mark.parametrize(
    ("command", "status", "known"),
    [
        ("create_image", "running", False),
        ("create_image", "success", True),
        ("create_image", "aaa", True),
        ("reboot", "running", True),
        ("attach_iso", "running", True),
    ],
)
def test_hetzner_an_image_in_the_making_leaves_it_unknown_whose_it_is(
    project: Project, command: str, status: str, known: bool
) -> None:
    server = project.server("hetzner", 31, "web", duration_seconds=40)
    project.history(server, 2)

    def edit(content: Any) -> Any:
        action = {"id": 7, "command": command, "status": status}
        return {"actions": [action], "meta": {"pagination": {"next_page": None}}}

    project.cloud.fault(CREATE["hetzner"], fake.status(504))
    project.cloud.fault("GET /hz/servers/{id}/actions", fake.edit(edit), times=None)
    result = project.run()
    assert result.code == (0 if known else 1)
    assert ("outcome unknown" in result.err) is not known
    assert len(project.cloud.created) == (1 if known else 0)


@pytest.mark.parametrize(
    ("entries", "known"),
    [
        ([], True),
        ([{"id": 1, "action": "DELETED", "snapshotId": "snap1"}], False),
        ([{"id": 1, "action": "CREATED", "instanceId": 99, "snapshotId": "snap1"}], False),
        ([{"id": 1, "action": "CREATED", "instanceId": 31, "snapshotId": "../x"}], False),
    ],
)
def test_contabos_audit_must_be_empty_before_a_create_is_repeated(
    project: Project, entries: list[Any], known: bool
) -> None:
    server = project.server("contabo", 31, "web", duration_seconds=10)
    old = project.history(server, 2)

    def edit(content: Any) -> Any:
        pagination = {**content["_pagination"], "totalElements": len(entries), "totalPages": 1}
        return {**content, "data": entries, "_pagination": pagination}

    project.cloud.fault(CREATE["contabo"], fake.status(504))
    project.cloud.fault("GET /cb/compute/snapshots/audits", fake.edit(edit), times=None)
    result = project.run()
    assert result.code == (0 if known else 1)
    assert len(project.cloud.created) == (1 if known else 0)
    if not known:
        assert "outcome unknown" in result.err
        assert project.own(server) == old


@each_provider
def test_a_create_that_shows_only_when_the_server_is_busy_is_found_then(
    project: Project, provider: str
) -> None:
    """It acts just after the look for it has ended, and before it is sent once more."""
    server = project.server(provider, 31, "web", duration_seconds=40)
    project.history(server, 2)
    first = project.cloud.fault(CREATE[provider], fake.late(31))
    busy = {
        "digitalocean": fake.status(422, json={"message": "Droplet has a pending event."}),
        "hetzner": fake.status(423, json={"error": {"code": "locked", "message": "busy"}}),
        "contabo": fake.status(409),
    }
    project.cloud.fault(CREATE[provider], busy[provider], when=lambda r: first.used == 1)
    result = project.run()
    assert result.code == 0
    assert len(project.cloud.created) == 1
    assert len(project.own(server)) == 2
    assert project.cloud.created[0].name in project.own(server)


@not_contabo
@pytest.mark.parametrize(("code", "quick"), [(401, True), (403, True), (500, False)])
def test_a_poll_that_is_refused_ends_the_wait_and_one_that_fails_does_not(
    project: Project, provider: str, code: int, quick: bool
) -> None:
    server = project.server(provider, 31, "web", duration_seconds=300)
    old = project.history(server, 2)
    project.cloud.fault(POLL_AGAIN[provider], fake.status(code), times=None)
    timing(project, snapshot_creation_timeout=1200)
    result = project.run()
    assert result.code == 1
    assert (f"HTTP {code}" in result.err) is quick
    assert (project.clock.elapsed < 60) is quick
    assert set(old) <= set(project.own(server))


@pytest.mark.parametrize("times", [1, 3, None])
def test_an_action_without_a_usable_id_spoils_one_poll_and_no_more(
    project: Project, times: Optional[int]
) -> None:
    """If it stays, each action is asked for by itself."""
    roomy(project)
    servers = add(project, "digitalocean", 3, duration_seconds=60)

    def edit(content: Any) -> Any:
        return {**content, "actions": [{**content["actions"][0], "id": "?"}, *content["actions"]]}

    project.cloud.fault("GET /do/actions", fake.edit(edit), times=times)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert "a poll cannot be read" in result.log
    assert all(len(project.own(server)) == 2 for server in servers)
    assert (project.cloud.count("GET /do/droplets/{id}/actions/{aid}") > 0) is (times != 1)


@pytest.mark.parametrize(("broken", "singles"), [({1, 3, 5}, 0), ({1, 2}, 3), ({1, 2, 3, 5}, 6)])
def test_each_action_is_asked_for_from_the_second_broken_list_in_a_row_on(
    project: Project, broken: set[int], singles: int
) -> None:
    roomy(project)
    add(project, "digitalocean", 3, duration_seconds=300)
    asked: list[Request] = []

    def is_broken(request: Request) -> bool:
        asked.append(request)
        return len(asked) in broken

    nameless = fake.edit(lambda content: {**content, "actions": [{}]})
    project.cloud.fault("GET /do/actions", nameless, times=None, when=is_broken)
    assert project.run().code == 0
    assert len(asked) > 5
    assert project.cloud.count("GET /do/droplets/{id}/actions/{aid}") == singles


@pytest.mark.parametrize("answer", [fake.status(500), fake.status(404), fake.garbage()])
@pytest.mark.parametrize("times", [12, None])
def test_an_action_list_that_fails_is_asked_for_again_and_then_done_without(
    project: Project, answer: fake.Fault, times: Optional[int]
) -> None:
    roomy(project)
    add(project, "digitalocean", 3, duration_seconds=600)
    project.cloud.fault("GET /do/actions", answer, times=times)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert "asking again" in result.log
    if times is None:
        assert project.cloud.count("GET /do/droplets/{id}/actions/{aid}") >= 3


@pytest.mark.parametrize("apart", [0, 5, 12, 25, 100])
def test_polls_are_a_tenth_of_the_youngest_age_apart_and_half_that_where_starts_are_spread(
    project: Project, apart: int
) -> None:
    """From 5 to 30 seconds; so no end is noticed much later than it took."""
    roomy(project)
    add(project, "hetzner", 2, duration_seconds=2000)
    timing(project, delay_between_servers=apart)
    assert project.run().code == 0
    begun = [r.monotonic for r in project.cloud.requests(CREATE["hetzner"])]
    assert begun[1] - begun[0] == apart
    at = [r.monotonic for r in project.cloud.requests("GET /hz/actions")]
    pairs = [(a, b) for a, b in zip(at, at[1:]) if begun[1] < a and b < begun[0] + 2000]
    assert len(pairs) > 50
    for earlier, later in pairs:
        gap = min(max(5, (earlier - begun[1]) / 10), 30)
        assert later - earlier == pytest.approx(gap / 2 if apart > gap else gap)


def test_the_first_poll_is_an_interval_after_the_create(project: Project) -> None:
    add(project, "hetzner", 2, duration_seconds=3)
    timing(project, poll_interval=25, delay_between_servers=7)
    assert project.run().code == 0
    first = project.cloud.requests("GET /hz/actions")[0]
    assert first.monotonic - project.cloud.requests(CREATE["hetzner"])[0].monotonic == 25


@pytest.mark.parametrize("duration", [59, 1e9])
def test_at_its_deadline_an_action_is_asked_for_once_more_and_not_again(
    project: Project, duration: float
) -> None:
    add(project, "hetzner", 1, duration_seconds=duration)
    timing(project, poll_interval=25, snapshot_creation_timeout=60)
    assert project.run().code == (0 if duration < 60 else 1)
    created = project.cloud.requests(CREATE["hetzner"])[0].monotonic
    polled = [r.monotonic - created for r in project.cloud.requests("GET /hz/actions")]
    assert polled == pytest.approx([25, 50, 60])


def test_a_poll_that_was_held_up_beyond_the_deadline_is_the_last_but_one(project: Project) -> None:
    add(project, "hetzner", 1, never_finishes=True)
    timing(project, poll_interval=25, snapshot_creation_timeout=60)
    slow = fake.status(429, headers={"Retry-After": "55"})
    project.cloud.fault("GET /hz/actions", slow, when=lambda r: project.clock.elapsed > 40)
    result = project.run()
    assert result.code == 1
    assert "still not finished after 1 min" in result.err
    created = project.cloud.requests(CREATE["hetzner"])[0].monotonic
    polled = [r.monotonic - created for r in project.cloud.requests("GET /hz/actions")]
    assert polled == pytest.approx([25, 50, 105, 105])


def test_an_answer_under_way_at_the_deadline_counts_for_all_who_wait_for_it() -> None:
    """With the real clock: the request takes a while, and all have the same deadline."""
    world = outside(snapshots.SystemClock())
    settings = snapshots.Settings(base=Path())
    account = snapshots.Account(world, "hetzner", ("x" * 20,), settings)
    deadline = time.monotonic() + 0.5

    class Slow:
        title = "Hetzner"

        def poll(self, tickets: Sequence[snapshots.Ticket]) -> dict[Any, snapshots.Progress]:
            time.sleep(max(0.0, deadline + 0.2 - time.monotonic()))
            return {ticket: snapshots.Progress(snapshots.State.DONE) for ticket in tickets}

    account.provider = Slow()  # type: ignore[assignment]
    states: list[snapshots.State] = []

    def wait(number: str) -> None:
        ticket = snapshots.Ticket(number, action_id=number)
        states.append(account.wait_until_done(ticket, deadline, lambda progress: None).state)

    threads = [threading.Thread(target=wait, args=[str(number)]) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert states == [snapshots.State.DONE] * 5


def test_one_poll_is_made_at_a_time(project: Project) -> None:
    """With the real clock: all who wait see at the same moment that a poll is due."""
    servers = add(project, "hetzner", 4, nights=0)
    timing(project, poll_interval=0.1)
    account = real_account(project, servers[0].account)
    tickets = [
        snapshots.Ticket(server.id, action_id=str(n + 1)) for n, server in enumerate(servers)
    ]
    done = [{"id": n + 1, "status": "success"} for n in range(4)]
    project.cloud.fault("GET /hz/actions", fake.status(200, json={"actions": done}), times=None)
    asked: list[int] = []

    def meanwhile() -> None:
        time.sleep(0.5)
        asked.append(project.cloud.count())

    project.cloud.stop_at(1, meanwhile)
    deadline = time.monotonic() + 20
    threads = [
        threading.Thread(target=account.wait_until_done, args=[ticket, deadline, lambda p: None])
        for ticket in tickets
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert asked == [1]
    assert [len(r.query["id"]) for r in project.cloud.journal] == [4]


@pytest.mark.parametrize("times", [1, 99])
def test_an_unexpected_error_in_a_shared_listing_is_told_to_all_who_wait_for_it(
    project: Project, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """A fault of the tool itself, while it reads what many asked for; once, or again and again."""
    roomy(project)
    servers = add(project, "hetzner", 4, duration_seconds=60)
    real, left = snapshots.name_of, [times]

    def name_of(item: Any, key: str) -> Any:
        if project.clock.elapsed > 50 and left[0] > 0:
            left[0] -= 1
            raise ZeroDivisionError("no such thing")
        return real(item, key)

    monkeypatch.setattr(snapshots, "name_of", name_of)
    result = project.run()
    assert result.code == 1
    assert len(errors(result)) == 4
    assert all("ZeroDivisionError" in line for line in errors(result)), result.err
    assert any("an unexpected error while listing" in line for line in errors(result))
    assert all(len(project.own(server)) == 3 for server in servers)


@not_contabo
@pytest.mark.parametrize("kind", ["backup", "system", "aaa", "zzz", None])
def test_what_is_listed_as_anything_but_a_snapshot_is_left_alone(
    project: Project, provider: str, kind: str | None
) -> None:
    server = project.server(provider, 31, "web", retain=1, duration_seconds=5)
    old = project.history(server, 2)
    first = project.cloud.snapshots(server)[0]
    key = {"digitalocean": "snapshots", "hetzner": "images"}[provider]

    def edit(content: Any) -> Any:
        items = [{**i, "type": kind} if str(i["id"]) == first.id else i for i in content[key]]
        return {**content, key: items}

    project.cloud.fault(LIST[provider], fake.edit(edit), times=None)
    assert project.run().code == 0
    assert project.own(server)[0] == old[0]
    assert len(project.own(server)) == 2


@pytest.mark.parametrize("kind", ["volume", "aaa", "zzz", None])
def test_what_the_account_lists_as_anything_but_a_droplets_is_left_alone(
    project: Project, kind: str | None
) -> None:
    roomy(project)
    servers = add(project, "digitalocean", 4, retain=1, duration_seconds=30)
    firsts = [project.cloud.snapshots(server)[0] for server in servers]
    ids = {snapshot.id for snapshot in firsts}

    def edit(content: Any) -> Any:
        items = [
            {**i, "resource_type": kind} if i["id"] in ids else i for i in content["snapshots"]
        ]
        return {**content, "snapshots": items}

    project.cloud.fault("GET /do/snapshots", fake.edit(edit), times=None)
    assert project.run().code == 0
    assert project.cloud.count("GET /do/snapshots") > 0
    assert [project.own(server)[0] for server in servers] == [s.name for s in firsts]
    assert all(len(project.own(server)) == 2 for server in servers)


@pytest.mark.parametrize("step", [-1, 0, 2, 3])
def test_hetzner_pages_come_one_after_the_other(project: Project, step: int) -> None:
    server = project.server("hetzner", 31, "web", retain=9)
    project.history(server, 5)

    def edit(content: Any) -> Any:
        pagination = content["meta"]["pagination"]
        turned = {**pagination, "next_page": pagination["page"] + step}
        return {**content, "meta": {"pagination": turned}}

    project.cloud.fault(LIST["hetzner"], fake.edit(edit), times=None)
    result = project.run("-n")
    assert result.code == 1
    assert "the pages are out of order" in result.err


@each_provider
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"id": "odd"}, "HTTP 400 odd"),
        ({"id": "odd", "message": "odd"}, "HTTP 400 odd"),
        ({"id": "odd", "message": "it is"}, "HTTP 400 odd: it is"),
        ({"message": "it is"}, "HTTP 400: it is"),
        ({}, "HTTP 400"),
    ],
)
def test_an_error_is_told_with_its_code_and_its_message_and_neither_twice(
    project: Project, provider: str, body: Any, told: str
) -> None:
    project.server(provider, 31, "web")
    project.cloud.fault(LIST[provider], fake.status(400, json=body), times=None)
    result = project.run("-n")
    assert result.err.rstrip().endswith(f": {told}")


def test_contabos_short_credentials_are_masked_in_what_the_login_says(project: Project) -> None:
    owner = project.cloud.add_account(
        "contabo", client_id="DE-1", client_secret="s3cr", api_user="me@x.org", api_password="pw12"
    )
    project.cloud.add_server(owner, 31, "web")
    content = {
        "id": 31,
        "name": "web",
        "retain_last_snapshots": 1,
        "client_id": "DE-1",
        "client_secret": "s3cr",
        "api_user": "me@x.org",
        "api_password": "pw12",
    }
    project.write("x.json", {"contabo_instance": content})
    says = {"error": "invalid_grant", "error_description": "no s3cr and no pw12 for me@x.org"}
    project.cloud.fault("POST /cb-auth/token", fake.status(401, json=says), times=None)
    result = project.run()
    assert result.code == 1
    assert "no [hidden] and no [hidden] for me@x.org" in result.err


@pytest.mark.parametrize(
    ("shown", "percent"),
    [(-1, None), (0, 0), (1, 1), (99, 99), (100, 100), (101, None), (True, None), ("5", None)],
)
def test_hetzner_progress_is_a_number_of_percent_or_unknown(
    project: Project, shown: Any, percent: int | None
) -> None:
    server = add(project, "hetzner", 1)[0]
    account = real_account(project, server.account)
    action = {"id": 7, "status": "running", "progress": shown}
    project.cloud.fault("GET /hz/actions", fake.status(200, json={"actions": [action]}))
    ticket = snapshots.Ticket(server.id, action_id="7")
    assert account.provider.poll([ticket])[ticket].percent == percent


@each_provider
def test_no_page_beyond_the_last_is_asked_for(project: Project, provider: str) -> None:
    server = project.server(provider, 31, "web", retain=9)
    project.history(server, 6)
    assert project.run("-n").code == 0
    asked = [r.one("page") for r in project.cloud.requests(LIST[provider])]
    assert asked == ["1", "2", "3"]


MORE: dict[str, Callable[[Any, Any], Any]] = {
    "digitalocean": lambda c, total: {**c, "meta": {"total": total}},
    "hetzner": lambda c, total: {
        **c,
        "meta": {"pagination": {**c["meta"]["pagination"], "total_entries": total}},
    },
    "contabo": lambda c, total: {**c, "_pagination": {**c["_pagination"], "totalElements": total}},
}


@each_provider
@pytest.mark.parametrize(("total", "code"), [(2, 1), (3, 0), (4, 1), (None, 0), ("4", 0)])
def test_a_listing_holds_as_many_entries_as_it_says(
    project: Project, provider: str, total: Any, code: int
) -> None:
    """Contabo always says how many; the others may leave it out."""
    server = project.server(provider, 31, "web", retain=5)
    project.history(server, 3)
    edit = fake.edit(lambda content: MORE[provider](content, total))
    project.cloud.fault(LIST[provider], edit, times=None)
    if provider == "contabo" and not isinstance(total, int):
        code = 1
    assert project.run("-n").code == code


@pytest.mark.parametrize("meta", [None, {}, [], "x", 5])
def test_digitalocean_may_leave_out_how_many_entries_there_are(project: Project, meta: Any) -> None:
    server = project.server("digitalocean", 31, "web", retain=5)
    project.history(server, 3)
    edit = fake.edit(lambda content: {**content, "meta": meta})
    project.cloud.fault(LIST["digitalocean"], edit, times=None)
    assert project.run("-n").code == 0


@pytest.mark.parametrize("other", [1, 99])
def test_contabo_a_check_that_is_answered_about_another_instance_fails(
    project: Project, other: int
) -> None:
    project.server("contabo", 31, "web")

    def edit(content: Any) -> Any:
        return {**content, "data": [{**content["data"][0], "instanceId": other}]}

    project.cloud.fault("GET /cb/compute/instances/{id}", fake.edit(edit), times=None)
    result = project.run("-n")
    assert result.code == 1
    assert "the answer is about another instance" in result.err


# === Contabo's login ===========================================================================

TOKEN = "POST /cb-auth/token"


def contabo_login(project: Project, clock: snapshots.Clock) -> snapshots.ContaboLogin:
    owner = project.account("contabo")
    settings = snapshots.load_settings(project.write_config(), required=True)
    credentials = (owner.client_id, owner.client_secret, owner.api_user, owner.api_password)
    return snapshots.ContaboLogin(outside(clock), settings, credentials)


@pytest.mark.parametrize(
    ("expires", "good"),
    [
        (300, 265),
        (100, 85),
        (12, 6),
        (1, 0.5),
        (0.5, 0.25),
        (86400, 77755),
        (10**9, 77755),
        (0, 49),
        (-5, 49),
        ("300", 49),
        (True, 49),
        (None, 49),
        (float("inf"), None),
    ],
)
def test_contabos_token_is_kept_for_most_of_its_life(
    project: Project, expires: Any, good: float | None
) -> None:
    """Nine tenths less five seconds, or half of it; a day at most, a minute if it does not say."""
    login = contabo_login(project, project.clock)
    edit = fake.edit(lambda content: {**content, "expires_in": expires})
    project.cloud.fault(TOKEN, edit, times=None)
    if good is None:
        with pytest.raises(snapshots.ApiError, match="not JSON"):
            login.auth()
        return
    first = login.auth()
    project.clock.advance(good - 0.01)
    assert login.auth() is first
    assert project.cloud.count(TOKEN) == 1
    project.clock.advance(0.02)
    assert login.auth() is not first
    assert project.cloud.count(TOKEN) == 2


def test_contabos_token_is_dropped_once_however_many_saw_it_refused(project: Project) -> None:
    login = contabo_login(project, project.clock)
    first = login.auth()
    assert login.renew(first)
    second = login.auth()
    assert second is not first
    assert login.renew(first)  # somebody else was late to learn of it
    assert login.auth() is second
    assert project.cloud.count(TOKEN) == 2


@pytest.mark.parametrize(
    ("fault", "final"),
    [
        (fake.status(400), True),
        (fake.status(401), True),
        (fake.status(403), True),
        (fake.status(404), False),
        (fake.garbage(), False),
    ],
)
def test_contabos_login_is_not_tried_again_where_that_would_lock_the_account(
    project: Project, fault: fake.Fault, final: bool
) -> None:
    login = contabo_login(project, project.clock)
    project.cloud.fault(TOKEN, fault)
    with pytest.raises(snapshots.ApiError, match="cannot log in at Contabo"):
        login.auth()
    if final:
        for _ in range(3):
            with pytest.raises(snapshots.ApiError, match="cannot log in at Contabo"):
                login.auth()
    else:
        login.auth()
    assert project.cloud.count(TOKEN) == (1 if final else 2)


def test_a_token_that_another_turn_drops_at_once_is_still_a_token(project: Project) -> None:
    """That turn was refused with it before the one that fetched it went on."""
    login = contabo_login(project, snapshots.SystemClock())
    changed = login._changed

    class Late:
        """The thread is not given the processor for a while after it lets go."""

        entered = 0

        def __enter__(self) -> Any:
            self.entered += 1
            return changed.__enter__()

        def __exit__(self, *reason: Any) -> None:
            changed.__exit__(*reason)
            if self.entered == 2 and login._auth is not None:
                login.renew(login._auth)

        def __getattr__(self, name: str) -> Any:
            return getattr(changed, name)

    login._changed = Late()  # type: ignore[assignment]
    assert isinstance(login.auth(), snapshots.BearerAuth)


@pytest.mark.parametrize("fails", [False, True])
def test_one_login_serves_all_who_wait_for_it(project: Project, fails: bool) -> None:
    """Also if it fails: those who waited do not each try for themselves; who asks later does."""
    clock = CountingClock()
    login = contabo_login(project, clock)
    ends: list[str] = []

    def log_in() -> None:
        try:
            login.auth()
            ends.append("well")
        except snapshots.ApiError:
            ends.append("failed")

    others = [threading.Thread(target=log_in) for _ in range(3)]

    def meanwhile() -> None:
        for thread in others:
            thread.start()
        clock.until_waiting(3)

    for _ in range(2):  # so that the count of earlier logins is not nought
        login.renew(login.auth())
    project.cloud.stop_at(3, meanwhile)
    if fails:
        project.cloud.fault(TOKEN, fake.garbage())
    log_in()
    for thread in others:
        thread.join(20)
    assert ends == ["failed" if fails else "well"] * 4
    assert project.cloud.count(TOKEN) == 3
    log_in()
    assert ends[4:] == ["well"]
    assert project.cloud.count(TOKEN) == (4 if fails else 3)


# === Verify and prune ==========================================================================


def change_new(project: Project, server: Any, **fields: Any) -> None:
    """In listings, the new image of this server has these fields."""
    old = {int(s.id) for s in project.cloud.snapshots(server)}

    def edit(content: Any) -> Any:
        images = [i if i["id"] in old else {**i, **fields} for i in content["images"]]
        return {**content, "images": images}

    project.cloud.fault(LIST["hetzner"], fake.edit(edit), times=None)


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


def test_a_new_one_that_stays_in_the_making_is_told_as_that(project: Project) -> None:
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
    project.cloud.fault(
        LIST[provider], fake.status(403), times=None, when=lambda r: bool(project.cloud.deleted)
    )
    result = project.run()
    assert result.code == 1
    assert "the deletions could not be confirmed: cannot list" in result.err
    assert len(project.own(server)) == 1


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


DEAR: dict[str, tuple[fake.Fault | None, fake.Fault | None, str]] = {
    "gone": (None, None, ""),
    "still there": (fake.status(204), None, "as deleted, but still lists it"),
    "not to be read": (None, fake.status(403), "the deletions could not be confirmed: cannot read"),
}


@pytest.mark.parametrize("case", DEAR)
def test_where_a_listing_is_dear_and_others_wait_the_deleted_are_asked_for_one_by_one(
    project: Project, case: str
) -> None:
    roomy(project)
    single = "GET /hz/images/{id}"
    delete, read, trouble = DEAR[case]
    servers = add(project, "hetzner", 2, nights=60, retain=60, duration_seconds=30)
    timing(project, max_parallel=1)
    if delete is not None:
        project.cloud.fault(DELETE["hetzner"], delete, times=None)
    if read is not None:
        project.cloud.fault(single, read, times=None)
    result = project.run()
    if case == "gone":
        (read_once,) = project.cloud.requests(single)  # nobody waits for the last server
        assert read_once.number < project.cloud.requests(CREATE["hetzner"])[1].number
    assert result.code == (2 if read else 1 if delete else 0)
    assert trouble in result.err
    assert all(len(project.own(server)) == (61 if delete else 60) for server in servers)


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
    project.cloud.fault("DELETE", fake.status(410), fake.status(404))
    assert not account.delete(one)
    assert not account.delete(one)
    assert (account.provider.exists(one), account.provider.exists(other)) == (True, False)
    project.cloud.fault("GET", fake.status(403), times=None)
    with pytest.raises(snapshots.ApiError, match="HTTP 403"):
        account.provider.exists(one)


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
def test_contabo_a_retention_above_the_plan_is_told_with_what_to_set(
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
def test_contabo_the_risk_is_told_with_what_would_remain(project: Project, slots: int) -> None:
    _, old = plan(project, slots, slots, slots, switch=False)
    result = project.run()
    assert result.code == 1
    remain = ["0 older ones", "1 older one", "2 older ones"][slots - 1]
    assert f"the oldest, {old[0]}, deleted first" in result.err
    assert f"if the new snapshot then fails, {remain} remain)" in result.err


@pytest.mark.parametrize("held", [1, 2])
def test_contabo_slots_held_by_others_are_counted_without_ours(project: Project, held: int) -> None:
    server, old = plan(project, held + 1, held + 2, held)
    for name in ("by hand", "by hand too"):
        project.cloud.add_snapshot(server, name, project.clock.now() - timedelta(days=3))
    result = project.run()
    assert result.code == 1
    assert f"2 slots of {held + 2} held by snapshots that this tool did not make" in result.err
    assert old[0] in project.own(server)


def test_contabo_a_limit_without_a_number_is_taken_from_the_listing(project: Project) -> None:
    server = project.server("contabo", 31, "web", retain=1, slots=9)
    for name in ("by hand", "by hand too"):
        project.cloud.add_snapshot(server, name, project.clock.now() - timedelta(days=3))
    project.cloud.fault(CREATE["contabo"], fake.status(402, json={"message": "no"}), times=None)
    result = project.run()
    assert result.code == 1
    assert "2 slots of 2 held by snapshots that this tool did not make" in result.err


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
def test_contabo_after_a_slot_was_freed_in_vain_what_is_left_is_told(
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


def gaps(project: Project, route: str) -> list[float]:
    """The times between the requests of a route."""
    at = [r.monotonic for r in project.cloud.requests(route)]
    return [later - earlier for earlier, later in zip(at, at[1:])]


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


def test_a_server_that_is_busy_once_is_told_of(project: Project) -> None:
    server = project.server("hetzner", 31, "web", duration_seconds=5)
    busy = fake.status(423, json={"error": {"code": "locked", "message": "busy"}})
    project.cloud.fault(CREATE["hetzner"], busy)
    result = project.run()
    assert result.code == 0
    assert len(project.own(server)) == 1
    assert "waiting until it is free" in result.log


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


def test_a_dry_run_tells_nothing_of_the_snapshots_of_other_servers(project: Project) -> None:
    for number in (41, 42, 43):
        project.history(project.server("hetzner", number, "web"), 2)
    project.cloud.add_snapshot(project.cloud.snapshots()[0].server, "by hand")  # type: ignore[arg-type]
    result = project.run("-n", "hetzner-42.json")
    assert result.code == 0
    assert "would leave" not in result.out
    assert result.out.count("would keep") + result.out.count("would delete") == 2


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


def test_what_was_deleted_and_how_long_it_took_is_told(project: Project) -> None:
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


def test_what_had_gone_already_is_not_told_as_deleted(project: Project) -> None:
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


def test_what_only_pretends_to_be_deleted_is_not_told_as_deleted(project: Project) -> None:
    server = project.server("hetzner", 31, "web", retain=1, duration_seconds=93)
    old = project.history(server, 3)
    stay = {snapshot.id for snapshot in project.cloud.snapshots(server)[:2]}
    project.cloud.fault(
        DELETE["hetzner"], fake.status(204), times=None, when=lambda r: r.ids[0] in stay
    )
    said = told(project)
    assert (said["deleted"], said["total"]) == (old[2], "3")


def test_contabo_what_was_deleted_to_make_room_is_told(project: Project) -> None:
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


# === The fleet =================================================================================


@pytest.mark.parametrize(
    ("waiting", "under_way", "age", "patience"),
    [
        (0, 1, 0, 30),
        (0, 1, 1000, 30),
        (1, 15, 100, 0),
        (1, 16, 0, 0),
        (1, 16, 100, 10),
        (9, 20, 299, 29.9),
        (9, 20, 1000, 30),
    ],
)
def test_a_turn_waits_for_company_but_not_at_the_cost_of_those_that_wait_for_its_slot(
    project: Project, waiting: int, under_way: int, age: float, patience: float
) -> None:
    project.server("hetzner", 31, "web")
    settings = snapshots.load_settings(project.write_config(), required=True)
    (server,), _ = snapshots.load_servers([], settings)
    assert isinstance(server, snapshots.Server)
    world = outside(project.clock)
    fleet = snapshots.Fleet(world, settings, lambda report: None)
    account = fleet.account_of(server)
    turn = snapshots.Turn(server, account, settings, world, fleet)
    for _ in range(under_way):
        account.enter()
    fleet.waiting = waiting
    project.clock.advance(age)
    assert fleet.patience(turn) == pytest.approx(patience)


@pytest.mark.parametrize(
    ("successes", "failures", "code"),
    [(0, 0, 0), (1, 0, 0), (2, 1, 2), (1, 1, 2), (0, 1, 1), (0, 3, 1)],
)
def test_the_exit_status_says_how_many_have_failed(
    successes: int, failures: int, code: int
) -> None:
    reports = [
        snapshots.Report("hetzner", "web", "1", success=well)
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
    assert ("its turn could not begin within 1 min 40 s" in result.err) is (begun == 1)


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
        fleet.reports[index] = snapshots.Report("hetzner", "x", "1", success=success)
    project.clock.advance(100)
    for index in (7, 8):
        server = servers[index]
        assert isinstance(server, snapshots.Server)
        account = fleet.account_of(server)
        fleet.running[index] = snapshots.Turn(server, account, settings, world, fleet)
        project.clock.advance(50)
    fleet.waiting = 5
    line = "2 done, 2 running, 5 waiting, 3 failed, 3 min 20 s; longest: s38 (creating)"
    assert snapshots.progress_line(fleet) == line
    fleet.running[7].doing, fleet.running[7].percent = "verifying", 0
    assert snapshots.progress_line(fleet).endswith("; longest: s38 (verifying 0 %)")


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
        return snapshots.Report("hetzner", turn.server.name, turn.server.id, success=True)

    def listen(report: snapshots.Report) -> None:
        heard.append((report.server_name, report.success, clock.elapsed))

    reports = snapshots.Fleet(world, settings, listen).run(servers, act)
    assert clock.elapsed == pytest.approx(15)
    assert [report.error for report in reports] == [
        "",
        "interrupted by SIGTERM; Hetzner may still finish it; nothing more was deleted",
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
        "hetzner",
        "web",
        "1",
        success=success,
        snapshot_name="web-1",
        total_snapshots=3,
        error="" if success else "it broke",
    )
    assert snapshots.result_line(report) == line


def test_a_bar_in_a_name_does_not_make_a_field_of_its_own() -> None:
    report = snapshots.Report("hetzner", "a|b | c", "1", success=True, snapshot_name="a|b-x")
    fields = snapshots.final_status_line(report, "host|name").split(" | ")
    assert len(fields) == 9
    assert (fields[3], fields[5], fields[7]) == ("a/b / c", "host/name", "a/b-x")


def test_two_turns_that_cannot_prune_are_both_told_that_there_is_no_room(project: Project) -> None:
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


def test_where_it_is_unknown_who_grows_the_first_in_the_configuration_goes_first(
    project: Project,
) -> None:
    """The listing to guess by cannot be had, there is room for one at a time, and the first
    server's create arrives last."""
    add(project, "hetzner", 1, 101, nights=2, duration_seconds=30)
    add(project, "hetzner", 1, 102, nights=0, duration_seconds=30)
    project.account("hetzner").limit = 3
    project.cloud.fault(LIST["hetzner"], fake.status(403))

    def delay() -> None:
        if project.cloud.journal[1].ids == ("101",):
            time.sleep(0.3)

    project.cloud.stop_at(2, delay)
    result = project.run()
    assert (result.code, errors(result)) == (0, [])


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
    for number in (31, 32):
        project.server("hetzner", number, f"s{number}")
    settings = snapshots.load_settings(project.write_config(), required=True)
    servers, _ = snapshots.load_servers([], settings)
    world = outside(project.clock)
    fleet = snapshots.Fleet(world, settings, lambda report: None)
    for index, server in enumerate(servers):
        assert isinstance(server, snapshots.Server)
        account = fleet.account_of(server)
        fleet.running[index] = snapshots.Turn(server, account, settings, world, fleet)
    project.clock.advance(settings.timing.run_timeout + 5)
    began = project.clock.elapsed
    assert not fleet.wait_for_room(fleet.running[1])
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
