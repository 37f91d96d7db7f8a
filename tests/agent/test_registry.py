"""Algorithms are found where they lie: a file in ``algos/``, or an entry point of another package."""

import importlib.metadata
import sys

import pytest

import offline_rl.algos
from offline_rl.agent import algorithms, find_algorithm
from offline_rl.errors import AgentError

SMALL = "from offline_rl.algos.bc import BC\n\nclass Mine(BC):\n    name = 'mine'\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give a folder whose files are algorithms, too."""
    monkeypatch.setattr(offline_rl.algos, "__path__", [*offline_rl.algos.__path__, str(tmp_path)])
    algorithms.cache_clear()
    yield tmp_path
    algorithms.cache_clear()
    for name in ("mine", "empty", "big", "big.agent"):
        sys.modules.pop(f"offline_rl.algos.{name}", None)


def test_a_file_is_an_algorithm(folder):
    (folder / "mine.py").write_text(SMALL)
    assert "mine" in algorithms()
    assert find_algorithm("mine").name == "mine"


def test_a_folder_with_an_agent_is_an_algorithm_and_one_without_is_none(folder):
    for name in ("big", "parts"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("")
    (folder / "big" / "agent.py").write_text(SMALL.replace("mine", "big"))
    assert find_algorithm("big").name == "big"
    assert not {"parts", "tabular"} & set(algorithms())


def test_a_file_without_an_algorithm_of_its_name_is_named(folder):
    (folder / "empty.py").write_text(SMALL)
    with pytest.raises(AgentError, match=r"offline_rl.algos.empty has no class that extends Agent .* name 'empty'"):
        find_algorithm("empty")


def registered(monkeypatch, *points):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [*points])
    algorithms.cache_clear()


def test_another_package_may_not_take_a_name(folder, monkeypatch):
    registered(monkeypatch, importlib.metadata.EntryPoint("iql", "theirs:IQL", "offline_rl.algos"))
    with pytest.raises(AgentError, match="theirs:IQL is registered as 'iql', a name that is taken; choose another"):
        algorithms()


def test_what_an_older_version_registered_of_ours_is_no_other_package(folder, monkeypatch):
    registered(monkeypatch, importlib.metadata.EntryPoint("iql", "offline_rl.algos.iql:IQL", "offline_rl.algos"))
    assert find_algorithm("iql").__name__ == "IQL"
