"""What the Triton kernels have in PTX computes what it should; Triton's interpreter does not run it."""

import re

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from dnachunker.model.kernels_triton import EIGHT_POWERS, OF_A_PAIR


def run_ptx(statements: str, known: dict[str, np.ndarray]) -> None:
    """Compute each statement, since the interpreter runs no PTX. `known` has the float32 value of each name."""

    def value(name: str) -> np.ndarray:
        return np.array(int(name[2:], 16), np.uint32).view(np.float32) if name.startswith("0f") else known[name]

    for statement in statements.strip("} ").split(";")[:-1]:
        operation, target, *sources = statement.replace(",", " ").split()
        given = [value(name).astype(np.float64) for name in sources if operation.endswith("f32")]
        match operation.split("."), sources:
            case ["max", *_], _:
                found = np.maximum(*given)
            case ["add", "rn", *_], _:
                found = given[0] + given[1]
            case ["sub", *_], _:
                found = given[0] - given[1]
            case ["fma", *_], _:
                found = given[0] * given[1] + given[2]
            case ["mov", *_], [name]:
                found = known[name]
            case ["shl", *_], [name, count]:
                found = (known[name].view(np.int32) << int(count)).view(np.float32)
            case ["and", *_], [name, mask]:
                found = (known[name].view(np.uint32) & np.uint32(int(mask, 16))).view(np.float32)
            case ["add", "s32"], [a, b]:
                found = (known[a].view(np.int32) + known[b].view(np.int32)).view(np.float32)
        known[target] = found.astype(np.float32)


def test_the_power_of_two_that_a_polynomial_gives_errs_as_little_as_the_gpu_does() -> None:
    """Of eight powers, the last; the GPU's own instruction gives the others."""
    tiny = [126.25, 126.5, 126.75, 127, 1e30]
    x = -np.concatenate([np.linspace(0, 126, 100_001), np.geomspace(1e-9, 1, 10_001), tiny]).astype(np.float32)
    own, _, steps = EIGHT_POWERS.value.partition("max")
    assert re.findall(r"ex2\.approx\.ftz\.f32 \$(\d+), \$(\d+);", own) == [(str(k), str(k + 8)) for k in range(7)]
    known = {"$15": x}
    run_ptx(f"max{steps}", known)
    exact = np.exp2(x.astype(np.float64))
    assert np.abs(known["$7"][: -len(tiny)] / exact[: -len(tiny)] - 1).max() < 1.7e-7
    assert known["$7"][0] == 1
    assert np.abs(known["$7"] - exact)[-len(tiny) :].max() < 2.0**-126


def test_pairs_of_numbers_in_bf16_are_taken_apart() -> None:
    pairs = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(-1, 2)  # every number, the first in the low half
    known = {"$2": pairs.view(torch.int32).flatten().numpy().view(np.float32)}
    run_ptx(OF_A_PAIR.value, known)
    np.testing.assert_array_equal(np.stack((known["$0"], known["$1"]), 1), pairs.view(torch.bfloat16).float().numpy())
