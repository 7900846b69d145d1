"""The online loop: a served policy, people who answer, and training that goes on."""

from onerec.stream.config import ARMS, StreamConfig
from onerec.stream.online import stream

__all__ = ["ARMS", "StreamConfig", "stream"]
