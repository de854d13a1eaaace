"""`dnachunker plan`: what a run's model costs, by arithmetic alone, before a corpus or a machine is at hand."""

import argparse

PLAN_HELP = "parameters, operations and memory of a pretraining config"

# Chunks per base at stages 0 and 1 with the masks of pretraining, as a trained model makes them; see docs/model.md.
_CHUNKS_PER_BASE = (0.56, 0.31)


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Parameters by component, model FLOPs per base and memory of the model a config trains."
    parser.epilog = (
        "examples:\n  dnachunker plan --config dnachunker-172m\n  dnachunker plan --config tiny model.mixer=conv"
    )
    parser.add_argument("--config", required=True, metavar="FILE|PRESET", help="YAML file, or a preset's name")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="override config keys")


def run_plan(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from typed_config import load_config

    from .config import PretrainConfig

    # what a config may leave to the command line of `pretrain`, and costs nothing
    settings = {"data.corpus": "", "run": ""}
    config = load_config(PretrainConfig, arguments.config, arguments.overrides, kind="pretrain", settings=settings)

    from model.configuration_dnachunker import DNAChunkerConfig
    from model.cost import activation_bytes, flops_per_base, parameters, state_bytes

    network = DNAChunkerConfig(**config.model.model_dump())
    counts = parameters(network)
    for name, number in [*counts.items(), ("total", sum(counts.values()))]:
        print(f"{name:24}{number:>14,}")
    length, chunks = config.data.seq_len, ", ".join(str(density) for density in _CHUNKS_PER_BASE)
    flops = flops_per_base(network, length, _CHUNKS_PER_BASE)
    print(f"\nin windows of {length:,} bases, at {chunks} chunks a base")
    print(f"{'model FLOPs a base':24}{flops.forward / 1e6:>10,.1f} M forward, {flops.backward / 1e6:,.1f} M backward")
    print(f"{'FLOPs a step':24}{flops.total * config.data.global_batch * length / 1e12:>10,.2f} T")
    print(f"{'weights and optimizer':24}{state_bytes(network) / 2**30:>10,.2f} GiB over all ranks, fp32")
    kept = activation_bytes(network, length, _CHUNKS_PER_BASE, checkpointing=config.engine.activation_checkpointing)
    print(f"{'activations a window':24}{kept / 2**30:>10,.2f} GiB, fp32")
    return 0
