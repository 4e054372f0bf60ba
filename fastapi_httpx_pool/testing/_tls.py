"""TLS for an upstream, with an authority of the test's own."""

import ssl
import tempfile
from pathlib import Path
from typing import Any, final

__all__ = ("Authority",)


@final
class Authority:
    """A certificate for 127.0.0.1 and localhost, and the file by which clients trust it."""

    def __init__(self) -> None:
        """
        Make the certificates.

        Raises:
            ImportError: trustme is not installed.
        """
        authority = _trustme().CA()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.set_alpn_protocols(["http/1.1"])
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(self.context)
        self._folder = tempfile.TemporaryDirectory(prefix="fastapi-httpx-pool-")
        self.file = Path(self._folder.name, "authority.pem")
        authority.cert_pem.write_to_path(str(self.file))

    def close(self) -> None:
        """Remove the file."""
        self._folder.cleanup()


def _trustme() -> Any:
    try:
        import trustme  # noqa: PLC0415 -- only users of TLS need it
    except ModuleNotFoundError:
        raise ImportError(
            "An upstream with TLS needs trustme for its certificates: pip install trustme. "
            "If the test does not care for TLS, use the plain `upstream`."
        ) from None
    return trustme
