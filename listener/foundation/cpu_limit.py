"""Processor time of this process: what the job under way may still use, kept by the kernel (RLIMIT_CPU).

Contract: `limit_cpu` begins a job in a worker process, `extend_cpu` allows it more once more is known of it. Beyond the
limit the kernel sends SIGXCPU, whatever code runs. A process that was never limited (``num_workers: 0``, `explain`)
stays so. Times are seconds of processor time since the start of the process, as `time.process_time` has them.
"""

from __future__ import annotations

import math
import resource
import time


def limit_cpu(seconds: float) -> None:
    """Let this process use `seconds` more than what it has used."""
    _set(time.process_time() + seconds)


def extend_cpu(begun_s: float, seconds: float) -> None:
    """Let a job that was begun at `begun_s` use `seconds` in all; never shortens its limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_CPU)
    if soft != resource.RLIM_INFINITY and begun_s + seconds > soft:
        _set(begun_s + seconds)


def _set(until_s: float) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(until_s)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
