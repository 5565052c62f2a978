"""What the routes work with."""

from dataclasses import dataclass
from typing import Any

from litestar import Request

from app.state.accepted import Accepted
from app.state.catalogue import CHANGES, Catalogue
from app.state.database import Database
from app.state.fleet import Fleet
from app.state.flights import SingleFlight
from app.state.log import Entry, Log
from events.bus import Bus
from events.messages import BenchmarkRequested, type_of

AnyRequest = Request[Any, Any, Any]

_REQUESTED = type_of(BenchmarkRequested)


@dataclass(frozen=True)
class Parts:
    bus: Bus
    database: Database
    log: Log
    accepted: Accepted
    submissions: SingleFlight
    catalogue: Catalogue
    fleet: Fleet


def assemble(bus: Bus, database: Database) -> Parts:
    accepted, catalogue = Accepted(), Catalogue(database)

    def hear(entry: Entry) -> None:
        if entry.type == _REQUESTED and entry.job_id is not None:
            accepted.forget(entry.job_id)
        elif entry.type in CHANGES:
            catalogue.expire()

    return Parts(bus, database, Log(database, hear), accepted, SingleFlight(), catalogue, Fleet(database))
