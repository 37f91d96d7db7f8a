"""The commands and the Python of the README and of the site, run as they stand there, only smaller."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import yaml

import offline_rl as orl
from offline_rl.cli.main import main

ROOT = Path(__file__).parent.parent
OWN_FILES = "no_simulator.md"
"""A page whose commands make the files that the next ones take; tests/test_no_simulator.py runs it."""
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != OWN_FILES)]
DATASETS = ("hopper-medium", "hopper-medium-replay", "halfcheetah-medium", "walker2d-medium")
"""Those of D4RL's that pages name; each is made here by random actions, a v2 file under D4RL's own name."""
ELSEWHERE = {
    "mujoco/hopper/medium-v0": "a server of Minari's",
    "--launcher slurm": "a cluster",
    "--labels FOLDER": "files of labels",
    "repeatable.yaml": "hours",
    "minari.yaml": "the extra robotics, and an hour",
    "precision.yaml": "hours",
    "--help": "ends the process; tests/cli has it",
    "--precision bf16": "a processor with AMX",
    "--mode compile": "a compiler",
    "--wandb": "W&B; tests/tracking has it",
}
"""Parts of commands that are not run here, and what they would need."""
NETWORKS = ["--hidden_dims", "8", "--batch_size", "8"]
TRAIN = ["--quiet", "True", "--workers", "0", *NETWORKS]
ADDED = {
    "finetune": ["--final_episodes", "1", "--quiet", "True", "--workers", "0"],
    "resume": ["--quiet", "True", "--workers", "0"],
    "evaluate": ["--episodes", "2"],
    "estimate": ["--updates", "20", "--members", "2", "--hidden_dims", "8"],
    "sweep": ["--run_cap", "1", "--steps", "20", "--eval_every", "10", "--final_episodes", "1", *NETWORKS],
}
"""What is added to commands of these kinds, so that they take seconds."""
WINDOWS = ["--width", "8", "--layers", "1", "--warmup", "0.5"]
MORE = {
    "a2pr": ["--actor_hidden_dims", "8", "--vae_hidden_dims", "8"],
    "fql": ["--flow_steps", "2"],
    "spot": ["--vae_hidden_dims", "8", "--vae_steps", "6"],
    "dt": [*WINDOWS, "--length", "4"],
    "doc": ["--width", "8", "--layers", "1", "--past", "3", "--future", "3", "--negatives", "4", "--candidates", "5"],
    "parl_online": ["--random_steps", "2", "--search_steps", "2", "--segment_length", "2", "--reset_updates", "1"],
    "parl": [
        "--num_labels",
        "20",
        "--segment_length",
        "5",
        "--rounds",
        "2",
        "--round_steps",
        "3",
        "--upper_steps",
        "2",
    ],
}
"""What makes an algorithm's run small."""


def fences(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page):
    """Return the words of each command of ours on a page that needs nothing from elsewhere."""
    lines = "\n".join(fences(page, "bash")).replace("\\\n", " ").splitlines()
    ours = [re.split(r"\s+#", line)[0] for line in lines if line.startswith("offline-rl ")]
    return [shlex.split(line)[1:] for line in ours if not any(part in line for part in ELSEWHERE)]


def new_commands():
    """Return for each page the commands that no page before it has."""
    seen, new = set(), {}
    for page in PAGES:
        new[page] = [words for words in commands(page) if shlex.join(words) not in seen]
        seen.update(map(shlex.join, new[page]))
    return {page: found for page, found in new.items() if found}


def matching(word):
    """Return the folders that a pattern stands for, as a shell would; anything else stands for itself."""
    return sorted(map(str, Path().glob(word))) if word.endswith("/*") else [word]


