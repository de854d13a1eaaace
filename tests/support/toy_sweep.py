"""A small sweep that runs stub_dnachunker.py in place of the real command, and the argv that starts it."""

import sys
from pathlib import Path

STUB = Path(__file__).with_name("stub_dnachunker.py")
CONFIG = f"""
name: toy
question: Does the harness work?
seeds: [0, 1]
scale: tiny
scales:
  tiny:
    preset: tiny
    overrides: [launch.processes=1]
    corpus: {{config: bacterium}}
    budget: {{bases: 65536}}
    evaluations: 2
rows:
  plain: []
  conv: [model.mixer=conv]
probe: {{tasks: [promoters], method: probe}}
analyses:
  cuts: {{command: [segment, --model, "{{export}}", --output, "{{output}}"], read: summary.json}}
plots: [{{x: trunk_masked, y: masked_loss, pareto: true}}]
tracking: {{enabled: false}}
command: ["{sys.executable}", "{STUB}"]
"""


def sweep_command(config: Path, *arguments: object) -> list[str]:
    """The argv of `dnachunker sweep` on a config; the folder `tasks` lies beside the config."""
    probed = f"probe.folder={config.parent / 'tasks'}"
    return [sys.executable, "-m", "dnachunker", "sweep", "--config", str(config), *map(str, arguments), probed]
