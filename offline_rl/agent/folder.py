"""The files of an agent folder, read as if somebody meant harm: nothing outside, nothing huge, nothing that waits.

Whoever builds what they describe does so :func:`within` the size of the weights.
"""

import contextlib
import hashlib
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from offline_rl.agent.config import AgentConfig
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.documents import check, said
from offline_rl.errors import AgentError, brief, suggestion
from offline_rl.files import read_record, sealed, write_bytes, write_json

if TYPE_CHECKING:
    from offline_rl.agent.base import Agent

FORMAT = 2
"""Version of the agent folder; a file with a higher one is refused. Since 2 both files are known by checksums."""
DESCRIPTION_LIMIT = 1_000_000
"""Bytes that ``agent.json``, or the header of the weights, may have: a hundred times what they need."""
WEIGHTS_LIMIT = 2**30
"""Bytes that the weights may have: a hundred times what the largest policies here need."""
SLACK = 2**18, 256
"""Numbers (1 MB), and tensors of them, that networks may have beyond the saved ones before building them is stopped."""
HUB_NAME = r"\w[\w.-]*/\w[\w.-]*"
"""What a name on the Hugging Face Hub looks like, ``user/name``."""
LIST_LIMIT = 1000
"""Entries of a list in an algorithm's settings."""
SHAPE = {
    "algorithm": str,
    "config": {str: object},
    "observation_size": int,
    "action_size": int,
    "seed": int,
    "steps": int,
    "online_steps": int,
    "preprocessing": {str: object},
    "provenance": {str: object},
    "weights_sha256": str,
}
"""Of ``agent.json``; what the values mean is checked by whoever builds the agent."""


def write(folder: Path, description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write both files of an agent folder.

    Args:
        folder: A new folder, which is there already.
        description: What :func:`read_description` will return.
        weights: The tensors by name.
    """
    from safetensors.torch import save

    content = save({name: weight.contiguous() for name, weight in weights.items()})
    write_bytes(folder / "weights.safetensors", content)
    digest = hashlib.sha256(content).hexdigest()
    write_json(folder / "agent.json", sealed({**description, "weights_sha256": digest}))


def agent_folders(run: str | os.PathLike[str]) -> dict[int, Path]:
    """Return the folders of a run's agents by their seeds; none if it is no run."""
    with contextlib.suppress(OSError):  # a name may be too long to be one
        found = {folder.name.removeprefix("seed-"): folder for folder in Path(run).glob("agents/seed-*")}
        return {int(seed): found[seed] for seed in sorted(filter(str.isdecimal, found), key=int)}
    return {}


def agent_folder(path: str | os.PathLike[str]) -> Path:
    """Return the agent folder that a path leads to: itself, or that of the only agent of a run.

    Raises:
        AgentError: Nothing is there, or a file; or a run that has no agent yet, or several.
    """
    try:
        folder = Path(path)
        if not (folder.exists() or folder.is_symlink()):
            raise AgentError(_why_missing(folder))
    except (TypeError, ValueError):
        raise AgentError(f"{brief(repr(path))} is no path; give the folder of an agent or of a run") from None
    except OSError as error:
        raise AgentError(f"{brief(path)} cannot be opened ({error.strerror}); check the path") from None
    if not folder.is_dir():
        raise AgentError(f"{brief(folder)} is no folder; give the folder of an agent or of a run")
    found = agent_folders(folder)
    if (folder / "agent.json").exists() or (folder / "agent.json").is_symlink() or not found:
        return folder
    if len(found) > 1:
        seeds, first = ", ".join(map(str, found)), next(iter(found.values()))
        raise AgentError(f"{folder} has agents of the seeds {brief(seeds)}; choose one by its folder, such as {first}")
    return next(iter(found.values()))


def _why_missing(folder: Path) -> str:
    """Return the sentence for a path where nothing is."""
    name = folder.as_posix()
    beside = [other.name for other in folder.parent.iterdir()] if folder.parent.is_dir() else []
    hint = suggestion(folder.name, beside) or "; check the path"
    if re.fullmatch(HUB_NAME, name):
        hint = f"{hint.removesuffix('?')}, or give hf://{name} for an agent on the Hugging Face Hub"
    return f"there is no folder {name}{hint}"


def read_description(folder: Path) -> dict[str, Any]:
    """Return what ``agent.json`` holds.

    Raises:
        AgentError: It is missing, no JSON object, too long, or of a newer format.
    """
    file = folder / "agent.json"
    if not file.exists() and not file.is_symlink():
        if (folder / "config.json").is_file() and not (folder / "agents").is_dir():
            raise AgentError(f"{folder} is a run that has no agents yet; it is training, or was stopped")
        hint = "; give one of the folders in its agents/" if (folder / "agents").is_dir() else ""
        raise AgentError(f"{folder} holds no agent.json, so it is no agent folder{hint}")
    try:
        with _opened(file) as source:
            content = source.read(DESCRIPTION_LIMIT + 1)
        if len(content) > DESCRIPTION_LIMIT:
            raise ValueError(f"it has over {DESCRIPTION_LIMIT:,} bytes")
    except (OSError, ValueError) as error:
        raise AgentError(f"{file} cannot be read ({said(error)}); copy the agent folder again") from None
    description = read_record(file, content, FORMAT, {}, error=AgentError, remedy="copy the agent folder again")
    if description["format"] > 1:
        try:
            check(description, SHAPE)
        except ValueError as error:
            raise AgentError(f"{file} does not describe an agent ({error}); copy the agent folder again") from None
    config = description.get("config")
    for name, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, list) and len(value) > LIST_LIMIT:
            raise AgentError(f"{file} lists {len(value):,} values of {brief(name)}; at most {LIST_LIMIT:,} make sense")
    return description


