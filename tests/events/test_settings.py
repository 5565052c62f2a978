import pytest
from msgspec import Struct

from events.settings import InvalidSetting, read_settings


class Settings(Struct, frozen=True, kw_only=True):
    amqp_url: str
    port: int = 8000
    drain_s: float = 30.0
    origins: tuple[str, ...] = ()


def test_settings_come_from_the_environment() -> None:
    environment = {"LLM_BENCH_AMQP_URL": "amqp://b", "LLM_BENCH_PORT": "81", "LLM_BENCH_ORIGINS": "http://a, http://b"}

    settings = read_settings(Settings, environment)

    assert settings == Settings(amqp_url="amqp://b", port=81, origins=("http://a", "http://b"))


def test_an_empty_variable_counts_as_not_set() -> None:
    assert read_settings(Settings, {"LLM_BENCH_AMQP_URL": "amqp://b", "LLM_BENCH_PORT": " "}).port == 8000


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(InvalidSetting, match="LLM_BENCH_AMQP_URL is not set"):
        read_settings(Settings, {})


def test_a_wrong_variable_is_named_with_what_it_says() -> None:
    with pytest.raises(InvalidSetting, match="LLM_BENCH_PORT is 'eighty'"):
        read_settings(Settings, {"LLM_BENCH_AMQP_URL": "amqp://b", "LLM_BENCH_PORT": "eighty"})
