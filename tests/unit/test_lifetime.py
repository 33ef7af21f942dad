"""How a program notices that it should end, whichever of its threads a signal interrupts."""

import subprocess
import sys

import pytest

ROUNDS = 30

# A thread that starts another restores its mask of blocked signals, and then takes what the main one was woken for.
PROGRAM = f"""
import os, signal, threading
from nasmesh.agent.lifetime import Lifetime

def start_threads():
    while True:
        threading.Thread(target=lambda: None).start()

def strike(number, ready):
    ready.wait()
    os.kill(os.getpid(), number)

for _ in range(3):
    threading.Thread(target=start_threads, daemon=True).start()
seen = []
for _ in range({ROUNDS}):
    lifetime, ready = Lifetime(), threading.Event()
    threading.Thread(target=strike, args=(signal.SIGTERM, ready), daemon=True).start()
    ready.set()
    seen.append(lifetime.wait(5.0))
    if not seen[-1]:
        break
print(seen.count(True), flush=True)
os._exit(0)
"""


def test_wait_when_another_thread_takes_the_signal_then_the_main_one_hears_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == (str(ROUNDS), "")


def test_join_when_a_second_signal_comes_then_the_process_ends_whichever_thread_takes_it() -> None:
    program = (
        PROGRAM.partition("seen = []")[0]
        + """
lifetime, ready = Lifetime(), threading.Event()
stays = threading.Thread(target=threading.Event().wait, daemon=True)
stays.start()
lifetime.join(stays, 0.01)
ready.set()
strike(signal.SIGTERM, ready)
assert lifetime.wait(5.0)
threading.Thread(target=strike, args=(signal.SIGTERM, ready), daemon=True).start()
lifetime.join(stays, 30.0)
"""
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (143, "")


@pytest.mark.parametrize(("after", "code"), [("", 0), ("os.kill(os.getpid(), signal.SIGTERM)", 143)])
def test_wait_when_told_by_a_thread_then_it_returns_and_a_second_signal_ends_the_process(after: str, code: int) -> None:
    program = f"""
import os, signal, threading
from nasmesh.agent.lifetime import Lifetime

lifetime = Lifetime()
assert not lifetime.wait(0.01)
class Gone:
    def run(self): pass
lifetime.follow(Gone()).join()
assert lifetime.wait()
os.kill(os.getpid(), signal.SIGTERM)
{after}
assert lifetime.exit_code() == 0
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, "")
