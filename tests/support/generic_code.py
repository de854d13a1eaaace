"""Run as a script: drive transformers and peft with an exported folder, where this project cannot be imported.

    python -I generic_code.py FOLDER SCRATCH

Writes SCRATCH/result.json: for each check its traceback, or null.
"""

import importlib.abc
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER, SCRATCH = sys.argv[1], Path(sys.argv[2])


class _RefuseThisProject(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "dnachunker":
            raise ModuleNotFoundError(f"an exported folder must not need {name}")


sys.meta_path.insert(0, _RefuseThisProject())
os.environ.update(HF_HOME=str(SCRATCH / "hf"), HF_HUB_OFFLINE="1", DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="")

import numpy as np  # noqa: E402  (after the import hook and the environment)
import torch  # noqa: E402
import transformers  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, Trainer, TrainingArguments  # noqa: E402
from transformers.dynamic_module_utils import get_class_from_dynamic_module  # noqa: E402

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
SEQUENCES = ["ACGTTGCAACGTAC", "ACGGTT", "TTTTACGTACGTAAAC", "ACG", "ACGTACGTAA"]  # five: a batch of 4, and a rest
tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)


def load(auto_class: Any, **changes: Any) -> Any:
    torch.manual_seed(0)  # for the weights of a new head
    return auto_class.from_pretrained(FOLDER, trust_remote_code=True, **changes).eval()


def pipeline(task: str, auto_class: Any, **changes: Any) -> Any:
    return transformers.pipeline(task, model=load(auto_class, **changes), tokenizer=tokenizer)


def fill_mask_in_batches() -> None:
    pipe = pipeline("fill-mask", AutoModelForMaskedLM)
    texts = [f"{letters}[MASK]ACGT" for letters in SEQUENCES]
    for one, four in zip(pipe(texts), pipe(texts, batch_size=4), strict=True):
        assert [guess["token_str"] for guess in one] == [guess["token_str"] for guess in four]
        np.testing.assert_allclose([g["score"] for g in one], [g["score"] for g in four], atol=1e-5)


def feature_extraction_in_batches() -> None:
    pipe = pipeline("feature-extraction", AutoModel)
    for letters, one, four in zip(SEQUENCES, pipe(SEQUENCES), pipe(SEQUENCES, batch_size=4), strict=True):
        assert np.shape(one) == (1, len(letters), 32)
        np.testing.assert_allclose(one[0], four[0][: len(letters)], atol=1e-5)


def text_classification_in_batches() -> None:
    pipe = pipeline("text-classification", transformers.AutoModelForSequenceClassification, num_labels=3)
    one, four = pipe(SEQUENCES, top_k=None), pipe(SEQUENCES, top_k=None, batch_size=4)
    for alone, together in zip(one, four, strict=True):
        assert [score["label"] for score in alone] == [score["label"] for score in together]
        np.testing.assert_allclose([s["score"] for s in alone], [s["score"] for s in together], atol=1e-5)


def token_classification_in_batches() -> None:
    pipe = pipeline("token-classification", transformers.AutoModelForTokenClassification, num_labels=3)
    one, four = pipe(SEQUENCES, ignore_labels=[]), pipe(SEQUENCES, ignore_labels=[], batch_size=4)
    for letters, alone, together in zip(SEQUENCES, one, four, strict=True):
        assert "".join(base["word"] for base in alone) == letters
        assert [base["start"] for base in alone] == list(range(len(letters)))
        assert [base["entity"] for base in alone] == [base["entity"] for base in together]


def arguments(**changes: Any) -> TrainingArguments:
    return TrainingArguments(
        str(SCRATCH / "trainer"), per_device_train_batch_size=2, per_device_eval_batch_size=4, max_steps=2,
        gradient_accumulation_steps=2, learning_rate=1e-2, report_to=[], save_strategy="no", disable_tqdm=True,
        use_cpu=True, **changes,
    )  # fmt: skip


def trained(model: Any, collator: Any, rows: list[dict[str, Any]], classes: int, labels_shape: tuple[int, ...]) -> None:
    """Train and evaluate with Trainer: the metrics see one array of scores and one of labels."""
    seen = []

    def compute_metrics(found: transformers.EvalPrediction) -> dict[str, float]:
        scores, labels = found.predictions, found.label_ids
        seen.append((scores.shape, labels.shape))
        counted = labels != -100
        return {"accuracy": float((scores.argmax(-1) == labels)[counted].mean())}

    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = Trainer(
        model=model, args=arguments(), data_collator=collator, train_dataset=rows, eval_dataset=rows,
        compute_metrics=compute_metrics,
    )  # fmt: skip
    assert not trainer.model_accepts_loss_kwargs  # else it would not divide the loss by the accumulated batches
    trainer.train()
    assert any(not torch.equal(value, before[name]) for name, value in model.named_parameters())
    found = trainer.evaluate()
    assert np.isfinite(found["eval_loss"])
    assert 0 <= found["eval_accuracy"] <= 1
    assert seen == [((*labels_shape, classes), labels_shape if labels_shape[1:] else (len(rows),))]


