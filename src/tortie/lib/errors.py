"""Every error this project raises on purpose.

    TortieError
    ├── InvalidInput       wrong data from outside; retrying cannot help
    │   ├── InvalidField   in one field of one object
    │   └── SelectorSyntax (selector.syntax)
    ├── NotFound           the named object does not exist
    ├── AlreadyExists      the name is taken
    ├── Conflict           lost a compare-and-swap; re-read, then retry
    ├── Unavailable        peer or kernel busy or away; back off, then retry
    │   ├── KernelBusy
    │   └── Compacted      the revision asked for is gone; list anew
    ├── Denied             credentials are missing, wrong or not enough
    └── KernelRefused      the kernel rejected a write we believed valid

Anything else that escapes is a bug and ends the process; the supervisor
restarts us and the start-of-day resync repairs the dataplane.
"""

import errno
import os
from collections.abc import Iterator


class TortieError(Exception):
    """Base class; `retryable`: may the very same call succeed later?"""

    retryable: bool = False


class InvalidInput(TortieError):
    """Wrong data from outside: what is wrong, where, and what to do."""


class InvalidField(InvalidInput):
    """Wrong data in one field; whoever knows the file that it came from can say where.

    Attributes:
        name: of the object, as messages show it.
        path: of the field, as in `spec.filters[0]`.
    """

    def __init__(self, name: object, path: str, rule: str) -> None:
        super().__init__(f"{name}: {path}: {rule}")
        self.name = str(name)
        self.path = path


class NotFound(TortieError):
    """The named object does not exist."""


class AlreadyExists(TortieError):
    """The name is taken."""


class Conflict(TortieError):
    """A compare-and-swap was lost: read again, decide again, write again."""


class Denied(TortieError):
    """Credentials are missing, wrong or not enough."""


class Unavailable(TortieError):
    """A peer did not answer or is busy; the same call may succeed later.

    With `maybe_applied` the call was a write that may have taken effect: read
    before repeating it, unless repeating does no harm.
    """

    retryable = True

    def __init__(self, *args: object, maybe_applied: bool = False) -> None:
        super().__init__(*args)
        self.maybe_applied = maybe_applied


class Compacted(Unavailable):
    """History before `revision` is gone: list, then watch from there."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"revisions before {revision} have been compacted")
        self.revision = revision


class KernelBusy(Unavailable):
    """Another writer won the race, or memory was short for a moment."""


class KernelRefused(TortieError):
    """The kernel said no; `errno` is positive, `detail` is its extack text."""

    def __init__(self, operation: str, code: int, detail: str = "") -> None:
        super().__init__(f"{operation}: {detail or os.strerror(code)}")
        self.operation = operation
        self.errno = code


_TRANSIENT = frozenset({errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM})


def kernel_error(operation: str, code: int, detail: str = "") -> TortieError:
    """Map one errno to one error; the only place that knows which are transient."""
    if code in _TRANSIENT:
        return KernelBusy(f"{operation}: {detail or os.strerror(code)}")
    return KernelRefused(operation, code, detail)


def failures(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """What tasks that ran together failed of, in the order in which they failed; at least one."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from failures(error)
        else:
            yield error
