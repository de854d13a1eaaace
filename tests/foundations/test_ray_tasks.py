"""Ray is started again when it is slow, and an unreachable cluster is bad input."""

import socket
import time

import pytest

from dnachunker.foundations import ray_tasks
from dnachunker.foundations.failures import BadInput, Failure

pytest.importorskip("ray")


@pytest.mark.parametrize(("late", "started"), [(0, True), (2, True), (3, False)])
def test_a_node_that_starts_too_slowly_is_started_again(
    late: int, started: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def init(**_: object) -> None:
        attempts.append(1)
        if len(attempts) <= late:
            raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    if started:
        with ray_tasks.ray_session("local", 1, asked_by="--ray local"):
            assert len(attempts) == late + 1
    else:
        with (
            pytest.raises(Failure, match=r"^--ray local: Ray did not start in 3 attempts"),
            ray_tasks.ray_session("local", 1, asked_by="--ray local"),
        ):
            pass


def test_a_cluster_where_nobody_listens_is_refused_at_once() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    for given in (address, f"ray://{address}"):
        began = time.monotonic()
        with (
            pytest.raises(BadInput, match="no Ray cluster answers there"),
            ray_tasks.ray_session(given, 1, asked_by="x"),
        ):
            pass
        assert time.monotonic() - began < 20


def test_a_cluster_that_does_not_answer_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("nobody\nthere")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr(ray_tasks, "_require_answer", lambda *_: None)
    with (
        pytest.raises(BadInput, match=r"^--ray x:1: no Ray cluster answers there \(nobody\)$"),
        ray_tasks.ray_session("x:1", 1, asked_by="--ray x:1"),
    ):
        pass


def test_a_temporary_folder_with_too_long_a_path_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /a/b")

    monkeypatch.setattr("ray.init", init)
    with (
        pytest.raises(BadInput, match=r"--ray local: Ray cannot start \(.*107 bytes.*; let TMPDIR name a folder"),
        ray_tasks.ray_session("local", 1, asked_by="--ray local"),
    ):
        pass
