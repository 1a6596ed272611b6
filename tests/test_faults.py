"""The worst nights: what goes wrong at each step, and what must then be true of the cloud."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import fakes as fake
import pytest
from conftest import Project, pairwise
from fakes import Fault
from fakes.clock import KilledError, Shifted

import snapshots

PROVIDERS = ["digitalocean", "hetzner", "contabo"]
CREATE = {
    "digitalocean": "POST /do/droplets/{id}/actions",
    "hetzner": "POST /hz/servers/{id}/actions/create_image",
    "contabo": "POST /cb/compute/instances/{id}/snapshots",
}
LIST = {
    "digitalocean": "GET /do/droplets/{id}/snapshots",
    "hetzner": "GET /hz/images",
    "contabo": "GET /cb/compute/instances/{id}/snapshots",
}
DELETE = {
    "digitalocean": "DELETE /do/snapshots/{id}",
    "hetzner": "DELETE /hz/images/{id}",
    "contabo": "DELETE /cb/compute/instances/{id}/snapshots/{sid}",
}
LOOK = {
    "digitalocean": "GET /do/droplets/{id}/actions",
    "hetzner": "GET /hz/images",
    "contabo": "GET /cb/compute/instances/{id}/snapshots",
}
POLL = {"digitalocean": "GET /do/droplets/{id}/actions/{aid}", "hetzner": "GET /hz/actions"}
each_provider = pytest.mark.parametrize("provider", PROVIDERS)

ACTED: dict[str, Callable[[], Fault]] = {
    "500": lambda: fake.status(500, act=True),
    "502 HTML": lambda: fake.status(502, body=b"<html>Bad Gateway</html>", act=True),
    "503": lambda: fake.status(503, act=True),
    "504": lambda: fake.status(504, act=True),
    "hang-up before": lambda: fake.hang_up(act=True),
    "hang-up in the head": lambda: fake.hang_up(act=True, when="headers"),
    "hang-up in the body": lambda: fake.hang_up(act=True, when="body"),
    "truncated": lambda: fake.truncated(act=True),
    "HTML 200": lambda: fake.garbage(act=True),
    "empty 200": lambda: fake.garbage(act=True, body=b""),
    "{} 201": lambda: fake.garbage(act=True, body=b"{}", status=201),
    "null 201": lambda: fake.garbage(act=True, body=b"null", status=201),
    "204": lambda: fake.status(204, act=True),
    "302": lambda: fake.status(302, act=True),
    "409 without a word": lambda: fake.status(409, body=b"", act=True),
    "423 HTML": lambda: fake.status(423, body=b"<html>Locked</html>", act=True),
}
NOT_ACTED: dict[str, Callable[[], Fault]] = {
    "500": lambda: fake.status(500),
    "503": lambda: fake.status(503),
    "504 HTML": lambda: fake.status(504, body=b"<html>"),
    "hang-up": lambda: fake.hang_up(),
    "HTML 200": lambda: fake.garbage(act=False),
}


def three(project: Project, provider: str, **more: Any) -> tuple[Any, Any, Any, list[str]]:
    """The server under test with two nights of history, and two healthy ones at other clouds."""
    server = project.server(provider, 31, "web", retain=2, duration_seconds=40, **more)
    healthy = [
        project.server(p, 50 + n, f"other{n}", duration_seconds=40, account="healthy")
        for n, p in enumerate(("hetzner", "digitalocean"))
    ]
    for other in healthy:
        project.history(other, 2)
    return (server, *healthy, project.history(server, 2))  # type: ignore[return-value]


def assert_healthy(project: Project, *servers: Any) -> None:
    """The others have had their turn as if nothing had happened."""
    for server in servers:
        assert len(project.own(server)) == 2
        assert len([s for s in project.cloud.created if s.server is server]) == 1


# --- create ---


@pytest.mark.proves("I11", "D-9", "K1", "K4")
@each_provider
@pytest.mark.parametrize("how", ACTED)
def test_a_create_that_was_carried_out_without_an_answer_is_adopted(
    project: Project, provider: str, how: str
) -> None:
    server, a, b, old = three(project, provider)
    new = snapshots.snapshot_name("web", project.clock.now())
    project.cloud.fault(CREATE[provider], ACTED[how](), when=lambda r: r.ids[0] == "31")
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert project.own(server) == [old[1], new]
    assert len([s for s in project.cloud.created if s.server is server]) == 1
    assert_healthy(project, a, b)


@pytest.mark.proves("D-9", "K2")
@each_provider
@pytest.mark.parametrize("how", NOT_ACTED)
def test_a_create_that_certainly_was_not_carried_out_is_sent_once_more(
    project: Project, provider: str, how: str
) -> None:
    server, a, b, old = three(project, provider)
    new = snapshots.snapshot_name("web", project.clock.now())
    project.cloud.fault(CREATE[provider], NOT_ACTED[how](), when=lambda r: r.ids[0] == "31")
    began = project.clock.monotonic()
    result = project.run()
    assert result.code == 0
    assert project.own(server) == [old[1], new]
    assert project.cloud.count(CREATE[provider]) == (2 if provider == "contabo" else 3)
    sent = [r.monotonic for r in project.cloud.requests(CREATE[provider]) if r.ids[0] == "31"]
    assert sent[1] - sent[0] >= 30  # looked for, for at least so long
    assert project.clock.monotonic() - began < 300
    assert_healthy(project, a, b)


@each_provider
def test_an_answer_lost_twice_ends_in_failure_and_nothing_is_pruned(
    project: Project, provider: str
) -> None:
    server, a, b, old = three(project, provider)
    project.cloud.fault(
        CREATE[provider], fake.status(504), times=None, when=lambda r: r.ids[0] == "31"
    )
    result = project.run()
    assert result.code == 2
    assert "both times it was not carried out; nothing was pruned" in result.err
    assert project.own(server) == old
    assert len([r for r in project.cloud.requests(CREATE[provider]) if r.ids[0] == "31"]) == 2
    assert_healthy(project, a, b)


@pytest.mark.proves("I12", "D-9")
@each_provider
def test_where_it_cannot_be_known_nothing_is_sent_again_and_nothing_pruned(
    project: Project, provider: str
) -> None:
    server, a, b, old = three(project, provider)
    project.cloud.fault(CREATE[provider], fake.status(504), when=lambda r: r.ids[0] == "31")
    look = LOOK[provider]
    account = project.account(provider)
    project.cloud.fault(look, fake.status(403), times=None, when=lambda r: r.account is account)
    result = project.run()
    assert result.code == 2
    assert "outcome unknown" in result.err
    assert project.own(server) == old
    assert len([r for r in project.cloud.requests(CREATE[provider]) if r.ids[0] == "31"]) == 1
    assert_healthy(project, a, b)


@pytest.mark.proves("D-9")
@each_provider
def test_one_look_that_fails_is_enough_not_to_know(project: Project, provider: str) -> None:
    """However clearly the later ones show nothing: it takes every look to send it again."""
    server = project.server(provider, 31, "web", retain=2, duration_seconds=40)
    old = project.history(server, 2)
    project.cloud.fault(CREATE[provider], fake.status(504))
    project.cloud.fault(
        LOOK[provider], fake.status(403), when=lambda r: project.cloud.count(CREATE[provider]) > 0
    )
    result = project.run()
    assert result.code == 1
    assert "outcome unknown" in result.err
    assert project.own(server) == old
    assert project.cloud.count(CREATE[provider]) == 1


@pytest.mark.proves("K3")
@each_provider
def test_a_create_that_acts_late_is_put_right_by_the_next_run(
    project: Project, provider: str
) -> None:
    server, a, b, old = three(project, provider, slots=5)
    project.cloud.fault(CREATE[provider], fake.late(300), when=lambda r: r.ids[0] == "31")
    first = project.run()
    assert (first.code, first.err) == (0, "")
    assert "web: it was not carried out; asking once more" in first.log
    project.clock.advance(86400)
    result = project.run()
    assert result.code == 0
    assert len(project.own(server)) == 2
    assert not set(old) & set(project.own(server))
    assert_both = [s for s in project.cloud.created if s.server in (a, b)]
    assert len(assert_both) == 4


@pytest.mark.proves("D-9")
def test_contabos_audit_that_cannot_be_read_means_unknown(project: Project) -> None:
    server = project.server("contabo", 31, "web", duration_seconds=10)
    old = project.history(server, 2)
    project.cloud.fault(CREATE["contabo"], fake.status(504))
    project.cloud.fault("GET /cb/compute/snapshots/audits", fake.status(500), times=None)
    result = project.run()
    assert result.code == 1
    assert "outcome unknown" in result.err
    assert project.own(server) == old


@pytest.mark.proves("I4", "K6")
@each_provider
@pytest.mark.parametrize("code", [400, 403, 404, 422])
def test_a_refused_create_is_a_failure_and_is_not_repeated(
    project: Project, provider: str, code: int
) -> None:
    server, a, b, old = three(project, provider)
    project.cloud.fault(
        CREATE[provider], fake.status(code), times=None, when=lambda r: r.ids[0] == "31"
    )
    result = project.run()
    assert result.code == 2
    assert f"HTTP {code}" in result.err
    assert project.own(server) == old
    assert len([r for r in project.cloud.requests(CREATE[provider]) if r.ids[0] == "31"]) == 1
    assert_healthy(project, a, b)


@pytest.mark.proves("I4", "P2")
@pytest.mark.parametrize("provider", ["digitalocean", "hetzner"])
def test_a_snapshot_that_fails_is_a_failure_and_nothing_is_pruned(
    project: Project, provider: str
) -> None:
    server, a, b, old = three(project, provider, fails=True)
    result = project.run()
    assert result.code == 2
    assert "failed" in result.err
    assert [n for n in project.own(server) if n in old] == old
    assert project.cloud.deleted
    assert not [
        s for s in project.cloud.deleted if s in [x.id for x in project.cloud.snapshots(server)]
    ]
    assert_healthy(project, a, b)


@pytest.mark.proves("P1")
@each_provider
def test_a_snapshot_that_never_ends_is_overdue_and_nothing_is_pruned(
    project: Project, provider: str
) -> None:
    server, a, b, old = three(project, provider, never_finishes=True)
    project.config["TIMING"]["snapshot_creation_timeout"] = 7200
    began = project.clock.monotonic()
    result = project.run()
    assert result.code == 2
    assert (
        "still not finished after 2 h 0 min ([TIMING] snapshot_creation_timeout = 7200"
        in result.err
    )
    assert "may still finish it; nothing was pruned" in result.err
    assert set(old) <= set(project.own(server))
    assert 7200 <= project.clock.monotonic() - began < 7400
    assert_healthy(project, a, b)


@pytest.mark.proves("K7")
@pytest.mark.parametrize("provider", ["digitalocean", "hetzner"])
def test_a_busy_server_is_waited_for(project: Project, provider: str) -> None:
    server = project.server(provider, 31, "web", duration_seconds=40)
    old = project.history(server, 2)
    project.cloud.add_action(server, "reboot", seconds=600)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert len(project.own(server)) == 2
    assert old[1] in project.own(server)
    assert project.cloud.count(CREATE[provider]) < 60


@pytest.mark.proves("I13")
@each_provider
def test_a_snapshot_still_in_the_making_is_waited_for_and_then_counted(
    project: Project, provider: str
) -> None:
    server = (
        project.server(provider, 31, "web", retain=2, duration_seconds=40, slots=4)
        if (provider == "contabo")
        else project.server(provider, 31, "web", retain=2, duration_seconds=40)
    )
    project.history(server, 1)
    crashed = snapshots.snapshot_name("web", project.clock.now() - timedelta(seconds=60))
    project.cloud.add_running_snapshot(server, crashed, 300)
    result = project.run()
    assert result.code == 0
    assert project.own(server)[0] == crashed
    assert len(project.own(server)) == 2
    assert len(project.cloud.created) == 1


@pytest.mark.proves("I16", "K7")
@pytest.mark.parametrize("provider", ["digitalocean", "hetzner"])
def test_a_server_busy_for_ever_is_a_failure_in_time(project: Project, provider: str) -> None:
    server = project.server(provider, 31, "web")
    project.cloud.add_action(server, "reboot")
    for action in server.actions:
        action.status = "running"
    project.config["TIMING"]["snapshot_creation_timeout"] = 3600
    project.cloud.fault(
        CREATE[provider],
        fake.status(423, json={"error": {"code": "locked", "message": "server is locked"}})
        if provider == "hetzner"
        else fake.status(
            422,
            json={"id": "unprocessable_entity", "message": "Droplet already has a pending event."},
        ),
        times=None,
    )
    began = project.clock.monotonic()
    result = project.run()
    assert result.code == 1
    assert "the server was busy for all of 1 h 0 min" in result.err
    assert project.clock.monotonic() - began < 3700


@pytest.mark.proves("K11")
@each_provider
def test_an_older_snapshot_of_the_same_name_is_never_taken_for_the_new_one(
    project: Project, provider: str
) -> None:
    """The clock was set back, or the hour of the autumn night came twice."""
    server = project.server(provider, 31, "web", retain=2, duration_seconds=40)
    same = snapshots.snapshot_name("web", project.clock.now())
    project.cloud.add_snapshot(server, same, project.clock.now() - timedelta(hours=1))
    project.cloud.fault(CREATE[provider], fake.status(504), when=lambda r: True)
    result = project.run()
    if provider == "digitalocean":  # the actions tell for certain: sent again
        assert result.code == 0
        assert len(project.cloud.created) == 1
        assert project.own(server) == [same, same]
    else:
        assert result.code == 1
        assert "outcome unknown" in result.err
        assert len(project.cloud.created) == 0


@each_provider
@pytest.mark.parametrize("offset", [-7200, 7200])
def test_adoption_goes_by_the_providers_clock_not_by_ours(
    project: Project, provider: str, offset: int
) -> None:
    server = project.server(provider, 31, "web", retain=2, duration_seconds=40)
    old = project.history(server, 2)
    project.clock.begin += timedelta(seconds=offset)  # our clock is off; the cloud's is not
    project.cloud.clock = Shifted(project.clock, -offset)
    project.cloud.fault(CREATE[provider], fake.hang_up(act=True))
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert len(project.own(server)) == 2
    assert old[1] in project.own(server)
    assert len(project.cloud.created) == 1


@pytest.mark.proves("wild-12.10")
@each_provider
@pytest.mark.parametrize("acted", [None, True, False])
@pytest.mark.parametrize("offset", [-300, 0, 300])
def test_where_the_provider_never_tells_the_time_ours_will_do(
    project: Project, provider: str, acted: bool | None, offset: int
) -> None:
    """A gateway leaves the Date header out: the new one is known all the same, and made once."""
    server = project.server(provider, 31, "web", retain=2, duration_seconds=40)
    old = project.history(server, 2)
    project.cloud.tells_date = False
    project.clock.begin += timedelta(seconds=offset)
    project.cloud.clock = Shifted(project.clock, -offset)
    if acted is not None:
        project.cloud.fault(CREATE[provider], fake.hang_up(act=acted))
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert project.own(server) == [old[1], project.cloud.created[0].name]
    assert len(project.cloud.created) == 1


# --- listing ---


BROKEN_LISTS: dict[str, Fault] = {
    "500": fake.status(500),
    "403": fake.status(403),
    "HTML": fake.garbage(),
    "{}": fake.garbage(body=b"{}"),
    "[]": fake.garbage(body=b"[]"),
    "null": fake.garbage(body=b"null"),
    "truncated": fake.truncated(),
    "hang-up": fake.hang_up(),
    "redirect": fake.redirect("http://127.0.0.1:1/"),
    "gzip bomb": fake.gzip_bomb(),
    "huge": fake.huge(20_000_000),
}


@pytest.mark.proves("I6", "G1", "G2", "G13", "G14", "G16")
@pairwise(page=["1", "2"], how=BROKEN_LISTS, provider=PROVIDERS)
def test_a_listing_that_is_not_complete_prunes_nothing(
    project: Project, provider: str, how: str, page: str
) -> None:
    server, a, b, old = three(project, provider)
    project.history(server, 0)
    account = project.account(provider)
    project.cloud.fault(
        LIST[provider],
        BROKEN_LISTS[how],
        times=None,
        when=lambda r: r.account is account and (r.one("page") or "1") == page,
    )
    result = project.run()
    assert result.code == 2
    assert set(old) <= set(project.own(server))
    assert [s for s in project.cloud.created if s.server is server]
    assert not [r for r in project.cloud.requests(DELETE[provider]) if r.account is account]
    assert sorted(fields[4] for fields in result.final) == ["FAILURE", "SUCCESS", "SUCCESS"]
    assert_healthy(project, a, b)


def change_items(provider: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Any], Any]:
    """A change of the entries of a listing's page."""
    key = {"digitalocean": "snapshots", "hetzner": "images", "contabo": "data"}[provider]

    def edit(content: Any) -> Any:
        return {**content, key: change(content[key])}

    return edit


