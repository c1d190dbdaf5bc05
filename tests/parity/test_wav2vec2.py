"""The wav2vec 2.0 pretraining loss equals transformers', given the same weights, masks, negatives and noise."""

import pytest
import torch

from toolkit.config import build
from toolkit.convert.hf import from_hf
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.ssl import wav2vec2
from toolkit.ssl.wav2vec2 import Wav2Vec2Config, Wav2Vec2Objective, draw_negatives

transformers = pytest.importorskip("transformers")

NEGATIVES = 7
CASES = [
    # Rounding keeps transformers from seeing that targets are equal in training: so many entries that none are.
    pytest.param(True, 60, [7000, 7000], id="training"),
    pytest.param(True, 60, [9000], id="one utterance"),
    pytest.param(False, 3, [7000, 4500], id="equal targets and padding"),
]


class Reference:
    """transformers' model with random weights, and a batch with masks, negatives and noise."""

    def __init__(self, training, entries, lengths):
        torch.manual_seed(0)
        quiet = ("hidden", "attention", "activation", "feat_proj", "final", "feat_quantizer")
        config = transformers.Wav2Vec2Config(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=[16] * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
            num_codevectors_per_group=entries,
            codevector_dim=20,
            proj_codevector_dim=12,
            num_negatives=NEGATIVES,
            layerdrop=0.0,
            # The other kind of norm would see the padding.
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            **{f"{part}_dropout": 0.0 for part in quiet},
        )
        self.model = transformers.Wav2Vec2ForPreTraining(config).train(training)
        self.model.set_gumbel_temperature(1.7)
        self.samples = torch.randn(len(lengths), max(lengths))
        self.attention = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        self.lengths = self.model._get_feat_extract_output_lengths(torch.tensor(lengths))
        frames = int(self.lengths.max())
        self.mask = (torch.rand(len(lengths), frames) < 0.6) & (torch.arange(frames) < self.lengths[:, None])
        counts = self.mask.sum(1)
        self.negatives = draw_negatives(counts, int(counts.max()), NEGATIVES, torch.arange(len(lengths)))
        self.entries = entries

    def output(self):
        """What the model makes of the batch, with its own loss."""
        # Numbers among the masked frames of an utterance become numbers among all frames of the batch.
        numbers = torch.zeros(*self.mask.shape, NEGATIVES, dtype=torch.int64)
        for row, mask in enumerate(self.mask):
            places = mask.nonzero()[:, 0]
            numbers[row, places] = places[self.negatives[row, : len(places)]] + row * len(mask)
        hook = self.model.quantizer.register_forward_pre_hook(lambda *_: torch.manual_seed(5) and None)
        output = self.model(
            self.samples, self.attention, mask_time_indices=self.mask, sampled_negative_indices=numbers
        )
        hook.remove()
        return output

    def noise(self):
        """What `gumbel_softmax` draws after this seed, (N, G, V) for the masked frames."""
        torch.manual_seed(5)
        noise = -torch.empty(self.mask.numel() * 2, self.entries).exponential_().log()
        return noise.view(*self.mask.shape, 2, self.entries)

    def encoder(self, tensors):
        """A speech encoder of the model's configuration, and these tensors by its own names."""
        settings = self.model.config.to_dict() | {"do_normalize": False}
        converted = from_hf(settings, tensors)
        config = build(SpeechConfig, converted.speech, "converted")
        # transformers lets whole gradients into the front end.
        config.frontend.feature_grad_mult = 1.0
        return config, converted.weights


def ours(reference, training):
    """Our objective with the reference's weights."""
    config = reference.model.config
    objective = Wav2Vec2Objective(
        Wav2Vec2Config(
            entries=config.num_codevectors_per_group,
            codevector_dim=config.codevector_dim,
            compared_dim=config.proj_codevector_dim,
            negatives=NEGATIVES,
            diversity_weight=0.1 if training else 0.0,
            feature_penalty=0.0,
            gumbel_temperature=(1.7, 1.7),
            target_dropout=0.0,
        ),
        type("Speech", (), {"dim": config.hidden_size, "latent_dim": config.conv_dim[-1]}),
    ).train(training)
    for mine, theirs in pairs(objective, reference.model):
        mine.data.copy_(theirs.view_as(mine))
    return objective


def pairs(objective, model):
    quantizer = model.quantizer
    yield objective.quantizer.codebooks, quantizer.codevectors
    modules = {
        objective.quantizer.scores: quantizer.weight_proj,
        objective.project_target: model.project_q,
        objective.project_frame: model.project_hid,
    }
    for mine, theirs in modules.items():
        yield mine.weight, theirs.weight
        yield mine.bias, theirs.bias


@pytest.mark.parametrize(("training", "entries", "lengths"), CASES)
def test_loss_and_gradients(training, entries, lengths, monkeypatch):
    reference = Reference(training, entries, lengths)
    expected = reference.output()
    expected.loss.backward()

    config, weights = reference.encoder(reference.model.state_dict())
    speech = SpeechEncoder(config).train(training)
    speech.load_state_dict(weights)
    objective = ours(reference, training)
    places, hidden = wav2vec2.hidden_rows(reference.mask, reference.mask.shape[1])
    if training:
        noise = wav2vec2.pick(reference.noise().flatten(2), places, hidden).view(hidden.numel(), 2, entries)
        objective.quantizer.register_forward_pre_hook(lambda module, inputs: (*inputs, noise))
    monkeypatch.setattr(wav2vec2, "draw_negatives", lambda *_: reference.negatives)
    found = {}
    for name in ("contrastive_loss", "diversity_loss"):
        monkeypatch.setattr(wav2vec2, name, recorded(getattr(wav2vec2, name), name, found))
    waveforms, sizes, seeds = reference.samples, torch.tensor(lengths), torch.arange(len(lengths))
    targets = objective.targets(speech, waveforms, sizes, changed=False)
    output = speech(waveforms, sizes, reference.mask)
    loss, stats, weight = objective.loss(output, targets, None, reference.mask, seeds)
    loss.backward()

    assert weight == reference.mask.sum()
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(found["contrastive_loss"][0], expected.contrastive_loss, **close)
    if training:
        torch.testing.assert_close(found["diversity_loss"] * weight, expected.diversity_loss, **close)
        torch.testing.assert_close(loss, expected.loss, **close)
    else:
        # There transformers takes the perplexity of the choice, not of its probabilities.
        torch.testing.assert_close(stats["code_perplexity"], expected.codevector_perplexity * weight, **close)
    for mine, theirs in pairs(objective, reference.model):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad.view_as(theirs), theirs.grad, **close)
    _, slopes = reference.encoder(gradients(reference.model))
    torch.testing.assert_close(gradients(speech), slopes, **close)


def gradients(module):
    return {
        name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None
    }


def recorded(function, name, found):
    def record(*arguments):
        found[name] = function(*arguments)
        return found[name]

    return record
