"""The tasks: the only place where data, model and loss meet."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from toolkit.errors import UserError

TASKS = {
    "ssl": "toolkit.tasks.ssl:SslTask",
    "asr": "toolkit.tasks.asr:AsrTask",
    "speaker": "toolkit.tasks.speaker:SpeakerTask",
    "diarization": "toolkit.tasks.diarization:DiarizationTask",
    "lm": "toolkit.tasks.lm:LmTask",
}
"""What can be trained."""
MODELS = {**TASKS, "encoder": "toolkit.tasks.encoder:EncoderTask"}
"""What a model directory can hold."""


def task_class(name: Any, where: str, known: Mapping[str, str] = MODELS) -> type:
    """The class of a task.

    Args:
        name: what a configuration has under `task`.
        where: which configuration that is, for the message.
        known: the tasks to choose from.

    Raises:
        UserError: there is no task of that name.
    """
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{where}: task: found {name!r}, expected one of: {', '.join(known)}")
    module, _, attribute = known[name].partition(":")
    return getattr(import_module(module), attribute)
