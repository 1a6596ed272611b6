"""Nights in sequence, good and bad, over random fleets: what must hold after every one of them."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import fakes as fake
import pytest
from conftest import Project, examples
from fakes import FakeCloud, Server
from fakes.clock import FakeClock, KilledError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import snapshots

pytestmark = pytest.mark.proves("I1", "I3", "I9", "I10", "I11", "I18", "S6")

FAULTS = {
    "500": lambda: fake.status(500),
    "500 after acting": lambda: fake.status(500, act=True),
    "504 after acting": lambda: fake.status(504, body=b"<html>", act=True),
    "403": lambda: fake.status(403),
    "404": lambda: fake.status(404),
    "429": lambda: fake.status(429, headers={"Retry-After": "7"}),
    "423": lambda: fake.status(423),
    "hang-up": lambda: fake.hang_up(),
    "hang-up after acting": lambda: fake.hang_up(act=True),
    "hang-up in the body": lambda: fake.hang_up(act=True, when="body"),
    "HTML": lambda: fake.garbage(),
    "{}": lambda: fake.garbage(body=b"{}"),
    "truncated": lambda: fake.truncated(),
}
METHODS = st.sampled_from(["GET", "POST", "DELETE", "*"])
PROVIDERS = ["digitalocean", "hetzner", "contabo"]


class Output:
    """What `Project` asks of pytest's capture."""

    def __init__(self) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()

    def readouterr(self) -> Any:
        result = type("Captured", (), {"out": self.out.getvalue(), "err": self.err.getvalue()})
        for stream in (self.out, self.err):
            stream.seek(0)
            stream.truncate()
        return result


class Nights(RuleBasedStateMachine):
    """A fleet over many nights."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.clock = FakeClock()
        self.cloud = self.stack.enter_context(FakeCloud(self.clock))
        self.output = Output()
        self.project = Project(folder, self.cloud, self.clock, self.output)  # type: ignore[arg-type]
        self.project.config = {
            "API": self.cloud.endpoints(),
            "TIMING": {"delay_between_servers": 0},
            "TELEGRAM": {"enabled": "false"},
        }
        self.servers: dict[str, tuple[Server, int]] = {}
        self.foreign: set[str] = set()

    def teardown(self) -> None:
        try:
            assert self.cloud.problems == []
            assert self.project.leaks() == []
        finally:
            self.stack.close()

    def own(self, server: Server, states: tuple[str, ...] = ("available",)) -> list[fake.Snapshot]:
        """This server's own usable snapshots, oldest first."""
        label = (
            snapshots.contabo_label(server.name)
            if server.account.provider == "contabo"
            else server.name
        )
        return sorted(
            (
                s
                for s in self.cloud.snapshots(server)
                if snapshots.is_named_like_ours(s.name, label)
                and s.status in states
                and s.kind == "snapshot"
                and s.id not in self.foreign
            ),
            key=lambda s: (s.created, s.number),
        )

    @initialize(
        fleet=st.lists(
            st.tuples(st.sampled_from(PROVIDERS), st.integers(1, 4), st.integers(0, 5)),
            min_size=1,
            max_size=4,
        ),
        parallel=st.sampled_from([1, 10]),
    )
    def begin(self, fleet: list[tuple[str, int, int]], parallel: int) -> None:
        self.project.config["TIMING"]["max_parallel"] = parallel
        for number, (provider, retain, nights) in enumerate(fleet, 1):
            name = "web" if number == 1 else f"web-{number}"
            server = self.project.server(
                provider, number, name, retain, duration_seconds=20.0 * number, slots=50
            )
            self.project.history(server, nights)
            self.servers[server.id] = (server, retain)

    @rule(data=st.data(), name=st.sampled_from(["by hand", "web", "web-2-20250101000000", "web-x"]))
    def somebody_makes_one_by_hand(self, data: st.DataObject, name: str) -> None:
        server, _ = data.draw(st.sampled_from(list(self.servers.values())))
        if snapshots.is_named_like_ours(name, server.name):
            return
        self.foreign.add(self.cloud.add_snapshot(server, name, self.clock.now()).id)

    @rule(
        faults=st.lists(
            st.tuples(
                METHODS, st.sampled_from(sorted(FAULTS)), st.integers(1, 4), st.integers(0, 6)
            ),
            max_size=4,
        )
    )
    def a_night(self, faults: list[tuple[str, str, int, int]]) -> None:
        """One run; without faults it must leave exactly what retention asks for."""
        before = {number: len(self.own(server)) for number, (server, _) in self.servers.items()}
        under_way = {
            n: len(self.own(server, ("creating",))) for n, (server, _) in self.servers.items()
        }
        made = len(self.cloud.created)
        for method, kind, times, skip in faults:
            waiting = [skip]

            def due(_request: object, waiting: list[int] = waiting) -> bool:
                waiting[0] -= 1
                return waiting[0] < 0

            self.cloud.fault(method, FAULTS[kind](), times=times, when=due)
        with (
            contextlib.redirect_stdout(self.output.out),
            contextlib.redirect_stderr(self.output.err),
        ):
            result = self.project.run()
        self.cloud.clear_faults()
        assert result.code in (0, 1, 2)
        created = self.cloud.created[made:]
        for number, (server, retain) in self.servers.items():
            mine = [s for s in created if s.server is server]
            assert len(mine) <= 1
            assert len(self.own(server)) >= min(retain, before[number])
            status = next(f[4] for f in result.final if f[3] == server.name)
            if status == "SUCCESS":
                assert len(mine) == 1
                all_there = before[number] + under_way[number] + 1
                assert len(self.own(server)) <= min(retain, all_there)
                assert len(self.own(server)) >= min(retain, all_there)
                assert self.own(server)[-1] is mine[0]
        if not faults:
            assert result.code == 0, result.err
        self.clock.advance(86_400)

    @rule(number=st.integers(1, 40), before=st.booleans(), next_soon=st.booleans())
    def a_night_that_is_killed(self, number: int, before: bool, next_soon: bool) -> None:
        """One run, which ends at a request, before or after that is acted upon."""
        own = {n: len(self.own(server)) for n, (server, _) in self.servers.items()}
        made, armed = len(self.cloud.created), [True]  # it may have fewer requests

        def kill() -> None:
            if armed:
                self.clock.kill()

        self.cloud.stop_at(len(self.cloud.journal) + number, kill, before=before)
        with (
            contextlib.redirect_stdout(self.output.out),
            contextlib.redirect_stderr(self.output.err),
        ):
            try:
                self.project.run()
            except KilledError:
                self.clock.bury()
        armed.clear()
        created = Counter(s.server.id for s in self.cloud.created[made:] if s.server)
        for n, (server, retain) in self.servers.items():
            assert created[n] <= 1
            assert len(self.own(server)) >= min(retain, own[n])
        # cron is not quicker; who makes one in the same seconds is not to be told from us
        self.clock.advance(10 if next_soon else 86_400)

    @invariant()
    def what_is_not_ours_is_untouched(self) -> None:
        assert self.foreign <= {s.id for s in self.cloud.snapshots()}


Nights.TestCase.settings = settings(examples(15), stateful_step_count=8)
test_nights_in_sequence = Nights.TestCase
