// Runs the checks one after another, and shows what was found, for people and as text for programs.

import { CHECKS } from "./checks.js";

const LIMIT = 15_000; // milliseconds for one check

const again = document.getElementById("again");
const summary = document.getElementById("summary");

function makeCards() {
  const template = document.getElementById("check").content.firstElementChild;
  const cards = CHECKS.map(({ title, text }) => {
    const card = template.cloneNode(true);
    card.querySelector("h2").textContent = title;
    card.querySelector("p").textContent = text;
    return card;
  });
  document.getElementById("checks").replaceChildren(...cards);
  return cards;
}

async function inTime(promise) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error("took too long")), LIMIT)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function run(check) {
  try {
    const found = await inTime(check.run());
    return { ok: JSON.stringify(found) === JSON.stringify(check.expected), found };
  } catch (error) {
    return { ok: false, found: { error: `${error.name}: ${error.message}` } };
  }
}

async function runAll() {
  again.disabled = true;
  summary.dataset.state = "running";
  const cards = makeCards();
  const results = {};
  for (const [index, check] of CHECKS.entries()) {
    summary.textContent = `${index} of ${CHECKS.length} done`;
    cards[index].dataset.state = "running";
    const { ok, found } = (results[check.name] = await run(check));
    cards[index].dataset.state = ok ? "ok" : "error";
    const lines = Object.entries(found).map(([key, value]) => `${key}: ${value}`);
    cards[index].querySelector("pre").textContent = lines.join("\n");
  }
  const bad = Object.values(results).filter(({ ok }) => !ok).length;
  document.getElementById("results").textContent = JSON.stringify(results, null, 2);
  summary.textContent = bad ? `${bad} of ${CHECKS.length} not as expected` : `all ${CHECKS.length} as expected`;
  summary.dataset.state = bad ? "error" : "ok";
  again.disabled = false;
}

again.addEventListener("click", runAll);
runAll();
