"""Draw the graph of a training step: every recorded op, and the gradients that came back.

    mg.draw(loss)  # in place of loss.backward(); then open graph.svg in a browser

The tape is a list, and is drawn as one: a row for every op, the oldest at the top, the loss at the
bottom.  The ops of one module call are in a box, which opens and closes with a click.  A line leads
from each row to the rows that use its result.  Its label gives the norm of the gradient that came
back along it, so you see where gradients vanish and where they explode.

This file reads the rows off the tape and computes the first layout.  draw.js, which is part of the
picture, computes the layout again when a box is opened or closed, by the same rules as `layout`.
"""

import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from minigrad.internals.hooks import calls_from_outermost, path_of, paths_below, this_thread
from minigrad.tensor import Node, Tensor


def draw(loss, path="graph.svg"):
    """Run loss.backward(), draw the graph that it replayed as an SVG, and return `path`.

    loss        a Tensor with one entry; backward() fills the grad of the leaves and raises what it
                always raises, in which case nothing is written
    path        the file; it needs no network, and where scripts do not run, boxes stay closed

    A line has the shape of the tensor that went down it, and the 2-norm ‖gradient‖ of what came
    back.  If a closed box uses a tensor several times, its gradients are added up first, as the
    chain rule says.  The norm for several tensors is that of all their entries together.  A module
    whose call recorded a single op is one row.  Only modules that are still alive have a name.
    """
    graph = Graph(loss)
    before, this_thread.hook = this_thread.hook, DrawHook(graph, this_thread.hook)
    try:
        graph.add_gradient(loss.node or loss, graph.loss, np.ones(1))
        loss.backward()
    finally:
        this_thread.hook = before
    Path(path).write_text(render_svg(graph, loss), encoding="utf-8")
    return path


# ---- reading the tape ----------------------------------------------------------------------------


class Row:
    """An op, or a box: a call of a module, whose rows are its `children`."""

    def __init__(self, box, name, kind, title):
        self.box, self.name, self.kind, self.title = box, name, kind, title
        self.children, self.open = [], False
        self.ancestors = [self, *(box.ancestors if box else [])]  # itself, up to the outermost box
        self.inputs = {}  # a Row above -> the nodes in there whose results are used here

    def is_visible(self):
        """Return whether all boxes around it are open."""
        return all(box.open for box in self.ancestors[1:])

    def has_lines(self):
        """Return whether lines begin and end at this row now, not at its children or its box."""
        return self.is_visible() and not self.open