def spoil_one(provider: str, snapshot: fake.Snapshot, key: str, value: Any) -> Fault:
    """Says something else about one snapshot in each listing."""
    ident = ID_KEY[provider]

    def change(items: list[Any]) -> list[Any]:
        return [{**i, key: value} if str(i[ident]) == snapshot.id else i for i in items]

    return fake.edit(change_items(provider, change))


ID_KEY = {"digitalocean": "id", "hetzner": "id", "contabo": "snapshotId"}
DATE_KEY = {"digitalocean": "created_at", "hetzner": "created", "contabo": "createdDate"}
NAME_KEY = {"digitalocean": "name", "hetzner": "description", "contabo": "name"}


@pytest.mark.proves("I23", "G10")
@each_provider
@pytest.mark.parametrize("value", [None, True, 1.5, "../droplets/1", "1?x", "", [], {}, 10**30])
def test_an_id_that_cannot_be_used_makes_the_whole_listing_unusable(
    project: Project, provider: str, value: Any
) -> None:
    server, a, b, old = three(project, provider)
    account = project.account(provider)
    if provider == "contabo" and value == 10**30:
        value = "x" * 65
    project.cloud.fault(
        LIST[provider],
        fake.edit(
            change_items(
                provider,
                lambda items: [{**i, ID_KEY[provider]: value} for i in items[:1]] + items[1:],
            )
        ),
        times=None,
        when=lambda r: r.account is account,
    )
    result = project.run()
    assert result.code == 2
    assert set(old) <= set(project.own(server))
    assert_healthy(project, a, b)


