"""The language model's task: tokens of a recogniser, loss and perplexity, trained by the same command as all others."""

import json
import math
import random

import pytest
import torch

import toolkit
from toolkit.bin import train
from toolkit.config import build
from toolkit.data.text import Sentence
from toolkit.decode.fusion import load_neural_scorer
from toolkit.decode.neural_lm import NeuralScorer
from toolkit.errors import UserError
from toolkit.tasks.lm import LmConfig, LmTask, sentences
from toolkit.tasks.load import load_task_and_model, save_model
from toolkit.text.tokenizer import TokenizerConfig, learn_tokenizer, load_tokenizer

NETWORK = {"name": "lstm", "dim": 16, "num_layers": 1, "dropout": 0.0}
TEXT = ["a cat", "a dog", "a cat and a dog"]


def lm_task(folder, **changes):
    raw = {"data": {"train": "synthetic:6"}, "network": NETWORK} | changes
    task = LmTask(build(LmConfig, raw, "test"), folder, seed=0)
    task.prepare()
    return task


def batch_of(task, texts):
    return task.collate([Sentence(f"lm.txt:{n}", text) for n, text in enumerate(texts, 1)], random.Random(0))


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_tokens_are_those_of_the_recogniser(tmp_path, kind):
    tokenizer = learn_tokenizer(TEXT, TokenizerConfig(kind, 14))
    tokenizer.save(tmp_path / "asr")
    task = lm_task(tmp_path / "lm", tokenizer={"folder": str(tmp_path / "asr")})
    model = task.build_model()
    assert task.tokenizer.tokens == tokenizer.tokens and model.num_symbols == len(tokenizer.tokens)
    for path in (tmp_path / "asr").iterdir():
        assert (tmp_path / "lm" / path.name).read_bytes() == path.read_bytes()
    assert batch_of(task, ["a dog"]).tokens[0].tolist() == tokenizer.encode("a dog")


def test_a_recogniser_that_is_none(tmp_path):
    with pytest.raises(UserError, match="tokens.txt: no such file, expected the tokens of a recogniser"):
        lm_task(tmp_path, tokenizer={"folder": str(tmp_path / "none")})


def test_without_a_recogniser_tokens_are_learned(tmp_path):
    (tmp_path / "lm.txt").write_text("\n".join(TEXT))
    lm_task(tmp_path / "lm", data={"train": str(tmp_path / "lm.txt")}).build_model()
    assert load_tokenizer(tmp_path / "lm").tokens[3:] == sorted(set("acatdogand"))


def test_the_loss_is_that_of_every_sentence_and_its_end(tmp_path):
    (tmp_path / "lm.txt").write_text("\n".join(TEXT))
    task = lm_task(tmp_path / "lm", data={"train": str(tmp_path / "lm.txt")})
    model = task.build_model().double().eval()
    batch = batch_of(task, TEXT)
    assert (batch.amount, batch.padded_amount, batch.size) == (28, 48, "3 x 16 tokens")
    assert batch.facts() == {
        "sentences": ["lm.txt:1", "lm.txt:2", "lm.txt:3"],
        "tokens": [5, 5, 15],
        "padded_shape": [3, 15],
    }
    loss, stats, weight = task.loss(model, batch)
    alone = [task.loss(model, batch_of(task, [text])) for text in TEXT]
    torch.testing.assert_close(loss, sum(one for one, _, _ in alone))
    assert weight == sum(count for _, _, count in alone) == 28 and stats["characters"] == 25
    scorer, score = NeuralScorer(model, task.tokenizer.tokens, task.tokenizer.tokens), 0.0
    state = scorer.start(1)
    for token in task.tokenizer.encode(TEXT[2]):
        score += scorer.scores(state)[0, token].item()
        state = scorer.advance(state, torch.tensor([token]))
    assert score + scorer.final(state).item() == pytest.approx(-alone[2][0].item())


def test_perplexity_comes_of_the_mean_loss(tmp_path):
    task = lm_task(tmp_path)
    means = task.derived({"loss": math.log(50), "characters": 2.5})
    assert means == pytest.approx({"perplexity": 50, "bits_per_character": math.log2(50) / 2.5})
    assert task.derived({"loss": 1e6, "characters": 1.0})["perplexity"] == math.exp(100)
    assert task.derived({"loss": 0.0}) == {}


