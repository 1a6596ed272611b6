"""The vendors' API documents against what the script asks and what the fake cloud answers.

Besides what stands here, the fixture as_the_vendors_have_it (conftest.py) holds every request of
every test against them.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import Project
from fakes import Account, FakeCloud, hang_up, status
from fakes.base import Request
from fakes.clock import FakeClock
from tools import specs

import snapshots

pytestmark = specs.needed

CREATE = {
    "digitalocean": "POST /do/droplets/{id}/actions",
    "hetzner": "POST /hz/servers/{id}/actions/create_image",
    "contabo": "POST /cb/compute/instances/{id}/snapshots",
}
DELETE = {
    "digitalocean": "DELETE /do/snapshots/{id}",
    "hetzner": "DELETE /hz/images/{id}",
    "contabo": "DELETE /cb/compute/instances/{id}/snapshots/{sid}",
}
PROVIDERS = list(CREATE)


# === Whatever the script can ask ==================================================================


def add(project: Project, provider: str, count: int, **more: Any) -> list[Any]:
    """So many servers with three nights behind them; room for two more snapshots at Contabo."""
    servers = []
    for number in range(11, 11 + count):
        options = {"retain": 2, "duration_seconds": 60 + number, "slots": 5, **more}
        servers.append(project.server(provider, number, f"{provider[:2]}-{number}", **options))
        project.history(servers[-1], 3)
    return servers


def one_server(project: Project, provider: str) -> None:
    add(project, provider, 1)
    assert project.run().code == 0


def many_servers(project: Project, provider: str) -> None:
    project.cloud.page_size = None
    add(project, provider, 12)
    assert project.run().code == 0


def more_than_at_once(project: Project, provider: str) -> None:
    """While turns wait, deletions are confirmed one by one where a listing has many pages."""
    project.config["TIMING"]["max_parallel"] = 2
    project.cloud.page_size = None
    first, *_ = add(project, provider, 3, retain=3, duration_seconds=60)
    for number in range({"digitalocean": 420, "hetzner": 120, "contabo": 0}[provider]):
        project.cloud.add_snapshot(first, f"by hand {number}", project.clock.now())
    assert project.run().code == 0


def names_of_every_kind(project: Project, provider: str) -> None:
    names = [
        "a",
        "w" * 80,
        "web.example.org",
        "käse-ß",
        "db 1",
        "-x-",
        "_",
        "a/b?c=d&e#f%20",
        "日本",
    ]
    for number, name in enumerate(names, start=11):
        project.server(provider, number, name, retain=1, slots=5, duration_seconds=30)
    project.run()
    project.clock.advance(86400)
    project.run()


def only_looking(project: Project, provider: str) -> None:
    """Every option that asks the cloud and changes nothing."""
    add(project, provider, 3)
    known = snapshots.parser().format_help()
    for option in ("--dry-run", "--check", "--list", "--status"):
        if option in known:
            project.run(option)
    assert not [r for r in project.cloud.journal if r.method not in ("GET", "POST")]
    assert not project.cloud.created


def a_create_without_an_answer(project: Project, provider: str) -> None:
    add(project, provider, 2)
    project.cloud.fault(CREATE[provider], hang_up(act=True), hang_up(), status(504))
    project.run()


def a_delete_without_an_answer(project: Project, provider: str) -> None:
    project.config["TIMING"]["max_parallel"] = 1
    add(project, provider, 3)
    project.cloud.fault(DELETE[provider], hang_up(act=True), status(504), hang_up(), status(404))
    project.run()


def a_server_that_is_busy(project: Project, provider: str) -> None:
    (server,) = add(project, provider, 1)
    project.cloud.add_running_snapshot(server, "by hand", 600)
    assert project.run().code == 0


def snapshots_that_fail(project: Project, provider: str) -> None:
    add(project, provider, 2, fails=True)
    assert project.run().code == 1


def every_refusal(project: Project, provider: str) -> None:
    add(project, provider, 2)
    codes = (400, 401, 403, 404, 409, 422, 423, 429, 500, 502, 503, 504)
    for code in codes:
        for route in ("GET /hz", "GET /do", "GET /cb", CREATE[provider], DELETE[provider]):
            project.cloud.fault(route, status(code))
        project.run()
        project.cloud.clear_faults()
        project.clock.advance(86400)


def a_full_plan(project: Project, provider: str) -> None:
    add(
        project,
        provider,
        1,
        slots=3,
        file={"replace_when_full": True} if provider == "contabo" else {},
    )
    assert project.run().code == 0


SCENARIOS: list[Callable[[Project, str], None]] = [
    one_server,
    many_servers,
    more_than_at_once,
    names_of_every_kind,
    only_looking,
    a_create_without_an_answer,
    a_delete_without_an_answer,
    a_server_that_is_busy,
    snapshots_that_fail,
    every_refusal,
    a_full_plan,
]


def a_project(
    folder: Path, cloud: FakeCloud, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> Project:
    folder.mkdir()
    made = Project(folder, cloud, clock, capsys)
    made.config = {
        "API": cloud.endpoints(),
        "TIMING": {"delay_between_servers": 0},
        "TELEGRAM": {"enabled": "false"},
    }
    return made


def every_request(
    folder: Path, capsys: pytest.CaptureFixture[str], provider: str
) -> Iterator[Request]:
    """The journals of all scenarios."""
    for scenario in SCENARIOS:
        clock = FakeClock()
        with FakeCloud(clock) as cloud:
            scenario(a_project(folder / scenario.__name__, cloud, clock, capsys), provider)
            yield from cloud.journal


# What the script asks in all of these. A change here is a change of what it asks of a vendor: it
# belongs to a scenario, and may need another scope of a token.
ASKED: dict[str, dict[str, set[str]]] = {
    "digitalocean": {
        "GET /do/droplets": {"page", "per_page"},
        "GET /do/droplets/{id}": set(),
        "GET /do/droplets/{id}/snapshots": {"page", "per_page"},
        "GET /do/droplets/{id}/actions": {"page", "per_page"},
        "GET /do/droplets/{id}/actions/{aid}": set(),
        "POST /do/droplets/{id}/actions": set(),
        "GET /do/actions": {"page", "per_page"},
        "GET /do/snapshots": {"page", "per_page", "resource_type"},
        "GET /do/snapshots/{id}": set(),
        "DELETE /do/snapshots/{id}": set(),
    },
    "hetzner": {
        "GET /hz/pricing": set(),
        "GET /hz/servers": {"page", "per_page"},
        "GET /hz/servers/{id}": set(),
        "GET /hz/servers/{id}/actions": {"page", "per_page", "status"},
        "POST /hz/servers/{id}/actions/create_image": set(),
        "GET /hz/actions": {"id"},
        "GET /hz/images": {"page", "per_page", "sort", "type"},
        "GET /hz/images/{id}": set(),
        "DELETE /hz/images/{id}": set(),
    },
    "contabo": {
        "POST /cb-auth/token": set(),
        "GET /cb/compute/instances": {"page", "size"},
        "GET /cb/compute/instances/{id}": set(),
        "GET /cb/compute/instances/{id}/snapshots": {"page", "size"},
        "POST /cb/compute/instances/{id}/snapshots": set(),
        "GET /cb/compute/instances/{id}/snapshots/{sid}": set(),
        "DELETE /cb/compute/instances/{id}/snapshots/{sid}": set(),
        "GET /cb/compute/snapshots/audits": {"page", "requestId", "size"},
    },
}


@pytest.mark.proves("parties-2")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_asked_and_answered_is_what_the_vendor_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], provider: str
) -> None:
    asked: dict[str, set[str]] = {}
    faults: list[str] = []
    journal = list(every_request(tmp_path, capsys, provider))
    for request in journal:
        asked.setdefault(request.route, set()).update(request.query)
    for request in specs.of_different_shape(journal, specs.shape_of_request):
        faults += specs.faults_of_request(request)
    for request in specs.of_different_shape(journal, specs.shape_of_answer):
        faults += specs.faults_of_answer(request)
    assert faults == []
    assert asked == ASKED[provider]


@pytest.mark.proves("parties-2")
def test_the_least_token_of_the_readme_may_do_all_of_it() -> None:
    """As far as DigitalOcean's document says which scopes a request needs."""
    readme = (Path(snapshots.__file__).parent / "README.md").read_text(encoding="utf-8")
    sentence = re.search(r"The least it needs: (.*?)\.\s", readme)
    assert sentence
    least = set(re.findall(r"`([a-z_]+:[a-z]+)`", sentence[1]))
    document = specs.document("digitalocean")
    needed = {
        route: set(specs.operation_of_route(document, "/do", route)["security"][0]["bearer_auth"])
        for route in ASKED["digitalocean"]
    }
    needed[CREATE["digitalocean"]].add("image:create")  # said in its text alone
    assert set().union(*needed.values()) - least == {"actions:read"}
    assert least <= set().union(*needed.values())


