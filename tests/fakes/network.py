"""Addresses that lead nowhere, and names that have several of them. All on the loopback."""

from __future__ import annotations

import contextlib
import select
import socket
from typing import Any

import pytest


class BlackHole:
    """An address where whoever connects gets no answer, not even a refusal.

    Its queue of connections is full and nobody accepts any, so Linux drops what comes.
    """

    def __init__(self, host: str, port: int) -> None:
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, port))
        self.listener.listen(0)
        self.fillers: list[socket.socket] = []
        while not self.fillers or select.select([], [self.fillers[-1]], [], 0.2)[1]:
            self.fillers.append(socket.socket())
            self.fillers[-1].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                self.fillers[-1].connect((host, port))

    def close(self) -> None:
        for sock in [*self.fillers, self.listener]:
            sock.close()


class Silence:
    """An address that takes every connection and says nothing."""

    def __init__(self, host: str, port: int) -> None:
        self.listener = socket.create_server((host, port))

    def taken(self) -> int:
        """How many connections it has."""
        self.listener.setblocking(False)
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self.listener.accept()[0].close()
                count += 1
        return count

    def close(self) -> None:
        self.listener.close()


def resolve(patch: pytest.MonkeyPatch, name: str, *hosts: str) -> None:
    """From now on a name has these addresses, in this order."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host != name:
            return real(host, port, *args, **more)
        return [found for one in hosts for found in real(one, port, *args, **more)]

    patch.setattr(socket, "getaddrinfo", getaddrinfo)
