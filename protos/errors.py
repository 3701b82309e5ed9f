"""The one root of every error that is a user's mistake; only the command line turns it into a line and a status."""


class PodwireError(Exception):
    """A mistake of the user or of the input: `str()` is one line that says what, where and what to do."""
