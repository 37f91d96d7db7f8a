import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from offline_rl.data import hdf5, load_dataset
from offline_rl.errors import DatasetError

ALL_KEYS = (*hdf5.KEYS, "next_observations")


def assert_refused(path, message, mode=None):
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(path, mode)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert ";" in sentence, "a remedy follows the semicolon"


# What is read


@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "shuffle": True}, {"chunks": (7, 1)}])
def test_arrays_arrive_as_they_are(tmp_path, arrays, options):
    path = tmp_path / "file.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("observations", data=arrays["observations"], **options)
        file["actions"] = arrays["actions"].astype(">f8")
        file["rewards"] = arrays["rewards"].astype(np.float16)[:, None]
        file["terminals"] = arrays["terminals"].astype(np.int64)
        file["unrelated/text"] = "text"
    contents = hdf5.read(path, ALL_KEYS)
    assert set(contents.arrays) == {"observations", "actions", "rewards", "terminals"}
    assert np.array_equal(contents.arrays["observations"], arrays["observations"])
    assert np.array_equal(contents.arrays["actions"], arrays["actions"])
    assert contents.arrays["actions"].dtype == ">f8"
    assert contents.arrays["rewards"].shape == (60, 1)
    assert contents.arrays["terminals"].dtype == np.int64


def test_arrays_larger_than_a_block(tmp_path):
    rows = hdf5.BLOCK_SIZE // 8 + 1000
    values = np.arange(rows, dtype=np.float64)
    with h5py.File(tmp_path / "file.hdf5", "w") as file:
        file["rewards"] = values
    assert np.array_equal(hdf5.read(tmp_path / "file.hdf5", ["rewards"]).arrays["rewards"], values)


def test_loaded_dataset(write, arrays):
    dataset = load_dataset(write({**arrays, "rewards": arrays["rewards"][:, None]}))
    assert np.array_equal(dataset.observations, arrays["observations"])
    assert np.array_equal(dataset.rewards, arrays["rewards"])
    assert np.array_equal(dataset.next_observations, arrays["next_observations"])
    assert np.array_equal(dataset.terminated, arrays["terminals"])
    assert np.array_equal(dataset.truncated, arrays["timeouts"] & ~arrays["terminals"])


def test_attributes_become_json_values(write, arrays):
    path = write(
        arrays,
        text="Hopper-v4",
        number=np.int64(3),
        flag=True,
        array=np.arange(3.0),
        raw=np.bytes_(b"bytes"),
        empty=h5py.Empty("f"),
        not_a_number=np.nan,
        task=7,
        path="/etc/passwd",
    )
    metadata = load_dataset(path).metadata
    json.dumps(metadata, allow_nan=False)
    given = {key: metadata[key] for key in ("text", "number", "flag", "array", "raw")}
    assert given == {"text": "Hopper-v4", "number": 3, "flag": True, "array": [0, 1, 2], "raw": "bytes"}
    assert metadata["path"] == str(path)
    assert not {"empty", "not_a_number"} & set(metadata)


def test_views_of_the_same_file(tmp_path, arrays):
    path = tmp_path / "file.hdf5"
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("storage/pairs", data=np.stack([arrays.pop("observations")] * 2))
        for which, key in enumerate(("observations", "next_observations")):
            layout = h5py.VirtualLayout(stored.shape[1:], stored.dtype)
            layout[:] = h5py.VirtualSource(stored)[which]
            file.create_virtual_dataset(key, layout)
        for key in ("actions", "rewards", "terminals"):
            file[key] = arrays[key]
        expected = stored[0]
    dataset = load_dataset(path)
    assert dataset.metadata["mode"] == "exact"
    assert np.array_equal(dataset.observations, expected)


