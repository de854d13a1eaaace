"""The training loop, top to bottom: draw, forward and backward, step, guard, log, evaluate, checkpoint."""

import time

from dnachunker.foundations.failures import Interrupted
from dnachunker.pretrain.records.step_metrics import StepSums

from .run import Run


def train(run: Run) -> None:
    """Train a run from its next step to its last.

    Raises:
        Interrupted: a signal reached some rank; the run is saved after the current step.
        GuardTripped: losses that are not finite, or spikes, too many times.
        RollBack: to undo a spike, start again from the last checkpoint without the spike's batch.
    """
    config, rank, engine, enter = run.config, run.rank, run.engine, run.watchdog.enter
    if run.owes_evaluation():
        run.evaluate(run.first_step)
    for step in range(run.first_step, config.steps):
        began = time.perf_counter()
        enter("draw", step)
        data = run.data.draw()
        weight_sum = rank.sum(sum(batch.weight_sum for batch in data.micro_batches))[0]

        sums = StepSums(run.context, data.seq_len)
        for batch in data.micro_batches:
            enter("forward", step)
            with run.load.forward():
                output = engine.forward(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    labels=batch.labels,
                    loss_weights=batch.loss_weights,
                    loss_normalizer=max(weight_sum, 1e-6),
                    sequence_normalizer=data.global_batch,
                    ratio_loss_scale=run.ratio_loss_scale(step),
                    chunk_capacity=run.capacity.per_base,
                )
            enter("backward", step)
            engine.backward(output.loss)
            sums.add(batch, output)
        metrics = sums.over_all(rank, run.load.row(data.wait))
        if run.capacity.learn(metrics.most_chunks):
            run.journal.say(
                f"step {step}: more chunks than the fixed-size buffers hold; this update is skipped, "
                "and buffer sizes are measured again"
            )

        enter("step", step)
        lr, before = run.learning_rate(step), engine.updates
        grad_norm = engine.step(lr)
        verdict = run.guards.judge(metrics.loss, grad_norm, applied=engine.updates > before, step=step)
        if verdict:
            run.act_on(verdict, step, data.windows)

        done = step + 1
        seconds = time.perf_counter() - began
        run.stop_time.measure("step", seconds)
        if done % config.log_every == 0 or done == config.steps:
            speed = run.speed.of_step(metrics.bases, data.seq_len, metrics.compression, seconds)
            pace = {"lr": lr, "grad_norm": grad_norm, "seconds": seconds, "data_wait": data.wait, **speed}
            run.journal.write("step", steps_done=done, **metrics.as_event() | pace)
        if system := run.load.hear(metrics.of_ranks, last=done == config.steps):
            run.journal.write("system", steps_done=done, **system)

        run.note_probes()
        stop = run.agree()
        if done == config.steps or (done % config.evaluation.every == 0 and not stop):
            run.evaluate(done)  # at a stop, saving must not wait: a resume makes the evaluation that is due
        if stop or done % config.checkpoint.every == 0 or done == config.steps:
            run.save(done)
        if stop and done < config.steps:
            run.finish_save()
            run.note_interrupt(done)
            raise Interrupted(f"saved after step {done} of {config.steps}; run the same command to continue")
    run.finish_save()
    run.finish_probes(config.steps)
    run.journal.write("finish", steps_done=config.steps)
