import { expect } from "chai";
import { readFileSync } from "node:fs";
import { parseAllDocuments } from "yaml";
import { membershipOf, type Membership } from "../lib/distributed/membership.ts";
import { shapeSchema, runSchema } from "../lib/run/config.ts";
import { flagName } from "../lib/run/flags.ts";
import { trainSchema } from "../lib/train/config.ts";

interface Variable {
  readonly name: string;
  readonly value?: unknown;
  readonly valueFrom?: { readonly fieldRef: { readonly fieldPath: string } };
}
interface Pod {
  readonly subdomain?: string;
  readonly restartPolicy?: string;
  readonly containers: readonly {
    readonly name: string;
    readonly command: readonly string[];
    readonly env: readonly Variable[];
    readonly resources: { readonly limits: Readonly<Record<string, number>> };
    readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string }[];
  }[];
  readonly volumes: readonly {
    readonly name: string;
    readonly persistentVolumeClaim: { readonly claimName: string };
  }[];
}
interface Manifest {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly spec: Record<string, unknown> & { readonly template?: { readonly spec: Pod } };
}

/** A file's documents by kind; YAML that is not sound, or names a key twice, throws. */
function manifestsOf(file: string): Record<string, Manifest> {
  const text = readFileSync(new URL(`../examples/kubernetes/${file}`, import.meta.url), "utf8");
  const all = parseAllDocuments(text, { strict: true, uniqueKeys: true }).map((document) => {
    expect([...document.errors, ...document.warnings]).to.deep.equal([]);
    return document.toJS() as Manifest;
  });
  for (const { metadata } of all) expect(metadata.name).to.match(/^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$/);
  return Object.fromEntries(all.map((manifest) => [manifest.kind, manifest]));
}

/** A rank's place by these variables, and which of them were looked at. */
function placeOf(variables: Readonly<Record<string, string>>): { membership: Membership; read: ReadonlySet<string> } {
  const read = new Set<string>();
  const watched = new Proxy(variables, {
    get: (all, name) => {
      read.add(String(name));
      return all[name as string];
    },
  });
  return { membership: membershipOf({}, watched), read };
}

/** A pod trains with options that there are, on one GPU, and goes on from its checkpoint when it is started again. */
function expectTraining({ containers, volumes }: Pod): void {
  expect(containers).to.have.length(1);
  const [{ command, resources, volumeMounts }] = containers as [Pod["containers"][number]];
  const script = command[2]!,
    options = [runSchema, shapeSchema, trainSchema].flatMap(({ shape }) => Object.keys(shape).map(flagName));
  for (const [, flag] of script.matchAll(/--([a-z-]+)/g)) expect(["resume", ...options]).to.include(flag);
  const out = /--out (\S+)/.exec(script)![1]!;
  expect(script).to.include(`[ -e ${out}/checkpoints/last.json ] && set -- --resume`).and.include('"$@"');
  expect(command.slice(0, 2)).to.deep.equal(["/bin/sh", "-c"]);
  expect(command).to.have.length(4); // $0 is the last, "$@" is empty
  expect(resources.limits).to.deep.equal({ "nvidia.com/gpu": 1 });
  expect(volumeMounts.map(({ name }) => name)).to.deep.equal(volumes.map(({ name }) => name));
  expect(out.startsWith(`${volumeMounts[0]!.mountPath}/`)).to.equal(true);
}

describe("the manifests for Kubernetes", () => {
  it("start an indexed job whose variables make every pod its rank, as distributed.join() reads them", () => {
    const { Job: job, Service: service, PersistentVolumeClaim: claim } = manifestsOf("train.yaml");
    const { completions, parallelism, completionMode, template } = job!.spec,
      pod = template!.spec,
      { env } = pod.containers[0]!;
    expectTraining(pod);
    expect({ completionMode, parallelism }).to.deep.equal({ completionMode: "Indexed", parallelism: completions });
    expect(pod.restartPolicy).to.equal("OnFailure");
    expect(pod.volumes[0]!.persistentVolumeClaim.claimName).to.equal(claim!.metadata.name);
    // Pods are named through the service: JOB-INDEX.SERVICE.
    expect(pod.subdomain).to.equal(service!.metadata.name);
    expect(service!.spec["clusterIP"]).to.equal("None");
    expect(service!.spec["selector"]).to.deep.equal({ "batch.kubernetes.io/job-name": job!.metadata.name });
    for (let index = 0; index < (completions as number); index++) {
      const variables = Object.fromEntries(
        env.map(({ name, value, valueFrom }) => {
          if (valueFrom === undefined) {
            expect(value, name).to.be.a("string"); // a number here is refused by the cluster
            return [name, value as string];
          }
          const place = "metadata.annotations['batch.kubernetes.io/job-completion-index']";
          expect(valueFrom.fieldRef.fieldPath).to.equal(place);
          return [name, String(index)];
        }),
      );
      const { membership, read } = placeOf(variables);
      expect(membership).to.deep.include({
        rank: index,
        world: completions,
        localRank: 0,
        address: `${job!.metadata.name}-0.${service!.metadata.name}`,
        port: 29500,
        hostsStore: index === 0,
      });
      for (const { name } of env) expect(read.has(name), `${name} is read`).to.equal(true);
    }
  });

  it("start a PyTorchJob that lacks nothing of what the operator leaves out", () => {
    const { PyTorchJob: job } = manifestsOf("pytorchjob.yaml");
    const { Master, Worker } = job!.spec["pytorchReplicaSpecs"] as Record<
      string,
      { readonly replicas: number; readonly restartPolicy: string; readonly template: { readonly spec: Pod } }
    >;
    for (const [rank, { template, restartPolicy }] of [Master!, Worker!].entries()) {
      expectTraining(template.spec);
      expect(restartPolicy).to.equal("OnFailure");
      const [{ name, env }] = template.spec.containers as [Pod["containers"][number]];
      expect(name).to.equal("pytorch"); // the one that the operator gives its variables to
      const own = Object.fromEntries(env.map((one) => [one.name, one.value as string]));
      const given = { RANK: String(rank), WORLD_SIZE: String(Master!.replicas + Worker!.replicas) };
      const { membership } = placeOf({
        ...given,
        MASTER_ADDR: "memformer-train-master-0",
        MASTER_PORT: "23456",
        ...own,
      });
      expect(membership).to.deep.include({ rank, world: 2, localRank: 0, hostsStore: rank === 0 });
    }
  });
});
