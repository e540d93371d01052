"""The mixer of a conference: everybody hears all others, 16 kHz, frames of 20 ms."""

from __future__ import annotations

from collections import deque

import numpy as np

from simulators.phone.wav import FRAME_OCTETS, FRAME_SAMPLES, SILENCE

_WAITING = 5
"""Frames of one that wait for another at most: the legs' clocks are one, their ticks are not."""


class Mixer:
    """One conference."""

    def __init__(self) -> None:
        self._ports: list[Port] = []

    def port(self) -> Port:
        """Add somebody."""
        port = Port(self)
        for other in self._ports:
            other.heard[port] = deque(maxlen=_WAITING)
            port.heard[other] = deque(maxlen=_WAITING)
        self._ports.append(port)
        return port

    def said(self, port: Port, pcm: bytes) -> None:
        """Let all others hear what one says."""
        for other in self._ports:
            if (waiting := other.heard.get(port)) is not None:
                waiting.append(pcm)

    def leave(self, port: Port) -> None:
        """Take somebody out."""
        if port in self._ports:
            self._ports.remove(port)
        for other in self._ports:
            other.heard.pop(port, None)


class Port:
    """Mouth and ear of one participant's leg: it hears that one and speaks what the others say."""

    def __init__(self, mixer: Mixer) -> None:
        self._mixer = mixer
        self.heard: dict[Port, deque[bytes]] = {}
        """What this one is still to hear, by who says it."""

    def write(self, pcm: bytes) -> None:
        """Take the next 20 ms of this participant."""
        if len(pcm) == FRAME_OCTETS:
            self._mixer.said(self, pcm)

    def frame(self) -> bytes:
        """Return the next 20 ms of all others together."""
        frames = [waiting.popleft() for waiting in self.heard.values() if waiting]
        if not frames:
            return SILENCE
        if len(frames) == 1:
            return frames[0]
        mixed = np.zeros(FRAME_SAMPLES, np.int32)
        for pcm in frames:
            mixed += np.frombuffer(pcm, np.int16)
        return np.clip(mixed, -32768, 32767).astype(np.int16).tobytes()

    def close(self) -> None:
        """The participant has left."""
        self._mixer.leave(self)
