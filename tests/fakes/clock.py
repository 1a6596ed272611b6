"""A clock whose time passes only while everybody waits.

The program under test gets its conditions and threads from its clock. This one knows them all:
as long as one thread is busy (computing, or in a real request on the loopback), time stands
still; once all of them wait, it jumps to the earliest moment that one of them waits for. So a
run of hours takes milliseconds, and is never late because the machine is slow.

It can also kill the program: from then on none of its threads gets anywhere, for all of them
look at the clock before they send anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import snapshots

REAL_SECONDS_UNTIL_STUCK = 60.0


class KilledError(BaseException):
    """What the program sees of its end; no `except Exception` can hold it up."""


class Waiter:
    """One thread that waits."""

    def __init__(self, deadline: float | None, order: int) -> None:
        self.deadline, self.order = deadline, order
        self.event = threading.Event()


class FakeCondition(threading.Condition):
    """A condition that waits in fake time."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock
        self.waiting: list[Waiter] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.clock.check()
        waiter = self.clock.begin_wait(self, timeout)
        state = self._release_save()  # type: ignore[attr-defined]
        try:
            self.clock.pass_time()
            if not waiter.event.wait(REAL_SECONDS_UNTIL_STUCK):
                raise AssertionError("a thread has waited for a real minute: is everybody stuck?")
        finally:
            self._acquire_restore(state)  # type: ignore[attr-defined]
        self.clock.check()
        return True

    def notify(self, n: int = 1) -> None:
        self.clock.release(self, n)

    def notify_all(self) -> None:
        self.clock.release(self, None)


class FakeClock:
    """See the module's text. `at` is the time it begins with."""

    def __init__(self, at: str = "2025-06-01T03:00:00+00:00") -> None:
        self.begin = datetime.fromisoformat(at).astimezone(timezone.utc)
        self.elapsed = 0.0
        self._mutex = threading.Lock()
        self._busy = 1  # the thread that runs main
        self._order = 0
        self._waiters: dict[Waiter, FakeCondition] = {}
        self._life = 0  # how often the program has been killed
        self._lives = threading.local()  # in which life each of the program's threads was started
        self._lives.value = self._life  # who makes the clock will run main
        self._threads: list[threading.Thread] = []
        self.stuck = ""
        self.refused_threads: set[str] = set()  # names: the machine has none left for these

    # --- what the program sees ---

    def now(self) -> datetime:
        self.check()
        return self.begin + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        self.check()
        return 1000.0 + self.elapsed

    def condition(self) -> threading.Condition:
        return FakeCondition(self)

    def start(self, target: Callable[[], Any], name: str) -> None:
        if name in self.refused_threads:
            raise RuntimeError("can't start new thread")
        self.check()
        with self._mutex:
            self._busy += 1
            life = self._life

        def run() -> None:
            self._lives.value = life
            try:
                target()
            except KilledError:
                return
            finally:
                with self._mutex:
                    alive = life == self._life
                    self._busy -= alive
                if alive:
                    self.pass_time()

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    # --- what tests use ---

    def advance(self, seconds: float) -> None:
        """Between runs: let time pass."""
        self.elapsed += seconds

    def kill(self) -> None:
        """The program ends here, at whatever it is doing. Called by the cloud, in a request."""
        with self._mutex:
            self._life += 1
            self._busy = 1
            for waiter, condition in self._waiters.items():
                condition.waiting.remove(waiter)
                waiter.event.set()
            self._waiters.clear()

    def bury(self) -> None:
        """After a kill, in the thread that ran main: wait until nothing of the program is left."""
        for thread in self._threads:
            thread.join(REAL_SECONDS_UNTIL_STUCK)
            assert not thread.is_alive(), f"{thread.name} outlives its program"
        self._threads.clear()
        self._lives.value = self._life

    # --- how it works ---

    def check(self) -> None:
        """Raise KilledError in a thread of a program that has been killed."""
        if getattr(self._lives, "value", self._life) != self._life:  # the cloud's have none
            raise KilledError

    def begin_wait(self, condition: FakeCondition, timeout: float | None) -> Waiter:
        with self._mutex:
            self._order += 1
            # a microsecond at least: less might be lost in rounding, and time would stand still
            deadline = None if timeout is None else self.elapsed + max(1e-6, timeout)
            waiter = Waiter(deadline, self._order)
            self._waiters[waiter] = condition
            condition.waiting.append(waiter)
            self._busy -= 1
        return waiter

    def release(self, condition: FakeCondition, count: int | None) -> None:
        with self._mutex:
            for waiter in condition.waiting[:count]:
                self._wake(waiter)

    def _wake(self, waiter: Waiter) -> None:
        condition = self._waiters.pop(waiter)
        condition.waiting.remove(waiter)
        self._busy += 1
        waiter.event.set()

    def pass_time(self) -> None:
        """If all wait, jump to the next deadline and wake the one who waits for it."""
        with self._mutex:
            if self._busy > 0:
                return
            timed = [w for w in self._waiters if w.deadline is not None]
            if not timed:
                self.stuck = f"{len(self._waiters)} threads wait for ever"
                return
            first = min(timed, key=lambda w: (w.deadline, w.order))
            assert first.deadline is not None
            self.elapsed = max(self.elapsed, first.deadline)
            self._wake(first)


class Shifted:
    """The clock of a cloud where ours is so many seconds behind, or ahead."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def now(self) -> datetime:
        return self.clock.now() + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.clock.monotonic()


class CountingCondition(threading.Condition):
    """A condition that waits in real time, and knows how many do."""

    waiting = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waiting += 1
        try:
            return super().wait(timeout)
        finally:
            self.waiting -= 1


class CountingClock(snapshots.SystemClock):
    """The real time, and how many threads wait for it or for each other."""

    def __init__(self) -> None:
        self.conditions: list[CountingCondition] = []

    def condition(self) -> threading.Condition:
        condition = CountingCondition()
        self.conditions.append(condition)
        return condition

    def until_waiting(self, count: int) -> None:
        """Return when so many wait."""
        while sum(condition.waiting for condition in self.conditions) < count:
            time.sleep(0.005)
