"""Many transfers, a few at a time: what `fetch_many`, `fastxfer fetch -i` and the queue's runner share."""

from fastxfer.batch.jobs import DEFAULT_JOBS, MAX_JOBS, BatchResult, Job, Outcome, Work, check_jobs
from fastxfer.batch.loop import Batch

__all__ = ["DEFAULT_JOBS", "MAX_JOBS", "Batch", "BatchResult", "Job", "Outcome", "Work", "check_jobs"]
