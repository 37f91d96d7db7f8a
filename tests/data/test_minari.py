"""Minari's datasets, made here by Minari itself."""

import json
import subprocess
import sys
import time
import warnings

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from helpers.settings import TINY
from minari.data_collector.episode_buffer import EpisodeBuffer

import offline_rl as orl
from offline_rl.analysis.results import results_of
from offline_rl.analysis.tables import table
from offline_rl.cli.main import main
from offline_rl.data import dataset_names, load_dataset
from offline_rl.data.minari import CACHE
from offline_rl.envs.recovered import RANDOM_RETURNS
from offline_rl.envs.registry import MEASURED, RAW, STATED
from offline_rl.errors import DatasetError, TaskError
from offline_rl.training.evaluation import blocks

ID = "test/hopper/some-v0"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def box(size, limit=np.inf):
    return spaces.Box(-limit, limit, (size,), np.float64 if limit == np.inf else np.float32)


def buffers(lengths, observation_size=11, action_size=3, reward=1.0, flagged=True):
    """Episodes of noise, of which every third ends truly and the others are cut."""
    rng = np.random.default_rng(0)
    for number, length in enumerate(lengths):
        last = np.arange(length) == length - 1
        truly = flagged and number % 3 == 0
        yield EpisodeBuffer(
            observations=rng.normal(size=(length + 1, observation_size)),
            actions=rng.uniform(-1, 1, (length, action_size)).astype(np.float32),
            rewards=rng.normal(reward, 0.1, length),
            terminations=last & truly,
            truncations=last & (flagged and not truly),
            infos={},
        )


