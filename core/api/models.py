"""What clients send and get, as the OpenAPI document shows it. Unknown fields are refused: one may be misspelt."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints
from pydantic.alias_generators import to_camel

from core.domain.orders import MAX_LINES, MAX_QUANTITY


def _without_nul(text: str) -> str:
    """PostgreSQL stores every character but NUL."""
    if "\x00" in text:
        raise ValueError("must not contain the character NUL")
    return text


Text = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_without_nul)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_without_nul)]
BIGINT_MAX = 2**63 - 1


class Sent(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class ItemRequest(Sent):
    product_id: int = Field(ge=1, le=BIGINT_MAX, strict=True, examples=[1])
    quantity: int = Field(ge=1, le=MAX_QUANTITY, strict=True, examples=[2])
    price: Decimal | None = Field(
        default=None,
        ge=0,
        le=10**10,
        max_digits=12,
        decimal_places=2,
        examples=[100.00],
        description="The catalogue sets it; if sent, it has to be the catalogue's.",
    )


class OrderRequest(Sent):
    items: list[ItemRequest] = Field(min_length=1, max_length=MAX_LINES)
    shipping_address: Text | None = Field(default=None, examples=["1 Harbour Street, 04524 Seoul"])
    card_type: str = Field(default="CREDIT", pattern=r"^[A-Z0-9_-]{1,40}$", description="What is to be charged.")


class StatusRequest(Sent):
    seller_id: Name = Field(examples=["seller-1"])
    status: Literal["SHIPPED", "DELIVERED"]


class FailRequest(Sent):
    reason: Text = Field(examples=["card declined"])


class CancelRequest(Sent):
    reason: Text = Field(examples=["changed my mind"])
    cancelled_by: Name | None = Field(default=None, description="The caller, if left out.")


class TicketRequest(Sent):
    show: Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_without_nul)] = Field(
        examples=["Music Bank"]
    )
    phone: SecretStr = Field(
        min_length=1, max_length=40, examples=["+82 10-1234-5678"], description="Kept as a keyed hash and a mask only."
    )


class Given(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class ItemAnswer(Given):
    product_id: int
    seller_id: str
    quantity: int
    price: float


class OrderAnswer(Given):
    id: str = Field(examples=["019a9c3e-7f5a-7d0e-8a54-0f3c9e6b2a11"])
    order_number: str = Field(examples=["1000001"])
    customer_id: str
    status: str = Field(examples=["PENDING"])
    items: list[ItemAnswer]
    original_total_amount: float
    discount_amount: float
    total_amount: float = Field(examples=[200.00])
    created_at: datetime


class StatusAnswer(Given):
    order_id: str
    seller_id: str
    status: str = Field(examples=["SHIPPED"], description="Of this seller's items.")
    order_status: str = Field(examples=["PAID"], description="SHIPPED or DELIVERED once all its sellers are.")


class PaymentAnswer(Given):
    transaction_key: str
    order_id: str
    status: str = Field(examples=["COMPLETED"])
    amount: float
    failure_reason: str | None


class OrderPage(Given):
    orders: list[OrderAnswer]
    next_before: str | None = Field(description="Ask for `?before=` this to get the next page; null on the last one.")


class ProductAnswer(Given):
    id: int
    seller_id: str
    name: str
    price: float


class MetricsAnswer(Given):
    product_id: int
    sales: int
    likes: int
    views: int


class TicketAnswer(Given):
    id: str
    customer_id: str
    show: str
    phone_masked: str = Field(examples=["*********5678"])
    status: str = Field(examples=["APPLIED"])
    applied_at: datetime


class NotificationAnswer(Given):
    id: int
    type: str = Field(examples=["ORDER_CREATED"])
    channel: str = Field(examples=["PUSH"])
    message: str = Field(examples=["Order 1000001 was created: 200.00"])
    created_at: datetime


class NotificationPage(Given):
    notifications: list[NotificationAnswer]
    next_before: int | None = Field(description="Ask for `?before=` this to get the next page; null on the last one.")


class OrderViewAnswer(Given):
    id: str
    order_number: str
    customer_id: str
    total_amount: float
    status: str
    is_stock_confirmed: bool
    cancellation_reason: str | None
    created_at: datetime
    updated_at: datetime
    version: int = Field(description="The newest event of the order that was projected.")


class OrderViewPage(Given):
    orders: list[OrderViewAnswer]
    next_before: str | None = Field(description="Ask for `?before=` this to get the next page; null on the last one.")


class ProblemAnswer(BaseModel):
    type: str = Field(examples=["about:blank"])
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = None


def problems_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The entries of a route's OpenAPI for the problems it answers."""
    return {status: {"model": ProblemAnswer, "content": {"application/problem+json": {}}} for status in statuses}
