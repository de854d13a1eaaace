"""The model registry of MLflow: an exported folder as a model of its run, which MLflow loads without dnachunker."""

import contextlib
import io
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .mlflow_client import connect

_CODE = Path(__file__).with_name("mlflow_model_code.py")
_EXAMPLE = ["ACGTACGTAAGGCTTACAGG", "TTTTNACG"]
_NEEDED = ("torch", "transformers", "safetensors")  # by the export, see `_CODE`


def register_model(uri: str, run_id: str, export: Path, name: str, *, step: int, alias: str | None = None) -> int:
    """Log an exported folder as a model of the run, with signature and example, and register it.

    Args:
        uri: tracking URI of the store that has the run.
        name: of the registered model, made if there is none; its versions count from 1.
        step: of the run, that of the checkpoint.
        alias: then names this version, and no other one.

    Returns:
        The version.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    client = connect(uri)
    run = client.get_run(run_id).info
    made = client.create_logged_model(
        run.experiment_id, name=_plain(name), source_run_id=run_id, model_type="DNA model"
    )
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = str(Path(scratch) / "model")
            card = Model(artifact_path=made.artifact_location, run_id=run_id, model_uuid=made.model_id)
            card.model_id = made.model_id
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # progress bars
                save_model(
                    folder, python_model=str(_CODE), artifacts={"export": str(export.absolute())},
                    input_example=_EXAMPLE, mlflow_model=card,
                    pip_requirements=[f"{package}=={version(package)}" for package in _NEEDED],
                )  # fmt: skip
            client.log_model_artifacts(made.model_id, folder)
    except Exception:
        client.delete_logged_model(made.model_id)
        raise
    client.finalize_logged_model(made.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step)])
    _make_registered(client, name)
    number = int(client.create_model_version(name, made.artifact_location, run_id, model_id=made.model_id).version)
    if alias:
        client.set_registered_model_alias(name, alias, str(number))
    return number


def alias_run(uri: str, name: str, alias: str) -> str | None:
    """Id of the run behind a registered model's alias; None where there is no such model or alias."""
    from mlflow.exceptions import MlflowException

    try:
        found = connect(uri).get_model_version_by_alias(name, alias).run_id
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return str(found)


def _make_registered(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Exported by `dnachunker export --register`.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _plain(name: str) -> str:
    """The name of a logged model, in which MLflow refuses some characters of a registered model's name."""
    return "".join("_" if character in "/:.%\"'" else character for character in name)
