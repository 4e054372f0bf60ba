// The front page: makes a card of each recipe, runs its requests and shows the answers as they stream.

import example from "/recipes.js";
import { highlighted } from "./highlight.js";
import { run } from "./requests.js";

const { upstream, embedded, recipes } = example;

const AT_ONCE = 3; // of six connections that a browser opens to one host

const fromTemplate = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

const LABELS = { idle: "idle", running: "running", ok: "as expected", error: "not as expected" };

function makeStep(step) {
  const element = fromTemplate("step");
  element.querySelector("b").textContent = step.method;
  element.querySelector("code").textContent = step.path;
  if (step.asks !== null) {
    const input = document.createElement("input");
    input.value = step.asks;
    input.spellcheck = false;
    input.setAttribute("aria-label", "text to send");
    element.querySelector(".request").append(input);
  }
  return element;
}

function makeLink({ text, path }) {
  return Object.assign(document.createElement("a"), { textContent: text, href: path, target: "_blank" });
}

class Card {
  constructor(recipe) {
    this.recipe = recipe;
    this.element = fromTemplate("card");
    this.element.id = recipe.id;
    this.button = this.element.querySelector(".run");
    this.steps = recipe.steps.map((step) => [step, makeStep(step)]);
    this.element.querySelector("h3").textContent = recipe.title;
    this.element.querySelector(".text").textContent = recipe.text;
    this.element.querySelector(".code code").replaceChildren(...highlighted(recipe.code));
    this.element.querySelector(".steps").append(...this.steps.map(([, element]) => element));
    if (embedded && recipe.links.length) {
      const links = this.element.querySelector(".links");
      links.append(...recipe.links.map(makeLink));
      links.hidden = false;
    }
    this.button.addEventListener("click", () => (this.stopper ? this.stopper.abort() : this.run()));
    for (const input of this.element.querySelectorAll("input")) {
      input.addEventListener("keydown", (event) => event.key === "Enter" && !this.stopper && this.run());
    }
  }

  set state(state) {
    this.element.dataset.state = state;
    this.element.querySelector(".state").textContent = LABELS[state];
  }

  get state() {
    return this.element.dataset.state;
  }

  async run() {
    if (this.stopper) return;
    const stopper = (this.stopper = new AbortController());
    this.button.textContent = "Stop";
    this.state = "running";
    let good = true;
    for (const [step, element] of this.steps) {
      if (!stopper.signal.aborted) good = (await run(step, element, stopper.signal)) && good;
    }
    this.state = stopper.signal.aborted ? "idle" : good ? "ok" : "error";
    this.button.textContent = "Run";
    this.stopper = null;
  }
}

async function runAll(cards, button, summary) {
  button.disabled = true;
  summary.dataset.state = "running";
  const waiting = [...cards];
  const tell = () => {
    const done = cards.filter((card) => card.state === "ok" || card.state === "error").length;
    summary.textContent = `${done} of ${cards.length} done`;
  };
  for (const card of cards) if (!card.stopper) card.state = "idle";
  tell();
  const worker = async () => {
    for (let card = waiting.shift(); card; card = waiting.shift()) {
      await card.run();
      tell();
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  const bad = cards.filter((card) => card.state !== "ok").length;
  summary.dataset.state = bad ? "error" : "ok";
  summary.textContent = bad ? `${bad} of ${cards.length} not as expected` : `all ${cards.length} as expected`;
  button.disabled = false;
}

function arrange(cards) {
  const themes = new Map();
  for (const card of cards) {
    const { theme } = card.recipe;
    if (!themes.has(theme)) {
      const section = document.createElement("section");
      const heading = document.createElement("h2");
      heading.textContent = theme;
      section.append(heading);
      themes.set(theme, section);
    }
    themes.get(theme).append(card.element);
  }
  document.getElementById("themes").replaceChildren(...themes.values());
}

const cards = recipes.map((recipe) => new Card(recipe));
arrange(cards);
document.getElementById("upstream").textContent = embedded
  ? `Requests go to the embedded upstream at ${upstream}, so no network is needed. EXAMPLE_UPSTREAM_URL points them at a real site.`
  : `Requests go to ${upstream}. It has its own pages only, so recipes that need the embedded upstream's will differ.`;
for (const link of document.querySelectorAll(".embedded")) link.hidden = !embedded;
const button = document.getElementById("run-all");
button.addEventListener("click", () => runAll(cards, button, document.getElementById("summary")));
button.disabled = false;
