"""Why a command ends before its time, in words for the user."""


class UserError(Exception):
    """Says in one sentence what came, what was wanted and what to do."""


class Stopped(Exception):
    """The run was asked to end before its time, and says how to go on with it."""
