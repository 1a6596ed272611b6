"""Every command of the README runs as it stands, on a machine that is a directory (fakes/programs.py).

/opt is a directory of the test, what would be downloaded is there already, and the addresses of the
clouds are in snapshots.config. PATH leads to the programs named below alone: a command that nobody
here knows ends with "not found", and its block fails.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from conftest import Project
from fakes import FakeCloud, Request, Server
from fakes.programs import GRAMMAR, parsed
from test_docs import README, ROOT, blocks
from tools import specs

import snapshots

PROGRAMS = Path(__file__).parent / "fakes" / "programs.py"

# Found on every machine, and as they are there.
REAL = ("cat", "chmod", "cp", "id", "ls", "mkdir", "mv", "rm", "sync", "uuidgen")
FAKED = (*GRAMMAR, "ssh", "pip", "python3", "vi")

# What runs elsewhere: the command, and where.
ELSEWHERE = {
    "tests/run.sh": "this is what runs this test; .ci/run calls it",
    "tests/demo.sh": ".ci/run calls it",
    ".venv/bin/python tests/tools/bench.py": "a quarter of an hour; its cases are listed below",
    ".venv/bin/python tests/fakes --port 8080 --scenario tests/fakes/example.json": (
        "it serves until it is stopped; at another port below"
    ),
}

# What the programs of others are called with: heading -> calls, in order. Where this differs, the
# README has a command that nobody has looked at.
CALLS: dict[str, list[str]] = {
    "Five-minute start": [
        "python3 -m venv .venv",
        "pip install -r requirements.txt",
    ],
    "The same by hand": ["vi configs/web.json"],
    "Telegram": ["curl -s https://api.telegram.org/botTYPED/getUpdates"],
    "Consistent snapshots": [
        "ssh root@web.example.org"
        " umask 077 && su - postgres -c pg_dumpall >/var/backups/all.sql.new &&\n"
        "  mv /var/backups/all.sql.new /var/backups/all.sql && sync",
        "su - postgres -c pg_dumpall",
        "pg_dumpall",
        "hcloud server shutdown --wait --wait-timeout 180s web",
        "hcloud server poweron web",
        "ssh root@web.example.org fsfreeze --freeze /srv/data",
        "fsfreeze --freeze /srv/data",
        "ssh root@web.example.org fsfreeze --unfreeze /srv/data",
        "fsfreeze --unfreeze /srv/data",
    ],
    "Restore at DigitalOcean": [
        "doctl compute snapshot list --resource droplet",
        "doctl compute droplet create web-restored --image 146288445 --region fra1"
        " --size s-2vcpu-4gb --wait",
        "doctl compute droplet-action rebuild 386734086 --image 146288445 --wait",
        "curl -X POST https://api.digitalocean.com/v2/droplets/386734086/actions",
    ],
    "Restore at Hetzner": [
        "hcloud image list --type snapshot",
        "hcloud server create --name web-restored --type cx23 --image 114690387",
        "hcloud server rebuild --image 114690387 web",
        "curl -X POST https://api.hetzner.cloud/v1/servers/12345678/actions/rebuild",
    ],
    "Restore at Contabo": [
        "cntb get snapshots 201234567",
        "cntb rollback snapshot 201234567 snap1628603855",
        "curl -X POST https://api.contabo.com/v1/compute/instances/201234567/snapshots"
        "/snap1628603855/rollback",
    ],
    "In a container": [
        "docker build -t snapshots .",
        f"docker run --rm --read-only --stop-timeout 120 --user {os.getuid()}:{os.getgid()}"
        " -e TZ=Europe/Berlin -v /opt/snapshots:/etc/snapshots:ro"
        " -v /opt/snapshots/logs:/var/lib/snapshots snapshots -n",
    ],
    "With a systemd timer": [
        "systemctl enable --now snapshots.timer",
        "systemctl list-timers snapshots.timer",
        "journalctl -u snapshots.service",
    ],
    "As a Kubernetes CronJob": [
        "kubectl create secret generic snapshots --from-file=snapshots.config --from-file=configs/",
        "kubectl apply -f cronjob.yaml",
        "kubectl create job --from=cronjob/snapshots snapshots-by-hand",
        "kubectl logs job/snapshots-by-hand",
    ],
    "Migrating from drhdev/snapshots 0.3": ["crontab -e"],
}

# What is typed while a block runs.
TYPED = {
    "Five-minute start": "hetzner\nCANARY-of-the-reader-0123456789\nall\n3\nnothing\nnightly\nyes\n",
    "Telegram": "TYPED\n",
}


# --- reading the README ---

PROSE = re.sub(r"^( *)```.*?^\1```$", "", README, flags=re.DOTALL | re.MULTILINE)


def commands_in_prose() -> Iterator[tuple[str, str]]:
    """(heading, command) of each `command` in running text that begins with a known program."""
    heading = ""
    for line in PROSE.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("|"):
            for span in re.findall(r"`([^`]+)`", line):
                program, _, rest = span.partition(" ")
                if rest and program in (*REAL, *FAKED) and span != "chmod 600":
                    yield heading, span


SHELL = [block for block in blocks() if block.language == "sh"]
HEADINGS = list(dict.fromkeys(block.heading for block in SHELL))


# --- the machine ---


class Machine:
    """A directory in which /opt, a home and the programs of PATH are, and a cloud."""

    def __init__(self, folder: Path, cloud: FakeCloud) -> None:
        self.folder, self.cloud = folder, cloud
        self.opt = folder / "opt"
        for name in ("opt", "home", "bin", "spool"):
            (folder / name).mkdir()
        (folder / "spool" / "mischief.json").write_text("{}")
        (folder / "calls").touch()
        for program in FAKED:
            path = folder / "bin" / program
            path.write_text(
                f'#!/bin/sh\nexec {sys.executable} {PROGRAMS} {folder} {program} "$@"\n'
            )
            path.chmod(0o755)
        for program in REAL:
            found = shutil.which(program)
            if found:
                (folder / "bin" / program).symlink_to(found)
            else:
                (folder / "bin" / program).write_text("#!/bin/sh\necho 1\n")
                (folder / "bin" / program).chmod(0o755)
        self.token = "CANARY-of-the-reader-0123456789"
        owner = cloud.add_account("hetzner", token=self.token)
        self.server: Server = cloud.add_server(owner, 12345678, "web")
        fill_in = {"id": 12345678, "name": "web", "api_token": self.token}
        (folder / "fill-in.json").write_text(json.dumps(fill_in))

    @property
    def home(self) -> Path:
        """Where the project is."""
        return self.opt / "snapshots"

    def put_the_files(self) -> None:
        """`git clone`, or a copy."""
        tracked = ["configs", "logs", "requirements.txt", "snapshots.config.sample", "snapshots.py"]
        for name in tracked:
            source, target = ROOT / name, self.home / name
            if source.is_dir():
                samples = [*source.glob("*.sample"), *source.glob(".git*")]
                target.mkdir(parents=True)
                for sample in samples:
                    shutil.copy(sample, target)
            else:
                shutil.copy(source, target)
        (self.home / "tests").symlink_to(ROOT / "tests")

    def know_the_cloud(self) -> None:
        """Instead of the network."""
        api = "".join(f"{key} = {value}\n" for key, value in self.cloud.endpoints().items())
        timing = "delay_between_servers = 0\npoll_interval = 0.1\n"
        path = self.home / "snapshots.config"
        path.write_text(f"[TIMING]\n{timing}[API]\n{api}[TELEGRAM]\nenabled = false\n")
        path.chmod(0o600)

    def install(self) -> None:
        """All of the five minutes but the runs: what comes later in the README expects it."""
        self.put_the_files()
        for command in (
            "python3 -m venv .venv",
            "cp configs/hetzner.json.sample configs/web.json",
            "chmod 600 configs/web.json",
            "vi configs/web.json",
        ):
            assert self.run(command).returncode == 0
        self.know_the_cloud()
        (self.folder / "calls").write_text("")

    def run(self, text: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """A piece of shell, where the README leaves its reader."""
        return subprocess.run(
            ["/bin/sh", "-e", "-c", text.replace("/opt/", f"{self.opt}/")],
            cwd=self.home if self.home.exists() else self.folder,
            env={
                "PATH": str(self.folder / "bin"),
                "HOME": str(self.folder / "home"),
                "PACKAGES": str(Path(requests.__file__).parent.parent),
                "TOKEN": "not-a-secret",
                "TZ": os.environ["TZ"],
            },
            input=typed,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )

    @property
    def calls(self) -> list[list[Any]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def called(self) -> list[str]:
        """What was called, without what only the tool itself calls, and curl without its -H, -d."""
        shown = []
        for _, program, *arguments in self.calls:
            if program == "crontab" and arguments != ["-e"]:
                continue
            for option in ("-H", "-d") if program == "curl" else ():
                while option in arguments:
                    at = arguments.index(option)
                    del arguments[at : at + 2]
            text = " ".join([program, *arguments]).replace(str(self.opt), "/opt")
            shown.append(text.replace(f"{self.folder}/var/", "/var/"))
        return shown

    @property
    def crontab(self) -> str:
        table = self.folder / "spool" / "table"
        return table.read_text() if table.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with FakeCloud() as cloud:
        yield Machine(tmp_path / "machine", cloud)
        assert cloud.problems == []


@pytest.fixture(autouse=True)
def folder_for_the_machine(tmp_path: Path) -> None:
    (tmp_path / "machine").mkdir()


OLD_LINE = "15 3 * * * cd /opt/snapshots && python3 snapshots.py > logs/cronjob.log 2>&1\n"


def before(machine: Machine, heading: str, number: int) -> None:
    """What the README has its reader do just before a block, in words."""
    if heading == "Five-minute start":
        if number == 0:
            machine.put_the_files()
        else:
            machine.know_the_cloud()
    elif heading == "The same by hand":
        if number == 0:
            machine.put_the_files()
            machine.run("python3 -m venv .venv")
            (machine.folder / "calls").write_text("")
        if number == 1:
            machine.know_the_cloud()
    elif heading.startswith("Migrating"):
        if number == 0:
            machine.install()
            (machine.folder / "spool" / "table").write_text(OLD_LINE)
        if number == 1:
            machine.put_the_files()
            machine.run("python3 -m venv .venv")
            (machine.folder / "calls").write_text(
                "".join(
                    line
                    for line in (machine.folder / "calls").read_text().splitlines(True)
                    if "venv" not in line
                )
            )
    elif number == 0:
        machine.install()


# --- commands ---


@pytest.mark.proves("parties-6")
@pytest.mark.parametrize("heading", HEADINGS)
def test_commands_of_the_readme_run_as_they_stand(machine: Machine, heading: str) -> None:
    for number, block in enumerate(b for b in SHELL if b.heading == heading):
        before(machine, heading, number)
        lines = [
            line
            for line in block.text.splitlines(True)
            if line.split("  #")[0].strip() not in ELSEWHERE
        ]
        done = machine.run("".join(lines), TYPED.get(heading, ""))
        assert (done.returncode, done.stderr) == (0, ""), f"README, line {block.line}"
    assert machine.called() == CALLS.get(heading, [])
    entry = "# BEGIN snapshots.py"
    if heading in ("Five-minute start", "The same by hand"):
        assert machine.cloud.names(machine.server) == [machine.cloud.created[0].name]
        assert "SUMMARY: 1 succeeded" in done.stdout or entry in machine.crontab
    if heading == "Consistent snapshots":
        assert_snapshots_lie_between_the_calls(machine)
    if heading in ("Five-minute start", "The same by hand", "Cron") or heading.startswith(
        "Migrating"
    ):
        assert machine.crontab.startswith(entry)  # the old line is out
        assert f"cd {machine.home} &&" in machine.crontab


def assert_snapshots_lie_between_the_calls(machine: Machine) -> None:
    """After the dump; while the server is off; while the file system is frozen."""
    asked = [
        r.monotonic
        for r in machine.cloud.journal
        if r.route == "POST /hz/servers/{id}/actions/create_image"
    ]
    at = {" ".join(words): when for when, *words in machine.calls}
    dump, off, on, frozen, thawed = (
        when
        for call, when in sorted(at.items(), key=lambda item: item[1])
        if call.startswith(("pg_dumpall", "hcloud", "fsfreeze"))
    )
    assert len(asked) == 3
    assert dump < asked[0] < off < asked[1] < on < frozen < asked[2] < thawed


@pytest.mark.proves("parties-6")
def test_what_is_named_as_run_elsewhere_is_in_the_readme_and_run_there() -> None:
    lines = {line.split("  #")[0].strip() for block in SHELL for line in block.text.splitlines()}
    assert set(ELSEWHERE) <= lines
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").split()
    assert {"tests/run.sh", "tests/demo.sh"} <= set(ci)
    bench = [sys.executable, str(ROOT / "tests/tools/bench.py"), "--list"]
    listed = subprocess.run(bench, capture_output=True, text=True, check=True).stdout
    assert "hetzner-100 " in listed


@pytest.mark.proves("parties-6")
@pytest.mark.parametrize("text", ["podman build .", "hcloud server destroy web", "vi", "kubectl"])
def test_a_command_that_nobody_here_knows_fails(machine: Machine, text: str) -> None:
    machine.put_the_files()
    assert machine.run(text).returncode != 0


@pytest.mark.proves("parties-6")
@pytest.mark.skipif(shutil.which("crontab") is None, reason="crontab is not installed")
def test_crontab_lines_are_ones_that_crontab_takes(tmp_path: Path) -> None:
    for block in blocks():
        if block.language == "crontab":
            path = tmp_path / "crontab"
            path.write_text(block.text)
            check = ["crontab", "-n", str(path)]
            done = subprocess.run(check, capture_output=True, text=True, check=False)
            if "invalid option" in done.stderr:
                pytest.skip("this crontab cannot only check")
            assert done.returncode == 0, done.stderr


@pytest.mark.proves("parties-6")
def test_commands_in_running_text_work(machine: Machine) -> None:
    machine.install()
    (machine.home / "snapshots.config").unlink()
    found = [command for _, command in commands_in_prose()]
    assert len(found) > 8
    for command in found:
        words = command if command != "uv run snapshots.py" else f"{command} --version"
        done = machine.run(words)
        assert (done.returncode, done.stderr) == (0, ""), command


@pytest.mark.proves("parties-6")
def test_curl_lines_ask_what_the_vendors_have() -> None:
    """Held against the vendors' documents where these are and have it; else read as JSON alone."""
    origins = {vendor: origin for origin, (_, vendor) in specs.ORIGINS.items()}
    found = 0
    for block in SHELL:
        text = block.text.replace("$TOKEN", "x").replace("$(uuidgen)", str(uuid.uuid4()))
        for line in text.splitlines():
            if not line.startswith("curl -X POST"):
                continue
            found += 1
            _, options, (url,) = parsed("curl", shlex.split(line)[1:])
            body = options["-d"][0]
            headers = dict(header.split(": ") for header in options["-H"])
            assert headers["Content-Type"] == "application/json"
            site, path = f"https://{urlsplit(url).netloc}", urlsplit(url).path
            target = origins[site] + path
            request = Request(
                *(1, "POST", target, f"POST {target}", {}, headers, body.encode()),
                *(json.loads(body), datetime.now(timezone.utc), 0.0, 0),
                target=target,
            )
            if specs.can_check and specs.is_known(request):
                assert list(specs.faults_of_request(request, folder="")) == []
    assert found == 3