def smaller(words):
    """Return a command with paths filled in, of fewer seeds, steps, episodes and units."""
    # Those of the fixture: of one seed, method and dataset there may be one result.
    runs = sorted(map(str, Path().glob("runs/*-v2")))
    words = [found for word in words for found in (runs if word == "runs/*" else matching(word))]
    for name, value in (("--steps", "24"), ("--online_steps", "6")):
        if name in words:
            words[words.index(name) + 1] = "30" if {"resume", "--resume"} & set(words) else value
    if "--seeds" in words and "--each" not in words:
        first = words.index("--seeds") + 1
        last = next((place for place in range(first, len(words)) if not words[place].isdigit()), len(words))
        words[first:last] = words[first : first + 1]
    kind = words[0]
    if kind == "train":
        usual = {"--steps": "24", "--eval_every": "0", "--final_episodes": "1"}
        missing = [part for name, value in usual.items() if name not in words for part in (name, value)]
        return [*words, *missing, *TRAIN, *MORE.get(words[1], [])]
    if kind == "collect":
        words = [
            {"100000": "100", "200000": "200"}.get(word, word).replace("step-100000", "step-100") for word in words
        ]
        words[words.index("--steps") + 1] = "200"
        return [*words, "--quiet", "True", *(["--random_steps", "50", *NETWORKS] if words[1] == "sac" else [])]
    return [*words, *ADDED.get(kind, [])]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Give a folder with the datasets, runs and files that the pages start from."""
    folder = tmp_path_factory.mktemp("workplace")
    for dataset in DATASETS:
        robot, kind = dataset.split("-", 1)
        path = folder / "d4rl" / f"{robot}_{kind.replace('-', '_')}-v2.hdf5"
        path.parent.mkdir(exist_ok=True)
        orl.collect("random", task=robot, steps=400, out=str(path), quiet=True)
    (folder / "data").mkdir()
    orl.collect("random", task="hopper", steps=300, out=str(folder / "mine.hdf5"), quiet=True)
    shutil.copy(folder / "mine.hdf5", folder / "data")
    shutil.copy(folder / "d4rl" / "hopper_medium-v2.hdf5", folder / "today.hdf5")
    shutil.copytree(ROOT / "benchmarks" / "sweeps", folder / "benchmarks" / "sweeps")
    rng = np.random.default_rng(0)
    columns = [*(f"observation_{i}" for i in range(11)), *(f"action_{i}" for i in range(3)), "reward", "episode"]
    table = np.column_stack([rng.uniform(-1, 1, (200, 15)), np.arange(200) // 50])
    np.savetxt(folder / "plant.csv", table, delimiter=",", header=",".join(columns), comments="")
    (suite,) = [text for text in fences(ROOT / "docs" / "compare.md", "yaml") if "datasets" in text]
    shrunk = yaml.safe_load(suite)
    shrunk["options"] = {"seeds": [0], "steps": 20, "eval_every": 10, "final_episodes": 1}
    shrunk["methods"] = {name: {**method, "hidden_dims": [8]} for name, method in shrunk["methods"].items()}
    (folder / "suite.yaml").write_text(yaml.safe_dump(shrunk))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("D4RL_DATASET_DIR", str(folder / "d4rl"))
        for name in ("td3_bc", "iql", "famo2o"):
            assert main(smaller(["train", name, "--dataset", "hopper-medium-v2"])) == 0
        assert main(smaller(["train", "td3_bc", "--dataset", "hopper-demo"])) == 0
        for seed, name in enumerate("ab"):
            words = ["train", "bc", "--dataset", "hopper-demo", "--seeds", str(seed), "--out", f"runs/{name}"]
            assert main(smaller(words)) == 0
    return folder


@pytest.fixture
def here(workplace, tmp_path, monkeypatch):
    """Work in a copy of that folder."""
    shutil.copytree(workplace, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "here" / "d4rl"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "here"


def test_pages_have_commands():
    assert sum(len(commands(page)) for page in PAGES) > 60


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("page", "found"), new_commands().items(), ids=[page.stem for page in new_commands()])
def test_every_command_runs(page, found, here, capsys):
    """Broken by an option, a file or a folder that a page names and that a command does not know."""
    for words in found:
        status = main(smaller(words))
        assert status == 0, f"{page.name}: {shlex.join(words)}: {capsys.readouterr().err}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("README", "first_run", "online", "collect", "data", "minari", "own_data", "check", "scores", "estimate"),
        *("reuse", "deploy"),
    ],
)
def test_the_python_runs(name, here):
    """Broken by a name, an argument or a folder that the library does not know; a page's blocks are one program."""
    page = ROOT / "README.md" if name == "README" else ROOT / "docs" / f"{name}.md"
    blocks = fences(page, "python")
    assert blocks
    code = re.sub(r"steps=[\d_]+", "steps=210", "".join(blocks))
    code = re.sub(r"\bepisodes=\d+", "episodes=2", code)
    code = re.sub(r"\bupdates=[\d_]+", "updates=20", code)
    dataset = orl.load_dataset("mine.hdf5")
    arrays = {part: getattr(dataset, part) for part in ("observations", "actions", "rewards", "terminated")}
    frame = pandas.read_csv("plant.csv")
    observation = dataset.observations[0]
    agent = orl.load_agent("runs/td3_bc-hopper-medium-v2")
    exec(code, {"orl": orl, "dataset": dataset, "frame": frame, "observation": observation, "agent": agent, **arrays})
