/** Remedies for a library that does not open, by the message of the dynamic linker or Node. */
import { variantName } from "../toolchain/libtorch/libtorch-folder.ts";
import { pinnedCuda, readPins } from "../toolchain/libtorch/pin.ts";
import type { Libtorch } from "../toolchain/libtorch/resolve.ts";
import type { Remedy } from "../toolchain/load-error.ts";

type Fitting = (libtorch: Libtorch) => readonly Remedy[];

const fetchAgain: Fitting = (libtorch) => {
  const asked = libtorch.variant === "cpu" ? "" : ` --variant ${variantName(libtorch) ?? pinnedCuda(readPins())}`;
  return [["fetch LibTorch again, whole", `npx memformer setup${asked} --force`]];
};

/** In this order: the first that matches is told. */
const known: readonly (readonly [RegExp, Fitting])[] = [
  [
    /ERR_DLOPEN_DISABLED|Cannot load native addon/,
    () => [["start Node so that it may load addons", "without --no-addons; with --permission, add --allow-addons"]],
  ],
  [
    /static TLS block/,
    ({ root }) => [["let LibTorch be loaded first", `LD_PRELOAD=${root}/lib/libtorch_cpu.so node …`]],
  ],
  [
    /version `(GLIBC|GLIBCXX|CXXABI)_/,
    () => [
      ["compile it against this machine's libraries", "npx memformer build"],
      ["or run it on a newer system", "a container image such as node:22-bookworm"],
    ],
  ],
  [/invalid ELF header|file too short|cannot read file data|wrong ELF class/, fetchAgain],
  [
    /lib(cu|nv|nccl)\S*: cannot open shared object/,
    (libtorch) => [
      ...fetchAgain(libtorch),
      ["or use the PyTorch of a Python install", "MEMFORMER_LIBTORCH=python"],
      ["or run on the CPU", "MEMFORMER_VARIANT=cpu"],
    ],
  ],
  [/cannot open shared object/, fetchAgain],
  [
    /Permission denied|failed to map segment/,
    () => [["let this user read it, on a file system mounted without noexec", "ls -l, mount"]],
  ],
];

/** At most four remedies for `reason`; compiling against the LibTorch at hand is always the last. */
export function remediesFor(reason: string, libtorch: Libtorch): Remedy[] {
  const fitting = known.find(([pattern]) => pattern.test(reason))?.[1](libtorch) ?? [];
  const compile: Remedy = ["compile it against this LibTorch", "npx memformer build"];
  return [...fitting, ...(fitting.some(([, line]) => line === compile[1]) ? [] : [compile])];
}
