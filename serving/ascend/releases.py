"""Releases of vLLM-Ascend that are known, and what each belongs together with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release of vLLM-Ascend and the versions of other packages that it is made for."""

    vllm_ascend: str
    vllm: str
    torch: str
    torch_npu: str
    cann: str


RELEASES = (
    Release(
        vllm_ascend="0.23.0",
        vllm="0.23.0",
        torch="2.10.0",
        torch_npu="2.10.0.post4",
        cann="9.1.0",
    ),
    Release(
        vllm_ascend="0.23.0.post1",
        vllm="0.23.0",
        torch="2.10.0",
        torch_npu="2.10.0.post4",
        cann="9.1.0",
    ),
    Release(
        vllm_ascend="0.28.0rc1",
        vllm="0.28.0",
        torch="2.10.0",
        torch_npu="2.10.0.post4",
        cann="9.1.0",
    ),
    Release(
        vllm_ascend="0.29.0rc1",
        vllm="0.29.0",
        torch="2.10.0",
        torch_npu="2.10.0.post4",
        cann="9.1.0",
    ),
    Release(
        vllm_ascend="0.30.0rc2",
        vllm="0.30.0",
        torch="2.10.0",
        torch_npu="2.10.0.post4",
        cann="9.2.0",
    ),
)
"""Those that `tests/serving/ascend/test_contract.py` has driven, oldest first; versions as each release itself says."""


def known_release(vllm_ascend: str) -> Release | None:
    """Return the release with that version, without what follows a `+`; None if it is not known."""
    version = vllm_ascend.partition("+")[0]
    return next((release for release in RELEASES if release.vllm_ascend == version), None)
