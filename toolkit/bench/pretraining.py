"""Pretraining steps: ours, and the same step of transformers on the same weights, audio and masks."""

import tempfile
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from toolkit import config
from toolkit.bench.measure import Remote, Stopwatch, System, current, peak_flops
from toolkit.data.batch import SslBatch
from toolkit.errors import UserError
from toolkit.export.hf import hf_settings, write_hf
from toolkit.models.published import PUBLISHED
from toolkit.optim.build import build_optimizer
from toolkit.tasks.ssl import SslConfig, SslTask
from toolkit.train.arithmetic import compiled, set_arithmetic
from toolkit.train.loop import DTYPES

NUM_CLASSES = 504
"""Clusters that a HuBERT model is to tell, as in k2SSL."""


@dataclass
class Setting:
    """What all systems of a comparison have in common."""

    batch: int
    """Utterances."""
    seconds: float
    """Length of each."""
    precision: str
    """fp32 or bf16."""
    device: str
    """cpu or cuda, perhaps with a number."""
    compile: bool
    """Whether ours are compiled."""

    def audio(self) -> tuple[Tensor, Tensor]:
        """The same noise for everyone, (B, S), and its lengths (B,)."""
        samples = round(16000 * self.seconds)
        noise = 0.1 * torch.randn(self.batch, samples, generator=torch.Generator().manual_seed(1))
        return noise.to(self.device), torch.full((self.batch,), samples, device=self.device)


class OurStep:
    """An update of the toolkit's own task: masks, loss, gradients, optimiser; as the train loop does it."""

    def __init__(self, model: str, overrides: list[str], setting: Setting) -> None:
        self.setting = setting
        self.device = torch.device(setting.device)
        self.task = make_task(model, overrides)
        set_arithmetic(self.task.config.train, self.device)
        torch.manual_seed(0)
        self.model = self.task.build_model().to(self.device).train()
        self.num_parameters = sum(p.numel() for p in self.model.parameters())
        self.optimizer = build_optimizer(self.model, self.task.config.optim, lambda _: 1.0, lambda _: False)
        self.run = compiled(self.model) if setting.compile else self.model
        self.batch = self.make_batch()
        self.seconds = self.batch.seconds
        self.update = 0

    def make_batch(self) -> SslBatch:
        """Noise, with random labels where the objective uses them."""
        waveforms, lengths = self.setting.audio()
        seconds = self.setting.batch * self.setting.seconds
        ids = [str(row) for row in range(len(waveforms))]
        labels = None
        if self.task.uses_labels:
            frames = self.model.speech.latent_lengths(waveforms.shape[1])
            shape = len(waveforms), frames, 1
            labels = torch.randint(0, NUM_CLASSES, shape, generator=torch.Generator().manual_seed(2))
            labels = labels.to(self.device)
        seeds = torch.arange(len(waveforms), device=self.device)
        return SslBatch(ids, waveforms, lengths, seeds, seconds, seconds, labels=labels)

    def step(self, watch: Stopwatch) -> None:
        self.task.before_update(self.model, self.update)
        enabled = self.setting.precision != "fp32"
        with torch.autocast(self.device.type, DTYPES[self.setting.precision], enabled=enabled):
            loss, _, weight = self.task.loss(self.run, self.batch)
        watch.done("forward")
        (loss / weight).backward()
        watch.done("backward")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.task.after_update(self.model)
        self.update += 1
        watch.done("optimiser")


class TransformersStep:
    """The same step with the classes of transformers: HuBERT with a linear head over clusters.

    It begins with the same weights, hides the same frames and uses the same settings of AdamW.

    Raises:
        UserError: transformers is not installed, or has no pretraining step for this model.
    """

    def __init__(self, model: str, overrides: list[str], setting: Setting) -> None:
        self.setting = setting
        self.ours = OurStep(model, overrides, setting)
        self.peer = peer_of(self.ours).to(setting.device).train()
        self.seconds, self.num_parameters = self.ours.seconds, sum(p.numel() for p in self.peer.parameters())
        self.optimizer = build_optimizer(
            self.peer, self.ours.task.config.optim, lambda _: 1.0, lambda _: False
        )
        batch, speech, objective = self.ours.batch, self.ours.model.speech, self.ours.model.objective
        frames = speech.latent_lengths(batch.waveforms.shape[1])
        self.mask = objective.mask(speech.latent_lengths(batch.lengths), frames, batch.seeds)
        self.batch = batch
        del self.ours

    def step(self, watch: Stopwatch) -> None:
        enabled = self.setting.precision != "fp32"
        device = torch.device(self.setting.device)
        with torch.autocast(device.type, DTYPES[self.setting.precision], enabled=enabled):
            loss = self.peer(self.batch, self.mask)
        watch.done("forward")
        loss.backward()
        watch.done("backward")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        watch.done("optimiser")


