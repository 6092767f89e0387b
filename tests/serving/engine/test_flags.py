"""What the user's arguments ask for, and how the settings of both parts join them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.serving.engine.command import ServeOptions, build_command, part_notes
from agentinfer_lg.serving.engine.flags import (
    given_additional_config,
    given_flags,
    merged,
    settings_flags,
)
from agentinfer_lg.serving.engine.machine import Machine
from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.serving.sched.config import SchedConfig

SETTINGS = {"sam": {"memory": "off", "top_k": 4}, "sched": {"gain": 2.0}}
JSON = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


class TestGivenFlags:
    def test_names_are_hyphenated_and_values_follow_or_are_attached(self) -> None:
        given = given_flags(["--max_num_seqs", "3", "--runner=generate", "--no-x", "--spec.y", "-1"])
        assert given == {"max-num-seqs": "3", "runner": "generate", "no-x": "", "spec": "", "1": ""}

    def test_arguments_win_over_the_file_and_only_its_outer_keys_count(self, tmp_path: Path) -> None:
        file = tmp_path / "serve.yaml"
        file.write_text("scheduler_cls: 'm.C'  # ours\nrunner: pooling\ncompilation-config:\n  port: 1\n")
        given = given_flags(["--config", str(file), "--runner", "generate"])
        assert given["scheduler-cls"] == "m.C"
        assert given["runner"] == "generate"
        assert "port" not in given


class TestGivenAdditionalConfig:
    @pytest.mark.parametrize(
        ("arguments", "config"),
        [
            ([], {}),
            (["--additional-config", '{"a": {"b": 1}}'], {"a": {"b": 1}}),
            (["--additional_config={}", '--additional_config={"a": 2}'], {"a": 2}),
            (
                ["--additional-config.a.b_c", "true", "--additional_config.a.d=x"],
                {"a": {"b_c": True, "d": "x"}},
            ),
            (
                ["--additional-config", '{"a": {"b": 1}}', "--additional-config.a.c", "2"],
                {"a": {"b": 1, "c": 2}},
            ),
            (["--additional-config", "nonsense"], {}),
            (["--additional-config", "[1]"], {}),
            (["--additional-config"], {}),
            (["--additional-config.a"], {"a": ""}),
        ],
    )
    def test_is_read_as_vllm_does(self, arguments: list[str], config: dict[str, object]) -> None:
        assert given_additional_config(arguments) == config

    @pytest.mark.parametrize(
        "text",
        ["additional-config:\n  a:\n    b: 1\n", 'port: 1\nadditional_config: \'{"a": {"b": 1}}\'\n'],
        ids=["nested", "json"],
    )
    def test_may_be_in_a_file(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "vllm.yaml"
        file.write_text(text)
        assert given_additional_config(["--config", str(file)]) == {"a": {"b": 1}}
        assert given_additional_config(["--config", str(file), "--additional-config", "{}"]) == {}

    @pytest.mark.parametrize("text", ["additional-config: [1", "- additional-config:\n", ""])
    def test_a_file_that_vllm_refuses_has_none(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "vllm.yaml"
        file.write_text(text)
        assert given_additional_config(["--config", str(file)]) == {}
        assert given_additional_config(["--config", str(tmp_path / "missing")]) == {}


class TestSettings:
    @pytest.mark.parametrize("attached", [True, False])
    def test_of_both_parts_join_those_of_the_user_who_wins(self, attached: bool) -> None:
        theirs = json.dumps({"x": {"y": 1}, "agentinfer": {"sam": {"top_k": 2}, "sched": {"gain": 9}}})
        user = (f"--additional_config={theirs}",) if attached else ("--additional-config", theirs)
        settings = settings_flags(SETTINGS, ("--port", "1", *user, "--seed", "2"))
        ((name, value),) = settings.flags
        assert name == "additional-config"
        assert json.loads(value) == {
            "x": {"y": 1},
            "agentinfer": {"sam": {"memory": "off", "top_k": 2}, "sched": {"gain": 9}},
        }
        assert settings.extra_args == ("--port", "1", "--seed", "2")

    def test_join_dotted_ones_as_dotted_ones(self) -> None:
        extra = ("--additional_config.x", "1")
        settings = settings_flags(SETTINGS, extra)
        assert dict(settings.flags) == {
            "additional-config.agentinfer.sam.memory": '"off"',
            "additional-config.agentinfer.sam.top_k": "4",
            "additional-config.agentinfer.sched.gain": "2.0",
        }
        assert settings.extra_args == extra

    def test_that_are_defaults_add_nothing(self) -> None:
        extra = ("--additional-config", "nonsense")
        settings = settings_flags({"sam": {}, "sched": {}}, extra)
        assert (settings.flags, settings.extra_args, settings.left_out) == ((), extra, "")

    @pytest.mark.parametrize("value", ["nonsense", "[1]", "null"])
    def test_are_left_out_where_the_users_is_no_object(self, value: str) -> None:
        extra = ("--additional-config", value)
        settings = settings_flags(SETTINGS, extra)
        assert (settings.flags, settings.extra_args) == ((), extra)
        assert "no JSON object" in settings.left_out

    def test_do_not_replace_those_of_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "serve.yaml"
        file.write_text("additional_config: {'x': 1}\n")
        settings = settings_flags(SETTINGS, ("--config", str(file)))
        assert settings.flags == ()
        assert "--config" in settings.left_out

    @given(OBJECTS, OBJECTS)
    def test_joining_keeps_everything_of_the_user(
        self, ours: dict[str, object], theirs: dict[str, object]
    ) -> None:
        joined = merged(ours, theirs)
        assert joined.keys() == ours.keys() | theirs.keys()
        assert merged(joined, theirs) == joined
        for key in ours.keys() - theirs.keys():
            assert joined[key] == ours[key]
        for key, value in theirs.items():
            if not isinstance(value, dict):
                assert joined[key] == value


class TestCommand:
    @pytest.fixture(autouse=True)
    def able_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("agentinfer_lg.serving.parts.choice.engine_obstacle", lambda: "")
        monkeypatch.setattr("agentinfer_lg.serving.parts.choice.scheduler_obstacle", lambda model: "")

    def build(self, *extra: str, sched: SchedConfig | None, sam: SamConfig | None) -> list[str]:
        options = ServeOptions(model="m", sam=sam, sched=sched, extra_args=extra)
        return build_command(options, device="cpu", machine=Machine(python="python"))[0]

    def test_takes_one_additional_config(self) -> None:
        user = ("--additional-config", '{"agentinfer": {"sched": {"gain": 3}}}', "--port", "1")
        sam, sched = SamConfig(memory="off"), SchedConfig(gain=1, max_wait_seconds=5)
        command = self.build(*user, sam=sam, sched=sched)
        assert sum("additional" in part for part in command) == 1
        assert json.loads(command[command.index("--additional-config") + 1])["agentinfer"] == {
            "sam": {"memory": "off"},
            "sched": {"gain": 3, "max_wait_seconds": 5},
        }
        assert command[-2:] == ["--port", "1"]

    def test_parts_are_switched_off_one_by_one(self) -> None:
        only_sched = self.build(sam=None, sched=SchedConfig())
        assert "--scheduler-cls" in only_sched
        assert "--speculative-config" not in only_sched
        only_sam = self.build(sam=SamConfig(), sched=None)
        assert "--scheduler-cls" not in only_sam
        assert "--speculative-config" in only_sam
        assert not [part for part in self.build(sam=None, sched=None) if "agentinfer" in part]

    def test_says_where_settings_are_left_out(self) -> None:
        options = ServeOptions(
            model="m", sam=SamConfig(memory="off"), extra_args=("--additional-config", "nonsense")
        )
        notes = part_notes(options, device="cpu", machine=Machine(python="python"))
        assert any("left out: --additional-config is no JSON object." in note for note in notes)
