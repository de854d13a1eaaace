"""The verb `generate`: its arguments. The modules that do the work are imported when it runs."""

import argparse
from typing import Any


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command."""
    generate = verbs.add_parser(
        "generate", formatter_class=argparse.RawDescriptionHelpFormatter, help="write new sequence with a causal model",
        description="Let a causal model (pretrained with model.causal=true) write sequence, base by base, as FASTA.\n"
        "Only A, C, G and T are drawn. The headers name the options. A record holds what follows the prompt.",
        epilog="examples:\n"
        "  dnachunker generate --model exported/causal --count 100 --length 1024 --output new.fa\n"
        "  dnachunker generate --model exported/causal --prompt ACGTACGT --temperature 0.8 --top-k 3 --output new.fa\n"
        "  dnachunker generate --model exported/causal --count 100 --output new.fa --compare genome.fa\n\n"
        "The same seed and prompt give the same sequences, whatever --count, --batch and the other prompts are.\n"
        "A model can write more than its pretraining length, but it was not trained to do so.",
    )  # fmt: skip
    generate.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    generate.add_argument("--output", required=True, metavar="FILE", help="FASTA to create")
    generate.add_argument("--count", type=int, default=1, metavar="N", help="sequences per prompt (default: 1)")
    generate.add_argument(
        "--length", type=int, metavar="BASES", help="length of a sequence (default: as in pretraining)"
    )
    generate.add_argument("--prompt", metavar="FASTA|LETTERS", help="sequence to continue; every record of a FASTA")
    generate.add_argument(
        "--temperature", type=float, default=1.0, metavar="T",
        help="below 1 favours likely bases, 0 always takes the likeliest (default: %(default)s)",
    )  # fmt: skip
    generate.add_argument(
        "--top-k", type=int, default=4, metavar="K", help="draw among the K likeliest (default: 4, all)"
    )
    generate.add_argument(
        "--top-p", type=float, default=1.0, metavar="P",
        help="draw among the fewest likeliest bases that together have probability P (default: %(default)s)",
    )  # fmt: skip
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: %(default)s)")
    generate.add_argument("--batch", type=int, default=32, metavar="N", help="sequences at a time (default: 32)")
    generate.add_argument(
        "--compare", metavar="FASTA",
        help="real sequence; OUTPUT.spectrum/ compares its k-mer frequencies with those of the output",
    )  # fmt: skip
    generate.set_defaults(run_verb=_generate)


def _generate(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from .generate import GenerateOptions, generate, spectrum_folder

    options = GenerateOptions(
        count=arguments.count, length=arguments.length, prompt=arguments.prompt, temperature=arguments.temperature,
        top_k=arguments.top_k, top_p=arguments.top_p, seed=arguments.seed, batch=arguments.batch,
        compare=Path(arguments.compare) if arguments.compare else None,
    )  # fmt: skip
    output = Path(arguments.output)
    count = generate(Path(arguments.model), output, options)
    if options.compare is not None:
        print((spectrum_folder(output) / "table.md").read_text("utf-8"))
    print(f"{count:,} sequences; wrote {output}")
    return 0
