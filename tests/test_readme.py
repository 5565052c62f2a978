"""The README keeps its word: its example is the one that is shown, and its settings are those that are read."""

import json
import re
from pathlib import Path

import msgspec

import app.application
import consumers.inference.__main__
import consumers.projection.__main__
import embedded.settings
from embedded.showcase import EXAMPLE
from events.settings import PREFIX

README = (Path(__file__).parents[1] / "README.md").read_text()
SETTINGS = (
    app.application.Settings,
    consumers.inference.__main__.Settings,
    consumers.projection.__main__.Settings,
    embedded.settings.Settings,
)


def test_the_example_is_the_one_that_make_run_shows() -> None:
    [example] = re.findall(r"-d '(\{.*?\})'", README, re.DOTALL)

    assert json.loads(example) == EXAMPLE


def test_every_setting_is_documented_and_every_documented_one_is_read() -> None:
    read = {PREFIX + field.name.upper() for settings in SETTINGS for field in msgspec.structs.fields(settings)}

    assert set(re.findall(r"LLM_BENCH_[A-Z_]+", README)) == read


def test_nothing_of_the_readme_is_missing_from_the_tree() -> None:
    links = re.findall(r"\]\((docs/[^)]+)\)", README)

    assert links
    assert [link for link in links if not (Path(__file__).parents[1] / link).exists()] == []
