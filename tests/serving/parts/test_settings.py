"""How settings of the parts reach the engine: by vLLM's configuration, or by a variable."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.serving.engine.command import ServeOptions, build_command, part_notes
from agentinfer_lg.serving.engine.flags import settings_variable
from agentinfer_lg.serving.engine.machine import Machine
from agentinfer_lg.serving.parts.settings import VARIABLE, part_settings
from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.serving.sched.config import SchedConfig


def config(additional: object) -> SimpleNamespace:
    return SimpleNamespace(additional_config=additional)


class TestInTheEngine:
    @pytest.mark.parametrize(
        ("additional", "variable", "found"),
        [
            ({}, None, None),
            (None, "", None),
            (object(), '{"sam": {}}', None),
            ({"agentinfer": {"sched": {"gain": 2}}}, None, {"gain": 2}),
            ({"other": 1}, '{"sched": {"gain": 3}}', {"gain": 3}),
            (
                {"agentinfer": {"sched": {"gain": 2}}},
                '{"sched": {"gain": 3, "smoothing": 0.5}}',
                {"gain": 2, "smoothing": 0.5},
            ),
            ({"agentinfer": {"sched": 7}}, '{"sched": {"gain": 3}}', 7),
            ({"agentinfer": None}, '{"sched": "x"}', "x"),
        ],
    )
    def test_the_configuration_wins_setting_by_setting(
        self, additional: object, variable: str | None, found: object
    ) -> None:
        environ = {} if variable is None else {VARIABLE: variable}
        assert part_settings(config(additional), "sched", environ) == found

    @pytest.mark.parametrize(
        ("additional", "variable", "said"),
        [
            ({"agentinfer": []}, "", r"additional_config\['agentinfer'\] must be a JSON object, got list"),
            ({}, "{", "AGENTINFER_CONFIG is no JSON"),
            ({}, "3", "AGENTINFER_CONFIG must be a JSON object with the keys sam and sched"),
            ({}, '{"SAM": {}}', "AGENTINFER_CONFIG has no part SAM; there are sam, sched"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(
        self, additional: dict[str, Any], variable: str, said: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=said):
            part_settings(config(additional), "sam", {VARIABLE: variable})


def built(
    *extra: str, device: Any = "npu", environ: dict[str, str] | None = None, **options: Any
) -> tuple[str, dict[str, Any]]:
    """Return the command line, and the settings in the variable."""
    machine = Machine(python="python", environ=environ or {})
    command, variables = build_command(
        ServeOptions(model="owner/model", extra_args=extra, **options), device=device, machine=machine
    )
    return " ".join(command), json.loads(variables.get(VARIABLE, "{}"))


class TestOnTheCommandLine:
    def test_an_npu_gets_them_by_the_variable_and_others_by_the_configuration(self) -> None:
        options = {"sam": SamConfig(memory="off"), "sched": SchedConfig(max_wait_seconds=5)}
        settings = {"sam": {"memory": "off"}, "sched": {"max_wait_seconds": 5}}
        command, variable = built(**options)
        assert ("additional-config" in command, variable) == (False, settings)
        command, variable = built(device="cuda", **options)
        assert (json.dumps({"agentinfer": settings}) in command, variable) == (True, {})

    def test_where_all_is_default_there_is_none(self) -> None:
        command, variable = built(environ={VARIABLE: '{"sam": {"max_draft": 16}}'})
        assert ("additional-config" in command, variable) == (False, {})

    @pytest.mark.parametrize("device", ["cpu", "npu"])
    def test_flags_win_over_the_variable_and_the_users_configuration_over_both(self, device: str) -> None:
        environ = {
            VARIABLE: '{"sam": {"memory": "off", "top_k": 2}, "sched": {"gain": 3, "max_wait_seconds": 9}}'
        }
        theirs = '{"agentinfer": {"sam": {"top_k": 4}}}'
        command, variable = built(
            "--additional-config",
            theirs,
            device=device,
            environ=environ,
            sched=SchedConfig(max_wait_seconds=5),
        )
        settings = {"sam": {"memory": "off", "top_k": 4}, "sched": {"gain": 3, "max_wait_seconds": 5}}
        if device == "npu":
            assert ("agentinfer" in command.replace("agentinfer_lg", ""), variable) == (False, settings)
        else:
            passed = command.partition(" --additional-config ")[2]
            assert json.loads(passed) == {"agentinfer": settings}

    @pytest.mark.parametrize("part", ["sam", "sched"])
    def test_a_part_that_is_off_has_none(self, part: str) -> None:
        environ = {VARIABLE: '{"sam": {"top_k": 2}, "sched": {"gain": 3}}'}
        _, variable = built(environ=environ, **{part: None})
        assert list(variable) == [{"sam": "sched", "sched": "sam"}[part]]

    def test_a_wrong_variable_ends_the_start_with_a_sentence(self) -> None:
        machine = Machine(python="python", environ={VARIABLE: '{"sched": {"gain": 0}}'})
        for act in (build_command, part_notes):
            with pytest.raises(ConfigurationError, match="gain is a number above 0"):
                act(ServeOptions(model="m"), device="npu", machine=machine)

    @pytest.mark.parametrize(
        ("arguments", "left"),
        [
            (["--additional-config", '{"agentinfer": {"sam": {"top_k": 3}}, "x": 1}', "--y"], ["--y", "X"]),
            (['--additional_config={"agentinfer": {"sam": {"top_k": 3}}}', "--y"], ["--y"]),
            (["--additional-config.agentinfer.sam.top_k", "3", "--y"], ["--y"]),
            (["--additional_config.agentinfer.sam.top_k=3", "--y"], ["--y"]),
            (
                ["--additional-config.x.agentinfer", "3", "--additional-config.agentinfer.sam.top_k", "3"],
                ["--additional-config.x.agentinfer", "3"],
            ),
        ],
    )
    def test_what_the_user_says_about_us_moves_into_the_variable(
        self, arguments: list[str], left: list[str]
    ) -> None:
        moved = settings_variable({"sam": {"memory": "off"}}, arguments)
        assert json.loads(moved.variables[VARIABLE]) == {"sam": {"memory": "off", "top_k": 3}}
        rest = ["--additional-config", '{"x": 1}'] if "X" in left else []
        assert list(moved.extra_args) == [*(word for word in left if word != "X"), *rest]

    def test_what_is_no_object_or_in_a_file_stays_where_it_is(self, tmp_path: Path) -> None:
        file = tmp_path / "vllm.yaml"
        file.write_text('additional-config: {"agentinfer": {"sam": {"top_k": 3}}}\n')
        moved = settings_variable({}, ["--config", str(file)])
        assert json.loads(moved.variables[VARIABLE]) == {"sam": {"top_k": 3}}
        assert moved.extra_args == ("--config", str(file))
        broken = ("--additional-config", '{"agentinfer": 3}')
        assert settings_variable({}, broken).extra_args == broken
