"""Load a run's folder into tables that the checkers ask: what was seen (history) and what is true (ledger).

Streams: DuckDB reads the lines, spills to a scratch folder, and holds an id in 16 bytes. Raises BrokenHistory with the
file (and the line, where it is one) for anything but a torn last line. Changes nothing in the run's folder.

    seen         t_ns, step, g (group), id, outcome, intended_ns, process    one row an id a line
    said         the lines without ids: phase, fault, sample, lag, outbox, malformed, skipped, recovered
    event        id, topic, type, aggregate_type, aggregate_id, sequence, correlation, is_promised    C, where promised
    inbox, effect, failed, pending, request, subscription                                the other ledger files

Of a run at broker level, which has no ledger, the history alone fills them: `event` is what was attempted, promised is
what the broker confirmed, and an effect is the first delivery (docs/decisions, `broker-level-promise`).
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from history.reader import BrokenHistory, RunFile, history_paths, read_run, torn_at
from history.records import FORMAT, ID_STEPS, OUTCOMES, RECEIVER

DEAD_LETTER_GROUP = "dead-letter-service"
"""Reads dead letters into `failed_event`: that table is its account, so it has no group account of its own."""

DRIVEN = "driven"
"""Type of every event at broker level."""

MEMORY_LIMIT = "1400MB"
"""For DuckDB; the rest of the process stays below 2 GiB with it."""

SAID = {
    "t_ns": "BIGINT",
    "step": "VARCHAR",
    "role": "VARCHAR",
    "pid": "BIGINT",
    "format": "INTEGER",
    "phase": "VARCHAR",
    "complete": "BOOLEAN",
    "contract": "VARCHAR[]",
    "fault": "VARCHAR",
    "action": "VARCHAR",
    "target": "VARCHAR",
    "detail": "VARCHAR",
    "seen": "VARCHAR",
    "after_s": "DOUBLE",
    "part": "VARCHAR",
    "cpu_s": "DOUBLE",
    "rss_bytes": "BIGINT",
    "disk_bytes": "BIGINT",
    "network_bytes": "BIGINT",
    "group": "VARCHAR",
    "topic": "VARCHAR",
    "reason": "VARCHAR",
    "lag_messages": "BIGINT",
    "delay_s": "DOUBLE",
    "depth_messages": "BIGINT",
    "age_s": "DOUBLE",
    "count": "BIGINT",
}

LEDGER = {
    "requests": {"idempotency_key": "VARCHAR", "order_id": "VARCHAR"},
    "events": {
        "event_id": "VARCHAR",
        "topic": "VARCHAR",
        "event_type": "VARCHAR",
        "aggregate_type": "VARCHAR",
        "aggregate_id": "VARCHAR",
        "sequence": "BIGINT",
        "correlation_id": "VARCHAR",
    },
    "pending": {"event_id": "VARCHAR", "attempts": "BIGINT", "last_error": "VARCHAR", "parked": "BOOLEAN"},
    "inbox": {"group": "VARCHAR", "event_id": "VARCHAR", "outcome": "VARCHAR", "reason": "VARCHAR"},
    "effects": {"applied_no": "BIGINT", "group": "VARCHAR", "event_id": "VARCHAR", "effect": "VARCHAR"},
    "failed_events": {"topic": "VARCHAR", "group": "VARCHAR", "event_id": "VARCHAR", "reason": "VARCHAR"},
    "subscriptions": {"group": "VARCHAR", "event_type": "VARCHAR"},
}
"""The files every run leaves, if empty; those of the shop's invariants are optional (see `shop`)."""


@dataclass(frozen=True)
class Facts:
    folder: Path
    run: RunFile
    database: duckdb.DuckDBPyConnection
    missing_files: tuple[str, ...]
    """History files that run.json names and the folder lacks."""
    torn_files: tuple[str, ...]

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self.database.execute(sql, values).fetchall()

    def one(self, sql: str, *values: object) -> Any:
        """The first column of the only row."""
        row = self.database.execute(sql, values).fetchone()
        return None if row is None else row[0]

    @property
    def at_broker(self) -> bool:
        """Driver and receiver spoke to the broker, and no database kept anything."""
        return self.run.schedule.level == "broker"

    def has_ledger(self, name: str) -> bool:
        return (self.folder / "ledger" / f"{name}.ndjson").is_file()


