"""The vendors' own clients against the fake cloud: what they cannot do, the fake does wrong.

hcloud and pydo are used as their users use them, with their own paging, polling and errors. For
Contabo, whose client is no library, stands a client that aiopenapi3 makes from the OpenAPI
document that cntb is generated from; it checks every answer against that document.
"""

from __future__ import annotations

import types
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, Protocol, Union
from urllib.parse import parse_qs, urlsplit

import hcloud
import pydo
import pytest
import requests
from azure.core.pipeline.policies import HeadersPolicy
from azure.core.pipeline.transport import RequestsTransport
from conftest import Project
from fakes import Account, FakeCloud, Server, status
from fakes.clock import FakeClock
from hcloud.actions import ActionFailedException, ActionTimeoutException
from tools import specs

import snapshots

PROVIDERS = [
    "digitalocean",
    "hetzner",
    pytest.param("contabo", marks=specs.needed),
]
every_client = pytest.mark.parametrize("provider", PROVIDERS)
HAND_MADE = "before the upgrade"


class Client(Protocol):
    """What somebody does by hand, or by a script of his own, with his vendor's client."""

    def names(self, server: Server) -> list[str]:
        """The names of a server's snapshots, the oldest first."""

    def begin(self, server: Server, name: str) -> Callable[[], str]:
        """Ask for a snapshot. The result waits for it, and gives its id."""

    def delete(self, server: Server, id: str) -> None: ...

    def exists(self, server: Server, id: str) -> bool: ...


class Hcloud:
    """As the examples of hcloud-python do it."""

    def __init__(self, cloud: FakeCloud, owner: Account) -> None:
        url = cloud.endpoints()["hetzner_url"]
        self.client = hcloud.Client(owner.token, api_endpoint=url, poll_interval=5)

    def names(self, server: Server) -> list[str]:
        images = self.client.images.get_all(type=["snapshot"], sort=["created:asc"])
        return [
            str(image.description)
            for image in images
            if image.created_from is not None and image.created_from.id == int(server.id)
        ]

    def begin(self, server: Server, name: str) -> Callable[[], str]:
        found = self.client.servers.get_by_name(server.name)
        assert found is not None
        response = found.create_image(description=name, type="snapshot", labels={"by": "hand"})

        def wait() -> str:
            response.action.wait_until_finished()
            response.image.reload()
            assert response.image.status == "available"
            return str(response.image.id)

        return wait

    def delete(self, server: Server, id: str) -> None:
        assert self.client.images.get_by_id(int(id)).delete()

    def exists(self, server: Server, id: str) -> bool:
        try:
            return self.client.images.get_by_id(int(id)).status == "available"
        except hcloud.APIException as error:
            assert error.code == "not_found"
            return False


