/** Several processes, on one host or many, that train one model. */
import { resolveDevice, type Device, type DeviceName } from "../native/cuda.ts";
import { Group } from "./group.ts";
import { membershipOf, type JoinOptions } from "./membership.ts";

export type { Group } from "./group.ts";
export type { JoinOptions } from "./membership.ts";

/**
 * Joins the ranks that train together: give the group to a {@link Trainer}, and leave with `await using` or `leave()`.
 * Options left out come from torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), else
 * Slurm's. Rejects with MemformerError CONFIG for what is missing or out of range, DISTRIBUTED where the ranks do not
 * meet: it names who is missing, and `details` holds `rank`, `peer`, `step` and `collective`; NO_CUDA for a GPU that is
 * not there.
 */
export async function join(options: JoinOptions = {}): Promise<Group> {
  const membership = membershipOf(options);
  return Group.open({ ...membership, device: deviceOfRank(membership) });
}

/** Each rank takes the GPU of its number on the host, unless one is named. */
function deviceOfRank({ device, localRank }: { readonly device: DeviceName; readonly localRank: number }): Device {
  const isFree = device === "auto" || device === "cuda";
  return resolveDevice(isFree && resolveDevice(device) !== "cpu" ? `cuda:${localRank}` : device);
}
