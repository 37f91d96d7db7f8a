"""Published label files: their layouts, and what is done about files that are damaged, hostile or of another dataset.

The index files here are made by the layouts of the public repositories; only the .npz files are the published ones.
"""

import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
from helpers.datasets import episodic_dataset

from offline_rl.data import Dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.errors import DatasetError
from offline_rl.preferences import labels, unpickle
from offline_rl.preferences.pairs import agreement, read_pairs, relabelled
from offline_rl.preferences.teacher import Teacher

LENGTHS = [150, 30, 250, 110, 400]
FIRST = np.array([0, 180, 430, 540, 12])
SECOND = np.array([600, 0, 200, 200, 700])
CODES = [0, 1, -1, 1, 0]
AS_LABELS = [0, 1, 0.5, 1, 0]
HOPPER, WALKER = "hopper-medium-expert-v2_num100", "walker2d-medium-expert-v2_num100"


@pytest.fixture(scope="module")
def dataset():
    return episodic_dataset(LENGTHS)


@pytest.fixture(scope="module")
def preprocessing(dataset):
    return Preprocessing.fit(dataset, normalize=True)


@pytest.fixture(scope="module")
def rows(dataset, preprocessing):
    return PackedRows.of(dataset, preprocessing)


@pytest.fixture
def read(rows, preprocessing):
    return lambda path, **options: read_pairs(path, rows, preprocessing, **options)


def write(path, value, protocol=4):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def preference_transformer(folder, *, first=FIRST, second=SECOND, codes=CODES, ending="_num5", protocol=4):
    """Three pickles as in csmile-1006/PreferenceTransformer: int32 indices, and a list of codes."""
    write(folder / f"indices{ending}", np.asarray(first, np.int32), protocol)
    write(folder / f"indices_2{ending}", np.asarray(second, np.int32), protocol)
    write(folder / "label_dummy", np.ones((5, 2)), protocol)
    write(folder / "label_human", codes, protocol)
    return folder


def uni_rlhf(folder, label, kind="human_label", *, first=FIRST, second=SECOND, length=100):
    """Three pickles as in pickxiguapi/Clean-Offline-RLHF, whose names end alike."""
    ending = f"_domain_mujoco_env_hopper-medium-v2_num_5_len_{length}_1d2f.pkl"
    write(folder / f"indices_1{ending}", np.asarray(first))
    write(folder / f"indices_2{ending}", np.asarray(second))
    write(folder / f"{kind}{ending}", label)
    return folder


def contents(pairs=6, steps=7, observations=4, actions=2, **changed):
    """Arrays as in the .npz files of jhejna/inverse-preference-learning."""
    generator = np.random.default_rng(0)
    arrays = {
        "obs_1": generator.normal(size=(pairs, steps, observations)),
        "obs_2": generator.normal(size=(pairs, steps, observations)),
        "action_1": generator.uniform(-1, 1, (pairs, steps, actions)),
        "action_2": generator.uniform(-1, 1, (pairs, steps, actions)),
        "label": np.resize([0.0, 0.5, 1.0], pairs),
    } | changed
    return {field: array for field, array in arrays.items() if array is not None}


def save(path, arrays):
    np.savez_compressed(path, **arrays)
    return path


def by_rows(pairs):
    return {tuple(start): label for start, label in zip(pairs.rows[:, :, 0].tolist(), pairs.label, strict=True)}


def expected():
    return {(int(a), int(b)): label for a, b, label in zip(FIRST, SECOND, AS_LABELS, strict=True)}


# Index files


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_the_layout_of_preference_transformer(dataset, preprocessing, read, tmp_path, protocol):
    pairs = read(preference_transformer(tmp_path / "labels", protocol=protocol))
    assert by_rows(pairs) == expected()
    assert pairs.rows.shape == (5, 2, 100)
    assert (np.diff(pairs.rows, axis=2) == 1).all()
    assert np.array_equal(pairs.observation, preprocessing.normalized(dataset.observations)[pairs.rows])
    assert np.array_equal(pairs.action, dataset.actions[pairs.rows])
    assert np.isnan(pairs.probability).all()


