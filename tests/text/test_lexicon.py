"""Pronunciation lexicons: what is read, written, and refused."""

import pytest

from toolkit.errors import UserError
from toolkit.text.lexicon import Lexicon, read_lexicon


def test_round_trip(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text(
        "READ R EH D\nread\tR IY D\n\nREAD  R IY D\nREAD R EH D\n<UNK> SPN\n今 j in1\n", encoding="utf-8"
    )
    lexicon = read_lexicon(path)
    assert lexicon.pronunciations == {
        "READ": [("R", "EH", "D"), ("R", "IY", "D")],
        "read": [("R", "IY", "D")],
        "<UNK>": [("SPN",)],
        "今": [("j", "in1")],
    }
    assert lexicon.phones == ["D", "EH", "IY", "R", "SPN", "in1", "j"]
    assert lexicon["READ"] == ("R", "EH", "D") and lexicon["writ"] == ("SPN",)
    assert Lexicon({"a": [("A",)]})["b"] is None
    lexicon.save(tmp_path / "copy.txt.gz")
    assert read_lexicon(tmp_path / "copy.txt.gz") == lexicon


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("A AH\nCAT\n", "lexicon.txt:2: found 'CAT' without phones, expected a word and its phones"),
        ("<eps> SIL\n", "lexicon.txt:1: found <eps>, which is reserved, expected words and phones"),
        ("A AH #1\n", "lexicon.txt:1: found #1, which is reserved"),
        ("A 0.75 AH\n", "lexicon.txt:1: found the probability 0.75, expected phones only"),
        ("\n\n", "lexicon.txt: found no words, expected a word and its phones a line"),
        (b"A \xe9", "lexicon.txt:1: not UTF-8"),
        (None, "lexicon.txt: no such file, expected a lexicon"),
    ],
)
def test_files_with_errors(tmp_path, content, message):
    path = tmp_path / "lexicon.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_lexicon(path)


def test_phones_of_another_model(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("A AH\nCAT K AE T\n")
    assert read_lexicon(path, {"AH", "K", "AE", "T"}).phones == ["AE", "AH", "K", "T"]
    with pytest.raises(UserError, match="lexicon.txt:2: found 'AE', which is no token of the model"):
        read_lexicon(path, {"AH", "K", "T"})
