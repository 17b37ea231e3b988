#!/usr/bin/env python3
"""Times the cross-entropy losses of PyTorch and Liger on an NVIDIA GPU, beside a copy of the logits,
on the shapes of `compare --device cuda --set large`, and prints the medians as markdown tables. Then it times
projections with their losses beside their three matrix products alone.

Needs PyTorch with CUDA; torch.compile needs Triton, which comes with it. Liger (pip install
liger-kernel) is left out where it is missing. The clock starts and stops when the GPU is idle, with the same
number of calls between as in compare, and making logits, setting gradients to None and dropping results is
outside of it. The results are checked to agree with PyTorch's before they are timed.
"""

import argparse
import gc
import importlib.metadata
import json
import math
import os
import statistics
import sys
import time

DEVICE = "cuda"
# entries.rs has the same shapes.
SHAPES = [(4096, 32000), (4096, 50257), (8192, 128256), (65536, 1000), (8, 21, 512, 512)]
DTYPES = {"f32": "float32", "bf16": "bfloat16"}
# projections.rs has the same sizes: rows, features and classes.
PROJECTIONS = [
    ((8192, 768, 50257), "f32"),
    ((8192, 768, 50257), "bf16"),
    ((2048, 4096, 128256), "bf16"),
    ((8192, 4096, 128256), "bf16"),
]
PROJECTION = "projection"
# Allowed differences, as shares of PyTorch's value, of the loss and of the sum of the gradient's absolute
# values.
TOLERANCES = {"f32": 1e-4, "bf16": 2e-2}
# Passes of a loss over the bytes of the logits, at least.
PASSES = {"forward+backward": 3, "forward alone": 1}
COPY_PASSES = 2
TITLES = {
    "forward+backward": "Forward and backward",
    "forward alone": "Forward alone",
    PROJECTION: "Projection and loss, forward and backward",
}
# Names of the columns.
EAGER, COMPILED, LIGER, COPY = "PyTorch", "torch.compile", "Liger", "copy"
PRODUCTS = "three products"
IDLE_SYNCS = 100
# As in compare, device/mod.rs.
QUEUED_BYTES, MOST_QUEUED = 2 << 30, 16
# A try that takes more than this share of the quickest time before it does not count as quicker.
SETTLED = 0.9
MOST_REPETITIONS = 10_000


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        metavar="SUBSTRING",
        default="",
        help="only the rows whose name contains this; a name is, for example, `4096x32000 index bf16 "
        "forward+backward` or `65536x1000 index f32 forward alone`",
    )
    parser.add_argument("--rounds", metavar="N", type=positive, default=7, help="rounds per row of a table (7)")
    parser.add_argument(
        "--turn", metavar="MS", type=positive, default=200, help="milliseconds that a turn should take (200)"
    )
    parser.add_argument(
        "--repetitions", metavar="N", type=positive, default=3, help="repetitions that a turn has at least (3)"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="also writes the figures into a file, row by row, as compare's --json does: the introduction, for each "
        "row its name and the seconds of each side as quartiles and median, and the notes",
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    return parser.parse_args()


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} was given, at least 1 is needed")
    return number


def rows_of(only):
    """Phase, shape and dtype of the rows, in the order of the tables."""
    rows = [(phase, shape, dtype) for phase in PASSES for dtype in DTYPES for shape in SHAPES]
    rows += [(PROJECTION, sizes, dtype) for sizes, dtype in PROJECTIONS]
    chosen = [row for row in rows if only in name_of(*row)]
    if not chosen:
        names = [name_of(*row) for row in rows]
        sys.exit(f"No row's name contains {only!r}; the rows are\n" + "\n".join(names))
    return chosen


def name_of(phase, shape, dtype):
    """As in compare."""
    if phase == PROJECTION:
        return f"{'x'.join(map(str, shape))} projection {dtype}"
    return f"{'x'.join(map(str, shape))} index {dtype} {phase}"


