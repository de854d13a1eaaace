"""Builds every part of a run from its config, fresh or from the newest checkpoint."""

import json
from functools import partial
from pathlib import Path

import torch
import transformers

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.foundations.failures import GuardTripped
from dnachunker.model.kernels import describe_backends
from dnachunker.pretrain.checkpoints.copies import RemoteCopies
from dnachunker.pretrain.checkpoints.loading import find_checkpoint, load_checkpoint, needs_resharding
from dnachunker.pretrain.checkpoints.saving import require_space, save_checkpoint
from dnachunker.pretrain.checkpoints.state import RunState, identity_of, read_state, require_same_run
from dnachunker.pretrain.data.byte_pairs import learn_merges
from dnachunker.pretrain.data.frame_reader import FrameCache
from dnachunker.pretrain.data.objective import Objective, objective_of
from dnachunker.pretrain.data.pass_order import bases_of_chance, pass_order
from dnachunker.pretrain.data.training_data import TrainingData
from dnachunker.pretrain.data.window_reader import BadBlockPolicy, WindowReader
from dnachunker.pretrain.engine.build_model import build_model
from dnachunker.pretrain.engine.chunk_capacity import ChunkPlaces
from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine
from dnachunker.pretrain.engine.optimizer import build_adamw, learning_rate
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.evaluation.held_out import HeldOut
from dnachunker.pretrain.evaluation.markov import MarkovTables
from dnachunker.pretrain.order.curriculum import Curriculum, SkippedBatches
from dnachunker.pretrain.order.mixing import mixture_of
from dnachunker.pretrain.order.sample_order import Windows, held_out_windows
from dnachunker.pretrain.records.event_log import read_events
from dnachunker.pretrain.records.journal import Journal, evaluation_line
from dnachunker.pretrain.records.provenance import code_version, machines
from dnachunker.pretrain.records.speed import Speed, matrix_rate
from dnachunker.pretrain.safety.guards import LossGuards, RollBack, Verdict
from dnachunker.pretrain.safety.signals import StopSignals
from dnachunker.pretrain.safety.watchdog import Watchdog

from .config import PretrainConfig
from .run_folder import RunLock

_PROBE_WINDOWS = 2


