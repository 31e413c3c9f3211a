"""A scenario: what load, what faults, which promises. Data, not code: one TOML file under `scenarios/` each.

A wrong key or value is refused with its place in the file. Times count from the start of the load phase; warm-up
lies before it. `docs/scenarios.md` shows how to write one.
"""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from faults.catalogue import FAULTS

SCENARIOS = Path(__file__).parent / "scenarios"

ANOMALIES = (
    "lost",
    "unstored",
    "phantom",
    "duplicated_on_wire",
    "duplicated_effects",
    "out_of_order",
    "late_by_redrive",
    "dead_lettered",
    "parked",
    "undelivered_effect",
)


class ScenarioError(ValueError):
    """A scenario file is wrong; the message names the file, the key, the value and what is allowed."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


MOST_ARRIVALS = 20_000_000
"""Of one run below the API: its driver holds the whole schedule in memory, 16 bytes an arrival."""


class Load(_Part):
    """Arrivals, open loop: orders at the API, or events below it."""

    level: Literal["api", "outbox", "broker"] = "api"
    """Where they enter: by HTTP; as rows of the outbox; or straight at the broker, with no database on the path."""
    shape: Literal["constant", "ramp", "spike", "wave"] = "constant"
    arrivals: Literal["poisson", "even"] = "poisson"
    rate_per_s: float = Field(gt=0, le=100_000)
    """The rate of `constant`; the highest of the others (ramp: at the end; spike: in the middle fifth)."""
    warm_up_s: float = Field(5, ge=0, le=600)
    duration_s: float = Field(gt=0, le=86_400)
    max_in_flight: int = Field(500, ge=1, le=100_000)
    """Arrivals due while this many requests are open are not sent, and recorded as skipped."""
    products: int = Field(50, ge=1, le=100_000)
    views_ratio: float = Field(0, ge=0, le=1)
    """Share of the arrivals that look at a product instead of ordering: one event each, whose key is the product."""
    hot_ratio: float = Field(0, ge=0, le=1)
    """Share of the choices that fall on product 1."""
    body_bytes: int = Field(400, ge=64, le=1_000_000)
    """Below the API: size of each event's body. There every arrival is one event, whose key is the product."""

    @property
    def expected_arrivals(self) -> float:
        """At most: shapes other than `constant` have fewer."""
        return self.rate_per_s * (self.warm_up_s + self.duration_s)

    @model_validator(mode="after")
    def _fits_in_memory(self) -> "Load":
        if self.level != "api" and self.expected_arrivals > MOST_ARRIVALS:
            raise ValueError(
                f"about {self.expected_arrivals:,.0f} arrivals at {self.rate_per_s:g}/s; level = {self.level} holds "
                f"{MOST_ARRIVALS:,} at most, so shorten duration_s or lower rate_per_s"
            )
        return self


SELLING = "order-saga,inventory-service,payment-service,order-service,product-metrics"
"""The groups that an order needs to be sold. With all the shop's groups an order costs twice the processor time."""


class Roles(_Part):
    """How many processes of each kind, and which consumer groups are at work."""

    api: Literal[1] = 1
    relays: int = Field(1, ge=0, le=16)
    consumers: int = Field(1, ge=1, le=16)
    """Processes, each with every consumer group."""
    groups: str = SELLING
    """Consumer groups, with commas between; empty: all of the shop's."""


class Fault(_Part):
    """One planned damage; `for_s` later it is healed, unless it is over at once."""

    fault: str
    at_s: float = Field(ge=0)
    for_s: float = Field(0, ge=0)
    when: Literal["at_once", "publish_in_flight"] = "at_once"
    give_up_after_s: float = Field(15, gt=0)
    """The trigger did not hold for so long after `at_s`: the fault was missed and the run proves nothing."""

    @field_validator("fault")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in FAULTS:
            raise ValueError(f"no fault {name!r}; use some of {', '.join(FAULTS)}")
        return name


EVERYWHERE = frozenset(fault.target for fault in FAULTS.values())
STRUCK = {"api": EVERYWHERE, "outbox": EVERYWHERE - {"api"}, "broker": frozenset({"broker", "network"})}
"""Level of the load -> what a fault can strike there: nothing that takes no part in the run."""