def test_pickles_of_numpy_1_name_its_modules_otherwise(tmp_path):
    content = pickle.dumps([np.arange(5), np.float64(0.5)], 3)
    older = content.replace(b"numpy._core.", b"numpy.core.")
    assert older != content
    (tmp_path / "older").write_bytes(older)
    array, number = unpickle.load(tmp_path / "older")
    assert unpickle.as_array(array).tolist() == list(range(5))
    assert number == 0.5


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["<i4", ">i8", "<f4", "|b1", "<u2"])
def test_arrays_come_back_as_they_were(tmp_path, protocol, dtype):
    for array in (np.arange(6).astype(dtype), np.asfortranarray(np.arange(6).reshape(3, 2).astype(dtype))):
        loaded = unpickle.as_array(unpickle.load(write(tmp_path / "array", array, protocol)))
        assert np.array_equal(loaded, array)
        assert loaded.dtype == array.dtype


def test_the_first_indices_are_those_of_the_labels(read, tmp_path):
    folder = preference_transformer(tmp_path / "labels", first=[*FIRST, 1, 2, 3], second=[*SECOND, 4, 5, 6])
    assert by_rows(read(folder)) == expected()


@pytest.mark.parametrize(
    "label", [CODES, np.array(CODES), np.array(CODES)[:, None], [np.int64(code) for code in CODES]]
)
def test_codes_may_be_lists_or_arrays(read, tmp_path, label):
    assert by_rows(read(uni_rlhf(tmp_path / "labels", label))) == expected()


def test_probabilities_of_both_segments_are_labels_of_the_second(read, tmp_path):
    """Broken by taking the first column, which turns every preference round."""
    both = np.stack([1 - np.array(AS_LABELS), AS_LABELS], 1)
    for label in (both, both.tolist(), list(both)):
        assert by_rows(read(uni_rlhf(tmp_path / "labels", label, "fake_label"))) == expected()
    soft = np.tile([0.3, 0.7], (5, 1))
    assert read(uni_rlhf(tmp_path / "labels", soft, "fake_label")).label.tolist() == [0.7] * 5


def test_the_length_is_in_the_names_or_else_usual_for_the_kind(rows, read, tmp_path):
    assert read(uni_rlhf(tmp_path / "a", CODES, length=64)).rows.shape[2] == 64
    assert read(preference_transformer(tmp_path / "b", ending="_num5_q50")).rows.shape[2] == 50
    assert read(preference_transformer(tmp_path / "c"), length=20).rows.shape[2] == 20
    plain = uni_rlhf(tmp_path / "d", [0], first=[180], second=[540])
    for file in list(plain.iterdir()):
        file.rename(file.with_name(file.name.replace("_len_100_1d2f", "")))
    assert read(plain).rows.shape[2] == 200
    with pytest.raises(DatasetError, match="segments of 64 steps, not 65; leave the length out"):
        read(tmp_path / "a", length=65)


def test_the_order_of_a_file_does_not_matter(rows, read, tmp_path):
    """Broken by anything that goes by the place of a pair, such as its label or the hold-out."""
    order = np.random.default_rng(3).permutation(5)
    pairs = read(uni_rlhf(tmp_path / "a", CODES))
    permuted = read(uni_rlhf(tmp_path / "b", np.array(CODES)[order], first=FIRST[order], second=SECOND[order]))
    for one, other in (
        (pairs, permuted),
        *zip(pairs.split(0.4, 0), permuted.split(0.4, 0), strict=True),
        (pairs, permuted.aligned_to(pairs)),
    ):
        for field in ("observation", "action", "label", "rows"):
            assert np.array_equal(getattr(one, field), getattr(other, field)), field


def test_people_and_scripts_are_compared_pair_by_pair(rows, read, tmp_path):
    """The same pairs in two files, in different orders, as Uni-RLHF has them."""
    order = np.array([4, 2, 0, 1, 3])
    people = read(uni_rlhf(tmp_path / "a", CODES))
    script = relabelled(people, rows, Teacher(), seed=0)
    both = np.stack([1 - script.label, script.label], 1)[order]
    first, second = script.rows[order, :, 0].T
    scripted = read(uni_rlhf(tmp_path / "b", both, "fake_label", first=first, second=second))
    assert np.array_equal(scripted.aligned_to(people).label, script.label)
    assert agreement(people, scripted.aligned_to(people)) == agreement(people, script)


