"""The command `ngram`."""

import re

import pytest

from toolkit.bin.ngram import main
from toolkit.errors import UserError
from toolkit.text.arpa import read_arpa
from toolkit.text.tokenizer import TokenizerConfig, learn_tokenizer

SENTENCES = ["The cat sat.", "", "A cat on a mat!", "the mat, the cat"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(SENTENCES * 5))
    return str(path)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    learn_tokenizer(SENTENCES, TokenizerConfig(normalize=["lower", "punctuation"])).save(folder)
    return str(folder)


def perplexity_of(out):
    return float(re.search(r"perplexity ([\d.]+)", out)[1])


def test_words(text, tmp_path, capsys):
    out = str(tmp_path / "lm.arpa.gz")
    main(["estimate", text, "--order", "2", "--out", out, "--test", text])
    first = capsys.readouterr().out
    assert "15 sentences, 60 words, of which 0 unknown" in first and "2-grams: " in first
    found = read_arpa(out)
    assert found.order == 2 and {"The", "sat.", "mat,"} < set(found.words)
    main(["perplexity", out, text])
    assert perplexity_of(first) == perplexity_of(capsys.readouterr().out) > 1


def test_tokens_of_a_model(text, model, tmp_path, capsys):
    out = str(tmp_path / "tokens.arpa")
    main(["estimate", text, "--order", "3", "--model", model, "--prune", "0", "0", "1", "--out", out])
    tokens = (tmp_path / "model" / "tokens.txt").read_text().split()[::2]
    assert set(read_arpa(out, tokens).words) == {*tokens[1:], "<s>", "</s>"}
    main(["perplexity", out, text, "--model", model])
    assert 1 < perplexity_of(capsys.readouterr().out) < len(tokens)


def test_words_as_a_model_normalises_them(text, model, tmp_path, capsys):
    lexicon, out = tmp_path / "lexicon.txt", str(tmp_path / "words.arpa")
    lexicon.write_text("cat K AE T\nmat M AE T\n\nmat M AH T\nrat R AE T\n")
    main(["estimate", text, "--model", model, "--words", "--vocabulary", str(lexicon), "--out", out])
    assert "60 words, of which 35 unknown" in capsys.readouterr().out
    assert read_arpa(out).words == ["<unk>", "<s>", "</s>", "cat", "mat", "rat"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["estimate", "none.txt", "--out", "lm"], "none.txt: no such file, expected text"),
        (["estimate", "{empty}", "--out", "lm"], "empty.txt: found no words, expected some to learn from"),
        (["estimate", "{text}", "--order", "0", "--out", "lm"], "command line: found order 0"),
        (
            ["estimate", "{text}", "--prune", "1", "--out", "lm"],
            r"command line: found order 3 and thresholds \[1\]",
        ),
        (["estimate", "{text}", "--words", "--out", "lm"], "command line: --words goes with --model"),
        (["estimate", "{text}", "--model", "none", "--out", "lm"], "none/tokens.txt: no such file"),
        (["estimate", "{text}", "--test", "{empty}", "--out", "lm"], "empty.txt: found no sentences"),
        (["perplexity", "{text}", "{text}"], "text.txt:.* the file ends here, expected .data"),
    ],
)
def test_mistakes(arguments, message, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UserError, match=message):
        main([argument.format(text=text, empty=tmp_path / "empty.txt") for argument in arguments])
    assert not (tmp_path / "lm").exists()
