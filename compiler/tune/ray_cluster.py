"""The little that Kompilo wants of Ray: to join a cluster, and to know its nodes. Ray is imported on first use."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from dataclasses import dataclass
from typing import Any

from ..errors import KompiloError, UsageError

WORD = "ray"
CONNECT_TIMEOUT_S = 5.0
_THIS_MACHINE = "auto"


@dataclass(frozen=True)
class ClusterNode:
    """A living node: its id in the cluster, its address, and how many of the wanted resource it has."""

    id: str
    name: str
    amount: float


def address_of(workers: str) -> str | None:
    """The address in "ray:ADDRESS", or None for "ray"; UsageError if `workers` is neither."""
    word, _, address = workers.partition(":")
    if word != WORD or (":" in workers and not address):
        raise UsageError(f"workers: expected a number of processes, ray, or ray:ADDRESS, found {workers!r}.")
    return address or None


def import_ray() -> Any:
    """The package; UsageError if it is not installed."""
    try:
        import ray
    except ImportError:
        raise UsageError(
            "workers: measuring on a Ray cluster needs ray, which is not installed.", "pip install 'kompilo[ray]'"
        ) from None
    return ray


def join(address: str | None) -> bool:
    """Become a driver of the cluster at `address`, or of the one that this machine is in.

    Returns whether this call has connected; not if the process was connected before, to whatever cluster.

    Raises UsageError if nothing answers there or what answers is no fitting cluster.
    """
    ray = import_ray()
    if ray.is_initialized():
        return False
    where = address or _THIS_MACHINE
    _check_reachable(where)
    ended = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(where, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except Exception as error:  # Ray tells of its troubles by exceptions of many kinds
        if where == _THIS_MACHINE and isinstance(error, ConnectionError):
            raise UsageError(
                "workers: expected a Ray cluster that this machine is a node of, found none.",
                "start one with ray start, or name its address: ray:HOST:6379.",
            ) from None
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"workers: expected a Ray cluster at {where}, found: {words[0]}") from None
    finally:
        # Ray's own handler would end the process in the midst of what it does.
        if ended is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ended)
    _keep_quiet()
    return True


def _keep_quiet() -> None:
    """What the cluster reports of nodes that die is not to be printed on standard output, which may be a JSON text.

    `log_to_driver` does not cover it, and Ray has no other option for it.
    """
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda data, ignore_prefix=False: None


def _check_reachable(where: str) -> None:
    """Ray itself would wait for minutes."""
    host, _, port = where.removeprefix("ray://").rpartition(":")
    if where == _THIS_MACHINE:
        return
    if not host or not port.isdigit():
        raise UsageError(f"workers: expected an address such as ray:HOST:6379, found ray:{where}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"workers: expected a Ray cluster at {where}, found that nothing answers: {why}.") from None


def living_nodes(resource: str) -> list[ClusterNode]:
    """Nodes of the cluster that have some of `resource`; KompiloError if the cluster has gone."""
    try:
        nodes = import_ray().nodes()
    except Exception as error:
        raise KompiloError(f"the Ray cluster does not answer any more: {type(error).__name__}.") from None
    found = []
    for node in nodes:
        amount = node["Resources"].get(resource, 0.0)
        if node["Alive"] and amount > 0:
            found.append(ClusterNode(node["NodeID"], f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})", amount))
    return found
