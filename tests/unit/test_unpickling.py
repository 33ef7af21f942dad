"""No code from data: what a pickle names is imported by no program of the mesh and by no child that does its jobs."""

import subprocess
import sys
from pathlib import Path

import pytest

from nasmesh.jobs.table import JobTable
from nasmesh.v1 import job_pb2
from nasmesh.v1 import train_service_pb2 as pb

HERE = Path(__file__).parent
PROGRAMS = ("scheduler", "generate_svc", "train_svc", "evaluate_svc", "nasmesh.agent", "scheduler.deployers")


JOBS = {
    "unpickle-1": "UNPICKLING_FORBIDDEN",
    "torch-all": "UNPICKLING_FORBIDDEN",
    # This reader has no class to look up but those of its own list; ours is not on it.
    "torch-weights": "JOB_FAILED",
}


def test_a_job_that_unpickles_a_class_fails_and_the_child_lives_on(tmp_path: Path) -> None:
    table = JobTable(
        work="jobs_work:run", slots=1, directory=tmp_path, environment={"PYTHONPATH": str(HERE)}, noun="training"
    )
    try:
        for job_id, said in JOBS.items():
            table.start(job_id, pb.StartTrainingRequest(training_id=job_id))
            view = list(table.watch(job_id))[-1]
            assert view.state == job_pb2.JOB_STATE_FAILED
            assert view.failure is not None
            assert view.failure.reason == said, view.failure.message
        table.start("echo-1", pb.StartTrainingRequest(training_id="echo-1"))
        view = list(table.watch("echo-1"))[-1]
        assert pb.TrainProgress.FromString(view.progress).step == len(JOBS) + 1  # one child did them all
    finally:
        table.close()


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_forbids_it_before_it_reads_its_flags(program: str) -> None:
    # Runs the program's own main with a flag that ends it, then looks at what the guard does to the process.
    code = (
        "import pickle, runpy, sys, os\n"
        "sys.argv = [sys.argv[1], '--help']\n"
        "try:\n    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
        "except SystemExit:\n    pass\n"
        "try:\n    pickle.loads(b'cos\\ngetpid\\n.')\n"
        "except Exception as error:\n    print('REFUSED', getattr(error, 'reason', error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, program], capture_output=True, text=True, timeout=60, check=True)
    assert "REFUSED UNPICKLING_FORBIDDEN" in done.stdout, done.stdout + done.stderr