@contextmanager
def load(folder: Path) -> Iterator[Facts]:
    """Facts of one run, for the time of the block."""
    run = read_run(folder)
    for name in run.history_files:
        if "/" in name or name.startswith("."):
            raise BrokenHistory(f"run.json names the history file {name!r}, which is not a file name")
    with tempfile.TemporaryDirectory(prefix="verdict-") as scratch, _connect(Path(scratch)) as database:
        paths = history_paths(folder)
        present = {path.name for path in paths}
        missing = tuple(sorted(set(run.history_files) - present))
        whole, torn = _without_torn_tails(paths, Path(scratch))
        if not whole:
            raise BrokenHistory(f"{folder.name}/history holds no file: nothing was written down")
        _read_history(database, whole)
        _check_words(database)
        facts = Facts(folder, run, database, missing, torn)
        for name in LEDGER:
            if facts.at_broker:
                database.execute(f"CREATE TABLE ledger_{name} ({_shape(LEDGER[name])})")
            else:
                read_ledger(database, folder, name, LEDGER[name])
        _tables(database)
        if facts.at_broker:
            _tables_from_history(database, whole)
        yield facts


def read_ledger(
    database: duckdb.DuckDBPyConnection, folder: Path, name: str, columns: Mapping[str, str], table: str | None = None
) -> None:
    """`ledger/<name>.ndjson` as the table `ledger_<name>`. Raises BrokenHistory where it is absent or unreadable."""
    path = folder / "ledger" / f"{name}.ndjson"
    if not path.is_file():
        raise BrokenHistory(f"{folder.name} has no ledger/{name}.ndjson: the database's truth was not written down")
    source = _json(database, [path], columns, "ledger")
    database.execute(f"CREATE TABLE {table or 'ledger_' + name} AS SELECT * FROM {source}")


def _connect(scratch: Path) -> duckdb.DuckDBPyConnection:
    database = duckdb.connect(
        str(scratch / "facts.duckdb"),
        config={
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": str(scratch / "spill"),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
        },
    )
    # It would draw into the terminal of whoever waits for the verdict.
    database.execute("SET enable_progress_bar = false")
    return database


