"""The one exception that stands for a user's mistake."""


class UserError(ValueError):
    """Something the user can mend: a wrong path, key, value or file.

    The message is one line that names the file, the line or key, what was found and what was expected. Commands
    print it without a traceback and exit with code 2.
    """
