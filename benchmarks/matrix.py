"""Which experiments make a comparison, in which order, and which fit a budget. Data and pure planning; runs nothing.

One factor at a time around one centre: the defaults at the scenario's own rate. The list is ordered by worth, so that a
budget cuts from its end. Brokers alternate: what drifts on the machine while the matrix runs (heat, a neighbour) meets
both alike.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from analysis import ladder
from benchmarks.scenario import Scenario, load_scenario, names

BROKERS = ("kafka", "rabbitmq")
QUICK = ("kill-mid-publish",)
HEADLINE = (
    "steady",
    "kill-mid-publish",
    "broker-restart",
    "lost-confirm",
    "relay-crash",
    "consumer-crash-after-commit",
)
"""Measured five times on each broker; only these carry intervals."""
REPEATS = 5
FIRST_REPEATS = 3
"""From three repeats on there is an interval: worth more than anything measured once."""
SWEEP = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 1.00, 1.05)
"""Shares of the sustainable rate."""
LAST = ("soak",)
"""So long that everything else is worth more in its time."""
BROKER_LEVEL = "broker-steady"
"""What stands beside every case in which something else than the broker was the limit: worth more than its place."""
BROKER_RATES_PER_S = (20_000, 50_000)
"""Beside the scenario's own: to find where each broker, or the driver, gives way."""
LEFT_TO_SETTINGS = {"steady": 20.0, "outbox-steady": 20.0, BROKER_LEVEL: 15.0}
"""Seconds of load of what has no fault to wait for."""
WARM_UP_S = 3.0
TAIL_S = 12.0
"""Load after the last fault has healed: enough to see both brokers confirm again."""
PROBE_S = 10.0
SWEEP_S = 15.0
OVERHEAD_S = 17.0
"""What a cell takes beside its load (services, roles, drain, check) until one was measured."""


class Factor(NamedTuple):
    """One thing changed, on one scenario, with what it takes to see it."""

    scenario: str
    sets: tuple[str, ...]
    brokers: tuple[str, ...] = BROKERS
    shows: tuple[str, ...] = ()
    """Anomalies that this variant is predicted to show: a cell without them has not shown what it was run for."""
    allows: tuple[str, ...] = ()
    """Anomalies that it may show beyond its contract."""
    overload: bool = False
    """As a cell's: it may well end unable to tell."""


