#!/usr/bin/env python3
"""Rehearses a kit of scripts/gpu-kit on a machine without a GPU: rehearsal.py KIT RESULTS

It is run twice, in an environment that has nothing of this shell's, into two folders of RESULTS:

  no-driver    without a driver of CUDA: its steps end in a sentence. Vulkan takes what the machine has,
               Mesa's software adapter for example, whose crashes are findings and end nothing but their step.
  empty-driver with a driver of CUDA that computes nothing (benches/kernels/driver.c): every program compiles
               its kernels and writes its results. They are zeros, so tests fail and nothing is timed.

What is checked is that every step is recorded and none hangs; what the tests say is printed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

SECONDS = 480
# What unpacking and a last step that is slow to die may take beyond that.
SLACK = 60
DRIVER = "benches/kernels/driver.c"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    kit, results = map(os.path.abspath, sys.argv[1:])
    complaints = []
    with tempfile.TemporaryDirectory() as home:
        document = run(kit, os.path.join(results, "no-driver"), home, {}, [], complaints)
        complaints += without_driver(document)
        driver = os.path.join(home, "driver")
        os.mkdir(driver)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", DRIVER, "-o", os.path.join(driver, "libcuda.so")], check=True)
        folder = os.path.join(results, "empty-driver")
        document = run(kit, folder, home, {"LD_LIBRARY_PATH": driver}, ["--only", "CUDA"], complaints)
        complaints += with_empty_driver(document)
    for complaint in complaints:
        print(f"rehearsal: {complaint}", file=sys.stderr)
    print(f"rehearsal: {'failed' if complaints else 'passed'}; the results are in {results}")
    sys.exit(bool(complaints))


def run(kit, folder, home, environment, options, complaints):
    """The results of a run of the kit, which is checked to end in time and to leave them whole."""
    print(f"\n== {os.path.basename(folder)}", flush=True)
    command = [os.path.join(kit, "run"), "--small", "--seconds", str(SECONDS), *options, folder]
    start = time.monotonic()
    # That it fails is no news; its results say in what.
    code = subprocess.run(command, env={"PATH": "/usr/bin:/bin", "HOME": home, **environment}, check=False).returncode
    seconds = time.monotonic() - start
    if seconds > SECONDS + SLACK:
        complaints.append(f"the run took {seconds:.0f} s, and {SECONDS} s were its limit")
    if code not in (0, 1):
        complaints.append(f"the run ended with {code}, and 0 or 1 are expected")
    with open(os.path.join(folder, "results.json"), encoding="utf-8") as file:
        document = json.load(file)
    if not document["finished"]:
        complaints.append(f"{folder}/results.json does not say that the run is finished")
    return document


def without_driver(document):
    steps = {step["name"]: step for step in document["steps"]}
    device = steps["CUDA: device"]
    if device["state"] != "failed" or "It needs an NVIDIA GPU" not in device["summary"]:
        yield f"the missing driver is no sentence, but {device['state']}: {device['summary']}"
    if "panicked at" in "\n".join(device.get("last_lines", [])):
        yield "the missing driver is told by a panic"
    for name, step in steps.items():
        if name.startswith("CUDA") and step is not device and step["state"] != "left out":
            yield f"{name} was not left out without a driver, but {step['state']}"
        if not step.get("summary"):
            yield f"{name} has no result: {step['state']}"


def with_empty_driver(document):
    for step in document["steps"]:
        name, state, figures = step["name"], step["state"], step.get("figures", {})
        if name == "CUDA: device" and state != "passed":
            yield f"{name}: {state}, {step.get('summary')}"
        if " tests: " in name and (state not in ("passed", "failed") or figures.get("without_a_result", 1) > 0):
            yield f"{name}: {state}, {step.get('summary')}; every test should have a result"
        if name.endswith(" times") and not (figures.get("rows") and figures.get("complete")):
            yield f"{name}: {state}, {step.get('summary')}; every row should be there"


if __name__ == "__main__":
    main()
