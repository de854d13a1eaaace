"""`dnachunker generate`: draws follow the model, seeds and options; spectra distinguish kinds of sequence."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from dnachunker.cli import main
from dnachunker.downstream.generation import spectrum
from dnachunker.downstream.generation.generate import draw
from dnachunker.downstream.generation.spectrum import LENGTHS, RealSequence, divergence


def generate(model: Path, output: Path, *more: str) -> int:
    return main(["generate", "--model", str(model), "--output", str(output), *more])


def records(path: Path) -> dict[str, str]:
    found = {}
    for text in path.read_text().split(">")[1:]:
        header, *lines = text.splitlines()
        assert all(len(line) == 80 for line in lines[:-1])
        found[header] = "".join(lines)
    return found


def test_a_sequence_depends_on_its_seed_only(causal: Path, tmp_path: Path) -> None:
    def run(name: str, *more: str) -> list[str]:
        assert generate(causal, tmp_path / name, "--length", "90", *more) == 0
        return list(records(tmp_path / name).values())

    five = run("a.fa", "--count", "5", "--batch", "2", "--seed", "7")
    assert [len(text) for text in five] == [90] * 5
    assert set("".join(five)) == set("ACGT")
    assert len(set(five)) == 5
    assert run("b.fa", "--count", "3", "--seed", "7") == five[:3]
    assert run("c.fa", "--count", "3", "--seed", "8") != five[:3]
    header = next(iter(records(tmp_path / "a.fa")))
    assert re.fullmatch(
        "generated_1 prompt=none length=90 temperature=1 top_k=4 top_p=1 seed=7 model=[0-9a-f]{12}", header
    )


def test_a_prompts_sequences_are_the_same_beside_other_prompts(causal: Path, tmp_path: Path) -> None:
    """One prompt has more letters than a file name can have."""
    one, two = "ACGTT" * 60, "GATTACA"
    (tmp_path / "prompts.fa").write_text(f">one\n{one}\n>two\n{two}\n")

    def run(prompt: str, count: int) -> list[str]:
        output = tmp_path / f"{len(prompt)}_{count}.fa"
        assert generate(causal, output, "--prompt", prompt, "--length", "40", "--count", str(count)) == 0
        return list(records(output).values())

    both = run(str(tmp_path / "prompts.fa"), 3)
    assert len(set(both)) == 6
    assert run(one, 3) == both[:3]
    assert run(two, 2) == both[3:5]


def test_the_coldest_draws_are_the_models_likeliest_bases_after_each_prompt(causal: Path, tmp_path: Path) -> None:
    prompts = {"one": "ACGTNACGT", "two": "TTTT"}
    fasta = tmp_path / "prompts.fa"
    fasta.write_text("".join(f">{name} of two\n{letters}\n" for name, letters in prompts.items()))
    assert generate(causal, tmp_path / "new.fa", "--prompt", str(fasta), "--temperature", "0", "--length", "12") == 0
    found = records(tmp_path / "new.fa")
    assert [header.split()[1] for header in found] == ["prompt=one", "prompt=two"]
    model = AutoModelForCausalLM.from_pretrained(causal, trust_remote_code=True).eval()
    for prompt, letters in zip(prompts.values(), found.values(), strict=True):
        ids = [2, *("ACGTN".index(letter) + 7 for letter in prompt)]
        for letter in letters:
            with torch.no_grad():
                best = int(model(torch.tensor([ids])).logits[0, -1, 7:11].argmax())
            assert "ACGT"[best] == letter
            ids.append(best + 7)
    assert generate(causal, tmp_path / "same.fa", "--prompt", "tttt", "--top-k", "1", "--length", "12") == 0
    assert list(records(tmp_path / "same.fa").values()) == [found[next(h for h in found if "two" in h)]]


def test_draws_have_the_frequencies_that_temperature_top_k_and_top_p_leave() -> None:
    shares = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
    chance = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    logits = shares.log().expand(10_000, 4)

    def frequencies(temperature: float, top_k: int, top_p: float) -> list[float]:
        drawn = draw(logits, chance, temperature, top_k, top_p)
        return (torch.bincount(drawn, minlength=4) / 10_000).tolist()

    assert frequencies(1, 4, 1) == pytest.approx([0.1, 0.4, 0.2, 0.3], abs=2e-4)
    assert frequencies(0.5, 4, 1) == pytest.approx([1 / 30, 16 / 30, 4 / 30, 9 / 30], abs=2e-4)
    assert frequencies(1, 2, 1) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=2e-4)
    assert frequencies(1, 4, 0.75) == pytest.approx([0, 4 / 9, 2 / 9, 3 / 9], abs=2e-4)
    assert frequencies(1, 4, 0.05) == frequencies(0, 4, 1) == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--top-k", "5"), "--top-k 5"),
        (("--top-p", "0"), "--top-p 0.0"),
        (("--temperature", "-1"), "--temperature -1.0"),
        (("--prompt", "HELLO"), "neither a FASTA file nor letters"),
        (("--length", "0"), "--length 0"),
        (("--length", "40", "--count", "50", "--compare", "FASTA"), "fewer than 150 pieces"),
        (("--length", "7", "--compare", "FASTA"), "--length 7: --compare counts k-mers of up to 8"),
    ],
)
def test_impossible_options_give_one_line(
    causal: Path, fasta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    more = tuple(str(fasta) if argument == "FASTA" else argument for argument in more)
    assert generate(causal, tmp_path / "new.fa", *more) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", [True, False])
def test_a_spectrum_that_exists_is_left_alone(
    causal: Path, fasta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: bool
) -> None:
    there = tmp_path / "new.fa.spectrum"
    kept = there / "mine.txt" if folder else there
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    assert generate(causal, tmp_path / "new.fa", "--length", "40", "--compare", str(fasta)) == 2
    assert f"{there}: already exists" in capsys.readouterr().err
    assert kept.read_text() == "mine"
    assert not (tmp_path / "new.fa").exists()
    assert generate(causal, tmp_path / "new.fasta", "--length", "40", "--compare", str(fasta)) == 0
    assert (tmp_path / "new.fasta.spectrum" / "table.csv").is_file()


def test_models_that_cannot_generate_or_be_masked_are_refused(
    causal: Path, export: Path, fasta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(export, tmp_path / "new.fa") == 2
    assert "not causal" in capsys.readouterr().err
    reference = fasta.read_text().splitlines()[1][9]
    record = f"a\t10\t.\t{reference}\t{'A' if reference != 'A' else 'C'}\t.\t.\t.\n"
    header = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    (tmp_path / "in.vcf").write_text(header + record)
    verb = ["score-variants", "--model", str(causal), "--fasta", str(fasta), "--vcf", str(tmp_path / "in.vcf")]
    assert main([*verb, "--output", str(tmp_path / "out.vcf")]) == 2
    assert "no predictions at masks" in capsys.readouterr().err


def test_divergence_is_that_of_its_definition() -> None:
    assert divergence(np.array([3.0, 1, 0, 0]), np.array([6.0, 2, 0, 0])) == 0
    assert divergence(np.array([1.0, 0]), np.array([0.0, 5])) == 1
    expected = (np.log2(1 / 0.75) + 0.5 * np.log2(0.5 / 0.75) + 0.5 * np.log2(0.5 / 0.25)) / 2
    assert divergence(np.array([2.0, 0]), np.array([1.0, 1])) == pytest.approx(expected)


def test_kmers_of_both_strands_are_counted_whatever_the_piece_length(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "ACGTTGCANNGATTACAGGG"
    strands = (text, text[::-1].translate(str.maketrans("ACGT", "TGCA")))
    codes = spectrum._codes(text.lower())
    assert codes.dtype == np.int8  # a byte per base, because whole genomes are in memory
    for k in (1, 2, 5):
        words = ["".join(letters) for letters in itertools.product("ACGT", repeat=k)]
        expected = [sum(strand.startswith(word, at) for strand in strands for at in range(20)) for word in words]
        for piece in (1, 4, 100):
            monkeypatch.setattr(spectrum, "_PIECE", piece)
            assert spectrum._counts([codes], k).tolist() == expected


def test_a_spectrum_puts_chains_and_copies_where_they_belong(tmp_path: Path) -> None:
    """Real sequence from an order-1 chain: order 0 is far from k = 2 on, order 3 and real sequence are close."""
    random = np.random.default_rng(0)
    step = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1], [0.1, 0.1, 0.1, 0.7], [0.1, 0.7, 0.1, 0.1]]).cumsum(1)
    base, letters = 0, []
    for chance in random.random(120_000):
        base = int((step[base, :3] < chance).sum())
        letters.append("ACGT"[base])
    (tmp_path / "real.fa").write_text(">one\n" + "".join(letters) + "\n")
    even = ["".join(random.choice(list("ACGT"), 500)) for _ in range(40)]
    real = RealSequence.read(tmp_path / "real.fa", length=500, count=40)
    assert len(real.left_out) == 40
    assert sum(int((codes >= 0).sum()) for codes in real.reference) == 100_000
    real.compare(even, tmp_path / "out", seed=0)
    lines = (tmp_path / "out" / "table.csv").read_text().splitlines()
    assert lines[0] == 'k,generated,Markov order 0,Markov order 3,Markov order 5,"real, left out"'
    values = {int(k): list(map(float, rest)) for k, *rest in (line.split(",") for line in lines[1:])}
    assert list(values) == list(LENGTHS)
    for k in (2, 3, 4):
        generated, order0, order3, order5, left_out = values[k]
        assert min(generated, order0) > 10 * max(order3, order5, left_out)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"table.csv", "table.md", "figure.svg"}
