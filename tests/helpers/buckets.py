"""Google Cloud Storage on the loopback: as much of its JSON protocol as its clients here use.

They are gcsfs, TensorStore, Google's own client and ArrayRecord.
"""

import base64
import hashlib
import importlib
import json
import re
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec.config
import pytest

from tests.helpers.servers import QuietHandler

NAME = "pictures"
_OBJECT = re.compile(r"/storage/v1/b/([^/]+)/o(?:/([^/]+))?")


class Bucket:
    """Objects by name: bytes, and a generation that each write raises."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.writes: list[str] = []
        # The code with which all reading is refused; 0 is for none.
        self.refusal = 0
        # The end of the name of an object at whose writing a client waits for ever, and whether one does.
        self.held = ""
        self.holds = threading.Event()
        self.lock = threading.Lock()
        self._parts: dict[str, tuple[str, dict[str, str], bytes]] = {}
        self._count = 0

    def names(self, prefix: str = "") -> list[str]:
        with self.lock:
            return sorted(name for name in self.objects if name.startswith(prefix))

    def copy_to(self, folder: Path, prefix: str) -> Path:
        """``folder`` with the objects below ``prefix``, which ends in a slash."""
        for name in self.names(prefix):
            path = folder / name.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self[name])
        return folder

    def copy_from(self, folder: Path, prefix: str) -> None:
        """Have what is below ``folder`` below ``prefix``, which ends in a slash."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(prefix + path.relative_to(folder).as_posix(), path.read_bytes())

    def __getitem__(self, name: str) -> bytes:
        return self.objects[name][0]

    def put(self, name: str, content: bytes, asked: dict[str, str] | None = None) -> dict[str, Any] | None:
        """Its description, or None if a precondition does not hold."""
        if self.held and name.endswith(self.held):
            self.holds.set()
            threading.Event().wait()
        with self.lock:
            wanted = (asked or {}).get("ifGenerationMatch")
            if wanted is not None and int(wanted) != self.objects.get(name, (b"", 0))[1]:
                return None
            self._count += 1
            self.objects[name] = content, self._count
            self.writes.append(name)
        return self.describe(name)

    def describe(self, name: str) -> dict[str, Any]:
        content, generation = self.objects[name]
        crc = importlib.import_module("google_crc32c").value(content).to_bytes(4, "big")
        now = f"2026-01-01T00:{generation // 60 % 60:02}:{generation % 60:02}.000Z"
        return {
            **{"kind": "storage#object", "bucket": NAME, "name": name, "size": str(len(content))},
            **{"generation": str(generation), "metageneration": "1", "etag": str(generation)},
            **{"timeCreated": now, "updated": now, "contentType": "application/octet-stream"},
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "crc32c": base64.b64encode(crc).decode(),
        }

    def begin(self, name: str, asked: dict[str, str]) -> str:
        with self.lock:
            self._count += 1
            self._parts[str(self._count)] = name, asked, b""
            return str(self._count)

    def go_on(self, upload: str, content: bytes, whole: bool) -> tuple[int, dict[str, Any] | None]:
        """(bytes so far, the description of the whole object)."""
        name, asked, before = self._parts[upload]
        self._parts[upload] = name, asked, before + content
        return len(before) + len(content), self.put(name, before + content, asked) if whole else None