def test_the_label_file_may_be_named_itself(read, tmp_path):
    folder = preference_transformer(tmp_path / "labels")
    assert by_rows(read(folder / "label_human")) == expected()
    write(folder / "human_label_more.pkl", CODES)
    with pytest.raises(DatasetError, match=r"needs one label file.*has human_label_more.pkl, label_human; give the"):
        read(folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"codes": [0, 1, 2, 1, 0]}, r"label_human: the label of pair 2 is 2.0; known are 0 \(first\), 1 \(second\)"),
        ({"codes": [0, 1, 0.5, 1, 0]}, "label_human: the label of pair 2 is 0.5"),
        ({"codes": [0, 1, float("nan"), 1, 0]}, "label_human holds no labels"),
        ({"codes": []}, "label_human has no labels"),
        ({"codes": "01"}, "label_human holds no labels"),
        ({"codes": [[0.5, 0.6]] * 5}, "two probabilities that add up to 1"),
        ({"codes": np.array(0)}, "label_human holds no labels"),
        (
            {"first": [0, 180, 430, 540, 940]},
            r"indices_num5: pair 4 starts at row 940, but the dataset has 940; load the",
        ),
        ({"second": [-1, 0, 200, 200, 700]}, r"indices_2_num5: pair 0 starts at row -1, but the dataset has 940"),
        (
            {"first": [0, 180, 331, 540, 12]},
            r"100 steps from row 331 \(pair 2\) run into the next episode.* at row 430",
        ),
        ({"first": [0, 180]}, "indices_num5 has 2 indices for 5 labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(read, tmp_path, change, complaint):
    with pytest.raises(DatasetError, match=complaint):
        read(preference_transformer(tmp_path / "labels", **change))


def test_a_segment_may_end_with_its_episode(read, tmp_path):
    assert read(preference_transformer(tmp_path / "labels", first=[50, 330, 440, 840, 840])).rows.max() == 939


def test_indices_that_are_no_whole_numbers_are_refused(read, tmp_path):
    folder = preference_transformer(tmp_path / "labels")
    write(folder / "indices_num5", FIRST.astype(float))
    with pytest.raises(DatasetError, match="indices_num5 holds no whole numbers"):
        read(folder)
    (folder / "indices_num5").unlink()
    with pytest.raises(DatasetError, match="needs one file of indices beside it, named indices_1 or indices_num"):
        read(folder)


@pytest.mark.parametrize("name", ["missing", "missing.npz", "empty"])
def test_what_is_not_there_is_named(read, tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=f"{name}"):
        read(tmp_path / name)
    (tmp_path / "other.bin").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"other.bin is no label file; their names begin with label_human"):
        read(tmp_path / "other.bin")


