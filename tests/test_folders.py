"""Who owns a folder: whatever the moment at which several ask for it, one does, and nobody else clears it away."""

import contextlib
import itertools
import pathlib
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock
from helpers.settings import TINY

import offline_rl as orl
from offline_rl.errors import RunInUseError
from offline_rl.files import new_file, replace_folder
from offline_rl.folders import owned_folder

SHORT = {**TINY, "hidden_dims": [8], "steps": 5, "eval_every": 0, "final_episodes": 0}


def refuse(path):
    raise orl.RunError(f"{path} exists")


def owned(place, check=refuse, **options):
    return owned_folder(place, keep="kept", check=check, **options)


@pytest.fixture
def late(monkeypatch):
    """Let the thread "late" stop where it would make a folder, until somebody else has begun in it."""
    begun, make = threading.Event(), pathlib.Path.mkdir

    def mkdir(self, *args, **kwargs):
        if threading.current_thread().name == "late" and self.name in ("race", "race.hdf5.partial"):
            begun.set()
            deadline = time.monotonic() + 30
            while not any(self.glob("*.json")) and time.monotonic() < deadline:
                time.sleep(0.01)
        return make(self, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, "mkdir", mkdir)

    def start(task):
        said = []

        def run():
            try:
                task()
            except orl.OfflineRLError as error:
                said.append(str(error))

        thread = threading.Thread(target=run, name="late")
        thread.start()
        assert begun.wait(30)
        return thread, said

    return start


def test_a_run_that_comes_late_leaves_the_folder_of_the_first_alone(tmp_path, late):
    out = tmp_path / "race"
    thread, said = late(lambda: orl.train("bc", "hopper-demo", out=str(out), **SHORT))
    run = orl.train("bc", "hopper-demo", out=str(out), **SHORT)
    thread.join()
    assert set(run.agents) == {0}
    assert len(said) == 1
    assert "in use by another process" in said[0] or "exists" in said[0]


def test_a_collection_that_comes_late_leaves_the_folder_of_the_first_alone(tmp_path, late):
    settings = {"task": "hopper", "steps": 400, "quiet": True, "out": str(tmp_path / "race.hdf5")}
    thread, said = late(lambda: orl.collect("random", **settings))
    assert orl.collect("random", **settings).is_file()
    thread.join()
    assert len(said) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["race.hdf5"]


def test_of_two_that_ask_at_once_one_owns_the_folder_to_its_end(tmp_path):
    barrier = threading.Barrier(2)

    def ask(path):
        barrier.wait()
        try:
            with owned(path) as folder:
                time.sleep(0.002)
                (folder.path / "kept").touch()
                return folder.fresh
        except orl.RunError:
            return False

    with ThreadPoolExecutor(2) as pool:
        for number in range(200):
            path = tmp_path / str(number)
            assert sorted(pool.map(ask, (path, path))) == [False, True]
            assert (path / "kept").exists()


def test_of_two_of_which_both_fail_each_clears_away_its_own_alone(tmp_path):
    """Whoever comes while the first clears away finds a folder of its own, or is told that it is in use."""
    barrier, inside = threading.Barrier(2), threading.Lock()
    outcomes = []

    def ask(path):
        barrier.wait()
        with contextlib.suppress(ZeroDivisionError, orl.RunError), owned(path) as folder:
            assert inside.acquire(blocking=False), "two owners"
            (folder.path / "mine").mkdir()
            time.sleep(0.001)
            assert (folder.path / "mine").is_dir()
            inside.release()
            outcomes.append(path)
            raise ZeroDivisionError

    with ThreadPoolExecutor(2) as pool:
        for number in range(200):
            list(pool.map(ask, [tmp_path / str(number)] * 2))
    assert {path.name for path in outcomes} == set(map(str, range(200)))
    assert not [entry for folder in tmp_path.iterdir() for entry in folder.iterdir() if entry.name != ".lock"]


def test_a_free_name_is_taken_by_making_it(tmp_path):
    barrier = threading.Barrier(2)

    def ask(_):
        barrier.wait()
        names = (tmp_path / name for name in itertools.chain(["x"], (f"x-{number}" for number in itertools.count(2))))
        with owned(names) as folder:
            (folder.path / "kept").touch()
            barrier.wait()
            return folder.path.name

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(ask, range(2))) == ["x", "x-2"]
        assert sorted(pool.map(ask, range(2))) == ["x-3", "x-4"]


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", ".config.json.17.tmp"]])
def test_what_a_killed_process_left_before_it_began_is_in_nobodys_way(tmp_path, left):
    path = tmp_path / "x"
    path.mkdir()
    for name in left:
        (path / name).touch()
    with owned(path) as folder:
        assert folder.fresh
        (path / "kept").touch()
    assert not (path / ".config.json.17.tmp").exists()


