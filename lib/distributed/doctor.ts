/** `memformer doctor --distributed`: whether this process, with the variables that it has, would meet other ranks. */
import { spawn } from "node:child_process";
import { lookup } from "node:dns/promises";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { hostname } from "node:os";
import { isMemformerError } from "../errors.ts";
import { childArguments } from "../native/child.ts";
import type { Row } from "../native/doctor.ts";
import { findLibtorch } from "../native/load.ts";
import { interfacesHere, interfacesOfNccl, isLoopback, sourceOfRoute } from "./interfaces.ts";
import { freePort } from "./launch.ts";
import { launchedWorld, membershipOf, type Membership } from "./membership.ts";
import { ncclVersion } from "./nccl-version.ts";

type Variables = NodeJS.ProcessEnv;

const PATIENCE = 5000; // milliseconds for an answer
const ROUND_TRIP = 60_000; // and for two processes to start and meet

/** What is known of the place where ranks meet. */
interface Meeting {
  readonly membership: Membership;
  /** Whether there are ranks on other hosts, by the launcher's variables. */
  readonly spread: boolean;
  /** MASTER_ADDR's address; undefined where it does not resolve. */
  readonly address: string | undefined;
  /** This host's address on the way there. */
  readonly source: string | undefined;
}

/** Looks at what ranks need, and lets two of this host meet; takes a few seconds, changes nothing. */
export async function distributedRows(env: Variables = process.env): Promise<Row[]> {
  const { rows, source } = await meetingRows(env);
  return [...rows, await roundTripRow(source, env)];
}

/** The same without the two, and this host's address on the way to MASTER_ADDR. */
export async function meetingRows(
  env: Variables,
): Promise<{ readonly rows: Row[]; readonly source: string | undefined }> {
  let membership: Membership;
  try {
    membership = membershipOf(launchedWorld(env) === undefined ? { rank: 0, world: 1 } : {}, env);
  } catch (error) {
    if (!isMemformerError(error)) throw error;
    return {
      rows: [
        row("ranks", false, error.message, "start it as docs/distributed.md says, by torchrun, Slurm or --gpus N"),
      ],
      source: undefined,
    };
  }
  const address = await addressOf(membership.address);
  const meeting: Meeting = {
    membership,
    spread: isSpread(membership, env),
    address,
    source: address === undefined ? undefined : await sourceOfRoute(address),
  };
  const rows = [
    ranksRow(meeting, env),
    addressRow(meeting),
    await portRow(meeting),
    await hostNameRow(meeting),
    glooRow(meeting, env),
    ...(await ncclRows(meeting, env)),
  ];
  return { rows, source: meeting.source };
}

function row(name: string, ok: boolean, found: string, remedy?: string, required = true): Row {
  return { name, ok, found, required, ...(!ok && remedy !== undefined && { remedy }) };
}

/** Whether some ranks are elsewhere: fewer are on this host than there are. */
function isSpread({ world }: Membership, env: Variables): boolean {
  const [local, nodes] = [Number(env["LOCAL_WORLD_SIZE"] || world), Number(env["SLURM_NNODES"] || 1)];
  return local < world || nodes > 1;
}

function ranksRow({ membership: { rank, world, localRank }, spread }: Meeting, env: Variables): Row {
  if (launchedWorld(env) === undefined)
    return row("ranks", true, "no launcher's variables: what follows is for one host, as --gpus N starts it");
  return row(
    "ranks",
    true,
    `rank ${rank} of ${world}, ${localRank} of its host, ${spread ? "several hosts" : "one host"}`,
  );
}

async function addressOf(host: string): Promise<string | undefined> {
  try {
    return (await lookup(host)).address;
  } catch {
    return undefined;
  }
}

function addressRow({ membership: { address: host, rank, hostsStore }, spread, address, source }: Meeting): Row {
  const name = "rendezvous";
  if (address === undefined)
    return row(
      name,
      false,
      `MASTER_ADDR ${host} does not resolve`,
      "set MASTER_ADDR to rank 0's address, or add the name to DNS",
    );
  const words = host === address ? host : `${host}, which is ${address}`;
  if (isLoopback(address) && spread)
    return row(
      name,
      false,
      `MASTER_ADDR is ${words} here: this host itself, which no other host reaches by that address`,
      "set MASTER_ADDR to an address of rank 0's host on the network, or mend /etc/hosts, where its name stands for 127.x",
    );
  if (source === undefined)
    return row(name, false, `there is no route to ${words}`, "check the network, or MASTER_ADDR");
  const isOurs = isLoopback(address) || interfacesHere().some((one) => one.address === address);
  if (hostsStore && !isOurs)
    return row(
      name,
      false,
      `MASTER_ADDR is ${words}, not an address of this host, but rank ${rank} is here`,
      "set MASTER_ADDR to the host of rank 0",
    );
  return row(name, true, `MASTER_ADDR is ${words}${isOurs ? "" : `, reached from ${source}`}`);
}

