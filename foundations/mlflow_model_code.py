"""The code that MLflow keeps with a registered model, and runs where it loads one: it needs nothing of dnachunker.

Input: DNA sequences as text, of any lengths. Output: for each sequence its logits, (L, 16) as nested lists, where the
rows are the L tokens of the sequence.
"""

from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class ExportedModel(PythonModel):  # type: ignore[misc]  # MLflow's classes are not typed
    """An export of dnachunker as a model that predicts logits."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the export; runs the code in its folder."""
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

        folder = context.artifacts["export"]
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        try:
            model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)
        except ValueError:  # its config names no masked language model
            model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        self._model = model.eval().requires_grad_(False)

    def predict(
        self, context: PythonModelContext, model_input: list[str], params: dict[str, Any] | None = None
    ) -> list[list[list[float]]]:
        """Logits of each sequence; sequences are not batched, so pads cost nothing."""
        found = []
        for sequence in model_input:
            tokens = self._tokenizer(sequence, return_tensors="pt").to(self._model.device)
            found.append(self._model(**tokens).logits[0].float().cpu().tolist())
        return found


set_model(ExportedModel())
