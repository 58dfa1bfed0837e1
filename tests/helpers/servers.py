"""What the loopback servers of the tests share."""

from http.server import BaseHTTPRequestHandler
from typing import Any


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections open, logs nothing, and sends head and body together."""

    protocol_version = "HTTP/1.1"
    # Apart, each answer would wait for an acknowledgement of 40 ms.
    wbufsize = -1

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
