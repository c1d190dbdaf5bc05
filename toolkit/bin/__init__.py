"""The commands, one a file; `python -m toolkit.bin` lists them."""

import errno
import os
import sys
from collections.abc import Callable

from toolkit.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Runs a command; a user's mistake becomes one line on standard error and exit code 2, not a traceback."""
    from toolkit.score.errors import ScoreError

    try:
        main()
        sys.stdout.flush()
    except (UserError, ScoreError) as error:
        _fail(" ".join(str(error).split()))
    except BrokenPipeError:
        # The reader (head, say) has what it wanted; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        advice = (
            "; free some space and start again, finished work is kept" if error.errno == errno.ENOSPC else ""
        )
        _fail(f"{where}{error.strerror or error}{advice}")
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _fail(message: str) -> None:
    print(f"{os.path.basename(sys.argv[0]).removesuffix('.py')}: error: {message}", file=sys.stderr)
    sys.exit(2)
