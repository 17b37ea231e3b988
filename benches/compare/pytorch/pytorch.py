"""PyTorch's side of the comparison: answers the requests of main.rs, one JSON object per line.

The arguments are the number of threads and "eager" or "compiled", by torch.compile. The first line says which PyTorch this is. After that a request names the data, the phase and the
task: "check" answers with the loss and a summary of the gradient, "time" with seconds per
repetition. The process ends when its stdin closes.
"""

import ctypes
import functools
import gc
import json
import math
import os
import signal
import sys
import time

DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
LOGITS, TARGETS, SHARES = 0x10000001, 0x20000002, 0x30000003  # entries.rs has the same numbers
INPUT, WEIGHT = 0x40000004, 0x50000005  # projections.rs has the same numbers
ROWS, KEYS = 0x60000006, 0x70000007  # pairs.rs has the same numbers
REST_WINDOW = 0.005
REST_WINDOWS = 400


def reply(**fields):
    print(json.dumps(fields), flush=True)


def hashes(count, salt):
    """32 well-mixed bits per index. The multiplier is below 2^31: products fit int64."""
    x = torch.arange(count, dtype=torch.int64) ^ salt
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def uniform(shape, dtype):
    bits = hashes(math.prod(shape), LOGITS) >> 8
    return (bits.to(torch.float32) / 2**24 * 12 - 6).reshape(shape).to(dtype)


def class_indices(shape):
    rows = shape[:1] + shape[2:]
    return (hashes(math.prod(rows), TARGETS) % shape[1]).reshape(rows)


def shares(shape):
    bits = (hashes(math.prod(shape), SHARES) >> 8).reshape(shape) + 1
    return (bits.double() / bits.sum(1, keepdim=True).double()).float()


@functools.lru_cache(maxsize=1)
def data(shape, kind, dtype):
    logits = uniform(shape, getattr(torch, DTYPES[dtype]))
    return logits, class_indices(shape) if kind == "index" else shares(shape)


def cross_entropy(logits, targets):
    return torch.nn.functional.cross_entropy(logits, targets)


def compiled():
    """cross_entropy by torch.compile, after a first use, which needs a C++ compiler."""
    torch._dynamo.config.recompile_limit = 1000  # One for each entry; beyond the limit it is eager.
    loss = torch.compile(cross_entropy, dynamic=False)
    loss(torch.zeros(2, 3, requires_grad=True), torch.zeros(2, dtype=torch.int64)).backward()
    return loss


def forward(logits, targets):
    with torch.no_grad():
        start = time.perf_counter()
        loss = cross_entropy(logits, targets)
        seconds = time.perf_counter() - start
    return seconds, loss


def forward_backward(logits, targets):
    logits.grad = None
    start = time.perf_counter()
    loss = cross_entropy(logits, targets)
    loss.backward()
    seconds = time.perf_counter() - start
    return seconds, loss


def numbers(shape, salt):
    bits = hashes(math.prod(shape), salt) >> 8
    return (bits.to(torch.float32) / 2**24 * 2 - 1).reshape(shape)


@functools.lru_cache(maxsize=1)
def projection(rows, features, classes, weight_size):
    weight = (numbers((features, classes), WEIGHT) * weight_size).T.contiguous()
    targets = hashes(rows, TARGETS) % classes
    return numbers((rows, features), INPUT).requires_grad_(), weight.requires_grad_(), targets


def step(method, input, weight, targets):
    input.grad = weight.grad = None
    options = torch.nn.LinearCrossEntropyOptions() if method == "chunked" else None
    start = time.perf_counter()
    loss = torch.nn.functional.linear_cross_entropy(input, weight, targets, options=options)
    loss.backward()
    return time.perf_counter() - start, loss


