/** What tests ask inside a page of ours; test/support/browser.ts sends it there as it is. */

const known = new Map();

function rgb(colour) {
  if (!known.has(colour)) known.set(colour, painting(colour));
  return known.get(colour);
}

function painting(colour) {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  paint.fillStyle = colour;
  paint.fillRect(0, 0, 1, 1);
  return [...paint.getImageData(0, 0, 1, 1).data];
}

function luminance(colour) {
  const [r, g, b] = colour.map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(a, b) {
  const [one, other] = [luminance(a), luminance(b)];
  return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
}

function behind(element) {
  for (let at = element; at !== null; at = at.parentElement) {
    const colour = rgb(getComputedStyle(at).backgroundColor);
    if (colour[3] === 255) return colour.slice(0, 3);
  }
  return [255, 255, 255];
}

/** Texts of a contrast below 4.5:1 with what is behind them, but for disabled controls and hidden texts. */
function weakContrast() {
  const weak = [],
    walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node !== null; node = walker.nextNode()) {
    const element = node.parentElement,
      text = node.textContent.trim();
    if (text === "" || !element.checkVisibility() || element.closest("button:disabled, .hidden, noscript")) continue;
    if (element.querySelector(":scope > input:disabled")) continue;
    const ratio = contrast(rgb(getComputedStyle(element).color).slice(0, 3), behind(element));
    if (ratio < 4.5) weak.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return weak;
}

/** How many pixels of the grid have the colour that a variable of the style sheet names. */
function painted(variable) {
  const [r, g, b] = rgb(getComputedStyle(document.body).getPropertyValue(variable)),
    canvas = document.querySelector(".grid canvas");
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let i = 0; i < data.length; i += 4) if (data[i] === r && data[i + 1] === g && data[i + 2] === b) count++;
  return count;
}

/** What has the focus, as `tag.class text`, and whether one sees that it has. */
function focused() {
  const element = document.activeElement,
    { outlineStyle, outlineWidth } = getComputedStyle(element.closest("label.button") ?? element);
  return {
    name: `${element.tagName.toLowerCase()}.${element.className} ${element.textContent.slice(0, 12)}`,
    seen: parseFloat(outlineWidth) >= 2 && outlineStyle !== "none",
  };
}

/** What the content-security policy makes of a picture from elsewhere, and of markup in a string. */
async function trespass() {
  const violated = new Promise((resolve) =>
    document.addEventListener("securitypolicyviolation", (event) => resolve(event.violatedDirective), { once: true }),
  );
  document.body.append(Object.assign(document.createElement("img"), { src: "https://example.org/a.png" }));
  const directive = await violated;
  let markup = "taken";
  try {
    document.body.insertAdjacentHTML("beforeend", "<b>x</b>");
  } catch {
    markup = "refused";
  }
  return { directive, markup, hit: window.hit ?? null };
}
