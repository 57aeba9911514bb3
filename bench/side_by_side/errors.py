"""What the command reports in one line and exits with 2 for."""


class UsageError(Exception):
    """The command cannot do what it was asked for, on this machine or at all."""
