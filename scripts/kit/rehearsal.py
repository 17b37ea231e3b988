#!/usr/bin/env python3
"""Rehearses a kit of scripts/gpu-kit on a machine without a GPU: rehearsal.py KIT RESULTS

It is run three times, in an environment that has nothing of this shell's, into folders of RESULTS:

  no-driver     without a driver of CUDA: its steps end in a sentence. Vulkan takes what the machine has,
                Mesa's software adapter for example, whose crashes are findings and end only their step.
  empty-driver  with a driver of CUDA that computes nothing (benches/kernels/driver.c): every program compiles
                its kernels and writes its results. They are wrong, so tests fail and nothing is timed.
  opengl        the tests of Vulkan with all drivers of Vulkan hidden: wgpu takes OpenGL then, and kernels in
                WGSL, which Mesa's software adapter computes.

What is checked is that every step is recorded and none hangs; what the tests say is printed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

DRIVER = "benches/kernels/driver.c"
# Seconds beyond the limit of a run, for unpacking and for a last step that is slow to end.
SLACK = 60


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    kit, results = map(os.path.abspath, sys.argv[1:])
    with tempfile.TemporaryDirectory() as home:
        rehearsal = Rehearsal(kit, results, home)
        without_driver(rehearsal, rehearsal.run("no-driver", 480))
        environment = {"LD_LIBRARY_PATH": empty_driver(home)}
        with_empty_driver(rehearsal, rehearsal.run("empty-driver", 480, environment, "CUDA"))
        rehearsal.run("opengl", 300, {"VK_DRIVER_FILES": "/hidden"}, "Vulkan tests")
    for complaint in rehearsal.complaints:
        print(f"rehearsal: {complaint}", file=sys.stderr)
    print(f"rehearsal: {'failed' if rehearsal.complaints else 'passed'}; the results are in {results}")
    sys.exit(bool(rehearsal.complaints))


def empty_driver(home):
    folder = os.path.join(home, "driver")
    os.mkdir(folder)
    library = os.path.join(folder, "libcuda.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", DRIVER, "-o", library], check=True)
    return folder


class Rehearsal:
    def __init__(self, kit, results, home):
        self.kit, self.results, self.home = kit, results, home
        self.complaints = []

    def run(self, name, limit, environment=None, only=""):
        """The steps of a run by their names. The run has to end in time and to leave all of its results."""
        print(f"\n== {name}", flush=True)
        folder = os.path.join(self.results, name)
        command = [os.path.join(self.kit, "run"), "--small", "--seconds", str(limit), "--only", only, folder]
        bare = {"PATH": "/usr/bin:/bin", "HOME": self.home, **(environment or {})}
        start = time.monotonic()
        # The command may fail; its results say in what.
        code = subprocess.run(command, env=bare, check=False).returncode
        seconds = time.monotonic() - start
        self.expect(seconds <= limit + SLACK, f"{name} took {seconds:.0f} s, and {limit} s were its limit")
        self.expect(code in (0, 1), f"{name} ended with {code}, and 0 or 1 are expected")
        with open(os.path.join(folder, "results.json"), encoding="utf-8") as file:
            document = json.load(file)
        self.expect(document["finished"], f"{name}: results.json does not say that the run is finished")
        for step in document["steps"]:
            self.expect(step.get("summary"), f"{name}: {step['name']} has no result: {step['state']}")
        return {step["name"]: step for step in document["steps"]}

    def expect(self, is_so, complaint):
        if not is_so:
            self.complaints.append(complaint)


def without_driver(rehearsal, steps):
    device = steps["CUDA: device"]
    said = "\n".join([device["summary"], *device.get("last_lines", [])])
    is_sentence = "It needs an NVIDIA GPU" in said and "panicked at" not in said
    rehearsal.expect(device["state"] == "failed" and is_sentence, f"the missing driver is no sentence: {said}")
    for name, step in steps.items():
        if name.startswith("CUDA ") and name != "CUDA: device":
            is_left_out = step["state"] == "left out"
            rehearsal.expect(is_left_out, f"{name} was not left out without a driver, but {step['state']}")


def with_empty_driver(rehearsal, steps):
    rehearsal.expect(steps["CUDA: device"]["state"] == "passed", "the driver that computes nothing has no device")
    for name, step in steps.items():
        figures, said = step.get("figures", {}), f"{name}: {step['state']}, {step.get('summary')}"
        if name.endswith(" tests"):
            ended = step["state"] in ("passed", "failed") and figures["without_a_result"] == 0
            rehearsal.expect(ended, f"{said}; every test should have a result")
        if name.endswith(" times"):
            rehearsal.expect(figures.get("complete"), f"{said}; every row should be there")


if __name__ == "__main__":
    main()
