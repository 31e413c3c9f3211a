"""Send messages in order per key over one link at a time and tell how each ended. Behind publishers and dead letters.

Nothing is in flight between two calls: what the broker has not answered by the deadline is UNKNOWN and its link is
cut, with all that had not left yet. Three rules keep a later message of a key from entering before an earlier one:
- Within a link the broker takes messages in the order sent. A quorum queue takes one session's messages in order, so
  a key may have many on the way; where a nack is part of normal operation (classic) a key has one.
- A route that has not been proven on this link (one message confirmed and not returned) carries one message of a key
  at a time: an unroutable A is known before its B is sent. What is left: somebody deletes a queue's last binding while
  a key's messages are on the way. Then outcomes are still true, and the routes have to be proven anew.
- A link that was cut may have left bytes that the broker reads later (it stops reading a blocked connection). So a
  sender holds an exclusive queue, its fence, and sends on a new link only when it gets it: then the broker has
  finished with the old connection.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence, Set
from time import monotonic, sleep
from uuid import uuid4

from brokers.rabbitmq.clients import opened_link
from brokers.rabbitmq.codec import Outgoing
from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.errors import NOT_FOUND, Loss, largest_taken_bytes
from brokers.rabbitmq.links import Arrival, Link, LinkLost, Listener, remaining_s
from core.messaging.errors import BrokerUnavailable
from core.messaging.outcomes import CONFIRMED, Outcome, refused, unknown

log = logging.getLogger(__name__)

FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.05, 1.0
_CHUNK_MESSAGES = 256
"""Small enough that the broker works on the first while the next are being written."""

Route = tuple[str, str]


class Answers:
    """What a link's I/O thread heard, for the thread that waits for it."""

    def __init__(self) -> None:
        self.heard: deque[tuple[int, bool, bool]] = deque()
        self.returns: dict[tuple[str, str], str] = {}
        self.loss: Loss | None = None
        self.wake = threading.Event()

    def settled(self, tag: int, multiple: bool, is_ack: bool) -> None:
        self.heard.append((tag, multiple, is_ack))

    def returned(self, message_id: str, routing_key: str, reason: str) -> None:
        self.returns[message_id, routing_key] = reason

    def delivered(self, arrivals: Sequence[Arrival]) -> None:
        raise AssertionError("a sender consumes nothing")

    def lost(self, loss: Loss) -> None:
        self.loss = loss
        self.wake.set()

    def told(self) -> None:
        self.wake.set()


