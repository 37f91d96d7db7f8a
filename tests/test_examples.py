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
