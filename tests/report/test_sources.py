"""What a source is known by."""

import pytest

from agentinfer_lg.report.sources import same_uri, source_key


def test_source_key_is_stable() -> None:
    assert source_key("https://a.org/rain") == "3a2ea15978a2"
    assert len(source_key("\ud800")) == 12


@pytest.mark.parametrize(
    ("uri", "other"),
    [
        ("https://a.org/rain", "HTTPS://A.org/rain/"),
        ("https://a.org/rain#wet", "https://a.org/rain"),
        ("https://a.org/%E5%8C%97", "https://a.org/北"),
        ("./notes/oslo.md", "notes/oslo.md"),
    ],
)
def test_spellings_of_one_address(uri: str, other: str) -> None:
    assert same_uri(uri) == same_uri(other)


def test_other_addresses() -> None:
    assert same_uri("https://a.org/rain?x=1") != same_uri("https://a.org/rain")
    assert same_uri("https://a.org/Rain") != same_uri("https://a.org/rain"), "a path is what it is"
