"""What this machine has, what of the kit it needs, and how the programs are called on it."""

import ctypes
import glob
import json
import os
import platform
import shutil
import subprocess
import sys

# Folders of drivers that the loader does not always know.
DRIVER_FOLDERS = ["/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib/x86_64-linux-gnu/nvidia/current"]
# Folders in which Vulkan's loader itself looks for drivers, and others in which NVIDIA's manifest was seen.
MANIFESTS = ["/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"]
OTHER_MANIFESTS = ["/usr/local/nvidia/share/vulkan/icd.d", "/usr/local/nvidia/vulkan/icd.d", "/opt/nvidia/vulkan/icd.d"]
# NVIDIA's tool that watches a program on a GPU.
SANITIZER = "compute-sanitizer"
NVIDIA_VULKAN = "libGLX_nvidia.so.0"


class Machine:
    def __init__(self, kit, content, scratch):
        self.content, self.scratch = content, scratch
        with open(os.path.join(kit, "kit.json"), encoding="utf-8") as file:
            self.description = json.load(file)
        self._check_glibc()
        # The reason why a runtime's steps are left out.
        self.missing = {}
        self.environment = self._environment()

    def facts(self):
        query = "--query-gpu=name,memory.total,driver_version,clocks.max.sm,clocks.max.memory,power.limit"
        return {
            "gpu": printed(["nvidia-smi", query, "--format=csv,noheader"]) or "nvidia-smi names none",
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}, {platform.libc_ver()[0]} {platform.libc_ver()[1]}",
            "python": platform.python_version(),
            "kit": self.description,
        }

    def _check_glibc(self):
        needed, found = self.description["glibc"], platform.libc_ver()[1]
        if numbers(found) < numbers(needed):
            sys.exit(
                f"The programs need glibc {needed} or newer, and this machine has {found or 'none'}: make the kit on a "
                "system that is as old."
            )

    def why_not(self, step):
        """A sentence if the step cannot be run here."""
        if step.needs in self.missing:
            return self.missing[step.needs]
        if step.command[0] == SANITIZER and not shutil.which(SANITIZER):
            return f"{SANITIZER} is not on the PATH; it is part of the CUDA toolkit."
        if step.command[0] == "PYTHON" and not self._python(step):
            asked = step.python or "python3 or python"
            return f"No Python here has torch: {asked} does not find it. --python PYTHON names another one."
        return None

    def command(self, step):
        places = {"gpu.py": os.path.join(self.content, "gpu.py")}
        if step.command[0] == "PYTHON":
            places["PYTHON"] = self._python(step)
        else:
            places[step.command[0]] = self.program(step.command[0])
        return [places.get(word, word) for word in step.command]

    def program(self, name):
        return os.path.join(self.content, name)

    def environment_of(self, step):
        if step.command[0] != "PYTHON":
            return self.environment
        # PyTorch has libraries of its own.
        return {**os.environ, "PYTHONPATH": joined(os.path.join(self.content, "python"), os.environ.get("PYTHONPATH"))}

    def _environment(self):
        folders = [self._libraries(), *driver_folders(), os.environ.get("LD_LIBRARY_PATH")]
        environment = {
            **os.environ,
            "CUDA_PATH": os.path.join(self.content, "cuda"),
            "LD_LIBRARY_PATH": joined(*folders),
            # CubeCL keeps what it learns about a device here, and only for this run.
            "XDG_CACHE_HOME": os.path.join(self.scratch, "cache"),
        }
        manifest = self._manifest()
        if manifest:
            # Newer loaders read the first name, older ones the second.
            environment.update(VK_DRIVER_FILES=manifest, VK_ICD_FILENAMES=manifest)
        return environment

    def _libraries(self):
        """A folder with those of the kit's libraries that this machine lacks."""
        folder = os.path.join(self.scratch, "lib")
        os.makedirs(folder)
        for library in sorted(os.listdir(os.path.join(self.content, "lib"))):
            if not loads(library):
                os.symlink(os.path.join(self.content, "lib", library), os.path.join(folder, library))
        return folder

    def _manifest(self):
        """A file that names NVIDIA's Vulkan driver, where the loader would not find it by itself."""
        if "VK_DRIVER_FILES" in os.environ or "VK_ICD_FILENAMES" in os.environ or nvidia_manifests(MANIFESTS):
            return None
        others = nvidia_manifests(OTHER_MANIFESTS)
        if others:
            return others[0]
        if not loads(NVIDIA_VULKAN):
            return None
        file = os.path.join(self.scratch, "nvidia_icd.json")
        driver = {"library_path": NVIDIA_VULKAN, "api_version": "1.3.0"}
        with open(file, "w", encoding="utf-8") as manifest:
            json.dump({"file_format_version": "1.0.0", "ICD": driver}, manifest)
        return file

    def _python(self, step):
        """The Python that has torch."""
        for name in [step.python] if step.python else ["python3", "python"]:
            path = shutil.which(name)
            has_torch = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
            if path and printed([path, "-c", has_torch]) is not None:
                return path
        return None


def driver_folders():
    """Those that have drivers of CUDA or Vulkan that the loader does not know."""
    missing = [f"{name}*" for name in ("libcuda.so", NVIDIA_VULKAN) if not (loads(name) or loads(f"{name}.1"))]
    return [folder for folder in DRIVER_FOLDERS if any(glob.glob(os.path.join(folder, name)) for name in missing)]


def nvidia_manifests(folders):
    return [file for folder in folders for file in sorted(glob.glob(os.path.join(folder, "*nvidia*.json")))]


def loads(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def numbers(version):
    return [int(number) for number in version.split(".") if number.isdigit()]


def joined(*paths):
    return os.pathsep.join(path for path in paths if path)


def printed(command, environment=None):
    """What a command prints, or None if it fails."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        done = subprocess.run(command, env=environment, timeout=30, check=True, **pipes)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip()


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(": ", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
