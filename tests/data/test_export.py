"""What is written for other programs comes back as it was."""

from dataclasses import replace

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from helpers.datasets import random_dataset

import offline_rl as orl
from offline_rl.data import Dataset, load_dataset
from offline_rl.data.minari import local_ids
from offline_rl.errors import DatasetError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def walks(lengths=(4, 1, 6), last_flag=True, **options):
    """Episodes of one sequence of states each: the first ends for good, the others are cut."""
    rng, rows, ends = np.random.default_rng(0), sum(lengths), np.cumsum(lengths) - 1
    states = [rng.normal(size=(length + 1, 11)) for length in lengths]
    flags = np.zeros((2, rows), bool)
    flags[0, ends[0]] = True
    flags[1, ends[1:]] = True
    flags[1, -1] = last_flag
    options = {"action_bounds": (-2, 1), "task": "hopper-medium-v2", "name": "walks", **options}
    return Dataset.from_arrays(
        np.concatenate([states_of[:-1] for states_of in states]),
        rng.uniform(-2, 1, (rows, 3)),
        rng.normal(size=rows),
        *flags,
        np.concatenate([states_of[1:] for states_of in states]),
        **options,
    )


def assert_same(one, other):
    assert one.fingerprint == other.fingerprint
    for field in ("episode_returns", "episode_lengths", "episode_complete", "action_bounds"):
        assert np.array_equal(getattr(one, field), getattr(other, field)), field
    assert one.task == other.task


@pytest.mark.parametrize(("format", "place"), [("d4rl", "walks.hdf5"), ("minari", "test/hopper/walks-v0")])
def test_a_dataset_comes_back_as_it_was(format, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = walks(metadata={"algorithm_name": "walker", "nested": {"not": "an attribute"}})
    orl.export_dataset(dataset, place, format)
    again = load_dataset(place)
    assert_same(again, dataset)
    assert again.metadata["mode"] == "exact"
    assert again.metadata["algorithm_name"] == "walker"
    with pytest.raises(DatasetError, match="exists; choose another"):
        orl.export_dataset(dataset, place, format)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(("format", "place"), [("d4rl", "demo.hdf5"), ("minari", "demo-v0")])
def test_a_recording_that_broke_off_still_has(format, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flagged = replace(walks(), episode_complete=np.array([True, True, False]))
    orl.export_dataset(flagged, place, format)
    assert_same(load_dataset(place), flagged)
    flagless = walks(last_flag=False)
    assert not flagless.episode_complete[-1]
    orl.export_dataset(flagless, f"other/{place}", format)
    again = load_dataset(f"other/{place}")
    assert np.array_equal(again.episode_complete, flagless.episode_complete)
    assert np.array_equal(again.episode_bounds, flagless.episode_bounds)
    assert np.array_equal(again.next_observations, flagless.next_observations)


def test_between_the_formats_the_environment_goes_along(tmp_path):
    orl.export_dataset(walks(task=None), "test/hopper/walks-v0", "minari")
    with_environment = Dataset.from_arrays(
        *(getattr(walks(), name) for name in ("observations", "actions", "rewards", "terminated", "truncated")),
        walks().next_observations,
        action_bounds=(-2, 1),
        metadata={
            "environment": {
                "id": "Hopper-v5",
                "kwargs": {"healthy_reward": 2.0},
                "max_episode_steps": 300,
                "wrappers": [],
                "references": [1.0, 5.0],
            }
        },
    )
    orl.export_dataset(with_environment, "test/hopper/plays-v0", "minari")
    first = load_dataset("test/hopper/plays-v0")
    orl.export_dataset(first, tmp_path / "plays.hdf5")
    second = load_dataset(tmp_path / "plays.hdf5")
    for again in (first, second):
        assert_same(again, with_environment)
        assert again.environment == with_environment.environment
        assert orl.normalized_score(again.find_task(), 3.0) == 50
    assert local_ids() == ["test/hopper/plays-v0", "test/hopper/walks-v0"]
    theirs = minari.load_dataset("test/hopper/plays-v0")
    assert minari.get_normalized_score(theirs, np.array(3.0)) == 0.5
    recovered = theirs.recover_environment()
    assert (recovered.spec.id, recovered.spec.max_episode_steps) == ("Hopper-v5", 300)
    assert set(minari.list_local_datasets()) == set(local_ids())
    assert isinstance(theirs.action_space, gymnasium.spaces.Box)


def test_the_file_is_in_d4rls_layout(tmp_path):
    orl.export_dataset(walks(), tmp_path / "walks.hdf5", "d4rl")
    with h5py.File(tmp_path / "walks.hdf5") as file:
        assert set(file) == {"observations", "actions", "rewards", "terminals", "timeouts", "next_observations"}
        assert file["timeouts"][:].nonzero()[0].tolist() == [4, 10]
        assert file.attrs["env_id"] == "hopper-medium-v2"


def test_episodes_without_flags_stay_apart(tmp_path):
    """Rows of cut episodes whose successor is unknown are left out, and their flags with them."""
    source = walks((4, 3, 6))
    fields = (source.observations, source.actions, source.rewards, source.terminated, source.truncated)
    dataset = Dataset.from_arrays(*fields, action_bounds=(-2, 1))
    assert not dataset.truncated.any()
    orl.export_dataset(dataset, tmp_path / "walks.hdf5")
    assert (
        load_dataset(tmp_path / "walks.hdf5").episode_bounds.tolist()
        == dataset.episode_bounds.tolist()
        == [0, 4, 6, 11]
    )


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"what follows row 0 is not row 1, .* use the format 'd4rl'"):
        orl.export_dataset(random_dataset(), "noise-v0", "minari")
    with pytest.raises(DatasetError, match="'noise' is no Minari id"):
        orl.export_dataset(walks(), "noise", "minari")
    with pytest.raises(DatasetError, match="unknown format 'csv'; use 'd4rl' or 'minari'"):
        orl.export_dataset(walks(), tmp_path / "x.csv", "csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        orl.export_dataset(walks(), tmp_path / "file" / "x.hdf5")
    assert local_ids() == []
