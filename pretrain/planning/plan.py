"""`dnachunker plan`: what a run costs, by arithmetic alone, before a machine is paid for."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
    from dnachunker.pretrain.config import PretrainConfig

    from .hardware import Hardware
    from .step_time import Assumptions, Workload

PLAN_HELP = "parameters, memory, time and network of a pretraining config on N GPUs"

_STORED_BITS_PER_BASE = 2.02  # a little above what benchmarks/results/sharding.md has
_LOADER_RATE = 260e6  # bases a second of one process with one reader thread; see docs/loader.md
_NODE_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_WEAK_SCALING = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_MOST_COLUMNS = 6
_EVALUATION_PASSES = 7  # forward passes of a held-out window: two for its scores, five for the diagnostics


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Parameters by component, memory of a GPU by ZeRO stage and micro-batch, hours and GPU-hours on named\n"
        "hardware, network, loader and checkpoints, and the efficiency to expect on up to 4,096 GPUs. Needs no GPU\n"
        "and no corpus. docs/operations.md has the method and its assumptions."
    )
    parser.epilog = (
        "examples:\n  dnachunker plan --config dnachunker-172m --gpus 4\n"
        "  dnachunker plan --config dnachunker-172m --corpus corpora/hg38 --hardware a100 --utilisation 0.3\n"
        "  dnachunker plan --config tiny model.mixer=conv"
    )
    parser.add_argument("--config", required=True, metavar="FILE|PRESET", help="YAML file, or a preset's name")
    parser.add_argument("--gpus", type=int, default=8, metavar="N", help="GPUs of the run (default: %(default)s)")
    parser.add_argument(
        "--gpus-per-node", type=int, default=8, metavar="N", help="GPUs of a machine (default: %(default)s)"
    )
    parser.add_argument("--hardware", default="h100", metavar="NAME", help="GPU: a100, h100, h200, b200, l40s or 4090")
    parser.add_argument("--corpus", help="corpus folder, to count epochs")
    for name, meaning in (
        (
            "utilisation",
            "share of the data sheet's matrix rate that training reaches, by model FLOPs (default: counted, of 172M)",
        ),
        ("operation-seconds", "seconds in which the host starts one operation on the GPU"),
        ("link-share", "share of the data sheet's link rates that collectives reach"),
        ("window-variation", "standard deviation over mean of a window's work"),
        ("storage", "bytes a second that all ranks together write"),
        ("hours-between-failures", "mean hours between two failures of one GPU"),
        ("restart-seconds", "seconds from a failure to the next step"),
    ):
        parser.add_argument(f"--{name}", type=float, metavar="X", help=meaning)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="override config keys")


def run_plan(arguments: argparse.Namespace) -> int:
    """Print the tables."""
    from dnachunker.foundations.failures import BadInput
    from dnachunker.foundations.typed_config import load_config
    from dnachunker.pretrain.config import PretrainConfig

    from .hardware import HARDWARE
    from .step_time import Assumptions

    # required keys that `pretrain` may take from its own options; they do not change the plan
    settings = {"data.corpus": arguments.corpus or "", "run": ""}
    config = load_config(PretrainConfig, arguments.config, arguments.overrides, kind="pretrain", settings=settings)
    if arguments.hardware not in HARDWARE:
        raise BadInput(f"--hardware {arguments.hardware}: known are {', '.join(HARDWARE)}")
    given = {
        name: value
        for name in Assumptions.__dataclass_fields__
        if (value := getattr(arguments, name)) is not None
    }  # fmt: skip
    for name, value in given.items():
        if not value > 0 and name != "window_variation":
            raise BadInput(f"--{name.replace('_', '-')} {value}: must be greater than 0")
    for name, largest in (("link_share", 1.0), ("utilisation", 1.0), ("window_variation", float("inf"))):
        if not 0 <= given.get(name, 0) <= largest:
            raise BadInput(f"--{name.replace('_', '-')} {given[name]}: must lie between 0 and {largest:g}")
    gpus, per_node = arguments.gpus, arguments.gpus_per_node
    if gpus < 1 or per_node < 1:
        raise BadInput("--gpus and --gpus-per-node must be at least 1")
    try:
        config.accumulation(gpus)
    except ValueError as error:
        raise BadInput(str(error)) from error

    from dnachunker.pretrain.engine.network import network_config

    from .context import split_windows
    from .memory import FILLED

    run, network = config, network_config(config.model, config.tokenization)
    hardware = HARDWARE[arguments.hardware]
    assumed = Assumptions(**{"utilisation": hardware.utilisation(config.engine.precision), **given})
    longest = max(config.data.phases, key=lambda phase: phase.seq_len)
    if len(config.data.phases) > 1:
        print(
            f"data.curriculum: every figure is for the phase with the longest windows, {longest.seq_len:,} bases from "
            f"step {longest.from_step:,} on, as if the whole run were this phase\n"
        )
        sizes = {"seq_len": longest.seq_len, "global_batch": longest.global_batch, "curriculum": ()}
        config = config.model_copy(update={"data": config.data.model_copy(update=sizes)})
    passes = partial(_passes, run, network, FILLED * hardware.memory)
    sections = [
        _parameters(network),
        _one_step(config, network),
        _memory(config, network, gpus, passes(gpus), hardware),
        *split_windows(config, network, gpus, hardware),
        _run(config, network, gpus, per_node, passes(gpus), hardware, assumed, arguments.corpus),
        _grid(config, network, per_node, passes, hardware, assumed),
        _weak_scaling(config, network, gpus, per_node, passes(gpus), hardware, assumed),
        _assumptions(assumed, hardware),
    ]
    print("\n\n".join("\n".join(lines) for lines in sections))
    return 0


def _parameters(network: "DNAChunkerConfig") -> list[str]:
    from dnachunker.model.cost import parameters

    counts = parameters(network)
    return [f"{name:24}{number:>14,}" for name, number in [*counts.items(), ("total", sum(counts.values()))]]


def _one_step(config: "PretrainConfig", network: "DNAChunkerConfig") -> list[str]:
    from dnachunker.model.cost import flops_per_base

    from .memory import chunks_per_base

    length, steps = config.data.seq_len, config.steps
    flops = flops_per_base(network, length, chunks_per_base(config))
    bases = config.data.global_batch * length
    chunks = ", ".join(str(density) for density in chunks_per_base(config))
    return [
        f"in windows of {length:,} bases, at {chunks} chunks a base",
        f"{'model FLOPs a base':24}{flops.forward / 1e6:>10,.1f} M forward, {flops.backward / 1e6:,.1f} M backward",
        f"{'a step':24}{bases:>10,} bases, {flops.total * bases / 1e12:,.2f} TFLOP",
        f"{'the run':24}{bases * steps / 1e9:>10,.2f} G bases in {steps:,} steps, "
        f"{flops.total * bases * steps / 1e18:,.2f} EFLOP",
    ]


def _passes(run: "PretrainConfig", network: "DNAChunkerConfig", memory: float, ranks: int) -> int:
    """Forward passes of a rank in one step, on GPUs of which a plan may fill `memory` bytes.

    Raises:
        ValueError: as `PretrainConfig.accumulation`.
    """
    from .memory import largest_micro_batch

    passes = run.accumulation(ranks)
    if run.engine.micro_batch != "auto":
        return passes
    windows = largest_micro_batch(run, network, ranks, memory) or run.micro_batches(ranks)[0]
    return run.with_micro_batch(windows).accumulation(ranks)


def _memory(
    config: "PretrainConfig", network: "DNAChunkerConfig", gpus: int, passes: int, hardware: "Hardware"
) -> list[str]:
    from .memory import FILLED, planned_memory

    windows = config.data.global_batch // config.data_ranks(gpus) // passes
    sizes = config.micro_batches(gpus)
    end = max(sizes.index(windows) + 2, _MOST_COLUMNS)
    sizes = sizes[max(0, end - _MOST_COLUMNS) : end]
    lines = [
        f"memory of each of {gpus} GPUs, {config.engine.precision}, GiB "
        f"({hardware.name} has {hardware.memory / 2**30:.0f}; * fills more than {FILLED:.0%} of it)",
        f"{'ZeRO stage':12}{'states':>9}{'buckets':>9}" + "".join(f"{f'micro {size}':>11}" for size in sizes),
    ]
    for stage in range(4):
        cells, shown = "", ""
        for size in sizes:
            memory = planned_memory(config, network, gpus, size, zero_stage=stage)
            shown = shown or f"{memory.states / 2**30:>9.2f}{memory.buckets / 2**30:>9.2f}"
            mark = "*" if memory.peak > FILLED * hardware.memory else " "
            cells += f"{memory.peak / 2**30:>10.2f}{mark}"
        lines.append(f"{stage:<12}{shown}{cells}" + ("  <- this config" if stage == config.engine.zero_stage else ""))
    peak = planned_memory(config, network, gpus, windows).peak
    together = config.engine.context_parallel
    length, where = config.data.seq_len, "a GPU" if together == 1 else f"{together} GPUs"
    chosen = f"engine.micro_batch={config.engine.micro_batch}" if config.engine.micro_batch else "all windows at once"
    lines.append(
        f"{chosen}: {windows * length:,} bases in a pass of {where} ({windows} x {length:,}), "
        f"{passes} passes a step, {peak / 2**30:.1f} GiB"
        + (", which does not fit" if peak > FILLED * hardware.memory else "")
    )
    return lines


def workload(
    config: "PretrainConfig", network: "DNAChunkerConfig", ranks: int, windows: int, passes: int
) -> "Workload":
    """The work of one of `ranks` ranks in a step of so many windows, which it may share with a context group."""
    from dnachunker.model.cost import flops_per_base, parameters, repeated_flops_per_base
    from dnachunker.pretrain.engine.network import lr_factors

    from .context import sent_in_group
    from .memory import bucket_values, checkpoint_bytes, chunks_per_base, value_bytes
    from .step_time import Workload, operations_of_pass

    engine, length, chunks = config.engine, config.data.seq_len, chunks_per_base(config)
    count = sum(parameters(network).values())
    flops = flops_per_base(network, length, chunks)
    repeated = 0.0
    if engine.context_parallel == 1:  # layers of windows that ranks share run whole
        repeated = repeated_flops_per_base(
            network, windows // passes * length, length, chunks,
            layer_block=engine.layer_block, checkpointing=engine.activation_checkpointing,
        )  # fmt: skip
    again = 1 if engine.activation_checkpointing else 0  # forward passes that the backward pass repeats
    zero = engine.deepspeed.get("zero_optimization", {})
    return Workload(
        parameters=count, value_bytes=value_bytes(engine.precision),
        flops=(flops.total + again * flops.forward) * windows * length / engine.context_parallel,
        repeated=repeated * windows * length, windows=windows, passes=passes,
        operations=round(operations_of_pass(network) * (1 + again / 3)), zero_stage=engine.zero_stage,
        bucket_values=bucket_values(config),
        overlap=bool(zero.get("overlap_comm", engine.zero_stage == 3)),  # DeepSpeed's default
        checkpoint_bytes=checkpoint_bytes(count, average=config.optimizer.ema is not None),
        checkpoint_steps=config.checkpoint.every,
        context_parallel=engine.context_parallel, group_bytes=sent_in_group(config, network, windows),
        parameter_groups=2 * len(set(lr_factors(config.optimizer, config.model, config.tokenization))),
    )  # fmt: skip


def _run(
    config: "PretrainConfig", network: "DNAChunkerConfig", gpus: int, per_node: int, passes: int,
    hardware: "Hardware", assumed: "Assumptions", corpus: str | None,
) -> list[str]:  # fmt: skip
    from dnachunker.model.cost import flops_per_base
    from dnachunker.pretrain.safety.stop_time import most_seconds

    from .memory import chunks_per_base
    from .step_time import best_checkpoint_steps, collective_bytes, save_seconds, step_time

    work = workload(config, network, gpus, config.data.global_batch // config.data_ranks(gpus), passes)
    step = step_time(work, hardware, config.engine.precision, gpus, per_node, assumed)
    rate = config.data.global_batch * config.data.seq_len / step.total
    seconds = step.total * config.steps
    shared = config.engine.context_parallel
    held_out = -(-config.evaluation.windows * shared // gpus) * config.data.seq_len / shared * _EVALUATION_PASSES
    forward = flops_per_base(network, config.data.seq_len, chunks_per_base(config)).forward
    evaluation = held_out * forward / (hardware.rate(config.engine.precision) * assumed.utilisation)
    stop = most_seconds(step=step.total, evaluation=evaluation, save=save_seconds(work, assumed))
    lines = [
        f"on {gpus} x {hardware.name}, {min(gpus, per_node)} in a machine",
        f"{'time of the run':24}{seconds / 3600:>10,.1f} h, {seconds / 3600 * gpus:,.1f} GPU-hours; "
        f"{step.total:.3f} s a step",
        f"{'network':24}{collective_bytes(work, gpus) / 1e9:>10,.2f} GB a step sent by each GPU"
        + (f", {work.group_bytes / 1e9:,.2f} more to the GPUs that share its windows" if shared > 1 else ""),
        f"{'loader':24}{rate / gpus / 1e6:>10,.3f} Mbp/s a GPU (one reader thread gives {_LOADER_RATE / 1e6:.0f}); "
        f"{rate * _STORED_BITS_PER_BASE / 8 / 1e6:,.2f} MB/s read in all",
        f"{'a checkpoint':24}{work.checkpoint_bytes / 1e9:>10,.2f} GB, {save_seconds(work, assumed):,.1f} s "
        f"every {config.checkpoint.every:,} steps; least time is lost with "
        f"checkpoint.every={best_checkpoint_steps(work, step, gpus, assumed):,}",
        f"{'a stop on a signal':24}{stop:>10,.1f} s at most: an evaluation, a step and two saves; a launcher must give "
        "more notice (cluster.slurm.signal_seconds)",
    ]
    if config.checkpoint.asynchronous:
        weights = 4 * work.parameters
        share = (work.checkpoint_bytes - weights) / gpus
        copies = f"{(weights + share) / 1e9:>10,.2f} GB of rank 0's host memory, {share / 1e9:,.2f} of the others'"
        lines.insert(-1, f"{'its copy':24}{copies}")
    if corpus:
        from dnachunker.dataprep.corpus.index import Corpus

        bases = Corpus.open(corpus).index.splits[config.data.train_split].bases
        taken = config.steps * config.data.global_batch * config.data.seq_len
        lines.append(
            f"{'epochs of the corpus':24}{taken / bases:>10,.2f} of {bases:,} bases in {config.data.train_split}"
        )
    else:
        lines.append(f"{'epochs of the corpus':24}{'':>10} name it with --corpus")
    return lines


def _grid(
    config: "PretrainConfig", network: "DNAChunkerConfig", per_node: int, passes: Callable[[int], int],
    hardware: "Hardware", assumed: "Assumptions",
) -> list[str]:  # fmt: skip
    from .step_time import step_time

    lines = [
        f"this run on other numbers of machines, {per_node} GPUs each, same global batch",
        f"{'machines':>8}{'GPUs':>8}{'hours':>10}{'GPU-hours':>12}{'s a step':>10}{'efficiency':>12}",
    ]
    for nodes in _NODE_COUNTS:
        gpus = nodes * per_node
        try:
            in_step = passes(gpus)
        except ValueError:
            continue  # this number of ranks does not divide the batch
        work = workload(config, network, gpus, config.data.global_batch // config.data_ranks(gpus), in_step)
        step = step_time(work, hardware, config.engine.precision, gpus, per_node, assumed)
        hours = step.total * config.steps / 3600
        lines.append(
            f"{nodes:>8}{gpus:>8}{hours:>10,.1f}{hours * gpus:>12,.1f}{step.total:>10.3f}{step.efficiency:>11.1%}"
        )
    if len(lines) == 2:
        lines.append(
            f"  none: data.global_batch={config.data.global_batch} and data.streams do not divide by {per_node}"
        )
    return lines


def _weak_scaling(
    config: "PretrainConfig", network: "DNAChunkerConfig", gpus: int, per_node: int, passes: int,
    hardware: "Hardware", assumed: "Assumptions",
) -> list[str]:  # fmt: skip
    from .step_time import step_time

    windows = config.data.global_batch // config.data_ranks(gpus)
    shared = config.engine.context_parallel
    where = "a GPU" if shared == 1 else f"for {shared} GPUs"
    columns = ("host", "stragglers", "collectives", "checkpoints", "failures")
    lines = [
        f"weak scaling: {windows} windows {where} in {passes} passes, share of the time that goes into",
        f"{'GPUs':>6}{'compute':>12}" + "".join(f"{name:>13}" for name in columns),
    ]
    for ranks in _WEAK_SCALING:
        work = workload(config, network, ranks, windows, passes)
        step = step_time(work, hardware, config.engine.precision, ranks, per_node, assumed)
        shares: Sequence[float] = [getattr(step, name) / step.total for name in columns]
        lines.append(f"{ranks:>6,}{step.efficiency:>12.1%}" + "".join(f"{share:>13.2%}" for share in shares))
    return lines


def _assumptions(assumed: "Assumptions", hardware: "Hardware") -> list[str]:
    return [
        "assumed, not measured (each has an option of its own; docs/operations.md says where to look them up):",
        f"  {assumed.utilisation:.0%} of {hardware.bf16 / 1e12:,.0f} TFLOP/s bf16 or {hardware.fp32 / 1e12:,.0f} fp32, "
        f"{assumed.operation_seconds * 1e6:.0f} µs to start an operation, a window's work varies by "
        f"{assumed.window_variation:.1%},",
        f"  {assumed.link_share:.0%} of {hardware.within_node / 1e9:,.0f} GB/s between GPUs of a machine and "
        f"{hardware.between_nodes / 1e9:,.1f} a GPU between machines, storage {assumed.storage / 1e9:,.1f} GB/s,",
        f"  {assumed.hours_between_failures:,.0f} h between failures of a GPU, "
        f"{assumed.restart_seconds:,.0f} s to restart",
    ]
