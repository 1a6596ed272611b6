"""When cron starts a run: against cronsim, Debian's own crontab and systemd's calendar."""

from __future__ import annotations

import itertools
import random
import re
import shutil
import subprocess
from collections.abc import Iterable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim, CronSimError

import snapshots

UTC = timezone.utc
BERLIN = ZoneInfo("Europe/Berlin")
CRONTAB = shutil.which("crontab")
LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
WORDS = {3: [m[:3] for m in snapshots.MONTHS], 4: [d[:3].upper() for d in snapshots.WEEKDAYS]}


def random_part(chance: random.Random, index: int) -> str:
    """A part of a field, of every form that cron has, now and then one that it does not start."""
    low, high = LIMITS[index]
    kind = chance.choice(["*", "*", "*/n", "n", "n", "a-b", "a-b/n", "word"])
    a, b = chance.randint(low, high), chance.randint(low, high)
    if kind in ("a-b", "a-b/n") and chance.random() < 0.95:
        a, b = sorted((a, b))
    if kind == "word":
        return chance.choice(WORDS.get(index, [str(a)]))
    step = chance.randint(1, max(1, (high - low) if kind == "*/n" else b - a))
    return kind.replace("n", f"{a:02}" if kind == "n" else str(step)).replace("a-b", f"{a}-{b}")


def random_expression(chance: random.Random) -> str:
    """Five fields, most of them simple, as people write them."""
    fields = []
    for index in range(5):
        parts = chance.choice([1, 1, 1, 2, 3]) if chance.random() < 0.6 else 0
        fields.append(",".join(random_part(chance, index) for _ in range(parts)) or "*")
    return " ".join(fields)


def expressions(seed: int, count: int) -> list[str]:
    chance = random.Random(seed)
    return [random_expression(chance) for _ in range(count)]


def parsed(text: str) -> snapshots.Schedule | None:
    try:
        return snapshots.parse_schedule(text)
    except ValueError:
        return None


def starts(text: str, after: datetime, zone: Any, count: int) -> list[datetime]:
    coming = snapshots.starts_after(snapshots.parse_schedule(text), after, zone)
    return list(itertools.islice(coming, count))


# --- what is understood, and what is refused ---


@pytest.mark.proves("cron-1")
@pytest.mark.parametrize(
    ("when", "fields"),
    [
        ("15 3 * * *", "15 3 * * *"),
        ("  15  3\t* * * ", "15 3 * * *"),
        ("03:15", "15 3 * * *"),
        ("3:05", "5 3 * * *"),
        ("23:59", "59 23 * * *"),
        ("nightly", "15 3 * * *"),
        ("twice-a-day", "15 3,15 * * *"),
        ("every-6-hours", "15 3,9,15,21 * * *"),
        ("weekly", "15 3 * * 0"),
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("*/15 0-6/2 1,15 jan-MAR mon-Fri", "*/15 0-6/2 1,15 jan-MAR mon-Fri"),
    ],
)
def test_when_becomes_five_fields(when: str, fields: str) -> None:
    assert snapshots.parse_schedule(when).text == fields


