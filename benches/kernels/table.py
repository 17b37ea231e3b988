"""Tables of the loss's CUDA kernels, of what the program `kernels` and its driver have left.

    table.py --tools CUDA --sources src/kernel/cube [options] FOLDER...

A FOLDER has what one architecture's run has left: cases.json, and the PTX files of the modules that
it names. `ptxas` compiles every kernel of the loss for the architecture that its PTX is made for, and
tells registers and spills; `nvdisasm` shows the instructions, which stay in the folder as .sass files.
scripts/kernel-table starts this.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

UNITS_OF_A_PLANE = 32
COLUMNS = (
    "case | kernel | a row by | vector | registers | spilled B | shared B | instructions | exponentials"
    " | per exponential | loads | stores"
)


@dataclass
class Kernel:
    """A module's kernel, and the first case that launches it."""

    case: str
    name: str
    entry: str
    ptx: Path
    a_row_by: str
    shared: int
    target: str = ""
    registers: int = 0
    spilled: int = 0
    # The code that takes in the logits, once for each vector: a loop, or the whole kernel where a unit has
    # one block of vectors.
    loop: list = field(default_factory=list)
    is_loop: bool = True
    complaints: list = field(default_factory=list)


def main():
    arguments = arguments_given()
    names = names_of_kernels(arguments.sources)
    complaints = []
    for folder in arguments.folders:
        kernels, of_cases = kernels_of(folder, names, arguments.only)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda kernel: look_at(kernel, arguments), kernels))
        complaints += of_cases + [text for kernel in kernels for text in kernel.complaints]
        if arguments.check:
            print(f"{folder.name}: {len(kernels)} kernels")
        else:
            print_table(kernels)
            if arguments.mix:
                print_mix(kernels)
    if arguments.times:
        print_times(arguments.times)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    sys.exit(1 if complaints else 0)


def arguments_given():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tools", type=Path, required=True, help="has bin/ptxas and bin/nvdisasm")
    parser.add_argument("--sources", type=Path, required=True, help="has the kernels")
    parser.add_argument("--only", help="only these cases were made")
    parser.add_argument("--times", type=Path, help="JSON with the host's times")
    parser.add_argument("--check", action="store_true", help="no tables, only what is wrong")
    parser.add_argument("--mix", action="store_true", help="also what the loops are made of")
    parser.add_argument("folders", type=Path, nargs="+")
    return parser.parse_args()


def names_of_kernels(sources):
    """The functions that are launched, as their sources mark them: everything else is Burn's."""
    marked = r"#\[cube\(launch[^\]]*\][^{;]*?\bfn (\w+)"
    names = [name for path in sources.glob("**/*.rs") for name in re.findall(marked, path.read_text())]
    if not names:
        sys.exit(f"{sources} has no function that is marked #[cube(launch...)]: give the kernels' folder")
    return names


def kernels_of(folder, names, only):
    """Each kernel once, and what is wrong with the cases."""
    kernels, complaints, seen = [], [], set()
    for case in json.loads((folder / "cases.json").read_text())["cases"]:
        own = [(launch, name_of(launch["kernel"], names)) for launch in case["launches"]]
        own = [(launch, name) for launch, name in own if name]
        if not own:
            complaints.append(f"{folder.name}: the case `{case['name']}` launches no kernel of the loss.")
        earlier = []
        for launch, name in own:
            a_row_by = shared_by(launch, name, case["rows"], earlier) if vector_of(launch["kernel"]) else ""
            earlier.append((name, a_row_by))
            if launch["kernel"] not in seen:
                seen.add(launch["kernel"])
                ptx = folder / f"{launch['module']:04}.ptx"
                shared = launch["shared_bytes"]
                kernels.append(Kernel(case["name"], name, launch["kernel"], ptx, a_row_by, shared))
    # Runs with --only do not launch all kernels.
    missing = [] if only else sorted(set(names) - {kernel.name for kernel in kernels})
    for name in missing:
        complaints.append(
            f"{folder.name}: no case launches `{name}`: add one that does to benches/kernels/cases.rs."
        )
    return kernels, complaints


