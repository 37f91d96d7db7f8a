"""The wheel, installed outside the clone, beside a user's own ``algos`` folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
import algos.mine
import offline_rl as orl

run = orl.train("td3_bc", "hopper-demo", steps=20, seeds=[0], final_episodes=1, eval_every=0, out="run", quiet=True)
agent = orl.load_agent(run.path / "agents" / "seed-0")
print(algos.mine.WHOSE, type(agent).__module__, orl.__file__)
"""
SWEEP = """
command: [offline-rl, train, bc, --dataset=hopper-demo, --steps=10, --final_episodes=1, "${args}"]
method: random
run_cap: 2
metric: {name: score, goal: maximize}
parameters: {learning_rate: {values: [0.001, 0.0003]}}
"""


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """Build the wheel from a copy of the tracked files, unpack it elsewhere, and lay a user's project beside it."""
    place = tmp_path_factory.mktemp("wheel")
    source, installed, project = place / "source", place / "installed", place / "project"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(
        ["tar", "-c", "--null", "-T", "-"], cwd=ROOT, input=tracked, check=True, stdout=(place / "tar").open("wb")
    )
    source.mkdir()
    subprocess.run(["tar", "-xf", place / "tar", "-C", source], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(place), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = place.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(installed)
    (project / "algos").mkdir(parents=True)
    (project / "algos" / "__init__.py").write_text("")
    (project / "algos" / "mine.py").write_text("WHOSE = 'mine'\n")
    (project / "script.py").write_text(SCRIPT)
    (project / "sweep.yaml").write_text(SWEEP)
    return installed, project


def run_outside(outside, *words):
    installed, project = outside
    # Nothing of the clone may be found: neither through the working folder nor through what is installed to edit.
    code = (
        "import runpy, sys; sys.path[:] = [p for p in sys.path if 'offline_rl' not in p]; sys.meta_path[:] = "
        "[f for f in sys.meta_path if '__editable__' not in str(f)]; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__') if sys.argv[0].endswith('.py') else "
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{project}"}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_trains_loads_exports_sweeps_and_reports_beside_a_folder_of_the_same_name(outside):
    installed, project = outside
    assert not (installed / "algos").exists()
    assert {path.parent.name for path in installed.glob("offline_rl/algos/*/agent.py")} == {
        "doc",
        "famo2o",
        "parl",
        "parl_online",
    }
    whose, module, where = run_outside(outside, "script.py").split()
    assert (whose, module) == ("mine", "offline_rl.algos.td3_bc")
    assert Path(where).is_relative_to(installed)
    run_outside(outside, "offline_rl", "export", "run", "--out=policy.onnx")
    assert (project / "policy.onnx").exists()
    run_outside(outside, "offline_rl", "sweep", "sweep.yaml", "--out=trials")
    assert "td3_bc" in run_outside(outside, "offline_rl", "report", "run", "--out=page")
    assert (project / "page" / "report.html").exists()