# Hostile and damaged pickles


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(marker):
    touch = f"touch {marker}"
    call = Calls(os.system, touch)
    objects = np.empty(1, object)
    objects[0] = call
    return {
        "system": call,
        "eval": Calls(eval, f"open({str(marker)!r}, 'w')"),
        "nested": [0, {"label": (1, [call])}],
        "in an array": objects,
        "getattr": Calls(getattr, "a", "upper"),
        "numpy": Calls(np.load, str(marker)),
        "open": Calls(open, str(marker), "w"),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", hostile(""))
def test_nothing_that_a_pickle_asks_for_is_run(read, tmp_path, name, protocol):
    folder, marker = preference_transformer(tmp_path / "labels"), tmp_path / "marker"
    write(folder / "label_human", hostile(marker)[name], protocol)
    asks = r"asks for '[\w.]+', which labels have no need of; not run; get the file again"
    unread = "is damaged or no pickle of numbers"  # the array's type is refused before what is in it
    with pytest.raises(DatasetError, match=f"label_human ({unread if name == 'in an array' else asks})"):
        read(folder)
    assert not marker.exists()
    if name in ("system", "eval", "nested", "in an array", "open"):  # the same file does run where nobody checks
        pickle.loads((folder / "label_human").read_bytes())
        assert marker.exists()


ARRAY = b"cnumpy\nndarray\n"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
INT32 = b"cnumpy\ndtype\n(X\x02\x00\x00\x00i4tR"
BOMBS = {
    "place in memory": b"\x80\x02Nr\x00\x00\x00\x01.",  # all below it are 256 MiB
    "size of bytes": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b".",
    "size of bytearray": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
    "frame": b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b".",
    "shape": RECONSTRUCT
    + b"("
    + ARRAY
    + b"(K\x00tC\x01btR(K\x01(\x8a\x06\x00\x00\x00\x00\x00\x10t"
    + INT32
    + b"\x89C\x04abcdtb.",
    "object type": b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR.",
    "record type": b"cnumpy\ndtype\n(X\x02\x00\x00\x00V8tR.",
    "function changed": RECONSTRUCT + b"(N}X\x0c\x00\x00\x00__defaults__(K\x07tstb.",
    "persistent": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "extension": b"\x80\x02\x82\x01.",
    "class built": ARRAY + b")\x81.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickles_that_ask_for_memory_or_for_more_than_numbers_are_refused(tmp_path, name):
    path = tmp_path / "label_human"
    path.write_bytes(BOMBS[name])
    with pytest.raises(DatasetError, match="label_human is damaged or no pickle of numbers"):
        unpickle.load(path)


def test_lists_of_lists_of_lists_are_not_unfolded(read, tmp_path):
    """A file of a few hundred bytes, of which 10^30 numbers could be made."""
    nested = [0]
    for _ in range(30):
        nested = [nested] * 10
    folder = preference_transformer(tmp_path / "labels")
    for bomb in (nested, [np.arange(1000)] * 1000):
        assert unpickle.as_array(unpickle.load(write(folder / "label_human", bomb))) is None
        with pytest.raises(DatasetError, match="label_human holds no labels"):
            read(folder)


def test_great_files_are_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr(unpickle, "SIZE_LIMIT", 1 << 20)
    with pytest.raises(DatasetError, match="is larger than 1 MiB"):
        unpickle.load(write(tmp_path / "label_human", bytes(2 << 20)))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_truncated_pickle_is_named(read, tmp_path, protocol):
    """Cut after every byte, of labels and of indices."""
    folder = preference_transformer(tmp_path / "labels", protocol=protocol)
    for name in ("label_human", "indices_num5"):
        whole = (folder / name).read_bytes()
        for size in range(len(whole)):
            (folder / name).write_bytes(whole[:size])
            with pytest.raises(DatasetError, match=f"{name} is damaged"):
                read(folder)
        (folder / name).write_bytes(whole)


def test_damaged_bytes_never_cause_another_error(tmp_path):
    generator, path = np.random.default_rng(0), tmp_path / "indices"
    whole = [pickle.dumps([np.arange(9), [0, 1, -1], np.float32(1)], protocol) for protocol in (3, 4, 5)]
    refused = 0
    for _ in range(600):
        content = bytearray(whole[generator.integers(3)])
        for place in generator.integers(len(content), size=generator.integers(1, 4)):
            content[place] = generator.integers(256)
        path.write_bytes(content)
        try:
            unpickle.as_array(unpickle.load(path))
        except DatasetError:
            refused += 1
    assert refused > 200


# Files of contents


def test_the_layout_of_inverse_preference_learning(preprocessing, read, tmp_path):
    arrays = contents()
    pairs = read(save(tmp_path / "pairs.npz", arrays))
    assert pairs.rows is None
    assert pairs.label.tolist() == arrays["label"].tolist()
    for place in (0, 1):
        observation = preprocessing.normalized(arrays[f"obs_{place + 1}"].astype(np.float32))
        assert np.array_equal(pairs.observation[:, place], observation)
        assert np.array_equal(pairs.action[:, place], arrays[f"action_{place + 1}"].astype(np.float32))
    assert np.isnan(pairs.probability).all()
    assert len(read(tmp_path / "pairs.npz", length=7)) == 6


def test_actions_outside_by_rounding_are_cut_and_others_refused(read, tmp_path):
    action = np.ones((6, 7, 2))
    action[3, 5, 1] = 1 + 1e-5
    assert read(save(tmp_path / "pairs.npz", contents(action_2=action))).action.max() == 1
    action[3, 5, 1] = -1.1
    with pytest.raises(DatasetError, match=r"'action_2' has -1.1 in pair 3, outside the dataset's action bounds"):
        read(save(tmp_path / "pairs.npz", contents(action_2=action)))


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"label": None}, "has no 'label'; it needs obs_1, obs_2, action_1, action_2, label"),
        ({"label": np.array([0, 1, -1, 0, 0, 0])}, r"the label of pair 2 is -1.0; known are 0 \(first\), 1 \(second\)"),
        ({"label": np.zeros(5)}, "'label' has 5 labels for 6 pairs"),
        ({"label": np.full(6, np.nan)}, "'label' has a number that is not finite in pair 0"),
        ({"label": np.array(["a"] * 6)}, "'label' holds no numbers"),
        ({"obs_2": np.zeros((6, 8, 4))}, r"'obs_1' has shape \(6, 7, 4\) and 'obs_2' has \(6, 8, 4\)"),
        ({"action_1": np.zeros((6, 2)), "action_2": np.zeros((6, 2))}, r"'action_1' has shape \(6, 2\)"),
        ({"action_1": np.zeros((6, 8, 2)), "action_2": np.zeros((6, 8, 2))}, r"'action_1' has shape \(6, 8, 2\)"),
        ({"obs_1": np.full((6, 7, 4), np.inf)}, "'obs_1' has a number that is not finite in pair 0"),
        ({"obs_1": np.full((6, 7, 4), 1e300)}, "'obs_1' has a number that is not finite in pair 0"),
        ({"obs_1": np.zeros((6, 7, 5)), "obs_2": np.zeros((6, 7, 5))}, "'obs_1' has 5 columns but the dataset has 4"),
        ({"action_1": np.zeros((6, 7, 3)), "action_2": np.zeros((6, 7, 3))}, "'action_1' has 3 columns but"),
    ],
)
def test_contents_that_do_not_fit_are_refused(read, tmp_path, changed, complaint):
    with pytest.raises(DatasetError, match=rf"pairs.npz.*{complaint}"):
        read(save(tmp_path / "pairs.npz", contents(**changed)))
    with pytest.raises(DatasetError, match="segments of 7 steps, not 8"):
        read(save(tmp_path / "pairs.npz", contents()), length=8)