# === The fake =====================================================================================


def bearer(cloud: FakeCloud, owner: Account) -> str:
    if owner.provider != "contabo":
        return owner.token
    answer = requests.post(
        cloud.endpoints()["contabo_auth_url"],
        data={
            "grant_type": "password",
            "client_id": owner.client_id,
            "client_secret": owner.client_secret,
            "username": owner.api_user,
            "password": owner.api_password,
        },
        timeout=10,
    )
    return str(answer.json()["access_token"])


BODIES = {
    CREATE["digitalocean"]: {"type": "snapshot", "name": "another"},
    CREATE["hetzner"]: {"type": "snapshot", "description": "another", "labels": {"a": "b"}},
    CREATE["contabo"]: {"name": "another", "description": "another"},
    "PUT /hz/images/{id}": {"description": "other", "labels": {"a": "b"}, "type": "snapshot"},
    "POST /hz/images/{id}/actions/change_protection": {"delete": False},
    "PATCH /cb/compute/instances/{id}/snapshots/{sid}": {"name": "other"},
}
QUERIES = {"GET /hz/actions": "?id={action}", "GET /do/snapshots": "?resource_type=droplet"}


@pytest.mark.proves("parties-2")
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("state", ["well", "unknown", "unauthorized", "read_only", "busy"])
def test_every_route_of_the_fake_answers_as_the_vendor_does(
    project: Project, provider: str, state: str
) -> None:
    cloud = project.cloud
    server = project.server(provider, 11, "web", slots=9, duration_seconds=60)
    project.history(server, 3)
    if provider == "digitalocean":
        cloud.add_volume_snapshot(server.account)
    if provider == "hetzner":
        cloud.add_image(server.account)
    cloud.add_snapshot(server, "backup", kind="backup" if provider != "contabo" else "snapshot")
    action = cloud.add_action(
        server, "reboot", status="running" if state == "busy" else "completed"
    )
    token = bearer(cloud, server.account)
    server.account.revoked = state == "unauthorized"
    server.account.read_only = state == "read_only"
    (api,) = [a for a in cloud.apis if a.provider == provider and "auth" not in a.prefix]
    for route in api.routes:
        if route.key == "GET /hz/servers/{id}/actions/{aid}":  # taken away, and 410
            continue
        snapshot = cloud.snapshots(server)[0]
        known = {"server": "11", "snapshot": snapshot.id, "action": str(action.id)}
        if state == "unknown":
            known = dict.fromkeys(known, "4711")
        path = re.sub(r"(servers|droplets|instances)/\{id\}", r"\1/{server}", route.key)
        path = re.sub(r"(snapshots|images)/\{s?id\}", r"\1/{snapshot}", path)
        path = re.sub(r"actions/\{a?id\}", "actions/{action}", path) + QUERIES.get(route.key, "")
        path = path.format(**known).partition(" ")[2].split("/", 2)[2]
        headers = {"Authorization": f"Bearer {token}"}
        if provider == "contabo":
            headers["x-request-id"] = str(uuid.uuid4())
        answer = requests.request(
            route.method,
            f"{cloud.url}{api.prefix}/{path}",
            json=BODIES.get(route.key),
            headers=headers,
            timeout=10,
        )
        asked = cloud.journal[-1]
        assert asked.route == route.key
        assert list(specs.faults_of_request(asked)) == []
        assert list(specs.faults_of_answer(asked)) == []
        if state == "well":
            assert answer.ok, (route.key, answer.text)
            project.clock.advance(120)
            token = bearer(cloud, server.account)
        if state == "unauthorized":
            assert answer.status_code == 401