class PeerHubert(nn.Module):
    """transformers' HubertModel and a linear head, cross-entropy of the masked frames."""

    def __init__(self, folder: Path, head: nn.Linear, temperature: float) -> None:
        from transformers import HubertModel

        super().__init__()
        self.hubert = HubertModel.from_pretrained(folder)
        self.head = nn.Linear(head.in_features, head.out_features)
        self.head.load_state_dict(head.state_dict())
        self.temperature = temperature

    def forward(self, batch: SslBatch, mask: Tensor) -> Tensor:
        """The mean loss of the masked frames."""
        output = self.hubert(batch.waveforms, mask_time_indices=mask)
        logits = self.head(output.last_hidden_state[mask]) / self.temperature
        return nn.functional.cross_entropy(logits.float(), batch.labels[..., 0][mask])


def make_task(model: str, overrides: list[str], option: str = "--models") -> SslTask:
    """The pretraining task of a published model; overrides such as "--objective.name=best_rq" change its settings.

    Without LayerDrop, unless they ask for it: the work of a step would depend on chance.
    """
    if model not in PUBLISHED:
        raise UserError(f"{option}: found {model!r}, expected one of: {', '.join(PUBLISHED)}")
    raw: dict[str, Any] = {"speech": deepcopy(PUBLISHED[model]), "objective": {"num_classes": NUM_CLASSES}}
    if "layer_drop" in (encoder := raw["speech"]["encoder"]):
        encoder["layer_drop"] = 0.0
    if encoder["name"] == "zipformer":
        raw["optim"] = {"optimizer": {"name": "scaled_adam"}, "schedule": {"name": "eden"}}
    if any(text.startswith("--objective.name=") for text in overrides):
        del raw["objective"]
    raw = config.apply_overrides(raw, overrides)
    return SslTask(config.build(SslConfig, raw, f"bench {model}"), Path(), seed=0)


def check_peer(task: SslTask) -> None:
    """Sees to it that transformers can do the task's step.

    Raises:
        UserError: it cannot, or is not installed.
    """
    if find_spec("transformers") is None:
        raise UserError("--peers: transformers is not installed; pip install transformers")
    if task.config.objective.name != "hubert":
        raise UserError("--peers: transformers is compared with the objective hubert only")
    if (found := hf_settings(task.config.speech)["model_type"]) != "hubert":
        raise UserError(f"--peers: found a model of type {found}, expected one with HuBERT's encoder")


def peer_of(ours: OurStep) -> nn.Module:
    """transformers' model with our weights; raises as `check_peer`."""
    check_peer(ours.task)
    model = ours.model
    with tempfile.TemporaryDirectory() as folder:
        write_hf(Path(folder), ours.task.config.speech, model.speech.state_dict())
        return PeerHubert(Path(folder), model.objective.head, ours.task.config.objective.temperature)


def compare(
    models: list[str],
    peers: list[str],
    overrides: list[str],
    setting: Setting,
    steps: int,
    threads: int,
) -> list[dict[str, Any]]:
    """Measures steps of all systems in turn.

    Args:
        models: names of `PUBLISHED`.
        peers: of these, those that transformers does, too.
        overrides: changes to the task's configuration.
        setting: batch, arithmetic, device.
        steps: of each system, after two to warm up.
        threads: CPU threads.

    Returns:
        A row for each system: name, parameters, seconds of each part (median), audio seconds a second, memory in bytes,
        operations a second and their share of what a large matrix product reaches; with peers, time and memory as
        multiples of the first one's.

    Raises:
        UserError: a model, a peer or a setting that does not exist, before anything is measured; a process died.
    """
    models, peers = list(dict.fromkeys(models)), list(dict.fromkeys(peers))
    for name in models:
        make_task(name, overrides)
    for name in peers:
        check_peer(make_task(name, overrides, "--peers"))
    builds: dict[str, partial[System]] = {name: partial(OurStep, name, overrides, setting) for name in models}
    builds |= {f"transformers {name}": partial(TransformersStep, name, overrides, setting) for name in peers}
    device = current(setting.device)
    torch.set_num_threads(threads)
    peak = peak_flops(device, DTYPES[setting.precision])
    remotes = [Remote(name, build, setting.device, threads) for name, build in builds.items()]
    times: dict[str, list[dict[str, float]]] = {remote.name: [] for remote in remotes}
    for _ in range(steps):
        for remote in remotes:
            times[remote.name].append(remote.step())
    rows = []
    for remote in remotes:
        parts = {part: median(row[part] for row in times[remote.name]) for part in times[remote.name][0]}
        total = median(sum(row.values()) for row in times[remote.name])
        rate = remote.facts["flops"] / total
        rows.append(
            {
                "system": remote.name,
                "parameters": remote.facts["num_parameters"],
                **parts,
                "step": total,
                "audio_per_second": remote.facts["seconds"] / total,
                "memory": remote.finish()["memory"],
                "flops_per_second": rate,
                "utilisation": rate / peak,
            }
        )
    if peers:
        peer = rows[len(models)]
        for row in rows:
            row |= {f"{part}_ratio": row[part] / peer[part] for part in ("step", "memory")}
    return rows
