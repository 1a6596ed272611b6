"""What each provider's answers are taken for."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Optional

import fakes as fake
import pytest
from conftest import POLL_AGAIN, TOKEN, Project, not_contabo, outside, real_account
from fakes import Request
from fakes.clock import CountingClock
from test_faults import CREATE, LIST, LOOK, each_provider
from test_fleet import add, errors, roomy, timing

import snapshots

START = datetime(2025, 1, 1, 3, 0, tzinfo=timezone.utc)
NOW = datetime(2025, 6, 1, 12, 0, tzinfo=timezone.utc)


# === What providers say ========================================================================

ABOUT: dict[str, Callable[[Any, int], Any]] = {
    "digitalocean": lambda c, id: {"action": {**c["action"], "resource_id": id}},
    "hetzner": lambda c, id: {**c, "image": {**c["image"], "created_from": {"id": id}}},
    "contabo": lambda c, id: {**c, "data": [{**c["data"][0], "instanceId": id}]},
}


@pytest.mark.proves("K9")
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


@pytest.mark.proves("K9")
def test_a_poll_that_is_answered_about_another_action_ends_no_wait(project: Project) -> None:
    """Such as by what a proxy remembers of the last night."""
    server = project.server("digitalocean", 31, "web", duration_seconds=600)
    old = project.history(server, 2)
    done = {"id": 7, "type": "snapshot", "status": "completed"}
    poll = "GET /do/droplets/{id}/actions/{aid}"
    project.cloud.fault(poll, fake.edit(lambda c: {"action": {**c["action"], **done}}), times=4)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert "the answer is about another action; asking again" in result.log
    assert project.own(server) == [old[1], project.cloud.created[0].name]


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


@pytest.mark.proves("T6")
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
    assert f"HTTP {code}" in result.err
    assert (project.clock.elapsed < 60) is quick
    assert ("the last poll failed: cannot read " in result.err) is not quick
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
    assert "is not usable as an id; again in" in result.log
    assert all(len(project.own(server)) == 2 for server in servers)
    assert (project.cloud.count("GET /do/droplets/{id}/actions/{aid}") > 0) is (times != 1)


@pytest.mark.parametrize(("broken", "singles"), [({1, 3, 5}, 0), ({1, 2}, 3), ({1, 2, 3, 5}, 3)])
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
    assert "asking for each action by itself" in result.log
    if times is None:
        assert project.cloud.count("GET /do/droplets/{id}/actions/{aid}") >= 3


@pytest.mark.parametrize("apart", [0, 5, 12, 25, 100])
def test_polls_are_a_tenth_of_the_youngest_age_apart_and_half_that_while_starts_lie_further_apart(
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
        age = earlier - begun[1]
        gap = min(max(5, age / 10), 30)
        assert later - earlier == pytest.approx(gap / 2 if apart > max(age, gap) else gap)


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
    timing(project, poll_interval=1.5)
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
def test_an_unexpected_error_in_a_shared_listing_is_reported_to_all_who_wait_for_it(
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
    assert any("an unexpected error in a shared request" in line for line in errors(result))
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


@pytest.mark.proves("wild-13.2")
def test_hetzner_what_is_listed_as_deleted_is_not_there(project: Project) -> None:
    """An image has a time since when it is deleted; such a one is no snapshot to keep."""
    server = project.server("hetzner", 31, "web", retain=2, duration_seconds=5)
    old = project.history(server, 3)
    project.cloud.snapshots(server)[2].extra["deleted"] = "2025-05-31T12:00:00+00:00"
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert result.final[0][8] == "2 snapshots exist"
    assert project.own(server) == [old[1], old[2], project.cloud.created[0].name]


@pytest.mark.proves("wild-13.2")
def test_hetzner_a_new_one_that_is_listed_as_deleted_lets_nothing_go(project: Project) -> None:
    server = project.server("hetzner", 31, "web", retain=1, duration_seconds=5)
    project.history(server, 2)

    def edit(content: Any) -> Any:
        for item in content["images"]:
            if item["description"] == project.cloud.created[0].name:
                item["deleted"] = "2025-06-01T03:00:04+00:00"
        return content

    project.cloud.fault(LIST["hetzner"], fake.edit(edit), times=None)
    result = project.run()
    assert result.code == 1
    assert "is not yet in the listing" in result.err
    assert project.cloud.deleted == []


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


@pytest.mark.proves("G3")
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
def test_an_error_is_reported_with_its_code_and_its_message_and_neither_twice(
    project: Project, provider: str, body: Any, told: str
) -> None:
    project.server(provider, 31, "web")
    project.cloud.fault(LIST[provider], fake.status(400, json=body), times=None)
    result = project.run("-n")
    gateway = r" \(tried [0-9]+ times in [^()]+\) \(not the API's own words: [^()]+\)"
    assert re.search(f": {told}(?:{gateway})?$", result.err.rstrip())
    assert ("not the API's own words" in result.err) is ("message" not in body)


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


@pytest.mark.proves("P3")
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


@pytest.mark.proves("G6")
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
            login.token()
        return
    first = login.token()
    project.clock.advance(good - 0.01)
    assert login.token() == first
    assert project.cloud.count(TOKEN) == 1
    project.clock.advance(0.02)
    assert login.token() != first
    assert project.cloud.count(TOKEN) == 2


def test_contabos_token_is_dropped_once_however_many_saw_it_refused(project: Project) -> None:
    login = contabo_login(project, project.clock)
    first = login.token()
    assert login.renew(f"Bearer {first}")
    second = login.token()
    assert second != first
    assert login.renew(f"Bearer {first}")  # somebody else was late to learn of it
    assert login.token() == second
    assert project.cloud.count(TOKEN) == 2


@pytest.mark.proves("T2")
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
        login.token()
    if final:
        for _ in range(3):
            with pytest.raises(snapshots.ApiError, match="cannot log in at Contabo"):
                login.token()
    else:
        login.token()
    assert project.cloud.count(TOKEN) == (1 if final else 2)


@pytest.mark.parametrize("fails", [False, True])
def test_one_login_serves_all_who_wait_for_it(project: Project, fails: bool) -> None:
    """Also if it fails: those who waited do not each try for themselves; who asks later does."""
    clock = CountingClock()
    login = contabo_login(project, clock)
    ends: list[str] = []

    def log_in() -> None:
        try:
            login.token()
            ends.append("well")
        except snapshots.ApiError:
            ends.append("failed")

    others = [threading.Thread(target=log_in) for _ in range(3)]

    def meanwhile() -> None:
        for thread in others:
            thread.start()
        clock.until_waiting(3)

    for _ in range(2):  # so that the count of earlier logins is not nought
        login.renew(f"Bearer {login.token()}")
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
