"""The three files of a run, written as it goes: results.json, results.md and output.txt."""

import json
import os
import time

from . import process

# Seconds after which the result of a running step is written again.
BETWEEN = 5.0
# Characters that output.txt takes from a step: its first ones and its last ones.
FIRST, LAST = 300_000, 100_000
LAST_LINES = 12


class Results:
    def __init__(self, folder, machine, start, seconds):
        self.folder, self.start, self.seconds = folder, start, seconds
        os.makedirs(folder, exist_ok=True)
        self.document = {
            "machine": machine.facts(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "budget_seconds": seconds,
            "seconds": 0.0,
            "finished": False,
            "steps": [],
        }
        self.recorder = None
        self.output = open(os.path.join(folder, "output.txt"), "w", encoding="utf-8")
        self.written = 0.0
        machine_line = self.document["machine"]
        self.say(f"GPU: {machine_line['gpu']}. {machine_line['processor']}, {machine_line['cores']} cores.")
        self.write()

    def run(self, step, machine, limit):
        record = {"name": step.name, "command": " ".join(step.command), "limit_seconds": round(limit, 1)}
        self.document["steps"].append(record)
        reason = machine.why_not(step) or (None if limit >= 1 else "No time was left.")
        if reason:
            record.update(state="left out", summary=reason)
            self.ended(record)
            return
        self.recorder = Recorder(self, step, record, machine.scratch)
        outcome = step.run(machine, limit, self.recorder.watch)
        self.recorder.close(outcome)
        self.recorder = None
        if record["state"] != "passed" and step.finds:
            machine.missing[step.finds] = f"There is no device for {step.finds}: see the step that looks for it."
        self.ended(record)

    def ended(self, record):
        self.write()
        self.say(line_of(record))

    def say(self, line):
        print(f"[{time.monotonic() - self.start:5.0f} s of {self.seconds:.0f}] {line}", flush=True)

    def interrupted(self, reason):
        if self.recorder:
            self.recorder.update()
            self.recorder.record["state"] = "interrupted"
        self.document["interrupted"] = reason
        self.write()
        self.say(f"interrupted by {reason}")

    def finished(self):
        """The exit code: 1 if a step failed, or nothing could be run."""
        self.document["finished"] = True
        self.write()
        states = [record["state"] for record in self.document["steps"]]
        self.say(f"{', '.join(counted(states))}. {os.path.join(self.folder, 'results.md')} has the tables.")
        return 0 if all(state in ("passed", "left out") for state in states) and "passed" in states else 1

    def write(self):
        self.written = time.monotonic()
        self.document["seconds"] = round(time.monotonic() - self.start, 1)
        self.replace("results.json", json.dumps(self.document, indent=1) + "\n")
        self.replace("results.md", self.markdown())
        self.output.flush()

    def replace(self, name, text):
        """A reader finds the old text or the new one, never a part."""
        file = os.path.join(self.folder, name)
        with open(file + ".part", "w", encoding="utf-8") as part:
            part.write(text)
        os.replace(file + ".part", file)

    def markdown(self):
        machine = self.document["machine"]
        lines = [
            f"GPU: {machine['gpu']}. {machine['processor']}, {machine['cores']} cores, {machine['system']}. "
            f"{machine['kit']['crate']} of commit {machine['kit']['commit']}.",
            "",
            "| step | state | result | seconds |",
            "| --- | --- | --- | --- |",
        ]
        for record in self.document["steps"]:
            summary = " ".join(record.get("summary", "").split()).replace("|", "/")
            seconds = f"{record['seconds']:.1f}" if "seconds" in record else ""
            lines.append(f"| {record['name']} | {record['state']} | {summary} | {seconds} |")
        for record in self.document["steps"]:
            if record.get("tables"):
                lines += ["", f"## {record['name']}", "", record["tables"].strip()]
        return "\n".join(lines) + "\n"


class Recorder:
    """A step while it runs: its part of output.txt, and its record, which is brought up to date."""

    def __init__(self, results, step, record, folder):
        self.results, self.step, self.record, self.folder = results, step, record, folder
        self.outcome, self.length = process.Outcome(), 0
        record.update(state="running", summary="")
        results.output.write(f"\n=== {step.name}: {' '.join(step.command)}\n\n")
        results.write()

    def watch(self, outcome, text):
        self.outcome = outcome
        self.results.output.write(text[: max(0, FIRST - self.length)])
        self.length += len(text)
        if time.monotonic() - self.results.written >= BETWEEN:
            self.update()
            self.results.write()

    def update(self):
        outcome = self.outcome
        summary, figures = self.step.summary(outcome, self.folder)
        self.record.update(seconds=round(outcome.seconds, 2), summary=summary, figures=figures)
        if "rows" in figures:
            self.record["tables"] = outcome.stdout

    def close(self, outcome):
        beyond = self.length - FIRST
        if beyond > 0:
            last = (outcome.stdout + outcome.stderr)[-min(beyond, LAST) :]
            self.results.output.write(f"\n... {beyond - len(last)} characters are left out ...\n{last}")
        self.outcome = outcome
        self.update()
        self.record.update(state=outcome.state(), exit_code=outcome.exit_code, signal=outcome.signal)
        if outcome.state() != "passed":
            last_lines = (outcome.stdout.splitlines() + outcome.stderr.splitlines())[-LAST_LINES:]
            self.record["last_lines"] = [line[:500] for line in last_lines]


def line_of(record):
    seconds = f" ({record['seconds']:.1f} s)" if "seconds" in record else ""
    signal = f" with {record['signal']}" if record.get("signal") and record["state"] == "crashed" else ""
    return f"{record['name']}: {record['state']}{signal}{seconds}. {record['summary']}"


def counted(states):
    return [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
