"""When an utterance of a stream is over: Kaldi's rules, with the numbers of sherpa.

All times are in seconds.
"""

from dataclasses import dataclass, field


@dataclass
class EndpointRule:
    """An utterance is over when all of this holds."""

    speech: bool = False
    """Whether something must have been recognised in it."""
    silence: float = 0.0
    """Seconds since the last token, or since the start if there is none."""
    seconds: float = 0.0
    """Length of the utterance."""

    def __post_init__(self) -> None:
        if not (self.silence >= 0 and self.seconds >= 0 and self.silence + self.seconds > 0):
            raise ValueError(
                f"silence and seconds must not be negative, and one of them over 0, got {self.silence:g} and "
                f"{self.seconds:g}"
            )


@dataclass
class EndpointConfig:
    """A stream is cut into utterances where one of the rules holds."""

    enabled: bool = True
    """Whether it is cut at all; if not, a stream is one utterance, however long."""
    nothing_said: EndpointRule = field(default_factory=lambda: EndpointRule(silence=2.4))
    """Silence after whatever there was."""
    after_speech: EndpointRule = field(default_factory=lambda: EndpointRule(speech=True, silence=1.2))
    """Silence after speech."""
    too_long: EndpointRule = field(default_factory=lambda: EndpointRule(seconds=20.0))
    """Whatever is said, so that no utterance grows without bounds."""

    def rule(self, seconds: float, silence: float, speech: bool) -> str | None:
        """The first rule that holds.

        Args:
            seconds: how long the utterance is.
            silence: how long nothing was recognised at its end.
            speech: whether something was recognised in it.

        >>> EndpointConfig().rule(3.0, 1.3, speech=True)
        'after_speech'
        """
        if not self.enabled:
            return None
        for name in ("nothing_said", "after_speech", "too_long"):
            rule: EndpointRule = getattr(self, name)
            if seconds >= rule.seconds and silence >= rule.silence and (speech or not rule.speech):
                return name
        return None
