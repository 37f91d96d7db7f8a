import hashlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from offline_rl.data import d4rl, load_dataset
from offline_rl.errors import DatasetError

NAME = "hopper-medium-v2"
FILE = "hopper_medium-v2.hdf5"


class Server(http.server.ThreadingHTTPServer):
    """Serves one content at every address, and remembers what was asked for."""

    content = b""
    announced: int | None = None
    status = 200

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/data/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        self.send_response(self.server.status)
        announced = self.server.announced
        self.send_header("Content-Length", str(len(self.server.content) if announced is None else announced))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(write, arrays, monkeypatch):
    with Server() as server:
        server.content = write(arrays, "served.hdf5").read_bytes()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OFFLINE_RL_D4RL_URL", server.url)
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "datasets"
    monkeypatch.setenv("D4RL_DATASET_DIR", str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


def assert_nothing_left(cache):
    assert {file.name for file in cache.iterdir()} <= {f"{FILE}.lock"}


# The table


def test_table():
    assert len(d4rl.DATASETS) == len(d4rl.IDS) == 114
    expected = {
        "hopper-medium-v2": "gym_mujoco_v2/hopper_medium-v2.hdf5",
        "halfcheetah-full-replay-v1": "gym_mujoco_v1/halfcheetah_full_replay-v1.hdf5",
        "ant-medium-expert-v2": "gym_mujoco_v2/ant_medium_expert-v2.hdf5",
        "walker2d-medium-v0": "gym_mujoco/walker2d_medium.hdf5",
        "hopper-medium-replay-v0": "gym_mujoco/hopper_mixed.hdf5",
        "walker2d-medium-replay-v0": "gym_mujoco/walker_mixed.hdf5",
        "antmaze-umaze-v2": "ant_maze_v2/Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5",
        "antmaze-medium-play-v1": "ant_maze_v1/Ant_maze_medium_noisy_multistart_True_multigoal_False_sparse.hdf5",
        "antmaze-large-play-v0": "ant_maze_new/Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse.hdf5",
        "pen-human-v0": "hand_dapg/pen-v0_demos_clipped.hdf5",
        "door-cloned-v0": "hand_dapg/door-demos-v0-bc-combined.hdf5",
        "hammer-expert-v1": "hand_dapg_v1/hammer-expert-v1.hdf5",
        "kitchen-mixed-v0": "kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5",
        "ant-random-expert-v0": "gym_mujoco/ant_random_expert.hdf5",
    }
    assert expected.items() <= d4rl.DATASETS.items()
    assert "hopper-full-replay-v0" not in d4rl.DATASETS


def test_folder_and_address(monkeypatch):
    monkeypatch.delenv("D4RL_DATASET_DIR")
    monkeypatch.delenv("OFFLINE_RL_D4RL_URL", raising=False)
    assert d4rl.cache_folder() == Path.home() / ".d4rl" / "datasets"
    assert d4rl.url_of(NAME) == f"http://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2/{FILE}"
    monkeypatch.setenv("OFFLINE_RL_D4RL_URL", "https://mirror/x")
    assert d4rl.url_of(NAME) == f"https://mirror/x/gym_mujoco_v2/{FILE}"


# Downloads that succeed


def test_a_dataset_is_downloaded_once(server, cache, arrays):
    dataset = load_dataset(NAME)
    assert (dataset.name, dataset.task, dataset.metadata["mode"]) == (NAME, NAME, "d4rl")
    assert len(dataset) == (~arrays["timeouts"][:-1]).sum()
    assert load_dataset(NAME).fingerprint == dataset.fingerprint
    assert server.requests == [f"/data/gym_mujoco_v2/{FILE}"]
    assert (cache / FILE).read_bytes() == server.content
    assert (cache / f"{FILE}.sha256").read_text() == f"{hashlib.sha256(server.content).hexdigest()}  {FILE}\n"
    assert not list(cache.glob("*.part"))


def test_the_mode_can_be_chosen(server):
    assert load_dataset(NAME, "exact").metadata["mode"] == "exact"


def test_two_processes_download_once(server, cache):
    code = f"from offline_rl.data.d4rl import download; print(download('{NAME}'))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert outputs == [str(cache / FILE)] * 2
    assert len(server.requests) == 1


def test_a_file_of_d4rl_itself_is_adopted(server, cache):
    cache.mkdir(parents=True)
    (cache / FILE).write_bytes(server.content)
    assert d4rl.download(NAME) == cache / FILE
    assert server.requests == []
    assert (cache / f"{FILE}.sha256").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_used_as_it_is(server, cache):
    cache.mkdir(parents=True)
    (cache / FILE).write_bytes(server.content)
    cache.chmod(0o500)
    assert d4rl.download(NAME) == cache / FILE


# Downloads that fail


def assert_cannot_download(reason, cache):
    with pytest.raises(DatasetError) as caught:
        load_dataset(NAME)
    sentence = str(caught.value)
    for part in (f"cannot download {NAME} from http://127.0.0.1", reason, str(cache / FILE), "OFFLINE_RL_D4RL_URL"):
        assert part in sentence
    assert "a local file" in sentence
    assert "hopper-demo" in sentence
    assert "\n" not in sentence
    assert_nothing_left(cache)


def test_not_found(server, cache):
    server.status = 404
    assert_cannot_download("the server answered 404 Not Found", cache)


def test_cut_short(server, cache):
    server.announced = len(server.content) + 1000
    assert_cannot_download("the connection was cut", cache)


def test_half_a_file_that_claims_to_be_whole(server, cache):
    server.content = server.content[: len(server.content) // 2]
    assert_cannot_download("what arrived is no whole HDF5 file", cache)


def test_a_page_instead_of_a_file(server, cache):
    server.content = b"<html>moved</html>" * 100
    assert_cannot_download("what arrived is no whole HDF5 file", cache)


def test_unreachable(cache, monkeypatch):
    with Server() as closed:
        url = closed.url
    monkeypatch.setenv("OFFLINE_RL_D4RL_URL", url)
    assert_cannot_download("the server cannot be reached", cache)


def test_a_failed_download_can_be_tried_again(server, cache):
    server.status = 503
    assert_cannot_download("503", cache)
    server.status = 200
    assert len(load_dataset(NAME)) > 0


def test_an_address_that_is_none(cache, monkeypatch):
    monkeypatch.setenv("OFFLINE_RL_D4RL_URL", "nonsense")
    with pytest.raises(DatasetError, match=f"cannot download {NAME} from nonsense/gym_mujoco_v2/"):
        load_dataset(NAME)


def test_a_folder_that_cannot_be_made(server, cache):
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(DatasetError, match=r"cannot store hopper-medium-v2 in .*; set D4RL_DATASET_DIR"):
        load_dataset(NAME)


# Files that changed


def test_changed_since_first_use(server, cache):
    load_dataset(NAME)
    content = bytearray(server.content)
    content[-1] ^= 1
    (cache / FILE).write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{FILE} has changed since its first use; delete it .*{FILE}.sha256"):
        load_dataset(NAME)
    (cache / FILE).unlink()
    assert len(load_dataset(NAME)) > 0


def test_a_half_downloaded_file_of_d4rl_is_not_adopted(server, cache):
    cache.mkdir(parents=True)
    (cache / FILE).write_bytes(server.content[:-100])
    with pytest.raises(DatasetError, match="is no whole HDF5 file; delete it to download it again"):
        load_dataset(NAME)
