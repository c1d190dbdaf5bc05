"""The one train loop, for every task."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from toolkit import checkpoint
from toolkit.errors import UserError
from toolkit.optim.build import OptimConfig, build_optimizer, set_learning_rate
from toolkit.optim.scaled_adam import ScaledAdamConfig
from toolkit.train.arithmetic import compiled, set_arithmetic
from toolkit.train.config import TrainConfig
from toolkit.train.distributed import World
from toolkit.train.failure import (
    Pending,
    explained_memory,
    non_finite,
    nothing_to_learn,
)
from toolkit.train.log import SUMS, Log, Meter, bar
from toolkit.train.state import State, make_average, update_average

# Settings with which a run may go on although they changed; all others would make it another run.
MAY_CHANGE = (
    "train.max_updates",
    "train.accumulation",
    "train.valid_every",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.scan_batches",
    "train.threads",
    "data.valid",
    "data.sampler.num_workers",
    # What the advice after a failure names; the run is another from here on, as the user wants it.
    "train.clip_norm",
    "train.precision",
    "train.deterministic",
    "optim.lr",
    "optim.schedule.",
    "data.sampler.max_duration",
    "data.sampler.max_seconds",
    "data.sampler.max_characters",
    "data.sampler.max_length",
)
# Updates in a row without anything to learn from, after which a run gives up.
IDLE_UPDATES = 20
# fp16's loss scale begins at 2^16 and is halved by every update that is not finite; so far down none ever will be.
MIN_LOSS_SCALE = 2.0**-14
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Task(Protocol):
    """What the loop asks of a task."""

    def build_model(self) -> nn.Module:
        """A new model."""

    def initialize(self, model: nn.Module, say: Callable[[str], None]) -> None:
        """Copies pretrained weights into a new model; says what it did."""

    def before_update(self, model: nn.Module, update: int) -> None:
        """Called before every update with the updates done, for what changes in the course of training."""

    def after_update(self, model: nn.Module) -> None:
        """Called once the optimiser has moved the weights, for copies that follow them."""

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss and statistics summed over a batch, and the weight that they are to be divided by."""

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """Further numbers for the log, worked out from the mean loss and statistics."""

    def training_batches(
        self, start: tuple[int, int, int], consumed: int, rank: int, world_size: int, pin_memory: bool
    ) -> Iterable:
        """This rank's share of the endless stream after the first `consumed` batches.

        The ranks take the batches in rows, one each; every rank gets the row's first position with its own batch.
        `start` is a known place (epoch, index, total) at or before which `consumed` begins.
        """

    def validation_batches(self, rank: int, world_size: int, pin_memory: bool) -> Iterable:
        """This rank's share of the validation data; empty if there is none."""

    def largest_batches(self, count: int) -> list[Any]:
        """The batches of the first `count` that need most memory."""

    def lr_factor(self, name: str) -> float:
        """What the learning rate of a parameter is multiplied by."""

    def is_pretrained(self, name: str) -> bool:
        """True for parameters that come from a pretrained model."""


