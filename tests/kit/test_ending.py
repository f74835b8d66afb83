"""A process ends when asked, whichever thread the kernel hands the signal to."""

import signal
import subprocess
import sys
import threading

from animus_kit.server.ending import Ending

PROGRAM = """
import signal, threading
from animus_kit.server.ending import Ending
ending = Ending()
ending.on_signals(signal.SIGTERM)
threading.Thread(target=threading.Event().wait, daemon=True).start()
# The main thread alone refuses the signal, so that the other one gets it.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("ready", flush=True)
ending.wait()
print("ended", flush=True)
"""


def test_a_signal_that_another_thread_gets_ends_the_wait():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert out == "ended\n"


def test_any_thread_ends_the_wait():
    ending = Ending()
    threading.Thread(target=ending.set).start()
    ending.wait()
    ending.wait()
    assert ending.is_set
