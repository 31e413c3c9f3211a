"""Every mutant of one module: the same text with one small change, in its Python or in the SQL of its strings.

mutmut and cosmic-ray know Python, see a string as one thing to spoil, and number what they make; here most of what can
be wrong is SQL, in pieces (f-strings) that no SQL parser takes. So SQL is changed by its tokens, Python by its syntax
tree. A mutant's id is where it is and what it reads there, so that it outlives changes elsewhere:
`loss.account: WHEN t.failed [AND → OR] NOT t.claimed`.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

from tests.mutation.sql import Change, changes_of_sql

SQL_WORDS = re.compile(r"\b(SELECT|FROM|WHERE|UNION)\b")
WORD = re.compile(r"[\w.-]+")
OPENING = re.compile(r"[A-Za-z]*('''|\"\"\"|'|\")")
SHOWN_WORDS, SHOWN_CHARACTERS = 3, 90
COMPARED: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
CALLED = {"any": "all", "all": "any", "min": "max", "max": "min", "sorted": "list"}


class Mutant(NamedTuple):
    id: str
    text: str
    """The whole module with the change in it."""


def mutants(module: str, text: str) -> list[Mutant]:
    """All of them, in the order of the text; ids are unique. `module`: its short name, as ids begin with it."""
    tree = ast.parse(text)
    source = Source(text)
    docstrings = set(_docstrings(tree, source))
    names = _names(tree, source)
    found: list[tuple[Change, tuple[int, int]]] = []
    for start, end in source.strings():
        if (start, end) not in docstrings and SQL_WORDS.search(text[start:end]):
            opening = OPENING.match(text, start)
            assert opening is not None
            begin, stop = opening.end(), end - len(opening[1])
            for change in changes_of_sql(text[begin:stop]):
                found.append((change.moved(begin), (begin, stop)))
    for change in _changes_of_python(tree, source):
        found.append((change, source.lines_around(change.start, change.end)))
    found.sort(key=lambda each: each[0])
    times: Counter[str] = Counter()
    made = []
    for change, (begin, stop) in found:
        mutated = text[: change.start] + change.new + text[change.end :]
        where = next((name for first, last, name in names if first <= change.start < last), "")
        id_ = f"{'.'.join(filter(None, (module, where)))}: {_shown(text, change, begin, stop)}"
        times[id_] += 1
        made.append(Mutant(id_ if times[id_] == 1 else f"{id_} #{times[id_]}", mutated))
    return made


def _shown(text: str, change: Change, begin: int, stop: int) -> str:
    old, new = (" ".join(part.split()) for part in (text[change.start : change.end], change.new))
    before = text[begin : change.start].split()[-SHOWN_WORDS:]
    after = text[change.end : stop].split()[:SHOWN_WORDS]
    if len(old) > SHOWN_CHARACTERS:
        old = f"{old[: SHOWN_CHARACTERS - 20]}…{old[-20:]}"
    return " ".join(filter(None, (*before, f"[{old} → {new}]", *after)))


class Source:
    """A module's text, with places in it as numbers of characters."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._lines = text.splitlines(keepends=True)
        self._begins = [0, *accumulate(len(line) for line in self._lines)]

    def at(self, line: int, column_bytes: int) -> int:
        """Of the syntax tree's place, whose column counts bytes."""
        return self._begins[line - 1] + len(self._lines[line - 1].encode()[:column_bytes].decode())

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)

    def strings(self) -> Iterator[tuple[int, int]]:
        """Each string literal as it stands; pieces that stand side by side are several."""
        begins: list[int] = []
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            start, end = (self._begins[line - 1] + column for line, column in (token.start, token.end))
            name = tokenize.tok_name[token.type]
            if name == "FSTRING_START":  # from Python 3.12 on, where an f-string is no single token
                begins.append(start)
            elif name == "STRING" and not begins:
                yield start, end
            elif name == "FSTRING_END" and (begin := begins.pop()) is not None and not begins:
                yield begin, end

    def lines_around(self, start: int, end: int) -> tuple[int, int]:
        stop = self.text.find("\n", end)
        return self.text.rfind("\n", 0, start) + 1, stop if stop >= 0 else len(self.text)


