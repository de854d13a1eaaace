"""The training loop, top to bottom: draw, forward and backward, step, guard, log, evaluate, checkpoint."""

import time

from dnachunker.foundations.failures import Interrupted
from dnachunker.pretrain.records.provenance import load_of_machines
from dnachunker.pretrain.records.step_metrics import StepTally

from .run import Run


def train(run: Run) -> None:
    """Take a run from where it stands to its last step.

    Raises:
        Interrupted: a signal reached some rank; the step it came in is saved.
        GuardTripped: losses that are not finite, or spikes, too many times.
        RollBack: a spike is to be undone by starting from the last checkpoint without its batch.
    """
    config, rank, engine, phase = run.config, run.rank, run.engine, run.watchdog.enter
    if run.owes_evaluation():
        run.evaluate(run.first_step)
    for step in range(run.first_step, config.steps):
        began = time.perf_counter()
        phase("draw", step)
        data = run.data.draw()
        weight_sum = rank.sum(sum(batch.weight_sum for batch in data.micro_batches))[0]

        tally = StepTally()
        for batch in data.micro_batches:
            phase("forward", step)
            with run.places.applied():
                output = engine.forward(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    labels=batch.labels,
                    loss_weights=batch.loss_weights,
                    loss_normalizer=max(weight_sum, 1e-6),
                    sequence_normalizer=data.global_batch,
                )
            phase("backward", step)
            engine.backward(output.loss)
            tally.add(batch, output)
        metrics = tally.over_all(rank)
        if run.places.learn(list(metrics["most_chunks"].values())):
            run.journal.say(
                f"step {step}: chunks filled the places foreseen; any beyond are lost, the next are counted"
            )

        phase("step", step)
        lr, before = run.learning_rate(step), engine.updates
        grad_norm = engine.step(lr)
        verdict = run.guards.judge(metrics["loss"], grad_norm, applied=engine.updates > before, step=step)
        if verdict:
            run.act_on(verdict, step, data.windows)

        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            seconds = time.perf_counter() - began
            speed = run.speed.of_step(metrics["bases"], data.seq_len, metrics["compression"], seconds)
            metrics |= {"lr": lr, "grad_norm": grad_norm, "seconds": seconds, "data_wait": data.wait, **speed}
            run.journal.write("step", steps_done=done, **metrics, system=load_of_machines(rank))

        stop = run.signals.agreed(rank)
        if done == config.steps or (done % config.evaluation.every == 0 and not stop):
            run.evaluate(done)  # one that is due at a stop is made up for on resume: saving must not wait
        if stop or done % config.checkpoint.every == 0 or done == config.steps:
            run.save(done)
        if stop and done < config.steps:
            reasons = filter(None, rank.gather(run.signals.received))
            run.journal.write("interrupt", steps_done=done, signal=", ".join(sorted(set(reasons))))
            raise Interrupted(f"saved after step {done} of {config.steps}; run the same command to continue")
    run.journal.write("finish", steps_done=config.steps)
