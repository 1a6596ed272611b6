"""Names, ownership and retention: pure, so tables and properties."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import fakes as fake
import pytest
from conftest import POLL_AGAIN, Project, not_contabo
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305
from dateutil.tz import gettz
from fakes import Server
from hypothesis import given
from hypothesis import strategies as st
from test_fleet import timing

import snapshots
from snapshots import Policy, Snapshot

START = datetime(2025, 1, 1, 3, 0, tzinfo=timezone.utc)
SOON = datetime(2025, 2, 1, 3, 0, tzinfo=timezone.utc)


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
    plan = snapshots.plan_retention(nightly(count), Policy(retain), 10)
    assert ids(plan.delete) == deleted
    assert plan.postponed == ()
    assert len(plan.keep) == count - len(deleted)


@pytest.mark.proves("I7")
@pytest.mark.parametrize("retain", [0, -1])
def test_a_retention_that_would_delete_everything_is_refused(retain: int) -> None:
    with pytest.raises(ValueError, match="every snapshot"):
        snapshots.plan_retention(nightly(3), Policy(retain), 10)


@pytest.mark.proves("D-8")
def test_the_brake_lets_the_oldest_go_and_postpones_the_rest() -> None:
    plan = snapshots.plan_retention(nightly(20), Policy(3), 10)
    assert ids(plan.delete) == [str(100 + n) for n in range(10)]
    assert ids(plan.postponed) == [str(100 + n) for n in range(10, 17)]


def test_a_snapshot_that_is_about_to_be_made_counts_among_those_that_stay() -> None:
    plan = snapshots.plan_retention(nightly(3), Policy(3), 10, pending=SOON)
    assert ids(plan.delete) == ["100"]


@pytest.mark.proves("I3", "G12")
def test_the_new_one_stays_even_if_another_is_dated_in_the_future() -> None:
    future = Snapshot("999", "web-20990101000000", START + timedelta(days=3650), "1")
    plan = snapshots.plan_retention([*nightly(3), future], Policy(1), 10, new_id="102")
    assert [s.id for s, _ in plan.keep] == ["102"]
    assert plan.keep[0][1] == ("newest", "last")


@pytest.mark.proves("G11")
def test_equal_times_are_distinguished_by_id_and_ids_compare_as_numbers() -> None:
    twins = [Snapshot(i, "web-20250101030000", START, "1") for i in ("9", "10", "11")]
    assert ids(snapshots.plan_retention(twins, Policy(2), 10).delete) == ["9"]


def test_every_kept_snapshot_has_a_reason() -> None:
    plan = snapshots.plan_retention(nightly(4), Policy(2), 10)
    assert [why for _, why in plan.keep] == [("newest", "last"), ("last",)]


@pytest.mark.proves("I9")
def test_a_year_of_nightly_runs_never_holds_more_or_less_than_it_should() -> None:
    held: list[Snapshot] = []
    for night in range(365):
        new = Snapshot(str(night), "web-x", START + timedelta(days=night), "1")
        held.append(new)
        plan = snapshots.plan_retention(held, Policy(7), 10, new_id=new.id)
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


@pytest.mark.proves("I3", "G11")
@given(histories(), st.integers(1, 12), st.integers(0, 12), st.randoms())
def test_each_snapshot_has_one_fate_whatever_the_order(
    history: list[Snapshot], retain: int, max_per_run: int, shuffle: object
) -> None:
    plan = snapshots.plan_retention(history, Policy(retain), max_per_run)
    kept = [s for s, _ in plan.keep]
    assert sorted(ids([*kept, *plan.delete, *plan.postponed])) == sorted(ids(history))
    assert len(kept) == min(retain, len(history))
    assert len(plan.delete) <= max_per_run
    if kept and plan.delete:
        assert snapshots.age_key(plan.delete[-1]) < min(map(snapshots.age_key, kept))
    mixed = list(history)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    assert snapshots.plan_retention(mixed, Policy(retain), max_per_run) == plan


@given(histories(), st.integers(1, 10))
def test_keeping_less_only_deletes_more(history: list[Snapshot], retain: int) -> None:
    more = set(ids(snapshots.plan_retention(history, Policy(retain + 1), 99).delete))
    less = set(ids(snapshots.plan_retention(history, Policy(retain), 99).delete))
    assert more <= less


OURS = Snapshot("1", "web-20250101030000", START, "7")


@pytest.mark.proves("I1", "I8", "G17")
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


@pytest.mark.proves("I2")
@given(st.text(min_size=1, max_size=40))
def test_a_server_name_is_text_not_a_pattern(label: str) -> None:
    assert snapshots.is_named_like_ours(f"{label}-20250101030000", label)
    assert not snapshots.is_named_like_ours(f"x{label}-20250101030000", label)
    assert not snapshots.is_named_like_ours("aaa-20250101030000", ".*")


@pytest.mark.proves("K10")
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


@pytest.mark.proves("I2")
@pytest.mark.parametrize("server_id", ["6", "8", "70", "07", "", None])
def test_a_snapshot_of_any_other_server_is_not_ours(server_id: str | None) -> None:
    snapshot = Snapshot("1", "web-20250101030000", START, server_id)
    assert snapshots.why_not_ours(snapshot, "7", "web") == "not made from this server"


@pytest.mark.parametrize(("max_per_run", "deleted"), [(-1, 0), (0, 0), (1, 1), (5, 2)])
def test_the_brake_may_forbid_every_deletion(max_per_run: int, deleted: int) -> None:
    history = [Snapshot(str(n), "web-x", START + timedelta(days=n), "1") for n in range(4)]
    plan = snapshots.plan_retention(history, Policy(2), max_per_run)
    assert [s.id for s in plan.delete] == ["0", "1"][:deleted]
    assert [s.id for s in plan.postponed] == ["0", "1"][deleted:]
    assert len(plan.keep) == 2


@pytest.mark.parametrize(("retain", "stay"), [(1, 0), (2, 1), (3, 2), (9, 5)])
def test_one_about_to_be_made_takes_a_place_among_those_that_stay(retain: int, stay: int) -> None:
    history = [Snapshot(str(n), "web-x", START + timedelta(days=n), "1") for n in range(5)]
    plan = snapshots.plan_retention(history, Policy(retain), 99, pending=SOON)
    assert len(plan.keep) == stay
    assert len(plan.delete) == 5 - stay


@pytest.mark.proves("K11")
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


# === Tiers =====================================================================================

TIERS = ("daily", "weekly", "monthly", "yearly")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def made(*moments: str) -> list[Snapshot]:
    """Snapshots with these dates, the id being the place in the list."""
    return [Snapshot(str(n), "web-x", at(text), "1") for n, text in enumerate(moments)]


@pytest.mark.proves("tiers-1")
@pytest.mark.parametrize(
    ("policy", "dates", "reasons"),
    [
        (Policy(1, daily=2), ["2026-03-03", "2026-03-02", "2026-03-01"],
         ["newest, last, daily", "daily", ""]),
        (Policy(1, daily=2), ["2026-03-03T20:00", "2026-03-03T03:00", "2026-02-01"],
         ["newest, last, daily", "", "daily"]),
        (Policy(1, weekly=2), ["2025-01-01", "2024-12-30", "2024-12-29"],
         ["newest, last, weekly", "", "weekly"]),
        (Policy(1, monthly=2, yearly=1), ["2026-03-03", "2026-01-31", "2026-01-30"],
         ["newest, last, monthly, yearly", "monthly", ""]),
        (Policy(1, yearly=3), ["2026-03-03", "2026-03-02", "2026-03-01"],
         ["newest, last, yearly", "", "oldest (keep_yearly has 2 places left)"]),
        (Policy(1, weekly=2, yearly=3), ["2026-03-03", "2026-03-02"],
         ["newest, last, weekly, yearly",
          "oldest (keep_weekly has 1 place left), oldest (keep_yearly has 2 places left)"]),
        (Policy(1, yearly=1), ["2026-03-03", "2026-03-02"], ["newest, last, yearly", ""]),
        (Policy(1, within_days=2), ["2026-03-03", "2026-03-01T00:00:01", "2026-03-01"],
         ["newest, last, within", "within", ""]),
        (Policy(2, within_days=1), ["2026-03-03", "2026-02-01", "2026-01-01"],
         ["newest, last, within", "last", ""]),
        (Policy(None), ["2026-03-03", "2020-02-01"], ["newest, last", "last"]),
    ],
)  # fmt: skip
def test_each_snapshot_stays_for_all_the_reasons_there_are(
    policy: Policy, dates: list[str], reasons: list[str]
) -> None:
    plan = snapshots.plan_retention(made(*dates), policy, 99)
    told = {s.id: ", ".join(why) for s, why in plan.keep}
    assert [told.get(str(n), "") for n in range(len(dates))] == reasons
    assert ids(plan.delete) == [s.id for s in reversed(made(*dates)) if s.id not in told]


@pytest.mark.proves("tiers-1")
def test_a_job_that_stopped_loses_nothing_while_it_is_stopped() -> None:
    """The days of `within` are counted from the newest snapshot, not from today."""
    history = made("2020-01-10", "2020-01-08", "2020-01-01")
    plan = snapshots.plan_retention(history, Policy(1, within_days=5), 99)
    assert ids(plan.delete) == ["2"]
    later = snapshots.plan_retention(
        history, Policy(1, within_days=5), 99, pending=at("2026-01-01")
    )
    assert ids(later.delete) == ["2", "1", "0"]  # only a new one lets them go


@pytest.mark.proves("tiers-1")
def test_a_date_in_the_future_shortens_no_history() -> None:
    """The new one is what days are counted from, whatever another's date says."""
    history = made("2026-03-03", "2099-01-01", "2026-03-01")
    plan = snapshots.plan_retention(history, Policy(1, within_days=5), 99, new_id="0")
    assert {s.id: why for s, why in plan.keep} == {
        "0": ("newest", "last", "within"), "1": ("within",), "2": ("within",)
    }  # fmt: skip


