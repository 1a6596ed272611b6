"""Beyond one machine: the README's recipes for containers, timers, Kubernetes, and several hosts."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PROVIDERS, Project, Tab
from fakes import FakeCloud
from fakes.programs import parsed
from test_cli import Place, place  # noqa: F401
from test_crash import fleet, start
from test_crontab import scheduled  # noqa: F401
from test_docs import README, blocks, part
from test_pings import watched
from test_readme import Machine
from tools import bench

import snapshots

HADOLINT = Path(sys.executable).with_name("hadolint")


def block(language: str, heading: str) -> str:
    (found,) = [b.text for b in blocks() if (b.language, b.heading) == (language, heading)]
    return found


# --- a container ---

CONTAINER = "In a container"
CLUSTER = "As a Kubernetes CronJob"


def instructions() -> list[tuple[str, str]]:
    """[(FROM, ...), (COPY, ...), ...] of the Dockerfile."""
    text = block("dockerfile", CONTAINER).replace("\\\n", " ")
    return [(words[0], words[2]) for words in (line.partition(" ") for line in text.splitlines())]


@pytest.mark.proves("hosts-1")
@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is not installed")
def test_hadolint_has_nothing_to_say_about_the_image() -> None:
    done = subprocess.run(
        [HADOLINT, "--no-color", "-"],
        input=block("dockerfile", CONTAINER),
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def image(machine: Machine) -> tuple[Path, list[str]]:
    """(the root of what `docker build` would make, what it starts). pip finds all downloaded."""
    machine.install()
    root = machine.folder / "image"
    root.mkdir()
    entry: list[str] = []
    for instruction, rest in instructions():
        if instruction == "COPY":
            *names, target = rest.split()
            (root / target.lstrip("/")).mkdir(parents=True)
            for name in names:
                shutil.copy(machine.home / name, root / target.lstrip("/"))
        elif instruction == "RUN":
            done = machine.run(rest.replace("/opt/snapshots/", "./"))
            assert (done.returncode, done.stderr) == (0, "")
        elif instruction == "ENTRYPOINT":
            entry = json.loads(rest)
        else:
            assert instruction == "FROM"
    return root, entry


def contained(
    root: Path, mounts: Sequence[tuple[Path, str, bool]], command: Sequence[str], *who: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command with the root, and all around it, read-only, and without any privilege.

    who: more for setpriv. mounts: (what, where inside, read-only?). Paths inside are those of the command, below root.
    """
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("only root can give a process file systems of its own")
    script = [f"mount --bind {root} {root}"]
    for what, inside, read_only in mounts:
        (root / inside.lstrip("/")).mkdir(parents=True, exist_ok=True)
        script.append(f"mount --bind {what} {root}{inside}")
        if read_only:
            script.append(f"mount -o remount,bind,ro {root}{inside}")
    script += [f"mount -o remount,bind,ro {root}", "mount -o remount,bind,ro /"]
    script += [f"if touch {root}/x 2>&-; then exit 99; fi"]
    script += [f'exec setpriv --bounding-set=-all --no-new-privs {" ".join(who)} -- "$@"']
    inside_root = [
        word if not word.startswith("/") or Path(word) == Path(sys.executable) else f"{root}{word}"
        for word in command
    ]
    return subprocess.run(
        ["unshare", "-m", "sh", "-ec", "\n".join(script), "sh", *inside_root],
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def configuration(machine: Machine, root: Path, heading: str) -> str:
    """The README's, with the directories inside that root, and the cloud's addresses."""
    text = block("ini", heading).replace("= /var/", f"= {root}/var/")
    return text + (machine.home / "snapshots.config").read_text()


@pytest.fixture
def machine(place: Place, tmp_path: Path) -> Machine:  # noqa: F811
    (tmp_path / "machine").mkdir()
    return Machine(tmp_path / "machine", place.cloud)


@pytest.mark.proves("hosts-1")
def test_the_image_runs_with_a_read_only_root(machine: Machine) -> None:
    root, (program, *arguments) = image(machine)
    config = machine.home / "snapshots.config"
    config.write_text(configuration(machine, root, CONTAINER))
    commands = block("sh", CONTAINER).replace("\\\n", "").splitlines()
    (run,) = [line for line in commands if line.startswith("docker run")]
    _, options, (name, *flags) = parsed("docker", shlex.split(run)[1:])
    assert (program, name, flags) == ("python", "snapshots", ["-n"])
    assert options["--read-only"]
    mounts = []
    for volume in options["-v"]:
        host, inside, *how = volume.split(":")
        mounts.append((machine.opt / host.split("/", 2)[2], inside, how == ["ro"]))
    assert [read_only for *_, read_only in mounts] == [True, False]
    for more, said in ((["-n"], "web: would create "), ([], "SUMMARY: 1 succeeded")):
        done = contained(root, mounts, [sys.executable, *arguments, *more])
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(said)
    assert machine.cloud.names(machine.server) == [machine.cloud.created[0].name]
    logs = {path.name for path in (machine.home / "logs").iterdir()}
    assert {"snapshots.log", "snapshots.lock", "history.db"} <= logs


@pytest.mark.proves("hosts-1")
@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not installed")
def test_docker_takes_the_options() -> None:
    """It comes as far as looking for its engine, which an option that it does not know forbids."""
    commands = block("sh", CONTAINER).replace("\\\n", "")
    for options, said in (("", "daemon"), ("--no-such-option ", "unknown flag")):
        (run,) = [line for line in commands.splitlines() if line.startswith("docker run")]
        done = subprocess.run(
            ["sh", "-c", run.replace("--rm ", f"--rm {options}")],
            env={"PATH": os.environ["PATH"], "DOCKER_HOST": "unix:///nowhere/at-all"},
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode != 0
        assert said in done.stderr


# --- Kubernetes ---


def manifests() -> dict[str, Any]:
    return {m["kind"]: m for m in yaml.safe_load_all(block("yaml", CLUSTER))}


@pytest.mark.proves("hosts-2")
@pytest.mark.parametrize("version", ["1.27", "1.31", "latest"])
def test_kubernetes_takes_the_manifests(version: str) -> None:
    """By the vendor's schemas, in which no unknown field may be."""
    validate = pytest.importorskip("kubernetes_validate")
    for manifest in manifests().values():
        wanted = validate.latest_version() if version == "latest" else version
        validate.validate(manifest, wanted, strict=True)
    wrong = manifests()["CronJob"]
    wrong["spec"]["jobTemplate"]["spec"]["backoffLimits"] = 0
    with pytest.raises(validate.ValidationError):
        validate.validate(wrong, "1.31", strict=True)


@pytest.mark.proves("hosts-2")
def test_a_cronjob_runs_from_its_secret_with_a_read_only_root(machine: Machine) -> None:
    """The secret's files as the kubelet mounts them: links to links, for the group to read."""
    found = manifests()
    cron = found["CronJob"]["spec"]
    pod = cron["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    inside = container["securityContext"]
    assert cron["concurrencyPolicy"] == "Forbid"
    assert cron["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never"
    assert inside["readOnlyRootFilesystem"]
    assert inside["capabilities"] == {"drop": ["ALL"]}
    snapshots.parse_schedule(cron["schedule"])
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    assert (
        volumes["logs"]["persistentVolumeClaim"]["claimName"]
        == (found["PersistentVolumeClaim"]["metadata"]["name"])
    )
    secret, group = volumes["configuration"]["secret"], pod["securityContext"]["fsGroup"]
    assert f"secret generic {secret['secretName']} " in block("sh", CLUSTER)

    root, (_, *arguments) = image(machine)
    mounted = {
        m["name"]: (m["mountPath"], m.get("readOnly", False)) for m in container["volumeMounts"]
    }
    volume, logs = machine.folder / "secret", machine.folder / "claim"
    data = volume / "..2026_11_25_03_15_00.123"
    data.mkdir(parents=True)
    logs.mkdir()
    (volume / "..data").symlink_to(data.name)
    files = {"snapshots.config": configuration(machine, root, CLUSTER)}
    for path in (machine.home / "configs").iterdir():
        files[path.name] = path.read_text()
    for name, text in files.items():
        (data / name).write_text(text)
        os.chown(data / name, 0, group) if os.geteuid() == 0 else None
        (data / name).chmod(secret["defaultMode"])
        (volume / name).symlink_to(f"..data/{name}")
    done = contained(
        root,
        [(volume, *mounted["configuration"]), (logs, *mounted["logs"])],
        [sys.executable, *arguments, *container["args"]],
        f"--groups={group}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "SUMMARY: 1 succeeded" in done.stdout
    assert "can be read by others" not in done.stdout
    assert {"snapshots.log", "snapshots.lock", "history.db"} <= {p.name for p in logs.iterdir()}


# --- systemd ---


@pytest.mark.proves("hosts-3")
def test_the_units_shown_are_those_that_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path("/opt/snapshots")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    command = [f"{base}/.venv/bin/python", f"{base}/snapshots.py"]
    job = snapshots.CronJob(base / "snapshots.config", base / "logs", command)
    printed = snapshots.systemd_units(job, snapshots.parse_schedule("nightly"))
    assert block("systemd", "With a systemd timer") == printed + "\n"


# --- several hosts ---


@pytest.mark.proves("hosts-4")
def test_two_hosts_with_the_same_servers_take_two_snapshots_a_night_and_lose_nothing(
    tmp_path: Path,
) -> None:
    """Each with a directory of its own, one after the other. For both in the same second see
    test_two_machines_with_the_same_servers_never_make_two_snapshots_at_once."""
    with FakeCloud() as cloud:
        here, there = tmp_path / "here", tmp_path / "there"
        here.mkdir()
        config, servers = fleet(here, cloud)
        by_hand = [s for s in cloud.snapshots() if s.name == "by hand"]
        nights_before = len(cloud.snapshots()) - len(by_hand)
        shutil.copytree(here, there)
        for folder in (here, there):
            run = start(folder / config.name)
            assert (run.communicate(timeout=60)[1], run.returncode) == ("", 0)
        for server in servers:
            made = [s for s in cloud.created if s.server is server]
            assert len(made) == 2
            left = [s for s in cloud.snapshots(server) if s not in by_hand]
            assert left == made  # retain_last_snapshots = 2
        assert set(by_hand) <= set(cloud.snapshots())
        assert len(cloud.deleted) == nights_before
        assert cloud.problems == []


@pytest.mark.proves("hosts-4")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_copy_of_a_server_file_that_is_taken_out_again_costs_nothing(
    project: Project, tmp_path: Path, provider: str
) -> None:
    """Nights of two hosts, then of one: the last so many stay, by the same rule as ever."""
    server = project.server(provider, 11, "web", retain=4, slots=6)
    by_hand = project.cloud.add_snapshot(server, "by hand", project.clock.now())
    other = Project(tmp_path / "other", project.cloud, project.clock, project.capsys)
    shutil.copytree(tmp_path / "configs", other.folder / "configs")
    other.config, other.canaries = project.config, project.canaries
    made = []
    for _night in range(3):
        for host in (project, other):
            project.clock.advance(600)
            assert host.run().code == 0
            made.append(project.cloud.created[-1])
        project.clock.advance(22 * 3600)
    assert [s for s in project.cloud.snapshots(server) if s is not by_hand] == made[-4:]
    for _night in range(3):
        assert project.run().code == 0
        made.append(project.cloud.created[-1])
        project.clock.advance(24 * 3600)
    assert [s for s in project.cloud.snapshots(server) if s is not by_hand] == made[-4:]
    assert by_hand in project.cloud.snapshots(server)


@pytest.mark.proves("hosts-4")
def test_each_host_sees_its_own_servers(project: Project, tmp_path: Path) -> None:
    """Nothing is shared but the account: --status and the history know a host's own servers, and
    --check only warns of the others'."""
    project.server("hetzner", 11, "here")
    other = Project(tmp_path / "other", project.cloud, project.clock, project.capsys)
    other.folder.mkdir()
    other.accounts, other.config = project.accounts, project.config
    other.server("hetzner", 12, "there")
    for host, own, foreign in ((project, "here", "there"), (other, "there", "here")):
        assert host.run().code == 0
        status = json.loads(host.run("--status", "--json").out)
        assert [server["name"] for server in status["servers"]] == [own]
        check = host.run("--check")
        assert check.code == 0
        assert re.search(
            rf"^warning  {foreign} +Hetzner server .* is covered by no", check.out, re.M
        )


@pytest.mark.proves("hosts-4")
def test_each_host_has_its_own_ping_entry_and_overdue(
    scheduled: Tab,  # noqa: F811
    tmp_path: Path,
) -> None:
    """One host sleeps through the night: its monitor hears nothing and it is OVERDUE, it alone."""
    here, crontab_here = scheduled.project, scheduled.text
    there = Project(tmp_path / "there", here.cloud, here.clock, here.capsys)
    there.folder.mkdir()
    there.accounts, there.config = here.accounts, {**here.config}
    there.server("hetzner", 2, "shop")
    checks = [watched(host) for host in (here, there)]
    scheduled.set("")  # each has a crontab of its own
    assert there.run("--install-cron", "nightly").code == 0
    crontab_there = scheduled.text
    here.clock.advance(20 * 60)
    assert here.run().code == 0
    here.clock.advance(2 * 3600)
    for host, crontab, status in ((here, crontab_here, 0), (there, crontab_there, 2)):
        scheduled.set(crontab)
        looked = host.run("--status")
        assert ("OVERDUE" in looked.out, looked.code) == (bool(status), status)
    assert [check.words for check in checks] == [["start", "success"], []]


@pytest.mark.proves("hosts-5")
def test_servers_an_hour_are_those_of_the_benchmark_and_the_rate_limits() -> None:
    table = README.split("<!-- bench:begin -->\n")[1].split("\n\n")[0]
    shown = README.split("<!-- capacity:begin -->\n")[1].split("\n<!-- capacity:end -->")[0]
    assert shown == bench.capacity_of(table)
    text, timing = part("### Several hosts"), snapshots.Timing()
    delay, at_once = timing.delay_between_servers, timing.max_parallel
    assert (
        f"`delay_between_servers` = {delay}, its default, a host starts {3600 // delay} turns"
        in text
    )
    assert (
        f"with the {at_once} at once of `max_parallel`, and snapshots that take 10 minutes, it is {at_once * 6}"
        in text
    )
