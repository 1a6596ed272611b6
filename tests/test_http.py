"""What an answer means, and how long to wait: pure parts of HTTP."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

import snapshots
from snapshots import Act, Answer, Next, Outcome

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=timezone.utc)

OUTCOMES = [
    (200, "", "", Outcome.GOOD),
    (201, "", "", Outcome.GOOD),
    (204, "", "", Outcome.EMPTY),
    (301, "", "", Outcome.REDIRECT),
    (307, "", "", Outcome.REDIRECT),
    (400, "json_error", "", Outcome.REJECTED),
    (401, "unauthorized", "", Outcome.UNAUTHORIZED),
    (401, "token_readonly", "", Outcome.UNAUTHORIZED),
    (402, "", "", Outcome.LOST),
    (402, "", "Total snapshots exceed the total max limit of 1 snapshots", Outcome.LIMIT),
    (403, "forbidden", "", Outcome.FORBIDDEN),
    (403, "resource_limit_exceeded", "", Outcome.LIMIT),
    (404, "not_found", "", Outcome.GONE),
    (405, "", "", Outcome.REJECTED),
    (408, "", "", Outcome.SERVER_ERROR),
    (409, "conflict", "", Outcome.BUSY),
    (409, "", "", Outcome.LOST),
    (409, "", "The instance has a running task", Outcome.BUSY),
    (409, "uniqueness_error", "", Outcome.NOT_UNIQUE),
    (410, "", "", Outcome.GONE),
    (412, "", "", Outcome.REJECTED),
    (415, "", "", Outcome.REJECTED),
    (422, "invalid_input", "", Outcome.REJECTED),
    (422, "unprocessable_entity", "Droplet already has a pending event.", Outcome.BUSY),
    (422, "x", "there are currently blocking events processing", Outcome.BUSY),
    (423, "locked", "", Outcome.BUSY),
    (423, "", "", Outcome.LOST),
    (423, "protected", "", Outcome.PROTECTED),
    (429, "", "", Outcome.RATE_LIMITED),
    (500, "", "", Outcome.SERVER_ERROR),
    (502, "", "", Outcome.SERVER_ERROR),
    (503, "", "", Outcome.UNAVAILABLE),
    (504, "", "", Outcome.SERVER_ERROR),
    (600, "", "", Outcome.LOST),
    (101, "", "", Outcome.LOST),
]


@pytest.mark.parametrize(("status", "code", "message", "outcome"), OUTCOMES)
def test_an_answer_is_known_by_status_and_code(
    status: int, code: str, message: str, outcome: Outcome
) -> None:
    assert snapshots.outcome_of(status, code, message) is outcome


def test_the_table_says_for_every_outcome_what_to_do_about_every_act() -> None:
    assert set(snapshots.NEXT) == set(Outcome)
    assert all(set(row) == set(Act) for row in snapshots.NEXT.values())


@pytest.mark.parametrize(
    ("outcome", "row"),
    [
        (Outcome.NOT_SENT, "RETRY RETRY RETRY RETRY RETRY"),
        (Outcome.UNTRUSTED, "FAIL FAIL FAIL FAIL FAIL"),
        (Outcome.LOST, "RETRY LOOK RETRY RETRY FAIL"),
        (Outcome.GOOD, "DONE DONE DONE DONE DONE"),
        (Outcome.EMPTY, "FAIL LOOK DONE FAIL DONE"),
        (Outcome.GARBLED, "RETRY_ONCE LOOK RETRY_ONCE FAIL DONE"),
        (Outcome.REDIRECT, "FAIL LOOK FAIL FAIL FAIL"),
        (Outcome.REJECTED, "FAIL FAIL FAIL FAIL FAIL"),
        (Outcome.UNAUTHORIZED, "RENEW RENEW RENEW FAIL FAIL"),
        (Outcome.LIMIT, "FAIL ROOM FAIL FAIL FAIL"),
        (Outcome.FORBIDDEN, "FAIL FAIL FAIL FAIL FAIL"),
        (Outcome.GONE, "FAIL FAIL DONE FAIL FAIL"),
        (Outcome.BUSY, "RETRY WAIT RETRY RETRY FAIL"),
        (Outcome.PROTECTED, "FAIL FAIL LEAVE FAIL FAIL"),
        (Outcome.NOT_UNIQUE, "FAIL FAIL FAIL FAIL FAIL"),
        (Outcome.RATE_LIMITED, "RETRY RETRY RETRY RETRY RETRY"),
        (Outcome.SERVER_ERROR, "RETRY LOOK RETRY RETRY RETRY"),
        (Outcome.UNAVAILABLE, "RETRY LOOK RETRY RETRY RETRY"),
    ],
)
def test_what_follows_from_an_outcome(outcome: Outcome, row: str) -> None:
    """A create is sent again only where it surely had no effect: never after LOOK."""
    acts = (Act.READ, Act.CREATE, Act.DELETE, Act.TOKEN, Act.NOTIFY)
    assert [snapshots.NEXT[outcome][act].name for act in acts] == row.split()


def test_no_outcome_that_may_have_had_an_effect_repeats_a_create() -> None:
    surely_without_effect = {
        Outcome.NOT_SENT,
        Outcome.RATE_LIMITED,
        Outcome.BUSY,
        Outcome.UNAUTHORIZED,
        Outcome.LIMIT,
    }
    again = {Next.RETRY, Next.RETRY_ONCE, Next.RENEW, Next.WAIT, Next.ROOM}
    repeating = {o for o in Outcome if snapshots.NEXT[o][Act.CREATE] in again}
    assert repeating <= surely_without_effect


def answer(headers: dict[str, str] | None = None, body: object = None, status: int = 429) -> Answer:
    return Answer(status, headers or {}, json.dumps(body).encode() if body is not None else b"")


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
    code, message = snapshots.explain(Answer(500, {}, body))
    assert isinstance(code, str)
    assert isinstance(message, str)


@given(st.integers(1, 10_000))
def test_pauses_grow_and_are_capped(attempt: int) -> None:
    assert 0.4 < snapshots.pause_before(attempt) <= 30.0


@pytest.mark.parametrize(
    "value",
    ["10", "2025", "2025-06-01", "2025-06-01T12:00:00", "", None, 5, "9999-99-99T00:00:00Z"],
)
def test_what_is_no_full_iso_moment_is_unreadable(value: object) -> None:
    assert snapshots.moment_of(value) is None


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
    window = snapshots.Window(3, 60)
    for at in (0.0, 1.0, 2.0):
        assert window.wait_seconds(at) == 0
        window.spend(at)
    assert window.wait_seconds(10) == 50
    assert window.wait_seconds(60) == 0
    bucket = snapshots.Bucket(2, 1.0)
    for _ in range(2):
        assert bucket.wait_seconds(5.0) == 0
        bucket.spend(5.0)
    assert bucket.wait_seconds(5.0) == 1.0
    assert bucket.wait_seconds(6.0) == 0


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://api.example.org/v2/x?page=2", True),
        ("/v2/x?page=2", True),
        ("https://api.example.org:444/v2", False),
        ("http://api.example.org/v2", False),
        ("https://evil.example.org/v2", False),
        ("https://[", False),
        (7, False),
    ],
)
def test_a_next_link_counts_only_on_the_configured_host(url: object, same: bool) -> None:
    assert snapshots.same_origin(url, "https://api.example.org/v2") is same
