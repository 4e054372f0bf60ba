// What the front page checks. Each check returns what it found, which should be what it expects.
// All URLs are relative to the page, so that it does not matter where the site is.

const SIZE = 8_000_000; // bytes of the tide table
const LINE = 32; // bytes of a line, which is its number

const here = (path) => new URL(path, document.baseURI);
const socketAt = (path) => Object.assign(here(path), { protocol: location.protocol.replace("http", "ws") });
const withinSite = (url) => {
  const site = here("./").href;
  return url.startsWith(site) ? url.slice(site.length) : `${url}, which is elsewhere`;
};
const newKey = () => Math.random().toString(36).slice(2);
const ask = async (path, options) => fetch(here(path), { cache: "no-store", ...options });
const askAndRead = async (path, options) => {
  const response = await ask(path, options);
  await response.arrayBuffer();
  return response;
};
const seen = async (key) => (await (await ask(`seen?key=${encodeURIComponent(key)}`)).json()).seen;

async function digestOf(data) {
  if (!crypto.subtle) return "unknown: the page is neither on localhost nor on https";
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return the tide table as it should be. */
function tideTable() {
  const bytes = new Uint8Array(SIZE).fill(48);
  for (let line = 0; line * LINE < SIZE; line++) {
    let place = line * LINE + LINE - 1;
    bytes[place--] = 10;
    for (let rest = line; rest > 0; rest = Math.floor(rest / 10)) bytes[place--] = 48 + (rest % 10);
  }
  return bytes;
}

function someBytes(count) {
  const bytes = new Uint8Array(count);
  for (let place = 0; place < count; place++) bytes[place] = (place * 31 + (place >> 8)) & 255;
  return bytes;
}

const event = (target, name) => new Promise((resolve) => target.addEventListener(name, resolve, { once: true }));

async function style() {
  const { documentElement } = document;
  return { site: getComputedStyle(documentElement).getPropertyValue("--site").trim(), sheets: document.styleSheets.length };
}

async function font() {
  const [face] = await document.fonts.load("80px Beacon");
  const context = document.createElement("canvas").getContext("2d");
  context.font = "80px Beacon";
  return { status: face?.status, "width of five letters": Math.round(context.measureText("LIGHT").width) };
}

async function pictures() {
  const [svg, png] = [document.getElementById("lighthouse"), document.getElementById("sea")];
  await Promise.all([svg.decode(), png.decode()]);
  const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 180 });
  const context = canvas.getContext("2d");
  context.drawImage(png, 0, 0);
  const { data } = context.getImageData(230, 84, 1, 1);
  const size = (image) => `${image.naturalWidth} × ${image.naturalHeight}`;
  return { svg: size(svg), png: size(png), "colour of the sun": [...data.slice(0, 3)].join(" ") };
}

async function compressed() {
  const response = await ask("story");
  const text = await response.text();
  return { encoding: response.headers.get("content-encoding"), lines: text.split("\n").length - 1 };
}

async function unchanged() {
  const first = await fetch(here("assets/lighthouse.svg"), { cache: "reload" });
  const text = await first.text();
  const again = await fetch(here("assets/lighthouse.svg"), { cache: "no-cache" });
  const same = (await again.text()) === text;
  const byHand = await ask("assets/lighthouse.svg", { headers: { "if-none-match": first.headers.get("etag") } });
  const left = (await byHand.text()).length;
  return { "the browser's cache": `${again.status}, ${same ? "the same" : "another"}`, "asked by hand": `${byHand.status}, ${left} bytes` };
}

async function redirects() {
  const response = await ask("moved", { method: "POST", body: "a parcel" });
  const { query, content } = await response.json();
  return { "ends at": withinSite(response.url), redirected: response.redirected, query, content };
}

async function cookies() {
  const look = async (path) => (await (await ask(path)).json()).join(" ");
  await askAndRead("jar", { method: "POST" });
  const script = document.cookie.split("; ").filter((cookie) => /^(crumb|hidden|deep)=/.test(cookie));
  const found = { "a script sees": script.join(" "), "the server gets": await look("jar"), deeper: await look("jar/deep") };
  await askAndRead("jar", { method: "DELETE" });
  return { ...found, afterwards: (await look("jar")) + (await look("jar/deep")) };
}