@pytest.mark.proves("cron-1")
@pytest.mark.parametrize(
    ("when", "told"),
    [
        ("0 3 31 2 *", "February has no day 31: cron would never start it (write day 28"),
        ("0 3 30,31 feb *", "(write day 28"),
        ("0 3 31 4,6,9,11 *", "April, June, September and November has no day 31"),
        ("0 3 * * */8", "(write 0,"),
        ("0 3 * * fri-mon", "cron would never start it (write 5-6,0-1)"),
        ("0 3 * * 5-1", "(write 5-6,0-1)"),
        ("0 3 * * sat-sun", "(write 6,0)"),
        ("0 22-2 * * *", "(write 22-23,0-2)"),
        ("50-10/5 3 * * *", "cron would never start it"),
        ("0 3 * nov-feb *", "(write 11-12,1-2)"),
        ("*/70 * * * *", "the step is larger than the range (write 0,"),
        ("0 */24 * * *", "(write 0,"),
        ("0 9-17/10 * * *", "(write 9,"),
        ("*/0 * * * *", "the step must be a number from 1"),
        ("*/x * * * *", "the step must be a number from 1"),
        ("*/ * * * *", "the step must be a number from 1"),
        ("5/15 * * * *", "(write 5-59/15)"),
        ("0 3 ? * *", "write * or numbers"),
        ("0 3 L * *", "write * or numbers"),
        ("0 3 15W * *", "write * or numbers"),
        ("0 3 * * 1#2", "write * or numbers"),
        ("0~30 3 * * *", "write * or numbers"),
        ("60 3 * * *", "minute '60': must be 0 to 59"),
        ("0 24 * * *", "hour '24': must be 0 to 23"),
        ("24:00", "hour '24': must be 0 to 23"),
        ("03:60", "minute '60': must be 0 to 59"),
        ("0 3 0 * *", "day of the month '0': must be 1 to 31"),
        ("0 3 * 13 *", "month '13': must be 1 to 12"),
        ("0 3 * * 8", "day of the week '8': must be 0 to 7"),
        ("0 3 * * monday", "did you mean 'mon'?"),
        ("0 3 * january *", "did you mean 'jan'?"),
        ("0 3 * * -1", "must be 0 to 7"),
        ("0 3 1, * *", "day of the month '': must be 1 to 31"),
        ("-5 3 * * *", "minute '': must be"),
        ("0 3 1-2-3 * *", "must be 1 to 31"),
        ("0 3 1/2/3 * *", "the step must be a number from 1"),
        ("0 3 ١ * *", "must be 1 to 31"),
        ("0 ３ * * *", "must be 0 to 23"),
        ("99999999999999999999 3 * * *", "must be 0 to 59"),
        ("0 15 3 * * *", "cron knows no field for seconds or a user here: leave it out"),
        ("15 3 * * * root", "cron knows no field for seconds or a user here: leave it out"),
        ("15 3 * * * at night", "HH:MM, or one of"),
        ("15 3 * *", 'must be five fields such as "15 3 * * *", HH:MM, or one of nightly, '),
        ("15 3 * * *\n* * * * * evil", "must be five fields"),
        ("@reboot", "after each reboot only: write 03:15"),
        ("@Daily", "did you mean '@daily'?"),
        ("nigthly", "did you mean 'nightly'?"),
        ("every night", "must be five fields"),
        ("3.15", "must be five fields"),
    ],
)
def test_what_cron_refuses_or_never_starts_is_refused_with_what_was_meant(
    when: str, told: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        snapshots.parse_schedule(when)
    assert "\n" not in str(caught.value)


@pytest.mark.proves("cron-1")
def test_what_a_refusal_proposes_is_what_cron_would_take() -> None:
    """Each `write ...` of a field, put in the field's place, is understood."""
    proposed = 0
    for text in expressions(5, 3000):
        for index, field in enumerate(text.split()):
            alone = ["*"] * 5
            alone[index] = field
            try:
                snapshots.parse_schedule(" ".join(alone))
            except ValueError as error:
                meant = re.search(r"'([^']*)': .*\(write ([0-9,/-]+)", str(error))
                if not meant:
                    continue
                alone[index] = field.replace(meant[1], meant[2], 1)
                proposed += 1
                again = parsed(" ".join(alone))
                assert again or re.search(r"\(write", why(" ".join(alone))), text
    assert proposed > 50


def why(text: str) -> str:
    try:
        snapshots.parse_schedule(text)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.proves("cron-1", "cron-2")
@pytest.mark.skipif(CRONTAB is None, reason="crontab is not installed")
def test_debians_crontab_takes_what_is_understood_and_nothing_else(
    tmp_path: Path,
) -> None:
    """`crontab -n` only checks. What it takes and we do not is what it would never start."""
    assert CRONTAB
    good = [text for text in expressions(1, 6000) if parsed(text)]
    assert len(good) > 3000
    path = tmp_path / "crontab"
    path.write_text("".join(f"{text} true\n" for text in good))
    done = subprocess.run([CRONTAB, "-n", str(path)], capture_output=True, text=True, check=False)
    if "invalid option" in done.stderr:
        pytest.skip("this crontab cannot only check")
    assert done.returncode == 0, done.stderr
    marks = ["?", "L", "60", "0", "x", "", "*/0", "5/15", "1#2", "2~3", "-1", "1-", "/5", "1,,2"]
    marks += ["mon", "jan", "fri-mon", "5-1", "*/70", "32", "*,1", "01", "1-2-3", "7", "**", "0-7"]
    told: set[str] = set()
    for index, mark in itertools.product(range(5), marks):
        fields = ["*"] * 5
        fields[index] = mark
        text = " ".join(fields)
        path.write_text(f"{text} true\n")
        accepts = subprocess.run(
            [CRONTAB, "-n", str(path)], capture_output=True, check=False
        ).returncode
        if accepts == 0 and parsed(text) is None and mark:
            told.add(mark)
        assert accepts == 0 or parsed(text) is None, text
    # of the last ones it takes what comes behind for the command; the others never start
    assert told <= {"fri-mon", "5-1", "*/70", "**", "1-2-3", "2~3", "1#2"}, told


# --- when it starts ---


@pytest.mark.proves("cron-2")
def test_starts_are_those_of_cronsim() -> None:
    """Which follows Debian's cron, and calls every difference a bug."""
    chance = random.Random(2)
    compared = 0
    for text in expressions(2, 1000):
        schedule = parsed(text)
        if schedule is None:
            continue
        after = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=chance.randrange(5 * 527_040))
        mine = list(itertools.islice(snapshots.starts_after(schedule, after, UTC), 4))
        assert mine == list(itertools.islice(CronSim(text, after), 4)), text
        compared += 1
    assert compared > 800


