"""The drawings of a corpus card as inline SVG text; the same numbers give the same bytes on every machine.

Most words stand in the HTML around a drawing, so that the drawing can be stretched to any screen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

UNUSED_COLOUR = "#e3e7ec"
_SPLIT_COLOURS = {"train": "#2f6fdb", "valid": "#e08a1e", "test": "#0f9d76"}
_OTHER_COLOURS = ("#8e5bd0", "#c2416b", "#6b7280", "#0e7490")
_BINS = 400  # bins of a contig's bar
_HISTOGRAM_BINS = 50


def split_colours(splits: Sequence[str]) -> dict[str, str]:
    """A colour for each split; train, valid and test have the same colours in every corpus."""
    others = [split for split in splits if split not in _SPLIT_COLOURS]
    colours = {split: _OTHER_COLOURS[number % len(_OTHER_COLOURS)] for number, split in enumerate(others)}
    return {split: _SPLIT_COLOURS.get(split) or colours[split] for split in splits}


def stacked_bar(parts: Mapping[str, int], whole: int, colours: Mapping[str, str], label: str) -> str:
    """A bar of `parts` in order; a part's length is its share of `whole`, at least 1 of 1000, so that it is visible."""
    rectangles, position = [], 0.0
    for name, value in parts.items():
        if value:
            width = max(1000 * value / whole, 1.0)
            rectangles.append(_rectangle(position, width, colours[name], f"{name}: {value:,}"))
            position += width
    return _stretched(rectangles, 14, label)


@dataclass(frozen=True)
class Pieces:
    """The blocks of one contig: (k,) start, end and split of each, in order and disjoint."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    split: NDArray[np.str_]


def contig_bar(pieces: Pieces, length: int, longest: int, colours: Mapping[str, str], label: str) -> str:
    """The bar of one contig; each bin has the colour of the split with most bases in it.

    The bar's length is the contig's length relative to `longest`, the longest contig drawn.
    """
    edges = np.linspace(0, length, _BINS + 1)
    covered = {split: _covered(pieces, split, edges) for split in colours}
    unused = np.diff(edges) - sum(covered.values())
    layers = [unused, *covered.values()]
    names = ["", *covered]
    winner = np.argmax(np.stack(layers), axis=0)
    scale = 1000 * length / longest / _BINS
    firsts = np.concatenate([[0], np.flatnonzero(np.diff(winner)) + 1, [_BINS]])
    rectangles = []
    for first, last in zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True):
        split = names[int(winner[first])]
        place = f"{split or 'unused'} {length * first // _BINS:,}-{length * last // _BINS:,}"
        width = max((last - first) * scale, 1.0)
        rectangles.append(_rectangle(first * scale, width, colours.get(split, UNUSED_COLOUR), place))
    return _stretched(rectangles, 12, label)


def histogram(shares: NDArray[np.float64], weights: NDArray[np.int64], colour: str, label: str) -> str:
    """A histogram of blocks by `shares` (0 to 1), weighted by bases, with an axis in percent and the mean marked."""
    counts, _ = np.histogram(shares, bins=_HISTOGRAM_BINS, range=(0, 1), weights=weights)
    width, height, left, top = 300, 60, 10, 14
    step = width / _HISTOGRAM_BINS
    tallest = counts.max() or 1
    bars = [
        f'<rect x="{left + i * step:.1f}" y="{top + height - height * count / tallest:.1f}" '
        f'width="{step - 0.6:.1f}" height="{height * count / tallest:.1f}" fill="{colour}"/>'
        for i, count in enumerate(counts.tolist())
        if count
    ]
    mean = float(np.average(shares, weights=weights)) if weights.sum() else 0.0
    x = left + width * mean
    side = "end" if mean > 0.8 else "start"
    marks = [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{top + height}" stroke="#1f2328" stroke-dasharray="2 2"/>',
        f'<text x="{x + (-4 if side == "end" else 4):.1f}" y="11" text-anchor="{side}">mean {mean:.1%}</text>',
        f'<line x1="{left}" x2="{left + width}" y1="{top + height + 0.5}" y2="{top + height + 0.5}" stroke="#c5ccd3"/>',
    ]
    for percent, anchor in ((0, "start"), (25, "middle"), (50, "middle"), (75, "middle"), (100, "end")):
        x = left + width * percent / 100
        marks.append(f'<text x="{x:.0f}" y="{top + height + 14}" text-anchor="{anchor}">{percent} %</text>')
    return (
        f'<svg class="histogram" role="img" aria-label="{escape(label)}" viewBox="0 0 {width + 2 * left} '
        f'{top + height + 18}">{"".join(bars + marks)}</svg>'
    )


def _covered(pieces: Pieces, split: str, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """(bins,) number of bases of `split` in each bin."""
    own = pieces.split == split
    if not own.any():
        return np.zeros(edges.size - 1)
    start, end = pieces.start[own], pieces.end[own]
    points = np.stack([start, end], axis=1).ravel()
    total = np.concatenate([[0], np.cumsum(np.stack([end - start, np.zeros_like(end)], axis=1).ravel())[:-1]])
    return np.diff(np.interp(edges, points, total))


def _rectangle(x: float, width: float, colour: str, title: str) -> str:
    return f'<rect x="{x:.2f}" width="{width:.2f}" height="100%" fill="{colour}"><title>{escape(title)}</title></rect>'


def _stretched(rectangles: Sequence[str], height: int, label: str) -> str:
    return (
        f'<svg class="bar" role="img" aria-label="{escape(label)}" viewBox="0 0 1000 {height}" height="{height}" '
        f'preserveAspectRatio="none">{"".join(rectangles)}</svg>'
    )