# What is refused


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminals"])
def test_missing_keys(write, arrays, key):
    assert_refused(write({**arrays, key: None}), f"has no '{key}'; a dataset needs observations, actions, rewards")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("observations", np.zeros(60), r"'observations' has shape \(60,\)"),
        ("observations", np.zeros((60, 3, 2)), r"'observations' has shape \(60, 3, 2\)"),
        ("rewards", np.zeros(59), "'rewards' has 59 rows"),
        ("terminals", np.zeros((60, 2)), r"'terminals' has shape \(60, 2\)"),
        ("timeouts", np.zeros(61, bool), "'timeouts' has 61 rows"),
        ("next_observations", np.zeros((60, 4)), r"'next_observations' has shape \(60, 4\)"),
        ("rewards", np.r_[np.zeros(40), np.nan, np.zeros(19)], "'rewards' has NaN in row 40"),
        ("actions", np.full((60, 2), 1.5), "'actions' has 1.5 in row 0"),
        ("rewards", 1.0, "has a 'rewards' that is not an array"),
        ("rewards", h5py.Empty("f"), "has a 'rewards' that is not an array"),
        ("rewards", np.array([b"text"] * 60), "'rewards' of type"),
        ("rewards", ["text"] * 60, "'rewards' of type"),
        ("rewards", np.zeros(60, [("a", "f4")]), "'rewards' of type"),
        ("rewards", np.zeros(60, complex), "'rewards' of type complex128"),
    ],
)
def test_unusable_arrays(write, arrays, key, value, message):
    assert_refused(write({**arrays, key: value}), message)


def test_a_group_in_place_of_an_array(write, arrays):
    path = write({**arrays, "rewards": None})
    with h5py.File(path, "a") as file:
        file.create_group("rewards")
    assert_refused(path, "has a 'rewards' that is not an array")


def test_no_rows(write, arrays):
    assert_refused(write({key: value[:0] for key, value in arrays.items()}), "has no rows")


def test_one_row_leaves_nothing_for_d4rl(write, arrays):
    assert_refused(write({key: value[:1] for key, value in arrays.items()}), "no usable transition", "d4rl")


def test_not_hdf5(tmp_path):
    for number, content in enumerate([b"", b"text", os.urandom(5000), b"PK\x03\x04" + bytes(1000)]):
        path = tmp_path / f"{number}.hdf5"
        path.write_bytes(content)
        assert_refused(path, "is not an HDF5 file")


def test_cut_short(write, arrays):
    path = write(arrays)
    content = path.read_bytes()
    for length in (len(content) - 1, len(content) // 2, 200):
        path.write_bytes(content[:length])
        assert_refused(path, "is cut short|is damaged")


def test_not_a_file(tmp_path):
    assert_refused(tmp_path, "is a folder; give the path of a file")
    fifo = tmp_path / "pipe.hdf5"
    os.mkfifo(fifo)
    assert_refused(fifo, "is no regular file but a pipe")
    with pytest.raises(DatasetError, match="is not a file"):
        hdf5.check(fifo)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(write, arrays):
    path = write(arrays)
    path.chmod(0)
    assert_refused(path, "cannot be opened")


@pytest.mark.parametrize("link", [h5py.ExternalLink("other.hdf5", "/rewards"), h5py.SoftLink("/elsewhere/rewards")])
def test_links_to_other_files(write, arrays, link):
    write(arrays, "other.hdf5")
    path = write({**arrays, "rewards": None})
    with h5py.File(path, "a") as file:
        file["elsewhere"] = h5py.ExternalLink("other.hdf5", "/")
        file["rewards"] = link
        assert file["rewards"].shape == (60,), "HDF5 itself would follow it"
    assert_refused(path, "has no 'rewards' of its own")


def test_raw_data_in_other_files(write, arrays, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(1000))
    path = write({**arrays, "rewards": None})
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (60,), "f4", external=[(tmp_path / "secret", 0, 240)])
    assert_refused(path, "keeps 'rewards' in another file")


def test_views_of_other_files(write, arrays):
    write(arrays, "other.hdf5")
    path = write({**arrays, "rewards": None})
    with h5py.File(path, "a") as file:
        layout = h5py.VirtualLayout((60,), "f4")
        layout[:] = h5py.VirtualSource("other.hdf5", "rewards", (60,))
        file.create_virtual_dataset("rewards", layout)
    assert_refused(path, "keeps 'rewards' in another file")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("elsewhere/rewards", "has no 'elsewhere/rewards' of its own"),
        ("stored%%", "keeps 'rewards' in another file"),
        ("missing", "has no 'missing' of its own"),
        ("view", "virtual twice over"),
        ("rewards", "virtual twice over"),
        ("outside", "keeps 'outside' in another file"),
        ("stored/part", "is damaged"),
    ],
)
def test_views_that_lead_out_of_the_file_or_nowhere(write, arrays, tmp_path, name, message):
    write(arrays, "other.hdf5")
    (tmp_path / "secret").write_bytes(bytes(1000))
    path = write({**arrays, "rewards": None, "stored": arrays["rewards"]})
    with h5py.File(path, "a") as file:
        file["elsewhere"] = h5py.ExternalLink("other.hdf5", "/")
        file.create_dataset("outside", (60,), "f4", external=[(tmp_path / "secret", 0, 240)])
        for view, source in (("view", "stored"), ("rewards", name)):
            layout = h5py.VirtualLayout((60,), "f4")
            layout[:] = h5py.VirtualSource(".", source, (60,))
            file.create_virtual_dataset(view, layout)
    assert_refused(path, message)


