"""Whose words an answer is in: the API's own decide, those of whatever stands before it do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import fakes as fake
import pytest
from conftest import PROVIDERS, TOKEN, Project, pairwise
from fakes import Fault, Request
from test_faults import CREATE, DELETE, LIST, LOOK, POLL, each_provider, small_instance
from test_turn import told

import snapshots

GET_SERVER = {
    "digitalocean": "GET /do/droplets/{id}",
    "hetzner": "GET /hz/servers/{id}",
    "contabo": "GET /cb/compute/instances/{id}",
}
HTML = b"<html><head><title>404 Not Found</title></head><center>nginx</center></html>"
NO_ROUTE = {"message": "no Route matched with those values"}
IN_KUBERNETES = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
WITHDRAWN = {
    "error": {"code": "deprecated_api_endpoint", "message": "API functionality was removed"}
}
OWN = {
    "digitalocean": {"id": "not_found", "message": "The resource could not be found."},
    "hetzner": {"error": {"code": "not_found", "message": "server not found", "details": {}}},
    "contabo": {"statusCode": 404, "message": "Entry VpsInstance not found by instanceId"},
}
NOBODYS: dict[str, Callable[[str, bool], Fault]] = {
    "nginx": lambda provider, act: fake.garbage(HTML, act, 404),
    "nginx's 410": lambda provider, act: fake.garbage(HTML, act, 410),
    "empty": lambda provider, act: fake.status(404, body=b"", act=act),
    "null": lambda provider, act: fake.status(404, body=b"null", act=act),
    "a gateway": lambda provider, act: fake.status(404, NO_ROUTE, act=act),
    "an ingress": lambda provider, act: fake.status(404, IN_KUBERNETES, act=act),
    "withdrawn": lambda provider, act: fake.status(410, WITHDRAWN, act=act),
    "withdrawn, as 404": lambda provider, act: fake.status(404, WITHDRAWN, act=act),
    "410 in own words": lambda provider, act: fake.status(410, OWN[provider], act=act),
    "another API": lambda provider, act: fake.status(
        404, OWN["hetzner" if provider == "contabo" else "contabo"], act=act
    ),
    "a path to nowhere": lambda provider, act: fake.status(
        404, {"statusCode": 404, "message": "Cannot DELETE /v1/x", "error": "Not Found"}, act=act
    ),
}


def lonely(project: Project, provider: str, nights: int = 2, **more: Any) -> tuple[Any, list[str]]:
    """One server, of whose snapshots all but the new one are due."""
    more = {"retain": 1, "duration_seconds": 40, "slots": 9, **more}
    server = project.server(provider, 31, "web", **more)
    return server, project.history(server, nights)


# === Deleted is what a complete listing no longer shows ========================================


@pytest.mark.proves("wild-1")
@each_provider
@pytest.mark.parametrize("who", NOBODYS)
def test_a_404_that_is_not_the_apis_own_deletes_nothing(
    project: Project, provider: str, who: str
) -> None:
    server, old = lonely(project, provider)
    project.cloud.fault(DELETE[provider], NOBODYS[who](provider, False), times=None)
    result = project.run()
    assert result.code == 1
    assert project.own(server)[:2] == old
    assert f"cannot delete snapshot {project.cloud.snapshots(server)[0].id}" in result.err
    assert result.final[0][4] == "FAILURE"
    assert result.final[0][8] == "3 snapshots exist"
    assert "already gone" not in result.log
    for snapshot in project.cloud.snapshots(server)[:2]:
        asked = [r for r in project.cloud.requests(DELETE[provider]) if snapshot.id in r.ids]
        assert len(asked) > 1
    if "withdrawn" in who and provider == "hetzner":
        assert "deprecated_api_endpoint: API functionality was removed" in result.err


@pytest.mark.proves("wild-1")
@each_provider
@pytest.mark.parametrize("who", NOBODYS)
def test_what_is_gone_from_the_listing_is_deleted_whoever_answered(
    project: Project, provider: str, who: str
) -> None:
    server, _ = lonely(project, provider)
    project.cloud.fault(DELETE[provider], NOBODYS[who](provider, True), times=None)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert len(project.own(server)) == 1
    assert result.final[0][8] == "1 snapshots exist"


def cannot_be_listed(project: Project, provider: str, fault: Fault) -> None:
    """Nor read one by one; from the first deletion on."""
    for route in (LIST[provider], DELETE[provider].replace("DELETE", "GET")):
        project.cloud.fault(
            route, fault, times=None, when=lambda r: project.cloud.count(DELETE[provider]) > 0
        )


@pytest.mark.proves("wild-1")
@each_provider
@pytest.mark.parametrize("act", [False, True])
def test_where_no_listing_is_to_be_had_the_delete_has_failed_with_those_words(
    project: Project, provider: str, act: bool
) -> None:
    lonely(project, provider, 1)
    project.cloud.fault(DELETE[provider], fake.status(410, WITHDRAWN, act=act), times=None)
    cannot_be_listed(project, provider, fake.garbage(HTML, False, 404))
    result = project.run()
    assert result.code == 1
    assert "HTTP 410 deprecated_api_endpoint: API functionality was removed" in result.err
    assert result.final[0][8] == "unknown snapshots exist"


@pytest.mark.proves("wild-1")
@each_provider
@pytest.mark.parametrize(
    "answer",
    {
        "204": lambda provider: fake.status(204),
        "own 404": lambda provider: fake.status(404),
        "own 404 about the server": lambda provider: fake.status(404, OWN[provider]),
        "500": lambda provider: fake.status(500),
        "HTML 200": lambda provider: fake.garbage(act=False),
        "hang-up": lambda provider: fake.hang_up(),
    }.items(),
    ids=lambda item: item[0],
)
def test_whatever_was_answered_what_is_still_listed_is_not_deleted(
    project: Project, provider: str, answer: tuple[str, Callable[[str], Fault]]
) -> None:
    """One of the two; the other goes, and is counted and told."""
    server, old = lonely(project, provider)
    stays = project.cloud.snapshots(server)[0]
    project.cloud.fault(
        DELETE[provider], answer[1](provider), times=None, when=lambda r: stays.id in r.ids
    )
    said = told(project)
    assert (said["deleted"], said["total"]) == (old[1], "2")
    assert project.own(server) == [old[0], project.cloud.created[0].name]
    assert " | FAILURE | " in (project.folder / "logs" / "snapshots.log").read_text()


EMPTY = {
    "digitalocean": {"snapshots": [], "links": {}, "meta": {"total": 0}},
    "hetzner": {"images": [], "meta": {"pagination": {"next_page": None, "total_entries": 0}}},
    "contabo": {"data": [], "_pagination": {"totalElements": 0, "totalPages": 0}},
}


@pytest.mark.proves("wild-1")
@each_provider
@pytest.mark.parametrize("answer", [fake.status(204), fake.garbage(HTML, False, 404)])
def test_a_listing_without_the_new_one_shows_nothing_to_be_deleted(
    project: Project, provider: str, answer: Fault
) -> None:
    server, old = lonely(project, provider)
    project.cloud.fault(DELETE[provider], answer, times=None)
    cannot_be_listed(project, provider, fake.status(200, EMPTY[provider]))
    result = project.run()
    assert result.code == 1
    assert "the listing does not show snapshot web-" in result.log
    assert project.own(server)[:2] == old
    assert result.final[0][8] == "unknown snapshots exist"


@pytest.mark.proves("wild-1")
@each_provider
def test_a_listing_that_is_empty_for_a_minute_is_read_again(
    project: Project, provider: str
) -> None:
    lonely(project, provider)
    project.cloud.fault(DELETE[provider].replace("DELETE", "GET"), fake.status(500), times=None)
    empty = fake.status(200, EMPTY[provider])
    deleted = project.cloud.deleted
    project.cloud.fault(LIST[provider], empty, times=3, when=lambda r: bool(deleted))
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert result.final[0][8] == "1 snapshots exist"


@pytest.mark.proves("wild-1")
@each_provider
@pytest.mark.parametrize("first", [500, 404])
def test_what_an_earlier_try_has_deleted_is_reported_as_deleted(
    project: Project, provider: str, first: int
) -> None:
    _, old = lonely(project, provider)
    project.cloud.fault(DELETE[provider], fake.garbage(HTML, True, first))
    said = told(project)
    assert (said["deleted"], said["total"]) == (", ".join(old), "1")


@pytest.mark.proves("wild-1")
@each_provider
@pytest.mark.parametrize("page", ["1", "2"])
@pytest.mark.parametrize(
    "how", {"own": fake.status(404), "HTML": fake.garbage(HTML, False, 404)}.items()
)
def test_a_listing_with_a_404_in_it_prunes_nothing(
    project: Project, provider: str, page: str, how: tuple[str, Fault]
) -> None:
    """In own words too, as of a droplet that was destroyed."""
    project.cloud.page_size = 2
    server, old = lonely(project, provider, 3)
    at_page = how[1]
    project.cloud.fault(
        LIST[provider], at_page, times=None, when=lambda r: (r.one("page") or "1") == page
    )
    result = project.run()
    assert result.code == 1
    assert "HTTP 404" in result.err
    assert project.own(server)[:3] == old
    assert project.cloud.count(DELETE[provider]) == 0


@pytest.mark.proves("wild-1")
def test_a_slot_is_not_freed_by_a_404_that_is_not_contabos(project: Project) -> None:
    server = small_instance(project)
    old = project.history(server, 1)
    project.cloud.fault(DELETE["contabo"], fake.garbage(HTML, False, 404), times=None)
    result = project.run()
    assert result.code == 1
    assert "cannot delete snapshot" in result.err
    assert f"{old[0]} has not gone, it is still listed" in result.err
    assert (project.own(server), result.final[0][8]) == (old, "1 snapshots exist")


@pytest.mark.proves("wild-1")
@pytest.mark.parametrize("act", [True, False])
def test_a_slot_of_which_nobody_can_know_is_reported_as_that(project: Project, act: bool) -> None:
    project.history(small_instance(project), 1)
    project.cloud.fault(DELETE["contabo"], fake.garbage(HTML, act, 404), times=None)
    cannot_be_listed(project, "contabo", fake.status(404, OWN["contabo"]))
    result = project.run()
    assert result.code == 1
    assert "cannot delete snapshot" in result.err
    assert "after the oldest may have been deleted to make room" in result.err
    assert result.final[0][8] == "unknown snapshots exist"


@pytest.mark.proves("wild-1")
@pytest.mark.parametrize("code", [204, 404])
def test_a_slot_that_is_only_said_to_be_freed_is_reported_as_that(
    project: Project, code: int
) -> None:
    server = small_instance(project)
    old = project.history(server, 1)
    project.cloud.fault(DELETE["contabo"], fake.status(code), times=None)
    result = project.run()
    assert result.code == 1
    assert "still counted after 2 min" in result.err
    assert f"{old[0]} has not gone, it is still listed" in result.err
    assert (project.own(server), result.final[0][8]) == (old, "1 snapshots exist")


@pytest.mark.proves("wild-1")
def test_a_slot_that_is_freed_without_contabos_word_for_it_is_used(project: Project) -> None:
    server = small_instance(project)
    old = project.history(server, 1)
    project.cloud.fault(DELETE["contabo"], fake.garbage(HTML, True, 404), times=None)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert project.own(server) == [project.cloud.created[0].name]
    assert project.own(server) != old


# === One read of what was deleted ==============================================================

SINGLE = {provider: route.replace("DELETE", "GET") for provider, route in DELETE.items()}


@each_provider
def test_one_read_of_each_shows_that_it_has_gone(project: Project, provider: str) -> None:
    """Once in a run, for all of the account, such a read has to find what is there."""
    for n in range(3):
        server = project.server(provider, 31 + n, f"web{n}", 1, duration_seconds=40, slots=9)
        project.history(server, 2)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    reads = project.cloud.requests(SINGLE[provider])
    assert [r.status for r in reads] == [200] + [404] * 6
    assert reads[0].ids[-1] in {s.id for s in project.cloud.created}
    assert {r.ids[-1] for r in reads[1:]} == set(project.cloud.deleted)
    last = max(r.number for r in project.cloud.requests(DELETE[provider]))
    listed = [
        r.number for r in project.cloud.journal if r.route.endswith(("/images", "/snapshots"))
    ]
    assert max(listed) < last or provider == "contabo"


@each_provider
def test_a_listing_that_lags_does_not_deny_what_a_read_has_shown(
    project: Project, provider: str
) -> None:
    lonely(project, provider, 1)
    kept: list[Any] = []

    def as_before(content: Any) -> Any:
        kept[:] = kept or [content]
        return kept[0]

    after = lambda r: bool(project.cloud.deleted)  # noqa: E731
    project.cloud.fault(LIST[provider], fake.edit(as_before), times=None, when=after)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert result.final[0][8] == "1 snapshots exist"


PROOFLESS: dict[str, Callable[[str], Fault]] = {
    "own 404": lambda provider: fake.status(404),
    "403": lambda provider: fake.status(403),
    "500": lambda provider: fake.status(500),
    "HTML 200": lambda provider: fake.garbage(act=False),
    "another one": lambda provider: fake.status(
        200,
        {
            "digitalocean": {"snapshot": {"id": "7"}},
            "hetzner": {"image": {"id": 7}},
            "contabo": {"data": [{"snapshotId": "snap7"}]},
        }[provider],
    ),
    **{who: lambda provider, who=who: NOBODYS[who](provider, False) for who in NOBODYS},  # type: ignore[misc]
}


@pairwise(who=PROOFLESS, lies=[False, True], provider=PROVIDERS)
def test_where_reads_do_not_find_what_is_there_a_listing_decides(
    project: Project, provider: str, lies: bool, who: str
) -> None:
    """Their not-found would prove nothing."""
    server, old = lonely(project, provider)
    project.cloud.fault(SINGLE[provider], PROOFLESS[who](provider), times=None)
    if lies:
        project.cloud.fault(DELETE[provider], fake.status(204), times=None)
    result = project.run()
    assert result.code == (1 if lies else 0)
    assert ("as deleted, but still lists it" in result.err) is lies
    assert result.final[0][8] == ("3 snapshots exist" if lies else "1 snapshots exist")
    assert project.own(server)[:-1] == (old if lies else [])


@pairwise(
    who=[who for who in PROOFLESS if who != "own 404"], lies=[False, True], provider=PROVIDERS
)
def test_what_a_read_does_not_show_to_be_gone_a_listing_decides(
    project: Project, provider: str, lies: bool, who: str
) -> None:
    server, old = lonely(project, provider)
    doomed = {snapshot.id for snapshot in project.cloud.snapshots(server)}
    project.cloud.fault(
        SINGLE[provider], PROOFLESS[who](provider), times=None, when=lambda r: r.ids[-1] in doomed
    )
    if lies:
        project.cloud.fault(DELETE[provider], fake.status(404), times=None)
    result = project.run()
    assert result.code == (1 if lies else 0)
    assert result.final[0][8] == ("3 snapshots exist" if lies else "1 snapshots exist")
    assert project.own(server)[:-1] == (old if lies else [])


# === A 404 that decides something else =========================================================


@pytest.mark.proves("wild-1")
@pytest.mark.parametrize("provider", ["digitalocean", "hetzner"])
@pytest.mark.parametrize("who", NOBODYS)
def test_an_action_is_known_as_long_as_the_api_itself_does_not_say_otherwise(
    project: Project, provider: str, who: str
) -> None:
    """Else a snapshot that is listed while it still is in the making would pass for finished."""
    server, _ = lonely(project, provider, duration_seconds=600)
    project.cloud.fault(POLL[provider], NOBODYS[who](provider, False), times=6)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert len(project.own(server)) == 1
    last = project.cloud.requests(POLL[provider])[-1]
    assert last.status == 200


@pytest.mark.proves("wild-1")
@pairwise(who=NOBODYS, act=[True, False], provider=PROVIDERS)
def test_a_create_is_looked_for_after_a_404_that_is_not_the_apis_own(
    project: Project, provider: str, act: bool, who: str
) -> None:
    server, _ = lonely(project, provider)
    project.cloud.fault(CREATE[provider], NOBODYS[who](provider, act))
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert len(project.cloud.created) == 1
    assert project.cloud.count(CREATE[provider]) == (1 if act else 2)
    assert project.own(server) == [project.cloud.created[0].name]


@pytest.mark.proves("wild-1")
@each_provider
@pytest.mark.parametrize("who", NOBODYS)
def test_whether_a_server_is_there_only_the_api_can_know(
    project: Project, provider: str, who: str
) -> None:
    lonely(project, provider)
    project.cloud.fault(GET_SERVER[provider], NOBODYS[who](provider, False), times=2)
    assert project.run("-n").code == 0
    project.cloud.fault(GET_SERVER[provider], fake.status(404))
    gone = project.run("-n")
    assert gone.code == 1
    assert "is the id right" in gone.err


@pytest.mark.proves("wild-1")
@each_provider
def test_a_look_that_meets_a_gateways_404_is_made_again(project: Project, provider: str) -> None:
    server, _ = lonely(project, provider)
    project.cloud.fault(CREATE[provider], fake.status(504))
    project.cloud.fault(LOOK[provider], fake.garbage(HTML, False, 404), times=2)
    assert project.run().code == 0
    assert len(project.cloud.created) == 1
    assert len(project.own(server)) == 1


@pytest.mark.proves("wild-1")
@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 410])
def test_contabos_login_is_tried_again_where_a_gateway_refuses_it(
    project: Project, code: int
) -> None:
    server, _ = lonely(project, "contabo")
    project.cloud.fault(TOKEN, fake.garbage(HTML, False, code), times=3)
    assert project.run().code == 0
    assert project.cloud.count(TOKEN) == 4
    assert len(project.own(server)) == 1


# === Refusals that are not the API's ===========================================================


@pytest.mark.proves("wild-8")
@pairwise(
    step=["list", "poll", "delete", "create", "create, acted"],
    body=[HTML, b""],
    code=[400, 405, 418, 451],
    provider=PROVIDERS,
)
def test_no_page_of_a_gateway_is_an_answer_of_the_api(
    project: Project, provider: str, code: int, body: bytes, step: str
) -> None:
    server, _ = lonely(project, provider, duration_seconds=300)
    routes = {"list": LIST, "poll": {**POLL, "contabo": LIST["contabo"]}, "delete": DELETE}
    route = routes.get(step, CREATE)[provider]
    times = 1 if "create" in step else 4
    project.cloud.fault(route, fake.garbage(body, step == "create, acted", code), times=times)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert len(project.cloud.created) == len(project.own(server)) == 1


@pytest.mark.proves("wild-8")
@pytest.mark.parametrize("provider", ["digitalocean", "hetzner"])
def test_where_no_poll_is_answered_the_time_is_not_blamed_alone(
    project: Project, provider: str
) -> None:
    project.config["TIMING"]["snapshot_creation_timeout"] = 300
    lonely(project, provider)
    project.cloud.fault(POLL[provider], fake.garbage(HTML, False, 403), times=None)
    result = project.run()
    assert result.code == 1
    assert re.search("the last poll failed: cannot read .*: HTTP 403 .*gateway", result.err)
    assert project.cloud.deleted == []


@pytest.mark.proves("wild-8")
@pairwise(
    step=["list", "poll", "delete"],
    body=[HTML, b"", b'{"message": "Forbidden"}'],
    code=[401, 403],
    provider=PROVIDERS,
)
def test_a_gateways_refusal_is_no_answer_of_the_api(
    project: Project, provider: str, code: int, body: bytes, step: str
) -> None:
    server, _ = lonely(project, provider, duration_seconds=300)
    route = {"list": LIST, "poll": {**POLL, "contabo": LIST["contabo"]}, "delete": DELETE}[step]
    project.cloud.fault(route[provider], fake.garbage(body, False, code), times=4)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert len(project.own(server)) == 1


@pytest.mark.proves("wild-8")
@pairwise(act=[True, False], code=[401, 403], provider=PROVIDERS)
def test_after_a_gateways_refusal_of_a_create_it_is_looked_for(
    project: Project, provider: str, code: int, act: bool
) -> None:
    server, _ = lonely(project, provider)
    project.cloud.fault(CREATE[provider], fake.garbage(HTML, act, code))
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert len(project.cloud.created) == 1
    assert project.own(server) == [project.cloud.created[0].name]


@pytest.mark.proves("wild-8")
@each_provider
def test_a_gateways_refusal_that_stays_blames_no_right(project: Project, provider: str) -> None:
    _, old = lonely(project, provider)
    project.cloud.fault(DELETE[provider], fake.garbage(HTML, False, 403), times=None)
    result = project.run()
    assert result.code == 1
    assert "HTTP 403" in result.err
    assert "lack a right" not in result.err
    assert "not the API's own words" in result.err
    assert old[0] in result.err


MAINTENANCE = fake.status(403, {"error": {"code": "maintenance", "message": "cannot do it now"}})


@pytest.mark.proves("wild-8")
@pytest.mark.parametrize(
    "route", [CREATE, LIST, POLL, DELETE], ids=["create", "list", "poll", "delete"]
)
def test_hetzners_maintenance_is_waited_for(project: Project, route: dict[str, str]) -> None:
    server, _ = lonely(project, "hetzner", duration_seconds=60)
    ends: list[float] = []

    def lasts(_request: Request) -> bool:
        ends[:] = ends or [project.clock.elapsed + 600]
        return project.clock.elapsed < ends[0]

    project.cloud.fault(route["hetzner"], MAINTENANCE, times=None, when=lasts)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert project.clock.elapsed > 600
    assert len(project.cloud.created) == 1
    assert len(project.own(server)) == 1
    assert project.cloud.count(route["hetzner"]) < 130


# === One 401 is no verdict =====================================================================


@pytest.mark.proves("wild-8")
@each_provider
@pytest.mark.parametrize("at", range(1, 12))
def test_one_401_among_good_answers_ends_nothing(project: Project, provider: str, at: int) -> None:
    servers = [
        project.server(provider, 31 + n, f"web{n}", retain=1, duration_seconds=40) for n in range(6)
    ]
    for server in servers:
        project.history(server, 1)
    waiting = [at]

    def due(request: Request) -> bool:
        if request.route == TOKEN:
            return False
        waiting[0] -= 1
        return waiting[0] == 0

    project.cloud.fault("*", fake.status(401), when=due)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert [len(project.own(server)) for server in servers] == [1] * 6
    assert len(project.cloud.created) == 6


@pytest.mark.proves("wild-8")
@pytest.mark.parametrize("provider", ["digitalocean", "hetzner"])
def test_a_second_look_is_one_request_for_all(project: Project, provider: str) -> None:
    """The token is refused for a moment while six are under way."""
    for n in range(6):
        project.history(project.server(provider, 31 + n, f"web{n}", duration_seconds=40), 2)
    account = project.account(provider)
    began = project.clock.monotonic()
    account.revoked = True
    project.cloud.at(
        project.clock.now() + timedelta(seconds=1),
        lambda: setattr(account, "revoked", False),
    )
    result = project.run()
    assert (result.code, result.err) == (0, "")
    refused = [r for r in project.cloud.journal if r.status == 401]
    assert 1 <= len(refused) <= 6
    after = [r for r in project.cloud.journal if r.monotonic > began]
    assert after[0].monotonic - began == pytest.approx(snapshots.SECOND_LOOK_SECONDS)
    assert project.cloud.count(CREATE[provider]) - 6 in (len(refused), 0)


@pytest.mark.proves("wild-8")
@each_provider
@pytest.mark.parametrize("refused_at", ["login", "create", "from the start"])
def test_a_revoked_token_ends_three_servers_soon_and_with_few_requests(
    project: Project, provider: str, refused_at: str
) -> None:
    servers = [project.server(provider, 31 + n, f"web{n}") for n in range(3)]
    for server in servers:
        project.history(server, 2)
    if refused_at == "login" or provider != "contabo":
        project.account(provider).revoked = True
    elif refused_at == "create":
        project.cloud.fault(CREATE[provider], fake.status(401), times=None)
    else:
        project.cloud.fault("GET /cb", fake.status(401), times=None)
        project.cloud.fault("POST /cb/compute", fake.status(401), times=None)
    began = project.clock.elapsed
    result = project.run()
    assert result.code == 1
    assert result.err.count("401") == 3
    assert project.clock.elapsed - began < 60
    assert project.cloud.count() <= 11
    assert (project.cloud.created, project.cloud.deleted) == ([], [])


@pytest.mark.proves("wild-8")
def test_contabos_token_is_renewed_before_it_is_asked_once_more(project: Project) -> None:
    server, _ = lonely(project, "contabo", 1)
    project.cloud.fault(CREATE["contabo"], fake.status(401), times=2)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert project.cloud.count(TOKEN) == 2
    first, second, third = (r.monotonic for r in project.cloud.requests(CREATE["contabo"]))
    assert (second - first, third - second) == (0, snapshots.SECOND_LOOK_SECONDS)
    assert len(project.own(server)) == 1


@pytest.mark.proves("wild-8")
@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 1)])
def test_a_login_that_has_worked_is_tried_once_more_and_no_other(
    project: Project, times: int, code: int
) -> None:
    """A wrong password is sent once and never again: it would lock the account."""
    project.account("contabo", token_lifetime_seconds=20)
    server, _ = lonely(project, "contabo", 1)
    project.cloud.fault(
        TOKEN, fake.status(401), times=times, when=lambda r: project.cloud.count(TOKEN) > 1
    )
    assert project.run().code == code
    assert len(project.own(server)) == (1 if code == 0 else 2)
    project.cloud.fault(TOKEN, fake.status(401), times=None)
    logins = project.cloud.count(TOKEN)
    assert project.run().code == 1
    assert project.cloud.count(TOKEN) == logins + 1


@pytest.mark.proves("wild-8")
def test_a_token_for_reading_is_refused_for_writing_alone(project: Project) -> None:
    project.account("hetzner", read_only=True)
    servers = [project.server("hetzner", 31 + n, f"web{n}") for n in range(3)]
    for server in servers:
        project.history(server, 2)
    result = project.run()
    assert result.code == 1
    assert result.err.count("token_readonly") == 3
    assert [fields[8] for fields in result.final] == ["2 snapshots exist"] * 3
    assert project.cloud.count(CREATE["hetzner"]) == 3
    assert project.clock.elapsed < 1


def test_a_login_address_that_leads_nowhere_is_named(project: Project) -> None:
    """Keycloak's own words for a wrong realm are about [API], not about a server's id."""
    lonely(project, "contabo", 1)
    body = {"error": "Realm does not exist"}
    project.cloud.fault(TOKEN, fake.status(404, body), times=None)
    result = project.run()
    assert result.code == 1
    assert "HTTP 404" in result.err
    assert "(check [API] contabo_auth_url)" in result.err
    assert "is the id right" not in result.err


def test_a_stop_ends_a_second_look(project: Project) -> None:
    project.server("hetzner", 31, "web")
    project.account("hetzner").revoked = True
    project.cloud.stop_at(1, project.interrupt)
    result = project.run()
    assert result.code == 1
    assert "interrupted by SIGTERM" in result.err
    assert project.cloud.count() == 1
