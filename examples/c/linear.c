/*
 * Applies the first layer of a package to ones, from C.
 *
 *     cc -o linear examples/c/linear.c -I cuda/include -L target/release -lzqc_cuda -ldl
 *     LD_LIBRARY_PATH=target/release ./linear model.zqcuda
 *
 * A server brings device memory and a stream of its own; to have some without a CUDA toolkit, this program takes a few
 * functions of the driver by name. Without a Hopper GPU it says so and exits with 3.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "zqc_cuda.h"

enum { TOKENS = 4, NOT_AVAILABLE = 3 };

static void check(zqc_status status) {
    if (status != ZQC_OK) {
        fprintf(stderr, "linear: %s\n", zqc_last_error());
        exit(status == ZQC_UNAVAILABLE ? NOT_AVAILABLE : EXIT_FAILURE);
    }
}

static void check_driver(int result, const char *what) {
    if (result != 0) {
        fprintf(stderr, "linear: %s: CUDA error %d\n", what, result);
        exit(EXIT_FAILURE);
    }
}

typedef uint64_t device_pointer;

static struct {
    int (*device_get)(int *device, int ordinal);
    int (*context_retain)(void **context, int device);
    int (*context_set)(void *context);
    int (*allocate)(device_pointer *pointer, size_t bytes);
    int (*release)(device_pointer pointer);
    int (*to_device)(device_pointer to, const void *from, size_t bytes);
    int (*to_host)(void *to, device_pointer from, size_t bytes);
} driver;

static void load_driver(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (library == NULL) {
        fprintf(stderr, "linear: %s\n", dlerror());
        exit(NOT_AVAILABLE);
    }
    *(void **)&driver.device_get = dlsym(library, "cuDeviceGet");
    *(void **)&driver.context_retain = dlsym(library, "cuDevicePrimaryCtxRetain");
    *(void **)&driver.context_set = dlsym(library, "cuCtxSetCurrent");
    *(void **)&driver.allocate = dlsym(library, "cuMemAlloc_v2");
    *(void **)&driver.release = dlsym(library, "cuMemFree_v2");
    *(void **)&driver.to_device = dlsym(library, "cuMemcpyHtoD_v2");
    *(void **)&driver.to_host = dlsym(library, "cuMemcpyDtoH_v2");
    if (!driver.device_get || !driver.context_retain || !driver.context_set || !driver.allocate ||
        !driver.release || !driver.to_device || !driver.to_host) {
        fprintf(stderr, "linear: the CUDA driver lacks a function\n");
        exit(EXIT_FAILURE);
    }
}

static void use_primary_context(void) {
    int device;
    void *context;
    check_driver(driver.device_get(&device, 0), "cuDeviceGet");
    check_driver(driver.context_retain(&context, device), "cuDevicePrimaryCtxRetain");
    check_driver(driver.context_set(context), "cuCtxSetCurrent");
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: linear PACKAGE\n");
        return 2;
    }
    zqc_package *package;
    check(zqc_package_open(argv[1], &package));
    zqc_layer layer;
    check(zqc_package_layer(package, 0, &layer));

    zqc_model *model;
    check(zqc_model_load(package, 0, ZQC_FAST, &model));
    zqc_scratch *scratch;
    check(zqc_scratch_create(model, TOKENS, &scratch));
    load_driver();
    use_primary_context();

    const size_t x_bytes = TOKENS * layer.k * sizeof(float);
    const size_t y_bytes = TOKENS * layer.n * sizeof(float);
    float *x = malloc(x_bytes);
    float *y = malloc(y_bytes);
    if (x == NULL || y == NULL) {
        fprintf(stderr, "linear: out of memory\n");
        return EXIT_FAILURE;
    }
    for (size_t i = 0; i < TOKENS * layer.k; i++) {
        x[i] = 1;
    }
    device_pointer device_x;
    device_pointer device_y;
    check_driver(driver.allocate(&device_x, x_bytes), "cuMemAlloc");
    check_driver(driver.allocate(&device_y, y_bytes), "cuMemAlloc");
    check_driver(driver.to_device(device_x, x, x_bytes), "cuMemcpyHtoD");

    /* On the default stream, which the copies are ordered by. */
    const zqc_input input = {.x = (const void *)(uintptr_t)device_x, .type = ZQC_F32};
    const zqc_output output = {.y = (void *)(uintptr_t)device_y, .type = ZQC_F32};
    check(zqc_quantize(model, 0, &input, TOKENS, scratch, NULL));
    check(zqc_linear_apply(model, 0, scratch, &output, NULL));

    check_driver(driver.to_host(y, device_y, y_bytes), "cuMemcpyDtoH");
    printf("%s, %zu x %zu: y[0] = %g, y[%zu] = %g\n", layer.name, layer.n, layer.k, (double)y[0],
           layer.n - 1, (double)y[layer.n - 1]);

    driver.release(device_x);
    driver.release(device_y);
    free(x);
    free(y);
    zqc_scratch_destroy(scratch);
    zqc_model_destroy(model);
    zqc_package_close(package);
    return EXIT_SUCCESS;
}
