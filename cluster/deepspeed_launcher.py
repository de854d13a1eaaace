"""The process that starts a machine's ranks: DeepSpeed's launcher, without MLflow.

DeepSpeed's autotuner, which nobody uses here, imports MLflow where it is installed. That takes a second, and the ranks
start only after it.
"""

from dnachunker.foundations.absent_modules import absent


def main() -> None:
    """Start the ranks that the arguments of this process describe, and wait for them."""
    with absent("mlflow"):
        from deepspeed.launcher.launch import main as launch
    launch()


if __name__ == "__main__":
    main()