def trainer_of_masked_language_models() -> None:
    collator_class = get_class_from_dynamic_module("collator_dnachunker.DNADataCollator", FOLDER)
    collator = collator_class(tokenizer, mlm_probability=0.5, seed=0)
    rows = [{"input_ids": tokenizer(letters)["input_ids"]} for letters in SEQUENCES]
    trained(load(AutoModelForMaskedLM), collator, rows, 16, (5, 16))


def trainer_of_sequence_classifiers() -> None:
    collator = transformers.DataCollatorWithPadding(tokenizer)
    rows = [{**tokenizer(letters), "label": i % 3} for i, letters in enumerate(SEQUENCES)]
    model = load(transformers.AutoModelForSequenceClassification, num_labels=3)
    trained(model, collator, rows, 3, (5,))


def trainer_of_base_classifiers() -> None:
    collator = transformers.DataCollatorForTokenClassification(tokenizer)
    rows = [{**tokenizer(letters), "labels": [int(x in "GC") for x in letters]} for letters in SEQUENCES]
    model = load(transformers.AutoModelForTokenClassification, num_labels=2)
    trained(model, collator, rows, 2, (5, 16))


def base_classifier_learns() -> None:
    model = load(transformers.AutoModelForTokenClassification, num_labels=2).train()
    batch = tokenizer(SEQUENCES, padding=True, return_tensors="pt")
    labels = ((batch["input_ids"] == 8) | (batch["input_ids"] == 9)).long()
    labels[batch["attention_mask"] == 0] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        output = model(**batch, labels=labels)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(output.loss.detach()))
    assert output.logits.shape == (5, 16, 2)
    assert losses[-1] < losses[0] / 2, losses


def lora(task: str | None, auto_class: Any, labels: torch.Tensor | None, **changes: Any) -> None:
    config = LoraConfig(r=4, target_modules=["in_proj", "out_proj", "qkv"], task_type=task, init_lora_weights=False)
    model = get_peft_model(load(auto_class, **changes), config).eval()
    batch = tokenizer(["ACGTACGT", "TTTT"], padding=True, return_tensors="pt")
    output = model(**batch) if labels is None else model(**batch, labels=labels)
    (output[0].sum() if labels is None else output.loss).backward()
    adapters = [value for name, value in model.named_parameters() if "lora_" in name]
    assert adapters
    assert all(value.grad is not None for value in adapters)
    folder = SCRATCH / f"lora-{task}"
    model.save_pretrained(folder)
    again = PeftModel.from_pretrained(load(auto_class, **changes), folder).eval()
    for name in ("logits", "last_hidden_state"):
        if name in output:
            torch.testing.assert_close(again(**batch)[name], output[name])


def lora_feature_extraction() -> None:
    lora("FEATURE_EXTRACTION", AutoModel, None)


def lora_token_classification() -> None:
    labels = torch.tensor([[0, 1] * 4, [0, 1] * 2 + [-100] * 4])
    lora("TOKEN_CLS", transformers.AutoModelForTokenClassification, labels, num_labels=2)


def lora_sequence_classification() -> None:
    lora("SEQ_CLS", transformers.AutoModelForSequenceClassification, torch.tensor([0, 1]), num_labels=2)


def lora_without_a_task() -> None:
    lora(None, AutoModelForMaskedLM, torch.full((2, 8), 7))


def refused(kind: type[Exception], call: Callable[[], Any], word: str) -> None:
    said = "nothing"
    try:
        call()
    except kind as error:
        said = str(error)
    assert word in said, said
    assert "\n" not in said, said


