"""How long each op takes: every op is counted, in its direction, and nothing twice."""

import time
import types

import numpy as np
import pytest

import minigrad as mg
import minigrad.ops as F
from minigrad import stopwatch
from minigrad.tensor import this_thread


def test_every_op_gets_the_time_from_the_one_before(monkeypatch):
    """A clock that moves when an op computes: forward and backward add up, and so does the rest."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(stopwatch, "time", types.SimpleNamespace(perf_counter=lambda: clock.now))
    x = mg.Tensor([1.0, 2.0], requires_grad=True)
    watch = mg.Stopwatch()
    for _ in range(2):  # two laps
        with watch:
            clock.now += 3
            y = x * x  # 3 s
            clock.now += 1
            loss = (y * x).sum()  # mul 1 s, sum at once
            clock.now += 6
            loss.backward()  # the first of its steps, sum, 6 s; two of mul at once
            clock.now += 2  # the rest
        clock.now += 50  # between two laps nobody looks
    assert watch.ops() == [("sum", 0.0, 6.0), ("mul", 4.0, 0.0)]
    assert (watch.seconds, watch.laps) == (24.0, 2)
    assert [line.split() for line in watch.table().split("\n")] == [
        ["op", "forward", "backward", "ms"],
        ["sum", "0.00", "6000.00"],
        ["mul", "4000.00", "0.00"],
        ["the", "rest", "2000.00"],
    ]


def test_a_slow_op_is_found():
    """On a real clock: what sleeps is in front, on its side; parts do not exceed the whole."""

    @stopwatch_op
    def slow(x):
        def backward(dout):
            time.sleep(0.02)
            return (dout,)

        return x + 0, backward

    x = mg.Tensor(np.ones(3), requires_grad=True)
    watch = mg.Stopwatch()
    with watch:
        F.exp(slow(x)).sum().backward()
    (name, there, back), *others = watch.ops()
    assert name == "slow" and back >= 0.02 > there
    assert {name for name, _, _ in others} == {"exp", "sum"}
    assert sum(t + b for _, t, b in watch.ops()) <= watch.seconds


def stopwatch_op(function):
    """An op that is not entered in OPS."""
    lifted = mg.tensor.op(function)
    del mg.OPS[function.__name__]
    return lifted


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_afterwards_nothing_looks_on(error):
    """Also after an error; and inside detect_anomaly() the other one is back in its place."""
    with mg.detect_anomaly():
        before = this_thread.watch
        try:
            with mg.Stopwatch() as watch:
                assert this_thread.watch is watch
                if error:
                    raise error
        except ZeroDivisionError:
            pass
        assert this_thread.watch is before is not None
    assert this_thread.watch is None


def test_detect_anomaly_looks_on():
    """A NaN is found inside of both, whichever is the inner one."""
    x = mg.Tensor([4.0, 0.0], requires_grad=True)
    with (
        mg.detect_anomaly(),
        mg.Stopwatch() as watch,
        pytest.raises(FloatingPointError, match="dx"),
    ):
        F.sqrt(x).sum().backward()
    assert {name for name, _, _ in watch.ops()} == {"sqrt", "sum"}


def test_a_stopwatch_does_not_run_twice_at_once():
    """It would count everything twice, and look on for ever."""
    with mg.Stopwatch() as watch, pytest.raises(RuntimeError, match="running already"), watch:
        pass
    assert this_thread.watch is None


def test_on_a_gpu_every_op_is_waited_for(gpu, monkeypatch):
    """Or its time would be that of the call that starts it."""
    waited = []
    monkeypatch.setattr(stopwatch, "wait_for", lambda array: waited.append(array.shape))
    x = mg.Tensor(np.ones((2, 3), np.float32), requires_grad=True).to("gpu")
    with mg.Stopwatch():
        F.exp(x).sum().backward()
    assert waited == [(2, 3), (), (), (2, 3)]
