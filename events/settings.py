"""How each process reads its settings from the environment."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

PREFIX = "LLM_BENCH_"

Settings = TypeVar("Settings", bound=msgspec.Struct)


class InvalidSetting(Exception):
    """A variable of the environment is missing or says something that cannot be meant."""


def read_settings(of: type[Settings], environment: Mapping[str, str]) -> Settings:
    """The settings of a process: field `drain_s` is LLM_BENCH_DRAIN_S; tuples are separated by commas.

    Raises InvalidSetting, which names the variable. An empty variable counts as not set.
    """
    given = {}
    for field in msgspec.structs.fields(of):
        text = environment.get(PREFIX + field.name.upper(), "").strip()
        if text:
            given[field.name] = _convert(field, text)
        elif field.required:
            raise InvalidSetting(f"{PREFIX}{field.name.upper()} is not set, and this process cannot run without it")
    return of(**given)


def _convert(field: msgspec.structs.FieldInfo, text: str) -> object:
    wants_tuple = getattr(field.type, "__origin__", None) is tuple
    value = [part.strip() for part in text.split(",") if part.strip()] if wants_tuple else text
    try:
        return msgspec.convert(value, field.type, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"{PREFIX}{field.name.upper()} is {text!r}: {error}") from error
