import { expect } from "chai";
import { guarded, nextCall, waited } from "../lib/native/calls.ts";
import { modelConfig, presets } from "../lib/model/config.ts";
import { positions, variants, writers } from "./support/models.ts";
import { failure } from "./support/failure.ts";

/** The names that the engine has, as it tells them when it is asked for one that it lacks. */
async function registered(option: "architecture" | "writer" | "position"): Promise<string[]> {
  const config = { ...modelConfig(presets.tiny), [option]: "none of them" };
  const { message } = await failure(
    waited((addon) => addon.createModel(nextCall(), config.architecture, config, 0, "cpu")).then(({ model }) => {
      guarded((addon) => {
        addon.dropModel(model);
      });
    }),
  );
  return /known: (.*)$/.exec(message)![1]!.split(", ");
}

// The specs of gradients, invariance, parity and evaluation run every option of the schema: what is registered and not
// in the schema would be run by none.
describe("what the engine has registered is what the schema offers, and so what the tests run", () => {
  it("models", async () => {
    expect(await registered("architecture")).to.have.members([...variants, "composed"]); // the base of ComposedModel
  });
  it("memory writers", async () => {
    expect(await registered("writer")).to.have.members([...writers]);
  });
  it("position schemes", async () => {
    expect(await registered("position")).to.have.members([...positions]);
  });
});
