"""The vendors' API specifications, where a copy of them lies beside the project.

A request of a fake cloud's journal is held against the stricter form of its vendor's document, its
answer against the vendor's own, by openapi-core. OpenAPI itself allows unknown query parameters:
they are looked for besides.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
import requests
from fakes import Request

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "specs"

# Other Pythons than the one of .venv have no openapi-core: see pythons.py.
can_check = FOLDER.is_dir() and importlib.util.find_spec("openapi_core") is not None
needed = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the vendors' specifications are not beside the project"
)


@functools.cache
def text_of(name: str) -> str:
    return (FOLDER / f"{name}.json").read_text(encoding="utf-8")


def document(name: str) -> dict[str, Any]:
    """An OpenAPI document, for the caller alone. name: "hetzner", "strict/hetzner" and so on."""
    found: dict[str, Any] = json.loads(text_of(name))
    return found


def drop(node: Any, key: str, when: Callable[[dict[str, Any]], bool]) -> None:
    """Take a key out of every schema of which `when` is true."""
    if isinstance(node, dict):
        if key in node and when(node):
            del node[key]
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            drop(inner, key, when)


# === Requests and answers of a journal ===========================================================

# What a fake's path begins with: the vendor's document, and what stands there instead.
ORIGINS = {
    "/do": ("digitalocean", "https://api.digitalocean.com"),
    "/hz": ("hetzner", "https://api.hetzner.cloud"),
    "/cb": ("contabo", "https://api.contabo.com"),
    "/cb-auth": ("contabo", "https://auth.contabo.com/auth"),
}


def origin_of(request: Request) -> str:
    return "/" + request.path.split("/", 2)[1]


@functools.cache
def loaded(name: str) -> Any:
    from openapi_core import Config, OpenAPI

    return OpenAPI.from_dict(document(name), config=Config(spec_validator_cls=None))  # it is sound


def as_sent(request: Request) -> requests.PreparedRequest:
    """The request as it would go to the vendor."""
    origin = origin_of(request)
    prepared = requests.PreparedRequest()
    prepared.prepare_method(request.method)
    prepared.prepare_headers(request.headers)
    prepared.prepare_cookies({})
    prepared.url = ORIGINS[origin][1] + request.target[len(origin) :]
    prepared.body = request.body or None
    return prepared


def faults_of_request(request: Request, folder: str = "strict/") -> Iterator[str]:
    """Where the request is not as the stricter document has it; folder "": as the vendor's own."""
    from openapi_core.contrib.requests import RequestsOpenAPIRequest

    name = folder + ORIGINS[origin_of(request)][0]
    sent = as_sent(request)
    for error in loaded(name).iter_request_errors(RequestsOpenAPIRequest(sent)):
        yield f"{request.method} {request.target}: {in_full(error)}"
    for unknown in set(request.query) - known_parameters(name, request):
        yield f"{request.method} {request.target}: no parameter {unknown!r} is known"


def faults_of_answer(request: Request) -> Iterator[str]:
    """Where the fake's answer is not as the vendor has it. None, if it came from a fault."""
    from openapi_core.contrib.requests import RequestsOpenAPIRequest, RequestsOpenAPIResponse

    if request.answer is None:
        return
    given = requests.Response()
    given.status_code = request.answer.status
    given._content = request.answer.payload()
    given.headers["Content-Type"] = "application/json"
    given.headers.update(request.answer.headers)
    name = ORIGINS[origin_of(request)][0]
    if name == "contabo" and (given.status_code >= 400 or origin_of(request) == "/cb-auth"):
        name = "strict/contabo"  # the vendor's own document knows neither errors nor the login
    for error in loaded(name).iter_response_errors(
        RequestsOpenAPIRequest(as_sent(request)), RequestsOpenAPIResponse(given)
    ):
        if name != "strict/contabo" or "Unknown response http status" not in str(error):
            yield f"{request.method} {request.target}: {given.status_code}: {in_full(error)}"


def shape_of_request(request: Request) -> str:
    """The same for those that differ in digits alone."""
    shown = f"{request.method} {request.target} {request.headers.keys()} {request.body!r}"
    return re.sub(r"[0-9]+", "0", shown)


def shape_of_answer(request: Request) -> str:
    shown = f"{request.route} {request.answer and request.answer.payload()!r}"
    return re.sub(r"[0-9]+", "0", shown)


def of_different_shape(
    journal: Iterable[Request],
    shape_of: Callable[[Request], str],
    seen: Optional[set[str]] = None,
) -> Iterator[Request]:
    """The first request to a vendor of each shape that is not among those seen before."""
    seen = set() if seen is None else seen
    for request in journal:
        if request.path.startswith(tuple(f"{origin}/" for origin in ORIGINS)):
            shape = shape_of(request)
            if shape not in seen:
                seen.add(shape)
                yield request


def in_full(error: BaseException) -> str:
    """The error and what it comes from."""
    inner = [
        f"{'/'.join(map(str, e.absolute_path))}: {e.message}"
        for e in getattr(error, "schema_errors", ())
    ]
    cause = error.__cause__ or error.__context__
    more = [*inner, *([in_full(cause)] if cause else [])]
    return ": ".join([str(error), *more])


def operation_of(document: dict[str, Any], request: Request) -> dict[str, Any]:
    """The part of a document that speaks of a request; {} if none does."""
    server = "".join(document["servers"][0]["url"].partition("//")[2].partition("/")[1:])
    path = as_sent(request).path_url.partition("?")[0][len(server) :]
    steps = path.split("/")
    best: tuple[int, dict[str, Any]] = (-1, {})
    for pattern, methods in document["paths"].items():
        wanted = pattern.split("/")
        if len(wanted) == len(steps) and request.method.lower() in methods:
            same = sum(a == b for a, b in zip(wanted, steps))
            if all(a == b or a.startswith("{") for a, b in zip(wanted, steps)):
                best = max(best, (same, methods[request.method.lower()]), key=lambda b: b[0])
    return best[1]


def is_known(request: Request) -> bool:
    """Does the vendor's document, which holds little but what the script asks, speak of it?"""
    return bool(operation_of(plain_document(ORIGINS[origin_of(request)][0]), request))


def operation_of_route(document: dict[str, Any], origin: str, route: str) -> dict[str, Any]:
    """The part of a document that speaks of a fake's route; {} if none does."""
    method, _, path = route.partition(" ")
    inside = {"/do": "/v2", "/hz": "", "/cb": "/v1"}[origin] + path[len(origin) :]
    for pattern, methods in document["paths"].items():
        if re.sub(r"\{\w+\}", "{}", pattern) == re.sub(r"\{\w+\}", "{}", inside):
            found: dict[str, Any] = methods.get(method.lower(), {})
            return found
    return {}


def parameters_of(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    """The query parameters that an operation has, by their names."""
    found = {}
    for parameter in operation.get("parameters", []):
        resolved = parameter
        if "$ref" in parameter:
            resolved = document["components"]["parameters"][parameter["$ref"].rpartition("/")[2]]
        if resolved["in"] == "query":
            found[resolved["name"]] = resolved
    return found


@functools.cache
def plain_document(name: str) -> dict[str, Any]:
    return document(name)


def known_parameters(name: str, request: Request) -> set[str]:
    whole = plain_document(name)
    return set(parameters_of(whole, operation_of(whole, request)))
