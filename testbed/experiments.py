"""`testbed run`: one experiment, with progress and time left, that leaves a folder behind.

Not here: many of them (`comparing`), their faults made fewer (`shrinking`), one part alone (`benches`).
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from analysis.verdict import Verdict, write_verdict
from benchmarks.calibration import work_per_s
from benchmarks.phases import Moment, RunBroken, run_experiment
from benchmarks.scenario import STRUCK, Fault, Scenario, ScenarioError, changed, load_scenario, names, place
from faults.catalogue import FAULTS
from faults.network import Proxy
from faults.schedule import drawable, random_schedule
from history.recorder import Recorder
from servers.lifecycle import ServerFailed
from servers.process import free_ports
from testbed import services, wiring
from testbed.driven_lab import LABS
from testbed.homes import home
from testbed.services import Services
from testbed.settings import NUMBERS, SEAMS, SettingError, Settings, read_settings

COULD_NOT_RUN = 2
OVERHEAD_S = 22
"""Start of services and roles, drain and check of a run, beside its load: for the time left only."""
console = Console(stderr=True, highlight=False)

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting in lower case, a seam, or a field of the scenario."),
]


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    scenario: Annotated[str, typer.Argument(help="A scenario's name, or the path of a .toml file.")] = "",
    broker: Annotated[str, typer.Option(help="kafka or rabbitmq; BROKER where not given.")] = "",
    seed: Annotated[int, typer.Option(help="Fixes arrivals and faults.")] = 1,
    out: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
    sets: Sets = None,
    provider: Annotated[str, typer.Option(help="auto, native, docker or external.")] = "auto",
    list_them: Annotated[bool, typer.Option("--list", help="Show the scenarios.")] = False,
) -> None:
    """Run one experiment: warm-up, load with faults, heal, drain, check. Exit 0 valid, 1 invalid, 2 unknown.

    Examples:

    `testbed run kill-mid-publish --broker kafka --seed 7`

    `testbed run relay-crash --broker rabbitmq --set consume_strategy=none`

    `testbed run steady --broker kafka --set load.rate_per_s=300 --set relay.claim=none`

    `testbed run steady --broker kafka --seed 7 --set faults=random:4 --set load.duration_s=80`

    `testbed run my-own.toml --broker rabbitmq`
    """
    if list_them:
        for name in names():
            typer.echo(_line(load_scenario(name)))
        return
    if not scenario:
        raise typer.BadParameter(f"name a scenario: {', '.join(names())}")
    with could_not_run():
        planned, settings = prepare(scenario, broker, seed, sets or [])
        folder = (
            out
            or Path("reports")
            / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{planned.name}-{settings.broker}-{seed}"
        )
        with Board() as board:
            verdict = run_once(planned, settings, folder, provider, board, sets or [])
    tell(verdict, folder)
    raise typer.Exit(verdict.exit_code)


def _line(scenario: Scenario) -> str:
    able = [broker for broker in services.BROKERS if not scenario.needs & services.lacks(broker)]
    only = f" ({' and '.join(able)} only)" if len(able) < len(services.BROKERS) else ""
    return f"{scenario.name:30} {scenario.question}{only}"


def prepare(scenario: str, broker: str, seed: int, sets: list[str]) -> tuple[Scenario, Settings]:
    """The scenario and the settings, with every `--set` in its place. Raises SettingError, ScenarioError."""
    planned = load_scenario(scenario)
    overrides: dict[str, Any] = {"seed": seed}
    seams: dict[str, str] = {}
    for name, value in planned.settings.items():
        key = NUMBERS.get(name, name)
        if key in SEAMS:
            seams[key] = str(value)
        elif key in Settings.model_fields:
            overrides[key] = value
        else:
            raise ScenarioError(f"{place(scenario, 'settings', name)}: settings.{name}: {_no_such(name)}")
    if broker:
        overrides["broker"] = broker
    parts: dict[str, Any] = {}
    for text in sets:
        name, equals, value = text.partition("=")
        key = NUMBERS.get(name, name)
        if not equals:
            raise SettingError(f"--set {text}: use KEY=VALUE")
        if key in SEAMS:
            seams[key] = value
        elif key == "faults":
            random_faults = _random(value)
            parts["random_faults"] = random_faults
            parts["faults"] = [] if random_faults else [fault.model_dump() for fault in _faults(value, planned)]
        elif key.partition(".")[0] in ("load", "roles"):
            part, _, field = key.partition(".")
            parts.setdefault(part, getattr(planned, part).model_dump())[field] = value
        elif key in ("drain_s",):
            parts[key] = value
        elif key in Settings.model_fields:
            overrides[key] = value
        else:
            raise SettingError(f"--set {name}: {_no_such(name)}")
    if seams:
        overrides["seams"] = seams
    roles = parts.get("roles", planned.roles.model_dump())
    overrides.setdefault("groups", roles["groups"])
    settings = read_settings(**overrides)
    if settings.broker == "memory":
        raise SettingError("BROKER=memory has no process to break: a run needs kafka or rabbitmq")
    wiring.groups(settings)
    absent = frozenset() if wiring.has_relay(settings) else frozenset({"relay"})
    planned = _drawn(changed(planned, **parts), seed, absent)
    if planned.load.level == "outbox" and absent:
        raise SettingError(f"load.level=outbox: PUBLISH_STRATEGY={settings.publish_strategy} has no outbox to write to")
    lacking = planned.needs & (services.lacks(settings.broker) | absent)
    if lacking:
        faults = ", ".join(fault.fault for fault in planned.faults if FAULTS[fault.fault].needs in lacking)
        who = "PUBLISH_STRATEGY" if lacking == {"relay"} else settings.broker
        raise ScenarioError(f"{planned.name}: {who} lacks the capability {', '.join(lacking)} that {faults} needs")
    return planned, settings


def _no_such(key: str) -> str:
    known = ", ".join([*Settings.model_fields, *SEAMS, *NUMBERS, "faults", "load.*", "roles.*", "drain_s"])
    return f"no such setting or seam {key!r}; known are {known}"


def _random(text: str) -> int:
    """N of `random:N`; 0 where faults are listed."""
    word, _, number = text.partition(":")
    if word != "random":
        return 0
    if not number.isdigit() or int(number) == 0:
        raise ScenarioError(f"--set faults={text}: use random:N with N of 1 or more, e.g. random:4")
    return int(number)


def _drawn(scenario: Scenario, seed: int, absent: frozenset[str]) -> Scenario:
    """With the faults that this seed draws in place of their number."""
    if not scenario.random_faults:
        return scenario
    try:
        able = [name for name in drawable(absent) if FAULTS[name].target in STRUCK[scenario.load.level]]
        drawn = random_schedule(seed, scenario.random_faults, scenario.load.duration_s, able)
    except ValueError as error:
        raise ScenarioError(f"{scenario.name}: {error}") from error
    return changed(scenario, random_faults=0, faults=[_fault(*fault).model_dump() for fault in drawn])


def _fault(name: str, at_s: float, for_s: float) -> Fault:
    when = "publish_in_flight" if FAULTS[name].mark == "unknown" else "at_once"
    return Fault(fault=name, at_s=at_s, for_s=for_s, when=when)


def _faults(text: str, scenario: Scenario) -> Iterator[Fault]:
    """`NAME@AT_S[+FOR_S],…`, at a third of the load where no time is given."""
    for word in filter(None, text.split(",")):
        name, _, times = word.partition("@")
        if name not in FAULTS:
            raise ScenarioError(f"--set faults={word}: no fault {name!r}; use some of {', '.join(FAULTS)}")
        at_s, _, for_s = times.partition("+")
        try:
            at = float(at_s) if at_s else scenario.load.duration_s / 3
            yield _fault(name, at, float(for_s) if for_s else 2.0)
        except ValueError as error:
            raise ScenarioError(f"--set faults={word}: use NAME@AT_S+FOR_S, e.g. sigkill@10+2") from error


def run_once(
    scenario: Scenario, settings: Settings, folder: Path, provider: str, board: "Board", sets: Sequence[str] = ()
) -> Verdict:
    """One experiment on fresh services of its own; its folder and its verdict. Nothing is left running.

    `sets`: the `--set` words that made the scenario and the settings what they are; kept, so that it can be repeated.
    """
    if (folder / "run.json").exists():
        raise SettingError(f"{folder} holds a run already; name another folder with --out or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    show = board.follow(f"{scenario.name} on {settings.broker}", scenario.load.warm_up_s + scenario.load.duration_s)
    try:
        # Before the services: a broker that has just begun to listen is still busy with its own start.
        machine_work_per_s = work_per_s()
        show(Moment("start", 20, "services"))
        with home() as inside, services_of(scenario, settings.broker, inside, provider) as (running, proxy):
            recorder = Recorder(folder / "history", "parent")
            lab = LABS[scenario.load.level](running, settings, scenario, folder, recorder, proxy)
            try:
                run_experiment(
                    scenario, settings.broker, settings.seed, lab, recorder, folder, machine_work_per_s, show, sets
                )
            except RunBroken as error:
                console.print(f"[red]run broken:[/red] {escape(str(error))}")
            finally:
                lab.close()
    except KeyboardInterrupt:
        # The run has stopped everything and told what it could: what is there stays readable, as unknown.
        if (folder / "run.json").exists():
            write_verdict(folder)
        raise
    show(Moment("check", 0, "verdict"))
    return write_verdict(folder)


@contextlib.contextmanager
def services_of(scenario: Scenario, broker: str, home: Path, provider: str) -> Iterator[tuple[Services, Proxy | None]]:
    """The database and the broker; before the broker a proxy, if a fault of the scenario is one of the network."""
    if "proxy" not in scenario.needs:
        with services.start([broker], home, provider) as running:
            yield running, None
        return
    (port,) = free_ports(1)
    # Kafka tells its clients where to go on: it must send them back to the proxy.
    options = {"kafka": {"proxy_port": port}} if broker == "kafka" else {}
    with (
        services.start([broker], home, provider, **options) as running,
        Proxy("127.0.0.1", services.port_behind_proxy(running.broker), port) as proxy,
    ):
        yield running, proxy


def tell(verdict: Verdict, folder: Path) -> None:
    """The verdict in a few lines, for people."""
    counts = {name: count for name, count in verdict.fields["counts"].items() if count}
    colour = {"valid": "green", "invalid": "red"}.get(verdict.word, "yellow")
    console.print(f"[bold {colour}]{verdict.word}[/] {verdict.fields['scenario']} on {verdict.fields['broker']}")
    for reason in verdict.fields["reasons"]:
        console.print(f"  because {escape(reason)}")
    console.print("  " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    console.print(f"  see {folder}; again: testbed verify {folder}")


@contextlib.contextmanager
def could_not_run() -> Iterator[None]:
    """Say in one line why an experiment could not be run, exit 2; Ctrl-C and SIGTERM too, after all was stopped."""
    try:
        with services.ended_by_sigterm():
            yield
    except (SettingError, ScenarioError, ServerFailed) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(COULD_NOT_RUN) from error
    except KeyboardInterrupt as error:
        typer.echo("stopped; what was measured so far is kept, its verdict is unknown", err=True)
        raise typer.Exit(COULD_NOT_RUN) from error


@dataclass
class Board:
    """Live progress with time left; one line a run."""

    total_s: float = 0.0

    def __post_init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(30),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=False,
        )

    def __enter__(self) -> "Board":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def follow(self, title: str, load_s: float) -> Callable[[Moment], None]:
        """A new line for one run; what it returns is told each moment."""
        whole_s = load_s + OVERHEAD_S
        began_s = time.monotonic()
        line: TaskID = self._progress.add_task(title, total=whole_s, left="")

        def show(moment: Moment) -> None:
            spent_s = time.monotonic() - began_s
            left_s = max(0.0, whole_s - spent_s)
            note = f" ({moment.note})" if moment.note else ""
            self._progress.update(
                line,
                completed=min(spent_s, whole_s),
                description=f"{title}: {moment.phase}{note}",
                left=f"about {left_s:.0f} s left" if moment.left_s else "done",
            )

        return show
