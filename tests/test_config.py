"""Typed configuration: what is read, what is refused and how, what is saved."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import yaml

from toolkit import config
from toolkit.config import build, choice, load
from toolkit.decode.registry import SEARCHES
from toolkit.decode.streaming import StreamingConfig
from toolkit.errors import UserError
from toolkit.ssl.registry import OBJECTIVES
from toolkit.tasks import TASKS, task_class


@dataclass
class Round:
    """Wheels that roll."""

    name: str = "round"
    """Which wheel this is."""
    radius: float = 0.3
    """In metres."""


@dataclass
class Square:
    """Wheels that do not."""

    name: str = "square"
    """Which wheel this is."""
    side: int = 2
    """In metres."""

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"side must be positive, got {self.side}")


Round.Config, Square.Config = Round, Square
WHEELS = {"round": Round, "square": Square}


@dataclass
class Engine:
    """What drives the car."""

    power: float = 1.0
    """In kilowatts."""
    fuel: Literal["oil", "wind"] = "oil"
    """What it burns."""
    gears: list[float] = field(default_factory=lambda: [1.0, 2.0])
    """Ratios."""
    turbo: bool = False
    """Faster."""
    limit: tuple[float, float] | None = None
    """Least and greatest speed; null for none."""


@dataclass
class Car:
    """A car."""

    seats: int
    """Places for people."""
    engine: Engine = field(default_factory=Engine)
    """What drives it."""
    wheels: Any = choice(WHEELS, "round")
    """What it stands on."""
    owner: str | None = None
    """Who has it."""


def test_yaml_then_overrides_then_defaults(tmp_path):
    path = tmp_path / "car.yaml"
    path.write_text("seats: 4\nengine: {power: 1e-3, gears: [1, 2.5]}\nwheels: {name: square, side: 3}\n")
    car = load(Car, path, ["--wheels.side=5", "--engine.turbo=true", "--engine.limit=[1, 2]", "--owner=null"])
    assert car == Car(4, Engine(0.001, "oil", [1.0, 2.5], True, (1.0, 2.0)), Square(side=5))
    assert isinstance(car.engine.gears[0], float)


def test_defaults_of_a_section_are_those_of_the_field_that_holds_it():
    @dataclass
    class Trailer:
        """Pulled."""

        engine: Engine = field(default_factory=lambda: Engine(power=0.0, fuel="wind"))
        """Of its own."""

    assert load(Trailer, None, ["--engine.turbo=true"]) == Trailer(Engine(0.0, "wind", turbo=True))
    assert load(Trailer, None, ["--engine.power=2"]).engine.fuel == "wind"


def test_an_override_may_pick_another_part():
    car = load(Car, None, ["--seats=2", "--wheels.name=square"])
    assert car == Car(2, wheels=Square())
    assert load(Car, None, ["--seats=2", "--owner="]).owner == ""


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"seats": 1, "engin": {}}, "car.yaml: unknown key engin; nearest valid: engine"),
        (
            {"seats": 1, "engine": {"poewr": 3}},
            "car.yaml: unknown key engine.poewr; nearest valid: engine.power",
        ),
        ({"seats": 1, "wheels": {"side": 3}}, "unknown key wheels.side; expected one of: name, radius"),
        (
            {"seats": 1, "zzz": 3},
            "car.yaml: unknown key zzz; expected one of: seats, engine, wheels, owner",
        ),
        ({"seats": 1, "wheels": {"name": "sqare"}}, "wheels.name: found 'sqare'; nearest valid: square"),
        ({"seats": 1, "wheels": {"name": ["x"]}}, r"wheels.name: found \['x'\]; expected one of: round"),
        ({"seats": 1, "wheels": "square"}, "wheels: found 'square', expected a section with keys"),
        ({"seats": 1, "engine": 3}, "car.yaml: engine: found 3, expected a section with keys"),
        ({"seats": "many"}, "car.yaml: seats: found 'many', expected int"),
        ({"seats": 1.5}, "seats: found 1.5, expected int"),
        ({"seats": True}, "seats: found True, expected int"),
        ({"seats": None}, "seats: found None, expected int"),
        ({}, "car.yaml: seats is missing: Places for people."),
        (
            {"seats": 1, "engine": {"fuel": "coal"}},
            "engine.fuel: found 'coal', expected one of 'oil', 'wind'",
        ),
        ({"seats": 1, "engine": {"gears": ["a"]}}, r"engine.gears: found \['a'\], expected list\[float\]"),
        ({"seats": 1, "engine": {"turbo": 1}}, "engine.turbo: found 1, expected bool"),
        ({"seats": 1, "engine": {"limit": [1]}}, r"engine.limit: found \[1\], expected tuple"),
        ({"seats": 1, "owner": 3}, r"owner: found 3, expected str \| None"),
        ({"seats": 1, "wheels": {"name": "square", "side": 0}}, "car.yaml: wheels: side must be positive"),
    ],
)
def test_what_does_not_fit_is_refused(raw, message):
    with pytest.raises(UserError, match=message) as caught:
        build(Car, raw, "car.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seats=3", "command line: found 'seats=3', expected --key.subkey=value"),
        ("--seats", "command line: found '--seats', expected --key.subkey=value"),
        ("--seats.x=3", "command line: seats.x: seats holds a value, not a section"),
        ("--engine.powr=3", "unknown key engine.powr; nearest valid: engine.power"),
    ],
)
def test_overrides_that_are_none(tmp_path, override, message):
    path = tmp_path / "car.yaml"
    path.write_text("seats: 3")
    with pytest.raises(UserError, match=message):
        load(Car, path, [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seats: 3\nengine: {power: [1, 2\n", r"car.yaml:3: not YAML"),
        (b"seats: 3\n\tengine: 3\n", r"car.yaml:2: not YAML"),
        (b"seats: !!python/object:os.system 3\n", r"car.yaml:1: not YAML \(could not determine"),
        (b"\xff\xfe\x00\x01", "car.yaml: not a text file, expected YAML"),
        (b"seats: \x00", "car.yaml: not a text file, expected YAML"),
        (b"- seats\n- engine\n", "car.yaml: found list at the top, expected a mapping"),
        (b"", "car.yaml: seats is missing"),
    ],
)
def test_unreadable_files(tmp_path, content, message):
    path = tmp_path / "car.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(Car, path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="none.yaml: no such file"):
        load(Car, tmp_path / "none.yaml")


def test_saved_and_printed_forms_are_read_back_as_the_same(tmp_path):
    car = Car(4, Engine(1e-8, "wind", [], True, (0.1, 1e20)), Square(side=7), "Zoë: {x}")
    config.save(car, tmp_path / "car.yaml")
    assert load(Car, tmp_path / "car.yaml") == car
    assert build(Car, yaml.safe_load(config.describe(car)), "described") == car
    assert build(Car, config.to_dict(car), "plain") == car


CONFIGS = {
    **{task: lambda task=task: task_class(task, "test").Config for task in TASKS},
    **{name: lambda search=search: search.Config for name, search in SEARCHES.items()},
    "streaming": lambda: StreamingConfig,
}
"""What commands read -> how to get its class: tasks are imported where they are needed."""


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_can_be_described_saved_and_read_back(name, tmp_path):
    cls = CONFIGS[name]()
    settings = cls()
    text = config.describe(settings)
    assert build(cls, yaml.safe_load(text), "described") == settings
    config.save(settings, tmp_path / "config.yaml")
    assert load(cls, tmp_path / "config.yaml") == settings
    for line in text.splitlines():
        assert "  # " in line, f"{name}: no explanation: {line}"
    assert set(keys(config.to_dict(settings))) == set(keys(yaml.safe_load(text)))


def keys(plain, prefix=""):
    for key, value in plain.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


def test_differences():
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": 3}
    new = {"a": 1, "b": {"c": [1, 3], "d": None}, "f": 4}
    assert config.differences(old, new) == {"b.c": ([1, 2], [1, 3]), "e": (3, None), "f": (None, 4)}
    assert config.differences(old, old) == {}


SURFACE = {
    "ssl": "task seed data crop_seconds speech objective view init optim train",
    "asr": "task seed data tokenizer speech init mask channel_mask spec_augment ctc transducer attention optim train",
    "speaker": "task seed data speed_speakers crop_seconds speech init head margin optim train",
    "diarization": "task seed data chunk_seconds speech init head optim train",
    "lm": "task seed data tokenizer network optim train",
}
SECTIONS = {
    "data": "train valid sampler augment",
    "data.sampler": "max_duration max_cuts min_seconds max_seconds num_buckets buffer_size shar_buffer_size "
    "num_workers",
    "speech": "frontend encoder",
    "init": "model lr_factor layer_decay adaptation",
    "optim": "lr optimizer schedule",
    "train": "max_updates accumulation precision clip_norm average_decay freeze_updates valid_every log_every "
    "checkpoint_every keep_checkpoints scan_batches threads deterministic compile",
}


MASK = "kind prob span other min_spans no_overlap min_space inverse adjust"
WITHOUT_AUDIO = {"lm": {"speech", "init"}}
TOKENIZER = "type vocab_size lexicon normalize folder"
OWN_SECTIONS = {
    ("lm", "data"): "train valid sampler",
    ("lm", "data.sampler"): "max_characters max_length buffer_size num_workers",
    ("lm", "network"): "name dim num_layers dropout tie_weights",
    ("lm", "tokenizer"): TOKENIZER,
    ("asr", "tokenizer"): TOKENIZER,
    ("asr", "mask"): MASK,
    ("asr", "channel_mask"): MASK,
    ("ssl", "objective.mask"): MASK,
    ("ssl", "objective"): "name num_classes mask head final_dim temperature masked_weight unmasked_weight "
    "feature_penalty",
    ("ssl", "view"): "mix_prob noise noise_prob speech_ratio noise_ratio max_share augment",
}


def section_of(settings: dict, path: str) -> dict:
    """The part of a configuration that a dotted path leads to."""
    for part in path.split("."):
        settings = settings[part]
    return settings


def test_the_surface_of_the_train_command_is_frozen():
    """Published configurations use these keys: one that goes away or moves breaks them. New ones are added here."""
    assert set(SURFACE) == set(TASKS)
    for task, expected in SURFACE.items():
        settings = config.to_dict(task_class(task, "test").Config())
        assert list(settings) == expected.split()
        own = {section: names for (name, section), names in OWN_SECTIONS.items() if name == task}
        for section in (SECTIONS | own).keys() - WITHOUT_AUDIO.get(task, set()):
            names = (SECTIONS | own)[section]
            assert list(section_of(settings, section)) == names.split(), f"{task}: {section}"


OBJECTIVE_KEYS = {
    "wav2vec2": "name mask groups entries codevector_dim compared_dim negatives temperature gumbel_temperature "
    "gumbel_decay diversity_weight feature_penalty target_dropout standardize learn_latents",
    "best_rq": "name mask codebooks entries entry_dim seed num_mel_bins unmasked_weight",
    "data2vec": "name top_layers layer_norm share_frontend decay final_decay decay_updates masks mask unmasked_weight "
    "decoder_dim decoder_layers decoder_kernel decoder_groups decoder_dropout",
}


@pytest.mark.parametrize("name", OBJECTIVE_KEYS)
def test_the_surface_of_the_objectives_is_frozen(name):
    assert list(config.to_dict(OBJECTIVES[name].Config())) == OBJECTIVE_KEYS[name].split()


DECODE_SURFACE = """
ctc_greedy: {name: ctc_greedy}
ctc_beam: {name: ctc_beam, beam: 8, nbest: 1, token_beam: 20, paths: sum, blank_threshold: 1.0, length_bonus: 0.0,
  fusion: &fusion {ngram: null, ngram_scale: 0.3, lm: null, lm_scale: 0.3, biasing: null, biasing_score: 1.5,
    lodr: null, lodr_scale: 0.2},
  words: {lexicon: null, ngram: null, scale: 0.5, bonus: 0.0, look_ahead: true}}
