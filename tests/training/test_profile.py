"""Where the time of updates goes, and that measuring it changes nothing."""

import gzip
import json
import re

import pytest
from helpers.settings import TINY, without_timings

import offline_rl as orl

SETTINGS = {"seeds": [0], "steps": 60, "log_every": 20, "eval_every": 0, "final_episodes": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    return [
        orl.train("prdc", "hopper-demo", out=str(folder / str(profile)), profile=profile, **SETTINGS, **TINY)
        for profile in (False, True)
    ]


def test_measuring_changes_no_number(runs):
    plain, measured = runs
    assert without_timings(plain.rows) == without_timings(measured.rows)
    for seed in SETTINGS["seeds"]:
        files = [run.path / "agents" / f"seed-{seed}" / "weights.safetensors" for run in runs]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert not list(plain.path.glob("profile*"))


def test_the_parts_are_all_the_time_there_was(runs):
    """Fails if a part is counted twice or not at all."""
    text = (runs[1].path / "profile.txt").read_text()
    parts, operations = text.split("the host's operations")
    assert "of 30 updates" in parts
    found = {name: float(share) / 100 for share, name in re.findall(r"^ *([\d.-]+)% +[\d.-]+  (.+)$", parts, re.M)}
    assert sum(found.values()) == pytest.approx(1, abs=0.005)
    assert min(found.values()) >= 0
    own = {"MLPs forward", "MLPs backward", "optimiser", "targets", "sampling", "other operations"}
    assert all(found[name] > 0 for name in own)
    assert "aten::" in operations


def test_the_trace_is_one_that_viewers_read(runs):
    trace = json.loads(gzip.decompress((runs[1].path / "profile.json.gz").read_bytes()))
    names = [event.get("name") for event in trace["traceEvents"]]
    assert names.count("targets") == 15, "one for each second update of the first member"