def make(  # noqa: PLR0917
    dataset_id=ID, lengths=(5, 1, 7, 4), env="Hopper-v5", observation=None, action=None, eval_env=None, **options
):
    facts = {} if env else {"observation_space": observation or box(11), "action_space": action or box(3, 1)}
    stated = {name: options.pop(name) for name in ("ref_min_score", "ref_max_score") if name in options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return minari.create_dataset_from_buffers(
            dataset_id, list(buffers(lengths, **options)), env=env, eval_env=eval_env, **facts, **stated
        )


def edit_metadata(folder, **changes):
    path = folder / ID / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_is_the_iterators(dataset, original):
    row = 0
    for number, episode in enumerate(original.iterate_episodes()):
        own = slice(row, row + len(episode.rewards))
        assert np.array_equal(dataset.observations[own], episode.observations[:-1].astype(np.float32))
        assert np.array_equal(dataset.next_observations[own], episode.observations[1:].astype(np.float32))
        assert np.array_equal(dataset.actions[own], episode.actions.astype(np.float32))
        assert np.array_equal(dataset.rewards[own], episode.rewards.astype(np.float32))
        assert np.array_equal(dataset.terminated[own], episode.terminations)
        assert np.array_equal(dataset.truncated[own], episode.truncations)
        assert dataset.episode_bounds[number : number + 2].tolist() == [own.start, own.stop]
        row = own.stop
    assert len(dataset) == row
    assert len(dataset.episode_returns) == original.total_episodes


def test_every_step_is_a_transition_and_nothing_else_is():
    original = make()
    dataset = load_dataset(ID)
    assert_is_the_iterators(dataset, original)
    assert dataset.episode_complete.all()
    assert (dataset.name, dataset.task, dataset.metadata["mode"]) == (ID, "Hopper-v5", "exact")
    assert dataset.metadata["environment"]["max_episode_steps"] == 1000


def test_an_episode_without_a_flag_ends_all_the_same():
    make(flagged=False)
    dataset = load_dataset(ID)
    assert dataset.episode_lengths.tolist() == [5, 1, 7, 4]
    assert dataset.truncated.nonzero()[0].tolist() == [4, 5, 12, 16]
    assert not dataset.episode_complete.any()


def test_the_cache_is_used_until_the_dataset_changes(folder):
    original = make()
    first = load_dataset(ID)
    code = "import sys, offline_rl as o; print(o.load_dataset(sys.argv[1]).fingerprint, 'minari' in sys.modules)"
    again = subprocess.run([sys.executable, "-c", code, ID], capture_output=True, text=True, check=True).stdout.split()
    assert again == [first.fingerprint, "False"], "the second time neither Minari nor Gymnasium is needed"
    assert load_dataset(ID).metadata == first.metadata
    original.update_dataset_from_buffer(list(buffers([3])))
    longer = load_dataset(ID)
    assert len(longer) == len(first) + 3
    assert_is_the_iterators(longer, original)
    with h5py.File(folder / ID / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/rewards"][0] += 1
    longer = load_dataset(ID)
    assert_is_the_iterators(longer, original)
    for damage in (b"", b"PK\x03\x04 no archive", (folder / ID / CACHE).read_bytes()[:-100]):
        (folder / ID / CACHE).write_bytes(damage)
        assert load_dataset(ID).fingerprint == longer.fingerprint
    assert not list((folder / ID).glob("*.tmp"))


def test_a_folder_that_cannot_be_written_is_read(folder, monkeypatch):
    make()
    (folder / ID / CACHE).mkdir()  # even for root no file can take this place
    assert len(load_dataset(ID)) == 17
    assert len(load_dataset(ID)) == 17


@pytest.mark.parametrize(
    ("spaces_of", "message"),
    [
        ({"observation": spaces.Discrete(5)}, "observations with the form Discrete"),
        ({"observation": spaces.Dict({"goal": spaces.Discrete(2)})}, "observations with goal of the form Discrete"),
        ({"observation": spaces.Box(0, 255, (8, 8, 3), np.uint8)}, "images are not supported"),
        ({"observation": spaces.Box(-1, 1, (2, 2))}, "Box with one dimension"),
        ({"action": spaces.Discrete(5)}, "actions of the form Discrete.*, discrete ones cannot"),
        ({"action": box(3)}, "actions without bounds"),
    ],
)
def test_other_spaces_are_refused(spaces_of, message):
    make(env=None, lengths=[], **spaces_of)
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(ID)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_refused_with_a_remedy(folder, monkeypatch):
    make(lengths=[])
    with pytest.raises(DatasetError, match="has no steps"):
        load_dataset(ID)
    (folder / ID / "data" / "main_data.hdf5").write_bytes(b"nonsense")
    with pytest.raises(DatasetError, match=f"Minari cannot read '{ID}' .* delete"):
        load_dataset(ID)
    with pytest.raises(DatasetError, match="mode 'd4rl' is for files in D4RL's layout"):
        load_dataset(ID, mode="d4rl")
    monkeypatch.setenv("MINARI_REMOTE", "nowhere://nobody")
    with pytest.raises(DatasetError, match=r"cannot download 'mujoco/hopper/nice-v0' \(.*nowhere.*\); check the name"):
        load_dataset("mujoco/hopper/nice-v0")
    monkeypatch.delenv("MINARI_REMOTE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(DatasetError, match=r"\(http://127.0.0.1:9 cannot be reached\); check the name"):
        load_dataset("mujoco/hopper/nice-v0")
    assert time.monotonic() - began < 5  # the Hub's own library would take 23 seconds
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(DatasetError, match=r'needs minari, .*; pip install "offline-rl-suite\[minari\]"'):
        load_dataset("mujoco/hopper/nice-v0")


def test_a_description_that_names_code_to_run_is_not_followed(folder, tmp_path):
    """Gymnasium imports and calls what an entry point names; Minari does so where spaces are missing."""
    make()
    trap = tmp_path / "trapped"
    spec = {**json.loads(gymnasium.spec("Hopper-v5").to_json()), "entry_point": "pathlib:Path.touch"}
    spec["kwargs"] = {"self": str(trap)}
    edit_metadata(folder, env_spec=json.dumps(spec))
    with pytest.raises(TaskError, match="has the argument 'self', which is not taken from a file"):
        orl.train("bc", ID, steps=1, quiet=True, out=str(tmp_path / "run"))
    edit_metadata(folder, env_spec=json.dumps({**spec, "id": "pathlib:Hopper-v5"}))
    with pytest.raises(TaskError, match="names a module to import"):
        orl.train("bc", ID, steps=1, quiet=True, out=str(tmp_path / "run"))
    metadata = json.loads((folder / ID / "data" / "metadata.json").read_text())
    del metadata["observation_space"]
    (folder / ID / "data" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(DatasetError, match="does not say what observations and actions are"):
        load_dataset(ID)
    assert not trap.exists()


# Tasks and scores


def test_scores_are_against_random_actions_and_the_data():
    make(reward=20)
    dataset = load_dataset(ID)
    task = dataset.find_task()
    assert (task.name, task.robot.reference, task.robot.max_episode_steps) == ("Hopper-v5", MEASURED, 1000)
    assert orl.normalized_score(task, dataset.mean_return) == 100
    assert orl.normalized_score(task, RANDOM_RETURNS["Hopper-v5"]) == 0


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"reward": 20, "ref_min_score": 1.0, "ref_max_score": 3.0}, STATED),
        ({"reward": -20}, RAW),
        ({"reward": 20, "eval_env": "Ant-v5"}, RAW),
    ],
)
def test_other_references_say_what_they_are(options, reference):
    make(**options)
    task = load_dataset(ID).find_task()
    assert task.robot.reference == reference
    assert orl.normalized_score(task, 2.0) == pytest.approx(50 if reference == STATED else 2)


@pytest.mark.parametrize("name", ["Hopper-v5", "Walker2d-v5"])
def test_the_table_of_random_returns_is_what_the_script_measures(name):
    from benchmarks.random_returns import random_returns

    found = random_returns(name, 100)
    assert abs(found.mean() - RANDOM_RETURNS[name]) < 4 * found.std() / len(found) ** 0.5


def test_training_plays_in_the_environment_of_the_data(tmp_path, capsys):
    make(reward=20)
    out = tmp_path / "run"
    settings = {**TINY, "steps": 20, "eval_every": 0, "final_episodes": 2, "log_every": 10}
    run = orl.train("bc", ID, out=str(out), **settings)
    config = run.config
    assert (config["task"], config["dynamics"]) == ("Hopper-v5", "plain")
    assert config["dataset"]["reference"]["returns"] == MEASURED
    agent = run.agents[0]
    env = gymnasium.make("Hopper-v5")
    final = next(row for row in run.rows if row["kind"] == "final")
    returns = [alone(env, agent, seed) for seed in blocks(0, 20, 2)[0]]
    assert final["return"] == pytest.approx(np.mean(returns), abs=1e-3)
    assert final["score"] == pytest.approx(orl.normalized_score(load_dataset(ID).find_task(), final["return"]))
    told = table(results_of("run", config, run.rows))
    assert "of mean score 100.0 (0 is 17.6 and 100 is" in told
    assert "random actions earn" in told
    # The agent's folder tells all: the dataset is not needed to score it again.
    (tmp_path / "minari").rename(tmp_path / "gone")
    assert main(["evaluate", str(out), "--episodes", "1"]) == 0
    printed = capsys.readouterr().out
    assert "score (data=100)" in printed
    assert "on Hopper-v5, plain dynamics" in printed
    assert main(["evaluate", str(out), "--episodes", "1", "--dynamics", "d4rl"]) == 2
    assert "has no D4RL dynamics" in capsys.readouterr().err


def alone(env, agent, seed):
    observation, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(agent.act(observation.astype(np.float32)))
        total, ended = total + float(reward), terminated or truncated
    return total


def test_what_cannot_be_evaluated_can_be_trained_on(tmp_path):
    make(env="MountainCarContinuous-v0", observation_size=2, action_size=1)
    settings = {**TINY, "steps": 5, "eval_every": 0, "final_episodes": 0}
    with pytest.raises(TaskError, match="no MuJoCo environment"):
        orl.train("td3_bc", ID, out=str(tmp_path / "run"), **settings, online_steps=5)
    make("test/nowhere-v0", env=None)
    with pytest.raises(TaskError, match="names no task"):
        orl.train("bc", "test/nowhere-v0", out=str(tmp_path / "run"), steps=5)
    assert orl.train("bc", "test/nowhere-v0", out=str(tmp_path / "run"), **settings).agents


def test_sets_are_joined_listed_and_described(capsys):
    make(reward=20)
    make("local-v1")
    make("test/walker-v0", env="Walker2d-v5", observation_size=17, action_size=6)
    make("test/other/hopper-v0", env=gymnasium.spec("Hopper-v4"))
    both = load_dataset(f"{ID}+local-v1")
    assert (len(both), both.task, both.name) == (34, "Hopper-v5", f"{ID}+local-v1")
    assert both.find_task().robot.reference_max == both.mean_return
    for other in ("hopper-demo", "test/other/hopper-v0"):
        with pytest.raises(DatasetError, match="their tasks are Hopper-v5 and Hopper-v4; join data of one robot only"):
            load_dataset(f"{ID}+{other}")
    assert {ID, "local-v1"} < set(dataset_names())
    assert main(["datasets", ID]) == 0
    assert "100.0; score (data=100)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_large_set_holds_what_its_own_iterator_yields_and_is_read_once(monkeypatch):
    original = make(
        lengths=[100] * 2000, env=None, observation_size=17, action_size=6, observation=box(17), action=box(6, 1)
    )
    dataset = load_dataset(ID)
    assert_is_the_iterators(dataset, original)

    def read(dataset_id):
        raise AssertionError(f"{dataset_id} is read again")

    monkeypatch.setattr("offline_rl.data.minari._read", read)
    again = load_dataset(ID)
    assert again.fingerprint == dataset.fingerprint
    assert_is_the_iterators(again, original)
