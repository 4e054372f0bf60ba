"""Ask a proxy: ``python -m fastapi_httpx_pool.conformance URL``."""

import sys

from ._command import main

__all__ = ()

if __name__ == "__main__":
    sys.exit(main())
