"""The lowest versions that setup.cfg permits."""

import zipfile
from pathlib import Path

from benchmarks.floors import missing, used

ROOT = Path(__file__).parent.parent


def test_what_a_wheel_lacks_is_named(tmp_path):
    """Broken by names that are imported, or by those that are reached through a module."""
    wheel = tmp_path / "pack-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("pack/__init__.py", "def old(): ...\n")
    folder = tmp_path / "src" / "offline_rl"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("import pack\nfrom pack.sub import newer\npack.old(pack.sub.new)\nother.thing\n")
    names = used("pack", tmp_path / "src")
    assert names == {"pack.old", "pack.sub", "pack.sub.new", "pack.sub.newer"}
    assert missing(wheel, names) == ["pack.sub", "pack.sub.new", "pack.sub.newer"]


def test_the_sources_names_are_found():
    assert "torch.func.debug_unwrap" in used("torch", ROOT)
