"""The ways a command can end other than well, and the exit code of each.

Everything below the front door raises one of these; `dnachunker.main` prints the message as one line
and exits with `code`. Any other exception is a bug of ours and keeps its traceback.
"""


class Failure(Exception):
    """A stop the user can understand from one line; `code` is the process's exit code."""

    code = 1


class BadInput(Failure):
    """The user's input is wrong: the message says what, where (file, contig, offset, key) and what to do."""

    code = 2


class Interrupted(Failure):
    """Stopped by a signal after saving; starting the same command again continues the run."""

    code = 3


class GuardTripped(Failure):
    """Training stopped itself because a guard (such as finiteness of the loss) failed."""

    code = 4