def not_adding_up(project: Project, provider: str) -> dict[str, Callable[[Any], Any]]:
    """Changes of a page after which the pages are no listing."""

    def say_more(content: Any) -> Any:
        if provider == "digitalocean":
            return {**content, "meta": {"total": 99}}
        if provider == "hetzner":
            pagination = {**content["meta"]["pagination"], "total_entries": 99}
            return {**content, "meta": {"pagination": pagination}}
        return {**content, "_pagination": {**content["_pagination"], "totalElements": 99}}

    def loop(content: Any) -> Any:
        if provider == "digitalocean":
            return {**content, "links": {"pages": {"next": f"{project.cloud.url}/do/v2/x?page=1"}}}
        if provider == "hetzner":
            pagination = content["meta"]["pagination"]
            return {
                **content,
                "meta": {"pagination": {**pagination, "next_page": pagination["page"]}},
            }
        return {**content, "_pagination": {**content["_pagination"], "totalPages": 10**6}}

    return {
        "drop one": change_items(provider, lambda items: items[1:]),
        "repeat one": change_items(provider, lambda items: [*items, items[0]] if items else items),
        "say more": say_more,
        "loop": loop,
    }


NOT_ADDING_UP = ["drop one", "repeat one", "say more", "loop"]


@pytest.mark.proves("I6", "G3", "G5", "G6", "G16")
@each_provider
@pytest.mark.parametrize("change", NOT_ADDING_UP)
def test_pages_that_do_not_add_up_prune_nothing(
    project: Project, provider: str, change: str
) -> None:
    server, a, b, old = three(project, provider)
    account = project.account(provider)
    spoilt = fake.edit(not_adding_up(project, provider)[change])
    project.cloud.fault(LIST[provider], spoilt, times=None, when=lambda r: r.account is account)
    result = project.run()
    assert result.code == 2
    assert set(old) <= set(project.own(server))
    assert project.cloud.count(LIST[provider]) < 100
    assert_healthy(project, a, b)