def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def answer_projection(request):
    method = request["method"]
    given = projection(*(request[name] for name in ("rows", "features", "classes", "weight_size")))
    step(method, *given)
    if request["task"] == "time":
        seconds = [step(method, *given)[0] for _ in range(request["repetitions"])]
        rest()
        return {"seconds": seconds}
    input, weight, _ = given
    input.grad = weight.grad = None
    try:
        ctypes.CDLL(None).malloc_trim(0)  # Freed memory that is kept would hide new allocations.
        with open("/proc/self/clear_refs", "w") as references:
            references.write("5")
        before = resident("VmRSS:")
        loss = step(method, *given)[1].item()
        memory = max(0, resident("VmHWM:") - before - 4 * (input.numel() + weight.numel()))
    except (OSError, AttributeError):
        loss, memory = step(method, *given)[1].item(), None
    gradient = torch.cat([input.grad.flatten(), weight.grad.T.flatten()])
    return {**summary(loss, gradient, request["probes"]), "memory": memory}


@functools.lru_cache(maxsize=1)
def views(rows, features):
    return [numbers((rows, features), salt).requires_grad_() for salt in (ROWS, KEYS)]


def sigmoid_pairs(a, b):
    """The sigmoid loss of all pairs as its paper writes it, with scale and bias as they begin."""
    a.grad = b.grad = None
    scale = torch.tensor(10.0).log().requires_grad_()
    bias = torch.tensor(-10.0, requires_grad=True)
    start = time.perf_counter()
    first, second = (torch.nn.functional.normalize(view, dim=1) for view in (a, b))
    logits = first @ second.T * scale.exp() + bias
    labels = 2 * torch.eye(len(a)) - 1
    loss = -torch.nn.functional.logsigmoid(labels * logits).sum() / len(a)
    loss.backward()
    return time.perf_counter() - start, loss


def answer_pairs(request):
    given = views(request["pairs_of"], request["features"])
    if request["task"] == "time":
        sigmoid_pairs(*given)
        seconds = [sigmoid_pairs(*given)[0] for _ in range(request["repetitions"])]
        rest()
        return {"seconds": seconds}
    loss = sigmoid_pairs(*given)[1].item()
    gradient = torch.cat([view.grad.flatten() for view in given])
    return summary(loss, gradient, request["probes"])


def summary(loss, gradient, probes):
    gradient_sum = gradient.abs().sum(dtype=torch.float64).item()
    probes = gradient[torch.tensor(probes, dtype=torch.int64)].tolist()
    # Numbers are sent as text, because JSON has no infinity.
    return {"loss": str(loss), "gradient_sum": str(gradient_sum), "probes": list(map(str, probes))}


def rest():
    """Waits until the OpenMP threads, which spin for a while after their work, sleep."""
    for _ in range(REST_WINDOWS):
        before = time.process_time()
        time.sleep(REST_WINDOW)
        if time.process_time() - before < 0.2 * REST_WINDOW:
            return
    sys.exit("PyTorch's threads do not come to rest after a turn; unset GOMP_SPINCOUNT and KMP_BLOCKTIME.")


def answer(request):
    if "method" in request:
        return answer_projection(request)
    if "pairs_of" in request:
        return answer_pairs(request)
    logits, targets = data(tuple(request["shape"]), request["kind"], request["dtype"])
    backward = request["phase"] == "forward-backward"
    logits = logits.detach().requires_grad_(backward)
    repetition = forward_backward if backward else forward
    if request["task"] == "time":
        repetition(logits, targets)
        seconds = [repetition(logits, targets)[0] for _ in range(request["repetitions"])]
        rest()
        return {"seconds": seconds}
    loss = repetition(logits, targets)[1].item()
    gradient = logits.grad.flatten() if backward else torch.empty(0)
    return summary(loss, gradient, request["probes"])


def main():
    torch.set_num_threads(int(sys.argv[1]))
    if sys.argv[2] == "compiled":
        global cross_entropy
        try:
            cross_entropy = compiled()
        except Exception as error:
            reply(missing=f"torch.compile failed: {error}")
            sys.exit(1)
    gc.disable()
    reply(torch=torch.__version__, threads=torch.get_num_threads())
    for line in sys.stdin:
        reply(**answer(json.loads(line)))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import torch
    except ImportError as error:
        reply(missing=str(error))
        sys.exit(1)
    try:
        main()
    except BrokenPipeError:
        os._exit(1)
