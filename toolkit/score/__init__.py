"""Scoring, files in and tables out: `wer` (recognition), `eer` (verification), `der` (diarization).

The room uses nothing else of the toolkit, so that its figures can be checked, and it reused, on its own.
"""

from toolkit.score.errors import ScoreError

__all__ = ["ScoreError"]