hlg: {name: hlg, graph: null, scale: 0.5, beam: 16.0, max_active: 3000, nbest: 1, lattice_beam: 8.0, backend: auto}
greedy: {name: greedy, max_symbols: 10, blank_penalty: 0.0}
modified_beam: {name: modified_beam, beam: 4, nbest: 1, temperature: 1.0, blank_penalty: 0.0, length_bonus: 0.0,
  internal_lm_scale: 0.0, fusion: *fusion}
rescoring: {name: rescoring,
  first: {name: modified_beam, beam: 8, nbest: 8, temperature: 1.0, blank_penalty: 0.0, length_bonus: 0.0,
    internal_lm_scale: 0.0, fusion: *fusion},
  first_scale: 1.0, attention_scale: 0.0, length_bonus: 0.0, fusion: *fusion}
streaming: {chunk_size: null, left_context: null, tail_seconds: 0.0,
  endpoint: {enabled: true,
    nothing_said: {speech: false, silence: 2.4, seconds: 0.0},
    after_speech: {speech: true, silence: 1.2, seconds: 0.0},
    too_long: {speech: false, silence: 0.0, seconds: 20.0}}}
"""


@pytest.mark.parametrize("name", [*SEARCHES, "streaming"])
def test_the_surface_of_the_decode_command_is_frozen(name):
    """Keys and defaults: results are published with the settings that were changed, and no others."""
    expected = yaml.safe_load(DECODE_SURFACE)[name]
    settings = config.to_dict(CONFIGS[name]()())
    assert settings == expected and list(keys(settings)) == list(keys(expected))


@pytest.mark.parametrize("name", [None, "", "asd", ["asr"], {"a": 1}])
def test_a_task_that_does_not_exist(name):
    with pytest.raises(
        UserError, match="x.yaml: task: found .*, expected one of: ssl, asr, speaker, diarization"
    ):
        task_class(name, "x.yaml")


IMPOSSIBLE = [
    ("speech.encoder.num_heads=0", "num_heads must be at least 1"),
    ("speech.encoder.num_layers=0", "num_layers must be at least 1"),
    ("speech.encoder.dim=100", r"dim must be a multiple of 2 \* num_heads, got 100 and 4"),
    ("speech.encoder.kernel_size=4", "kernel_size must be odd, got 4"),
    ("speech.encoder.subsampling=3", "subsampling must be 1, 2 or 4"),
    ("speech.encoder.dropout=1", r"dropout must be in \[0, 1\)"),
    ("speech.encoder.attention_dropout=-1", r"attention_dropout must be in \[0, 1\)"),
    ("speech.frontend.num_mel_bins=2", "num_mel_bins at least 8"),
    ("data.sampler.max_duration=0", "max_duration must be positive"),
    ("data.sampler.max_cuts=0", "max_cuts must be positive"),
    ("data.sampler.num_workers=-1", "num_workers must not be negative"),
    ("data.sampler.min_seconds=40", "min_seconds 40.0 must be below max_seconds 30.0"),
    ("data.augment.speed=[9]", "data.augment: speed: found"),
    ("tokenizer.vocab_size=1", "vocab_size must be at least 3"),
    ("tokenizer.type=phone", "type phone, and no other, needs a lexicon, got phone and None"),
    ("tokenizer.lexicon=lexicon.txt", "type phone, and no other, needs a lexicon, got char and lexicon.txt"),
    (
        "tokenizer.normalize=[lowr]",
        "normalize: found 'lowr', expected steps among nfc, nfkc, lower, upper, tags",
    ),
    ("mask.prob=2", "mask: prob must be in"),
    ("mask.span=0", "span must be positive"),
    ("ctc.dropout=1.5", "ctc: dropout must be in"),
    ("optim.lr=0", "lr must be positive"),
    ("optim.lr=.nan", "lr must be positive"),
    ("optim.optimizer.betas=[0.9]", "betas must be two numbers"),
    ("optim.optimizer.betas=[0.9,1.0]", "betas must be two numbers"),
    ("optim.optimizer.weight_decay=-1", "weight_decay not negative"),
    ("optim.schedule.warmup_updates=-1", "warmup_updates must not be negative"),
    ("train.max_updates=0", "max_updates must be at least 1"),
    ("train.keep_checkpoints=1", "keep_checkpoints must be at least 2"),
    ("train.average_decay=1", r"average_decay must be in \[0, 1\)"),
    ("train.clip_norm=-1", "clip_norm must not be negative"),
    ("train.precision=fp8", "expected one of 'fp32', 'bf16', 'fp16'"),
]


@pytest.mark.parametrize(("override", "message"), IMPOSSIBLE, ids=[text for text, _ in IMPOSSIBLE])
def test_impossible_values_are_refused_with_their_section(override, message):
    with pytest.raises(UserError, match=message) as caught:
        load(task_class("asr", "test").Config, None, [f"--{override}"])
    assert str(caught.value).startswith("configuration: ")


def test_dataclasses_stay_as_they_are():
    """Reading a configuration must not change the defaults of the next."""
    load(Car, None, ["--seats=1", "--engine.gears=[9]"])
    assert load(Car, None, ["--seats=1"]).engine.gears == [1.0, 2.0]
    assert dataclasses.fields(Car)[0].name == "seats"
