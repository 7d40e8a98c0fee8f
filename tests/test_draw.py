"""mg.draw: the picture says what backward() did, to the last digit, and opens in a browser.

The tests read edges back from the file: their rows, shapes and gradient norms.
"""

import collections
import gc
import re
import runpy
import threading
import weakref
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from browser import browser, needs_browser
from twin import Twin, gradients

import minigrad as mg
import minigrad.ops as F
from gpt_numpy import GPT, GPTConfig
from minigrad import Tensor, nn
from minigrad.internals.hooks import calls_from_outermost, path_of, this_thread
from minigrad.tensor import Node

CONFIG = GPTConfig(vocab_size=11, block_size=8, n_layer=3, n_head=2, n_embd=12, bias=True)
IDS = np.random.default_rng(0).integers(11, size=(2, 9))


def gpt_and_loss(dtype=np.float64):
    """A small GPT whose weights are large enough for every gradient to count, and its loss."""
    mg.manual_seed(0)
    model = GPT(CONFIG).to(dtype=dtype)
    for p in model.parameters():
        p.data *= 10
    return model, F.cross_entropy(model(IDS[:, :-1]), IDS[:, 1:])


class Picture(NamedTuple):
    rows: dict  # id -> what it is called: "add", or "h.0 Block"
    titles: dict  # id -> the first line of its tooltip, with the whole path
    around: dict  # id -> the id of the box around it, or ""
    boxes: set  # the ids of what can be opened
    edges: dict  # (start, end), as ids -> (shape, norm)
    tags: dict  # id -> [(name and shape, norm)]

    def named(self):
        """Return the edges by the names of their rows."""
        return {(self.rows[a], self.rows[b]): edge for (a, b), edge in self.edges.items()}


def read(path):
    """Return the Picture in a file, which must be well-formed XML."""
    svg = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    of_class = collections.defaultdict(list)
    for element in svg.iter():
        element.tag = element.tag.removeprefix("{http://www.w3.org/2000/svg}")
        of_class[element.get("class", "").partition(" ")[0]].append(element)

    def labelled(element):
        norm = re.search(r"‖gradient‖.* (\S+)", element.findtext("title"))[1]
        words, shown = (tspan.text or "" for tspan in element.iter("tspan"))
        assert shown == f"{float(norm):.3g}"
        return words, float(norm)

    rows = {g.get("id"): g for g in of_class["row"]}
    return Picture(
        {
            i: " ".join(t.text for t in g.find("text").iter("tspan") if t.text)
            for i, g in rows.items()
        },
        {i: g.findtext("title").partition("\n")[0] for i, g in rows.items()},
        {i: g.get("data-inside") for i, g in rows.items()},
        {i for i, g in rows.items() if g.get("aria-expanded")},
        {(g.get("data-start"), g.get("data-end")): labelled(g) for g in of_class["edge"]},
        {
            i: [labelled(tag) for tag in g.iter("g") if tag.get("class").startswith("tag")]
            for i, g in rows.items()
        },
    )


def drawn(loss, tmp_path):
    """Draw a loss, and return the Picture in the file."""
    path = tmp_path / "graph.svg"
    assert mg.draw(loss, path) is path
    return read(path)


def close(norm, array):
    """Return whether a norm agrees with that of an array, to all nine digits; it must not be 0."""
    expected = np.linalg.norm(np.asarray(array, np.float64))
    assert expected > 0
    return norm == pytest.approx(expected, rel=1e-8)


def nodes_of(loss):
    """Return all nodes behind a loss, found by recursion."""
    found = set()

    def visit(node):
        if isinstance(node, Node) and node not in found:
            found.add(node)
            for parent in node.parents:
                visit(parent)

    visit(loss.node)
    return found


# ---- what is in it -------------------------------------------------------------------------------


