"""The least time that the kernels of a training step can take on a card.

A kernel is a function that runs on the GPU.  It cannot finish before its bytes have passed through
the memory, nor before the arithmetic units have done its operations:

    time ≥ max(bytes / bandwidth, operations / peak)

Source      Williams, Waterman & Patterson 2009, "Roofline: An Insightful Visual Performance Model
            for Multicore Architectures".
Counting    An op reads its inputs once and writes its results once, forward and backward.  It may
            recompute what it does not store.  Weights, statistics of rows and dropout bits are left
            out where activations are many times larger.
In words    A kernel far above its least time wastes memory traffic or waits.  Kernels that have no
            least time, such as copies, are not needed at all: a fused kernel would do their work.
"""

import re
from typing import NamedTuple

from gpt_numpy.app.memory import n_parameters


class Card(NamedTuple):
    bandwidth: float  # bytes a second, to and from the card's memory
    peaks: dict[str, float]  # precision of matrix products -> operations a second


class Work(NamedTuple):
    bytes: float
    operations: float = 0.0

    def seconds(self, card, precision):
        """Return the least time on a card, and what sets it: "memory" or "arithmetic"."""
        memory = self.bytes / card.bandwidth
        arithmetic = self.operations / card.peaks[precision]
        return max((memory, "memory"), (arithmetic, "arithmetic"))


HOPPER = {"float32": 66.9e12, "tf32": 494.7e12, "bf16": 989.4e12}
AMPERE = {"float32": 19.5e12, "tf32": 156e12, "bf16": 312e12}
CARDS = {  # a part of the name that the driver reports -> the data sheet's figures, not sparse
    # NVIDIA H100 Tensor Core GPU Architecture (white paper), and the data sheets of H100 and H200
    "H100 80GB HBM3": Card(3.35e12, HOPPER),
    "H200": Card(4.8e12, HOPPER),
    # NVIDIA A100 Tensor Core GPU (data sheet)
    "A100-SXM4-40GB": Card(1.555e12, AMPERE),
    "A100-SXM4-80GB": Card(2.039e12, AMPERE),
}


def card_named(name):
    """Return the Card whose key is part of `name`, or None."""
    return next((card for part, card in CARDS.items() if part in name), None)


def work(config, vocab_size, precision="float32"):
    """Return {kind of kernel: Work} of a training step.

    N tokens and C channels make an activation of N·C entries.  A linear layer (I, O) is three
    products, one forward and two backward, of 2·N·I·O operations each; so is the output layer.
    In attention a query sees (T + 1) / 2 positions on average.  Forward are two products (q kᵀ and
    P v), backward five: the scores again, dP, dv, dq and dk.
    """
    size = 2 if precision == "bf16" else 4  # bytes of an activation
    N, T, C, V = config.tokens_per_step, config.block_size, config.n_embd, vocab_size
    L = config.n_layer
    shapes = L * [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)] + [(C, V)]  # q, k, v are one product
    n_weights = sum(i * o for i, o in shapes)
    in_and_out = sum(N * (i + o) for i, o in shapes)
    activation = size * N * C  # bytes
    product = 2 * N * L * C * (T + 1) / 2  # operations of one of attention's products
    norms, branches = 2 * L + 1, 2 * L  # a block has two branches: attention and MLP
    parameters = n_parameters(config.model(V))
    dropout = bool(config.dropout)
    return {
        "matrix products": Work(3 * size * (in_and_out + n_weights), 6 * N * n_weights),
        "attention, forward": Work(L * 4 * activation, 2 * product),  # q, k, v -> out
        "attention, backward": Work(L * 8 * activation, 5 * product),  # and out, dout -> dq, dk, dv
        "layer norm, forward": Work(norms * 2 * activation),  # x -> out
        "layer norm, backward": Work(norms * 3 * activation),  # dout, x -> dx
        "GELU, forward": Work(L * 2 * 4 * activation),  # on 4 C channels
        "GELU, backward": Work(L * 3 * 4 * activation),
        # Forward: x and the branch -> x + dropout(branch); on the embedding, dropout alone.
        "residual and dropout, forward": Work((3 * branches + 2 * dropout) * activation),
        # Backward: the two gradients of x are added up, and the branch's one is masked.
        "residual and dropout, backward": Work(
            (3 * branches + dropout * (2 * branches + 2)) * activation
        ),
        "bias gradients": Work(config.bias * L * 9 * activation),  # of 3 C, C, 4 C and C channels
        "cross-entropy": Work(3 * size * N * V),  # logits; logits -> dlogits
        "embedding": Work(2 * activation),  # out; dout
        "optimizer": Work(4 * (1 + 7) * parameters),  # the norm of g; w, g, m, v -> w, m, v
    }


OPS = {  # kind of kernel -> what its name contains; the first that fits counts
    "copies": r"^Mem(cpy|set)",
    "attention": r"attention|flash|fmha|sdpa",
    "matrix products": r"gemm|gemv|cutlass|nvjet|xmma|splitk",
    "layer norm": r"layer_?norm|gammabeta",
    "GELU": r"gelu",
    "cross-entropy": r"cross_entropy|nll_loss|softmax",
    "optimizer": r"adam|multi_tensor|square_sums|clip|stop_unless_finite",
    "embedding": r"embedding|add_up|index|windows",
    "residual and dropout": r"dropout|residual",
    "bias gradients": r"column_sum",
}
BACKWARD = r"backward|bwd|grad|gammabeta|cutlassb|_d[qkvx](?![a-z])"
OTHERS = "others"


def kind_of(kernel):
    """Return the kind of a kernel, by its name: a key of work(), "copies" or "others"."""
    op = next((op for op, words in OPS.items() if re.search(words, kernel, re.IGNORECASE)), OTHERS)
    if op in ("attention", "layer norm", "GELU", "residual and dropout"):
        op += ", backward" if re.search(BACKWARD, kernel, re.IGNORECASE) else ", forward"
    return op
