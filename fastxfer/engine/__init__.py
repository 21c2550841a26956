"""The engine: one thread that drives many requests over libcurl's multi interface. pycurl appears in this
package alone.
"""

from __future__ import annotations

import pycurl

_PYCURL_LEAST = (7, 47)
_LIBCURL_LEAST = (8, 0, 0)


def _check_versions() -> None:
    release = pycurl.version.split()[0].partition("/")[2]
    found = tuple(int(part) for part in release.split(".")[:2])
    number = pycurl.version_info()[2]
    libcurl = (number >> 16 & 0xFF, number >> 8 & 0xFF, number & 0xFF)
    if found < _PYCURL_LEAST or libcurl < _LIBCURL_LEAST:
        raise ImportError(
            f"fastxfer needs pycurl 7.47 and libcurl 8.0 or later, and found pycurl {release} with "
            f"libcurl {'.'.join(map(str, libcurl))}: run  "
            "python -m pip install --upgrade --only-binary :all: 'pycurl>=7.47'"
        )


_check_versions()
