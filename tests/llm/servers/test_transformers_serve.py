"""`transformers serve`: no constrained output, every unknown field refused, and a list of models that may fail."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.demo_question import ask, assert_answered, assert_usable, at, examine
from support.third_party import ThirdParty, free_port, third_party

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600), pytest.mark.engine]
LISTS = ("models fail", "models are listed")


@pytest.fixture(scope="module", params=LISTS)
def server(
    request: pytest.FixtureRequest, demo_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThirdParty]:
    command = shutil.which("transformers", path=sysconfig.get_path("scripts"))
    if command is None:
        pytest.skip("transformers is not installed (python -m agentinfer_lg.serving.engine.install)")
    folder, port = tmp_path_factory.mktemp("transformers"), free_port()
    home = folder / "hub-home"
    if request.param == "models are listed":
        (home / "hub").mkdir(parents=True)  # without this folder the list of models is an error
    with third_party(
        [command, "serve", str(demo_model_folder), "--host", "127.0.0.1", "--port", str(port)],
        port=port,
        model=str(demo_model_folder),
        folder=folder,
        ready="/health",
        # One thread each: threads that wait for a busy core slow a small model down more than a second one helps.
        variables={"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    ) as started:
        yield started


def test_the_demo_question_is_answered(server: ThirdParty, tmp_path: Path) -> None:
    assert_answered(ask(at(server.base_url, server.model, folder=tmp_path), timeout=1_200))


def test_doctor_finds_it_usable(server: ThirdParty, tmp_path: Path) -> None:
    assert_usable(examine(at(server.base_url, server.model, folder=tmp_path)))