async function portRow({ membership, address }: Meeting): Promise<Row> {
  const { port, hostsStore, world } = membership,
    name = "port";
  if (hostsStore || world === 1) {
    const failure = await bindFailure(port);
    if (failure === undefined) return row(name, true, `MASTER_PORT ${port} is free here`);
    const found = failure === "EADDRINUSE" ? `MASTER_PORT ${port} is in use here` : `MASTER_PORT ${port}: ${failure}`;
    return row(name, false, found, "set MASTER_PORT to a free port above 1023, the same on all ranks", world > 1);
  }
  const target = `${membership.address}:${port}`;
  if (address === undefined) return row(name, false, `${target} was not tried, for it does not resolve`);
  const failure = await connectFailure(address, port);
  if (failure === undefined) return row(name, true, `something answers at ${target}`);
  if (failure === "ECONNREFUSED")
    return row(name, false, `${target} is reached, but nothing listens there`, "start rank 0, and look again", false);
  return row(
    name,
    false,
    `${target} is not reached: ${failure}`,
    `let TCP through to port ${port} of that host, and to the ports that Gloo or NCCL choose`,
  );
}

async function bindFailure(port: number): Promise<string | undefined> {
  const server = createServer();
  try {
    server.listen(port, "0.0.0.0");
    await once(server, "listening");
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error);
  } finally {
    server.close();
  }
}

async function connectFailure(host: string, port: number): Promise<string | undefined> {
  const socket = connect({ host, port });
  try {
    await once(socket, "connect", { signal: AbortSignal.timeout(PATIENCE) });
    return undefined;
  } catch (error) {
    const { name, code } = error as NodeJS.ErrnoException;
    return name === "AbortError" ? `no answer within ${PATIENCE / 1000} s` : (code ?? String(error));
  } finally {
    socket.on("error", () => undefined);
    socket.destroy();
  }
}

/** The classic fault: /etc/hosts has the host's own name for 127.0.1.1, and peers are told that address. */
async function hostNameRow({ source, spread }: Meeting): Promise<Row> {
  const own = hostname(),
    name = "host name",
    address = await addressOf(own);
  if (address === undefined)
    return row(
      name,
      false,
      `${own}, this host's name, does not resolve`,
      `add "${source ?? "ADDRESS"} ${own}" to /etc/hosts`,
      false,
    );
  if (!isLoopback(address)) return row(name, true, `${own} is ${address}`);
  const outward =
    source !== undefined && !isLoopback(source) ? source : interfacesHere().find((one) => !one.loopback)?.address;
  if (outward === undefined) return row(name, true, `${own} is ${address}, and this host has no other address`);
  return row(
    name,
    false,
    `${own}, this host's name, is ${address}, which other hosts do not reach; memformer takes the route's address instead`,
    `put "${outward} ${own}" into /etc/hosts in place of "${address} ${own}"${spread ? "" : " before you train on several hosts"}`,
    false,
  );
}

function glooRow({ source, spread }: Meeting, env: Variables): Row {
  const name = "gloo interface",
    asked = env["GLOO_SOCKET_IFNAME"] ?? "",
    here = interfacesHere();
  if (asked !== "") {
    const found = here.find((one) => one.name === asked);
    if (found !== undefined) return row(name, true, `${asked} (${found.address}), by GLOO_SOCKET_IFNAME`);
    const names = [...new Set(here.map((one) => one.name))].join(", ");
    return row(
      name,
      false,
      `GLOO_SOCKET_IFNAME is ${asked}, which is not up here; there are ${names}`,
      `set GLOO_SOCKET_IFNAME to one of them`,
    );
  }
  const found = here.find(({ address }) => address === source);
  const words = `${found?.name ?? "none"} (${source ?? "no address"}), on the route to MASTER_ADDR`;
  if (spread && (source === undefined || isLoopback(source)))
    return row(
      name,
      false,
      `${words}: other hosts do not reach it`,
      "set MASTER_ADDR to rank 0's address, or GLOO_SOCKET_IFNAME",
    );
  return row(name, found !== undefined || isLoopback(source ?? ""), words, "set GLOO_SOCKET_IFNAME");
}

