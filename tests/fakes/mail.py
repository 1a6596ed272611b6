"""Real mail servers and a real https server on 127.0.0.1, for the tests of notifications."""

from __future__ import annotations

import asyncio
import email
import email.message
import email.policy
import hmac
import http.server
import ssl
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Optional

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass
class Mail:
    """A mail as it was handed over."""

    sender: str
    recipients: list[str]
    content: bytes = field(repr=False)
    encrypted: bool = False

    @property
    def message(self) -> email.message.EmailMessage:
        parsed = email.message_from_bytes(self.content, policy=email.policy.default)
        assert isinstance(parsed, email.message.EmailMessage)
        return parsed

    def part(self, kind: str) -> str:
        """The text of the part of that kind: "plain" or "html"."""
        body = self.message.get_body((kind,))
        assert body is not None
        text = body.get_content()
        assert isinstance(text, str)
        return text.replace("\r\n", "\n")


class Smtp(SMTP):
    """Notes every command, also one that is refused."""

    async def _handle_client(self) -> None:
        self.event_handler.connections += 1
        await asyncio.sleep(self.event_handler.greets_after)
        await super()._handle_client()

    async def smtp_AUTH(self, arg: str) -> None:
        self.event_handler.auths.append(self.event_handler.is_encrypted(self))
        self.event_handler.asked.append(arg.split()[0])
        await super().smtp_AUTH(arg)
        session, transport = self.session, self.transport
        if self.event_handler.hangs_up and session and transport and not session.authenticated:
            transport.close()


class MailServer:
    """One mail server.

    context: its certificate, for STARTTLS or, with tls=True, from the first byte on.
    users: who may log in (None: it offers no login at all).
    mechanisms: of these only, of LOGIN, PLAIN, CRAM-MD5; XOAUTH2 it offers, but nobody can use.
    hangs_up: does a refused login end the connection? utf8: does it offer SMTPUTF8? greets_after: seconds until it says the first word.
    answers: what it says to RCPT ("rcpt"), to one address, or to a whole mail ("data"), or as its
    first challenge of CRAM-MD5 ("challenge"), each
    answer once; after those all is well. "hang up" to a mail: it takes it and says nothing.
    """

    made: ClassVar[list[MailServer]] = []  # every one of this process, until somebody clears it

    def __init__(
        self,
        context: Optional[ssl.SSLContext] = None,
        *,
        tls: bool = False,
        users: Optional[Mapping[str, str]] = None,
        answers: Optional[Mapping[str, Iterable[str]]] = None,
        mechanisms: Iterable[str] = ("LOGIN", "PLAIN"),
        utf8: bool = False,
        hangs_up: bool = False,
        greets_after: float = 0.0,
    ) -> None:
        self.mechanisms, self.utf8, self.greets_after = set(mechanisms), utf8, greets_after
        self.hangs_up = hangs_up
        self.names: list[str] = []  # how clients called themselves in EHLO
        self.asked: list[str] = []  # the mechanisms that clients chose
        self.made.append(self)
        self.context, self.tls, self.users = context, tls, users
        self.answers = {key: deque(texts) for key, texts in (answers or {}).items()}
        self.mails: list[Mail] = []
        self.auths: list[bool] = []  # for each AUTH: was the line encrypted?
        self.logins: list[str] = []
        self.connections = 0
        self.port = 0
        self._ready = threading.Event()
        self._protocols: list[Smtp] = []
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._over: Optional[asyncio.Event] = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    # --- start and stop ---

    def start(self) -> MailServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def stop(self) -> None:
        if self._loop is not None and self._over is not None:
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop, self._over = loop, asyncio.Event()
        server = await loop.create_server(
            self._protocol, "127.0.0.1", 0, ssl=self.context if self.tls else None
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for protocol in self._protocols:
            transport: Any = protocol.transport
            if transport is not None:
                transport.abort()
        await asyncio.sleep(0.01)  # in which they end

    def _protocol(self) -> Smtp:
        offers_login = self.users is not None
        protocol = Smtp(
            self,
            hostname="mail.test",
            tls_context=None if self.tls else self.context,
            auth_require_tls=False,
            authenticator=self._login if offers_login else None,
            auth_exclude_mechanism={"LOGIN", "PLAIN", "CRAM-MD5"} - self.mechanisms,
            enable_SMTPUTF8=self.utf8,
            loop=self._loop,
        )
        self._protocols.append(protocol)
        return protocol

    # --- what aiosmtpd calls ---

    def is_encrypted(self, server: SMTP) -> bool:
        return self.tls or server._tls_protocol is not None

    def _login(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        user, password = data.login.decode(), data.password.decode()
        good = self.users is not None and self.users.get(user) == password
        if good:
            self.logins.append(user)
            return AuthResult(success=True)
        # what a careless server says: it quotes what it was given
        said = f"535 5.7.8 login as {user} with {password} refused"
        return AuthResult(success=False, handled=False, message=said)

    def _answer(self, key: str) -> str:
        waiting = self.answers.get(key)
        return waiting.popleft() if waiting else ""

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, name: str, lines: list[str]
    ) -> list[str]:
        session.host_name = name
        self.names.append(name)
        if "XOAUTH2" in self.mechanisms:
            lines = [f"{line} XOAUTH2" if line[4:8] == "AUTH" else line for line in lines]
        return [line for line in lines if self.users is not None or not line.startswith("250-AUTH")]

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        refusal = self._answer(address) or self._answer("rcpt")
        if refusal:
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from, envelope.mail_options = address, options
        return "250 OK"

    async def auth_CRAM__MD5(self, server: SMTP, args: list[str]) -> AuthResult:
        challenge = b"<1896.697170952@mail.test>"
        text = self._answer("challenge")
        if text:
            await server.push(f"334 {text}")
        said: Any = await server.challenge_auth(challenge)
        user, _, digest = said.decode().rpartition(" ")
        password = (self.users or {}).get(user, "")
        good = hmac.new(password.encode(), challenge, "md5").hexdigest() == digest
        if good and user in (self.users or {}):
            self.logins.append(user)
            return AuthResult(success=True)
        return AuthResult(success=False, handled=False, message="535 5.7.8 no")

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        refusal = self._answer("data")
        if refusal and refusal != "hang up":
            return refusal
        content = envelope.content
        assert isinstance(content, bytes)
        if not content.isascii() and "BODY=8BITMIME" not in envelope.mail_options:
            return "554 5.6.7 8-bit text that was not announced"
        self.mails.append(
            Mail(
                str(envelope.mail_from),
                list(map(str, envelope.rcpt_tos)),
                content,
                self.is_encrypted(server),
            )
        )
        if refusal:
            assert server.transport is not None
            server.transport.close()
        return "250 OK"


class HttpsServer:
    """Answers every POST with 200 and {"ok": true}; `paths` and `bodies` are what it could read."""

    made: ClassVar[list[HttpsServer]] = []  # every one of this process, until somebody clears it

    def __init__(self, context: ssl.SSLContext) -> None:
        paths: list[str] = []
        bodies: list[bytes] = []
        self.made.append(self)
        self.paths, self.bodies = paths, bodies

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                paths.append(self.path)
                bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "12")
                self.end_headers()
                self.wfile.write(b'{"ok": true}')

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    def start(self) -> HttpsServer:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()
