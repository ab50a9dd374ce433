"""The one root exception. The command line turns it into one line and exit status 2."""


class MobileNASError(Exception):
    """Something the caller can fix: the message names the thing and says what is legal."""


class BudgetError(MobileNASError):
    """A budget no network of the space can keep, or a malformed one."""


class UnreachableError(BudgetError):
    """A budget below what the smallest network of the space costs."""


class DataError(MobileNASError):
    """Images, labels or folders that cannot be used as they are."""


class FileError(MobileNASError):
    """A file that is missing, cut, edited by hand to be wrong, or of another schema version."""


class InternalError(MobileNASError):
    """Two parts of this project disagree, or one has a gap: no mistake of the caller's."""


class DivergedError(MobileNASError):
    """A loss that is no longer a finite number; the last good checkpoint is kept."""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