class FakeTimeTransport(RequestsTransport):  # type: ignore[misc]
    """Pauses between tries take no time."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock

    def sleep(self, duration: float) -> None:
        self.clock.advance(duration)


class Pydo:
    """As the README of pydo does it."""

    def __init__(self, cloud: FakeCloud, owner: Account, clock: FakeClock) -> None:
        self.clock = clock
        self.client = pydo.Client(
            token=owner.token,
            endpoint=cloud.endpoints()["digitalocean_url"].removesuffix("/v2"),
            transport=FakeTimeTransport(clock),
            # Its own policy sends a token over TLS only.
            authentication_policy=HeadersPolicy({"Authorization": f"Bearer {owner.token}"}),
        )

    def every_page(self, fetch: Callable[..., Any], key: str, **arguments: Any) -> list[Any]:
        found: list[Any] = []
        page = 1
        while page:
            answer = fetch(per_page=50, page=page, **arguments)
            found += answer[key]
            following = answer["links"].get("pages", {}).get("next")
            page = int(parse_qs(urlsplit(following).query)["page"][0]) if following else 0
        assert len(found) == answer["meta"]["total"]
        return found

    def names(self, server: Server) -> list[str]:
        own = self.every_page(
            self.client.droplets.list_snapshots, "snapshots", droplet_id=int(server.id)
        )
        everybodys = self.every_page(
            self.client.snapshots.list, "snapshots", resource_type="droplet"
        )
        names = [s["name"] for s in sorted(own, key=lambda s: (s["created_at"], s["id"]))]
        assert sorted(names) == sorted(
            s["name"] for s in everybodys if s["resource_id"] == server.id
        )
        return names

    def begin(self, server: Server, name: str) -> Callable[[], str]:
        (droplet,) = self.client.droplets.list(name=server.name.upper())["droplets"]
        body = {"type": "snapshot", "name": name}
        action = self.client.droplet_actions.post(droplet_id=droplet["id"], body=body)["action"]

        def wait() -> str:
            while True:
                found = self.client.droplet_actions.get(
                    droplet_id=droplet["id"], action_id=action["id"]
                )["action"]
                assert found == self.client.actions.get(action_id=action["id"])["action"]
                if found["status"] != "in-progress":
                    break
                self.clock.advance(5)
            assert found["status"] == "completed"
            own = self.every_page(
                self.client.droplets.list_snapshots, "snapshots", droplet_id=droplet["id"]
            )
            (new,) = [s["id"] for s in own if s["name"] == name]
            again = self.client.droplets.get(droplet_id=droplet["id"])["droplet"]
            assert new in again["snapshot_ids"]
            return str(new)

        return wait

    def delete(self, server: Server, id: str) -> None:
        assert self.client.snapshots.delete(snapshot_id=id) is None

    def exists(self, server: Server, id: str) -> bool:
        # pydo hands the body of a documented error to its caller.
        answer = self.client.snapshots.get(snapshot_id=id)
        assert "snapshot" in answer or answer["id"] == "not_found"
        return "snapshot" in answer


class FromTheDocument:
    """Contabo's operations as its OpenAPI document has them."""

    def __init__(self, cloud: FakeCloud, owner: Account, clock: FakeClock) -> None:
        import aiopenapi3
        import httpx2

        self.clock, self.owner = clock, owner
        self.login_url = cloud.endpoints()["contabo_auth_url"]
        document = {**specs.document("contabo"), "servers": [{"url": f"{cloud.url}/cb"}]}
        # A date there has a longest length too; what has been read as a date has none.
        specs.drop(document, "format", lambda schema: schema["format"] == "date")
        self.api = aiopenapi3.OpenAPI(cloud.url, document, session_factory=httpx2.Client)
        self.logged_in_until = 0.0

    def log_in(self) -> None:
        answer = requests.post(
            self.login_url,
            data={
                "grant_type": "password",
                "client_id": self.owner.client_id,
                "client_secret": self.owner.client_secret,
                "username": self.owner.api_user,
                "password": self.owner.api_password,
            },
            timeout=10,
        ).json()
        self.api.authenticate(bearer=answer["access_token"])
        self.logged_in_until = self.clock.monotonic() + answer["expires_in"] - 10

    def call(
        self, operation: str, data: Any = None, tag: str = "Snapshots", **parameters: Any
    ) -> Any:
        if self.clock.monotonic() >= self.logged_in_until:
            self.log_in()
        parameters["x-request-id"] = str(uuid.uuid4())
        return getattr(getattr(self.api._, tag), operation)(parameters=parameters, data=data)

    def every_page(self, operation: str, **arguments: Any) -> list[Any]:
        found: list[Any] = []
        page = 1
        while page:
            answer = self.call(operation, page=page, size=50, **arguments)
            found += answer.data
            page = page + 1 if page < answer.pagination_.totalPages else 0
        assert len(found) == answer.pagination_.totalElements
        return found

    def snapshots(self, server: Server) -> list[Any]:
        found = self.every_page("retrieveSnapshotList", instanceId=int(server.id))
        return sorted(found, key=lambda s: (s.createdDate, s.snapshotId))

    def names(self, server: Server) -> list[str]:
        return [s.name for s in self.snapshots(server)]

    def begin(self, server: Server, name: str) -> Callable[[], str]:
        (new,) = self.call(
            "createSnapshot",
            instanceId=int(server.id),
            data={"name": name, "description": "by hand"},
        ).data

        def wait() -> str:
            while new.snapshotId not in [s.snapshotId for s in self.snapshots(server)]:
                self.clock.advance(5)
            return str(new.snapshotId)

        return wait

    def delete(self, server: Server, id: str) -> None:
        self.call("deleteSnapshot", instanceId=int(server.id), snapshotId=id)

    def exists(self, server: Server, id: str) -> bool:
        import aiopenapi3.errors

        try:
            (found,) = self.call("retrieveSnapshot", instanceId=int(server.id), snapshotId=id).data
        except aiopenapi3.errors.HTTPStatusError as error:
            assert error.http_status == 404
            return False
        return bool(found.snapshotId == id)