def _without_torn_tails(paths: Sequence[Path], scratch: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Every file as it is, but a torn one as a copy without its last line."""
    whole: list[Path] = []
    torn: list[str] = []
    for path in paths:
        end = torn_at(path)
        if end is None:
            whole.append(path)
            continue
        torn.append(path.name)
        copy = scratch / "whole" / path.name
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
        with copy.open("r+b") as file:
            file.truncate(end)
        whole.append(copy)
    return whole, tuple(torn)


def _json(database: duckdb.DuckDBPyConnection, paths: Sequence[Path], columns: Mapping[str, str], kind: str) -> str:
    """A FROM clause that reads the files' objects; the names of files travel in a table, not in the text."""
    listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
    shape = ", ".join(f"\"{name}\": '{type_}'" for name, type_ in columns.items())
    filename = ", filename = true" if kind == "history" else ""
    return (
        f"read_json([{listed}], format = 'newline_delimited', columns = {{{shape}}},"
        f" maximum_object_size = 134217728{filename})"
    )


def _read_history(database: duckdb.DuckDBPyConnection, paths: Sequence[Path]) -> None:
    # An id is text; nearly all are UUIDs, which take 16 bytes. Any other stands for itself by its digest.
    database.execute("CREATE MACRO as_id(x) AS coalesce(try_cast(x AS UUID), md5(x)::UUID)")
    database.execute("CREATE TYPE process AS ENUM (SELECT unnest(?))", [sorted(path.stem for path in paths)])
    steps = ", ".join(f"'{step}'" for step in ID_STEPS)
    with_ids = _json(
        database,
        paths,
        {
            "t_ns": "BIGINT",
            "step": "VARCHAR",
            "group": "VARCHAR",
            "ids": "VARCHAR[]",
            "outcomes": "VARCHAR[]",
            "intended_ns": "BIGINT[]",
        },
        "history",
    )
    try:
        database.execute(
            f"""CREATE TABLE seen AS
            SELECT t_ns, step, "group" AS g, as_id(text) AS id, CASE WHEN try_cast(text AS UUID) IS NULL THEN text END
                AS text, outcome, intended_ns, process
            FROM (SELECT t_ns, step, "group", unnest(ids) AS text, unnest(outcomes) AS outcome,
                    unnest(intended_ns) AS intended_ns,
                    parse_filename(filename, true)::process AS process
                FROM {with_ids} WHERE step IN ({steps}))"""
        )
        database.execute(
            f"""CREATE TABLE said AS SELECT *, parse_filename(filename, true)::process AS process
            FROM {_json(database, paths, SAID, "history")} WHERE step IS NULL OR step NOT IN ({steps})"""
        )
    except duckdb.Error as error:
        raise BrokenHistory(f"the history cannot be read: {_first_line(error)}") from error


def _first_line(error: duckdb.Error) -> str:
    return str(error).strip().splitlines()[0]


def _check_words(database: duckdb.DuckDBPyConnection) -> None:
    """Refuse a history whose lines do not say what their shape requires."""

    def refuse(sql: str, what: str) -> None:
        row = database.execute(sql).fetchone()
        if row is not None:
            raise BrokenHistory(f"the history is wrong: {what.format(*row)}")

    refuse("SELECT process FROM said WHERE step IS NULL LIMIT 1", "a line of {0} has no step")
    refuse("SELECT step, process FROM seen WHERE t_ns IS NULL LIMIT 1", "a {0} line of {1} has no t_ns")
    refuse("SELECT step, process FROM seen WHERE id IS NULL LIMIT 1", "a {0} line of {1} lacks an id it needs")
    refuse(
        """SELECT step, process FROM seen WHERE g IS NULL AND step IN ('delivered', 'applied', 'acked') LIMIT 1""",
        "a {0} line of {1} names no group",
    )
    for step, words in OUTCOMES.items():
        allowed = ", ".join(f"'{word}'" for word in sorted(words))
        refuse(
            f"""SELECT process, coalesce(outcome, 'none') FROM seen
            WHERE step = '{step}' AND (outcome IS NULL OR outcome NOT IN ({allowed})) LIMIT 1""",
            f"{{0}} has the outcome {{1}} at {step}, which is none of {allowed}",
        )
    refuse(
        f"SELECT process, format FROM said WHERE step = 'opened' AND coalesce(format, 0) <> {FORMAT} LIMIT 1",
        f"{{0}} has format {{1}}, this reader knows {FORMAT}",
    )
    refuse(
        """SELECT process FROM (SELECT unnest(enum_range(NULL::process))::process AS process)
        WHERE process NOT IN (SELECT process FROM said WHERE step = 'opened') LIMIT 1""",
        "{0} has no opening line",
    )


def _tables(database: duckdb.DuckDBPyConnection) -> None:
    for sql in (
        """CREATE TABLE event AS SELECT as_id(event_id) AS id, topic, event_type AS type, aggregate_type, aggregate_id,
            sequence, as_id(correlation_id) AS correlation, correlation_id, event_id AS text, true AS is_promised
            FROM ledger_events""",
        """CREATE TABLE inbox AS SELECT "group" AS g, as_id(event_id) AS id, outcome, reason FROM ledger_inbox""",
        """CREATE TABLE effect AS
            SELECT "group" AS g, as_id(event_id) AS id, effect, applied_no FROM ledger_effects""",
        """CREATE TABLE failed AS SELECT "group" AS g, as_id(event_id) AS id, reason FROM ledger_failed_events""",
        """CREATE TABLE pending AS SELECT as_id(event_id) AS id, coalesce(parked, false) AS parked, attempts, last_error
            FROM ledger_pending""",
        """CREATE TABLE request AS SELECT as_id(idempotency_key) AS id, order_id FROM ledger_requests""",
        """CREATE TABLE subscription AS SELECT DISTINCT "group" AS g, event_type AS type FROM ledger_subscriptions""",
    ):
        database.execute(sql)
    for name in ("events", "inbox", "effects", "failed_events", "pending", "requests", "subscriptions"):
        database.execute(f"DROP TABLE ledger_{name}")
    # What is compared with nothing is neither equal nor not: no checker would miss it.
    for table, column in (("event", "id"), ("event", "type"), ("inbox", "g"), ("inbox", "id"), ("effect", "g"),
                          ("effect", "id"), ("effect", "applied_no"), ("pending", "id"), ("request", "id"),
                          ("subscription", "g"), ("subscription", "type")):  # fmt: skip
        if database.execute(f"SELECT 1 FROM {table} WHERE {column} IS NULL LIMIT 1").fetchone():
            raise BrokenHistory(f"the ledger of {table} has a line without its {column}")
    twice = database.execute("SELECT any_value(text) FROM event GROUP BY id HAVING count(*) > 1 LIMIT 1").fetchone()
    if twice:
        raise BrokenHistory(f"ledger/events.ndjson names {twice[0]} twice: the database forbids that")


def _shape(columns: Mapping[str, str]) -> str:
    return ", ".join(f'"{name}" {type_}' for name, type_ in columns.items())


def _tables_from_history(database: duckdb.DuckDBPyConnection, paths: Sequence[Path]) -> None:
    """Fill `event`, `subscription` and `effect` of a run at broker level."""

    def lines(role: str, columns: Mapping[str, str]) -> str:
        of_role = [path for path in paths if path.name.startswith(f"{role}-")]
        if not of_role:
            raise BrokenHistory(f"no process was a {role}: a run at broker level needs one")
        return _json(database, of_role, columns, "history")

    driver = lines("driver", {"step": "VARCHAR", "ids": "VARCHAR[]", "keys": "VARCHAR[]", "sequences": "BIGINT[]"})
    receiver = lines(RECEIVER, {"t_ns": "BIGINT", "step": "VARCHAR", "group": "VARCHAR", "ids": "VARCHAR[]"})
    for sql in (
        f"INSERT INTO subscription VALUES ('{RECEIVER}', '{DRIVEN}')",
        f"""INSERT INTO event (id, type, aggregate_type, aggregate_id, sequence, correlation, is_promised)
        SELECT a.id, '{DRIVEN}', 'key', any_value(key), any_value(sequence), a.id, bool_or(a.is_promised)
        FROM (SELECT id, count(*) FILTER (outcome = 'confirmed') > 0 AS is_promised FROM seen
            WHERE step IN ('attempted', 'confirmed') GROUP BY id) a
        LEFT JOIN (SELECT as_id(id) AS id, key, sequence FROM (
            SELECT unnest(ids) AS id, unnest(keys) AS key, unnest(sequences) AS sequence
            FROM {driver} WHERE step = 'requested')) r ON r.id = a.id
        GROUP BY a.id""",
        # A clock orders batches of several receivers; within one receiver the order of its own lines is the same.
        f"""INSERT INTO effect SELECT g, id, 'received', row_number() OVER (ORDER BY first_ns, place) FROM (
            SELECT "group" AS g, as_id(id) AS id, min(t_ns) AS first_ns, arg_min(place, (t_ns, place)) AS place FROM (
                SELECT t_ns, "group", unnest(ids) AS id, generate_subscripts(ids, 1) AS place
                FROM {receiver} WHERE step = 'delivered') GROUP BY ALL)""",
    ):
        try:
            database.execute(sql)
        except duckdb.Error as error:
            raise BrokenHistory(f"the history cannot be read: {_first_line(error)}") from error
    without = database.execute("SELECT id FROM event WHERE aggregate_id IS NULL OR sequence IS NULL LIMIT 1").fetchone()
    if without:
        raise BrokenHistory(f"the driver did not say which key and sequence {without[0]} has")