TIERS = (
    Factor("steady", ("durability=fsynced",)),
    Factor("steady", ("durability=fire-and-forget",)),
    Factor("steady", ("rabbitmq_queue_type=classic",), ("rabbitmq",)),
    Factor("steady", ("rabbitmq_client=aio-pika",), ("rabbitmq",)),
    Factor("steady", ("kafka_group_protocol=classic",), ("kafka",)),
)
VIEWS = "load.views_ratio=0.8"
"""Counting views is what no state guards: elsewhere a repeat meets a reservation or a payment that is there already."""
STRATEGIES = (
    Factor("kill-mid-publish", ("publish_strategy=direct-after-commit",), shows=("lost",), allows=("out_of_order",)),
    Factor("relay-crash", ("consume_strategy=none", VIEWS), shows=("duplicated_effects",), allows=("out_of_order",)),
    Factor("steady", ("publish_strategy=direct-in-transaction", "faults=api-crash-before-commit@8"),
           shows=("phantom",), allows=("lost", "out_of_order")),
    # Between its ack and its commit: at the ack itself the client may not have sent it yet, and nothing is lost.
    Factor("consumer-crash-before-commit", ("consume_strategy=ack-first",), shows=("lost",), allows=("out_of_order",)),
    # Two relays that send every row twice, one by one: at the scenario's own rate they never catch up.
    Factor("steady", ("publish_strategy=outbox-naive", "roles.relays=2", "load.rate_per_s=20"),
           shows=("duplicated_on_wire",), allows=("out_of_order",)),
    # At a fixed instant: who waits for no answer has no publish in flight that a fault could wait for. A broker may be
    # back within the five seconds for which the publisher tries, and nothing is lost.
    Factor("kill-mid-publish", ("publish_strategy=outbox-naive", "relay.confirm=none", "faults=sigkill@10+2",
                                "publish_timeout_s=1", "load.rate_per_s=20"),
           shows=("lost",), allows=("out_of_order",)),
)  # fmt: skip
"""The ways people do it wrong, each under the fault that shows it (tests/system/test_ablation_table.py)."""
MORE_STRATEGIES = (
    Factor("outbox-steady", ("consume_strategy=unique-constraint", "load.rate_per_s=50",
                             "faults=consumer-crash-after-claim@8"), shows=("lost",), allows=("out_of_order",)),
    Factor("poison", ("on_error=swallow",), shows=("lost",)),
    Factor("kill-mid-publish", ("publish_strategy=direct-in-transaction",),
           shows=("lost",), allows=("phantom", "out_of_order")),
    Factor("outbox-steady", ("consume_strategy=none", "load.rate_per_s=50", "faults=consumer-crash-after-commit@8"),
           shows=("duplicated_effects",), allows=("out_of_order",)),
    Factor("two-relays", ("publish_strategy=outbox-skip-locked",), allows=("out_of_order",)),
    Factor("two-relays", ("publish_strategy=outbox-for-update",), allows=("out_of_order",)),
    *(Factor("outbox-steady", (f"consume_strategy={strategy}", "load.rate_per_s=50",
                               "faults=consumer-crash-before-commit@8"), shows=("duplicated_effects",))
      for strategy in ("check-then-act", "lock", "two-stage")),
)  # fmt: skip
"""Those at the outbox lose or double what they die in, if it has an effect that no state guards: their one group counts
views, and each view has."""
_DIRECT, _OUTBOX, *_GUARANTEED = (step.sets for step in ladder.STEPS)
LADDER = (
    Factor(ladder.SCENARIO, _DIRECT, shows=("lost", "duplicated_effects"), allows=("out_of_order",)),
    Factor(ladder.SCENARIO, _OUTBOX, shows=("duplicated_effects",), allows=("out_of_order",)),
    *(Factor(ladder.SCENARIO, sets) for sets in _GUARANTEED),
)
"""Five steps, each one change away from the one before it; the last three promise what everything else does."""
CLAIMED = (
    Factor("kill-mid-publish", ("durability=fsynced",)),
    Factor("kill-mid-publish", ("durability=fire-and-forget",), allows=("lost",)),
    Factor("steady", ("flow=sync",)),
    Factor("steady", ("flow=choreography_parallel",)),
    Factor("steady", ("inbox=exception",)),
    Factor("two-relays", ("relay.claim=lock",), allows=("out_of_order",)),
    Factor("poison", ("on_error=forever", "drain_s=20"), overload=True),
)
"""What claims of the articles still need for an answer (`analysis/claims.py`)."""
NUMBERS = (
    Factor("steady", ("roles.consumers=3",)),
    Factor("steady", ("batch=1",)),
    Factor("steady", ("partitions=1",)),
    Factor("steady", ("linger_ms=50",), ("kafka",)),
    Factor("steady", ("compression=snappy",), ("kafka",)),
)


class Cell(NamedTuple):
    """One run. `sets` are `--set` words; those of `variant` are what it is about, the others only its timing."""

    part: str
    scenario: Scenario
    broker: str
    repeat: int = 1
    variant: tuple[str, ...] = ()
    timing: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()
    allows: tuple[str, ...] = ()
    overload: bool = False
    """It may well end unable to tell: it is there to find where the system gives way."""

    @property
    def sets(self) -> tuple[str, ...]:
        return (*self.timing, *self.variant)

    @property
    def name(self) -> str:
        """Also its folder's name: `steady+durability=fsynced`."""
        return "+".join((self.scenario.name, *self.variant))

    def folder(self, out: Path) -> Path:
        return out / self.broker / self.name / str(self.repeat)

    def seed(self, first: int) -> int:
        """The same for both brokers: same arrivals, same choices, same faults."""
        return first + self.repeat - 1

    @property
    def load_s(self) -> float:
        """Warm-up and load, with what `timing` says of them."""
        given = dict(word.split("=", 1) for word in self.sets)
        load = self.scenario.load
        return float(given.get("load.warm_up_s", load.warm_up_s)) + float(given.get("load.duration_s", load.duration_s))


class Pair(NamedTuple):
    """The runs that belong together: the same on each broker that can have it, in running order."""

    cells: tuple[Cell, ...]

    def expected_s(self, overhead_s: float) -> float:
        return sum(cell.load_s + overhead_s for cell in self.cells)


def quick() -> list[Pair]:
    return [_pair(Cell("headline", load_scenario(name), ""), BROKERS, n) for n, name in enumerate(QUICK)]


def probe(broker: str, rate_per_s: float, duration_s: float = PROBE_S) -> Cell:
    """One try of a rate."""
    variant = (f"load.rate_per_s={rate_per_s:g}",)
    return Cell("probe", load_scenario("steady"), broker, 1, variant, _timing(WARM_UP_S, duration_s), overload=True)


