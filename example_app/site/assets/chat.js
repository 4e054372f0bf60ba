// The chat: says what is typed, shows what is heard, and comes back when the connection is lost, but not when it is
// refused.

const LONGEST_NAME = 40; // characters of a name or a room, as the server counts them
const LONGEST_WAIT = 10_000; // milliseconds until it tries again
const SHOWN = 500; // messages on the page

const said = document.getElementById("said");
const state = document.getElementById("state");
const form = document.getElementById("say");
const again = document.getElementById("again");
const [input, button] = form.querySelectorAll("input, button");

const asked = new URLSearchParams(location.search);
const cut = (text) => [...(text ?? "")].slice(0, LONGEST_NAME).join("");
const room = cut(asked.get("room")) || "lobby";
const name = cut(asked.get("name")) || `Guest ${Math.floor(100 + 900 * Math.random())}`;
let me; // the name as the server gave it: with a number, if somebody else has it
let wait = 250;
let socket;

function add(kind, who, text) {
  const item = document.createElement("li");
  item.className = kind;
  if (who) {
    const bold = document.createElement("b");
    bold.textContent = who;
    item.append(bold, ": ");
  }
  item.append(text);
  said.append(item);
  while (said.children.length > SHOWN) said.firstElementChild.remove();
  said.scrollTop = said.scrollHeight;
}

function show(kind, text) {
  state.dataset.state = kind;
  state.textContent = text;
  input.disabled = button.disabled = kind !== "ok";
}

const HEARD = {
  welcome: (message) => {
    me = message.name;
    wait = 250;
    document.getElementById("me").textContent = me;
    said.replaceChildren();
  },
  came: (message) => add("event", null, message.name === me ? "You are in the room." : `${message.name} came in.`),
  left: (message) => add("event", null, `${message.name} left.`),
  said: (message) => add(message.name === me ? "mine" : "theirs", message.name, message.text),
};

function hear(event) {
  const message = JSON.parse(event.data);
  HEARD[message.kind]?.(message);
  if (message.people) show("ok", message.people === 1 ? "connected, alone" : `connected, ${message.people} in the room`);
}

/** Return why a WebSocket was refused, or null if it was lost. The browser says 1006 of both, so ask by HTTP. */
async function refusal(url) {
  try {
    const { ok, status } = await fetch(url.href.replace("ws", "http"), { cache: "no-store" });
    if (status === 503) return "all places are taken";
    return ok || status > 499 ? null : `the server refuses (${status})`;
  } catch {
    return null; // nobody is there
  }
}

async function end({ code, reason }, url, welcome) {
  const refused = !welcome && (code === 1006 ? await refusal(url) : reason || `code ${code}`);
  if (refused) {
    show("error", `not connected: ${refused}`);
    again.hidden = false;
    return;
  }
  show("error", `connection lost (${code}${reason && `, ${reason}`}), trying again`);
  setTimeout(connect, wait);
  wait = Math.min(2 * wait, LONGEST_WAIT);
}

function connect() {
  show("running", "connecting");
  again.hidden = true;
  me = null;
  const url = new URL(`chat/room?${new URLSearchParams({ name, room })}`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  document.getElementById("address").textContent = url;
  socket = new WebSocket(url);
  socket.onmessage = hear;
  socket.onclose = (event) => end(event, url, me !== null);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!input.value.trim()) return;
  socket.send(input.value);
  input.value = "";
});

again.addEventListener("click", connect);

// Who goes to another page leaves. If the browser shows this one again, the timer connects it.
addEventListener("pagehide", () => socket.close());

connect();
