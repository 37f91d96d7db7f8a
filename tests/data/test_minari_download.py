"""Minari's downloads from a local server with Minari's layout: whole or not at all, whoever else downloads."""

import http.server
import json
import multiprocessing
import threading
import urllib.request
import warnings
from pathlib import Path

import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.storage import remotes
from minari.storage.remotes.cloud_storage import CloudStorage

from offline_rl.data import load_dataset
from offline_rl.errors import DatasetError

ID = "far/hopper/some-v0"


class Remote(CloudStorage):
    """Minari's interface to a server that has its datasets as files."""

    def __init__(self, name, token=None):
        self._url = f"http://{name}"

    def _get(self, path):
        with urllib.request.urlopen(f"{self._url}/{path}", timeout=30) as answer:
            return answer.read()

    def list_datasets(self, prefix=None):
        return [name for name in json.loads(self._get("list")) if name.startswith(prefix or "")]

    def get_dataset_metadata(self, dataset_id):
        return json.loads(self._get(f"{dataset_id}/data/metadata.json"))

    def download_dataset(self, dataset_id, path):
        for file in ("metadata.json", "main_data.hdf5"):
            place = Path(path) / dataset_id / "data" / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(self._get(f"{dataset_id}/data/{file}"))

    def download_namespace_metadata(self, namespace, path):
        (Path(path) / namespace).mkdir(parents=True, exist_ok=True)
        (Path(path) / namespace / "namespace_metadata.json").write_text("{}")

    def list_namespaces(self):
        return ["far", "far/hopper"]

    def upload_dataset(self, dataset_id):
        raise NotImplementedError

    def upload_namespace(self, namespace):
        raise NotImplementedError


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.lstrip("/")
        content = json.dumps([ID]).encode() if path == "list" else (self.server.root / path).read_bytes()
        announced = len(content)
        if path.endswith(".hdf5"):
            self.server.sent.append(path)
            if self.server.cut and len(self.server.sent) == 1:
                content = content[: len(content) // 2]
                announced = len(content) if self.server.cut == "silently" else announced
        self.send_response(200)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "far"))
    rng = np.random.default_rng(0)
    episode = EpisodeBuffer(
        observations=rng.normal(size=(31, 11)),
        actions=rng.uniform(-1, 1, (30, 3)).astype(np.float32),
        rewards=rng.normal(size=30),
        terminations=np.zeros(30, bool),
        truncations=np.arange(30) == 29,
        infos={},
    )
    kinds = {"observation_space": spaces.Box(-np.inf, np.inf, (11,)), "action_space": spaces.Box(-1, 1, (3,))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(ID, [episode], **kinds)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.root, served.sent, served.cut = tmp_path / "far", [], None
        threading.Thread(target=served.serve_forever, daemon=True).start()
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "here"))
        monkeypatch.setenv("MINARI_REMOTE", f"test://127.0.0.1:{served.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setitem(remotes._registry, "test", lambda: Remote)
        yield served
        served.shutdown()


def left(folder):
    """Return what lies in Minari's folder beside the dataset and the locks."""
    return [path.name for path in folder.iterdir() if path.name != "far" and not path.name.endswith(".lock")]


def load(_):
    try:
        return load_dataset(ID).fingerprint
    except DatasetError as error:
        return str(error)


@pytest.mark.parametrize("cut", [None, "openly", "silently"])
def test_eight_processes_at_once_make_one_good_copy(server, tmp_path, cut):
    """The one whose download is cut short says so in a sentence; another one downloads again."""
    server.cut = cut
    with multiprocessing.get_context("fork").Pool(8) as pool:
        answers = pool.map(load, range(8), chunksize=1)
    wanted = load_dataset(ID).fingerprint
    wrong = [answer for answer in answers if answer != wanted]
    assert len(server.sent) == 1 + bool(cut)
    assert len(wrong) == bool(cut)
    for sentence in wrong:
        assert sentence.startswith(f"cannot download '{ID}' (")
        assert "\n" not in sentence
    assert left(tmp_path / "here") == []
    original = server.root / ID / "data" / "main_data.hdf5"
    assert (tmp_path / "here" / ID / "data" / "main_data.hdf5").read_bytes() == original.read_bytes()


def test_what_a_killed_process_left_is_removed_and_half_a_dataset_is_named(server, tmp_path):
    here = tmp_path / "here"
    (here / ".far--hopper--some-v0.123.part").mkdir(parents=True)
    (here / ID).mkdir(parents=True)
    with pytest.raises(DatasetError, match="holds no whole dataset; delete it"):
        load_dataset(ID)
    (here / ID).rmdir()
    assert len(load_dataset(ID)) == 30
    assert left(here) == []
