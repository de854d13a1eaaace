"""The training loop, top to bottom: draw, forward and backward, guard, step, log, evaluate, checkpoint."""

import time
from functools import partial

from failures import Interrupted

from .assembly import Run
from .guards import require_applied, require_finite
from .optimizer import learning_rate
from .step_tally import StepTally


def train(run: Run) -> None:
    """Take a run from where it stands to its last step.

    Raises:
        Interrupted: a signal reached some rank; the step it came in is saved.
        GuardTripped: a loss was not finite; the step was not applied.
    """
    config, rank, engine = run.config, run.rank, run.engine
    if run.owes_evaluation():
        run.evaluate(run.first_step)
    for step in range(run.first_step, config.steps):
        began = time.perf_counter()
        data = run.data.draw()
        weight_sum = rank.sum(sum(batch.weight_sum for batch in data.micro_batches))[0]

        tally = StepTally()
        for batch in data.micro_batches:
            output = engine.forward(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                labels=batch.labels,
                loss_weights=batch.loss_weights,
                loss_normalizer=max(weight_sum, 1e-6),
                sequence_normalizer=data.global_batch,
            )
            engine.backward(output.loss)
            tally.add(batch, output)
        metrics = tally.over_all(rank)
        require_finite(metrics["loss"], step=step, windows=partial(run.data.locate, data.windows))

        lr = learning_rate(step, config.steps, config.optimizer.lr, config.schedule)
        grad_norm = engine.step(lr)
        require_applied(grad_norm, updates=engine.updates, step=step)

        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            seconds = time.perf_counter() - began
            speed = metrics["bases"] / seconds
            run.journal.write(
                "step", steps_done=done, **metrics, lr=lr, grad_norm=grad_norm, seconds=seconds, data_wait=data.wait,
                bases_per_second=speed, bases_per_second_per_device=speed / rank.world_size,
            )  # fmt: skip

        stop = run.signals.agreed(rank)
        if done == config.steps or (done % config.evaluation.every == 0 and not stop):
            run.evaluate(done)  # one that is due at a stop is made up for on resume: saving must not wait

        if stop or done % config.checkpoint.every == 0 or done == config.steps:
            folder = run.save(done)
            run.journal.write("checkpoint", steps_done=done, folder=folder.name)
        if stop and done < config.steps:
            run.journal.write("interrupt", steps_done=done, signal=run.signals.received)
            raise Interrupted(f"saved after step {done} of {config.steps}; run the same command to continue")
    run.journal.write("finish", steps_done=config.steps)