async function login() {
  const visit = async () => withinSite((await askAndRead("members")).url);
  await askAndRead("logout", { method: "POST" });
  const stranger = await visit();
  const response = await ask("login", { method: "POST", body: new URLSearchParams({ name: "Ada & Grace" }) });
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const found = {
    "a stranger is sent to": stranger,
    "signing in leads to": withinSite(response.url),
    welcome: page.getElementById("member")?.textContent,
    "a script sees the session": document.cookie.includes("session="),
    "a member gets": await visit(),
  };
  const out = await askAndRead("logout", { method: "POST" });
  return { ...found, "signing out leads to": withinSite(out.url) || "the front page", "and then": await visit() };
}

async function download() {
  const expected = tideTable();
  const digest = await digestOf(expected);
  const head = await ask("tide-table.txt", { method: "HEAD" });
  const whole = await (await ask("tide-table.txt")).arrayBuffer();
  const tail = await ask("tide-table.txt", { headers: { range: "bytes=-32" } });
  return {
    "size in advance": Number(head.headers.get("content-length")),
    "size in fact": whole.byteLength,
    "as it should be": (await digestOf(whole)) === digest,
    "last line": `${tail.status}, ${Number(await tail.text())}`,
  };
}

/** Read the beginning, leave, and fetch the rest, as a download manager does. */
async function resumed() {
  const stopper = new AbortController();
  const broken = await ask("tide-table.txt", { signal: stopper.signal });
  const etag = broken.headers.get("etag");
  const { value: beginning } = await broken.body.getReader().read();
  stopper.abort();
  const headers = { range: `bytes=${beginning.length}-`, "if-range": etag };
  const rest = await ask("tide-table.txt", { headers });
  const both = await new Blob([beginning, await rest.arrayBuffer()]).arrayBuffer();
  const stale = await ask("tide-table.txt", { method: "HEAD", headers: { range: "bytes=5-", "if-range": '"older"' } });
  return {
    "the rest": `${rest.status}, ${rest.headers.get("content-range") === `bytes ${beginning.length}-${SIZE - 1}/${SIZE}`}`,
    "put together": (await digestOf(both)) === (await digestOf(tideTable())),
    "of a changed file": stale.status,
  };
}

async function upload() {
  const bytes = someBytes(6_000_000);
  const request = new XMLHttpRequest();
  const progress = [];
  request.upload.onprogress = ({ loaded }) => progress.push(loaded);
  request.open("POST", here("upload"));
  request.responseType = "json";
  request.send(new File([bytes], "log.bin"));
  await event(request, "loadend");
  const rising = progress.every((loaded, index) => index === 0 || loaded >= progress[index - 1]);
  return {
    status: request.status,
    bytes: request.response?.bytes,
    "as it was sent": request.response?.sha256 === (await digestOf(bytes)),
    "progress seen": progress.length > 0 && rising,
    "progress at the end": progress.at(-1),
  };
}

/** Hear all events of a stream that ends again and again: the browser comes back with the last id. */
async function tides() {
  const source = new EventSource(here("tides"));
  const heard = [];
  let opened = 0;
  source.addEventListener("open", () => (opened += 1));
  await new Promise((resolve) =>
    source.addEventListener("tide", ({ lastEventId, data }) => heard.push([lastEventId, data]) === 6 && resolve()),
  );
  source.close();
  return { ids: heard.map(([id]) => id).join(" "), "last one": heard.at(-1)[1].replace("\n", ", "), connections: opened };
}

/** Ring when the first event has come. If anything on the way waited for more, there never were more. */
async function bell() {
  const key = newKey();
  const source = new EventSource(here(`bell?key=${key}`));
  const ready = await event(source, "ready");
  const ring = await ask(`bell?key=${key}`, { method: "POST" });
  const rung = await event(source, "rung");
  source.close();
  return { first: ready.data, "the ring": ring.status, then: rung.data };
}

