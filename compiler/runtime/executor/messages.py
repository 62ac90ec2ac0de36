"""What the dispatcher and its workers tell each other: short packets through a socket, in order, whole or not at all.

A worker first gets its orders as JSON (`Orders`), and answers READY or FAILED. Then it gets RUN packets and answers
each with DONE or FAILED. The end of the socket ends the worker.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import asdict, dataclass
from typing import Any

READY, RUN, DONE, FAILED, DROP = range(5)
_HEAD = struct.Struct("<BQIId")
_PACKET = 1 << 16
_MOST_ORDERS = 64 << 20


@dataclass(frozen=True)
class Message:
    """`task` of `stage` for the request in `slot`; `value` is its urgency (the least first), or the seconds it took."""

    kind: int
    task: int = 0
    slot: int = 0
    stage: int = 0
    value: float = 0.0
    text: str = ""


@dataclass(frozen=True)
class Orders:
    """What a worker is to do.

    `cpus` are the cores it binds itself to, `target` the name or key of the code to run there (None: the best).
    `places` and `slots` are of the arena in the file `arena`; `artifact` is a path. Stage k runs `stages[k]`: the
    numbers of its pieces, and the names of the tensors that it writes for others.
    """

    artifact: str
    cpus: list[int]
    target: str | None
    arena: int
    slots: int
    places: list[list[Any]]
    stages: list[tuple[list[int], list[str]]]


def pack(message: Message) -> bytes:
    """A message as a packet; long texts are cut."""
    head = _HEAD.pack(message.kind, message.task, message.slot, message.stage, message.value)
    return head + message.text.encode()[: _PACKET - _HEAD.size]


def unpack(packet: bytes) -> Message:
    """The message in a packet."""
    kind, task, slot, stage, value = _HEAD.unpack_from(packet)
    return Message(kind, task, slot, stage, value, packet[_HEAD.size :].decode(errors="replace"))


def receive(end: socket.socket) -> Message | None:
    """The next message; None at the end of the socket. Raises BlockingIOError where it would wait and may not."""
    packet = end.recv(_PACKET)
    return unpack(packet) if packet else None


def send_orders(end: socket.socket, orders: Orders) -> None:
    """Sends orders of any length."""
    text = json.dumps(asdict(orders)).encode()
    end.send(struct.pack("<Q", len(text)))
    for start in range(0, len(text), _PACKET // 2):
        end.send(text[start : start + _PACKET // 2])


def receive_orders(end: socket.socket) -> Orders | None:
    """What `send_orders` sent; None if the socket ends before."""
    head = end.recv(_PACKET)
    if not head:
        return None
    size = min(struct.unpack("<Q", head)[0], _MOST_ORDERS)
    text = b""
    while len(text) < size:
        part = end.recv(_PACKET)
        if not part:
            return None
        text += part
    return Orders(**json.loads(text))
