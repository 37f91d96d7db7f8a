import copy
import os
from pathlib import Path

import pytest
import torch
from helpers.clusters import slurm_cluster, slurm_is_here
from helpers.needs import NO_RECORDINGS, RECORDINGS
from helpers.settings import TINY

from offline_rl.data import DEMO_FILE, hdf5

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="PyTorch finds no GPU"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Keep what the tests compute out of the user's cache folder, and the user's datasets out of the tests."""
    os.environ["OFFLINE_RL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["MINARI_DATASETS_PATH"] = str(tmp_path_factory.mktemp("minari"))


@pytest.fixture(scope="session", autouse=True)
def _demo_is_read_once():
    """Remember what the demo's file holds: hundreds of tests train on it, and each reading starts a child process."""
    read, found = hdf5.read, {}

    def remembering(path, keys, seconds=None):
        if path != DEMO_FILE:
            return read(path, keys, seconds)
        if tuple(keys) not in found:
            found[tuple(keys)] = read(path, keys, seconds)
        return copy.deepcopy(found[tuple(keys)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hdf5, "read", remembering)
        yield


@pytest.fixture(autouse=True)
def _same_numbers_each_time():
    """Let a test that fails fail again: what it draws without a generator of its own is the same in every run."""
    torch.manual_seed(0)


@pytest.fixture
def tiny():
    return dict(TINY)


@pytest.fixture(scope="session")
def data_folder():
    """Give the folder of recorded datasets; tests that need it are skipped where there is none."""
    if RECORDINGS is None:
        pytest.skip(NO_RECORDINGS)
    return Path(RECORDINGS)


@pytest.fixture
def slurm(tmp_path_factory):
    """Give the environment of a Slurm cluster of two nodes."""
    if not slurm_is_here():
        pytest.skip("needs Slurm and munge (Debian: slurm-wlm, munge), and to be root")
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment
