/* A CUDA driver that computes nothing. A program with Burn's CUDA backend runs with it on a machine
 * without a GPU and has all its kernels compiled. scripts/kernel-table builds it as libcuda.so and
 * puts it in the place of NVIDIA's.
 *
 * It says that it is an H100, or with KERNELS_DEVICE=a100 an A100. A launch does nothing, so results
 * are whatever was in memory before. Where KERNELS_FOLDER is set, it keeps there
 *
 *   0000.ptx, 0001.ptx ...   the PTX of every module that it is given
 *   launches                 a line for every launch: module, kernel, cubes, units of a cube, bytes of
 *                            shared memory that the launch asks for
 *
 * It has the functions that CubeCL calls and no others: a program that needs another ends with that
 * function's name. Types are those of the ABI: handles are pointers, enums are ints. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef int Status;
typedef int Device;
typedef void *Handle;
typedef uint64_t Address;

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2 };

/* ---- The device ---- */

/* From NVIDIA's table of compute capabilities and the cards' data sheets. */
struct card {
    const char *name;
    int compute_capability; /* Its first number; the second is 0. */
    int multiprocessors;
    int shared_bytes_of_block;
};
static const struct card h100 = {"H100 that computes nothing", 9, 132, 227 << 10};
static const struct card a100 = {"A100 that computes nothing", 8, 108, 163 << 10};

static const struct card *card(void) {
    const char *wanted = getenv("KERNELS_DEVICE");
    return wanted && strcmp(wanted, "a100") == 0 ? &a100 : &h100;
}

Status cuInit(unsigned flags) { return SUCCESS; }

/* The PTX is of the version that came with this driver, CUDA 13.0. */
Status cuDriverGetVersion(int *version) {
    *version = 13000;
    return SUCCESS;
}

Status cuDeviceGetCount(int *count) {
    *count = 1;
    return SUCCESS;
}

Status cuDeviceGet(Device *device, int ordinal) {
    *device = 0;
    return SUCCESS;
}

Status cuDeviceGetName(char *name, int size, Device device) {
    snprintf(name, size, "%s", card()->name);
    return SUCCESS;
}

Status cuDeviceGetPCIBusId(char *id, int size, Device device) {
    snprintf(id, size, "0000:00:00.0");
    return SUCCESS;
}

Status cuDeviceTotalMem_v2(size_t *bytes, Device device) {
    *bytes = (size_t)80 << 30;
    return SUCCESS;
}

/* By the numbers of CUdevice_attribute. */
Status cuDeviceGetAttribute(int *value, int attribute, Device device) {
    switch (attribute) {
    case 1: case 2: case 3: *value = 1024; break;       /* units of a cube: in all, x, y */
    case 4: *value = 64; break;                         /* z */
    case 5: *value = 2147483647; break;                 /* cubes: x */
    case 6: case 7: *value = 65535; break;              /* y, z */
    case 10: *value = 32; break;                        /* units of a plane */
    case 16: *value = card()->multiprocessors; break;
    case 75: *value = card()->compute_capability; break;
    case 76: *value = 0; break;                         /* its second number */
    case 97: *value = card()->shared_bytes_of_block; break;
    default: *value = 0;                                /* no other is asked for, or it is not there */
    }
    return SUCCESS;
}

/* ---- Contexts, streams and events, of which handles are all there is ---- */

static Handle next_handle(void) {
    static atomic_uintptr_t last = 1;
    return (Handle)atomic_fetch_add(&last, 1);
}

Status cuDevicePrimaryCtxRetain(Handle *context, Device device) {
    *context = next_handle();
    return SUCCESS;
}

Status cuCtxSetCurrent(Handle context) { return SUCCESS; }

Status cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return SUCCESS;
}

Status cuStreamCreate(Handle *stream, unsigned flags) {
    *stream = next_handle();
    return SUCCESS;
}

Status cuStreamCreateWithPriority(Handle *stream, unsigned flags, int priority) {
    return cuStreamCreate(stream, flags);
}

Status cuStreamSynchronize(Handle stream) { return SUCCESS; }

Status cuStreamWaitEvent(Handle stream, Handle event, unsigned flags) { return SUCCESS; }

Status cuEventCreate(Handle *event, unsigned flags) {
    *event = next_handle();
    return SUCCESS;
}

Status cuEventRecord(Handle event, Handle stream) { return SUCCESS; }

Status cuEventQuery(Handle event) { return SUCCESS; }

Status cuEventSynchronize(Handle event) { return SUCCESS; }

Status cuEventDestroy_v2(Handle event) { return SUCCESS; }

/* The same for every kernel, so that what is chosen by time is always the same; and long, because
 * whoever measures a device's throughput launches more and more until that takes a while. */
Status cuEventElapsedTime_v2(float *milliseconds, Handle start, Handle end) {
    *milliseconds = 100.0f;
    return SUCCESS;
}

