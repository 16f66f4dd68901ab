"""Many clients of the page at once, some of which send nonsense or hang up in the middle.

    python -m tests.viewer.load                               # 32 clients, 200 requests, against app.py on loopback
    python -m tests.viewer.load --clients 8 --requests 40 --seed 1

It prints a table: how many requests of each kind were answered right, wrong or not at all, and the files that were left
on the server's disk once all clients had gone. Exit status: 1 if a request was answered wrong or not at all, or a file
was left.
"""

import argparse
import http.client
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

BOUNDARY = "----seven-bit-boundary"
PATIENCE = 300  # seconds until a request counts as unanswered
UNTIL_GONE = 180  # seconds in which the files of clients that hung up must go


class Unanswered(Exception):
    """No complete answer came, or the server said that the fault is its own (5xx)."""


class Wrong(Exception):
    """The answer is not the one that belongs to this request."""


@dataclass
class Client:
    """One client. With `keep_alive`, all its requests use one connection."""

    address: str
    keep_alive: bool
    connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """The status and body of an answer."""
        if not self.keep_alive or self.connection is None:
            self.hang_up()
            self.connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        headers["Connection"] = "keep-alive" if self.keep_alive else "close"
        try:
            self.connection.request(method, path, body, headers)
            answer = self.connection.getresponse()
            status, content = answer.status, answer.read()
        except http.client.RemoteDisconnected:
            self.hang_up()
            raise
        if status >= 500:
            raise Unanswered(f"{method} {path}: status {status}, {content[:200]!r}")
        return status, content

    def open(self, path: str, length: int, start: bytes) -> http.client.HTTPConnection:
        """Send the start of a POST request that announces `length` bytes, on a connection of its own."""
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
        connection.putheader("Content-Length", str(length))
        connection.endheaders(start)
        return connection

    def hang_up(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def upload(self, body: bytes, boundary: str = BOUNDARY) -> tuple[int, bytes]:
        return self.ask(
            "POST", "/gradio_api/upload", body, **{"Content-Type": f"multipart/form-data; boundary={boundary}"}
        )

    def join(self, path: str) -> str:
        """Ask for a screening of an upload. Returns the id under which the answer is fetched."""
        scan = {"path": path, "orig_name": Path(path).name, "meta": {"_type": "gradio.FileData"}}
        body = json.dumps({"data": [scan]}).encode()
        status, content = self.ask("POST", "/gradio_api/call/screen", body, **{"Content-Type": "application/json"})
        if status != 200:
            raise Wrong(f"the request was refused: {status}, {content[:200]!r}")
        return json.loads(content)["event_id"]

    def screen(self, name: str, scan: bytes) -> dict:
        """Upload a scan and wait for the page's answer."""
        status, content = self.upload(multipart(name, scan))
        if status != 200:
            raise Wrong(f"the upload was refused: {status}, {content[:200]!r}")
        _, stream = self.ask("GET", f"/gradio_api/call/screen/{self.join(json.loads(content)[0])}")
        events = [event.split("\n") for event in stream.decode().strip().split("\n\n")]
        kind, data = events[-1][0].removeprefix("event: "), events[-1][-1].removeprefix("data: ")
        if kind != "complete":
            raise Wrong(f"{kind}: {data}")
        return json.loads(data)[0]


def multipart(name: str, content: bytes, field_name: str = "files", close: bool = True) -> bytes:
    """An upload of one file. Without `close`, the last boundary is missing."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field_name}"; filename="{name}"\r\n\r\n'
    return head.encode() + content + (f"\r\n--{BOUNDARY}--\r\n".encode() if close else b"")


@dataclass
class Load:
    """What the clients send, and what came of it.

    Args:
        address: host:port of the page.
        scans: sound scan files, as bytes, and the probabilities that belong to them.
        damaged: a file that is no scan.
    """

    address: str
    scans: list[tuple[bytes, float]]
    damaged: bytes
    counts: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    # -------------------------------------------------------------------------------------------- kinds of requests

    def sound_scan(self, client: Client, number: int) -> None:
        scan, p_injury = self.scans[number % len(self.scans)]
        answer = client.screen(f"scan-{number}.nii.gz", scan)
        if answer.get("scan") != f"scan-{number}.nii.gz" or abs(answer.get("p_injury", -1) - p_injury) > 1e-5:
            raise Wrong(f"wanted {p_injury} for scan-{number}, got {answer}")

    def damaged_scan(self, client: Client, number: int) -> None:
        answer = client.screen(f"cut-{number}.nii.gz", self.damaged)
        if answer.get("status") != "error" or f"cut-{number}.nii.gz" not in answer["message"]:
            raise Wrong(f"wanted a sentence about cut-{number}, got {answer}")

    def nonsense(self, client: Client, number: int) -> None:
        sent: list[tuple[str, Callable[[], tuple[int, bytes]]]] = [
            ("an upload without its end", lambda: client.upload(multipart("a.nii", b"0" * 999, close=False))),
            ("a name of dots", lambda: client.upload(multipart("...", b"0" * 999))),
            ("another field", lambda: client.upload(multipart("a.nii", b"0" * 999, field_name="scans"))),
            ("a long boundary", lambda: client.upload(b"0" * 999, boundary="b" * 5000)),
            ("no JSON", lambda: client.ask("POST", "/gradio_api/call/screen", b"{", **{"Content-Type": "text/json"})),
        ]
        name, send = sent[number % len(sent)]
        status, content = send()
        if not 400 <= status < 500:
            raise Wrong(f"{name} got {status}, {content[:200]!r}")

    def aborted(self, client: Client, number: int) -> None:
        body = multipart(f"lost-{number}.nii.gz", self.scans[0][0] * 20)
        if number % 3:  # in the middle of the upload
            connection = client.open("/gradio_api/upload", len(body), body[: len(body) * (number % 3) // 3])
            time.sleep(0.05)
            connection.close()
            return
        status, content = client.upload(multipart(f"left-{number}.nii.gz", self.scans[0][0]))
        if status == 200 and number % 2:  # while waiting for the answer, or before asking
            client.join(json.loads(content)[0])
        client.hang_up()

    # ---------------------------------------------------------------------------------------------------- the load

    def request(self, client: Client, number: int, kind: Callable[[Client, int], None]) -> None:
        kept = "keep-alive" if client.keep_alive else "close"
        try:
            kind(client, number)
            came = "right"
        except Wrong as wrong:
            came = "wrong"
            self.faults.append(f"{kind.__name__} {number}: {wrong}")
        except (Unanswered, OSError, http.client.HTTPException) as error:
            client.hang_up()
            came = "unanswered"
            self.faults.append(f"{kind.__name__} {number}: {type(error).__name__} {error}")
        self.counts[kind.__name__, kept, came] += 1

    def run(self, clients: int, requests: int, seed: int) -> None:
        """Send `requests` requests from `clients` clients at once. The seed decides who sends what."""
        draw = random.Random(seed)
        kinds = draw.choices(
            [self.sound_scan, self.damaged_scan, self.nonsense, self.aborted], [5, 2, 2, 3], k=requests
        )

        def work(which: int) -> None:
            client = Client(self.address, keep_alive=which % 2 == 0)
            for number in range(which, requests, clients):
                self.request(client, number, kinds[number])
            client.hang_up()

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(work, range(clients)))

    def faulty(self) -> int:
        return sum(count for (_, _, came), count in self.counts.items() if came != "right")

    def table(self) -> str:
        columns = ("right", "wrong", "unanswered")
        lines = [f"| request | connection | {' | '.join(columns)} |", "|---|---|---:|---:|---:|"]
        for kind, kept in sorted({(kind, kept) for kind, kept, _ in self.counts}):
            cells = " | ".join(str(self.counts[kind, kept, came]) for came in columns)
            lines.append(f"| {kind.replace('_', ' ')} | {kept} | {cells} |")
        return "\n".join(lines)


def files_left(folder: Path, seconds: float = UNTIL_GONE) -> list[Path]:
    """The files below the page's temporary folder, once they no longer go. The page's own lock does not count."""
    deadline = time.monotonic() + seconds
    while True:
        # os.walk passes over folders that the page deletes meanwhile
        left = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names if name != ".lock"]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.5)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.viewer.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    from tests.viewer.served import served_page, tiny_models

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        tiny_models(base)
        with served_page("--model", base / "model", cwd=base, temp=base / "temp") as served:
            load = load_for(base, served.url)
            began = time.monotonic()
            load.run(args.clients, args.requests, args.seed)
            took, asked = time.monotonic() - began, time.monotonic()
            left = files_left(served.temp)
    print(load.table())
    print(f"\n{args.requests} requests by {args.clients} clients (seed {args.seed}) in {took:.0f} s.")
    print(f"Files left: {len(left)}, after {time.monotonic() - asked:.0f} s.")
    print(*load.faults[:20], sep="\n")
    return 1 if load.faulty() or left else 0


def load_for(base: Path, url: str) -> Load:
    """A load of the scans that `tiny_models` wrote."""
    from tests.viewer.served import expected

    scans = [(file.read_bytes(), expected(base, file)) for file in sorted(base.glob("scan?.nii.gz"))]
    return Load(urlsplit(url).netloc, scans, (base / "cut.nii.gz").read_bytes())


if __name__ == "__main__":
    sys.exit(main())
