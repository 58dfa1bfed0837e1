"""Known weights: the table says what it must, and a download is whole and the right one, or one line."""

import contextlib
import hashlib
import logging
import re
import socket
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pvt_jax.errors import UserError
from pvt_jax.models import list_heads, list_models
from pvt_jax.weight_names import PublishedWeights
from pvt_jax.weights import known
from pvt_jax.weights.known import KNOWN, cache_folder, fetch_known

CONTENT = bytes(range(256)) * 9000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PVT_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


class Server(ThreadingHTTPServer):
    """A server on this machine that remembers the paths it was asked for."""

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch, cache):
    """A server that fails in many ways, and ``toy`` as a known name for its good file."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            running.requests.append(self.path)
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/weights.pth")
                self.end_headers()
                return
            if self.path in ("/404", "/403", "/500"):
                self.send_error(int(self.path[1:]))
                return
            if self.path == "/silent":
                time.sleep(2)
                return
            self.send_response(200)
            if self.path != "/no-length":
                self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            half = len(CONTENT) // 2
            with contextlib.suppress(ConnectionError):
                self.wfile.write(CONTENT[:half])
                if self.path == "/stalled":
                    self.wfile.flush()
                    time.sleep(2)
                if self.path not in ("/truncated", "/stalled"):
                    self.wfile.write(CONTENT[half:])

        def log_message(self, *_, **__):
            pass

    running = Server(Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    toy = PublishedWeights("pvt_tiny", f"{running.url}/weights.pth", "Apache-2.0", "here", len(CONTENT), SHA256)
    monkeypatch.setitem(KNOWN, "toy", toy)
    yield running
    running.shutdown()
    running.server_close()


def files(cache) -> list[str]:
    return sorted(entry.name for entry in cache.iterdir()) if cache.exists() else []


def change(monkeypatch, **fields):
    monkeypatch.setitem(KNOWN, "toy", replace(KNOWN["toy"], **fields))


def refusal(**arguments) -> str:
    with pytest.raises(UserError) as caught:
        fetch_known("toy", **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_row_is_of_a_model_of_ours_and_says_where_from():
    models = list_models()
    hosts = (
        "github.com/whai362/PVT/",
        "huggingface.co/",
        "dl.fbaipublicfiles.com/deit/",
        "download.openmmlab.com/mmdetection/v2.0/pvt/retinanet_",
        "download.pytorch.org/models/",
    )
    for name, row in KNOWN.items():
        assert row.model in models, name
        assert row.url.startswith(tuple(f"https://{host}" for host in hosts)), name
        assert row.source and row.licence
        assert row.sha256 is None or re.fullmatch(r"[0-9a-f]{8}([0-9a-f]{56})?", row.sha256), name
        # PyTorch's convention: the end of the name begins the hash.
        stated = re.search(r"-([0-9a-f]{8})\.pth$", row.url)
        assert stated is None or (row.sha256 or "").startswith(stated[1]), name
    assert len({row.url for row in KNOWN.values()}) == len(KNOWN)
    assert len({row.sha256 for row in KNOWN.values() if row.sha256}) == sum(bool(row.sha256) for row in KNOWN.values())


def test_every_pyramid_has_weights_and_only_those_of_mit_are_not_free():
    named = {row.model for row in KNOWN.values()}
    pyramids = {name for name in list_models() if name.startswith(("pvt_", "mit_", "resnet"))}
    assert pyramids - named == {"pvt_huge_v2"}  # Its authors published the code alone.
    for name, row in KNOWN.items():
        assert row.non_commercial == row.model.startswith("mit_") == ("NON-COMMERCIAL" in row.licence), name
        assert row.head == next((head for head in list_heads() if name.startswith(f"{head}_")), ""), name
        # A detector's name has its backbone's.
        assert row.head != "retinanet" or name == f"retinanet_{row.model}_coco"


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("PVT_JAX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "pvt_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "pvt_jax"
    monkeypatch.setenv("PVT_JAX_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"


def test_download_then_cache(server, cache, caplog):
    caplog.set_level(logging.INFO, "pvt_jax")
    path = fetch_known("toy")
    assert path == cache / "toy.pth" and path.read_bytes() == CONTENT
    assert f"{server.url}/weights.pth" in caplog.text and "licence: Apache-2.0" in caplog.text
    assert fetch_known("toy") == path
    assert server.requests == ["/weights.pth"] and files(cache) == ["toy.pth"]


@pytest.mark.parametrize("wrong", [b"", CONTENT[:-1], CONTENT[:-1] + b"x"], ids=["empty", "cut", "changed"])
def test_a_wrong_file_in_the_cache_is_replaced(server, cache, caplog, wrong):
    cache.mkdir()
    (cache / "toy.pth").write_bytes(wrong)
    assert fetch_known("toy").read_bytes() == CONTENT
    assert "toy.pth is not the published file (expected" in caplog.text


def test_published_in_part_or_not_at_all(server, cache, monkeypatch):
    change(monkeypatch, size=None, sha256=SHA256[:8])
    assert fetch_known("toy").read_bytes() == CONTENT
    (cache / "toy.pth").write_bytes(b"mine")
    change(monkeypatch, sha256=None)
    assert fetch_known("toy").read_bytes() == b"mine"
    (cache / "toy.pth").unlink()
    change(monkeypatch, url=f"{server.url}/no-length")
    assert fetch_known("toy").read_bytes() == CONTENT
    change(monkeypatch, url=f"{server.url}/moved", sha256=SHA256)
    assert fetch_known("toy") == cache / "toy"


def test_licences_that_forbid_are_a_warning(server, monkeypatch, caplog):
    change(monkeypatch, licence=KNOWN["mit_b0"].licence, non_commercial=True)
    fetch_known("toy")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "licence: NVIDIA Source Code License for SegFormer: NON-COMMERCIAL" in caplog.text


@pytest.mark.parametrize("published", [SHA256[:-1] + "x", "0" * 64, "deadbeef"])
def test_a_wrong_hash_is_refused_with_both(server, cache, monkeypatch, published):
    change(monkeypatch, sha256=published)
    message = refusal()
    assert f"expected SHA-256 {published}, found {SHA256[: len(published)]}" in message and "was removed" in message
    assert not files(cache)


def test_a_wrong_size_is_refused_with_both(server, cache, monkeypatch):
    change(monkeypatch, size=len(CONTENT) + 1, sha256=None)
    assert "expected 2,304,001 bytes, found 2,304,000" in refusal()
    assert not files(cache)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/404", "answers 404 Not Found"),
        ("/403", "answers 403 Forbidden"),
        ("/500", "answers 500 Internal Server Error"),
        ("/truncated", "broke off at 1,152,000 of 2,304,000 bytes"),
        ("/silent", "timed out"),
        ("/stalled", "timed out"),
    ],
)
def test_what_goes_wrong_on_the_way_is_one_line(server, cache, monkeypatch, path, words):
    change(monkeypatch, url=f"{server.url}{path}", sha256=None, size=None)
    message = refusal(timeout=0.3)
    assert words in message and f"{server.url}{path}" in message
    assert f"download it yourself to {cache / 'toy'}, or give the path of the file itself" in message
    assert not files(cache)


def test_a_server_that_is_not_there(cache, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/weights.pth"
    monkeypatch.setitem(KNOWN, "toy", PublishedWeights("pvt_tiny", url, "Apache-2.0", "nowhere"))
    assert "Connection refused" in refusal()
    change(monkeypatch, url="http://weights.invalid/weights.pth")
    assert "cannot download the weights toy from http://weights.invalid" in refusal()
    assert not files(cache)


def test_interrupted_and_full_disks_leave_nothing(server, cache, monkeypatch):
    def interrupted(*_):
        yield CONTENT[:1000]
        raise KeyboardInterrupt

    monkeypatch.setattr(known, "_with_progress", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_known("toy")
    assert not files(cache)
    monkeypatch.undo()
    blocked = cache / "file"
    cache.mkdir(exist_ok=True)
    blocked.write_text("")
    monkeypatch.setenv("PVT_JAX_CACHE", str(blocked / "below"))
    monkeypatch.setitem(KNOWN, "toy", PublishedWeights("pvt_tiny", f"{server.url}/weights.pth", "Apache-2.0", "here"))
    assert "Not a directory. Make room or fix the permission, or set PVT_JAX_CACHE" in refusal()


def test_many_at_once(server, cache):
    """Each gets the whole file; none sees that of another half written."""
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(fetch_known("toy").read_bytes())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 6 and files(cache) == ["toy.pth"]


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UserError, match="unknown weights 'pvt_v2_b_2': did you mean 'pvt_v2_b2'"):
        fetch_known("pvt_v2_b_2")


@pytest.mark.parametrize("variable", ["PVT_JAX_CACHE", "XDG_CACHE_HOME"])
def test_a_cache_of_nobody(variable, monkeypatch):
    monkeypatch.delenv("PVT_JAX_CACHE", raising=False)
    monkeypatch.setenv(variable, "~nobody-of-this-name/cache")
    with pytest.raises(UserError, match="no home folder is known for ~nobody-of-this-name/cache: write the whole path"):
        cache_folder()
