"""A sweep's folder, when several processes begin in it at once."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from offline_rl.errors import SweepError
from offline_rl.sweep import folder
from offline_rl.sweep.folder import make_folder


def sweep_file(place, values):
    path = place / f"{len(values)}.yaml"
    text = {"method": "grid", "parameters": {"alpha": {"values": values}}}
    path.write_text(
        yaml.safe_dump({**text, "command": ["offline-rl", "train", "td3_bc", "--dataset=hopper-demo", "${args}"]})
    )
    return path


def test_of_two_sweeps_that_begin_in_one_folder_one_is_refused(tmp_path, monkeypatch):
    """Broken by looking whether the folder is free, and writing later: both would run in it, as one of them."""
    files, barrier = [sweep_file(tmp_path, [1.0]), sweep_file(tmp_path, [1.0, 2.0])], threading.Barrier(2)

    make, parsing = folder.make_sweep, threading.Lock()

    def make_alone(*arguments):
        with parsing:  # the parser of command lines is not made for several threads
            made = make(*arguments)
        barrier.wait()
        return made

    monkeypatch.setattr(folder, "make_sweep", make_alone)

    def begin(file, out):
        try:
            return make_folder(out, file, {}, None)
        except SweepError as error:
            assert "holds a sweep made from another file" in str(error)
            return None

    with ThreadPoolExecutor(2) as pool:
        for number in range(10):
            out = tmp_path / f"sweep-{number}"
            found = [made for made in pool.map(begin, files, [out, out]) if made]
            assert len(found) == 1
            points = json.loads((out / "sweep.json").read_text())["file"]["parameters"]["alpha"]["values"]
            assert len(points) == found[0].cap


def test_workers_of_one_sweep_share_its_folder_and_another_folder_is_left_alone(tmp_path):
    file = sweep_file(tmp_path, [1.0])
    for cap in (None, 1):
        make_folder(tmp_path / "sweep", file, {}, cap)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(SweepError, match="exists and is no sweep's folder"):
        make_folder(tmp_path / "mine", file, {}, None)
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
