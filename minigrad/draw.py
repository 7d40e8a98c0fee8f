"""The graph of a step, as a picture: every op that was recorded, and the gradients that came back.

    mg.draw(loss)  # in place of loss.backward(); then open graph.svg in a browser

The tape is a list, so it is drawn as one: a row for every op, the oldest at the top, the loss at
the bottom.  Rows that were taken in one call of a module stand in a box, which opens and closes by
a click.  A line leads from each row to those that read its result, and says how long the gradient
is that came back along it: one sees where gradients vanish, and where they explode.

Here the rows are read off the tape and laid out for the first time.  draw.js, inside the picture,
lays out anew when a box is opened or closed, by the same rules as `layout`.
"""

import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from minigrad.nn import calls_from_outermost, path_of
from minigrad.tensor import Step, Tensor, this_thread


def draw(loss, path="graph.svg"):
    """Run loss.backward() and draw the graph that it went through to the file `path`, an SVG.

    loss        a Tensor with one entry; its gradients arrive in the leaves as by loss.backward(),
                which raises what it raises there, and then nothing is written
    path        is returned; the file needs no network; where scripts do not run, boxes stay closed

    A line tells the shape of what went down it, and the 2-norm ‖gradient‖ of what came back.  Where
    a closed box uses a tensor several times, its gradients are added up first, as the chain rule
    does; of several tensors the norm is that of all their entries together.  A module that took a
    single step is one row.  Only modules that are still alive have a name.
    """
    graph = Graph(loss)
    before, this_thread.watch = this_thread.watch, Watch(graph, this_thread.watch)
    try:
        graph.take(loss.step or loss, graph.loss, np.ones(1))
        loss.backward()
    finally:
        this_thread.watch = before
    Path(path).write_text(picture(graph, loss), encoding="utf-8")
    return path


# ---- what is read off the tape -------------------------------------------------------------------


class Row:
    """An op, or a call of a module and the rows `inside` it."""

    def __init__(self, parent, name, kind, title):
        self.parent, self.name, self.kind, self.title = parent, name, kind, title
        self.inside, self.open = [], False
        self.line = [self, *(parent.line if parent else [])]  # up to the outermost box
        self.sources = {}  # a Row above -> the steps whose results come from there

    def seen(self):
        """Whether all boxes around it are open."""
        return all(box.open for box in self.line[1:])

    def ends(self):
        """Whether lines end here as it is now: it is seen, and nothing inside it."""
        return self.seen() and not self.open


class Graph:
    """The rows behind a loss, what each takes from the others, and the gradients of that."""

    def __init__(self, loss):
        self.roots: list[Row] = []
        self.boxes: dict[int, Row] = {}  # id of a call -> its Row
        self.row_of: dict[Step, Row] = {}
        self.leaves: dict[Row, dict] = defaultdict(dict)  # a Row -> {a leaf used there: its name}
        # (a step or leaf, a row) -> how often it is used in there, and how often we have seen the
        # gradient of that; the sum of these; its norm, when it is complete
        self.uses: Counter = Counter()
        self.taken: Counter = Counter()
        self.sums: dict = {}
        self.norms: dict = {}
        steps = steps_behind(loss)
        for step in steps:
            self.add(step)
        for step, row in self.row_of.items():
            if row.parent and row.parent.inside == [row]:  # the module stands for its only step
                self.row_of[step], row.parent.inside = row.parent, []
                row.parent.title += f"\n{row.title}"
        self.loss = self.new(None, "loss", "", "where backward() begins")
        for step in steps:
            for source in step.sources:
                if source is not None:
                    self.connect(source, self.row_of[step], step.place)
        self.connect(loss.step or loss, self.loss, None)
        self.rows = [row for root in self.roots for row in depth_first(root)]
        match [row for row in self.roots if row.inside]:
            case [model]:
                model.open = True

    def new(self, parent, *words):
        row = Row(parent, *words)
        (parent.inside if parent else self.roots).append(row)
        return row

    def add(self, step):
        """Make a row of a step, inside boxes for the calls that it was taken in."""
        parent = None
        for call in calls_from_outermost(step.place):
            if id(call) not in self.boxes:
                self.boxes[id(call)] = self.new(parent, *words_for(call))
            parent = self.boxes[id(call)]
        self.row_of[step] = self.new(parent, step.op, "", f"the op {step.op}")

    def connect(self, source, row, place):
        """Note that `row` uses `source`, and so do the boxes around it that `source` is not in."""
        above = self.row_of[source].line if isinstance(source, Step) else []
        for box in row.line:
            if box in above:
                break
            self.uses[source, box] += 1
            if isinstance(source, Tensor):
                self.leaves[box].setdefault(source, name_of(source, place))
            for start in above:
                if start in row.line:
                    break
                box.sources.setdefault(start, {})[source] = None

    def take(self, source, row, d):
        """The gradient that `source` gets from `row`: add it up with what else comes from a box."""
        for box in row.line:
            key = source, box
            if key not in self.uses:
                break
            self.sums[key] = self.sums[key] + d if key in self.sums else d
            self.taken[key] += 1
            if self.taken[key] == self.uses[key]:
                self.norms[key] = norm(self.sums.pop(key))


