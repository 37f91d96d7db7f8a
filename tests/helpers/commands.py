"""Commands in this process: they print what a process of their own would print, which would import PyTorch first."""

import contextlib
import io
import subprocess

from offline_rl.cli.main import main


def offline_rl(*words, cwd="."):
    """Carry out a command; return its status, its standard output and its standard error."""
    output, error = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:  # after --help
            status = end.code or 0
    return subprocess.CompletedProcess(words, status, output.getvalue(), error.getvalue())