CHANGES = [  # zones and days on which their clocks change
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("America/New_York", date(2026, 3, 8)),
    ("America/New_York", date(2026, 11, 1)),
    ("Africa/Cairo", date(2026, 4, 24)),  # at midnight
    ("Africa/Cairo", date(2026, 10, 29)),  # at the next midnight, back into this day
    ("America/Nuuk", date(2026, 3, 28)),  # from 23:00 to midnight
    ("Australia/Sydney", date(2026, 4, 5)),
    ("Australia/Sydney", date(2026, 10, 4)),
    ("Antarctica/Troll", date(2026, 3, 29)),  # two hours
    ("Pacific/Apia", date(2011, 12, 30)),  # a day
]


@pytest.mark.proves("cron-2")
@pytest.mark.parametrize(("name", "day"), CHANGES)
def test_starts_around_a_change_of_the_clock_are_those_of_cronsim(name: str, day: date) -> None:
    zone = ZoneInfo(name)
    after = datetime(day.year, day.month, day.day, tzinfo=zone) - timedelta(hours=7)
    compared = 0
    until = (after + timedelta(hours=40)).astimezone(UTC)
    for text in expressions(day.toordinal(), 80):
        _, _, *days = text.split()
        schedule = parsed(text)
        if schedule is None or days != ["*"] * 3:
            text = " ".join([*text.split()[:2], "*", "*", "*"])
            schedule = parsed(text)
        if schedule is None:
            continue
        mine = instants(snapshots.starts_after(schedule, after, zone), until)
        assert mine == instants(CronSim(text, after), until), text
        compared += 1
    assert compared > 60


def instants(moments: Iterable[datetime], until: datetime) -> list[datetime]:
    """Up to a moment, in UTC, for two times of one zone are compared without their offsets."""
    in_utc = (moment.astimezone(UTC) for moment in moments)
    return list(itertools.islice(itertools.takewhile(lambda m: m <= until, in_utc), 300))


@pytest.mark.proves("cron-2")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # 02:00 becomes 03:00 on 2026-03-29: what is skipped is started right after
        ("30 2 * * *", ["28 02:30 CET", "29 03:00 CEST", "30 02:30 CEST"]),
        ("0,30 2 * * *", ["28 02:00 CET", "28 02:30 CET", "29 03:00 CEST", "30 02:00 CEST"]),
        ("30 3 * * *", ["28 03:30 CET", "29 03:30 CEST", "30 03:30 CEST"]),
        ("*/30 2 * * *", ["28 02:00 CET", "28 02:30 CET", "30 02:00 CEST", "30 02:30 CEST"]),
    ],
)
def test_when_the_clock_is_put_forward(text: str, expected: list[str]) -> None:
    after = datetime(2026, 3, 28, tzinfo=BERLIN)
    assert [f"{s:%d %H:%M %Z}" for s in starts(text, after, BERLIN, len(expected))] == expected


@pytest.mark.proves("cron-2")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # 03:00 becomes 02:00 on 2026-10-25: once, unless minute or hour begin with *
        ("30 2 * * *", ["24 02:30 CEST", "25 02:30 CEST", "26 02:30 CET"]),
        ("30 0-4 * * *", ["25 00:30 CEST", "25 01:30 CEST", "25 02:30 CEST", "25 03:30 CET"]),
        ("30 * * * *", ["25 01:30 CEST", "25 02:30 CEST", "25 02:30 CET", "25 03:30 CET"]),
    ],
)
def test_when_the_clock_is_put_back(text: str, expected: list[str]) -> None:
    begin = {"30 2 * * *": (24, 0), "30 0-4 * * *": (25, 0), "30 * * * *": (25, 1)}[text]
    after = datetime(2026, 10, *begin, tzinfo=BERLIN)
    assert [f"{s:%d %H:%M %Z}" for s in starts(text, after, BERLIN, len(expected))] == expected