def test_a_line_of_code(tmp_path):
    """Every edge of ((x w).sum() + b)², and every leaf: shapes and norms are PyTorch's."""
    values = ([1.0, 2.0, -3.0], [0.5, -1.0, 2.0], 0.25)
    x, w, b = (Tensor(np.array(value), requires_grad=True) for value in values)
    picture = drawn(((x * w).sum() + b) ** 2, tmp_path)

    tx, tw, tb = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values)
    product = tx * tw
    total = product.sum()
    added = total + tb
    for tensor in (product, total, added):
        tensor.retain_grad()
    (added**2).backward()
    loss = f"loss {(added**2).item():.5g}"
    expected = {
        ("mul", "sum"): ("(3,)", product.grad),
        ("sum", "add"): ("()", total.grad),
        ("add", "pow"): ("()", added.grad),
        ("pow", loss): ("()", torch.ones(())),
    }
    edges = picture.named()
    assert edges.keys() == expected.keys()
    for pair, (shape, gradient) in expected.items():
        assert edges[pair][0] == shape and close(edges[pair][1], gradient)
    assert list(picture.rows.values()) == ["mul", "sum", "add", "pow", loss]
    (x_words, dx), (w_words, dw) = picture.tags["row0"]
    ((b_words, db),) = picture.tags["row2"]
    assert (x_words, w_words, b_words) == ("(3,)", "(3,)", "()")
    assert close(dx, tx.grad) and close(dw, tw.grad) and close(db, tb.grad)


def test_gradients_are_those_of_backward(tmp_path):
    """They agree in every leaf to the last bit, and are added to a grad that is there already."""
    model, loss = gpt_and_loss(np.float32)
    twin, twins_loss = gpt_and_loss(np.float32)
    for m in (model, twin):
        m.wpe.weight.grad = np.ones_like(m.wpe.weight.data)
    drawn(loss, tmp_path)
    twins_loss.backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert p.grad.any()
        np.testing.assert_array_equal(p.grad, q.grad)


def test_every_node_and_every_module_once(tmp_path):
    """A GPT has a row for each node, in order of time, and a box for each call of a module."""
    model, loss = gpt_and_loss()
    nodes = sorted(nodes_of(loss), key=lambda node: node.time)
    calls = {id(call) for node in nodes for call in calls_from_outermost(node.module_stack)}
    modules = dict(model.named_modules()).values()
    titles = [f"{path_of(m, model)} {type(m).__name__}".strip() for m in modules]
    titles = [title for title in titles if not title.endswith("ModuleList")]
    picture = drawn(loss, tmp_path)
    leaves = [i for i in picture.rows if i not in picture.boxes]
    assert len(leaves) == len(nodes) + 1  # and the loss
    assert len(titles) == len(calls)
    assert sorted(titles) == sorted(
        title for title in picture.titles.values() if not title.startswith(("the op", "where"))
    )
    assert len(picture.boxes) == 1 + 3 * len(model.h)  # the GPT; each block, attention and MLP
    inside = [
        picture.rows[i] for i in picture.rows if picture.rows[picture.around[i] or i] == "GPT"
    ]
    assert inside[:4] == ["GPT", "wte Embedding", "wpe Embedding", "add"]
    assert inside[-2:] == ["ln_f LayerNorm", "linear"]


def test_norms_are_those_of_pytorch(tmp_path):
    """Inputs of blocks and of modules inside; parameters, alone and all of a block together."""
    model, loss = gpt_and_loss()
    twin = Twin(CONFIG).double()
    twin.load_ours(model.state_dict())
    kept = {}

    def keep(name):
        def hook(module, inputs):
            kept[name] = inputs[0]
            inputs[0].retain_grad()

        return hook

    for i, block in enumerate(twin.h):
        block.register_forward_pre_hook(keep(f"h.{i} Block"))
        block.fc.register_forward_pre_hook(keep(f"h.{i}.mlp.fc Linear"))
        block.mlp_proj.register_forward_pre_hook(keep(f"h.{i}.mlp.proj Linear"))
        block.proj.register_forward_pre_hook(keep(f"h.{i}.attn.proj Linear"))
    twin.ln_f.register_forward_pre_hook(keep("ln_f LayerNorm"))
    logits = twin(torch.from_numpy(IDS[:, :-1]))
    torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(IDS[:, 1:]).flatten()
    ).backward()
    picture = drawn(loss, tmp_path)
    assert len(kept) == 4 * len(model.h) + 1
    for title, tensor in kept.items():
        (end,) = (i for i, t in picture.titles.items() if t == title)
        into = [edge for (_, b), edge in picture.edges.items() if b == end]
        assert len(into) >= 1
        for shape, norm in into:
            assert shape == str(tuple(tensor.shape)) and close(norm, tensor.grad)

    theirs = gradients(twin)
    in_block = collections.defaultdict(list)
    for name, gradient in theirs.items():
        if name.startswith("h."):
            path, _, kind = name.rpartition(".")
            in_block[".".join(path.split(".")[:2])].append(np.linalg.norm(gradient))
            (row,) = (i for i, t in picture.titles.items() if t.split()[0] == path)
            if not name.endswith("key.bias"):  # it is 0, but for rounding
                assert close(dict(picture.tags[row])[f"{kind} {gradient.shape}"], gradient)
    for path, norms in in_block.items():
        (row,) = (i for i, t in picture.titles.items() if t == f"{path} Block")
        ((words, norm),) = picture.tags[row]
        assert words == "16 parameters" and close(norm, norms)


