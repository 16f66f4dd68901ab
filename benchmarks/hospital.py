"""The hospital service under load: many studies at once by several senders, with Orthanc as the archive.

    python -m benchmarks.hospital                              50 studies by 8 senders
    python -m benchmarks.hospital --studies 5 --senders 2 --model FOLDER
    python -m benchmarks.hospital --studies 150 --coarse 3     many small ones: does the memory grow?

Prints how many studies were answered, lost or doubled, the service's memory over time, and studies per minute next to
what screening alone takes. Runs in a network that has nothing but loopback: see hospital/demonstration.py.
Exit status: 1 if a study was lost or doubled, or if the memory grew after the first quarter of the time, in which the
allocator warms up.
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("python -m benchmarks.hospital")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

NAME = "python -m benchmarks.hospital"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=NAME, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--studies", type=int, default=50)
    parser.add_argument("--senders", type=int, default=8)
    parser.add_argument("--model", metavar="FOLDER", help="a model folder (default: random weights, 128^3)")
    parser.add_argument("--coarse", type=int, default=1, metavar="N", help="every Nth voxel, and a model of 128/N")
    return parser.parse_args(argv)


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    parse_arguments()

import subprocess
import tempfile
import threading
import time
from collections import Counter
from typing import Any

import psutil

from hospital.archive import keep_answers
from hospital.demonstration import phantom, untrained_model
from hospital.orthanc import Orthanc, alone, free_port, missing
from hospital.synthetic import write_study
from machine.programs import FAILED, run_program
from machine.version import PROJECT

MB = 1e6
MAX_GROWTH = 0.03  # of the memory, from the second quarter of the time to the last


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    return run_program(NAME, lambda: run(args), interrupted="interrupted, nothing is left")


def run(args: argparse.Namespace) -> int:
    if problem := missing():
        raise OSError(f"the load cannot be measured here: {problem}")
    alone("benchmarks.hospital", sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="gloresnet-load-") as folder:
        return measure(Path(folder), args)


def measure(folder: Path, args: argparse.Namespace) -> int:
    model = args.model or str(untrained_model(folder / "model", 128 // args.coarse // 16 * 16))
    image = phantom().slicer[:: args.coarse, :: args.coarse, :: args.coarse]
    studies = [folder / "studies" / str(number) for number in range(args.studies)]
    slices = [write_study(image, study, f"patient {study.name}") for study in studies][0]
    alone = screening_seconds(model, studies[:4], folder)
    print(
        f"{args.studies} studies of {slices} slices by {args.senders} senders; screening alone: {alone:.2f} s a study"
    )
    port = free_port()
    orthanc = Orthanc(folder / "orthanc", ("GLORESNET", port), free_port(), free_port())
    command = [sys.executable, str(PROJECT / "serve.py"), "--model", model, "--listen", str(port), "--settle", "2"]
    command += ["--archive", orthanc.web, "--spool", str(folder / "spool"), "--max_associations", str(args.senders)]
    lines = folder / "lines.txt"
    with open(lines, "wb") as file:
        service = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    memory: list[float] = []
    try:
        while "research" not in lines.read_text():
            time.sleep(0.1)
        start = time.perf_counter()
        threading.Thread(target=watch, args=(service.pid, memory), daemon=True).start()
        failed = send_all(studies, port, args.senders)
        sent = time.perf_counter() - start
        while service.poll() is None and lines.read_text().count(" study ") < args.studies:
            time.sleep(0.2)
        total = time.perf_counter() - start
        time.sleep(3)  # a doubled report would come now
        found = orthanc.post("/tools/find", {"Level": "Instance", "Query": {"Modality": "SR"}, "Expand": True})
        counts = Counter(orthanc.get(f"/instances/{each['ID']}/simplified-tags")["PatientID"] for each in found)
    finally:
        service.kill()
        service.wait()
        orthanc.stop()
    lost = args.studies - len(counts)
    doubled = sum(count > 1 for count in counts.values())
    print(f"answered {len(counts)}, lost {lost}, doubled {doubled}, instances not taken at first {failed}")
    print(f"sending took {sent:.0f} s ({args.studies * slices / sent:.0f} images/s), the last report {total:.0f} s")
    print(f"{60 * args.studies / total:.1f} studies a minute; screening alone would do {60 / alone:.1f}")
    quarters = [max(memory[len(memory) * k // 4 : len(memory) * (k + 1) // 4], default=0.0) for k in range(4)]
    growth = quarters[3] / quarters[1] - 1 if quarters[1] else 0.0
    grows = growth > MAX_GROWTH
    shown = ", ".join(f"{quarter:.0f}" for quarter in quarters)
    print(f"memory of the service, at most in each quarter of the time: {shown} MB; from the second to the last"
          f" {growth:+.1%}: {'it grows' if grows else 'flat'}")  # fmt: skip
    return FAILED if lost or doubled or grows else 0


def screening_seconds(model: str, studies: list[Path], folder: Path) -> float:
    """Seconds to screen a study and write its documents, in this process; the first one does not count."""
    from hospital.documents import write_documents
    from hospital.packages import quiet
    from hospital.software import describe_software
    from hospital.study import screen_study
    from screening.loading import load_model

    loaded, processor = load_model(model)
    software, seconds = describe_software(loaded, model), []
    with quiet():
        for study in studies:
            start = time.perf_counter()
            write_documents(screen_study(loaded, processor, str(study)), software, folder / "alone")
            seconds.append(time.perf_counter() - start)
    return min(seconds[1:] or seconds)


def send_all(studies: list[Path], port: int, senders: int) -> int:
    """Send each study by C-STORE from one of several threads. Returns how many instances were not taken at first."""
    from pydicom import dcmread
    from pynetdicom import AE

    left, failed, lock = list(studies), [], threading.Lock()

    def sender() -> None:
        while True:
            with lock:
                if not left:
                    return
                study = left.pop()
            waiting = sorted(study.iterdir())
            while waiting:  # a refused instance is sent again, as a PACS does
                files = [(path, dcmread(path)) for path in waiting]
                entity = AE(ae_title="SENDER")
                entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 300
                entity.add_requested_context(files[0][1].SOPClassUID, "1.2.840.10008.1.2.1")
                association = entity.associate("127.0.0.1", port, ae_title="GLORESNET")
                if not association.is_established:
                    time.sleep(0.5)
                    continue
                keep_answers(association)
                taken = [path for path, one in files if association.is_established and stored(association, one)]
                association.release()
                waiting = sorted(set(waiting) - set(taken))
                failed.extend(waiting)

    threads = [threading.Thread(target=sender) for _ in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(failed)


def stored(association: Any, one: Any) -> bool:
    return association.send_c_store(one).get("Status") == 0


def watch(process: int, memory: list[float]) -> None:
    """Note the resident memory of a process, in MB, until it ends."""
    try:
        while True:
            memory.append(psutil.Process(process).memory_info().rss / MB)
            time.sleep(0.5)
    except psutil.Error:
        return


if __name__ == "__main__":
    sys.exit(main())