@pytest.mark.proves("I6")
@pytest.mark.parametrize(
    ("how", "page"),
    [
        *((how, page) for how in BROKEN_LISTS for page in ("1", "2")),
        *((how, "") for how in [*NOT_ADDING_UP, "an id that is none"]),
    ],
)
def test_a_listing_that_several_droplets_share_has_to_be_complete_too(
    project: Project, how: str, page: str
) -> None:
    """The account's, which is another endpoint than the single droplet's."""
    servers = [
        project.server("digitalocean", 31 + n, f"web{n}", retain=2, duration_seconds=40)
        for n in range(4)
    ]
    old = [name for server in servers for name in project.history(server, 2)]
    edits = not_adding_up(project, "digitalocean")
    edits["an id that is none"] = change_items(
        "digitalocean", lambda items: [{**item, "id": "../1"} for item in items]
    )
    spoilt = BROKEN_LISTS[how] if how in BROKEN_LISTS else fake.edit(edits[how])
    project.cloud.fault(
        "GET /do/snapshots", spoilt, times=None, when=lambda r: page in ("", r.one("page"))
    )
    result = project.run()
    assert project.cloud.count("GET /do/snapshots")
    assert (result.code, project.cloud.deleted) == (1, [])
    assert set(old) <= {name for server in servers for name in project.own(server)}
    assert len(project.cloud.created) == 4


@pytest.mark.proves("I22", "G4")
def test_a_next_page_on_another_host_is_not_asked_for_there(project: Project) -> None:
    server = project.server("digitalocean", 31, "web", duration_seconds=40)
    old = project.history(server, 3)
    project.cloud.fault(
        LIST["digitalocean"],
        fake.edit(
            lambda c: {**c, "links": {"pages": {"next": "https://evil.example.org/v2?page=2"}}}
        ),
        times=None,
    )
    result = project.run()
    assert result.code == 1
    assert "an empty page in the middle of the listing" in result.err
    assert set(old) <= set(project.own(server))


@pytest.mark.proves("I8", "G10")
@each_provider
@pytest.mark.parametrize(
    "value", [None, "", "10", "2025", 5, "2025-06-01T03:00:00", "9999-99-99T00:00:00Z"]
)
def test_one_with_an_unreadable_date_is_left_alone_with_a_warning(
    project: Project, provider: str, value: Any
) -> None:
    server = project.server(provider, 31, "web", retain=1, duration_seconds=40)
    old = project.history(server, 3) if provider != "contabo" else project.history(server, 2)
    strange = project.cloud.snapshots(server)[0]
    spoilt = spoil_one(provider, strange, DATE_KEY[provider], value)
    project.cloud.fault(LIST[provider], spoilt, times=None)
    result = project.run()
    assert result.code == 0
    assert "has an unreadable date: left alone" in result.log
    assert old[0] in project.own(server)
    assert len(project.own(server)) == 2


@pytest.mark.proves("P2")
@pytest.mark.parametrize(
    ("state", "told"), [("unavailable", True), ("absent", True), ("creating", False)]
)
def test_a_broken_one_of_ours_is_left_alone_and_reported(
    project: Project, state: str, told: bool
) -> None:
    """It costs money, and nobody can be restored from it; one still in the making is no trouble."""
    server = project.server("hetzner", 31, "web", retain=1)
    project.history(server, 2)
    broken = project.cloud.snapshots(server)[0]
    broken.status = state
    result = project.run()
    assert result.code == 0
    assert project.cloud.snapshots(server) == [broken, *project.cloud.created]
    text = f"snapshot {broken.id} ({broken.name}) cannot be used, it is {state}: left alone"
    assert (text in result.log) == told


@pytest.mark.proves("G10")
@each_provider
@pytest.mark.parametrize("value", [None, 5, "x" * 20_000])
def test_one_with_an_unreadable_name_is_left_alone(
    project: Project, provider: str, value: Any
) -> None:
    server = project.server(provider, 31, "web", retain=1, duration_seconds=40)
    old = project.history(server, 2)
    strange = project.cloud.snapshots(server)[0]
    spoilt = spoil_one(provider, strange, NAME_KEY[provider], value)
    project.cloud.fault(LIST[provider], spoilt, times=None)
    result = project.run()
    assert result.code == 0
    assert old[0] in project.own(server)
    assert len(result.log) < 20_000


@pytest.mark.proves("I5", "G8", "P6")
@each_provider
@pytest.mark.parametrize("lag", [1, 60, 100])
def test_a_listing_that_lags_is_asked_again(project: Project, provider: str, lag: int) -> None:
    server = project.server(provider, 31, "web", duration_seconds=40, lists_late_seconds=lag)
    project.history(server, 2)
    result = project.run()
    assert (result.code, len(project.own(server))) == (0, 2)


@pytest.mark.proves("I5", "G8", "P7")
@pytest.mark.parametrize("provider", ["digitalocean", "hetzner"])
def test_a_snapshot_that_never_shows_is_a_failure_and_nothing_is_pruned(
    project: Project, provider: str
) -> None:
    server, a, b, old = three(project, provider, lists_late_seconds=1e9)
    result = project.run()
    assert result.code == 2
    assert "was reported done, but is not yet in the listing after 2 min" in result.err
    assert set(old) <= set(project.own(server))
    assert_healthy(project, a, b)


