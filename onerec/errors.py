"""The errors a user can cause, in one small tree.

Every message is one line: what went wrong, where (file, row, column, value, limit) and what to do
next. The command line prints the line and exits with 2; the app shows it in place of a traceback.
"""


class OneRecError(Exception):
    """Something the user can mend. The message says how."""


class DataError(OneRecError):
    """A file, table or archive that cannot be read as asked."""


class RecipeError(OneRecError):
    """An unknown recipe or setting, or a value that cannot work."""


class RunError(OneRecError):
    """A run folder that is missing, unfinished, damaged, held by another or of other data."""


def first_line(error: BaseException) -> str:
    """The first line of somebody else's error; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()
