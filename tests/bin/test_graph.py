"""The command that makes decoding graphs."""

import pytest
import torch

from tests.decode.grammar import ARPA, LogProbs
from toolkit.bin.graph import main
from toolkit.decode.hlg import Hlg, HlgConfig
from toolkit.errors import UserError
from toolkit.text.tokenizer import BLANK, SPACE, UNKNOWN, CharTokenizer

TOKENIZER = CharTokenizer([BLANK, UNKNOWN, SPACE, "A", "B", "D", "x"])


@pytest.fixture
def arguments(tmp_path):
    TOKENIZER.save(tmp_path)
    (tmp_path / "words.arpa").write_text(ARPA)
    return ["--model", str(tmp_path), "--arpa", str(tmp_path / "words.arpa"), "--out", str(tmp_path / "hlg")]


def said(path, folder):
    """The words that are found where the model is sure of a path of symbols."""
    log_probs = torch.full((1, len(path), len(TOKENIZER.tokens)), -9.0)
    log_probs[0, range(len(path)), [TOKENIZER.tokens.index(symbol) for symbol in path]] = 0.0
    search = Hlg(HlgConfig(graph=str(folder)), LogProbs(), TOKENIZER, "cpu")
    ((best,),) = search(log_probs.log_softmax(-1), torch.tensor([len(path)]))
    return [(word.text, word.start, word.end) for word in best.words]


def test_words_as_the_tokenizer_spells_them(arguments, tmp_path, capsys):
    main(arguments)
    # C cannot be spelled.
    assert capsys.readouterr().out.startswith("3 words, ")
    assert (tmp_path / "hlg/words.txt").read_text() == "<eps> 0\nA 1\nB 2\nD 3\n"
    assert (tmp_path / "hlg/lexicon.txt").read_text() == "A ▁ A\nB ▁ B\nD ▁ D\n"
    assert said(["D", BLANK, SPACE, "A", "A"], tmp_path / "hlg") == [("D", 0, 1), ("A", 3, 5)]


def test_words_of_a_lexicon(arguments, tmp_path, capsys):
    path = tmp_path / "lexicon.txt"
    path.write_text("C x x\nA x\n")
    main([*arguments, "--lexicon", str(path)])
    assert capsys.readouterr().out.startswith("2 words, ")
    assert said(["x", BLANK, "x"], tmp_path / "hlg") == [("A", 0, 1), ("A", 2, 3)]


@pytest.mark.parametrize(
    ("lexicon", "message"),
    [
        ("C q\n", "lexicon.txt:1: found 'q', which is no token of the model"),
        ("C ▁\n", "C: found ▁ alone or twice"),
        ("other x\n", "words.arpa: found none of the words of the lexicon, such as 'other'"),
    ],
)
def test_what_does_not_go_together(arguments, tmp_path, lexicon, message):
    path = tmp_path / "lexicon.txt"
    path.write_text(lexicon)
    with pytest.raises(UserError, match=message) as caught:
        main([*arguments, "--lexicon", str(path)])
    assert "\n" not in str(caught.value) and not (tmp_path / "hlg").exists()
