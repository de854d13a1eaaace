"""An exported folder to a model repository on the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from dnachunker.foundations.failures import BadInput, one_line


def check_target(repository: str) -> None:
    """Refuse what could never be pushed, before anything is exported.

    Raises:
        BadInput: not the name of a repository, or nobody is logged in.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise BadInput(f"--push {repository}: {_without_token(error)}") from error
    if get_token() is None:
        raise BadInput(
            f"--push {repository}: not logged in to the Hugging Face Hub; run `hf auth login` or set HF_TOKEN"
        )


def push_folder(folder: Path, repository: str, *, private: bool) -> str:
    """Upload `folder` in one commit, creating the repository if it does not exist; returns the address of the commit.

    Args:
        private: whether a repository that is created is private.

    Raises:
        BadInput: the Hub refuses the upload, or does not answer.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload with dnachunker")
    except Exception as error:  # versions of huggingface_hub differ in their HTTP library and its errors
        raise BadInput(
            f"--push {repository}: {_without_token(error)}; the export is complete: push it with "
            f"`hf upload {repository} {folder}`"
        ) from None  # a traceback could show request headers
    return str(commit.commit_url)


def _without_token(error: Exception) -> str:
    text, token = one_line(error), get_token()
    return text.replace(token, "***") if token else text
