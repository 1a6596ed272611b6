"""What an answer means, and how long to wait: pure parts of HTTP."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any

import fakes as fake
import pytest
from conftest import PROVIDERS, TOKEN, Project, gaps, outside, pairwise
from fakes import FakeCloud, Request
from fakes.clock import FakeClock
from hypothesis import given
from hypothesis import strategies as st
from test_faults import CREATE, LIST, each_provider

import snapshots
from snapshots import Act, Next, Outcome, Response

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=timezone.utc)

OUTCOMES = [
    (200, "", "", Outcome.GOOD),
    (201, "", "", Outcome.GOOD),
    (204, "", "", Outcome.GOOD),
    (301, "", "", Outcome.REDIRECT),
    (307, "", "", Outcome.REDIRECT),
    (400, "json_error", "", Outcome.REJECTED),
    (401, "unauthorized", "", Outcome.UNAUTHORIZED),
    (401, "", "", Outcome.UNAUTHORIZED),
    (401, None, "Unauthorized", Outcome.LOST),
    (401, "token_readonly", "", Outcome.READ_ONLY),
    (402, "", "", Outcome.LOST),
    (402, "", "Total snapshots exceed the total max limit of 1 snapshots", Outcome.LIMIT),
    (402, "", "The limit of 2 is reached: too many snapshots", Outcome.LIMIT),
    (402, "", "Snapshot limit reached", Outcome.REJECTED),
    (402, "", "a credit limit of 100 EUR", Outcome.REJECTED),
    (402, None, "Total snapshots exceed the total max limit of 1 snapshots", Outcome.LOST),
    (402, None, "Payment Required", Outcome.LOST),
    (402, "", "Request refused as it requires additional payed service", Outcome.REJECTED),
    (402, "", "Your account exceeds its credit limit", Outcome.REJECTED),
    (403, "forbidden", "", Outcome.FORBIDDEN),
    (403, "maintenance", "", Outcome.BUSY),
    (403, None, "", Outcome.LOST),
    (403, "resource_limit_exceeded", "", Outcome.LIMIT),
    (404, "not_found", "", Outcome.GONE),
    (404, "", "Cannot GET /", Outcome.LOST),
    (404, None, "no Route matched with those values", Outcome.LOST),
    (405, "", "", Outcome.REJECTED),
    (408, "", "", Outcome.LOST),
    (409, "conflict", "", Outcome.BUSY),
    (409, "", "", Outcome.LOST),
    (409, "", "The instance has a running task", Outcome.BUSY),
    (409, "uniqueness_error", "", Outcome.REJECTED),
    (410, "", "", Outcome.LOST),
    (410, "not_found", "", Outcome.LOST),
    (410, "deprecated_api_endpoint", "", Outcome.LOST),
    (412, "", "", Outcome.REJECTED),
    (415, "", "", Outcome.REJECTED),
    (422, "invalid_input", "", Outcome.REJECTED),
    (422, "unprocessable_entity", "Droplet already has a pending event.", Outcome.BUSY),
    (422, "x", "there are currently blocking events processing", Outcome.BUSY),
    (423, "locked", "", Outcome.BUSY),
    (423, "", "", Outcome.LOST),
    (423, "protected", "", Outcome.PROTECTED),
    (429, "", "", Outcome.RATE_LIMITED),
    (500, "", "", Outcome.LOST),
    (502, "", "", Outcome.LOST),
    (503, "", "", Outcome.LOST),
    (504, "", "", Outcome.LOST),
    (600, "", "", Outcome.LOST),
    (101, "", "", Outcome.LOST),
]


@pytest.mark.parametrize(("status", "code", "message", "outcome"), OUTCOMES)
def test_an_answer_is_known_by_status_and_code(
    status: int, code: str | None, message: str, outcome: Outcome
) -> None:
    assert snapshots.outcome_of(status, code, message) is outcome


def test_the_table_says_for_every_outcome_what_to_do_about_every_act() -> None:
    assert set(snapshots.NEXT) == set(Outcome)
    assert all(set(row) == set(Act) for row in snapshots.NEXT.values())


@pytest.mark.parametrize(
    ("outcome", "row"),
    [
        (Outcome.NOT_SENT, "RETRY RETRY RETRY RETRY"),
        (Outcome.UNUSABLE, "FAIL FAIL FAIL FAIL"),
        (Outcome.UNTRUSTED, "FAIL FAIL FAIL FAIL"),
        (Outcome.LOST, "RETRY VERIFY RETRY RETRY"),
        (Outcome.GOOD, "DONE DONE DONE DONE"),
        (Outcome.GARBLED, "RETRY_ONCE VERIFY RETRY_ONCE FAIL"),
        (Outcome.REDIRECT, "FAIL VERIFY FAIL FAIL"),
        (Outcome.REJECTED, "FAIL FAIL FAIL FAIL"),
        (Outcome.UNAUTHORIZED, "RENEW RENEW RENEW RENEW"),
        (Outcome.READ_ONLY, "FAIL FAIL FAIL FAIL"),
        (Outcome.LIMIT, "FAIL FREE_SPACE FAIL FAIL"),
        (Outcome.FORBIDDEN, "FAIL FAIL FAIL FAIL"),
        (Outcome.GONE, "FAIL FAIL DONE FAIL"),
        (Outcome.BUSY, "RETRY WAIT RETRY RETRY"),
        (Outcome.PROTECTED, "FAIL FAIL SKIP FAIL"),
        (Outcome.RATE_LIMITED, "RETRY RETRY RETRY RETRY"),
    ],
)
def test_what_follows_from_an_outcome(outcome: Outcome, row: str) -> None:
    """A create is sent again only where it surely had no effect: never after LOOK."""
    acts = (Act.READ, Act.CREATE, Act.DELETE, Act.TOKEN)
    assert [snapshots.NEXT[outcome][act].name for act in acts] == row.split()


@pytest.mark.proves("I12")
def test_no_outcome_that_may_have_had_an_effect_repeats_a_create() -> None:
    surely_without_effect = {
        Outcome.NOT_SENT,
        Outcome.RATE_LIMITED,
        Outcome.BUSY,
        Outcome.UNAUTHORIZED,
        Outcome.LIMIT,
    }
    again = {Next.RETRY, Next.RETRY_ONCE, Next.RENEW, Next.WAIT, Next.FREE_SPACE}
    repeating = {o for o in Outcome if snapshots.NEXT[o][Act.CREATE] in again}
    assert repeating <= surely_without_effect


def answer(
    headers: dict[str, str] | None = None, body: object = None, status: int = 429
) -> Response:
    return Response(status, headers or {}, json.dumps(body).encode() if body is not None else b"")


@pytest.mark.proves("K8")
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("007", 7.0),
        ("99999999999999999999", 999999999999999999.0),
        ("Sun, 01 Jun 2025 12:00:30 GMT", 30.0),
        ("Sun, 01 Jun 2025 14:00:30 +0200", 30.0),
        ("Sun, 01 Jun 2025 11:00:00 GMT", None),
        ("-5", None),
        ("", None),
        ("soon", None),
        ("٣", None),
        ("1_0", None),
        ("1.5", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_nothing_else(
    header: str, seconds: float | None
) -> None:
    assert snapshots.retry_after_seconds(answer({"retry-after": header}), NOW) == seconds


def test_telegram_says_in_the_body_how_long_to_wait() -> None:
    assert (
        snapshots.retry_after_seconds(answer(body={"parameters": {"retry_after": 5}}), NOW) == 5.0
    )
    assert snapshots.retry_after_seconds(answer(body={"parameters": None}), NOW) is None
    assert (
        snapshots.retry_after_seconds(answer(body={"parameters": {"retry_after": True}}), NOW)
        is None
    )


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"id": "unauthorized", "message": "no"}, "unauthorized", "no"),
        ({"error": {"code": "locked", "message": "wait"}}, "locked", "wait"),
        ({"statusCode": 402, "message": ["a", "b"]}, "", "a; b"),
        ({"error": "invalid_grant", "error_description": "bad"}, "invalid_grant", "bad"),
        ({"ok": False, "error_code": 400, "description": "chat not found"}, "", "chat not found"),
        (["x"], "", ""),
        ({"error": {"code": 5, "message": {"x": 1}}}, "", ""),
    ],
)
def test_every_shape_of_error_body_is_understood(body: object, code: str, message: str) -> None:
    assert snapshots.explain(answer(body=body)) == (code, message)


@given(st.binary(max_size=200))
def test_no_error_body_can_break_the_reading_of_it(body: bytes) -> None:
    code, message = snapshots.explain(Response(500, {}, body))
    assert isinstance(code, str)
    assert isinstance(message, str)


@given(st.integers(1, 10_000))
def test_pauses_grow_and_are_capped(attempt: int) -> None:
    assert 0.4 < snapshots.pause_before(attempt) <= 30.0


@pytest.mark.proves("G10")
@pytest.mark.parametrize(
    "value",
    ["10", "2025", "2025-06-01", "2025-06-01T12:00:00", "", None, 5, "9999-99-99T00:00:00Z"],
)
def test_what_is_no_full_iso_moment_is_unreadable(value: object) -> None:
    assert snapshots.moment_of(value) is None


@pytest.mark.proves("G11")
@pytest.mark.parametrize(
    "value",
    [
        "2025-06-01T12:00:00Z",
        "2025-06-01T12:00:00+00:00",
        "2025-06-01T14:00:00+02:00",
        "2025-06-01T12:00:00.000Z",
        "2025-06-01T12:00:00.000000000Z",
    ],
)
def test_the_same_instant_is_read_from_every_spelling(value: str) -> None:
    assert snapshots.moment_of(value) == NOW


@pytest.mark.proves("I23")
@pytest.mark.parametrize(
    "value", [True, None, 1.5, "../droplets/1", "1?x", "", "a" * 65, "1#", [], "é"]
)
def test_an_id_that_could_bend_a_path_is_refused(value: object) -> None:
    with pytest.raises(snapshots.GarbledError):
        snapshots.take_id({"id": value}, "id")


@pytest.mark.parametrize("value", [True, 0, -1, "007", "snap1", 10**30, 1.0])
def test_a_number_that_is_no_id_is_refused(value: object) -> None:
    with pytest.raises(snapshots.GarbledError):
        snapshots.take_number({"id": value}, "id")


def test_the_hourly_window_and_the_bucket_hold_their_limits() -> None:
    window = snapshots.RateLimit(3, 60)
    for at in (0.0, 1.0, 2.0):
        assert window.wait_seconds(at) == 0
        window.spend(at)
    assert window.wait_seconds(10) == 50
    assert window.wait_seconds(60) == 0
    bucket = snapshots.RateLimit(2, 1.0, one_by_one=True)
    for _ in range(2):
        assert bucket.wait_seconds(5.0) == 0
        bucket.spend(5.0)
    assert bucket.wait_seconds(5.0) == 1.0
    assert bucket.wait_seconds(6.0) == 0


# === What an answer means ======================================================================

NAMED = {
    204: Outcome.GOOD,
    401: Outcome.LOST,
    402: Outcome.LOST,
    403: Outcome.LOST,
    404: Outcome.LOST,
    408: Outcome.LOST,
    409: Outcome.LOST,
    410: Outcome.LOST,
    423: Outcome.LOST,
    425: Outcome.RATE_LIMITED,
    429: Outcome.RATE_LIMITED,
}
CLASSES = {
    2: Outcome.GOOD,
    3: Outcome.REDIRECT,
    4: Outcome.LOST,
    5: Outcome.LOST,
}


def test_every_status_has_its_outcome() -> None:
    for status in range(100, 700):
        expected = NAMED.get(status, CLASSES.get(status // 100, Outcome.LOST))
        assert snapshots.outcome_of(status) is expected, status


@pytest.mark.parametrize(
    ("own", "code", "message", "outcome"),
    [
        (403, "resource_limit_exceeded", "", Outcome.LIMIT),
        (404, "not_found", "", Outcome.GONE),
        (409, "uniqueness_error", "", Outcome.REJECTED),
        (423, "protected", "", Outcome.PROTECTED),
        (402, "", "above the limit of 1 snapshots", Outcome.LIMIT),
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
    assert snapshots.explain(Response(409, {}, body)) == (code, "x")


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Sun, 01 Jun 2025 12:00:01 GMT", 1.0),
        ("Sun, 01 Jun 2025 12:00:00 GMT", None),
        ("Sun, 01 Jun 2025 11:59:59 GMT", None),
    ],
)
def test_a_moment_to_wait_for_lies_ahead(date: str, seconds: float | None) -> None:
    assert snapshots.retry_after_seconds(Response(429, {"retry-after": date}, b""), NOW) == seconds


@pytest.mark.proves("wild-11.5")
@pytest.mark.parametrize("seconds_off", [-3600, 0, 3600])
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("with_date", [True, False])
def test_a_moment_to_wait_for_is_one_of_the_providers_clock(
    project: Project, seconds_off: int, status: int, with_date: bool
) -> None:
    """Its Date is known, of this answer or of one before."""
    server = project.server("hetzner", 31, "web", duration_seconds=20)
    project.cloud.date_offset_seconds = seconds_off
    create = "POST /hz/servers/{id}/actions/create_image"
    now = project.clock.now() + timedelta(seconds=seconds_off)
    project.cloud.fault("POST /hz*", fake.status(429, headers={"Retry-After": "1"}))
    headers = {"Retry-After": format_datetime(now + timedelta(seconds=60), usegmt=True)}
    if not with_date:
        headers["Date"] = ""
    project.cloud.fault("POST /hz*", fake.status(429, headers=headers))
    result = project.run()
    assert (result.code, len(project.own(server))) == (0, 1)
    sent = project.cloud.requests(create)
    assert len(sent) == 3
    assert 55 <= sent[2].monotonic - sent[0].monotonic <= 65


@pytest.mark.proves("wild-11.6")
@pytest.mark.parametrize("number", [10**400, 10**4200, 1e308, -(10**400)])
def test_no_number_is_too_large_to_be_asked_to_wait(number: float) -> None:
    body = {"parameters": {"retry_after": number}}
    waits = snapshots.retry_after_seconds(answer(body=body), NOW)
    assert waits is None or waits > snapshots.MAX_RETRY_AFTER_SECONDS


NUMBERS = {"vast": 10**400, "vast, below 0": -(10**400), "1e308": 1e308, "half": 0.5}


def with_number(content: Any, nth: int | None, number: float) -> Any:
    """An answer whose nth number (None: each of them) is another."""
    seen = iter(range(1000))

    def change(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: change(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [change(inner) for inner in value]
        if type(value) in (int, float) and next(seen) == (nth if nth is not None else next(every)):
            return number
        return value

    every = iter(range(1000))
    return change(content)


@pytest.mark.proves("wild-11.6")
@pairwise(nth=[None, *range(7)], number=NUMBERS, provider=PROVIDERS)
def test_no_number_of_an_answer_is_too_large(
    project: Project, provider: str, nth: int | None, number: str
) -> None:
    project.config["TIMING"]["snapshot_creation_timeout"] = 600
    server = project.server(provider, 31, "web", duration_seconds=20)
    old = project.history(server, 2)
    strange = fake.edit(lambda content: with_number(content, nth, NUMBERS[number]))
    project.cloud.fault("*", strange, times=None)
    result = project.run()
    assert "a bug" not in result.err + result.log
    assert result.code == 1 or set(project.own(server)) != set(old)


@pytest.mark.proves("wild-12.9")
@each_provider
@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"code": "server_error", "message": "no database"}}',
        b'{"id": "server_error", "message": "no database"}',
        b'{"statusCode": 500, "error": "server_error", "message": ["no", "database"]}',
    ],
)
def test_what_a_200_says_instead_of_an_answer_is_told(
    project: Project, provider: str, body: bytes
) -> None:
    project.server(provider, 31, "web", duration_seconds=20)
    project.cloud.fault("GET *", fake.garbage(body, act=False), times=None)
    result = project.run("-n")
    assert result.code == 1
    words = "no; database" if b"[" in body else "no database"
    assert re.search(rf"HTTP 200: the answer lacks .*; it says: server_error: {words}", result.err)


@pytest.mark.proves("wild-12.9")
@pytest.mark.parametrize(
    ("details", "why"),
    [
        (
            {"fields": [{"name": "a", "messages": ["too long", "no"]}, {"messages": ["b"]}]},
            " (too long; no; b)",
        ),
        ({"fields": [{"name": "description", "messages": "too long"}, {}, None]}, ""),
        ({"fields": {"messages": ["no"]}}, ""),
        (None, ""),
    ],
)
def test_why_an_input_is_refused_is_told(project: Project, details: Any, why: str) -> None:
    """The message alone says no more than which field it is about."""
    project.server("hetzner", 31, "web")
    message = "invalid input in field 'description'"
    error = {"code": "invalid_input", "message": message, "details": details}
    project.cloud.fault(
        "POST /hz/servers/{id}/actions/create_image", fake.status(422, json={"error": error})
    )
    result = project.run()
    assert result.code == 1
    expected = f"cannot create a snapshot of server 31: HTTP 422 invalid_input: {message}{why}\n"
    assert result.err == f"snapshots: web: {expected}"


@pytest.mark.proves("wild-11.6")
@each_provider
def test_no_answer_is_nested_too_deeply(project: Project, provider: str) -> None:
    project.server(provider, 31, "web", duration_seconds=20)
    deep = fake.garbage(b'{"a":' * 200_000 + b"1" + b"}" * 200_000, act=False)
    project.cloud.fault("*", deep, times=None)
    result = project.run()
    assert result.code == 1
    assert "the answer is not JSON" in result.err


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
    assert snapshots.retry_after_seconds(Response(status, {}, body), NOW) == seconds


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


@pytest.mark.proves("G14")
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


def ask(api: snapshots.Api, act: Act = Act.READ) -> Any:
    return api.call(act, "/images", "look", lambda content: content)


def test_where_the_rate_limit_leaves_no_room_in_time_nothing_is_sent(
    cloud: FakeCloud, clock: FakeClock
) -> None:
    world = outside(clock)
    api = snapshots.Api(
        world,
        f"{cloud.url}/hz/v1",
        snapshots.BearerAuth(cloud.add_account("hetzner").token),
        timeout=5,
        limits=[snapshots.RateLimit(2, 3600)],
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
    source = snapshots.BearerAuth("x")
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
    assert project.run().code == 0
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


@pytest.mark.proves("T4")
def test_contabos_token_is_not_renewed_again_and_again(project: Project) -> None:
    server = project.server("contabo", 31, "web")
    old = project.history(server, 2)
    project.cloud.fault(CREATE["contabo"], fake.status(401), times=None)
    result = project.run()
    assert result.code == 1
    assert "HTTP 401" in result.err
    assert project.cloud.count(CREATE["contabo"]) == 3  # with a new token, and after a pause
    assert project.cloud.count("POST /cb-auth/token") == 2
    assert project.own(server) == old


def test_a_bucket_refills_steadily_and_not_beyond_its_size() -> None:
    bucket = snapshots.RateLimit(3, 2.0, one_by_one=True)
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
    window = snapshots.RateLimit(5000, 3600)
    for number in range(5000):
        assert window.wait_seconds(number / 10) == 0
        window.spend(number / 10)
    assert window.wait_seconds(600.0) == 3000.0
    assert window.wait_seconds(3600.0) == 0


@pytest.mark.parametrize(
    ("told", "left"),
    [("1", 1), ("0", 0), ("99", 10), ("-1", 10), ("x", 10), ("1.5", 10), ("9" * 10, 10)],
)
def test_a_provider_that_says_what_is_left_is_believed_downwards(
    clock: FakeClock, told: str, left: int
) -> None:
    bucket = snapshots.RateLimit(10, 1.0, one_by_one=True)
    pace = snapshots.Pace(outside(clock), snapshots.RateLimit(100, 60), bucket)
    pace.learn(Response(200, {"ratelimit-remaining": told}, b""))
    for _ in range(left):
        assert pace.wait(clock.monotonic())
    assert not pace.wait(clock.monotonic())
    assert bucket.wait_seconds(clock.monotonic()) == 1


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
    pace.learn(Response(200, {"ratelimit-remaining": left}, b""))
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


@pytest.mark.proves("D-5")
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


@pytest.mark.proves("N9")
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