@pytest.mark.proves("I1", "G7", "G17")
def test_everything_that_is_not_ours_stays_even_if_filters_are_ignored(project: Project) -> None:
    """Prefixes, other servers, hand-made, renamed, protected, backups, system images, volumes."""
    project.cloud.ignore_filters = True
    kept: list[tuple[Any, str]] = []
    for provider in ("digitalocean", "hetzner"):
        web = project.server(provider, 41, "web", retain=1, duration_seconds=40)
        staging = project.server(provider, 42, "web-staging", retain=1, duration_seconds=40)
        twin = project.server(provider, 43, "web", retain=5, duration_seconds=40)
        stranger = project.cloud.add_server(project.account(provider), 44, "web")
        project.history(web, 2)
        project.history(staging, 2)
        long_ago = project.clock.now() - timedelta(days=400)
        strangers: list[tuple[Any, str, dict[str, Any]]] = [
            (web, "before the upgrade", {}),
            (web, "web-2024", {}),
            (web, "web-20240101030000-keep", {}),
            (web, "Web-20240101030000", {}),
            (stranger, "web-20240101030000", {}),
            (twin, "web-20240102030000", {}),
            (web, "web-20240106030000", {"kind": "backup"}),
        ]
        if provider == "hetzner":
            strangers += [
                (web, "web-20240103030000", {"protected": True}),
                (web, "web-20240104030000", {"created_from": None}),
                (web, "web-20240105030000", {"status": "creating"}),
            ]
        for server, name, more in strangers:
            snapshot = project.cloud.add_snapshot(server, name, long_ago, **more)
            kept.append((snapshot, name))
    project.cloud.add_image(project.account("hetzner"))
    project.cloud.add_volume_snapshot(project.account("digitalocean"))
    everything = {s.id for s in project.cloud.snapshots()}
    result = project.run()
    assert result.code == 0
    left = {s.id for s in project.cloud.snapshots()}
    for snapshot, name in kept:
        assert snapshot.id in left, name
    assert len(everything - left) == 2 * (2 + 2)  # both of `web` and of `web-staging`, twice


@pytest.mark.proves("K10")
def test_a_contabo_server_with_a_long_name_is_pruned_as_it_should(project: Project) -> None:
    server = project.server("contabo", 51, "web_server.example.org", retain=2, duration_seconds=5)
    old = project.history(server, 2, label="web-server-exam")
    result = project.run()
    assert result.code == 0
    assert project.own(server)[0] == old[1]
    assert project.own(server)[1].startswith("web-server-exam-")
    request = project.cloud.requests(CREATE["contabo"])[0]
    assert request.json["description"].startswith("web_server.example.org")


# --- delete ---


@pytest.mark.proves("G9", "X1", "X3", "X6")
@each_provider
@pytest.mark.parametrize(
    "fault",
    [
        fake.status(500, act=True),
        fake.status(504, act=True),
        fake.hang_up(act=True),
        fake.truncated(act=True),
        fake.status(404),
        fake.status(429, headers={"Retry-After": "7"}),
        fake.status(503),
    ],
)
def test_a_delete_that_stumbles_is_done_all_the_same(
    project: Project, provider: str, fault: Fault
) -> None:
    server = project.server(provider, 31, "web", retain=1, duration_seconds=40)
    project.history(server, 2)
    project.cloud.fault(DELETE[provider], fault)
    result = project.run()
    assert result.code == 0  # even where it says 404 and the listing shows it still
    assert len(project.own(server)) == 1
    assert project.own(server)[0] == project.cloud.created[0].name


@pytest.mark.proves("X2", "X4", "X5")
@each_provider
@pytest.mark.parametrize(
    "fault", [fake.status(500), fake.status(403), fake.redirect("/x"), fake.status(400)]
)
def test_a_delete_that_fails_is_a_failure_and_does_not_stop_the_others(
    project: Project, provider: str, fault: Fault
) -> None:
    server = project.server(provider, 31, "web", retain=1, duration_seconds=40)
    old = project.history(server, 2)
    oldest = project.cloud.snapshots(server)[0]
    project.cloud.fault(DELETE[provider], fault, times=None, when=lambda r: oldest.id in r.ids)
    result = project.run()
    assert result.code == 1
    assert f"delete snapshot {oldest.id} ({old[0]})" in result.err
    assert [n for n in project.own(server) if n in old] == [old[0]]
    assert result.final[0][8] == "2 snapshots exist"
    project.cloud.clear_faults()
    project.clock.advance(86400)
    assert project.run().code == 0
    assert len(project.own(server)) == 1


@pytest.mark.proves("X9")
@each_provider
def test_one_reported_as_deleted_that_stays_is_a_failure(project: Project, provider: str) -> None:
    server = project.server(provider, 31, "web", retain=1, duration_seconds=40)
    project.history(server, 1)
    project.cloud.fault(DELETE[provider], fake.status(204), times=None)
    result = project.run()
    assert result.code == 1
    assert "as deleted, but still lists it" in result.err
    assert result.final[0][8] == "2 snapshots exist"


@pytest.mark.proves("G18")
def test_a_protected_one_is_never_tried(project: Project) -> None:
    server = project.server("hetzner", 31, "web", retain=1, duration_seconds=40)
    old = project.history(server, 3)
    project.cloud.snapshots(server)[0].protected = True
    result = project.run()
    assert result.code == 0
    assert project.own(server)[0] == old[0]
    assert len(project.own(server)) == 2
    assert project.cloud.count(DELETE["hetzner"]) == 2


@pytest.mark.proves("G14")
@each_provider
def test_a_thousand_strangers_and_a_hundred_of_ours_are_distinguished(
    project: Project, provider: str
) -> None:
    project.cloud.page_size = None  # as long as documented, and still many pages
    server = project.server(provider, 31, "web", retain=2, duration_seconds=40, slots=2000)
    nights = 28 if provider == "contabo" else 100  # older ones Contabo deletes by itself
    old = project.history(server, nights)
    for number in range(1000):
        at = project.clock.now() - timedelta(minutes=number)
        project.cloud.add_snapshot(server, f"web-{number:013d}", at)
    result = project.run()
    assert (result.code, len(project.cloud.created)) == (0, 1)
    assert len(project.cloud.snapshots(server)) == 1000 + nights + 1 - 10
    assert not set(old[:10]) & set(project.own(server))
    assert set(old[10:]) <= set(project.own(server))


