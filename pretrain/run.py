"""Builds every part of a run from its config, new or from the newest checkpoint."""

import json
import time
from functools import partial
from pathlib import Path

import torch
import transformers

from dnachunker.dataprep.corpus.held_out_doubts import held_out_doubts
from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.foundations.failures import GuardTripped
from dnachunker.foundations.version import __version__
from dnachunker.model.kernels import describe_backends
from dnachunker.pretrain.checkpoints.copies import RemoteCopies
from dnachunker.pretrain.checkpoints.fetching import fetch_checkpoint
from dnachunker.pretrain.checkpoints.loading import find_checkpoint, load_checkpoint
from dnachunker.pretrain.checkpoints.saving import HostMemory, Save, require_space, writing_thread
from dnachunker.pretrain.checkpoints.state import RunState, identity_of, read_state, require_same_run
from dnachunker.pretrain.checkpoints.warm_start import start_from_parent
from dnachunker.pretrain.data.byte_pairs import merges_of_run
from dnachunker.pretrain.data.objective import objective_of
from dnachunker.pretrain.data.pass_order import bases_of_chance, pass_order
from dnachunker.pretrain.data.training_data import TrainingData
from dnachunker.pretrain.engine.build_model import build_model, compute_dtype
from dnachunker.pretrain.engine.chunk_capacity import ChunkCapacity
from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine
from dnachunker.pretrain.engine.kernel_check import CheckedKernels
from dnachunker.pretrain.engine.network import lr_factors
from dnachunker.pretrain.engine.optimizer import build_adamw, learning_rate, ratio_loss_scale
from dnachunker.pretrain.engine.ranks import Rank, context_group
from dnachunker.pretrain.evaluation.held_out import HeldOut
from dnachunker.pretrain.evaluation.probing import Probing
from dnachunker.pretrain.order.curriculum import SkippedBatches
from dnachunker.pretrain.order.sample_order import Windows
from dnachunker.pretrain.planning.memory import checkpoint_bytes
from dnachunker.pretrain.records.event_log import EventLog, read_events
from dnachunker.pretrain.records.journal import Journal, evaluation_line
from dnachunker.pretrain.records.provenance import code_version, corpus_facts, machines
from dnachunker.pretrain.records.speed import Speed, matrix_rate
from dnachunker.pretrain.records.system_load import SystemLoad
from dnachunker.pretrain.safety.guards import LossGuards, RollBack, Verdict
from dnachunker.pretrain.safety.signals import StopSignals
from dnachunker.pretrain.safety.stop_time import StopTime
from dnachunker.pretrain.safety.watchdog import Watchdog

from .config import PretrainConfig
from .run_folder import RunLock, mark_started

_PROBE_WINDOWS = 2
_PROBES_SECONDS = 0.2  # between two looks of a finished run at its probes