async function hang() {
  const key = newKey();
  const stopper = new AbortController();
  const answer = ask(`hang?key=${key}`, { signal: stopper.signal }).then(({ status }) => status, ({ name }) => name);
  const waits = await seen(`${key} waits`);
  stopper.abort();
  return { "the server was asked": waits, "the page got": await answer, "the server noticed": await seen(`${key} left`) };
}

/** Await messages one after another. */
function inbox(socket) {
  const waiting = [];
  const come = [];
  socket.addEventListener("message", ({ data }) => (waiting.length ? waiting.shift()(data) : come.push(data)));
  return () => new Promise((resolve) => (come.length ? resolve(come.shift()) : waiting.push(resolve)));
}

const opened = (socket) =>
  new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onclose = ({ code }) => reject(new Error(`closed with ${code}`));
  });

async function socket() {
  await askAndRead("login", { method: "POST", body: new URLSearchParams({ name: "Ada" }) });
  const socket = new WebSocket(socketAt(`socket?key=${newKey()}`), ["lighthouse.v1", "lighthouse.v2"]);
  socket.binaryType = "arraybuffer";
  const next = inbox(socket);
  await opened(socket);
  const found = { subprotocol: socket.protocol, "cookie set": document.cookie.includes("berth=7") };
  found.greeting = JSON.parse(await next()).hello;
  for (const text of ["", "Ahoy, Grüße, 潮 🌊"]) socket.send(text);
  found["text comes back"] = (await next()) === "" && (await next()) === "Ahoy, Grüße, 潮 🌊";
  const bytes = someBytes(1_500_000);
  socket.send(bytes);
  found["1.5 MB in binary"] = (await digestOf(await next())) === (await digestOf(bytes));
  socket.send("x".repeat(600_000));
  found["600 kB of text"] = (await next()).length;
  const closed = event(socket, "close");
  socket.send("close");
  const { code, reason, wasClean } = await closed;
  await askAndRead("logout", { method: "POST" });
  return { ...found, "closed by the server": `${code} ${reason}`, cleanly: wasClean };
}

async function farewell() {
  const found = {};
  for (const [name, ...how] of [["with code and reason", 3001, "bye"], ["without"]]) {
    const key = newKey();
    const socket = new WebSocket(socketAt(`socket?key=${key}`));
    await event(socket, "message");
    const closed = event(socket, "close");
    socket.close(...how);
    const { code, wasClean } = await closed;
    found[name] = `the page: ${code}, ${wasClean ? "clean" : "lost"}; the server: ${(await seen(`${key} ended`))?.trim()}`;
  }
  return found;
}

async function refused() {
  const socket = new WebSocket(socketAt("socket/closed"));
  const { code, wasClean } = await event(socket, "close");
  return { code, clean: wasClean };
}

async function chat() {
  const name = `Checker ${newKey()}`;
  const socket = new WebSocket(socketAt(`chat/room?room=${newKey()}&name=${encodeURIComponent(name)}`));
  const next = inbox(socket);
  await opened(socket);
  const welcome = JSON.parse(await next());
  socket.send("Is anybody there?");
  let message = welcome;
  while (message.kind !== "said" || message.name !== name) message = JSON.parse(await next());
  socket.close();
  return { welcome: welcome.name === name, heard: message.text };
}

