"""A step shared out over processes: the same gradients, and no process left behind."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

import minigrad as mg
from gpt_numpy import GPT, TrainConfig
from gpt_numpy.scale.gradients import gradients_of_sequences
from gpt_numpy.scale.workers import Workers
from gpt_numpy.train import train
from minigrad.fast.adamw import FusedAdamW

V = 11
IDS = np.random.default_rng(0).integers(V, size=500)
CONFIG = TrainConfig(
    batch_size=3,
    accumulate=2,
    block_size=8,
    n_layer=1,
    n_head=2,
    n_embd=12,
    dropout=0.2,
    steps=3,
    workers=2,
)
WORK = partial(gradients_of_sequences, ids=IDS, config=CONFIG, n_parts=2)


def make():
    mg.manual_seed(0)
    return GPT(CONFIG.model(V)).to(dtype=np.float64)


def workers_of(model, work=WORK, n=2):
    """The Workers of a model and of a FusedAdamW of its own."""
    return Workers(model, FusedAdamW(model.parameter_groups(0.1), lr=0.1), work, (0, 6), n)


@pytest.mark.parametrize("n", [2, 3, 6, 8])
def test_any_number_of_workers_takes_the_same_steps(n):
    """Loss, gradients and moved weights of 1 and of n processes agree at 1e-12, dropout on."""
    alone, shared = make(), make()
    optimizers = [FusedAdamW(model.parameter_groups(0.1), lr=0.1) for model in (alone, shared)]
    teams = [
        Workers(model, optimizer, WORK, (0, 6), k)
        for model, optimizer, k in zip((alone, shared), optimizers, (1, n), strict=True)
    ]
    with teams[0] as one, teams[1] as many:
        assert len(one.others) == 0 and len(many.others) == min(n, 6) - 1
        for step in (1, 2, 3):
            assert abs(one.gradients(step).item() - many.gradients(step).item()) < 1e-12
            for p, q in zip(alone.parameters(), shared.parameters(), strict=True):
                assert abs(p.grad - q.grad).max() <= 1e-12 * abs(p.grad).max() + 1e-15
                q.grad[...] = p.grad  # AdamW makes a large step of a small difference
            for team, optimizer in zip((one, many), optimizers, strict=True):
                team.update(optimizer.plan_step())
                optimizer.zero_grad()
            for p, q in zip(alone.parameters(), shared.parameters(), strict=True):
                np.testing.assert_array_equal(p.data, q.data)
    ours, theirs = (optimizer.state_dict()["state"] for optimizer in optimizers)
    for i, state in ours.items():  # a caller who saves finds the moments in the optimizer
        assert state["step"] == theirs[i]["step"] == 3
        np.testing.assert_array_equal(state["exp_avg_sq"], theirs[i]["exp_avg_sq"])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_shared_out_or_not_adamw_is_the_same(n):
    """To the last bit: vectors are cut, sums are not."""
    alone, shared = make(), make()
    optimizer = FusedAdamW(alone.parameter_groups(0.1), lr=0.1)
    shared_optimizer = FusedAdamW(shared.parameter_groups(0.1), lr=0.1)
    with Workers(shared, shared_optimizer, WORK, (0, 6), n) as workers:
        for step in (1, 2):
            workers.gradients(step)
            for p, q in zip(alone.parameters(), shared.parameters(), strict=True):
                p.grad = q.grad.copy()
            optimizer.step()
            workers.update(shared_optimizer.plan_step())
    for p, q in zip(alone.parameters(), shared.parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data)


def fail(model, step, first, last):
    if first > 0:
        raise ValueError("no such row")
    return mg.Tensor(0.0)


def run_out_of_memory(model, step, first, last):
    if first > 0:
        np.empty(2**55)
    return mg.Tensor(0.0)


def read_in_vain(model, step, first, last):
    if first > 0:
        raise OSError("cannot read ids.npy: it became shorter")
    return mg.Tensor(0.0)


def die(model, step, first, last):
    if first > 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return mg.Tensor(0.0)


@pytest.mark.parametrize(
    "work, error, part",
    [
        (fail, RuntimeError, "ValueError: no such row"),
        (die, RuntimeError, "die"),
        (read_in_vain, OSError, "^cannot read ids.npy: it became shorter$"),
        (run_out_of_memory, MemoryError, "^numpy.*MemoryError: Unable to allocate"),
    ],
)
def test_a_worker_that_fails_ends_the_run(work, error, part, capfd):
    """With its error, or with one that says that it died; not with a hang."""
    with pytest.raises(error, match=part), workers_of(make(), work) as workers:
        workers.gradients(1)
    assert multiprocessing.active_children() == []


def test_a_worker_that_died_between_steps_is_named():
    """Not a broken pipe."""
    with workers_of(make()) as workers:
        workers.gradients(1)
        workers.others[0][1].kill()
        workers.others[0][1].join()
        with pytest.raises(RuntimeError, match="a worker process died"):
            workers.gradients(2)


def interrupt(model, step, first, stop):
    if first == 0 and step == 1:
        raise KeyboardInterrupt
    return mg.Tensor(float(step))


def test_an_interrupted_step_leaves_no_answers_behind():
    """What the other process found out in that step cannot be taken for the next step's."""
    with workers_of(make(), interrupt) as workers:
        with pytest.raises(KeyboardInterrupt):
            workers.gradients(1)
        assert multiprocessing.active_children() == []
        with pytest.raises(OSError, match="closed"):
            workers.gradients(2)