@pytest.mark.proves("D-8", "X10")
def test_the_brake_deletes_the_ten_oldest_and_warns(project: Project) -> None:
    server = project.server("hetzner", 31, "web", retain=1, duration_seconds=40)
    old = project.history(server, 14)
    result = project.run()
    assert result.code == 0
    assert project.own(server)[:-1] == old[10:]
    told = "web: 4 more snapshots due for deletion; at most 10 go per run"
    assert told in result.log
    assert f"snapshots: warning: {told}" in result.err
    project.clock.advance(86400)
    assert project.run().code == 0
    assert len(project.own(server)) == 1


# --- polls ---


@pytest.mark.proves("P5")
@pytest.mark.parametrize("provider", ["digitalocean", "hetzner"])
@pytest.mark.parametrize(
    "fault",
    [
        fake.status(500),
        fake.status(502, body=b"<html>"),
        fake.garbage(),
        fake.hang_up(),
        fake.status(429, headers={"Retry-After": "30"}),
        fake.edit(lambda content: {"action": {"id": 1}, "actions": []}),
    ],
)
def test_polls_that_fail_for_a_while_change_nothing(
    project: Project, provider: str, fault: Fault
) -> None:
    server = project.server(provider, 31, "web", duration_seconds=400)
    project.history(server, 2)
    project.cloud.fault(POLL[provider], fault, times=12)
    result = project.run()
    assert (result.code, len(project.own(server))) == (0, 2)


@pytest.mark.proves("P4")
@pytest.mark.parametrize("provider", ["digitalocean", "hetzner"])
def test_an_action_that_is_no_longer_known_is_looked_up_in_the_listing(
    project: Project, provider: str
) -> None:
    server = project.server(provider, 31, "web", duration_seconds=40)
    project.history(server, 2)
    project.cloud.fault(POLL[provider], fake.status(404), times=None)
    result = project.run()
    assert (result.code, len(project.own(server))) == (0, 2)


@pytest.mark.proves("P3")
@pytest.mark.parametrize("provider", ["digitalocean", "hetzner"])
@pytest.mark.parametrize("word", ["strange", None, 7])
def test_an_unknown_state_counts_as_running(project: Project, provider: str, word: Any) -> None:
    server, a, b, old = three(project, provider)
    project.config["TIMING"]["snapshot_creation_timeout"] = 3600
    account = project.account(provider)

    def edit(content: Any) -> Any:
        if "action" in content:
            return {"action": {**content["action"], "status": word, "progress": 101}}
        return {"actions": [{**x, "status": word, "progress": 101} for x in content["actions"]]}

    project.cloud.fault(
        POLL[provider], fake.edit(edit), times=None, when=lambda r: r.account is account
    )
    result = project.run()
    assert result.code == 2
    assert "still not finished after 1 h 0 min" in result.err
    assert set(old) <= set(project.own(server))
    assert_healthy(project, a, b)


# --- credentials ---


@pytest.mark.proves("I17")
@each_provider
def test_a_refused_token_fails_its_account_and_no_other(project: Project, provider: str) -> None:
    server, a, b, old = three(project, provider)
    second = project.server(provider, 32, "web2", duration_seconds=40)
    project.history(second, 2)
    project.account(provider).revoked = True
    if provider == "contabo":
        project.cloud.fault("POST /cb-auth/token", fake.status(401), times=None)
    result = project.run()
    assert result.code == 2
    assert result.err.count("401") >= 2
    assert project.own(server) == old
    refused = [r for r in project.cloud.journal if r.status == 401]
    assert 1 <= len(refused) <= 3  # those under way when the first was refused, and once more
    assert project.cloud.count("POST /cb-auth/token") <= 1
    assert_healthy(project, a, b)


@pytest.mark.proves("T1")
@pytest.mark.parametrize(
    "answer", [fake.status(503), fake.hang_up(), fake.garbage(), fake.status(429)]
)
def test_a_login_that_stays_away_fails_its_servers_in_time_and_no_others(
    project: Project, answer: Fault
) -> None:
    server, a, b, old = three(project, "contabo")
    project.cloud.fault("POST /cb-auth/token", answer, times=None)
    began = project.clock.elapsed
    result = project.run()
    assert result.code == 2
    assert "cannot log in at Contabo" in result.err
    assert project.own(server) == old
    ended = max(r.monotonic for r in project.cloud.journal if r.route == "POST /cb-auth/token")
    limit = 120 if answer.code != 429 else snapshots.RATE_SECONDS
    assert ended - 1000 - began <= limit
    assert_healthy(project, a, b)


@pytest.mark.proves("T7")
def test_a_read_only_token_is_reported_in_plain_words(project: Project) -> None:
    project.account("hetzner", read_only=True)
    server = project.server("hetzner", 31, "web")
    old = project.history(server, 2)
    result = project.run()
    assert result.code == 1
    assert "token_readonly" in result.err
    assert "must be valid and allow writing" in result.err
    assert project.own(server) == old


@pytest.mark.proves("T4")
def test_contabos_token_is_renewed_when_it_runs_out(project: Project) -> None:
    project.account("contabo", token_lifetime_seconds=300)
    server = project.server("contabo", 31, "web", duration_seconds=3000)
    project.history(server, 2)
    result = project.run()
    assert (result.code, len(project.own(server))) == (0, 2)
    assert project.cloud.count("POST /cb-auth/token") > 5


@pytest.mark.proves("T5")
def test_contabos_token_is_renewed_once_on_a_401_even_at_the_create(project: Project) -> None:
    server = project.server("contabo", 31, "web", duration_seconds=30)
    project.history(server, 2)
    project.cloud.fault(CREATE["contabo"], fake.status(401))
    result = project.run()
    assert (result.code, len(project.own(server))) == (0, 2)
    assert project.cloud.count("POST /cb-auth/token") == 2
    assert len(project.cloud.created) == 1


@pytest.mark.proves("T3")
@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{}",
        b'{"access_token": 5}',
        b'{"access_token": "a\\nb"}',
        b'{"access_token": ""}',
    ],
)
def test_a_token_answer_that_makes_no_sense_is_a_clear_failure(
    project: Project, body: bytes
) -> None:
    project.server("contabo", 31, "web")
    project.cloud.fault("POST /cb-auth/token", fake.garbage(body=body), times=None)
    result = project.run()
    assert result.code == 1
    assert "cannot log in at Contabo as API user contabo@example.org" in result.err


@pytest.mark.proves("T3")
@pytest.mark.parametrize("expires", [0, -5, "300", None, 1e300, True])
def test_a_strange_lifetime_of_a_token_is_survived(project: Project, expires: Any) -> None:
    server = project.server("contabo", 31, "web", duration_seconds=30)
    project.history(server, 2)
    project.cloud.fault(
        "POST /cb-auth/token", fake.edit(lambda c: {**c, "expires_in": expires}), times=None
    )
    assert project.run().code == 0
    assert len(project.own(server)) == 2