/** Where LibTorch has CUDA: NCCL's version and interface. */
async function ncclRows({ source, spread }: Meeting, env: Variables): Promise<Row[]> {
  let libtorch;
  try {
    libtorch = findLibtorch(env);
  } catch (error) {
    if (isMemformerError(error)) return []; // another row of the doctor's says so
    throw error;
  }
  if (libtorch.variant !== "cuda")
    return [row("nccl", true, "not needed: this LibTorch is for CPUs, which reduce over Gloo")];
  const nccl = await ncclVersion(libtorch.root);
  const rows = [
    row(
      "nccl",
      nccl !== undefined,
      nccl === undefined ? "not found beside LibTorch" : `${nccl.version} in ${nccl.file}`,
      "npx memformer setup",
    ),
  ];
  const here = interfacesHere(),
    asked = env["NCCL_SOCKET_IFNAME"],
    taken = interfacesOfNccl(
      here.map((one) => one.name),
      asked,
    );
  const route = here.find(({ address }) => address === source)?.name,
    given = asked === undefined || asked === "" ? "NCCL's own choice" : `by NCCL_SOCKET_IFNAME=${asked}`;
  if (taken.length === 0)
    rows.push(
      row("nccl interface", false, `none is left, ${given}`, "set NCCL_SOCKET_IFNAME to an interface of this host"),
    );
  else if (spread && taken.every((name) => here.every((one) => one.name !== name || one.loopback)))
    rows.push(
      row(
        "nccl interface",
        false,
        `${taken.join(", ")}, ${given}: other hosts do not reach it`,
        "set NCCL_SOCKET_IFNAME",
      ),
    );
  else {
    const fits = !spread || route === undefined || taken.includes(route);
    const found = `${taken.join(", ")}, ${given}${fits ? "" : `; the route to MASTER_ADDR is by ${route}`}`;
    rows.push(
      row("nccl interface", fits, found, `set NCCL_SOCKET_IFNAME=${route}, unless the hosts share ${taken[0]}`, false),
    );
  }
  return rows;
}

/** Two processes of this host meet over Gloo, at the address that the other hosts would be told. */
async function roundTripRow(source: string | undefined, env: Variables): Promise<Row> {
  const name = "gloo round trip",
    began = performance.now(),
    address = source ?? "127.0.0.1",
    port = String(await freePort());
  const ends = await Promise.all(
    [0, 1].map(async (rank) =>
      roundTripOf({
        ...withoutLauncher(env),
        RANK: String(rank),
        LOCAL_RANK: String(rank),
        WORLD_SIZE: "2",
        MASTER_ADDR: address,
        MASTER_PORT: port,
      }),
    ),
  );
  const failed = ends.find((end) => end.said !== "3");
  if (failed === undefined)
    return row(
      name,
      true,
      `two processes here summed a number over ${address} in ${((performance.now() - began) / 1000).toFixed(1)} s`,
    );
  return row(
    name,
    false,
    `two processes here do not sum a number over ${address}: ${failed.failure}`,
    "mend the rows above first; GLOO_SOCKET_IFNAME=lo tells whether it is the interface",
  );
}

/** The variables of a process that no launcher has started. */
function withoutLauncher(env: Variables): Variables {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !/^(TORCHELASTIC_|SLURM_)/.test(name)));
}

async function roundTripOf(env: Variables): Promise<{ readonly said: string; readonly failure: string }> {
  const module = new URL(import.meta.url.endsWith(".ts") ? "./round-trip.ts" : "./round-trip.js", import.meta.url).href;
  const program = `import(${JSON.stringify(module)}).then((m) => m.roundTrip())`;
  const child = spawn(process.execPath, childArguments(program), {
    env,
    stdio: ["ignore", "pipe", "pipe"],
    timeout: ROUND_TRIP,
  });
  let [said, told] = ["", ""];
  child.stdout.on("data", (piece) => (said += String(piece)));
  child.stderr.on("data", (piece) => (told += String(piece)));
  const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
  const reason = /^\w*Error(?: \[\w+\])?: (.+)$/m.exec(told)?.[1];
  return { said, failure: reason ?? (signal === null ? `exit code ${code}` : `ended by ${signal}`) };
}
