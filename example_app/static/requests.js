// Sends one request and shows its answer while it comes: status, headers, body, times.

const SHOWN = 6000; // characters of a body that are put on the page
const COMMON = ["date", "server"]; // headers that say nothing about a recipe

const ms = (since) => {
  const passed = performance.now() - since;
  return passed < 1000 ? `${Math.round(passed)} ms` : `${(passed / 1000).toFixed(2)} s`;
};

class Answer {
  constructor(element) {
    this.element = element;
    this.text = "";
    this.begun = performance.now();
    for (const part of element.querySelectorAll(".figures > *, .headers, .body, .verdict")) part.hidden = true;
    element.dataset.state = "running";
  }

  show(part, text) {
    const element = this.element.querySelector(`.${part}`);
    element.hidden = false;
    element.textContent = text;
    return element;
  }

  status(response) {
    this.headed = true;
    this.show("status", `${response.status}`).dataset.kind = `${Math.floor(response.status / 100)}xx`;
    const told = [...response.headers].filter(([name]) => !COMMON.includes(name));
    this.show("headers", told.map(([name, value]) => `${name}: ${value}`).join("\n"));
  }

  add(text, bytes) {
    if (!this.bytes) {
      this.bytes = 0;
      this.show("first", `first byte ${ms(this.begun)}`);
    }
    this.bytes += bytes;
    this.show("size", `${this.bytes.toLocaleString("en")} bytes`);
    if (this.text.length < SHOWN) {
      this.text += text;
      const cut = this.text.length > SHOWN;
      const body = this.show("body", cut ? `${this.text.slice(0, SHOWN)}\n…` : this.text);
      if (!cut) body.scrollTop = body.scrollHeight;
    }
  }

  end(good, verdict) {
    this.show("total", `total ${ms(this.begun)}`);
    if (verdict) this.show("verdict", verdict);
    this.element.dataset.state = good ? "ok" : "error";
    return good;
  }
}

/** Run one step; return whether it came to what was expected. */
export async function run(step, element, signal) {
  const answer = new Answer(element);
  try {
    if (step.method === "WS") return await overWebSocket(step, answer, signal);
    return await overHttp(step, answer, signal);
  } catch (error) {
    if (signal.aborted) return answer.end(false, "stopped by you");
    // Where little had come before the break, browsers may report it before they give any of that.
    if (step.expected === null && answer.headed) return answer.end(true, "broken off, as expected");
    return answer.end(false, `failed: ${error.message}`);
  }
}

async function overHttp(step, answer, signal) {
  const body = step.upload ? randomBytes(step.upload) : undefined;
  const hash = body && hexOf(body);
  // Without credentials each request is another caller's: the browser neither sends nor keeps cookies.
  const options = { method: step.method, body, signal, cache: "no-store", credentials: "omit" };
  const response = await fetch(step.path, options);
  answer.status(response);
  await readBody(response, answer);
  if (response.headers.get("content-type")?.startsWith("application/json")) indent(answer);
  if (step.expected === null) return answer.end(false, "ended cleanly; it should have broken off");
  if (response.status !== step.expected) return answer.end(false, `expected ${step.expected}`);
  if (hash && !answer.text.includes((await hash) ?? "")) return answer.end(false, "the hash differs from what was sent");
  return answer.end(true, hash && "size and hash are those of what was sent");
}

async function readBody(response, answer) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    answer.add(decoder.decode(piece.value, { stream: true }), piece.value.length);
  }
}

function overWebSocket(step, answer, signal) {
  const asked = answer.element.querySelector("input").value;
  const url = new URL(step.path, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  const come = new Promise((resolve, reject) => {
    socket.onopen = () => socket.send(asked);
    socket.onmessage = (event) => resolve(event.data);
    socket.onerror = () => reject(new Error("the WebSocket failed"));
    socket.onclose = () => reject(new Error("the WebSocket was closed"));
    signal.addEventListener("abort", () => reject(new Error("stopped")));
  });
  return come
    .then((text) => {
      answer.add(text, text.length);
      indent(answer);
      const error = errorIn(text);
      return answer.end(!error, error);
    })
    .finally(() => socket.close());
}

function errorIn(text) {
  try {
    return JSON.parse(text).error;
  } catch {
    return null; // it is no JSON, and need not be
  }
}

function indent(answer) {
  try {
    answer.show("body", JSON.stringify(JSON.parse(answer.text), null, 2)).scrollTop = 0;
  } catch {
    // Shown as it came.
  }
}

function randomBytes(count) {
  const bytes = new Uint8Array(count);
  for (let start = 0; start < count; start += 65536) crypto.getRandomValues(bytes.subarray(start, start + 65536));
  return bytes;
}

async function hexOf(bytes) {
  if (!crypto.subtle) return null; // only there on localhost and over https
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
