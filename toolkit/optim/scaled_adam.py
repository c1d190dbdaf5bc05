"""ScaledAdam: Adam with steps in proportion to the size of what they move (Zipformer, arXiv 2310.11230, section 3.5).

Dimensions: N parameters of a group, each a row of the vectors here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

FIRST_THRESHOLDS = (10, 20, 40)
"""Updates at which the clipping threshold is found before the history is full; then it is doubled, as norms still
move fast."""
STACKED = 2**14
"""Parameters of at most so many elements are moved together with others of their shape; larger ones keep a processor
busy alone, and stacking them would cost copies."""


@dataclass
class ScaledAdamConfig:
    """Adam in units of each parameter's root mean square, which is learned too. Needs no weight decay, and clips by
    itself: set train.clip_norm to 0."""

    name: str = "scaled_adam"
    """Which optimiser this is."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    """Decay rates of the step and of the squared gradient."""
    eps: float = 1e-8
    """Added to the root of the squared gradient."""
    clipping_scale: float = 2.0
    """Gradients are clipped at this times the median of the recent norms of gradient times parameter size; 0 for no
    clipping."""
    clipping_update_period: int = 100
    """How many norms the median is of; it is taken anew after so many updates."""
    scalar_lr_scale: float = 0.1
    """What the learning rate is multiplied by for parameters of one element and for the size of all others."""
    scalar_max: float = 10.0
    """Largest absolute value of a parameter of one element."""
    param_min_rms: float = 1e-5
    """A parameter is not made smaller than this root mean square, and moves at least as fast as one of this size."""
    param_max_rms: float = 3.0
    """A parameter is not made larger than this root mean square."""
    size_update_period: int = 4
    """Updates from one step of the sizes to the next."""

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")
        for name in ("eps", "scalar_lr_scale", "scalar_max", "param_min_rms"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.param_max_rms > self.param_min_rms:
            raise ValueError(
                f"param_max_rms must be above param_min_rms, got {self.param_max_rms} and {self.param_min_rms}"
            )
        if not self.clipping_scale >= 0:
            raise ValueError(f"clipping_scale must not be negative, got {self.clipping_scale}")
        for name in ("clipping_update_period", "size_update_period"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class Move(NamedTuple):
    """What one update does, beside gradients: delta = beta1 * delta + speed * g / (sqrt(v) + eps) + growth * p."""

    speed: Tensor
    """(N,) times the clipped gradient over the root of its mean square."""
    growth: Tensor | None
    """(N,) times the parameter itself; None where sizes do not move."""
    clip: Tensor
    """() what gradients are multiplied by first."""
    beta1: float
    beta2: float
    eps: float
    scalar_max: float
    frozen: bool
    """Statistics go on, parameters do not move."""


class Passes(Protocol):
    """The two passes over all elements of a group's parameters; all else is vectors of N."""

    params: list[Tensor]
    """The parameters in the order of their rows."""
    exp_avg_sq: list[Tensor]
    """For each, the running mean square of its gradient."""
    delta: list[Tensor]
    """For each, the running mean of its steps."""

    def sums(self, sizes: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sums over each parameter's elements of g * g, p * g and, if `sizes`, p * p: (N,) each.

        A gradient that is None counts as zeros.
        """

    def move(self, move: Move) -> None:
        """Makes an update of the gradients that `sums` has seen."""


class ScaledAdam(torch.optim.Optimizer):
    """Adam with steps in units of each parameter's root mean square, and a slower step of that size itself.

    Nothing here waits for a GPU: norms, their median and the clipping stay on it. On a GPU two Triton kernels go over
    the elements; without Triton and on CPUs small parameters of one shape are stacked.

    Args:
        groups: parameter groups; each group clips by its own norms. All of a group are on one device in one type.
        config: settings.
        lr: learning rate of groups that do not have their own.
    """

    Config = ScaledAdamConfig

    def __init__(self, groups: Iterable[Any], config: ScaledAdamConfig, lr: float) -> None:
        super().__init__(groups, {"lr": lr})
        self.config = config
        self.rows: dict[int, _Group] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Makes one update.

        Args:
            closure: computes the gradients anew and returns the loss, if the caller has not done so.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            if group["params"]:
                self._rows(index).update(group["lr"])
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a state, whose counters may be tensors."""
        super().load_state_dict(state_dict)
        loaded = dict(self.state)
        self.state.clear()
        self.rows.clear()
        for index, group in enumerate(self.param_groups):
            if any(p in loaded for p in group["params"]):
                self._rows(index).load([loaded[p] for p in self._rows(index).params])

    def _rows(self, index: int) -> "_Group":
        """What a group remembers; it is made with the first update, so that no memory is held before."""
        if index not in self.rows:
            group = _Group(self.param_groups[index]["params"], self.config)
            self.rows[index] = group
            self.state.update(zip(group.params, group.states, strict=True))
        return self.rows[index]


class _Group:
    """The state of a group and its arithmetic on vectors of N."""

    def __init__(self, params: list[Tensor], config: ScaledAdamConfig) -> None:
        self.config = config
        self.passes = _passes(params)
        self.params = self.passes.params
        count, like = len(params), params[0]
        self.rms = like.new_zeros(count)
        self.scale_exp_avg_sq = like.new_zeros(count)
        self.scale_grads = like.new_zeros(count, config.size_update_period)
        self.norms = like.new_zeros(config.clipping_update_period)
        self.threshold = like.new_full((), torch.inf)
        sizes = [p.numel() for p in self.params]
        self.numel = torch.tensor(sizes, device=like.device)
        self.scalar = self.numel == 1
        # All of it as each parameter's own, in which form it is saved.
        self.states = [
            {
                "exp_avg_sq": self.passes.exp_avg_sq[row],
                "delta": self.passes.delta[row],
                "param_rms": self.rms[row],
                "scale_exp_avg_sq": self.scale_exp_avg_sq[row],
                "scale_grads": self.scale_grads[row],
            }
            for row in range(count)
        ]
        self.states[0] |= {"step": 0, "model_norms": self.norms, "model_norm_threshold": self.threshold}

    def load(self, states: list[dict[str, Any]]) -> None:
        """Takes over what was saved."""
        for own, saved in zip(self.states, states, strict=True):
            for name, value in own.items():
                if name == "step":
                    own[name] = int(saved[name])
                else:
                    value.copy_(saved[name])

    def update(self, lr: float) -> None:
        """One update of all parameters."""
        config, step = self.config, self.states[0]["step"]
        period = config.size_update_period
        sizes_move = step % period == period - 1
        squares, products, sizes = self.passes.sums(sizes_move or step == 0)
        if step == 0:
            self._measure(sizes)
        clip = self._clip(squares, step)
        self.scale_grads[:, step % period] = products * clip
        if sizes_move:
            self._measure(sizes)
        beta1, beta2 = config.betas
        correction = 1 - beta2 ** (step + 1)
        # A mean square that began with zeros is too small by this; it stands in speed and eps, to save a pass.
        root = correction**0.5 if correction < 0.99 else 1.0
        speed = self.rms.clamp(min=config.param_min_rms) * (-lr * root * (1 - beta1))
        growth = self._growth(step, lr) * (1 - beta1) if sizes_move and step else None
        self.passes.move(
            Move(speed, growth, clip, beta1, beta2, config.eps * root, config.scalar_max, frozen=lr == 0)
        )
        self.states[0]["step"] = step + 1

    def _measure(self, sizes: Tensor) -> None:
        """Takes each parameter's root mean square; scalars have a constant in its place."""
        self.rms.copy_(torch.where(self.scalar, self.config.scalar_lr_scale, (sizes / self.numel).sqrt()))

    def _clip(self, squares: Tensor, step: int) -> Tensor:
        """What gradients are multiplied by, (), at most 1; keeps the history of norms."""
        config, period = self.config, self.config.clipping_update_period
        if not config.clipping_scale:
            return torch.ones_like(self.threshold)
        norm = (self.rms.square() * squares).sum().sqrt()
        self.norms[step % period] = norm
        if step and step % period == 0:
            self.threshold.copy_(config.clipping_scale * _median(self.norms))
        elif step in FIRST_THRESHOLDS and step < period:
            self.threshold.copy_(2 * config.clipping_scale * _median(self.norms[1 : step + 1]))
        return (self.threshold / (norm + 1e-20)).clamp(max=1.0).nan_to_num(nan=0.0)

    def _growth(self, step: int, lr: float) -> Tensor:
        """By what share each parameter is to grow or shrink, (N,): a step of Adam on the logarithm of its size."""
        config, period = self.config, self.config.size_update_period
        beta2 = config.betas[1] ** period
        self.scale_exp_avg_sq.lerp_(self.scale_grads.square().mean(1), 1 - beta2)
        correction = (1 - beta2 ** ((step + 1) // period)) ** 0.5
        growth = self.scale_grads.sum(1) / (self.scale_exp_avg_sq.sqrt() + config.eps)
        growth = growth * (-lr * config.scalar_lr_scale * correction)
        growth = growth.masked_fill(self.rms < config.param_min_rms, 0.0).clamp(-0.1, 0.1)
        growth = torch.minimum(growth, (config.param_max_rms - self.rms) / self.rms)
        return growth.masked_fill(self.scalar, 0.0)


def _median(norms: Tensor) -> Tensor:
    """The upper of the two in the middle, by quarters rounded down, (). As a tensor: nothing waits for it."""
    return norms.sort().values[min(len(norms) - 1, len(norms) // 4 * 2)]


def _passes(params: list[Tensor]) -> Passes:
    plain = all(p.dtype == torch.float32 and torch.empty_like(p).stride() == p.stride() for p in params)
    if plain and params[0].is_cuda and find_spec("triton"):
        # Triton takes a second to import, and is of no use without a GPU.
        from toolkit.optim.scaled_adam_triton import Kernels

        return Kernels(params)
    return Stacks(params)


class Stacks:
    """The passes in PyTorch; those of `toolkit.optim.scaled_adam_triton` give the same numbers.

    Small parameters are stacked by shape, large ones are views of themselves with a first dimension of one.
    """

    def __init__(self, params: list[Tensor]) -> None:
        shapes: dict[Any, list[Tensor]] = {}
        for index, p in enumerate(params):
            shapes.setdefault(tuple(p.shape) if p.numel() <= STACKED else index, []).append(p)
        self.batches = list(shapes.values())
        self.params = [p for batch in self.batches for p in batch]
        self.moments = [
            [torch.zeros_like(together(batch)) for batch in self.batches] for _ in ("exp_avg_sq", "delta")
        ]
        self.exp_avg_sq, self.delta = ([row for stack in stacks for row in stack] for stacks in self.moments)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def sums(self, sizes: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `Passes`."""
        self.seen = [
            (together(batch), together([torch.zeros_like(p) if p.grad is None else p.grad for p in batch]))
            for batch in self.batches
        ]
        flat = [
            (p.flatten(1), g.flatten(1)) if p.ndim > 1 else (p[:, None], g[:, None]) for p, g in self.seen
        ]
        squares = torch.cat([torch.linalg.vector_norm(g, dim=1).square() for _, g in flat])
        products = torch.cat([torch.linalg.vecdot(p, g, dim=1) for p, g in flat])
        if not sizes:
            return squares, products, None
        return squares, products, torch.cat([torch.linalg.vector_norm(p, dim=1).square() for p, _ in flat])

    def move(self, move: Move) -> None:
        """See `Passes`."""
        counts = [len(batch) for batch in self.batches]
        speeds = move.speed.split(counts)
        growths = [None] * len(counts) if move.growth is None else move.growth.split(counts)
        for batch, (p, g), v, delta, speed, growth in zip(
            self.batches, self.seen, *self.moments, speeds, growths, strict=True
        ):
            column = (-1,) + (1,) * (p.ndim - 1)
            g = g * move.clip
            v.mul_(move.beta2).addcmul_(g, g, value=1 - move.beta2)
            delta.mul_(move.beta1).addcmul_(g.div_(v.sqrt().add_(move.eps)), speed.view(column))
            if growth is not None:
                delta.addcmul_(p, growth.view(column))
            if not move.frozen:
                torch._foreach_add_(batch, list(delta))
                if batch[0].numel() == 1:
                    torch._foreach_clamp_min_(batch, -move.scalar_max)
                    torch._foreach_clamp_max_(batch, move.scalar_max)
        self.seen = []


def together(batch: list[Tensor]) -> Tensor:
    """(n, ...) of n tensors of one shape; a copy if they are several."""
    return torch.stack(batch) if len(batch) > 1 else batch[0][None]
