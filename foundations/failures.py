"""The exceptions that end a command with a message for the user, and the exit code of each.

Every package raises these; the front door (`dnachunker/cli.py`) prints the message as one line and exits with `code`.
Any other exception is a bug of ours and keeps its traceback.
"""


def one_line(error: object) -> str:
    """The message of an error without line ends."""
    return " ".join(str(error).split())


class Failure(Exception):
    """A failure that one line explains to the user; `code` is the exit code of the process."""

    code = 1
    on_all_ranks = False  # every rank of a job raises it, so that one rank prints the line for all


class BadInput(Failure):
    """The user's input is wrong: the message says what, where (file, contig, offset, key) and what to do."""

    code = 2


class BadInputOnAllRanks(BadInput):
    """Bad input that every rank of a job has found, or has been told of."""

    on_all_ranks = True


class Interrupted(Failure):
    """A signal stopped the run after it was saved; the same command continues the run."""

    code = 3
    on_all_ranks = True


class GuardTripped(Failure):
    """Training stopped itself because a guard, such as the check for a finite loss, failed."""

    code = 4
