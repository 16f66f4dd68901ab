"""A federation of real processes over mutual TLS, where only loopback exists, and what kills parts of it.

    python -m tests.federated.network server                                  # what test_network.py runs
    python -m tests.federated.network site job late cut                       # the other failures, one after another

Each scenario ends with a comparison: the joint weights must equal, to the bit, those of the same federation in one
process. It prints how many rounds were trained twice. Needs Linux with `unshare -rn` and `ip` (Debian: iproute2).
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

from federated.kits import make_kits
from federated.sites import read_sites
from run_folder.layout import RunFolder
from tests.processes import wait_until

ROOT = Path(__file__).parent.parent.parent
# a namespace that has nothing but loopback; `$@` is the command
ALONE = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
ROUNDS = 3
SEEDS = {"north": 11, "river": 12}
RECIPE = {
    **{"architecture": "compact", "image_size": 16, "framing": "field_of_view", "init": "random", "num_folds": 2},
    **{"num_train_epochs": ROUNDS, "per_device_train_batch_size": 4, "learning_rate": 1e-3},
}


def missing() -> str:
    """What this machine lacks, as a sentence; empty if nothing."""
    for name in ("unshare", "ip"):
        if shutil.which(name) is None:
            return f"not installed: {name} (Debian: util-linux, iproute2)"
    if subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        return "this machine does not allow user namespaces (unshare -rn)"
    return ""


class Federation:
    """The processes of a federation.

    Args:
        base: with `data/north` and `data/river`; gets everything else.
        limit: seconds that anything may take.
    """

    def __init__(self, base: Path, limit: float):
        self.base, self.limit, self.running = base, limit, {}
        self.joint = RunFolder(base / "runs" / "joint")
        ports = []
        for _ in range(2):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                ports.append(free.getsockname()[1])
        sites = {name: {"seed": seed} for name, seed in SEEDS.items()}
        server = {"host": "localhost", "port": ports[0], "admin_port": ports[1]}
        (base / "sites.yaml").write_text(yaml.safe_dump({"server": server, "sites": sites}))
        (base / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        make_kits(read_sites(base / "sites.yaml"), base / "kits")

    def start(self, name: str) -> None:
        """Start the server, a site or the driver (`run`)."""
        options = {
            "server": ["server", "kits/server", "--output_dir", self.joint.path],
            "run": [
                "run",
                "kits/admin",
                "--recipe",
                "recipe.yaml",
                "--fold",
                "0",
                "--round_timeout",
                str(int(self.limit)),
            ],
        }.get(name, ["site", f"kits/{name}", "--data_dir", f"data/{name}", "--output_dir", f"runs/{name}"])
        environment = {
            **os.environ,
            **{"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"},
            **{
                "HOME": str(self.base / "home"),
                "HF_HOME": str(self.base / "hf" / name),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        }
        (self.base / "home").mkdir(exist_ok=True)
        with open(self.base / f"{name}.txt", "a") as output:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "federated", *map(str, options)],
                cwd=self.base, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def output(self, name: str) -> str:
        return (self.base / f"{name}.txt").read_text()

    def kill(self, name: str, only: str = "") -> None:
        """SIGKILL a part and all that it has started, or only the processes whose command line contains a word."""
        process = psutil.Process(self.running[name].pid)
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                if only in " ".join(one.cmdline()):
                    one.kill()
        if not only:
            self.running.pop(name).wait()

    def wait_for_round(self, number: int) -> None:
        wait_until((self.joint.fold(0).rounds / f"round-{number:03d}.safetensors").is_file, self.limit)

    def wait(self) -> None:
        """Wait for the driver."""
        status = self.running.pop("run").wait(self.limit)
        assert status == 0, self.output("run")

    def refusal_of_code(self) -> str:
        """Hand in a job that brings code, with the coordinator's login, and return what becomes of it."""
        from nvflare.fuel.flare_api.flare_api import new_secure_session

        from federated.driver import write_job
        from federated.messages import Plan

        folder = self.base / "foreign"
        write_job(folder, Plan(RECIPE, 1, tuple(SEEDS)), [0])
        (folder / "hospital" / "custom").mkdir()
        (folder / "hospital" / "custom" / "foreign.py").write_text(f"open({str(self.base / 'executed')!r}, 'w')\n")
        session = new_secure_session("admin@gloresnet.org", str(self.base / "kits" / "admin"), timeout=60)
        job = session.submit_job(str(folder))
        wait_until(lambda: str(session.get_job_status(job)).startswith("FINISHED"), self.limit)
        answer = str(session.get_job_meta(job))
        session.close()
        assert not (self.base / "executed").exists()
        return answer

    def finish(self) -> None:
        """End all parts with SIGTERM and check how they end."""
        left = {name: psutil.Process(process.pid).children(recursive=True) for name, process in self.running.items()}
        for name in list(self.running):
            self.running[name].send_signal(signal.SIGTERM)
        for name, children in left.items():
            assert self.running.pop(name).wait(self.limit) == 130, self.output(name)
            assert self.output(name).rstrip().splitlines()[-1].startswith("federated s"), self.output(name)
            wait_until(lambda children=children: not any(one.is_running() for one in children), self.limit)

    def stop(self) -> None:
        for name in list(self.running):
            self.kill(name)