@pytest.mark.proves("I22")
def test_a_netrc_cannot_replace_the_token(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = project.folder / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password oops\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    project.config["WEBHOOK"] = {"enabled": "true", "url": f"{project.cloud.url}/hook/x"}
    for n, provider in enumerate(PROVIDERS):
        project.history(project.server(provider, 30 + n, f"s{n}", duration_seconds=5), 2)
    assert project.run().code == 0
    for request in project.cloud.journal:
        assert not request.headers.get("authorization", "").startswith("Basic")


# --- limits ---


def test_contabo_a_plan_without_snapshots(project: Project) -> None:
    project.server("contabo", 31, "web", slots=0)
    result = project.run()
    assert result.code == 1
    assert "this plan has no snapshots at all" in result.err


def test_contabo_retention_above_the_plan(project: Project) -> None:
    server = project.server("contabo", 31, "web", retain=5, slots=2)
    old = project.history(server, 2)
    result = project.run()
    assert result.code == 1
    assert "retain_last_snapshots is 5, but the plan has 2 slots (set it to 1);" in result.err
    assert project.own(server) == old


def test_contabo_slots_held_by_others(project: Project) -> None:
    server = project.server(
        "contabo", 31, "web", retain=1, slots=2, file={"replace_when_full": True}
    )
    for name in ("by hand", "by hand too"):
        project.cloud.add_snapshot(server, name, project.clock.now() - timedelta(days=3))
    result = project.run()
    assert result.code == 1
    assert "2 slots of 2 held by snapshots that this tool did not make" in result.err
    assert len(project.own(server)) == 2


@pytest.mark.proves("D-7")
def test_contabo_full_without_the_switch_names_the_key_and_the_risk(project: Project) -> None:
    server = project.server("contabo", 31, "web", retain=1, slots=1)
    old = project.history(server, 1)
    result = project.run()
    assert result.code == 1
    assert "set replace_when_full to true" in result.err
    assert "the risk" in result.err
    assert project.own(server) == old


@pytest.mark.proves("D-7")
@pytest.mark.parametrize("linger", [0, 60, 110])
def test_contabo_full_with_the_switch_makes_room_first(project: Project, linger: int) -> None:
    server = project.server(
        "contabo",
        31,
        "web",
        retain=1,
        slots=1,
        duration_seconds=20,
        file={"replace_when_full": True},
    )
    old = project.history(server, 1)
    project.cloud.slot_lingers_seconds = linger
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert len(project.own(server)) == 1
    assert project.own(server) != old
    assert "all slots are full: deleting" in result.log


def test_contabo_a_freed_slot_that_stays_counted_is_reported_in_capitals(project: Project) -> None:
    server = project.server(
        "contabo", 31, "web", retain=1, slots=1, file={"replace_when_full": True}
    )
    project.history(server, 1)
    project.cloud.slot_lingers_seconds = 1e6
    result = project.run()
    assert result.code == 1
    assert "THIS SERVER NOW HAS NO SNAPSHOT AT ALL" in result.err


@pytest.mark.proves("D-7")
def test_contabo_room_is_not_made_before_all_is_checked(project: Project) -> None:
    server = project.server(
        "contabo", 31, "web", retain=1, slots=1, file={"replace_when_full": True}
    )
    old = project.history(server, 1)
    project.cloud.fault(LIST["contabo"], fake.status(500), times=None)
    assert project.run().code == 1
    assert project.own(server) == old
    project.cloud.clear_faults()
    project.cloud.fault("GET /cb/compute/instances/{id}", fake.status(403), times=None)
    assert project.run().code == 1
    assert project.own(server) == old


def small_instance(project: Project, slots: int = 1, retain: int = 1, seconds: float = 5) -> Any:
    """An instance with few slots, of which the oldest snapshot may be freed first."""
    return project.server(
        "contabo",
        31,
        "web",
        retain=retain,
        slots=slots,
        duration_seconds=seconds,
        file={"replace_when_full": True},
    )


BUSY_FOR_NOW = fake.status(
    429, json={"message": "Too many requests"}, headers={"Retry-After": "20"}
)


@pytest.mark.proves("I11", "D-7", "K3")
@pytest.mark.parametrize("history", [0, 1])
def test_a_limit_that_a_late_create_has_used_up_makes_no_room(
    project: Project, history: int
) -> None:
    """The first create comes through after all looks for it, and takes the last slot: what refuses
    the second one is the first, and nothing has to go for it."""
    retain = 1 + history
    server = small_instance(project, retain, retain)
    old = project.history(server, history)
    project.cloud.fault(CREATE["contabo"], fake.late(35), BUSY_FOR_NOW)
    result = project.run()
    assert (result.code, len(project.cloud.created)) == (0, 1)
    assert project.own(server) == [*old, project.cloud.created[0].name]
    assert "the first request came through after all" in result.log


def test_a_slot_freed_for_a_create_that_comes_late_is_used_by_it(project: Project) -> None:
    server = small_instance(project)
    project.history(server, 1)
    asked: list[int] = []

    def after_the_first(_request: fake.Request) -> bool:
        asked.append(1)
        return len(asked) > 1

    project.cloud.fault(CREATE["contabo"], fake.late(35), BUSY_FOR_NOW, when=after_the_first)
    assert project.run().code == 0
    assert project.own(server) == [s.name for s in project.cloud.created]


def test_a_shared_limit_that_a_late_create_has_used_up_is_no_failure(project: Project) -> None:
    project.account("hetzner", limit=3)
    server = project.server("hetzner", 31, "web", retain=2, duration_seconds=5)
    project.history(server, 2)
    project.cloud.fault(CREATE["hetzner"], fake.late(35), BUSY_FOR_NOW)
    assert project.run().code == 0
    assert len(project.cloud.created) == 1
    assert len(project.own(server)) == 2


def test_where_a_late_look_is_unclear_no_room_is_made(project: Project) -> None:
    server = small_instance(project, 2, 2)
    old = project.history(server, 1)
    project.cloud.fault(CREATE["contabo"], fake.late(35), BUSY_FOR_NOW)
    refused = fake.status(403)
    project.cloud.fault(LIST["contabo"], refused, when=lambda r: project.clock.elapsed > 45)
    result = project.run()
    assert result.code == 1
    assert "outcome unknown" in result.err
    assert project.cloud.deleted == []
    assert len(project.cloud.created) == 1
    assert set(old) <= set(project.own(server))


def test_a_limit_after_a_create_that_certainly_was_not_carried_out_makes_room(
    project: Project,
) -> None:
    server = small_instance(project)
    project.history(server, 1)
    project.cloud.fault(CREATE["contabo"], fake.status(504))
    assert project.run().code == 0
    assert project.own(server) == [s.name for s in project.cloud.created]


def test_a_server_that_is_busy_after_a_lost_create_is_waited_for_whatever_the_look_shows(
    project: Project,
) -> None:
    """Nothing is deleted for it, and the next request is refused just as surely."""
    server = project.server("hetzner", 31, "web", retain=2, duration_seconds=5)
    project.history(server, 2)
    locked = fake.status(423, json={"error": {"code": "locked", "message": "server is locked"}})
    project.cloud.fault(CREATE["hetzner"], fake.status(504), locked)
    project.cloud.fault(
        LIST["hetzner"],
        fake.status(403),
        when=lambda r: project.cloud.count(CREATE["hetzner"]) == 2,
    )
    assert project.run().code == 0
    assert len(project.cloud.created) == 1
    assert len(project.own(server)) == 2


@pytest.mark.proves("D-7")
def test_a_402_without_words_frees_no_slot(project: Project) -> None:
    server = small_instance(project)
    old = project.history(server, 1)
    html = fake.status(402, body=b"<html>Payment Required")
    project.cloud.fault(CREATE["contabo"], html, times=None)
    assert project.run().code == 1
    assert (project.own(server), project.cloud.deleted) == (old, [])


@pytest.mark.proves("D-7", "wild-13.4")
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"statusCode": 402, "message": "There is an open invoice"}, "There is an open invoice"),
        ({"statusCode": 402, "message": "Requires an additional paid service"}, "additional paid"),
        ({"message": "Payment Required"}, "not the API's own words"),
        ({"error": "payment_required", "message": "This filter's licence"}, "not the API's own"),
    ],
)
def test_a_402_about_anything_but_slots_frees_none(
    project: Project, body: dict[str, Any], told: str
) -> None:
    """What is not paid stays so for nights; each would cost a snapshot, to the last one."""
    server = small_instance(project)
    old = project.history(server, 1)
    project.cloud.fault(CREATE["contabo"], fake.status(402, body), times=None)
    result = project.run()
    assert result.code == 1
    assert told in result.err
    assert (project.own(server), project.cloud.deleted) == (old, [])


