"""The programs that the README's commands call, for a machine that is a directory.

usage: programs.py FOLDER NAME [ARGUMENT ...]

Each call is a line of FOLDER/calls: a moment of the monotonic clock, the program, its arguments.
Every program knows the commands and options that its makers document, and refuses all others.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any, Callable

# program -> command -> its options; {option: does a value follow?}
# https://github.com/hetznercloud/cli/tree/main/docs/reference/manual (read 2026-11)
# https://docs.digitalocean.com/reference/doctl/reference/compute/ (read 2026-11)
# https://github.com/contabo/cntb (read 2026-11)
GRAMMAR: dict[str, dict[str, dict[str, bool]]] = {
    "hcloud": {
        "server list": {},
        "server-type list": {},
        "server shutdown": {"--wait": False, "--wait-timeout": True},
        "server poweron": {},
        "server create": {"--name": True, "--type": True, "--image": True},
        "server rebuild": {"--image": True},
        "image list": {"--type": True},
    },
    "doctl": {
        "compute droplet list": {},
        "compute droplet create": {
            "--image": True,
            "--region": True,
            "--size": True,
            "--wait": False,
        },
        "compute droplet-action shutdown": {"--wait": False},
        "compute droplet-action power-on": {"--wait": False},
        "compute droplet-action rebuild": {"--image": True, "--wait": False},
        "compute snapshot list": {"--resource": True},
    },
    "cntb": {
        "get instances": {},
        "get snapshots": {},
        "start instance": {},
        "stop instance": {},
        "rollback snapshot": {},
    },
    "pg_dumpall": {"": {"-U": True, "-f": True}},
    "su": {"": {"-": False, "-c": True}},
    "mysqldump": {
        "": {"--all-databases": False, "--single-transaction": False, "--result-file": True}
    },
    "fsfreeze": {"": {"--freeze": False, "--unfreeze": False}},
    "curl": {"": {"-s": False, "-X": True, "-H": True, "-d": True}},
    "crontab": {"": {"-e": False}},
    # https://docs.docker.com/reference/cli/docker/ (read 2026-11)
    "docker": {
        "build": {"-t": True},
        "run": {
            **dict.fromkeys(("--rm", "--read-only"), False),
            **dict.fromkeys(("--stop-timeout", "--user", "-e", "-v"), True),
        },
    },
    # https://kubernetes.io/docs/reference/kubectl/generated/ (read 2026-11)
    "kubectl": {
        "apply": {"-f": True},
        "create job": {"--from": True},
        "create secret generic": {"--from-file": True},
        "logs": {},
    },
    "journalctl": {"": {"-u": True}},
    "systemctl": {"enable": {"--now": False}, "list-timers": {}},
    "uv": {"run": {}},
}


def parsed(name: str, arguments: list[str]) -> tuple[str, dict[str, list[str]], list[str]]:
    """(command, options with their values, what is left); SystemExit where one is unknown."""
    commands = GRAMMAR[name]
    command = max(
        (c for c in commands if arguments[: len(c.split())] == c.split()), key=len, default=None
    )
    if command is None:
        sys.exit(f"{name}: no such command: {arguments}")
    known, options, left = commands[command], dict[str, list[str]](), list[str]()
    rest = iter(arguments[len(command.split()) :])
    for word in rest:
        option, equals, value = word.partition("=")
        if name == "uv" or not word.startswith("-"):
            left.append(word)
            if command == "run":  # what follows is for the program that is run
                left += rest
        elif option not in known or (equals and not known[option]):
            sys.exit(f"{name} {command}: no such option: {word}")
        else:
            given = value if equals else next(rest) if known[option] else ""
            options.setdefault(option, []).append(given)
    return command, options, left


class Machine:
    """A directory that stands for a machine: FOLDER/opt for /opt, FOLDER/var for /var."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def call(self, name: str, *arguments: str) -> int:
        with open(self.folder / "calls", "a", encoding="utf-8") as calls:
            calls.write(json.dumps([time.monotonic(), name, *arguments]) + "\n")
        own: Callable[..., int] | None = getattr(self, name.replace("-", "_"), None)
        if own is not None:
            return own(*arguments)
        _, options, _ = parsed(name, list(arguments))
        for file in options.get("-f", []) + options.get("--result-file", []):
            path = Path(file)
            if not path.is_relative_to(self.folder):  # it was not called over ssh
                path = self.folder / file.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("a dump\n", encoding="utf-8")
        return 0

    def ssh(self, target: str, *command: str) -> int:
        """The other machine has the same programs, and this one's /var."""
        (self.folder / "var" / "backups").mkdir(parents=True, exist_ok=True)
        text = " ".join(command).replace("/var/", f"{self.folder}/var/")
        return subprocess.call(["/bin/sh", "-c", text])

    def su(self, *arguments: str) -> int:
        _, options, (user,) = parsed("su", list(arguments))
        env = {**os.environ, "USER": user}
        return subprocess.call(["/bin/sh", "-c", *options["-c"]], env=env)

    def pg_dumpall(self, *arguments: str) -> int:
        """Debian's and Red Hat's PostgreSQL let in whom the system knows by that name, and nobody
        else. Source: https://www.postgresql.org/docs/current/auth-peer.html (read 2026-11)"""
        parsed("pg_dumpall", list(arguments))
        if os.environ.get("USER") != "postgres":
            sys.exit('FATAL:  Peer authentication failed for user "postgres"')
        print("a dump")
        return 0

    def python3(self, *arguments: str) -> int:
        """`python3 -m venv`, whose packages are those of this Python: nothing is downloaded."""
        if arguments[:2] != ("-m", "venv") or len(arguments) != 3:
            sys.exit(f"python3: what is {arguments}?")
        target = Path(arguments[2])
        venv.create(target, symlinks=True)
        (library,) = target.glob("lib/python3*/site-packages")
        (library / "those.pth").write_text(f"{os.environ['PACKAGES']}\n", encoding="utf-8")
        shutil.copy(self.folder / "bin" / "pip", target / "bin" / "pip")
        return 0

    def pip(self, *arguments: str) -> int:
        """As if all had been downloaded already, which it has."""
        arguments = tuple(word for word in arguments if word != "--no-cache-dir")
        if arguments[:2] != ("install", "-r") or len(arguments) != 3:
            sys.exit(f"pip: what is {arguments}?")
        for line in Path(arguments[2]).read_text(encoding="utf-8").split():
            importlib.metadata.version(re.split("[<>=]", line)[0])
        return 0

    def uv(self, *arguments: str) -> int:
        _, _, command = parsed("uv", list(arguments))
        return subprocess.call([str(self.folder / "opt/snapshots/.venv/bin/python"), *command])

    def vi(self, file: str) -> int:
        """Fills in a server file as its user would, or empties a crontab."""
        path = Path(file)
        if path.suffix != ".json":
            path.write_text("", encoding="utf-8")
            return 0
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        (server,) = content.values()
        server.update(json.loads((self.folder / "fill-in.json").read_text(encoding="utf-8")))
        path.write_text(json.dumps(content), encoding="utf-8")
        return 0

    def crontab(self, *arguments: str) -> int:
        spool = self.folder / "spool"
        if arguments == ("-e",):
            return self.vi(str(spool / "table"))
        fake = Path(__file__).with_name("crontab.py")
        return subprocess.call([sys.executable, str(fake), str(spool), *arguments])


if __name__ == "__main__":
    sys.exit(Machine(Path(sys.argv[1])).call(*sys.argv[2:]))
