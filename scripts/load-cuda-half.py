"""Loads the CUDA half as the addon does, every symbol at once, and asks it for a device:  load-cuda-half.py LIBTORCH_LIB HALF

Where there is no driver it has to say so in words; that is what the last line shows.
"""

import ctypes
import os
import sys

folder, half = sys.argv[1:]
for name in ("libc10.so", "libtorch_cpu.so", "libc10_cuda.so", "libtorch_cuda.so", "libtorch.so"):
    ctypes.CDLL(os.path.join(folder, name), mode=ctypes.RTLD_GLOBAL)
library = ctypes.CDLL(os.path.abspath(half), mode=os.RTLD_NOW)
library.memformer_cuda_libtorch.restype = ctypes.c_char_p
library.memformer_cuda_open.restype = ctypes.c_void_p
code, reason = ctypes.c_char_p(), ctypes.c_char_p()
opened = library.memformer_cuda_open(ctypes.byref(code), ctypes.byref(reason))
version = library.memformer_cuda_libtorch().decode()
print(f"loaded {os.path.basename(half)}: interface {library.memformer_cuda_interface()}, LibTorch {version}")
if opened:
    print("it found a device")
elif not code.value or not reason.value:
    sys.exit("it found no device and does not say why")
else:
    print(f"without a device it says: {code.value.decode()}: {reason.value.decode()}")