@pytest.mark.proves("parties-2")
@pytest.mark.parametrize(
    ("origin", "name"), [("/do", "digitalocean"), ("/hz", "hetzner"), ("/cb", "contabo")]
)
def test_the_fake_has_the_vendors_parameters_and_scopes(origin: str, name: str) -> None:
    document = specs.document(name)
    for api in FakeCloud().apis:
        for route in api.routes:
            if not route.key.partition(" ")[2].startswith(f"{origin}/"):
                continue
            if route.key == "GET /hz/servers/{id}/actions/{aid}":
                continue
            operation = specs.operation_of_route(document, origin, route.key)
            assert operation, route.key
            known = specs.parameters_of(document, operation)
            assert route.query <= set(known), route.key
            lists = {n for n in route.query if known[n]["schema"].get("type") == "array"}
            assert route.many == lists, route.key
            if name == "digitalocean":
                scopes = set(operation["security"][0]["bearer_auth"])
                if route.key == CREATE["digitalocean"]:
                    scopes.add("image:create")  # said in its text alone
                assert route.scopes == scopes, route.key


# === The check itself =============================================================================

SPOILT: dict[str, Callable[[Request], Any]] = {
    "a key nobody knows": lambda r: change(r, b'{"type": "snapshot", "name": "a", "tag": "x"}'),
    "a key that is missing": lambda r: change(r, b'{"name": "a"}'),
    "a value of another kind": lambda r: change(r, b'{"type": "snapshot", "name": 7}'),
    "no body": lambda r: change(r, b""),
    "a parameter nobody knows": lambda r: setattr(r, "query", {"force": ["1"]}),
    "an id of letters": lambda r: setattr(r, "target", r.target.replace("/11/", "/web/")),
    "another path": lambda r: setattr(r, "target", r.target.replace("actions", "acts")),
    "no token": lambda r: r.headers.pop("authorization"),
}


