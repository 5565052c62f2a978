"""A hub that can be reached: a small one of our own, on this machine."""

import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from consumers.inference.child.protocol import Resolve
from consumers.inference.engine import ChildEngine, Refusal, open_engine
from events.benchmark import ModelDefinition
from tests.builders import a_model
from tests.consumers.inference.conftest import REPOSITORY, REVISION

ON_THE_HUB = ModelDefinition(model_id="tiny", repository=REPOSITORY)


class SmallHub(BaseHTTPRequestHandler):
    """One repository, served from a folder: what the hub says of a model, and its files."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing."""

    def _answer(self, with_body: bool) -> None:
        found = self._find(self.path.split("?")[0])
        body = b"" if found is None else found
        self.send_response(404 if found is None else 200)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha1(body, usedforsecurity=False).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        if found is None:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _find(self, path: str) -> bytes | None:
        if path.startswith(f"/api/models/{REPOSITORY}/tree"):
            tree = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                for file in self.folder.iterdir()
            ]
            return json.dumps(tree).encode()
        if path.startswith(f"/api/models/{REPOSITORY}"):
            files = [{"rfilename": file.name} for file in self.folder.iterdir()]
            return json.dumps({"id": REPOSITORY, "sha": REVISION, "siblings": files}).encode()
        file = self.folder / path.rpartition("/")[2]
        return file.read_bytes() if path.startswith(f"/{REPOSITORY}/resolve/") and file.exists() else None


@pytest.fixture(scope="module")
def hub_address(hub_cache: Path) -> Iterator[str]:
    folder = hub_cache / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / REVISION
    handler = type("Hub", (SmallHub,), {"folder": folder})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
async def online(
    hub_address: str, measured_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ChildEngine]:
    """A measured process with that hub, and an empty cache."""
    cache = str(tmp_path_factory.mktemp("empty"))
    hub = {"HF_ENDPOINT": hub_address, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": cache}
    async with open_engine({**measured_environment, **hub}) as engine:
        yield engine


def resolve(model: ModelDefinition, weights: str = "pretrained") -> Resolve:
    return Resolve(model=model, weights=weights, device="cpu", use_gpu=False)  # type: ignore[arg-type]  # a literal


async def test_a_model_of_the_hub_is_downloaded_at_the_commit_that_was_resolved(online: ChildEngine) -> None:
    await online.ready()

    resolved = await online.resolve(resolve(ON_THE_HUB, "auto"))
    load = await online.load()

    assert (resolved.weights, resolved.revision) == ("pretrained", REVISION)
    assert (load.warm, load.facts["tokenizer"] != "built in code") == (False, True)


async def test_what_the_hub_does_not_have_is_refused_in_its_words(online: ChildEngine) -> None:
    await online.ready()

    with pytest.raises(Refusal, match=r"the hub refused tests/none.*the cache of this machine does not have it"):
        await online.resolve(resolve(ModelDefinition(model_id="none", repository="tests/none")))


async def test_a_hub_that_does_not_answer_costs_seconds_once(measured_environment: dict[str, str]) -> None:
    nowhere = {"HF_ENDPOINT": "http://192.0.2.1", "HF_HUB_OFFLINE": "0"}
    async with open_engine({**measured_environment, **nowhere}) as engine:
        await engine.ready()
        began = time.monotonic()
        resolved = await engine.resolve(resolve(a_model(), "auto"))
        first = time.monotonic() - began
        await engine.resolve(resolve(a_model(), "auto"))
        second = time.monotonic() - began - first

    assert (resolved.weights, first < 6, second < 1) == ("random", True, True)
