import contextlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.needs import BUILDS, needs_kernel
from helpers.settings import WITH_WORKERS, Stopping

import offline_rl as orl
from offline_rl.errors import Interrupted
from offline_rl.kernels import choice as kernels
from offline_rl.kernels import native
from offline_rl.networks import MLP
from offline_rl.training.checkpoint import Checkpoint
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan, split_settings
from offline_rl.training.run import carry_out
from offline_rl.training.trainer import Stop
from offline_rl.training.workers import WorkerPool

each_build = pytest.mark.parametrize("build", BUILDS)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """Leave no test's kernel, and no memory of a build, to the next one."""
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    native._attempt.cache_clear()
    yield
    native._attempt.cache_clear()
    kernels.use_kernel("default", 1)


def use(build, monkeypatch):
    """Choose the native kernel, and this build of it, where the processor may have both."""
    if build == "AVX2":
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    native._attempt.cache_clear()
    kernels.use_kernel("native", 1)
    assert native.instructions() == build


def network(input_size, hidden, output_size, count, dtype=torch.float32):
    mlp = MLP(input_size, output_size, hidden, count)
    mlp.initialize(np.random.default_rng(0))
    return mlp.to(dtype)


def everything(mlp, x, weight):
    """Return the outputs and all gradients, of the frozen network, too."""
    x = x.clone().requires_grad_()
    output, frozen = mlp(x), mlp.frozen(x, 1)
    gradients = torch.autograd.grad((output * weight).sum(), [x, *mlp.layers])
    return [output, frozen, *gradients, *torch.autograd.grad((frozen * weight[:1]).sum(), x)]


SHAPES = pytest.mark.parametrize(
    ("rows", "sizes", "count"),
    [
        (256, (23, 256, 256, 1), 2),
        (256, (17, 256, 256, 6), 1),
        (37, (23, 150, 131, 12), 3),
        (1, (5, 7, 1), 1),
        (65, (3, 2), 2),
        (32, (1, 1, 1, 1), 1),
        (10, (4, 9, 33, 16, 8, 3), 2),
        (300, (13, 100, 5), 1),
    ],
)


def setting(rows, sizes, count):
    torch.manual_seed(0)
    return (sizes[0], sizes[1:-1], sizes[-1], count), torch.randn(rows, sizes[0]), torch.randn(count, rows, sizes[-1])


@needs_kernel
@each_build
@SHAPES
def test_values_and_gradients_are_float64s_within_rounding(build, rows, sizes, count, monkeypatch):
    """Broken by a forgotten mask, a tail of rows or columns left out, or a network's gradient not added."""
    shape, x, weight = setting(rows, sizes, count)
    exact = everything(network(*shape, torch.float64), x.double(), weight.double())
    default = everything(network(*shape), x, weight)
    use(build, monkeypatch)
    ours = everything(network(*shape), x, weight)
    assert "MLPFunction" in type(ours[0].grad_fn).__name__
    for own, usual, truth in zip(ours, default, exact, strict=True):
        scale = truth.detach().abs().max()
        assert (own - truth).abs().max() <= 1e-5 * scale
        assert (own - usual).abs().max() <= 1e-5 * scale


@pytest.mark.skipif(not native._processor_flags() >= native._AVX512, reason="needs AVX-512")
@needs_kernel
@SHAPES
def test_both_builds_give_the_same_bytes(rows, sizes, count, monkeypatch):
    """Broken by sums whose order the vectors' length changes, as those of a bias's gradient over the batch may."""
    shape, x, weight = setting(rows, sizes, count)
    found = []
    for build in ("AVX-512", "AVX2"):
        use(build, monkeypatch)
        found.append([value.detach().numpy().tobytes() for value in everything(network(*shape), x, weight)])
    assert found[0] == found[1]


@needs_kernel
@each_build
def test_equal_inputs_give_equal_bytes_wherever_they_lie(build, monkeypatch):
    """However memory is laid out, and whichever networks and rows are beside them."""
    use(build, monkeypatch)
    mlp = network(6, (40, 50), 3, 2)
    wide = torch.randn(64, 13)
    first = everything(mlp, wide[:, 3:9], torch.ones(1, 1, 1).expand(2, 64, 3))
    again = everything(mlp, wide[:, 3:9].contiguous(), torch.ones(2, 64, 3))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    ones = [torch.ones(2, 64, 3), torch.ones(()).expand(2, 64, 3)]
    laid, spread = (torch.autograd.grad(mlp(wide[:, 3:9]), list(mlp.layers), gradient) for gradient in ones)
    assert all(a.equal(b) for a, b in zip(laid, spread, strict=True))
    assert first[0][:1].equal(first[1])
    assert mlp(wide[20:41, 3:9]).equal(first[0][:, 20:41])


