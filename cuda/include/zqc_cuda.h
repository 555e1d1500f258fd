/*
 * The launcher of zqc's CUDA packages, for C: linear layers with 4-bit floating-point weights and FP8 activations on
 * H100 and H200. Link with -lzqc_cuda. The driver and NVRTC are loaded at run time; no CUDA toolkit is needed.
 *
 *     zqc_package *package;
 *     zqc_model *model;
 *     size_t layer;
 *     if (zqc_package_open("model.zqcuda", &package) || zqc_model_load(package, 0, ZQC_FAST, &model) ||
 *         zqc_package_find(package, "model.layers.0.mlp.down_proj", &layer)) {
 *         fprintf(stderr, "%s\n", zqc_last_error());
 *     }
 *     zqc_input input = {.x = x, .type = ZQC_BF16};
 *     zqc_output output = {.y = y, .type = ZQC_BF16};
 *     zqc_linear_forward(model, layer, &input, tokens, &output, stream);
 *
 * A model lives in the primary context of its device, which the CUDA runtime and PyTorch share, so their pointers and
 * streams can be handed in; the context that was current before a call is current after it. The functions may be called
 * from several threads; a scratch from one at a time. No function aborts, throws or prints.
 *
 * A package is data; the kernels are in this library. Only NVRTC's output is run, from a cache that nobody but the user
 * of the process may write to: the folder zqc, of mode 700, in the one that the environment variable ZQC_CACHE names or
 * else in the user's cache folder; ZQC_CACHE= turns it off.
 *
 * The functions that take a stream put kernels on it and return. They can be captured in a CUDA graph: call
 * zqc_model_prepare before, with the most tokens that will be captured. Such a graph must not be replayed after its
 * model, or the scratch or memory that was handed in, is gone.
 *
 * The addresses of x, second and y must be multiples of the size of their elements, 2 or 4 bytes; others are refused.
 * Where address and stride (in bytes) are multiples of 16, 16 bytes are read and written at a time.
 */
#ifndef ZQC_CUDA_H
#define ZQC_CUDA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header. Before 1.0.0 another minor version is another interface. */
#define ZQC_CUDA_VERSION_MAJOR 0
#define ZQC_CUDA_VERSION_MINOR 1
#define ZQC_CUDA_VERSION_PATCH 0
#define ZQC_CUDA_VERSION                                                                                         \
    (1000000 * ZQC_CUDA_VERSION_MAJOR + 1000 * ZQC_CUDA_VERSION_MINOR + ZQC_CUDA_VERSION_PATCH)

/* The version of the library that is loaded, as ZQC_CUDA_VERSION has it. */
uint32_t zqc_cuda_version(void);

/* What a function returns: 0, or why it did nothing. */
typedef uint32_t zqc_status;
enum {
    ZQC_OK = 0,
    /* An argument is out of range: a null pointer, an unknown layer, more tokens than the scratch holds. */
    ZQC_INVALID_ARGUMENT = 1,
    /* The package cannot be read: it is missing, damaged, or of another version. */
    ZQC_BAD_PACKAGE = 2,
    /* This machine has no CUDA driver, no NVRTC, or no device of compute capability 9.0. */
    ZQC_UNAVAILABLE = 3,
    /* The driver refused: out of memory, say, or an earlier kernel of the process has failed. */
    ZQC_DRIVER_ERROR = 4,
    /* A kernel did not compile. */
    ZQC_COMPILE_ERROR = 5,
    /* A fault of the library. */
    ZQC_INTERNAL_ERROR = 6
};

/* The element type of an input or an output. */
typedef uint32_t zqc_type;
enum { ZQC_BF16 = 0, ZQC_F16 = 1, ZQC_F32 = 2 };

/* What is computed from an input before it is quantized. */
typedef uint32_t zqc_prologue;
enum {
    ZQC_PLAIN = 0,
    /* x / sqrt(mean(x * x) + epsilon) * second, where second is [k]. */
    ZQC_RMS_NORM = 1,
    /* silu(x) * second, where second is [tokens][k]. */
    ZQC_SILU_MUL = 2
};

/* How the kernels add products of E4M3 up. */
typedef uint32_t zqc_accumulation;
enum {
    /* As the tensor cores do, which keep 14 bits of a sum: what cuBLASLt calls fast accumulation. */
    ZQC_FAST = 0,
    /* In single precision every 1024 columns. Prefill takes 5 to 25 % longer, decode up to 10 %. */
    ZQC_ACCURATE = 1
};

/* A linear kernel. */
typedef uint32_t zqc_kernel;
enum { ZQC_DECODE = 0, ZQC_PREFILL = 1 };

/* An opened package, a model on a device, and room for a quantized input. */
typedef struct zqc_package zqc_package;
typedef struct zqc_model zqc_model;
typedef struct zqc_scratch zqc_scratch;

/* A linear layer: y = x W^T + bias, where W is [n][k]. */
typedef struct zqc_layer {
    /* The layer's path in the source model; lives as long as the package. */
    const char *name;
    size_t n;
    size_t k;
    /* Layers of the same activation read the same value: it need be quantized only once for all of them. */
    size_t activation;
    /* Bytes of a token of the quantized input: see zqc_quantize_into. */
    size_t token_bytes;
    /* Whether the package holds a bias, which the kernels add: 0 or 1. */
    int has_bias;
} zqc_layer;

