"""Which bases are repeats: the soft-mask of the FASTA file's lower case, or nothing."""

import numpy as np
from numpy.typing import NDArray

from dataprep.packed_codes import PACKED_REPEAT_BIT


def apply_repeats(packed: NDArray[np.uint8], policy: str) -> NDArray[np.uint8]:
    """Packed codes with the repeat bit as the source's `repeats` policy says; (n,) uint8 in and out."""
    if policy == "none":
        return packed & np.uint8(PACKED_REPEAT_BIT - 1)
    return packed