def server(federation: Federation) -> None:
    """The server and its job are killed after the first round, and the server is started again."""
    start(federation, "server", "north", "river", "run")
    federation.wait_for_round(1)
    federation.kill("server")
    federation.start("server")


def site(federation: Federation) -> None:
    """A site and its job are killed after the first round, and the site is started again."""
    start(federation, "server", "north", "river", "run")
    federation.wait_for_round(1)
    federation.kill("river")
    time.sleep(20)
    federation.start("river")


def job(federation: Federation) -> None:
    """Only the job of a site is killed after the first round."""
    start(federation, "server", "north", "river", "run")
    federation.wait_for_round(1)
    federation.kill("river", only="worker_process")


def late(federation: Federation) -> None:
    """A site joins long after the driver has started."""
    start(federation, "server", "north", "run")
    wait_until(lambda: "waiting for the sites river" in federation.output("run"), federation.limit)
    federation.start("river")


def cut(federation: Federation) -> None:
    """Nobody reaches anybody for half a minute."""
    start(federation, "server", "north", "river", "run")
    federation.wait_for_round(1)
    subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
    time.sleep(30)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


SCENARIOS = {each.__name__: each for each in (server, site, job, late, cut)}


def start(federation: Federation, *names: str) -> None:
    for name in names:
        federation.start(name)


def compare(federation: Federation) -> str:
    """Train the same federation in this process, and compare. Returns what the failure cost."""
    from safetensors.numpy import load_file
    from transformers import AutoModel

    from federated.in_process import Hospital, federate_here
    from training.recipe import load_recipe

    hospitals = [Hospital(name, federation.base / "data" / name, None, seed) for name, seed in SEEDS.items()]
    recipe = load_recipe(str(federation.base / "recipe.yaml"))
    run = federate_here(hospitals, recipe, federation.base / "loop", folds=[0], say=lambda sentence: None)
    here, there = (load_file(each.fold(0).model / "model.safetensors") for each in (run, federation.joint))
    assert here.keys() == there.keys()
    different = [name for name in here if here[name].tobytes() != there[name].tobytes()]
    assert not different, f"{len(different)} of {len(here)} tensors differ, such as {different[0]}"
    AutoModel.from_pretrained(federation.joint.fold(0).model, trust_remote_code=True)
    again = federation.output("run").count("trying again")
    return f"{len(here)} tensors equal to the bit; jobs handed in again: {again}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="+", choices=SCENARIOS)
    parser.add_argument("--base", type=Path, help="folder with data/north and data/river (default: new, of noise)")
    parser.add_argument("--limit", type=float, default=600)
    options = parser.parse_args()
    if "GLORESNET_ALONE" not in os.environ:
        if sentence := missing():
            sys.exit(sentence)
        arguments = [sys.executable, "-m", "tests.federated.network", *sys.argv[1:]]
        environment = {**os.environ, "GLORESNET_ALONE": "1", "PYTHONPATH": str(ROOT)}
        os.execvpe(ALONE[0], [*ALONE, *arguments], environment)
    for name in options.scenarios:
        base = options.base or Path(tempfile.mkdtemp(prefix="gloresnet-federation-"))
        if not (base / "data").is_dir():
            from tests.conftest import write_tiny_cohort

            for seed, (site_, size) in enumerate({"north": 12, "river": 8}.items()):
                write_tiny_cohort(base / "data" / site_, num_subjects=size, seed=seed)
        began = time.monotonic()
        federation = Federation(base, options.limit)
        try:
            SCENARIOS[name](federation)
            federation.wait()
            if name == "server":
                assert "BYOC not permitted" in federation.refusal_of_code()
            federation.finish()
        except BaseException:
            for path in sorted(base.glob("*.txt")):
                print(f"== {path.name}\n{path.read_text()[-3000:]}", file=sys.stderr)
            raise
        finally:
            federation.stop()
        took = time.monotonic() - began
        print(f"{name}: {compare(federation)}; {took:.0f} s; {SCENARIOS[name].__doc__}", flush=True)
        print(federation.output("run"), flush=True)
        if options.base is None:
            shutil.rmtree(base)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # NVFlare leaves threads behind