policies = st.builds(
    Policy,
    last=st.one_of(st.none(), st.integers(1, 5)),
    daily=st.integers(0, 8),
    weekly=st.integers(0, 6),
    monthly=st.integers(0, 6),
    yearly=st.integers(0, 5),
    within_days=st.sampled_from([0, 0, 1, 30, 400]),
)
WORD = re.compile(
    r"newest|last|daily|weekly|monthly|yearly|within"
    r"|oldest \(keep_(daily|weekly|monthly|yearly) has (1 place|[0-9]+ places) left\)"
)


@pytest.mark.proves("tiers-1")
@given(histories(), policies, st.integers(0, 40), st.booleans(), st.randoms())
def test_rules_are_added_up_and_each_stay_has_its_reasons(
    history: list[Snapshot], policy: Policy, max_per_run: int, soon: bool, shuffle: object
) -> None:
    pending = at("2030-06-01") if soon else None
    plan = snapshots.plan_retention(history, policy, max_per_run, pending=pending)
    kept = [s for s, _ in plan.keep]
    assert sorted(ids([*kept, *plan.delete, *plan.postponed])) == sorted(ids(history))
    assert len(plan.delete) <= max_per_run
    mixed = list(history)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    assert snapshots.plan_retention(mixed, policy, max_per_run, pending=pending) == plan
    for _, why in plan.keep:
        assert why
        assert why != ("newest",)
        assert all(WORD.fullmatch(word) for word in why)
    if not soon and history:
        newest = max(history, key=snapshots.age_key)
        assert plan.keep[0][0] is newest
        assert plan.keep[0][1][0] == "newest"
    for rule in ("last", *TIERS, "within_days"):  # each rule alone keeps no more than all together
        alone = dataclasses.replace(Policy(1), **{rule: getattr(policy, rule)})
        mine = snapshots.plan_retention(history, alone, 99, pending=pending).keep
        assert {s.id for s, _ in mine} <= set(ids(kept))


