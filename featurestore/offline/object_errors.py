"""What the errors of clients of object storage mean."""

import errno
import re

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")

_PROBLEMS = (
    ("<Code>NoSuchBucket", errno.ENXIO, "there is no such bucket: create it, or correct the address"),
    ("^FileNotFoundError", errno.ENOENT, "there is no such object"),
    ("^(AlreadyExists|Precondition)Error", errno.EEXIST, "the store says that another object is in its way{answer}"),
    (
        "/latest/api/token|/latest/meta-data|metadata.google|/metadata/identity",
        errno.EACCES,
        "there are no credentials in the environment (AWS_ACCESS_KEY_ID and the like), and the machine has no role",
    ),
    (
        "^(PermissionDenied|Unauthenticated)Error|status code: 40[13]",
        errno.EACCES,
        "it is not allowed{answer}: check the credentials in the environment, and what they may do in the bucket",
    ),
    ("empty path segment", errno.EINVAL, "the name of an object has two slashes in a row, which cannot be asked for: rename it"),
    ("status code: 416", errno.ERANGE, "it has fewer bytes{answer}"),
    (
        "^(NotSupported|NotImplemented)Error|status code: 501",
        errno.ENOTSUP,
        "the store does not know such a request{answer}",
    ),
    (
        "BadScheme",
        errno.EPROTONOSUPPORT,
        "its endpoint is not https: set allow_http, or AWS_ALLOW_HTTP=true, if that is meant",
    ),
    (
        "status code: 5",
        errno.ECONNABORTED,
        "the store has an error of its own{answer}: try it again later",
    ),
    (
        "kind: Timeout",
        errno.ETIMEDOUT,
        "the store does not answer: is it overloaded, or the network down? Try it again later",
    ),
    (
        "kind: Interrupted",
        errno.ECONNRESET,
        "the store broke the connection: is it overloaded, or was it started again? Try it again later",
    ),
    (
        "HTTP error",
        errno.ECONNREFUSED,
        "the store cannot be reached: check the endpoint and the region, and the network",
    ),
)
"""What the client's errors mean, by their class and text, for they have no fields: the first that fits counts."""

OUT_OF_REACH = frozenset({
    errno.ENXIO, errno.EACCES, errno.ENOTSUP, errno.EPROTONOSUPPORT, errno.ECONNABORTED, errno.ETIMEDOUT, errno.ECONNRESET,
    errno.ECONNREFUSED,
})  # fmt: skip


def problem_of(error: Exception) -> tuple[int, str]:
    """Return the number that a file system has for an error of object storage, and what to say.

    Args:
        error: an error of obstore, Polars or deltalake, which share their client. Its own text is not passed on, for what a server
            answers may quote a key.
    """
    text = f"{type(error).__name__}: {error}"
    status, code = _STATUS.search(text), _CODE.search(text)
    answer = f" (answer {status[1]}{f' {code[1]}' if code else ''})" if status else ""
    for sign, number, problem in _PROBLEMS:
        if re.search(sign, text):
            return number, problem.format(answer=answer)
    return errno.EIO, f"the store refused it{answer}: check the address and its options"


def is_out_of_reach(error: Exception) -> bool:
    """Return whether an error says that the store cannot be reached or used: to ask again at once helps nothing."""
    return problem_of(error)[0] in OUT_OF_REACH