MakeClient = Callable[[Account], Any]


@pytest.fixture
def client_of(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeClient]:
    """The vendor's client for an account; its pauses pass on the fake clock."""
    clock, cloud = project.clock, project.cloud
    for module in (hcloud._client, hcloud.actions.client):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(sleep=clock.advance))
    made: list[Any] = []

    def make(owner: Account) -> Any:
        client: Union[Hcloud, Pydo, FromTheDocument]
        if owner.provider == "hetzner":
            client = Hcloud(cloud, owner)
        elif owner.provider == "digitalocean":
            client = Pydo(cloud, owner, clock)
        else:
            client = FromTheDocument(cloud, owner, clock)
        made.append(client)
        return client

    yield make
    for client in made:
        if isinstance(client, Hcloud):
            client.client._client._session.close()
        elif isinstance(client, Pydo):
            client.client.close()


# === Each sees what the other has made =============================================================


@pytest.mark.proves("parties-1")
@every_client
def test_a_client_finds_what_the_script_made_and_sees_what_it_pruned(
    project: Project, client_of: MakeClient, provider: str
) -> None:
    server = project.server(provider, 11, "web", retain=3, duration_seconds=90, slots=9)
    other = project.server(provider, 12, "web2", retain=3, duration_seconds=30, slots=9)
    old = project.history(server, 3)
    client: Client = client_of(server.account)
    assert client.names(server) == old
    oldest = project.cloud.snapshots(server)[0].id
    assert client.exists(server, oldest)
    assert project.run().code == 0
    stamp = snapshots.snapshot_name("", project.clock.begin)
    assert client.names(server) == [*old[1:], f"web{stamp}"]
    assert client.names(other) == [f"web2{stamp}"]
    assert not client.exists(server, oldest)


@pytest.mark.proves("parties-1")
@every_client
def test_the_script_leaves_what_a_client_made_and_takes_over_what_bears_its_name(
    project: Project, client_of: MakeClient, provider: str
) -> None:
    server = project.server(provider, 11, "web", retain=2, duration_seconds=90, slots=9)
    client: Client = client_of(server.account)
    assert client.exists(server, client.begin(server, HAND_MADE)())
    project.clock.advance(60)
    adopted = client.begin(server, snapshots.snapshot_name("web", project.clock.now()))()
    made = []
    for _ in range(3):
        project.clock.advance(86400)
        result = project.run()
        assert (result.code, result.err) == (0, "")
        made.append(result.final[0][7])
    assert client.names(server) == [HAND_MADE, *made[1:]]
    assert not client.exists(server, adopted)


@pytest.mark.proves("parties-1")
@every_client
def test_what_a_client_deleted_is_gone_for_the_script(
    project: Project, client_of: MakeClient, provider: str
) -> None:
    server = project.server(provider, 11, "web", retain=5, duration_seconds=90, slots=9)
    old = project.history(server, 3)
    client: Client = client_of(server.account)
    client.delete(server, project.cloud.snapshots(server)[1].id)
    result = project.run()
    assert result.final[0][8] == "3 snapshots exist"
    assert client.names(server) == [old[0], old[2], result.final[0][7]]