class Sender:
    def __init__(
        self,
        config: RabbitConfig,
        name: str,
        redeclare: Callable[[], None],
        bound: Set[Route] = frozenset(),
        open_link: Callable[[RabbitConfig, Listener, bool, float], Link] = opened_link,
    ) -> None:
        """`name` starts the fence's name; `redeclare` puts back a topology that the broker lost; `bound`: routes that
        a queue of that topology takes, where a return tells about the broker and not about the message."""
        self._config, self._redeclare, self._open_link = config, redeclare, open_link
        self._bound = bound
        self._fence = f"{name}.{uuid4()}"
        self._link: Link | None = None
        self._answers = Answers()
        self._proven: set[Route] = set()
        self._last_tag = 0
        self._must_redeclare = False
        self._closed = threading.Event()
        self._busy = threading.Lock()

    def send(
        self, keys: Sequence[str], outgoing: Callable[[int], Outgoing], outcomes: list[Outcome | None], deadline: float
    ) -> list[Outcome]:
        """Fill every None in `outcomes`: send `outgoing(index)` in order; one entry of `keys` each."""
        with self._busy:
            try:
                link = self._connected(deadline)
            except LinkLost as lost:
                return _filled(outcomes, f"not sent: {lost.loss.reason}")
            sending = _Sending(
                self._config, link, self._answers, self._proven, self._bound, self._last_tag, keys, outgoing, outcomes
            )
            reason = sending.run(deadline, self._closed)
            self._last_tag = sending.last_tag
            if sending.returned_any:
                self._must_redeclare = True
                self._proven.clear()
            if self._answers.loss is not None or sending.is_waiting():
                self._cut(reason)
            return _filled(outcomes, reason)

    def close(self) -> None:
        self._closed.set()
        self._answers.wake.set()
        # A call in another thread sees `_closed` and gives up what is in flight; only then is the link closed.
        with self._busy:
            link, self._link = self._link, None
            if link is not None:
                link.close(2.0)

    def _connected(self, deadline: float) -> Link:
        if self._closed.is_set():
            raise LinkLost(Loss(0, "the publisher is closed"))
        if self._link is not None and self._answers.loss is not None:
            self._cut(self._answers.loss.reason)
        if self._link is not None and not self._must_redeclare:
            return self._link
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                return self._connect(deadline)
            except LinkLost as lost:
                if remaining_s(deadline) <= backoff_s or self._closed.wait(backoff_s):
                    raise LinkLost(Loss(lost.loss.code, f"no connection: {lost.loss.reason}")) from lost
                backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)

    def _connect(self, deadline: float) -> Link:
        if self._must_redeclare:
            try:
                self._redeclare()
            except BrokerUnavailable as error:
                raise LinkLost(Loss(0, str(error))) from error
            self._must_redeclare = False
        if self._link is not None:
            return self._link
        answers = Answers()
        link = self._open_link(self._config, answers, self._config.confirms, max(0.05, remaining_s(deadline)))
        try:
            if not link.lock(self._fence, max(0.05, remaining_s(deadline))):
                raise LinkLost(Loss(0, "the broker has not yet ended this publisher's last connection"))
        except LinkLost:
            link.abort()
            raise
        self._link, self._answers, self._last_tag = link, answers, 0
        self._proven.clear()
        return link

    def _cut(self, reason: str) -> None:
        link, self._link = self._link, None
        # A broker that starts again takes connections before its streams are back (0.1 to 1 s, 4.0.5). A message sent
        # then reaches its quorum queues and not the audit stream, and is confirmed: so all must be there first.
        self._must_redeclare = True
        if link is not None:
            link.abort()
            log.warning("publisher's connection given up", extra={"address": self._config.address, "reason": reason})