class Contender:
    """A loss on the data of a row."""

    def __init__(self, loss, logits, targets, phase, in_place=False):
        self.loss, self.logits, self.targets = loss, logits, targets
        self.backward = phase == "forward+backward"
        self.in_place = in_place

    def leaf(self):
        """Logits whose gradient is None; a copy where the loss overwrites them."""
        logits = self.logits.clone() if self.in_place else self.logits.detach()
        return logits.requires_grad_(self.backward)

    def once(self, logits):
        loss = self.loss(logits, self.targets)
        if self.backward:
            loss.backward()
        return loss

    def seconds(self):
        """Seconds of one of the calls that are queued."""
        leaves = [self.leaf() for _ in range(queued(self.logits))]
        with torch.set_grad_enabled(self.backward):
            torch.cuda.synchronize()
            start = time.perf_counter()
            losses = [self.once(leaf) for leaf in leaves]
            torch.cuda.synchronize()
            return (time.perf_counter() - start) / len(losses)

    def outcome(self):
        logits = self.leaf()
        with torch.set_grad_enabled(self.backward):
            loss = self.once(logits)
        if not self.backward:
            return [loss.item()]
        parts = logits.grad.chunk(16)
        return [loss.item(), sum(part.abs().sum(dtype=torch.float64).item() for part in parts)]


class Projected:
    """A projection with its loss, which gives the gradients of input and weight."""

    def __init__(self, loss, head):
        self.loss, self.head = loss, head

    def once(self):
        inputs, weight, targets = self.head
        leaves = [tensor.detach().requires_grad_() for tensor in (inputs, weight)]
        loss = self.loss(*leaves, targets)
        loss.backward()
        return loss, [leaf.grad for leaf in leaves]

    def seconds(self):
        torch.cuda.synchronize()
        start = time.perf_counter()
        results = self.once()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        del results
        return seconds

    def outcome(self):
        loss, gradients = self.once()
        parts = [part for gradient in gradients for part in gradient.chunk(16)]
        return [loss.item(), sum(part.abs().sum(dtype=torch.float64).item() for part in parts)]


class Products(Projected):
    """The three products alone: the logits stand for their gradient."""

    def __init__(self, head):
        super().__init__(None, head)

    def once(self):
        inputs, weight, _ = self.head
        logits = inputs @ weight.t()
        return logits @ weight, logits.t() @ inputs


class Copy:
    """The floor: the bytes of the logits read and written once."""

    def __init__(self, logits):
        self.source, self.count = logits, queued(logits)
        self.destinations = [torch.empty_like(logits) for _ in range(self.count)]

    def seconds(self):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for destination in self.destinations:
            destination.copy_(self.source)
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / self.count