Status cuEventElapsedTime(float *milliseconds, Handle start, Handle end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}

/* ---- Memory, of which the host has only the pages that it copies to or from ---- */

/* Before each block, for its release; a page, so that blocks begin at multiples of it. */
enum { HEADER = 4096 };

static void *allocated(size_t bytes) {
    size_t length = bytes + HEADER;
    char *start = mmap(NULL, length, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    *(size_t *)start = length;
    return start + HEADER;
}

static Status release(void *block) {
    char *start = (char *)block - HEADER;
    munmap(start, *(size_t *)start);
    return SUCCESS;
}

Status cuMemAlloc_v2(Address *block, size_t bytes) {
    *block = (Address)allocated(bytes);
    return *block ? SUCCESS : OUT_OF_MEMORY;
}

Status cuMemAllocAsync(Address *block, size_t bytes, Handle stream) {
    return cuMemAlloc_v2(block, bytes);
}

Status cuMemFree_v2(Address block) { return release((void *)block); }

Status cuMemFreeAsync(Address block, Handle stream) { return release((void *)block); }

Status cuMemAllocHost_v2(void **block, size_t bytes) {
    *block = allocated(bytes);
    return *block ? SUCCESS : OUT_OF_MEMORY;
}

Status cuMemFreeHost(void *block) { return release(block); }

Status cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, Handle stream) {
    memcpy((void *)to, from, bytes);
    return SUCCESS;
}

Status cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, Handle stream) {
    memcpy(to, (const void *)from, bytes);
    return SUCCESS;
}

/* A side of a copy of rows, as in CUDA_MEMCPY2D; of arrays there are none. */
struct side {
    size_t first_byte, first_row;
    int kind; /* 1: the host's memory */
    char *host;
    Address device;
    Handle array;
    size_t row_bytes;
};

struct rows {
    struct side from, to;
    size_t bytes, count;
};

static char *row_of(const struct side *side, size_t row) {
    char *start = side->kind == 1 ? side->host : (char *)side->device;
    return start + (side->first_row + row) * side->row_bytes + side->first_byte;
}

Status cuMemcpy2DAsync_v2(const struct rows *rows, Handle stream) {
    for (size_t row = 0; row < rows->count; row++)
        memcpy(row_of(&rows->to, row), row_of(&rows->from, row), rows->bytes);
    return SUCCESS;
}

/* A copy on the device is a result like any other. */
Status cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Handle stream) {
    return SUCCESS;
}

/* ---- Kernels ---- */

struct function {
    int module;
    char name[];
};

Status cuModuleLoadData(Handle *module, const void *image) {
    static atomic_int modules;
    intptr_t number = atomic_fetch_add(&modules, 1);
    const char *folder = getenv("KERNELS_FOLDER");
    if (folder) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%04d.ptx", folder, (int)number);
        FILE *file = fopen(path, "w");
        if (!file || fputs(image, file) < 0 || fclose(file) != 0) {
            fprintf(stderr, "the driver cannot write %s\n", path);
            return INVALID_VALUE;
        }
    }
    *module = (Handle)number;
    return SUCCESS;
}

Status cuModuleGetFunction(Handle *handle, Handle module, const char *name) {
    struct function *function = malloc(sizeof *function + strlen(name) + 1);
    if (!function)
        return OUT_OF_MEMORY;
    function->module = (int)(intptr_t)module;
    strcpy(function->name, name);
    *handle = function;
    return SUCCESS;
}

Status cuFuncSetAttribute(Handle function, int attribute, int value) { return SUCCESS; }

Status cuLaunchKernel(Handle handle, unsigned cubes_x, unsigned cubes_y, unsigned cubes_z,
                      unsigned units_x, unsigned units_y, unsigned units_z, unsigned shared_bytes,
                      Handle stream, void **arguments, void **extra) {
    const char *folder = getenv("KERNELS_FOLDER");
    if (!folder)
        return SUCCESS;
    char path[4096];
    snprintf(path, sizeof path, "%s/launches", folder);
    FILE *file = fopen(path, "a");
    if (!file) {
        fprintf(stderr, "the driver cannot write %s\n", path);
        return INVALID_VALUE;
    }
    const struct function *function = handle;
    unsigned long long cubes = (unsigned long long)cubes_x * cubes_y * cubes_z;
    fprintf(file, "%d %s %llu %u %u\n", function->module, function->name, cubes,
            units_x * units_y * units_z, shared_bytes);
    return fclose(file) == 0 ? SUCCESS : INVALID_VALUE;
}

/* ---- What a failure is called ---- */

Status cuGetErrorName(Status status, const char **name) {
    *name = status == OUT_OF_MEMORY ? "OUT_OF_MEMORY" : "INVALID_VALUE";
    return SUCCESS;
}

Status cuGetErrorString(Status status, const char **text) {
    return cuGetErrorName(status, text);
}
