"""What a source tells of its symbols."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentinfer_lg.serving.compat.sources import Definition, SourceTree

SOURCE = """
try:
    import fast
except ImportError:
    def from_a_branch(a): ...

LIMIT: int = 3
first = second = 4

def free(a, b=1, *, c, d=2): ...

class Base:
    kept: int
    def __init__(self, size):
        self.size = size
        self.count: int = 0
        other.foreign = 1
    def shared(self, x): ...

class Child(Base):
    @property
    def shown(self): ...
    def shared(self, x, y): ...
    def grow(self):
        self.size += 1
        for self.index in range(3): ...
"""


@pytest.fixture
def tree(tmp_path: Path) -> SourceTree:
    (tmp_path / "m.py").write_text(SOURCE)
    return SourceTree(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "from_a_branch",
            "LIMIT",
            "first",
            "second",
            "free",
            "Base",
            "Base.kept",
            "Base.size",
            "Base.count",
        ),
        *("Base.shared", "Child.shown", "Child.size", "Child.kept", "Child.index"),
    ],
)
def test_what_is_defined_is_found(tree: SourceTree, name: str) -> None:
    assert tree.find("m.py", name) is not None


@pytest.mark.parametrize("name", ["fast", "Base.foreign", "Base.shown", "Base.x", "kept", "Other.size", ""])
def test_what_is_not_defined_is_not_found(tree: SourceTree, name: str) -> None:
    assert tree.find("m.py", name) is None


def test_parameters(tree: SourceTree) -> None:
    found = tree.find("m.py", "free")
    assert found is not None
    assert found.signature == "(a, b=1, *, c, d=2)"
    assert found.parameters == ("a", "b", "c", "d")
    assert found.required == {"a", "c"}


def test_a_method_is_that_of_the_nearest_class_and_without_self(tree: SourceTree) -> None:
    of_base, of_child = (tree.find("m.py", f"{name}.shared") for name in ("Base", "Child"))
    assert of_base is not None
    assert of_child is not None
    assert (of_base.parameters, of_child.parameters) == (("x",), ("x", "y"))


@pytest.mark.parametrize(
    ("source", "same"),
    [
        ("def f(a):\n    return a + 1  # why\n", True),
        ("def f( a ):\n\n    return (a + 1)\n", True),
        ("def f(a):\n    return a + 2\n", False),
        ("def f(a, b=0):\n    return a + 1\n", False),
    ],
)
def test_a_fingerprint_stands_for_the_code_and_not_for_its_layout(
    tmp_path: Path, source: str, same: bool
) -> None:
    found: list[Definition | None] = []
    for name, text in (("one", "def f(a):\n    return a + 1\n"), ("two", source)):
        (tmp_path / f"{name}.py").write_text(text)
        found.append(SourceTree(tmp_path).find(f"{name}.py", "f"))
    assert found[0] is not None
    assert found[1] is not None
    assert (found[0].fingerprint == found[1].fingerprint) is same


@pytest.mark.parametrize(
    "content",
    [b"def f(:", b"\xff\xfe\x00", b"x = '\x00'", None],
    ids=["no Python", "no text", "zero", "none"],
)
def test_a_file_that_cannot_be_read_defines_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "m.py").write_bytes(content)
    assert SourceTree(tmp_path).find("m.py", "f") is None


def test_the_first_folder_that_has_the_file_counts(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.py").write_text(f"only_in_{name} = 1\n")
    (tmp_path / "two" / "n.py").write_text("more = 1\n")
    tree = SourceTree(tmp_path / "one", tmp_path / "two")
    found = [
        tree.find(*place) is not None
        for place in (("m.py", "only_in_one"), ("m.py", "only_in_two"), ("n.py", "more"))
    ]
    assert found == [True, False, True]


def test_source_that_python_warns_of_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("pattern = '\\d'\n")
    assert SourceTree(tmp_path).find("m.py", "pattern") is not None