@pytest.mark.proves("tiers-1")
@given(histories(), policies, st.sampled_from(["last", *TIERS, "within_days"]))
def test_a_more_generous_rule_keeps_at_least_as_much_of_its_slots(
    history: list[Snapshot], policy: Policy, rule: str
) -> None:
    if policy.last is None:
        return
    more = dataclasses.replace(policy, **{rule: getattr(policy, rule) + 1})
    before = {s.id: why for s, why in snapshots.plan_retention(history, policy, 99).keep}
    after = {s.id for s, _ in snapshots.plan_retention(history, more, 99).keep}
    lost = set(before) - after
    # what stayed only because a tier had places left may lose its place to the tier itself
    assert all(all(word.startswith("oldest") for word in before[i]) for i in lost)


# --- the oracle: restic, whose rules these are ---

RESTIC = shutil.which("restic")


class Repository:
    """A restic repository that holds nothing but snapshots, written by hand.

    Formats: https://restic.readthedocs.io/en/stable/100_references.html (Poly1305-AES over
    AES-256 in counter mode; a file is named after its SHA-256). With so weak a key on purpose, and
    without trees behind the snapshots, thousands of them are a matter of a second.
    """

    PASSWORD = b"oracle"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("data", "index", "keys", "locks", "snapshots"):
            (folder / name).mkdir(parents=True)
        self.key = os.urandom(64)  # encryption 32, MAC k 16, MAC r 16
        salt = os.urandom(64)
        user = hashlib.scrypt(self.PASSWORD, salt=salt, n=2, r=1, p=1, dklen=64)
        master = {
            "mac": {"k": self._text(self.key[32:48]), "r": self._text(self.key[48:])},
            "encrypt": self._text(self.key[:32]),
        }
        self._store("keys", json.dumps({
            "created": "2026-01-01T00:00:00Z", "username": "u", "hostname": "h",
            "kdf": "scrypt", "N": 2, "r": 1, "p": 1, "salt": self._text(salt),
            "data": self._text(self._seal(user, json.dumps(master).encode())),
        }).encode())  # fmt: skip
        config = {"version": 1, "id": "0" * 63 + "1", "chunker_polynomial": "25b468838dcb75"}
        (folder / "config").write_bytes(self._seal(self.key, json.dumps(config).encode()))

    @staticmethod
    def _text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    @staticmethod
    def _seal(key: bytes, plain: bytes) -> bytes:
        nonce = os.urandom(16)
        sealed = Cipher(algorithms.AES(key[:32]), modes.CTR(nonce)).encryptor().update(plain)
        pad = Cipher(algorithms.AES(key[32:48]), modes.ECB()).encryptor().update(nonce)
        return nonce + sealed + Poly1305.generate_tag(key[48:64] + pad, sealed)

    def _store(self, kind: str, content: bytes) -> None:
        (self.folder / kind / hashlib.sha256(content).hexdigest()).write_bytes(content)

    def add(self, host: str, moment: datetime) -> None:
        snapshot = {"time": moment.isoformat().replace("+00:00", "Z"), "tree": "0" * 64,
                    "paths": ["/"], "hostname": host, "username": "u"}  # fmt: skip
        self._store("snapshots", self._seal(self.key, json.dumps(snapshot).encode()))

    def forget(self, policy: Policy) -> dict[str, dict[str, list[str]]]:
        """{host: {time: reasons}} of what restic keeps, each host by itself."""
        assert RESTIC is not None
        flags = [f"--keep-{tier}={getattr(policy, tier)}" for tier in ("last", *TIERS)]
        if policy.within_days:
            flags.append(f"--keep-within={policy.within_days}d")
        command = [RESTIC, "-r", str(self.folder), "--no-cache", "--no-lock", "forget", "--dry-run",
                   "--json", "--group-by=host", *flags]  # fmt: skip
        environment = {**os.environ, "RESTIC_PASSWORD": self.PASSWORD.decode()}
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        groups = json.loads(done.stdout.decode().splitlines()[0])
        return {
            group["host"]: {r["snapshot"]["time"]: r["matches"] for r in group["reasons"]}
            for group in groups
        }