def name_of(entry, names):
    """A kernel's entry is its function's name, its types and sizes, and a hash."""
    fitting = [name for name in names if entry.startswith(name + "_")]
    return max(fitting, key=len, default=None)


def vector_of(entry):
    """The elements of a vector of logits; kernels without logits have none."""
    vector = re.search(r"_n_(\d+)", entry)
    return vector.group(1) if vector else ""


def shared_by(launch, name, rows, earlier):
    """Who computes a row, by how many units and cubes were launched for the rows of the case."""
    if (name, "parts") in earlier:
        return "merge"
    cubes, units = launch["cubes"] / rows, launch["units_per_cube"]
    if cubes >= 2:
        return "parts"
    if cubes == 1 and units > UNITS_OF_A_PLANE:
        return "cube"
    units *= cubes
    if units <= 1.5:
        return "unit"
    return "plane" if units == UNITS_OF_A_PLANE else f"{units:g} units"


def look_at(kernel, arguments):
    compile(kernel, arguments.tools)
    if kernel.registers and not arguments.check:
        disassemble(kernel, arguments.tools)


def compile(kernel, tools):
    """Fills in what ptxas tells."""
    kernel.target = re.search(r"^\.target (\w+)", kernel.ptx.read_text(), re.MULTILINE).group(1)
    cubin = kernel.ptx.with_suffix(".cubin")
    ptxas = [tools / "bin/ptxas", "-v", f"-arch={kernel.target}", kernel.ptx, "-o", cubin]
    done = subprocess.run(ptxas, capture_output=True, text=True)
    who = f"{kernel.target}: {kernel.entry} of `{kernel.case}`"
    if done.returncode != 0:
        kernel.complaints.append(f"{who} does not compile: {done.stderr.strip()}")
        return
    kernel.registers = int(re.search(r"Used (\d+) registers", done.stderr).group(1))
    kernel.spilled = int(re.search(r"(\d+) bytes spill stores", done.stderr).group(1))
    # Shared memory requested at the launch is already in the sum.
    kernel.shared += sum(int(count) for count in re.findall(r"(\d+) bytes smem", done.stderr))
    if kernel.spilled:
        kernel.complaints.append(f"{who} spills {kernel.spilled} bytes of registers.")


def disassemble(kernel, tools):
    """Fills in what nvdisasm tells."""
    nvdisasm = [tools / "bin/nvdisasm", "-c", kernel.ptx.with_suffix(".cubin")]
    sass = subprocess.run(nvdisasm, capture_output=True, text=True, check=True).stdout
    kernel.ptx.with_suffix(".sass").write_text(sass)
    code, labels = instructions_of(sass)
    hot = hot_loop(code, labels)
    kernel.is_loop = bool(hot)
    if not hot and exponentials_of(code):
        hot = range(len(code))
    kernel.loop = usual(code, labels, hot)


def instructions_of(sass):
    """The instructions, and where among them the labels stand."""
    code, labels = [], {}
    for line in sass.splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            labels[label.group(1)] = len(code)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            code.append(instruction.group(1))
    return code, labels


def hot_loop(code, labels):
    """The loop in which the logits are taken in: of the loops around an exponential that have no other
    such loop inside, the one with the most exponentials. A loop is split by the compilers into one over
    whole blocks and one over what is left, and then the former has more of them.
    """
    ends = {}
    for at, instruction in enumerate(code):
        branch = re.search(r"\bBRA\b.*`\((\.L_\w+)\)", instruction)
        if branch and labels[branch.group(1)] < at:
            # The last of several branches to the same start ends the loop: the others end a pass early.
            ends[labels[branch.group(1)]] = at + 1
    loops = [range(start, end) for start, end in ends.items()]

    def exponentials(loop):
        return exponentials_of(code[loop.start : loop.stop])

    def has_loop_inside(loop):
        others = (other for other in loops if other != loop)
        return any(loop.start <= other.start and other.stop <= loop.stop for other in others)

    loops = [loop for loop in loops if exponentials(loop)]
    inmost = [loop for loop in loops if not has_loop_inside(loop)]
    return max(inmost, key=lambda loop: (exponentials(loop), -len(loop)), default=range(0))