@needs_kernel
@each_build
def test_what_is_not_a_number_stays_so(build, monkeypatch):
    use(build, monkeypatch)
    mlp = network(4, (40,), 2, 1)
    x = torch.zeros(40, 4)
    x[3, 2] = torch.nan
    assert mlp(x).isnan().any(2)[0].nonzero().tolist() == [[3]]


@needs_kernel
def test_what_the_kernel_cannot_take_goes_the_usual_way():
    kernels.use_kernel("native", 1)
    assert network(4, (5,), 2, 1, torch.float64)(torch.zeros(3, 4, dtype=torch.float64)).dtype == torch.float64
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        network(4, (5,), 2, 1)(torch.zeros(3, 9))


@needs_kernel
def test_more_threads_are_for_pytorch():
    assert kernels.choose_kernel().startswith("native")
    assert not kernels.choose_kernel(threads=2).startswith("native")


@pytest.mark.parametrize(
    ("flags", "build"),
    [
        (native._AVX512 | native._AVX2, "AVX-512"),
        ((native._AVX512 | native._AVX2) - {"avx512bw"}, "AVX2"),
        (native._AVX2, "AVX2"),
        (native._AVX2 - {"fma"}, None),
        (set(), None),
    ],
)
def test_a_processor_gets_the_fastest_build_that_it_can_execute(flags, build, monkeypatch):
    monkeypatch.setattr(native, "_processor_flags", lambda: flags)
    if build:
        assert native._instructions() == build
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
        assert native._instructions() == "AVX2"
        return
    assert native.instructions() is None
    assert kernels.choose_kernel() in ("default", "onednn")
    assert native.obstacle() == "the native kernel needs an x86-64 processor with AVX2 and FMA"
    assert native.obstacle() in kernels.kernel_in_words("default")


def test_without_a_compiler_there_is_another_kernel(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    native._attempt.cache_clear()
    assert kernels.choose_kernel() in ("default", "onednn")
    with pytest.raises(orl.RunError, match="what was begun with this kernel goes on only where it can be built"):
        kernels.use_kernel("native", 1)


def compiler(folder, command):
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
    return str(path)


@needs_kernel
def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(monkeypatch, tmp_path):
    half = 'while [ "$1" != -o ]; do shift; done; echo half > "$2"'
    monkeypatch.setenv("CXX", compiler(tmp_path, f"{half}; echo 'error: no disk' >&2; echo '  ^~~' >&2; exit 1"))
    monkeypatch.setenv("OFFLINE_RL_CACHE", str(tmp_path / "cache"))
    native._attempt.cache_clear()
    assert not native.available()
    with pytest.raises(orl.RunError, match="compiler says 'error: no disk'"):
        kernels.use_kernel("native", 1)
    assert not list((tmp_path / "cache").glob("*.so"))


@needs_kernel
def test_processes_that_start_together_build_once(tmp_path):
    """Broken by looking for the file before the lock only."""
    log = tmp_path / "log"
    environment = os.environ | {
        "CXX": compiler(tmp_path, f'echo built >> "{log}"; exec g++ "$@"'),
        "OFFLINE_RL_CACHE": str(tmp_path / "cache"),
    }
    code = "from offline_rl.kernels import native; assert native.available()"
    children = [subprocess.Popen([sys.executable, "-P", "-c", code], env=environment) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert log.read_text() == "built\n"


@needs_kernel
def test_a_run_keeps_its_kernel_and_says_where_it_cannot_go_on(monkeypatch, tmp_path):
    settings = {**WITH_WORKERS, "steps": 400, "eval_every": 0, "final_episodes": 0, "log_every": 20}
    settings |= {"out": str(tmp_path / "run"), "seeds": [0]}
    options, own = split_settings("bc", settings)
    plan, stop = Plan.make("bc", "hopper-demo", TrainOptions(**options), own), Stop()
    with contextlib.closing(WorkerPool()) as pool, pytest.raises(Interrupted):
        carry_out(plan, tmp_path / "run", pool, callbacks=[Stopping(stop)], stop=stop)
    config = (tmp_path / "run" / "config.json").read_text()
    assert json.loads(config)["compute"]["kernel"] == kernels.choose_kernel()
    with monkeypatch.context() as hidden:
        hidden.setenv("PATH", str(tmp_path))
        hidden.setenv("OFFLINE_RL_CACHE", str(tmp_path / "cache"))
        with pytest.raises(orl.RunError, match=r"needs a C\+\+ compiler, .* and there is none; what was begun"):
            orl.train("bc", "hopper-demo", resume=True, **settings)
    orl.train("bc", "hopper-demo", resume=True, **settings)
    assert (tmp_path / "run" / "config.json").read_text() == config
    assert Checkpoint.load(tmp_path / "run").finished