def queued(logits):
    """Calls before the GPU is waited for."""
    size = logits.numel() * logits.element_size()
    return max(1, min(QUEUED_BYTES // size, MOST_QUEUED))


def eager(logits, targets):
    return torch.nn.functional.cross_entropy(logits, targets)


def eager_projected(inputs, weight, targets):
    return torch.nn.functional.cross_entropy(inputs @ weight.t(), targets)


def liger():
    """Liger's losses, over logits and over a projection, and its version; or None and the reason."""
    try:
        from liger_kernel.transformers.functional import liger_cross_entropy, liger_fused_linear_cross_entropy

        version = importlib.metadata.version("liger-kernel")
    except ImportError as error:
        return None, f"Liger is left out, because this Python does not have it ({error}): pip install liger-kernel."

    def loss(logits, targets):
        # Liger's loss takes rows of classes only; its users move the classes to the end.
        if logits.dim() > 2:
            logits = logits.movedim(1, -1).reshape(-1, logits.shape[1])
        return first(liger_cross_entropy(logits, targets.flatten()))

    def projected(inputs, weight, targets):
        return first(liger_fused_linear_cross_entropy(inputs, weight, targets))

    def first(result):
        return result[0] if isinstance(result, tuple) else result

    return (loss, projected), version


def data(shape, dtype):
    """Logits uniform in [-6, 6), and a class per row."""
    torch.manual_seed(7)
    logits = torch.empty(shape, device=DEVICE).uniform_(-6, 6).to(getattr(torch, DTYPES[dtype]))
    return logits, torch.randint(shape[1], shape[:1] + shape[2:], device=DEVICE)


def head_of(sizes, dtype):
    """Input, weight with the features side by side, as `torch.nn.Linear` has it, and a class per row."""
    rows, features, classes = sizes
    torch.manual_seed(7)

    def uniform(shape, size):
        return torch.empty(shape, device=DEVICE).uniform_(-size, size).to(getattr(torch, DTYPES[dtype]))

    weight = uniform((classes, features), 6 / math.sqrt(features))
    return uniform((rows, features), 1), weight, torch.randint(classes, (rows,), device=DEVICE)


def warm_up(contender, turn):
    """Repeats until a try is no quicker than the one before, and says how many repetitions fit into a turn."""
    repetitions, quickest = 3, math.inf
    while True:
        seconds = [contender.seconds() for _ in range(repetitions)]
        median = statistics.median(seconds)
        is_long, is_settled = sum(seconds) >= turn / 2, median >= SETTLED * quickest
        quickest = min(quickest, median)
        if is_long and is_settled or repetitions >= MOST_REPETITIONS:
            return min(int(turn / quickest), MOST_REPETITIONS)
        if not is_long:
            repetitions *= 4


def measure(contenders, options):
    """What each contender takes, as quartiles and median; they take turns."""
    turn = options.turn / 1e3
    repetitions = [max(warm_up(contender, turn), options.repetitions) for contender in contenders]
    seconds = [[] for _ in contenders]
    for _ in range(options.rounds):
        for contender, count, times in zip(contenders, repetitions, seconds):
            contender.seconds()
            times += [contender.seconds() for _ in range(count)]
    return [spread(times) for times in seconds]


def spread(seconds):
    # A single number does not have quantiles.
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return {"lower": lower, "median": median, "upper": upper}


def right(contenders, dtype):
    """Those that agree with PyTorch, the first of them, and why others do not."""
    reference, agreeing, reasons = None, {}, []
    for side, contender in contenders.items():
        try:
            outcome = contender.outcome()
        except Exception as error:  # Out of memory, a compiler that gives up: the others are timed.
            reasons.append(f"{side} is not timed: {reason_of(error)}")
            continue
        reference = reference or outcome
        share = TOLERANCES[dtype]
        if all(abs(one - other) <= share * abs(other) for one, other in zip(outcome, reference)):
            agreeing[side] = contender
        else:
            reasons.append(f"{side} is not timed: loss and sum of |gradient| {outcome}, expected {reference}")
    return agreeing, reasons


def reason_of(error):
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def timed(phase, shape, dtype, losses, options):
    """What each side and the copy take, and what is to be said of those that are not timed."""
    logits, targets = data(shape, dtype)
    contenders = {
        side: Contender(loss, logits, targets, phase, in_place=side == LIGER) for side, loss in losses.items()
    }
    agreeing, reasons = right(contenders, dtype)
    copy, *spreads = measure([Copy(logits), *agreeing.values()], options)
    return {**dict(zip(agreeing, spreads)), COPY: copy}, reasons


def timed_projection(sizes, dtype, losses, options):
    """As `timed`, of a projection and its products."""
    head = head_of(sizes, dtype)
    contenders = {side: Projected(loss, head) for side, loss in losses.items()}
    agreeing, reasons = right(contenders, dtype)
    products, *spreads = measure([Products(head), *agreeing.values()], options)
    return {**dict(zip(agreeing, spreads)), PRODUCTS: products}, reasons


def cells_of_projection(sizes, losses, spreads):
    times = {side: spread["median"] for side, spread in spreads.items()}
    shares = [f"{100 * times[PRODUCTS] / times[side]:.0f} %" if side in times else "" for side in losses]
    cells = [duration(times[side]) if side in times else "not timed" for side in losses]
    rate = 6 * math.prod(sizes) / times[PRODUCTS]
    return [*cells, duration(times[PRODUCTS]), *shares, digits(rate / 1e12)]


def cells_of(phase, shape, dtype, losses, spreads):
    """The cells of a row behind the names."""
    times = {side: spread["median"] for side, spread in spreads.items()}
    copy = times[COPY]
    shares = {side: PASSES[phase] / times[side] * copy / COPY_PASSES for side in losses if side in times}
    bandwidth = COPY_PASSES * math.prod(shape) * getattr(torch, DTYPES[dtype]).itemsize / copy
    cells = [duration(times[side]) if side in times else "not timed" for side in losses]
    cells.append(duration(copy))
    cells += [f"{100 * shares[side]:.0f} %" if side in shares else "" for side in losses]
    return [*cells, f"{digits(bandwidth / 1e9)} GB/s"]


def line(cells):
    return f"| {' | '.join(cells)} |"


def columns_of(phase, losses):
    if phase == PROJECTION:
        shares = [f"three products / {side}" for side in losses]
        return ["rows x features x classes", "kind", *losses, PRODUCTS, *shares, "TFLOP/s of the products"]
    shares = [f"of the copy's bandwidth, {side}" for side in losses]
    return ["logits", "kind", *losses, COPY, *shares, "bandwidth of the copy"]


class Report:
    """Lines as they are printed, and the JSON file, which is written anew with each of them."""

    def __init__(self, introduction, file):
        self.file = file
        self.document = {"introduction": introduction, "rows": [], "notes": [], "complete": False}
        self.add(introduction)

    def row(self, line, figures):
        self.document["rows"].append(figures)
        self.add(line)

    def note(self, note):
        self.document["notes"].append(note)
        self.add(f"\n{note}")

    def close(self):
        self.document["complete"] = True
        self.write()

    def add(self, text):
        print(text, flush=True)
        self.write()

    def write(self):
        if not self.file:
            return
        # A reader finds the old text or the new one, never a part.
        with open(f"{self.file}.part", "w", encoding="utf-8") as part:
            json.dump(self.document, part, indent=2)
        os.replace(f"{self.file}.part", self.file)


def head(phase, columns):
    return f"\n{TITLES[phase]}:\n\n{line(columns)}\n{line(['---'] * len(columns))}"


def digits(value):
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}"


def duration(seconds):
    for factor, unit in (1e9, "ns"), (1e6, "us"), (1e3, "ms"):
        if seconds * factor < 1000:
            return f"{digits(seconds * factor)} {unit}"
    return f"{digits(seconds)} s"


def idle_sync():
    def once():
        start = time.perf_counter()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    return statistics.median(once() for _ in range(IDLE_SYNCS))


def main():
    options = arguments()
    rows = rows_of(options.only)
    if not torch.cuda.is_available():
        sys.exit(
            f"PyTorch {torch.__version__} finds no CUDA device here, and nothing is timed without one: run this on a "
            "machine with an NVIDIA GPU and its driver, with a PyTorch that has CUDA."
        )
    gc.disable()
    losses, projected, notes = {EAGER: eager}, {EAGER: eager_projected}, []
    if not options.no_compile:
        losses[COMPILED] = torch.compile(eager, dynamic=False)
        projected[COMPILED] = torch.compile(eager_projected, dynamic=False)
    loss, version = liger()
    if loss:
        losses[LIGER], projected[LIGER] = loss
        version = f"Liger {version}"
    introduction = (
        f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}. {version}"
        f"{'.' if loss else ''} Up to {MOST_QUEUED} calls are queued before the device is waited for; to wait for the "
        f"idle device takes {duration(idle_sync())}. "
        f"Medians of `{' '.join(['gpu.py', *sys.argv[1:]])}`."
    )
    report = Report(introduction, options.json)
    last_phase = None
    for phase, shape, dtype in rows:
        if COMPILED in losses:
            torch.compiler.reset()
        columns = columns_of(phase, losses)
        is_projection = phase == PROJECTION
        names = [" x ".join(map(str, shape)), dtype if is_projection else f"index, {dtype}"]
        try:
            if is_projection:
                spreads, reasons = timed_projection(shape, dtype, projected, options)
                cells = cells_of_projection(shape, projected, spreads)
            else:
                spreads, reasons = timed(phase, shape, dtype, losses, options)
                cells = cells_of(phase, shape, dtype, losses, spreads)
            figures = {"seconds": spreads}
        except RuntimeError as error:  # Out of memory, above all.
            figures, reasons = {"seconds": {}, "not_timed": reason_of(error)}, []
            cells = [f"not timed: {reason_of(error)}"]
        notes += [f"{name_of(phase, shape, dtype)}: {reason}" for reason in reasons]
        gc.collect()
        torch.cuda.empty_cache()
        if phase != last_phase:
            print(head(phase, columns))
            last_phase = phase
        cells = names + cells
        report.row(
            line(cells + [""] * (len(columns) - len(cells))),
            {"row": name_of(phase, shape, dtype), **figures},
        )
    for note in notes:
        report.note(note)
    report.close()


if __name__ == "__main__":
    try:
        import torch
    except ImportError as error:
        sys.exit(f"This Python has no PyTorch ({error}): pip install torch, with CUDA.")
    main()
