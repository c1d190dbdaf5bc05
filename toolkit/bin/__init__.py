"""The commands, one a file; `python -m toolkit.bin` lists them."""

import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from toolkit.errors import UserError, is_out_of_memory


def run(main: Callable[[], None], goes_on: bool = False) -> None:
    """Runs a command; a user's mistake becomes one line on standard error and exit code 2.

    Args:
        main: the command.
        goes_on: started again after an interruption, it does only what is left to do.
    """
    from toolkit.score.errors import ScoreError

    try:
        main()
        sys.stdout.flush()
    except (UserError, ScoreError) as error:
        _fail(str(error))
    except BrokenPipeError:
        _discard_output()
        sys.exit(141)
    except OSError as error:
        _fail(_describe(error))
    except UnicodeError as error:
        _fail(f"found a name or text that is not UTF-8 ({error})")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail("out of memory; compute less at once (--batch-seconds, --batch-size, --max-frames, --jobs)")
    except KeyboardInterrupt:
        advice = "; the same command goes on from here" if goes_on else ""
        print(f"interrupted{advice}", file=sys.stderr)
        sys.exit(130)


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "; free some space and start again, finished work is kept" if full else ""
    return f"{where}{error.strerror or error}{advice}"


def _fail(message: str) -> NoReturn:
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()
    print(
        f"{os.path.basename(sys.argv[0]).removesuffix('.py')}: error: {' '.join(message.split())}",
        file=sys.stderr,
    )
    sys.exit(2)


def _discard_output() -> None:
    """Nobody takes in standard output any more; keeps the interpreter from complaining about it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