def change(request: Request, body: bytes) -> None:
    request.body = body


@pytest.mark.proves("parties-2")
@pytest.mark.parametrize("how", SPOILT)
def test_a_request_that_is_wrong_is_found(project: Project, how: str) -> None:
    add(project, "digitalocean", 1)
    project.run()
    (create,) = project.cloud.requests(CREATE["digitalocean"])
    before = create.body, create.target, dict(create.query), dict(create.headers)
    SPOILT[how](create)
    assert list(specs.faults_of_request(create))
    create.body, create.target, create.query, create.headers = before
    assert not list(specs.faults_of_request(create))


@pytest.mark.proves("parties-2")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_that_is_wrong_is_found(project: Project, provider: str) -> None:
    add(project, provider, 1)
    project.run()
    (create,) = project.cloud.requests(CREATE[provider])
    assert create.answer is not None
    (inner,) = ({"contabo": "data", "hetzner": "image", "digitalocean": "action"}[provider],)
    content = create.answer.json[inner]
    shown = content[0] if provider == "contabo" else content
    for key in shown:
        kept = shown[key]
        shown[key] = {"not": ["what", "it", "was"]}
        if key not in ("labels", "region"):
            assert list(specs.faults_of_answer(create)), key
        shown[key] = kept
    assert not list(specs.faults_of_answer(create))


# === Prism ========================================================================================

LOCAL_PRISM = Path(snapshots.__file__).parent / ".venv" / "prism" / "node_modules" / ".bin"
PRISM = shutil.which("prism") or shutil.which("prism", path=str(LOCAL_PRISM))
needs_prism = pytest.mark.skipif(PRISM is None, reason="Prism is not installed (see .ci/run)")


@contextmanager
def prism(name: str) -> Iterator[str]:
    """A mock of the vendor; its address."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert PRISM
    document = specs.FOLDER / "strict" / f"{name}.json"
    process = subprocess.Popen(
        [PRISM, "mock", "--errors", "-h", "127.0.0.1", "-p", str(port), str(document)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    try:
        for line in process.stdout:
            if "Prism is listening" in line:
                break
        else:
            pytest.fail("Prism does not start")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@pytest.mark.proves("parties-2")
@needs_prism
@pytest.mark.parametrize("provider", PROVIDERS)
def test_prism_refuses_nothing_that_the_script_asks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], provider: str
) -> None:
    """Hetzner's document has its /v1 in the server's address, which a mock has not."""
    journal = every_request(tmp_path, capsys, provider)
    asked = list(specs.of_different_shape(journal, specs.shape_of_request))
    refused = []
    with prism(provider) as url, requests.Session() as session:
        for request in asked:
            sent = specs.as_sent(request)
            assert sent.url
            sent.url = url + re.sub(
                r"^https://[^/]+(/v1(?=/(images|servers|actions|pricing)))?", "", sent.url
            )
            answer = session.send(sent, timeout=30)
            if "request" in answer.headers.get("sl-violations", "") or answer.status_code >= 400:
                refused.append(f"{request.method} {request.target}: {answer.text}")
        # and it does refuse
        wrong = session.get(url + "/v1/account", timeout=30)
        assert wrong.status_code in (401, 404)
    assert refused == []
    assert len(asked) > 10
