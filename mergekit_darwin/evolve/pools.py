"""Who measures what: one worker in this process, or Ray actors on any machines.

Which worker takes which candidate changes no result.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from mergekit_darwin.errors import DarwinError, about, reason
from mergekit_darwin.evolve.log import Candidate, Evaluation, Part
from mergekit_darwin.evolve.workers import Worker

LOG = logging.getLogger("mergekit_darwin")
Job = tuple[Candidate, Evaluation]
_TRIES = 4  # of one candidate whose worker is lost each time
_PATIENCE = 20.0  # seconds for a cluster to answer


class SerialPool:
    """One worker, here, one candidate after the other."""

    def __init__(self, worker: Worker):
        self.worker = worker

    def run(self, jobs: Sequence[Job], part: Part) -> Iterator[Evaluation]:
        """Yield each candidate's line in order."""
        for candidate, line in jobs:
            yield self.worker.measure(candidate, line, part)

    def close(self) -> None:
        """Nothing is held outside this process."""


def _knock(address: str | None) -> None:
    """Raise OSError where nobody answers: Ray itself would wait for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


class RayPool:
    """As many actors as asked for, spread over the nodes of a cluster, or started here.

    An actor that is lost with its node is made anew where there is room, and its
    candidate measured again.
    """

    def __init__(self, worker: Worker):
        with about("--strategy ray needs Ray", "pip install 'mergekit-darwin[ray]'"):
            import ray
        self._ray, self._like, options = ray, worker, worker.options
        self._started = not ray.is_initialized()
        if self._started:
            self._connect(options.ray_address)
        self._kind: Any = ray.remote(
            num_cpus=1, num_gpus=options.gpus_per_worker, scheduling_strategy="SPREAD"
        )(Worker)
        self._actors = [self._actor() for _ in range(options.num_workers)]

    def _connect(self, address: str | None) -> None:
        # None would take any cluster that this machine remembers, alive or not.
        given: dict[str, Any] = {"address": address or "local", "log_to_driver": False}
        if address is None:
            given["include_dashboard"] = False
        try:
            _knock(address)
            self._ray.init(**given)
        except (
            *(OSError, ValueError, RuntimeError),
            self._ray.exceptions.RayError,
        ) as error:
            raise DarwinError(
                f"--ray-address must name a cluster that is up and that takes this"
                f" driver; {address or 'a new one'} does not ({reason(error)})."
                " RAY_AUTH_MODE and RAY_AUTH_TOKEN must be the same here and on every"
                " node: see docs/cluster.md."
            ) from error

    def _actor(self) -> Any:
        like = self._like
        return self._kind.remote(like.config, like.options, like.scratch)

    def run(self, jobs: Sequence[Job], part: Part) -> Iterator[Evaluation]:
        """Yield lines as actors finish them.

        Raises DarwinError for what is not a candidate's own fault, a worker that is
        lost time and again among it.
        """
        waiting = [(job, 1) for job in jobs]
        idle, running = list(self._actors), dict[Any, Any]()
        while waiting or running:
            while waiting and idle:
                (job, tries), actor = waiting.pop(0), idle.pop(0)
                running[actor.measure.remote(*job, part)] = (actor, job, tries)
            done, _ = self._ray.wait(list(running), num_returns=1)
            actor, job, tries = running.pop(done[0])
            try:
                yield self._ray.get(done[0])
                idle.append(actor)
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except self._ray.exceptions.RayError as error:
                idle.append(self._instead_of(actor, job, tries, error))
                waiting.insert(0, (job, tries + 1))

    def _instead_of(self, actor: Any, job: Job, tries: int, error: Exception) -> Any:
        """Return a new actor for a lost one, unless that did not help."""
        name = job[0].name
        if tries >= _TRIES:
            raise DarwinError(
                f"Workers must stay alive; {tries} were lost over {name}"
                f" ({reason(error)}). What is measured is written down; start again."
            ) from error
        LOG.warning("A worker was lost; %s is measured by another.", name)
        self._actors.remove(actor)
        self._actors.append(self._actor())
        return self._actors[-1]

    def close(self) -> None:
        """Let the actors go, and Ray too if it was started here."""
        for actor in self._actors:
            self._ray.kill(actor)
        if self._started:
            self._ray.shutdown()


Pool = SerialPool | RayPool  # lines come as they are finished, in any order