def arguments_of_generic_code() -> None:
    model = load(AutoModelForMaskedLM)
    batch = dict(tokenizer(["ACG[MASK]TTA[MASK]", "ACGTACGTACGTAC"], padding=True, return_tensors="pt"))
    plain = model(**batch)
    width = batch["input_ids"].shape[1]
    none = dict.fromkeys(("token_type_ids", "position_ids", "inputs_embeds", "output_attentions", "past_key_values"))
    positions = torch.arange(3, 3 + width)[None]
    same = {"token_type_ids": torch.zeros_like(batch["input_ids"]), "position_ids": positions, "use_cache": False}
    for extra in (none, same):
        assert torch.equal(model(**batch, **extra).logits, plain.logits)
    vectors = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    embedded = model(inputs_embeds=vectors, attention_mask=batch["attention_mask"])
    torch.testing.assert_close(embedded.logits, plain.logits)
    assert torch.equal(embedded.stage_boundaries, plain.stage_boundaries), "masks are protected"
    embedded.logits.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.abs().sum() > 0
    ones = torch.ones_like(batch["input_ids"])
    refused(ValueError, lambda: model(**batch, token_type_ids=ones), "token_type_ids")
    refused(ValueError, lambda: model(**batch, position_ids=ones), "position_ids")
    refused(ValueError, lambda: model(**batch, output_attentions=True), "output_attentions")
    refused(ValueError, lambda: model(**batch, inputs_embeds=vectors), "not both")
    refused(ValueError, lambda: model(), "either")
    refused(ValueError, lambda: model(inputs_embeds=vectors[..., :7]), "inputs_embeds")
    refused(TypeError, lambda: model(**batch, lables=ones), "lables")


def attention_by_name() -> None:
    for name, backend in (("sdpa", "sdpa"), ("eager", "auto"), (None, "auto")):
        model = load(AutoModelForMaskedLM, **({} if name is None else {"attn_implementation": name}))
        assert model.config.trunk_attention == backend, (name, model.config.trunk_attention)
    model.set_attn_implementation("sdpa")
    assert all(layer.config.trunk_attention == "sdpa" for layer in model.dnachunker.hierarchy.trunk.layers)


def letters_that_are_no_bases() -> None:
    generic = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=False)
    for tok in (generic, tokenizer):
        assert tok("AC gt\r\n\tNR [MASK]\n")["input_ids"] == [7, 8, 9, 10, 11, 11, 3]
        assert tok.model_max_length == 1024
        for wrong in ("AC-G", "ACGX", "A*", "é"):
            refused(Exception, lambda tok=tok, wrong=wrong: tok(wrong), "IUPAC codes")  # type: ignore[misc]
    refused(ValueError, lambda: tokenizer(["ACG", "AC[MASK]-G"]), "'-' at position 8")
    for number, tok in enumerate((generic, tokenizer)):  # as after fine-tuning: the code comes with the model
        load(AutoModel).save_pretrained(SCRATCH / f"tuned-{number}")
        tok.save_pretrained(SCRATCH / f"tuned-{number}")
        again = AutoTokenizer.from_pretrained(SCRATCH / f"tuned-{number}", trust_remote_code=True)
        refused(ValueError, lambda again=again: again("A-"), "'-' at position 1")  # type: ignore[misc]


def collator_selects_and_draws_bases_only() -> None:
    collator_class = get_class_from_dynamic_module("collator_dnachunker.DNADataCollator", FOLDER)
    rows = [{"input_ids": tokenizer("ACGTN" * 400)["input_ids"]}, {"input_ids": tokenizer("[BOS]ACGTN")["input_ids"]}]
    first, again = (collator_class(tokenizer, seed=1)(rows) for _ in range(2))
    inputs, labels, truth = first["input_ids"], first["labels"], tokenizer("ACGTN" * 400)["input_ids"]
    assert torch.equal(inputs, again["input_ids"])
    chosen = labels != -100
    assert torch.equal(labels[chosen].unique(), torch.arange(7, 11))
    assert set(inputs[chosen].tolist()) == {3, 7, 8, 9, 10}
    assert torch.equal(inputs[0][~chosen[0]], torch.tensor(truth)[~chosen[0]])
    share, masked = chosen[0].sum() / 1600, (inputs[chosen] == 3).float().mean()
    assert 0.12 < share < 0.18
    assert 0.7 < masked < 0.9
    changed = (inputs != labels)[chosen & (inputs != 3)].float().mean()
    assert 0.2 < changed < 0.6  # half of these are drawn, and three of four draws change the base


CHECKS = (
    fill_mask_in_batches, feature_extraction_in_batches, text_classification_in_batches,
    token_classification_in_batches, trainer_of_masked_language_models, trainer_of_sequence_classifiers,
    trainer_of_base_classifiers, base_classifier_learns, lora_feature_extraction, lora_token_classification,
    lora_sequence_classification, lora_without_a_task, arguments_of_generic_code, attention_by_name,
    letters_that_are_no_bases, collator_selects_and_draws_bases_only,
)  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    result: dict[str, str | None] = {}
    for check in CHECKS:
        try:
            check()
            result[check.__name__] = None
        except Exception:
            result[check.__name__] = traceback.format_exc()
    (SCRATCH / "result.json").write_text(json.dumps(result))
