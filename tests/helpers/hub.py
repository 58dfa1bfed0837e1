"""The Hugging Face hub on the loopback: as much of its protocol as listing and downloading a model need."""

import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.servers import QuietHandler

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# What the hub says of models that it does not give away.
_REFUSED = {"gated": (403, "GatedRepo"), "broken": (500, ""), "forbidden": (403, "")}


class Hub:
    """Models by their names: files by theirs, of the branch ``main`` and the tag ``v1``; and what was asked for."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, bytes]] = {}
        self.downloads: list[str] = []


class _Handler(QuietHandler):
    hub: Hub

    def _answer(self, code: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_HEAD(self) -> None:  # noqa: N802
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802
        words = (
            urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            .removeprefix("/api/models")
            .strip("/")
            .split("/")
        )
        name, (kind, revision, *rest) = "/".join(words[:2]), [*words[2:4], "", ""][:2] + words[4:]
        if words[1] in _REFUSED:
            code, reason = _REFUSED[words[1]]
            self._answer(code, X_Error_Code=reason)
        elif name not in self.hub.models:
            self._answer(404, X_Error_Code="RepoNotFound")
        elif revision not in ("main", "v1", COMMIT):
            self._answer(404, X_Error_Code="RevisionNotFound")
        elif kind == "resolve":
            self._file(self.hub.models[name].get("/".join(rest)), "/".join(rest))
        else:
            files = self.hub.models[name]
            if kind == "tree":
                found: Any = [{"type": "file", "path": path, "size": len(files[path]), "oid": "0"} for path in files]
            else:
                found = {
                    "id": name,
                    "modelId": name,
                    "sha": COMMIT,
                    "siblings": [{"rfilename": path} for path in files],
                }
            self._answer(200, json.dumps(found).encode(), Content_Type="application/json")

    def _file(self, content: bytes | None, path: str) -> None:
        if content is None:
            self._answer(404, X_Error_Code="EntryNotFound")
            return
        if self.command == "GET":
            self.hub.downloads.append(path)
        self._answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)


@contextmanager
def serve_hub(patch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A hub for this process, which keeps what it downloads in ``cache``."""
    from huggingface_hub import constants

    handler = type("Handler", (_Handler,), {"hub": Hub()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    patch.setattr(constants, "ENDPOINT", address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    try:
        yield handler.hub
    finally:
        server.shutdown()
        server.server_close()