def restic_version() -> tuple[int, int]:
    assert RESTIC is not None
    told = subprocess.run([RESTIC, "version"], capture_output=True, text=True, check=True).stdout
    major, minor = re.findall(r"[0-9]+", told)[:2]
    return int(major), int(minor)


def in_restics_words(why: Sequence[str], policy: Policy, knows_oldest: bool) -> list[str]:
    """Our reasons, as this version of restic gives them; "newest" is ours alone."""
    words = []
    for word in why:
        oldest = re.match(r"oldest \(keep_([a-z]+)", word)
        if oldest and knows_oldest:
            words.append(f"oldest {oldest[1]} snapshot")
        elif word == "within":
            words.insert(0, f"within {policy.within_days}d")
        elif not oldest and word != "newest":
            words.append(f"{word} snapshot")
    return sorted(words)


@pytest.mark.proves("tiers-1")
@pytest.mark.skipif(RESTIC is None, reason="no restic")
@pytest.mark.parametrize("seed", range(2))
def test_restic_keeps_the_same(tmp_path: Path, seed: int) -> None:
    """1,600 random histories under 8 policies. Debian 12's restic 0.14 does not keep the oldest
    while a tier has places left, which came with 0.16: there, ours is its answer and the oldest.
    """
    chance = random.Random(seed)
    knows_oldest = restic_version() >= (0, 16)
    for round in range(4):
        repository = Repository(tmp_path / str(round))
        counts = {tier: chance.choice([0, chance.randint(1, 9)]) for tier in TIERS}
        counts["within_days"] = chance.choice([0, 3, 40])
        policy = Policy(chance.randint(1, 5), **counts)
        histories: dict[str, list[Snapshot]] = {}
        for number in range(200):
            step = chance.choice([3600 * 5, 86400, 86400 * 9, 86400 * 60, 86400 * 200])
            seconds = chance.sample(range(step * 14), chance.randint(1, 14))
            histories[f"h{number}"] = [
                Snapshot(str(n), "web-x", START - timedelta(seconds=s), "1")
                for n, s in enumerate(seconds)
            ]
            for snapshot in histories[f"h{number}"]:
                assert snapshot.created
                repository.add(f"h{number}", snapshot.created)
        theirs = repository.forget(policy)
        for host, history in histories.items():
            ours = {}
            for snapshot, why in snapshots.plan_retention(history, policy, 99).keep:
                assert snapshot.created
                if knows_oldest or not all(word.startswith("oldest") for word in why):
                    moment = snapshot.created.isoformat().replace("+00:00", "Z")
                    ours[moment] = in_restics_words(why, policy, knows_oldest)
            assert {t: sorted(m) for t, m in theirs[host].items()} == ours, (policy, history)


