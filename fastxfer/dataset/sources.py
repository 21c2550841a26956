"""Which lister a source has: by how it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastxfer.dataset.filters import Filters
from fastxfer.dataset.indexes import IndexLister
from fastxfer.dataset.listing import Lister
from fastxfer.dataset.manifests import ManifestLister


def lister_for(
    source: str,
    given: Mapping[str, Any],
    *,
    format: str | None = None,
    base_urls: Sequence[str] = (),
    filters: Filters | None = None,
    stopped: Any = None,
    work: Path | None = None,
) -> Lister:
    if source.endswith("/"):
        return IndexLister(source, given, filters=filters, stopped=stopped)
    return ManifestLister(source, format=format, base_urls=base_urls)
