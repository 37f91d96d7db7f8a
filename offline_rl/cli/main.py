"""The commands, such as ``offline-rl train`` and ``offline-rl report``; :data:`USAGE` lists them."""

import importlib.metadata
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from offline_rl.arguments import UsageError
from offline_rl.cli.about import algos_command, datasets_command
from offline_rl.cli.benchmark import benchmark_command, compare_command, report_command, results_command
from offline_rl.cli.check import drift_command
from offline_rl.cli.collect import collect_command
from offline_rl.cli.estimate import estimate_command
from offline_rl.cli.evaluate import evaluate_command
from offline_rl.cli.export import export_command
from offline_rl.cli.label import label_command
from offline_rl.cli.sweep import sweep_command
from offline_rl.cli.terminal import shown_on_terminal
from offline_rl.cli.train import finetune_command, resume_command, train_command
from offline_rl.errors import Interrupted, OfflineRLError, brief, quoted, suggestion
from offline_rl.origin import run_by
from offline_rl.processes.interpreter import stop_with_parent

TRACEBACK = "OFFLINE_RL_TRACEBACK"
"""The environment variable that lets an error that nobody has foreseen keep its traceback."""


USAGE = """offline-rl: offline reinforcement learning on D4RL locomotion

  offline-rl train ALGO --dataset NAME  train and save an agent for each seed
  offline-rl finetune RUN --steps N     continue online with a run's agents
  offline-rl resume RUN                 continue a stopped run, or longer
  offline-rl evaluate RUN_OR_AGENT      score saved agents; film them
  offline-rl estimate RUN_OR_AGENT      value of agents without a simulator
  offline-rl export RUN_OR_AGENT        write a policy as ONNX
  offline-rl drift RUN_OR_AGENT FILE    are today's observations those it knows?
  offline-rl sweep FILE.yaml            search hyperparameters
  offline-rl collect KIND --task TASK   make a dataset by playing a task
  offline-rl label RUN --out FILE.npz   compare films of what an agent did
  offline-rl benchmark SUITE.yaml       run what a suite still lacks; its table
  offline-rl report RUN...              tables, intervals, figures, one web page
  offline-rl results collect RUN...     keep small result files of finished runs
  offline-rl compare A B                what differs, and whether it is noise
  offline-rl algos [NAME]               list the algorithms, or describe one
  offline-rl datasets [NAME]            list the datasets, or describe one
  offline-rl datasets NAME --check      look for faults of a dataset
  offline-rl datasets download NAME...  fetch datasets

Every command has --help. A first try, which takes minutes:
  offline-rl train td3_bc --dataset hopper-demo --steps 10000"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status.

    It is 0; 1 for a run of which all agents have diverged, and for observations that have drifted; 2 for a mistake of
    the user's or ours; 128 + signal when stopped.

    What no reader has foreseen ends in one sentence, too; with ``OFFLINE_RL_TRACEBACK`` set it keeps its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with shown_on_terminal(), run_by(arguments):
        return _main(arguments)


def _main(arguments: list[str]) -> int:
    stop_with_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know no ±
    _hear_ctrl_c()
    if not arguments or arguments[0] in ("-h", "--help", "help", "--version"):
        print(importlib.metadata.version("offline-rl-suite") if arguments[:1] == ["--version"] else USAGE)
        return 0
    name, rest = arguments[0], arguments[1:]
    try:
        if name not in COMMANDS:
            raise UsageError(f"unknown command {quoted(name)}{suggestion(name, COMMANDS)}")
        status = COMMANDS[name](rest)
        sys.stdout.flush()
    except OfflineRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        return _unforeseen(error)
    return status or 0


def _unforeseen(error: Exception) -> int:
    """Say in a sentence what went wrong where nobody has made one of it; return the exit status."""
    if os.environ.get(TRACEBACK):
        raise error
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        return 128 + signal.SIGPIPE
    said = brief(f"{type(error).__name__}: {error}")
    text = f"{said}; this is a fault of offline-rl: run it again with {TRACEBACK}=1 to see where, and report that"
    if isinstance(error, MemoryError):
        text = "there is too little memory for this; take less data, fewer seeds or smaller networks"
    elif isinstance(error, UnicodeEncodeError):
        text = f"{quoted(error.object)} has signs that this locale cannot spell; set LC_ALL=C.UTF-8"
    elif isinstance(error, OSError) and error.strerror:
        place = brief(error.filename or "a file")
        text = f"{place} cannot be used ({error.strerror}); look at the path, its permissions and the space left"
    print(f"error: {text}", file=sys.stderr)
    return 2


def _nobody_reads() -> bool:
    """Say whether the reader of our output has closed it, as head does; then nothing more is written to it."""
    poller = select.poll()
    poller.register(1, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poller.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True


def _hear_ctrl_c() -> None:
    """Answer SIGINT from the first moment on; scripts start what they put in the background deaf to it."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "train": train_command,
    "finetune": finetune_command,
    "resume": resume_command,
    "evaluate": evaluate_command,
    "estimate": estimate_command,
    "export": export_command,
    "drift": drift_command,
    "sweep": sweep_command,
    "collect": collect_command,
    "label": label_command,
    "benchmark": benchmark_command,
    "report": report_command,
    "results": results_command,
    "compare": compare_command,
    "algos": algos_command,
    "datasets": datasets_command,
}
