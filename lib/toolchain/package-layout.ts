/** Names of what a build leaves. */

/** The CUDA half, beside `memformer.node`. */
export const cudaHalf = "libmemformer_cuda.so";
