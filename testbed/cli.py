"""The command line. Exit 0: valid or done; 1: a promise was broken; 2: could not tell or could not run."""

import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module

import typer

from core.messaging.errors import BrokerError
from core.storage.database import DatabaseUnavailable
from servers.lifecycle import ServerFailed
from testbed.settings import SettingError

COULD_NOT_RUN = 2

MODULES: Mapping[str, Sequence[str]] = {
    "doctor": ["doctor"],
    "services": ["up", "status", "down", "chaos", "fetch"],
    "role_commands": ["init", "serve", "relay", "consume", "token", "outside-world"],
    "experiments": ["run"],
    "comparing": ["compare"],
    "shrinking": ["shrink"],
    "judging": ["verify", "explain", "report"],
    "benches": ["bench"],
    "oncall": ["dlq", "audit", "replay", "trace", "repair"],
}
"""Module of this package -> the commands it registers, in the order that `--help` shows."""


def application(words: Sequence[str]) -> typer.Typer:
    """The command line for `words`. Only the module of the command they name is imported, which halves the start of
    every role; all of them where no command is named."""
    app = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        help="One shop on Kafka or RabbitMQ, under load and faults, with every message accounted for.",
        epilog="Start with `testbed doctor`, then `testbed compare --quick`. Settings come from the environment.",
    )
    # With one command alone typer would drop the command's name; a callback keeps it.
    app.callback()(lambda: None)
    named = [module for module, commands in MODULES.items() if words and words[0] in commands]
    for module in named or MODULES:
        import_module(f"testbed.{module}").register(app)
    return app


def main() -> None:
    """Entry point of the `testbed` command."""
    try:
        application(sys.argv[1:])()
    except (SettingError, ServerFailed, DatabaseUnavailable, BrokerError) as error:
        typer.echo(str(error), err=True)
        sys.exit(COULD_NOT_RUN)
    except Exception:  # noqa: BLE001
        # Python would exit with 1, which says that a promise was broken.
        traceback.print_exc()
        sys.exit(COULD_NOT_RUN)


if __name__ == "__main__":
    main()
