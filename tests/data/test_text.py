"""Sentences from files: groups of like length, a pure function of seed and position; faults with file and line."""

import gzip
from itertools import islice

import pytest

from toolkit.data.sampling import Position, training_loader, validation_loader
from toolkit.data.synthetic import synthetic_cuts
from toolkit.data.text import Sentence, TextLines, TextSamplerConfig, TextStream, Transcribed
from toolkit.errors import UserError

CONFIG = TextSamplerConfig(max_characters=120, max_length=40, buffer_size=50)


def some_sentences(count=130):
    return [Sentence(str(index), "x" * (1 + index * 7919 % 40)) for index in range(count)]


def stream(sentences=None, config=CONFIG, seed=3, shuffle=True):
    return TextStream(some_sentences() if sentences is None else sentences, config, seed, shuffle, "lm.txt")


def names(groups):
    return [[sentence.id for sentence in group] for group in groups]


def collate(group, rng):
    return [sentence.id for sentence in group], rng.random()


def share(consumed=0, rank=0, world=1, count=40, start=(0, 0, 0), config=CONFIG):
    loader = training_loader(stream(config=config), collate, Position(*start), consumed, rank, world, False)
    return list(islice(loader, count))


def test_an_epoch_depends_on_seed_and_number_alone():
    whole = names(stream().epoch(2))
    assert whole == names(stream().epoch(2))
    assert whole != names(stream().epoch(1)) and whole != names(stream(seed=4).epoch(2))
    assert sorted(sum(whole, [])) == sorted(sentence.id for sentence in some_sentences())


def test_groups_are_full_and_of_like_length():
    groups = list(stream().epoch(0))
    sizes = [len(group) * (max(len(text) for _, text in group) + 1) for group in groups]
    content = sum(len(text) + 1 for group in groups for _, text in group)
    assert max(sizes) <= 120 and len(groups) < 1.4 * content / 120
    assert sum(sizes) < 1.1 * content


def test_memory_holds_no_more_than_the_buffer():
    """What is drawn before the first group comes out is the first block."""
    drawn = []
    sentences = (drawn.append(sentence) or sentence for sentence in some_sentences())
    first = next(stream(sentences).epoch(0))
    assert len(drawn) == CONFIG.buffer_size and set(first) <= set(drawn)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("consumed", [1, 20, 37])
def test_a_stream_goes_on_where_it_stopped_also_with_other_ranks(consumed, world):
    whole = share(count=70)
    assert whole[-1][0].epoch >= 1
    start = whole[max(0, consumed - 2)][0]
    shares = [share(consumed, rank, world, 30 // world, start) for rank in range(world)]
    found = [batch for row in zip(*shares, strict=True) for _, batch in row]
    assert found == [batch for _, batch in whole[consumed : consumed + len(found)]] and len(found) > 27


def test_workers_give_the_same_batches():
    config = TextSamplerConfig(max_characters=120, max_length=40, buffer_size=50, num_workers=2)
    assert share(config=config) == share()


def test_validation_is_one_pass():
    shares = [list(validation_loader(stream(shuffle=False), collate, rank, 2, False)) for rank in (0, 1)]
    found = sorted(name for one in shares for _, (ids, _) in one for name in ids)
    assert found == sorted(sentence.id for sentence in some_sentences())


def test_the_lines_of_a_file(tmp_path):
    """Windows' line ends and the mark that its editors put first are no text."""
    content = b"\xef\xbb\xbfa cat\r\n\r\n  two dogs \nend"
    expected = ["a cat", "", "two dogs", "end"]
    for path in (tmp_path / "lm.txt", tmp_path / "lm.txt.gz"):
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        lines = TextLines(path)
        assert [text for _, text in lines] == [text for _, text in lines] == expected
        assert [name for name, _ in lines] == [f"{path}:{number}" for number in (1, 2, 3, 4)]


def test_the_transcripts_of_cuts():
    cuts = list(synthetic_cuts(3))
    found = list(Transcribed(cuts))
    assert [name for name, _ in found] == [cut.id for cut in cuts]
    assert [text for _, text in found] == [cut.supervisions[0].text for cut in cuts]


def test_empty_and_long_lines_are_left_out(tmp_path):
    path = tmp_path / "lm.txt"
    path.write_text("one\n\n \n" + "x" * 41 + "\ntwo\n")
    found = stream(TextLines(path))
    assert [text for group in found.epoch(0) for _, text in group] == ["one", "two"]
    reasons = {name.rpartition(":")[2]: row["reason"] for name, row in found.left_out.items()}
    assert reasons == {
        "2": "empty",
        "3": "empty",
        "4": "too long: 41 characters, limit 40 (data.sampler.max_length)",
    }


def test_nothing_to_learn_from(tmp_path):
    path = tmp_path / "lm.txt"
    path.write_text("\n\n")
    with pytest.raises(
        UserError, match=r"lm.txt: found no sentence of 1 to 40 characters \(data.sampler.max_l"
    ):
        next(stream(TextLines(path)).walk(Position(0, 0, 0)))


BROKEN = {
    "latin": ("lm.txt", b"good\ncaf\xe9\n", r"lm.txt:2: not UTF-8 \(.* at byte 3 of the line\)"),
    "truncated": ("lm.txt.gz", gzip.compress(b"good\n" * 9)[:-9], r"lm.txt.gz:\d+: damaged gzip file"),
    "not packed": ("lm.txt.gz", b"good\n", r"lm.txt.gz:1: damaged gzip file \(Not a gzipped file"),
}


@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN)
def test_damaged_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    loader = training_loader(stream(TextLines(tmp_path / name)), collate, Position(0, 0, 0), 0, 0, 1, False)
    with pytest.raises(UserError, match=message) as caught:
        next(loader)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="none.txt: no such file, expected text, a sentence a line"):
        next(iter(TextLines(tmp_path / "none.txt")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 0}, "max_length must be over 0"),
        ({"max_length": 50000}, "below max_characters, got 50000 and 50000"),
        ({"buffer_size": 0}, "buffer_size must be positive"),
        ({"num_workers": -1}, "num_workers not negative"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        TextSamplerConfig(**settings)
