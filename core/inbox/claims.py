"""Which of these messages are new to this group? The answer is the inbox rows this transaction could insert.

One statement a batch, ids sorted, so that two workers which claim the same ids wait for one another instead of
deadlocking. What is claimed and rolled back is new again. Not here: what is done with the new ones (`worker`).
"""

import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, Engine, Table, TextClause, text

from core.inbox.handlers import Ignored, Poison
from core.messaging.envelope import Envelope
from core.storage.cleaning import delete_older
from core.storage.tables import MessagingTables

_ONLY_UUIDS = re.compile(r"[0-9A-Fa-f,-]+")
_UUID = re.compile(r"[0-9A-Fa-f-]+")


class Claims:
    """The inbox rows and the effect journal of one group."""

    def __init__(self, tables: MessagingTables, group: str) -> None:
        self.group = group
        self._claim = claim_statement(tables.inbox)
        self._ignore = text(
            f"UPDATE {tables.inbox.fullname} SET outcome = 'ignored', reason = given.reason "
            "FROM unnest(CAST(:ids AS uuid[]), CAST(:reasons AS text[])) AS given (id, reason) "
            "WHERE consumer_group = :group AND event_id = given.id"
        )
        insert_effects = f"INSERT INTO {tables.effect.fullname} (consumer_group, event_id, effect) SELECT :group, "
        self._journal = text(
            f"{insert_effects} given.id, given.name "
            "FROM unnest(CAST(:ids AS uuid[]), CAST(:names AS text[])) AS given (id, name)"
        )
        self._journal_one_name = text(
            f"{insert_effects} given.id, CAST(:name AS text) FROM unnest(CAST(:ids AS uuid[])) AS given (id)"
        )

    def claim(self, connection: Connection, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Those whose id this group has not handled, once each, in order. Raises Poison for an id that is no UUID."""
        ids = [envelope.id for envelope in envelopes]
        claimed = connection.execute(self._claim, {"group": self.group, "ids": uuid_array(ids)}).scalar_one()
        if len(claimed) == len(ids):
            return list(envelopes)
        left = set(claimed)
        if not left.issubset(ids):
            # The database writes ids in lower case with hyphens; someone sent one in another spelling.
            ids = [str(UUID(id)) for id in ids]
        fresh = []
        for id, envelope in zip(ids, envelopes, strict=True):
            if id in left:
                left.remove(id)
                fresh.append(envelope)
        return fresh

    def ignore(self, connection: Connection, ignored: Sequence[tuple[str, Ignored]]) -> None:
        """Note on the claimed rows of these ids why nothing was applied."""
        if ignored:
            reasons = [why.reason for _, why in ignored]
            ids = uuid_array([id for id, _ in ignored])
            connection.execute(self._ignore, {"group": self.group, "ids": ids, "reasons": reasons})

    def journal(self, connection: Connection, effects: Sequence[tuple[str, str]]) -> None:
        """One row an effect (event id, effect name); their identity numbers tell the applied order."""
        if not effects:
            return
        ids, names = zip(*effects, strict=True)
        given = {"group": self.group, "ids": uuid_array(ids)}
        if len(set(names)) == 1:
            connection.execute(self._journal_one_name, given | {"name": names[0]})
        else:
            connection.execute(self._journal, given | {"names": text_array(names)})


def claim_statement(inbox: Table) -> TextClause:
    """Parameters group, ids; one value: the ids inserted, as an array of text."""
    return text(
        f"WITH claimed AS (INSERT INTO {inbox.fullname} (consumer_group, event_id) "
        "SELECT :group, id FROM unnest(CAST(:ids AS uuid[])) AS given (id) ORDER BY id "
        "ON CONFLICT DO NOTHING RETURNING event_id) "
        "SELECT coalesce(array_agg(CAST(event_id AS text)), '{}') FROM claimed"
    )


def uuid_array(ids: Sequence[str]) -> str:
    """An array literal: psycopg adapts a list element by element, which costs 6 us a message of the 25 there are.

    Raises Poison for an id that could change how the literal is read (a comma makes two, a brace or nothing makes
    none, and a message that claims no row would pass for a repeat); the rest of the check is the database's.
    """
    joined = ",".join(ids)
    if joined.count(",") != len(ids) - 1 or not _ONLY_UUIDS.fullmatch(joined):
        raise next(Poison(id, f"the id {id[:100]!r} is not a UUID") for id in ids if not _UUID.fullmatch(id))
    return f"{{{joined}}}"


def text_array(words: Iterable[str]) -> str:
    """An array literal of a few distinct words, many times each."""
    quoted: dict[str, str] = {}
    parts = []
    for word in words:
        part = quoted.get(word)
        if part is None:
            escaped = word.replace("\\", "\\\\").replace('"', '\\"')
            part = quoted[word] = f'"{escaped}"'
        parts.append(part)
    return f"{{{','.join(parts)}}}"


def delete_old_claims(engine: Engine, tables: MessagingTables, older_than: timedelta, at_most_rows: int = 5_000) -> int:
    """Delete up to `at_most_rows` inbox rows handled longer ago than that; how many went. Call until it returns 0.

    An id that was forgotten is new. So a claim stays while its event is in the event table (it may be replayed, or
    requeued and sent once more) and while the group has an open letter of it; and `older_than` must exceed the longest
    time after which a broker may deliver again: what its log keeps, and how long a group may stay away.
    """
    unless = (
        f"EXISTS (SELECT FROM {tables.event.fullname} e WHERE e.event_id = r.event_id) OR "
        f"EXISTS (SELECT FROM {tables.failed_event.fullname} f WHERE f.consumer_group = r.consumer_group "
        "AND f.event_id = CAST(r.event_id AS text) AND f.redone_at IS NULL)"
    )
    return delete_older(engine, tables.inbox, "handled_at", older_than, at_most_rows, unless)
