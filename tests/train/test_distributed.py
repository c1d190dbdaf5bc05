"""Who owns an experiment, and what processes agree on."""

import multiprocessing
import os
import signal
import socket
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from toolkit.errors import UserError
from toolkit.train.distributed import World, distributed, sole_owner
from toolkit.train.log import Meter


def test_a_second_run_in_the_same_folder_is_refused(tmp_path, capsys):
    with sole_owner(tmp_path):
        with pytest.raises(UserError, match="another process works here; expected one run a folder"):
            with sole_owner(tmp_path, patience=0.3):
                raise AssertionError("two owners")
        assert capsys.readouterr().err == f"{tmp_path}: waiting for another process to end\n"
    with sole_owner(tmp_path, patience=0):
        pass


def hold(folder, ready):
    with sole_owner(folder):
        ready.set()
        signal.pause()


def test_the_lock_goes_with_the_process_however_it_ends(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(60)
    holder.kill()
    holder.join()
    with sole_owner(tmp_path, patience=30):
        pass


def test_one_process_is_the_simplest_case():
    with distributed() as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert world.sum(torch.tensor(3.0)) == 3
        assert world.union(["b", "a", "b"]) == ["a", "b"] and world.union([]) == []
        world.barrier()
    assert not World(1, 2, torch.device("cpu")).is_main


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs, as far as the choice of one goes; gives the list of those that were chosen."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_each_process_has_the_gpu_of_its_number(monkeypatch, two_gpus):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with distributed() as world:
        assert [world.device] == two_gpus == [torch.device("cuda", 1)]


def test_more_processes_than_gpus(monkeypatch, two_gpus):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"process 2 .*: found 2 GPU\(s\), expected .*--nproc-per-node 2"):
        with distributed():
            raise AssertionError("a GPU that is not there")
    assert not two_gpus


def test_the_others_wait_for_hours_while_the_main_process_prepares(monkeypatch):
    waits = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: waits.append(timeout))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with distributed():
        assert waits[0] >= timedelta(hours=2)


def agree(rank, port, results):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port))
    with distributed() as world:
        total = world.sum(torch.tensor([1.0, 10.0 * rank])).tolist()
        meter = Meter()
        meter.add({"loss": 4.0, "weight": 1.0} | ({"right": torch.tensor(1)} if rank else {}))
        results.put((rank, total, world.union(["b", "c"] if rank else ["a", "b"]), meter.means(world)))
        world.barrier()


def test_two_processes_agree_also_if_one_of_them_had_nothing_to_count():
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=agree, args=(rank, port, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert [row[0] for row in found] == [0, 1]
    for _, total, names, means in found:
        assert total == [2.0, 10.0] and names == ["a", "b", "c"] and means == {"loss": 4.0, "right": 0.5}
