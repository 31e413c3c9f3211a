"""One record as a delivery, whoever reads it: a group, the dead-letter service or the audit."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import Message

from brokers.kafka.codec import Malformed, WireHeaders, decode, read_failure, without_failure
from brokers.kafka.topology import port_topic
from core.messaging.ports import Delivery
from core.messaging.topology import DEAD_LETTER_SUFFIX, Topology

UNREADABLE: WireHeaders = [("unreadable", b"a header's name is no UTF-8")]
"""In place of headers that the client cannot give: without ours the record is malformed."""


def headers_of_all(messages: Sequence[Message]) -> list[WireHeaders | None]:
    """Of each message. The client raises over a name that is no UTF-8, and must not be asked twice: it is half made."""
    found: list[WireHeaders | None] = []
    rest = map(Message.headers, messages)
    while len(found) < len(messages):
        try:
            found.extend(rest)
        except (SystemError, UnicodeDecodeError):
            messages[len(found)].set_headers(list(UNREADABLE))
            found.append(UNREADABLE)
    return found


def read_record(message: Message, topology: Topology, token: object = None) -> Delivery:
    """The delivery with all that came on the wire; malformed bytes and dead letters included."""
    topic = port_topic(topology, message.topic())
    is_letter = topic.endswith(DEAD_LETTER_SUFFIX)
    headers = headers_of_all([message])[0] or []
    failure, group, origin = read_failure(headers) if is_letter else (None, None, None)
    key = (message.key() or b"").decode(errors="replace")
    envelope, error = None, ""
    try:
        # A dead letter's envelope is the one that was given up: it carries the topic it came from.
        envelope = decode(topic.removesuffix(DEAD_LETTER_SUFFIX), headers, message.key(), message.value(), is_letter)
    except Malformed as wrong:
        error = str(wrong)
    return Delivery(
        envelope=envelope,
        topic=topic,
        lane=message.partition(),
        token=token,
        error=error,
        body=message.value() or b"",
        wire_headers=without_failure(headers) if is_letter else tuple((name, value or b"") for name, value in headers),
        key=key if envelope is None else envelope.key,
        failure=failure,
        failed_group=group,
        origin_topic=origin,
    )


@contextmanager
def no_collection() -> Iterator[None]:
    """Hold the garbage collector off while a batch is decoded.

    A record's headers are ten containers that live for microseconds: with them a batch of 500 sets off ten collections
    (measured: half of what receiving costs), without them two. References free all of them; nothing here is a cycle.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
