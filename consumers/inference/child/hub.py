"""Pretrained weights: what the Hugging Face hub or its cache on this machine has. Never a local folder by its name."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from msgspec import Struct

from events.benchmark import ModelDefinition

ANSWER_S = 2.5
REMEMBERED_S = 60.0
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
NOT_NEEDED = ["*/*", "consolidated*"]  # other formats of the same weights


class NotToBeHad(Exception):
    """The pretrained weights of a model are neither on the hub nor in the cache; the sentence says why."""


# with the errors of whichever HTTP library the hub's client is built on
TROUBLE: tuple[type[BaseException], ...] = (NotToBeHad, OSError, ValueError, *HfHubHTTPError.__bases__)


class Snapshot(Struct, frozen=True, kw_only=True):
    """A repository at one commit, `revision`, and its config.json."""

    repository: str
    revision: str
    config: dict[str, Any]


class Hub:
    """Remembers for a minute that the hub could not be reached, so that only the first of many jobs waits for it."""

    def __init__(self) -> None:
        self._asking = ThreadPoolExecutor(thread_name_prefix="hub")
        self._unreachable_until = 0.0

    def find(self, model: ModelDefinition) -> Snapshot:
        """What would be loaded, in a few seconds at most. Raises NotToBeHad, unasked where no repository is named."""
        if not model.repository:
            raise NotToBeHad(f"{model.model_id} has no pretrained weights: it exists with random ones only")
        _check_names(model)
        try:
            revision = self._commit(model)
            config = hf_hub_download(model.repository, "config.json", revision=revision)
        except TROUBLE as error:
            folder = _cached(model.repository, model.revision)
            if folder is None:
                raise NotToBeHad(f"{_sentence(error)}, and the cache of this machine does not have it") from error
            revision, config = folder.name, str(folder / "config.json")
        return Snapshot(
            repository=model.repository, revision=revision, config=json.loads(Path(config).read_text(encoding="utf-8"))
        )

    def fetch(self, snapshot: Snapshot) -> Path:
        """The folder with the weights, downloaded if they are not there. Raises NotToBeHad."""
        folder = _cached(snapshot.repository, snapshot.revision)
        if folder is not None:
            return folder
        try:
            return Path(
                snapshot_download(
                    snapshot.repository, revision=snapshot.revision, allow_patterns=FILES, ignore_patterns=NOT_NEEDED
                )
            )
        except TROUBLE as error:
            raise NotToBeHad(f"the download from the hub failed: {_sentence(error)}") from error

    def _commit(self, model: ModelDefinition) -> str:
        """The hub's commit of the wished revision. In a thread, for no timeout of a socket bounds a name's look-up."""
        if constants.is_offline_mode():
            raise NotToBeHad("the hub is not asked, for HF_HUB_OFFLINE is set")
        if time.monotonic() < self._unreachable_until:
            raise NotToBeHad("the hub could not be reached a moment ago")
        asked = self._asking.submit(HfApi().model_info, model.repository, revision=model.revision, timeout=ANSWER_S)
        try:
            error = asked.exception(ANSWER_S + 0.5)
        except TimeoutError as late:
            error = late
        if error is None:
            return _commit_with_safetensors(asked.result(), model)
        if not isinstance(error, HfHubHTTPError):
            self._unreachable_until = time.monotonic() + REMEMBERED_S
            raise NotToBeHad("the hub could not be reached") from error
        raise NotToBeHad(f"the hub refused {model.repository}: {_sentence(error)}") from error


def _commit_with_safetensors(info: Any, model: ModelDefinition) -> str:
    if not any(file.rfilename.endswith(".safetensors") for file in info.siblings or ()):
        raise NotToBeHad(f"{model.repository} has no safetensors weights, and no others are loaded")
    return str(info.sha)


def _check_names(model: ModelDefinition) -> None:
    """Both become parts of a path in the cache, and must not lead out of it."""
    try:
        validate_repo_id(model.repository)
    except HFValidationError as error:
        raise NotToBeHad(f"{model.repository!r} is no name of a repository on the hub") from error
    if model.revision is not None and (".." in model.revision or model.revision.startswith("/")):
        raise NotToBeHad(f"{model.revision!r} is no revision of a repository on the hub")


def _cached(repository: str, revision: str | None) -> Path | None:
    config = try_to_load_from_cache(repository, "config.json", revision=revision)
    if not isinstance(config, str) or not _complete(Path(config).parent):
        return None
    return Path(config).parent


def _complete(folder: Path) -> bool:
    """Are all weights there? A download that was broken off leaves some."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return (folder / "model.safetensors").exists()
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((folder / shard).exists() for shard in shards)


def _sentence(error: BaseException) -> str:
    """The first line: what the hub's client says below it is advice for people who call it from a notebook."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
