/** The network interfaces of this host, and which of them Gloo and NCCL take. */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { networkInterfaces } from "node:os";

/** An interface that is up, by one of its addresses. */
export interface Interface {
  readonly name: string;
  readonly address: string;
  readonly loopback: boolean;
}

/** Those of this host, IPv4 before IPv6. */
export function interfacesHere(): Interface[] {
  const all = Object.entries(networkInterfaces()).flatMap(([name, addresses]) =>
    (addresses ?? []).map(({ address, internal, family }) => ({ name, address, loopback: internal, family })),
  );
  return all.sort((a, b) => a.family.localeCompare(b.family)).map(({ family: _, ...one }) => one);
}

/** `127.…`, `::1`: an address that other hosts do not reach. */
export function isLoopback(address: string): boolean {
  return address.startsWith("127.") || address === "::1" || address === "::ffff:127.0.0.1";
}

/** The address that a datagram to `host` would be sent from; undefined where nothing leads there. Sends nothing. */
export async function sourceOfRoute(host: string): Promise<string | undefined> {
  const socket = createSocket(host.includes(":") ? "udp6" : "udp4");
  try {
    socket.connect(9, host);
    await once(socket, "connect");
    return socket.address().address;
  } catch {
    return undefined;
  } finally {
    socket.close();
  }
}

/**
 * The names of `among` that `NCCL_SOCKET_IFNAME` lets NCCL take, in NCCL's order: prefixes, `=` before whole names, `^`
 * before what to leave out. Without it InfiniBand's (`ib…`) come first, then all but Docker's and the loopback, then
 * Docker's, then the loopback.
 */
export function interfacesOfNccl(among: readonly string[], asked: string | undefined): readonly string[] {
  const names = [...new Set(among)];
  if (asked !== undefined && asked !== "") {
    const leavesOut = asked.startsWith("^"),
      exact = asked.replace(/^\^/, "").startsWith("="),
      wanted = asked.replace(/^\^?=?/, "").split(",");
    return names.filter((name) => wanted.some((one) => (exact ? name === one : name.startsWith(one))) !== leavesOut);
  }
  const isDocker = (name: string): boolean => name.startsWith("docker"),
    isLocal = (name: string): boolean => name === "lo";
  const choices = [
    names.filter((name) => name.startsWith("ib")),
    names.filter((name) => !isDocker(name) && !isLocal(name)),
    names.filter(isDocker),
    names.filter(isLocal),
  ];
  return choices.find((some) => some.length > 0) ?? [];
}
