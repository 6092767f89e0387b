"""Commands loaded from tables: every name is there, and a wrong one gets a suggestion."""

import importlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer

from agentinfer_lg.cli import COMMANDS, bench, main
from agentinfer_lg.cli import eval as evaluation
from agentinfer_lg.cli.command_table import CommandTable, command_table

ROOT = Path(__file__).parents[2]
TABLES: Mapping[str, Mapping[str, str]] = {
    "": COMMANDS,
    "bench": bench.COMMANDS,
    "eval": evaluation.COMMANDS,
}
NAMES = [pytest.param(group, name, id=f"{group} {name}") for group, table in TABLES.items() for name in table]


def _shown(capsys: pytest.CaptureFixture[str]) -> str:
    shown = capsys.readouterr()
    return " ".join((shown.out + shown.err).replace("│", " ").split())


@pytest.mark.parametrize(("group", "name"), NAMES)
def test_the_module_of_each_name_has_the_command(group: str, name: str) -> None:
    module = importlib.import_module(TABLES[group][name])
    command = typer.main.get_group(module.app)
    if f"{group} {name}" in (" bench", " eval"):
        assert isinstance(command, CommandTable)
    else:
        assert name in command.commands


@pytest.mark.parametrize("group", TABLES)
def test_help_lists_every_command(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*group.split(), "--help"])
    assert stop.value.code == 0
    listed = {line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("│ ")}
    assert set(TABLES[group]) <= listed


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        (["reserch"], "research"),
        (["bench", "granularty"], "granularity"),
        (["bench", "shed"], "sched"),
        (["eval", "hotpot"], "hotpotqa"),
    ],
)
def test_a_wrong_name_gets_a_suggestion(
    wrong: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(wrong)
    assert stop.value.code == 2
    shown = _shown(capsys)
    assert f"No such command '{wrong[-1]}'. Did you mean" in shown
    assert f"'{meant}'" in shown


def test_a_name_like_no_other_gets_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "zzzz"])
    assert stop.value.code == 2
    shown = _shown(capsys)
    assert "No such command 'zzzz'." in shown
    assert "Did you mean" not in shown


def test_only_the_module_of_the_called_command_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "import typer\n"
        "app = typer.Typer()\n"
        "@app.command(name='NAME')\n"
        "def command() -> None: typer.echo('NAME ran')\n"
    )
    for name in ("first", "second"):
        (tmp_path / f"table_{name}.py").write_text(text.replace("NAME", name))
    monkeypatch.syspath_prepend(tmp_path)
    table = command_table({"first": "table_first", "second": "table_second"})
    app = typer.Typer(cls=table)
    app.callback()(lambda: None)
    with pytest.raises(SystemExit) as stop:
        app(["second"])
    assert stop.value.code == 0
    assert "table_second" in sys.modules
    assert "table_first" not in sys.modules
    monkeypatch.delitem(sys.modules, "table_second")


def test_calling_one_study_imports_no_other() -> None:
    code = (
        "import sys\n"
        "from agentinfer_lg.cli import main\n"
        "try: main(['bench', 'price', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(n for n in sys.modules if n.startswith('agentinfer_lg.evals.') and n.endswith('.command')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == f"[{bench.COMMANDS['price']!r}]"
