"""Bytes that processes sent and received over TCP, as the kernel counts them on each of their connections.

Linux keeps no such counter for a process, but one for every connection (`tcp_info`), told over netlink
(sock_diag(7)) without any privilege. A connection that opens and closes between two looks is not seen.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
INET_DIAG_INFO = 2
REQUEST_DUMP = 0x301
DONE, FAILED = 3, 2
# Every state that still has a process: not TIME_WAIT (6), not LISTEN (10).
STATES = sum(1 << state for state in range(1, 13) if state not in (6, 10))
HEADER = struct.Struct("=IHHII")
REQUEST = struct.Struct("=BBBBI48x")
COOKIE_AT, INODE_AT, ATTRIBUTES_AT = 44, 68, 72
BYTES = struct.Struct("=QQ")
BYTES_AT = 120
"""Of `tcpi_bytes_acked` and `tcpi_bytes_received` in `struct tcp_info`, since Linux 4.1."""
TIMEOUT_S = 2.0


class Connection(NamedTuple):
    cookie: int
    """The kernel's own name of it, never given twice."""
    inode: int
    bytes: int
    """Sent and acknowledged by the other end, and received."""


class Traffic:
    """Adds up over connections that have ended meanwhile. One thread at a time."""

    def __init__(self) -> None:
        self._bytes: dict[int, tuple[str | None, int]] = {}
        """Cookie -> part (None: nobody's here) and bytes."""

    def look(self, parts: Mapping[str, Sequence[int]]) -> dict[str, int] | None:
        """Bytes of every part (name -> process ids) so far; None where this kernel does not tell."""
        try:
            connections = [*_connections(socket.AF_INET), *_connections(socket.AF_INET6)]
        except OSError:
            return None
        owners: dict[int, str] | None = None
        for connection in connections:
            part = self._bytes.get(connection.cookie, ("", 0))[0]
            if part == "":
                owners = _owners(parts) if owners is None else owners
                part = owners.get(connection.inode)
            self._bytes[connection.cookie] = (part, connection.bytes)
        totals = dict.fromkeys(parts, 0)
        for part, count in self._bytes.values():
            if part in totals:
                totals[part] += count
        return totals


def _owners(parts: Mapping[str, Sequence[int]]) -> dict[int, str]:
    """Inode of a socket -> part."""
    found = {}
    for part, pids in parts.items():
        for pid in pids:
            # It may have ended, or be another user's.
            with contextlib.suppress(OSError):
                for entry in os.scandir(f"/proc/{pid}/fd"):
                    with contextlib.suppress(OSError):
                        target = os.readlink(entry.path)
                        if target.startswith("socket:["):
                            found[int(target[8:-1])] = part
    return found


def _connections(family: int) -> Iterator[Connection]:
    """Raises OSError where the kernel refuses to tell."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG) as asking:
        asking.settimeout(TIMEOUT_S)
        request = REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0, STATES)
        asking.send(HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, 1, 0) + request)
        while True:
            answer = asking.recv(1 << 18)
            at = 0
            while at < len(answer):
                length, kind, *_ = HEADER.unpack_from(answer, at)
                if kind == DONE:
                    return
                if kind == FAILED:
                    code = -struct.unpack_from("=i", answer, at + HEADER.size)[0]
                    raise OSError(code, os.strerror(code))
                message = answer[at + HEADER.size : at + length]
                count = _bytes_of(message)
                if count is not None:
                    (cookie,) = struct.unpack_from("=Q", message, COOKIE_AT)
                    (inode,) = struct.unpack_from("=I", message, INODE_AT)
                    yield Connection(cookie, inode, count)
                at += _aligned(length)


def _bytes_of(message: bytes) -> int | None:
    at = ATTRIBUTES_AT
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == INET_DIAG_INFO and length >= 4 + BYTES_AT + BYTES.size:
            acknowledged, received = BYTES.unpack_from(message, at + 4 + BYTES_AT)
            return int(acknowledged + received)
        at += max(4, _aligned(length))
    return None


def _aligned(length: int) -> int:
    return (length + 3) & ~3
