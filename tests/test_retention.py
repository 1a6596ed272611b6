"""Names, ownership and retention: pure, so tables and properties."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone

import fakes as fake
import pytest
from conftest import POLL_AGAIN, Project, not_contabo
from hypothesis import given
from hypothesis import strategies as st
from test_fleet import timing

import snapshots
from snapshots import Snapshot

START = datetime(2025, 1, 1, 3, 0, tzinfo=timezone.utc)


def nightly(count: int, server_id: str = "1", label: str = "web") -> list[Snapshot]:
    """So many snapshots, one a night, oldest first."""
    return [
        Snapshot(
            str(100 + n), f"{label}-202501{n + 1:02d}030000", START + timedelta(days=n), server_id
        )
        for n in range(count)
    ]


def ids(items: list[Snapshot] | tuple[Snapshot, ...]) -> list[str]:
    return [s.id for s in items]


@pytest.mark.parametrize(
    ("count", "retain", "deleted"),
    [
        (0, 1, []),
        (1, 1, []),
        (2, 1, ["100"]),
        (3, 3, []),
        (4, 3, ["100"]),
        (6, 3, ["100", "101", "102"]),
        (6, None, []),
        (3, 100, []),
    ],
)
def test_the_newest_stay_and_the_rest_go_oldest_first(
    count: int, retain: int | None, deleted: list[str]
) -> None:
    plan = snapshots.plan_retention(nightly(count), retain, 10)
    assert ids(plan.delete) == deleted
    assert plan.postponed == ()
    assert len(plan.keep) == count - len(deleted)


@pytest.mark.parametrize("retain", [0, -1])
def test_a_retention_that_would_delete_everything_is_refused(retain: int) -> None:
    with pytest.raises(ValueError, match="every snapshot"):
        snapshots.plan_retention(nightly(3), retain, 10)


def test_the_brake_lets_the_oldest_go_and_postpones_the_rest() -> None:
    plan = snapshots.plan_retention(nightly(20), 3, 10)
    assert ids(plan.delete) == [str(100 + n) for n in range(10)]
    assert ids(plan.postponed) == [str(100 + n) for n in range(10, 17)]


def test_a_snapshot_that_is_about_to_be_made_counts_among_those_that_stay() -> None:
    plan = snapshots.plan_retention(nightly(3), 3, 10, pending=1)
    assert ids(plan.delete) == ["100"]


def test_the_new_one_stays_even_if_another_is_dated_in_the_future() -> None:
    future = Snapshot("999", "web-20990101000000", START + timedelta(days=3650), "1")
    plan = snapshots.plan_retention([*nightly(3), future], 1, 10, new_id="102")
    assert [s.id for s, _ in plan.keep] == ["102"]
    assert plan.keep[0][1] == "the new one"


def test_equal_times_are_told_apart_by_id_and_ids_compare_as_numbers() -> None:
    twins = [Snapshot(i, "web-20250101030000", START, "1") for i in ("9", "10", "11")]
    assert ids(snapshots.plan_retention(twins, 2, 10).delete) == ["9"]


def test_every_kept_snapshot_has_a_reason() -> None:
    plan = snapshots.plan_retention(nightly(4), 2, 10)
    assert [why for _, why in plan.keep] == ["among the newest 2"] * 2


def test_a_year_of_nightly_runs_never_holds_more_or_less_than_it_should() -> None:
    held: list[Snapshot] = []
    for night in range(365):
        new = Snapshot(str(night), "web-x", START + timedelta(days=night), "1")
        held.append(new)
        plan = snapshots.plan_retention(held, 7, 10, new_id=new.id)
        held = [s for s in held if s not in plan.delete]
        assert len(held) == min(night + 1, 7)
        assert held[-1] is new


moments = st.datetimes(
    min_value=datetime(2020, 1, 1), max_value=datetime(2030, 1, 1), timezones=st.just(timezone.utc)
)


@st.composite
def histories(draw: st.DrawFn) -> list[Snapshot]:
    times = draw(st.lists(moments, max_size=30))
    return [Snapshot(str(n + 1), f"web-{n:014d}", at, "1") for n, at in enumerate(times)]


@given(histories(), st.integers(1, 12), st.integers(0, 12), st.randoms())
def test_each_snapshot_has_one_fate_whatever_the_order(
    history: list[Snapshot], retain: int, brake: int, shuffle: object
) -> None:
    plan = snapshots.plan_retention(history, retain, brake)
    kept = [s for s, _ in plan.keep]
    assert sorted(ids([*kept, *plan.delete, *plan.postponed])) == sorted(ids(history))
    assert len(kept) == min(retain, len(history))
    assert len(plan.delete) <= brake
    if kept and plan.delete:
        assert snapshots.age_key(plan.delete[-1]) < min(map(snapshots.age_key, kept))
    mixed = list(history)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    assert snapshots.plan_retention(mixed, retain, brake) == plan


@given(histories(), st.integers(1, 10))
def test_keeping_less_only_deletes_more(history: list[Snapshot], retain: int) -> None:
    more = set(ids(snapshots.plan_retention(history, retain + 1, 99).delete))
    less = set(ids(snapshots.plan_retention(history, retain, 99).delete))
    assert more <= less


OURS = Snapshot("1", "web-20250101030000", START, "7")


@pytest.mark.parametrize(
    ("snapshot", "why"),
    [
        (OURS, ""),
        (Snapshot("1", "web-20250101030000", START, "8"), "not made from this server"),
        (Snapshot("1", "web-20250101030000", START, None), "not made from this server"),
        (Snapshot("1", "web-2025010103000", START, "7"), "not named as this tool names them"),
        (Snapshot("1", "web-202501010300000", START, "7"), "not named as this tool names them"),
        (Snapshot("1", "web-2-20250101030000", START, "7"), "not named as this tool names them"),
        (Snapshot("1", "my-web-20250101030000", START, "7"), "not named as this tool names them"),
        (Snapshot("1", "WEB-20250101030000", START, "7"), "not named as this tool names them"),
        (Snapshot("1", "web-20250101030000\n", START, "7"), "not named as this tool names them"),
        (
            Snapshot("1", "web-２０２５０１０１０３００００", START, "7"),
            "not named as this tool names them",
        ),
        (Snapshot("1", "before upgrade", START, "7"), "not named as this tool names them"),
        (Snapshot("1", None, START, "7"), "its name is unreadable"),
        (Snapshot("1", "web-20250101030000", None, "7"), "its date is unreadable"),
        (Snapshot("1", "web-20250101030000", START, "7", protected=True), "delete-protected"),
        (
            Snapshot("1", "web-20250101030000", START, "7", state="creating"),
            "not usable: creating",
        ),
    ],
)
def test_ours_is_exactly_what_was_made_from_this_server_and_named_by_us(
    snapshot: Snapshot, why: str
) -> None:
    assert snapshots.why_not_ours(snapshot, "7", "web") == why
    assert snapshots.owned([snapshot], "7", "web") == ([] if why else [snapshot])


@given(st.text(min_size=1, max_size=40))
def test_a_server_name_is_text_not_a_pattern(label: str) -> None:
    assert snapshots.is_named_like_ours(f"{label}-20250101030000", label)
    assert not snapshots.is_named_like_ours(f"x{label}-20250101030000", label)
    assert not snapshots.is_named_like_ours("aaa-20250101030000", ".*")


@given(st.text(min_size=1, max_size=60))
def test_a_contabo_name_always_fits_and_is_known_again(name: str) -> None:
    label = snapshots.contabo_label(name)
    made = snapshots.snapshot_name(label, START)
    assert re.fullmatch(r"[A-Za-z0-9 -]{1,30}", made)
    assert made == made.strip()
    assert snapshots.is_named_like_ours(made, label)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("web", "web"),
        ("web_server.example.org", "web-server-exam"),
        ("für-Ähren", "fur-Ahren"),
        ("日本", "--"),
        ("a b c d e f g h i", "a b c d e f g h"),
    ],
)
def test_a_contabo_label_is_mapped_and_shortened(name: str, label: str) -> None:
    assert snapshots.contabo_label(name) == label


def test_a_snapshot_is_named_in_local_time(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert snapshots.snapshot_name("web", START) == "web-20250101040000"
    finally:
        monkeypatch.undo()
        time.tzset()


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