def test_a_model_directory_gives_the_same_model(tmp_path):
    task = lm_task(tmp_path / "lm")
    model = task.build_model().eval()
    save_model(task.model_dir, model, task.config)
    again, loaded = load_task_and_model(tmp_path / "lm")
    assert isinstance(again, LmTask) and again.tokenizer.tokens == task.tokenizer.tokens
    with torch.no_grad():
        assert torch.equal(loaded(torch.tensor([[2, 3]])), model(torch.tensor([[2, 3]])))
    assert loaded.output.weight is loaded.network.embedding.weight and not loaded.training
    scorer = load_neural_scorer(tmp_path / "lm", task.tokenizer.tokens)
    state = scorer.advance(scorer.start(1), torch.tensor([2]))
    with torch.no_grad():
        torch.testing.assert_close(scorer.final(state), model(torch.tensor([[2]]))[0, 1, :1])
    with pytest.raises(UserError, match="lm: found a model of the task 'lm', expected one that hears speech"):
        toolkit.load(tmp_path / "lm")


def test_the_largest_batch(tmp_path):
    task = lm_task(
        tmp_path, data={"train": "synthetic:20", "sampler": {"max_characters": 60, "max_length": 50}}
    )
    task.build_model()
    (largest,) = task.largest_batches(4)
    loader = task.training_batches((0, 0, 0), 0, 0, 1, False)
    sizes = [batch.padded_amount for _, (_, batch) in zip(range(4), loader, strict=False)]
    assert largest.padded_amount == max(sizes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "data.train: found nothing, expected a text file or a cuts manifest"),
        ("gone.txt", "gone.txt: no such file, expected text, a sentence a line, or a cuts manifest"),
        ("gone.jsonl.gz", "gone.jsonl.gz: no such file"),
        ("synthetic:x", "data.train: found 'synthetic:x', expected synthetic:N"),
    ],
)
def test_data_that_is_not_there(name, message):
    with pytest.raises(UserError, match=message):
        sentences(name, "data.train")


@pytest.mark.usefixtures("process_settings")
def test_the_train_command(tmp_path, capsys):
    """On a small grammar the model soon knows more than how frequent the letters are; empty lines are listed."""
    rng = random.Random(0)
    lines = ["ab" * rng.randint(1, 4) + "c" for _ in range(200)]
    (tmp_path / "lm.txt").write_text("\n".join([*lines[:100], "", *lines[100:]]))
    (tmp_path / "valid.txt").write_text("ababc\nabc\n")
    (tmp_path / "lm.yaml").write_text("task: lm\n")
    settings = [
        *(f"--data.train={tmp_path}/lm.txt", f"--data.valid={tmp_path}/valid.txt", "--train.max_updates=60"),
        *("--data.sampler.max_characters=400", "--data.sampler.max_length=100", "--train.scan_batches=2"),
        *("--network.dim=24", "--network.num_layers=1", "--optim.lr=0.02", "--train.threads=1"),
    ]
    arguments = ["--config", str(tmp_path / "lm.yaml"), "--exp", str(tmp_path / "exp"), *settings]
    train.main(arguments)
    rows = [json.loads(line) for line in (tmp_path / "exp" / "metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    assert last["split"] == "valid" and last["loss"] < 0.5 and "amount" not in last
    assert last["perplexity"] == pytest.approx(math.exp(last["loss"]), rel=1e-4)
    assert last["characters"] == pytest.approx(8 / 10)
    assert rows[0]["tokens_per_second"] > 0 and 0 <= rows[0]["padding"] < 0.2
    (skipped,) = (tmp_path / "exp" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(skipped)["id"].endswith("lm.txt:101")
    said = capsys.readouterr().out
    assert "tokens a second" in said and "largest batch fits: " in said and "perplexity" in said


@pytest.mark.usefixtures("process_settings")
def test_a_run_that_is_interrupted_ends_the_same(tmp_path, monkeypatch):
    """Within an epoch, in a block that was shuffled."""
    (tmp_path / "lm.txt").write_text("\n".join("abc" * (1 + n % 9) for n in range(120)))
    (tmp_path / "lm.yaml").write_text("task: lm\nnetwork: {dim: 8, num_layers: 1, dropout: 0.2}\n")

    def run(folder):
        settings = [
            *(f"--data.train={tmp_path}/lm.txt", "--train.max_updates=20", "--train.checkpoint_every=6"),
            *("--data.sampler.max_characters=100", "--data.sampler.max_length=50", "--train.threads=1"),
            *("--data.sampler.buffer_size=50", "--train.average_decay=0.9"),
        ]
        train.main(["--config", str(tmp_path / "lm.yaml"), "--exp", str(tmp_path / folder), *settings])
        return (tmp_path / folder / "model" / "model.safetensors").read_bytes()

    plain = LmTask.loss

    def fail(task, model, batch):
        if task.update == 15:
            raise KeyboardInterrupt
        return plain(task, model, batch)

    expected = run("whole")
    monkeypatch.setattr(LmTask, "loss", fail)
    with pytest.raises(KeyboardInterrupt):
        run("broken")
    monkeypatch.undo()
    assert run("broken") == expected
    assert "going on from" in (tmp_path / "broken" / "log.txt").read_text()
