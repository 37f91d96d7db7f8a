"""Files are read by what they are, packed or not, under whatever name."""

import bz2
import gzip
import io
import lzma
import os
import socket
import zipfile

import numpy as np
import pandas
import pyarrow
import pytest

from offline_rl.benchmark import _stem
from offline_rl.data import kinds, load_dataset
from offline_rl.errors import DatasetError
from offline_rl.training.run import _short

TEXT = "observation_0,action_0,reward,episode\n" + "".join(f"{row},{row / 8},1,{row // 4}\n" for row in range(8))


def zipped(text):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("own.csv", text)
    return buffer.getvalue()


PACKED = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda text: pyarrow.Codec("zstd").compress(text, asbytes=True),
    "zip": zipped,
}


def refusal(path):
    with pytest.raises(DatasetError) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)
    return str(caught.value)


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(TEXT)
    return load_dataset(path)


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("name", ["own.csv.{}", "OWN.CSV.{}", "own.{}", "own.txt", "own"])
def test_packed_tables_are_read(tmp_path, plain, suffix, name):
    path = tmp_path / name.format(suffix if name.islower() else suffix.upper())
    path.write_bytes(PACKED[suffix](TEXT.encode()))
    assert load_dataset(path).fingerprint == plain.fingerprint


def test_xz_streams_one_after_the_other(tmp_path, plain):
    half = len(TEXT) // 2
    path = tmp_path / "own.csv.xz"
    path.write_bytes(lzma.compress(TEXT[:half].encode()) + bytes(4) + lzma.compress(TEXT[half:].encode()))
    assert load_dataset(path).fingerprint == plain.fingerprint


@pytest.mark.parametrize("suffix", PACKED)
def test_a_packed_file_that_is_cut_is_refused(tmp_path, suffix):
    path = tmp_path / f"own.csv.{suffix}"
    content = PACKED[suffix](TEXT.encode())
    for length in (len(content) - 5, len(content) // 2):
        path.write_bytes(content[:length])
        assert "cannot be unpacked as" in refusal(path)


@pytest.mark.parametrize("suffix", PACKED)
def test_what_a_packed_file_may_hold_has_a_bound(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(kinds, "EXPANSION_ALLOWANCE", 1 << 20)
    path = tmp_path / f"bomb.csv.{suffix}"
    path.write_bytes(PACKED[suffix](bytes(32 << 20)))
    assert "more than a table does" in refusal(path)


def test_an_xz_file_does_not_say_how_much_memory_it_takes(tmp_path):
    path = tmp_path / "bomb.csv.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 29}]
    path.write_bytes(lzma.compress(TEXT.encode(), filters=filters))
    assert "cannot be unpacked as xz (Memory usage limit" in refusal(path)


def test_a_parquet_file_that_declares_more_than_it_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(kinds, "EXPANSION_ALLOWANCE", 1 << 20)
    rows = 2_000_000
    frame = pandas.DataFrame(dict.fromkeys(("observation_0", "action_0", "reward", "episode"), np.zeros(rows)))
    frame.to_parquet(tmp_path / "bomb.parquet")
    assert "declares 64 MB of numbers" in refusal(tmp_path / "bomb.parquet")


def test_a_text_stored_once_for_many_rows_is_not_copied_for_each(tmp_path):
    rows = 100_000
    frame = pandas.DataFrame({"observation_0": np.arange(rows), "action_0": np.sin(np.arange(rows)), "reward": 1.0})
    episode = pandas.Categorical.from_codes(np.zeros(rows, int), ["x" * 100_000])
    frame.assign(episode=episode).to_parquet(tmp_path / "own.parquet")
    assert len(load_dataset(tmp_path / "own.parquet")) == rows - 1


def test_a_zip_of_several_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        archive.writestr("a.csv", TEXT)
        archive.writestr("b.csv", TEXT)
    assert "is a zip of 2 files" in refusal(tmp_path / "own.zip")


def test_packed_twice_is_refused(tmp_path):
    (tmp_path / "own.csv.gz").write_bytes(gzip.compress(gzip.compress(TEXT.encode())))
    assert "unpack it first" in refusal(tmp_path / "own.csv.gz")


def test_hdf5_within_a_packing_is_refused(tmp_path, write, arrays):
    (tmp_path / "own.hdf5.gz").write_bytes(gzip.compress(write(arrays).read_bytes()))
    assert "unpack it first" in refusal(tmp_path / "own.hdf5.gz")


@pytest.mark.parametrize("name", ["own.h5", "own.H5", "OWN.HDF5", "own.csv", "own", "own.parquet", "own.csv.gz"])
def test_hdf5_is_known_by_its_first_bytes(write, arrays, name):
    assert len(load_dataset(write(arrays, name))) == 60


@pytest.mark.parametrize("name", ["own.PARQUET", "own.csv", "own.pq", "own"])
def test_parquet_is_known_by_its_first_bytes(tmp_path, plain, name):
    pandas.read_csv(io.StringIO(TEXT)).to_parquet(tmp_path / name)
    assert load_dataset(tmp_path / name).fingerprint == plain.fingerprint


@pytest.mark.parametrize("name", ["own.CSV", "own.txt", "own", "own.dat"])
def test_text_is_a_table_under_any_name(tmp_path, plain, name):
    (tmp_path / name).write_text(TEXT)
    assert load_dataset(tmp_path / name).fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own.hdf5", TEXT.encode(), "is not an HDF5 file"),
        ("own.parquet", TEXT.encode(), "cannot be read as a table"),
        ("own.csv", b"\x93NUMPY\x01\x00v\x00", "is no HDF5, Parquet or CSV file"),
        ("own.csv", TEXT.encode("utf-16"), "is text in UTF-16"),
        ("own.csv", TEXT.replace("reward", "reward,pièce").encode("latin-1"), "is not text in UTF-8"),
        ("own.csv", b"", "is empty"),
        ("own.csv", b"PK\x03\x04" + bytes(50), "cannot be unpacked as zip"),
    ],
)
def test_a_name_that_is_not_true_ends_in_a_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name)


def test_a_folder_a_pipe_and_a_device_are_called_what_they_are(tmp_path):
    (tmp_path / "runs").mkdir()
    assert "is a folder; give the path of a file; it holds none" in refusal(tmp_path / "runs")
    (tmp_path / "runs" / "own.csv").write_text(TEXT)
    assert f"such as '{tmp_path / 'runs' / 'own.csv'}'" in refusal(tmp_path / "runs")
    os.mkfifo(tmp_path / "pipe.csv")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.csv"))
        for path in (tmp_path / "pipe.csv", tmp_path / "s.csv", "/dev/zero", "/dev/null"):
            assert "is no regular file but a pipe, a socket or a device" in refusal(path)


@pytest.mark.parametrize("name", ["own.csv", "own.csv.gz", "OWN.CSV.XZ", "own.parquet", "own.h5", "own.hdf", "own.zip"])
def test_names_are_parted_from_suffixes_in_one_way(name):
    assert kinds.stem(name).lower() == _stem(f"some/{name}").lower() == _short(name).lower() == "own"


def test_names_without_a_known_suffix_stay():
    for name in ("hopper-medium-v2", "own.v2", "v1.5", "csv", ".csv", "mujoco/hopper/medium-v0"):
        assert kinds.stem(name) == name
    assert _stem("a.csv.gz+hopper-medium-v2+data/b.HDF5") == "a+hopper-medium-v2+b"
