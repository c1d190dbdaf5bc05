"""What holds for every objective that looks at masked frames only, each in its smallest form."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from toolkit.models.output import EncoderOutput
from toolkit.ssl.registry import OBJECTIVES

SPEECH = SimpleNamespace(
    dim=6,
    latent_dim=5,
    frame_shift=0.02,
    latent_lengths=lambda samples: samples // 320,
    config=SimpleNamespace(frontend=SimpleNamespace(sample_rate=16000)),
)
LENGTHS = [40, 23, 31]
SMALL = {
    # The diversity loss looks at the batch as a whole.
    "wav2vec2": {"groups": 2, "entries": 4, "codevector_dim": 6, "negatives": 5, "diversity_weight": 0.0},
    "best_rq": {"codebooks": 2, "entries": 7, "entry_dim": 4},
}


def make(name):
    torch.manual_seed(0)
    cls = OBJECTIVES[name]
    return cls(cls.Config(**SMALL[name]), SPEECH).eval()


def case(name, objective):
    """Output, targets, mask and seeds of three utterances."""
    torch.manual_seed(1)
    lengths, seeds = torch.tensor(LENGTHS), torch.tensor([5, 6, 7])
    output = EncoderOutput(torch.randn(3, 40, 6), lengths, [], torch.randn(3, 40, 5))
    targets = {"wav2vec2": (None, lengths), "best_rq": torch.randn(3, 40, 8)}[name]
    return output, targets, objective.mask(lengths, 40, seeds), seeds


def loss_of(objective, output, targets, mask, seeds):
    return objective.loss(output, targets, None, mask, seeds)


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


def test_an_utterance_adds_the_same_in_any_batch(name):
    objective = make(name)
    output, targets, mask, seeds = case(name, objective)
    loss, stats, weight = loss_of(objective, output, targets, mask, seeds)
    losses, right, weights = 0.0, 0.0, 0
    for row, length in enumerate(LENGTHS):
        alone = EncoderOutput(
            output.frames[row : row + 1, :length],
            output.lengths[row : row + 1],
            [],
            output.latents[row : row + 1, :length],
        )
        own = targets if isinstance(targets, tuple) else targets[row : row + 1, :length]
        found = loss_of(objective, alone, own, mask[row : row + 1, :length], seeds[row : row + 1])
        losses, right, weights = losses + found[0], right + found[1]["accuracy"], weights + found[2]
    torch.testing.assert_close(losses, loss, rtol=1e-5, atol=1e-4)
    assert right == stats["accuracy"] > 0
    assert weights == weight == mask.sum() > 30


def test_only_masked_frames_that_exist_get_gradients(name):
    objective = make(name)
    output, targets, mask, seeds = case(name, objective)
    everywhere = mask | torch.rand(3, 40).gt(0.5)
    output = output._replace(frames=output.frames.requires_grad_())
    loss_of(objective, output, targets, everywhere, seeds)[0].backward()
    valid = torch.arange(40) < output.lengths[:, None]
    assert torch.equal(output.frames.grad.abs().sum(-1) > 0, everywhere & valid)


def test_what_other_frames_hold_does_not_matter(name):
    objective = make(name).train()
    objective.config.target_dropout = 0.0
    output, targets, mask, seeds = case(name, objective)
    torch.manual_seed(2)
    expected = loss_of(objective, output, targets, mask, seeds)[0]
    spoilt = {
        part: getattr(output, part).masked_fill(~mask[..., None], math.nan) for part in ("frames", "latents")
    }
    if name == "best_rq":
        targets = targets.masked_fill(~mask[..., None], math.nan)
    torch.manual_seed(2)
    loss = loss_of(objective, output._replace(**spoilt), targets, mask, seeds)[0]
    loss.backward()
    assert loss == expected
    assert all(parameter.grad.isfinite().all() for parameter in objective.parameters())


def test_nothing_waits_for_a_gpu(name):
    """On a pretended GPU, whose numbers nobody can ask for."""
    with FakeTensorMode():
        objective = make(name).train()
        output, targets, mask, seeds = moved(case(name, objective))
        output = EncoderOutput(*output)
        for module in objective.modules():
            for key, parameter in module.named_parameters(recurse=False):
                setattr(module, key, torch.nn.Parameter(moved(parameter)))
            for key, buffer in module.named_buffers(recurse=False):
                setattr(module, key, moved(buffer))
        assert objective.mask(output.lengths, 40, seeds).shape == (3, 40)
        loss, stats, weight = loss_of(objective, output, targets, mask, seeds)
    assert {value.shape for value in (loss, weight, *stats.values())} == {torch.Size([])}
    assert {value.device.type for value in (loss, weight, *stats.values())} == {"cuda"}


def moved(value):
    """Tensors, and tuples of them, on the GPU."""
    if isinstance(value, tuple):
        return tuple(moved(part) for part in value)
    return value.to("cuda") if isinstance(value, torch.Tensor) else value


def test_nothing_masked_is_no_loss(name):
    objective = make(name).train()
    output, targets, mask, seeds = case(name, objective)
    loss, stats, weight = loss_of(objective, output, targets, torch.zeros_like(mask), seeds)
    loss.backward()
    assert loss == weight == 0 and all(value == 0 for value in stats.values())
    assert all(parameter.grad.abs().sum() == 0 for parameter in objective.parameters())


def test_one_masked_frame(name):
    objective = make(name).train()
    output, targets, mask, seeds = case(name, objective)
    mask = torch.zeros_like(mask)
    mask[1, 4] = True
    loss, stats, weight = loss_of(objective, output, targets, mask, seeds)
    loss.backward()
    assert weight == 1 and 0 <= loss < math.inf
    assert all(parameter.grad.isfinite().all() for parameter in objective.parameters())


def test_an_objective_that_masks_nothing_is_refused(name):
    config = OBJECTIVES[name].Config
    mask = type(config().mask)(prob=0.0)
    with pytest.raises(ValueError, match="mask.prob must be positive"):
        config(**SMALL[name], mask=mask)
