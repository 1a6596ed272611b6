"""A listing is complete, or it is an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from conftest import Project, real_account
from test_fleet import add

import snapshots
from snapshots import Next, Outcome, Snapshot

START = datetime(2025, 1, 1, 3, 0, tzinfo=timezone.utc)
NOW = datetime(2025, 6, 1, 12, 0, tzinfo=timezone.utc)


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


@pytest.mark.proves("I6")
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
        ([page(1, 1)], "has a duplicate entry", 5),
        ([page(1, 2, more=True), page(2)], "has a duplicate entry", 5),
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


@pytest.mark.proves("G5")
def test_a_listing_that_has_come_to_rest_is_read_to_its_end() -> None:
    answers = iter([page(1, 1), page(1, more=True), page(1), page(1, 2)])
    items = snapshots.every_page(lambda number: next(answers), "list", snapshots.by_number)
    assert [i for i, _ in items] == ["1", "2"]


@pytest.mark.proves("I16", "G3")
def test_a_listing_without_an_end_is_given_up() -> None:
    asked: list[int] = []

    def fetch(number: int) -> snapshots.Page:
        asked.append(number)
        return page(number, more=True)

    with pytest.raises(snapshots.ApiError, match="more than 1000 pages"):
        snapshots.every_page(fetch, "list", snapshots.by_number)
    assert len(asked) == 5 * 1000


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
    assert snapshots.Hetzner._snapshot("1", item).protected is is_set


@pytest.mark.parametrize(
    ("value", "name"),
    [("web", "web"), ("", ""), ("x" * 10_000, "x" * 10_000), ("x" * 10_001, None), (5, None)],
)
def test_a_name_is_a_text_of_bearable_length(value: Any, name: str | None) -> None:
    assert snapshots.name_of({"name": value}, "name") == name
