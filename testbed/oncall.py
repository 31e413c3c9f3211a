"""`testbed dlq`, `audit`, `replay`, `trace` and `repair`: for whoever is on call, on a live system."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from sqlalchemy import func, select

from analysis.rendering.closing import closing_report
from core.api.problems import CannotDo
from core.inbox.dead_letters import CannotRedo, list_letters, show_letter
from core.inbox.letters import envelope_of
from core.journey import NoProbe
from core.messaging.ports import Broker
from core.outbox.storage import requeue
from core.queries.ledger import BEGINNING, END
from core.queries.parked import list_parked
from core.storage.database import wait_for_database
from testbed import audit as auditing
from testbed import wiring
from testbed.operations import ShopOperations
from testbed.revision import git_revision
from testbed.settings import SettingError, Settings, read_settings

console = Console(highlight=False)
progress_console = Console(stderr=True)
dlq = typer.Typer(no_args_is_help=True, help="Dead letters, and keys that the relay parked.")

Topic = Annotated[str, typer.Option("--topic", help="Only letters of this topic, also by an older name.")]
Group = Annotated[str, typer.Option("--group", help="Only letters of this consumer group.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many, oldest first.")]
Parked = Annotated[bool, typer.Option("--parked", help="Keys that the relay parked, instead of letters.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


def register(app: typer.Typer) -> None:
    app.add_typer(dlq, name="dlq")
    app.command()(audit)
    app.command()(replay)
    app.command()(trace)
    app.command()(repair)


@dataclass(frozen=True)
class OnCall:
    """A connection to a running system; nothing of it is started."""

    settings: Settings
    database: wiring.Database
    broker: Broker
    operations: ShopOperations


@contextmanager
def on_call(needs_broker: bool = True) -> Iterator[OnCall]:
    settings = read_settings()
    if needs_broker and settings.broker == "memory":
        raise SettingError("BROKER=memory lives in one process: ask its own /admin endpoints, see `testbed serve`")
    database, broker = wiring.open_database(settings), wiring.connect_broker(settings)
    sink = wiring.event_sink(settings, database, broker, NoProbe())
    try:
        wait_for_database(database.engine, 5)
        with wiring.made_by_init(settings):
            yield OnCall(settings, database, broker, ShopOperations(settings, database, broker, sink, NoProbe()))
    except (CannotDo, CannotRedo) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    finally:
        sink.close()
        database.engine.dispose()


@dlq.command("list")
def list_them(
    topic: Topic = "",
    group: Group = "",
    limit: Limit = 100,
    parked: Parked = False,
    with_redone: Annotated[bool, typer.Option("--redone", help="Closed letters too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List dead letters, oldest first, with the reason of each.

    Examples: `testbed dlq list --group email-service` · `testbed dlq list --parked`
    """
    with on_call(needs_broker=False) as at:
        if parked:
            with at.database.engine.connect() as connection:
                rows = [key._asdict() for key in list_parked(connection, at.database.messaging, limit)]
            columns: tuple[str, ...] = ("key", "event_type", "attempts", "waiting_events", "parked_at", "reason")
        else:
            engine, tables = at.database.engine, at.database.messaging
            of_topic = at.operations.topic_of(topic) if topic else None
            of_group = at.operations.group_of_letters(group) if group else None
            letters = list_letters(engine, tables, of_topic, of_group, limit, with_redone=with_redone)
            names = ("id", "topic", "consumer_group", "event_type", "event_id", "key", "attempts", "last_failed_at")
            rows = [{name: row[name] for name in (*names, "redone_at", "reason")} for row in letters]
            columns = ("id", "topic", "consumer_group", "event_type", "key", "attempts", "last_failed_at", "reason")
    _print(rows, columns, as_json, "no key is parked" if parked else "no dead letter")


@dlq.command()
def show(letter: Annotated[int, typer.Argument(help="A letter's id, from `testbed dlq list`.")]) -> None:
    """Show one dead letter with its headers and body.

    Example: `testbed dlq show 17`
    """
    with on_call(needs_broker=False) as at:
        row = show_letter(at.database.engine, at.database.messaging, letter)
    if row is None:
        typer.echo(f"there is no dead letter {letter}; see `testbed dlq list`", err=True)
        raise typer.Exit(2)
    fields = {name: value for name, value in row.items() if name not in ("headers", "body")}
    envelope = envelope_of(dict(row))
    body = bytes(row["body"])
    fields["event"] = None if envelope is None else {**envelope._asdict(), "data": None}
    fields["wire"] = json.loads(row["headers"])["wire"] if envelope is None else None
    fields["body"] = body.decode(errors="backslashreplace")
    typer.echo(json.dumps({k: v for k, v in fields.items() if v is not None}, indent=2, default=str))


