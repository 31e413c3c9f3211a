"""`testbed compare`: the same experiments on both brokers, one at a time, then one report of them all.

A finished cell is not run again; a half one is redone. After each cell `compare.json` says how the matrix stands, so
that whatever ends the comparison leaves a readable part of it.
"""

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from analysis.against import Against, against
from analysis.checkers.verdict import Word
from analysis.comparison import CellNote, Comparison, State, judge_cell, read_comparison, run_folders, write_comparison
from analysis.rendering.report import read_results, render
from analysis.verdict import Verdict, stored_verdict
from benchmarks import matrix
from benchmarks.matrix import BROKERS, Cell, Pair
from benchmarks.scenario import Scenario, ScenarioError
from benchmarks.sustainable import Try, next_rate_per_s, sustainable_per_s
from history.reader import BrokenHistory
from testbed import wiring
from testbed.experiments import COULD_NOT_RUN, Board, Sets, console, could_not_run, prepare, run_once, tell
from testbed.revision import git_revision
from testbed.settings import SettingError, Settings

UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
MOST_PROBES = 10


def register(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    out: Annotated[Path, typer.Option(help="Folder of the comparison; finished parts in it are not run again.")] = Path(
        "reports/compare"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="One scenario, once on each broker (the default).")] = False,
    full: Annotated[bool, typer.Option("--full", help="The whole matrix, the worthiest first.")] = False,
    budget: Annotated[
        str, typer.Option(help="With --full: how long it may take, e.g. 90m; what it cuts is named.")
    ] = "",
    scenarios: Annotated[str, typer.Option(help="With --full: only these scenarios, separated by commas.")] = "",
    than: Annotated[
        Path | None, typer.Option("--against", exists=True, file_okay=False, help="An earlier comparison's folder.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same arrivals and faults on both brokers.")] = 1,
    provider: Annotated[str, typer.Option(help="auto, native, docker or external.")] = "auto",
    sets: Sets = None,
) -> None:
    """Run the same experiments on both brokers, one at a time, and write report.html, report.md and charts.

    Exit 0 if every cell showed what its contract (or, of a naive variant, its prediction) says, 1 if one broke it, 2 if
    one could not tell. With --against: 1 on a regression beyond the interval, 2 where nothing could be compared.

    Examples: `testbed compare --quick --out reports/today` · `testbed compare --full --budget 90m` ·
    `testbed compare --full --out reports/new --against reports/old`
    """
    with could_not_run():
        if quick and full:
            raise SettingError("--quick and --full: use one of them")
        if (budget or scenarios) and not full:
            raise SettingError("--budget and --scenarios belong to --full")
        only = [name for name in scenarios.split(",") if name] or None
        budget_s = seconds(budget) if budget else None
        earlier = _earlier(than)
        with Board() as board:
            run = _Comparing(out, seed, provider, sets or [], board, budget_s, "full" if full else "quick", only)
            try:
                run.all()
            except KeyboardInterrupt:
                run.interrupted = True
                raise
            finally:
                written = run.finish()
    if written is None:
        raise typer.Exit(COULD_NOT_RUN)
    console.print(f"report: {written}")
    code = run.state().exit_code
    if earlier is not None:
        found = against(earlier, read_results(run_folders(out, run.state()), run.state()))
        tell_against(found)
        code = 1 if 1 in (code, found.exit_code) else max(code, found.exit_code)
    raise typer.Exit(code)


