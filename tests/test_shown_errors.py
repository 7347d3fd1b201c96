"""What is shown of errors of object storage: never what a server answered."""

import traceback

import pytest

from featurestore.definitions.source import ParquetSource
from featurestore.errors import RequestError, SourceError
from featurestore.retrieval.spine import reading_spine
from featurestore.shown_errors import shown
from featurestore.sources.timestamps import translated

ANSWER = """Kernel error -> Generic S3 error
          \x1b[31m↳\x1b[0m Error performing GET http://127.0.0.1/lake in 2.7ms - Server returned non-2xx status code
           \x1b[31m↳\x1b[0m 403 Forbidden
            \x1b[31m↳\x1b[0m <Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>RECOGNISED</AWSAccessKeyId></Error>"""


def test_what_a_server_answered_is_in_no_message_and_in_no_cause() -> None:
    source = ParquetSource("s", "x", event_time="t")
    for error in (OSError(ANSWER), PermissionError(ANSWER)):
        meaning = r"it is not allowed \(answer 403 InvalidAccessKeyId\)"
        with pytest.raises(SourceError, match=meaning) as of_source, translated(source, "x", OSError):
            raise error
        with pytest.raises(RequestError, match=meaning) as of_request, reading_spine("The spine"):
            raise error
        for caught in (of_source.value, of_request.value):
            assert "RECOGNISED" not in "".join(traceback.format_exception(caught))


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (
            OSError("object-store error: error sending request for url (https://lake.s3.amazonaws.com/)"),
            "the store cannot be reached",
        ),
        (FileNotFoundError("object-store error: Object at location a not found: Error performing GET"), "there is no such object"),
        (OSError("Generic S3 error: status code: 404 Not Found: <Code>NoSuchBucket</Code>"), "there is no such bucket"),
        (FileNotFoundError(2, "could not look at: there is no such object", "s3://lake/a"), "^there is no such object"),
        (FileNotFoundError(2, "No such file or directory", "/lake/a"), "No such file or directory: '/lake/a'"),
        (OSError("parquet: File out of specification\n\nThis error occurred …"), "^parquet: File out of specification$"),
    ],
)
def test_what_is_shown_of_an_error(error: Exception, meaning: str) -> None:
    with pytest.raises(OSError, match=meaning):
        raise OSError(shown(error))