@dlq.command()
def retry(
    letters: Annotated[list[int] | None, typer.Argument(help="Letters' ids; none: the oldest.")] = None,
    topic: Topic = "",
    group: Group = "",
    limit: Limit = 100,
    parked: Parked = False,
    keys: Annotated[list[str] | None, typer.Option("--key", help="With --parked: only this key. Repeatable.")] = None,
) -> None:
    """Run each letter's consumer group on it again: its effect, the inbox row and the closed letter are one
    transaction, and nothing goes back to the broker. A letter that fails again stays, with its new reason.

    With --parked: let parked keys go again, attempts counted anew.

    Exit 0: nothing is left of what was asked for; 1: something failed again, or its group is not known here.

    Examples: `testbed dlq retry --group email-service` · `testbed dlq retry 17 18` · `testbed dlq retry --parked`
    """
    with on_call(needs_broker=False) as at:
        if parked:
            with at.database.engine.begin() as connection:
                count = requeue(connection, at.database.messaging, keys or None)
            typer.echo(f"{count} parked key(s) go again")
            return
        if letters:
            answer = at.operations.retry_these(letters)
        else:
            answer = at.operations.retry_letters(topic or None, group or None, limit)
    for left in answer["letters"]:
        typer.echo(f"letter {left['id']}: {left['outcome']}: {left['reason']}")
    typer.echo(
        f"{answer['redone']} redone, {answer['closed']} closed before, {answer['failed']} failed again, "
        f"{answer['malformed']} malformed, {answer['unhandled']} of unknown groups, {answer['left']} open"
    )
    raise typer.Exit(1 if answer["failed"] or answer["malformed"] or answer["unhandled"] else 0)