class Graph:
    """The rows behind a loss, which rows use which results, and the gradients of those results."""

    def __init__(self, loss):
        self.roots: list[Row] = []  # the rows outside of all boxes
        self.boxes: dict[int, Row] = {}  # id of a module call -> its Row
        self.row_of: dict[Node, Row] = {}
        self.leaves: dict[Row, dict] = defaultdict(dict)  # a Row -> {a leaf used there: its name}
        self.paths: dict = {}  # id of an outermost module -> (it, paths_below(it))
        # Of each pair (node or leaf, a row that uses it): the number of uses, the number of
        # gradients that came back so far, their sum, and its norm when all have come back.
        self.n_uses: Counter = Counter()
        self.n_gradients: Counter = Counter()
        self.sums: dict = {}
        self.norms: dict = {}
        nodes = nodes_behind(loss)
        for node in nodes:
            self.add_node(node)
        for node, row in self.row_of.items():
            if row.box and row.box.children == [row]:  # a module with a single op is one row
                self.row_of[node], row.box.children = row.box, []
                row.box.title += f"\n{row.title}"
        self.loss = self.add_row(None, "loss", "", "where backward() begins")
        for node in nodes:
            for parent in node.parents:
                if parent is not None:
                    self.connect(parent, self.row_of[node], node.module_stack)
        self.connect(loss.node or loss, self.loss, None)
        self.rows = [row for root in self.roots for row in depth_first(root)]
        outermost_boxes = [row for row in self.roots if row.children]
        if len(outermost_boxes) == 1:
            outermost_boxes[0].open = True

    def add_row(self, box, *words):
        """Append a Row to the children of `box`, or to the roots; return it."""
        row = Row(box, *words)
        (box.children if box else self.roots).append(row)
        return row

    def add_node(self, node):
        """Make the row of a node, and the boxes of the module calls in which it was recorded."""
        box = None
        for call in calls_from_outermost(node.module_stack):
            if id(call) not in self.boxes:
                self.boxes[id(call)] = self.add_row(box, *self.words_for(call))
            box = self.boxes[id(call)]
        self.row_of[node] = self.add_row(box, node.op, "", f"the op {node.op}")

    def words_for(self, call):
        """Return the name, the class and the tooltip of a box.

        The name is the module's path below the module that called it, or else below the outermost.
        """
        modules = [module() for _, module, _ in calls_from_outermost(call)]
        root, module = modules[0], modules[-1]
        path = name = ""
        if module is not None and root is not None:
            if id(root) not in self.paths:
                self.paths[id(root)] = root, paths_below(root)
            path = self.paths[id(root)][1].get(id(module), "")
        if module is not None and len(modules) > 1 and (caller := modules[-2]) is not None:
            name = path_of(module, caller) or ""
        class_name = call[2]
        return name or path, class_name, f"{path} {class_name}".strip()

    def connect(self, parent, row, module_stack):
        """Note that `row` uses `parent`, a node or leaf, and so do the boxes around `row`.

        A box that `parent` itself is in does not use it.
        """
        above = self.row_of[parent].ancestors if isinstance(parent, Node) else []
        name = leaf_name(parent, module_stack) if isinstance(parent, Tensor) else ""
        for box in row.ancestors:
            if box in above:
                break
            self.n_uses[parent, box] += 1
            if isinstance(parent, Tensor):
                self.leaves[box].setdefault(parent, name)
            for start in above:
                if start in row.ancestors:
                    break
                box.inputs.setdefault(start, {})[parent] = None

    def add_gradient(self, parent, row, d):
        """Add the gradient that `parent` gets from `row` to its sums, in `row` and its boxes."""
        for box in row.ancestors:
            key = parent, box
            if key not in self.n_uses:
                break
            self.sums[key] = self.sums[key] + d if key in self.sums else d
            self.n_gradients[key] += 1
            if self.n_gradients[key] == self.n_uses[key]:
                self.norms[key] = norm(self.sums.pop(key))


class DrawHook:
    """The hook during draw()'s backward(); it also calls the hook that was there before."""

    def __init__(self, graph, outer):
        self.graph, self.outer = graph, outer

    def forward(self, *of_an_op):
        return self.outer and self.outer.forward(*of_an_op)

    def backward(self, node, dout, grads):
        """Add the gradients of a replayed node to the graph."""
        if self.outer:
            self.outer.backward(node, dout, grads)
        row = self.graph.row_of.get(node)
        if row is None:  # a tape that some op's backward recorded and replays for itself
            return
        for parent, d in zip(node.parents, grads, strict=False):
            if parent is not None and d is not None:  # otherwise backward() raises
                self.graph.add_gradient(parent, row, d)


def nodes_behind(loss):
    """Return the nodes that the loss comes from, oldest first."""
    found, todo = set(), [loss.node]
    while todo:
        node = todo.pop()
        if isinstance(node, Node) and node not in found:
            found.add(node)
            todo += node.parents
    return sorted(found, key=lambda node: node.time)


def depth_first(row):
    """Return a row and all rows inside it, a box before its children."""
    return [row, *(below for child in row.children for below in depth_first(child))]