export const CHECKS = [
  {
    name: "style",
    title: "Style",
    text: "The style sheet came.",
    run: style,
    expected: { site: "lighthouse", sheets: 1 },
  },
  {
    name: "font",
    title: "A font",
    text: "The letters of the headline are as wide as they were built.",
    run: font,
    expected: { status: "loaded", "width of five letters": 300 },
  },
  {
    name: "pictures",
    title: "Pictures",
    text: "One is drawn, one is computed.",
    run: pictures,
    expected: { svg: "160 × 240", png: "320 × 180", "colour of the sun": "255 214 130" },
  },
  {
    name: "compressed",
    title: "Compressed text",
    text: "The server compresses, the browser unpacks, nobody else.",
    run: compressed,
    expected: { encoding: "gzip", lines: 500 },
  },
  {
    name: "unchanged",
    title: "Nothing new",
    text: "What has not changed is not sent again.",
    run: unchanged,
    expected: { "the browser's cache": "200, the same", "asked by hand": "304, 0 bytes" },
  },
  {
    name: "redirects",
    title: "A redirect",
    text: "A POST that is sent on with its body.",
    run: redirects,
    expected: { "ends at": "parcel?from=moved", redirected: true, query: "from=moved", content: "a parcel" },
  },
  {
    name: "cookies",
    title: "Cookies",
    text: "For all, for the server alone, for a deeper path; and gone again.",
    run: cookies,
    expected: {
      "a script sees": "crumb=plain",
      "the server gets": "crumb=plain hidden=secret",
      deeper: "crumb=plain deep=down hidden=secret",
      afterwards: "",
    },
  },
  {
    name: "login",
    title: "Signing in and out",
    text: "Redirects by a path, a whole URL and a relative one; the page behind needs the cookie.",
    run: login,
    expected: {
      "a stranger is sent to": "login",
      "signing in leads to": "members",
      welcome: "Ada & Grace",
      "a script sees the session": false,
      "a member gets": "members",
      "signing out leads to": "the front page",
      "and then": "login",
    },
  },
  {
    name: "download",
    title: "A large download",
    text: "8 MB, of which each byte is known.",
    run: download,
    expected: { "size in advance": SIZE, "size in fact": SIZE, "as it should be": true, "last line": "206, 249999" },
  },
  {
    name: "resumed",
    title: "A download that goes on",
    text: "Broken off at the first piece; the rest is fetched later.",
    run: resumed,
    expected: { "the rest": "206, true", "put together": true, "of a changed file": 200 },
  },
  {
    name: "upload",
    title: "A file is sent",
    text: "6 MB, with progress; the server tells the hash of what arrived.",
    run: upload,
    expected: {
      status: 200,
      bytes: 6_000_000,
      "as it was sent": true,
      "progress seen": true,
      "progress at the end": 6_000_000,
    },
  },
  {
    name: "tides",
    title: "Server-sent events",
    text: "The stream ends after three; the browser comes back and says which it had last.",
    run: tides,
    expected: { ids: "1 2 3 4 5 6", "last one": "low tide, number 6", connections: 2 },
  },
  {
    name: "bell",
    title: "Events at once",
    text: "The second event is only sent when the first has come.",
    run: bell,
    expected: { first: "the bell can be rung", "the ring": 204, then: "ding-dong" },
  },
  {
    name: "hang",
    title: "A service that hangs",
    text: "The page gives up, and the server notices.",
    run: hang,
    expected: { "the server was asked": "yes", "the page got": "AbortError", "the server noticed": "yes" },
  },
  {
    name: "socket",
    title: "A WebSocket",
    text: "Subprotocol, cookies both ways, text, binary, large messages, and the server's last word.",
    run: socket,
    expected: {
      subprotocol: "lighthouse.v2",
      "cookie set": true,
      greeting: "Ada",
      "text comes back": true,
      "1.5 MB in binary": true,
      "600 kB of text": 600_000,
      "closed by the server": "4001 good night",
      cleanly: true,
    },
  },
  {
    name: "farewell",
    title: "The page closes a WebSocket",
    text: "The server hears how; 1005 says that no code was sent.",
    run: farewell,
    expected: {
      "with code and reason": "the page: 3001, clean; the server: 3001 bye",
      without: "the page: 1005, clean; the server: 1005",
    },
  },
  {
    name: "refused",
    title: "A WebSocket that is refused",
    text: "The browser only learns that it failed.",
    run: refused,
    expected: { code: 1006, clean: false },
  },
  {
    name: "chat",
    title: "The chat",
    text: "Who says something hears it, too.",
    run: chat,
    expected: { welcome: true, heard: "Is anybody there?" },
  },
];