@pytest.mark.proves("parties-1")
@every_client
def test_a_snapshot_that_a_client_has_under_way_is_waited_for(
    project: Project, client_of: MakeClient, provider: str
) -> None:
    server = project.server(provider, 11, "web", retain=2, duration_seconds=600, slots=9)
    client: Client = client_of(server.account)
    wait = client.begin(server, HAND_MADE)
    result = project.run()
    assert (result.code, result.err) == (0, "")
    assert client.exists(server, wait())
    assert client.names(server) == [HAND_MADE, result.final[0][7]]


@pytest.mark.proves("parties-1")
@every_client
@pytest.mark.parametrize("page_size", [7, None])
def test_every_page_is_read(
    project: Project, client_of: MakeClient, provider: str, page_size: int | None
) -> None:
    server = project.server(provider, 11, "web", retain=500, slots=999)
    old = [f"snapshot {number}" for number in range(130)]
    for minutes, name in enumerate(old):
        at = project.clock.now() + timedelta(minutes=minutes - 1000)
        project.cloud.add_snapshot(server, name, at)
    project.cloud.page_size = page_size
    client: Client = client_of(server.account)
    assert client.names(server) == old


# === Hetzner's own ================================================================================


@pytest.mark.proves("parties-1")
def test_hcloud_changes_and_protects_an_image_and_the_script_heeds_it(
    project: Project, client_of: MakeClient
) -> None:
    server = project.server("hetzner", 11, "web", retain=1, duration_seconds=90)
    old = project.history(server, 3)
    client = client_of(server.account).client
    by_name = {image.description: image for image in client.images.get_all(type=["snapshot"])}
    protect = by_name[old[0]].change_protection(delete=True)
    protect.wait_until_finished()
    assert [a.command for a in by_name[old[0]].get_actions()] == ["change_protection"]
    with pytest.raises(hcloud.APIException, match="protected") as refused:
        by_name[old[0]].delete()
    assert refused.value.code == "protected"
    renamed = by_name[old[1]].update(description="kept", labels={"keep": "yes"})
    assert (renamed.description, renamed.labels) == ("kept", {"keep": "yes"})
    kept = client.images.get_all(type=["snapshot"], label_selector="keep==yes")
    assert [image.id for image in kept] == [renamed.id]
    assert project.run().code == 0
    new = snapshots.snapshot_name("web", project.clock.begin)
    left = {image.description for image in client.images.get_all(type=["snapshot"])}
    assert left == {old[0], "kept", new}
    ours = client.images.get_all(type=["snapshot"], label_selector="!keep", sort=["created:desc"])
    assert [image.description for image in ours] == [new, old[0]]
    assert ours[0].protection == {"delete": False}
    assert ours[0].created == project.clock.begin
    assert ours[0].image_size == 2.3


@pytest.mark.proves("parties-1")
def test_hcloud_turns_a_backup_into_a_snapshot(project: Project, client_of: MakeClient) -> None:
    server = project.server("hetzner", 11, "web")
    project.cloud.add_snapshot(server, "Backup", project.clock.now(), kind="backup")
    client = client_of(server.account).client
    (backup,) = client.images.get_all(type=["backup"], bound_to=["11"])
    assert backup.bound_to.id == 11
    assert client.images.get_all(type=["backup"], bound_to=["12"]) == []
    assert backup.update(type="snapshot").type == "snapshot"
    assert [i.id for i in client.images.get_all(type=["snapshot"])] == [backup.id]


