/** Two hosts on this machine: network namespaces, and a link between them. */
import { spawnSync } from "node:child_process";

/** Each host's address on the link. */
const addresses = ["10.203.0.1", "10.203.0.2"] as const;

export class Hosts implements Disposable {
  readonly addresses = addresses;
  readonly #names = addresses.map((_, host) => `memformer-${process.pid}-${host}`);
  readonly #links = addresses.map((_, host) => `mf${process.pid}-${host}`);

  /** Undefined where they cannot be made: without iproute2, or without the right to make namespaces. */
  static make(): Hosts | undefined {
    const hosts = new Hosts();
    const made =
      hosts.#names.every((name) => ip("netns", "add", name)) &&
      ip(
        "link",
        "add",
        hosts.#links[0]!,
        "netns",
        hosts.#names[0]!,
        "type",
        "veth",
        "peer",
        "name",
        hosts.#links[1]!,
        "netns",
        hosts.#names[1]!,
      ) &&
      hosts.#names.every(
        (name, host) =>
          ip("-n", name, "address", "add", `${addresses[host]}/24`, "dev", hosts.#links[host]!) &&
          ip("-n", name, "link", "set", "lo", "up") &&
          ip("-n", name, "link", "set", hosts.#links[host]!, "up"),
      );
    if (made) return hosts;
    hosts[Symbol.dispose]();
    return undefined;
  }

  /** The command that runs the rest of its line on a host. */
  on(host: number): readonly string[] {
    return ["ip", "netns", "exec", this.#names[host]!];
  }

  /** Cuts the link. */
  cut(): void {
    if (!ip("-n", this.#names[0]!, "link", "set", this.#links[0]!, "down")) throw new Error("the link stays");
  }

  [Symbol.dispose](): void {
    for (const name of this.#names) ip("netns", "del", name);
  }
}

function ip(...args: readonly string[]): boolean {
  return spawnSync("ip", args, { stdio: "ignore" }).status === 0;
}
