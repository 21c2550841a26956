"""What a driver does when an object store refuses: the typed error, or another try."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fastxfer.engine.request import Head
from fastxfer.errors import StoreError
from fastxfer.plan.retry import parse_retry_after
from fastxfer.sources.http import HttpSource
from fastxfer.sources.opening import RemoteSource


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal, judged. `again` says that the request may be signed anew and sent once more; `renew` that
    credentials are to be got before. `gone` says that the version that was asked for is not there any more.
    """

    error: StoreError
    again: bool = False
    renew: bool = False
    gone: bool = False


def judge_refusal(
    source: RemoteSource, head: Head, body: bytes, *, signed_by: int, version: str | None
) -> Refused:
    """Returns what a store's refusal means for a request of this `version`, which was `signed_by` that
    generation of its source. The source learns from it.
    """
    from fastxfer.sources.store_errors import read_refusal, store_error

    assert not isinstance(source, HttpSource)
    refusal = read_refusal(head.status, head.headers, body)
    wait_s = parse_retry_after(head.headers.get("retry-after"), time.time())
    error = store_error(f"cannot fetch {source.display}", refusal, retry_after_s=wait_s)
    if version is not None and (refusal.code == "NoSuchVersion" or head.status == 404):
        return Refused(error, gone=True)
    access = source.access
    again = access.refused(refusal, head.headers.get("date"), generation=signed_by)
    return Refused(error, again, again and access.must_refresh)
