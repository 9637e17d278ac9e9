"""Where answers come from: an engine that is started for them, or an endpoint that is there already."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evaluation.client.endpoint import Endpoint
from evaluation.engines.engine import Engine
from evaluation.engines.running import Running, started
from sixfold.progress import Progress


@dataclass(frozen=True)
class Served:
    """gone: why it does not answer any more, "" while it does. running: None of an endpoint that was there."""

    endpoint: Endpoint
    gone: Callable[[], str]
    running: Running | None


@dataclass(frozen=True)
class Provider:
    """name, build: of the engine, as far as known. concurrency: requests at a time. endpoint: one that is there."""

    name: str
    build: str
    concurrency: int
    seconds: float
    engine: Engine | None = None
    endpoint: Endpoint | None = None

    @contextmanager
    def opened(self, log: Path, progress: Progress) -> Iterator[Served]:
        if self.endpoint is not None:
            yield Served(self.endpoint, lambda: "", None)
            return
        assert self.engine is not None
        with started(self.engine, log, progress) as running:
            endpoint = Endpoint(running.url, self.engine.model, "", self.seconds, self.engine.extra)
            yield Served(endpoint, running.gone, running)


def of_engine(engine: Engine, concurrency: int, seconds: float) -> Provider:
    return Provider(engine.name, engine.build, concurrency, seconds, engine=engine)


def of_endpoint(endpoint: Endpoint, concurrency: int) -> Provider:
    """What runs behind it is not known."""
    return Provider("endpoint", endpoint.model, concurrency, endpoint.seconds, endpoint=endpoint)
