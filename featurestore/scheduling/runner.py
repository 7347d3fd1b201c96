"""The scheduler's loop: APScheduler triggers the ticks until it is stopped."""

from datetime import UTC
from threading import Event, Lock, Thread

from apscheduler.schedulers.background import BackgroundScheduler

from featurestore.clock import utc_now
from featurestore.maintenance.status import FreshnessMonitor
from featurestore.scheduling.scheduler import Scheduler

_END_SECONDS, _TICK_SECONDS = 5.0, 1.0
"""How long the end may take of what only asks the registry."""


def run_scheduler(scheduler: Scheduler, seconds: float, shutdown_seconds: float, stop: Event, watch: FreshnessMonitor) -> int:
    """Tick until an event is set; then give what is being done some time to be finished.

    Args:
        scheduler: the scheduler.
        seconds: how often it looks what is due.
        shutdown_seconds: how long what is being done may take to be finished.
        stop: ends it.
        watch: looks now and then whether views are as fresh as they promise.

    Returns:
        How much was not finished, and goes on in threads whose writes do not count any more: the process is to end. A registry
        that does not answer is counted with it: threads that wait for it are not waited for.
    """
    ticking = Lock()

    def step() -> None:
        with ticking:
            scheduler.step()

    # A tick that was missed, or is late, is no loss: the next one finds the same due.
    clock = BackgroundScheduler(timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None})
    clock.add_job(step, "interval", seconds=seconds, next_run_time=utc_now())
    clock.add_job(scheduler.renew, "interval", seconds=scheduler.lease_seconds / 3)
    clock.add_job(watch.look, "interval", seconds=watch.seconds, next_run_time=utc_now())
    clock.start()
    try:
        stop.wait()
    finally:
        # Paused first, for a tick that falls into the shutdown is lost with what it has taken up.
        clock.pause()
        unfinished = scheduler.stop(shutdown_seconds)
        clock.shutdown(wait=False)
        ending = Thread(target=watch.end, name="featurestore-promises-end", daemon=True)
        ending.start()
        ending.join(_END_SECONDS)
        stuck = ending.is_alive() or not ticking.acquire(timeout=_TICK_SECONDS)
    return max(unfinished, int(stuck))
