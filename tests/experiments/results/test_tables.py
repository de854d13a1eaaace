"""The tables of results: the loss that is compared, and its baselines."""

from typing import Any

from dnachunker.experiments.config import SweepConfig
from dnachunker.experiments.results.figures import curve_figure
from dnachunker.experiments.results.rows import Row
from dnachunker.experiments.results.tables import markdown
from dnachunker.foundations.typed_config import load_config


def result(loss: str, value: float, order5: float) -> dict[str, Any]:
    losses = {f"{loss}_loss": value, "order0_loss": 1.36, "order5_loss": order5}
    metrics = dict(losses)
    for species, shift in (("Mus", 0.0), ("E. coli", 0.02)):
        metrics |= {f"species.{species}.{name}": loss + shift for name, loss in losses.items()}
        metrics |= {f"species.{species}.compression.stage{stage}": 0.3 + stage / 10 for stage in (0, 1)}
    return {"metrics": metrics, "curve": [[8192.0, 1.38], [16384.0, value]], "warnings": []}


def rows(loss: str, *order5: float) -> list[Row]:
    return [
        Row(f"row {number}", {seed: result(loss, 1.25 + number / 10 + seed / 100, value) for seed in (0, 1)})
        for number, value in enumerate(order5)
    ]


def test_causal_rows_are_compared_by_the_loss_of_the_next_base() -> None:
    sweep = load_config(SweepConfig, "causal", kind="experiments")
    found = rows("next_base", 1.27, 1.27)
    text = markdown(sweep, found)
    assert "| next-base loss | less that of row 0, by seed | warnings |" in text
    assert "| 1.3550 ± 0.0071 | +0.1000 ± 0.0000 |" in text
    assert "- next-base loss in nats, held out." in text
    assert "order 0 1.3600, order 5 1.2700; uniform" in text
    assert "MASK" not in text + curve_figure(found)


def test_rows_scored_on_positions_of_their_own_have_baselines_of_their_own() -> None:
    sweep = load_config(SweepConfig, "spans", kind="experiments")
    same, other = rows("masked", 1.27, 1.27), rows("masked", 1.27, 1.28)
    assert "same positions: order 0 1.3600, order 5 1.2700; uniform" in markdown(sweep, same)
    told = "row 0: order 0 1.3600, order 5 1.2700; row 1: order 0 1.3600, order 5 1.2800; uniform"
    assert told in markdown(sweep, other)
    lines = [curve_figure(found).count("stroke-dasharray") for found in (same, other)]
    assert lines[0] > lines[1], "no one line stands for both rows"


def test_analyses_have_a_line_for_each_number_whatever_its_magnitude() -> None:
    sweep = load_config(SweepConfig, "causal", kind="experiments")
    found = rows("next_base", 1.27, 1.27)
    for row in found:
        for seed, result_ in row.results.items():
            result_["metrics"] |= {
                "spectrum.1.generated": 1e-6 * (1 + seed),
                "spectrum.8.generated": 0.08,
                "probe.x.mcc": 0.5,
            }
    _, results, *_, analyses, _ = (text.splitlines() for text in markdown(sweep, found).split("\n## "))
    assert "x, MCC | warnings" in results[2]
    assert "spectrum" not in results[2]
    assert analyses[:3] == ["Analyses", "", "|  | row 0 | row 1 |"]
    assert "| spectrum 1 generated | 1.50e-06 ± 7.07e-07 | 1.50e-06 ± 7.07e-07 |" in analyses
    assert "| spectrum 8 generated | 0.0800 ± 0.00 | 0.0800 ± 0.00 |" in analyses


def test_every_species_has_its_loss_its_baselines_and_its_cuts() -> None:
    sweep = load_config(SweepConfig, "species", kind="experiments")
    text = markdown(sweep, rows("masked", 1.27, 1.27))
    _, losses, cuts, _ = text.split("\n## ")[1:]
    assert losses.startswith("Held-out [MASK] loss of each species")
    assert "|  | n | Mus | E. coli |" in losses
    assert "| row 1 | 2 | 1.3550 ± 0.0071 | 1.3750 ± 0.0071 |" in losses
    assert "| Markov, order 5 |  | 1.2700 | 1.2900 |" in losses
    assert "| Mus, stage 0 | Mus, stage 1 | E. coli, stage 0 | E. coli, stage 1 |" in cuts
    assert "| row 0 | 2 | 0.300 ± 0.000 | 0.400 ± 0.000 |" in cuts
