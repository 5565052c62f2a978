"""The app for Prometheus: what it knows in memory, so that it answers whatever is away."""

from collections.abc import Iterator, Mapping
from typing import get_args

from litestar import Response, get
from litestar.di import NamedDependency

from app.parts import Parts
from app.web.documentation import documented
from events.benchmark import Pool

TEXT = "text/plain; version=0.0.4"


@get(
    "/metrics",
    operation_id="getGauges",
    summary="Gauges of this app, in the text format of Prometheus",
    tags=["health"],
    opt=documented(answers={200: {"text/plain": None}}),
    sync_to_thread=False,
)
def get_gauges(parts: NamedDependency[Parts]) -> Response[str]:
    return Response("".join(_lines(parts)), media_type=TEXT)


def _lines(parts: Parts) -> Iterator[str]:
    yield from _gauge("broker_up", "Whether an event could be published now", {"": int(parts.bus.available)})
    yield from _gauge("log_followed", "Whether the log of the projection is followed", {"": int(parts.log.following)})
    yield from _gauge("log_position", "The last position of the log that was seen", {"": parts.log.position or 0})
    yield from _gauge("streams_open", "Readers of event streams", {"": parts.log.watchers})
    yield from _gauge("jobs_waiting", "Jobs accepted here and not known to be stored", {"": len(parts.accepted)})
    yield from _gauge("jobs_lag_seconds", "For how long the oldest of them has waited", {"": parts.accepted.lag_s()})
    yield from _gauge("models_known", "Models of the catalogue in memory", {"": len(parts.catalogue)})
    live = [worker.pool for worker in parts.fleet.live_workers()]
    by_pool = {f'{{pool="{pool}"}}': live.count(pool) for pool in get_args(Pool)}
    yield from _gauge("workers_alive", "Workers heard of lately", by_pool)


def _gauge(name: str, meaning: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP llmbench_{name} {meaning}.\n# TYPE llmbench_{name} gauge\n"
    yield from (f"llmbench_{name}{labels} {value}\n" for labels, value in values.items())


ROUTES = (get_gauges,)
