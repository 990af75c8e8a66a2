"""Before what else the host runs: for who serves a container that is being started."""

from __future__ import annotations

import os

CALLER = 0
"""In place of a process id: the thread that calls."""


def go_first(process_id: int = CALLER) -> bool:
    """Run a process, and what it starts from now on, before all of ordinary priority.

    Tell whether the kernel lets us, which wants SYS_NICE for it; else nothing changes.
    """
    lowest = os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
    try:
        os.sched_setscheduler(process_id, os.SCHED_RR, lowest)
    except PermissionError:
        return False
    return True
