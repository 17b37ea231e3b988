"""Commands with a time limit, one or many at once, and what they print, as it comes."""

import os
import selectors
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

# Seconds between asking a command to stop and killing it.
GRACE = 3.0
# Seconds between two looks at a command that prints nothing.
LOOK = 1.0
CHUNK = 1 << 16


class Outcome:
    def __init__(self):
        self.stdout, self.stderr = "", ""
        self.exit_code = None
        self.signal = None
        self.seconds = 0.0
        self.is_late = False

    def state(self):
        if self.is_late:
            return "out of time"
        if self.signal:
            return "crashed"
        return "passed" if self.exit_code == 0 else "failed"


def run(command, folder, environment, limit, watch):
    """Runs the command for at most `limit` seconds. `watch(outcome, new text)` is called with what it prints, and
    about every second with nothing. If it raises, the command is stopped."""
    outcome, start = Outcome(), time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A process group of its own lets everything that the command starts stop with it.
        start_new_session=True,
    )
    try:
        follow(process, outcome, start, limit, watch)
    finally:
        stop(process)
        process.stdout.close()
        process.stderr.close()
    code = process.returncode
    outcome.seconds = time.monotonic() - start
    outcome.exit_code = code if code >= 0 else None
    outcome.signal = signal.Signals(-code).name if code < 0 else None
    return outcome


class Stopped(Exception):
    pass


def run_all(commands, folder, environment, limit, watch):
    """Runs the commands, as many at once as there are cores, for at most `limit` seconds together. The outcome has
    what they printed, one after the other as they end: `watch(outcome, new text)` is called with it, and about every
    second with nothing."""
    whole, start = Outcome(), time.monotonic()
    lock, stopped = threading.Lock(), threading.Event()
    ended = []

    def look(_outcome, _text):
        if stopped.is_set():
            raise Stopped

    def one(command):
        left = start + limit - time.monotonic()
        if left <= 0:
            whole.is_late = True
            return
        try:
            outcome = run(command, folder, environment, left, look)
        except Stopped:
            return
        with lock:
            ended.append(outcome)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = [pool.submit(one, command) for command in commands]
        try:
            while waiting:
                done, waiting = wait(waiting, LOOK)
                for future in done:
                    future.result()
                with lock:
                    new, ended = ended, []
                whole.seconds = time.monotonic() - start
                watch(whole, add(whole, new))
        except BaseException:
            stopped.set()
            raise
    # Nothing to run is no success: a program that cannot list its tests has none.
    whole.exit_code = whole.exit_code or (0 if commands else 1)
    return whole


def add(whole, outcomes):
    """Adds outcomes to that of all, and returns what they printed."""
    texts = []
    for outcome in outcomes:
        whole.stdout += outcome.stdout
        whole.stderr += outcome.stderr
        whole.is_late = whole.is_late or outcome.is_late
        whole.signal = whole.signal or outcome.signal
        whole.exit_code = whole.exit_code or outcome.exit_code
        # What a test that passed prints is of no use.
        texts.append("" if outcome.state() == "passed" else outcome.stdout + outcome.stderr)
    return "".join(texts)


def follow(process, outcome, start, limit, watch):
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, "stdout")
        selector.register(process.stderr, selectors.EVENT_READ, "stderr")
        # A process that has ended may leave others that hold its output open.
        while selector.get_map():
            left = start + limit - time.monotonic()
            if left <= 0:
                outcome.is_late = True
                return
            ready = selector.select(min(left, LOOK))
            for key, _ in ready:
                data = os.read(key.fd, CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                text = data.decode("utf-8", "replace")
                setattr(outcome, key.data, getattr(outcome, key.data) + text)
                outcome.seconds = time.monotonic() - start
                watch(outcome, text)
            if not ready:
                outcome.seconds = time.monotonic() - start
                watch(outcome, "")
                if process.poll() is not None:
                    return
    left = max(0.0, start + limit - time.monotonic())
    try:
        process.wait(left)
    except subprocess.TimeoutExpired:
        outcome.is_late = True


def stop(process):
    """Ends the process and all that it started, if they are still there."""
    for number in signal.SIGTERM, signal.SIGKILL:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
