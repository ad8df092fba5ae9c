"""Mistakes that are the user's to mend, and how a command ends."""

import errno
import sys
from collections.abc import Callable


class UserError(Exception):
    """Says in one sentence what came, what was wanted and what to do."""


class Stopped(Exception):
    """The run was asked to end before its time, and says how to go on with it."""


def exit_with(main: Callable[[], None]) -> None:
    """Runs a command: status 0 done, 2 the user's mistake, 1 anything else."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" for {error.filename}" if error.filename else ""
        print(f"error: no space is left{where}: make some.", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        print(f"stopped: {stopped}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
