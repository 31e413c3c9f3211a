"""How each kind of outside service shall behave: set at start, changed at run time with PUT /behaviour."""

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["payments", "mails", "pushes", "sms", "records"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""`records`: the data platform."""


class Behaviour(BaseModel):
    """Of one kind. Ratios are 0 to 1 and apply to each call on its own, repeats too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_ms: float = Field(0.0, ge=0, le=600_000)
    """Before the work; a caller that left meanwhile has its work done all the same."""
    failure_ratio: float = Field(0.0, ge=0, le=1)
    """Answers 503 and does nothing."""
    timeout_after_work_ratio: float = Field(0.0, ge=0, le=1)
    """Does the work, then never answers."""
    honours_keys: bool = True
    """A repeat of a key is answered like the first call, without doing the work again."""
    declined_ratio: float = Field(0.0, ge=0, le=1)
    """Payments only: `failed`, the card is declined."""
    pending_ratio: float = Field(0.0, ge=0, le=1)
    """Payments only: `pending`, settled later."""


class Behaviours(BaseModel):
    """What PUT /behaviour takes: the kinds named are replaced whole, the others stay as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    payments: Behaviour | None = None
    mails: Behaviour | None = None
    pushes: Behaviour | None = None
    sms: Behaviour | None = None
    records: Behaviour | None = None

    def over(self, present: Mapping[Kind, Behaviour]) -> dict[Kind, Behaviour]:
        return {kind: getattr(self, kind) or present.get(kind) or Behaviour() for kind in KINDS}
