"""Small changes of a piece of SQL, by its tokens: it may lack its beginning or end, and hold `{…}` that Python fills.

Made is what a slip of the pen could be: another comparison, a dropped condition, another join, a bound one off. What
SQL refuses outright is told apart when it runs.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

TOKEN = re.compile(
    r"""(?P<hole>\{[^{}]*\}) | (?P<text>'[^']*'|"[^"]*") | (?P<number>\d[\w.]*) | (?P<word>[A-Za-z_]\w*)
    | (?P<sign><>|<=|>=|\|\||::|[^\s\w])""",
    re.VERBOSE,
)
SIGNS = {"=": "<>", "<>": "=", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "+": "-", "-": "+", "/": "*"}
FUNCTIONS = {
    "min": "max",
    "max": "min",
    "sum": "count",
    "arg_min": "arg_max",
    "bool_or": "bool_and",
    "greatest": "least",
    "upper": "lower",
    "lower": "upper",
}
WORDS = {"true": "false", "false": "true", "OR": "AND", "AND": "OR"}
JOINS = {"LEFT": "", "FULL": "LEFT", "SEMI": "ANTI"}
CLAUSES = ("WHERE", "HAVING", "ON", "WHEN")
ENDS = frozenset(
    ("WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "UNION", "JOIN", "LEFT", "FULL", "SEMI", "THEN", "ROWS", "FROM")
)


class Change(NamedTuple):
    """The characters from `start` to `end` become `new`."""

    start: int
    end: int
    new: str

    def moved(self, by: int) -> "Change":
        return Change(self.start + by, self.end + by, self.new)


class Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int
    depth: int
    """How many brackets are open around it; a bracket has the depth of what it stands in."""


def changes_of_sql(sql: str) -> list[Change]:
    """In the order of the text, none twice."""
    tokens = _tokens(sql)
    found = set(_of_single_tokens(tokens))
    for at, token in enumerate(tokens):
        before = tokens[at - 1].text if at else ""
        after = tokens[at + 1].text if at + 1 < len(tokens) else ""
        inner = Span(tokens, at + 1, token.depth + 1)
        if token.text in CLAUSES:
            found.update(_of_condition(Span(tokens, at + 1, token.depth), whole=_dropped_whole(token)))
        elif token.text == "(" and before == "FILTER":
            found.update(_of_condition(inner, whole=(tokens[at - 1].start, inner.end + 1)))
        elif token.text == "(" and after != "SELECT" and before not in ("USING", "coalesce", "IN"):
            found.update(_of_condition(inner, whole=None))
        elif token.text == "(" and before == "USING":
            found.update(_without_one(inner))
        elif token.text == "(" and before == "coalesce":
            first = inner.split(",")[0]
            found.add(Change(tokens[at - 1].start, inner.end + 1, sql[first.start : first.end]))
        elif (before, token.text) == ("PARTITION", "BY"):
            keys = Span(tokens, at + 1, token.depth)
            whole = [Change(tokens[at - 1].start, keys.end, "")]
            found.update(_without_one(keys) if len(keys.split(",")) > 1 else whole)
        elif (before, token.text) == ("ORDER", "BY"):
            for key in Span(tokens, at + 1, token.depth).split(","):
                found.add(Change(key.end, key.end, " DESC"))
        elif token.text == "CASE":
            found.update(_of_case(tokens, at))
    return sorted(found)


def _tokens(sql: str) -> list[Token]:
    found, depth = [], 0
    for match in TOKEN.finditer(sql):
        depth -= match[0] == ")"
        found.append(Token(str(match.lastgroup), match[0], match.start(), match.end(), depth))
        depth += match[0] == "("
    return found


class Span:
    """The tokens from `begin` on that belong to one clause or bracket, up to its end."""

    def __init__(self, tokens: Sequence[Token], begin: int, depth: int) -> None:
        self.depth = depth
        self.tokens: list[Token] = []
        for token in tokens[begin:]:
            if token.depth < depth or (token.depth == depth and token.text in ENDS):
                break
            self.tokens.append(token)

    @property
    def start(self) -> int:
        return self.tokens[0].start

    @property
    def end(self) -> int:
        return self.tokens[-1].end

    def split(self, *separators: str) -> list["Span"]:
        """Its parts between separators of its own depth; empty ones left out."""
        parts: list[list[Token]] = [[]]
        for token in self.tokens:
            if token.depth == self.depth and token.text in separators:
                parts.append([])
            else:
                parts[-1].append(token)
        return [Span(part, 0, self.depth) for part in parts if part]


def _of_single_tokens(tokens: Sequence[Token]) -> Iterator[Change]:
    for at, (kind, text, start, end, _) in enumerate(tokens):
        before, after = (tokens[n].text if 0 <= n < len(tokens) else "" for n in (at - 1, at + 1))
        if kind == "sign" and text in SIGNS:
            yield Change(start, end, SIGNS[text])
        elif kind == "number" and text.isdigit() and not _is_place(tokens, at) and not _is_column(before, after):
            # Of what is limited to one row only the first is fetched; one down is another sign's change.
            yield Change(start, end, str(int(text) + (-1 if before == "LIMIT" else 1)))
        elif kind == "text" and _is_in_list(tokens, at):
            yield Change(start, end, text[:-1] + "~'")
        elif kind != "word":
            continue
        elif text in ("NOT", "DISTINCT"):
            yield Change(start, end + 1, "")
        elif (before, text) == ("IS", "NULL") or (text == "IN" and before != "NOT"):
            yield Change(start, start, "NOT ")
        elif text == "UNION":
            yield Change(tokens[at + 1].start, tokens[at + 1].end, "") if after == "ALL" else Change(end, end, " ALL")
        elif text in JOINS and after == "JOIN":
            yield Change(start, end + (text == "LEFT"), JOINS[text])
        elif text == "JOIN" and before not in JOINS:
            yield Change(start, start, "LEFT ")
        elif text in FUNCTIONS and after == "(":
            yield Change(start, end, FUNCTIONS[text])
        elif text in WORDS and after != "REPLACE" and before != "PRECEDING":
            yield Change(start, end, WORDS[text])


def _is_in_list(tokens: Sequence[Token], at: int) -> bool:
    opened = next((n for n in range(at, -1, -1) if tokens[n].depth < tokens[at].depth), 0)
    return opened > 0 and tokens[opened - 1].text == "IN"


def _is_column(before: str, after: str) -> bool:
    """A number that is itself what is selected: a rank, or a filler."""
    return before in ("SELECT", ",") and after in (",", "AS", "FROM")


def _is_place(tokens: Sequence[Token], at: int) -> bool:
    """A number that names a column to order by."""
    for token in reversed(tokens[:at]):
        if token.depth == tokens[at].depth and token.text not in (",", "DESC") and token.kind != "number":
            return token.text == "BY"
    return False


def _dropped_whole(token: Token) -> tuple[int, None] | None:
    """From where a clause of one condition is dropped; a join and a case need theirs."""
    return (token.start, None) if token.text in ("WHERE", "HAVING") else None


def _of_condition(span: Span, whole: tuple[int, int | None] | None) -> Iterator[Change]:
    """Without each of its parts; without the clause, if it has one part."""
    if not span.tokens:
        return
    parts = span.split("AND", "OR")
    if len(parts) > 1:
        for at, part in enumerate(parts):
            yield Change(part.start, parts[at + 1].start, "") if at == 0 else Change(parts[at - 1].end, part.end, "")
    elif whole is not None:
        yield Change(whole[0], whole[1] or span.end, "")


def _without_one(span: Span) -> Iterator[Change]:
    parts = span.split(",")
    for at, part in enumerate(parts) if len(parts) > 1 else ():
        yield Change(part.start, parts[at + 1].start, "") if at == 0 else Change(parts[at - 1].end, part.end, "")


def _of_case(tokens: Sequence[Token], at: int) -> Iterator[Change]:
    """Without each of its branches; one that stands alone is turned round."""
    own = []
    for token in tokens[at + 1 :]:
        if token.depth == tokens[at].depth and token.text in ("WHEN", "THEN", "ELSE", "END"):
            own.append(token)
        if own and own[-1].text == "END":
            break
    whens = [n for n, token in enumerate(own) if token.text == "WHEN"]
    for n in whens:
        when, then, following = own[n : n + 3]
        if len(whens) > 1:
            yield Change(when.start, following.start, "")
        elif all(token.kind == "word" or token.text == "." for token in tokens if when.end <= token.start < then.start):
            yield Change(when.end, when.end, " NOT")