# --- the whole tool ---


@pytest.mark.proves("tiers-2")
def test_a_year_of_nights_ends_with_what_the_tiers_say(project: Project) -> None:
    """At 01:30 in Berlin, through both changes of the clock, with missed nights, a new name and a
    month without a run; each run's deletions are those that -n foretold."""
    berlin = gettz("Europe/Berlin")
    project.cloud.page_size = None
    server = project.server("hetzner", 71, "web", retain=2)
    tiers = {"keep_daily": 7, "keep_weekly": 4, "keep_monthly": 6, "keep_yearly": 3}
    project.config["RETENTION"] = tiers
    policy = Policy(2, 7, 4, 6, 3)
    expected: list[Snapshot] = []
    first = ""
    for day in range(365):
        night = datetime(2025, 1, 1, 1, 30, tzinfo=berlin) + timedelta(days=day)  # 01:30 every day
        night = night.astimezone(timezone.utc)
        if day % 23 == 20 or 200 <= day < 230:
            continue
        if day == 120:
            write_server(project, server, name="www", former_names=["web"])
        project.clock.elapsed = (night - project.clock.begin).total_seconds()
        foretold = None
        if day % 30 == 1:
            foretold = re.findall(r"would delete (\S+)", project.run("-n").out)
        before = project.own(server)
        assert project.run().code == 0
        new = project.cloud.created[-1]
        first = first or new.name
        expected.append(Snapshot(new.id, new.name, new.created, "71"))
        plan = snapshots.plan_retention(expected, policy, 10, new.id)
        expected = [s for s in expected if s not in plan.delete]
        assert project.own(server) == [s.name for s in expected]
        if foretold is not None:
            assert foretold == [name for name in before if name not in project.own(server)]
    kept = {name[-14:-6] for name in project.own(server)}
    assert len(project.cloud.created) == 365 - 30 - 13
    assert kept == {
        "20250101",  # the oldest, while keep_yearly has places left
        "20250719",  # the last one of July, for then the job stopped
        "20250901",  # the last one of August in UTC
        "20250930", "20251031", "20251130",  # monthly
        "20251214", "20251221",  # weekly
        "20251225", "20251226", "20251227", "20251228", "20251229", "20251230", "20251231",
    }  # fmt: skip
    assert first in project.own(server)


