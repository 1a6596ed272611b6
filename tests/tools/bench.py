#!/usr/bin/env python3
"""What a run costs: time, requests, memory, CPU and connections, for fleets of several shapes.

Each case runs the real script as a process of its own against the fake cloud, which is another
process, answers each request after 50 ms, enforces the documented rate limits and gives the
documented page sizes. Every server has three snapshots of its own of the nights before and keeps
three, so its turn is a create, a wait, a listing, a deletion and a listing.

    python tests/tools/bench.py                  all cases but the longest, some 12 minutes
    python tests/tools/bench.py hetzner-100      one of them
    python tests/tools/bench.py --list
    python tests/tools/bench.py --readme         all cases, and the tables go into the README

It measures, it is no test: on a busy machine the times are worth little. Exit status 1 if a
case misses what it is to reach.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

HERE = Path(__file__).resolve().parent.parent  # tests/
SCRIPT = HERE.parent / "snapshots.py"
README = HERE.parent / "README.md"
LATENCY_SECONDS = 0.05
NIGHTS = 3  # snapshots that each server has, and keeps
LIMIT_SECONDS = 3600.0  # a run that takes longer is ended
TOP_KEYS = {
    "digitalocean": "digitalocean_droplet",
    "hetzner": "hetzner_cloud_server",
    "contabo": "contabo_instance",
}
KINDS = ("create", "poll", "list", "delete", "check", "token", "other")
Results = dict[str, "Result"]


# === What is run ===============================================================================


@dataclass(frozen=True)
class Case:
    """accounts: a provider and how long each of its servers' snapshots takes, in seconds."""

    name: str
    title: str
    accounts: tuple[tuple[str, tuple[float, ...]], ...]
    workers: Optional[int]  # max_parallel; None: the default
    target: str
    missed: Callable[[Result, Results], list[str]]  # what is not as it should be
    by_packing: bool = False  # compare with the best packing, not with the slowest snapshot
    only_named: bool = False  # runs only when it is asked for by its name

    @property
    def servers(self) -> int:
        return sum(len(durations) for _, durations in self.accounts)

    @property
    def slots(self) -> int:
        """How many servers can be in their turn at once."""
        return min(self.servers, self.workers or 10)

    @property
    def ideal(self) -> float:
        """No run can be faster, if only snapshots took time."""
        all_of_them = [seconds for _, durations in self.accounts for seconds in durations]
        packed = sum(all_of_them) / self.slots if self.by_packing else 0.0
        return max(packed, *all_of_them)


@dataclass
class Result:
    """What a run cost."""

    case: Case
    code: int
    wall: float
    cpu: float
    megabytes: float
    requests: dict[str, int]
    connections: int
    too_many: int  # answers 429
    problems: list[str]
    bare: float = 0.0  # seconds that Python and requests alone take, where that is of interest
    missed: list[str] = field(default_factory=list)

    @property
    def per_server(self) -> float:
        """Requests."""
        return sum(self.requests.values()) / self.case.servers

    @property
    def cpu_per_server(self) -> float:
        return self.cpu / self.case.servers


def at_most(what: str, value: float, limit: float) -> list[str]:
    return [] if value <= limit else [f"{what} {value:.3g}, not at most {limit:.3g}"]


def at_once(
    provider: str,
    durations: Sequence[float],
    factor: float,
    requests: float,
    name: str,
    title: str,
    *,
    few_connections: bool = False,
) -> Case:
    """One account, all servers at once, to be compared with the slowest snapshot."""

    def missed(result: Result, _: Results) -> list[str]:
        found = at_most("wall time / slowest", result.wall / result.case.ideal, factor)
        found += at_most("requests per server", result.per_server, requests)
        if few_connections:
            found += at_most("connections", result.connections, result.case.slots)
        return found

    return Case(
        name,
        title,
        ((provider, tuple(durations)),),
        len(durations),
        f"≤ {factor} x the slowest, ≤ {requests} requests per server"
        + (", no more connections than workers" if few_connections else ""),
        missed,
    )


def spread(count: int) -> Case:
    def missed(result: Result, results: Results) -> list[str]:
        found = at_most("wall time", result.wall, result.case.ideal + 40)
        found += at_most("requests per server", result.per_server, 4.5)
        half = results.get(f"hetzner-spread-{count // 2}")
        if half is not None:  # within 1 %: a straggler's poll is no growth
            than = f"requests per server, against {count // 2}"
            found += at_most(than, result.per_server, 1.01 * half.per_server)
        return found

    return Case(
        f"hetzner-spread-{count}",
        f"{count} Hetzner servers at once, 20 to 120 s",
        (("hetzner", tuple(20 + 100 * n / (count - 1) for n in range(count))),),
        count,
        "≤ the slowest + 40 s, ≤ 4.5 requests per server"
        + (", no more (within 1 %) than with 100" if count == 200 else ""),
        missed,
    )


