/** The page as a whole: what is on top, the text beside its memory, and what went wrong. */
import { html, useEffect, useRef } from "./preact.js";
import { Composer } from "./composer.js";
import { Text } from "./text-view.js";
import { Memory } from "./memory-view.js";

export function Page({ app }) {
  if (app.model === undefined) {
    return html`
      ${
        app.problem === undefined
          ? html`<p class="loading" role="status">Connecting to the server…</p>`
          : html`<main><${Trouble} app=${app} /></main>`
      }
      <${TokenPrompt} app=${app} />
    `;
  }
  const two = app.futures.length === 2;
  return html`
    <${Top} app=${app} />
    <main>
      <div class="talk">
        <div class=${two ? "futures two" : "futures"}>
          ${
            app.futures.length === 0
              ? html`<section class="panel" aria-label="Text"><${Empty} model=${app.model} /></section>`
              : app.futures.map(
                  (future, i) => html`<${Text} key=${future.id} app=${app} future=${future} number=${i} />`,
                )
          }
        </div>
        <${Trouble} app=${app} />
        <${Composer} app=${app} />
      </div>
      <${Memory} app=${app} />
    </main>
    <${TokenPrompt} app=${app} />
  `;
}

function Top({ app }) {
  const { model, futures } = app,
    [first] = futures,
    busy = app.working !== undefined;
  const chosen = (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file !== undefined) void app.restore(file);
  };
  return html`<header class="top">
    <h1>memformer</h1>
    <p class="facts number">${facts(model)}</p>
    <div class="actions" role="group" aria-label="Session">
      <button onClick=${app.restart} disabled=${first === undefined}>New</button>
      <button onClick=${app.branch} disabled=${first === undefined || futures.length > 1 || busy}>Branch</button>
      <button onClick=${app.save} disabled=${first === undefined || busy}>Save</button>
      <label class="button">Restore…<input class="hidden" type="file" onChange=${chosen} disabled=${busy} /></label>
    </div>
  </header>`;
}

function facts({ architecture, parameters, memorySlots, segmentLength }) {
  return [
    architecture,
    parameters && `${short(parameters)} parameters`,
    memorySlots && `${memorySlots} memory slots`,
    segmentLength && `segments of ${segmentLength} tokens`,
  ]
    .filter(Boolean)
    .join(" · ");
}

function Empty({ model }) {
  return html`<div class="empty">
    <h2>A text of any length, in a memory that never grows.</h2>
    <p>
      Write the beginning of a text, or upload a whole book. The model reads it${" "}
      ${model.segmentLength ? `${model.segmentLength} tokens at a time` : "segment by segment"}, keeps what it needs in
      its memory, and goes on from there. You see what each memory slot did with every segment, and which slots a token
      read.
    </p>
  </div>`;
}

function Trouble({ app }) {
  if (app.problem === undefined) return null;
  const { problem, retry } = app.problem;
  return html`<div class="problem" role="alert">
    <p><strong>${problem.title}</strong> ${problem.advice}</p>
    <button onClick=${retry}>Try again</button>
    ${app.model !== undefined && html`<button class="plain" onClick=${app.dismiss}>Dismiss</button>`}
  </div>`;
}

function TokenPrompt({ app }) {
  const dialog = useRef(null),
    wanted = app.wantsToken !== undefined;
  useEffect(() => {
    if (wanted && !dialog.current.open) dialog.current.showModal();
    if (!wanted && dialog.current.open) dialog.current.close();
  }, [wanted]);
  const enter = (event) => {
    event.preventDefault();
    void app.enterToken(new FormData(event.target).get("token"));
  };
  return html`<dialog ref=${dialog} aria-labelledby="wants-token" onCancel=${(event) => event.preventDefault()}>
    <form onSubmit=${enter}>
      <h2 id="wants-token">This server wants a token</h2>
      <label>
        The token that its operator gave you; this tab alone keeps it.
        <input name="token" type="password" autocomplete="off" required />
      </label>
      <button class="primary">Continue</button>
    </form>
  </dialog>`;
}

/** 12,345 and 3.4 million. */
export function short(count) {
  return count >= 1e6 ? `${(count / 1e6).toPrecision(3)} million` : count.toLocaleString("en");
}
