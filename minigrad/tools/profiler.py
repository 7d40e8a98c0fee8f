"""Measure where a training step's time goes: how long each op takes, forward and backward.

profiler = mg.Profiler()
with profiler:
    loss = F.cross_entropy(model(x), y)
    loss.backward()
print(profiler.table())
"""

import time
from collections import Counter

from minigrad.backend import synchronize
from minigrad.internals.hooks import this_thread


class Profiler:
    """`with profiler:` adds up the seconds of every op that this thread computes.

    forward_seconds, backward_seconds   op's name -> seconds
    seconds, n_runs                     of all blocks together, and the number of blocks

    The tape calls the profiler when an op is finished.  So an op's time begins where the op before
    it ends, and the Python code between the two counts with the second.  On a GPU the profiler
    waits for every op, so the whole takes longer than it would without.  A hook that is already
    set, such as detect_anomaly()'s, is still called.
    """

    def __init__(self):
        self.forward_seconds: Counter[str] = Counter()
        self.backward_seconds: Counter[str] = Counter()
        self.seconds, self.n_runs = 0.0, 0
        self.outer = None  # the hook that was set before

    def __enter__(self):
        if this_thread.hook is self:
            raise RuntimeError("this Profiler is running already")
        self.outer, this_thread.hook = this_thread.hook, self
        self.begin = self.last = time.perf_counter()
        return self

    def __exit__(self, *_):
        this_thread.hook = self.outer
        self.seconds += time.perf_counter() - self.begin
        self.n_runs += 1

    def forward(self, op_name, names, inputs, arrays, out):
        """Record the time of an op that has computed `out`."""
        self._record(self.forward_seconds, op_name, out)
        return self.outer and self.outer.forward(op_name, names, inputs, arrays, out)

    def backward(self, node, dout, grads):
        """Record the time of a node that has computed its gradients."""
        self._record(self.backward_seconds, node.op, dout)
        if self.outer:
            self.outer.backward(node, dout, grads)

    def _record(self, seconds, op_name, array):
        synchronize(array)
        now = time.perf_counter()
        seconds[op_name] += now - self.last
        self.last = now

    def mean(self):
        """Return the mean seconds of a block."""
        return self.seconds / max(1, self.n_runs)

    def ops(self):
        """Return [(op, seconds forward, seconds backward)], means of a block, the slowest first."""
        total = self.forward_seconds + self.backward_seconds
        n = max(1, self.n_runs)
        return [
            (name, self.forward_seconds[name] / n, self.backward_seconds[name] / n)
            for name, _ in total.most_common()
        ]

    def table(self):
        """Return the means as text, in milliseconds."""
        rest = self.mean() - sum(forward + backward for _, forward, backward in self.ops())
        return "\n".join(
            [
                f"{'op':<14}{'forward':>9}{'backward':>10}  ms",
                *(f"{op:<14}{1e3 * f:9.2f}{1e3 * b:10.2f}" for op, f, b in self.ops()),
                f"{'the rest':<14}{1e3 * rest:9.2f}",
            ]
        )