@pytest.mark.proves("parties-1")
def test_hcloud_meets_the_errors_it_knows(project: Project, client_of: MakeClient) -> None:
    owner = project.account("hetzner", limit=1)
    server = project.server("hetzner", 11, "web", duration_seconds=60)
    failing = project.server("hetzner", 12, "db", fails=True)
    endless = project.server("hetzner", 13, "app", never_finishes=True)
    client = client_of(owner).client

    def code_of(act: Callable[[], Any]) -> Any:
        with pytest.raises(hcloud.APIException) as caught:
            act()
        assert caught.value.correlation_id
        return caught.value.code

    assert client.servers.get_by_name("nobody") is None
    assert sorted(s.name for s in client.servers.get_all()) == ["app", "db", "web"]
    assert code_of(lambda: client.servers.get_by_id(99)) == "not_found"
    assert code_of(lambda: client.images.get_by_id(99)) == "not_found"
    assert code_of(lambda: client.actions.get_by_id(99)) == "not_found"
    web = client.servers.get_by_id(11)
    first = web.create_image(description="one")
    assert first.image.status == "creating"
    assert first.image.image_size is None
    assert code_of(lambda: web.create_image(description="two")) == "locked"
    assert code_of(first.image.delete) == "locked"
    first.action.wait_until_finished()
    assert first.action.progress == 100
    assert code_of(lambda: web.create_image(description="two")) == "resource_limit_exceeded"
    assert [a.command for a in web.get_actions(status=["success"])] == ["create_image"]
    owner.limit = None
    broken = client.servers.get_by_name("db").create_image(description="three")
    with pytest.raises(ActionFailedException, match="action_failed"):
        broken.action.wait_until_finished()
    hanging = client.servers.get_by_name("app").create_image(description="four")
    with pytest.raises(ActionTimeoutException):
        hanging.action.wait_until_finished()
    stranger = client_of(project.account("hetzner", "2")).client
    project.account("hetzner", "2").revoked = True
    assert code_of(stranger.images.get_all) == "unauthorized"
    owner.read_only = True
    assert code_of(lambda: web.create_image(description="five")) == "token_readonly"
    assert {server.id, failing.id, endless.id} == {"11", "12", "13"}


@pytest.mark.proves("parties-1")
def test_hcloud_tries_again_after_the_errors_that_pass(
    project: Project, client_of: MakeClient
) -> None:
    server = project.server("hetzner", 11, "web")
    project.history(server, 2)
    client = client_of(server.account).client
    began = project.clock.monotonic()
    project.cloud.fault("GET /hz/images", status(429), status(502), status(504), status(409))
    assert len(client.images.get_all()) == 2
    assert project.clock.monotonic() - began >= 4
    # the budget of an hour is used up, and comes back one a second
    project.cloud.enforce_rate_limits = True
    for _ in range(3600):
        server.account.may_delete -= 1
    server.account.budget_at = project.clock.monotonic()
    server.account.may_delete = 0
    assert len(client.images.get_all()) == 2
    assert project.cloud.journal[-2].status in (200, 429)


# === DigitalOcean's own ===========================================================================


@pytest.mark.proves("parties-1")
def test_pydo_sees_the_sizes_times_and_owners(project: Project, client_of: MakeClient) -> None:
    server = project.server("digitalocean", 11, "web", duration_seconds=90)
    project.cloud.add_volume_snapshot(server.account, "volume")
    project.cloud.add_snapshot(server, "backup", project.clock.now(), kind="backup")
    client = client_of(server.account).client
    assert project.run().code == 0
    new = snapshots.snapshot_name("web", project.clock.begin)
    (listed,) = client.snapshots.list(resource_type="droplet")["snapshots"]
    assert (listed["name"], listed["resource_type"], listed["resource_id"]) == (
        new,
        "droplet",
        "11",
    )
    assert listed["size_gigabytes"] == 2.3
    assert datetime.fromisoformat(listed["created_at"].replace("Z", "+00:00")) == (
        project.clock.begin
    )
    assert client.snapshots.get(snapshot_id=listed["id"])["snapshot"]["name"] == new
    assert client.snapshots.get(snapshot_id=int(listed["id"]))["snapshot"]["name"] == new
    (volume,) = client.snapshots.list(resource_type="volume")["snapshots"]
    assert client.snapshots.get(snapshot_id=volume["id"])["snapshot"]["name"] == "volume"
    assert len(client.snapshots.list()["snapshots"]) == 2
    of_droplet = client.droplets.list_snapshots(droplet_id=11)["snapshots"]
    assert {s["name"] for s in of_droplet} == {new, "backup"}
    (action,) = client.droplets.list(name="WEB") and [
        a for a in client.actions.list(per_page=50)["actions"] if a["resource_id"] == 11
    ]
    assert (action["type"], action["status"]) == ("snapshot", "completed")
    assert client.droplet_actions.list(droplet_id=11)["actions"] == [action]


