"""The stream of batches: a pure function of seed and position, shared out to ranks, resumed anywhere."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import types
from itertools import islice

import pytest
from lhotse import CutSet

from tests.data.orphans import is_running, wait_for_end
from toolkit.data.manifests import mono_cut, open_cuts, write_cuts
from toolkit.data.sampling import BatchStream, Position, SamplerConfig, training_loader, validation_loader
from toolkit.errors import UserError

CONFIG = SamplerConfig(max_duration=12, num_buckets=3, buffer_size=20)


def some_cuts(count=40):
    """Cuts of 1 to 5 s; there is no audio."""
    return [mono_cut(f"cut{i}", "none.wav", 16000 + (i * 7919) % 64000) for i in range(count)]


def stream(cuts=None, config=CONFIG, seed=3, shuffle=True, **changes):
    cuts = CutSet(some_cuts() if cuts is None else cuts)
    return BatchStream(lambda epoch: cuts, config, seed, shuffle, "cuts.jsonl", **changes)


def ids(batches):
    return [[cut.id for cut in batch] for batch in batches]


def collate(cuts, rng):
    return [cut.id for cut in cuts], rng.random()


def share(consumed=0, rank=0, world=1, count=30, start=(0, 0, 0), config=CONFIG, make=stream):
    loader = training_loader(make(config=config), collate, Position(*start), consumed, rank, world, False)
    return list(islice(loader, count))


def joined(shares):
    """The batches of all ranks in the order of the stream."""
    return [item for row in zip(*shares, strict=True) for item in row]


def test_an_epoch_depends_on_seed_and_number_alone():
    whole = ids(stream().epoch(2))
    assert whole == ids(stream().epoch(2))
    assert whole != ids(stream().epoch(1)) and whole != ids(stream(seed=4).epoch(2))
    assert sorted(sum(whole, [])) == sorted(cut.id for cut in some_cuts())


def test_a_lazy_manifest_gives_the_same_as_one_in_memory(tmp_path):
    write_cuts(tmp_path / "cuts.jsonl.gz", some_cuts())
    lazy = open_cuts(tmp_path / "cuts.jsonl.gz")
    for shuffle in (True, False):
        assert ids(stream(lazy, shuffle=shuffle).epoch(1)) == ids(stream(shuffle=shuffle).epoch(1))


def test_batches_stay_within_their_limits():
    for batch in stream().epoch(0):
        *first, _ = [cut.duration for cut in batch]
        assert not first or len(batch) * max(first) <= 12
    assert max(map(len, stream(config=SamplerConfig(max_cuts=2, num_buckets=1)).epoch(0))) == 2
    # A cut that is longer than the limit makes a batch of its own.
    assert set(map(len, stream(config=SamplerConfig(max_duration=0.5, num_buckets=2)).epoch(0))) == {1}


def test_bucketing_keeps_padding_small():
    def padding(config):
        return sum(len(b) * max(c.duration for c in b) for b in stream(config=config).epoch(0))

    assert padding(CONFIG) < padding(SamplerConfig(max_duration=12, num_buckets=1))


def test_short_and_long_cuts_are_left_out():
    config = SamplerConfig(max_duration=12, min_seconds=2, max_seconds=3, num_buckets=2)
    found = [cut for batch in stream(config=config).epoch(0) for cut in batch]
    assert {cut.id for cut in found} == {cut.id for cut in some_cuts() if 2 <= cut.duration <= 3}
    assert 5 < len(found) < 20


def test_a_cut_that_is_cropped_counts_as_its_crop():
    config = SamplerConfig(max_duration=12, max_seconds=3, num_buckets=3)
    cropped = stream(config=config, crop_seconds=2.0)
    batches = list(cropped.epoch(0))
    assert sorted(sum(ids(batches), [])) == sorted(cut.id for cut in some_cuts()) and not cropped.left_out
    assert len(batches) < 10 < len(list(stream(config=SamplerConfig(max_duration=12)).epoch(0)))
    for batch in batches:
        *first, _ = [min(cut.duration, 2.0) for cut in batch]
        assert not first or len(batch) * max(first) <= 12


def collate_nothing(cuts, rng):
    return types.SimpleNamespace(skipped=[])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_is_left_out_is_listed_by_the_first_rank(num_workers):
    config = SamplerConfig(max_duration=12, min_seconds=2, max_seconds=3, num_workers=num_workers)
    for rank, make in itertools.product((0, 1), (training_loader, validation_loader)):
        place = (Position(0, 0, 0), 0) if make is training_loader else ()
        loader = make(stream(config=config), collate_nothing, *place, rank, 2, False)
        rows = {row["id"]: row for _, batch in islice(loader, 8) for row in batch.skipped}
        expected = {cut.id for cut in some_cuts() if not 2 <= cut.duration <= 3}
        assert set(rows) == (set() if rank else expected)
        if rank == 0:
            assert rows["cut0"] == {
                "id": "cut0",
                "path": "none.wav",
                "reason": "too short: 1.00 s, limit 2 s (data.sampler.min_seconds)",
            }
            assert rows["cut5"]["reason"] == "too long: 3.47 s, limit 3 s (data.sampler.max_seconds)"


def test_each_epoch_has_cuts_of_its_own():
    asked = BatchStream(lambda epoch: CutSet(some_cuts(4 + epoch)), CONFIG, 0, False, "cuts.jsonl")
    walk = asked.walk(Position(0, 0, 0))
    seen = [(position.epoch, cut.id) for position, cuts in islice(walk, 8) for cut in cuts]
    assert max(seen)[0] >= 2
    for epoch in (0, 1):
        assert [name for at, name in seen if at == epoch] == [cut.id for cut in some_cuts(4 + epoch)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_nothing_left_is_told(shuffle):
    config = SamplerConfig(min_seconds=20, num_buckets=4)
    with pytest.raises(UserError, match="cuts.jsonl: found no cut that is 20 to 30.0 seconds long"):
        next(stream(config=config, shuffle=shuffle).walk(Position(0, 0, 0)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_cuts_than_buckets(count):
    config = SamplerConfig(max_duration=100, num_buckets=10)
    assert sorted(sum(ids(stream(some_cuts(count), config).epoch(0)), [])) == [
        f"cut{i}" for i in range(count)
    ]


def test_cuts_of_equal_duration():
    cuts = [mono_cut(f"cut{i}", "none.wav", 16000) for i in range(12)]
    found = ids(stream(cuts, SamplerConfig(max_duration=4, num_buckets=5)).epoch(0))
    assert sorted(sum(found, [])) == sorted(cut.id for cut in cuts) and max(map(len, found)) == 4


def test_positions_count_on_over_epochs():
    found = [position for position, _ in share()]
    length = len(list(stream().epoch(0)))
    assert [position.total for position in found] == list(range(30))
    assert found[length - 1][:2] == (0, length - 1) and found[length][:2] == (1, 0)
    assert len({batch[1] for _, batch in share()}) == 30, "every batch has random numbers of its own"


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_stream(world):
    whole = share(count=30)
    shares = [share(rank=rank, world=world, count=30 // world) for rank in range(world)]
    found = joined(shares)
    assert [batch for _, batch in found] == [batch for _, batch in whole]
    assert [position for position, _ in found] == [whole[i - i % world][0] for i in range(30)]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("consumed", [1, 7, 12, 13, 25])
def test_a_stream_goes_on_where_it_stopped_also_with_other_ranks(consumed, world):
    """`start` is where the last update was; all that it began with but did not consume is passed over."""
    whole = share(count=30)
    start = whole[max(0, consumed - 3)][0]
    shares = [share(consumed, rank, world, (30 - consumed) // world, start) for rank in range(world)]
    found = [batch for _, batch in joined(shares)]
    expected = [batch for _, batch in whole[consumed : consumed + len(found)]]
    assert found == expected and len(found) > 30 - consumed - world


def test_workers_give_the_same_batches():
    config = SamplerConfig(max_duration=12, num_buckets=3, buffer_size=20, num_workers=2)
    assert share(config=config) == share()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_is_one_pass_shared_by_the_ranks(world):
    whole = ids(stream(shuffle=False).epoch(0))
    assert sum(whole, []) == [cut.id for cut in some_cuts()]
    shares = [
        [batch[0] for _, batch in validation_loader(stream(shuffle=False), collate, rank, world, False)]
        for rank in range(world)
    ]
    assert [shares[i % world][i // world] for i in range(len(whole))] == whole


def refuse(cuts, rng):
    raise UserError("cuts.jsonl: this is what is wrong")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_users_mistake_arrives_as_one_line(num_workers):
    config = SamplerConfig(num_workers=num_workers)
    loader = training_loader(stream(config=config), refuse, Position(0, 0, 0), 0, 0, 1, False)
    with pytest.raises(UserError) as caught:
        next(loader)
    assert str(caught.value) == "cuts.jsonl: this is what is wrong"


def test_workers_outlive_a_sigterm_to_the_whole_job():
    config = SamplerConfig(max_duration=12, num_workers=1)
    loader = training_loader(stream(config=config), collate, Position(0, 0, 0), 0, 0, 1, False)
    next(loader)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGTERM)
    found = [position.total for position, _ in islice(loader, 20)]
    assert found == list(range(1, 21)) and worker.is_alive()
    os.kill(worker.pid, signal.SIGTERM)
    # PyTorch's handler of SIGCHLD tells of it wherever this process is; if it comes too late, the loader does.
    with pytest.raises((RuntimeError, UserError), match="DataLoader worker|one of 1 loader processes died"):
        worker.join(60)
        list(islice(loader, 100))


ORPHANS = """
import multiprocessing, time
from tests.data.test_sampling import *
config = SamplerConfig(max_duration=12, num_workers=2)
loader = training_loader(stream(config=config), collate, Position(0, 0, 0), 0, 0, 1, False)
next(loader)
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_die_with_the_process_they_work_for(root):
    process = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True, cwd=root)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2 and all(map(is_running, workers))
    process.kill()
    process.wait()
    wait_for_end(workers)
