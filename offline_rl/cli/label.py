"""``offline-rl label``."""

import typing
from pathlib import Path

from offline_rl.arguments import CommandLine, UsageError


def label_command(arguments: list[str]) -> None:
    """Let a person compare segments of what an agent did."""

    def command(
        *, run: str, out: str = "labels.npz", seed: int = 0, pairs: int = 20, length: int = 50, port: int = 0
    ) -> dict[str, typing.Any]:
        """Show pairs of short films of what an agent did online on a local page; write which one a person prefers.

        The page is for this machine's browser alone and needs no network. Stopped by Ctrl-C, the same command goes on;
        parl_online and parl learn from the file by --labels.

        Args:
            run: A finished run with an online phase.
            out: The file of labelled pairs, .npz; one that holds some of these pairs is continued.
            seed: Of the agent.
            pairs: How many to compare.
            length: Steps of a segment.
            port: Where the page is on 127.0.0.1; 0 for any port that is free.
        """
        return locals()

    line = CommandLine(arguments, typing.get_type_hints(command), positional=("run",))
    _label(**line.parse(command, "offline-rl label"))


def _label(*, run: str, out: str, seed: int, pairs: int, length: int, port: int) -> None:
    from offline_rl.collection.labelling import Answers, Desk, Shown
    from offline_rl.training.run import Run

    if Path(out).suffix != ".npz":
        raise UsageError(f"--out is {out}; its name must end with .npz")
    if min(pairs, length) < 1 or not 0 <= port < 65536:
        raise UsageError("--pairs and --length must be at least 1, and --port at most 65535")
    shown = Shown.of(Run(Path(run)), seed, pairs, length)
    answers = Answers(shown, Path(out))
    desk = Desk(answers, [shown.films(number) for number in range(len(shown))], port)
    print(f"open {desk.address}\nanswers go to {out}; stop with Ctrl-C", flush=True)
    try:
        desk.server.serve_forever()
    except KeyboardInterrupt:
        kept = sum(label is not None for label in answers.said.values())
        print(f"\n{kept} of {len(shown)} pairs are labelled in {out}")
    finally:
        desk.server.server_close()