def leaf_name(leaf, module_stack):
    """Return a parameter's name in the innermost module that has it; "" if none has."""
    for _, module, _ in reversed(calls_from_outermost(module_stack)):
        if (alive := module()) is not None:
            for name, parameter in alive.named_parameters():
                if parameter is leaf:
                    return name
    return ""


def norm(d):
    """Return √(Σ d²), computed in float64."""
    with np.errstate(all="ignore"):
        d = d.astype(np.float64)
        return math.sqrt((d * d).sum().item())


# ---- the layout ----------------------------------------------------------------------------------

TOP, ROW, LINE, GAP, PAD = 64, 24, 18, 9, 9  # heights in pixels; draw.js has the same numbers
INDENT, SPINE, LANE, TURN = 14, 12, 12, 5  # and widths


def layout(graph):
    """Set y and bottom of every visible row; return (lines, lanes, height).

    lines       {(start, end): (path of the line, x and y of its label)}, by rows
    lanes       for each lane the intervals (top, bottom) that are occupied

    Above a row there is a line of text for each of its inputs.  The line from the row just before
    it comes straight down.  All others come from the left, each in a lane of its own.
    """
    order = {row: i for i, row in enumerate(row for row in graph.rows if row.has_lines())}

    def put(row, y):
        row.starts = sorted(row.inputs.keys() & order.keys(), key=order.__getitem__, reverse=True)
        row.y = y + GAP + (0 if row.open else LINE * len(row.starts))
        row.bottom = row.y + row.height
        if row.open:
            for child in row.children:
                row.bottom = put(child, row.bottom)
            row.bottom += PAD
        return row.bottom

    height = TOP
    for root in graph.roots:
        height = put(root, height)

    lines = {}
    lanes: list[list[tuple]] = []
    pairs = [(start, row) for row in order for start in row.starts]
    for start, row in sorted(pairs, key=lambda pair: order[pair[1]] - order[pair[0]]):
        n, i = len(row.starts), row.starts.index(start)
        y = row.y - LINE * (n - i) + LINE // 2
        x = row.x + SPINE * (n - i)
        label_x = max(row.x + SPINE * n, row.starts[0].x + SPINE) + 8
        if order[row] - order[start] == 1:
            path = f"M{label_x - 8} {start.y + start.height}V{row.y}"
        else:
            out = start.y + ROW // 2
            left = -LANE * (1 + free_lane(lanes, min(out, y), max(out, y)))
            path = (
                f"M{start.x} {out}H{left + TURN}q{-TURN} 0 {-TURN} {TURN}V{y - TURN}"
                f"q0 {TURN} {TURN} {TURN}H{x - TURN}q{TURN} 0 {TURN} {TURN}V{row.y}"
            )
        lines[start, row] = path, label_x, y
    return lines, lanes, height + GAP


def free_lane(lanes, top, bottom):
    """Occupy the nearest lane that is free between top and bottom; return its index."""
    for i, occupied in enumerate(lanes):
        if all(bottom < a or b < top for a, b in occupied):
            occupied.append((top, bottom))
            return i
    lanes.append([(top, bottom)])
    return len(lanes) - 1


# ---- the SVG -------------------------------------------------------------------------------------

LEVELS = 6  # of width and colour, from the smallest norm to the largest
LONGEST = 40  # characters of a name that are shown
TRIANGLE = {False: "M-3-5 4 0-3 5z", True: "M-5-3 5-3 0 4z"}
NOT_XML = "[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]"  # not even escaped
ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})