def write_server(project: Project, server: Server, **changes: Any) -> None:
    """Its file again, with these keys changed."""
    (path,) = (project.folder / "configs").glob(f"*-{server.id}.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    next(iter(content.values())).update(changes)
    project.write(path.name, content)


@pytest.mark.proves("tiers-3")
@pytest.mark.parametrize("provider", ["digitalocean", "hetzner", "contabo"])
def test_a_renamed_server_goes_on_with_its_history(project: Project, provider: str) -> None:
    server = project.server(provider, 31, "old name_of_the_server", retain=2, slots=9)
    other = project.server(provider, 32, "old name_of_the_server", retain=9, slots=9)
    label = snapshots.PROVIDERS[provider].label("old name_of_the_server")
    old, others = (project.history(s, 3, label) for s in (server, other))
    write_server(project, server, name="new", former_names=["old name_of_the_server"])
    result = project.run(f"{provider}-31.json")
    assert (result.code, result.final[0][-1]) == (0, "2 snapshots exist")
    assert project.own(server)[:-1] == old[2:]
    assert project.own(other) == others


@pytest.mark.proves("tiers-3")
@pytest.mark.parametrize("value", ["web", [1], [""], {"a": 1}, ["a\nb"]])
def test_former_names_are_a_list_of_names(project: Project, value: Any) -> None:
    server = project.server("hetzner", 31, "web", file={"former_names": value})
    assert "former_names: " in project.run().err
    assert project.own(server) == []


@pytest.mark.proves("tiers-4")
def test_server_files_go_before_the_defaults_for_all(project: Project) -> None:
    """0 there means none, whatever the default."""
    project.config["RETENTION"] = {"keep_daily": 3}
    plain = project.server("hetzner", 31, "a", retain=1)
    none = project.server("hetzner", 32, "b", retain=1, file={"keep_daily": 0})
    more = project.server("hetzner", 33, "c", retain=1, file={"keep_daily": "4"})
    for server in (plain, none, more):
        project.history(server, 6)
    assert project.run().code == 0
    assert [len(project.own(s)) for s in (plain, none, more)] == [3, 1, 4]


@pytest.mark.proves("tiers-4")
@pytest.mark.parametrize("key", [*(f"keep_{tier}" for tier in TIERS), "keep_within_days"])
@pytest.mark.parametrize("value", [-1, "-1", True, 3.7, "x", [1], 100001, 10**30])
def test_a_rule_that_is_no_count_is_refused(project: Project, key: str, value: Any) -> None:
    server = project.server("hetzner", 31, "web", file={key: value})
    project.history(server, 3)
    result = project.run()
    assert result.code == 1
    assert f"{key}: must be a whole number from 0 to 100000" in result.err
    project.config["RETENTION"] = {key: value}
    assert f"'{key}': must be a whole number from 0 to 100000" in project.run().err
    assert len(project.own(server)) == 3


@pytest.mark.proves("tiers-5")
@pytest.mark.parametrize(
    ("provider", "keys", "warned"),
    [
        (
            "hetzner",
            {"retain_last_snapshots": "all", "keep_daily": 3},
            "keep_daily has no effect: ",
        ),
        (
            "hetzner",
            {"retain_last_snapshots": "all", "keep_within_days": 3},
            "keep_within_days has",
        ),
        ("hetzner", {"keep_yearly": 9, "keep_within_days": 900}, ""),
        ("contabo", {"keep_daily": 31}, "keep_daily = 31 has no effect beyond 30 days"),
        ("contabo", {"keep_daily": 30, "keep_weekly": 5, "keep_within_days": 30}, ""),
        ("contabo", {"keep_weekly": 6}, "keep_weekly = 6 has no effect beyond 30 days"),
        ("contabo", {"keep_monthly": 2}, "keep_monthly = 2 has no effect beyond 30 days"),
        ("contabo", {"keep_yearly": 2}, "keep_yearly = 2 has no effect beyond 30 days"),
        ("contabo", {"keep_within_days": 31}, "keep_within_days = 31 has no effect beyond 30"),
    ],
)
def test_a_rule_without_effect_is_a_warning(
    project: Project, provider: str, keys: dict[str, Any], warned: str
) -> None:
    project.server(provider, 31, "web", slots=9, file=keys)
    result = project.run("-n")
    assert result.code == 0
    assert result.err.count("warning") == bool(warned)
    assert warned in result.err
    # as a default for all it has no more effect than in the file of the server
    rules = {key: value for key, value in keys.items() if key.startswith("keep_")}
    project.config["RETENTION"] = rules
    (path,) = (project.folder / "configs").glob("*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    for key in rules:
        del next(iter(content.values()))[key]
    project.write(path.name, content)
    assert project.run("-n").err == result.err


@pytest.mark.proves("tiers-6")
@pytest.mark.parametrize("provider", ["digitalocean", "hetzner", "contabo"])
def test_log_dry_run_and_notification_give_the_same_reasons(
    project: Project, provider: str
) -> None:
    """And say how much was freed, where the provider gives sizes."""
    server = project.server(
        provider, 31, "web", retain=1, slots=9, file={"keep_daily": 2, "keep_yearly": 2}
    )
    names = project.history(server, 5)
    project.config["WEBHOOK"] = {
        "enabled": "true",
        "url": f"{project.cloud.url}/hook/x",
        "payload_success": '{"freed": "{freed_gb}", "kept": "{kept_reasons}"}',
    }
    told = project.run("-n").out
    assert re.search(rf"would delete {names[1]} \(id \S+\): no rule keeps it", told)
    result = project.run()
    new = project.own(server)[-1]
    kept = {
        new: "newest, last, daily, yearly",
        names[4]: "daily",
        names[0]: "oldest (keep_yearly has 1 place left)",
    }
    assert [line for line in result.lines if " stays: " in line] == [
        f"web: {name} stays: {why}" for name, why in kept.items()
    ]
    for name, why in list(kept.items())[1:]:
        assert re.search(rf"would keep {name} \(id \S+\): (newest, )?{re.escape(why)}\n", told)
    (hook,) = project.cloud.hooks
    assert hook.json == {
        "freed": "unknown" if provider == "contabo" else "6.9",
        "kept": "; ".join(f"{name}: {why}" for name, why in kept.items()),
    }


@pytest.mark.proves("tiers-6")
def test_what_the_brake_postpones_is_to_go_as_well_and_says_so(project: Project) -> None:
    server = project.server("hetzner", 31, "web", retain=1)
    names = project.history(server, 4)
    project.config["RETENTION"] = {"max_deletes_per_run": 1}
    lines = [line for line in project.run("-n").out.splitlines() if "would delete" in line]
    assert [line.split()[3] for line in lines] == names
    assert lines[0].endswith("no rule keeps it")
    assert all(line.endswith(": in a later run: max_deletes_per_run") for line in lines[1:])


@pytest.mark.proves("tiers-6")
@pytest.mark.parametrize(
    ("sizes", "shown"),
    [([], "0.0"), ([1.25, 2], "3.2"), ([1.5, None], "at least 1.5"), ([None, None], "unknown")],
)
def test_a_total_says_at_least_where_a_size_is_unknown(
    sizes: list[float | None], shown: str
) -> None:
    assert snapshots.total_gb(sizes) == shown


@pytest.mark.proves("tiers-6")
@pytest.mark.parametrize("size", [None, "2.3", True, -1, 1e300, {}])
def test_a_size_that_is_none_is_unknown(project: Project, size: Any) -> None:
    server = project.server("hetzner", 31, "web", retain=1)
    project.cloud.add_snapshot(server, "web-20250101030000", START, extra={"image_size": size})
    project.config["WEBHOOK"] = {
        "enabled": "true",
        "url": f"{project.cloud.url}/hook/x",
        "payload_success": '{"freed": "{freed_gb}"}',
    }
    assert project.run().code == 0
    assert project.cloud.hooks[0].json == {"freed": "unknown"}


@pytest.mark.proves("tiers-7")
def test_contabo_rules_that_need_more_slots_than_there_are_say_so(project: Project) -> None:
    server = project.server(
        "contabo", 31, "web", retain=1, slots=3, file={"keep_daily": 9, "replace_when_full": True}
    )
    names = project.history(server, 3)
    result = project.run()
    assert result.code == 1
    assert "the keep_ rules keep all of 3 snapshots beside the new one" in result.err
    assert project.own(server) == names
    write_server(project, server, keep_daily=3)
    assert project.run().code == 0
    assert project.own(server)[:-1] == names[1:]
