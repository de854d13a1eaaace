"""Seconds of NCCL's collectives, by the cost model with which NCCL itself chooses between ring and tree.

The model is `ncclTopoTuneModel` and `ncclTopoGetAlgoTime` of NCCL's src/graph/tuning.cc, protocol Simple, GPUs from
compute capability 8.0 on. NCCL may choose faster ways where switches add numbers (NVLS, SHARP); these are left out.
"""

import math

from .hardware import Hardware

_BASE = 8.4e-6  # seconds: start of a collective
_RING_WITHIN, _RING_BETWEEN = 3.4e-6, 14e-6  # seconds of a ring's step within a machine, and over the network
_TREE_STEP = 28e-6  # seconds of a tree's step
_RING_PLATEAU = 1.4  # factor of a ring's latency in an all-reduce over the network
_TREE_SHARE = 0.92  # of the bus bandwidth


def bus_bandwidth(hardware: Hardware, ranks: int, per_node: int) -> float:
    """Bytes a second at which data passes through each rank of a ring, as nccl-tests report it.

    Between machines NCCL lays one ring (or tree) through each network port. Each ring carries its share of the data,
    and leaves a machine once. So all ports of a machine share the bytes that one ring of ranks sends.
    """
    if ranks <= per_node:
        return hardware.within_node
    return min(hardware.within_node, hardware.between_nodes * min(ranks, per_node))


def all_gather_seconds(size: float, hardware: Hardware, ranks: int, per_node: int, link_share: float = 1.0) -> float:
    """Seconds until every rank has all of `size` bytes, of which each rank had an equal part; or of a reduce-scatter.

    Args:
        link_share: share of the bus bandwidth that is reached.
    """
    if ranks == 1:
        return 0.0
    between = math.ceil(ranks / per_node) - 1
    latency = _BASE + (ranks - 1 - between) * _RING_WITHIN + between * _RING_BETWEEN
    return latency + size * (ranks - 1) / ranks / (link_share * bus_bandwidth(hardware, ranks, per_node))


def all_reduce_seconds(size: float, hardware: Hardware, ranks: int, per_node: int, link_share: float = 1.0) -> float:
    """Seconds until every rank has the sum of all ranks' `size` bytes; arguments as in `all_gather_seconds`."""
    if ranks == 1:
        return 0.0
    nodes = math.ceil(ranks / per_node)
    bandwidth = link_share * bus_bandwidth(hardware, ranks, per_node)
    between = 2 * nodes if nodes > 1 else 0
    steps = max(0, 2 * (ranks - 1) - between) * _RING_WITHIN + between * _RING_BETWEEN
    ring = (_BASE + steps) * (_RING_PLATEAU if nodes > 1 else 1) + 2 * (ranks - 1) / ranks * size / bandwidth
    tree_steps = 2 * (math.ceil(ranks / nodes) - 1 + int(math.log2(nodes)))
    tree = tree_steps * _TREE_STEP + 2 * size / (_TREE_SHARE * bandwidth)
    return min(ring, tree)
