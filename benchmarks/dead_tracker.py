"""What tracking costs while the MLflow server is dead: CPU time of the process, and of a step in the training thread.

python benchmarks/dead_tracker.py [--seconds 40] [--rate 2]

Writes events as training does, so many a second, without a mirror and with one whose server refuses every connection.
Importing MLflow, some seconds once a run in the background, is not counted.
"""

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dnachunker.foundations.typed_config import validate_config
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.records.event_log import EventLog
from dnachunker.pretrain.records.mlflow_mirror import MlflowMirror
from dnachunker.pretrain.run_folder import store_config

_DEAD = "http://127.0.0.1:9"  # nothing listens on the discard port


def measure(uri: str | None, seconds: float, rate: float) -> tuple[float, float]:
    """Share of one core that the process uses, and microseconds of the training thread for each event."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        values = {"run": str(run), "steps": 9, "data": {"corpus": "none"}, "tracking": {"uri": uri}}
        config = validate_config(PretrainConfig, values, origin="benchmark")
        store_config(config)
        log = EventLog(run)
        mirror = MlflowMirror(run, config, lambda _line: None, fresh=True) if uri else None
        time.sleep(3)  # until it has failed for the first time
        began, cpu, spent = time.monotonic(), time.process_time(), 0.0
        for step in range(round(seconds * rate)):
            start = time.perf_counter()
            log.write("step", steps_done=step + 1, loss=1.0, system={"node0": {"cpu_percent": 50.0}})
            if mirror:
                mirror.wake()
            spent += time.perf_counter() - start
            time.sleep(1 / rate)
        share = (time.process_time() - cpu) / (time.monotonic() - began)
        if mirror:
            mirror.close()
        log.close()
    return share, spent / (seconds * rate) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--rate", type=float, default=2.0, help="events a second")
    options = parser.parse_args()
    importlib.import_module("mlflow.tracking")
    print("| | share of a core | µs of the training thread an event |\n| --- | --- | --- |")
    for label, uri in (("event log alone", None), ("and a dead server", _DEAD)):
        share, micros = measure(uri, options.seconds, options.rate)
        print(f"| {label} | {share:.3%} | {micros:.0f} |", flush=True)


if __name__ == "__main__":
    main()