def render_svg(graph, loss):
    """Return the SVG as text: bands behind the open boxes, lines over them, rows over both."""
    graph.loss.kind = f"{loss.item():.5g}"
    for i, row in enumerate(graph.rows):
        row.id = f"row{i}"
        row.x = INDENT * (len(row.ancestors) - 1)
        row.tags = leaf_tags(graph, row)
        row.height = max(ROW, LINE * len(row.tags) + ROW - LINE)
    lines, lanes, height = layout(graph)
    labels = {
        (start, row): line_label(graph, start, row) for row in graph.rows for start in row.inputs
    }

    # The width leaves room for all boxes to be open.
    right = max(row.x + 48 + name_width(row.name) + name_width(row.kind) for row in graph.rows)
    right_ends = [right + 20 + mono_width(words) for row in graph.rows for words, *_ in row.tags]
    for (start, row), (words, *_) in labels.items():
        label_x = max(row.x + SPINE * len(row.inputs), start.x + SPINE) + 8
        right_ends.append(label_x + mono_width(words))
    width = math.ceil(max([380, *right_ends])) + GAP
    left = -LANE * (len(lanes) + 1)

    leaf_norms = [n for row in graph.rows for _, n, _ in row.tags]
    scale = Scale([n for _, n, _ in labels.values()] + leaf_norms)
    here = Path(__file__)
    return element(
        "svg",
        element("title", escape(f"the graph of a step, loss {graph.loss.kind}")),
        element("style", here.with_suffix(".css").read_text(encoding="utf-8")),
        legend(scale, f"{len(graph.row_of)} ops: time runs down, gradients come back up"),
        element("g", *(band_element(row, width) for row in graph.rows if row.children)),
        element(
            "g", *(edge_element(*pair, labels[pair], lines.get(pair), scale) for pair in labels)
        ),
        element("g", *(row_element(row, right, scale) for row in graph.rows)),
        element("script", f"<![CDATA[\n{here.with_suffix('.js').read_text(encoding='utf-8')}]]>"),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"{left} 0 {width - left} {height}",
        width=width - left,
        height=height,
    )


class Scale:
    """Maps the norm of a gradient to the class of its line, by its logarithm."""

    def __init__(self, norms):
        logs = [math.log10(n) for n in norms if 0 < n < math.inf] or [0.0]
        self.span = max(1.0, min(max(logs) - min(logs), 5.0))  # a factor of 10 to 100,000
        self.lowest = max(min(logs), max(logs) - self.span)

    def __call__(self, n):
        if not math.isfinite(n):
            return "bad"
        fraction = (math.log10(n) - self.lowest) / self.span if n else 0
        return f"level{max(0, min(int(fraction * LEVELS), LEVELS - 1))}"


def line_label(graph, start, row):
    """Return (words, norm, tooltip) of the line from one row to another."""
    nodes = row.inputs[start]
    n = math.hypot(*(graph.norms[node, row] for node in nodes))
    shapes = [str(node.shape) for node in nodes]
    words = shapes[0] if len(shapes) == 1 else f"{len(shapes)} tensors"
    tooltip = [f"{start.title} → {row.title}", " ".join(shapes), f"‖gradient‖ {n:.9g}"]
    if any(graph.n_uses[node, row] > 1 for node in nodes):
        tooltip.append("used more than once: of the sum of the gradients")
    if len(shapes) > 1:
        tooltip.append("of all their entries: the root of the sum of the squared norms")
    return words, n, "\n".join(tooltip)


def leaf_tags(graph, row):
    """Return [(words, norm, tooltip)] of the leaves that a row uses; a box has one tag for all."""
    found = [
        (f"{shorten(name)} {leaf.shape}".strip(), graph.norms[leaf, row], leaf.data.size)
        for leaf, name in graph.leaves[row].items()
    ]
    if row.children and len(found) > 1:
        n, size = math.hypot(*(n for _, n, _ in found)), sum(size for *_, size in found)
        words = "parameters" if all(graph.leaves[row].values()) else "leaves"
        found = [(f"{len(found)} {words}", n, size)]
    return [
        (words, n, f"{words}\n{size:,} entries\n‖gradient‖ from here {n:.9g}")
        for words, n, size in found
    ]


