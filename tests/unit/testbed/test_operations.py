"""What people on call are refused before anything is touched."""

from datetime import UTC, datetime, timedelta

import pytest

from core.api.problems import CannotDo
from core.journey import NoProbe
from testbed import wiring
from testbed.operations import ShopOperations
from testbed.settings import read_settings


def test_the_broker_does_not_go_further_back_than_groups_know_what_they_handled() -> None:
    settings = read_settings(
        broker="memory", retention_claims_s=20 * 86_400, database_url="postgresql://x@127.0.0.1:1/x"
    )
    database, broker = wiring.open_database(settings), wiring.connect_broker(settings)
    broker.admin().declare()
    sink = wiring.event_sink(settings, database, broker, NoProbe())
    operations = ShopOperations(settings, database, broker, sink, NoProbe())
    with pytest.raises(CannotDo, match=r"known for 20 days \(RETENTION_CLAIMS_S\)"):
        operations.replay("product-metrics", None, datetime.now(UTC) - timedelta(days=20, hours=1), False, "broker")
    later = datetime.now(UTC) - timedelta(days=19, hours=23)
    assert operations.replay("product-metrics", None, later, False, "broker")["moved"] is True
