"""The tasks: the only place where data, model and loss meet."""

from importlib import import_module
from typing import Any

from toolkit.errors import UserError

TASKS = {
    "ssl": "toolkit.tasks.ssl:SslTask",
    "asr": "toolkit.tasks.asr:AsrTask",
    "speaker": "toolkit.tasks.speaker:SpeakerTask",
    "diarization": "toolkit.tasks.diarization:DiarizationTask",
}


def task_class(name: Any, where: str) -> type:
    """The class of a task.

    Args:
        name: what a configuration has under `task`.
        where: which configuration that is, for the message.

    Raises:
        UserError: there is no task of that name.
    """
    if not isinstance(name, str) or name not in TASKS:
        raise UserError(f"{where}: task: found {name!r}, expected one of: {', '.join(TASKS)}")
    module, _, attribute = TASKS[name].partition(":")
    return getattr(import_module(module), attribute)
