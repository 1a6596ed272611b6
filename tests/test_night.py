"""A night on a machine of its own: a bare Debian, on which nothing is ours but the script.

In a root made by tools/debian.sh, with a network and processes of its own, a fresh user answers
--setup from a pipe, and Debian's cron does the rest. Mail is taken by Exim as Debian configures it.
The clouds have their real names: tinyproxy leads to them (HTTPS_PROXY, which Debian's cron has from
/etc/environment), nginx stands there with certificates of a private CA, and behind it is the fake
cloud of the test, over a socket in the file system.
"""

from __future__ import annotations

import contextlib
import mailbox
import os
import shutil
import socket
import socketserver
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from fakes import FakeCloud, Server
from test_setup import written

import snapshots

DEBIAN = Path("/var/cache/snapshots-tests/debian")  # made by tools/debian.sh
ROOT = Path(snapshots.__file__).resolve().parent

HOSTS = {  # a host, a path there, and where the fake cloud has that
    ("api.digitalocean.com", "/"): "/do/",
    ("api.hetzner.cloud", "/"): "/hz/",
    ("api.contabo.com", "/"): "/cb/",
    ("auth.contabo.com", "/auth/"): "/cb-auth/",
    ("api.telegram.org", "/"): "/tg/",
}
MAIL = "mail.example.org"

SITE = """
server {
    access_log /var/log/nginx/night.log night;
    listen 443 ssl;
    server_name <host>;
    ssl_certificate /etc/nginx/night/cert.pem;
    ssl_certificate_key /etc/nginx/night/key.pem;
    location <path> {
        proxy_pass http://unix:/srv/cloud/socket:<there>;
        proxy_set_header Host <host>;
        proxy_set_header Accept-Encoding "";
        proxy_pass_header Date;
        sub_filter_types application/json;  # the cloud names itself in the links to its next pages
        sub_filter_once off;
        sub_filter <cloud><there> https://<host><path>;
    }
}
"""
PROXY = """
User tinyproxy
Group tinyproxy
Port 3128
Listen 127.0.0.1
Allow 127.0.0.1
ConnectPort 443
LogFile "/var/log/tinyproxy/tinyproxy.log"
LogLevel Connect
"""
# What cron is given; also what a login has.
ENVIRONMENT = """
HTTPS_PROXY=http://127.0.0.1:3128
REQUESTS_CA_BUNDLE=/etc/ssl/night.pem
SSL_CERT_FILE=/etc/ssl/night.pem
"""

OUTSIDE = """
mount -t overlay overlay -o "lowerdir=$DEBIAN,upperdir=$UPPER,workdir=$WORK" "$INSIDE"
mount -t proc proc "$INSIDE/proc"
mount --rbind /dev "$INSIDE/dev"
mount --bind "$SOCKETS" "$INSIDE/srv/cloud"
ip link set lo up
hostname night
exec chroot "$INSIDE" /bin/sh -e ${VERBOSE:+-x} /night.sh
"""
INSIDE = """
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
useradd --create-home --shell /bin/sh ada
cp -r /project /home/ada/snapshots
chown -R ada: /home/ada/snapshots
chown -R Debian-exim: /etc/exim4/exim.key
update-exim4.conf
exim4 -bdf -oX 587 &
install -d -o tinyproxy /var/log/tinyproxy
tinyproxy
nginx
for port in 443 587 3128; do
  for _ in $(seq 200); do ss -ltn | grep -q ":$port " && break; sleep 0.05; done
done
for answers in /answers/*; do
  su - ada -c 'cd snapshots && python3 snapshots.py --setup' <"$answers" >"/said$answers" 2>"/err$answers"
done
su - ada -c 'cd snapshots && sed -i -e "s/^delay_between_servers = .*/delay_between_servers = 0/" \\
  -e "s/^poll_interval = .*/poll_interval = 1/" \\
  -e "s/^notify_on_success = .*/notify_on_success = true/" snapshots.config'
su - ada -c 'crontab -l' >/said/crontab
preload=$(echo /usr/lib/*/faketime/libfaketime.so.1)
LD_PRELOAD=$preload FAKETIME='@2026-11-26 03:14:57' cron -f -L 15 2>/err/cron &
for _ in $(seq 400); do
  grep -qs SUMMARY /home/ada/snapshots/logs/cronjob.log && break
  sleep 0.1
done
for _ in $(seq 100); do [ -z "$(exim4 -bp)" ] && break; sleep 0.1; done
kill $!
su - ada -c 'cd snapshots && python3 snapshots.py --report night.html' >/said/report 2>/err/report
su - ada -c 'cd snapshots && python3 snapshots.py --status' >/said/status 2>/err/status
su - ada -c 'cd snapshots && python3 snapshots.py --check' >/said/check 2>/err/check
"""


