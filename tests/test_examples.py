import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import offline_rl as orl
from algos.td3_bc import TD3BC, Config

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_a_loop_of_your_own_learns_to_go_home(tmp_path):
    script = str(EXAMPLES / "own_loop.py")
    subprocess.run([sys.executable, script], check=True, cwd=tmp_path, capture_output=True)
    agent = orl.load_agent(tmp_path / "runs" / "own-loop")
    corners = np.array([[0.8, 0.8], [-0.8, 0.8], [0.8, -0.8], [-0.8, -0.8]])
    assert (np.sign(agent.act(corners)) == -np.sign(corners)).all()


def test_an_exported_policy_is_served_without_torch(tmp_path):
    agent = TD3BC(Config(hidden_dims=[8]), 3, 2)
    agent.export_onnx(tmp_path / "policy.onnx")
    command = [sys.executable, str(EXAMPLES / "serve_onnx.py"), "policy.onnx", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    ) as server:
        try:
            address = server.stdout.readline().split()[-1]
            origin = json.load(urllib.request.urlopen(address))
            question = {"observation": [[0.1, 0.2, 0.3], [1, 2, 3]]}
            answer = json.load(urllib.request.urlopen(address, json.dumps(question).encode()))
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(address, b'{"observation": [1, 2]}')
            libraries = Path(f"/proc/{server.pid}/maps").read_text()
        finally:
            server.kill()
    assert "onnxruntime" in libraries
    assert "libtorch" not in libraries
    assert origin["algorithm"] == "td3_bc"
    assert np.allclose(answer["action"], agent.act(question["observation"]), atol=1e-5)
