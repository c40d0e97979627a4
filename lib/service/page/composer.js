/** Where one writes: a text to be read, whether the model goes on, and how it draws. */
import { html, useRef, useState } from "./preact.js";

const FIELDS = [
  { name: "maxTokens", label: "Most tokens", initial: "200", min: 1, step: 1 },
  { name: "temperature", label: "Temperature", initial: "0.8", min: 0, step: "any" },
  { name: "topP", label: "Top-p", initial: "0.95", min: 0.01, max: 1, step: "any" },
  { name: "seed", label: "Seed (empty: a new one)", initial: "", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 },
];
const TARGETS = ["Both", "A", "B"];

export function Composer({ app }) {
  const [settings, setSettings] = useState(Object.fromEntries(FIELDS.map(({ name, initial }) => [name, initial]))),
    [target, setTarget] = useState("Both"),
    form = useRef(null);
  const text = app.draft,
    two = app.futures.length === 2,
    busy = app.working,
    numbers = !two ? [0] : target === "Both" ? [0, 1] : [TARGETS.indexOf(target) - 1];
  // What was typed since the last frame counts too: it is in `app` and in the form, not yet in what this call closes
  // over.
  const send = (options) => {
    if (app.working !== undefined || !form.current.reportValidity()) return;
    if (app.draft !== "" || options !== undefined) void app.go(numbers, { text: app.draft, options });
  };
  const goOn = () => {
    const given = FIELDS.map(({ name }) => [name, form.current.elements[name].value]);
    send(Object.fromEntries(given.filter(([, value]) => value !== "").map(([name, value]) => [name, Number(value)])));
  };
  const upload = async (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file !== undefined) void app.go(numbers, { text: await file.text(), label: `Read from ${file.name}` });
  };
  const pressed = (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    goOn();
  };
  const submitted = (event) => {
    event.preventDefault();
    goOn();
  };
  return html`<form class="panel composer" ref=${form} onSubmit=${submitted} aria-label="Write">
    <label class="hidden" for="write">Text for the model to read</label>
    <textarea
      id="write"
      placeholder="Write or paste a text; the model reads it and goes on."
      value=${text}
      onInput=${(event) => app.write(event.target.value)}
      onKeyDown=${pressed}
    ></textarea>
    ${two && html`<${Targets} target=${target} onChange=${setTarget} />`}
    <div class="row">
      <button class="primary" disabled=${busy !== undefined}>Continue</button>
      <button type="button" onClick=${() => send(undefined)} disabled=${busy !== undefined || text === ""}>
        Only read
      </button>
      <label class="button"
        >Read a file…<input
          class="hidden"
          type="file"
          accept="text/*,.txt,.md"
          onChange=${upload}
          disabled=${busy !== undefined}
      /></label>
      ${busy !== undefined && html`<button type="button" class="push" onClick=${app.stop}>Stop</button>`}
      <span class="muted small" role="status">${busy && { reading: "Reading…", generating: "Writing…" }[busy]}</span>
    </div>
    <${Settings} settings=${settings} onChange=${(name, value) => setSettings({ ...settings, [name]: value })} />
  </form>`;
}

function Targets({ target, onChange }) {
  return html`<fieldset class="choice">
    <legend>Continue</legend>
    ${TARGETS.map(
      (name) =>
        html`<label>
          <input type="radio" name="target" checked=${name === target} onChange=${() => onChange(name)} />${name}
        </label>`,
    )}
  </fieldset>`;
}

function Settings({ settings, onChange }) {
  const opened = (event) => (event.currentTarget.open = true); // so that one sees what is wrong
  return html`<details class="settings" onInvalidCapture=${opened}>
    <summary>Settings</summary>
    <div class="fields">
      ${FIELDS.map(
        ({ name, label, initial, ...limits }) =>
          html`<label>
            ${label}
            <input
              type="number"
              name=${name}
              required=${initial !== ""}
              value=${settings[name]}
              onInput=${(event) => onChange(name, event.target.value)}
              ...${limits}
            />
          </label>`,
      )}
    </div>
  </details>`;
}