def legend(scale, words):
    """Return what explains the lines.  (draw.js adds how to open boxes, if scripts run.)"""
    least, most = (f"{10**log:.3g}" for log in (scale.lowest, scale.lowest + scale.span))
    x = 7 * len(least) + 6
    samples = [element("path", class_=f"level{i}", d=f"M{x + 22 * i} 36h22") for i in range(LEVELS)]
    return element(
        "g",
        element("text", escape(words), y=14),
        element("text", least, class_="mono", y=36),
        *samples,
        element("text", f"{most} ‖gradient‖", class_="mono", x=x + 22 * LEVELS + 6, y=36),
        element("text", class_="hint", y=58),
        class_="legend",
    )


def band_element(row, width):
    """Return the background of a box and of all that is inside it, while the box is open."""
    where = {"y": row.y, "height": row.bottom - row.y} if row.open else {"display": "none"}
    return element("rect", class_="band", x=row.x, width=width - row.x, rx=6, **where)


def edge_element(start, row, label, line, scale):
    """Return a line and its label; hidden if there is no `line` in the layout now."""
    words, n, tooltip = label
    path, x, y = line or ("", 0, 0)
    return element(
        "g",
        element("title", escape(tooltip)),
        element("path", d=path),
        label_element(words, n, x, y),
        class_=f"edge {scale(n)}",
        data_start=start.id,
        data_end=row.id,
        **({} if line else {"display": "none"}),
    )


def row_element(row, right, scale):
    """Return a row: its name, and to the right of it its leaves.  A box is a button."""
    y = row.height / 2
    parts = [
        element("title", escape(row.title)),
        element("rect", x=row.x, width=right - row.x, height=row.height, rx=5),
        element(
            "text",
            element("tspan", escape(shorten(row.name)), class_="name"),
            element("tspan", escape(shorten(row.kind)), class_="kind", dx=6 if row.name else 0),
            x=row.x + (24 if row.children else 10),
            y=y,
        ),
    ]
    if row.children:
        where = f"translate({row.x + 12} {y})"
        parts.append(element("path", class_="triangle", d=TRIANGLE[row.open], transform=where))
    for i, (words, n, tooltip) in enumerate(row.tags):
        y = (row.height - LINE * len(row.tags)) / 2 + LINE * (i + 0.5)
        parts.append(
            element(
                "g",
                element("title", escape(tooltip)),
                element("path", d=f"M{right} {y}h12"),
                label_element(words, n, right + 18, y),
                class_=f"tag {scale(n)}",
            )
        )
    button = {"tabindex": 0, "role": "button", "aria-expanded": str(row.open).lower()}
    visibility = {"transform": f"translate(0 {row.y})"} if row.is_visible() else {"display": "none"}
    return element(
        "g",
        *parts,
        id=row.id,
        class_="row",
        data_inside=row.box.id if row.box else "",
        data_x=row.x,
        data_height=row.height,
        **visibility,
        **(button if row.children else {}),
    )


def label_element(words, n, x, y):
    """Return words and the norm of a gradient, side by side."""
    return element(
        "text",
        element("tspan", escape(words)),
        element("tspan", f"{n:.3g}", class_="norm", dx=8),
        class_="mono",
        x=x,
        y=y,
    )


def element(name, *children, **attributes):
    """Return an XML element.  The children are XML already; class_ is class, data_x is data-x."""
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    head = " ".join([name, *(f'{key}="{escape(value)}"' for key, value in pairs)])
    return f"<{head}>{''.join(children)}</{name}>"


def escape(words):
    """Return words as XML text."""
    return re.sub(NOT_XML, "\ufffd", str(words)).translate(ESCAPES)


def shorten(words):
    return words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"


def mono_width(words):
    """Return an upper bound of the width of a label in the monospaced font, with its norm."""
    return 6.7 * (len(words) + 8) + 8


def name_width(words):
    """Return an upper bound of the width of a name; letters beyond Cyrillic may be squares."""
    return sum(14 if c > "\u052f" else 12 if c in "mwMW@%" else 8 for c in shorten(words))
