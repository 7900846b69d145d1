"""The online loop: a served policy, people who answer, and training that goes on."""

from onerec.stream.online import ARMS, StreamConfig, stream

__all__ = ["ARMS", "StreamConfig", "stream"]
