"""The commands that run one role of the system each, and what they need beforehand: `init` and `token`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from testbed import logs, roles, wiring
from testbed.folders import state_folder
from testbed.settings import Settings, read_settings


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (init, serve, relay, consume, token):
        app.command()(command)
    app.command("outside-world")(outside_world)


def init(products: Annotated[int, typer.Option(min=1, help="Products in the catalogue.")] = 100) -> None:
    """Make tables, catalogue, topics and queues. Doing it again changes nothing; what differs is refused by name.

    Example: `BROKER=kafka testbed init`
    """
    settings = read_settings()
    wiring.prepare(settings, products)
    typer.echo(f"tables, {products} products and the topology of {settings.broker} are there")


def serve() -> None:
    """Run the HTTP API of the shop. With BROKER=memory: the whole system in one process.

    Example: `eval "$(testbed up --broker kafka --env)" && BROKER=kafka testbed serve`
    """
    _role(roles.serve)


def relay() -> None:
    """Move committed events from the outbox to the broker. Any number of relays may run side by side.

    Example: `BROKER=rabbitmq testbed relay`
    """
    _role(roles.relay)


def consume(
    groups: Annotated[list[str] | None, typer.Argument(help="Consumer groups; all if none is named.")] = None,
) -> None:
    """Receive, apply once and acknowledge, for some consumer groups.

    Example: `BROKER=kafka testbed consume inventory-service`
    """
    _role(lambda settings: roles.consume(settings, groups or []))


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
    settings = read_settings()
    logs.configure(settings.log_format)
    with wiring.made_by_init(settings):
        run(settings)