class Scenario(_Part):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    question: str = Field(min_length=10)
    load: Load
    roles: Roles = Roles()
    faults: tuple[Fault, ...] = ()
    random_faults: int = Field(0, ge=0, le=10_000)
    """So many faults drawn by the seed, instead of `faults`."""
    forbids: tuple[str, ...] = (
        "lost", "unstored", "phantom", "duplicated_effects", "out_of_order", "dead_lettered", "parked",
    )  # fmt: skip
    """The contract: anomalies that make a run invalid. Others are reported."""
    drain_s: Annotated[float, Field(gt=0, le=3_600)] = 60
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @field_validator("forbids")
    @classmethod
    def _known(cls, forbids: tuple[str, ...]) -> tuple[str, ...]:
        for anomaly in forbids:
            if anomaly not in ANOMALIES:
                raise ValueError(f"no anomaly {anomaly!r}; use some of {', '.join(ANOMALIES)}")
        return forbids

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities without which its faults cannot be done; a random schedule takes what there is."""
        return frozenset(FAULTS[fault.fault].needs for fault in self.faults) - {""}

    @model_validator(mode="after")
    def _consistent(self) -> "Scenario":
        if self.faults and self.random_faults:
            raise ValueError("faults: they are either listed or drawn (random_faults), not both")
        for fault in self.faults:
            if FAULTS[fault.fault].target not in STRUCK[self.load.level]:
                raise ValueError(
                    f"faults: {fault.fault} strikes the {FAULTS[fault.fault].target}, which has no part in a run with "
                    f"load.level = {self.load.level}"
                )
            if fault.at_s + fault.for_s > self.load.duration_s:
                raise ValueError(
                    f"faults: {fault.fault} at {fault.at_s:g} s for {fault.for_s:g} s ends after the load "
                    f"(duration_s = {self.load.duration_s:g})"
                )
        return self


def load_scenario(name_or_path: str) -> Scenario:
    """Read a supplied scenario by name, or a user's own by its path."""
    path, text = _read(name_or_path)
    try:
        return Scenario.model_validate({"name": path.stem, **tomllib.loads(text)})
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path.name}: {error}") from error
    except ValidationError as error:
        problems = (_explain(path.name, problem, text) for problem in error.errors())
        raise ScenarioError("\n".join(problems)) from error


def place(name_or_path: str, *keys: str | int) -> str:
    """`mine.toml:7`, where these keys stand in the file; for whoever finds a value wrong that only they can judge."""
    path, text = _read(name_or_path)
    return f"{path.name}:{_line_of(text, keys)}"


def _read(name_or_path: str) -> tuple[Path, str]:
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = SCENARIOS / f"{name_or_path}.toml"
    if not path.is_file():
        raise ScenarioError(
            f"no scenario {name_or_path!r}; use one of {', '.join(names())}, or the path of a .toml file"
        )
    return path, path.read_text()


def changed(scenario: Scenario, **parts: object) -> Scenario:
    """A copy with some fields replaced, checked again. Raises ScenarioError."""
    try:
        return Scenario.model_validate({**scenario.model_dump(), **parts})
    except ValidationError as error:
        raise ScenarioError("\n".join(_explain(scenario.name, problem) for problem in error.errors())) from error


def names() -> list[str]:
    return sorted(path.stem for path in SCENARIOS.glob("*.toml"))


def _explain(file: str, problem: object, text: str | None = None) -> str:
    assert isinstance(problem, dict)
    at = ".".join(str(part) for part in problem["loc"]) or "file"
    found = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r}"
    line = "" if text is None else f":{_line_of(text, problem['loc'])}"
    return f"{file}{line}: {at}{found}: {str(problem['msg']).removeprefix('Value error, ')}"


def _line_of(text: str, keys: Sequence[str | int]) -> int:
    """The line, from 1, of the longest beginning of `keys` that the text names: a key, else its table, else 1."""
    named: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    entries: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]", line):
            words = _words(header[2])
            if header[1] == "[[":
                entry = entries[header[2]] = entries.get(header[2], -1) + 1
                named.setdefault(words, number)
                words = (*words, entry)
            table = words
            named.setdefault(table, number)
        elif found := re.match(r"\s*([^=#]+?)\s*=", line):
            named.setdefault((*table, *_words(found[1])), number)
    for length in range(len(keys), 0, -1):
        if tuple(keys[:length]) in named:
            return named[tuple(keys[:length])]
    return 1


def _words(dotted: str) -> tuple[str | int, ...]:
    """A TOML key in its parts: `a."b.c"` is two."""
    return tuple(part.strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.\s]+", dotted))
