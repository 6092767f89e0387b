"""Symbols of a package as its source defines them; nothing is imported, so that any version can be looked at."""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A symbol."""

    signature: str = ""
    """Parameters as the source has them; empty for a variable or a class."""
    parameters: tuple[str, ...] = ()
    """Names of a function's parameters, without `self`."""
    required: frozenset[str] = frozenset()
    """Those of them that have no default."""
    fingerprint: str = ""
    """Stands for the code of a function or class, whatever its comments and layout; empty for a variable."""


class SourceTree:
    """The source of a package; files are read when they are asked for."""

    def __init__(self, *roots: Path) -> None:
        """Look at a package.

        Args:
            roots: Its folders; the first one that has a file counts.
        """
        self._roots = roots
        self._files: dict[str, dict[str, Definition]] = {}

    def find(self, file: str, name: str) -> Definition | None:
        """Return how a symbol is defined, or None if it is not.

        Args:
            file: Where, relative to the package.
            name: A function, a class or a variable of the module, or `Class.member`. Members are methods, fields, and what
                methods assign to `self`; those of base classes in the same file count too.
        """
        if file not in self._files:
            self._files[file] = self._read(file)
        return self._files[file].get(name)

    def _read(self, file: str) -> dict[str, Definition]:
        path = next((root / file for root in self._roots if (root / file).is_file()), None)
        if path is None:
            return {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a string in somebody else's code
                module = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):  # written for a newer Python, or no text
            return {}
        return dict(_definitions(module))


def _definitions(module: ast.Module) -> Iterator[tuple[str, Definition]]:
    members: dict[str, dict[str, Definition]] = {}
    for name, node in _named(module.body):
        yield name, _define(node)
        if isinstance(node, ast.ClassDef):
            inherited = [members.get(base.id, {}) for base in node.bases if isinstance(base, ast.Name)]
            own = {member: _define(part) for member, part in _members(node)}
            members[name] = {
                key: value for known in (*reversed(inherited), own) for key, value in known.items()
            }
            yield from ((f"{name}.{member}", found) for member, found in members[name].items())


def _named(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Yield what statements define; of an `if` or `try` whatever any branch defines."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node
            case ast.Assign():
                yield from ((target.id, node) for target in node.targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node
            case ast.If() | ast.Try() | ast.With():
                handlers = [part for handler in getattr(node, "handlers", ()) for part in handler.body]
                others = [part for name in ("orelse", "finalbody") for part in getattr(node, name, ())]
                yield from _named([*node.body, *handlers, *others])


def _members(node: ast.ClassDef) -> Iterator[tuple[str, ast.AST]]:
    for method in node.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in ast.walk(method):
                targets = part.targets if isinstance(part, ast.Assign) else [getattr(part, "target", None)]
                for target in targets:
                    match target:
                        case ast.Attribute(value=ast.Name(id="self"), attr=name):
                            yield name, part
    yield from _named(node.body)


def _define(node: ast.AST) -> Definition:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            plain = [*node.args.posonlyargs, *node.args.args]
            named = [*plain, *node.args.kwonlyargs]
            missing = len(plain) - len(node.args.defaults)
            required = {argument.arg for argument in plain[:missing]}
            for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
                required |= {argument.arg} if default is None else set()
            names = tuple(argument.arg for argument in named if argument.arg not in ("self", "cls"))
            return Definition(
                signature=f"({ast.unparse(node.args)})",
                parameters=names,
                required=frozenset(required & set(names)),
                fingerprint=_fingerprint(node),
            )
        case ast.ClassDef():
            return Definition(fingerprint=_fingerprint(node))
        case _:
            return Definition()


def _fingerprint(node: ast.AST) -> str:
    return hashlib.sha256(ast.dump(node).encode()).hexdigest()
