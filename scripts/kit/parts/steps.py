"""What is run, in which order, and which share of the time each step has."""

import json
import os
import re

# The tests: modules of tests/it, and tests/strategies, which is a program of its own. The numbers are their
# weights; `run --list` prints the seconds that each step has of the limit.
STRATEGIES = "strategies"
TESTS = {"fixtures": 45, "forms": 15, "meaning": 20, STRATEGIES: 25, "aliasing": 15, "linear": 25, "bound": 10}
# Names of the backends in the tests. Their wgpu is Vulkan, because the build has that feature.
BACKENDS = {"CUDA": "cuda", "Vulkan": "wgpu"}
OTHER_BACKENDS = ["flex", "ndarray", "cpu", "wgpu", "cuda"]
LARGE = ["--set", "large", "--rounds", "5", "--turn", "100"]
SMALL = ["--set", "small", "--rounds", "1", "--turn", "5", "--repetitions", "1"]
PYTORCH = ["--rounds", "5", "--turn", "100"]
SMALL_PYTORCH = ["--rounds", "1", "--turn", "5", "--repetitions", "1", "--only", "65536x1000"]


class Step:
    """A command. `needs` is the runtime whose device it needs, `finds` the one that it looks for; where it finds none,
    the steps that need it are left out."""

    def __init__(self, name, weight, command, needs=None, finds=None):
        self.name, self.weight, self.command, self.needs, self.finds = name, weight, command, needs, finds

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
    def __init__(self, runtime, tests, weight):
        command = strategies(runtime) if tests == STRATEGIES else module(tests, runtime)
        super().__init__(f"{runtime} tests: {tests}", weight, command, needs=runtime)

    def summary(self, outcome, _folder):
        results = re.findall(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)", outcome.stdout, re.M)
        by_result = {result: [name for name, found in results if found == result] for result in ("ok", "FAILED")}
        running = re.search(r"^running (\d+) tests?$", outcome.stdout, re.M)
        whole = int(running.group(1)) if running else 0
        without = whole - len(results)
        figures = {
            "tests": whole,
            "passed": len(by_result["ok"]),
            "failed": len(by_result["FAILED"]),
            "without_a_result": without,
            "failed_tests": by_result["FAILED"],
        }
        sentence = f"{figures['passed']} of {whole} passed, {figures['failed']} failed"
        return sentence + (f", {without} have no result" if without else ""), figures


def strategies(runtime):
    return [STRATEGIES, f"{BACKENDS[runtime]}::"]


def module(name, runtime):
    """The tests of a module on a backend, and those on none."""
    skipped = [f"::{other}::" for other in OTHER_BACKENDS if other != BACKENDS[runtime]]
    # `linear` and `info_nce` contain modules with the same names as others.
    skipped += [f"{other}::" for other in ("linear", "info_nce") if other != name]
    return ["it", f"{name}::"] + [word for skip in skipped for word in ("--skip", skip)]


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
        every.append(Device(runtime))
        every += [Tests(runtime, tests, weight) for tests, weight in TESTS.items()]
    every.append(compare("CUDA", 130))
    every.append(PyTorch(python, of_pytorch))
    every.append(compare("Vulkan", 50))
    return every
