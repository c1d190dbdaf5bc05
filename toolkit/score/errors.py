"""The exception of the scoring room."""


class ScoreError(ValueError):
    """A user's mistake in a file or an option of a scoring command.

    The message is one line: file and line (or option), what was found, what was expected. The scoring room
        stands
    alone, so it has its own class; commands treat it like every other user error: one line, exit code 2.
    """
