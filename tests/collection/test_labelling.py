"""A person's comparisons: what is shown, who may answer, and a file from which rewards are learned."""

import json
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

import offline_rl as orl
from offline_rl.cli.main import main
from offline_rl.collection.labelling import Answers, Desk, Shown, positions
from offline_rl.envs.dynamics import make_env
from offline_rl.preferences.labels import read_contents

SMALL = {
    **{"hidden_dims": [8], "batch_size": 8, "reward_hidden_dims": [8], "reward_epochs": 2, "reset_updates": 1},
    **{"task": "hopper", "online_steps": 40, "random_steps": 40, "eval_every": 0, "final_episodes": 0, "quiet": True},
}


def shown(count=3, length=4):
    luck = np.random.default_rng(0)
    observation = luck.standard_normal((count, 2, length, 11)).astype(np.float32)
    return Shown(observation, luck.uniform(-1, 1, (count, 2, length, 3)).astype(np.float32), "hopper")


@pytest.fixture
def desk(tmp_path):
    """Give a page with three pairs that is being served."""
    films = [(b"GIF one", b"GIF two")] * 3
    desk = Desk(Answers(shown(), tmp_path / "labels.npz"), films)
    thread = threading.Thread(target=desk.server.serve_forever, daemon=True)
    thread.start()
    yield desk
    desk.server.shutdown()
    desk.server.server_close()


def ask(address, content=None, **headers):
    """Return status, headers and body."""
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(address, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_a_person_sees_films_and_the_answers_are_a_file_of_labels(desk):
    for pair, answer in enumerate(("second", "skip", "equal")):
        status, headers, page = ask(desk.address)
        assert status == 200
        assert f"Pair {pair + 1} of 3".encode() in page
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert ask(f"{desk.address}{pair}-1.gif")[2] == b"GIF two"
        assert ask(desk.address, {"pair": pair, "answer": answer})[0] == 200
    assert b"All 3 pairs are done" in ask(desk.address)[2]
    found = read_contents(desk.answers.path)
    assert found.label.tolist() == [1.0, 0.5]
    assert np.array_equal(found.observation, shown().observation[[0, 2]])
    assert np.array_equal(found.action, shown().action[[0, 2]])


def test_strangers_see_nothing_and_answer_nothing(desk):
    port = desk.server.server_address[1]
    plain = f"http://127.0.0.1:{port}"
    assert desk.server.server_address[0] == "127.0.0.1"
    for address in (f"{plain}/", f"{plain}/guess/", f"{plain}/guess/0-0.gif", f"{plain}/../../etc/passwd"):
        assert ask(address)[0] == 404
        assert ask(address, {"pair": 0, "answer": "first"})[0] == 400
    # Another name for this machine, as a page elsewhere would use it.
    assert ask(desk.address, Host=f"attacker.example:{port}")[0] == 404
    assert ask(desk.address, {"pair": 0, "answer": "first"}, Host="attacker.example")[0] == 400
    assert not desk.answers.said


@pytest.mark.parametrize(
    "content",
    [
        *({}, [], 1, {"pair": 0}, {"pair": 1, "answer": "first"}, {"pair": True, "answer": "first"}),
        *({"pair": 0, "answer": ["first"]}, {"pair": 0, "answer": "first", "more": "x" * 2000}),
    ],
)
def test_what_is_no_answer_to_the_pair_shown_is_refused(desk, content):
    assert ask(desk.address, content)[0] == 400
    assert not desk.answers.said
    assert ask(f"{desk.address}../labels.npz")[0] == 404


def test_a_file_is_continued_and_another_run_s_is_not(tmp_path):
    first = Answers(shown(), tmp_path / "labels.npz")
    first.say(0, "first")
    assert Answers(shown(), tmp_path / "labels.npz").next == 1
    with pytest.raises(orl.OfflineRLError, match="holds other pairs than these"):
        Answers(shown(length=5), tmp_path / "labels.npz")


def test_the_robot_stands_where_it_stood():
    """Played in the simulator, postures agree to the last bit of float32, and the place to the step's error."""
    environment = make_env("hopper").unwrapped
    environment.reset(seed=0)
    seen, true = [], []
    for action in np.random.default_rng(0).uniform(-1, 1, (12, 3)):
        seen.append(np.concatenate([environment.data.qpos[1:], environment.data.qvel]).astype(np.float32))
        true.append(environment.data.qpos.copy())
        environment.step(action)
    ours, true = positions(np.array(seen), 6, environment.dt), np.array(true)
    assert np.array_equal(ours[:, 1:].astype(np.float32), true[:, 1:].astype(np.float32))
    assert np.allclose(ours[:, 0], true[:, 0] - true[0, 0], atol=0.02)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return orl.train("parl_online", "none", out=str(tmp_path_factory.mktemp("labelling") / "run"), workers=0, **SMALL)


def test_pairs_come_from_a_run_and_rewards_are_learned_from_their_labels(run, tmp_path):
    pairs = Shown.of(run, 0, 6, 5)
    assert pairs.observation.shape == (6, 2, 5, 11)
    assert np.abs(pairs.action).max() <= 1
    assert np.array_equal(pairs.observation, Shown.of(run, 0, 6, 5).observation)
    answers = Answers(pairs, tmp_path / "labels.npz")
    for pair in range(6):
        answers.say(pair, "first" if pair % 2 else "second")
    settings = {**SMALL, "random_steps": 4, "search_steps": 4, "online_steps": 12, "hyper_mode": "none"}
    again = orl.train("parl_online", "none", out=str(tmp_path / "run"), labels=str(answers.path), workers=0, **settings)
    assert [row["labels"] for row in again.rows if row["kind"] == "train"] == [6.0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "labels.txt"], "must end with .npz"),
        (["--seed", "3"], "has no seed 3; choose one of [0]"),
        (["--length", "5000"], "give a smaller --length"),
        (["--pairs", "0"], "--pairs and --length must be at least 1"),
    ],
)
def test_what_cannot_be_shown_is_refused(run, words, message, capsys, tmp_path):
    assert main(["label", str(run.path), "--out", str(tmp_path / "labels.npz"), *words]) == 2
    assert message in capsys.readouterr().err
