"""What the domain says when it will not do a thing. The API turns each into a 4xx; a consumer into an ignored event."""


class RuleBroken(Exception):
    """Base: the request is well formed and the shop refuses it. Nothing was changed."""


class UnknownThing(RuleBroken):
    """It does not exist, or not for this caller."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"There is no {kind} {name}.")


class ForbiddenState(RuleBroken):
    """The aggregate's present state does not allow the change."""

    def __init__(self, kind: str, name: str, state: str, change: str) -> None:
        super().__init__(f"{kind} {name} is {state}, so it cannot be {change}.")
        self.state = state


class InvalidRequest(RuleBroken):
    """A value that no state of the shop allows; `pointer` is the JSON pointer to it in the request."""

    def __init__(self, detail: str, pointer: str) -> None:
        super().__init__(detail)
        self.pointer = pointer
