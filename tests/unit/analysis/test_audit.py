"""The reconciliation on tiny logs and ledgers with known answers."""

from collections.abc import Mapping, Sequence

from analysis.audit import FIELDS, Committed, Content, Extra, Logged, Missing, Range, reconcile


def content(id_: str, data: str = "{}") -> Content:
    fields = dict.fromkeys(FIELDS, "x") | {"type": "LikeChanged", "key": f"key of {id_}", "data": data}
    return tuple(fields[name] for name in FIELDS)


def committed(*ids: str, is_waiting: bool = False) -> list[Committed]:
    return [Committed(id_, content(id_), is_waiting) for id_ in ids]


def logged(*ids: str) -> list[Logged]:
    return [Logged(id_, content(id_), "likes", 0, position) for position, id_ in enumerate(ids, 10)]


def ledger_of(*ids: str) -> "LookUp":
    return LookUp({id_: content(id_) for id_ in ids})


class LookUp:
    def __init__(self, contents: Mapping[str, Content]) -> None:
        self._contents = contents

    def __call__(self, ids: Sequence[str]) -> dict[str, Content]:
        return {id_: self._contents[id_] for id_ in ids if id_ in self._contents}


def test_the_same_on_both_sides_in_any_order_is_whole_and_has_one_digest() -> None:
    found = reconcile(committed("a", "b", "c"), logged("c", "a", "b"), ledger_of("a", "b", "c"))
    assert found.is_whole
    assert found.ledger_digest == found.log_digest
    assert found.lanes == {("likes", 0): Range(3, 10, 12)}


def test_what_only_one_side_has_is_named_with_its_place() -> None:
    found = reconcile(committed("a", "b"), logged("a", "z"), ledger_of("a", "b"))
    assert found.missing == [Missing("b", "LikeChanged", "key of b")]
    assert found.extra == [Extra("z", "LikeChanged", "key of z", "likes", 0, 11)]
    assert found.ledger_digest != found.log_digest


def test_a_copy_is_counted_and_nothing_is_missing_or_extra() -> None:
    found = reconcile(committed("a"), logged("a", "a", "a"), ledger_of("a"))
    assert (found.copies, found.is_whole) == (2, True)
    assert found.ledger_digest == found.log_digest


def test_a_copy_with_another_content_differs() -> None:
    twin = Logged("a", content("a", "changed"), "likes", 0, 11)
    found = reconcile(committed("a"), [*logged("a"), twin], ledger_of("a"))
    assert [(d.id, d.position, dict(d.fields)) for d in found.differing] == [("a", 11, {"data": ("{}", "changed")})]


def test_what_waits_in_the_outbox_may_be_in_the_log_or_not() -> None:
    waiting = committed("a", "b", is_waiting=True)
    found = reconcile(waiting, logged("a"), ledger_of("a", "b"))
    assert (found.is_whole, found.waiting_events, found.ledger_events) == (True, 2, 0)


def test_what_was_committed_after_the_ledger_was_read_is_no_phantom() -> None:
    found = reconcile(committed("a"), logged("a", "late"), ledger_of("a", "late"))
    assert found.is_whole
    assert found.ledger_digest == found.log_digest


def test_a_malformed_message_breaks_the_books() -> None:
    found = reconcile(committed(), [Logged("", (), "likes", 0, 3, "no id")], ledger_of())
    assert (found.is_whole, found.log_messages, found.malformed[0].error) == (False, 1, "no id")


def test_an_event_whose_content_differs_is_neither_missing_nor_extra_but_named_with_both_values() -> None:
    changed = Logged("a", content("a", "changed"), "likes", 0, 10)
    found = reconcile(committed("a", "b"), [changed, *logged("b")], ledger_of("a", "b"))
    assert [(d.id, d.position, dict(d.fields)) for d in found.differing] == [("a", 10, {"data": ("{}", "changed")})]
    assert (found.missing, found.extra, found.is_whole) == ([], [], False)
    assert found.ledger_digest != found.log_digest
