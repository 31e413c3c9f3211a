"""`POST /orders` against a bare FastAPI endpoint that makes the same inserts: what do the promises around it cost?

Both are served by the same server, each in a process of its own, one under load at a time: keep-alive connections that
each send the next request when the last is answered (closed loop: this compares capacity, not latency). Without an
Idempotency-Key, so that both write the same rows. The bare one: `bare_api`.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from benchmarks.parts.rounds import compare_rounds

NAME, BASELINE = "POST /api/v1/orders", "bare FastAPI, the same inserts"
PATH = "/api/v1/orders"
CONNECTIONS = 16
ROUND_REQUESTS = 1_500


class Refused(Exception):
    """An endpoint under load answered with something else than 201: there is nothing to compare."""

    def __init__(self, url: str, answer: bytes) -> None:
        super().__init__(f"{url} answered {answer[:300].decode(errors='replace')!r}")


def run(
    ours: tuple[str, int],
    bare: tuple[str, int],
    headers: Sequence[tuple[str, str]],
    *,
    rounds: int = 5,
    requests: int = ROUND_REQUESTS,
    connections: int = CONNECTIONS,
    seed: int = 1,
) -> list[dict[str, Any]]:
    """One row, as `testbed bench api --json` prints it. `ours`, `bare`: host and port; `headers`: of each request."""

    def rate(address: tuple[str, int]) -> float:
        return requests / asyncio.run(_load_s(address, headers, requests, connections))

    result = compare_rounds(lambda: rate(ours), lambda: rate(bare), rounds, seed, name=NAME, baseline_name=BASELINE)
    return [result.as_dict()]


async def _load_s(
    address: tuple[str, int], headers: Sequence[tuple[str, str]], requests: int, connections: int
) -> float:
    """Seconds until all were answered 201."""
    left = iter(range(requests))
    streams = [await asyncio.open_connection(*address) for _ in range(connections)]
    began_s = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for reader, writer in streams:
                group.create_task(_send(address, reader, writer, left, headers))
        return time.perf_counter() - began_s
    finally:
        for _, writer in streams:
            writer.close()


async def _send(
    address: tuple[str, int],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    left: Iterator[int],
    headers: Sequence[tuple[str, str]],
) -> None:
    """A client as lean as can be: what it costs is taken from both sides alike, and bends the ratio towards 1."""
    for number in left:
        body = orjson.dumps({"items": [{"productId": number % 100 + 1, "quantity": 2}]})
        lines = [f"POST {PATH} HTTP/1.1", f"Host: {address[0]}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers]
        lines += [f"Content-Length: {len(body)}", "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        answer = await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 201"):
            raise Refused(f"{address[0]}:{address[1]}{PATH}", head.split(b"\r\n")[0] + b" " + answer)
