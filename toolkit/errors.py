"""The one exception that stands for a user's mistake, and how a lack of memory is told from other failures."""


class UserError(ValueError):
    """Something the user can mend: a wrong path, key, value or file.

    The message is one line that names the file, the line or key, what was found and what was expected. Commands
    print it without a traceback and exit with code 2.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """True for the errors with which Python, PyTorch and the libraries of CUDA report that memory is used up."""
    signs = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