class Run:
    """A run ready to train: its parts, and how to save them."""

    def __init__(
        self, config: PretrainConfig, rank: Rank, signals: StopSignals, watchdog: Watchdog, kernels: CheckedKernels
    ) -> None:
        self.config = config
        self.rank = rank
        self.context = context_group(rank)
        self.signals = signals
        self.watchdog = watchdog
        self.folder = Path(config.run)
        self._lock = RunLock(self.folder) if rank.is_main else None
        self._corpus = Corpus.open(config.data.corpus)
        on_file = partial(watchdog.enter, "fetch", 0)
        self._fetched, found = fetch_checkpoint(config, self._corpus.fingerprint, rank, on_file)
        if rank.is_main:
            mark_started(self.folder)
        accumulation = config.accumulation(rank.world_size)
        self.micro_batch = config.data.global_batch // rank.data_ranks // accumulation

        checkpoint, damage = find_checkpoint(self.folder, rank)
        state = read_state(checkpoint) if checkpoint else None
        if state:
            require_same_run(state, config, self._corpus.fingerprint)
        self.first_step = state.steps_done if state else 0
        self.guards = LossGuards(config.guards, state.guards if state else None)
        self.skipped = SkippedBatches(self.folder, state.skipped_batches if state else ())
        self.stop_time = StopTime()
        self._save: Save | None = None  # a checkpoint on its way
        self._waited = 0.0  # seconds that training waited for it
        self._memory, self._thread = HostMemory(), writing_thread(config.checkpoint)  # of saves
        self._probed: tuple[int, dict[str, torch.Tensor]] | None = None  # the latest probe, and its steps done
        self._signalled: float | None = None  # when the signal that ends the run came, by time.monotonic

        self._merges = state.merges if state else merges_of_run(self._corpus, config.data, config.tokenization, rank)
        objective = objective_of(config.masking, causal=config.model.causal)
        order = pass_order(config.engine, config.model, world_size=rank.world_size, accumulation=accumulation)
        bases = bases_of_chance(
            config.data, passes=rank.data_ranks * accumulation, stretches=rank.context_size, ordered=order is not None
        )
        model = build_model(
            config.model, config.tokenization, kernels.settings, seed=config.seed, merges=self._merges,
            label_capacity=objective.label_capacity(bases),
        )  # fmt: skip
        self._parent, started = (
            (state.parent, []) if state else start_from_parent(model, model.config, config.init, rank)
        )
        self.capacity = ChunkCapacity(foresee=config.engine.foresee_chunks, shares=state.chunk_shares if state else ())
        model.dnachunker.context = self.context
        if not checkpoint:
            averaged = config.optimizer.ema is not None
            require_space(self.folder, checkpoint_bytes(model.num_parameters(), average=averaged))
        optimizer = build_adamw(
            model, model.no_weight_decay_parameter_names(), config.optimizer,
            lr_factors(config.optimizer, config.model, config.tokenization),
        )  # fmt: skip
        self.engine = TrainingEngine(
            model, optimizer, config.engine, rank, global_batch=config.data.global_batch, accumulation=accumulation,
            clip_grad_norm=config.optimizer.clip_grad_norm, average=config.optimizer.ema,
        )  # fmt: skip
        if checkpoint and state:
            load_checkpoint(self.engine, checkpoint, state)

        self.data = TrainingData.of(
            self._corpus, config.data, config.loader, objective, rank, seed=config.seed,
            batch_of=self.skipped.batch_of, accumulation=accumulation, first_step=self.first_step,
            end_step=config.steps, order=order,
        )  # fmt: skip
        self.held_out = HeldOut.of(
            self._corpus, config.data, config.evaluation, self.data.reader, objective, rank,
            micro_batch=self.micro_batch, learned_boundaries=config.tokenization.kind == "learned",
        )  # fmt: skip
        self.journal = Journal(
            self.folder, config.tracking, config.model_dump(mode="json"), rank,
            steps=config.steps, steps_done=self.first_step,
        )  # fmt: skip
        self.load = SystemLoad(rank, config.tracking.system_seconds)
        self._copies = (
            RemoteCopies(self.folder, config.checkpoint.copy_to, self.journal.say)
            if config.checkpoint.copy_to and rank.is_main
            else None
        )
        self._probing: Probing | None = None
        if config.evaluation.probes and rank.is_main:
            told = [event["steps_done"] for event in read_events(self.folder) if event["event"] == "probes"]
            self._probing = Probing(self.folder, told, self.first_step)
        dtype = compute_dtype(config.engine)
        self._describe(
            kernels, dtype, checkpoint.name if checkpoint else None, damage, [*found, *started], model.num_parameters()
        )
        self.speed = Speed(model.config, rank, matrix_rate(rank.device, dtype))

    def _describe(
        self,
        kernels: CheckedKernels,
        dtype: torch.dtype,
        resumed: str | None,
        damage: list[str],
        started: list[str],
        parameters: int,
    ) -> None:
        config, rank = self.config, self.rank
        self.journal.say(
            describe_backends(
                kernels.settings.scan_backend, kernels.settings.attention_backend, rank.device.type, dtype
            )
        )
        if self.context is not None:
            self.journal.say(
                f"engine.context_parallel: {self.context.size} ranks share each window"
                + ("; scan, convolution and smoothing run in plain torch there" if rank.device.type == "cuda" else "")
            )
        # rank 0 alone writes lines and events
        doubts = held_out_doubts(self._corpus.index, self._corpus.blocks()) if rank.is_main else []
        for line in (
            *kernels.faults,
            *(f"not used: {line}" for line in damage),
            *(f"corpus: {line}" for line in doubts),
            *started,
        ):
            self.journal.say(line)
        self.journal.write(
            "resume" if resumed else "start", steps_done=self.first_step, world_size=rank.world_size,
            micro_batch=self.micro_batch, zero_stage=config.engine.zero_stage, device=str(rank.device),
            versions=self._versions(), corpus=self._corpus.fingerprint, code=code_version(), parameters=parameters,
            data=corpus_facts(self._corpus), machines=machines(rank), damaged=damage, doubts=doubts,
            kernels=kernels.as_event(rank.device.type, dtype),
            parent=self._parent and self._parent.model_dump(mode="json"),
            say=f"resumed from {resumed}" if resumed else None,
        )  # fmt: skip

    def save(self, steps_done: int) -> None:
        """Write a checkpoint, or begin to; collective. A save waits for the one before it."""
        self.finish_save()
        config, began = self.config, time.monotonic()
        self.watchdog.enter("save", steps_done)
        state = RunState(
            steps_done=steps_done,
            samples_seen=self.data.samples_before(steps_done),
            updates=self.engine.updates,
            skipped_batches=self.skipped.numbers,
            guards=self.guards.state(),
            chunk_shares=self.capacity.state(),
            world_size=self.rank.world_size,
            micro_batch=self.micro_batch,
            zero_stage=config.engine.zero_stage,
            precision=config.engine.precision,
            device=self.rank.device.type,
            corpus_fingerprint=self._corpus.fingerprint,
            identity=identity_of(config),
            merges=self._merges,
            parent=self._parent,
            versions=self._versions(),
        )
        probe = self._probe(steps_done)
        self._save = Save(
            self.folder, self.engine, state, probe, self.rank, config.checkpoint, self._memory, self._thread
        )
        self._waited = time.monotonic() - began
        if not config.checkpoint.asynchronous:
            self.finish_save()

    def agree(self) -> bool:
        """Agree with the other ranks on how far the checkpoint on its way is, in one sum; collective.

        Returns:
            Whether to stop, because a signal has reached some rank.
        """
        signalled = float(self.signals.received is not None)
        stop, *progress = self.rank.sum(signalled, *(self._save.progress() if self._save else ()))
        if self._save and self._save.advance(*progress):
            self._note_saved(self._save)
        return stop > 0

    def finish_save(self) -> None:
        """Wait for the checkpoint on its way, if there is one; collective."""
        if save := self._save:
            began = time.monotonic()
            self.watchdog.enter("save", save.steps_done)
            save.finish()
            self._waited += time.monotonic() - began
            self._note_saved(save)

    def _note_saved(self, save: Save) -> None:
        self._save = None
        self.stop_time.measure("save", max(self._waited, save.seconds))
        self.journal.write(
            "checkpoint", steps_done=save.steps_done, folder=save.folder.name, seconds=round(self._waited, 3),
            stop_seconds=round(self.stop_time.most, 3),
        )  # fmt: skip
        self.journal.say(self.stop_time.warning())
        if self._copies:
            self._copies.add(save.folder)

    def evaluate(self, steps_done: int) -> None:
        """Score the held-out windows, and record how the model cuts one of them into chunks; collective."""
        began, on_batch = time.monotonic(), partial(self.watchdog.enter, "evaluate", steps_done)
        with self.engine.averaged():
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
            self._probe(steps_done)  # so that a save at this step only copies
        self.stop_time.measure("evaluation", time.monotonic() - began)

    def note_probes(self) -> None:
        """Record what the probes of checkpoints have found since the last call; only rank 0 has any."""
        for found, line in self._probing.news() if self._probing else ():
            if found is not None:
                self.journal.write("probes", **found)
            self.journal.say(line)

    def finish_probes(self, steps_done: int) -> None:
        """Wait for the probes of the last checkpoint, at most `evaluation.probe_wait` seconds; collective."""
        until = time.monotonic() + self.config.evaluation.probe_wait
        while self.rank.any(self._probing is not None and self._probing.runs and time.monotonic() < until):
            self.watchdog.enter("probes", steps_done)
            self.note_probes()
            if self.signals.agreed(self.rank):
                return
            time.sleep(_PROBES_SECONDS)

    def note_interrupt(self, steps_done: int) -> None:
        """Record a stop that the run has been saved for, and the seconds since the first signal; collective."""
        told = self.rank.gather((self.signals.received, self.signals.seconds))
        reasons = ", ".join(sorted({reason for reason, _ in told if reason}))
        seconds = max(since for _, since in told)
        self._signalled = time.monotonic() - seconds
        self.journal.write("interrupt", steps_done=steps_done, signal=reasons, seconds=round(seconds, 3))

    def owes_evaluation(self) -> bool:
        """Whether an evaluation is due before the next step; the same answer on every rank.

        So it is where the run was interrupted at such a step, at step 0 of a run that starts from a parent, whose loss
        it repeats, and after a checkpoint was fetched, whose run's event log is not here.
        """
        due = self.first_step % self.config.evaluation.every == 0 and self.first_step < self.config.steps
        owed = self._fetched or (due and (self.first_step > 0 or self._parent is not None))
        told = any(e["event"] == "evaluation" and e["steps_done"] == self.first_step for e in read_events(self.folder))
        return self.rank.any(self.rank.is_main and owed and not told)

    def learning_rate(self, step: int) -> float:
        """The schedule's rate at optimizer step `step`, lowered after a resume for `checkpoint.rewarm` steps."""
        config = self.config
        rate = learning_rate(step, config.steps, config.optimizer.lr, config.schedule)
        if self.first_step and step - self.first_step < config.checkpoint.rewarm:
            rate *= (step - self.first_step + 1) / (config.checkpoint.rewarm + 1)
        return rate

    def ratio_loss_scale(self, step: int) -> float:
        """Factor on the weight of the ratio loss at optimizer step `step`."""
        return ratio_loss_scale(step, self.config.steps, self.config.schedule)

    def act_on(self, verdict: Verdict, step: int, windows: Windows) -> None:
        """Record what a guard found at `step`, with the windows of all ranks; collective.

        Raises:
            RollBack: the batch is left out from now on; start again from the last checkpoint.
            GuardTripped: the verdict says stop, or `guards.spike_limit` batches are left out already.
        """
        settings = self.config.guards
        told = self.rank.gather(self.data.locate(windows))[:: self.rank.context_size]
        where = [name for mine in told for name in mine]
        batch = self.skipped.batch_of(step)
        record = {"kind": verdict.kind, "detail": verdict.detail, "step": step, "batch": batch, "windows": where}
        if self.rank.is_main and (verdict.kind == "nonfinite" or settings.spike != "log"):
            dumps = self.folder / "dumps"
            dumps.mkdir(exist_ok=True)
            (dumps / f"step-{step:08d}-{verdict.kind}.json").write_text(json.dumps(record, indent=1) + "\n")
        say = f"guard: step {step}: {verdict.detail}"
        if verdict.stop or settings.spike == "roll_back":
            self.finish_save()  # the run continues from there
        self.journal.write("guard", steps_done=step + 1, say=say, **{**record, "windows": where[:8]})
        if verdict.stop:
            raise GuardTripped(verdict.stop)
        if verdict.kind == "spike" and settings.spike == "roll_back":
            if len(self.skipped.numbers) >= settings.spike_limit:
                raise GuardTripped(
                    f"step {step}: {verdict.detail}; {settings.spike_limit} batches have been left out already "
                    f"(guards.spike_limit). Look at the windows in {self.folder / 'dumps'}, or start a new run with a "
                    f"lower optimizer.lr"
                )
            self.rank.barrier()
            if self.rank.is_main:
                self.skipped.add(batch)
            raise RollBack(f"step {step}: {verdict.detail}; going back, without batch {batch}")

    def close(self) -> None:
        """Stop background work and flush the journal."""
        self.watchdog.enter("close", self.config.steps)
        self.data.close()
        self.load.close()
        if self._copies:
            self._copies.close()
        if self._probing:
            self._probing.end()
        self.journal.close()
        self._thread.shutdown(wait=False)  # nothing is written now, unless training failed
        self.engine.close()
        if self._signalled is not None and self.rank.is_main:  # the journal is closed: its end is part of the time
            log = EventLog(self.folder)
            log.write("exit", seconds=round(time.monotonic() - self._signalled, 3))
            log.close()
        if self._lock is not None:
            self._lock.release()

    def _probe(self, steps_done: int) -> dict[str, torch.Tensor]:
        """A few masked held-out windows and the model's logits, against which an export is checked.

        The pass is made once a step: a save after an evaluation does not make it again. Collective.
        """
        if self._probed and self._probed[0] == steps_done:
            return self._probed[1]
        batch = self.held_out.batch(_PROBE_WINDOWS)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        self.engine.train(False)
        with torch.no_grad(), self.engine.averaged():
            output = self.engine.network(**inputs)
        self.engine.train()
        boundaries = {f"boundaries{stage}": cuts for stage, cuts in enumerate(output.boundaries)}
        probe = {**inputs, **boundaries, "logits": output.logits.float()}
        self._probed = steps_done, probe
        return probe

    def _versions(self) -> dict[str, str]:
        return {"dnachunker": __version__, **self.engine.versions, "transformers": transformers.__version__}
