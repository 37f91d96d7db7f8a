"""How a CPU computes: its matrix product, its threads, and what becomes of numbers that are all but zero.

On AMD processors PyTorch's default (MKL) takes an AVX2 path. A permission meant for reduced precision lets oneDNN take
over; without matrix units for reduced precision it then runs its full float32 AVX-512 kernel: on Zen 5 that was
measured 1.6 to 1.8 times as fast, on Zen 4 no faster for a whole update. Where a processor does have such units the
permission would cost accuracy, so it is given only after a check.

MLPs, which are nearly all of the arithmetic, have a kernel of their own, :mod:`offline_rl.kernels.native`,
where it can be built.

Numbers below 1.2e-38, the smallest normal float32, count as zero: processors take many times as long for them.
They come of themselves. The mean of gradients that Adam keeps for a unit that has died shrinks until it is such a
number, and stays one; a loss that has come to its end has nothing but such gradients.
"""

from pathlib import Path
from typing import Any, Literal, cast

import torch

from offline_rl.kernels import native

Kernel = Literal["default", "onednn", "native", "native+onednn", "bf16", "tf32"]
"""PyTorch's matrix product, oneDNN's, our own kernel for MLPs with either for the rest; less precise ones."""

Precision = Literal["float32", "tf32", "bf16"]
"""Of matrix products."""

_TOLERANCE = 1e-5
"""Largest error of a float32 product, relative to the sum of the terms' magnitudes; true bfloat16 is off by 1e-4."""
_ZEN5_FAMILY = 26
"""AMD's number for the first processors with full-width AVX-512 units."""


def choose_kernel(threads: int = 1, *, built: bool = True) -> Kernel:
    """Return the fastest kernel that is exact to rounding in float32, for a process of so many threads.

    Decided by the processor, and by whether a compiler is found, and not by a stopwatch: the choice can change the last
    bits of results, so it must not depend on a noisy moment. ``built`` permits the kernel that needs the compiler.
    """
    onednn = _is_zen5_or_later() and onednn_is_exact()
    if built and threads == 1 and native.available():
        return "native+onednn" if onednn else "native"
    return "onednn" if onednn else "default"


def kernel_in_words(kernel: Kernel, threads: int = 1) -> str:
    """Say which kernel computes on a CPU, and why that one."""
    if precision_of(kernel) != "float32":
        return f"{kernel} matrix products"
    products = "matrix products by oneDNN (AMD Zen 5 or later)" if "onednn" in kernel else "PyTorch's kernels"
    if "native" in kernel:
        return f"native MLP kernel ({native.instructions() or native.obstacle()})" + (
            f", {products}" if "onednn" in kernel else ""
        )
    if threads > 1:
        return f"{products} (the native kernel takes one thread, not {threads})"
    return f"{products} ({native.obstacle() or 'the run began with them'})"


def precision_of(kernel: str) -> Precision:
    """Return the precision of a kernel's matrix products."""
    return cast(Precision, kernel) if kernel in ("tf32", "bf16") else "float32"


def use_kernel(kernel: Kernel, threads: int) -> None:
    """Set this process's kernel and thread count, which can change the last bits of results; flush to zero.

    "tf32" keeps 10 bits of each factor's fraction, "bf16" 7.

    Raises:
        NativeError: The kernel is the native one, and cannot be built here.
    """
    native.activate(active=kernel in ("native", "native+onednn"))
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # threads that start later inherit it
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high" if kernel == "tf32" else "highest")
    if (settings := _settings()) is not None:
        settings.fp32_precision = "bf16" if kernel in ("onednn", "native+onednn", "bf16") else "none"


def use_defaults(threads: int) -> None:
    """Let this process compute as PyTorch does by itself again, with so many threads."""
    use_kernel("default", threads)
    torch.set_flush_denormal(False)


def onednn_is_exact() -> bool:
    """Return whether oneDNN, permitted less, computes a float32 product in float32 all the same."""
    error = _permitted_error()
    return error is not None and error < _TOLERANCE


def bf16_is_faster() -> bool:
    """Return whether oneDNN, permitted less, takes this processor's units for products of bfloat16."""
    error = _permitted_error()
    return error is not None and error >= _TOLERANCE


def _permitted_error() -> float | None:
    settings = _settings()
    if settings is None:
        return None
    before = settings.fp32_precision
    try:
        settings.fp32_precision = "bf16"
        return _product_error()
    finally:
        settings.fp32_precision = before


def _settings() -> Any:
    """Return the object that holds oneDNN's permission, or None where PyTorch has none."""
    settings = getattr(torch.backends.mkldnn, "matmul", None)
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return settings if available and hasattr(settings, "fp32_precision") else None


def _is_zen5_or_later() -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return False
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    family = facts.get("cpu family", "")
    return facts.get("vendor_id") == "AuthenticAMD" and family.isdigit() and int(family) >= _ZEN5_FAMILY


def _product_error() -> float:
    # A fixed pattern instead of random numbers: the choice must not depend on, or disturb, a generator.
    entries = torch.arange(256 * 256, dtype=torch.float64)
    left = torch.sin(entries * 0.7).reshape(256, 256)
    right = torch.cos(entries * 1.3).reshape(256, 256)
    error = left.float() @ right.float() - left @ right
    return float(error.abs().max() / (left.abs() @ right.abs()).max())