@pytest.mark.proves("parties-6")
def test_the_fake_cloud_of_the_readme_is_enough_for_setup(tmp_path: Path) -> None:
    """Started, set up and run as Development says, but at a port that is free."""
    (section,) = [b.text for b in blocks() if b.heading == "Development" and b.language == "ini"]
    fakes = [sys.executable, str(ROOT / "tests/fakes")]
    scenario = ROOT / "tests/fakes/example.json"
    with subprocess.Popen(
        [*fakes, "--scenario", str(scenario)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        shown = json.loads(process.stdout.readline())
        config = tmp_path / "snapshots.config"
        text = section.replace("http://127.0.0.1:8080", shown["url"])
        config.write_text(f"{text}[TIMING]\ndelay_between_servers = 0\npoll_interval = 0.1\n")
        assert all(f"{key} = {url}\n" in text for key, url in shown["endpoints"].items())
        token, bot = "hetzner-token", "123456:bot-token"
        answers = f"hetzner\n{token}\nall\n3\ntelegram\n{bot}\n1\nyes\nnothing\nnone\n"
        for arguments, typed in (["--setup"], answers), (["-v"], ""):
            command = [sys.executable, snapshots.__file__, "--config", str(config), *arguments]
            done = subprocess.run(
                command, input=typed, text=True, capture_output=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        assert "SUMMARY: 2 succeeded, 0 failed out of 2 total" in done.stdout
        process.stdin.close()


# --- flags ---


def flags_in_prose() -> set[str]:
    found = {span for span in re.findall(r"`(--?[a-z][^`]*)`", PROSE) if "…" not in span}
    return found - {"--readme", "--wait"}  # of bench.py and hcloud


@pytest.mark.proves("parties-6")
@pytest.mark.parametrize("span", sorted(flags_in_prose()))
def test_flags_in_running_text_are_ones_that_the_script_takes(span: str) -> None:
    """As far as the parser reads them; what does not go together has tests of its own."""
    parser = snapshots.parser()
    known = {option for action in parser._actions for option in action.option_strings}
    words = shlex.split(span)
    assert all(word in known for word in words if word.startswith("-")), span
    if span.startswith("--") and len(words) > 1:
        parser.parse_args(words)


# --- environment ---

# Not read by the script itself, but by what it is built on, which README describes.
READ_BY_LIBRARIES = {"NO_PROXY", "TZ", "HOME"}
EXAMPLES = {"HETZNER_TOKEN", "NAME", "TOKEN"}


@pytest.mark.proves("parties-6")
def test_readme_names_every_environment_variable_that_counts() -> None:
    source = Path(snapshots.__file__).read_text(encoding="utf-8")
    read = set(re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', source)) | {
        name.upper() for name in snapshots.CRON_LACKS
    }
    named = {
        name
        for name in re.findall(r"`\$?\{?([A-Z][A-Z_]+)\}?`", PROSE)
        if name.endswith(("_PROXY", "_BUNDLE", "_FILE", "_DIR", "_TOKEN")) or name in EXAMPLES
    }
    mentioned = {name for name in read | READ_BY_LIBRARIES if re.search(rf"`{name}`", PROSE)}
    assert read | READ_BY_LIBRARIES == mentioned
    assert named <= read | READ_BY_LIBRARIES | EXAMPLES


# --- what is printed ---


@pytest.mark.proves("parties-6")
def test_a_dry_run_prints_what_the_readme_shows(project: Project) -> None:
    (shown,) = [block.text for block in blocks() if block.text.startswith("web: would create ")]
    project.clock.advance(
        (datetime(2026, 3, 4, 2, 15, tzinfo=timezone.utc) - project.clock.now()).total_seconds()
    )
    web = project.server("hetzner", 12345678, "web", 3)
    project.history(web, 3)
    project.cloud.add_snapshot(
        web, "before-upgrade", project.clock.now() - timedelta(days=3, hours=1)
    )
    printed = project.run("-n").out
    shown_ids = iter((101, 102, 103, 77))  # in the order of their creation here
    for snapshot in sorted(project.cloud.snapshots(web), key=lambda s: int(s.id)):
        printed = printed.replace(f"(id {snapshot.id})", f"(id {next(shown_ids)})")
    assert printed == shown
