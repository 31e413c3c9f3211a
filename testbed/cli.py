"""The command line. Exit 0: valid or done; 1: a promise was broken; 2: could not tell or could not run."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from core.messaging.errors import BrokerError
from core.storage.database import DatabaseUnavailable
from servers.lifecycle import ServerFailed
from testbed import benches, comparing, doctor, experiments, judging, oncall, roles, services, shrinking, wiring
from testbed.folders import state_folder
from testbed.settings import SettingError, Settings, read_settings

COULD_NOT_RUN = 2

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="One shop on Kafka or RabbitMQ, under load and faults, with every message accounted for.",
    epilog="Start with `testbed doctor`, then `testbed compare --quick`. Settings come from the environment.",
)
doctor.register(app)
services.register(app)
experiments.register(app)
comparing.register(app)
shrinking.register(app)
judging.register(app)
benches.register(app)
oncall.register(app)


@app.command()
def init(products: Annotated[int, typer.Option(min=1, help="Products in the catalogue.")] = 100) -> None:
    """Make tables, catalogue, topics and queues. Doing it again changes nothing; what differs is refused by name.

    Example: `BROKER=kafka testbed init`
    """
    settings = read_settings()
    wiring.prepare(settings, products)
    typer.echo(f"tables, {products} products and the topology of {settings.broker} are there")


@app.command()
def serve() -> None:
    """Run the HTTP API of the shop. With BROKER=memory: the whole system in one process.

    Example: `eval "$(testbed up --broker kafka --env)" && BROKER=kafka testbed serve`
    """
    _role(roles.serve)


@app.command()
def relay() -> None:
    """Move committed events from the outbox to the broker. Any number of relays may run side by side.

    Example: `BROKER=rabbitmq testbed relay`
    """
    _role(roles.relay)


@app.command()
def consume(
    groups: Annotated[list[str] | None, typer.Argument(help="Consumer groups; all if none is named.")] = None,
) -> None:
    """Receive, apply once and acknowledge, for some consumer groups.

    Example: `BROKER=kafka testbed consume inventory-service`
    """
    _role(lambda settings: roles.consume(settings, groups or []))


@app.command("outside-world")
def outside_world(
    port: Annotated[int, typer.Option(min=1, max=65_535)] = 8900,
    record: Annotated[
        Path | None, typer.Option(help="File of its calls; kept and read again. Default: beside the services of `up`.")
    ] = None,
) -> None:
    """Run the world outside the shop: payment gateway, e-mail, push, SMS and data platform. It records every call.

    Examples:

    `testbed outside-world &` and `export OUTSIDE_WORLD_URL=http://127.0.0.1:8900`

    `curl -X PUT 127.0.0.1:8900/behaviour -H 'content-type: application/json' -d '{"mails": {"failure_ratio": 0.3}}'`
    """
    file = record or state_folder() / "outside-world" / "calls.ndjson"
    _role(lambda settings: roles.outside_world(settings, port, file))


@app.command()
def token(
    subject: Annotated[str, typer.Argument(help="Whose token: the customer's id.")] = "customer-1",
    admin: Annotated[bool, typer.Option(help="With the scope `admin`.")] = False,
) -> None:
    """Print a token for development, valid for an hour.

    Example: `curl -H "Authorization: Bearer $(testbed token)" http://127.0.0.1:8000/api/v1/orders`
    """
    settings = read_settings()
    typer.echo(wiring.development_token(settings, subject, admin))


def _role(run: Callable[[Settings], None]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    # Its INFO tells of every frame exchanged at a connection's start.
    logging.getLogger("pika").setLevel(logging.WARNING)
    run(read_settings())


def main() -> None:
    """Entry point of the `testbed` command."""
    try:
        app()
    except (SettingError, ServerFailed, DatabaseUnavailable, BrokerError) as error:
        typer.echo(str(error), err=True)
        sys.exit(COULD_NOT_RUN)


if __name__ == "__main__":
    main()
