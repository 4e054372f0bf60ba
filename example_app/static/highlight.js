// Just enough colour for the Python on this page.

const TOKENS = new RegExp(
  [
    String.raw`(?<comment>#.*)`,
    String.raw`(?<string>[bf]?"[^"\n]*")`,
    String.raw`(?<decorator>(?<=^\s*)@[\w.]+)`,
    String.raw`(?<keyword>\b(?:async|await|class|def|return|yield|for|in|if|else|is|not|try|except|finally|with|as|None|True|False)\b)`,
    String.raw`(?<number>\b\d[\d_.]*\b)`,
  ].join("|"),
  "gm",
);

/** Return the nodes that show a piece of code. */
export function highlighted(code) {
  const nodes = [];
  let done = 0;
  for (const match of code.matchAll(TOKENS)) {
    const [kind] = Object.entries(match.groups).find(([, text]) => text !== undefined);
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = match[0];
    nodes.push(code.slice(done, match.index), span);
    done = match.index + match[0].length;
  }
  return [...nodes, code.slice(done)];
}
