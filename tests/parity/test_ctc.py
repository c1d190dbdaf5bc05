"""CTC against k2's."""

import torch

from toolkit.losses.ctc import ctc_loss


def test_losses_and_gradients(vectors):
    for tensors, settings in vectors("ctc"):
        assert settings["blank"] == 0
        scores = tensors["log_probs"].clone().requires_grad_()
        targets, lengths = tensors["targets"].long(), tensors["lens"].long()
        loss, fits = ctc_loss(scores.log_softmax(-1), lengths, targets, tensors["target_lens"].long())
        assert fits.all()
        torch.testing.assert_close(loss, tensors["loss"], rtol=1e-5, atol=1e-4)
        loss.sum().backward()
        # The reference differentiates with respect to log-probabilities as if they were free. What reaches the
        # scores before the softmax is the same for every way to continue the loss off the simplex.
        free = tensors["grad_log_probs"]
        expected = free - tensors["log_probs"].softmax(-1) * free.sum(-1, keepdim=True)
        torch.testing.assert_close(scores.grad, expected, rtol=1e-4, atol=1e-5)