class _Handler(QuietHandler):
    bucket: Bucket

    def _answer(self, code: int, content: Any = None, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps({} if content is None else content).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def _asked(self) -> tuple[str, dict[str, str], bytes]:
        url = urllib.parse.urlsplit(self.path)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return url.path, dict(urllib.parse.parse_qsl(url.query)), body

    def do_GET(self) -> None:  # noqa: N802
        path, asked, _ = self._asked()
        if self.bucket.refusal:
            self._answer(self.bucket.refusal, {"error": {"code": self.bucket.refusal, "message": "no access"}})
            return
        if (found := _OBJECT.search(path)) is None:
            name = path.rpartition("/")[2]
            self._answer(200 if name == NAME else 404, {"kind": "storage#bucket", "name": name, "id": name})
        elif found[1] != NAME:
            self._answer(404, {"error": {"code": 404, "message": "The specified bucket does not exist."}})
        elif found[2] is None:
            self._list(asked)
        else:
            self._get(urllib.parse.unquote(found[2]), asked.get("alt") == "media" or "/download/" in path)

    def _list(self, asked: dict[str, str]) -> None:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        names, folders = [], set()
        for name in self.bucket.names(prefix):
            rest = name.removeprefix(prefix)
            if name < asked.get("startOffset", "") or ("endOffset" in asked and name >= asked["endOffset"]):
                continue
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                names.append(name)
        start = int(asked.get("pageToken") or 0)
        end = start + int(asked.get("maxResults") or 1000)
        with self.bucket.lock:
            items = [self.bucket.describe(name) for name in names[start:end] if name in self.bucket.objects]
        more = {"nextPageToken": str(end)} if end < len(names) else {}
        self._answer(200, {"kind": "storage#objects", "items": items, "prefixes": sorted(folders), **more})

    def _get(self, name: str, media: bool) -> None:
        with self.bucket.lock:
            found = self.bucket.objects.get(name)
            described = self.bucket.describe(name) if found else {}
        if found is None:
            self._answer(404, {"error": {"code": 404, "message": f"No such object: {name}"}})
            return
        content, generation = found
        if not media:
            self._answer(200, described)
            return
        kept = {"X_Goog_Generation": str(generation), "X_Goog_Hash": f"crc32c={described['crc32c']}"}
        if (asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")) is None:
            self._answer(200, content, **kept)
            return
        first = int(asked[1]) if asked[1] else max(len(content) - int(asked[2]), 0)
        last = min(int(asked[2]) if asked[1] and asked[2] else len(content) - 1, len(content) - 1)
        if first > last:
            self._answer(416)
            return
        self._answer(206, content[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(content)}", **kept)

    def _written(self, described: dict[str, Any] | None) -> None:
        if described is None:
            self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
        else:
            self._answer(200, described)

    def do_POST(self) -> None:  # noqa: N802
        path, asked, body = self._asked()
        if (copied := re.search(r"/o/([^/]+)/(?:copyTo|rewriteTo)/b/[^/]+/o/([^/]+)", path)) is not None:
            source, target = map(urllib.parse.unquote, copied.groups())
            described = self.bucket.put(target, self.bucket[source])
            size = str(len(self.bucket[target]))
            done = {"done": True, "objectSize": size, "totalBytesRewritten": size, "resource": described}
            self._answer(200, done if "rewriteTo" in path else described)
        elif "upload_id" in asked:
            self._part(asked["upload_id"], body)
        elif asked.get("uploadType") == "media":
            self._written(self.bucket.put(asked["name"], body, asked))
        elif asked.get("uploadType") == "multipart":
            border = re.search(r"""boundary=['"]?([^'";]+)""", self.headers["Content-Type"])
            assert border is not None
            _, about, content, _ = body.split(b"--" + border[1].encode())
            name = json.loads(about.partition(b"\r\n\r\n")[2] or about.partition(b"\n\n")[2])["name"]
            self._written(
                self.bucket.put(name, re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1][: _ending(content)], asked)
            )
        else:
            name = asked.get("name") or json.loads(body)["name"]
            upload = self.bucket.begin(name, asked)
            port = self.server.server_address[1]
            self._answer(200, Location=f"http://127.0.0.1:{port}/upload/storage/v1/b/{NAME}/o?upload_id={upload}")

    def do_PUT(self) -> None:  # noqa: N802
        _, asked, body = self._asked()
        self._part(asked["upload_id"], body)

    def _part(self, upload: str, body: bytes) -> None:
        promised = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+|\*)", self.headers.get("Content-Range") or "bytes */0")
        assert promised is not None
        whole = promised[1] != "*"
        size, described = self.bucket.go_on(upload, body, whole)
        if whole:
            self._written(described)
        else:
            self._answer(308, b"", Range=f"bytes=0-{size - 1}")

    def do_DELETE(self) -> None:  # noqa: N802
        path, _, _ = self._asked()
        found = _OBJECT.search(path)
        assert found is not None and found[2] is not None
        with self.bucket.lock:
            gone = self.bucket.objects.pop(urllib.parse.unquote(found[2]), None)
        self._answer(204 if gone else 404, b"" if gone else {"error": {"code": 404, "message": "No such object"}})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """Clients that are killed hang up in the middle of an answer."""
        if not isinstance(sys.exception(), ConnectionError):
            raise


def _ending(content: bytes) -> int:
    return -2 if content.endswith(b"\r\n") else -1


@contextmanager
def serve_bucket(patch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """The bucket ``gs://NAME``, for this process and those that it starts."""
    handler = type("Handler", (_Handler,), {"bucket": Bucket()})
    server = _Server(("127.0.0.1", 0), handler)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT"):
        patch.setenv(name, address)
    # gcsfs asks another service, over gRPC, whether the bucket is of a newer kind.
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    patch.setenv("GOOGLE_CLOUD_PROJECT", "none")
    patch.setenv("NO_GCE_CHECK", "true")
    # For processes that are started, and for this one, which may have read its environment.
    patch.setenv("FSSPEC_GCS_TOKEN", "anon")
    patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
    try:
        yield handler.bucket
    finally:
        server.shutdown()
        server.server_close()
