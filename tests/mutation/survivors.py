"""Which mutants live on and why, and docs/mutants.md, which tells it.

`python -m tests.mutation.survivors [MODULE ...]`: tries the mutants of those modules, then writes the page from what
was last kept of each.
"""

import json
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.mutation.running import MODULES, OUTCOMES, ROOT, SURVIVED, Result, run_mutants

KEPT = ROOT / "reports" / "long" / "mutants"
PAGE = ROOT / "docs" / "mutants.md"
KINDS = {
    "equivalent": "No folder can show a difference",
    "tolerated": "A difference that no verdict, count or evidence has",
}
"""Of explanations, with what each says."""


def explained() -> dict[str, dict[str, str]]:
    """Kind -> mutant -> why it may live."""
    told = tomllib.loads(Path(__file__).with_name("survivors.toml").read_text())
    return {kind: {each["mutant"]: each["why"] for each in told.get(kind, [])} for kind in KINDS}


def differences(module: str, results: Sequence[Result]) -> list[str]:
    """What survivors.toml does not explain, and what it explains though it died or is no more."""
    known = {
        mutant
        for of_kind in explained().values()
        for mutant in of_kind
        if mutant.startswith((f"{module}.", f"{module}:"))
    }
    survived = {result.mutant for result in results if result.outcome == SURVIVED}
    killers = {result.mutant: result.by for result in results}
    new = [f"survived, and is not explained: {mutant}" for mutant in sorted(survived - known)]
    return new + [
        f"explained as a survivor, {f'but killed by {killers[mutant]}' if mutant in killers else 'but gone'}: {mutant}"
        for mutant in sorted(known - survived)
    ]


def keep(module: str, results: Sequence[Result]) -> None:
    told = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    kept = {"revision": told.stdout.strip() or "an unknown revision", "results": results}
    (KEPT / f"{module}.json").write_text(json.dumps(kept))


def page(of_module: Mapping[str, tuple[str, Sequence[Result]]], why: Mapping[str, Mapping[str, str]]) -> str:
    """The whole of docs/mutants.md; `of_module`: the revision and the results of each module that was run."""
    sums: Counter[str] = Counter()
    rows = []
    for module, (revision, results) in of_module.items():
        counted = Counter(result.outcome for result in results)
        sums += counted
        rows.append(_row(f"`{module}`", revision, counted))
    never = [module for module in MODULES if module not in of_module]
    survived = {r.mutant for _, results in of_module.values() for r in results if r.outcome == SURVIVED}
    lines = [
        "# Mutants of the checkers",
        "",
        "Written by `python -m tests.mutation.survivors CHECKER ...`. A mutant is a checker with one small change in",
        "its SQL or its Python; it is killed if a test of the checkers fails. What DuckDB refuses says nothing of the",
        "tests.",
        *([f"**Never run: {', '.join(never)}.**"] if never else []),
        "",
        f"| checker | of the code at | mutants | {' | '.join(OUTCOMES)} |",
        f"|---|---|---:|{'---:|' * len(OUTCOMES)}",
        *rows,
        _row("**all**", "", sums),
        "",
        *_survivors(survived, why),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, revision: str, counted: Mapping[str, int]) -> str:
    return f"| {name} | {revision} | {sum(counted.values())} | {' | '.join(str(counted[o]) for o in OUTCOMES)} |"


def _survivors(survived: set[str], why: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    left = set(survived)
    for kind, says in KINDS.items():
        its = {mutant: reason for mutant, reason in why[kind].items() if mutant in survived}
        left -= its.keys()
        yield from (f"## {says}: {len(its)}", "", *(f"- `{mutant}`: {reason}" for mutant, reason in its.items()), "")
    yield from (f"## Not explained: {len(left)}", "", *(f"- `{mutant}`" for mutant in sorted(left)))


def write_page() -> None:
    read = {}
    for path in sorted(KEPT.glob("*.json")):
        kept = json.loads(path.read_text())
        read[path.stem] = (kept["revision"], [Result(*row) for row in kept["results"]])
    PAGE.write_text(page(read, explained()))


def main(modules: Sequence[str]) -> int:
    if unknown := [name for name in modules if name not in MODULES]:
        print(f"no checker: {', '.join(unknown)}; there are {', '.join(MODULES)}", file=sys.stderr)
        return 2
    wrong = []
    for module in modules:
        results = run_mutants(module)
        keep(module, results)
        wrong += differences(module, results)
        print(module, dict(Counter(result.outcome for result in results)), flush=True)
    write_page()
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
