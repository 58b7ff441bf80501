# SPDX-License-Identifier: Apache-2.0

"""A hub on this machine: it answers as the published API of huggingface.co does.

The client is the real huggingface_hub; paths, headers and error codes are those that
its sources read (``hf_api.py``, ``file_download.py`` and ``utils/_http.py``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import attrs

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@attrs.define
class Hub:
    """Repositories by name, each with its files."""

    repositories: dict[str, dict[str, bytes]] = attrs.field(factory=dict)
    gated: set[str] = attrs.field(factory=set)
    """Repositories that ask for an agreement."""
    breaks_off: set[str] = attrs.field(factory=set)
    """Files of which half is sent."""
    status: int | None = None
    """Answer of everything; `None` for the true one."""
    asked: list[str] = attrs.field(factory=list)
    """``METHOD /path`` of each request."""
    url: str = ""


@contextlib.contextmanager
def running(hub):
    """Serve *hub* on a free port."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append(f"{self.command} /{path}")
        if self.hub.status is not None:
            self._error(self.hub.status, None, "busy")
            return
        parts = path.split("/")
        is_api = parts[:2] == ["api", "models"]
        name, rest = (
            ("/".join(parts[2:4]), parts[4:])
            if is_api
            else ("/".join(parts[:2]), parts[2:])
        )
        files = self.hub.repositories.get(name)
        if files is None:
            # The hub says the same of what does not exist and of what is private.
            self._error(401, "RepoNotFound", "Invalid username or password.")
        elif name in self.hub.gated and not is_api:
            self._error(403, "GatedRepo", f"Access to model {name} is restricted")
        elif len(rest) > 1 and rest[1] not in ("main", COMMIT):
            self._error(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
        elif is_api and rest[:1] == ["tree"]:
            self._json([_entry(file, content) for file, content in files.items()])
        elif is_api:
            self._json(_info(name, files, gated=name in self.hub.gated))
        else:
            self._file(files, "/".join(rest[2:]))

    def _file(self, files, name):
        content = files.get(name)
        if content is None:
            self._error(404, "EntryNotFound", "Entry not found")
            return
        start = int(
            self.headers.get("Range", "bytes=0-")
            .removeprefix("bytes=")
            .partition("-")[0]
        )
        sent = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(sent)))
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
            )
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.hub.breaks_off:
            self.wfile.write(sent[: len(sent) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(sent)

    def _json(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status, code, message):
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _info(name, files, *, gated):
    return {
        "_id": "1",
        "id": name,
        "modelId": name,
        "sha": COMMIT,
        "private": False,
        "gated": "manual" if gated else False,
        "disabled": False,
        "tags": [],
        "siblings": [
            {"rfilename": file, "size": len(content), "blobId": "0" * 40}
            for file, content in files.items()
        ],
    }


def _entry(file, content):
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "oid": oid, "size": len(content), "path": file}