class Watch:
    """What looks on during backward(), in front of detect_anomaly()'s if that is on."""

    def __init__(self, graph, other):
        self.graph, self.other = graph, other

    def forward(self, *of_an_op):
        return self.other and self.other.forward(*of_an_op)

    def backward(self, step, dout, gradients):
        if self.other:
            self.other.backward(step, dout, gradients)
        row = self.graph.row_of.get(step)
        if row is None:  # an op's backward has a small tape of its own, and replays it
            return
        for source, d in zip(step.sources, gradients, strict=False):
            if source is not None and d is not None:  # else backward() will say so
                self.graph.take(source, row, d)


def steps_behind(loss):
    """The steps that the loss comes from, oldest first."""
    found, todo = set(), [loss.step]
    while todo:
        step = todo.pop()
        if isinstance(step, Step) and step not in found:
            found.add(step)
            todo += step.sources
    return sorted(found, key=lambda step: step.time)


def depth_first(row):
    """A row, and all that is inside it."""
    return [row, *(below for child in row.inside for below in depth_first(child))]


def words_for(call):
    """What a box is called: the module's path in the module around it, its class, and its title."""
    modules = [module() for _, module, _ in calls_from_outermost(call)]

    def path_in(outer):
        gone = outer is None or modules[-1] is None
        return "" if gone else path_of(modules[-1], outer) or ""

    *_, around = modules[:-1] or modules
    in_all = path_in(modules[0])
    return path_in(around) or in_all, call[2], f"{in_all} {call[2]}".strip()


def name_of(leaf, place):
    """A parameter's name in the innermost module that has it; "" if none does."""
    for _, module, _ in reversed(calls_from_outermost(place)):
        if (alive := module()) is not None:
            for name, parameter in alive.named_parameters():
                if parameter is leaf:
                    return name
    return ""


def norm(d):
    """√(Σ d²), in float64 whatever d is in."""
    with np.errstate(all="ignore"):
        d = d.astype(np.float64)
        return math.sqrt((d * d).sum().item())


# ---- where everything is -------------------------------------------------------------------------

TOP, ROW, LINE, GAP, PAD = 64, 24, 18, 9, 9  # heights in pixels; draw.js has the same numbers
INDENT, SPINE, LANE, TURN = 14, 12, 12, 5  # and widths


def layout(graph):
    """Place the rows that are seen, and the lines between them: returns (lines, lanes, height).

    lines       {(start, end): (its path, x and y of its label)}, by rows
    lanes       for each lane the stretches (top, bottom) that are taken

    Above a row stands a line of text for each row whose result it takes.  From the row just before
    it a line comes straight down.  All others come from the left, each in a lane of its own.
    """
    ends = {row: i for i, row in enumerate(row for row in graph.rows if row.ends())}

    def put(row, y):
        row.starts = sorted(row.sources.keys() & ends.keys(), key=ends.__getitem__, reverse=True)
        row.y = y + GAP + (0 if row.open else LINE * len(row.starts))
        row.bottom = row.y + row.height
        if row.open:
            for child in row.inside:
                row.bottom = put(child, row.bottom)
            row.bottom += PAD
        return row.bottom

    height = TOP
    for root in graph.roots:
        height = put(root, height)

    lines = {}
    lanes: list[list[tuple]] = []
    pairs = [(start, row) for row in ends for start in row.starts]
    for start, row in sorted(pairs, key=lambda pair: ends[pair[1]] - ends[pair[0]]):
        n, i = len(row.starts), row.starts.index(start)
        y = row.y - LINE * (n - i) + LINE // 2
        x = row.x + SPINE * (n - i)
        after = max(row.x + SPINE * n, row.starts[0].x + SPINE) + 8
        if ends[row] - ends[start] == 1:
            path = f"M{after - 8} {start.y + start.height}V{row.y}"
        else:
            out = start.y + ROW // 2
            left = -LANE * (1 + free_lane(lanes, min(out, y), max(out, y)))
            path = (
                f"M{start.x} {out}H{left + TURN}q{-TURN} 0 {-TURN} {TURN}V{y - TURN}"
                f"q0 {TURN} {TURN} {TURN}H{x - TURN}q{TURN} 0 {TURN} {TURN}V{row.y}"
            )
        lines[start, row] = path, after, y
    return lines, lanes, height + GAP


