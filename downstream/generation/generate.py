"""`dnachunker generate`: new sequence from a causal model, as FASTA."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.downstream.exported import Exported, batches, open_exported
from dnachunker.downstream.output_folder import check_place
from dnachunker.downstream.windows import default_window
from dnachunker.foundations.atomic_files import new_file
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.progress import Progress
from dnachunker.model.alphabet import BASES

from .spectrum import RealSequence

_LINE = 80


@dataclass(frozen=True)
class GenerateOptions:
    """Options of `generate`.

    Attributes:
        count: sequences per prompt.
        length: bases of a sequence without its prompt; None for the pretraining length.
        prompt: letters, or a FASTA file of which each record is a prompt; None to start from nothing.
        temperature: divides the logits; 0 always takes the likeliest base.
        top_k: bases are drawn among this many likeliest ones.
        top_p: bases are drawn among the fewest likeliest ones that together have this probability.
        seed: sequence n of a prompt is the same whatever `count`, `batch` and the other prompts are.
        batch: sequences generated at a time.
        compare: FASTA of real sequence; `spectrum_folder` compares its k-mer frequencies with those of the output.
    """

    count: int = 1
    length: int | None = None
    prompt: str | None = None
    temperature: float = 1.0
    top_k: int = len(BASES)
    top_p: float = 1.0
    seed: int = 0
    batch: int = 32
    compare: Path | None = None


def generate(model: Path, output: Path, options: GenerateOptions) -> int:
    """Write sequences; return how many.

    Raises:
        BadInput: no such model, or not a causal one; an option out of its range; a prompt that is no nucleotide
            sequence; an `output` or a spectrum that exists; a `compare` too short, or a `length` too short for it.
    """
    _check(options)
    for path in (output, spectrum_folder(output)) if options.compare else (output,):
        if path.exists():
            raise BadInput(f"{path}: already exists; choose another --output")
    check_place(output)
    exported = open_exported(model)
    network = exported.network("causal")
    prompts = _prompts(exported, options.prompt)
    length = options.length or default_window(exported)
    count = len(prompts) * options.count
    real = RealSequence.read(options.compare, length=length, count=count) if options.compare else None
    how = (
        f"length={length} temperature={options.temperature:g} top_k={options.top_k} top_p={options.top_p:g} "
        f"seed={options.seed} model={exported.fingerprint[:12]}"
    )
    written: list[str] = []
    with new_file(output) as partial:
        with partial.open("w", encoding="ascii") as file, Progress("generate", count * length, "base") as bar:
            for name, ids in prompts.items():
                for rows in batches(options.count, options.batch):
                    found = _write(network, exported, ids, length, range(options.count)[rows], options, bar)
                    for number, letters in enumerate(found, len(written) + 1):
                        lines = "\n".join(letters[at : at + _LINE] for at in range(0, length, _LINE))
                        file.write(f">generated_{number} prompt={name} {how}\n{lines}\n")
                    written += found
        if real is not None:
            real.compare(written, spectrum_folder(output), seed=options.seed)
    return len(written)


def spectrum_folder(output: Path) -> Path:
    """Where the comparison of an output with real sequence is written."""
    return output.with_name(output.name + ".spectrum")


def _check(options: GenerateOptions) -> None:
    ranges = {
        "--count": (options.count, options.count >= 1, "1 or more"),
        "--length": (options.length, options.length is None or options.length >= 1, "1 or more"),
        "--batch": (options.batch, options.batch >= 1, "1 or more"),
        "--temperature": (options.temperature, options.temperature >= 0, "0 or more"),
        "--top-k": (options.top_k, 1 <= options.top_k <= len(BASES), f"1 to {len(BASES)}, the number of bases"),
        "--top-p": (options.top_p, 0 < options.top_p <= 1, "above 0 and at most 1"),
        "--seed": (options.seed, 0 <= options.seed < 2**64, "0 to 2**64 - 1"),
    }
    for name, (value, good, wanted) in ranges.items():
        if not good:
            raise BadInput(f"{name} {value}: must be {wanted}")


def _prompts(exported: Exported, prompt: str | None) -> dict[str, NDArray[np.int64]]:
    """Token ids of each prompt by name."""
    if prompt is None:
        return {"none": np.empty(0, np.int64)}
    if not os.path.isfile(prompt):  # Path.is_file raises an error where the letters are too long for a file name
        if set(prompt.upper()) - set(BASES + "N") or not prompt:
            raise BadInput(f"--prompt {prompt[:60]!r}: neither a FASTA file nor letters ACGTN")
        return {f"{len(prompt)}_letters": exported.encode(prompt)}
    with Genome(Path(prompt)) as genome:
        return {name: exported.encode(genome.fetch(name, 0, length)) for name, length in genome.lengths.items()}


def _write(
    network: Any,
    exported: Exported,
    prompt: NDArray[np.int64],
    length: int,
    numbers: range,
    options: GenerateOptions,
    bar: Any,
) -> list[str]:
    """Generate the sequences `numbers` of a prompt: read [BOS] and the prompt, then draw base after base."""
    bases = torch.tensor([exported.ids[letter] for letter in BASES], device=exported.device)
    chances = torch.from_numpy(np.stack([_uniform(options.seed, prompt, number, length) for number in numbers], axis=1))
    reading = network.recurrence(len(numbers))
    for token in (exported.ids["bos"], *prompt.tolist()):
        logits = reading.step(torch.full((len(numbers),), token, device=exported.device))
    drawn = []
    for chance in chances.to(exported.device):
        drawn.append(draw(logits[:, bases], chance, options.temperature, options.top_k, options.top_p))
        bar.update(len(numbers))
        if len(drawn) < length:
            logits = reading.step(bases[drawn[-1]])
    letters = np.frombuffer(BASES.encode(), np.uint8)[torch.stack(drawn, dim=1).cpu().numpy()]
    return [row.tobytes().decode() for row in letters]


def draw(logits: Tensor, chance: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Draw one column in each row.

    Args:
        logits: (B, C).
        chance: (B,) float64, uniform in [0, 1).
        temperature, top_k, top_p: as in `GenerateOptions`; top-p adds up the probabilities after the temperature.

    Returns:
        (B,) int64.
    """
    if temperature == 0:
        return logits.argmax(-1)
    shares, columns = torch.softmax(logits.double() / temperature, dim=-1).sort(dim=-1, descending=True, stable=True)
    likelier = shares.cumsum(-1) - shares
    kept = (likelier < top_p) & (torch.arange(shares.shape[1], device=shares.device) < top_k)
    reached = (shares * kept).cumsum(-1)
    below = (reached <= chance.unsqueeze(-1) * reached[:, -1:]).sum(-1)
    return columns.gather(-1, below.unsqueeze(-1)).squeeze(-1)


def _uniform(seed: int, prompt: NDArray[np.int64], number: int, length: int) -> NDArray[np.float64]:
    """(length,) uniform draws in [0, 1) for sequence `number` of a prompt; independent of the batch."""
    digest = hashlib.sha256(prompt.tobytes()).digest()
    return np.random.default_rng((seed, number, int.from_bytes(digest))).random(length)
