"""A checkpoint of one number of ranks, made loadable by another.

ZeRO saves each rank's slice of the optimizer; DeepSpeed's universal format has one file for each parameter and kind
of state instead, which any number of ranks can cut anew.
"""

import io
import shutil
from argparse import Namespace
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from deepspeed.checkpoint import ds_to_universal

from .engine import ENGINE_STATE


def write_universal(checkpoint: Path, folder: Path) -> None:
    """Write the universal form of a verified checkpoint's engine state under `folder`/engine."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    arguments = Namespace(
        input_folder=str(checkpoint / ENGINE_STATE),
        output_folder=str(folder / ENGINE_STATE),
        num_extract_workers=1,  # more would fork a process that already runs communication threads
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # its tensor-parallel metadata: none here
    )
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it tells of every parameter
        ds_to_universal.main(arguments)