def test_pairs_are_needed(read, tmp_path):
    with pytest.raises(DatasetError, match="has no labels"):
        read(save(tmp_path / "pairs.npz", contents(pairs=0)))
    with pytest.raises(DatasetError, match="has no steps"):
        read(save(tmp_path / "pairs.npz", contents(steps=0)))


def test_objects_in_an_archive_are_not_unpickled(read, tmp_path):
    marker = tmp_path / "marker"
    objects = np.empty(6, object)
    objects[:] = [Calls(os.system, f"touch {marker}")] * 6
    with pytest.raises(DatasetError, match="'label' holds no numbers but object"):
        read(save(tmp_path / "pairs.npz", contents(label=objects)))
    assert not marker.exists()


def test_an_archive_that_declares_more_than_it_has_is_refused(read, tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**7, 10**6)})
    path = save(tmp_path / "pairs.npz", contents(label=None))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("label.npy", header.getvalue() + bytes(8))
    with pytest.raises(DatasetError, match="'label' declares 80000000000000 bytes, more than it has"):
        read(path)


def test_a_truncated_archive_is_named(read, tmp_path):
    path = save(tmp_path / "pairs.npz", contents())
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(DatasetError, match=r"pairs.npz is damaged or no .npz file"):
            read(path)


def test_damaged_archives_never_cause_another_error(read, tmp_path):
    generator, path = np.random.default_rng(0), save(tmp_path / "pairs.npz", contents())
    whole, refused = path.read_bytes(), 0
    for _ in range(300):
        content = bytearray(whole)
        for place in generator.integers(len(content), size=generator.integers(1, 6)):
            content[place] = generator.integers(256)
        path.write_bytes(content)
        try:
            read(path)
        except DatasetError:
            refused += 1
    assert refused > 100


# The published files


def real_pairs(folder, name, sizes):
    dataset = Dataset.from_arrays(
        observations=np.zeros((2, sizes[0])), actions=np.zeros((2, sizes[1])), rewards=[0, 0], terminated=[False, True]
    )
    preprocessing = Preprocessing.fit(dataset, normalize=False)
    rows = PackedRows.of(dataset, preprocessing)
    return [read_pairs(folder / "real" / f"{name}_{who}_train.npz", rows, preprocessing) for who in ("human", "script")]


@pytest.mark.parametrize(
    ("name", "sizes", "counts", "agree"), [(HOPPER, (11, 3), (32, 28, 40), 31), (WALKER, (17, 6), (30, 24, 46), 61)]
)
def test_published_labels_of_people_and_scripts(data_folder, name, sizes, counts, agree):
    people, script = real_pairs(data_folder, name, sizes)
    assert people.observation.shape == (100, 2, 100, sizes[0])
    assert tuple(int((people.label == label).sum()) for label in (0, 0.5, 1)) == counts
    assert agreement(people, script, strict=False) == agree / 100
    assert agreement(people, script) == agree / (100 - counts[1])
    assert np.abs(people.action).max() <= 1