class _Sending:
    """One call of `send`: which message is where between waiting, sent and settled."""

    def __init__(
        self,
        config: RabbitConfig,
        link: Link,
        answers: Answers,
        proven: set[Route],
        bound: Set[Route],
        last_tag: int,
        keys: Sequence[str],
        outgoing: Callable[[int], Outgoing],
        outcomes: list[Outcome | None],
    ) -> None:
        self._config, self._link, self._answers, self._proven, self._bound = config, link, answers, proven, bound
        self._keys, self._outgoing, self._outcomes = keys, outgoing, outcomes
        self._ready = deque(index for index, outcome in enumerate(outcomes) if outcome is None)
        self._base = self.last_tag = last_tag
        self._sent: list[int] = []
        """Index by tag - base - 1."""
        self._settled = 0
        """How many of `_sent` from its start are settled."""
        self._open = 0
        """How many of `_sent` are not settled."""
        self._routes: list[tuple[str, Route]] = []
        """(message id, route) beside `_sent`."""
        self._alone: dict[str, deque[int]] = {}
        """Keys with one message on the way that must be settled first -> what waits behind it."""
        self._stopped: dict[str, str] = {}
        """Keys whose later messages must not be sent -> why."""
        self.returned_any = False

    def is_waiting(self) -> bool:
        return self._open > 0

    def run(self, deadline: float, closed: threading.Event) -> str:
        """Returns why it ended; settles every outcome that the broker answered."""
        answers = self._answers
        while True:
            answers.wake.clear()
            self._settle_heard()
            if answers.loss is not None:
                self._settle_heard()
                self._settle_loss(answers.loss)
                return f"connection lost: {answers.loss.reason}"
            if self._ready and self._has_room():
                self._send_chunk()
                continue
            if not self._open and not self._ready:
                return "not sent"
            if closed.is_set():
                return "the publisher was closed"
            if not answers.wake.wait(remaining_s(deadline)) and remaining_s(deadline) <= 0:
                self._settle_heard()
                blocked = ", it takes nothing now (alarm)" if self._link.is_blocked() else ""
                return f"no answer from the broker in time{blocked}"

    def _has_room(self) -> bool:
        window = self._config.publish_window_messages
        # Room for a decent piece: one wake-up a message would cost more than the message.
        return window - self._open >= min(len(self._ready), max(1, window // 4), _CHUNK_MESSAGES)

    def _send_chunk(self) -> None:
        chunk: list[Outgoing] = []
        room = min(self._config.publish_window_messages - self._open, _CHUNK_MESSAGES)
        ready, keys, alone, stopped = self._ready, self._keys, self._alone, self._stopped
        one_per_key, proven = self._config.one_per_key, self._proven
        while ready and len(chunk) < room:
            index = ready.popleft()
            key = keys[index]
            if key in stopped:
                self._outcomes[index] = unknown(f"not sent: {stopped[key]}")
                continue
            if key in alone:
                alone[key].append(index)
                continue
            message = self._outgoing(index)
            route = (message.exchange, message.routing_key)
            if one_per_key or route not in proven:
                alone[key] = deque()
            chunk.append(message)
            self._sent.append(index)
            self._routes.append((message.message_id, route))
        if not chunk:
            return
        self.last_tag += len(chunk)
        self._open += len(chunk)
        self._link.send(chunk)
        if not self._config.confirms:
            self._flush(len(chunk))

    def _flush(self, count: int) -> None:
        """Fire and forget: what was handed to the operating system is all that this tier promises."""
        while self._link.unsent_bytes() and self._answers.loss is None:
            sleep(0.001)
        if self._answers.loss is None:
            self._answers.settled(self.last_tag, True, True)

    def _settle_heard(self) -> None:
        heard = self._answers.heard
        while heard:
            tag, multiple, is_ack = heard.popleft()
            position = tag - self._base - 1
            if multiple:
                for each in range(self._settled, position + 1):
                    self._settle(each, is_ack)
                self._settled = max(self._settled, position + 1)
            else:
                self._settle(position, is_ack)
                if position == self._settled:
                    self._settled += 1

    def _settle(self, position: int, is_ack: bool) -> None:
        index = self._sent[position]
        if self._outcomes[index] is not None:
            return
        self._open -= 1
        key = self._keys[index]
        if is_ack and not self._answers.returns:
            self._outcomes[index] = CONFIRMED
        else:
            self._settle_exception(position, index, key, is_ack)
        if key in self._alone:
            self._release(position, key)

    def _settle_exception(self, position: int, index: int, key: str, is_ack: bool) -> None:
        message_id, route = self._routes[position]
        reason = self._answers.returns.pop((message_id, route[1]), None)
        if not is_ack:
            # One queue refused, the others may have it.
            self._outcomes[index] = unknown("the broker answered nack")
            self._stopped[key] = "an earlier message of its key was nacked"
            log.warning("nack: a queue did not take a message", extra={"exchange": route[0], "routing_key": route[1]})
        elif reason is not None:
            told = f"no queue takes routing key {route[1]} of {route[0]}: {reason}"
            # A queue that was declared is gone or not up yet (seen on 4.0.5: a stream, for up to 0.2 s after the broker
            # takes connections again). That is an outage, to be waited out, not a message to be given up.
            self._outcomes[index] = unknown(told) if route in self._bound else refused(told)
            self._stopped[key] = "an earlier message of its key was returned as unroutable"
            self.returned_any = True
        else:
            self._outcomes[index] = CONFIRMED

    def _release(self, position: int, key: str) -> None:
        waiting = self._alone.pop(key)
        if key not in self._stopped:
            self._proven.add(self._routes[position][1])
        # They come before everything that is ready, of their key nothing is.
        self._ready.extendleft(reversed(waiting))

    def _settle_loss(self, loss: Loss) -> None:
        """What the broker closed the channel over is certainly not there; everything else stays unknown."""
        limit_bytes = largest_taken_bytes(loss)
        for (_, route), index in zip(self._routes, self._sent, strict=True):
            if self._outcomes[index] is not None:
                continue
            is_too_large = limit_bytes is not None and len(self._outgoing(index).body) > limit_bytes
            has_no_exchange = loss.code == NOT_FOUND and f"'{route[0]}'" in loss.reason
            if is_too_large or (has_no_exchange and route not in self._proven):
                self._outcomes[index] = refused(loss.reason)


def _filled(outcomes: list[Outcome | None], reason: str) -> list[Outcome]:
    rest = unknown(reason)
    return [rest if outcome is None else outcome for outcome in outcomes]


def deadline_after(timeout_s: float) -> float:
    return monotonic() + timeout_s
