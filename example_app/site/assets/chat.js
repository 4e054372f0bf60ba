// The chat: says what is typed, shows what is heard, and comes back when the connection is lost.

const LONGEST_WAIT = 10_000; // milliseconds until it tries again
const SHOWN = 500; // messages on the page

const said = document.getElementById("said");
const state = document.getElementById("state");
const form = document.getElementById("say");
const [input, button] = form.querySelectorAll("input, button");

const asked = new URLSearchParams(location.search);
const room = asked.get("room") ?? "lobby";
let name = asked.get("name") ?? `Guest ${Math.floor(100 + 900 * Math.random())}`;
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
    name = message.name;
    document.getElementById("me").textContent = name;
    said.replaceChildren();
  },
  came: (message) => add("event", null, message.name === name ? "You are in the room." : `${message.name} came in.`),
  left: (message) => add("event", null, `${message.name} left.`),
  said: (message) => add(message.name === name ? "mine" : "theirs", message.name, message.text),
};

function hear(event) {
  const message = JSON.parse(event.data);
  HEARD[message.kind]?.(message);
  if (message.people) show("ok", message.people === 1 ? "connected, alone" : `connected, ${message.people} in the room`);
}

function connect() {
  show("running", "connecting");
  const url = new URL(`chat/room?${new URLSearchParams({ name, room })}`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  document.getElementById("address").textContent = url;
  socket = new WebSocket(url);
  socket.onopen = () => (wait = 250);
  socket.onmessage = hear;
  socket.onclose = (event) => {
    show("error", `connection lost (${event.code}${event.reason && `, ${event.reason}`})`);
    setTimeout(connect, wait);
    wait = Math.min(2 * wait, LONGEST_WAIT);
  };
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!input.value.trim()) return;
  socket.send(input.value);
  input.value = "";
});

// Who goes to another page leaves. If the browser shows this one again, the timer connects it.
addEventListener("pagehide", () => socket.close());

connect();