# ---- what is merged ------------------------------------------------------------------------------


class Scale(nn.Module):
    """Uses one tensor and one weight twice, and returns two results."""

    def __init__(self):
        self.weight = Tensor(np.array([1.0, -2.0, 3.0]), requires_grad=True)

    def forward(self, x):
        return F.tanh(x * self.weight), F.exp(x * self.weight)


class Weigh(nn.Module):
    def forward(self, pair):
        left, right = pair
        return (left * np.array([1.0, 2.0, 4.0]) + right * left).sum()


def test_a_closed_box_adds_up_what_a_tensor_gets(tmp_path):
    """Two uses have the norm of their sum; two tensors that of all their entries together."""
    x = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    h = x.exp()
    left, right = torch.tanh(h * weight), torch.exp(h * weight)
    for tensor in (h, left, right):
        tensor.retain_grad()
    (left * torch.tensor([1.0, 2.0, 4.0]) + right * left).sum().backward()

    scale = Scale()
    out = Weigh()(scale(F.exp(Tensor(x.detach().numpy(), requires_grad=True))))
    picture = drawn(out, tmp_path)
    edges = picture.named()
    words, norm = edges["exp", "Scale"]
    assert words == "(3,)" and close(norm, h.grad)
    words, norm = edges["Scale", "Weigh"]
    assert words == "2 tensors" and close(norm, [*left.grad, *right.grad])
    words, norm = edges["tanh", "Weigh"]
    assert words == "(3,)" and close(norm, left.grad)
    (box,) = (i for i, name in picture.rows.items() if name == "Scale")
    ((words, norm),) = picture.tags[box]
    assert words == "weight (3,)" and close(norm, weight.grad)


def test_the_same_module_twice_is_two_rows(tmp_path):
    """Both rows show the weight; the box around them shows the gradient of both uses together."""

    class Twice(nn.Module):
        def __init__(self):
            self.one = Scale()
            self.linear = nn.Linear(3, 3, bias=False).to(dtype=np.float64)

        def forward(self, x):
            return self.linear(F.tanh(self.linear(x))).sum()

    twice = Twice()
    picture = drawn(twice(np.ones((2, 3))), tmp_path)
    rows = [i for i, name in picture.rows.items() if name == "linear Linear"]
    box = next(i for i, name in picture.rows.items() if name == "Twice")
    assert len(rows) == 2 and {picture.around[i] for i in rows} == {box}
    parts = [norm for i in rows for _, norm in picture.tags[i]]
    ((_, norm),) = picture.tags[box]
    assert close(norm, twice.linear.weight.grad)
    assert min(parts) > 0 and norm != pytest.approx(np.hypot(*parts))


def test_tied_weights(tmp_path):
    """A GPT's head is its token embedding: it is named at both uses, each with its part."""
    model, loss = gpt_and_loss()
    picture = drawn(loss, tmp_path)
    table = {picture.rows[i]: dict(tags) for i, tags in picture.tags.items()}
    first, second = (
        table["wte Embedding"]["weight (11, 12)"],
        table["linear"]["wte.weight (11, 12)"],
    )
    whole = np.linalg.norm(model.wte.weight.grad)
    assert abs(first - second) < whole < first + second


# ---- names ---------------------------------------------------------------------------------------


