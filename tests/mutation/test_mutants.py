"""The checkers' tests see every small change of a checker, or it is written down why it makes no difference."""

import re

import pytest

from tests.mutation.changes import mutants
from tests.mutation.running import KILLED, MODULES, REFUSED, SURVIVED, MutationFailed, Result, ids, run_mutants
from tests.mutation.sql import changes_of_sql
from tests.mutation.survivors import differences, explained, page

LITERAL = "tests/histories/test_literal_histories.py"
TINY = f"{LITERAL}::test_a_tiny_history_shows_these_anomalies_with_this_evidence_and_no_other"


def test_a_mutant_dies_lives_or_is_refused_as_it_is_known_to() -> None:
    [never_made] = [id_ for id_ in ids("order") if "CREATE TABLE late" in id_]
    known = {
        never_made: REFUSED,
        "order.find_late: ALL HAVING count(*) [> → >=] 1 ), ranked": SURVIVED,
        "order.find_late: ORDER BY no [ → DESC] ROWS BETWEEN UNBOUNDED": KILLED,
        "order.find_late: redriven FROM ranked [WHERE sequence < newest → ]": KILLED,
        "order.EVIDENCE: WHERE within_topic AND [NOT → ] redriven": KILLED,
    }
    tests = [f"{TINY}[the second before the first]", f"{TINY}[in order]"]
    results = run_mutants("order", tests=tests, only=known)
    assert {result.mutant: result.outcome for result in results} == known
    assert {result.outcome: result.by in tests for result in results} == {KILLED: True, REFUSED: True, SURVIVED: False}


def test_tests_that_do_not_run_say_nothing_of_a_mutant() -> None:
    with pytest.raises(MutationFailed, match="no-such-test"):
        run_mutants("order", tests=["tests/no-such-test.py"], only=())


def test_each_explained_mutant_is_there_and_is_explained_once() -> None:
    there = [id_ for module in MODULES for id_ in ids(module)]
    told = [mutant for of_kind in explained().values() for mutant in of_kind]
    assert len(set(there)) == len(there)
    assert len(set(told)) == len(told)
    assert set(told) <= set(there), set(told) - set(there)
    assert all(reason for of_kind in explained().values() for reason in of_kind.values())


def test_what_is_not_explained_and_what_is_explained_and_died_or_is_gone_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"equivalent": {"loss: a": "so", "loss: b": "so", "order: x": "so"}, "tolerated": {"loss: c": "so"}}
    monkeypatch.setattr("tests.mutation.survivors.explained", lambda: told)
    results = [
        Result("loss: a", SURVIVED, "", 1.0),
        Result("loss: b", KILLED, "t", 1.0),
        Result("loss: d", SURVIVED, "", 1.0),
        Result("loss: e", KILLED, "t", 1.0),
    ]
    assert differences("loss", results) == [
        "survived, and is not explained: loss: d",
        "explained as a survivor, but killed by t: loss: b",
        "explained as a survivor, but gone: loss: c",
    ]
    text = page({"loss": ("abc", results)}, told)
    assert "| `loss` | abc | 4 | 2 | 2 | 0 | 0 |" in text
    assert "**Never run: evidence, facts, order, shop, verdict.**" in text
    assert "## No folder can show a difference: 1\n\n- `loss: a`: so\n" in text
    assert text.endswith("## Not explained: 1\n\n- `loss: d`\n")


def changed(sql: str) -> set[str]:
    return {sql[: change.start] + change.new + sql[change.end :] for change in changes_of_sql(sql)}


