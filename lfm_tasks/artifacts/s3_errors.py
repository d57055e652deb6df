"""What an S3 server's or botocore's error means to a person: what to check, and whether trying again can help.

Only the error's code is ever shown: a server's message may quote the request that it refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlparse

from botocore.exceptions import ClientError

from lfm_tasks.errors import ConfigError, LfmError, StoreUnavailable

_NO_ROOM = ("QuotaExceeded", "InsufficientStorage", "EntityTooLarge", "507")
_DAMAGED = ("BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "InvalidDigest")
_REFUSED = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
_CLOCK = ("RequestTimeTooSkewed", "RequestExpired")
_ELSEWHERE = ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301")


def error_code(error: Exception) -> str:
    """The server's error code, or the name of the exception where no server answered."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "unknown"))
    return type(error).__name__


@dataclass(frozen=True)
class Endpoint:
    """A bucket at an endpoint (None: AWS), as messages name it."""

    url: str | None
    bucket: str

    def __str__(self) -> str:
        parsed = urlparse(self.url or "https://AWS")
        port = f":{parsed.port}" if parsed.port else ""
        return f"The object store {parsed.scheme}://{parsed.hostname}{port}, bucket {self.bucket},"

    def explain(self, error: Exception, operation: str) -> LfmError:
        """The error to raise instead: :class:`ConfigError` where a person must act first, else :class:`StoreUnavailable`."""
        if not isinstance(error, ClientError):
            return StoreUnavailable(
                f"{self} did not answer {operation} ({error_code(error)}). Check LFM_S3_ENDPOINT_URL, the server and the network."
            )
        code, status = error_code(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        said = f"{self} answered {operation} with {code} (HTTP {status})."
        for codes, kind, advice in _ADVICE:
            if code in codes:
                return kind(f"{said} {advice}")
        if status in (401, 403):
            return ConfigError(f"{said} {_CREDENTIALS}")
        if status >= 500 or status in (408, 429):
            return StoreUnavailable(f"{said} The server is in trouble or busy; the same job may succeed later.")
        return ConfigError(f"{said} The server does not accept this request; check LFM_STORE_URI and LFM_S3_ENDPOINT_URL.")


_CREDENTIALS = "It refused the key pair: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY and what they may do in this bucket."
_ADVICE: tuple[tuple[tuple[str, ...], type[LfmError], str], ...] = (
    (("NoSuchBucket", "404", "NotFound"), ConfigError, "The bucket does not exist. Create it, or set LFM_STORE_URI to one that does."),
    (_NO_ROOM, StoreUnavailable, "There is no room left. Nothing was committed; free space or raise the quota, and run again."),
    (_DAMAGED, StoreUnavailable, "The bytes were damaged on their way. Nothing was committed; run again."),
    (("NoSuchUpload",), StoreUnavailable, "The upload was aborted by somebody else. Nothing was committed; run again."),
    (_REFUSED, ConfigError, _CREDENTIALS),
    (_CLOCK, ConfigError, "The clock of this machine differs from the server's; set it."),
    (_ELSEWHERE, ConfigError, "The bucket is elsewhere; check LFM_S3_REGION and LFM_S3_ENDPOINT_URL."),
)