def test_a_name_is_the_path_below_the_calling_module(tmp_path):
    """Or below the outermost, if the caller does not own it; the tooltip has the latter."""

    class Inner(nn.Module):
        def __init__(self, other):
            self.own, self.others = Scale(), lambda: other  # which is no attribute of this one

        def forward(self, x):
            return self.others()(self.own(x)[0])[1]

    class Outer(nn.Module):
        def __init__(self):
            self.first = Scale()
            self.layers = [Inner(self.first)]

        def forward(self, x):
            return self.layers[0](self.first(x)[0]).sum()

    outer = Outer()
    picture = drawn(outer(np.ones(3)), tmp_path)
    boxes = [i for i in picture.rows if i in picture.boxes]
    names = [(picture.rows[i], picture.titles[i]) for i in boxes]
    assert names == [
        ("Outer", "Outer"),
        ("first Scale", "first Scale"),
        ("layers.0 Inner", "layers.0 Inner"),
        ("own Scale", "layers.0.own Scale"),
        ("first Scale", "first Scale"),
    ]


def test_a_deep_model_is_not_searched_for_every_box(tmp_path, monkeypatch):
    """The number of modules that are looked at grows as the depth, not as its square."""

    class Nest(nn.Module):
        def __init__(self, depth):
            self.child = Nest(depth - 1) if depth else None

        def forward(self, x):
            x = F.tanh(x)
            return x * (self.child(x) if self.child else 2.0)

    depth, looked_at = 50, []
    nest = Nest(depth)
    loss = nest(Tensor(np.ones(()), requires_grad=True))
    named_children = nn.Module.named_children
    monkeypatch.setattr(
        nn.Module, "named_children", lambda self: looked_at.append(1) or named_children(self)
    )
    assert "child.child Nest" in drawn(loss, tmp_path).titles.values()
    # All 51 for their paths; the callers of 50 for their names; all 51 for the name of the leaf.
    assert len(looked_at) <= 51 + 50 + 51


# ---- special cases -------------------------------------------------------------------------------


def test_names_from_hell(tmp_path):
    """Whatever the name of a module, the file is well-formed and shows it."""
    names = ['</svg><script>alert("&")</script>', "]]>", "\x00\x1b\ud800", "é–漢" * 40, "a b\nc"]

    class Odd(nn.Module):
        def __init__(self):
            for name in names:
                setattr(self, name, Scale())
            self.listed = [Scale()]

        def forward(self, x):
            for module in [*map(vars(self).get, names), *self.listed, unknown]:
                x = module(x)[0]
            return x.sum()

    Odd.__name__ = "<Odd&"
    odd, unknown = Odd(), Scale()
    picture = drawn(odd(np.ones(3)), tmp_path)
    shown = [picture.rows[i] for i in picture.boxes if picture.around[i]]
    expected = [*names[:2], "\ufffd" * 3, names[3][:39] + "…", names[4]]
    expected = [f"{name} Scale" for name in [*expected, "listed.0"]]
    assert sorted(shown) == sorted([*expected, "Scale"])
    assert "<Odd&" in picture.rows.values()
    assert "https://" not in (svg := (tmp_path / "graph.svg").read_text(encoding="utf-8"))
    assert re.findall(r"http://[^\"]+", svg) == ["http://www.w3.org/2000/svg"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tensor(2.0) * 3,
        lambda: Tensor([1.0, 2.0], requires_grad=True) * 3,
        lambda: Tensor([1.0, 2.0]),
    ],
)
def test_errors_are_those_of_backward(make, tmp_path):
    """No history, or more than one entry: the same message, no file, and no hook stays behind."""
    with pytest.raises(RuntimeError) as theirs:
        make().backward()
    with pytest.raises(RuntimeError, match=re.escape(str(theirs.value))):
        mg.draw(make(), tmp_path / "graph.svg")
    assert not (tmp_path / "graph.svg").exists() and this_thread.hook is None


def test_a_second_time_raises(tmp_path):
    """A second draw() raises as a second backward() does."""
    x = Tensor(2.0, requires_grad=True)
    loss = x * x
    mg.draw(loss, tmp_path / "first.svg")
    with pytest.raises(RuntimeError, match="'mul' was already replayed"):
        mg.draw(loss, tmp_path / "second.svg")
    assert not (tmp_path / "second.svg").exists() and x.grad == 4


