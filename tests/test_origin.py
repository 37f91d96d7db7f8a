"""A result says which commit and which processor made it."""

import subprocess
from pathlib import Path

import pytest

from offline_rl import origin

ROOT = Path(origin.__file__).resolve().parents[1]


def test_commit_is_gits_own_word():
    if not (ROOT / ".git").exists():
        pytest.skip("the tests run outside a clone, which has a commit")
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    origin.commit.cache_clear()
    assert origin.commit().removesuffix("+") == head.stdout.strip()


def test_changed_files_mark_the_commit(tmp_path, monkeypatch):
    for command in ("init -q", "config user.email a@b", "config user.name a", "commit -q --allow-empty -m one"):
        subprocess.run(["git", "-C", str(tmp_path), *command.split()], check=True)
    monkeypatch.setattr(origin, "__file__", str(tmp_path / "offline_rl" / "origin.py"))
    origin.commit.cache_clear()
    try:
        clean = origin.commit()
        (tmp_path / "new.py").write_text("")
        subprocess.run(["git", "-C", str(tmp_path), "add", "new.py"], check=True)
        origin.commit.cache_clear()
        assert (len(clean), origin.commit()) == (40, f"{clean}+")
    finally:
        origin.commit.cache_clear()


def test_outside_a_clone_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "__file__", str(tmp_path / "offline_rl" / "origin.py"))
    origin.commit.cache_clear()
    try:
        assert origin.commit() is None
    finally:
        origin.commit.cache_clear()


def test_processor_has_a_name():
    assert origin.processor().strip()