@pytest.mark.proves("parties-1")
def test_pydo_meets_the_errors_it_knows(project: Project, client_of: MakeClient) -> None:
    from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

    owner = project.account("digitalocean")
    project.server("digitalocean", 11, "web", duration_seconds=60)
    project.server("digitalocean", 12, "db", fails=True)
    client = client_of(owner).client
    body = {"type": "snapshot", "name": "one"}
    assert client.account.get()["account"]["status"] == "active"
    for answer in (
        client.droplets.get(droplet_id=99),
        client.droplet_actions.post(droplet_id=99, body=body),
        client.droplet_actions.get(droplet_id=11, action_id=99),
        client.actions.get(action_id=99),
        client.snapshots.delete(snapshot_id=99),
    ):
        assert answer["id"] == "not_found"
        assert answer["message"]
    client.droplet_actions.post(droplet_id=11, body=body)
    with pytest.raises(HttpResponseError, match="pending event") as busy:
        client.droplet_actions.post(droplet_id=11, body=body)
    assert busy.value.status_code == 422
    failed = client.droplet_actions.post(droplet_id=12, body=body)["action"]
    assert client.actions.get(action_id=failed["id"])["action"]["status"] == "errored"
    owner.read_only = True
    with pytest.raises(HttpResponseError) as refused:
        client.droplet_actions.post(droplet_id=12, body=body)
    assert refused.value.status_code == 403
    stranger = client_of(project.account("digitalocean", "2")).client
    project.account("digitalocean", "2").revoked = True
    with pytest.raises(ClientAuthenticationError):
        stranger.snapshots.list()


@pytest.mark.proves("parties-1")
def test_pydo_waits_as_long_as_a_429_says(project: Project, client_of: MakeClient) -> None:
    server = project.server("digitalocean", 11, "web")
    project.history(server, 2)
    client = client_of(server.account)
    project.cloud.enforce_rate_limits = True
    project.cloud.page_size = None
    began = project.clock.monotonic()
    for _ in range(130):  # 260 requests, of which a minute allows 250
        assert len(client.names(server)) == 2
    waited = project.clock.monotonic() - began
    refused = [r for r in project.cloud.journal if r.status == 429]
    assert len(refused) == 1
    assert timedelta(seconds=59) <= timedelta(seconds=waited) <= timedelta(seconds=61)


# === Contabo's own ================================================================================


@pytest.mark.proves("parties-1")
@specs.needed
def test_contabos_document_covers_what_its_client_does(
    project: Project, client_of: MakeClient
) -> None:
    import aiopenapi3.errors

    server = project.server("contabo", 11, "web", duration_seconds=60, slots=1)
    owner = client_of(server.account)
    (instance,) = owner.every_page("retrieveInstancesList", tag="Instances", displayName="web")
    assert instance.instanceId == 11
    wait = owner.begin(server, "by-hand")
    with pytest.raises(aiopenapi3.errors.HTTPStatusError) as busy:
        owner.begin(server, "another")
    assert busy.value.http_status == 409
    id = wait()
    with pytest.raises(aiopenapi3.errors.HTTPStatusError) as full:
        owner.begin(server, "another")
    assert full.value.http_status == 402
    owner.call(
        "updateSnapshot",
        instanceId=11,
        snapshotId=id,
        data={"name": "renamed", "description": "later"},
    )
    assert owner.names(server) == ["renamed"]
    owner.delete(server, id)
    audits = owner.every_page("retrieveSnapshotsAuditsList", tag="Snapshots Audits", snapshotId=id)
    assert sorted(a.action for a in audits) == ["CREATED", "DELETED", "UPDATED"]
