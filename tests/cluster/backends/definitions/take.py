"""Run as a script: writes the schema of one version of a custom resource definition as compressed JSON.

Descriptions are left out.

python take.py DEFINITION.yaml VERSION OUTPUT.json.gz
"""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import yaml


def bare(schema: Any, *, names: bool = False) -> Any:
    """The schema without its descriptions.

    Args:
        names: the keys of `schema` are names of properties, so a key `description` is kept.
    """
    if isinstance(schema, dict):
        kept = {key: value for key, value in schema.items() if names or key != "description"}
        return {key: bare(value, names=key == "properties" and not names) for key, value in kept.items()}
    return [bare(item) for item in schema] if isinstance(schema, list) else schema


if __name__ == "__main__":
    definition = yaml.safe_load(Path(sys.argv[1]).read_text("utf-8"))
    (found,) = (v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == sys.argv[2])
    text = json.dumps(bare(found), separators=(",", ":"), sort_keys=True)
    Path(sys.argv[3]).write_bytes(gzip.compress(text.encode(), mtime=0))
