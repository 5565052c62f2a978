"""There is no Docker where the tests run: what compose.yaml would run is run here instead."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def run(service: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The service's own command, with its own environment and what is given."""
    given = {name: value for name, value in OURS[service]["environment"].items() if "$" not in value}
    command = [sys.executable, *OURS[service]["command"][1:]]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | given | environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_of_migrate_migrates(database_url: str) -> None:
    done = run("migrate", LLM_BENCH_DATABASE_URL=database_url)

    assert done.returncode == 0, done.stderr
    assert "0001_log_jobs_and_runs" in done.stderr


@pytest.mark.parametrize("service", ["app", "projection", "worker", "worker-gpu"])
def test_each_command_is_a_process_of_ours_that_names_what_it_lacks(service: str) -> None:
    """Started with a URL missing, each says which, and ends."""
    done = run(service, LLM_BENCH_DATABASE_URL="", LLM_BENCH_AMQP_URL="", LLM_BENCH_LOG_LEVEL="nonsense")

    assert done.returncode == 2
    assert "LLM_BENCH_" in done.stderr


def test_each_image_is_built_from_a_stage_that_exists() -> None:
    stages = {line.split(" AS ")[1] for line in (ROOT / "Dockerfile").read_text().splitlines() if " AS " in line}

    assert {service["build"]["target"] for service in OURS.values()} <= stages


def test_torch_stays_out_of_the_images_that_do_not_need_it() -> None:
    installs = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if "pip install" in line]

    assert [("inference" in line) for line in installs] == [False, False, True]