def defaults(provider: str, title: str, factor: float) -> Case:
    def missed(result: Result, _: Results) -> list[str]:
        found = at_most("wall time / ideal packing", result.wall / result.case.ideal, factor)
        return found + at_most("requests per server", result.per_server, 7)

    return Case(
        f"defaults-{provider}",
        f"100 {title} on defaults but delay 0 (10 at once), 5 to 15 s",
        ((provider, tuple(5 + 10 * (n * 37 % 100) / 99 for n in range(100))),),
        None,
        f"≤ {factor} x the ideal packing, ≤ 7 requests per server",
        missed,
        by_packing=True,
    )


def contabo() -> Case:
    def missed(result: Result, _: Results) -> list[str]:
        found = at_most("wall time / slowest", result.wall / result.case.ideal, 1.4)
        return found + at_most("requests per server", result.per_server, 7)

    return Case(
        "contabo-50",
        "50 Contabo instances of 4 API users at once, 30 s",
        tuple(("contabo", (30.0,) * count) for count in (13, 13, 12, 12)),
        50,
        "≤ 1.4 x the slowest, ≤ 7 requests per server",
        missed,
    )


def growing(count: int) -> Case:
    """Hetzner and DigitalOcean in turn, up to 100 servers an account."""

    def missed(result: Result, results: Results) -> list[str]:
        found = []
        if count == 1000:
            found += at_most("peak memory in MB", result.megabytes, 150)
            found += at_most("answers 429", result.too_many, 0)
            found += at_most("requests per server", result.per_server, 3.6)
        before = results.get(f"fleet-{count // 10}")
        if before is not None:
            than = f"per server, against {count // 10}"
            found += at_most(f"CPU {than}", result.cpu_per_server, 1.05 * before.cpu_per_server)
            if count < 1000:  # which do not start all at once: each wave asks for its listings
                # a straggler that needs a poll or a listing of its own is no growth
                found += at_most(f"requests {than}", result.per_server, 1.01 * before.per_server)
        return found

    accounts = {1: 1, 10: 2, 100: 2, 1000: 10}[count]
    as_linear = "CPU per server (within 5 %) no higher"
    shown = "one account" if accounts == 1 else f"{accounts} accounts"
    return Case(
        f"fleet-{count}",
        f"{count:,} server{'s' * (count > 1)}, {shown}, 200 at once, 10 s",
        tuple(
            (("hetzner", "digitalocean")[n % 2], (10.0,) * (count // accounts))
            for n in range(accounts)
        ),
        200,
        {
            1: "-",
            1000: f"completes, < 150 MB, no 429, {as_linear} than at 100, ≤ 3.6 requests per server",
        }.get(count, f"{as_linear}, requests (within 1 %) no more than at {count // 10}"),
        missed,
        by_packing=True,
    )


def one_project() -> Case:
    """As many as Hetzner's requests allow: 3,600 at once, and one a second."""

    def missed(result: Result, _: Results) -> list[str]:
        return at_most("answers 429", result.too_many, 0)

    return Case(
        "hetzner-1000",
        "1,000 servers in one Hetzner project, 50 at once, 60 s",
        (("hetzner", (60.0,) * 1000),),
        50,
        "completes, no 429",
        missed,
        by_packing=True,
        only_named=True,
    )


def single() -> Case:
    def missed(result: Result, _: Results) -> list[str]:
        return at_most("polls", result.requests["poll"], 1)

    return Case(
        "single", "1 Hetzner server, instant", (("hetzner", (0.0,)),), None, "under 2 polls", missed
    )


CASES = (
    at_once(
        "hetzner",
        (30.0,) * 100,
        1.4,  # creates go one after the other
        3.6,
        "hetzner-100",
        "100 Hetzner servers at once, 30 s",
        few_connections=True,
    ),
    at_once(
        "digitalocean",
        (30.0,) * 100,
        2.1,  # more requests than DigitalOcean takes in a minute: the last go in the second
        3.6,
        "droplets-100",
        "100 droplets at once, 30 s",
    ),
    spread(100),
    spread(200),
    defaults("hetzner", "Hetzner servers", 1.45),
    defaults("digitalocean", "droplets", 1.3),
    contabo(),
    growing(1),
    growing(10),
    growing(100),
    growing(1000),
    single(),
    one_project(),
)


# === How it is run =============================================================================


def scenario_of(case: Case) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the cloud's, the content of each server file)"""
    accounts: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    for number, (provider, durations) in enumerate(case.accounts, 1):
        credentials = {"api_token": f"bench-token-of-account-{number}"}
        account: dict[str, Any] = {"provider": provider, "servers": []}
        if provider == "contabo":
            credentials = {
                "client_id": f"bench-client-{number}",
                "client_secret": f"bench-client-secret-{number}",
                "api_user": f"bench-{number}@example.org",
                "api_password": f"bench-password-{number}",
            }
            account.update(credentials)
        else:
            account["token"] = credentials["api_token"]
        for seconds in durations:
            ident = 10_001 + len(files)
            name = f"server-{ident}"
            account["servers"].append(
                {
                    "id": ident,
                    "name": name,
                    "duration_seconds": seconds,
                    "slots": NIGHTS + 1,
                    "snapshots": [
                        {"name": f"{name}-{{stamp}}", "age_days": night}
                        for night in range(NIGHTS, 0, -1)
                    ],
                }
            )
            content = {"id": ident, "name": name, "retain_last_snapshots": NIGHTS, **credentials}
            files.append({TOP_KEYS[provider]: content})
        accounts.append(account)
    return {"accounts": accounts}, files


def write_project(folder: Path, case: Case, endpoints: dict[str, str]) -> Path:
    """A directory as a user has it; returns the path of snapshots.config."""
    (folder / "configs").mkdir()
    for number, content in enumerate(scenario_of(case)[1]):
        path = folder / "configs" / f"{number:04d}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        path.chmod(0o600)
    timing = "delay_between_servers = 0\n"
    if case.workers is not None:
        timing += f"max_parallel = {case.workers}\n"
    api = "".join(f"{key} = {value}\n" for key, value in endpoints.items())
    config = folder / "snapshots.config"
    config.write_text(
        f"[TIMING]\n{timing}[TELEGRAM]\nenabled = false\n[API]\n{api}", encoding="utf-8"
    )
    config.chmod(0o600)
    return config


def environment() -> dict[str, str]:
    """This process's own, without proxies."""
    return {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}


@dataclass
class Spent:
    """What a process cost."""

    code: int
    wall: float
    cpu: float
    megabytes: float


def run_process(arguments: Sequence[str], folder: Path) -> Spent:
    """Run a process to its end; what it prints goes into a file of the folder."""
    with (folder / "output.txt").open("wb") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment()
        )
        guard = threading.Timer(LIMIT_SECONDS, process.kill)
        guard.daemon = True
        guard.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            guard.cancel()
        wall = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return Spent(process.returncode, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit)


def bare_seconds(folder: Path) -> float:
    """What Python takes to start and to import requests."""
    command = [sys.executable, "-c", "import requests"]
    return statistics.median(run_process(command, folder).wall for _ in range(7))


def kind_of(route: str) -> str:
    """Of a request: one of KINDS."""
    method, _, path = route.partition(" ")
    if path.startswith("/cb-auth"):
        return "token"
    if method == "DELETE":
        return "delete"
    if method == "POST":
        return "create"
    if "/actions" in path:
        return "poll"
    if path.endswith(("/images/{id}", "/snapshots/{id}", "/snapshots/{sid}")):
        return "check"  # is this one gone?
    return "list" if path.endswith(("/images", "/snapshots")) else "other"


def ask(url: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=60) as answer:
        return json.load(answer)


def measure(case: Case) -> Result:
    """Run one case."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scenario = folder / "scenario.json"
        scenario.write_text(json.dumps(scenario_of(case)[0]), encoding="utf-8")
        cloud = subprocess.Popen(
            [
                sys.executable,
                str(HERE / "fakes"),
                *("--scenario", str(scenario), "--latency", str(LATENCY_SECONDS)),
                "--rate-limits",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert cloud.stdin is not None
        assert cloud.stdout is not None
        try:
            told = json.loads(cloud.stdout.readline())
            config = write_project(folder, case, told["endpoints"])
            spent = run_process([sys.executable, str(SCRIPT), "--config", str(config)], folder)
            summary = ask(f"{told['url']}/control/summary")
            journal = ask(f"{told['url']}/control/journal")
            state = ask(f"{told['url']}/control/state")
            bare = bare_seconds(folder) if case.name == "single" else 0.0
        finally:
            cloud.stdin.close()
            try:
                cloud.wait(10)
            except subprocess.TimeoutExpired:
                cloud.kill()
                cloud.wait()
            cloud.stdout.close()
        requests = dict.fromkeys(KINDS, 0)
        for row in journal:
            requests[kind_of(row["route"])] += 1
        result = Result(
            case,
            spent.code,
            spent.wall,
            spent.cpu,
            spent.megabytes,
            requests,
            summary["connections"],
            sum(row["status"] == 429 for row in journal),
            list(summary["problems"]),
            bare,
        )
        if spent.code != 0:
            printed = (folder / "output.txt").read_text("utf-8", "replace").splitlines()
            result.problems += [f"exit status {spent.code}", *printed[-5:]]
        if summary["created"] != case.servers or summary["deleted"] != case.servers:
            result.problems.append(
                f"{summary['created']} created and {summary['deleted']} deleted"
                f" for {case.servers} servers"
            )
        if any(len(server["snapshots"]) != NIGHTS for server in state):
            result.problems.append(f"a server has not {NIGHTS} snapshots")
        return result


# === What is shown =============================================================================

HEAD = (
    "case",
    "wall",
    "of the ideal",
    *("create", "poll", "list", "delete", "check", "token", "all"),
    "peak MB",
    "CPU s",
    "CPU ms per server",
    "connections",
    "to reach",
    "",
)


def multiple_of(result: Result) -> str:
    case = result.case
    if case.name == "single":
        return f"{result.wall - result.bare:.2f} s more than `import requests` alone"
    return f"{result.wall / case.ideal:.2f} x {'packing' if case.by_packing else 'slowest'}"


def row_of(result: Result) -> list[str]:
    case = result.case

    def each(number: int) -> str:
        return f"{number / case.servers:.2f}"

    other = result.requests["other"]
    return [
        case.title,
        f"{result.wall:.1f} s",
        multiple_of(result),
        *(each(result.requests[kind]) for kind in KINDS[:-1]),
        f"{result.per_server:.2f}" + (f" ({other} others)" if other else ""),
        f"{result.megabytes:.0f}",
        f"{result.cpu:.2f}",
        f"{1000 * result.cpu_per_server:.0f}",
        f"{result.connections}",
        case.target,
        "✗" if result.missed else "✓",
    ]


def table_of(results: Sequence[Result]) -> str:
    rows = [list(HEAD), *map(row_of, results)]
    rule = ["---" if n in (0, 14) else "---:" for n in range(len(HEAD))]
    rows.insert(1, rule)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def machine() -> str:
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = f", {size / 2**30:.0f} GB of memory"
    return (
        f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores{memory},"
        f" {platform.python_implementation()} {platform.python_version()};"
        " script and cloud share the machine, each request takes 50 ms."
        " Requests are per server; polls are those for running actions, at Contabo the listing"
        " stands for them."
    )


# provider -> (what has a rate limit of its own, the case that tells the requests of a server)
LIMITED = {
    "hetzner": ("Hetzner, a project", "defaults-hetzner"),
    "digitalocean": ("DigitalOcean, a token", "defaults-digitalocean"),
    "contabo": ("Contabo, an API user", "contabo-50"),
}


def capacity_of(table: str) -> str:
    """How many servers an hour each provider's rate limit allows, by the table of all cases."""
    sys.path.insert(0, str(SCRIPT.parent))
    import snapshots

    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    requests = {row[0]: float(row[HEAD.index("all")].split()[0]) for row in rows[2:]}
    titles = {case.name: case.title for case in CASES}
    lines = ["| rate limit | requests an hour | requests per server | servers an hour |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for provider, (title, case) in LIMITED.items():
        an_hour = min(
            3600 / limit.seconds * (1 if limit.one_by_one else limit.count)
            for limit in snapshots.PROVIDERS[provider].limits()
        )
        each = requests[titles[case]]
        lines.append(f"| {title} | {an_hour:,.0f} | {each:.2f} | {int(an_hour / each):,} |")
    return "\n".join(lines)


def write_readme(name: str, text: str) -> None:
    """Put a text between the lines that begin and end it."""
    content = README.read_text(encoding="utf-8")
    begins, ends = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    head, begin, rest = content.partition(begins)
    _, end, tail = rest.partition(ends)
    if not begin or not end:
        raise SystemExit(f"{README.name} has no lines {begins.strip()} and {ends}")
    README.write_text(head + begin + text + "\n" + end + tail, encoding="utf-8")


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Measure runs of snapshots.py")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="default: all but the longest")
    parser.add_argument("--list", action="store_true", help="show the names of the cases")
    parser.add_argument("--readme", action="store_true", help="put the table into the README")
    args = parser.parse_args(argv)
    known = {case.name: case for case in CASES}
    if args.list:
        for case in CASES:
            print(f"{case.name:20} {case.title}: {case.target}")
        return 0
    unknown = sorted(set(args.cases) - set(known))
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)} (see --list)")
    if args.readme and args.cases:
        parser.error("--readme is about all cases")
    results: Results = {}
    for case in CASES:
        if case.name not in args.cases and (args.cases or case.only_named):
            continue
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        result = results[case.name] = measure(case)
        result.missed = [*result.problems, *case.missed(result, results)]
        print(f"  {' | '.join(row_of(result)[1:-2])}", file=sys.stderr, flush=True)
        for missed in result.missed:
            print(f"  missed: {missed}", file=sys.stderr, flush=True)
    table = table_of(list(results.values()))
    print(f"{table}\n\n{machine()}")
    if args.readme:
        write_readme("bench", f"{table}\n\n{machine()}")
        write_readme("capacity", capacity_of(table))
    return int(any(result.missed for result in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())
