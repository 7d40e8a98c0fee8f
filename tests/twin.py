"""The same GPT in PyTorch, as one would write it there: what ours is compared with.

Query, key and value come from one matrix and attention from PyTorch's fused op; the translation of
names and shapes is at the end.  Used by the tests and by the benchmarks.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, config, mask):
        super().__init__()
        C, bias = config.n_embd, config.bias
        self.n_head, self.p, self.mask = config.n_head, config.dropout, mask
        self.ln_1 = nn.LayerNorm(C, bias=bias)
        self.qkv = nn.Linear(C, 3 * C, bias=bias)
        self.proj = nn.Linear(C, C, bias=bias)
        self.ln_2 = nn.LayerNorm(C, bias=bias)
        self.fc = nn.Linear(C, 4 * C, bias=bias)
        self.mlp_proj = nn.Linear(4 * C, C, bias=bias)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.ln_1(x)).split(C, dim=2)
        q, k, v = (t.view(B, T, self.n_head, -1).transpose(1, 2) for t in (q, k, v))
        if self.mask and self.p:  # the fused op takes no mask for dropout
            ahead = torch.ones(T, T, dtype=torch.bool).triu(1)
            scores = (q @ k.mT / math.sqrt(q.shape[3])).masked_fill(ahead, -torch.inf)
            y = dropout(scores.softmax(3), self) @ v
        else:
            p = self.p if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        x = x + dropout(self.proj(y.transpose(1, 2).reshape(B, T, C)), self)
        y = self.mlp_proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))
        return x + dropout(y, self)


def dropout(x, module):
    """PyTorch's dropout, or x times what `module.mask` hands over: (shape, p) -> a tensor."""
    if module.mask and module.p:
        return x * module.mask(x.shape, module.p)
    return F.dropout(x, module.p, module.training)


class Twin(nn.Module):
    """`gpt_numpy.GPT` in PyTorch: the same config gives the same function."""

    def __init__(self, config, mask=None):
        super().__init__()
        self.config, self.p, self.mask = config, config.dropout, mask
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList([Block(config, mask) for _ in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                narrow = math.sqrt(2 * config.n_layer) if name.endswith("proj.weight") else 1
                nn.init.normal_(p, std=0.02 / narrow)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        x = dropout(x, self)
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)

    def parameter_groups(self, weight_decay):
        parameters = list(self.parameters())
        return [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]

    def load_ours(self, state):
        """Take over the arrays of `gpt_numpy.GPT.state_dict()`."""
        with torch.no_grad():
            for name, theirs in in_our_names(self, dict(self.named_parameters())).items():
                theirs.copy_(torch.from_numpy(state[name]))


def in_our_names(twin, tensors):
    """{our parameter name: tensor} of {the twin's name: tensor}, as views."""
    names = {".proj.": ".attn.proj.", ".fc.": ".mlp.fc.", ".mlp_proj.": ".mlp.proj."}
    ours: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if ".qkv." in name:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            ours |= {name.replace("qkv", f"attn.{part}"): chunk for part, chunk in parts}
            continue
        for theirs, our in names.items():
            name = name.replace(theirs, our)
        ours[name] = tensor
    return ours


def gradients(twin):
    """{our parameter name: gradient, a NumPy array}."""
    tensors = {name: p.grad for name, p in twin.named_parameters()}
    return {name: grad.numpy() for name, grad in in_our_names(twin, tensors).items()}