/* Rows in device memory, of k elements next to each other; they are there until the stream has run the kernels. */
typedef struct zqc_input {
    const void *x;
    /* The weight of the norm or the factor of the activated gate; null for ZQC_PLAIN. Of the same type. */
    const void *second;
    /* Elements from one row to the next; 0 when there is nothing between them. */
    size_t x_stride;
    size_t second_stride;
    zqc_type type;
    zqc_prologue prologue;
    float epsilon;
} zqc_input;

/* Rows in device memory, of n elements next to each other; they are there until the stream has run the kernels. */
typedef struct zqc_output {
    void *y;
    /* Elements from one row to the next; 0 when there is nothing between them. */
    size_t stride;
    zqc_type type;
} zqc_output;

/* A linear kernel with its tile. */
typedef struct zqc_variant {
    zqc_kernel kernel;
    /* Tokens of a tile: 8, 16, 32, 64, 96 or 128 in decode, which has one tile where it is of up to 32, and 64 to 256 in
     * steps of 32 in prefill. */
    uint32_t tokens;
    /* Blocks of a cluster: 1 to 8 in decode, 1, 2 or 4 in prefill. */
    uint32_t cluster;
    /* Blocks of a multiprocessor, which share its memory: in decode 2 or 3 for tiles of up to 16 tokens, 1 to 3 for 32, 1 or
     * 2 for 64; else 1. */
    uint32_t blocks_per_sm;
} zqc_variant;

/* Why the last function that failed on this thread did so, in one line; empty before any has. Valid until the next
 * failure on this thread. */
const char *zqc_last_error(void);

/* Opens the package in a folder and checks it. */
zqc_status zqc_package_open(const char *folder, zqc_package **package);
/* Closes a package; null is ignored. Its models live on. */
void zqc_package_close(zqc_package *package);
/* The number of layers; layers are known by their place, from 0. */
size_t zqc_package_layer_count(const zqc_package *package);
/* What the package says of a layer. */
zqc_status zqc_package_layer(const zqc_package *package, size_t layer, zqc_layer *info);
/* The place of the layer of this name. */
zqc_status zqc_package_find(const zqc_package *package, const char *name, size_t *layer);

/* Copies a package's weights to a device. */
zqc_status zqc_model_load(const zqc_package *package, int device, zqc_accumulation accumulation, zqc_model **model);
/* Frees a model, when the device has done what it was given before; null is ignored. */
void zqc_model_destroy(zqc_model *model);
/* Compiles and loads every kernel that calls of up to so many tokens need: for inputs of a type, with the prologues whose
 * bits (1 << ZQC_PLAIN, ...) are set, and outputs of a type. No such call compiles anything then. Takes seconds the first
 * time on a machine. */
zqc_status zqc_model_prepare(const zqc_model *model, size_t tokens, zqc_type input, uint32_t prologues,
                             zqc_type output);

/* Room for a quantized input of up to so many tokens, of any layer of the model. One stream should use it at a time. */
zqc_status zqc_scratch_create(const zqc_model *model, size_t tokens, zqc_scratch **scratch);
/* Frees a scratch, when the device has done what it was given before; null is ignored. */
void zqc_scratch_destroy(zqc_scratch *scratch);

/* Quantizes rows into the scratch, for all layers that have the same activation as this one. */
zqc_status zqc_quantize(const zqc_model *model, size_t layer, const zqc_input *input, size_t tokens,
                        zqc_scratch *scratch, void *stream);
/* Applies a layer to the rows that the scratch holds. */
zqc_status zqc_linear_apply(const zqc_model *model, size_t layer, const zqc_scratch *scratch,
                            const zqc_output *output, void *stream);
/* The same with a kernel of one's own choice: to measure which is best. */
zqc_status zqc_linear_apply_variant(const zqc_model *model, size_t layer, const zqc_variant *variant,
                                    const zqc_scratch *scratch, const zqc_output *output, void *stream);

/* zqc_quantize into device memory of the caller's instead of a scratch: from an allocator whose blocks a captured graph
 * keeps, say. The memory is at a multiple of 256 bytes and has the layer's token_bytes for each token, their number rounded
 * up to a multiple of 8. The library keeps no note of it. */
zqc_status zqc_quantize_into(const zqc_model *model, size_t layer, const zqc_input *input, size_t tokens,
                             void *quantized, void *stream);
/* Applies a layer to what zqc_quantize_into has put into the memory for as many tokens, and for a layer that has the same
 * activation as this one; nothing else can be checked. */
zqc_status zqc_linear_apply_from(const zqc_model *model, size_t layer, const void *quantized, size_t tokens,
                                 const zqc_output *output, void *stream);

/* Quantizes rows and applies a layer, with a scratch that the model keeps for the stream. Calls on different streams do
 * not wait for each other. It compiles kernels that are not there yet, and allocates when a stream first needs a scratch,
 * or a larger one; it may do both while the stream is captured. Graphs captured on one stream share its scratch: they must
 * not run side by side, nor beside calls on that stream. */
zqc_status zqc_linear_forward(const zqc_model *model, size_t layer, const zqc_input *input, size_t tokens,
                              const zqc_output *output, void *stream);

#ifdef __cplusplus
}
#endif

#endif
