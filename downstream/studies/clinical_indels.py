"""Insertions and deletions with the lengths and contexts of those that cause inherited disease, in any sequence.

Lengths, from the Human Gene Mutation Database (HGMD): of its 8,399 microdeletions and 3,345 microinsertions, which have
at most 20 bases, 48 % and 66 % have one base (Ball et al. 2005, Human Mutation 26, 205). Longer ones are rarer by a
power law (Zhang et al. 2010, Appl Biochem Biotechnol 162, 321), with the exponent that gives these shares.

Contexts: most come from slippage at repeats. Of 42,098 deletions of HGMD 2019.4, 59.4 % of those of one base, 71.3 % of
those of two and 40 % of longer ones lie beside a copy of their first base, two or three bases (MHcut on HGMD,
authorea.com, article 538833). Slippage explains three quarters of the indels of 179 genomes (Montgomery et al. 2013,
Genome Research 23, 749), so three quarters of insertions here repeat the bases before them; the others are random.
"""

from typing import NamedTuple

import numpy as np

LONGEST = 20
_EXPONENTS = {"deletion": 1.553, "insertion": 2.120}
_BESIDE_A_COPY = {1: 0.594, 2: 0.713, 3: 0.40}  # of deletions, by length; 3 stands for all longer ones
_DUPLICATIONS = 0.75  # of insertions


class Change(NamedTuple):
    """`removed` bases from `start` on give way to the letters `added`."""

    start: int
    removed: int
    added: str

    def apply(self, letters: str) -> str:
        """The sequence after the change."""
        return letters[: self.start] + self.added + letters[self.start + self.removed :]


def clinical_deletion(letters: str, rng: np.random.Generator) -> Change:
    """A deletion near the middle of A, C, G and T in either case."""
    length = _draw_length("deletion", rng)
    same = min(length, 3)
    text, middle = letters.upper(), len(letters) // 2
    wanted = rng.random() < _BESIDE_A_COPY[same]
    places = sorted(range(1, len(text) - length - same), key=lambda at: abs(at - middle))
    beside = (at for at in places if (text[at : at + same] == text[at + length : at + length + same]) == wanted)
    return Change(next(beside, max(0, min(middle, len(text) - length))), length, "")


def clinical_insertion(letters: str, rng: np.random.Generator) -> Change:
    """An insertion in the middle."""
    length = _draw_length("insertion", rng)
    middle = len(letters) // 2
    copy = letters[max(0, middle - length) : middle]
    other = "".join(rng.choice(list("ACGT"), length))
    return Change(middle, 0, copy if rng.random() < _DUPLICATIONS else other)


def _draw_length(kind: str, rng: np.random.Generator) -> int:
    shares = np.arange(1, LONGEST + 1) ** -_EXPONENTS[kind]
    return 1 + int(rng.choice(LONGEST, p=shares / shares.sum()))
