"""One upload in parts, from the checkpoint that is there to the object that is checked.

All runs on the upload's own thread. upload_resuming.py finds where to go on, upload_sending.py sends what is
missing, upload_finishing.py has the object put together and looks at it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

from fastxfer.errors import LocalChangedError
from fastxfer.upload_finishing import Finisher
from fastxfer.upload_job import FileJob, Moment, again_where_lost
from fastxfer.upload_resuming import Resumer
from fastxfer.upload_sending import FileSender
from fastxfer.upload_store import Seen

THREADS = 3


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    seen: Seen
    crc: int
    verified: str
    parts: int
    sent: int
    resumed: int
    upload_id: str


def upload_parts(job: FileJob, tell: Callable[[Moment], object]) -> Outcome:
    """Uploads. `tell` is called often, with a Moment that is not to be kept.

    Raises FastxferError; the checkpoint is kept then, and `kept` says what is there.
    """
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fastxfer-sum")
    try:
        return again_where_lost(job, lambda: _once(job, pool, tell), LocalChangedError)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _once(job: FileJob, pool: Executor, tell: Callable[[Moment], object]) -> Outcome:
    seen = Resumer(job, pool).begin()
    finisher = Finisher(job)
    if seen is None:
        FileSender(job, pool, tell).send_all()
        job.file.check()
        job.save()
        seen = finisher.complete()
    crc = job.whole_crc()
    assert crc is not None
    seen, verified = finisher.verified(seen, crc)
    job.checkpoint.remove()
    return Outcome(seen, crc, verified, job.grid.count, job.sent, job.resumed, job.upload_id)
