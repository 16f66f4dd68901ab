"""A small Hub on loopback: the API that `huggingface_hub` uses to create, push to and load from repositories.

It keeps everything in memory, records what it receives, and fails on request. It checks what a client must get right:
tokens, access rights, the hash of each LFS object, and that a commit names only objects that were uploaded.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_loopback"
OWNER = "lab"  # the only namespace that the token may write to
LFS_SUFFIXES = (".safetensors", ".pth", ".bin", ".nii.gz", ".onnx", ".parquet")
KINDS = {"model": "", "dataset": "datasets/", "space": "spaces/"}


@dataclass
class Repository:
    """Branches of commits. A commit maps each path to bytes, or to the sha256 of an LFS object."""

    private: bool
    branches: dict[str, list[dict]] = field(default_factory=dict)

    def __post_init__(self):
        self.branches["main"] = [_commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")]

    def find(self, revision: str) -> dict | None:
        """The newest commit of a branch, or the commit with this sha."""
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((c for commits in self.branches.values() for c in commits if c["sha"] == revision), None)


def _commit(files: dict, message: str) -> dict:
    listing = json.dumps([message, {path: str(content) for path, content in sorted(files.items())}])
    return {"sha": hashlib.sha1(listing.encode()).hexdigest(), "files": files, "message": message}


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """The server, a context manager. Set HF_ENDPOINT to its `url`.

    `fail(pattern, action, times)` makes the next requests whose "METHOD path" matches fail: with an HTTP status, or
    with a connection that is closed without an answer ("drop").
    """

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # LFS, by sha256
        self.requests: list[str] = []  # "METHOD path status"
        self.received: list[bytes] = []  # every request body; regular files decoded
        self.failures: list[list] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def fail(self, pattern: str, action: int | str, times: int = 1) -> None:
        self.failures.append([re.compile(pattern), action, times])

    def environment(self, home, token: str = TOKEN) -> dict[str, str]:
        """Variables for a process that uses this Hub and nothing else; `home` is its empty HF_HOME."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def files(self, name: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """The files that a reader of the repository gets, with LFS objects resolved."""
        files = self.repositories[kind, name].find(revision)["files"]
        return {path: self.objects[c] if isinstance(c, str) else c for path, c in files.items()}

    def messages(self, name: str, revision: str = "main", kind: str = "model") -> list[str]:
        return [commit["message"] for commit in self.repositories[kind, name].branches[revision]]

    def add(self, name: str, files: dict[str, bytes], kind: str = "model", private: bool = False) -> None:
        """Add a repository made by somebody else."""
        contents = {}
        for path, content in files.items():
            oid = hashlib.sha256(content).hexdigest()
            if path.endswith(LFS_SUFFIXES):
                self.objects[oid] = content
            contents[path] = oid if path.endswith(LFS_SUFFIXES) else content
        repository = self.repositories[kind, name] = Repository(private)
        repository.branches["main"].append(_commit(contents, "theirs"))

    def count(self, pattern: str) -> int:
        """How many requests so far match the pattern, as "METHOD path status"."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        split = urlsplit(self.path)
        path, query = unquote(split.path), parse_qs(split.query)
        self.sent = None
        with self.hub.lock:
            action = self._failure(f"{self.command} {path}")
            if action == "drop":
                self.hub.requests.append(f"{self.command} {path} dropped")
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if action:
                self._error(action, "told to fail")
            elif body and self.command in ("POST", "PUT"):
                self.hub.received.append(body)
            if not action:
                self._route(path, query, body)
            self.hub.requests.append(f"{self.command} {path} {self.sent}")

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        content = self.rfile.read(size)
        self.rfile.readline()
        return content

    def _failure(self, request: str):
        for failure in self.hub.failures:
            if failure[2] > 0 and failure[0].search(request):
                failure[2] -= 1
                return failure[1]
        return None

    # answers

    def _answer(self, content: bytes, status: int = 200, **headers: str):
        self.sent = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content, status: int = 200, **headers: str):
        self._answer(json.dumps(content).encode(), status, Content_Type="application/json", **headers)

    def _error(self, status: int, message: str, code: str = ""):
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self._json({"error": message}, status, **headers)

    # requests

    def _route(self, path: str, query: dict, body: bytes):
        sent = self.headers.get("Authorization")
        if sent not in (None, f"Bearer {TOKEN}"):
            return self._error(401, "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            if sent is None:
                return self._error(401, "Invalid username or password.")
            return self._json({"type": "user", "name": "somebody", "orgs": [{"name": OWNER}], "auth": {"type": "x"}})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(r"/lfs/(\w{64})", path):
            if hashlib.sha256(body).hexdigest() != match[1]:
                return self._error(400, "the object has another hash")
            self.hub.objects[match[1]] = body
            return self._answer(b"")
        if match := re.fullmatch(r"/(datasets/|spaces/|)([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            repository = self._repository(next(k for k, v in KINDS.items() if v == match[1]), match[2], write=True)
            return repository and self._batch(json.loads(body))
        if match := re.fullmatch(r"/(datasets/|spaces/|)([^/]+/[^/]+)/resolve/(refs/[^/]+/[^/]+|[^/]+)/(.+)", path):
            repository = self._repository(next(k for k, v in KINDS.items() if v == match[1]), match[2])
            return repository and self._resolve(repository, match[3], match[4])
        match = re.fullmatch(r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/(\w+)(?:/([^/]+))?(?:/(.+))?)?", path)
        if match is None:
            return self._error(404, f"no such page: {path}")
        kind, name, what, revision, rest = match.groups()
        repository = self._repository(kind, name, write=what in ("preupload", "commit", "branch"))
        if repository is None:
            return None
        if what == "branch":
            if revision in repository.branches:
                return self._error(409, "Reference already exists")
            repository.branches[revision] = list(repository.branches["main"])
            return self._json({}, 201)
        commit = repository.find(revision or "main")
        if commit is None:
            return self._error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if what in (None, "revision"):
            siblings = [{"rfilename": file} for file in sorted(commit["files"])]
            content = {"id": name, "modelId": name, "private": repository.private, "sha": commit["sha"]}
            return self._json(content | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0})
        if what == "tree":
            return self._tree(commit, rest)
        if what == "preupload":
            files = json.loads(body)["files"]
            return self._json({"files": [self._upload_mode(commit, file["path"]) for file in files]})
        if what == "commit":
            return self._commit(repository, name, revision, body)
        return self._error(404, f"no such page: {path}")

    def _repository(self, kind: str, name: str, write: bool = False) -> Repository | None:
        """The repository, or None after an error was sent."""
        repository = self.hub.repositories.get((kind, name))
        if repository is None or (repository.private and self.headers.get("Authorization") is None):
            known = self.headers.get("Authorization") is not None
            self._error(404 if known else 401, "Repository not found", "RepoNotFound")
            return None
        if write and self.headers.get("Authorization") is None:
            self._error(401, "Invalid username or password.")
            return None
        if write and not name.startswith(f"{OWNER}/"):
            self._error(403, "You don't have the rights to write to this repository")
            return None
        return repository

    def _create(self, wanted: dict):
        name, kind = f"{wanted.get('organization')}/{wanted['name']}", wanted.get("type", "model")
        if wanted.get("organization") != OWNER:
            return self._error(403, f'You don\'t have the rights to create a {kind} under "{wanted["organization"]}"')
        if any((other, name) in self.hub.repositories for other in KINDS):
            return self._error(409, "You already created this repo")
        self.hub.repositories[kind, name] = Repository(wanted.get("visibility") == "private")
        return self._json({"url": f"{self.hub.url}/{KINDS[kind]}{name}", "name": name})

    def _upload_mode(self, commit: dict, path: str) -> dict:
        content = commit["files"].get(path)
        oid = content if isinstance(content, str) else content is not None and git_hash(content)
        mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False} | ({"oid": oid} if oid else {})

    def _batch(self, wanted: dict):
        objects = []
        for each in wanted["objects"]:
            upload = {"href": f"{self.hub.url}/lfs/{each['oid']}", "header": {}}
            there = each["oid"] in self.hub.objects
            objects.append(dict(each) if there else each | {"actions": {"upload": upload}})
        return self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repository: Repository, name: str, branch: str, body: bytes):
        files, message = dict(repository.find(branch)["files"]), ""
        for line in body.decode().splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                self.hub.received.append(files[value["path"]])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    return self._error(400, f"the LFS object of {value['path']} was never sent")
                files[value["path"]] = value["oid"]
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    return self._error(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                return self._error(400, f"unknown operation {key}")
        repository.branches[branch].append(_commit(files, message))
        sha = repository.find(branch)["sha"]
        return self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "success": True})

    def _tree(self, commit: dict, folder: str | None):
        entries = []
        for path, content in sorted(commit["files"].items()):
            if folder and not path.startswith(f"{folder}/"):
                continue
            size = len(self.hub.objects[content] if isinstance(content, str) else content)
            entry = {"type": "file", "path": path, "size": size}
            if isinstance(content, str):
                entry |= {"oid": content[:40], "lfs": {"oid": content, "size": size, "pointerSize": 130}}
            else:
                entry["oid"] = git_hash(content)
            entries.append(entry)
        if folder and not entries:
            return self._error(404, f"{folder} does not exist", "EntryNotFound")
        return self._json(entries)

    def _resolve(self, repository: Repository, revision: str, path: str):
        commit = repository.find(revision)
        if commit is None:
            return self._error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if path not in commit["files"]:
            return self._error(404, "Entry not found", "EntryNotFound")
        content = commit["files"][path]
        headers = {"X_Repo_Commit": commit["sha"]}
        if isinstance(content, str):
            oid, content = content, self.hub.objects[content]
            headers |= {"ETag": f'"{oid}"', "X_Linked_ETag": f'"{oid}"', "X_Linked_Size": str(len(content))}
        else:
            headers["ETag"] = f'"{git_hash(content)}"'
        return self._answer(content, Content_Type="application/octet-stream", **headers)
