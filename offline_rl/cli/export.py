"""``offline-rl export``."""

import typing
from pathlib import Path
from typing import Any

from offline_rl.arguments import CommandLine, UsageError


def export_command(arguments: list[str]) -> None:
    """Write a policy for other programs."""

    def command(
        *,
        path: str,
        out: str = "policy.onnx",
        seed: int | None = None,
        explore: bool = False,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """Write a saved agent's policy as one file: raw observations in, environment actions out.

        Args:
            path: An agent folder, a run folder, or hf://user/name for an agent on the Hugging Face Hub.
            out: The file: .onnx for ONNX, or .pt2 for a program that torch.export.load reads.
            seed: Which agent of a run with several.
            explore: Let the policy explore, with noise as one more input.
            overwrite: Replace a file that exists.
        """
        return locals()

    line = CommandLine(arguments, typing.get_type_hints(command), positional=("path",))
    _export(**line.parse(command, "offline-rl export"))


def _export(*, path: str, out: str, seed: int | None, explore: bool, overwrite: bool) -> None:
    from offline_rl.agent import load_agent
    from offline_rl.agent.folder import agent_folders

    if not out.endswith((".onnx", ".pt2")):
        raise UsageError(f"--out is {out}; its name must end with .onnx or .pt2")
    if Path(out).exists() and not overwrite:
        raise UsageError(f"{out} exists; choose another --out, or replace it with --overwrite")
    found = agent_folders(path)
    if found:
        chosen = next(iter(found)) if seed is None and len(found) == 1 else seed
        if chosen not in found:
            raise UsageError(f"{path} has agents of the seeds {', '.join(map(str, found))}; choose one with --seed")
        path = str(found[chosen])
    elif seed is not None:
        raise UsageError(f"{path} is no run with agents of several seeds; leave out --seed")
    agent = load_agent(path)
    write = agent.export_onnx if out.endswith(".onnx") else agent.export_program
    difference = write(out, deterministic=not explore)
    print(f"{out}: {agent.name} of {path}; its actions differ from the agent's by at most {difference:.1e}")