def free_lane(lanes, top, bottom):
    """The nearest lane in which nothing runs between top and bottom; from now on something does."""
    for i, taken in enumerate(lanes):
        if all(bottom < a or b < top for a, b in taken):
            taken.append((top, bottom))
            return i
    lanes.append([(top, bottom)])
    return len(lanes) - 1


# ---- the picture ---------------------------------------------------------------------------------

LEVELS = 6  # of width and colour, from the shortest gradient to the longest
LONGEST = 40  # characters that are shown of a name
TRIANGLE = {False: "M-3-5 4 0-3 5z", True: "M-5-3 5-3 0 4z"}
NOT_XML = "[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]"  # not even escaped
ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})


def picture(graph, loss):
    """The SVG as text: bands behind the open boxes, lines over them, and over these the rows."""
    graph.loss.kind = f"{loss.item():.5g}"
    for i, row in enumerate(graph.rows):
        row.id = f"row{i}"
        row.x = INDENT * (len(row.line) - 1)
        row.tags = tags(graph, row)
        row.height = max(ROW, LINE * len(row.tags) + ROW - LINE)
    lines, lanes, height = layout(graph)
    labels = {(start, row): label(graph, start, row) for row in graph.rows for start in row.sources}

    # As wide as it may become when all is open.
    right = max(row.x + 48 + wide(row.name) + wide(row.kind) for row in graph.rows)
    ends = [right + 20 + mono(words) for row in graph.rows for words, *_ in row.tags]
    for (start, row), (words, *_) in labels.items():
        after = max(row.x + SPINE * len(row.sources), start.x + SPINE) + 8
        ends.append(after + mono(words))
    width = math.ceil(max([380, *ends])) + GAP
    left = -LANE * (len(lanes) + 1)

    of_leaves = [n for row in graph.rows for _, n, _ in row.tags]
    scale = Scale([n for _, n, _ in labels.values()] + of_leaves)
    here = Path(__file__)
    return element(
        "svg",
        element("title", text(f"the graph of a step, loss {graph.loss.kind}")),
        element("style", here.with_suffix(".css").read_text(encoding="utf-8")),
        legend(scale, f"{len(graph.row_of)} ops: time runs down, gradients come back up"),
        element("g", *(band(row, width) for row in graph.rows if row.inside)),
        element("g", *(edge(*pair, labels[pair], lines.get(pair), scale) for pair in labels)),
        element("g", *(box(row, right, scale) for row in graph.rows)),
        element("script", f"<![CDATA[\n{here.with_suffix('.js').read_text(encoding='utf-8')}]]>"),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"{left} 0 {width - left} {height}",
        width=width - left,
        height=height,
    )


class Scale:
    """How long a gradient is among those of the lines: its level, by the logarithm of its norm."""

    def __init__(self, norms):
        logs = [math.log10(n) for n in norms if 0 < n < math.inf] or [0.0]
        self.span = max(1.0, min(max(logs) - min(logs), 5.0))  # a factor of 10 to 100,000
        self.lowest = max(min(logs), max(logs) - self.span)

    def __call__(self, n):
        if not math.isfinite(n):
            return "bad"
        share = (math.log10(n) - self.lowest) / self.span if n else 0
        return f"level{max(0, min(int(share * LEVELS), LEVELS - 1))}"


def label(graph, start, row):
    """(words, norm, tooltip) of the line from one row to another."""
    sources = row.sources[start]
    n = math.hypot(*(graph.norms[source, row] for source in sources))
    shapes = [str(source.shape) for source in sources]
    words = shapes[0] if len(shapes) == 1 else f"{len(shapes)} tensors"
    tooltip = [f"{start.title} → {row.title}", " ".join(shapes), f"‖gradient‖ {n:.9g}"]
    if any(graph.uses[source, row] > 1 for source in sources):
        tooltip.append("used more than once: of the sum of the gradients")
    if len(shapes) > 1:
        tooltip.append("of all their entries: the root of the sum of the squared norms")
    return words, n, "\n".join(tooltip)