@pytest.mark.proves("cron-2")
def test_the_rarest_date_is_found() -> None:
    after = datetime(2027, 1, 1, tzinfo=UTC)
    assert starts("0 3 29 2 *", after, UTC, 1) == [datetime(2028, 2, 29, 3, tzinfo=UTC)]
    # a 29 February that is a Sunday: both day fields count, for one of them begins with *
    later = datetime(2073, 1, 1, tzinfo=UTC)
    assert starts("0 3 29 2 */7", later, UTC, 1) == [datetime(2088, 2, 29, 3, tzinfo=UTC)]
    later = datetime(2088, 3, 1, tzinfo=UTC)
    assert starts("0 3 29 2 */7", later, UTC, 1) == [datetime(2128, 2, 29, 3, tzinfo=UTC)]


@pytest.mark.proves("cron-2")
def test_the_longest_gap_is_that_of_the_starts() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    compared = 0
    for text in expressions(3, 200):
        schedule = parsed(text)
        if schedule is None or len(schedule.hours) * len(schedule.minutes) > 12:
            continue
        coming = snapshots.starts_after(schedule, begin - timedelta(minutes=1), UTC)
        few = list(itertools.takewhile(lambda s: s < begin + timedelta(days=400), coming))
        longest = snapshots.longest_gap(schedule, begin.date())
        gaps = [b - a for a, b in zip(few, few[1:])]
        assert max(gaps, default=timedelta(0)) <= longest
        if len(schedule.months) == 12 and schedule.every_day:
            assert max(gaps) == longest
            compared += 1
    assert compared > 5
    assert snapshots.longest_gap(snapshots.parse_schedule("15 3 * * *"), begin.date()).days == 1
    weekend = snapshots.parse_schedule("0 3,9 * * 1-5")
    assert snapshots.longest_gap(weekend, begin.date()) == timedelta(days=2, hours=18)
    leap = snapshots.parse_schedule("0 3 29 2 *")
    assert snapshots.longest_gap(leap, begin.date()) == timedelta(days=1461)
    assert snapshots.longest_gap(leap, date(2090, 1, 1)).days == 8 * 365 + 1


# --- in words ---


@pytest.mark.proves("cron-3")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("15 3 * * *", "at 03:15 every day"),
        ("15 3,15 * * *", "at 03:15, 15:15 every day"),
        ("0 * * * *", "at minute 0 of every hour"),
        ("* * * * *", "every minute of every hour"),
        ("0 * * * 1", "at minute 0 of every hour on Monday"),
        ("*/15 8-10 * * *", "at minute 0, 15, 30 and 45 of hour 8 to 10 every day"),
        ("0 3 * * 1-5", "at 03:00 on Monday to Friday"),
        ("0 3 * * 6,7", "at 03:00 on Sunday and Saturday"),
        ("0 3 1 * *", "at 03:00 on day 1"),
        ("0 3 13 * 5", "at 03:00 on day 13, or on any Friday"),
        ("0 3 */2 * 5", None),
        ("0 3 1-31 * 5", "at 03:00 every day"),
        ("0 3 * 1,7 *", "at 03:00 every day, in January and July"),
        ("0 3 29 2 *", "at 03:00 on day 29, in February"),
        ("0 3 13 * */5", "at 03:00 on day 13, if that is a Sunday and Friday"),
    ],
)
def test_a_schedule_is_said_in_words(text: str, words: str | None) -> None:
    said = snapshots.in_words(snapshots.parse_schedule(text))
    if words is None:
        assert said.startswith("at 03:00 on day 1, 3, 5, ")
        assert said.endswith("29 and 31, if that is a Friday")
    else:
        assert said == words


@pytest.mark.proves("cron-3")
def test_two_schedules_with_the_same_words_start_at_the_same_times() -> None:
    seen: dict[str, snapshots.Schedule] = {}
    twins = 0
    for text in expressions(4, 1500):
        schedule = parsed(text)
        if schedule is None:
            continue
        other = seen.setdefault(snapshots.in_words(schedule), schedule)
        if other is not schedule:
            twins += other.text != schedule.text
            after = datetime(2026, 1, 1, tzinfo=UTC)
            assert list(itertools.islice(snapshots.starts_after(other, after, UTC), 30)) == list(
                itertools.islice(snapshots.starts_after(schedule, after, UTC), 30)
            ), (other.text, text)
    assert twins > 5


def test_cronsim_refuses_what_it_should() -> None:
    """The oracle has an opinion of its own."""
    with pytest.raises(CronSimError):
        CronSim("61 * * * *", datetime(2026, 1, 1, tzinfo=UTC))