@pytest.mark.proves("D-8")
def test_a_slot_that_was_freed_without_an_answer_counts_for_the_brake(project: Project) -> None:
    server = small_instance(project, 3, 1)
    project.history(server, 3)
    project.config["RETENTION"] = {"max_deletes_per_run": 1}
    project.cloud.fault(DELETE["contabo"], fake.status(500, act=True))
    assert project.run().code == 0
    assert len(project.cloud.deleted) == 1


@pytest.mark.parametrize("total", ["1e999", "-1e999"])
def test_a_total_without_bounds_is_no_total(project: Project, total: str) -> None:
    server = project.server("contabo", 31, "web", retain=2, duration_seconds=5)
    old = project.history(server, 2)
    body = f'{{"data": [], "_pagination": {{"totalPages": 1, "totalElements": {total}}}}}'
    project.cloud.fault(LIST["contabo"], fake.garbage(body.encode()), times=None)
    result = project.run()
    assert result.code == 1
    assert "a bug" not in result.err
    assert set(old) <= set(project.own(server))


def test_contabo_warns_where_the_previous_one_was_nearly_gone(project: Project) -> None:
    server = project.server("contabo", 31, "web", retain=2, duration_seconds=20)
    at = project.clock.now() - timedelta(days=27)
    project.cloud.add_snapshot(server, snapshots.snapshot_name("web", at), at)
    result = project.run()
    assert result.code == 0
    assert "the newest previous snapshot was 27 days old" in result.err


def test_contabo_warns_of_the_age_of_one_that_had_to_go_first_as_well(project: Project) -> None:
    server = project.server(
        "contabo", 31, "web", retain=1, slots=1, file={"replace_when_full": True}
    )
    at = project.clock.now() - timedelta(days=27)
    project.cloud.add_snapshot(server, snapshots.snapshot_name("web", at), at)
    result = project.run()
    assert result.code == 0
    assert "the newest previous snapshot was 27 days old" in result.err
    assert "Contabo deletes it by itself on " in result.log


def test_hetzner_at_its_limit_is_reported_with_the_count_and_the_way_out(project: Project) -> None:
    project.account("hetzner", limit=3)
    server = project.server("hetzner", 31, "web", retain=3)
    old = project.history(server, 3)
    result = project.run()
    assert result.code == 1
    assert "resource_limit_exceeded" in result.err
    assert "this project holds 3 snapshots" in result.err
    assert "https://console.hetzner.cloud/limits" in result.err
    assert project.own(server) == old


def test_a_402_where_there_are_no_slots_is_just_reported(project: Project) -> None:
    server = project.server("digitalocean", 31, "web")
    old = project.history(server, 2)
    project.cloud.fault(CREATE["digitalocean"], fake.status(402), times=None)
    result = project.run()
    assert result.code == 1
    assert "HTTP 402" in result.err
    assert "replace_when_full" not in result.err
    assert project.own(server) == old


def test_contabo_a_slot_that_is_used_but_not_listed_is_reported_as_that(project: Project) -> None:
    server = project.server(
        "contabo", 31, "web", retain=2, slots=2, file={"replace_when_full": True}
    )
    old = project.history(server, 1)
    server.lingering = 1
    result = project.run()
    assert result.code == 1
    assert "1 slot of 2 counted as used, but not listed" in result.err
    assert project.own(server) == old


@each_provider
def test_of_two_runs_that_begin_in_the_same_second_each_takes_its_own(
    project: Project, provider: str
) -> None:
    """The other one was killed once its create was under way: the names are the same."""
    server = project.server(provider, 31, "web", retain=1, duration_seconds=40, slots=9)
    killed_at = 2 if provider == "contabo" else 1  # its login is the first
    project.cloud.stop_at(killed_at, project.clock.kill, before=False)
    with pytest.raises(KilledError):
        project.run()
    project.clock.bury()
    result = project.run()
    assert (result.code, result.err) == (0, "")
    first, second = project.cloud.created
    assert first.name == second.name
    assert [s.id for s in project.cloud.snapshots(server)] == [second.id]
