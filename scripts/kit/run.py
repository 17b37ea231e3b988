"""Runs the tests that matter most and the timings on this machine's NVIDIA GPU, within a time limit:

  1. the tests on CUDA, then on Vulkan, each in a process of its own, as many at once as there are
     cores
  2. some of the tests on CUDA under the memcheck and racecheck of NVIDIA's compute-sanitizer, if it is on
     the PATH
  3. compare --device cuda: this crate beside burn::nn
  4. gpu.py: PyTorch, torch.compile and Liger, if a Python here has torch with CUDA
  5. compare --device vulkan, as far as time is left

Every step has a limit, its share of the time that is left. What is known is written as it comes, so
that a run that is cut off leaves what it had, into RESULTS/results.json, results.md (to read) and
output.txt (all that the programs printed).

Needs x86-64 Linux, Python 3.8 and the driver of the GPU; what else is needed lies beside this file.
Its content is unpacked below ~/.cache, or where that cannot be written into a temporary folder.
"""

import argparse
import os
import signal
import sys
import tempfile
import time

if sys.version_info < (3, 8):
    sys.exit("This needs Python 3.8 or newer, and python3 is %d.%d here." % sys.version_info[:2])

# The kit stays as it was made, without files of bytecode.
sys.dont_write_bytecode = True

from parts.content import unpacked
from parts.machine import Machine
from parts.results import Results
from parts.steps import steps


def arguments():
    parser = argparse.ArgumentParser(
        prog="run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", metavar="RESULTS", nargs="?", default="results", help="a folder (results)")
    parser.add_argument("--seconds", metavar="N", type=float, default=480, help="for everything (480)")
    parser.add_argument(
        "--only", metavar="SUBSTRING", default="", help="only the steps whose name contains this, as `CUDA` does"
    )
    parser.add_argument("--python", metavar="PYTHON", help="a Python that has torch (python3, or python on the PATH)")
    parser.add_argument(
        "--small", action="store_true", help="times small sizes and few repetitions: to rehearse, not to measure"
    )
    parser.add_argument("--list", action="store_true", help="only lists the steps with their shares of the time")
    return parser.parse_args()


def chosen_steps(options):
    every = steps(options.small, options.python)
    chosen = [step for step in every if options.only in step.name]
    if not chosen:
        names = "\n".join(step.name for step in every)
        sys.exit(f"No step's name contains {options.only!r}; the steps are\n{names}")
    return chosen


def limits(chosen, deadline):
    """Each step with its limit: the share of what is left that its weight is of the weights to come."""
    for at, step in enumerate(chosen):
        weights = sum(step.weight for step in chosen[at:])
        left = max(0.0, deadline - time.monotonic())
        yield step, left * step.weight / weights


def interrupt(number, _frame):
    raise KeyboardInterrupt(signal.Signals(number).name)


def main():
    options = arguments()
    chosen = chosen_steps(options)
    if options.list:
        whole = sum(step.weight for step in chosen)
        for step in chosen:
            print(f"{options.seconds * step.weight / whole:4.0f} s  {step.name}")
        return 0
    start = time.monotonic()
    signal.signal(signal.SIGTERM, interrupt)
    kit = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory(prefix="gpu-kit-") as scratch:
        machine = Machine(kit, unpacked(kit), scratch)
        results = Results(options.results, machine, start, options.seconds)
        try:
            for step, limit in limits(chosen, start + options.seconds):
                results.run(step, machine, limit)
        except KeyboardInterrupt as reason:
            results.interrupted(str(reason) or "SIGINT")
            return 130
        return results.finished()


if __name__ == "__main__":
    sys.exit(main())
