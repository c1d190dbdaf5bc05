"""Schedules against their closed forms, written out from the papers."""

import math

import pytest

from toolkit.optim.schedule import (
    SCHEDULES,
    ConstantSchedule,
    CosineSchedule,
    EdenSchedule,
    InverseSqrtSchedule,
    LinearSchedule,
    TriStageSchedule,
)

TOTAL = 100


def factors(schedule, total=TOTAL):
    return [schedule.factor(update, total) for update in range(total)]


def test_linear():
    expected = [(u + 1) / 10 for u in range(10)] + [1 - 0.8 * (u - 10) / 90 for u in range(10, 100)]
    assert factors(LinearSchedule(warmup_updates=10, final=0.2)) == pytest.approx(expected)


def test_cosine():
    rest = [0.1 + 0.9 * (1 + math.cos(math.pi * (u - 20) / 80)) / 2 for u in range(20, 100)]
    expected = [(u + 1) / 20 for u in range(20)] + rest
    assert factors(CosineSchedule(warmup_updates=20, final=0.1)) == pytest.approx(expected)


def test_tri_stage():
    up = [(u + 1) / 11 for u in range(10)]
    down = [math.exp(math.log(0.05) * (u - 50) / 50) for u in range(50, 100)]
    schedule = TriStageSchedule(warmup=0.1, hold=0.4, final=0.05)
    assert factors(schedule) == pytest.approx(up + [1.0] * 40 + down)


def test_inverse_square_root():
    # Vaswani et al.: min(step^-0.5, step * warmup^-1.5), here scaled so that its highest value is 1.
    expected = [min(s**-0.5, s * 16**-1.5) * 16**0.5 for s in range(1, 101)]
    assert factors(InverseSqrtSchedule(warmup_updates=16)) == pytest.approx(expected)


def test_constant():
    expected = [(u + 1) / 5 for u in range(5)] + [1.0] * 95
    assert factors(ConstantSchedule(warmup_updates=5)) == pytest.approx(expected)


def test_eden():
    schedule = EdenSchedule(lr_updates=30, lr_epochs=2, warmup_updates=10, warmup_start=0.25)
    for update in range(100):
        epoch = update // 7
        warm = min(1.0, 0.25 + 0.75 * update / 10)
        expected = warm / ((update**2 + 900) / 900) ** 0.25 / ((epoch**2 + 4) / 4) ** 0.25
        assert schedule.factor(update, TOTAL, epoch) == pytest.approx(expected, rel=1e-12)


def test_eden_with_epochs_made_of_updates():
    schedule = EdenSchedule(lr_updates=1e9, lr_epochs=2, warmup_updates=0, updates_per_epoch=20)
    assert schedule.factor(0, TOTAL, 99) == 1
    # Epoch 2.5, whatever the data say.
    assert schedule.factor(50, TOTAL, 99) == pytest.approx(((2.5 / 2) ** 2 + 1) ** -0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_start": 1.5}, "warmup_start must be in"),
        ({"warmup_updates": -1}, "warmup_updates must not be negative"),
        ({"lr_updates": 0}, "lr_updates and lr_epochs must be positive"),
        ({"lr_epochs": float("nan")}, "lr_updates and lr_epochs must be positive"),
        ({"updates_per_epoch": -1}, "updates_per_epoch not negative"),
    ],
)
def test_impossible_eden(settings, message):
    with pytest.raises(ValueError, match=message):
        EdenSchedule(**settings)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 7, 1000])
def test_all_stay_within_bounds_and_peak_once(name, total):
    schedule = SCHEDULES[name]()
    assert schedule.name == name
    values = factors(schedule, total)
    assert all(0 < value <= 1 for value in values)
    peak = values.index(max(values))
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_no_warm_up_begins_at_the_full_rate(name):
    assert SCHEDULES[name](warmup_updates=0).factor(0, TOTAL) == 1


@pytest.mark.parametrize(
    "settings", [{"warmup": 0.7, "hold": 0.5}, {"warmup": -0.1}, {"final": 0.0}, {"final": 2.0}]
)
def test_impossible_stages(settings):
    with pytest.raises(ValueError, match="warmup and hold"):
        TriStageSchedule(**settings)
