"""A picture of the shapes: from ids (B, T) through one block to scores (B, T, V).

    python -m gpt_numpy.lesson.shapes docs/shapes.svg

The picture is 390 pixels wide, so a phone shows it in full size.  It has a background of its own,
and turns dark where the reader's system is dark.
"""

import sys
from html import escape
from pathlib import Path

from gpt_numpy.config import GPTConfig
from gpt_numpy.model import GPT

WIDTH, LEFT, RIGHT, STREAM = 390, 52, 374, 26
ROW, GAP = 46, 12  # height of a box, and the space below it
STYLE = """
.gs-paper { fill: #ffffff } .gs-frame { fill: #f3f6f9; stroke: #8c959f }
.gs-box { fill: #ffffff; stroke: #0072b2; stroke-width: 1.5 } .gs-plain { stroke: #8c959f }
.gs-arrow { stroke: #57606a; fill: none } .gs-stream { stroke: #d55e00; fill: none }
.gs-sum { fill: #ffffff; stroke: #d55e00 }
.gs text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.gs .gs-name { font-weight: 600 } .gs .gs-end { text-anchor: end }
.gs .gs-note { font-size: 12px; fill: #57606a } .gs .gs-orange { fill: #b84e00 }
@media (prefers-color-scheme: dark) {
.gs-paper, .gs-sum { fill: #0d1117 } .gs-frame { fill: #161b22; stroke: #6e7681 }
.gs-box { fill: #0d1117; stroke: #58a6ff } .gs-plain { stroke: #6e7681 }
.gs-arrow { stroke: #9ea7b3 } .gs-stream, .gs-sum { stroke: #f0883e }
.gs text { fill: #e6edf3 } .gs .gs-note { fill: #9ea7b3 } .gs .gs-orange { fill: #f0883e }
}
"""


class Drawing:
    """SVG elements, and the height that they have reached."""

    def __init__(self, y):
        self.y, self.elements = y, []

    def text(self, x, y, text, kind=""):
        self.elements.append(f'<text x="{x}" y="{y}" class="{kind}">{escape(text)}</text>')

    def box(self, name, shape, note, n_weights):
        """Draw a box: its name, the shape of its result, a note, and how many weights it has."""
        kind = "gs-box" if n_weights else "gs-box gs-plain"
        self.elements.append(
            f'<rect x="{LEFT}" y="{self.y}" width="{RIGHT - LEFT}" height="{ROW}" rx="6" '
            f'class="{kind}"/>'
        )
        self.text(LEFT + 10, self.y + 19, name, "gs-name")
        self.text(RIGHT - 10, self.y + 19, shape, "gs-end")
        self.text(LEFT + 10, self.y + 37, note, "gs-note")
        if n_weights:
            self.text(RIGHT - 10, self.y + 37, f"{n_weights:,} weights", "gs-note gs-end")
        self.y += ROW + GAP

    def follow(self):
        """Draw an arrow from the last box into the next one."""
        x, y = (LEFT + RIGHT) // 2, self.y
        self.elements.append(f'<path d="M{x} {y - GAP}v{GAP}m-4 -5l4 5l4 -5" class="gs-arrow"/>')

    def read(self):
        """Draw a line from the stream into the next box."""
        self.elements.append(f'<path d="M{STREAM} {self.y + ROW // 2}H{LEFT}" class="gs-stream"/>')

    def add(self):
        """Draw a line from the last box back into the stream, to which its result is added."""
        y = self.y - GAP - ROW // 2
        self.elements.append(
            f'<path d="M{LEFT} {y}H{STREAM}" class="gs-stream"/>'
            f'<circle cx="{STREAM}" cy="{y}" r="9" class="gs-sum"/>'
            f'<path d="M{STREAM - 5} {y}h10m-5 -5v10" class="gs-stream"/>'
        )


def weights_by_part(config):
    """Return {part of the GPT: how many weights it has}; a block counts once."""
    counts: dict[str, int] = {}
    for name, p in GPT(config).named_parameters():
        words = name.split(".")
        if words[0] == "h" and words[1] != "0":
            continue
        part = ".".join(words[2:-1] if words[0] == "h" else words[:-1])
        counts[part] = counts.get(part, 0) + p.size
    return counts


def shapes_svg(config: GPTConfig) -> str:
    """Return the picture for a GPT of these sizes, as SVG."""
    n = weights_by_part(config)
    T, C, H, V = config.block_size, config.n_embd, config.n_head, config.vocab_size
    block = sum(size for part, size in n.items() if part not in ("wte", "wpe", "ln_f"))
    total = sum(n.values()) + (config.n_layer - 1) * block
    qkv = n["attn.query"] + n["attn.key"] + n["attn.value"]

    d = Drawing(84)
    d.box("ids", "(B, T)", "a batch of B windows of text", 0)
    d.follow()
    d.box("token + position vectors", "(B, T, C)", "a row of each table", n["wte"] + n["wpe"])
    start = d.y - GAP  # where the residual stream begins
    top = d.y
    d.y += 30
    d.read()
    d.box("layer norm", "(B, T, C)", "same scale everywhere", n["ln_1"])
    d.follow()
    d.box("query, key, value", "3 × (B, H, T, D)", "three maps, cut into heads", qkv)
    d.follow()
    d.box("weights P", "(B, H, T, T)", "softmax(q kᵀ / √D), later keys masked", 0)
    d.follow()
    d.box("P v", "(B, T, C)", "heads joined again", 0)
    d.follow()
    d.box("projection", "(B, T, C)", "positions have talked", n["attn.proj"])
    d.add()
    d.read()
    d.box("layer norm", "(B, T, C)", "same scale everywhere", n["ln_2"])
    d.follow()
    d.box("wide layer, GELU", "(B, T, 4C)", "each position by itself", n["mlp.fc"])
    d.follow()
    d.box("projection", "(B, T, C)", "each has thought", n["mlp.proj"])
    d.add()
    bottom = d.y
    d.y += GAP
    d.read()
    d.box("layer norm", "(B, T, C)", "same scale everywhere", n["ln_f"])
    d.follow()
    d.box("scores", "(B, T, V)", "products with the token vectors above", 0)

    end = bottom + GAP + ROW // 2
    height = d.y + 8
    sizes = f"T = {T}, C = {C}, H = {H}, D = C/H = {C // H}, V = {V}"
    back = [
        f'<rect width="{WIDTH}" height="{height}" rx="10" class="gs-paper"/>',
        f'<rect x="8" y="{top}" width="{WIDTH - 16}" height="{bottom - top}" rx="10" '
        'class="gs-frame"/>',
        f'<path d="M{LEFT} {start - ROW // 2}H{STREAM}V{end}" class="gs-stream" stroke-width="5"/>',
    ]
    d.text(16, 28, f"One pass of a GPT with {total:,} weights", "gs-name")
    d.text(16, 48, sizes, "gs-note")
    d.text(16, 68, "orange: the residual stream, (B, T, C)", "gs-note gs-orange")
    d.text(RIGHT, top + 21, f"a block: {block:,} weights, {config.n_layer} times", "gs-name gs-end")
    title = (
        f"From ids (B, T) to scores (B, T, V): the shapes and weights of a GPT, {total:,} in all"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" style="max-width: 100%; height: auto" '
            'class="gs" role="img">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            *back,
            *d.elements,
            "</svg>\n",
        ]
    )


LAPTOP = GPTConfig(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_embd=128, bias=False)

if __name__ == "__main__":
    Path(sys.argv[1]).write_text(shapes_svg(LAPTOP), encoding="utf-8")
