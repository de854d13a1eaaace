"""Run as a script: counts what DeepSpeed hands to collectives in one optimizer step of two ranks, three passes each.

    python measured_traffic.py STAGE...

Prints a JSON list with one object for each ZeRO stage: by collective, the bytes of its whole tensors, divided by the
bytes of all parameters.
"""

import json
import sys
from collections import Counter
from typing import Any

import torch.distributed as dist
from measured_memory import SMALL, in_ranks, train

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.cost import parameters
from dnachunker.pretrain.engine.deepspeed_engine import start_process_group
from dnachunker.pretrain.engine.ranks import Rank

RANKS, PASSES = 2, 3
WHOLE = {"all_reduce": "tensor", "all_gather_into_tensor": "output_tensor"}  # the argument that is the whole tensor
COUNTS: Counter[str] = Counter()


def count(name: str) -> None:
    """Make a collective of torch add the bytes of its whole tensor to `COUNTS`."""
    own = getattr(dist, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        COUNTS[name] += (arguments[0] if arguments else named[WHOLE[name]]).nbytes
        return own(*arguments, **named)

    setattr(dist, name, counted)


def measure(stages: list[int]) -> list[dict[str, float]]:
    for name in WHOLE:
        count(name)  # before DeepSpeed looks the functions up
    start_process_group(Rank.from_environment())
    size = 4 * sum(parameters(DNAChunkerConfig(**SMALL)).values())
    found = []
    for stage in stages:
        taken = []
        for steps in (1, 2):  # a start sends weights, too: the difference is one step
            COUNTS.clear()
            data = {"corpus": "c", "global_batch": RANKS * PASSES, "seq_len": 64}
            values = {"model": SMALL, "data": data, "engine": {"zero_stage": stage, "micro_batch": 1}}
            train(values, Rank.from_environment(), steps)
            taken.append(dict(COUNTS))
        found.append({name: (taken[1].get(name, 0) - taken[0].get(name, 0)) / size for name in WHOLE})
    return found


if __name__ == "__main__":
    print(json.dumps(in_ranks(RANKS, lambda: measure([int(stage) for stage in sys.argv[1:]]))[0]))
