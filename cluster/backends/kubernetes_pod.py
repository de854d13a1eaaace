"""The program in each pod of a Kubernetes job: runs the ranks of this pod, whose completion index is the node rank."""

import argparse
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dnachunker.cluster.topology import Placement

from .local import run_node

_NAME_SECONDS = 600.0  # the first pod's name resolves once the pod is scheduled, and its image may be pulled first
_POLL_SECONDS = 5.0  # between two looks for the awaited file
_TELL_SECONDS = 180.0  # between two messages that the file is still missing
# With backoffLimit 0, the first pod that fails decides whether the whole set is started again. So a pod that ends with
# 2 or 4 (no restart) must end first, and the pods that crashed because they lost its ranks wait for this long.
_LET_FINAL_CODES_END_FIRST_SECONDS = 20.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ranks; returns their exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, required=True, help="number of pods")
    parser.add_argument("--ranks", type=int, required=True, help="number of ranks in each pod")
    parser.add_argument("--address", required=True, help="host name of the first pod")
    parser.add_argument("--port", type=int, required=True, help="TCP port of the rendezvous on the first pod")
    parser.add_argument("--wait-for", type=Path, metavar="FILE", help="start the ranks only when this file exists")
    parser.add_argument("worker", nargs="+", help="module name and arguments, as after `python -m`")
    parsed = parser.parse_args(arguments)
    index = int(os.environ["JOB_COMPLETION_INDEX"])
    if parsed.wait_for:
        wait_for(parsed.wait_for)
    deadline = time.monotonic() + _NAME_SECONDS
    while not _resolves(parsed.address):
        if time.monotonic() > deadline:
            print(f"dnachunker: {parsed.address}: name not found within {_NAME_SECONDS:g} s", file=sys.stderr)
            return 1
        time.sleep(1)
    code = run_node(parsed.worker, Placement(parsed.nodes, index, parsed.ranks, parsed.address, parsed.port))
    if code not in (0, 2, 4):
        time.sleep(_LET_FINAL_CODES_END_FIRST_SECONDS)
    return code


def wait_for(path: Path, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until a file exists, and print a message at the start and every few minutes."""
    silent = _TELL_SECONDS
    while not path.exists():
        if silent >= _TELL_SECONDS:
            print(f"dnachunker: waiting for {path}, which another job writes", file=sys.stderr, flush=True)
            silent = 0.0
        sleep(_POLL_SECONDS)
        silent += _POLL_SECONDS


def _resolves(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
