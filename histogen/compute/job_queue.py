"""Dask workers that are jobs of a queue (SLURM, PBS, …), started and ended by the command that needs them.

    system: slurm
    jobs: 8                     # a job that ends (preempted, out of time) is submitted again
    job:                        # arguments of dask-jobqueue's class, with its names
      queue: gpu
      cores: 4
      processes: 1
      memory: 32 GB
      walltime: "04:00:00"
      job_extra_directives: ["--gres=gpu:1"]

The class is that of `dask-jobqueue <https://jobqueue.dask.org>`_, whose own defaults and configuration files hold.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from histogen.config import Settings, load_config
from histogen.errors import ComputeError, ConfigError, first_line

if TYPE_CHECKING:
    from distributed import SpecCluster

CLASSES = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "oar": "OARCluster",
    "htcondor": "HTCondorCluster",
    "moab": "MoabCluster",
}


class QueueConfig(Settings):
    """The file of ``--cluster``."""

    system: Literal["slurm", "pbs", "sge", "lsf", "oar", "htcondor", "moab"]
    """Which queue."""
    jobs: int = Field(ge=1)
    """How many jobs; each is ``processes`` workers."""
    job: dict[str, Any] = {}
    """Arguments of dask-jobqueue's class for ``system``, for example ``cores``, ``memory``, ``queue``."""


@contextmanager
def queue_cluster(file: Path) -> Iterator[SpecCluster]:
    """Start a scheduler here and submit the jobs; they are cancelled at the end.

    Raises:
        ConfigError: dask-jobqueue is not installed, the file cannot be used, or the queue's commands are not here.
        ComputeError: the queue refuses the jobs.
    """
    config = load_config(QueueConfig, file=file)
    try:
        import dask_jobqueue
        from distributed.core import Status
    except ImportError as error:
        raise ConfigError(f"--cluster needs dask-jobqueue ({error}); install histogen[cluster]") from error
    made = getattr(dask_jobqueue, CLASSES[config.system])
    submit = shlex.split(made.job_cls.submit_command)[0]
    if shutil.which(submit) is None:
        raise ConfigError(f"'{submit}' is not here, by which {config.system} takes jobs; run this on a login node")
    refused: list[Exception] = []

    class Job(made.job_cls):  # type: ignore[misc,name-defined]
        async def start(self) -> None:
            try:
                await super().start()
            except (RuntimeError, OSError, ValueError) as error:  # else it is lost in a task of Dask
                refused.append(error)
                self.status = Status.failed
                raise

    try:
        cluster = made(**config.job, job_cls=Job, silence_logs=False)
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"'{file}': dask-jobqueue refuses 'job' ({first_line(error)}); mend it") from error
    with cluster:
        cluster.scale(jobs=config.jobs)
        cluster.sync(_submitted, cluster)
        if refused:
            raise ComputeError(f"{config.system} refuses a job of '{file}' ({_said(refused[0])}); mend it")
        cluster.adapt(minimum_jobs=config.jobs, maximum_jobs=config.jobs)  # what ends is submitted again
        yield cluster


async def _submitted(cluster: SpecCluster) -> None:
    await cluster


def _said(error: Exception) -> str:
    """Return what the queue's own command said, where dask-jobqueue quotes it."""
    quoted = str(error).partition("stderr:\n")[2].strip()
    return quoted.splitlines()[0] if quoted else first_line(error)
