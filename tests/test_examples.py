import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import offline_rl as orl

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_a_loop_of_your_own_learns_to_go_home(tmp_path):
    script = str(EXAMPLES / "own_loop.py")
    subprocess.run([sys.executable, script], check=True, cwd=tmp_path, capture_output=True)
    agent = orl.load_agent(tmp_path / "runs" / "own-loop")
    corners = np.array([[0.8, 0.8], [-0.8, 0.8], [0.8, -0.8], [-0.8, -0.8]])
    assert (np.sign(agent.act(corners)) == -np.sign(corners)).all()


def test_what_is_learned_from_a_controllers_log_beats_the_controller_and_its_best_day(tmp_path):
    script = [sys.executable, str(EXAMPLES / "own_data.py")]
    printed = subprocess.run(script, check=True, cwd=tmp_path, capture_output=True, text=True).stdout
    _, best = map(float, re.search(r"earned (.*) on average, the best (.*), of", printed).groups())
    controller = float(re.search(r"the controller earns (\S+)", printed)[1])
    agent = float(re.search(r"the agent earns (\S+)", printed)[1])
    assert controller < best < agent
    dataset = orl.load_dataset(tmp_path / "tank.csv")
    assert 0 < dataset.terminated.sum() < len(dataset.episode_returns), "some days end early"
    with (tmp_path / "tank.csv").open() as file:
        rows = len(file.readlines()) - 1
    cut = len(dataset.episode_returns) - int(dataset.terminated.sum())
    assert len(dataset) == rows - cut, "the successor of a cut day's last row is in no row"
