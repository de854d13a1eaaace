"""Refuses a run that cannot work, before a process is started or a GPU is billed.

Torch-free, unless `engine.deepspeed` has keys or `init.model` names a model to check.
"""

import logging
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.checkpoints.state import RunState, complete_checkpoints, read_state, require_same_run
from dnachunker.pretrain.config import EngineSettings, PretrainConfig
from dnachunker.pretrain.order.mixing import mixture_of
from dnachunker.pretrain.run_folder import CONFIG

_SHARED_MEMORY = Path("/dev/shm")
_SHARED_MEMORY_BYTES = 32 << 20  # below a container's default of 64 MB, which is enough


def check_run(config: PretrainConfig, world_size: int) -> None:
    """Refuse a run that cannot work.

    Raises:
        BadInput: no corpus, a missing split, weights that fit no source, sizes that do not divide, a folder that is no
            run folder, an `init.model` that does not fit, probes of missing files, TensorBoard files
            without TensorBoard, or raw keys that DeepSpeed does not take.
    """
    corpus = Corpus.open(config.data.corpus)
    for key, split in (("data.train_split", config.data.train_split), ("evaluation.split", config.evaluation.split)):
        if split not in corpus.splits:
            raise BadInput(f"{config.data.corpus}: no split {split!r} ({key}); it has {', '.join(corpus.splits)}")
    mixture_of(corpus.blocks(config.data.train_split), corpus.sources, config.data.mixing, config.data.corpus)
    try:
        config.accumulation(world_size)
    except ValueError as error:
        raise BadInput(str(error)) from error
    run = Path(config.run)
    if run.exists() and not run.is_dir():
        raise BadInput(f"{run}: the run folder is a file; choose another path with --run")
    # hidden names are ours: the lock, and the watchdog's files of ranks that have started already
    if run.is_dir() and any(path.name[0] != "." for path in run.iterdir()) and not (run / CONFIG).exists():
        raise BadInput(f"{run}: has files but no {CONFIG}, so it is no run folder; choose another path with --run")
    if checkpoints := complete_checkpoints(run):
        # before the stored config is replaced: a refused resume must leave the run as it was
        require_same_run(_newest_state(checkpoints), config, corpus.fingerprint)
    elif config.init.model is not None:
        _require_parent_fits(config)
    if world_size > 1 and _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free < _SHARED_MEMORY_BYTES:
        raise BadInput(
            f"{_SHARED_MEMORY}: ranks of one machine exchange data there and less than "
            f"{_SHARED_MEMORY_BYTES >> 20} MB are free; in a container, raise --shm-size"
        )
    nearest = next(parent for parent in (run.absolute(), *run.absolute().parents) if parent.exists())
    if not os.access(nearest, os.W_OK):
        raise BadInput(f"{run}: cannot write to {nearest}; choose another path with --run")
    for probe in config.evaluation.probes:
        for key in ("task", "vcf", "annotation", "fasta"):
            path = getattr(probe, key)
            if path is not None and not path.startswith("sample:") and not Path(path).exists():
                raise BadInput(f"evaluation.probes: {key} {path} does not exist")
    if config.tracking.tensorboard and not find_spec("tensorboard"):
        raise BadInput(
            "tracking.tensorboard=true: TensorBoard is not installed; "
            "install it (pip install 'dnachunker[tensorboard]'), or leave the key out"
        )
    if config.engine.deepspeed:
        _require_deepspeed_takes(config.engine)


def _require_parent_fits(config: PretrainConfig) -> None:
    # the shapes of a model come from torch, which takes seconds: a run without a parent does not wait for it
    from dnachunker.pretrain.checkpoints.parents import require_parent_fits

    require_parent_fits(config)


def _require_deepspeed_takes(engine: EngineSettings) -> None:
    logging.disable(logging.WARNING)  # DeepSpeed warns as it is imported; a refusal is one line
    try:
        # DeepSpeed's models import torch, which takes seconds: a run without raw keys does not wait for them
        from dnachunker.pretrain.engine.deepspeed_config import require_deepspeed_takes

        require_deepspeed_takes(engine)
    finally:
        logging.disable(logging.NOTSET)


def _newest_state(checkpoints: list[Path]) -> RunState:
    for checkpoint in reversed(checkpoints[1:]):
        try:
            return read_state(checkpoint)
        except BadInput:
            continue  # damaged: the resume uses an older checkpoint, and says so
    return read_state(checkpoints[0])