def usual(code, labels, hot):
    """The instructions of a range without those that a branch passes by, as far as they neither touch
    memory nor have an exponential: those of the one vector of a row that holds the target, or of a
    division that is not an ordinary one.
    """
    aside = set()
    for at in hot:
        branch = re.search(r"^@.*\bBRA\b.*`\((\.L_\w+)\)", code[at])
        passed = range(at + 1, labels[branch.group(1)]) if branch else range(0)
        if not any(is_exponential(code[i]) or is_memory(code[i]) for i in passed):
            aside.update(passed)
    return [code[at] for at in hot if at not in aside]


def is_memory(instruction):
    return bool(re.search(r"\b(LDG|STG|BAR)\b", instruction))


def is_exponential(instruction):
    """In f32 the unit's own. In f64 what every exponential begins with: to round the exponent to an
    integer, 1.5 * 2^52 is added."""
    return bool(re.search(r"\bMUFU\.EX2|\bD\w+ .* 6\.7553994410557\d*e\+15", instruction))


def exponentials_of(code):
    return sum(map(is_exponential, code))


def operation(instruction):
    """Without its predicate and operands: `LDG.E.128.CONSTANT`."""
    return re.sub(r"^@!?U?P\w+\s+", "", instruction).split()[0]


def accesses(loop, kinds):
    """How many of which size: `8 x 16 B`; those of shared memory are named."""
    counts = Counter()
    for instruction in loop:
        name, *modifiers = operation(instruction).split(".")
        if name in kinds:
            bits = [int(size) for size in re.findall(r"\b[US]?(8|16|64|128|256)\b", " ".join(modifiers))]
            counts[(bits[0] // 8 if bits else 4, kinds[name])] += 1
    return " + ".join(f"{count} x {size} B{where}" for (size, where), count in counts.most_common())


def print_table(kernels):
    if not kernels:
        return
    targets = sorted({kernel.target for kernel in kernels})
    print(f"\nCompiled for {' and '.join(targets)}. Columns from `instructions` on are of the loop that takes in")
    print("the logits; `in all` is a kernel without a loop, from its beginning to its ends. An exponential is a")
    print("logit, with softcap or entropy half a logit; one more is the maximum's.\n")
    print(f"| {COLUMNS} |\n|{'---|' * (COLUMNS.count('|') + 1)}")
    for kernel in kernels:
        loop = kernel.loop
        exponentials = exponentials_of(loop)
        cells = [
            kernel.case, kernel.name, kernel.a_row_by, vector_of(kernel.entry),
            kernel.registers or "", kernel.spilled, kernel.shared,
            f"{len(loop)}{'' if kernel.is_loop else ' in all'}" if loop else "", exponentials or "",
            f"{len(loop) / exponentials:.1f}" if loop else "",
            accesses(loop, {"LDG": "", "LD": "", "LDGSTS": "", "LDS": " shared"}),
            accesses(loop, {"STG": "", "ST": "", "STS": " shared"}),
        ]  # fmt: skip
        print(f"| {' | '.join(map(str, cells))} |")


def print_mix(kernels):
    print("\nInstructions of the loop for each exponential:\n")
    for kernel in kernels:
        exponentials = exponentials_of(kernel.loop)
        counts = Counter(operation(instruction).split(".")[0] for instruction in kernel.loop)
        mix = ", ".join(f"{name} {count / exponentials:.2f}" for name, count in counts.most_common())
        if mix:
            print(f"- {kernel.case}, {kernel.name}, {kernel.a_row_by}: {mix}")


def print_times(path):
    sides = ("here", "burn_nn")
    titles = [f"{side}, {until}" for side in ("here", "burn::nn") for until in ("until the calls return", "in all")]
    print(f"\n| the host's time | {' | '.join(titles)} |")
    print("|---|---|---|---|---|")
    for time in json.loads(path.read_text())["times"]:
        cells = []
        for side in sides:
            for number in ("microseconds_of_calls", "microseconds"):
                cells.append(f"{time[side][number]:.0f} us" if time[side] else "")
        print(f"| {time['name']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