def _docstrings(tree: ast.Module, source: Source) -> Iterator[tuple[int, int]]:
    """Also those that stand below a constant or a field."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield source.span(node)


def _names(tree: ast.Module, source: Source) -> list[tuple[int, int, str]]:
    """(start, end, dotted name) of functions, classes and top-level constants, the inner ones first."""
    found = []

    def walk(body: Iterable[ast.stmt], path: tuple[str, ...]) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                walk(node.body, (*path, node.name))
                found.append((*source.span(node), ".".join((*path, node.name))))
            elif not path and isinstance(node, ast.Assign | ast.AnnAssign):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                found.append((*source.span(node), ast.unparse(target).strip("()")))

    walk(tree.body, ())
    return found


def _changes_of_python(tree: ast.Module, source: Source) -> Iterator[Change]:
    for node in _code(tree):
        if isinstance(node, ast.expr | ast.comprehension):
            yield from _of_expression(node, source)
        if isinstance(node, ast.If | ast.IfExp) and not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            start, end = source.span(node.test)
            yield Change(start, end, f"not ({source.text[start:end]})")
        if isinstance(node, ast.If):
            yield from (Change(*source.span(s), "pass") for s in node.body if isinstance(s, ast.Return | ast.Continue))
        is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        if isinstance(node, ast.Raise | ast.AugAssign) or is_call:
            yield Change(*source.span(node), "pass")


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """What runs: no annotation, and nothing inside an f-string, where this Python's tree has no true places."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _code(child)


def _of_expression(node: ast.expr | ast.comprehension, source: Source) -> Iterator[Change]:
    text = source.text

    def between(left: ast.expr, right: ast.expr, old: str, new: str) -> Change:
        """The operator between two operands, either of which may stand in brackets."""
        start, end = source.span(left)[1], source.span(right)[0]
        found = re.search(rf"(?<!\w){re.escape(old)}(?!\w)", text[start:end])
        assert found is not None, text[start:end]
        return Change(start + found.start(), start + found.end(), new)

    match node:
        case ast.Compare(left=left, ops=ops, comparators=rights):
            for one, op, other in zip([left, *rights], ops, rights, strict=False):
                yield between(one, other, *COMPARED[type(op)])
        case ast.BoolOp(op=op, values=values):
            words = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
            yield from (between(one, other, *words) for one, other in pairwise(values))
        case ast.UnaryOp(op=ast.Not()):
            start = source.span(node)[0]
            yield Change(start, start + len("not "), "")
        case ast.Constant(value=bool() as value):
            yield Change(*source.span(node), str(not value))
        case ast.Constant(value=int() as value):
            yield from (Change(*source.span(node), str(near)) for near in (value + 1, value - 1) if near >= 0)
        case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements):
            for each in elements:
                if isinstance(each, ast.Constant) and isinstance(each.value, str) and WORD.fullmatch(each.value):
                    yield Change(*source.span(each), f'"{each.value}~"')
        case ast.Call(func=ast.Name(id=name) as called, args=[_], keywords=[]) if name in CALLED:
            yield Change(*source.span(called), CALLED[name])
        case ast.Call(func=ast.Attribute(value=receiver, attr="union" | "difference")):
            yield Change(source.span(receiver)[1], source.span(node)[1], "")
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.BitOr(), left=left, right=right) if not _is_text(left, right):
            start, end = source.span(left)
            yield Change(*source.span(node), text[start:end])
        case ast.comprehension(ifs=tests):
            for test in tests:
                start, end = source.span(test)
                if_at = text.rindex("if", 0, start)
                yield Change(if_at, end, "")


def _is_text(*nodes: ast.expr) -> bool:
    return any(
        isinstance(n, ast.JoinedStr) or (isinstance(n, ast.Constant) and isinstance(n.value, str)) for n in nodes
    )
