"""`dnachunker annotate`: learn the class or the number of every base, and score held-out regions once."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dnachunker.dataprep.genomes.features import Feature
from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.input_file import hash_file
from dnachunker.downstream.classification.methods import save_network
from dnachunker.downstream.exported import open_exported
from dnachunker.downstream.output_folder import claim_folder
from dnachunker.downstream.studies.tables import write_study
from dnachunker.downstream.windows import default_window
from dnachunker.foundations.atomic_files import new_folder, write_json
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.progress import Progress
from dnachunker.foundations.typed_config import load_config

from .config import AnnotateConfig, Method
from .data import LabelledGenome, Split, split_genome
from .decoding import count_chain
from .labels import BaseLabels, paint, read_annotation
from .markov import train_markov
from .networks import predict, train
from .outputs import curves_figure, table_rows, tenths_figure, write_segments
from .scores import score_bases
from .track_outputs import track_notes, track_rows, write_values
from .track_values import TrackValues, kmer_means, read_values, score_values

RESULT = "result.json"
PREDICTIONS, PREDICTED_VALUES = "predicted.bed", "predicted.bw"
METRICS = "metrics.json"
_OF_CLASSES = ("classes", "background", "ignore", "strands", "class_weight_exponent")  # keys without use for a track

DESCRIPTIONS: dict[Method, str] = {
    "full": "pretrained, all weights fine-tuned",
    "probe": "pretrained and frozen, linear head per base",
    "random-full": "the same network with random weights, all trained",
    "cnn": "dilated convolutions on one-hot bases, with as many parameters as the network",
    "markov": "hidden Markov model over classes on each strand, whose bases follow Markov chains",
    "kmer": "mean number of the training bases with the same letter and the same three bases on either side",
}


@dataclass(frozen=True)
class Inputs:
    """What is annotated: features of `annotations`, or the numbers of `track`, of which one is given.

    Regions are as in `choose_regions`; `train` empty means all that is not held out.
    """

    model: Path
    fasta: Path
    annotations: tuple[Path, ...]
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    track: Path | None = None


def annotate(inputs: Inputs, methods: Sequence[Method], output: Path, config: AnnotateConfig) -> Path:
    """Train every method with every seed; finished results in `output` are kept if their options are the same.

    Returns:
        The table written.

    Raises:
        BadInput: no such model, file or region; regions that overlap; a class without a base to learn from; regions
            without two numbers that differ; a method or a key that is not for classes, or not for a track; `output`
            was made with other options. Nothing is half written.
    """
    exported = open_exported(inputs.model)
    _check_methods(methods, inputs.track)
    _check_keys(config, inputs.track)
    with Genome(inputs.fasta) as genome:
        split = split_genome(genome, inputs.train, inputs.validation, inputs.test)
        features: list[Feature] = []
        labels: BaseLabels | TrackValues
        if inputs.track is not None:
            labels = read_values(inputs.track, genome.lengths, vars(split), log=config.log_values)
        else:
            features = read_annotation(inputs.annotations, genome.lengths, config)
            labels = paint(features, genome.lengths, config, strands=config.strands)
            _check_classes(labels, split)
        window = config.window or default_window(exported)
        flank = window // 8 if config.flank is None else config.flank
        if window <= 2 * flank:
            raise BadInput(f"window={window} and flank={flank}: a window has to be longer than its two flanks")
        claim_folder(output, {
            "verb": "annotate", "model": exported.fingerprint,
            "fasta": hash_file(inputs.fasta), "annotations": [hash_file(path) for path in inputs.annotations],
            **({} if inputs.track is None else {"track": hash_file(inputs.track)}),
            **{name: [str(region) for region in getattr(split, name)] for name in ("train", "validation", "test")},
            **config.model_dump(mode="json"),
        })  # fmt: skip
        data = LabelledGenome(genome, exported, labels, window, flank)
        records: dict[str, list[Any]] = {}
        for method in methods:
            for seed in range(1 if method in ("markov", "kmer") else config.seeds):
                folder = output / method / f"seed-{seed}"
                if not (folder / RESULT).is_file():
                    _run(data, split, features, method, seed, folder, config)
                records.setdefault(method, []).append(json.loads((folder / RESULT).read_text("utf-8")))
        write_json(output / METRICS, records)
        described = [f"{method}: {DESCRIPTIONS[method]}." for method in methods]
        if isinstance(labels, TrackValues):
            notes = [*track_notes(labels, split, config), *described]
            write_study(output, "A number for every base", track_rows(records), tenths_figure(records), notes)
        else:
            notes = [*_notes(labels, split, config), *described]
            write_study(output, "A class for every base", table_rows(records), curves_figure(records), notes)
    return output / "table.md"


def _check_methods(methods: Sequence[Method], track: Path | None) -> None:
    if track is not None and "markov" in methods:
        raise BadInput("--method markov has classes as states, and --track has numbers; take --method kmer")
    if track is None and "kmer" in methods:
        raise BadInput("--method kmer is for a --track; take --method markov for the classes of --annotation")


def _check_keys(config: AnnotateConfig, track: Path | None) -> None:
    usual = load_config(AnnotateConfig, "annotate", kind="downstream")
    given, unused = ("--annotation", ("log_values",)) if track is None else ("--track", _OF_CLASSES)
    for key in unused:
        if getattr(config, key) != getattr(usual, key):
            raise BadInput(f"{key}: this key does nothing with {given}; leave it as in the preset annotate")


def _check_classes(labels: BaseLabels, split: Split) -> None:
    for name in ("train", "validation", "test"):
        counts = labels.counts(getattr(split, name))
        if name == "train" and not counts.all():
            missing = labels.classes[int(np.flatnonzero(counts == 0)[0])]
            raise BadInput(
                f"class {missing!r} has no base in the training regions; train on other regions, or leave the class "
                f"out with ignore=[{missing.rstrip('+-')}]"
            )
        if (counts > 0).sum() < 2:
            raise BadInput(f"the {name} regions have bases of fewer than two classes; choose regions with genes")


def _run(
    data: LabelledGenome, split: Split, features: Sequence[Feature], method: Method, seed: int, folder: Path,
    config: AnnotateConfig,
) -> None:  # fmt: skip
    network: nn.Module | None = None
    record: dict[str, Any] = {"method": method, "seed": seed}
    if method == "markov":
        probabilities, record["parameters"] = _markov(data, split, features, config)
    elif method == "kmer":
        probabilities, record["parameters"] = _kmer(data, split)
    else:
        with Progress(f"{method} seed {seed}", config.steps, "step") as bar:

            def on_step(step: int, loss: float) -> None:
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                bar.update(step - bar.n)

            fitted = train(data, split, method, config, seed, on_step=on_step)
        network = fitted.network
        probabilities = predict(data, network, split.test, config)
        record |= {
            "parameters": fitted.parameters, "validation": fitted.validation, "step": fitted.step,
            "diverged": fitted.diverged,
            "history": [{"step": step, "loss": loss, "validation": score} for step, loss, score in fitted.history],
        }  # fmt: skip
    truth = data.read_labels(split.test)
    lengths = [region.length for region in split.test]
    probabilities = np.nan_to_num(probabilities)
    labels = data.labels
    with new_folder(folder) as partial:
        if isinstance(labels, TrackValues):
            values = probabilities[:, 0]
            record["scores"] = score_values(truth, values, lengths, resamples=config.bootstrap)
            restored = values * labels.spread + labels.mean
            write_values(partial / PREDICTED_VALUES, split.test, restored, data.genome.lengths)
        else:
            chain = count_chain((data.read(region)[1] for region in split.train), len(labels.classes))
            decoded = chain.decode(probabilities, lengths)
            record["scores"] = score_bases(
                truth, probabilities, decoded, lengths, labels.classes, resamples=config.bootstrap
            )
            write_segments(partial / PREDICTIONS, split.test, probabilities, decoded, labels.classes)
        if network is not None and method != "cnn":
            save_network(data.exported, network, data.labels.classes, partial / "model")
        write_json(partial / RESULT, record)


def _markov(
    data: LabelledGenome, split: Split, features: Sequence[Feature], config: AnnotateConfig
) -> tuple[NDArray[np.float32], int]:
    """Class probabilities of the test regions, and the number of counted parameters.

    The states are classes on a strand where every feature has a strand, also if the classes themselves have none.
    """
    lengths = data.genome.lengths
    stranded = config.strands or all(feature.strand in "+-" for feature in features)
    states = paint(features, lengths, config, strands=stranded)
    merged = np.arange(len(states.classes)) // (2 if stranded and not config.strands else 1)
    table = _codes(data).astype(np.int64)
    painted = replace(data, labels=states)
    read = [painted.read(region) for region in split.train]
    segmenter = train_markov(
        [(table[ids], labels) for ids, labels in read], states.opposite, merged, config.markov_order
    )
    found = [segmenter.predict(table[painted.read(region)[0]]) for region in split.test]
    return np.concatenate(found).astype(np.float32), segmenter.emissions.size + segmenter.chain.transitions.size


def _kmer(data: LabelledGenome, split: Split) -> tuple[NDArray[np.float32], int]:
    table = _codes(data)
    trained = ((table[ids], values) for ids, values in map(data.read, split.train))
    found, size = kmer_means(trained, (table[data.read(region)[0]] for region in split.test))
    return found[:, None], size


def _codes(data: LabelledGenome) -> NDArray[np.uint8]:
    """(vocabulary,) codes of token ids: A, C, G, T as 0 to 3, all others 4."""
    table = np.full(data.exported.config.vocab_size, 4, np.uint8)
    table[[data.exported.ids[letter] for letter in "ACGT"]] = range(4)
    return table


def _notes(labels: BaseLabels, split: Split, config: AnnotateConfig) -> list[str]:
    priorities = ", then ".join(
        f"{'not scored' if level.name in (None, *config.ignore) else level.name} ({' '.join(level.kinds)})"
        for level in config.classes
    )
    trained = ", ".join(
        f"{name} {count:,}" for name, count in zip(labels.classes, labels.counts(split.train), strict=True)
    )
    return [
        f"Trained on {sum(region.length for region in split.train):,} bases: {trained}. "
        f"Tested once on {', '.join(map(str, split.test))}.",
        f"The validation regions ({', '.join(map(str, split.validation))}) decide when training stops. No setting was "
        "tuned on the test regions.",
        f"A base has the first class that covers it: {priorities}; all others are {config.background}.",
        "F1 and segments are those of the decoded classes: the path of classes that is most likely under the "
        "probabilities of the bases and a Markov chain over classes, counted on the training regions.",
        "AUPRC is of the probabilities, one class against the rest; a random order of the bases scores "
        "the class's share of them.",
        "A segment is a run of bases of one class. Exact: both ends are right. Overlap: intersection / union with one "
        "predicted segment is at least 0.5.",
        "± is the standard deviation over seeds. The interval is a bootstrap over stretches of 10,000 bases "
        f"({config.bootstrap:,} resamples).",
    ]
