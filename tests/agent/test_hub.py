import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.hub_server import running_hub

import offline_rl as orl
from offline_rl.agent.hub import FILES, model_card
from offline_rl.algos.td3_bc import TD3BC, Config
from offline_rl.training.evaluation import RAW_RETURNS, Evaluation


@pytest.fixture(scope="module")
def hub():
    with running_hub() as hub:
        yield hub


@pytest.fixture
def agent():
    agent = TD3BC(Config(hidden_dims=[8]), 3, 2, seed=7, steps=1234)
    agent.provenance = {
        "task": "hopper-medium-v2",
        "dynamics": "d4rl",
        "dataset": "hopper_medium",
        "fingerprint": "abc123",
        "versions": {"torch": "2.13.0", "mujoco": "4.0.0"},
    }
    return agent


class Visitor:
    """A fresh process whose Hub is ours, and which knows no other; it executes what it is told.

    Args:
        folder: Where it works.
        **environment: What it knows from the beginning.
    """

    LOOP = """
import contextlib, io, json, os, sys
import offline_rl as orl
for line in sys.stdin:
    code, environment = json.loads(line)
    os.environ.update(environment)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, {"orl": orl})
    print(json.dumps(said.getvalue().splitlines()), flush=True)
"""

    def __init__(self, folder, **environment):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        settings = {
            "HF_HOME": str(folder / "cache"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command, known = [sys.executable, "-c", self.LOOP], {**clean, **settings, **environment}
        self.folder, self._process = folder, subprocess.Popen(command, cwd=folder, env=known, **pipes)

    def __call__(self, code, **environment):
        """Execute code, from now on with these variables; return the lines that it prints."""
        self._process.stdin.write(f"{json.dumps([code, environment])}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.communicate(timeout=100)


@pytest.fixture(scope="module")
def visitor(hub, tmp_path_factory):
    with contextlib.closing(Visitor(tmp_path_factory.mktemp("visitor"), HF_ENDPOINT=hub.address)) as visitor:
        yield visitor


LOAD = "agent = orl.load_agent('hf://somebody/hopper'{})\nprint(agent.act([1, 2, 3]).tolist())\n"
SAY = "try:\n    {}\nexcept orl.AgentError as error:\n    print(error)\n"


def test_an_agent_goes_up_and_comes_down_again(hub, visitor, agent, tmp_path):
    agent.save(visitor.folder / "mine")
    (address,) = visitor("print(orl.load_agent('mine').push_to_hub('somebody/hopper'))", HF_TOKEN="hf_good")
    assert address.startswith(f"{hub.address}/somebody/hopper/commit/")
    (files,) = hub.repositories["somebody/hopper"]
    assert set(files) == {*FILES, "README.md"}
    assert all(files[name] == (visitor.folder / "mine" / name).read_bytes() for name in FILES)
    card = files["README.md"].decode()
    assert "hopper-medium-v2" in card
    assert "abc123" in card

    # A later commit with another agent, and with a file that nobody asked for.
    other = TD3BC(Config(hidden_dims=[8]), 3, 2, seed=8)
    other.save(tmp_path / "other")
    newer = {name: (tmp_path / "other" / name).read_bytes() for name in FILES}
    hub.repositories["somebody/hopper"].append({**files, **newer, "setup.py": b"raise SystemExit"})
    first = hub.sha_of("somebody/hopper", 0)
    hub.requests.clear()
    newest, oldest, said = visitor(
        LOAD.format("") + LOAD.format(f", revision={first!r}") + SAY.format("orl.load_agent('mine', revision='main')")
    )
    assert np.allclose(eval(newest), other.act([1, 2, 3]))
    assert np.allclose(eval(oldest), agent.act([1, 2, 3]))
    assert "mine is a folder, which has no revisions" in said
    read = {path.rsplit("/", 1)[1] for _, path in hub.requests if "/resolve/" in path}
    assert read == set(FILES)

    # What was read once is there without a network; what was not gives one sentence.
    with contextlib.closing(Visitor(visitor.folder, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")) as offline:
        action, said = offline(LOAD.format("") + SAY.format("orl.load_agent('hf://somebody/else')"))
    assert action == newest
    assert said.startswith("hf://somebody/else is not to be had from the Hugging Face Hub: it cannot be")
    assert "HF_HUB_OFFLINE is set" in said


def test_what_the_hub_refuses_is_one_sentence(hub, visitor, agent):
    agent.save(visitor.folder / "ours")
    hub.repositories["somebody/empty"] = [{"README.md": b"nothing"}]
    calls = [
        "orl.load_agent('hf://somebody/missing')",
        "orl.load_agent('hf://somebody/empty')",
        "orl.load_agent('hf://somebody/empty', revision='v9')",
        "orl.load_agent('ours').push_to_hub('somebody/hopper')",
        "orl.load_agent('ours').push_to_hub('hopper')",
        "orl.load_agent('hf://hopper')",
    ]
    missing, empty, revision, refused, unnamed, malformed = visitor("".join(map(SAY.format, calls)), HF_TOKEN="hf_bad")
    assert missing.startswith("hf://somebody/missing is not to be had from the Hugging Face Hub: there is")
    assert empty == "hf://somebody/empty has no agent.json, so it is no agent"
    assert revision.endswith(": it has no such revision")
    assert "the Hugging Face Hub did not take somebody/hopper" in refused
    assert "401" in refused
    assert unnamed == "'hopper' is no name on the Hugging Face Hub; give hf://user/name"
    assert malformed == "hf://hopper names no agent on the Hugging Face Hub; give hf://user/name"


@pytest.mark.parametrize("name", ["agents/seed-0", "nowhere", "a/b/c", "./a/b", "/a/b", "../a", "a/.."])
def test_a_path_with_a_mistake_in_it_asks_nobody(name, tmp_path, monkeypatch):
    """Broken by taking any path with one slash for a name on the Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # who asks fails
    with pytest.raises(orl.AgentError, match=r"^(there is no folder|.* holds no agent\.json)") as caught:
        orl.load_agent(name)
    assert ("give hf://agents/seed-0 for an agent on the Hugging Face Hub" in str(caught.value)) == ("seed" in name)


def test_a_folder_is_a_folder_whatever_it_is_called(agent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agent.save("somebody/hopper")
    assert orl.load_agent("somebody/hopper").seed == 7
    with pytest.raises(
        orl.AgentError, match=r"there is no folder somebody/hoper; did you mean hopper, or give hf://some"
    ):
        orl.load_agent("somebody/hoper")
    (tmp_path / "somebody" / "nothing").mkdir()
    with pytest.raises(orl.AgentError, match=r"holds no agent\.json"):
        orl.load_agent("somebody/nothing")


def test_without_the_extra_the_sentence_names_it(agent, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    extra = r'huggingface_hub is not installed; pip install "offline-rl-suite\[hub\]"'
    for name in ("hf://some/where", Path("hf://some/where")):
        with pytest.raises(orl.AgentError, match=f"^hf://some/where cannot be looked up: {extra}"):
            orl.load_agent(name)
    with pytest.raises(orl.AgentError, match=f"^{extra}"):
        agent.push_to_hub("some/where")


def test_the_model_card_says_where_an_agent_comes_from_and_what_it_is_worth(agent):
    played = Evaluation(returns=np.array([100.0, 300.0]), scores=np.array([3.0, 9.0]), lengths=np.array([50, 70]))
    card = model_card(agent.description(), "somebody/hopper", played)
    for fact in (
        "| task | hopper-medium-v2 |",
        "| dataset | hopper_medium |",
        "| dataset's fingerprint | abc123 |",
        "| dynamics | d4rl |",
        "| mujoco | 4.0.0 |",
        "| seed | 7 |",
        "| updates | 1,234 offline, 0 online |",
        "Normalised score **6.0**, return 200.0 ± 100.0, over 2 episodes of mean length 60.",
        'orl.load_agent("hf://somebody/hopper")',
    ):
        assert fact in card
    assert card.startswith('---\nlibrary_name: "offline-rl-suite"\ntags: [')
    raw = dataclasses.replace(played, scores=None, score_name=RAW_RETURNS)
    told = model_card(agent.description(), "somebody/hopper", raw)
    assert "Return 200.0 ± 100.0, over 2 episodes of mean length 60; raw returns, no score." in told
    own = dataclasses.replace(played, score_name="score (set's own)")
    assert "D4RL's reference returns" not in model_card(agent.description(), "somebody/hopper", own)
    assert "Not evaluated" in model_card(agent.description(), "somebody/hopper")


def test_a_card_names_the_entries_and_a_diverged_agent_is_not_uploaded(agent):
    names = dataclasses.replace(agent.preprocessing, observation_names=("temp", "flow|x", "level"))
    named = TD3BC(Config(hidden_dims=[8]), 3, 2, preprocessing=names)
    assert "| observation | temp, flow\\|x, level |" in model_card(named.description(), "somebody/hopper")
    agent.groups["actor"].flat[0] = np.nan
    with pytest.raises(orl.AgentError, match="td3_bc holds NaN or infinity in actor"):
        agent.push_to_hub("somebody/hopper")