def test_a_loss_that_is_a_leaf(tmp_path):
    """Nothing was computed, so the loss is the only row."""
    x = Tensor(2.0, requires_grad=True)
    picture = drawn(x, tmp_path)
    assert list(picture.rows.values()) == ["loss 2"] and picture.tags == {"row0": [("()", 1.0)]}


def test_what_is_not_recorded_is_not_drawn(tmp_path):
    """Constants have no rows, nor has what was computed under no_grad()."""
    scale = Scale()
    with mg.no_grad():
        constant = scale(np.ones(3))[1]
    picture = drawn((scale(np.ones(3))[0] * constant * np.ones(3)).sum(), tmp_path)
    assert [*picture.rows.values()][:-1] == ["Scale", "mul", "tanh", "mul", "mul", "sum"]
    assert len(picture.edges) == 6  # tanh's to mul, and that of its box


def test_a_thread_draws_its_own_graph(tmp_path):
    """It does so while another thread is inside of a module."""
    found = {}

    class Outer(nn.Module):
        def forward(self, x):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            return x * 2.0

    def work():
        found["picture"] = drawn(Scale()(np.ones(3))[0].sum(), tmp_path)

    x = Tensor(1.0, requires_grad=True)
    loss = Outer()(x)
    rows = found["picture"].rows.values()
    assert [*rows][:-1] == ["Scale", "mul", "tanh", "sum"]
    assert [*drawn(loss, tmp_path).rows.values()] == ["Outer", "loss 2"]


def test_a_model_that_is_gone(tmp_path):
    """Only the names of its classes are known."""
    picture = drawn(nn.Linear(2, 1)(np.ones((1, 2), np.float32)).sum(), tmp_path)
    assert list(picture.rows.values())[:2] == ["Linear", "sum"]
    assert [words for words, _ in picture.tags["row0"]] == ["(1, 2)", "(1,)"]


def test_gradients_that_are_not_finite_or_zero(tmp_path):
    """They are drawn, and detect_anomaly() still finds them."""

    def loss():
        return (F.sqrt(Tensor([0.0, 1.0], requires_grad=True) * 1.0) * 1.0).sum()

    with np.errstate(divide="ignore", invalid="ignore"):
        assert drawn(loss(), tmp_path).named()["mul", "sqrt"] == ("(2,)", np.inf)
    svg = (tmp_path / "graph.svg").read_text(encoding="utf-8")
    assert len(re.findall('class="(?:edge|tag) bad"', svg)) == 2
    with pytest.raises(FloatingPointError, match="sqrt, backward: Inf in dx"):
        with mg.detect_anomaly():
            mg.draw(loss(), tmp_path / "graph.svg")
    zero = (Tensor([1.0], requires_grad=True) * 0.0 * 1.0).sum()
    assert all(norm == 1 for _, norm in drawn(zero, tmp_path).edges.values())


def test_an_op_that_recomputes_in_its_backward(tmp_path, monkeypatch):
    """Gradient checkpointing does that: its inner nodes have no rows."""
    monkeypatch.setitem(mg.OPS, "recomputing", None)  # takes the name out again afterwards

    @mg.tensor.op
    def recomputing(x):
        def backward(dout):
            inner = Tensor(x, requires_grad=True)
            F.exp(inner).backward(dout)
            return (inner.grad,)

        return np.exp(x), backward

    picture = drawn(recomputing(Tensor(np.array([0.5, 1.0]), requires_grad=True)).sum(), tmp_path)
    assert [*picture.rows.values()][:-1] == ["recomputing", "sum"]
    ((_, norm),) = picture.tags["row0"]
    assert close(norm, np.exp([0.5, 1.0]))


