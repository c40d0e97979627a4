/** Provides what `dist/` needs: LibTorch if none is found, the addon if there is none for it or sources are newer. */
import { fromDist, main } from "./dist.mjs";

await main(async () => {
  const { resolveLibtorch } = await fromDist("toolchain/libtorch/resolve.js");
  const { setup } = await fromDist("toolchain/libtorch/setup.js");
  const { probeLibtorch } = await fromDist("native/probe.js");
  const { reportTo } = await fromDist("toolchain/libtorch/report.js");
  const { buildFolder, buildNative, staleness } = await fromDist("toolchain/build.js");
  const report = reportTo(process.stderr);

  const libtorch = await resolveOrFetch();
  const folder = buildFolder(libtorch.variant);
  const stale = await staleness(folder, libtorch);
  if (stale !== undefined) {
    report(`The native addon has to be compiled: ${stale}.`);
    const { seconds } = await buildNative({ report });
    report(`Compiled in ${seconds.toFixed(0)} s.`);
  }
  console.error(`LibTorch ${libtorch.version} (${libtorch.variant}, ${libtorch.source}); addon in ${folder}`);

  async function resolveOrFetch() {
    try {
      return resolveLibtorch();
    } catch (error) {
      // A LibTorch that was named but does not fit is the caller's to mend, not ours to replace.
      if (error.code !== "ERR_MEMFORMER_LIBTORCH_NOT_FOUND" || process.env.MEMFORMER_LIBTORCH) throw error;
      await setup({ report, testLoad: probeLibtorch });
      return resolveLibtorch();
    }
  }
});
