"""Child processes and what they start themselves."""

import psutil

from offline_rl.processes.child import Child

CHILD = """
import subprocess
import sys

from offline_rl.processes.child import serve

COMPLAINS = "print('begun', flush=True); input()"


def answer(message, tensors):
    helper = subprocess.Popen([sys.executable, "-c", COMPLAINS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert helper.stdout.readline() == b"begun\\n"
    return {"helper": helper.pid}, {}


if __name__ == "__main__":
    serve(answer)
"""


def test_a_child_that_is_closed_takes_with_it_what_it_has_started(tmp_path, monkeypatch, capfd):
    (tmp_path / "a_child.py").write_text(CHILD)
    monkeypatch.syspath_prepend(tmp_path)
    child = Child("a_child", "the child")
    child.send({})
    helper = psutil.Process(child.receive()[0]["helper"])
    child.close()
    _, alive = psutil.wait_procs([helper], timeout=20)
    assert not alive
    assert capfd.readouterr().err == ""