class Trainer:
    """Trains a task's model, from scratch or from the newest checkpoint.

    The gradient of an update is the sum over all ranks and accumulated batches, divided once by the sum of their
    weights. So 8 processes, or 2 with accumulation over 4 batches, or one over 8, give the same update. Before a batch
    the random generators are seeded from its place in the stream, so that dropout is the same too.

    Args:
        task: data, model and loss.
        config: the loop.
        optim: optimiser and schedule.
        resolved: the whole configuration as plain values, saved with every checkpoint.
        seed: of weights, order, augmentation and dropout.
        folder: the experiment; gets checkpoints/, metrics.jsonl, log.txt, tensorboard/, skipped.jsonl.
        world: the processes.

    Raises:
        UserError: settings of loop and optimiser that do not go together; no checkpoint to go on from.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        optim: OptimConfig,
        resolved: dict,
        seed: int,
        folder: Path,
        world: World,
    ) -> None:
        self.task, self.config, self.optim, self.seed = task, config, optim, seed
        self.folder, self.world, self.checkpoints = folder, world, folder / "checkpoints"
        _check_scaled_adam(config, optim)
        set_arithmetic(config, world.device)
        torch.manual_seed(seed)
        model = task.build_model()
        fresh = not checkpoint.steps(self.checkpoints)
        messages: list[str] = []
        if fresh:
            task.initialize(model, messages.append)
        model.to(world.device)
        optimizer = build_optimizer(model, optim, task.lr_factor, task.is_pretrained)
        self.state = State(
            model=model,
            optimizer=optimizer,
            average=make_average(model) if config.average_decay else None,
            scaler=torch.amp.GradScaler(world.device.type, enabled=config.precision == "fp16"),
            config=resolved,
        )
        if not fresh:
            messages += self._restore()
        self.log = Log(folder, world, self.state.update)
        for message in messages:
            self.log.say(message)
        self.wrapped = compiled(model) if config.compile else model
        if world.size > 1:
            # Buffers are constants here (no running statistics), equal on all ranks from the start.
            self.wrapped = DistributedDataParallel(self.wrapped, broadcast_buffers=False)
        self.meter = Meter()
        self.sigterm = self.stopping = False
        self.idle = 0
        self.reported_at = 0.0

    def _restore(self) -> list[str]:
        path, damaged = checkpoint.latest(self.checkpoints)
        if path is None:
            raise UserError(f"{damaged[0]}; no other checkpoint to go on from, --restart begins anew")
        changed = self.state.restore(path, lambda key: key.startswith(MAY_CHANGE))
        return [
            *(f"passed over {text}" for text in damaged),
            f"going on from {path} (update {self.state.update})",
            *(f"with another setting: {text}" for text in changed),
        ]

    def run(self) -> nn.Module:
        """Trains to the last update; returns the (averaged) model.

        Raises:
            UserError: out of memory or a non-finite loss; the batch is written aside.
            SystemExit: 143 after SIGTERM, once a checkpoint is written.
        """
        config, state = self.config, self.state
        parameters = sum(p.numel() for p in state.model.parameters())
        self.log.say(
            f"{parameters / 1e6:.2f} M parameters, {config.max_updates} updates, {self.world.size} process(es) on "
            f"{self.world.device.type}, {config.precision}"
        )
        handler = signal.signal(signal.SIGTERM, self._on_sigterm)
        try:
            self._scan()
            self._train()
        finally:
            signal.signal(signal.SIGTERM, handler)
            self.log.close()
            # DistributedDataParallel goes while the processes are still joined: were it the last to hold on to their
            # group, it would wait for gloo's threads with Python's lock in hand, which one of them may want.
            self.wrapped = state.model
        return state.best_weights

    def _train(self) -> None:
        """Updates, with reports, validations and checkpoints when they are due."""
        config, state = self.config, self.state
        first, start, spent_before = state.update, time.monotonic(), state.elapsed
        self.reported_at = start
        batches = iter(self._training_batches())
        pending = None
        while state.update < config.max_updates:
            previous, pending = pending, self._update(batches)
            self._check(previous)
            state.update += 1
            state.elapsed = spent_before + time.monotonic() - start
            last = state.update == config.max_updates
            checkpoint_due = last or state.update % config.checkpoint_every == 0
            if checkpoint_due or self.stopping or state.update % config.log_every == 0:
                self._check(pending)  # Here too a request to stop may be found.
                if state.scaler.is_enabled() and state.scaler.get_scale() < MIN_LOSS_SCALE:
                    raise non_finite(pending, self.folder, self.world.rank)
                self._report(bar(state.update, first, config.max_updates, time.monotonic() - start), pending)
                pending = None
            paused = time.monotonic()
            if last or (config.valid_every and state.update % config.valid_every == 0):
                self._validate()
            if checkpoint_due or self.stopping:
                self._save()
            # The speed that is reported is that of training alone.
            self.reported_at += time.monotonic() - paused
            if self.stopping and not last:
                self.log.say(
                    f"stopped by SIGTERM at update {state.update}; the same command goes on (without --restart)"
                )
                raise SystemExit(143)
            self.log.progress(state.update, first, config.max_updates)

    def _training_batches(self) -> Iterable:
        state, world = self.state, self.world
        pin = world.device.type == "cuda"
        return self.task.training_batches(state.position, state.consumed, world.rank, world.size, pin)

    def _update(self, batches: Iterator) -> Pending:
        """One step of the optimiser.

        Nothing here waits for a GPU, but PyTorch's CTC, if that is the loss.
        """
        state, config, world = self.state, self.config, self.world
        self.task.before_update(state.model, state.update)
        seen, losses, weight = [], [], torch.zeros((), device=world.device)
        for index in range(config.accumulation):
            position, batch = next(batches)
            if index == 0:
                self._set_learning_rate(position.epoch)
            loss, batch_weight = self._backward(
                batch, position.total + self.world.rank, index == config.accumulation - 1
            )
            weight = weight + batch_weight
            seen.append(batch)
            losses.append(loss)
        state.position, state.consumed = tuple(position), position.total + world.size
        with self._explained_memory(batch):
            signals, norm = self._step(weight, torch.stack(losses).sum())
        return Pending(signals, norm, losses, seen, state.update, check_norm=not state.scaler.is_enabled())

    def _set_learning_rate(self, epoch: int) -> None:
        state, config = self.state, self.config
        self.lr = self.optim.lr * self.optim.schedule.factor(state.update, config.max_updates, epoch)
        set_learning_rate(state.optimizer.param_groups, self.lr, state.update < config.freeze_updates)

    def _step(self, weight: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Makes an update of the gradients; returns the signals and the norm that `Pending` holds."""
        state, config, world = self.state, self.config, self.world
        stop = torch.full((), float(self.sigterm), device=world.device)
        signals = world.sum(torch.stack([weight, stop, loss]).double())
        state.scaler.unscale_(state.optimizer)
        grads = [p.grad for p in state.model.parameters() if p.grad is not None]
        # DDP leaves the mean over ranks; the update wants the sum over ranks and batches, divided by the weight.
        torch._foreach_mul_(grads, (world.size / signals[0].clamp(min=1.0)).float())
        norm = torch.nn.utils.get_total_norm(grads)
        if config.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(state.model.parameters(), config.clip_norm, norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        self.task.after_update(state.model)
        if state.average is not None:
            update_average(state.average, state.model, config.average_decay, state.update)
        return signals, norm

    def _backward(self, batch: Any, total: int, last: bool) -> tuple[Tensor, Tensor]:
        """Adds one batch's gradients; returns its loss and weight."""
        torch.manual_seed(self.seed * 1_000_003 + total)
        # Gradients travel between ranks once an update, with its last batch.
        quiet = self.world.size > 1 and not last
        with self._explained_memory(batch), self.wrapped.no_sync() if quiet else nullcontext():
            loss, stats, weight = self._loss(self.wrapped, batch.to(self.world.device))
            if batch.placeholder:
                loss, weight, stats = loss * 0, weight * 0, {}
            self.state.scaler.scale(loss).backward()
        self.log.skip(batch.skipped)
        sizes = {"amount": batch.amount, "padded": batch.padded_amount}
        self.meter.add({"loss": loss, "weight": weight, **sizes, **stats})
        return loss.detach(), weight.detach().float()

    def _loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        enabled = self.config.precision != "fp32"
        with torch.autocast(self.world.device.type, DTYPES[self.config.precision], enabled=enabled):
            loss, stats, weight = self.task.loss(model, batch)
        return loss, stats, weight.to(loss.device, non_blocking=True)

    def _explained_memory(self, batch: Any) -> AbstractContextManager[None]:
        return explained_memory(batch, self.folder, self.state.update, self.world.rank)

    def _check(self, pending: Pending | None) -> None:
        """Reads an update's numbers; every rank reads the same ones and so decides the same."""
        if pending:
            weight, stop, finite = pending.read()
            if not finite:
                raise non_finite(pending, self.folder, self.world.rank)
            self.idle = 0 if weight else self.idle + 1
            if self.idle == IDLE_UPDATES:
                raise nothing_to_learn(pending.update, self.idle, self.folder)
            self.stopping = self.stopping or stop

    def _report(self, progress: str, pending: Pending) -> None:
        now = time.monotonic()
        means, state = self._means(self.meter), self.state
        kind = pending.batches[0]
        row = {
            "step": state.update,
            "epoch": state.position[0],
            "split": "train",
            **{name: round(value, 6) for name, value in means.items() if name not in SUMS},
            "lr": self.lr,
            "grad_norm": round(float(pending.norm), 4),
            "padding": round(1 - means["amount"] / max(means["padded"], 1e-9), 4),
            f"{kind.content}_per_second": round(means["amount"] / (now - self.reported_at), 2),
            "elapsed": round(state.elapsed, 2),
        }
        self.reported_at = now
        self.log.metrics(row)
        shown = " ".join(f"{name} {row[name]:.4g}" for name in means if name not in SUMS)
        speed = f"{row[f'{kind.content}_per_second']:.0f} {kind.unit} a second"
        self.log.say(f"{progress} | {shown} | lr {row['lr']:.2e}, {speed}")

    def _means(self, meter: Meter) -> dict[str, float]:
        means = meter.means(self.world)
        return means | self.task.derived(means)

    @torch.no_grad()
    def _validate(self) -> None:
        model, world = self.state.best_weights, self.world
        training = model.training
        model.eval()
        meter = Meter()
        meter.add({"loss": 0.0, "weight": 0.0, "amount": 0.0})
        for _, batch in self.task.validation_batches(world.rank, world.size, world.device.type == "cuda"):
            self.log.skip(batch.skipped)
            if not batch.placeholder:
                with self._explained_memory(batch):
                    loss, stats, weight = self._loss(model, batch.to(world.device))
                meter.add({"loss": loss, "weight": weight, "amount": batch.amount, **stats})
        model.train(training)
        means = self._means(meter)
        if means.pop("amount"):
            values = {name: round(value, 6) for name, value in means.items()}
            self.log.metrics(
                {"step": self.state.update, "epoch": self.state.position[0], "split": "valid", **values}
            )
            self.log.say("validation: " + " ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def _save(self) -> None:
        if self.world.is_main:
            self.state.save(self.checkpoints, self.config.keep_checkpoints)
        self.world.barrier()

    def _scan(self) -> None:
        """Tries the largest of the first batches, so that a lack of memory shows now and not after hours."""
        if not self.config.scan_batches or self.state.update:
            return
        model = self.state.model
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        # Room for the optimiser's moments, which come with the first update.
        moments = [torch.empty_like(p) for p in model.parameters() if p.requires_grad for _ in range(2)]
        for batch in self.task.largest_batches(self.config.scan_batches):
            self._backward(batch, 0, last=True)
            self.log.say(
                f"largest batch fits: {batch.size}"
                + (
                    f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
                    if torch.cuda.is_available()
                    else ""
                )
            )
        del moments
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        self.meter = Meter()

    def _on_sigterm(self, *_: Any) -> None:
        self.sigterm = True


def _check_scaled_adam(config: TrainConfig, optim: OptimConfig) -> None:
    """Refuses what ScaledAdam does by itself or cannot do."""
    if not isinstance(optim.optimizer, ScaledAdamConfig):
        return
    if config.clip_norm and optim.optimizer.clipping_scale:
        raise UserError(
            f"train.clip_norm: found {config.clip_norm}, expected 0 with optim.optimizer.name=scaled_adam, which clips "
            "by itself"
        )
    if config.precision == "fp16":
        # Updates that are passed over would have to be so on the device, with all that the optimiser remembers.
        raise UserError(
            "train.precision: found fp16, expected bf16 or fp32 with optim.optimizer.name=scaled_adam, which knows no "
            "loss scale; bf16 is as fast"
        )
