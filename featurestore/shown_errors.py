"""What is shown of other libraries' errors: of those of object storage what they mean, for a server's answer may quote a key."""

import errno
import re

from featurestore.object_storage import is_object_address
from featurestore.offline.object_errors import OUT_OF_REACH, problem_of

_OF_STORE = re.compile(
    r"object-store error|error sending request|Error performing|Generic (?:S3|GCS|MicrosoftAzure) error|non-2xx status code"
)
_OUTAGES = OUT_OF_REACH - {errno.EACCES}
_ACTION = re.compile(r"^could not [a-z ]+: ")
_DRAWN = re.compile("(?:\\s|\x1b\\[\\d*m|↳)+")
"""What stands between the parts of an error that is drawn as a tree."""


def quotes_store(error: Exception) -> bool:
    """Return whether an error quotes what object storage answered: then it is not to be the cause of another either.

    Example:
        >>> quotes_store(OSError("Generic S3 error: … status code: 403 Forbidden: …")), quotes_store(OSError("disk full"))
        (True, False)
    """
    return bool(_OF_STORE.search(str(error)))


def shown(error: Exception) -> str:
    """Return what an error says.

    Example:
        >>> shown(OSError("Generic S3 error: Server returned non-2xx status code: 403 Forbidden: <Key>AKIA…</Key>"))
        'it is not allowed (answer 403): check the credentials in the environment, and what they may do in the bucket.'
    """
    if isinstance(error, OSError) and error.strerror and is_object_address(str(error.filename)):
        return f"{_ACTION.sub('', error.strerror)}."
    if quotes_store(error):
        return f"{problem_of(_plain(error))[1]}."
    return str(error).split("\n\n", 1)[0].strip() or type(error).__name__


def says_out_of_reach(error: Exception) -> bool:
    """Return whether an error says that object storage cannot be reached: nothing is known of what it was asked for then.

    That something is not allowed may be said of one object alone, so it does not count.

    Example:
        >>> says_out_of_reach(OSError("Generic S3 error: … status code: 503 …"))
        True
    """
    if isinstance(error, OSError) and is_object_address(str(error.filename)):
        return error.errno in _OUTAGES
    return quotes_store(error) and problem_of(_plain(error))[0] in _OUTAGES


def _plain(error: Exception) -> OSError:
    """Return an error with the words that are known of such, without how they are drawn."""
    text = _DRAWN.sub(" ", str(error)).replace("status code ", "status code: ").replace("error sending", "HTTP error: sending")
    return FileNotFoundError(text) if isinstance(error, FileNotFoundError) else OSError(text)