@pytest.mark.parametrize(("name", "sizes"), [(HOPPER, (11, 3)), (WALKER, (17, 6))])
def test_the_second_segment_of_a_published_file_is_preferred_where_the_label_is_1(data_folder, name, sizes):
    """The simulator's rewards of the published segments decide: turned round, almost no label would agree."""
    _, script = real_pairs(data_folder, name, sizes)
    with h5py.File(data_folder / "real" / f"{name.removesuffix('_num100')}_segments.hdf5") as file:
        segment, reward = file["segment"][:], file["rewards_recomputed"][:]
        starts = np.searchsorted(segment, np.arange(200))
        observation = file["observations"][:][starts]
    assert np.array_equal(observation, script.observation[:, :, 0].swapaxes(0, 1).reshape(200, -1))
    returns = np.bincount(segment, reward).reshape(2, 100)
    label, _ = Teacher().labels(returns.T[:, :, None], 1.0, 0)
    assert (label == script.label).mean() >= 0.99


def test_a_pickle_cannot_multiply_its_own_size(tmp_path):
    """Fails if each call of a file may return its text again: six bytes of the file for four million of memory."""
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
    path = tmp_path / "label_human.pkl"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nq\x00" + text + b"q\x0100(" + b"h\x00h\x01\x85R" * 2000 + b"l.")
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"label_human.pkl is damaged or no pickle of numbers"):
        unpickle.load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * path.stat().st_size


@pytest.mark.parametrize("item", [b"\x88", b"K\x05", b"]"])
def test_a_pickle_of_too_many_steps_is_refused(tmp_path, item):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02](" + item * 1_050_000 + b"e.")
    with pytest.raises(DatasetError, match="damaged or no pickle"):
        unpickle.load(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "values",
    [
        [True] * 100_000,
        [1] * 50_000 + [0.5] * 50_000,
        [[0, 1]] * 100_000,
        [np.array([0.5, 0.5])] * 100_000,
        [np.int64(3)] * 100_000,
        [[1]] * 100_000,
    ],
    ids=["bool", "mixed", "pairs", "arrays", "scalars", "ones"],
)
def test_lists_of_numbers_become_one_array_in_one_pass(tmp_path, values):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(values))
    began = time.process_time()
    found = unpickle.as_array(unpickle.load(path))
    assert time.process_time() - began < 2
    np.testing.assert_array_equal(found, np.array(values))
    assert found.dtype == np.array(values).dtype


@pytest.mark.parametrize("values", [[[1, 2], [1]], [[1], 1], [[1, 2, 3]], [[[1]]], ["a"], [None], [2**64], [1j]])
def test_lists_of_anything_else_are_none(tmp_path, values):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(values))
    try:
        assert unpickle.as_array(unpickle.load(path)) is None
    except DatasetError:
        assert values == [1j]


def npz(path, compression=zipfile.ZIP_DEFLATED, **arrays):
    """Write an archive whose arrays are given as they are, or by a header and the zeros behind it."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, (shape, kind, size) in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                block = bytes(1 << 20)
                for start in range(0, size, len(block)):
                    member.write(block[: size - start])
    return path


def test_a_bomb_of_zeros_is_refused_before_it_is_read(tmp_path):
    """Fails if only what one array has in the file is bounded: zeros shrink to a thousandth."""
    size = 16 << 20
    path = npz(tmp_path / "bomb.npz", **dict.fromkeys(labels.CONTENT_FIELDS, ((size // 64, 8, 8), "i1", size)))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"bomb.npz: 'obs_\d' declares so much that all arrays come to"):
        labels.read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 << 20


@pytest.mark.parametrize(
    ("shape", "kind", "said"),
    [
        ((10**9, 10**9, 10**9), "f4", "more than it has"),
        ((-1, 2, 2), "f4", "more than it has"),
        ((1, 1, 1), "c8", "holds no numbers but complex64"),
        ((1, 1, 1), "O", "holds no numbers but object"),
        ((1, 1, 1), "M8[s]", "holds no numbers but datetime64"),
    ],
)
def test_what_an_array_declares_is_checked_before_it_is_read(tmp_path, shape, kind, said):
    path = npz(tmp_path / "x.npz", **dict.fromkeys(labels.CONTENT_FIELDS, (shape, kind, 64)))
    with pytest.raises(DatasetError, match=said):
        labels.read(path)
