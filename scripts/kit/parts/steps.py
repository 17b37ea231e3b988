"""What is run, in which order, and which share of the time each step has."""

import json
import os
import re

from . import process
from .machine import SANITIZER, printed

# The programs of the tests.
PROGRAMS = ["it", "strategies"]
# Names of the backends in the tests. Their wgpu is Vulkan, because the build has that feature.
BACKENDS = {"CUDA": "cuda", "Vulkan": "wgpu"}
# Parts of the names of tests that take long, which start first.
LONG = ["fixtures", "fuzz", "random_problems", "linear", "onnx", "info_nce", "strategies", "digits", "reports"]
# Tests that read and write in every way, which are also run where every access to memory is checked.
CHECKED = ["aliasing", "forms", "meaning", "outputs"]
# What NVIDIA's sanitizer checks: addresses, and units that race for shared memory.
CHECKS = ["memcheck", "racecheck"]
LARGE = ["--set", "large", "--rounds", "5", "--turn", "100"]
# Without the projection, whose products are tuned for minutes on a software adapter.
SMALL = ["--set", "small", "--rounds", "1", "--turn", "5", "--repetitions", "1", "--only", "forward"]
PYTORCH = ["--rounds", "5", "--turn", "100"]
SMALL_PYTORCH = ["--rounds", "1", "--turn", "5", "--repetitions", "1", "--only", "65536x1000"]


class Step:
    """A command. `needs` is the runtime whose device it needs, `finds` the one that it looks for; where it finds none,
    the steps that need it are left out."""

    def __init__(self, name, weight, command, needs=None, finds=None):
        self.name, self.weight, self.command, self.needs, self.finds = name, weight, command, needs, finds

    def run(self, machine, limit, watch):
        return process.run(machine.command(self), machine.scratch, machine.environment_of(self), limit, watch)

    def summary(self, outcome, folder):
        """What is known so far, as a sentence and as figures: by the output, and by files in the folder in which the
        command runs."""
        raise NotImplementedError


class Device(Step):
    def __init__(self, runtime):
        command = ["compare", "--device", runtime.lower(), "--identify"]
        super().__init__(f"{runtime}: device", 10, command, finds=runtime)

    def summary(self, outcome, _folder):
        said = (outcome.stdout if outcome.exit_code == 0 else outcome.stderr).strip()
        return said, {"device": said} if outcome.exit_code == 0 else {}


class Tests(Step):
    """The tests on a backend, each in a process of its own: kernels are compiled one after the other in a process, and
    that is most of the time."""

    def __init__(self, runtime, weight, name="tests", prefix=(), only=("",)):
        super().__init__(f"{runtime} {name}", weight, [*prefix, *PROGRAMS], needs=runtime)
        self.backend, self.prefix, self.only, self.tests = BACKENDS[runtime], list(prefix), only, []

    def run(self, machine, limit, watch):
        commands = sorted(self.commands(machine), key=place)
        self.tests = [command[-1] for command in commands]
        return process.run_all(commands, machine.scratch, machine.environment_of(self), limit, watch)

    def commands(self, machine):
        for program in PROGRAMS:
            path = machine.program(program)
            listed = printed([path, "--list"], machine.environment_of(self)) or ""
            for name in re.findall(r"^(\S+): test$", listed, re.M):
                is_chosen = any(name.startswith(module) for module in self.only)
                if is_chosen and self.backend in name.split("::"):
                    yield [*self.prefix, path, "--exact", name]

    def summary(self, outcome, _folder):
        results = re.findall(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)", outcome.stdout, re.M)
        by_result = {result: [name for name, found in results if found == result] for result in ("ok", "FAILED")}
        without = sorted(set(self.tests).difference(name for name, _ in results))
        figures = {
            "tests": len(self.tests),
            "passed": len(by_result["ok"]),
            "failed": len(by_result["FAILED"]),
            "without_a_result": len(without),
            "failed_tests": by_result["FAILED"],
            "tests_without_a_result": without,
        }
        sentence = f"{figures['passed']} of {len(self.tests)} passed, {figures['failed']} failed"
        return sentence + (f", {len(without)} have no result" if without else ""), figures


def place(command):
    """The place of a test in the order of their start."""
    return min((at for at, part in enumerate(LONG) if part in command[-1]), default=len(LONG))


class Checked(Tests):
    """Tests under a check of NVIDIA's sanitizer."""

    def __init__(self, check, weight):
        prefix = [SANITIZER, "--tool", check, "--error-exitcode", "9"]
        super().__init__("CUDA", weight, check, prefix, CHECKED)

    def summary(self, outcome, folder):
        sentence, figures = super().summary(outcome, folder)
        errors = [int(count) for count in re.findall(r"ERROR SUMMARY: (\d+) error", outcome.stdout)]
        errors += [int(count) for count in re.findall(r"RACECHECK SUMMARY: (\d+) hazard", outcome.stdout)]
        found = sum(errors)
        return f"{sentence}; {found} errors in {len(errors)} processes", {**figures, "errors": found}


class Times(Step):
    """A program that writes its rows into a JSON file."""

    def __init__(self, name, weight, command, needs=None):
        self.file = re.sub(r"\W+", "-", name) + ".json"
        super().__init__(name, weight, [*command, "--json", self.file], needs)

    def summary(self, outcome, folder):
        try:
            with open(os.path.join(folder, self.file), encoding="utf-8") as file:
                document = json.load(file)
        except OSError:
            said = outcome.stderr.strip().splitlines() or ["nothing"]
            return f"no row; it says: {said[-1]}", {}
        timed = [row for row in document["rows"] if "not_timed" not in row]
        sentence = f"{len(timed)} rows timed, {len(document['rows']) - len(timed)} not"
        return sentence + ("" if document["complete"] else ", and others have not been reached"), document


class PyTorch(Times):
    """`python` is the one to take, and None for one that has torch."""

    def __init__(self, python, options):
        super().__init__("PyTorch times", 90, ["PYTHON", "gpu.py", *options])
        self.python = python


def steps(is_small, python):
    of_compare = SMALL if is_small else LARGE
    of_pytorch = SMALL_PYTORCH if is_small else PYTORCH

    def compare(runtime, weight):
        return Times(f"{runtime} times", weight, ["compare", "--device", runtime.lower(), *of_compare], runtime)

    every = []
    for runtime in BACKENDS:
        every += [Device(runtime), Tests(runtime, 130)]
    every += [Checked(check, 40) for check in CHECKS]
    every.append(compare("CUDA", 130))
    every.append(PyTorch(python, of_pytorch))
    every.append(compare("Vulkan", 50))
    return every