def full(sustainable_per_s: float | None, scenarios: Sequence[str] | None = None) -> list[Pair]:
    """Every pair of the whole matrix, the worthiest first. Without a sustainable rate there is no sweep."""
    known = names() if scenarios is None else list(scenarios)
    headline = [name for name in HEADLINE if name in known]
    others = [name for name in known if name not in (*HEADLINE, *LAST, BROKER_LEVEL, ladder.SCENARIO)]
    last = [name for name in LAST if name in known]
    wanted: list[tuple[Cell, tuple[str, ...]]] = []

    def take(part: str, chosen: Sequence[str], repeats: Sequence[int] = (1,)) -> None:
        for repeat in repeats:
            for name in chosen:
                scenario = load_scenario(name)
                wanted.append((Cell(part, scenario, "", repeat, timing=shortened(scenario)), able(scenario)))

    def vary(part: str, factors: Sequence[Factor]) -> None:
        for factor in factors:
            if factor.scenario in known:
                scenario = load_scenario(factor.scenario)
                cell = Cell(
                    part,
                    scenario,
                    "",
                    1,
                    factor.sets,
                    shortened(scenario),
                    factor.shows,
                    factor.allows,
                    factor.overload,
                )
                wanted.append((cell, factor.brokers))

    take("headline", headline, range(1, FIRST_REPEATS + 1))
    if sustainable_per_s is not None and "steady" in known:
        for share in SWEEP:
            rate = f"{max(1.0, sustainable_per_s * share):.4g}"
            cell = Cell("rate sweep", load_scenario("steady"), "", 1, (f"load.rate_per_s={rate}",),
                        _timing(WARM_UP_S, SWEEP_S), overload=share >= 1)  # fmt: skip
            wanted.append((cell, BROKERS))
    vary("tiers, queue types and clients", TIERS)
    if BROKER_LEVEL in known:
        scenario = load_scenario(BROKER_LEVEL)
        take("broker level", [BROKER_LEVEL])
        for rate_per_s in BROKER_RATES_PER_S:
            variant = (f"load.rate_per_s={rate_per_s}",)
            cell = Cell("broker level", scenario, "", 1, variant, shortened(scenario), overload=True)
            wanted.append((cell, BROKERS))
    vary("strategies", STRATEGIES)
    take("scenarios", others)
    vary("strategies", MORE_STRATEGIES)
    vary("the ladder", LADDER)
    vary("claims", CLAIMED)
    take("headline", headline, range(FIRST_REPEATS + 1, REPEATS + 1))
    vary("numbers", NUMBERS)
    for name in last:
        scenario = load_scenario(name)
        wanted.append((Cell("scenarios", scenario, ""), able(scenario)))
    cases = {name: number for number, name in enumerate(dict.fromkeys(cell.name for cell, _ in wanted))}
    return [_pair(cell, brokers, cases[cell.name]) for cell, brokers in wanted]


def able(scenario: Scenario) -> tuple[str, ...]:
    """Brokers that can have its faults: Kafka has no alarms."""
    return tuple(broker for broker in BROKERS if not (broker == "kafka" and "alarms" in scenario.needs))


def shortened(scenario: Scenario) -> tuple[str, ...]:
    """`--set` words that end a constant load soon after its last fault: many short runs show more than a few long."""
    load = scenario.load
    if load.shape != "constant" or scenario.random_faults:
        return ()
    ends = [fault.at_s + fault.for_s for fault in scenario.faults]
    wanted_s = max(ends) + TAIL_S if ends else LEFT_TO_SETTINGS.get(scenario.name, load.duration_s)
    return _timing(min(WARM_UP_S, load.warm_up_s), min(load.duration_s, wanted_s))


def _timing(warm_up_s: float, duration_s: float) -> tuple[str, ...]:
    return (f"load.warm_up_s={warm_up_s:g}", f"load.duration_s={duration_s:g}")


def _pair(cell: Cell, brokers: Sequence[str], number: int) -> Pair:
    """The broker that goes first alternates from one case to the next, and of one case from repeat to repeat."""
    swap = (number + cell.repeat) % 2 == 0
    return Pair(tuple(cell._replace(broker=broker) for broker in (reversed(brokers) if swap else brokers)))


def fits(pair: Pair, spent_s: float, budget_s: float | None, overhead_s: float) -> bool:
    """Whether it would end within the budget; what does not fit is left out, and a shorter one after it may fit."""
    return budget_s is None or spent_s + pair.expected_s(overhead_s) <= budget_s
