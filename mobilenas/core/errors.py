"""The exceptions of this project. The command line turns them into one line and exit status 2."""


class MobileNASError(Exception):
    """The root exception: an error that the caller can fix. The message says what is legal."""


class BudgetError(MobileNASError):
    """A malformed budget, or one that no network of the space can meet."""


class UnreachableError(BudgetError):
    """A budget below what the smallest network of the space costs."""


class DataError(MobileNASError):
    """Images, labels or folders that cannot be used as they are."""


class FileError(MobileNASError):
    """A file that is missing, truncated, invalid, or of another schema version."""


class InternalError(MobileNASError):
    """A bug: two parts of this project disagree, or one is incomplete; not the caller's fault."""


class DivergedError(MobileNASError):
    """A loss that is no longer a finite number; the last good checkpoint is kept."""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
