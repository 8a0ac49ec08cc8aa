"""Does launch/slurm.sbatch bring a run through a requeue, and what does that cost?

    sudo apt-get install slurm-wlm munge
    sudo PATH=$PATH python -m benchmarks.slurm [--steps 200]

Starts a Slurm of its own on this machine, as root: munge, a controller, two node daemons; nothing of it is left. It
submits the sbatch file with two tasks on CPUs and a small model, has the job queued again in the middle, waits for its
end, and compares the curve with that of one process. Prints one JSON line: the largest relative difference of a loss,
the steps that were written twice or not at all, and the seconds from the request to the first step after it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pprint
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tyro

from benchmarks.result import print_result
from bertjax.config import CheckpointConfig, Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from bertjax.data.prepare import prepare
from bertjax.data.settings import PrepareConfig
from bertjax.errors import UserError, reported
from bertjax.training.metrics import read_metrics

NODES = ("bertjax-node1", "bertjax-node2")
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
HOSTS = Path("/etc/hosts")
SUBJECTS = ["the river", "a boat", "our neighbour", "the tree", "a heron", "the miller"]
ACTIONS = ["follows the bridge", "carries some bread", "watches the shore", "meets the road", "leaves a lamp"]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Runs launch/slurm.sbatch for real."""

    steps: int = 200
    """Of the run; the job is queued again after half of them."""


def measure(a: Arguments) -> dict[str, Any]:
    """Returns the figures. Raises: UserError if Slurm is not there, or the job does not come to its end."""
    missing = [command for command in COMMANDS if shutil.which(command, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing or os.geteuid():
        raise UserError(f"{', '.join(missing) or 'root'} is missing; apt-get install slurm-wlm munge, and run as root")
    with tempfile.TemporaryDirectory(prefix="bertjax-slurm-") as name, slurm(Path(name)) as environment:
        scratch = Path(name)
        file = write_config(a, scratch)
        one = scratch / "one"
        subprocess.run([sys.executable, "train.py", f"--config={file}", f"--workdir={one}"], check=True)
        two, log = scratch / "two", scratch / "job.out"
        asked = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={log}"]
        submit = ["sbatch", "--parsable", *asked, "launch/slurm.sbatch", f"--config={file}", f"--workdir={two}"]
        job = subprocess.run(submit, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout.strip()

        def state() -> str:
            ask = ["squeue", "--noheader", "--format=%T", f"--jobs={job}", "--states=all"]
            return subprocess.run(ask, env=environment, capture_output=True, text=True, check=False).stdout.strip()

        def comes(holds: Callable[[], bool], what: str) -> float:
            end = time.monotonic() + 600
            while not holds():
                if time.monotonic() > end or state() in ("FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT"):
                    said = log.read_text() if log.exists() else ""
                    raise UserError(f"{what} did not come; the job is {state()}:\n{said}")
                time.sleep(0.2)
            return time.monotonic()

        comes(lambda: newest(two) >= a.steps // 2, "the middle of the run")
        requeued = time.monotonic()
        subprocess.run(["scontrol", "requeue", job], env=environment, check=True)
        comes(lambda: state() == "PENDING", "the queue")
        kept = newest(two)
        lost = comes(lambda: newest(two) > kept, "a step after the requeue") - requeued
        comes(lambda: state() == "COMPLETED", "the end")
        return {"steps": a.steps, "left_after_step": kept, "seconds_lost": round(lost, 1)} | compare(one, two)


def newest(workdir: Path) -> int:
    """Returns the last step that a run has written."""
    if not (workdir / "metrics.jsonl").exists():
        return 0
    return max((line["step"] for line in read_metrics(workdir)), default=0)


def compare(one: Path, two: Path) -> dict[str, Any]:
    """Returns how far two runs' losses are apart, and how many steps are not written once."""
    ours, theirs = ([(x["step"], x["loss"]) for x in read_metrics(folder) if "loss" in x] for folder in (two, one))
    steps = [step for step, _ in ours]
    apart = [abs(a - b) / b for (_, a), (_, b) in zip(ours, theirs, strict=False)]
    return {
        "largest_relative_difference": max(apart),
        "steps_not_once": len(steps) - len({*steps} & dict(theirs).keys()),
    }


def write_config(a: Arguments, scratch: Path) -> Path:
    """Returns a config file of a small run over a corpus that is made here."""
    rng = random.Random(0)
    stories = [[f"{rng.choice(SUBJECTS)} {rng.choice(ACTIONS)}." for _ in range(rng.randint(3, 9))] for _ in range(400)]
    (scratch / "stories.txt").write_text("\n\n".join("\n".join(story) for story in stories) + "\n")
    prepare(PrepareConfig(str(scratch / "corpus"), vocab_size=100, seq_len=32), [scratch / "stories.txt"])
    config = Config(
        model=ModelConfig(width=64, layers=2, heads=4, mlp_width=256, max_positions=32),
        data=DataConfig(path=str(scratch / "corpus"), seq_len=32),
        optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=None),
        train=TrainConfig(steps=a.steps, batch_size=64, eval_every=a.steps, eval_rows=64),
        checkpoint=CheckpointConfig(save_every=50),
    )
    file = scratch / "config.py"
    file.write_text(f"from bertjax.config import *\n\n\ndef get_config():\n    return {pprint.pformat(config)}\n")
    return file


@contextlib.contextmanager
def slurm(scratch: Path) -> Iterator[dict[str, str]]:
    """Starts a controller and two nodes on this machine; yields the environment in which their commands work."""
    host = socket.gethostname().split(".")[0]
    nodes = "\n".join(
        f"NodeName={node} NodeAddr=127.0.0.1 NodeHostname={host} Port={17001 + number} CPUs=1 State=UNKNOWN"
        for number, node in enumerate(NODES)
    )
    (scratch / "slurm.conf").write_text(f"""\
ClusterName=bertjax
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=17000
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={scratch}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
StateSaveLocation={scratch}/state
SlurmdSpoolDir={scratch}/%n
SlurmctldPidFile={scratch}/slurmctld.pid
SlurmdPidFile={scratch}/%n.pid
SlurmctldLogFile={scratch}/slurmctld.log
SlurmdLogFile={scratch}/%n.log
ReturnToService=2
{nodes}
PartitionName=main Nodes={",".join(NODES)} Default=YES State=UP
""")
    environment = os.environ | {
        "SLURM_CONF": str(scratch / "slurm.conf"),
        "PATH": f"{os.environ['PATH']}:/usr/sbin",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
    }
    (scratch / "munge.key").write_bytes(os.urandom(128))
    (scratch / "munge.key").chmod(0o600)
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge_files = [f"--{option}={scratch}/munge.{name}" for option, name in names.items()]
    before = HOSTS.read_text()
    HOSTS.write_text(before + f"127.0.0.1 {host} {' '.join(NODES)}\n")
    started: list[subprocess.Popen[bytes]] = []
    try:
        with (scratch / "daemons.log").open("wb") as log:
            for command in (
                ["munged", "--force", "--foreground", *munge_files],
                ["slurmctld", "-D"],
                *(["slurmd", "-D", "-N", node] for node in NODES),
            ):
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
                time.sleep(1)
        yield environment
    finally:
        HOSTS.write_text(before)
        for daemon in reversed(started):
            daemon.terminate()
        for daemon in started:
            daemon.wait(timeout=60)


def main() -> None:
    """The command."""
    a = tyro.cli(Arguments, config=(tyro.conf.FlagConversionOff,))
    with reported():
        result = measure(a)
    print_result("slurm", result, "jax")


if __name__ == "__main__":
    main()
