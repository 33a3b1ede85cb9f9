"""Job files: read with care, checked with the line of every fault, and described by a published schema."""

from batchrec.jobfile.checking import check_job_file
from batchrec.jobfile.reading import MAX_JOB_FILE_BYTES, JobFile, read_job_file
from batchrec.jobfile.schema import job_schema

__all__ = ["MAX_JOB_FILE_BYTES", "JobFile", "check_job_file", "job_schema", "read_job_file"]
