"""Draws docs/figures/architecture.svg: the network on sixteen bases, down to chunks of chunks and back up.

python docs/figures/architecture.py
"""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 960, 640
LEFT, CELL, ROW = 200, 35, 30
SEQUENCE = "ACGTT_GCATTGAC_A"  # _ is a mask
CUTS0 = (0, 2, 5, 6, 9, 11, 14, 15)  # a masked base starts a chunk, and so does the base after it
CUTS1 = (0, 2, 3, 4, 6, 7)  # counted in chunks of stage 0; the same rule holds for chunks that hold a mask

INK, MUTED, MASK, PAPER = "#1f2328", "#57606a", "#c2410c", "#ffffff"
FILLS = {"base": "#eef2f7", "stage0": "#d6e6fb", "stage1": "#a9c7f7", "trunk": "#1f6feb", "code": "#f6f8fa"}


def text(
    x: float, y: float, words: str, *, size: int = 13, anchor: str = "middle", fill: str = INK, extra: str = ""
) -> str:
    place = f'x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{fill}" {extra}'.strip()
    return f"<text {place}>{escape(words)}</text>"


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str = "#8c959f") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" fill="{fill}" stroke="{stroke}"/>'


def arrow(x1: float, y1: float, x2: float, y2: float, *, dashed: bool = False) -> str:
    style = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}" stroke="{MUTED}" fill="none" marker-end="url(#tip)"{style}/>'


def spans(starts: Sequence[int], total: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of each chunk."""
    yield from zip(starts, [*starts[1:], total], strict=True)


def cells(
    y: float, bounds: Sequence[tuple[int, int]], fill: str, masked: Sequence[bool], labels: str = ""
) -> list[str]:
    """A row of boxes, each as wide as its bases; boxes that hold a mask have an outline in the mask's colour."""
    drawn = []
    for index, ((first, stop), hidden) in enumerate(zip(bounds, masked, strict=True)):
        x, width = LEFT + first * CELL, (stop - first) * CELL - 4
        drawn.append(box(x, y, width, ROW, fill, MASK if hidden else "#8c959f"))
        if labels:
            drawn.append(text(x + width / 2, y + 20, "M" if hidden else labels[index], fill=MASK if hidden else INK))
    return drawn


def layer(y: float, words: str, note: str = "") -> list[str]:
    """A bar across all bases: `words` name the layer, `note` stands at its right."""
    width = len(SEQUENCE) * CELL - 4
    drawn = [box(LEFT, y, width, ROW, FILLS["code"]), text(LEFT + width / 2, y + 20, words)]
    if note:
        drawn.append(text(LEFT + width + 14, y + 20, note, size=11, anchor="start", fill=MUTED))
    return drawn


def draw() -> str:
    total = len(SEQUENCE)
    bases = [(i, i + 1) for i in range(total)]
    mask0 = [letter == "_" for letter in SEQUENCE]
    chunks0 = list(spans(CUTS0, total))
    mask1 = [any(mask0[a:b]) for a, b in chunks0]
    chunks1 = [(chunks0[a][0], chunks0[b - 1][1]) for a, b in spans(CUTS1, len(chunks0))]
    mask2 = [any(mask0[a:b]) for a, b in chunks1]
    middle = LEFT + total * CELL / 2
    ys = [24 + 46 * i for i in range(13)]
    parts = [
        *cells(ys[0], bases, FILLS["base"], mask0, SEQUENCE),
        *layer(ys[1], "encoder 0: BiMamba, then router 0", "cuts where p ≥ ½"),
        *cells(ys[2], chunks0, FILLS["stage0"], mask1),
        *layer(ys[3], "encoder 1: BiMamba, then router 1", "the same on chunks"),
        *cells(ys[4], chunks1, FILLS["stage1"], mask2),
        box(LEFT, ys[5], total * CELL - 4, 56, FILLS["trunk"]),
        text(middle, ys[5] + 24, "trunk: Transformer over chunks of chunks", fill=PAPER, size=14),
        text(middle, ys[5] + 43, "rotary positions at the middle base of each", fill=PAPER, size=11),
        *cells(ys[7], chunks1, FILLS["stage1"], mask2),
        *layer(ys[8], "spread, smooth with p, + residual, decoder 1: BiMamba", "residual is 0 in chunks"),
        text(LEFT + total * CELL + 10, ys[8] + 34, "that hold a mask", size=11, anchor="start", fill=MUTED),
        *cells(ys[9], chunks0, FILLS["stage0"], mask1),
        *layer(ys[10], "spread, smooth with p, + residual, decoder 0: BiMamba", "likewise"),
        *cells(ys[11], bases, FILLS["base"], mask0),
        *layer(ys[12], "norm, head: 16 logits a base"),
    ]
    sides = {
        0: "bases, M masked", 2: "chunks", 4: "chunks of chunks", 7: "trunk's output",
        9: "chunks", 11: "bases",
    }  # fmt: skip
    parts += [text(LEFT - 60, ys[i] + 20, words, anchor="end", fill=MUTED) for i, words in sides.items()]
    for upper, lower in zip(range(12), range(1, 13), strict=True):
        if upper == 5:
            parts.append(arrow(middle, ys[5] + 56, middle, ys[7] - 3))
        elif upper != 6:
            parts.append(arrow(middle, ys[upper] + ROW, middle, ys[lower] - 3))
    for down, up in ((1, 10), (3, 8)):
        x = LEFT - (44 if down == 1 else 22)
        parts.append(
            f'<path d="M{LEFT} {ys[down] + 15} H{x} V{ys[up] + 15} H{LEFT - 3}" stroke="{MASK}" fill="none" '
            'stroke-dasharray="5 4" marker-end="url(#tip)"/>'
        )
    parts.append(
        text(
            LEFT - 52,
            ys[6] - 8,
            "gated residuals",
            size=11,
            fill=MASK,
            extra=f'transform="rotate(-90 {LEFT - 52} {ys[6] - 8})"',
        )
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif">\n<title>The DNACHUNKER network</title>\n'
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{MUTED}"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw())
