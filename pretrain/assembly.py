"""Builds every part of a run from its config, fresh or from the newest checkpoint."""

from pathlib import Path

import torch
import transformers

from dataprep.corpus_index import Corpus
from failures import BadInput
from model.configuration_dnachunker import DNAChunkerConfig
from model.kernels import describe_backends
from model.modeling_dnachunker import DNAChunkerForMaskedLM

from .batches import TrainingData
from .checkpoint import choose_checkpoint, save_checkpoint
from .config import PretrainConfig
from .curriculum import Curriculum
from .distributed import Rank
from .engine import TrainingEngine
from .evaluation import HeldOut
from .frame_cache import FrameCache
from .guards import StopSignals
from .journal import Journal, evaluation_line
from .markov import MarkovTables
from .masking import MaskingRates
from .mixing import mixture_of
from .optimizer import build_adamw
from .run_lock import RunLock
from .run_state import RunState, complete_checkpoints, identity_of, read_state, require_same_run
from .sample_order import held_out_windows
from .telemetry import read_events
from .window_reader import BadBlockPolicy, WindowReader

_PROBE_WINDOWS = 2


class Run:
    """A run ready to train: its parts, and how to save them."""

    def __init__(self, config: PretrainConfig, rank: Rank, signals: StopSignals) -> None:
        self.config = config
        self.rank = rank
        self.signals = signals
        self.folder = Path(config.run)
        self._lock = RunLock(self.folder) if rank.is_main else None
        self._corpus = Corpus.open(config.data.corpus)
        self._accumulation = config.accumulation(rank.world_size)
        micro_batch = config.data.global_batch // rank.world_size // self._accumulation

        model = build_model(config)
        optimizer = build_adamw(model, model.no_weight_decay_parameter_names(), config.optimizer)
        self.engine = TrainingEngine(model, optimizer, config, rank)
        self.first_step, resumed = self._resume()

        self._curriculum = self._build_curriculum()
        rates = MaskingRates(**config.masking.model_dump())
        reader = self._build_reader()
        self.held_out = self._build_held_out(reader, rates, micro_batch)
        self.data = TrainingData(
            self._curriculum, reader, rates, rank, accumulation=self._accumulation,
            first_step=self.first_step, end_step=config.steps, workers=config.loader.workers,
        )  # fmt: skip
        self.journal = Journal(self.folder, config, rank, steps_done=self.first_step)
        self.journal.say(
            describe_backends(
                config.engine.scan_backend,
                config.engine.attention_backend,
                rank.device.type,
                torch.bfloat16 if config.engine.precision == "bf16" else torch.float32,
            )
        )
        self.journal.write(
            "resume" if resumed else "start", steps_done=self.first_step, world_size=rank.world_size,
            zero_stage=config.engine.zero_stage, device=str(rank.device), versions=self._versions(),
            say=f"resumed from {resumed}" if resumed else None,
        )  # fmt: skip

    def save(self, steps_done: int) -> Path:
        """Write a checkpoint; collective."""
        config = self.config
        state = RunState(
            steps_done=steps_done,
            samples_seen=self._curriculum.samples_before(steps_done),
            world_size=self.rank.world_size,
            zero_stage=config.engine.zero_stage,
            precision=config.engine.precision,
            device=self.rank.device.type,
            corpus_fingerprint=self._corpus.fingerprint,
            identity=identity_of(config),
            versions=self._versions(),
        )
        return save_checkpoint(self.folder, self.engine, state, self._probe(), self.rank, keep=config.checkpoint.keep)

    def evaluate(self, steps_done: int) -> None:
        """Score the held-out windows, and note where the model cuts one of them; collective."""
        result = self.held_out.evaluate(self.engine)
        line = f"step {steps_done}: {evaluation_line(result)}"
        self.journal.write("evaluation", steps_done=steps_done, **result, say=line)
        self.journal.write("segmentation", steps_done=steps_done, **self.held_out.segment(self.engine))

    def owes_evaluation(self) -> bool:
        """Whether the run was interrupted at a step whose evaluation was due (the same answer on every rank)."""
        owed = 0 < self.first_step < self.config.steps and self.first_step % self.config.evaluation.every == 0
        told = any(e["event"] == "evaluation" and e["steps_done"] == self.first_step for e in read_events(self.folder))
        return self.rank.any(self.rank.is_main and owed and not told)

    def close(self) -> None:
        """Stop background work and flush the journal."""
        self.data.close()
        self.journal.close()
        if self._lock is not None:
            self._lock.release()

    def _resume(self) -> tuple[int, str | None]:
        if not complete_checkpoints(self.folder):
            return 0, None
        checkpoint = choose_checkpoint(self.folder)
        state = read_state(checkpoint)
        require_same_run(state, self.config, self._corpus.fingerprint, self.rank.world_size)
        self.engine.load(checkpoint)
        if self.engine.updates != state.steps_done:
            raise BadInput(
                f"{checkpoint}: the engine counts {self.engine.updates} updates where the checkpoint says "
                f"{state.steps_done}; remove this checkpoint folder to use the one before it"
            )
        return state.steps_done, checkpoint.name

    def _build_curriculum(self) -> Curriculum:
        data = self.config.data
        blocks = self._corpus.blocks(data.train_split)
        mixture = mixture_of(blocks, self._corpus.sources, data.mixing, data.corpus)
        return Curriculum.of(data, blocks.bases, mixture, seed=self.config.seed)

    def _build_reader(self) -> WindowReader:
        data, loader = self.config.data, self.config.loader
        return WindowReader(
            self._corpus,
            data.train_split,
            # what this rank's streams shuffle together stays decoded, plus the block each moves on to
            cached_blocks=data.streams // self.rank.world_size * (data.shuffle_blocks + 1),
            threads=loader.workers + 1,
            frame_cache=FrameCache(Path(loader.cache), int(loader.cache_gib * 2**30)) if loader.cache else None,
            bad_blocks=BadBlockPolicy(skip=loader.on_bad_block == "skip", most=loader.max_bad_blocks),
        )

    def _build_held_out(self, train_reader: WindowReader, rates: MaskingRates, micro_batch: int) -> HeldOut:
        settings = self.config.evaluation
        reader = WindowReader(self._corpus, settings.split)
        windows = held_out_windows(reader.block_bases, seq_len=self.config.data.seq_len, count=settings.windows)
        species = self._corpus.blocks(settings.split).species
        # spread over the corpus: block order follows contigs, so every n-th block samples all of them
        stride = -(-int(train_reader.block_bases.sum()) // settings.baseline_bases)
        tables = MarkovTables(
            train_reader.block(index) & 7 for index in range(0, len(train_reader.block_bases), stride)
        )
        return HeldOut(
            reader, windows, species[windows.block], rates, tables, self.rank,
            seq_len=self.config.data.seq_len, micro_batch=micro_batch,
        )  # fmt: skip

    def _probe(self) -> dict[str, torch.Tensor]:
        """A few masked held-out windows and the logits the training model gives them, to check an export by."""
        batch = self.held_out.batch(_PROBE_WINDOWS)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        self.engine.train(False)
        with torch.no_grad():
            output = self.engine.forward(**inputs)
        self.engine.train()
        boundaries = {f"boundaries{stage}": cuts for stage, cuts in enumerate(output.boundaries)}
        return {**inputs, **boundaries, "logits": output.logits.float()}

    def _versions(self) -> dict[str, str]:
        return {**self.engine.versions, "transformers": transformers.__version__}


def build_model(config: PretrainConfig) -> DNAChunkerForMaskedLM:
    """The model of a run, initialised from its seed alone: the same weights on every rank."""
    torch.manual_seed(config.seed)
    network = DNAChunkerConfig(
        **config.model.model_dump(),
        scan_backend=config.engine.scan_backend,
        attention_backend=config.engine.attention_backend,
    )
    model = DNAChunkerForMaskedLM(network)
    if config.engine.activation_checkpointing:
        model.gradient_checkpointing_enable()
    if config.engine.precision == "bf16":
        model.bfloat16()
    return model