class Run:
    """A run ready to train: its parts, and how to save them."""

    def __init__(self, config: PretrainConfig, rank: Rank, signals: StopSignals, watchdog: Watchdog) -> None:
        self.config = config
        self.rank = rank
        self.signals = signals
        self.watchdog = watchdog
        self.folder = Path(config.run)
        self._lock = RunLock(self.folder) if rank.is_main else None
        self._corpus = Corpus.open(config.data.corpus)
        self._accumulation = config.accumulation(rank.world_size)
        micro_batch = config.data.global_batch // rank.world_size // self._accumulation

        checkpoint, damage = find_checkpoint(self.folder, rank)
        state = read_state(checkpoint) if checkpoint else None
        if state:
            require_same_run(state, config, self._corpus.fingerprint)
        self.first_step = state.steps_done if state else 0
        self.guards = LossGuards(config.guards, state.guards if state else None)
        self.skipped = SkippedBatches(self.folder)

        self._merges = state.merges if state else self._learn_merges()
        objective = objective_of(config)
        labels = objective.label_capacity(bases_of_chance(config, rank.world_size))
        model = build_model(config, self._merges, label_capacity=labels)
        self.places = ChunkPlaces(
            model.config, foresee=config.engine.foresee_chunks, shares=state.chunk_shares if state else ()
        )
        if not checkpoint:
            require_space(self.folder, model.num_parameters())
        optimizer = build_adamw(model, model.no_weight_decay_parameter_names(), config.optimizer)
        self.engine = TrainingEngine(model, optimizer, config, rank, load_universal=needs_resharding(state, rank))
        if checkpoint and state:
            load_checkpoint(self.engine, checkpoint, state, rank)

        self._curriculum = self._build_curriculum()
        reader = self._build_reader()
        self.held_out = self._build_held_out(reader, objective, micro_batch)
        self.data = TrainingData(
            self._curriculum, reader, objective, rank, accumulation=self._accumulation,
            first_step=self.first_step, end_step=config.steps, workers=config.loader.workers,
            order=pass_order(config, rank.world_size),
        )  # fmt: skip
        self.journal = Journal(self.folder, config, rank, steps_done=self.first_step)
        self._copies = (
            RemoteCopies(self.folder, config.checkpoint.copy_to, self.journal.say)
            if config.checkpoint.copy_to and rank.is_main
            else None
        )
        dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
        self._describe(dtype, checkpoint.name if checkpoint else None, damage)
        self.speed = Speed(model.config, rank, matrix_rate(rank.device, dtype))

    def _describe(self, dtype: torch.dtype, resumed: str | None, damage: list[str]) -> None:
        config, rank = self.config, self.rank
        self.journal.say(
            describe_backends(config.engine.scan_backend, config.engine.attention_backend, rank.device.type, dtype)
        )
        for line in damage:
            self.journal.say(f"not used: {line}")
        self.journal.write(
            "resume" if resumed else "start", steps_done=self.first_step, world_size=rank.world_size,
            zero_stage=config.engine.zero_stage, device=str(rank.device), versions=self._versions(),
            corpus=self._corpus.fingerprint, code=code_version(), machines=machines(rank), damaged=damage,
            say=f"resumed from {resumed}" if resumed else None,
        )  # fmt: skip

    def save(self, steps_done: int) -> None:
        """Write a checkpoint; collective."""
        config = self.config
        self.watchdog.enter("save", steps_done)
        state = RunState(
            steps_done=steps_done,
            samples_seen=self._curriculum.samples_before(steps_done),
            updates=self.engine.updates,
            skipped_batches=self.skipped.numbers,
            guards=self.guards.state(),
            chunk_shares=self.places.state(),
            world_size=self.rank.world_size,
            zero_stage=config.engine.zero_stage,
            precision=config.engine.precision,
            device=self.rank.device.type,
            corpus_fingerprint=self._corpus.fingerprint,
            identity=identity_of(config),
            merges=self._merges,
            versions=self._versions(),
        )
        folder = save_checkpoint(self.folder, self.engine, state, self._probe(), self.rank, config.checkpoint)
        self.journal.write("checkpoint", steps_done=steps_done, folder=folder.name)
        if self._copies:
            self._copies.add(folder)

    def evaluate(self, steps_done: int) -> None:
        """Score the held-out windows, and note where the model cuts one of them; collective."""
        on_batch = partial(self.watchdog.enter, "evaluate", steps_done)
        result = self.held_out.evaluate(self.engine, on_batch)
        line = f"step {steps_done}: {evaluation_line(result)}"
        self.journal.write("evaluation", steps_done=steps_done, **result, say=line)
        self.journal.write("segmentation", steps_done=steps_done, **self.held_out.segment(self.engine))
        number = -(-steps_done // self.config.evaluation.every)
        if number % self.config.evaluation.diagnostics_every == 0 or steps_done == self.config.steps:
            found = self.held_out.diagnose(self.engine, on_batch)
            self.journal.write("diagnostics", steps_done=steps_done, **found)
            for name, message in zip(found["warnings"], found["messages"], strict=True):
                self.journal.say(f"warning: {name}: {message}")

    def owes_evaluation(self) -> bool:
        """Whether the run was interrupted at a step whose evaluation was due (the same answer on every rank)."""
        owed = 0 < self.first_step < self.config.steps and self.first_step % self.config.evaluation.every == 0
        told = any(e["event"] == "evaluation" and e["steps_done"] == self.first_step for e in read_events(self.folder))
        return self.rank.any(self.rank.is_main and owed and not told)

    def learning_rate(self, step: int) -> float:
        """The schedule's rate at optimizer step `step`, lowered for a while after a resume where that is asked for."""
        config = self.config
        rate = learning_rate(step, config.steps, config.optimizer.lr, config.schedule)
        if self.first_step and step - self.first_step < config.checkpoint.rewarm:
            rate *= (step - self.first_step + 1) / (config.checkpoint.rewarm + 1)
        return rate

    def act_on(self, verdict: Verdict, step: int, windows: Windows) -> None:
        """Record what a guard found at `step`, with the windows of all ranks; collective.

        Raises:
            RollBack: the batch is left out from now on; start again from the last checkpoint.
            GuardTripped: the verdict says so, or that has happened `guards.spike_limit` times.
        """
        settings = self.config.guards
        where = [name for mine in self.rank.gather(self.data.locate(windows)) for name in mine]
        batch = self.skipped.batch_of(step)
        record = {"kind": verdict.kind, "detail": verdict.detail, "step": step, "batch": batch, "windows": where}
        if self.rank.is_main and (verdict.kind == "nonfinite" or settings.spike != "log"):
            dumps = self.folder / "dumps"
            dumps.mkdir(exist_ok=True)
            (dumps / f"step-{step:08d}-{verdict.kind}.json").write_text(json.dumps(record, indent=1) + "\n")
        say = f"guard: step {step}: {verdict.detail}"
        self.journal.write("guard", steps_done=step + 1, say=say, **{**record, "windows": where[:8]})
        if verdict.stop:
            raise GuardTripped(verdict.stop)
        if verdict.kind == "spike" and settings.spike == "roll_back":
            if len(self.skipped.numbers) >= settings.spike_limit:
                raise GuardTripped(
                    f"step {step}: {verdict.detail}; {settings.spike_limit} batches have been left out already "
                    f"(guards.spike_limit). Lower optimizer.lr, or look at the windows in {self.folder / 'dumps'}"
                )
            self.rank.barrier()
            if self.rank.is_main:
                self.skipped.add(batch)
            raise RollBack(f"step {step}: {verdict.detail}; going back, without batch {batch}")

    def close(self) -> None:
        """Stop background work and flush the journal."""
        self.watchdog.enter("close", self.config.steps)
        self.data.close()
        if self._copies:
            self._copies.close()
        self.journal.close()
        self.engine.close()
        if self._lock is not None:
            self._lock.release()

    def _learn_merges(self) -> str:
        data, settings = self.config.data, self.config.segmentation
        if settings.vocabulary is None or settings.sample_bases is None:
            return ""  # not byte pairs
        merges = ""
        if self.rank.is_main:
            merges = learn_merges(
                WindowReader(self._corpus, data.train_split), both_strands=data.reverse_complement,
                vocabulary=settings.vocabulary, sample_bases=settings.sample_bases,
            )  # fmt: skip
        shared: str = self.rank.from_main(merges)
        return shared

    def _build_curriculum(self) -> Curriculum:
        data = self.config.data
        blocks = self._corpus.blocks(data.train_split)
        mixture = mixture_of(blocks, self._corpus.sources, data.mixing, data.corpus)
        return Curriculum.of(data, blocks.bases, mixture, seed=self.config.seed, batch_of=self.skipped.batch_of)

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

    def _build_held_out(self, train_reader: WindowReader, objective: Objective, micro_batch: int) -> HeldOut:
        settings = self.config.evaluation
        reader = WindowReader(self._corpus, settings.split)
        windows = held_out_windows(reader.block_bases, seq_len=self.config.data.seq_len, count=settings.windows)
        species = self._corpus.blocks(settings.split).species
        # spread over the corpus: block order follows contigs, so every n-th block samples all of them
        stride = -(-int(train_reader.block_bases.sum()) // settings.baseline_bases)
        tables = MarkovTables.cached(
            f"{self._corpus.fingerprint[:16]}-{self.config.data.train_split}-{stride}",
            lambda: (train_reader.block(index) & 7 for index in range(0, len(train_reader.block_bases), stride)),
        )
        return HeldOut(
            reader, windows, species[windows.block], objective, tables, self.rank,
            seq_len=self.config.data.seq_len, micro_batch=micro_batch, average_strands=settings.average_strands,
            learned_boundaries=self.config.segmentation.kind == "learned",
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
