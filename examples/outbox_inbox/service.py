"""An HTTP service that writes its row and its event in one transaction. Arguments: DATABASE_URL PORT."""

import json
import sys
from datetime import UTC, datetime

import uvicorn
from fastapi import FastAPI, HTTPException
from sqlalchemy import Engine, insert
from sqlalchemy.orm import Session

from core.messaging.envelope import Envelope
from core.outbox.doorbell import Doorbell
from core.outbox.rows import EventSink, OutboxSink
from core.storage.event_store import VersionConflict, new_event_id
from examples.outbox_inbox.parcels import messaging, open_database, parcel


def create_app(engine: Engine, sink: EventSink) -> FastAPI:
    app = FastAPI()

    @app.put("/parcels/{id}", status_code=201)
    def register(id: str, grams: int) -> None:
        data = json.dumps({"grams": grams}).encode()
        now = datetime.now(UTC)
        event = Envelope(new_event_id(), "parcels", "ParcelRegistered", "/post/Parcel", id, 1, now, data)
        try:
            with Session(engine) as session, session.begin():
                sink.write(session, [event])
                session.execute(insert(parcel).values(id=id, grams=grams))
        except VersionConflict as error:
            raise HTTPException(409, f"parcel {id} is registered already") from error
        sink.after_commit([event])

    return app


if __name__ == "__main__":
    engine = open_database(sys.argv[1])
    uvicorn.run(create_app(engine, OutboxSink(messaging, Doorbell(engine))), port=int(sys.argv[2]))
