"""Reading hostfiles, choosing the machines of a job, and choosing one exit code."""

from pathlib import Path

import pytest

from dnachunker.cluster.topology import Host, job_exit_code, largest_job, parse_hostfile, ranks_per_node, read_hostfile
from dnachunker.foundations.failures import BadInput


def test_a_hostfile_is_read_as_deepspeed_writes_it() -> None:
    text = "# our machines\nnode-1 slots=8\n\nnode-2.example.org slots=8  # rack 2\n10.0.0.3\nfe80::1 slots=4\n"
    assert parse_hostfile(text, "hosts") == [
        Host("node-1", 8), Host("node-2.example.org", 8), Host("10.0.0.3"), Host("fe80::1", 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-oProxyCommand=id slots=1", "not a host name"),
        ("$(id) slots=1", "not a host name"),
        ("a;b slots=1", "not a host name"),
        ("a`id` slots=1", "not a host name"),
        ("a|b", "not a host name"),
        ("a' slots=1", "not a host name"),
        ("../a slots=1", "not a host name"),
        ("user@host slots=1", "not a host name"),
        ("a slots=1; id", "is not `NAME slots=N`"),
        ("a slots=1 b slots=2", "is not `NAME slots=N`"),
        ("a slots=0", "not a number of ranks"),
        ("a slots=-1", "not a number of ranks"),
        ("a slots=٣", "not a number of ranks"),
        ("a slots=99999", "not a number of ranks"),
        ("ok slots=1\nok slots=2", "listed twice"),
        ("# nothing", "names no machine"),
    ],
)
def test_a_line_that_names_no_machine_is_refused(line: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as refused:
        parse_hostfile(line, "hosts")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("me@192.168.1.10", "write 192.168.1.10, and set cluster.hosts.ssh_options=[User=me], or use ~/.ssh/config"),
        ("worker-1:2222", "write worker-1, and set cluster.hosts.ssh_options=[Port=2222], or use ~/.ssh/config"),
        ("root@node:22", "write node, and set cluster.hosts.ssh_options=[User=root,Port=22], or use ~/.ssh/config"),
        ("fe80::1%eth0", "name an interface in ~/.ssh/config"),
    ],
)
def test_an_address_as_ssh_takes_it_is_refused_with_the_option_to_use(name: str, remedy: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_hostfile(f"{name} slots=2", "hosts.txt")
    assert str(refused.value).startswith(f"hosts.txt:1: {name!r} is not a host name")
    assert remedy in str(refused.value)


def test_a_hostfile_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "hosts.txt").write_bytes(b"\xef\xbb\xbfworker-1 slots=2\r\n")
    assert [host.name for host in read_hostfile(str(tmp_path / "hosts.txt"))] == ["worker-1"]


def test_a_missing_hostfile_never_means_this_machine() -> None:
    with pytest.raises(BadInput, match=r"nowhere\.txt: cannot be read"):
        read_hostfile("nowhere.txt")


def test_every_machine_runs_as_many_ranks() -> None:
    assert ranks_per_node({"a": 8, "b": 4}, None) == 4
    assert ranks_per_node({"a": 8, "b": 4}, 2) == 2
    with pytest.raises(BadInput, match="b has room for 4"):
        ranks_per_node({"a": 8, "b": 4}, 8)


def test_a_job_continues_on_as_many_machines_as_divide_its_batches() -> None:
    def divides(nodes: int) -> bool:
        return 64 % (8 * nodes) == 0

    names = ["a", "b", "c", "d", "e"]
    assert largest_job(names, wanted=4, least=1, divides=divides) == ["a", "b", "c", "d"]
    assert largest_job(names[:3], wanted=4, least=1, divides=divides) == ["a", "b"]
    assert largest_job(names[:3], wanted=4, least=3, divides=divides) is None
    assert largest_job([], wanted=4, least=1, divides=divides) is None


@pytest.mark.parametrize(
    ("codes", "one"),
    [([0, 0], 0), ([3, 3], 3), ([0, 3], 3), ([3, 1], 1), ([1, 4], 4), ([4, 2, 1], 2), ([137, 3], 137), ([], 0)],
)
def test_one_exit_code_is_chosen_for_a_job(codes: list[int], one: int) -> None:
    assert job_exit_code(codes) == one