def audit(
    since: Annotated[str, typer.Option(help="Only what occurred since this instant, e.g. 2026-01-31T12:00:00Z.")] = "",
    out: Annotated[Path | None, typer.Option(help="Write the closing report there, as Markdown.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read everything the broker ever carried and reconcile it with the database, in both directions.

    Reports what is missing from the log, in the log without having been committed, or different; and what each
    consumer group owes although nothing is on its way to it. The relay deletes events RETENTION_EVENTS_S (seven days)
    after they left the outbox, the broker its log by its own clock: where a system is older than that, name an instant
    since when both are kept.

    Exit 0: all agree; 1: they do not; 2: messages are still on their way, or the broker keeps no log.

    Examples: `testbed audit --out closing.md` · `testbed audit --since 2026-01-31T00:00:00Z --json`
    """
    with on_call() as at:
        instant = _instant(since)
        with _progress(at, instant) as told:
            found = at.operations.audit_all(instant, told)
        document = auditing.as_json(found)
        report = closing_report(document, at.settings.seed, git_revision())
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(report, encoding="utf-8")
    typer.echo(json.dumps(document, indent=2) if as_json else report if out is None else report.split("\n## ")[0])
    raise typer.Exit(found.exit_code)


def replay(
    group: Annotated[str, typer.Argument(help="The consumer group; no other sees anything.")],
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Recompute all of its effects.")] = False,
    since: Annotated[str, typer.Option(help="What occurred since this instant and was never applied.")] = "",
    events: Annotated[list[str] | None, typer.Option("--event", help="This event id. Repeatable.")] = None,
    source: Annotated[
        str,
        typer.Option(
            help="events: the event table, beside running consumers; broker: move the "
            "group's position back, while none of its consumers runs."
        ),
    ] = "events",
) -> None:
    """Apply events again for one group alone.

    By event ids or an instant: what the group never applied is applied, the rest is passed over. From the beginning:
    its effects are emptied and recomputed from the events that are kept (RETENTION_EVENTS_S), where they can be.

    Exit 0: done; 1: an event failed; 2: this broker or group cannot do it, and why.

    Examples: `testbed replay product-metrics --from-beginning` · `testbed replay email-service --event ID --event ID`
    · `testbed replay product-metrics --since 2026-01-31T00:00:00Z --source broker`
    """
    if sum((from_beginning, bool(since), bool(events))) != 1:
        raise typer.BadParameter("name exactly one of --from-beginning, --since and --event")
    if source not in ("events", "broker"):
        raise typer.BadParameter(f"--source {source}: use events or broker")
    for event in events or ():
        _event_id(event)
    with on_call() as at:
        answer = at.operations.replay(group, events or None, _instant(since), from_beginning, source)  # type: ignore[arg-type]
    if source == "broker":
        typer.echo(f"the position of {group} is back; {answer['then']}")
        return
    for failed in answer["failed"]:
        typer.echo(f"{failed['event_id']}: {failed['reason']}")
    typer.echo(f"{answer['applied']} applied, {answer['passedOver']} handled before, {len(answer['failed'])} failed")
    raise typer.Exit(1 if answer["failed"] else 0)


def trace(
    name: Annotated[str, typer.Argument(help="An event id, an order's id, or a correlation id (Idempotency-Key).")],
    as_json: AsJson = False,
) -> None:
    """Print an event's way through HTTP, outbox, wire and effects; the correlation id joins all events of one request.

    Examples: `testbed trace 019a9c3e-7f5a-7d0e-8a54-0f3c9e6b2a11` · `testbed trace my-idempotency-key`
    """
    with on_call() as at:
        answer = at.operations.follow(name)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    elif not answer["events"]:
        typer.echo(f"nothing in the database speaks of {name}", err=True)
    else:
        typer.echo(trace_text(answer))
    raise typer.Exit(0 if answer["events"] else 2)


def trace_text(answer: dict[str, Any]) -> str:
    """One line a moment, in the order in which it happened, below the event it speaks of."""
    lines, event = [], ""
    for moment in answer["moments"]:
        if moment["event_id"] != event:
            event = moment["event_id"]
            lines.append(event)
        lines.append(f"  {moment['at'] or '':32}  {moment['step']:13}  {moment['what']}")
    return "\n".join(lines)


def repair(
    since: Annotated[
        str,
        typer.Option(
            help="Only of orders made since this instant; default: for as long as events are kept (RETENTION_EVENTS_S)."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Write the event of every payment that was completed, failed or cancelled without one; once, however often and
    from however many places it is called. The relay sends it like any other.

    This shop writes payment and event in one transaction; rows that came another way (restored, edited by hand, written
    by a service that only logs a lost outbox row) may lack it. Go further back only if no relay has deleted events yet:
    what one deleted would be told again.

    Examples: `testbed repair` · `testbed repair --since 2026-01-31T00:00:00Z`
    """
    with on_call(needs_broker=False) as at:
        kept_for = timedelta(seconds=at.settings.retention_events_s)
        orders = at.operations.repair_payments(_instant(since) or datetime.now(UTC) - kept_for)
    rows = [{"order": order} for order in orders]
    _print(rows, ("order",), as_json, "no payment lacks its event")


def _instant(text: str) -> datetime | None:
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"--since {text}: use e.g. 2026-01-31T12:00:00Z") from error
    instant = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    if not BEGINNING <= instant <= END:
        raise typer.BadParameter(f"--since {text}: use an instant from {BEGINNING:%Y-%m-%d} to {END:%Y-%m-%d}")
    return instant


def _event_id(text: str) -> None:
    try:
        UUID(text)
    except ValueError as error:
        raise typer.BadParameter(f"--event {text}: use an event id as `testbed trace` shows it, a UUID") from error


@contextmanager
def _progress(at: OnCall, since: datetime | None) -> Iterator[Callable[[str, int], None]]:
    """Two bars with time left; the log is about as long as the ledger."""
    event = at.database.messaging.event
    with at.database.engine.connect() as connection:
        query = select(func.count()).select_from(event)
        total = connection.execute(query if since is None else query.where(event.c.occurred_at >= since)).scalar_one()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=progress_console, transient=True) as bars:
        tasks = {what: bars.add_task(f"reading the {what}", total=total) for what in ("ledger", "log")}
        yield lambda what, more: bars.advance(tasks[what], more)


def _print(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool, nothing: str) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2, default=str))
        return
    if not rows:
        typer.echo(nothing)
        return
    table = Table()
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("" if row[column] is None else _short(row[column]) for column in columns))
    console.print(table)


def _short(value: object) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value)
