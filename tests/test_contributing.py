"""CONTRIBUTING.md lists what one needs to know to change an algorithm; the list stays short, and its names exist."""

import inspect
import re
from pathlib import Path

import pytest

import offline_rl.agent
from offline_rl.algos import td3_bc
from offline_rl.networks import Critic

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
SECTION = TEXT.split("## What you need to know to change an algorithm")[1].split("\n## ")[0]
NUMBERED = re.findall(r"^(\d+)\. (?:`(\w+))?", SECTION, re.MULTILINE)
FIRST_NAMES = [name for _, name in NUMBERED if name] + re.findall(r"^\* `(?:self\.)?(\w+)", SECTION, re.MULTILINE)


def test_the_list_has_at_most_eighteen_entries():
    assert [int(number) for number, _ in NUMBERED] == list(range(1, len(NUMBERED) + 1))
    assert 10 < len(NUMBERED) <= 18


@pytest.mark.parametrize("name", FIRST_NAMES)
def test_what_the_list_names_exists(name):
    """Broken by a name that was changed in the code and not here."""
    agent = td3_bc.TD3BC(td3_bc.Config(hidden_dims=[4]), 3, 2)
    homes = (agent, agent.critic, agent.critic.mlp, offline_rl.agent, td3_bc)
    assert any(hasattr(home, name) for home in homes) or name in inspect.signature(Critic).parameters
