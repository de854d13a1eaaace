"""How Ray's errors and resources are interpreted, without a cluster."""

import pickle

import pytest

from dnachunker.cluster.backends.ray_train import RankEnded, codes_in, share_of_a_rank
from dnachunker.foundations.failures import BadInput


class WorkersFailed(Exception):
    """Has the fields of Ray Train's exception: a message, and the exception of each worker."""

    def __init__(self, message: str, worker_failures: dict[int, Exception]) -> None:
        super().__init__(message)
        self.worker_failures = worker_failures


def test_the_exit_code_of_a_rank_survives_pickling() -> None:
    ended = pickle.loads(pickle.dumps(RankEnded(4)))
    assert (ended.code, str(ended)) == (4, "rank-exit-code=4;")


def test_exit_codes_of_all_ranks_are_found() -> None:
    assert codes_in(WorkersFailed("rank-exit-code=1;", {0: RankEnded(1), 5: RankEnded(2)})) == [1, 1, 2]
    assert codes_in(RuntimeError("rank-exit-code=; rank-exit-code={code}; no code")) == []


def test_ranks_share_the_resources_of_the_cluster() -> None:
    assert share_of_a_rank({"CPU": 16.0, "GPU": 8.0}, 8, 2.0, {}) == {"CPU": 2.0, "GPU": 1.0}
    assert share_of_a_rank({"CPU": 16.0}, 8, 2.0, {}) == {"CPU": 2.0}
    assert share_of_a_rank({"CPU": 16.0, "GPU": 2.0}, 8, 2.0, {"DS_ACCELERATOR": "cpu"}) == {"CPU": 2.0}


@pytest.mark.parametrize(
    ("available", "said"),
    [
        ({"CPU": 4.0}, "8 ranks need 8 CPUs, but the Ray cluster has 4"),
        ({"CPU": 64.0, "GPU": 2.0}, "8 ranks need 8 GPUs, but the Ray cluster has 2"),
        ({}, "has 0"),
    ],
)
def test_a_cluster_that_is_too_small_is_refused(available: dict[str, float], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        share_of_a_rank(available, 8, 1.0, {})