def seconds(text: str) -> float:
    """`90m`, `1.5h`, `300s` or `300`. Raises SettingError."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS_S else (text, "s")
    try:
        found = float(number) * UNITS_S[unit]
    except ValueError:
        found = 0.0
    if not 0 < found < 1e7:
        raise SettingError(f"--budget {text}: use a time like 90m, 1.5h or 300s")
    return found


def _earlier(folder: Path | None) -> list[Any] | None:
    if folder is None:
        return None
    try:
        comparison = read_comparison(folder)
        if comparison is None or not run_folders(folder, comparison):
            raise SettingError(f"--against {folder}: no comparison is there; name the folder of an earlier `compare`")
        return read_results(run_folders(folder, comparison), comparison)
    except BrokenHistory as error:
        raise SettingError(f"--against {folder}: {error}") from error


def tell_against(found: Against) -> None:
    """What became of the earlier comparison, for people."""
    for line in found.broken:
        console.print(f"[bold red]broken[/] {escape(line)}")
    for change in found.changes:
        colour = "red" if change.is_regression else "green" if change.is_improvement else "default"
        console.print(f"[{colour}]{escape(str(change))}[/]")
    for line in found.not_compared:
        console.print(f"not compared: {escape(line)}")
    if not found.changes:
        console.print("no figure could be compared: an interval needs three conclusive repeats on both sides")


def is_done(folder: Path, scenario: Scenario, settings: Settings, sets: list[str], overload: bool = False) -> bool:
    """Whether the folder holds a finished run of this very plan, seed, settings and code.

    A run that could not be judged is not finished; one meant to overload the system is, once it used up its drain.
    """
    try:
        run = json.loads((folder / "run.json").read_text())
        verdict = stored_verdict(folder)
    except (FileNotFoundError, json.JSONDecodeError, BrokenHistory):
        return False
    if verdict is None or (verdict["verdict"] == Word.UNKNOWN and not (overload and drained_in_vain(run, scenario))):
        return False
    plan = json.loads(scenario.model_dump_json())
    wanted = json.loads(json.dumps(wiring.effective_settings(settings), default=str))
    same = all(run["settings"].get(name) == value for name, value in wanted.items() if name in Settings.model_fields)
    same = same and run["seed"] == settings.seed and run.get("sets") == sets and run.get("plan") == plan
    # Last: it asks git.
    return bool(same and run.get("git_revision") == git_revision())


def drained_in_vain(run: dict[str, Any], scenario: Scenario) -> bool:
    """Whether all the time to drain passed and was not enough: the load was too much. `run`: run.json."""
    return bool((run["drain"]["waited_s"] or 0) >= scenario.drain_s - 1)


@dataclass
class _Comparing:
    """One comparison as it goes on."""

    out: Path
    seed: int
    provider: str
    sets: list[str]
    board: Board
    budget_s: float | None
    kind: Any
    only: list[str] | None = None
    """Scenarios; None: all."""
    interrupted: bool = False
    notes: dict[str, CellNote] = field(default_factory=dict)
    rates: dict[str, float | None] = field(default_factory=dict)
    overheads_s: list[float] = field(default_factory=list)
    began_s: float = field(default_factory=lambda: time.monotonic())

    def all(self) -> None:
        """The headline first: a short budget is not spent on finding a rate."""
        pairs = matrix.quick() if self.kind == "quick" else matrix.full(None, self.only)
        # A word that nothing can be run with is refused before anything is run or written.
        self._prepared(pairs[0].cells[0])
        self._plan(pairs)
        first = [pair for pair in pairs if pair.cells[0].part == "headline" and pair.cells[0].repeat == 1]
        for pair in first:
            self._run_pair(pair, pairs)
        if self.kind == "full" and (self.only is None or "steady" in self.only):
            self._find_rates()
            found = [rate for rate in self.rates.values() if rate is not None]
            if len(found) == len(BROKERS):
                pairs = matrix.full(min(found), self.only)
                self._plan(pairs)
            else:
                self._leave_out_sweep()
        for pair in pairs:
            if pair.cells[0].name not in {each.cells[0].name for each in first} or pair.cells[0].repeat > 1:
                self._run_pair(pair, pairs)

    def finish(self) -> Path | None:
        """Write how it stands and the report of what is there; None where nothing was run."""
        if not self.notes:
            return None
        self._write()
        folders = run_folders(self.out, self.state())
        return render(folders, self.out / "report.html", self.state()) if folders else None

    def state(self) -> Comparison:
        return Comparison(
            kind=self.kind,
            seed=self.seed,
            scenarios=tuple(self.only or ()),
            sets=tuple(self.sets),
            budget_s=self.budget_s,
            spent_s=round(self._spent_s(), 1),
            interrupted=self.interrupted,
            sustainable_per_s=self.rates,
            cells=tuple(self.notes.values()),
        )

    def _plan(self, pairs: list[Pair]) -> None:
        """Every cell as not run yet, in the order of the matrix; what is known of one is kept.

        A cell of the sweep takes the place of a probe of its rate, which was shorter and free to fail.
        """
        known = dict(self.notes)
        probes = {key: note for key, note in known.items() if note.part == "probe"}
        planned = {note.folder: note for note in map(self._note, (c for p in pairs for c in p.cells))}
        alone = {key: note for key, note in probes.items() if key not in planned}
        self.notes = alone | {key: note if key in probes else known.get(key, note) for key, note in planned.items()}

    def _note(self, cell: Cell) -> CellNote:
        return CellNote(
            part=cell.part,
            name=cell.name,
            broker=cell.broker,
            repeat=cell.repeat,
            folder=str(cell.folder(Path())),
            shows=cell.shows,
            allows=cell.allows,
            overload=cell.overload,
        )

    def _run_pair(self, pair: Pair, pairs: list[Pair]) -> None:
        try:
            fresh = [cell for cell in pair.cells if self._done(cell) is None]
        except (ScenarioError, SettingError) as error:
            # What `--set` changed may not go with every cell, e.g. a load that ends before a fault.
            for cell in pair.cells:
                self._mark(cell, "left out", str(error))
            self._write()
            return
        fits = not fresh or matrix.fits(Pair(tuple(fresh)), self._spent_s(), self.budget_s, self._overhead_s())
        for cell in pair.cells:
            if fits or cell not in fresh:
                self._tell_left(pairs)
                self._run(cell)
            else:
                self._mark(cell, "left out", "the budget did not reach it")
                self._write()

    def _find_rates(self) -> None:
        """The highest rate that each broker sustains, by short runs."""
        began_s, allowed_s = self._spent_s(), self._probe_budget_s()
        for broker in BROKERS:
            tries: list[Try] = []
            while (rate := next_rate_per_s(tries)) is not None and len(tries) < MOST_PROBES:
                cell = matrix.probe(broker, rate)
                self.notes.setdefault(str(cell.folder(Path())), self._note(cell))
                spent_s = self._spent_s() - began_s
                if self._done(cell) is None and not matrix.fits(Pair((cell,)), spent_s, allowed_s, self._overhead_s()):
                    self._mark(cell, "left out", "the budget did not reach it")
                    break
                verdict = self._run(cell)
                tries.append(Try(rate, verdict["verdict"] != Word.UNKNOWN and verdict["saturated"] == "none"))
            else:
                # A search that was cut short has found no rate.
                self.rates[broker] = sustainable_per_s(tries)

    def _leave_out_sweep(self) -> None:
        """Which rates it would have had nobody knows, but that it is missing is said."""
        for broker in BROKERS:
            name, place = "steady at 1 % to 105 % of the sustainable rate", f"{broker}/rate sweep"
            why = "no sustainable rate was found on both brokers"
            self.notes[place] = CellNote(
                part="rate sweep", name=name, broker=broker, repeat=1, folder=place, state="left out", why=why
            )

    def _probe_budget_s(self) -> float | None:
        """A third of what is left at most: a rate alone answers little."""
        return None if self.budget_s is None else max(0.0, self.budget_s - self._spent_s()) / 3

    def _done(self, cell: Cell) -> dict[str, Any] | None:
        """The verdict of a finished run of this very cell."""
        scenario, settings = self._prepared(cell)
        folder = cell.folder(self.out)
        return stored_verdict(folder) if is_done(folder, scenario, settings, self._words(cell), cell.overload) else None

    def _words(self, cell: Cell) -> list[str]:
        """A user's own `--set` changes how long a cell takes, not what it is about."""
        return [*cell.timing, *self.sets, *cell.variant]

    def _prepared(self, cell: Cell) -> tuple[Scenario, Settings]:
        return prepare(cell.scenario.name, cell.broker, cell.seed(self.seed), self._words(cell))

    def _run(self, cell: Cell) -> dict[str, Any]:
        done = self._done(cell)
        if done is not None:
            console.print(f"{cell.name} on {cell.broker}, repeat {cell.repeat}: done before, kept")
        else:
            done = self._run_fresh(cell)
        state, why = judge_cell(done, cell.shows, cell.allows, cell.overload and self._drained_in_vain(cell))
        self._mark(cell, state, why)
        self._write()
        return done

    def _drained_in_vain(self, cell: Cell) -> bool:
        run = json.loads((cell.folder(self.out) / "run.json").read_text())
        return drained_in_vain(run, self._prepared(cell)[0])

    def _run_fresh(self, cell: Cell) -> dict[str, Any]:
        folder = cell.folder(self.out)
        shutil.rmtree(folder, ignore_errors=True)
        began_s = time.monotonic()
        verdict: Verdict = run_once(*self._prepared(cell), folder, self.provider, self.board, self._words(cell))
        # What was overloaded drains for long: that says nothing about the others.
        if not cell.overload:
            self.overheads_s.append(max(1.0, time.monotonic() - began_s - cell.load_s))
        tell(verdict, folder)
        return verdict.fields

    def _mark(self, cell: Cell, state: State, why: str) -> None:
        key = str(cell.folder(Path()))
        self.notes[key] = self.notes[key].model_copy(update={"state": state, "why": why})

    def _write(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        write_comparison(self.out, self.state())

    def _spent_s(self) -> float:
        return time.monotonic() - self.began_s

    def _overhead_s(self) -> float:
        """Beside its load, of the cells so far."""
        return sum(self.overheads_s) / len(self.overheads_s) if self.overheads_s else matrix.OVERHEAD_S

    def _tell_left(self, pairs: list[Pair]) -> None:
        waiting = [c for p in pairs for c in p.cells if self.notes[str(c.folder(Path()))].state == "not run"]
        left_s = sum(cell.load_s + self._overhead_s() for cell in waiting)
        if self.budget_s is not None:
            left_s = min(left_s, self.budget_s - self._spent_s())
        if len(waiting) > 1:
            console.print(f"{len(waiting)} cells to go, about {max(left_s, 0) / 60:.0f} min left", style="dim")
