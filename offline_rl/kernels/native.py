"""The MLP's own kernel for CPUs, ``native.cpp``: built at first use, loaded as a plain shared library.

It is for x86-64 processors with AVX-512, or with AVX2 and FMA, where a C++ compiler is found. Both builds of the source
give the same bytes, so a run may go on with the other one. PyTorch's variable ``ATEN_CPU_CAPABILITY=avx2`` keeps this
kernel from AVX-512, too. A build stays in the cache folder, under a name made of everything that changes it; one
process builds, the others wait for it. It knows nothing of PyTorch, so it takes a second to build and serves every
version.

Not verified: how fast the AVX2 build is on a processor without AVX-512; ``python -m benchmarks.layers`` measures both
builds on one that has it. Other processors, such as ARM's, have no build.
"""

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from offline_rl.errors import RunError
from offline_rl.files import cache_folder, replace_file

_SOURCE = Path(__file__).with_suffix(".cpp")
_OPTIONS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-shared", "-fPIC")
_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
"""What a compiler takes for granted of an x86-64-v4, as Linux names it; the rest is older."""
_AVX2 = {"avx2", "fma"}
_BUILD_SECONDS = 120
_MOST_ROWS = 2048
"""Beyond them what a layer leaves for the backward pass outgrows a core's cache, and PyTorch's products were faster."""


class NativeError(RunError):
    """The kernel cannot be built or loaded here."""


class _Library:
    """A loaded build's two functions, and the constants that determine buffer sizes, see ``native.cpp``."""

    def __init__(self, path: Path, instructions: str) -> None:
        self.instructions = instructions
        loaded = ctypes.CDLL(str(path))
        size, pointer = ctypes.c_int64, ctypes.c_void_p
        self.block, self.width, self.group, self.gap = (
            size.in_dll(loaded, f"mlp_{name}").value for name in ("block", "width", "group", "gap")
        )
        self.forward: Any = loaded.mlp_forward
        self.forward.argtypes, self.forward.restype = [size] * 3 + [pointer] * 6, None
        self.backward: Any = loaded.mlp_backward
        self.backward.argtypes, self.backward.restype = [size] * 3 + [pointer] * 8, None


_active: _Library | None = None


def activate(*, active: bool) -> None:
    """Let MLPs of this process use the kernel, or no longer.

    Raises:
        NativeError: It is to be used and cannot be built here; says why.
    """
    global _active  # noqa: PLW0603 (like PyTorch's own choice of a matrix product)
    _active = _library() if active else None


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Compute with PyTorch's own operations in this block, which is what a traced program can hold."""
    global _active  # noqa: PLW0603 (as above)
    before, _active = _active, None
    try:
        yield
    finally:
        _active = before


def available() -> bool:
    """Return whether the kernel can be used here; builds it if that has not been done."""
    return isinstance(_attempt(), _Library)


def instructions() -> str | None:
    """Return which build is used here, "AVX-512" or "AVX2"; None if the kernel cannot be used."""
    found = _attempt()
    return found.instructions if isinstance(found, _Library) else None


def obstacle() -> str | None:
    """Say why the kernel cannot be used here; None if it can."""
    found = _attempt()
    return str(found) if isinstance(found, NativeError) else None


def serves(x: Tensor, layers: Sequence[Tensor]) -> bool:
    """Return whether the active kernel takes these: float32 on the CPU, of sizes that fit; it checks nothing itself."""
    return (
        _active is not None
        and x.dtype == layers[0].dtype == torch.float32
        and x.device.type == layers[0].device.type == "cpu"
        and x.shape[1:] == layers[0].shape[2:]
        and len(x) <= _MOST_ROWS
    )


class MLPFunction(torch.autograd.Function):
    """``count`` MLPs that read the same input, by the active kernel; float32 on the CPU only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *layers: Tensor) -> Tensor:
        """Map ``(B, in)`` to ``(count, B, out)``; ReLU between layers."""
        output, hidden = torch.ops.offline_rl.mlp(x, layers)
        ctx.save_for_backward(x, hidden, *layers)
        return output  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input and of the layers, each only if it is asked for."""
        x, hidden, *layers = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        gradients = torch.ops.offline_rl.mlp_gradients(x, hidden, grad, layers, *needed)
        input_grad = gradients.pop(0) if needed[0] else None
        return (input_grad, *(gradients or [None] * len(layers)))