@pytest.mark.parametrize("shape", [(10**12,), (10**9, 2), (2**62, 4)])
def test_declared_sizes_beyond_reason(write, arrays, shape):
    path = write({**arrays, "rewards": None})
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", shape, "f4", chunks=(1,) * len(shape))
    began = time.perf_counter()
    assert_refused(path, "GB of arrays in 0.0 MB, more than it can hold")
    assert time.perf_counter() - began < 10


def test_a_row_that_needs_too_much_memory(write, arrays):
    """5 GB that are declared but not stored, in a file large enough to hold them compressed."""
    path = write({**arrays, "observations": None, "padding": np.ones(5_000_000, bool)})
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", (1, 5 * 10**9), "u1", chunks=(1, 1000))
    assert_refused(path, "needs more than 4 GiB of memory")


def test_memory_limit_ends_in_a_sentence(write, arrays, monkeypatch):
    path = write(arrays)
    code = "import offline_rl.data.hdf5 as h; h.MEMORY_LIMIT = 1 << 30; h._limit_resources(60); bytearray(1 << 30)"
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MemoryError" in failed.stderr
    monkeypatch.setattr(
        hdf5, "_child_environment", lambda: {**os.environ, "PYTHONPATH": _module_that("raise MemoryError")}
    )
    assert_refused(path, "needs more than 4 GiB of memory")


def _module_that(does):
    """An import path on which opening an HDF5 file does something else first."""
    folder = Path(os.environ["PYTEST_FOLDER"]) / "h5py"
    folder.mkdir(exist_ok=True)
    opening = textwrap.indent(textwrap.dedent(does), "    ")
    (folder / "__init__.py").write_text(f"import os, time\ndef File(*arguments, **options):\n{opening}\n")
    return os.pathsep.join([str(folder.parent), *sys.path])


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_FOLDER", str(tmp_path))


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("os.kill(os.getpid(), 11)", r"crashed the HDF5 library \(signal 11\)"),
        ("os._exit(3)", "the reader failed"),
        ("import no_such_module", "the reader failed .*no_such_module.*check that h5py is installed"),
        ("raise OSError(28, 'full')", "cannot be unpacked, because .* is full"),
        ("raise RuntimeError('two\\nlines')", r"is damaged \(two lines\)"),
    ],
)
def test_the_child_fails(write, arrays, monkeypatch, does, message):
    monkeypatch.setattr(hdf5, "_child_environment", lambda: {**os.environ, "PYTHONPATH": _module_that(does)})
    assert_refused(write(arrays), message)


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("time.sleep(60)", "was not read in 2 s; try again when"),
        ("while True: pass", "took more than 1 s to read; it is damaged or malicious"),
    ],
    ids=["waits", "works"],
)
def test_the_child_hangs(write, arrays, monkeypatch, does, message):
    """On a busy machine a whole file waits for its turn and must not be called damaged."""
    monkeypatch.setattr(hdf5, "_child_environment", lambda: {**os.environ, "PYTHONPATH": _module_that(does)})
    monkeypatch.setattr(hdf5, "PATIENCE", 2 if "sleep" in does else 20)
    began = time.perf_counter()
    with pytest.raises(DatasetError, match=message):
        hdf5.read(write(arrays), ALL_KEYS, seconds=1)
    assert time.perf_counter() - began < 30


# Where it is called from


def test_the_parent_never_loads_h5py_and_scripts_need_no_guard(write, arrays, tmp_path):
    write(arrays)
    (tmp_path / "h5py.py").write_text("raise SystemExit('the working directory shadows a library')")
    (tmp_path / "elsewhere").mkdir()
    script = tmp_path / "elsewhere" / "script.py"
    script.write_text(
        "import sys\nfrom offline_rl.data import load_dataset\n"
        "print(len(load_dataset('file.hdf5')), 'h5py' in sys.modules, flush=True)\n"
    )
    root = Path(hdf5.__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "HDF5_PLUGIN_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("60 False\n", "")
