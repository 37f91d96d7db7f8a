"""Files that a disk, a copy or an editor has changed: each flipped bit is noticed where bytes are the promise."""

import json
import shutil
import struct

import numpy as np
import pytest
import torch
from helpers.agents import as_format_1
from helpers.settings import TINY

import offline_rl as orl
from offline_rl.algos.td3_bc import TD3BC, Config
from offline_rl.errors import OfflineRLError
from offline_rl.files import sealed, write_json
from offline_rl.training.checkpoint import Checkpoint, ReplayFile
from offline_rl.training.run import Run

FLIPS = pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
SETTINGS = {"steps": 60, "log_every": 10, "eval_every": 30, "final_episodes": 1, **TINY}


def flips(path, count, seed=0):
    """Give the file ``count`` times with another single bit changed, then as it was."""
    whole = path.read_bytes()
    places = np.random.default_rng(seed).integers(8 * len(whole), size=count)
    for place in places:
        content = bytearray(whole)
        content[place // 8] ^= 1 << (place % 8)
        path.write_bytes(content)
        yield place
    path.write_bytes(whole)


def refusal(function, *arguments):
    with pytest.raises(OfflineRLError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.fixture
def agent(tmp_path):
    TD3BC(Config(hidden_dims=[8]), 3, 2).save(tmp_path / "agent")
    return tmp_path / "agent"


@pytest.fixture
def checkpoint(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {f"members/{n}": torch.rand(3, 4, generator=generator) for n in ("zero", "one")}
    row = {"kind": "train", "step": 4, "seed": 0, "critic_loss": 1e-05, "name é": 0.30000000000000004, "seconds": 1.0}
    pending = [{"rows": [row], "evaluation": None}]
    Checkpoint(4, 100, pending, 1e-05, files={"metrics.jsonl": "ab" * 32}, tensors=tensors).save(tmp_path)
    return tmp_path


@FLIPS
@pytest.mark.parametrize("name", ["agent.json", "weights.safetensors"])
def test_every_flipped_bit_of_an_agent_is_noticed(agent, name, count):
    for _ in flips(agent / name, count):
        assert name in refusal(orl.load_agent, agent)
    orl.load_agent(agent)


@FLIPS
def test_every_flipped_bit_of_a_checkpoint_is_noticed(checkpoint, count):
    for _ in flips(checkpoint / "checkpoint" / "checkpoint.safetensors", count):
        assert "checkpoint.safetensors" in refusal(Checkpoint.load, checkpoint)
    assert Checkpoint.load(checkpoint).step == 4


def test_a_checkpoint_is_the_same_bytes_each_time(checkpoint):
    file = checkpoint / "checkpoint" / "checkpoint.safetensors"
    before = file.read_bytes()
    Checkpoint.load(checkpoint).save(checkpoint)
    assert file.read_bytes() == before


def test_weights_of_another_agent_are_noticed(agent, tmp_path):
    """Fails if each of the two files is checked for itself."""
    other = TD3BC(Config(hidden_dims=[8]), 3, 2, seed=1)
    other.save(tmp_path / "other")
    shutil.copyfile(tmp_path / "other" / "weights.safetensors", agent / "weights.safetensors")
    assert "its content does not fit its checksum in agent.json" in refusal(orl.load_agent, agent)


def test_an_agent_made_before_there_were_checksums_opens(agent):
    right = orl.load_agent(agent).act(np.ones(3))
    as_format_1(agent)
    np.testing.assert_array_equal(orl.load_agent(agent).act(np.ones(3)), right)


def as_old_checkpoint(folder):
    """Write a checkpoint as it was before there were checksums: the same metadata with format 1."""
    from safetensors.torch import save

    found = Checkpoint.load(folder)
    names = ("step", "metrics_bytes", "pending", "seconds", "waited", "finished")
    values = {**{name: getattr(found, name) for name in names}, "format": 1}
    content = save(dict(found.tensors), {"checkpoint": json.dumps(values)})
    (folder / "checkpoint" / "checkpoint.safetensors").write_bytes(content)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Give a finished run, and the same one stopped on its way."""
    folder = tmp_path_factory.mktemp("damaged")
    run = orl.train("td3_bc", "hopper-demo", out=str(folder / "whole"), **SETTINGS, checkpoint_seconds=0)
    return run.path


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def resume(path):
    return orl.train("td3_bc", "hopper-demo", out=str(path), resume=True, **SETTINGS)


def test_a_run_made_before_there_were_checksums_is_resumed_and_read(run, finished):
    config = json.loads((run / "config.json").read_text())
    del config["checksum"]
    write_json(run / "config.json", {**config, "format": 1})
    found = Checkpoint.load(run)
    found.finished = False
    found.save(run)
    as_old_checkpoint(run)
    as_format_1(run / "agents" / "seed-0")
    shutil.rmtree(run / "agents")
    resumed = resume(run)
    kept = Run(finished).rows
    assert resumed.rows[: len(kept)] == kept  # then the final evaluation, which is played once more
    weights = "agents/seed-0/weights.safetensors"
    assert (run / weights).read_bytes() == (finished / weights).read_bytes()


def test_every_flipped_bit_of_a_runs_record_is_noticed(run):
    for name, read in (("metrics.jsonl", lambda: Run(run).rows), ("config.json", lambda: Run(run).config)):
        for _ in flips(run / name, 100):
            assert name in refusal(read)


def test_a_changed_record_is_noticed_when_the_run_goes_on(run):
    found = Checkpoint.load(run)
    found.finished = False
    found.save(run)
    metrics = run / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole.replace('"step": 10', '"step": 11', 1))
    assert "metrics.jsonl is damaged" in refusal(resume, run)
    metrics.write_text(whole[:40])
    assert "metrics.jsonl is shorter than its checkpoint says" in refusal(resume, run)
    config = run / "config.json"
    config.write_text(config.read_text().replace('"steps": 60', '"steps": 61'))
    assert "changed after it was made" in refusal(resume, run)


def test_changed_online_rows_are_noticed(tmp_path):
    file = ReplayFile(tmp_path, "seed-0", 3, 0)
    file.append(torch.arange(30.0).view(10, 3))
    Checkpoint(10, 0, [], 0.0, files=file.checksum()).save(tmp_path)
    path = tmp_path / "checkpoint" / "replay-seed-0.f32"
    with path.open("ab") as opened:
        opened.write(struct.pack("<f", 1.0))  # what a killed run has left is cut off
    for _ in flips(path, 8 * 4):
        checkpoint = Checkpoint.load(tmp_path)
        try:
            ReplayFile(tmp_path, "seed-0", 3, 10, checkpoint)
        except OfflineRLError as error:
            assert "replay-seed-0.f32 is damaged" in str(error)
        else:
            assert path.read_bytes() == torch.arange(30.0).numpy().tobytes(), "a flipped bit was not noticed"
    path.write_bytes(b"")
    assert "shorter than its checkpoint says" in refusal(ReplayFile, tmp_path, "seed-0", 3, 10, checkpoint)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"options": 5}', "config.json cannot be read"),
        ("[" * 50_000, "nested too deep"),
        ("[]", "it is []"),
        ('{"format": 1, "algorithm": "bc"}', "it has no config"),
        ('{"format": 1e3}', "format is 1000.0; it must be a whole number"),
        ('{"format": 3}', "upgrade"),
        ("\xff", "cannot be read"),
    ],
)
def test_a_foreign_config_is_refused_in_one_sentence(run, text, said):
    (run / "config.json").write_text(text, encoding="latin1")
    assert said in refusal(lambda: Run(run).config)


@pytest.mark.parametrize("field", ["dataset", "compute", "algorithm", "options", "dynamics", "versions", "hardware"])
@pytest.mark.parametrize("value", [..., 5, None, [1], {}])
def test_a_whole_config_of_the_wrong_shape_is_refused_with_its_field(run, field, value):
    config = json.loads((run / "config.json").read_text())
    config[field] = value
    if value is ...:
        del config[field]
    if (field, value) in (("versions", {}), ("dynamics", 5)):
        config[field] = 7
    write_json(run / "config.json", sealed(config))
    assert field in refusal(lambda: Run(run).config)


@pytest.mark.parametrize(
    "line",
    [
        *("{}", "[1]", "5", "[" * 5000),
        '{"kind": "train", "step": -1, "seed": 0}',
        '{"kind": "final", "step": 1, "seed": 0}',
    ],
)
def test_a_line_that_is_no_row_is_named(run, line):
    shutil.rmtree(run / "checkpoint")
    path = run / "metrics.jsonl"
    path.write_text(path.read_text() + line + "\n")
    count = len(path.read_text().splitlines())
    assert f"metrics.jsonl is damaged in line {count}" in refusal(lambda: Run(run).rows)


def test_a_run_without_its_record_is_refused(run):
    (run / "metrics.jsonl").unlink()
    assert "metrics.jsonl cannot be read (No such file" in refusal(lambda: Run(run).rows)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([], "it must be names with values"),
        ({"step": ...}, "it has no step"),
        ({"step": "4"}, "step is '4'"),
        ({"step": -1}, "of at least 0"),
        ({"novelty": 1}, "newer version (novelty)"),
        ({"format": 9}, "newer version"),
        ({"pending": 5}, "pending is 5"),
        ({"pending": [{"rows": [1], "evaluation": None}]}, "pending[0].rows[0] is 1"),
        ({"finished": "no"}, "finished is 'no'"),
        ({"seconds": None}, "seconds is None"),
    ],
)
def test_metadata_of_a_checkpoint_are_checked_after_their_syntax(checkpoint, changes, said):
    from safetensors.torch import save

    values = {"format": 1, "step": 4, "metrics_bytes": 0, "pending": [], "seconds": 0.0, "waited": 0.0}
    values |= {"finished": False}
    values = changes if changes == [] else {n: v for n, v in {**values, **changes}.items() if v is not ...}
    path = checkpoint / "checkpoint" / "checkpoint.safetensors"
    path.write_bytes(save({"a": torch.zeros(1)}, {"checkpoint": json.dumps(values)}))
    assert said in refusal(Checkpoint.load, checkpoint)


def test_a_checkpoint_without_metadata_is_refused(checkpoint):
    from safetensors.torch import save

    path = checkpoint / "checkpoint" / "checkpoint.safetensors"
    for content in (save({"a": torch.zeros(1)}), b"", b"\0" * 100):
        path.write_bytes(content)
        assert "checkpoint.safetensors is damaged" in refusal(Checkpoint.load, checkpoint)