def read_weights(folder: Path, sha256: str | None) -> dict[str, Tensor]:
    """Return the tensors in ``weights.safetensors`` by name.

    Args:
        folder: The agent folder.
        sha256: What ``agent.json`` says of the file; None for one of format 1, which says nothing.

    Raises:
        AgentError: The file is missing, damaged or too large.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "weights.safetensors"
    try:
        with _opened(path) as file:
            if os.fstat(file.fileno()).st_size > WEIGHTS_LIMIT:
                raise ValueError(f"it has over {WEIGHTS_LIMIT:,} bytes")
            if int.from_bytes(file.read(8), "little") > DESCRIPTION_LIMIT:
                raise ValueError(f"its header has over {DESCRIPTION_LIMIT:,} bytes")
            file.seek(0)
            if sha256 is not None and hashlib.file_digest(file, "sha256").hexdigest() != sha256:  # type: ignore[arg-type]
                raise ValueError("its content does not fit its checksum in agent.json")
            weights: dict[str, Tensor] = load_file(f"/dev/fd/{file.fileno()}")
    except (SafetensorError, OSError, ValueError) as error:
        raise AgentError(f"{path} is damaged ({brief(error)}); copy the agent folder again") from None
    if strange := [name for name, weight in weights.items() if not weight.is_floating_point()]:
        raise AgentError(f"{path} is damaged ({strange[0]} holds no numbers with a fraction); copy the folder again")
    return weights


@contextlib.contextmanager
def within(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Refuse networks that are larger than these weights while they are built, before their memory is touched.

    Acting networks have nothing but what is saved. :data:`SLACK` lets a small difference be named as what it is.

    Raises:
        AgentError: More is being built than belongs to these weights.
    """
    numbers = SLACK[0] + sum(weight.numel() for weight in weights.values())
    tensors = SLACK[1] + len(weights)
    own, built = threading.get_ident(), [0, 0]

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        if parameter is None or threading.get_ident() != own:
            return
        built[0] += parameter.numel()
        built[1] += 1
        if built[0] > numbers or built[1] > tensors:
            raise AgentError("its settings ask for larger networks than its weights fill; copy the agent folder again")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _opened(path: Path) -> IO[bytes]:
    """Open a file of an agent folder; a link is refused, for it may lead anywhere, and a pipe, for it may never end.

    Raises:
        AgentError: It is missing, or no file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise AgentError(f"{path} is missing; copy the whole agent folder") from None
    except OSError as error:
        if path.is_symlink():
            raise AgentError(f"{path} is a link; copy the folder with the files themselves (cp -rL)") from None
        raise AgentError(f"{path} cannot be read ({error}); copy the agent folder again") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise AgentError(f"{path} is no file; copy the agent folder again")
    return os.fdopen(descriptor, "rb")


def describe(
    algorithm: "type[Agent]",
    config: AgentConfig,
    *,
    observation_size: int,
    action_size: int,
    seed: int,
    steps: int,
    online_steps: int,
    preprocessing: Preprocessing,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the JSON value from which :func:`agent_from_description` rebuilds an agent."""
    return {
        "format": FORMAT,
        "algorithm": algorithm.name,
        "config": config.settings(),
        "observation_size": observation_size,
        "action_size": action_size,
        "seed": seed,
        "steps": steps,
        "online_steps": online_steps,
        "preprocessing": preprocessing.to_json(),
        "provenance": dict(provenance),
    }
