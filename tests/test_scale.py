"""The loop of train.py shared by processes: the same weights, and no process is left over."""

import itertools
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import psutil
import pytest

import gpt_numpy.scale.train
import gpt_numpy.train
import minigrad as mg
from gpt_numpy import GPT, TrainConfig
from minigrad.optim import AdamW

V = 11
IDS = np.random.default_rng(0).integers(V, size=500)
TINY = {"block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 12, "batch_size": 4, "steps": 7}


def weights_after(train, config, dtype):
    """Return what the steps of a run reported, and its weights at the end."""
    mg.manual_seed(0)
    model = GPT(config.model(V)).to(dtype=dtype)
    results = [(r.step, r.loss.item(), r.lr, r.grad_norm.item()) for r in train(model, IDS, config)]
    return results, model.state_dict()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("accumulate, clip", [(1, 0.9), (3, 0.57)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_one_worker_computes_the_weights_of_the_page(dropout, accumulate, clip, dtype):
    """Every bit of every step, with dropout, accumulation, clipping and decay."""
    config = TrainConfig(
        **TINY, workers=1, dropout=dropout, accumulate=accumulate, grad_clip=clip, warmup_steps=2
    )
    page, right = weights_after(gpt_numpy.train.train, config, dtype)
    ours, weights = weights_after(gpt_numpy.scale.train.train, config, dtype)
    assert ours == page
    assert min(norm for *_, norm in page) < clip < max(norm for *_, norm in page)
    for name, array in right.items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)


@pytest.mark.parametrize("workers", [2, 3])
def test_several_workers_compute_them_too(workers):
    """At 1e-12 in float64: sums are rounded in another order, and Adam divides by small numbers."""
    options = {**TINY, "dropout": 0.2, "accumulate": 2, "lr": 1e-4, "min_lr": 1e-5}
    alone = TrainConfig(**options, workers=1)
    page, right = weights_after(gpt_numpy.train.train, alone, np.float64)
    shared = TrainConfig(**options, workers=workers)
    ours, weights = weights_after(gpt_numpy.train.train, shared, np.float64)
    np.testing.assert_allclose(ours, page, rtol=1e-12)
    for name, array in right.items():
        np.testing.assert_allclose(weights[name], array, rtol=0, atol=1e-12, err_msg=name)


def test_the_page_continues_a_run_of_processes():
    """Optimizer and weights after 3 shared steps: the page makes the other 4, and the reverse."""
    config = TrainConfig(**TINY, workers=2, dropout=0.2)
    alone = TrainConfig(**TINY, workers=1, dropout=0.2)
    _, right = weights_after(gpt_numpy.train.train, alone, np.float64)
    for first, second in ((config, alone), (alone, config)):
        mg.manual_seed(0)
        model = GPT(config.model(V)).to(dtype=np.float64)
        optimizer = gpt_numpy.train.adamw(model, config)
        steps = gpt_numpy.train.train(model, IDS, first, optimizer)
        assert [r.step for r in itertools.islice(steps, 3)] == [1, 2, 3]
        steps.close()
        rest = gpt_numpy.train.train(model, IDS, second, optimizer, start_step=3)
        assert [r.step for r in rest] == [4, 5, 6, 7]
        for name, array in model.state_dict().items():
            np.testing.assert_allclose(array, right[name], rtol=0, atol=1e-9, err_msg=name)


def test_it_refuses_an_optimizer_without_vectors():
    """What processes share is the vectors of the fused one."""
    config = TrainConfig(**TINY, workers=2)
    model = GPT(config.model(V))
    with pytest.raises(TypeError, match="fused=True"):
        next(gpt_numpy.train.train(model, IDS, config, AdamW(model.parameters(), lr=0.1)))


# ---- how a program may end -----------------------------------------------------------------------

PROGRAM = """
import atexit, itertools, os, signal, sys, threading, time
import multiprocessing
import numpy as np
from gpt_numpy import GPT, TrainConfig
from gpt_numpy.train import train

def begin():
    config = TrainConfig(
        workers=2, batch_size=4, block_size=8, n_layer=1, n_head=2, n_embd=8, steps=10**6
    )
    steps = train(GPT(config.model(11)), np.arange(500) % 11, config)
    next(steps)
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)
    return steps

def main():
    steps = begin()
{ending}

if __name__ == "__main__":
    main()
"""
WAYS = {  # ending -> its exit status
    "the end of the function": ("pass", 0),
    "a generator in a global variable": ("globals()['kept'] = steps", 0),
    "a generator in a cycle": ("cycle = [steps]; cycle.append(cycle)", 0),
    "a frame that is kept": ("sys.kept = sys._getframe()", 0),
    "zip that ends first": ("globals()['kept'] = zip(range(3), steps); list(kept)", 0),
    "islice": ("list(itertools.islice(steps, 3))", 0),
    "break": ("for result in steps:\n    if result.step > 3:\n        break", 0),
    "close": ("steps.close()", 0),
    "del": ("del steps", 0),
    "an error thrown into it": ("steps.throw(ValueError('no'))", 1),
    "an uncaught error": ("raise ValueError('no')", 1),
    "an error in the loop": ("for result in steps:\n    1 / (result.step - 3)", 1),
    "an error that refers to it": ("error = ValueError('no'); error.steps = steps; raise error", 1),
    "an import that fails": ("import no_such_module", 1),
    "sys.exit": ("sys.exit(3)", 3),
    "sys.exit in the loop": ("for result in steps:\n    sys.exit(3)", 3),
    "a step in atexit": ("globals()['kept'] = steps; atexit.register(next, steps)", 0),
    "os._exit": ("os._exit(3)", 3),
    "os.execv": ("os.execv(sys.executable, [sys.executable, '-c', 'pass'])", 0),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -signal.SIGINT),
    "Ctrl-C in the loop": (
        "threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()\n"
        "for result in steps: pass",
        -signal.SIGINT,
    ),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL); time.sleep(60)", -signal.SIGKILL),
    "SIGKILL in the loop": (
        "threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGKILL]).start()\n"
        "for result in steps: pass",
        -signal.SIGKILL,
    ),
    "abort": ("os.abort()", -signal.SIGABRT),
    "a thread that trains": (
        "thread = threading.Thread(target=list, args=[itertools.islice(steps, 3)])\nthread.start()",
        0,
    ),
    "a daemon that trains": (
        "threading.Thread(target=list, args=[steps], daemon=True).start()\ntime.sleep(0.3)",
        0,
    ),
    "two runs at once": ("globals()['kept'] = steps, begin()", 0),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are other ones there")
@pytest.mark.parametrize("way", WAYS)
def test_a_process_ends_with_all_its_workers(way):
    """In whatever way: at once (2 seconds on an idle machine), and nothing is left."""
    ending, status = WAYS[way]
    program = PROGRAM.format(ending=textwrap.indent(ending, "    "))
    flags = ["-W", "error"] if "import" in way else []
    process = subprocess.Popen(
        [sys.executable, *flags, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    begin = time.perf_counter()
    try:
        process.wait(timeout=15)
    finally:
        process.kill()
    _, err = process.communicate()
    assert process.returncode == status, err
    assert len(workers) == 1
    while any(map(is_running, workers)):
        assert time.perf_counter() - begin < 15, "a worker is left"
        time.sleep(0.05)
    assert "Exception ignored" not in err and "resource_tracker" not in err
    assert ("Traceback" in err) == (status in (1, -signal.SIGINT)), err


def is_running(pid):
    """Return whether a process is there, and no zombie that nobody has waited for."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_interpreter_at_its_prompt_ends():
    """As one leaves a REPL, with the generator in a variable."""
    lines = PROGRAM.partition("def main")[0] + "\nsteps = begin()\n"
    out = subprocess.run(
        [sys.executable, "-i", "-q", "-c", lines],
        input="next(steps).step\nquit()\n",
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert out.returncode == 0 and out.stdout.splitlines()[1] == "2", out.stderr
    (pid,) = map(int, out.stdout.splitlines()[0].split())
    assert not is_running(pid)
