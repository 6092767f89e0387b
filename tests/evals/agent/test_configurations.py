"""Configurations: each part has a switch of its own, in the agent or in the servers, and nothing else changes."""

import pytest
from support.fake_engines import PAIR

from agentinfer_lg.context import Context
from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.agent.configurations import CONFIGURATIONS, Configuration, Part, find_configuration
from agentinfer_lg.evals.agent.engines import AgentEngines, EnginePair, TierEngine
from agentinfer_lg.serving.engine.command import build_command
from agentinfer_lg.serving.engine.machine import Machine
from agentinfer_lg.settings import Tier

MACHINE = Machine(python="python", memory_gib=16)

PARTS: dict[str, set[Part]] = {
    "one-shot": set(),
    "baseline": set(),
    "+collab": {"collab"},
    "+compress": {"collab", "compress"},
    "+sched": {"collab", "compress", "sched"},
    "all": {"collab", "compress", "sched", "sam"},
    "all-collab": {"compress", "sched", "sam"},
    "all-compress": {"collab", "sched", "sam"},
    "all-sched": {"collab", "compress", "sam"},
}
OFF = {"policy": "always-large", "compression": "off", "search_filter": "off"}
KNOBS: dict[Part, dict[str, str]] = {
    "collab": {"policy": "agentcollab"},
}
FLAGS: dict[Part, set[str]] = {
    "sched": {"--scheduler-cls"},
    "sam": {"--speculative-config", "--worker-extension-cls", "--additional-config"},
}
"""What each part adds to the command of a server."""


def command(tier: Tier, configuration: Configuration, pair: EnginePair = PAIR) -> list[str]:
    return build_command(pair.serve_options(tier, configuration), device="cpu", machine=MACHINE)[0]


def flags_of(tier: Tier, configuration: Configuration) -> set[str]:
    return {argument for argument in command(tier, configuration) if argument.startswith("--")}


def _wanted(parts: set[Part]) -> dict[str, str]:
    wanted = OFF.copy()
    for part in parts:
        wanted |= KNOBS.get(part, {})
    if "compress" in parts:  # how it works is the caller's choice
        del wanted["compression"], wanted["search_filter"]
    return wanted


def test_there_are_these_configurations() -> None:
    assert {name: set(each.parts) for name, each in CONFIGURATIONS.items()} == PARTS
    assert [each.name for each in CONFIGURATIONS.values()] == list(PARTS)
    assert [name for name, each in CONFIGURATIONS.items() if not each.agent] == ["one-shot"]


@pytest.mark.parametrize("name", PARTS)
def test_knobs_are_those_of_the_parts(name: str) -> None:
    knobs = find_configuration(name).knobs()
    assert knobs == _wanted(PARTS[name])
    defaults = Context.model_validate(knobs)
    assert (defaults.compression == "off") is ("compress" not in PARTS[name])
    assert (defaults.search_filter == "off") is ("compress" not in PARTS[name])


@pytest.mark.parametrize("name", PARTS)
def test_without_agentcollab_there_is_no_small_model(name: str) -> None:
    assert find_configuration(name).tiers == (("small", "large") if "collab" in PARTS[name] else ("large",))


@pytest.mark.parametrize("tier", ["small", "large"])
@pytest.mark.parametrize("name", PARTS)
def test_a_server_differs_from_the_plain_one_by_its_parts_only(name: str, tier: Tier) -> None:
    plain = command(tier, Configuration(name="plain"))
    assert not {"--scheduler-cls", "--speculative-config", "--worker-extension-cls"} & set(plain)
    mine = command(tier, find_configuration(name))
    assert mine[: len(plain)] == plain
    added = {argument for argument in mine[len(plain) :] if argument.startswith("--")}
    assert added == {flag for part in PARTS[name] for flag in FLAGS.get(part, set())}


@pytest.mark.parametrize("part", ["collab", "compress", "sched", "sam"])
@pytest.mark.parametrize("tier", ["small", "large"])
def test_a_part_alone_switches_itself_alone(part: Part, tier: Tier) -> None:
    alone = Configuration(name="alone", parts=frozenset({part}))
    added = flags_of(tier, alone) - flags_of(tier, Configuration(name="plain"))
    assert added == FLAGS.get(part, set())
    assert alone.knobs() == _wanted({part})


def test_what_agentsam_learns_is_not_kept_for_the_next_server() -> None:
    options = PAIR.serve_options("large", find_configuration("all"))
    assert options.sam is not None
    assert options.sam.memory == "off"


def test_a_tier_is_served_as_asked() -> None:
    pair = EnginePair(
        small=TierEngine(model="owner/small", kv_cache_gib=2.0, args=("--seed", "7")),
        large=TierEngine(model="owner/large"),
        max_model_len=4096,
    )
    small, large = (pair.serve_options(tier, find_configuration("all")) for tier in ("small", "large"))
    assert (small.model, small.served_model_name, small.kv_cache_gib) == ("owner/small", "small", 2.0)
    assert (large.model, large.served_model_name, large.kv_cache_gib) == ("owner/large", "large", None)
    assert small.max_model_len == large.max_model_len == 4096
    assert command("small", find_configuration("all"), pair)[-2:] == ["--seed", "7"]
    assert "--seed" not in command("large", find_configuration("all"), pair)


def test_values_of_variables_are_not_written_down() -> None:
    pair = EnginePair(
        small=TierEngine(model="m", environment={"HF_TOKEN": "hidden", "A": "1"}), large=TierEngine(model="m")
    )
    assert pair.to_json()["small"]["environment"] == ["A", "HF_TOKEN"]
    assert "hidden" not in str(pair.to_json())


def test_an_unknown_configuration_is_named_with_those_there_are() -> None:
    with pytest.raises(
        UserInputError, match=r"no configuration 'al'. There are: one-shot, baseline, \+collab"
    ):
        find_configuration("al")


def test_the_agent_uses_these_endpoints_and_nothing_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AGENTINFER_SMALL__BASE_URL", "http://elsewhere/v1")
    monkeypatch.setenv("AGENTINFER_LARGE__API_KEY", "another")
    monkeypatch.setenv("AGENTINFER_DOCS", "/elsewhere")
    settings = AgentEngines(urls={"large": "http://here/v1"}).settings()
    for tier in ("small", "large"):
        endpoint = settings.endpoint(tier)
        assert (endpoint.base_url, endpoint.model, endpoint.hints) == ("http://here/v1", "large", "on")
        assert endpoint.tool_calling == "json"
        assert endpoint.api_key.get_secret_value() == ""
    assert settings.docs is None
    both = AgentEngines(urls={"small": "http://a/v1", "large": "http://b/v1"}).settings()
    assert (both.endpoint("small").base_url, both.endpoint("large").base_url) == (
        "http://a/v1",
        "http://b/v1",
    )
