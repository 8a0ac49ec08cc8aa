"""The launchers: files that a cluster takes, with flags that train.py takes."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bertjax import command_line
from bertjax.config import Config

LAUNCH = Path(__file__).parent.parent / "launch"
JOBSETS = sorted(LAUNCH.glob("jobset_*.yaml"))


def name(path: Path) -> str:
    return path.name


def read(path: Path) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="comes with the extra dev")
    jobset: dict[str, Any] = yaml.safe_load(path.read_text())
    return jobset


def containers(jobset: dict[str, Any]) -> list[dict[str, Any]]:
    jobs = jobset["spec"]["replicatedJobs"]
    return [c for job in jobs for c in job["template"]["spec"]["template"]["spec"]["containers"]]


@pytest.mark.parametrize("path", JOBSETS, ids=name)
def test_the_jobs_within_are_what_kubernetes_takes(path: Path) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="comes with the extra dev")
    for job in read(path)["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}} | job["template"]
        pod = whole["spec"]["template"] | {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}}
        for description in (whole, pod):
            kubernetes.validate(description, kubernetes.latest_version(), strict=True)
        pod["spec"]["containers"][0]["imag"] = "a misspelt key"
        with pytest.raises(kubernetes.ValidationError, match="imag"):
            kubernetes.validate(pod, kubernetes.latest_version(), strict=True)


@pytest.mark.parametrize("path", JOBSETS, ids=name)
def test_pods_start_again_but_not_after_a_mistake(path: Path) -> None:
    spec = read(path)["spec"]
    assert spec["failurePolicy"]["maxRestarts"] > 0
    for job in spec["replicatedJobs"]:
        (rule,) = job["template"]["spec"]["podFailurePolicy"]["rules"]
        assert rule["action"] == "FailJob"
        assert rule["onExitCodes"] == {"containerName": "train", "operator": "In", "values": [1, 2]}
        assert job["template"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= 60


@pytest.mark.parametrize("path", JOBSETS, ids=name)
def test_train_takes_the_flags_of_the_pods(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(LAUNCH.parent)
    for container in containers(read(path)):
        script, *flags = (arg.replace("$(PROCESS)", "1") for arg in container["args"])
        assert script == "train.py"
        c, workdir = command_line.parse(Config, "", flags)
        assert workdir == "/shared/base"
        assert c.data.path == "/shared/corpus/128"
        assert c.phases[0].data.path == "/shared/corpus/512"


def test_the_pods_of_gpus_are_as_many_as_train_is_told() -> None:
    (job,) = read(LAUNCH / "jobset_gpu.yaml")["spec"]["replicatedJobs"]
    (container,) = containers(read(LAUNCH / "jobset_gpu.yaml"))
    counts = {job["template"]["spec"]["parallelism"], job["template"]["spec"]["completions"]}
    assert counts == {int(re.search(r"--mesh.processes=(\d+)", " ".join(container["args"])).group(1))}  # type: ignore[union-attr]


@pytest.mark.parametrize("path", [LAUNCH / "slurm.sbatch", LAUNCH / "tpu_pod.sh"], ids=name)
def test_scripts_are_bash_and_may_be_run(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    assert path.stat().st_mode & 0o111


@pytest.mark.parametrize("code", [0, 1, 2, 134, 137, 143])
def test_a_slurm_job_is_queued_again_unless_it_ended(code: int, tmp_path: Path) -> None:
    """The sbatch file is run with a srun and a scontrol that only say what they were asked."""
    for command, ending in (("srun", f"exit {code}"), ("scontrol", "exit 0")):
        file = tmp_path / command
        file.write_text(f'#!/bin/sh\necho {command} "$@"\n{ending}\n')
        file.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    job = [str(LAUNCH / "slurm.sbatch"), "--config=a b.py"]
    done = subprocess.run(job, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "python train.py --config=a b.py" in done.stdout
    assert ("scontrol requeue 7" in done.stdout) == (code in (134, 137, 143))


def test_a_slurm_job_is_told_before_its_time_is_over_and_may_be_queued_again() -> None:
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    asked = [shlex.split(line, comments=False)[1] for line in lines if line.startswith("#SBATCH ")]
    assert {"--signal=TERM@180", "--requeue", "--open-mode=append"} <= {*asked}