@pytest.mark.parametrize("shared", [False, True])
def test_what_others_are_writing_in_a_shared_folder_stays(tmp_path, shared):
    """Broken by a worker that joins a sweep and clears away what the others' runs are about to rename."""
    theirs = tmp_path / "sweep" / "runs" / "x" / ".config.json.17.tmp"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    with owned(tmp_path / "sweep", check=lambda path: None, shared=shared):
        pass
    assert theirs.exists() == shared


def test_a_run_begins_in_a_folder_with_nothing_but_a_lock(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".lock").touch()
    assert orl.train("bc", "hopper-demo", out=str(tmp_path / "x"), **SHORT).agents


@pytest.mark.parametrize("file", ["thesis.tex", "config.json"])
def test_what_is_somebodys_is_neither_locked_nor_removed(tmp_path, file):
    (tmp_path / file).write_text("{}")
    with pytest.raises(orl.RunError, match="exists"), owned(tmp_path):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == [file]


def test_a_lock_that_was_removed_meanwhile_gives_nobody_the_folder(tmp_path, monkeypatch):
    """Between opening a lock and holding it, its folder may have gone, and another one come."""
    path, acquire, gone = tmp_path / "x", FileLock.acquire, []

    def acquire_late(self, *args, **kwargs):
        if not gone:
            gone.append(path.rename(tmp_path / "gone"))
            path.mkdir()
            (path / ".lock").touch()
        return acquire(self, *args, **kwargs)

    monkeypatch.setattr(FileLock, "acquire", acquire_late)
    with owned(path) as folder, pytest.raises(RunInUseError), owned(path):
        pass
    assert folder.path == path


def test_a_failure_that_has_nothing_to_do_with_the_folder_stays_what_it_is(tmp_path):
    with pytest.raises(ConnectionResetError), owned(tmp_path / "x"):
        raise ConnectionResetError
    assert not (tmp_path / "x").exists()


def test_a_failure_of_a_run_that_is_not_of_its_folder_stays_what_it_is(tmp_path, monkeypatch):
    from offline_rl.training.trainer import Trainer

    def fail(self):
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(Trainer, "run", fail)
    with pytest.raises(ConnectionResetError):
        orl.train("bc", "hopper-demo", out=str(tmp_path / "x"), **SHORT)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("place", ["file/x", "link", "file"])
def test_where_no_folder_can_be_is_one_sentence(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(orl.RunError, match=r"choose another --out") as caught, owned(tmp_path / place):
        pass
    assert "\n" not in str(caught.value)


def test_a_new_file_or_folder_takes_no_others_place(tmp_path):
    with pytest.raises(FileExistsError), new_file(tmp_path / "file") as temporary:
        temporary.write_text("ours")
        (tmp_path / "file").write_text("theirs")
    with pytest.raises(FileExistsError), replace_folder(tmp_path / "folder", new=True) as folder:
        (folder / "ours").touch()
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "theirs").touch()
    assert (tmp_path / "file").read_text() == "theirs"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]
    assert [entry.name for entry in (tmp_path / "folder").iterdir()] == ["theirs"]


def test_a_process_that_is_started_knows_no_lock(tmp_path):
    """Broken by a lock that children inherit: it would be held as long as any of them lives."""
    with owned(tmp_path / "x"):
        wait = [sys.executable, "-c", "print('begun', flush=True); input()"]
        child = subprocess.Popen(wait, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "begun\n"
        (tmp_path / "x" / "kept").touch()
    with owned(tmp_path / "x", check=lambda path: None):
        pass
    child.communicate("\n")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_of_two_commands_that_start_at_once_one_ends_and_one_says_why_not(tmp_path):
    flags = ["--hidden_dims=8", "--steps=5", "--batch_size=8", "--eval_every=0", "--final_episodes=0", "--workers=0"]
    line = [sys.executable, "-m", "offline_rl", "train", "bc", "--dataset=hopper-demo", *flags]
    for number in range(3):
        out = tmp_path / str(number)
        both = [subprocess.Popen([*line, f"--out={out}"], stderr=subprocess.PIPE, text=True) for _ in range(2)]
        errors = [process.communicate(timeout=300)[1] for process in both]
        assert sorted(process.returncode for process in both) == [0, 2], errors
        assert "in use by another" in "".join(errors) or "exists" in "".join(errors)
        assert Path(out, "agents", "seed-0", "agent.json").is_file()
