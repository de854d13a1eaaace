"""Names that mean something to a shell, a path or a page stay names on their way from FASTA to corpus and card."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

HOSTILE = ["$(touch${IFS}PWNED)", "`touch${IFS}PWNED`", ";touch${IFS}PWNED", "../../PWNED", "<script>alert(1)</script>"]


def test_a_contig_name_is_never_run(tmp_path: Path, dnachunker: Callable[..., Any]) -> None:
    folder = tmp_path / "a $(touch PWNED);b"
    folder.mkdir()
    bases = "ACGTTGCAAC" * 300
    (folder / "x.fa").write_text("".join(f">{name} {number}\n{bases}\n" for number, name in enumerate(HOSTILE)))
    config = "sources: {x: {path: x.fa, species: 'x\\n$(touch PWNED)'}}\nmin_bases: 1\nduplicates: keep\n"
    (folder / "corpus.yaml").write_text(config)
    done = dnachunker("shard", "--config", "corpus.yaml", "--output", "$(touch PWNED)", "--ray", "none", cwd=folder)
    assert done.returncode == 0, done.stderr
    for name in HOSTILE:
        shown = dnachunker("corpus", "show", folder / "$(touch PWNED)", f"{name}:1-10", cwd=folder)
        assert bases[:10] in shown.stdout, shown.stderr
    assert "<script>alert(1)" not in (folder / "$(touch PWNED)" / "card.html").read_text()
    assert not list(tmp_path.rglob("PWNED"))
    assert not list(tmp_path.parent.glob("PWNED"))
