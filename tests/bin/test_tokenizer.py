"""The command `tokenizer`."""

import pytest

from toolkit.bin.tokenizer import main
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError
from toolkit.text.tokenizer import load_tokenizer


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The cat sat.\n\nA cat on a mat!\n" * 3)
    return str(path)


def test_learn_encode_and_cover(text, tmp_path, capsys):
    folder = str(tmp_path / "chars")
    main(["learn", text, "--out", folder, "--set", "normalize=[punctuation,lower]"])
    # <blk>, <unk>, "▁" and the letters of these words.
    assert len(load_tokenizer(folder).tokens) == 3 + len(set("thecatsatonamat"))
    out = capsys.readouterr().out
    assert "chars: 12 symbols" in out
    assert "6 sentences, 24 words, 75 symbols (3.12 a word)" in out and "unknown: 0 in 0 sentences" in out

    main(["encode", folder, "Cat, rat"])
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["normalised"].strip() == "cat rat" and lines["decoded"].strip() == "cat at"
    assert lines["symbols"].split() == ["c", "a", "t", "▁", "<unk>", "a", "t"]
    assert lines["ids"].split()[4] == "1" and lines["unknown"].split() == ["r"]

    other = tmp_path / "other.txt"
    other.write_text("a rat ran\nthe xi\n")
    main(["coverage", folder, str(other), text])
    out = capsys.readouterr().out
    assert "8 sentences, 29 words" in out and "unknown: 4 in 2 sentences, 3 different" in out
    lines = [line.split(maxsplit=1) for line in out.splitlines()[2:]]
    assert lines == [["2", "'r' (in 'a rat ran')"], ["1", "'x' (in 'the xi')"], ["1", "'i' (in 'the xi')"]]


def test_transcripts_of_cuts(tmp_path, capsys):
    main(
        [
            "learn",
            "synthetic:20",
            "--out",
            str(tmp_path / "bpe"),
            "--set",
            "type=bpe",
            "--set",
            "vocab_size=25",
        ]
    )
    assert "25 symbols" in capsys.readouterr().out
    tokenizer = load_tokenizer(tmp_path / "bpe")
    text = next(iter(synthetic_cuts(20))).supervisions[0].text
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_phones(text, tmp_path, capsys):
    lexicon = tmp_path / "words.txt"
    lexicon.write_text("cat K AE T\na AH\nsat S AE T\nmat M AE T\n")
    settings = [
        "--set",
        "type=phone",
        "--set",
        f"lexicon={lexicon}",
        "--set",
        "normalize=[lower,punctuation]",
    ]
    main(["learn", text, "--out", str(tmp_path / "phones"), *settings])
    out = capsys.readouterr().out
    assert "phones: 8 symbols" in out and "unknown: 6 in 6 sentences, 2 different" in out
    assert (tmp_path / "phones" / "lexicon.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["learn", "none.txt", "--out", "new"], "none.txt: no such file, expected text"),
        (["learn", "{text}", "--out", "new", "--set", "typ=bpe"], "unknown key typ; nearest valid: type"),
        (["learn", "{text}", "--out", "new", "--set", "type=bpe"], "tokenizer.vocab_size: found 500"),
        (["learn", "{text}", "--out", "{folder}"], "found text.txt, expected a new folder to write"),
        (["coverage", "{folder}", "{text}"], "tokens.txt: no such file, expected the tokens"),
    ],
)
def test_mistakes(arguments, message, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        main([argument.format(text=text, folder=tmp_path) for argument in arguments])
    assert not (tmp_path / "new").exists()
