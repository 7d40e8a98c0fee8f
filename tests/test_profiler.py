"""The profiler counts the time of every op, in its direction, and nothing twice."""

import time
import types

import numpy as np
import pytest

import minigrad as mg
import minigrad.ops as F
from minigrad.internals.hooks import this_thread
from minigrad.tools import profiler as profiler_module


def test_every_op_gets_the_time_from_the_one_before(monkeypatch):
    """By a fake clock: forward, backward and the rest add up."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(
        profiler_module, "time", types.SimpleNamespace(perf_counter=lambda: clock.now)
    )
    x = mg.Tensor([1.0, 2.0], requires_grad=True)
    profiler = mg.Profiler()
    for _ in range(2):  # two runs
        with profiler:
            clock.now += 3
            y = x * x  # 3 s
            clock.now += 1
            loss = (y * x).sum()  # mul 1 s, sum at once
            clock.now += 6
            loss.backward()  # the first node, sum, 6 s; two of mul at once
            clock.now += 2  # the rest
        clock.now += 50  # between two runs nobody looks
    assert profiler.ops() == [("sum", 0.0, 6.0), ("mul", 4.0, 0.0)]
    assert (profiler.seconds, profiler.n_runs) == (24.0, 2)
    assert [line.split() for line in profiler.table().split("\n")] == [
        ["op", "forward", "backward", "ms"],
        ["sum", "0.00", "6000.00"],
        ["mul", "4000.00", "0.00"],
        ["the", "rest", "2000.00"],
    ]


def test_a_slow_op_is_found():
    """By the real clock: an op that sleeps comes first, and the parts do not exceed the whole."""

    @op_outside_of_ops
    def slow(x):
        def backward(dout):
            time.sleep(0.02)
            return (dout,)

        return x + 0, backward

    x = mg.Tensor(np.ones(3), requires_grad=True)
    profiler = mg.Profiler()
    with profiler:
        F.exp(slow(x)).sum().backward()
    (name, there, back), *others = profiler.ops()
    assert name == "slow" and back >= 0.02 > there
    assert {name for name, _, _ in others} == {"exp", "sum"}
    assert sum(t + b for _, t, b in profiler.ops()) <= profiler.seconds


def op_outside_of_ops(function):
    """Return an op that is not entered in OPS."""
    lifted = mg.tensor.op(function)
    del mg.OPS[function.__name__]
    return lifted


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_afterwards_the_hook_is_the_one_before(error):
    """Also after an error, and inside of detect_anomaly()."""
    with mg.detect_anomaly():
        before = this_thread.hook
        try:
            with mg.Profiler() as profiler:
                assert this_thread.hook is profiler
                if error:
                    raise error
        except ZeroDivisionError:
            pass
        assert this_thread.hook is before is not None
    assert this_thread.hook is None


def test_detect_anomaly_still_works():
    """An Inf is found inside of both."""
    x = mg.Tensor([4.0, 0.0], requires_grad=True)
    with (
        mg.detect_anomaly(),
        mg.Profiler() as profiler,
        pytest.raises(FloatingPointError, match="dx"),
    ):
        F.sqrt(x).sum().backward()
    assert {name for name, _, _ in profiler.ops()} == {"sqrt", "sum"}


def test_a_profiler_does_not_run_twice_at_once():
    """It would count everything twice, and would stay the hook forever."""
    with mg.Profiler() as profiler, pytest.raises(RuntimeError, match="running already"), profiler:
        pass
    assert this_thread.hook is None


def test_on_a_gpu_it_waits_for_every_op(gpu, monkeypatch):
    """Otherwise an op's time would be that of the call that starts it."""
    waited = []
    monkeypatch.setattr(profiler_module, "synchronize", lambda array: waited.append(array.shape))
    x = mg.Tensor(np.ones((2, 3), np.float32), requires_grad=True).to("gpu")
    with mg.Profiler():
        F.exp(x).sum().backward()
    assert waited == [(2, 3), (), (), (2, 3)]
