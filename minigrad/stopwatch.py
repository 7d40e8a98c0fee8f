"""Where a step's time goes: how long each op takes, forward and backward.

watch = mg.Stopwatch()
with watch:
    loss = F.cross_entropy(model(x), y)
    loss.backward()
print(watch.table())
"""

import time
from collections import Counter

from minigrad.device import wait_for
from minigrad.tensor import this_thread


class Stopwatch:
    """`with stopwatch:` adds up the seconds of every op that this thread computes; again and again.

    forward_seconds, backward_seconds   op's name -> seconds
    seconds, laps                       of all blocks together, and how many there were

    The tape says when an op is done.  So an op's time begins where the one before it ends, and what
    Python does between the two counts with the second.  On a GPU every op is waited for: there the
    whole takes longer than it would without a watch.  detect_anomaly(), if it is on, looks on too.
    """

    def __init__(self):
        self.forward_seconds: Counter[str] = Counter()
        self.backward_seconds: Counter[str] = Counter()
        self.seconds, self.laps = 0.0, 0
        self.outer = None

    def __enter__(self):
        if this_thread.watch is self:
            raise RuntimeError("this Stopwatch is running already")
        self.outer, this_thread.watch = this_thread.watch, self
        self.begin = self.last = time.perf_counter()
        return self

    def __exit__(self, *_):
        this_thread.watch = self.outer
        self.seconds += time.perf_counter() - self.begin
        self.laps += 1

    def forward(self, op_name, names, inputs, arrays, out):
        """An op has made `out`."""
        self._lap(self.forward_seconds, op_name, out)
        return self.outer and self.outer.forward(op_name, names, inputs, arrays, out)

    def backward(self, step, dout, gradients):
        """A step's gradients are there."""
        self._lap(self.backward_seconds, step.op, dout)
        if self.outer:
            self.outer.backward(step, dout, gradients)

    def _lap(self, seconds, op_name, array):
        wait_for(array)
        now = time.perf_counter()
        seconds[op_name] += now - self.last
        self.last = now

    def mean(self):
        """The seconds of a block on average."""
        return self.seconds / max(1, self.laps)

    def ops(self):
        """[(op, seconds forward, seconds backward)] of a block on average; the longest first."""
        both = self.forward_seconds + self.backward_seconds
        n = max(1, self.laps)
        return [
            (name, self.forward_seconds[name] / n, self.backward_seconds[name] / n)
            for name, _ in both.most_common()
        ]

    def table(self):
        """The same as text, in milliseconds."""
        lines = [f"{'op':<14}{'forward':>9}{'backward':>10}  ms"]
        lines += [f"{op:<14}{1e3 * there:9.2f}{1e3 * back:10.2f}" for op, there, back in self.ops()]
        rest = self.mean() - sum(there + back for _, there, back in self.ops())
        return "\n".join([*lines, f"{'the rest':<14}{1e3 * rest:9.2f}"])