def test_gradients_from_before_do_not_count():
    """What an earlier backward() left in the model is no part of the first step."""
    fresh, used = make(), make()
    for p in used.parameters():
        p.grad = np.ones(p.shape)
    with workers_of(fresh) as a, workers_of(used) as b:
        a.gradients(1), b.gradients(1)
    for p, q in zip(fresh.parameters(), used.parameters(), strict=True):
        np.testing.assert_array_equal(p.grad, q.grad)


def test_a_run_that_is_left_leaves_no_process():
    """Neither when it ends nor when its consumer stops in the middle."""
    config = CONFIG
    for _ in train(make(), IDS, config):
        assert len(multiprocessing.active_children()) == 1
    assert multiprocessing.active_children() == []
    run = train(make(), IDS, config)
    next(run)
    run.close()
    assert multiprocessing.active_children() == []


def losses_in_a_pool(seed):
    config = dataclasses.replace(CONFIG, seed=seed)
    return [result.loss.item() for result in train(make(), IDS, config)]


def test_a_process_of_a_pool_trains_alone():
    """It is a daemon, which may have no children."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(losses_in_a_pool, [1]) == [pytest.approx(losses_in_a_pool(1))]


RUN = """
import multiprocessing, sys
import test_workers as t
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    for result in t.train(t.make(), t.IDS, t.CONFIG):
        print(f"{result.loss.item():.9f}", flush=True)
        if sys.argv[2:] == ["wait"]:
            print(multiprocessing.active_children()[0].pid, flush=True)
            __import__("time").sleep(60)
"""


def start(tmp_path, *arguments):
    (tmp_path / "run.py").write_text(RUN)
    return subprocess.Popen(
        [sys.executable, tmp_path / "run.py", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.path.dirname(__file__)},
    )


@pytest.mark.slow
def test_processes_may_be_started_in_any_way(tmp_path):
    """Forked (Linux) or started afresh (macOS, Windows), the losses are the same."""
    losses = []
    for method in sorted({"spawn", "fork"} & set(multiprocessing.get_all_start_methods())):
        losses.append(start(tmp_path, method).communicate(timeout=60)[0].split())
    assert all(each == losses[0] and len(each) == 3 for each in losses)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks for processes in /proc")
def test_a_worker_does_not_outlive_its_run(tmp_path):
    """When the run is killed, its worker notices and ends."""
    run = start(tmp_path, "fork", "wait")
    assert run.stdout is not None
    run.stdout.readline()
    pid = int(run.stdout.readline())
    assert is_running(pid)
    run.kill()
    run.communicate()
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