class Relay(socketserver.ThreadingUnixStreamServer):
    """A socket in the file system that leads to a port of this machine, whichever network one is in."""

    daemon_threads = True

    def __init__(self, path: Path, port: int) -> None:
        super().__init__(str(path), Passage)
        self.port = port
        path.chmod(0o777)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Passage(socketserver.BaseRequestHandler):
    """One connection, both ways."""

    def handle(self) -> None:
        assert isinstance(self.server, Relay)
        with socket.create_connection(("127.0.0.1", self.server.port)) as other:
            back = threading.Thread(target=self.copy, args=(other, self.request), daemon=True)
            back.start()
            self.copy(self.request, other)
            back.join(10)

    @staticmethod
    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


class Night:
    """The machine, before and after."""

    def __init__(self, folder: Path, cloud: FakeCloud) -> None:
        self.folder, self.cloud = folder, cloud
        self.upper = folder / "upper"  # what is on the machine beside Debian
        for name in ("upper", "work", "inside", "sockets"):
            (folder / name).mkdir()
        for name in ("said/answers", "err/answers", "answers", "srv/cloud", "project/configs"):
            (self.upper / name).mkdir(parents=True)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        self.write("night.sh", INSIDE)

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.upper / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def furnish(self) -> None:
        """What the machine's owner has set up, and a copy of the project."""
        authority, hosts = trustme.CA(), sorted({host for host, _ in HOSTS})
        self.write("etc/ssl/night.pem", authority.cert_pem.bytes())
        for place, names in (("nginx/night/{}.pem", hosts), ("exim4/exim.{}", [MAIL])):
            certificate = authority.issue_cert(*names)
            chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
            crt, key = ("crt", "key") if "exim" in place else ("cert", "key")
            self.write(f"etc/{place.format(crt)}", chain)
            self.write(f"etc/{place.format(key)}", certificate.private_key_pem.bytes())
        self.write(
            "etc/hosts", f"127.0.0.1 localhost {' '.join(hosts)} {MAIL} night.example.org night\n"
        )
        self.write("etc/resolv.conf", "")
        self.write("etc/hostname", "night\n")
        self.write("etc/environment", ENVIRONMENT)
        self.write("etc/tinyproxy/tinyproxy.conf", PROXY)
        site = (
            "log_format night '$host $request_method $status';\n"  # no path: Telegram's has a token
        )
        for (host, path), there in HOSTS.items():
            values = {"host": host, "path": path, "there": there, "cloud": self.cloud.url}
            site += SITE
            for name, value in values.items():
                site = site.replace(f"<{name}>", value)
        self.write("etc/nginx/conf.d/night.conf", site)
        settings = (DEBIAN / "etc/exim4/update-exim4.conf.conf").read_text()
        settings = settings.replace(
            "dc_other_hostnames='", "dc_other_hostnames='night.example.org:"
        )
        self.write("etc/exim4/update-exim4.conf.conf", settings)
        self.write("etc/exim4/exim4.conf.localmacros", "MAIN_TLS_ENABLE = yes\n")
        for name in ("snapshots.py", "requirements.txt", "snapshots.config.sample"):
            shutil.copy(ROOT / name, self.upper / "project")

    def answer(self, *lines: str) -> None:
        """Another call of --setup, and what it is answered."""
        number = len(list((self.upper / "answers").iterdir())) + 1
        self.write(f"answers/{number}", "".join(f"{line}\n" for line in lines))

    def pass_by(self) -> None:
        """The night itself."""
        with Relay(self.folder / "sockets" / "socket", self.cloud.port) as relay:
            places = {
                "DEBIAN": DEBIAN,
                "UPPER": self.upper,
                "WORK": self.folder / "work",
                "INSIDE": self.folder / "inside",
                "SOCKETS": self.folder / "sockets",
            }
            with open(self.upper / "said" / "all", "w") as output:
                process = subprocess.Popen(
                    [*UNSHARE, "sh", "-ec", OUTSIDE],
                    env={
                        "PATH": os.environ["PATH"],
                        "VERBOSE": os.environ.get("VERBOSE", ""),
                        **{k: str(v) for k, v in places.items()},
                    },
                    stdout=output,
                    stderr=output,
                )
                try:
                    process.wait(int(os.environ.get("WAITS", "90")))
                except subprocess.TimeoutExpired:
                    process.kill()  # and with it all that runs in there
                    process.wait()
            relay.shutdown()
        shutil.rmtree(self.upper / "answers")
        assert (process.returncode, self.read("said/all")) == (0, ""), self.said()

    def said(self) -> str:
        """All that was printed, for whoever looks why it failed."""
        paths = [
            *self.upper.glob("said/**/*"),
            *self.upper.glob("err/**/*"),
            self.home / "logs/cronjob.log",
        ]
        return "\n".join(f"{p}:\n{p.read_text()}" for p in paths if p.is_file())

    @property
    def home(self) -> Path:
        return self.upper / "home" / "ada" / "snapshots"

    def read(self, name: str) -> str:
        return (self.upper / name).read_text(encoding="utf-8")


