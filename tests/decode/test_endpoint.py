"""Rules that end utterances of a stream."""

import pytest
import yaml

from toolkit import config
from toolkit.decode.endpoint import EndpointConfig, EndpointRule


@pytest.mark.parametrize(
    ("seconds", "silence", "speech", "rule"),
    [
        (2.3, 2.3, False, None),
        (2.4, 2.4, False, "nothing_said"),
        (9.0, 2.4, True, "nothing_said"),
        (3.0, 1.1, True, None),
        (3.0, 1.2, True, "after_speech"),
        (3.0, 1.2, False, None),
        (19.9, 0.0, True, None),
        (20.0, 0.0, True, "too_long"),
        (20.0, 0.0, False, "too_long"),
    ],
)
def test_rules_as_sherpa_has_them(seconds, silence, speech, rule):
    assert EndpointConfig().rule(seconds, silence, speech) == rule
    assert EndpointConfig(enabled=False).rule(seconds, silence, speech) is None


def test_rules_are_part_of_a_configuration():
    settings = config.build(EndpointConfig, {"after_speech": {"silence": 0.5}}, "test")
    assert settings.after_speech == EndpointRule(speech=True, silence=0.5)
    assert config.build(EndpointConfig, yaml.safe_load(config.describe(settings)), "test") == settings
    assert settings.rule(1.0, 0.6, speech=True) == "after_speech"


@pytest.mark.parametrize("numbers", [{}, {"silence": -1.0, "seconds": 3.0}, {"silence": float("nan")}])
def test_a_rule_that_would_always_hold(numbers):
    with pytest.raises(ValueError, match="silence and seconds must not be negative, and one of them over 0"):
        EndpointRule(**numbers)
