"""Stand-ins for what vLLM-Ascend imports on a machine with NPUs, so that its Python can be imported without one."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
import types
from collections.abc import Sequence
from typing import Any
from unittest.mock import MagicMock

__all__ = ("ChangedSources", "install", "start_worker")

ALWAYS = ("torch_npu", "acl", "mooncake")
"""Packages of the hardware: never the real ones, even where they are installed."""
WHERE_MISSING = ("triton", "scipy", "torchvision", "torchaudio", "cv2", "psutil", "xlite", "memcache_hybrid")
"""Packages of which nothing is computed here."""


class _Stub(types.ModuleType):
    """A package that has every name."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, roots: frozenset[str]) -> None:
        self._roots = roots

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in self._roots:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to run."""


class ChangedSources(importlib.abc.MetaPathFinder):
    """Loads the modules of a package as if their sources were others.

    Args:
        package: Name of the package.
        old: Pattern of what is replaced.
        new: What it is replaced by.
    """

    def __init__(self, package: str, old: str, new: str) -> None:
        self._package, self._old, self._new = package, old, new

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != self._package:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _ChangedLoader(fullname, spec.origin, self._old, self._new)
        return spec


class _ChangedLoader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, old: str, new: str) -> None:
        super().__init__(fullname, path)
        self._old, self._new = old, new

    def get_code(self, fullname: str) -> types.CodeType:
        source = self.get_data(self.path).decode()
        code: types.CodeType = self.source_to_code(re.sub(self._old, self._new, source), self.path)
        return code


def install() -> None:
    """Put the stand-ins in place and import Ascend's model runner as its worker does."""
    sys.meta_path.insert(0, _Finder(frozenset(ALWAYS)))
    import torch

    torch.utils.rename_privateuse1_backend("npu")
    torch.npu = MagicMock(name="torch.npu")  # type: ignore[attr-defined]
    torch.distributed.is_hccl_available = lambda: True
    for asking in ("numba", "transformers.models.auto.image_processing_auto"):
        importlib.import_module(asking)  # they ask for versions of what is installed
    missing = {name for name in WHERE_MISSING if importlib.util.find_spec(name) is None}
    sys.meta_path.insert(0, _Finder(frozenset(missing)))
    importlib.import_module("vllm_ascend.utils").adapt_patch(is_global_patch=True)
    importlib.import_module("vllm_ascend.ops")
    importlib.import_module("vllm_ascend.worker.worker")
    # vLLM looks at a model it has not seen in a process of its own, which would not have the stand-ins.
    registry: Any = importlib.import_module("vllm.model_executor.models.registry")
    registry._run_in_subprocess = lambda look: look()


def start_worker(extension: str) -> Any:
    """Let vLLM prepare and make Ascend's worker.

    Args:
        extension: Full name of the class for `--worker-extension-cls`.
    """
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    classes = types.SimpleNamespace(
        worker_cls="vllm_ascend.worker.worker.NPUWorker", worker_extension_cls=extension
    )
    config = types.SimpleNamespace(
        parallel_config=classes,
        model_config=types.SimpleNamespace(multimodal_config=None),
        enable_trace_function_call_for_thread=lambda: None,
    )
    wrapper = WorkerWrapperBase(rpc_rank=0, global_rank=0)
    wrapper.init_worker([{"vllm_config": config}])
    return wrapper.worker
