"""The verbs `launch` and `doctor`."""

from typing import Any

from .doctor import DOCTOR_HELP, add_doctor_arguments, run_doctor
from .launch import LAUNCH_HELP, add_launch_arguments, run_launch


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command."""
    launch = verbs.add_parser("launch", help=LAUNCH_HELP)
    add_launch_arguments(launch)
    launch.set_defaults(run_verb=run_launch)
    doctor = verbs.add_parser("doctor", help=DOCTOR_HELP)
    add_doctor_arguments(doctor)
    doctor.set_defaults(run_verb=run_doctor)
