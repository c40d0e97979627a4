import { expect } from "chai";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { connect, type AddressInfo } from "node:net";
import { hostname } from "node:os";
import { join } from "node:path";
import { resolveLibtorch } from "../lib/toolchain/libtorch/resolve.ts";
import { setup, type SetupOptions, type SetupResult } from "../lib/toolchain/libtorch/setup.ts";
import {
  cudaPins,
  cudaWheel,
  fakePython,
  pinsFor,
  scratchFolder,
  sendRange,
  serve,
  sha256,
  wheel,
  zip,
  libtorchFiles,
} from "./support/fake-libtorch.ts";
import { failure } from "./support/failure.ts";

describe("memformer setup", () => {
  const bytes = wheel();
  let folder: string;
  let cache: string;
  let env: NodeJS.ProcessEnv;
  let said: string[];
  let report: SetupOptions["report"];

  beforeEach(() => {
    folder = scratchFolder();
    cache = join(folder, "cache/memformer/libtorch");
    env = { XDG_CACHE_HOME: join(folder, "cache"), PATH: "/nowhere" };
    said = [];
    report = (event) => typeof event === "string" && said.push(event);
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  const run = async (url: string, more: SetupOptions = {}, file = bytes): Promise<SetupResult> =>
    await setup({ env, report, pins: pinsFor(file, url), ...more });

  const remains = (): string[] => (existsSync(cache) ? readdirSync(cache) : []);

  describe("by URL", () => {
    it("unpacks what compiling needs, writes a record and leaves nothing else", async () => {
      await using server = await serve(bytes);
      const result = await run(server.url);
      expect(result).to.include({ version: "2.13.0", variant: "cpu", source: server.url, pinned: true, fetched: true });
      expect(remains()).to.deep.equal(["2.13.0-cpu"]);
      expect(readdirSync(result.folder).sort()).to.deep.equal([
        "include",
        "lib",
        "memformer.json",
        "share",
        "version.py",
      ]);
      const libraries = readdirSync(join(result.folder, "lib")).sort();
      expect(libraries).to.deep.equal(["libc10.so", "libgomp.so.1", "libtorch_cpu.so"]);
      expect(readFileSync(join(result.folder, "lib/libtorch_cpu.so"), "utf8")).to.equal(
        libtorchFiles()["lib/libtorch_cpu.so"],
      );
      expect(resolveLibtorch({ env })).to.include({ root: result.folder, source: "cache" });
    });

    it("does nothing when it is there, and fetches again when forced", async () => {
      await using server = await serve(bytes);
      await run(server.url);
      expect((await run(server.url)).fetched).to.equal(false);
      expect(server.requests).to.have.length(1);
      expect((await run(server.url, { force: true })).fetched).to.equal(true);
      expect(server.requests).to.have.length(2);
      expect(remains()).to.deep.equal(["2.13.0-cpu"]);
    });

    it("goes on where a connection broke", async () => {
      await using server = await serve(bytes, (request, response, count) => {
        if (count > 1) return sendRange(bytes)(request, response);
        response.writeHead(200, { "content-length": bytes.length });
        response.write(bytes.subarray(0, 30_000), () => setTimeout(() => response.destroy(), 100));
      });
      await run(server.url);
      expect(server.requests).to.deep.equal(["whole", "bytes=30000-"]);
      expect(said.join("\n")).to.contain("continuing at byte 30000");
    });

    it("tries again when a connection broke before its first byte", async () => {
      await using server = await serve(bytes, (request, response, count) => {
        if (count > 2) return sendRange(bytes)(request, response);
        response.writeHead(200, { "content-length": bytes.length }).flushHeaders();
        setTimeout(() => response.destroy(), 50);
      });
      await run(server.url);
      expect(server.requests).to.deep.equal(["whole", "whole", "whole"]);
    });

    it("goes on with what an earlier process left", async () => {
      mkdirSync(join(cache, ".partial-2.13.0-cpu"), { recursive: true });
      writeFileSync(join(cache, ".partial-2.13.0-cpu/torch-2.13.0+cpu.whl.partial"), bytes.subarray(0, 1234));
      await using server = await serve(bytes);
      await run(server.url);
      expect(server.requests).to.deep.equal(["bytes=1234-"]);
    });

    it("starts again when what was left is not the beginning of the file", async () => {
      mkdirSync(join(cache, ".partial-2.13.0-cpu"), { recursive: true });
      writeFileSync(join(cache, ".partial-2.13.0-cpu/torch-2.13.0+cpu.whl.partial"), "x".repeat(1234));
      await using server = await serve(bytes);
      await run(server.url);
      expect(server.requests).to.deep.equal(["bytes=1234-", "whole"]);
    });

    it("starts again when the server ignores ranges", async () => {
      mkdirSync(join(cache, ".partial-2.13.0-cpu"), { recursive: true });
      writeFileSync(join(cache, ".partial-2.13.0-cpu/torch-2.13.0+cpu.whl.partial"), "x".repeat(1234));
      await using server = await serve(bytes, (_request, response) => response.end(bytes));
      expect((await run(server.url)).pinned).to.equal(true);
    });

    it("follows redirects", async () => {
      await using server = await serve(bytes);
      await using door = await serve(bytes, (_request, response) =>
        response.writeHead(302, { location: server.url }).end(),
      );
      await run(door.url);
      expect(server.requests).to.have.length(1);
    });

    it("takes the pinned file from a mirror's folder", async () => {
      await using server = await serve(bytes);
      const result = await run("http://127.0.0.1:9/torch-2.13.0%2Bcpu.whl", {
        mirror: server.url.slice(0, server.url.lastIndexOf("/")),
      });
      expect(result.source).to.equal(server.url);
    });

    it("goes through the proxy that the environment names", async () => {
      await using server = await serve(bytes);
      const asked: string[] = [];
      const proxy = createServer().on("connect", (request, socket) => {
        asked.push(request.url ?? "");
        const [host, port] = (request.url ?? "").split(":");
        const upstream = connect(Number(port), host, () => socket.write("HTTP/1.1 200 OK\r\n\r\n"));
        upstream.pipe(socket).pipe(upstream);
        socket.on("error", () => upstream.destroy());
        upstream.on("error", () => socket.destroy());
      });
      await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
      try {
        env["HTTP_PROXY"] = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
        await run(server.url);
        expect(asked).to.deep.equal([new URL(server.url).host]);
      } finally {
        proxy.closeAllConnections();
        await new Promise((resolve) => proxy.close(resolve));
      }
    });

    it("refuses other bytes of the same size, prints both hashes and keeps nothing", async () => {
      const other = Buffer.from(bytes);
      other[100] = 255 - (other[100] ?? 0);
      await using server = await serve(other);
      const error = await failure(run(server.url));
      expect(error.code).to.equal("ERR_MEMFORMER_LIBTORCH_HASH");
      expect(error.message)
        .to.contain(`expected  ${sha256(bytes)}`)
        .and.contain(`found     ${sha256(other)}`);
      expect(readdirSync(join(cache, ".partial-2.13.0-cpu"))).to.deep.equal([]);
      expect(server.requests).to.have.length(1);
    });

    it("refuses a file of another size before it reads it", async () => {
      await using server = await serve(Buffer.concat([bytes, bytes]));
      const error = await failure(run(server.url));
      expect(error.code).to.equal("ERR_MEMFORMER_LIBTORCH_HASH");
      expect(error.message).to.contain(
        `has ${2 * bytes.length} bytes where the file memformer knows has ${bytes.length}`,
      );
    });
  });

  describe("when the URL cannot be reached", () => {
    const nowhere = "http://127.0.0.1:9/torch-2.13.0%2Bcpu.whl";
    const pipThatGives = (file: string): string =>
      `while [ "$1" != --dest ]; do shift; done; cp ${file} "$2/torch-2.13.0+cpu-any.whl"`;

    it("takes the wheel from pip and says that its hash is the pinned one", async () => {
      writeFileSync(join(folder, "w"), bytes);
      env["PATH"] = `${fakePython(folder, pipThatGives(join(folder, "w")))}:/bin:/usr/bin`;
      const result = await run(nowhere);
      expect(result).to.include({ source: "pip: torch-2.13.0+cpu-any.whl", pinned: true, sha256: sha256(bytes) });
      expect(said.join("\n")).to.contain(`SHA-256 ${sha256(bytes)} is the pinned one.`);
    });

    it("takes another wheel of that version from pip, prints both hashes and records it", async () => {
      const other = wheel("2.13.0", "cpu", { "torch/lib/libextra.so": "patched" });
      writeFileSync(join(folder, "w"), other);
      env["PATH"] = `${fakePython(folder, pipThatGives(join(folder, "w")))}:/bin:/usr/bin`;
      const result = await run(nowhere);
      expect(result).to.include({ pinned: false, sha256: sha256(other) });
      expect(said.join("\n")).to.contain(sha256(other)).and.contain(sha256(bytes));
    });

    it("asks pip plainly when it knows no build named cpu", async () => {
      writeFileSync(join(folder, "w"), bytes);
      const script = `case "$*" in *+cpu) echo "ERROR: No matching distribution" >&2; exit 1;; esac; ${pipThatGives(join(folder, "w"))}`;
      env["PATH"] = `${fakePython(folder, script)}:/bin:/usr/bin`;
      expect((await run(nowhere)).source).to.match(/^pip: /);
    });

    it("refuses a CUDA wheel where one for the CPU was asked for", async () => {
      writeFileSync(join(folder, "w"), wheel("2.13.0", "cuda"));
      env["PATH"] = `${fakePython(folder, pipThatGives(join(folder, "w")))}:/bin:/usr/bin`;
      const error = await failure(run(nowhere));
      expect(error.code).to.equal("ERR_MEMFORMER_LIBTORCH_MISMATCH");
      expect(error.message).to.contain(
        "is LibTorch 2.13.0 for cu130, where 2.13.0 for cpu was expected. Pass --version 2.13.0 --variant cu130.",
      );
      expect(remains()).to.not.include("2.13.0-cpu");
    });

    it("tells what failed on every way, and what can be done", async () => {
      env["PATH"] = `${fakePython(folder, 'echo "ERROR: No matching distribution" >&2; exit 1')}:/bin:/usr/bin`;
      const error = await failure(run(nowhere));
      expect(error.code).to.equal("ERR_MEMFORMER_LIBTORCH_NOT_FOUND");
      expect(error.message)
        .to.match(/127\.0\.0\.1:9\S+ +\S+/)
        .and.match(/pip download torch==2\.13\.0 +ERROR: No matching/);
      expect(error.message).to.contain("--from FILE");
    });

    it("does not turn to pip when a mirror was named", async () => {
      await using server = await serve(bytes, (_request, response) => response.writeHead(404).end());
      const mirror = server.url.slice(0, server.url.lastIndexOf("/"));
      const error = await failure(run(server.url, { mirror }));
      expect(error.message).to.contain("answered 404").and.not.contain("torch==");
    });
  });

  describe("from a file", () => {
    const from = async (file: Buffer, more: SetupOptions = {}): Promise<SetupResult> => {
      writeFileSync(join(folder, "archive"), file);
      return await run("http://127.0.0.1:9/x", { from: join(folder, "archive"), ...more });
    };
    const official = (version: string): Buffer => {
      const { "version.py": _, ...files } = libtorchFiles();
      const named = Object.entries({ ...files, "build-version": `${version}+cpu\n` });
      return zip(Object.fromEntries(named.map(([path, text]) => [`libtorch/${path}`, text])));
    };

    it("takes a wheel, an official zip, and records their hashes", async () => {
      expect(await from(bytes)).to.include({ version: "2.13.0", pinned: true });
      const file = official("2.14.0");
      expect(await from(file)).to.include({ version: "2.14.0", pinned: false, sha256: sha256(file) });
      expect(said.join("\n")).to.contain(sha256(file));
      expect(remains()).to.deep.equal(["2.13.0-cpu", "2.14.0-cpu", "hashes.json"]);
    });

    it("refuses a file that does not exist, is no archive, or is cut off", async () => {
      const absent = await failure(run("http://127.0.0.1:9/x", { from: join(folder, "no.whl") }));
      expect([absent.code, absent.message]).to.deep.equal([
        "ERR_MEMFORMER_IO",
        `--from ${join(folder, "no.whl")}: there is no such file.`,
      ]);
      for (const file of [Buffer.from("hello"), bytes.subarray(0, 40_000), Buffer.alloc(0)]) {
        const error = await failure(from(file));
        expect(error.code).to.equal("ERR_MEMFORMER_LIBTORCH_HASH");
        expect(error.message).to.contain("cannot be unpacked");
      }
      expect(remains()).to.deep.equal([".partial-file"]);
    });

    it("refuses a file whose content fails its checksum", async () => {
      const broken = Buffer.from(bytes);
      const at = broken.indexOf("machine code machine");
      broken.write("X", at);
      expect((await failure(from(broken))).message).to.contain("torch/lib/libtorch_cpu.so fails its checksum");
    });

    it("refuses paths that lead outside, and links", async () => {
      const files = { "torch/lib/libtorch_cpu.so": "x", "torch/include/../../../evil.h": "evil" };
      const outside = await failure(from(zip(files)));
      expect(outside.code).to.equal("ERR_MEMFORMER_LIBTORCH_HASH");
      expect(outside.message).to.match(/invalid relative path/);
      const absolute = await failure(from(zip({ "torch/lib/libtorch_cpu.so": "x", "/torch/include/a.h": "evil" })));
      expect(absolute.message).to.match(/absolute path/);
      const link = zip({ "torch/lib/libtorch_cpu.so": "/etc/passwd" }, { "torch/lib/libtorch_cpu.so": 0o120777 });
      expect((await failure(from(link))).message).to.contain("torch/lib/libtorch_cpu.so is a link");
      expect(existsSync(join(folder, "cache/memformer/evil.h"))).to.equal(false);
      expect(remains()).to.deep.equal([".partial-file"]);
    });

    it("refuses an archive without LibTorch, one of another version than asked for, and one too old", async () => {
      expect((await failure(from(zip({ "numpy/a.py": "x" })))).message).to.contain("holds no LibTorch");
      const other = await failure(from(bytes, { version: "2.12.0" }));
      expect(other.message).to.contain("where 2.12.0 for cpu was expected. Pass --version 2.13.0 --variant cpu.");
      const old = await failure(from(wheel("2.4.0")));
      expect(old.code).to.equal("ERR_MEMFORMER_LIBTORCH_MISMATCH");
      expect(old.message).to.contain("LibTorch 2.4.0 in file:");
    });

    it("keeps the one that is there when a forced one fails", async () => {
      const { folder: kept } = await from(bytes);
      await failure(from(Buffer.from("hello"), { version: "2.13.0", force: true }));
      expect(resolveLibtorch({ env }).root).to.equal(kept);
    });
  });

  describe("for CUDA", () => {
    const torch = wheel("2.14.1", "cuda"),
      library = cudaWheel();
    const pins = cudaPins(torch, library);
    const names = ["torch-2.14.1.whl", "nvidia_cuda_runtime-13.0.96.whl"];
    const wheels = (): string => writeFolder({ [names[0]!]: torch, [names[1]!]: library });
    const writeFolder = (files: Record<string, Buffer>): string => {
      mkdirSync(join(folder, "wheels"), { recursive: true });
      for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, "wheels", name), content);
      return join(folder, "wheels");
    };
    /** A pip that has the wheels of a folder, by the name before the version. */
    const pip = (from: string): string =>
      `for last; do :; done; while [ "$1" != --dest ]; do shift; done; name=$(echo "$last" | sed 's/[=(].*//; s/-/_/g'); cp ${from}/"$name"-* "$2"/ 2>/dev/null`;
    const cuda = (more: SetupOptions = {}): Promise<SetupResult> =>
      setup({ env, report, pins, variant: "cu130", ...more });

    it("fetches every pinned file through pip, and lays the libraries where LibTorch looks for them", async () => {
      env["PATH"] = `${fakePython(folder, pip(wheels()))}:/bin:/usr/bin`;
      const result = await cuda();
      expect(result).to.include({
        version: "2.14.1",
        variant: "cu130",
        pinned: true,
        fetched: true,
        source: `pip: ${names[0]!}`,
      });
      expect(result.libraries).to.deep.equal([{ source: `pip: ${names[1]!}`, sha256: sha256(library), pinned: true }]);
      expect(readdirSync(result.folder).sort()).to.deep.equal(["memformer.json", "nvidia", "torch"]);
      expect(readdirSync(join(result.folder, "nvidia/cu13"), { recursive: true })).to.deep.equal([
        "lib",
        "lib/libcudart.so.13",
      ]);
      expect(resolveLibtorch({ env })).to.include({
        variant: "cuda",
        cuda: "13.0",
        root: join(result.folder, "torch"),
      });
      expect((await cuda()).fetched).to.equal(false);
    });

    it("takes them from a mirror, and fetches those again alone that an earlier try has not", async () => {
      const asked: string[] = [];
      await using server = await serve(torch, (request, response) => {
        const name = decodeURIComponent(request.url!.slice(1));
        asked.push(name);
        if (asked.length === 2) response.writeHead(500).end();
        else response.end(name === names[0] ? torch : library);
      });
      const mirror = server.url.slice(0, server.url.lastIndexOf("/"));
      expect((await failure(cuda({ mirror }))).message).to.contain("answered 500");
      await cuda({ mirror });
      expect(asked).to.deep.equal([names[0], names[1], names[1]]);
    });

    it("takes a folder of wheels, and refuses one with no PyTorch in it, or two", async () => {
      const from = wheels();
      expect(await cuda({ from, variant: undefined })).to.include({
        version: "2.14.1",
        variant: "cu130",
        pinned: true,
      });
      writeFolder({ "torch-2.12.0.whl": torch });
      expect((await failure(cuda({ from }))).message).to.match(/found torch-2\.12\.0\.whl, torch-2\.14\.1\.whl\.$/);
      mkdirSync(join(folder, "none"));
      expect((await failure(cuda({ from: join(folder, "none") }))).message).to.match(/found none\.$/);
    });

    it("refuses what does not load, with the linker's reason and what a lone wheel lacks", async () => {
      const reason = "libcudart.so.13: cannot open shared object file: No such file or directory";
      const error = await failure(cuda({ from: join(wheels(), names[0]!), testLoad: () => reason }));
      expect(error.code).to.equal("ERR_MEMFORMER_LIBTORCH_MISMATCH");
      expect(error.message).to.contain(
        `does not load: ${reason}. A wheel for CUDA needs those of the CUDA libraries it names beside it: --from FOLDER.`,
      );
      expect(remains().filter((name) => !name.startsWith("."))).to.deep.equal([]);
    });

    it("asks pip for a version without pin, and for what its metadata names; its hashes are printed and recorded", async () => {
      const metadata =
        'Requires-Dist: sympy\nRequires-Dist: cuda-toolkit[cudart]==13.0.3; platform_system == "Linux"\n' +
        'Requires-Dist: nvidia-cuda-runtime (==13.0.96) ; platform_system == "Linux"\n';
      const other = wheel("2.12.0", "cuda", { "torch-2.12.0.dist-info/METADATA": metadata });
      const from = writeFolder({ "torch-2.12.0.whl": other, [names[1]!]: library });
      env["PATH"] = `${fakePython(folder, `echo "$@" >> ${folder}/asked; ${pip(from)}`)}:/bin:/usr/bin`;
      const result = await cuda({ version: "2.12.0" });
      expect(result).to.include({ version: "2.12.0", variant: "cu130", pinned: false, sha256: sha256(other) });
      expect(readFileSync(join(folder, "asked"), "utf8"))
        .to.match(/torch==2\.12\.0\+cu130\n/)
        .and.match(/ cuda-toolkit\[cudart\]==13\.0\.3 nvidia-cuda-runtime\(==13\.0\.96\)\n/);
      expect(said.join("\n")).to.contain(`SHA-256 ${sha256(other)} of torch-2.12.0.whl; there is no pin`);
      expect(JSON.parse(readFileSync(join(cache, "hashes.json"), "utf8"))).to.deep.equal({
        "torch-2.12.0.whl": sha256(other),
      });
    });

    it("refuses a variant that is none, and one without pin and version", async () => {
      expect(await failure(cuda({ variant: "gpu" }))).to.include({
        code: "ERR_MEMFORMER_CONFIG",
        message: '--variant: expected cpu or cu130, got "gpu"',
      });
      expect((await failure(cuda({ variant: "cu128" }))).message).to.contain(
        "there is no pinned version of it (there is one of cpu and cu130)",
      );
    });
  });

  it("refuses an archive without pin that has changed under its name since it was first used", async () => {
    const path = join(folder, "torch-2.12.0.whl"),
      nowhere = "http://127.0.0.1:9/x";
    writeFileSync(path, wheel("2.12.0"));
    await run(nowhere, { from: path });
    await run(nowhere, { from: path, force: true });
    const other = wheel("2.12.0", "cpu", { "torch/lib/libextra.so": "other" });
    writeFileSync(path, other);
    const error = await failure(run(nowhere, { from: path, force: true }));
    expect(error.code).to.equal("ERR_MEMFORMER_LIBTORCH_HASH");
    expect(error.message)
      .to.contain(`then  ${sha256(wheel("2.12.0"))}`)
      .and.contain(`now   ${sha256(other)}`);
  });

  describe("beside other processes", () => {
    it("waits for one that is at it and finds its work done", async () => {
      await using server = await serve(bytes, (_request, response) => void setTimeout(() => response.end(bytes), 400));
      const results = await Promise.all([run(server.url), run(server.url), run(server.url)]);
      expect(results.map(({ fetched }) => fetched).sort()).to.deep.equal([false, false, true]);
      expect(server.requests).to.have.length(1);
      expect(said.join("\n")).to.contain(`Process ${process.pid} is fetching LibTorch; waiting for it.`);
    });

    it("takes over the lock of a process that died, also if its id went to another", async () => {
      await using server = await serve(bytes);
      mkdirSync(cache, { recursive: true });
      const { pid } = spawnSync("true");
      for (const holder of [
        { pid, started: "1" },
        { pid: process.pid, started: "1" },
      ]) {
        writeFileSync(join(cache, ".lock"), JSON.stringify({ host: hostname(), ...holder }));
        expect((await run(server.url, { force: true })).fetched).to.equal(true);
      }
    });

    it("takes over an empty lock: its maker died before it could write", async () => {
      await using server = await serve(bytes);
      mkdirSync(cache, { recursive: true });
      writeFileSync(join(cache, ".lock"), "");
      expect((await run(server.url)).fetched).to.equal(true);
    });

    it("survives kill -9 in the middle of a download: the next run goes on from there", async () => {
      await using server = await serve(bytes, (request, response, count) => {
        if (count > 1) return sendRange(bytes)(request, response);
        response.writeHead(200, { "content-length": bytes.length }).write(bytes.subarray(0, 20_000));
      });
      const program =
        `import { setup } from ${JSON.stringify(new URL("../lib/toolchain/libtorch/setup.ts", import.meta.url).href)};` +
        `await setup({ pins: ${JSON.stringify(pinsFor(bytes, server.url))}, report: (e) => typeof e !== "string" && console.log(e.done) });`;
      const child = spawn(process.execPath, ["--import", "tsx", "--input-type=module", "-e", program], {
        env: { ...process.env, ...env, PATH: process.env["PATH"] },
        stdio: ["ignore", "pipe", "inherit"],
      });
      const ended = new Promise((resolve) => child.once("close", resolve));
      await new Promise((resolve) => child.stdout.once("data", resolve));
      child.kill("SIGKILL");
      await ended;
      expect(remains()).to.deep.equal([".lock", ".partial-2.13.0-cpu"]);
      expect((await run(server.url)).fetched).to.equal(true);
      expect(server.requests[1]).to.match(/^bytes=\d+-$/);
      expect(remains()).to.deep.equal(["2.13.0-cpu"]);
    });
  });

  it("refuses a version that memformer does not support, before it does anything", async () => {
    const error = await failure(run("http://127.0.0.1:9/x", { version: "2.6.0" }));
    expect(error.code).to.equal("ERR_MEMFORMER_LIBTORCH_MISMATCH");
    expect(error.message).to.contain("needs 2.11 to 2.14");
    expect(existsSync(cache)).to.equal(false);
  });
});