class _Plan:
    """Arguments of the kernel for MLPs of one shape, and the memory that it needs."""

    def __init__(self, kernel: _Library, count: int, rows: int, *sizes: int) -> None:
        padded = -(-rows // kernel.block) * kernel.block
        self.shape = count, rows, len(sizes) - 1, (ctypes.c_int64 * len(sizes))(*sizes)
        self.hidden = count * padded * sum(sizes[1:-1])
        self.output = count, rows, sizes[-1]
        packed = max(padded * kernel.width, (max(sizes) + kernel.gap) * kernel.group)
        # Kept, because allocating so much memory again costs as much as a small layer; the kernel has one thread.
        self._scratch = np.empty(padded * 2 * (max(sizes) + sizes[0]) + packed, np.float32)
        self.scratch = self._scratch.ctypes.data


_plan = functools.cache(_Plan)


def _planned(x: Tensor, layers: Sequence[Tensor]) -> _Plan:
    return _plan(_library(), layers[0].shape[0], *x.shape, *(bias.shape[1] for bias in layers[1::2]))


def _forward(x: Tensor, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    plan, output, hidden = _planned(x, layers), *_outputs(x, layers)
    x, layers = x.contiguous(), [layer.contiguous() for layer in layers]
    places = x.data_ptr(), _addresses(layers), hidden.data_ptr(), output.data_ptr(), plan.scratch
    _library().forward(*plan.shape, *places)
    return output, hidden


def _outputs(x: Tensor, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return room for the outputs, and for all hidden activations as the kernel lays them out."""
    plan = _planned(x, layers)
    return x.new_empty(plan.output), x.new_empty(plan.hidden)


def _backward(  # noqa: PLR0917 (operations know no names)
    x: Tensor, hidden: Tensor, gradient: Tensor, layers: Sequence[Tensor], of_input: bool, of_layers: bool
) -> list[Tensor]:
    plan, gradients = _planned(x, layers), _gradients(x, hidden, gradient, layers, of_input, of_layers)
    x, gradient, layers = x.contiguous(), gradient.contiguous(), [layer.contiguous() for layer in layers]
    _library().backward(
        *plan.shape,
        x.data_ptr(),
        _addresses(layers),
        hidden.data_ptr(),
        gradient.data_ptr(),
        _addresses(gradients[int(of_input) :]) if of_layers else None,
        gradients[0].data_ptr() if of_input else None,
        plan.scratch,
    )
    return gradients


def _gradients(  # noqa: PLR0917
    x: Tensor, hidden: Tensor, gradient: Tensor, layers: Sequence[Tensor], of_input: bool, of_layers: bool
) -> list[Tensor]:
    """Return room for the gradients that are asked for, the input's first."""
    wanted = [*([x] if of_input else []), *(layers if of_layers else [])]
    return [like.new_empty(like.shape) for like in wanted]


# As operations of PyTorch's they can stand in a program that is traced and compiled.
_operations: Any = torch.library.Library("offline_rl", "FRAGMENT")  # type: ignore[no-untyped-call]
_operations.define("mlp(Tensor x, Tensor[] layers) -> (Tensor, Tensor)")
_operations.define(
    "mlp_gradients(Tensor x, Tensor hidden, Tensor gradient, Tensor[] layers, bool of_input, bool of_layers)"
    " -> Tensor[]"
)
for _key, _values, _grads in (("CPU", _forward, _backward), ("Meta", _outputs, _gradients)):
    _operations.impl("mlp", _values, _key)
    _operations.impl("mlp_gradients", _grads, _key)


def _addresses(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _library() -> _Library:
    found = _attempt()
    if isinstance(found, NativeError):
        raise NativeError(f"{found}; what was begun with this kernel goes on only where it can be built")
    return found


@functools.cache
def _attempt() -> _Library | NativeError:
    """Build or find the kernel, and load it; a process tries once."""
    try:
        instructions = _instructions()
        return _Library(_built(instructions), instructions)
    except NativeError as error:
        return error
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        return NativeError(f"the native kernel cannot be built or loaded ({error})")


def _built(instructions: str) -> Path:
    """Return the shared library's path, after building it if nobody has."""
    from filelock import FileLock

    compiler, command = _command(instructions)
    about = compiler.resolve().stat()
    identity = [_SOURCE.read_text(encoding="utf-8"), str(about.st_size), str(about.st_mtime_ns), *command]
    path = cache_folder() / f"native-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            with replace_file(path) as temporary:
                _compile([*command, "-o", str(temporary), str(_SOURCE)])
    return path


def _instructions() -> str:
    """Return the fastest that the processor has, "AVX-512" or "AVX2"."""
    flags = _processor_flags()
    if flags >= _AVX512 and os.environ.get("ATEN_CPU_CAPABILITY") != "avx2":
        return "AVX-512"
    if flags >= _AVX2:
        return "AVX2"
    raise NativeError("the native kernel needs an x86-64 processor with AVX2 and FMA")


def _command(instructions: str) -> tuple[Path, list[str]]:
    """Return the compiler's file and the command that builds, but for its files."""
    targets = ["-march=x86-64-v4"] if instructions == "AVX-512" else ["-mavx2", "-mfma"]
    names = [os.environ.get("CXX") or "g++", "g++", "c++"]
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        raise NativeError("the native kernel needs a C++ compiler, such as g++, and there is none")
    return Path(compiler), [compiler, *targets, *_OPTIONS]


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, timeout=_BUILD_SECONDS, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        said = next((line for line in lines if "error" in line), lines[-1])
        raise NativeError(f"the native kernel cannot be built: {command[0]} says {said!r}")