def tags(graph, row):
    """[(words, norm, tooltip)] of the leaves that a row uses; in a box they make one together."""
    found = [
        (f"{shortened(name)} {leaf.shape}".strip(), graph.norms[leaf, row], leaf.data.size)
        for leaf, name in graph.leaves[row].items()
    ]
    if row.inside and len(found) > 1:
        n, size = math.hypot(*(n for _, n, _ in found)), sum(size for *_, size in found)
        words = "parameters" if all(graph.leaves[row].values()) else "leaves"
        found = [(f"{len(found)} {words}", n, size)]
    return [
        (words, n, f"{words}\n{size:,} entries\n‖gradient‖ from here {n:.9g}")
        for words, n, size in found
    ]


def legend(scale, words):
    """What the lines mean.  (draw.js says how to open boxes, where there is a script.)"""
    least, most = (f"{10**log:.3g}" for log in (scale.lowest, scale.lowest + scale.span))
    x = 7 * len(least) + 6
    samples = [element("path", class_=f"level{i}", d=f"M{x + 22 * i} 36h22") for i in range(LEVELS)]
    return element(
        "g",
        element("text", text(words), y=14),
        element("text", least, class_="mono", y=36),
        *samples,
        element("text", f"{most} ‖gradient‖", class_="mono", x=x + 22 * LEVELS + 6, y=36),
        element("text", class_="hint", y=58),
        class_="legend",
    )


def band(row, width):
    """What lies behind an open box and all that is inside."""
    place = {"y": row.y, "height": row.bottom - row.y} if row.open else {"display": "none"}
    return element("rect", class_="band", x=row.x, width=width - row.x, rx=6, **place)


def edge(start, row, label, line, scale):
    """A line and its label, unless it is not to be seen now."""
    words, n, tooltip = label
    path, x, y = line or ("", 0, 0)
    return element(
        "g",
        element("title", text(tooltip)),
        element("path", d=path),
        written(words, n, x, y),
        class_=f"edge {scale(n)}",
        data_start=start.id,
        data_end=row.id,
        **({} if line else {"display": "none"}),
    )


def box(row, right, scale):
    """A row: its name, to the right the leaves that it uses; a button if something is inside."""
    y = row.height / 2
    inside = [
        element("title", text(row.title)),
        element("rect", x=row.x, width=right - row.x, height=row.height, rx=5),
        element(
            "text",
            element("tspan", text(shortened(row.name)), class_="name"),
            element("tspan", text(shortened(row.kind)), class_="kind", dx=6 if row.name else 0),
            x=row.x + (24 if row.inside else 10),
            y=y,
        ),
    ]
    if row.inside:
        place = f"translate({row.x + 12} {y})"
        inside.append(element("path", class_="triangle", d=TRIANGLE[row.open], transform=place))
    for i, (words, n, tooltip) in enumerate(row.tags):
        y = (row.height - LINE * len(row.tags)) / 2 + LINE * (i + 0.5)
        inside.append(
            element(
                "g",
                element("title", text(tooltip)),
                element("path", d=f"M{right} {y}h12"),
                written(words, n, right + 18, y),
                class_=f"tag {scale(n)}",
            )
        )
    button = {"tabindex": 0, "role": "button", "aria-expanded": str(row.open).lower()}
    where = {"transform": f"translate(0 {row.y})"} if row.seen() else {"display": "none"}
    return element(
        "g",
        *inside,
        id=row.id,
        class_="row",
        data_inside=row.parent.id if row.parent else "",
        data_x=row.x,
        data_height=row.height,
        **where,
        **(button if row.inside else {}),
    )


def written(words, n, x, y):
    """Words and the norm of a gradient, side by side."""
    return element(
        "text",
        element("tspan", text(words)),
        element("tspan", f"{n:.3g}", class_="norm", dx=8),
        class_="mono",
        x=x,
        y=y,
    )


def element(name, *inside, **attributes):
    """An element of XML; what is inside is written already.  class_ is class, data_x is data-x."""
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    head = " ".join([name, *(f'{key}="{text(value)}"' for key, value in pairs)])
    return f"<{head}>{''.join(inside)}</{name}>"


def text(words):
    """Words as XML takes them."""
    return re.sub(NOT_XML, "\ufffd", str(words)).translate(ESCAPES)


def shortened(words):
    return words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"


def mono(words):
    """At most how wide a text in the font for shapes is, with a norm behind it."""
    return 6.7 * (len(words) + 8) + 8


def wide(words):
    """At most how wide a name is: a letter beyond the alphabets of Europe may be a square."""
    return sum(14 if c > "\u052f" else 12 if c in "mwMW@%" else 8 for c in shortened(words))