@pytest.mark.parametrize(
    ("sql", "became"),
    [
        ("a < 1", {"a <= 1", "a < 2"}),
        ("x LIMIT 1", {"x LIMIT 0"}),
        (
            "FROM t WHERE a = b AND NOT c",
            {
                "FROM t WHERE a <> b AND NOT c",
                "FROM t WHERE a = b OR NOT c",
                "FROM t WHERE a = b AND c",
                "FROM t WHERE a = b",
                "FROM t WHERE NOT c",
            },
        ),
        ("FROM t WHERE a GROUP BY b", {"FROM t  GROUP BY b"}),
        ("count(*) FILTER (a OR b)", {"count(*) FILTER (a AND b)", "count(*) FILTER (a)", "count(*) FILTER (b)"}),
        ("count(*) FILTER (a), 'AND'", {"count(*) , 'AND'"}),
        ("a LEFT JOIN b USING (c, d)", {"a JOIN b USING (c, d)", "a LEFT JOIN b USING (d)", "a LEFT JOIN b USING (c)"}),
        ("a FULL JOIN b SEMI JOIN c JOIN {d}", {
            "a LEFT JOIN b SEMI JOIN c JOIN {d}", "a FULL JOIN b ANTI JOIN c JOIN {d}",
            "a FULL JOIN b SEMI JOIN c LEFT JOIN {d}",
        }),
        ("a UNION ALL b", {"a UNION  b"}),
        ("a UNION b", {"a UNION ALL b"}),
        ("count(DISTINCT a)", {"count( a)"}),
        ("min(a), {max(b)}", {"max(a), {max(b)}"}),
        ("coalesce(f(a, b), c)", {"f(a, b)"}),
        ("CASE WHEN a THEN 'x' ELSE 'y' END", {"CASE WHEN NOT a THEN 'x' ELSE 'y' END"}),
        ("CASE WHEN a THEN b WHEN c THEN d ELSE e END", {
            "CASE WHEN c THEN d ELSE e END", "CASE WHEN a THEN b ELSE e END",
        }),
        ("a IN ('x', 'y')", {"a NOT IN ('x', 'y')", "a IN ('x~', 'y')", "a IN ('x', 'y~')"}),
        ("a IS NOT NULL OR b NOT IN {c}", {
            "a IS NULL OR b NOT IN {c}", "a IS NOT NULL OR b IN {c}", "a IS NOT NULL AND b NOT IN {c}",
        }),
        ("OVER (PARTITION BY a, b ORDER BY c, d)", {
            "OVER (PARTITION BY b ORDER BY c, d)", "OVER (PARTITION BY a ORDER BY c, d)",
            "OVER (PARTITION BY a, b ORDER BY c DESC, d)", "OVER (PARTITION BY a, b ORDER BY c, d DESC)",
        }),
        ("ORDER BY 1, 2", {"ORDER BY 1 DESC, 2", "ORDER BY 1, 2 DESC"}),
        ("CREATE OR REPLACE TABLE t", set()),
    ],
)  # fmt: skip
def test_a_piece_of_sql_has_these_changes_and_no_other(sql: str, became: set[str]) -> None:
    def plain(text: str) -> str:
        return re.sub(r"\s+(?=[),])|(?<=\()\s+", "", " ".join(text.split()))

    assert {plain(text) for text in changed(sql)} == {plain(text) for text in became}


MODULE = '''"""SELECT in a docstring WHERE nothing changes."""

WORDS = ("one", "two")


def f(a: int | None, b: list[int]) -> bool:
    """Says < and 1."""
    if not a or b[0] >= 2:
        raise ValueError(f"no {a == 1}")
    b.append(f"SELECT {a == 1} FROM t WHERE x = 'é' LIMIT 1")
    return sorted(b) is None if g(b) else True
'''


def test_a_module_has_these_mutants_and_no_other() -> None:
    assert [mutant.id for mutant in mutants("m", MODULE)] == [
        'm.WORDS: WORDS = ( ["one" → "one~"] , "two")',
        'm.WORDS: WORDS = ("one", ["two" → "two~"] )',
        "m.f: if [not → ] a or b[0]",
        "m.f: if not a [or → and] b[0] >= 2:",
        "m.f: a or b[ [0 → 1] ] >= 2:",
        "m.f: a or b[0] [>= → >] 2:",
        "m.f: or b[0] >= [2 → 1] :",
        "m.f: or b[0] >= [2 → 3] :",
        'm.f: [raise ValueError(f"no {a == 1}") → pass]',
        "m.f: [b.append(f\"SELECT {a == 1} FROM t WHERE x = 'é' LIMIT 1\") → pass]",
        "m.f: 1} FROM t [WHERE x = 'é' → ] LIMIT 1",
        "m.f: t WHERE x [= → <>] 'é' LIMIT 1",
        "m.f: = 'é' LIMIT [1 → 0]",
        "m.f: return [sorted → list] (b) is None",
        "m.f: return sorted(b) [is → is not] None if g(b)",
        "m.f: is None if [g(b) → not (g(b))] else True",
        "m.f: if g(b) else [True → False]",
    ]


def test_a_mutant_keeps_its_id_when_lines_come_before_it_and_changes_one_place() -> None:
    later = MODULE.replace("\n\ndef f", "\n\ndef e():\n    return not 1\n\n\ndef f")
    found = {mutant.id: mutant.text for mutant in mutants("m", later)}
    assert {mutant.id for mutant in mutants("m", MODULE)} < found.keys()
    assert found["m.f: t WHERE x [= → <>] 'é' LIMIT 1"] == later.replace("x = 'é'", "x <> 'é'")
    assert found["m.f: if [not → ] a or b[0]"] == later.replace("if not a", "if a")