UNSHARE = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child"]


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    if os.geteuid() != 0:
        pytest.skip("only root can give a machine a root, a network and processes of its own")
    if not (DEBIAN / "made-of").exists():
        pytest.skip("there is no bare Debian here: tests/tools/debian.sh makes one")
    for name in ("low", "up", "work", "both"):
        (tmp_path / "probe" / name).mkdir(parents=True)
    probe = "mount -t overlay overlay -o lowerdir=low,upperdir=up,workdir=work both"
    command = [*UNSHARE, "sh", "-ec", probe]
    if subprocess.run(command, cwd=tmp_path / "probe", capture_output=True).returncode:
        pytest.skip("there are no namespaces or no overlays here")
    tmp_path.chmod(0o755)
    tmp_path.parent.chmod(0o755)
    with FakeCloud() as cloud:
        yield Night(tmp_path, cloud)
        assert cloud.problems == []


@pytest.mark.proves("parties-7")
def test_a_night_on_a_bare_debian(night: Night) -> None:
    """It takes half a minute: services have to start, and cron waits for its minute."""
    cloud = night.cloud
    hetzner = cloud.add_account("hetzner", token="CANARY-night-hetzner-0123456789")
    ocean = cloud.add_account("digitalocean", token="CANARY-night-ocean-0123456789")
    login: dict[str, Any] = {
        "client_id": "DE-night",
        "client_secret": "CANARY-night-secret-0123456789",
        "api_user": "night@example.org",
        "api_password": "CANARY-night-password-0123456789",
    }
    contabo = cloud.add_account("contabo", **login)
    servers: list[Server] = []
    for number, (account, name) in enumerate(
        [(hetzner, "web"), (hetzner, "db"), (hetzner, "wiki"), (ocean, "shop"), (contabo, "mail")],
        1,
    ):
        servers.append(cloud.add_server(account, 1000 + number, name, duration_seconds=1.0))
    by_hand = cloud.add_snapshot(servers[0], "by hand", cloud.clock.now())
    bot = "123456:CANARY-night-bot-0123456789"
    cloud.add_bot(bot, [4711]).updates.append(written(4711))

    night.furnish()
    channels = ["telegram", bot, "1", "yes"]
    channels += [
        "mail",
        MAIL,
        "587",
        "",
        "snapshots@night.example.org",
        "ada@night.example.org",
        "yes",
    ]
    night.answer("hetzner", hetzner.token, "all", "2", *channels, "nothing", "nightly", "yes")
    night.answer("digitalocean", ocean.token, "all", "2", "nothing")
    night.answer("contabo", *login.values(), "all", "1", "no", "nothing")
    night.pass_by()

    errors = {p.name: p.read_text() for p in night.upper.glob("err/**/*") if p.is_file()}
    assert set(errors.values()) == {""}, errors
    assert "15 3 * * * cd /home/ada/snapshots && " in night.read("said/crontab")
    assert night.read("home/ada/snapshots/logs/cronjob.log") == (
        "SUMMARY: 5 succeeded, 0 failed out of 5 total\n"
    )
    assert "127.0.0.1" not in night.read("home/ada/snapshots/snapshots.config")  # as in [API]
    for server in servers:
        assert [s for s in cloud.created if s.server is server] == [
            s for s in cloud.snapshots(server) if s is not by_hand
        ]
    assert len(cloud.created) == len(servers)
    assert by_hand in cloud.snapshots()

    with contextlib.closing(mailbox.mbox(night.upper / "var" / "mail" / "ada")) as box:
        mails = list(box)
    subjects = sorted(str(mail["Subject"]) for mail in mails)
    assert len(subjects) == 1 + len(servers)  # the test message first
    encrypted = [
        line for line in night.read("var/log/exim4/mainlog").splitlines() if " <= " in line
    ]
    assert all(" P=esmtps X=TLS" in line for line in encrypted)
    assert len(encrypted) == len(mails)
    assert len(cloud.telegram_messages) == 1 + len(servers)
    proxied = night.read("var/log/tinyproxy/tinyproxy.log")
    assert all(f"CONNECT {host}:443" in proxied for host, _ in HOSTS)
    served = {line.split()[0] for line in night.read("var/log/nginx/night.log").splitlines()}
    assert served == {host for host, _ in HOSTS}

    with contextlib.closing(sqlite3.connect(night.home / "logs" / "history.db")) as history:
        runs = [row for (row,) in history.execute("SELECT exit_status FROM run")]
        turns: list[Any] = sorted(history.execute("SELECT name, success FROM turn"))
    assert runs == [0]
    assert turns == sorted((server.name, 1) for server in servers)
    page = night.read("home/ada/snapshots/night.html")
    assert all(f"<b>{server.name}</b>" in page for server in servers)
    assert "exit status 0" in night.read("said/status")
    assert "RESULT: all well" in night.read("said/check")  # cron has what this shell has