def test_pictures_of_the_lesson(tmp_path, monkeypatch, capsys):
    """The last notebook draws an expression and a GPT."""
    monkeypatch.chdir(tmp_path)
    with matplotlib.rc_context():
        runpy.run_path(str(Path(__file__).parents[1] / "examples/lesson/12_graph.py"))
    assert "runs/lesson/gpt.svg" in capsys.readouterr().out
    for name, n_rows in (("expression", 5), ("gpt", 95 + 1 + 13)):
        assert len(read(tmp_path / f"runs/lesson/{name}.svg").rows) == n_rows
    x, w = np.array([1.0, 2.0, 3.0]), np.array([0.5, -1.0, 2.0])
    slope = 2 * (x @ w + 0.25)
    (_, dx), (_, dw) = read(tmp_path / "runs/lesson/expression.svg").tags["row0"]
    assert close(dx, slope * w) and close(dw, slope * x)


def test_it_leaves_nothing_behind(tmp_path):
    """The weights are freed with the last reference to the model, without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        model, loss = gpt_and_loss()
        gone = weakref.ref(model.wte.weight)
        drawn(loss, tmp_path)
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_on_a_gpu(gpu, tmp_path):
    """The norms of arrays on the GPU are computed."""
    x = Tensor(np.array([3.0, 4.0])).to("gpu")
    x.requires_grad = True
    picture = drawn((x * x).sum(), tmp_path)
    assert picture.named()["mul", "sum"] == ("(2,)", pytest.approx(2**0.5))
    assert picture.tags["row0"] == [("(2,)", pytest.approx(10))]


# ---- in a browser --------------------------------------------------------------------------------


@pytest.fixture
def page():
    """A page of a browser, whose console must stay silent."""
    with browser() as running:
        page = running.new_page(viewport={"width": 390, "height": 800})
        complaints: list = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page
        assert complaints == []


STATE = """() => [...document.querySelectorAll(".row, .band, .edge, .edge path, .edge text")]
    .map(e => ["display", "transform", "d", "x", "y", "height", "aria-expanded"]
        .map(name => e.closest("[display]") ? null : e.getAttribute(name)))
    .concat([[document.documentElement.getAttribute("viewBox")]])"""
TEXTS = """() => [...document.querySelectorAll("text")].filter(e => e.getClientRects().length)
    .map(e => e.getBoundingClientRect()).map(r => [r.left, r.top, r.right, r.bottom])
    .filter(([left, , right]) => right > left)"""


def check_texts(page):
    """Return the number of texts; all are in the picture, it fits the window, and none overlap."""
    width, height = page.evaluate(
        "() => { const r = document.documentElement.getBoundingClientRect();"
        " return [r.width, r.height + scrollY]; }"
    )
    assert width <= page.viewport_size["width"]
    boxes = np.array(page.evaluate(TEXTS))
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [width, height]).all()
    left, top, right, bottom = boxes.T
    overlap = (
        (left[:, None] < right) & (left < right[:, None])
        & (top[:, None] + 0.5 < bottom) & (top + 0.5 < bottom[:, None])
    )  # fmt: skip
    assert overlap.sum() == len(boxes)  # each with itself
    return len(boxes)


@pytest.mark.slow
@needs_browser
def test_it_opens_and_closes(page, tmp_path):
    """By click and by key; the script's layout of the first boxes is the one that Python wrote."""
    model, loss = gpt_and_loss()
    page.goto(f"file://{mg.draw(loss, tmp_path / 'graph.svg')}")
    first, n_texts = page.evaluate(STATE), check_texts(page)
    block = page.locator(".row", has_text="h.1").first
    inside = page.locator(f".row[data-inside={block.get_attribute('id')}]")
    assert inside.count() == 6 and not inside.first.is_visible()
    block.click()
    assert all(row.is_visible() for row in inside.all())
    assert page.evaluate(STATE) != first and check_texts(page) > n_texts
    block.click(position={"x": 5, "y": 5})
    assert not inside.first.is_visible() and page.evaluate(STATE) == first

    block.focus()
    page.keyboard.press("Enter")
    assert inside.last.is_visible()
    page.keyboard.press("Space")
    assert page.evaluate(STATE) == first

    page.get_by_text("Open all").click()
    assert all(row.is_visible() for row in page.locator(".row").all())
    check_texts(page)
    page.set_viewport_size({"width": 1280, "height": 800})
    check_texts(page)
    page.get_by_text("Close all").click()
    assert page.locator(".row:not([display])").count() == 3  # the GPT, cross_entropy, the loss
