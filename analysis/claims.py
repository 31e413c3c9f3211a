"""What the five articles claim, each with what these runs measured of it; or what would have to be run.

A claim names where its answer stands in a verdict (`look`); nothing here says whether the claim is right. Runs that
could not be judged answer nothing.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

from analysis.estimates import median_of_known
from analysis.findings import BROKERS, Result, conclusive, figure, many, on
from analysis.ladder import cost_and_side

Look = Callable[[Sequence[Result]], list[str]]
Which = Callable[[Result], bool]


class Claim(NamedTuple):
    id: str
    claim: str
    needs: str
    """What has to be run for an answer: a row of docs/systems.md, or a scenario and what is set."""
    look: Look
    sees_unjudged: bool = False
    """Looks at the runs that could not be judged too."""


class Answered(NamedTuple):
    id: str
    claim: str
    answers: list[str]
    """Empty: not measured yet."""
    needs: str

    @property
    def missing(self) -> str:
        shown = " (its tests: docs/systems.md)" if self.needs.startswith("row ") else ""
        return f"not measured yet: needs {self.needs}{shown}"


def answered(results: Sequence[Result]) -> list[Answered]:
    """Every claim, in order, with what these runs say."""
    judged = [result for result in results if result.word != "unknown"]
    return [
        Answered(claim.id, claim.claim, claim.look(results if claim.sees_unjudged else judged), claim.needs)
        for claim in CLAIMS
    ]


def default_in(*scenarios: str) -> Which:
    """Runs of the default strategies, with nothing set otherwise; in any scenario where none is named."""
    return lambda run: not run.naive and not run.variant and (not scenarios or run.run.scenario in scenarios)


def naive(*strategies: str) -> Which:
    """Runs of these strategies or seams."""
    return lambda run: bool(set(run.naive) & set(strategies))


def varied(*keys: str) -> Which:
    """Runs in which one of these was set, alone."""
    return lambda run: len(run.variant) == 1 and run.variant[0].partition("=")[0] in keys


def either(*which: Which) -> Which:
    return lambda run: any(each(run) for each in which)


def of_the_shop(run: Result) -> bool:
    """Of the shop as it is, with nothing set otherwise."""
    return default_in()(run) and not run.at_broker


def faulty(run: Result) -> bool:
    return of_the_shop(run) and bool(run.verdict["faults"])


def totals(which: Which, *counts: str) -> Look:
    """Sums of counts by case and broker, beside what they are of: a count is of events, or of copies for a group."""

    def look(results: Sequence[Result]) -> list[str]:
        return [
            f"{case} on {broker}: {', '.join(f'{name} {_sum(runs, name):,}' for name in counts)} "
            f"of {_owed(runs)} ({many(len(runs), 'run')})"
            for case, broker, runs in _grouped(results, which)
        ]

    return look


def overall(which: Which, *counts: str) -> Look:
    """The same by broker alone."""

    def look(results: Sequence[Result]) -> list[str]:
        return [
            f"{broker}: {', '.join(f'{name} {_sum(runs, name):,}' for name in counts)} "
            f"of {_owed(runs)} ({many(len(runs), 'run')})"
            for broker in BROKERS
            if (runs := [run for run in on(results, broker) if which(run)])
        ]

    return look


def spans(which: Which, *stages: str) -> Look:
    """p50 and p99 of stages by case and broker: medians over repeats."""

    def look(results: Sequence[Result]) -> list[str]:
        found = []
        for case, broker, runs in _grouped(conclusive(results), which):
            parts = []
            for stage in stages:
                medians = {p: median_of_known([run.latency_ms(stage, p) for run in runs]) for p in ("p50", "p99")}
                known = [f"{p} {figure(ms)} ms" for p, ms in medians.items() if ms is not None]
                if known:
                    parts.append(f"{stage} {', '.join(known)}")
            if parts:
                found.append(f"{case} on {broker}: {'; '.join(parts)} ({many(len(runs), 'run')})")
        return found

    return look


def back_after(*faults: str) -> Look:
    """Seconds until confirmed and applied again, by fault and broker."""

    def look(results: Sequence[Result]) -> list[str]:
        found = []
        for fault in faults:
            for broker in BROKERS:
                runs = [r for r in on(results, broker) if default_in()(r) and fault in r.verdict["recovery_s"]]
                values = [run.verdict["recovery_s"][fault] for run in runs]
                if values:
                    never, of = sum(value is None for value in values), many(len(runs), "run")
                    said = f"never in {never} of {of}" if never else f"{figure(median_of_known(values) or 0)} s ({of})"
                    found.append(f"after {fault} on {broker}: {said}")
        return found

    return look


def highest_rate(results: Sequence[Result]) -> list[str]:
    """The highest planned rate that kept its schedule, and the lowest that did not, with the limit.

    A rate so high that its run could not be drained and judged was too high all the same.
    """

    def rate(run: Result) -> float:
        return run.run.schedule.rate_per_s or 0.0

    found = []
    levels = (("steady", "", "orders"), ("broker-steady", ", the driver alone", "messages"))
    for (scenario, how, what), broker in product(levels, BROKERS):
        runs = [
            run for run in on(results, broker)
            if run.run.scenario == scenario and not run.naive and run.run.schedule.rate_per_s
            and {word.partition("=")[0] for word in run.variant} <= {"load.rate_per_s"}
        ]  # fmt: skip
        over = [run for run in runs if run.verdict["saturated"] != "none"]
        lowest = min(over, key=rate, default=None)
        met = [rate(run) for run in runs if run.word == "valid" and run.verdict["saturated"] == "none"]
        # A rate above one that was too high was met by luck.
        kept = [one for one in met if lowest is None or one < rate(lowest)]
        if not kept or len(runs) < 2:
            continue
        limit = (
            "no rate that was tried was too high"
            if lowest is None
            else f"{lowest.run.schedule.rate_per_s:g}/s was not kept (the limit: "
            f"{lowest.verdict['saturated'] or 'not known'})"
        )
        found.append(f"{broker}{how}: {max(kept):g} {what}/s were kept up; {limit}")
    return found


def burst(results: Sequence[Result]) -> list[str]:
    """What a spike did to the API and to the outbox."""
    found = []
    for run in results:
        if default_in("spike")(run):
            p99 = run.latency_ms("request_to_commit", "p99")
            slowest = "" if p99 is None else f"request_to_commit p99 {figure(p99)} ms, "
            outbox, lag = (run.highest(column) or 0 for column in ("outbox_messages", "lag_messages"))
            found.append(
                f"spike on {run.broker}: {slowest}outbox at most {outbox:,.0f}, lag at most {lag:,.0f} messages, "
                f"lost {run.count('lost') or 0:,}"
            )
    return found


def ends_add_up(results: Sequence[Result]) -> list[str]:
    """Of events that nobody can read: whether every event has an end in every group."""
    found = []
    for run in results:
        if default_in("poison")(run):
            groups = run.verdict["groups"].values()
            owed = sum(group["committed"] for group in groups)
            ends = sum(group["applied"] + group["ignored"] + group["dead_lettered"] for group in groups)
            letters = sum(group["dead_lettered"] for group in groups)
            found.append(f"{run.broker}: {letters:,} dead letters; {ends:,} of {owed:,} copies have an end")
    return found


def unmeasured(results: Sequence[Result]) -> list[str]:
    """No run of a comparison answers it yet."""
    return []


def _grouped(results: Sequence[Result], which: Which) -> list[tuple[str, str, list[Result]]]:
    found: dict[tuple[str, str], list[Result]] = {}
    for run in results:
        if which(run):
            found.setdefault((run.case, run.broker), []).append(run)
    return [(case, broker, runs) for (case, broker), runs in sorted(found.items())]


def _owed(runs: Sequence[Result]) -> str:
    copies = sum(group["committed"] for run in runs for group in run.verdict["groups"].values())
    return f"{_sum(runs, 'committed'):,} committed, {copies:,} copies for groups"


def _sum(runs: Sequence[Result], name: str) -> int:
    return sum(run.count(name) or 0 for run in runs)


DIRECT = ("publish=direct-after-commit", "publish=direct-in-transaction", "publish=after_commit", "publish=inline")

CLAIMS = (
    Claim("C1", "A chain of synchronous calls takes 1,150 ms", "steady with flow=sync",
          spans(naive("flow=sync"), "request_to_commit")),
    Claim("C2", "The event-driven response takes 50 ms", "steady",
          spans(default_in("steady"), "request_to_commit", "request_to_apply")),
    Claim("C3", "One service's outage no longer fails the order", "row S0.3", unmeasured),
    Claim("C4", "Publishing beside the transaction loses events or invents them",
          "kill-mid-publish with PUBLISH_STRATEGY direct-after-commit and direct-in-transaction",
          totals(naive(*DIRECT), "lost", "phantom")),
    Claim("C5", "The outbox gives at least once", "any scenario with a fault",
          overall(faulty, "lost", "unseen", "duplicated_on_wire", "duplicated_effects")),
    Claim("C6", "The outbox keeps the order of an aggregate", "any scenario with a fault",
          overall(faulty, "out_of_order")),
    Claim("C7", "There are three causes of duplicates", "relay-crash, lost-confirm, two-relays",
          totals(either(default_in("relay-crash", "lost-confirm", "two-relays"), naive("publish=outbox-naive")),
                 "duplicated_on_wire", "duplicated_effects")),
    Claim("C8", "acks=all and an idempotent producer prevent duplicates", "lost-confirm",
          totals(default_in("lost-confirm"), "recovered", "duplicated_on_wire")),
    Claim("C9", "A table of processed events removes duplicates", "CONSUME_STRATEGY=check-then-act under a crash",
          totals(naive("consume=check-then-act", "inbox=check_then_act"), "duplicated_on_wire", "duplicated_effects")),
    Claim("C10", "A unique constraint removes duplicates", "CONSUME_STRATEGY=unique-constraint under a crash",
          totals(naive("consume=unique-constraint", "inbox=record_first"), "duplicated_effects", "lost")),
    Claim("C11", "A distributed lock lets one relay work at a time", "two-relays with relay.claim=lock",
          totals(naive("relay.claim=lock"), "duplicated_on_wire")),
    Claim("C12", "Row locks let several relays share the work",
          "two-relays with PUBLISH_STRATEGY outbox-for-update and outbox-skip-locked",
          spans(naive("publish=outbox-for-update", "publish=outbox-skip-locked"), "commit_to_confirm")),
    Claim("C13", "Deduplication by exceptions costs too much", "inbox=exception",
          spans(naive("inbox=exception"), "receive_to_apply")),
    Claim("C14", "Memory and database together remove that cost", "CONSUME_STRATEGY=two-stage",
          spans(naive("consume=two-stage", "inbox=two_stage"), "receive_to_apply")),
    Claim("C15", "Batches with a manual commit are the quickest", "steady with batch=1 and others",
          spans(either(varied("batch"), default_in("steady")), "receive_to_apply", "commit_to_apply")),
    Claim("C16", "Three consumers at a time are right", "steady with roles.consumers and partitions",
          spans(varied("roles.consumers", "partitions"), "commit_to_apply")),
    Claim("C17", "Session time-outs of 30 and 60 s are stable", "a scenario in which a consumer dies",
          back_after("consumer-kill", "consumer-crash-after-commit", "consumer-crash-before-commit",
                     "consumer-crash-after-ack", "consumer-roll")),
    Claim("C18", "Redelivery doubles metrics", "relay-crash with CONSUME_STRATEGY=none",
          totals(naive("consume=none", "inbox=off"), "duplicated_on_wire", "duplicated_effects")),
    Claim("C19", "A lock in memory makes concurrent counting right", "row S1.32 (metrics)", unmeasured),
    Claim("C20", "A relay of 1,000 rows each second is enough", "PUBLISH_STRATEGY=outbox-naive",
          spans(either(naive("publish=outbox-naive"), default_in("steady")), "commit_to_confirm")),
    Claim("C21", "Guarantees before speed; the consumer matters more", "ladder with each of its steps",
          cost_and_side),
    Claim("C22", "Kafka carries millions a second, RabbitMQ fewer", "a rate sweep of steady and of broker-steady",
          highest_rate, sees_unjudged=True),
    Claim("C23", "Kafka keeps messages, RabbitMQ deletes them", "row S0.20", unmeasured),
    Claim("C24", "Replay is possible on Kafka and hard on RabbitMQ", "row S0.21", unmeasured),
    Claim("C25", "Routing is simple on Kafka and rich on RabbitMQ", "row S0.43", unmeasured),
    Claim("C26", "Kafka is for logs, RabbitMQ for work queues", "row S0.43", unmeasured),
    Claim("C27", "RabbitMQ's persistence is weak", "a loss of power: a killed process leaves what the kernel holds",
          unmeasured),
    Claim("C28", "RabbitMQ is simpler to set up", "row S2.29", unmeasured),
    Claim("C29", "A notification takes hundreds of milliseconds", "steady",
          spans(default_in("steady"), "request_to_commit", "commit_to_confirm", "confirm_to_receive",
                "receive_to_apply")),
    Claim("C30", "Consistency is eventual", "steady and scenarios with faults",
          spans(default_in("steady", "kill-mid-publish", "slow-consumer"), "request_to_apply")),
    Claim("C31", "A backlog survives a consumer that stops", "slow-consumer, rolling-consumers",
          totals(default_in("slow-consumer", "rolling-consumers"), "lost", "duplicated_effects")),
    Claim("C32", "Retrying for ever blocks what is behind", "poison with on_error=forever",
          totals(naive("on_error=forever"), "applied", "unseen"), sees_unjudged=True),
    Claim("C33", "Order holds only within a key", "any scenario",
          overall(of_the_shop, "out_of_order")),
    Claim("C34", "More consumers raise the rate", "steady with roles.consumers",
          spans(varied("roles.consumers"), "commit_to_apply")),
    Claim("C35", "The queue takes a burst", "spike", burst),
    Claim("C36", "linger, batching and compression improve performance", "steady with linger_ms and compression",
          spans(varied("linger_ms", "compression"), "commit_to_confirm")),
    Claim("C37", "Three tries bridge an outage", "row S3.45", unmeasured),
    Claim("C38", "Dead letters isolate failures and lose nothing", "poison", ends_add_up),
    Claim("C39", "An expected version detects conflicts", "row S3.29", unmeasured),
    Claim("C40", "A saga restores consistency", "row S3.43", unmeasured),
    Claim("C41", "Choreography and orchestration differ", "steady with flow=choreography_parallel",
          spans(naive("flow=choreography_parallel"), "request_to_apply")),
    Claim("C42", "There are four ways to keep order", "row S3.44", unmeasured),
    Claim("C43", "A read model serves queries by customer and status", "row S3.36", unmeasured),
    Claim("C44", "Events in the process die with the server", "row S4.16", unmeasured),
    Claim("C45", "Three tries, then a dead letter, and a redo recovers all", "row S4.9", unmeasured),
    Claim("C46", "The log allows a full audit", "row S4.12", unmeasured),
    Claim("C47", "Not one application was lost", "row S4.15", unmeasured),
    Claim("C48", "Clean-up keeps the outbox healthy", "row S0.13 at 10 M rows", unmeasured),
    Claim("C49", "Idempotent operations are safe, others drift", "row S0.32", unmeasured),
    Claim("C50", "When the ack comes decides the guarantee", "ack=before, after and never under a crash",
          totals(naive("consume=ack-first", "ack=before", "ack=after", "ack=never"), "lost", "duplicated_effects")),
)  # fmt: skip
