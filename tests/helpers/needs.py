"""What some tests need beyond the packages; where a machine lacks it they are skipped, and say what it lacks."""

import importlib.util
import os

import pytest

from offline_rl.kernels import native

RECORDINGS = os.environ.get("OFFLINE_RL_TEST_DATA") or None
NO_RECORDINGS = "needs recordings that are not for download, in the folder that OFFLINE_RL_TEST_DATA names"
needs_recordings = pytest.mark.skipif(RECORDINGS is None, reason=NO_RECORDINGS)


def _missing_for_the_kernel():
    # Not whether it can be built: a kernel that no longer compiles shall fail its tests.
    try:
        native._command(native._instructions())
    except native.NativeError as error:
        return str(error)
    return ""


needs_kernel = pytest.mark.skipif(bool(_missing_for_the_kernel()), reason=_missing_for_the_kernel())

BUILDS = [
    pytest.param(
        "AVX-512", marks=pytest.mark.skipif(not native._processor_flags() >= native._AVX512, reason="needs AVX-512")
    ),
    pytest.param("AVX2", marks=pytest.mark.skipif(not native._processor_flags() >= native._AVX2, reason="needs AVX2")),
]
"""The native kernel's, each with what its processor must have."""

needs_robotics = pytest.mark.skipif(
    importlib.util.find_spec("gymnasium_robotics") is None, reason="needs pip install offline-rl-suite[robotics]"
)
